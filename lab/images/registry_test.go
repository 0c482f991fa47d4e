package images

import (
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/registry"
)

// counted is a registry that counts what is written to it.
func counted(t *testing.T) (Registry, *atomic.Int64) {
	t.Helper()
	var writes atomic.Int64
	next := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(t.Output(), "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes.Add(1)
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return Registry{Host: strings.TrimPrefix(server.URL, "http://"), Insecure: true}, &writes
}

func TestEnsure(t *testing.T) {
	r, writes := counted(t)
	s, memo := spec(t), filepath.Join(t.TempDir(), "memo")
	first, pushed, err := r.Ensure(t.Context(), s, memo)
	if err != nil || !pushed || first == "" {
		t.Fatalf("the first time: %q, pushed %v, %v", first, pushed, err)
	}
	before := writes.Load()
	again, pushed, err := r.Ensure(t.Context(), s, memo)
	if err != nil || pushed || again != first || writes.Load() != before {
		t.Errorf("the second time: %q, pushed %v, %v, %d writes; want nothing to do", again, pushed, err, writes.Load()-before)
	}
	moved := s
	moved.Program = filepath.Join(t.TempDir(), "elsewhere")
	copyFile(t, s.Program, moved.Program)
	if again, pushed, err = r.Ensure(t.Context(), moved, memo); err != nil || pushed || again != first {
		t.Errorf("the same program elsewhere: %q, pushed %v, %v", again, pushed, err)
	}
	// An unchanged digest needs no push even without a note.
	if again, pushed, err = r.Ensure(t.Context(), s, ""); err != nil || pushed || again != first {
		t.Errorf("without notes: %q, pushed %v, %v", again, pushed, err)
	}
	for name, change := range map[string]func(*Spec){
		"program":      func(s *Spec) { s.Program = filepath.Join(t.TempDir(), "p"); writeFile(t, s.Program, "another binary") },
		"certificates": func(s *Spec) { s.Bundle = []byte("others") },
		"revision":     func(s *Spec) { s.Revision = "abc" },
		"ours":         func(s *Spec) { s.Ours = false },
		"architecture": func(s *Spec) { s.Arch = "riscv64" },
		"name":         func(s *Spec) { s.Name = "other" },
		"version":      func(s *Spec) { s.Version = "2" },
	} {
		other := s
		change(&other)
		digest, pushed, err := r.Ensure(t.Context(), other, memo)
		if err != nil || !pushed || digest == first {
			t.Errorf("another %s: %q, pushed %v, %v; want another image", name, digest, pushed, err)
		}
		// Somebody else moved the tag: the note says what follows from our content, not what the registry holds.
		if back, pushed, err := r.Ensure(t.Context(), s, memo); err != nil || !pushed || back != first {
			t.Errorf("back from another %s: %q, pushed %v, %v", name, back, pushed, err)
		}
	}
	empty, _ := counted(t)
	if got, pushed, err := empty.Ensure(t.Context(), s, memo); err != nil || !pushed || got != first {
		t.Errorf("an empty registry, with notes: %q, pushed %v, %v", got, pushed, err)
	}
	if _, _, err := (Registry{Host: "127.0.0.1:1", Insecure: true}).Ensure(t.Context(), s, memo); err == nil || !strings.Contains(err.Error(), s.Repository) {
		t.Errorf("nobody there: %v, want an error that names the image", err)
	}
	gone := s
	gone.Program = "/none"
	if _, _, err := r.Ensure(t.Context(), gone, memo); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Errorf("no program: %v", err)
	}
}

func TestPushChart(t *testing.T) {
	r, writes := counted(t)
	chart := fstest.MapFS{
		"Chart.yaml":               {Data: []byte("apiVersion: v2\nname: kubernetes-agent\nversion: 0.1.0\nappVersion: 0.1.0\n")},
		"values.yaml":              {Data: []byte("a: 1\n")},
		"templates/_helpers.tpl":   {Data: []byte("{{- define \"x\" }}{{ end }}\n")},
		"templates/configmap.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")},
		"files/nested/note.txt":    {Data: []byte("n")},
	}
	name, version, first, err := r.PushChart(t.Context(), "nops", chart)
	if err != nil || name != "kubernetes-agent" || version != "0.1.0" {
		t.Fatalf("%s %s: %v", name, version, err)
	}
	before := writes.Load()
	if _, _, again, err := r.PushChart(t.Context(), "nops", chart); err != nil || again != first || writes.Load() != before {
		t.Errorf("pushed again: %s, then %s, %v, %d writes", first, again, err, writes.Load()-before)
	}
	for reason, files := range map[string]fstest.MapFS{"nothing": {}, "no name": {"Chart.yaml": {Data: []byte("version: 1.0.0")}}, "no YAML": {"Chart.yaml": {Data: []byte("\t")}}} {
		if _, _, _, err := r.PushChart(t.Context(), "nops", files); err == nil {
			t.Errorf("a chart with %s was pushed", reason)
		}
	}
	// The judge is Helm itself, of both releases that people use.
	for _, release := range []string{"NOPSCTL_HELM3", "NOPSCTL_HELM4"} {
		t.Run(release, func(t *testing.T) {
			helm := os.Getenv(release)
			if helm == "" {
				t.Skipf("%s names no helm: whether it takes the chart is left open (make test-unit sets it)", release)
			}
			home := t.TempDir()
			cmd := exec.Command(helm, "template", "x", "oci://"+r.Host+"/nops/kubernetes-agent", "--version", "0.1.0", "--plain-http")
			cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "kind: ConfigMap") {
				t.Errorf("helm template: %v\n%s", err, out)
			}
		})
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, string(text))
}

// TestRemove: a tag is taken away with its image and what hangs on it, but not what another tag still leads to.
func TestRemove(t *testing.T) {
	r, _ := counted(t)
	s := spec(t)
	first, _, err := r.Ensure(t.Context(), s, "")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	there := func(reference string, want bool) {
		t.Helper()
		if got, err := r.Has(t.Context(), s.Repository, reference); err != nil || got != want {
			t.Errorf("%s is there: %v, %v; want %v", reference, got, err, want)
		}
	}
	second, err := r.Variant(t.Context(), s.Repository, s.Tag, "other", "x")
	must(err)
	if second == first {
		t.Fatal("the variant is the same image")
	}
	same, err := r.Variant(t.Context(), s.Repository, s.Tag, "same", "x")
	must(err)
	if same != second {
		t.Errorf("the same variant is %s once and %s once", second, same)
	}
	for _, digest := range []string{first, second} {
		hanging, err := r.Variant(t.Context(), s.Repository, s.Tag, cosignTag(digest), "what hangs on "+digest)
		must(err)
		there(hanging, true)
	}
	if got, err := r.Attached(t.Context(), s.Repository, second); err != nil || len(got) != 1 {
		t.Errorf("what hangs on it: %v, %v", got, err)
	}
	must(r.Remove(t.Context(), s.Repository, "other"))
	there("other", false)
	there("same", true)
	there(second, true)
	there(cosignTag(second), true)
	must(r.Remove(t.Context(), s.Repository, "same"))
	there(second, false)
	there(cosignTag(second), false)
	there(first, true)
	there(cosignTag(first), true)
	must(r.Remove(t.Context(), s.Repository, "never"))
	copied, err := r.Copy(t.Context(), s.Repository, s.Tag, "mirror/agent")
	must(err)
	if hanging, err := r.Attached(t.Context(), "mirror/agent", copied); err != nil || len(hanging) != 0 || copied != first {
		t.Errorf("a copy is %s with %v, %v; want %s alone", copied, hanging, err, first)
	}
}
