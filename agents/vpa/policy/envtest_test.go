package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/policy"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

func TestAgainstKubernetes(t *testing.T) {
	c := vpatest.New(t, vpatest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	controller, err := policy.New(policy.Deps{
		Kube: c.As("policy"), Who: agent.Identity{Component: "vpa-policy", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "test"}, Candidate: "one", Lease: "nops-vpa-policy", Every: time.Second, Settle: time.Second,
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

	labels := map[string]string{"app": "web"}
	requests := func(cpu, memory string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Resources: requests("1", "1Gi")}}}}
	replicas := int32(2)
	deployment, err := c.Client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: labels}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	set, err := c.Client.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: deployment.UID, Controller: &yes}}},
		Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods := c.Client.CoreV1().Pods("default")
	pod := func(name string, r corev1.ResourceRequirements) {
		t.Helper()
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: set.UID, Controller: &yes}}}, Spec: template.Spec}
		p.Spec.Containers = []corev1.Container{{Name: "web", Image: "web", Resources: r}}
		made, err := pods.Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made.Status.Phase = corev1.PodRunning
		if _, err := pods.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	policies, vpas := c.Dynamic.Resource(rightsizing.Policies()), c.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default")
	write := func(name string, spec map[string]any) {
		t.Helper()
		body, _ := json.Marshal(map[string]any{"apiVersion": "vpa.nops.io/v1alpha1", "kind": "RightsizingPolicy", "metadata": map[string]any{"name": name}, "spec": spec})
		force := true
		if _, err := policies.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "person", Force: &force, FieldValidation: "Strict"}); err != nil {
			t.Fatal(err)
		}
	}
	autoscaler := func() *unstructured.Unstructured {
		o, err := vpas.Get(ctx, "deployment-web", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return o
	}
	mode := func() string {
		o := autoscaler()
		if o == nil {
			return ""
		}
		m, _, _ := unstructured.NestedString(o.Object, "spec", "updatePolicy", "updateMode")
		return m
	}
	status := func(name string) (s rightsizing.PolicyStatus) {
		o, err := policies.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return s
		}
		body, _ := json.Marshal(o.Object["status"])
		_ = json.Unmarshal(body, &s)
		return s
	}

	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align", "containers": []any{map[string]any{"name": "*", "min": map[string]any{"cpu": "50m"}, "max": map[string]any{"memory": "4Gi"}}}})
	vpatest.Eventually(t, "the policy makes an autoscaler", 30*time.Second, func() bool { return mode() == "InPlace" })
	vpatest.Eventually(t, "the policy says how many", 10*time.Second, func() bool {
		s := status("main")
		return s.Workloads == 1 && len(s.Conditions) == 1 && s.Conditions[0].Reason == "Applied"
	})
	o := autoscaler()
	if owners := o.GetOwnerReferences(); len(owners) != 0 || o.GetLabels()[rightsizing.LabelPolicy] != "main" {
		t.Errorf("owned by %v, of policy %q: with an owner it would be gone together with it, and sized pods would stay", owners, o.GetLabels()[rightsizing.LabelPolicy])
	}
	if e, err := rightsizing.EffectiveOf(o.GetAnnotations()); err != nil || e == nil || e.Policy != "main" || e.Level != rightsizing.BalancedSavings {
		t.Errorf("settings: %+v, %v", e, err)
	}
	bounds, _, _ := unstructured.NestedSlice(o.Object, "spec", "resourcePolicy", "containerPolicies")
	if diff := cmp.Diff([]any{map[string]any{"containerName": "*", "minAllowed": map[string]any{"cpu": "50m"}, "maxAllowed": map[string]any{"memory": "4Gi"}}}, bounds); diff != "" {
		t.Errorf("bounds (-want +got):\n%s", diff)
	}
	// Nothing is written again while nothing changes.
	version := o.GetResourceVersion()
	time.Sleep(3 * time.Second)
	if now := autoscaler().GetResourceVersion(); now != version {
		t.Errorf("the autoscaler is written again and again: %s, %s", version, now)
	}

	// What the definition can tell is refused. What it cannot is in the way of nothing else, the kill switch least of all.
	for field, value := range map[string]any{"observation": "3d", "cooldown": "-1h", "selector": map[string]any{"matchLabels": map[string]any{"app": int64(1)}}} {
		bad := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "vpa.nops.io/v1alpha1", "kind": "RightsizingPolicy", "metadata": map[string]any{"name": "bad"}, "spec": map[string]any{"level": "BalancedSavings", field: value}}}
		if _, err := policies.Create(ctx, bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec."+field) {
			t.Errorf("%s: %v is let in, or for another reason not: %v", field, value, err)
		}
	}
	write("unreadable", map[string]any{"level": "BalancedSavings", "priority": 9, "observation": "99999999999h", "selector": map[string]any{"matchLabels": labels}})
	vpatest.Eventually(t, "it says what cannot be read", 10*time.Second, func() bool {
		s := status("unreadable")
		return len(s.Conditions) == 1 && s.Conditions[0].Reason == "Invalid" && strings.Contains(s.Conditions[0].Message, "spec.observation")
	})
	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align", "paused": true})
	vpatest.Eventually(t, "the kill switch turns it off", 10*time.Second, func() bool { return mode() == "Off" && status("main").Conditions[0].Reason == "Paused" })
	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align"})
	vpatest.Eventually(t, "and on", 10*time.Second, func() bool { return mode() == "InPlace" })

	// A policy that the API server lets in and that cannot be understood.
	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align", "windows": []any{map[string]any{"schedule": "0 25 * * *", "duration": "1h"}}})
	vpatest.Eventually(t, "it says what is wrong", 10*time.Second, func() bool {
		s := status("main")
		return s.Conditions[0].Reason == "Invalid" && strings.Contains(s.Conditions[0].Message, "0 25")
	})
	if mode() != "InPlace" {
		t.Errorf("what it made before changed: %s", mode())
	}
	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align", "paused": true, "windows": []any{map[string]any{"schedule": "0 25 * * *", "duration": "1h"}}})
	vpatest.Eventually(t, "its kill switch works all the same", 10*time.Second, func() bool { return mode() == "Off" })
	write("main", map[string]any{"level": "BalancedSavings", "hpa": "Align"})

	t.Run("targets of horizontal autoscalers follow", func(t *testing.T) {
		percent := int32(80)
		hpas := c.Client.AutoscalingV2().HorizontalPodAutoscalers("default")
		if _, err := hpas.Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 5, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pod("web-a", requests("500m", "1Gi"))
		pod("web-b", requests("500m", "1Gi"))
		target := func() int32 {
			h, err := hpas.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return *h.Spec.Metrics[0].Resource.Target.AverageUtilization
		}
		vpatest.Eventually(t, "the target doubles as requests halve", 20*time.Second, func() bool { return target() == 160 })
		vpatest.Eventually(t, "the settings say so", 10*time.Second, func() bool {
			e, err := rightsizing.EffectiveOf(autoscaler().GetAnnotations())
			return err == nil && len(e.Align) == 1 && e.Align[0] == "cpu" && len(e.Yield) == 0
		})
		write("main", map[string]any{"level": "BalancedSavings"})
		vpatest.Eventually(t, "it is left to it", 20*time.Second, func() bool {
			e, err := rightsizing.EffectiveOf(autoscaler().GetAnnotations())
			return err == nil && len(e.Yield) == 1
		})
		for i, name := range []string{"web-a", "web-b"} {
			if now := target(); now != []int32{160, 107}[i] {
				t.Errorf("%d of 2 pods have their template's requests, and its target is %d: it scales at another usage", i, now)
			}
			if _, err := pods.Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"web","resources":{"requests":{"cpu":"1"}}}]}}`), metav1.PatchOptions{}, "resize"); err != nil {
				t.Fatal(err)
			}
			vpatest.Eventually(t, "its target follows on the way back", 20*time.Second, func() bool { return target() == []int32{107, 80}[i] })
		}
		vpatest.Eventually(t, "and is its own again", 20*time.Second, func() bool {
			h, err := hpas.Get(ctx, "web", metav1.GetOptions{})
			return err == nil && h.Annotations[rightsizing.AnnotationTargets] == ""
		})
	})

	t.Run("let go", func(t *testing.T) {
		given := func(name, cpu string) {
			t.Helper()
			body := fmt.Sprintf(`{"spec":{"containers":[{"name":"web","resources":{"requests":{"cpu":%q}}}]}}`, cpu)
			if _, err := pods.Patch(ctx, name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "resize"); err != nil {
				t.Fatal(err)
			}
		}
		has := func(name string) string {
			p, err := pods.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return p.Spec.Containers[0].Resources.Requests.Cpu().String()
		}
		annotate := func(value string) {
			t.Helper()
			body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, rightsizing.AnnotationOff, value)
			if _, err := c.Client.AppsV1().Deployments("default").Patch(ctx, "web", types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		told := func(reason string) bool {
			events, err := c.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason})
			return err == nil && len(events.Items) > 0 && events.Items[0].InvolvedObject.Name == "web"
		}
		sized := func() bool {
			o := autoscaler()
			return o != nil && o.GetAnnotations()[rightsizing.AnnotationSized] == "true"
		}
		again := func() {
			t.Helper()
			write("main", map[string]any{"level": "BalancedSavings"})
			vpatest.Eventually(t, "it is sized again", 20*time.Second, func() bool {
				return mode() == "InPlace" && sized() && autoscaler().GetAnnotations()[rightsizing.AnnotationLeaving] == ""
			})
			given("web-a", "500m")
			given("web-b", "500m")
		}
		back := func() bool { return has("web-a") == "1" && has("web-b") == "1" }

		again()
		write("main", map[string]any{"level": "BalancedSavings", "paused": true})
		vpatest.Eventually(t, "it is paused", 10*time.Second, func() bool { return mode() == "Off" })
		annotate(`"true"`)
		time.Sleep(3 * time.Second)
		if back() || !sized() {
			t.Error("a paused policy took its pods back, or let its autoscaler go")
		}
		write("main", map[string]any{"level": "BalancedSavings"})
		vpatest.Eventually(t, "annotated: pods are given back, then the autoscaler goes", 20*time.Second, func() bool { return back() && autoscaler() == nil })
		vpatest.Eventually(t, "an Event says so", 10*time.Second, func() bool { return told("TakenBack") })
		annotate("null")

		again()
		write("main", map[string]any{"level": "BalancedSavings", "dryRun": true})
		vpatest.Eventually(t, "recommended only: pods are given back, and the autoscaler stays", 20*time.Second, func() bool { return back() && mode() == "Off" && !sized() && status("main").Leaving == 0 })

		again()
		write("main", map[string]any{"level": "BalancedSavings", "selector": map[string]any{"matchLabels": map[string]any{"app": "other"}}})
		vpatest.Eventually(t, "selected no more", 20*time.Second, func() bool { return back() && autoscaler() == nil })

		// One of its pods cannot be resized: its class of service would change.
		again()
		pod("web-x", corev1.ResourceRequirements{})
		if err := policies.Delete(ctx, "main", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "its policy is gone: what can be given back is, and the rest is told", 20*time.Second, func() bool { return back() && told("NotTakenBack") })
		if o := autoscaler(); o == nil || o.GetAnnotations()[rightsizing.AnnotationLeaving] == "" || mode() != "Off" {
			t.Errorf("nothing says any more that a pod was sized: %v", o)
		}
		write("main", map[string]any{"level": "BalancedSavings", "selector": map[string]any{"matchLabels": map[string]any{"app": "other"}}})
		vpatest.Eventually(t, "the policy says so, once it is there again", 20*time.Second, func() bool {
			s := status("main")
			return s.Leaving == 1 && len(s.Conditions) == 2 && s.Conditions[1].Reason == "PodsKeep" && strings.Contains(s.Conditions[1].Message, "default/Deployment/web: 1 of its pods")
		})
		if err := pods.Delete(ctx, "web-x", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		again()
		write("main", map[string]any{"level": "BalancedSavings"})
	})

	t.Run("revert", func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		deps := policy.RevertDeps{Kube: c.As("policy"), UserAgent: "test", Every: 100 * time.Millisecond, Settle: 100 * time.Millisecond, Say: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprintf(format, args...))
		}}
		if _, err := policy.Revert(ctx, deps, policy.Request{Workloads: []string{"default/Deployment/nobody"}, By: "ana"}); err == nil || !strings.Contains(err.Error(), "default/Deployment/nobody") {
			t.Errorf("a workload without autoscaler: %v", err)
		}
		// web-c was made without requests by a webhook of somebody's: its class of service cannot change while it runs.
		pod("web-c", corev1.ResourceRequirements{})
		done, err := policy.Revert(ctx, deps, policy.Request{All: true, By: "ana"})
		if err != nil {
			t.Fatal(err)
		}
		if done.Autoscalers != 1 || done.Pods != 2 || !strings.Contains(done.Restart["default/Deployment/web"], "QOS") && !strings.Contains(strings.ToLower(done.Restart["default/Deployment/web"]), "qos") {
			t.Errorf("%+v", done)
		}
		for _, name := range []string{"web-a", "web-b"} {
			p, err := pods.Get(ctx, name, metav1.GetOptions{})
			if err != nil || p.Spec.Containers[0].Resources.Requests.Cpu().String() != "1" {
				t.Errorf("%s: %v, %v", name, p.Spec.Containers[0].Resources, err)
			}
		}
		vpatest.Eventually(t, "the policy makes nothing of it any more", 10*time.Second, func() bool {
			return mode() == "Off" && autoscaler().GetAnnotations()[rightsizing.AnnotationRevertedBy] == "ana" && status("main").Conditions[0].Reason == "Paused"
		})
		if again, err := policy.Revert(ctx, deps, policy.Request{All: true, By: "ana"}); err != nil || again.Pods != 2 {
			t.Errorf("a second time: %+v, %v", again, err)
		}
	})

	t.Run("what was reverted is left alone until its mark is gone", func(t *testing.T) {
		if err := pods.Delete(ctx, "web-c", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil { // the one that could not be given back
			t.Fatal(err)
		}
		if err := policies.Delete(ctx, "main", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "its pods are looked at when its policy goes", 20*time.Second, func() bool {
			o := autoscaler()
			return o != nil && o.GetAnnotations()[rightsizing.AnnotationSized] == ""
		})
		write("main", map[string]any{"level": "BalancedSavings"})
		vpatest.Eventually(t, "a policy of that name comes again", 10*time.Second, func() bool { return status("main").Workloads == 1 })
		if o := autoscaler(); o == nil || mode() != "Off" || o.GetAnnotations()[rightsizing.AnnotationRevertedBy] != "ana" {
			t.Fatalf("it is sized by the next policy, and nobody wanted that: %v", o)
		}
		if _, err := vpas.Patch(ctx, "deployment-web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+rightsizing.AnnotationReverted+`":null}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "somebody takes the mark away", 10*time.Second, func() bool { return mode() == "InPlace" })
		if err := policies.Delete(ctx, "main", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	vpatest.Eventually(t, "without its policy the autoscaler goes", 20*time.Second, func() bool { return autoscaler() == nil })
}

// The Kubernetes VPA's autoscalers are copied in mode Off, and handed over: to a policy, or to the copy.
func TestImport(t *testing.T) {
	c := vpatest.New(t, vpatest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	definitions := c.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	ours, theirs := c.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default"), c.Dynamic.Resource(rightsizing.UpstreamAutoscalers()).Namespace("default")
	if _, err := policy.Import(ctx, c.As("policy"), "test", nil, true, func(string, ...any) {}); err == nil || !strings.Contains(err.Error(), "nothing to import") {
		t.Errorf("without the Kubernetes VPA: %v", err)
	}
	definition, err := definitions.Get(ctx, rightsizing.Autoscalers().GroupResource().String(), metav1.GetOptions{}) // which is theirs, but for the group
	if err != nil {
		t.Fatal(err)
	}
	definition.Object["metadata"] = map[string]any{"name": rightsizing.UpstreamAutoscalers().GroupResource().String(), "annotations": map[string]any{"api-approved.kubernetes.io": "unapproved"}}
	delete(definition.Object, "status")
	if err := unstructured.SetNestedField(definition.Object, rightsizing.UpstreamGroup, "spec", "group"); err != nil {
		t.Fatal(err)
	}
	if _, err := definitions.Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(in dynamic.ResourceInterface, group, name string, annotations map[string]string, spec map[string]any) {
		t.Helper()
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": name}, "spec": spec}}
		u.SetAnnotations(annotations)
		vpatest.Eventually(t, "made: "+name, 20*time.Second, func() bool {
			_, err := in.Create(ctx, u.DeepCopy(), metav1.CreateOptions{FieldValidation: "Strict"})
			return err == nil
		})
	}
	target := func(kind, name string) map[string]any {
		return map[string]any{"apiVersion": "apps/v1", "kind": kind, "name": name}
	}
	bounds := map[string]any{"containerPolicies": []any{map[string]any{"containerName": "*", "minAllowed": map[string]any{"cpu": "50m"}, "controlledValues": "RequestsOnly"}}}
	const whole = "vpa-post-processor.kubernetes.io/main_integerCPU"
	create(theirs, rightsizing.UpstreamGroup, "web", map[string]string{whole: "true", "team": "shop"}, map[string]any{
		"targetRef": target("Deployment", "web"), "updatePolicy": map[string]any{"updateMode": "Initial", "minReplicas": int64(3)}, "resourcePolicy": bounds, "recommenders": []any{map[string]any{"name": "theirs"}},
	})
	create(theirs, rightsizing.UpstreamGroup, "statefulset-db", nil, map[string]any{"targetRef": target("StatefulSet", "db")}) // the name of a policy's
	create(theirs, rightsizing.UpstreamGroup, "taken", nil, map[string]any{"targetRef": target("Deployment", "other")})
	create(theirs, rightsizing.UpstreamGroup, "later", nil, map[string]any{"targetRef": target("Deployment", "later"), "updatePolicy": map[string]any{"updateMode": "Recreate"}})
	create(ours, rightsizing.Group, "taken", nil, map[string]any{"targetRef": target("Deployment", "mine"), "updatePolicy": map[string]any{"updateMode": "InPlace"}})
	get := func(name string) *unstructured.Unstructured {
		u, err := ours.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return &unstructured.Unstructured{}
		}
		return u
	}
	mode := func(name string) string {
		text, _, _ := unstructured.NestedString(get(name).Object, "spec", "updatePolicy", "updateMode")
		return text
	}

	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	done, err := policy.Import(ctx, c.As("policy"), "test", []string{"default/web", "default/statefulset-db", "default/taken"}, false, say)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(policy.Imported{Copied: []string{"default/statefulset-db", "default/web"}, There: []string{"default/taken"}}, done); diff != "" || len(said) != 3 {
		t.Errorf("(-want +got):\n%s\n%q", diff, said)
	}
	for name, want := range map[string]map[string]any{
		"web":            {"targetRef": target("Deployment", "web"), "updatePolicy": map[string]any{"updateMode": "Off", "minReplicas": int64(3)}, "resourcePolicy": bounds},
		"statefulset-db": {"targetRef": target("StatefulSet", "db"), "updatePolicy": map[string]any{"updateMode": "Off"}},
		"taken":          {"targetRef": target("Deployment", "mine"), "updatePolicy": map[string]any{"updateMode": "InPlace"}},
		"later":          nil,
	} {
		spec, _, _ := unstructured.NestedMap(get(name).Object, "spec")
		if diff := cmp.Diff(want, spec); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(map[string]string{rightsizing.AnnotationImported: "default/web", whole: "true"}, get("web").GetAnnotations()); diff != "" || len(get("web").GetLabels()) != 0 {
		t.Errorf("annotations (-want +got):\n%s\nlabels %v", diff, get("web").GetLabels())
	}
	if done, err = policy.Import(ctx, c.As("policy"), "test", nil, true, say); err != nil || len(done.Copied) != 1 || len(done.There) != 3 || mode("later") != "Off" {
		t.Errorf("all, a second time: %+v, %v; later is in mode %q", done, err, mode("later"))
	}
	if _, err := policy.Import(ctx, c.As("policy"), "test", []string{"default/nobody"}, false, say); err == nil || !strings.Contains(err.Error(), "default/nobody") {
		t.Errorf("one that is not there: %v", err)
	}

	labels := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "main"}}}}
	if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.AppsV1().StatefulSets("default").Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controller, err := policy.New(policy.Deps{
		Kube: c.As("policy"), Who: agent.Identity{Component: "vpa-policy", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "test"}, Every: time.Second, Settle: time.Second,
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
	everything := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "vpa.nops.io/v1alpha1", "kind": "RightsizingPolicy", "metadata": map[string]any{"name": "everything"}, "spec": map[string]any{"level": "BalancedSavings"}}}
	if _, err := c.Dynamic.Resource(rightsizing.Policies()).Create(ctx, everything, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	vpatest.Eventually(t, "a policy takes over, beside the copies", 30*time.Second, func() bool { return mode("deployment-web") == "InPlace" && mode("nops-statefulset-db") == "InPlace" })
	if web, db := mode("web"), mode("statefulset-db"); web != "Off" || db != "Off" {
		t.Errorf("the copies are in mode %s and %s", web, db)
	}
	if _, err := ours.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"updatePolicy":{"updateMode":"InPlace"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	vpatest.Eventually(t, "a copy takes over from it once it is turned on", 20*time.Second, func() bool { return mode("deployment-web") == "" && mode("web") == "InPlace" })
}
