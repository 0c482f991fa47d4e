package recommender

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// rooms are what nodes have for pods besides those of DaemonSets. What fits none of them would never be applied, or leave a pod pending.
type rooms struct {
	nodes []node
	known map[string]corev1.ResourceList // by selector
}

type node struct {
	labels labels.Set
	room   corev1.ResourceList
}

func newRooms(nodes []*corev1.Node, pods []*corev1.Pod) *rooms {
	taken := map[string]corev1.ResourceList{}
	for _, p := range pods {
		if owner := metav1.GetControllerOf(p); owner == nil || owner.Kind != "DaemonSet" || p.Spec.NodeName == "" {
			continue
		}
		if taken[p.Spec.NodeName] == nil {
			taken[p.Spec.NodeName] = corev1.ResourceList{}
		}
		for i := range p.Spec.Containers {
			add(taken[p.Spec.NodeName], p.Spec.Containers[i].Resources.Requests, 1)
		}
	}
	r := &rooms{known: map[string]corev1.ResourceList{}}
	for _, n := range nodes {
		room := corev1.ResourceList{}
		add(room, n.Status.Allocatable, 1)
		add(room, taken[n.Name], -1)
		r.nodes = append(r.nodes, node{labels.Set(n.Labels), room})
	}
	return r
}

// add adds CPU and memory, or takes them away.
func add(to, of corev1.ResourceList, sign int) {
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, is := of[r]
		if !is {
			continue
		}
		sum := to[r].DeepCopy()
		if sign < 0 {
			sum.Sub(q)
		} else {
			sum.Add(q)
		}
		to[r] = sum
	}
}

// largest is the most of each resource that a node with these labels has; nil where no such node is there, and nothing is known of the one that
// will be.
func (r *rooms) largest(selector map[string]string) corev1.ResourceList {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(selector)) {
		words = append(words, name+"="+selector[name])
	}
	key := strings.Join(words, ",")
	if most, is := r.known[key]; is {
		return most
	}
	var most corev1.ResourceList
	chosen := labels.SelectorFromSet(selector)
	for _, n := range r.nodes {
		if !chosen.Matches(n.labels) {
			continue
		}
		if most == nil {
			most = corev1.ResourceList{}
		}
		for name, q := range n.room {
			if is, there := most[name]; !there || q.Cmp(is) > 0 {
				most[name] = q
			}
		}
	}
	r.known[key] = most
	return most
}

// of is the room for the recommended containers of a workload, by one of its pods: what the others of its containers request is not theirs.
func (r *rooms) of(pod *corev1.Pod, recommended func(container string) bool) corev1.ResourceList {
	if r == nil {
		return nil
	}
	var selector map[string]string
	if pod != nil {
		selector = pod.Spec.NodeSelector
	}
	most := r.largest(selector)
	if most == nil || pod == nil {
		return most
	}
	room := corev1.ResourceList{}
	add(room, most, 1)
	always := corev1.ContainerRestartPolicyAlways
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; !recommended(c.Name) {
			add(room, c.Resources.Requests, -1)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == always && !recommended(c.Name) {
			add(room, c.Resources.Requests, -1)
		}
	}
	return room
}

// share is a part of a quantity, rounded down.
func share(name corev1.ResourceName, q resource.Quantity, part float64) resource.Quantity {
	if name == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(int64(float64(q.MilliValue())*part), resource.DecimalSI)
	}
	return *resource.NewQuantity(int64(float64(q.Value())*part), resource.BinarySI)
}
