package admission

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a pod waits for its owners to be known here, and pace how often that is looked at.
const (
	patience = time.Second
	pace     = 10 * time.Millisecond
)

// patient waits a moment for owners that a watch has not told yet: a ReplicaSet's first pod comes milliseconds after it, and upstream's
// answer would be that nobody owns it, so that of every roll-out the first pod would be as its template says. Other pods do not wait: those of a
// namespace that has no autoscaler, and of somebody's kind that is called Job or StatefulSet, too. Nor does one of such a namespace wait for the API
// server to be asked about an owner that nobody watches: the webhook is told of nearly every pod of the cluster, and no answer would be of any use.
type patient struct {
	controllerfetcher.ControllerFetcher

	stores map[schema.GroupKind]cache.Store
	// sizes says whether new pods of a namespace are sized at all.
	sizes func(namespace string) bool
}

// FindTopMostWellKnownOrScalable implements controllerfetcher.ControllerFetcher.
func (p patient) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if key != nil {
		limit, cancel := context.WithTimeout(ctx, patience)
		watched := p.settle(limit, key.Namespace, schema.FromAPIVersionAndKind(key.ApiVersion, key.Kind).GroupKind(), key.Name)
		cancel()
		if !watched && !p.sizes(key.Namespace) {
			return nil, nil // as of a pod that nobody owns: upstream looks for autoscalers in its namespace alone, and leaves those that only recommend
		}
	}
	// Who gives up waiting for the answer does not spoil it for the pods that come next: that a question was cancelled is remembered like any answer.
	patiently, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	return p.ControllerFetcher.FindTopMostWellKnownOrScalable(patiently, key) //nolint:wrapcheck // upstream asks what it is
}

// settle waits until an owner is known, and its owners. False is that one of them is of a kind that is not watched.
func (p patient) settle(ctx context.Context, namespace string, kind schema.GroupKind, name string) bool {
	for range len(p.stores) + 1 { // owners that own each other end, too
		store, is := p.stores[kind]
		if !is {
			return false
		}
		for first := true; ; first = false {
			found, is, err := store.GetByKey(namespace + "/" + name)
			if err != nil {
				return true
			}
			if is {
				object, _ := found.(metav1.Object)
				owner := metav1.GetControllerOfNoCopy(object)
				if owner == nil {
					return true
				}
				kind, name = schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind(), owner.Name
				break
			}
			if first && !p.sizes(namespace) {
				return true
			}
			select {
			case <-ctx.Done():
				return true
			case <-time.After(pace):
			}
		}
	}
	return true
}
