package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// Layout is a To: an OCI image layout on disk. One process writes it at a time.
type Layout struct {
	root  *os.Root
	dir   string
	mu    sync.Mutex // of the index
	index ocispec.Index
	temp  atomic.Int64
}

var _ To = (*Layout)(nil)

// part begins the names of files that are not complete.
const part = ".part-"

// layoutError is the disk's fault.
type layoutError struct {
	dir string
	err error
}

// Error implements error.
func (e *layoutError) Error() string { return "OCI layout " + e.dir + ": " + e.err.Error() }

// Unwrap implements errors.Unwrap.
func (e *layoutError) Unwrap() error { return e.err }

// ToLayout copies into a layout in a directory, which is made, or taken up where one is there. Close it after use.
func ToLayout(dir string) (*Layout, error) {
	l := &Layout{dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // images are no secrets, and whoever serves them may be another user
		return nil, l.fail(err)
	}
	var err error
	if l.root, err = os.OpenRoot(dir); err != nil {
		return nil, l.fail(err)
	}
	if err := l.open(); err != nil {
		_ = l.root.Close()
		return nil, l.fail(err)
	}
	return l, nil
}

// Close closes it.
func (l *Layout) Close() error { return l.root.Close() }

func (l *Layout) fail(err error) error {
	if err == nil {
		return nil
	}
	return &layoutError{l.dir, err}
}

func (l *Layout) open() error {
	l.index.SchemaVersion, l.index.MediaType, l.index.Manifests = 2, ocispec.MediaTypeImageIndex, []ocispec.Descriptor{}
	data, err := l.root.ReadFile(ocispec.ImageIndexFile)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &l.index); err != nil {
			return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default: // a directory of somebody else's is not written into
		entries, err := fs.ReadDir(l.root.FS(), ".")
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Name() {
			case ocispec.ImageLayoutFile, ocispec.ImageBlobsDir, "lost+found":
			default:
				return fmt.Errorf("there are other files in it (%s); name a directory of its own", e.Name())
			}
		}
	}
	if err := l.root.MkdirAll(path.Join(ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	parts, err := fs.Glob(l.root.FS(), path.Join(ocispec.ImageBlobsDir, part+"*"))
	if err != nil {
		return err
	}
	for _, left := range parts { // by a run that was cut off
		if err := l.root.Remove(left); err != nil {
			return err
		}
	}
	if data, err = json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	if err := l.write(ocispec.ImageLayoutFile, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return err
	}
	return l.save()
}

// write replaces a file in one step: whoever reads sees the old or the new, after a power cut as well.
func (l *Layout) write(name string, fill func(io.Writer) error) (err error) {
	temp := path.Join(ocispec.ImageBlobsDir, part+strconv.FormatInt(l.temp.Add(1), 10))
	f, err := l.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = l.root.Remove(temp)
		}
	}()
	if err := fill(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return l.root.Rename(temp, name)
}

func (l *Layout) save() error {
	data, err := json.MarshalIndent(l.index, "", "  ")
	if err != nil {
		return err
	}
	return l.write(ocispec.ImageIndexFile, func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err })
}

// Keep writes a file beside the index.
func (l *Layout) Keep(name string, write func(io.Writer) error) error {
	return l.fail(l.write(name, write))
}

// Read implements To.
func (l *Layout) Read(context.Context) (oci.Shelf, func(), error) {
	there, err := oci.OpenLayout(l.dir, oci.Options{})
	if err != nil {
		return nil, nil, err
	}
	return there, func() { _ = there.Close() }, nil
}

func blobPath(sum digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, sum.Algorithm().String(), sum.Encoded())
}

// Has implements To. A blob gets its name when it is complete and compared, not before.
func (l *Layout) Has(_ context.Context, _ ref.Reference, d ocispec.Descriptor) (bool, error) {
	about, err := l.root.Stat(blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, l.fail(err)
	}
	return about.Mode().IsRegular() && about.Size() == d.Size, nil
}

// PutBlob implements To.
func (l *Layout) PutBlob(_ context.Context, _ ref.Reference, d ocispec.Descriptor, content io.Reader) error {
	if err := l.root.MkdirAll(path.Dir(blobPath(d.Digest)), 0o755); err != nil {
		return l.fail(err)
	}
	return l.fail(l.write(blobPath(d.Digest), func(w io.Writer) error {
		_, err := io.Copy(w, content)
		return err
	}))
}

// PutManifest implements To.
func (l *Layout) PutManifest(_ context.Context, at ref.Reference, d ocispec.Descriptor, manifest []byte, tag string) (bool, error) {
	sent := false
	old, err := l.root.ReadFile(blobPath(d.Digest))
	if err != nil || digest.FromBytes(old) != d.Digest {
		if err := l.write(blobPath(d.Digest), func(w io.Writer) error { _, err := w.Write(manifest); return err }); err != nil {
			return false, l.fail(err)
		}
		sent = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.enter(at, d, manifest, tag) {
		return sent, nil
	}
	return true, l.fail(l.save())
}

// enter lists a manifest in the index: under its name where it has a tag, without a name where it is a signature, and not at all
// where an index names it already. It says whether the index has changed.
func (l *Layout) enter(at ref.Reference, d ocispec.Descriptor, manifest []byte, tag string) bool {
	var doc ocispec.Manifest
	if json.Unmarshal(manifest, &doc) == nil {
		d.ArtifactType = doc.ArtifactType
	}
	name := ""
	switch {
	case ref.IsDigest(tag):
	case tag != "":
		name = at.Name() + ":" + tag
		d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	case doc.Subject == nil:
		return false
	}
	var kept []ocispec.Descriptor
	for _, e := range l.index.Manifests {
		was := e.Annotations[ocispec.AnnotationRefName]
		if e.Digest == d.Digest && was == name {
			return false
		}
		if name == "" || was != name {
			kept = append(kept, e)
		}
	}
	kept = append(kept, d)
	l.index.Manifests = kept
	return true
}
