package updater

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

const (
	// writers are how many statuses are written at a time.
	writers = 8
	// near is how far a time may move without being written anew.
	near = 5 * time.Minute
)

// state says what became of an autoscaler's recommendation.
func (p *plan) state() (state, message string, until time.Time) {
	if p.hold.Is() {
		return p.hold.State, p.hold.Why, p.hold.Until
	}
	t := p.tally
	switch {
	case p.unknown != "":
		state, message = rightsizing.StatePending, "it is not known which pods are its own: "+p.unknown
	case len(p.pods) == 0:
		state, message = rightsizing.StateApplied, "no pod runs; new ones are sized when they are created"
	case len(t.stopped) > 0:
		h := earliest(t.stopped)
		state, message, until = h.State, h.Why, h.Until
	case len(t.killed) > 0:
		h := earliest(t.killed)
		state, message, until = h.State, h.Why, h.Until
	case len(t.pending) > 0:
		state, message = rightsizing.StatePending, most(t.pending)
	case len(t.waiting) > 0:
		h := earliest(t.waiting)
		state, message, until = h.State, h.Why, h.Until
	case len(t.impossible) > 0:
		state, message = rightsizing.StateImpossible, most(t.impossible)
	default:
		state, message = rightsizing.StateApplied, "every pod has what is recommended, or is close enough"
	}
	if len(t.guarded) > 0 {
		message += "; " + most(t.guarded)
	}
	if len(p.left) > 0 {
		message += "; " + strings.Join(p.left, "; ")
	}
	return state, message, until
}

// most is the reason that most pods have, so that the message does not change with each of them.
func most(reasons []string) string {
	count := map[string]int{}
	for _, r := range reasons {
		count[r]++
	}
	sorted := slices.Sorted(slices.Values(reasons))
	return slices.MaxFunc(slices.Compact(sorted), func(a, b string) int {
		if count[a] != count[b] {
			return count[a] - count[b]
		}
		return strings.Compare(b, a)
	})
}

// next is the application as it is to be recorded, and whether it differs enough from the recorded one to be written.
func next(recorded, known rightsizing.Application, state, message string, until, now time.Time) (rightsizing.Application, bool) {
	a := known
	a.State, a.Message, a.NotBefore = state, message, until.UTC().Truncate(time.Second)
	if until.IsZero() {
		a.NotBefore = time.Time{}
	}
	a.LastChange = a.LastChange.UTC().Truncate(time.Second)
	a.Since = recorded.Since
	if recorded.State != state || recorded.Since.IsZero() {
		a.Since = now.UTC().Truncate(time.Second)
	}
	if d := a.NotBefore.Sub(recorded.NotBefore); a.NotBefore.IsZero() == recorded.NotBefore.IsZero() && d > -near && d < near {
		a.NotBefore = recorded.NotBefore
	}
	same := a.State == recorded.State && a.Message == recorded.Message && a.NotBefore.Equal(recorded.NotBefore) && a.LastChange.Equal(recorded.LastChange) &&
		a.InPlace == recorded.InPlace && a.Evicted == recorded.Evicted && a.Failed == recorded.Failed && equality.Semantic.DeepEqual(a.Requests, recorded.Requests)
	return a, !same
}

// requests are the largest of the pods', by container, where steps are bounded. Where none runs they are those of pods that ended since, of a Job
// that is done sooner than it is looked at, or of before. What ran out of memory counts with what it has to have by now.
func (p *plan) requests(before map[string]map[string]resource.Quantity) map[string]map[string]resource.Quantity {
	if p.settings.MaxStep == (rightsizing.Step{}) {
		return nil
	}
	all := map[string]map[string]resource.Quantity{}
	count := func(container string, r corev1.ResourceName, q resource.Quantity) {
		if all[container] == nil {
			all[container] = map[string]resource.Quantity{}
		}
		if most, is := all[container][string(r)]; !is || q.Cmp(most) > 0 {
			all[container][string(r)] = q
		}
	}
	for name, held := range p.held() {
		count(name, corev1.ResourceMemory, held)
	}
	pods := p.pods
	if len(pods) == 0 {
		pods = p.gone
	}
	if len(pods) == 0 {
		for name, requests := range before {
			for r, q := range requests {
				count(name, corev1.ResourceName(r), q)
			}
		}
	}
	for _, pod := range pods {
		for at, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				if policy := list[i].RestartPolicy; at == 1 && (policy == nil || *policy != corev1.ContainerRestartPolicyAlways) {
					continue // not a sidecar
				}
				for r, q := range list[i].Resources.Requests {
					if r == corev1.ResourceCPU || r == corev1.ResourceMemory {
						count(list[i].Name, r, q)
					}
				}
			}
		}
	}
	return all
}

// held is the memory that containers have at least since they ran out of it.
func (a *autoscaler) held() map[string]resource.Quantity {
	var held map[string]resource.Quantity
	for i := range a.Explanations {
		if x := &a.Explanations[i]; x.Resource == string(corev1.ResourceMemory) && x.Held != nil {
			if held == nil {
				held = map[string]resource.Quantity{}
			}
			held[x.Container] = *x.Held
		}
	}
	return held
}

// tell writes what became of recommendations, where that changed.
func (u *Updater) tell(ctx context.Context, plans []*plan, now time.Time) {
	type write struct {
		p *plan
		a rightsizing.Application
	}
	var writes []write
	for _, p := range plans {
		state, message, until := p.state()
		known := u.application(p.autoscaler)
		known.Requests, known.Recent = p.requests(known.Requests), lately(known.Recent, p.settings.Rest, now)
		a, differs := next(p.Application, known, state, message, until, now)
		u.memory.written[p.UID] = a
		if differs {
			writes = append(writes, write{p, a})
		}
	}
	queue := make(chan write)
	var group sync.WaitGroup
	for range min(writers, len(writes)) {
		group.Go(func() {
			for w := range queue {
				if err := u.write(ctx, w.p, w.a); err != nil && ctx.Err() == nil {
					u.log.LogAttrs(ctx, slog.LevelWarn, "recording what became of a recommendation", slog.String("autoscaler", w.p.Namespace+"/"+w.p.Name), slog.Any("error", err))
				}
			}
		})
	}
	for _, w := range writes {
		queue <- w
	}
	close(queue)
	group.Wait()
}

func (u *Updater) write(ctx context.Context, p *plan, a rightsizing.Application) error {
	fields := map[string]any{}
	text, err := json.Marshal(a)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		return fmt.Errorf("writing it as JSON: %w", err)
	}
	for _, name := range []string{"message", "since", "notBefore", "lastChange", "requests", "recent"} {
		if _, is := fields[name]; !is {
			fields[name] = nil // a merge keeps what is not named
		}
	}
	if requests, is := fields["requests"].(map[string]any); is {
		for name, before := range p.Application.Requests {
			still, stays := requests[name].(map[string]any)
			if !stays {
				requests[name] = nil
				continue
			}
			for r := range before {
				if _, has := still[r]; !has {
					still[r] = nil
				}
			}
		}
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{"application": fields}})
	if err != nil {
		return fmt.Errorf("writing it as JSON: %w", err)
	}
	u.counts.patches.Add(1)
	_, err = u.dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("patching status.application: %w", err)
	}
	if before := p.Application.State; before != a.State && (a.State == rightsizing.StateStopped || a.State == rightsizing.StateImpossible || a.State == rightsizing.StateElsewhere) {
		u.recorder.Event(&p.VerticalPodAutoscaler, corev1.EventTypeNormal, a.State, a.Message)
	}
	return nil
}
