package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// shutdownGrace is how long open requests to the endpoints may take at the end.
const shutdownGrace = 2 * time.Second

// A Task is one long-running part of an agent. It returns when the context ends; an earlier return with an error ends the
// agent.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// Run runs the tasks until the context ends or one of them fails, and waits for all. A panic in a task is an error with its
// stack: the agent ends in good order and says why.
func Run(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, t := range tasks {
		group.Go(func() {
			err := protect(ctx, t)
			if err != nil && !errors.Is(err, context.Canceled) {
				once.Do(func() { first = fmt.Errorf("%s: %w", t.Name, err) })
			}
			if err != nil {
				cancel()
			}
		})
	}
	group.Wait()
	return first
}

func protect(ctx context.Context, t Task) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return t.Run(ctx)
}

// Serve is the task that serves the handler on a listener.
func Serve(l net.Listener, h http.Handler) Task {
	return Task{Name: "endpoints", Run: func(ctx context.Context) error {
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
			MaxHeaderBytes: 8 << 10, BaseContext: func(net.Listener) context.Context { return ctx },
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
			defer cancel()
			_ = s.Shutdown(grace)
		}()
		err := s.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			<-done
			return nil
		}
		return err
	}}
}

// Memory sets how the garbage collector behaves for a process that idles nearly always: a small heap matters, a few more
// collections a minute do not. What GOGC and GOMEMLIMIT say wins.
func Memory(env Getenv, softLimit int64) {
	if env("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	if env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(softLimit)
	}
}

// RegisterProcess adds what is known of the process and the build.
func RegisterProcess(m *Metrics, name, version string, start time.Time) {
	m.GaugeFunc("nops_agent_info", "The agent's build.", func() float64 { return 1 }, "agent", name, "version", version, "go", runtime.Version())
	m.GaugeFunc("process_start_time_seconds", "When the process started.", func() float64 { return float64(start.UnixMilli()) / 1000 })
	m.GaugeFunc("process_resident_memory_bytes", "Resident memory.", func() float64 { return float64(resident()) })
	m.GaugeFunc("go_goroutines", "Goroutines.", func() float64 { return float64(runtime.NumGoroutine()) })
}

// resident reads the resident set from /proc; zero where there is none.
func resident() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// Sleep waits for d, or until the context ends.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
