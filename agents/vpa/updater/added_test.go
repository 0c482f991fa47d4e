package updater_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/agents/vpa/updater"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// with gives a pod a second container s, and the note of what the webhook saw; "-" is that it has none.
func with(observed, requests string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "s", Image: "i", Resources: corev1.ResourceRequirements{Requests: list(requests)}})
		note(p, observed)
	}
}

// withSidecar is the same with a native sidecar.
func withSidecar(observed, requests string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "i", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list(requests)}}}
		note(p, observed)
	}
}

func note(p *corev1.Pod, observed string) {
	if observed != "-" {
		p.Annotations = map[string]string{"vpaObservedContainers": observed}
	}
}

// pending is what a kubelet says of a resize that it puts off since so long, of a container that has what it had.
func pending(container, has string, since time.Duration) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		for i := range s.ContainerStatuses {
			if c := &s.ContainerStatuses[i]; c.Name == container {
				c.Resources, c.AllocatedResources = &corev1.ResourceRequirements{Requests: list(has)}, list(has)
			}
		}
		s.Conditions = append(s.Conditions, corev1.PodCondition{
			Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred, Message: "node has 1 CPU", LastTransitionTime: metav1.NewTime(time.Now().Add(-since)),
		})
	}
}

// TestAddedLater: what somebody's webhook adds to pods after ours saw them comes back with what it has, so that no pod is evicted for it. It is resized in
// place, where that is possible.
func TestAddedLater(t *testing.T) {
	w := newWorld(t)
	defer w.start(updater.Options{Patience: 3 * time.Second})()

	const is, off, target = "500m,512Mi", "1,1Gi", "500m,512Mi"
	added := "container s was added to the pod after the webhook saw it"
	for _, c := range []struct {
		name, mode, web string
		edit            func(*corev1.Pod)
		report          func(*corev1.PodStatus)
		template        bool // it has the sidecar
		state, words    string
		evicted         bool
	}{
		{name: "what was added is off", mode: "Recreate", web: is, edit: with("c", off), state: rightsizing.StateImpossible, words: added},
		{name: "it was seen", mode: "Recreate", web: is, edit: with("c, s", off), evicted: true},
		{name: "what was seen is off, too", mode: "Recreate", web: off, edit: with("c", off), evicted: true},
		{name: "the webhook saw none", mode: "Recreate", web: off, edit: with("", off), state: rightsizing.StateImpossible, words: "containers c, s were added"},
		{name: "the webhook was not asked", mode: "Recreate", web: is, edit: with("-", off), evicted: true},
		{name: "a note that cannot be read", mode: "Recreate", web: is, edit: with("c,s", off), evicted: true},
		{name: "nothing is off", mode: "Recreate", web: is, edit: with("c", target), state: rightsizing.StateApplied, words: "close enough"},
		{name: "a sidecar was added", mode: "Recreate", web: is, edit: withSidecar("c", off), state: rightsizing.StateImpossible, words: added},
		{name: "a sidecar was seen", mode: "Recreate", web: is, edit: withSidecar("c, s", off), evicted: true},
		{name: "a sidecar of the template", mode: "Recreate", web: is, edit: withSidecar("c", off), template: true, evicted: true},
		{name: "its node can never fit what was added", mode: "InPlaceOrRecreate", web: is, edit: with("c", "100m,128Mi"), report: infeasible, state: rightsizing.StateImpossible, words: "node has 1 CPU; " + added},
		{name: "its node can never fit what was seen", mode: "InPlaceOrRecreate", web: "100m,128Mi", edit: with("c", "100m,128Mi"), report: infeasible, evicted: true},
		{
			name: "its node puts off what was added", mode: "InPlaceOrRecreate", web: is, edit: with("c", target), report: pending("s", "100m,128Mi", 10*time.Minute),
			state: rightsizing.StateWaiting, words: "node has 1 CPU; " + added,
		},
		{name: "its node puts off what was seen", mode: "InPlaceOrRecreate", web: is, edit: with("c", target), report: pending("c", "100m,128Mi", 10*time.Minute), evicted: true},
		{name: "only new pods are sized", mode: "Initial", web: is, edit: with("c", off), state: rightsizing.StateImpossible, words: added},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.answers(true)
			defer w.answers(false)
			p := w.place(t, 2)
			if c.template {
				always := corev1.ContainerRestartPolicyAlways
				p.rs.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "i", RestartPolicy: &always}}
				p.template("", "")
			}
			for i := range 2 {
				name := fmt.Sprint("added", i)
				p.pod(name, c.web, "", func(pod *corev1.Pod) {
					c.edit(pod)
					pod.Labels[stuck] = "yes"
				})
				if c.report != nil {
					p.report(name, c.report)
				}
			}
			p.autoscaler(c.mode, "", target)
			if c.evicted {
				vpatest.Eventually(t, "one is evicted", soon, func() bool { return p.application().Evicted == 1 })
				return
			}
			p.becomes(c.state, c.words)
			time.Sleep(time.Second) // five loops
			if a := p.application(); a.Evicted != 0 || p.evicted("added0") || p.evicted("added1") {
				t.Errorf("%+v", a)
			}
		})
	}

	for _, mode := range []string{inPlace, "InPlaceOrRecreate"} {
		t.Run("in place, in mode "+mode, func(t *testing.T) {
			w.answers(true)
			defer w.answers(false)
			p := w.place(t, 2)
			for i := range 2 {
				p.pod(fmt.Sprint("resized", i), is, "", with("c", off))
			}
			p.autoscaler(mode, settings(""), target)
			if a := p.becomes(rightsizing.StateApplied, "close enough"); a.InPlace != 2 || a.Evicted != 0 {
				t.Errorf("%+v", a)
			}
			for i := range 2 {
				if r := p.get(fmt.Sprint("resized", i)).Spec.Containers[1].Resources.Requests; r.Cpu().String() != "500m" || r.Memory().String() != "512Mi" {
					t.Errorf("pod %d: what was added has %v", i, r)
				}
			}
		})
	}

	t.Run("evictionRequirements are about what was seen", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		for i := range 2 {
			p.pod(fmt.Sprint("down", i), "2,2Gi", "", with("c", "100m,128Mi"))
		}
		p.autoscaler("Off", "", target)
		up := `{"spec":{"updatePolicy":{"updateMode":"Recreate","evictionRequirements":[{"resources":["cpu"],"changeRequirement":"TargetHigherThanRequests"}]}}}`
		if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(up), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		p.becomes(rightsizing.StateWaiting, "evictionRequirements")
		time.Sleep(time.Second) // five loops
		if a := p.application(); a.Evicted != 0 {
			t.Errorf("only what was added goes up: %+v", a)
		}
	})

	t.Run("a kill hurries no eviction where the webhook does not see the container", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		for i := range 2 {
			p.pod(fmt.Sprint("killed", i), off, "", with("c", is))
		}
		p.autoscaler(inPlace, strings.Replace(settings(""), `"cooldown":"0s"`, `"cooldown":"1h"`, 1), target)
		p.becomes(rightsizing.StateApplied, "close enough")
		if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"updatePolicy":{"updateMode":"Recreate"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		p.recommend("500m,1Gi")
		p.becomes(rightsizing.StateWaiting, "cools down")
		kill := func(container int) {
			for i := range 2 {
				p.report(fmt.Sprint("killed", i), func(s *corev1.PodStatus) {
					s.ContainerStatuses[container].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.NewTime(time.Now().Add(2 * time.Second))}
				})
			}
		}
		kill(1)
		time.Sleep(time.Second) // five loops
		if a := p.becomes(rightsizing.StateWaiting, "cools down"); a.Evicted != 0 {
			t.Errorf("another pod would be killed as well: %+v", a)
		}
		kill(0)
		vpatest.Eventually(t, "one is evicted", soon, func() bool { return p.application().Evicted == 1 })
	})

	// A LimitRange of pods is shared out among all containers of a pod that runs; the webhook shares it out among those that it sees.
	t.Run("a LimitRange of pods", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		for i := range 2 {
			p.pod(fmt.Sprint("shared", i), "1,1Gi", "1,1Gi", func(pod *corev1.Pod) {
				with("c", "1,1Gi")(pod)
				pod.Spec.Containers[1].Resources.Limits = list("1,1Gi")
			})
		}
		if _, err := w.Client.CoreV1().LimitRanges(p.ns).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "pods"}, Spec: corev1.LimitRangeSpec{
			Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypePod, Max: list("1,1Gi")}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		p.autoscaler("Recreate", "", "1,1Gi")
		p.becomes(rightsizing.StateImpossible, added)
		time.Sleep(time.Second) // five loops
		if a := p.application(); a.Evicted != 0 {
			t.Errorf("another pod would have as much: %+v", a)
		}
	})

	t.Run("what was added says nothing about the webhook", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		for i := range 2 {
			p.pod(fmt.Sprint("before", i), off, "", with("c", off))
		}
		p.autoscaler("Recreate", "", target)
		vpatest.Eventually(t, "one is evicted", soon, func() bool { return p.application().Evicted == 1 })
		p.pod("after", target, "", with("c", off)) // its template was changed meanwhile, and the webhook had nothing to do
		time.Sleep(2 * time.Second)
		if a := p.application(); a.Failed != 0 {
			t.Errorf("%+v", a)
		}
	})
}
