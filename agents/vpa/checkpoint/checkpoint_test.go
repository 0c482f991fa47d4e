package checkpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// api takes the place of the API server. It records names in the order of their requests.
type api struct {
	vpaclient.VerticalPodAutoscalerCheckpointInterface
	*shared
	ns string
}

type shared struct {
	mu      sync.Mutex
	stored  map[string]vpav1.VerticalPodAutoscalerCheckpoint
	asked   []string
	nextErr func(name string) error
	wait    func(ctx context.Context) error
	at      map[string][]time.Time
}

func newAPI() *api {
	return &api{shared: &shared{stored: map[string]vpav1.VerticalPodAutoscalerCheckpoint{}, at: map[string][]time.Time{}}}
}

func (a *api) VerticalPodAutoscalerCheckpoints(ns string) vpaclient.VerticalPodAutoscalerCheckpointInterface {
	return &api{shared: a.shared, ns: ns}
}

func (a *api) Patch(ctx context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*vpav1.VerticalPodAutoscalerCheckpoint, error) {
	if a.wait != nil {
		if err := a.wait(ctx); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, name)
	if a.nextErr != nil {
		if err := a.nextErr(name); err != nil {
			return nil, err
		}
	}
	object, known := a.stored[a.ns+"/"+name]
	if !known {
		return nil, apierrors.NewNotFound(vpav1.Resource("verticalpodautoscalercheckpoints"), name)
	}
	var patch []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	replaced := 0
	for _, one := range patch {
		switch is := map[string]string{"/spec/vpaObjectName": object.Spec.VPAObjectName, "/spec/containerName": object.Spec.ContainerName}[one.Path]; {
		case one.Op == "replace" && one.Path == "/status":
			object.Status = vpav1.VerticalPodAutoscalerCheckpointStatus{}
			if err := json.Unmarshal(one.Value, &object.Status); err != nil {
				return nil, err
			}
			replaced++
		case one.Op == "test" && is != "" && string(one.Value) == strconv.Quote(is):
		case one.Op == "test": // as the API server says it
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "testing value "+one.Path+" failed: test failed", 0, false)
		}
	}
	if replaced != 1 {
		return nil, fmt.Errorf("not the patch expected: %s", data)
	}
	a.stored[a.ns+"/"+name] = object
	a.at[name] = append(a.at[name], time.Now())
	return &object, nil
}

func (a *api) Create(_ context.Context, object *vpav1.VerticalPodAutoscalerCheckpoint, _ metav1.CreateOptions) (*vpav1.VerticalPodAutoscalerCheckpoint, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored[a.ns+"/"+object.Name] = *object
	a.at[object.Name] = append(a.at[object.Name], time.Now())
	return object, nil
}

func (a *api) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	if a.nextErr != nil {
		if err := a.nextErr(name); err != nil {
			return err
		}
	}
	delete(a.stored, a.ns+"/"+name)
	return nil
}

func (a *api) take() []string {
	asked := a.asked
	a.asked = nil
	return asked
}

// world is a cluster of n autoscalers with one pod of one container each.
type world struct {
	*clusterstate.Cluster
	*api
	*checkpoint.Writer
	n int
}

func newWorld(t *testing.T, n int, o checkpoint.Options) *world {
	t.Helper()
	w := &world{Cluster: clusterstate.New(time.Hour), api: newAPI(), n: n}
	if o.Rand == nil {
		o.Rand = func() float64 { return 0.5 }
	}
	w.Writer = checkpoint.NewWriter(w.Cluster, w.api, o)
	for i := range n {
		name := fmt.Sprintf("v%d", i)
		if err := w.AddOrUpdateVpa(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}, labels.SelectorFromSet(labels.Set{"app": name})); err != nil {
			t.Fatal(err)
		}
		w.AddOrUpdatePod(w.id(i).PodID, labels.Set{"app": name}, corev1.PodRunning)
		if err := w.AddOrUpdateContainer(w.id(i), model.Resources{model.ResourceMemory: 1e9}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) id(i int) model.ContainerID {
	return model.ContainerID{PodID: model.PodID{Namespace: "ns", PodName: fmt.Sprint("p", i)}, ContainerName: "app"}
}

func (w *world) vpa(i int) *model.Vpa {
	return w.VPAs()[model.VpaID{Namespace: "ns", VpaName: fmt.Sprintf("v%d", i)}]
}

func (w *world) use(t *testing.T, i int, cpu model.ResourceAmount) {
	t.Helper()
	if err := w.AddSample(&model.ContainerUsageSampleWithKey{Container: w.id(i), ContainerUsageSample: model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceCPU, Usage: cpu}}); err != nil {
		t.Fatal(err)
	}
}

// loop is a minute of the recommender's.
func (w *world) loop(t *testing.T, cpu func(i int) model.ResourceAmount) {
	t.Helper()
	time.Sleep(time.Minute)
	for i := range w.n {
		w.use(t, i, cpu(i))
	}
	w.StoreCheckpoints(t.Context(), 2)
}

func steady(int) model.ResourceAmount { return 100 }

func TestNewAutoscalersAreStoredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, checkpoint.Options{})
		w.StoreCheckpoints(t.Context(), 2)
		if got := slices.Sorted(maps.Keys(w.stored)); !slices.Equal(got, []string{"ns/v0-app", "ns/v1-app", "ns/v2-app"}) {
			t.Errorf("stored %v", got)
		}
		if one := w.stored["ns/v1-app"]; one.Spec.VPAObjectName != "v1" || one.Spec.ContainerName != "app" || one.Status.Version != "v3" || !one.Status.LastUpdateTime.Time.Equal(time.Now()) {
			t.Errorf("%+v", one)
		}
		if !w.vpa(0).CheckpointWritten.Equal(time.Now()) || w.Stats() != (checkpoint.Stats{Written: 3}) {
			t.Errorf("%v %+v", w.vpa(0).CheckpointWritten, w.Stats())
		}
		w.StoreCheckpoints(t.Context(), 2)
		if w.Stats().Written != 3 {
			t.Error("written again at once")
		}
	})
}

// Nothing moves: the first loops write what confidence needs, then each checkpoint is as old as Refresh allows. Upstream would write 1.
func TestSteadyStateWritesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		var mu sync.Mutex // workers ask at once
		seed := 0.0
		w := newWorld(t, n, checkpoint.Options{Rand: func() float64 {
			mu.Lock()
			defer mu.Unlock()
			seed += 0.618
			seed -= float64(int(seed))
			return seed
		}})
		for range 24 * 60 {
			w.loop(t, steady)
		}
		before := w.Stats()
		most := 0
		for range 6 * 60 {
			last := w.Stats().Written
			w.loop(t, steady)
			most = max(most, w.Stats().Written-last)
		}
		per := float64(w.Stats().Written-before.Written) / (6 * 60 * n)
		t.Logf("%.2f %% of autoscalers per loop, at most %d of %d in one loop", 100*per, most, n)
		if per > 0.02 || per < 0.005 || most > n/10 {
			t.Errorf("%.2f %% per loop, at most %d", 100*per, most)
		}
		for name, at := range w.at {
			for i := 1; i < len(at); i++ {
				if gap := at[i].Sub(at[i-1]); gap < 10*time.Minute || gap > 2*time.Hour+16*time.Minute {
					t.Fatalf("%s: %v between two writes", name, gap)
				}
			}
		}
		if w.Stats().Failed > 0 || w.Stats().Unchanged == 0 {
			t.Errorf("%+v", w.Stats())
		}
	})
}

// Between two looks an autoscaler costs nothing.
func TestNothingIsLookedAtBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, checkpoint.Options{})
		for range 9 {
			w.loop(t, func(int) model.ResourceAmount { return model.ResourceAmount(time.Now().Minute()) * 100 })
		}
		if w.Stats() != (checkpoint.Stats{Written: 3}) {
			t.Errorf("%+v", w.Stats())
		}
	})
}

// One container's checkpoint that cannot be written does not make its neighbour's be written in every loop.
func TestFailureOfOneContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, checkpoint.Options{})
		side := w.id(0)
		side.ContainerName = "side"
		if err := w.AddOrUpdateContainer(side, nil); err != nil {
			t.Fatal(err)
		}
		w.nextErr = func(name string) error { return map[bool]error{true: errors.New("refused")}[name == "v0-side"] }
		for range 9 {
			w.loop(t, func(int) model.ResourceAmount { return model.ResourceAmount(time.Now().Minute()) * 100 })
		}
		if got := w.Stats(); got.Written != 1 || got.Failed != 9 || len(w.at["v0-app"]) != 1 {
			t.Errorf("%+v, %d times", got, len(w.at["v0-app"]))
		}
	})
}

// A percentile that moves is stored with the next look, never earlier than Interval after the last write.
func TestMoveIsWrittenAfterInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, checkpoint.Options{Refresh: 1000 * time.Hour})
		for range 120 {
			w.loop(t, steady)
		}
		before := len(w.at["v1-app"])
		if status := w.stored["ns/v1-app"].Status; status.LastSampleStart.Sub(status.FirstSampleStart.Time) < 80*time.Minute {
			t.Errorf("of two hours of samples %v are stored: confidence would be lost", status.LastSampleStart.Sub(status.FirstSampleStart.Time))
		}
		for range 60 {
			w.loop(t, func(i int) model.ResourceAmount {
				if i == 0 {
					return 5000 // one of the two
				}
				return 100
			})
		}
		at := w.at["v0-app"]
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < 10*time.Minute {
				t.Errorf("%v between two writes", gap)
			}
		}
		if last := at[len(at)-1]; time.Since(last) > 50*time.Minute || len(at) < 4 {
			t.Errorf("moved, and last written %v ago, %d times", time.Since(last), len(at))
		}
		if later := len(w.at["v1-app"]) - before; later > 3 {
			t.Errorf("not moved, and written %d times in an hour", later)
		}
	})
}

func TestOOMIsWrittenAtOnceAndFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, checkpoint.Options{})
		w.loop(t, steady)
		w.take()
		if err := w.RecordOOM(w.id(3), time.Now(), 2e9); err != nil {
			t.Fatal(err)
		}
		w.DeletePod(w.id(3).PodID)
		w.StoreCheckpoints(t.Context(), 1)
		if got := w.take(); !slices.Equal(got, []string{"v3-app"}) {
			t.Errorf("written %v", got)
		}
		if len(w.stored["ns/v3-app"].Status.MemoryHistogram.BucketWeights) == 0 {
			t.Error("the peak is not stored")
		}

		time.Sleep(time.Hour)
		for i := range 5 {
			if i != 3 {
				w.use(t, i, 3000)
			}
		}
		if err := w.RecordOOM(w.id(4), time.Now(), 2e9); err != nil {
			t.Fatal(err)
		}
		w.nextErr = func(name string) error { return map[bool]error{true: errors.New("busy")}[name == "v4-app"] }
		w.StoreCheckpoints(t.Context(), 1)
		if got := w.take(); len(got) != 4 || got[0] != "v4-app" {
			t.Errorf("written %v", got)
		}
		w.nextErr = nil
		w.StoreCheckpoints(t.Context(), 1)
		if got := w.take(); !slices.Equal(got, []string{"v4-app"}) || w.Stats().Failed != 1 {
			t.Errorf("written again %v, %+v", got, w.Stats())
		}
	})
}

// The peak of the interval that has not ended is not stored, as upstream's is not: an OOM reaches a checkpoint with its pod's end, or the interval's.
func TestCurrentPeakStaysOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, checkpoint.Options{})
		if err := w.RecordOOM(w.id(0), time.Now(), 2e9); err != nil {
			t.Fatal(err)
		}
		w.Flush(t.Context(), 1)
		if n := len(w.stored["ns/v0-app"].Status.MemoryHistogram.BucketWeights); n != 0 {
			t.Errorf("%d buckets", n)
		}
		time.Sleep(24*time.Hour + time.Second)
		w.Flush(t.Context(), 1)
		if n := len(w.stored["ns/v0-app"].Status.MemoryHistogram.BucketWeights); n != 1 {
			t.Errorf("%d buckets after the interval", n)
		}
	})
}

func TestFlushWritesWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, checkpoint.Options{})
		w.loop(t, steady)
		w.take()
		w.use2(t, 2)
		w.Flush(t.Context(), 3)
		if got := w.take(); !slices.Equal(got, []string{"v2-app"}) {
			t.Errorf("flushed %v", got)
		}
		w.Flush(t.Context(), 3)
		if got := w.take(); len(got) != 0 {
			t.Errorf("flushed %v again", got)
		}
	})
}

func (w *world) use2(t *testing.T, i int) {
	t.Helper()
	time.Sleep(time.Second)
	w.use(t, i, 100)
}

// A restart finds everything stored, and does not store it again at once.
func TestRestartWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		var mu sync.Mutex // workers ask at once
		seed := 0.0
		w := newWorld(t, n, checkpoint.Options{Rand: func() float64 {
			mu.Lock()
			defer mu.Unlock()
			seed += 0.618
			seed -= float64(int(seed))
			return seed
		}})
		for i := range n {
			w.vpa(i).ContainersInitialAggregateState["app"] = model.NewAggregateContainerState()
		}
		w.StoreCheckpoints(t.Context(), 2)
		if got := w.take(); len(got) > 0 {
			t.Errorf("%d written at once", len(got))
		}
		for minute := range 11 {
			w.loop(t, steady)
			if got := len(w.take()); got > n/5 {
				t.Errorf("%d in minute %d", got, minute)
			}
		}
		if w.Stats().Written != n {
			t.Errorf("%d written in the first interval, want all %d: each got its first samples", w.Stats().Written, n)
		}
	})
}

func TestOldestFirstUntilTheTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6, checkpoint.Options{Interval: -1, Refresh: -1})
		w.StoreCheckpoints(t.Context(), 1)
		for i, at := range []int{3, 1, 5, 0, 2, 4} { // each is written at another time
			time.Sleep(time.Minute)
			for j := range 6 {
				w.vpa(j).SetCondition(vpav1.FetchingHistory, j != at, "", "")
			}
			w.use(t, at, model.ResourceAmount(100*i))
			w.StoreCheckpoints(t.Context(), 1)
		}
		for i := range 6 {
			w.vpa(i).DeleteCondition(vpav1.FetchingHistory)
			w.use2(t, i)
		}
		w.take()
		ctx, cancel := context.WithCancel(t.Context())
		w.wait = func(context.Context) error { return nil }
		w.nextErr = func(name string) error {
			if name == "v5-app" {
				cancel()
			}
			return nil
		}
		w.StoreCheckpoints(ctx, 1)
		got := w.take()
		if want := []string{"v3-app", "v1-app", "v5-app"}; len(got) < 3 || len(got) > 5 || !slices.Equal(got[:3], want) {
			t.Errorf("written %v, want to begin with %v and to end soon", got, want)
		}
		// It makes progress even when the time is up before it began: as many as there are workers.
		w.nextErr = nil
		ended, end := context.WithCancel(t.Context())
		end()
		w.StoreCheckpoints(ended, 1)
		if got := w.take(); len(got) != 1 {
			t.Errorf("written %v after the time was up", got)
		}
	})
}

// A request that hangs ends with the time.
func TestDeadlineEndsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 20, checkpoint.Options{})
		w.wait = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		w.StoreCheckpoints(ctx, 4)
		if took := time.Since(began); took > time.Minute+15*time.Second {
			t.Errorf("it took %v", took)
		}
		if w.Stats().Written != 0 || w.Stats().Failed == 0 {
			t.Errorf("%+v", w.Stats())
		}
	})
}

func TestWhoIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, checkpoint.Options{})
		w.vpa(0).SetCondition(vpav1.FetchingHistory, true, "", "")
		w.StoreCheckpoints(t.Context(), 0)
		if got := w.take(); !slices.Equal(got, []string{"v1-app"}) {
			t.Errorf("written %v: history that is being fetched must not be replaced", got)
		}
		w.Flush(t.Context(), 1)
		if got := w.take(); !slices.Contains(got, "v0-app") {
			t.Errorf("written %v: at the end what was measured is stored, with what was before; another process fetches history anew", got)
		}
		w.vpa(0).DeleteCondition(vpav1.FetchingHistory)
		w.DeletePod(w.id(0).PodID)
		time.Sleep(400 * 24 * time.Hour)
		w.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nil)
		w.StoreCheckpoints(t.Context(), 1)
		if got := w.take(); len(got) != 0 {
			t.Errorf("written %v of nothing", got)
		}
		// One that had nothing to store is looked at in each loop.
		w.AddOrUpdatePod(w.id(0).PodID, labels.Set{"app": "v0"}, corev1.PodRunning)
		if err := w.AddOrUpdateContainer(w.id(0), nil); err != nil {
			t.Fatal(err)
		}
		w.StoreCheckpoints(t.Context(), 1)
		if got := w.take(); !slices.Contains(got, "v0-app") {
			t.Errorf("written %v", got)
		}
	})
}

// Of two autoscalers whose checkpoints would have one name, each has its own, also where upstream's recommender left one that both wrote to.
func TestOneNameOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, order := range [][]string{{"web", "web-api"}, {"web-api", "web"}} {
			w := &world{Cluster: clusterstate.New(time.Hour), api: newAPI()}
			w.Writer = checkpoint.NewWriter(w.Cluster, w.api, checkpoint.Options{Interval: -1, Refresh: -1})
			containers := map[string]string{"web": "api-proxy", "web-api": "proxy"}
			uses := map[string]model.ResourceAmount{"web": 100, "web-api": 3000}
			for round := range 3 {
				for _, name := range order {
					id := model.ContainerID{PodID: model.PodID{Namespace: "ns", PodName: name}, ContainerName: containers[name]}
					if round == 0 {
						if err := w.AddOrUpdateVpa(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}, labels.SelectorFromSet(labels.Set{"app": name})); err != nil {
							t.Fatal(err)
						}
						w.AddOrUpdatePod(id.PodID, labels.Set{"app": name}, corev1.PodRunning)
						if err := w.AddOrUpdateContainer(id, nil); err != nil {
							t.Fatal(err)
						}
					}
					if err := w.AddSample(&model.ContainerUsageSampleWithKey{Container: id, ContainerUsageSample: model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceCPU, Usage: uses[name]}}); err != nil {
						t.Fatal(err)
					}
					w.Flush(t.Context(), 2)
				}
				time.Sleep(time.Minute)
			}
			if got := w.Stats(); got.Failed > 0 || len(w.stored) != 2 {
				t.Fatalf("%d checkpoints are stored: %+v", len(w.stored), got)
			}
			for key, one := range w.stored {
				name := one.Spec.VPAObjectName
				state := model.NewAggregateContainerState()
				if err := state.LoadFromCheckpoint(&one.Status); err != nil {
					t.Fatal(err)
				}
				if got := state.AggregateCPUUsage.Percentile(1) * 1000; one.Spec.ContainerName != containers[name] || got < float64(uses[name]) || got > 1.2*float64(uses[name]) || one.Status.TotalSamplesCount != 3 {
					t.Errorf("%s, made for container %s of %s, says %.0fm of %d samples", key, one.Spec.ContainerName, name, got, one.Status.TotalSamplesCount)
				}
				if is := key == "ns/web-api-proxy"; is != (name == order[0]) || !is && !strings.HasPrefix(key, "ns/web-api-proxy-") {
					t.Errorf("%s is %s's; upstream's name is of the first, %s", key, name, order[0])
				}
			}
		}
	})
}

func lister[T any](t *testing.T, objects ...*T) cache.Indexer {
	t.Helper()
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, one := range objects {
		if err := indexer.Add(one); err != nil {
			t.Fatal(err)
		}
	}
	return indexer
}

func TestCollect(t *testing.T) {
	stored := func(ns, name, vpa string) *vpav1.VerticalPodAutoscalerCheckpoint {
		return &vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: vpav1.VerticalPodAutoscalerCheckpointSpec{VPAObjectName: vpa}}
	}
	vpas := vpalisters.NewVerticalPodAutoscalerLister(lister(t, &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "kept"}}))
	checkpoints := []*vpav1.VerticalPodAutoscalerCheckpoint{
		stored("a", "kept-app", "kept"), stored("a", "gone-app", "gone"), stored("b", "kept-app", "kept"), stored("b", "gone-app", "gone"), stored("skipped", "gone-app", "gone"),
	}
	list := vpalisters.NewVerticalPodAutoscalerCheckpointLister(lister(t, checkpoints...))
	fill := func() *api {
		a := newAPI()
		for _, one := range checkpoints {
			a.stored[one.Namespace+"/"+one.Name] = *one
		}
		return a
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, tc := range []struct {
		name, left string
		ctx        context.Context
		nextErr    error
		deleted    int
		err        string
	}{
		{name: "without autoscaler", ctx: t.Context(), left: "a/kept-app skipped/gone-app", deleted: 3},
		{name: "already deleted", ctx: t.Context(), nextErr: apierrors.NewNotFound(vpav1.Resource("x"), "y"), left: "a/gone-app a/kept-app b/gone-app b/kept-app skipped/gone-app"},
		{name: "refused", ctx: t.Context(), nextErr: errors.New("refused"), left: "a/gone-app a/kept-app b/gone-app b/kept-app skipped/gone-app", err: "refused"},
		{name: "out of time", ctx: ended, left: "a/gone-app a/kept-app b/gone-app b/kept-app skipped/gone-app", err: "the time is up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := fill()
			a.nextErr = func(string) error { return tc.nextErr }
			deleted, err := checkpoint.Collect(tc.ctx, a, vpas, list, func(ns string) bool { return ns == "skipped" })
			if left := strings.Join(slices.Sorted(maps.Keys(a.stored)), " "); left != tc.left || deleted != tc.deleted {
				t.Errorf("%d deleted, left %s", deleted, left)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v", err)
			}
		})
	}
	a := fill()
	if deleted, err := checkpoint.Collect(t.Context(), a, vpas, list, nil); deleted != 4 || err != nil {
		t.Errorf("%d deleted, %v", deleted, err)
	}
}
