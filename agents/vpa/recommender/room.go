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

// labelNodePool is on nodes that Karpenter made, EKS Auto Mode's too (https://karpenter.sh/docs/concepts/nodepools/).
const labelNodePool = "karpenter.sh/nodepool"

// rooms are what nodes have for pods besides those of DaemonSets. What fits none of them would never be applied, or leave a pod pending; but
// where nodes are made to fit pods, the largest that is there now says nothing: it was made for what pods request now.
type rooms struct {
	nodes   []node
	daemons map[string][]*corev1.Pod                  // pods of DaemonSets
	known   map[string]map[string]corev1.ResourceList // by the DaemonSet that asks, "" for all others, and selector
}

type node struct {
	name   string
	labels labels.Set
	room   corev1.ResourceList
	made   bool // on demand
}

func newRooms(nodes []*corev1.Node, pods []*corev1.Pod) *rooms {
	r := &rooms{daemons: map[string][]*corev1.Pod{}, known: map[string]map[string]corev1.ResourceList{}}
	taken := map[string]corev1.ResourceList{}
	for _, p := range pods {
		if set := daemonSet(p); set != "" && p.Spec.NodeName != "" {
			r.daemons[set] = append(r.daemons[set], p)
			take(taken, p)
		}
	}
	for _, n := range nodes {
		room := corev1.ResourceList{}
		add(room, n.Status.Allocatable, 1)
		add(room, taken[n.Name], -1)
		r.nodes = append(r.nodes, node{n.Name, labels.Set(n.Labels), room, n.Labels[labelNodePool] != ""})
	}
	return r
}

// daemonSet is the pod's; "" where another kind of workload or nobody made it.
func daemonSet(p *corev1.Pod) string {
	if owner := metav1.GetControllerOf(p); owner != nil && owner.Kind == "DaemonSet" {
		return p.Namespace + "/" + owner.Name
	}
	return ""
}

// take adds what a pod has of its node.
func take(taken map[string]corev1.ResourceList, p *corev1.Pod) {
	if taken[p.Spec.NodeName] == nil {
		taken[p.Spec.NodeName] = corev1.ResourceList{}
	}
	for _, c := range p.Spec.Containers {
		add(taken[p.Spec.NodeName], c.Resources.Requests, 1)
	}
}

// lasts says whether an init container is a native sidecar.
func lasts(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// runs says whether a pod has a container that runs as long as it does: its containers, and native sidecars, which slim moves among them.
func runs(p *corev1.Pod, container string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == container })
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

// largest is the most of each resource that a node with these labels has for pods of a DaemonSet, or for those of none; nil where no such node is
// there, or some are made on demand: nothing is known of the one that will be.
func (r *rooms) largest(set string, selector map[string]string) corev1.ResourceList {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(selector)) {
		words = append(words, name+"="+selector[name])
	}
	key := strings.Join(words, ",")
	if most, is := r.known[set][key]; is {
		return most
	}
	// What its own pods have is theirs: each raise would lower the next recommendation.
	own := map[string]corev1.ResourceList{}
	if set != "" {
		for _, p := range r.daemons[set] {
			take(own, p)
		}
	}
	var most corev1.ResourceList
	chosen := labels.SelectorFromSet(selector)
	for _, n := range r.nodes {
		if !chosen.Matches(n.labels) {
			continue
		}
		if n.made {
			most = nil
			break
		}
		if most == nil {
			most = corev1.ResourceList{}
		}
		room := n.room
		if had := own[n.name]; had != nil {
			room = corev1.ResourceList{}
			add(room, n.room, 1)
			add(room, had, 1)
		}
		for name, q := range room {
			if is, there := most[name]; !there || q.Cmp(is) > 0 {
				most[name] = q
			}
		}
	}
	if r.known[set] == nil {
		r.known[set] = map[string]corev1.ResourceList{}
	}
	r.known[set][key] = most
	return most
}

// of is the room for the recommended containers of a workload, by one of its pods: what the others of its containers request is not theirs.
func (r *rooms) of(pod *corev1.Pod, recommended func(container string) bool) corev1.ResourceList {
	if r == nil {
		return nil
	}
	if pod == nil {
		return r.largest("", nil)
	}
	most := r.largest(daemonSet(pod), pod.Spec.NodeSelector)
	if most == nil {
		return nil
	}
	room := corev1.ResourceList{}
	add(room, most, 1)
	for _, c := range pod.Spec.Containers {
		if !recommended(c.Name) {
			add(room, c.Resources.Requests, -1)
		}
	}
	return room
}

// share is what is kept of a quantity, in bytes, and a part of the rest, rounded down.
func share(name corev1.ResourceName, q resource.Quantity, kept int64, part float64) resource.Quantity {
	if name == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(int64(float64(q.MilliValue())*part), resource.DecimalSI)
	}
	return *resource.NewQuantity(kept+int64(float64(q.Value()-kept)*part), resource.BinarySI)
}
