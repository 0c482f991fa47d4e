// Package oci reads artifacts and their signatures from registries, on the assumption that registries lie, stall and flood.
package oci

import (
	"context"
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

// Signature is one signature, or what claims to be one.
type Signature struct {
	Format      Format
	Manifest    ocispec.Descriptor // of the manifest that carries it
	Layer       int                // which of its layers
	Blob        ocispec.Descriptor // of the layer: media type, digest, size, and annotations (cosign's signature, certificate, chain, bundle)
	Payload     []byte             // the layer's bytes: an envelope, a simple-signing document, a bundle
	Annotations map[string]string  // of the manifest
	From        string             // "referrers", "fallback tag" or ".sig tag"
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

// Error is a finding as an error.
type Error struct {
	Finding verdict.Finding
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return e.Finding.Message }

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }
