package notary

import (
	"context"
	"crypto/x509"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/plugin"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	pluginframework "github.com/notaryproject/notation-plugin-framework-go/plugin"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// untyped is the trust store of published example code: it ignores the type.
type untyped []*x509.Certificate

func (u untyped) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return u, nil
}

// naive is a plugin as one might write it first: identity by ARN, the scheme not looked at, revocation a result.
type naive struct {
	pluginframework.SignPlugin

	revoked bool
}

func (naive) GetMetadata(context.Context, *pluginframework.GetMetadataRequest) (*pluginframework.GetMetadataResponse, error) {
	return &pluginframework.GetMetadataResponse{Name: pluginName, Version: "1.0.350", Capabilities: []pluginframework.Capability{pluginframework.CapabilityTrustedIdentityVerifier, pluginframework.CapabilityRevocationCheckVerifier}}, nil
}

func (n naive) VerifySignature(_ context.Context, r *pluginframework.VerifySignatureRequest) (*pluginframework.VerifySignatureResponse, error) {
	response := &pluginframework.VerifySignatureResponse{VerificationResults: map[pluginframework.Capability]*pluginframework.VerificationResult{}, ProcessedAttributes: []any{attributeProfileVersion, attributeJob}}
	for _, c := range r.TrustPolicy.SignatureVerification {
		response.VerificationResults[c] = &pluginframework.VerificationResult{Success: c == pluginframework.CapabilityTrustedIdentityVerifier || !n.revoked, Reason: "revoked"}
	}
	return response, nil
}

type naiveManager struct{ naive }

func (m naiveManager) Get(context.Context, string) (pluginframework.Plugin, error) {
	return m.naive, nil
}
func (m naiveManager) List(context.Context) ([]string, error) { return nil, nil }

type revokedValidator struct{}

func (revokedValidator) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	all := fine(len(o.CertChain))
	all[0] = &result.CertRevocationResult{Result: result.ResultRevoked}
	return all, nil
}

// TestWhatTheLibraryLetsIn shows, for each setting in which the library accepts what must be refused, that it does, and that the
// engine does not. Where the first half stops failing the library has changed, and the engine's check may go.
func TestWhatTheLibraryLetsIn(t *testing.T) {
	w := newWorld(t)
	status := &signing.CertificateStatus{}
	responder := httptest.NewServer(status)
	defer responder.Close()
	watched := w.authority(signing.AuthorityOptions{Organization: "Example", OCSP: responder.URL})
	status.Of(watched)
	chain, err := watched.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	status.Revoke(chain[0], time.Now().Add(-time.Hour))
	w.revocations.Revoke(job, time.Time{})
	other := newWorld(t)

	subject := []string{"x509.subject:" + corpSubject}
	critical := signature.Attribute{Key: "com.example.must", Value: "x", Critical: true}
	numbered := signature.Attribute{Key: int64(-70000), Value: "x", Critical: true}
	awsRoot, corpRoot := untyped{w.aws.Root()}, untyped{w.corp.Root()}
	expired := w.sign(w.corp, signing.NotaryOptions{SignedAt: time.Now().Add(-time.Hour), Expires: time.Now().Add(-time.Minute)})
	cases := []struct {
		name       string
		sig        oci.Signature
		level      string
		identities []string
		stores     string
		store      truststore.X509TrustStore
		manager    plugin.Manager
		status     revocation.Validator
		engine     *Engine
		leaf       policy.Leaf
		reason     verdict.Reason
	}{
		{"a critical attribute, no plugin named", w.sign(w.corp, signing.NotaryOptions{Extra: []signature.Attribute{critical}}), "strict", subject, "ca:x", corpRoot, nil, nil, w.engine(), corpLeaf, verdict.UnknownCritical},
		{"a critical attribute with a number for a name", w.sign(w.corp, signing.NotaryOptions{COSE: true, Extra: []signature.Attribute{numbered}}), "strict", subject, "ca:x", corpRoot, nil, nil, w.engine(), corpLeaf, verdict.UnknownCritical},
		{"the same in AWS Signer's shape, past the plugin", w.sign(w.aws, awsSigned(with(numbered), func(o *signing.NotaryOptions) { o.COSE = true })), "strict", []string{profile}, "signingAuthority:x", awsRoot, naiveManager{}, nil, other.engineTrusting(w), awsLeaf, verdict.UnknownCritical},
		{"a company's certificate as AWS Signer: a trust store without types", w.sign(w.corp, awsSigned(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509.signingAuthority" })), "strict", []string{profile}, "signingAuthority:x", untyped{w.aws.Root(), w.corp.Root()}, naiveManager{}, nil, w.engine(), awsLeaf, verdict.UntrustedRoot},
		{"a company's certificate with an ARN: a plugin that forgets the scheme", w.sign(w.corp, awsSigned(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509" })), "strict", []string{profile}, "ca:x", corpRoot, naiveManager{}, nil, w.engine(), awsLeaf, verdict.WrongScheme},
		{"revoked, permissive", w.sign(w.aws, awsSigned()), "permissive", []string{profile}, "signingAuthority:x", awsRoot, naiveManager{naive{revoked: true}}, nil, w.engine(), awsLeaf, verdict.SignatureRevoked},
		{"certificate revoked, permissive", w.sign(watched, signing.NotaryOptions{}), "permissive", subject, "ca:x", untyped{watched.Root()}, nil, revokedValidator{}, w.engine(func(o *Options) {
			o.AllowPrivate = true
			o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{watched.Root().Raw}}}
		}), corpLeaf, verdict.CertificateRevoked},
		{"expired, permissive", expired, "permissive", subject, "ca:x", corpRoot, nil, nil, w.engine(), corpLeaf, verdict.SignatureExpired},
		{"untrusted root, audit", w.sign(other.corp, signing.NotaryOptions{}), "audit", []string{"*"}, "ca:x", corpRoot, nil, nil, w.engine(), corpLeaf, verdict.UntrustedRoot},
		{"anybody's, identity *", w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) {
			o.Profile = "arn:aws:signer:us-east-1:999999999999:/signing-profiles/evil/AbCdEfGhIj"
		})), "strict", []string{"*"}, "signingAuthority:x", awsRoot, naiveManager{}, nil, w.engine(), awsLeaf, verdict.WrongIdentity},
	}
	for _, tc := range cases {
		document := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
			Name: "naive", RegistryScopes: []string{"*"}, TrustStores: []string{tc.stores}, TrustedIdentities: tc.identities,
			SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: tc.level},
		}}}
		validator := tc.status
		if validator == nil {
			validator = quiet{}
		}
		v, err := verifier.NewWithOptions(document, tc.store, tc.manager, verifier.VerifierOptions{RevocationCodeSigningValidator: validator, RevocationTimestampingValidator: quiet{}})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		mediaType := map[oci.Format]string{oci.NotaryJWS: "application/jose+json", oci.NotaryCOSE: "application/cose"}[tc.sig.Format]
		if _, err := v.Verify(t.Context(), testTarget, tc.sig.Payload, notation.VerifierVerifyOptions{ArtifactReference: "r.example/a@" + testTarget.Digest.String(), SignatureMediaType: mediaType}); err != nil {
			t.Errorf("%s: the library refuses it by now (%v); this proves nothing any more", tc.name, err)
		}
		w.want(tc.name, tc.engine.Verify(t.Context(), w.artifact, tc.sig, best, tc.leaf), tc.reason, "")
	}
	if len(cases) != 10 {
		t.Errorf("%d cases", len(cases))
	}
	// And that which the specification forbids and the library takes: skip for every registry, with no descriptor and no error.
	document := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{Name: "naive", RegistryScopes: []string{"*"}, SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: "skip"}}}}
	if err := document.Validate(); err != nil {
		t.Errorf("skip with scope *: %v", err)
	}
}

type quiet struct{}

func (quiet) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	return fine(len(o.CertChain)), nil
}

// engineTrusting is an engine with the revocation service of one world and AWS's root of another.
func (w *world) engineTrusting(o *world) *Engine {
	return w.engine(func(options *Options) { options.Trust.AWSSigner.Roots = []string{o.aws.RootFingerprint()} })
}

// TestStrictAlone: no level but strict is ever made, whatever the rule says, and nothing overrides but revocation.
func TestStrictAlone(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	for _, leaf := range []policy.Leaf{awsLeaf, corpLeaf, tsaLeaf} {
		for mode, action := range map[policy.Revocation]trustpolicy.ValidationAction{
			policy.RevocationRequire: trustpolicy.ActionEnforce, policy.RevocationBestEffort: trustpolicy.ActionLog, policy.RevocationOff: trustpolicy.ActionSkip,
		} {
			document, _, fail := (&check{e: e, leaf: leaf, rule: policy.Rule{Revocation: mode}}).requirement()
			if fail != nil {
				t.Fatal(fail.Message)
			}
			s := document.TrustPolicies[0]
			level, err := s.SignatureVerification.GetVerificationLevel()
			if err != nil || len(document.TrustPolicies) != 1 || len(level.Enforcement) != 5 {
				t.Fatalf("%v: %+v, %v", leaf.Method, document, err)
			}
			for what, got := range level.Enforcement {
				want := trustpolicy.ActionEnforce
				if what == trustpolicy.TypeRevocation {
					want = action
				}
				if got != want {
					t.Errorf("%s, %s: %s is %s, want %s", leaf.Method, mode, what, got, want)
				}
			}
			for _, identity := range s.TrustedIdentities {
				if identity == "*" {
					t.Errorf("%s: trusts *", leaf.Method)
				}
			}
		}
	}
}
