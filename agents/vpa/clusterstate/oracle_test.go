package clusterstate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/go-logr/logr"
	gocmp "github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	upstream "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/checkpoint"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/logic"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/klog/v2"

	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

const (
	sequences = 1050
	settling  = 14 // steps that only add
	steps     = 44
)

// allowances are the differences to upstream that are on purpose. With one, upstream is driven so that the difference cannot show; without
// it, it must.
type allowances struct {
	memoryOnly bool // aggregations with memory peaks alone get a CPU sample before anything is collected
	unreadable bool // upstream is given the last selector instead of none, and the history it dropped at the first selector
	departed   bool // no OOMs of pods that are deleted
	relabelled bool // pods that got other labels are deleted and added again before anything is collected
}

func all() allowances {
	return allowances{memoryOnly: true, unreadable: true, departed: true, relabelled: true}
}

// TestSameAsUpstream drives upstream's model and checkpoint writer and ours with the same operations, and compares all they say after each:
// return values, pods, autoscalers, aggregations, recommendations, and the bytes of every checkpoint.
//
// What the comparison notices is shown by TestMutations.
func TestSameAsUpstream(t *testing.T) {
	compared := stats{}
	for seed := range uint64(sequences) {
		if err := sequence(t, seed, steps, all(), &compared); err != nil {
			t.Fatalf("sequence %d: %v", seed, err)
		}
	}
	t.Logf("%+v", compared)
	for name, n := range map[string]int{
		"recommendations": compared.recommendations, "checkpoints": compared.checkpoints, "restarts": compared.restarts, "collections": compared.collections,
		"collected aggregations": compared.collected, "OOMs": compared.ooms, "samples": compared.samples, "overlapping autoscalers": compared.overlaps,
	} {
		if n < sequences/2 {
			t.Errorf("only %d %s were compared", n, name)
		}
	}
	if compared.inexact*1000 > compared.checkpoints {
		t.Errorf("%d of %d checkpoints are the same only up to the order of sums", compared.inexact, compared.checkpoints)
	}
}

// TestEachDifferenceShows proves that every allowance is needed, and that the comparison would see the difference.
func TestEachDifferenceShows(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		without      func(*allowances)
	}{
		{"memory alone", "upstream throws away memory peaks of containers that got no CPU sample", func(a *allowances) { a.memoryOnly = false }},
		{"target unreadable", "upstream drops pods and history when a target cannot be read once", func(a *allowances) { a.unreadable = false }},
		{"pod departed", "upstream refuses the OOM of a pod that is deleted", func(a *allowances) { a.departed = false }},
		{"pod relabelled", "upstream's container adds to an aggregation that was collected", func(a *allowances) { a.relabelled = false }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			allowed := all()
			tc.without(&allowed)
			for seed := range uint64(sequences) {
				if err := sequence(t, seed, steps, allowed, &stats{}); err != nil {
					t.Logf("sequence %d: %s", seed, err.Error()[strings.LastIndex(err.Error(), "upstream"):])
					return
				}
			}
			t.Errorf("no difference in %d sequences: %s", sequences, tc.reason)
		})
	}
}

// TestRunsSameAsUpstream lets Jobs come and go, with the labels that Kubernetes gives each: upstream has an aggregation for each of them, we
// have one, and yet they recommend and store the same. A week, as upstream drops what is older while the aggregation goes on here.
func TestRunsSameAsUpstream(t *testing.T) {
	compared := stats{}
	const runs, weeks = 60, 16
	for seed := range uint64(weeks) {
		// As in sequence: with the usual half-life the histograms that upstream merges begin at another time than ours, and say the same.
		long := seed%2 == 0
		if long {
			const halfLife = 2 * 365 * 24 * time.Hour
			model.InitializeAggregationsConfig(model.NewAggregationsConfig(model.DefaultMemoryAggregationInterval, model.DefaultMemoryAggregationIntervalCount, halfLife, halfLife,
				model.DefaultOOMBumpUpRatio, model.DefaultOOMMinBumpUp))
		}
		synctest.Test(t, func(t *testing.T) {
			w := &world{Rand: rand.New(rand.NewPCG(seed, 2)), upStore: newStore(), ourStore: newStore(), stats: &compared, gc: time.Hour}
			w.reset()
			all := func(do func(c model.ClusterState) error) {
				for _, c := range []model.ClusterState{w.up, w.our} {
					if err := do(c); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, single := run(7)
			for name, selector := range map[string]labels.Selector{"cart": cartOnly, "job": labels.SelectorFromSet(labels.Set{"controller-uid": single["controller-uid"]})} {
				o := object(name)
				o.Name = name
				all(func(c model.ClusterState) error { return c.AddOrUpdateVpa(o, selector) })
			}
			for i := range runs {
				id, l := run(i)
				all(func(c model.ClusterState) error {
					c.AddOrUpdatePod(id.PodID, l, corev1.PodRunning)
					return c.AddOrUpdateContainer(id, model.Resources{model.ResourceMemory: 1e9})
				})
				for range 1 + w.IntN(5) {
					cpu := model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceCPU, Usage: model.ResourceAmount(w.IntN(3000))}
					memory := model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceMemory, Usage: model.ResourceAmount(w.Int64N(3e9))}
					all(func(c model.ClusterState) error {
						return errors.Join(c.AddSample(&model.ContainerUsageSampleWithKey{ContainerUsageSample: cpu, Container: id}), c.AddSample(&model.ContainerUsageSampleWithKey{ContainerUsageSample: memory, Container: id}))
					})
					time.Sleep(time.Minute + time.Duration(w.IntN(1000))*time.Millisecond)
				}
				if w.IntN(4) == 0 {
					at := time.Now()
					all(func(c model.ClusterState) error { return c.RecordOOM(id, at, 1e9) })
				}
				if w.IntN(3) > 0 {
					all(func(c model.ClusterState) error { c.DeletePod(id.PodID); return nil })
				}
				time.Sleep(2*time.Hour + time.Duration(w.IntN(1800))*time.Second)
				all(func(c model.ClusterState) error {
					c.RateLimitedGarbageCollectAggregateCollectionStates(t.Context(), time.Now(), everything())
					return nil
				})
				if i%6 > 0 {
					continue
				}
				for vid, up := range w.up.VPAs() {
					if our := w.our.VPAs()[vid]; up.PodCount != our.PodCount {
						t.Fatalf("week %d: autoscaler %v counts %d pods, upstream %d", seed, vid, our.PodCount, up.PodCount)
					} else if err := w.sameRecommendation(up, our); err != nil {
						t.Fatalf("week %d: %v", seed, err)
					}
				}
				err := w.our.check()
				if long {
					err = errors.Join(err, w.sameCheckpoints(t.Context()))
				}
				if err != nil {
					t.Fatalf("week %d: %v", seed, err)
				}
			}
			if up, our := w.up.StateMapSize(), w.our.StateMapSize(); up != runs || our != 2 {
				t.Errorf("week %d: upstream has %d aggregations and we %d, want %d and 2", seed, up, our, runs)
			}
		})
		model.InitializeAggregationsConfig(nil)
	}
	t.Logf("%+v", compared)
	if compared.recommendations < weeks*runs/6 || compared.checkpoints < weeks/2*runs/6 {
		t.Error("too little was compared")
	}
}

type stats struct {
	recommendations, checkpoints, inexact, asked, restarts, collections, collected, ooms, samples, overlaps int
}

// world is upstream's model and ours, and what the test knows of both.
type world struct {
	*rand.Rand
	up                  model.ClusterState
	our                 *Cluster
	upStore, ourStore   *store
	upWriter, ourWriter upstream.CheckpointWriter
	objects             map[model.VpaID]*vpav1.VerticalPodAutoscaler
	selectors           map[model.VpaID]labels.Selector
	relabelled          map[model.PodID]bool
	disjoint            bool // no two autoscalers select the same pod: where they do, upstream's answers depend on the order of maps
	single              bool // pods that an autoscaler selects have the same labels
	allowed             allowances
	gc                  time.Duration
	log                 []string
	stats               *stats
}

// sequence runs one in a bubble where time is what the test makes it: upstream reads the clock itself.
func sequence(t *testing.T, seed uint64, steps int, allowed allowances, s *stats) (err error) {
	t.Helper()
	// Where histograms are merged, upstream aligns their times in the order of a map, and drops what is small after that. Unless there is
	// nothing to merge, a long half-life gives all of them the same time.
	single := seed%3 == 0
	model.InitializeAggregationsConfig(nil)
	if !single {
		const long = 2 * 365 * 24 * time.Hour
		model.InitializeAggregationsConfig(model.NewAggregationsConfig(model.DefaultMemoryAggregationInterval, model.DefaultMemoryAggregationIntervalCount, long, long,
			model.DefaultOOMBumpUpRatio, model.DefaultOOMMinBumpUp))
	}
	defer model.InitializeAggregationsConfig(nil)
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := &world{Rand: r, objects: map[model.VpaID]*vpav1.VerticalPodAutoscaler{}, selectors: map[model.VpaID]labels.Selector{}, disjoint: seed%3 < 2, single: single, allowed: allowed,
			gc: []time.Duration{0, time.Hour, 24 * time.Hour}[r.IntN(3)], upStore: newStore(), ourStore: newStore(), stats: s}
		if h := 2 * 365 * 24 * time.Hour; !time.Now().Round(h).Equal(time.Now().Add(180 * 24 * time.Hour).Round(h)) {
			t.Error("the half-life does not give all histograms the same time")
		}
		w.reset()
		for i := range steps {
			if i < settling {
				err = w.settle()
			} else if err = w.step(t.Context()); err == nil {
				err = w.compare(t.Context())
			}
			if err != nil {
				err = fmt.Errorf("after\n%s\n%w", strings.Join(w.log, "\n"), err)
				return
			}
		}
		err = w.end(t.Context())
	})
	return err
}

func (w *world) reset() {
	w.up, w.our = model.NewClusterState(w.gc), New(w.gc)
	w.relabelled = map[model.PodID]bool{}
	w.upWriter = upstream.NewCheckpointWriter(w.up, w.upStore)
	w.ourWriter = checkpoint.NewWriter(w.our, w.ourStore, checkpoint.Options{Interval: -1, Refresh: -1})
}

// both runs an operation on both models and compares what it says.
func (w *world) both(what string, do func(model.ClusterState) string) error {
	w.log = append(w.log, what)
	if up, our := do(w.up), do(w.our); up != our {
		return fmt.Errorf("upstream says %s, we say %s", up, our)
	}
	return nil
}

func said(err error) string {
	return fmt.Sprintf("%v (KeyError %v)", err, errors.As(err, new(model.KeyError)))
}

var (
	namespaces = []string{"a", "a", "a", "b"} // crowded on purpose
	names      = []string{"p0", "p1", "p2", "p3", "p4"}
	containers = []string{"app", "side", "log"}
	apps       = []string{"x", "y", "z"}
	kinds      = []struct{ api, kind string }{
		{"apps/v1", "Deployment"}, {"apps/v1", "StatefulSet"}, {"apps/v1", "DaemonSet"}, {"apps/v1", "ReplicaSet"}, {"v1", "ReplicationController"}, {"batch/v1", "Job"},
		{"batch/v1", "CronJob"}, {"argoproj.io/v1alpha1", "Rollout"},
	}
	phases = []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown}
)

func pick[T any](w *world, from []T) T { return from[w.IntN(len(from))] }

func (w *world) podID() model.PodID {
	return model.PodID{Namespace: pick(w, namespaces), PodName: pick(w, names)}
}

// known is a pod that exists, mostly.
func (w *world) known() model.PodID {
	ids := slices.SortedFunc(maps.Keys(w.up.Pods()), func(a, b model.PodID) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.PodName, b.PodName))
	})
	if len(ids) == 0 || w.IntN(12) == 0 {
		return w.podID()
	}
	return pick(w, ids)
}

func (w *world) labels() labels.Set {
	set := labels.Set{}
	if w.single {
		return labels.Set{"app": pick(w, apps)}
	}
	if w.IntN(10) > 0 {
		set["app"] = pick(w, apps)
	}
	if w.IntN(2) == 0 {
		set["tier"] = pick(w, []string{"front", "back"})
	}
	if w.IntN(6) == 0 {
		set["extra"] = ""
	}
	if len(set) == 0 && w.IntN(2) == 0 {
		return nil
	}
	return set
}

func (w *world) selector(name string) labels.Selector {
	if w.disjoint {
		return labels.SelectorFromSet(labels.Set{"app": name})
	}
	text := pick(w, []string{
		"app=" + pick(w, apps), "app=" + pick(w, apps), "app==" + pick(w, apps) + ",tier=back", "app in (x,y)", "app notin (x)", "tier in (front,back),app!=z", "tier", "!tier",
		"app=x,app=y", "extra=", "app in (y,z),!extra", "",
	})
	parsed, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return parsed
}

// settle fills the cluster.
func (w *world) settle() error {
	switch w.IntN(5) {
	case 0:
		return w.vpa()
	case 1, 2:
		return w.pod()
	default:
		return w.container()
	}
}

func (w *world) pod() error {
	id, l, phase := w.podID(), w.labels(), pick(w, phases)
	if known := w.our.pods[id]; known != nil && len(known.Containers) > 0 && !maps.Equal(known.labels, l) {
		w.relabelled[id] = true
	}
	return w.both(fmt.Sprintf("pod %v %v %s", id, l, phase), func(c model.ClusterState) string { c.AddOrUpdatePod(id, l, phase); return "" })
}

func (w *world) container() error {
	id := model.ContainerID{PodID: w.known(), ContainerName: pick(w, containers)}
	request := model.Resources{model.ResourceCPU: model.ResourceAmount(w.IntN(4000)), model.ResourceMemory: model.ResourceAmount(w.Int64N(4e9))}
	return w.both(fmt.Sprintf("container %v %v", id, request), func(c model.ClusterState) string { return said(c.AddOrUpdateContainer(id, request)) })
}

func (w *world) step(ctx context.Context) error {
	switch n := w.IntN(100); {
	case n < 11:
		return w.pod()
	case n < 26:
		return w.container()
	case n < 28:
		id, initial := w.known(), []string{"init", pick(w, containers)}[:w.IntN(3)]
		return w.both(fmt.Sprintf("init containers %v %v", id, initial), func(c model.ClusterState) string { return said(c.SetInitContainers(id, initial)) })
	case n < 33:
		id := w.known()
		delete(w.relabelled, id)
		return w.both(fmt.Sprintf("delete pod %v", id), func(c model.ClusterState) string { c.DeletePod(id); return "" })
	case n < 58:
		return w.sample()
	case n < 64:
		return w.oom()
	case n < 76:
		return w.vpa()
	case n < 79:
		id := model.VpaID{Namespace: pick(w, namespaces), VpaName: pick(w, apps)}
		delete(w.objects, id)
		delete(w.selectors, id)
		return w.both(fmt.Sprintf("delete autoscaler %v", id), func(c model.ClusterState) string { return said(c.DeleteVpa(id)) })
	case n < 88:
		d := pick(w, []time.Duration{time.Minute, 5 * time.Minute, time.Hour, 5 * time.Hour, 24 * time.Hour, 24 * time.Hour, 3 * 24 * time.Hour})
		w.log = append(w.log, "wait "+d.String())
		time.Sleep(d + time.Duration(w.IntN(60))*time.Second)
		return nil
	case n < 95:
		return w.collect(ctx)
	case n < 97:
		return w.recommend()
	default:
		return w.restart()
	}
}

func (w *world) sample() error {
	id := model.ContainerID{PodID: w.known(), ContainerName: pick(w, containers)}
	at, n := time.Now(), 1+w.IntN(3)
	if w.IntN(8) == 0 {
		at = at.Add(-time.Duration(w.IntN(200)) * time.Hour)
	}
	for range n {
		sample := model.ContainerUsageSample{MeasureStart: at, Resource: model.ResourceCPU, Usage: model.ResourceAmount(w.IntN(3000))}
		if w.IntN(2) == 0 {
			sample = model.ContainerUsageSample{MeasureStart: at, Resource: model.ResourceMemory, Usage: model.ResourceAmount(w.Int64N(3e9))}
		}
		if w.IntN(20) == 0 {
			sample.Usage = -1
		}
		w.stats.samples++
		if err := w.both(fmt.Sprintf("sample %v %+v", id, sample), func(c model.ClusterState) string {
			return said(c.AddSample(&model.ContainerUsageSampleWithKey{ContainerUsageSample: sample, Container: id}))
		}); err != nil {
			return err
		}
		at = at.Add(time.Duration(w.IntN(7200)) * time.Second)
	}
	return nil
}

func (w *world) oom() error {
	id := model.ContainerID{PodID: w.known(), ContainerName: pick(w, containers)}
	if w.allowed.departed && w.our.departed[id.PodID] != nil {
		return nil
	}
	at, requested := time.Now().Add(-time.Duration(w.IntN(40))*time.Hour), model.ResourceAmount(w.Int64N(2e9))
	w.stats.ooms++
	return w.both(fmt.Sprintf("oom %v %v %v", id, at, requested), func(c model.ClusterState) string { return said(c.RecordOOM(id, at, requested)) })
}

func (w *world) vpa() error {
	id := model.VpaID{Namespace: pick(w, namespaces), VpaName: pick(w, apps)}
	object := w.objects[id]
	selector := w.selectors[id]
	if object == nil || w.IntN(3) == 0 {
		created := time.Now()
		if object != nil {
			created = object.CreationTimestamp.Time
		}
		kind := pick(w, kinds)
		object = &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.VpaName, CreationTimestamp: metav1.NewTime(created),
			Generation: w.Int64N(9), Annotations: map[string]string{"n": fmt.Sprint(w.IntN(9))}}}
		object.Spec.TargetRef = &autoscalingv1.CrossVersionObjectReference{APIVersion: kind.api, Kind: kind.kind, Name: fmt.Sprintf("t%d", w.IntN(2))}
		if mode := pick(w, []vpav1.UpdateMode{"", vpav1.UpdateModeOff, vpav1.UpdateModeInPlaceOrRecreate}); mode != "" {
			object.Spec.UpdatePolicy = &vpav1.PodUpdatePolicy{UpdateMode: &mode}
		}
		if w.IntN(2) == 0 {
			off, only := vpav1.ContainerScalingModeOff, []corev1.ResourceName{pick(w, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory})}
			object.Spec.ResourcePolicy = &vpav1.PodResourcePolicy{ContainerPolicies: []vpav1.ContainerResourcePolicy{
				{ContainerName: pick(w, containers), Mode: &off}, {ContainerName: vpav1.DefaultContainerResourcePolicy, ControlledResources: &only},
			}}
		}
		status := pick(w, []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse})
		object.Status.Conditions = []vpav1.VerticalPodAutoscalerCondition{{Type: vpav1.RecommendationProvided, Status: status}}
		if w.IntN(8) == 0 {
			object.Status.Conditions = append(object.Status.Conditions, vpav1.VerticalPodAutoscalerCondition{Type: vpav1.FetchingHistory, Status: corev1.ConditionTrue})
		}
		object.Status.Recommendation = &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{{ContainerName: "app"}}}
		w.objects[id] = object
	}
	if selector == nil || w.IntN(4) == 0 {
		selector = w.selector(id.VpaName)
	}
	given := selector
	if w.IntN(6) == 0 {
		given = labels.Nothing()
		if known := w.up.VPAs()[id]; w.IntN(4) == 0 && (known == nil || known.PodSelector.String() != "") { // upstream does not tell everything from nothing, and panics
			object = object.DeepCopy()
			object.Spec.TargetRef = nil
			w.objects[id] = object
		}
	} else if object.Spec.TargetRef == nil {
		given = labels.Nothing()
	}
	w.selectors[id] = selector
	known := w.up.VPAs()[id]
	w.log = append(w.log, fmt.Sprintf("autoscaler %v selects %q of %v", id, given, object.Spec.TargetRef))
	toUpstream := given
	var keep model.ContainerNameToAggregateStateMap
	if w.allowed.unreadable && known != nil && known.TargetRef != nil && object.Spec.TargetRef != nil && *known.TargetRef == *object.Spec.TargetRef {
		if selectsNothing(given) && !selectsNothing(known.PodSelector) {
			toUpstream = known.PodSelector
		} else if selectsNothing(known.PodSelector) {
			keep = known.ContainersInitialAggregateState
		}
	}
	up, our := w.up.AddOrUpdateVpa(object, toUpstream), w.our.AddOrUpdateVpa(object, given)
	if keep != nil {
		w.up.VPAs()[id].ContainersInitialAggregateState = keep
	}
	if said(up) != said(our) {
		return fmt.Errorf("upstream says %s, we say %s", said(up), said(our))
	}
	return nil
}

// fetcher knows which targets exist.
type fetcher func(string) bool

func (f fetcher) FindTopMostWellKnownOrScalable(_ context.Context, k *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	if f(k.Kind + k.Name + k.ApiVersion + k.Namespace) {
		return k, nil
	}
	return nil, errors.New("it is gone")
}

func (w *world) collect(ctx context.Context) error {
	if err := w.prepare(); err != nil {
		return err
	}
	gone := map[string]bool{}
	everything := w.IntN(2) == 0
	for _, kind := range kinds {
		for _, ns := range namespaces {
			for _, name := range []string{"t0", "t1"} {
				gone[kind.kind+name+kind.api+ns] = everything
				if w.disjoint { // otherwise upstream asks for the target of any autoscaler that selects the pod
					gone[kind.kind+name+kind.api+ns] = w.IntN(2) == 0
				}
			}
		}
	}
	w.stats.collections++
	before := w.up.StateMapSize()
	err := w.both("collect", func(c model.ClusterState) string {
		c.RateLimitedGarbageCollectAggregateCollectionStates(ctx, time.Now(), fetcher(func(k string) bool { return !gone[k] }))
		return ""
	})
	w.stats.collected += before - w.up.StateMapSize()
	return err
}

// prepare hides the allowed differences before a collection.
func (w *world) prepare() error {
	if w.allowed.relabelled {
		for _, id := range slices.SortedFunc(maps.Keys(w.relabelled), func(a, b model.PodID) int { return cmp.Compare(a.Namespace+a.PodName, b.Namespace+b.PodName) }) {
			old := w.our.pods[id]
			l, phase, initial, had := old.labels, old.Phase, old.InitContainers, slices.Sorted(maps.Keys(old.Containers))
			if err := w.both(fmt.Sprintf("add %v again", id), func(c model.ClusterState) string {
				c.DeletePod(id)
				c.AddOrUpdatePod(id, l, phase)
				said := said(c.SetInitContainers(id, initial))
				for _, name := range had {
					said += fmt.Sprint(c.AddOrUpdateContainer(model.ContainerID{PodID: id, ContainerName: name}, nil))
				}
				return said
			}); err != nil {
				return err
			}
			delete(w.relabelled, id)
		}
	}
	if w.allowed.memoryOnly {
		for _, one := range aggregationsOf(w.up) {
			if one.state.TotalSamplesCount > 0 || one.state.AggregateMemoryPeaks.IsEmpty() {
				continue
			}
			id := model.ContainerID{PodID: model.PodID{Namespace: one.key.Namespace(), PodName: "temporary"}, ContainerName: one.key.ContainerName()}
			l := one.key.Labels().(labels.Set)
			if err := w.both(fmt.Sprintf("a CPU sample for %s", one.text), func(c model.ClusterState) string {
				c.AddOrUpdatePod(id.PodID, l, corev1.PodRunning)
				said := fmt.Sprint(c.AddOrUpdateContainer(id, nil), c.AddSample(&model.ContainerUsageSampleWithKey{Container: id,
					ContainerUsageSample: model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceCPU, Usage: 100}}))
				c.DeletePod(id.PodID)
				return said
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// recommend does what the recommender's loop does with a model.
func (w *world) recommend() error {
	for _, id := range slices.SortedFunc(maps.Keys(w.objects), compareIDs) {
		if w.up.VPAs()[id] == nil {
			continue
		}
		with := w.IntN(2) == 0
		if err := w.both(fmt.Sprintf("recommend %v", id), func(c model.ClusterState) string {
			vpa := c.VPAs()[id]
			recommendation := &vpav1.RecommendedPodResources{}
			if with {
				recommendation = logic.MapToListOfRecommendedContainerResources(recommender().GetRecommendedPodResources(vpa.AggregateStateByContainerName()), logic.RecommendationFormat{RoundCPUMillicores: 1, RoundMemoryBytes: 1})
			}
			vpa.UpdateRecommendation(recommendation)
			vpa.UpdateConditions(vpa.PodCount > 0)
			return said(c.RecordRecommendation(vpa, time.Now()))
		}); err != nil {
			return err
		}
	}
	return nil
}

// restart begins again from what was stored.
func (w *world) restart() error {
	w.log = append(w.log, "restart")
	w.stats.restarts++
	w.upWriter.StoreCheckpoints(context.Background(), 1)
	w.ourWriter.StoreCheckpoints(context.Background(), 1)
	w.ourStore.latest = maps.Clone(w.upStore.latest) // equal but for the order of sums, which compare allows
	pods := w.our.pods
	w.reset()
	for _, id := range slices.SortedFunc(maps.Keys(w.objects), compareIDs) {
		selector := w.selectors[id]
		if w.objects[id].Spec.TargetRef == nil || w.IntN(5) == 0 {
			selector = labels.Nothing()
		}
		if err := w.both(fmt.Sprintf("autoscaler %v selects %q", id, selector), func(c model.ClusterState) string { return said(c.AddOrUpdateVpa(w.objects[id], selector)) }); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.upStore.latest)) {
		var status vpav1.VerticalPodAutoscalerCheckpointStatus
		if err := json.Unmarshal(w.upStore.latest[name], &status); err != nil {
			return err
		}
		ns, rest, _ := strings.Cut(name, "/")
		vpa, container, _ := strings.Cut(rest, "-")
		for _, c := range []model.ClusterState{w.up, w.our} {
			if known := c.VPAs()[model.VpaID{Namespace: ns, VpaName: vpa}]; known != nil {
				state := model.NewAggregateContainerState()
				if err := state.LoadFromCheckpoint(&status); err != nil {
					return err
				}
				known.ContainersInitialAggregateState[container] = state
			}
		}
	}
	for id, p := range pods {
		for _, c := range []model.ClusterState{w.up, w.our} {
			c.AddOrUpdatePod(id, p.labels, p.Phase)
			for name, container := range p.Containers {
				if err := c.AddOrUpdateContainer(model.ContainerID{PodID: id, ContainerName: name}, container.Request); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func recommender() logic.PodResourceRecommender {
	return logic.CreatePodResourceRecommender(logic.RecommendationConfig{SafetyMarginFraction: 0.15, PodMinCPUMillicores: 25, PodMinMemoryMb: 250, TargetCPUPercentile: 0.9,
		LowerBoundCPUPercentile: 0.5, UpperBoundCPUPercentile: 0.95, ConfidenceIntervalCPU: 24 * time.Hour, TargetMemoryPercentile: 0.9, LowerBoundMemoryPercentile: 0.5,
		UpperBoundMemoryPercentile: 0.95, ConfidenceIntervalMemory: 24 * time.Hour})
}

func (w *world) compare(ctx context.Context) error {
	if up, our := describe(w.up, w.disjoint), describe(w.our, w.disjoint); up != our {
		return fmt.Errorf("upstream (-) and we (+) differ:\n%s", gocmp.Diff(strings.Split(up, "\n"), strings.Split(our, "\n")))
	}
	for id, p := range w.up.Pods() {
		up, our := w.up.GetControllingVPA(p), w.our.GetControllingVPA(w.our.Pods()[id])
		if len(w.our.pods[id].set.autoscalers) > 1 {
			w.stats.overlaps++
		}
		if (up == nil) != (our == nil) || our != nil && !slices.Contains(w.up.GetMatchingPods(w.up.VPAs()[our.ID]), id) {
			return fmt.Errorf("pod %v: upstream says that %v controls it, we say %v", id, up, our)
		}
	}
	if err := w.our.check(); err != nil {
		return err
	}
	for id, up := range w.up.VPAs() {
		if err := w.sameRecommendation(up, w.our.VPAs()[id]); err != nil {
			return err
		}
	}
	return w.sameCheckpoints(ctx)
}

// tries is how often upstream is asked again. It sums floating-point numbers in the order of maps, so that its answers differ in the last
// bit from one time to the next; ours has to be one of them.
const tries = 200

func (w *world) sameRecommendation(up, our *model.Vpa) error {
	var a, b logic.RecommendedPodResources
	for range tries {
		a, b = recommender().GetRecommendedPodResources(up.AggregateStateByContainerName()), recommender().GetRecommendedPodResources(our.AggregateStateByContainerName())
		if reflect.DeepEqual(a, b) {
			w.stats.recommendations += len(a)
			return nil
		}
	}
	return fmt.Errorf("recommendations for %v differ: upstream %v, we %v", up.ID, a, b)
}

func (w *world) sameCheckpoints(ctx context.Context) error {
	var missing map[string][]byte
	answers := map[string]map[string]bool{} // upstream's, so far
	for try := range tries {
		if try > 0 { // merging aligns the histograms that are merged, in an order that is upstream's secret: until all are aligned, answers differ
			for _, c := range []model.ClusterState{w.up, w.our} {
				for _, vpa := range c.VPAs() {
					vpa.AggregateStateByContainerName()
				}
			}
		}
		w.upStore.forget()
		w.upWriter.StoreCheckpoints(ctx, 1)
		w.ourStore.forget()
		w.ourWriter = checkpoint.NewWriter(w.our, w.ourStore, checkpoint.Options{Interval: -1, Refresh: -1})
		w.ourWriter.StoreCheckpoints(ctx, 2)
		if a, b := slices.Sorted(maps.Keys(w.upStore.sent)), slices.Sorted(maps.Keys(w.ourStore.sent)); !slices.Equal(a, b) {
			return fmt.Errorf("upstream writes the checkpoints %v, we write %v", a, b)
		}
		for name, body := range w.upStore.sent {
			if answers[name] == nil {
				answers[name] = map[string]bool{}
			}
			answers[name][w.timeless(body)] = true
		}
		missing = maps.Clone(w.ourStore.sent)
		maps.DeleteFunc(missing, func(name string, body []byte) bool { return answers[name][w.timeless(body)] })
		if len(missing) == 0 {
			break
		}
		w.stats.asked++
	}
	w.stats.checkpoints += len(w.ourStore.sent)
	for name := range missing {
		if !almost(w.timeless(w.upStore.latest[name]), w.timeless(w.ourStore.latest[name])) {
			return fmt.Errorf("checkpoint %s differs: upstream\n%s\nwe\n%s", name, w.upStore.sent[name], missing[name])
		}
		w.stats.inexact++
	}
	for id, up := range w.up.VPAs() {
		if our := w.our.VPAs()[id]; !up.CheckpointWritten.Equal(our.CheckpointWritten) {
			return fmt.Errorf("autoscaler %v: checkpoint written upstream %v, here %v", id, up.CheckpointWritten, our.CheckpointWritten)
		}
	}
	return nil
}

// emptyHistogram has a time that means nothing, but was aligned when it was merged after one that is not empty.
var emptyHistogram = regexp.MustCompile(`Histogram":\{"referenceTimestamp":"[^"]*"\}`)

func (w *world) timeless(body []byte) string {
	if w.single {
		return string(body)
	}
	return string(emptyHistogram.ReplaceAll(body, []byte(`Histogram":{"referenceTimestamp":null}`)))
}

// almost is equality but for the last bits of sums.
func almost(a, b string) bool {
	var x, y vpav1.VerticalPodAutoscalerCheckpointStatus
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	for _, pair := range [][2]*float64{{&x.CPUHistogram.TotalWeight, &y.CPUHistogram.TotalWeight}, {&x.MemoryHistogram.TotalWeight, &y.MemoryHistogram.TotalWeight}} {
		if d := *pair[0] - *pair[1]; d > 1e-12**pair[0] || d < -1e-12**pair[0] {
			return false
		}
		*pair[1] = *pair[0]
	}
	return reflect.DeepEqual(x, y)
}

// describe is all that a model says of itself, in words.
func describe(c model.ClusterState, disjoint bool) string {
	var lines []string
	add := func(format string, a ...any) { lines = append(lines, fmt.Sprintf(format, a...)) }
	add("aggregations %d observed %d", c.StateMapSize(), len(c.ObservedVPAs()))
	for _, one := range aggregationsOf(c) {
		s := one.state
		add("aggregation %s samples %d from %d to %d made %d under %v peaks %v", one.text, s.TotalSamplesCount, s.FirstSampleStart.UnixNano(), s.LastSampleStart.UnixNano(), s.CreationTime.UnixNano(), s.IsUnderVPA, !s.AggregateMemoryPeaks.IsEmpty())
		if disjoint {
			add("aggregation %s mode %v scaling %v resources %v", one.text, deref(s.UpdateMode), deref(s.ScalingMode), deref(s.ControlledResources))
		}
	}
	for _, p := range c.Pods() { // a container that is asked makes its aggregation again
		for _, container := range p.Containers {
			container.GetOOMBumpUpRatio()
		}
	}
	for id, p := range c.Pods() {
		add("pod %s/%s %s/%s %s %v", id.Namespace, id.PodName, p.ID.Namespace, p.ID.PodName, p.Phase, p.InitContainers)
		for name, container := range p.Containers {
			cid := model.ContainerID{PodID: id, ContainerName: name}
			key := c.MakeAggregateStateKey(p, name)
			var used []string
			for vid, vpa := range c.VPAs() {
				if vpa.UsesAggregation(key) {
					used = append(used, vid.Namespace+vid.VpaName)
				}
			}
			slices.Sort(used)
			add("container %s/%s/%s found %v request %d %d cpu %d window %d peak %d oom %v %v %d key %s %s %s used %v", id.Namespace, id.PodName, name, c.GetContainer(cid) == container,
				container.Request[model.ResourceCPU], container.Request[model.ResourceMemory], container.LastCPUSampleStart.UnixNano(), container.WindowEnd.UnixNano(), container.GetMaxMemoryPeak(),
				container.GetOOMBumpUpRatio(), container.GetOOMMinBumpUp(), container.GetMemoryAggregationIntervalDuration(), key.Namespace(), key.ContainerName(), key.Labels().(labels.Set).String(), used)
			if disjoint {
				a := *(*model.ContainerStateAggregator)(unsafe.Pointer(reflect.ValueOf(container).Elem().FieldByName("aggregator").UnsafeAddr()))
				add("container %s/%s/%s needs %v mode %v last %s", id.Namespace, id.PodName, name, a.NeedsRecommendation(), deref(a.GetUpdateMode()), encoded(a.GetLastRecommendation()))
			}
		}
	}
	for id, vpa := range c.VPAs() {
		ids := c.GetMatchingPods(vpa)
		slices.SortFunc(ids, func(a, b model.PodID) int { return cmp.Compare(a.PodName, b.PodName) })
		add("autoscaler %v %v selects %q pods %d %v mode %v policy %p target %p has %v annotations %v version %s generation %d created %d history %v",
			id, vpa.ID, vpa.PodSelector.String(), vpa.PodCount, ids, deref(vpa.UpdateMode), vpa.ResourcePolicy, vpa.TargetRef, vpa.HasMatchedPods(),
			vpa.Annotations, vpa.APIVersion, vpa.Generation, vpa.Created.UnixNano(), slices.Sorted(maps.Keys(vpa.ContainersInitialAggregateState)))
		add("autoscaler %v status %s", id, encoded(vpa.AsStatus()))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	return fmt.Sprint(string(text), err)
}

func deref[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

type keyed struct {
	text  string
	key   model.AggregateStateKey
	state *model.AggregateContainerState
}

// aggregationsOf looks into a model; upstream's shows them to nobody.
func aggregationsOf(c model.ClusterState) []keyed {
	var all []keyed
	add := func(k model.AggregateStateKey, s *model.AggregateContainerState) {
		all = append(all, keyed{k.Namespace() + "/" + k.Labels().(labels.Set).String() + "/" + k.ContainerName(), k, s})
	}
	if ours, ok := c.(*Cluster); ok {
		for _, n := range ours.namespaces {
			for _, set := range n.sets {
				for _, a := range set.aggregations {
					add(a.key, a.state)
				}
			}
		}
	} else {
		field := reflect.ValueOf(c).Elem().FieldByName("aggregateStateMap")
		for k, s := range *(*map[model.AggregateStateKey]*model.AggregateContainerState)(unsafe.Pointer(field.UnsafeAddr())) {
			add(k, s)
		}
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Compare(a.text, b.text) })
	return all
}

// check finds indexes that are not what they should be, by looking at everything.
func (c *Cluster) check() error {
	size, departed := 0, map[*labelSet]int{}
	for _, d := range c.departed {
		departed[d.pod.set]++
	}
	for id, p := range c.pods {
		if c.states[id] != &p.PodState || p.set.pods[id] != p || c.namespaces[id.Namespace].sets[p.set.text] != p.set {
			return fmt.Errorf("pod %v is not where it should be", id)
		}
	}
	for name, n := range c.namespaces {
		if len(n.sets)+n.count == 0 {
			return fmt.Errorf("namespace %s is empty", name)
		}
		indexed := 0
		for text, set := range n.sets {
			size += len(set.aggregations)
			if len(set.pods)+len(set.aggregations)+set.departed == 0 || departed[set] != set.departed || text != set.labels.String() {
				return fmt.Errorf("label set %s is kept for nobody, or wrong", text)
			}
			for k, v := range set.labels {
				if _, ok := n.byLabel[label{k, v}][set]; !ok {
					return fmt.Errorf("label set %s is not found by %s", text, k)
				}
				indexed++
			}
			var want []*autoscaler
			for _, a := range c.linked {
				if _, has := a.sets[set]; a.vpa.ID.Namespace == name && a.vpa.PodSelector.Matches(set.labels) {
					want = append(want, a)
				} else if has {
					return fmt.Errorf("autoscaler %v keeps label set %s", a.vpa.ID, text)
				}
			}
			slices.SortFunc(want, stronger)
			if !slices.Equal(want, set.autoscalers) {
				return fmt.Errorf("label set %s is selected by %d autoscalers, not by %d, or in another order", text, len(want), len(set.autoscalers))
			}
		}
		for l, sets := range n.byLabel {
			if indexed -= len(sets); len(sets) == 0 {
				return fmt.Errorf("label %v leads nowhere", l)
			}
		}
		under, known, named := len(n.rest), 0, map[label]int{}
		for _, as := range n.require {
			under += len(as)
		}
		for _, a := range c.linked {
			if a.vpa.ID.Namespace == name && !selectsNothing(a.vpa.PodSelector) {
				known += max(len(a.under), 1)
			}
			if a.vpa.ID.Namespace == name {
				for _, l := range askedFor(a.vpa.PodSelector) {
					named[l]++
				}
			}
			for set := range a.sets {
				if n := c.namespaces[a.vpa.ID.Namespace]; n.sets[set.text] != set {
					return fmt.Errorf("autoscaler %v keeps label set %s, which is gone", a.vpa.ID, set.text)
				}
			}
		}
		if !maps.Equal(named, n.named) {
			return fmt.Errorf("namespace %s keeps apart %v, asked for are %v", name, n.named, named)
		}
		if indexed != 0 || under != known {
			return fmt.Errorf("namespace %s: %d labels too few, %d of %d autoscalers indexed", name, indexed, under, known)
		}
	}
	if size != c.size || len(c.states) != len(c.pods) || len(c.linked) != len(c.vpas) {
		return fmt.Errorf("%d aggregations, counted %d", size, c.size)
	}
	return nil
}

// end takes everything away: nothing may be left.
func (w *world) end(ctx context.Context) error {
	for id := range w.our.Pods() {
		w.our.DeletePod(id)
	}
	for id, vpa := range w.our.VPAs() {
		if vpa.PodCount != 0 {
			return fmt.Errorf("autoscaler %v counts %d pods of none", id, vpa.PodCount)
		}
		_ = w.our.DeleteVpa(id)
	}
	for range 3 {
		time.Sleep(400 * 24 * time.Hour)
		w.our.RateLimitedGarbageCollectAggregateCollectionStates(ctx, time.Now(), fetcher(func(string) bool { return true }))
	}
	if n := len(w.our.namespaces) + len(w.our.departed) + len(w.our.oomed) + w.our.size + len(w.our.missing); n > 0 {
		return fmt.Errorf("%d things are left when all is deleted", n)
	}
	return nil
}

// store takes the place of the API server.
type store struct {
	vpaclient.VerticalPodAutoscalerCheckpointInterface
	mu     *sync.Mutex
	ns     string
	sent   map[string][]byte // bodies, as sent since forget
	latest map[string][]byte // what is stored: the status
}

func newStore() *store {
	return &store{mu: &sync.Mutex{}, sent: map[string][]byte{}, latest: map[string][]byte{}}
}

func (s *store) forget() { clear(s.sent) }

func (s *store) VerticalPodAutoscalerCheckpoints(ns string) vpaclient.VerticalPodAutoscalerCheckpointInterface {
	in := *s
	in.ns = ns
	return &in
}

func (s *store) Patch(_ context.Context, name string, pt types.PatchType, data []byte, _ metav1.PatchOptions, subresources ...string) (*vpav1.VerticalPodAutoscalerCheckpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pt != types.JSONPatchType || len(subresources) > 0 {
		return nil, fmt.Errorf("a patch of type %s to %v", pt, subresources)
	}
	if _, known := s.latest[s.ns+"/"+name]; !known {
		return nil, apierrors.NewNotFound(vpav1.Resource("verticalpodautoscalercheckpoints"), name)
	}
	var patch []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	if len(patch) == 3 { // ours alone makes sure whose it is
		for i, path := range []string{"/spec/vpaObjectName", "/spec/containerName"} {
			vpa, container, _ := strings.Cut(name, "-")
			if patch[i].Op != "test" || patch[i].Path != path || string(patch[i].Value) != fmt.Sprintf("%q", []string{vpa, container}[i]) {
				return nil, fmt.Errorf("not the test expected: %s", data)
			}
		}
		patch = patch[2:]
		data = fmt.Appendf(nil, `[{"op":"replace","path":"/status","value":%s}]`, patch[0].Value)
	}
	if len(patch) != 1 || patch[0].Op != "replace" || patch[0].Path != "/status" {
		return nil, fmt.Errorf("not the patch expected: %s", data)
	}
	s.sent[s.ns+"/"+name], s.latest[s.ns+"/"+name] = data, patch[0].Value
	return &vpav1.VerticalPodAutoscalerCheckpoint{}, nil
}

func (s *store) Create(_ context.Context, object *vpav1.VerticalPodAutoscalerCheckpoint, _ metav1.CreateOptions) (*vpav1.VerticalPodAutoscalerCheckpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.latest[s.ns+"/"+object.Name]; known {
		return nil, apierrors.NewAlreadyExists(vpav1.Resource("verticalpodautoscalercheckpoints"), object.Name)
	}
	whole, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	status, err := json.Marshal(object.Status)
	s.sent[s.ns+"/"+object.Name], s.latest[s.ns+"/"+object.Name] = whole, status
	return object, err
}
