// Package inventory knows what a cluster has of Karpenter: NodePools, NodeClaims, node classes, NodeOverlays, and of nodes and pods what
// plans depend on. It watches, keeps of each object what is needed and no more (two thousand nodes are a few MiB), and changes nothing.
//
// It outlives whatever is missing: a cluster without Karpenter is one with nothing in it, an API that is served later is found
// later, and a kind that may not be read is said to be so.
package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// Group is Karpenter's.
const Group = "karpenter.sh"

// Versions of Karpenter's API that are known: the first is written, the others are reported.
const (
	Writable       = "v1"
	OlderBeta      = "v1beta1"
	OverlayVersion = "v1alpha1"
)

const (
	// discoverEvery is how often the served APIs are looked at: Karpenter is installed, upgraded and removed under us.
	discoverEvery = time.Minute
	// behindLimit is how long a feed may be behind before nothing is decided by what it holds.
	behindLimit = 2 * time.Minute
)

// Options of a Watcher. Kube is needed.
type Options struct {
	Kube      *rest.Config
	UserAgent string
	Now       func() time.Time
	Rand      agent.Rand
	// Overlays says whether Karpenter's gate NodeOverlay is on: "on", "off", or "auto" to go by what is seen.
	Overlays string
	// SpotToSpot says that Karpenter's gate SpotToSpotConsolidation is on; nothing shows it.
	SpotToSpot bool
}

// Watcher keeps the inventory.
type Watcher struct {
	o       Options
	rest    rest.Interface
	dynamic dynamic.Interface
	pods    *feed[pod]
	nodes   *feed[zone]
	pool    *pool
	changed chan struct{}
	wake    chan struct{} // the pools name classes that are not watched yet

	mu       sync.Mutex
	found    found
	asked    bool // discovery has answered once
	problem  string
	pools    *kept[map[string]any]
	claims   *kept[*Claim]
	overlays *kept[map[string]any]
	classes  map[schema.GroupVersionKind]*kept[map[string]any]
	since    time.Time // of problem
}

// kept is a feed that runs.
type kept[T any] struct {
	*feed[T]
	resource schema.GroupVersionResource
	stop     context.CancelFunc
}

// found is what the API server serves of Karpenter.
type found struct {
	versions []string                           // of karpenter.sh, as served, sorted
	use      string                             // the one that NodePools and NodeClaims are read in
	overlays bool                               // nodeoverlays in v1alpha1
	classes  map[schema.GroupVersionKind]string // resource, of those that pools name
	missing  map[schema.GroupKind]string        // why a class that pools name is not watched
}

// New makes a Watcher.
func New(o Options) (*Watcher, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = func() float64 { return 0.5 }
	}
	clients, err := agent.NewClients(o.Kube, o.UserAgent, agent.Group{Version: corev1.SchemeGroupVersion, Kinds: []runtime.Object{&corev1.Pod{}, &corev1.PodList{}}})
	if err != nil {
		return nil, err
	}
	config := agent.KubeConfig(o.Kube, o.UserAgent)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of Karpenter's API: %w", err)
	}
	m, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of nodes: %w", err)
	}
	w := &Watcher{o: o, rest: clients[corev1.SchemeGroupVersion], dynamic: d, pool: newPool(), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), classes: map[schema.GroupVersionKind]*kept[map[string]any]{}}
	core := w.rest
	// The pods that have ended are not asked for: a cluster of Jobs has more of them than others.
	const live = "status.phase!=Succeeded,status.phase!=Failed"
	w.pods = newFeed(source{
		list: func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			l.FieldSelector = live
			var list corev1.PodList
			return &list, core.Get().Resource("pods").VersionedParams(&l, metav1.ParameterCodec).Do(ctx).Into(&list)
		},
		watch: func(ctx context.Context, l metav1.ListOptions) (watch.Interface, error) {
			l.FieldSelector, l.Watch = live, true
			return core.Get().Resource("pods").VersionedParams(&l, metav1.ParameterCodec).Watch(ctx)
		},
	}, w.pool.pod, func() {}, o.Now, o.Rand)
	nodes := m.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	w.nodes = newFeed(source{
		list:  func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) { return nodes.List(ctx, l) },
		watch: nodes.Watch,
	}, w.pool.where, func() {}, o.Now, o.Rand)
	return w, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Changes receives after something changed that a plan may depend on: a NodePool, a NodeClaim, a class. (Pods change always.)
func (w *Watcher) Changes() <-chan struct{} { return w.changed }

// Tasks keep the inventory.
func (w *Watcher) Tasks() []agent.Task {
	forever := func(run func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error {
			run(ctx)
			return nil
		}
	}
	return []agent.Task{
		{Name: "watching pods", Run: forever(w.pods.run)},
		{Name: "watching nodes", Run: forever(w.nodes.run)},
		{Name: "watching Karpenter", Run: forever(w.manage)},
	}
}

// manage runs the feeds of what is served.
func (w *Watcher) manage(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	backoff := agent.Backoff{Base: time.Second, Max: 30 * time.Second, Rand: w.o.Rand}
	for {
		f, err := w.discover(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := agent.Jitter(discoverEvery, 0.1, w.o.Rand)
		w.mu.Lock()
		if err != nil {
			if w.problem == "" {
				w.since = w.o.Now()
			}
			w.problem, wait = err.Error(), backoff.Next(0)
		} else {
			backoff.Reset()
			w.problem, w.found, w.asked = "", f, true
			w.adjust(ctx, &running, f)
		}
		w.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-w.wake:
			timer.Stop()
		}
	}
}

// adjust starts and stops feeds so that those run that are wanted. The lock is held.
func (w *Watcher) adjust(ctx context.Context, running *sync.WaitGroup, f found) {
	resource := func(name string) *schema.GroupVersionResource {
		if f.use == "" {
			return nil
		}
		return &schema.GroupVersionResource{Group: Group, Version: f.use, Resource: name}
	}
	changed := func() { signal(w.changed) }
	w.pools = replace(ctx, w, running, w.pools, resource("nodepools"), whole, func() { changed(); signal(w.wake) })
	w.claims = replace(ctx, w, running, w.claims, resource("nodeclaims"), w.pool.claim, changed)
	var overlays *schema.GroupVersionResource
	if f.overlays {
		overlays = &schema.GroupVersionResource{Group: Group, Version: OverlayVersion, Resource: "nodeoverlays"}
	}
	w.overlays = replace(ctx, w, running, w.overlays, overlays, whole, changed)
	for kind, k := range w.classes {
		if _, wanted := f.classes[kind]; !wanted {
			k.stop()
			delete(w.classes, kind)
		}
	}
	for kind, name := range f.classes {
		r := kind.GroupVersion().WithResource(name)
		w.classes[kind] = replace(ctx, w, running, w.classes[kind], &r, class, changed)
	}
}

func replace[T any](ctx context.Context, w *Watcher, running *sync.WaitGroup, have *kept[T], want *schema.GroupVersionResource, strip func(runtime.Object) (T, bool), notify func()) *kept[T] {
	if have != nil && want != nil && have.resource == *want {
		return have
	}
	if have != nil {
		have.stop()
	}
	if want == nil {
		return nil
	}
	client := w.dynamic.Resource(*want)
	own, stop := context.WithCancel(ctx)
	k := &kept[T]{resource: *want, stop: stop, feed: newFeed(source{
		list:  func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, l) },
		watch: client.Watch,
	}, strip, notify, w.o.Now, w.o.Rand)}
	running.Go(func() { k.run(own) })
	return k
}

// discover asks what is served.
func (w *Watcher) discover(ctx context.Context) (found, error) {
	f := found{classes: map[schema.GroupVersionKind]string{}, missing: map[schema.GroupKind]string{}}
	var group metav1.APIGroup
	served, err := w.ask(ctx, "/apis/"+Group, &group)
	if err != nil || !served {
		return f, err
	}
	for _, v := range group.Versions {
		f.versions = append(f.versions, v.Version)
	}
	slices.Sort(f.versions)
	for _, v := range []string{Writable, OlderBeta} {
		if !slices.Contains(f.versions, v) {
			continue
		}
		resources, err := w.resources(ctx, Group, v)
		if err != nil {
			return f, err
		}
		if resources["NodePool"] != "" && resources["NodeClaim"] != "" {
			f.use = v
			break
		}
	}
	if slices.Contains(f.versions, OverlayVersion) {
		resources, err := w.resources(ctx, Group, OverlayVersion)
		if err != nil {
			return f, err
		}
		f.overlays = resources["NodeOverlay"] != ""
	}
	for _, kind := range w.named() {
		if err := w.locate(ctx, kind, &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// locate finds the resource of a kind of classes, in the version that its group prefers.
func (w *Watcher) locate(ctx context.Context, kind schema.GroupKind, f *found) error {
	var group metav1.APIGroup
	served, err := w.ask(ctx, "/apis/"+kind.Group, &group)
	if err != nil {
		return err
	}
	if !served {
		f.missing[kind] = "the API " + kind.Group + " is not served"
		return nil
	}
	version := group.PreferredVersion.Version
	resources, err := w.resources(ctx, kind.Group, version)
	if err != nil {
		return err
	}
	name := resources[kind.Kind]
	if name == "" {
		f.missing[kind] = fmt.Sprintf("%s/%s has no %s", kind.Group, version, kind.Kind)
		return nil
	}
	f.classes[kind.WithVersion(version)] = name
	return nil
}

// named are the kinds of classes that the pools name.
func (w *Watcher) named() []schema.GroupKind {
	w.mu.Lock()
	pools := w.pools
	w.mu.Unlock()
	var all []schema.GroupKind
	if pools == nil {
		return nil
	}
	pools.each(func(_ string, o map[string]any) {
		ref := at(o, "spec", "template", "spec", "nodeClassRef")
		kind := schema.GroupKind{Group: or(text(ref, "group"), groupOf(text(ref, "apiVersion"))), Kind: text(ref, "kind")}
		// What is asked for must be a name, whatever the pool says.
		if kind.Kind != "" && kind.Group != "" && !strings.ContainsAny(kind.Group, "/?#%") && !slices.Contains(all, kind) {
			all = append(all, kind)
		}
	})
	return all
}

func groupOf(apiVersion string) string {
	group, _, _ := strings.Cut(apiVersion, "/")
	return group
}

// ask reads a document of discovery; false when it is not served.
func (w *Watcher) ask(ctx context.Context, path string, into any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	raw, err := agent.Raw(w.rest.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx))
	switch {
	case agent.StatusOf(err) == http.StatusNotFound:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("asking the API server for %s: %w", path, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return false, fmt.Errorf("asking the API server for %s: %w", path, err)
	}
	return true, nil
}

// resources of a version, by kind, sub-resources aside.
func (w *Watcher) resources(ctx context.Context, group, version string) (map[string]string, error) {
	var list metav1.APIResourceList
	if _, err := w.ask(ctx, "/apis/"+group+"/"+version, &list); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") {
			all[r.Kind] = r.Name
		}
	}
	return all, nil
}

// Resource is where the objects of a kind of classes are, for who has to write one; false when it is not watched.
func (w *Watcher) Resource(kind string) (schema.GroupVersionResource, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for gvk, k := range w.classes {
		if gvk.Kind == kind {
			return k.resource, true
		}
	}
	return schema.GroupVersionResource{}, false
}

// Snapshot is the inventory at one moment. What it holds is shared: read only.
type Snapshot struct {
	At        time.Time
	Karpenter karpenstate.Karpenter
	// Problem says why nothing may be decided by this: something was never read, or is behind. It holds no relative times.
	Problem  string
	Pools    []map[string]any // NodePools, sorted by name
	Overlays []map[string]any
	Classes  []Class
	Claims   []*Claim
	Zones    map[string]string // zone ID → name
	shapes   map[*shape]*counted
	requests map[string]float64 // vCPU, by node
}

// Class is a node class of any provider.
type Class struct {
	Kind   string
	Object map[string]any
}

type counted struct{ running, pending int }

// Snapshot is what there is now.
func (w *Watcher) Snapshot() Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.o.Now()
	s := Snapshot{At: now, Zones: map[string]string{}, shapes: map[*shape]*counted{}, requests: map[string]float64{}}
	var problems []string
	behind := func(what string, h interface {
		health() (bool, time.Time, string)
	}) {
		switch listed, since, problem := h.health(); {
		case !listed:
			problems = append(problems, strings.TrimSuffix(what+" were not read yet: "+problem, ": "))
		case !since.IsZero() && now.Sub(since) > behindLimit:
			problems = append(problems, fmt.Sprintf("%s were last seen at %s: %s", what, since.UTC().Format(time.RFC3339), problem))
		}
	}
	switch {
	case !w.asked:
		problems = append(problems, strings.TrimSuffix("what the API server serves is not known yet: "+w.problem, ": "))
	case w.problem != "" && now.Sub(w.since) > behindLimit:
		problems = append(problems, w.problem)
	}
	s.Karpenter = karpenstate.Karpenter{APIVersions: slices.Clone(w.found.versions), Writable: w.found.use == Writable, SpotToSpot: w.o.SpotToSpot}
	if w.pools != nil {
		behind("NodePools", w.pools)
		w.pools.each(func(_ string, o map[string]any) { s.Pools = append(s.Pools, o) })
	}
	if w.claims != nil {
		behind("NodeClaims", w.claims)
		w.claims.each(func(_ string, c *Claim) { s.Claims = append(s.Claims, c) })
	}
	if w.overlays != nil {
		w.overlays.each(func(_ string, o map[string]any) { s.Overlays = append(s.Overlays, o) })
	}
	for gvk, k := range w.classes {
		s.Karpenter.NodeClassKinds = append(s.Karpenter.NodeClassKinds, gvk.Kind)
		k.each(func(_ string, o map[string]any) { s.Classes = append(s.Classes, Class{gvk.Kind, o}) })
	}
	behind("pods", w.pods)
	behind("nodes", w.nodes)
	w.count(&s)
	s.arrange()
	s.Problem = strings.Join(problems, "; ")
	s.Karpenter.NodeOverlay, s.Karpenter.DetectionProblem = w.gates(s)
	return s
}

// count adds the pods up: those that Karpenter's nodes run, and those that wait for a node. Pods elsewhere are not its business.
func (w *Watcher) count(s *Snapshot) {
	karpenters := map[string]bool{}
	for _, c := range s.Claims {
		if c.Node != "" {
			karpenters[c.Node] = true
		}
		if id, name := c.Labels["topology.k8s.aws/zone-id"], c.Labels["topology.kubernetes.io/zone"]; id != "" && name != "" {
			s.Zones[id] = name
		}
	}
	w.nodes.each(func(_ string, z zone) {
		if z.id != "" {
			s.Zones[z.id] = z.name
		}
	})
	w.pods.each(func(_ string, p pod) {
		if p.node != "" && !karpenters[p.node] {
			return
		}
		if p.node != "" {
			s.requests[p.node] += p.shape.CPU
		}
		if p.daemon {
			return
		}
		n := s.shapes[p.shape]
		if n == nil {
			n = &counted{}
			s.shapes[p.shape] = n
		}
		if n.running++; p.node == "" {
			n.running--
			n.pending++
		}
	})
}

// gates are Karpenter's that nothing states: they are told from what it does. A NodeOverlay with a condition was evaluated, so the gate is on;
// one that has stood for minutes without was not, whatever the option says. The problem is also what else of Karpenter's cannot be read: node classes and
// overlays, which decisions can do without.
func (w *Watcher) gates(s Snapshot) (overlays bool, problem string) {
	var missing []string
	for kind, why := range w.found.missing {
		missing = append(missing, kind.Kind+": "+why)
	}
	unread := func(kind string, h interface {
		health() (bool, time.Time, string)
	}) {
		if listed, since, why := h.health(); why != "" && (!listed || s.At.Sub(since) > behindLimit) {
			missing = append(missing, kind+": "+why)
		}
	}
	for gvk, k := range w.classes {
		unread(gvk.Kind, k)
	}
	if w.overlays != nil {
		unread("NodeOverlay", w.overlays)
	}
	slices.Sort(missing)
	if w.found.overlays && w.o.Overlays != "off" {
		var evaluated, ignored bool
		for _, o := range s.Overlays {
			conditions, _ := at(o, "status", "conditions").([]any)
			created, err := time.Parse(time.RFC3339, text(o, "metadata", "creationTimestamp"))
			evaluated = evaluated || len(conditions) > 0
			ignored = ignored || len(conditions) == 0 && err == nil && s.At.Sub(created) > 5*time.Minute
		}
		switch {
		case evaluated:
			overlays = true
		case ignored:
			missing = append(missing, "NodeOverlay: Karpenter does not evaluate the overlays that there are: its feature gate NodeOverlay is off")
		case w.o.Overlays == "on":
			overlays = true
		default:
			missing = append(missing, "NodeOverlay: served, and nothing shows whether Karpenter's feature gate NodeOverlay is on; say it with value karpenops.nodeOverlays (--node-overlays)")
		}
	}
	return overlays, strings.Join(missing, "; ")
}
