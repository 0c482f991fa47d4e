package oci

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// shelf is what registries and layouts have in common. What reads it trusts none of it.
type shelf interface {
	// manifest is what lies under a tag or a digest. It is compared with the digest asked for.
	manifest(ctx context.Context, at ref.Reference, reference string) (served, error)
	// blob reads at most limit bytes; the caller compares.
	blob(ctx context.Context, at ref.Reference, sum digest.Digest, limit int64) ([]byte, error)
	// referrers lists what says of itself that it belongs to the subject, at most so many; false where nobody keeps such lists.
	referrers(ctx context.Context, at ref.Reference, subject string, most int) ([]ocispec.Descriptor, bool, error)
	who(at ref.Reference) string
}

// served is a manifest as it came.
type served struct {
	data      []byte
	digest    digest.Digest // of the bytes
	mediaType string        // as the registry calls it; empty where it does not
}

// Media types beside those of the OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	orasManifest   = "application/vnd.cncf.oras.artifact.manifest.v1+json"
	ociArtifact    = "application/vnd.oci.artifact.manifest.v1+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

// IsManifest says whether a media type is that of an image manifest or an index.
func IsManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// document is a manifest of any kind.
type document struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// parse reads a manifest. Its media type is what its bytes say, not what a registry says of them: the bytes are what a digest
// binds. A document that could be read as an image and as an index is neither: two programs would run two things (CVE-2021-41190).
func parse(data []byte, said string) (document, error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return d, failf(verdict.RegistryOdd, err, "serves a manifest that is no JSON")
	}
	image, index := d.Config != nil || len(d.Layers) > 0, d.Manifests != nil
	if d.MediaType == "" {
		switch {
		case said == orasManifest || said == ociArtifact:
			d.MediaType = said
		case index:
			d.MediaType = ocispec.MediaTypeImageIndex
		case image:
			d.MediaType = ocispec.MediaTypeImageManifest
		}
	}
	switch {
	case image && index:
		return d, failf(verdict.RegistryOdd, nil, "serves a manifest that is both an image and an index")
	case d.MediaType == orasManifest || d.MediaType == ociArtifact:
		return d, nil
	case !IsManifest(d.MediaType):
		return d, failf(verdict.RegistryOdd, nil, "serves a manifest of the type %q, which nopsctl does not read", printable(d.MediaType))
	case isIndex(d.MediaType) != index, !isIndex(d.MediaType) && d.Config == nil:
		return d, failf(verdict.RegistryOdd, nil, "serves a manifest that is not what its media type says, %s", d.MediaType)
	case IsManifest(said) && said != d.MediaType:
		return d, failf(verdict.RegistryOdd, nil, "calls %s what calls itself %s", said, d.MediaType)
	}
	return d, nil
}

// resolve asks once. What comes back is hashed by us, and bound to the digest from then on.
func resolve(ctx context.Context, s shelf, canonical, location ref.Reference) (Artifact, error) {
	canonical, location = canonical.OrLatest(), location.OrLatest()
	fail := func(err error) (Artifact, error) {
		e := named(s.who(location), err)
		if e.Finding.Reason == verdict.NotFound {
			e.Finding.Message += ": " + location.String()
		}
		return Artifact{}, e
	}
	want := location.Digest
	if want == "" {
		want = canonical.Digest
	}
	if canonical.Digest != "" && want != canonical.Digest {
		return fail(failf(verdict.NotAReference, nil, "is asked for two digests at once, %s and %s", canonical.Digest, want))
	}
	if want == "" {
		want = location.Tag
	}
	got, err := s.manifest(ctx, location, want)
	if err != nil {
		return fail(err)
	}
	doc, err := parse(got.data, got.mediaType)
	if err != nil {
		return fail(err)
	}
	if !IsManifest(doc.MediaType) {
		return fail(failf(verdict.RegistryOdd, nil, "serves %s, which nothing runs", doc.MediaType))
	}
	for _, child := range doc.Manifests {
		if !ref.IsDigest(child.Digest.String()) || child.Size < 0 {
			return fail(failf(verdict.RegistryOdd, nil, "serves an index with an entry that has no SHA-256 digest or no size"))
		}
	}
	return Artifact{
		Canonical: canonical, Location: location.At(got.digest.String()), Manifest: got.data, Children: doc.Manifests,
		Descriptor: ocispec.Descriptor{MediaType: doc.MediaType, Digest: got.digest, Size: int64(len(got.data))},
	}, nil
}

// fetch reads what a descriptor means, and compares. The descriptor itself must come from a document that was compared.
func fetch(ctx context.Context, s shelf, at ref.Reference, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, failf(verdict.RegistryOdd, err, "serves a document with %q in the place of a digest", printable(d.Digest.String()))
	}
	if d.Size < 0 || d.Size > limit {
		return nil, failf(verdict.LimitReached, nil, "has %d bytes under %s, of at most %s", d.Size, d.Digest, size(limit))
	}
	var data []byte
	if IsManifest(d.MediaType) {
		got, err := s.manifest(ctx, at, d.Digest.String())
		if err != nil {
			return nil, missing(err, d)
		}
		data = got.data
	} else {
		var err error
		if data, err = s.blob(ctx, at, d.Digest, limit); err != nil {
			return nil, missing(err, d)
		}
	}
	if sum := d.Digest.Algorithm().FromBytes(data); sum != d.Digest {
		return nil, failf(verdict.RegistryLied, nil, "was asked for %s, and serves bytes with %s", d.Digest, sum)
	}
	if int64(len(data)) != d.Size {
		return nil, failf(verdict.Malformed, nil, "has %d bytes under %s, where %d are announced", len(data), d.Digest, d.Size)
	}
	return data, nil
}

// missing says what is missing: not the image, but something inside it.
func missing(err error, d ocispec.Descriptor) error {
	if reasonAt(err) == verdict.NotFound {
		return failf(verdict.NotFound, err, "does not have %s, which it lists", d.Digest)
	}
	return err
}

// labels are those of an image's configuration. All platforms of an image are one build; any of them tells whose.
func labels(ctx context.Context, s shelf, a Artifact, l Limits) (map[string]string, error) {
	fail := func(err error) (map[string]string, error) { return nil, named(s.who(a.Location), err) }
	data := a.Manifest
	for _, child := range a.Children {
		if child.Platform != nil && child.Platform.OS == "unknown" || !IsManifest(child.MediaType) || isIndex(child.MediaType) {
			continue // what build tools attach: provenance, SBOMs
		}
		var err error
		if data, err = fetch(ctx, s, a.Location, child, l.Manifest); err != nil {
			return fail(err)
		}
		break
	}
	doc, err := parse(data, "")
	if err != nil {
		return fail(err)
	}
	if doc.Config == nil {
		return nil, nil // an index of no images
	}
	config := *doc.Config
	if IsManifest(config.MediaType) {
		return fail(failf(verdict.RegistryOdd, nil, "serves a manifest whose configuration is a manifest"))
	}
	if data, err = fetch(ctx, s, a.Location, config, l.Manifest); err != nil {
		return fail(err)
	}
	var image struct {
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(data, &image); err != nil {
		if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
			return fail(failf(verdict.RegistryOdd, err, "serves a configuration that is no JSON"))
		}
		return nil, nil // of something else than an image
	}
	return image.Config.Labels, nil
}
