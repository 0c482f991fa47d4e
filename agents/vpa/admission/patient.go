package admission

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// patience is how long a pod waits for its owners to be known here, and pace how often that is looked at.
const (
	patience = time.Second
	pace     = 10 * time.Millisecond
)

// patient waits a moment for owners that a watch has not told yet: a ReplicaSet's first pod comes milliseconds after it, and upstream's
// answer would be that nobody owns it, so that of every roll-out the first pod would be as its template says.
type patient struct {
	controllerfetcher.ControllerFetcher

	stores map[string]cache.Store // by kind
}

// stores are upstream's well-known kinds.
func stores(f informers.SharedInformerFactory) map[string]cache.Store {
	return map[string]cache.Store{
		"Deployment": f.Apps().V1().Deployments().Informer().GetStore(), "ReplicaSet": f.Apps().V1().ReplicaSets().Informer().GetStore(), "StatefulSet": f.Apps().V1().StatefulSets().Informer().GetStore(),
		"DaemonSet": f.Apps().V1().DaemonSets().Informer().GetStore(), "Job": f.Batch().V1().Jobs().Informer().GetStore(), "CronJob": f.Batch().V1().CronJobs().Informer().GetStore(),
		"ReplicationController": f.Core().V1().ReplicationControllers().Informer().GetStore(),
	}
}

// FindTopMostWellKnownOrScalable implements controllerfetcher.ControllerFetcher.
func (p patient) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if key != nil {
		limit, cancel := context.WithTimeout(ctx, patience)
		p.settle(limit, key.Namespace, key.Kind, key.Name)
		cancel()
	}
	return p.ControllerFetcher.FindTopMostWellKnownOrScalable(ctx, key) //nolint:wrapcheck // upstream asks what it is
}

// settle waits until an owner is known, and its owners.
func (p patient) settle(ctx context.Context, namespace, kind, name string) {
	for range len(p.stores) { // owners that own each other end, too
		store, is := p.stores[kind]
		if !is {
			return
		}
		for {
			found, is, err := store.GetByKey(namespace + "/" + name)
			if err != nil {
				return
			}
			if is {
				object, _ := found.(metav1.Object)
				owner := metav1.GetControllerOfNoCopy(object)
				if owner == nil {
					return
				}
				kind, name = owner.Kind, owner.Name
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pace):
			}
		}
	}
}
