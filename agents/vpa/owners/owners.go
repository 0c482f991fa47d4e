// Package owners remembers what the API server said of controllers that nobody watches, as a Rollout or an operator's objects: whether they can be
// scaled, and what they select. Upstream asks each time, and takes a question that failed for a no: the workload is then not supported, or has no
// pods.
package owners

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
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

// Fetcher finds out who controls what: by caches, as far as owners are watched; and about the first owner that nobody watches the API server is asked,
// once in a round. Where it fails at that, what it said before holds. It implements controllerfetcher.ControllerFetcher.
type Fetcher struct {
	inner  controllerfetcher.ControllerFetcher
	stores map[schema.GroupKind]cache.Store
	log    *slog.Logger

	mu    sync.Mutex
	asked map[controller]*asked
	hung  map[schema.GroupKind]bool // in this round
}

// controller is one, in whatever version.
type controller struct {
	namespace, name string
	kind            schema.GroupKind
}

func controllerOf(key *controllerfetcher.ControllerKeyWithAPIVersion) controller {
	return controller{key.Namespace, key.Name, schema.FromAPIVersionAndKind(key.ApiVersion, key.Kind).GroupKind()}
}

// patience is how long a question may take: whoever is to convert an object may not answer at all. After one that took longer others about the kind
// fail without being asked, until the next round.
const patience = 5 * time.Second

var errHangs = errors.New("another question about its kind was not answered in time")

// answer is what is known of a controller that nobody watches.
type answer struct {
	// top is the topmost that can be scaled, of it and what owns it; nil where none is.
	top *controllerfetcher.ControllerKeyWithAPIVersion
	// err says that it is not there, or cannot own a workload's pods; its pods are nobody's.
	err error
	// failed says why the API server did not say it in this round. The rest is what it said before then, if known.
	failed error
	known  bool
}

type asked struct {
	answer

	fresh bool
}

// NewFetcher makes one, of the stores of what is watched: upstream's well-known kinds.
func NewFetcher(inner controllerfetcher.ControllerFetcher, stores map[schema.GroupKind]cache.Store, log *slog.Logger) *Fetcher {
	return &Fetcher{inner: inner, stores: stores, log: log, asked: map[controller]*asked{}, hung: map[schema.GroupKind]bool{}}
}

// FindTopMostWellKnownOrScalable implements controllerfetcher.ControllerFetcher.
func (f *Fetcher) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if key == nil {
		return nil, nil
	}
	below, beyond, err := f.climb(key)
	if err != nil || beyond == nil {
		return below, err
	}
	switch a := f.ask(ctx, beyond); {
	case !a.known:
		return nil, a.failed
	case a.err != nil:
		return nil, a.err
	case a.top == nil:
		return below, nil
	case a.top.ControllerKey == beyond.ControllerKey:
		return beyond, nil // in the version that was asked about: upstream compares them
	default:
		return a.top, nil
	}
}

// Of is the topmost controller of a pod that is well-known or can be scaled, as upstream has it; nil where there is none, or it is not known.
func (f *Fetcher) Of(ctx context.Context, pod *corev1.Pod) *controllerfetcher.ControllerKeyWithAPIVersion {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return nil
	}
	top, err := f.FindTopMostWellKnownOrScalable(ctx, keyOf(pod.Namespace, owner))
	if err != nil {
		return nil
	}
	return top
}

func keyOf(namespace string, owner *metav1.OwnerReference) *controllerfetcher.ControllerKeyWithAPIVersion {
	return &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: namespace, Kind: owner.Kind, Name: owner.Name}, ApiVersion: owner.APIVersion}
}

// climb goes from owner to owner, as long as they are watched: below is the last one that is, and beyond the first one that is not.
func (f *Fetcher) climb(key *controllerfetcher.ControllerKeyWithAPIVersion) (below, beyond *controllerfetcher.ControllerKeyWithAPIVersion, err error) {
	for range len(f.stores) + 1 { // owners that own each other end, too
		store, watched := f.stores[schema.FromAPIVersionAndKind(key.ApiVersion, key.Kind).GroupKind()]
		if !watched {
			return below, key, nil
		}
		found, is, err := store.GetByKey(key.Namespace + "/" + key.Name)
		object, whole := found.(metav1.Object)
		if err != nil || !is || !whole {
			return nil, nil, errors.Join(err, errNotThere{*key})
		}
		owner := metav1.GetControllerOfNoCopy(object)
		if owner == nil {
			return key, nil, nil
		}
		below, key = key, keyOf(key.Namespace, owner)
	}
	return nil, nil, errors.New("a cycle of owners")
}

// errNotThere is in upstream's words.
type errNotThere struct {
	controllerfetcher.ControllerKeyWithAPIVersion
}

func (e errNotThere) Error() string {
	return fmt.Sprintf("%s %s/%s does not exist", e.Kind, e.Namespace, e.Name)
}

// ask asks about a controller, unless it was asked about in this round.
func (f *Fetcher) ask(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := controllerOf(key)
	a := f.asked[id]
	if a == nil {
		a = &asked{}
		f.asked[id] = a
	}
	if a.fresh {
		return a.answer
	}
	found, err := f.question(ctx, key, id.kind)
	if err == nil && found == nil && a.top != nil {
		// Upstream asks two questions, and of one that fails it makes a no: an outage that ends in between.
		found, err = f.question(ctx, key, id.kind)
	}
	a.fresh = true
	if !failed(err) || meta.IsNoMatchError(err) && (!a.known || meta.IsNoMatchError(a.err)) { // while a server of an API group is away, there seems to be no such kind
		a.answer = answer{known: true, top: found, err: err}
		return a.answer
	}
	if a.failed == nil {
		f.log.LogAttrs(ctx, slog.LevelWarn, "the API server fails to say whether this can be scaled", slog.String("namespace", key.Namespace), slog.String("kind", key.Kind), slog.String("name", key.Name), slog.Bool("known_before", a.known), slog.Any("error", err))
	}
	a.failed = err
	return a.answer
}

func (f *Fetcher) question(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion, kind schema.GroupKind) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if f.hung[kind] {
		return nil, fmt.Errorf("%s %s/%s: %w", key.Kind, key.Namespace, key.Name, errHangs)
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found, err := f.inner.FindTopMostWellKnownOrScalable(limit, key)
	if limit.Err() != nil && ctx.Err() == nil {
		f.hung[kind] = true
		if err == nil {
			err = fmt.Errorf("%s %s/%s: %w", key.Kind, key.Namespace, key.Name, limit.Err()) // of a question that fails upstream may make a no
		}
	}
	return found, err //nolint:wrapcheck // upstream tells it as it is
}

// failed says whether a question failed. What is not there by a cache is an answer, which upstream does not wrap, and so is that a node owns it.
func failed(err error) bool {
	return errors.Unwrap(err) != nil && !errors.Is(err, controllerfetcher.ErrNodeInvalidOwner)
}

// Doubts says what the pods of an autoscaler's target are known by, once all were looked at in a round: stale is that it is by what the API server
// said before, unknown that it never did.
func (f *Fetcher) Doubts(vpa *vpav1.VerticalPodAutoscaler) (stale, unknown bool) {
	t := vpa.Spec.TargetRef
	if t == nil {
		return false, false
	}
	_, beyond, err := f.climb(keyOf(vpa.Namespace, &metav1.OwnerReference{APIVersion: t.APIVersion, Kind: t.Kind, Name: t.Name}))
	if err != nil || beyond == nil {
		return false, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.asked[controllerOf(beyond)]
	failed := a != nil && a.fresh && a.failed != nil
	return failed && a.known, failed && !a.known
}

// Next ends a round: what nobody asked about in it is forgotten.
func (f *Fetcher) Next() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.hung)
	maps.DeleteFunc(f.asked, func(_ controller, a *asked) bool { return !a.fresh })
	for _, a := range f.asked {
		a.fresh = false
	}
}

// Selectors implements target.VpaTargetSelectorFetcher. It is for one goroutine.
type Selectors struct {
	inner   target.VpaTargetSelectorFetcher
	watched func(kind string) bool
	known   map[types.UID]selected
	hung    map[schema.GroupKind]bool // in this round
}

// selected is what an autoscaler's target selects.
type selected struct {
	target   autoscalingv1.CrossVersionObjectReference
	selector labels.Selector
	fresh    bool
}

// NewSelectors makes them. Of kinds that are watched nothing is remembered: what a cache says is so.
func NewSelectors(inner target.VpaTargetSelectorFetcher, watched func(kind string) bool) *Selectors {
	return &Selectors{inner: inner, watched: watched, known: map[types.UID]selected{}, hung: map[schema.GroupKind]bool{}}
}

// Select is what an autoscaler's target selects. Stale says that it is so by what the API server said before. Of an error Said tells whether it is an
// answer.
func (s *Selectors) Select(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler) (selector labels.Selector, stale bool, err error) {
	t := vpa.Spec.TargetRef
	if t == nil || s.watched(t.Kind) {
		selector, err = s.inner.Fetch(ctx, vpa)
		return selector, false, err //nolint:wrapcheck // upstream tells it as it is
	}
	selector, err = s.question(ctx, vpa, schema.FromAPIVersionAndKind(t.APIVersion, t.Kind).GroupKind())
	before, is := s.known[vpa.UID]
	switch {
	case err == nil:
		s.known[vpa.UID] = selected{*t, selector, true}
	case Said(err):
		delete(s.known, vpa.UID)
	case is && before.target == *t:
		before.fresh = true
		s.known[vpa.UID] = before
		return before.selector, true, nil
	}
	return selector, false, err
}

func (s *Selectors) question(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler, kind schema.GroupKind) (labels.Selector, error) {
	if s.hung[kind] {
		return nil, errHangs
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	selector, err := s.inner.Fetch(limit, vpa)
	if limit.Err() != nil && ctx.Err() == nil {
		s.hung[kind] = true
	}
	return selector, err //nolint:wrapcheck // upstream tells it as it is
}

// Said says whether an error of Select is what the API server said: that the target is not there, or says of no pods that they are its own. Upstream
// leaves nothing of errors but their texts.
func Said(err error) bool {
	return err != nil && slices.ContainsFunc([]string{"not found", "could not find the requested resource", "has an empty selector", "targetRef not defined"}, func(text string) bool {
		return strings.Contains(err.Error(), text)
	})
}

// Fetch implements target.VpaTargetSelectorFetcher.
func (s *Selectors) Fetch(ctx context.Context, vpa *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	selector, _, err := s.Select(ctx, vpa)
	return selector, err
}

// Next ends a round: what nobody asked about in it is forgotten.
func (s *Selectors) Next() {
	clear(s.hung)
	for id, one := range s.known {
		if !one.fresh {
			delete(s.known, id)
			continue
		}
		one.fresh = false
		s.known[id] = one
	}
}
