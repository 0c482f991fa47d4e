package rules

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourceadmission "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/recommendation"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/inplace"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/limitrange"
	resourcehelpers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/resources"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Options of a Provider.
type Options struct {
	// LimitRanges of namespaces; nil means none.
	LimitRanges limitrange.LimitRangeCalculator
	// Ranges are the LimitRanges of a namespace as they are, and Quotas its ResourceQuotas; nil means none.
	Ranges func(namespace string) []*corev1.LimitRange
	Quotas func(namespace string) []*corev1.ResourceQuota
	// Template is what a pod that runs is made from, nil where it is not known; nil means that it never is.
	Template func(*corev1.Pod) *corev1.PodSpec
	// Older says that a pod was made from an older template than that; nil means that none was.
	Older func(*corev1.Pod) bool
	// KeepMemoryLimits says that this Kubernetes resizes pods, but does not lower the memory limit of a container while it runs; nil means that it does not, or
	// lowers them.
	KeepMemoryLimits func() bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Known is what is known of an autoscaler's workload besides its recommendation; nil means nothing.
	Known func(*vpav1.VerticalPodAutoscaler) Known
}

// Known is what is known of a workload besides its recommendation.
type Known struct {
	// Watched is since when; zero means since the autoscaler was made. Changed says that its pods were changed before.
	Watched time.Time
	Changed bool
	// Peaks of the containers' memory, by name.
	Peaks map[string]resource.Quantity
	// Sized are the requests of containers whose pods were sized before, by name: what one step is measured from when a new pod comes with
	// its template's. Without them the pod's own requests are.
	Sized map[string]corev1.ResourceList
	// Held is the memory of containers that they have at least since they ran out of it, by name: no step keeps them from it.
	Held map[string]resource.Quantity
	// Yield says why a resource is left to somebody else, besides those of the settings.
	Yield map[corev1.ResourceName]string
}

// Provider sizes pods: what is recommended, by the settings in force.
type Provider struct {
	limitRanges limitrange.LimitRangeCalculator
	capping     vpautil.RecommendationProcessor
	ranges      func(namespace string) []*corev1.LimitRange
	quotas      func(namespace string) []*corev1.ResourceQuota
	template    func(*corev1.Pod) *corev1.PodSpec
	older       func(*corev1.Pod) bool
	keeps       func() bool
	now         func() time.Time
	known       func(*vpav1.VerticalPodAutoscaler) Known
}

// NewProvider makes one.
func NewProvider(o Options) *Provider {
	p := &Provider{limitRanges: o.LimitRanges, ranges: o.Ranges, quotas: o.Quotas, template: o.Template, older: o.Older, keeps: o.KeepMemoryLimits, now: o.Now, known: o.Known}
	if p.limitRanges == nil {
		p.limitRanges = limitrange.NewNoopLimitsCalculator()
	}
	if p.keeps == nil {
		p.keeps = func() bool { return false }
	}
	if p.template == nil {
		p.template = func(*corev1.Pod) *corev1.PodSpec { return nil }
	}
	if p.older == nil {
		p.older = func(*corev1.Pod) bool { return false }
	}
	if p.ranges == nil {
		p.ranges = func(string) []*corev1.LimitRange { return nil }
	}
	if p.quotas == nil {
		p.quotas = func(string) []*corev1.ResourceQuota { return nil }
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.known == nil {
		p.known = func(*vpav1.VerticalPodAutoscaler) Known { return Known{} }
	}
	p.capping = vpautil.NewCappingRecommendationProcessor(p.limitRanges)
	return p
}

// Size says what a pod's containers should get. It does not ask whether they may.
func (p *Provider) Size(pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler) (Sizing, error) {
	settings, err := Effective(vpa)
	if err != nil {
		return Sizing{}, err
	}
	return p.SizeBy(pod, vpa, settings)
}

// SizeBy is Size by settings that were read already: to read them takes as long as the rest. What panics is an error of this pod: whoever sizes
// many goes on with the others.
func (p *Provider) SizeBy(pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler, settings Settings) (s Sizing, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = Sizing{}, fmt.Errorf("sizing %s/%s: panic at %s: %v", pod.Namespace, pod.Name, panickedAt(), r)
		}
	}()
	if vpa.Status.Recommendation == nil {
		return Sizing{}, nil
	}
	// Upstream's processor knows the bounds of the autoscaler and the LimitRange, of containers and of pods. It looks at containers alone:
	// native sidecars are shown to it as such, without their limits' share of the pod's bounds being lost.
	ranges, quotas := p.ranges(pod.Namespace), p.quotas(pod.Namespace)
	template := p.said(pod, ranges)
	recommended, along, err := p.bounded(vpa, asContainers(pod), template)
	if err != nil {
		return Sizing{}, fmt.Errorf("bounding what is recommended for %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	item, err := p.limitRanges.GetContainerLimitRangeItem(pod.Namespace)
	if err != nil {
		return Sizing{}, fmt.Errorf("reading the LimitRange of %s: %w", pod.Namespace, err)
	}
	in := Input{
		Pod: pod, Template: template, Recommended: recommended, Along: along, Policy: vpa.Spec.ResourcePolicy, Settings: settings, Known: p.known(vpa), Range: item,
		Mode: vpautil.GetUpdateMode(vpa), Now: p.now(), KeepMemoryLimits: p.keeps(), Ratio: proportions(ranges),
	}
	if settings.Rule(corev1.ResourceCPU).Mode == rightsizing.LimitsNone {
		in.LimitCPU = needsLimit(ranges, quotas, pod, corev1.ResourceCPU)
	}
	s = Size(in)
	creating := Creating(pod)
	if s.Quota = cmp.Or(overQuota(quotas, pod, s, creating), outOfRange(ranges, pod, s)); s.Quota != "" && creating {
		s.Containers = nil
	}
	return s, nil
}

// panickedAt is where the panic began that is being recovered from.
func panickedAt() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if !more || !strings.HasPrefix(f.Function, "runtime.") && !strings.HasPrefix(f.Function, "internal/runtime/") {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
	}
}

// bounded is what upstream's processor makes of a recommendation: the bounds of the autoscaler, and of LimitRanges. Where one of these bounds pods,
// it writes into the target and into both bounds of every container, also where there is none to write into: it is given them all, of a container
// that nothing is recommended for what this one requests, without the autoscaler's bounds, and without what it got for a LimitRange before, else each
// look would share out what the one before did. Of such a container, which goes along, is left what it has to get other than that for the pod to be
// within the LimitRange, and what it lost for one that asks for it no longer; what else is made up is taken out again.
func (p *Provider) bounded(vpa *vpav1.VerticalPodAutoscaler, pod *corev1.Pod, template map[string]corev1.ResourceRequirements) (answer *vpav1.RecommendedPodResources, along []string, err error) {
	item, err := p.limitRanges.GetPodLimitRangeItem(pod.Namespace)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // the caller says what it is about
	}
	made := asMade(pod, template)
	recommended := vpa.Status.Recommendation.ContainerRecommendations
	given := slices.Grow(slices.Clone(recommended), len(pod.Spec.Containers))
	var unbounded []vpav1.ContainerResourcePolicy
	back := map[string]corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if slices.ContainsFunc(recommended, func(r vpav1.RecommendedContainerResources) bool { return r.ContainerName == c.Name }) {
			continue
		}
		requests, _ := resourcehelpers.ContainerRequestsAndLimits(c.Name, made)
		was := before(pod, c, template)
		if item == nil && p.older(pod) {
			was = nil // it is not what this pod was made with; where something has to be shared out it is what is known
		}
		maps.Copy(requests, was)
		given = append(given, vpav1.RecommendedContainerResources{ContainerName: c.Name, Target: requests, LowerBound: requests, UpperBound: requests})
		along, unbounded = append(along, c.Name), append(unbounded, vpav1.ContainerResourcePolicy{ContainerName: c.Name})
		maps.DeleteFunc(was, func(r corev1.ResourceName, _ resource.Quantity) bool { return !less(c.Resources.Requests, was, r) })
		back[c.Name] = was
	}
	if item == nil {
		if answer, _, err = p.capping.Apply(vpa, made); err != nil {
			return nil, nil, err //nolint:wrapcheck // likewise
		}
		for _, name := range along {
			answer.ContainerRecommendations = append(answer.ContainerRecommendations, vpav1.RecommendedContainerResources{ContainerName: name, Target: back[name]})
		}
		return answer, along, nil
	}
	filled := slices.Clone(given)
	for i := range filled {
		for _, list := range []*corev1.ResourceList{&filled[i].Target, &filled[i].LowerBound, &filled[i].UpperBound} {
			if *list == nil {
				*list = corev1.ResourceList{}
			}
		}
	}
	to := *vpa
	to.Status.Recommendation = &vpav1.RecommendedPodResources{ContainerRecommendations: filled}
	if bounds := vpa.Spec.ResourcePolicy; bounds != nil {
		to.Spec.ResourcePolicy = &vpav1.PodResourcePolicy{ContainerPolicies: append(unbounded, bounds.ContainerPolicies...)} // the first by name holds
	}
	if answer, _, err = p.capping.Apply(&to, made); err != nil {
		return nil, nil, err //nolint:wrapcheck // likewise
	}
	for i := range answer.ContainerRecommendations {
		a := &answer.ContainerRecommendations[i]
		at := slices.IndexFunc(given, func(r vpav1.RecommendedContainerResources) bool { return r.ContainerName == a.ContainerName })
		a.Target, a.LowerBound, a.UpperBound = only(a.Target, given[at].Target), only(a.LowerBound, given[at].LowerBound), only(a.UpperBound, given[at].UpperBound)
		if at >= len(recommended) {
			maps.DeleteFunc(a.Target, func(r corev1.ResourceName, q resource.Quantity) bool {
				_, lost := back[a.ContainerName][r]
				return q.Cmp(given[at].Target[r]) == 0 && !lost
			})
			a.LowerBound, a.UpperBound = nil, nil // nobody said what is close enough
		}
	}
	return answer, along, nil
}

// before is what a container's template requests where the container requests something else that may be of a sizing.
func before(pod *corev1.Pod, c *corev1.Container, template map[string]corev1.ResourceRequirements) corev1.ResourceList {
	var list corev1.ResourceList
	for r, is := range c.Resources.Requests {
		if was := template[c.Name].Requests[r]; !was.IsZero() && was.Cmp(is) != 0 && Gave(pod, c.Name, "requests", r) {
			if list == nil {
				list = corev1.ResourceList{}
			}
			list[r] = was
		}
	}
	return list
}

// only is a list without the resources that another one does not have.
func only(list, of corev1.ResourceList) corev1.ResourceList {
	maps.DeleteFunc(list, func(r corev1.ResourceName, _ resource.Quantity) bool { _, is := of[r]; return !is })
	return list
}

// asContainers is the pod with its native sidecars among its containers.
func asContainers(pod *corev1.Pod) *corev1.Pod {
	sidecars := 0
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			sidecars++
		}
	}
	if sidecars == 0 {
		return pod
	}
	to := *pod
	to.Spec.Containers = append(make([]corev1.Container, 0, len(pod.Spec.Containers)+sidecars), pod.Spec.Containers...)
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			to.Spec.Containers = append(to.Spec.Containers, *c)
		}
	}
	to.Status.ContainerStatuses = append(append([]corev1.ContainerStatus{}, pod.Status.ContainerStatuses...), pod.Status.InitContainerStatuses...)
	return &to
}

// said is what the template of a pod that runs says of its containers.
func (p *Provider) said(pod *corev1.Pod, ranges []*corev1.LimitRange) map[string]corev1.ResourceRequirements {
	if Creating(pod) {
		return nil
	}
	template := p.template(pod)
	if template == nil {
		return nil
	}
	fill, said := defaults(ranges), map[string]corev1.ResourceRequirements{}
	for _, list := range [][]corev1.Container{template.Containers, template.InitContainers} {
		for i := range list {
			said[list[i].Name] = fill(list[i].Resources)
		}
	}
	return said
}

// asMade is the pod with the resources that its containers were made with, as far as they are known: upstream's processor reckons with the
// proportion of limits to requests.
func asMade(pod *corev1.Pod, template map[string]corev1.ResourceRequirements) *corev1.Pod {
	if len(template) == 0 {
		return pod
	}
	to := *pod
	to.Spec.Containers = slices.Clone(pod.Spec.Containers)
	to.Status.ContainerStatuses = slices.DeleteFunc(slices.Clone(pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool { _, is := template[s.Name]; return is })
	for i := range to.Spec.Containers {
		c := &to.Spec.Containers[i]
		said, is := template[c.Name]
		if !is {
			continue
		}
		made := *c.Resources.DeepCopy()
		for _, r := range resources() {
			if limit, has := said.Limits[r], c.Resources.Limits[r]; limit.IsZero() || has.IsZero() {
				continue // nobody knows what gave it its limit, or took it
			}
			if made.Requests == nil {
				made.Requests = corev1.ResourceList{}
			}
			made.Limits[r], made.Requests[r] = said.Limits[r], said.Requests[r]
		}
		c.Resources = made
	}
	return &to
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// sized is what is written: nothing for what is held or refused.
func (p *Provider) sized(pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler) (Sizing, error) {
	settings, err := Effective(vpa)
	if Held(vpa, settings, err, p.known(vpa), p.now()).Is() {
		return Sizing{}, nil
	}
	s, err := p.SizeBy(pod, vpa, settings)
	if err != nil || s.Quota != "" || s.Refused != "" && !Creating(pod) {
		return Sizing{}, err
	}
	return s, nil
}

// Calculators make the patches of a pod: target patch.Pod when it is created, patch.Resize when it runs.
func (p *Provider) Calculators(target patch.PatchResourceTarget) []patch.Calculator {
	if target == patch.Pod {
		return []patch.Calculator{calculator{p, target}}
	}
	return []patch.Calculator{calculator{p, target}, inplace.NewInPlaceUpdatedCalculator()}
}

// calculator sizes a pod once, and writes that down as upstream's does for the containers, and itself for what upstream's does not know: native
// sidecars, and limits that are taken away.
type calculator struct {
	*Provider
	target patch.PatchResourceTarget
}

// PatchResourceTarget implements patch.Calculator.
func (c calculator) PatchResourceTarget() patch.PatchResourceTarget { return c.target }

// CalculatePatches implements patch.Calculator.
func (c calculator) CalculatePatches(pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler) ([]resourceadmission.PatchRecord, error) {
	s, err := c.sized(pod, vpa)
	if err != nil {
		return nil, err
	}
	upstream := patch.NewResourceUpdatesCalculator(decided{s}, resource.QuantityValue{})
	if c.target != patch.Pod {
		upstream = inplace.NewResourceInPlaceUpdatesCalculator(decided{s})
	}
	patches, err := upstream.CalculatePatches(pod, vpa)
	if err != nil {
		return nil, err //nolint:wrapcheck // upstream asks what it is
	}
	var sidecars []string
	for _, one := range s.Containers {
		path := fmt.Sprintf("/spec/containers/%d/resources", one.Index)
		if one.Sidecar {
			path = fmt.Sprintf("/spec/initContainers/%d/resources", one.Index)
			if one.Changed() {
				// The whole of it: sidecars are few, and one value needs no care about what is there already.
				patches = append(patches, resourceadmission.PatchRecord{Op: "add", Path: path, Value: one.resources(pod.Spec.InitContainers[one.Index].Resources)})
				sidecars = append(sidecars, aboutSidecar(one))
			}
			continue
		}
		for _, r := range one.Unlimited {
			patches = append(patches, resourceadmission.PatchRecord{Op: "remove", Path: path + "/limits/" + strings.ReplaceAll(string(r), "/", "~1")})
		}
	}
	if c.target == patch.Pod && len(sidecars) > 0 {
		patches = noteSidecars(patches, vpa.Name, strings.Join(sidecars, "; "))
	}
	return patches, nil
}

// noteSidecars adds what was done with native sidecars to what upstream notes on a pod of its other containers, if it does.
func noteSidecars(patches []resourceadmission.PatchRecord, autoscaler, what string) []resourceadmission.PatchRecord {
	note := patch.GetAddAnnotationPatch(patch.ResourceUpdatesAnnotation, "Pod resources updated by "+autoscaler+": "+what)
	at := slices.IndexFunc(patches, func(p resourceadmission.PatchRecord) bool { return p.Path == note.Path })
	if at < 0 {
		return append(patches, note)
	}
	patches[at].Value = fmt.Sprint(patches[at].Value, "; ", what)
	return patches
}

// decided is what upstream's calculators ask for, of a pod that was sized.
type decided struct{ Sizing }

var _ recommendation.Provider = decided{}

// GetContainersResourcesForPod implements recommendation.Provider: one for each container of the pod, in order, and empty where nothing is sized.
func (d decided) GetContainersResourcesForPod(pod *corev1.Pod, _ *vpav1.VerticalPodAutoscaler) ([]vpautil.ContainerResources, vpautil.ContainerToAnnotationsMap, error) {
	sized, notes := make([]vpautil.ContainerResources, len(pod.Spec.Containers)), vpautil.ContainerToAnnotationsMap{}
	for _, c := range d.Containers {
		if c.Sidecar {
			continue
		}
		sized[c.Index] = c.Target
		for _, step := range c.Steps {
			notes[c.Name] = append(notes[c.Name], step.Why)
		}
	}
	return sized, notes, nil
}
