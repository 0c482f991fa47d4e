package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
)

// What cosign writes where.
const (
	CosignPredicate = "https://sigstore.dev/cosign/sign/v1" // of a bundle that is a signature
	SPDXPredicate   = "https://spdx.dev/Document"           // of a bundle that is an SBOM
	SLSAPredicate   = "https://slsa.dev/provenance/v1"      // of a bundle that is a provenance

	BundleMediaType        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	SimpleSigningMediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	DSSEMediaType          = "application/vnd.dsse.envelope.v1+json"
	InTotoMediaType        = "application/vnd.in-toto+json"

	CosignSignature   = "dev.cosignproject.cosign/signature"   // annotations of a layer
	CosignCertificate = "dev.sigstore.cosign/certificate"      //
	CosignChain       = "dev.sigstore.cosign/chain"            //
	CosignRekor       = "dev.sigstore.cosign/bundle"           //
	CosignTimestamp   = "dev.sigstore.cosign/rfc3161timestamp" //
	bundleContent     = "dev.sigstore.bundle.content"          // annotations of a bundle's manifest
	bundlePredicate   = "dev.sigstore.bundle.predicateType"    //
	keyFile, pubFile  = "cosign.key", "cosign.pub"             // as cosign names them
	privateBlock      = "PRIVATE KEY"                          // PKCS #8, not encrypted: these keys protect nothing
	publicBlock       = "PUBLIC KEY"                           //
	signaturePayload  = "cosign container image signature"     // critical.type
	statementType     = "https://in-toto.io/Statement/v1"      //
)

// CosignKey signs as cosign does with a key pair. Its zero value is no key.
type CosignKey struct{ signer crypto.Signer }

// NewCosignKey makes a key of the kind that cosign makes: ECDSA on P-256.
func NewCosignKey() (CosignKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return CosignKey{}, fmt.Errorf("make a cosign key: %w", err)
	}
	return CosignKey{private}, nil
}

// CosignKeyOf signs with a key of another kind: RSA, Ed25519, other curves.
func CosignKeyOf(signer crypto.Signer) CosignKey { return CosignKey{signer} }

// LoadCosignKey reads what Save wrote.
func LoadCosignKey(dir string) (CosignKey, error) {
	path := filepath.Join(dir, keyFile)
	data, err := os.ReadFile(path) //nolint:gosec // the caller names its own directory
	if err != nil {
		return CosignKey{}, fmt.Errorf("read cosign key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != privateBlock {
		return CosignKey{}, fmt.Errorf("read cosign key %s: it holds no PEM block %q", path, privateBlock)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return CosignKey{}, fmt.Errorf("read cosign key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return CosignKey{}, fmt.Errorf("read cosign key %s: a %T does not sign", path, key)
	}
	return CosignKey{signer}, nil
}

// Save writes cosign.key and cosign.pub into a directory, which it makes if need be.
func (k CosignKey) Save(dir string) error {
	private, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return fmt.Errorf("write cosign key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write cosign key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: private}), 0o600); err != nil {
		return fmt.Errorf("write cosign key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, pubFile), k.PublicPEM(), 0o644); err != nil { //nolint:gosec // it is the public half
		return fmt.Errorf("write cosign key: %w", err)
	}
	return nil
}

// PublicPEM is the public key as policies hold it.
func (k CosignKey) PublicPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: k.spki()})
}

// Identity is how findings name the key.
func (k CosignKey) Identity() string {
	sum := sha256.Sum256(k.spki())
	return "key sha256:" + hex.EncodeToString(sum[:])
}

func (k CosignKey) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	if err != nil {
		panic(err) // keys come from this package or from a test; all that crypto/x509 knows can be written
	}
	return der
}

// hint is how cosign points at a key in a bundle.
func (k CosignKey) hint() string {
	sum := sha256.Sum256(k.spki())
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (k CosignKey) sign(message []byte) ([]byte, error) {
	switch k.signer.Public().(type) {
	case ed25519.PublicKey:
		return k.signer.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey, *rsa.PublicKey:
		sum := sha256.Sum256(message)
		return k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	return nil, fmt.Errorf("sign: a key of type %T is not known", k.signer.Public())
}

// CosignLayer is a signature in cosign's first form: the layer's bytes, and what stands beside them in the manifest. Tests
// bend it before it is pushed.
type CosignLayer struct {
	MediaType   string // empty means SimpleSigningMediaType
	Payload     []byte
	Annotations map[string]string
}

// Descriptor is the layer's, as it stands in the manifest.
func (l CosignLayer) Descriptor() ocispec.Descriptor {
	mediaType := l.MediaType
	if mediaType == "" {
		mediaType = SimpleSigningMediaType
	}
	d := content.NewDescriptorFromBytes(mediaType, l.Payload)
	d.Annotations = l.Annotations
	return d
}

// SimpleSigning is the document that a signature of the first form signs: this digest, known by this name.
func SimpleSigning(name string, of digest.Digest) []byte {
	return mustJSON(map[string]any{
		"critical": map[string]any{
			"identity": map[string]any{"docker-reference": name},
			"image":    map[string]any{"docker-manifest-digest": of.String()},
			"type":     signaturePayload,
		},
		"optional": nil,
	})
}

// SignLayer signs any document in the first form.
func (k CosignKey) SignLayer(document []byte) (CosignLayer, error) {
	signature, err := k.sign(document)
	if err != nil {
		return CosignLayer{}, err
	}
	return CosignLayer{Payload: document, Annotations: map[string]string{CosignSignature: base64.StdEncoding.EncodeToString(signature)}}, nil
}

// Statement is what a bundle signs: something said of an artifact. What is said by default is that it is signed.
func Statement(predicateType, name string, of digest.Digest) []byte {
	predicate := map[string]any{}
	if predicateType == SPDXPredicate {
		predicate = map[string]any{"spdxVersion": "SPDX-2.3", "name": name, "packages": []any{}}
	}
	return mustJSON(map[string]any{
		"_type":         statementType,
		"subject":       []any{map[string]any{"name": name, "digest": map[string]string{of.Algorithm().String(): of.Encoded()}}},
		"predicateType": predicateType,
		"predicate":     predicate,
	})
}

// SignBundle signs a statement as cosign 3 does.
func (k CosignKey) SignBundle(statement []byte) (Bundle, error) {
	envelope, err := k.envelope(statement)
	if err != nil {
		return Bundle{}, err
	}
	return Bundle{MediaType: BundleMediaType, Material: Material{PublicKey: &KeyHint{k.hint()}}, Envelope: envelope}, nil
}

func (k CosignKey) envelope(statement []byte) (*Envelope, error) {
	signature, err := k.sign(preAuthentication(InTotoMediaType, statement))
	if err != nil {
		return nil, err
	}
	return &Envelope{Payload: statement, PayloadType: InTotoMediaType, Signatures: []EnvelopeSignature{{Sig: signature}}}, nil
}

// SignAttestation signs a statement as cosign 2 does: an envelope in a layer under the .att tag.
func (k CosignKey) SignAttestation(statement []byte) (CosignLayer, error) {
	envelope, err := k.envelope(statement)
	if err != nil {
		return CosignLayer{}, err
	}
	return CosignLayer{MediaType: DSSEMediaType, Payload: mustJSON(envelope), Annotations: map[string]string{CosignSignature: "", "predicateType": SPDXPredicate}}, nil
}

// preAuthentication is what a DSSE envelope signs.
func preAuthentication(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// Bundle is a Sigstore bundle. It is written with encoding/json, so that tests can bend any part of it.
type Bundle struct {
	MediaType string            `json:"mediaType"`
	Material  Material          `json:"verificationMaterial"`
	Envelope  *Envelope         `json:"dsseEnvelope,omitempty"`
	Message   *MessageSignature `json:"messageSignature,omitempty"`
}

// JSON is the bundle as it is stored.
func (b Bundle) JSON() []byte { return mustJSON(b) }

// Material is what a bundle is verified with: a key's hint or a certificate, log entries, time stamps.
type Material struct {
	PublicKey   *KeyHint     `json:"publicKey,omitempty"`
	Certificate *RawBytes    `json:"certificate,omitempty"`
	Entries     []*LogEntry  `json:"tlogEntries,omitempty"`
	Timestamps  *Rfc3161List `json:"timestampVerificationData,omitempty"`
}

// KeyHint points at a key.
type KeyHint struct {
	Hint string `json:"hint"`
}

// RawBytes is a certificate.
type RawBytes struct {
	Raw []byte `json:"rawBytes"`
}

// Rfc3161List holds time stamps.
type Rfc3161List struct {
	List []Rfc3161 `json:"rfc3161Timestamps"`
}

// Rfc3161 is a time stamp.
type Rfc3161 struct {
	Signed []byte `json:"signedTimestamp"`
}

// LogEntry is an entry of a transparency log. Numbers are text, as protobuf's JSON has them.
type LogEntry struct {
	Index   int64       `json:"logIndex,string"`
	Log     KeyID       `json:"logId"`
	Kind    KindVersion `json:"kindVersion"`
	Time    int64       `json:"integratedTime,string"`
	Promise *Promise    `json:"inclusionPromise,omitempty"`
	Proof   *Inclusion  `json:"inclusionProof,omitempty"`
	Body    []byte      `json:"canonicalizedBody"`
}

// KeyID names a log by its key.
type KeyID struct {
	ID []byte `json:"keyId"`
}

// KindVersion says how an entry's body is written.
type KindVersion struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

// Promise is a log's promise to take an entry in, with the time.
type Promise struct {
	SET []byte `json:"signedEntryTimestamp"`
}

// Inclusion proves that a log holds an entry.
type Inclusion struct {
	Index      int64      `json:"logIndex,string"`
	Root       []byte     `json:"rootHash"`
	Size       int64      `json:"treeSize,string"`
	Hashes     [][]byte   `json:"hashes"`
	Checkpoint Checkpoint `json:"checkpoint"`
}

// Checkpoint is a log's signed note about its tree.
type Checkpoint struct {
	Envelope string `json:"envelope"`
}

// Envelope is a DSSE envelope.
type Envelope struct {
	Payload     []byte              `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one signature of an envelope. A bundle has exactly one.
type EnvelopeSignature struct {
	Sig   []byte `json:"sig"`
	KeyID string `json:"keyid,omitempty"`
}

// MessageSignature is a signature of an artifact's bytes themselves.
type MessageSignature struct {
	Digest    MessageDigest `json:"messageDigest"`
	Signature []byte        `json:"signature"`
}

// MessageDigest is what a MessageSignature says it is about.
type MessageDigest struct {
	Algorithm string `json:"algorithm"`
	Digest    []byte `json:"digest"`
}

// SignMessage signs bytes themselves, such as a manifest's, in a bundle without an envelope.
func (k CosignKey) SignMessage(message []byte) (Bundle, error) {
	signature, err := k.sign(message)
	if err != nil {
		return Bundle{}, err
	}
	sum := sha256.Sum256(message)
	return Bundle{
		MediaType: BundleMediaType, Material: Material{PublicKey: &KeyHint{k.hint()}},
		Message: &MessageSignature{MessageDigest{"SHA2_256", sum[:]}, signature},
	}, nil
}

// SignCosign signs what a descriptor points at in the first form, and pushes the signature as cosign does: under a tag made of the digest.
func (k CosignKey) SignCosign(ctx context.Context, to oras.Target, name string, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	layer, err := k.SignLayer(SimpleSigning(name, subject.Digest))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return PushCosign(ctx, to, subject.Digest, layer)
}

// SignCosignBundle signs what a descriptor points at as cosign 3 does, and pushes the signature as a referrer.
func (k CosignKey) SignCosignBundle(ctx context.Context, to oras.Target, name string, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	bundle, err := k.SignBundle(Statement(CosignPredicate, name, subject.Digest))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return PushBundle(ctx, to, subject, bundle.JSON(), CosignPredicate)
}

// PushCosign pushes signatures of the first form, all of them in one manifest, under the tag sha256-….sig.
func PushCosign(ctx context.Context, to oras.Target, of digest.Digest, layers ...CosignLayer) (ocispec.Descriptor, error) {
	return pushLayers(ctx, to, CosignTag(of, "sig"), layers)
}

// PushCosignAttestations is PushCosign for attestations: the tag ends in .att.
func PushCosignAttestations(ctx context.Context, to oras.Target, of digest.Digest, layers ...CosignLayer) (ocispec.Descriptor, error) {
	return pushLayers(ctx, to, CosignTag(of, "att"), layers)
}

// CosignTag is the tag under which cosign looks for what belongs to a digest: "sig", "att".
func CosignTag(of digest.Digest, what string) string {
	return strings.ReplaceAll(of.String(), ":", "-") + "." + what
}

func pushLayers(ctx context.Context, to oras.Target, tag string, layers []CosignLayer) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("push %s: %w", tag, err)
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var ids []string
	for _, l := range layers {
		d := l.Descriptor()
		if err := push(ctx, to, d, l.Payload); err != nil {
			return fail(err)
		}
		manifest.Layers = append(manifest.Layers, d)
		ids = append(ids, d.Digest.String())
	}
	config := mustJSON(map[string]any{"architecture": "", "os": "", "created": "0001-01-01T00:00:00Z", "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	manifest.Config = content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config)
	if err := push(ctx, to, manifest.Config, config); err != nil {
		return fail(err)
	}
	body := mustJSON(manifest)
	d := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, body)
	if err := push(ctx, to, d, body); err != nil {
		return fail(err)
	}
	if err := to.Tag(ctx, d, tag); err != nil {
		return fail(err)
	}
	return d, nil
}

// PushBundle pushes a bundle as a referrer of its subject. What the manifest says of the predicate is the caller's: nobody may believe it.
func PushBundle(ctx context.Context, to oras.Target, subject ocispec.Descriptor, bundle []byte, predicateType string) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("push a bundle of %s: %w", subject.Digest, err)
	}
	layer := content.NewDescriptorFromBytes(BundleMediaType, bundle)
	if err := push(ctx, to, layer, bundle); err != nil {
		return fail(err)
	}
	if err := push(ctx, to, ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return fail(err)
	}
	config := ocispec.DescriptorEmptyJSON
	config.Data = nil
	body := mustJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: BundleMediaType,
		Config: config, Layers: []ocispec.Descriptor{layer},
		Subject:     &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{bundleContent: "dsse-envelope", bundlePredicate: predicateType},
	})
	d := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, body)
	if err := push(ctx, to, d, body); err != nil {
		return fail(err)
	}
	return d, nil
}

// push pushes what may be there already: equal bytes are one blob.
func push(ctx context.Context, to oras.Target, d ocispec.Descriptor, data []byte) error {
	d.Annotations, d.Data = nil, nil
	if err := to.Push(ctx, d, bytes.NewReader(data)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}

// mustJSON writes what this package composes of texts, numbers and bytes, all of which can be written.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
