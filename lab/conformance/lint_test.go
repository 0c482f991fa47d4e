package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lint runs helm lint --strict over the chart, away from the settings and the cluster of whoever runs the test.
func lint(t *testing.T, program, dir string, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(program, append([]string{"lint", "--strict", dir}, args...)...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + filepath.Join(home, "none")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// altered is a copy of the chart in which a text of one file is another one, wherever it stands. No file: a plain copy.
func altered(t *testing.T, file, from, to string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "kubernetes-agent")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(chart, "chart"))); err != nil {
		t.Fatal(err)
	}
	if file == "" {
		return dir
	}
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), from) {
		t.Fatalf("no %q in %s: %v", from, file, err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), from, to)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// stopped: lint goes on where a render stops, and says so, each major version in its own words. What follows there was not linted.
func stopped(out string) bool {
	return strings.Contains(out, "[INFO] Fail: ") || strings.Contains(out, "funcMap fail")
}

// TestLint: helm's own judgement, by each of its major versions, with the values of every case, and for the oldest and the newest Kubernetes.
func TestLint(t *testing.T) {
	root := filepath.Join(chart, "chart")
	values, err := filepath.Glob(filepath.Join(chart, "testdata", "cases", "*.yaml"))
	if err != nil || len(values) < 10 {
		t.Fatalf("only %d cases, %v", len(values), err)
	}
	// Cases called all-… are rendered with the components too that are not yet part of a release.
	whole := altered(t, "files/images.yaml", "available: false", "available: true")
	for _, variable := range []string{"NOPSCTL_HELM3", "NOPSCTL_HELM4"} {
		t.Run(variable, func(t *testing.T) {
			program := os.Getenv(variable)
			if program == "" {
				t.Skip(variable + " names no helm: its judgement of the chart is left open (make test-unit sets it)")
			}
			runs := 0
			passes := func(values string, args ...string) {
				runs++
				dir := root
				if strings.HasPrefix(filepath.Base(values), "all-") {
					dir = whole
				}
				out, err := lint(t, program, dir, append(args, "--values", values)...)
				if err != nil || !strings.Contains(out, "1 chart(s) linted, 0 chart(s) failed") {
					t.Errorf("%s %v: %v\n%s", filepath.Base(values), args, err, out)
				}
				if stopped(out) {
					t.Errorf("%s %v: a part of the chart was not linted:\n%s", filepath.Base(values), args, out)
				}
			}
			minors := releases(t)
			oldest, newest := minors[0].version, minors[len(minors)-1].version
			for _, path := range values {
				passes(path, "--kube-version", newest)
			}
			components := filepath.Join(chart, "testdata", "cases", "all-components.yaml")
			passes(components, "--kube-version", oldest)
			passes(components) // for the version that helm assumes, which may be older than any that the chart installs on
			// Without a key and a cluster a render stops, so this shows too that stopped sees it.
			if out, err := lint(t, program, root); err != nil || !stopped(out) {
				t.Errorf("with the chart's own values alone: %v\n%s", err, out)
			}
			t.Logf("%d runs of helm lint", runs+1)
		})
	}
}

// TestLintCanFail plants what lint must refuse.
func TestLintCanFail(t *testing.T) {
	for _, variable := range []string{"NOPSCTL_HELM3", "NOPSCTL_HELM4"} {
		t.Run(variable, func(t *testing.T) {
			program := os.Getenv(variable)
			if program == "" {
				t.Skip(variable + " names no helm: whether it refuses a broken chart is left open (make test-unit sets it)")
			}
			for _, tt := range []struct {
				name, file, from, to string // in a copy of the chart
				args                 []string
				want                 string
			}{
				{name: "a misspelt value", args: []string{"--set", "heartbeat.enabeld=true"}, want: "'enabeld' not allowed"},
				{name: "a template that does not parse", file: "templates/heartbeat.yaml", from: "{{- end }}", to: "{{- ende }}", want: `function "ende" not defined`},
				{name: "a version that is none", file: "Chart.yaml", from: "\nversion: ", to: "\nversion: one.", want: "version"},
			} {
				dir := altered(t, tt.file, tt.from, tt.to)
				if out, err := lint(t, program, dir, tt.args...); err == nil || !strings.Contains(out, tt.want) {
					t.Errorf("%s: %v, want %q in\n%s", tt.name, err, tt.want, out)
				}
			}
		})
	}
}
