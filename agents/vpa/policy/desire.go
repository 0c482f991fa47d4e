package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Kinds are those that can be rightsized, with their API versions.
func Kinds() map[string]string {
	return map[string]string{"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "CronJob": "batch/v1"}
}

// Workload is what is known of one.
type Workload struct {
	Kind       string
	Object     metav1.ObjectMeta // name, namespace, labels, annotations
	Containers []string          // of its pods, sidecars included
}

func (w Workload) key() string { return w.Kind + "/" + w.Object.Namespace + "/" + w.Object.Name }

// Existing is an autoscaler that is there.
type Existing struct {
	Namespace, Name string
	Policy          string // LabelPolicy; empty: somebody's own
	Target          string // KIND/NAME
	Reverted        bool
	// Sized says that its pods may have been sized, Off that nothing is, by its update mode.
	Sized, Off bool
	// Imported says that it is a copy of an autoscaler of the Kubernetes VPA.
	Imported bool
}

// Input is all that is decided on.
type Input struct {
	Policies []rightsizing.Policy
	// Unread is what of policies' specifications cannot be read, by name.
	Unread     map[string]Unread
	Namespaces map[string]metav1.ObjectMeta
	Workloads  []Workload
	Existing   []Existing
	// Ignored namespaces have no policies.
	Ignored []string
	// Horizontal says, by KIND/NAMESPACE/NAME of a workload, which resources a HorizontalPodAutoscaler follows, or cannot follow and why.
	Horizontal map[string]Alignment
}

// Unread says why fields of a specification cannot be read: the definition of the kind does not tell all that may be wrong with them.
type Unread map[string]error

// Outcome is what shall be.
type Outcome struct {
	// Autoscalers that policies make.
	Autoscalers []Autoscaler
	// Delete are those of policies that have no reason any more, and whose pods nobody sized. Leave are the others of them: their pods are given
	// back first what their templates request. TakeBack are those that are only recommended for now, or reverted: the same, and they stay.
	Delete, Leave, TakeBack []types.NamespacedName
	// Stop are those of paused policies that select them no more or cannot be understood, and reverted ones without a policy: they are switched off,
	// and nothing else of them is changed.
	Stop []types.NamespacedName
	// Status of the policies, by name.
	Status map[string]rightsizing.PolicyStatus
	// Of is which policy holds for a workload, by its key; Held the same of policies that cannot be understood.
	Of, Held map[string]*rightsizing.Policy
}

// Autoscaler is one that shall be.
type Autoscaler struct {
	Policy   *rightsizing.Policy
	Workload Workload
	Object   map[string]any // what is applied
}

// Conditions of a policy.
const (
	ConditionReady = "Ready"
	reasonInvalid  = "Invalid"
	reasonApplied  = "Applied"
	reasonPaused   = "Paused"
)

// Desire decides what shall be. It is pure, and the order of its input is nothing.
func Desire(in Input) Outcome {
	out := Outcome{Status: map[string]rightsizing.PolicyStatus{}, Of: map[string]*rightsizing.Policy{}, Held: map[string]*rightsizing.Policy{}}
	policies, compiled := out.understand(in)
	mistaken, paused := map[string]bool{}, map[string]bool{} // policies that cannot be understood, and those that are paused: both let nothing go
	for i, c := range compiled {
		mistaken[policies[i].Name], paused[policies[i].Name] = c.err, c.paused()
	}
	t := whatIsThere(in.Existing, in.Workloads)
	kept := map[types.NamespacedName]bool{}
	workloads := slices.Clone(in.Workloads)
	slices.SortFunc(workloads, func(a, b Workload) int { return strings.Compare(a.key(), b.key()) })
	for _, w := range workloads {
		namespace, known := in.Namespaces[w.Object.Namespace]
		if !known || slices.Contains(in.Ignored, w.Object.Namespace) || off(namespace.Annotations) || off(w.Object.Annotations) || t.own[w.key()] {
			continue
		}
		for i, c := range compiled {
			// Whom a policy that cannot be understood means is not known. It keeps what it made, and is in no other's way.
			if c.err && t.made[w.key()].Policy != policies[i].Name || !c.err && !c.selects(namespace, w) {
				continue
			}
			name := t.name(w)
			kept[name] = true
			status := out.Status[policies[i].Name]
			status.Workloads++
			if was := t.sized[name.String()]; was && !c.err && !c.paused() && policies[i].Spec.DryRun {
				status.Leaving++
				out.TakeBack = append(out.TakeBack, name)
			}
			out.Status[policies[i].Name] = status
			if c.err {
				out.Held[w.key()] = &policies[i]
				break // what it made before stays, and nobody else takes over by its mistake
			}
			out.Of[w.key()] = &policies[i]
			out.Autoscalers = append(out.Autoscalers, Autoscaler{Policy: &policies[i], Workload: w, Object: c.render(name, w, in.Horizontal[w.key()], t.reverted[name.String()], t.sized[name.String()])})
			break
		}
	}
	for _, e := range in.Existing {
		if kind, name, _ := strings.Cut(e.Target, "/"); paused[e.Policy] && !e.Off && out.Of[kind+"/"+e.Namespace+"/"+name] == nil {
			out.Stop = append(out.Stop, types.NamespacedName{Namespace: e.Namespace, Name: e.Name})
		}
	}
	out.letGo(in.Existing, func(e Existing, name types.NamespacedName) bool {
		return kept[name] || paused[e.Policy] || t.held(e, mistaken)
	}, t)
	return out
}

// there is what autoscalers that are there say.
type there struct {
	own, sizes      map[string]bool     // workloads, by key, for which somebody made one, and one that is on
	workloads       map[string]bool     // by key
	made            map[string]Existing // that of a workload, by its key, which a policy made
	taken           map[string]bool     // names of those that somebody made, as NAMESPACE/NAME
	reverted, sized map[string]bool     // likewise
}

// name is that of the autoscaler that a policy makes for a workload: another one where somebody's own has that, as a copy of the Kubernetes VPA's
// may, and once it has one, that.
func (t there) name(w Workload) types.NamespacedName {
	name := types.NamespacedName{Namespace: w.Object.Namespace, Name: Name(w.Kind, w.Object.Name)}
	if had, is := t.made[w.key()]; is {
		name.Name = had.Name
	} else if t.taken[name.String()] {
		name.Name = otherName + name.Name
	}
	return name
}

// held says whether a policy that cannot be understood keeps what it made: a person's autoscaler that sizes the workload wins over it, too.
func (t there) held(e Existing, mistaken map[string]bool) bool {
	kind, name, _ := strings.Cut(e.Target, "/")
	return mistaken[e.Policy] && !t.sizes[kind+"/"+e.Namespace+"/"+name]
}

// otherName begins another name of an autoscaler. No kind is called so.
const otherName = "nops-"

func whatIsThere(existing []Existing, workloads []Workload) there {
	t := there{own: map[string]bool{}, sizes: map[string]bool{}, workloads: map[string]bool{}, made: map[string]Existing{}, taken: map[string]bool{}, reverted: map[string]bool{}, sized: map[string]bool{}}
	for i := range workloads {
		t.workloads[workloads[i].key()] = true
	}
	for _, e := range existing {
		switch kind, name, _ := strings.Cut(e.Target, "/"); {
		case e.Policy == "" && e.Imported && e.Off:
			// A copy that nobody turned on wants nothing yet: a policy that selects its workload is how it may be handed over.
		case e.Policy == "":
			key := kind + "/" + e.Namespace + "/" + name
			t.own[key], t.sizes[key] = true, t.sizes[key] || !e.Off
		case strings.TrimPrefix(e.Name, otherName) == Name(kind, name):
			key := kind + "/" + e.Namespace + "/" + name
			if _, is := t.made[key]; !is || e.Name == Name(kind, name) {
				t.made[key] = e
			}
		}
		t.taken[e.Namespace+"/"+e.Name] = e.Policy == ""
		t.reverted[e.Namespace+"/"+e.Name], t.sized[e.Namespace+"/"+e.Name] = e.Reverted, e.Sized
	}
	return t
}

// understand compiles policies, the one that holds first, and says what is wrong with them.
func (out *Outcome) understand(in Input) ([]rightsizing.Policy, []*choice) {
	policies := slices.Clone(in.Policies)
	slices.SortFunc(policies, func(a, b rightsizing.Policy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), strings.Compare(a.Name, b.Name))
	})
	compiled := make([]*choice, len(policies))
	for i := range policies {
		c, err := compile(&policies[i], in.Unread[policies[i].Name])
		status := rightsizing.PolicyStatus{ObservedGeneration: policies[i].Generation}
		ready := metav1.Condition{Type: ConditionReady, Status: metav1.ConditionTrue, Reason: reasonApplied, Message: "its autoscalers are as it says", ObservedGeneration: policies[i].Generation}
		switch {
		case err != nil:
			ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, reasonInvalid, err.Error()+"; what it made before stays as it is"
		case policies[i].Spec.Paused || policies[i].Annotations[rightsizing.AnnotationReverted] != "":
			ready.Reason, ready.Message = reasonPaused, "it is paused: nothing is changed"
		}
		status.Conditions = []metav1.Condition{ready}
		out.Status[policies[i].Name] = status
		compiled[i] = c
	}
	return policies, compiled
}

// letGo decides about autoscalers of policies that have no reason any more: all but those that stay.
func (out *Outcome) letGo(existing []Existing, kept func(Existing, types.NamespacedName) bool, t there) {
	for _, e := range existing {
		name := types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
		if e.Policy == "" || kept(e, name) {
			continue
		}
		kind, target, _ := strings.Cut(e.Target, "/")
		key := kind + "/" + e.Namespace + "/" + target
		// Its workload is left alone until somebody takes the mark from it, and there is nothing else to keep that on.
		stays := e.Reverted && t.workloads[key] && !t.sizes[key]
		if stays && !e.Off {
			out.Stop = append(out.Stop, name)
		}
		switch {
		case stays && !e.Sized:
			continue
		case stays:
			out.TakeBack = append(out.TakeBack, name)
		case !e.Sized || t.sizes[key]: // a person's autoscaler sizes its pods from here on
			out.Delete = append(out.Delete, name)
			continue
		default:
			out.Leave = append(out.Leave, name)
		}
		if status, is := out.Status[e.Policy]; is {
			status.Leaving++
			out.Status[e.Policy] = status
		}
	}
	for _, names := range [][]types.NamespacedName{out.Delete, out.Leave, out.TakeBack, out.Stop} {
		slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	}
}

// encoded is plain data of our own as JSON, for which there is no way to fail.
func encoded(data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Sprintf("write %T as JSON: %v", data, err))
	}
	return text
}

// off says whether a namespace or a workload keeps policies away.
func off(annotations map[string]string) bool {
	v, is := annotations[rightsizing.AnnotationOff]
	return is && v != "false" || annotations[rightsizing.AnnotationReverted] != ""
}

// choice is a policy, understood.
type choice struct {
	policy                *rightsizing.Policy
	namespaces, workloads labels.Selector
	kinds                 []string
	err                   bool // it cannot be, and selects nothing
}

// compile understands a policy, or says everything that is wrong with it.
func compile(p *rightsizing.Policy, unread Unread) (*choice, error) {
	c := &choice{policy: p, kinds: p.Spec.Kinds, namespaces: labels.Everything(), workloads: labels.Everything()}
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for field, err := range unread {
		say("spec.%s: %v", field, err)
	}
	for name, at := range map[string]struct {
		from *metav1.LabelSelector
		to   *labels.Selector
	}{"namespaceSelector": {p.Spec.NamespaceSelector, &c.namespaces}, "selector": {p.Spec.Selector, &c.workloads}} {
		if at.from == nil {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(at.from)
		if err != nil {
			say("spec.%s: %v", name, err)
			continue
		}
		*at.to = s
	}
	for _, kind := range p.Spec.Kinds {
		if Kinds()[kind] == "" {
			say("spec.kinds: %q cannot be rightsized", kind)
		}
	}
	for i, r := range p.Spec.Containers {
		if r.Mode != "" && r.Mode != rightsizing.ContainerAuto && r.Mode != rightsizing.ContainerIgnore {
			say("spec.containers[%d] (%s): mode %q is neither %s nor %s", i, r.Name, r.Mode, rightsizing.ContainerAuto, rightsizing.ContainerIgnore)
		}
		for resource, least := range r.Min {
			if most, is := r.Max[resource]; is && least.Cmp(most) > 0 {
				say("spec.containers[%d] (%s): min %s %s is above max %s", i, r.Name, resource, least.String(), most.String())
			}
		}
	}
	settings, err := json.Marshal(c.effective(nil, nil))
	if err != nil {
		say("spec: %v", err)
	} else if _, err := rules.Effective(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{rightsizing.AnnotationSettings: string(settings)}}}); err != nil {
		_, what, _ := strings.Cut(err.Error(), ": ")
		say("spec: %s", what)
	}
	if len(wrong) > 0 {
		c.err = true
		slices.Sort(wrong)
		return c, fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return c, nil
}

func (c *choice) selects(namespace metav1.ObjectMeta, w Workload) bool {
	return (len(c.kinds) == 0 || slices.Contains(c.kinds, w.Kind)) && c.namespaces.Matches(labels.Set(namespace.Labels)) && c.workloads.Matches(labels.Set(w.Object.Labels))
}

// paused says whether nothing of it may be changed.
func (c *choice) paused() bool {
	return c.policy.Spec.Paused || c.policy.Annotations[rightsizing.AnnotationReverted] != ""
}

// effective are the settings as the other parts read them.
func (c *choice) effective(align, yield []string) rightsizing.Effective {
	s := c.policy.Spec
	return rightsizing.Effective{Policy: c.policy.Name, Level: s.Level, Paused: c.paused(), Align: align, Yield: yield, Budget: s.Budget, Settings: s.Settings}
}

// mode is the autoscaler's update mode.
func (c *choice) mode(reverted bool) vpav1.UpdateMode {
	switch {
	case c.paused(), c.policy.Spec.DryRun, reverted:
		return vpav1.UpdateModeOff
	case c.policy.Spec.Apply == rightsizing.ApplyInitial:
		return vpav1.UpdateModeInitial
	case c.policy.Spec.Apply == rightsizing.ApplyInPlaceOrRecreate:
		return vpav1.UpdateModeInPlaceOrRecreate
	default:
		return vpav1.UpdateModeInPlace
	}
}

// render is the autoscaler as it is applied.
func (c *choice) render(name types.NamespacedName, w Workload, h Alignment, reverted, sized bool) map[string]any {
	settings := encoded(c.effective(h.Align, h.Yield))
	update := map[string]any{"updateMode": string(c.mode(reverted))}
	if c.policy.Spec.SingleReplica == rightsizing.SingleEvict {
		update["minReplicas"] = int64(1)
	}
	spec := map[string]any{
		"targetRef":    map[string]any{"apiVersion": Kinds()[w.Kind], "kind": w.Kind, "name": w.Object.Name},
		"updatePolicy": update,
	}
	if bounds := c.containers(); len(bounds) > 0 {
		spec["resourcePolicy"] = map[string]any{"containerPolicies": bounds}
	}
	annotations := map[string]any{rightsizing.AnnotationSettings: string(settings)}
	if sized || c.mode(reverted) != vpav1.UpdateModeOff {
		annotations[rightsizing.AnnotationSized] = "true"
	}
	if len(h.Why) > 0 {
		annotations[rightsizing.AnnotationYields] = string(encoded(h.Why))
	}
	// It has no owner: with one it would be gone together with its policy, and nothing would say which pods were sized.
	return map[string]any{
		"apiVersion": rightsizing.Group + "/" + rightsizing.Version, "kind": "VerticalPodAutoscaler",
		"metadata": map[string]any{
			"name": name.Name, "namespace": name.Namespace,
			"labels":      map[string]any{rightsizing.LabelPolicy: c.policy.Name},
			"annotations": annotations,
		},
		"spec": spec,
	}
}

// containers are the bounds as upstream's resource policy has them.
func (c *choice) containers() []any {
	var out []any
	for _, r := range c.policy.Spec.Containers {
		one := map[string]any{"containerName": r.Name}
		if r.Mode == rightsizing.ContainerIgnore {
			one["mode"] = string(vpav1.ContainerScalingModeOff)
		}
		for field, bounds := range map[string]map[string]string{"minAllowed": text(r.Min), "maxAllowed": text(r.Max)} {
			if len(bounds) > 0 {
				to := map[string]any{}
				for name, q := range bounds {
					to[name] = q
				}
				one[field] = to
			}
		}
		out = append(out, one)
	}
	return out
}

func text(from map[string]resource.Quantity) map[string]string {
	out := map[string]string{}
	for name, q := range from {
		out[name] = q.String()
	}
	return out
}

// maxName is how long the name of an autoscaler may be, without otherName: checkpoints append the container's.
const maxName = 180

// Name is that of the autoscaler for a workload.
func Name(kind, name string) string {
	out := strings.ToLower(kind) + "-" + name
	if len(out) > maxName {
		sum := sha256.Sum256([]byte(out))
		out = fmt.Sprintf("%s-%x", strings.TrimRight(out[:maxName-11], "-."), sum[:5])
	}
	return out
}

// requested is what a pod's containers request of a resource, in thousandths.
func requested(spec *corev1.PodSpec, name corev1.ResourceName) map[string]int64 {
	out := map[string]int64{}
	for i := range spec.Containers {
		out[spec.Containers[i].Name] = spec.Containers[i].Resources.Requests.Name(name, "").MilliValue()
	}
	for i := range spec.InitContainers {
		if always := spec.InitContainers[i].RestartPolicy; always != nil && *always == corev1.ContainerRestartPolicyAlways {
			out[spec.InitContainers[i].Name] = spec.InitContainers[i].Resources.Requests.Name(name, "").MilliValue()
		}
	}
	return out
}
