package notary

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	gocose "github.com/veraison/go-cose"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// What an honest envelope needs at most, many times over.
const (
	maxEnvelope   = 1 << 20
	maxChain      = 10
	maxAttributes = 64
	maxDepth      = 16
	maxKey        = 8192 // bits of an RSA key
)

const payloadType = "application/vnd.cncf.notary.payload.v1+json"

// envelope is one whose signature was computed again with the key of its own first certificate, whoever that may belong to.
type envelope struct {
	mediaType        string
	target           ocispec.Descriptor
	metadata         map[string]string
	signed           signature.SignedAttributes
	algorithm        signature.Algorithm
	chain            []*x509.Certificate // root last; it holds together, and nobody has said yet that it is trusted
	mark             []byte              // the signature itself
	countersignature []byte
	agent            string
}

func (e *envelope) root() *x509.Certificate { return e.chain[len(e.chain)-1] }

// text is a signed attribute; empty where there is none.
func (e *envelope) text(name string) (value string, critical bool, err error) {
	for _, a := range e.signed.ExtendedAttributes {
		if a.Key != name {
			continue
		}
		value, ok := a.Value.(string)
		if !ok || strings.TrimSpace(value) == "" {
			return "", false, fmt.Errorf("its attribute %s is not a text", name)
		}
		return value, a.Critical, nil
	}
	return "", false, nil
}

// open reads an envelope and checks that it holds together: strictly, because whoever reads it otherwise must not read it differently.
// With known chains it may be read the quick way, and whoever accepts it has to hold it against what the library reads (agrees).
func open(s oci.Signature, known *chains) (*envelope, *verdict.Finding) {
	fail := func(reason verdict.Reason, format string, args ...any) (*envelope, *verdict.Finding) {
		f := verdict.Fail(reason, format, args...)
		return nil, &f
	}
	var mediaType string
	var precheck func([]byte) error
	switch s.Format {
	case oci.NotaryJWS:
		mediaType, precheck = jws.MediaTypeEnvelope, precheckJWS
	case oci.NotaryCOSE:
		mediaType, precheck = cose.MediaTypeEnvelope, precheckCOSE
	default:
		return fail(verdict.OtherMethod, "it is of the format %q, which is not Notary Project's", s.Format)
	}
	switch {
	case len(s.Payload) == 0:
		return fail(verdict.Malformed, "the envelope is empty")
	case len(s.Payload) > maxEnvelope:
		return fail(verdict.Malformed, "the envelope has %d bytes, of at most %d", len(s.Payload), maxEnvelope)
	}
	if err := precheck(s.Payload); err != nil {
		return fail(verdict.Malformed, "the envelope cannot be read: %v", err)
	}
	if s.Format == oci.NotaryJWS && known != nil {
		if e, ok := known.quick(s.Payload); ok {
			return e, nil
		}
	}
	parsed, err := signature.ParseEnvelope(mediaType, s.Payload)
	if err != nil {
		return fail(verdict.Malformed, "the envelope cannot be read: %v", err)
	}
	inside, err := parsed.Verify()
	var broken *signature.SignatureIntegrityError
	switch {
	case errors.As(err, &broken):
		return fail(verdict.BadSignature, "the signature does not fit what is signed: %v", err)
	case err != nil:
		return fail(verdict.Malformed, "the envelope does not hold together: %v", err)
	}
	info := inside.SignerInfo
	e := &envelope{
		mediaType: mediaType, signed: info.SignedAttributes, algorithm: info.SignatureAlgorithm, chain: info.CertificateChain, mark: info.Signature,
		countersignature: info.UnsignedAttributes.TimestampSignature, agent: info.UnsignedAttributes.SigningAgent,
	}
	if len(e.signed.ExtendedAttributes) > maxAttributes {
		return fail(verdict.Malformed, "it carries %d attributes, of at most %d", len(e.signed.ExtendedAttributes), maxAttributes)
	}
	if got := inside.Payload.ContentType; got != payloadType {
		return fail(verdict.Malformed, "what is signed is of type %q, expected %s", got, payloadType)
	}
	if err := e.payload(inside.Payload.Content); err != nil {
		return fail(verdict.Malformed, "what is signed cannot be read: %v", err)
	}
	return e, nil
}

func (e *envelope) payload(raw []byte) error {
	if err := checkJSON(raw, 2, "targetArtifact", "mediaType", "digest", "size", "annotations", "urls", "data", "platform", "artifactType"); err != nil {
		return err
	}
	var payload struct {
		Target *ocispec.Descriptor `json:"targetArtifact"`
	}
	if err := json.Unmarshal(raw, &payload); err != nil {
		return err
	}
	if payload.Target == nil {
		return errors.New("it names no artifact")
	}
	if err := payload.Target.Digest.Validate(); err != nil {
		return fmt.Errorf("the digest %.100q: %w", payload.Target.Digest, err)
	}
	e.target, e.metadata = *payload.Target, payload.Target.Annotations
	return nil
}

// precheckJWS looks at a JWS before the library does: one way to read it, and not more in it than is worth verifying.
func precheckJWS(raw []byte) error {
	if err := checkJSON(raw, 2, "payload", "protected", "header", "signature", "signatures", "x5c", "io.cncf.notary.timestampSignature"); err != nil {
		return err
	}
	var outer struct {
		Protected string `json:"protected"`
		Header    struct {
			Chain [][]byte `json:"x5c"`
		} `json:"header"`
	}
	if err := json.Unmarshal(raw, &outer); err != nil {
		return err
	}
	if err := precheckChain(outer.Header.Chain); err != nil {
		return err
	}
	protected, err := base64.RawURLEncoding.DecodeString(outer.Protected)
	if err != nil {
		return fmt.Errorf("the protected header: %w", err)
	}
	if err := checkJSON(protected, 1, "alg", "cty", "crit", "io.cncf.notary.expiry", "io.cncf.notary.signingTime", "io.cncf.notary.authenticSigningTime", "io.cncf.notary.signingScheme"); err != nil {
		return fmt.Errorf("the protected header: %w", err)
	}
	return nil
}

// precheckCOSE does the same for COSE.
func precheckCOSE(raw []byte) error {
	var message gocose.Sign1Message
	if err := message.UnmarshalCBOR(raw); err != nil {
		return err
	}
	listed, _ := message.Headers.Unprotected[gocose.HeaderLabelX5Chain].([]any)
	chain := make([][]byte, len(listed))
	for i, c := range listed {
		chain[i], _ = c.([]byte)
	}
	return precheckChain(chain)
}

// precheckChain refuses chains that would keep the machine busy: the library verifies every link of any length, with any key.
func precheckChain(chain [][]byte) error {
	if n := len(chain); n > maxChain {
		return fmt.Errorf("the chain has %d certificates, of at most %d", n, maxChain)
	}
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", i+1, err)
		}
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxKey {
			return fmt.Errorf("certificate %d has a key of %d bits, of at most %d", i+1, key.N.BitLen(), maxKey)
		}
	}
	return nil
}

// checkJSON refuses what two readers may read differently: a name twice in one object, anything behind the value, and, down to
// a depth, names that Go's decoder takes for one of those known because it ignores case.
func checkJSON(raw []byte, depth int, known ...string) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	type level struct {
		object, value bool
		seen          map[string]bool
	}
	var open []level
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 {
			return errors.New("it is empty")
		}
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				if len(open) > 0 {
					open[len(open)-1].value = false
				}
				if len(open) >= maxDepth {
					return fmt.Errorf("it is nested more than %d deep", maxDepth)
				}
				open = append(open, level{object: t == '{', seen: map[string]bool{}})
				continue
			}
			open = open[:len(open)-1]
		default:
			if len(open) == 0 {
				return errors.New("it is no object")
			}
			top := &open[len(open)-1]
			if top.object && !top.value {
				name, _ := t.(string)
				if top.seen[name] {
					return fmt.Errorf("%.100q stands there twice", name)
				}
				if len(open) <= depth && slices.ContainsFunc(known, func(k string) bool { return k != name && strings.EqualFold(k, name) }) {
					return fmt.Errorf("%.100q differs from a name that means something by its capitals alone", name)
				}
				top.seen[name], top.value = true, true
				continue
			}
			top.value = false
		}
		if len(open) == 0 {
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				return errors.New("there is more behind its end")
			}
			return nil
		}
	}
}

func describe(d ocispec.Descriptor) string {
	return fmt.Sprintf("%s (%.100q, %d bytes)", d.Digest, d.MediaType, d.Size)
}

// Claims are what a signature says of itself. Nothing of it is trusted: it is for people to look at.
type Claims struct {
	MediaType      string             `json:"media_type"`
	Scheme         string             `json:"scheme"`
	SigningTime    time.Time          `json:"signing_time"`
	Expires        time.Time          `json:"expires,omitzero"`
	TimeStamp      time.Time          `json:"time_stamp,omitzero"` // of the countersignature
	Target         ocispec.Descriptor `json:"target"`
	Profile        string             `json:"profile,omitempty"` // AWS Signer's: the ARN of the profile's version
	Alias          string             `json:"alias,omitempty"`
	Job            string             `json:"job,omitempty"`
	Attributes     []Attribute        `json:"attributes,omitempty"`
	Certificates   []Certificate      `json:"certificates"`
	SigningAgent   string             `json:"signing_agent,omitempty"`
	RevocationHash []string           `json:"revocation_hashes,omitempty"` // of the certificates, as AWS Signer names them
}

// Attribute is a signed one.
type Attribute struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Critical bool   `json:"critical"`
}

// Certificate is one of the chain.
type Certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
}

// Inspect reads what a signature says of itself, without trusting any of it. A finding says why it cannot be read.
func Inspect(s oci.Signature) (claims Claims, f *verdict.Finding) {
	defer func() {
		if p := recover(); p != nil {
			made := verdict.Fail(verdict.Panicked, "reading it ended in a panic: %.200v", p)
			claims, f = Claims{}, &made
		}
	}()
	e, f := open(s, nil)
	if f != nil {
		return Claims{}, f
	}
	c := Claims{MediaType: e.mediaType, Scheme: string(e.signed.SigningScheme), SigningTime: e.signed.SigningTime.UTC(), Expires: e.signed.Expiry, Target: e.target, SigningAgent: e.agent, RevocationHash: certificateHashes(e.chain)}
	c.Profile, _, _ = e.text(attributeProfileVersion)
	c.Job, _, _ = e.text(attributeJob)
	c.Alias, _, _ = e.text(attributeAlias)
	if at, ok := (&check{env: e}).countersigned(); ok {
		c.TimeStamp = at
	}
	for _, a := range e.signed.ExtendedAttributes {
		c.Attributes = append(c.Attributes, Attribute{fmt.Sprint(a.Key), fmt.Sprintf("%.500v", a.Value), a.Critical})
	}
	slices.SortFunc(c.Attributes, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	for _, in := range e.chain {
		c.Certificates = append(c.Certificates, Certificate{in.Subject.String(), in.Issuer.String(), in.NotBefore, in.NotAfter, fingerprint(in)})
	}
	return c, nil
}
