package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/postrender"
	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/verify/extract"
)

// A pinner writes manifests anew with every image pinned to a digest. The plan's objects and what Helm applies go through
// the same one, and both are what it wrote: no document is passed on as it came, so that nothing can read it otherwise than
// it was read here.
type pinner struct {
	// pins are the images that were planned, as they are rendered, each with what is to run; empty: as it is rendered.
	pins map[string]string
	// lock is a document that goes before all others; nil: none.
	lock []byte
}

var _ postrender.PostRenderer = (*pinner)(nil)

// Run implements postrender.PostRenderer. Helm renders anew when the plan is applied; an image that was not there when it was
// planned was admitted by nobody, and stops it.
func (p *pinner) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	text, err := p.pin(rendered.String())
	if err != nil {
		return nil, err
	}
	return bytes.NewBufferString(text), nil
}

func (p *pinner) pin(manifest string) (string, error) {
	var out strings.Builder
	out.Write(p.lock)
	split := releaseutil.SplitManifests(manifest)
	names := sortedKeys(split)
	sort.Sort(releaseutil.BySplitManifestsOrder(names))
	for _, name := range names {
		content, err := decode(split[name])
		if err != nil {
			return "", err
		}
		if len(content) == 0 {
			continue
		}
		var unplanned []string
		for _, u := range extract.Find([]map[string]any{content}) {
			if _, planned := p.pins[u.Text]; u.Kind == extract.Image && !planned {
				unplanned = append(unplanned, u.Text)
			}
		}
		extract.Pin(content, p.pins)
		if len(unplanned) > 0 {
			return "", &Error{Class: ClassVerification, Reason: fmt.Sprintf("the chart renders %s now, and did not when it was planned", strings.Join(unplanned, ", ")),
				Advice: "a chart that renders other images each time cannot be verified; if only the cluster changed meanwhile, run the command again"}
		}
		data, err := yaml.Marshal(content)
		if err != nil {
			return "", fmt.Errorf("rendered manifest: %w", err)
		}
		out.WriteString("---\n")
		if source := sourceLine(split[name]); source != "" {
			out.WriteString(source + "\n")
		}
		out.Write(data)
	}
	return out.String(), nil
}

// sourceLine is the comment in which Helm names the template of a document.
func sourceLine(doc string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(doc), "\n")
	if strings.HasPrefix(first, "# Source: ") {
		return strings.TrimSpace(first)
	}
	return ""
}

// decode reads a document without changing its numbers.
func decode(doc string) (map[string]any, error) {
	var content map[string]any
	err := yaml.Unmarshal([]byte(doc), &content, func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d })
	if err != nil {
		return nil, fmt.Errorf("rendered manifest: %w", err)
	}
	return content, nil
}
