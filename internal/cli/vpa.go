package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// rightsizingComponent is the component's public name.
const rightsizingComponent = "containerRightsizing"

// vpaProgram is the agent, run as a Job with the identity of the part that makes autoscalers.
func vpaProgram() agentProgram {
	return agentProgram{
		name: "nops-vpa", command: "vpa", component: rightsizingComponent, label: "vpa-policy",
		byHand: withoutPolicyController,
	}
}

// withoutPolicyController is how pods get back what their templates say where no policy controller runs, as docs/vpa.md has it. Commands
// have lines of their own, to be copied.
func withoutPolicyController(namespace string) string {
	return `the updater goes first, for it would resize new pods, too:
    kubectl scale deployment -n ` + namespace + ` nops-vpa-updater nops-vpa-admission-controller --replicas=0
    kubectl delete mutatingwebhookconfiguration nops-vpa
    and once the pods of the two are gone, kubectl rollout restart of the workloads: new pods are as their templates say, and stay so.
    HorizontalPodAutoscalers with the annotation ` + rightsizing.AnnotationTargets + `: set their targets to the percent in it, then remove it`
}

func newVPACommand(f *Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vpa",
		Short: "See what containers are sized to and why, and act: import, revert",
		Long: `The nOps VPA (component containerRightsizing) gives containers the requests that they need, by the RightsizingPolicies of the cluster, without
editing workloads. status and explain read what it recorded, with your own permissions. import and revert run its image as a Job, with its
identity and digest: revert works while the component is switched off and while the platform cannot be reached.

Workloads are named NAMESPACE/KIND/NAME, or KIND/NAME with --namespace. The stack itself is in --stack-namespace.`,
		Example: `  nopsctl vpa status
  nopsctl vpa explain shop/Deployment/web
  nopsctl vpa import --all
  nopsctl vpa revert shop/Deployment/web`,
		Args: noSuchCommand, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVPAStatusCommand(f, nil), newVPAExplainCommand(f, nil), newVPAImportCommand(f, nil), newVPARevertCommand(f, nil))
	return cmd
}

// vpaFlags are those of every command of vpa. Their --namespace is the workloads'.
type vpaFlags struct {
	f         *Factory
	cluster   clusterFlags
	namespace string
	output    string
}

func (o *vpaFlags) bind(cmd *cobra.Command, about string) {
	o.cluster.kube.Namespace = defaultNamespace
	var shared pflag.FlagSet
	o.cluster.kube.BindFlags(&shared)
	shared.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "namespace" {
			flag.Name, flag.Shorthand, flag.Usage = "stack-namespace", "", "namespace of the stack"
		}
		cmd.Flags().AddFlag(flag)
	})
	cmd.Flags().StringVar(&o.cluster.release, "release", defaultRelease, "name of the Helm release")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", about)
}

// vpaSession is a cluster with what the VPA left in it.
type vpaSession struct{ *reach }

func (f *Factory) vpa(ctx context.Context, s *session, namespace string) (*vpaSession, error) {
	r, err := f.reach(ctx, s, namespace)
	return &vpaSession{r}, err
}

func (o *vpaFlags) look(ctx context.Context) (*vpaSession, error) {
	s, err := o.f.open(o.cluster, nil)
	if err != nil {
		return nil, err
	}
	return o.f.vpa(ctx, s, o.cluster.kube.Namespace)
}

// target names a workload.
type target struct{ Namespace, Kind, Name string }

// String is as people and the agent write it.
func (t target) String() string { return t.Namespace + "/" + t.Kind + "/" + t.Name }

// targetOf reads NAMESPACE/KIND/NAME, or KIND/NAME in the given namespace. Kinds may be written as kubectl's resources are.
func targetOf(text, namespace string) (target, error) {
	parts := strings.Split(text, "/")
	var t target
	switch {
	case slices.Contains(parts, ""), len(parts) < 2, len(parts) > 3:
		return t, usageHint("as in shop/Deployment/web", "%q names no workload: expected NAMESPACE/KIND/NAME", text)
	case len(parts) == 3:
		t = target{parts[0], parts[1], parts[2]}
		if namespace != "" && namespace != t.Namespace {
			return t, usage("%s is not in namespace %s, which --namespace names", text, namespace)
		}
	case namespace == "":
		return t, usageHint("nopsctl vpa status lists them", "in which namespace is %s? NAMESPACE/%s, or --namespace", text, text)
	default:
		t = target{namespace, parts[0], parts[1]}
	}
	for kind, names := range map[string][]string{
		"Deployment": {"deploy", "deployment", "deployments"}, "StatefulSet": {"sts", "statefulset", "statefulsets"}, "DaemonSet": {"ds", "daemonset", "daemonsets"},
		"CronJob": {"cj", "cronjob", "cronjobs"}, "ReplicaSet": {"rs", "replicaset", "replicasets"}, "Job": {"job", "jobs"},
	} {
		if slices.Contains(names, strings.ToLower(t.Kind)) {
			t.Kind = kind
		}
	}
	return t, nil
}

// resources is what there is of one API; nil where it is not served.
func (v *vpaSession) resources(r schema.GroupVersionResource) (dynamic.NamespaceableResourceInterface, error) {
	_, err := v.mapper.ResourceFor(r)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unreachable("find "+r.GroupResource().String(), err)
	}
	return v.dynamic.Resource(r), nil
}

// page is how many objects are asked for at a time.
const page = 500

// list reads all objects of one API, of one namespace or of all. served is whether there is such an API.
func (v *vpaSession) list(ctx context.Context, r schema.GroupVersionResource, namespace string, each func(*unstructured.Unstructured)) (served bool, err error) {
	all, err := v.resources(r)
	if err != nil || all == nil {
		return false, err
	}
	var in dynamic.ResourceInterface = all
	if namespace != "" {
		in = all.Namespace(namespace)
	}
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := in.List(ctx, options)
		switch {
		case apierrors.IsNotFound(err): // the definition went meanwhile
			return false, nil
		case apierrors.IsForbidden(err):
			return true, &failure{class: "auth", reason: "list " + r.GroupResource().String(), err: err, advice: "what the VPA recorded is read with your own permissions: list on " + r.GroupResource().String()}
		case err != nil:
			return true, unreachable("list "+r.GroupResource().String(), err)
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return true, nil
		}
	}
}

// autoscaler is one of ours, as far as it is shown.
type autoscaler struct {
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		TargetRef struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"targetRef"`
		UpdatePolicy struct {
			UpdateMode string `json:"updateMode"`
		} `json:"updatePolicy"`
	} `json:"spec"`
	Status struct {
		Recommendation struct {
			ContainerRecommendations []struct {
				ContainerName string                       `json:"containerName"`
				Target        map[string]resource.Quantity `json:"target"`
				LowerBound    map[string]resource.Quantity `json:"lowerBound"`
				UpperBound    map[string]resource.Quantity `json:"upperBound"`
			} `json:"containerRecommendations"`
		} `json:"recommendation"`
		Conditions   []vpaCondition            `json:"conditions"`
		Explanations []rightsizing.Explanation `json:"explanations"`
		Application  rightsizing.Application   `json:"application"`
	} `json:"status"`
}

// vpaCondition is a condition of an autoscaler.
type vpaCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

func (a *autoscaler) target() target {
	return target{a.Namespace, a.Spec.TargetRef.Kind, a.Spec.TargetRef.Name}
}

// mode is the update mode; without one it is upstream's default.
func (a *autoscaler) mode() string { return first(a.Spec.UpdatePolicy.UpdateMode, "Recreate") }

// sizes says whether it sizes its workload's pods, now or when their time comes.
func (a *autoscaler) sizes() bool {
	switch a.application().State {
	case rightsizing.StateRecommend, rightsizing.StateElsewhere, rightsizing.StateLeaving, rightsizing.StateStopped:
		return false
	}
	return a.mode() != "Off"
}

// mayHaveSized says whether pods may have been sized by it: it is on, or was changed since it was made, or says so.
func (a *autoscaler) mayHaveSized() bool {
	return a.mode() != "Off" || a.Generation > 1 || !a.Status.Application.LastChange.IsZero()
}

// waits says whether it is a copy of one of the Kubernetes VPA that nobody turned on yet. A policy's autoscaler sizes beside it.
func (a *autoscaler) waits() bool {
	return a.Annotations[rightsizing.AnnotationImported] != "" && a.mode() == "Off"
}

// sizesFirst orders autoscalers of one workload by which of them sizes it: a person's own before a policy's, what waits to be turned on last.
func sizesFirst(a, b *autoscaler) int {
	rank := func(it *autoscaler) int {
		switch {
		case it.waits():
			return 2
		case it.Labels[rightsizing.LabelPolicy] != "":
			return 1
		}
		return 0
	}
	return cmp.Compare(rank(a), rank(b))
}

// sizedBy is the autoscaler that sizes a workload, of each that has any.
func sizedBy(all []autoscaler) map[target]*autoscaler {
	by := map[target]*autoscaler{}
	for i := range all {
		if t := all[i].target(); by[t] == nil || sizesFirst(&all[i], by[t]) < 0 {
			by[t] = &all[i]
		}
	}
	return by
}

func (a *autoscaler) condition(kind string) (vpaCondition, bool) {
	for _, c := range a.Status.Conditions {
		if c.Type == kind && c.Status == "True" {
			return c, true
		}
	}
	return vpaCondition{}, false
}

// application is what became of the recommendation. Where the updater has recorded nothing, it is what can be told without it.
func (a *autoscaler) application() rightsizing.Application {
	app := a.Status.Application
	at, by := a.Annotations[rightsizing.AnnotationReverted], a.Annotations[rightsizing.AnnotationRevertedBy]
	if at != "" {
		app.State, app.NotBefore = rightsizing.StateRecommend, time.Time{}
		app.Message = strings.Join(nonEmpty("reverted at "+at, by), " by ") + "; remove annotation " + rightsizing.AnnotationReverted + " to go on"
		return app
	}
	if app.State != "" {
		return app
	}
	elsewhere, is := a.condition(rightsizing.ConditionManagedElsewhere)
	unsupported, inVain := a.condition("ConfigUnsupported")
	switch {
	case is:
		app.State, app.Message = rightsizing.StateElsewhere, elsewhere.Message
	case a.mode() == "Off":
		app.State, app.Message = rightsizing.StateRecommend, "it is only recommended: the update mode is Off"
	case len(a.Status.Recommendation.ContainerRecommendations) == 0 && inVain:
		app.State, app.Message = rightsizing.StateImpossible, "nothing is recommended: "+first(unsupported.Message, unsupported.Reason)
	case len(a.Status.Recommendation.ContainerRecommendations) == 0:
		app.State, app.Message = rightsizing.StateWaiting, "there is no recommendation yet"
	default:
		app.State, app.Message = rightsizing.StateWaiting, "the updater has not looked at it yet"
	}
	return app
}

// vpaRecord is what is there: policies, autoscalers, and the pods that they are about.
type vpaRecord struct {
	served      bool // there is the API
	policies    []rightsizing.Policy
	autoscalers []autoscaler         // by workload
	usage       map[target]*requests // of workloads that have an autoscaler
	problems    []string
}

// read reads policies and autoscalers, of one namespace or of all, and what pods and templates request now. Who may not see pods sees the rest.
func (v *vpaSession) read(ctx context.Context, namespace string) (vpaRecord, error) {
	var r vpaRecord
	var err error
	if r.policies, err = v.policies(ctx, &r.problems); err != nil {
		return r, err
	}
	if r.autoscalers, r.served, err = v.autoscalers(ctx, namespace); err != nil {
		return r, err
	}
	if len(r.autoscalers) > 0 {
		r.usage = v.usage(ctx, namespace, r.autoscalers, &r.problems)
	}
	return r, nil
}

// autoscalers reads them, ordered by their workloads.
func (v *vpaSession) autoscalers(ctx context.Context, namespace string) (all []autoscaler, served bool, err error) {
	var wrong error
	served, err = v.list(ctx, rightsizing.Autoscalers(), namespace, func(u *unstructured.Unstructured) {
		var a autoscaler
		data, err := json.Marshal(u.Object)
		if err == nil {
			err = json.Unmarshal(data, &a)
		}
		if err != nil {
			wrong = &failure{class: "failed", reason: fmt.Sprintf("autoscaler %s/%s", u.GetNamespace(), u.GetName()), err: err, advice: "its agent may be newer than this nopsctl"}
			return
		}
		all = append(all, a)
	})
	slices.SortFunc(all, func(a, b autoscaler) int {
		return strings.Compare(a.target().String()+" "+a.Name, b.target().String()+" "+b.Name)
	})
	return all, served, errors.Join(err, wrong)
}

// policies reads the policies, in the order in which they hold. Who may not see them is told so and goes on.
func (v *vpaSession) policies(ctx context.Context, problems *[]string) ([]rightsizing.Policy, error) {
	var all []rightsizing.Policy
	_, err := v.list(ctx, rightsizing.Policies(), "", func(u *unstructured.Unstructured) {
		var p rightsizing.Policy
		data, err := json.Marshal(u.Object)
		if err == nil {
			err = json.Unmarshal(data, &p)
		}
		if err != nil {
			*problems = append(*problems, fmt.Sprintf("RightsizingPolicy %s: %v", u.GetName(), err))
			return
		}
		all = append(all, p)
	})
	if apierrors.IsForbidden(err) {
		*problems, err = append(*problems, oneLine(err)), nil
	}
	slices.SortFunc(all, func(a, b rightsizing.Policy) int {
		if a.Spec.Priority != b.Spec.Priority {
			return int(b.Spec.Priority) - int(a.Spec.Priority)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, err
}

// amounts are millicores of CPU and bytes of memory; below 0 they are none, or could not be read.
type amounts [2]int64

const (
	none   = -1
	unread = -2
)

var vpaResources = [2]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

func amountsOf(get func(corev1.ResourceName) (resource.Quantity, bool)) amounts {
	var a amounts
	for i, name := range vpaResources {
		q, is := get(name)
		switch {
		case !is:
			a[i] = none
		case i == 0:
			a[i] = q.MilliValue()
		default:
			a[i] = q.Value()
		}
	}
	return a
}

func amountsIn(list map[string]resource.Quantity) amounts {
	return amountsOf(func(name corev1.ResourceName) (resource.Quantity, bool) { q, is := list[string(name)]; return q, is })
}

// requested is what a container requests, as the API server completes it: a limit alone is a request, too.
func requested(c *corev1.Container) amounts {
	return amountsOf(func(name corev1.ResourceName) (resource.Quantity, bool) {
		q, is := c.Resources.Requests[name]
		if !is {
			q, is = c.Resources.Limits[name]
		}
		return q, is
	})
}

func limited(c *corev1.Container) amounts {
	return amountsOf(func(name corev1.ResourceName) (resource.Quantity, bool) {
		q, is := c.Resources.Limits[name]
		return q, is
	})
}

// quantities are amounts as the API writes them.
func (a amounts) quantities() map[string]resource.Quantity {
	q := map[string]resource.Quantity{}
	if a[0] >= 0 {
		q["cpu"] = *resource.NewMilliQuantity(a[0], resource.DecimalSI)
	}
	if a[1] >= 0 {
		q["memory"] = *resource.NewQuantity(a[1], resource.BinarySI)
	}
	return q
}

// shown is one of the amounts for people.
func shown(i int, n int64) string {
	trim := func(f float64) string { return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", f), "0"), ".") }
	switch {
	case n < 0:
		return "?"
	case i == 0 && n < 1000:
		return fmt.Sprintf("%dm", n)
	case i == 0:
		return trim(float64(n) / 1000)
	case n < 1<<20:
		return fmt.Sprintf("%dKi", (n+1<<9)>>10)
	case n < 1<<30:
		return fmt.Sprintf("%dMi", (n+1<<19)>>20)
	}
	return trim(float64(n)/(1<<30)) + "Gi"
}
