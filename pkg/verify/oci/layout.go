package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Layout reads an OCI image layout on disk, such as a copy made for a site without a way out. It is trusted no more than a
// registry: it came on somebody's stick.
//
// One layout holds many repositories. An entry of its index is named by the whole reference, as oras and containerd name them.
type Layout struct {
	root    *os.Root
	dir     string
	entries []ocispec.Descriptor
	limits  Limits
	prefer  []string
}

var _ Shelf = (*Layout)(nil)

const (
	maxLayoutIndex = 32 << 20
	containerdName = "io.containerd.image.name"
)

// OpenLayout opens one. Of the options, Prefer and Limits count. Close it after use.
func OpenLayout(dir string, o Options) (*Layout, error) {
	root, err := os.OpenRoot(dir) // links in it lead nowhere else
	if err != nil {
		return nil, fmt.Errorf("OCI layout: %w", err)
	}
	l := &Layout{root: root, dir: dir, limits: o.Limits.orDefault(), prefer: o.Prefer}
	if err := l.index(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	return l, nil
}

// Close closes it.
func (l *Layout) Close() error { return l.root.Close() }

func (l *Layout) index() error {
	var layout ocispec.ImageLayout
	data, err := l.file(ocispec.ImageLayoutFile, 4<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no file %s in it", ocispec.ImageLayoutFile)
	case err != nil:
		return err
	case json.Unmarshal(data, &layout) != nil || layout.Version != ocispec.ImageLayoutVersion:
		return fmt.Errorf("%s does not say version %s", ocispec.ImageLayoutFile, ocispec.ImageLayoutVersion)
	}
	if data, err = l.file(ocispec.ImageIndexFile, maxLayoutIndex); err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("%s is no JSON: %w", ocispec.ImageIndexFile, err)
	}
	if index.SchemaVersion != 2 {
		return fmt.Errorf("%s does not say schemaVersion 2", ocispec.ImageIndexFile)
	}
	l.entries = index.Manifests
	return nil
}

func (l *Layout) file(name string, limit int64) ([]byte, error) {
	f, err := l.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if about, err := f.Stat(); err != nil || !about.Mode().IsRegular() {
		return nil, failf(verdict.RegistryOdd, err, "has no file at %s", printable(name))
	}
	return readUpTo(f, limit, "a file")
}

func (l *Layout) who(ref.Reference) string { return "OCI layout " + l.dir }

// References are the names in the layout, sorted.
func (l *Layout) References() []ref.Reference {
	var all []ref.Reference
	for _, e := range l.entries {
		r, err := ref.Parse(nameOf(e))
		if err != nil || !strings.Contains(nameOf(e), "/") || r.Tag == "" || strings.HasPrefix(r.Tag, "sha256-") {
			continue
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b ref.Reference) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

func nameOf(d ocispec.Descriptor) string {
	if name := d.Annotations[containerdName]; name != "" {
		return name
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// Resolve implements Source. An image is looked for under its canonical name, then under the other.
func (l *Layout) Resolve(ctx context.Context, canonical, location ref.Reference) (Artifact, error) {
	a, err := resolve(ctx, l, canonical, canonical.At(location.Digest))
	if reasonOf(err) == verdict.NotFound && location.Name() != canonical.Name() {
		if b, err := resolve(ctx, l, canonical, location); err == nil {
			return b, nil
		}
	}
	return a, err
}

// Signatures implements Source.
func (l *Layout) Signatures(ctx context.Context, a Artifact) (Signatures, error) {
	return signatures(ctx, l, a, l.limits, l.prefer)
}

// Attachments implements Shelf.
func (l *Layout) Attachments(ctx context.Context, a Artifact) ([]Attachment, Signatures, error) {
	d := discover(ctx, l, a, l.limits, l.prefer)
	return d.attachments(), d.found, nil
}

// Fetch implements Shelf.
func (l *Layout) Fetch(ctx context.Context, at ref.Reference, d ocispec.Descriptor, limit int64) ([]byte, error) {
	data, err := fetch(ctx, l, at, d, limit)
	if err != nil {
		return nil, named(l.who(at), err)
	}
	return data, nil
}

// Labels implements Shelf.
func (l *Layout) Labels(ctx context.Context, a Artifact) (map[string]string, error) {
	return labels(ctx, l, a, l.limits)
}

// Open implements Shelf.
func (l *Layout) Open(_ context.Context, at ref.Reference, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, named(l.who(at), err)
	}
	f, err := l.root.Open(blobPath(d.Digest))
	if err != nil {
		return nil, named(l.who(at), notFound(err))
	}
	return f, nil
}

func blobPath(sum digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, sum.Algorithm().String(), sum.Encoded())
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return failf(verdict.NotFound, err, "has no such image")
	}
	return err
}

// manifest implements shelf.
func (l *Layout) manifest(ctx context.Context, at ref.Reference, reference string) (served, error) {
	if err := ctx.Err(); err != nil {
		return served{}, err
	}
	d := ocispec.Descriptor{Digest: digest.Digest(reference)}
	if !ref.IsDigest(reference) {
		var err error
		if d, err = l.named(at, reference); err != nil {
			return served{}, err
		}
	}
	data, err := l.file(blobPath(d.Digest), l.limits.Manifest)
	if err != nil {
		return served{}, notFound(err)
	}
	s := served{data: data, digest: digest.FromBytes(data), mediaType: d.MediaType}
	if s.digest != d.Digest {
		return served{}, failf(verdict.RegistryLied, nil, "has other bytes under %s: they have %s", d.Digest, s.digest)
	}
	return s, nil
}

// named finds an entry of the index. The last counts, as a later copy was added behind. Names that are a tag alone, as some
// tools write them, count where there is none with a repository: then the layout holds one repository.
func (l *Layout) named(at ref.Reference, tag string) (ocispec.Descriptor, error) {
	full, bare := at.Name()+":"+tag, true
	var found *ocispec.Descriptor
	for i, e := range l.entries {
		name := nameOf(e)
		bare = bare && !strings.Contains(name, "/")
		if name == full {
			found = &l.entries[i]
		}
	}
	if found == nil && bare {
		for i, e := range l.entries {
			if nameOf(e) == tag {
				found = &l.entries[i]
			}
		}
	}
	switch {
	case found == nil:
		return ocispec.Descriptor{}, failf(verdict.NotFound, nil, "has no such image")
	case !ref.IsDigest(found.Digest.String()):
		return ocispec.Descriptor{}, failf(verdict.RegistryOdd, nil, "gives %s a digest that is not SHA-256", full)
	}
	return *found, nil
}

// blob implements shelf.
func (l *Layout) blob(ctx context.Context, _ ref.Reference, sum digest.Digest, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := l.file(blobPath(sum), limit)
	if err != nil {
		return nil, notFound(err)
	}
	return data, nil
}

// referrers implements shelf: whatever the index lists that names the subject as its own.
func (l *Layout) referrers(ctx context.Context, _ ref.Reference, subject string, most int) ([]ocispec.Descriptor, bool, error) {
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, e := range l.entries {
		if err := ctx.Err(); err != nil {
			return all, true, err
		}
		if e.MediaType != ocispec.MediaTypeImageManifest || seen[e.Digest] || !ref.IsDigest(e.Digest.String()) {
			continue
		}
		seen[e.Digest] = true
		data, err := l.file(blobPath(e.Digest), l.limits.Manifest)
		if err != nil {
			continue // an image that nobody asked for
		}
		var doc document
		if json.Unmarshal(data, &doc) != nil || doc.Subject == nil || doc.Subject.Digest.String() != subject {
			continue
		}
		if len(all) == most {
			return all, true, failf(verdict.LimitReached, nil, "lists more than %d referrers", most)
		}
		e.Size, e.ArtifactType = int64(len(data)), doc.ArtifactType
		if e.ArtifactType == "" && doc.Config != nil {
			e.ArtifactType = doc.Config.MediaType
		}
		e.Annotations = doc.Annotations
		all = append(all, e)
	}
	return all, true, nil
}
