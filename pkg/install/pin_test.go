package install

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPinner writes manifests anew: nothing but images changes, and what comes out is the only way to read it.
func TestPinner(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	pins := map[string]string{"r.example/a:1": "r.example/a:1" + digest, "b": "docker.io/library/b:latest" + digest, "r.example/c:1": "", "r.example/d" + digest: "r.example/d" + digest}
	for _, tt := range []struct{ name, reason, in, want string }{
		{"nothing", "", "", ""},
		{"numbers", "worth what they were, however large", "a: 1000000\nb: 9007199254740993\nc: 0.1\nd: 0o17\ne: 1_000\n", "---\na: 1000000\nb: 9007199254740993\nc: 0.1\nd: 15\ne: 1000\n"},
		{"texts", "whatever they look like", "a: \"yes\"\nb: \"1\"\nc: |\n  x: y\n\n  ---x\nd: \"2026-01-01\"\n", "---\na: \"yes\"\nb: \"1\"\nc: |\n  x: y\n\n  ---x\nd: \"2026-01-01\"\n"},
		{"comments", "the one by which helm names the template stays", "---\n# Source: x/templates/a.yaml\n# else\na: 1 # one\n---\n# nothing but this\n---\n", "---\n# Source: x/templates/a.yaml\na: 1\n"},
		{"twice the same key", "the API server would take the last, and what is written has one", "spec:\n  containers:\n  - image: r.example/c:1\n    image: r.example/a:1\n", "---\nspec:\n  containers:\n  - image: r.example/a:1" + digest + "\n"},
		{"anchors", "are written out", "x: &x {containers: [{image: r.example/a:1}]}\nz: *x\n", "---\nx:\n  containers:\n  - image: r.example/a:1" + digest + "\nz:\n  containers:\n  - image: r.example/a:1" + digest + "\n"},
		{"behind the end of a document", "nobody reads it, and nobody shall", "a: 1\n...\ncontainers: [{image: evil}]\n", "---\na: 1\n"},
		{"JSON", "is YAML", `{"spec":{"initContainers":[{"image":"b"}]}}`, "---\nspec:\n  initContainers:\n  - image: docker.io/library/b:latest" + digest + "\n"},
		{"planned without a pin", "stays as it is", "containers: [{image: \"r.example/c:1\"}]", "---\ncontainers:\n- image: r.example/c:1\n"},
		{"pinned by the chart", "stays as it is", "containers: [{image: \"r.example/d" + digest + "\"}]", "---\ncontainers:\n- image: r.example/d" + digest + "\n"},
		{"mounted", "an image may be a volume", "volumes: [{name: v, image: {reference: b}}]", "---\nvolumes:\n- image:\n    reference: docker.io/library/b:latest" + digest + "\n  name: v\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &pinner{pins: pins}
			out, err := p.Run(bytes.NewBufferString(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			for _, to := range []string{"r.example/a:1" + digest, "docker.io/library/b:latest" + digest} {
				p.pins[to] = to
			}
			again, err := p.pin(out.String())
			if diff := cmp.Diff(out.String(), again); err != nil || diff != "" {
				t.Errorf("what it wrote stays (-want +got):\n%v%s", err, diff)
			}
		})
	}
	for name, in := range map[string]string{
		"another":         "containers: [{image: evil}]",
		"beside good":     "containers: [{image: b}, {image: evil}]",
		"debugging":       "ephemeralContainers: [{image: evil}]",
		"deep":            "a: {b: [{c: {template: {spec: {containers: [{image: evil}]}}}}]}",
		"no text":         "containers: [{image: 5}]",
		"in another case": "containers: [{image: B}]",
	} {
		_, err := (&pinner{pins: pins}).pin(in)
		var failed *Error
		if !errors.As(err, &failed) || failed.Class != ClassVerification || failed.Advice == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&pinner{}).pin("a: [1\n"); err == nil {
		t.Error("no YAML")
	}
}
