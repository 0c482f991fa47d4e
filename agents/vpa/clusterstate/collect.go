package clusterstate

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
)

// RateLimitedGarbageCollectAggregateCollectionStates removes, at most once per interval, the aggregations that nothing comes from any
// more: empty ones without a pod that is active or whose controller exists, and those whose last sample, or whose making if they never
// got one, is older than the window.
//
// It asks for controllers only where the answer decides, once per autoscaler; upstream asks once per pod.
func (c *Cluster) RateLimitedGarbageCollectAggregateCollectionStates(ctx context.Context, now time.Time, fetcher controllerfetcher.ControllerFetcher) {
	c.age(now)
	if now.Sub(c.lastGC) < c.gcInterval {
		return
	}
	c.lastGC = now
	exists := map[*autoscaler]bool{}
	controlled := func(set *labelSet) bool {
		if len(set.autoscalers) == 0 {
			return false
		}
		a := set.autoscalers[0]
		answer, asked := exists[a]
		if !asked {
			answer = controllerOf(ctx, a.vpa, fetcher) != nil
			exists[a] = answer
		}
		return answer
	}
	for _, n := range c.namespaces {
		for _, set := range n.sets {
			for _, aggregation := range set.aggregations {
				if aggregation.expired(now) || aggregation.empty() && !set.contributes(aggregation.key.container, controlled) {
					c.collect(aggregation)
				}
			}
		}
	}
}

// empty says that nothing was ever added. Upstream's counts CPU samples alone, and so throws away the OOMs of containers that end before
// their first one.
func (a *aggregation) empty() bool {
	return a.state.TotalSamplesCount == 0 && a.state.AggregateMemoryPeaks.IsEmpty()
}

// expired goes by samples of CPU, as upstream's, and by those of memory where there are no others, or where later runs add to it: they may be
// too short to be measured otherwise, and would be collected with the aggregation of an early one.
func (a *aggregation) expired(now time.Time) bool {
	last := a.state.LastSampleStart
	if a.state.TotalSamplesCount == 0 {
		last = a.state.CreationTime
	}
	if (a.state.TotalSamplesCount == 0 || a.key.set.runs) && a.lastMemory.After(last) {
		last = a.lastMemory
	}
	return now.Sub(last) >= a.state.MemoryAggregationIntervalDuration*time.Duration(a.state.MemoryAggregationIntervalCount)
}

// contributes says whether a pod may still add samples for the container.
func (s *labelSet) contributes(container string, controlled func(*labelSet) bool) bool {
	has := false
	for _, p := range s.pods {
		if p.Containers[container] == nil {
			continue
		}
		if p.Phase != corev1.PodSucceeded && p.Phase != corev1.PodFailed {
			return true
		}
		has = true
	}
	return has && controlled(s)
}

func (c *Cluster) collect(a *aggregation) {
	set := a.key.set
	delete(set.aggregations, a.key.container)
	a.gone = true
	c.size--
	for _, by := range set.autoscalers {
		by.vpa.DeleteAggregation(a.key)
	}
	c.release(set)
}
