package archtest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the lists of dependencies")

// TestDeps holds, for each binary that is shipped, the modules compiled into it against the committed list beside its main:
// a change of weight shows up in review. make generate rewrites the lists.
func TestDeps(t *testing.T) {
	mains := 0
	for path, p := range load(t) {
		if p.Name != "main" || within(path, lab) { // the lab ships nothing
			continue
		}
		mains++
		t.Run(strings.TrimPrefix(path, root+"/"), func(t *testing.T) {
			t.Parallel()
			have := modules(t, p.Dir)
			file := filepath.Join(p.Dir, "deps.txt")
			if *update {
				if err := os.WriteFile(file, []byte(strings.Join(have, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (make generate writes it)", err)
			}
			if diff := cmp.Diff(strings.Fields(string(data)), have); diff != "" {
				t.Errorf("%s (-committed +compiled in; make generate rewrites it):\n%s", file, diff)
			}
		})
	}
	if mains < 2 {
		t.Errorf("found %d binaries, expected nopsctl and at least one agent", mains)
	}
}

// modules are those that the binary of a directory is made of, its own aside, on the platform that images are built for,
// whoever asks.
func modules(t *testing.T, dir string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", dir, err, stderr.String())
	}
	list := strings.Fields(string(out))
	sort.Strings(list)
	return slices.Compact(list)
}
