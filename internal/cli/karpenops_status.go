package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

type karpenstateEntry = nopsapi.KarpenterRecord

// ledgerShown is how many entries of the ledger status tells; the ConfigMap has them all.
const ledgerShown = 5

// lookAge is how long ago the agent may have looked last: one that works says so each karpenstate.LookEvery. recordAge is the same of an agent that does not
// say it yet: that writes a new record only when something has changed, so an old one says little only where the agent is not well.
const (
	lookAge   = 3 * karpenstate.LookEvery
	recordAge = 30 * time.Minute
)

type karpenStatusOptions struct {
	karpenFlags
	last int
}

// karpenStatusAnswer is the JSON of karpenops status.
type karpenStatusAnswer struct {
	SchemaVersion int    `json:"schema_version"`
	Context       string `json:"context,omitempty"`
	Namespace     string `json:"namespace"`
	// State is one word: "running", "paused", "holding", "degraded", "disabled", "never-ran", "silent" (its record is old), "not-installed", "unknown".
	State   string `json:"state"`
	Message string `json:"message"` // the same in a sentence

	Agent   karpenAgent   `json:"agent"`
	Record  *karpenWhen   `json:"record,omitempty"` // absent: it never ran, or what it recorded cannot be read
	Mode    string        `json:"mode,omitempty"`
	Paused  string        `json:"paused,omitempty"`
	Holding string        `json:"holding,omitempty"`
	Facts   []karpenFacts `json:"facts"` // market and commitments

	Karpenter *karpenstate.Karpenter     `json:"karpenter,omitempty"`
	Pools     []karpenstate.Pool         `json:"pools"` // each base before its siblings
	Pending   []karpenstate.Pending      `json:"pending"`
	Findings  []nopsapi.KarpenterFinding `json:"findings"`
	Ledger    []nopsapi.KarpenterRecord  `json:"ledger"` // the last entries, newest first
	// Leftovers are NodePools in the cluster that karpenops made or changed; looked at where no agent tends them.
	Leftovers *leftovers   `json:"leftovers,omitempty"`
	Problems  []string     `json:"problems,omitempty"`
	Error     *answerError `json:"error,omitempty"`
}

// karpenAgent is the agent's workload.
type karpenAgent struct {
	State   string `json:"state"` // as in nopsctl status
	Message string `json:"message,omitempty"`
	Version string `json:"version,omitempty"`
	Image   string `json:"image,omitempty"`
}

// karpenWhen is when the record was written.
type karpenWhen struct {
	At         time.Time `json:"at"` // when something in it changed last
	AgeSeconds int64     `json:"age_seconds"`
	LookedAt   time.Time `json:"looked_at,omitzero"` // when the agent looked last, as it wrote at least each five minutes
	Old        bool      `json:"old"`                // things may have changed since: the agent does not look any more
	Version    string    `json:"version"`            // of the agent that wrote it
}

// last is the last moment that the record speaks of.
func (w karpenWhen) last() time.Time {
	if w.LookedAt.IsZero() {
		return w.At
	}
	return w.LookedAt
}

// karpenFacts is a document of facts.
type karpenFacts struct {
	Kind string `json:"kind"` // "market" or "commitments"
	karpenstate.Fact
	Fresh bool `json:"fresh"` // valid now
}

func newKarpenopsStatusCommand(f *Factory, runF func(context.Context, *karpenStatusOptions) error) *cobra.Command {
	o := &karpenStatusOptions{karpenFlags: karpenFlags{f: f}}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what karpenops sees, intends and did",
		Long: `Shows what the agent recorded: how far it goes (mode), whether it is paused or holds and why, how fresh its facts are, every NodePool with the
siblings it made, what it wants to do and what that waits for, what a person should know, and the last entries of its ledger.

Exit code 3 when it is enabled and does not work, when its record is old or cannot be read, or when nothing is installed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return karpenStatusRun(cmd.Context(), o)
		},
	}
	o.cluster.bind(cmd)
	cmd.Flags().IntVar(&o.last, "last", ledgerShown, "how many entries of the ledger to show; 0 for all")
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	return cmd
}

func karpenStatusRun(ctx context.Context, o *karpenStatusOptions) error {
	if err := checkOutput(o.output, "text", "json", "yaml"); err != nil {
		return err
	}
	if o.last < 0 {
		return usage("--last %d: expected a number of entries, or 0 for all", o.last)
	}
	const notYet = "the command ended before it was known"
	a := karpenStatusAnswer{
		SchemaVersion: 1, Context: o.cluster.kube.Context, Namespace: o.cluster.kube.Namespace, State: "unknown", Message: notYet, Agent: karpenAgent{State: "unknown"},
		Facts: []karpenFacts{}, Pools: []karpenstate.Pool{}, Pending: []karpenstate.Pending{}, Findings: []nopsapi.KarpenterFinding{}, Ledger: []nopsapi.KarpenterRecord{},
	}
	err := o.find(ctx, &a)
	if o.output == "text" {
		if a.Message != notYet {
			o.print(a)
		}
		return err
	}
	a.Error = answerErrorOf(err)
	return errors.Join(err, o.f.write(o.output, a))
}

// write writes an answer as JSON or YAML.
func (f *Factory) write(format string, v any) error {
	if format == "json" {
		return writeJSON(f.IO.Out, v)
	}
	data, err := yaml.Marshal(v)
	if err == nil {
		_, err = f.IO.Out.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// find fills the answer in. The error is the exit code's.
func (o *karpenStatusOptions) find(ctx context.Context, a *karpenStatusAnswer) error {
	k, err := o.look(ctx)
	if err != nil {
		return err
	}
	a.Context = k.facts.Context
	record, err := k.read(ctx)
	if err != nil {
		return err
	}
	release, err := k.engine.Status(ctx)
	if err != nil {
		return err
	}
	a.Agent = agentOf(release)
	nothing := release.Health == install.NotInstalled
	if nothing { // as far as Helm knows: Argo CD and others render the chart without it
		live, err := k.live(ctx)
		if err != nil {
			return err
		}
		if live != nil {
			a.Agent, nothing = agentIn([]workload.Summary{*live}), false
		}
	}
	o.fill(a, record)
	if left, err := k.leftovers(ctx); err == nil && len(left.Strays) > 0 { // which no agent tends either
		a.Leftovers = &leftovers{Siblings: []leftSibling{}, InPlace: []string{}, Overlays: []string{}, Strays: left.Strays}
	}
	if a.Agent.State != "ready" && a.Agent.State != "progressing" && a.Agent.State != "degraded" {
		left, err := k.leftovers(ctx)
		if err != nil {
			a.Problems = append(a.Problems, err.Error())
		} else if left.any() {
			a.Leftovers = &left
		}
	}
	return o.judge(a, nothing)
}

// live is the agent's workload as the cluster has it; nil when there is none.
func (k *karpenSession) live(ctx context.Context) (*workload.Summary, error) {
	d, err := k.client.AppsV1().Deployments(k.namespace).Get(ctx, karpenProgram().deployment(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unreachable("read Deployment "+k.namespace+"/"+karpenProgram().deployment(), err)
	}
	var pods corev1.PodList
	if d.Spec.Selector != nil {
		list, err := k.client.CoreV1().Pods(k.namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err == nil { // without them there is still a state, if no reason
			pods = *list
		}
	}
	s := workload.Deployment(d, pods.Items)
	return &s, nil
}

// agentIn is the agent that a workload is.
func agentIn(workloads []workload.Summary) karpenAgent {
	var a karpenAgent
	for _, w := range workloads {
		a.State, a.Message, a.Version = string(w.State), strings.Join(nonEmpty(w.Reason, w.Message), ": "), w.Version
		for _, i := range w.Images {
			a.Image = i.Reference
		}
	}
	return a
}

// agentOf is the component among the release's.
func agentOf(release *install.Status) karpenAgent {
	for _, c := range release.Components {
		if c.Name != karpenops {
			continue
		}
		a := agentIn(c.Workloads)
		a.State, a.Message = string(c.State), strings.Join(nonEmpty(c.Reason, c.Message), ": ")
		return a
	}
	return karpenAgent{State: "unknown", Message: "the release does not say"}
}

// fill copies the record into the answer, in the order in which it is told.
func (o *karpenStatusOptions) fill(a *karpenStatusAnswer, r karpenRecord) {
	a.Problems, a.Paused = append(a.Problems, r.problems...), r.paused
	now := o.f.Now()
	for _, e := range slices.Backward(r.ledger) {
		if o.last > 0 && len(a.Ledger) == o.last {
			break
		}
		a.Ledger = append(a.Ledger, e)
	}
	s := r.status
	if s == nil {
		return
	}
	age := max(0, now.Sub(s.At))
	a.Record = &karpenWhen{At: s.At.UTC(), AgeSeconds: int64(age.Seconds()), Version: s.Version}
	if s.LookedAt.IsZero() {
		a.Record.Old = age > recordAge && a.Agent.State != "ready"
	} else {
		a.Record.LookedAt, a.Record.Old = s.LookedAt.UTC(), now.Sub(s.LookedAt) > lookAge
	}
	a.Mode, a.Holding, a.Karpenter = string(s.Mode), s.Holding, &s.Karpenter
	a.Paused = first(s.Paused, r.paused)
	fresh := func(kind string, f karpenstate.Fact) karpenFacts {
		return karpenFacts{Kind: kind, Fact: f, Fresh: !f.ValidUntil.IsZero() && now.Before(f.ValidUntil)}
	}
	a.Facts = []karpenFacts{fresh("market", s.Market), fresh("commitments", s.Commitments)}
	a.Pools = append(a.Pools, families(s.Pools)...)
	a.Pending, a.Findings = append(a.Pending, s.Pending...), append(a.Findings, s.Findings...)
}

// families orders NodePools by name, each followed by its siblings. A sibling whose base is gone stands for itself.
func families(pools []karpenstate.Pool) []karpenstate.Pool {
	pools = slices.Clone(pools)
	slices.SortFunc(pools, func(a, b karpenstate.Pool) int { return strings.Compare(a.Name, b.Name) })
	var ordered []karpenstate.Pool
	for _, p := range pools {
		if baseIn(pools, p) {
			continue
		}
		ordered = append(ordered, p)
		for _, s := range pools {
			if s.Base == p.Name && s.Name != p.Name && s.Owned {
				ordered = append(ordered, s)
			}
		}
	}
	return ordered
}

func baseIn(pools []karpenstate.Pool, p karpenstate.Pool) bool {
	return p.Owned && slices.ContainsFunc(pools, func(b karpenstate.Pool) bool { return b.Name == p.Base && b.Name != p.Name && !b.Owned })
}

// judge says in one word and one sentence how things are; what does not work is an error.
func (o *karpenStatusOptions) judge(a *karpenStatusAnswer, nothing bool) error {
	say := func(state, message string) { a.State, a.Message = state, message }
	broken := func(advice string) error {
		return &failure{class: "preflight", reason: "karpenops: " + a.Message, advice: advice}
	}
	switch {
	case nothing:
		say("not-installed", "the stack is not installed in namespace "+a.Namespace)
		return broken("nopsctl install installs it")
	case a.Agent.State == string(install.ComponentUnavailable):
		say("not-installed", "the installed release has no karpenops")
		return broken(notInstalledHint(install.ComponentUnavailable))
	case a.Agent.State == string(install.ComponentDisabled) && a.Record == nil:
		say("disabled", "switched off, and it never ran here")
	case a.Agent.State == string(install.ComponentDisabled):
		say("disabled", "switched off; what follows is what it recorded last")
	case a.Record == nil && len(a.Problems) > 0:
		say("unknown", a.Problems[0])
		return broken("kubectl --namespace " + a.Namespace + " get configmap " + karpenstate.ConfigMap + " -o yaml shows it; the agent writes it anew")
	case a.Agent.State == "degraded" || a.Agent.State == "failed":
		say("degraded", strings.Join(nonEmpty("the agent is "+a.Agent.State, a.Agent.Message), ": "))
		return broken("nopsctl status says more")
	case a.Record == nil && a.Agent.State == "progressing":
		say("never-ran", "the agent starts and has recorded nothing yet")
	case a.Record == nil:
		say("never-ran", "the agent has recorded nothing yet, though it should run")
		return broken("kubectl --namespace " + a.Namespace + " logs deployment/nops-karpenops says why")
	case a.Record.Old:
		last := a.Record.last()
		say("silent", fmt.Sprintf("the agent has recorded nothing for %s: what follows is how things were at %s", ago(o.f.Now(), last), moment(last)))
		return broken("kubectl --namespace " + a.Namespace + " logs deployment/nops-karpenops says why")
	case a.Paused != "":
		say("paused", "nothing is written: "+a.Paused)
	case a.Holding != "":
		say("holding", "nothing is decided: "+a.Holding)
	case !karpenstate.Mode(a.Mode).Includes(karpenstate.ModeSiblings):
		say("running", "it "+map[string]string{"observe": "reports", "advise": "plans"}[a.Mode]+", and writes nothing")
	default:
		say("running", "it works")
	}
	return nil
}

// ago is how long ago something was, to the second; past is the same with the moment.
func ago(now, t time.Time) string {
	return plain.Elapsed(max(0, now.Sub(t)).Truncate(time.Second))
}

func past(now, t time.Time) string {
	if now.Sub(t) < time.Second {
		return "just now, " + moment(t)
	}
	return ago(now, t) + " ago, " + moment(t)
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// sheet writes lines no wider than the terminal.
type sheet struct {
	w     io.Writer
	s     plain.Style
	width int
}

// para writes a paragraph behind a label of a fixed width; lines after the first are indented as far.
func (t sheet) para(indent int, label string, wide int, text string) {
	if text == "" {
		return
	}
	at := indent + wide
	lines := strings.Split(wrap(text, max(20, t.width-at), at), "\n")
	fmt.Fprintf(t.w, "%s%s%s\n", strings.Repeat(" ", indent), pad(label, wide), strings.Join(lines, "\n"))
}

// head writes the line that names a thing by its ID.
func (t sheet) head(id, what string) {
	n := utf8.RuneCountInString(id) + 2
	fmt.Fprintf(t.w, "  %s  %s\n", t.s.Bold(id), wrap(what, max(20, t.width-2-n), 2+n))
}

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s))) }

// clip cuts a text to n columns; the end of a name tells more than its middle.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 4 {
		return s
	}
	head := (n - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(n-1-head):])
}

// table writes rows in columns. The first column gives way where the terminal is too narrow.
func (t sheet) table(indent int, rows [][]string) {
	wide := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(c))
		}
	}
	total := indent
	for _, w := range wide {
		total += w + 2
	}
	if over := total - 2 - t.width; over > 0 {
		wide[0] = max(12, wide[0]-over)
	}
	for n, r := range rows {
		var line strings.Builder
		line.WriteString(strings.Repeat(" ", indent))
		for i, c := range r {
			if i == 0 {
				c = clip(c, wide[0])
			}
			if i == len(r)-1 {
				line.WriteString(c)
				break
			}
			line.WriteString(pad(c, wide[i]) + "  ")
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 {
			text = t.s.Dim(text)
		}
		fmt.Fprintln(t.w, text)
	}
}

func (o *karpenStatusOptions) print(a karpenStatusAnswer) {
	t := sheet{o.f.IO.Out, o.f.styleOut(), o.f.IO.Width()}
	s := t.s
	sign := map[string]event.Outcome{"running": event.OK, "paused": event.Warned, "holding": event.Warned, "disabled": event.Skipped, "never-ran": event.Warned}[a.State]
	if sign == "" {
		sign = event.Failed
	}
	fmt.Fprintf(t.w, "%s %s\n", s.Sign(sign), s.Bold(karpenops+" "+a.State))
	t.para(2, "", 0, a.Message)
	if a.Leftovers != nil {
		o.printLeftovers(t, *a.Leftovers)
	}
	fmt.Fprintln(t.w)
	const label = 13
	agent := a.Agent.State
	if a.Agent.Version != "" {
		agent += ", " + a.Agent.Version
	}
	t.para(2, "agent", label, agent)
	if r := a.Record; r != nil {
		now := o.f.Now()
		if !r.LookedAt.IsZero() {
			t.para(2, "looked", label, past(now, r.LookedAt))
		}
		t.para(2, "changed", label, past(now, r.At)+", by "+first(r.Version, "an unknown version"))
		t.para(2, "mode", label, a.Mode+": "+modeAbout(karpenstate.Mode(a.Mode)))
		t.para(2, "paused", label, strings.TrimPrefix(a.Paused, "paused "))
		t.para(2, "holding", label, a.Holding)
		t.para(2, "karpenter", label, karpenterLine(*a.Karpenter))
		for _, f := range a.Facts {
			t.para(2, f.Kind, label, factLine(f))
		}
	} else {
		t.para(2, "paused", label, strings.TrimPrefix(a.Paused, "paused "))
	}
	for _, p := range a.Problems {
		t.para(2, "not known", label, p)
	}
	if len(a.Pools) > 0 {
		fmt.Fprintln(t.w)
		printPools(t, a.Pools, karpenstate.Mode(a.Mode))
	}
	if len(a.Pending) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", s.Bold("Waiting"))
		for _, p := range a.Pending {
			printPending(t, p)
		}
	}
	if len(a.Findings) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", s.Bold("To know"))
		for _, f := range a.Findings {
			printFinding(t, f)
		}
	}
	if len(a.Ledger) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", s.Bold("Done"))
		for _, e := range a.Ledger {
			printEntry(t, e)
		}
	}
}

func modeAbout(m karpenstate.Mode) string {
	switch m {
	case karpenstate.ModeObserve:
		return "reports"
	case karpenstate.ModeAdvise:
		return "plans, and writes nothing"
	case karpenstate.ModeSiblings:
		return "makes NodePools of its own beside yours"
	case karpenstate.ModeOverlays:
		return "makes NodePools of its own, and NodeOverlays scoped to them"
	case karpenstate.ModeInPlace:
		return "also narrows NodePools that opted in"
	}
	return "not known to this nopsctl"
}

func karpenterLine(k karpenstate.Karpenter) string {
	if len(k.APIVersions) == 0 {
		return strings.Join(nonEmpty("not found", k.DetectionProblem), ": ")
	}
	onOff := func(on bool) string { return map[bool]string{true: "on", false: "off"}[on] }
	line := "karpenter.sh " + strings.Join(k.APIVersions, ", ")
	if !k.Writable {
		line += " (it writes v1 only: nothing is written)"
	}
	line += "; NodeOverlay " + onOff(k.NodeOverlay) + ", spot-to-spot consolidation " + onOff(k.SpotToSpot)
	return strings.Join(nonEmpty(line, k.DetectionProblem), "; ")
}

func factLine(f karpenFacts) string {
	if f.Seq == 0 {
		return strings.Join(nonEmpty("none yet", f.Problem), ": ")
	}
	line := fmt.Sprintf("of %s, valid until %s", moment(f.AsOf), moment(f.ValidUntil))
	if !f.Fresh {
		line = fmt.Sprintf("stale: of %s, was valid until %s", moment(f.AsOf), moment(f.ValidUntil))
	}
	return strings.Join(nonEmpty(line, f.Problem), "; ")
}

// poolWord says what a NodePool is to karpenops.
func poolWord(p karpenstate.Pool) string {
	switch {
	case p.Owned:
		return first(p.Purpose, "sibling")
	case p.Managed:
		return "managed"
	}
	return "left alone"
}

// printPools writes the table of NodePools, and below it what does not fit into one; mode is the agent's.
func printPools(t sheet, pools []karpenstate.Pool, mode karpenstate.Mode) {
	rows := [][]string{{"NODEPOOL", "IS", "WEIGHT", "NODES", "VCPU", "OFFERINGS", ""}}
	for _, p := range pools {
		name := p.Name
		if baseIn(pools, p) {
			name = "  + " + name
		}
		weight, state := "-", ""
		if p.Weight > 0 {
			weight = strconv.Itoa(p.Weight)
		}
		if !p.Ready {
			state = "not ready"
		}
		if p.Paused != "" {
			state = strings.Join(nonEmpty(state, "paused"), ", ")
		}
		rows = append(rows, []string{name, poolWord(p), weight, strconv.Itoa(p.Nodes), first(p.CPUUsed, "0") + " of " + first(p.CPULimit, "any"), strconv.Itoa(p.Offerings), state})
	}
	t.table(2, rows)
	for _, p := range pools {
		notes := nonEmpty(p.Paused)
		if len(p.Owners) > 0 {
			notes = append(notes, "fields owned by "+strings.Join(p.Owners, ", "))
		}
		if p.Mode != "" && p.Mode != mode && !p.Owned && p.Managed {
			notes = append(notes, "mode "+string(p.Mode))
		}
		if len(notes) > 0 {
			t.para(4, "", 0, clip(p.Name, 28)+": "+strings.Join(notes, "; "))
		}
	}
}

func printPending(t sheet, p karpenstate.Pending) {
	t.head(p.ID, p.Action+" "+p.Object)
	t.para(6, "why", 11, p.Reason)
	t.para(6, "not yet", 11, p.Waiting)
	if p.Drift > 0 {
		t.para(6, "replaces", 11, count(p.Drift, "node")+", as predicted")
	}
}

func printFinding(t sheet, f nopsapi.KarpenterFinding) {
	t.head(f.ID, f.Code+" "+f.Object)
	t.para(6, "", 0, f.Message)
	if f.Patch != "" {
		what := "nopsctl karpenops approve " + f.ID
		if f.Drift > 0 {
			what += " (replaces " + count(f.Drift, "node") + ", as predicted)"
		}
		t.para(6, "to do it", 11, what)
	}
}

func printEntry(t sheet, e nopsapi.KarpenterRecord) {
	line := fmt.Sprintf("%s %s %s", e.Outcome, e.Action, e.Object)
	if e.Actor != "agent" {
		line += ", by " + e.Actor
	}
	t.para(2, moment(e.At), len(moment(e.At))+2, line)
	t.para(6, "", 0, strings.Join(nonEmpty(e.Reason, e.Explanation), ": "))
}

func (o *karpenStatusOptions) printLeftovers(t sheet, l leftovers) {
	if theirs := l.reach(); theirs.any() {
		t.para(2, "", 0, "Nobody tends what it left: "+theirs.String()+". nopsctl karpenops revert --all takes it back.")
	}
	if len(l.Strays) > 0 {
		w := strayed(l)
		t.para(2, "", 0, "N"+w.Message[1:]+". "+w.Hint+".")
	}
}
