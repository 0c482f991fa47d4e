package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
	upstreamvpa "github.com/nopsctl/nopsctl/lab/vpa"
)

const (
	// processors that a program may use at a time.
	processors = 2
	// Requests a second that a client may make: what ours are built with, and the flags with which upstream's get the same.
	clientQPS, clientBurst = 200, 400
	// checkpointsTimeout is how long upstream may take to store checkpoints. By default it gives up after a minute, and would never be seen to
	// store them all.
	checkpointsTimeout = 10 * time.Minute
	// toEnd is how long a program may take to end; ours stores what it learnt.
	toEnd = 40 * time.Second
)

// pins are the processors of a program that is measured, where there are enough for the rest to have others.
func pins() []int {
	if runtime.NumCPU() < 2*processors {
		return nil
	}
	return []int{0, 1}
}

// launched is the first argument of this program when it is to become another one.
const launched = "launch"

// launch becomes another program: on some processors alone, or none said ("-"); and where a pod finds its credentials, those of a directory, or
// none ("-"). It returns only when it cannot.
func launch(args []string) error {
	if len(args) < 3 {
		return errors.New("launch: no program")
	}
	cpus, credentials, program := args[0], args[1], args[2:]
	if cpus != "-" {
		var set unix.CPUSet
		for one := range strings.SplitSeq(cpus, ",") {
			n, err := strconv.Atoi(one)
			if err != nil {
				return fmt.Errorf("launch: processors %q: %w", cpus, err)
			}
			set.Set(n)
		}
		runtime.LockOSThread() // what this thread may use is what the program may
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("launch: use processors %s: %w", cpus, err)
		}
	}
	if credentials != "-" {
		if err := inPod(credentials); err != nil {
			return fmt.Errorf("launch: %w", err)
		}
	}
	return fmt.Errorf("launch %s: %w", program[0], syscall.Exec(program[0], program, os.Environ()))
}

// inPod shows the credentials where client-go looks for those of a pod. The mounts are this process's own.
func inPod(credentials string) error {
	const where = "/var/run/secrets/kubernetes.io/serviceaccount"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	run, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		return fmt.Errorf("find /var/run: %w", err)
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount over %s: %w", run, err)
	}
	if err := os.MkdirAll(where, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", where, err)
	}
	if err := unix.Mount(credentials, where, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over %s: %w", where, err)
	}
	return nil
}

// A program that is measured.
type program struct {
	*kube.Process

	name    string // of its metrics: recommender, admission_controller
	metrics string // address
	client  *http.Client
}

// start starts a program of a stack, alone, with its metrics at an address of its own.
func (w *world) start(ctx context.Context, s stack, name, path string, args func(metrics string) []string) (*program, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	metrics, err := kube.FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	cpus, credentials := "-", "-"
	if len(w.pinned) > 0 {
		cpus = strings.Trim(strings.ReplaceAll(fmt.Sprint(w.pinned), " ", ","), "[]")
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, fmt.Sprintf("GOMAXPROCS=%d", processors), "NAMESPACE=" + s.namespace, "POD_NAMESPACE=" + s.namespace, "HOSTNAME=bench"}
	sys := &syscall.SysProcAttr{}
	if s.name == ours {
		credentials = filepath.Join(w.dir, "credentials")
		if err := w.credentials(credentials); err != nil {
			return nil, err
		}
		host, port, _ := net.SplitHostPort(w.shim.address)
		env = append(env, "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
		sys.Cloneflags = syscall.CLONE_NEWNS
		if uid := os.Geteuid(); uid != 0 {
			sys.Cloneflags |= syscall.CLONE_NEWUSER
			sys.UidMappings, sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}, []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
	}
	w.mu.Lock()
	clear(w.asked)
	w.mu.Unlock()
	p, err := kube.Launch(ctx, filepath.Base(path), toEnd, func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, own, append([]string{launched, cpus, credentials, path}, args(metrics)...)...)
		cmd.Env, cmd.SysProcAttr = env, sys
		return cmd
	})
	if err != nil {
		return nil, err
	}
	return &program{Process: p, name: name, metrics: metrics, client: &http.Client{Timeout: 30 * time.Second}}, nil
}

// credentials are what a pod would find.
func (w *world) credentials(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	for name, text := range map[string][]byte{"token": []byte("shim"), "ca.crt": w.authority.PEM(), "namespace": []byte("nops")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return fmt.Errorf("write credentials: %w", err)
		}
	}
	return nil
}

func (w *world) startRecommender(ctx context.Context, s stack) (*program, error) {
	interval := w.Interval.String()
	if s.name == ours {
		return w.start(ctx, s, "recommender", w.program, func(metrics string) []string {
			return []string{"recommender", "--source=metrics-server", "--history=0", "--interval=" + interval, "--listen-address=" + metrics}
		})
	}
	return w.start(ctx, s, "recommender", filepath.Join(w.assets, upstreamvpa.Recommender), func(metrics string) []string {
		return []string{"--kubeconfig=" + filepath.Join(w.dir, "kubeconfig-shim"), "--recommender-interval=" + interval, "--address=" + metrics, fmt.Sprintf("--kube-api-qps=%d", clientQPS), fmt.Sprintf("--kube-api-burst=%d", clientBurst),
			"--checkpoints-timeout=" + checkpointsTimeout.String()}
	})
}

func (w *world) startAdmission(ctx context.Context, s stack) (*program, error) {
	if s.name == ours {
		return w.start(ctx, s, "admission_controller", w.program, func(metrics string) []string {
			return []string{"admission", fmt.Sprintf("--webhook-address=:%d", s.port), "--listen-address=" + metrics}
		})
	}
	certificate, key, err := w.authority.Issue(time.Now(), s.service+"."+s.namespace+".svc")
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	for name, text := range map[string][]byte{"webhook.crt": certificate, "webhook.key": key} {
		if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o600); err != nil {
			return nil, fmt.Errorf("write for the webhook: %w", err)
		}
	}
	in := func(name string) string { return filepath.Join(w.dir, name) }
	return w.start(ctx, s, "admission_controller", filepath.Join(w.assets, upstreamvpa.Admission), func(metrics string) []string {
		return []string{"--kubeconfig=" + in("kubeconfig-shim"), "--address=" + metrics, fmt.Sprintf("--kube-api-qps=%d", clientQPS), fmt.Sprintf("--kube-api-burst=%d", clientBurst), fmt.Sprintf("--port=%d", s.port),
			"--webhook-timeout-seconds=5", "--client-ca-file=" + in("shim.crt"), "--tls-cert-file=" + in("webhook.crt"), "--tls-private-key=" + in("webhook.key")}
	})
}

// samples are a page of metrics: values by name with labels.
type samples map[string]float64

// parse reads a page, of which this benchmark needs only what has no blank in its labels.
func parse(page io.Reader) (samples, error) {
	all := samples{}
	lines := bufio.NewScanner(page)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", line, err)
		}
		all[line[:at]] = v
	}
	return all, lines.Err()
}

// step is how often a step of the loop was gone through, and how long that took in all.
func (s samples) step(program, step string) (times int, took time.Duration) {
	name := "vpa_" + program + "_execution_latency_seconds"
	label := fmt.Sprintf("{step=%q}", step)
	return int(s[name+"_count"+label]), time.Duration(s[name+"_sum"+label] * float64(time.Second))
}

// liveHeap is what was in use after the last collection of garbage: with GOGC at its default the next one comes at twice that.
func (s samples) liveHeap() int64 { return int64(s["go_memstats_next_gc_bytes"] / 2) }

// scrape reads the program's metrics.
func (p *program) scrape(ctx context.Context) (samples, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer res.Body.Close()
	return parse(res.Body)
}

// ticks are in a second of /proc.
const ticks = 100

// A footprint is what a process took.
type footprint struct {
	CPU      time.Duration
	RSS, Top int64 // resident memory now, and the most there was
}

// footprintOf reads a process's from /proc.
func footprintOf(pid int) (footprint, error) {
	var f footprint
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return f, fmt.Errorf("what the program takes: %w", err)
	}
	_, after, _ := strings.Cut(string(stat), ") ") // its name may have blanks
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return f, fmt.Errorf("what the program takes: %q", stat)
	}
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return f, fmt.Errorf("what the program takes: %w", err)
		}
		f.CPU += time.Duration(n) * time.Second / ticks
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, fmt.Errorf("what the program takes: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &kib)
			f.RSS = kib << 10
		case strings.HasPrefix(line, "VmHWM:"):
			_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &kib)
			f.Top = kib << 10
		}
	}
	return f, nil
}
