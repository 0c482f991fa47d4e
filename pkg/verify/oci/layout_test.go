package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orasoci "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// byOras copies an image into a layout as oras does, with what hangs on it.
func byOras(t *testing.T, r *ocitest.Registry, dir, name string) *orasoci.Store {
	t.Helper()
	store, err := orasoci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	from, err := remote.NewRepository(r.Host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	from.PlainHTTP = true
	if _, err := oras.ExtendedCopy(t.Context(), from, "1.0.0", store, name, oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	return store
}

// TestLayoutOfOras: a layout that another tool made is read as a registry is, under the full name or under the tag alone.
func TestLayoutOfOras(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", map[string]string{"who": "nops"})
	r.Sign(t, repo, image, ocitest.NotarySignature("n"))
	r.Sign(t, repo, image, ocitest.BundleSignature("b"))
	r.Sign(t, repo, image, ocitest.Signature{Type: "application/spdx+json", Layer: "text/spdx", Layers: []string{"sbom"}})
	for _, name := range []string{published.String(), "1.0.0"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			byOras(t, r, dir, name)
			l, err := oci.OpenLayout(dir, oci.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for _, at := range []ref.Reference{published, {Registry: published.Registry, Repository: repo, Digest: image.Digest.String()}} {
				a, err := l.Resolve(t.Context(), at, ref.Reference{Registry: "mirror.example", Repository: repo, Tag: at.Tag, Digest: at.Digest})
				if err != nil || a.Descriptor.Digest != image.Digest || a.Descriptor.MediaType != image.MediaType || a.Location.Digest != image.Digest.String() {
					t.Fatalf("%+v, %v", a.Descriptor, err)
				}
				found, err := l.Signatures(t.Context(), a)
				if err != nil || len(found.Failed)+len(found.Broken) > 0 || found.Others != 1 || len(found.Looked) != 3 {
					t.Errorf("%+v, %v", found, err)
				}
				if diff := cmp.Diff([]string{"notary-jws n (referrers)", "sigstore-bundle b (referrers)"}, payloads(found)); diff != "" {
					t.Error(diff)
				}
				if labels, err := l.Labels(t.Context(), a); err != nil || labels["who"] != "nops" {
					t.Errorf("labels %v, %v", labels, err)
				}
			}
			_, err = l.Resolve(t.Context(), ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "2.0.0"}, published)
			if strings.Contains(name, "/") && (err == nil || reason(t, err) != verdict.NotFound) {
				t.Errorf("another tag: %v", err)
			}
		})
	}
}

// TestHostileLayout: it came on somebody's stick.
func TestHostileLayout(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	signature := r.Sign(t, repo, image, ocitest.NotarySignature("n"))
	envelope := digest.FromString("n")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("n"), 0o600); err != nil {
		t.Fatal(err)
	}
	index := func(t *testing.T, dir string, change func(*ocispec.Index)) {
		t.Helper()
		var i ocispec.Index
		data, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err != nil || json.Unmarshal(data, &i) != nil {
			t.Fatal(err)
		}
		change(&i)
		data, err = json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace := func(t *testing.T, dir string, sum digest.Digest, with func(path string) error) {
		t.Helper()
		path := filepath.Join(dir, "blobs", "sha256", sum.Encoded())
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := with(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		opens  bool
		want   verdict.Reason // of Resolve
		failed verdict.Reason // of Signatures
	}{
		{"as it was", func(*testing.T, string) {}, true, "", ""},
		{"other bytes for the manifest", func(t *testing.T, dir string) {
			replace(t, dir, image.Digest, func(p string) error { return os.WriteFile(p, []byte(`{"manifests":[]}`), 0o600) })
		}, true, verdict.RegistryLied, ""},
		{"no manifest", func(t *testing.T, dir string) {
			replace(t, dir, image.Digest, func(string) error { return nil })
		}, true, verdict.NotFound, ""},
		{"a link out of it, with the right bytes behind it", func(t *testing.T, dir string) {
			replace(t, dir, envelope, func(p string) error { return os.Symlink(secret, p) })
		}, true, "", verdict.RegistryOdd},
		{"a directory for a blob", func(t *testing.T, dir string) {
			replace(t, dir, envelope, func(p string) error { return os.Mkdir(p, 0o700) })
		}, true, "", verdict.RegistryOdd},
		{"other bytes for the envelope", func(t *testing.T, dir string) {
			replace(t, dir, envelope, func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) })
		}, true, "", verdict.RegistryLied},
		{"no signature's manifest", func(t *testing.T, dir string) {
			replace(t, dir, signature.Digest, func(string) error { return nil })
			index(t, dir, func(i *ocispec.Index) {
				tag := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: "sha256:../../../etc/passwd", Annotations: map[string]string{ocispec.AnnotationRefName: published.Name() + ":" + ocitest.Tag(image)}}
				i.Manifests = append(i.Manifests, tag)
			})
		}, true, "", verdict.RegistryOdd},
		{"a name for what has no digest", func(t *testing.T, dir string) {
			index(t, dir, func(i *ocispec.Index) {
				i.Manifests = append(i.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "../../x", Annotations: map[string]string{ocispec.AnnotationRefName: published.String()}})
			})
		}, true, verdict.RegistryOdd, ""},
		{"no index", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "index.json")) }, false, "", ""},
		{"an index that is none", func(t *testing.T, dir string) { _ = os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o600) }, false, "", ""},
		{"an index of another version", func(t *testing.T, dir string) {
			index(t, dir, func(i *ocispec.Index) { i.SchemaVersion = 3 })
		}, false, "", ""},
		{"not a layout", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "oci-layout")) }, false, "", ""},
		{"a layout of another version", func(t *testing.T, dir string) {
			_ = os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"9"}`), 0o600)
		}, false, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			byOras(t, r, dir, published.String())
			c.change(t, dir)
			l, err := oci.OpenLayout(dir, oci.Options{})
			if (err == nil) != c.opens {
				t.Fatalf("opens: %v", err)
			}
			if !c.opens {
				if !strings.Contains(err.Error(), dir) {
					t.Errorf("%q does not say which", err)
				}
				return
			}
			defer l.Close()
			a, err := l.Resolve(t.Context(), published, published)
			if c.want != "" {
				if err == nil || reason(t, err) != c.want {
					t.Errorf("%v; want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found, err := l.Signatures(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.failed == "" && (len(found.Found) != 1 || len(found.Failed) > 0):
				t.Errorf("%+v", found)
			case c.failed != "" && (len(found.Found) != 0 || len(found.Failed) != 1 || found.Failed[0].Reason != c.failed):
				t.Errorf("found %d, failed %v; want %s", len(found.Found), found.Failed, c.failed)
			}
		})
	}
	if _, err := oci.OpenLayout(filepath.Join(t.TempDir(), "none"), oci.Options{}); err == nil {
		t.Error("opened what is not there")
	}
}
