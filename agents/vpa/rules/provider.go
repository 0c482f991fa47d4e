package rules

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/recommendation"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/limitrange"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"
)

// Options of a Provider.
type Options struct {
	// LimitRanges of namespaces; nil means none.
	LimitRanges limitrange.LimitRangeCalculator
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Known is what is known of an autoscaler's workload besides its recommendation; nil means nothing.
	Known func(*vpav1.VerticalPodAutoscaler) Known
}

// Known is what is known of a workload besides its recommendation.
type Known struct {
	// Peaks of the containers' memory, by name.
	Peaks map[string]resource.Quantity
	// Sized are the requests of containers whose pods were sized before, by name: what one step is measured from when a new pod comes with
	// its template's. Without them the pod's own requests are.
	Sized map[string]corev1.ResourceList
	// Yield says why a resource is left to somebody else, besides those of the settings.
	Yield map[corev1.ResourceName]string
}

// Provider sizes pods: what is recommended, by the settings in force.
type Provider struct {
	limitRanges limitrange.LimitRangeCalculator
	now         func() time.Time
	known       func(*vpav1.VerticalPodAutoscaler) Known
	upstream    recommendation.Provider
}

var _ recommendation.Provider = (*Provider)(nil)

// NewProvider makes one.
func NewProvider(o Options) *Provider {
	p := &Provider{limitRanges: o.LimitRanges, now: o.Now, known: o.Known}
	if p.limitRanges == nil {
		p.limitRanges = limitrange.NewNoopLimitsCalculator()
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.known == nil {
		p.known = func(*vpav1.VerticalPodAutoscaler) Known { return Known{} }
	}
	p.upstream = recommendation.NewProvider(p.limitRanges, vpautil.NewCappingRecommendationProcessor(p.limitRanges))
	return p
}

// GetContainersResourcesForPod implements recommendation.Provider, for upstream's calculators.
func (p *Provider) GetContainersResourcesForPod(pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler) ([]vpautil.ContainerResources, vpautil.ContainerToAnnotationsMap, error) {
	return p.upstream.GetContainersResourcesForPod(pod, vpa)
}

// Calculators make the patches of a pod: target patch.Pod when it is created, patch.Resize when it runs. They include upstream's for the
// containers, and for native sidecars and limits that are taken away.
func (p *Provider) Calculators(target patch.PatchResourceTarget) []patch.Calculator {
	return []patch.Calculator{patch.NewResourceUpdatesCalculator(p, resource.QuantityValue{})}
}
