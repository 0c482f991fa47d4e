package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// registry serves one image, behind a token that anybody gets, as public registries do.
type registry struct {
	blobs  map[string][]byte
	status int
	tokens int
}

func (r *registry) add(v any) (digest string, size int) {
	data, _ := json.Marshal(v)
	sum := sha256.Sum256(data)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	r.blobs[digest] = data
	return digest, len(data)
}

func newRegistry(t *testing.T, labels map[string]string) (*registry, string) {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}}
	const manifestType, indexType = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	config, size := r.add(map[string]any{"os": "linux", "config": map[string]any{"Labels": labels}})
	manifest, manifestSize := r.add(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size}, "layers": []any{}})
	index, _ := r.add(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{map[string]any{"mediaType": manifestType, "digest": manifest, "size": manifestSize}}})
	names := map[string]string{"single": manifest, "multi": index}
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			r.tokens++
			fmt.Fprint(w, `{"token":"anonymous"}`)
			return
		}
		if r.status != 0 {
			w.WriteHeader(r.status)
			return
		}
		if req.Header.Get("Authorization") != "Bearer anonymous" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, server.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reference := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
		if d := names[reference]; d != "" {
			reference = d
		}
		data, ok := r.blobs[reference]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		mediaType := "application/octet-stream"
		switch reference {
		case manifest:
			mediaType = manifestType
		case index:
			mediaType = indexType
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", reference)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if req.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	}))
	t.Cleanup(server.Close)
	return r, strings.TrimPrefix(server.URL, "http://")
}

// resolverOf asks real registries, without credentials.
func resolverOf(t *testing.T, mirrors ref.Mirrors) install.ImageResolver {
	t.Helper()
	source, err := newSource(sourceOptions{})
	must(t, err)
	return resolver(source, mirrors)
}

func TestResolver(t *testing.T) {
	r, host := newRegistry(t, map[string]string{"org.opencontainers.image.source": "here"})
	for _, tag := range []string{"single", "multi"} {
		got, err := resolverOf(t, ref.Mirrors{{From: "public.ecr.aws", To: host}}).Resolve(t.Context(), "public.ecr.aws/nops/x:"+tag)
		if err != nil || got.Labels["org.opencontainers.image.source"] != "here" || !strings.HasPrefix(got.Digest, "sha256:") {
			t.Errorf("%s: %+v, %v", tag, got, err)
		}
	}
	if r.tokens == 0 {
		t.Error("no anonymous token was asked for: public registries want one")
	}
	for _, tt := range []struct {
		name, reference, want string
		status                int
	}{
		{"absent", host + "/nops/x:none", "has no such image", 0},
		{"by digest, absent", host + "/nops/x@sha256:" + strings.Repeat("0", 64), "has no such image", 0},
		{"private", host + "/nops/x:single", "does not give it to this reader (HTTP 403)", 403},
		{"in trouble", host + "/nops/x:single", "answers HTTP 400", 400},
		{"unreachable", "127.0.0.1:1/nops/x:single", "cannot be reached", 0},
		{"nonsense", "::", "is no image reference", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.status = tt.status
			_, err := resolverOf(t, nil).Resolve(t.Context(), tt.reference)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestResolverIsBounded(t *testing.T) {
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-hold:
		case <-req.Context().Done():
		}
	}))
	defer server.Close()
	defer close(hold)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := resolverOf(t, nil).Resolve(ctx, strings.TrimPrefix(server.URL, "http://")+"/x:1")
	if err == nil || !strings.Contains(err.Error(), "does not answer in time") {
		t.Errorf("%v", err)
	}
}

func TestMirrors(t *testing.T) {
	m, err := parseMirrors([]string{"public.ecr.aws=registry.example.com/public/", "public.ecr.aws/nops=x"})
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{"public.ecr.aws/nops/a:1": "registry.example.com/public/nops/a:1", "public.ecr.awsome/nops/a:1": "public.ecr.awsome/nops/a:1"} {
		r, err := ref.Parse(given)
		if got := m.Locate(r).String(); err != nil || got != want {
			t.Error(got, err)
		}
	}
	if got := registryURL(m[:1]); got != "https://registry.example.com/v2/" {
		t.Error(got)
	}
	if got := registryURL(nil); got != "https://public.ecr.aws/v2/" {
		t.Error(got)
	}
	for _, bad := range []string{"", "a", "=b", "a=", "https://a=b", "a=https://b"} {
		if _, err := parseMirrors([]string{bad}); CodeOf(err) != CodeUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
