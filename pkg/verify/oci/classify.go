package oci

import (
	"encoding/json"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// The media types of signatures.
const (
	typeNotary       = "application/vnd.cncf.notary.signature"
	typeJWS          = "application/jose+json"
	typeCOSE         = "application/cose"
	typeSimple       = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeBundle       = "application/vnd.dev.sigstore.bundle" // and what follows: +json;version=0.1, .v0.3+json
	typeCosignSig    = "application/vnd.dev.cosign.artifact.sig.v1+json"
	noteThumbprints  = "io.cncf.notary.x509chain.thumbprint#S256"
	notePredicate    = "dev.sigstore.bundle.predicateType"
	predicateSigning = "https://sigstore.dev/cosign/sign/v1"
)

func isBundle(mediaType string) bool {
	rest, ok := strings.CutPrefix(mediaType, typeBundle)
	return ok && (strings.HasPrefix(rest, "+json") || strings.HasPrefix(rest, ".v"))
}

func formatOf(layer string) Format {
	switch {
	case layer == typeJWS:
		return NotaryJWS
	case layer == typeCOSE:
		return NotaryCOSE
	case layer == typeSimple:
		return CosignLegacy
	case isBundle(layer):
		return SigstoreBundle
	}
	return ""
}

// classify says which signatures a manifest carries, by what is in it: descriptors in lists are foreign hearsay, and one large
// registry calls everything application/vnd.oci.empty.v1+json there. None and no error means that it is something else.
func classify(data []byte, d ocispec.Descriptor, from string) ([]Signature, error) {
	doc, err := parse(data, d.MediaType)
	if err != nil {
		return nil, failf(verdict.Malformed, err, "holds %s, which cannot be read: it %s", d.Digest, err)
	}
	if doc.MediaType != ocispec.MediaTypeImageManifest && doc.MediaType != dockerManifest {
		return nil, nil
	}
	d.MediaType = doc.MediaType
	kind := doc.ArtifactType
	if doc.Config != nil && (kind == "" || doc.Config.MediaType == typeNotary) {
		kind = doc.Config.MediaType
	}
	var found []Signature
	notary := kind == typeNotary
	for i, layer := range doc.Layers {
		format := formatOf(layer.MediaType)
		if format == "" {
			continue
		}
		notary = notary || format == NotaryJWS || format == NotaryCOSE
		if !ref.IsDigest(layer.Digest.String()) || layer.Size <= 0 {
			return nil, failf(verdict.Malformed, nil, "holds %s, a signature whose layer %d has no SHA-256 digest or no size", d.Digest, i)
		}
		found = append(found, Signature{Format: format, Manifest: d, Layer: i, Blob: layer, Annotations: doc.Annotations, From: from})
	}
	switch {
	case notary && (len(doc.Layers) != 1 || len(found) != 1):
		return nil, failf(verdict.Malformed, nil, "holds %s, a Notary signature with %d layers where there must be one envelope", d.Digest, len(doc.Layers))
	case len(found) == 0 && (isBundle(kind) || kind == typeCosignSig || from == PlaceSigTag):
		return nil, failf(verdict.Malformed, nil, "holds %s, which claims to be a signature and has none inside", d.Digest)
	}
	return found, nil
}

// hints order what was found; they decide nothing else. All of them can be forged.
type hints struct{ prefer map[string]bool }

func hintsOf(prefer []string) hints {
	h := hints{map[string]bool{}}
	for _, p := range prefer {
		h.prefer[strings.ToLower(p)] = true
	}
	return h
}

// rank is lower for what is likelier to be the signature that is looked for.
func (h hints) rank(notes map[string]string, kind string) int {
	var chain []string
	if text := notes[noteThumbprints]; text != "" && len(text) < 64<<10 && json.Unmarshal([]byte(text), &chain) == nil {
		for _, thumbprint := range chain {
			if h.prefer[strings.ToLower(thumbprint)] {
				return 0
			}
		}
	}
	predicate := notes[notePredicate]
	switch {
	case predicate == predicateSigning:
		return 1
	case predicate != "":
		return 3
	case kind == typeNotary || kind == typeCosignSig || isBundle(kind) || formatOf(kind) != "":
		return 1
	case kind == "" || strings.HasPrefix(kind, "application/vnd.oci."):
		return 2 // says nothing
	}
	return 4
}
