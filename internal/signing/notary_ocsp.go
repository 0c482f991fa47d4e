package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
)

// CertificateStatus is an http.Handler that says for the certificates of an authority whether they are revoked: OCSP by POST, or by GET
// with the question in the path; a CRL of the issuing certificate's at the root. Use its URL as AuthorityOptions.OCSP and CRL, then set Of: the certificates need the URL first.
type CertificateStatus struct {
	mu      sync.Mutex
	issuers []*x509.Certificate
	keys    []*ecdsa.PrivateKey
	revoked map[string]time.Time // by serial number
	asked   int
}

// Of says whose certificates they are.
func (s *CertificateStatus) Of(a *Authority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issuers, s.keys = a.chain, a.keys
}

// OfTSA says the same of a time stamping authority.
func (s *CertificateStatus) OfTSA(t *TSA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issuers, s.keys = []*x509.Certificate{t.root}, []*ecdsa.PrivateKey{t.rootKey}
}

// Revoke revokes a certificate.
func (s *CertificateStatus) Revoke(c *x509.Certificate, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revoked == nil {
		s.revoked = map[string]time.Time{}
	}
	s.revoked[c.SerialNumber.String()] = at
}

// Asked is how often anybody asked.
func (s *CertificateStatus) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// ServeHTTP implements http.Handler.
func (s *CertificateStatus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if len(s.issuers) == 0 {
		http.Error(w, "nobody's", http.StatusNotFound)
		return
	}
	var answer []byte
	var err error
	switch question, asked := strings.CutPrefix(r.URL.Path, "/"); {
	case r.Method == http.MethodPost:
		answer, err = s.status(body)
	case asked && question != "":
		if body, err = base64.StdEncoding.DecodeString(question); err == nil {
			answer, err = s.status(body)
		}
	default:
		answer, err = s.list()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(answer) //nolint:gosec // DER, made here
}

// status answers in the name of whoever issued the certificate that is asked for.
func (s *CertificateStatus) status(question []byte) ([]byte, error) {
	asked, err := ocsp.ParseRequest(question)
	if err != nil {
		return nil, err
	}
	issuer, key := s.issuers[0], s.keys[0]
	for i, c := range s.issuers {
		if sum := keyHash(c, asked.HashAlgorithm); string(sum) == string(asked.IssuerKeyHash) {
			issuer, key = c, s.keys[i]
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	t := ocsp.Response{Status: ocsp.Good, SerialNumber: asked.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour), IssuerHash: asked.HashAlgorithm}
	if at, revoked := s.revoked[asked.SerialNumber.String()]; revoked {
		t.Status, t.RevokedAt, t.RevocationReason = ocsp.Revoked, at.UTC().Truncate(time.Second), ocsp.KeyCompromise
	}
	return ocsp.CreateResponse(issuer, issuer, t, key)
}

func keyHash(c *x509.Certificate, h crypto.Hash) []byte {
	request, err := ocsp.CreateRequest(c, c, &ocsp.RequestOptions{Hash: h})
	if err != nil {
		return nil
	}
	parsed, err := ocsp.ParseRequest(request)
	if err != nil {
		return nil
	}
	return parsed.IssuerKeyHash
}

// list is the CRL of the issuing certificate.
func (s *CertificateStatus) list() ([]byte, error) {
	now := time.Now().UTC().Truncate(time.Second)
	t := &x509.RevocationList{Number: big.NewInt(now.Unix()), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	for serial, at := range s.revoked {
		n, _ := new(big.Int).SetString(serial, 10)
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at.UTC().Truncate(time.Second), ReasonCode: 1})
	}
	return x509.CreateRevocationList(rand.Reader, t, s.issuers[0], s.keys[0])
}
