package recommender

import (
	"fmt"
	"maps"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	listersv1 "k8s.io/client-go/listers/core/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func resources(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// What fits no node is never applied: the containers of a pod share the largest that they may run on, and the explanation says so.
func TestNoMoreThanANodeHas(t *testing.T) {
	yes := true
	nodes := []*corev1.Node{
		{ObjectMeta: metav1.ObjectMeta{Name: "small", Labels: map[string]string{"pool": "small"}}, Status: corev1.NodeStatus{Allocatable: resources("4", "8Gi")}},
		{ObjectMeta: metav1.ObjectMeta{Name: "large", Labels: map[string]string{"pool": "large"}}, Status: corev1.NodeStatus{Allocatable: resources("16", "64Gi")}},
	}
	made := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "made", Labels: map[string]string{labelNodePool: "default"}}, Status: corev1.NodeStatus{Allocatable: resources("2", "4Gi")}}
	container := func(name, cpu, memory string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: resources(cpu, memory)}}
	}
	daemon := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Name: "d", Controller: &yes}}}, Spec: corev1.PodSpec{NodeName: "small", Containers: []corev1.Container{container("d", "1", "1Gi")}}}
	other := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "small", Containers: []corev1.Container{container("o", "3", "4Gi")}}}
	r := newRooms(nodes, []*corev1.Pod{daemon, other})
	pod := func(selector map[string]string) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: selector, Containers: []corev1.Container{container("a", "1", "1Gi"), container("b", "1", "1Gi"), container("unmeasured", "1", "1Gi")}}}
	}
	platform := &nopsapi.WorkloadRecommendation{Containers: []nopsapi.ContainerRecommendation{
		{Name: "a", CPU: nopsapi.Recommended{Target: 6}, Memory: nopsapi.Recommended{Target: 3 << 30}}, {Name: "b", CPU: nopsapi.Recommended{Target: 2}, Memory: nopsapi.Recommended{Target: 1 << 30}},
	}}
	for _, c := range []struct {
		name, reason string
		room         corev1.ResourceList
		a, b         string // CPU
		bounded      bool
	}{
		{"large", "it may run on the large node, and fits", r.of(pod(nil), func(n string) bool { return n != "unmeasured" }), "6", "2", false},
		{"small", "by its nodeSelector it may not; a DaemonSet has 1 of the 4, a container of its own another one", r.of(pod(map[string]string{"pool": "small"}), func(n string) bool { return n != "unmeasured" }), "1500m", "500m", true},
		{"a pool without nodes", "nothing is known of the node that will come", r.of(pod(map[string]string{"pool": "empty"}), func(string) bool { return true }), "6", "2", false},
		{"made on demand", "Karpenter makes a node that fits", newRooms(append([]*corev1.Node{made}, nodes[0]), nil).of(pod(nil), func(string) bool { return true }), "6", "2", false},
		{"another pool is", "but not this one", newRooms(append([]*corev1.Node{made}, nodes[0]), []*corev1.Pod{daemon}).of(pod(map[string]string{"pool": "small"}), func(n string) bool { return n != "unmeasured" }), "1500m", "500m", true},
		{"no pod", "all nodes count", r.of(nil, func(string) bool { return true }), "6", "2", false},
		{"nothing is watched", "", (*rooms)(nil).of(nil, nil), "6", "2", false},
	} {
		s := rules.Settings{Owned: true}
		s.Level = rightsizing.BalancedSavings
		states := model.ContainerNameToAggregateStateMap{}
		for _, name := range []string{"a", "b"} {
			states[name] = model.NewAggregateContainerState()
			states[name].FirstSampleStart, states[name].LastSampleStart = start, start.Add(time.Hour)
		}
		g := given{vpa: &vpav1.VerticalPodAutoscaler{}, settings: &s, states: states, platform: platform, room: c.room}
		m := newEstimators().recommend(g)
		got := map[string]vpav1.RecommendedContainerResources{}
		for _, one := range m.recommendation.ContainerRecommendations {
			got[one.ContainerName] = one
		}
		a, b := got["a"].Target, got["b"].Target
		if a.Cpu().String() != c.a || b.Cpu().String() != c.b || a.Memory().String() != "3Gi" {
			t.Errorf("%s: a %v, b %v, want CPU %s and %s; %s", c.name, a, b, c.a, c.b, c.reason)
		}
		if lower := got["a"].LowerBound; lower.Cpu().Cmp(*a.Cpu()) > 0 {
			t.Errorf("%s: the lower bound %s is above the target", c.name, lower.Cpu())
		}
		said := false
		for _, x := range m.explain(g) {
			for _, step := range x.Steps {
				said = said || step.Rule == "node" && x.Container == "a" && x.Resource == "cpu" && x.Result.String() == c.a
			}
		}
		if said != c.bounded {
			t.Errorf("%s: the explanation says so: %t", c.name, said)
		}
	}
}

// What a DaemonSet's pods have themselves is room of theirs: taken away from it, each raise would lower the next recommendation. What is not
// recommended of them is taken away once.
func TestRoomOfADaemonSet(t *testing.T) {
	yes, always := true, corev1.ContainerRestartPolicyAlways
	nodes := []*corev1.Node{
		{ObjectMeta: metav1.ObjectMeta{Name: "small", Labels: map[string]string{"pool": "a"}}, Status: corev1.NodeStatus{Allocatable: resources("4", "8Gi")}},
		{ObjectMeta: metav1.ObjectMeta{Name: "large", Labels: map[string]string{"pool": "a"}}, Status: corev1.NodeStatus{Allocatable: resources("5", "9Gi")}},
	}
	container := func(name, cpu, memory string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: resources(cpu, memory)}}
	}
	pod := func(daemon, on string, containers ...corev1.Container) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: daemon + "-" + on}, Spec: corev1.PodSpec{NodeName: on, Containers: containers, NodeSelector: map[string]string{"pool": "a"}}}
		if daemon != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: daemon, Controller: &yes}}
		}
		return p
	}
	proxy := container("proxy", "250m", "256Mi")
	proxy.RestartPolicy = &always
	web := pod("", "", container("app", "1", "1Gi"))
	logs, mesh, bare := pod("logs", "small", container("app", "2", "3Gi"), container("shipper", "500m", "512Mi")), pod("logs", "large", container("app", "1", "1Gi"), container("shipper", "500m", "512Mi")), pod("mesh", "large", container("app", "2", "1Gi"))
	bare.Spec.InitContainers = []corev1.Container{proxy}
	sidecarsAsContainers(bare) // as the informer does
	pods := []*corev1.Pod{logs, mesh, bare, web}
	app := func(name string) bool { return name == "app" }
	for _, c := range []struct {
		name, reason string
		of           *corev1.Pod
		recommended  func(string) bool
		want         corev1.ResourceList
	}{
		{"another's", "on small 2.5 are taken, on large 3.75", web, app, resources("1500m", "6400Mi")},
		{"its own", "small has 4 without it, large 2.75, and 8 Gi, and 7.75; its shipper's are none of it", logs, app, resources("3500m", "7680Mi")},
		{"all of its own", "", logs, func(string) bool { return true }, resources("4", "8Gi")},
		{"the other's own", "on small 2.5 are taken, on large 1.5; its proxy's are none of it", bare, app, resources("3250m", "7424Mi")},
	} {
		for range 2 { // it is asked for each autoscaler of a round
			room := newRooms(nodes, pods).of(c.of, c.recommended)
			if room.Cpu().Cmp(*c.want.Cpu()) != 0 || room.Memory().Cmp(*c.want.Memory()) != 0 {
				t.Errorf("%s: %s and %s, want %s and %s; %s", c.name, room.Cpu(), room.Memory(), c.want.Cpu(), c.want.Memory(), c.reason)
			}
		}
	}
	// One look at the nodes serves all.
	r := newRooms(nodes, pods)
	for _, p := range []*corev1.Pod{web, logs, web, bare, logs} {
		once, alone := r.of(p, app), newRooms(nodes, pods).of(p, app)
		if once.Cpu().Cmp(*alone.Cpu()) != 0 {
			t.Errorf("%s: %s after others, %s alone", p.Name, once.Cpu(), alone.Cpu())
		}
	}
}

// What a container needed when it ran out of memory is not shared with its neighbours, as long as there is room for it.
func TestRoomForWhatRanOut(t *testing.T) {
	s := rules.Settings{Owned: true}
	s.Level = rightsizing.BalancedSavings
	platform := &nopsapi.WorkloadRecommendation{Containers: []nopsapi.ContainerRecommendation{{Name: "a", Memory: nopsapi.Recommended{Target: 3 << 30}}, {Name: "b", Memory: nopsapi.Recommended{Target: 9 << 30}}}}
	states := model.ContainerNameToAggregateStateMap{"a": model.NewAggregateContainerState(), "b": model.NewAggregateContainerState()}
	for _, c := range []struct {
		name, reason string
		held         int64
		room, a, b   string
	}{
		{"nothing is held", "half of it is there", 0, "6Gi", "1536Mi", "4608Mi"},
		{"held", "b has what is left", 3 << 30, "6Gi", "3Gi", "3Gi"},
		{"held in part", "what is above it is shared", 1 << 30, "6656Mi", "2Gi", "4608Mi"},
		{"no room for what is held", "no share helps", 3 << 30, "2Gi", "512Mi", "1536Mi"},
	} {
		room := resource.MustParse(c.room)
		g := given{vpa: &vpav1.VerticalPodAutoscaler{}, settings: &s, states: states, platform: platform, holds: map[string]hold{"a": {c.held, start}}, room: corev1.ResourceList{corev1.ResourceMemory: room}}
		m := newEstimators().recommend(g)
		sum, got := resource.Quantity{}, map[string]string{}
		for _, one := range m.recommendation.ContainerRecommendations {
			sum.Add(*one.Target.Memory())
			got[one.ContainerName] = fmt.Sprintf("%dMi", one.Target.Memory().Value()/mi)
		}
		a, b := resource.MustParse(c.a), resource.MustParse(c.b)
		if got["a"] != fmt.Sprintf("%dMi", a.Value()/mi) || got["b"] != fmt.Sprintf("%dMi", b.Value()/mi) || sum.Cmp(room) > 0 || sum.Value() < room.Value()-2 {
			t.Errorf("%s: %v, %s together, want %s and %s; %s", c.name, got, sum.String(), c.a, c.b, c.reason)
		}
		explained(t, m, g)
	}
}

// Of containers that a pod does not have any more usage is known for days, and checkpoints stay: they take nothing from those that it has.
func TestRoomIsForWhatRuns(t *testing.T) {
	s := rules.Settings{Owned: true}
	s.Level = rightsizing.BalancedSavings
	platform, states := &nopsapi.WorkloadRecommendation{}, model.ContainerNameToAggregateStateMap{}
	for name, cores := range map[string]float64{"a": 6, "b": 2, "gone": 10} {
		platform.Containers = append(platform.Containers, nopsapi.ContainerRecommendation{Name: name, CPU: nopsapi.Recommended{Target: cores}})
		states[name] = model.NewAggregateContainerState()
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
	for _, c := range []struct {
		name, reason string
		pod          *corev1.Pod
		room         string
		want         map[string]string
	}{
		{"enough for what runs", "", pod, "12", map[string]string{"a": "6", "b": "2", "gone": "10"}},
		{"less", "what is gone is left as it is: nobody is given it", pod, "4", map[string]string{"a": "3", "b": "1", "gone": "10"}},
		{"no pod is known", "any may come back", nil, "9", map[string]string{"a": "3", "b": "1", "gone": "5"}},
	} {
		g := given{vpa: &vpav1.VerticalPodAutoscaler{}, settings: &s, states: states, platform: platform, pod: c.pod, room: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(c.room)}}
		m := newEstimators().recommend(g)
		got := map[string]string{}
		for _, one := range m.recommendation.ContainerRecommendations {
			got[one.ContainerName] = one.Target.Cpu().String()
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v; %s", c.name, got, c.want, c.reason)
		}
		explained(t, m, g)
	}
}

// TestARenamedContainerTakesNoRoom: a Deployment's container was renamed, and a CronJob's pods have the same labels and come first by name.
func TestARenamedContainerTakesNoRoom(t *testing.T) {
	st := newStage(t, nil)
	c := newCrowd()
	st.podLister, st.indexers.nodes = listersv1.NewPodLister(c.pods), newCrowd().pods
	_ = st.indexers.nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{Allocatable: resources("4", "8Gi")}})
	st.workload = func(r foreign.Ref) metav1.Object {
		return map[foreign.Ref]metav1.Object{
			{Namespace: "shop", Kind: "Job", Name: "a"}: &batchv1.Job{ObjectMeta: metav1.ObjectMeta{OwnerReferences: ownedBy("CronJob", "a")}}, {Namespace: "shop", Kind: "CronJob", Name: "a"}: &batchv1.CronJob{},
		}[r]
	}
	st.autoscaler("web", balanced)
	st.replicas("web", 2, 1000, 400*mi)
	for name, of := range map[string][]metav1.OwnerReference{"web-0": ownedBy("Job", "a"), "web-1": ownedBy("Deployment", "web")} {
		container := corev1.Container{Name: "app"}
		if name == "web-0" {
			container.Name = "other"
		}
		_ = c.pods.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: of}, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}})
	}
	st.turn()
	old := model.NewAggregateContainerState() // as from a checkpoint
	for minute := range 24 * 60 {
		old.AddSample(&model.ContainerUsageSample{MeasureStart: start.Add(-time.Duration(minute) * time.Minute), Resource: model.ResourceCPU, Usage: 3000})
	}
	st.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}].ContainersInitialAggregateState["old"] = old
	for minute := range 60 {
		st.now = start.Add(time.Duration(minute+1) * time.Minute)
		st.use("web", 1, 3000, 300*mi)
		st.turn()
	}
	targets := map[string]int64{}
	for _, one := range st.vpas["web"].Status.Recommendation.ContainerRecommendations {
		targets[one.ContainerName] = one.Target.Cpu().MilliValue()
	}
	if len(targets) != 2 || targets["app"] < 3000 || targets["app"] > 4000 || targets["old"] < 3000 {
		t.Errorf("%vm of a node's 4000 are recommended of what uses 3000", targets)
	}
	if pod, own := st.onePod(st.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}]); pod == nil || pod.Name != "web-1" || !own {
		t.Errorf("its pod is %v", pod)
	}
}

// TestOnePod: which pod says what containers there are. One that failed stays for weeks, of a template that is long gone.
func TestOnePod(t *testing.T) {
	type pod struct {
		owner string // of kind Deployment
		phase corev1.PodPhase
		age   time.Duration
	}
	for _, c := range []struct {
		name, reason string
		pods         []pod
		want         int // which of them; -1: none
		own          bool
	}{
		{"one that failed", "a roll-out since may have renamed its containers", []pod{{"web", corev1.PodFailed, time.Hour}, {"web", corev1.PodRunning, 2 * time.Hour}}, 1, true},
		{"one that succeeded", "", []pod{{"web", corev1.PodSucceeded, 0}, {"web", corev1.PodRunning, time.Hour}}, 1, true},
		{"none that runs", "a CronJob between its runs", []pod{{"web", corev1.PodSucceeded, 2 * time.Hour}, {"web", corev1.PodSucceeded, time.Hour}}, 1, true},
		{"a roll-out", "the new ones are to fit", []pod{{"web", corev1.PodRunning, time.Hour}, {"web", corev1.PodRunning, time.Minute}, {"web", corev1.PodRunning, 2 * time.Hour}}, 1, true},
		{"another's", "its own say it", []pod{{"other", corev1.PodRunning, time.Minute}, {"web", corev1.PodFailed, time.Hour}}, 1, true},
		{"only another's", "", []pod{{"other", corev1.PodFailed, time.Minute}, {"other", corev1.PodRunning, time.Hour}}, 1, false},
		{"one of a kind that is not watched", "its own are certain", []pod{{"?", corev1.PodRunning, time.Minute}, {"web", corev1.PodRunning, time.Hour}}, 1, true},
		{"only one of such a kind", "it may be its own", []pod{{"other", corev1.PodRunning, time.Minute}, {"?", corev1.PodRunning, time.Hour}}, 1, true},
		{"born together", "", []pod{{"web", corev1.PodRunning, time.Hour}, {"web", corev1.PodRunning, time.Hour}}, 0, true},
		{"none", "", nil, -1, false},
	} {
		st := newStage(t, nil)
		crowd := newCrowd()
		st.podLister = listersv1.NewPodLister(crowd.pods)
		st.workload = func(r foreign.Ref) metav1.Object {
			return map[foreign.Ref]metav1.Object{{Namespace: "shop", Kind: "Deployment", Name: "other"}: &appsv1.Deployment{}}[r]
		}
		st.autoscaler("web", balanced)
		st.replicas("web", len(c.pods), 1000, 400*mi)
		for i, p := range c.pods {
			_ = crowd.pods.Add(&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), OwnerReferences: ownedBy("Deployment", p.owner), CreationTimestamp: metav1.NewTime(start.Add(-p.age))},
				Status:     corev1.PodStatus{Phase: p.phase},
			})
		}
		st.turn()
		got, own := st.onePod(st.cluster.VPAs()[model.VpaID{Namespace: "shop", VpaName: "web"}])
		want := ""
		if c.want >= 0 {
			want = fmt.Sprintf("web-%d", c.want)
		}
		if (got == nil) != (want == "") || got != nil && got.Name != want || own != c.own {
			t.Errorf("%s: %v, its own: %v, want %s, %v; %s", c.name, got, own, want, c.own, c.reason)
		}
	}
}

// TestAStrangersContainers: a workload without a pod shares its labels with another one, whose containers have other names. What fits no node is
// not recommended for all that.
func TestAStrangersContainers(t *testing.T) {
	st := newStage(t, nil)
	c := newCrowd()
	st.podLister, st.indexers.nodes = listersv1.NewPodLister(c.pods), newCrowd().pods
	_ = st.indexers.nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{Allocatable: resources("4", "8Gi")}})
	st.workload = func(r foreign.Ref) metav1.Object {
		return map[foreign.Ref]metav1.Object{{Namespace: "shop", Kind: "Deployment", Name: "other"}: &appsv1.Deployment{}}[r]
	}
	st.autoscaler("web", balanced)
	st.replicas("web", 1, 1000, 400*mi)
	_ = c.pods.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", OwnerReferences: ownedBy("Deployment", "other")}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "unlike"}}}})
	st.turn()
	st.holds.put(model.VpaID{Namespace: "shop", VpaName: "web"}, "app", hold{12 << 30, start})
	for minute := range 30 {
		st.now = start.Add(time.Duration(minute+1) * time.Minute)
		st.use("web", 0, 1000, 300*mi)
		st.turn()
	}
	if got := st.target("web", corev1.ResourceMemory); got > 8<<30 || got < 7<<30 {
		t.Errorf("%d Mi are recommended where nodes have 8192", got/mi)
	}
}

// Upstream's annotation is understood: a person who moves over keeps it.
func TestIntegerCPU(t *testing.T) {
	states := model.ContainerNameToAggregateStateMap{"a": model.NewAggregateContainerState()}
	s := rules.Settings{Owned: true}
	s.Level = rightsizing.BalancedSavings
	platform := &nopsapi.WorkloadRecommendation{Containers: []nopsapi.ContainerRecommendation{{Name: "a", CPU: nopsapi.Recommended{Target: 1.1, Lower: 0.4, Upper: 2.5}}}}
	for annotation, want := range map[string]string{"vpa-post-processor.kubernetes.io/a_integerCPU": "2", "vpa-post-processor.kubernetes.io/b_integerCPU": "1100m"} {
		vpa := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotation: "true"}}}
		m := newEstimators().recommend(given{vpa: vpa, settings: &s, states: states, platform: platform})
		if got := m.recommendation.ContainerRecommendations[0].Target.Cpu().String(); got != want {
			t.Errorf("%s: %s, want %s", annotation, got, want)
		}
	}
}
