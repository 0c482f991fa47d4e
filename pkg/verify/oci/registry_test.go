package oci_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const repo = "nops/agent"

// published is the name that policies know; the test's registry is where it is found.
var published = ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "1.0.0"}

func reason(t *testing.T, err error) verdict.Reason {
	t.Helper()
	var e *oci.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *oci.Error", err)
	}
	if e.Finding.Outcome.OK() || e.Finding.Outcome != e.Finding.Reason.Outcome() || e.Finding.Message == "" {
		t.Fatalf("finding %+v", e.Finding)
	}
	return e.Finding.Reason
}

func TestResolve(t *testing.T) {
	r := ocitest.New(t, true)
	image := r.Image(t, repo, "1.0.0", "one", map[string]string{"who": "nops"})
	other := r.Image(t, repo, "other", "two", nil)
	index := r.Index(t, repo, "multi", image, other)
	docker := r.Manifest(t, repo, "docker", "application/vnd.docker.distribution.manifest.v2+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": r.Blob(t, repo, "application/vnd.docker.container.image.v1+json", []byte(`{"config":{"Labels":{"who":"docker"}}}`)),
		"layers": []ocispec.Descriptor{},
	})
	list := r.Manifest(t, repo, "list", "application/vnd.docker.distribution.manifest.list.v2+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []ocispec.Descriptor{docker},
	})
	untyped := r.Manifest(t, repo, "untyped", ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"`+r.Blob(t, repo, "", []byte(`{"name":"chart"}`)).Digest.String()+`","size":16},"layers":[]}`))
	latest := r.Image(t, repo, "latest", "latest", nil)

	for _, c := range []struct {
		name, tag, digest string
		want              ocispec.Descriptor
		children          int
		label             string
		reason            string
	}{
		{"tag", "1.0.0", "", image, 0, "nops", "the usual"},
		{"digest", "", image.Digest.String(), image, 0, "nops", "pinned already"},
		{"digest wins over tag", "other", image.Digest.String(), image, 0, "nops", "a tag beside a digest is for people"},
		{"index", "multi", "", index, 2, "nops", "children are listed, labels come from the first"},
		{"docker manifest", "docker", "", docker, 0, "docker", "what docker push makes"},
		{"docker list", "list", "", list, 1, "docker", "what docker buildx makes"},
		{"no media type inside", "untyped", "", untyped, 0, "", "OCI lets it be left out; a chart has no labels"},
		{"neither tag nor digest", "", "", latest, 0, "", "as container runtimes do"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := oci.New(oci.Options{UserAgent: "nopsctl/test"})
			r.Before(func(_ http.ResponseWriter, req *http.Request) bool {
				if got := req.UserAgent(); got != "nopsctl/test" {
					t.Errorf("user agent %q", got)
				}
				return false
			})
			at := r.Ref(repo, c.tag).At(c.digest)
			a, err := s.Resolve(t.Context(), published, at)
			if err != nil {
				t.Fatalf("%s: %v", c.reason, err)
			}
			if a.Descriptor.Digest != c.want.Digest || a.Descriptor.MediaType != c.want.MediaType || a.Descriptor.Size != c.want.Size || int64(len(a.Manifest)) != c.want.Size {
				t.Errorf("%s: resolved to %+v, want %+v", c.reason, a.Descriptor, c.want)
			}
			if a.Canonical != published || a.Location.Digest != c.want.Digest.String() || a.Location.Name() != at.Name() || len(a.Children) != c.children {
				t.Errorf("%s: %+v", c.reason, a)
			}
			if n := len(r.Log()); n != 1 {
				t.Errorf("%d requests, want one: %v", n, r.Log())
			}
			labels, err := s.Labels(t.Context(), a)
			if err != nil || labels["who"] != c.label {
				t.Errorf("labels %v, %v; want %q", labels, err, c.label)
			}
		})
	}
}

// TestTagMovesAfterwards: what was resolved is bound to the first bytes, whatever the tag means a moment later.
func TestTagMovesAfterwards(t *testing.T) {
	r := ocitest.New(t, true)
	first := r.Image(t, repo, "1.0.0", "one", map[string]string{"who": "nops"})
	r.Sign(t, repo, first, ocitest.NotarySignature("about the first"))
	s := oci.New(oci.Options{})
	a, err := s.Resolve(t.Context(), published, r.Ref(repo, "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	second := r.Image(t, repo, "1.0.0", "two", map[string]string{"who": "evil"})
	r.Sign(t, repo, second, ocitest.NotarySignature("about the second"))
	found, err := s.Signatures(t.Context(), a)
	if err != nil || len(found.Found) != 1 || string(found.Found[0].Payload) != "about the first" {
		t.Errorf("found %+v, %v", found, err)
	}
	if labels, err := s.Labels(t.Context(), a); err != nil || labels["who"] != "nops" {
		t.Errorf("labels %v, %v", labels, err)
	}
	if a.Location.Digest != first.Digest.String() {
		t.Errorf("pinned to %s", a.Location.Digest)
	}
}

// TestResolveRefuses: registries that lie (Kyverno's CVE-2022-47633, notation's CVE-2023-33959), and those that cannot be used.
func TestResolveRefuses(t *testing.T) {
	honest := ocitest.New(t, true)
	image := honest.Image(t, repo, "1.0.0", "one", nil)
	evil := honest.Image(t, repo, "evil", "two", nil)
	pinned := honest.Ref(repo, "1.0.0").At(image.Digest.String())
	answer := func(status int, contentType, sum, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", contentType)
			if sum != "" {
				w.Header().Set("Docker-Content-Digest", sum)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	const config = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	minimal := `{"schemaVersion":2,` + config + `,"layers":[]}`
	for _, c := range []struct {
		name   string
		before func(http.ResponseWriter, *http.Request) bool
		at     ref.Reference
		want   verdict.Reason
		says   string
		reason string
	}{
		{"another manifest for a digest", func(w http.ResponseWriter, req *http.Request) bool {
			req.URL.Path = strings.Replace(req.URL.Path, image.Digest.String(), evil.Digest.String(), 1)
			return false
		}, pinned, verdict.RegistryLied, evil.Digest.String(), "the registry itself calls it by its true digest"},
		{"another manifest, called by the digest asked for", answer(200, ocispec.MediaTypeImageManifest, image.Digest.String(), minimal), pinned, verdict.RegistryLied, "serves bytes", "the header is not evidence"},
		{"another digest for a tag", answer(200, ocispec.MediaTypeImageManifest, image.Digest.String(), minimal), honest.Ref(repo, "1.0.0"), verdict.RegistryLied, image.Digest.String(), "somebody may verify the header's and run the bytes"},
		{"a digest that is none", answer(200, ocispec.MediaTypeImageManifest, "sha256:evil", minimal), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "", "nothing can be compared with it"},
		{"image and index in one", answer(200, ocispec.MediaTypeImageManifest, "", `{"schemaVersion":2,`+config+`,"layers":[],"manifests":[]}`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "both", "CVE-2021-41190"},
		{"an index called an image", answer(200, ocispec.MediaTypeImageManifest, "", `{"schemaVersion":2,"manifests":[]}`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "calls", "the runtime believes the header"},
		{"an image that calls itself an index", answer(200, "", "", `{"mediaType":"`+ocispec.MediaTypeImageIndex+`",`+config+`}`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "not what", "same, the other way"},
		{"schema 1", answer(200, "application/vnd.docker.distribution.manifest.v1+prettyjws", "", `{"schemaVersion":1,"mediaType":"application/vnd.docker.distribution.manifest.v1+prettyjws"}`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "does not read", "its digest is ambiguous"},
		{"a page for people", answer(200, "text/html", "", `<html>`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "no JSON", "captive portals"},
		{"a child without a digest", answer(200, "", "", `{"manifests":[{"digest":"sha512:abc","size":1}]}`), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "entry", "nothing to hold it to"},
		{"too large", answer(200, ocispec.MediaTypeImageManifest, "", `{"a":"`+strings.Repeat("x", 5<<20)+`"}`), honest.Ref(repo, "1.0.0"), verdict.LimitReached, "4 MiB", "no honest manifest is"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "4000")
			_, _ = w.Write([]byte(minimal))
			return true
		}, honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "breaks off", "half an answer is none"},
		{"no such tag", nil, honest.Ref(repo, "9.9.9"), verdict.NotFound, "9.9.9", "the name is said"},
		{"no such repository", nil, honest.Ref("nops/none", "1"), verdict.NotFound, "", ""},
		{"denied", answer(403, "", "", `{"errors":[{"code":"DENIED","message":"\u001b]0;evil\u0007"}]}`), honest.Ref(repo, "1.0.0"), verdict.RegistryDenied, "403", "what the registry writes is not repeated"},
		{"asked too often", answer(429, "", "", ""), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "too often", ""},
		{"out of order", answer(500, "", "", ""), honest.Ref(repo, "1.0.0"), verdict.RegistryOdd, "500", ""},
		{"nobody there", nil, ref.Reference{Registry: "127.0.0.1:1", Repository: repo, Tag: "1"}, verdict.RegistryUnreachable, "127.0.0.1:1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			honest.Before(c.before)
			a, err := oci.New(oci.Options{}).Resolve(t.Context(), published, c.at)
			if err == nil {
				t.Fatalf("%s: resolved to %+v", c.reason, a.Descriptor)
			}
			if got := reason(t, err); got != c.want || !strings.Contains(err.Error(), c.says) || strings.ContainsAny(err.Error(), "\x1b\x07\n") {
				t.Errorf("%s: %s: %q; want %s with %q", c.reason, got, err, c.want, c.says)
			}
			if !strings.HasPrefix(err.Error(), "registry "+c.at.Registry+" ") || len(err.Error()) > 500 {
				t.Errorf("message %q", err)
			}
			if a.Descriptor.Digest != "" {
				t.Errorf("an artifact beside the error: %+v", a)
			}
		})
	}
}

// TestFetch: everything that a descriptor means is compared with it.
func TestFetch(t *testing.T) {
	r := ocitest.New(t, true)
	s := oci.New(oci.Options{})
	blob := r.Blob(t, repo, "application/octet-stream", []byte("hello"))
	image := r.Image(t, repo, "1", "one", nil)
	longer, shorter, absent := blob, blob, blob
	longer.Size++
	shorter.Size--
	absent.Digest = digest.FromString("absent")
	for _, c := range []struct {
		name  string
		d     ocispec.Descriptor
		limit int64
		lie   string
		want  verdict.Reason
	}{
		{"a blob", blob, 5, "", ""},
		{"a manifest", image, 1 << 20, "", ""},
		{"larger than the limit", blob, 4, "", verdict.LimitReached},
		{"announced longer", longer, 100, "", verdict.Malformed},
		{"announced shorter", shorter, 100, "", verdict.Malformed},
		{"absent", absent, 100, "", verdict.NotFound},
		{"other bytes", blob, 100, "jello", verdict.RegistryLied},
		{"more bytes", blob, 100, "hello and more", verdict.RegistryLied},
		{"endless", blob, 100, strings.Repeat("x", 1<<20), verdict.LimitReached},
		{"no digest", ocispec.Descriptor{Digest: "../../../etc/passwd", Size: 5}, 100, "", verdict.RegistryOdd},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.Before(func(w http.ResponseWriter, _ *http.Request) bool {
				if c.lie != "" {
					_, _ = w.Write([]byte(c.lie))
				}
				return c.lie != ""
			})
			data, err := s.Fetch(t.Context(), r.Ref(repo, "1"), c.d, c.limit)
			switch {
			case c.want == "" && (err != nil || int64(len(data)) != c.d.Size):
				t.Errorf("%d bytes, %v", len(data), err)
			case c.want != "" && err == nil:
				t.Errorf("accepted %q", data)
			case c.want != "":
				if got := reason(t, err); got != c.want {
					t.Errorf("%s: %v; want %s", got, err, c.want)
				}
			}
		})
	}
}
