package updater

import (
	"context"
	"errors"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/tools/cache"
)

// owners finds out whose pods are: by caches, as far as owners are watched, and of the first owner that nobody watches, as a Rollout or an operator's,
// the API server is asked whether it can be scaled. Where it fails at that, what it said before holds: a loop in which a workload seems to have no pods
// ends its wave, and says so. It is for one goroutine.
type owners struct {
	found  controllerfetcher.ControllerFetcher
	match  target.VpaTargetSelectorFetcher
	stores map[schema.GroupKind]cache.Store
	log    *slog.Logger

	asked     map[controllerfetcher.ControllerKey]*answer
	selectors map[types.UID]matching
}

// answer is what is known of an owner that nobody watches.
type answer struct {
	// fresh says that this loop asked, and failed that the API server did not say it then; known, that it ever did.
	fresh, failed, known bool
	// top is the topmost that can be scaled, of it and what owns it; nil where none can be.
	top *controllerfetcher.ControllerKeyWithAPIVersion
	// nobody says that what it owns is nobody's, as upstream has it of what is not there.
	nobody bool
}

// matching is what an autoscaler's target selects, in a generation of the autoscaler.
type matching struct {
	generation int64
	selector   labels.Selector
}

func newOwners(found controllerfetcher.ControllerFetcher, match target.VpaTargetSelectorFetcher, stores map[schema.GroupKind]cache.Store, log *slog.Logger) *owners {
	return &owners{found: found, match: match, stores: stores, log: log, asked: map[controllerfetcher.ControllerKey]*answer{}, selectors: map[types.UID]matching{}}
}

// of is the topmost controller of a pod that is well-known or can be scaled, as upstream has it; nil where there is none, or it is not known.
func (o *owners) of(ctx context.Context, pod *corev1.Pod) *controllerfetcher.ControllerKeyWithAPIVersion {
	below, beyond, is := o.climb(pod.Namespace, metav1.GetControllerOfNoCopy(pod))
	if !is || beyond == nil {
		return below
	}
	switch a := o.ask(ctx, beyond); {
	case a.nobody || !a.known:
		return nil
	case a.top != nil:
		return a.top
	}
	return below
}

// climb goes from owner to owner, as long as they are watched: below is the last one that is, and beyond the first one that is not. False is that one
// is not there.
func (o *owners) climb(namespace string, owner *metav1.OwnerReference) (below, beyond *controllerfetcher.ControllerKeyWithAPIVersion, is bool) {
	for range len(o.stores) + 1 { // owners that own each other end, too
		if owner == nil {
			return below, nil, true
		}
		key := &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: namespace, Kind: owner.Kind, Name: owner.Name}, ApiVersion: owner.APIVersion}
		store, watched := o.stores[schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind()]
		if !watched {
			return below, key, true
		}
		found, there, err := store.GetByKey(namespace + "/" + owner.Name)
		object, whole := found.(metav1.Object)
		if err != nil || !there || !whole {
			return nil, nil, false
		}
		below, owner = key, metav1.GetControllerOfNoCopy(object)
	}
	return nil, nil, false
}

// ask asks about an owner that nobody watches, once in a loop.
func (o *owners) ask(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) *answer {
	a := o.asked[key.ControllerKey]
	if a == nil {
		a = &answer{}
		o.asked[key.ControllerKey] = a
	}
	if a.fresh {
		return a
	}
	found, err := o.found.FindTopMostWellKnownOrScalable(ctx, key)
	if err == nil && found == nil && a.top != nil {
		// Upstream asks two questions, and of one that fails it makes a no: an outage that ends in between.
		found, err = o.found.FindTopMostWellKnownOrScalable(ctx, key)
	}
	a.fresh = true
	switch {
	case err == nil || errors.Is(err, controllerfetcher.ErrNodeInvalidOwner):
		a.known, a.failed, a.nobody, a.top = true, false, false, found
	case errors.Unwrap(err) == nil, meta.IsNoMatchError(err) && !a.known:
		// It is not there, by a cache, or there is no such kind; while a server of an API group is away there seems to be none, either.
		a.known, a.failed, a.nobody, a.top = true, false, true, nil
	default:
		if !a.failed {
			o.log.LogAttrs(ctx, slog.LevelWarn, "the API server fails to say whose pods are that this owns", slog.String("namespace", key.Namespace), slog.String("kind", key.Kind), slog.String("name", key.Name), slog.Bool("known_before", a.known), slog.Any("error", err))
		}
		a.failed = true
	}
	return a
}

// doubts says what an autoscaler's pods are known by, after those of a loop were looked at: stale is that it is by what the API server said before,
// unknown that it never did.
func (o *owners) doubts(vpa *vpav1.VerticalPodAutoscaler) (stale, unknown bool) {
	if vpa.Spec.TargetRef == nil {
		return false, false
	}
	t := vpa.Spec.TargetRef
	_, beyond, _ := o.climb(vpa.Namespace, &metav1.OwnerReference{APIVersion: t.APIVersion, Kind: t.Kind, Name: t.Name})
	if beyond == nil {
		return false, false
	}
	a := o.asked[beyond.ControllerKey]
	failed := a != nil && a.fresh && a.failed
	return failed && a.known, failed && !a.known
}

// selects is what an autoscaler's target selects. Stale says that it is so by what the API server said before.
func (o *owners) selects(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler) (selector labels.Selector, stale bool, err error) {
	if selector, err = o.match.Fetch(ctx, vpa); err == nil {
		o.selectors[vpa.UID] = matching{vpa.Generation, selector}
		return selector, false, nil
	}
	if before, is := o.selectors[vpa.UID]; is && before.generation == vpa.Generation {
		return before.selector, true, nil
	}
	return nil, false, err //nolint:wrapcheck // as it is, for a log
}

// forget forgets what the loop did not ask for.
func (o *owners) forget(there map[types.UID]bool) {
	maps.DeleteFunc(o.asked, func(_ controllerfetcher.ControllerKey, a *answer) bool { return !a.fresh })
	for _, a := range o.asked {
		a.fresh = false
	}
	maps.DeleteFunc(o.selectors, func(id types.UID, _ matching) bool { return !there[id] })
}
