// Package clusterstate is the recommender's model of a cluster: upstream's interface and upstream's answers, found through indexes.
//
// Upstream compares every pod with every autoscaler wherever the two meet. Here pods of one namespace that have the same labels, those apart
// that tell one run of a workload from the next, share one label set, which knows the autoscalers that select it; autoscalers are found by a label that they require, and label sets by their
// labels, so that a cluster with all its pods in one namespace is no worse than one with many namespaces.
//
// Answers differ from upstream's only where upstream loses what it was told:
//   - an aggregation that has memory peaks and no CPU sample is not empty, and is kept as long as one with CPU samples would be;
//   - an autoscaler whose target cannot be read keeps its pods and history until it can be read again, or names another target;
//   - an OOM counts although its pod was deleted of late;
//   - the container of a pod that got other labels still adds to an aggregation after that was collected and made again;
//   - the runs of a CronJob, and whatever else differs in nothing but labels of its run (ofOneRun), are one aggregation, which is kept while
//     there are new ones; an autoscaler whose selector asks for such a label, as that of a single Job, begins with what is used from then on;
//   - of several autoscalers that select a pod, the controlling one is the one that updater and admission would choose, not any.
//
// Like upstream's, the model belongs to one goroutine; only RecordRecommendation and what does not change the model may run beside each other.
package clusterstate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
)

// departedFor is how long a deleted pod is remembered for an OOM that comes late. Informers and events lag seconds, loops a minute.
const departedFor = 10 * time.Minute

// Cluster is a model.ClusterState.
type Cluster struct {
	pods       map[model.PodID]*pod
	states     map[model.PodID]*model.PodState // the same pods, as the interface shows them
	vpas       map[model.VpaID]*model.Vpa
	linked     map[model.VpaID]*autoscaler // the same autoscalers, with what they select
	namespaces map[string]*namespace
	observed   []*vpav1.VerticalPodAutoscaler
	departed   map[model.PodID]*departed
	oomed      map[model.VpaID]struct{}
	size       int // aggregations

	gcInterval time.Duration
	lastGC     time.Time

	mu      sync.Mutex
	missing map[model.VpaID]time.Time // since when an autoscaler has no recommendation, or when that was last said
}

var _ model.ClusterState = (*Cluster)(nil)

// pod is what is known of a pod. Its set is nil when nobody may add to it any more.
type pod struct {
	model.PodState
	labels labels.Set // all of them
	set    *labelSet
}

type departed struct {
	pod   *pod
	since time.Time
}

// New returns an empty cluster whose aggregations are collected at most every gcInterval.
func New(gcInterval time.Duration) *Cluster {
	return &Cluster{
		pods: map[model.PodID]*pod{}, states: map[model.PodID]*model.PodState{}, vpas: map[model.VpaID]*model.Vpa{}, linked: map[model.VpaID]*autoscaler{},
		namespaces: map[string]*namespace{}, departed: map[model.PodID]*departed{}, oomed: map[model.VpaID]struct{}{},
		missing: map[model.VpaID]time.Time{}, gcInterval: gcInterval, lastGC: time.Unix(0, 0),
	}
}

// StateMapSize is the number of aggregations.
func (c *Cluster) StateMapSize() int { return c.size }

// Pods are those added and not deleted.
func (c *Cluster) Pods() map[model.PodID]*model.PodState { return c.states }

// VPAs are those added and not deleted.
func (c *Cluster) VPAs() map[model.VpaID]*model.Vpa { return c.vpas }

// SetObservedVPAs keeps the objects that the autoscalers were last made from.
func (c *Cluster) SetObservedVPAs(observed []*vpav1.VerticalPodAutoscaler) { c.observed = observed }

// ObservedVPAs are the objects that the autoscalers were last made from.
func (c *Cluster) ObservedVPAs() []*vpav1.VerticalPodAutoscaler { return c.observed }

// AddOrUpdatePod adds a pod, or gives it labels and phase.
func (c *Cluster) AddOrUpdatePod(id model.PodID, newLabels labels.Set, phase corev1.PodPhase) {
	p := c.pods[id]
	switch {
	case p == nil:
		p = &pod{PodState: model.PodState{ID: id, Containers: map[string]*model.ContainerState{}}}
		c.pods[id], c.states[id] = p, &p.PodState
		c.join(p, newLabels)
		if old := c.departed[id]; old != nil {
			c.forget(id, old)
		}
	case !maps.Equal(p.labels, newLabels):
		c.rejoin(p, newLabels)
	default:
		p.labels = newLabels // those of the newest object: the older one need not be kept for them
	}
	p.Phase = phase
}

// rejoin gives a pod other labels.
func (c *Cluster) rejoin(p *pod, l labels.Set) {
	c.leave(p)
	c.join(p, l)
	for name := range p.Containers {
		c.aggregation(p.set, name)
	}
}

// join lets the pod count for the autoscalers that select these labels.
func (c *Cluster) join(p *pod, l labels.Set) {
	p.labels, p.set = l, c.intern(p.ID.Namespace, l)
	p.set.pods[p.ID] = p
	for _, a := range p.set.autoscalers {
		a.vpa.PodCount++
	}
}

func (c *Cluster) leave(p *pod) {
	delete(p.set.pods, p.ID)
	for _, a := range p.set.autoscalers {
		a.vpa.PodCount--
	}
	c.release(p.set)
}

// DeletePod removes a pod. One that is under an autoscaler is remembered for a while: the news of its OOM may come later than that of its end.
func (c *Cluster) DeletePod(id model.PodID) {
	p := c.pods[id]
	if p == nil {
		return
	}
	delete(c.pods, id)
	delete(c.states, id)
	set := p.set
	if len(set.autoscalers) > 0 {
		set.departed++
		c.departed[id] = &departed{pod: p}
		c.leave(p)
		return
	}
	c.leave(p)
	p.set = nil
}

// forget ends the memory of a pod that was deleted.
func (c *Cluster) forget(id model.PodID, d *departed) {
	delete(c.departed, id)
	set := d.pod.set
	d.pod.set = nil
	set.departed--
	c.release(set)
}

// age ends the memory of pods. It counts from when it first sees one: a model has no other clock.
func (c *Cluster) age(now time.Time) {
	for id, d := range c.departed {
		if d.since.IsZero() {
			d.since = now
		} else if now.Sub(d.since) >= departedFor {
			c.forget(id, d)
		}
	}
}

// SetInitContainers names the init containers of a pod.
func (c *Cluster) SetInitContainers(id model.PodID, names []string) error {
	p := c.pods[id]
	if p == nil {
		return model.NewKeyError(id)
	}
	p.InitContainers = names
	return nil
}

// GetContainer returns a container, or nil.
func (c *Cluster) GetContainer(id model.ContainerID) *model.ContainerState {
	if p := c.pods[id.PodID]; p != nil {
		return p.Containers[id.ContainerName]
	}
	return nil
}

// AddOrUpdateContainer adds a container to a pod, or gives it another request.
func (c *Cluster) AddOrUpdateContainer(id model.ContainerID, request model.Resources) error {
	p := c.pods[id.PodID]
	if p == nil {
		return model.NewKeyError(id.PodID)
	}
	if known := p.Containers[id.ContainerName]; known != nil {
		known.Request = request
		return nil
	}
	container := model.NewContainerState(request, &aggregator{cluster: c, pod: p, container: id.ContainerName, to: c.aggregation(p.set, id.ContainerName)})
	p.Containers[id.ContainerName] = container
	return nil
}

// AddSample adds a usage sample to its container.
func (c *Cluster) AddSample(sample *model.ContainerUsageSampleWithKey) error {
	p := c.pods[sample.Container.PodID]
	if p == nil {
		return model.NewKeyError(sample.Container.PodID)
	}
	container := p.Containers[sample.Container.ContainerName]
	if container == nil {
		return model.NewKeyError(sample.Container)
	}
	if !container.AddSample(&sample.ContainerUsageSample) {
		return errors.New("sample discarded (invalid or out of order)")
	}
	return nil
}

// RecordOOM adds an OOM as a memory sample. That of a pod deleted of late counts for the pods that have its labels.
func (c *Cluster) RecordOOM(id model.ContainerID, at time.Time, requested model.ResourceAmount) error {
	p := c.pods[id.PodID]
	if old := c.departed[id.PodID]; p == nil && old != nil {
		p = old.pod
	}
	if p == nil {
		return model.NewKeyError(id.PodID)
	}
	container := p.Containers[id.ContainerName]
	if container == nil {
		return model.NewKeyError(id.ContainerName)
	}
	if err := container.RecordOOM(at, requested); err != nil {
		return fmt.Errorf("error while recording OOM for %v, Reason: %w", id, err)
	}
	for _, a := range p.set.autoscalers {
		c.oomed[a.vpa.ID] = struct{}{}
	}
	return nil
}

// Knows says whether an OOM of the pod would be taken.
func (c *Cluster) Knows(id model.PodID) bool { return c.pods[id] != nil || c.departed[id] != nil }

// Requested is the memory that a container requests, of a pod that Knows knows; 0 where there is no such container.
func (c *Cluster) Requested(id model.ContainerID) model.ResourceAmount {
	p := c.pods[id.PodID]
	if old := c.departed[id.PodID]; p == nil && old != nil {
		p = old.pod
	}
	if p == nil || p.Containers[id.ContainerName] == nil {
		return 0
	}
	return p.Containers[id.ContainerName].Request[model.ResourceMemory]
}

// TakeOOMed returns the autoscalers with OOMs since it was last asked, in order.
func (c *Cluster) TakeOOMed() []model.VpaID {
	ids := slices.SortedFunc(maps.Keys(c.oomed), compareIDs)
	clear(c.oomed)
	return ids
}

func compareIDs(a, b model.VpaID) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.VpaName, b.VpaName))
}

// AddOrUpdateVpa adds an autoscaler, or gives it what the object says. Another selector makes it a new one.
//
// The feeder says that a target cannot be read by a selector that selects nothing. An autoscaler that is known then keeps the selector it
// had: a hiccup of the API server would otherwise cost the history loaded from checkpoints, for ever. One that never had another selector
// keeps that history when it gets its first.
func (c *Cluster) AddOrUpdateVpa(object *vpav1.VerticalPodAutoscaler, selector labels.Selector) error {
	id := model.VpaID{Namespace: object.Namespace, VpaName: object.Name}
	conditions := map[vpav1.VerticalPodAutoscalerConditionType]vpav1.VerticalPodAutoscalerCondition{}
	for _, condition := range object.Status.Conditions {
		conditions[condition.Type] = condition
	}
	var recommendation *vpav1.RecommendedPodResources
	if conditions[vpav1.RecommendationProvided].Status == corev1.ConditionTrue {
		recommendation = object.Status.Recommendation
	}

	known := c.linked[id]
	var loaded model.ContainerNameToAggregateStateMap
	if known != nil && known.vpa.PodSelector.String() != selector.String() {
		switch sameTarget := targets(known.vpa.TargetRef, object.Spec.TargetRef); {
		case sameTarget && selectsNothing(selector):
			selector = known.vpa.PodSelector
		case sameTarget && selectsNothing(known.vpa.PodSelector):
			loaded = known.vpa.ContainersInitialAggregateState
			fallthrough
		default:
			if err := c.DeleteVpa(id); err != nil {
				return err
			}
			known = nil
		}
	}
	if known == nil {
		known = &autoscaler{vpa: model.NewVpa(id, selector, object.CreationTimestamp.Time), sets: map[*labelSet]struct{}{}}
		if loaded != nil {
			known.vpa.ContainersInitialAggregateState = loaded
		}
		c.link(known)
	}
	vpa := known.vpa
	vpa.TargetRef = object.Spec.TargetRef
	vpa.Annotations = object.Annotations
	vpa.SetConditionsMap(conditions)
	vpa.SetRecommendationDirect(recommendation)
	vpa.SetUpdateMode(object.Spec.UpdatePolicy)
	vpa.SetResourcePolicy(object.Spec.ResourcePolicy)
	vpa.SetAPIVersion(object.GetObjectKind().GroupVersionKind().Version)
	vpa.Generation = object.Generation
	return nil
}

func targets(a, b *autoscalingv1.CrossVersionObjectReference) bool {
	return a != nil && b != nil && *a == *b
}

// DeleteVpa removes an autoscaler.
func (c *Cluster) DeleteVpa(id model.VpaID) error {
	a := c.linked[id]
	if a == nil {
		return model.NewKeyError(id)
	}
	for set := range a.sets {
		for _, aggregation := range set.aggregations {
			aggregation.state.MarkNotAutoscaled()
		}
	}
	c.unlink(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.missing, id)
	return nil
}

// MakeAggregateStateKey returns the key of the aggregation that a container of the pod adds to.
func (c *Cluster) MakeAggregateStateKey(p *model.PodState, container string) model.AggregateStateKey {
	return key{set: c.setOf(p), container: container}
}

// setOf is the label set of a pod that is or was known, and one that no other pod has of a pod that never was.
func (c *Cluster) setOf(p *model.PodState) *labelSet {
	if known := c.pods[p.ID]; known != nil {
		return known.set
	}
	if old := c.departed[p.ID]; old != nil {
		return old.pod.set
	}
	return &labelSet{namespace: &namespace{name: p.ID.Namespace}}
}

// GetMatchingPods returns the pods that the autoscaler selects.
func (c *Cluster) GetMatchingPods(vpa *model.Vpa) []model.PodID {
	ids := []model.PodID{}
	for set := range c.namespaces[vpa.ID.Namespace].selected(vpa.PodSelector) {
		for id := range set.pods {
			ids = append(ids, id)
		}
	}
	return ids
}

// GetControllingVPA returns the autoscaler that controls the pod: of several that select it the oldest, then the first by name.
func (c *Cluster) GetControllingVPA(p *model.PodState) *model.Vpa {
	if set := c.setOf(p); len(set.autoscalers) > 0 {
		return set.autoscalers[0].vpa
	}
	return nil
}

// Autoscalers are all that select the pod, the one that controls it first. Each recommends for it.
func (c *Cluster) Autoscalers(p *model.PodState) (all []*model.Vpa) {
	for _, a := range c.setOf(p).autoscalers {
		all = append(all, a.vpa)
	}
	return all
}

// GetControllerForPodUnderVPA returns the controller that the pod's autoscaler targets, nil when there is none of either.
func (c *Cluster) GetControllerForPodUnderVPA(ctx context.Context, p *model.PodState, fetcher controllerfetcher.ControllerFetcher) *controllerfetcher.ControllerKeyWithAPIVersion {
	return controllerOf(ctx, c.GetControllingVPA(p), fetcher)
}

func controllerOf(ctx context.Context, vpa *model.Vpa, fetcher controllerfetcher.ControllerFetcher) *controllerfetcher.ControllerKeyWithAPIVersion {
	if vpa == nil || vpa.TargetRef == nil {
		return nil
	}
	found, err := fetcher.FindTopMostWellKnownOrScalable(ctx, &controllerfetcher.ControllerKeyWithAPIVersion{
		ControllerKey: controllerfetcher.ControllerKey{Namespace: vpa.ID.Namespace, Kind: vpa.TargetRef.Kind, Name: vpa.TargetRef.Name},
		ApiVersion:    vpa.TargetRef.APIVersion,
	})
	if err != nil {
		return nil
	}
	return found
}

// RecordRecommendation notes whether the autoscaler has a recommendation, and says so when it has had none for long.
func (c *Cluster) RecordRecommendation(vpa *model.Vpa, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if vpa.HasRecommendation() {
		delete(c.missing, vpa.ID)
		return nil
	}
	since, ok := c.missing[vpa.ID]
	switch {
	case !ok:
		c.missing[vpa.ID] = now
	case since.Add(model.RecommendationMissingMaxDuration).Before(now):
		c.missing[vpa.ID] = now
		return fmt.Errorf("VPA %s/%s is missing recommendation for more than %v", vpa.ID.Namespace, vpa.ID.VpaName, model.RecommendationMissingMaxDuration)
	}
	return nil
}

// Aggregations calls yield for each aggregation of an autoscaler with the containers that add to it, always in the same order: sums of
// floating-point numbers depend on it, and with them whether a checkpoint changed.
func (c *Cluster) Aggregations(vpa *model.Vpa, yield func(container string, state *model.AggregateContainerState, adding []*model.ContainerState)) {
	a := c.linked[vpa.ID]
	if a == nil || a.vpa != vpa {
		return
	}
	for _, set := range slices.SortedFunc(maps.Keys(a.sets), func(a, b *labelSet) int { return cmp.Compare(a.text, b.text) }) {
		pods := slices.SortedFunc(maps.Values(set.pods), func(a, b *pod) int { return cmp.Compare(a.ID.PodName, b.ID.PodName) })
		for _, name := range slices.Sorted(maps.Keys(set.aggregations)) {
			var adding []*model.ContainerState
			for _, p := range pods {
				if container := p.Containers[name]; container != nil {
					adding = append(adding, container)
				}
			}
			yield(name, set.aggregations[name].state, adding)
		}
	}
}

// MemorySince says since when the memory of an autoscaler's containers was measured here. What an aggregation says of its first sample is
// CPU's.
func (c *Cluster) MemorySince(vpa *model.Vpa) map[string]time.Time {
	since := map[string]time.Time{}
	if a := c.linked[vpa.ID]; a != nil && a.vpa == vpa {
		for set := range a.sets {
			for name, aggregation := range set.aggregations {
				if known, is := since[name]; !aggregation.firstMemory.IsZero() && (!is || aggregation.firstMemory.Before(known)) {
					since[name] = aggregation.firstMemory
				}
			}
		}
	}
	return since
}
