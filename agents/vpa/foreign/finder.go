package foreign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// index is that of claims by workload.
const index = "workload"

// Options of a Finder.
type Options struct {
	// Every is how often it is asked which APIs are there; zero means 30 seconds.
	Every time.Duration
	// Log gets what cannot be read; nil is silence.
	Log *slog.Logger
}

// Finder knows who else sizes workloads, from Run on.
type Finder struct {
	every time.Duration
	log   *slog.Logger
	apis  rest.Interface
	watch dynamic.Interface

	mu    sync.RWMutex
	known []*state
}

// state is what is known of a source.
type state struct {
	source

	asked bool  // whether its API is there was found out once
	err   error // why it could not be this time
	// watching is nil where the API is not there.
	watching *watching
}

type watching struct {
	gvr      schema.GroupVersionResource
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
	ended    chan struct{}
}

// New makes a finder.
func New(config *rest.Config, o Options) (*Finder, error) {
	apis, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the APIs there are: %w", err)
	}
	watch, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of others' objects: %w", err)
	}
	f := &Finder{every: o.Every, log: o.Log, apis: apis.RESTClient(), watch: watch}
	if f.every == 0 {
		f.every = 30 * time.Second
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range sources() {
		f.known = append(f.known, &state{source: s})
	}
	return f, nil
}

// Run watches until the context ends.
func (f *Finder) Run(ctx context.Context) error {
	defer func() {
		for _, s := range f.known {
			f.settle(s, schema.GroupVersionResource{}, nil)
		}
	}()
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		for _, s := range f.known {
			gvr, err := f.find(ctx, s.source)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil && (s.err == nil || s.err.Error() != err.Error()) {
				f.log.LogAttrs(ctx, slog.LevelWarn, "it cannot be found out who else sizes workloads", slog.String("resource", s.resource+"."+s.group), slog.Any("error", err))
			}
			f.settle(s, gvr, err)
			f.begin(ctx, s)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// find asks whether the source's API is there, and in which version; the zero value is that it is not.
func (f *Finder) find(ctx context.Context, s source) (schema.GroupVersionResource, error) {
	var group metav1.APIGroup
	err := f.apis.Get().AbsPath("/apis/" + s.group).Do(ctx).Into(&group)
	if apierrors.IsNotFound(err) {
		return schema.GroupVersionResource{}, nil
	}
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("asking for the API group %s: %w", s.group, err)
	}
	versions := append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...)
	for _, v := range versions {
		var list metav1.APIResourceList
		err := f.apis.Get().AbsPath("/apis/" + v.GroupVersion).Do(ctx).Into(&list)
		if apierrors.IsNotFound(err) {
			continue // went in between
		}
		if err != nil {
			return schema.GroupVersionResource{}, fmt.Errorf("asking for the API %s: %w", v.GroupVersion, err)
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == s.resource }) {
			return schema.GroupVersionResource{Group: s.group, Version: v.Version, Resource: s.resource}, nil
		}
	}
	return schema.GroupVersionResource{}, nil
}

// settle takes in whether the API is there, and ends the watch of one that went, or changed its version.
func (f *Finder) settle(s *state, gvr schema.GroupVersionResource, err error) {
	f.mu.Lock()
	s.err = err
	var old *watching
	if err == nil {
		s.asked = true
		if s.watching != nil && s.watching.gvr != gvr {
			old, s.watching = s.watching, nil
		}
		if s.watching == nil && !gvr.Empty() {
			s.watching = &watching{gvr: gvr}
		}
	}
	f.mu.Unlock()
	if old != nil && old.stop != nil {
		old.stop()
		<-old.ended
	}
}

// begin begins a watch that is to be.
func (f *Finder) begin(ctx context.Context, s *state) {
	w := s.watching
	if w == nil || w.informer != nil {
		return
	}
	informer := dynamicinformer.NewFilteredDynamicInformer(f.watch, w.gvr, metav1.NamespaceAll, 0, cache.Indexers{index: func(o any) ([]string, error) {
		c, is := o.(*claim)
		if !is || c.ref.Name == "" {
			return nil, nil
		}
		return []string{c.ref.key()}, nil
	}}, nil).Informer()
	_ = informer.SetTransform(func(o any) (any, error) {
		u, is := o.(*unstructured.Unstructured)
		if !is {
			return o, nil
		}
		c := s.read(u)
		c.ObjectMeta = metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()}
		return &c, nil
	})
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			f.log.LogAttrs(ctx, slog.LevelWarn, "objects of others who size workloads cannot be watched", slog.String("resource", w.gvr.String()), slog.Any("error", err))
		}
	})
	watch, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	f.mu.Lock()
	w.informer, w.stop, w.ended = informer, stop, ended
	f.mu.Unlock()
	go func() {
		defer close(ended)
		informer.RunWithContext(watch)
	}()
}

// Ready says why it is not known yet who else sizes workloads; nil is that it is. Until then nothing must be changed.
func (f *Finder) Ready() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var errs []error
	for _, s := range f.known {
		name := s.resource + "." + s.group
		switch {
		case !s.asked && s.err != nil:
			errs = append(errs, s.err)
		case !s.asked:
			errs = append(errs, fmt.Errorf("whether there are %s was not asked yet", name))
		case s.watching != nil && (s.watching.informer == nil || !s.watching.informer.HasSynced()):
			errs = append(errs, fmt.Errorf("%s were not listed yet", name))
		}
	}
	return errors.Join(errs...)
}

// claims are those about a workload.
func (f *Finder) claims(ref Ref) []*claim {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var found []*claim
	for _, s := range f.known {
		if s.watching == nil || s.watching.informer == nil {
			continue
		}
		objects, _ := s.watching.informer.GetIndexer().ByIndex(index, ref.key())
		for _, o := range objects {
			if c, is := o.(*claim); is {
				found = append(found, c)
			}
		}
	}
	slices.SortFunc(found, func(a, b *claim) int { return cmpStrings(a.why, b.why, a.Name, b.Name) })
	return found
}

func cmpStrings(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] != pairs[i+1] {
			if pairs[i] < pairs[i+1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// Elsewhere says that somebody else sizes a workload, and who. The objects are the workload and pods of it, as far as the caller has them:
// marks of others are looked for on them. While it is not known yet (Ready), somebody else does.
func (f *Finder) Elsewhere(ref Ref, objects ...metav1.Object) (reason string, is bool) {
	if err := f.Ready(); err != nil {
		return "it is not known yet who else sizes it: " + err.Error(), true
	}
	for _, c := range f.claims(ref) {
		if c.why != "" {
			return c.why, true
		}
	}
	return Marked(objects...)
}

// Scaled says by which HorizontalPodAutoscaler a workload is scaled on the utilization of a resource: that resource is left to it, unless
// its target was made to follow.
func (f *Finder) Scaled(ref Ref) map[corev1.ResourceName]string {
	var by map[corev1.ResourceName]string
	for _, c := range f.claims(ref) {
		for _, r := range c.scales {
			if by == nil {
				by = map[corev1.ResourceName]string{}
			}
			if by[r] == "" {
				by[r] = fmt.Sprintf("HorizontalPodAutoscaler %s scales on the utilization of %s", c.Name, r)
			}
		}
	}
	return by
}

// Workloads gives the workloads of a factory's informers, nil for one that is not there. It registers them: call it before the factory
// starts.
func Workloads(factory informers.SharedInformerFactory) func(Ref) metav1.Object {
	stores := map[string]cache.Store{
		"Deployment":  factory.Apps().V1().Deployments().Informer().GetStore(),
		"StatefulSet": factory.Apps().V1().StatefulSets().Informer().GetStore(),
		"DaemonSet":   factory.Apps().V1().DaemonSets().Informer().GetStore(),
		"ReplicaSet":  factory.Apps().V1().ReplicaSets().Informer().GetStore(),
		"CronJob":     factory.Batch().V1().CronJobs().Informer().GetStore(),
		"Job":         factory.Batch().V1().Jobs().Informer().GetStore(),
	}
	return func(ref Ref) metav1.Object {
		store := stores[ref.Kind]
		if store == nil {
			return nil
		}
		o, _, _ := store.GetByKey(ref.Namespace + "/" + ref.Name)
		m, _ := o.(metav1.Object)
		return m
	}
}
