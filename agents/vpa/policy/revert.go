package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// RevertDeps are what taking back works with.
type RevertDeps struct {
	Kube      *rest.Config
	UserAgent string
	Now       func() time.Time
	// Say is called with each thing that is done, for people.
	Say func(format string, args ...any)
	// Every is how often pods that are being resized are looked at; 1s unless set.
	Every time.Duration
}

// Request says what is taken back, and who wants it.
type Request struct {
	// Workloads as NAMESPACE/KIND/NAME; none with All.
	Workloads []string
	All       bool
	By        string
}

// Reverted is what became of it.
type Reverted struct {
	Autoscalers int // that leave their workloads alone now
	Pods        int // that have their template's requests again, or had
	// Restart are workloads, as NAMESPACE/KIND/NAME, some of whose pods cannot be resized to their template's requests while they run, with why.
	Restart map[string]string
}

// Revert gives pods back the requests of their templates: autoscalers are marked first, so that nobody sizes anew what was given back, then
// pods are resized in place. What cannot be changed in place is named, and not evicted. It needs neither the platform nor the other parts,
// and can be run again: what is done already stays done. The context bounds the whole.
func Revert(ctx context.Context, d RevertDeps, r Request) (Reverted, error) {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Say == nil {
		d.Say = func(string, ...any) {}
	}
	if d.Every <= 0 {
		d.Every = time.Second
	}
	config := agent.KubeConfig(d.Kube, d.UserAgent)
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Reverted{}, fmt.Errorf("make a client of the API server: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return Reverted{}, fmt.Errorf("make a client of %s: %w", rightsizing.Group, err)
	}
	v := &reverter{RevertDeps: d, kube: kube, dynamic: dyn}
	return v.run(ctx, r)
}

type reverter struct {
	RevertDeps

	kube    kubernetes.Interface
	dynamic dynamic.Interface
}

// mark is the patch that makes everybody leave an object alone.
func (v *reverter) mark(by string) []byte {
	return encoded(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		rightsizing.AnnotationReverted: v.Now().UTC().Format(time.RFC3339), rightsizing.AnnotationRevertedBy: by,
	}}})
}

func (v *reverter) run(ctx context.Context, r Request) (Reverted, error) {
	out := Reverted{Restart: map[string]string{}}
	list, err := v.dynamic.Resource(rightsizing.Autoscalers()).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		v.Say("There is no %s here: nothing was rightsized.", rightsizing.Autoscalers().GroupResource())
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("list autoscalers: %w", err)
	}
	chosen, err := choose(list.Items, r)
	if err != nil {
		return out, err
	}
	if r.All {
		if err := v.policies(ctx, r.By); err != nil {
			return out, err
		}
	}
	for i := range chosen {
		a := &chosen[i]
		if a.GetAnnotations()[rightsizing.AnnotationReverted] == "" {
			_, err := v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(a.GetNamespace()).Patch(ctx, a.GetName(), types.MergePatchType, v.mark(r.By), metav1.PatchOptions{FieldManager: manager})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return out, fmt.Errorf("mark autoscaler %s/%s: %w", a.GetNamespace(), a.GetName(), err)
			}
		}
		out.Autoscalers++
	}
	var errs []error
	for i := range chosen {
		key := target(&chosen[i])
		pods, why, err := v.workload(ctx, key)
		out.Pods += pods
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		case why != "":
			out.Restart[key] = why
			v.Say("%s: %d of its pods have their template's requests; the others cannot be changed while they run: %s", key, pods, why)
		default:
			v.Say("%s: its pods (%d) have their template's requests", key, pods)
		}
	}
	return out, errors.Join(errs...)
}

// policies are marked, so that they make nothing of new workloads.
func (v *reverter) policies(ctx context.Context, by string) error {
	list, err := v.dynamic.Resource(rightsizing.Policies()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list policies: %w", err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.GetAnnotations()[rightsizing.AnnotationReverted] != "" {
			continue
		}
		if _, err := v.dynamic.Resource(rightsizing.Policies()).Patch(ctx, p.GetName(), types.MergePatchType, v.mark(by), metav1.PatchOptions{FieldManager: manager}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark policy %s: %w", p.GetName(), err)
		}
		v.Say("RightsizingPolicy %s: nothing is changed by it any more (annotation %s)", p.GetName(), rightsizing.AnnotationReverted)
	}
	return nil
}

// target is an autoscaler's workload as NAMESPACE/KIND/NAME.
func target(a *unstructured.Unstructured) string {
	kind, _, _ := unstructured.NestedString(a.Object, "spec", "targetRef", "kind")
	name, _, _ := unstructured.NestedString(a.Object, "spec", "targetRef", "name")
	return a.GetNamespace() + "/" + kind + "/" + name
}

// choose finds the autoscalers of a request.
func choose(all []unstructured.Unstructured, r Request) ([]unstructured.Unstructured, error) {
	slices.SortFunc(all, func(a, b unstructured.Unstructured) int { return strings.Compare(target(&a), target(&b)) })
	if r.All {
		return all, nil
	}
	var out []unstructured.Unstructured
	var errs []error
	for _, want := range r.Workloads {
		n := len(out)
		for _, a := range all {
			if strings.EqualFold(target(&a), want) {
				out = append(out, a)
			}
		}
		if len(out) == n {
			errs = append(errs, fmt.Errorf("%s has no autoscaler of %s, so nothing of it was changed; a workload is named NAMESPACE/KIND/NAME, as in default/Deployment/web", want, rightsizing.Group))
		}
	}
	if len(r.Workloads) == 0 {
		errs = append(errs, errors.New("name workloads (NAMESPACE/KIND/NAME), or all"))
	}
	return out, errors.Join(errs...)
}

// template is what pods of a workload are made from, by the owner of a pod.
type template struct {
	selector labels.Selector
	of       func(p *corev1.Pod) *corev1.PodSpec // nil: the pod is none of it
}

// asked are the pods of a workload once they were asked for what their template says.
type asked struct {
	same []corev1.Pod // whose specification said it before
	told []corev1.Pod // whose does now
	kept int          // whose does not
	why  string       // of those
}

// workload gives the pods of one workload back what their template says; why says why some could not be.
func (v *reverter) workload(ctx context.Context, key string) (done int, why string, err error) {
	a, err := v.ask(ctx, key)
	if err != nil {
		return len(a.same), a.why, err
	}
	namespace, _, _ := strings.Cut(key, "/")
	settled, stuck := v.settle(ctx, namespace, a.told)
	if stuck != "" {
		a.why = stuck
	}
	return len(a.same) + settled, a.why, nil
}

// ask asks each pod of a workload for what its template says.
func (v *reverter) ask(ctx context.Context, key string) (a asked, err error) {
	t, err := v.template(ctx, key)
	if apierrors.IsNotFound(err) || t == nil && err == nil {
		return a, nil // gone, or a CronJob: its next pods are as its template says
	}
	if err != nil {
		return a, err
	}
	namespace, _, _ := strings.Cut(key, "/")
	pods, err := v.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: t.selector.String()})
	if err != nil {
		return a, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		spec := t.of(p)
		if spec == nil || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		patch, differs := resize(p, spec)
		if !differs {
			a.same = append(a.same, *p)
			continue
		}
		after, err := v.kube.CoreV1().Pods(namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: manager}, "resize")
		switch {
		case apierrors.IsNotFound(err):
			// Gone meanwhile; the next one is as the template says.
		case apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err):
			a.kept, a.why = a.kept+1, oneLine(err.Error())
		case err != nil:
			return a, fmt.Errorf("resize pod %s: %w", p.Name, err)
		default:
			a.told = append(a.told, *after)
		}
	}
	return a, nil
}

// settle waits until the kubelets have done it.
func (v *reverter) settle(ctx context.Context, namespace string, waiting []corev1.Pod) (settled int, why string) {
	limit := v.Now().Add(90 * time.Second) // what is deferred by a full node may wait for ever
	for len(waiting) > 0 {
		var left []corev1.Pod
		for _, p := range waiting {
			now, err := v.kube.CoreV1().Pods(namespace).Get(ctx, p.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err) || err == nil && (now.UID != p.UID || now.DeletionTimestamp != nil):
			case err == nil && applied(now):
				settled++
			case err == nil && infeasible(now) != "":
				why = infeasible(now)
			default:
				left = append(left, p)
			}
		}
		if waiting = left; len(waiting) == 0 {
			break
		}
		if !v.Now().Before(limit) || agent.Sleep(ctx, v.Every) != nil {
			return settled, fmt.Sprintf("%d pods were told, and their nodes have not done it yet", len(waiting))
		}
	}
	return settled, why
}

// applied says whether a node gives a pod's containers what its specification says.
func applied(p *corev1.Pod) bool {
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		for j := range p.Status.ContainerStatuses {
			s := &p.Status.ContainerStatuses[j]
			if s.Name != c.Name || s.Resources == nil {
				continue
			}
			if !apiequality.Semantic.DeepEqual(s.Resources.Requests, c.Resources.Requests) || !apiequality.Semantic.DeepEqual(s.Resources.Limits, c.Resources.Limits) {
				return false
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if (c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress) && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return true
}

func infeasible(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodResizePending && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonInfeasible {
			return oneLine("its node cannot: " + c.Message)
		}
	}
	return ""
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// resize is the patch that gives a pod what its template says.
func resize(p *corev1.Pod, spec *corev1.PodSpec) (patch []byte, differs bool) {
	type container struct {
		Name      string         `json:"name"`
		Resources map[string]any `json:"resources"`
	}
	body := struct {
		Spec struct {
			Containers     []container `json:"containers,omitempty"`
			InitContainers []container `json:"initContainers,omitempty"`
		} `json:"spec"`
	}{}
	compare := func(have, want []corev1.Container, sidecars bool) (out []container) {
		for i := range want {
			w := &want[i]
			if sidecars && (w.RestartPolicy == nil || *w.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue
			}
			at := slices.IndexFunc(have, func(c corev1.Container) bool { return c.Name == w.Name })
			if at < 0 {
				continue
			}
			r := map[string]any{}
			for field, pair := range map[string][2]corev1.ResourceList{"requests": {have[at].Resources.Requests, w.Resources.Requests}, "limits": {have[at].Resources.Limits, w.Resources.Limits}} {
				values := map[string]any{}
				for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					was, had := pair[0][name]
					is, has := pair[1][name]
					switch {
					case has && (!had || was.Cmp(is) != 0):
						values[string(name)] = is.String()
					case had && !has && !(field == "requests" && defaulted(w, name)):
						values[string(name)] = nil
					}
				}
				if len(values) > 0 {
					r[field] = values
				}
			}
			if len(r) > 0 {
				out = append(out, container{w.Name, r})
			}
		}
		return out
	}
	body.Spec.Containers = compare(p.Spec.Containers, spec.Containers, false)
	body.Spec.InitContainers = compare(p.Spec.InitContainers, spec.InitContainers, true)
	if len(body.Spec.Containers)+len(body.Spec.InitContainers) == 0 {
		return nil, false
	}
	return encoded(body), true
}

// defaulted says whether the API server makes a request of a limit.
func defaulted(c *corev1.Container, name corev1.ResourceName) bool {
	_, limited := c.Resources.Limits[name]
	return limited
}

// template finds what the pods of a workload are made from.
func (v *reverter) template(ctx context.Context, key string) (*template, error) {
	parts := strings.SplitN(key, "/", 3)
	namespace, kind, name := parts[0], parts[1], parts[2]
	fixed := func(selector *metav1.LabelSelector, spec *corev1.PodSpec) (*template, error) {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			return nil, fmt.Errorf("its selector: %w", err)
		}
		return &template{selector: s, of: func(p *corev1.Pod) *corev1.PodSpec {
			if o := metav1.GetControllerOf(p); o == nil || o.Kind != kind || o.Name != name {
				return nil
			}
			return spec
		}}, nil
	}
	apps := v.kube.AppsV1()
	switch kind {
	case "Deployment":
		d, err := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("its selector: %w", err)
		}
		sets, err := apps.ReplicaSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: s.String()})
		if err != nil {
			return nil, fmt.Errorf("list its ReplicaSets: %w", err)
		}
		of := map[types.UID]*corev1.PodSpec{}
		for i := range sets.Items {
			if metav1.IsControlledBy(&sets.Items[i], d) {
				of[sets.Items[i].UID] = &sets.Items[i].Spec.Template.Spec
			}
		}
		return &template{selector: s, of: func(p *corev1.Pod) *corev1.PodSpec {
			if o := metav1.GetControllerOf(p); o != nil {
				return of[o.UID]
			}
			return nil
		}}, nil
	case "StatefulSet":
		s, err := apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		return fixed(s.Spec.Selector, &s.Spec.Template.Spec)
	case "DaemonSet":
		s, err := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		return fixed(s.Spec.Selector, &s.Spec.Template.Spec)
	case "ReplicaSet":
		s, err := apps.ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		return fixed(s.Spec.Selector, &s.Spec.Template.Spec)
	case "CronJob", "Job":
		return nil, nil //nolint:nilnil // its pods end by themselves
	default:
		return nil, fmt.Errorf("pods of a %s are not known how to find: restart it", kind)
	}
}
