package admission

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	handlers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// impatient is upstream's: what is not in the store does not exist.
type impatient struct {
	stores map[schema.GroupKind]cache.Store
}

var (
	deployments = schema.GroupKind{Group: "apps", Kind: "Deployment"}
	replicaSets = schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}
)

func (i impatient) FindTopMostWellKnownOrScalable(_ context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if store := i.stores[schema.FromAPIVersionAndKind(key.ApiVersion, key.Kind).GroupKind()]; store != nil {
		if _, is, _ := store.GetByKey(key.Namespace + "/" + key.Name); !is {
			return nil, errors.New("does not exist")
		}
		if _, is, _ := i.stores[deployments].GetByKey("n/d"); !is {
			return nil, errors.New("its Deployment does not exist")
		}
	}
	return key, nil
}

// counted is a store that counts how often it was asked.
type counted struct {
	cache.Store

	asked *atomic.Int64
}

func (c counted) GetByKey(key string) (item any, is bool, err error) {
	c.asked.Add(1)
	return c.Store.GetByKey(key)
}

// TestOwnersComeLate: the first pod of a ReplicaSet is asked about before the watch has told of the ReplicaSet.
func TestOwnersComeLate(t *testing.T) {
	yes := true
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, Controller: &yes}}
	}
	const often = -1
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "r", OwnerReferences: owner("Deployment", "d")}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "d"}}
	for _, tt := range []struct {
		name, reason, api, kind string
		none                    bool          // no autoscaler of the namespace sizes pods
		set, deployment         time.Duration // after which each is known; below zero: never
		found                   bool
		asked                   int64 // how often its owner was looked for
	}{
		{"known", "nobody waits", "apps/v1", "ReplicaSet", false, 0, 0, true, 1},
		{"a moment later", "the watch lags", "apps/v1", "ReplicaSet", false, 100 * time.Millisecond, 0, true, often},
		{"its owner a moment later", "of two watches each may lag", "apps/v1", "ReplicaSet", false, 0, 100 * time.Millisecond, true, 1},
		{"never", "a pod does not wait for ever", "apps/v1", "ReplicaSet", false, -1, 0, false, often},
		{"of a kind that nobody watches", "there is nothing to wait for", "argoproj.io/v1alpha1", "Rollout", false, -1, -1, true, 0},
		{"of somebody's kind by the same name", "no watch will ever tell of it", "apps.kruise.io/v1alpha1", "ReplicaSet", false, -1, -1, true, 0},
		{"without an autoscaler", "nobody would size it", "apps/v1", "ReplicaSet", true, -1, -1, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all := map[schema.GroupKind]cache.Store{replicaSets: cache.NewStore(cache.MetaNamespaceKeyFunc), deployments: cache.NewStore(cache.MetaNamespaceKeyFunc)}
			var asked atomic.Int64
			watched := map[schema.GroupKind]cache.Store{replicaSets: counted{all[replicaSets], &asked}, deployments: all[deployments]}
			add := func(kind schema.GroupKind, object any, after time.Duration) {
				switch {
				case after == 0:
					_ = all[kind].Add(object)
				case after > 0:
					timer := time.AfterFunc(after, func() { _ = all[kind].Add(object) })
					t.Cleanup(func() { timer.Stop() })
				}
			}
			add(replicaSets, set, tt.set)
			add(deployments, deployment, tt.deployment)
			fetcher := patient{impatient{all}, watched, func(namespace string) bool { return namespace == "n" && !tt.none }}
			got, err := fetcher.FindTopMostWellKnownOrScalable(t.Context(), &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: "n", Kind: tt.kind, Name: "r"}, ApiVersion: tt.api})
			if (err == nil && got != nil) != tt.found {
				t.Errorf("%v, %v, want found %v: %s", got, err, tt.found, tt.reason)
			}
			if n := asked.Load(); tt.asked == often && n < 2 || tt.asked != often && n != tt.asked {
				t.Errorf("its owner was looked for %d times: %s", n, tt.reason)
			}
		})
	}
}

// slow is an API server that answers later.
type slow struct{}

func (s slow) FindTopMostWellKnownOrScalable(ctx context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if _, ends := ctx.Deadline(); !ends {
		return nil, errors.New("it would be asked for ever")
	}
	return key, ctx.Err()
}

// TestWhoAskedIsGone: upstream remembers every answer, also that the question was cancelled.
func TestWhoAskedIsGone(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	fetcher := patient{ControllerFetcher: slow{}, sizes: func(string) bool { return true }}
	if _, err := fetcher.FindTopMostWellKnownOrScalable(gone, &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: "n", Kind: "Rollout", Name: "r"}, ApiVersion: "argoproj.io/v1alpha1"}); err != nil {
		t.Error(err)
	}
}

// TestNobodyAsksInVain: of an owner that is not watched the API server is asked, while it waits itself, only where the answer can matter.
func TestNobodyAsksInVain(t *testing.T) {
	yes := true
	stores := map[schema.GroupKind]cache.Store{replicaSets: cache.NewStore(cache.MetaNamespaceKeyFunc)}
	for _, namespace := range []string{"n", "other"} {
		for name, owners := range map[string][]metav1.OwnerReference{
			"own": nil, "canary": {{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "r", Controller: &yes}},
		} {
			if err := stores[replicaSets].Add(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: owners}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, reason, api, kind, owner, namespace string
		asked                                     int
	}{
		{"of a kind that nobody watches", "an autoscaler may be for it", "tekton.dev/v1", "TaskRun", "build", "n", 1},
		{"of such a kind, without an autoscaler", "nobody would size it", "tekton.dev/v1", "TaskRun", "build", "other", 0},
		{"owned by such a kind", "the autoscaler may be for that", "apps/v1", "ReplicaSet", "canary", "n", 1},
		{"owned by such a kind, without an autoscaler", "nobody would size it", "apps/v1", "ReplicaSet", "canary", "other", 0},
		{"of a kind that is watched, without an autoscaler", "that is known here, and costs nothing", "apps/v1", "ReplicaSet", "own", "other", 1},
	} {
		upstream := &asked{}
		fetcher := patient{upstream, stores, func(namespace string) bool { return namespace == "n" }}
		got, err := fetcher.FindTopMostWellKnownOrScalable(t.Context(), &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: tt.namespace, Kind: tt.kind, Name: tt.owner}, ApiVersion: tt.api})
		if err != nil || upstream.times != tt.asked || (got != nil) != (tt.asked > 0) {
			t.Errorf("%s: asked %d times, %v, %v; %s", tt.name, upstream.times, got, err, tt.reason)
		}
	}
}

// asked is upstream's, and counts.
type asked struct{ times int }

func (a *asked) FindTopMostWellKnownOrScalable(_ context.Context, key *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	a.times++
	return key, nil
}

// TestClient: some hundred pods at once whose owners are not watched do not wait for the client's own pace.
func TestClient(t *testing.T) {
	c, err := New(Deps{Kube: &rest.Config{Host: "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	if qps := c.kube.CoreV1().RESTClient().GetRateLimiter().QPS(); qps < 200 {
		t.Errorf("%g requests in a second", qps)
	}
}

// Pods wait for their owners where one of the namespace's autoscalers would size them.
func TestNamespacesThatAreSized(t *testing.T) {
	index := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for name, mode := range map[string]vpav1.UpdateMode{"off/a": vpav1.UpdateModeOff, "both/a": vpav1.UpdateModeOff, "both/b": vpav1.UpdateModeInPlace, "initial/a": vpav1.UpdateModeInitial, "unsaid/a": ""} {
		vpa := &vpav1.VerticalPodAutoscaler{}
		vpa.Namespace, vpa.Name, _ = strings.Cut(name, "/")
		if mode != "" {
			vpa.Spec.UpdatePolicy = &vpav1.PodUpdatePolicy{UpdateMode: &mode}
		}
		if err := index.Add(vpa); err != nil {
			t.Fatal(err)
		}
	}
	for namespace, want := range map[string]bool{"off": false, "both": true, "initial": true, "unsaid": true, "none": false} {
		if got := sizes(index, namespace); got != want {
			t.Errorf("%s: %t", namespace, got)
		}
	}
}

// unable cannot size.
type unable struct{ patch.Calculator }

func (unable) CalculatePatches(*corev1.Pod, *vpav1.VerticalPodAutoscaler) ([]handlers.PatchRecord, error) {
	return nil, errors.New("no idea")
}

// Upstream's handler admits a pod that could not be sized, and does not say so.
func TestWhatCannotBeSizedIsSaid(t *testing.T) {
	var said bytes.Buffer
	pod, vpa := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}}, &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if _, err := (loud{unable{}, slog.New(slog.NewTextHandler(&said, nil))}).CalculatePatches(pod, vpa); err == nil {
		t.Error("the error is lost")
	}
	for _, want := range []string{"level=WARN", "namespace=n", "pod=p", "autoscaler=a", "no idea"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("not said: %s in %s", want, said.String())
		}
	}
}
