package rules_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	os.Exit(m.Run())
}

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// list is "cpu,memory"; a part that is empty is left out.
func list(text string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i, part := range strings.Split(text, ",") {
		if part != "" {
			l[[]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]] = resource.MustParse(part)
		}
	}
	if len(l) == 0 {
		return nil
	}
	return l
}

func show(l corev1.ResourceList) string {
	parts := []string{"", ""}
	for i, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, is := l[r]; is {
			parts[i] = q.String()
		}
	}
	return strings.TrimSuffix(strings.Join(parts, ","), ",")
}

func container(name, requests, limits string) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}
}

func running(containers ...corev1.Container) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}, Spec: corev1.PodSpec{Containers: containers}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, c := range containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-time.Hour))}}})
	}
	return p
}

func fresh(containers ...corev1.Container) *corev1.Pod {
	p := running(containers...)
	p.Status = corev1.PodStatus{}
	return p
}

// autoscaler recommends for containers by name; settings are JSON, and empty means none.
func autoscaler(settings string, targets map[string]string) *vpav1.VerticalPodAutoscaler {
	mode := vpav1.UpdateModeInPlace
	v := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "v", CreationTimestamp: metav1.NewTime(now.Add(-48 * time.Hour))}, Spec: vpav1.VerticalPodAutoscalerSpec{UpdatePolicy: &vpav1.PodUpdatePolicy{UpdateMode: &mode}}}
	if settings != "" {
		v.Annotations = map[string]string{rightsizing.AnnotationSettings: settings}
	}
	v.Status.Recommendation = &vpav1.RecommendedPodResources{}
	for name, target := range targets {
		v.Status.Recommendation.ContainerRecommendations = append(v.Status.Recommendation.ContainerRecommendations, vpav1.RecommendedContainerResources{ContainerName: name, Target: list(target)})
	}
	return v
}

func TestSizes(t *testing.T) {
	java := func(requests, limits string, args ...string) corev1.Container {
		c := container("c", requests, limits)
		c.Command = append([]string{"java"}, args...)
		return c
	}
	young := func(p *corev1.Pod) *corev1.Pod {
		for i := range p.Status.ContainerStatuses {
			p.Status.ContainerStatuses[i].State.Running.StartedAt = metav1.NewTime(now.Add(-time.Minute))
		}
		return p
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := func(p *corev1.Pod, c corev1.Container) *corev1.Pod {
		c.RestartPolicy = &always
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		return p
	}
	initial := func(v *vpav1.VerticalPodAutoscaler) *vpav1.VerticalPodAutoscaler {
		mode := vpav1.UpdateModeInitial
		v.Spec.UpdatePolicy.UpdateMode = &mode
		return v
	}
	bounded := func(v *vpav1.VerticalPodAutoscaler, least, most string) *vpav1.VerticalPodAutoscaler {
		v.Spec.ResourcePolicy = &vpav1.PodResourcePolicy{ContainerPolicies: []vpav1.ContainerResourcePolicy{{ContainerName: "*", MinAllowed: list(least), MaxAllowed: list(most)}}}
		return v
	}
	const plain = `{"policy":"p","level":"BalancedSavings"}`
	with := func(more string) string { return `{"policy":"p","level":"BalancedSavings",` + more + `}` }
	one := func(settings, target string) *vpav1.VerticalPodAutoscaler {
		return autoscaler(settings, map[string]string{"c": target})
	}
	cases := []struct {
		name, reason string
		pod          *corev1.Pod
		vpa          *vpav1.VerticalPodAutoscaler
		known        rules.Known
		requests     string // of container c; "none" is that nothing is sized
		limits       string
		unlimited    bool
		refused      string
		step         string // a rule that changed it
	}{
		{name: "a request", reason: "what is recommended is what it gets", pod: running(container("c", "1,1Gi", "")), vpa: one(plain, "200m,300Mi"), requests: "200m,300Mi"},
		{name: "no recommendation for it", reason: "only what is recommended is sized", pod: running(container("other", "1,1Gi", "")), vpa: one(plain, "200m,300Mi"), requests: "none"},
		{name: "floor", reason: "10m and 32Mi unless something else is set", pod: running(container("c", "1,1Gi", "")), vpa: one(plain, "1m,1Mi"), requests: "10m,32Mi", step: "floor"},
		{name: "own floor", reason: "a floor of a resource replaces its default", pod: running(container("c", "1,1Gi", "")), vpa: one(with(`"floors":{"memory":"64Mi"}`), "1m,1Mi"), requests: "10m,64Mi", step: "floor"},
		{name: "no settings, no floor", reason: "upstream's defaults hold", pod: running(container("c", "1,1Gi", "")), vpa: one("", "1m,1Mi"), requests: "1m,1Mi"},
		{name: "maximum below the floor", reason: "what is allowed by name is meant", pod: running(container("c", "1,1Gi", "")), vpa: bounded(one(plain, "200m,300Mi"), "", "5m,16Mi"), requests: "5m,16Mi"},
		{name: "bounds", reason: "upstream's processor keeps the autoscaler's", pod: running(container("c", "1,1Gi", "")), vpa: bounded(one(plain, "2,300Mi"), ",512Mi", "1500m"), requests: "1500m,512Mi"},
		{name: "step up", reason: "100 doubles at most", pod: running(container("c", "100m,100Mi", "")), vpa: one(with(`"maxStep":{"up":100,"down":50}`), "1,50Mi"), requests: "200m,50Mi", step: "step"},
		{name: "step down", reason: "50 halves at most", pod: running(container("c", "1,1Gi", "")), vpa: one(with(`"maxStep":{"up":100,"down":50}`), "100m,100Mi"), requests: "500m,512Mi", step: "step"},
		{name: "step of a new pod", reason: "from what its workload's pods have, not from the template once more", pod: fresh(container("c", "1,1Gi", "")), vpa: one(with(`"maxStep":{"down":50}`), "100m,100Mi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("150m,150Mi")}}, requests: "100m,100Mi"},
		{name: "step of what ran out of memory", reason: "with less it would again; more than that comes step by step", pod: running(container("c", "1,100Mi", "")), vpa: one(with(`"maxStep":{"up":10}`), "2,1Gi"), known: rules.Known{Held: map[string]resource.Quantity{"c": resource.MustParse("400Mi")}}, requests: "1100m,400Mi", step: "step"},
		{name: "step above what ran out of memory", reason: "what is held is no bound", pod: running(container("c", "1,100Mi", "")), vpa: one(with(`"maxStep":{"up":100}`), "1,1Gi"), known: rules.Known{Held: map[string]resource.Quantity{"c": resource.MustParse("150Mi")}}, requests: "1,200Mi", step: "step"},
		{name: "ratio", reason: "the proportion of limit to request stays", pod: running(container("c", "1,1Gi", "2,3Gi")), vpa: one(plain, "200m,512Mi"), requests: "200m,512Mi", limits: "400m,1536Mi"},
		{name: "headroom", reason: "request plus a share", pod: running(container("c", "1,1Gi", "2,2Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"Headroom","headroom":50},"memory":{"mode":"Headroom","headroom":10}}`), "200m,1000Mi"), requests: "200m,1000Mi", limits: "300m,1100Mi"},
		{name: "keep", reason: "the limit stays, and requests do not exceed it", pod: running(container("c", "1,1Gi", "2,2Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"Keep"},"memory":{"mode":"Keep"}}`), "3,512Mi"), requests: "2,512Mi", limits: "2,2Gi", step: "limit"},
		{name: "none, new", reason: "a CPU limit goes, memory's never", pod: fresh(container("c", "1,1Gi", "2,2Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"None"},"memory":{"mode":"None"}}`), "500m,512Mi"), requests: "500m,512Mi", limits: ",1Gi", unlimited: true},
		{name: "none, running", reason: "a limit cannot be taken from a pod that runs; it is moved out of the way", pod: running(container("c", "1,1Gi", "2,2Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"None"}}`), "3,512Mi"), requests: "3,512Mi", limits: "3,1Gi"},
		{name: "none, Guaranteed", reason: "without its limit the pod would be of another class", pod: fresh(container("c", "1,1Gi", "1,1Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"None"}}`), "500m,512Mi"), requests: "500m,512Mi", limits: "500m,512Mi"},
		{name: "no limit, headroom", reason: "nobody gets a limit who had none", pod: running(container("c", "1,1Gi", "")), vpa: one(with(`"limits":{"memory":{"mode":"Headroom","headroom":10}}`), "200m,512Mi"), requests: "200m,512Mi"},
		{name: "usage", reason: "a memory limit is not lowered to what was used before", pod: running(container("c", "1,1Gi", "2,1Gi")), vpa: one(plain, "500m,256Mi"), known: rules.Known{Peaks: map[string]resource.Quantity{"c": resource.MustParse("500Mi")}}, requests: "500m,256Mi", limits: "1,550Mi"},
		{name: "Guaranteed", reason: "request and limit stay equal whatever the rule", pod: running(container("c", "1,1Gi", "1,1Gi")), vpa: one(with(`"limits":{"memory":{"mode":"Headroom","headroom":50}}`), "500m,512Mi"), requests: "500m,512Mi", limits: "500m,512Mi"},
		{name: "Guaranteed, keep", reason: "with the limit the request stays", pod: running(container("c", "1,1Gi", "1,1Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"Keep"},"memory":{"mode":"Keep"}}`), "500m,512Mi"), requests: "1,1Gi", limits: "1,1Gi", step: "limit"},
		{name: "Guaranteed, usage", reason: "the request follows a limit that cannot be lowered", pod: running(container("c", "1,1Gi", "1,1Gi")), vpa: one(plain, "500m,256Mi"), known: rules.Known{Peaks: map[string]resource.Quantity{"c": resource.MustParse("500Mi")}}, requests: "500m,550Mi", limits: "500m,550Mi", step: "class"},
		{name: "Guaranteed by one resource only", reason: "with CPU alone both would be equal; the pod is Guaranteed and stays", pod: running(container("c", "1,1Gi", "1,1Gi")), vpa: one(plain, "500m"), requests: "500m", limits: "500m"},
		{name: "Burstable would be Guaranteed", reason: "it steps back by the least there is", pod: running(container("c", "1,1Gi", "2,2Gi")), vpa: one(with(`"limits":{"cpu":{"mode":"Keep"},"memory":{"mode":"Keep"}}`), "3,3Gi"), requests: "1999m,2Gi", limits: "2,2Gi", step: "class"},
		{name: "BestEffort, running", reason: "Kubernetes does not let a pod's class change", pod: running(container("c", "", "")), vpa: one(plain, "200m,300Mi"), requests: "200m,300Mi", refused: "Burstable instead of BestEffort"},
		{name: "BestEffort, new", reason: "a new pod may well get requests", pod: fresh(container("c", "", "")), vpa: one(plain, "200m,300Mi"), requests: "200m,300Mi"},
		{name: "a limit without a request", reason: "Kubernetes takes them for equal", pod: fresh(container("c", "", "1,1Gi")), vpa: one(plain, "200m,300Mi"), requests: "200m,300Mi", limits: "200m,300Mi"},
		{name: "whole CPUs", reason: "what is whole stays so where the class of service is Guaranteed", pod: running(container("c", "4,1Gi", "4,1Gi")), vpa: one(with(`"wholeCPUs":true`), "1100m,512Mi"), requests: "2,512Mi", limits: "2,512Mi", step: "wholeCPUs"},
		{name: "whole CPUs, shared", reason: "a part of a CPU is shared in any case", pod: running(container("c", "2500m,1Gi", "2500m,1Gi")), vpa: one(with(`"wholeCPUs":true`), "1100m,512Mi"), requests: "1100m,512Mi", limits: "1100m,512Mi"},
		{name: "whole CPUs, Burstable", reason: "the static CPU manager gives it none", pod: running(container("c", "4,1Gi", "")), vpa: one(with(`"wholeCPUs":true`), "1100m,512Mi"), requests: "1100m,512Mi"},
		{name: "heap", reason: "memory is not lowered below what -Xmx needs", pod: running(java("1,4Gi", "2,6Gi", "-Xmx2g", "-jar", "a.jar")), vpa: one(plain, "1,512Mi"), requests: "1,2560Mi", limits: "2,3840Mi", step: "jvm"},
		{name: "heap above the request", reason: "the guard raises nothing", pod: running(java("1,1Gi", "", "-Xmx2g")), vpa: one(plain, "1,512Mi"), requests: "1,1Gi", step: "jvm"},
		{name: "heap, off", reason: "it can be switched off", pod: running(java("1,4Gi", "", "-Xmx2g")), vpa: one(with(`"jvm":"Ignore"`), "1,512Mi"), requests: "1,512Mi"},
		{name: "heap, and a max", reason: "somebody allows no more", pod: running(java("1,4Gi", "2,6Gi", "-Xmx2g")), vpa: bounded(one(plain, "1,512Mi"), "", ",1Gi"), requests: "1,1Gi", limits: "2,2560Mi", step: "jvm"},
		{name: "heap is a share of the limit", reason: "the limit that MaxRAMPercentage multiplies is not lowered, and the request not below what that heap needs", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(plain, "1,2Gi"), requests: "1,3840Mi", limits: "2,4Gi", step: "jvm"},
		{name: "heap is Java's own share", reason: "a quarter, where nothing is said", pod: running(java("1,4Gi", "2,4Gi", "-jar", "a.jar")), vpa: one(plain, "1,512Mi"), requests: "1,1280Mi", limits: "2,4Gi", step: "jvm"},
		{name: "heap begins as a share", reason: "it grows no larger for that", pod: running(java("1,4Gi", "2,4Gi", "-XX:InitialRAMPercentage=50")), vpa: one(plain, "1,512Mi"), requests: "1,1280Mi", limits: "2,4Gi", step: "jvm"},
		{name: "heap is nearly all of the limit", reason: "with what is around it, it needs more than there is", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=90")), vpa: one(plain, "1,2Gi"), requests: "1,4Gi", limits: "2,4Gi", step: "jvm"},
		{name: "heap is a share, above the request", reason: "the guard raises nothing", pod: running(java("1,1Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(plain, "1,512Mi"), requests: "1,1Gi", limits: "2,4Gi", step: "jvm"},
		{name: "heap is a share, more memory", reason: "the guard raises nothing", pod: running(java("1,1Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(plain, "1,2Gi"), requests: "1,2Gi", limits: "2,8Gi"},
		{name: "heap is a share of no limit", reason: "it is one of the node's memory, which is not known", pod: running(java("1,4Gi", "", "-XX:MaxRAMPercentage=75")), vpa: one(plain, "1,2Gi"), requests: "1,2Gi"},
		{name: "heap is a share of no limit, and begins with an amount", reason: "it is as large as that at least", pod: running(java("1,4Gi", "", "-Xms2g")), vpa: one(plain, "1,1Gi"), requests: "1,2560Mi", step: "jvm"},
		{name: "heap is a share, and a max", reason: "somebody allows no more", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: bounded(one(plain, "1,2Gi"), "", ",3Gi"), requests: "1,3Gi", limits: "2,4Gi", step: "jvm"},
		{name: "heap is a share, off", reason: "it can be switched off", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(with(`"jvm":"Ignore"`), "1,2Gi"), requests: "1,2Gi", limits: "2,2Gi"},
		{name: "heap is a share, Guaranteed", reason: "request and limit stay equal", pod: running(java("1,4Gi", "1,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(plain, "1,2Gi"), requests: "1,4Gi", limits: "1,4Gi", step: "class"},
		{name: "heap is a share of a limit that is kept", reason: "", pod: running(java("1,4Gi", "2,5Gi", "-XX:MaxRAMPercentage=40")), vpa: one(with(`"limits":{"memory":{"mode":"Keep"}}`), "1,1Gi"), requests: "1,2560Mi", limits: "2,5Gi", step: "jvm"},
		{name: "heap is a share of a limit that grows", reason: "Java goes by that one when it starts again", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=50")), vpa: one(with(`"limits":{"memory":{"mode":"Headroom","headroom":100}}`), "1,3Gi"), requests: "1,3840Mi", limits: "2,6Gi", step: "jvm"},
		{name: "heap is a share, step by step down", reason: "a step goes no further", pod: running(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(with(`"maxStep":{"down":30}`), "1,1Gi"), requests: "1,3840Mi", limits: "2,4Gi", step: "jvm"},
		{name: "new Java, a share of its limit", reason: "steps are from another one's memory, which is less than it needs", pod: fresh(java("1,4Gi", "2,4Gi", "-XX:MaxRAMPercentage=75")), vpa: one(with(`"maxStep":{"up":100}`), "1,1Gi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("1,1Gi")}}, requests: "1,3840Mi", limits: "2,4Gi", step: "jvm"},
		{name: "Java starts", reason: "CPU is not lowered in the first minutes", pod: young(running(java("1,1Gi", "2,2Gi", "-Xmx256m"))), vpa: one(plain, "200m,2Gi"), requests: "1,2Gi", limits: "2,4Gi", step: "jvm"},
		{name: "Java runs", reason: "and is afterwards", pod: running(java("1,1Gi", "2,2Gi", "-Xmx256m")), vpa: one(plain, "200m,2Gi"), requests: "200m,2Gi", limits: "400m,4Gi"},
		{name: "Java starts, more CPU", reason: "it may get more at any time", pod: young(running(java("1,1Gi", "", "-Xmx256m"))), vpa: one(plain, "2,1Gi"), requests: "2,1Gi"},
		{name: "new Java", reason: "it starts, and is resized once it has", pod: fresh(java("1,1Gi", "2,2Gi", "-Xmx256m")), vpa: one(plain, "200m,2Gi"), requests: "1,2Gi", limits: "2,4Gi", step: "jvm"},
		{name: "new Java that is not resized", reason: "what it gets at the start is all it gets", pod: fresh(java("1,1Gi", "2,2Gi", "-Xmx256m")), vpa: initial(one(plain, "200m,2Gi")), requests: "200m,2Gi", limits: "400m,4Gi"},
		{name: "new Java, step by step", reason: "a step from what the others have by now would take from it what it starts with", pod: fresh(java("2,1Gi", "4,2Gi", "-Xmx256m")), vpa: one(with(`"maxStep":{"up":100}`), "250m,1Gi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("250m,1Gi")}}, requests: "2,1Gi", limits: "4,2Gi", step: "jvm"},
		{name: "new Java, step by step to more", reason: "its template's is no step, either", pod: fresh(java("2,1Gi", "", "-Xmx256m")), vpa: one(with(`"maxStep":{"up":100}`), "3,1Gi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("250m,1Gi")}}, requests: "2,1Gi", step: "step"},
		{name: "new Java with a larger heap", reason: "steps are from the smaller one's memory, which is less than it needs", pod: fresh(java("1,4Gi", "", "-Xmx2g")), vpa: one(with(`"maxStep":{"up":100}`), "1,3Gi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("1,1Gi")}}, requests: "1,2560Mi", step: "step"},
		{name: "new Java that takes steps", reason: "what Java needs is no step further", pod: fresh(java("1,4Gi", "", "-Xmx256m")), vpa: one(with(`"maxStep":{"up":100}`), "1,3Gi"), known: rules.Known{Sized: map[string]corev1.ResourceList{"c": list("1,1Gi")}}, requests: "1,2Gi", step: "step"},
		{name: "left to a HorizontalPodAutoscaler", reason: "the other resource is sized all the same", pod: running(container("c", "1,1Gi", "")), vpa: one(plain, "200m,300Mi"), known: rules.Known{Yield: map[corev1.ResourceName]string{corev1.ResourceCPU: "web scales"}}, requests: ",300Mi"},
		{name: "aligned with it", reason: "its target follows", pod: running(container("c", "1,1Gi", "")), vpa: one(with(`"align":["cpu"]`), "200m,300Mi"), known: rules.Known{Yield: map[corev1.ResourceName]string{corev1.ResourceCPU: "web scales"}}, requests: "200m,300Mi"},
		{name: "left by settings", reason: "the policy controller found that it cannot be aligned", pod: running(container("c", "1,1Gi", "")), vpa: one(with(`"yield":["cpu","memory"]`), "200m,300Mi"), requests: "none"},
		{name: "a sidecar beside it", reason: "native sidecars are not in the way of containers", pod: sidecar(running(container("c", "1,1Gi", "")), container("s", "1,1Gi", "")), vpa: autoscaler(plain, map[string]string{"c": "200m,300Mi", "s": "20m,40Mi"}), requests: "200m,300Mi"},
		{name: "the pod has resources of its own", reason: "its containers' have to fit them", pod: func() *corev1.Pod {
			p := running(container("c", "1,1Gi", ""))
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("2,2Gi")}
			return p
		}(), vpa: one(plain, "200m,300Mi"), requests: "none", refused: "resources of its own"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Known: func(*vpav1.VerticalPodAutoscaler) rules.Known { return c.known }})
			s, err := p.Size(c.pod, c.vpa)
			if err != nil {
				t.Fatal(err)
			}
			if (c.refused == "") != (s.Refused == "") || !strings.Contains(s.Refused, c.refused) {
				t.Errorf("refused: %q, want %q; %s", s.Refused, c.refused, c.reason)
			}
			at := slices.IndexFunc(s.Containers, func(c rules.Sized) bool { return c.Name == "c" })
			if at < 0 {
				if c.requests != "none" {
					t.Fatalf("it is not sized; %s", c.reason)
				}
				return
			}
			got := s.Containers[at]
			if show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits || len(got.Unlimited) > 0 != c.unlimited {
				t.Errorf("requests %s, limits %s, unlimited %v; want %s, %s, %t; %s\n%v", show(got.Target.Requests), show(got.Target.Limits), got.Unlimited, c.requests, c.limits, c.unlimited, c.reason, got.Steps)
			}
			if c.step != "" && !slices.ContainsFunc(got.Steps, func(a rightsizing.Adjustment) bool { return a.Rule == c.step && a.Why != "" }) {
				t.Errorf("no step says %s: %v; %s", c.step, got.Steps, c.reason)
			}
		})
	}
	if len(cases) != 64 {
		t.Errorf("%d cases, want 64", len(cases))
	}
}

// TestSizesHoldTogether: whatever comes in, what comes out can be applied.
func TestSizesHoldTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		quantity := func(name string, r int) string {
			n := rapid.IntRange(0, 4000).Draw(t, name)
			if n == 0 {
				return ""
			}
			return fmt.Sprintf("%d%s", n, []string{"m", "Mi"}[r])
		}
		var containers []corev1.Container
		targets := map[string]string{}
		peaks := map[string]resource.Quantity{}
		for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
			name := fmt.Sprintf("c%d", i)
			c := container(name, quantity("cpu", 0)+","+quantity("memory", 1), "")
			for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request := c.Resources.Requests[r]
				switch limit := request.DeepCopy(); rapid.IntRange(0, 2).Draw(t, "limit") {
				case 1:
					if c.Resources.Limits == nil {
						c.Resources.Limits = corev1.ResourceList{}
					}
					if !limit.IsZero() {
						c.Resources.Limits[r] = limit
					}
				case 2:
					limit.Add(resource.MustParse("64Mi"))
					if c.Resources.Limits == nil {
						c.Resources.Limits = corev1.ResourceList{}
					}
					c.Resources.Limits[r] = limit
				}
			}
			if rapid.Bool().Draw(t, "java") {
				c.Args = []string{rapid.SampledFrom([]string{"-Xmx512m", "-XX:MaxRAMPercentage=50", "-XX:MaxRAMPercentage=90", "java -jar a"}).Draw(t, "option")}
			}
			containers = append(containers, c)
			targets[name] = quantity("target", 0) + "," + quantity("targetMemory", 1)
			peaks[name] = *resource.NewQuantity(rapid.Int64Range(0, 4<<30).Draw(t, "peak"), resource.BinarySI)
		}
		modes := []string{"Ratio", "Headroom", "Keep", "None"}
		up, down := rapid.IntRange(0, 200).Draw(t, "up"), rapid.IntRange(0, 100).Draw(t, "down")
		settings := fmt.Sprintf(`{"policy":"p","level":"MaximumSavings","maxStep":{"up":%d,"down":%d},"limits":{"cpu":{"mode":%q,"headroom":%d},"memory":{"mode":%q,"headroom":%d}}}`, up, down,
			rapid.SampledFrom(modes).Draw(t, "cpuLimit"), rapid.IntRange(0, 100).Draw(t, "cpuHeadroom"), rapid.SampledFrom(modes).Draw(t, "memoryLimit"), rapid.IntRange(0, 100).Draw(t, "memoryHeadroom"))
		pod := running(containers...)
		if rapid.Bool().Draw(t, "new") {
			pod = fresh(containers...)
		}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Known: func(*vpav1.VerticalPodAutoscaler) rules.Known { return rules.Known{Peaks: peaks, Changed: true} }})
		before := pod.DeepCopy()
		s, err := p.Size(pod, autoscaler(settings, targets))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(before) != fmt.Sprint(pod) {
			t.Fatal("the pod itself was changed")
		}
		after := pod.DeepCopy()
		for _, c := range s.Containers {
			to := &after.Spec.Containers[c.Index].Resources
			is := pod.Spec.Containers[c.Index].Resources
			if to.Requests == nil {
				to.Requests = corev1.ResourceList{}
			}
			for r, q := range c.Target.Requests {
				to.Requests[r] = q
				request, limit := is.Requests[r], is.Limits[r]
				if request.IsZero() {
					request = limit
				}
				guaranteed := rules.QoS(pod) == corev1.PodQOSGuaranteed
				// Steps hold unless the class of service, or a limit that is kept, asks for more.
				if most := request.AsApproximateFloat64() * (1 + float64(up)/100); up > 0 && !request.IsZero() && q.AsApproximateFloat64() > most*1.0001+1 && !guaranteed {
					t.Errorf("%s: %s of %s from %s is more than %d%% up", c.Name, q.String(), r, request.String(), up)
				}
				if least := request.AsApproximateFloat64() * (1 - float64(down)/100); down > 0 && !request.IsZero() && q.AsApproximateFloat64() < least-1 && !(!limit.IsZero() && q.Cmp(limit) == 0) {
					t.Errorf("%s: %s of %s from %s is more than %d%% down", c.Name, q.String(), r, request.String(), down)
				}
			}
			for r, q := range c.Target.Limits {
				if _, had := is.Limits[r]; !had {
					t.Errorf("%s got a limit of %s that it had not", c.Name, r)
				}
				to.Limits[r] = q
				if request := c.Target.Requests[r]; request.Cmp(q) > 0 {
					t.Errorf("%s requests %s of %s, more than its limit %s", c.Name, request.String(), r, q.String())
				}
				limit := is.Limits[r]
				if java := rules.DetectJVM(&pod.Spec.Containers[c.Index]); r == corev1.ResourceMemory && java.OfLimit {
					// A request that equals its limit steps back by a byte, where the class of service asks for it.
					request, was, needs := c.Target.Requests[r], is.Requests[r], java.Needs(q)
					if q.Cmp(limit) < 0 || request.Value() < min(was.Value(), needs.Value(), q.Value())-1 {
						t.Errorf("%s requests %s of memory, before %s, and has a limit of %s, before %s: Java needs %s", c.Name, request.String(), was.String(), q.String(), limit.String(), needs.String())
					}
				}
				if peak := peaks[c.Name]; r == corev1.ResourceMemory && q.Cmp(limit) < 0 && q.Cmp(peak) < 0 {
					t.Errorf("%s: memory limit %s, used were %s", c.Name, q.String(), peak.String())
				}
			}
			for _, r := range c.Unlimited {
				if r != corev1.ResourceCPU || !rules.Creating(pod) {
					t.Errorf("%s loses its limit of %s", c.Name, r)
				}
				delete(to.Limits, r)
			}
		}
		was, is := rules.QoS(pod), rules.QoS(after)
		if was != is && s.Refused == "" && !(was == corev1.PodQOSBestEffort && rules.Creating(pod)) {
			t.Errorf("%s became %s", was, is)
		}
	})
}

// Kubernetes 1.33 refuses a resize as a whole that lowers a memory limit without a restart: everything else of it is done.
func TestMemoryLimitsThatStay(t *testing.T) {
	restarting := container("c", "1,2Gi", "2,4Gi")
	restarting.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	const inPlace, orRecreate = vpav1.UpdateModeInPlace, vpav1.UpdateModeInPlaceOrRecreate
	for _, c := range []struct {
		name             string
		mode             vpav1.UpdateMode
		pod              *corev1.Pod
		target           string
		requests, limits string
		says             bool
	}{
		{"lowered", inPlace, running(container("c", "1,2Gi", "2,4Gi")), "500m,1Gi", "500m,1Gi", "1,4Gi", true},
		{"raised", inPlace, running(container("c", "1,2Gi", "2,4Gi")), "500m,3Gi", "500m,3Gi", "1,6Gi", false},
		{"Guaranteed", inPlace, running(container("c", "1,2Gi", "1,2Gi")), "500m,1Gi", "500m,2Gi", "500m,2Gi", true},
		{"it restarts", inPlace, running(restarting), "500m,1Gi", "500m,1Gi", "1,2Gi", false},
		{"new", inPlace, fresh(container("c", "1,2Gi", "2,4Gi")), "500m,1Gi", "500m,1Gi", "1,2Gi", false},
		{"Guaranteed, in place where it can be", orRecreate, running(container("c", "1,2Gi", "1,2Gi")), "500m,1Gi", "500m,2Gi", "500m,2Gi", true},
		{"Guaranteed, by an eviction", vpav1.UpdateModeRecreate, running(container("c", "1,2Gi", "1,2Gi")), "1,1Gi", "1,1Gi", "1,1Gi", false},
		{"Guaranteed, as upstream has it", vpav1.UpdateModeAuto, running(container("c", "1,2Gi", "1,2Gi")), "1,1Gi", "1,1Gi", "1,1Gi", false}, //nolint:staticcheck // people still have it
		{"lowered by an eviction", vpav1.UpdateModeRecreate, running(container("c", "1,2Gi", "2,4Gi")), "500m,1Gi", "500m,1Gi", "1,2Gi", false},
		{"not while it runs", vpav1.UpdateModeInitial, running(container("c", "1,2Gi", "1,2Gi")), "1,1Gi", "1,1Gi", "1,1Gi", false},
	} {
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, KeepMemoryLimits: func() bool { return true }})
		v := autoscaler(`{"policy":"p","level":"MaximumSavings","observation":"0s"}`, map[string]string{"c": c.target})
		v.Spec.UpdatePolicy.UpdateMode = &c.mode
		s, err := p.Size(c.pod, v)
		if err != nil || len(s.Containers) != 1 || s.Refused != "" {
			t.Fatalf("%s: %+v, %v", c.name, s, err)
		}
		got := s.Containers[0]
		if show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits {
			t.Errorf("%s: %s, limits %s, want %s, %s", c.name, show(got.Target.Requests), show(got.Target.Limits), c.requests, c.limits)
		}
		if says := slices.ContainsFunc(got.Steps, func(a rightsizing.Adjustment) bool { return strings.Contains(a.Why, "1.34") }); says != c.says {
			t.Errorf("%s: says why: %t", c.name, says)
		}
	}
}

// TestSidecarsAndLimitsArePatched: what upstream's calculators do not know is patched by ours.
func TestPatches(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := func(p *corev1.Pod) *corev1.Pod {
		s := container("s", "1,1Gi", "2,2Gi")
		s.RestartPolicy = &always
		p.Spec.InitContainers = []corev1.Container{container("setup", "1,1Gi", ""), s}
		return p
	}
	v := autoscaler(`{"policy":"p","level":"MaximumSavings","observation":"0s","limits":{"cpu":{"mode":"None"}}}`, map[string]string{"c": "200m,300Mi", "s": "100m,512Mi", "setup": "1m,1Mi"})
	p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }})
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		target patch.PatchResourceTarget
		want   []string
	}{
		{"new", pod(fresh(container("c", "1,1Gi", "2,2Gi"))), patch.Pod, []string{
			`add /spec/containers/0/resources/requests/cpu "200m"`, `add /spec/containers/0/resources/requests/memory "300Mi"`, `add /spec/containers/0/resources/limits/memory "600Mi"`, `remove /spec/containers/0/resources/limits/cpu`,
			`add /spec/initContainers/1/resources {"limits":{"memory":"1Gi"},"requests":{"cpu":"100m","memory":"512Mi"}}`,
		}},
		{"running", pod(running(container("c", "1,1Gi", "2,2Gi"))), patch.Resize, []string{
			`add /spec/containers/0/resources/requests/cpu "200m"`, `add /spec/containers/0/resources/requests/memory "300Mi"`, `add /spec/containers/0/resources/limits/cpu "2"`, `add /spec/containers/0/resources/limits/memory "600Mi"`,
			`add /spec/initContainers/1/resources {"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"100m","memory":"512Mi"}}`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, calculator := range p.Calculators(c.target) {
				records, err := calculator.CalculatePatches(c.pod, v)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range records {
					if strings.Contains(r.Path, "annotations") {
						continue
					}
					line := r.Op + " " + r.Path
					if r.Op != "remove" {
						value, _ := json.Marshal(r.Value)
						line += " " + string(value)
					}
					got = append(got, line)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("patches:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	for _, c := range []struct {
		name, reason, settings string
		sized                  bool
	}{
		{"paused", "nothing is changed", `"paused":true`, false},
		{"watched", "its day is not over", `"observation":"72h"`, false},
		{"a closed window", "it is about pods that run", `"observation":"0s","windows":[{"schedule":"0 22 * * *","duration":"1h"}]`, true},
		{"a cooldown", "a new pod disturbs nobody", `"observation":"0s","cooldown":"24h"`, true},
	} {
		v.Annotations[rightsizing.AnnotationSettings] = `{"policy":"p","level":"MaximumSavings",` + c.settings + `}`
		records, err := p.Calculators(patch.Pod)[0].CalculatePatches(pod(fresh(container("c", "1,1Gi", "2,2Gi"))), v)
		if err != nil || len(records) > 0 != c.sized {
			t.Errorf("%s: %v, %v; %s", c.name, records, err, c.reason)
		}
	}
}

func TestDetectJVM(t *testing.T) {
	command := func(options ...string) corev1.Container {
		return corev1.Container{Command: append([]string{"java"}, options...)}
	}
	env := func(name, value string) corev1.Container {
		return corev1.Container{Env: []corev1.EnvVar{{Name: name, Value: value}}}
	}
	cases := []struct {
		name      string
		container corev1.Container
		want      rules.JVM
	}{
		{"no Java", corev1.Container{Command: []string{"nginx", "-g", "daemon off;"}}, rules.JVM{}},
		{"javascript", corev1.Container{Command: []string{"node", "javascript.js"}, Args: []string{"--java"}}, rules.JVM{}},
		{"command", corev1.Container{Command: []string{"/usr/bin/java", "-Xmx1g", "-jar", "a.jar"}}, rules.JVM{Is: true, Heap: 1 << 30}},
		{"shell", corev1.Container{Command: []string{"sh", "-c", "exec java -Xmx512M -jar a.jar"}}, rules.JVM{Is: true, Heap: 512 << 20}},
		{"nothing said", command("-jar", "a.jar"), rules.JVM{Is: true, OfLimit: true, Percent: 25}},
		{"percentage", env("JAVA_TOOL_OPTIONS", "-XX:MaxRAMPercentage=75.0"), rules.JVM{Is: true, OfLimit: true, Percent: 75}},
		{"percentage, of any variable", env("APP_OPTS", "-XX:MaxRAMPercentage=62.5"), rules.JVM{Is: true, OfLimit: true, Percent: 62.5}},
		{"percentage, quoted", corev1.Container{Args: []string{"sh", "-c", `java -XX:MaxRAMPercentage="60" -jar a.jar`}}, rules.JVM{Is: true, OfLimit: true, Percent: 60}},
		{"percentages", command("-XX:MaxRAMPercentage=50", "-XX:MaxRAMPercentage=70"), rules.JVM{Is: true, OfLimit: true, Percent: 70}},
		{"percentage of more than there is", command("-XX:MaxRAMPercentage=400"), rules.JVM{Is: true, OfLimit: true, Percent: 100}},
		{"percentage from elsewhere", command("-XX:MaxRAMPercentage=$(SHARE)"), rules.JVM{Is: true, OfLimit: true, Percent: 25}},
		{"less than Java's own", command("-XX:MaxRAMPercentage=10"), rules.JVM{Is: true, OfLimit: true, Percent: 10}},
		{"fraction", command("-XX:MaxRAMFraction=2"), rules.JVM{Is: true, OfLimit: true, Percent: 50}},
		{"fraction of nothing", command("-XX:MaxRAMFraction=0"), rules.JVM{Is: true, OfLimit: true, Percent: 25}},
		{"initial percentage", env("APP_OPTS", "-XX:InitialRAMPercentage=50"), rules.JVM{Is: true, OfLimit: true, Percent: 25}},
		{"initial size", command("-Xms2g"), rules.JVM{Is: true, OfLimit: true, Percent: 25, Least: 2 << 30}},
		{"initial size, long", command("-XX:InitialHeapSize=64m"), rules.JVM{Is: true, OfLimit: true, Percent: 25, Least: 64 << 20}},
		{"heap size", env("JDK_JAVA_OPTIONS", "-XX:MaxHeapSize=256k"), rules.JVM{Is: true, Heap: 256 << 10}},
		{"any variable", env("ES_HEAP", "-Xms1g -Xmx1g"), rules.JVM{Is: true, Heap: 1 << 30, Least: 1 << 30}},
		{"both", command("-XX:MaxRAMPercentage=50", "-Xmx100m"), rules.JVM{Is: true, Heap: 100 << 20}},
		{"bytes", corev1.Container{Args: []string{"java", "-Xmx1073741824"}}, rules.JVM{Is: true, Heap: 1 << 30}},
		{"too large for a number", corev1.Container{Args: []string{"java", "-Xmx99999999999999999999g"}}, rules.JVM{Is: true, OfLimit: true, Percent: 25}},
		{"from elsewhere", corev1.Container{Env: []corev1.EnvVar{{Name: "JAVA_OPTS", ValueFrom: &corev1.EnvVarSource{}}}}, rules.JVM{Is: true, OfLimit: true, Percent: 25}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := rules.DetectJVM(&c.container); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	if len(cases) != 23 {
		t.Errorf("%d cases, want 23", len(cases))
	}
}

// What Java takes for its heap is as OpenJDK 17 says of itself with -XX:MaxRAM and -XX:+PrintFlagsFinal; what is around it is ours.
func TestNeeds(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		jvm          rules.JVM
		limit, needs string
	}{
		{"no Java", "", rules.JVM{}, "4Gi", "0"},
		{"heap", "whatever the limit", rules.JVM{Heap: 2 << 30}, "1Gi", "2560Mi"},
		{"a small heap", "what is around it does not get smaller", rules.JVM{Heap: 64 << 20}, "", "192Mi"},
		{"a large heap", "what is around it does not grow for ever", rules.JVM{Heap: 16 << 30}, "", "17Gi"},
		{"a share", "", rules.JVM{OfLimit: true, Percent: 75}, "4Gi", "3840Mi"},
		{"a share of no limit", "the node's memory is not known", rules.JVM{OfLimit: true, Percent: 75}, "", "0"},
		{"a share of little", "it is half of that, whatever the share", rules.JVM{OfLimit: true, Percent: 25}, "200Mi", "228Mi"},
		{"a share that is little", "it is 125Mi then", rules.JVM{OfLimit: true, Percent: 10}, "300Mi", "253Mi"},
		{"a share below what it begins with", "it is what it begins with", rules.JVM{OfLimit: true, Percent: 25, Least: 2 << 30}, "4Gi", "2560Mi"},
		{"what it begins with, without a limit", "", rules.JVM{OfLimit: true, Percent: 25, Least: 2 << 30}, "", "2560Mi"},
		{"all there is", "", rules.JVM{OfLimit: true, Percent: 100}, "8Ei", "8Ei"},
	} {
		var limit resource.Quantity
		if c.limit != "" {
			limit = resource.MustParse(c.limit)
		}
		if got := c.jvm.Needs(limit); got.Cmp(resource.MustParse(c.needs)) != 0 {
			t.Errorf("%s: %s, want %s; %s", c.name, got.String(), c.needs, c.reason)
		}
	}
}

// A LimitRange may have a limit be less than its pod has: the heap is a share of that one then, and no request is larger than its limit.
func TestHeapUnderALimitRange(t *testing.T) {
	for percent, want := range map[string]string{"75": "1,1920Mi", "100": "1,2Gi"} {
		c := container("c", "1,4Gi", "2,4Gi")
		c.Command = []string{"java", "-XX:MaxRAMPercentage=" + percent}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, LimitRanges: fixed{&corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: list("8,2Gi")}}})
		s, err := p.Size(running(c), autoscaler(`{"policy":"p","level":"MaximumSavings"}`, map[string]string{"c": "1,1Gi"}))
		if err != nil || len(s.Containers) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if got := s.Containers[0].Target; show(got.Requests) != want || show(got.Limits) != "2,2Gi" {
			t.Errorf("%s%%: %s, limits %s; want %s, 2,2Gi", percent, show(got.Requests), show(got.Limits), want)
		}
	}
}

// What a container's resizePolicy restarts it for is what changes in the end: memory that Java keeps does not.
func TestHeapThatIsKeptRestartsNothing(t *testing.T) {
	c := container("c", "1,3Gi", "2,4Gi")
	c.Command = []string{"java", "-XX:MaxRAMPercentage=75"}
	c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }})
	s, err := p.Size(running(c), autoscaler(`{"policy":"p","level":"MaximumSavings"}`, map[string]string{"c": "500m,1Gi"}))
	if err != nil || len(s.Containers) != 1 || show(s.Containers[0].Target.Requests) != "500m,3Gi" || s.Restarts() {
		t.Errorf("%+v, %v", s, err)
	}
}

// BenchmarkSize: the updater sizes every pod in every loop.
func BenchmarkSize(b *testing.B) {
	p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }})
	pod, v := running(container("c", "1,1Gi", "2,2Gi"), container("d", "1,1Gi", "")), autoscaler(`{"policy":"p","level":"BalancedSavings","maxStep":{"up":100,"down":50}}`, map[string]string{"c": "200m,300Mi", "d": "200m,300Mi"})
	settings, err := rules.Effective(v)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if s, err := p.SizeBy(pod, v, settings); err != nil || !s.Changed() {
			b.Fatal(s, err)
		}
	}
}
