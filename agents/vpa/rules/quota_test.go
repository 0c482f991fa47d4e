package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourceadmission "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
)

// What a namespace's ResourceQuota has no room for is not tried, and a new pod is created as it is: it could not be created with more.
func TestQuota(t *testing.T) {
	quota := func(key corev1.ResourceName, hard, used string, edit func(*corev1.ResourceQuota)) *corev1.ResourceQuota {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Status: corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{key: resource.MustParse(hard)}, Used: corev1.ResourceList{key: resource.MustParse(used)},
		}}
		if edit != nil {
			edit(q)
		}
		return q
	}
	with := func(p *corev1.Pod, edits ...func(*corev1.Pod)) *corev1.Pod {
		for _, edit := range edits {
			edit(p)
		}
		return p
	}
	overhead := func(p *corev1.Pod) { p.Spec.Overhead = list("10m,130Mi") }
	setup := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, container("setup", cpu, ""))
		}
	}
	sidecar := func(p *corev1.Pod) {
		always, s := corev1.ContainerRestartPolicyAlways, container("s", "100m,1Gi", "")
		s.RestartPolicy = &always
		p.Spec.InitContainers = append(p.Spec.InitContainers, s)
	}
	cases := []struct {
		name, reason string
		pod          *corev1.Pod
		quota        *corev1.ResourceQuota
		target       string
		over         bool
	}{
		{"room", "it has 1 of the 4 that are used, and may have 2", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2,1Gi", false},
		{"no room", "", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2001m,1Gi", true},
		{"by the short name", "cpu means requests.cpu", running(container("c", "1,1Gi", "")), quota("cpu", "5", "4", nil), "3,1Gi", true},
		{"limits", "they grow along", running(container("c", "1,1Gi", "2,2Gi")), quota("limits.memory", "5Gi", "4Gi", nil), "1,2Gi", true},
		{"less", "what is over its quota may become less", running(container("c", "1,1Gi", "")), quota("requests.cpu", "1", "4", nil), "500m,1Gi", false},
		{"new, room", "the whole of it counts: nothing of it is used yet", fresh(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "3", nil), "2,1Gi", false},
		{"new, no room", "", fresh(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", nil), "2,1Gi", true},
		{"overhead", "the API server counts it, of pods that are made too", with(fresh(container("c", "1,500Mi", "")), overhead), quota("requests.memory", "1000Mi", "0", nil), "1,900Mi", true},
		{"overhead, room", "", with(fresh(container("c", "1,500Mi", "")), overhead), quota("requests.memory", "1030Mi", "0", nil), "1,900Mi", false},
		{"overhead of limits", "on top of limits that there are", with(fresh(container("c", "1,500Mi", "1,500Mi")), overhead), quota("limits.memory", "1000Mi", "0", nil), "1,900Mi", true},
		{"overhead without limits", "and of no others", with(fresh(container("c", "1,500Mi", "")), overhead), quota("limits.memory", "0", "0", nil), "1,900Mi", false},
		{"overhead, running", "it is counted already", with(running(container("c", "1,500Mi", "")), overhead), quota("requests.memory", "1030Mi", "630Mi", nil), "1,900Mi", false},
		{"overhead, running, no room", "", with(running(container("c", "1,500Mi", "")), overhead), quota("requests.memory", "1029Mi", "630Mi", nil), "1,900Mi", true},
		{"an init container that needs more", "what runs after it does not count beside it", with(running(container("c", "100m,1Gi", "")), setup("2")), quota("requests.cpu", "4", "4", nil), "500m,1Gi", false},
		{"an init container that needs more, new", "", with(fresh(container("c", "100m,1Gi", "")), setup("2")), quota("requests.cpu", "2", "0", nil), "500m,1Gi", false},
		{"more than the init container", "", with(running(container("c", "100m,1Gi", "")), setup("2")), quota("requests.cpu", "4", "4", nil), "2001m,1Gi", true},
		{"a sidecar that grows beside an init container", "the init container runs with the sidecars before it", with(fresh(container("c", "100m,1Gi", "")), sidecar, setup("2")), quota("requests.cpu", "2500m", "0", nil), "100m,1Gi", true},
		{"a sidecar that grows after an init container", "", with(fresh(container("c", "100m,1Gi", "")), setup("2"), sidecar), quota("requests.cpu", "2500m", "0", nil), "100m,1Gi", false},
		{"for other pods only", "it does not count this one", running(container("c", "1,1Gi", "")), quota("requests.cpu", "5", "4", func(q *corev1.ResourceQuota) {
			q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
		}), "3,1Gi", false},
	}
	for _, c := range cases {
		v := autoscaler(`{"policy":"p","level":"MaximumSavings","observation":"0s"}`, map[string]string{"c": c.target, "s": "600m,1Gi"})
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Quotas: func(namespace string) []*corev1.ResourceQuota {
			if namespace != "n" {
				t.Errorf("quotas of %q", namespace)
			}
			return []*corev1.ResourceQuota{c.quota}
		}})
		s, err := p.Size(c.pod, v)
		if err != nil || (s.Quota != "") != c.over || c.over && !strings.Contains(s.Quota, "ResourceQuota team") {
			t.Errorf("%s: %q, %v; %s", c.name, s.Quota, err, c.reason)
		}
		target := patch.Resize
		if rules.Creating(c.pod) {
			target = patch.Pod
		}
		patches, err := p.Calculators(target)[0].CalculatePatches(c.pod, v)
		written := slices.ContainsFunc(patches, func(p resourceadmission.PatchRecord) bool { return strings.Contains(p.Path, "/resources") })
		if err != nil || written == c.over {
			t.Errorf("%s: written is %v, %v; %s", c.name, patches, err, c.reason)
		}
	}
	if len(cases) != 19 {
		t.Errorf("%d cases, want 19", len(cases))
	}
}

// A quota for some pods counts those that have all of its scopes, and a pod of class BestEffort comes under others once it has requests.
func TestQuotasForSomePods(t *testing.T) {
	scoped := func(scopes ...corev1.ResourceQuotaScope) corev1.ResourceQuotaSpec {
		return corev1.ResourceQuotaSpec{Scopes: scopes}
	}
	priority := func(operator corev1.ScopeSelectorOperator, values ...string) corev1.ResourceQuotaSpec {
		return corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: operator, Values: values}}}}
	}
	full, none := "requests.cpu=4/4", "requests.cpu=8/4"
	hour := int64(3600)
	job := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &hour }
	high := func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }
	plain, best := "1,1Gi", ""
	cases := []struct {
		name       string
		spec       corev1.ResourceQuotaSpec
		bounds     string // KEY=HARD/USED
		requests   string
		edit       func(*corev1.Pod)
		over, runs bool // of a new pod, and of one that runs
	}{
		{"none", corev1.ResourceQuotaSpec{}, full, plain, nil, true, true},
		{"room", corev1.ResourceQuotaSpec{}, none, plain, nil, false, false},
		{"terminating, not this one", scoped(corev1.ResourceQuotaScopeTerminating), full, plain, nil, false, false},
		{"terminating", scoped(corev1.ResourceQuotaScopeTerminating), full, plain, job, true, true},
		{"not terminating", scoped(corev1.ResourceQuotaScopeNotTerminating), full, plain, nil, true, true},
		{"not terminating, not this one", scoped(corev1.ResourceQuotaScopeNotTerminating), full, plain, job, false, false},
		{"not BestEffort", scoped(corev1.ResourceQuotaScopeNotBestEffort), full, plain, nil, true, true},
		{"two, one of which it has not", scoped(corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating), full, plain, nil, false, false},
		{"priority, none", priority(corev1.ScopeSelectorOpIn, "high"), full, plain, nil, false, false},
		{"priority, in", priority(corev1.ScopeSelectorOpIn, "high", "low"), full, plain, high, true, true},
		{"priority, not in", priority(corev1.ScopeSelectorOpNotIn, "high"), full, plain, high, false, false},
		{"priority, not in, none", priority(corev1.ScopeSelectorOpNotIn, "high"), full, plain, nil, true, true},
		{"priority, exists", priority(corev1.ScopeSelectorOpExists), full, plain, nil, false, false},
		{"priority, exists, it has one", scoped(corev1.ResourceQuotaScopePriorityClass), full, plain, high, true, true},
		{"priority, does not exist", priority(corev1.ScopeSelectorOpDoesNotExist), full, plain, high, false, false},
		{"a scope of tomorrow", scoped("Unheard"), full, plain, nil, true, true},
		{"BestEffort, and is not any more", scoped(corev1.ResourceQuotaScopeBestEffort), "pods=9/9", best, nil, false, false},
		{"not BestEffort, and becomes so", scoped(corev1.ResourceQuotaScopeNotBestEffort), full, best, nil, true, false},
		{"not BestEffort, as many pods as may be", scoped(corev1.ResourceQuotaScopeNotBestEffort), "pods=9/9", best, nil, true, false},
		{"not BestEffort, more pods may be", scoped(corev1.ResourceQuotaScopeNotBestEffort), "pods=9/8", best, nil, false, false},
		{"not BestEffort, which have limits", scoped(corev1.ResourceQuotaScopeNotBestEffort), "limits.memory=9Gi/0", best, nil, true, false},
		{"not BestEffort, which have requests", scoped(corev1.ResourceQuotaScopeNotBestEffort), "requests.memory=9Gi/0", best, nil, false, false},
	}
	for _, c := range cases {
		key, bounds, _ := strings.Cut(c.bounds, "=")
		hard, used, _ := strings.Cut(bounds, "/")
		name := corev1.ResourceName(key)
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Spec: c.spec, Status: corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{name: resource.MustParse(hard)}, Used: corev1.ResourceList{name: resource.MustParse(used)},
		}}
		p := rules.NewProvider(rules.Options{Now: func() time.Time { return now }, Quotas: func(string) []*corev1.ResourceQuota { return []*corev1.ResourceQuota{quota} }})
		for pod, over := range map[*corev1.Pod]bool{fresh(container("c", c.requests, "")): c.over, running(container("c", c.requests, "")): c.runs} {
			if c.edit != nil {
				c.edit(pod)
			}
			s, err := p.Size(pod, autoscaler(`{"policy":"p","level":"MaximumSavings"}`, map[string]string{"c": "2,1Gi"}))
			if err != nil || (s.Quota != "") != over {
				t.Errorf("%s, new %t: %q, %v", c.name, rules.Creating(pod), s.Quota, err)
			}
		}
	}
	if len(cases) != 22 {
		t.Errorf("%d cases, want 22", len(cases))
	}
}
