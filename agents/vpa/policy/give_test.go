package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// flock are workloads whose pods a revert gives back, on API servers that remember what was asked.
type flock struct {
	*reverter

	t       *testing.T
	kube    *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	now     time.Time
	said    []string
}

func newFlock(t *testing.T) *flock {
	t.Helper()
	f := &flock{t: t, kube: fake.NewClientset(), now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	f.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{rightsizing.Autoscalers(): "VerticalPodAutoscalerList", rightsizing.Policies(): "RightsizingPolicyList"})
	f.reverter = &reverter{RevertDeps: RevertDeps{
		Now: func() time.Time { f.now = f.now.Add(time.Second); return f.now }, Every: time.Millisecond, Settle: time.Millisecond,
		Say: func(format string, args ...any) { f.said = append(f.said, fmt.Sprintf(format, args...)) },
	}, kube: f.kube, dynamic: f.dynamic}
	return f
}

func (f *flock) add(o runtime.Object) {
	f.t.Helper()
	if err := f.kube.Tracker().Add(o); err != nil {
		f.t.Fatal(err)
	}
}

// autoscaler adds one that sizes a workload in the namespace shop.
func (f *flock) autoscaler(kind, name string, edit func(*unstructured.Unstructured)) {
	f.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": rightsizing.Group + "/" + rightsizing.Version, "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"namespace": "shop", "name": Name(kind, name)},
		"spec": map[string]any{"targetRef": map[string]any{"kind": kind, "name": name}, "updatePolicy": map[string]any{"updateMode": "InPlace"}},
	}}
	if edit != nil {
		edit(u)
	}
	if err := f.dynamic.Tracker().Create(rightsizing.Autoscalers(), u, "shop"); err != nil {
		f.t.Fatal(err)
	}
}

// controlled is an object that another one controls.
func controlled(name, app, kind, by string) metav1.ObjectMeta {
	yes := true
	o := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}
	if kind != "" {
		o.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: by, UID: types.UID(by), Controller: &yes}}
	}
	return o
}

// spec is that of a pod with one container. Resources are as in "cpu=1,memory=1Gi".
func spec(requests, limits string) corev1.PodSpec {
	list := func(text string) corev1.ResourceList {
		out := corev1.ResourceList{}
		for one := range strings.SplitSeq(text, ",") {
			if name, amount, is := strings.Cut(one, "="); is {
				out[corev1.ResourceName(name)] = resource.MustParse(amount)
			}
		}
		return out
	}
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}}}
}

// deployment adds one with a ReplicaSet, an autoscaler, and one pod, called after it, that was sized.
func (f *flock) deployment(name string, template, sized corev1.PodSpec, edit func(*corev1.Pod)) {
	f.t.Helper()
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	f.add(&appsv1.Deployment{ObjectMeta: controlled(name, name, "", ""), Spec: appsv1.DeploymentSpec{Selector: selector, Template: corev1.PodTemplateSpec{Spec: template}}})
	f.add(&appsv1.ReplicaSet{ObjectMeta: controlled(name+"-1", name, "Deployment", name), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: corev1.PodTemplateSpec{Spec: template}}})
	p := &corev1.Pod{ObjectMeta: controlled(name+"-pod", name, "ReplicaSet", name+"-1"), Spec: sized, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if edit != nil {
		edit(p)
	}
	f.add(p)
	f.autoscaler("Deployment", name, nil)
}

// has are the requests and limits of a pod.
func (f *flock) has(pod string) string {
	f.t.Helper()
	p, err := f.kube.CoreV1().Pods("shop").Get(f.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
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

// revert takes all back, and says how many pods were resized and what else was asked.
func (f *flock) revert(ctx context.Context) (out Reverted, resized, others int, err error) {
	f.t.Helper()
	f.kube.ClearActions()
	out, err = f.run(ctx, Request{All: true, By: "ana"})
	for _, a := range f.kube.Actions() {
		if a.GetVerb() == "patch" && a.GetSubresource() == "resize" {
			resized++
		} else {
			others++
		}
	}
	return out, resized, others, err
}

// Thousands are given back before a Job is out of time, and what it did not reach then comes first in the next run: what is done takes no request.
func TestManyAreReverted(t *testing.T) {
	kube, _, err := clients(&rest.Config{Host: "https://localhost"}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if qps := kube.CoreV1().RESTClient().GetRateLimiter().QPS(); qps < 50 {
		t.Errorf("%.0f requests a second", qps)
	}

	f := newFlock(t)
	const many, first = 60, 20
	for i := range many {
		f.deployment(fmt.Sprintf("w%02d", i), spec("cpu=1", ""), spec("cpu=500m", ""), nil)
	}
	ctx, timeout := context.WithCancel(t.Context())
	defer timeout()
	n := 0
	f.kube.PrependReactor("patch", "pods", func(ktesting.Action) (bool, runtime.Object, error) {
		if n++; n == first {
			timeout()
		}
		return false, nil, nil
	})
	out, resized, _, err := f.revert(ctx)
	if want := fmt.Sprintf("%d of %d workloads were not reached", many-first, many); err == nil || !strings.Contains(err.Error(), want) || resized != first || len(strings.Split(err.Error(), "\n")) != 1 {
		t.Errorf("out of time after %d: %d were resized, %v; want: %s", first, resized, err, want)
	}
	if out.Autoscalers != many {
		t.Errorf("%d of %d are left alone", out.Autoscalers, many)
	}
	out, resized, others, err := f.revert(t.Context())
	if err != nil || resized != many-first || out.Pods != many || len(out.Restart)+len(out.Left) != 0 {
		t.Errorf("the next run: %d were resized, %+v, %v", resized, out, err)
	}
	if others > 10 {
		t.Errorf("%d requests besides, for %d workloads of one namespace", others, many)
	}
	for i := range many {
		if has := f.has(fmt.Sprintf("w%02d-pod", i)); has != "1/" {
			t.Errorf("w%02d has %s", i, has)
		}
	}
	f.autoscaler("ReplicationController", "old", nil)
	f.kube.PrependReactor("list", "replicationcontrollers", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "replicationcontrollers"}, "", nil)
	})
	if out, _, _, err = f.revert(t.Context()); err == nil || !strings.Contains(err.Error(), "list each ReplicationController") || !strings.Contains(err.Error(), "1 of 61 workloads") || out.Pods != many {
		t.Errorf("where one kind cannot be read: %+v, %v", out, err)
	}
	if err := f.dynamic.Tracker().Delete(rightsizing.Autoscalers(), "shop", Name("ReplicationController", "old")); err != nil {
		t.Fatal(err)
	}
	if _, resized, others, err = f.revert(t.Context()); err != nil || resized != 0 || others > 10 {
		t.Errorf("once more: %d were resized, %d other requests, %v", resized, others, err)
	}
}

// Autoscalers of persons' size what no policy does. No kind of theirs keeps the others, or the component that is to go.
func TestKindsThatAreReverted(t *testing.T) {
	for name, alone := range map[string]bool{"each by itself": true, "a namespace at once": false} {
		t.Run(name, func(t *testing.T) {
			f := newFlock(t)
			requests := []Request{{All: true, By: "ana"}}
			app := func(name string) *metav1.LabelSelector {
				return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
			}
			template := corev1.PodTemplateSpec{Spec: spec("cpu=1", "")}
			f.deployment("web", template.Spec, spec("cpu=500m", ""), nil)
			f.add(&appsv1.StatefulSet{ObjectMeta: controlled("db", "db", "", ""), Spec: appsv1.StatefulSetSpec{Selector: app("db"), Template: template}})
			f.add(&appsv1.DaemonSet{ObjectMeta: controlled("agent", "agent", "", ""), Spec: appsv1.DaemonSetSpec{Selector: app("agent"), Template: template}})
			f.add(&appsv1.ReplicaSet{ObjectMeta: controlled("lone", "lone", "", ""), Spec: appsv1.ReplicaSetSpec{Selector: app("lone"), Template: template}})
			f.add(&corev1.ReplicationController{ObjectMeta: controlled("old", "old", "", ""), Spec: corev1.ReplicationControllerSpec{Selector: app("old").MatchLabels, Template: &template}})
			kinds := map[string]string{"db": "StatefulSet", "agent": "DaemonSet", "lone": "ReplicaSet", "old": "ReplicationController", "shown": "Rollout", "nightly": "CronJob", "gone": "StatefulSet"}
			if alone {
				requests = []Request{{Workloads: []string{"shop/Deployment/web"}, By: "ana"}}
			}
			for name, kind := range kinds {
				if alone {
					requests = append(requests, Request{Workloads: []string{"shop/" + kind + "/" + name}, By: "ana"})
				}
				f.autoscaler(kind, name, nil)
				f.add(&corev1.Pod{ObjectMeta: controlled(name+"-pod", name, kind, name), Spec: spec("cpu=500m", ""), Status: corev1.PodStatus{Phase: corev1.PodRunning}})
			}
			pods, autoscalers, restart := 0, 0, map[string]string{}
			for _, r := range requests {
				out, err := f.run(t.Context(), r)
				if err != nil || len(out.Left) > 0 {
					t.Fatalf("%+v: %+v, %v", r, out, err)
				}
				pods, autoscalers = pods+out.Pods, autoscalers+out.Autoscalers
				maps.Copy(restart, out.Restart)
			}
			for name, want := range map[string]string{"web": "1/", "db": "1/", "agent": "1/", "lone": "1/", "old": "1/", "shown": "500m/", "nightly": "500m/", "gone": "500m/"} {
				if has := f.has(name + "-pod"); has != want {
					t.Errorf("%s has %s, want %s", name, has, want)
				}
			}
			if len(restart) != 1 || !strings.Contains(restart["shop/Rollout/shown"], "restart") || pods != 5 || autoscalers != len(kinds)+1 {
				t.Errorf("%d pods of %d workloads were given back, and to be restarted: %v", pods, autoscalers, restart)
			}
		})
	}
}

// A pod whose specification says what its template says may have been told by a run before, or by letting go, and its node has not done it.
func TestWhatNodesHaveNotDone(t *testing.T) {
	condition := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: "Node didn't have enough resource: cpu"}}
		}
	}
	f := newFlock(t)
	f.deployment("done", spec("cpu=1", ""), spec("cpu=1", ""), nil)
	f.deployment("told", spec("cpu=1", ""), spec("cpu=1", ""), condition(corev1.PodReasonInfeasible))
	f.deployment("full", spec("cpu=1", ""), spec("cpu=1", ""), condition(corev1.PodReasonDeferred))
	f.deployment("late", spec("cpu=1", ""), spec("cpu=1", ""), condition(corev1.PodReasonDeferred))
	f.kube.PrependReactor("get", "pods", func(a ktesting.Action) (bool, runtime.Object, error) { // its node does it while it is waited for
		p := &corev1.Pod{ObjectMeta: controlled("late-pod", "late", "ReplicaSet", "late-1"), Spec: spec("cpu=1", "")}
		get, is := a.(ktesting.GetAction)
		return is && get.GetName() == p.Name, p, nil
	})
	for run := range 2 {
		out, resized, _, err := f.revert(t.Context())
		if err != nil || resized != 0 {
			t.Fatalf("run %d: %d were resized, %v", run, resized, err)
		}
		if out.Pods != 2 || len(out.Restart) != 2 || !strings.Contains(out.Restart["shop/Deployment/told"], "its node cannot") || !strings.Contains(out.Restart["shop/Deployment/full"], "their nodes have not done it yet") {
			t.Errorf("run %d: %+v", run, out)
		}
	}
}

// The updater may be in the middle of a loop when autoscalers are marked: what it sizes after a pod was looked at is found at the end.
func TestWhatIsSizedMeanwhile(t *testing.T) {
	f := newFlock(t)
	f.Now, f.Settle = func() time.Time { return f.now }, 20*time.Millisecond
	f.deployment("early", spec("cpu=1", ""), spec("cpu=500m", ""), nil)
	f.deployment("late", spec("cpu=1", ""), spec("cpu=1", ""), nil)
	waited := 0
	f.Say = func(format string, _ ...any) {
		if !strings.Contains(format, "once more") {
			return
		}
		waited++
		if has := f.has("early-pod"); has != "1/" {
			t.Errorf("nothing was given back before others had ended: %s", has)
		}
		sized := &corev1.Pod{ObjectMeta: controlled("late-pod", "late", "ReplicaSet", "late-1"), Spec: spec("cpu=300m", ""), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if err := f.kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), sized, "shop"); err != nil {
			t.Error(err)
		}
	}
	out, resized, _, err := f.revert(t.Context())
	if err != nil || resized != 2 || out.Pods != 2 || waited != 1 || f.has("late-pod") != "1/" {
		t.Errorf("%d were resized, %+v, %v; late has %s", resized, out, err, f.has("late-pod"))
	}
	f.now = f.now.Add(time.Hour)
	if _, resized, _, err := f.revert(t.Context()); err != nil || resized != 0 || waited != 1 {
		t.Errorf("an hour later: %d were resized, %v; others were waited for %d times, want 1", resized, err, waited)
	}
}

// A round over many takes longer than those who size: what is sized behind it is found all the same, and nobody is waited for then.
func TestWhatIsSizedDuringALongRound(t *testing.T) {
	f := newFlock(t)
	f.Now, f.Settle = func() time.Time { return f.now }, 15*time.Second
	f.deployment("early", spec("cpu=1", ""), spec("cpu=1", ""), nil)
	f.deployment("web", spec("cpu=1", ""), spec("cpu=500m", ""), nil)
	f.kube.PrependReactor("patch", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		if p, is := a.(ktesting.PatchAction); is && p.GetName() == "web-pod" { // which comes after the other one
			f.now = f.now.Add(f.Settle + time.Second)
			sized := &corev1.Pod{ObjectMeta: controlled("early-pod", "early", "ReplicaSet", "early-1"), Spec: spec("cpu=300m", ""), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
			if err := f.kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), sized, "shop"); err != nil {
				t.Error(err)
			}
		}
		return false, nil, nil
	})
	begin := time.Now()
	out, resized, _, err := f.revert(t.Context())
	if err != nil || resized != 2 || out.Pods != 2 || f.has("early-pod") != "1/" {
		t.Errorf("%d were resized, %+v, %v; early has %s", resized, out, err, f.has("early-pod"))
	}
	if took := time.Since(begin); took > f.Settle/2 {
		t.Errorf("it took %s: the time was over by the end of the first round", took)
	}
}

// TestTheLastLookIsCutShort: what was reached before was reached, and that it was not looked at once more is said.
func TestTheLastLookIsCutShort(t *testing.T) {
	f := newFlock(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.Now, f.Settle = func() time.Time { return f.now }, 15*time.Second
	f.deployment("early", spec("cpu=1", ""), spec("cpu=500m", ""), nil)
	f.deployment("web", spec("cpu=1", ""), spec("cpu=500m", ""), nil)
	f.kube.PrependReactor("patch", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		if p, is := a.(ktesting.PatchAction); is && p.GetName() == "web-pod" { // which comes after the other one
			f.now = f.now.Add(f.Settle + time.Second)
		}
		return false, nil, nil
	})
	began := f.now
	f.kube.PrependReactor("list", "pods", func(ktesting.Action) (bool, runtime.Object, error) {
		if f.now.After(began) {
			cancel()
			return true, nil, context.Canceled
		}
		return false, nil, nil
	})
	out, resized, _, err := f.revert(ctx)
	if err == nil || !strings.Contains(err.Error(), "not looked at once more") || strings.Contains(err.Error(), "were not reached") {
		t.Errorf("it says %v", err)
	}
	if resized != 2 || out.Pods != 2 || f.has("early-pod") != "1/" || f.has("web-pod") != "1/" {
		t.Errorf("%d were resized, %+v", resized, out)
	}
}

// Kubernetes 1.33 refuses the whole of a change that lowers a memory limit: the limit stays, and nothing else.
func TestMemoryLimitsThatStay(t *testing.T) {
	class := func(is corev1.PodQOSClass, policy ...corev1.ContainerResizePolicy) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.QOSClass, p.Spec.Containers[0].ResizePolicy = is, policy }
	}
	for _, c := range []struct {
		name, reason    string
		template, sized corev1.PodSpec
		edit            func(*corev1.Pod)
		want            string
		stays           bool
		patches         int
	}{
		{"burstable", "a request alone may go down", spec("cpu=1,memory=1Gi", "memory=1Gi"), spec("cpu=200m,memory=2Gi", "memory=2Gi"), class(corev1.PodQOSBurstable), "1+1Gi/2Gi", true, 2},
		{"guaranteed", "its request cannot be below its limit", spec("cpu=1,memory=1Gi", "cpu=1,memory=1Gi"), spec("cpu=200m,memory=2Gi", "cpu=200m,memory=2Gi"), class(corev1.PodQOSGuaranteed), "1+2Gi/1+2Gi", true, 2},
		{"nothing else", "there is nothing to ask for then", spec("memory=1Gi", "memory=1Gi"), spec("memory=1Gi", "memory=2Gi"), class(corev1.PodQOSBurstable), "1Gi/2Gi", true, 1},
		{"restarts", "somebody allowed it", spec("cpu=1,memory=1Gi", "memory=1Gi"), spec("cpu=200m,memory=2Gi", "memory=2Gi"), class(corev1.PodQOSBurstable, corev1.ContainerResizePolicy{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}), "1+1Gi/1Gi", false, 1},
		{"goes up", "that is no matter", spec("cpu=1,memory=2Gi", "memory=2Gi"), spec("cpu=200m,memory=1Gi", "memory=1Gi"), class(corev1.PodQOSBurstable), "1+2Gi/2Gi", false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFlock(t)
			f.keeps = !c.stays // known from a pod before
			f.deployment("web", c.template, c.sized, c.edit)
			f.kube.PrependReactor("patch", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
				patch, is := a.(ktesting.PatchAction)
				if !is {
					t.Fatalf("%T", a)
				}
				var change corev1.Pod
				if err := json.Unmarshal(patch.GetPatch(), &change); err != nil {
					t.Fatal(err)
				}
				if limit, asked := change.Spec.Containers[0].Resources.Limits["memory"]; asked && limit.Cmp(c.sized.Containers[0].Resources.Limits["memory"]) < 0 && c.stays {
					return true, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "web-pod", field.ErrorList{field.Forbidden(field.NewPath("spec", "containers").Index(0).Child("resources", "limits"), "memory limits cannot be decreased unless resizePolicy is RestartContainer")})
				}
				return false, nil, nil
			})
			out, resized, _, err := f.revert(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if has := f.has("web-pod"); has != c.want || resized != c.patches {
				t.Errorf("%s: it has %s after %d patches, want %s after %d", c.reason, has, resized, c.want, c.patches)
			}
			if why := out.Restart["shop/Deployment/web"]; (why != "") != c.stays || c.stays && !strings.Contains(why, "lowers no memory limit of a container that runs, as of main") {
				t.Errorf("%s: %+v", c.reason, out)
			}
		})
	}
}

// Pods that nobody sized here are not changed: those of an autoscaler that only ever recommended, as one that was imported.
func TestPodsThatWereNeverSized(t *testing.T) {
	off := func(edit func(*unstructured.Unstructured)) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(u.Object, "Off", "spec", "updatePolicy", "updateMode")
			u.SetGeneration(1)
			if edit != nil {
				edit(u)
			}
		}
	}
	copied := func(u *unstructured.Unstructured) {
		u.SetAnnotations(map[string]string{rightsizing.AnnotationImported: "shop/web"})
	}
	updated := func(p *corev1.Pod) {
		p.Annotations = map[string]string{"vpaUpdates": "Pod resources updated by statefulset-web: container 0: cpu request"}
	}
	resized := func(p *corev1.Pod) {
		p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: rules.Resizer, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Subresource: "resize", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")}}
	}
	byPolicy := off(func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{rightsizing.LabelPolicy: "p"}) })
	for _, c := range []struct {
		name, reason string
		autoscaler   func(*unstructured.Unstructured)
		pod          func(*corev1.Pod)
		left         bool
	}{
		{"a copy", "the Kubernetes VPA says on pods what it sized, by the same name", off(copied), updated, true},
		{"one that a person made", "it was never turned on", off(nil), func(*corev1.Pod) {}, true},
		{"one that was turned on", "its specification was changed", off(func(u *unstructured.Unstructured) { u.SetGeneration(2) }), func(*corev1.Pod) {}, false},
		{"a copy that was turned on", "the same", off(func(u *unstructured.Unstructured) { copied(u); u.SetGeneration(3) }), updated, false},
		{"one that changed pods", "its status says so", off(func(u *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(u.Object, "2026-03-01T09:00:00Z", "status", "application", "lastChange")
		}), func(*corev1.Pod) {}, false},
		{"one that is on", "it sizes", nil, func(*corev1.Pod) {}, false},
		{"one that was made anew", "our webhook sized the pod by the one before it", off(nil), updated, false},
		{"a copy that was made anew", "our updater resized the pod by the one before it", off(copied), resized, false},
		{"a policy's that sized nothing", "nothing says that it did", byPolicy, func(*corev1.Pod) {}, true},
		{"a policy's that was made anew", "our webhook sized the pod by the one before it", byPolicy, updated, false},
		{"a policy's that was made anew, of running pods", "our updater resized the pod by the one before it", byPolicy, resized, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFlock(t)
			f.add(&appsv1.StatefulSet{ObjectMeta: controlled("web", "web", "", ""), Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: corev1.PodTemplateSpec{Spec: spec("cpu=1", "")}}})
			p := &corev1.Pod{ObjectMeta: controlled("web-pod", "web", "StatefulSet", "web"), Spec: spec("cpu=500m", ""), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
			c.pod(p)
			f.add(p)
			f.autoscaler("StatefulSet", "web", c.autoscaler)
			out, _, _, err := f.revert(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := map[bool]string{true: "500m/", false: "1/"}[c.left]
			if has := f.has("web-pod"); has != want || len(out.Left) == 1 != c.left || len(out.Restart) != 0 {
				t.Errorf("%s: it has %s, want %s; %+v", c.reason, has, want, out)
			}
		})
	}
	f := newFlock(t)
	f.autoscaler("Rollout", "shown", off(copied))
	if out, _, _, err := f.revert(t.Context()); err != nil || len(out.Restart) != 0 || out.Left["shop/Rollout/shown"] == "" {
		t.Errorf("a copy for a kind that is not known: %+v, %v", out, err)
	}
}

func TestApplied(t *testing.T) {
	for _, c := range []struct {
		name, reason      string
		spec, status      corev1.PodSpec
		silent, condition bool
		want              bool
	}{
		{"it has what it was told", "", spec("cpu=1,memory=1Gi", "memory=1Gi"), spec("cpu=1000m,memory=1024Mi", "memory=1Gi"), false, false, true},
		{"an old kubelet", "it does not say what containers have", spec("cpu=1", ""), spec("", ""), true, false, true},
		{"another request", "", spec("cpu=1", ""), spec("cpu=500m", ""), false, false, false},
		{"another limit", "", spec("cpu=1", "memory=1Gi"), spec("cpu=1", "memory=2Gi"), false, false, false},
		{"a limit that went", "it has it still", spec("cpu=1", ""), spec("cpu=1", "cpu=1"), false, false, false},
		{"a device", "no resize changes it, and a kubelet may leave it out", spec("cpu=1,nvidia.com/gpu=1", "nvidia.com/gpu=1"), spec("cpu=1", ""), false, false, true},
		{"it is not through with it", "", spec("cpu=1", ""), spec("cpu=1", ""), false, true, false},
	} {
		p := &corev1.Pod{Spec: c.spec}
		status := corev1.ContainerStatus{Name: "main"}
		if !c.silent {
			status.Resources = &c.status.Containers[0].Resources
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{status}
		if c.condition {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}}
		}
		if got := applied(p); got != c.want {
			t.Errorf("%s: %t; %s", c.name, got, c.reason)
		}
		always := corev1.ContainerRestartPolicyAlways
		for name, restarts := range map[string]*corev1.ContainerRestartPolicy{"a native sidecar": &always, "an init container, which ended": nil} {
			init := corev1.Pod{Status: corev1.PodStatus{InitContainerStatuses: p.Status.ContainerStatuses, Conditions: p.Status.Conditions}}
			init.Spec.InitContainers = slices.Clone(p.Spec.Containers)
			init.Spec.InitContainers[0].RestartPolicy = restarts
			kept := light(&init)
			if got, want := applied(&kept), c.want || restarts == nil && !c.condition; got != want {
				t.Errorf("%s of %s: %t, want %t", c.name, name, got, want)
			}
		}
	}
}
