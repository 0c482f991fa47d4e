package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifySeesWhatIsNotCommitted: make verify ends with a look at the tree, which must see files that nobody has added, too:
// a page that is generated for a new command is such a file.
func TestVerifySeesWhatIsNotCommitted(t *testing.T) {
	for _, tool := range []string{"make", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	makefile, err := filepath.Abs(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, reason string
		arrange      map[string]string // files written after the commit
		says         string            // empty: it passes
	}{
		{"clean", "all is committed", nil, ""},
		{"changed", "a generated file differs", map[string]string{"page.md": "new"}, "page.md"},
		{"not added", "a generated file is new", map[string]string{"new.md": "new"}, "?? new.md"},
		{"not added, in a new directory", "as docs/ of something new", map[string]string{"deep/new.md": "new"}, "?? deep/"},
		{"ignored", "what is built is not generated", map[string]string{"built": "new"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run := func(program string, args ...string) (string, error) {
				cmd := exec.CommandContext(t.Context(), program, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull, "MAKEFLAGS=", "MAKELEVEL=")
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			write := func(files map[string]string) {
				for name, text := range files {
					file := filepath.Join(dir, name)
					if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(map[string]string{"page.md": "old", ".gitignore": "built\n"})
			for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "x"}} {
				if out, err := run("git", args...); err != nil {
					t.Fatalf("git %v: %v: %s", args, err, out)
				}
			}
			write(tt.arrange)
			out, err := run("make", "-s", "-f", makefile, "clean-tree")
			if (err == nil) != (tt.says == "") || !strings.Contains(out, tt.says) {
				t.Errorf("%v: %s\nwant %q: %s", err, out, tt.says, tt.reason)
			}
		})
	}
}
