package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

type vpaExplainOptions struct {
	vpaFlags
	target target
}

// vpaExplainAnswer is the JSON of vpa explain.
type vpaExplainAnswer struct {
	SchemaVersion int            `json:"schema_version"`
	Workload      *vpaWorkload   `json:"workload,omitempty"`
	Resources     []vpaExplained `json:"resources"`
	Conditions    []vpaCondition `json:"conditions"`
	Schedule      *vpaSchedule   `json:"schedule,omitempty"` // absent: the autoscaler has no settings, and the defaults of the Kubernetes VPA hold
	Others        []string       `json:"others"`             // further autoscalers of the same workload
	Next          []string       `json:"next"`               // what a person can do
	Problems      []string       `json:"problems,omitempty"`
	Error         *answerError   `json:"error,omitempty"`
}

// vpaExplained is how the request of one resource of a container came to be.
type vpaExplained struct {
	rightsizing.Explanation

	Now   *resource.Quantity `json:"now,omitempty"`   // what it requests, the most of any pod
	Lower *resource.Quantity `json:"lower,omitempty"` // what lies between lower and upper is close enough
	Upper *resource.Quantity `json:"upper,omitempty"`
	// Made says that the recommender has recorded how it came to be; otherwise only the result is known.
	Made bool `json:"made"`

	unread bool // what it requests could not be read
}

// vpaSchedule is when and how a recommendation is applied.
type vpaSchedule struct {
	Apply         string               `json:"apply"`
	Cooldown      string               `json:"cooldown"`
	Observation   string               `json:"observation"`
	Windows       []rightsizing.Window `json:"windows"`
	MaxStepUp     int32                `json:"max_step_up"` // in percent; 0: any
	MaxStepDown   int32                `json:"max_step_down"`
	SingleReplica string               `json:"single_replica"`
	Yield         []string             `json:"yield"`               // resources that a HorizontalPodAutoscaler scales on: only recommended
	YieldWhy      map[string]string    `json:"yield_why,omitempty"` // why of those its target does not follow, by resource, where that was recorded
	Align         []string             `json:"align"`               // resources whose HorizontalPodAutoscaler follows
}

func newVPAExplainCommand(f *Factory, runF func(context.Context, *vpaExplainOptions) error) *cobra.Command {
	o := &vpaExplainOptions{vpaFlags: vpaFlags{f: f}}
	cmd := &cobra.Command{
		Use:   "explain WORKLOAD",
		Short: "Explain what a workload's containers are sized to, step by step",
		Long: `Explains, from what the recommender and the updater recorded, how the recommendation of each container came to be: usage, the percentile of
the policy's level, the margin, then what raised or bounded it; whether it is applied, when it will be, or why not. It needs neither the agents nor the
platform to answer.`,
		Example: "  nopsctl vpa explain shop/Deployment/web\n  nopsctl vpa explain deploy/web -n shop",
		Args:    oneArg("a workload, NAMESPACE/KIND/NAME"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.target, err = targetOf(args[0], o.namespace); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return vpaExplainRun(cmd.Context(), o)
		},
	}
	o.bind(cmd, "namespace of the workload")
	cmd.ValidArgsFunction = o.completeWorkloads(false)
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	return cmd
}

// completeWorkloads completes names of workloads that have an autoscaler.
func (o *vpaFlags) completeWorkloads(several bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		v, err := o.look(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _, err := v.autoscalers(ctx, o.namespace)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		by := sizedBy(all)
		for i := range all {
			if t := all[i].target(); by[t] == &all[i] && !slices.Contains(args, t.String()) {
				names = append(names, cobra.CompletionWithDesc(t.String(), all[i].application().State))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func vpaExplainRun(ctx context.Context, o *vpaExplainOptions) error {
	if err := checkOutput(o.output, "text", "json", "yaml"); err != nil {
		return err
	}
	a := vpaExplainAnswer{SchemaVersion: 1, Resources: []vpaExplained{}, Conditions: []vpaCondition{}, Others: []string{}, Next: []string{}}
	err := o.find(ctx, &a)
	if o.output == "text" {
		if err == nil {
			o.print(a)
		}
		return err
	}
	a.Error = answerErrorOf(err)
	return errors.Join(err, o.f.write(o.output, a))
}

func (o *vpaExplainOptions) find(ctx context.Context, a *vpaExplainAnswer) error {
	v, err := o.look(ctx)
	if err != nil {
		return err
	}
	record, err := v.read(ctx, o.target.Namespace)
	if err != nil {
		return err
	}
	a.Problems = record.problems
	var found []*autoscaler
	var names []string
	for i := range record.autoscalers {
		t := record.autoscalers[i].target()
		names = append(names, t.String())
		if strings.EqualFold(t.Kind, o.target.Kind) && t.Name == o.target.Name {
			found = append(found, &record.autoscalers[i])
		}
	}
	if len(found) == 0 {
		return o.unknown(record, names)
	}
	slices.SortStableFunc(found, sizesFirst)
	it := found[0]
	for _, other := range found[1:] {
		a.Others = append(a.Others, other.Name)
	}
	w := record.workload(it, &vpaTotals{})
	a.Workload, a.Conditions = &w, append(a.Conditions, it.Status.Conditions...)
	a.Resources = explained(it, w)
	effective, err := rightsizing.EffectiveOf(it.Annotations)
	if err != nil {
		a.Problems = append(a.Problems, err.Error())
	}
	if effective != nil {
		a.Schedule = scheduleOf(effective)
		a.Schedule.YieldWhy = rightsizing.YieldsOf(it.Annotations)
	}
	a.Next = o.next(it, w)
	return nil
}

// unknown says why there is nothing to explain.
func (o *vpaExplainOptions) unknown(record vpaRecord, names []string) error {
	if !record.served {
		return &failure{class: "preflight", reason: "this cluster has no " + rightsizing.Autoscalers().GroupResource().String(), advice: "nopsctl enable containerRightsizing brings it"}
	}
	hint := "none of namespace " + o.target.Namespace + " has one"
	if len(names) > 0 {
		hint = "those that have one: " + strings.Join(names[:min(10, len(names))], ", ")
	}
	if len(record.policies) == 0 {
		hint += "; there is no RightsizingPolicy that would make one"
	} else {
		hint += "; is it selected by a policy, and does neither it nor its namespace have the annotation " + rightsizing.AnnotationOff + "?"
	}
	return usageHint(hint, "%s has no autoscaler of %s", o.target, rightsizing.Group)
}

// explained joins what was recorded of how a recommendation came to be with what it is and what pods have.
func explained(it *autoscaler, w vpaWorkload) []vpaExplained {
	all := []vpaExplained{}
	for _, r := range it.Status.Recommendation.ContainerRecommendations {
		for i, name := range vpaResources {
			target, is := r.Target[string(name)]
			if !is {
				continue
			}
			x := vpaExplained{Explanation: rightsizing.Explanation{Container: r.ContainerName, Resource: string(name), Result: target}}
			for _, e := range it.Status.Explanations {
				if e.Container == r.ContainerName && e.Resource == string(name) {
					x.Explanation, x.Made = e, true
				}
			}
			if q, is := r.LowerBound[string(name)]; is {
				x.Lower = &q
			}
			if q, is := r.UpperBound[string(name)]; is {
				x.Upper = &q
			}
			for _, c := range w.Containers {
				if c.Name != r.ContainerName {
					continue
				}
				x.unread = c.now[i] == unread
				if q, is := c.Now[string(name)]; is {
					x.Now = &q
				}
			}
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(x, y vpaExplained) int {
		return strings.Compare(x.Container+" "+x.Resource, y.Container+" "+y.Resource)
	})
	return all
}

// Defaults of what settings leave out.
const (
	defaultCooldown    = 30 * time.Minute
	defaultObservation = 24 * time.Hour
)

func scheduleOf(e *rightsizing.Effective) *vpaSchedule {
	or := func(d *metav1.Duration, otherwise time.Duration) string {
		if d != nil {
			otherwise = d.Duration
		}
		return span(otherwise)
	}
	return &vpaSchedule{
		Apply: first(string(e.Apply), string(rightsizing.ApplyInPlace)), Cooldown: or(e.Cooldown, defaultCooldown), Observation: or(e.Observation, defaultObservation),
		Windows: append([]rightsizing.Window{}, e.Windows...), MaxStepUp: e.MaxStep.Up, MaxStepDown: e.MaxStep.Down, SingleReplica: first(string(e.SingleReplica), string(rightsizing.SingleInPlace)),
		Yield: append([]string{}, e.Yield...), Align: append([]string{}, e.Align...),
	}
}

// span is a duration without parts that are nought: 30m, 24h.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// next is what a person can do about a workload.
func (o *vpaExplainOptions) next(it *autoscaler, w vpaWorkload) []string {
	steps := []string{}
	ours := "verticalpodautoscalers." + rightsizing.Group + " " + it.Name + " -n " + it.Namespace
	switch {
	case it.Annotations[rightsizing.AnnotationReverted] != "":
		return append(steps, "let it be sized again: kubectl annotate "+ours+" "+rightsizing.AnnotationReverted+"- "+rightsizing.AnnotationRevertedBy+"-")
	case w.Policy != "" && w.Mode == "Off":
		steps = append(steps, "apply it: the policy "+w.Policy+" is paused, or a dry run (kubectl edit rightsizingpolicies "+w.Policy+")")
	case w.Mode == "Off":
		steps = append(steps, "apply it: kubectl patch "+ours+` --type=merge -p '{"spec":{"updatePolicy":{"updateMode":"InPlaceOrRecreate"}}}'`)
	}
	if w.State == rightsizing.StateImpossible && len(it.Status.Recommendation.ContainerRecommendations) > 0 {
		if command := restart(it.target()); command != "" {
			steps = append(steps, "new pods are sized when they are created: "+command)
		}
	}
	steps = append(steps, "give its pods back what their template requests: nopsctl vpa revert "+w.Workload)
	if w.Policy != "" {
		steps = append(steps, fmt.Sprintf("keep policies away from it: kubectl annotate %s/%s -n %s %s=true", strings.ToLower(it.Spec.TargetRef.Kind), it.Spec.TargetRef.Name, it.Namespace, rightsizing.AnnotationOff))
	}
	return steps
}

func (o *vpaExplainOptions) print(a vpaExplainAnswer) {
	t := sheet{o.f.IO.Out, o.f.styleOut(), o.f.IO.Width()}
	w, now := a.Workload, o.f.Now()
	const label = 12
	t.para(0, "", 0, t.s.Bold(w.Workload)+": "+w.State)
	t.para(2, "", 0, w.Message)
	if w.NotBefore.After(now) {
		t.para(2, "next change", label+2, "not before "+moment(w.NotBefore)+", in "+ago(w.NotBefore, now))
	}
	fmt.Fprintln(t.w)
	by := "an autoscaler of somebody's own, " + w.Autoscaler
	if w.Policy != "" {
		by = w.Policy + ", level " + w.Level
	}
	t.para(2, "policy", label, by)
	t.para(2, "mode", label, w.Mode)
	t.para(2, "pods", label, fmt.Sprintf("%d, of them %d with other requests than their template's", w.Pods, w.Sized))
	if !w.LastChange.IsZero() {
		t.para(2, "changed", label, fmt.Sprintf("last %s; so far %d in place, %d by eviction, %d in vain", past(now, w.LastChange), w.InPlace, w.Evicted, w.Failed))
	}
	for _, p := range a.Problems {
		t.para(2, "not known", label, p)
	}
	if len(a.Others) > 0 {
		t.para(2, "besides", label, "further autoscalers of the same workload: "+strings.Join(a.Others, ", "))
	}
	if len(a.Resources) == 0 {
		fmt.Fprintln(t.w)
		t.para(2, "", 0, "There is no recommendation yet.")
	}
	for _, x := range a.Resources {
		fmt.Fprintln(t.w)
		x.print(t)
	}
	if s := a.Schedule; s != nil {
		fmt.Fprintf(t.w, "\n%s\n", t.s.Bold("When and how"))
		s.print(t)
	}
	told := false
	for _, c := range a.Conditions {
		if c.Type == "RecommendationProvided" && c.Status == "True" || c.Message == "" && c.Status != "True" {
			continue
		}
		if !told {
			fmt.Fprintf(t.w, "\n%s\n", t.s.Bold("To know"))
			told = true
		}
		t.para(2, "", 0, c.Type+" "+strings.ToLower(c.Status)+": "+first(c.Message, c.Reason))
	}
	if len(a.Next) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", t.s.Bold("What you can do"))
	}
	for _, n := range a.Next {
		t.para(2, "-", 2, n)
	}
}

// print tells how one request came to be, a line for each step.
func (x vpaExplained) print(t sheet) {
	i := 0
	if x.Resource == "memory" {
		i = 1
	}
	text := func(q resource.Quantity) string {
		if i == 0 {
			return shown(i, q.MilliValue())
		}
		return shown(i, q.Value())
	}
	head := text(x.Result)
	if x.Now != nil && text(*x.Now) != head {
		head = text(*x.Now) + " → " + head
	} else if x.Now == nil {
		head = "none → " + head
		if x.unread {
			head = "? → " + text(x.Result)
		}
	}
	const label = 12
	fmt.Fprintf(t.w, "%s\n", t.s.Bold(x.Container+", "+x.Resource+": "+head))
	if !x.Made {
		t.para(2, "", 0, "How it came to be is not recorded.")
	} else {
		usage := "median " + text(x.Median) + ", peak " + text(x.Peak)
		if !x.Since.IsZero() && i == 0 { // samples are counted of CPU alone
			usage += fmt.Sprintf("; %d samples since %s", x.Samples, moment(x.Since))
		}
		t.para(2, "usage", label, usage)
		of := "of the level " + string(x.Level)
		if x.Level == "" {
			of = "as the Kubernetes VPA has it"
		}
		percent := func(f float64) string { return strconv.FormatFloat(f*100, 'f', -1, 64) + " %" }
		which := " of the time it uses no more, "
		if i == 1 {
			which = " of the days its peak is no higher, "
		}
		t.para(2, "percentile", label, text(x.AtPercent)+": "+percent(x.Percentile)+which+of)
		t.para(2, "margin", label, text(x.Local)+": "+percent(x.Margin)+" more")
		for _, s := range x.Steps {
			t.para(2, s.Rule, label, text(s.To)+": "+s.Why)
		}
		if x.Held != nil {
			t.para(2, "held", label, fmt.Sprintf("memory ran out at %s: at least %s until %s", moment(x.HeldSince), text(*x.Held), moment(x.HeldSince.Add(rightsizing.OOMHold))))
		}
	}
	result := text(x.Result)
	if x.Lower != nil && x.Upper != nil {
		result += "; between " + text(*x.Lower) + " and " + text(*x.Upper) + " is close enough"
	}
	t.para(2, "result", label, result)
}

func (s *vpaSchedule) print(t sheet) {
	const label = 14
	t.para(2, "apply", label, map[string]string{
		string(rightsizing.ApplyInPlace):           "in place, never by eviction",
		string(rightsizing.ApplyInPlaceOrRecreate): "in place, and by eviction where nothing else helps",
		string(rightsizing.ApplyInitial):           "to new pods only",
	}[s.Apply])
	windows := "any time"
	if len(s.Windows) > 0 {
		var all []string
		for _, w := range s.Windows {
			all = append(all, fmt.Sprintf("%q for %s (%s)", w.Schedule, span(w.Duration.Duration), first(w.TimeZone, "UTC")))
		}
		windows = strings.Join(all, ", ")
	}
	t.para(2, "windows", label, windows)
	t.para(2, "cooldown", label, s.Cooldown+" between two changes")
	t.para(2, "observation", label, s.Observation+" before the first change")
	var steps []string
	if s.MaxStepUp > 0 {
		steps = append(steps, fmt.Sprintf("%d %% up", s.MaxStepUp))
	}
	if s.MaxStepDown > 0 {
		steps = append(steps, fmt.Sprintf("%d %% down", s.MaxStepDown))
	}
	if len(steps) > 0 {
		t.para(2, "one change", label, "at most "+strings.Join(steps, ", "))
	}
	t.para(2, "a single pod", label, map[string]string{
		string(rightsizing.SingleInPlace): "in place only", string(rightsizing.SingleNever): "is left alone", string(rightsizing.SingleEvict): "may be evicted",
	}[s.SingleReplica])
	head := "left alone"
	for _, name := range s.Yield {
		t.para(2, head, label, name+": "+first(s.YieldWhy[name], "a HorizontalPodAutoscaler scales on it")+", so it is only recommended")
		head = ""
	}
	if len(s.Align) > 0 {
		t.para(2, "aligned", label, strings.Join(s.Align, ", ")+": the HorizontalPodAutoscaler's target follows the requests")
	}
}
