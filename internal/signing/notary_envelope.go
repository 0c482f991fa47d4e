package signing

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	notaryregistry "github.com/notaryproject/notation-go/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
)

// Names of what stands in Notary Project signatures of AWS Signer.
const (
	AWSPlugin                 = "com.amazonaws.signer.notation.plugin"
	AttributePlugin           = "io.cncf.notary.verificationPlugin"
	AttributePluginMinVersion = "io.cncf.notary.verificationPluginMinVersion"
	AttributeProfileVersion   = "com.amazonaws.signer.signingProfileVersion"
	AttributeJob              = "com.amazonaws.signer.signingJob"
	AttributeAlias            = "com.amazonaws.signer.signingProfileAlias"

	payloadType = "application/vnd.cncf.notary.payload.v1+json"
)

// NotaryOptions say what is signed beside the artifact. The zero value is a signature of now that never ends; that of an AWS
// authority lacks the ARNs then, and so the plugin's name, which makes it nobody's.
type NotaryOptions struct {
	COSE     bool   // instead of JWS
	Scheme   string // empty means notary.x509.signingAuthority for AWS's shape, notary.x509 for a company's
	SignedAt time.Time
	Expires  time.Time // zero: never

	Profile string // ARN of a profile version; sets the plugin's name too
	Job     string // ARN of the signing job
	Alias   string // ARN of an alias of the profile

	Plugin           string // instead of AWSPlugin where there is a profile; "-" means none
	PluginMinVersion string

	Extra       []signature.Attribute
	NotCritical []string          // attributes from above that are signed without being marked critical
	Metadata    map[string]string // of the user, in the payload
	TSA         *TSA              // countersigns; companies' signatures only
}

// attributes are what goes into the protected header beside what the formats put there themselves.
func (o NotaryOptions) attributes() []signature.Attribute {
	plugin := o.Plugin
	switch {
	case plugin == "-":
		plugin = ""
	case plugin == "" && o.Profile != "":
		plugin = AWSPlugin
	}
	var all []signature.Attribute
	for _, a := range []struct{ key, value string }{
		{AttributePlugin, plugin}, {AttributePluginMinVersion, o.PluginMinVersion}, {AttributeProfileVersion, o.Profile}, {AttributeJob, o.Job}, {AttributeAlias, o.Alias},
	} {
		if a.value != "" {
			all = append(all, signature.Attribute{Key: a.key, Value: a.value, Critical: true})
		}
	}
	all = append(all, o.Extra...)
	for i, a := range all {
		for _, name := range o.NotCritical {
			if a.Key == name {
				all[i].Critical = false
			}
		}
	}
	return all
}

func (a *Authority) scheme(o NotaryOptions) string {
	if a.company == "" {
		return cmp.Or(o.Scheme, string(signature.SigningSchemeX509SigningAuthority))
	}
	return cmp.Or(o.Scheme, string(signature.SigningSchemeX509))
}

// payload is the signed statement: which artifact it is about.
func (o NotaryOptions) payload(target ocispec.Descriptor) ([]byte, error) {
	about := ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size, Annotations: o.Metadata}
	return json.Marshal(map[string]any{"targetArtifact": about})
}

// NotaryEnvelope is a signature ready to be pushed.
type NotaryEnvelope struct {
	MediaType string
	Blob      []byte
	Chain     []*x509.Certificate // root last
}

// Sign signs an artifact as the specification's own library does.
func (a *Authority) Sign(ctx context.Context, target ocispec.Descriptor, o NotaryOptions) (NotaryEnvelope, error) {
	if o.SignedAt.IsZero() {
		o.SignedAt = time.Now()
	}
	l, err := a.leafAt(o.SignedAt)
	if err != nil {
		return NotaryEnvelope{}, err
	}
	chain := append([]*x509.Certificate{l.certificate}, a.chain...)
	signer, err := signature.NewLocalSigner(chain, l.key)
	if err != nil {
		return NotaryEnvelope{}, fmt.Errorf("sign %s: %w", target.Digest, err)
	}
	payload, err := o.payload(target)
	if err != nil {
		return NotaryEnvelope{}, fmt.Errorf("sign %s: %w", target.Digest, err)
	}
	e := NotaryEnvelope{MediaType: jws.MediaTypeEnvelope, Chain: chain}
	if o.COSE {
		e.MediaType = cose.MediaTypeEnvelope
	}
	request := &signature.SignRequest{
		Payload: signature.Payload{ContentType: payloadType, Content: payload}, Signer: signer, SigningTime: o.SignedAt, Expiry: o.Expires,
		ExtendedSignedAttributes: o.attributes(), SigningScheme: signature.SigningScheme(a.scheme(o)),
	}
	if o.TSA != nil {
		request.Timestamper, request.TSARootCAs = o.TSA, x509.NewCertPool()
		request.TSARootCAs.AddCert(o.TSA.Root())
	}
	envelope, err := signature.NewEnvelope(e.MediaType)
	if err != nil {
		return NotaryEnvelope{}, fmt.Errorf("sign %s: %w", target.Digest, err)
	}
	if e.Blob, err = envelope.Sign(request.WithContext(ctx)); err != nil {
		return NotaryEnvelope{}, fmt.Errorf("sign %s: %w", target.Digest, err)
	}
	return e, nil
}

// Draft is what Sign would sign as JWS: the protected header, to be changed by whoever makes what the library refuses to, and
// the payload. It is written from the specification, without the library.
func (a *Authority) Draft(target ocispec.Descriptor, o NotaryOptions) (map[string]any, []byte, error) {
	if o.SignedAt.IsZero() {
		o.SignedAt = time.Now()
	}
	scheme := a.scheme(o)
	header := map[string]any{"alg": "ES384", "cty": payloadType, "io.cncf.notary.signingScheme": scheme}
	critical := []string{"io.cncf.notary.signingScheme"}
	set := func(name string, value any, isCritical bool) {
		header[name] = value
		if isCritical {
			critical = append(critical, name)
		}
	}
	if scheme == string(signature.SigningSchemeX509) {
		set("io.cncf.notary.signingTime", o.SignedAt.UTC().Truncate(time.Second), false)
	} else {
		set("io.cncf.notary.authenticSigningTime", o.SignedAt.UTC().Truncate(time.Second), true)
	}
	if !o.Expires.IsZero() {
		set("io.cncf.notary.expiry", o.Expires.UTC().Truncate(time.Second), true)
	}
	for _, extra := range o.attributes() {
		set(fmt.Sprint(extra.Key), extra.Value, extra.Critical)
	}
	header["crit"] = critical
	payload, err := o.payload(target)
	return header, payload, err
}

// SignByHand signs any bytes as protected header and payload of a JWS, with the code-signing certificate of a time.
func (a *Authority) SignByHand(header, payload []byte, at time.Time) (NotaryEnvelope, error) {
	l, err := a.leafAt(at)
	if err != nil {
		return NotaryEnvelope{}, err
	}
	e := NotaryEnvelope{MediaType: jws.MediaTypeEnvelope, Chain: append([]*x509.Certificate{l.certificate}, a.chain...)}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(header) + "." + b64(payload)
	sum := sha512.Sum384([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, l.key, sum[:])
	if err != nil {
		return NotaryEnvelope{}, fmt.Errorf("sign by hand: %w", err)
	}
	mark := make([]byte, 96)
	r.FillBytes(mark[:48])
	s.FillBytes(mark[48:])
	var chain [][]byte
	for _, c := range e.Chain {
		chain = append(chain, c.Raw)
	}
	e.Blob, err = json.Marshal(map[string]any{"payload": b64(payload), "protected": b64(header), "header": map[string]any{"x5c": chain}, "signature": b64(mark)})
	return e, err
}

// Push hangs an envelope on an artifact: as a referrer where the registry knows referrers, under the fallback tag besides where
// it does not. It returns the manifest that carries the signature.
func (e NotaryEnvelope) Push(ctx context.Context, to oras.GraphTarget, target ocispec.Descriptor) (ocispec.Descriptor, error) {
	prints := make([]string, 0, len(e.Chain))
	for _, c := range e.Chain {
		prints = append(prints, Fingerprint(c))
	}
	hint, err := json.Marshal(prints)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push the signature of %s: %w", target.Digest, err)
	}
	subject := ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	_, manifest, err := notaryregistry.NewRepository(to).PushSignature(ctx, e.MediaType, e.Blob, subject, map[string]string{"io.cncf.notary.x509chain.thumbprint#S256": string(hint)})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push the signature of %s: %w", target.Digest, err)
	}
	return manifest, nil
}
