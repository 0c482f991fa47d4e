package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/notary"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

type inspectOptions struct {
	f      *Factory
	trust  trustFlags
	image  string
	output string
}

// inspectAnswer is the JSON of verify inspect -o json.
type inspectAnswer struct {
	SchemaVersion int               `json:"schema_version"`
	Reference     string            `json:"reference"`
	Digest        string            `json:"digest,omitempty"`
	MediaType     string            `json:"media_type,omitempty"`
	Platforms     int               `json:"platforms,omitempty"` // images that an index lists
	Signatures    []inspected       `json:"signatures"`
	Others        int               `json:"others,omitempty"` // what hangs on it and is no signature
	Looked        []string          `json:"looked,omitempty"`
	Problems      []verdict.Finding `json:"problems,omitempty"`
	Error         *answerError      `json:"error,omitempty"`
}

// inspected is one signature and what it says of itself.
type inspected struct {
	Signature string           `json:"signature"` // digest of its manifest
	Format    oci.Format       `json:"format"`
	From      string           `json:"from"`
	Notary    *notary.Claims   `json:"notary,omitempty"`
	Cosign    *cosign.Claims   `json:"cosign,omitempty"`
	Problem   *verdict.Finding `json:"problem,omitempty"` // it cannot be read, or is about something else
}

func newInspectCommand(f *Factory, runF func(context.Context, *inspectOptions) error) *cobra.Command {
	o := &inspectOptions{f: f}
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show every signature of an image and what it says of itself",
		Long: `Shows what hangs on an image in its registry: each signature, who it says made it and when, and the certificates it
comes with. It reads, and trusts nobody: a signature can say anything. Compare ARN and fingerprint with what the publisher
documents before you put them into a policy.`,
		Example: "  nopsctl verify inspect public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0",
		Args:    oneArg("an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.image = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return inspectRun(cmd.Context(), o)
		},
	}
	o.trust.bindMirrors(cmd)
	o.trust.bindBundle(cmd)
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func inspectRun(ctx context.Context, o *inspectOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	answer := inspectAnswer{SchemaVersion: 1, Reference: o.image, Signatures: []inspected{}}
	op := o.f.operation("verify inspect", clusterFlags{}, o.output, o.f.face(o.output, faceFlags{}, false))
	return op.run(func() error { return o.inspect(ctx, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(err error) {
			if err == nil {
				o.f.tellInspected(o.f.IO.Out, answer)
			}
		})
}

func (o *inspectOptions) inspect(ctx context.Context, answer *inspectAnswer) error {
	var err error
	if o.trust.mirrored, err = parseMirrors(o.trust.mirrors); err != nil {
		return err
	}
	if o.trust.bundle, err = o.f.bundleOf(keyFlags{caBundle: o.trust.caBundle}); err != nil {
		return err
	}
	all, err := references([]string{o.image})
	if err != nil {
		return err
	}
	source, err := o.f.source(&o.trust)
	if err != nil {
		return err
	}
	canonical := o.trust.mirrored.Canonical(all[0].OrLatest())
	artifact, err := source.Resolve(ctx, canonical, o.trust.mirrored.Locate(canonical))
	if err != nil {
		return &failure{class: "verification", err: err, advice: hintOfFinding(err)}
	}
	answer.Reference, answer.Digest, answer.MediaType, answer.Platforms = canonical.String(), artifact.Descriptor.Digest.String(), artifact.Descriptor.MediaType, len(artifact.Children)
	found, err := source.Signatures(ctx, artifact)
	if err != nil {
		return &failure{class: "verification", err: err, advice: hintOfFinding(err)}
	}
	answer.Others, answer.Looked = found.Others, found.Looked
	answer.Problems = append(append(answer.Problems, found.Broken...), found.Failed...)
	for _, s := range found.Found {
		i := inspected{Signature: s.ID(), Format: s.Format, From: s.From}
		switch s.Format {
		case oci.NotaryJWS, oci.NotaryCOSE:
			claims, problem := notary.Inspect(s)
			if i.Problem = problem; problem == nil {
				i.Notary = &claims
				if claims.Target.Digest != artifact.Descriptor.Digest {
					other := verdict.Fail(verdict.WrongArtifact, "it is about another artifact: %s", claims.Target.Digest)
					i.Problem = &other
				}
			}
		case oci.CosignLegacy, oci.SigstoreBundle:
			claims, problem := cosign.Inspect(s, answer.Digest)
			if i.Problem = problem; problem == nil {
				i.Cosign = &claims
			}
		}
		answer.Signatures = append(answer.Signatures, i)
	}
	return nil
}

func (f *Factory) tellInspected(w io.Writer, a inspectAnswer) {
	s := f.styleOut()
	row := func(label, value string) {
		if value != "" {
			fmt.Fprintf(w, "    %-12s %s\n", label, value)
		}
	}
	day := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s\n  %s  %s\n", s.Bold(a.Reference), a.Digest, s.Dim(a.MediaType))
	if len(a.Signatures) == 0 {
		fmt.Fprintf(w, "\n  no signature (looked at: %s)\n", strings.Join(a.Looked, ", "))
	}
	for n, i := range a.Signatures {
		fmt.Fprintf(w, "\n  %s %s\n", s.Bold(fmt.Sprintf("Signature %d", n+1)), s.Dim(string(i.Format)+", from the "+i.From+", "+i.Signature))
		if i.Problem != nil {
			row("problem", s.Bad(i.Problem.Message))
		}
		switch {
		case i.Notary != nil:
			c := i.Notary
			row("scheme", c.Scheme)
			row("signed", day(c.SigningTime))
			row("expires", day(c.Expires))
			row("profile", c.Profile)
			row("alias", c.Alias)
			row("job", c.Job)
			row("agent", c.SigningAgent)
			for _, certificate := range c.Certificates {
				row("certificate", certificate.Subject)
				row("", s.Dim("until "+day(certificate.NotAfter)+", SHA-256 "+certificate.SHA256))
			}
		case i.Cosign != nil && i.Cosign.Subject != "":
			c := i.Cosign
			row("signer", c.Subject)
			row("issuer", c.Issuer)
			row("logged", day(c.LoggedAt))
		case i.Cosign != nil:
			row("signer", "made with a key, which the signature does not name")
			row("key hint", i.Cosign.KeyHint)
			row("logged", day(i.Cosign.LoggedAt))
		}
	}
	for _, p := range a.Problems {
		fmt.Fprintf(w, "\n  %s %s\n", s.Bad(string(p.Reason)), p.Message)
	}
	if a.Others > 0 {
		fmt.Fprintf(w, "\n  %d other things hang on it and are no signatures (SBOMs, attestations)\n", a.Others)
	}
	if len(a.Signatures) > 0 {
		fmt.Fprintf(w, "\nThis is what the signatures say; this command trusts nobody. nopsctl verify checks them against your policy.\n")
	}
}
