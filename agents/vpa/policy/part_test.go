package policy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// stage is a controller whose caches a test fills, with clients that remember what was asked.
type stage struct {
	*Controller
	t    *testing.T
	now  time.Time
	kube *fake.Clientset
	// done are the writes of autoscalers, in order: "apply NAME MODE leaving", "patch NAME", "delete NAME"; asked is how often the pods of a workload were listed.
	done  []string
	asked map[string]int
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), kube: fake.NewClientset(), asked: map[string]int{}}
	d := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
	d.PrependReactor("*", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
		switch a := a.(type) {
		case ktesting.DeleteAction:
			s.done = append(s.done, "delete "+a.GetName())
			if o, there, err := s.autoscalers.GetStore().GetByKey(a.GetNamespace() + "/" + a.GetName()); err != nil || !there || s.autoscalers.GetStore().Delete(o) != nil {
				t.Errorf("%s/%s is deleted, and not there", a.GetNamespace(), a.GetName())
			}
			return true, nil, nil
		case ktesting.PatchAction:
			if a.GetResource() == rightsizing.Policies() {
				return true, &unstructured.Unstructured{}, nil
			}
			if a.GetPatchType() == types.MergePatchType {
				s.done = append(s.done, "patch "+a.GetName())
				return true, &unstructured.Unstructured{}, s.merge(a)
			}
			u := &unstructured.Unstructured{}
			if err := json.Unmarshal(a.GetPatch(), &u.Object); err != nil {
				t.Error(err)
			}
			what := "apply " + a.GetName() + " " + modeOf(u)
			if u.GetAnnotations()[rightsizing.AnnotationLeaving] != "" {
				what += " leaving"
			}
			s.done = append(s.done, what)
			// Of fields that others apply it keeps what was there.
			if o, there, _ := s.autoscalers.GetStore().GetByKey(a.GetNamespace() + "/" + a.GetName()); there {
				if had, is := o.(*unstructured.Unstructured); is && had.GetAnnotations()[rightsizing.AnnotationReverted] != "" {
					all := u.GetAnnotations()
					all[rightsizing.AnnotationReverted] = had.GetAnnotations()[rightsizing.AnnotationReverted]
					u.SetAnnotations(all)
				}
			}
			return true, u, s.autoscalers.GetStore().Add(u)
		}
		t.Errorf("%s %s", a.GetVerb(), a.GetResource())
		return false, nil, nil
	})
	s.kube.PrependReactor("list", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		list, is := a.(ktesting.ListAction)
		if !is {
			t.Errorf("%T", a)
			return false, nil, nil
		}
		// By name: to look through all of them for each workload takes the fake longer than all else.
		_, name, _ := strings.Cut(list.GetListRestrictions().Labels.String(), "=")
		s.asked[name]++
		o, err := s.kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "shop", name+"-0")
		p, is := o.(*corev1.Pod)
		if err != nil || !is {
			t.Errorf("pod %s-0: %T, %v", name, o, err)
			return false, nil, nil
		}
		return true, &corev1.PodList{Items: []corev1.Pod{*p}}, nil
	})
	c, err := with(Deps{Every: 30 * time.Second, Settle: 15 * time.Second, Turn: func() {}, Metrics: &agent.Metrics{}, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now }}, s.kube, d)
	if err != nil {
		t.Fatal(err)
	}
	s.Controller = c
	s.add(c.factory.Core().V1().Namespaces().Informer().GetStore(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	return s
}

// merge patches the annotations of an autoscaler that is there.
func (s *stage) merge(a ktesting.PatchAction) error {
	s.t.Helper()
	o, _, err := s.autoscalers.GetStore().GetByKey(a.GetNamespace() + "/" + a.GetName())
	had, is := o.(*unstructured.Unstructured)
	if err != nil || !is {
		return apierrors.NewNotFound(rightsizing.Autoscalers().GroupResource(), a.GetName())
	}
	var patch struct {
		Metadata struct {
			Annotations map[string]*string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(a.GetPatch(), &patch); err != nil {
		return fmt.Errorf("patch %s: %w", a.GetName(), err)
	}
	all := had.GetAnnotations()
	for name, value := range patch.Metadata.Annotations {
		if delete(all, name); value != nil {
			all[name] = *value
		}
	}
	u := had.DeepCopy()
	u.SetAnnotations(all)
	return s.autoscalers.GetStore().Update(u) //nolint:wrapcheck // of a cache, which has no way to fail
}

func (s *stage) add(to cache.Store, o any) {
	s.t.Helper()
	if err := to.Add(o); err != nil {
		s.t.Fatal(err)
	}
}

// sized adds a Deployment with a pod that was sized by a policy that is gone. Waits: its node has no room for the request of its template.
func (s *stage) sized(name string, waits bool) {
	s.t.Helper()
	yes, app := true, map[string]string{"app": name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}}}}
	d := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}, Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-0", Labels: app, OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: name, UID: d.UID, Controller: &yes}}}, Spec: *template.Spec.DeepCopy(), Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if waits {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred}}
	}
	p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("500m")
	for _, o := range []runtime.Object{d, p} {
		if err := s.kube.Tracker().Add(o); err != nil {
			s.t.Fatal(err)
		}
	}
	s.add(s.factory.Apps().V1().StatefulSets().Informer().GetStore(), d)
	s.add(s.autoscalers.GetStore(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": rightsizing.Group + "/" + rightsizing.Version, "kind": "VerticalPodAutoscaler",
		"metadata": map[string]any{"namespace": "shop", "name": Name("StatefulSet", name), "uid": name, "labels": map[string]any{rightsizing.LabelPolicy: "gone"}, "annotations": map[string]any{rightsizing.AnnotationSized: "true"}},
		"spec":     map[string]any{"targetRef": map[string]any{"kind": "StatefulSet", "name": name}, "updatePolicy": map[string]any{"updateMode": "InPlace"}},
	}})
}

// turn is one look, and when the next one is.
func (s *stage) turn() {
	s.t.Helper()
	if err := s.Once(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.poke:
		s.now = s.now.Add(300 * time.Millisecond)
	default:
		s.now = s.now.Add(s.deps.Every)
	}
}

// Many are let go at once, and some cannot be done yet: all are switched off first, each has its turn, and nobody asks again and again.
func TestManyAreLetGo(t *testing.T) {
	s := newStage(t)
	const many, last = 3*partEach + 7, 3*partEach + 6
	for i := range many {
		s.sized(fmt.Sprintf("w%03d", i), i != last)
	}
	s.turn()
	off := 0
	for _, what := range s.done {
		if strings.HasPrefix(what, "apply ") && strings.HasSuffix(what, " Off leaving") {
			off++
		}
	}
	if off != many {
		t.Errorf("after one look %d of %d are switched off: the others are sized still", off, many)
	}
	if len(s.asked) != partEach {
		t.Errorf("the pods of %d workloads were asked for in one look, want %d", len(s.asked), partEach)
	}
	begin, looks := s.now, 1
	for ; s.now.Sub(begin) < 10*time.Minute && looks < 100; looks++ {
		s.turn()
	}
	if len(s.asked) != many {
		t.Errorf("after %d looks %d of %d workloads were asked", looks, len(s.asked), many)
	}
	if !slices.Contains(s.done, "delete "+Name("StatefulSet", fmt.Sprintf("w%03d", last))) {
		t.Error("the last one has its template's requests, and its autoscaler did not go")
	}
	// 20 looks by the clock, and a few more for those that had not been asked yet.
	if looks > 20+2*many/partEach {
		t.Errorf("%d looks in ten minutes", looks)
	}
	least, most := 1000, 0
	for i := range many - 1 {
		n := s.asked[fmt.Sprintf("w%03d", i)]
		least, most = min(least, n), max(most, n)
	}
	if least < 5 || most > least+2 { // those of one look are alike, and a look may end among them
		t.Errorf("those that wait were asked from %d to %d times: the turn of some comes more often", least, most)
	}
}

// Who reverts a workload that is being let go keeps its autoscaler, which says that it is left alone, and not that it goes.
func TestWhatIsRevertedWhileItIsLetGo(t *testing.T) {
	s := newStage(t)
	s.sized("web", false)
	s.turn()
	autoscaler := func() *unstructured.Unstructured {
		t.Helper()
		o, _, err := s.autoscalers.GetStore().GetByKey("shop/" + Name("StatefulSet", "web"))
		u, is := o.(*unstructured.Unstructured)
		if err != nil || !is {
			t.Fatalf("%T, %v; %v", o, err, s.done)
		}
		return u.DeepCopy()
	}
	u := autoscaler()
	marks := u.GetAnnotations()
	if marks[rightsizing.AnnotationLeaving] == "" {
		t.Fatalf("it is not let go: %v", marks)
	}
	marks[rightsizing.AnnotationReverted] = "now"
	u.SetAnnotations(marks)
	s.add(s.autoscalers.GetStore(), u)
	for range 3 {
		s.turn()
	}
	marks = autoscaler().GetAnnotations()
	if _, leaving := marks[rightsizing.AnnotationLeaving]; leaving || marks[rightsizing.AnnotationReverted] != "now" || marks[rightsizing.AnnotationSized] != "" {
		t.Errorf("%v after %v", marks, s.done)
	}
	if n := len(s.done); n != 2 {
		t.Errorf("%v, want it switched off, and then patched", s.done)
	}
}

// fleeting is a cache that loses everything between one look at it and the next.
type fleeting struct {
	cache.SharedIndexInformer
	store *once
}

type once struct {
	cache.Store
	looks int
}

func (f fleeting) GetStore() cache.Store { return f.store }

func (o *once) List() []any {
	if o.looks++; o.looks > 1 {
		return nil
	}
	return o.Store.List()
}

// What is decided on and what is written to is what was there at one time.
func TestAnAutoscalerGoesMeanwhile(t *testing.T) {
	for name, sized := range map[string]string{"deleted": "", "left": "true"} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.sized("web", false)
			store := s.autoscalers.GetStore()
			for _, o := range store.List() {
				u, is := o.(*unstructured.Unstructured)
				if !is {
					t.Fatalf("%T", o)
				}
				u.SetAnnotations(map[string]string{rightsizing.AnnotationSized: sized})
			}
			s.autoscalers = fleeting{s.autoscalers, &once{Store: store}}
			if err := s.Once(t.Context()); err != nil {
				t.Error(err)
			}
			if len(s.done) != 1 {
				t.Errorf("%v, want one write", s.done)
			}
		})
	}
}

// What a HorizontalPodAutoscaler's target was is given back with the requests of its pods, whatever becomes of the policy that moved it.
func TestTargetsGoBackWithPods(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		edit         func(p *rightsizing.Policy) // nil: it is gone
		reverted     bool                        // the workload's autoscaler
		sidecar      bool                        // that a webhook adds to pods
		elsewhere    *elsewhereOf                // nil: nobody else sizes it
		// want are the targets while pods request 500m, 750m and 1 core of the template's 1; 0 is that none is kept any more.
		want []int32
	}{
		{name: "kept", reason: "it follows, and goes on to", edit: func(*rightsizing.Policy) {}, want: []int32{160, 107, 80}},
		{name: "gone", reason: "pods are given back one by one", want: []int32{160, 107, 0}},
		{name: "beside a sidecar", reason: "no template knows of it, and it has its share of the utilization", sidecar: true, want: []int32{147, 104, 0}},
		{name: "recommends only", reason: "the same", edit: func(p *rightsizing.Policy) { p.Spec.DryRun = true }, want: []int32{160, 107, 0}},
		{name: "yields", reason: "pods are replaced one by one", edit: func(p *rightsizing.Policy) { p.Spec.HPA = rightsizing.HPAYield }, want: []int32{160, 107, 0}},
		{name: "reverted", reason: "pods are given back by the revert", edit: func(p *rightsizing.Policy) { p.Annotations = map[string]string{rightsizing.AnnotationReverted: "now"} }, want: []int32{160, 107, 0}},
		{name: "the workload reverted", reason: "nobody sizes it until the mark is gone", edit: func(*rightsizing.Policy) {}, reverted: true, want: []int32{160, 107, 0}},
		{name: "not understood", reason: "pods are sized as before, and so its target follows as before", edit: func(p *rightsizing.Policy) { p.Spec.Level = "Cheapest" }, want: []int32{160, 107, 80}},
		{name: "paused", reason: "pods that are replaced meanwhile have what their template says", edit: func(p *rightsizing.Policy) { p.Spec.Paused = true }, want: []int32{160, 107, 0}},
		{name: "somebody else sizes it", reason: "a target that stayed would be of requests that are no more; it is its own once pods have what their template says", edit: func(*rightsizing.Policy) {}, elsewhere: &elsewhereOf{is: true, known: true}, want: []int32{160, 107, 0}},
		{name: "who sizes it is not known yet", reason: "after a start it goes on as before", edit: func(*rightsizing.Policy) {}, elsewhere: &elsewhereOf{}, want: []int32{160, 107, 80}},
		{name: "not understood, and paused", reason: "the same", edit: func(p *rightsizing.Policy) { p.Spec.Paused, p.Spec.Level = true, "Cheapest" }, want: []int32{160, 107, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			if c.elsewhere != nil {
				s.deps.Elsewhere = func(string, string, string, metav1.Object) (is, known bool) { return c.elsewhere.is, c.elsewhere.known }
			}
			s.sized("web", false)
			for _, o := range s.autoscalers.GetStore().List() {
				if u, is := o.(*unstructured.Unstructured); is {
					u.SetLabels(map[string]string{rightsizing.LabelPolicy: "p"})
					if c.reverted {
						u.SetAnnotations(map[string]string{rightsizing.AnnotationReverted: "now", rightsizing.AnnotationSized: "true"})
					}
				}
			}
			if c.edit != nil {
				p := policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.HPA = rightsizing.HPAAlign })
				c.edit(&p)
				var u unstructured.Unstructured
				if err := json.Unmarshal(encoded(p), &u.Object); err != nil {
					t.Fatal(err)
				}
				s.add(s.policies.GetStore(), &u)
			}
			h := hpa(160, func(h *autoscalingv2.HorizontalPodAutoscaler) {
				h.Namespace, h.Spec.ScaleTargetRef = "shop", autoscalingv2.CrossVersionObjectReference{Kind: "StatefulSet", Name: "web"}
				h.Annotations = map[string]string{rightsizing.AnnotationTargets: string(encoded(rightsizing.Targets{"cpu": {Percent: 80, Written: 160}}))}
			})
			if err := s.kube.Tracker().Add(h); err != nil {
				t.Fatal(err)
			}
			for i, cpu := range []string{"500m", "750m", "1"} {
				for n := range 3 {
					p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("web-", n), Labels: map[string]string{"app": "web"}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
					request := func(of string) corev1.ResourceRequirements {
						return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(of)}}
					}
					p.Spec.Containers = []corev1.Container{{Name: "main", Resources: request(cpu)}}
					if c.sidecar {
						p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "istio-proxy", Resources: request("100m")})
					}
					s.add(s.factory.Core().V1().Pods().Informer().GetStore(), p)
				}
				for range 2 {
					now, err := s.kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Get(t.Context(), "web", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					s.add(s.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), now)
					s.turn()
				}
				now, err := s.kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				target, kept := utilization(now)["cpu"], now.Annotations[rightsizing.AnnotationTargets] != ""
				if want := c.want[i]; want == 0 && (kept || target != 80) || want != 0 && (!kept || target != want) {
					t.Errorf("%s: pods that request %s: target %d, kept %t, want %d", c.reason, cpu, target, kept, want)
				}
			}
		})
	}
}

// A target begins to follow where pods are sized by us, and nowhere else: where it is not known yet who does, it waits.
func TestTargetsThatDoNotBeginToFollow(t *testing.T) {
	for _, c := range []struct {
		name      string
		elsewhere elsewhereOf
		want      int32
	}{
		{"nobody else sizes it", elsewhereOf{known: true}, 160},
		{"somebody else sizes it", elsewhereOf{is: true, known: true}, 80},
		{"who sizes it is not known yet", elsewhereOf{}, 80},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.deps.Elsewhere = func(string, string, string, metav1.Object) (is, known bool) { return c.elsewhere.is, c.elsewhere.known }
			s.sized("web", false)
			for _, o := range s.autoscalers.GetStore().List() {
				if u, is := o.(*unstructured.Unstructured); is {
					u.SetLabels(map[string]string{rightsizing.LabelPolicy: "p"})
				}
			}
			var p unstructured.Unstructured
			if err := json.Unmarshal(encoded(policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.HPA = rightsizing.HPAAlign })), &p.Object); err != nil {
				t.Fatal(err)
			}
			s.add(s.policies.GetStore(), &p)
			h := hpa(80, func(h *autoscalingv2.HorizontalPodAutoscaler) {
				h.Namespace, h.Spec.ScaleTargetRef = "shop", autoscalingv2.CrossVersionObjectReference{Kind: "StatefulSet", Name: "web"}
			})
			if err := s.kube.Tracker().Add(h); err != nil {
				t.Fatal(err)
			}
			s.add(s.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), h)
			pod, err := s.kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "web-0") // it has 500m of 1
			if err != nil {
				t.Fatal(err)
			}
			s.add(s.factory.Core().V1().Pods().Informer().GetStore(), pod)
			s.turn()
			now, err := s.kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, follows := now.Annotations[rightsizing.AnnotationTargets]
			if target := utilization(now)["cpu"]; target != c.want || follows != (c.want != 80) {
				t.Errorf("target %d, want %d; follows: %t", target, c.want, follows)
			}
		})
	}
}

// Before Kubernetes 1.33 a pod that runs is not resized: nothing may look as if it had been given back.
func TestWhatCannotBeResizedIsKept(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, c := range []struct {
		name, reason string
		answer       error
		kept         int
	}{
		{"no such path", "an API server without the subresource names no object", apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false), 1},
		{"no such path, in plain text", "client-go puts in what was asked for", apierrors.NewGenericServerResponse(http.StatusNotFound, http.MethodPatch, pods, "web-0", "404 page not found", 0, true), 1},
		{"no such pod", "it went meanwhile", apierrors.NewNotFound(pods, "web-0"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.sized("web", false)
			asked := 0
			s.kube.PrependReactor("patch", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
				if a.GetSubresource() != "resize" {
					t.Errorf("%s of pods/%s", a.GetVerb(), a.GetSubresource())
				}
				asked++
				return true, nil, c.answer
			})
			for range 3 {
				s.turn()
			}
			name := types.NamespacedName{Namespace: "shop", Name: Name("StatefulSet", "web")}
			p, waits := s.partings[name]
			if asked == 0 || waits != (c.kept > 0) || waits && (p.kept != c.kept || !strings.Contains(p.why, "does not resize pods")) {
				t.Errorf("%s: asked %d times, it waits: %t, %+v", c.reason, asked, waits, p)
			}
			if deleted := slices.Contains(s.done, "delete "+name.Name); deleted != (c.kept == 0) {
				t.Errorf("%s: its autoscaler is gone: %t", c.reason, deleted)
			}
		})
	}
}

// horizontal adds a HorizontalPodAutoscaler of the workload web of the namespace shop.
func (s *stage) horizontal(name string, edit func(*autoscalingv2.HorizontalPodAutoscaler)) *autoscalingv2.HorizontalPodAutoscaler {
	s.t.Helper()
	h := hpa(80, func(h *autoscalingv2.HorizontalPodAutoscaler) {
		h.Namespace, h.Name, h.UID, h.Spec.ScaleTargetRef = "shop", name, types.UID(name), autoscalingv2.CrossVersionObjectReference{Kind: "StatefulSet", Name: "web"}
		if edit != nil {
			edit(h)
		}
	})
	s.add(s.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), h)
	if err := s.kube.Tracker().Add(h); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// aligns makes a policy that has targets follow.
func (s *stage) aligns() {
	s.t.Helper()
	var u unstructured.Unstructured
	if err := json.Unmarshal(encoded(policyOf("p", 0, func(s *rightsizing.PolicySpec) { s.HPA = rightsizing.HPAAlign })), &u.Object); err != nil {
		s.t.Fatal(err)
	}
	s.add(s.policies.GetStore(), &u)
}

// sizing is the settings of the one autoscaler that is there, and why resources are left alone.
func (s *stage) sizing() (*rightsizing.Effective, map[string]string) {
	s.t.Helper()
	all := s.autoscalers.GetStore().List()
	if len(all) != 1 {
		s.t.Fatalf("%d autoscalers", len(all))
	}
	u, is := all[0].(*unstructured.Unstructured)
	if !is {
		s.t.Fatalf("%T", all[0])
	}
	e, err := rightsizing.EffectiveOf(u.GetAnnotations())
	if err != nil || e == nil {
		s.t.Fatalf("%+v, %v", e, err)
	}
	return e, rightsizing.YieldsOf(u.GetAnnotations())
}

// Why a target does not follow is on the autoscaler, written once, for as long as it is so.
func TestWhyATargetDoesNotFollow(t *testing.T) {
	s := newStage(t)
	s.sized("web", false)
	s.aligns()
	writers := []metav1.ManagedFieldsEntry{{Manager: "helm"}, {Manager: "kube-controller-manager"}, {Manager: "argocd-controller"}}
	h := s.horizontal("web", func(h *autoscalingv2.HorizontalPodAutoscaler) { h.ManagedFields = writers })
	for i := range 3 {
		s.turn()
		e, why := s.sizing()
		if !slices.Equal(e.Yield, []string{"cpu"}) || len(why) != 1 || !strings.Contains(why["cpu"], "written by argocd-controller") {
			t.Errorf("%v is left alone: %v", e.Yield, why)
		}
		if n := len(s.done); n != 1 {
			t.Errorf("turn %d: %d writes, want the first one: %v", i, n, s.done)
		}
		again := h.DeepCopy()
		again.ManagedFields = slices.Clone(writers)
		slices.Reverse(again.ManagedFields) // who wrote last is the last of them
		s.add(s.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), again)
	}
	free := h.DeepCopy()
	free.ManagedFields = nil
	s.add(s.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore(), free)
	s.turn()
	if e, why := s.sizing(); !slices.Equal(e.Align, []string{"cpu"}) || len(e.Yield) != 0 || why != nil || len(s.done) != 2 {
		t.Errorf("nothing is in its way any more: %+v, %v, %v", e, why, s.done)
	}
}

// Of several HorizontalPodAutoscalers of one workload none counts more than another, whichever is found first: what any of them scales on is left
// alone, and a target that followed before goes back with its pods.
func TestSeveralHorizontalPodAutoscalers(t *testing.T) {
	memory := func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.Metrics[1].Resource.Name = "memory" }
	other := func(h *autoscalingv2.HorizontalPodAutoscaler) { h.Spec.Metrics = h.Spec.Metrics[:1] }
	follows := func(h *autoscalingv2.HorizontalPodAutoscaler) {
		*h.Spec.Metrics[1].Resource.Target.AverageUtilization = 160
		h.Annotations = map[string]string{rightsizing.AnnotationTargets: string(encoded(rightsizing.Targets{"cpu": {Percent: 80, Written: 160}}))}
	}
	for _, c := range []struct {
		name, reason string
		of           map[string]func(*autoscalingv2.HorizontalPodAutoscaler)
		align, yield []string
		why          string
	}{
		{"one", "there is nothing in its way", map[string]func(*autoscalingv2.HorizontalPodAutoscaler){"a": nil}, []string{"cpu"}, nil, ""},
		{"two on one resource", "neither follows", map[string]func(*autoscalingv2.HorizontalPodAutoscaler){"a": nil, "b": nil}, nil, []string{"cpu"}, "(a, b)"},
		{"two on two resources", "both are left alone", map[string]func(*autoscalingv2.HorizontalPodAutoscaler){"a": nil, "b": memory}, nil, []string{"cpu", "memory"}, "(a, b)"},
		{"one of them on something else", "it scales the same pods", map[string]func(*autoscalingv2.HorizontalPodAutoscaler){"a": other, "b": nil, "c": other}, nil, []string{"cpu"}, "(a, b, c)"},
		{"one that followed before", "it goes on until its pods are back, and nothing new follows", map[string]func(*autoscalingv2.HorizontalPodAutoscaler){"a": memory, "b": follows}, nil, []string{"cpu", "memory"}, "(a, b)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 8 { // the order of a map is another one each time
				s := newStage(t)
				s.sized("web", false)
				s.aligns()
				for name, edit := range c.of {
					s.horizontal(name, edit)
				}
				pod, err := s.kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "web-0")
				if err != nil {
					t.Fatal(err)
				}
				s.add(s.factory.Core().V1().Pods().Informer().GetStore(), pod)
				for range 2 {
					s.turn()
				}
				e, why := s.sizing()
				if !slices.Equal(e.Align, c.align) || !slices.Equal(e.Yield, c.yield) || len(s.done) != 1 {
					t.Fatalf("%v is aligned, %v left alone, want %v and %v; %s; writes: %v", e.Align, e.Yield, c.align, c.yield, c.reason, s.done)
				}
				if now, err := s.kube.AutoscalingV2().HorizontalPodAutoscalers("shop").Get(t.Context(), "b", metav1.GetOptions{}); c.name == "one that followed before" && (err != nil || utilization(now)["cpu"] != 160) {
					t.Fatalf("its pods have half of their template's requests still: %+v, %v", now, err)
				}
				for _, name := range c.yield {
					if !strings.Contains(why[name], c.why) || c.why == "" {
						t.Fatalf("%s is left alone, for %q, want %q", name, why[name], c.why)
					}
				}
			}
		})
	}
}
