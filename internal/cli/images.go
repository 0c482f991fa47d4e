package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

func newImagesCommand(f *Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List the images of the stack, or copy them with their signatures",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImagesListCommand(f, nil), newImagesMirrorCommand(f, nil))
	return cmd
}

type imagesOptions struct {
	f       *Factory
	trust   trustFlags
	values  valueFlags
	show    faceFlags
	offline bool
	output  string
}

// imagesAnswer is the JSON of images list -o json.
type imagesAnswer struct {
	SchemaVersion int           `json:"schema_version"`
	Offline       bool          `json:"offline"` // no registry was asked: digests are those that this build knows
	Images        []listedImage `json:"images"`
	Error         *answerError  `json:"error,omitempty"`
}

type listedImage struct {
	Component string `json:"component,omitempty"`
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"`
	Outcome   string `json:"outcome,omitempty"` // of verification, where there is a policy
	Identity  string `json:"identity,omitempty"`
	Problem   string `json:"problem,omitempty"` // why there is no digest
}

func newImagesListCommand(f *Factory, runF func(context.Context, *imagesOptions) error) *cobra.Command {
	o := &imagesOptions{f: f}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List every image that install would install, with its digest",
		Long: `Renders the chart with the values given and lists every image in it with the digest that its registry gives now, and with
a policy also who signed it. It needs no cluster; with --offline it needs no registry either.`,
		Example: `  nopsctl images list
  nopsctl images list --offline -o json | jq -r '.images[].reference'
  nopsctl images list --set containerInsights.enabled=false`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return imagesListRun(cmd.Context(), o)
		},
	}
	o.trust.bind(cmd)
	o.trust.bindBundle(cmd)
	o.values.bind(cmd)
	o.show.bind(cmd)
	cmd.Flags().BoolVar(&o.offline, "offline", false, "ask no registry")
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func imagesListRun(ctx context.Context, o *imagesOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	answer := imagesAnswer{SchemaVersion: 1, Offline: o.offline, Images: []listedImage{}}
	op := o.f.operation("images list", clusterFlags{}, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() error { return o.list(ctx, op, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(error) { o.f.tellImages(o.f.IO.Out, answer) })
}

func (o *imagesOptions) list(ctx context.Context, op *operation, answer *imagesAnswer) error {
	if err := o.trust.read(o.f, nil); err != nil {
		return err
	}
	given, err := o.values.parse(ctx, o.f)
	if err != nil {
		return err
	}
	planned, images, err := o.f.chartImages(given)
	if err != nil {
		return err
	}
	for _, p := range planned {
		answer.Images = append(answer.Images, listedImage{Component: p.Component, Reference: p.Reference, Digest: p.Digest})
	}
	if o.offline {
		return nil
	}
	source, err := o.f.source(&o.trust)
	if err != nil {
		return err
	}
	v, err := o.f.verifier(&o.trust, source, nil)
	if err != nil {
		return err
	}
	report, err := o.f.verifyAll(ctx, v, op, images)
	if err != nil {
		return err
	}
	missing := 0
	for i, r := range report.Results {
		at := &answer.Images[i]
		at.Digest, at.Outcome, at.Identity = r.Digest, string(r.Outcome), r.Identity
		if r.Digest == "" {
			missing++
			at.Problem, at.Outcome = r.Message, ""
		}
	}
	if missing > 0 {
		return &failure{class: "preflight", reason: fmt.Sprintf("%d of %d images cannot be resolved", missing, len(images)), advice: "--registry-mirror names another registry, --offline asks none"}
	}
	return nil
}

func (f *Factory) tellImages(w io.Writer, answer imagesAnswer) {
	wide, name := 0, 0
	for _, i := range answer.Images {
		wide, name = max(wide, len(i.Reference)), max(name, len(i.Component))
	}
	s := f.styleOut()
	for _, i := range answer.Images {
		last := i.Digest
		if i.Problem != "" {
			last = s.Bad(i.Problem)
		}
		line := fmt.Sprintf("%-*s  %-*s  %s", name, i.Component, wide, i.Reference, last)
		if i.Outcome != "" {
			line += "  " + i.Outcome
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}

// chartImages are the images that install would install with these values, once each, and their references.
func (f *Factory) chartImages(given map[string]any) ([]install.PlannedImage, []ref.Reference, error) {
	chart, err := f.Chart()
	if err != nil {
		return nil, nil, err
	}
	planned, err := install.RenderedImages(chart, overlay(placeholders(), given))
	if err != nil {
		return nil, nil, err
	}
	var kept []install.PlannedImage
	var images []ref.Reference
	seen := map[string]bool{}
	for _, p := range planned {
		if seen[p.Reference] {
			continue
		}
		seen[p.Reference] = true
		r, err := ref.Parse(p.Reference)
		if err != nil {
			return nil, nil, &failure{class: "usage", err: err, advice: hintOf(err)}
		}
		kept, images = append(kept, p), append(images, r)
	}
	return kept, images, nil
}

// placeholders are what the chart does not render without, and what images do not follow from.
func placeholders() map[string]any {
	values := map[string]any{}
	for path, value := range map[string]string{
		"nops.apiKey": placeholder, "containerInsights.ampID": "ws-" + placeholder, "containerInsights.ampRegion": "us-east-1",
		"containerInsights.ampAccessKey": placeholder, "containerInsights.ampSecretKey": placeholder,
		"containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN": "arn:aws:eks:us-east-1:123456789012:cluster/" + placeholder,
	} {
		setPath(values, path, value)
	}
	return values
}
