package rightsizing

import (
	"encoding/json"
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// AnnotationTargets on a HorizontalPodAutoscaler is what its targets were before they were made to follow requests, and what was written
// last: Targets in JSON, by resource. Whoever removes it, or changes a target, gets the autoscaler back.
const AnnotationTargets = "vpa.nops.io/original-targets"

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
	was := map[corev1.ResourceName]Target{}
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
