package retarget_test

import (
	"context"
	"errors"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

// answer is what upstream's fetcher says.
type answer struct {
	selector labels.Selector
	err      error
}

func (a answer) Fetch(context.Context, *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	return a.selector, a.err
}

// TestSelectors: upstream's answer stays but where it is that a CronJob has no pods.
func TestSelectors(t *testing.T) {
	labelled := labels.SelectorFromSet(labels.Set{"app": "night"})
	failed := errors.New("CronJob shop/night does not exist")
	for _, tc := range []struct {
		name, kind string
		upstream   answer
		want       string // "nothing", "all", or a selector
	}{
		{"a CronJob whose template has labels", "CronJob", answer{labelled, nil}, "app=night"},
		{"one whose template has none", "CronJob", answer{labels.Nothing(), nil}, "all"},
		{"one that is not there", "CronJob", answer{nil, failed}, "an error"},
		{"another kind that selects nothing", "ReplicationController", answer{labels.Nothing(), nil}, "nothing"},
		{"no target", "", answer{nil, failed}, "an error"},
	} {
		vpa := &vpav1.VerticalPodAutoscaler{}
		if tc.kind != "" {
			vpa.Spec.TargetRef = &autoscalingv1.CrossVersionObjectReference{Kind: tc.kind, Name: "night"}
		}
		selector, err := retarget.Selectors(tc.upstream, retarget.Owned).Fetch(t.Context(), vpa)
		got := "an error"
		switch {
		case err != nil && !errors.Is(err, failed):
			got = err.Error()
		case err == nil && selector.Empty():
			got = "all"
		case err == nil && selector.String() == "":
			got = "nothing"
		case err == nil:
			got = selector.String()
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
