package cosign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"time"

	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// shipped is what the public good instance of Sigstore says of itself: public keys and certificates, as its own module carries
// them. A policy names a newer one by file; nothing is fetched.
//
//go:embed trusted_root.json
var shipped []byte

func shippedRoot() (*root.TrustedRoot, error) { return parseRoot(shipped) }

func parseRoot(data []byte) (tr *root.TrustedRoot, err error) {
	defer func() {
		if p := recover(); p != nil {
			tr, err = nil, fmt.Errorf("it cannot be read: %s", clip(fmt.Sprint(p)))
		}
	}()
	tr, err = root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, errors.New(clip(err.Error()))
	}
	if len(tr.FulcioCertificateAuthorities())+len(tr.RekorLogs())+len(tr.TimestampingAuthorities()) == 0 {
		return nil, errors.New("it names no authority and no log")
	}
	return tr, nil
}

// trust is a leaf, made ready. Keyed: verifiers are set, and verifier while one is tried. Keyless: issuer and subject are.
type trust struct {
	verifiers []signature.Verifier
	verifier  signature.Verifier
	identity  string // of the key
	log       bool
	root      *root.TrustedRoot // keyed without a log: nil where there is none that can be read

	issuer, subject name
}

// name is what an issuer or a subject must be: exactly this, or a pattern for the whole of it.
type name struct {
	exact   string
	pattern *regexp.Regexp
}

func (n name) is(s string) bool {
	if n.pattern != nil {
		return n.pattern.MatchString(s)
	}
	return n.exact != "" && n.exact == s
}

// regexp is the pattern for libraries; empty where there is none.
func (n name) regexp() string {
	if n.pattern == nil {
		return ""
	}
	return n.pattern.String()
}

// newName refuses what says nothing: without both issuer and subject, anybody with a mail address could sign.
func newName(what, exact, pattern string) (name, error) {
	switch {
	case exact == "" && pattern == "":
		return name{}, refuse(verdict.TrustUnusable, "the requirement names no %s: anybody could have signed", what)
	case exact != "" && pattern != "":
		return name{}, refuse(verdict.TrustUnusable, "the requirement names both %s and a pattern for it", what)
	case exact != "":
		return name{exact: exact}, nil
	}
	// Alone first: "a)|(b" must not change what the anchors hold.
	if _, err := regexp.Compile(pattern); err != nil {
		return name{}, refuse(verdict.TrustUnusable, "the requirement's pattern for the %s: %v", what, err)
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return name{}, refuse(verdict.TrustUnusable, "the requirement's pattern for the %s: %v", what, err)
	}
	return name{pattern: whole}, nil
}

func (e *Engine) trust(leaf policy.Leaf) (trust, error) {
	tr, rootErr := e.root()
	switch leaf.Method {
	case policy.MethodCosignKey:
		public, der, err := readKey(leaf.Key)
		if err != nil {
			return trust{}, refuse(verdict.TrustUnusable, "the requirement's key: %v", err)
		}
		verifiers, err := verifiersOf(public)
		if err != nil {
			return trust{}, refuse(verdict.TrustUnusable, "the requirement's key: %v", err)
		}
		if leaf.Log {
			if rootErr == nil && len(tr.RekorLogs()) == 0 {
				rootErr = errors.New("it names no transparency log")
			}
			if rootErr != nil {
				return trust{}, refuse(verdict.TrustUnusable, "the requirement asks for a transparency log, and the trusted root of Sigstore cannot be used: %v", rootErr)
			}
		}
		sum := sha256.Sum256(der)
		return trust{verifiers: verifiers, identity: "key sha256:" + hex.EncodeToString(sum[:]), log: leaf.Log, root: tr}, nil
	case policy.MethodCosignKeyless:
		issuer, err := newName("issuer", leaf.Issuer, leaf.IssuerPattern)
		if err != nil {
			return trust{}, err
		}
		subject, err := newName("subject", leaf.Subject, leaf.SubjectPattern)
		if err != nil {
			return trust{}, err
		}
		if rootErr == nil && len(tr.FulcioCertificateAuthorities()) == 0 {
			rootErr = errors.New("it names no certificate authority")
		}
		if rootErr != nil {
			return trust{}, refuse(verdict.TrustUnusable, "the trusted root of Sigstore cannot be used: %v", rootErr)
		}
		return trust{root: tr, issuer: issuer, subject: subject}, nil
	case policy.MethodAWSSigner, policy.MethodNotation:
	}
	return trust{}, refuse(verdict.TrustUnusable, "the requirement asks for %q, which is not cosign's", leaf.Method)
}

// readKey reads the one public key in a PEM text.
func readKey(text []byte) (crypto.PublicKey, []byte, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, nil, errors.New("it is no PEM text")
	case block.Type != "PUBLIC KEY":
		return nil, nil, fmt.Errorf("it is a %q, not a PUBLIC KEY", clip(block.Type))
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, nil, errors.New("it is more than one")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 {
			return nil, nil, fmt.Errorf("it is RSA of %d bits, of at least 2048", bits)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return nil, nil, errors.New("it is ECDSA on a curve that is not P-256, P-384 or P-521")
		}
	case ed25519.PublicKey:
	default:
		return nil, nil, fmt.Errorf("a %T signs nothing here", public)
	}
	return public, block.Bytes, nil
}

// verifiersOf are the ways in which cosign signs with a key: SHA-256 in all its versions but for those that take the hash that
// goes with a large curve, and Ed25519 with and without a hash before it. They stay apart, because the library looks at the
// type: Ed25519 without a hash cannot check a digest, and would check a signature of nothing instead.
func verifiersOf(public crypto.PublicKey) ([]signature.Verifier, error) {
	first, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	all := []signature.Verifier{first}
	var second []signature.LoadOption
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return all, nil
		}
	case ed25519.PublicKey:
		second = append(second, options.WithED25519ph())
	default:
		return all, nil
	}
	other, err := signature.LoadDefaultVerifier(public, second...)
	if err != nil {
		return nil, err
	}
	return append(all, other), nil
}

// byKey tries a key in each way it may have signed.
func (t trust) byKey(try func(trust) (proof, error)) (proof, error) {
	var first error
	for _, v := range t.verifiers {
		t.verifier = v
		p, err := try(t)
		if known := (*refusal)(nil); err == nil || errors.As(err, &known) && known.reason != verdict.BadSignature {
			return p, err
		}
		if first == nil {
			first = err
		}
	}
	return proof{}, first
}

// options are what both forms are checked with. Whatever the trusted root names is demanded: a log's entry where there are
// logs, a promise of certificate transparency where there is that.
func (t trust) options() *sigcosign.CheckOpts {
	co := &sigcosign.CheckOpts{ClaimVerifier: sigcosign.SimpleClaimVerifier, Offline: true, SigVerifier: t.verifier, TrustedMaterial: &root.BaseTrustedMaterial{}}
	if t.verifier != nil {
		co.IgnoreTlog = true
		return co
	}
	co.TrustedMaterial = t.root
	co.IgnoreTlog = len(t.root.RekorLogs()) == 0
	co.IgnoreSCT = len(t.root.CTLogs()) == 0
	co.Identities = []sigcosign.Identity{{Issuer: t.issuer.exact, IssuerRegExp: t.issuer.regexp(), Subject: t.subject.exact, SubjectRegExp: t.subject.regexp()}}
	return co
}

// logged are the options with which a keyed signature is shown to stand in the log.
func (t trust) logged() *sigcosign.CheckOpts {
	co := t.options()
	co.IgnoreTlog, co.TrustedMaterial = false, t.root
	return co
}

// certify checks a certificate at every proven time, and whom it names. cosign itself looks at the chain only at the time the
// certificate begins, so that a certificate authority that had ended when the signature was made passes (CVE-2026-24122).
func (t trust) certify(c *x509.Certificate, times []time.Time) (string, error) {
	handleNames(c)
	if !t.issued(c) {
		return "", refuse(verdict.UntrustedRoot, "the certificate does not lead to an authority of the trusted root: it names %q as its issuer", clip(c.Issuer.String()))
	}
	if len(times) == 0 {
		return "", refuse(verdict.NoTimestamp, "nothing trusted says when the signature was made, and the certificate was valid only from %s to %s",
			c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, at := range times {
		chains, err := sigverify.VerifyLeafCertificate(at, c, t.root)
		if err != nil {
			return "", refuse(verdict.CertificateTime, "the certificate, valid from %s to %s, or one above it was not valid on %s, when the signature was made",
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
		}
		if len(t.root.CTLogs()) > 0 {
			if err := sigverify.VerifySignedCertificateTimestamp(chains, 1, t.root); err != nil {
				return "", refuse(verdict.NoTransparency, "the certificate is in no certificate transparency log of the trusted root: %v", err)
			}
		}
	}
	summary, err := certificate.SummarizeCertificate(c)
	if err != nil {
		return "", refuse(verdict.Malformed, "the certificate names nobody: %v", err)
	}
	who := fmt.Sprintf("%s (issuer %s)", clip(summary.SubjectAlternativeName), clip(summary.Issuer))
	if !t.issuer.is(summary.Issuer) || !t.subject.is(summary.SubjectAlternativeName) {
		return who, refuse(verdict.WrongIdentity, "it is signed by %s, whom the requirement does not name", who)
	}
	return who, nil
}

// issued says whether an authority of the trusted root made the certificate, at whatever time.
func (t trust) issued(c *x509.Certificate) bool {
	for _, a := range t.root.FulcioCertificateAuthorities() {
		authority, ok := a.(*root.FulcioCertificateAuthority)
		if !ok {
			continue
		}
		for _, parent := range append([]*x509.Certificate{authority.Root}, authority.Intermediates...) {
			if parent != nil && c.CheckSignatureFrom(parent) == nil {
				return true
			}
		}
	}
	return false
}

// handleNames marks the one critical extension as handled that Go does not know and Fulcio may write: names of other kinds,
// which certificate.SummarizeCertificate reads.
func handleNames(c *x509.Certificate) {
	var rest = c.UnhandledCriticalExtensions[:0:0]
	for _, id := range c.UnhandledCriticalExtensions {
		if !id.Equal(cryptoutils.SANOID) {
			rest = append(rest, id)
		}
	}
	c.UnhandledCriticalExtensions = rest
}

// stamped are the times at which authorities of the trusted root stamped a signature. Stamps of others count for nothing.
func (t trust) stamped(raw []byte, stamps [][]byte) []time.Time {
	if t.root == nil {
		return nil
	}
	var times []time.Time
	for _, stamp := range stamps {
		for _, authority := range t.root.TimestampingAuthorities() {
			if at, err := authority.Verify(stamp, raw); err == nil {
				times = append(times, at.Time)
				break
			}
		}
	}
	return times
}
