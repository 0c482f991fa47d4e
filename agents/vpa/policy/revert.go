package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// RevertDeps are what taking back works with.
type RevertDeps struct {
	Kube      *rest.Config
	UserAgent string
	Now       func() time.Time
	// Say is called with each thing that is done, for people.
	Say func(format string, args ...any)
	// Every is how often pods that are being resized are looked at; 1s unless set. Settle is how long after autoscalers were marked pods are
	// looked at once more: those who size may be in the middle of it. 15s unless set.
	Every, Settle time.Duration
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
	if d.Settle <= 0 {
		d.Settle = settle
	}
	kube, dyn, err := clients(d.Kube, d.UserAgent)
	if err != nil {
		return Reverted{}, err
	}
	v := &reverter{RevertDeps: d, kube: kube, dynamic: dyn}
	return v.run(ctx, r)
}

// settle is how long those who size may be in the middle of it when they are told not to: a loop of the updater's, and a watch that lags.
const settle = 15 * time.Second

// clients are fast: thousands of workloads may be let go, or reverted, at once.
func clients(kube *rest.Config, userAgent string) (kubernetes.Interface, dynamic.Interface, error) {
	config := agent.KubeConfig(kube, userAgent)
	config.QPS, config.Burst = 50, 100
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	untyped, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client of %s: %w", rightsizing.Group, err)
	}
	return typed, untyped, nil
}

type reverter struct {
	RevertDeps

	kube    kubernetes.Interface
	dynamic dynamic.Interface
	// keeps says that this API server lowers no memory limit of a container that runs, as it said of the first: before Kubernetes 1.34 it
	// refuses the whole of such a change.
	keeps bool
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
	marked, err := v.marks(ctx, chosen, r.By, &out)
	if err != nil {
		return out, err
	}
	following, err := v.following(ctx)
	if err != nil {
		return out, err
	}
	all := subjects(chosen)
	began := v.Now()
	errs := v.round(ctx, all, following, &out)
	// Who was in the middle of it when autoscalers were marked may have sized pods that had been looked at, however long it took to look at the others.
	if settled := marked.Add(v.Settle); began.Before(settled) && slices.ContainsFunc(all, func(s *subject) bool { return len(s.same)+len(s.told)+s.kept > 0 }) {
		rest := max(0, min(settled.Sub(v.Now()), v.Settle)) // another one's clock may have marked them
		v.Say("Changes that are under way are waited for (%s), and all of it is looked at once more.", rest.Round(time.Second))
		if err := agent.Sleep(ctx, rest); err != nil {
			errs = append(errs, fmt.Errorf("pods were not looked at once more: %w; run it again", err))
		} else {
			errs = v.again(ctx, all, following, &out, errs)
		}
	}
	v.settle(ctx, all)
	unreached := 0
	for _, s := range all {
		errs = append(errs, v.tell(s, &out))
		if !s.reached {
			unreached++
		}
		if !s.reached || s.err != nil {
			delete(following, s.key) // its pods come first: the next run goes on
		}
	}
	if unreached > 0 {
		errs = append(errs, fmt.Errorf("%d of %d workloads were not reached: run it again, it goes on from there", unreached, len(all)))
	}
	if r.All { // those of workloads whose autoscaler is gone, too
		for _, key := range slices.Sorted(maps.Keys(following)) {
			errs = append(errs, v.restore(ctx, key, following, &out))
		}
	}
	return out, errors.Join(errs...)
}

// marks makes everybody leave the workloads of autoscalers alone, and says since when they all are.
func (v *reverter) marks(ctx context.Context, chosen []unstructured.Unstructured, by string, out *Reverted) (time.Time, error) {
	var since time.Time
	for i := range chosen {
		a := &chosen[i]
		var at time.Time
		if text := a.GetAnnotations()[rightsizing.AnnotationReverted]; text != "" {
			at, _ = time.Parse(time.RFC3339, text) // what a person wrote may be none, and is no time then
		} else {
			_, err := v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(a.GetNamespace()).Patch(ctx, a.GetName(), types.MergePatchType, v.mark(by), metav1.PatchOptions{FieldManager: manager})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return since, fmt.Errorf("mark autoscaler %s/%s: %w", a.GetNamespace(), a.GetName(), err)
			}
			at = v.Now()
		}
		out.Autoscalers++
		if at.After(since) {
			since = at
		}
	}
	return since, nil
}

// subject is a workload whose pods are given back, and what became of it.
type subject struct {
	asked

	key, namespace string
	autoscalers    []*unstructured.Unstructured // of it, that were chosen
	left           string                       // why its pods are left as they are, unless one of them says that it was sized
	reached        bool                         // its pods were asked; err says why not
	err, targets   error                        // targets: of giving those of its HorizontalPodAutoscalers back
}

// subjects are the workloads of autoscalers, namespace by namespace.
func subjects(chosen []unstructured.Unstructured) (out []*subject) {
	by := map[string]*subject{}
	for i := range chosen {
		a := &chosen[i]
		s := by[target(a)]
		if s == nil {
			s = &subject{key: target(a), namespace: a.GetNamespace()}
			by[s.key] = s
			out = append(out, s)
		}
		s.autoscalers = append(s.autoscalers, a)
	}
	for _, s := range out {
		s.left = s.never()
	}
	slices.SortStableFunc(out, func(a, b *subject) int { return strings.Compare(a.namespace, b.namespace) })
	return out
}

// never says why none of its autoscalers has ever sized its pods; empty is that one may have. There may have been another one of its name before, of
// which only pods can tell.
func (s *subject) never() (why string) {
	for _, a := range s.autoscalers {
		changed, _, _ := unstructured.NestedString(a.Object, "status", "application", "lastChange")
		switch made := a.GetLabels()[rightsizing.LabelPolicy] != ""; {
		case made && a.GetAnnotations()[rightsizing.AnnotationSized] == "":
			why = "no policy ever sized them"
		case !made && modeOf(a) == string(vpav1.UpdateModeOff) && a.GetGeneration() <= 1 && changed == "":
			why = "its autoscaler only ever recommended"
		default:
			return ""
		}
	}
	return why
}

// touched says whether a pod was sized by us: the API server keeps who resized it, and the webhook says on it by which autoscaler it was. The
// Kubernetes VPA's says the same of one that has the name of its copy.
func (s *subject) touched(p *corev1.Pod) bool {
	if slices.ContainsFunc(p.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Subresource == "resize" && m.Manager == rules.Resizer }) {
		return true
	}
	return slices.ContainsFunc(s.autoscalers, func(a *unstructured.Unstructured) bool {
		return a.GetAnnotations()[rightsizing.AnnotationImported] == "" && strings.Contains(p.Annotations[patch.ResourceUpdatesAnnotation], " updated by "+a.GetName()+": ")
	})
}

// few are so many workloads of a namespace that each is read by itself. Of more, all there is in the namespace is read at once: those whose pods
// were given back before take no request of their own then, so that a run which is out of time is gone on with where it ended.
const few = 5

// round asks the pods of workloads for what their templates say.
func (v *reverter) round(ctx context.Context, all []*subject, following map[string][]types.NamespacedName, out *Reverted) (errs []error) {
	for _, s := range all {
		s.reached = false
	}
	for len(all) > 0 && ctx.Err() == nil {
		n := slices.IndexFunc(all, func(s *subject) bool { return s.namespace != all[0].namespace })
		if n < 0 {
			n = len(all)
		}
		errs = append(errs, v.namespace(ctx, all[:n], following, out))
		all = all[n:]
	}
	return errs
}

// again is another round, after one of which the errors are given. What the time that is left does not suffice for was reached before.
func (v *reverter) again(ctx context.Context, all []*subject, following map[string][]types.NamespacedName, out *Reverted, before []error) []error {
	reached := make([]bool, len(all))
	for i, s := range all {
		reached[i] = s.reached
	}
	errs := v.round(ctx, all, following, out)
	if ctx.Err() == nil {
		return errs
	}
	for i, s := range all {
		s.reached = s.reached || reached[i]
	}
	return append(before, fmt.Errorf("pods were not looked at once more: %w; run it again", ctx.Err()))
}

// namespace asks the pods of workloads of one namespace. Targets of HorizontalPodAutoscalers go back with them, for they go by what pods request:
// with small requests, and the target of large ones, it would be scaled out at once.
func (v *reverter) namespace(ctx context.Context, all []*subject, following map[string][]types.NamespacedName, out *Reverted) error {
	var h *herd
	var unread map[string]error
	if len(all) > few {
		var err error
		if h, unread, err = v.whole(ctx, all); err != nil {
			return fmt.Errorf("namespace %s: %w", all[0].namespace, err)
		}
	}
	var errs []error
	for _, kind := range slices.Sorted(maps.Keys(unread)) {
		errs = append(errs, fmt.Errorf("namespace %s: list each %s: %w", all[0].namespace, kind, unread[kind]))
	}
	for _, s := range all {
		if _, kind, _ := split(s.key); unread[kind] != nil {
			continue
		}
		if s.reached = ctx.Err() == nil; !s.reached {
			break
		}
		s.err = v.reach(ctx, h, s)
		if n := len(s.told); n > 0 {
			v.Say("%s: %d of its pods are being resized", s.key, n)
		}
		if s.err == nil {
			s.targets = errors.Join(s.targets, v.restore(ctx, s.key, following, out))
		}
	}
	return errors.Join(errs...)
}

// reach asks the pods of a workload, which is read by itself without a herd.
func (v *reverter) reach(ctx context.Context, h *herd, s *subject) (err error) {
	if h == nil {
		if h, err = v.one(ctx, s.key); err != nil {
			return err // what became of it before is known
		}
	}
	s.asked = asked{}
	if s.left != "" && slices.ContainsFunc(h.of(s.key), s.touched) {
		s.left = ""
	}
	if s.left == "" {
		s.asked, err = v.ask(ctx, h, s.key)
	}
	return err
}

// tell says what became of a workload.
func (v *reverter) tell(s *subject, out *Reverted) error {
	out.Pods += s.done
	if s.left == "" {
		s.left = s.elsewhere
	}
	switch {
	case !s.reached:
	case s.err != nil:
		return fmt.Errorf("%s: %w", s.key, s.err)
	case s.left != "":
		out.Left[s.key] = s.left
		v.Say("%s: its pods are left as they are: %s", s.key, s.left)
	case s.why != "":
		out.Restart[s.key] = s.why
		v.Say("%s: %d of its pods have their template's requests; the others cannot be changed while they run: %s", s.key, s.done, s.why)
	default:
		v.Say("%s: its pods (%d) have their template's requests", s.key, s.done)
	}
	return s.targets
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

// restore gives the HorizontalPodAutoscalers of a workload their own targets back, once. That comes after its pods. Where pods keep their small
// requests until they are replaced, it is all the same: a target that is too high then would scale their successors in, and nobody would be left to
// see it.
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

// asked are the pods of a workload once they were asked for what their template says.
type asked struct {
	same []corev1.Pod // whose specification said it before
	told []corev1.Pod // whose does now
	kept int          // whose does not
	why  string       // of those
	// elsewhere says who else sizes it: then no pod was asked.
	elsewhere string

	done    int          // that have it, by their nodes
	waiting []corev1.Pod // for their nodes
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
func (v *reverter) ask(ctx context.Context, h *herd, key string) (a asked, err error) {
	namespace, kind, name := split(key)
	t := h.templates[kind+"/"+name]
	switch {
	case !slices.Contains(given(), kind):
		a.why = fmt.Sprintf("what pods of a %s are made from is not known here, and a restart makes them anew", kind)
		return a, nil
	case t == nil:
		return a, nil // gone, or a CronJob: its next pods are as its template says
	}
	pods := h.of(key)
	if v.Elsewhere != nil {
		objects := []metav1.Object{&t.object}
		for _, p := range pods {
			objects = append(objects, p)
		}
		if a.elsewhere, err = v.Elsewhere(kind, namespace, name, objects...); err != nil || a.elsewhere != "" {
			return a, err
		}
	}
	for _, p := range pods {
		spec := t.specs[metav1.GetControllerOf(p).UID]
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if !h.looked && lacks(p, spec) {
			if h.ranges, err = v.ranges(ctx, namespace); err != nil {
				return a, err
			}
			h.looked = true
		}
		if err := v.askPod(ctx, p, spec, h.ranges, &a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// askPod asks one pod for what its template says.
func (v *reverter) askPod(ctx context.Context, p *corev1.Pod, spec *corev1.PodSpec, ranges []corev1.LimitRange, a *asked) error {
	change, refused := resize(p, spec, ranges, v.keeps)
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
		case !v.keeps && apierrors.IsInvalid(err) && strings.Contains(err.Error(), "memory limits cannot be decreased"):
			v.keeps = true
			return v.askPod(ctx, p, spec, ranges, a)
		case apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err):
			refused = oneLine(err.Error())
		case err != nil:
			return fmt.Errorf("resize pod %s: %w", p.Name, err)
		case refused == "":
			a.told = append(a.told, light(after))
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

// patience is how long nodes may take: what is deferred by a full node may wait for ever.
const patience = 90 * time.Second

// settle waits until the kubelets have done what the pods of workloads were asked for.
func (v *reverter) settle(ctx context.Context, all []*subject) {
	for _, s := range all {
		s.begin()
	}
	for limit := v.Now().Add(patience); ; {
		waiting := map[string][]string{} // pods, by namespace
		for _, s := range all {
			for i := range s.waiting {
				waiting[s.namespace] = append(waiting[s.namespace], s.waiting[i].Name)
			}
		}
		if len(waiting) == 0 {
			return
		}
		now := map[string]map[string]*corev1.Pod{}
		for namespace, names := range waiting {
			now[namespace] = v.see(ctx, namespace, names)
		}
		for _, s := range all {
			s.look(now[s.namespace])
		}
		if !v.Now().Before(limit) || agent.Sleep(ctx, v.Every) != nil {
			break
		}
	}
	for _, s := range all {
		if n := len(s.waiting); n > 0 {
			s.why = fmt.Sprintf("%d pods were told, and their nodes have not done it yet", n)
		}
	}
}

// begin finds the pods that are waited for: those that were told just now, and those that were told before and whose nodes have not done it.
func (a *asked) begin() {
	now := map[string]*corev1.Pod{}
	for i := range a.same {
		now[a.same[i].Name] = &a.same[i]
	}
	a.done, a.waiting = 0, a.same
	a.look(now)
	a.waiting = append(a.waiting, a.told...)
}

// look takes pods that no longer wait from those that do. There is none of those that are gone; nil is one that is not known.
func (a *asked) look(now map[string]*corev1.Pod) {
	var left []corev1.Pod
	for _, p := range a.waiting {
		switch n, there := now[p.Name]; {
		case there && n == nil:
			left = append(left, p)
		case !there || n.UID != p.UID || n.DeletionTimestamp != nil:
		case applied(n):
			a.done++
		case infeasible(n) != "":
			a.kept, a.why = a.kept+1, infeasible(n)
		default:
			left = append(left, p)
		}
	}
	a.waiting = left
}

// see reads pods of a namespace by their names: there is none of those that are gone, and nil of those that could not be read.
func (v *reverter) see(ctx context.Context, namespace string, names []string) map[string]*corev1.Pod {
	out := map[string]*corev1.Pod{}
	if len(names) <= few {
		for _, name := range names {
			p, err := v.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
			switch {
			case err == nil:
				out[name] = p
			case !apierrors.IsNotFound(err):
				out[name] = nil
			}
		}
		return out
	}
	all := map[string]*corev1.Pod{}
	err := lists(ctx, v.kube.CoreV1().Pods(namespace).List, metav1.ListOptions{}, func(l *corev1.PodList) {
		for i := range l.Items {
			p := light(&l.Items[i])
			all[p.Name] = &p
		}
	})
	for _, name := range names {
		if p, there := all[name]; there || err != nil {
			out[name] = p
		}
	}
	return out
}

// applied says whether a node gives a pod's containers what its specification says.
func applied(p *corev1.Pod) bool {
	resized := names(p.Spec)
	for i, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, s := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses}[i] {
			at := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == s.Name })
			if s.Resources == nil || at < 0 || !slices.Contains(resized, s.Name) {
				continue
			}
			if want := list[at].Resources; !alike(s.Resources.Requests, want.Requests) || !alike(s.Resources.Limits, want.Limits) {
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

// alike compares what can be resized. Of the rest, as of devices, the kubelet may say nothing.
func alike(a, b corev1.ResourceList) bool {
	return !slices.ContainsFunc([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}, func(name corev1.ResourceName) bool {
		is, has := a[name]
		want, wanted := b[name]
		return has != wanted || is.Cmp(want) != 0
	})
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

// resize is the change that gives a pod what its template says, a patch, nil where nothing is to be changed; why says what of it stays. Those are
// requests and limits that it has by us and its template has not, for Kubernetes takes none from a pod that runs, and memory limits where the API
// server keeps them, with the requests that a pod whose requests are its limits cannot lower alone.
func resize(p *corev1.Pod, spec *corev1.PodSpec, ranges []corev1.LimitRange, keeps bool) (change []byte, why string) {
	var stays, high []string
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
			stuck := keeps && lowers(&have[at], says.Limits, added.Limits)
			if stuck {
				high = append(high, w.Name)
			}
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
					case stuck && name == corev1.ResourceMemory && (field == "limits" || p.Status.QOSClass == corev1.PodQOSGuaranteed):
					case has && (!had || was.Cmp(is) != 0):
						values[string(name)] = is.String()
					case had && !has && rules.Gave(p, w.Name, field, name):
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
	if len(body.Spec.Containers)+len(body.Spec.InitContainers) > 0 {
		change = encoded(body)
	}
	return change, keeping(stays, high)
}

// keeping says what of a change cannot be, and why; empty: all can.
func keeping(stays, high []string) string {
	var why []string
	if len(stays) > 0 {
		why = append(why, "its template has no "+strings.Join(stays, ", ")+", and Kubernetes takes none from a pod that runs")
	}
	if len(high) > 0 {
		why = append(why, "this Kubernetes lowers no memory limit of a container that runs, as of "+strings.Join(high, ", "))
	}
	return strings.Join(why, "; ")
}

// lowers says whether a container that runs would get a lower memory limit, and without a restart.
func lowers(have *corev1.Container, says, added corev1.ResourceList) bool {
	was, had := have.Resources.Limits[corev1.ResourceMemory]
	is, has := says[corev1.ResourceMemory]
	if !has {
		is, has = added[corev1.ResourceMemory]
	}
	restarts := slices.ContainsFunc(have.ResizePolicy, func(r corev1.ContainerResizePolicy) bool {
		return r.ResourceName == corev1.ResourceMemory && r.RestartPolicy == corev1.RestartContainer
	})
	return had && has && was.Cmp(is) > 0 && !restarts
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
