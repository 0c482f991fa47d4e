package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
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

// A Task is one part of an agent. It returns when the context ends.
type Task struct {
	Name string
	// Finite says that the task may be done before: the others go on without it. One that is not and returns early ends the
	// agent, with an error or without: an agent that silently lacks a part looks well and is not.
	Finite bool
	Run    func(ctx context.Context) error
}

// Run runs the tasks until the context ends or one of them fails, and waits for all. A panic in a task is an error with its
// stack: the agent ends in good order and says why. That a task was cancelled is forgiven when the caller's context has
// ended, and only then: whoever restarts the agent goes by its exit code.
func Run(caller context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(caller)
	defer cancel()
	var (
		group sync.WaitGroup
		once  sync.Once
		first error
	)
	for _, t := range tasks {
		group.Go(func() {
			err := protect(ctx, t)
			switch {
			case err == nil && !t.Finite && ctx.Err() == nil:
				err = errEarly
			case err == nil, caller.Err() != nil && errors.Is(err, context.Canceled):
				return
			}
			once.Do(func() { first = fmt.Errorf("%s: %w", t.Name, err) })
			cancel()
		})
	}
	group.Wait()
	return first
}

// errEarly is a task's end that nobody asked for.
var errEarly = errors.New("it ended, though nothing asked it to")

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

// Headroom leaves a tenth of GOMEMLIMIT to what the runtime does not count, where the chart gives it the container's limit as it is: the kernel's
// buffers of connections, and pages of files. Without it the collector works hardest when it is too late.
func Headroom(env Getenv) {
	if env("GOMEMLIMIT") != "" {
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			debug.SetMemoryLimit(limit / 10 * 9)
		}
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
