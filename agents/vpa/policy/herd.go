package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// given are the kinds of workloads whose pods are given back, or end by themselves.
func given() []string {
	return []string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "CronJob", "Job"}
}

// herd is what is read of workloads of a namespace to give their pods back what their templates say.
type herd struct {
	templates map[string]*template // by KIND/NAME
	owners    map[types.UID]*template
	pods      map[types.UID][]corev1.Pod // by their controller
	ranges    []corev1.LimitRange        // once looked
	looked    bool
}

// template is what the pods of a workload are made from, by their controller: those of a Deployment have several.
type template struct {
	object metav1.ObjectMeta
	specs  map[types.UID]*corev1.PodSpec
}

func newHerd() *herd {
	return &herd{templates: map[string]*template{}, owners: map[types.UID]*template{}, pods: map[types.UID][]corev1.Pod{}}
}

// add adds a workload. Without a specification its pods have controllers of their own.
func (h *herd) add(kind string, o *metav1.ObjectMeta, spec *corev1.PodSpec) {
	t := &template{object: *o, specs: map[types.UID]*corev1.PodSpec{}}
	t.object.ManagedFields = nil
	h.templates[kind+"/"+o.Name] = t
	if spec == nil {
		h.owners[o.UID] = t
		return
	}
	t.specs[o.UID] = lightSpec(spec)
	h.pods[o.UID] = nil
}

// set adds a ReplicaSet, where a Deployment that was added controls it.
func (h *herd) set(s *appsv1.ReplicaSet) {
	if by := metav1.GetControllerOf(s); by != nil && h.owners[by.UID] != nil {
		h.owners[by.UID].specs[s.UID] = lightSpec(&s.Spec.Template.Spec)
		h.pods[s.UID] = nil
	}
}

// pod adds a pod, where a workload that was added has it.
func (h *herd) pod(p *corev1.Pod) {
	if by := metav1.GetControllerOf(p); by != nil {
		if pods, is := h.pods[by.UID]; is {
			h.pods[by.UID] = append(pods, light(p))
		}
	}
}

// of are the pods of a workload.
func (h *herd) of(key string) (out []*corev1.Pod) {
	_, kind, name := split(key)
	t := h.templates[kind+"/"+name]
	if t == nil {
		return nil
	}
	for _, controller := range slices.Sorted(maps.Keys(t.specs)) {
		for i := range h.pods[controller] {
			out = append(out, &h.pods[controller][i])
		}
	}
	return out
}

// light is what of a pod is decided on: thousands of them are kept at once.
func light(p *corev1.Pod) corev1.Pod {
	out := corev1.Pod{ObjectMeta: p.ObjectMeta, Spec: *lightSpec(&p.Spec), Status: corev1.PodStatus{Phase: p.Status.Phase, QOSClass: p.Status.QOSClass, Conditions: p.Status.Conditions}}
	out.ManagedFields = slices.DeleteFunc(slices.Clone(p.ManagedFields), func(m metav1.ManagedFieldsEntry) bool { return m.Subresource != "resize" })
	has := func(from []corev1.ContainerStatus) (out []corev1.ContainerStatus) {
		for _, s := range from {
			out = append(out, corev1.ContainerStatus{Name: s.Name, Resources: s.Resources})
		}
		return out
	}
	out.Status.ContainerStatuses, out.Status.InitContainerStatuses = has(p.Status.ContainerStatuses), has(p.Status.InitContainerStatuses)
	return out
}

func lightSpec(s *corev1.PodSpec) *corev1.PodSpec {
	containers := func(from []corev1.Container) (out []corev1.Container) {
		for _, c := range from {
			out = append(out, corev1.Container{Name: c.Name, Resources: c.Resources, ResizePolicy: c.ResizePolicy, RestartPolicy: c.RestartPolicy})
		}
		return out
	}
	return &corev1.PodSpec{Containers: containers(s.Containers), InitContainers: containers(s.InitContainers)}
}

// one reads one workload. One that is gone has no template, one whose pods end by themselves neither, and nor has one of a kind that is not known.
func (v *reverter) one(ctx context.Context, key string) (*herd, error) {
	namespace, kind, name := split(key)
	h, apps := newHerd(), v.kube.AppsV1()
	var selector *metav1.LabelSelector
	var err error
	switch kind {
	case "Deployment":
		var d *appsv1.Deployment
		if d, err = apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			h.add(kind, &d.ObjectMeta, nil)
			selector = d.Spec.Selector
		}
	case "StatefulSet":
		var s *appsv1.StatefulSet
		if s, err = apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			h.add(kind, &s.ObjectMeta, &s.Spec.Template.Spec)
			selector = s.Spec.Selector
		}
	case "DaemonSet":
		var s *appsv1.DaemonSet
		if s, err = apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			h.add(kind, &s.ObjectMeta, &s.Spec.Template.Spec)
			selector = s.Spec.Selector
		}
	case "ReplicaSet":
		var s *appsv1.ReplicaSet
		if s, err = apps.ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			h.add(kind, &s.ObjectMeta, &s.Spec.Template.Spec)
			selector = s.Spec.Selector
		}
	case "ReplicationController":
		var c *corev1.ReplicationController
		if c, err = v.kube.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && c.Spec.Template != nil {
			h.add(kind, &c.ObjectMeta, &c.Spec.Template.Spec)
			selector = &metav1.LabelSelector{MatchLabels: c.Spec.Selector}
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read it: %w", err)
	}
	if selector == nil {
		return h, nil
	}
	pods, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, fmt.Errorf("its selector: %w", err)
	}
	return h, v.fill(ctx, h, namespace, metav1.ListOptions{LabelSelector: pods.String()})
}

// whole reads the workloads of a namespace, and says why it did not those of a kind.
func (v *reverter) whole(ctx context.Context, of []*subject) (*herd, map[string]error, error) {
	namespace, h, apps, all := of[0].namespace, newHerd(), v.kube.AppsV1(), metav1.ListOptions{}
	kinds, wanted, unread := map[string]bool{}, map[string]bool{}, map[string]error{}
	for _, s := range of {
		_, kind, name := split(s.key)
		kinds[kind], wanted[kind+"/"+name] = true, true
	}
	add := func(kind string, o *metav1.ObjectMeta, spec *corev1.PodSpec) {
		if wanted[kind+"/"+o.Name] {
			h.add(kind, o, spec)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		var err error
		switch kind {
		case "Deployment":
			err = lists(ctx, apps.Deployments(namespace).List, all, func(l *appsv1.DeploymentList) {
				for i := range l.Items {
					add(kind, &l.Items[i].ObjectMeta, nil)
				}
			})
		case "StatefulSet":
			err = lists(ctx, apps.StatefulSets(namespace).List, all, func(l *appsv1.StatefulSetList) {
				for i := range l.Items {
					add(kind, &l.Items[i].ObjectMeta, &l.Items[i].Spec.Template.Spec)
				}
			})
		case "DaemonSet":
			err = lists(ctx, apps.DaemonSets(namespace).List, all, func(l *appsv1.DaemonSetList) {
				for i := range l.Items {
					add(kind, &l.Items[i].ObjectMeta, &l.Items[i].Spec.Template.Spec)
				}
			})
		case "ReplicaSet":
			err = lists(ctx, apps.ReplicaSets(namespace).List, all, func(l *appsv1.ReplicaSetList) {
				for i := range l.Items {
					add(kind, &l.Items[i].ObjectMeta, &l.Items[i].Spec.Template.Spec)
				}
			})
		case "ReplicationController":
			err = lists(ctx, v.kube.CoreV1().ReplicationControllers(namespace).List, all, func(l *corev1.ReplicationControllerList) {
				for i := range l.Items {
					if t := l.Items[i].Spec.Template; t != nil {
						add(kind, &l.Items[i].ObjectMeta, &t.Spec)
					}
				}
			})
		}
		if err != nil {
			unread[kind] = err
		}
	}
	return h, unread, v.fill(ctx, h, namespace, all)
}

// fill reads the ReplicaSets and the pods of the workloads of a herd.
func (v *reverter) fill(ctx context.Context, h *herd, namespace string, o metav1.ListOptions) error {
	if len(h.owners) > 0 {
		if err := lists(ctx, v.kube.AppsV1().ReplicaSets(namespace).List, o, func(l *appsv1.ReplicaSetList) {
			for i := range l.Items {
				h.set(&l.Items[i])
			}
		}); err != nil {
			return fmt.Errorf("list ReplicaSets: %w", err)
		}
	}
	if len(h.pods) == 0 {
		return nil
	}
	if err := lists(ctx, v.kube.CoreV1().Pods(namespace).List, o, func(l *corev1.PodList) {
		for i := range l.Items {
			h.pod(&l.Items[i])
		}
	}); err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	return nil
}

// page is how many objects are asked for at once.
const page = 500

// lists reads all of a list, page by page.
func lists[L interface{ GetContinue() string }](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), o metav1.ListOptions, each func(L)) error {
	for o.Limit = page; ; {
		l, err := list(ctx, o)
		if err != nil {
			return err //nolint:wrapcheck // the caller says of what
		}
		each(l)
		if o.Continue = l.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}
