// Package build compiles what the lab runs: other people's programs from the pinned modules under lab/third_party, and our
// agents. Third-party programs are kept in a cache keyed by their content (module files, own sources, Go version, flags),
// so that only the first time takes minutes.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// A Program is one binary, and the names it goes by.
type Program struct {
	Name      string
	Module    string   // directory of its module, below the repository
	Package   string   // import path
	LDFlags   string   // added to "-s -w"
	Links     []string // other names under which it is started (a multi-call binary)
	Component string   // of the chart's image list, when that component's image holds the program
	Version   string   // when it is another than that of the component's image
	Arch      string   // it is built for; empty: this machine's
	Extra     bool     // a lab does without, unless it is asked for everything: see Set
}

// A Set is how much is built: the first `make demo` should compile nothing that the demo does not run.
type Set string

const (
	// Default is what a lab runs and what the components run that the chart switches on by itself.
	Default Set = "default"
	// All adds what the other components run, and what tests compare with.
	All Set = "all"
)

// ParseSet reads what a user wrote.
func ParseSet(text string) (Set, error) {
	if s := Set(text); s == Default || s == All {
		return s, nil
	}
	return "", fmt.Errorf("components %q: %s or %s", text, Default, All)
}

// Covers says whether whoever has this set needs nothing more for the other.
func (s Set) Covers(other Set) bool { return s == other || s == All }

// Programs are the third-party programs of the set.
func (s Set) Programs() []Program {
	var some []Program
	for _, p := range ThirdParty() {
		if s == All || !p.Extra {
			some = append(some, p)
		}
	}
	return some
}

// ThirdParty lists the programs that are built from other people's modules.
func ThirdParty() []Program {
	const component = "-X k8s.io/component-base/version."
	const vm = "-X github.com/VictoriaMetrics/VictoriaMetrics/lib/buildinfo.Version="
	const vpa = "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/"
	const prometheus = "-X github.com/prometheus/common/version.Version="
	return []Program{
		{Name: "node_exporter", Module: "lab/third_party/node-exporter", Package: "github.com/prometheus/node_exporter", Component: "node-exporter"},
		{Name: "vmagent", Module: "lab/third_party/victoriametrics", Package: "github.com/VictoriaMetrics/VictoriaMetrics/app/vmagent", LDFlags: vm + "vmagent-v1.130.0", Component: "vmagent"},
		{Name: "victoria-metrics", Module: "lab/third_party/victoriametrics", Package: "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics", LDFlags: vm + "victoria-metrics-v1.130.0"},
		{Name: "kubernetes", Module: "lab/third_party/kubernetes", Package: ".", LDFlags: component + "gitVersion=v1.36.3 " + component + "gitMajor=1 " + component + "gitMinor=36",
			Links: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}},
		{Name: "kube-state-metrics", Module: "lab/third_party/kube-state-metrics", Package: "k8s.io/kube-state-metrics/v2", Component: "kube-state-metrics"},
		{Name: "helm", Module: "lab/third_party/helm3", Package: "helm.sh/helm/v3/cmd/helm", LDFlags: "-X helm.sh/helm/v3/internal/version.version=v3.22.0"},
		{Name: "coredns", Module: "lab/third_party/coredns", Package: "github.com/coredns/coredns"},
		{Name: "pause", Module: "lab", Package: "./images/pause"},
		{Name: "helm4", Module: "lab/third_party/helm4", Package: "helm.sh/helm/v4/cmd/helm", LDFlags: "-X helm.sh/helm/v4/internal/version.version=v4.3.1", Extra: true},
		{Name: "kube-score", Module: "lab/third_party/kube-score", Package: "github.com/zegl/kube-score/cmd/kube-score", LDFlags: "-X main.version=v1.20.0", Extra: true},
		{Name: "prometheus", Module: "lab/third_party/prometheus", Package: "github.com/prometheus/prometheus/cmd/prometheus", LDFlags: prometheus + "3.8.1", Component: "prometheus-server", Extra: true},
		{Name: "prometheus-config-reloader", Module: "lab/third_party/config-reloader", Package: "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader", LDFlags: prometheus + "0.85.0",
			Component: "config-reloader", Extra: true},
		// The last release that is one module. Later ones need a module of the same repository that was never released, so no go.mod of ours can name it.
		{Name: "opencost", Module: "lab/third_party/opencost", Package: "github.com/opencost/opencost/cmd/costmodel", LDFlags: "-X github.com/opencost/opencost/pkg/version.Version=1.108.1",
			Component: "opencost", Version: "1.108.1", Extra: true},
		// Karpenter without a cloud, what plays kubelet to its nodes, and Karpenter's own answers for whoever predicts them.
		{Name: "karpenter", Module: "lab/third_party/karpenter", Package: ".", LDFlags: "-X sigs.k8s.io/karpenter/pkg/operator.Version=1.14.1", Extra: true},
		{Name: "karpenter-drift", Module: "lab/third_party/karpenter", Package: "./drift", Extra: true},
		{Name: "kwok", Module: "lab/third_party/kwok", Package: ".", Extra: true},
		{Name: "load", Module: "lab", Package: "./images/load", Extra: true},
		// The VPA of Kubernetes, which ours is held against, and what it gets usage from.
		{Name: "upstream-vpa-recommender", Module: "lab/third_party/vpa", Package: vpa + "recommender", Extra: true},
		{Name: "upstream-vpa-updater", Module: "lab/third_party/vpa", Package: vpa + "updater", Extra: true},
		{Name: "upstream-vpa-admission-controller", Module: "lab/third_party/vpa", Package: vpa + "admission-controller", Extra: true},
		{Name: "metrics-server", Module: "lab/third_party/metrics-server", Package: "sigs.k8s.io/metrics-server/cmd/metrics-server", Extra: true},
	}
}

// Peers lists the programs that benchmarks measure beside ours. Nothing else builds them.
func Peers() []Program {
	const release = "-X sigs.k8s.io/release-utils/version."
	return []Program{{Name: "cosign", Module: "lab/third_party/cosign", Package: "github.com/sigstore/cosign/v2/cmd/cosign", LDFlags: release + "gitVersion=v2.6.5 " + release + "gitTreeState=clean"}}
}

// Agents lists our own programs that become images.
func Agents() []Program {
	const version = "-X github.com/nopsctl/nopsctl/internal/version.version=0.1.0"
	return []Program{
		{Name: "k8s-heartbeat-agent", Module: "agents", Package: "./cmd/k8s-heartbeat-agent", LDFlags: version},
		{Name: "karpenops", Module: "agents", Package: "./cmd/karpenops", LDFlags: version},
		{Name: "vpa", Module: "agents", Package: "./cmd/vpa", LDFlags: version},
	}
}

// Builder builds into a cache.
type Builder struct {
	Repo  string // root of the checkout
	Cache string
	// Progress is told when a build starts, with the time it took last (0: never built), and when it ends. Optional.
	Progress func(program string, last, took time.Duration, done bool)
	// Waiting is told when another command builds what this one needs. Optional.
	Waiting func(program string)
}

// Assets builds whatever is missing and returns a directory that holds all programs under all of their names.
func (b Builder) Assets(ctx context.Context, programs []Program) (string, error) {
	paths := map[string]string{}
	sum := sha256.New()
	for _, p := range programs {
		path, err := b.cached(ctx, p)
		if err != nil {
			return "", err
		}
		for _, name := range append([]string{p.Name}, p.Links...) {
			paths[name] = path
			fmt.Fprintln(sum, name, path)
		}
	}
	dir := filepath.Join(b.Cache, "assets", hex.EncodeToString(sum.Sum(nil))[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of programs: %w", err)
	}
	for name, path := range paths {
		link := filepath.Join(dir, name)
		if have, err := os.Readlink(link); err == nil && have == path {
			continue
		}
		if err := os.Symlink(path, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("link %s: %w", name, err)
		}
	}
	return dir, nil
}

// cached builds a program unless the cache has it.
func (b Builder) cached(ctx context.Context, p Program) (string, error) {
	key, err := b.key(p)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", p.Name, err)
	}
	path := filepath.Join(b.Cache, "bin", p.Name+"-"+key, p.Name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// Two commands that need the same program at the same time: one compiles it, the other waits.
	unlock, err := b.lock(ctx, p.Name, path)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", p.Name, err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, b.Build(ctx, p, path)
}

// lock holds a file of the cache until it is released or this process ends.
func (b Builder) lock(ctx context.Context, name, path string) (unlock func(), err error) {
	dir := filepath.Join(b.Cache, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of locks: %w", err)
	}
	type result struct {
		unlock func()
		err    error
	}
	got := make(chan result)
	go func() {
		unlock, err := lockedfile.MutexAt(filepath.Join(dir, filepath.Base(filepath.Dir(path)))).Lock()
		select {
		case got <- result{unlock, err}:
		case <-ctx.Done():
			if err == nil {
				unlock()
			}
		}
	}()
	for long := time.After(time.Second); ; long = nil {
		select {
		case r := <-got:
			if r.err != nil {
				return nil, fmt.Errorf("lock the cache: %w", r.err)
			}
			return r.unlock, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("wait until another command has built it: %w", ctx.Err())
		case <-long:
			if b.Waiting != nil {
				b.Waiting(name)
			}
		}
	}
}

// Build compiles a static binary to a path. A build that is cut short leaves nothing there.
func (b Builder) Build(ctx context.Context, p Program, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("build %s: %w", p.Name, err)
	}
	last := b.lastTime(p.Name)
	b.report(p.Name, last, 0, false)
	began := time.Now()
	partial := fmt.Sprintf("%s.%d.partial", path, os.Getpid())
	defer os.Remove(partial)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+p.LDFlags), "-o", partial, p.Package)
	cmd.Dir = filepath.Join(b.Repo, p.Module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=linux")
	if p.Arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+p.Arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: go build %s in %s: %w\n%s", p.Name, p.Package, p.Module, err, tail(string(out), 20))
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("build %s: %w", p.Name, err)
	}
	took := time.Since(began)
	if took > 3*time.Second {
		b.recordTime(p.Name, took)
	}
	b.report(p.Name, last, took, true)
	return nil
}

func (b Builder) report(name string, last, took time.Duration, done bool) {
	if b.Progress != nil {
		b.Progress(name, last, took, done)
	}
}

// key is a digest of everything the binary follows from.
func (b Builder) key(p Program) (string, error) {
	dir := filepath.Join(b.Repo, p.Module)
	files := []string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")}
	if strings.HasPrefix(p.Package, ".") {
		if !strings.HasPrefix(p.Module, "lab/third_party/") && p.Package != "." {
			files = nil // part of one of our modules that needs nothing but the standard library
		}
		sources, err := sources(dir, p)
		if err != nil {
			return "", err
		}
		files = append(files, sources...)
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH, p.Package, p.LDFlags)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("read %s: %w", f, err)
		}
		fmt.Fprintln(sum, filepath.Base(f), len(data))
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// sources are the Go files that a program of a module of ours is made of, as far as they lie in it. A module that holds
// several packages is taken whole: they import each other.
func sources(dir string, p Program) ([]string, error) {
	top := dir
	if !strings.HasPrefix(p.Module, "lab/third_party/") {
		top = filepath.Join(dir, p.Package)
	}
	var files []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find sources: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no Go files in %s", filepath.Join(p.Module, p.Package))
	}
	sort.Strings(files)
	return files, nil
}

func (b Builder) timesFile() string { return filepath.Join(b.Cache, "times.json") }

func (b Builder) times() map[string]float64 {
	times := map[string]float64{}
	if data, err := os.ReadFile(b.timesFile()); err == nil {
		_ = json.Unmarshal(data, &times) // a damaged record costs a hint, nothing else
	}
	return times
}

func (b Builder) lastTime(name string) time.Duration {
	return time.Duration(b.times()[name] * float64(time.Second))
}

func (b Builder) recordTime(name string, took time.Duration) {
	times := b.times()
	times[name] = took.Round(time.Second).Seconds()
	if data, err := json.Marshal(times); err == nil {
		_ = os.WriteFile(b.timesFile(), data, 0o644) // likewise
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
