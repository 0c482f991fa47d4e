package rightsizing

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// AnnotationTargets on a HorizontalPodAutoscaler is what its targets were before they were made to follow requests, and what was written
// last: Targets in JSON, by resource. Whoever removes it, or changes a target, gets the autoscaler back.
const AnnotationTargets = "vpa.nops.io/original-targets"

// Targets are by resource.
type Targets map[corev1.ResourceName]Target

// Target is what a HorizontalPodAutoscaler's target utilization was while pods requested what their template says, and what was made of it.
type Target struct {
	Percent  int32 `json:"percent"`
	Written  int32 `json:"written"`
	Released bool  `json:"released,omitempty"` // somebody changed it since: it is theirs
}

// RestoreTargets is the JSON patch that gives a HorizontalPodAutoscaler its own targets back, nil where there are no others. It tests the
// version that was read. A target that somebody changed since it was written is theirs, and stays.
func RestoreTargets(h *autoscalingv2.HorizontalPodAutoscaler) []byte {
	text, marked := h.Annotations[AnnotationTargets]
	if !marked {
		return nil
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	all := []operation{{"test", "/metadata/resourceVersion", h.ResourceVersion}, {"remove", "/metadata/annotations/" + strings.ReplaceAll(AnnotationTargets, "/", "~1"), nil}}
	was := Targets{}
	if json.Unmarshal([]byte(text), &was) != nil {
		was = nil // nobody can know what it was: what is there now stays
	}
	for i, m := range h.Spec.Metrics {
		if m.Type != autoscalingv2.ResourceMetricSourceType || m.Resource == nil || m.Resource.Target.AverageUtilization == nil {
			continue
		}
		is := *m.Resource.Target.AverageUtilization
		if t, known := was[m.Resource.Name]; known && !t.Released && t.Percent > 0 && is == t.Written && is != t.Percent {
			all = append(all, operation{"replace", fmt.Sprintf("/spec/metrics/%d/resource/target/averageUtilization", i), t.Percent})
		}
	}
	body, err := json.Marshal(all)
	if err != nil {
		panic(fmt.Sprintf("write a patch as JSON: %v", err)) // plain data of our own
	}
	return body
}

// HorizontalPodAutoscalers are those of a namespace, as far as targets are given back.
type HorizontalPodAutoscalers interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*autoscalingv2.HorizontalPodAutoscaler, error)
	Patch(ctx context.Context, name string, kind types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (*autoscalingv2.HorizontalPodAutoscaler, error)
}

// restoreTries is how often one is read anew that somebody writes meanwhile: its own controller does.
const restoreTries = 5

// GiveTargetsBack gives a HorizontalPodAutoscaler its own targets back, and says whether there was anything to do. One that is gone is well.
func GiveTargetsBack(ctx context.Context, all HorizontalPodAutoscalers, name, manager string) (did bool, err error) {
	for range restoreTries {
		h, err := all.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read HorizontalPodAutoscaler %s: %w", name, err)
		}
		patch := RestoreTargets(h)
		if patch == nil {
			return false, nil
		}
		_, err = all.Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: manager})
		switch {
		case err == nil:
			return true, nil
		case apierrors.IsNotFound(err):
			return false, nil
		case !apierrors.IsConflict(err) && !apierrors.IsInvalid(err): // a test of a patch that fails is Invalid
			return false, fmt.Errorf("give HorizontalPodAutoscaler %s/%s its own targets back: %w", h.Namespace, name, err)
		}
	}
	return false, fmt.Errorf("give HorizontalPodAutoscaler %s its own targets back: somebody wrote it %d times meanwhile", name, restoreTries)
}
