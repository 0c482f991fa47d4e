package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/annotations"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
)

// beside gives a pod a native sidecar.
func beside(p *corev1.Pod, name string) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	c := container(name, "1,1Gi", "")
	c.RestartPolicy = &always
	p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: name})
	return p
}

// TestAdded: what the webhook did not see is told by its note, and an eviction changes nothing of it.
func TestAdded(t *testing.T) {
	template := &corev1.PodSpec{Containers: []corev1.Container{container("web", "1,1Gi", "")}, InitContainers: []corev1.Container{container("log", "1,1Gi", "")}}
	for _, c := range []struct {
		name, note string // "-": there is none
		creating   bool
		template   *corev1.PodSpec
		want       string
	}{
		{name: "no note", note: "-"},
		{name: "a note that cannot be read", note: "web,mesh"},
		{name: "an empty note", note: "", want: "web mesh proxy log"},
		{name: "all were seen", note: "web, mesh, proxy, log"},
		{name: "a container and a sidecar were not", note: "web, log", want: "mesh proxy"},
		{name: "upstream's note, which knows no sidecars", note: "web, mesh", want: "proxy log"},
		{name: "upstream's note, and a sidecar of the template", note: "web, mesh", template: template, want: "proxy"},
		{name: "a template says nothing of containers that are noted", note: "mesh", template: template, want: "web proxy"},
		{name: "a new pod", note: "web", creating: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := beside(beside(running(container("web", "1,1Gi", ""), container("mesh", "1,1Gi", "")), "proxy"), "log")
			if c.creating {
				pod.Status = corev1.PodStatus{}
			}
			if c.note != "-" {
				pod.Annotations = map[string]string{annotations.VpaObservedContainersLabel: c.note}
			}
			s, err := rules.NewProvider(rules.Options{Template: func(*corev1.Pod) *corev1.PodSpec { return c.template }}).Size(pod, autoscaler("", map[string]string{"web": "2,2Gi", "mesh": "2,2Gi", "proxy": "2,2Gi", "log": "2,2Gi"}))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.Added, " "); got != c.want {
				t.Errorf("added are %q, want %q", got, c.want)
			}
			var seen []string
			for _, one := range s.Seen().Containers {
				seen = append(seen, one.Name)
			}
			left := rules.Without(pod, s.Added)
			for _, name := range []string{"web", "mesh", "proxy", "log"} {
				added := slices.Contains(strings.Fields(c.want), name)
				has := func(o corev1.Container) bool { return o.Name == name }
				if slices.Contains(seen, name) == added || (slices.ContainsFunc(left.Spec.Containers, has) || slices.ContainsFunc(left.Spec.InitContainers, has)) == added {
					t.Errorf("%s: seen are %v, left are %v and %v", name, seen, left.Spec.Containers, left.Spec.InitContainers)
				}
			}
			if len(s.Containers) != 4 || len(pod.Spec.Containers) != 2 || len(pod.Spec.InitContainers) != 2 {
				t.Error("the sizing or the pod was changed")
			}
		})
	}
}

// TestAddedOutOfMemory: a kill in a container that the webhook does not see is none for an eviction.
func TestAddedOutOfMemory(t *testing.T) {
	for _, c := range []struct {
		killed     string
		all, again bool
	}{{"web", true, true}, {"mesh", true, false}, {"", false, false}} {
		pod := running(container("web", "1,1Gi", ""), container("mesh", "1,1Gi", ""))
		pod.Annotations = map[string]string{annotations.VpaObservedContainersLabel: "web"}
		for i := range pod.Status.ContainerStatuses {
			if s := &pod.Status.ContainerStatuses[i]; s.Name == c.killed {
				s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(now.Add(-time.Minute))}
			}
		}
		s, err := rules.NewProvider(rules.Options{}).Size(pod, autoscaler("", map[string]string{"web": "1,2Gi", "mesh": "1,2Gi"}))
		if err != nil {
			t.Fatal(err)
		}
		if got := rules.OutOfMemory(pod, s, time.Time{}, now); got != c.all {
			t.Errorf("%q was killed: %t", c.killed, got)
		}
		if got := rules.OutOfMemory(pod, s.Seen(), time.Time{}, now); got != c.again {
			t.Errorf("%q was killed: %t for an eviction", c.killed, got)
		}
	}
}

// TestUnderway: whose resize it is that a node has not done is told by what the node gave.
func TestUnderway(t *testing.T) {
	given := func(requests, limits string) *corev1.ResourceRequirements {
		return &corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
	}
	for _, c := range []struct {
		name      string
		resources *corev1.ResourceRequirements
		allocated corev1.ResourceList
		sidecar   bool
		want      bool
	}{
		{name: "nothing is said"},
		{name: "it has what it asks for", resources: given("1,1Gi", "2,2Gi"), allocated: list("1,1Gi")},
		{name: "another request", resources: given("1,2Gi", "2,2Gi"), want: true},
		{name: "another limit", resources: given("1,1Gi", "1,2Gi"), want: true},
		{name: "it was not admitted", allocated: list("2,1Gi"), want: true},
		{name: "a sidecar", resources: given("2,1Gi", "2,2Gi"), sidecar: true, want: true},
	} {
		pod := running(container("web", "1,1Gi", "2,2Gi"))
		statuses := &pod.Status.ContainerStatuses
		if c.sidecar {
			always := corev1.ContainerRestartPolicyAlways
			pod.Spec.Containers[0].RestartPolicy = &always
			pod.Spec.InitContainers, pod.Spec.Containers = pod.Spec.Containers, nil
			pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = pod.Status.ContainerStatuses, nil
			statuses = &pod.Status.InitContainerStatuses
		}
		(*statuses)[0].Resources, (*statuses)[0].AllocatedResources = c.resources, c.allocated
		if got := rules.Underway(pod, nil); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
		if rules.Underway(pod, []string{"web"}) {
			t.Errorf("%s: it is left out", c.name)
		}
	}
}

// TestObserver: native sidecars are noted after the containers, whose place stays what it is in the pod.
func TestObserver(t *testing.T) {
	pod := beside(fresh(container("web", "1,1Gi", ""), container("mesh", "1,1Gi", "")), "proxy")
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, container("setup", "1,1Gi", ""))
	patches, err := rules.NewObserver().CalculatePatches(pod, nil)
	if err != nil || len(patches) != 1 {
		t.Fatal(patches, err)
	}
	if p := patches[0]; p.Path != "/metadata/annotations/vpaObservedContainers" || p.Op != "add" || p.Value != "web, mesh, proxy" {
		t.Errorf("%+v", p)
	}
}
