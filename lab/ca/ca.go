// Package ca is the lab's certificate authority.
//
// There is one per machine, kept in the cache: images carry its certificate in their bundle, so a new authority per lab
// would make every image new. Its key never leaves the file, which only its owner may read. Whoever trusts it trusts what
// this machine's labs serve under app.nops.io and its like, so nothing ever adds it to the system's own certificates.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityYears = 10
	serverYears    = 2 // a lab that stays up must not rot; clients of ours accept it
	renewBefore    = 90 * 24 * time.Hour
	file           = "authority.pem"
)

// Authority signs server certificates.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
}

// Open reads the authority of a directory, or makes one. Several processes may do so at once: they agree on one.
func Open(dir string, now time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the lab's CA: %w", err)
	}
	path := filepath.Join(dir, file)
	a, err := load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return create(path, now, false)
	case err != nil:
		return nil, fmt.Errorf("open the lab's CA: %w", &damagedError{path, err})
	case now.Add(renewBefore).After(a.certificate.NotAfter):
		return create(path, now, true)
	}
	return a, nil
}

// damagedError is a file that holds no authority.
type damagedError struct {
	path string
	err  error
}

func (e *damagedError) Error() string { return fmt.Sprintf("%s: %v", e.path, e.err) }
func (e *damagedError) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *damagedError) Hint() string {
	return "delete " + e.path + "; the next lab makes a new authority and rebuilds its images"
}

func load(path string) (*Authority, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // named by Open
	}
	var a Authority
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			if a.certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("certificate: %w", err)
			}
			a.pem = pem.EncodeToMemory(block)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("key: %w", err)
			}
			signer, ok := key.(crypto.Signer)
			if !ok {
				return nil, fmt.Errorf("key: a %T cannot sign", key)
			}
			a.key = signer
		}
	}
	if a.certificate == nil || a.key == nil {
		return nil, errors.New("no certificate with its key")
	}
	if public, ok := a.key.Public().(*ecdsa.PublicKey); !ok || !public.Equal(a.certificate.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	return &a, nil
}

// create makes an authority. Key and certificate share a file, so that nobody ever sees one without the other; the file
// appears under its name only when whole.
func create(path string, now time.Time, replace bool) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "nopsctl lab CA", Organization: []string{"nopsctl lab on this machine"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(authorityYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	f, err := os.CreateTemp(filepath.Dir(path), ".authority-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		err = nil // another lab was first: use its
	}
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %w", err)
	}
	a, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("make the lab's CA: %s: %w", path, err)
	}
	return a, nil
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return bytes.Clone(a.pem) }

// NotAfter is when the authority ends.
func (a *Authority) NotAfter() time.Time { return a.certificate.NotAfter }

// Issue makes a key and a server certificate for host names and IP addresses, both in PEM.
func (a *Authority) Issue(now time.Time, hosts ...string) (certificate, key []byte, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("issue a certificate: no host")
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", hosts[0], err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(serverYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", hosts[0], err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", hosts[0], err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), nil
}

// Certificate is Issue for a TLS server.
func (a *Authority) Certificate(now time.Time, hosts ...string) (tls.Certificate, error) {
	certificate, key, err := a.Issue(now, hosts...)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue a certificate for %s: %w", hosts[0], err)
	}
	return pair, nil
}

// Bundle is the system's certificates and the authority's, as one PEM file. The system's come from the first of the files
// that exists; without any the bundle holds the lab's authority alone, which is all that a lab without a way out can reach.
func (a *Authority) Bundle(systemFiles ...string) ([]byte, error) {
	var bundle []byte
	for _, path := range systemFiles {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("bundle of certificates: %w", err)
		}
		bundle = text
		break
	}
	if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	return append(bundle, a.pem...), nil
}

// SystemFiles are the places where Linux distributions keep their certificates, for Bundle.
func SystemFiles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL, Amazon Linux
		"/etc/ssl/ca-bundle.pem",             // openSUSE
	}
}

func serial() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	raw[0] &= 0x7f        // positive in DER
	return new(big.Int).SetBytes(raw)
}
