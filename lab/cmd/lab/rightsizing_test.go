package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/analyser"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func TestReadRecommendations(t *testing.T) {
	for _, tt := range []struct{ name, text, part string }{
		{"a file", "workloads: [{api_version: apps/v1, kind: Deployment, namespace: shop, name: cart, level: '', containers: [{name: app, cpu: {target: 0.25}}]}]", ""},
		{"a slip", "workloads: [{kind: Deployment, nmae: cart}]", "nmae"},
		{"no file", "", "read the recommendations"},
	} {
		path := filepath.Join(t.TempDir(), "file.yaml")
		if tt.text != "" {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := readRecommendations(path)
		if (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.part)
		}
		if err == nil && (len(got) != 1 || got[0].Name != "cart" || got[0].Containers[0].CPU.Target != 0.25) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// TestShowAnalysis: what was skipped is said with its reason, and a failure is told from an analysis that found nothing.
func TestShowAnalysis(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ref := nopsapi.WorkloadRef{Kind: "Deployment", Namespace: "shop", Name: "cart"}
	for _, tt := range []struct {
		name, want string
		a          platform.Analysis
	}{
		{"not yet", "not analysed yet\n", platform.Analysis{}},
		{"in vain", "analysed at 2026-01-02T03:04:05Z, in vain: the store is down\n", platform.Analysis{At: at, Problem: "the store is down"}},
		{"one, and more that were skipped", "analysed at 2026-01-02T03:04:05Z, 10m0s back: 1 containers of 1 workloads, 12 samples\nskipped: Deployment shop/cart, container app: too young\nskipped: 3 more\n", platform.Analysis{
			At: at, History: "10m0s", Workloads: 1, Containers: 1, Samples: 12, Skipped: []analyser.Skipped{{Workload: ref, Container: "app", Why: "too young"}}, More: 3,
		}},
	} {
		var out bytes.Buffer
		if showAnalysis(&out, tt.a); out.String() != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, out.String(), tt.want)
		}
	}
	var out bytes.Buffer
	root := newRoot(streams{&out, &out})
	root.SetArgs([]string{"rightsizing", "fault", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, f := range platform.RightsizingFaults() {
		if !strings.Contains(out.String(), string(f)) {
			t.Errorf("the help does not name %s:\n%s", f, out.String())
		}
	}
}
