package images

import (
	"archive/tar"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func spec(t *testing.T) Spec {
	t.Helper()
	program := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(program, []byte("a static binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Spec{Repository: "nops/agent", Tag: "1", Program: program, Name: "agent", Bundle: []byte("certificates"), Ours: true}
}

func TestSameContentSameDigest(t *testing.T) {
	s := spec(t)
	digest := func() v1.Hash {
		t.Helper()
		image, err := Build(s)
		if err != nil {
			t.Fatal(err)
		}
		d, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := digest()
	if second := digest(); second != first {
		t.Errorf("%s, then %s", first, second)
	}
	s.Bundle = []byte("other certificates")
	if other := digest(); other == first {
		t.Error("other certificates, the same digest")
	}
}

// TestVersionOfAnImage: an image under several tags is one image, and a tag says nothing about the program when the version
// says another thing.
func TestVersionOfAnImage(t *testing.T) {
	s := spec(t)
	build := func(tag, version string) (digest, label string) {
		t.Helper()
		s.Tag, s.Version = tag, version
		image, err := Build(s)
		if err != nil {
			t.Fatal(err)
		}
		d, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		return d.String(), config.Config.Labels["org.opencontainers.image.version"]
	}
	first, label := build("0.1.0", "")
	if label != "0.1.0" {
		t.Errorf("label %q, want the tag", label)
	}
	if other, label := build("0.1.4", "0.1.0"); other != first || label != "0.1.0" {
		t.Errorf("under another tag: %s with label %q, want %s with 0.1.0", other, label, first)
	}
	if other, _ := build("0.1.4", ""); other == first {
		t.Error("another version, the same digest")
	}
}

func TestWhatIsInside(t *testing.T) {
	image, err := Build(spec(t))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != Nobody || config.Config.Labels["org.opencontainers.image.source"] != Source || strings.Join(config.Config.Entrypoint, " ") != "/agent" {
		t.Errorf("config %+v", config.Config)
	}
	files := map[string]int64{}
	r := mutate.Extract(image)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(h.Name, "/")] = h.Mode
	}
	for name, mode := range map[string]int64{"agent": 0o755, "etc/passwd": 0o644, "etc/ssl/certs/ca-certificates.crt": 0o644, "tmp": 0o1777} {
		if got, ok := files[name]; !ok || got != mode {
			t.Errorf("%s: mode %o, want %o", name, got, mode)
		}
	}
	for name := range files {
		if strings.Contains(name, "bin/") {
			t.Errorf("%s: nothing but the program should be there", name)
		}
	}
}

func TestPushedOnce(t *testing.T) {
	handler := registry.New()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	s := spec(t)
	image, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	first, err := Push(t.Context(), host, s, image)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Push(t.Context(), host, s, image)
	if err != nil || again != first {
		t.Errorf("%s, then %s, %v", first, again, err)
	}
	if _, err := Push(t.Context(), "127.0.0.1:1", s, image); err == nil {
		t.Error("pushed to nobody")
	}
}

// TestPushIndex pushes two architectures as one image.
func TestPushIndex(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("not run here"), 0o600); err != nil {
		t.Fatal(err)
	}
	var both []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		one, err := Build(Spec{Repository: "nops/a", Tag: "1", Program: program, Name: "a", Arch: arch})
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, one)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	r := Registry{Host: host, Insecure: true}
	first, err := r.PushIndex(t.Context(), "nops/a", "1", both)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.PushIndex(t.Context(), "nops/a", "1", both); err != nil || again != first {
		t.Errorf("%s, then %s: %v", first, again, err)
	}
	tag, err := name.NewTag(host+"/nops/a:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		image, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if config, err := image.ConfigFile(); err != nil || config.Architecture != arch {
			t.Errorf("%s: %v %+v", arch, err, config)
		}
	}
}
