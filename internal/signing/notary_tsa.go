package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/notaryproject/tspclient-go"
)

// TSA is a time stamping authority, in process.
type TSA struct {
	Now func() time.Time // what it says the time is; nil means time.Now

	root, leaf   *x509.Certificate
	rootKey, key *ecdsa.PrivateKey
}

var _ tspclient.Timestamper = (*TSA)(nil)

// NewTSA makes one, with a root of its own.
func NewTSA() (*TSA, error) { return NewTSAWithStatus("") }

// NewTSAWithStatus makes one whose certificate names a place that says whether it was revoked (OCSP).
func NewTSAWithStatus(ocsp string) (*TSA, error) {
	var responders []string
	if ocsp != "" {
		responders = []string{ocsp}
	}
	from := time.Now().Add(-5 * year).UTC().Truncate(time.Second)
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a time stamping authority: %w", err)
	}
	root, err := certify(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: companyName("Timely", "Timely Root"), NotBefore: from, NotAfter: from.Add(30 * year),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, &rootKey.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a time stamping authority: %w", err)
	}
	// RFC 3161 demands this one usage, and that it be critical; the standard library writes it as not critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, fmt.Errorf("make a time stamping authority: %w", err)
	}
	leaf, err := certify(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: companyName("Timely", "Timely TSA"), NotBefore: from, NotAfter: from.Add(30 * year), BasicConstraintsValid: true, OCSPServer: responders,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, root, &key.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	return &TSA{root: root, leaf: leaf, rootKey: rootKey, key: key}, nil
}

func certify(t, parent *x509.Certificate, key *ecdsa.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key, by)
	if err != nil {
		return nil, fmt.Errorf("certify %s: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// Root is the certificate to trust.
func (t *TSA) Root() *x509.Certificate { return t.root }

// Chain is what certifies it, root last.
func (t *TSA) Chain() []*x509.Certificate { return []*x509.Certificate{t.leaf, t.root} }

// Timestamp implements tspclient.Timestamper.
func (t *TSA) Timestamp(_ context.Context, r *tspclient.Request) (*tspclient.Response, error) {
	raw, err := r.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("read the request for a time stamp: %w", err)
	}
	asked, err := timestamp.ParseRequest(raw)
	if err != nil {
		return nil, fmt.Errorf("read the request for a time stamp: %w", err)
	}
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: asked.HashAlgorithm, HashedMessage: asked.HashedMessage, Time: now().UTC().Truncate(time.Second), Accuracy: time.Second, Nonce: asked.Nonce,
		Policy: asn1.ObjectIdentifier{1, 2, 3}, AddTSACertificate: true, Certificates: []*x509.Certificate{t.root},
	}
	answer, err := stamp.CreateResponseWithOpts(t.leaf, t.key, crypto.SHA384)
	if err != nil {
		return nil, fmt.Errorf("stamp: %w", err)
	}
	var response tspclient.Response
	if err := response.UnmarshalBinary(bytes.Clone(answer)); err != nil {
		return nil, fmt.Errorf("read back the time stamp: %w", err)
	}
	return &response, nil
}
