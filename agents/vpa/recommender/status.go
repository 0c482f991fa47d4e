package recommender

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
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

// pageSize of lists.
const pageSize = "500"

// remembered is what an autoscaler's status says that upstream's types do not know.
type remembered struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Status struct {
		Conditions   []vpav1.VerticalPodAutoscalerCondition `json:"conditions"`
		Explanations []rightsizing.Explanation              `json:"explanations"`
	} `json:"status"`
}

// recall reads all autoscalers once, for what a process before this one left in them.
func recall(ctx context.Context, client rest.Interface, each func(remembered)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for next := ""; ; {
		text, err := client.Get().Resource(rightsizing.Autoscalers().Resource).Param("limit", pageSize).Param("continue", next).SetHeader("Accept", "application/json").Do(ctx).Raw()
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
