package rules

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/utils"
	resourcehelpers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/resources"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Change is one of a pod.
type Change struct {
	At        time.Time
	Namespace string
	Evicted   bool
}

// Ledger is what was changed within the hour. The zero value is empty; it is for one goroutine.
type Ledger struct{ changes []Change }

// Add adds a change.
func (l *Ledger) Add(c Change) {
	at, _ := slices.BinarySearchFunc(l.changes, c, func(a, b Change) int { return a.At.Compare(b.At) })
	l.changes = slices.Insert(l.changes, at, c)
}

// Forget drops what is older than an hour.
func (l *Ledger) Forget(now time.Time) {
	l.changes = slices.DeleteFunc(l.changes, func(c Change) bool { return !c.At.After(now.Add(-time.Hour)) })
}

// Strictest is the cluster's budget where each policy has one: for the whole cluster the strictest bounds hold.
func Strictest(budgets ...rightsizing.Budget) rightsizing.Budget {
	var s rightsizing.Budget
	for _, b := range budgets {
		s.ClusterPerHour, s.EvictionsPerHour = stricter(s.ClusterPerHour, b.ClusterPerHour), stricter(s.EvictionsPerHour, b.EvictionsPerHour)
	}
	return s
}

func stricter(a, b int32) int32 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// Spent says that one more change would exceed a budget, why, and when that ends. The namespace's bound is the autoscaler's own, those of
// the cluster are Strictest's.
func (l *Ledger) Spent(cluster, own rightsizing.Budget, namespace string, evict bool, now time.Time) (why string, until time.Time) {
	for _, bound := range []struct {
		most  int32
		name  string
		count func(Change) bool
	}{
		{cluster.ClusterPerHour, "changes in the cluster", func(Change) bool { return true }},
		{own.NamespacePerHour, "changes in the namespace", func(c Change) bool { return c.Namespace == namespace }},
		{cluster.EvictionsPerHour, "evictions in the cluster", func(c Change) bool { return c.Evicted }},
	} {
		if bound.most <= 0 || bound.name == "evictions in the cluster" && !evict {
			continue
		}
		var within []time.Time
		for _, c := range l.changes {
			if c.At.After(now.Add(-time.Hour)) && bound.count(c) {
				within = append(within, c.At)
			}
		}
		if n := len(within) - int(bound.most); n >= 0 {
			return fmt.Sprintf("the budget of %d %s within an hour is spent", bound.most, bound.name), within[n].Add(time.Hour)
		}
	}
	return "", time.Time{}
}

// Breaker is the circuit breaker: changes that did not take hold, by policy. The zero value is closed; it is for one goroutine.
type Breaker struct{ failures map[string][]time.Time }

// Failed counts a change that did not take hold.
func (b *Breaker) Failed(policy string, at time.Time) {
	if b.failures == nil {
		b.failures = map[string][]time.Time{}
	}
	b.failures[policy] = append(b.failures[policy], at)
}

// Open says that a policy rests, and until when: so many failures came within an hour. Those before a rest do not count after it.
func (b *Breaker) Open(policy string, s Settings, now time.Time) (until time.Time, open bool) {
	failures := b.failures[policy]
	kept := failures[:0:0]
	for _, at := range failures {
		if at.After(now.Add(-time.Hour - s.Rest)) {
			kept = append(kept, at)
		}
	}
	if b.failures != nil {
		b.failures[policy] = kept
	}
	begin := 0
	for i := range kept {
		if n := i - s.Failures + 1; n >= begin && kept[i].Sub(kept[n]) <= time.Hour {
			until = kept[i].Add(s.Rest)
			if until.After(now) {
				return until, true
			}
			begin = i + 1
		}
	}
	return time.Time{}, false
}

// Cooling says until when a workload whose pods were changed is left alone; zero is that it is not. A kill for want of memory does not wait.
func Cooling(s Settings, changed time.Time, outOfMemory bool, now time.Time) time.Time {
	if changed.IsZero() || outOfMemory {
		return time.Time{}
	}
	if until := changed.Add(s.Cooldown); until.After(now) {
		return until
	}
	return time.Time{}
}

// Memory of a kill: for how long one speeds a change up.
const freshKill = time.Hour

// OutOfMemory says that a container that is sized was killed for want of memory lately, after the pod was changed last, and would get more.
func OutOfMemory(pod *corev1.Pod, s Sizing, changed, now time.Time) bool {
	killed, at := Killed(pod, s, changed)
	return killed != "" && now.Sub(at) < freshKill
}

// Killed names a container that is sized, was killed for want of memory after the pod was changed last, however long ago, and would get more; and says
// when. Of several it is the last. Empty is that there is none.
func Killed(pod *corev1.Pod, s Sizing, changed time.Time) (container string, at time.Time) {
	for _, c := range s.Containers {
		target, is := c.Target.Requests[corev1.ResourceMemory]
		limit, limited := c.Target.Limits[corev1.ResourceMemory]
		if !(is && target.Cmp(c.Now.Requests[corev1.ResourceMemory]) > 0 || limited && limit.Cmp(c.Now.Limits[corev1.ResourceMemory]) > 0) {
			continue
		}
		statuses := pod.Status.ContainerStatuses
		if c.Sidecar {
			statuses = pod.Status.InitContainerStatuses
		}
		for i := range statuses {
			if t := kill(&statuses[i]); statuses[i].Name == c.Name && t.After(changed) && t.After(at) {
				container, at = c.Name, t
			}
		}
	}
	return container, at
}

// WasKilled says whether a container of a pod ended last for want of memory, whatever it is to get. To ask costs less than to size the pod.
func WasKilled(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if !kill(&list[i]).IsZero() {
				return true
			}
		}
	}
	return false
}

// kill is when a container ended for want of memory the last time that is known; zero is that it did not.
func kill(s *corev1.ContainerStatus) time.Time {
	for _, state := range []corev1.ContainerState{s.State, s.LastTerminationState} {
		if t := state.Terminated; t != nil && t.Reason == "OOMKilled" {
			return t.FinishedAt.Time
		}
	}
	return time.Time{}
}

// Asleep names a container that does not run and would get a higher limit, in a pod that is limited as a whole; empty is that there is none.
// Where each container of a pod has a limit its kubelet limits the pod too, and raises that only along with a container that runs: one that is
// killed again and again would be given more, start with more, and be killed as before.
func Asleep(pod *corev1.Pod, s Sizing) string {
	for _, c := range s.Containers {
		statuses := pod.Status.ContainerStatuses
		if c.Sidecar {
			statuses = pod.Status.InitContainerStatuses
		}
		at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
		if at < 0 || statuses[at].State.Running != nil {
			continue
		}
		for _, r := range resources() {
			if less(c.Now.Limits, c.Target.Limits, r) && limitedAsWhole(pod, r) {
				return c.Name
			}
		}
	}
	return ""
}

// Underway says that a container, other than those named, asks for something else than its node gave it: a resize that is not done is of it, too.
func Underway(pod *corev1.Pod, except []string) bool {
	lacks := func(c *corev1.Container, statuses []corev1.ContainerStatus) bool {
		at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
		if at < 0 || slices.Contains(except, c.Name) {
			return false
		}
		given, has := statuses[at].AllocatedResources, statuses[at].Resources
		for _, r := range resources() {
			request, limit := c.Resources.Requests[r], c.Resources.Limits[r]
			if q, is := given[r]; is && q.Cmp(request) != 0 || has != nil && (request.Cmp(has.Requests[r]) != 0 || limit.Cmp(has.Limits[r]) != 0) {
				return true
			}
		}
		return false
	}
	for i := range pod.Spec.Containers {
		if lacks(&pod.Spec.Containers[i], pod.Status.ContainerStatuses) {
			return true
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) && lacks(c, pod.Status.InitContainerStatuses) {
			return true
		}
	}
	return false
}

// limitedAsWhole says whether each container has a limit of a resource.
func limitedAsWhole(pod *corev1.Pod, r corev1.ResourceName) bool {
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if limit := containers[i].Resources.Limits[r]; limit.IsZero() {
				return false
			}
		}
	}
	return true
}

// Resize is what the node makes of a resize.
type Resize struct {
	State utils.ResizeStatus
	Why   string
	Since time.Time
}

// ResizeOf reads a pod's conditions.
func ResizeOf(pod *corev1.Pod) Resize {
	if c, is := utils.GetPodCondition(pod, corev1.PodResizePending); is && c.Status == corev1.ConditionTrue {
		r := Resize{State: utils.ResizeStatusUnknown, Why: c.Message, Since: c.LastTransitionTime.Time}
		switch c.Reason {
		case corev1.PodReasonDeferred:
			r.State = utils.ResizeStatusDeferred
		case corev1.PodReasonInfeasible:
			r.State = utils.ResizeStatusInfeasible
		}
		return r
	}
	if c, is := utils.GetPodCondition(pod, corev1.PodResizeInProgress); is && c.Status == corev1.ConditionTrue {
		r := Resize{State: utils.ResizeStatusInProgress, Why: c.Message, Since: c.LastTransitionTime.Time}
		if c.Reason == corev1.PodReasonError {
			r.State = utils.ResizeStatusError
		}
		return r
	}
	return Resize{State: utils.ResizeStatusNone}
}

// Verdict is what became of a change.
type Verdict string

// Verdicts.
const (
	Took    Verdict = "Took"   // what runs has it
	Open    Verdict = "Open"   // it may still come
	Failed  Verdict = "Failed" // it should have come, and has not
	Nothing Verdict = "Gone"   // there is nothing to look at any more
)

// Requests are what containers were to get, by name.
type Requests map[string]corev1.ResourceList

// Wanted are a sizing's.
func (s Sizing) Wanted() Requests {
	w := Requests{}
	for _, c := range s.Containers {
		w[c.Name] = c.Target.Requests
	}
	return w
}

// has says whether a container of the pod runs with the requests: by its status where the node reports them, else by its spec.
func (w Requests) has(pod *corev1.Pod) (missing string, all bool) {
	for _, name := range sortedNames(w) {
		actual, _ := resourcehelpers.ContainerRequestsAndLimits(name, pod)
		if actual == nil {
			actual, _ = resourcehelpers.InitContainerRequestsAndLimits(name, pod)
		}
		for _, r := range resources() {
			q, is := w[name][r]
			if !is {
				continue
			}
			if got, there := actual[r]; !there || got.Cmp(q) != 0 {
				return fmt.Sprintf("container %s has %s of %s instead of %s", name, got.String(), r, q.String()), false
			}
		}
	}
	return "", true
}

// asked says whether the pod still asks for the requests.
func (w Requests) asked(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for r, q := range w[list[i].Name] {
				if is, there := list[i].Resources.Requests[r]; !there || is.Cmp(q) != 0 {
					return false
				}
			}
		}
	}
	return true
}

func sortedNames(w Requests) []string {
	var names []string
	for n := range w {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Resized judges a resize: pod is as it is now, nil when it is gone. A node that says it cannot, or not now, is not a failure: that is
// known, and everything works. Nor is it one when the pod asks for something else by now, for it was reverted or somebody else resized it.
func Resized(pod *corev1.Pod, want Requests, at time.Time, patience time.Duration, now time.Time) (Verdict, string) {
	if pod == nil || pod.DeletionTimestamp != nil {
		return Nothing, ""
	}
	missing, all := want.has(pod)
	resize := ResizeOf(pod)
	switch {
	case all && resize.State == utils.ResizeStatusNone:
		return Took, ""
	case now.Sub(at) < patience:
		return Open, "" // what was seen of the pod may be older than the resize
	case !want.asked(pod):
		return Nothing, ""
	}
	switch resize.State {
	case utils.ResizeStatusDeferred, utils.ResizeStatusInfeasible:
		return Nothing, ""
	case utils.ResizeStatusInProgress:
		if now.Sub(at) < time.Hour {
			return Open, ""
		}
	case utils.ResizeStatusError:
		return Failed, "the node could not resize it: " + resize.Why
	}
	if missing == "" {
		missing = "the node says that it is still at it"
	}
	return Failed, fmt.Sprintf("%s after the resize: %s", now.Sub(at).Truncate(time.Second), missing)
}

// Recreated judges an eviction by the pod that came instead: nil when none came yet. What is asked is whether the webhook sized it, not
// whether it got exactly what was meant at the time, for its template may have changed, or the recommendation.
func Recreated(replacement *corev1.Pod, sized bool, at time.Time, patience time.Duration, now time.Time) (Verdict, string) {
	switch {
	case replacement != nil && sized:
		return Took, ""
	case replacement != nil:
		return Failed, fmt.Sprintf("pod %s came instead and was not sized: the webhook does not work", replacement.Name)
	case now.Sub(at) < max(patience, time.Hour):
		return Open, ""
	}
	return Nothing, ""
}
