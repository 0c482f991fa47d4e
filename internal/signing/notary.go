package signing

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// AuthorityOptions say what kind of authority is made. The zero value is AWS Signer's shape in us-east-1, made now.
type AuthorityOptions struct {
	Region string // in the name of AWS's issuing certificate; empty means us-east-1
	// Organization makes a company's own chain of three instead, under its name, for the scheme notary.x509.
	Organization string
	Signer       string         // common name of a company's code-signing certificates; empty means Release
	At           time.Time      // when it is made; the zero time means time.Now
	LeafLife     time.Duration  // of code-signing certificates; zero means three days, a company's a year
	Curve        elliptic.Curve // of code-signing keys; nil means P-384, as all the others are on
	OCSP, CRL    string         // URLs in all certificates but the root's; empty means none
}

// Authority issues code-signing certificates and signs with them. It is safe for concurrent use.
type Authority struct {
	company   string
	signer    string
	leafLife  time.Duration
	curve     elliptic.Curve
	ocsp, crl string
	chain     []*x509.Certificate // issuing certificate first, root last
	keys      []*ecdsa.PrivateKey // of the same

	mu     sync.Mutex
	leaves []leaf
}

type leaf struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// year is near enough.
const year = 365 * 24 * time.Hour

// AWS's certificates all have these parts; the publisher is nowhere in them.
func awsName(common, unit string) pkix.Name {
	return pkix.Name{CommonName: common, OrganizationalUnit: []string{unit}, Organization: []string{"AWS"}, Locality: []string{"Seattle"}, Province: []string{"WA"}, Country: []string{"US"}}
}

func companyName(organization, common string) pkix.Name {
	return pkix.Name{CommonName: common, Organization: []string{organization}, Locality: []string{"Munich"}, Province: []string{"BY"}, Country: []string{"DE"}}
}

// NewAuthority makes an authority, with keys of its own.
func NewAuthority(o AuthorityOptions) (*Authority, error) {
	if o.At.IsZero() {
		o.At = time.Now()
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	a := &Authority{company: o.Organization, signer: o.Signer, leafLife: o.LeafLife, curve: o.Curve, ocsp: o.OCSP, crl: o.CRL}
	names := []pkix.Name{awsName("AWS Signer Code Signing Root CA G1", "AWS Cryptography"), awsName("AWS Signer Code Signing Int CA G1", "AWS Cryptography"), awsName("AWS Signer "+o.Region+" Code Signing CA G1", "AWS Cryptography")}
	if a.company != "" {
		names = []pkix.Name{companyName(a.company, a.company+" Root"), companyName(a.company, a.company+" Code Signing")}
	}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i, name := range names {
		// The real root ends in 2122, the one below it after five years and the regional one after one; here they last, so that
		// a cache outlives a year, and begin early, so that tests can sign in the past.
		t := &x509.Certificate{
			Subject: name, NotBefore: o.At.Add(-5 * year), NotAfter: o.At.Add(20 * year),
			IsCA: true, BasicConstraintsValid: true, MaxPathLen: len(names) - 1 - i, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		}
		if i == 0 {
			t.NotAfter = o.At.Add(95 * year)
		}
		certificate, key, err := a.issue(t, parent, parentKey)
		if err != nil {
			return nil, err
		}
		parent, parentKey = certificate, key
		a.chain = append([]*x509.Certificate{certificate}, a.chain...)
		a.keys = append([]*ecdsa.PrivateKey{key}, a.keys...)
	}
	return a, nil
}

// issue makes a key and has its certificate signed; without a parent it signs itself.
func (a *Authority) issue(t, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	curve := elliptic.P384()
	if a.curve != nil && !t.IsCA {
		curve = a.curve
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", t.Subject.CommonName, err)
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, fmt.Errorf("make a serial number for %s: %w", t.Subject.CommonName, err)
	}
	t.NotBefore, t.NotAfter = t.NotBefore.UTC().Truncate(time.Second), t.NotAfter.UTC().Truncate(time.Second)
	if parent == nil {
		parent, by = t, key
	} else {
		if a.ocsp != "" {
			t.OCSPServer = []string{a.ocsp}
		}
		if a.crl != "" {
			t.CRLDistributionPoints = []string{a.crl}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, by)
	if err != nil {
		return nil, nil, fmt.Errorf("certify %s: %w", t.Subject.CommonName, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("read back the certificate of %s: %w", t.Subject.CommonName, err)
	}
	return certificate, key, nil
}

// Chain is a code-signing certificate that is valid at a time, and what certifies it, root last. It is issued when there is
// none yet: as with AWS Signer, one serves many signatures of some days.
func (a *Authority) Chain(at time.Time) ([]*x509.Certificate, error) {
	l, err := a.leafAt(at)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{l.certificate}, a.chain...), nil
}

func (a *Authority) leafAt(at time.Time) (leaf, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leaves {
		if !at.Before(l.certificate.NotBefore) && !at.After(l.certificate.NotAfter) {
			return l, nil
		}
	}
	life := a.leafLife
	if life == 0 && a.company == "" {
		life = 3 * 24 * time.Hour
	} else if life == 0 {
		life = year
	}
	name := awsName("AWS Signer", "AWS Cryptography")
	if a.company != "" {
		name = companyName(a.company, cmp.Or(a.signer, "Release"))
	}
	certificate, key, err := a.issue(&x509.Certificate{
		Subject: name, NotBefore: at.Add(-min(time.Hour, life/2)), NotAfter: at.Add(life), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, a.chain[0], a.keys[0])
	if err != nil {
		return leaf{}, err
	}
	l := leaf{certificate, key}
	a.leaves = append(a.leaves, l)
	return l, nil
}

// Root is the certificate to trust.
func (a *Authority) Root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// RootPEM is the same as a file.
func (a *Authority) RootPEM() []byte { return certificatePEM(a.Root()) }

// RootFingerprint is the SHA-256 of the root's DER, lower-case hexadecimal, as policies name it.
func (a *Authority) RootFingerprint() string { return Fingerprint(a.Root()) }

// Fingerprint is the SHA-256 of a certificate's DER, lower-case hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// RevocationHashes are the names under which AWS Signer revokes certificates of a chain: for each the SHA-384 of what its
// issuer signed, then that of its issuer's, in hexadecimal. The root is its own issuer.
func RevocationHashes(chain []*x509.Certificate) []string {
	var all []string
	for i, c := range chain {
		child, parent := sha512.Sum384(c.RawTBSCertificate), sha512.Sum384(chain[min(i+1, len(chain)-1)].RawTBSCertificate)
		all = append(all, hex.EncodeToString(child[:])+hex.EncodeToString(parent[:]))
	}
	return all
}

const (
	authorityChain = "chain.pem" // issuing certificate first, root last
	authorityKeys  = "keys.pem"  // of the same, in the same order
	typeCert       = "CERTIFICATE"
	typeKey        = "PRIVATE KEY"
)

// Save writes the authority into a directory, which it makes.
func (a *Authority) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save the signing authority: %w", err)
	}
	var chain, keys []byte
	for i, c := range a.chain {
		chain = append(chain, certificatePEM(c)...)
		der, err := x509.MarshalPKCS8PrivateKey(a.keys[i])
		if err != nil {
			return fmt.Errorf("save the signing authority: %w", err)
		}
		keys = append(keys, pem.EncodeToMemory(&pem.Block{Type: typeKey, Bytes: der})...)
	}
	// The chain comes last: where it is, all is.
	for _, f := range []struct {
		name    string
		content []byte
	}{{authorityKeys, keys}, {authorityChain, chain}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.content, 0o600); err != nil {
			return fmt.Errorf("save the signing authority: %w", err)
		}
	}
	return nil
}

// OpenAuthority loads the authority of a directory, and makes it where there is none: a directory is an authority. The
// options count when it is made, and each time for what they say of leaves.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	a, err := LoadAuthority(dir, o)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if a, err = NewAuthority(o); err != nil {
		return nil, err
	}
	return a, a.Save(dir)
}

// LoadAuthority loads what Save wrote. An error that is fs.ErrNotExist says that there is none.
func LoadAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	a := &Authority{company: o.Organization, signer: o.Signer, leafLife: o.LeafLife, curve: o.Curve, ocsp: o.OCSP, crl: o.CRL}
	err := eachBlock(filepath.Join(dir, authorityChain), typeCert, func(der []byte) error {
		c, err := x509.ParseCertificate(der)
		a.chain = append(a.chain, c)
		return err
	})
	if err == nil {
		err = eachBlock(filepath.Join(dir, authorityKeys), typeKey, func(der []byte) error {
			parsed, err := x509.ParsePKCS8PrivateKey(der)
			key, ok := parsed.(*ecdsa.PrivateKey)
			if err == nil && !ok {
				err = fmt.Errorf("a %T, not a key on a curve", parsed)
			}
			a.keys = append(a.keys, key)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("load the signing authority: %w", err)
	}
	if len(a.chain) == 0 || len(a.chain) != len(a.keys) {
		return nil, fmt.Errorf("load the signing authority in %s: %d certificates and %d keys", dir, len(a.chain), len(a.keys))
	}
	return a, nil
}

func eachBlock(file, kind string, take func([]byte) error) error {
	rest, err := os.ReadFile(file) //nolint:gosec // the directory that the caller names
	if err != nil {
		return err
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != kind {
			return fmt.Errorf("%s: a block of type %q, expected %q", file, block.Type, kind)
		}
		if err := take(block.Bytes); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typeCert, Bytes: c.Raw})
}
