// Package oci reads artifacts and their signatures from registries, on the assumption that registries lie, stall and flood.
package oci

import (
	"context"
	"io"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Format is how a signature is written down.
type Format string

// The formats.
const (
	NotaryJWS      Format = "notary-jws"      // application/jose+json
	NotaryCOSE     Format = "notary-cose"     // application/cose
	CosignLegacy   Format = "cosign"          // a simple-signing layer under a .sig tag
	SigstoreBundle Format = "sigstore-bundle" // application/vnd.dev.sigstore.bundle.v0.3+json and its elder forms
)

// Artifact is what a reference was resolved to.
type Artifact struct {
	Canonical  ref.Reference      // the name that policies know, with the tag asked for
	Location   ref.Reference      // where it was found, with the digest
	Descriptor ocispec.Descriptor // digest, size and media type of the manifest, of the bytes served
	Manifest   []byte
	Children   []ocispec.Descriptor // of an index
}

// The places where signatures hang.
const (
	PlaceReferrers = "referrers"    // what the referrers API lists
	PlaceFallback  = "fallback tag" // the index under the tag sha256-<hex>, of registries without that API
	PlaceSigTag    = ".sig tag"     // the manifest under the tag sha256-<hex>.sig, where cosign 1 and 2 put signatures
)

// Signature is one signature, or what claims to be one.
type Signature struct {
	Format      Format
	Manifest    ocispec.Descriptor // of the manifest that carries it
	Layer       int                // which of its layers
	Blob        ocispec.Descriptor // of the layer: media type, digest, size, and annotations (cosign's signature, certificate, chain, bundle)
	Payload     []byte             // the layer's bytes: an envelope, a simple-signing document, a bundle
	Annotations map[string]string  // of the manifest
	From        string             // the place it was found at: PlaceReferrers, PlaceFallback or PlaceSigTag
}

// ID is how findings name a signature.
func (s Signature) ID() string {
	id := s.Manifest.Digest.String()
	if s.Layer > 0 {
		id += "#" + strconv.Itoa(s.Layer)
	}
	return id
}

// Signatures are what was found at an artifact.
type Signatures struct {
	Found  []Signature
	Broken []verdict.Finding // candidates that cannot even be read: each is a finding of its own
	Failed []verdict.Finding // places that could not be looked at: without any good signature, the outcome is Unknown
	Others int               // referrers that are no signatures (SBOMs, attestations, charts' provenance)
	Looked []string          // places that were looked at
}

// Source is where artifacts come from.
type Source interface {
	// Resolve resolves a reference once. What it returns is bound to the bytes served. The error is a *Error.
	Resolve(ctx context.Context, canonical, location ref.Reference) (Artifact, error)
	// Signatures finds what hangs on an artifact.
	Signatures(ctx context.Context, a Artifact) (Signatures, error)
}

// Attachment is a manifest that carries signatures, as it was served: what a copy must take along.
type Attachment struct {
	Descriptor ocispec.Descriptor
	Manifest   []byte
	From       string // the place it was found at
}

// Shelf is a Source whose content can be read as well: *Registry, *Layout.
type Shelf interface {
	Source
	// Attachments are the manifests of the signatures that hang on an artifact, and what Signatures says of the rest.
	Attachments(ctx context.Context, a Artifact) ([]Attachment, Signatures, error)
	// Fetch reads what a descriptor found in a verified document means, up to limit bytes, and compares digest and size. What
	// lies at the location is a manifest if the descriptor's media type says so, otherwise a blob.
	Fetch(ctx context.Context, at ref.Reference, d ocispec.Descriptor, limit int64) ([]byte, error)
	// Open streams a blob. Nothing is compared: whoever reads must.
	Open(ctx context.Context, at ref.Reference, d ocispec.Descriptor) (io.ReadCloser, error)
	// Labels are those of an image's configuration; of an index, of its first image. Nil where there is no image inside.
	Labels(ctx context.Context, a Artifact) (map[string]string, error)
}

// Error is a finding as an error.
type Error struct {
	Finding verdict.Finding
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return e.Finding.Message }

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }
