package retarget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpa "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	listers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/client"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Autoscalers watches the autoscalers of all namespaces until the context ends, and returns once it knows them, with the index by target
// (vpautil.TargetRefIndex). Upstream's own function ends the process where this one returns an error.
func Autoscalers(ctx context.Context, c vpa.Interface) (listers.VerticalPodAutoscalerLister, cache.Indexer, error) {
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ObjectType:    &vpav1.VerticalPodAutoscaler{},
		ListerWatcher: cache.NewListWatchFromClient(c.AutoscalingV1().RESTClient(), rightsizing.Autoscalers().Resource, "", fields.Everything()),
		Handler:       &cache.ResourceEventHandlerFuncs{}, ResyncPeriod: time.Hour, Transform: client.StripManagedFields,
		Indexers: cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc, vpautil.TargetRefIndex: vpautil.TargetRefIndexFunc},
	})
	indexer, is := store.(cache.Indexer)
	if !is {
		return nil, nil, errors.New("the store of autoscalers has no index")
	}
	go controller.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return nil, nil, fmt.Errorf("wait for the cache of %s: %w", rightsizing.Autoscalers().GroupResource(), ctx.Err())
	}
	return listers.NewVerticalPodAutoscalerLister(indexer), indexer, nil
}
