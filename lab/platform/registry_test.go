package platform

import (
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	images "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// shelf is a registry of a test that can be closed and opened at another time.
type shelf struct {
	t   *testing.T
	dir string
	*httptest.Server
}

func (s *shelf) open(now time.Time) {
	s.t.Helper()
	if s.Server != nil {
		s.Close()
	}
	r, err := openRegistry(s.dir, now, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Server = httptest.NewServer(r)
}

func (s *shelf) ref(what string) name.Reference {
	s.t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://")+"/nops/"+what, name.Insecure)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// pulls says whether a reference can be pulled, all layers included.
func (s *shelf) pulls(what string) bool {
	s.t.Helper()
	image, err := remote.Image(s.ref(what))
	if err != nil {
		return false
	}
	layers, err := image.Layers()
	if err != nil {
		return false
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			return false
		}
		rc.Close()
	}
	return true
}

func (s *shelf) blobs() int {
	n := 0
	_ = filepath.WalkDir(filepath.Join(s.dir, "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

func newImage(t *testing.T) (v1.Image, string) {
	t.Helper()
	image, err := images.Image(256, 1)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return image, digest.String()
}

func TestRegistryIsPersistentAndForgetsWhatNobodyNames(t *testing.T) {
	s := &shelf{t: t, dir: t.TempDir()}
	now := time.Now()
	s.open(now)
	defer func() { s.Close() }()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, firstDigest := newImage(t)
	second, secondDigest := newImage(t)
	must(remote.Write(s.ref("agent:1"), first))
	must(remote.Write(s.ref("agent:1"), second)) // the next build of it

	// An index, whose image has no tag, and a signature, which has none either.
	member, memberDigest := newImage(t)
	must(remote.Write(s.ref("multi@"+memberDigest), member))
	must(remote.WriteIndex(s.ref("multi:1"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: member})))
	subject, err := remote.Head(s.ref("agent:1"))
	must(err)
	plain, _ := newImage(t)
	signed, ok := mutate.Subject(plain, v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}).(v1.Image)
	if !ok {
		t.Fatal("a signature is an image")
	}
	signature, err := signed.Digest()
	must(err)
	must(remote.Write(s.ref("agent@"+signature.String()), signed))

	// What cosign attaches has a tag, and yet it goes when what it is attached to goes.
	sig := func(digest string) string { return "agent:" + strings.Replace(digest, ":", "-", 1) + ".sig" }
	for _, digest := range []string{firstDigest, secondDigest} {
		attached, _ := newImage(t)
		must(remote.Write(s.ref(sig(digest)), attached))
	}

	for _, tc := range []struct {
		name   string
		at     time.Time
		pulled map[string]bool
		blobs  int
	}{
		{"at once", now, map[string]bool{"agent:1": true, "agent@" + firstDigest: true, "agent@" + secondDigest: true, "multi@" + memberDigest: true, "agent@" + signature.String(): true, sig(firstDigest): true, sig(secondDigest): true}, 12},
		{"after eight days", now.Add(8 * 24 * time.Hour), map[string]bool{"agent:1": true, "agent@" + firstDigest: false, "agent@" + secondDigest: true, "multi@" + memberDigest: true, "agent@" + signature.String(): true, sig(firstDigest): false, sig(secondDigest): true}, 8},
	} {
		s.open(tc.at)
		for what, want := range tc.pulled {
			if got := s.pulls(what); got != want {
				t.Errorf("%s: pull %s: %v, want %v", tc.name, what, got, want)
			}
		}
		if _, err := remote.Index(s.ref("multi:1")); err != nil {
			t.Errorf("%s: the index: %v", tc.name, err)
		}
		if got := s.blobs(); got != tc.blobs {
			t.Errorf("%s: %d blobs, want %d", tc.name, got, tc.blobs)
		}
	}
	must(remote.Delete(s.ref("agent:1")))
	s.open(now)
	if s.pulls("agent:1") {
		t.Error("a deleted tag came back after a restart")
	}
	must(os.WriteFile(filepath.Join(s.dir, "manifests", "damaged.json"), []byte("{"), 0o600))
	if _, err := openRegistry(s.dir, now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "damaged.json") {
		t.Errorf("a damaged file: %v, want its name", err)
	}
}
