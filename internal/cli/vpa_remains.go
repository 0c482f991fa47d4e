package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// vpaSized are workloads some of whose pods have other requests than their templates say, because the VPA gave them those.
type vpaSized struct {
	Workloads []vpaSizedWorkload `json:"workloads"`
	// Unread are workloads, as NAMESPACE/KIND/NAME, of kinds whose templates are not read: an autoscaler may have sized their pods.
	Unread   []string `json:"unread,omitempty"`
	Problems []string `json:"problems,omitempty"` // what could not be looked at
}

type vpaSizedWorkload struct {
	Workload string `json:"workload"` // NAMESPACE/KIND/NAME
	Pods     int    `json:"pods"`     // that are sized
	// Restart is the command that gives them back what their template says: it replaces them.
	Restart string `json:"restart,omitempty"`
}

func (s vpaSized) any() bool { return len(s.Workloads)+len(s.Unread) > 0 }

func (s vpaSized) pods() (n int) {
	for _, w := range s.Workloads {
		n += w.Pods
	}
	return n
}

// sizedNamed is how many workloads are named in one line.
const sizedNamed = 5

// String is one line.
func (s vpaSized) String() string {
	if !s.any() {
		return "no workload with sized pods"
	}
	var names, all []string
	for _, w := range s.Workloads {
		names = append(names, w.Workload)
	}
	if len(names) > 0 {
		all = append(all, fmt.Sprintf("%s whose pods (%d) have sized requests: %s", count(len(names), "workload"), s.pods(), someOf(names)))
	}
	if len(s.Unread) > 0 {
		all = append(all, fmt.Sprintf("%s whose pods may have sized requests, of kinds that are not read here: %s", count(len(s.Unread), "workload"), someOf(s.Unread)))
	}
	return strings.Join(all, "; ")
}

// someOf names the first of them.
func someOf(names []string) string {
	shown := slices.Clone(names[:min(sizedNamed, len(names))])
	if more := len(names) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(shown, ", ")
}

// of are those of the named workloads; of all without names.
func (s vpaSized) of(names []string) vpaSized {
	if len(names) == 0 {
		return s
	}
	out := vpaSized{Workloads: []vpaSizedWorkload{}, Problems: s.Problems}
	for _, w := range s.Workloads {
		for _, n := range names {
			if strings.EqualFold(n, w.Workload) {
				out.Workloads = append(out.Workloads, w)
			}
		}
	}
	for _, w := range s.Unread {
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, w) }) {
			out.Unread = append(out.Unread, w)
		}
	}
	return out
}

// sized finds them in a record.
func (r vpaRecord) sized() vpaSized {
	s := vpaSized{Workloads: []vpaSizedWorkload{}, Problems: r.problems}
	seen := map[target]bool{}
	for i := range r.autoscalers {
		t := r.autoscalers[i].target()
		if use := r.usage[t]; use != nil && use.sized > 0 && !seen[t] {
			s.Workloads = append(s.Workloads, vpaSizedWorkload{t.String(), use.sized, restart(t)})
		}
		if use := r.usage[t]; use != nil && use.foreign && r.autoscalers[i].mayHaveSized() && !slices.Contains(s.Unread, t.String()) {
			s.Unread = append(s.Unread, t.String())
		}
		seen[t] = true
	}
	return s
}

// restart is the command that replaces the pods of a workload; empty of one whose pods end by themselves.
func restart(t target) string {
	switch t.Kind {
	case "Deployment", "StatefulSet", "DaemonSet":
		return "kubectl rollout restart " + strings.ToLower(t.Kind) + "/" + t.Name + " -n " + t.Namespace
	}
	return ""
}

// vpaRemains are the sized pods of a component that goes.
type vpaRemains struct {
	v *vpaSession
	vpaSized
	by string // who took them back
}

func (f *Factory) vpaRemains(ctx context.Context, s *session, namespace string) (*vpaRemains, error) {
	v, err := f.vpa(ctx, s, namespace)
	return &vpaRemains{v: v}, err
}

func (r *vpaRemains) look(ctx context.Context) error {
	record, err := r.v.read(ctx, "")
	if err == nil && len(record.autoscalers) > 0 && len(record.problems) > 0 {
		err = &failure{class: "failed", reason: strings.Join(record.problems, "; ")}
	}
	r.vpaSized = record.sized()
	return err
}

func (r *vpaRemains) words() remainsWords {
	return remainsWords{
		program: vpaProgram(), what: "what containerRightsizing changed", unknown: "whether pods have requests that containerRightsizing gave them is not known",
		question: "Give those pods back first what their templates request, in place?",
		demand:   "leaves as they are", choices: "--revert gives them back first what their templates request, in place; --no-revert leaves them until they are replaced",
		warning: event.Warning{ID: warnSized, Message: "nobody sizes any more: ", Hint: "nopsctl vpa revert --all gives them back what their templates request, also while containerRightsizing is switched off; so does a restart"},
		stays:   "containerRightsizing stays, and leaves its workloads alone", resume: "to let it go on as before: " + resumeAll,
	}
}

// resumeAll takes the marks away that a revert of all leaves.
const resumeAll = "kubectl annotate rightsizingpolicies.vpa.nops.io --all " + rightsizing.AnnotationReverted + "- ; kubectl annotate verticalpodautoscalers.vpa.nops.io -A --all " + rightsizing.AnnotationReverted + "-"

func (r *vpaRemains) takeBack(ctx context.Context, job agentJob, operation string) error {
	r.by = r.v.whoami(ctx) + ": nopsctl " + operation
	if err := r.v.revert(ctx, job, nil, r.by); err != nil {
		return err
	}
	record, err := r.v.read(ctx, "")
	if err != nil {
		return err
	}
	for _, w := range record.sized().Workloads { // that is no reason to stay: the webhook would size their next pods again
		job.observe.Emit(event.Warning{ID: warnSized, Message: fmt.Sprintf("%d pods of %s cannot be changed while they run", w.Pods, w.Workload), Hint: w.Restart})
	}
	return nil
}

// settlePatience is how long the component's pods may take to end.
const settlePatience = 2 * time.Minute

// ended waits until no program of the component runs.
func (r *vpaRemains) ended(ctx context.Context) error {
	labels := componentLabel + " in (" + strings.Join(vpaParts(), ",") + ")"
	sleep, until := r.v.f.Sleep, r.v.f.Now().Add(settlePatience)
	if sleep == nil {
		sleep = pauseFor
	}
	for {
		pods, err := r.v.client.CoreV1().Pods(r.v.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
		if err == nil && len(pods.Items) == 0 {
			return nil
		}
		if err == nil && !r.v.f.Now().Before(until) {
			err = &failure{class: "timeout", reason: fmt.Sprintf("%d pods of it have not ended within %s", len(pods.Items), settlePatience)}
		}
		if err == nil {
			err = sleep(ctx, jobPoll)
		}
		if err != nil {
			return err
		}
	}
}

// after gives HorizontalPodAutoscalers whose targets were made to follow requests their own targets back, also where pods keep what they have:
// nobody moves those targets on any more, and with ones that are too high the pods that replace them would be scaled in. As long as a program of it runs it
// would make them follow anew.
func (r *vpaRemains) after(ctx context.Context, observe event.Func) error {
	start, advice := r.v.f.Now(), "nopsctl vpa revert --all gives them back, too, also while containerRightsizing is switched off"
	var names []types.NamespacedName
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := r.v.client.AutoscalingV2().HorizontalPodAutoscalers(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			observe.Emit(event.Warning{ID: warnSized, Message: "whether there are HorizontalPodAutoscalers whose targets followed requests is not known: " + oneLine(unreachable("list them", err)), Hint: advice})
			return nil
		}
		for i := range list.Items {
			if h := &list.Items[i]; rightsizing.RestoreTargets(h) != nil {
				names = append(names, types.NamespacedName{Namespace: h.Namespace, Name: h.Name})
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if len(names) == 0 {
		return nil
	}
	what := count(len(names), "HorizontalPodAutoscaler")
	if err := r.ended(ctx); err != nil {
		return &failure{reason: "containerRightsizing is switched off; targets of " + what + " still are what they were made to be by it", err: err, advice: advice}
	}
	var errs []error
	for _, n := range names {
		if _, err := rightsizing.GiveTargetsBack(ctx, r.v.client.AutoscalingV2().HorizontalPodAutoscalers(n.Namespace), n.Name, "nopsctl"); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &failure{reason: fmt.Sprintf("containerRightsizing is switched off; targets of %d of %s still are what they were made to be by it", len(errs), what), err: err, advice: advice}
	}
	observe.Emit(event.StepFinished{Step: "targets", Title: "Giving targets that followed requests back", Outcome: event.OK, Message: what, Duration: r.v.f.Now().Sub(start)})
	return nil
}

// settle takes the marks away, which were the operation's own, so that the policies hold again when the component is switched on. As long as a program of it runs
// it would begin again at once.
func (r *vpaRemains) settle(ctx context.Context) error {
	if err := r.ended(ctx); err != nil {
		return &failure{reason: "containerRightsizing is disabled; policies keep the mark of the revert", err: err, advice: "before it is enabled again: " + resumeAll}
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{rightsizing.AnnotationReverted: nil, rightsizing.AnnotationRevertedBy: nil}}})
	if err != nil {
		return fmt.Errorf("marks of the revert: %w", err)
	}
	for _, api := range []schema.GroupVersionResource{rightsizing.Policies(), rightsizing.Autoscalers()} {
		var marked []types.NamespacedName
		if _, err := r.v.list(ctx, api, "", func(u *unstructured.Unstructured) {
			if u.GetAnnotations()[rightsizing.AnnotationRevertedBy] == r.by {
				marked = append(marked, types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()})
			}
		}); err != nil {
			return err
		}
		for _, m := range marked {
			if _, err := r.v.dynamic.Resource(api).Namespace(m.Namespace).Patch(ctx, m.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "nopsctl"}); err != nil && !apierrors.IsNotFound(err) {
				return &failure{reason: "containerRightsizing is disabled; " + m.String() + " keeps the mark of the revert", err: err, advice: "before it is enabled again: " + resumeAll}
			}
		}
	}
	return nil
}

// vpaParts are the component's workloads, by their label.
func vpaParts() []string {
	for _, c := range install.Components() {
		if c.Name == rightsizingComponent {
			return c.Workloads
		}
	}
	return nil
}

// revert runs the agent's revert: of these workloads, or without any of all.
func (v *vpaSession) revert(ctx context.Context, job agentJob, workloads []string, by string) error {
	job.args = append([]string{"revert"}, workloads...)
	again := "nopsctl vpa revert " + strings.Join(workloads, " ")
	if len(workloads) == 0 {
		job.args, again = []string{"revert", "--all"}, "nopsctl vpa revert --all"
	}
	job.args = append(job.args, "--timeout="+job.patience.String(), "--by="+by)
	job.half = "workloads that it had reached are left alone, and their pods have their templates' requests or will; the others are as they were"
	job.goOn = again + " goes on from there; nopsctl vpa status shows what is left"
	return v.run(ctx, job)
}
