package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
)

func TestReadScenario(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ name, given, part string }{
		{"one that comes with the lab", "az-collapse", ""},
		{"a file", write("mine.yaml", "name: mine"), ""},
		{"a file with a slip", write("slip.yaml", "name: mine\nsteps: [{at: 1h, score: 11}]"), "score 11"},
		{"neither", "az-colapse", "az-collapse, "},
	} {
		text, err := readScenario(tt.given)
		switch {
		case tt.part == "" && err != nil, tt.part != "" && (err == nil || !strings.Contains(err.Error(), tt.part)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.part)
		case err == nil:
			if _, err := scenario.Decode(text); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// TestKarpenterScenarioHelp: every scenario that comes with the lab is named where people look for it.
func TestKarpenterScenarioHelp(t *testing.T) {
	var out bytes.Buffer
	root := newRoot(streams{&out, &out})
	root.SetArgs([]string{"karpenter-scenario", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, name := range scenario.Names() {
		if !strings.Contains(out.String(), "  "+name+"\n") {
			t.Errorf("%s is not in the help", name)
		}
	}
}
