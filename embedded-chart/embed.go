// Package embeddedchart carries the chart inside the binary.
//
// The pattern is "all:chart": plain "chart" silently leaves out _helpers.tpl and .helmignore (golang/go#44393).
package embeddedchart

import (
	"embed"
	"fmt"
	"io/fs"

	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var files embed.FS

// FS is the chart, rooted at its directory: Chart.yaml is at the top.
func FS() (fs.FS, error) {
	root, err := fs.Sub(files, "chart")
	if err != nil {
		return nil, fmt.Errorf("embedded chart: %w", err)
	}
	return root, nil
}

// Image is what a component runs.
type Image struct {
	// Available says whether the component is part of this release.
	Available bool `json:"available"`
	// Ours says that the program is built from this repository, so that another image of the same name is refused.
	Ours bool `json:"ours,omitempty"`
	// Toggle is the value that switches the component, without ".enabled"; empty: always on.
	Toggle string `json:"toggle,omitempty"`
	// External says that only its vendor publishes it: it cannot be built from this repository.
	External bool `json:"external,omitempty"`
	// Values is the path in the chart's values where a user may change the image.
	Values string `json:"values,omitempty"`
	// Flat says that the image stands there as repository, imageTag and imageDigest, as in charts of 2024.
	Flat bool `json:"flat,omitempty"`
	// PublishedTags are other tags that the published documentation pins; a registry of ours serves the image under them too.
	PublishedTags []string `json:"publishedTags,omitempty"`
	// Repository, Tag and Digest ("sha256:…", empty until a release pins it) make the reference.
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest,omitempty"`
}

// Images is the list of images, by component.
func Images() (map[string]Image, error) {
	data, err := files.ReadFile("chart/files/images.yaml")
	if err != nil {
		return nil, fmt.Errorf("embedded image list: %w", err)
	}
	var list struct {
		Components map[string]Image `json:"components"`
	}
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		return nil, fmt.Errorf("embedded image list: %w", err)
	}
	return list.Components, nil
}
