package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Prepare makes an empty state directory. What is left of a lab of the same name that crashed, or never became ready, is
// removed first; a ready one is an error. Who may not be alone in doing so takes Lock.
func Prepare(ctx context.Context, l Layout) error {
	if err := Supported(); err != nil {
		return err
	}
	if running, err := Find(l); err == nil && running.Ready() {
		return fmt.Errorf("lab %s is up already (process %d)", l.Name, running.PID)
	}
	loadModules(ctx)
	if err := Remove(ctx, l); err != nil {
		return err
	}
	for _, dir := range []string{"logs", "etcd", "config", "var-lib", "var-log"} {
		if err := os.MkdirAll(l.Path(dir), 0o755); err != nil {
			return fmt.Errorf("make the lab's directory: %w", err)
		}
	}
	if err := os.Chmod(l.Path("etcd"), 0o700); err != nil {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	return nil
}

// loadModules asks for what only Kubernetes, and no system call, would make the kernel load: filtering of bridged packets,
// without which pods of one node do not reach each other through a Service. Where it is built in, or cannot be had, this
// does nothing, and the init says what is missing.
func loadModules(ctx context.Context) {
	if _, err := os.Stat(bridgeFilter); err == nil {
		return
	}
	_ = exec.CommandContext(ctx, "modprobe", "-q", "-a", "overlay", "br_netfilter").Run()
}

// Start starts a lab in a directory that Prepare made, and waits until its node is Ready. After an error nothing of it
// runs; its logs stay until Remove.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	c, err := start(ctx, o)
	if err == nil {
		err = c.waitReady(ctx, o)
	}
	if err == nil {
		return c, nil
	}
	if c != nil && c.PID > 0 {
		err = errors.Join(err, c.kill())
	}
	return nil, err
}

func start(ctx context.Context, o Options) (*Cluster, error) {
	l := o.Layout
	if o.Executable == "" {
		var err error
		if o.Executable, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
	}
	if _, err := writePKI(l.Path("pki"), time.Now()); err != nil {
		return nil, err
	}
	kept, err := keep(append([]string{l.State, o.Bin, filepath.Dir(o.Executable)}, o.Keep...))
	if err != nil {
		return nil, err
	}
	s := spec{
		Layout: l, Bin: o.Bin, Processes: o.Processes, Hosts: o.Hosts, Bundle: o.Bundle, Pause: o.Pause, PauseRef: o.PauseRef, Mirrors: o.Mirrors, Timeout: o.Timeout, Keep: kept,
	}
	c := &Cluster{Layout: l, ARN: ARN(l.Name), Forwards: map[string]string{}}
	var sockets []*os.File
	defer func() {
		for _, f := range sockets {
			f.Close()
		}
	}()
	var lc net.ListenConfig
	for n := -1; n < len(o.Forwards); n++ {
		ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("open a port of 127.0.0.1: %w", err)
		}
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			return nil, fmt.Errorf("open a port of 127.0.0.1: unexpected listener %T", ln)
		}
		socket, err := tcp.File()
		ln.Close()
		if err != nil {
			return nil, fmt.Errorf("open a port of 127.0.0.1: %w", err)
		}
		sockets = append(sockets, socket)
		if n < 0 {
			c.APIPort = tcp.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener has a TCP address
			s.APIPort = c.APIPort
			continue
		}
		f := o.Forwards[n]
		f.Host = tcp.Addr().String()
		c.Forwards[f.Name] = f.Host
		s.Forwards = append(s.Forwards, f)
	}
	if err := s.write(snapshotter(l.State)); err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write the lab's specification: %w", err)
	}
	if err := os.WriteFile(l.specFile(), text, 0o600); err != nil {
		return nil, fmt.Errorf("write the lab's specification: %w", err)
	}
	return c, c.spawn(o, sockets)
}

// spawn starts the init in namespaces of its own. It outlives this process.
func (c *Cluster) spawn(o Options, sockets []*os.File) error {
	log, err := os.OpenFile(c.Layout.Log("init"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of the init: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(o.Executable, "__init", c.Layout.State)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", baseEnv(), log, log, sockets
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lab's init in new namespaces: %w", err)
	}
	c.PID = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // so that waitReady sees it end instead of a zombie
	started, err := startTime(c.PID)
	if err != nil {
		return err
	}
	text, err := json.Marshal(record{PID: c.PID, Started: started, APIPort: c.APIPort, Forwards: c.Forwards})
	if err != nil {
		return fmt.Errorf("record the lab: %w", err)
	}
	if err := os.WriteFile(c.Layout.recordFile(), text, 0o600); err != nil {
		return fmt.Errorf("record the lab: %w", err)
	}
	return nil
}

func (c *Cluster) waitReady(ctx context.Context, o Options) error {
	// The init knows the limit too, and says what was wrong last: it gets time for that.
	limit := o.Timeout + 10*time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := ""
	for {
		if _, err := os.Stat(c.Layout.readyFile()); err == nil {
			return nil
		}
		if text, err := os.ReadFile(c.Layout.failedFile()); err == nil {
			return fmt.Errorf("lab %s: %s (logs in %s)", c.Layout.Name, text, c.Layout.Path("logs"))
		}
		if _, err := startTime(c.PID); err != nil {
			text, _ := os.ReadFile(c.Layout.Log("init"))
			return fmt.Errorf("lab %s: its init ended: %s", c.Layout.Name, strings.TrimSpace(string(text)))
		}
		if text, err := os.ReadFile(c.Layout.Path("waiting")); err == nil && string(text) != last && o.Progress != nil {
			last = string(text)
			o.Progress(last)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("lab %s: interrupted while waiting until %s: %w", c.Layout.Name, last, ctx.Err())
			}
			return fmt.Errorf("lab %s: not ready after %s; last waited until %s (logs in %s): %w", c.Layout.Name, limit, last, c.Layout.Path("logs"), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Find returns the running lab of a layout.
func Find(l Layout) (*Cluster, error) {
	text, err := os.ReadFile(l.recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w", l.Name, ErrNotRunning)
	} else if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.Name, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("lab %s: %s: %w", l.Name, l.recordFile(), err)
	}
	if started, err := startTime(r.PID); err != nil || started != r.Started {
		return nil, fmt.Errorf("lab %s: %w", l.Name, ErrNotRunning)
	}
	return &Cluster{Layout: l, ARN: ARN(l.Name), PID: r.PID, APIPort: r.APIPort, Forwards: r.Forwards}, nil
}

// Remove ends a lab and deletes every trace of it outside the cache. Nothing to remove is no error.
func Remove(ctx context.Context, l Layout) error {
	if c, err := Find(l); err == nil {
		if err := c.kill(); err != nil {
			return err
		}
	}
	if err := removeCgroups(ctx, l); err != nil {
		return err
	}
	if err := os.RemoveAll(l.State); err != nil {
		return fmt.Errorf("remove the state of lab %s: %w", l.Name, err)
	}
	return nil
}

// kill ends the init, and with it everything inside: it is gone for good once all of its namespace's processes are.
func (c *Cluster) kill() error {
	if err := unix.Kill(c.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end lab %s: %w", c.Layout.Name, err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := startTime(c.PID); err != nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end lab %s: process %d is still there 30 s after SIGKILL", c.Layout.Name, c.PID)
		}
	}
}

// Lock keeps other processes from working on the lab of that name until it is released, or this process ends. It is a
// socket in the kernel's own name space, so that it leaves no file. waiting is told once when somebody else has it.
func (l Layout) Lock(ctx context.Context, waiting func()) (release func(), err error) {
	sum := sha256.Sum256([]byte(l.State))
	name := "@nopsctl-lab-" + hex.EncodeToString(sum[:16])
	var lc net.ListenConfig
	for told := false; ; {
		ln, err := lc.Listen(ctx, "unix", name)
		switch {
		case err == nil:
			return func() { _ = ln.Close() }, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return nil, fmt.Errorf("lock lab %s: %w", l.Name, err)
		case !told:
			told = true
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait until no other command works on lab %s: %w", l.Name, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// removeCgroups deletes the lab's cgroup directories, deepest first. Processes of a namespace that just died may hold them
// for a moment.
func removeCgroups(ctx context.Context, l Layout) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		top := filepath.Join(root, l.cgroup())
		for deadline := time.Now().Add(10 * time.Second); ; {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			var last error
			for n := len(dirs) - 1; n >= 0; n-- {
				if err := unix.Rmdir(dirs[n]); err != nil && !errors.Is(err, unix.ENOENT) {
					last = fmt.Errorf("remove cgroup %s: %w", dirs[n], err)
				}
			}
			if last == nil {
				break
			}
			if time.Now().After(deadline) {
				return last
			}
			select {
			case <-ctx.Done():
				return last
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// startTime is when a process started, in clock ticks after boot: field 22 of /proc/PID/stat. A zombie counts as ended.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, ErrNotRunning)
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return n, nil
}

// Supported says why this machine cannot run a lab, or nil.
func Supported() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it makes namespaces, mounts and cgroups")
	}
	if missing := MissingPackages(); len(missing) > 0 {
		return &MissingPackagesError{missing}
	}
	return nil
}

// snapshotter is overlayfs, except where the state directory is on an overlay itself, on which it cannot nest.
func snapshotter(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

// Exec runs a program inside a running lab – same processes, mounts and network – with this process's standard streams,
// and returns once it has ended. Ctrl-C in a terminal reaches the program, not this process; SIGTERM is passed on.
func (c *Cluster) Exec(dir string, env, argv []string) (*os.ProcessState, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	defer signal.Stop(signals)
	type result struct {
		process *os.Process
		err     error
	}
	started := make(chan result)
	go func() {
		// The thread enters the namespaces and is never used again: it stays locked and ends with this goroutine.
		runtime.LockOSThread()
		process, err := c.enterAndStart(dir, env, argv)
		started <- result{process, err}
	}()
	r := <-started
	if r.err != nil {
		return nil, r.err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case s := <-signals:
				if s == unix.SIGTERM || s == unix.SIGHUP {
					_ = r.process.Signal(s)
				}
			}
		}
	}()
	state, err := r.process.Wait()
	if err != nil {
		return nil, fmt.Errorf("run %s in lab %s: %w", argv[0], c.Layout.Name, err)
	}
	return state, nil
}

// enterAndStart must run on a thread of its own.
func (c *Cluster) enterAndStart(dir string, env, argv []string) (*os.Process, error) {
	// Joining a mount namespace needs a root and working directory that no other thread shares.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("enter lab %s: %w", c.Layout.Name, err)
	}
	var fds []int
	for _, ns := range []string{"pid", "ipc", "uts", "net", "mnt"} {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", c.PID, ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("enter the %s namespace of lab %s: %w", ns, c.Layout.Name, err)
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		if err := unix.Setns(fd, 0); err != nil {
			return nil, fmt.Errorf("enter lab %s: %w", c.Layout.Name, err)
		}
		_ = unix.Close(fd)
	}
	path, err := lookPath(argv[0], env)
	if err != nil {
		return nil, err
	}
	process, err := os.StartProcess(path, argv, &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return nil, fmt.Errorf("run %s in lab %s: %w", argv[0], c.Layout.Name, err)
	}
	return process, nil
}

// lookPath finds a program in the PATH of the environment it will run with.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}
