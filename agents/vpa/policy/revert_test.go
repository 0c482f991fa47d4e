package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/policy"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// reverting is a cluster with workloads that were sized.
type reverting struct {
	*vpatest.Cluster

	t       *testing.T
	sets    map[string]*appsv1.ReplicaSet // by NAMESPACE/NAME of their Deployment
	updater kubernetes.Interface
	deps    policy.RevertDeps
	said    []string
}

func newReverting(t *testing.T) *reverting {
	t.Helper()
	v := &reverting{Cluster: vpatest.New(t, vpatest.Options{}), t: t, sets: map[string]*appsv1.ReplicaSet{}}
	var err error
	if v.updater, err = kubernetes.NewForConfig(agent.KubeConfig(v.As("updater"), "nops-vpa-updater/test")); err != nil {
		t.Fatal(err)
	}
	v.deps = policy.RevertDeps{Kube: v.As("policy"), UserAgent: "test", Every: 100 * time.Millisecond, Settle: 100 * time.Millisecond, Say: func(format string, args ...any) { v.said = append(v.said, fmt.Sprintf(format, args...)) }}
	return v
}

// resources reads "cpu=1,memory=1Gi" of requests and limits.
func resources(requests, limits string) (out corev1.ResourceRequirements) {
	list := func(text string) (out corev1.ResourceList) {
		for one := range strings.SplitSeq(text, ",") {
			if name, amount, is := strings.Cut(one, "="); is {
				if out == nil {
					out = corev1.ResourceList{}
				}
				out[corev1.ResourceName(name)] = resource.MustParse(amount)
			}
		}
		return out
	}
	return corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
}

// deployment makes one, its ReplicaSet, and an autoscaler of a policy's for it.
func (v *reverting) deployment(namespace, name string, r corev1.ResourceRequirements, sized bool, annotations map[string]string) {
	v.t.Helper()
	labels, yes := map[string]string{"app": name}, true
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Resources: r}}}}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	d, err := v.Client.AppsV1().Deployments(namespace).Create(v.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	if v.sets[namespace+"/"+name], err = v.Client.AppsV1().ReplicaSets(namespace).Create(v.t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-1", Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: d.UID, Controller: &yes}}},
		Spec:       appsv1.ReplicaSetSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{}); err != nil {
		v.t.Fatal(err)
	}
	marks := map[string]any{}
	if sized {
		marks[rightsizing.AnnotationSized] = "true"
	}
	if _, err := v.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(namespace).Create(v.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler",
		"metadata": map[string]any{"name": "deployment-" + name, "labels": map[string]any{rightsizing.LabelPolicy: "main"}, "annotations": marks},
		"spec":     map[string]any{"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": name}, "updatePolicy": map[string]any{"updateMode": "Off"}},
	}}, metav1.CreateOptions{}); err != nil {
		v.t.Fatal(err)
	}
}

// pod makes one of a Deployment, as somebody's webhook left it.
func (v *reverting) pod(namespace, of, name string, r corev1.ResourceRequirements, annotations map[string]string) {
	v.t.Helper()
	set, yes := v.sets[namespace+"/"+of], true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set.Labels, Annotations: annotations, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set.Name, UID: set.UID, Controller: &yes}}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Resources: r}}},
	}
	made, err := v.Client.CoreV1().Pods(namespace).Create(v.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	made.Status.Phase = corev1.PodRunning
	if _, err := v.Client.CoreV1().Pods(namespace).UpdateStatus(v.t.Context(), made, metav1.UpdateOptions{}); err != nil {
		v.t.Fatal(err)
	}
}

// sized resizes a pod, as the updater.
func (v *reverting) sized(namespace, name, resources string) {
	v.t.Helper()
	body := `{"spec":{"containers":[{"name":"web","resources":` + resources + `}]}}`
	if _, err := v.updater.CoreV1().Pods(namespace).Patch(v.t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "resize"); err != nil {
		v.t.Fatal(err)
	}
}

// has is what a pod's container has: requests, then limits.
func (v *reverting) has(namespace, name string) string {
	v.t.Helper()
	p, err := v.Client.CoreV1().Pods(namespace).Get(v.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	text := func(l corev1.ResourceList) string {
		var out []string
		for _, name := range []corev1.ResourceName{"cpu", "memory"} {
			if q, is := l[name]; is {
				out = append(out, q.String())
			}
		}
		return strings.Join(out, "+")
	}
	r := p.Spec.Containers[0].Resources
	return text(r.Requests) + "/" + text(r.Limits)
}

func TestRevert(t *testing.T) {
	v := newReverting(t)

	t.Run("what others add to a template stays", func(t *testing.T) {
		if _, err := v.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ranged"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Client.CoreV1().LimitRanges("ranged").Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "defaults"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, DefaultRequest: resources("cpu=100m,memory=64Mi", "").Requests, Default: resources("cpu=400m,memory=128Mi", "").Requests,
		}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		v.deployment("ranged", "bare", corev1.ResourceRequirements{}, true, nil)
		v.deployment("default", "limits", resources("", "cpu=1,memory=1Gi"), true, nil)
		v.deployment("default", "cpu", resources("cpu=1", ""), true, nil)
		v.deployment("default", "ours", resources("cpu=1", ""), true, nil)
		cases := []struct {
			namespace, of, pod string
			made               corev1.ResourceRequirements
			annotations        map[string]string
			sized              string
			want, why          string
		}{
			{"ranged", "bare", "untouched", corev1.ResourceRequirements{}, nil, "", "100m+64Mi/400m+128Mi", "the LimitRange's defaults"},
			{"ranged", "bare", "sized", corev1.ResourceRequirements{}, nil, `{"requests":{"cpu":"200m"},"limits":{"cpu":"800m"}}`, "100m+64Mi/400m+128Mi", "the LimitRange's defaults are what a new pod has"},
			{"default", "limits", "limited", resources("", "cpu=1,memory=1Gi"), nil, `{"requests":{"cpu":"500m","memory":"2Gi"},"limits":{"cpu":"500m","memory":"2Gi"}}`, "1+1Gi/1+1Gi", "a limit alone is a request, too"},
			{"default", "cpu", "webhook", resources("cpu=500m,memory=1Gi", "memory=2Gi"), nil, "", "1+1Gi/2Gi", "somebody's webhook gave it memory, and nobody can take that from a pod that runs"},
			{"default", "ours", "born", resources("cpu=500m,memory=1Gi", ""), map[string]string{"vpaUpdates": "Pod resources updated by deployment-ours: container 0: cpu request, memory request"}, "", "1+1Gi/", "our webhook gave it memory"},
			{"default", "ours", "resized", resources("cpu=1", ""), nil, `{"requests":{"memory":"1Gi"}}`, "1+1Gi/", "the updater gave it memory"},
		}
		for _, c := range cases {
			v.pod(c.namespace, c.of, c.pod, c.made, c.annotations)
			if c.sized != "" {
				v.sized(c.namespace, c.pod, c.sized)
			}
		}
		done, err := policy.Revert(t.Context(), v.deps, policy.Request{Workloads: []string{"ranged/Deployment/bare", "default/Deployment/limits", "default/Deployment/cpu", "default/Deployment/ours"}, By: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			if has := v.has(c.namespace, c.pod); has != c.want {
				t.Errorf("%s: it has %s, want %s: %s", c.pod, has, c.want, c.why)
			}
		}
		if why := done.Restart["default/Deployment/ours"]; len(done.Restart) != 1 || !strings.Contains(why, "memory") || done.Pods != 4 {
			t.Errorf("%+v: only the pods that we gave memory that their template does not request have to be replaced", done)
		}
	})
	t.Run("pods that are not ours stay", func(t *testing.T) {
		v.said = nil
		v.deps.Elsewhere = func(_, _, _ string, objects ...metav1.Object) (string, error) {
			who, _ := foreign.Marked(objects...)
			return who, nil
		}
		v.deployment("default", "watched", resources("cpu=1", ""), false, nil)
		v.deployment("default", "storm", resources("cpu=1", ""), true, map[string]string{"live.stormforge.io/auto-deploy": "Enabled"})
		v.deployment("default", "cast", resources("cpu=1", ""), true, nil)
		v.deployment("default", "mine", resources("cpu=1", ""), true, nil)
		v.pod("default", "cast", "cast-b", resources("cpu=500m", ""), map[string]string{"autoscaling.cast.ai/vertical-recommendation-hash": "12ab"})
		var names []string
		for _, name := range []string{"watched", "storm", "cast", "mine"} {
			v.pod("default", name, name+"-a", resources("cpu=500m", ""), nil)
			names = append(names, "default/Deployment/"+name)
		}
		done, err := policy.Revert(t.Context(), v.deps, policy.Request{Workloads: names, By: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"watched-a": "500m/", "storm-a": "500m/", "cast-a": "500m/", "cast-b": "500m/", "mine-a": "1/"} {
			if has := v.has("default", name); has != want {
				t.Errorf("%s has %s, want %s", name, has, want)
			}
		}
		for _, want := range []string{"default/Deployment/watched: its pods are left as they are: no policy ever sized them", "default/Deployment/storm: its pods are left as they are: StormForge", "default/Deployment/cast: its pods are left as they are: CAST AI"} {
			if !slices.ContainsFunc(v.said, func(line string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("nobody said %q: %q", want, v.said)
			}
		}
		if done.Autoscalers != 4 || done.Pods != 1 || len(done.Left) != 3 || len(done.Restart) != 0 {
			t.Errorf("%+v", done)
		}
		v.deps.Elsewhere = func(string, string, string, ...metav1.Object) (string, error) {
			return "", errors.New("they were not listed yet")
		}
		if _, err := policy.Revert(t.Context(), v.deps, policy.Request{Workloads: names[3:], By: "ana"}); err == nil || !strings.Contains(err.Error(), "default/Deployment/mine: they were not listed yet") {
			t.Errorf("it is not known who else sizes it: %v", err)
		}
		v.deps.Elsewhere = nil
	})
	t.Run("targets are given back with the pods", func(t *testing.T) {
		horizontal := func(name string, percent int32, annotation string) {
			t.Helper()
			h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				MaxReplicas: 5, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
				Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}},
			}}
			if annotation != "" {
				h.Annotations = map[string]string{rightsizing.AnnotationTargets: annotation}
			}
			if _, err := v.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(t.Context(), h, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		target := func(name string) (percent int32, marked bool) {
			t.Helper()
			h, err := v.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, marked = h.Annotations[rightsizing.AnnotationTargets]
			return *h.Spec.Metrics[0].Resource.Target.AverageUtilization, marked
		}
		written, err := json.Marshal(rightsizing.Targets{"cpu": {Percent: 80, Written: 160}})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"scaled", "besides"} {
			v.deployment("default", name, resources("cpu=1", ""), true, nil)
			v.pod("default", name, name+"-a", resources("cpu=500m", ""), nil)
			horizontal(name, 160, string(written))
		}
		horizontal("orphan", 160, string(written)) // whose autoscaler is gone
		horizontal("untouched", 160, "")
		v.said = nil
		done, err := policy.Revert(t.Context(), v.deps, policy.Request{Workloads: []string{"default/Deployment/scaled"}, By: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		if percent, marked := target("scaled"); percent != 80 || marked || done.Targets != 1 || v.has("default", "scaled-a") != "1/" {
			t.Errorf("its target is %d, marked: %t; %+v", percent, marked, done)
		}
		if !slices.ContainsFunc(v.said, func(line string) bool { return strings.Contains(line, "HorizontalPodAutoscaler scaled") }) {
			t.Errorf("nobody said so: %q", v.said)
		}
		if percent, marked := target("besides"); percent != 160 || !marked {
			t.Errorf("that of another workload is %d, marked: %t", percent, marked)
		}
		if done, err = policy.Revert(t.Context(), v.deps, policy.Request{All: true, By: "ana"}); err != nil || done.Targets != 2 {
			t.Errorf("%+v, %v", done, err)
		}
		for name, want := range map[string]int32{"scaled": 80, "besides": 80, "orphan": 80, "untouched": 160} {
			if percent, marked := target(name); percent != want || marked {
				t.Errorf("%s: its target is %d, want %d; marked: %t", name, percent, want, marked)
			}
		}
	})

	t.Run("nor does letting go touch them", func(t *testing.T) {
		v.deployment("default", "gone", resources("cpu=1", ""), true, nil)
		v.pod("default", "gone", "gone-a", resources("cpu=500m", ""), nil)
		v.deployment("default", "marked", resources("cpu=1", ""), true, nil)
		v.pod("default", "marked", "marked-a", resources("cpu=500m", ""), map[string]string{"autoscaling.cast.ai/vertical-recommendation-hash": "12ab"})
		ctx, cancel := context.WithCancel(t.Context())
		controller, err := policy.New(policy.Deps{
			Kube: v.As("policy"), Who: agent.Identity{Component: "vpa-policy", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "test"}, Every: time.Second, Settle: time.Second,
			Elsewhere: func(_, _, _ string, object metav1.Object) (is, known bool) {
				_, is = foreign.Marked(object)
				return is, true
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() {
			if err := controller.Run(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
		defer group.Wait()
		defer cancel()
		there := func(name string) bool {
			_, err := v.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default").Get(ctx, "deployment-"+name, metav1.GetOptions{})
			return err == nil
		}
		vpatest.Eventually(t, "both are let go", 30*time.Second, func() bool { return !there("gone") && !there("marked") })
		if gone, marked := v.has("default", "gone-a"), v.has("default", "marked-a"); gone != "1/" || marked != "500m/" {
			t.Errorf("ours has %s, want 1; that of somebody else, by a mark on the pod, %s, want 500m", gone, marked)
		}
	})
}
