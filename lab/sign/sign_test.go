package sign_test

import (
	"errors"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/notaryproject/notation-core-go/signature"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	notary "github.com/notaryproject/notation-go/registry"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/lab/sign"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

const (
	repository = "nops/agent"
	byAWS      = policy.MethodAWSSigner
	byKey      = policy.MethodCosignKey
)

// shelf is a registry with one image under the tag 1.
type shelf struct {
	t *testing.T
	images.Registry
	writes atomic.Int64
	digest string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{t: t}
	next := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(t.Output(), "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.writes.Add(1)
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.Registry = images.Registry{Host: strings.TrimPrefix(server.URL, "http://"), Insecure: true}
	program := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(program, []byte("a static binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	image, err := images.Build(images.Spec{Repository: repository, Tag: "1", Program: program, Name: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	if s.digest, err = s.Push(t.Context(), repository, "1", image); err != nil {
		t.Fatal(err)
	}
	return s
}

func keys(t *testing.T) *sign.Keys {
	t.Helper()
	k, err := sign.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// envelopes are the Notary signatures that hang on a digest, checked as the specification's library checks them, each with the
// fingerprint of its root and the digest that it is about.
func (s *shelf) envelopes(digest string) []seen {
	s.t.Helper()
	repo, err := remote.NewRepository(s.Host + "/" + repository)
	if err != nil {
		s.t.Fatal(err)
	}
	repo.PlainHTTP = true
	subject, err := repo.Resolve(s.t.Context(), digest)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []seen
	r := notary.NewRepository(repo)
	err = r.ListSignatures(s.t.Context(), subject, func(found []ocispec.Descriptor) error {
		for _, d := range found {
			blob, what, err := r.FetchSignatureBlob(s.t.Context(), d)
			if err != nil {
				return err
			}
			envelope, err := signature.ParseEnvelope(what.MediaType, blob)
			if err != nil {
				return err
			}
			content, err := envelope.Verify()
			if err != nil {
				return err
			}
			one := seen{about: string(content.Payload.Content), at: content.SignerInfo.SignedAttributes.SigningTime}
			chain := content.SignerInfo.CertificateChain
			one.root = signing.Fingerprint(chain[len(chain)-1])
			for _, a := range content.SignerInfo.SignedAttributes.ExtendedAttributes {
				if a.Key == signing.AttributeProfileVersion {
					one.profile, _ = a.Value.(string)
				}
			}
			all = append(all, one)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

type seen struct {
	root, profile, about string
	at                   time.Time
}

// cosigned says whether a cosign signature hangs on a digest.
func (s *shelf) cosigned(digest string) bool {
	s.t.Helper()
	hanging, err := s.Attached(s.t.Context(), repository, digest)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range hanging {
		if _, tagged := h.(name.Tag); tagged {
			return true
		}
	}
	return false
}

func TestEnsureSignsOnce(t *testing.T) {
	for _, method := range []policy.Method{byAWS, byKey} {
		t.Run(string(method), func(t *testing.T) {
			s, k, memo := newShelf(t), keys(t), t.TempDir()
			if signed, err := k.Ensure(t.Context(), s.Registry, repository, s.digest, method, memo); err != nil || !signed {
				t.Fatalf("the first time: signed %v, %v", signed, err)
			}
			if got := s.envelopes(s.digest); method == byAWS && (len(got) != 1 || got[0].root != k.AWS.RootFingerprint() || !strings.HasPrefix(got[0].profile, sign.Profile+"/") || !strings.Contains(got[0].about, s.digest)) {
				t.Fatalf("signatures: %+v", got)
			}
			if s.cosigned(s.digest) != (method == byKey) {
				t.Fatalf("a cosign signature: %v", method != byKey)
			}
			before := s.writes.Load()
			if signed, err := k.Ensure(t.Context(), s.Registry, repository, s.digest, method, memo); err != nil || signed || s.writes.Load() != before {
				t.Errorf("the second time: signed %v, %v, %d writes; want nothing to do", signed, err, s.writes.Load()-before)
			}
			// Other keys' signatures are not ours, whatever was noted.
			if signed, err := keys(t).Ensure(t.Context(), s.Registry, repository, s.digest, method, memo); err != nil || !signed {
				t.Errorf("other keys: signed %v, %v", signed, err)
			}
			// A note about a registry that lost the signature counts for nothing.
			empty := newShelf(t)
			if signed, err := k.Ensure(t.Context(), empty.Registry, repository, empty.digest, method, memo); err != nil || !signed || empty.digest != s.digest {
				t.Errorf("a registry without signatures: signed %v, %v", signed, err)
			}
		})
	}
	s := newShelf(t)
	if _, err := keys(t).Ensure(t.Context(), s.Registry, repository, s.digest, policy.MethodCosignKeyless, t.TempDir()); err == nil || !strings.Contains(err.Error(), repository) {
		t.Errorf("a method that nobody here knows: %v", err)
	}
}

// TestOpenAgrees: labs that start at once make one authority; the next one finds it.
func TestOpenAgrees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "signing")
	var wg sync.WaitGroup
	found := make([]string, 6)
	for i := range found {
		wg.Go(func() {
			k, err := sign.Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			found[i] = k.AWS.RootFingerprint() + " " + k.Cosign.Identity()
		})
	}
	wg.Wait()
	for _, f := range found {
		if f != found[0] || f == "" {
			t.Fatalf("several authorities: %q", found)
		}
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("left beside it: %v, %v", left, err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(path, ".pub") {
			t.Errorf("%s may be read by others: %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "aws-signer", "chain.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = sign.Open(dir)
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), dir) {
		t.Errorf("a damaged directory: %v, want a hint that names it", err)
	}
}

// TestForgeries: each is what it is called, and nothing else is wrong with it.
func TestForgeries(t *testing.T) {
	now := time.Now()
	tested := 0
	for _, tt := range []struct {
		what   sign.Forgery
		method policy.Method
		err    string
		check  func(t *testing.T, s *shelf, k *sign.Keys, digest string)
	}{
		{what: sign.Unsigned, method: byAWS, check: func(t *testing.T, s *shelf, _ *sign.Keys, digest string) {
			if got := s.envelopes(digest); len(got) != 0 || s.cosigned(digest) {
				t.Errorf("signatures: %+v", got)
			}
		}},
		{what: sign.Tampered, method: byAWS, check: func(t *testing.T, s *shelf, k *sign.Keys, digest string) {
			got := s.envelopes(digest)
			if len(got) != 1 || got[0].root != k.AWS.RootFingerprint() || !strings.Contains(got[0].about, s.digest) || strings.Contains(got[0].about, digest) {
				t.Errorf("signatures: %+v, want one that is about %s", got, s.digest)
			}
		}},
		{what: sign.Tampered, method: byKey, check: func(t *testing.T, s *shelf, _ *sign.Keys, digest string) {
			if !s.cosigned(digest) {
				t.Error("no signature came along")
			}
		}},
		{what: sign.Foreign, method: byAWS, check: func(t *testing.T, s *shelf, k *sign.Keys, digest string) {
			if got := s.envelopes(digest); len(got) != 1 || got[0].root == k.AWS.RootFingerprint() || !strings.HasPrefix(got[0].profile, sign.Profile+"/") {
				t.Errorf("signatures: %+v", got)
			}
		}},
		{what: sign.Foreign, method: byKey, check: func(t *testing.T, s *shelf, _ *sign.Keys, digest string) {
			if !s.cosigned(digest) {
				t.Error("no signature")
			}
		}},
		{what: sign.Stranger, method: byAWS, check: func(t *testing.T, s *shelf, k *sign.Keys, digest string) {
			if got := s.envelopes(digest); len(got) != 1 || got[0].root != k.AWS.RootFingerprint() || !strings.HasPrefix(got[0].profile, sign.OtherProfile+"/") {
				t.Errorf("signatures: %+v", got)
			}
		}},
		{what: sign.Older, method: byAWS, check: func(t *testing.T, s *shelf, k *sign.Keys, digest string) {
			if got := s.envelopes(digest); len(got) != 1 || got[0].root != k.AWS.RootFingerprint() || got[0].at.After(now.AddDate(0, 0, -27)) {
				t.Errorf("signatures: %+v", got)
			}
		}},
		{what: sign.Revoked, method: byAWS, check: func(t *testing.T, s *shelf, k *sign.Keys, digest string) {
			jobs, err := sign.Jobs(t.Context(), s.Registry, repository, digest)
			if err != nil || len(jobs) != 1 || !strings.Contains(jobs[0], ":/signing-jobs/") {
				t.Errorf("jobs: %q, %v", jobs, err)
			}
		}},
		{what: sign.Older, method: byKey, err: "about AWS Signer"},
		{what: "kinked", method: byAWS, err: "tampered"},
	} {
		t.Run(string(tt.what)+" "+string(tt.method), func(t *testing.T) {
			s, k := newShelf(t), keys(t)
			if _, err := k.Ensure(t.Context(), s.Registry, repository, s.digest, tt.method, t.TempDir()); err != nil {
				t.Fatal(err)
			}
			digest, err := k.Forge(t.Context(), s.Registry, tt.what, repository, "1", "story", tt.method, now)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || digest == s.digest {
				t.Fatalf("%s, %v", digest, err)
			}
			if at, err := s.Digest(t.Context(), repository, "story"); err != nil || at != digest {
				t.Errorf("under its tag: %q, %v", at, err)
			}
			tt.check(t, s, k, digest)
			// Taken away, all of it is gone, and the original is what it was.
			if err := s.Remove(t.Context(), repository, "story"); err != nil {
				t.Fatal(err)
			}
			for _, gone := range []string{"story", digest} {
				if there, err := s.Has(t.Context(), repository, gone); err != nil || there {
					t.Errorf("%s is still there: %v, %v", gone, there, err)
				}
			}
			if left, err := s.Attached(t.Context(), repository, s.digest); err != nil || len(left) != 1 {
				t.Errorf("of the original's signatures %d are left, %v", len(left), err)
			}
			tested++
		})
	}
	if tested != 8 {
		t.Errorf("%d forgeries were looked at", tested)
	}
}

func TestJobsOfWhatHasNone(t *testing.T) {
	s, k := newShelf(t), keys(t)
	if _, err := sign.Jobs(t.Context(), s.Registry, repository, s.digest); !errors.Is(err, sign.ErrNoJob) {
		t.Errorf("unsigned: %v", err)
	}
	if _, err := k.Sign(t.Context(), s.Registry, repository, s.digest, sign.How{Method: byKey}); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Jobs(t.Context(), s.Registry, repository, s.digest); !errors.Is(err, sign.ErrNoJob) {
		t.Errorf("signed with a key: %v", err)
	}
}
