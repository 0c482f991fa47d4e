package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

type vpaStatusOptions struct {
	vpaFlags
	all bool
}

// vpaStatusAnswer is the JSON of vpa status.
type vpaStatusAnswer struct {
	SchemaVersion  int    `json:"schema_version"`
	Context        string `json:"context,omitempty"`
	StackNamespace string `json:"stack_namespace"`
	Namespace      string `json:"namespace,omitempty"` // of the workloads; absent: all
	// State is one word: "running", "starting", "idle" (there is no policy), "paused" (all policies are), "degraded", "disabled", "not-installed", "unknown".
	State   string `json:"state"`
	Message string `json:"message"` // the same in a sentence

	Parts     []vpaPart     `json:"parts"`
	Policies  []vpaPolicy   `json:"policies"` // in the order in which they hold
	Workloads []vpaWorkload `json:"workloads"`
	Totals    vpaTotals     `json:"totals"`
	Problems  []string      `json:"problems,omitempty"` // what could not be looked at
	Error     *answerError  `json:"error,omitempty"`
}

// vpaPart is one of the component's programs.
type vpaPart struct {
	Name    string `json:"name"`  // "recommender"
	State   string `json:"state"` // as in nopsctl status
	Message string `json:"message,omitempty"`
	Version string `json:"version,omitempty"`
}

// vpaPolicy is a RightsizingPolicy.
type vpaPolicy struct {
	Name      string `json:"name"`
	Level     string `json:"level"`
	Priority  int32  `json:"priority"`
	Apply     string `json:"apply"`
	Paused    bool   `json:"paused"`
	DryRun    bool   `json:"dry_run"`
	Reverted  string `json:"reverted,omitempty"` // when, and by whom
	Workloads int32  `json:"workloads"`          // that it selects and no other policy does
	Elsewhere int32  `json:"elsewhere"`          // of them: sized by somebody else
	Problem   string `json:"problem,omitempty"`
}

// vpaWorkload is a workload that has an autoscaler.
type vpaWorkload struct {
	Workload   string `json:"workload"`   // NAMESPACE/KIND/NAME
	Autoscaler string `json:"autoscaler"` // its name
	Policy     string `json:"policy,omitempty"`
	Level      string `json:"level,omitempty"`
	Mode       string `json:"mode"` // of updates
	// State is "Applied", "Pending", "Waiting", "Stopped", "Elsewhere", "Recommend", "Leaving" or "Impossible".
	State      string         `json:"state"`
	Message    string         `json:"message,omitempty"`
	NotBefore  time.Time      `json:"not_before,omitzero"` // when the next change may be
	LastChange time.Time      `json:"last_change,omitzero"`
	InPlace    int64          `json:"in_place"` // pods that were changed while they ran
	Evicted    int64          `json:"evicted"`
	Failed     int64          `json:"failed"`
	Pods       int            `json:"pods"`
	Sized      int            `json:"sized"` // of them: with other requests than the template's
	Containers []vpaContainer `json:"containers"`
}

// vpaContainer is a container with what it requests. Quantities are by resource, "cpu" and "memory".
type vpaContainer struct {
	Name        string                       `json:"name"`
	Template    map[string]resource.Quantity `json:"template"`
	Now         map[string]resource.Quantity `json:"now"`    // the most of any pod
	Uneven      bool                         `json:"uneven"` // its pods differ
	Recommended map[string]resource.Quantity `json:"recommended"`

	template, now, recommended amounts
}

// vpaTotals are what is saved and added, over all pods.
type vpaTotals struct {
	Pods int       `json:"pods"`
	Done vpaChange `json:"done"` // from what templates say to what pods have
	Open vpaChange `json:"open"` // from there to what is recommended now
}

// vpaChange is a change of requests.
type vpaChange struct {
	Saved map[string]resource.Quantity `json:"saved"`
	Added map[string]resource.Quantity `json:"added"`

	saved, added amounts
}

// count counts one resource of a container, over all its pods.
func (c *vpaChange) count(i int, from, to int64) {
	c.saved[i] += max(0, from-to)
	c.added[i] += max(0, to-from)
}

func (c *vpaChange) complete() { c.Saved, c.Added = c.saved.quantities(), c.added.quantities() }

func newVPAStatusCommand(f *Factory, runF func(context.Context, *vpaStatusOptions) error) *cobra.Command {
	o := &vpaStatusOptions{vpaFlags: vpaFlags{f: f}}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what workloads are sized to, and what waits",
		Long: `Shows the policies with what they select, and every workload that has an autoscaler: whether its recommendation is applied, pending, waits for
a window or a cooldown, or is only recommended; what its containers request now and what is recommended; what that saves and adds.

  Applied     every pod has what is recommended, or is close enough
  Pending     its pods are changed in the next minutes
  Waiting     for the time that is shown: a window, a cooldown, the time of observation, a budget
  Stopped     by a pause, or because changes did not take hold
  Elsewhere   somebody else sizes it: it is left alone
  Recommend   it is only recommended: dry run, update mode Off, or reverted
  Leaving     no policy selects it any more: its autoscaler goes when its pods have their template's requests
  Impossible  not without what is not allowed; the message says what

Exit code 3 when the component is enabled and does not work, or when nothing is installed.`,
		Example: "  nopsctl vpa status\n  nopsctl vpa status -n shop",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return vpaStatusRun(cmd.Context(), o)
		},
	}
	o.bind(cmd, "namespace of the workloads")
	cmd.Flags().BoolVar(&o.all, "all", false, "workloads of all namespaces, as without --namespace")
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	return cmd
}

func vpaStatusRun(ctx context.Context, o *vpaStatusOptions) error {
	if err := checkOutput(o.output, "text", "json", "yaml"); err != nil {
		return err
	}
	if o.all && o.namespace != "" {
		return usage("--namespace and --all exclude each other")
	}
	const notYet = "the command ended before it was known"
	a := vpaStatusAnswer{
		SchemaVersion: 1, Context: o.cluster.kube.Context, StackNamespace: o.cluster.kube.Namespace, Namespace: o.namespace, State: "unknown", Message: notYet,
		Parts: []vpaPart{}, Policies: []vpaPolicy{}, Workloads: []vpaWorkload{},
	}
	a.Totals.Done.complete()
	a.Totals.Open.complete()
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

// find fills the answer in. The error is the exit code's.
func (o *vpaStatusOptions) find(ctx context.Context, a *vpaStatusAnswer) error {
	v, err := o.look(ctx)
	if err != nil {
		return err
	}
	a.Context = v.facts.Context
	record, err := v.read(ctx, o.namespace)
	if err != nil {
		return err
	}
	release, err := v.engine.Status(ctx)
	if err != nil {
		return err
	}
	component := install.ComponentStatus{State: "unknown", Message: "the release does not say"}
	for _, c := range release.Components {
		if c.Name == rightsizingComponent {
			component = c
		}
	}
	nothing := release.Health == install.NotInstalled
	if nothing { // as far as Helm knows: Argo CD and others render the chart without it
		live, err := v.live(ctx)
		if err != nil {
			return err
		}
		if len(live) > 0 {
			nothing, component = false, install.ComponentStatus{State: worst(live), Workloads: live}
		}
	}
	for _, w := range component.Workloads {
		a.Parts = append(a.Parts, vpaPart{strings.TrimPrefix(w.Component, "vpa-"), string(w.State), strings.Join(nonEmpty(w.Reason, w.Message), ": "), w.Version})
	}
	a.Problems = record.problems
	for i := range record.policies {
		a.Policies = append(a.Policies, policyOf(&record.policies[i]))
	}
	sizes := sizedBy(record.autoscalers)
	for i := range record.autoscalers {
		it, totals := &record.autoscalers[i], &a.Totals
		by := sizes[it.target()]
		if by != it {
			totals = &vpaTotals{} // the same pods are counted for the one that sizes them
		}
		w := record.workload(it, totals)
		if by != it && it.waits() {
			w.Message = "a copy that was imported, and only recommends: " + by.Name + " sizes it"
			if !by.sizes() {
				w.Message = "a copy that was imported, and only recommends, beside " + by.Name
			}
		}
		a.Workloads = append(a.Workloads, w)
	}
	a.Totals.Done.complete()
	a.Totals.Open.complete()
	return o.judge(a, component, nothing)
}

// live are the component's workloads as the cluster has them.
func (v *vpaSession) live(ctx context.Context) ([]workload.Summary, error) {
	labels := componentLabel + " in (" + strings.Join(vpaParts(), ",") + ")"
	list, err := v.client.AppsV1().Deployments(v.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
	if err != nil {
		return nil, unreachable("list Deployments of "+v.namespace, err)
	}
	var all []workload.Summary
	for i := range list.Items {
		all = append(all, workload.Deployment(&list.Items[i], nil))
	}
	return all, nil
}

// worst is the state of the part that is furthest from well.
func worst(parts []workload.Summary) install.ComponentState {
	state := workload.Ready
	for _, bad := range []workload.State{workload.Progressing, workload.Degraded, workload.Failed} {
		if slices.ContainsFunc(parts, func(s workload.Summary) bool { return s.State == bad }) {
			state = bad
		}
	}
	return install.ComponentState(state)
}

func policyOf(p *rightsizing.Policy) vpaPolicy {
	out := vpaPolicy{
		Name: p.Name, Level: string(p.Spec.Level), Priority: p.Spec.Priority, Apply: first(string(p.Spec.Apply), string(rightsizing.ApplyInPlace)), Paused: p.Spec.Paused, DryRun: p.Spec.DryRun,
		Reverted:  strings.Join(nonEmpty(p.Annotations[rightsizing.AnnotationReverted], p.Annotations[rightsizing.AnnotationRevertedBy]), ", by "),
		Workloads: p.Status.Workloads, Elsewhere: p.Status.Elsewhere,
	}
	switch {
	case p.Status.ObservedGeneration != p.Generation:
		out.Problem = "the policy controller has not seen its last change yet"
	default:
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" && c.Status == metav1.ConditionFalse {
				out.Problem = c.Message
			}
		}
	}
	return out
}

// workload is what is known of the workload of an autoscaler; what it saves and adds is counted.
func (r vpaRecord) workload(a *autoscaler, totals *vpaTotals) vpaWorkload {
	app := a.application()
	w := vpaWorkload{
		Workload: a.target().String(), Autoscaler: a.Name, Policy: a.Labels[rightsizing.LabelPolicy], Mode: a.mode(), State: app.State, Message: app.Message, NotBefore: app.NotBefore, LastChange: app.LastChange,
		InPlace: app.InPlace, Evicted: app.Evicted, Failed: app.Failed, Containers: []vpaContainer{},
	}
	if e, err := rightsizing.EffectiveOf(a.Annotations); err == nil && e != nil {
		w.Level = string(e.Level)
	}
	use := r.usage[a.target()]
	if use == nil {
		use = &requests{}
	}
	w.Pods, w.Sized = use.pods, use.sized
	if use.missing {
		w.Message = "there is no such workload"
	}
	totals.Pods += use.pods
	unknown := amounts{none, none}
	if !use.seen {
		unknown = amounts{unread, unread}
	}
	recommended := map[string]amounts{}
	for _, c := range a.Status.Recommendation.ContainerRecommendations {
		recommended[c.ContainerName] = amountsIn(c.Target)
	}
	templates := map[string]amounts{}
	if use.template != nil {
		for _, c := range lasting(use.template) {
			templates[c.Name] = requested(c)
		}
	}
	names := map[string]bool{}
	for name := range recommended {
		names[name] = true
	}
	for name := range templates {
		names[name] = true
	}
	for name := range use.containers {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c := vpaContainer{Name: name, template: amounts{unread, unread}, now: unknown, recommended: amounts{none, none}}
		if t, is := templates[name]; is {
			c.template, c.now = t, t // what new pods have
		}
		if to, is := recommended[name]; is {
			c.recommended = to
		}
		if have := use.containers[name]; have != nil {
			c.now, c.Uneven = have.most, have.least != have.most
			for i := range c.now {
				if use.sized > 0 && c.template[i] != unread {
					totals.Done.count(i, max(0, c.template[i])*int64(have.pods), have.sums[i])
				}
				if c.recommended[i] >= 0 && app.State != rightsizing.StateElsewhere {
					totals.Open.count(i, have.sums[i], c.recommended[i]*int64(have.pods))
				}
			}
		}
		c.Template, c.Now, c.Recommended = c.template.quantities(), c.now.quantities(), c.recommended.quantities()
		w.Containers = append(w.Containers, c)
	}
	return w
}

// judge says in one word and one sentence how things are; what does not work is an error.
func (o *vpaStatusOptions) judge(a *vpaStatusAnswer, component install.ComponentStatus, nothing bool) error {
	say := func(state, message string) { a.State, a.Message = state, message }
	broken := func(advice string) error {
		return &failure{class: "preflight", reason: "vpa: " + a.Message, advice: advice}
	}
	acting := slices.ContainsFunc(a.Policies, func(p vpaPolicy) bool { return !p.Paused && p.Reverted == "" })
	switch {
	case nothing:
		say("not-installed", "the stack is not installed in namespace "+a.StackNamespace)
		return broken("nopsctl install installs it; --stack-namespace says where it is")
	case component.State == install.ComponentUnavailable:
		say("not-installed", "the installed release has no containerRightsizing")
		return broken("nopsctl install upgrades it")
	case component.State == install.ComponentDisabled:
		say("disabled", "switched off: nothing is recommended or changed"+map[bool]string{true: "; what follows is what was recorded last"}[len(a.Workloads) > 0])
	case component.State == "degraded" || component.State == "failed" || component.State == "unknown":
		say("degraded", strings.Join(nonEmpty("the component is "+string(component.State), component.Reason, component.Message), ": "))
		return broken("nopsctl status says more")
	case component.State == "progressing":
		say("starting", strings.Join(nonEmpty("its programs start", component.Reason, component.Message), ": "))
	case len(a.Policies) == 0 && len(a.Workloads) == 0:
		say("idle", "it runs, and no RightsizingPolicy says what is to be sized: nothing is changed")
	case len(a.Policies) > 0 && !acting:
		say("paused", "every policy is paused or reverted: nothing is changed")
	default:
		say("running", "it works")
	}
	return nil
}

func (o *vpaStatusOptions) print(a vpaStatusAnswer) {
	t := sheet{o.f.IO.Out, o.f.styleOut(), o.f.IO.Width()}
	sign := map[string]event.Outcome{"running": event.OK, "starting": event.Warned, "idle": event.OK, "paused": event.Warned, "disabled": event.Skipped}[a.State]
	if sign == "" {
		sign = event.Failed
	}
	fmt.Fprintf(t.w, "%s %s\n", t.s.Sign(sign), t.s.Bold("vpa "+a.State))
	t.para(2, "", 0, a.Message)
	if a.State == "idle" {
		t.para(2, "", 0, "The least policy, which only recommends:")
		fmt.Fprintf(t.w, "\n%s", indented(leastPolicy, "    "))
	}
	const label = 12
	if len(a.Parts)+len(a.Problems) > 0 {
		fmt.Fprintln(t.w)
	}
	for _, p := range a.Parts {
		t.para(2, "", 0, strings.Join(nonEmpty(p.Name+" "+p.State, p.Version), ", ")+map[bool]string{true: ": " + p.Message}[p.Message != ""])
	}
	for _, p := range a.Problems {
		t.para(2, "not known", label, p)
	}
	if len(a.Policies) > 0 {
		fmt.Fprintln(t.w)
		rows := [][]string{{"POLICY", "LEVEL", "WORKLOADS", "ELSEWHERE", ""}}
		for _, p := range a.Policies {
			rows = append(rows, []string{p.Name, p.Level, strconv.Itoa(int(p.Workloads)), strconv.Itoa(int(p.Elsewhere)), p.word()})
		}
		t.table(2, rows)
		for _, p := range a.Policies {
			if notes := nonEmpty(map[bool]string{true: "reverted " + p.Reverted}[p.Reverted != ""], p.Problem); len(notes) > 0 {
				t.para(4, "", 0, clip(p.Name, 28)+": "+strings.Join(notes, "; "))
			}
		}
	}
	if len(a.Workloads) > 0 {
		fmt.Fprintln(t.w)
		t.table(2, workloadRows(a.Workloads))
		o.notes(t, a.Workloads)
		fmt.Fprintln(t.w)
		t.para(2, "so far", label, "saves "+a.Totals.Done.text("adds"))
		t.para(2, "to come", label, "what is recommended now would save "+a.Totals.Open.text("add"))
	} else if len(a.Policies) > 0 {
		t.para(2, "", 0, "No workload"+map[bool]string{true: " of namespace " + a.Namespace}[a.Namespace != ""]+" has an autoscaler.")
	}
}

// notes tell below the table what is not applied and why; workloads with the same reason share a line.
func (o *vpaStatusOptions) notes(t sheet, all []vpaWorkload) {
	var order []string
	of := map[string][]string{}
	for _, w := range all {
		text := w.Message
		if !w.NotBefore.IsZero() && w.NotBefore.After(o.f.Now()) {
			text = "until " + moment(w.NotBefore) + ": " + text
		}
		if w.State == rightsizing.StateApplied || text == "" {
			continue
		}
		if of[text] == nil {
			order = append(order, text)
		}
		of[text] = append(of[text], w.Workload)
	}
	if len(order) > 0 {
		fmt.Fprintln(t.w)
	}
	for _, text := range order {
		names := of[text]
		for i := range names[:min(3, len(names))] {
			names[i] = clip(names[i], 60)
		}
		who := strings.Join(names[:min(3, len(names))], ", ")
		if len(names) > 3 {
			who += fmt.Sprintf(" and %d more", len(names)-3)
		}
		t.para(2, "", 0, who+": "+text)
	}
}

func (p vpaPolicy) word() string {
	switch {
	case p.Problem != "":
		return "see below"
	case p.Reverted != "":
		return "reverted"
	case p.Paused:
		return "paused"
	case p.DryRun:
		return "dry run"
	}
	return p.Apply
}

// workloadRows is a row for each workload, and where it has several containers, one below it for each.
func workloadRows(all []vpaWorkload) [][]string {
	rows := [][]string{{"WORKLOAD", "STATE", "PODS", "CPU", "MEMORY"}}
	for _, w := range all {
		row := []string{w.Workload, w.State, strconv.Itoa(w.Pods)}
		if len(w.Containers) == 1 {
			rows = append(rows, append(row, w.Containers[0].arrows()...))
			continue
		}
		rows = append(rows, append(row, "", ""))
		for _, c := range w.Containers {
			rows = append(rows, append([]string{"  " + c.Name, "", ""}, c.arrows()...))
		}
	}
	return rows
}

// arrows are what a container requests and what is recommended, by resource.
func (c vpaContainer) arrows() []string {
	out := make([]string, 2)
	for i := range out {
		switch now, to := c.now[i], c.recommended[i]; {
		case to < 0 && now < 0:
			out[i] = "-"
		case to < 0 || shown(i, now) == shown(i, to):
			out[i] = shown(i, now)
		case now == none:
			out[i] = "none → " + shown(i, to)
		default:
			out[i] = shown(i, now) + " → " + shown(i, to)
		}
	}
	return out
}

// text is "1.5 CPU and 3Gi, adds 200m CPU".
func (c vpaChange) text(adds string) string {
	say := func(a amounts) string {
		var parts []string
		if a[0] > 0 {
			parts = append(parts, shown(0, a[0])+" CPU")
		}
		if a[1] > 0 {
			parts = append(parts, shown(1, a[1])+" memory")
		}
		return first(strings.Join(parts, " and "), "nothing")
	}
	return say(c.saved) + ", " + adds + " " + say(c.added)
}

func indented(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}

// leastPolicy is one to begin with.
const leastPolicy = `kubectl apply -f - <<'EOF'
apiVersion: vpa.nops.io/v1alpha1
kind: RightsizingPolicy
metadata: {name: default}
spec: {level: BalancedSavings, dryRun: true}
EOF
`
