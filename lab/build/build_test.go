package build

import (
	"os"
	"path/filepath"
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
	all := append(ThirdParty(), Agents()...)
	if len(all) < 9 {
		t.Fatalf("only %d programs", len(all))
	}
	for _, p := range all {
		if _, err := (Builder{Repo: repo}).key(p); err != nil && p.Module != "agents" {
			t.Errorf("%s: %v", p.Name, err)
		}
		if _, err := os.Stat(filepath.Join(repo, p.Module, "go.mod")); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}
