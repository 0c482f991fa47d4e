package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/election"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// manager is the field manager of what is applied.
const manager = "nops-vpa-policy"

const resync = 10 * time.Minute

// Deps are what the controller works with.
type Deps struct {
	Kube *rest.Config
	Who  agent.Identity
	// Candidate is the name of this process in the election, of no other one ever; empty: no election.
	Candidate, Lease string
	// Ignored namespaces have no policies; the stack's own and kube-system always.
	Ignored []string
	// Elsewhere says that somebody else sizes a workload, and whether that is known already; nil: nobody does.
	Elsewhere func(kind, namespace, name string, object metav1.Object) (is, known bool)
	// Settle is how long after an autoscaler was switched off its pods are looked at for the last time: those who size may be in the middle of
	// it. 15s unless set.
	Settle time.Duration
	// Every is how often everything is looked at, besides when something changes; 30s unless set.
	Every   time.Duration
	Turn    func() // with every look, for liveness
	Metrics *agent.Metrics
	Log     *slog.Logger
	Now     func() time.Time
}

// Controller makes autoscalers of policies.
type Controller struct {
	deps    Deps
	kube    kubernetes.Interface
	dynamic dynamic.Interface

	factory               informers.SharedInformerFactory
	policies, autoscalers cache.SharedIndexInformer
	poke                  chan struct{}
	partings              map[types.NamespacedName]*parting
	recorder              record.EventRecorder
	events                record.EventBroadcaster
	writes, failures      *agent.Value
}

// New makes a controller.
func New(deps Deps) (*Controller, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Turn == nil {
		deps.Turn = func() {}
	}
	if deps.Every <= 0 {
		deps.Every = 30 * time.Second
	}
	if deps.Settle <= 0 {
		deps.Settle = settle
	}
	if deps.Metrics == nil {
		deps.Metrics = &agent.Metrics{}
	}
	deps.Ignored = append(slices.Clone(deps.Ignored), deps.Who.Namespace, metav1.NamespaceSystem)
	kube, client, err := clients(deps.Kube, deps.Who.Name()+"-policy/"+deps.Who.Version)
	if err != nil {
		return nil, err
	}
	return with(deps, kube, client)
}

// with is a controller with these clients.
func with(deps Deps, kube kubernetes.Interface, client dynamic.Interface) (*Controller, error) {
	c := &Controller{
		deps: deps, kube: kube, dynamic: client, poke: make(chan struct{}, 1), partings: map[types.NamespacedName]*parting{}, events: record.NewBroadcaster(),
		writes: deps.Metrics.Counter("nops_vpa_policy_writes_total", "Objects that the policy controller wrote."), failures: deps.Metrics.Counter("nops_vpa_policy_failures_total", "Writes that failed."),
	}
	c.recorder = c.events.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: deps.Who.Name()})
	return c, c.watch()
}

// watch makes the informers. What is kept of an object is what is decided on.
func (c *Controller) watch() error {
	c.factory = informers.NewSharedInformerFactoryWithOptions(c.kube, resync, informers.WithTransform(slim))
	c.policies = dynamicinformer.NewFilteredDynamicInformer(c.dynamic, rightsizing.Policies(), metav1.NamespaceAll, resync, cache.Indexers{}, nil).Informer()
	c.autoscalers = dynamicinformer.NewFilteredDynamicInformer(c.dynamic, rightsizing.Autoscalers(), metav1.NamespaceAll, resync, cache.Indexers{}, nil).Informer()
	if err := c.autoscalers.SetTransform(func(o any) (any, error) {
		if u, is := o.(*unstructured.Unstructured); is {
			u.SetManagedFields(nil)
			delete(u.Object, "status")
		}
		return o, nil
	}); err != nil {
		return fmt.Errorf("watch autoscalers: %w", err)
	}
	changed := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.look() }, DeleteFunc: func(any) { c.look() },
		UpdateFunc: func(before, after any) {
			b, is := before.(metav1.Object)
			a, too := after.(metav1.Object)
			if is && too && a.GetResourceVersion() == b.GetResourceVersion() {
				return // listed anew
			}
			if !reflect.DeepEqual(significant(before), significant(after)) {
				c.look()
			}
		},
	}
	for _, i := range append([]cache.SharedIndexInformer{c.policies, c.autoscalers}, c.informers()...) {
		if _, err := i.AddEventHandler(changed); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	c.factory.Core().V1().Pods().Informer() // pods come and go too often to look each time: with the next look
	return nil
}

func (c *Controller) informers() []cache.SharedIndexInformer {
	apps, batch := c.factory.Apps().V1(), c.factory.Batch().V1()
	return []cache.SharedIndexInformer{
		c.factory.Core().V1().Namespaces().Informer(), apps.Deployments().Informer(), apps.StatefulSets().Informer(), apps.DaemonSets().Informer(), batch.CronJobs().Informer(),
		c.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
	}
}

// significant is what of an object's change is worth a look: not its status.
func significant(o any) any {
	switch o := o.(type) {
	case *unstructured.Unstructured:
		return []any{o.GetLabels(), o.GetAnnotations(), o.Object["spec"]}
	case *appsv1.Deployment:
		return []any{o.Labels, o.Annotations, o.Spec}
	case *appsv1.StatefulSet:
		return []any{o.Labels, o.Annotations, o.Spec}
	case *appsv1.DaemonSet:
		return []any{o.Labels, o.Annotations, o.Spec}
	case *batchv1.CronJob:
		return []any{o.Labels, o.Annotations, o.Spec}
	case *autoscalingv2.HorizontalPodAutoscaler:
		return []any{o.Annotations, o.Spec}
	case metav1.Object:
		return []any{o.GetLabels(), o.GetAnnotations()}
	}
	return o
}

// slim keeps of an object what is decided on.
func slim(o any) (any, error) {
	if m, is := o.(metav1.Object); is {
		if _, hpa := o.(*autoscalingv2.HorizontalPodAutoscaler); !hpa { // there field managers matter
			m.SetManagedFields(nil)
		}
	}
	template := func(t *corev1.PodTemplateSpec) { t.ObjectMeta, t.Spec = metav1.ObjectMeta{}, slimSpec(t.Spec) }
	switch o := o.(type) {
	case *appsv1.Deployment:
		template(&o.Spec.Template)
		o.Status = appsv1.DeploymentStatus{}
	case *appsv1.StatefulSet:
		template(&o.Spec.Template)
		o.Status, o.Spec.VolumeClaimTemplates = appsv1.StatefulSetStatus{}, nil
	case *appsv1.DaemonSet:
		template(&o.Spec.Template)
		o.Status = appsv1.DaemonSetStatus{}
	case *batchv1.CronJob:
		template(&o.Spec.JobTemplate.Spec.Template)
		o.Status = batchv1.CronJobStatus{}
	case *autoscalingv2.HorizontalPodAutoscaler:
		o.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
		for i := range o.ManagedFields {
			o.ManagedFields[i].FieldsV1 = nil
		}
	case *corev1.Pod:
		o.Spec, o.Status, o.Annotations = slimSpec(o.Spec), corev1.PodStatus{Phase: o.Status.Phase}, nil
	case *corev1.Namespace:
		o.Spec, o.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	}
	return o, nil
}

func slimSpec(s corev1.PodSpec) corev1.PodSpec {
	containers := func(from []corev1.Container) (out []corev1.Container) {
		for _, c := range from {
			out = append(out, corev1.Container{Name: c.Name, Resources: corev1.ResourceRequirements{Requests: c.Resources.Requests}, RestartPolicy: c.RestartPolicy})
		}
		return out
	}
	return corev1.PodSpec{Containers: containers(s.Containers), InitContainers: containers(s.InitContainers)}
}

func (c *Controller) look() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Run works until the context ends: while it leads, where there is an election.
func (c *Controller) Run(ctx context.Context) error {
	c.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.kube.CoreV1().Events("")})
	defer c.events.Shutdown()
	working, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		c.factory.Shutdown()
	}()
	c.factory.StartWithContext(working)
	return agent.Run(working,
		agent.Task{Name: "policies", Run: func(ctx context.Context) error { c.policies.RunWithContext(ctx); return nil }},
		agent.Task{Name: "autoscalers", Run: func(ctx context.Context) error { c.autoscalers.RunWithContext(ctx); return nil }},
		agent.Task{Name: "loop", Run: func(ctx context.Context) error {
			if c.deps.Candidate == "" {
				return c.loop(ctx)
			}
			return election.Lead(ctx, election.Options{Kube: c.deps.Kube, Who: c.deps.Who, Lease: c.deps.Lease, Candidate: c.deps.Candidate}, c.loop)
		}})
}

func (c *Controller) loop(ctx context.Context) error {
	synced := []cache.InformerSynced{c.policies.HasSynced, c.autoscalers.HasSynced, c.factory.Core().V1().Pods().Informer().HasSynced}
	for _, i := range c.informers() {
		synced = append(synced, i.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	for {
		if err := c.Once(ctx); err != nil && ctx.Err() == nil {
			c.deps.Log.LogAttrs(ctx, slog.LevelWarn, "some of what policies say could not be written; it is tried again", slog.Any("error", err))
		}
		c.deps.Turn()
		timer := time.NewTimer(c.deps.Every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-c.poke:
			timer.Stop()
			// What changes together is looked at together.
			if agent.Sleep(ctx, 300*time.Millisecond) != nil {
				return nil
			}
		}
	}
}

// Once looks at everything and writes what differs.
func (c *Controller) Once(ctx context.Context) error {
	v := c.view()
	out := Desire(v.Input) // without HorizontalPodAutoscalers: says which policy holds for which workload
	errs := c.align(ctx, &v, out)
	out = Desire(v.Input)
	for _, a := range out.Autoscalers {
		errs = append(errs, c.apply(ctx, a, v.existing))
	}
	for _, name := range out.Delete {
		uid := v.existing[name.String()].GetUID()
		err := c.dynamic.Resource(rightsizing.Autoscalers()).Namespace(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		errs = append(errs, c.count(err, "delete autoscaler", name.String()))
	}
	for _, name := range out.Stop {
		errs = append(errs, c.write(ctx, stopped(v.existing[name.String()])))
	}
	errs = append(errs, c.part(ctx, v, &out)...)
	for key, p := range out.Of {
		if v.elsewhere[key].is {
			status := out.Status[p.Name]
			status.Elsewhere++
			out.Status[p.Name] = status
		}
	}
	for _, p := range v.Policies {
		errs = append(errs, c.status(ctx, p, out.Status[p.Name]))
	}
	return errors.Join(errs...)
}

// count keeps account of a write, and says what failed. What is gone already is well.
func (c *Controller) count(err error, what, name string) error {
	if err == nil || apierrors.IsNotFound(err) {
		c.writes.Add(1)
		return nil
	}
	c.failures.Add(1)
	return fmt.Errorf("%s %s: %w", what, name, err)
}

// apply writes one autoscaler, where it differs from what is there.
func (c *Controller) apply(ctx context.Context, a Autoscaler, existing map[string]*unstructured.Unstructured) error {
	want := &unstructured.Unstructured{Object: a.Object}
	have := existing[want.GetNamespace()+"/"+want.GetName()]
	if have != nil {
		if have.GetLabels()[rightsizing.LabelPolicy] == "" {
			return fmt.Errorf("autoscaler %s/%s is somebody's own, and has the name that policy %s makes for %s %s", want.GetNamespace(), want.GetName(), a.Policy.Name, a.Workload.Kind, a.Workload.Object.Name)
		}
		if apiequality.Semantic.DeepEqual(have.Object["spec"], want.Object["spec"]) && have.GetLabels()[rightsizing.LabelPolicy] == a.Policy.Name && annotated(have, want) {
			return nil
		}
	}
	return c.write(ctx, want)
}

// appliedAnnotations are the policy controller's of an autoscaler; the others are somebody else's.
func appliedAnnotations() []string {
	return []string{rightsizing.AnnotationSettings, rightsizing.AnnotationYields, rightsizing.AnnotationSized, rightsizing.AnnotationLeaving}
}

// annotated says whether the annotations of the policy controller's are alike.
func annotated(a, b *unstructured.Unstructured) bool {
	for _, name := range appliedAnnotations() {
		if a.GetAnnotations()[name] != b.GetAnnotations()[name] {
			return false
		}
	}
	return true
}

// write applies an autoscaler.
func (c *Controller) write(ctx context.Context, want *unstructured.Unstructured) error {
	body, err := json.Marshal(want.Object)
	if err != nil {
		return fmt.Errorf("encode autoscaler %s/%s: %w", want.GetNamespace(), want.GetName(), err)
	}
	force := true
	_, err = c.dynamic.Resource(rightsizing.Autoscalers()).Namespace(want.GetNamespace()).Patch(ctx, want.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // its namespace goes
	}
	return c.count(err, "apply autoscaler", want.GetNamespace()+"/"+want.GetName())
}

// status writes a policy's, where it differs.
func (c *Controller) status(ctx context.Context, p rightsizing.Policy, want rightsizing.PolicyStatus) error {
	for i := range want.Conditions {
		want.Conditions[i].LastTransitionTime = metav1.NewTime(c.deps.Now().UTC().Truncate(time.Second))
		for _, had := range p.Status.Conditions {
			if had.Type == want.Conditions[i].Type && had.Status == want.Conditions[i].Status {
				want.Conditions[i].LastTransitionTime = had.LastTransitionTime
			}
		}
	}
	if apiequality.Semantic.DeepEqual(p.Status, want) {
		return nil
	}
	// Counts of zero are said, too: what is left out of a merge patch stays.
	body, err := json.Marshal(map[string]any{"status": map[string]any{"observedGeneration": want.ObservedGeneration, "workloads": want.Workloads, "elsewhere": want.Elsewhere, "leaving": want.Leaving, "conditions": want.Conditions}})
	if err != nil {
		return fmt.Errorf("encode the status of policy %s: %w", p.Name, err)
	}
	_, err = c.dynamic.Resource(rightsizing.Policies()).Patch(ctx, p.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager}, "status")
	return c.count(err, "write the status of policy", p.Name)
}

// shape is what HorizontalPodAutoscalers need to know of a workload.
type shape struct {
	template corev1.PodSpec
	selector labels.Selector
}

// view is all that is decided on and written to, as the caches had it at one time: what was looked for a second time might be gone.
type view struct {
	Input

	existing  map[string]*unstructured.Unstructured               // autoscalers, by NAMESPACE/NAME
	hpas      map[string][]*autoscalingv2.HorizontalPodAutoscaler // by their workload's key, by name
	elsewhere map[string]elsewhereOf                              // likewise
}

func (c *Controller) view() view {
	in := Input{Namespaces: map[string]metav1.ObjectMeta{}, Ignored: c.deps.Ignored, Unread: map[string]Unread{}}
	for _, o := range c.policies.GetStore().List() {
		if u, is := o.(*unstructured.Unstructured); is {
			p, unread := read(u)
			in.Policies, in.Unread[p.Name] = append(in.Policies, p), unread
		}
	}
	existing := map[string]*unstructured.Unstructured{}
	for _, o := range c.autoscalers.GetStore().List() {
		u, is := o.(*unstructured.Unstructured)
		if !is {
			continue
		}
		existing[u.GetNamespace()+"/"+u.GetName()] = u
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "targetRef", "kind")
		name, _, _ := unstructured.NestedString(u.Object, "spec", "targetRef", "name")
		in.Existing = append(in.Existing, Existing{
			Namespace: u.GetNamespace(), Name: u.GetName(), Policy: u.GetLabels()[rightsizing.LabelPolicy], Target: kind + "/" + name, Reverted: u.GetAnnotations()[rightsizing.AnnotationReverted] != "",
			Sized: u.GetAnnotations()[rightsizing.AnnotationSized] != "", Off: modeOf(u) == string(vpav1.UpdateModeOff), Imported: u.GetAnnotations()[rightsizing.AnnotationImported] != "",
		})
	}
	for _, o := range c.factory.Core().V1().Namespaces().Informer().GetStore().List() {
		if n, is := o.(*corev1.Namespace); is {
			in.Namespaces[n.Name] = n.ObjectMeta
		}
	}
	elsewhere := map[string]elsewhereOf{}
	for _, w := range c.workloads() {
		in.Workloads = append(in.Workloads, w)
		e := elsewhereOf{known: true}
		if c.deps.Elsewhere != nil {
			e.is, e.known = c.deps.Elsewhere(w.Kind, w.Object.Namespace, w.Object.Name, &w.Object)
		}
		elsewhere[w.key()] = e
	}
	hpas := map[string][]*autoscalingv2.HorizontalPodAutoscaler{}
	for _, o := range c.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore().List() {
		if h, is := o.(*autoscalingv2.HorizontalPodAutoscaler); is {
			key := h.Spec.ScaleTargetRef.Kind + "/" + h.Namespace + "/" + h.Spec.ScaleTargetRef.Name
			hpas[key] = append(hpas[key], h)
		}
	}
	for _, several := range hpas {
		slices.SortFunc(several, func(a, b *autoscalingv2.HorizontalPodAutoscaler) int { return strings.Compare(a.Name, b.Name) })
	}
	return view{Input: in, existing: existing, hpas: hpas, elsewhere: elsewhere}
}

// read takes from a policy what can be understood of it, field by field. One that cannot be read must neither look as if it were gone, for its
// autoscalers would be, nor be in the way of the others.
func read(u *unstructured.Unstructured) (rightsizing.Policy, Unread) {
	p := rightsizing.Policy{ObjectMeta: metav1.ObjectMeta{Name: u.GetName(), UID: u.GetUID(), Generation: u.GetGeneration(), Annotations: u.GetAnnotations()}}
	if text, err := json.Marshal(u.Object["status"]); err != nil || json.Unmarshal(text, &p.Status) != nil {
		p.Status = rightsizing.PolicyStatus{} // ours, and written anew
	}
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	unread := Unread{}
	for field, value := range spec {
		text := encoded(map[string]any{field: value})
		// What is read of a field in part is not what somebody meant.
		if err := json.Unmarshal(text, new(rightsizing.PolicySpec)); err != nil {
			unread[field] = err
		} else if err := json.Unmarshal(text, &p.Spec); err != nil {
			unread[field] = err
		}
	}
	return p, unread
}

// modeOf is an autoscaler's update mode.
func modeOf(u *unstructured.Unstructured) string {
	mode, _, _ := unstructured.NestedString(u.Object, "spec", "updatePolicy", "updateMode")
	return mode
}

// names are those of the containers that can be sized.
func names(s corev1.PodSpec) (out []string) {
	for _, c := range s.Containers {
		out = append(out, c.Name)
	}
	for _, c := range s.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c.Name)
		}
	}
	return out
}

func (c *Controller) workloads() (out []Workload) {
	add := func(kind string, m metav1.ObjectMeta, s corev1.PodSpec) {
		out = append(out, Workload{Kind: kind, Object: m, Containers: names(s)})
	}
	for _, i := range c.informers() {
		for _, o := range i.GetStore().List() {
			switch o := o.(type) {
			case *appsv1.Deployment:
				add("Deployment", o.ObjectMeta, o.Spec.Template.Spec)
			case *appsv1.StatefulSet:
				add("StatefulSet", o.ObjectMeta, o.Spec.Template.Spec)
			case *appsv1.DaemonSet:
				add("DaemonSet", o.ObjectMeta, o.Spec.Template.Spec)
			case *batchv1.CronJob:
				add("CronJob", o.ObjectMeta, o.Spec.JobTemplate.Spec.Template.Spec)
			}
		}
	}
	return out
}

// shapeOf is that of a workload with replicas.
func (c *Controller) shapeOf(kind, namespace, name string) (shape, bool) {
	var spec corev1.PodSpec
	var selector *metav1.LabelSelector
	switch kind {
	case "Deployment":
		d, err := c.factory.Apps().V1().Deployments().Lister().Deployments(namespace).Get(name)
		if err != nil {
			return shape{}, false
		}
		spec, selector = d.Spec.Template.Spec, d.Spec.Selector
	case "StatefulSet":
		s, err := c.factory.Apps().V1().StatefulSets().Lister().StatefulSets(namespace).Get(name)
		if err != nil {
			return shape{}, false
		}
		spec, selector = s.Spec.Template.Spec, s.Spec.Selector
	default:
		return shape{}, false
	}
	pods, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return shape{}, false
	}
	return shape{template: spec, selector: pods}, true
}

// requests are what a pod of a workload requests by its template, and what it does, on the average of those that run. What the template says
// nothing of, as of a sidecar that a webhook adds, is in both: it has its share of the utilization.
func (c *Controller) requests(namespace string, s shape) (template, live map[corev1.ResourceName]int64) {
	pods, err := c.factory.Core().V1().Pods().Lister().Pods(namespace).List(s.selector)
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning })
	template, live = map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		says := requested(&s.template, name)
		all := int64(0)
		for _, milli := range says {
			all += milli
		}
		if template[name] = all; all == 0 || err != nil || len(pods) == 0 {
			continue
		}
		meant, is, n := int64(0), int64(0), int64(len(pods))
		for _, p := range pods {
			for container, milli := range requested(&p.Spec, name) {
				is += milli
				if say := says[container]; say > 0 {
					milli = say
				}
				meant += milli
			}
		}
		template[name], live[name] = meant/n, is/n
	}
	return template, live
}

// align makes targets of HorizontalPodAutoscalers follow where a policy says so, lets those go back with their pods of which it no longer says
// so, and notes which resources are left to them.
func (c *Controller) align(ctx context.Context, v *view, out Outcome) []error {
	v.Horizontal = map[string]Alignment{}
	reverted := map[string]bool{}
	for _, e := range v.Existing {
		if kind, name, _ := strings.Cut(e.Target, "/"); e.Policy != "" && e.Reverted {
			reverted[kind+"/"+e.Namespace+"/"+name] = true
		}
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(v.hpas)) {
		all, p, held := v.hpas[key], out.Of[key], out.Held[key]
		s, known := c.shapeOf(all[0].Spec.ScaleTargetRef.Kind, all[0].Namespace, all[0].Spec.ScaleTargetRef.Name)
		if !known {
			continue
		}
		// Of a policy that is paused no target begins to follow. One that does goes on, for pods that are replaced meanwhile have what their template
		// says: a target that stayed would scale them far too late.
		paused := p != nil && p.Spec.Paused || held != nil && held.Spec.Paused
		// What a policy that cannot be understood sized before is sized still. Of several none follows: which of them scales is nothing to rely on.
		wants := !paused && len(all) == 1 && (held != nil || p != nil && p.Spec.HPA == rightsizing.HPAAlign && !p.Spec.DryRun && p.Annotations[rightsizing.AnnotationReverted] == "" && !reverted[key])
		var is []Alignment
		for _, h := range all {
			if follows := h.Annotations[rightsizing.AnnotationTargets] != ""; !follows && (p == nil || paused) {
				continue
			}
			// Nor does one begin to follow of a workload that somebody else sizes, and while that is not known yet, as after a start: what follows then goes
			// on as it is.
			template, live := c.requests(h.Namespace, s)
			a := Align(h, wants && v.elsewhere[key].ours(h), template, live)
			is = append(is, a)
			errs = append(errs, c.move(ctx, h, a))
		}
		v.Horizontal[key] = together(all, is)
	}
	return errs
}

// move writes what is to be done about a HorizontalPodAutoscaler.
func (c *Controller) move(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, a Alignment) error {
	patch := a.patch(h)
	if patch == nil {
		return nil
	}
	_, err := c.kube.AutoscalingV2().HorizontalPodAutoscalers(h.Namespace).Patch(ctx, h.Name, types.JSONPatchType, encoded(patch), metav1.PatchOptions{FieldManager: manager})
	if err = c.count(err, "align HorizontalPodAutoscaler", h.Namespace+"/"+h.Name); err == nil && len(a.Set) > 0 {
		c.deps.Log.LogAttrs(ctx, slog.LevelInfo, "a HorizontalPodAutoscaler's target follows its pods' requests", slog.String("namespace", h.Namespace), slog.String("name", h.Name), slog.Any("percent", a.Set))
	}
	return err
}
