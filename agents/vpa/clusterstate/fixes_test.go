package clusterstate

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

// models are upstream's and ours. Each test says what either does, so that it fails when upstream mends its own.
func models() map[string]model.ClusterState {
	return map[string]model.ClusterState{"upstream": model.NewClusterState(time.Hour), "ours": New(time.Hour)}
}

var (
	deployed = model.PodID{Namespace: "shop", PodName: "cart-1"}
	cart     = model.ContainerID{PodID: deployed, ContainerName: "app"}
	cartVPA  = model.VpaID{Namespace: "shop", VpaName: "cart"}
	cartOnly = labels.SelectorFromSet(labels.Set{"app": "cart"})
)

func object(target string) *vpav1.VerticalPodAutoscaler {
	return &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: cartVPA.Namespace, Name: cartVPA.VpaName},
		Spec: vpav1.VerticalPodAutoscalerSpec{TargetRef: &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: target}}}
}

func add(t *testing.T, c model.ClusterState, id model.ContainerID, l labels.Set) {
	t.Helper()
	c.AddOrUpdatePod(id.PodID, l, corev1.PodRunning)
	if err := c.AddOrUpdateContainer(id, model.Resources{model.ResourceMemory: 1e9}); err != nil {
		t.Fatal(err)
	}
}

func vpa(t *testing.T, c model.ClusterState, target string, selector labels.Selector) *model.Vpa {
	t.Helper()
	if err := c.AddOrUpdateVpa(object(target), selector); err != nil {
		t.Fatal(err)
	}
	return c.VPAs()[cartVPA]
}

func sample(t *testing.T, c model.ClusterState, id model.ContainerID, resource model.ResourceName, usage model.ResourceAmount) {
	t.Helper()
	if err := c.AddSample(&model.ContainerUsageSampleWithKey{Container: id, ContainerUsageSample: model.ContainerUsageSample{MeasureStart: time.Now(), Resource: resource, Usage: usage}}); err != nil {
		t.Fatal(err)
	}
}

// memory is the largest peak that an autoscaler knows.
func memory(v *model.Vpa) float64 {
	if state := v.AggregateStateByContainerName()["app"]; state != nil {
		return state.AggregateMemoryPeaks.Percentile(1)
	}
	return 0
}

func everything() fetcher { return func(string) bool { return true } }
func nothing() fetcher    { return func(string) bool { return false } }

// A Job's pod that is killed before its first CPU sample leaves a memory peak alone (kubernetes/autoscaler#10211).
func TestMemoryAloneIsKept(t *testing.T) {
	for name, keeps := range map[string]bool{"upstream": false, "ours": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := models()[name]
				v := vpa(t, c, "cart", cartOnly)
				add(t, c, cart, labels.Set{"app": "cart"})
				if err := c.RecordOOM(cart, time.Now(), 1e9); err != nil {
					t.Fatal(err)
				}
				c.AddOrUpdatePod(deployed, labels.Set{"app": "cart"}, corev1.PodFailed)
				c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
				if got := memory(v) > 1e9; got != keeps {
					t.Errorf("the peak is kept: %v, want %v", got, keeps)
				}
			})
		})
	}
}

// It is kept as long as one with CPU samples: eight days after the interval that it was in, not for ever, and not only since it was made.
func TestMemoryAloneExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(0)
		v := vpa(t, c, "cart", cartOnly)
		add(t, c, cart, labels.Set{"app": "cart"})
		time.Sleep(7 * 24 * time.Hour)
		sample(t, c, cart, model.ResourceMemory, 2e9)
		c.DeletePod(deployed)
		for _, tc := range []struct {
			after time.Duration
			kept  bool
		}{{7 * 24 * time.Hour, true}, {2*24*time.Hour - time.Second, true}, {time.Second, false}} {
			time.Sleep(tc.after)
			c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
			if got := memory(v) > 0; got != tc.kept || (c.StateMapSize() == 1) != tc.kept {
				t.Errorf("%v later it is kept: %v, want %v; %d aggregations", tc.after, got, tc.kept, c.StateMapSize())
			}
		}
	})
}

// The feeder says by a selector of nothing that a target cannot be read (kubernetes/autoscaler#9891).
func TestHistoryOutlivesUnreadableTarget(t *testing.T) {
	other := labels.SelectorFromSet(labels.Set{"app": "other"})
	for _, tc := range []struct {
		name, reason   string
		then           func(t *testing.T, c model.ClusterState)
		upstream, ours bool // knows what was loaded from checkpoints
		counts         int  // pods, ours
	}{
		{"a hiccup", "the target was read before and after", func(t *testing.T, c model.ClusterState) {
			vpa(t, c, "cart", labels.Nothing())
			vpa(t, c, "cart", cartOnly)
		}, false, true, 1},
		{"during a hiccup", "its pods still are", func(t *testing.T, c model.ClusterState) { vpa(t, c, "cart", labels.Nothing()) }, false, true, 1},
		{"another target, not readable", "its history is another's", func(t *testing.T, c model.ClusterState) { vpa(t, c, "till", labels.Nothing()) }, false, false, 0},
		{"another selector", "as upstream", func(t *testing.T, c model.ClusterState) { vpa(t, c, "cart", other) }, false, false, 0},
		{"nothing new", "as upstream", func(t *testing.T, c model.ClusterState) { vpa(t, c, "cart", cartOnly) }, true, true, 1},
		{"deleted", "as upstream", func(t *testing.T, c model.ClusterState) {
			_ = c.DeleteVpa(cartVPA)
			vpa(t, c, "cart", cartOnly)
		}, false, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, c := range models() {
				add(t, c, cart, labels.Set{"app": "cart"})
				loaded := model.NewAggregateContainerState()
				loaded.AggregateMemoryPeaks.AddSample(3e9, 1, time.Now())
				vpa(t, c, "cart", cartOnly).ContainersInitialAggregateState["app"] = loaded
				tc.then(t, c)
				v, want := c.VPAs()[cartVPA], tc.upstream
				if name == "ours" {
					want = tc.ours
					if v.PodCount != tc.counts || len(c.GetMatchingPods(v)) != tc.counts {
						t.Errorf("%d pods and %d, want %d (%s)", v.PodCount, len(c.GetMatchingPods(v)), tc.counts, tc.reason)
					}
				}
				if got := memory(v) > 2.9e9; got != want {
					t.Errorf("%s: history is known: %v, want %v (%s)", name, got, want, tc.reason)
				}
			}
		})
	}
}

// A recommender that starts while the API server is slow loads history before it knows any selector.
func TestHistoryLoadedBeforeSelector(t *testing.T) {
	for name, keeps := range map[string]bool{"upstream": false, "ours": true} {
		c := models()[name]
		loaded := model.NewAggregateContainerState()
		loaded.AggregateMemoryPeaks.AddSample(3e9, 1, time.Now())
		vpa(t, c, "cart", labels.Nothing()).ContainersInitialAggregateState["app"] = loaded
		if got := memory(vpa(t, c, "cart", cartOnly)) > 2.9e9; got != keeps {
			t.Errorf("%s: history is known: %v, want %v", name, got, keeps)
		}
	}
}

// The news of an OOM comes after that of the pod's end (kubernetes/autoscaler#6705).
func TestOOMOfDepartedPod(t *testing.T) {
	for name, counts := range map[string]bool{"upstream": false, "ours": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := models()[name]
				v := vpa(t, c, "cart", cartOnly)
				add(t, c, cart, labels.Set{"app": "cart"})
				sample(t, c, cart, model.ResourceMemory, 1e9)
				c.DeletePod(deployed)
				err := c.RecordOOM(cart, time.Now(), 4e9)
				if got := memory(v) > 4e9; got != counts || (err == nil) != counts {
					t.Errorf("it counts: %v (%v), want %v", got, err, counts)
				}
				if v.PodCount != 0 || len(c.Pods()) != 0 {
					t.Errorf("the pod still is one: %d, %d", v.PodCount, len(c.Pods()))
				}
			})
		})
	}
}

// The interval's peak is replaced, not joined, and only as long as the memory lasts; a pod of the same name is another.
func TestDepartedPodIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(time.Hour)
		v := vpa(t, c, "cart", cartOnly)
		add(t, c, cart, labels.Set{"app": "cart"})
		sample(t, c, cart, model.ResourceMemory, 1e9)
		c.DeletePod(deployed)
		if !c.Knows(deployed) {
			t.Error("it is not remembered")
		}
		if err := c.RecordOOM(cart, time.Now(), 4e9); err != nil {
			t.Fatal(err)
		}
		if least := v.AggregateStateByContainerName()["app"].AggregateMemoryPeaks.Percentile(0.01); least < 4e9 {
			t.Errorf("the peak that the OOM replaced is still there: %v", least)
		}
		if got := c.TakeOOMed(); len(got) != 1 || got[0] != cartVPA || len(c.TakeOOMed()) != 0 {
			t.Errorf("OOMs of %v", got)
		}
		c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
		time.Sleep(departedFor - time.Second)
		c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
		if !c.Knows(deployed) {
			t.Error("it is forgotten too early")
		}
		time.Sleep(time.Second)
		c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
		if err := c.RecordOOM(cart, time.Now(), 8e9); err == nil || c.Knows(deployed) || memory(v) > 8e9 {
			t.Errorf("it is still remembered: %v", err)
		}

		add(t, c, cart, labels.Set{"app": "cart"})
		c.DeletePod(deployed)
		add(t, c, cart, labels.Set{"app": "cart"})
		if c.departed[deployed] != nil || len(c.departed) != 0 {
			t.Error("a pod is remembered that is there again")
		}
		unmanaged := model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: "alone"}, ContainerName: "app"}
		add(t, c, unmanaged, labels.Set{"app": "alone"})
		c.DeletePod(unmanaged.PodID)
		if c.Knows(unmanaged.PodID) {
			t.Error("a pod under no autoscaler is remembered: churn would cost memory")
		}
	})
}

// A pod whose labels changed adds to the aggregation for its labels, also when that was collected and made again.
func TestRelabelledPodStillCounts(t *testing.T) {
	for name, counts := range map[string]bool{"upstream": false, "ours": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := models()[name]
				v := vpa(t, c, "cart", cartOnly)
				add(t, c, cart, labels.Set{"app": "none"})
				c.AddOrUpdatePod(deployed, labels.Set{"app": "cart"}, corev1.PodRunning)
				sample(t, c, cart, model.ResourceCPU, 100)
				time.Sleep(9 * 24 * time.Hour)
				c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
				sample(t, c, cart, model.ResourceCPU, 100)
				if got := v.AggregateStateByContainerName()["app"] != nil; got != counts {
					t.Errorf("the sample counts: %v, want %v", got, counts)
				}
			})
		})
	}
}

// run is a pod of the i-th Job of a CronJob, as Kubernetes labels it.
func run(i int) (model.ContainerID, labels.Set) {
	job, uid := fmt.Sprint("cart-", i), fmt.Sprintf("00000000-0000-0000-0000-%012d", i)
	return model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: job + "-x"}, ContainerName: "app"}, labels.Set{
		"app": "cart", "controller-uid": uid, "batch.kubernetes.io/controller-uid": uid, "job-name": job, "batch.kubernetes.io/job-name": job, "batch.kubernetes.io/job-completion-index": "0",
	}
}

// Jobs that were measured leave one aggregation together, not one each for eight days: of a CronJob every five minutes that would be 2,300.
func TestRunsOfACronJobAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(0)
		v := vpa(t, c, "cart", cartOnly)
		const runs = 500
		for i := range runs {
			id, l := run(i)
			add(t, c, id, l)
			sample(t, c, id, model.ResourceCPU, 100)
			sample(t, c, id, model.ResourceMemory, model.ResourceAmount(1e9+1e6*i))
			c.AddOrUpdatePod(id.PodID, l, corev1.PodSucceeded)
			c.DeletePod(id.PodID)
			time.Sleep(5 * time.Minute)
			c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
			if n := c.namespaces["shop"]; len(n.sets) != 1 || len(n.byLabel) != 1 || c.StateMapSize() != 1 {
				t.Fatalf("after %d runs: %d label sets, %d labels, %d aggregations; want one of each", i+1, len(n.sets), len(n.byLabel), c.StateMapSize())
			}
		}
		if state := v.AggregateStateByContainerName()["app"]; state.TotalSamplesCount != runs || memory(v) < 1.4e9 {
			t.Errorf("%d samples are known and a peak of %v, want all %d and the last", state.TotalSamplesCount, memory(v), runs)
		}
		time.Sleep(9 * 24 * time.Hour)
		c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
		if len(c.namespaces["shop"].sets) != 0 || c.StateMapSize() != 0 {
			t.Error("what nobody added to for eight days is kept")
		}
	})
}

// Runs that are too short for their CPU to be measured leave peaks of memory alone. They are kept although an early run had CPU measured, and that is
// long ago; and not for ever.
func TestShortRunsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(0)
		v := vpa(t, c, "cart", cartOnly)
		const days = 20
		for i := range days {
			id, l := run(i)
			add(t, c, id, l)
			if i == 0 {
				sample(t, c, id, model.ResourceCPU, 100)
			}
			peak := model.ResourceAmount(1e9)
			if i == 6 {
				peak = 3e9
			}
			sample(t, c, id, model.ResourceMemory, peak)
			c.AddOrUpdatePod(id.PodID, l, corev1.PodSucceeded)
			c.DeletePod(id.PodID)
			time.Sleep(24 * time.Hour)
			c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
			if got := memory(v); i >= 6 && i < 14 && got < 2.9e9 || c.StateMapSize() != 1 {
				t.Fatalf("day %d: the peak of day 6 is %v, and there are %d aggregations", i, got, c.StateMapSize())
			}
		}
		time.Sleep(8 * 24 * time.Hour)
		c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
		if c.StateMapSize() != 0 {
			t.Error("what nobody added to for eight days is kept")
		}
	})
}

// A label that an autoscaler asks for tells pods apart, also those that were there before it; another Job's are one all the same.
func TestLabelsThatAreAskedFor(t *testing.T) {
	uid := func(i int) string { _, l := run(i); return l["controller-uid"] }
	parse := func(text string) labels.Selector {
		s, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tc := range []struct {
		name, reason string
		selector     labels.Selector
		pods, sets   int
	}{
		{"one Job", "that is what a Job's own selector says", parse("controller-uid=" + uid(1)), 1, 2},
		{"several", "each value is named", parse("app=cart,job-name in (cart-1,cart-2,other)"), 2, 3},
		{"all but one", "who has another value is as one who has none", parse("app=cart,job-name notin (cart-1)"), 3, 2},
		{"any Job", "every value counts", parse("job-name"), 4, 4},
		{"none", "every value counts", parse("app=cart,!job-name"), 0, 4},
		{"compared", "every value counts", parse("batch.kubernetes.io/job-completion-index>0"), 0, 1},
		{"another label", "none is named", cartOnly, 4, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for order, before := range map[string]bool{"pods before": false, "autoscaler before": true} {
				synctest.Test(t, func(t *testing.T) {
					c, up := New(0), model.NewClusterState(0)
					if before {
						vpa(t, c, "cart", tc.selector)
					}
					for i := range 4 {
						id, l := run(i)
						add(t, c, id, l)
						add(t, up, id, l)
					}
					if !before {
						vpa(t, c, "cart", tc.selector)
					}
					v := c.VPAs()[cartVPA]
					if want := vpa(t, up, "cart", tc.selector).PodCount; v.PodCount != tc.pods || want != tc.pods || len(c.GetMatchingPods(v)) != tc.pods {
						t.Errorf("%s: it selects %d pods and %d, upstream %d, want %d (%s)", order, v.PodCount, len(c.GetMatchingPods(v)), want, tc.pods, tc.reason)
					}
					c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
					if n := len(c.namespaces["shop"].sets); n != tc.sets {
						t.Errorf("%s: %d label sets, want %d (%s)", order, n, tc.sets, tc.reason)
					}
					for i := range 4 {
						id, _ := run(i)
						sample(t, c, id, model.ResourceCPU, 100)
					}
					if state := v.AggregateStateByContainerName()["app"]; tc.pods > 0 && (state == nil || state.TotalSamplesCount != tc.pods) {
						t.Errorf("%s: samples of other than %d pods count: %+v", order, tc.pods, state)
					}
					if err := c.check(); err != nil {
						t.Errorf("%s: %v", order, err)
					}
					_ = c.DeleteVpa(cartVPA)
					if err := c.check(); err != nil {
						t.Errorf("%s: %v", order, err)
					}
					for i := range 4 {
						id, l := run(i)
						c.AddOrUpdatePod(id.PodID, l, corev1.PodRunning)
						c.DeletePod(id.PodID)
					}
					time.Sleep(9 * 24 * time.Hour)
					c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
					if len(c.namespaces) != 0 {
						t.Errorf("%s: something is left of all that is gone", order)
					}
				})
			}
		})
	}
}

// labelSets is how many label sets a model keeps. Upstream's has nothing that says so.
func labelSets(t *testing.T, c model.ClusterState) int {
	t.Helper()
	if ours, is := c.(*Cluster); is {
		if n := ours.namespaces["shop"]; n != nil {
			return len(n.sets)
		}
		return 0
	}
	sets := reflect.ValueOf(c).Elem().FieldByName("labelSetMap")
	if sets.Kind() != reflect.Map {
		t.Fatal("upstream keeps label sets in another way: is what this test is about mended?")
	}
	return sets.Len()
}

// Pods that come and go with labels of their own, as those of Jobs do, must leave nothing (kubernetes/autoscaler#6368). Upstream drops their
// aggregations, and keeps the labels of every pod there ever was.
func TestLabelSetsAreNotKept(t *testing.T) {
	const pods = 20_000
	for name, kept := range map[string]int{"upstream": pods, "ours": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := models()[name]
				vpa(t, c, "cart", cartOnly)
				collect := func() {
					time.Sleep(max(departedFor, time.Hour)) // the models collect once an hour
					c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), nothing())
				}
				for i := range pods {
					id := model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: fmt.Sprint("job-", i)}, ContainerName: "app"}
					add(t, c, id, labels.Set{"app": "cart", "job": fmt.Sprint(i)})
					c.DeletePod(id.PodID)
					if i%1000 == 999 {
						collect()
					}
				}
				collect()
				if got := labelSets(t, c); got != kept || c.StateMapSize() != 0 || len(c.Pods()) != 0 {
					t.Errorf("%d label sets, want %d; %d aggregations and %d pods, want none", got, kept, c.StateMapSize(), len(c.Pods()))
				}
				if ours, is := c.(*Cluster); is {
					if n := ours.namespaces["shop"]; len(n.byLabel) != 0 || len(ours.departed) != 0 {
						t.Errorf("%d labels, %d pods are left", len(n.byLabel), len(ours.departed))
					}
				}
			})
		})
	}
}

// The same in bytes, beside upstream.
func TestHeapIsFlatUnderChurn(t *testing.T) {
	churn := func(c model.ClusterState) (grown int64) {
		heap := func() int64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		now := time.Now()
		before := heap()
		for i := range 20_000 {
			id, l := run(i)
			if i%2 == 0 { // a label that the model knows nothing about, of a pod that never was measured
				l = labels.Set{"app": "cart", "job": fmt.Sprint(i)}
			}
			c.AddOrUpdatePod(id.PodID, l, corev1.PodRunning)
			if err := c.AddOrUpdateContainer(id, nil); err != nil {
				t.Fatal(err)
			}
			for _, r := range []model.ResourceName{model.ResourceCPU, model.ResourceMemory}[:i%2*2] {
				if err := c.AddSample(&model.ContainerUsageSampleWithKey{Container: id, ContainerUsageSample: model.ContainerUsageSample{MeasureStart: now, Resource: r, Usage: 1e9}}); err != nil {
					t.Fatal(err)
				}
			}
			c.DeletePod(id.PodID)
			if i%1000 == 999 {
				now = now.Add(2 * time.Hour)
				c.RateLimitedGarbageCollectAggregateCollectionStates(context.Background(), now, nothing())
			}
		}
		now = now.Add(2 * time.Hour)
		c.RateLimitedGarbageCollectAggregateCollectionStates(context.Background(), now, nothing())
		grown = heap() - before
		runtime.KeepAlive(c)
		return grown
	}
	upstream, ours := churn(model.NewClusterState(time.Hour)), churn(New(time.Hour))
	t.Logf("heap after 20,000 pods came and went, half of them measured: upstream +%d KiB, ours +%d KiB", upstream>>10, ours>>10)
	if ours > 1<<20 || upstream < 4<<20 {
		t.Errorf("upstream grew by %d bytes, ours by %d", upstream, ours)
	}
}

// Of two autoscalers that select a pod, the one controls that updater and admission choose.
func TestControllingVPA(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, want string
		created    map[string]time.Time
	}{
		{"the oldest", "b", map[string]time.Time{"a": at.Add(time.Hour), "b": at, "c": at.Add(2 * time.Hour)}},
		{"the first by name of one age", "a", map[string]time.Time{"c": at, "b": at, "a": at}},
	} {
		c := New(time.Hour)
		for name, created := range tc.created {
			one := object("cart")
			one.Name, one.CreationTimestamp = name, metav1.NewTime(created)
			if err := c.AddOrUpdateVpa(one, cartOnly); err != nil {
				t.Fatal(err)
			}
		}
		add(t, c, cart, labels.Set{"app": "cart"})
		if got := c.GetControllingVPA(c.Pods()[deployed]); got == nil || got.ID.VpaName != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.want)
		}
		if err := c.DeleteVpa(model.VpaID{Namespace: "shop", VpaName: tc.want}); err != nil {
			t.Fatal(err)
		}
		if got := c.GetControllingVPA(c.Pods()[deployed]); got == nil || got.ID.VpaName == tc.want {
			t.Errorf("%s: %v is deleted", tc.name, got)
		}
	}
}

// counting tells how often a selector is asked.
type counting struct {
	labels.Selector
	asked *int
}

func (c counting) Matches(l labels.Labels) bool {
	*c.asked++
	return c.Selector.Matches(l)
}

// In one namespace, with labels that all pods have, a pod is compared with the autoscaler that could select it and an autoscaler with the
// pods that it could select; upstream compares each with each.
func TestOneNamespaceIsNoWorse(t *testing.T) {
	const n = 500
	for name, most := range map[string]int{"upstream": n * n, "ours": 5 * n} {
		t.Run(name, func(t *testing.T) {
			c, asked := models()[name], 0
			autoscaler := func(i int) {
				one := object("cart")
				one.Name = fmt.Sprint("v", i)
				selector := labels.SelectorFromSet(labels.Set{"a": "same", "env": "prod", "id": fmt.Sprint(i), "z": "same"})
				if err := c.AddOrUpdateVpa(one, counting{selector, &asked}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range n / 2 { // half of them before the pods
				autoscaler(i)
			}
			for i := range n {
				add(t, c, model.ContainerID{PodID: model.PodID{Namespace: "shop", PodName: fmt.Sprint("p", i)}, ContainerName: "app"}, labels.Set{"a": "same", "env": "prod", "id": fmt.Sprint(i), "z": "same"})
			}
			for i := n / 2; i < n; i++ {
				autoscaler(i)
			}
			for id, v := range c.VPAs() {
				if v.PodCount != 1 {
					t.Fatalf("%v counts %d pods", id, v.PodCount)
				}
			}
			if asked > most && name == "ours" || asked < most && name == "upstream" {
				t.Errorf("selectors were asked %d times, expected about %d", asked, most)
			}
			t.Logf("selectors were asked %d times", asked)
		})
	}
}
