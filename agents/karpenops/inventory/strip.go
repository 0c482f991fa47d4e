package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
)

// pool keeps strings and label sets once. Nodes of one kind carry the same thirty labels, and pods of one Deployment ask for the same:
// two thousand nodes are a hundred sets.
type pool struct {
	mu     sync.Mutex
	words  map[string]string
	labels map[string]map[string]string
	shapes map[string]*shape
}

// maxPooled bounds each of the three: whoever makes up a new label for each pod must not fill the memory. What is let go is
// kept by those who hold it.
const maxPooled = 20000

func newPool() *pool {
	return &pool{words: map[string]string{}, labels: map[string]map[string]string{}, shapes: map[string]*shape{}}
}

func (p *pool) word(s string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.locked(s)
}

func (p *pool) locked(s string) string {
	if known, is := p.words[s]; is {
		return known
	}
	if len(p.words) >= maxPooled {
		clear(p.words)
	}
	own := strings.Clone(s) // it may be a part of something large
	p.words[own] = own
	return own
}

// set is a map of labels that must not be changed.
func (p *pool) set(labels map[string]string) map[string]string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(k + "\x00" + labels[k] + "\x00")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, is := p.labels[b.String()]; is {
		return known
	}
	if len(p.labels) >= maxPooled {
		clear(p.labels)
	}
	own := make(map[string]string, len(labels))
	for k, v := range labels {
		own[p.locked(k)] = p.locked(v)
	}
	p.labels[b.String()] = own
	return own
}

func (p *pool) shape(s shape) *shape {
	id, err := json.Marshal(s)
	if err != nil { // numbers and strings marshal
		return &s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, is := p.shapes[string(id)]; is {
		return known
	}
	if len(p.shapes) >= maxPooled {
		clear(p.shapes)
	}
	p.shapes[string(id)] = &s
	return &s
}

// Claim is a NodeClaim, as much of it as matters.
type Claim struct {
	Name, Pool, Node string
	Labels           map[string]string // shared: read only
	VCPU             float64
	Drifted          string // the reason
	Deleting         bool
	Created          time.Time
}

func (p *pool) claim(o runtime.Object) (*Claim, bool) {
	u, is := o.(*unstructured.Unstructured)
	if !is {
		return nil, false
	}
	c := &Claim{
		Name: strings.Clone(u.GetName()), Labels: p.set(u.GetLabels()), Pool: p.word(u.GetLabels()[offering.LabelNodePool]),
		Deleting: u.GetDeletionTimestamp() != nil, Created: u.GetCreationTimestamp().UTC(),
	}
	node, _, _ := unstructured.NestedString(u.Object, "status", "nodeName")
	c.Node = p.word(node)
	c.VCPU = quantity(at(u.Object, "status", "capacity", "cpu"))
	if cond := condition(u.Object, "Drifted"); cond["status"] == "True" {
		reason, _ := cond["reason"].(string)
		c.Drifted = p.word(or(reason, "Drifted"))
	}
	return c, true
}

// zone is where a node is: its zone's name and ID.
type zone struct{ name, id string }

// where reads a node of which the API server sent the metadata alone.
func (p *pool) where(o runtime.Object) (zone, bool) {
	m, is := o.(*metav1.PartialObjectMetadata)
	if !is {
		return zone{}, false
	}
	z := zone{p.word(m.Labels[offering.LabelZone]), p.word(m.Labels[offering.LabelZoneID])}
	return z, z.name != ""
}

// shape is what pods of a kind ask for.
type shape struct {
	CPU         float64               `json:"cpu"`    // vCPU
	Memory      float64               `json:"memory"` // bytes
	Selector    offering.Requirements `json:"selector"`
	Tolerations []corev1.Toleration   `json:"tolerations"`
}

// pod is what is kept of one.
type pod struct {
	shape  *shape
	node   string // "": pending
	daemon bool   // its node comes first, so it asks for none
}

func (p *pool) pod(o runtime.Object) (pod, bool) {
	v, is := o.(*corev1.Pod)
	if !is || v.Status.Phase == corev1.PodSucceeded || v.Status.Phase == corev1.PodFailed {
		return pod{}, false
	}
	s := shape{Selector: p.selector(&v.Spec)}
	s.CPU, s.Memory = requests(&v.Spec)
	for _, t := range v.Spec.Tolerations {
		// Those that every pod is given say nothing.
		if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable {
			continue
		}
		s.Tolerations = append(s.Tolerations, corev1.Toleration{Key: p.word(t.Key), Operator: t.Operator, Value: p.word(t.Value), Effect: t.Effect})
	}
	sort.Slice(s.Tolerations, func(i, j int) bool { return fmt.Sprint(s.Tolerations[i]) < fmt.Sprint(s.Tolerations[j]) })
	daemon := slices.ContainsFunc(v.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Kind == "DaemonSet" || r.Kind == "Node"
	})
	return pod{shape: p.shape(s), node: p.word(v.Spec.NodeName), daemon: daemon}, true
}

// selector is the node selector and the required affinity, as far as one list can say it: where there are several terms, any of
// which would do, they are left out, and the pod is taken to fit more than it does.
func (p *pool) selector(s *corev1.PodSpec) offering.Requirements {
	var all offering.Requirements
	for _, k := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		all = append(all, offering.Requirement{Key: p.word(k), Operator: offering.In, Values: []string{p.word(s.NodeSelector[k])}})
	}
	if a := s.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		if terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms; len(terms) == 1 {
			for _, e := range terms[0].MatchExpressions {
				r := offering.Requirement{Key: p.word(e.Key), Operator: offering.Operator(e.Operator)}
				for _, v := range e.Values {
					r.Values = append(r.Values, p.word(v))
				}
				slices.Sort(r.Values)
				all = append(all, r)
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	return all
}

// requests are what the scheduler counts: the containers with the sidecars, or the largest moment of the start, and the overhead.
func requests(s *corev1.PodSpec) (cpu, memory float64) {
	count := func(name corev1.ResourceName) float64 {
		of := func(c corev1.Container) float64 {
			q := c.Resources.Requests[name]
			return q.AsApproximateFloat64()
		}
		var sidecars, start float64
		for _, c := range s.InitContainers {
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				sidecars += of(c)
				start = max(start, sidecars)
				continue
			}
			start = max(start, sidecars+of(c))
		}
		run := sidecars
		for _, c := range s.Containers {
			run += of(c)
		}
		if s.Resources != nil {
			if q, is := s.Resources.Requests[name]; is {
				run, start = q.AsApproximateFloat64(), 0
			}
		}
		overhead := s.Overhead[name]
		return max(run, start) + overhead.AsApproximateFloat64()
	}
	return count(corev1.ResourceCPU), count(corev1.ResourceMemory)
}

// whole keeps an object as it is, but for who manages which field: pools, classes and overlays are few.
func whole(o runtime.Object) (map[string]any, bool) {
	u, is := o.(*unstructured.Unstructured)
	if !is {
		return nil, false
	}
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	return u.Object, true
}

// class keeps a node class without its user data: that is a script, and people put credentials into scripts.
func class(o runtime.Object) (map[string]any, bool) {
	m, is := whole(o)
	if spec, has := m["spec"].(map[string]any); has && spec["userData"] != nil {
		spec["userData"] = LeftOut
	}
	return m, is
}

// LeftOut stands where something is that is none of ours to keep or to send.
const LeftOut = "(left out)"

// at is what lies at a path of maps; nil where there is nothing.
func at(o any, path ...string) any {
	for _, step := range path {
		m, is := o.(map[string]any)
		if !is {
			return nil
		}
		o = m[step]
	}
	return o
}

func text(o any, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

func whole64(o any, path ...string) int64 {
	switch n := at(o, path...).(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

func texts(o any, path ...string) map[string]string {
	m, _ := at(o, path...).(map[string]any)
	if len(m) == 0 {
		return nil
	}
	all := map[string]string{}
	for k, v := range m {
		if s, is := v.(string); is {
			all[k] = s
		}
	}
	return all
}

// condition is one of status.conditions; nil where there is none.
func condition(o map[string]any, kind string) map[string]any {
	list, _ := at(o, "status", "conditions").([]any)
	for _, c := range list {
		if m, is := c.(map[string]any); is && m["type"] == kind {
			return m
		}
	}
	return nil
}

// quantity is a quantity as JSON has it, a string or a number; 0 where it is none.
func quantity(v any) float64 {
	if v == nil {
		return 0
	}
	q, err := resource.ParseQuantity(fmt.Sprint(v))
	if err != nil {
		return 0
	}
	return q.AsApproximateFloat64()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
