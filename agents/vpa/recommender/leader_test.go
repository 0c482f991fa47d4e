package recommender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
	"github.com/nopsctl/nopsctl/agents/vpa/feed"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// stage is a leader over a model that tests feed, in time that tests tell. What it would write is written into the objects at once.
type stage struct {
	*leader

	t    testing.TB
	now  time.Time
	vpas map[string]*vpav1.VerticalPodAutoscaler
	why  map[string][]rightsizing.Explanation
	pods map[string]int
}

func newStage(t testing.TB, platform push.Platform) *stage {
	t.Helper()
	s := &stage{t: t, now: start, vpas: map[string]*vpav1.VerticalPodAutoscaler{}, why: map[string][]rightsizing.Explanation{}, pods: map[string]int{}}
	config := &rest.Config{Host: "http://127.0.0.1:1"} // nobody is asked
	r, err := New(Options{Interval: time.Minute}, Deps{Kube: config, Platform: platform, Now: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	finder, err := foreign.New(config, foreign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.leader = &leader{
		Recommender: r, loop: r.health.Loop("test", time.Hour), estimators: newEstimators(), holds: newHolds(), days: newDays(start), finder: finder, written: map[types.UID]time.Time{},
		began: start, seed: maphash.MakeSeed(), cluster: clusterstate.New(time.Hour), past: newPast(nil, 0, start, slog.New(slog.DiscardHandler), nil),
		workload: func(foreign.Ref) metav1.Object { return nil },
	}
	return s
}

// autoscaler adds one for a Deployment of that name; settings empty is none.
func (s *stage) autoscaler(name, settings string) *vpav1.VerticalPodAutoscaler {
	vpa := &vpav1.VerticalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Generation: 1, CreationTimestamp: metav1.NewTime(s.now)},
		Spec:       vpav1.VerticalPodAutoscalerSpec{TargetRef: &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}},
	}
	if settings != "" {
		vpa.Annotations = map[string]string{rightsizing.AnnotationSettings: settings}
	}
	s.vpas[name] = vpa
	return vpa
}

// replicas adds pods with one container.
func (s *stage) replicas(name string, n int, cpu, memory int64) {
	s.pods[name] = n
	for i := range n {
		id := model.PodID{Namespace: "shop", PodName: fmt.Sprintf("%s-%d", name, i)}
		s.cluster.AddOrUpdatePod(id, labels.Set{"app": name}, corev1.PodRunning)
		if err := s.cluster.AddOrUpdateContainer(model.ContainerID{PodID: id, ContainerName: "app"}, model.Resources{model.ResourceCPU: model.ResourceAmount(cpu), model.ResourceMemory: model.ResourceAmount(memory)}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *stage) use(name string, pod int, cpu, memory int64) {
	s.t.Helper()
	id := model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: fmt.Sprintf("%s-%d", name, pod)}, ContainerName: "app"}
	for res, amount := range map[model.ResourceName]int64{model.ResourceCPU: cpu, model.ResourceMemory: memory} {
		sample := model.ContainerUsageSample{MeasureStart: s.now, Resource: res, Usage: model.ResourceAmount(amount)}
		if err := s.cluster.AddSample(&model.ContainerUsageSampleWithKey{Container: id, ContainerUsageSample: sample}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// turn makes a round but for what comes from and goes to servers, and says how many statuses were worth writing.
func (s *stage) turn() int {
	s.t.Helper()
	var observed []*vpav1.VerticalPodAutoscaler
	for name, vpa := range s.vpas {
		if err := s.cluster.AddOrUpdateVpa(vpa, labels.SelectorFromSet(labels.Set{"app": name})); err != nil {
			s.t.Fatal(err)
		}
		observed = append(observed, vpa)
	}
	s.cluster.SetObservedVPAs(observed)
	writes := s.compute(&Round{})
	for _, w := range writes {
		var body struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Status   ownStatus         `json:"status"`
		}
		if err := json.Unmarshal(w.body, &body); err != nil || body.Metadata.UID != w.vpa.UID {
			s.t.Fatalf("%s: %v", w.body, err)
		}
		vpa := s.vpas[w.vpa.Name].DeepCopy()
		vpa.Status = vpav1.VerticalPodAutoscalerStatus{Recommendation: body.Status.Recommendation, Conditions: body.Status.Conditions, ObservedGeneration: body.Status.ObservedGeneration}
		s.vpas[w.vpa.Name], s.why[w.vpa.Name] = vpa, body.Status.Explanations
		s.written[w.vpa.UID] = s.now
		delete(s.holds.unwritten, model.VpaID{Namespace: w.vpa.Namespace, VpaName: w.vpa.Name})
	}
	return len(writes)
}

func (s *stage) target(name string, resource corev1.ResourceName) int64 {
	s.t.Helper()
	r := s.vpas[name].Status.Recommendation
	if r == nil || len(r.ContainerRecommendations) != 1 {
		s.t.Fatalf("%s has no recommendation: %+v", name, r)
	}
	q := r.ContainerRecommendations[0].Target[resource]
	if resource == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func (s *stage) condition(name, kind string) (corev1.ConditionStatus, string, string) {
	for _, c := range s.vpas[name].Status.Conditions {
		if string(c.Type) == kind {
			return c.Status, c.Reason, c.Message
		}
	}
	return "", "", ""
}

const balanced = `{"policy":"p","level":"BalancedSavings"}`

// TestWritesAreFew: with steady usage and noise, from the first hour on at most one in twenty statuses is written in a round, although all
// bounds narrow all day.
func TestWritesAreFew(t *testing.T) {
	s := newStage(t, nil)
	const workloads = 60
	noise := rand.New(rand.NewPCG(1, 2))
	for i := range workloads {
		name := fmt.Sprintf("w%d", i)
		s.autoscaler(name, []string{"", balanced}[i%2])
		s.replicas(name, 2, 1000, 1024*mi)
	}
	if n := s.turn(); n != workloads {
		t.Fatalf("%d of %d were written in the first round", n, workloads)
	}
	total, worst := 0, 0
	const hour, minutes = 60, 6 * 60
	for minute := range minutes {
		s.now = start.Add(time.Duration(minute+1) * time.Minute)
		for i := range workloads {
			for p := range 2 {
				s.use(fmt.Sprintf("w%d", i), p, 200+int64(i)+noise.Int64N(100), (300+int64(i))*mi+noise.Int64N(10*mi))
			}
		}
		n := s.turn()
		if minute >= hour {
			total, worst = total+n, max(worst, n)
		}
	}
	mean := float64(total) / (minutes - hour) / workloads
	t.Logf("%.2f %% written in a round from the first hour to the sixth, %d %% in the worst", 100*mean, 100*worst/workloads)
	if mean > 0.05 {
		t.Errorf("%.1f %% of the statuses are written in a round", 100*mean)
	}
	if total == 0 {
		t.Error("nothing was written: bounds that narrow are news at some time")
	}
}

// TestABoundThatMatters: a bound that passes the request of a running pod is written at once.
func TestABoundThatMatters(t *testing.T) {
	s := newStage(t, nil)
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 2000, 1024*mi)
	outside := func() bool { // as the updater sees it
		r := s.vpas["web"].Status.Recommendation
		if r == nil || len(r.ContainerRecommendations) == 0 {
			return false
		}
		upper := r.ContainerRecommendations[0].UpperBound["cpu"]
		return upper.MilliValue() < 2000
	}
	for minute := 1; minute < 24*60; minute++ {
		s.now = start.Add(time.Duration(minute) * time.Minute)
		s.use("web", 0, 200, 300*mi)
		s.turn()
		// What would be written if every change were.
		vpa := s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}]
		upper := vpa.GetRecommendation().ContainerRecommendations[0].UpperBound["cpu"]
		if now := upper.MilliValue() < 2000; now != outside() {
			t.Fatalf("minute %d: the upper bound is %s, and the status says otherwise", minute, upper.String())
		}
	}
	if !outside() {
		t.Error("the bound never passed the request: this shows nothing")
	}
}

// TestBoundsThatDrift are written an hour later at the latest: nobody acts on them, and people read them.
func TestBoundsThatDrift(t *testing.T) {
	s := newStage(t, nil)
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 230, 350*mi) // within all bounds, always
	var since time.Time
	drifted := 0
	for minute := 1; minute < 6*60; minute++ {
		s.now = start.Add(time.Duration(minute) * time.Minute)
		s.use("web", 0, 200, 300*mi)
		s.turn()
		computed := s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}].GetRecommendation().ContainerRecommendations[0].UpperBound["cpu"]
		if !moved(s.vpas["web"].Status.Recommendation.ContainerRecommendations[0].UpperBound["cpu"], computed, boundMoves) {
			since = time.Time{}
			continue
		}
		drifted++
		if since.IsZero() {
			since = s.now
		}
		if late := s.now.Sub(since); late > boundsEvery {
			t.Fatalf("minute %d: the upper bound is %s, and was not written for %s", minute, computed.String(), late)
		}
	}
	if drifted < 60 {
		t.Errorf("it drifted in %d minutes only: this shows nothing", drifted)
	}
}

func ranOutOf(name string, pod int, had int64, at time.Time) oom.OomInfo {
	return oom.OomInfo{Timestamp: at, Memory: model.ResourceAmount(had), ContainerID: model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: fmt.Sprintf("%s-%d", name, pod)}, ContainerName: "app"}}
}

// TestOutOfMemoryOnce: one replica of many runs out of memory. All are raised, once; that it runs out again before it was raised changes
// nothing; that it runs out with what it was given raises again; and what holds it is forgotten after OOMHold, not before.
func TestOutOfMemoryOnce(t *testing.T) {
	p := &platform{}
	s := newStage(t, p)
	s.autoscaler("web", balanced)
	s.autoscaler("plain", "")
	for _, name := range []string{"web", "plain"} {
		s.replicas(name, 30, 100, 400*mi)
	}
	minute := func(oomed int64) {
		s.now = s.now.Add(time.Minute)
		for _, name := range []string{"web", "plain"} {
			for i := range 30 {
				s.use(name, i, 50, 200*mi)
			}
			if oomed > 0 {
				info := ranOutOf(name, 3, oomed, s.now)
				s.ranOut(toldOOM{OomInfo: info})
				_ = s.cluster.RecordOOM(info.ContainerID, info.Timestamp, info.Memory) // as the feeder does
			}
		}
		s.turn()
	}
	minute(0)
	before := s.target("web", corev1.ResourceMemory)
	minute(400 * mi)
	const raised = 500 * mi
	if got := s.target("web", corev1.ResourceMemory); got != raised || before >= raised {
		t.Fatalf("%d Mi before, %d Mi after; want 500: 400 and 100 more", before/mi, got/mi)
	}
	steps := s.steps("web", "memory")
	if len(steps) != 1 || steps[0].Rule != "oom" {
		t.Errorf("it is explained by %+v", steps)
	}
	if got := s.target("plain", corev1.ResourceMemory); got >= raised {
		t.Errorf("without settings the percentile of upstream holds, got %d Mi", got/mi)
	}
	for range 10 {
		minute(400 * mi) // it is killed over and over, and not raised yet
	}
	if got := s.target("web", corev1.ResourceMemory); got != raised {
		t.Errorf("%d Mi after ten more with 400 Mi, want 500 as before: it runs away", got/mi)
	}
	minute(500 * mi)
	if got := s.target("web", corev1.ResourceMemory); got != 600*mi {
		t.Errorf("%d Mi after one with 500 Mi, want 600", got/mi)
	}
	if n := s.outcomes.Waiting(); n != 24 {
		t.Errorf("%d outcomes wait, want 24", n)
	}
	// A restart: the same from what is written.
	again := newStage(t, nil)
	again.now = s.now
	again.remember(s.remembered("web"))
	again.autoscaler("web", balanced)
	again.replicas("web", 30, 100, 600*mi)
	again.use("web", 0, 50, 200*mi)
	again.turn()
	if got := again.target("web", corev1.ResourceMemory); got != 600*mi {
		t.Errorf("%d Mi after a restart, want 600", got/mi)
	}
	// To its end, and not longer.
	end := s.now.Add(rightsizing.OOMHold)
	s.now = end.Add(-2 * time.Minute)
	minute(0)
	if got := s.target("web", corev1.ResourceMemory); got != 600*mi {
		t.Errorf("%d Mi a minute before the end", got/mi)
	}
	minute(0)
	if got := s.target("web", corev1.ResourceMemory); got == 600*mi {
		t.Error("it is held for ever")
	}
}

// crowd is what the feeder of a stage reads, with something that happens while usage is asked for.
type crowd struct {
	pods, vpas, checkpoints cache.Indexer
	selectors               map[string]labels.Selector // by target; those not in it go by the label app
	usage                   []v1beta1.PodMetrics
	meanwhile               func()
}

func newCrowd() *crowd {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	return &crowd{pods: index(), vpas: index(), checkpoints: index()}
}

// seams are those of a stage.
func (c *crowd) seams(seen *feed.Observer) seams {
	return seams{
		next:        func() {},
		autoscalers: vpalisters.NewVerticalPodAutoscalerLister(c.vpas), checkpoints: vpalisters.NewVerticalPodAutoscalerCheckpointLister(c.checkpoints), pods: listersv1.NewPodLister(c.pods),
		source: c, selectors: c, fetcher: controllerfetcher.FakeControllerFetcher{}, observer: seen,
	}
}

// Fetch implements target.VpaTargetSelectorFetcher.
func (c *crowd) Fetch(_ context.Context, vpa *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	if s, is := c.selectors[vpa.Spec.TargetRef.Name]; is {
		return s, nil
	}
	return labels.SelectorFromSet(labels.Set{"app": vpa.Spec.TargetRef.Name}), nil
}

// List implements metrics.PodMetricsLister.
func (c *crowd) List(context.Context, string, metav1.ListOptions) (*v1beta1.PodMetricsList, error) {
	if c.meanwhile != nil {
		c.meanwhile()
		c.meanwhile = nil
	}
	return &v1beta1.PodMetricsList{Items: c.usage}, nil
}

// ownedBy is a reference of a controller's.
func ownedBy(kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
}

// TestEveryOutOfMemoryIsHeld: whenever the pod was born and has gone, and whoever tells of it. The model's first look at pods is before usage is
// asked for, which takes time, and pods that start with too little die within it.
func TestEveryOutOfMemoryIsHeld(t *testing.T) {
	pod := func(state corev1.ContainerState) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web"}, OwnerReferences: ownedBy("Deployment", "web")},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: resources("100m", "400Mi")}}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: state}}},
		}
	}
	alive := pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	killed := pod(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(start)}})
	evicted := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(start), Annotations: map[string]string{"offending_containers": "app", "offending_containers_usage": "400Mi", "starved_resource": "memory"}},
		Reason:     "Evicted", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web-1"},
	}
	leaked := evicted.DeepCopy()
	leaked.Annotations["offending_containers_usage"] = "50Gi"
	again := pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	again.Status.ContainerStatuses[0].RestartCount, again.Status.ContainerStatuses[0].LastTerminationState = 1, killed.Status.ContainerStatuses[0].State
	for _, c := range []struct {
		name, reason string
		run          func(s *stage, c *crowd, seen *feed.Observer)
		want         int64
	}{
		{"an eviction of one that used a node's memory", "one that leaks is no reason to give all replicas as much; the model counts it among what they used", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			s.round(t.Context())
			seen.OnEvent(leaked)
			s.round(t.Context())
			vpa := s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}]
			if peak := vpa.AggregateStateByContainerName()["app"].AggregateMemoryPeaks.Percentile(1); peak < 50<<30 {
				t.Errorf("the model knows of %.0f Mi", peak/mi)
			}
		}, 500 * mi},
		{"of one that was not listed yet", "", func(s *stage, c *crowd, seen *feed.Observer) {
			seen.OnEvent(leaked)
			s.round(t.Context())
			_ = c.pods.Add(killed)
			s.round(t.Context())
		}, 500 * mi},
		{"of one that has gone since", "", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			s.round(t.Context())
			_ = c.pods.Delete(alive)
			s.round(t.Context())
			seen.OnEvent(leaked)
			s.round(t.Context())
		}, 500 * mi},
		{"of one that is watched only since", "a pod that is pending is not, and is killed within the second that it begins", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(killed)
			seen.OnAdd(killed, false)
			s.round(t.Context())
		}, 500 * mi},
		{"of one that began again before it was watched", "", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(again)
			seen.OnAdd(again, false)
			seen.OnUpdate(again, again)
			s.round(t.Context())
		}, 500 * mi},
		{"of one that was there when this process began", "it is in what the process before said", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(killed)
			seen.OnAdd(killed, true)
			s.round(t.Context())
		}, 0},
		{"of none: one is seen first", "", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			seen.OnAdd(alive, false)
			s.round(t.Context())
		}, 0},
		{"of one that is known", "", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			s.round(t.Context())
			seen.OnUpdate(alive, killed)
			s.round(t.Context())
		}, 500 * mi},
		{"of one with an elder autoscaler, too", "a copy that was imported only recommends; who sizes has to know", func(s *stage, c *crowd, seen *feed.Observer) {
			elder := s.autoscaler("copy", balanced)
			elder.CreationTimestamp = metav1.NewTime(start.Add(-30 * 24 * time.Hour))
			elder.Spec.TargetRef = s.vpas["web"].Spec.TargetRef
			_ = c.vpas.Add(elder)
			_ = c.pods.Add(alive)
			s.round(t.Context())
			seen.OnUpdate(alive, killed)
			s.round(t.Context())
			if got := s.holds.of(model.VpaID{Namespace: "shop", VpaName: "copy"}, start)["app"].bytes; got != 500*mi {
				t.Errorf("the elder holds %d Mi", got/mi)
			}
		}, 500 * mi},
		{"of one born while usage is asked for", "the next round knows it", func(s *stage, c *crowd, seen *feed.Observer) {
			c.meanwhile = func() {
				_ = c.pods.Add(alive)
				seen.OnUpdate(alive, killed)
			}
			s.round(t.Context())
			s.round(t.Context())
		}, 500 * mi},
		{"of one that lived within that", "no round sees it", func(s *stage, c *crowd, seen *feed.Observer) {
			c.meanwhile = func() { seen.OnUpdate(alive, killed) }
			s.round(t.Context())
			s.round(t.Context())
		}, 500 * mi},
		{"of one that has gone", "news of its end may come first", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			s.round(t.Context())
			_ = c.pods.Delete(alive)
			s.round(t.Context())
			seen.OnUpdate(alive, killed)
			s.round(t.Context())
		}, 500 * mi},
		{"an eviction of one that is not listed yet", "Events are another watch", func(s *stage, c *crowd, seen *feed.Observer) {
			seen.OnEvent(evicted)
			s.round(t.Context())
			_ = c.pods.Add(killed)
			s.round(t.Context())
		}, 500 * mi},
		{"an eviction that is told again", "a watch of Events begins with those that are kept, and a StatefulSet's next pod has the name and what it was given since", func(s *stage, c *crowd, seen *feed.Observer) {
			_ = c.pods.Add(alive)
			s.round(t.Context())
			seen.OnEvent(evicted)
			s.round(t.Context())
			more := alive.DeepCopy()
			more.UID, more.CreationTimestamp = "another", metav1.NewTime(start.Add(time.Minute))
			more.Spec.Containers[0].Resources.Requests = resources("100m", "500Mi")
			_ = c.pods.Update(more)
			s.round(t.Context())
			seen.OnEvent(evicted)
			s.round(t.Context())
			// To another process, too, which knows what this one wrote.
			var said []rightsizing.Explanation
			text, err := json.Marshal([]rightsizing.Explanation{{Container: "app", Resource: "memory", Held: resource.NewQuantity(500*mi, resource.BinarySI), HeldSince: start}})
			if err == nil {
				err = json.Unmarshal(text, &said)
			}
			if err != nil {
				t.Fatal(err)
			}
			s.holds = newHolds()
			s.holds.recall(model.VpaID{Namespace: "shop", VpaName: "web"}, said, start)
			seen.OnEvent(evicted)
			s.round(t.Context())
		}, 500 * mi},
		{"an eviction after another", "each is of its own", func(s *stage, c *crowd, seen *feed.Observer) {
			s.holds.put(model.VpaID{Namespace: "shop", VpaName: "web"}, "app", hold{450 * mi, start.Add(-time.Second)})
			_ = c.pods.Add(alive)
			s.round(t.Context())
			seen.OnEvent(evicted)
			s.round(t.Context())
		}, 500 * mi},
		{"an eviction of one that is never listed", "its workload is not known; it is kept for a round", func(s *stage, c *crowd, seen *feed.Observer) {
			seen.OnEvent(evicted)
			s.round(t.Context())
			s.round(t.Context())
			_ = c.pods.Add(killed)
			s.round(t.Context())
		}, 0},
		{"of another's", "no autoscaler of ours selects it", func(s *stage, c *crowd, seen *feed.Observer) {
			was, is := alive.DeepCopy(), killed.DeepCopy()
			was.Labels["app"], is.Labels["app"] = "api", "api"
			seen.OnUpdate(was, is)
			s.round(t.Context())
			s.round(t.Context())
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, &platform{})
			crowd := newCrowd()
			_ = crowd.vpas.Add(s.autoscaler("web", balanced))
			seen := feed.NewObserver()
			s.join(crowd.seams(seen))
			c.run(s, crowd, seen)
			held, outcomes := s.holds.of(model.VpaID{Namespace: "shop", VpaName: "web"}, start)["app"].bytes, s.outcomes.Waiting()
			if held != c.want || (outcomes == 1) != (c.want > 0) || outcomes > 1 {
				t.Errorf("%d Mi are held, want %d, and %d outcomes wait; %s", held/mi, c.want/mi, outcomes, c.reason)
			}
		})
	}
}

// TestAnEvictionToldTwice: a watch of Events that begins anew tells all of them, perhaps those of a moment ago within the same round.
func TestAnEvictionToldTwice(t *testing.T) {
	var told []model.ResourceAmount
	r := &recorded{Cluster: clusterstate.New(time.Hour), tell: func(o toldOOM) { told = append(told, o.OomInfo.Memory) }, coming: map[oom.OomInfo]*corev1.Pod{}}
	evicted := ranOutOf("web", 0, 50<<30, start)
	r.AddOrUpdatePod(evicted.ContainerID.PodID, labels.Set{"app": "web"}, corev1.PodRunning)
	if err := r.AddOrUpdateContainer(evicted.ContainerID, model.Resources{model.ResourceMemory: 400 * mi}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.see(evicted, nil)
	}
	for range 2 {
		if err := r.RecordOOM(evicted.ContainerID, evicted.Timestamp, evicted.Memory); err != nil {
			t.Fatal(err)
		}
	}
	if want := []model.ResourceAmount{400 * mi, 400 * mi}; !slices.Equal(told, want) {
		t.Errorf("it is said to have had %v, want its request twice, %v", told, want)
	}
}

// TestAKillIsHeldForWhoSizesThePod: a Deployment and a CronJob of one Helm chart have the same labels and the same container. What one of them
// needed is nothing that the pods of the other are given.
func TestAKillIsHeldForWhoSizesThePod(t *testing.T) {
	workloads := map[foreign.Ref]metav1.Object{
		{Namespace: "shop", Kind: "Deployment", Name: "web"}:      &appsv1.Deployment{},
		{Namespace: "shop", Kind: "ReplicaSet", Name: "web-1"}:    &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{OwnerReferences: ownedBy("Deployment", "web")}},
		{Namespace: "shop", Kind: "CronJob", Name: "night"}:       &batchv1.CronJob{},
		{Namespace: "shop", Kind: "Job", Name: "night-1"}:         &batchv1.Job{ObjectMeta: metav1.ObjectMeta{OwnerReferences: ownedBy("CronJob", "night")}},
		{Namespace: "shop", Kind: "DaemonSet", Name: "logs"}:      &appsv1.DaemonSet{},
		{Namespace: "shop", Kind: "ReplicaSet", Name: "rolled-1"}: &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{OwnerReferences: ownedBy("Rollout", "rolled")}},
	}
	for _, tc := range []struct {
		name, reason, kind, owner string
		want                      []string
	}{
		{"the Deployment's", "", "ReplicaSet", "web-1", []string{"web"}},
		{"the CronJob's", "", "Job", "night-1", []string{"night"}},
		{"the Rollout's", "a kind that is not watched, but named", "ReplicaSet", "rolled-1", []string{"rolled"}},
		{"a Job's that is gone", "whose it was is not known: rather one too many", "Job", "night-0", []string{"night", "rolled", "web"}},
		{"a DaemonSet's", "nobody sizes it", "DaemonSet", "logs", nil},
		{"nobody's", "admission and updater leave it alone", "", "", nil},
	} {
		for _, told := range []string{"by its status", "by an Event"} {
			t.Run(tc.name+" "+told, func(t *testing.T) {
				s := newStage(t, &platform{})
				s.workload = func(r foreign.Ref) metav1.Object { return workloads[r] }
				c := newCrowd()
				c.selectors = map[string]labels.Selector{}
				for name, kind := range map[string]string{"web": "Deployment", "night": "CronJob", "rolled": "Rollout"} {
					vpa := s.autoscaler(name, balanced)
					vpa.Spec.TargetRef.Kind, c.selectors[name] = kind, labels.SelectorFromSet(labels.Set{"app": "shop"})
					_ = c.vpas.Add(vpa)
				}
				seen := feed.NewObserver()
				s.join(c.seams(seen))
				alive := &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", Labels: map[string]string{"app": "shop"}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "shop", Resources: corev1.ResourceRequirements{Requests: resources("100m", "400Mi")}}}},
					Status:     corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "shop", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
				}
				if tc.kind != "" {
					alive.OwnerReferences = ownedBy(tc.kind, tc.owner)
				}
				_ = c.pods.Add(alive)
				s.round(t.Context())
				if told == "by an Event" {
					seen.OnEvent(&corev1.Event{
						ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(start), Annotations: map[string]string{"offending_containers": "shop", "offending_containers_usage": "1Gi", "starved_resource": "memory"}},
						Reason:     "Evicted", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "p"},
					})
				} else {
					killed := alive.DeepCopy()
					killed.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(start)}}
					seen.OnUpdate(alive, killed)
				}
				s.round(t.Context())
				var held []string
				for id := range s.holds.by {
					if s.holds.of(id, start)["shop"].bytes == 500*mi {
						held = append(held, id.VpaName)
					}
				}
				slices.Sort(held)
				if !slices.Equal(held, tc.want) || (s.outcomes.Waiting() == 1) != (len(tc.want) > 0) {
					t.Errorf("it is held for %v, want %v, and %d outcomes wait; %s", held, tc.want, s.outcomes.Waiting(), tc.reason)
				}
			})
		}
	}
}

// TestRunsWithoutLabels: kubectl create cronjob gives the pods of a CronJob no labels, so that its selector selects nothing.
func TestRunsWithoutLabels(t *testing.T) {
	s := newStage(t, &platform{})
	cron := func(of map[string]string) *batchv1.CronJob {
		c := &batchv1.CronJob{}
		c.Spec.JobTemplate.Spec.Template.Labels = of
		return c
	}
	workloads := map[foreign.Ref]metav1.Object{
		{Namespace: "shop", Kind: "CronJob", Name: "night"}: cron(nil), {Namespace: "shop", Kind: "CronJob", Name: "day"}: cron(nil), {Namespace: "shop", Kind: "CronJob", Name: "labelled"}: cron(map[string]string{"app": "labelled"}),
	}
	s.workload = func(r foreign.Ref) metav1.Object { return workloads[r] }
	c := newCrowd()
	c.selectors = map[string]labels.Selector{"night": labels.Nothing(), "day": labels.Nothing()} // as upstream's answer is
	for _, name := range []string{"night", "day", "labelled"} {
		vpa := s.autoscaler(name, balanced)
		vpa.Spec.TargetRef.Kind = "CronJob"
		_ = c.vpas.Add(vpa)
	}
	seen := feed.NewObserver()
	s.join(c.seams(seen))
	run := func(cronJob string, n int, memory string) *corev1.Pod {
		job := fmt.Sprintf("%s-%d", cronJob, n)
		workloads[foreign.Ref{Namespace: "shop", Kind: "Job", Name: job}] = &batchv1.Job{ObjectMeta: metav1.ObjectMeta{OwnerReferences: ownedBy("CronJob", cronJob)}}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: job + "-x", UID: types.UID(job), Labels: map[string]string{"batch.kubernetes.io/job-name": job, "batch.kubernetes.io/controller-uid": job}, OwnerReferences: ownedBy("Job", job)},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: resources("100m", "400Mi")}}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
		}
		if cronJob == "labelled" {
			pod.Labels["app"] = "labelled"
		}
		c.usage = append(c.usage, v1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod.Name}, Timestamp: metav1.NewTime(s.now), Containers: []v1beta1.ContainerMetrics{{Name: "app", Usage: resources("100m", memory)}}})
		return pod
	}
	counts := func() (all [3]int) {
		for i, name := range []string{"night", "day", "labelled"} {
			all[i] = s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: name}].PodCount
		}
		return all
	}
	first := run("night", 1, "300Mi")
	for _, pod := range []*corev1.Pod{first, run("day", 1, "2000Mi"), run("labelled", 1, "300Mi")} {
		_ = c.pods.Add(pod)
	}
	s.round(t.Context())
	if got := counts(); got != [3]int{1, 1, 1} {
		t.Errorf("they have %v pods, want one each", got)
	}
	memory := func(name string) int64 {
		r := s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: name}].GetRecommendation()
		if r == nil || len(r.ContainerRecommendations) != 1 {
			t.Fatalf("%s has no recommendation: %v", name, r)
		}
		return r.ContainerRecommendations[0].Target.Memory().Value()
	}
	if night, day := memory("night"), memory("day"); night < 300*mi || night > 450*mi || day < 2000*mi {
		t.Errorf("%d Mi and %d Mi are recommended of 300 and 2000", night/mi, day/mi)
	}
	if first.Labels[rightsizing.Group+"/cronjob"] != "" {
		t.Error("the pod that others read was changed")
	}
	// Its Job goes before it does; the next run lives within a round, and is killed.
	delete(workloads, foreign.Ref{Namespace: "shop", Kind: "Job", Name: "night-1"})
	s.round(t.Context())
	if got := counts(); got != [3]int{1, 1, 1} {
		t.Errorf("without a Job: %v pods, want one each", got)
	}
	second := run("night", 2, "300Mi")
	killed := second.DeepCopy()
	killed.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(start)}}
	c.meanwhile = func() { seen.OnUpdate(second, killed) }
	s.round(t.Context())
	s.round(t.Context())
	held := map[string]int64{}
	for id := range s.holds.by {
		held[id.VpaName] = s.holds.of(id, start)["app"].bytes
	}
	if night, day := memory("night"), memory("day"); night < 500*mi || day > 2500*mi || len(held) != 1 || held["night"] != 500*mi {
		t.Errorf("%d Mi after a kill with 400 Mi, and %d Mi of the other's; held are %v, want 500 Mi of the one", night/mi, day/mi, held)
	}
}

// remembered is what another process finds of an autoscaler.
func (s *stage) remembered(name string) remembered {
	return remembered{s.vpas[name], s.why[name]}
}

func (s *stage) steps(name, resource string) []rightsizing.Adjustment {
	for _, x := range s.why[name] {
		if x.Resource == resource {
			return x.Steps
		}
	}
	s.t.Fatalf("%s of %s is not explained", resource, name)
	return nil
}

// platform answers with one document.
type platform struct {
	doc   *nopsapi.Recommendations
	lists []nopsapi.RightsizedWorkloads
}

func (p *platform) Recommendations(context.Context, string, string) (nopsclient.Polled[nopsapi.Recommendations], error) {
	if p.doc == nil {
		return nopsclient.Polled[nopsapi.Recommendations]{}, &nopsclient.Error{Kind: nopsclient.KindUnreachable, Message: "down"}
	}
	return nopsclient.Polled[nopsapi.Recommendations]{Message: *p.doc, ETag: "e"}, nil
}

func (p *platform) ReportWorkloads(_ context.Context, _ string, all nopsapi.RightsizedWorkloads) error {
	p.lists = append(p.lists, all)
	return nil
}

func (*platform) SendOutcomes(context.Context, string, nopsapi.Outcomes) error { return nil }

// TestPlatform: its recommendation is in force while it is valid, bounded by what the local model holds for unsafe; after its end the local
// model alone holds. An autoscaler without settings is never touched by it.
func TestPlatform(t *testing.T) {
	p := &platform{}
	s := newStage(t, p)
	s.autoscaler("web", balanced)
	s.autoscaler("plain", "")
	for _, name := range []string{"web", "plain"} {
		s.replicas(name, 1, 100, 400*mi)
	}
	minute := func() {
		s.now = s.now.Add(time.Minute)
		for _, name := range []string{"web", "plain"} {
			s.use(name, 0, 500, 300*mi)
		}
		s.turn()
	}
	for range 60 {
		minute()
	}
	local := s.target("web", corev1.ResourceCPU)
	if status, reason, _ := s.condition("web", rightsizing.ConditionPlatform); status != "" {
		t.Errorf("nobody was asked, and the condition is %s %s", status, reason)
	}
	if _, _, err := s.intake.Ask(t.Context()); err == nil {
		t.Fatal("a platform that is down answers")
	}
	minute()
	if status, reason, _ := s.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionFalse || reason != push.ReasonFailed {
		t.Errorf("%s %s", status, reason)
	}
	ref := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
	recommend := func(seq uint64, cores float64) {
		var all []nopsapi.WorkloadRecommendation
		for _, name := range []string{"web", "plain"} {
			one := ref
			one.Name = name
			all = append(all, nopsapi.WorkloadRecommendation{WorkloadRef: one, Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{{Name: "app", CPU: nopsapi.Recommended{Target: cores}}}})
		}
		p.doc = &nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: seq, AsOf: s.now, ValidUntil: s.now.Add(time.Hour)}, Workloads: all}
		if _, fresh, err := s.intake.Ask(t.Context()); err != nil || !fresh {
			t.Fatalf("fresh %v, %v", fresh, err)
		}
	}
	recommend(1, 2)
	minute()
	if got := s.target("web", corev1.ResourceCPU); got != 2000 {
		t.Errorf("%dm, want 2000m", got)
	}
	if status, reason, message := s.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionTrue || reason != push.ReasonInForce || push.SeqOf(message) != 1 {
		t.Errorf("%s %s %q", status, reason, message)
	}
	if steps := s.steps("web", "cpu"); len(steps) != 1 || steps[0].Rule != "platform" {
		t.Errorf("%+v", steps)
	}
	recommend(2, 0.001)
	minute()
	lower := s.vpas["web"].Status.Recommendation.ContainerRecommendations[0].LowerBound["cpu"]
	if got := s.target("web", corev1.ResourceCPU); got != lower.MilliValue() || got <= 10 || got >= local {
		t.Errorf("%dm with a lower bound of %s and a local target of %dm: want the local lower bound", got, lower.String(), local)
	}
	s.now = s.now.Add(2 * time.Hour)
	minute()
	if got := s.target("web", corev1.ResourceCPU); got < local*9/10 || got > local*11/10 {
		t.Errorf("%dm after the end, want about %dm as before", got, local)
	}
	if status, reason, _ := s.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionFalse || reason != push.ReasonExpired {
		t.Errorf("%s %s", status, reason)
	}
	if status, _, _ := s.condition("plain", rightsizing.ConditionPlatform); status != "" || len(s.steps("plain", "cpu")) != 0 {
		t.Errorf("an autoscaler without settings: %s, %+v", status, s.why["plain"])
	}
	if err := s.workloads.Tell(t.Context()); err != nil || len(p.lists) != 1 || len(p.lists[0].Workloads) != 1 || p.lists[0].Workloads[0].WorkloadRef != ref || p.lists[0].Workloads[0].Level != "BalancedSavings" {
		t.Errorf("%+v, %v", p.lists, err)
	}
}

// TestThePlatformStaysAboveWhatIsUsed: what some of the replicas need since yesterday is no outlier, and was not in the weeks before. Memory is not
// lowered below it, CPU not below its median.
func TestThePlatformStaysAboveWhatIsUsed(t *testing.T) {
	for _, level := range rightsizing.Levels() {
		p := &platform{}
		s := newStage(t, p)
		s.autoscaler("web", `{"policy":"p","level":"`+string(level)+`"}`)
		s.replicas("web", 10, 100, 400*mi)
		const less, more = 300 * mi, 900 * mi
		hour := func(needing int) { // as many pods more
			s.now = s.now.Add(time.Hour)
			for pod := range 10 {
				memory := int64(less)
				if pod < needing {
					memory = more
				}
				s.use("web", pod, 300, memory)
			}
			s.turn()
		}
		for range 7 * 24 {
			hour(0)
		}
		for range 30 {
			hour(4)
		}
		local := s.target("web", corev1.ResourceMemory)
		ref := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
		p.doc = &nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: 1, AsOf: s.now, ValidUntil: s.now.Add(20 * time.Hour)}, Workloads: []nopsapi.WorkloadRecommendation{{
			WorkloadRef: ref, Level: string(level), Containers: []nopsapi.ContainerRecommendation{{Name: "app", CPU: nopsapi.Recommended{Target: 0.01}, Memory: nopsapi.Recommended{Target: less}}},
		}}}
		if _, fresh, err := s.intake.Ask(t.Context()); err != nil || !fresh {
			t.Fatalf("fresh %v, %v", fresh, err)
		}
		hour(4)
		if got := s.target("web", corev1.ResourceMemory); got < more || got > local {
			t.Errorf("%s: %d Mi are recommended of what needs %d, and the local model says %d", level, got/mi, int64(more)/mi, local/mi)
		}
		if got := s.target("web", corev1.ResourceCPU); got < 300 {
			t.Errorf("%s: %dm are recommended of what uses 300m", level, got)
		}
		if steps := s.steps("web", "memory"); len(steps) != 2 || steps[0].To.Value() != less || steps[1].Rule != push.RulePlatform {
			t.Errorf("%s: it is explained by %+v", level, steps)
		}
	}
}

// TestARestartKeepsWhatThePlatformSaid: what was in force before a restart is until its end, whether the platform can be asked or not, and
// whatever the local model says; after that, and on another level, the local model holds.
func TestARestartKeepsWhatThePlatformSaid(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		cpu          float64
		memory       float64
		wantCPU      int64
		wantMemory   int64
	}{
		{"above the local model", "it has seen weeks", 2, 4 << 30, 2000, 4 << 30},
		{"below it", "all pods would be raised, and lowered with the first answer", 0.551, 0, 551, -1},
		{"CPU alone", "", 1.07, 0, 1070, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &platform{}
			next := func(before *stage, level string) *stage {
				s := newStage(t, p)
				s.autoscaler("web", `{"policy":"p","level":"`+level+`"}`)
				s.replicas("web", 1, 100, 400*mi)
				if before != nil {
					s.now = before.now
					s.remember(before.remembered("web"))
					s.vpas["web"].Status, s.why["web"] = before.vpas["web"].Status, before.why["web"]
				}
				return s
			}
			minute := func(s *stage) {
				s.now = s.now.Add(time.Minute)
				s.use("web", 0, 500, 300*mi)
				s.turn()
			}
			first := next(nil, "BalancedSavings")
			for range 60 {
				minute(first)
			}
			local := [2]int64{first.target("web", corev1.ResourceCPU), first.target("web", corev1.ResourceMemory)}
			ref := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
			until := first.now.Add(20 * time.Hour).Truncate(time.Second)
			p.doc = &nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: 7, AsOf: first.now, ValidUntil: until}, Workloads: []nopsapi.WorkloadRecommendation{{
				WorkloadRef: ref, Level: "BalancedSavings",
				Containers: []nopsapi.ContainerRecommendation{{Name: "app", CPU: nopsapi.Recommended{Target: c.cpu}, Memory: nopsapi.Recommended{Target: c.memory}}},
			}}}
			if _, fresh, err := first.intake.Ask(t.Context()); err != nil || !fresh {
				t.Fatalf("fresh %v, %v", fresh, err)
			}
			minute(first)
			holds := func(s *stage, when string) {
				t.Helper()
				cpu, memory := s.target("web", corev1.ResourceCPU), s.target("web", corev1.ResourceMemory)
				if cpu != c.wantCPU || c.wantMemory >= 0 && memory != c.wantMemory {
					t.Errorf("%s: %dm and %d Mi, want %dm and %d Mi; %s", when, cpu, memory/mi, c.wantCPU, c.wantMemory/mi, c.reason)
				}
				if status, reason, message := s.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionTrue || reason != push.ReasonInForce || push.SeqOf(message) != 7 || !push.ValidUntilOf(message).Equal(until) {
					t.Errorf("%s: %s %s %q", when, status, reason, message)
				}
			}
			holds(first, "before")
			if c.wantCPU == local[0] || c.wantMemory == local[1] {
				t.Fatalf("the local model says the same, %dm and %d Mi: this shows nothing", local[0], local[1]/mi)
			}
			p.doc = nil // down
			second := next(first, "BalancedSavings")
			minute(second)
			holds(second, "before the first answer")
			if _, _, err := second.intake.Ask(t.Context()); err == nil {
				t.Fatal("a platform that is down answers")
			}
			minute(second)
			holds(second, "the platform is down")
			third := next(second, "BalancedSavings")
			minute(third)
			holds(third, "after another restart")
			other := next(second, "MaximumPerformance")
			minute(other)
			if status, reason, _ := other.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionFalse || reason != push.ReasonLevel {
				t.Errorf("for another level: %s %s", status, reason)
			}
			third.now = until
			minute(third)
			if status, reason, _ := third.condition("web", rightsizing.ConditionPlatform); status != corev1.ConditionFalse || reason != push.ReasonExpired {
				t.Errorf("after its end: %s %s", status, reason)
			}
			if got := third.target("web", corev1.ResourceCPU); got == c.wantCPU {
				t.Errorf("%dm after its end: it froze", got)
			}
			// A replay is refused as by the process before.
			p.doc = &nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: 6, AsOf: third.now, ValidUntil: third.now.Add(time.Hour)}}
			if _, fresh, _ := third.intake.Ask(t.Context()); fresh || third.intake.Counts().Refused != 1 {
				t.Errorf("an older number is taken: %v, %+v", fresh, third.intake.Counts())
			}
		})
	}
}

// TestTheFirstRoundAwaitsAnAnswer: whichever it is, or the end of patience, or nothing where there is no platform.
func TestTheFirstRoundAwaitsAnAnswer(t *testing.T) {
	s := newStage(t, &platform{})
	waits := func(ctx context.Context, s *stage, patience time.Duration) <-chan struct{} {
		s.patience = patience
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.awaitAnswer(ctx)
		}()
		return done
	}
	ends := func(done <-chan struct{}, when string) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("it waits for ever: %s", when)
		}
	}
	ends(waits(t.Context(), s, time.Millisecond), "no answer comes")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ends(waits(over, s, time.Hour), "the process ends")
	done := waits(t.Context(), s, time.Hour)
	select {
	case <-done:
		t.Error("nobody answered, and it does not wait")
	case <-time.After(50 * time.Millisecond):
	}
	if _, _, err := s.intake.Ask(t.Context()); err == nil {
		t.Fatal("a platform that is down answers")
	}
	ends(done, "the answer is that it is down")
	ends(waits(t.Context(), newStage(t, nil), time.Hour), "there is no platform")
}

// TestWhatIsSaidOfTheValidityLasts: lists come by the hour and change nothing. That is not written each time, and yet a process that is started
// at any moment finds what is in force.
func TestWhatIsSaidOfTheValidityLasts(t *testing.T) {
	p := &platform{}
	s := newStage(t, p)
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 100, 400*mi)
	ref := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
	const hours, valid = 48, 6 * time.Hour
	written := 0
	for ten := range hours * 6 {
		s.now = start.Add(time.Duration(ten+1) * 10 * time.Minute)
		if ten%6 == 0 {
			p.doc = &nopsapi.Recommendations{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: uint64(ten + 1), AsOf: s.now, ValidUntil: s.now.Add(valid)}, Workloads: []nopsapi.WorkloadRecommendation{{
				WorkloadRef: ref, Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{{
					Name: "app", CPU: nopsapi.Recommended{Target: 2, Lower: 1.9, Upper: 2.1}, Memory: nopsapi.Recommended{Target: 4 << 30, Lower: 3 << 30, Upper: 5 << 30},
				}},
			}}}
			if _, fresh, err := s.intake.Ask(t.Context()); err != nil || !fresh {
				t.Fatalf("fresh %v, %v", fresh, err)
			}
		}
		s.use("web", 0, 500, 300*mi)
		written += s.turn()
		_, _, message := s.condition("web", rightsizing.ConditionPlatform)
		if left := push.ValidUntilOf(message).Sub(s.now); left < (valid-time.Hour)/2 {
			t.Fatalf("after %s the status says %q at %s", s.now.Sub(start), message, s.now)
		}
	}
	if most := hours/2 + 2; written > most { // the others are those of confidence
		t.Errorf("%d writes for %d lists, want at most %d", written, hours, most)
	}
	t.Logf("%d writes for %d lists", written, hours)
}

// TestSettingsThatCannotBeRead say so, and nothing else changes: what a person wanted is not guessed.
func TestSettingsThatCannotBeRead(t *testing.T) {
	s := newStage(t, nil)
	s.autoscaler("web", `{"policy":"p","level":"Cheap"}`)
	s.replicas("web", 1, 100, 400*mi)
	s.use("web", 0, 500, 300*mi)
	s.turn()
	if status, reason, message := s.condition("web", string(vpav1.ConfigUnsupported)); status != corev1.ConditionTrue || reason != "Settings" || !strings.Contains(message, "Cheap") {
		t.Errorf("%s %s %q", status, reason, message)
	}
	if s.why["web"][0].Level != "" {
		t.Errorf("%+v", s.why["web"])
	}
}

// TestConfidence: less than a day of usage is little.
func TestConfidence(t *testing.T) {
	s := newStage(t, nil)
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 100, 400*mi)
	for hour := range 26 {
		s.now = start.Add(time.Duration(hour) * time.Hour)
		s.use("web", 0, 500, 300*mi)
		s.turn()
		status, reason, message := s.condition("web", string(vpav1.LowConfidence))
		if little := hour < 24; little != (status == corev1.ConditionTrue) || little && (reason != "ShortHistory" || !strings.Contains(message, "app")) {
			t.Errorf("after %d hours: %s %s %q", hour, status, reason, message)
		}
	}
}

// restarted is another process, which knows what this one left: statuses, and checkpoints, which leave out the memory of the day that has not
// ended.
func (s *stage) restarted(ended *model.AggregateContainerState) *stage {
	next := newStage(s.t, nil)
	next.now, next.began, next.days = s.now, s.now, newDays(s.now)
	for name, vpa := range s.vpas {
		next.vpas[name] = vpa
		next.remember(s.remembered(name))
		if err := next.cluster.AddOrUpdateVpa(vpa, labels.SelectorFromSet(labels.Set{"app": name})); err != nil {
			s.t.Fatal(err)
		}
		state := model.NewAggregateContainerState()
		state.MergeContainerState(s.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: name}].AggregateStateByContainerName()["app"])
		state.AggregateMemoryPeaks = ended.AggregateMemoryPeaks
		next.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: name}].ContainersInitialAggregateState["app"] = state
		next.replicas(name, s.pods[name], 100, 4096*mi)
	}
	return next
}

// TestRestartKeepsAnUnfinishedDay: a peak that no checkpoint has is not forgotten before its day would have ended, however often the process
// begins again; and not kept for ever.
func TestRestartKeepsAnUnfinishedDay(t *testing.T) {
	const peak, idle = 3072 * mi, 300 * mi
	for _, tc := range []struct {
		name, reason string
		restarts     []int // hours after the start
		then         int   // hours after the last of them
		least, most  int64
	}{
		{"none", "the peak is one of one", nil, 6, peak, peak * 3 / 2},
		{"one", "the night's peak is all that is known of the day", []int{23}, 0, peak, peak * 3 / 2},
		{"half a day later", "the next night has not come", []int{23}, 12, peak, peak * 3 / 2},
		{"many", "no process sees a whole day", []int{18, 20, 30, 40, 60, 80}, 23, peak, peak * 3 / 2},
		{"a day later", "a day without it was seen", []int{23, 40}, 24, idle, idle * 3 / 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t, nil)
			s.autoscaler("web", balanced)
			s.replicas("web", 1, 100, 4096*mi)
			restarts, hour, since := tc.restarts, 0, 0
			for ; len(restarts) > 0 || hour <= since+tc.then || hour <= 18; hour++ {
				s.now = start.Add(time.Duration(hour) * time.Hour)
				if len(restarts) > 0 && restarts[0] == hour {
					s, restarts, since = s.restarted(model.NewAggregateContainerState()), restarts[1:], hour
				}
				use := int64(idle)
				if hour == 17 {
					use = peak
				}
				s.use("web", 0, 500+int64(hour%2)*100, use) // CPU moves, so that statuses are written
				s.turn()
			}
			if got := s.target("web", corev1.ResourceMemory); got < tc.least || got > tc.most {
				t.Errorf("%d Mi, want %d to %d (%s)", got/mi, tc.least/mi, tc.most/mi, tc.reason)
			}
			for _, x := range s.why["web"] {
				last := x.Local
				if len(x.Steps) > 0 {
					last = x.Steps[len(x.Steps)-1].To
				}
				if last.Cmp(x.Result) != 0 {
					t.Errorf("%s is %s, explained as %s", x.Resource, x.Result.String(), last.String())
				}
				if x.Resource == "memory" && (x.Peak.Value() < tc.least || x.Peak.Value() > tc.most || !x.Since.Equal(start)) {
					t.Errorf("a peak of %s since %s is told, of %d Mi since %s", x.Peak.String(), x.Since, tc.least/mi, start)
				}
			}
		})
	}
}

// TestRestartBeforeMemoryIsMeasured: until then what was said holds; the request would go otherwise.
func TestRestartBeforeMemoryIsMeasured(t *testing.T) {
	s := newStage(t, nil)
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 100, 4096*mi)
	s.use("web", 0, 500, 3072*mi)
	s.turn()
	before := s.target("web", corev1.ResourceMemory)
	s = s.restarted(model.NewAggregateContainerState())
	s.turn()
	if after := s.target("web", corev1.ResourceMemory); after != before {
		t.Errorf("%d Mi, before the restart %d", after/mi, before/mi)
	}
}

// TestConfidenceInMemory: a day of CPU is none of memory, where it is not known what was there before.
func TestConfidenceInMemory(t *testing.T) {
	ended := model.NewAggregateContainerState()
	ended.AggregateMemoryPeaks.AddSample(300*mi, 1, start)
	for _, tc := range []struct {
		name, reason string
		said         bool // what the process before said is known
		ended        *model.AggregateContainerState
		unsure       int // hours
	}{
		{"nothing is known", "a checkpoint without memory", false, model.NewAggregateContainerState(), 24},
		{"a day ended", "a checkpoint with memory", false, ended, 0},
		{"it was said", "memory is known as long as it was", true, model.NewAggregateContainerState(), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStage(t, nil)
			s.autoscaler("web", balanced)
			s.replicas("web", 1, 100, 4096*mi)
			for hour := range 40 {
				s.now = start.Add(time.Duration(hour) * time.Hour)
				s.use("web", 0, 500, 300*mi)
				s.turn()
			}
			if !tc.said {
				clear(s.why)
			}
			began := s.now
			s = s.restarted(tc.ended)
			for hour := range 30 {
				s.now = began.Add(time.Duration(hour) * time.Hour)
				s.use("web", 0, 500+200*int64(hour%2), 300*mi)
				s.turn()
				status, _, _ := s.condition("web", string(vpav1.LowConfidence))
				if little := hour < tc.unsure; little != (status == corev1.ConditionTrue) {
					t.Errorf("after %d hours: %q (%s)", hour, status, tc.reason)
				}
			}
			want := start
			if tc.unsure > 0 {
				want = began
			}
			for _, x := range s.why["web"] {
				if x.Resource == "memory" && !x.Since.Equal(want) || x.Resource == "cpu" && !x.Since.Equal(start) {
					t.Errorf("%s is known since %s, want %s (%s)", x.Resource, x.Since, want, tc.reason)
				}
			}
		})
	}
}

// known is a history that comes when a test lets it.
type known struct {
	usage  sources.Usage
	err    error
	asked  chan string
	answer chan struct{}
}

func (k *known) Usage(ctx context.Context, namespace string, _, _ time.Time) (sources.Usage, error) {
	k.asked <- namespace
	select {
	case <-k.answer:
	case <-ctx.Done():
	}
	return k.usage, k.err
}

// TestHistoryComesLate: it is waited for once, then what is measured counts; when it comes it takes the place of what a checkpoint knew
// less of, once.
func TestHistoryComesLate(t *testing.T) {
	k := &known{err: errors.New("down"), asked: make(chan string), answer: make(chan struct{})}
	s := newStage(t, nil)
	s.past = newPast(k, 8*24*time.Hour, start, slog.New(slog.DiscardHandler), func() float64 { return 0 })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	loop := agent.NewHealth(time.Now).Loop("past", time.Minute)
	go func() { done <- s.past.run(ctx, loop) }()
	s.autoscaler("web", balanced)
	s.replicas("web", 1, 100, 400*mi)
	minute := func() {
		s.now = s.now.Add(time.Minute)
		s.use("web", 0, 500, 300*mi)
		s.turn()
	}
	await := func(c <-chan string) {
		t.Helper()
		select {
		case name := <-c:
			if name != "shop" {
				t.Fatalf("history of %q", name)
			}
		case <-time.After(time.Minute):
			t.Fatal("nobody asks for history")
		}
	}
	minute()
	await(k.asked)
	minute()
	if status, _, _ := s.condition("web", string(vpav1.FetchingHistory)); status != corev1.ConditionTrue {
		t.Errorf("while it is asked for: %s", status)
	}
	k.answer <- struct{}{}
	await(k.asked) // again, since the first was an error
	minute()
	if status, _, _ := s.condition("web", string(vpav1.FetchingHistory)); status != "" {
		t.Errorf("after the first attempt: %s; checkpoints would never be written", status)
	}
	before := s.target("web", corev1.ResourceCPU)
	// A week of one core.
	state := model.NewAggregateContainerState()
	for minute := range 7 * 24 * 60 {
		state.AddSample(&model.ContainerUsageSample{MeasureStart: start.Add(-time.Duration(minute) * time.Minute), Resource: model.ResourceCPU, Usage: 1000})
	}
	k.usage, k.err = sources.Usage{sources.Workload{Kind: "Deployment", Name: "web"}: {"app": state}, sources.Workload{Kind: "Deployment", Name: "other"}: {"app": model.NewAggregateContainerState()}}, nil
	id := model.VpaID{Namespace: "shop", VpaName: "web"}
	little := model.NewAggregateContainerState()
	little.TotalSamplesCount = 10
	s.cluster.VPAs()[id].ContainersInitialAggregateState["app"] = little // as from a checkpoint
	k.answer <- struct{}{}
	for deadline := time.Now().Add(time.Minute); s.cluster.VPAs()[id].ContainersInitialAggregateState["app"] != state; {
		if time.Now().After(deadline) {
			t.Fatal("history never comes")
		}
		minute()
	}
	minute()
	after := s.target("web", corev1.ResourceCPU)
	if before >= 700 || after < 1000 {
		t.Errorf("%dm before, %dm after a week of one core", before, after)
	}
	if n := s.why["web"][0].Samples; n < 7*24*60 || n > 7*24*60+100 {
		t.Errorf("%d samples: it was counted twice, or not at all", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// failing is a store that lets nobody in until it is mended.
type failing struct {
	asked, loaded atomic.Int64
	mended        atomic.Bool
}

func (f *failing) Usage(context.Context, string, time.Time, time.Time) (sources.Usage, error) {
	f.asked.Add(1)
	if f.mended.Load() {
		f.loaded.Add(1)
		return sources.Usage{}, nil
	}
	return nil, &sources.StoreError{Host: "store", Status: 401}
}

// TestAStoreThatFails keeps nobody waiting: what is wrong with it in one namespace is wrong in all, and each waits for the first attempt
// alone. When it is mended all get their history.
func TestAStoreThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const namespaces = 100
		f := &failing{}
		p := newPast(f, 8*24*time.Hour, time.Now(), slog.New(slog.DiscardHandler), func() float64 { return 0.5 })
		waiting := func() (n int) {
			for i := range namespaces {
				if p.fetching(fmt.Sprint("ns", i)) {
					n++
				}
			}
			return n
		}
		for i := range namespaces {
			p.want(fmt.Sprint("ns", i), time.Now())
		}
		if n := waiting(); n != namespaces {
			t.Fatalf("%d wait before anything was tried", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.run(ctx, agent.NewHealth(time.Now).Loop("past", time.Hour)) }()
		synctest.Wait()
		if n := waiting(); n != 0 || f.asked.Load() != 1 {
			t.Errorf("after %d attempts %d of %d still wait: their checkpoints are not written", f.asked.Load(), n, namespaces)
		}
		time.Sleep(3 * time.Hour)
		if n := f.asked.Load(); n < 5 || n > 30 {
			t.Errorf("it was asked %d times in three hours", n)
		}
		f.mended.Store(true)
		time.Sleep(20 * time.Minute)
		if n := f.loaded.Load(); n != namespaces {
			t.Errorf("when it was mended the history of %d was loaded, want %d", n, namespaces)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestHistoryTakesNoPeaksAway: a store may know more of CPU and less of memory, and of what a container would have needed when it was killed
// it knows nothing.
func TestHistoryTakesNoPeaksAway(t *testing.T) {
	day := func(n int) time.Time { return start.Add(-time.Duration(n) * 24 * time.Hour) }
	of := func(cpu int, peaks ...int64) *model.AggregateContainerState {
		s := model.NewAggregateContainerState()
		for i := range cpu {
			s.AddSample(&model.ContainerUsageSample{MeasureStart: start.Add(-time.Duration(i) * time.Minute), Resource: model.ResourceCPU, Usage: 100})
		}
		for i, peak := range peaks { // the newest first; 0 is a day that is not known
			if peak > 0 {
				s.AddSample(&model.ContainerUsageSample{MeasureStart: day(i), Resource: model.ResourceMemory, Usage: model.ResourceAmount(peak * mi)})
			}
		}
		return s
	}
	for _, tc := range []struct {
		name, reason  string
		stored, found *model.AggregateContainerState
		median, peak  int64
		weight        float64 // of memory's peaks, today's being one
		samples       int
	}{
		{"less of memory", "a part of the store's days", of(10, 1000, 1000, 1000, 3000), of(100, 0, 0, 300), 1000, 3000, 2.125, 100},
		{"a kill", "an estimate that no store has", of(10, 0, 2000), of(100, 1000, 1000, 1000, 1000), 1000, 2000, 2.375, 100},
		{"nothing of memory", "", of(10, 1000), of(100), 1000, 1000, 1, 100},
		{"nothing before", "", of(10), of(100, 1000), 1000, 1000, 1, 100},
		{"the same", "nothing counts twice", of(10, 1000, 1000, 300), of(100, 1000, 1000, 300), 1000, 1000, 1.75, 100},
		{"less of CPU", "the checkpoint knows more", of(100, 1000), of(10, 2000), 1000, 1000, 1, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPast(&known{}, 8*24*time.Hour, start, slog.New(slog.DiscardHandler), nil)
			p.spaces["shop"] = &space{usage: sources.Usage{{Kind: "Deployment", Name: "web"}: {"app": tc.found}}}
			vpa := model.NewVpa(model.VpaID{Namespace: "shop", VpaName: "web"}, labels.Nothing(), start)
			vpa.TargetRef = &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
			vpa.ContainersInitialAggregateState["app"] = tc.stored
			for range 3 { // rounds
				p.begin(vpa)
			}
			got := vpa.ContainersInitialAggregateState["app"]
			near := func(bytes float64, mebi int64) bool {
				return bytes >= float64(mebi*mi) && bytes < 1.06*float64(mebi*mi)
			}
			if m := got.AggregateMemoryPeaks; !near(m.Percentile(0.5), tc.median) || !near(m.Percentile(1), tc.peak) || got.TotalSamplesCount != tc.samples {
				t.Errorf("median %.0f Mi, peak %.0f Mi, %d samples; want %d, %d, %d (%s)", m.Percentile(0.5)/mi, m.Percentile(1)/mi, got.TotalSamplesCount, tc.median, tc.peak, tc.samples, tc.reason)
			}
			saved, err := got.SaveToCheckpoint()
			if err != nil {
				t.Fatal(err)
			}
			weight := saved.MemoryHistogram.TotalWeight * math.Exp2(saved.MemoryHistogram.ReferenceTimestamp.Sub(start).Hours()/24)
			if math.Abs(weight-tc.weight) > 0.01 {
				t.Errorf("a weight of %.3f, want %.3f (%s)", weight, tc.weight, tc.reason)
			}
		})
	}
}

// BenchmarkCompute is a round over 5,000 autoscalers of 25,000 pods, but for what comes from and goes to servers.
func BenchmarkCompute(b *testing.B) {
	for name, settings := range map[string]string{"upstream's": "", "with settings": balanced} {
		b.Run(name, func(b *testing.B) {
			s := newStage(b, nil)
			for i := range 5000 {
				name := fmt.Sprintf("w%d", i)
				s.autoscaler(name, settings)
				s.replicas(name, 5, 1000, 1024*mi)
			}
			s.turn()
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				s.now = start.Add(time.Duration(n+1) * time.Minute)
				for i := range 5000 {
					for p := range 5 {
						s.use(fmt.Sprintf("w%d", i), p, 200, 300*mi)
					}
				}
				b.StartTimer()
				s.compute(&Round{})
			}
		})
	}
}
