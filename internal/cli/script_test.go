package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets stories run this test binary as nopsctl: a process of its own, with a real exit code.
func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){"nopsctl": func() { os.Exit(Main()) }})
}

// TestScripts runs the stories that need neither a cluster nor a platform.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	must(t, err)
	if len(files) < 5 {
		t.Fatalf("found %d stories", len(files))
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
		Setup: func(e *testscript.Env) error {
			// Nothing of the machine that runs the test: no cluster, no proxy, no key.
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("KUBECONFIG", "")
			e.Setenv("HTTPS_PROXY", "")
			e.Setenv("https_proxy", "")
			return nil
		},
	})
}

// exits runs a program and wants an exit code: exits 2 nopsctl ….
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = err.Error()
	}
	if want := args[0]; got != want && got != "exit status "+want {
		ts.Fatalf("%v: %s, want %s", args[1:], got, want)
	}
}
