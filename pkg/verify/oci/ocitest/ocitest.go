// Package ocitest is a registry for tests: a real one in memory, with hooks to make it lie, stall or flood.
package ocitest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// The media types of what hangs on images.
const (
	Notary = "application/vnd.cncf.notary.signature"
	JWS    = "application/jose+json"
	COSE   = "application/cose"
	Simple = "application/vnd.dev.cosign.simplesigning.v1+json"
	Bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// Registry is one on 127.0.0.1, over plain HTTP.
type Registry struct {
	Host string // with port

	mu      sync.Mutex
	before  func(http.ResponseWriter, *http.Request) bool
	log     []string
	handler http.Handler
}

// New starts one, with or without the referrers API. It ends with the test.
func New(t testing.TB, referrers bool) *Registry {
	t.Helper()
	r := &Registry{handler: registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0)))}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.Host = strings.TrimPrefix(s.URL, "http://")
	return r
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	before := r.before
	r.log = append(r.log, req.Method+" "+req.URL.Path)
	r.mu.Unlock()
	if before == nil || !before(w, req) {
		r.handler.ServeHTTP(w, req)
	}
}

// Before is asked about every request from now on; true means that it has answered.
func (r *Registry) Before(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.log = f, nil
}

// Log is what was asked since Before was called last, "GET /v2/…".
func (r *Registry) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.log...)
}

// Count is how many of the requests had the method, and the part in their path.
func (r *Registry) Count(method, part string) int {
	n := 0
	for _, line := range r.Log() {
		if m, path, _ := strings.Cut(line, " "); m == method && strings.Contains(path, part) {
			n++
		}
	}
	return n
}

// Ref is a reference into the registry.
func (r *Registry) Ref(repository, tag string) ref.Reference {
	return ref.Reference{Registry: r.Host, Repository: repository, Tag: tag}
}

// do sends to the registry itself, past all hooks, and returns the status.
func (r *Registry) do(t testing.TB, method, path, contentType string, body []byte) int {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, "http://"+r.Host+path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	return w.Code
}

// Blob stores bytes.
func (r *Registry) Blob(t testing.TB, repository, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if status := r.do(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.Digest.String(), "application/octet-stream", data); status != http.StatusCreated {
		t.Fatalf("store blob: HTTP %d", status)
	}
	return d
}

// Manifest stores a manifest under its digest, and under a tag where there is one. doc is JSON, or a value to be written as JSON.
func (r *Registry) Manifest(t testing.TB, repository, tag, mediaType string, doc any) ocispec.Descriptor {
	t.Helper()
	data, ok := doc.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, reference := range []string{d.Digest.String(), tag} {
		if reference == "" {
			continue
		}
		if status := r.do(t, http.MethodPut, "/v2/"+repository+"/manifests/"+reference, mediaType, data); status != http.StatusCreated {
			t.Fatalf("store manifest: HTTP %d", status)
		}
	}
	return d
}

// Image stores an image of one layer. Its content follows from seed.
func (r *Registry) Image(t testing.TB, repository, tag, seed string, labels map[string]string) ocispec.Descriptor {
	t.Helper()
	config := r.Blob(t, repository, ocispec.MediaTypeImageConfig, mustJSON(t, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Labels": labels}, "seed": seed}))
	layer := r.Blob(t, repository, ocispec.MediaTypeImageLayerGzip, []byte("layer of "+seed))
	return r.Manifest(t, repository, tag, ocispec.MediaTypeImageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": []ocispec.Descriptor{layer},
	})
}

// Index stores an index of images.
func (r *Registry) Index(t testing.TB, repository, tag string, children ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return r.Manifest(t, repository, tag, ocispec.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": children,
	})
}

// Signature is what a signature's manifest is made of.
type Signature struct {
	Config      string // media type; empty: the empty configuration of OCI 1.1
	Type        string // artifactType
	Layer       string // media type of each layer
	Layers      []string
	Annotations map[string]string
	NoSubject   bool
}

// Sign stores a manifest with the subject. Nothing in it is signed: what finds signatures does not look inside them.
func (r *Registry) Sign(t testing.TB, repository string, subject ocispec.Descriptor, s Signature) ocispec.Descriptor {
	t.Helper()
	if s.Config == "" {
		s.Config = ocispec.MediaTypeEmptyJSON
	}
	doc := map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": r.Blob(t, repository, s.Config, []byte("{}"))}
	var layers []ocispec.Descriptor
	for _, l := range s.Layers {
		layers = append(layers, r.Blob(t, repository, s.Layer, []byte(l)))
	}
	doc["layers"] = layers
	if s.Type != "" {
		doc["artifactType"] = s.Type
	}
	if !s.NoSubject {
		doc["subject"] = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	if s.Annotations != nil {
		doc["annotations"] = s.Annotations
	}
	return r.Manifest(t, repository, "", ocispec.MediaTypeImageManifest, doc)
}

// NotarySignature is one as notation stores it.
func NotarySignature(envelope string) Signature {
	sum := sha256.Sum256([]byte(envelope))
	return Signature{Config: Notary, Layer: JWS, Layers: []string{envelope}, Annotations: map[string]string{
		"io.cncf.notary.x509chain.thumbprint#S256": fmt.Sprintf("[%q]", hex.EncodeToString(sum[:])),
	}}
}

// BundleSignature is one as cosign 3 stores it.
func BundleSignature(bundle string) Signature {
	return Signature{Type: Bundle, Layer: Bundle, Layers: []string{bundle}, Annotations: map[string]string{
		"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
	}}
}

// Cosign stores the manifest of a .sig tag, a layer for each payload, as cosign 1 and 2 do.
func (r *Registry) Cosign(t testing.TB, repository string, subject ocispec.Descriptor, payloads ...string) ocispec.Descriptor {
	t.Helper()
	var layers []ocispec.Descriptor
	for i, p := range payloads {
		l := r.Blob(t, repository, Simple, []byte(p))
		l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": fmt.Sprintf("signature %d", i)}
		layers = append(layers, l)
	}
	return r.Manifest(t, repository, Tag(subject)+".sig", ocispec.MediaTypeImageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": r.Blob(t, repository, ocispec.MediaTypeImageConfig, []byte("{}")), "layers": layers,
	})
}

// Fallback stores the index that lists what hangs on a subject where there is no referrers API.
func (r *Registry) Fallback(t testing.TB, repository string, subject ocispec.Descriptor, referrers ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return r.Index(t, repository, Tag(subject), referrers...)
}

// Tag is the tag that stands for a digest.
func Tag(d ocispec.Descriptor) string { return strings.Replace(d.Digest.String(), ":", "-", 1) }

// Has says whether the registry has a manifest under a tag or digest.
func (r *Registry) Has(t testing.TB, repository, reference string) bool {
	t.Helper()
	return r.do(t, http.MethodHead, "/v2/"+repository+"/manifests/"+reference, "", nil) == http.StatusOK
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
