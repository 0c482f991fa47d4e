package updater

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/priority"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/utils"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"

	"github.com/nopsctl/nopsctl/agents/vpa/owners"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// How long the node may put a resize off, or be at it, before a pod is evicted where that is allowed: upstream's values.
const (
	deferredFor   = 5 * time.Minute
	inProgressFor = time.Hour
)

// plan is what is found out about an autoscaler in a loop.
type plan struct {
	*autoscaler

	settings rules.Settings
	// unreadable says why the settings, or all of it, cannot be read.
	unreadable error
	mode       vpav1.UpdateMode
	hold       rules.Hold
	pods       []*corev1.Pod
	// stale says that they are its own by what the API server said before, for it fails to say it now. Unknown says why it is not known which are its
	// own: that there seem to be none says nothing then.
	stale   bool
	unknown string
	// gone are pods of Jobs that ended since the last loop.
	gone []*corev1.Pod
	// alone are pods that are the only one of their controller.
	alone map[types.UID]bool
	// left says which resources are left to others.
	left []string
	// What is to be done, and the other pods are left.
	todo  []*candidate
	tally tally
	// group is made when it is first needed.
	group *group
}

// tally is why pods are as they are.
type tally struct {
	// pending are to be changed, or are at it.
	pending []string
	// waiting are until when and for what.
	waiting []rules.Hold
	// stopped and impossible are why.
	stopped    []rules.Hold
	impossible []string
	// killed are what pods wait for of which a container was killed for want of memory: whoever is woken by that looks for nothing else.
	killed []rules.Hold
	// guarded are what Java keeps of what was recommended to be less.
	guarded []string
	done    bool
}

func (t *tally) wait(why string, until time.Time) {
	t.waiting = append(t.waiting, rules.Hold{State: rightsizing.StateWaiting, Why: why, Until: until})
}

// candidate is a pod that is to be changed.
type candidate struct {
	*plan

	pod    *corev1.Pod
	sizing rules.Sizing
	resize rules.Resize
	need
	// instead is the need for another pod: of the containers that the webhook sees. That of the others ends with no eviction.
	instead need
	// kept says why it is not evicted though the mode evicts; empty is that it may be.
	kept string
	// inPlace and evict are how, in this order. Why says what a resize cannot do, where it is not in place.
	inPlace, evict bool
	why            string
	done           bool
}

// need is why a pod is to be changed, and how urgent that is.
type need struct {
	oom      bool
	priority priority.PodPriority
	// worthwhile says that it is far enough off.
	worthwhile bool
}

// look finds out about every autoscaler.
func (u *Updater) look(ctx context.Context) ([]*plan, map[types.UID]*corev1.Pod) {
	var plans []*plan
	at := map[string][]*plan{}
	namespaces := map[string]bool{}
	for _, o := range u.autoscalers.GetStore().List() {
		a, is := o.(*autoscaler)
		if !is {
			continue
		}
		p := &plan{autoscaler: a, mode: vpautil.GetUpdateMode(&a.VerticalPodAutoscaler), alone: map[types.UID]bool{}}
		if p.settings, p.unreadable = rules.Effective(&a.VerticalPodAutoscaler); a.broken != nil {
			p.unreadable = a.broken
		}
		plans = append(plans, p)
		if r := ref(&a.VerticalPodAutoscaler); r.Name != "" {
			key := vpautil.TargetRefIndexKey(r.Namespace, r.Kind, r.Name)
			at[key] = append(at[key], p)
			namespaces[r.Namespace] = true
		}
	}
	slices.SortFunc(plans, func(a, b *plan) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	pods, err := u.podFactory.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		u.log.LogAttrs(ctx, slog.LevelError, "listing pods", slog.Any("error", err))
	}
	alive := map[types.UID]*corev1.Pod{}
	selectors := map[*plan]labels.Selector{}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		alive[pod.UID] = pod
		if !namespaces[pod.Namespace] {
			continue // it is no autoscaler's, and whoever owns it is looked at for nothing
		}
		if p := u.owner(ctx, pod, at, selectors); p != nil {
			p.pods = append(p.pods, pod)
		}
	}
	for _, pod := range u.departed.take() {
		if !namespaces[pod.Namespace] {
			continue
		}
		if p := u.owner(ctx, pod, at, selectors); p != nil {
			p.gone = append(p.gone, pod)
		}
	}
	for _, p := range plans {
		stale, unknown := u.owners.Doubts(&p.VerticalPodAutoscaler)
		if p.stale = p.stale || stale; unknown {
			p.unknown = notSaid
		}
	}
	known := map[types.UID]rules.Known{}
	for _, p := range plans {
		k := rules.KnownOf(u.application(p.autoscaler), p.Explanations)
		k.Held = p.held()
		k.Yield = u.others.Scaled(ref(&p.VerticalPodAutoscaler))
		known[p.UID] = k
	}
	u.memory.known = known
	return plans, alive
}

// owner is the autoscaler of a pod: the eldest of those that name its workload and whose selector it matches. One that only recommends is it where
// there is no other, as the webhook has it: beside a copy that was imported, a policy's sizes.
func (u *Updater) owner(ctx context.Context, pod *corev1.Pod, at map[string][]*plan, selectors map[*plan]labels.Selector) *plan {
	parent := u.owners.Of(ctx, pod)
	if parent == nil {
		return nil
	}
	var best *plan
	for _, p := range at[vpautil.TargetRefIndexKey(parent.Namespace, parent.Kind, parent.Name)] {
		selector, is := selectors[p]
		if !is {
			var err error
			switch selector, p.stale, err = u.selectors.Select(ctx, &p.VerticalPodAutoscaler); {
			case err == nil:
			case owners.Said(err):
				selector, p.unknown = labels.Nothing(), err.Error()
			default:
				selector, p.unknown = labels.Nothing(), notSaid
				u.log.LogAttrs(ctx, slog.LevelDebug, "what a target selects is not known", slog.String("namespace", p.Namespace), slog.String("autoscaler", p.Name), slog.Any("error", err))
			}
			selectors[p] = selector
		}
		if selector.Matches(labels.Set(pod.Labels)) && (best == nil || stronger(&p.VerticalPodAutoscaler, &best.VerticalPodAutoscaler)) {
			best = p
		}
	}
	return best
}

func stronger(a, b *vpav1.VerticalPodAutoscaler) bool {
	off := func(vpa *vpav1.VerticalPodAutoscaler) bool { return vpautil.GetUpdateMode(vpa) == vpav1.UpdateModeOff }
	if off(a) != off(b) {
		return off(b)
	}
	return vpautil.Stronger(a, b)
}

// notSaid is why it is not known which pods are an autoscaler's own. It is the same for as long as that lasts: errors are not.
const notSaid = "the API server fails to say it"

// hold finds out whether an autoscaler's pods are left alone.
func (u *Updater) hold(p *plan, now time.Time) {
	if slices.Contains(u.Ignored, p.Namespace) {
		p.hold = rules.Hold{State: rightsizing.StateRecommend, Why: "it is only recommended: namespace " + p.Namespace + " is left alone"}
		return
	}
	vpa := &p.VerticalPodAutoscaler
	workload := ref(vpa)
	objects := []metav1.Object{u.workload(workload)}
	for _, pod := range p.pods {
		objects = append(objects, pod)
	}
	if why, is := u.others.Elsewhere(workload, objects...); is {
		p.hold = rules.Hold{State: rightsizing.StateElsewhere, Why: why}
		return
	}
	p.hold = rules.Held(vpa, p.settings, p.unreadable, u.known(vpa), now)
}

// decide decides about an autoscaler and each of its pods.
func (u *Updater) decide(p *plan, now time.Time) {
	vpa := &p.VerticalPodAutoscaler
	settings := p.settings
	if p.hold.Is() {
		u.tellKill(p)
		return
	}
	yields := rightsizing.YieldsOf(vpa.Annotations)
	for r, why := range u.known(vpa).Yield {
		if !settings.Aligned(r) && yields[string(r)] == "" {
			p.left = append(p.left, why)
		}
	}
	for _, name := range settings.Yield {
		if why := yields[name]; why != "" {
			p.left = append(p.left, name+" is left alone: "+why)
		} else if p.left == nil {
			p.left = append(p.left, "a HorizontalPodAutoscaler scales on "+name)
		}
	}
	slices.Sort(p.left)
	of := map[types.UID][]*corev1.Pod{}
	for _, pod := range p.pods {
		if c := metav1.GetControllerOf(pod); c != nil {
			of[c.UID] = append(of[c.UID], pod)
		}
	}
	for _, pods := range of {
		if len(pods) == 1 {
			p.alone[pods[0].UID] = true
		}
	}
	for _, pod := range p.pods {
		if c := u.consider(p, pod, now); c != nil {
			p.todo = append(p.todo, c)
		}
	}
}

// tellKill tells of a kill for want of memory that has to wait until its workload was watched for long enough, or until somebody ends a pause. Neither
// gives way to it: both are what somebody was promised.
func (u *Updater) tellKill(p *plan) {
	if p.hold.State != rightsizing.StateWaiting && p.hold.State != rightsizing.StateStopped {
		return
	}
	for _, pod := range p.pods {
		if !rules.WasKilled(pod) {
			continue
		}
		sizing, err := u.provider.SizeBy(pod, &p.VerticalPodAutoscaler, p.settings)
		if err != nil {
			continue
		}
		if name, _ := rules.Killed(pod, sizing, u.changedAt(p, pod)); name != "" {
			p.hold.Why = killed(name) + p.hold.Why + "; until then new pods are not sized either"
			return
		}
	}
}

// killed begins a reason why a container that was killed for want of memory does not have more yet.
func killed(name string) string {
	return "container " + name + " was killed for want of memory, and has to wait: "
}

// opening says that a window is closed, and until when; zero is that it does not open any more.
func opening(opens time.Time) string {
	if opens.IsZero() {
		return "its window is closed"
	}
	return "its window is closed until " + opens.UTC().Format("2006-01-02 15:04 MST")
}

// guarded says what Java keeps of the memory that a pod would have less of; empty is nothing.
func guarded(s rules.Sizing) string {
	var all []string
	for _, c := range s.Containers {
		for _, step := range c.Steps {
			if why, memory := strings.CutPrefix(step.Why, string(corev1.ResourceMemory)+": "); memory && step.Rule == "jvm" {
				has := c.Target.Requests[corev1.ResourceMemory] // the class of service may ask for more
				all = append(all, fmt.Sprintf("jvm keeps the memory of container %s at %s: %s", c.Name, has.String(), why))
			}
		}
	}
	return strings.Join(all, "; ")
}

// consider decides about one pod: nil is that nothing is done, and the tally says why.
func (u *Updater) consider(p *plan, pod *corev1.Pod, now time.Time) *candidate {
	sizing, err := u.provider.SizeBy(pod, &p.VerticalPodAutoscaler, p.settings)
	if err != nil {
		p.tally.impossible = append(p.tally.impossible, err.Error())
		return nil
	}
	if why := guarded(sizing); why != "" {
		p.tally.guarded = append(p.tally.guarded, why)
	}
	c := &candidate{plan: p, pod: pod, sizing: sizing, resize: rules.ResizeOf(pod), need: u.needOf(p, pod, sizing, now)}
	resizes := p.mode == vpav1.UpdateModeInPlace || p.mode == vpav1.UpdateModeInPlaceOrRecreate
	stuck := resizes && c.resize.State != utils.ResizeStatusNone
	if !stuck && !c.worthwhile {
		return nil
	}
	if c.instead, err = u.needForAnother(c, now); err != nil {
		p.tally.impossible = append(p.tally.impossible, err.Error())
		return nil
	}
	if len(sizing.Added) > 0 && !c.instead.worthwhile && !(stuck && rules.Underway(pod, sizing.Added)) {
		if c.kept = unseen(sizing); !resizes {
			p.tally.impossible = append(p.tally.impossible, c.kept)
			return nil
		}
	}
	if !resizes {
		c.need = c.instead
	}
	if p.mode == vpav1.UpdateModeInitial {
		p.tally.wait("running pods stay as they are; new ones are sized when they are created", time.Time{})
		return nil
	}
	if sizing.Quota != "" {
		p.tally.impossible = append(p.tally.impossible, sizing.Quota) // neither in place nor by an eviction: what comes instead could not be created with it
		return nil
	}
	if what := sizing.Seen(); !wanted(c, what) {
		if !resizes || !wanted(c, sizing) {
			p.tally.wait(unwanted, time.Time{})
			return nil
		}
		c.kept = cmp.Or(c.kept, unwanted)
	}
	if !u.means(c, now) {
		return nil
	}
	if few := u.tooFew(p, pod); few != "" {
		p.tally.impossible = append(p.tally.impossible, few)
		return nil
	}
	if !u.due(c, now) {
		return nil
	}
	return c
}

// due says whether a pod may be changed now, or tells what that waits for.
func (u *Updater) due(c *candidate, now time.Time) bool {
	p := c.plan
	if until, open := u.memory.breaker.Open(p.settings.Policy, p.settings, now); open {
		p.tally.stopped = append(p.tally.stopped, rules.Hold{State: rightsizing.StateStopped, Why: fmt.Sprintf("%d changes within an hour did not take hold", p.settings.Failures), Until: until})
		return false
	}
	if rest, is := u.memory.rests[p.UID]; is && rest.until.After(now) {
		p.tally.wait("a change did not take hold ("+rest.why+"); it is tried again later", rest.until)
		return false
	}
	if opens, closed := rules.Closed(p.settings.Windows, now); closed {
		if name, _ := rules.Killed(c.pod, c.sizing, u.changedAt(p, c.pod)); name != "" {
			p.tally.killed = append(p.tally.killed, rules.Hold{State: rightsizing.StateWaiting, Why: killed(name) + opening(opens) + "; new pods are sized at once", Until: opens})
			return false
		}
		p.tally.wait("its window is closed", opens)
		return false
	}
	before := u.changedBefore(p, c.pod)
	if until := rules.Cooling(p.settings, before, c.oom, now); !until.IsZero() {
		p.tally.wait("it was changed lately and cools down", until)
		return false
	}
	if !rules.Cooling(p.settings, before, c.instead.oom, now).IsZero() {
		c.evict = false // a kill in a container that the webhook does not see hurries the resize alone
	}
	return true
}

// changedAt is when a pod was changed last. After a restart only the autoscaler's last change is known: any of its pods may have been it.
func (u *Updater) changedAt(p *plan, pod *corev1.Pod) time.Time {
	if at, is := u.memory.changed[pod.UID]; is {
		return at
	}
	if last := p.Application.LastChange; last.Before(u.memory.since) && last.After(pod.CreationTimestamp.Time) {
		return last
	}
	return time.Time{}
}

// changedBefore is when the pods of the workload were changed last, by a change that this pod's would not be part of. After a restart nothing
// is known of a wave, and there is none.
func (u *Updater) changedBefore(p *plan, pod *corev1.Pod) time.Time {
	w, is := u.memory.waves[p.UID]
	if is && w.open && u.memory.changed[pod.UID].Before(w.began) {
		return time.Time{}
	}
	if last := p.Application.LastChange; last.After(w.last) {
		return last
	}
	return w.last
}

// needOf is what a sizing of a pod is needed for.
func (u *Updater) needOf(p *plan, pod *corev1.Pod, s rules.Sizing, now time.Time) need {
	n := need{oom: rules.OutOfMemory(pod, s, u.changedAt(p, pod), now), priority: priorityOf(s)}
	n.worthwhile = u.worthwhile(p, pod, s, n, now)
	return n
}

// needForAnother is what a pod is needed for that comes instead. The webhook sees it without the containers that are added later, which may make another
// sizing of the rest, as where a LimitRange of pods is shared out: both have to ask for it, or it would be asked for again of what comes.
func (u *Updater) needForAnother(c *candidate, now time.Time) (need, error) {
	if len(c.sizing.Added) == 0 {
		return c.need, nil
	}
	n := u.needOf(c.plan, c.pod, c.sizing.Seen(), now)
	if !n.worthwhile {
		return n, nil
	}
	without := rules.Without(c.pod, c.sizing.Added)
	s, err := u.provider.SizeBy(without, &c.VerticalPodAutoscaler, c.settings)
	n.worthwhile = u.needOf(c.plan, without, s, now).worthwhile
	return n, err //nolint:wrapcheck // says which pod it is about
}

// worthwhile says whether a pod is far enough off.
func (u *Updater) worthwhile(p *plan, pod *corev1.Pod, s rules.Sizing, n need, now time.Time) bool {
	if !s.Changed() {
		return false
	}
	if n.priority.OutsideRecommendedRange || n.oom {
		return true
	}
	if n.priority.ResourceDiff < u.MinChange {
		return false
	}
	if p.settings.Owned && (p.mode == vpav1.UpdateModeInPlace || p.mode == vpav1.UpdateModeInPlaceOrRecreate) && s.Refused == "" && !s.Restarts() {
		return true // it disturbs nobody
	}
	return pod.Status.StartTime != nil && now.Sub(pod.Status.StartTime.Time) >= u.Lifetime
}

// unseen says why a pod is not evicted for the sake of containers that were added to it after the webhook saw it: those that would get something else,
// or all of them, where none would, as while a resize of them is under way.
func unseen(s rules.Sizing) string {
	names := slices.DeleteFunc(slices.Clone(s.Added), func(name string) bool {
		return !slices.ContainsFunc(s.Containers, func(c rules.Sized) bool { return c.Name == name && c.Changed() })
	})
	if len(names) == 0 {
		names = slices.Clone(s.Added)
	}
	slices.Sort(names)
	what := "container " + names[0] + " was"
	if len(names) > 1 {
		what = "containers " + strings.Join(names, ", ") + " were"
	}
	return what + " added to the pod after the webhook saw it, and another pod would come with what it has: it is not evicted for that"
}

// priorityOf is upstream's measure of a pod, of everything that is sized: native sidecars and limits too.
func priorityOf(s rules.Sizing) priority.PodPriority {
	var p priority.PodPriority
	requests, targets := map[string]float64{}, map[string]float64{}
	for _, c := range s.Containers {
		for r, q := range c.Target.Requests {
			is, there := c.Now.Requests[r]
			requests[string(r)] += is.AsApproximateFloat64()
			targets[string(r)] += q.AsApproximateFloat64()
			p.ScaleUp = p.ScaleUp || q.Cmp(is) > 0
			lower, bounded := c.Lower[r]
			upper, capped := c.Upper[r]
			if q.Cmp(is) != 0 && (!there || bounded && is.Cmp(lower) < 0 || capped && is.Cmp(upper) > 0) {
				p.OutsideRecommendedRange = true
			}
		}
		for r, q := range c.Target.Limits {
			is := c.Now.Limits[r]
			requests["limit of "+string(r)] += is.AsApproximateFloat64()
			targets["limit of "+string(r)] += q.AsApproximateFloat64()
		}
	}
	limits := 0.0
	for name, target := range targets {
		diff := math.Abs(requests[name]-target) / max(requests[name], 0.001)
		if strings.HasPrefix(name, "limit") {
			limits = max(limits, diff)
			continue
		}
		p.ResourceDiff += diff
	}
	p.ResourceDiff = max(p.ResourceDiff, limits) // a limit that moved alone counts too, but one that moved along does not count twice
	return p
}

const unwanted = "its evictionRequirements do not want a change in this direction"

// wanted says whether an autoscaler's evictionRequirements want this change. Upstream asks them about resizes, too.
func wanted(c *candidate, what rules.Sizing) bool {
	if policy := c.Spec.UpdatePolicy; policy == nil || len(policy.EvictionRequirements) == 0 {
		return true
	}
	var targets vpav1.RecommendedPodResources
	for _, s := range what.Containers {
		targets.ContainerRecommendations = append(targets.ContainerRecommendations, vpav1.RecommendedContainerResources{ContainerName: s.Name, Target: s.Target.Requests})
	}
	requirements := priority.NewScalingDirectionPodEvictionAdmission()
	requirements.LoopInit(nil, map[*vpav1.VerticalPodAutoscaler][]*corev1.Pod{&c.VerticalPodAutoscaler: {c.pod}})
	return requirements.Admit(c.pod, &targets)
}

// means says how a pod can be changed, or tells why it cannot.
func (u *Updater) means(c *candidate, now time.Time) bool {
	p := c.plan
	evicts := p.mode == vpav1.UpdateModeInPlaceOrRecreate || p.mode == vpav1.UpdateModeRecreate || p.mode == vpav1.UpdateModeAuto //nolint:staticcheck // people still have it
	resizes := p.mode == vpav1.UpdateModeInPlace || p.mode == vpav1.UpdateModeInPlaceOrRecreate
	if !evicts {
		c.kept = ""
	}
	evicts = evicts && c.kept == ""
	alone := p.settings.Owned && p.alone[c.pod.UID]
	impossible := func(format string, args ...any) bool {
		p.tally.impossible = append(p.tally.impossible, fmt.Sprintf(format, args...))
		return false
	}
	if alone && p.settings.SingleReplica == rightsizing.SingleNever {
		return impossible("it has one pod, which is not to be changed (singleReplica Never)")
	}
	if resizes && !u.meansInPlace(c, evicts, alone, now) {
		return false
	}
	c.evict = evicts
	if c.evict && p.settings.Owned {
		switch owner := metav1.GetControllerOf(c.pod); {
		case alone && p.settings.SingleReplica != rightsizing.SingleEvict:
			c.evict, c.why = false, cmp.Or(c.why, "it has one pod, which is not to be evicted")
		case owner != nil && owner.Kind == "Job":
			c.evict, c.why = false, cmp.Or(c.why, "a pod of a Job is not evicted: its work would be lost")
		}
	}
	if !c.inPlace && !c.evict {
		return impossible("not in place: %s", c.why)
	}
	if !c.inPlace {
		c.need = c.instead
	}
	return true
}

// meansInPlace says whether and how a pod can go on: by a resize, or without one where an eviction is allowed.
func (u *Updater) meansInPlace(c *candidate, evicts, alone bool, now time.Time) bool {
	p := c.plan
	// One that starts is resized when it runs: an eviction would have it start again, and disturb what a resize does not. One that ran out of memory
	// before, in a sidecar, never runs unless another comes instead.
	if c.pod.Status.Phase != corev1.PodRunning && (!evicts || !c.instead.oom) {
		p.tally.pending = append(p.tally.pending, c.but("it does not run yet"))
		return false
	}
	c.inPlace, c.why = u.canResize(c)
	switch c.resize.State {
	case utils.ResizeStatusDeferred:
		if !c.inPlace && (!evicts || now.Sub(c.resize.Since) < deferredFor) {
			p.tally.wait(c.but("its node has no room for it now: "+c.resize.Why), time.Time{})
			return false
		}
	case utils.ResizeStatusInProgress:
		if !evicts || now.Sub(c.resize.Since) < inProgressFor {
			p.tally.pending = append(p.tally.pending, "its node is at it")
			return false
		}
		c.inPlace, c.why = false, "its node has been at it for too long"
	case utils.ResizeStatusError, utils.ResizeStatusUnknown:
		if !evicts {
			p.tally.pending = append(p.tally.pending, c.but("its node tries it again: "+c.resize.Why))
			return false
		}
		c.inPlace, c.why = false, "its node could not resize it: "+c.resize.Why
	default:
	}
	if c.inPlace && alone && p.settings.SingleReplica != rightsizing.SingleEvict && c.sizing.Restarts() {
		c.inPlace, c.why = false, "its only pod would restart, by the resizePolicy of a container"
	}
	if !c.inPlace && !evicts {
		p.tally.impossible = append(p.tally.impossible, c.but("not in place: "+c.why))
		return false
	}
	return true
}

// but adds to what keeps a pod from being changed in place what keeps it from being evicted.
func (c *candidate) but(why string) string {
	if c.kept == "" {
		return why
	}
	return why + "; " + c.kept
}

// canResize says whether a resize can be tried, or why not.
func (u *Updater) canResize(c *candidate) (bool, string) {
	less := c.worthwhile && c.sizing.Lowers() // what does not fit may do so when less is asked for
	switch {
	case c.sizing.Refused != "":
		return false, c.sizing.Refused
	case c.resize.State == utils.ResizeStatusInfeasible && !less:
		return false, "its node can never fit it: " + c.resize.Why
	case c.resize.State == utils.ResizeStatusDeferred && !less:
		return false, "its node has no room for it: " + c.resize.Why
	case c.pod.Status.Phase != corev1.PodRunning:
		return false, "it does not run yet"
	}
	if name := rules.Asleep(c.pod, c.sizing); name != "" {
		return false, "container " + name + " does not run now, and the limit of its pod is only raised while it does; a pod that comes instead has it"
	}
	if r, is := u.memory.refused[c.pod.UID]; is && r.wanted == fingerprint(c.sizing) && r.until.After(u.now()) {
		return false, r.why
	}
	return true, ""
}

// fingerprint tells two sizings apart.
func fingerprint(s rules.Sizing) string {
	var b strings.Builder
	for _, c := range s.Containers {
		for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := c.Target.Requests[r], c.Target.Limits[r]
			fmt.Fprintf(&b, "%s %s %s %s;", c.Name, r, request.String(), limit.String())
		}
	}
	return b.String()
}
