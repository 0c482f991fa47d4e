package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a program may take to end after it was asked to, before it is killed.
const stopGrace = 10 * time.Second

// serve answers what a running lab is asked for, on a socket that only its owner may use.
func (i *initProcess) serve(ctx context.Context) error {
	path := i.spec.Layout.socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen for commands: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen for commands: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listen for commands: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var a ask
				if err := json.NewDecoder(conn).Decode(&a); err != nil {
					return
				}
				answer := told{}
				if err := i.obey(a); err != nil {
					answer.Error = err.Error()
				}
				i.mu.Lock()
				answer.Running = slices.Clone(i.guests)
				i.mu.Unlock()
				if err := json.NewEncoder(conn).Encode(answer); err != nil {
					i.say("answer a command: %v", err)
				}
			}()
		}
	}()
	return nil
}

func (i *initProcess) obey(a ask) error {
	i.obeying.Lock()
	defer i.obeying.Unlock()
	switch {
	case a.Start != nil:
		i.mu.Lock()
		known := slices.Contains(i.guests, a.Start.Name)
		for _, c := range i.children {
			known = known || c.service && c.process.Name == a.Start.Name
		}
		ready, generation := i.ready, i.generation[a.Start.Name]
		i.mu.Unlock()
		switch {
		case !ready:
			return errors.New("not ready yet")
		case known:
			return fmt.Errorf("%s runs already", a.Start.Name)
		}
		if err := i.start(*a.Start, 0, generation); err != nil {
			return err
		}
		i.mu.Lock()
		i.guests = append(i.guests, a.Start.Name)
		i.mu.Unlock()
	case a.Stop != "":
		return i.stop(a.Stop)
	}
	return nil
}

// stop ends a guest, and sees to it that nothing starts it again.
func (i *initProcess) stop(name string) error {
	i.mu.Lock()
	at := slices.Index(i.guests, name)
	if at < 0 {
		i.mu.Unlock()
		return nil
	}
	i.guests = slices.Delete(i.guests, at, at+1)
	i.generation[name]++
	var ended chan struct{}
	pid := 0
	for p, c := range i.children {
		if c.service && c.process.Name == name {
			pid, ended = p, c.ended
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
	i.mu.Unlock()
	if ended == nil {
		return nil // it was waiting to be started again, and will not be
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopGrace):
	}
	// Nobody but reap has waited for it, which would have closed the channel: the PID is still its own, if only as a zombie's.
	_ = unix.Kill(pid, unix.SIGKILL)
	select {
	case <-ended:
		return nil
	case <-time.After(stopGrace):
		return fmt.Errorf("%s is still there %s after SIGKILL", name, stopGrace)
	}
}
