package inventory

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// arrange sorts, so that equal inventories are equal.
func (s *Snapshot) arrange() {
	byName := func(list []map[string]any) {
		sort.Slice(list, func(i, j int) bool { return Name(list[i]) < Name(list[j]) })
	}
	byName(s.Pools)
	byName(s.Overlays)
	sort.Slice(s.Classes, func(i, j int) bool {
		a, b := s.Classes[i], s.Classes[j]
		return a.Kind < b.Kind || a.Kind == b.Kind && Name(a.Object) < Name(b.Object)
	})
	sort.Slice(s.Claims, func(i, j int) bool { return s.Claims[i].Name < s.Claims[j].Name })
	slices.Sort(s.Karpenter.NodeClassKinds)
	s.Karpenter.NodeClassKinds = slices.Compact(s.Karpenter.NodeClassKinds)
	for _, c := range s.Classes {
		subnets, _ := at(c.Object, "status", "subnets").([]any)
		for _, n := range subnets {
			if id, name := text(n, "zoneID"), text(n, "zone"); id != "" && name != "" {
				s.Zones[id] = name
			}
		}
	}
}

// Name of an object.
func Name(o map[string]any) string { return text(o, "metadata", "name") }

// Rules are what a conversion needs besides the inventory.
type Rules struct {
	Mode karpenstate.Mode // the agent's
	// Budget is how many nodes of a pool may be disrupted for drift now; nil: nothing is known, -1 for all.
	Budget func(pool map[string]any, now time.Time) int
	// Frozen says what freeze window holds now, of what the annotation says; nil: none ever.
	Frozen func(windows string, now time.Time) string
	// Schedules says what of a pool's budgets and freeze windows cannot be; nil: nothing is said.
	Schedules func(pool map[string]any) []string
}

// PlanPools are the NodePools as plans see them.
func (s Snapshot) PlanPools(r Rules) []plan.Pool {
	nodes := map[string]int{}
	for _, c := range s.Claims {
		nodes[c.Pool]++
	}
	paused := map[string]string{}
	for _, o := range s.Pools {
		paused[Name(o)] = pausedBy(o, r, s.At)
	}
	all := make([]plan.Pool, 0, len(s.Pools))
	for _, o := range s.Pools {
		annotations := texts(o, "metadata", "annotations")
		p := plan.Pool{
			Name: Name(o), Object: runtime.DeepCopyJSON(o), Managed: managed(annotations), Owned: texts(o, "metadata", "labels")[karpenstate.LabelOwned] == "true",
			Static: at(o, "spec", "replicas") != nil, Mode: mode(r.Mode, annotations), Paused: paused[Name(o)],
			Ready: condition(o, "Ready")["status"] == "True", Nodes: nodes[Name(o)], Weight: int(whole64(o, "spec", "weight")),
			Requirements: requirements(at(o, "spec", "template", "spec", "requirements")), Labels: texts(o, "spec", "template", "metadata", "labels"),
			CPULimit: limit(o, "cpu"), MemoryLimit: limit(o, "memory"), CPUUsed: quantity(at(o, "status", "resources", "cpu")), MemoryUsed: quantity(at(o, "status", "resources", "memory")),
			Zones: s.zonesOf(o), DriftBudget: -1, Overlay: s.overlayOf(Name(o)),
		}
		if p.Owned {
			p.Managed = false
			p.Base, p.Purpose = annotations[karpenstate.AnnotationBase], annotations[karpenstate.AnnotationPurpose]
			if ids := annotations[karpenstate.AnnotationCommitment]; ids != "" {
				p.Commitments = strings.Split(ids, ",")
			}
			if why := paused[p.Base]; p.Paused == "" && why != "" {
				p.Paused = "its base " + p.Base + ": " + why
			}
		}
		if r.Budget != nil {
			p.DriftBudget = r.Budget(o, s.At)
		}
		if r.Schedules != nil {
			p.Schedules = r.Schedules(o)
		}
		all = append(all, p)
	}
	return all
}

// managed says whether a pool is opted in: by ours, or by the published marker. Ours counts alone where it is there, and whatever is not "true" opts out,
// as the writer has it.
func managed(annotations map[string]string) bool {
	if ours := annotations[karpenstate.AnnotationManaged]; ours != "" {
		return ours == "true"
	}
	return annotations[karpenstate.AnnotationImported] == karpenstate.ImportedByNops
}

// mode is the lesser of the agent's and the pool's. A pool that asks for one that is not known is observed.
func mode(agents karpenstate.Mode, annotations map[string]string) karpenstate.Mode {
	asked := karpenstate.Mode(annotations[karpenstate.AnnotationMode])
	switch {
	case asked == "":
		return agents
	case !slices.Contains(karpenstate.Modes(), asked):
		return karpenstate.ModeObserve
	case agents.Includes(asked):
		return asked
	}
	return agents
}

// pausedBy is why nothing may be written to a pool now.
func pausedBy(o map[string]any, r Rules, now time.Time) string {
	annotations := texts(o, "metadata", "annotations")
	by := karpenstate.PausedBy(annotations)
	switch {
	case text(o, "metadata", "deletionTimestamp") != "":
		return "it is being deleted"
	case by != "":
		return "paused by " + by
	case r.Frozen != nil:
		return r.Frozen(annotations[karpenstate.AnnotationFreeze], now)
	}
	return ""
}

func requirements(v any) offering.Requirements {
	list, _ := v.([]any)
	all := make(offering.Requirements, 0, len(list))
	for _, e := range list {
		r := offering.Requirement{Key: text(e, "key"), Operator: offering.Operator(text(e, "operator"))}
		values, _ := at(e, "values").([]any)
		for _, v := range values {
			r.Values = append(r.Values, fmt.Sprint(v))
		}
		if at(e, "minValues") != nil {
			n := int(whole64(e, "minValues"))
			r.MinValues = &n
		}
		all = append(all, r)
	}
	return all
}

func limit(o map[string]any, name string) *float64 {
	v := at(o, "spec", "limits", name)
	if v == nil {
		return nil
	}
	q := quantity(v)
	return &q
}

// zonesOf are those that a pool's class reaches; nil where it does not say.
func (s Snapshot) zonesOf(o map[string]any) []string {
	ref := at(o, "spec", "template", "spec", "nodeClassRef")
	for _, c := range s.Classes {
		if c.Kind != text(ref, "kind") || Name(c.Object) != text(ref, "name") {
			continue
		}
		var all []string
		subnets, _ := at(c.Object, "status", "subnets").([]any)
		for _, n := range subnets {
			if z := text(n, "zone"); z != "" {
				all = append(all, z)
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	return nil
}

// overlayOf is the NodeOverlay of ours that is scoped to a pool.
func (s Snapshot) overlayOf(name string) *plan.Overlay {
	for _, o := range s.Overlays {
		if texts(o, "metadata", "labels")[karpenstate.LabelOwned] != "true" {
			continue
		}
		for _, r := range requirements(at(o, "spec", "requirements")) {
			if r.Key == offering.LabelNodePool && r.Operator == offering.In && len(r.Values) == 1 && r.Values[0] == name {
				return &plan.Overlay{Name: Name(o), Price: text(o, "spec", "price"), Adjustment: text(o, "spec", "priceAdjustment")}
			}
		}
	}
	return nil
}

// PlanNodes are the NodeClaims as plans see them. Their labels are the claim's alone: by those Karpenter tells drift.
func (s Snapshot) PlanNodes() []plan.Node {
	all := make([]plan.Node, 0, len(s.Claims))
	for _, c := range s.Claims {
		all = append(all, plan.Node{Name: c.Name, Pool: c.Pool, Labels: c.Labels, VCPU: c.VCPU, Requests: s.requests[c.Node], Drifted: c.Drifted, Deleting: c.Deleting, Created: c.Created})
	}
	return all
}

// PlanShapes are the pods as plans see them, by what they ask for; those that no pool's taints and labels let in are left out.
func (s Snapshot) PlanShapes(pools []plan.Pool) []plan.Shape {
	taints := map[string][]corev1.Taint{}
	for _, o := range s.Pools {
		taints[Name(o)] = taintsOf(o)
	}
	var all []plan.Shape
	for sh, n := range s.shapes {
		out := plan.Shape{CPU: sh.CPU, MemoryMiB: sh.Memory / (1 << 20), Count: n.running + n.pending, Pending: n.pending, Pools: []string{}}
		for _, r := range sh.Selector {
			if ofType(r.Key) {
				out.Selector = append(out.Selector, r)
			}
		}
		for _, p := range pools {
			if tolerates(sh.Tolerations, taints[p.Name]) && lets(p, sh.Selector) {
				out.Pools = append(out.Pools, p.Name)
			}
		}
		if len(out.Pools) == 0 {
			continue
		}
		slices.Sort(out.Pools)
		if len(out.Pools) == len(pools) {
			out.Pools = nil
		}
		all = append(all, out)
	}
	return merge(all)
}

// merge adds up shapes that differ in nothing that plans see, and sorts them.
func merge(all []plan.Shape) []plan.Shape {
	id := func(s plan.Shape) string {
		return fmt.Sprintf("%020.6f %020.6f %v %v", s.CPU, s.MemoryMiB, s.Selector, s.Pools)
	}
	by := map[string]plan.Shape{}
	for _, s := range all {
		known, is := by[id(s)]
		if is {
			s.Count, s.Pending = s.Count+known.Count, s.Pending+known.Pending
		}
		by[id(s)] = s
	}
	merged := make([]plan.Shape, 0, len(by))
	for _, k := range slices.Sorted(maps.Keys(by)) {
		merged = append(merged, by[k])
	}
	return merged
}

// ofType says whether a label is one that the offering of a node decides; others are the pool's, its template's.
func ofType(key string) bool {
	key = offering.Canonical(key)
	domain, name, _ := strings.Cut(key, "/")
	switch {
	case key == offering.LabelNodePool, key == corev1.LabelHostname:
		return false
	case domain == "kubernetes.io":
		return name == "arch" || name == "os"
	case domain == "karpenter.sh":
		return name == "capacity-type"
	}
	return slices.Contains([]string{"node.kubernetes.io", "topology.kubernetes.io", "topology.k8s.aws", "karpenter.k8s.aws", "eks.amazonaws.com", "karpenter.kwok.sh"}, domain)
}

// lets says whether a pool's own labels let a pod in.
func lets(p plan.Pool, selector offering.Requirements) bool {
	for _, r := range selector {
		if ofType(r.Key) || r.Key == corev1.LabelHostname {
			continue
		}
		values := []string{}
		if v, has := p.Labels[r.Key]; has {
			values = append(values, v)
		}
		if r.Key == offering.LabelNodePool {
			values = append(values, p.Name)
		}
		open := false // the pool gives the label, with a value that it leaves open
		for _, q := range p.Requirements {
			if q.Key == r.Key {
				values, open = append(values, q.Values...), open || q.Operator != offering.In
			}
		}
		has := len(values) > 0 || open
		in := func() bool {
			return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(r.Values, v) })
		}
		ok := true
		switch r.Operator {
		case offering.In:
			ok = open || in()
		case offering.NotIn:
			ok = open || !has || slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(r.Values, v) })
		case offering.Exists, offering.Gt, offering.Lt, offering.Gte, offering.Lte:
			ok = has
		case offering.DoesNotExist:
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}

func taintsOf(o map[string]any) []corev1.Taint {
	list, _ := at(o, "spec", "template", "spec", "taints").([]any)
	var all []corev1.Taint
	for _, t := range list {
		all = append(all, corev1.Taint{Key: text(t, "key"), Value: text(t, "value"), Effect: corev1.TaintEffect(text(t, "effect"))})
	}
	return all
}

func tolerates(tolerations []corev1.Toleration, taints []corev1.Taint) bool {
	for _, taint := range taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		if !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			return (t.Effect == "" || t.Effect == taint.Effect) && (t.Key == taint.Key || t.Key == "" && t.Operator == corev1.TolerationOpExists) &&
				(t.Operator == corev1.TolerationOpExists || t.Value == taint.Value)
		}) {
			return false
		}
	}
	return true
}

// Wire is the inventory as the platform is told; nodes only where asked for, for they are many.
func (s Snapshot) Wire(pools []plan.Pool, nodes bool) nopsapi.KarpenterInventory {
	inv := nopsapi.KarpenterInventory{
		SchemaVersion: nopsapi.KarpenterSchema, ObservedAt: s.At.UTC(), APIVersions: s.Karpenter.APIVersions, Writable: s.Karpenter.Writable, Pools: []nopsapi.KarpenterPool{},
	}
	if inv.APIVersions == nil {
		inv.APIVersions = []string{}
	}
	for _, p := range pools {
		ready := condition(p.Object, "Ready")
		status, _ := ready["status"].(string)
		reason, _ := ready["reason"].(string)
		if status == "True" {
			reason = ""
		}
		spec, _ := p.Object["spec"].(map[string]any)
		k := nopsapi.KarpenterPool{
			Name: p.Name, UID: text(p.Object, "metadata", "uid"), Generation: whole64(p.Object, "metadata", "generation"), Managed: p.Managed, Owned: p.Owned,
			Ready: or(status, "Unknown"), Reason: reason, Nodes: p.Nodes, Usage: quantities(at(p.Object, "status", "resources")), Spec: spec,
		}
		for name, v := range texts(p.Object, "metadata", "annotations") {
			if strings.HasPrefix(name, "karpenops.nops.io/") || name == karpenstate.AnnotationImported {
				if k.Annotations == nil {
					k.Annotations = map[string]string{}
				}
				k.Annotations[name] = v
			}
		}
		inv.Pools = append(inv.Pools, k)
	}
	for _, c := range s.Classes {
		spec, _ := c.Object["spec"].(map[string]any)
		inv.NodeClasses = append(inv.NodeClasses, nopsapi.KarpenterNodeClass{Kind: c.Kind, Name: Name(c.Object), Spec: spec})
	}
	if nodes {
		for _, c := range s.Claims {
			inv.Nodes = append(inv.Nodes, nopsapi.KarpenterNode{
				Name: c.Name, Pool: c.Pool, InstanceType: c.Labels[offering.LabelInstanceType], Zone: c.Labels[offering.LabelZone], ZoneID: c.Labels[offering.LabelZoneID],
				CapacityType: c.Labels[offering.LabelCapacityType], CreatedAt: c.Created, Drifted: c.Drifted, Deleting: c.Deleting,
			})
		}
	}
	return inv
}

func quantities(v any) map[string]string {
	m, _ := v.(map[string]any)
	if len(m) == 0 {
		return nil
	}
	all := map[string]string{}
	for k, q := range m {
		all[k] = fmt.Sprint(q)
	}
	return all
}

// Labels of an object.
func Labels(o map[string]any) map[string]string { return texts(o, "metadata", "labels") }

// OfferingPool is what of a NodePool decides what it can launch.
func (s Snapshot) OfferingPool(o map[string]any) offering.Pool {
	return offering.Pool{Requirements: requirements(at(o, "spec", "template", "spec", "requirements")), Labels: texts(o, "spec", "template", "metadata", "labels"), Zones: s.zonesOf(o)}
}

// Generation of an object.
func Generation(o map[string]any) int64 { return whole64(o, "metadata", "generation") }
