package admission

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Keys of the Secret. The bundle holds the authority in use, and the one before for as long as what it signed may be served.
const (
	keyBundle      = "ca.crt"
	keyAuthority   = "ca.key"
	keyCertificate = "tls.crt"
	keyKey         = "tls.key"
)

// Lifetimes say how long certificates are valid; both are renewed when two thirds have passed.
type Lifetimes struct {
	Authority time.Duration // one year unless set
	Serving   time.Duration // 90 days unless set
}

func (l Lifetimes) orDefault() Lifetimes {
	if l.Authority <= 0 {
		l.Authority = 365 * 24 * time.Hour
	}
	if l.Serving <= 0 {
		l.Serving = 90 * 24 * time.Hour
	}
	return l
}

// authorityName is the subject of every authority of ours.
const authorityName = "nops-vpa"

// mostAuthorities are in a bundle: clocks that jump must not make it grow.
const mostAuthorities = 3

// backdate is for clocks that are behind.
const backdate = 5 * time.Minute

// material is what the Secret holds.
type material struct {
	bundle    []*x509.Certificate // the first is the authority in use
	authority *ecdsa.PrivateKey
	serving   tls.Certificate // Leaf is set
}

// read takes the Secret's data apart. An error means that it cannot be used, and is to be made anew.
func read(data map[string][]byte) (*material, error) {
	var m material
	if m.bundle = certificates(data[keyBundle]); len(m.bundle) == 0 {
		return nil, fmt.Errorf("%s: no certificate", keyBundle)
	}
	block, _ := pem.Decode(data[keyAuthority])
	if block == nil {
		return nil, fmt.Errorf("%s: no key", keyAuthority)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyAuthority, err)
	}
	if public, is := m.bundle[0].PublicKey.(*ecdsa.PublicKey); !is || !public.Equal(&key.PublicKey) {
		return nil, fmt.Errorf("%s is not that of the first certificate in %s", keyAuthority, keyBundle)
	}
	m.authority = key
	if m.serving, err = tls.X509KeyPair(data[keyCertificate], data[keyKey]); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", keyCertificate, keyKey, err)
	}
	if m.serving.Leaf, err = x509.ParseCertificate(m.serving.Certificate[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", keyCertificate, err)
	}
	return &m, nil
}

// certificates are those of a bundle in PEM that can be read.
func certificates(bundle []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// write is the Secret's data.
func (m *material) write() (map[string][]byte, error) {
	authority, err := x509.MarshalECPrivateKey(m.authority)
	if err != nil {
		return nil, fmt.Errorf("encode the authority's key: %w", err)
	}
	serving, is := m.serving.PrivateKey.(*ecdsa.PrivateKey)
	if !is {
		return nil, errors.New("the serving key is not ECDSA")
	}
	key, err := x509.MarshalECPrivateKey(serving)
	if err != nil {
		return nil, fmt.Errorf("encode the serving key: %w", err)
	}
	return map[string][]byte{
		keyBundle: m.pem(), keyAuthority: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: authority}),
		keyCertificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.serving.Certificate[0]}),
		keyKey:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}),
	}, nil
}

// pem is the bundle as the webhook's configuration has it.
func (m *material) pem() []byte {
	var out bytes.Buffer
	for _, c := range m.bundle {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

// due says when a certificate that is valid for so long is to be renewed.
func due(c *x509.Certificate, valid time.Duration) time.Time { return c.NotAfter.Add(-valid / 3) }

// renew makes what is missing, unusable or old, and says whether anything was. The authority before stays in the bundle until it expires:
// a replica that has not read the Secret yet serves what it signed.
func renew(m *material, names []string, l Lifetimes, now time.Time) (*material, bool, error) {
	l = l.orDefault()
	var next material
	if m != nil {
		next = *m
		next.bundle = slices.Clone(m.bundle)
	}
	changed := false
	if m == nil || !now.Before(due(m.bundle[0], l.Authority)) || now.Before(m.bundle[0].NotBefore) {
		key, c, err := sign(&x509.Certificate{
			Subject: pkix.Name{CommonName: authorityName}, NotBefore: now.Add(-backdate), NotAfter: now.Add(l.Authority),
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}, nil, nil)
		if err != nil {
			return nil, false, err
		}
		next.bundle, next.authority, changed = slices.Insert(next.bundle, 0, c), key, true
	}
	before := len(next.bundle)
	next.bundle = slices.DeleteFunc(next.bundle, func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) })
	if len(next.bundle) > mostAuthorities {
		next.bundle = next.bundle[:mostAuthorities]
	}
	changed = changed || len(next.bundle) != before
	leaf := next.serving.Leaf
	fits := leaf != nil && leaf.CheckSignatureFrom(next.bundle[0]) == nil && (now.Before(due(leaf, l.Serving)) || leaf.NotAfter.Equal(next.bundle[0].NotAfter)) && !now.Before(leaf.NotBefore) &&
		!slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) != nil })
	if !fits {
		key, c, err := sign(&x509.Certificate{
			Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(l.Serving), next.bundle[0].NotAfter),
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, next.bundle[0], next.authority)
		if err != nil {
			return nil, false, err
		}
		next.serving, changed = tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}, true
	}
	return &next, changed, nil
}

// keep adds authorities that are still valid.
func (m *material) keep(old []*x509.Certificate, now time.Time) {
	for _, c := range old {
		if now.Before(c.NotAfter) && len(m.bundle) < mostAuthorities && !slices.ContainsFunc(m.bundle, c.Equal) {
			m.bundle = append(m.bundle, c)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sign makes a key and its certificate; without an authority it certifies itself.
func sign(template, authority *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, fmt.Errorf("make a serial number: %w", err)
	}
	if authority == nil {
		authority, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, by)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("read the certificate: %w", err)
	}
	return key, c, nil
}
