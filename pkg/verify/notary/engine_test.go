package notary

import (
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/internal/sigv4"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const (
	account = "arn:aws:signer:us-east-1:123456789012:"
	profile = account + "/signing-profiles/nops_agents"
	version = profile + "/AbCdEfGhIj"
	job     = account + "/signing-jobs/8ad1f3a9-1111-4222-8333-444455556666"
	alias   = "arn:aws:signer:us-east-1::/aliases/com.example.release"
	aliased = "arn:aws:signer:us-east-1::/aliased-signing-profiles/0c1d2e3f-1111-4222-8333-444455556666"
	other   = "arn:aws:signer:us-east-1:999999999999:/signing-profiles/nops_agents"

	corpSubject = "C=DE,ST=BY,O=Example"
)

var (
	testKey    = sigv4.Key{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	errNoKey   = errors.New("no such key")
	testTarget = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("an image"), Size: 8}
)

// world is a stand-in of AWS Signer, a company with its own authority, and a registry's artifact.
type world struct {
	t           *testing.T
	aws, corp   *signing.Authority
	tsa         *signing.TSA
	revocations *signing.Revocations
	server      *httptest.Server
	artifact    oci.Artifact
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, revocations: &signing.Revocations{Keys: func(id string) (sigv4.Key, error) {
		if id != testKey.AccessKeyID {
			return sigv4.Key{}, errNoKey
		}
		return testKey, nil
	}}}
	w.aws, w.corp = w.authority(signing.AuthorityOptions{}), w.authority(signing.AuthorityOptions{Organization: "Example"})
	var err error
	if w.tsa, err = signing.NewTSA(); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(w.revocations)
	t.Cleanup(w.server.Close)
	w.artifact = oci.Artifact{
		Canonical: ref.Reference{Registry: "public.ecr.aws", Repository: "nops/agent", Tag: "1.0.0"}, Location: ref.Reference{Registry: "mirror.corp:5000", Repository: "nops/agent", Digest: testTarget.Digest.String()},
		Descriptor: testTarget,
	}
	return w
}

func (w *world) authority(o signing.AuthorityOptions) *signing.Authority {
	w.t.Helper()
	a, err := signing.NewAuthority(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) options() Options {
	return Options{
		Trust: policy.Trust{
			AWSSigner: policy.AWSSigner{Roots: []string{w.aws.RootFingerprint()}, Endpoint: w.server.URL},
			Stores: []policy.Store{
				{Name: "corp", Certificates: [][]byte{w.corp.Root().Raw}},
				{Name: "corp-tsa", Certificates: [][]byte{w.corp.Root().Raw}, TSA: [][]byte{w.tsa.Root().Raw}},
			},
		},
		Credentials: credentials.NewStaticCredentialsProvider(testKey.AccessKeyID, testKey.SecretAccessKey, ""),
	}
}

func (w *world) engine(change ...func(*Options)) *Engine {
	w.t.Helper()
	o := w.options()
	for _, c := range change {
		c(&o)
	}
	e, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) sign(by *signing.Authority, o signing.NotaryOptions) oci.Signature {
	w.t.Helper()
	e, err := by.Sign(w.t.Context(), testTarget, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return found(e)
}

// byHand signs what a change makes of the protected header and the payload.
func (w *world) byHand(by *signing.Authority, o signing.NotaryOptions, change func(header map[string]any, payload []byte) ([]byte, []byte)) oci.Signature {
	w.t.Helper()
	if o.SignedAt.IsZero() {
		o.SignedAt = time.Now()
	}
	header, payload, err := by.Draft(testTarget, o)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, payload := change(header, payload)
	e, err := by.SignByHand(raw, payload, o.SignedAt)
	if err != nil {
		w.t.Fatal(err)
	}
	return found(e)
}

func rawJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// found is an envelope as discovery hands it on.
func found(e signing.NotaryEnvelope) oci.Signature {
	s := oci.Signature{Format: oci.NotaryJWS, Payload: e.Blob, Manifest: ocispec.Descriptor{Digest: digest.FromBytes(e.Blob)}, From: oci.PlaceReferrers}
	if e.MediaType == "application/cose" {
		s.Format = oci.NotaryCOSE
	}
	return s
}

func (w *world) asked() int { return len(w.revocations.Requests()) }

var (
	awsLeaf  = policy.Leaf{Method: policy.MethodAWSSigner, Profiles: []string{profile}}
	corpLeaf = policy.Leaf{Method: policy.MethodNotation, Store: "corp", Subjects: []string{corpSubject}}
	tsaLeaf  = policy.Leaf{Method: policy.MethodNotation, Store: "corp-tsa", Subjects: []string{corpSubject}}
	require  = policy.Rule{Revocation: policy.RevocationRequire}
	best     = policy.Rule{Revocation: policy.RevocationBestEffort}
	off      = policy.Rule{Revocation: policy.RevocationOff}
)

func profiles(arns ...string) policy.Leaf {
	return policy.Leaf{Method: policy.MethodAWSSigner, Profiles: arns}
}

func awsSigned(change ...func(*signing.NotaryOptions)) signing.NotaryOptions {
	o := signing.NotaryOptions{SignedAt: time.Now().Add(-time.Hour), Expires: time.Now().Add(1000 * time.Hour), Profile: version, Job: job}
	for _, c := range change {
		c(&o)
	}
	return o
}

// want is what a finding must be; a reason implies its outcome.
func (w *world) want(name string, f verdict.Finding, reason verdict.Reason, says string) {
	w.t.Helper()
	outcome := verdict.Verified
	if reason != "" {
		outcome = reason.Outcome()
	}
	if f.Outcome != outcome || f.Reason != reason || !strings.Contains(f.Message, says) {
		w.t.Errorf("%s:\n got %s, %s: %s\nwant %s, %s: …%s…", name, f.Outcome, f.Reason, f.Message, outcome, reason, says)
	}
	if f.Outcome.OK() && (f.Identity == "" || f.Revocation == "") {
		w.t.Errorf("%s: verified without saying whose it is (%q) or what is known of revocation (%q)", name, f.Identity, f.Revocation)
	}
	if strings.ContainsAny(f.Message, "\n\x1b") {
		w.t.Errorf("%s: the message is not one line for terminals: %q", name, f.Message)
	}
}

func with(extra ...signature.Attribute) func(*signing.NotaryOptions) {
	return func(o *signing.NotaryOptions) { o.Extra = extra }
}

// TestAWSSigner goes through signatures of AWS Signer's shape, good and bad. asks says whether AWS is asked: never before all else holds.
func TestAWSSigner(t *testing.T) {
	w := newWorld(t)
	forged := w.authority(signing.AuthorityOptions{}) // the same subjects, another key
	curved := w.authority(signing.AuthorityOptions{Curve: elliptic.P256()})
	set := func(f func(*signing.NotaryOptions)) signing.NotaryOptions { return awsSigned(f) }
	header := func(change func(map[string]any)) func(map[string]any, []byte) ([]byte, []byte) {
		return func(h map[string]any, p []byte) ([]byte, []byte) { change(h); return rawJSON(h), p }
	}
	year := 365 * 24 * time.Hour
	cases := []struct {
		name   string
		sig    oci.Signature
		leaf   policy.Leaf
		rule   policy.Rule
		reason verdict.Reason
		says   string
		asks   int
	}{
		{"JWS", w.sign(w.aws, awsSigned()), awsLeaf, require, "", "", 1},
		{"COSE", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.COSE = true })), awsLeaf, require, "", "", 1},
		{"by hand as the library", w.byHand(w.aws, awsSigned(), header(func(map[string]any) {})), awsLeaf, require, "", "", 1},
		{"the leaf expired a year ago, the signature did not", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.SignedAt = time.Now().Add(-year) })), awsLeaf, require, "", "", 1},
		{"the same, trusted by the profile's version", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.SignedAt = time.Now().Add(-year) })), profiles(version), require, "", "", 1},
		{"the second of two identities", w.sign(w.aws, awsSigned()), profiles(other, profile), require, "", "", 1},
		{"never expires", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Expires = time.Time{} })), awsLeaf, require, "", "", 1},
		{"metadata of the user", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Metadata = map[string]string{"Digest": "x", "digest": "y"} })), awsLeaf, require, "", "", 1},
		{"least version of the verifier, met", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.PluginMinVersion = "1.0.0" })), awsLeaf, require, "", "", 1},
		{"revocation off", w.sign(w.aws, awsSigned()), awsLeaf, off, "", "", 0},

		{"alias, trusted by it", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile, o.Alias = aliased, alias })), profiles(alias), require, "", "", 1},
		{"alias without a region", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.Profile, o.Alias = aliased, "arn:aws:signer:::/aliases/com.example.release"
		})), profiles("arn:aws:signer:::/aliases/com.example.release"), require, "", "", 1},
		{"alias of an account", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Alias = account + "/aliases/release" })), profiles(account + "/aliases/release"), require, "", "", 1},
		{"alias without a region, trusted with one", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.Profile, o.Alias = aliased, "arn:aws:signer:::/aliases/com.example.release"
		})), profiles(alias), require, verdict.WrongIdentity, "", 0},
		{"alias by its name alone", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile, o.Alias = aliased, "com.example.release" })), profiles(alias), require, verdict.Malformed, "", 0},
		{"alias beside a profile, trusted by the profile", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Alias = alias })), awsLeaf, require, "", "", 1},
		{"alias, trusted by the aliased profile", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile, o.Alias = aliased, alias })), profiles(aliased), require, "", "", 1},
		{"another alias", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.Profile, o.Alias = aliased, "arn:aws:signer:us-east-1::/aliases/com.example.releas"
		})), profiles(alias), require, verdict.WrongIdentity, "aliases/com.example.releas)", 0},
		{"another account's alias", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.Profile, o.Alias = aliased, "arn:aws:signer:us-east-1:999999999999:/aliases/com.example.release"
		})), profiles(alias), require, verdict.WrongIdentity, "", 0},
		{"no alias, trusted by one", w.sign(w.aws, awsSigned()), profiles(alias), require, verdict.WrongIdentity, "", 0},
		{"an alias of another region than its profile", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.Profile, o.Alias = aliased, "arn:aws:signer:eu-west-1::/aliases/com.example.release"
		})), profiles("arn:aws:signer:eu-west-1::/aliases/com.example.release"), require, verdict.Malformed, "no alias of", 0},
		{"a profile in the place of the alias", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Alias = profile })), awsLeaf, require, verdict.Malformed, "", 0},

		{"another account", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = other + "/AbCdEfGhIj" })), awsLeaf, require, verdict.WrongIdentity, "999999999999", 0},
		{"a profile whose name begins the same", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = profile + "_evil/AbCdEfGhIj" })), awsLeaf, require, verdict.WrongIdentity, "_evil", 0},
		{"other capitals", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = account + "/signing-profiles/Nops_agents/AbCdEfGhIj" })), awsLeaf, require, verdict.WrongIdentity, "", 0},
		{"another region", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = strings.Replace(version, "us-east-1", "us-east-2", 1) })), awsLeaf, require, verdict.WrongIdentity, "", 0},
		{"another version", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = profile + "/AbCdEfGhIk" })), profiles(version), require, verdict.WrongIdentity, "", 0},
		{"a region that is a host", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = strings.Replace(version, "us-east-1", "evil.example/", 1) })), awsLeaf, require, verdict.Malformed, "", 0},
		{"a profile without version", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = profile })), awsLeaf, require, verdict.Malformed, "no version", 0},
		{"a path out of the profile", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile = profile + "/../x" })), awsLeaf, require, verdict.Malformed, "", 0},
		{"no profile", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Profile, o.Plugin = "", signing.AWSPlugin })), awsLeaf, require, verdict.Malformed, "lacks the attribute", 0},
		{"no job", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Job = "" })), awsLeaf, require, verdict.Malformed, "lacks the attribute", 0},
		{"a job that is none", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Job = version })), awsLeaf, require, verdict.Malformed, "no signing job", 0},
		{"a job of another partition", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Job = strings.Replace(job, "arn:aws:", "arn:aws-cn:", 1) })), awsLeaf, require, verdict.Malformed, "partitions", 0},
		{"a profile that is no text", w.byHand(w.aws, awsSigned(), header(func(h map[string]any) { h[signing.AttributeProfileVersion] = []string{version} })), awsLeaf, require, verdict.Malformed, "no", 0},

		{"identity *", w.sign(w.aws, awsSigned()), profiles("*"), require, verdict.TrustUnusable, "all of them", 0},
		{"identity with a * inside", w.sign(w.aws, awsSigned()), profiles(account + "/signing-profiles/*"), require, verdict.TrustUnusable, "", 0},
		{"identity by subject", w.sign(w.aws, awsSigned()), profiles("x509.subject:CN=AWS Signer,O=AWS,ST=WA,C=US"), require, verdict.TrustUnusable, "", 0},
		{"no identity", w.sign(w.aws, awsSigned()), profiles(), require, verdict.TrustUnusable, "", 0},
		{"a good identity beside *", w.sign(w.aws, awsSigned()), profiles(profile, "*"), require, verdict.TrustUnusable, "", 0},
		{"an s left out", w.sign(w.aws, awsSigned()), profiles(account + "/signing-profile/nops_agents"), require, verdict.TrustUnusable, "did you mean /signing-profiles/nops_agents", 0},
		{"a job as identity", w.sign(w.aws, awsSigned()), profiles(job), require, verdict.TrustUnusable, "", 0},

		{"a key on another curve", w.sign(curved, awsSigned()), awsLeaf, require, verdict.Malformed, "SHA-384", 0},

		{"no plugin attribute", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Plugin = "-" })), awsLeaf, require, verdict.Malformed, "does not demand", 0},
		{"another plugin", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Plugin = "com.evil.plugin" })), awsLeaf, require, verdict.UnknownCritical, "com.evil.plugin", 0},
		{"a plugin by a path", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Plugin = "../../bin/sh" })), awsLeaf, require, verdict.UnknownCritical, "", 0},
		{"a newer plugin", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.PluginMinVersion = "9.0.0" })), awsLeaf, require, verdict.UnknownCritical, "9.0.0", 0},
		{"a plugin version that is none", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.PluginMinVersion = "1" })), awsLeaf, require, verdict.Malformed, "", 0},
		{"plugin attribute not critical", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.NotCritical = []string{signing.AttributePlugin} })), awsLeaf, require, verdict.Malformed, "does not demand", 0},
		{"least version not critical", w.sign(w.aws, set(func(o *signing.NotaryOptions) {
			o.PluginMinVersion, o.NotCritical = "1.0.0", []string{signing.AttributePluginMinVersion}
		})), awsLeaf, require, verdict.Malformed, "", 0},
		{"an unknown critical attribute", w.sign(w.aws, awsSigned(with(signature.Attribute{Key: "com.example.new", Value: "x", Critical: true}))), awsLeaf, require, verdict.UnknownCritical, "com.example.new", 0},
		{"an unknown attribute, not critical", w.sign(w.aws, awsSigned(with(signature.Attribute{Key: "com.example.new", Value: "x"}))), awsLeaf, require, verdict.UnknownCritical, "com.example.new", 0},
		{"an unknown critical attribute, revocation off", w.sign(w.aws, awsSigned(with(signature.Attribute{Key: "com.example.new", Value: "x", Critical: true}))), awsLeaf, off, verdict.UnknownCritical, "", 0},
		{"an unknown critical attribute with a number for a name", w.sign(w.aws, awsSigned(with(signature.Attribute{Key: int64(-70000), Value: "x", Critical: true}), func(o *signing.NotaryOptions) { o.COSE = true })), awsLeaf, require, verdict.UnknownCritical, "-70000", 0},

		{"expired", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Expires = time.Now().Add(-time.Minute) })), awsLeaf, best, verdict.SignatureExpired, "", 0},
		{"signed after its leaf's end", w.byHand(w.aws, set(func(o *signing.NotaryOptions) { o.SignedAt = time.Now().Add(-100 * 24 * time.Hour) }), header(func(h map[string]any) {
			h["io.cncf.notary.authenticSigningTime"] = time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
		})), awsLeaf, require, verdict.CertificateTime, "", 0},
		{"signed before its leaf's beginning", w.byHand(w.aws, awsSigned(), header(func(h map[string]any) {
			h["io.cncf.notary.authenticSigningTime"] = time.Now().Add(-30 * 24 * time.Hour).UTC().Truncate(time.Second)
		})), awsLeaf, require, verdict.CertificateTime, "", 0},
		{"too old for the rule", w.sign(w.aws, awsSigned()), awsLeaf, policy.Rule{MaxAge: 30 * time.Minute}, verdict.TooOld, "", 0},
		{"young enough for the rule", w.sign(w.aws, awsSigned()), awsLeaf, policy.Rule{MaxAge: 2 * time.Hour}, "", "", 1},
		{"from before the rule's date", w.sign(w.aws, awsSigned()), awsLeaf, policy.Rule{NotBefore: time.Now().Add(-time.Minute)}, verdict.TooOld, "", 0},
		{"from after the rule's date", w.sign(w.aws, awsSigned()), awsLeaf, policy.Rule{NotBefore: time.Now().Add(-2 * time.Hour)}, "", "", 1},
		{"a mode of revocation that is none", w.sign(w.aws, awsSigned()), awsLeaf, policy.Rule{Revocation: "skip"}, verdict.TrustUnusable, "skip", 0},

		{"a foreign root with the same subjects", w.sign(forged, awsSigned()), awsLeaf, require, verdict.UntrustedRoot, "", 0},
		{"a company's certificate with AWS's scheme and ARN", w.sign(w.corp, set(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509.signingAuthority" })), awsLeaf, require, verdict.UntrustedRoot, "", 0},
		{"a company's certificate with the ARN, under its own scheme", w.sign(w.corp, set(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509" })), awsLeaf, require, verdict.WrongScheme, "", 0},
		{"AWS's certificates under the other scheme", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509" })), awsLeaf, require, verdict.WrongScheme, "", 0},
		{"AWS's signature for a company's requirement", w.sign(w.aws, awsSigned()), corpLeaf, best, verdict.WrongScheme, "", 0},
		{"AWS's signature under the other scheme for a company's requirement", w.sign(w.aws, set(func(o *signing.NotaryOptions) { o.Scheme = "notary.x509" })), corpLeaf, best, verdict.UntrustedRoot, "", 0},
	}
	for _, tc := range cases {
		before := w.asked()
		f := w.engine(func(o *Options) { o.Trust.AWSSigner.Roots = append(o.Trust.AWSSigner.Roots, curved.RootFingerprint()) }).Verify(t.Context(), w.artifact, tc.sig, tc.rule, tc.leaf)
		w.want(tc.name, f, tc.reason, tc.says)
		if got := w.asked() - before; got != tc.asks {
			t.Errorf("%s: AWS was asked %d times, want %d", tc.name, got, tc.asks)
		}
		if f.Method != string(tc.leaf.Method) || f.Signature != tc.sig.ID() {
			t.Errorf("%s: of method %q, signature %q", tc.name, f.Method, f.Signature)
		}
		if f.Outcome.OK() && f.SignedAt.IsZero() {
			t.Errorf("%s: AWS Signer's time is authentic, and not told", tc.name)
		}
	}
	if len(cases) < 60 {
		t.Errorf("%d cases", len(cases))
	}
}

// TestAnotherArtifact: a good signature of something else, in every way in which it may be something else.
func TestAnotherArtifact(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name   string
		change func(*ocispec.Descriptor)
	}{
		{"another digest", func(d *ocispec.Descriptor) { d.Digest = digest.FromString("another image") }},
		{"another media type", func(d *ocispec.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex }},
		{"another size", func(d *ocispec.Descriptor) { d.Size++ }},
	} {
		artifact := w.artifact
		tc.change(&artifact.Descriptor)
		for _, s := range []struct {
			sig  oci.Signature
			leaf policy.Leaf
		}{{w.sign(w.aws, awsSigned()), awsLeaf}, {w.sign(w.corp, signing.NotaryOptions{}), corpLeaf}} {
			w.want(tc.name, w.engine().Verify(t.Context(), artifact, s.sig, best, s.leaf), verdict.WrongArtifact, testTarget.Digest.String())
		}
	}
	if w.asked() != 0 {
		t.Errorf("AWS was asked %d times about signatures of other artifacts", w.asked())
	}
}

// TestRevoked: known to be revoked is refused in every mode in which somebody asks; not to know is what the mode says.
func TestRevoked(t *testing.T) {
	w := newWorld(t)
	sig := w.sign(w.aws, awsSigned())
	chain, err := w.aws.Chain(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	hashes := signing.RevocationHashes(chain)
	all := time.Time{}
	for _, tc := range []struct {
		name                string
		set                 func(*signing.Revocations)
		require, bestEffort verdict.Reason
		says                string
	}{
		{"nothing", func(*signing.Revocations) {}, "", "", ""},
		{"the job", func(r *signing.Revocations) { r.Revoke(job, all) }, verdict.SignatureRevoked, verdict.SignatureRevoked, job},
		{"the profile's version", func(r *signing.Revocations) { r.Revoke(version, all) }, verdict.SignatureRevoked, verdict.SignatureRevoked, version},
		{"the profile's version, of later signatures", func(r *signing.Revocations) { r.Revoke(version, time.Now()) }, "", "", ""},
		{"the leaf", func(r *signing.Revocations) { r.Revoke(hashes[0], all) }, verdict.CertificateRevoked, verdict.CertificateRevoked, hashes[0][:20]},
		{"an intermediate certificate", func(r *signing.Revocations) { r.Revoke(hashes[2], all) }, verdict.CertificateRevoked, verdict.CertificateRevoked, ""},
		{"the root", func(r *signing.Revocations) { r.Revoke(hashes[3], all) }, verdict.CertificateRevoked, verdict.CertificateRevoked, ""},
		{"denied", func(r *signing.Revocations) { r.Inject(signing.RevocationFault{Status: 403}) }, verdict.NoCredentials, "", "signer:GetRevocationStatus"},
		{"throttled", func(r *signing.Revocations) { r.Inject(signing.RevocationFault{Status: 429}) }, verdict.RevocationUnknown, "", "TooManyRequests"},
		{"broken", func(r *signing.Revocations) { r.Inject(signing.RevocationFault{Status: 500}) }, verdict.RevocationUnknown, "", "InternalServiceError"},
		{"garbage", func(r *signing.Revocations) { r.Inject(signing.RevocationFault{Garbage: true}) }, verdict.RevocationUnknown, "", ""},
		{"another region's service", func(r *signing.Revocations) { r.Region = "eu-west-1" }, verdict.NoCredentials, "", "InvalidSignature"},
	} {
		for _, mode := range []struct {
			rule   policy.Rule
			reason verdict.Reason
		}{{require, tc.require}, {best, tc.bestEffort}, {policy.Rule{}, tc.bestEffort}} {
			r := &signing.Revocations{Keys: w.revocations.Keys}
			tc.set(r)
			server := httptest.NewServer(r)
			e := w.engine(func(o *Options) { o.Trust.AWSSigner.Endpoint = server.URL })
			f := e.Verify(t.Context(), w.artifact, sig, mode.rule, awsLeaf)
			server.Close()
			says := tc.says
			if mode.reason == "" {
				says = ""
			}
			w.want(tc.name+", "+string(mode.rule.Revocation), f, mode.reason, says)
			if tc.require.Outcome() == verdict.Unknown && tc.require != "" && f.Outcome.OK() && !(strings.HasPrefix(f.Revocation, "not checked: ") && strings.Contains(f.Revocation, tc.says)) {
				t.Errorf("%s: passes as %q, which does not say that nobody knows", tc.name, f.Revocation)
			}
		}
		r := &signing.Revocations{Keys: w.revocations.Keys}
		tc.set(r)
		server := httptest.NewServer(r)
		f := w.engine(func(o *Options) { o.Trust.AWSSigner.Endpoint = server.URL }).Verify(t.Context(), w.artifact, sig, off, awsLeaf)
		server.Close()
		w.want(tc.name+", off", f, "", "")
		if c := r.Counts(); c.Answered != 0 || len(c.Refused) != 0 || !strings.Contains(f.Revocation, "off") {
			t.Errorf("%s, off: asked %+v, told %q", tc.name, c, f.Revocation)
		}
	}
}

// TestCompany goes through signatures of a company's own authority.
func TestCompany(t *testing.T) {
	w := newWorld(t)
	otherCorp := w.authority(signing.AuthorityOptions{Organization: "Example"})
	strangeTSA, err := signing.NewTSA()
	if err != nil {
		t.Fatal(err)
	}
	short := w.authority(signing.AuthorityOptions{Organization: "Example", LeafLife: time.Hour})
	past := time.Now().Add(-100 * 24 * time.Hour)
	oldTSA := *w.tsa
	oldTSA.Now = func() time.Time { return past.Add(time.Minute) }
	lateTSA := *w.tsa
	lateTSA.Now = func() time.Time { return past.Add(48 * time.Hour) }
	trustShort := func(o *Options) {
		o.Trust.Stores = append(o.Trust.Stores, policy.Store{Name: "short", Certificates: [][]byte{short.Root().Raw}}, policy.Store{Name: "short-tsa", Certificates: [][]byte{short.Root().Raw}, TSA: [][]byte{w.tsa.Root().Raw}})
	}
	leaf := func(store string, subjects ...string) policy.Leaf {
		return policy.Leaf{Method: policy.MethodNotation, Store: store, Subjects: subjects}
	}
	at := func(o signing.NotaryOptions) signing.NotaryOptions { o.SignedAt = past; return o }
	cases := []struct {
		name   string
		sig    oci.Signature
		leaf   policy.Leaf
		rule   policy.Rule
		reason verdict.Reason
		dated  bool
	}{
		{"JWS", w.sign(w.corp, signing.NotaryOptions{}), corpLeaf, best, "", false},
		{"COSE", w.sign(w.corp, signing.NotaryOptions{COSE: true}), corpLeaf, best, "", false},
		{"one of two subjects", w.sign(w.corp, signing.NotaryOptions{}), leaf("corp", "C=US,ST=WA,O=Other", corpSubject+",CN=Release"), best, "", false},
		{"an attribute that need not be understood", w.sign(w.corp, signing.NotaryOptions{Extra: []signature.Attribute{{Key: "note", Value: "x"}}}), corpLeaf, best, "", false},
		{"another subject", w.sign(w.corp, signing.NotaryOptions{}), leaf("corp", corpSubject+",CN=Somebody"), best, verdict.WrongIdentity, false},
		{"subject *", w.sign(w.corp, signing.NotaryOptions{}), leaf("corp", "*"), best, verdict.TrustUnusable, false},
		{"no subject", w.sign(w.corp, signing.NotaryOptions{}), leaf("corp"), best, verdict.TrustUnusable, false},
		{"a subject that is none", w.sign(w.corp, signing.NotaryOptions{}), leaf("corp", "=#"), best, verdict.TrustUnusable, false},
		{"no such store", w.sign(w.corp, signing.NotaryOptions{}), leaf("elsewhere", corpSubject), best, verdict.TrustUnusable, false},
		{"another authority of the same name", w.sign(otherCorp, signing.NotaryOptions{}), corpLeaf, best, verdict.UntrustedRoot, false},
		{"AWS's scheme", w.sign(w.corp, signing.NotaryOptions{Scheme: "notary.x509.signingAuthority"}), corpLeaf, best, verdict.WrongScheme, false},
		{"an unknown critical attribute", w.sign(w.corp, signing.NotaryOptions{Extra: []signature.Attribute{{Key: "must", Value: "x", Critical: true}}}), corpLeaf, best, verdict.UnknownCritical, false},
		{"an unknown critical attribute with a number for a name", w.sign(w.corp, signing.NotaryOptions{COSE: true, Extra: []signature.Attribute{{Key: int64(-70000), Value: "x", Critical: true}}}), corpLeaf, best, verdict.UnknownCritical, false},
		{"a verifier demanded", w.sign(w.corp, signing.NotaryOptions{Plugin: signing.AWSPlugin}), corpLeaf, best, verdict.UnknownCritical, false},
		{"a verifier named, not demanded", w.sign(w.corp, signing.NotaryOptions{Plugin: signing.AWSPlugin, NotCritical: []string{signing.AttributePlugin}}), corpLeaf, best, verdict.Malformed, false},
		{"expired signature", w.sign(w.corp, signing.NotaryOptions{SignedAt: time.Now().Add(-time.Hour), Expires: time.Now().Add(-time.Minute)}), corpLeaf, best, verdict.SignatureExpired, false},

		{"time stamped", w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), tsaLeaf, best, "", true},
		{"COSE, time stamped", w.sign(w.corp, signing.NotaryOptions{COSE: true, TSA: w.tsa}), tsaLeaf, best, "", true},
		{"time stamped, no authority trusted for it", w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), corpLeaf, best, "", false},
		{"not time stamped, certificates still good", w.sign(w.corp, signing.NotaryOptions{}), tsaLeaf, best, "", false},
		{"time stamped by a stranger", w.sign(w.corp, signing.NotaryOptions{TSA: strangeTSA}), tsaLeaf, best, verdict.NoTimestamp, false},
		{"expired certificate, time stamped before", w.sign(short, at(signing.NotaryOptions{TSA: &oldTSA})), leaf("short-tsa", corpSubject), best, "", true},
		{"expired certificate, time stamped after", w.sign(short, at(signing.NotaryOptions{TSA: &lateTSA})), leaf("short-tsa", corpSubject), best, verdict.CertificateTime, false},
		{"expired certificate, not time stamped", w.sign(short, at(signing.NotaryOptions{})), leaf("short-tsa", corpSubject), best, verdict.NoTimestamp, false},
		{"expired certificate, nobody trusted for time", w.sign(short, at(signing.NotaryOptions{TSA: &oldTSA})), leaf("short", corpSubject), best, verdict.CertificateTime, false},
		{"another's time stamp", w.transplanted(), tsaLeaf, best, verdict.NoTimestamp, false},

		{"an age wanted, nothing says any", w.sign(w.corp, signing.NotaryOptions{}), corpLeaf, policy.Rule{MaxAge: time.Hour}, verdict.NoTimestamp, false},
		{"a date wanted, nothing says any", w.sign(w.corp, signing.NotaryOptions{}), tsaLeaf, policy.Rule{NotBefore: past}, verdict.NoTimestamp, false},
		{"an age wanted, a stamp nobody trusts", w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), corpLeaf, policy.Rule{MaxAge: time.Hour}, verdict.NoTimestamp, false},
		{"young enough", w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), tsaLeaf, policy.Rule{MaxAge: time.Hour}, "", true},
		{"too old", w.sign(short, at(signing.NotaryOptions{TSA: &oldTSA})), leaf("short-tsa", corpSubject), policy.Rule{MaxAge: time.Hour}, verdict.TooOld, true},
		{"from before the date", w.sign(short, at(signing.NotaryOptions{TSA: &oldTSA})), leaf("short-tsa", corpSubject), policy.Rule{NotBefore: past.Add(time.Hour)}, verdict.TooOld, true},

		{"revocation wanted, certificates name no place", w.sign(w.corp, signing.NotaryOptions{}), corpLeaf, require, verdict.RevocationUnknown, false},
		{"revocation off", w.sign(w.corp, signing.NotaryOptions{}), corpLeaf, off, "", false},
		{"revocation off, time stamped", w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), tsaLeaf, off, "", true},
		{"a method that is not ours", w.sign(w.corp, signing.NotaryOptions{}), policy.Leaf{Method: policy.MethodCosignKey}, best, verdict.TrustUnusable, false},
	}
	for _, tc := range cases {
		f := w.engine(trustShort).Verify(t.Context(), w.artifact, tc.sig, tc.rule, tc.leaf)
		w.want(tc.name, f, tc.reason, "")
		if f.SignedAt.IsZero() == tc.dated {
			t.Errorf("%s: signed at %v, and a trusted time stamp is there: %v", tc.name, f.SignedAt, tc.dated)
		}
	}
	if w.asked() != 0 {
		t.Errorf("AWS was asked %d times about a company's signatures", w.asked())
	}
}

// transplanted is a signature with the time stamp of another one.
func (w *world) transplanted() oci.Signature {
	one, two := w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa}), w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa, Metadata: map[string]string{"a": "b"}})
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal(one.Payload, &a), json.Unmarshal(two.Payload, &b)); err != nil {
		w.t.Fatal(err)
	}
	a["header"].(map[string]any)["io.cncf.notary.timestampSignature"] = b["header"].(map[string]any)["io.cncf.notary.timestampSignature"]
	one.Payload = rawJSON(a)
	return one
}

// TestClock: a signature that is good today is not for ever (freezing a registry at an old state).
func TestClock(t *testing.T) {
	w := newWorld(t)
	sig := w.sign(w.aws, awsSigned())
	for _, tc := range []struct {
		name   string
		later  time.Duration
		rule   policy.Rule
		reason verdict.Reason
	}{
		{"now", 0, policy.Rule{MaxAge: 48 * time.Hour}, ""},
		{"in a week, with an age", 7 * 24 * time.Hour, policy.Rule{MaxAge: 48 * time.Hour}, verdict.TooOld},
		{"in a week, without", 7 * 24 * time.Hour, policy.Rule{}, ""},
		{"after its end", 2000 * time.Hour, policy.Rule{}, verdict.SignatureExpired},
	} {
		later := func() time.Time { return time.Now().Add(tc.later) }
		checker := CheckerFunc(func(context.Context, Question) (Answer, error) { return Answer{At: later()}, nil })
		f := w.engine(func(o *Options) { o.Now, o.Checker = later, checker }).Verify(t.Context(), w.artifact, sig, tc.rule, awsLeaf)
		w.want(tc.name, f, tc.reason, "")
	}
}

// TestTrust: what an engine is not made of.
func TestTrust(t *testing.T) {
	w := newWorld(t)
	chain, err := w.corp.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*policy.Trust)
		says   string
	}{
		{"a root in capitals", func(p *policy.Trust) { p.AWSSigner.Roots = []string{strings.ToUpper(w.aws.RootFingerprint())} }, "lower-case"},
		{"half a root", func(p *policy.Trust) { p.AWSSigner.Roots = []string{w.aws.RootFingerprint()[:40]} }, "SHA-256"},
		{"an endpoint without TLS", func(p *policy.Trust) { p.AWSSigner.Endpoint = "http://signer.example" }, "without TLS"},
		{"an endpoint with a path", func(p *policy.Trust) { p.AWSSigner.Endpoint = "https://signer.example/x" }, "expected https://"},
		{"an endpoint with a password", func(p *policy.Trust) { p.AWSSigner.Endpoint = "https://a:b@signer.example" }, "expected https://"},
		{"a store with nothing in it", func(p *policy.Trust) { p.Stores = []policy.Store{{Name: "x"}} }, "no certificate"},
		{"a store with a signer's certificate", func(p *policy.Trust) {
			p.Stores = []policy.Store{{Name: "x", Certificates: [][]byte{chain[0].Raw}}}
		}, "not a CA"},
		{"a store of garbage", func(p *policy.Trust) { p.Stores = []policy.Store{{Name: "x", Certificates: [][]byte{{1, 2}}}} }, "certificate 1"},
		{"a time stamping root that is none", func(p *policy.Trust) {
			p.Stores = []policy.Store{{Name: "x", Certificates: [][]byte{w.corp.Root().Raw}, TSA: [][]byte{chain[1].Raw}}}
		}, "a root certifies itself"},
		{"two stores of one name", func(p *policy.Trust) { p.Stores = append(p.Stores, p.Stores[0]) }, "two of that name"},
		{"evidence that is none", func(p *policy.Trust) { p.AWSSigner.Evidence = []byte("{}") }, "evidence"},
	} {
		o := w.options()
		tc.change(&o.Trust)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	// Without any root named, AWS's own counts: what is signed here does not pass for AWS.
	f := w.engine(func(o *Options) { o.Trust.AWSSigner.Roots = nil }).Verify(t.Context(), w.artifact, w.sign(w.aws, awsSigned()), best, awsLeaf)
	w.want("AWS's own root", f, verdict.UntrustedRoot, w.aws.RootFingerprint())
	e, err := New(Options{})
	if err != nil || len(e.roots) != 1 || !e.roots[policy.AWSSignerRoot] {
		t.Errorf("by default these roots are trusted: %v, %v", e.roots, err)
	}
}
