package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func example() Status {
	return Status{
		SchemaVersion: 1, Name: "demo", State: "up", PID: 4711, Kubeconfig: "/state/demo/kubeconfig", ClusterARN: "arn:aws:eks:us-east-1:123456789012:cluster/demo",
		PlatformURL: "http://127.0.0.1:40001", APIKey: "4242.0123456789abcdef0123456789abcdef", MetricsURL: "http://127.0.0.1:40002", Registry: "127.0.0.1:40003",
		ProxyURL: "http://127.0.0.1:40004", CABundle: "/state/demo/bundle.pem", Policy: "/state/demo/policy.yaml", AWSKeyID: "AKIAEXAMPLE", AWSSecretKey: "0123456789", AWSKeys: "/state/demo/aws/credentials",
		Faults: map[string]string{"platform": "up", "metrics": "down", "registry-nodes": "up"},
	}
}

func TestStatusGolden(t *testing.T) {
	for _, tt := range []struct {
		file   string
		status Status
		json   bool
	}{
		{"status-up.json", example(), true},
		{"status-up.txt", example(), false},
		{"status-down.json", Status{SchemaVersion: 1, Name: "demo", State: "down", Faults: map[string]string{}}, true},
		{"status-down.txt", Status{Name: "demo", State: "down"}, false},
	} {
		t.Run(tt.file, func(t *testing.T) {
			var out bytes.Buffer
			if tt.json {
				if err := writeJSON(&out, tt.status); err != nil {
					t.Fatal(err)
				}
			} else {
				tt.status.text(&out)
			}
			path := filepath.Join("testdata", tt.file)
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (run with -update)", err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("differs from %s:\n%s", path, diff)
			}
		})
	}
}

// TestStatusIsDocumented: every field has its row in docs/json.md.
func TestStatusIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "## `lab status -o json`")
	if !ok {
		t.Fatal("docs/json.md has no section on lab status")
	}
	for i := range reflect.TypeFor[Status]().NumField() {
		name := reflect.TypeFor[Status]().Field(i).Tag.Get("json")
		if !regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(name) + "` \\|").MatchString(section) {
			t.Errorf("docs/json.md does not describe %s", name)
		}
	}
}
