// Package images makes container images out of static programs: no shell, no package manager, a nobody user, a bundle of
// certificates, and the same digest for the same content.
package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Source is the label by which preflight tells our builds of the agents from others.
const Source = "https://github.com/nopsctl/nopsctl"

// Nobody is the user and group that our images run as.
const Nobody = "65534:65534"

// Spec says what goes into an image.
type Spec struct {
	Repository string // without registry: "nops/k8s-heartbeat-agent"
	Tag        string
	Version    string // for the version label; empty: the tag. An image under several tags is one image
	Program    string // path of the static binary on this machine
	Name       string // its name in the image; the entrypoint is /Name
	Bundle     []byte // certificates for /etc/ssl/certs/ca-certificates.crt; none when empty
	Ours       bool   // carries the source label
	Revision   string // optional: commit it was built from
	Arch       string // of the program; empty: this machine's
}

// Build makes the image. Time stamps are fixed, so the digest follows from the content alone.
func Build(s Spec) (v1.Image, error) {
	program, err := os.ReadFile(s.Program)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.Repository, err)
	}
	base := []file{
		{name: "tmp", mode: 0o1777, dir: true},
		{name: "etc", mode: 0o755, dir: true},
		{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n")},
		{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{name: "etc/nsswitch.conf", mode: 0o644, data: []byte("hosts: files dns\n")},
	}
	if len(s.Bundle) > 0 {
		base = append(base,
			file{name: "etc/ssl", mode: 0o755, dir: true}, file{name: "etc/ssl/certs", mode: 0o755, dir: true},
			file{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: s.Bundle})
	}
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, files := range [][]file{base, {{name: s.Name, mode: 0o755, data: program}}} {
		layer, err := layer(files)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", s.Repository, err)
		}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer}); err != nil {
			return nil, fmt.Errorf("image %s: %w", s.Repository, err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s.Repository, err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = s.arch(), "linux"
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config.Entrypoint = []string{"/" + s.Name}
	config.Config.User = Nobody
	config.Config.WorkingDir = "/"
	config.Config.Env = []string{"PATH=/", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"}
	config.Config.Labels = map[string]string{"org.opencontainers.image.title": filepath.Base(s.Repository), "org.opencontainers.image.version": s.version()}
	if s.Ours {
		config.Config.Labels["org.opencontainers.image.source"] = Source
	}
	if s.Revision != "" {
		config.Config.Labels["org.opencontainers.image.revision"] = s.Revision
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, fmt.Errorf("image %s: %w", s.Repository, err)
	}
	return image, nil
}

func (s Spec) version() string {
	if s.Version != "" {
		return s.Version
	}
	return s.Tag
}

func (s Spec) arch() string {
	if s.Arch != "" {
		return s.Arch
	}
	return runtime.GOARCH
}

type file struct {
	name string
	mode int64
	dir  bool
	data []byte
}

func layer(files []file) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if f.dir {
			h.Typeflag, h.Name = tar.TypeDir, f.name+"/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return tarball.LayerFromOpener(opener(buf.Bytes()), tarball.WithCompressionLevel(1), tarball.WithMediaType(types.OCILayer)) //nolint:wrapcheck // named by the caller
}

// Export writes an image as a tarball that containerd imports under the given name.
func Export(path, ref string, image v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("export %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		return fmt.Errorf("export %s: %w", ref, err)
	}
	return nil
}
