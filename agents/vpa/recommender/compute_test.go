package recommender

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpafake "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/fake"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/config"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/logic"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/routines"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // the oracle writes to nobody, and says so each time
	os.Exit(m.Run())
}

var start = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

const mi = 1 << 20

// oracle is upstream's recommender over a model, with its own defaults.
func oracle(cluster model.ClusterState, vpas ...*vpav1.VerticalPodAutoscaler) routines.Recommender {
	d := config.DefaultRecommenderConfig()
	client := vpafake.NewSimpleClientset()
	cluster.SetObservedVPAs(vpas)
	return routines.RecommenderFactory{
		ClusterState: cluster, VpaClient: client.AutoscalingV1(), UpdateWorkerCount: 1,
		RecommendationPostProcessors: []routines.RecommendationPostProcessor{routines.NewCappingRecommendationProcessor(corev1.ResourceList{})},
		RecommendationFormat:         logic.RecommendationFormat{RoundCPUMillicores: d.RoundCPUMillicores, RoundMemoryBytes: d.RoundMemoryBytes},
		PodResourceRecommender: logic.CreatePodResourceRecommender(logic.RecommendationConfig{
			SafetyMarginFraction: d.SafetyMarginFraction, PodMinCPUMillicores: d.PodMinCPUMillicores, PodMinMemoryMb: d.PodMinMemoryMb,
			TargetCPUPercentile: d.TargetCPUPercentile, LowerBoundCPUPercentile: d.LowerBoundCPUPercentile, UpperBoundCPUPercentile: d.UpperBoundCPUPercentile, ConfidenceIntervalCPU: d.ConfidenceIntervalCPU,
			TargetMemoryPercentile: d.TargetMemoryPercentile, LowerBoundMemoryPercentile: d.LowerBoundMemoryPercentile, UpperBoundMemoryPercentile: d.UpperBoundMemoryPercentile,
			ConfidenceIntervalMemory: d.ConfidenceIntervalMemory,
		}),
	}.Make()
}

// usage draws what containers used, of one to three of them in one to three pods, into a model with one autoscaler.
func usage(t *rapid.T, cluster model.ClusterState, vpa *vpav1.VerticalPodAutoscaler) {
	selector := labels.SelectorFromSet(labels.Set{"app": "web"})
	if err := cluster.AddOrUpdateVpa(vpa, selector); err != nil {
		t.Fatal(err)
	}
	containers := rapid.IntRange(1, 3).Draw(t, "containers")
	for p := range rapid.IntRange(1, 3).Draw(t, "pods") {
		id := model.PodID{Namespace: vpa.Namespace, PodName: fmt.Sprintf("web-%d", p)}
		cluster.AddOrUpdatePod(id, labels.Set{"app": "web", "pod": fmt.Sprint(p)}, corev1.PodRunning)
		for c := range containers {
			container := model.ContainerID{PodID: id, ContainerName: fmt.Sprintf("c%d", c)}
			if err := cluster.AddOrUpdateContainer(container, model.Resources{model.ResourceCPU: 100, model.ResourceMemory: 128 * mi}); err != nil {
				t.Fatal(err)
			}
			at := start
			for range rapid.IntRange(0, 12).Draw(t, "samples") {
				at = at.Add(time.Duration(rapid.Int64Range(1, 36*3600).Draw(t, "after")) * time.Second)
				for _, of := range []struct {
					res  model.ResourceName
					most int64
				}{{model.ResourceCPU, 8000}, {model.ResourceMemory, 4096 * mi}} {
					s := &model.ContainerUsageSampleWithKey{Container: container, ContainerUsageSample: model.ContainerUsageSample{MeasureStart: at, Resource: of.res, Usage: model.ResourceAmount(rapid.Int64Range(0, of.most).Draw(t, "used"))}}
					if err := cluster.AddSample(s); err != nil {
						t.Fatal(err)
					}
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "oom") == 0 {
				if err := cluster.RecordOOM(container, at, model.ResourceAmount(rapid.Int64Range(0, 1024*mi).Draw(t, "requested"))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func policy(t *rapid.T) *vpav1.PodResourcePolicy {
	if rapid.Bool().Draw(t, "no policy") {
		return nil
	}
	var p vpav1.PodResourcePolicy
	for _, name := range []string{"c0", "c1", "*"} {
		if rapid.Bool().Draw(t, "not "+name) {
			continue
		}
		one := vpav1.ContainerResourcePolicy{ContainerName: name}
		amount := func(what string) corev1.ResourceList {
			if rapid.Bool().Draw(t, "no "+what) {
				return nil
			}
			return corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewMilliQuantity(rapid.Int64Range(1, 4000).Draw(t, what+" cpu"), resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(rapid.Int64Range(1, 2048*mi).Draw(t, what+" memory"), resource.BinarySI),
			}
		}
		one.MinAllowed, one.MaxAllowed = amount("min"), amount("max")
		switch rapid.IntRange(0, 5).Draw(t, "mode") {
		case 0:
			off := vpav1.ContainerScalingModeOff
			one.Mode = &off
		case 1:
			one.ControlledResources = &[]corev1.ResourceName{corev1.ResourceMemory}
		}
		p.ContainerPolicies = append(p.ContainerPolicies, one)
	}
	return &p
}

func text(t interface{ Fatal(args ...any) }, v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestWithoutSettingsAsUpstream: an autoscaler without settings gets what upstream's recommender gives it, byte for byte, and the
// explanation ends where the recommendation does.
func TestWithoutSettingsAsUpstream(t *testing.T) {
	e := newEstimators()
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		cluster := model.NewClusterState(time.Hour)
		vpa := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: vpav1.VerticalPodAutoscalerSpec{ResourcePolicy: policy(t)}}
		usage(t, cluster, vpa)
		mine := cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}]
		g := given{vpa: vpa, states: routines.GetContainerNameToAggregateStateMap(mine)}
		m := e.recommend(g)
		oracle(cluster, vpa).UpdateVPAs()
		want := mine.GetRecommendation()
		if text(t, m.recommendation) != text(t, want) {
			t.Fatalf("differs from upstream's: %s", cmp.Diff(text(t, want), text(t, m.recommendation)))
		}
		compared += len(want.ContainerRecommendations)
		explained(t, m, g)
	})
	if compared < 50 {
		t.Errorf("only %d containers were compared", compared)
	}
}

// explained holds that each target is explained: by the local number, or by the last step.
func explained(t rapid.TB, m made, g given) {
	all := m.explain(g)
	n := 0
	for _, c := range m.recommendation.ContainerRecommendations {
		n += len(c.Target)
		for name, target := range c.Target {
			i := slices.IndexFunc(all, func(x rightsizing.Explanation) bool {
				return x.Container == c.ContainerName && x.Resource == string(name)
			})
			if i < 0 {
				t.Fatalf("%s of %s is not explained", name, c.ContainerName)
			}
			x := all[i]
			last := x.Local
			if len(x.Steps) > 0 {
				last = x.Steps[len(x.Steps)-1].To
			}
			if x.Result.Cmp(target) != 0 || last.Cmp(target) != 0 {
				t.Fatalf("%s of %s is %s, explained as %s, the last step says %s: %+v", name, c.ContainerName, target.String(), x.Result.String(), last.String(), x)
			}
			local, at := x.Local.AsApproximateFloat64(), x.AtPercent.AsApproximateFloat64()
			unit := 1.0 // of memory; of CPU a thousandth
			if name == corev1.ResourceCPU {
				unit = 0.001
			}
			if want := at * (1 + x.Margin); math.Abs(local-want) > 2*unit {
				t.Fatalf("%s of %s: %s at percentile %g and a margin of %g make %g, and it says %s", name, c.ContainerName, x.AtPercent.String(), x.Percentile, x.Margin, want, x.Local.String())
			}
			if x.Median.Cmp(x.AtPercent) > 0 && x.Percentile >= 0.5 || x.AtPercent.Cmp(x.Peak) > 0 {
				t.Fatalf("median %s, percentile %s, peak %s", x.Median.String(), x.AtPercent.String(), x.Peak.String())
			}
		}
	}
	if n != len(all) {
		t.Fatalf("%d targets, %d explanations", n, len(all))
	}
}

// TestLevels: from level to level nothing gets less; floors hold, whatever is recommended, and the policy's bounds hold over all.
func TestLevels(t *testing.T) {
	e := newEstimators()
	rapid.Check(t, func(t *rapid.T) {
		cluster := model.NewClusterState(time.Hour)
		vpa := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: vpav1.VerticalPodAutoscalerSpec{ResourcePolicy: policy(t)}}
		usage(t, cluster, vpa)
		mine := cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}]
		floors := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
		var platform *nopsapi.WorkloadRecommendation
		if rapid.Bool().Draw(t, "platform") {
			platform = &nopsapi.WorkloadRecommendation{Containers: []nopsapi.ContainerRecommendation{{
				Name: "c0", CPU: nopsapi.Recommended{Target: rapid.Float64Range(0, 8).Draw(t, "cores")}, Memory: nopsapi.Recommended{Target: float64(rapid.Int64Range(0, 4<<30).Draw(t, "bytes"))},
			}}}
		}
		held := map[string]hold{"c0": {rapid.Int64Range(0, 4<<30).Draw(t, "hold"), start}}
		var before map[string]corev1.ResourceList
		for _, level := range rightsizing.Levels() {
			s := rules.Settings{Owned: true, Floors: floors}
			s.Level = level
			g := given{vpa: vpa, settings: &s, states: routines.GetContainerNameToAggregateStateMap(mine), platform: platform, holds: held}
			m := e.recommend(g)
			explained(t, m, g)
			now := map[string]corev1.ResourceList{}
			for _, c := range m.recommendation.ContainerRecommendations {
				now[c.ContainerName] = c.Target
				for name, q := range c.Target {
					lower, upper, free := c.LowerBound[name], c.UpperBound[name], c.UncappedTarget[name]
					if lower.Cmp(q) > 0 || upper.Cmp(q) < 0 {
						t.Fatalf("%s: %s of %s is %s, not between %s and %s", level, name, c.ContainerName, q.String(), lower.String(), upper.String())
					}
					if least := floors[name]; free.Cmp(least) < 0 {
						t.Fatalf("%s: %s of %s is %s, below the floor", level, name, c.ContainerName, free.String())
					}
					if was, is := before[c.ContainerName][name]; is && q.Cmp(was) < 0 && platform == nil {
						t.Fatalf("%s: %s of %s is %s, the level before gives %s", level, name, c.ContainerName, q.String(), was.String())
					}
				}
			}
			before = now
		}
	})
}

// TestNothingKnown: a container of which nothing was measured is not recommended the floor. What is known is recommended, by itself: a kill
// for want of memory, the platform's word, and memory before CPU, of which the first answer of a kubelet says nothing.
func TestNothingKnown(t *testing.T) {
	platform := &nopsapi.WorkloadRecommendation{Containers: []nopsapi.ContainerRecommendation{{Name: "c", CPU: nopsapi.Recommended{Target: 0.3}}}}
	for _, tt := range []struct {
		name, reason string
		memory, cpu  bool
		held         int64
		platform     *nopsapi.WorkloadRecommendation
		want         []corev1.ResourceName
	}{
		{"nothing", "it crashes before anybody asks", false, false, 0, nil, nil},
		{"a kill", "what it had was too little", false, false, 200 << 20, nil, []corev1.ResourceName{corev1.ResourceMemory}},
		{"the platform", "it has seen the workload before", false, false, 0, platform, []corev1.ResourceName{corev1.ResourceCPU}},
		{"memory", "the first answer", true, false, 0, nil, []corev1.ResourceName{corev1.ResourceMemory}},
		{"usage", "the second", true, true, 0, nil, []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state := model.NewAggregateContainerState()
			if tt.memory {
				state.AggregateMemoryPeaks.AddSample(100<<20, 1, start)
			}
			if tt.cpu {
				state.AggregateCPUUsage.AddSample(0.2, 1, start)
			}
			s := rules.Settings{Owned: true, Floors: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}}
			s.Level = rightsizing.BalancedSavings
			g := given{vpa: &vpav1.VerticalPodAutoscaler{}, settings: &s, states: model.ContainerNameToAggregateStateMap{"c": state}, platform: tt.platform, holds: map[string]hold{"c": {tt.held, start}}}
			m := newEstimators().recommend(g)
			explained(t, m, g)
			var got []corev1.ResourceName
			for _, c := range m.recommendation.ContainerRecommendations {
				got = append(got, slices.Sorted(maps.Keys(c.Target))...)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v: %s", got, tt.want, tt.reason)
			}
		})
	}
}

func status(edit func(*vpav1.VerticalPodAutoscalerStatus)) *vpav1.VerticalPodAutoscalerStatus {
	generation := int64(3)
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	s := &vpav1.VerticalPodAutoscalerStatus{
		ObservedGeneration: &generation,
		Conditions: []vpav1.VerticalPodAutoscalerCondition{
			{Type: vpav1.RecommendationProvided, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start)},
			{Type: rightsizing.ConditionPlatform, Status: corev1.ConditionTrue, Reason: "InForce", Message: "recommendations 7 of a time"},
		},
		Recommendation: &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{
			{ContainerName: "app", Target: list("200m", "200Mi"), LowerBound: list("100m", "100Mi"), UpperBound: list("400m", "400Mi"), UncappedTarget: list("200m", "200Mi")},
		}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func TestChange(t *testing.T) {
	at := func(s *vpav1.VerticalPodAutoscalerStatus) *vpav1.RecommendedContainerResources {
		return &s.Recommendation.ContainerRecommendations[0]
	}
	cases := []struct {
		name, reason string
		edit         func(*vpav1.VerticalPodAutoscalerStatus)
		want         string
		asked        bool // whether bounds drifted
	}{
		{"nothing", "most rounds change nothing", nil, "", false},
		{"target, a little", "1 % is not worth a write", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).Target["cpu"] = resource.MustParse("202m") }, "", false},
		{"target", "", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).Target["cpu"] = resource.MustParse("203m") }, "target", false},
		{"target down", "", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).Target["memory"] = resource.MustParse("197Mi") }, "target", false},
		{"bound, a little", "", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).UpperBound["cpu"] = resource.MustParse("380m") }, "", false},
		{"bound", "written when it matters to somebody", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).UpperBound["cpu"] = resource.MustParse("379m") }, "bounds", true},
		{"lower bound", "", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).LowerBound["memory"] = resource.MustParse("106Mi") }, "bounds", true},
		{"uncapped", "it is for people, and goes with the next write", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).UncappedTarget["cpu"] = resource.MustParse("9") }, "", false},
		{"a new container", "", func(s *vpav1.VerticalPodAutoscalerStatus) {
			r := s.Recommendation
			r.ContainerRecommendations = append(r.ContainerRecommendations, vpav1.RecommendedContainerResources{ContainerName: "sidecar"})
		}, "containers", false},
		{"another container", "", func(s *vpav1.VerticalPodAutoscalerStatus) { at(s).ContainerName = "main" }, "containers", false},
		{"no recommendation any more", "", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Recommendation = nil }, "containers", false},
		{"a resource less", "CPU is not controlled any more", func(s *vpav1.VerticalPodAutoscalerStatus) { delete(at(s).Target, "cpu") }, "resources", false},
		{"a condition", "", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions[0].Status = corev1.ConditionFalse }, "conditions", false},
		{"a condition less", "", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions = s.Conditions[:1] }, "conditions", false},
		{"a reason", "", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions[1].Reason = "Expired" }, "conditions", false},
		{"a message", "people read it", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions[0].Message = "because" }, "conditions", false},
		{"the platform's number", "every list has another one, and each autoscaler would be written", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions[1].Message = "recommendations 8" }, "", false},
		{"the order of conditions", "", func(s *vpav1.VerticalPodAutoscalerStatus) { slices.Reverse(s.Conditions) }, "", false},
		{"when a condition began", "", func(s *vpav1.VerticalPodAutoscalerStatus) { s.Conditions[0].LastTransitionTime = metav1.Now() }, "", false},
		{"a generation", "people wait for it", func(s *vpav1.VerticalPodAutoscalerStatus) { g := int64(4); s.ObservedGeneration = &g }, "generation", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, drifted := range []bool{true, false} {
				asked := false
				got := change(status(nil), status(c.edit), func(_, _ []vpav1.RecommendedContainerResources) bool { asked = true; return drifted })
				want := c.want
				if want == "bounds" && !drifted {
					want = ""
				}
				if got != want || asked != c.asked {
					t.Errorf("%q, asked whether bounds drifted %v; want %q, %v; %s", got, asked, want, c.asked, c.reason)
				}
			}
		})
	}
	if got := change(&vpav1.VerticalPodAutoscalerStatus{}, status(nil), nil); got != "conditions" {
		t.Errorf("the first status: %q", got)
	}
}

func TestCrossed(t *testing.T) {
	was, is := status(nil).Recommendation.ContainerRecommendations[0], status(nil).Recommendation.ContainerRecommendations[0]
	is.UpperBound = maps.Clone(is.UpperBound)
	is.UpperBound["cpu"] = resource.MustParse("300m")
	for milli, want := range map[model.ResourceAmount]bool{50: false, 150: false, 300: false, 301: true, 400: true, 401: false} {
		if got := crossed(was, is, model.Resources{model.ResourceCPU: milli, model.ResourceMemory: 150 * mi}); got != want {
			t.Errorf("%dm: %v, want %v", milli, got, want)
		}
	}
}
