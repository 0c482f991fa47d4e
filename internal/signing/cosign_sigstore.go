package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
)

// Names of the instance's services. Nobody serves them, and nothing may ask.
const (
	sigstoreFulcio = "https://fulcio.sigstore.invalid"
	sigstoreCT     = "https://ctfe.sigstore.invalid"
	sigstoreRekor  = "rekor.sigstore.invalid"
	sigstoreTSA    = "https://timestamp.sigstore.invalid"
)

// SigstoreOptions say what an instance is like. The zero value has everything, valid around now.
type SigstoreOptions struct {
	Now       time.Time // around which its certificates and keys are valid; zero means the time of NewSigstore
	IssuerEnd time.Time // end of the issuing certificate; zero means ten years after Now
	NoRekor   bool      // no transparency log in the trusted root
	NoCT      bool      // no certificate transparency log in the trusted root, and no promise of one in certificates
	NoTSA     bool      // no time stamping authority in the trusted root
}

// Sigstore is a whole instance in memory: certificate authority, certificate transparency log, transparency log, time
// stamping authority. It sets any time it is told to; what it says of itself is its trusted root.
type Sigstore struct {
	options             SigstoreOptions
	root, issuer        *x509.Certificate
	rootKey, issuerKey  *ecdsa.PrivateKey
	tsaIssuer, tsa      *x509.Certificate
	tsaIssuerKey        *ecdsa.PrivateKey
	tsaKey              *ecdsa.PrivateKey
	rekorKey, ctlogKey  *ecdsa.PrivateKey
	notBefore, notAfter time.Time
}

// NewSigstore makes an instance.
func NewSigstore(o SigstoreOptions) (*Sigstore, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	const decade = 10 * 365 * 24 * time.Hour
	s := &Sigstore{options: o, notBefore: o.Now.Add(-decade), notAfter: o.Now.Add(decade)}
	if o.IssuerEnd.IsZero() {
		s.options.IssuerEnd = s.notAfter
	}
	for _, key := range []**ecdsa.PrivateKey{&s.rootKey, &s.issuerKey, &s.tsaIssuerKey, &s.tsaKey, &s.rekorKey, &s.ctlogKey} {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a Sigstore instance: %w", err)
		}
		*key = made
	}
	authority := func(name string, end time.Time, usage ...x509.ExtKeyUsage) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"sigstore.invalid"}, CommonName: name}, NotBefore: s.notBefore, NotAfter: end,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: usage, BasicConstraintsValid: true, IsCA: true,
		}
	}
	var err error
	issue := func(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by *ecdsa.PrivateKey) *x509.Certificate {
		if err != nil {
			return nil
		}
		if parent == nil {
			parent = template
		}
		var made *x509.Certificate
		made, err = certificate(template, parent, key.Public(), by)
		return made
	}
	s.root = issue(authority("sigstore", s.notAfter), nil, s.rootKey, s.rootKey)
	s.issuer = issue(authority("sigstore-intermediate", s.options.IssuerEnd, x509.ExtKeyUsageCodeSigning), s.root, s.issuerKey, s.rootKey)
	s.tsaIssuer = issue(authority("sigstore-tsa-intermediate", s.notAfter, x509.ExtKeyUsageTimeStamping), s.root, s.tsaIssuerKey, s.rootKey)
	s.tsa = issue(s.tsaTemplate(), s.tsaIssuer, s.tsaKey, s.tsaIssuerKey)
	if err != nil {
		return nil, fmt.Errorf("make a Sigstore instance: %w", err)
	}
	return s, nil
}

func (s *Sigstore) tsaTemplate() *x509.Certificate {
	// RFC 3161: the one purpose, and critical.
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		panic(err) // a constant
	}
	return &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "sigstore-tsa"}, NotBefore: s.notBefore, NotAfter: s.notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}},
	}
}

func certificate(template, parent *x509.Certificate, key crypto.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

// TrustedRoot is the instance's trusted_root.json.
func (s *Sigstore) TrustedRoot() []byte {
	valid := map[string]any{"start": s.notBefore.Format(time.RFC3339), "end": s.notAfter.Format(time.RFC3339)}
	log := func(uri string, key *ecdsa.PrivateKey) any {
		spki := publicDER(key)
		id := sha256.Sum256(spki)
		return map[string]any{
			"baseUrl": uri, "hashAlgorithm": "SHA2_256", "logId": map[string]any{"keyId": id[:]},
			"publicKey": map[string]any{"rawBytes": spki, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid},
		}
	}
	authority := func(uri string, chain ...*x509.Certificate) any {
		var raw []any
		for _, c := range chain {
			raw = append(raw, RawBytes{c.Raw})
		}
		return map[string]any{
			"subject": map[string]any{"organization": "sigstore.invalid", "commonName": "sigstore"}, "uri": uri,
			"certChain": map[string]any{"certificates": raw}, "validFor": valid,
		}
	}
	root := map[string]any{
		"mediaType":              "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"certificateAuthorities": []any{authority(sigstoreFulcio, s.issuer, s.root)},
	}
	if !s.options.NoRekor {
		root["tlogs"] = []any{log("https://"+sigstoreRekor, s.rekorKey)}
	}
	if !s.options.NoCT {
		root["ctlogs"] = []any{log(sigstoreCT, s.ctlogKey)}
	}
	if !s.options.NoTSA {
		root["timestampAuthorities"] = []any{authority(sigstoreTSA, s.tsa, s.tsaIssuer, s.root)}
	}
	return mustJSON(root)
}

// Who is who a certificate is for.
type Who struct {
	Issuer  string // of OpenID Connect
	Subject string // a URI or a mail address
}

// Identity is how findings name it.
func (w Who) Identity() string { return fmt.Sprintf("%s (issuer %s)", w.Subject, w.Issuer) }

// Keyless is a short-lived key with its certificate, as Fulcio gives it out.
type Keyless struct {
	CosignKey
	Certificate *x509.Certificate
	by          *Sigstore
}

// CertificateLife is how long Fulcio's certificates live.
const CertificateLife = 10 * time.Minute

// Issue gives out a key and a certificate, valid from a moment on for CertificateLife.
func (s *Sigstore) Issue(who Who, from time.Time) (Keyless, error) {
	key, err := NewCosignKey()
	if err != nil {
		return Keyless{}, err
	}
	return s.IssueFor(key, who, from)
}

// IssueFor is Issue for a key that is there already.
func (s *Sigstore) IssueFor(key CosignKey, who Who, from time.Time) (Keyless, error) {
	c, err := s.certify(who, key.signer.Public(), from.UTC().Truncate(time.Second), CertificateLife)
	if err != nil {
		return Keyless{}, fmt.Errorf("issue a certificate for %s: %w", who.Identity(), err)
	}
	return Keyless{key, c, s}, nil
}

func (s *Sigstore) certify(who Who, key crypto.PublicKey, from time.Time, life time.Duration) (*x509.Certificate, error) {
	issuer, err := asn1.MarshalWithParams(who.Issuer, "utf8")
	if err != nil {
		return nil, err
	}
	fulcio := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n} }
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: from, NotAfter: from.Add(life), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: fulcio(1), Value: []byte(who.Issuer)}, {Id: fulcio(8), Value: issuer}},
	}
	if strings.Contains(who.Subject, "://") {
		uri, err := url.Parse(who.Subject)
		if err != nil {
			return nil, err
		}
		template.URIs = []*url.URL{uri}
	} else {
		template.EmailAddresses = []string{who.Subject}
	}
	c, err := certificate(template, s.issuer, key, s.issuerKey)
	if err != nil || s.options.NoCT {
		return c, err
	}
	// The log promises the certificate as it is without the promise.
	promise, err := s.promise(c.RawTBSCertificate, from)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, promise)
	return certificate(template, s.issuer, key, s.issuerKey)
}

// promise is the extension with a signed certificate timestamp (RFC 6962).
func (s *Sigstore) promise(tbs []byte, at time.Time) (pkix.Extension, error) {
	milli := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	issuer := sha256.Sum256(s.issuer.RawSubjectPublicKeyInfo)
	signed := append([]byte{0, 0}, milli...) // version 1, of a certificate
	signed = append(signed, 0, 1)            // not finished yet
	signed = append(signed, issuer[:]...)
	signed = append(signed, byte(len(tbs)>>16), byte(len(tbs)>>8), byte(len(tbs))) //nolint:gosec // three bytes hold it
	signed = append(append(signed, tbs...), 0, 0)
	signature, err := CosignKey{s.ctlogKey}.sign(signed)
	if err != nil {
		return pkix.Extension{}, err
	}
	id := sha256.Sum256(publicDER(s.ctlogKey))
	sct := append([]byte{0}, id[:]...)
	sct = append(append(sct, milli...), 0, 0, 4, 3)                                        // no extensions; SHA-256 with ECDSA
	sct = append(binary.BigEndian.AppendUint16(sct, uint16(len(signature))), signature...) //nolint:gosec // some 70 bytes
	list := binary.BigEndian.AppendUint16(nil, uint16(len(sct)+2))                         //nolint:gosec // some 120 bytes
	list = append(binary.BigEndian.AppendUint16(list, uint16(len(sct))), sct...)           //nolint:gosec // some 120 bytes
	value, err := asn1.Marshal(list)
	if err != nil {
		return pkix.Extension{}, err
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value}, nil
}

// SignLayer signs a document in the first form: with certificate and chain, and logged at a time.
func (k Keyless) SignLayer(document []byte, at time.Time) (CosignLayer, error) {
	layer, err := k.CosignKey.SignLayer(document)
	if err != nil {
		return CosignLayer{}, err
	}
	layer.Annotations[CosignCertificate] = string(k.PEM())
	layer.Annotations[CosignChain] = string(certificatePEM(k.by.issuer)) + string(certificatePEM(k.by.root))
	return layer, k.by.LogLayer(layer, k.PEM(), at)
}

// SignBundle signs a statement as cosign 3 does: with the certificate, and logged at a time.
func (k Keyless) SignBundle(statement []byte, at time.Time) (Bundle, error) {
	b, err := k.CosignKey.SignBundle(statement)
	if err != nil {
		return Bundle{}, err
	}
	b.Material = Material{Certificate: &RawBytes{k.Certificate.Raw}}
	return b, k.by.LogBundle(&b, k.PEM(), at)
}

// PEM is the certificate, as logs and annotations hold it.
func (k Keyless) PEM() []byte { return certificatePEM(k.Certificate) }

func publicDER(key *ecdsa.PrivateKey) []byte { return CosignKey{key}.spki() }

// RekorBundle is what cosign writes beside a signature of the first form: an entry of the log and the log's promise.
type RekorBundle struct {
	SET     []byte       `json:"SignedEntryTimestamp"`
	Payload RekorPayload `json:"Payload"`
}

// RekorPayload is what the log promises. Its fields stand in the order of their names, as they are signed.
type RekorPayload struct {
	Body  any    `json:"body"` // base64; tests put other things here
	Time  int64  `json:"integratedTime"`
	LogID string `json:"logID"`
	Index int64  `json:"logIndex"`
}

// LogLayer logs a signature of the first form at a time, and writes the promise into its annotations. The verifier is the
// PEM of the key or the certificate that it is logged under.
func (s *Sigstore) LogLayer(layer CosignLayer, verifier []byte, at time.Time) error {
	signature, err := base64.StdEncoding.DecodeString(layer.Annotations[CosignSignature])
	if err != nil {
		return fmt.Errorf("log a signature: %w", err)
	}
	sum := sha256.Sum256(layer.Payload)
	bundle, err := s.Promise(hashedRekord(sum[:], signature, verifier), at)
	if err != nil {
		return err
	}
	layer.Annotations[CosignRekor] = string(mustJSON(bundle))
	return nil
}

// Promise is the log's promise to hold an entry with this body.
func (s *Sigstore) Promise(body []byte, at time.Time) (RekorBundle, error) {
	id := sha256.Sum256(publicDER(s.rekorKey))
	payload := RekorPayload{Body: base64.StdEncoding.EncodeToString(body), Time: at.Unix(), LogID: hex.EncodeToString(id[:])}
	set, err := CosignKey{s.rekorKey}.sign(mustJSON(payload))
	if err != nil {
		return RekorBundle{}, fmt.Errorf("log an entry: %w", err)
	}
	return RekorBundle{SET: set, Payload: payload}, nil
}

// StampLayer has the time of a signature of the first form stamped, and writes the stamp into its annotations.
func (s *Sigstore) StampLayer(layer CosignLayer, at time.Time) error {
	signature, err := base64.StdEncoding.DecodeString(layer.Annotations[CosignSignature])
	if err != nil {
		return fmt.Errorf("stamp a signature: %w", err)
	}
	stamp, err := s.Stamp(signature, at)
	if err != nil {
		return err
	}
	layer.Annotations[CosignTimestamp] = string(mustJSON(map[string]any{"SignedRFC3161Timestamp": stamp}))
	return nil
}

// LogBundle logs a bundle in the first version of the log, at a time that the log promises.
func (s *Sigstore) LogBundle(b *Bundle, verifier []byte, at time.Time) error {
	var body []byte
	kind := "hashedrekord"
	switch {
	case b.Message != nil:
		body = hashedRekord(b.Message.Digest.Digest, b.Message.Signature, verifier)
	case b.Envelope != nil && len(b.Envelope.Signatures) > 0:
		kind = "dsse"
		envelope, payload := sha256.Sum256(mustJSON(b.Envelope)), sha256.Sum256(b.Envelope.Payload)
		hash := func(sum [32]byte) any {
			return map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
		}
		body = mustJSON(map[string]any{"apiVersion": "0.0.1", "kind": kind, "spec": map[string]any{
			"envelopeHash": hash(envelope), "payloadHash": hash(payload),
			"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(b.Envelope.Signatures[0].Sig), "verifier": verifier}},
		}})
	default:
		return fmt.Errorf("log a bundle: it holds no signature")
	}
	promise, err := s.Promise(body, at)
	if err != nil {
		return err
	}
	entry, err := s.entry(kind, "0.0.1", body, sigstoreRekor+" - 1")
	if err != nil {
		return err
	}
	entry.Time, entry.Promise = at.Unix(), &Promise{promise.SET}
	b.Material.Entries = append(b.Material.Entries, entry)
	return nil
}

// LogBundle2 logs a bundle in the second version of the log, which proves that it holds the entry and says no time.
func (s *Sigstore) LogBundle2(b *Bundle, verifier any) error {
	var message, signature []byte
	if b.Message != nil {
		message, signature = b.Message.Digest.Digest, b.Message.Signature
	} else {
		sum := sha256.Sum256(preAuthentication(b.Envelope.PayloadType, b.Envelope.Payload))
		message, signature = sum[:], b.Envelope.Signatures[0].Sig
	}
	by := map[string]any{"keyDetails": "PKIX_ECDSA_P256_SHA_256"}
	switch v := verifier.(type) {
	case *x509.Certificate:
		by["x509Certificate"] = RawBytes{v.Raw}
	case CosignKey:
		by["publicKey"] = RawBytes{v.spki()}
	default:
		return fmt.Errorf("log a bundle: nothing is logged under a %T", verifier)
	}
	body := mustJSON(map[string]any{"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": map[string]any{"hashedRekordV002": map[string]any{
		"data": map[string]any{"algorithm": "SHA2_256", "digest": message}, "signature": map[string]any{"content": signature, "verifier": by},
	}}})
	entry, err := s.entry("hashedrekord", "0.0.2", body, sigstoreRekor)
	if err != nil {
		return err
	}
	b.Material.Entries = append(b.Material.Entries, entry)
	return nil
}

// StampBundle has the time of a bundle's signature stamped.
func (s *Sigstore) StampBundle(b *Bundle, at time.Time) error {
	var signature []byte
	if b.Message != nil {
		signature = b.Message.Signature
	} else {
		signature = b.Envelope.Signatures[0].Sig
	}
	stamp, err := s.Stamp(signature, at)
	if err != nil {
		return err
	}
	if b.Material.Timestamps == nil {
		b.Material.Timestamps = &Rfc3161List{}
	}
	b.Material.Timestamps.List = append(b.Material.Timestamps.List, Rfc3161{stamp})
	return nil
}

// entry is an entry of a log that holds nothing else, and the proof of it.
func (s *Sigstore) entry(kind, version string, body []byte, origin string) (*LogEntry, error) {
	id := sha256.Sum256(publicDER(s.rekorKey))
	leaf := sha256.Sum256(append([]byte{0}, body...))
	text := origin + "\n1\n" + base64.StdEncoding.EncodeToString(leaf[:]) + "\n"
	signature, err := CosignKey{s.rekorKey}.sign([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("log an entry: %w", err)
	}
	note := text + "\n— " + sigstoreRekor + " " + base64.StdEncoding.EncodeToString(append(id[:4:4], signature...)) + "\n"
	return &LogEntry{
		Log: KeyID{id[:]}, Kind: KindVersion{kind, version}, Body: body,
		Proof: &Inclusion{Root: leaf[:], Size: 1, Hashes: [][]byte{}, Checkpoint: Checkpoint{note}},
	}, nil
}

// hashedRekord is the body of an entry of the log's first version.
func hashedRekord(sum, signature, verifier []byte) []byte {
	return mustJSON(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum)}},
		"signature": map[string]any{"content": signature, "publicKey": map[string]any{"content": verifier}},
	}})
}

// Stamp is a time stamp (RFC 3161) on a signature.
func (s *Sigstore) Stamp(signature []byte, at time.Time) ([]byte, error) {
	return StampBy(s.tsa, s.tsaKey, signature, at)
}

// StampBy is a time stamp by whoever has a certificate and its key.
func StampBy(c *x509.Certificate, key crypto.Signer, signature []byte, at time.Time) ([]byte, error) {
	sum := sha256.Sum256(signature)
	stamp := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at.UTC(), Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
		SerialNumber: serial(), AddTSACertificate: true,
	}
	data, err := stamp.CreateResponseWithOpts(c, key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("stamp %s: %w", at.Format(time.RFC3339), err)
	}
	return data, nil
}

// TSA is the certificate of the time stamping authority, the only one that the trusted root names.
func (s *Sigstore) TSA() *x509.Certificate { return s.tsa }

// IssueTSA certifies another key for time stamps: under the same authority, and not named by the trusted root.
func (s *Sigstore) IssueTSA(key crypto.PublicKey) (*x509.Certificate, error) {
	return certificate(s.tsaTemplate(), s.tsaIssuer, key, s.tsaIssuerKey)
}

// Promise reads what LogLayer wrote, for tests that bend it.
func (l CosignLayer) Promise() (RekorBundle, error) {
	var b RekorBundle
	if err := json.Unmarshal([]byte(l.Annotations[CosignRekor]), &b); err != nil {
		return b, fmt.Errorf("read the log's promise: %w", err)
	}
	return b, nil
}
