package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

type verifyOptions struct {
	f       *Factory
	cluster clusterFlags
	trust   trustFlags
	values  valueFlags
	show    faceFlags
	images  []string
	running bool
	lock    string
	output  string
}

// verifyAnswer is the JSON of verify -o json: the report, as far as it came.
type verifyAnswer struct {
	verify.Report
	Of    string       `json:"of"` // what was verified: "images", "chart", "release" or "running"
	Error *answerError `json:"error,omitempty"`
}

func newVerifyCommand(f *Factory, runF func(context.Context, *verifyOptions) error) *cobra.Command {
	o := &verifyOptions{f: f}
	cmd := &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Check who signed the images: of a release, of what runs, or any",
		Long: `Resolves images to digests and checks their signatures (AWS Signer and other Notary Project signatures, cosign) against
your policy. Without arguments it checks what install would install now; with --release what the release declares; with
--running what its pods run, by the digests that their nodes report.

Nobody is trusted that the policy does not name: there is no built-in identity. Exit code 7 when anything is not verified,
whatever the cause: unsigned, untrusted, revoked, or impossible to check are told apart in the table and in JSON, and none
of them passes.`,
		Example: `  nopsctl verify --policy policy.yaml
  nopsctl verify --running
  nopsctl verify public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0
  nopsctl verify -o json | jq '.results[] | select(.outcome != "verified") | {reference, outcome, reason}'
  nopsctl verify inspect IMAGE                   who signed, without trusting anybody
  nopsctl verify example-policy > policy.yaml    a policy to begin with`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.images = args
			o.cluster.given = cmd.Flags().Changed("release")
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return verifyRun(cmd.Context(), o)
		},
	}
	o.trust.bind(cmd)
	o.trust.bindBundle(cmd)
	o.cluster.bind(cmd)
	cmd.Flags().Lookup("release").NoOptDefVal = defaultRelease
	cmd.Flags().Lookup("release").Usage = "verify what the installed release declares; --release=NAME for another name"
	o.values.bind(cmd)
	o.show.bind(cmd)
	cmd.Flags().BoolVar(&o.running, "running", false, "verify what the release's pods run, by the digests that their nodes report")
	cmd.Flags().StringVar(&o.lock, "write-lock", "", "write what was verified to this file, for install --lock")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	cmd.AddCommand(newInspectCommand(f, nil), newExamplePolicyCommand(f))
	return cmd
}

func (o *verifyOptions) of() string {
	switch {
	case len(o.images) > 0:
		return "images"
	case o.running:
		return "running"
	case o.cluster.given:
		return "release"
	}
	return "chart"
}

func verifyRun(ctx context.Context, o *verifyOptions) error {
	if err := checkOutput(o.output, "text", "json", "jsonl"); err != nil {
		return err
	}
	if len(o.images) > 0 && (o.running || o.cluster.given) {
		return usage("images, --release and --running exclude each other")
	}
	answer := verifyAnswer{Of: o.of(), Report: verify.Report{SchemaVersion: 1, Time: o.f.Now().UTC(), Counts: map[string]int{}, Results: []verify.Result{}}}
	op := o.f.operation("verify", o.cluster, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() error { return o.verify(ctx, op, &answer.Report) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(error) {
			if !o.show.quiet || !answer.Passed {
				o.f.tellReport(o.f.IO.Out, answer.Report, o.show.verbose)
			}
		})
}

func (o *verifyOptions) verify(ctx context.Context, op *operation, report *verify.Report) error {
	if err := o.trust.read(o.f, nil); err != nil {
		return err
	}
	if o.trust.collected == nil {
		return noPolicy("nobody says who must have signed the images")
	}
	observe := op.Observe
	if o.output != "jsonl" && !o.show.verbose { // the table says it, in order
		observe = func(e event.Event) {
			if _, isCheck := e.(event.Check); !isCheck {
				op.Observe(e)
			}
		}
	}
	o.trust.tellPolicy(op)
	source, err := o.f.source(&o.trust)
	if err != nil {
		return err
	}
	v, err := o.f.verifier(&o.trust, source, observe)
	if err != nil {
		return err
	}
	images, err := o.subjects(ctx, op)
	if err != nil {
		return err
	}
	*report, err = o.f.verifyAll(ctx, v, op, images)
	if err != nil {
		return err
	}
	if err := notVerified(*report); err != nil || o.lock == "" {
		return err
	}
	return o.writeLock(v, *report)
}

// writeLock writes what was verified: all of it, or nothing.
func (o *verifyOptions) writeLock(v *verify.Verifier, report verify.Report) error {
	var admitted []ref.Admitted
	for _, r := range report.Results {
		a, ok := v.Admit(r, verify.Enforce)
		if !ok {
			return &failure{class: "verification", reason: r.Reference + " was not admitted", advice: r.Hint}
		}
		admitted = append(admitted, a)
	}
	made := lock.Made{Written: o.f.Now().UTC().Truncate(time.Second), Policy: report.Policy.Hash}
	if o.of() == "chart" {
		chart, err := embeddedVersion(o.f)
		if err != nil {
			return err
		}
		made.ChartName, made.ChartVersion = chart.Name, chart.Version
	}
	l, err := lock.New(admitted, made)
	if err != nil {
		return fmt.Errorf("--write-lock: %w", err)
	}
	data, err := l.Write()
	if err != nil {
		return fmt.Errorf("--write-lock: %w", err)
	}
	if err := o.f.WriteFile(o.lock, data, 0o644); err != nil {
		return &failure{class: "usage", reason: "--write-lock", err: err}
	}
	return nil
}

// subjects are the images that the flags mean.
func (o *verifyOptions) subjects(ctx context.Context, op *operation) ([]ref.Reference, error) {
	switch o.of() {
	case "images":
		return references(o.images)
	case "chart":
		given, err := o.values.parse(ctx, o.f)
		if err != nil {
			return nil, err
		}
		_, images, err := o.f.chartImages(given)
		return images, err
	}
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return nil, err
	}
	op.learn(reached(s.facts))
	live, err := s.engine.LiveImages(ctx)
	if err != nil {
		return nil, err
	}
	return liveReferences(live, o.running)
}

// noPolicy is the error of a command that cannot do without one.
func noPolicy(reason string) error {
	return &failure{class: "usage", reason: reason, advice: "name a policy with --policy FILE or " + EnvPolicy + "; nopsctl verify example-policy prints one to begin with. There is no built-in identity: ask nOps for the ARN of its signing profile"}
}

// notVerified is the error of a report that does not pass.
func notVerified(report verify.Report) error {
	refused := report.Refused()
	if len(refused) == 0 {
		return nil
	}
	first := refused[0]
	reason := fmt.Sprintf("%s is not verified: %s", first.Reference, first.Line())
	if n := len(refused); n > 1 {
		reason = fmt.Sprintf("%d of %d images are not verified; %s", n, len(report.Results), reason)
	}
	return &failure{class: "verification", reason: reason, advice: first.Hint}
}

// verdicts are the counts of a report, in the order of the outcomes.
func verdicts(r verify.Report) string {
	var parts []string
	keys := []string{}
	for _, o := range verdict.Outcomes() {
		keys = append(keys, string(o))
	}
	for _, k := range append(keys, "excepted", "unchecked") {
		if n := r.Counts[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, k))
		}
	}
	return strings.Join(parts, ", ")
}

// tellReport is the table, and under each image that does not pass why, and what to do.
func (f *Factory) tellReport(w io.Writer, report verify.Report, all bool) {
	if len(report.Results) == 0 {
		return
	}
	s := f.styleOut()
	wide := 0
	for _, r := range report.Results {
		wide = max(wide, len(short(r.Reference)))
	}
	told := map[string]bool{}
	for _, r := range report.Results {
		check := r.Check()
		word := string(r.Outcome)
		if r.Exception != nil {
			word = "excepted"
		}
		fmt.Fprintf(w, "%s %-*s  %-15s  %s\n", s.Sign(check.Outcome), wide, short(r.Reference), word, s.Dim(shortDigest(r.Digest)))
		if !r.Passed() || r.Exception != nil || r.Unsure() || all {
			fmt.Fprintf(w, "      %s\n", strings.TrimPrefix(r.Line(), string(r.Outcome)+": "))
		}
		if all {
			for _, finding := range r.Findings {
				fmt.Fprintf(w, "      %s\n", s.Dim(describeFinding(finding)))
			}
		}
		if !r.Passed() && r.Hint != "" && !told[r.Hint] {
			told[r.Hint] = true
			fmt.Fprintf(w, "      %s %s\n", s.Accent("→"), r.Hint)
		}
	}
	if report.Passed && !all {
		fmt.Fprintf(w, "\n%s\n", signers(report))
	}
}

// signers says who signed, which of good images is the same for most.
func signers(report verify.Report) string {
	count, order := map[string]int{}, []string{}
	for _, r := range report.Results {
		who := r.Identity
		if r.Exception != nil {
			who = "nobody: excepted by the policy"
		}
		if count[who] == 0 {
			order = append(order, who)
		}
		count[who]++
	}
	lines := []string{"Signed by:"}
	for _, who := range order {
		lines = append(lines, fmt.Sprintf("  %-3d %s", count[who], who))
	}
	return strings.Join(lines, "\n")
}

func describeFinding(f verdict.Finding) string {
	text := string(f.Outcome)
	if f.Reason != "" {
		text += " (" + string(f.Reason) + ")"
	}
	for _, part := range []string{f.Method, f.Signature, f.Identity, f.Message} {
		if part != "" {
			text += " · " + part
		}
	}
	return text
}

// short leaves out the digest, which has a column of its own.
func short(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	return name
}

func newExamplePolicyCommand(f *Factory) *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "example-policy",
		Short: "Print a policy to begin with",
		Long:  "Prints a commented policy. The signing profile in it is yours to fill in: nOps publishes none, and a policy that trusts whoever signed trusts everybody.",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			text := policy.Example(profile)
			if _, err := policy.Parse([]byte(text), policy.Options{Source: "example", Now: f.Now}); err != nil && profile != "" {
				return &failure{class: "usage", reason: "--profile-arn", err: err}
			}
			_, err := io.WriteString(f.IO.Out, text)
			return err
		},
	}
	cmd.Flags().StringVar(&profile, "profile-arn", "", "ARN of the AWS Signer profile that signs the images")
	return cmd
}

// liveReferences are what a release declares, or what its pods run: by the digests that the nodes report.
func liveReferences(live *install.LiveImages, running bool) ([]ref.Reference, error) {
	seen := map[ref.Reference]bool{}
	var all []ref.Reference
	add := func(text, digest string) error {
		r, err := ref.Parse(text)
		if err != nil {
			return &failure{class: "usage", err: err, advice: hintOf(err)}
		}
		if digest != "" {
			r = r.At(digest)
		}
		if !seen[r] {
			seen[r] = true
			all = append(all, r)
		}
		return nil
	}
	if !running {
		for _, d := range live.Declared {
			if err := add(d.Reference, ""); err != nil {
				return nil, err
			}
		}
		return all, nil
	}
	for _, c := range live.Running {
		if err := add(c.Reference, c.Digest); err != nil {
			return nil, err
		}
	}
	return all, nil
}
