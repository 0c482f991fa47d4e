package notary

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/notaryproject/tspclient-go"
	"oras.land/oras-go/v2/content"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Options are what an engine works with. The zero value of each but Trust is a default.
type Options struct {
	Trust policy.Trust
	Now   func() time.Time // nil means time.Now

	// Checker answers for AWS Signer's revocation instead of what Trust, and the four fields below, would be made into.
	Checker Checker
	// Credentials for asking AWS; nil means its default chain, which is built when there is a first question, not before.
	Credentials aws.CredentialsProvider
	// HTTP asks AWS; nil means a client of AWS's library. A CA bundle of the user's goes in here.
	HTTP *http.Client
	// CacheFor is how long an answer of AWS counts; zero means five minutes.
	CacheFor time.Duration
	// Record, where set, takes down what AWS answered, for sites that cannot ask.
	Record *Recorder

	// OCSP and CRL. The URLs stand in certificates of trusted authorities; still nobody is asked at a loopback, link-local or private
	// address, unless AllowPrivate says that the company's own responder is there.
	AllowPrivate bool
	Proxy        func(*http.Request) (*url.URL, error) // nil means none
}

// Engine checks Notary Project signatures. It is safe for concurrent use.
type Engine struct {
	now     func() time.Time
	roots   map[string]bool // fingerprints of AWS Signer's
	stores  map[string]*store
	checker Checker
	status  *http.Client // OCSP and CRLs
	chains  chains
	leaving door
}

// store holds certificates by the type that Notary's trust stores have. There is no way to ask for one under another type.
type store struct {
	authorities, tsa []*x509.Certificate
}

// New makes an engine. Its error says what of the trust cannot be used.
func New(o Options) (*Engine, error) {
	e := &Engine{now: o.Now, roots: map[string]bool{}, stores: map[string]*store{}, checker: o.Checker}
	if e.now == nil {
		e.now = time.Now
	}
	roots := o.Trust.AWSSigner.Roots
	if len(roots) == 0 {
		roots = []string{policy.AWSSignerRoot}
	}
	for _, r := range roots {
		if raw, err := hex.DecodeString(r); err != nil || len(raw) != sha256.Size || r != strings.ToLower(r) {
			return nil, fmt.Errorf("trust in AWS Signer's root %q: expected the SHA-256 of its DER in lower-case hexadecimal", r)
		}
		e.roots[r] = true
	}
	for _, s := range o.Trust.Stores {
		made, err := newStore(s)
		if err != nil {
			return nil, fmt.Errorf("trust store %q: %w", s.Name, err)
		}
		if e.stores[s.Name] != nil {
			return nil, fmt.Errorf("trust store %q: there are two of that name", s.Name)
		}
		e.stores[s.Name] = made
	}
	e.status = statusOptions{allowPrivate: o.AllowPrivate, proxy: o.Proxy}.client()
	go prepare()
	if e.checker == nil {
		var err error
		if e.checker, err = newChecker(o, e.now); err != nil {
			return nil, err
		}
	}
	if o.Record != nil {
		e.checker = o.Record.over(e.checker)
	}
	return e, nil
}

// prepare has the tables for P-384 computed, which Go does once, when the first signature needs them, with everybody else waiting. By
// then the processors, which wait for registries before, have enough to do. It takes some milliseconds, and nothing waits for it.
func prepare() {
	one := make([]byte, 48)
	one[47] = 1
	_, _ = ecdh.P384().NewPrivateKey(one)
}

func newStore(s policy.Store) (*store, error) {
	var made store
	for _, kind := range []struct {
		what string
		ders [][]byte
		into *[]*x509.Certificate
	}{{"certificate", s.Certificates, &made.authorities}, {"time stamping root", s.TSA, &made.tsa}} {
		for i, der := range kind.ders {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("%s %d: %w", kind.what, i+1, err)
			}
			*kind.into = append(*kind.into, c)
		}
	}
	if len(made.authorities) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	if err := truststore.ValidateCertificates(made.authorities); err != nil {
		return nil, err
	}
	// The library demands this of its own store on disk, and not of others'.
	for _, c := range made.tsa {
		if err := c.CheckSignatureFrom(c); err != nil || !bytes.Equal(c.RawSubject, c.RawIssuer) {
			return nil, fmt.Errorf("%q is no root of a time stamping authority: a root certifies itself", c.Subject)
		}
	}
	return &made, nil
}

// Verify implements verify.Engine.
func (e *Engine) Verify(ctx context.Context, a oci.Artifact, s oci.Signature, rule policy.Rule, leaf policy.Leaf) (f verdict.Finding) {
	defer func() {
		if p := recover(); p != nil {
			f = verdict.Fail(verdict.Panicked, "checking it ended in a panic: %.200v", p)
		}
		f.Method, f.Signature, f.Message = string(leaf.Method), s.ID(), oneLine(f.Message)
		f.Identity, f.Revocation = oneLine(f.Identity), oneLine(f.Revocation)
	}()
	c := &check{e: e, a: a, s: s, rule: rule, leaf: leaf}
	return c.run(ctx)
}

// check is one signature held against one requirement.
type check struct {
	e    *Engine
	a    oci.Artifact
	s    oci.Signature
	rule policy.Rule
	leaf policy.Leaf

	env  *envelope
	aws  awsClaims // of AWS Signer's
	want []arn     // identities of the requirement, of AWS Signer's
	// What is known of revocation in the end.
	revocation string
	unknown    *UnansweredError
	ahead      <-chan answered // see askAhead
	revoked    *RevokedError
}

// run goes through what may speak against the signature, cheapest and most certain first.
func (c *check) run(ctx context.Context) verdict.Finding {
	mode := c.rule.Revocation
	switch mode {
	case "":
		c.rule.Revocation = policy.RevocationBestEffort
	case policy.RevocationRequire, policy.RevocationBestEffort, policy.RevocationOff:
	default:
		return verdict.Fail(verdict.TrustUnusable, "revocation %q is none of %s, %s, %s", mode, policy.RevocationRequire, policy.RevocationBestEffort, policy.RevocationOff)
	}
	document, certificates, fail := c.requirement()
	if fail != nil {
		return *fail
	}
	if c.env, fail = open(c.s, &c.e.chains); fail != nil {
		return *fail
	}
	if !content.Equal(c.env.target, c.a.Descriptor) {
		if c.env.target.Digest != c.a.Descriptor.Digest {
			return verdict.Fail(verdict.WrongArtifact, "it signs %s, and this is %s", c.env.target.Digest, c.a.Descriptor.Digest)
		}
		return verdict.Fail(verdict.WrongArtifact, "it signs %s, and this is %s", describe(c.env.target), describe(c.a.Descriptor))
	}
	if fail = c.scheme(); fail != nil {
		return *fail
	}
	trusted := certificates(c.env.chain)
	if !slices.ContainsFunc(c.env.chain, func(in *x509.Certificate) bool { return slices.ContainsFunc(trusted, in.Equal) }) {
		return verdict.Fail(verdict.UntrustedRoot, "its chain ends in %q (sha256 %s), which %s does not trust", c.env.root().Subject, fingerprint(c.env.root()), c.trusts())
	}
	// From here on, what the envelope says is what a trusted authority lets a signer say.
	f := c.known()
	if f.Outcome == "" { // nothing speaks against it yet
		f = c.ask(ctx, document, trusted)
	}
	f.Identity, f.Expires = c.identity(), c.env.signed.Expiry
	if c.leaf.Method == policy.MethodAWSSigner {
		f.SignedAt = c.env.signed.SigningTime.UTC()
	}
	f.Revocation = c.revocation
	return f
}

// requirement turns the leaf into a trust policy and the certificates that may end a chain.
func (c *check) requirement() (*trustpolicy.Document, func([]*x509.Certificate) []*x509.Certificate, *verdict.Finding) {
	unusable := func(format string, args ...any) *verdict.Finding {
		f := verdict.Fail(verdict.TrustUnusable, format, args...)
		return &f
	}
	statement := trustpolicy.TrustPolicy{Name: "requirement", RegistryScopes: []string{"*"}, SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: "strict"}}
	switch c.rule.Revocation {
	case policy.RevocationBestEffort:
		statement.SignatureVerification.Override = map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionLog}
	case policy.RevocationOff:
		statement.SignatureVerification.Override = map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip}
	case policy.RevocationRequire:
	}
	var certificates func([]*x509.Certificate) []*x509.Certificate
	switch c.leaf.Method {
	case policy.MethodAWSSigner:
		if len(c.leaf.Profiles) == 0 {
			return nil, nil, unusable("the requirement names no profile of AWS Signer; the certificates are the same for all its customers, so the ARN alone says who signed")
		}
		for _, p := range c.leaf.Profiles {
			named, err := parseIdentity(p)
			if err != nil {
				return nil, nil, unusable("%v", err)
			}
			c.want = append(c.want, named)
		}
		statement.TrustStores, statement.TrustedIdentities = []string{"signingAuthority:" + storeName}, c.leaf.Profiles
		certificates = func(chain []*x509.Certificate) []*x509.Certificate {
			// The root alone, at the end alone: one whose fingerprint is trusted.
			if root := chain[len(chain)-1]; c.e.roots[fingerprint(root)] {
				return []*x509.Certificate{root}
			}
			return nil
		}
	case policy.MethodNotation:
		s := c.e.stores[c.leaf.Store]
		if s == nil {
			return nil, nil, unusable("the requirement names the trust store %q, and there is none", c.leaf.Store)
		}
		if len(c.leaf.Subjects) == 0 {
			return nil, nil, unusable("the requirement names no subject; whoever holds any certificate of the authority could sign")
		}
		statement.TrustStores = []string{"ca:" + storeName}
		if len(s.tsa) > 0 {
			statement.TrustStores = append(statement.TrustStores, "tsa:"+storeName)
		}
		for _, subject := range c.leaf.Subjects {
			if strings.TrimSpace(subject) == "*" {
				return nil, nil, unusable("the subject * would let in whoever holds any certificate of the authority")
			}
			statement.TrustedIdentities = append(statement.TrustedIdentities, "x509.subject:"+subject)
		}
		certificates = func([]*x509.Certificate) []*x509.Certificate { return s.authorities }
	default:
		return nil, nil, unusable("method %q is not one of Notary Project signatures", c.leaf.Method)
	}
	document := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{statement}}
	if err := document.Validate(); err != nil {
		return nil, nil, unusable("what the requirement trusts: %v", err)
	}
	return document, certificates, nil
}

func (c *check) trusts() string {
	if c.leaf.Method == policy.MethodAWSSigner {
		return "the policy's trust in AWS Signer"
	}
	return fmt.Sprintf("the trust store %q", c.leaf.Store)
}

func (c *check) scheme() *verdict.Finding {
	want := signature.SigningSchemeX509
	if c.leaf.Method == policy.MethodAWSSigner {
		want = signature.SigningSchemeX509SigningAuthority
	}
	if got := c.env.signed.SigningScheme; got != want {
		f := verdict.Fail(verdict.WrongScheme, "it is signed under %s, expected %s", got, want)
		return &f
	}
	return nil
}

// known checks what can be known without asking anybody. A finding without an outcome means that nothing speaks against it.
func (c *check) known() verdict.Finding {
	now := c.e.now()
	if fail := c.attributes(); fail != nil {
		return *fail
	}
	signed := c.env.signed
	if !signed.Expiry.IsZero() && !now.Before(signed.Expiry) {
		return verdict.Fail(verdict.SignatureExpired, "it expired on %s", stamp(signed.Expiry))
	}
	if c.leaf.Method != policy.MethodAWSSigner {
		return verdict.Finding{}
	}
	if fail := c.awsIdentity(); fail != nil {
		return *fail
	}
	for _, in := range c.env.chain {
		if signed.SigningTime.Before(in.NotBefore) || signed.SigningTime.After(in.NotAfter) {
			return verdict.Fail(verdict.CertificateTime, "it was signed on %s, and the certificate %q is valid from %s to %s", stamp(signed.SigningTime), in.Subject, stamp(in.NotBefore), stamp(in.NotAfter))
		}
	}
	return c.age(signed.SigningTime)
}

// age holds the authentic time of signing against the rule.
func (c *check) age(at time.Time) verdict.Finding {
	now := c.e.now()
	switch {
	case c.rule.MaxAge > 0 && at.Before(now.Add(-c.rule.MaxAge)):
		return verdict.Fail(verdict.TooOld, "it was signed on %s, and the policy wants none older than %s", stamp(at), c.rule.MaxAge)
	case !c.rule.NotBefore.IsZero() && at.Before(c.rule.NotBefore):
		return verdict.Fail(verdict.TooOld, "it was signed on %s, and the policy wants none from before %s", stamp(at), stamp(c.rule.NotBefore))
	}
	return verdict.Finding{}
}

// attributes refuses what must be understood and is not.
func (c *check) attributes() *verdict.Finding {
	fail := func(reason verdict.Reason, format string, args ...any) *verdict.Finding {
		f := verdict.Fail(reason, format, args...)
		return &f
	}
	for _, a := range c.env.signed.ExtendedAttributes {
		name, isText := a.Key.(string)
		known := isText && slices.Contains(awsAttributes(), name)
		switch {
		case c.leaf.Method == policy.MethodAWSSigner && !known:
			// AWS's own verifier refuses those that are not critical just the same: AWS Signer writes none.
			return fail(verdict.UnknownCritical, "it carries the attribute %q, which AWS Signer is not known to write", fmt.Sprint(a.Key))
		case c.leaf.Method == policy.MethodNotation && a.Critical:
			return fail(verdict.UnknownCritical, "it demands that the attribute %q be understood", fmt.Sprint(a.Key))
		}
	}
	if c.leaf.Method != policy.MethodAWSSigner {
		return nil
	}
	plugin, critical, err := c.env.text(attributePlugin)
	switch {
	case err != nil:
		return fail(verdict.Malformed, "%v", err)
	case plugin == "" || !critical:
		return fail(verdict.Malformed, "it does not demand that AWS Signer's verifier (%s) look at it, as every signature of AWS Signer does", pluginName)
	case plugin != pluginName:
		return fail(verdict.UnknownCritical, "it demands the verifier %q; for AWS Signer there is %s alone", plugin, pluginName)
	}
	least, critical, err := c.env.text(attributePluginMinVersion)
	switch {
	case err != nil:
		return fail(verdict.Malformed, "%v", err)
	case least != "" && (!critical || !isVersion(least)):
		return fail(verdict.Malformed, "the least version of the verifier, %q, is no version, or not marked as critical", least)
	case least != "" && newer(least, pluginVersion):
		return fail(verdict.UnknownCritical, "it demands version %s of AWS Signer's verifier, and what is known here is that of %s", least, pluginVersion)
	}
	return nil
}

// ask runs the library's whole verification, with revocation.
func (c *check) ask(ctx context.Context, document *trustpolicy.Document, trusted []*x509.Certificate) verdict.Finding {
	if c.leaf.Method == policy.MethodNotation {
		// A countersignature that is there must hold, and then says when. One that is not there is missed only by certificates
		// that have expired since: the library can do one or the other.
		document.TrustPolicies[0].SignatureVerification.VerifyTimestamp = trustpolicy.OptionAlways
		if len(c.env.countersignature) == 0 {
			document.TrustPolicies[0].SignatureVerification.VerifyTimestamp = trustpolicy.OptionAfterCertExpiry
		}
	}
	signing, stamping, err := c.statusCheckers(trusted)
	if err != nil {
		return verdict.Fail(verdict.TrustUnusable, "checking certificates' revocation: %v", err)
	}
	v, err := verifier.NewWithOptions(document, certificates{trusted: trusted, tsa: c.tsa(), scheme: c.leaf.Method}, manager{c}, verifier.VerifierOptions{
		RevocationCodeSigningValidator: signing, RevocationTimestampingValidator: stamping,
	})
	if err != nil {
		return verdict.Fail(verdict.TrustUnusable, "what the requirement trusts: %v", err)
	}
	defer c.askAhead(ctx)()
	outcome, err := v.Verify(ctx, c.a.Descriptor, c.s.Payload, notation.VerifierVerifyOptions{
		// Which rule is meant was decided on the name; the library wants one of its own form.
		ArtifactReference: "artifact.invalid/of@" + c.a.Descriptor.Digest.String(), SignatureMediaType: c.env.mediaType,
	})
	switch {
	case c.revoked != nil:
		return verdict.Fail(c.revoked.Reason, "%s", c.revoked.Message)
	case err != nil:
		return c.explain(ctx, outcome, err)
	}
	return c.accept(ctx, outcome)
}

// explain turns the library's refusal into a reason.
func (c *check) explain(ctx context.Context, outcome *notation.VerificationOutcome, err error) verdict.Finding {
	if c.unknown != nil && c.rule.Revocation == policy.RevocationRequire {
		return c.unanswered(ctx)
	}
	if outcome != nil {
		for _, r := range outcome.VerificationResults {
			if r == nil || r.Error == nil || r.Action != trustpolicy.ActionEnforce {
				continue
			}
			switch r.Type {
			case trustpolicy.TypeIntegrity:
				return verdict.Fail(verdict.BadSignature, "%v", r.Error)
			case trustpolicy.TypeAuthenticity:
				return verdict.Fail(verdict.WrongIdentity, "it is signed by %s, and the policy asks for %s", c.identity(), strings.Join(slices.Concat(c.leaf.Profiles, c.leaf.Subjects), " or "))
			case trustpolicy.TypeExpiry:
				return verdict.Fail(verdict.SignatureExpired, "%v", r.Error)
			case trustpolicy.TypeAuthenticTimestamp:
				return c.time(r.Error)
			case trustpolicy.TypeRevocation:
				return verdict.Fail(verdict.RevocationUnknown, "%v", r.Error)
			}
		}
	}
	return verdict.Fail(verdict.Malformed, "%v", err)
}

// time says what is wrong with the time of signing.
func (c *check) time(err error) verdict.Finding {
	if len(c.tsa()) > 0 && len(c.env.countersignature) > 0 {
		if at, ok := c.countersigned(); ok {
			for _, in := range c.env.chain {
				if at.Before(in.NotBefore) || at.After(in.NotAfter) {
					return verdict.Fail(verdict.CertificateTime, "its time stamp says %s, and the certificate %q is valid from %s to %s", stamp(at), in.Subject, stamp(in.NotBefore), stamp(in.NotAfter))
				}
			}
		}
		return verdict.Fail(verdict.NoTimestamp, "its time stamp does not hold: %v", err)
	}
	if len(c.tsa()) > 0 {
		return verdict.Fail(verdict.NoTimestamp, "a certificate of its chain is not valid now, and no time stamp says that it was when it signed: %v", err)
	}
	return verdict.Fail(verdict.CertificateTime, "%v", err)
}

// unanswered is the finding where it must be known whether it was revoked, and is not.
func (c *check) unanswered(ctx context.Context) verdict.Finding {
	reason := c.unknown.Reason
	if ctx.Err() != nil {
		reason = verdict.TimedOut
	}
	return verdict.Fail(reason, "%s", c.unknown.Message)
}

// accept looks once more whether all was checked: success is what the library says, and what is seen to be so.
func (c *check) accept(ctx context.Context, outcome *notation.VerificationOutcome) verdict.Finding {
	want := map[trustpolicy.ValidationType]bool{trustpolicy.TypeIntegrity: true, trustpolicy.TypeAuthenticity: true, trustpolicy.TypeExpiry: true, trustpolicy.TypeAuthenticTimestamp: true}
	if c.rule.Revocation != policy.RevocationOff {
		want[trustpolicy.TypeRevocation] = true
	}
	if outcome == nil || outcome.EnvelopeContent == nil {
		return verdict.Fail(verdict.Malformed, "it was said to be good without having been looked at")
	}
	if !c.env.agrees(outcome.EnvelopeContent) {
		return verdict.Fail(verdict.Malformed, "it can be read in two ways")
	}
	for _, r := range outcome.VerificationResults {
		tolerated := r.Type == trustpolicy.TypeRevocation && c.rule.Revocation == policy.RevocationBestEffort && c.unknown != nil
		if r.Error != nil && !tolerated {
			return verdict.Fail(verdict.Malformed, "%s: %v", r.Type, r.Error)
		}
		delete(want, r.Type)
	}
	if len(want) > 0 {
		return verdict.Fail(verdict.Malformed, "it was said to be good with checks left out: %v", want)
	}
	f := verdict.Finding{Outcome: verdict.Verified}
	if at, ok := c.countersigned(); c.leaf.Method == policy.MethodNotation && ok && len(c.tsa()) > 0 {
		f.SignedAt = at
		if old := c.age(at); old.Outcome != "" {
			old.SignedAt = at
			return old
		}
	} else if c.leaf.Method == policy.MethodNotation && (c.rule.MaxAge > 0 || !c.rule.NotBefore.IsZero()) {
		return verdict.Fail(verdict.NoTimestamp, "the policy limits its age, and no trusted time stamp says how old it is")
	}
	switch {
	case c.rule.Revocation == policy.RevocationOff:
		c.revocation = "not checked: the policy says off"
	case c.unknown != nil && c.rule.Revocation != policy.RevocationBestEffort:
		return c.unanswered(ctx)
	case c.unknown != nil:
		c.revocation = "not checked: " + c.unknown.Message
	case c.revocation == "":
		return verdict.Fail(verdict.RevocationUnknown, "nothing was said of revocation")
	}
	return f
}

// countersigned is the time of the countersignature, which only the library's verification makes trustworthy.
func (c *check) countersigned() (time.Time, bool) {
	if len(c.env.countersignature) == 0 {
		return time.Time{}, false
	}
	token, err := tspclient.ParseSignedToken(c.env.countersignature)
	if err != nil {
		return time.Time{}, false
	}
	info, err := token.Info()
	if err != nil {
		return time.Time{}, false
	}
	at, err := info.Validate(c.env.mark)
	if err != nil {
		return time.Time{}, false
	}
	return at.Value.UTC(), true
}

func (c *check) tsa() []*x509.Certificate {
	if s := c.e.stores[c.leaf.Store]; s != nil && c.leaf.Method == policy.MethodNotation {
		return s.tsa
	}
	return nil
}

// identity is who signed, to be told only of a signature whose root is trusted.
func (c *check) identity() string {
	if c.leaf.Method == policy.MethodAWSSigner {
		if profile, _, err := c.env.text(attributeProfileVersion); err == nil && profile != "" {
			return profile
		}
	}
	return "x509.subject:" + c.env.chain[0].Subject.String()
}

const storeName = "policy"

// certificates is a trust store that knows its type: what is trusted to certify a company's signers is not trusted to sign as
// AWS Signer, nor the other way round.
type certificates struct {
	trusted, tsa []*x509.Certificate
	scheme       policy.Method
}

var _ truststore.X509TrustStore = certificates{}

// GetCertificates implements truststore.X509TrustStore.
func (s certificates) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	switch {
	case kind == truststore.TypeSigningAuthority && s.scheme == policy.MethodAWSSigner, kind == truststore.TypeCA && s.scheme == policy.MethodNotation:
		found = s.trusted
	case kind == truststore.TypeTSA:
		found = s.tsa
	}
	if len(found) == 0 || name != storeName {
		return nil, fmt.Errorf("no certificate of type %s is trusted by this requirement", kind)
	}
	return found, nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// oneLine keeps what strangers wrote from doing anything to a terminal, and from filling it.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if most := 1000; len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
