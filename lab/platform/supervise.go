package platform

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a program that is kept running until it is stopped.
type child struct {
	name    string
	path    string
	args    []string
	logFile string
	// kill ends it at once; otherwise it is asked and given time to finish its writes.
	kill bool
	log  *slog.Logger

	mu   sync.Mutex
	stop context.CancelFunc
	done chan struct{}
	pid  atomic.Int64
}

const (
	stopGrace  = 10 * time.Second
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// start begins to keep the program running; when it runs already, nothing.
func (c *child) start(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		return
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.done = make(chan struct{})
	go c.keep(ctx, c.done)
}

// end stops the program and waits until it is gone.
func (c *child) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil {
		return
	}
	c.stop()
	<-c.done
	c.stop = nil
}

func (c *child) keep(ctx context.Context, done chan struct{}) {
	defer close(done)
	// The parent-death signal follows the thread that started the child, so this goroutine stays on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	wait := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			wait = backoffMin
		}
		c.log.Warn("ended, starting it again", "program", c.name, "after", time.Since(began).Round(time.Millisecond), "in", wait, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, backoffMax)
	}
}

func (c *child) once(ctx context.Context) error {
	out, err := os.OpenFile(c.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()
	if !c.kill {
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	}
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	c.pid.Store(int64(cmd.Process.Pid))
	defer c.pid.Store(0)
	return cmd.Wait() //nolint:wrapcheck // the caller names the program
}
