package admission

import (
	"context"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/tools/cache"
)

// impatient is upstream's: what is not in the store does not exist.
type impatient struct{ stores map[string]cache.Store }

func (i impatient) FindTopMostWellKnownOrScalable(_ context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if store := i.stores[key.Kind]; store != nil {
		if _, is, _ := store.GetByKey(key.Namespace + "/" + key.Name); !is {
			return nil, errors.New("does not exist")
		}
		if _, is, _ := i.stores["Deployment"].GetByKey("n/d"); !is {
			return nil, errors.New("its Deployment does not exist")
		}
	}
	return key, nil
}

// TestOwnersComeLate: the first pod of a ReplicaSet is asked about before the watch has told of the ReplicaSet.
func TestOwnersComeLate(t *testing.T) {
	yes := true
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
	}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "r", OwnerReferences: owner("Deployment", "d")}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "d"}}
	for _, tt := range []struct {
		name, reason, kind string
		set, deployment    time.Duration // after which each is known; below zero: never
		found              bool
	}{
		{"known", "nobody waits", "ReplicaSet", 0, 0, true},
		{"a moment later", "the watch lags", "ReplicaSet", 100 * time.Millisecond, 0, true},
		{"its owner a moment later", "of two watches each may lag", "ReplicaSet", 0, 100 * time.Millisecond, true},
		{"never", "a pod does not wait for ever", "ReplicaSet", -1, 0, false},
		{"of a kind that nobody watches", "there is nothing to wait for", "Rollout", -1, -1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all := map[string]cache.Store{"ReplicaSet": cache.NewStore(cache.MetaNamespaceKeyFunc), "Deployment": cache.NewStore(cache.MetaNamespaceKeyFunc)}
			add := func(kind string, object any, after time.Duration) {
				switch {
				case after == 0:
					_ = all[kind].Add(object)
				case after > 0:
					timer := time.AfterFunc(after, func() { _ = all[kind].Add(object) })
					t.Cleanup(func() { timer.Stop() })
				}
			}
			add("ReplicaSet", set, tt.set)
			add("Deployment", deployment, tt.deployment)
			got, err := patient{impatient{all}, all}.FindTopMostWellKnownOrScalable(t.Context(), &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: "n", Kind: tt.kind, Name: "r"}})
			if (err == nil && got != nil) != tt.found {
				t.Errorf("%v, %v, want found %v: %s", got, err, tt.found, tt.reason)
			}
		})
	}
}
