// Command load uses as much CPU and memory as it is told, for real: what sizes containers is shown something to measure.
//
//	load --cpu 200 --memory 64            burns 200 millicores and holds 64 MiB until it is stopped
//	load set cpu=50 memory=128            tells the one that runs in the same container
//	load limits                           says what the container's cgroup gives it: cpu=MILLICORES memory=BYTES
//	load silent :8000                     takes connections and says nothing, as a server does that hangs
//	load late :8000 web.shop.svc:80 500ms  passes connections on, and each answer of that server so much later than it came
//
// Memory is held outside of the heap, and every page of it is written to, so that the kernel counts it, and kills for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// address is where one that runs takes commands: the container's own loopback.
const address = "127.0.0.1:8077"

// slice is the time within which the share of CPU is kept.
const slice = 20 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "set":
		return tell(ctx, args[1:])
	case len(args) == 1 && args[0] == "limits":
		return limits()
	case len(args) == 2 && args[0] == "silent":
		return silent(ctx, args[1])
	case len(args) == 4 && args[0] == "late":
		by, err := time.ParseDuration(args[3])
		if err != nil {
			return fmt.Errorf("read the arguments: %w", err)
		}
		return late(ctx, args[1], args[2], by)
	}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	cpu, memory := flags.Int64("cpu", 0, "millicores to burn"), flags.Int("memory", 0, "MiB to hold")
	after := flags.Duration("after", 0, "how long memory is held later")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("read the arguments: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("take commands: %w", err)
	}
	l := &load{}
	for range 8 { // no container of the lab needs more at once
		go l.burn(ctx)
	}
	fmt.Printf("burning %d millicores, holding %d MiB\n", *cpu, *memory)
	l.cpu.Store(*cpu)
	time.Sleep(*after)
	if err := l.hold(*memory); err != nil {
		return err
	}
	server := &http.Server{Handler: l, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("take commands: %w", err)
	}
	return nil
}

type load struct {
	cpu   atomic.Int64
	turns atomic.Int64
	mu    sync.Mutex
	held  []byte
}

// burn takes its eighth of the CPU in each slice.
func (l *load) burn(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		busy := time.Duration(l.cpu.Load()) * slice / 1000 / 8
		for time.Since(began) < busy {
			l.turns.Add(1)
		}
		time.Sleep(slice - min(slice, time.Since(began)))
	}
}

// hold holds so many MiB instead of what it held.
func (l *load) hold(mebibytes int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		if err := syscall.Munmap(l.held); err != nil {
			return fmt.Errorf("let memory go: %w", err)
		}
		l.held = nil
	}
	if mebibytes == 0 {
		return nil
	}
	held, err := syscall.Mmap(-1, 0, mebibytes<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("hold %d MiB: %w", mebibytes, err)
	}
	for at := 0; at < len(held); at += 4096 {
		held[at] = 1
	}
	l.held = held
	return nil
}

// ServeHTTP takes POST /?cpu=MILLICORES&memory=MIB; what is left out stays as it is.
func (l *load) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, values := range r.URL.Query() {
		n, err := strconv.Atoi(values[0])
		if err == nil && n < 0 {
			err = errors.New("below zero")
		}
		if err == nil {
			switch name {
			case "cpu":
				l.cpu.Store(int64(n))
			case "memory":
				err = l.hold(n)
			default:
				err = errors.New("neither cpu nor memory")
			}
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("%s=%s: %v", name, values[0], err), http.StatusBadRequest)
			return
		}
		fmt.Printf("%s=%d\n", name, n)
	}
}

func tell(ctx context.Context, what []string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/?"+strings.Join(what, "&"), nil)
	if err != nil {
		return fmt.Errorf("set %v: %w", what, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("set %v: %w", what, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("set %v: %s: %s: %w", what, response.Status, strings.TrimSpace(string(text)), err)
	}
	return nil
}

// limits prints the request of CPU that the cgroup's weight stands for, and the limit of memory; 0 is none.
func limits() error {
	const top = "/sys/fs/cgroup/"
	read := func(file string) (int64, error) {
		text, err := os.ReadFile(top + file)
		if err != nil {
			return 0, fmt.Errorf("read the cgroup: %w", err)
		}
		if strings.TrimSpace(string(text)) == "max" {
			return 0, nil
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the cgroup: %s: %w", file, err)
		}
		return n, nil
	}
	var shares, memory int64
	weight, err := read("cpu.weight")
	if err == nil {
		shares = 2 + (weight-1)*262142/9999 // as kubelets turn one into the other
		memory, err = read("memory.max")
	} else if shares, err = read("cpu/cpu.shares"); err == nil {
		if memory, err = read("memory/memory.limit_in_bytes"); memory > 1<<60 {
			memory = 0
		}
	}
	if err != nil {
		return err
	}
	fmt.Printf("cpu=%d memory=%d\n", shares*1000/1024, memory)
	return nil
}

// silent never answers.
func silent(ctx context.Context, at string) error {
	return accept(ctx, at, func(net.Conn) {})
}

// late passes connections on to a server, and holds back all that the server says.
func late(ctx context.Context, at, server string, by time.Duration) error {
	return accept(ctx, at, func(conn net.Conn) {
		defer conn.Close()
		behind, err := new(net.Dialer).DialContext(ctx, "tcp", server)
		if err != nil {
			fmt.Println("pass on:", err)
			return
		}
		defer behind.Close()
		go func() {
			_, _ = io.Copy(behind, conn)
			_ = behind.Close() // the client is gone: nobody waits for more
		}()
		for part := make([]byte, 64<<10); ; {
			n, err := behind.Read(part)
			time.Sleep(by)
			if _, gone := conn.Write(part[:n]); err != nil || gone != nil {
				return
			}
		}
	})
}

// accept takes connections until the context ends, and closes them then.
func accept(ctx context.Context, at string, serve func(net.Conn)) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		go serve(conn)
	}
}
