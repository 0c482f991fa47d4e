package cli

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/mirror"
	"github.com/nopsctl/nopsctl/pkg/verify/notary"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// layoutScheme is how a directory that is an OCI image layout is told from a registry.
const layoutScheme = "oci:"

type mirrorOptions struct {
	f      *Factory
	admit  admitFlags
	values valueFlags
	show   faceFlags
	to     string
	from   string
	images []string
	print  bool
	output string
}

// mirrorAnswer is the JSON of images mirror -o json.
type mirrorAnswer struct {
	SchemaVersion int             `json:"schema_version"`
	To            string          `json:"to"`
	Images        []mirroredImage `json:"images"`
	Evidence      string          `json:"evidence,omitempty"` // file with what is known of revocation, in a layout
	Error         *answerError    `json:"error,omitempty"`
}

type mirroredImage struct {
	Reference  string `json:"reference"`
	To         string `json:"to"`
	Digest     string `json:"digest,omitempty"`
	Outcome    string `json:"outcome,omitempty"` // of verification, where there is a policy
	Signatures int    `json:"signatures"`        // that are there now
	Sent       int64  `json:"sent_bytes"`
	Present    int64  `json:"present_bytes"` // that were there before
	Problem    string `json:"problem,omitempty"`
}

func newImagesMirrorCommand(f *Factory, runF func(context.Context, *mirrorOptions) error) *cobra.Command {
	o := &mirrorOptions{f: f}
	cmd := &cobra.Command{
		Use:   "mirror [IMAGE...] --to REGISTRY[/PREFIX] | --to oci:DIR",
		Short: "Copy the images, with their signatures, to a registry or a directory",
		Long: `Copies every image that install would install, or those given, with the signatures that hang on them, to a registry of
yours or into a directory (an OCI image layout) that can be carried to where no network is. Digests stay as they are, so what
verifies before verifies after; what is there already is not sent again.

With a policy, images are verified first, and what does not pass is not copied. Into a directory goes besides what AWS says
about revocation now (nopsctl-evidence.json), which a policy can name where AWS cannot be asked.

Afterwards: nopsctl install --registry-mirror public.ecr.aws=REGISTRY/PREFIX`,
		Example: `  nopsctl images mirror --to registry.example.com/nops-mirror
  nopsctl images mirror --to oci:./bundle                                  for a site without a way out
  nopsctl images mirror --from oci:./bundle --to registry.example.com      and there
  nopsctl images mirror --to registry.example.com --print                  what would be copied, for other tools`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.images = args
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return mirrorRun(cmd.Context(), o)
		},
	}
	o.admit.trustFlags.bind(cmd)
	o.admit.bindBundle(cmd)
	o.admit.bindMode(cmd)
	o.values.bind(cmd)
	o.show.bind(cmd)
	cmd.Flags().StringVar(&o.to, "to", "", "where to: REGISTRY[/PREFIX], or oci:DIR")
	cmd.Flags().StringVar(&o.from, "from", "", "take images from oci:DIR instead of their registries")
	cmd.Flags().BoolVar(&o.print, "print", false, "print what would be copied, one pair a line, and copy nothing")
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func mirrorRun(ctx context.Context, o *mirrorOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	answer := mirrorAnswer{SchemaVersion: 1, To: o.to, Images: []mirroredImage{}}
	op := o.f.operation("images mirror", clusterFlags{}, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() error { return o.mirror(ctx, op, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(error) { o.tell(o.f.IO.Out, answer) })
}

func (o *mirrorOptions) mirror(ctx context.Context, op *operation, answer *mirrorAnswer) error {
	if o.to == "" {
		return usageHint("--to registry.example.com/prefix, or --to oci:DIR", "--to is missing: nobody says where to")
	}
	if err := o.admit.read(o.f, nil); err != nil {
		return err
	}
	source, done, err := o.open()
	if err != nil {
		return err
	}
	defer done()
	images, err := o.subjects(ctx, source)
	if err != nil {
		return err
	}
	items, err := o.items(images)
	if err != nil {
		return err
	}
	for _, i := range items {
		answer.Images = append(answer.Images, mirroredImage{Reference: i.Canonical.String(), To: i.To.String()})
	}
	if o.print {
		return nil
	}
	if err := o.verify(ctx, op, source, images, answer); err != nil {
		return err
	}
	for i := range items { // what was verified is what is copied, whatever the tag means by now
		if d := answer.Images[i].Digest; d != "" {
			items[i].From = items[i].From.At(d)
		}
	}
	return o.copy(ctx, op, source, items, answer)
}

// open is where images are read.
func (o *mirrorOptions) open() (oci.Shelf, func(), error) {
	dir, layout := strings.CutPrefix(o.from, layoutScheme)
	switch {
	case o.from == "":
		source, err := o.f.source(&o.admit.trustFlags)
		return source, func() {}, err
	case !layout:
		return nil, nil, usageHint("a registry that serves copies is named with --registry-mirror", "--from %s: expected oci:DIR", o.from)
	}
	l, err := oci.OpenLayout(dir, oci.Options{})
	if err != nil {
		return nil, nil, &failure{class: "usage", reason: "--from", err: err}
	}
	return l, func() { _ = l.Close() }, nil
}

// subjects are the images given, else all of a layout, else those of the chart.
func (o *mirrorOptions) subjects(ctx context.Context, source oci.Shelf) ([]ref.Reference, error) {
	if len(o.images) > 0 {
		return references(o.images)
	}
	if l, ok := source.(*oci.Layout); ok {
		return l.References(), nil
	}
	given, err := o.values.parse(ctx, o.f)
	if err != nil {
		return nil, err
	}
	_, images, err := o.f.chartImages(given)
	return images, err
}

// items say what goes where. In a registry names keep their repository, so that one mirror maps them all.
func (o *mirrorOptions) items(images []ref.Reference) ([]mirror.Item, error) {
	var items []mirror.Item
	registries := map[string]bool{}
	_, layout := strings.CutPrefix(o.to, layoutScheme)
	for _, r := range images {
		canonical := o.admit.mirrored.Canonical(r.OrLatest())
		item := mirror.Item{Canonical: canonical, From: o.admit.mirrored.Locate(canonical), To: canonical}
		if !layout {
			to, err := ref.Parse(strings.TrimSuffix(o.to, "/") + "/" + canonical.Repository)
			if err != nil || strings.Contains(o.to, "://") || to.Registry != strings.SplitN(o.to, "/", 2)[0] {
				return nil, usageHint("for example --to registry.example.com/prefix, without a scheme", "--to %s: it is no registry", o.to)
			}
			to.Tag, to.Digest = canonical.Tag, canonical.Digest
			item.To = to
			registries[canonical.Registry] = true
		}
		items = append(items, item)
	}
	if len(registries) > 1 {
		var names []string
		for name := range registries {
			names = append(names, name)
		}
		sort.Strings(names)
		return nil, usageHint("copy those of one registry at a time, each to a prefix of its own, and name each with --registry-mirror", "images come from several registries (%s), and one mirror stands for one", strings.Join(names, ", "))
	}
	return items, nil
}

// verify holds the images against the policy: what does not pass is not copied.
func (o *mirrorOptions) verify(ctx context.Context, op *operation, source oci.Shelf, images []ref.Reference, answer *mirrorAnswer) error {
	if o.admit.collected == nil {
		op.Observe(event.Warning{ID: warnUnverified, Message: "images are copied as they are: no policy says who must have signed them", Hint: "name one with --policy FILE"})
		return nil
	}
	o.admit.tellPolicy(op)
	if strings.HasPrefix(o.to, layoutScheme) {
		o.admit.record = &notary.Recorder{}
	}
	v, err := o.f.verifier(&o.admit.trustFlags, source, nil)
	if err != nil {
		return err
	}
	report, err := o.f.verifyAll(ctx, v, op, images)
	if err != nil {
		return err
	}
	for i, r := range report.Results {
		answer.Images[i].Digest, answer.Images[i].Outcome = r.Digest, string(r.Outcome)
		if !r.Passed() {
			answer.Images[i].Problem = r.Line()
		}
	}
	if o.admit.mode == string(verify.Enforce) {
		return notVerified(report)
	}
	return nil
}

func (o *mirrorOptions) copy(ctx context.Context, op *operation, source oci.Shelf, items []mirror.Item, answer *mirrorAnswer) error {
	var to mirror.To
	options := mirror.Options{}
	if dir, layout := strings.CutPrefix(o.to, layoutScheme); layout {
		l, err := mirror.ToLayout(dir)
		if err != nil {
			return &failure{class: "usage", reason: "--to", err: err}
		}
		defer l.Close()
		to = l
		if o.admit.record != nil {
			options.Evidence = func(_ context.Context, w io.Writer, _ []mirror.Copied) error {
				data, err := o.admit.record.Evidence().JSON()
				if err == nil {
					_, err = w.Write(data)
				}
				return err //nolint:wrapcheck // the copy says what it was doing
			}
		}
	} else {
		registry, err := o.f.source(&o.admit.trustFlags)
		if err != nil {
			return err
		}
		r, ok := registry.(*oci.Registry)
		if !ok {
			return fmt.Errorf("--to %s: not a registry that can be written", o.to)
		}
		to = mirror.ToRegistry(r)
	}
	start := o.f.Now()
	title := "Copying " + count(len(items), "image") + " to " + o.to
	op.Observe(event.StepStarted{Step: "copy", Title: title})
	report, err := mirror.Copy(ctx, source, to, items, options)
	if err == nil && options.Evidence != nil {
		answer.Evidence = mirror.EvidenceFile
	}
	finished := event.StepFinished{Step: "copy", Title: title, Outcome: event.OK, Duration: o.f.Now().Sub(start)}
	failed := 0
	for i, c := range report.Copied {
		at := &answer.Images[i]
		at.Signatures, at.Sent, at.Present = len(c.Signatures), c.Sent, c.Present
		if d := c.Artifact.Descriptor.Digest.String(); d != "" {
			at.Digest = d
		}
		if c.Err != nil {
			failed++
			at.Problem = c.Err.Error()
		}
	}
	switch {
	case err != nil && (failed == 0 || ctx.Err() != nil):
		finished.Outcome, finished.Message = event.Failed, err.Error()
	case failed > 0:
		finished.Outcome = event.Failed
		err = &failure{class: "failed", reason: fmt.Sprintf("%d of %d images were not copied; the first: %s", failed, len(items), firstProblem(answer.Images)), advice: "run it again: what is there is not sent again"}
	}
	op.Observe(finished)
	return err
}

func firstProblem(images []mirroredImage) string {
	for _, i := range images {
		if i.Problem != "" {
			return i.Reference + ": " + i.Problem
		}
	}
	return ""
}

func (o *mirrorOptions) tell(w io.Writer, answer mirrorAnswer) {
	s := o.f.styleOut()
	for _, i := range answer.Images {
		switch {
		case o.print:
			fmt.Fprintf(w, "%s %s\n", i.Reference, i.To)
		case i.Problem != "" && i.Sent+i.Present > 0:
			fmt.Fprintf(w, "%s %s  %s  copied all the same, with %s\n      %s\n", s.Sign(event.Warned), i.Reference, s.Dim(shortDigest(i.Digest)), count(i.Signatures, "signature"), i.Problem)
		case i.Problem != "":
			fmt.Fprintf(w, "%s %s\n      %s\n", s.Sign(event.Failed), i.Reference, i.Problem)
		case i.Sent+i.Present > 0 && !o.show.quiet:
			fmt.Fprintf(w, "%s %s  %s  %s, %s\n", s.Sign(event.OK), i.Reference, s.Dim(shortDigest(i.Digest)), count(i.Signatures, "signature"), moved(i.Sent, i.Present))
		}
	}
	if answer.Evidence != "" && !o.print && !o.show.quiet {
		fmt.Fprintf(w, "\nWhat is known of revocation is in %s/%s; where AWS cannot be asked, a policy names it: trust.awsSigner.evidenceFile.\n", strings.TrimPrefix(o.to, layoutScheme), answer.Evidence)
	}
}

// moved says how much was sent, and how much did not have to be.
func moved(sent, present int64) string {
	const mib = 1 << 20
	text := fmt.Sprintf("%.1f MiB sent", float64(sent)/mib)
	if present > 0 {
		text += fmt.Sprintf(", %.1f MiB were there", float64(present)/mib)
	}
	return text
}
