package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// ConditionTakenBack, of a policy, is there while pods that it sized, and does not any more, do not have their template's requests again.
const (
	ConditionTakenBack = "TakenBack"
	reasonTakingBack   = "InProgress"
	reasonPodsKeep     = "PodsKeep" // some cannot be resized while they run
)

const (
	// partEach is how many workloads are taken back in one look: each takes a few requests.
	partEach = 100
	// keptLooks are for how many looks pods that cannot be resized while they run are not asked again.
	keptLooks = 4
	// named are how many workloads a condition names.
	named = 5
)

// elsewhereOf says whether somebody else sizes a workload, and whether that is known.
type elsewhereOf struct{ is, known bool }

// ours says whether a HorizontalPodAutoscaler's targets may follow what is sized here.
func (e elsewhereOf) ours(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return !e.is && (e.known || h.Annotations[rightsizing.AnnotationTargets] != "")
}

// parting is what is known of an autoscaler whose pods get back what their templates request. A restart forgets it: pods tell it anew.
type parting struct {
	since, next time.Time // since it is switched off, and when it is looked at again; zero: it was not yet
	told        int       // pods that were resized
	kept        int       // pods that cannot be
	why         string    // of those
}

// part gives pods back what their templates request where no policy sizes them any more: their autoscaler is switched off first, so that
// nobody sizes anew what is given back, and goes last, so that there is always something that says that they were sized. What cannot be
// resized while it runs is waited for: it is replaced some day.
func (c *Controller) part(ctx context.Context, v view, out *Outcome) (errs []error) {
	now := c.deps.Now()
	objects := map[string]*metav1.ObjectMeta{}
	for i := range v.Workloads {
		objects[v.Workloads[i].key()] = &v.Workloads[i].Object
	}
	type turn struct {
		*parting
		have   *unstructured.Unstructured
		at     *metav1.ObjectMeta // nil: its workload is gone
		ours   bool
		leaves bool
	}
	var all, due []turn
	going := map[types.NamespacedName]bool{}
	for i, name := range slices.Concat(out.Leave, out.TakeBack) {
		going[name] = true
		have, leaves := v.existing[name.String()], i < len(out.Leave)
		if ctx.Err() != nil {
			return errs
		}
		if leaves && have.GetAnnotations()[rightsizing.AnnotationLeaving] == "" {
			c.deps.Turn()
			if err := c.write(ctx, leaving(have, now)); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if !leaves && modeOf(have) != string(vpav1.UpdateModeOff) {
			continue // it is being switched off
		}
		if c.partings[name] == nil {
			c.partings[name] = &parting{since: now}
		}
		namespace, kind, workload := split(target(have))
		of := kind + "/" + namespace + "/" + workload
		one := turn{parting: c.partings[name], have: have, at: objects[of], ours: !v.elsewhere[of].is, leaves: leaves}
		all = append(all, one)
		if !now.Before(one.next) && (one.at == nil || v.elsewhere[of].known) { // otherwise it is not known yet whose pods they are
			due = append(due, one)
		}
	}
	for name := range c.partings {
		if !going[name] {
			delete(c.partings, name)
		}
	}
	// Those that wait longest come first: none waits for ever behind others that cannot be done.
	slices.SortStableFunc(due, func(a, b turn) int { return a.next.Compare(b.next) })
	progress := false
	for i, one := range due {
		if ctx.Err() != nil {
			return errs
		}
		if i == partEach {
			if progress || one.next.IsZero() { // otherwise they have time
				c.look()
			}
			break
		}
		c.deps.Turn()
		one.next = now.Add(c.deps.Every)
		did, err := c.partWith(ctx, one.have, one.at, one.ours, one.leaves, one.parting, now)
		if progress = progress || did; err != nil {
			errs = append(errs, fmt.Errorf("take back %s: %w", target(one.have), err))
		}
	}
	kept := map[string][]string{} // what cannot be taken back, by policy
	for _, one := range all {
		if policy := one.have.GetLabels()[rightsizing.LabelPolicy]; one.kept > 0 {
			kept[policy] = append(kept[policy], fmt.Sprintf("%s: %d of its pods cannot be changed while they run: %s", target(one.have), one.kept, one.why))
		}
	}
	out.takingBack(kept)
	return errs
}

// partWith gives back the pods of one workload, where it is there and they are ours, and lets its autoscaler go once all of them are. It says
// whether anything was done.
func (c *Controller) partWith(ctx context.Context, have *unstructured.Unstructured, at *metav1.ObjectMeta, ours, leaves bool, p *parting, now time.Time) (did bool, err error) {
	key := target(have)
	if at != nil && ours {
		before := p.told
		done, err := c.takeBack(ctx, key, at, p, now)
		if did = p.told > before; err != nil || !done {
			return did, err
		}
	}
	if settled := p.since.Add(c.deps.Settle); now.Before(settled) {
		p.next = settled
		return did, nil
	}
	if err := c.parted(ctx, have, leaves); err != nil {
		return did, err
	}
	if p.told > 0 && at != nil {
		_, kind, _ := split(key)
		c.recorder.Eventf(reference(kind, at), corev1.EventTypeNormal, "TakenBack", "No policy sizes it any more: its pods have their template's requests (%d were resized in place).", p.told)
	}
	return true, nil
}

// takingBack says in policies' status what is given back, and what cannot be, by policy.
func (out *Outcome) takingBack(kept map[string][]string) {
	for name, s := range out.Status {
		if s.Leaving == 0 {
			continue
		}
		condition := metav1.Condition{Type: ConditionTakenBack, Status: metav1.ConditionFalse, Reason: reasonTakingBack, Message: "pods that it does not size any more get back what their templates request", ObservedGeneration: s.ObservedGeneration}
		if all := kept[name]; len(all) > 0 {
			slices.Sort(all)
			condition.Reason, condition.Message = reasonPodsKeep, strings.Join(all[:min(named, len(all))], "; ")
			if more := len(all) - named; more > 0 {
				condition.Message += fmt.Sprintf("; and %d more", more)
			}
			condition.Message += "; kubectl rollout restart replaces them"
		}
		s.Conditions = append(s.Conditions, condition)
		out.Status[name] = s
	}
}

// takeBack asks the pods of a workload for what their template says, and says whether all of them have it.
func (c *Controller) takeBack(ctx context.Context, key string, at *metav1.ObjectMeta, p *parting, now time.Time) (done bool, err error) {
	v := &reverter{RevertDeps: RevertDeps{Now: c.deps.Now, Elsewhere: c.elsewhere}, kube: c.kube, dynamic: c.dynamic}
	h, err := v.one(ctx, key)
	if err != nil {
		return false, err
	}
	a, err := v.ask(ctx, h, key)
	if err != nil {
		return false, err
	}
	p.told += len(a.told)
	c.writes.Add(float64(len(a.told)))
	a.begin()
	open := len(a.waiting)
	if a.kept > 0 && p.why != a.why {
		_, kind, _ := split(key)
		c.recorder.Eventf(reference(kind, at), corev1.EventTypeWarning, "NotTakenBack", "No policy sizes it any more, and %d of its pods cannot get their template's requests while they run: %s. They keep what they have until they are replaced.", a.kept, a.why)
	}
	p.kept, p.why = a.kept, a.why
	if a.kept > 0 && open == 0 {
		p.next = now.Add(keptLooks * c.deps.Every)
	}
	return open == 0 && a.kept == 0, nil
}

// parted is the end of it: the autoscaler goes, or its marks that pods were sized, and that it goes, which may be from before it was reverted.
func (c *Controller) parted(ctx context.Context, a *unstructured.Unstructured, leaves bool) error {
	client, name := c.dynamic.Resource(rightsizing.Autoscalers()).Namespace(a.GetNamespace()), a.GetNamespace()+"/"+a.GetName()
	uid := a.GetUID()
	if leaves {
		return c.count(client.Delete(ctx, a.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}), "delete autoscaler", name)
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid, "annotations": map[string]any{rightsizing.AnnotationSized: nil, rightsizing.AnnotationLeaving: nil}}})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	if _, err = client.Patch(ctx, a.GetName(), types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager}); apierrors.IsConflict(err) {
		return nil // another one of that name
	}
	return c.count(err, "patch autoscaler", name)
}

// leaving is an autoscaler that is switched off, and goes.
func leaving(have *unstructured.Unstructured, now time.Time) *unstructured.Unstructured {
	out := stopped(have)
	annotations := out.GetAnnotations()
	annotations[rightsizing.AnnotationSized], annotations[rightsizing.AnnotationLeaving] = "true", now.UTC().Format(time.RFC3339)
	out.SetAnnotations(annotations)
	return out
}

// stopped is an autoscaler that is switched off, and is otherwise as it was made.
func stopped(have *unstructured.Unstructured) *unstructured.Unstructured {
	annotations := map[string]any{}
	for _, name := range appliedAnnotations() {
		if value, is := have.GetAnnotations()[name]; is {
			annotations[name] = value
		}
	}
	spec, _, _ := unstructured.NestedMap(have.Object, "spec")
	_ = unstructured.SetNestedField(spec, string(vpav1.UpdateModeOff), "updatePolicy", "updateMode")
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": have.GetAPIVersion(), "kind": have.GetKind(),
		"metadata": map[string]any{
			"name": have.GetName(), "namespace": have.GetNamespace(), "uid": string(have.GetUID()), // of this one, and no other that somebody makes
			"labels":      map[string]any{rightsizing.LabelPolicy: have.GetLabels()[rightsizing.LabelPolicy]},
			"annotations": annotations,
		},
		"spec": spec,
	}}
}

// split is NAMESPACE/KIND/NAME.
func split(key string) (namespace, kind, name string) {
	namespace, rest, _ := strings.Cut(key, "/")
	kind, name, _ = strings.Cut(rest, "/")
	return namespace, kind, name
}

func reference(kind string, o *metav1.ObjectMeta) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: Kinds()[kind], Kind: kind, Namespace: o.Namespace, Name: o.Name, UID: o.UID}
}
