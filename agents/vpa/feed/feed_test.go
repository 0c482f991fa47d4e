package feed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
	"github.com/nopsctl/nopsctl/agents/vpa/feed"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// stage is a cluster as the feeders see it, and both of them.
type stage struct {
	pods, vpas, checkpoints cache.Indexer
	selectorErr             error
	log                     bytes.Buffer

	upstream        input.ClusterStateFeeder
	upstreamCluster model.ClusterState
	upstreamOOMs    oom.Observer

	ours        input.ClusterStateFeeder
	oursCluster *clusterstate.Cluster
	oursOOMs    *feed.Observer
	client      *deletions
}

func (s *stage) Fetch(_ context.Context, vpa *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	if s.selectorErr != nil {
		return nil, s.selectorErr
	}
	return labels.SelectorFromSet(labels.Set{"app": vpa.Name}), nil
}

func (s *stage) GetContainersMetrics(context.Context) ([]*metrics.ContainerMetricsSnapshot, error) {
	return nil, nil
}

type deletions struct {
	vpaclient.VerticalPodAutoscalerCheckpointInterface
	names []string
}

func (d *deletions) VerticalPodAutoscalerCheckpoints(string) vpaclient.VerticalPodAutoscalerCheckpointInterface {
	return d
}

func (d *deletions) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	d.names = append(d.names, name)
	return nil
}

func newStage() *stage {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	s := &stage{pods: index(), vpas: index(), checkpoints: index(), upstreamCluster: model.NewClusterState(time.Hour), oursCluster: clusterstate.New(time.Hour),
		upstreamOOMs: oom.NewObserver(), oursOOMs: feed.NewObserver(), client: &deletions{}}
	upstream := func(c model.ClusterState, ooms oom.Observer) input.ClusterStateFeeder {
		return input.ClusterStateFeederFactory{ClusterState: c, OOMObserver: ooms, PodLister: listersv1.NewPodLister(s.pods), VpaLister: vpalisters.NewVerticalPodAutoscalerLister(s.vpas),
			VpaCheckpointLister: vpalisters.NewVerticalPodAutoscalerCheckpointLister(s.checkpoints), SelectorFetcher: s, MetricsClient: s, ControllerFetcher: controllerfetcher.FakeControllerFetcher{},
			RecommenderName: input.DefaultRecommenderName, IgnoredNamespaces: []string{"ignored"}}.Make()
	}
	s.upstream = upstream(s.upstreamCluster, s.upstreamOOMs)
	s.ours = feed.New(upstream(s.oursCluster, s.oursOOMs), feed.Options{Cluster: s.oursCluster, Observer: s.oursOOMs, Checkpoints: vpalisters.NewVerticalPodAutoscalerCheckpointLister(s.checkpoints),
		VPAs: vpalisters.NewVerticalPodAutoscalerLister(s.vpas), Client: s.client, Skip: func(ns string) bool { return ns == "ignored" }, Log: slog.New(slog.NewTextHandler(&s.log, nil))})
	return s
}

func (s *stage) vpa(t *testing.T, ns, name string) {
	t.Helper()
	if err := s.vpas.Add(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: vpav1.VerticalPodAutoscalerSpec{TargetRef: &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}}}); err != nil {
		t.Fatal(err)
	}
}

func (s *stage) checkpoint(t *testing.T, ns, vpa, container, version string, bucket int) {
	t.Helper()
	histogram := vpav1.HistogramCheckpoint{ReferenceTimestamp: metav1.NewTime(time.Now().Truncate(24 * time.Hour)), BucketWeights: map[int]uint32{bucket: 10000}, TotalWeight: 3}
	if err := s.checkpoints.Add(&vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: vpa + "-" + container},
		Spec:   vpav1.VerticalPodAutoscalerCheckpointSpec{VPAObjectName: vpa, ContainerName: container},
		Status: vpav1.VerticalPodAutoscalerCheckpointStatus{Version: version, CPUHistogram: histogram, MemoryHistogram: histogram, TotalSamplesCount: bucket}}); err != nil {
		t.Fatal(err)
	}
}

func history(c model.ClusterState) map[string]string {
	all := map[string]string{}
	for id, vpa := range c.VPAs() {
		for container, state := range vpa.ContainersInitialAggregateState {
			all[fmt.Sprint(id, container)] = fmt.Sprint(state.TotalSamplesCount, state.AggregateCPUUsage, state.AggregateMemoryPeaks)
		}
	}
	return all
}

// Upstream loads the list once per namespace (kubernetes/autoscaler#10302): what it cannot load it complains of as often.
func TestCheckpointsAreLoadedOnce(t *testing.T) {
	s := newStage()
	const n = 30
	for i := range n {
		s.vpa(t, fmt.Sprint("ns", i), "cart")
		s.checkpoint(t, fmt.Sprint("ns", i), "cart", "app", "v3", i)
		s.checkpoint(t, fmt.Sprint("ns", i), "cart", "side", "v3", i+1)
		s.checkpoint(t, fmt.Sprint("ns", i), "gone", "app", "v3", i)
	}
	s.vpa(t, "ignored", "cart")
	s.checkpoint(t, "ignored", "cart", "app", "v3", 1)
	s.checkpoint(t, "ns0", "cart", "old", "v2", 1)

	complaints := 0
	klog.SetLogger(funcr.New(func(_, args string) {
		if strings.Contains(args, "unsupported checkpoint version v2") {
			complaints++
		}
	}, funcr.Options{}))
	s.upstream.InitFromCheckpoints(t.Context())
	klog.SetLogger(logr.Discard())
	if complaints != n {
		t.Errorf("upstream loaded %d times, expected once for each of %d namespaces", complaints, n)
	}
	s.ours.InitFromCheckpoints(t.Context())
	if got := strings.Count(s.log.String(), "unsupported checkpoint version v2"); got != 1 {
		t.Errorf("we loaded %d times:\n%s", got, s.log.String())
	}
	up, our := history(s.upstreamCluster), history(s.oursCluster)
	if len(up) != 2*n || fmt.Sprint(up) != fmt.Sprint(our) {
		t.Errorf("upstream loaded %d histories, we %d", len(up), len(our))
	}
}

// Two checkpoints of one container: its name was another's when the one was made. What was written last is what is known.
func TestNewestCheckpointIsLoaded(t *testing.T) {
	for _, newest := range []int{0, 1} {
		s := newStage()
		s.vpa(t, "ns", "web")
		for i, name := range []string{"web-api-proxy", "web-api-proxy-0123456789"} {
			histogram := vpav1.HistogramCheckpoint{ReferenceTimestamp: metav1.NewTime(time.Now().Truncate(24 * time.Hour)), BucketWeights: map[int]uint32{i: 10000}, TotalWeight: 3}
			written := metav1.NewTime(time.Now().Add(-time.Hour))
			if i == newest {
				written = metav1.Now()
			}
			if err := s.checkpoints.Add(&vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
				Spec:   vpav1.VerticalPodAutoscalerCheckpointSpec{VPAObjectName: "web", ContainerName: "api-proxy"},
				Status: vpav1.VerticalPodAutoscalerCheckpointStatus{Version: "v3", LastUpdateTime: written, CPUHistogram: histogram, MemoryHistogram: histogram, TotalSamplesCount: 10 + i}}); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 { // lists have no order
			s.ours.InitFromCheckpoints(t.Context())
			if got := s.oursCluster.VPAs()[model.VpaID{Namespace: "ns", VpaName: "web"}].ContainersInitialAggregateState["api-proxy"].TotalSamplesCount; got != 10+newest {
				t.Fatalf("number %d is loaded, %d was written last", got-10, newest)
			}
		}
	}
}

func killed(name string, restarts int32, memory string) (before, after *corev1.Pod) {
	before = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "cart"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", RestartCount: restarts,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
	after = before.DeepCopy()
	after.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.Now()}}
	return before, after
}

func peak(c model.ClusterState) float64 {
	if state := c.VPAs()[model.VpaID{Namespace: "ns", VpaName: "cart"}].AggregateStateByContainerName()["app"]; state != nil {
		return state.AggregateMemoryPeaks.Percentile(1)
	}
	return 0
}

func (s *stage) loop(t *testing.T, f input.ClusterStateFeeder, c model.ClusterState) {
	t.Helper()
	f.LoadVPAs(t.Context())
	f.LoadPods()
	f.LoadRealTimeMetrics(t.Context())
	f.DeleteRemovedPods()
	c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), controllerfetcher.FakeControllerFetcher{})
}

// An OOM counts wherever its pod stands (kubernetes/autoscaler#6705).
func TestOOMs(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		run          func(t *testing.T, s *stage, f input.ClusterStateFeeder, c model.ClusterState, ooms oom.Observer)
		upstream     bool
		pods         int
	}{
		{"of a pod that was listed", "the model knows it", func(t *testing.T, s *stage, f input.ClusterStateFeeder, c model.ClusterState, ooms oom.Observer) {
			before, after := killed("p", 0, "2Gi")
			_ = s.pods.Add(before)
			s.loop(t, f, c)
			ooms.OnUpdate(before, after)
			s.loop(t, f, c)
		}, true, 1},
		{"of a pod that is deleted", "its news came a loop later", func(t *testing.T, s *stage, f input.ClusterStateFeeder, c model.ClusterState, ooms oom.Observer) {
			before, after := killed("p", 0, "2Gi")
			_ = s.pods.Add(before)
			s.loop(t, f, c)
			_ = s.pods.Delete(before)
			s.loop(t, f, c)
			ooms.OnUpdate(before, after)
			s.loop(t, f, c)
		}, false, 0},
		{"of a pod never listed", "it lived between two loops", func(t *testing.T, s *stage, f input.ClusterStateFeeder, c model.ClusterState, ooms oom.Observer) {
			s.loop(t, f, c)
			ooms.OnUpdate(killed("p", 0, "2Gi"))
			s.loop(t, f, c)
			s.loop(t, f, c)
		}, false, 0},
		{"told by an Event", "a pod evicted for its memory", func(t *testing.T, s *stage, f input.ClusterStateFeeder, c model.ClusterState, ooms oom.Observer) {
			before, _ := killed("p", 0, "2Gi")
			_ = s.pods.Add(before)
			s.loop(t, f, c)
			ooms.OnEvent(&corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now(), Annotations: map[string]string{"offending_containers": "app", "offending_containers_usage": "2Gi", "starved_resource": "memory"}},
				Reason: "Evicted", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "p"}})
			s.loop(t, f, c)
		}, true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, want := range map[string]bool{"upstream": tc.upstream, "ours": true} {
				s := newStage()
				s.vpa(t, "ns", "cart")
				f, c, ooms := s.upstream, s.upstreamCluster, s.upstreamOOMs
				if name == "ours" {
					f, c, ooms = s.ours, s.oursCluster, s.oursOOMs
				}
				tc.run(t, s, f, c, ooms)
				if got := peak(c) > 2<<30; got != want {
					t.Errorf("%s: it counts: %v, want %v (%s)", name, got, want, tc.reason)
				}
				if len(c.Pods()) != tc.pods {
					t.Errorf("%s: %d pods are left, want %d", name, len(c.Pods()), tc.pods)
				}
			}
		})
	}
}

// A process that waits to be leader reads no OOMs: its informer goes on, and what is newest is kept.
func TestObserverNeverBlocks(t *testing.T) {
	s := newStage()
	s.vpa(t, "ns", "cart")
	s.ours.LoadVPAs(t.Context())
	for range 12_000 {
		s.oursOOMs.OnUpdate(killed("p", 0, "1Gi"))
	}
	s.oursOOMs.OnUpdate(killed("last", 0, "4Gi"))
	s.oursOOMs.OnAdd(nil, true)
	s.oursOOMs.OnDelete(nil)
	s.oursOOMs.OnUpdate(nil, nil)
	s.loop(t, s.ours, s.oursCluster)
	if got := peak(s.oursCluster); got < 4<<30 {
		t.Errorf("the peak is %v", got)
	}
}

// A target that cannot be read for one loop costs upstream the history, and us nothing (kubernetes/autoscaler#9891).
func TestHistoryOutlivesUnreadableTarget(t *testing.T) {
	s := newStage()
	s.vpa(t, "ns", "cart")
	s.checkpoint(t, "ns", "cart", "app", "v3", 40)
	for name, want := range map[string]int{"upstream": 0, "ours": 40} {
		f, c := s.upstream, s.upstreamCluster
		if name == "ours" {
			f, c = s.ours, s.oursCluster
		}
		f.InitFromCheckpoints(t.Context())
		s.selectorErr = errors.New("the API server is busy")
		s.loop(t, f, c)
		vpa := c.VPAs()[model.VpaID{Namespace: "ns", VpaName: "cart"}]
		if !vpa.ConditionActive(vpav1.ConfigUnsupported) {
			t.Errorf("%s: the condition does not say that the target could not be read", name)
		}
		s.selectorErr = nil
		s.loop(t, f, c)
		vpa = c.VPAs()[model.VpaID{Namespace: "ns", VpaName: "cart"}]
		got := 0
		if state := vpa.AggregateStateByContainerName()["app"]; state != nil {
			got = state.TotalSamplesCount
		}
		if got != want || vpa.ConditionActive(vpav1.ConfigUnsupported) {
			t.Errorf("%s: %d samples are left, want %d", name, got, want)
		}
	}
}

func TestCheckpointsAreCollected(t *testing.T) {
	s := newStage()
	s.vpa(t, "ns", "cart")
	s.checkpoint(t, "ns", "cart", "app", "v3", 1)
	s.checkpoint(t, "ns", "gone", "app", "v3", 1)
	s.checkpoint(t, "ignored", "gone", "app", "v3", 1)
	s.ours.GarbageCollectCheckpoints(t.Context())
	if fmt.Sprint(s.client.names) != "[gone-app]" {
		t.Errorf("deleted %v", s.client.names)
	}
}
