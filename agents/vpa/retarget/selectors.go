package retarget

import (
	"context"

	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
)

// Selectors is upstream's fetcher but for CronJobs whose template gives their pods no labels, as those of kubectl create cronjob: their labels are
// the selector, upstream's selects nothing then, and nothing says so. unlabelled selects the pods of such a one. Where only pods are asked about
// whose owner is the target, that is Owned.
func Selectors(upstream target.VpaTargetSelectorFetcher, unlabelled func(cronJob string) labels.Selector) target.VpaTargetSelectorFetcher {
	return selectors{upstream, unlabelled}
}

// Owned selects all.
func Owned(string) labels.Selector { return labels.Everything() }

type selectors struct {
	target.VpaTargetSelectorFetcher
	unlabelled func(cronJob string) labels.Selector
}

// Fetch implements target.VpaTargetSelectorFetcher.
func (s selectors) Fetch(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	found, err := s.VpaTargetSelectorFetcher.Fetch(ctx, vpa)
	if of := vpa.Spec.TargetRef; err == nil && found != nil && of != nil && of.Kind == "CronJob" {
		if required, _ := found.Requirements(); len(required) == 0 {
			return s.unlabelled(of.Name), nil
		}
	}
	return found, err //nolint:wrapcheck // upstream asks what it is
}
