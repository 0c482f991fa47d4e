package rules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/annotations"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// A limit keeps the template's proportion however often its pod was sized: not the one that a limit which was kept, or cut off, has by then.
func TestProportionsAreTheTemplates(t *testing.T) {
	java := func(requests, limits string) corev1.Container {
		c := container("c", requests, limits)
		c.Command = []string{"java", "-jar", "a.jar"}
		return c
	}
	type round struct{ target, requests, limits string }
	cases := []struct {
		name, reason string
		template     corev1.Container // one without a name is not known
		pod          corev1.Container
		keeps        bool
		peak         string
		ranges       []*corev1.LimitRange
		rounds       []round
	}{
		{"limits that are kept", "each time down and up would double it", container("c", "1,2Gi", "2,4Gi"), container("c", "1,2Gi", "2,4Gi"), true, "", nil, []round{
			{"1,1Gi", "1,1Gi", "2,4Gi"}, {"1,2Gi", "1,2Gi", "2,4Gi"}, {"1,1Gi", "1,1Gi", "2,4Gi"}, {"1,3Gi", "1,3Gi", "2,6Gi"},
		}},
		{"usage", "", container("c", "1,2Gi", "2,2200Mi"), container("c", "1,2Gi", "2,2200Mi"), false, "2000Mi", nil, []round{
			{"1,1Gi", "1,1Gi", "2,2200Mi"}, {"1,2Gi", "1,2Gi", "2,2200Mi"},
		}},
		{"Java's limit", "its heap is a share of it", java("1,2Gi", "2,4Gi"), java("1,2Gi", "2,4Gi"), false, "", nil, []round{
			{"1,1Gi", "1,1280Mi", "2,4Gi"}, {"1,2Gi", "1,2Gi", "2,4Gi"},
		}},
		{"cut off", "a limit that a LimitRange cut off is not the proportion", container("c", "100m,1Gi", "400m,1Gi"), container("c", "500m,1Gi", "500m,1Gi"), false, "", []*corev1.LimitRange{
			limitRange("a", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: list("500m"), Default: list("500m")}),
		}, []round{{"100m,1Gi", "100m,1Gi", "400m,1Gi"}}},
		{"a limit by default", "the namespace gave it, to the template's request", container("c", "100m,1Gi", ""), container("c", "200m,1Gi", "1,1Gi"), false, "", []*corev1.LimitRange{
			limitRange("a", corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: list("1")}),
		}, []round{{"50m,1Gi", "50m,1Gi", "500m,1Gi"}}},
		{"a limit of somebody else", "the pod's own proportion is all there is", container("c", "100m,1Gi", ""), container("c", "200m,1Gi", "1,1Gi"), false, "", nil, []round{{"100m,1Gi", "100m,1Gi", "500m,1Gi"}}},
		{"a container of somebody else", "", container("other", "100m,1Gi", ""), container("c", "200m,1Gi", "1,1Gi"), false, "", nil, []round{{"100m,1Gi", "100m,1Gi", "500m,1Gi"}}},
		{"a limit without a request", "both are equal", container("c", "", "400m,1Gi"), container("c", "100m,1Gi", "400m,1Gi"), false, "", nil, []round{{"50m,1Gi", "50m,1Gi", "50m,1Gi"}}},
		{"no template", "the pod's own proportion is all there is", corev1.Container{}, container("c", "200m,1Gi", "1,1Gi"), false, "", nil, []round{{"100m,1Gi", "100m,1Gi", "500m,1Gi"}}},
	}
	for _, c := range cases {
		known := rules.Known{Changed: true}
		if c.peak != "" {
			known.Peaks = map[string]resource.Quantity{"c": resource.MustParse(c.peak)}
		}
		p := rules.NewProvider(rules.Options{
			Now: func() time.Time { return now }, Known: func(*vpav1.VerticalPodAutoscaler) rules.Known { return known }, KeepMemoryLimits: func() bool { return c.keeps },
			Ranges: func(string) []*corev1.LimitRange { return c.ranges }, LimitRanges: nil,
			Template: func(*corev1.Pod) *corev1.PodSpec {
				if c.template.Name == "" {
					return nil
				}
				return &corev1.PodSpec{Containers: []corev1.Container{c.template}}
			},
		})
		pod := running(c.pod, container("rest", "1m,", "")) // Burstable whatever becomes of the other
		for i, r := range c.rounds {
			s, err := p.Size(pod, autoscaler(`{"policy":"p","level":"MaximumSavings"}`, map[string]string{"c": r.target}))
			if err != nil || len(s.Containers) != 1 || s.Quota != "" {
				t.Fatalf("%s: %+v, %v", c.name, s, err)
			}
			got := s.Containers[0].Target
			if show(got.Requests) != r.requests || show(got.Limits) != r.limits {
				t.Errorf("%s, round %d: %s, limits %s, want %s, %s; %s", c.name, i, show(got.Requests), show(got.Limits), r.requests, r.limits, c.reason)
			}
			pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: got.Requests, Limits: got.Limits}
		}
	}
	if len(cases) != 9 {
		t.Errorf("%d cases, want 9", len(cases))
	}
}

// A LimitRange's maximum is shared by the template's proportion, too: a pod that runs and the one that comes instead get the same.
func TestBoundsByTheTemplatesProportion(t *testing.T) {
	item := &corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: list("8,8Gi")}
	template := container("c", "1,1Gi", "2,2Gi")
	p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, LimitRanges: fixed{item}, Template: func(*corev1.Pod) *corev1.PodSpec { return &corev1.PodSpec{Containers: []corev1.Container{template}} }})
	v := autoscaler(`{"policy":"p","level":"MaximumSavings"}`, map[string]string{"c": "1,6Gi"})
	for _, pod := range []*corev1.Pod{running(container("c", "1,1Gi", "2,4Gi")), fresh(template)} {
		s, err := p.Size(pod, v)
		if err != nil || len(s.Containers) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if got := s.Containers[0].Target; show(got.Requests) != "1,4Gi" || show(got.Limits) != "2,8Gi" {
			t.Errorf("new %t: %s, limits %s", rules.Creating(pod), show(got.Requests), show(got.Limits))
		}
	}
}

// What was sized before a HorizontalPodAutoscaler came goes back to what the template says: its share of a request that was lowered is larger.
func TestYieldedGoesBack(t *testing.T) {
	mark := func(p *corev1.Pod, what string) *corev1.Pod {
		p.Annotations = map[string]string{patch.ResourceUpdatesAnnotation: "Pod resources updated by v: container 0: cpu: it never goes below the floor of 10m, " + what}
		return p
	}
	by := func(manager, subresource, list string, p *corev1.Pod, resources ...string) *corev1.Pod {
		var owned []string
		for _, r := range resources {
			owned = append(owned, fmt.Sprintf(`"f:%s":{}`, r))
		}
		fields := fmt.Sprintf(`{"f:spec":{"f:%s":{"k:{\"name\":\"c\"}":{"f:resources":{"f:requests":{".":{},%s}}}}}}`, list, strings.Join(owned, ","))
		p.ManagedFields = append(p.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Subresource: subresource, FieldsV1: metav1.NewFieldsV1(fields)})
		return p
	}
	java := container("c", "300m,1Gi", "600m,2Gi")
	java.Command = []string{"java", "-XX:MaxRAMPercentage=75"}
	resized := func(p *corev1.Pod) *corev1.Pod { return by(rules.Resizer, "resize", "containers", p, "cpu", "memory") }
	const plain = `{"policy":"p","level":"MaximumSavings","maxStep":{"up":10}}`
	cases := []struct {
		name, reason     string
		template         string // requests and limits, "/" between
		pod              *corev1.Pod
		settings         string
		changed, keeps   bool
		yields           corev1.ResourceName
		requests, limits string // empty: nothing is sized
	}{
		{"resized", "at once: steps are about recommendations", "1,1Gi/2,2Gi", resized(running(container("c", "200m,512Mi", "400m,1Gi"))), plain, true, false, "cpu", "1,512Mi", "2,1Gi"},
		{"sized when it was made", "", "1,1Gi/2,2Gi", mark(running(container("c", "200m,512Mi", "400m,1Gi")), "cpu request, memory request"), plain, false, false, "cpu", "1,512Mi", "2,1Gi"},
		{"by the settings", "the policy's controller found that it cannot follow", "1,1Gi/", resized(running(container("c", "200m,512Mi", ""))), `{"policy":"p","level":"MaximumSavings","yield":["cpu"]}`, true, false, "", "1,512Mi", ""},
		{"aligned", "its target follows", "1,1Gi/", resized(running(container("c", "200m,512Mi", ""))), `{"policy":"p","level":"MaximumSavings","align":["cpu"]}`, true, false, "cpu", "300m,512Mi", ""},
		{"memory alone was resized", "somebody's webhook gave it the CPU that it has, of which its HorizontalPodAutoscaler knows", "1,1Gi/2,2Gi", by(rules.Resizer, "resize", "containers", running(container("c", "200m,512Mi", "400m,1Gi")), "memory"), plain, true, false, "cpu", ",512Mi", ",1Gi"},
		{"memory alone was sized when it was made", "", "1,1Gi/", mark(running(container("c", "200m,512Mi", "")), "memory request, cpu limit"), plain, true, false, "cpu", ",512Mi", ""},
		{"somebody else resized it", "", "1,1Gi/", by("kubectl", "resize", "containers", running(container("c", "200m,512Mi", "")), "cpu"), plain, true, false, "cpu", ",512Mi", ""},
		{"made with it", "whoever made the pod made it with what its webhooks said", "1,1Gi/", by(rules.Resizer, "", "containers", running(container("c", "200m,512Mi", "")), "cpu"), plain, true, false, "cpu", ",512Mi", ""},
		{"a sidecar by its name was", "there is one container of a name", "1,1Gi/", by(rules.Resizer, "resize", "initContainers", running(container("c", "200m,512Mi", "")), "cpu"), plain, true, false, "cpu", "1,512Mi", ""},
		{"never sized", "somebody else gave it what it has", "1,1Gi/", running(container("c", "200m,512Mi", "")), plain, false, false, "cpu", ",512Mi", ""},
		{"new", "it is what its template says", "1,1Gi/", fresh(container("c", "1,512Mi", "")), plain, true, false, "cpu", ",512Mi", ""},
		{"no request", "somebody else gave it what it has", ",1Gi/", resized(running(container("c", "200m,512Mi", ""))), plain, true, false, "cpu", ",512Mi", ""},
		{"no template", "", "", resized(running(container("c", "200m,512Mi", ""))), plain, true, false, "cpu", ",512Mi", ""},
		{"no limit by now", "it was taken away when it was made; none is given while it runs", "1,1Gi/2,2Gi", resized(running(container("c", "200m,512Mi", ",1Gi"))), plain, true, false, "cpu", "1,512Mi", ",1Gi"},
		{"a limit of somebody else", "it is no less than the request", "1,1Gi/", resized(running(container("c", "200m,512Mi", "400m,1Gi"))), plain, true, false, "cpu", "1,512Mi", "1,1Gi"},
		{"memory down", "Kubernetes 1.33 lowers no limit", "1,256Mi/2,512Mi", resized(running(container("c", "300m,512Mi", "600m,1Gi"))), plain, true, true, "memory", "300m,256Mi", "600m,1Gi"},
		{"Guaranteed", "", "1,512Mi/1,512Mi", resized(running(container("c", "200m,512Mi", "200m,512Mi"))), plain, true, false, "cpu", "1,512Mi", "1,512Mi"},
		{"Java, below what its heap needs", "a request that goes back is not held; a limit is not lowered either way", "1,256Mi/2,512Mi", resized(running(java)), plain, true, false, "memory", "300m,256Mi", "600m,2Gi"},
		{"back already", "", "1,1Gi/2,2Gi", resized(running(container("c", "1,512Mi", "2,1Gi"))), plain, true, false, "cpu", "1,512Mi", "2,1Gi"},
	}
	for _, c := range cases {
		requests, limits, _ := strings.Cut(c.template, "/")
		known := rules.Known{Changed: c.changed}
		if c.yields != "" {
			known.Yield = map[corev1.ResourceName]string{c.yields: "web scales"}
		}
		p := rules.NewProvider(rules.Options{
			Now: func() time.Time { return now }, Known: func(*vpav1.VerticalPodAutoscaler) rules.Known { return known }, KeepMemoryLimits: func() bool { return c.keeps },
			Template: func(*corev1.Pod) *corev1.PodSpec {
				if c.template == "" {
					return nil
				}
				return &corev1.PodSpec{Containers: []corev1.Container{container("c", requests, limits)}}
			},
		})
		kept, err := rules.SlimPod(c.pod.DeepCopy()) // as an informer has it
		pod, is := kept.(*corev1.Pod)
		if err != nil || !is {
			t.Fatal(kept, err)
		}
		s, err := p.Size(pod, autoscaler(c.settings, map[string]string{"c": "300m,512Mi"}))
		if err != nil || len(s.Containers) != 1 || s.Refused != "" {
			t.Errorf("%s: %+v, %v; %s", c.name, s, err, c.reason)
			continue
		}
		got := s.Containers[0]
		if show(got.Target.Requests) != c.requests || show(got.Target.Limits) != c.limits {
			t.Errorf("%s: %s, limits %s, want %s, %s; %s", c.name, show(got.Target.Requests), show(got.Target.Limits), c.requests, c.limits, c.reason)
		}
		says := slices.ContainsFunc(got.Steps, func(a rightsizing.Adjustment) bool { return a.Rule == "hpa" && strings.Contains(a.Why, "scales") })
		if want := strings.HasPrefix(c.requests, "1,") && c.name != "back already" || c.yields == corev1.ResourceMemory; says != want {
			t.Errorf("%s: says so: %t, %v", c.name, says, got.Steps)
		}
	}
	if len(cases) != 19 {
		t.Errorf("%d cases, want 19", len(cases))
	}
}

// What was sized when a pod was made is told of each container, by the webhook's note: as it writes it itself, and as it may have become.
func TestGave(t *testing.T) {
	sidecar := func(p *corev1.Pod, name string) *corev1.Pod {
		always := corev1.ContainerRestartPolicyAlways
		c := container(name, "1,1Gi", "")
		c.RestartPolicy = &always
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		return p
	}
	made := func(recommended map[string]string) *corev1.Pod {
		pod := sidecar(fresh(container("web", "1,1Gi", "2,2Gi"), container("cache", "1,1Gi", "")), "proxy")
		seen, err := rules.NewObserver().CalculatePatches(pod, nil)
		if err != nil {
			t.Fatal(err)
		}
		pod.Annotations = map[string]string{annotations.VpaObservedContainersLabel: fmt.Sprint(seen[0].Value)}
		patches, err := rules.NewProvider(rules.Options{Now: func() time.Time { return now }}).Calculators(patch.Pod)[0].CalculatePatches(pod, autoscaler("", recommended))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range patches {
			if text, is := p.Value.(string); is && p.Path == "/metadata/annotations/"+patch.ResourceUpdatesAnnotation {
				pod.Annotations[patch.ResourceUpdatesAnnotation] = text
			}
		}
		return pod
	}
	in := func(p *corev1.Pod, name string) *corev1.Pod {
		p.Spec.Containers = append([]corev1.Container{container(name, "1,1Gi", "")}, p.Spec.Containers...)
		return p
	}
	note := func(text string) *corev1.Pod {
		p := made(nil)
		p.Annotations[patch.ResourceUpdatesAnnotation] = text
		return p
	}
	cases := []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"nothing", made(nil), ""},
		{"one of two", made(map[string]string{"cache": "200m,300Mi"}), "cache.requests.cpu cache.requests.memory"},
		{"a sidecar alone", made(map[string]string{"proxy": "200m,300Mi"}), "proxy.requests.cpu proxy.requests.memory"},
		{"both", made(map[string]string{"web": "200m", "proxy": ",300Mi"}), "web.requests.cpu web.limits.cpu proxy.requests.memory"},
		{"somebody put another one first since", in(made(map[string]string{"cache": ",300Mi"}), "istio-proxy"), "cache.requests.memory"},
		{"of before what it saw was written down", func() *corev1.Pod {
			p := made(map[string]string{"cache": ",300Mi"})
			delete(p.Annotations, annotations.VpaObservedContainersLabel)
			return p
		}(), "cache.requests.memory"},
		{"reasons", note("Pod resources updated by v: container 0: memory: its limit; cpu request and more: no, memory request; container 1: cpu: held, cpu limit"), "web.requests.memory cache.limits.cpu"},
		{"a place that is none", note("Pod resources updated by v: container 9: cpu request; container 99999999999999999999: cpu request"), ""},
		{"somebody else's words", note("cpu request, memory request"), ""},
	}
	for _, c := range cases {
		var got []string
		for _, name := range []string{"istio-proxy", "web", "cache", "proxy"} {
			for _, field := range []string{"requests", "limits"} {
				for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					if rules.Gave(c.pod, name, field, r) {
						got = append(got, fmt.Sprintf("%s.%s.%s", name, field, r))
					}
				}
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s; by %q", c.name, got, c.want, c.pod.Annotations[patch.ResourceUpdatesAnnotation])
		}
	}
	if len(cases) != 9 {
		t.Errorf("%d cases, want 9", len(cases))
	}
}

// fixed is a LimitRange for containers.
type fixed struct{ item *corev1.LimitRangeItem }

func (f fixed) GetContainerLimitRangeItem(string) (*corev1.LimitRangeItem, error) { return f.item, nil }
func (fixed) GetPodLimitRangeItem(string) (*corev1.LimitRangeItem, error)         { return nil, nil }

func TestTemplatesOf(t *testing.T) {
	factory := informers.NewSharedInformerFactory(nil, 0)
	of := rules.TemplatesOf(factory)
	meta := metav1.ObjectMeta{Namespace: "n", Name: "o", UID: "1"}
	template := func(name string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: name}}}}
	}
	kinds := map[string]struct {
		store  cache.Store
		object runtime.Object
	}{
		"ReplicaSet":  {factory.Apps().V1().ReplicaSets().Informer().GetStore(), &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: template("ReplicaSet")}}},
		"StatefulSet": {factory.Apps().V1().StatefulSets().Informer().GetStore(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: template("StatefulSet")}}},
		"DaemonSet":   {factory.Apps().V1().DaemonSets().Informer().GetStore(), &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: template("DaemonSet")}}},
		"Job":         {factory.Batch().V1().Jobs().Informer().GetStore(), &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template("Job")}}},
	}
	yes := true
	pod := func(kind, name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", OwnerReferences: []metav1.OwnerReference{{Kind: kind, Name: name, UID: meta.UID, Controller: &yes}}}}
	}
	for kind, one := range kinds {
		if err := one.store.Add(one.object); err != nil {
			t.Fatal(err)
		}
		if got := of(pod(kind, "o")); got == nil || got.Containers[0].Name != kind {
			t.Errorf("%s: %v", kind, got)
		}
		other := pod(kind, "o")
		other.OwnerReferences[0].UID = "2"
		if of(other) != nil || of(pod(kind, "gone")) != nil {
			t.Errorf("%s: one that is gone, or another by the same name, has a template", kind)
		}
	}
	if of(pod("Node", "o")) != nil || of(&corev1.Pod{}) != nil {
		t.Error("nobody's pods have a template")
	}
}

func TestOlderOf(t *testing.T) {
	factory := informers.NewSharedInformerFactory(nil, 0)
	older := rules.OlderOf(factory)
	meta := func(name string, generation int64, annotations map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "n", Name: name, Generation: generation, Annotations: annotations}
	}
	for _, o := range []*appsv1.StatefulSet{
		{ObjectMeta: meta("web", 2, nil), Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdateRevision: "web-2"}},
		{ObjectMeta: meta("edited", 3, nil), Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdateRevision: "edited-2"}},
		{ObjectMeta: meta("new", 1, nil)},
	} {
		if err := factory.Apps().V1().StatefulSets().Informer().GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []*appsv1.DaemonSet{{ObjectMeta: meta("node", 4, map[string]string{"deprecated.daemonset.template.generation": "3"})}, {ObjectMeta: meta("bare", 1, nil)}} {
		if err := factory.Apps().V1().DaemonSets().Informer().GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	yes := true
	cases := []struct {
		kind, name, label, value string
		want                     bool
	}{
		{"StatefulSet", "web", "controller-revision-hash", "web-2", false},
		{"StatefulSet", "web", "controller-revision-hash", "web-1", true},
		{"StatefulSet", "edited", "controller-revision-hash", "edited-2", true},
		{"StatefulSet", "new", "app", "new", false},
		{"StatefulSet", "gone", "controller-revision-hash", "gone-1", false},
		{"DaemonSet", "node", "pod-template-generation", "3", false},
		{"DaemonSet", "node", "pod-template-generation", "2", true},
		{"DaemonSet", "node", "app", "node", false},
		{"DaemonSet", "bare", "pod-template-generation", "2", false},
		{"ReplicaSet", "web", "pod-template-hash", "1", false},
	}
	for _, c := range cases {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Labels: map[string]string{c.label: c.value}, OwnerReferences: []metav1.OwnerReference{{Kind: c.kind, Name: c.name, Controller: &yes}}}}
		if got := older(p); got != c.want {
			t.Errorf("a pod of %s %s with %s=%s: %t, want %t", c.kind, c.name, c.label, c.value, got, c.want)
		}
	}
	if older(&corev1.Pod{}) {
		t.Error("nobody's pod is of an older template")
	}
}
