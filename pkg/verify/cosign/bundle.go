package cosign

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Predicate is what a bundle says that is a signature of an image. All others are attestations.
const Predicate = "https://sigstore.dev/cosign/sign/v1"

const inToto = "application/vnd.in-toto+json"

// entity is a bundle, read.
type entity struct {
	*bundle.Bundle
	id       string
	sum      []byte // of the artifact
	envelope bool
	content  sigverify.VerificationContent
	raw      []byte // the signature
	stamps   [][]byte
}

// Version hides the bundle's: for some, the library tries a second algorithm with keys on larger curves, and tells the terminal.
func (entity) Version() (string, error) { return "", nil }

// readBundle reads a bundle, and what it says it is about.
func readBundle(s oci.Signature, digest string) (b entity, err error) {
	malformed := func(format string, args ...any) (entity, error) {
		return entity{}, refuse(verdict.Malformed, "signature %s %s", s.ID(), fmt.Sprintf(format, args...))
	}
	if len(s.Payload) > maxBundle {
		return malformed("is a bundle of %d bytes, of at most %d", len(s.Payload), maxBundle)
	}
	b = entity{Bundle: new(bundle.Bundle), id: s.ID()}
	if err := b.UnmarshalJSON(s.Payload); err != nil {
		return malformed("is no bundle: %v", err)
	}
	if b.sum, err = hex.DecodeString(digest[len("sha256:"):]); err != nil {
		return entity{}, err
	}
	signed, err := b.SignatureContent()
	if err != nil {
		return malformed("holds no signature: %v", err)
	}
	if b.content, err = b.VerificationContent(); err != nil {
		return malformed("says nothing of its signer: %v", err)
	}
	if b.stamps, err = b.Timestamps(); err != nil {
		return malformed("has unreadable time stamps: %v", err)
	}
	if n := len(b.stamps); n > maxStamps {
		return malformed("has %d time stamps, of at most %d", n, maxStamps)
	}
	switch {
	case signed.EnvelopeContent() != nil:
		b.envelope = true
		e := b.GetDsseEnvelope()
		if e.GetPayloadType() != inToto {
			return entity{}, refuse(verdict.WrongPredicate, "%s is an envelope with %q, not a signature", s.ID(), clip(e.GetPayloadType()))
		}
		if n := len(e.GetSignatures()); n != 1 {
			return malformed("is an envelope with %d signatures, not one", n)
		}
		if err := about(e.GetPayload(), s.ID(), digest); err != nil {
			return entity{}, err
		}
	case signed.MessageSignatureContent() != nil:
		if m := signed.MessageSignatureContent(); hex.EncodeToString(m.Digest()) != digest[len("sha256:"):] {
			return entity{}, refuse(verdict.WrongArtifact, "the signature is about %s, and the image is %s", clip(hex.EncodeToString(m.Digest())), digest)
		}
	default:
		return malformed("holds neither an envelope nor a signature")
	}
	if b.raw = signed.Signature(); len(b.raw) == 0 {
		return malformed("holds an empty signature")
	}
	return b, nil
}

// about says whether a statement is that the artifact is signed.
func about(statement []byte, id, digest string) error {
	var s struct {
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(statement, &s); err != nil {
		return refuse(verdict.Malformed, "signature %s holds no statement: %v", id, err)
	}
	if s.PredicateType != Predicate {
		return refuse(verdict.WrongPredicate, "%s is an attestation (%s), not a signature", id, clip(s.PredicateType))
	}
	var named []string
	for _, subject := range s.Subject {
		named = append(named, "sha256:"+subject.Digest["sha256"])
	}
	if !slices.Contains(named, digest) {
		return refuse(verdict.WrongArtifact, "the signature is about %s, and the image is %s", clip(firstOr(named, "nothing")), digest)
	}
	return nil
}

func firstOr(all []string, none string) string {
	if len(all) == 0 {
		return none
	}
	return all[0]
}

// check is the library's judgement.
func (b entity) check(ctx context.Context, co *sigcosign.CheckOpts) error {
	result, err := sigcosign.VerifyNewBundle(ctx, co, sigverify.WithArtifactDigest("sha256", b.sum), b)
	if errors.Is(err, bundle.ErrValidation) {
		return refuse(verdict.Malformed, "signature %s is no bundle: %v", b.id, err)
	}
	if err != nil {
		return err
	}
	if b.envelope && (result.Statement == nil || result.Statement.GetPredicateType() != Predicate) {
		return refuse(verdict.WrongPredicate, "%s is an attestation (%s), not a signature", b.id, clip(result.Statement.GetPredicateType()))
	}
	return nil
}

// material is the trusted root, with the requirement's key where there is one.
type material struct {
	root.TrustedMaterial
	key root.TrustedMaterial
}

// PublicKeyVerifier implements root.TrustedMaterial. Whatever the bundle's hint says, there is one key.
func (m material) PublicKeyVerifier(hint string) (root.TimeConstrainedVerifier, error) {
	return m.key.PublicKeyVerifier(hint)
}

func (t trust) material() root.TrustedMaterial {
	if t.verifier == nil {
		return t.root
	}
	key := root.NewExpiringKey(t.verifier, time.Time{}, time.Time{})
	return material{t.root, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })}
}

// logged are the times at which logs of the trusted root promised to have taken the signature in. A log of the second version
// proves that it did, and promises no time.
func (b entity) logged(want trust) ([]time.Time, error) {
	found, err := sigverify.VerifyTlogEntry(b, want.material(), 1, true)
	if err != nil {
		return nil, refuse(verdict.NoTransparency, "no log of the trusted root holds the signature: %v", err)
	}
	var times []time.Time
	for _, t := range found {
		if !t.Time.IsZero() {
			times = append(times, t.Time)
		}
	}
	return times, nil
}

// byKey checks a bundle against the requirement's key.
func (b entity) byKey(ctx context.Context, want trust) (proof, error) {
	if b.content.Certificate() != nil {
		return proof{}, refuse(verdict.OtherMethod, "it is signed with a certificate, and not with %s", want.identity)
	}
	// The library means to refuse this itself, and does not know the verifier again in its wrapping: it would check a
	// signature of the empty message, whatever the artifact.
	if _, bare := want.verifier.(*signature.ED25519Verifier); bare && !b.envelope {
		return proof{}, notMade(want.identity, errors.New("a digest cannot be checked with Ed25519 alone"))
	}
	if err := b.check(ctx, want.options()); err != nil {
		return proof{}, notMade(want.identity, err)
	}
	p := proof{identity: want.identity, times: want.stamped(b.raw, b.stamps)}
	if want.root == nil {
		return p, nil
	}
	at, err := b.logged(want)
	if err != nil {
		if want.log {
			return p, err
		}
		return p, nil
	}
	p.times = append(p.times, at...)
	if want.log {
		if err := b.check(ctx, want.logged()); err != nil {
			return p, refuse(verdict.NoTransparency, "no log of the trusted root holds the signature: %v", err)
		}
	}
	return p, nil
}

// byCertificate checks a keyless bundle.
func (b entity) byCertificate(ctx context.Context, want trust) (proof, error) {
	cert := b.content.Certificate()
	if cert == nil {
		return proof{}, refuse(verdict.OtherMethod, "it is signed with a key, without a certificate that would name somebody")
	}
	co := want.options()
	var logged []time.Time
	if !co.IgnoreTlog {
		var err error
		if logged, err = b.logged(want); err != nil {
			return proof{}, err
		}
	}
	stamped := want.stamped(b.raw, b.stamps)
	co.UseSignedTimestamps = len(logged) == 0 // the library takes one or the other for the time; both were looked at here
	times := slices.Concat(logged, stamped)
	who, err := want.certify(cert, times)
	if err != nil {
		return proof{}, err
	}
	if err := b.check(ctx, co); err != nil {
		return proof{}, notMade("the certificate of "+who, err)
	}
	return proof{identity: who, times: times}, nil
}

// notMade is a refusal of the library's, unless it is one of ours.
func notMade(by string, err error) error {
	if known := (*refusal)(nil); errors.As(err, &known) {
		return err
	}
	return refuse(verdict.BadSignature, "%s did not make it: another key did, or it was altered (%v)", by, err)
}
