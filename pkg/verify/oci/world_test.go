package oci_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// world is a network without a network: hosts by "scheme://host". Nothing leaves the process, and every request is written down.
type world struct {
	hosts   map[string]http.Handler
	latency time.Duration

	mu  sync.Mutex
	log []asked
}

type asked struct{ Method, URL, Authorization string }

// RoundTrip implements http.RoundTripper.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.log = append(w.log, asked{req.Method, req.URL.String(), req.Header.Get("Authorization")})
	w.mu.Unlock()
	if w.latency > 0 {
		time.Sleep(w.latency)
	}
	h, ok := w.hosts[req.URL.Scheme+"://"+req.URL.Host]
	if !ok {
		return nil, errors.New("no such host in this world: " + req.URL.Host)
	}
	rec := httptest.NewRecorder()
	in := req.Clone(req.Context())
	in.RequestURI = req.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	h.ServeHTTP(rec, in)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	res := rec.Result()
	res.Request = req
	return res, nil
}

func (w *world) to(host string) []asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []asked
	for _, a := range w.log {
		if strings.Contains(a.URL, "://"+host+"/") {
			all = append(all, a)
		}
	}
	return all
}

// addresses resolves names for the check of redirects.
func addresses(all map[string]string) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		if a, ok := all[host]; ok {
			return []netip.Addr{netip.MustParseAddr(a)}, nil
		}
		return nil, errors.New("no such host")
	}
}

// gate lets requests with one of its tokens through to a registry, and says where tokens are to be had.
type gate struct {
	next    http.Handler
	realm   string
	scope   func(repository string) string // of the challenge; nil: none is named
	token   func(repository string) string // what is let through
	basic   string                         // instead of tokens: user:password
	refused int
}

func repositoryOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/", "/referrers/"} {
		if before, _, ok := strings.Cut(path, part); ok {
			return before
		}
	}
	return path
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	repository := repositoryOf(req.URL.Path)
	switch got := req.Header.Get("Authorization"); {
	case g.basic != "" && got == "Basic "+base64.StdEncoding.EncodeToString([]byte(g.basic)), g.basic == "" && got == "Bearer "+g.token(repository):
		g.next.ServeHTTP(w, req)
		return
	}
	g.refused++
	challenge := `Basic realm="registry"`
	if g.basic == "" {
		challenge = fmt.Sprintf(`Bearer realm=%q,service="it"`, g.realm)
		if g.scope != nil {
			challenge += fmt.Sprintf(`,scope=%q`, g.scope(repository))
		}
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
}

// tokens is a token service. known is the Authorization it wants; without it, public repositories alone get a token.
func tokens(known string, public bool) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		who := req.Header.Get("Authorization")
		if who != "" && who != known || who == "" && !public {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "for " + strings.Join(req.URL.Query()["scope"], " ")})
	}
}

func pull(repository string) string { return "repository:" + repository + ":pull" }

func forPull(repository string) string { return "for " + pull(repository) }

func credential(host, user, password string, calls *[]string) auth.CredentialFunc {
	return func(_ context.Context, at string) (auth.Credential, error) {
		*calls = append(*calls, at)
		if at == host {
			return auth.Credential{Username: user, Password: password}, nil
		}
		return auth.EmptyCredential, nil
	}
}

const (
	home  = "registry.example"
	realm = "https://203.0.113.9/token" // an address, so that nobody looks it up
)

func signed(t *testing.T, repository string, n int) *ocitest.Registry {
	t.Helper()
	r := ocitest.New(t, true)
	image := r.Image(t, repository, "1.0.0", "one", nil)
	for i := range n {
		r.Sign(t, repository, image, ocitest.NotarySignature(fmt.Sprint("envelope ", i)))
	}
	return r
}

// TestTokens: readers are anonymous first; credentials go to their own registry's realm, tokens to their own registry and
// repository, and neither goes anywhere else (CVE-2026-48978 and its kin).
func TestTokens(t *testing.T) {
	const right = "Basic dTpw" // u:p
	at := ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"}
	for _, c := range []struct {
		name       string
		gate       gate
		service    http.HandlerFunc
		credential bool
		password   string
		want       verdict.Reason // none: it is read
		asked      int            // times for credentials
		reason     string
	}{
		{"public", gate{scope: pull, token: forPull}, tokens(right, true), true, "p", "", 0, "credentials are not looked at"},
		{"public, with a login that has expired", gate{scope: pull, token: forPull}, tokens(right, true), true, "old", "", 0, "or an old docker login would stand in the way"},
		{"public, with a scope of its own making", gate{scope: func(string) string { return "aws" }, token: func(r string) string { return "for aws " + pull(r) }}, tokens(right, true), false, "", "", 0, "as public.ecr.aws has it"},
		{"public, without a scope in the challenge", gate{token: forPull}, tokens(right, true), false, "", "", 0, ""},
		{"private", gate{scope: pull, token: forPull}, tokens(right, false), true, "p", "", 2, "asked for when anonymous readers are refused"},
		{"private, wrong password", gate{scope: pull, token: forPull}, tokens(right, false), true, "x", verdict.RegistryDenied, 2, ""},
		{"private, no credentials", gate{scope: pull, token: forPull}, tokens(right, false), false, "", verdict.RegistryDenied, 0, ""},
		{"private, Basic", gate{basic: "u:p"}, nil, true, "p", "", 2, "as private ECR has it"},
		{"private, Basic, no credentials", gate{basic: "u:p"}, nil, false, "", verdict.RegistryDenied, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := signed(t, repo, 3)
			g := c.gate
			g.next, g.realm = r, realm
			w := &world{hosts: map[string]http.Handler{"https://" + home: &g, "https://203.0.113.9": c.service}}
			o := oci.Options{Transport: w, Lookup: addresses(map[string]string{home: "192.0.2.1"})}
			var calls []string
			if c.credential {
				o.Credential = credential(home, "u", c.password, &calls)
			}
			s := oci.New(o)
			a, err := s.Resolve(t.Context(), published, at)
			if c.want != "" {
				if err == nil {
					t.Fatalf("%s: read", c.reason)
				}
				if got := reason(t, err); got != c.want {
					t.Errorf("%s: %v; want %s", got, err, c.want)
				}
			} else {
				if err != nil {
					t.Fatalf("%s: %v", c.reason, err)
				}
				refused := g.refused
				found, err := s.Signatures(t.Context(), a)
				if err != nil || len(found.Found) != 3 || len(found.Failed) > 0 {
					t.Errorf("%d signatures, failed %v, %v", len(found.Found), found.Failed, err)
				}
				if g.refused != refused {
					t.Errorf("%d requests were refused after the first token", g.refused-refused)
				}
			}
			if len(calls) != c.asked {
				t.Errorf("asked %d times for credentials, want %d: %s", len(calls), c.asked, c.reason)
			}
			for _, a := range w.to(home) {
				if strings.HasPrefix(a.Authorization, "Basic") && c.gate.basic == "" {
					t.Errorf("password sent to %s", a.URL)
				}
			}
		})
	}
}

// TestCredentialHelperFails: that is said where credentials are needed, and does not make a denied image of a missing one.
func TestCredentialHelperFails(t *testing.T) {
	r := signed(t, repo, 1)
	broken := func(context.Context, string) (auth.Credential, error) {
		return auth.EmptyCredential, errors.New("exec: docker-credential-x: not found")
	}
	w := &world{hosts: map[string]http.Handler{"https://" + home: r, "https://closed.example": &gate{basic: "u:p"}}}
	s := oci.New(oci.Options{Transport: w, Credential: broken})
	for host, want := range map[string]struct {
		reason verdict.Reason
		says   string
	}{home: {verdict.NotFound, "no such image"}, "closed.example": {verdict.RegistryDenied, "docker-credential-x"}} {
		_, err := s.Resolve(t.Context(), published, ref.Reference{Registry: host, Repository: repo, Tag: "none"})
		if err == nil || reason(t, err) != want.reason || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v; want %s with %q", host, err, want.reason, want.says)
		}
	}
}

// TestTokensStayAtHome: two registries, two repositories, four tokens.
func TestTokensStayAtHome(t *testing.T) {
	one, two := signed(t, repo, 1), signed(t, repo, 1)
	image := one.Image(t, "nops/other", "1.0.0", "other", nil)
	one.Sign(t, "nops/other", image, ocitest.NotarySignature("other"))
	w := &world{hosts: map[string]http.Handler{
		"https://" + home:       &gate{next: one, realm: realm, scope: pull, token: forPull},
		"https://other.example": &gate{next: two, realm: realm, scope: func(string) string { return "own" }, token: func(r string) string { return "for own " + pull(r) }},
		"https://203.0.113.9":   tokens("", true),
	}}
	s := oci.New(oci.Options{Transport: w, Lookup: addresses(nil)})
	for _, at := range []ref.Reference{{Registry: home, Repository: repo, Tag: "1.0.0"}, {Registry: home, Repository: "nops/other", Tag: "1.0.0"}, {Registry: "other.example", Repository: repo, Tag: "1.0.0"}} {
		a, err := s.Resolve(t.Context(), published, at)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := s.Signatures(t.Context(), a); err != nil || len(found.Found) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
	}
	sent := 0
	for _, host := range []string{home, "other.example"} {
		for _, a := range w.to(host) {
			want := "Bearer " + forPull(repositoryOf(strings.TrimPrefix(a.URL, "https://"+host)))
			if host == "other.example" {
				want = "Bearer for own " + pull(repo)
			}
			if a.Authorization != "" && a.Authorization != want {
				t.Errorf("%s got %q, want %q", a.URL, a.Authorization, want)
			}
			if a.Authorization != "" {
				sent++
			}
		}
	}
	if sent < 12 {
		t.Errorf("%d requests with a token", sent)
	}
}

// TestHijackedRealm: a challenge cannot send its reader, or a password, where a registry has no business.
func TestHijackedRealm(t *testing.T) {
	at := ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"}
	for _, realm := range []string{"http://203.0.113.9/token", "https://169.254.169.254/latest/meta-data/iam/", "https://127.0.0.1/token", "https://10.0.0.7/token", "https://[::1]/token", "https://100.100.100.200/x", "file:///etc/passwd", "gopher://203.0.113.9/"} {
		var calls []string
		w := &world{hosts: map[string]http.Handler{"https://" + home: &gate{realm: realm, token: forPull}}}
		_, err := oci.New(oci.Options{Transport: w, Lookup: addresses(nil), Credential: credential(home, "u", "p", &calls)}).Resolve(t.Context(), published, at)
		if err == nil || len(w.log) != len(w.to(home)) || len(w.log) == 0 {
			t.Errorf("%s: %v after %v", realm, err, w.log)
			continue
		}
		if got := reason(t, err); got.Outcome() != verdict.Unknown {
			t.Errorf("%s: %s: %v", realm, got, err)
		}
	}
	// The token service is honest, and sends its reader on.
	for _, to := range []string{"https://169.254.169.254/", "http://203.0.113.10/", "https://10.0.0.7/"} {
		var calls []string
		w := &world{hosts: map[string]http.Handler{
			"https://" + home: &gate{realm: realm, token: forPull},
			"https://203.0.113.9": http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, to, http.StatusTemporaryRedirect)
			}),
		}}
		_, err := oci.New(oci.Options{Transport: w, Lookup: addresses(nil), Credential: credential(home, "u", "p", &calls)}).Resolve(t.Context(), published, at)
		if err == nil || len(w.log) != len(w.to(home))+len(w.to("203.0.113.9")) || len(w.to("203.0.113.9")) == 0 {
			t.Errorf("to %s: %v after %v", to, err, w.log)
		}
	}
}

// TestRedirects: a registry may send its readers to its store, and nowhere else.
func TestRedirects(t *testing.T) {
	where := map[string]string{home: "192.0.2.1", "cdn.example": "192.0.2.2", "intranet.example": "10.1.2.3", "metadata.example": "169.254.169.254", "mine.example": "127.0.0.1"}
	inside := map[string]string{home: "10.9.9.9", "cdn.example": "192.0.2.2", "intranet.example": "10.1.2.3", "metadata.example": "169.254.169.254", "mine.example": "127.0.0.1"}
	for _, c := range []struct {
		to       string
		private  bool // the registry itself is in a private network
		followed bool
		reason   string
	}{
		{"https://cdn.example/blob", false, true, "stores are elsewhere"},
		{"https://unknown.example/blob", false, true, "behind a proxy nobody here can look it up"},
		{"https://" + home + "/elsewhere", false, true, ""},
		{"http://cdn.example/blob", false, false, "from HTTPS to HTTP"},
		{"http://" + home + "/blob", false, false, ""},
		{"https://169.254.169.254/latest/meta-data", false, false, "where clouds keep credentials"},
		{"https://metadata.example/", false, false, "the same by another name"},
		{"https://[::ffff:169.254.169.254]/", false, false, ""},
		{"https://[64:ff9b::a9fe:a9fe]/", false, false, "and through NAT64"},
		{"https://[fd00:ec2::254]/", false, false, "EC2's, over IPv6"},
		{"https://[fe80::1]/", false, false, ""},
		{"https://100.100.100.200/", false, false, "another cloud's"},
		{"https://10.1.2.3/", false, false, "a public registry knows nothing inside"},
		{"https://intranet.example/", false, false, ""},
		{"https://mine.example/", false, false, ""},
		{"https://localhost/", false, false, ""},
		{"https://0.0.0.0/", false, false, "is this machine as well"},
		{"file:///etc/passwd", false, false, ""},
		{"https://intranet.example/", true, true, "the store of a registry inside is inside"},
		{"https://cdn.example/", true, true, ""},
		{"https://metadata.example/", true, false, "but never there"},
		{"https://[fd00:ec2::254]/", true, false, ""},
		{"https://mine.example/", true, false, "nor at this machine"},
	} {
		t.Run(fmt.Sprintf("%s private %t", c.to, c.private), func(t *testing.T) {
			r := signed(t, repo, 1)
			hop := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.Contains(req.URL.Path, "/blobs/") {
					w.Header().Set("Location", c.to)
					w.WriteHeader(http.StatusTemporaryRedirect)
					return
				}
				r.ServeHTTP(w, req)
			})
			store := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !strings.HasPrefix(req.URL.Path, "/v2/") {
					_, _ = w.Write([]byte("envelope 0"))
					return
				}
				hop.ServeHTTP(w, req)
			})
			w := &world{hosts: map[string]http.Handler{"https://" + home: &gate{next: store, realm: realm, scope: pull, token: forPull}, "https://203.0.113.9": tokens("", true)}}
			for _, host := range []string{"https://cdn.example", "https://unknown.example", "https://intranet.example", "http://cdn.example", "http://" + home, "https://169.254.169.254", "https://metadata.example", "https://localhost", "https://mine.example", "https://10.1.2.3"} {
				w.hosts[host] = store
			}
			if c.to == "https://"+home+"/elsewhere" {
				w.hosts["https://"+home] = store
			}
			all := where
			if c.private {
				all = inside
			}
			s := oci.New(oci.Options{Transport: w, Lookup: addresses(all)})
			a, err := s.Resolve(t.Context(), published, ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"})
			if err != nil {
				t.Fatal(err)
			}
			found, err := s.Signatures(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if followed := len(found.Found) == 1; followed != c.followed || !followed && (len(found.Failed) != 1 || found.Failed[0].Reason != verdict.RegistryOdd) {
				t.Errorf("%s: followed %t, failed %v", c.reason, followed, found.Failed)
			}
			for _, a := range w.log {
				if !strings.HasPrefix(a.URL, "https://"+home+"/") && a.Authorization != "" {
					t.Errorf("%s got %q", a.URL, a.Authorization)
				}
				if a.URL == c.to && !c.followed {
					t.Errorf("%s was asked all the same", a.URL)
				}
			}
		})
	}
}

// TestRedirectCircle ends.
func TestRedirectCircle(t *testing.T) {
	w := &world{hosts: map[string]http.Handler{"https://" + home: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, req.URL.Path+"x", http.StatusFound)
	})}}
	_, err := oci.New(oci.Options{Transport: w}).Resolve(t.Context(), published, ref.Reference{Registry: home, Repository: repo, Tag: "1"})
	if err == nil || reason(t, err) != verdict.RegistryOdd || len(w.log) > 10 {
		t.Errorf("%v after %d requests", err, len(w.log))
	}
}

// TestChallengeFromElsewhere: the store that a registry redirects to asks for credentials, and gets none of the registry's.
func TestChallengeFromElsewhere(t *testing.T) {
	r := signed(t, repo, 1)
	var calls []string
	w := &world{hosts: map[string]http.Handler{
		"https://" + home: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, "https://cdn.example/x", http.StatusTemporaryRedirect)
				return
			}
			r.ServeHTTP(w, req)
		}),
		"https://cdn.example": &gate{realm: "https://203.0.113.66/steal", token: forPull},
	}}
	s := oci.New(oci.Options{Transport: w, Lookup: addresses(nil), Credential: credential(home, "u", "p", &calls)})
	a, err := s.Resolve(t.Context(), published, ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Signatures(t.Context(), a)
	if err != nil || len(found.Found) != 0 || len(found.Failed) != 1 || found.Failed[0].Reason != verdict.RegistryDenied {
		t.Errorf("%+v, %v", found, err)
	}
	if stolen := w.to("203.0.113.66"); len(stolen) > 0 {
		t.Errorf("asked %v", stolen)
	}
	for _, a := range w.log {
		if a.Authorization != "" {
			t.Errorf("%s got %q", a.URL, a.Authorization)
		}
	}
}

// TestSchemes: plain HTTP is for this machine alone; Docker Hub is asked where it is.
func TestSchemes(t *testing.T) {
	for registry, want := range map[string]string{
		"registry.example": "https://registry.example/", "registry.example:5000": "https://registry.example:5000/", "10.0.0.1:5000": "https://10.0.0.1:5000/",
		"localhost": "http://localhost/", "localhost:5000": "http://localhost:5000/", "127.0.0.1:5000": "http://127.0.0.1:5000/", "[::1]:5000": "http://[::1]:5000/",
		"localhost.example": "https://localhost.example/", "docker.io": "https://registry-1.docker.io/",
	} {
		w := &world{}
		_, err := oci.New(oci.Options{Transport: w}).Resolve(t.Context(), published, ref.Reference{Registry: registry, Repository: repo, Tag: "1"})
		if err == nil || len(w.log) != 1 || !strings.HasPrefix(w.log[0].URL, want) {
			t.Errorf("%s: %v, asked %v; want %s", registry, err, w.log, want)
		}
	}
}

// TestRetries: what passes by itself is waited for, briefly; what does not is not asked again.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ status, fails, asked int }{{429, 1, 2}, {503, 2, 3}, {502, 9, 3}, {500, 9, 1}, {404, 9, 1}} {
			n := 0
			w := &world{hosts: map[string]http.Handler{"https://" + home: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if n++; n <= c.fails {
					w.WriteHeader(c.status)
					return
				}
				_, _ = w.Write([]byte(`{"manifests":[]}`))
			})}}
			_, err := oci.New(oci.Options{Transport: w}).Resolve(t.Context(), published, ref.Reference{Registry: home, Repository: repo, Tag: "1"})
			if n != c.asked || (err == nil) != (c.fails < c.asked) {
				t.Errorf("HTTP %d, %d times: asked %d times, want %d: %v", c.status, c.fails, n, c.asked, err)
			}
		}
	})
}

// TestRoundTrips counts how many requests must wait for the answer to another. Time stands still but for the latency of the
// world, so the time that a pass takes is that number exactly.
func TestRoundTrips(t *testing.T) {
	const latency = time.Second
	for _, c := range []struct {
		name       string
		signatures int
		token      bool
		more       func(t *testing.T, r *ocitest.Registry, image ocispec.Descriptor)
		want       int
		reason     string
	}{
		{"unsigned", 0, false, nil, 2, "manifest, places"},
		{"one signature", 1, false, nil, 4, "manifest, places, manifests of signatures, envelopes"},
		{"twelve signatures", 12, false, nil, 4, "as many at the same time"},
		{"cosign alone", 0, false, func(t *testing.T, r *ocitest.Registry, image ocispec.Descriptor) { r.Cosign(t, repo, image, "a", "b") }, 3, "the .sig tag is the manifest itself"},
		{"everything", 5, false, func(t *testing.T, r *ocitest.Registry, image ocispec.Descriptor) {
			r.Cosign(t, repo, image, "a", "b")
			s := ocitest.NotarySignature("older")
			s.NoSubject = true
			r.Fallback(t, repo, image, r.Sign(t, repo, image, s))
		}, 4, "no more than for one"},
		{"with a token", 1, true, nil, 6, "refusal and token come before, once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := signed(t, repo, c.signatures)
			if c.more != nil {
				a, err := oci.New(oci.Options{}).Resolve(t.Context(), published, r.Ref(repo, "1.0.0"))
				if err != nil {
					t.Fatal(err)
				}
				c.more(t, r, a.Descriptor)
			}
			synctest.Test(t, func(t *testing.T) {
				w := &world{latency: latency, hosts: map[string]http.Handler{"https://" + home: r, "https://203.0.113.9": tokens("", true)}}
				if c.token {
					w.hosts["https://"+home] = &gate{next: r, realm: realm, scope: func(string) string { return "aws" }, token: func(r string) string { return "for aws " + pull(r) }}
				}
				s := oci.New(oci.Options{Transport: w})
				start := time.Now()
				ctx, cancel := s.Bound(t.Context())
				defer cancel()
				a, err := s.Resolve(ctx, published, ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"})
				if err != nil {
					t.Fatal(err)
				}
				found, err := s.Signatures(ctx, a)
				if err != nil || len(found.Failed) > 0 || len(found.Found) < c.signatures {
					t.Fatalf("%d found, failed %v, %v", len(found.Found), found.Failed, err)
				}
				if got := int(time.Since(start) / latency); got != c.want {
					t.Errorf("%d round trips, want %d (%s): %v", got, c.want, c.reason, w.log)
				}
			})
		})
	}
}

// TestOneBudget: what is done for one artifact shares its budget, and a stalled part leaves time for the others.
func TestOneBudget(t *testing.T) {
	r := signed(t, repo, 2)
	s := oci.New(oci.Options{Limits: oci.Limits{Requests: 7}}) // one less than all of it takes
	ctx, cancel := s.Bound(t.Context())
	defer cancel()
	a, err := s.Resolve(ctx, published, r.Ref(repo, "1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Signatures(ctx, a)
	if err != nil || !slices.Contains(reasons(found.Failed), string(verdict.LimitReached)) {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err = s.Signatures(t.Context(), a); err != nil || len(found.Failed) != 0 || len(found.Found) != 2 {
		t.Errorf("without Bound, each call has a budget of its own: %v, %v", found.Failed, err)
	}

	synctest.Test(t, func(t *testing.T) {
		w := &world{latency: time.Second, hosts: map[string]http.Handler{"https://" + home: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/referrers/") {
				<-req.Context().Done()
				return
			}
			r.ServeHTTP(w, req)
		})}}
		image := a.Descriptor
		r.Cosign(t, repo, image, "good")
		s := oci.New(oci.Options{Transport: w})
		a, err := s.Resolve(t.Context(), published, ref.Reference{Registry: home, Repository: repo, Tag: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		found, err := s.Signatures(t.Context(), a)
		if err != nil || !cmp.Equal(payloads(found), []string{"cosign good (.sig tag)"}) || !cmp.Equal(reasons(found.Failed), []string{"timed-out"}) {
			t.Errorf("%v, failed %v, %v", payloads(found), found.Failed, err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// TestStopped: the caller's own end is one, too.
func TestStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{hosts: map[string]http.Handler{"https://" + home: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() })}}
	_, err := oci.New(oci.Options{Transport: w}).Resolve(ctx, published, ref.Reference{Registry: home, Repository: repo, Tag: "1"})
	if err == nil || reason(t, err) != verdict.TimedOut || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestOrasVersion: oras-go before 2.6.1 sends credentials to whatever realm a challenge names (CVE-2026-48978), and before 2.6.2
// follows pages of referrers for ever.
func TestOrasVersion(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "go.mod")) // the build information of test binaries lists no modules
	if err != nil {
		t.Fatal(err)
	}
	_, version, ok := strings.Cut(string(data), "oras.land/oras-go/v2 v")
	var major, minor, patch int
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); !ok || n != 3 || major != 2 || minor < 6 || minor == 6 && patch < 2 {
		t.Errorf("oras-go %d.%d.%d (%v); need v2.6.2", major, minor, patch, err)
	}
}
