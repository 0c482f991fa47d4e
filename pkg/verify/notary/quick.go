package notary

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/jws"
	corex509 "github.com/notaryproject/notation-core-go/x509"
)

// maxChains is how many chains are remembered; the images of a release have one or two.
const maxChains = 64

// chains remembers which chains of certificates hold together. It says nothing of trust.
type chains struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*sync.Once
	good  map[[sha256.Size]byte]bool
}

// hold says whether a chain holds together as the library sees it: computed once, while others who ask for the same wait.
func (k *chains) hold(chain []*x509.Certificate) bool {
	sum := sha256.New()
	for _, c := range chain {
		sum.Write(c.Raw) // DER says its own length
	}
	key := [sha256.Size]byte(sum.Sum(nil))
	k.mu.Lock()
	once := k.known[key]
	if once == nil {
		if len(k.known) >= maxChains {
			k.mu.Unlock()
			return corex509.ValidateCodeSigningCertChain(chain, nil) == nil
		}
		if k.known == nil {
			k.known, k.good = map[[sha256.Size]byte]*sync.Once{}, map[[sha256.Size]byte]bool{}
		}
		once = new(sync.Once)
		k.known[key] = once
	}
	k.mu.Unlock()
	once.Do(func() {
		good := corex509.ValidateCodeSigningCertChain(chain, nil) == nil
		k.mu.Lock()
		k.good[key] = good
		k.mu.Unlock()
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.good[key]
}

// quick opens what AWS Signer makes, a JWS by a key on P-384, with one computation where the library makes seven: those about the
// certificates are the same for all images of a release, and take most of the time. Whatever is not exactly as expected
// is left to the library, which says what is wrong with it. Nothing is accepted on what is read here: it decides whether AWS may
// be asked while the library looks at the same envelope, and has to be what the library reads (see agrees).
func (k *chains) quick(raw []byte) (*envelope, bool) {
	var outer struct {
		Payload   string `json:"payload"`
		Protected string `json:"protected"`
		Signature string `json:"signature"`
		Header    struct {
			Chain            [][]byte `json:"x5c"`
			Countersignature []byte   `json:"io.cncf.notary.timestampSignature"`
			Agent            string   `json:"io.cncf.notary.signingAgent"`
		} `json:"header"`
	}
	if json.Unmarshal(raw, &outer) != nil {
		return nil, false
	}
	var parts [3][]byte
	for i, part := range []string{outer.Payload, outer.Protected, outer.Signature} {
		var err error
		if parts[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return nil, false
		}
	}
	e := &envelope{mediaType: jws.MediaTypeEnvelope, algorithm: signature.AlgorithmES384, mark: parts[2], countersignature: outer.Header.Countersignature, agent: outer.Header.Agent}
	var ok bool
	if e.signed, ok = quickHeader(parts[1]); !ok || e.payload(parts[0]) != nil {
		return nil, false
	}
	for _, der := range outer.Header.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, false
		}
		e.chain = append(e.chain, c)
	}
	if len(e.chain) < 2 || len(e.mark) != 96 {
		return nil, false
	}
	key, ok := e.chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, false
	}
	sum := sha512.Sum384([]byte(outer.Protected + "." + outer.Payload))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(e.mark[:48]), new(big.Int).SetBytes(e.mark[48:])) {
		return nil, false
	}
	return e, k.hold(e.chain)
}

// quickHeader reads a protected header of AWS Signer's.
func quickHeader(raw []byte) (signed signature.SignedAttributes, ok bool) {
	var header struct {
		Algorithm   string                  `json:"alg"`
		ContentType string                  `json:"cty"`
		Critical    []string                `json:"crit"`
		Scheme      signature.SigningScheme `json:"io.cncf.notary.signingScheme"`
		Expiry      *time.Time              `json:"io.cncf.notary.expiry"`
		SignedAt    *time.Time              `json:"io.cncf.notary.authenticSigningTime"`
	}
	var extended map[string]any
	if json.Unmarshal(raw, &header) != nil || json.Unmarshal(raw, &extended) != nil {
		return signed, false
	}
	if _, there := extended["io.cncf.notary.signingTime"]; there || header.Algorithm != "ES384" || header.ContentType != payloadType || header.Scheme != signature.SigningSchemeX509SigningAuthority {
		return signed, false
	}
	if header.SignedAt == nil || header.SignedAt.IsZero() || header.Expiry != nil && !header.SignedAt.Before(*header.Expiry) {
		return signed, false
	}
	must := []string{"io.cncf.notary.signingScheme", "io.cncf.notary.authenticSigningTime"}
	signed.SigningScheme, signed.SigningTime = header.Scheme, *header.SignedAt
	if header.Expiry != nil {
		must, signed.Expiry = append(must, "io.cncf.notary.expiry"), *header.Expiry
	}
	for _, name := range must {
		if !slices.Contains(header.Critical, name) {
			return signed, false
		}
	}
	for _, name := range header.Critical {
		if _, there := extended[name]; !there {
			return signed, false
		}
	}
	for _, name := range append(must, "alg", "cty", "crit") {
		delete(extended, name)
	}
	if _, null := extended["io.cncf.notary.expiry"]; null || len(extended) > maxAttributes {
		return signed, false
	}
	for _, name := range slices.Sorted(maps.Keys(extended)) {
		signed.ExtendedAttributes = append(signed.ExtendedAttributes, signature.Attribute{Key: name, Critical: slices.Contains(header.Critical, name), Value: extended[name]})
	}
	return signed, true
}

// agrees says whether the library read the same envelope.
func (e *envelope) agrees(content *signature.EnvelopeContent) bool {
	info := content.SignerInfo
	attributes := func(all []signature.Attribute) map[any]signature.Attribute {
		by := map[any]signature.Attribute{}
		for _, a := range all {
			by[a.Key] = a
		}
		return by
	}
	other := envelope{}
	return content.Payload.ContentType == payloadType && other.payload(content.Payload.Content) == nil && reflect.DeepEqual(other.target, e.target) &&
		info.SignatureAlgorithm == e.algorithm && slices.Equal(info.Signature, e.mark) && slices.EqualFunc(info.CertificateChain, e.chain, (*x509.Certificate).Equal) &&
		info.SignedAttributes.SigningScheme == e.signed.SigningScheme && info.SignedAttributes.SigningTime.Equal(e.signed.SigningTime) && info.SignedAttributes.Expiry.Equal(e.signed.Expiry) &&
		len(info.SignedAttributes.ExtendedAttributes) == len(e.signed.ExtendedAttributes) && reflect.DeepEqual(attributes(info.SignedAttributes.ExtendedAttributes), attributes(e.signed.ExtendedAttributes))
}
