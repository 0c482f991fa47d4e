package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

// Media types of a Helm chart in a registry.
const (
	chartConfig  types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	chartContent types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// PushChart packs the chart at the root of a file system as `helm package` does and pushes it below a repository as
// `helm push` does, so that `helm upgrade -i … oci://HOST/REPOSITORY/NAME` finds it. It returns name, version and digest.
// The same chart has the same digest.
func (r Registry) PushChart(ctx context.Context, repository string, chart fs.FS) (name, version, digest string, err error) {
	text, err := fs.ReadFile(chart, "Chart.yaml")
	if err != nil {
		return "", "", "", fmt.Errorf("push a chart: %w", err)
	}
	var meta struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if err := yaml.Unmarshal(text, &meta); err != nil || meta.Name == "" || meta.Version == "" {
		return "", "", "", fmt.Errorf("push a chart: Chart.yaml holds no name and version: %w", err)
	}
	config, err := yaml.YAMLToJSON(text)
	if err != nil {
		return "", "", "", fmt.Errorf("push chart %s: %w", meta.Name, err)
	}
	packed, err := packChart(chart, meta.Name)
	if err != nil {
		return "", "", "", fmt.Errorf("push chart %s: %w", meta.Name, err)
	}
	image, err := partial.CompressedToImage(&artifact{config: config, layer: static.NewLayer(packed, chartContent)})
	if err != nil {
		return "", "", "", fmt.Errorf("push chart %s: %w", meta.Name, err)
	}
	digest, err = r.Push(ctx, path.Join(repository, meta.Name), meta.Version, image)
	return meta.Name, meta.Version, digest, err
}

// artifact is a chart as a manifest with one layer.
type artifact struct {
	config []byte
	layer  v1.Layer
}

var _ partial.CompressedImageCore = (*artifact)(nil)

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) { return a.config, nil }

// MediaType implements partial.CompressedImageCore.
func (*artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) {
	config := static.NewLayer(a.config, chartConfig)
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for _, part := range []struct {
		layer v1.Layer
		to    func(v1.Descriptor)
	}{
		{config, func(d v1.Descriptor) { m.Config = d }},
		{a.layer, func(d v1.Descriptor) { m.Layers = append(m.Layers, d) }},
	} {
		d, err := partial.Descriptor(part.layer)
		if err != nil {
			return nil, fmt.Errorf("describe the chart: %w", err)
		}
		part.to(*d)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("describe the chart: %w", err)
	}
	return text, nil
}

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(want v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range []v1.Layer{a.layer, static.NewLayer(a.config, chartConfig)} {
		if d, err := l.Digest(); err == nil && d == want {
			return l, nil
		}
	}
	return nil, fmt.Errorf("the chart has no layer %s", want)
}

// packChart is the tarball of a chart: its files below a directory of its name, in the order of their names.
func packChart(chart fs.FS, name string) ([]byte, error) {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	err := fs.WalkDir(chart, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(chart, file)
		if err != nil {
			return err //nolint:wrapcheck // names the file
		}
		if err := w.WriteHeader(&tar.Header{Name: path.Join(name, file), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return fmt.Errorf("pack %s: %w", file, err)
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("pack %s: %w", file, err)
		}
		return nil
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // names the file
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return buf.Bytes(), nil
}
