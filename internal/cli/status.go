package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

type statusOptions struct {
	f       *Factory
	cluster clusterFlags
	key     keyFlags
	output  string
}

// statusAnswer is the JSON of status -o json: the engine's, and what the platform says.
type statusAnswer struct {
	*install.Status
	Platform platformStatus `json:"platform"`
	Error    *answerError   `json:"error,omitempty"`
}

// platformStatus is what the platform has seen of the cluster.
type platformStatus struct {
	Host   string `json:"host"`
	Asked  bool   `json:"asked"`
	Reason string `json:"reason,omitempty"` // why it was not asked, or did not tell

	LastHeartbeat *seenAt           `json:"last_heartbeat,omitempty"`
	LastSample    *seenAt           `json:"last_sample,omitempty"`
	Series        int               `json:"series,omitempty"`
	SampleError   string            `json:"sample_error,omitempty"`
	Warnings      []nopsapi.Warning `json:"warnings,omitempty"`
}

// seenAt is a moment and its age, both by the platform's clock.
type seenAt struct {
	At         time.Time `json:"at"`
	AgeSeconds int64     `json:"age_seconds"`
}

func newStatusCommand(f *Factory, runF func(context.Context, *statusOptions) error) *cobra.Command {
	o := &statusOptions{f: f}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs, and why not if not",
		Long: `Shows every component of the stack: OK, degraded, disabled, not yet part of this release; why; version and live image
digest. With an API key, or the one the agents have, also what the platform has seen: last heartbeat, last sample, warnings.

Exit code 3 when something is degraded or failed, or nothing is installed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return statusRun(cmd.Context(), o)
		},
	}
	o.key.bind(cmd)
	o.cluster.bind(cmd)
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func statusRun(ctx context.Context, o *statusOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	// What stands when nothing could be found out.
	answer := statusAnswer{
		Status:   &install.Status{SchemaVersion: 1, Health: install.Unknown, Context: o.cluster.kube.Context, Namespace: o.cluster.kube.Namespace, Components: []install.ComponentStatus{}},
		Platform: platformStatus{Host: o.f.hostOf(o.key), Reason: "the command ended before"},
	}
	err := o.look(ctx, &answer)
	if o.output == "json" {
		answer.Error = answerErrorOf(err)
		if jsonErr := writeJSON(o.f.IO.Out, answer); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
	}
	return err
}

func (o *statusOptions) look(ctx context.Context, answer *statusAnswer) error {
	key, err := o.f.readKey(ctx, o.key)
	if err != nil {
		return err
	}
	s, err := o.f.open(o.cluster, nil)
	if err != nil {
		return err
	}
	answer.Context, answer.Server = s.facts.Context, s.facts.Server
	stored := s.learn(ctx, o.f)
	status, err := s.engine.Status(ctx)
	if err != nil {
		return err
	}
	arn := first(status.ClusterARN, s.facts.ClusterARN)
	answer.Status, answer.Platform = status, o.platform(ctx, key, stored, arn)
	if ctx.Err() != nil {
		return ctx.Err() //nolint:wrapcheck // Exit looks for exactly this
	}
	if o.output == "text" {
		printStatus(o.f.IO.Out, o.f.styleOut(), *answer, s.facts.Context, arn)
	}
	return healthOf(status, o.cluster.release)
}

// healthOf is the exit of status: scripts ask "is it well?", and a block of text is no answer to them.
func healthOf(s *install.Status, release string) error {
	switch s.Health { //nolint:exhaustive // the rest is well, or on its way
	case install.NotInstalled:
		return &failure{class: "preflight", err: &install.NotInstalledError{Release: release, Namespace: s.Namespace}, advice: "nopsctl install installs it"}
	case install.Degraded, install.Failed:
		for _, c := range s.Components {
			if c.State == "degraded" || c.State == "failed" {
				return &failure{class: "preflight", reason: fmt.Sprintf("%s is %s", c.Name, c.State), err: errors.New(plain.Shorten(first(c.Message, c.Reason, "no reason is known"), 240))}
			}
		}
		return &failure{class: "preflight", reason: fmt.Sprintf("the release is %s: %s", s.Release.Status, plain.Shorten(s.Release.Description, 240)), advice: "run nopsctl install again: it goes on from here"}
	case install.Unknown:
		return &failure{class: "preflight", reason: "the state is not known: " + strings.Join(s.Problems, "; ")}
	}
	return nil
}

// platform asks what the platform has seen. It is an addition: that it does not answer is told, not failed.
func (o *statusOptions) platform(ctx context.Context, key apiKey, stored map[string][]byte, arn string) platformStatus {
	p := platformStatus{Host: o.f.hostOf(o.key)}
	client, _, why, err := o.f.reader(o.key, key, stored)
	switch {
	case err != nil:
		p.Reason = err.Error()
		return p
	case client == nil:
		p.Reason = why
		return p
	case arn == "":
		p.Reason = "nobody says which cluster this is"
		return p
	}
	view, err := client.Connectivity(ctx, arn)
	if err != nil {
		p.Reason = err.Error()
		if nopsclient.IsKind(err, nopsclient.KindNotOffered) {
			p.Reason = "this platform does not offer a connectivity view"
		}
		return p
	}
	p.Asked = true
	if h := view.LastHeartbeat; h != nil {
		p.LastHeartbeat = seen(view, h.ReceivedAt)
	}
	if l := view.LastSample; l != nil {
		p.LastSample, p.Series = seen(view, l.At), l.Series
	}
	p.SampleError, p.Warnings = view.SampleError, view.Warnings
	return p
}

func seen(v nopsapi.ConnectivityView, at time.Time) *seenAt {
	return &seenAt{At: at.UTC(), AgeSeconds: int64(max(0, v.ServerTime.Sub(at)).Seconds())}
}

func printStatus(w io.Writer, s plain.Style, a statusAnswer, context, arn string) {
	if a.Release == nil {
		fmt.Fprintf(w, "%s\n", s.Bold("Not installed in namespace "+a.Namespace))
	} else {
		r := a.Release
		state := s.Good(r.Status)
		if r.Status != "deployed" {
			state = s.Bad(r.Status)
		}
		fmt.Fprintf(w, "%s  %s %s, revision %d, %s, %s\n", s.Bold(r.Name), r.Chart, r.ChartVersion, r.Revision, state, r.Updated.UTC().Format("2006-01-02 15:04 MST"))
		if r.Status != "deployed" && r.Description != "" {
			fmt.Fprintf(w, "    %s\n", plain.Shorten(r.Description, 240))
		}
	}
	if arn == "" {
		arn = "cluster without a known ARN"
	}
	where := ""
	if context != "" && context != arn {
		where = ", context " + context
	}
	fmt.Fprintf(w, "%s, namespace %s%s\n\n", arn, a.Namespace, where)

	var absent []string
	for _, c := range a.Components {
		if c.State == install.ComponentUnavailable {
			absent = append(absent, c.Name)
			continue
		}
		printComponent(w, s, c)
	}
	if len(absent) > 0 {
		fmt.Fprintf(w, "  %s\n", s.Dim("not yet part of this release: "+strings.Join(absent, ", ")))
	}
	for _, p := range a.Problems {
		fmt.Fprintf(w, "  %s %s\n", s.Warning("? not known:"), p)
	}
	printSignatures(w, s, a.Status)
	fmt.Fprintln(w)
	printPlatform(w, s, a.Platform)
}

// printSignatures says who signed what runs, as it was verified when it was installed, and what runs that nobody verified:
// somebody has changed it since.
func printSignatures(w io.Writer, s plain.Style, status *install.Status) {
	if status.Release == nil {
		return
	}
	fmt.Fprintln(w)
	if len(status.Pinned) == 0 {
		fmt.Fprintf(w, "%s  %s\n", s.Bold("Signatures"), s.Dim("not verified: it was installed without a policy"))
		return
	}
	signed, signers, signs, order := map[string]string{}, map[string]int{}, map[string]event.Outcome{}, []string{}
	for _, p := range status.Pinned {
		who, sign := p.Identity, event.OK
		switch { // what the signature of an image that did not verify claims is no answer to who signed it
		case p.Basis == string(ref.ByWarning):
			who, sign = "nobody: let in by --verify=warn", event.Warned
		case p.Basis == string(ref.ByException):
			who, sign = "nobody: let in by an exception of the policy", event.Warned
		case p.Basis != string(ref.ByPolicy) || who == "":
			who, sign = "nobody ("+p.Basis+")", event.Warned
		}
		if signed[p.Digest] == "" && signers[who] == 0 {
			order = append(order, who)
		}
		signed[p.Digest], signs[who] = who, sign
		signers[who]++
	}
	fmt.Fprintln(w, s.Bold("Signatures")+"  "+s.Dim("as verified when it was installed; nopsctl verify --running verifies now"))
	for _, who := range order {
		fmt.Fprintf(w, "  %s %-22s %s\n", s.Sign(signs[who]), count(signers[who], "image"), who)
	}
	for _, c := range status.Components {
		for _, l := range c.Workloads {
			for _, i := range l.Images {
				if i.Digest != "" && signed[i.Digest] == "" {
					fmt.Fprintf(w, "  %s %-22s runs %s, which is not what was verified\n", s.Sign(event.Warned), l.Component, shortDigest(i.Digest))
				}
			}
		}
	}
}

// stateWord is how a state reads in the block.
func stateWord(state string) (event.Outcome, string) {
	switch state {
	case string(workload.Ready):
		return event.OK, "OK"
	case string(workload.Idle):
		return event.OK, "OK, idle"
	case string(workload.Progressing):
		return event.Warned, "progressing"
	case string(workload.Degraded):
		return event.Failed, "degraded"
	case string(workload.Failed):
		return event.Failed, "failed"
	case string(install.ComponentDisabled):
		return event.Skipped, "disabled"
	}
	return event.Unknown, "unknown"
}

// nowhere says that a component is made for nodes of which the cluster has none, such as those with GPUs.
func nowhere(workloads []workload.Summary) bool {
	for _, l := range workloads {
		if l.Kind != "DaemonSet" || l.State != workload.Idle {
			return false
		}
	}
	return len(workloads) > 0
}

func printComponent(w io.Writer, s plain.Style, c install.ComponentStatus) {
	outcome, word := stateWord(string(c.State))
	note := ""
	if len(c.Workloads) == 0 && c.Message != "" {
		note = c.Message
		if c.State == install.ComponentDisabled {
			word, note = c.Message, "" // "disabled by you", "disabled by default"
		}
	}
	if nowhere(c.Workloads) {
		outcome, word, note = event.Skipped, "not applicable", "no node here is one it runs on"
	}
	fmt.Fprintf(w, "  %s %-22s %s", s.Sign(outcome), c.Name, word)
	if note != "" {
		fmt.Fprintf(w, ": %s", note)
	}
	fmt.Fprintln(w)
	for _, l := range c.Workloads {
		printWorkload(w, s, l)
	}
}

func printWorkload(w io.Writer, s plain.Style, l workload.Summary) {
	outcome, word := stateWord(string(l.State))
	digest := ""
	for _, i := range l.Images {
		if i.Digest != "" {
			digest = "  " + shortDigest(i.Digest)
			break
		}
	}
	restarts := ""
	if l.Restarts > 0 {
		restarts = fmt.Sprintf("  %d restarts", l.Restarts)
		if l.LastTermination != "" {
			restarts += ", last: " + l.LastTermination
		}
	}
	fmt.Fprintf(w, "      %s %-24s %-11s %d/%d  %-9s%s%s\n", s.Sign(outcome), l.Component, word, l.Ready, l.Desired, l.Version, s.Dim(digest), restarts)
	if !l.State.Settled() {
		if why := strings.Join(nonEmpty(l.Reason, l.Message), ": "); why != "" {
			fmt.Fprintf(w, "          %s: %s\n", l.Object(), plain.Shorten(why, 240))
		}
	}
}

func nonEmpty(parts ...string) []string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return kept
}

// shortDigest is enough of a digest to compare by eye.
func shortDigest(d string) string {
	algorithm, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) < 12 {
		return d
	}
	return algorithm + ":" + hex[:12]
}

func printPlatform(w io.Writer, s plain.Style, p platformStatus) {
	if !p.Asked {
		fmt.Fprintf(w, "%s  %s\n", s.Bold("Platform"), s.Dim("not known: "+p.Reason))
		return
	}
	fmt.Fprintf(w, "%s  %s\n", s.Bold("Platform"), p.Host)
	line := func(outcome event.Outcome, label, text string) {
		fmt.Fprintf(w, "  %s %-22s %s\n", s.Sign(outcome), label, text)
	}
	age := func(label string, at *seenAt, extra string) {
		switch {
		case at == nil:
			line(event.Warned, label, "none yet")
		case at.AgeSeconds > 180:
			line(event.Warned, label, old(at)+extra)
		default:
			line(event.OK, label, old(at)+extra)
		}
	}
	age("last heartbeat", p.LastHeartbeat, "")
	if p.SampleError != "" {
		line(event.Unknown, "last sample", p.SampleError)
	} else {
		series := ""
		if p.Series > 0 {
			series = fmt.Sprintf(", %d series", p.Series)
		}
		age("last sample", p.LastSample, series)
	}
	for _, warning := range p.Warnings {
		line(event.Warned, "warning", warning.Message)
	}
}

func old(at *seenAt) string {
	if at.AgeSeconds < 1 {
		return "just now"
	}
	if at.AgeSeconds < 60 {
		return fmt.Sprintf("%ds ago", at.AgeSeconds)
	}
	return plain.Elapsed(time.Duration(at.AgeSeconds)*time.Second) + " ago"
}
