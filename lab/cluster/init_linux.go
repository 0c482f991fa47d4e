package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// firstListener is the number of the first inherited listening socket: 0, 1 and 2 are the standard streams.
const firstListener = 3

// bridgeFilter makes the kernel show packets that stay on the bridge to the rules of Services. It is there when br_netfilter is.
const bridgeFilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"

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
	i := &initProcess{spec: s, children: map[int]*child{}, generation: map[string]int{}}
	if err := i.run(ctx); err != nil {
		_ = os.WriteFile(s.Layout.failedFile(), []byte(err.Error()), 0o600)
		return err
	}
	return nil
}

type initProcess struct {
	spec       spec
	obeying    sync.Mutex // one command at a time
	mu         sync.Mutex
	children   map[int]*child
	guests     []string       // programs that were started by command, kept running until they are stopped
	generation map[string]int // of a guest's name: one that belongs to an earlier one is not started again
	ready      bool
	broken     error // a process that ended before the lab was ready
}

type child struct {
	process    Process
	service    bool // runs for ever
	generation int
	began      time.Time
	delay      time.Duration // that was waited before it was started
	ended      chan struct{}
	status     unix.WaitStatus
}

func (i *initProcess) run(ctx context.Context) error {
	if err := i.enter(); err != nil {
		return err
	}
	go i.reap(ctx)
	for n, f := range append([]Forward{{To: fmt.Sprintf("127.0.0.1:%d", i.spec.APIPort)}}, i.spec.Forwards...) {
		if err := forward(ctx, os.NewFile(uintptr(firstListener+n), f.Name), f.To); err != nil {
			return err
		}
	}
	if err := i.serve(ctx); err != nil {
		return err
	}
	if err := i.up(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return nil // the kernel kills what runs in this PID namespace and takes its mounts and interfaces down
}

// up starts everything, in the order in which one needs another, and waits until the node is Ready.
func (i *initProcess) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, i.spec.Timeout, fmt.Errorf("not within %s", i.spec.Timeout))
	defer cancel()
	first, rest := i.spec.kubernetes()
	for _, p := range append(append([]Process{i.spec.containerd()}, i.spec.Processes...), first...) {
		if err := i.start(p, 0, 0); err != nil {
			return err
		}
	}
	if err := i.imported(ctx); err != nil {
		return err
	}
	if err := i.until(ctx, "the API server answers /readyz", i.kubectl("get", "--raw", "/readyz")); err != nil {
		return err
	}
	if err := i.until(ctx, "the roles of the lab are written", i.kubectl("apply", "-f", i.spec.Layout.Path("config", "bootstrap.yaml"))); err != nil {
		return err
	}
	for _, p := range rest {
		if err := i.start(p, 0, 0); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		what string
		args []string
	}{
		{"the node registers", []string{"get", "node", NodeName}},
		{"the node is Ready", []string{"wait", "--for=condition=Ready", "node/" + NodeName, "--timeout=5s"}},
		{"the default service account exists", []string{"get", "serviceaccount", "default", "-n", "default"}},
	} {
		if err := i.until(ctx, step.what, i.kubectl(step.args...)); err != nil {
			return err
		}
	}
	i.mu.Lock()
	broken := i.broken
	i.ready = broken == nil
	i.mu.Unlock()
	if broken != nil {
		return broken
	}
	if err := os.WriteFile(i.spec.Layout.readyFile(), nil, 0o600); err != nil {
		return fmt.Errorf("say that the lab is ready: %w", err)
	}
	return nil
}

// enter makes the namespaces a place of their own.
func (i *initProcess) enter() error {
	for _, step := range []func() error{i.mounts, i.cgroups, i.network} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(NodeName)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

// mounts puts the lab's own files where programs look for them.
func (i *initProcess) mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Trees are taken hold of before anything is covered, and put in place after: the lab's own directories, the cgroups
	// below a new /sys, and what must stay in view, which may itself lie below what is covered.
	l := i.spec.Layout
	type tree struct {
		source, target string
		fd             int
	}
	trees := []tree{{source: l.Path("var-lib"), target: "/var/lib"}, {source: l.Path("var-log"), target: "/var/log"}, {source: "/sys/fs/cgroup", target: "/sys/fs/cgroup"}}
	for _, path := range i.spec.Keep {
		trees = append(trees, tree{source: path, target: path})
	}
	for n, t := range trees {
		fd, err := unix.OpenTree(unix.AT_FDCWD, t.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("take hold of %s: %w", t.source, err)
		}
		trees[n].fd = fd
	}
	for _, m := range []struct{ source, target, kind, data string }{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""}, // shows the interfaces of the network namespace in which it was mounted
		{"tmpfs", "/run", "tmpfs", "mode=755"},
	} {
		if err := mount(m.source, m.target, m.kind, m.data); err != nil {
			return err
		}
	}
	for _, t := range trees {
		if err := os.MkdirAll(t.target, 0o755); err != nil {
			return fmt.Errorf("mount on %s: %w", t.target, err)
		}
		if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
			return fmt.Errorf("mount %s on %s: %w", t.source, t.target, err)
		}
		_ = unix.Close(t.fd)
	}
	for _, m := range []struct{ source, path string }{
		{l.Path("config", "hosts"), "/etc/hosts"},
		{l.Path("config", "resolv.conf"), "/etc/resolv.conf"},
		{i.spec.Bundle, "/etc/ssl/certs/ca-certificates.crt"},
	} {
		if m.source == "" {
			continue
		}
		target, err := bindTarget(m.path)
		if err != nil {
			return err
		}
		if err := mount(m.source, target, "", ""); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/containerd", "/run/netns", "/var/lib/kubelet"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	// Shared among what runs in here, as on any node: containers that watch the host's mounts need it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// mount mounts a file system, or, without a kind, binds a file or directory.
func mount(source, target, kind, data string) error {
	flags := uintptr(0)
	if kind == "" {
		flags = unix.MS_BIND
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// cgroups makes the lab's directory in every hierarchy.
func (i *initProcess) cgroups() error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, i.spec.Layout.cgroup()), 0o755); err != nil {
			return fmt.Errorf("make the lab's cgroup: %w", err)
		}
	}
	return nil
}

// network makes the node's device. There is no default route: no way leads out.
func (i *initProcess) network() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridgeDevice, "type", "bridge"},
		{"addr", "add", nodeCIDR, "dev", bridgeDevice},
		{"link", "set", bridgeDevice, "up"},
		// To Services, as the API server has to webhooks: kube-proxy's rules lead on, but only what has a route comes to them.
		{"route", "add", serviceCIDR, "dev", bridgeDevice},
		// A bridge is up only with a port that is; a pair of virtual cables, both ends in here, keeps it so.
		{"link", "add", "lab0a", "type", "veth", "peer", "name", "lab0b"},
		{"link", "set", "lab0a", "master", bridgeDevice},
		{"link", "set", "lab0a", "up"},
		{"link", "set", "lab0b", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	for _, s := range []struct{ file, value string }{
		{"/proc/sys/net/ipv4/ip_forward", "1"},
		{"/proc/sys/net/ipv4/conf/all/route_localnet", "1"},
		{bridgeFilter, "1"},
		// The API server's port was chosen on the host. Nothing in here may be given it by chance before it listens.
		{"/proc/sys/net/ipv4/ip_local_reserved_ports", strconv.Itoa(i.spec.APIPort)},
	} {
		err := os.WriteFile(s.file, []byte(s.value), 0o600)
		if s.file == bridgeFilter && errors.Is(err, fs.ErrNotExist) {
			return errors.New("the kernel cannot filter bridged packets, so Services would not work: modprobe br_netfilter (package kmod)")
		}
		if err != nil {
			return fmt.Errorf("set a kernel parameter: %w", err)
		}
	}
	return nil
}

// start runs a program with its output in a log file of its own. PID 1 reaps everybody's orphans, so nobody else may wait.
func (i *initProcess) start(p Process, waited time.Duration, generation int) error {
	log, err := os.OpenFile(i.spec.Layout.Log(p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	if generation != i.generation[p.Name] {
		return nil // it was stopped while this waited
	}
	started, err := os.StartProcess(p.Path, append([]string{p.Path}, p.Args...), &os.ProcAttr{
		Dir: "/", Files: []*os.File{nil, log, log}, Env: append(baseEnv(), p.Env...),
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	i.children[started.Pid] = &child{process: p, service: true, generation: generation, began: time.Now(), delay: waited, ended: make(chan struct{})}
	return nil
}

func baseEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"}
}

// reap collects every process that ends in this PID namespace.
func (i *initProcess) reap(ctx context.Context) {
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
				i.lost(ctx, c)
			}
		}
	}
}

// lost deals with a process that should run for ever and ended: while the lab starts, that is its failure; later the
// process is started again.
func (i *initProcess) lost(ctx context.Context, c *child) {
	name, how := c.process.Name, describe(c.status)
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.generation != i.generation[name] {
		return // it was stopped
	}
	if i.ready {
		wait := delay(c.delay, time.Since(c.began))
		i.say("%s ended (%s); starting it again in %s", name, how, wait)
		go i.again(ctx, c.process, wait, c.generation)
		return
	}
	i.say("%s ended (%s)", name, how)
	if i.broken == nil {
		last := "it wrote nothing"
		if text, err := os.ReadFile(i.spec.Layout.Log(name)); err == nil && len(bytes.TrimSpace(text)) > 0 {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			last = lines[len(lines)-1]
		}
		i.broken = fmt.Errorf("%s ended (%s): %s", name, how, last)
	}
}

// again starts a program after a wait, and keeps trying where it cannot be started at all.
func (i *initProcess) again(ctx context.Context, p Process, wait time.Duration, generation int) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := i.start(p, wait, generation)
		if err == nil {
			return
		}
		wait = delay(wait, 0)
		i.say("%v; trying again in %s", err, wait)
	}
}

// say writes a line into the init's own log.
func (i *initProcess) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.RFC3339)+" "+format+"\n", args...)
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
	stop := context.AfterFunc(ctx, func() { _ = started.Kill() })
	defer stop()
	out, _ := io.ReadAll(io.LimitReader(read, 1<<20))
	<-c.ended
	if c.status.ExitStatus() != 0 {
		return string(out), fmt.Errorf("%s %s: %s: %s", filepath.Base(path), strings.Join(args, " "), describe(c.status), strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func (i *initProcess) kubectl(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := i.call(ctx, filepath.Join(i.spec.Bin, "kubectl"), append([]string{"--kubeconfig=" + i.spec.Layout.Kubeconfig(), "--cache-dir=" + i.spec.Layout.Path("kubectl-cache"), "--request-timeout=10s"}, args...)...)
		return err
	}
}

// imported gives containerd the pause image, which no registry serves.
func (i *initProcess) imported(ctx context.Context) error {
	if i.spec.Pause == "" {
		return nil
	}
	return i.until(ctx, "containerd takes the pause image", func(ctx context.Context) error {
		_, err := i.call(ctx, "/usr/bin/ctr", "-n", "k8s.io", "images", "import", i.spec.Pause)
		return err
	})
}

// until repeats a step until it succeeds. Its error says what was waited for and what was wrong last.
func (i *initProcess) until(ctx context.Context, what string, step func(context.Context) error) error {
	if err := os.WriteFile(i.spec.Layout.Path("waiting"), []byte(what), 0o600); err != nil {
		return fmt.Errorf("say what is waited for: %w", err)
	}
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
			return fmt.Errorf("waited until %s: %w: %w", what, context.Cause(ctx), err)
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
