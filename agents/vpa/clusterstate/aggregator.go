package clusterstate

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

// aggregator leads from a container to the aggregation for the labels that its pod has now, which is made again if it was collected.
type aggregator struct {
	cluster   *Cluster
	pod       *pod
	container string
	to        *aggregation // the one it led to last
}

var _ model.ContainerStateAggregator = (*aggregator)(nil)

func (a *aggregator) find() *aggregation {
	switch {
	case a.pod.set == nil: // the pod is gone and forgotten, somebody still holds its container
		if a.to == nil || !a.to.gone {
			a.to = &aggregation{state: model.NewAggregateContainerState(), gone: true}
		}
	case a.to == nil || a.to.gone || a.to.key.set != a.pod.set:
		a.to = a.cluster.aggregation(a.pod.set, a.container)
	}
	return a.to
}

// AddSample adds a sample.
func (a *aggregator) AddSample(sample *model.ContainerUsageSample) {
	to := a.find()
	if sample.Resource == model.ResourceMemory {
		if sample.MeasureStart.After(to.lastMemory) {
			to.lastMemory = sample.MeasureStart
		}
		if begin := sample.MeasureStart.Add(-to.state.MemoryAggregationIntervalDuration); to.firstMemory.IsZero() || begin.Before(to.firstMemory) {
			to.firstMemory = begin // a peak is added with the end of its interval
		}
	}
	to.state.AddSample(sample)
}

// SubtractSample takes back a sample.
func (a *aggregator) SubtractSample(sample *model.ContainerUsageSample) {
	a.find().state.SubtractSample(sample)
}

// GetLastRecommendation is the last one for these containers.
func (a *aggregator) GetLastRecommendation() corev1.ResourceList {
	return a.find().state.GetLastRecommendation()
}

// NeedsRecommendation says whether these containers are autoscaled.
func (a *aggregator) NeedsRecommendation() bool { return a.find().state.NeedsRecommendation() }

// GetUpdateMode is their autoscaler's.
func (a *aggregator) GetUpdateMode() *vpav1.UpdateMode { return a.find().state.GetUpdateMode() }

// GetOOMBumpUpRatio is their autoscaler's.
func (a *aggregator) GetOOMBumpUpRatio() float64 { return a.find().state.GetOOMBumpUpRatio() }

// GetOOMMinBumpUp is their autoscaler's.
func (a *aggregator) GetOOMMinBumpUp() float64 { return a.find().state.GetOOMMinBumpUp() }

// GetMemoryAggregationIntervalDuration is their autoscaler's.
func (a *aggregator) GetMemoryAggregationIntervalDuration() time.Duration {
	return a.find().state.GetMemoryAggregationIntervalDuration()
}
