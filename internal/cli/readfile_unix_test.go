//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	small, big, pipe := filepath.Join(dir, "small"), filepath.Join(dir, "big"), filepath.Join(dir, "pipe")
	must(t, os.WriteFile(small, []byte("text"), 0o600))
	must(t, os.WriteFile(big, nil, 0o600))
	must(t, os.Truncate(big, maxFile+1))
	must(t, syscall.Mkfifo(pipe, 0o600))
	if data, err := readFile(small); err != nil || string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
	for name, want := range map[string]string{
		big: "more than 32 MiB", pipe: "no regular file", dir: "no regular file", "/dev/zero": "no regular file", filepath.Join(dir, "absent"): "no such file",
	} {
		if _, err := readFile(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A policy that names a device, and flags that do, say so at once.
	w := newWorld(t)
	policy := filepath.Join(dir, "policy.yaml")
	must(t, os.WriteFile(policy, []byte("apiVersion: nopsctl.io/v1\nkind: ImagePolicy\nimages:\n  - match: [public.ecr.aws/nops/*]\n    require: {cosignKey: {keyFile: /dev/zero}}\n"), 0o600))
	w.want(CodeUsage, "verify", "--policy", policy, nops+"x:1")
	w.contains(w.errOut, "/dev/zero", "no regular file")
	w.want(CodeUsage, "verify", "--policy", pipe, nops+"x:1")
}
