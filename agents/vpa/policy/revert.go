package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
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
	// Elsewhere says who else sizes a workload, by it and by pods of it; nobody where that is empty, and where there is no such function.
	Elsewhere func(kind, namespace, name string, objects ...metav1.Object) (who string, err error)
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
	Targets     int // HorizontalPodAutoscalers that scale at their own targets again
	// Restart are workloads, as NAMESPACE/KIND/NAME, some of whose pods cannot be resized to their template's requests while they run, with why.
	Restart map[string]string
	// Left are workloads whose pods are as they were, for it was not us who sized them, with why.
	Left map[string]string
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
	out := Reverted{Restart: map[string]string{}, Left: map[string]string{}}
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
	following, err := v.following(ctx)
	if err != nil {
		return out, err
	}
	var errs []error
	for i := range chosen {
		key := target(&chosen[i])
		if err := v.give(ctx, &chosen[i], key, &out); err != nil {
			errs = append(errs, err)
			delete(following, key) // its pods come first: the next run goes on
			continue
		}
		errs = append(errs, v.restore(ctx, key, following, &out))
	}
	if r.All { // those of workloads whose autoscaler is gone, too
		for _, key := range slices.Sorted(maps.Keys(following)) {
			errs = append(errs, v.restore(ctx, key, following, &out))
		}
	}
	return out, errors.Join(errs...)
}

// give gives back the pods of an autoscaler's workload, where they are ours.
func (v *reverter) give(ctx context.Context, autoscaler *unstructured.Unstructured, key string, out *Reverted) error {
	if autoscaler.GetLabels()[rightsizing.LabelPolicy] != "" && autoscaler.GetAnnotations()[rightsizing.AnnotationSized] == "" {
		out.Left[key] = "no policy ever sized them"
		v.Say("%s: its pods are left as they are: %s", key, out.Left[key])
		return nil
	}
	a, pods, err := v.workload(ctx, key)
	out.Pods += pods
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", key, err)
	case a.elsewhere != "":
		out.Left[key] = a.elsewhere
		v.Say("%s: its pods are left as they are: %s", key, a.elsewhere)
	case a.why != "":
		out.Restart[key] = a.why
		v.Say("%s: %d of its pods have their template's requests; the others cannot be changed while they run: %s", key, pods, a.why)
	default:
		v.Say("%s: its pods (%d) have their template's requests", key, pods)
	}
	return nil
}

// following are the HorizontalPodAutoscalers whose targets were made to follow requests, by the workload that they scale.
func (v *reverter) following(ctx context.Context) (map[string][]types.NamespacedName, error) {
	list, err := v.kube.AutoscalingV2().HorizontalPodAutoscalers(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list HorizontalPodAutoscalers: %w", err)
	}
	out := map[string][]types.NamespacedName{}
	for i := range list.Items {
		h := &list.Items[i]
		if rightsizing.RestoreTargets(h) != nil {
			key := h.Namespace + "/" + h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
			out[key] = append(out[key], types.NamespacedName{Namespace: h.Namespace, Name: h.Name})
		}
	}
	return out, nil
}

// restore gives the HorizontalPodAutoscalers of a workload their own targets back, once. That comes after its pods: with small requests, and
// the target of large ones, it would be scaled out at once. Where pods keep their small requests until they are replaced, it is all the same:
// a target that is too high then would scale their successors in, and nobody would be left to see it.
func (v *reverter) restore(ctx context.Context, key string, following map[string][]types.NamespacedName, out *Reverted) error {
	names := following[key]
	delete(following, key)
	var errs []error
	for _, name := range names {
		did, err := rightsizing.GiveTargetsBack(ctx, v.kube.AutoscalingV2().HorizontalPodAutoscalers(name.Namespace), name.Name, manager)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
		if did {
			out.Targets++
			v.Say("%s: HorizontalPodAutoscaler %s scales at its own targets again", key, name.Name)
		}
	}
	return errors.Join(errs...)
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
	object   metav1.Object
	selector labels.Selector
	of       func(p *corev1.Pod) *corev1.PodSpec // nil: the pod is none of it
}

// asked are the pods of a workload once they were asked for what their template says.
type asked struct {
	same []corev1.Pod // whose specification said it before
	told []corev1.Pod // whose does now
	kept int          // whose does not
	why  string       // of those
	// elsewhere says who else sizes it: then no pod was asked.
	elsewhere string
}

// workload gives the pods of one workload back what their template says, and says how many of them have it.
func (v *reverter) workload(ctx context.Context, key string) (a asked, done int, err error) {
	a, err = v.ask(ctx, key)
	if err != nil {
		return a, len(a.same), err
	}
	namespace, _, _ := strings.Cut(key, "/")
	settled, stuck := v.settle(ctx, namespace, a.told)
	if stuck != "" {
		a.why = stuck
	}
	return a, len(a.same) + settled, nil
}

// elsewhere is who else sizes a workload, as the controller's dependencies know it.
func (c *Controller) elsewhere(kind, namespace, name string, objects ...metav1.Object) (string, error) {
	if c.deps.Elsewhere == nil {
		return "", nil
	}
	for _, o := range objects {
		switch is, known := c.deps.Elsewhere(kind, namespace, name, o); {
		case !known:
			return "", errors.New("it is not known yet who else sizes it")
		case is:
			return "somebody else sizes it", nil
		}
	}
	return "", nil
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
	namespace, kind, name := split(key)
	pods, err := v.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: t.selector.String()})
	if err != nil {
		return a, fmt.Errorf("list pods: %w", err)
	}
	if v.Elsewhere != nil {
		objects := []metav1.Object{t.object}
		for i := range pods.Items {
			if t.of(&pods.Items[i]) != nil {
				objects = append(objects, &pods.Items[i])
			}
		}
		if a.elsewhere, err = v.Elsewhere(kind, namespace, name, objects...); err != nil || a.elsewhere != "" {
			return a, err
		}
	}
	var ranges []corev1.LimitRange
	looked := false
	for i := range pods.Items {
		p := &pods.Items[i]
		spec := t.of(p)
		if spec == nil || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if !looked && lacks(p, spec) {
			if ranges, err = v.ranges(ctx, namespace); err != nil {
				return a, err
			}
			looked = true
		}
		if err := v.askPod(ctx, p, spec, ranges, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// askPod asks one pod for what its template says.
func (v *reverter) askPod(ctx context.Context, p *corev1.Pod, spec *corev1.PodSpec, ranges []corev1.LimitRange, a *asked) error {
	change, stays := resize(p, spec, ranges)
	refused := ""
	if len(stays) > 0 {
		refused = "its template has no " + strings.Join(stays, ", ") + ", and Kubernetes takes none from a pod that runs"
	}
	if change == nil && refused == "" {
		a.same = append(a.same, *p)
		return nil
	}
	if change != nil {
		after, err := v.kube.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, change, metav1.PatchOptions{FieldManager: manager}, "resize")
		switch {
		case gone(err, p.Name):
			return nil // the next one is as the template says
		case apierrors.IsNotFound(err):
			refused = "this Kubernetes does not resize pods"
		case apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err):
			refused = oneLine(err.Error())
		case err != nil:
			return fmt.Errorf("resize pod %s: %w", p.Name, err)
		case refused == "":
			a.told = append(a.told, *after)
		}
	}
	if refused != "" {
		a.kept, a.why = a.kept+1, refused
	}
	return nil
}

// gone says whether an answer is about a pod, and not about a path that the API server does not know: before Kubernetes 1.33 there is no resize.
func gone(err error, pod string) bool {
	var s apierrors.APIStatus
	return apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err) && errors.As(err, &s) && s.Status().Details != nil && s.Status().Details.Name == pod
}

// ranges are a namespace's LimitRanges, by name.
func (v *reverter) ranges(ctx context.Context, namespace string) ([]corev1.LimitRange, error) {
	list, err := v.kube.CoreV1().LimitRanges(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list LimitRanges: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
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

// resize is the change that gives a pod what its template says, a patch, nil where nothing is to be changed. stays are requests and limits that it has
// by us and its template has not: Kubernetes takes none from a pod that runs.
func resize(p *corev1.Pod, spec *corev1.PodSpec, ranges []corev1.LimitRange) (change []byte, stays []string) {
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
	compare := func(have, want []corev1.Container, list string) (out []container) {
		for i := range want {
			w := &want[i]
			if list == "initContainers" && (w.RestartPolicy == nil || *w.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue
			}
			at := slices.IndexFunc(have, func(c corev1.Container) bool { return c.Name == w.Name })
			if at < 0 {
				continue
			}
			says, added := completed(&w.Resources), defaults(ranges)
			r := map[string]any{}
			for field, of := range map[string]struct{ have, says, added corev1.ResourceList }{
				"requests": {have[at].Resources.Requests, says.Requests, added.Requests}, "limits": {have[at].Resources.Limits, says.Limits, added.Limits},
			} {
				values := map[string]any{}
				for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					was, had := of.have[name]
					is, has := of.says[name]
					if had && !has {
						is, has = of.added[name]
					}
					switch {
					case has && (!had || was.Cmp(is) != 0):
						values[string(name)] = is.String()
					case had && !has && gave(p, list, w.Name, field, name):
						stays = append(stays, fmt.Sprintf("%s.%s of container %s", field, name, w.Name))
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
	body.Spec.Containers = compare(p.Spec.Containers, spec.Containers, "containers")
	body.Spec.InitContainers = compare(p.Spec.InitContainers, spec.InitContainers, "initContainers")
	slices.Sort(stays)
	if len(body.Spec.Containers)+len(body.Spec.InitContainers) == 0 {
		return nil, stays
	}
	return encoded(body), stays
}

// lacks says whether a pod has a request or a limit that its template has not.
func lacks(p *corev1.Pod, spec *corev1.PodSpec) bool {
	beyond := func(have, want []corev1.Container) bool {
		for i := range want {
			at := slices.IndexFunc(have, func(c corev1.Container) bool { return c.Name == want[i].Name })
			if at < 0 {
				continue
			}
			says := completed(&want[i].Resources)
			if len(have[at].Resources.Requests) > len(says.Requests) || len(have[at].Resources.Limits) > len(says.Limits) {
				return true
			}
		}
		return false
	}
	return beyond(p.Spec.Containers, spec.Containers) || beyond(p.Spec.InitContainers, spec.InitContainers)
}

// completed is what a template says as the API server completes it: a limit alone is a request, too.
func completed(r *corev1.ResourceRequirements) corev1.ResourceRequirements {
	out := *r.DeepCopy()
	for name, limit := range out.Limits {
		if _, is := out.Requests[name]; !is {
			if out.Requests == nil {
				out.Requests = corev1.ResourceList{}
			}
			out.Requests[name] = limit
		}
	}
	return out
}

// defaults are what a namespace's LimitRanges add where a template says nothing. The API server has completed them: a default alone is one of
// requests, too. Of several it takes any; here it is the first by name.
func defaults(ranges []corev1.LimitRange) (out corev1.ResourceRequirements) {
	out = corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for i := range ranges {
		for _, item := range ranges[i].Spec.Limits {
			if item.Type != corev1.LimitTypeContainer {
				continue
			}
			for into, from := range map[*corev1.ResourceList]corev1.ResourceList{&out.Requests: item.DefaultRequest, &out.Limits: item.Default} {
				for name, q := range from {
					if _, is := (*into)[name]; !is {
						(*into)[name] = q
					}
				}
			}
		}
	}
	return out
}

// resizer is the field manager of what the updater resizes.
const resizer = "nops-vpa-updater"

// gave says whether a request or a limit may be ours: the webhook names on a pod what it sized, and the API server keeps who resized it.
// What is nobody's of those was added by a webhook of somebody else's, as it will be to the next pod.
func gave(p *corev1.Pod, list, container, field string, name corev1.ResourceName) bool {
	if strings.Contains(p.Annotations[patch.ResourceUpdatesAnnotation], string(name)+" "+strings.TrimSuffix(field, "s")) {
		return true
	}
	for _, m := range p.ManagedFields {
		if m.Subresource != "resize" || m.Manager != resizer || m.FieldsV1 == nil {
			continue
		}
		var fields map[string]any
		if json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, is, _ := unstructured.NestedFieldNoCopy(fields, "f:spec", "f:"+list, fmt.Sprintf("k:{\"name\":%q}", container), "f:resources", "f:"+field, "f:"+string(name)); is {
			return true
		}
	}
	return false
}

// template finds what the pods of a workload are made from.
func (v *reverter) template(ctx context.Context, key string) (*template, error) {
	parts := strings.SplitN(key, "/", 3)
	namespace, kind, name := parts[0], parts[1], parts[2]
	fixed := func(object metav1.Object, selector *metav1.LabelSelector, spec *corev1.PodSpec) (*template, error) {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			return nil, fmt.Errorf("its selector: %w", err)
		}
		return &template{object: object, selector: s, of: func(p *corev1.Pod) *corev1.PodSpec {
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
		return &template{object: d, selector: s, of: func(p *corev1.Pod) *corev1.PodSpec {
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
		return fixed(s, s.Spec.Selector, &s.Spec.Template.Spec)
	case "DaemonSet":
		s, err := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		return fixed(s, s.Spec.Selector, &s.Spec.Template.Spec)
	case "ReplicaSet":
		s, err := apps.ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err //nolint:wrapcheck // the caller looks at what it is
		}
		return fixed(s, s.Spec.Selector, &s.Spec.Template.Spec)
	case "CronJob", "Job":
		return nil, nil //nolint:nilnil // its pods end by themselves
	default:
		return nil, fmt.Errorf("pods of a %s are not known how to find: restart it", kind)
	}
}
