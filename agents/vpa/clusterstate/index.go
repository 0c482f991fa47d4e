package clusterstate

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

type label struct{ key, value string }

// namespace is where label sets and autoscalers find each other.
type namespace struct {
	name    string
	sets    map[string]*labelSet               // by their text
	byLabel map[label]map[*labelSet]struct{}   // by each of their labels
	require map[label]map[*autoscaler]struct{} // by one label that they require, or one of several of which they require one
	rest    map[*autoscaler]struct{}           // that require no label with a value
	named   map[label]int                      // of the labels that Kubernetes gives each run, those that selectors ask for; without a value: whatever it is
	count   int                                // autoscalers, those that select nothing included
}

// labelSet is what pods of one namespace with the same labels have in common, but for the labels that tell runs apart and that no selector
// asks for. It lives while a pod, an aggregation or the memory of a pod
// needs it.
type labelSet struct {
	namespace    *namespace
	text         string
	labels       labels.Set
	pods         map[model.PodID]*pod
	departed     int
	aggregations map[string]*aggregation // by container
	autoscalers  []*autoscaler           // that select it, the controlling one first
	runs         bool                    // its pods have labels that tell runs apart
}

// autoscaler is a Vpa and what it selects.
type autoscaler struct {
	vpa   *model.Vpa
	sets  map[*labelSet]struct{}
	under []label // where namespace.require has it
}

// key is a model.AggregateStateKey. Two are equal when label set and container are.
type key struct {
	set       *labelSet
	container string
}

var _ model.AggregateStateKey = key{}

// Namespace of the containers.
func (k key) Namespace() string { return k.set.namespace.name }

// ContainerName of the containers.
func (k key) ContainerName() string { return k.container }

// Labels of the containers' pods.
func (k key) Labels() labels.Labels { return k.set.labels }

// stronger orders autoscalers as updater and admission do: the oldest controls, then the first by name.
func stronger(a, b *autoscaler) int {
	return cmp.Or(a.vpa.Created.Compare(b.vpa.Created), cmp.Compare(a.vpa.ID.VpaName, b.vpa.ID.VpaName))
}

func selectsNothing(s labels.Selector) bool {
	_, selectable := s.Requirements()
	return !selectable
}

// required are the labels of which one is needed to match a requirement, none when it is not of that kind.
func required(r labels.Requirement) []label {
	switch r.Operator() {
	case selection.Equals, selection.DoubleEquals, selection.In:
		values := r.ValuesUnsorted()
		all := make([]label, len(values))
		for i, value := range values {
			all[i] = label{r.Key(), value}
		}
		return all
	}
	return nil
}

// narrowest is the requirement with the fewest entries in an index, as labels; none when no requirement names a value.
func narrowest[T comparable](s labels.Selector, index map[label]map[T]struct{}) []label {
	requirements, _ := s.Requirements()
	var best []label
	least := -1
	for _, r := range requirements {
		of := required(r)
		if of == nil {
			continue
		}
		n := 0
		for _, l := range of {
			n += len(index[l])
		}
		if least < 0 || n < least {
			best, least = of, n
		}
	}
	return best
}

func (c *Cluster) namespace(name string) *namespace {
	n := c.namespaces[name]
	if n == nil {
		n = &namespace{
			name: name, sets: map[string]*labelSet{}, byLabel: map[label]map[*labelSet]struct{}{}, require: map[label]map[*autoscaler]struct{}{}, rest: map[*autoscaler]struct{}{},
			named: map[label]int{},
		}
		c.namespaces[name] = n
	}
	return n
}

func (c *Cluster) dropIfEmpty(n *namespace) {
	if len(n.sets) == 0 && n.count == 0 {
		delete(c.namespaces, n.name)
	}
}

// selected are the label sets that match a selector.
func (n *namespace) selected(s labels.Selector) iter.Seq[*labelSet] {
	return func(yield func(*labelSet) bool) {
		if n == nil {
			return
		}
		pass := func(sets iter.Seq[*labelSet]) bool {
			for set := range sets {
				if s.Matches(set.labels) && !yield(set) {
					return false
				}
			}
			return true
		}
		of := narrowest(s, n.byLabel)
		if of == nil {
			pass(maps.Values(n.sets))
			return
		}
		for _, l := range of { // one set has only one of them: they are values of one key
			if !pass(maps.Keys(n.byLabel[l])) {
				return
			}
		}
	}
}

// selecting are the autoscalers whose selectors match the labels.
func (n *namespace) selecting(l labels.Set) []*autoscaler {
	var found []*autoscaler
	pass := func(all map[*autoscaler]struct{}) {
		for a := range all {
			if a.vpa.PodSelector.Matches(l) {
				found = append(found, a)
			}
		}
	}
	for k, v := range l {
		pass(n.require[label{k, v}])
	}
	pass(n.rest)
	slices.SortFunc(found, stronger)
	return found
}

// ofOneRun says whether Kubernetes gives a label to tell the pods of one Job, one rollout or one replica from those of the next.
func ofOneRun(key string) bool {
	switch key {
	case "controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index",
		"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "pod-template-hash", "controller-revision-hash", "pod-template-generation":
		return true
	}
	return false
}

// askedFor are the labels of one run that a selector tells from others, without a value where it tells all apart. To a selector that names
// values, a pod with another one is as a pod without the label.
func askedFor(s labels.Selector) []label {
	requirements, _ := s.Requirements()
	var all []label
	for _, r := range requirements {
		if !ofOneRun(r.Key()) {
			continue
		}
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In, selection.NotEquals, selection.NotIn:
			for _, value := range r.ValuesUnsorted() {
				all = append(all, label{r.Key(), value})
			}
		default:
			all = append(all, label{key: r.Key()})
		}
	}
	return all
}

// kept are the labels of a pod without those of its run that nobody asks for. With them a CronJob would leave an aggregation per run, for
// as long as samples are kept.
func (n *namespace) kept(l labels.Set) labels.Set {
	idle := func(k, v string) bool {
		return ofOneRun(k) && n.named[label{k, v}] == 0 && n.named[label{key: k}] == 0
	}
	for k, v := range l {
		if idle(k, v) {
			l = maps.Clone(l)
			maps.DeleteFunc(l, idle)
			return l
		}
	}
	return l
}

// name takes note of what a selector asks for, and tells the pods apart that were one so far. What they used as one stays so: the
// autoscaler knows of them what comes from now on.
func (c *Cluster) name(n *namespace, s labels.Selector) {
	var all []label
	for _, l := range askedFor(s) {
		if n.named[l]++; n.named[l] == 1 {
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return
	}
	for _, set := range slices.Collect(maps.Values(n.sets)) {
		for _, p := range slices.Collect(maps.Values(set.pods)) {
			for _, l := range all {
				v, has := p.labels[l.key]
				if _, known := set.labels[l.key]; has && !known && (l.value == "" || l.value == v) {
					c.rejoin(p, p.labels)
					break
				}
			}
		}
	}
}

func (n *namespace) unname(s labels.Selector) {
	for _, l := range askedFor(s) {
		if n.named[l]--; n.named[l] == 0 {
			delete(n.named, l)
		}
	}
}

// intern returns the one label set for these labels.
func (c *Cluster) intern(ns string, l labels.Set) *labelSet {
	n := c.namespace(ns)
	kept := n.kept(l)
	runs := len(kept) < len(l)
	l = kept
	text := l.String()
	if set := n.sets[text]; set != nil {
		set.runs = set.runs || runs
		return set
	}
	set := &labelSet{namespace: n, text: text, labels: l, pods: map[model.PodID]*pod{}, aggregations: map[string]*aggregation{}, autoscalers: n.selecting(l), runs: runs}
	n.sets[text] = set
	for k, v := range l {
		insert(n.byLabel, label{k, v}, set)
	}
	for _, a := range set.autoscalers {
		a.sets[set] = struct{}{}
	}
	return set
}

// release drops a label set that nobody needs.
func (c *Cluster) release(set *labelSet) {
	if len(set.pods) > 0 || len(set.aggregations) > 0 || set.departed > 0 {
		return
	}
	n := set.namespace
	delete(n.sets, set.text)
	for k, v := range set.labels {
		remove(n.byLabel, label{k, v}, set)
	}
	for _, a := range set.autoscalers {
		delete(a.sets, set)
	}
	c.dropIfEmpty(n)
}

func insert[T comparable](index map[label]map[T]struct{}, l label, of T) {
	if index[l] == nil {
		index[l] = map[T]struct{}{}
	}
	index[l][of] = struct{}{}
}

func remove[T comparable](index map[label]map[T]struct{}, l label, of T) {
	delete(index[l], of)
	if len(index[l]) == 0 {
		delete(index, l)
	}
}

// link adds an autoscaler and ties it to what it selects.
func (c *Cluster) link(a *autoscaler) {
	n := c.namespace(a.vpa.ID.Namespace)
	n.count++
	c.name(n, a.vpa.PodSelector)
	c.vpas[a.vpa.ID], c.linked[a.vpa.ID] = a.vpa, a
	if !selectsNothing(a.vpa.PodSelector) {
		if a.under = narrowest(a.vpa.PodSelector, n.require); a.under == nil {
			n.rest[a] = struct{}{}
		}
		for _, l := range a.under {
			insert(n.require, l, a)
		}
	}
	for set := range n.selected(a.vpa.PodSelector) {
		a.sets[set] = struct{}{}
		set.autoscalers = append(set.autoscalers, a)
		slices.SortFunc(set.autoscalers, stronger)
		a.vpa.PodCount += len(set.pods)
		for _, aggregation := range set.aggregations {
			a.vpa.UseAggregationIfMatching(aggregation.key, aggregation.state)
		}
	}
}

func (c *Cluster) unlink(a *autoscaler) {
	n := c.namespace(a.vpa.ID.Namespace)
	n.count--
	n.unname(a.vpa.PodSelector)
	delete(c.vpas, a.vpa.ID)
	delete(c.linked, a.vpa.ID)
	delete(c.oomed, a.vpa.ID)
	delete(n.rest, a)
	for _, l := range a.under {
		remove(n.require, l, a)
	}
	for set := range a.sets {
		set.autoscalers = slices.DeleteFunc(set.autoscalers, func(other *autoscaler) bool { return other == a })
	}
	c.dropIfEmpty(n)
}

// aggregation is upstream's, with what that does not say of itself.
type aggregation struct {
	key         key
	state       *model.AggregateContainerState
	firstMemory time.Time // beginning of the oldest interval with a memory peak
	lastMemory  time.Time // end of the newest one
	gone        bool      // collected
}

// aggregation returns the one for a container of pods with these labels.
func (c *Cluster) aggregation(set *labelSet, container string) *aggregation {
	if known := set.aggregations[container]; known != nil {
		return known
	}
	made := &aggregation{key: key{set: set, container: container}, state: model.NewAggregateContainerState()}
	set.aggregations[container] = made
	c.size++
	for _, a := range slices.Backward(set.autoscalers) { // the controlling one last: its modes are to stay
		a.vpa.UseAggregationIfMatching(made.key, made.state)
	}
	return made
}
