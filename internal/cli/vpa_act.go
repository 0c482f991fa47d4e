package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// vpaActOptions are those of import and revert, which run the agent in the cluster.
type vpaActOptions struct {
	vpaFlags
	jobFlags
	verb  string
	names []string // as given
	all   bool
}

// vpaActAnswer is the JSON of vpa import and revert.
type vpaActAnswer struct {
	SchemaVersion int    `json:"schema_version"`
	Command       string `json:"command"` // "import" or "revert"
	// Output are the lines that the agent's program wrote.
	Output []string `json:"output,omitempty"`
	// Autoscalers are the Kubernetes VPA's that import is about.
	Autoscalers []vpaImported `json:"autoscalers,omitempty"`
	// Before and Sized are of revert: workloads with sized pods, before and afterwards. What is left then has to be restarted.
	Before *vpaSized    `json:"before,omitempty"`
	Sized  *vpaSized    `json:"sized,omitempty"`
	Error  *answerError `json:"error,omitempty"`
}

// vpaImported is an autoscaler of the Kubernetes VPA.
type vpaImported struct {
	Name     string `json:"name"` // NAMESPACE/NAME
	Workload string `json:"workload"`
	Mode     string `json:"mode"`  // of theirs
	There    bool   `json:"there"` // there is one of ours of that name, which stays as it is
}

func (o *vpaActOptions) bindAct(cmd *cobra.Command, what string, runF func(context.Context, *vpaActOptions) error) *cobra.Command {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && !o.all:
			return usageHint(cmd.CommandPath()+" --help shows how it is used", "name the %s, or give --all", what)
		case len(args) > 0 && o.all:
			return usage("%s and --all exclude each other", what)
		case o.all && o.namespace != "":
			return usageHint("name the "+what+" of one namespace", "--all is of all namespaces")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.names = args
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		return vpaActRun(cmd.Context(), o)
	}
	o.vpaFlags.bind(cmd, "namespace of the "+what)
	o.jobFlags.bind(cmd, true, 10*time.Minute)
	cmd.Flags().BoolVar(&o.all, "all", false, "all of them, of all namespaces")
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func newVPAImportCommand(f *Factory, runF func(context.Context, *vpaActOptions) error) *cobra.Command {
	o := &vpaActOptions{vpaFlags: vpaFlags{f: f}, verb: "import"}
	return o.bindAct(&cobra.Command{
		Use: "import [AUTOSCALER...]", Short: "Copy the Kubernetes VPA's autoscalers, to try ours beside them",
		Long: `Copies autoscalers of the Kubernetes VPA (verticalpodautoscalers.autoscaling.k8s.io), named NAMESPACE/NAME, into verticalpodautoscalers.vpa.nops.io, in
update mode Off and otherwise as they are: both recommend, theirs goes on applying, and theirs are not touched. What is there of ours under a name
stays as it is. To hand a workload over: delete theirs, then give ours an update mode, or let a RightsizingPolicy select the workload.

` + byJob,
		Example: "  nopsctl vpa import shop/web\n  nopsctl vpa import --all",
	}, "autoscalers", runF)
}

func newVPARevertCommand(f *Factory, runF func(context.Context, *vpaActOptions) error) *cobra.Command {
	o := &vpaActOptions{vpaFlags: vpaFlags{f: f}, verb: "revert"}
	cmd := o.bindAct(&cobra.Command{
		Use: "revert [WORKLOAD...]", Short: "Give pods back what their templates request",
		Long: `Gives the pods of these workloads, or with --all of every one, back the requests and limits of their templates: in place, without restarts and without
evictions. Workloads are left alone from then on, whatever policies say, until the annotation vpa.nops.io/reverted is removed from their
autoscalers (with --all also from the policies). Pods that cannot be changed while they run are named, with the command that replaces them.

` + byJob,
		Example: "  nopsctl vpa revert shop/Deployment/web\n  nopsctl vpa revert --all",
	}, "workloads", runF)
	cmd.ValidArgsFunction = o.completeWorkloads(true)
	return cmd
}

func vpaActRun(ctx context.Context, o *vpaActOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	answer := vpaActAnswer{SchemaVersion: 1, Command: o.verb}
	op := o.f.operation("vpa "+o.verb, o.cluster, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() error { return o.act(ctx, op, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(err error) {
			if err == nil {
				o.tell(answer)
			}
		})
}

func (o *vpaActOptions) act(ctx context.Context, op *operation, answer *vpaActAnswer) error {
	var err error
	for i := range o.names {
		if o.names[i], err = o.name(o.names[i]); err != nil {
			return err
		}
	}
	job, err := o.job(o.f, op, vpaProgram(), o.verb, &answer.Output)
	if err != nil {
		return err
	}
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return err
	}
	op.learn(reached(s.facts))
	v, err := o.f.vpa(ctx, s, o.cluster.kube.Namespace)
	if err != nil {
		return err
	}
	if o.verb == "import" {
		return o.imports(ctx, op, v, job, answer)
	}
	return o.reverts(ctx, op, v, job, answer)
}

// name is what the agent is given: NAMESPACE/NAME of an autoscaler, NAMESPACE/KIND/NAME of a workload.
func (o *vpaActOptions) name(text string) (string, error) {
	if o.verb == "revert" {
		t, err := targetOf(text, o.namespace)
		return t.String(), err
	}
	namespace, name, both := strings.Cut(text, "/")
	if !both {
		namespace, name = o.namespace, text
	}
	switch {
	case namespace == "" || name == "" || strings.Contains(name, "/"):
		return "", usageHint("as in shop/web", "%q names no autoscaler: expected NAMESPACE/NAME", text)
	case o.namespace != "" && namespace != o.namespace:
		return "", usage("%s is not in namespace %s, which --namespace names", text, o.namespace)
	}
	return namespace + "/" + name, nil
}

func (o *vpaActOptions) imports(ctx context.Context, op *operation, v *vpaSession, job agentJob, answer *vpaActAnswer) error {
	ours := map[string]bool{}
	served, err := v.list(ctx, rightsizing.Autoscalers(), "", func(u *unstructured.Unstructured) { ours[u.GetNamespace()+"/"+u.GetName()] = true })
	if err != nil {
		return err
	}
	if !served {
		return &failure{class: "preflight", reason: "this cluster has no " + rightsizing.Autoscalers().GroupResource().String(), advice: "nopsctl enable containerRightsizing brings it"}
	}
	var names []string
	theirs, err := v.list(ctx, rightsizing.UpstreamAutoscalers(), "", func(u *unstructured.Unstructured) {
		name := u.GetNamespace() + "/" + u.GetName()
		names = append(names, name)
		if !o.all && !slices.Contains(o.names, name) {
			return
		}
		text := func(fields ...string) string { s, _, _ := unstructured.NestedString(u.Object, fields...); return s }
		answer.Autoscalers = append(answer.Autoscalers, vpaImported{
			Name: name, Workload: u.GetNamespace() + "/" + text("spec", "targetRef", "kind") + "/" + text("spec", "targetRef", "name"), Mode: first(text("spec", "updatePolicy", "updateMode"), "Recreate"), There: ours[name],
		})
	})
	if err != nil {
		return err
	}
	if !theirs {
		return &failure{class: "preflight", reason: "this cluster has no " + rightsizing.UpstreamAutoscalers().GroupResource().String() + ": the Kubernetes VPA is not installed, and there is nothing to import"}
	}
	for _, want := range o.names {
		if !slices.Contains(names, want) {
			return usageHint("there are "+first(strings.Join(names[:min(10, len(names))], ", "), "none"), "there is no autoscaler %s of %s", want, rightsizing.UpstreamGroup)
		}
	}
	slices.SortFunc(answer.Autoscalers, func(a, b vpaImported) int { return strings.Compare(a.Name, b.Name) })
	o.f.announce("About to copy autoscalers of the Kubernetes VPA", v.facts, op.closing.Target)
	fresh := 0
	for _, a := range answer.Autoscalers {
		what := "of " + a.Workload + ", in mode Off (theirs: " + a.Mode + ")"
		if a.There {
			what = "stays as it is: there is one of ours of that name"
		} else {
			fresh++
		}
		fmt.Fprintf(o.f.IO.ErrOut, "  - %s %s\n", a.Name, what)
	}
	if fresh == 0 {
		op.nothingToDo("nothing to copy")
		return nil
	}
	if err := o.f.confirm(ctx, o.yes, true, "vpa import"); err != nil {
		return err
	}
	job.args = append(job.args, o.names...)
	if o.all {
		job.args = append(job.args, "--all")
	}
	job.half, job.goOn = "what was copied stays; the Kubernetes VPA's own were not touched", "run it again: what is there stays as it is"
	return v.run(ctx, job)
}

func (o *vpaActOptions) reverts(ctx context.Context, op *operation, v *vpaSession, job agentJob, answer *vpaActAnswer) error {
	there, known, err := o.before(ctx, v)
	if err != nil {
		return err
	}
	if known && there == nil {
		op.nothingToDo("no workload of this cluster was ever sized: there is nothing to take back")
		return nil
	}
	o.f.announce("About to give pods back what their templates request", v.facts, op.closing.Target)
	is := "what pods have is not known: you may not see them"
	if there != nil {
		answer.Before, is = there, there.String()
	}
	fmt.Fprintf(o.f.IO.ErrOut, "  %-10s %s\n  %-10s %s\n  %-10s %s\n", "of", first(strings.Join(o.names, ", "), "all workloads"), "there is", is,
		"from then", "they are left alone, whatever policies say, until annotation "+rightsizing.AnnotationReverted+" is removed")
	if err := o.f.confirm(ctx, o.yes, true, "vpa revert"); err != nil {
		return err
	}
	err = v.revert(ctx, job, o.names, v.whoami(ctx))
	if record, lookErr := v.read(context.WithoutCancel(ctx), ""); lookErr == nil {
		left := record.sized().of(o.names)
		answer.Sized = &left
	}
	return err
}

// before is what there is to revert. Nil and known: there are no autoscalers at all; not known: the user may not look, and the agent will.
func (o *vpaActOptions) before(ctx context.Context, v *vpaSession) (there *vpaSized, known bool, err error) {
	record, err := v.read(ctx, "")
	switch {
	case apierrors.IsForbidden(err):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case len(record.autoscalers) == 0 && len(record.policies) == 0:
		return nil, true, nil
	}
	var names []string
	for i := range record.autoscalers {
		names = append(names, record.autoscalers[i].target().String())
	}
	for _, want := range o.names {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, want) }) {
			return nil, false, usageHint("those that have one: "+first(strings.Join(names[:min(10, len(names))], ", "), "none"), "%s has no autoscaler of %s", want, rightsizing.Group)
		}
	}
	sized := record.sized().of(o.names)
	return &sized, true, nil
}

// tell says what is left to do.
func (o *vpaActOptions) tell(a vpaActAnswer) {
	if a.Sized == nil {
		return
	}
	w := o.f.IO.Out
	if len(a.Sized.Workloads) > 0 {
		fmt.Fprintln(w, "\nPods that cannot be changed while they run are replaced by:")
	}
	for _, s := range a.Sized.Workloads {
		fmt.Fprintf(w, "  %s\n", first(s.Restart, "# "+s.Workload+": its pods end by themselves"))
	}
	again := "kubectl annotate verticalpodautoscalers." + rightsizing.Group + " -n NAMESPACE NAME " + rightsizing.AnnotationReverted + "-"
	if o.all {
		again = resumeAll
	}
	fmt.Fprintf(o.f.IO.ErrOut, "They are left alone from now on. To let them be sized again:\n  %s\n", again)
}
