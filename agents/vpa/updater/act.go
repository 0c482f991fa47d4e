package updater

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/restriction"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/utils"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/status"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// refusedFor is how long what the API server refused is not tried again.
const refusedFor = 10 * time.Minute

// actingFor is how long pods are changed in one loop. The policy controller takes pods back, and deletes their autoscaler, a little later than
// that after it said that nobody sizes them any more. lastWordsFor is how long recording what was done may take when the updater ends.
const (
	actingFor    = 10 * time.Second
	lastWordsFor = 5 * time.Second
)

const inTheNextLoops = "in the next loops"

// blockedFor is how long a PodDisruptionBudget that does not allow an eviction is not asked again.
const (
	blockedFor = 5 * time.Minute
	blockedWhy = "its PodDisruptionBudget does not allow an eviction now"
)

// failedFor is how long a workload is left alone after the API server failed at a change of it, and lastFor how long it comes after all others
// from then on. After one that was busy others come first for the next busyLoops: what met it is what was most urgent, and is so still.
const (
	failedFor = 5 * time.Minute
	lastFor   = time.Hour
	busyLoops = 2
)

// group is what a workload can spare, by upstream's reckoning.
type group struct {
	resizes   restriction.PodsInPlaceRestriction
	evictions func() restriction.PodsEvictionRestriction
	// vpa is the autoscaler as upstream's restriction of resizes sees it: its mode never evicts.
	vpa *vpav1.VerticalPodAutoscaler
	// room is how many pods may yet be resized in this loop.
	room int
}

// groupOf reckons once for a plan.
func (u *Updater) groupOf(p *plan) (*group, error) {
	if p.group != nil {
		return p.group, nil
	}
	vpa := p.VerticalPodAutoscaler.DeepCopy()
	mode := vpav1.UpdateModeInPlace
	if vpa.Spec.UpdatePolicy == nil {
		vpa.Spec.UpdatePolicy = &vpav1.PodUpdatePolicy{}
	}
	vpa.Spec.UpdatePolicy.UpdateMode = &mode
	factory, room := u.strict, math.MaxInt
	if p.settings.Owned {
		factory = u.spare
		// Half of the pods prove that a change does no harm before the others get it.
		room = max(1, int(math.Ceil(u.Tolerance*float64(len(p.pods)))))
		if one := int32(1); p.settings.SingleReplica == rightsizing.SingleEvict && vpa.Spec.UpdatePolicy.MinReplicas == nil {
			vpa.Spec.UpdatePolicy.MinReplicas = &one
		}
	}
	stats, creators, err := factory.GetCreatorMaps(controlled(p.pods), vpa)
	if err != nil {
		return nil, fmt.Errorf("reckoning what %s/%s can spare: %w", p.Namespace, p.Name, err)
	}
	p.group = &group{
		vpa: vpa, room: room, resizes: factory.NewPodsInPlaceRestriction(stats, creators),
		evictions: func() restriction.PodsEvictionRestriction { return factory.NewPodsEvictionRestriction(stats, creators) },
	}
	return p.group, nil
}

// controlled are pods as upstream takes them to be: each of their owners says whether it is the controller. It panics where one does not.
func controlled(pods []*corev1.Pod) []*corev1.Pod {
	silent := func(o metav1.OwnerReference) bool { return o.Controller == nil }
	all := slices.Clone(pods)
	for i, pod := range all {
		if slices.ContainsFunc(pod.OwnerReferences, silent) {
			shallow := *pod
			shallow.OwnerReferences = slices.DeleteFunc(slices.Clone(pod.OwnerReferences), silent)
			all[i] = &shallow
		}
	}
	return all
}

// round is what holds for one loop.
type round struct {
	now                time.Time
	cluster            rightsizing.Budget
	resizes, evictions int
	// admits says whether the admission controller answers; it is asked once.
	admits func() error
	// spent are budgets that are: they are not reckoned again for every pod.
	spent map[string]rules.Hold
	// over says that no more is changed in this loop.
	over bool
}

// once looks at everything once, and does what is to be done.
func (u *Updater) once(ctx context.Context) {
	now := u.now()
	u.askVersion(ctx, now)
	plans, alive := u.look(ctx)
	for _, p := range plans {
		u.hold(p, now)
	}
	u.recall(plans, now)
	u.verify(ctx, plans, alive, now)
	for _, p := range plans {
		u.decide(p, now)
	}
	u.memory.ledger.Forget(now)
	r := &round{now: now, resizes: u.Resizes, evictions: u.Evictions, spent: map[string]rules.Hold{}}
	var budgets []rightsizing.Budget
	var todo []*candidate
	for _, p := range plans {
		budgets = append(budgets, p.settings.Budget)
		todo = append(todo, p.todo...)
	}
	r.cluster = rules.Strictest(budgets...)
	var asked bool
	var answer error
	r.admits = func() error {
		if !asked {
			asked, answer = true, u.admits(ctx)
		}
		return answer
	}
	slices.SortStableFunc(todo, func(a, b *candidate) int {
		switch later := u.memory.later(a, b); {
		case later != 0:
			return later
		case a.oom != b.oom:
			return sign(b.oom)
		case b.priority.Less(a.priority):
			return -1
		case a.priority.Less(b.priority):
			return 1
		}
		return 0
	})
	u.carryOut(ctx, todo, r)
	u.ebb(plans)
	if ctx.Err() != nil {
		u.lastWords(ctx, plans, now)
		return
	}
	u.tell(ctx, plans, now)
	u.forget(plans, alive)
}

// lastWords records what was done in a loop that was ended in the middle: who goes on has nothing else to know it by.
func (u *Updater) lastWords(ctx context.Context, plans []*plan, now time.Time) {
	ctx, over := context.WithTimeout(context.WithoutCancel(ctx), lastWordsFor)
	defer over()
	u.tell(ctx, slices.DeleteFunc(slices.Clone(plans), func(p *plan) bool {
		is, was := u.application(p.autoscaler), p.Application
		return is.InPlace == was.InPlace && is.Evicted == was.Evicted && is.Failed == was.Failed
	}), now)
}

// carryOut changes pods one after the other, for a while: what was decided grows old meanwhile, and whoever takes pods back waits no longer.
func (u *Updater) carryOut(ctx context.Context, todo []*candidate, r *round) {
	for begin := u.now(); len(todo) > 0 && ctx.Err() == nil && !r.over && u.now().Sub(begin) < actingFor; todo = todo[1:] {
		u.deps.Turn()
		u.act(ctx, todo[0], r)
	}
	for _, c := range todo {
		if !u.leaves(c, r) {
			c.tally.pending = append(c.tally.pending, inTheNextLoops)
		}
	}
}

// moved says that an autoscaler is not any more what its pods were decided upon by, as where it was paused, reverted, let go or deleted meanwhile: the
// next loop decides anew. What others write into its status does not count.
func (u *Updater) moved(c *candidate) bool {
	o, _, _ := u.autoscalers.GetStore().GetByKey(c.Namespace + "/" + c.Name)
	if a, is := o.(*autoscaler); is && a.UID == c.UID && a.Generation == c.Generation && maps.Equal(a.Annotations, c.Annotations) {
		return false
	}
	c.tally.pending = append(c.tally.pending, "its autoscaler was changed just now")
	return true
}

// ebb ends waves that have no pods left to change.
func (u *Updater) ebb(plans []*plan) {
	for _, p := range plans {
		if p.unknown != "" {
			continue
		}
		if w := u.memory.waves[p.UID]; w.open && !slices.ContainsFunc(p.todo, func(c *candidate) bool { return !c.done }) {
			w.open = false
			u.memory.waves[p.UID] = w
		}
	}
}

func sign(later bool) int {
	if later {
		return 1
	}
	return -1
}

// admits says why nobody would size a pod that is evicted; nil is that somebody would.
func (u *Updater) admits(ctx context.Context) error {
	fresh, err := u.lease.IsStatusValid(ctx, status.AdmissionControllerStatusTimeout)
	switch {
	case apierrors.IsNotFound(err) || err == nil && !fresh:
		return errors.New("the admission controller does not answer, so that an evicted pod would come back as it was")
	case err != nil:
		return fmt.Errorf("asking whether the admission controller answers: %w", err)
	}
	return nil
}

// act changes a pod, as far as it may.
func (u *Updater) act(ctx context.Context, c *candidate, r *round) {
	if u.leaves(c, r) {
		return
	}
	g, err := u.groupOf(c.plan)
	if err != nil {
		c.tally.impossible = append(c.tally.impossible, err.Error())
		return
	}
	if c.inPlace {
		if u.resize(ctx, c, g, r) || !c.evict {
			return
		}
	}
	u.evict(ctx, c, g, r)
}

// leaves says that a workload is left alone, for a change of it failed, and tells.
func (u *Updater) leaves(c *candidate, r *round) bool {
	f := u.memory.failed[c.UID]
	if !f.until.After(r.now) {
		return false
	}
	c.tally.wait(f.why, f.until)
	return true
}

// budget says that a change is not within the budgets any more, and tells.
func (u *Updater) budget(c *candidate, r *round, evict bool) bool {
	key := fmt.Sprint(c.Namespace, " ", c.settings.Budget.NamespacePerHour, evict)
	hold, is := r.spent[key]
	if !is {
		why, until := u.memory.ledger.Spent(r.cluster, c.settings.Budget, c.Namespace, evict, r.now)
		if why == "" {
			return false
		}
		hold = rules.Hold{State: rightsizing.StateWaiting, Why: why, Until: until}
		r.spent[key] = hold
	}
	c.tally.waiting = append(c.tally.waiting, hold)
	return true
}

// resize resizes a pod, and says whether that was all there is to do: it was done, or is only a matter of time. Otherwise why says why not.
func (u *Updater) resize(ctx context.Context, c *candidate, g *group, r *round) bool {
	switch decision := g.resizes.CanInPlaceUpdate(c.pod, g.vpa, nil); {
	case decision == utils.InPlaceApproved, decision == utils.InPlaceInfeasible, decision == utils.InPlaceDeferred && c.resize.State == utils.ResizeStatusDeferred:
		// The latter two only come here where less is asked for than before.
	default:
		c.tally.pending = append(c.tally.pending, "the other pods of its workload have to run first")
		return true
	}
	if g.room <= 0 {
		c.tally.pending = append(c.tally.pending, "the other pods come first")
		return true
	}
	if r.resizes <= 0 {
		c.tally.pending = append(c.tally.pending, inTheNextLoops)
		return true
	}
	if u.budget(c, r, false) || u.moved(c) {
		return true
	}
	r.resizes--
	pod := c.pod
	if pod.Annotations == nil {
		// Upstream would patch an empty map onto it.
		shallow := *pod
		shallow.Annotations = map[string]string{}
		pod = &shallow
	}
	err := g.resizes.InPlaceUpdate(pod, g.vpa, u.recorder)
	switch {
	case err == nil:
		g.room--
		u.counts.resizes.Add(1)
		u.did(c, r.now, "in-place")
		return true
	case refusesLowering(err) && !u.keeps:
		// It was upgraded since it was asked for its version, or does not say it. All that was decided in this loop took it for granted that limits are
		// lowered: the next one decides anew, and asks for the rest.
		u.keeps, r.over = true, true
		c.tally.pending = append(c.tally.pending, inTheNextLoops)
		return true
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err), apierrors.IsNotFound(err) && !names(err, pod.Name), apierrors.IsMethodNotSupported(err):
		c.why = refusedWhy(err)
		u.memory.refused[c.pod.UID] = refusal{wanted: fingerprint(c.sizing), why: c.why, until: r.now.Add(refusedFor)}
		u.counts.refused.Add(1)
		u.outcome(c, r.now, "refused", c.why)
		u.log.LogAttrs(ctx, slog.LevelInfo, "a resize is refused", slog.String("namespace", pod.Namespace), slog.String("pod", pod.Name), slog.Any("error", err))
		if !c.evict {
			c.tally.impossible = append(c.tally.impossible, c.but("not in place: "+c.why))
		}
		return false
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return true // it is gone, or was changed just now
	}
	u.fails(ctx, c, r, "it could not be resized", err)
	return true
}

// fails leaves a workload alone for a while, for the API server failed at a change of one of its pods. A try may take as long as somebody's webhook
// does not answer, which is all the time of a loop, or is one of the loop's evictions. Afterwards it comes after the others, for many may fail at a
// time, and for longer; the pod after those of its workload.
//
// One that is busy, or away, fails at all of them: the next loop goes on. It begins with the others, and so does the one after it, should it only be
// so with this workload, as somebody's webhook may have it, or with another one, too.
func (u *Updater) fails(ctx context.Context, c *candidate, r *round, what string, err error) {
	if busy(err) {
		u.log.LogAttrs(ctx, slog.LevelWarn, "the API server takes no changes now; the next loop goes on", slog.String("namespace", c.pod.Namespace), slog.String("pod", c.pod.Name), slog.Any("error", err))
		r.over = true
		u.memory.fail(c, setback{until: r.now, last: r.now.Add(busyLoops * u.Every)})
		c.tally.pending = append(c.tally.pending, "the API server is busy")
		return
	}
	u.log.LogAttrs(ctx, slog.LevelWarn, "a change failed; its workload is left alone for a while", slog.String("namespace", c.pod.Namespace), slog.String("pod", c.pod.Name), slog.String("what", what), slog.Any("error", err))
	until := r.now.Add(failedFor)
	f := setback{until: until, last: until.Add(lastFor), why: what + " (" + err.Error() + "); it is tried again later"}
	u.memory.fail(c, f)
	c.tally.wait(f.why, f.until)
}

// busy says whether the API server has no time for a change, or cannot be reached: it would be the same with any other pod. A webhook that does not
// answer is no such thing, and comes as an internal error; nor is what took too long for its request (504), which may be for a webhook, or for a
// PodDisruptionBudget that others write all the time. What a webhook denies is about the pod, whatever its code.
func busy(err error) bool {
	var unreachable *url.Error
	if errors.As(err, &unreachable) {
		return true
	}
	var s apierrors.APIStatus
	if !errors.As(err, &s) || strings.Contains(s.Status().Message, "denied the request") {
		return false
	}
	between := s.Status().Code == http.StatusBadGateway // a load balancer that has no API server now
	return between || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err)
}

// names says whether an error is about the pod, and not about a path that the API server does not know.
func names(err error, pod string) bool {
	var s apierrors.APIStatus
	// Of an answer in plain text, as of a path that is not there, client-go fills in the name.
	return !apierrors.IsUnexpectedServerError(err) && errors.As(err, &s) && s.Status().Details != nil && s.Status().Details.Name == pod
}

func refusedWhy(err error) string {
	var s apierrors.APIStatus
	if errors.As(err, &s) && s.Status().Details != nil && len(s.Status().Details.Causes) > 0 {
		if why := s.Status().Details.Causes[0].Message; why != "" { // a node that is too small is a cause without words
			return why
		}
	}
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return "this Kubernetes does not resize pods"
	}
	return err.Error()
}

// patient is a pod without the conditions of its resize. How long that may take was reckoned by them; upstream's restriction reckons from when
// it is asked first, which is now, and would have it wait as long again.
func patient(pod *corev1.Pod) *corev1.Pod {
	shallow := *pod
	shallow.Status.Conditions = slices.DeleteFunc(slices.Clone(pod.Status.Conditions), func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
	})
	return &shallow
}

// evict evicts a pod. Nothing else makes a restriction of evictions, without which there is none.
func (u *Updater) evict(ctx context.Context, c *candidate, g *group, r *round) {
	if !c.evict || c.mode == vpav1.UpdateModeInPlace {
		return
	}
	if c.stale {
		// The webhook is not told, either: what comes instead would not be sized.
		c.tally.pending = append(c.tally.pending, "the API server fails to say whose pods they are, and none is evicted meanwhile")
		return
	}
	if err := r.admits(); err != nil {
		c.tally.wait(err.Error(), time.Time{})
		return
	}
	if until := u.memory.blocked[c.UID]; until.After(r.now) {
		c.tally.wait(blockedWhy, until)
		return
	}
	if r.evictions <= 0 {
		c.tally.pending = append(c.tally.pending, inTheNextLoops)
		return
	}
	if u.budget(c, r, true) {
		return
	}
	evictions, pod := g.evictions(), patient(c.pod)
	if !evictions.CanEvict(pod) {
		c.tally.pending = append(c.tally.pending, "its workload cannot spare a pod now")
		return
	}
	if u.moved(c) {
		return
	}
	r.evictions--
	err := evictions.Evict(pod, &c.VerticalPodAutoscaler, u.recorder)
	switch {
	case err == nil:
		u.counts.evictions.Add(1)
		u.did(c, r.now, "evicted")
	case apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause): // an API server that is busy answers with the same code
		u.memory.blocked[c.UID] = r.now.Add(blockedFor)
		c.tally.wait(blockedWhy, r.now.Add(blockedFor))
	case apierrors.IsNotFound(err):
	default:
		u.fails(ctx, c, r, "it could not be evicted", err)
	}
}

// did remembers what was done.
func (u *Updater) did(c *candidate, now time.Time, kind string) {
	c.tally.done = true
	evicted := kind == "evicted"
	u.memory.ledger.Add(rules.Change{At: now, Namespace: c.Namespace, Evicted: evicted})
	u.memory.changed[c.pod.UID] = now
	c.done = true
	if w := u.memory.waves[c.UID]; w.open {
		u.memory.waves[c.UID] = wave{began: w.began, last: now, open: true}
	} else {
		u.memory.waves[c.UID] = wave{began: now, last: now, open: true}
	}
	delete(u.memory.refused, c.pod.UID)
	delete(u.memory.failed, c.UID)
	delete(u.memory.failed, c.pod.UID)
	done := change{
		at: now, evicted: evicted, autoscaler: c.UID, policy: c.settings.Policy, pod: c.pod.UID, key: c.pod.Namespace + "/" + c.pod.Name, wanted: c.sizing.Wanted(),
	}
	if owner := metav1.GetControllerOf(c.pod); owner != nil {
		done.owner = owner.UID
	}
	if evicted {
		done.before = map[types.UID]bool{}
		for _, pod := range c.pods {
			done.before[pod.UID] = true
		}
	}
	u.memory.open = slices.DeleteFunc(u.memory.open, func(o change) bool { return o.pod == done.pod })
	u.memory.open = append(u.memory.open, done)
	a := u.application(c.autoscaler)
	a.LastChange = now
	var spell *rightsizing.Spell
	if a.Recent, spell = within(a.Recent, now); evicted {
		a.Evicted++
		spell.Evicted++
	} else {
		a.InPlace++
		spell.InPlace++
	}
	u.memory.written[c.UID] = a
	why, oom := "the recommendation", c.oom
	if evicted {
		oom = c.instead.oom
	}
	if oom {
		why = "it was killed for want of memory"
	}
	u.outcome(c, now, kind, why)
	c.tally.pending = append(c.tally.pending, "it was changed just now")
}

// outcome tells the platform.
func (u *Updater) outcome(c *candidate, now time.Time, kind, why string) {
	w := nopsapi.WorkloadRef{Namespace: c.Namespace}
	if t := c.Spec.TargetRef; t != nil {
		w.APIVersion, w.Kind, w.Name = t.APIVersion, t.Kind, t.Name
	}
	u.deps.Outcome(nopsapi.Outcome{ID: fmt.Sprintf("%s-%s-%d", c.pod.UID, kind, now.UnixMilli()), At: now, Workload: w, Pod: c.pod.Name, Kind: kind, Reason: why})
}

// verify looks after what was done.
func (u *Updater) verify(ctx context.Context, plans []*plan, alive map[types.UID]*corev1.Pod, now time.Time) {
	at := map[types.UID]*plan{}
	for _, p := range plans {
		at[p.UID] = p
	}
	taken := map[types.UID]bool{}
	u.memory.open = slices.DeleteFunc(u.memory.open, func(c change) bool {
		p := at[c.autoscaler]
		if p == nil || p.hold.Is() {
			return true // its pods are left alone, or get their template's requests back: what becomes of them is no news of this change
		}
		var verdict rules.Verdict
		var why string
		if c.evicted {
			instead, sized := u.instead(p, c, taken)
			verdict, why = rules.Recreated(instead, sized, c.at, u.Patience, now)
			if instead != nil {
				taken[instead.UID] = true
			}
		} else {
			verdict, why = rules.Resized(alive[c.pod], c.wanted, c.at, u.Patience, now)
		}
		switch verdict {
		case rules.Open:
			return false
		case rules.Failed:
			u.failed(ctx, p, c, why, now)
		default:
		}
		return true
	})
}

// failed counts a change that did not take hold: the workload rests, and enough of them open the circuit breaker.
func (u *Updater) failed(ctx context.Context, p *plan, c change, why string, now time.Time) {
	u.counts.failed.Add(1)
	_, before := u.memory.breaker.Open(c.policy, p.settings, now)
	u.memory.breaker.Failed(c.policy, now)
	u.memory.rests[c.autoscaler] = resting{until: now.Add(p.settings.Rest), why: why}
	a := u.application(p.autoscaler)
	a.Failed++
	var spell *rightsizing.Spell
	a.Recent, spell = within(a.Recent, now)
	spell.Failed++
	spell.Why = why
	u.memory.written[p.UID] = a
	u.log.LogAttrs(ctx, slog.LevelWarn, "a change did not take hold", slog.String("pod", c.key), slog.String("autoscaler", p.Namespace+"/"+p.Name), slog.String("why", why))
	u.recorder.Event(&p.VerticalPodAutoscaler, corev1.EventTypeWarning, "ChangeWithoutEffect", "Pod "+c.key+": "+why)
	w := candidate{plan: p, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: c.key[strings.Index(c.key, "/")+1:], UID: c.pod}}}
	u.outcome(&w, now, "refused", why)
	if until, open := u.memory.breaker.Open(c.policy, p.settings, now); open && !before {
		u.log.LogAttrs(ctx, slog.LevelError, "too many changes did not take hold; nothing is changed for a while", slog.String("policy", c.policy), slog.Time("until", until))
		u.recorder.Eventf(&p.VerticalPodAutoscaler, corev1.EventTypeWarning, "CircuitBreakerOpen", "Changes did not take hold; nothing of policy %q is changed until %s.", c.policy, until.UTC().Format(time.RFC3339))
	}
}

// instead is the pod that came in an evicted one's place, and whether the webhook sized it.
func (u *Updater) instead(p *plan, c change, taken map[types.UID]bool) (*corev1.Pod, bool) {
	var found *corev1.Pod
	for _, pod := range p.pods {
		owner := metav1.GetControllerOf(pod)
		if owner == nil || owner.UID != c.owner || c.before[pod.UID] || taken[pod.UID] {
			continue
		}
		if found == nil || pod.CreationTimestamp.Before(&found.CreationTimestamp) || pod.CreationTimestamp.Equal(&found.CreationTimestamp) && pod.Name < found.Name {
			found = pod
		}
	}
	if found == nil {
		return nil, false
	}
	if strings.Contains(found.Annotations[patch.ResourceUpdatesAnnotation], p.Name) {
		return found, true
	}
	sizing, err := u.provider.Size(found, &p.VerticalPodAutoscaler)
	return found, err == nil && !sizing.Seen().Changed() // what was added after the webhook saw it says nothing about the webhook
}

// forget drops what is about pods and autoscalers that are gone.
func (u *Updater) forget(plans []*plan, alive map[types.UID]*corev1.Pod) {
	there := map[types.UID]bool{}
	for _, p := range plans {
		there[p.UID] = true
	}
	u.owners.Next()
	u.selectors.Next()
	for id := range u.memory.changed {
		if alive[id] == nil {
			delete(u.memory.changed, id)
		}
	}
	for id := range u.memory.refused {
		if alive[id] == nil {
			delete(u.memory.refused, id)
		}
	}
	for id := range u.memory.waves {
		if !there[id] {
			delete(u.memory.waves, id)
		}
	}
	for id := range u.memory.written {
		if !there[id] {
			delete(u.memory.written, id)
		}
	}
	for id, until := range u.memory.blocked {
		if !there[id] || !until.After(u.now()) {
			delete(u.memory.blocked, id)
		}
	}
	for id, f := range u.memory.failed {
		if !f.last.After(u.now()) {
			delete(u.memory.failed, id)
		}
	}
	for id, rest := range u.memory.rests {
		if !there[id] || !rest.until.After(u.now()) {
			delete(u.memory.rests, id)
		}
	}
}

// application is the last one known: of this process, or of one before.
func (u *Updater) application(a *autoscaler) rightsizing.Application {
	if w, is := u.memory.written[a.UID]; is {
		return w
	}
	return a.Application
}

// earliest is the hold that ends first; one whose end is not known comes last.
func earliest(holds []rules.Hold) rules.Hold {
	return slices.MinFunc(holds, func(a, b rules.Hold) int {
		if a.Until.IsZero() != b.Until.IsZero() {
			return sign(a.Until.IsZero())
		}
		return cmp.Or(a.Until.Compare(b.Until), strings.Compare(a.Why, b.Why))
	})
}
