package recommender

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

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
