package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// publicRegistry is where the stack's images are published.
const publicRegistry = "public.ecr.aws"

// resolver says what registries have. The engine bounds each look-up in time.
func resolver(source oci.Shelf, mirrors ref.Mirrors) install.ImageResolver {
	return install.ImageResolverFunc(func(ctx context.Context, reference string) (install.ImageInfo, error) {
		r, err := ref.Parse(reference)
		if err != nil {
			return install.ImageInfo{}, err
		}
		canonical := mirrors.Canonical(r.OrLatest())
		artifact, err := source.Resolve(ctx, canonical, mirrors.Locate(canonical))
		if err != nil {
			return install.ImageInfo{}, err
		}
		info := install.ImageInfo{Digest: artifact.Descriptor.Digest.String()}
		info.Labels, err = source.Labels(ctx, artifact)
		return info, err
	})
}

const (
	chartScheme = "oci://"
	// chartLayer is the media type of a packaged chart in a registry, by Helm's HIP 6.
	chartLayer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	maxChart   = 16 << 20 // ours has 100 KiB
)

// loadChart reads the chart that --chart names. One from a registry is verified before it is read, by the same policy as
// images, and read by the digest that was verified.
func (in *installer) loadChart(ctx context.Context) (fs.FS, error) {
	switch reference, remote := strings.CutPrefix(in.chart, chartScheme); {
	case in.chart == "":
		return in.f.Chart()
	case remote:
		return in.pullChart(ctx, reference)
	}
	info, err := os.Stat(in.chart)
	switch {
	case err != nil:
		return nil, &failure{class: "usage", reason: "--chart", err: err}
	case info.IsDir():
		return os.DirFS(in.chart), nil
	case info.Size() > maxChart:
		return nil, usage("--chart %s: it has %d bytes, of at most %d", in.chart, info.Size(), maxChart)
	}
	data, err := in.f.ReadFile(in.chart)
	if err != nil {
		return nil, &failure{class: "usage", reason: "--chart", err: err}
	}
	return install.ChartArchive(data)
}

func (in *installer) pullChart(ctx context.Context, reference string) (fs.FS, error) {
	r, err := ref.Parse(reference)
	if err != nil {
		return nil, &failure{class: "usage", reason: "--chart", err: err, advice: "for example oci://public.ecr.aws/nops/kubernetes-agent:0.1.0"}
	}
	v, err := in.f.verifier(&in.admit.trustFlags, in.source, nil)
	if err != nil {
		return nil, err
	}
	var files fs.FS
	err = in.step("chart", "Fetching the chart "+in.chart, func() (string, error) {
		report, err := v.Verify(ctx, []ref.Reference{r})
		if err != nil {
			return "", err
		}
		result := report.Results[0]
		said, enforced := result.Line(), in.admit.mode == string(verify.Enforce)
		switch {
		case enforced && !result.Passed():
			return "", &failure{class: "verification", reason: "nothing was changed: chart " + result.Reference + ": " + said, advice: result.Hint}
		case result.Digest == "":
			return "", &failure{class: "preflight", reason: "nothing was changed: chart " + result.Reference, err: errors.New(result.Message), advice: result.Hint}
		}
		if in.admission != nil && !result.Passed() {
			in.op.Observe(event.Warning{ID: warnChart, Message: "chart " + result.Reference + " is not verified: " + said, Hint: result.Hint})
		}
		if in.admission != nil {
			in.chartArtifact, _ = v.Admit(result, verify.Mode(in.admit.mode))
		}
		files, err = fetchChart(ctx, in.source, result.Artifact())
		if known := (*oci.Error)(nil); errors.As(err, &known) { // what the digest stands for is not what the registry serves, or nothing is
			class := "preflight"
			if enforced {
				class = "verification"
			}
			err = &failure{class: class, reason: "nothing was changed: chart " + result.Reference, err: err, advice: known.Finding.Reason.Hint()}
		}
		return result.Digest + ", " + said, err
	})
	return files, err
}

// fetchChart reads the chart in an artifact.
func fetchChart(ctx context.Context, source oci.Shelf, a oci.Artifact) (fs.FS, error) {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(a.Manifest, &manifest); err != nil {
		return nil, fmt.Errorf("chart %s: its manifest: %w", a.Location, err)
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType != chartLayer {
			continue
		}
		data, err := source.Fetch(ctx, a.Location, layer, maxChart)
		if err != nil {
			return nil, err
		}
		return install.ChartArchive(data)
	}
	return nil, &failure{class: "usage", reason: "--chart: " + a.Location.String() + " holds no Helm chart", advice: "name a chart that was pushed with helm push"}
}
