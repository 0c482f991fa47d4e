package updater

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	fakediscovery "k8s.io/client-go/discovery/fake"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/owners"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// stage is an updater whose caches a test fills: a Deployment web in the namespace shop, or in several, with an autoscaler. Its clients remember
// what was asked.
type stage struct {
	*Updater

	t         *testing.T
	at        time.Time
	namespace string
	// acts are resizes and evictions, changed how many of each pod were taken; acted is called with each, refuses says what becomes of it. records
	// are the patches of status.application.
	acts    int
	changed map[string]int
	acted   func()
	refuses func(namespace, pod string) error
	records []string
}

func newStage(t *testing.T, o Options) *stage {
	t.Helper()
	s := &stage{t: t, namespace: "shop", changed: map[string]int{}, at: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
	u, err := New(o, Deps{Kube: &rest.Config{Host: "127.0.0.1:1"}, Who: agent.Identity{Component: "vpa-updater", Namespace: "nops", Release: "nops", Version: "1"}, Others: nobody{}, Now: func() time.Time { return s.at }})
	if err != nil {
		t.Fatal(err)
	}
	answered := metav1.NowMicro()
	kube := fake.NewClientset(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "nops", Name: rightsizing.AdmissionService}, Spec: coordinationv1.LeaseSpec{RenewTime: &answered}})
	kube.PrependReactor("*", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		if sub := a.GetSubresource(); sub != "resize" && sub != "eviction" {
			t.Errorf("%s pods/%s", a.GetVerb(), sub)
		}
		s.acts++
		if s.acted != nil {
			s.acted()
		}
		name := ""
		switch a := a.(type) {
		case ktesting.PatchAction:
			name = a.GetName()
		case ktesting.CreateAction:
			o, err := meta.Accessor(a.GetObject())
			if err != nil {
				t.Error(err)
				return true, nil, err
			}
			name = o.GetName()
		}
		if s.refuses != nil {
			if err := s.refuses(a.GetNamespace(), name); err != nil {
				return true, nil, err
			}
		}
		s.changed[a.GetNamespace()+"/"+name]++
		return true, &corev1.Pod{}, nil
	})
	statuses := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
	statuses.PrependReactor("*", "*", func(a ktesting.Action) (bool, runtime.Object, error) {
		p, is := a.(ktesting.PatchAction)
		if !is || a.GetSubresource() != "status" {
			t.Errorf("%s %s/%s", a.GetVerb(), a.GetResource().Resource, a.GetSubresource())
			return false, nil, nil
		}
		s.records = append(s.records, string(p.GetPatch()))
		return true, &unstructured.Unstructured{Object: map[string]any{}}, nil
	})
	u.kube, u.dynamic = kube, statuses
	if err := u.watch(); err != nil {
		t.Fatal(err)
	}
	u.owners, u.selectors, u.memory = owners.NewFetcher(web{}, nil, u.log), owners.NewSelectors(everything{}, rules.WellKnown), newMemory(s.at)
	s.Updater = u
	return s
}

// nobody else sizes anything.
type nobody struct{}

func (nobody) Ready() error                                           { return nil }
func (nobody) Elsewhere(foreign.Ref, ...metav1.Object) (string, bool) { return "", false }
func (nobody) Scaled(foreign.Ref) map[corev1.ResourceName]string      { return nil }

// web is what every pod is part of, and everything is selected.
type (
	web        struct{}
	everything struct{}
)

func (web) FindTopMostWellKnownOrScalable(_ context.Context, c *controllerfetcher.ControllerKeyWithAPIVersion) (*controllerfetcher.ControllerKeyWithAPIVersion, error) {
	return &controllerfetcher.ControllerKeyWithAPIVersion{ControllerKey: controllerfetcher.ControllerKey{Namespace: c.Namespace, Kind: "Deployment", Name: "web"}, ApiVersion: "apps/v1"}, nil
}

func (everything) Fetch(context.Context, *vpav1.VerticalPodAutoscaler) (labels.Selector, error) {
	return labels.Everything(), nil
}

func (s *stage) add(to cache.Store, o any) {
	s.t.Helper()
	if err := to.Add(o); err != nil {
		s.t.Fatal(err)
	}
}

// amounts are of CPU and memory.
func amounts(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// pods are as many that run with 1 CPU and 1Gi.
func (s *stage) pods(n int32, edit func(*corev1.Pod)) {
	s.t.Helper()
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web-1", UID: types.UID(s.namespace + "/web-1")}, Spec: appsv1.ReplicaSetSpec{Replicas: &n}}
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c"}}
	s.add(s.kubeFactory.Apps().V1().ReplicaSets().Informer().GetStore(), set)
	yes, start := true, metav1.NewTime(s.at.Add(-24*time.Hour))
	for i := range n {
		name := fmt.Sprint("web-1-", i)
		is := corev1.ResourceRequirements{Requests: amounts("1", "1Gi")}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name, UID: types.UID(s.namespace + "/" + name), CreationTimestamp: start, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: set.UID, Controller: &yes}}},
			Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Resources: is}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, StartTime: &start,
				ContainerStatuses: []corev1.ContainerStatus{{Name: "c", Ready: true, Resources: is.DeepCopy(), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}}}},
			},
		}
		if edit != nil {
			edit(pod)
		}
		s.add(s.podFactory.Core().V1().Pods().Informer().GetStore(), pod)
	}
}

// autoscaler recommends half of that.
func (s *stage) autoscaler(mode vpav1.UpdateMode, settings string) *autoscaler {
	s.t.Helper()
	a := &autoscaler{}
	a.ObjectMeta = metav1.ObjectMeta{Namespace: s.namespace, Name: "web", UID: types.UID(s.namespace + "/first"), Generation: 1, ResourceVersion: "1", CreationTimestamp: metav1.NewTime(s.at.Add(-48 * time.Hour))}
	if settings != "" {
		a.Annotations = map[string]string{rightsizing.AnnotationSettings: settings}
	}
	a.Spec.TargetRef = &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	a.Spec.UpdatePolicy = &vpav1.PodUpdatePolicy{UpdateMode: &mode}
	half := amounts("500m", "512Mi")
	a.Status.Recommendation = &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{{ContainerName: "c", Target: half, LowerBound: half, UpperBound: half}}}
	s.add(s.autoscalers.GetStore(), a)
	return a
}

// recorded is what status.application would be after the last patch.
func (s *stage) recorded() rightsizing.Application {
	s.t.Helper()
	if len(s.records) == 0 {
		s.t.Fatal("nothing was recorded")
	}
	var o struct {
		Status struct {
			Application rightsizing.Application `json:"application"`
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(s.records[len(s.records)-1]), &o); err != nil {
		s.t.Fatal(err)
	}
	return o.Status.Application
}

const carefree = `{"policy":"p","observation":"0s","cooldown":"0s"}`

// TestChangedMeanwhile: what happens to an autoscaler while its pods are changed holds for the next of them, not only for the next loop.
func TestChangedMeanwhile(t *testing.T) {
	annotate := func(key, value string) func(*autoscaler) {
		return func(a *autoscaler) {
			all := map[string]string{}
			maps.Copy(all, a.Annotations)
			all[key] = value
			a.Annotations = all
		}
	}
	tests := 0
	for _, how := range []struct {
		mode     vpav1.UpdateMode
		settings string
	}{{vpav1.UpdateModeInPlace, carefree}, {vpav1.UpdateModeRecreate, ""}} {
		for _, c := range []struct {
			name    string
			edit    func(*autoscaler)
			deleted bool
			want    int
		}{
			{"nothing", nil, false, 3}, // half of six
			{"its status is written", func(a *autoscaler) { a.Application.State = rightsizing.StateApplied }, false, 3},
			{"it is paused", annotate(rightsizing.AnnotationSettings, `{"policy":"p","paused":true}`), false, 1},
			{"it is reverted", annotate(rightsizing.AnnotationReverted, "2026-11-28T12:00:00Z"), false, 1},
			{"it is let go", annotate(rightsizing.AnnotationLeaving, "2026-11-28T12:00:00Z"), false, 1},
			{"another mode", func(a *autoscaler) {
				mode := vpav1.UpdateModeOff
				a.Generation, a.Spec.UpdatePolicy = 2, &vpav1.PodUpdatePolicy{UpdateMode: &mode}
			}, false, 1},
			{"it is deleted", nil, true, 1},
			{"it is deleted and made anew", func(a *autoscaler) { a.UID = "second" }, false, 1},
		} {
			t.Run(fmt.Sprint(how.mode, "/", c.name), func(t *testing.T) {
				tests++
				s := newStage(t, Options{})
				s.pods(6, nil)
				a := s.autoscaler(how.mode, how.settings)
				s.acted = func() {
					if s.acts > 1 {
						return
					}
					var err error
					switch now := *a; {
					case c.deleted:
						err = s.autoscalers.GetStore().Delete(a)
					case c.edit != nil:
						now.ResourceVersion = "2"
						c.edit(&now)
						err = s.autoscalers.GetStore().Update(&now)
					}
					if err != nil {
						t.Error(err)
					}
				}
				s.once(t.Context())
				if s.acts != c.want {
					t.Errorf("%d pods were changed, want %d", s.acts, c.want)
				}
			})
		}
	}
	if tests != 16 {
		t.Errorf("%d cases, want 16", tests)
	}
}

// TestActingEnds: who takes pods back waits for as long as pods are changed in one loop, and no longer. The rest comes in the next.
func TestActingEnds(t *testing.T) {
	s := newStage(t, Options{Tolerance: 1})
	s.pods(6, nil)
	s.autoscaler(vpav1.UpdateModeInPlace, carefree)
	s.acted = func() { s.at = s.at.Add(4 * time.Second) } // an API server that is slow
	s.once(t.Context())
	if a := s.recorded(); s.acts != 3 || a.State != rightsizing.StatePending || a.Message != "in the next loops" || a.InPlace != 3 {
		t.Errorf("%d pods were changed in 10 seconds, want 3: %+v", s.acts, a)
	}
	s.acted = nil
	s.once(t.Context())
	if s.acts != 9 { // the pods of this API server stay as they are
		t.Errorf("the next loop changed %d pods, want 6", s.acts-3)
	}
}

// TestFailuresCostTheirOwn: a workload whose changes fail takes neither all the time of each loop, nor all its evictions, nor does a pod of it.
func TestFailuresCostTheirOwn(t *testing.T) {
	fails := func(string, string) error { return apierrors.NewInternalError(errors.New("a webhook does not answer")) }
	for _, c := range []struct {
		name     string
		mode     vpav1.UpdateMode
		settings string
		failing  []string      // namespaces whose changes fail, all before shop
		pods     int32         // of each
		takes    time.Duration // each failure
		loops    int           // after which half of shop's pods were changed
	}{
		{"time", vpav1.UpdateModeInPlace, carefree, []string{"a"}, 6, 11 * time.Second, 3},
		{"time, more of them than are left alone at once", vpav1.UpdateModeInPlace, carefree, []string{"a", "b", "c", "d", "e", "f", "g"}, 6, 11 * time.Second, 9},
		{"evictions", vpav1.UpdateModeRecreate, "", []string{"a"}, 40, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, Options{Evictions: 4})
			for _, s.namespace = range append(slices.Clone(c.failing), "shop") {
				s.pods(c.pods, nil)
				s.autoscaler(c.mode, c.settings)
			}
			s.refuses = func(namespace, pod string) error {
				if namespace == "shop" {
					return nil
				}
				s.at = s.at.Add(c.takes)
				return fails(namespace, pod)
			}
			for i := range c.loops {
				s.once(t.Context())
				if a := s.memory.written["a/first"]; c.takes > 0 && i < 2 && (a.State != rightsizing.StateWaiting || !strings.Contains(a.Message, "a webhook does not answer")) {
					t.Errorf("at %s it is told of one that failed: %+v", s.at, a)
				}
				s.at = s.at.Add(time.Minute)
			}
			if len(s.changed) < 3 {
				t.Errorf("of the other workload %d pods were changed: %v", len(s.changed), s.changed)
			}
		})
	}

	t.Run("a pod", func(t *testing.T) {
		s := newStage(t, Options{})
		s.pods(6, func(pod *corev1.Pod) {
			if pod.Name == "web-1-0" { // its turn is first
				pod.Spec.Containers[0].Resources.Requests = amounts("4", "4Gi")
			}
		})
		s.autoscaler(vpav1.UpdateModeInPlace, carefree)
		s.refuses = func(namespace, pod string) error {
			if pod == "web-1-0" {
				return fails(namespace, pod)
			}
			return nil
		}
		s.once(t.Context())
		if a := s.recorded(); s.acts != 1 || a.State != rightsizing.StateWaiting || !strings.Contains(a.Message, "a webhook does not answer") || !a.NotBefore.Equal(s.at.Add(5*time.Minute)) {
			t.Errorf("%d pods were tried: %+v", s.acts, a)
		}
		s.at = s.at.Add(4 * time.Minute)
		if s.once(t.Context()); s.acts != 1 {
			t.Errorf("%d pods were tried before their time", s.acts-1)
		}
		s.at = s.at.Add(time.Minute)
		if s.once(t.Context()); len(s.changed) != 3 { // half of them
			t.Errorf("of the other pods were changed: %v", s.changed)
		}
		s.refuses = nil
		for range 3 {
			s.at = s.at.Add(time.Hour)
			s.once(t.Context())
		}
		if s.changed["shop/web-1-0"] == 0 || len(s.memory.failed) != 0 {
			t.Errorf("a pod whose change failed is not tried again: %v; remembered is %v", s.changed, s.memory.failed)
		}
	})
}

// TestBusy: an API server that has no time now is not asked for another pod, and no PodDisruptionBudget is blamed for it. One that is to blame says so.
func TestBusy(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	busy, budget := apierrors.NewTooManyRequests("busy", 1), apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	denied := apierrors.NewTooManyRequests("admission webhook \"calm.example.com\" denied the request: it is rush hour", 1)
	budget.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget web needs 5 healthy pods and has 5 currently"}}
	for _, c := range []struct {
		name     string
		mode     vpav1.UpdateMode
		settings string
		err      error
		lines    int // of the log
		blames   bool
		next     int // pods that are tried in the next loop, when there is time
	}{
		{"a resize", vpav1.UpdateModeInPlace, carefree, busy, 1, false, 3},
		{"an eviction", vpav1.UpdateModeRecreate, "", busy, 1, false, 3},
		{"an eviction that a budget does not allow", vpav1.UpdateModeRecreate, "", budget, 0, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, Options{})
			var said bytes.Buffer
			s.log = slog.New(slog.NewTextHandler(&said, nil))
			s.pods(6, nil)
			s.autoscaler(c.mode, c.settings)
			s.refuses = func(string, string) error { return c.err }
			s.once(t.Context())
			if a := s.recorded(); s.acts != 1 || strings.Contains(a.Message, "PodDisruptionBudget") != c.blames {
				t.Errorf("%d pods were tried: %+v", s.acts, a)
			}
			if n := strings.Count(said.String(), "\n"); n != c.lines {
				t.Errorf("%d lines: %s", n, said.String())
			}
			s.refuses = nil
			s.at = s.at.Add(time.Minute)
			if s.once(t.Context()); len(s.changed) != c.next {
				t.Errorf("the next loop changed %v", s.changed)
			}
		})
	}

	for _, c := range []struct {
		name string
		mode vpav1.UpdateMode
		err  error
		busy bool
	}{
		{"nobody listens", vpav1.UpdateModeInPlace, &url.Error{Op: "Patch", URL: "https://10.0.0.1/api/v1", Err: syscall.ECONNREFUSED}, true},
		{"nobody listens to evictions", vpav1.UpdateModeRecreate, &url.Error{Op: "Post", URL: "https://10.0.0.1/api/v1", Err: syscall.ECONNREFUSED}, true},
		{"too many requests", vpav1.UpdateModeInPlace, busy, true},
		{"it is not there yet", vpav1.UpdateModeInPlace, apierrors.NewServiceUnavailable("apiserver is shutting down"), true},
		{"its load balancer has none", vpav1.UpdateModeInPlace, apierrors.NewGenericServerResponse(http.StatusBadGateway, "PATCH", pods, "web-1-0", "<html>", 0, true), true},
		{"its storage does not answer", vpav1.UpdateModeInPlace, apierrors.NewServerTimeout(pods, "update", 2), true},
		{"a webhook denies it with that code", vpav1.UpdateModeRecreate, denied, false},
		{"something took too long", vpav1.UpdateModeRecreate, apierrors.NewTimeoutError("couldn't update PodDisruptionBudget \"web\" due to conflicts", 10), false},
		{"a webhook does not answer", vpav1.UpdateModeInPlace, apierrors.NewInternalError(errors.New("failed calling webhook")), false},
		{"no request was made", vpav1.UpdateModeInPlace, errors.New("no resource patches were calculated to apply"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, Options{})
			var said bytes.Buffer
			s.log = slog.New(slog.NewTextHandler(&said, nil))
			settings := carefree
			if c.mode == vpav1.UpdateModeRecreate {
				settings = ""
			}
			for _, s.namespace = range []string{"a", "shop"} {
				s.pods(6, nil)
				s.autoscaler(c.mode, settings)
			}
			s.refuses = func(string, string) error { return c.err }
			tries, next := 1, 6 // half of the pods of both
			if !c.busy {
				tries, next = 2, 0
			}
			s.once(t.Context())
			if n := strings.Count(said.String(), "\n"); s.acts != tries || n != tries {
				t.Errorf("%d pods were tried, want %d; %d lines: %s", s.acts, tries, n, said.String())
			}
			s.refuses = nil
			s.at = s.at.Add(time.Minute)
			if s.once(t.Context()); len(s.changed) != next {
				t.Errorf("the next loop changed %v, want %d", s.changed, next)
			}
		})
	}

	t.Run("whatever says so", func(t *testing.T) { // somebody's webhook may refuse with the same code
		s := newStage(t, Options{})
		for _, s.namespace = range []string{"a", "shop"} {
			s.pods(6, nil)
			s.autoscaler(vpav1.UpdateModeInPlace, carefree)
		}
		s.refuses = func(namespace, _ string) error {
			if namespace == "shop" {
				return nil
			}
			return busy
		}
		for range 2 {
			s.once(t.Context())
			s.at = s.at.Add(time.Minute)
		}
		if len(s.changed) != 3 {
			t.Errorf("of the other workload were changed: %v", s.changed)
		}
	})
}

// TestBusyOnce: what was most urgent when the API server was busy is so again after two loops, and not an hour later, where it is others' turn.
func TestBusyOnce(t *testing.T) {
	s := newStage(t, Options{Patience: 24 * time.Hour}) // the pods of this API server stay as they are
	const frugal = `{"policy":"p","observation":"0s","cooldown":"0s","budget":{"clusterPerHour":2}}`
	s.namespace = "a"
	s.pods(2, func(pod *corev1.Pod) {
		is, c := amounts("1", "256Mi"), &pod.Status.ContainerStatuses[0]
		pod.Spec.Containers[0].Resources.Requests, c.Resources.Requests = is, is
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", FinishedAt: metav1.NewTime(s.at.Add(-time.Minute))}
	})
	s.autoscaler(vpav1.UpdateModeInPlace, frugal)
	s.namespace = "shop"
	s.pods(6, nil)
	s.autoscaler(vpav1.UpdateModeInPlace, frugal)
	s.memory.ledger.Add(rules.Change{At: s.at.Add(-30 * time.Minute), Namespace: "shop"})
	s.refuses = func(namespace, _ string) error {
		if namespace != "a" {
			t.Error("the other workload came first")
		}
		return apierrors.NewTooManyRequests("busy", 1)
	}
	s.once(t.Context())
	s.refuses = nil
	for minute := range 31 {
		s.at = s.at.Add(time.Minute)
		s.once(t.Context())
		if minute == 0 && (len(s.changed) != 1 || s.changed["a/web-1-0"]+s.changed["a/web-1-1"] != 0) {
			t.Errorf("the next loop changed %v, not one pod of the other workload", s.changed)
		}
	}
	if s.changed["a/web-1-0"]+s.changed["a/web-1-1"] != 1 || s.acts != 3 {
		t.Errorf("when the budget allows another change, it is %v, in %d tries", s.changed, s.acts)
	}
}

// TestAnEndIsRecorded: what was done before the process ends, or another one leads, is not forgotten.
func TestAnEndIsRecorded(t *testing.T) {
	s := newStage(t, Options{})
	s.pods(6, nil)
	s.autoscaler(vpav1.UpdateModeInPlace, carefree)
	ctx, end := context.WithCancel(t.Context())
	s.acted = end
	s.once(ctx)
	if s.acts != 1 {
		t.Errorf("%d pods were changed after the end", s.acts-1)
	}
	a := s.recorded()
	if len(s.records) != 1 || a.InPlace != 1 || !a.LastChange.Equal(s.at) || len(a.Recent) != 1 || a.Recent[0].InPlace != 1 {
		t.Errorf("%d records, the last is %+v", len(s.records), a)
	}
	idle := newStage(t, Options{})
	idle.pods(6, nil)
	idle.autoscaler(vpav1.UpdateModeInPlace, carefree)
	idle.once(ctx) // ended before it began
	if idle.acts != 0 || len(idle.records) != 0 {
		t.Errorf("%d pods were changed, %q recorded", idle.acts, idle.records)
	}
}

// TestOwnersThatAreSilent: an owner that does not say whether it is the controller stops nobody's updater.
func TestOwnersThatAreSilent(t *testing.T) {
	s := newStage(t, Options{})
	s.pods(6, func(pod *corev1.Pod) {
		pod.OwnerReferences = slices.Insert(pod.OwnerReferences, 0, metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Backup", Name: "nightly", UID: "nightly"})
	})
	s.autoscaler(vpav1.UpdateModeInPlace, carefree)
	s.once(t.Context())
	if s.acts != 3 {
		t.Errorf("%d pods were changed, want 3", s.acts)
	}
}

// TestClient: changes wait neither for the client's own pace, nor where the API server says to come again.
func TestClient(t *testing.T) {
	u, err := New(Options{}, Deps{Kube: &rest.Config{Host: "127.0.0.1:1"}, Who: agent.Identity{Component: "vpa-updater", Namespace: "nops"}, Others: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	if qps := u.kube.CoreV1().RESTClient().GetRateLimiter().QPS(); qps < 50 {
		t.Errorf("%g requests in a second: 300 resizes, and their Events, take %.0f seconds", qps, 600/qps)
	}
	for path, waits := range map[string]bool{
		"/api/v1/namespaces/shop/pods/a/eviction": false, "/api/v1/namespaces/shop/pods/a/resize": false, "/api/v1/pods": true,
	} {
		for _, code := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
			answer := httptest.NewRecorder()
			answer.Header().Set("Retry-After", "10")
			answer.WriteHeader(code)
			resp, err := impatient{roundTrip(func(*http.Request) (*http.Response, error) { return answer.Result(), nil })}.RoundTrip(httptest.NewRequest(http.MethodPost, path, nil))
			if err != nil || (resp.Header.Get("Retry-After") != "") != waits {
				t.Errorf("%s, %d: %v, %v", path, code, resp, err)
			}
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (r roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return r(q) }

// TestRecall: what one process recorded binds the next.
func TestRecall(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	ago := func(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }
	record := func(id types.UID, policy string, recent ...rightsizing.Spell) *plan {
		p := &plan{autoscaler: &autoscaler{}, settings: rules.Settings{Failures: 2, Rest: time.Hour}}
		p.UID, p.Namespace, p.settings.Policy, p.Application.Recent = id, "shop", policy, recent
		return p
	}
	plans := []*plan{
		record("a", "p", rightsizing.Spell{At: ago(120), InPlace: 5}, rightsizing.Spell{At: ago(30), InPlace: 2, Evicted: 1}),
		record("b", "p", rightsizing.Spell{At: ago(40), Failed: 1, Why: "b"}),
		record("c", "p", rightsizing.Spell{At: ago(90), Failed: 1, Why: "c"}),
		record("d", "q", rightsizing.Spell{At: ago(10), Failed: 1, Why: "d"}),
		record("e", "q", rightsizing.Spell{At: ago(130), Failed: 5, Why: "e"}),
		record("f", ""),
	}
	u := &Updater{memory: newMemory(now)}
	u.recall(plans, now)
	for _, p := range plans {
		u.memory.written[p.UID] = p.Application
	}
	u.recall(plans, now) // of what it has seen it knows more than was recorded

	for _, c := range []struct {
		budget rightsizing.Budget
		evict  bool
		until  time.Time // zero: it is not spent
	}{
		{rightsizing.Budget{ClusterPerHour: 4}, false, time.Time{}},
		{rightsizing.Budget{ClusterPerHour: 3}, false, ago(-30)},
		{rightsizing.Budget{NamespacePerHour: 3}, false, ago(-30)},
		{rightsizing.Budget{EvictionsPerHour: 2}, true, time.Time{}},
		{rightsizing.Budget{EvictionsPerHour: 1}, true, ago(-30)},
	} {
		if why, until := u.memory.ledger.Spent(c.budget, c.budget, "shop", c.evict, now); !until.Equal(c.until) {
			t.Errorf("%+v: %q until %s, want %s", c.budget, why, until, c.until)
		}
	}
	for policy, want := range map[string]time.Time{"p": ago(-20), "q": {}, "": {}} {
		if until, open := u.memory.breaker.Open(policy, plans[0].settings, now); open == want.IsZero() || !until.Equal(want) {
			t.Errorf("the circuit breaker of %q: open %t until %s, want %s", policy, open, until, want)
		}
	}
	for id, want := range map[types.UID]resting{"a": {}, "b": {ago(-20), "b"}, "d": {ago(-50), "d"}, "f": {}} {
		if got := u.memory.rests[id]; got != want {
			t.Errorf("%s rests until %s (%s), want %s (%s)", id, got.until, got.why, want.until, want.why)
		}
	}

	bounded := &Updater{memory: newMemory(now)}
	bounded.recall([]*plan{record("g", "p", rightsizing.Spell{At: ago(1), InPlace: math.MaxInt64, Evicted: math.MaxInt64, Failed: math.MaxInt64}, rightsizing.Spell{At: ago(1), InPlace: -1})}, now) // comes to an end
}

// TestSpells: what happens within a few minutes is one, which counts from its end on, and what is recorded is not changed under the informer.
func TestSpells(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 1, 0, time.UTC)
	var recent []rightsizing.Spell
	for _, after := range []time.Duration{0, time.Minute, 4*time.Minute + 58*time.Second, 5 * time.Minute} {
		before := slices.Clone(recent)
		now, spell := within(recent, at.Add(after))
		spell.InPlace++
		if !slices.Equal(recent, before) {
			t.Fatalf("after %s what was recorded became %+v", after, recent)
		}
		recent = now
	}
	want := []rightsizing.Spell{{At: at.Add(4*time.Minute + 58*time.Second), InPlace: 3}, {At: at.Add(5 * time.Minute), InPlace: 1}}
	if !slices.Equal(recent, want) {
		t.Errorf("%+v, want %+v", recent, want)
	}
	failed := rightsizing.Spell{At: at, InPlace: 1, Failed: 1}
	all := []rightsizing.Spell{failed, want[0], want[1]}
	for _, c := range []struct {
		after time.Duration
		want  []rightsizing.Spell
	}{
		{time.Hour - time.Second, all},
		{time.Hour + 4*time.Minute + 58*time.Second, []rightsizing.Spell{failed, want[1]}},
		{time.Hour + 29*time.Minute, []rightsizing.Spell{failed}}, // it opens the circuit breaker with one that comes an hour later, for half an hour
		{time.Hour + 30*time.Minute, []rightsizing.Spell{}},
	} {
		if got := lately(all, 30*time.Minute, at.Add(c.after)); !slices.Equal(got, c.want) {
			t.Errorf("after %s: %+v, want %+v", c.after, got, c.want)
		}
	}
	if !slices.Equal(all, []rightsizing.Spell{failed, want[0], want[1]}) {
		t.Errorf("what was recorded became %+v", all)
	}
}

// TestIgnoredNamespaces: nobody has to name those that nothing is ever changed in.
func TestIgnoredNamespaces(t *testing.T) {
	s := newStage(t, Options{Ignored: []string{"shop"}})
	s.pods(6, nil)
	s.autoscaler(vpav1.UpdateModeInPlace, carefree)
	s.once(t.Context())
	if a := s.recorded(); s.acts != 0 || a.State != rightsizing.StateRecommend || !strings.Contains(a.Message, "namespace shop is left alone") {
		t.Errorf("%d pods were changed: %+v", s.acts, a)
	}
	if want := []string{"shop", "nops", "kube-system"}; !slices.Equal(s.Ignored, want) {
		t.Errorf("%q are left alone, want %q", s.Ignored, want)
	}
}

// TestNames: a pod that is not there is told from a path that is not, as before Kubernetes 1.33, also where whoever answers says so in plain text.
func TestNames(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"the pod":                 {apierrors.NewNotFound(pods, "web-1"), true},
		"another object":          {apierrors.NewNotFound(pods, "web-2"), false},
		"the path":                {apierrors.NewGenericServerResponse(http.StatusNotFound, "PATCH", pods, "", "the server could not find the requested resource", 0, false), false},
		"the path, in plain text": {apierrors.NewGenericServerResponse(http.StatusNotFound, "PATCH", pods, "web-1", "404 page not found", 0, true), false},
	} {
		if got := names(c.err, "web-1"); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestLessMemoryByEvictions: that a limit is not lowered while its pod runs is about pods that are resized. Where they are evicted, they are for less
// memory alone, too.
func TestLessMemoryByEvictions(t *testing.T) {
	const resize, eviction = "resize", "eviction"
	missing := apierrors.NewGenericServerResponse(http.StatusNotFound, "PATCH", schema.GroupResource{Resource: "pods"}, "", "the server could not find the requested resource", 0, false)
	keeps := apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "web-1-0", field.ErrorList{field.Forbidden(field.NewPath("spec"), "memory limits cannot be decreased unless resizePolicy is RestartContainer")})
	denied := apierrors.NewBadRequest("admission webhook \"limits.example.com\" denied the request: nobody has so little") // without a code of its own
	for _, c := range []struct {
		name, minor string
		mode        vpav1.UpdateMode
		settings    string
		answer      error  // to resizes
		does, state string // what is done to pods, and what is told
		next        string // what is told a loop later, when nothing more was done; empty: whatever
	}{
		{"in place, it keeps the limit", "33", vpav1.UpdateModeInPlace, carefree, nil, "", rightsizing.StateApplied, rightsizing.StateApplied},
		{"in place if it can, it keeps the limit, too", "33", vpav1.UpdateModeInPlaceOrRecreate, carefree, nil, "", rightsizing.StateApplied, rightsizing.StateApplied},
		{"never in place", "33", vpav1.UpdateModeRecreate, "", nil, eviction, rightsizing.StatePending, ""},
		{"there is no resize", "30", vpav1.UpdateModeInPlaceOrRecreate, carefree, missing, resize + " " + eviction, rightsizing.StatePending, ""},
		{"there is no resize, and no eviction is allowed", "30", vpav1.UpdateModeInPlace, carefree, missing, resize, rightsizing.StateImpossible, ""},
		{"there is no resize, and none is asked for", "30", vpav1.UpdateModeRecreate, "", missing, eviction, rightsizing.StatePending, ""},
		{"it lowers limits", "34", vpav1.UpdateModeInPlace, carefree, nil, resize, rightsizing.StatePending, ""},
		{"somebody's webhook does not allow it", "34", vpav1.UpdateModeInPlace, carefree, denied, resize, rightsizing.StateImpossible, rightsizing.StateImpossible},
		{"somebody's webhook allows an eviction only", "34", vpav1.UpdateModeInPlaceOrRecreate, carefree, denied, resize + " " + eviction, rightsizing.StatePending, ""},
		{"it was upgraded just now", "32", vpav1.UpdateModeInPlaceOrRecreate, carefree, keeps, resize, rightsizing.StatePending, rightsizing.StateApplied},
		{"it was upgraded just now, and no eviction is allowed", "32", vpav1.UpdateModeInPlace, carefree, keeps, resize, rightsizing.StatePending, rightsizing.StateApplied},
		{"it does not say what it is", "", vpav1.UpdateModeInPlaceOrRecreate, carefree, keeps, resize, rightsizing.StatePending, rightsizing.StateApplied},
	} {
		s := newStage(t, Options{})
		s.pods(2, func(pod *corev1.Pod) {
			r := &pod.Spec.Containers[0].Resources
			r.Limits = r.Requests.DeepCopy()
			pod.Status.ContainerStatuses[0].Resources, pod.Status.QOSClass = r.DeepCopy(), corev1.PodQOSGuaranteed
		})
		a := s.autoscaler(c.mode, c.settings)
		less := amounts("1", "512Mi")
		a.Status.Recommendation.ContainerRecommendations[0] = vpav1.RecommendedContainerResources{ContainerName: "c", Target: less, LowerBound: less, UpperBound: less}
		kube, is := s.kube.(*fake.Clientset)
		if !is {
			t.Fatalf("%T", s.kube)
		}
		discovery, is := kube.Discovery().(*fakediscovery.FakeDiscovery)
		if !is {
			t.Fatalf("%T", kube.Discovery())
		}
		discovery.FakedServerVersion = &version.Info{Major: "1", Minor: c.minor}
		var did []string
		kube.PrependReactor("*", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
			if did = append(did, a.GetSubresource()); a.GetSubresource() == resize && c.answer != nil {
				return true, nil, c.answer
			}
			return false, nil, nil
		})
		s.once(t.Context())
		done := slices.Clone(did)
		slices.Sort(done)
		done = slices.Compact(done)
		slices.Reverse(done)
		if got := strings.Join(done, " "); got != c.does || s.recorded().State != c.state {
			t.Errorf("%s: %q, %+v, want %q, %s", c.name, got, s.recorded(), c.does, c.state)
		}
		if errors.Is(c.answer, keeps) && len(did) != 1 {
			t.Errorf("%s: %q: pods are changed by what was decided before it was known", c.name, did)
		}
		if tries := len(did); c.next != "" {
			s.at = s.at.Add(time.Minute)
			if s.once(t.Context()); len(did) != tries || s.memory.written["shop/first"].State != c.next {
				t.Errorf("%s: a loop later %q, %+v, want %s", c.name, did, s.memory.written["shop/first"], c.next)
			}
		}
	}
}

// TestKillsThatWait: windows, observation and a pause hold for memory that ran out, too; whoever looks why there is no more yet is told so.
func TestKillsThatWait(t *testing.T) {
	const rule = `{"policy":"p","cooldown":"0s",`
	const window = rule + `"observation":"0s","windows":[{"schedule":"0 22 * * *","duration":"2h"}]}`
	cases := []struct {
		name, settings string
		since          time.Duration // the kill
		has            string        // memory as it is; 512Mi is recommended
		reason         string
		state, says    string
		until          time.Duration
	}{
		{"window", window, time.Minute, "256Mi", "OOMKilled", rightsizing.StateWaiting, "container c was killed for want of memory, and has to wait: its window is closed until 2026-11-28 22:00 UTC; new pods are sized at once", 10 * time.Hour},
		{"window, since the evening", window, 9 * time.Hour, "256Mi", "OOMKilled", rightsizing.StateWaiting, "container c was killed for want of memory, and has to wait: its window is closed until 2026-11-28 22:00 UTC; new pods are sized at once", 10 * time.Hour},
		{"window, of something else", window, time.Minute, "256Mi", "Error", rightsizing.StateWaiting, "its window is closed", 10 * time.Hour},
		{"window, and it gets no more", window, time.Minute, "1Gi", "OOMKilled", rightsizing.StateWaiting, "its window is closed", 10 * time.Hour},
		{"observation", rule + `"observation":"72h"}`, time.Minute, "256Mi", "OOMKilled", rightsizing.StateWaiting, "container c was killed for want of memory, and has to wait: it is watched for 72h0m0s before it is changed for the first time; until then new pods are not sized either", 24 * time.Hour},
		{"observation, of something else", rule + `"observation":"72h"}`, time.Minute, "256Mi", "Error", rightsizing.StateWaiting, "it is watched for 72h0m0s before it is changed for the first time", 24 * time.Hour},
		{"pause", rule + `"paused":true}`, time.Minute, "256Mi", "OOMKilled", rightsizing.StateStopped, "container c was killed for want of memory, and has to wait: policy p is paused; until then new pods are not sized either", 0},
	}
	for _, c := range cases {
		s := newStage(t, Options{})
		pods := int32(0)
		s.pods(3, func(pod *corev1.Pod) {
			is, status := amounts("1", c.has), &pod.Status.ContainerStatuses[0]
			pod.Spec.Containers[0].Resources.Requests, status.Resources.Requests = is, is
			if pods++; pods == 2 { // the others merely wait
				status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: c.reason, FinishedAt: metav1.NewTime(s.at.Add(-c.since))}
			}
		})
		s.autoscaler(vpav1.UpdateModeInPlace, c.settings)
		s.once(t.Context())
		a := s.recorded()
		if a.State != c.state || a.Message != c.says {
			t.Errorf("%s: %s, %q, want %s, %q", c.name, a.State, a.Message, c.state, c.says)
		}
		if until := s.at.Add(c.until); a.NotBefore.IsZero() != (c.until == 0) || c.until > 0 && !a.NotBefore.Equal(until) {
			t.Errorf("%s: not before %s, want %s", c.name, a.NotBefore, until)
		}
	}
	if len(cases) != 7 {
		t.Errorf("%d cases, want 7", len(cases))
	}
}

// TestGuarded: what Java keeps is told by the name of the setting, for nothing else says why a pod has more than is recommended.
func TestGuarded(t *testing.T) {
	for name, c := range map[string]struct{ requests, limits corev1.ResourceList }{
		"640Mi": {amounts("500m", "640Mi"), amounts("2", "1Gi")},
		"1Gi":   {amounts("500m", "1Gi"), amounts("500m", "1Gi")}, // Guaranteed: it is the limit that is kept
	} {
		s := newStage(t, Options{})
		s.pods(3, func(pod *corev1.Pod) {
			one := &pod.Spec.Containers[0]
			one.Command, one.Resources = []string{"java", "-XX:MaxRAMPercentage=50"}, corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
		})
		s.autoscaler(vpav1.UpdateModeInPlace, carefree)
		s.once(t.Context())
		want := "every pod has what is recommended, or is close enough; jvm keeps the memory of container c at " + name +
			": Java's heap is up to 512Mi by its limit of 1Gi, and needs 640Mi with what is around it"
		if a := s.recorded(); a.State != rightsizing.StateApplied || a.Message != want {
			t.Errorf("%s, %q, want %q", a.State, a.Message, want)
		}
	}
}

// TestUnsupported: that nothing can be recommended for a workload is told as long as it is so.
func TestUnsupported(t *testing.T) {
	s := newStage(t, Options{})
	a := s.autoscaler(vpav1.UpdateModeInPlace, carefree)
	recommendation := a.Status.Recommendation
	a.Status.Recommendation = nil
	a.Status.Conditions = []vpav1.VerticalPodAutoscalerCondition{{Type: vpav1.ConfigUnsupported, Status: corev1.ConditionTrue, Message: "The target apps/v1.Deployment/web has a parent controller"}}
	s.once(t.Context())
	if a := s.recorded(); a.State != rightsizing.StateImpossible || !strings.Contains(a.Message, "has a parent controller") {
		t.Errorf("it is told: %+v", a)
	}
	a.Status.Conditions = nil
	s.once(t.Context())
	if a := s.recorded(); a.State != rightsizing.StateWaiting {
		t.Errorf("it is supported, and told: %+v", a)
	}
	a.Status.Recommendation = recommendation
	s.pods(2, nil)
	s.once(t.Context())
	if a := s.recorded(); a.State != rightsizing.StatePending || a.InPlace != 1 {
		t.Errorf("it is sized, and told: %+v", a)
	}
}

// TestYields: the state of a workload says why a resource is left to a HorizontalPodAutoscaler, where the policy controller noted it.
func TestYields(t *testing.T) {
	const helm, told = "HorizontalPodAutoscaler web is written by helm, which would put its target back", "HorizontalPodAutoscaler web scales on the utilization of "
	for _, c := range []struct {
		name, reason, settings, why, left string
		scaled                            []corev1.ResourceName
	}{
		{"noted", "one reason is enough", `"yield":["cpu"]`, `{"cpu":"` + helm + `"}`, "cpu is left alone: " + helm, []corev1.ResourceName{"cpu"}},
		{"noted of both", "each may have its own", `"yield":["cpu","memory"]`, `{"cpu":"` + helm + `","memory":"its template has none"}`, "cpu is left alone: " + helm + "; memory is left alone: its template has none", nil},
		{"not noted", "as by a policy controller of before", `"yield":["cpu"]`, "", told + "cpu", []corev1.ResourceName{"cpu"}},
		{"noted of another one", "of the rest it says what it sees", `"yield":["cpu"]`, `{"cpu":"` + helm + `"}`, told + "memory; cpu is left alone: " + helm, []corev1.ResourceName{"cpu", "memory"}},
		{"not to be read", "the same as nothing", `"yield":["cpu"]`, "because", "a HorizontalPodAutoscaler scales on cpu", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, Options{})
			s.others = scaled{by: map[corev1.ResourceName]string{}}
			for _, r := range c.scaled {
				s.others.(scaled).by[r] = told + string(r)
			}
			s.pods(2, nil)
			a := s.autoscaler(vpav1.UpdateModeInPlace, strings.TrimSuffix(carefree, "}")+","+c.settings+"}")
			if c.why != "" {
				a.Annotations[rightsizing.AnnotationYields] = c.why
			}
			s.once(t.Context())
			if a := s.recorded(); !strings.HasSuffix(a.Message, "; "+c.left) {
				t.Errorf("%q does not end in %q; %s", a.Message, c.left, c.reason)
			}
		})
	}
}

// scaled is nobody but a HorizontalPodAutoscaler.
type scaled struct {
	nobody

	by map[corev1.ResourceName]string
}

func (s scaled) Scaled(foreign.Ref) map[corev1.ResourceName]string { return s.by }

// TestTooFew: a workload that is to have fewer pods than minReplicas is never changed, and says by which field that is; one of which pods are missing
// for now is changed when they run.
func TestTooFew(t *testing.T) {
	const field = "spec.updatePolicy.minReplicas"
	web := metav1.ObjectMeta{Namespace: "shop", Name: "web-1"}
	deployment := func(n int32) func(*stage) {
		return func(s *stage) {
			s.add(s.kubeFactory.Apps().V1().Deployments().Informer().GetStore(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &n}})
		}
	}
	missing := func(s *stage) {
		pods := s.podFactory.Core().V1().Pods().Informer().GetStore()
		if err := pods.Delete(pods.List()[0]); err != nil {
			s.t.Fatal(err)
		}
	}
	// of has the pods be another controller's.
	of := func(kind string, add func(*stage)) func(*stage) {
		return func(s *stage) {
			for _, o := range s.podFactory.Core().V1().Pods().Informer().GetStore().List() {
				if pod, is := o.(*corev1.Pod); is {
					pod.OwnerReferences[0].Kind = kind
				}
			}
			add(s)
		}
	}
	one, two := int32(1), int32(2)
	job := func(parallelism, completions *int32) func(*stage) {
		return of("Job", func(s *stage) {
			s.add(s.kubeFactory.Batch().V1().Jobs().Informer().GetStore(), &batchv1.Job{ObjectMeta: web, Spec: batchv1.JobSpec{Parallelism: parallelism, Completions: completions}})
		})
	}
	for _, c := range []struct {
		name, reason string
		pods         int32
		edit         func(*stage)
		minReplicas  int32 // 0: none is said
		settings     string
		state, says  string
		acts         int
	}{
		{name: "one pod", reason: "its ReplicaSet is known", pods: 1, state: rightsizing.StateImpossible, says: "1 pod, fewer than minReplicas (2)"},
		{name: "one pod of a Deployment", reason: "that says it", pods: 1, edit: deployment(1), state: rightsizing.StateImpossible, says: field},
		{name: "three are wanted", reason: "as many pods as minReplicas are no matter", pods: 2, minReplicas: 3, state: rightsizing.StateImpossible, says: "2 pods, fewer than minReplicas (3)"},
		{name: "one is enough", reason: "its minReplicas say so", pods: 1, minReplicas: 1, state: rightsizing.StatePending, says: "just now", acts: 1},
		{name: "enough", reason: "", pods: 2, state: rightsizing.StatePending, acts: 1},
		{name: "a pod is missing", reason: "it comes back", pods: 2, edit: missing, state: rightsizing.StatePending},
		{name: "a rollout", reason: "the Deployment has more elsewhere", pods: 1, edit: deployment(3), state: rightsizing.StatePending},
		{name: "one is about to go", reason: "while it is there, there are enough", pods: 2, edit: deployment(1), state: rightsizing.StatePending, acts: 1},
		{name: "a policy's", reason: "minReplicas are not about it", pods: 1, settings: carefree, state: rightsizing.StatePending, says: "just now", acts: 1},
		{name: "a DaemonSet", reason: "of one node", pods: 1, edit: of("DaemonSet", func(s *stage) {
			s.add(s.kubeFactory.Apps().V1().DaemonSets().Informer().GetStore(), &appsv1.DaemonSet{ObjectMeta: web, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 1}})
		}), state: rightsizing.StateImpossible, says: field},
		{name: "a StatefulSet", reason: "", pods: 1, edit: of("StatefulSet", func(s *stage) {
			s.add(s.kubeFactory.Apps().V1().StatefulSets().Informer().GetStore(), &appsv1.StatefulSet{ObjectMeta: web, Spec: appsv1.StatefulSetSpec{Replicas: &one}})
		}), state: rightsizing.StateImpossible, says: field},
		{name: "a ReplicationController", reason: "", pods: 1, edit: of("ReplicationController", func(s *stage) {
			s.add(s.kubeFactory.Core().V1().ReplicationControllers().Informer().GetStore(), &corev1.ReplicationController{ObjectMeta: web, Spec: corev1.ReplicationControllerSpec{Replicas: &one}})
		}), state: rightsizing.StateImpossible, says: field},
		{name: "a Job", reason: "its work is done one by one", pods: 1, edit: job(&one, nil), state: rightsizing.StateImpossible, says: field},
		{name: "a Job that ends sooner", reason: "", pods: 1, edit: job(&two, &one), state: rightsizing.StateImpossible, says: field},
		{name: "a Job of two", reason: "the other one comes", pods: 1, edit: job(&two, nil), state: rightsizing.StatePending},
		{name: "a controller that is not known", reason: "nobody can say", pods: 1, edit: of("Other", func(*stage) {}), state: rightsizing.StatePending},
		{name: "a Rollout with two ReplicaSets", reason: "it is to have two", pods: 1, edit: func(s *stage) {
			for _, o := range s.podFactory.Core().V1().Pods().Informer().GetStore().List() {
				pod, is := o.(*corev1.Pod)
				if !is {
					s.t.Fatalf("%T", o)
				}
				other := pod.DeepCopy()
				other.Name, other.UID, other.OwnerReferences[0].Name, other.OwnerReferences[0].UID = "web-2-0", "web-2-0", "web-2", "web-2"
				s.add(s.podFactory.Core().V1().Pods().Informer().GetStore(), other)
			}
			s.add(s.kubeFactory.Apps().V1().ReplicaSets().Informer().GetStore(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-2"}, Spec: appsv1.ReplicaSetSpec{Replicas: &one}})
		}, state: rightsizing.StatePending},
	} {
		for _, mode := range []vpav1.UpdateMode{vpav1.UpdateModeInPlace, vpav1.UpdateModeInPlaceOrRecreate, vpav1.UpdateModeRecreate} {
			t.Run(fmt.Sprint(c.name, "/", mode), func(t *testing.T) {
				if c.settings != "" && mode == vpav1.UpdateModeRecreate {
					return // no policy has it
				}
				s := newStage(t, Options{})
				s.pods(c.pods, nil)
				if c.edit != nil {
					c.edit(s)
				}
				a := s.autoscaler(mode, c.settings)
				if c.minReplicas > 0 {
					a.Spec.UpdatePolicy.MinReplicas = &c.minReplicas
				}
				s.once(t.Context())
				if a := s.recorded(); a.State != c.state || !strings.Contains(a.Message, c.says) || s.acts != c.acts {
					t.Errorf("%d changes, %s: %q; want %d, %s: %q; %s", s.acts, a.State, a.Message, c.acts, c.state, c.says, c.reason)
				}
			})
		}
	}
}
