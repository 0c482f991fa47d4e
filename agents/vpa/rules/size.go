package rules

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Startup is for how long the CPU of a container with Java is not lowered after it started: it compiles its classes then.
const Startup = 5 * time.Minute

// UsageMargin is what a memory limit stays above the largest usage that was seen, in percent.
const UsageMargin = 10

// Sizing is what a pod's containers should get.
type Sizing struct {
	Containers []Sized
	// Refused says why the pod cannot get it while it runs. New pods may.
	Refused string
	// Quota says which ResourceQuota leaves no room for it, or which LimitRange does not allow it. New pods could not be created with it, and get nothing.
	Quota string
	// Added names the containers of a pod that runs which the webhook did not see, whether they are sized or not: see added.
	Added []string
}

// Sized is what one container should get.
type Sized struct {
	Name string
	// Sidecar says that it is a native one, an init container that keeps running. Index is its place among its kind.
	Sidecar bool
	Index   int
	// Now is what it asks for, Target what it should: the resources that are sized alone.
	Now, Target vpautil.ContainerResources
	// Unlimited are the resources whose limit is taken away.
	Unlimited []corev1.ResourceName
	// Lower and Upper bound what is close enough.
	Lower, Upper corev1.ResourceList
	// Steps say what made of the recommendation what it is.
	Steps []rightsizing.Adjustment
	// Restarts says that a change of what is to be changed restarts the container.
	Restarts bool
}

// Changed says whether anything is to be changed.
func (s Sizing) Changed() bool { return slices.ContainsFunc(s.Containers, Sized.Changed) }

// Seen is the sizing without the containers that the webhook does not see: what an eviction can change. A pod that comes instead has the others as they
// are.
func (s Sizing) Seen() Sizing {
	if len(s.Added) > 0 {
		s.Containers = slices.DeleteFunc(slices.Clone(s.Containers), func(c Sized) bool { return slices.Contains(s.Added, c.Name) })
	}
	return s
}

// Restarts says whether a container would be restarted by the change.
func (s Sizing) Restarts() bool {
	return slices.ContainsFunc(s.Containers, func(c Sized) bool { return c.Changed() && c.Restarts })
}

// Lowers says whether anything is asked for less than before.
func (s Sizing) Lowers() bool {
	return slices.ContainsFunc(s.Containers, func(c Sized) bool {
		for _, r := range resources() {
			if less(c.Target.Requests, c.Now.Requests, r) || less(c.Target.Limits, c.Now.Limits, r) {
				return true
			}
		}
		return false
	})
}

func less(a, b corev1.ResourceList, r corev1.ResourceName) bool {
	x, is := a[r]
	y, was := b[r]
	return is && was && x.Cmp(y) < 0
}

// Changed says whether anything of the container is to be changed.
func (s Sized) Changed() bool {
	return len(s.Unlimited) > 0 || differs(s.Target.Requests, s.Now.Requests) || differs(s.Target.Limits, s.Now.Limits)
}

func differs(target, now corev1.ResourceList) bool {
	for r, q := range target {
		if is, there := now[r]; !there || is.Cmp(q) != 0 {
			return true
		}
	}
	return false
}

// Creating says whether a pod is about to be created. The API server sets the phase of what it stores.
func Creating(pod *corev1.Pod) bool { return pod.Status.Phase == "" }

// Input is what a sizing is made of.
type Input struct {
	Pod *corev1.Pod
	// Template is what the pod's template has its containers have, by name, with what the namespace adds. Of a new pod, and where it is not known,
	// the pod itself says it.
	Template map[string]corev1.ResourceRequirements
	// Recommended is the recommendation, within the bounds of the autoscaler and of the namespace's LimitRange.
	Recommended *vpav1.RecommendedPodResources
	// Along are containers that nothing is recommended for: what is said of them in Recommended is their share of what the pod has to get more or
	// less for a LimitRange of pods, or what they had before they got less.
	Along    []string
	Policy   *vpav1.PodResourcePolicy
	Settings Settings
	Known    Known
	// Range is the namespace's LimitRange for containers; nil is none.
	Range *corev1.LimitRangeItem
	// Ratio bounds limits in proportion to requests, as the namespace's LimitRanges do.
	Ratio corev1.ResourceList
	// LimitCPU says who in the namespace has every container limit its CPU: such limits are not taken away. Empty is nobody.
	LimitCPU string
	// KeepMemoryLimits says that Kubernetes resizes pods, but does not lower the memory limit of a container while it runs.
	KeepMemoryLimits bool
	// Mode is how it is applied.
	Mode vpav1.UpdateMode
	Now  time.Time
}

// Size says what a pod's containers should get.
func Size(in Input) Sizing {
	s := Sizing{Added: in.added()}
	creating := Creating(in.Pod)
	if in.Pod.Spec.Resources != nil && (len(in.Pod.Spec.Resources.Requests) > 0 || len(in.Pod.Spec.Resources.Limits) > 0) {
		s.Refused = "the pod has resources of its own, which those of its containers have to fit"
		return s
	}
	class := in.Pod.Status.QOSClass
	if class == "" {
		class = QoS(in.Pod)
	}
	each := func(c *corev1.Container, sidecar bool, index int) {
		if sized, is := in.container(c, class, creating); is {
			sized.Sidecar, sized.Index = sidecar, index
			s.Containers = append(s.Containers, sized)
		}
	}
	for i := range in.Pod.Spec.Containers {
		each(&in.Pod.Spec.Containers[i], false, i)
	}
	for i := range in.Pod.Spec.InitContainers {
		if c := &in.Pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			each(c, true, i)
		}
	}
	s.keepClass(in.Pod, class, creating)
	return s
}

// container sizes one, and says whether there is anything to size.
func (in Input) container(c *corev1.Container, class corev1.PodQOSClass, creating bool) (Sized, bool) {
	recommended := vpautil.GetRecommendationForContainer(c.Name, in.Recommended)
	bounds := vpautil.GetContainerResourcePolicy(c.Name, in.Policy)
	if recommended == nil || len(recommended.Target) == 0 || bounds != nil && bounds.Mode != nil && *bounds.Mode == vpav1.ContainerScalingModeOff {
		return Sized{}, false
	}
	s := Sized{
		Name: c.Name, Lower: recommended.LowerBound, Upper: recommended.UpperBound,
		Now: vpautil.ContainerResources{Requests: c.Resources.Requests, Limits: c.Resources.Limits}, Target: vpautil.ContainerResources{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}},
	}
	var java JVM
	if in.Settings.GuardsJVM() {
		java = DetectJVM(c)
	}
	for _, r := range resources() {
		o := &one{
			Input: in, sized: &s, c: c, r: r, bounds: bounds, java: java, request: c.Resources.Requests[r], limit: c.Resources.Limits[r],
			guaranteed: class == corev1.PodQOSGuaranteed, creating: creating, along: slices.Contains(in.Along, c.Name),
		}
		if o.request.IsZero() {
			o.request = o.limit // as Kubernetes has it
		}
		if why := in.yields(r); why != "" {
			if o.back = o.wasSized(); o.back {
				o.want = o.request
				o.step("hpa", in.Template[c.Name].Requests[r], "it has its template's request again: %s", why)
				o.size()
			}
			continue
		}
		want, is := recommended.Target[r]
		if !is || want.Sign() <= 0 {
			continue
		}
		if o.stays(want) {
			continue
		}
		o.want = want
		o.size()
	}
	return s, len(s.Target.Requests) > 0
}

// yields says why a resource is left to somebody else.
func (in Input) yields(r corev1.ResourceName) string {
	if slices.Contains(in.Settings.Yield, string(r)) {
		return "a HorizontalPodAutoscaler scales on it"
	}
	if in.Settings.Aligned(r) {
		return ""
	}
	return in.Known.Yield[r]
}

// one is a resource of a container on its way from what is recommended to what it should get.
type one struct {
	Input

	sized          *Sized
	c              *corev1.Container
	r              corev1.ResourceName
	bounds         *vpav1.ContainerResourcePolicy
	java           JVM
	request, limit resource.Quantity // as they are
	want           resource.Quantity // the request that it should get, so far
	guaranteed     bool
	creating       bool
	// along says that nothing is recommended for its container, which is sized for the others' sake.
	along bool
	// back says that it goes back to what the template says, for it is left to somebody else by now.
	back bool
	// guarded is what Java is given at least, and starting says that it would get less CPU, but starts now.
	guarded  resource.Quantity
	starting bool
}

// step changes what it should get, and says why.
func (o *one) step(rule string, to resource.Quantity, format string, args ...any) {
	if to.Cmp(o.want) != 0 {
		o.want = to
		o.sized.Steps = append(o.sized.Steps, rightsizing.Adjustment{Rule: rule, Why: string(o.r) + ": " + fmt.Sprintf(format, args...), To: to})
	}
}

// wasSized says whether what the container requests of a resource may be of a sizing before, and its template says what it would request without.
// Where that says nothing, or nobody here sized this resource, somebody else gave it what it has.
func (o *one) wasSized() bool {
	request := o.Template[o.c.Name].Requests[o.r]
	return !o.creating && !request.IsZero() && WasSized(o.Pod, o.c.Name, o.r)
}

// size sizes one resource of the container.
func (o *one) size() {
	s, c, r := o.sized, o.c, o.r
	if !o.back {
		o.floor()
		o.guardJava()
		o.oneStep()
	}
	if least, is := o.least(); is && o.want.Cmp(least) < 0 {
		o.step("limitRange", least, "the namespace's LimitRange asks for %s at least", least.String())
	}
	o.wholeCPUs()
	to, limited := resource.Quantity{}, false
	if !o.limit.IsZero() {
		to, limited = o.limitByRule()
	}
	if limited {
		to = o.keepLimit(to)
		if o.KeepMemoryLimits && !o.creating && o.resizes() && r == corev1.ResourceMemory && to.Cmp(o.limit) < 0 && !restarts(c, r) {
			to = o.limit
			if o.guaranteed {
				o.want = to
			}
			s.Steps = append(s.Steps, rightsizing.Adjustment{Rule: "limit", Why: "memory: Kubernetes before 1.34 lowers no memory limit of a container while it runs, unless its resizePolicy restarts it; new pods get it", To: o.want})
		}
	}
	if most, is := o.most(); is && o.want.Cmp(most) > 0 {
		o.step("limitRange", most, "the namespace's LimitRange allows %s at most", most.String())
	}
	moved := false
	if limited {
		if most, is := o.most(); is && to.Cmp(most) > 0 {
			to = most
		}
		o.guardShare(to)
		if o.guaranteed {
			o.step("class", to, "request and limit stay equal, so that the class of service stays Guaranteed")
		}
		if most, is := o.Ratio[r]; is {
			// A limit that is kept, or rounded up, is more in proportion to a request that is lowered.
			if least := smaller(to, ratio(r, to, big.NewInt(1000), big.NewInt(most.MilliValue()))); o.want.Cmp(least) < 0 {
				o.step("limitRange", least, "the namespace's LimitRange allows a limit, here %s, of at most %s times the request", to.String(), most.String())
			}
		}
		s.Target.Limits[r] = to
		moved = to.Cmp(o.limit) != 0
	}
	s.Target.Requests[r] = o.want
	moved = moved || o.want.Cmp(c.Resources.Requests[r]) != 0
	s.Restarts = s.Restarts || moved && restarts(c, r)
}

// floor keeps the request from going below the floor, unless somebody allows less by name.
func (o *one) floor() {
	floor, is := o.Settings.Floors[o.r]
	if !is || o.want.Cmp(floor) >= 0 {
		return
	}
	floor = o.allowed(floor)
	if o.along {
		floor = smaller(floor, o.request)
	}
	o.step("floor", larger(o.want, floor), "it never goes below the floor of %s", floor.String())
}

// allowed is as much of a quantity as the autoscaler's bounds allow.
func (o *one) allowed(q resource.Quantity) resource.Quantity {
	if o.bounds != nil {
		if most, bounded := o.bounds.MaxAllowed[o.r]; bounded && !most.IsZero() {
			return smaller(q, most)
		}
	}
	return q
}

// guardJava keeps memory above what the heap needs, and CPU while Java starts. It raises nothing. What a heap needs that is a share of the limit is
// known once the limit is.
func (o *one) guardJava() {
	switch {
	case !o.java.Is:
		return
	case o.r == corev1.ResourceMemory:
		if !o.java.OfLimit || o.limit.IsZero() {
			o.guardHeap(resource.Quantity{})
		}
		return
	case o.isStarting():
		o.guarded = o.request
	}
	if o.want.Cmp(o.guarded) >= 0 {
		return
	}
	o.starting = true
	o.step("jvm", o.guarded, "Java starts, and is not given less CPU within its first %s", Startup)
}

// guardShare keeps memory above what a heap needs that is a share of the limit, by the limit that its container gets: Java goes by that one from its
// next start on. It is no less than the one before, see keepLimit, by which Java that runs goes.
func (o *one) guardShare(limit resource.Quantity) {
	if o.r == corev1.ResourceMemory && o.java.OfLimit && !o.back {
		o.guardHeap(limit)
	}
}

func (o *one) guardHeap(limit resource.Quantity) {
	needs := o.java.Needs(limit)
	o.guarded = o.allowed(smaller(o.request, needs))
	if !limit.IsZero() {
		o.guarded = smaller(o.guarded, limit) // a LimitRange may have it be less than what is requested now
	}
	if o.want.Cmp(o.guarded) >= 0 {
		return
	}
	heap, share := resource.NewQuantity(o.java.heapOf(limit.Value()), resource.BinarySI), ""
	if !limit.IsZero() {
		share = fmt.Sprintf(" by its limit of %s", limit.String())
	}
	o.step("jvm", o.guarded, "Java's heap is up to %s%s, and needs %s with what is around it", heap, share, needs.String())
}

// oneStep goes one step at a time, from what the pod has, or from what its workload's pods have.
func (o *one) oneStep() {
	from := o.request
	if sized, is := o.Known.Sized[o.c.Name][o.r]; is && o.creating {
		from = sized
	}
	if from.IsZero() {
		return
	}
	if up := o.Settings.MaxStep.Up; up > 0 && o.want.Cmp(from) > 0 {
		most := percentOf(o.r, from, 100+int64(up))
		if held, is := o.Known.Held[o.c.Name]; is && o.r == corev1.ResourceMemory {
			most = larger(most, held) // with less it would run out of it once more
		}
		most = larger(most, o.guarded) // a new pod comes with its template's, which may be many steps from what the others have
		o.step("step", smaller(o.want, most), "at most %d%% more than %s at once", up, from.String())
	}
	if down := o.Settings.MaxStep.Down; down > 0 && o.want.Cmp(from) < 0 {
		o.step("step", larger(o.want, percentOf(o.r, from, 100-int64(down))), "at most %d%% less than %s at once", down, from.String())
	}
}

// wholeCPUs keeps what is whole whole, where it may have CPUs of its own.
func (o *one) wholeCPUs() {
	if !o.Settings.WholeCPUs || !o.guaranteed || o.r != corev1.ResourceCPU || o.request.MilliValue()%1000 != 0 {
		return
	}
	if to := o.want.DeepCopy(); !to.RoundUp(resource.Scale(0)) {
		o.step("wholeCPUs", to, "whole CPUs alone are exclusive to a container of a Guaranteed pod")
	}
}

func (o *one) least() (resource.Quantity, bool) {
	if o.Range == nil {
		return resource.Quantity{}, false
	}
	q, is := o.Range.Min[o.r]
	return q, is
}

func (o *one) most() (resource.Quantity, bool) {
	if o.Range == nil {
		return resource.Quantity{}, false
	}
	q, is := o.Range.Max[o.r]
	return q, is && !q.IsZero()
}

// rule is what becomes of the limit. One that only goes along keeps its proportion, or its limit: what else a policy makes of limits is of those that
// something is recommended for.
func (o *one) rule() rightsizing.LimitRule {
	rule := o.Settings.Rule(o.r)
	if o.bounds != nil && o.bounds.ControlledValues != nil && *o.bounds.ControlledValues == vpav1.ContainerControlledValuesRequestsOnly {
		rule.Mode = rightsizing.LimitsKeep
	}
	if o.along && rule.Mode != rightsizing.LimitsKeep {
		rule.Mode = rightsizing.LimitsRatio
	}
	return rule
}

// stays says that a container that only goes along is left as it is.
func (o *one) stays(want resource.Quantity) bool {
	_, made := o.Template[o.c.Name]
	switch {
	case !o.along:
		return false
	case !o.creating && !made:
		return true // its share is of what it was made with: of what it got since, the next look would ask for another one
	}
	// It is limits that a maximum is about; where none is lowered, less would help nobody.
	return want.Cmp(o.request) < 0 && (o.limit.IsZero() || o.rule().Mode == rightsizing.LimitsKeep)
}

// limitByRule is what becomes of the limit; false is that it is taken away.
func (o *one) limitByRule() (resource.Quantity, bool) {
	if o.back {
		if q := o.Template[o.c.Name].Limits[o.r]; !q.IsZero() {
			return q, true
		}
		return o.limit, true
	}
	rule := o.rule()
	switch {
	case rule.Mode == rightsizing.LimitsKeep:
		if o.guaranteed {
			o.step("limit", o.limit, "the limit of %s is kept, and equals the request in this class of service", o.limit.String())
		} else if o.want.Cmp(o.limit) > 0 {
			o.step("limit", o.limit, "the limit of %s is kept", o.limit.String())
		}
		return o.limit, true
	case o.guaranteed:
		return o.want, true
	case rule.Mode == rightsizing.LimitsHeadroom:
		return percentOf(o.r, o.want, 100+int64(rule.Headroom)), true
	case rule.Mode == rightsizing.LimitsNone && o.LimitCPU != "":
		o.sized.Steps = append(o.sized.Steps, rightsizing.Adjustment{Rule: "limit", Why: "cpu: its limit is not taken away, and keeps its proportion: " + o.LimitCPU, To: o.want})
	case rule.Mode == rightsizing.LimitsNone && o.creating:
		o.sized.Unlimited = append(o.sized.Unlimited, o.r)
		return resource.Quantity{}, false
	case rule.Mode == rightsizing.LimitsNone:
		// A limit cannot be taken from a pod that runs, only be moved out of the way.
		return larger(o.limit, o.want), true
	}
	limit, request := o.limit, o.request
	if t, is := o.Template[o.c.Name]; is {
		// What the pod has may be another proportion: a limit that was kept while its request was lowered, or was cut off.
		if q := t.Limits[o.r]; !q.IsZero() {
			limit, request = q, t.Requests[o.r]
		}
	}
	return scaled(o.r, limit, request, o.want), true
}

// keepLimit keeps a limit from going below the request, the memory that was used, and what Java counts on.
func (o *one) keepLimit(to resource.Quantity) resource.Quantity {
	to = larger(to, o.want)
	if to.Cmp(o.limit) >= 0 {
		return to
	}
	if o.starting {
		return o.limit
	}
	if o.r != corev1.ResourceMemory {
		return to
	}
	if o.java.OfLimit {
		return o.limit // the heap is a share of it
	}
	if peak, is := o.Known.Peaks[o.c.Name]; is {
		to = larger(to, smaller(o.limit, percentOf(o.r, peak, 100+UsageMargin)))
	}
	return larger(to, smaller(o.limit, o.java.Needs(o.limit)))
}

// restarts says whether a change of the resource restarts the container.
func restarts(c *corev1.Container, r corev1.ResourceName) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
		return p.ResourceName == r && p.RestartPolicy == corev1.RestartContainer
	})
}

// resizes says whether pods are changed while they run. Otherwise others come instead, to which a limit may be lowered.
func (o *one) resizes() bool {
	return o.Mode == vpav1.UpdateModeInPlace || o.Mode == vpav1.UpdateModeInPlaceOrRecreate
}

// isStarting says whether the container starts: it is about to be created and can be resized afterwards, or runs for a short time only.
func (o *one) isStarting() bool {
	if o.creating {
		return o.resizes()
	}
	for _, list := range [][]corev1.ContainerStatus{o.Pod.Status.ContainerStatuses, o.Pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name != o.c.Name {
				continue
			}
			running := list[i].State.Running
			return running == nil || o.Now.Sub(running.StartedAt.Time) < Startup
		}
	}
	return true // nothing is known of it yet
}

// keepClass sees to it that the pod's class of service stays: Kubernetes does not let it change, and what is evicted first depends on it.
func (s *Sizing) keepClass(pod *corev1.Pod, class corev1.PodQOSClass, creating bool) {
	if !s.Changed() {
		return
	}
	after := QoS(s.apply(pod))
	if class == corev1.PodQOSBurstable && after == corev1.PodQOSGuaranteed {
		// Requests and limits have met in every container: one of them steps back by the least there is.
		for i := range s.Containers {
			if c := &s.Containers[i]; c.stepBack() {
				after = QoS(s.apply(pod))
				break
			}
		}
	}
	if after == class || class == corev1.PodQOSBestEffort && creating {
		return
	}
	if creating {
		s.Containers = nil // cannot be: Burstable steps back, and Guaranteed is kept container by container
	}
	s.Refused = fmt.Sprintf("its class of service would become %s instead of %s, which Kubernetes does not allow while it runs", after, class)
}

// stepBack lowers a request that equals its limit by the least there is.
func (s *Sized) stepBack() bool {
	for _, r := range resources() {
		request, is := s.Target.Requests[r]
		limit, limited := s.Target.Limits[r]
		if !is || !limited || request.Cmp(limit) != 0 {
			continue
		}
		least := resource.NewMilliQuantity(1, resource.DecimalSI)
		if r == corev1.ResourceMemory {
			least = resource.NewQuantity(1, resource.BinarySI)
		}
		if request.Cmp(*least) <= 0 {
			continue
		}
		request = request.DeepCopy()
		request.Sub(*least)
		s.Target.Requests[r] = request
		s.Steps = append(s.Steps, rightsizing.Adjustment{Rule: "class", Why: string(r) + ": a request below its limit keeps the class of service Burstable", To: request})
		return true
	}
	return false
}

// apply is the pod as it would be.
func (s Sizing) apply(pod *corev1.Pod) *corev1.Pod {
	to := &corev1.Pod{Spec: corev1.PodSpec{Containers: slices.Clone(pod.Spec.Containers), InitContainers: slices.Clone(pod.Spec.InitContainers), Overhead: pod.Spec.Overhead}}
	for _, c := range s.Containers {
		list := to.Spec.Containers
		if c.Sidecar {
			list = to.Spec.InitContainers
		}
		list[c.Index].Resources = c.resources(list[c.Index].Resources)
	}
	return to
}

// resources are those of the container as they would be.
func (s Sized) resources(is corev1.ResourceRequirements) corev1.ResourceRequirements {
	to := *is.DeepCopy()
	if to.Requests == nil {
		to.Requests = corev1.ResourceList{}
	}
	if to.Limits == nil && len(s.Target.Limits) > 0 {
		to.Limits = corev1.ResourceList{}
	}
	for r, q := range s.Target.Requests {
		to.Requests[r] = q
	}
	for r, q := range s.Target.Limits {
		to.Limits[r] = q
	}
	for _, r := range s.Unlimited {
		delete(to.Limits, r)
	}
	return to
}

func larger(a, b resource.Quantity) resource.Quantity {
	if a.Cmp(b) < 0 {
		return b
	}
	return a
}

func smaller(a, b resource.Quantity) resource.Quantity {
	if a.Cmp(b) > 0 {
		return b
	}
	return a
}

// percentOf is a share of a quantity, rounded up: a thousandth of a core, or a byte.
func percentOf(r corev1.ResourceName, q resource.Quantity, percent int64) resource.Quantity {
	return ratio(r, q, big.NewInt(percent), big.NewInt(100))
}

// scaled is a limit in the proportion to the new request that it had to the one before, rounded down: what upstream's processor shares out of a
// LimitRange's maximum for pods is all there is.
func scaled(r corev1.ResourceName, limit, before, after resource.Quantity) resource.Quantity {
	if before.IsZero() || limit.Cmp(before) == 0 {
		return after
	}
	return amount(r, new(big.Int).Div(new(big.Int).Mul(units(r, limit), units(r, after)), units(r, before)))
}

func units(r corev1.ResourceName, q resource.Quantity) *big.Int {
	if r == corev1.ResourceCPU {
		return big.NewInt(q.MilliValue())
	}
	return big.NewInt(q.Value())
}

func ratio(r corev1.ResourceName, q resource.Quantity, by, of *big.Int) resource.Quantity {
	n := new(big.Int).Mul(units(r, q), by)
	return amount(r, n.Add(n, new(big.Int).Sub(of, big.NewInt(1))).Div(n, of))
}

// amount is a quantity of so many units.
func amount(r corev1.ResourceName, n *big.Int) resource.Quantity {
	most := int64(1) << 62
	v := most
	if n.IsInt64() && n.Int64() < most {
		v = n.Int64()
	}
	if r == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(v, resource.DecimalSI)
	}
	return *resource.NewQuantity(v, resource.BinarySI)
}
