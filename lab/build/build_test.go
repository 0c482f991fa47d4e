package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// checkout is a tiny one, with one module that builds.
func checkout(t *testing.T) string {
	t.Helper()
	repo := t.TempDir()
	for name, text := range map[string]string{"m/go.mod": "module m\n\ngo 1.26\n", "m/go.sum": "", "m/main.go": "package main\n\nfunc main() {}\n"} {
		path := filepath.Join(repo, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return repo
}

func TestBuiltOnceUntilSomethingChanges(t *testing.T) {
	repo := checkout(t)
	builds := 0
	b := Builder{Repo: repo, Cache: t.TempDir(), Progress: func(_ string, _, _ time.Duration, done bool) {
		if done {
			builds++
		}
	}}
	p := []Program{{Name: "p", Module: "m", Package: ".", Links: []string{"q"}}}
	first, err := b.Assets(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Assets(t.Context(), p)
	if err != nil || again != first || builds != 1 {
		t.Fatalf("again: %s, %v, %d builds", again, err, builds)
	}
	for _, name := range []string{"p", "q"} {
		if info, err := os.Stat(filepath.Join(first, name)); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, "m", "main.go"), []byte("package main\n\nfunc main() { println() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := b.Assets(t.Context(), p)
	if err != nil || changed == first || builds != 2 {
		t.Fatalf("changed: %s, %v, %d builds", changed, err, builds)
	}
}

// TestBuiltOnceByTwo: what one command compiles another waits for.
func TestBuiltOnceByTwo(t *testing.T) {
	repo, cache := checkout(t), t.TempDir()
	var builds atomic.Int64
	var dirs [3]string
	var all sync.WaitGroup
	for n := range dirs {
		all.Go(func() {
			b := Builder{Repo: repo, Cache: cache, Progress: func(_ string, _, _ time.Duration, done bool) {
				if done {
					builds.Add(1)
				}
			}}
			dir, err := b.Assets(t.Context(), []Program{{Name: "p", Module: "m", Package: "."}})
			if err != nil {
				t.Error(err)
			}
			dirs[n] = dir
		})
	}
	all.Wait()
	if builds.Load() != 1 || dirs[0] == "" || dirs[1] != dirs[0] || dirs[2] != dirs[0] {
		t.Errorf("%d builds into %q, want one", builds.Load(), dirs)
	}
}

// TestWaitingCanBeInterrupted: whoever waits for another's build still hears the user.
func TestWaitingCanBeInterrupted(t *testing.T) {
	b := Builder{Repo: checkout(t), Cache: t.TempDir()}
	p := Program{Name: "p", Module: "m", Package: "."}
	key, err := b.key(p)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := b.lock(t.Context(), p.Name, filepath.Join(b.Cache, "bin", p.Name+"-"+key, p.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	b.Waiting = func(program string) {
		if told++; program != p.Name {
			t.Errorf("waiting for %q", program)
		}
		cancel()
	}
	if _, err := b.Assets(ctx, []Program{p}); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "build p") {
		t.Errorf("%v, want that the wait for p was cancelled", err)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestAFailedBuildLeavesNothing(t *testing.T) {
	repo := checkout(t)
	if err := os.WriteFile(filepath.Join(repo, "m", "main.go"), []byte("package main\n\nfunc main() { nowhere() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := Builder{Repo: repo, Cache: t.TempDir()}
	if _, err := b.Assets(t.Context(), []Program{{Name: "p", Module: "m", Package: "."}}); err == nil {
		t.Fatal("a program that does not compile was built")
	}
	left, err := filepath.Glob(filepath.Join(b.Cache, "bin", "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestEveryProgramHasItsModule(t *testing.T) {
	repo := filepath.Join("..", "..")
	all := slices.Concat(ThirdParty(), Peers(), Agents())
	if len(all) < 14 {
		t.Fatalf("only %d programs", len(all))
	}
	keys, components := map[string]string{}, map[string]string{}
	for _, p := range all {
		key, err := (Builder{Repo: repo}).key(p)
		if err != nil && p.Module != "agents" {
			t.Errorf("%s: %v", p.Name, err)
		}
		if other, taken := keys[key]; taken && key != "" {
			t.Errorf("%s and %s have one key: the cache would take one for the other", p.Name, other)
		}
		keys[key] = p.Name
		if other, taken := components[p.Component]; taken && p.Component != "" {
			t.Errorf("%s and %s are both the program of component %s", p.Name, other, p.Component)
		}
		components[p.Component] = p.Name
		if _, err := os.Stat(filepath.Join(repo, p.Module, "go.mod")); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

// TestKeyFollowsWhatIsImported: a program of a module with several packages is built anew when any of them changes.
func TestKeyFollowsWhatIsImported(t *testing.T) {
	repo := t.TempDir()
	const dir = "lab/third_party/m"
	for name, text := range map[string]string{"go.mod": "module m\n", "go.sum": "", "main.go": "package main\n", "one/main.go": "package main\n", "two/two.go": "package two\n"} {
		path := filepath.Join(repo, dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []Program{{Name: "whole", Module: dir, Package: "."}, {Name: "one", Module: dir, Package: "./one"}} {
		last := ""
		for _, file := range []string{"", "main.go", "one/main.go", "two/two.go", "go.mod", "go.sum"} {
			if file != "" {
				if err := os.WriteFile(filepath.Join(repo, dir, file), []byte("// changed for "+p.Name), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			key, err := (Builder{Repo: repo}).key(p)
			if err != nil {
				t.Fatal(err)
			}
			if key == last {
				t.Errorf("%s: its key does not follow %s", p.Name, file)
			}
			last = key
		}
	}
}

// TestSets: the first make demo waits for every program of the default set, so nothing that it does not run may be there.
func TestSets(t *testing.T) {
	names := func(s Set) []string {
		var all []string
		for _, p := range s.Programs() {
			all = append(all, p.Name)
		}
		return all
	}
	want := []string{"node_exporter", "vmagent", "victoria-metrics", "kubernetes", "kube-state-metrics", "helm", "coredns", "pause"}
	if got := names(Default); !slices.Equal(got, want) {
		t.Errorf("default: %q, want %q", got, want)
	}
	all := names(All)
	if len(all) != len(ThirdParty()) || len(all) <= len(want) {
		t.Errorf("all: %q", all)
	}
	for _, name := range append([]string{"helm4", "prometheus", "prometheus-config-reloader", "opencost", "karpenter", "karpenter-drift", "kwok", "load", "upstream-vpa-recommender", "upstream-vpa-updater", "upstream-vpa-admission-controller", "metrics-server"}, want...) {
		if !slices.Contains(all, name) {
			t.Errorf("all lacks %s", name)
		}
	}
	for _, tt := range []struct {
		have, want Set
		covers     bool
		why        string
	}{
		{Default, Default, true, "the same"},
		{All, Default, true, "more than is wanted"},
		{All, All, true, "the same"},
		{Default, All, false, "less than is wanted"},
		{"", Default, false, "a lab of which nobody knows what it holds"},
	} {
		if got := tt.have.Covers(tt.want); got != tt.covers {
			t.Errorf("%q covers %q: %v, want %v: %s", tt.have, tt.want, got, tt.covers, tt.why)
		}
	}
}

func TestParseSet(t *testing.T) {
	for text, want := range map[string]Set{"default": Default, "all": All, "": "", "All": "", "default,all": "", "opencost": ""} {
		got, err := ParseSet(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), strconv.Quote(text)) || !strings.Contains(err.Error(), "default or all")) {
			t.Errorf("%q: %v: want what was written and what may be", text, err)
		}
	}
}
