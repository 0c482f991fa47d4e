package updater

import (
	"context"
	"errors"
	"maps"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
)

// owners finds out whose pods are. Of owners that nobody watches, as a Rollout, the API server is asked, and may fail at it: what it said before
// holds then, for a loop in which a workload seems to have no pods ends its wave and says so. It is for one goroutine.
type owners struct {
	found controllerfetcher.ControllerFetcher
	match target.VpaTargetSelectorFetcher

	// top is what was found of controllers before, and asked those that this loop asked for.
	top       map[controllerfetcher.ControllerKeyWithAPIVersion]controllerfetcher.ControllerKeyWithAPIVersion
	asked     map[controllerfetcher.ControllerKeyWithAPIVersion]bool
	selectors map[types.UID]matching
}

// matching is what an autoscaler's target selects, in a generation of the autoscaler.
type matching struct {
	generation int64
	selector   labels.Selector
}

func newOwners(found controllerfetcher.ControllerFetcher, match target.VpaTargetSelectorFetcher) *owners {
	return &owners{
		found: found, match: match, selectors: map[types.UID]matching{},
		top:   map[controllerfetcher.ControllerKeyWithAPIVersion]controllerfetcher.ControllerKeyWithAPIVersion{},
		asked: map[controllerfetcher.ControllerKeyWithAPIVersion]bool{},
	}
}

// FindTopMostWellKnownOrScalable implements controllerfetcher.ControllerFetcher.
func (o *owners) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	found, err := o.found.FindTopMostWellKnownOrScalable(ctx, key)
	switch {
	case key == nil:
	case failed(err):
		if before, is := o.top[*key]; is {
			o.asked[*key] = true
			return &before, nil
		}
	case err != nil || found == nil:
		delete(o.top, *key)
	case !watched(found.Kind):
		o.top[*key], o.asked[*key] = *found, true
	}
	return found, err //nolint:wrapcheck // upstream asks what it is
}

// selects is what an autoscaler's target selects.
func (o *owners) selects(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	selector, err := o.match.Fetch(ctx, vpa)
	if err == nil {
		if vpa.Spec.TargetRef != nil && !watched(vpa.Spec.TargetRef.Kind) {
			o.selectors[vpa.UID] = matching{vpa.Generation, selector}
		}
		return selector, nil
	}
	if before, is := o.selectors[vpa.UID]; is && before.generation == vpa.Generation {
		return before.selector, nil
	}
	return nil, err //nolint:wrapcheck // as it is, for people
}

// forget forgets what the loop did not ask for.
func (o *owners) forget(there map[types.UID]bool) {
	maps.DeleteFunc(o.top, func(key, _ controllerfetcher.ControllerKeyWithAPIVersion) bool { return !o.asked[key] })
	clear(o.asked)
	maps.DeleteFunc(o.selectors, func(id types.UID, _ matching) bool { return !there[id] })
}

// failed says whether a question failed: what is not there, by the caches or by the API server's word, is an answer.
func failed(err error) bool {
	return errors.Unwrap(err) != nil && !meta.IsNoMatchError(err) && !errors.Is(err, controllerfetcher.ErrNodeInvalidOwner)
}

// watched says whether everything of a kind is known here: upstream's well-known kinds.
func watched(kind string) bool {
	switch kind {
	case "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController":
		return true
	}
	return false
}
