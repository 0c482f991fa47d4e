package sign_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/internal/sigv4"
	"github.com/nopsctl/nopsctl/lab/sign"
	"github.com/nopsctl/nopsctl/pkg/verify"
	verifycosign "github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/notary"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// elsewhere carries requests to an address, whatever host they are for, as the lab's DNS does.
type elsewhere string

func (e elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host, r.URL.Scheme, r.URL.Host = r.URL.Host, "http", string(e)
	return http.DefaultTransport.RoundTrip(r)
}

// verifier is nopsctl's, with the policy that the lab writes and nothing else to go by.
func (s *shelf) verifier(k *sign.Keys, signer http.Handler, ours ...string) *verify.Verifier {
	s.t.Helper()
	p, err := policy.Parse([]byte(k.Policy(ours)), policy.Options{Source: "policy.yaml"})
	if err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(signer)
	s.t.Cleanup(server.Close)
	notation, err := notary.New(notary.Options{Trust: p.Trust, HTTP: &http.Client{Transport: elsewhere(strings.TrimPrefix(server.URL, "http://"))}, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "secret"}, nil
	})})
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := verifycosign.New(verifycosign.Options{Sigstore: p.Trust.Sigstore})
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := verify.New(verify.Options{Policy: p, Source: oci.New(oci.Options{Transport: elsewhere(s.Host)}), Engines: map[policy.Method]verify.Engine{byAWS: notation, byKey: key}})
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// TestForgeriesAreTold: each forgery is what nopsctl takes it for, with the lab's own policy, and the honest image beside it is
// verified by both ways of signing.
func TestForgeriesAreTold(t *testing.T) {
	for _, method := range []policy.Method{byAWS, byKey} {
		t.Run(string(method), func(t *testing.T) {
			s, k := newShelf(t), keys(t)
			ours := []string{"nops/another"}
			if method == byAWS {
				ours = append(ours, repository)
			}
			revocations := &signing.Revocations{Keys: func(string) (sigv4.Key, error) {
				return sigv4.Key{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "secret"}, nil
			}}
			if _, err := k.Ensure(t.Context(), s.Registry, repository, s.digest, method, t.TempDir()); err != nil {
				t.Fatal(err)
			}
			want := map[string]verdict.Finding{
				"1":        {Outcome: verdict.Verified},
				"tampered": {Outcome: verdict.Untrusted, Reason: verdict.WrongArtifact},
				"unsigned": {Outcome: verdict.Unsigned, Reason: verdict.NoSignature},
				"foreign":  {Outcome: verdict.Untrusted, Reason: map[policy.Method]verdict.Reason{byAWS: verdict.UntrustedRoot, byKey: verdict.BadSignature}[method]},
			}
			if method == byAWS {
				want["stranger"] = verdict.Finding{Outcome: verdict.Untrusted, Reason: verdict.WrongIdentity}
				want["revoked"] = verdict.Finding{Outcome: verdict.Revoked, Reason: verdict.SignatureRevoked}
				want["older"] = verdict.Finding{Outcome: verdict.Verified} // and earlier than what an installation may have accepted
			}
			var references []ref.Reference
			for tag := range want {
				r, err := ref.Parse("public.ecr.aws/" + repository + ":" + tag)
				if err != nil {
					t.Fatal(err)
				}
				references = append(references, r)
				if tag == "1" {
					continue
				}
				digest, err := k.Forge(t.Context(), s.Registry, sign.Forgery(tag), repository, "1", tag, method, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if tag == "revoked" {
					jobs, err := sign.Jobs(t.Context(), s.Registry, repository, digest)
					if err != nil {
						t.Fatal(err)
					}
					revocations.Revoke(jobs[0], time.Time{})
				}
			}
			report, err := s.verifier(k, revocations, ours...).Verify(t.Context(), references)
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range report.Results {
				w := want[references[i].Tag]
				if got.Outcome != w.Outcome || got.Reason != w.Reason {
					t.Errorf("%s: %s (%s) %s; want %s (%s)\n  %+v", references[i].Tag, got.Outcome, got.Reason, got.Message, w.Outcome, w.Reason, got.Findings)
				}
				if references[i].Tag == "older" && time.Since(got.SignedAt) < 27*24*time.Hour {
					t.Errorf("older: signed %s", got.SignedAt)
				}
				if references[i].Tag == "1" && method == byAWS && !strings.HasPrefix(got.Identity, sign.Profile) {
					t.Errorf("signed by %q", got.Identity)
				}
			}
			if len(report.Results) != len(want) || len(want) < 4 {
				t.Errorf("%d results for %d images", len(report.Results), len(want))
			}
		})
	}
}
