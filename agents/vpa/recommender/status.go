package recommender

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/rest"

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

const (
	pageSize = "500" // of lists
	// pageWithin is how long one page may take.
	pageWithin = time.Minute
)

// remembered is what an autoscaler says, with what upstream's types do not know of its status.
type remembered struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		TargetRef *autoscalingv1.CrossVersionObjectReference `json:"targetRef"`
	} `json:"spec"`
	Status struct {
		Recommendation *vpav1.RecommendedPodResources         `json:"recommendation"`
		Conditions     []vpav1.VerticalPodAutoscalerCondition `json:"conditions"`
		Explanations   []rightsizing.Explanation              `json:"explanations"`
	} `json:"status"`
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
		w.WorkloadRef = nopsapi.WorkloadRef{APIVersion: t.APIVersion, Kind: t.Kind, Namespace: r.Metadata.Namespace, Name: t.Name}
	}
	bounds := map[string]vpav1.RecommendedContainerResources{}
	for _, c := range containers(r.Status.Recommendation) {
		bounds[c.ContainerName] = c
	}
	for _, x := range r.Status.Explanations {
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

// recall reads all autoscalers once, for what a process before this one left in them. After an error it is to be called again from the
// beginning; each may be told of one twice.
func recall(ctx context.Context, client rest.Interface, each func(remembered)) error {
	for next := ""; ; {
		text, err := client.Get().Timeout(pageWithin).Resource(rightsizing.Autoscalers().Resource).Param("limit", pageSize).Param("continue", next).SetHeader("Accept", "application/json").Do(ctx).Raw()
		if err != nil {
			return fmt.Errorf("reading what autoscalers say: %w", err)
		}
		var page struct {
			Metadata metav1.ListMeta   `json:"metadata"`
			Items    []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(text, &page); err != nil {
			return fmt.Errorf("reading what autoscalers say: %w", err)
		}
		for _, raw := range page.Items {
			var one remembered
			if json.Unmarshal(raw, &one) == nil { // what somebody else wrote there is not ours to understand
				each(one)
			}
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}
