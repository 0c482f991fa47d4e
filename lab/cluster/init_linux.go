package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// firstListener is the number of the first inherited listening socket: 0, 1 and 2 are the standard streams.
const firstListener = 3

// RunInit is the lab's first process: it runs in the new namespaces, as PID 1, until it is told to end. The caller
// dispatches its "__init" subcommand here, with the state directory as argument.
func RunInit(ctx context.Context, state string) error {
	// PID 1 ignores signals it has no handler for.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	text, err := os.ReadFile(filepath.Join(state, "spec.json"))
	if err != nil {
		return fmt.Errorf("read the lab's specification: %w", err)
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("read the lab's specification: %w", err)
	}
	i := &initProcess{spec: s, children: map[int]*child{}}
	if err := i.run(ctx); err != nil {
		_ = os.WriteFile(s.Layout.failedFile(), []byte(err.Error()), 0o600)
		return err
	}
	return nil
}

type initProcess struct {
	spec     spec
	mu       sync.Mutex
	children map[int]*child
	ready    bool
	broken   error // a process that ended before the lab was ready
}

type child struct {
	process Process
	service bool // runs for ever
	ended   chan struct{}
	status  unix.WaitStatus
}

func (i *initProcess) run(ctx context.Context) error {
	if err := i.enter(); err != nil {
		return err
	}
	go i.reap()
	for n, f := range append([]Forward{{To: fmt.Sprintf("127.0.0.1:%d", i.spec.APIPort)}}, i.spec.Forwards...) {
		if err := forward(ctx, os.NewFile(uintptr(firstListener+n), f.Name), f.To); err != nil {
			return err
		}
	}
	first, rest := i.spec.kubernetes()
	for _, p := range append(append([]Process{i.spec.containerd()}, i.spec.Processes...), first...) {
		if err := i.start(p); err != nil {
			return err
		}
	}
	if err := i.imported(ctx); err != nil {
		return err
	}
	if err := i.until(ctx, 60*time.Second, "the API server answers /readyz", i.kubectl("get", "--raw", "/readyz")); err != nil {
		return err
	}
	if err := i.until(ctx, 30*time.Second, "the roles of the lab are written", i.kubectl("apply", "-f", i.spec.Layout.Path("config", "bootstrap.yaml"))); err != nil {
		return err
	}
	for _, p := range rest {
		if err := i.start(p); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		what string
		args []string
	}{
		{"the node registers", []string{"get", "node", nodeName}},
		{"the node is Ready", []string{"wait", "--for=condition=Ready", "node/" + nodeName, "--timeout=5s"}},
		{"the default service account exists", []string{"get", "serviceaccount", "default", "-n", "default"}},
	} {
		if err := i.until(ctx, 90*time.Second, step.what, i.kubectl(step.args...)); err != nil {
			return err
		}
	}
	i.mu.Lock()
	i.ready = true
	i.mu.Unlock()
	if err := os.WriteFile(i.spec.Layout.readyFile(), nil, 0o600); err != nil {
		return fmt.Errorf("say that the lab is ready: %w", err)
	}
	<-ctx.Done()
	return nil // the kernel kills what runs in this PID namespace and takes its mounts and interfaces down
}

// enter makes the namespaces a place of their own.
func (i *initProcess) enter() error {
	l := i.spec.Layout
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Shared among what runs in here, as on any node: containers that watch the host's mounts need it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	type mount struct{ source, target, kind, data string }
	for _, m := range []mount{
		{"proc", "/proc", "proc", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{l.Path("var-lib"), "/var/lib", "", ""},
		{l.Path("var-log"), "/var/log", "", ""},
		{l.Path("config", "hosts"), "/etc/hosts", "", ""},
		{l.Path("config", "resolv.conf"), "/etc/resolv.conf", "", ""},
		{i.spec.Bundle, "/etc/ssl/certs/ca-certificates.crt", "", ""},
	} {
		if m.source == "" {
			continue
		}
		target, err := filepath.EvalSymlinks(m.target)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.target, err)
		}
		flags := uintptr(0)
		if m.kind == "" {
			flags = unix.MS_BIND
		}
		if err := unix.Mount(m.source, target, m.kind, flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, target, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/containerd", "/run/netns", "/var/lib/kubelet"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if err := unix.Sethostname([]byte(nodeName)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, l.cgroup()), 0o755); err != nil {
			return fmt.Errorf("make the lab's cgroup: %w", err)
		}
	}
	// No default route: there is no way out of this network.
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", bridgeDevice, "type", "bridge"},
		{"ip", "addr", "add", nodeCIDR, "dev", bridgeDevice},
		{"ip", "link", "set", bridgeDevice, "up"},
		{"sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	// A bridge is up only with a port that is; a pair of virtual cables, both ends in here, keeps it so.
	for _, args := range [][]string{
		{"ip", "link", "add", "lab0a", "type", "veth", "peer", "name", "lab0b"},
		{"ip", "link", "set", "lab0a", "master", bridgeDevice},
		{"ip", "link", "set", "lab0a", "up"},
		{"ip", "link", "set", "lab0b", "up"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// start runs a program with its output in a log file of its own. PID 1 reaps everybody's orphans, so nobody else may wait.
func (i *initProcess) start(p Process) error {
	log, err := os.OpenFile(i.spec.Layout.Log(p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	started, err := os.StartProcess(p.Path, append([]string{p.Path}, p.Args...), &os.ProcAttr{
		Dir: "/", Files: []*os.File{nil, log, log}, Env: append(baseEnv(), p.Env...),
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	i.children[started.Pid] = &child{process: p, service: true, ended: make(chan struct{})}
	return nil
}

func baseEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"}
}

// reap collects every process that ends in this PID namespace.
func (i *initProcess) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			time.Sleep(50 * time.Millisecond)
			continue
		case err != nil:
			continue
		}
		i.mu.Lock()
		c := i.children[pid]
		delete(i.children, pid)
		i.mu.Unlock()
		if c != nil {
			c.status = status
			close(c.ended)
			if c.service {
				i.lost(c.process.Name, status)
			}
		}
	}
}

// lost notes that a process that should run for ever ended: a failure while the lab starts, a line in the log later.
func (i *initProcess) lost(name string, status unix.WaitStatus) {
	fmt.Fprintf(os.Stderr, "%s %s ended: %s\n", time.Now().Format(time.RFC3339), name, describe(status))
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ready && i.broken == nil {
		text, _ := os.ReadFile(i.spec.Layout.Log(name))
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		i.broken = fmt.Errorf("%s ended (%s): %s", name, describe(status), lines[len(lines)-1])
	}
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// call runs a program to its end and returns what it wrote.
func (i *initProcess) call(ctx context.Context, path string, args ...string) (string, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return "", fmt.Errorf("run %s: %w", path, err)
	}
	defer read.Close()
	i.mu.Lock()
	started, err := os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{Dir: "/", Files: []*os.File{nil, write, write}, Env: baseEnv()})
	write.Close()
	if err != nil {
		i.mu.Unlock()
		return "", fmt.Errorf("run %s: %w", path, err)
	}
	c := &child{process: Process{Name: path}, ended: make(chan struct{})}
	i.children[started.Pid] = c
	i.mu.Unlock()
	out, _ := io.ReadAll(io.LimitReader(read, 1<<20))
	select {
	case <-c.ended:
	case <-ctx.Done():
		_ = started.Kill()
		return string(out), fmt.Errorf("run %s: %w", path, ctx.Err())
	}
	if c.status.ExitStatus() != 0 {
		return string(out), fmt.Errorf("%s %s: %s: %s", filepath.Base(path), strings.Join(args, " "), describe(c.status), strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (i *initProcess) kubectl(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := i.call(ctx, filepath.Join(i.spec.Bin, "kubectl"), append([]string{"--kubeconfig=" + i.spec.Layout.Kubeconfig(), "--cache-dir=" + i.spec.Layout.Path("kubectl-cache")}, args...)...)
		return err
	}
}

// imported gives containerd the pause image, which no registry serves.
func (i *initProcess) imported(ctx context.Context) error {
	if i.spec.Pause == "" {
		return nil
	}
	return i.until(ctx, 30*time.Second, "containerd takes the pause image", func(ctx context.Context) error {
		_, err := i.call(ctx, "/usr/bin/ctr", "-n", "k8s.io", "images", "import", i.spec.Pause)
		return err
	})
}

// until repeats a step until it succeeds. Its error says what was waited for and what was wrong last.
func (i *initProcess) until(ctx context.Context, limit time.Duration, what string, step func(context.Context) error) error {
	if err := os.WriteFile(i.spec.Layout.Path("waiting"), []byte(what), 0o600); err != nil {
		return fmt.Errorf("say what is waited for: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := step(ctx)
		if err == nil {
			return nil
		}
		i.mu.Lock()
		broken := i.broken
		i.mu.Unlock()
		if broken != nil {
			return broken
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s: %w", limit, what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// forward accepts on a socket that was opened in the host's network namespace and dials inside this one.
func forward(ctx context.Context, socket *os.File, to string) error {
	listener, err := net.FileListener(socket)
	socket.Close()
	if err != nil {
		return fmt.Errorf("inherit the listener for %s: %w", to, err)
	}
	go func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer outer.Close()
				var d net.Dialer
				inner, err := d.DialContext(ctx, "tcp", to)
				if err != nil {
					return
				}
				defer inner.Close()
				pipe(outer, inner)
			}()
		}
	}()
	return nil
}

// pipe copies both ways and lets each side finish what it was saying.
func pipe(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, _ = io.Copy(pair[0], pair[1])
			if half, ok := pair[0].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		}()
	}
	wg.Wait()
}
