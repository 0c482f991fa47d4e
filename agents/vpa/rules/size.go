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
func (c Sized) Changed() bool {
	return len(c.Unlimited) > 0 || differs(c.Target.Requests, c.Now.Requests) || differs(c.Target.Limits, c.Now.Limits)
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
	// Recommended is the recommendation, within the bounds of the autoscaler and of the namespace's LimitRange.
	Recommended *vpav1.RecommendedPodResources
	Policy      *vpav1.PodResourcePolicy
	Settings    Settings
	Known       Known
	// Range is the namespace's LimitRange for containers; nil is none.
	Range *corev1.LimitRangeItem
	// Mode is how it is applied.
	Mode vpav1.UpdateMode
	Now  time.Time
}

// Size says what a pod's containers should get.
func Size(in Input) Sizing {
	var s Sizing
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
		if one, is := in.container(c, class, creating); is {
			one.Sidecar, one.Index = sidecar, index
			s.Containers = append(s.Containers, one)
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
		want, is := recommended.Target[r]
		if !is || want.Sign() <= 0 {
			continue
		}
		if why := in.yields(r); why != "" {
			continue
		}
		s.size(in, c, r, want, bounds, java, class, creating)
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

// size sizes one resource of the container.
func (s *Sized) size(in Input, c *corev1.Container, r corev1.ResourceName, want resource.Quantity, bounds *vpav1.ContainerResourcePolicy, java JVM, class corev1.PodQOSClass, creating bool) {
	request, limit := c.Resources.Requests[r], c.Resources.Limits[r]
	if request.IsZero() {
		request = limit // as Kubernetes has it
	}
	step := func(rule string, to resource.Quantity, format string, args ...any) {
		if to.Cmp(want) != 0 {
			want = to
			s.Steps = append(s.Steps, rightsizing.Adjustment{Rule: rule, Why: string(r) + ": " + fmt.Sprintf(format, args...), To: to})
		}
	}
	// The floor, unless somebody allows less by name.
	if floor, is := in.Settings.Floors[r]; is && want.Cmp(floor) < 0 {
		if bounds != nil {
			if most, bounded := bounds.MaxAllowed[r]; bounded && !most.IsZero() && most.Cmp(floor) < 0 {
				floor = most
			}
		}
		step("floor", larger(want, floor), "it never goes below the floor of %s", floor.String())
	}
	starting := java.Is && r == corev1.ResourceCPU && !request.IsZero() && want.Cmp(request) < 0 && in.starting(c.Name, creating)
	if starting {
		step("jvm", request, "Java starts, and is not given less CPU within its first %s", Startup)
	}
	if needs := java.Needs(); r == corev1.ResourceMemory && !needs.IsZero() && want.Cmp(needs) < 0 && request.Cmp(want) > 0 {
		step("jvm", smaller(request, needs), "Java's heap is up to %s, and needs %s with what is around it", resource.NewQuantity(java.Heap, resource.BinarySI), needs.String())
	}
	// One step at a time, from what the pod has, or from what its workload's pods have.
	from := request
	if sized, is := in.Known.Sized[c.Name][r]; is && creating {
		from = sized
	}
	if !from.IsZero() {
		if up := in.Settings.MaxStep.Up; up > 0 && want.Cmp(from) > 0 {
			step("step", smaller(want, percentOf(r, from, 100+int64(up))), "at most %d%% more than %s at once", up, from.String())
		}
		if down := in.Settings.MaxStep.Down; down > 0 && want.Cmp(from) < 0 {
			step("step", larger(want, percentOf(r, from, 100-int64(down))), "at most %d%% less than %s at once", down, from.String())
		}
	}
	if in.Range != nil {
		if least, is := in.Range.Min[r]; is && want.Cmp(least) < 0 {
			step("limitRange", least, "the namespace's LimitRange asks for %s at least", least.String())
		}
	}
	if limit.IsZero() {
		if in.Range != nil {
			if most, is := in.Range.Max[r]; is && !most.IsZero() && want.Cmp(most) > 0 {
				step("limitRange", most, "the namespace's LimitRange allows %s at most", most.String())
			}
		}
		s.Target.Requests[r] = want
		s.Restarts = s.Restarts || restarts(c, r) && want.Cmp(c.Resources.Requests[r]) != 0
		return
	}

	rule := in.Settings.Rule(r)
	if bounds != nil && bounds.ControlledValues != nil && *bounds.ControlledValues == vpav1.ContainerControlledValuesRequestsOnly {
		rule.Mode = rightsizing.LimitsKeep
	}
	guaranteed := class == corev1.PodQOSGuaranteed
	to := limit
	switch {
	case guaranteed && rule.Mode == rightsizing.LimitsKeep:
		step("limit", limit, "the limit of %s is kept, and equals the request in this class of service", limit.String())
	case guaranteed:
		to = want
	case rule.Mode == rightsizing.LimitsHeadroom:
		to = percentOf(r, want, 100+int64(rule.Headroom))
	case rule.Mode == rightsizing.LimitsKeep:
		if want.Cmp(limit) > 0 {
			step("limit", limit, "the limit of %s is kept", limit.String())
		}
	case rule.Mode == rightsizing.LimitsNone && creating:
		s.Unlimited = append(s.Unlimited, r)
		s.Target.Requests[r] = want
		return
	case rule.Mode == rightsizing.LimitsNone:
		// A limit cannot be taken from a pod that runs, only be moved out of the way.
		to = larger(limit, want)
	default:
		to = scaled(r, limit, request, want)
	}
	if to.Cmp(want) < 0 {
		to = want
	}
	lowered := to.Cmp(limit) < 0
	if r == corev1.ResourceMemory && lowered {
		if peak, is := in.Known.Peaks[c.Name]; is {
			to = larger(to, smaller(limit, percentOf(r, peak, 100+UsageMargin)))
		}
		if needs := java.Needs(); !needs.IsZero() {
			to = larger(to, smaller(limit, needs))
		}
		if java.OfLimit {
			to = limit // the heap is a share of it
		}
	}
	if starting && lowered {
		to = limit
	}
	if in.Range != nil {
		if most, is := in.Range.Max[r]; is && !most.IsZero() && to.Cmp(most) > 0 {
			to = most
			if want.Cmp(most) > 0 {
				step("limitRange", most, "the namespace's LimitRange allows %s at most", most.String())
			}
		}
	}
	if guaranteed && want.Cmp(to) != 0 {
		step("class", to, "request and limit stay equal, so that the class of service stays Guaranteed")
	}
	s.Target.Requests[r], s.Target.Limits[r] = want, to
	s.Restarts = s.Restarts || restarts(c, r) && (want.Cmp(c.Resources.Requests[r]) != 0 || to.Cmp(limit) != 0)
}

// restarts says whether a change of the resource restarts the container.
func restarts(c *corev1.Container, r corev1.ResourceName) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
		return p.ResourceName == r && p.RestartPolicy == corev1.RestartContainer
	})
}

// starting says whether the container starts: it is about to be created and can be resized afterwards, or runs for a short time only.
func (in Input) starting(name string, creating bool) bool {
	if creating {
		return in.Mode == vpav1.UpdateModeInPlace || in.Mode == vpav1.UpdateModeInPlaceOrRecreate
	}
	for _, list := range [][]corev1.ContainerStatus{in.Pod.Status.ContainerStatuses, in.Pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name != name {
				continue
			}
			running := list[i].State.Running
			return running == nil || in.Now.Sub(running.StartedAt.Time) < Startup
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
func (c *Sized) stepBack() bool {
	for _, r := range resources() {
		request, is := c.Target.Requests[r]
		limit, limited := c.Target.Limits[r]
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
		c.Target.Requests[r] = request
		c.Steps = append(c.Steps, rightsizing.Adjustment{Rule: "class", Why: string(r) + ": a request below its limit keeps the class of service Burstable", To: request})
		return true
	}
	return false
}

// apply is the pod as it would be.
func (s Sizing) apply(pod *corev1.Pod) *corev1.Pod {
	to := &corev1.Pod{Spec: corev1.PodSpec{Containers: slices.Clone(pod.Spec.Containers), InitContainers: slices.Clone(pod.Spec.InitContainers)}}
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
func (c Sized) resources(is corev1.ResourceRequirements) corev1.ResourceRequirements {
	to := *is.DeepCopy()
	if to.Requests == nil {
		to.Requests = corev1.ResourceList{}
	}
	if to.Limits == nil && len(c.Target.Limits) > 0 {
		to.Limits = corev1.ResourceList{}
	}
	for r, q := range c.Target.Requests {
		to.Requests[r] = q
	}
	for r, q := range c.Target.Limits {
		to.Limits[r] = q
	}
	for _, r := range c.Unlimited {
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

// scaled is a limit in the proportion to the new request that it had to the one before.
func scaled(r corev1.ResourceName, limit, before, after resource.Quantity) resource.Quantity {
	if before.IsZero() || limit.Cmp(before) == 0 {
		return after
	}
	return ratio(r, limit, units(r, after), units(r, before))
}

func units(r corev1.ResourceName, q resource.Quantity) *big.Int {
	if r == corev1.ResourceCPU {
		return big.NewInt(q.MilliValue())
	}
	return big.NewInt(q.Value())
}

func ratio(r corev1.ResourceName, q resource.Quantity, by, of *big.Int) resource.Quantity {
	n := new(big.Int).Mul(units(r, q), by)
	n.Add(n, new(big.Int).Sub(of, big.NewInt(1))).Div(n, of)
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
