package recommender

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// ownStatus is what is ours of an autoscaler's status.
type ownStatus struct {
	Recommendation     *vpav1.RecommendedPodResources         `json:"recommendation"`
	Conditions         []vpav1.VerticalPodAutoscalerCondition `json:"conditions"`
	ObservedGeneration *int64                                 `json:"observedGeneration,omitempty"`
	Explanations       []rightsizing.Explanation              `json:"explanations"`
}

// patch is a merge patch of it. The UID makes it fail on another object of that name, which was made since.
func patch(uid types.UID, status *vpav1.VerticalPodAutoscalerStatus, why []rightsizing.Explanation) ([]byte, error) {
	type object struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
		Status ownStatus `json:"status"`
	}
	var o object
	o.Metadata.UID = uid
	o.Status = ownStatus{status.Recommendation, status.Conditions, status.ObservedGeneration, why}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("writing a status: %w", err)
	}
	return text, nil
}

// remembered is what an autoscaler says, and why, which upstream's type does not know.
type remembered struct {
	*vpav1.VerticalPodAutoscaler

	why []rightsizing.Explanation
}

// platform is what the platform recommended, as the explanations tell it, and the condition's message that says until when. The bounds are
// those that were made of it.
func (r remembered) platform() (message string, w nopsapi.WorkloadRecommendation) {
	for _, c := range r.Status.Conditions {
		if c.Type == rightsizing.ConditionPlatform && c.Status == corev1.ConditionTrue {
			message = c.Message
		}
	}
	if t := r.Spec.TargetRef; t != nil {
		w.WorkloadRef = nopsapi.WorkloadRef{APIVersion: t.APIVersion, Kind: t.Kind, Namespace: r.Namespace, Name: t.Name}
	}
	bounds := map[string]vpav1.RecommendedContainerResources{}
	for _, c := range containers(r.Status.Recommendation) {
		bounds[c.ContainerName] = c
	}
	for _, x := range r.why {
		first := slices.IndexFunc(x.Steps, func(s rightsizing.Adjustment) bool { return s.Rule == push.RulePlatform })
		if first < 0 { // the others of that rule say what it was raised to
			continue
		}
		w.Level = string(x.Level)
		i := slices.IndexFunc(w.Containers, func(c nopsapi.ContainerRecommendation) bool { return c.Name == x.Container })
		if i < 0 {
			i = len(w.Containers)
			w.Containers = append(w.Containers, nopsapi.ContainerRecommendation{Name: x.Container})
		}
		name := corev1.ResourceName(x.Resource)
		of := func(q resource.Quantity) float64 { return q.AsApproximateFloat64() }
		said := nopsapi.Recommended{Target: of(x.Steps[first].To), Lower: of(bounds[x.Container].LowerBound[name]), Upper: of(bounds[x.Container].UpperBound[name])}
		if name == corev1.ResourceCPU {
			w.Containers[i].CPU = said
		} else {
			w.Containers[i].Memory = said
		}
	}
	return message, w
}
