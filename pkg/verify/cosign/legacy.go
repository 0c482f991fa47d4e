package cosign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	sigoci "github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const dsseMediaType = "application/vnd.dsse.envelope.v1+json"

// layer is a signature of the first form, read. Libraries get only what stands here.
type layer struct {
	document []byte
	raw      []byte // the signature
	cert     *x509.Certificate
	rekor    *cbundle.RekorBundle
	entry    entry // of rekor
	stamp    []byte
}

// entry is what the transparency log holds. Of the kinds of entries there are, signatures of images are hashedrekord.
type entry struct {
	Kind    string `json:"kind"`
	Version string `json:"apiVersion"`
	Spec    struct {
		Data struct {
			Hash struct {
				Algorithm string `json:"algorithm"`
				Value     string `json:"value"`
			} `json:"hash"`
		} `json:"data"`
		Signature struct {
			Content   []byte `json:"content"`
			PublicKey struct {
				Content []byte `json:"content"`
			} `json:"publicKey"`
		} `json:"signature"`
	} `json:"spec"`
}

// readLayer reads a signature of the first form, and what it says it is about.
func readLayer(s oci.Signature, digest string) (layer, error) {
	malformed := func(format string, args ...any) (layer, error) {
		return layer{}, refuse(verdict.Malformed, "signature %s %s", s.ID(), fmt.Sprintf(format, args...))
	}
	if len(s.Payload) > maxDocument {
		return malformed("signs a document of %d bytes, of at most %d", len(s.Payload), maxDocument)
	}
	for _, key := range []string{static.SignatureAnnotationKey, static.CertificateAnnotationKey, static.BundleAnnotationKey, static.RFC3161TimestampAnnotationKey} {
		if n := len(s.Blob.Annotations[key]); n > maxAnnotation {
			return malformed("has an annotation %s of %d bytes, of at most %d", key, n, maxAnnotation)
		}
	}
	var envelope struct {
		PayloadType string `json:"payloadType"`
	}
	if s.Blob.MediaType == dsseMediaType || json.Unmarshal(s.Payload, &envelope) == nil && envelope.PayloadType != "" {
		return layer{}, refuse(verdict.WrongPredicate, "%s is an attestation, not a signature", s.ID())
	}
	l := layer{document: s.Payload}
	var err error
	if l.raw, err = base64.StdEncoding.Strict().DecodeString(s.Blob.Annotations[static.SignatureAnnotationKey]); err != nil || len(l.raw) == 0 {
		return malformed("has no readable signature in the annotation %s", static.SignatureAnnotationKey)
	}
	var claim payload.SimpleContainerImage
	if err := json.Unmarshal(s.Payload, &claim); err != nil {
		return malformed("signs what is no simple-signing document: %v", err)
	}
	if claim.Critical.Type != payload.CosignSignatureType {
		return malformed("signs a document of type %q, not %q", clip(claim.Critical.Type), payload.CosignSignatureType)
	}
	if got := claim.Critical.Image.DockerManifestDigest; got != digest {
		return layer{}, refuse(verdict.WrongArtifact, "the signature is about %s, and the image is %s", clip(got), digest)
	}
	if text := s.Blob.Annotations[static.CertificateAnnotationKey]; text != "" {
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return malformed("has what is not one certificate in the annotation %s", static.CertificateAnnotationKey)
		}
		if l.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
			return malformed("has an unreadable certificate: %v", err)
		}
	}
	if text := s.Blob.Annotations[static.RFC3161TimestampAnnotationKey]; text != "" {
		var stamp cbundle.RFC3161Timestamp
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return malformed("has an unreadable time stamp: %v", err)
		}
		l.stamp = stamp.SignedRFC3161Timestamp
	}
	if text := s.Blob.Annotations[static.BundleAnnotationKey]; text != "" {
		if err := l.readRekor(text); err != nil {
			return malformed("has an unreadable entry of a transparency log: %v", err)
		}
	}
	return l, nil
}

// readRekor reads the log's promise. The library takes the body for a string and follows pointers in it without looking.
func (l *layer) readRekor(text string) error {
	var b struct {
		SignedEntryTimestamp []byte `json:"SignedEntryTimestamp"`
		Payload              *struct {
			Body           *string `json:"body"`
			IntegratedTime *int64  `json:"integratedTime"`
			LogIndex       *int64  `json:"logIndex"`
			LogID          *string `json:"logID"`
		} `json:"Payload"`
	}
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return err
	}
	if p := b.Payload; p == nil || p.Body == nil || p.IntegratedTime == nil || p.LogIndex == nil || p.LogID == nil {
		return refuse(verdict.Malformed, "a part is missing")
	}
	body, err := base64.StdEncoding.Strict().DecodeString(*b.Payload.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &l.entry); err != nil {
		return err
	}
	l.rekor = &cbundle.RekorBundle{SignedEntryTimestamp: b.SignedEntryTimestamp, Payload: cbundle.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: *b.Payload.IntegratedTime, LogIndex: *b.Payload.LogIndex, LogID: *b.Payload.LogID,
	}}
	return nil
}

// signature is the layer as the library takes it. Only what is to be believed goes in: without a certificate, keys are compared.
func (l layer) signature(cert, logged bool, stamp []byte) (sigoci.Signature, error) {
	var options []static.Option
	if cert {
		options = append(options, static.WithCertChain(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert.Raw}), nil))
	}
	if logged && l.rekor != nil {
		options = append(options, static.WithBundle(l.rekor))
	}
	if len(stamp) > 0 {
		options = append(options, static.WithRFC3161Timestamp(&cbundle.RFC3161Timestamp{SignedRFC3161Timestamp: stamp}))
	}
	return static.NewSignature(l.document, base64.StdEncoding.EncodeToString(l.raw), options...)
}

// logged is when the log took the signature in: an entry about this signature, under this key or certificate, that a log of
// the trusted root promised. Nothing is entered under another key, about another signature or another document.
func (l layer) logged(want trust) (time.Time, error) {
	sum := sha256.Sum256(l.document)
	block, _ := pem.Decode(l.entry.Spec.Signature.PublicKey.Content)
	switch {
	case l.rekor == nil:
		return time.Time{}, refuse(verdict.NoTransparency, "no entry of a transparency log comes with the signature")
	case l.entry.Kind != "hashedrekord" || l.entry.Version != "0.0.1":
		return time.Time{}, refuse(verdict.NoTransparency, "the entry of the transparency log is a %q %q, not one for signatures of images", clip(l.entry.Kind), clip(l.entry.Version))
	case l.entry.Spec.Data.Hash.Algorithm != "sha256" || l.entry.Spec.Data.Hash.Value != hex.EncodeToString(sum[:]) || !bytes.Equal(l.entry.Spec.Signature.Content, l.raw) || block == nil:
		return time.Time{}, refuse(verdict.NoTransparency, "the entry of the transparency log is about another signature")
	case len(l.rekor.SignedEntryTimestamp) == 0:
		return time.Time{}, refuse(verdict.NoTransparency, "the entry of the transparency log comes without the log's promise")
	}
	s, err := l.signature(want.verifier == nil, true, nil)
	if err != nil {
		return time.Time{}, err
	}
	ok, err := sigcosign.VerifyBundle(s, want.logged())
	if err != nil || !ok {
		return time.Time{}, refuse(verdict.NoTransparency, "the entry of the transparency log is not good: %v", err)
	}
	return time.Unix(l.rekor.Payload.IntegratedTime, 0), nil
}

// byKey checks a signature against the requirement's key.
func (l layer) byKey(ctx context.Context, want trust, digest string) (proof, error) {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return proof{}, err
	}
	s, err := l.signature(false, false, nil)
	if err != nil {
		return proof{}, err
	}
	if _, err := sigcosign.VerifyImageSignature(ctx, s, hash, want.options()); err != nil {
		return proof{}, l.notBy(want, err)
	}
	p := proof{identity: want.identity, times: want.stamped(l.raw, [][]byte{l.stamp})}
	if want.root == nil {
		return p, nil
	}
	at, err := l.logged(want)
	switch {
	case err == nil:
		p.times = append(p.times, at)
	case want.log:
		return p, err
	}
	if want.log {
		if s, err = l.signature(false, true, nil); err != nil {
			return p, err
		}
		if ok, err := sigcosign.VerifyImageSignature(ctx, s, hash, want.logged()); err != nil || !ok {
			return p, refuse(verdict.NoTransparency, "the entry of the transparency log is not good: %v", err)
		}
	}
	return p, nil
}

// notBy says why the requirement's key did not make a signature: where the log's entry beside it holds the key that did, by naming that.
func (l layer) notBy(want trust, err error) error {
	if l.cert != nil {
		return refuse(verdict.OtherMethod, "it is signed with a certificate, and not with %s", want.identity)
	}
	if public, der, keyErr := readKey(l.entry.Spec.Signature.PublicKey.Content); keyErr == nil {
		others, _ := verifiersOf(public)
		for _, other := range others {
			if other.VerifySignature(bytes.NewReader(l.raw), bytes.NewReader(l.document)) == nil {
				return refuse(verdict.WrongIdentity, "it is signed with key sha256:%x, and not with %s", sha256.Sum256(der), want.identity)
			}
		}
	}
	return notMade(want.identity, err)
}

// byCertificate checks a keyless signature.
func (l layer) byCertificate(ctx context.Context, want trust, digest string) (proof, error) {
	if l.cert == nil {
		return proof{}, refuse(verdict.OtherMethod, "it is signed with a key, without a certificate that would name somebody")
	}
	hash, err := v1.NewHash(digest)
	if err != nil {
		return proof{}, err
	}
	co := want.options()
	p := proof{times: want.stamped(l.raw, [][]byte{l.stamp})}
	var stamp []byte
	if len(p.times) > 0 { // the library panics at stamps that are not good
		co.UseSignedTimestamps, stamp = true, l.stamp
	}
	if !co.IgnoreTlog {
		at, err := l.logged(want)
		if err != nil {
			return proof{}, err
		}
		p.times = append(p.times, at)
	}
	who, err := want.certify(l.cert, p.times)
	if err != nil {
		return proof{}, err
	}
	s, err := l.signature(true, true, stamp)
	if err != nil {
		return proof{}, err
	}
	logged, err := sigcosign.VerifyImageSignature(ctx, s, hash, co)
	if err != nil || !co.IgnoreTlog && !logged {
		return proof{}, notMade("the certificate of "+who, err)
	}
	p.identity = who
	return p, nil
}
