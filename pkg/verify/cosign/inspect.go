package cosign

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Claims are what a signature says of itself. Nothing of it is trusted: it is for people to look at.
type Claims struct {
	Predicate string    `json:"predicate,omitempty"` // of a bundle
	Subject   string    `json:"subject,omitempty"`   // of the certificate; without one it was made with a key, which it does not name
	Issuer    string    `json:"issuer,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"` // of the certificate
	NotAfter  time.Time `json:"not_after,omitzero"`
	LogIndex  int64     `json:"log_index,omitempty"` // in the transparency log that it says it is in
	LoggedAt  time.Time `json:"logged_at,omitzero"`
	Stamps    int       `json:"time_stamps,omitempty"`
	KeyHint   string    `json:"key_hint,omitempty"`
}

// Inspect reads what a signature says of itself, without trusting any of it. A finding says why it cannot be read, or that it is
// about something else than the artifact, whose digest is given.
func Inspect(s oci.Signature, digest string) (claims Claims, f *verdict.Finding) {
	defer func() {
		if p := recover(); p != nil {
			made := verdict.Fail(verdict.Panicked, "reading it ended in a panic: %.200v", p)
			claims, f = Claims{}, &made
		}
	}()
	var err error
	switch s.Format {
	case oci.CosignLegacy:
		claims, err = inspectLayer(s, digest)
	case oci.SigstoreBundle:
		claims, err = inspectBundle(s, digest)
	default:
		made := verdict.Fail(verdict.OtherMethod, "it is of the format %q, which is not cosign's", s.Format)
		return Claims{}, &made
	}
	if err != nil {
		made := verdict.Fail(verdict.Malformed, "%s", clip(err.Error()))
		var known *refusal
		if errors.As(err, &known) {
			made = verdict.Fail(known.reason, "%s", clip(known.message))
		}
		return Claims{}, &made
	}
	return claims, nil
}

func inspectLayer(s oci.Signature, digest string) (Claims, error) {
	l, err := readLayer(s, digest)
	if err != nil {
		return Claims{}, err
	}
	var c Claims
	c.certified(l.cert)
	if l.rekor != nil {
		c.LogIndex, c.LoggedAt = l.rekor.Payload.LogIndex, time.Unix(l.rekor.Payload.IntegratedTime, 0).UTC()
	}
	if len(l.stamp) > 0 {
		c.Stamps = 1
	}
	return c, nil
}

func inspectBundle(s oci.Signature, digest string) (Claims, error) {
	b, err := readBundle(s, digest)
	if err != nil {
		return Claims{}, err
	}
	c := Claims{Stamps: len(b.stamps)}
	if b.envelope {
		c.Predicate = Predicate
	}
	c.certified(b.content.Certificate())
	if key := b.content.PublicKey(); key != nil {
		c.KeyHint = clip(key.Hint())
	}
	entries, err := b.TlogEntries()
	if err == nil && len(entries) > 0 {
		c.LogIndex, c.LoggedAt = entries[0].LogIndex(), entries[0].IntegratedTime().UTC()
	}
	return c, nil
}

// certified takes over what a certificate says.
func (c *Claims) certified(cert *x509.Certificate) {
	if cert == nil {
		return
	}
	c.NotBefore, c.NotAfter, c.Subject = cert.NotBefore.UTC(), cert.NotAfter.UTC(), cert.Subject.String()
	if summary, err := certificate.SummarizeCertificate(cert); err == nil {
		c.Issuer = summary.Issuer
		if summary.SubjectAlternativeName != "" {
			c.Subject = summary.SubjectAlternativeName
		}
	}
	if c.Subject == "" {
		c.Subject = "serial " + hex.EncodeToString(cert.SerialNumber.Bytes())
	}
	c.Subject, c.Issuer = clip(c.Subject), clip(c.Issuer) // foreign text, on its way to a terminal
}
