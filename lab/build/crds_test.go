package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCRDs: both sets are there, and they are two: the AWS provider's knows its labels.
func TestCRDs(t *testing.T) {
	repo, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	assets := t.TempDir()
	b := Builder{Repo: repo, Cache: t.TempDir()}
	for range 2 { // the second time from the cache
		if err := b.CRDs(t.Context(), assets); err != nil {
			t.Fatal(err)
		}
	}
	for set, knows := range map[string]bool{"core": false, "aws": true} {
		data, err := os.ReadFile(filepath.Join(assets, "karpenter-crds", set, "karpenter.sh_nodepools.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(data), `label domain "karpenter.k8s.aws" is restricted`); got != knows {
			t.Errorf("%s: knows the labels of AWS: %t, want %t", set, got, knows)
		}
	}
	if err := (Builder{Repo: t.TempDir(), Cache: t.TempDir()}).CRDs(t.Context(), t.TempDir()); err == nil {
		t.Error("no pins, and no error")
	}
}
