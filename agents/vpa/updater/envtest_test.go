package updater_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/agents/vpa/updater"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func TestMain(m *testing.M) {
	retarget.Ours()
	os.Exit(m.Run())
}

const soon = 30 * time.Second

// world is a cluster without kubelets, with an updater.
type world struct {
	*vpatest.Cluster

	t        *testing.T
	mu       sync.Mutex
	outcomes []nopsapi.Outcome
	ahead    time.Duration
	// between is between the updater and its API server, where it is set.
	between func(http.RoundTripper) http.RoundTripper
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *world) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

func (w *world) told(kind, pod string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, o := range w.outcomes {
		if o.Kind == kind && strings.HasPrefix(o.Pod, pod) {
			n++
		}
	}
	return n
}

func (w *world) start(o updater.Options) (stop func()) {
	w.t.Helper()
	if o.Every == 0 {
		o.Every = 200 * time.Millisecond
	}
	config := w.As("updater")
	if w.between != nil {
		config.Wrap(w.between)
	}
	u, err := updater.New(o, updater.Deps{
		Kube: config, Who: agent.Identity{Component: "vpa-updater", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "1"}, Candidate: fmt.Sprint("test-", time.Now().UnixNano()),
		Outcome: func(o nopsapi.Outcome) { w.mu.Lock(); defer w.mu.Unlock(); w.outcomes = append(w.outcomes, o) },
		Log:     slog.New(slog.NewTextHandler(w.t.Output(), nil)), Now: w.now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// answers renews the Lease by which the admission controller says that it answers, or lets it grow old.
func (w *world) answers(does bool) {
	w.t.Helper()
	leases := w.Client.CoordinationV1().Leases(agenttest.Namespace)
	at := metav1.NewMicroTime(time.Now())
	if !does {
		_ = leases.Delete(w.t.Context(), rightsizing.AdmissionService, metav1.DeleteOptions{})
		return
	}
	if _, err := leases.Create(w.t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: rightsizing.AdmissionService}, Spec: coordinationv1.LeaseSpec{RenewTime: &at}}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// stuck marks pods whose kubelet does nothing.
const stuck = "stuck"

// kubelets carry out resizes: what is asked for becomes what is.
func (w *world) kubelets(ctx context.Context) {
	for ctx.Err() == nil {
		pods, err := w.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: "!" + stuck})
		if err == nil {
			for i := range pods.Items {
				pod := &pods.Items[i]
				differs := false
				for _, list := range []struct {
					spec   []corev1.Container
					status []corev1.ContainerStatus
				}{{pod.Spec.Containers, pod.Status.ContainerStatuses}, {pod.Spec.InitContainers, pod.Status.InitContainerStatuses}} {
					for j := range list.status {
						if !equality.Semantic.DeepEqual(list.status[j].Resources, &list.spec[j].Resources) {
							differs, list.status[j].Resources = true, list.spec[j].Resources.DeepCopy()
						}
					}
				}
				if differs && len(pod.Status.Conditions) < 2 {
					_, _ = w.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// place is a namespace with a Deployment, its pods and an autoscaler.
type place struct {
	*world

	t  *testing.T
	ns string
	rs *appsv1.ReplicaSet
}

func (w *world) place(t *testing.T, replicas int32) *place {
	t.Helper()
	ns, err := w.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "case-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w.placeIn(t, ns.Name, replicas)
}

func (w *world) placeIn(t *testing.T, ns string, replicas int32) *place {
	t.Helper()
	p := &place{world: w, t: t, ns: ns}
	labels := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	d, err := w.Client.AppsV1().Deployments(p.ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	p.rs, err = w.Client.AppsV1().ReplicaSets(p.ns).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: d.UID, Controller: &yes}}},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func list(text string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i, part := range strings.Split(text, ",") {
		if part != "" {
			l[[]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]] = resource.MustParse(part)
		}
	}
	return l
}

// template has the ReplicaSet say what pods are made with; they are made by the tests all the same.
func (p *place) template(requests, limits string) {
	p.t.Helper()
	p.rs.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
	changed, err := p.Client.AppsV1().ReplicaSets(p.ns).Update(p.t.Context(), p.rs, metav1.UpdateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.rs = changed
}

// pod makes one that runs.
func (p *place) pod(name, requests, limits string, edit func(*corev1.Pod)) *corev1.Pod {
	p.t.Helper()
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: p.rs.Name, UID: p.rs.UID, Controller: &yes}}},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}}},
	}
	if edit != nil {
		edit(pod)
	}
	made, err := p.Client.CoreV1().Pods(p.ns).Create(p.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.report(name, func(s *corev1.PodStatus) {
		start := metav1.NewTime(time.Now().Add(-24 * time.Hour))
		s.Phase, s.StartTime = corev1.PodRunning, &start
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		status := func(c corev1.Container) corev1.ContainerStatus {
			return corev1.ContainerStatus{Name: c.Name, Image: "i", ImageID: "i", Ready: true, Resources: c.Resources.DeepCopy(), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}}}
		}
		s.ContainerStatuses, s.InitContainerStatuses = nil, nil
		for _, c := range made.Spec.Containers {
			s.ContainerStatuses = append(s.ContainerStatuses, status(c))
		}
		for _, c := range made.Spec.InitContainers {
			s.InitContainerStatuses = append(s.InitContainerStatuses, status(c))
		}
	})
	return made
}

// job makes a CronJob web with a Job, and gives pods to it.
func (p *place) job() func(*corev1.Pod) {
	p.t.Helper()
	yes := true
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	cron, err := p.Client.BatchV1().CronJobs(p.ns).Create(p.t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	job, err := p.Client.BatchV1().Jobs(p.ns).Create(p.t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "web", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return func(pod *corev1.Pod) {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "web-1", UID: job.UID, Controller: &yes}}
	}
}

// daemons makes a DaemonSet web of so many nodes, and gives pods to it.
func (p *place) daemons(nodes int32) func(*corev1.Pod) {
	p.t.Helper()
	yes, labels := true, map[string]string{"app": "web"}
	set, err := p.Client.AppsV1().DaemonSets(p.ns).Create(p.t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	set.Status.DesiredNumberScheduled = nodes
	if _, err := p.Client.AppsV1().DaemonSets(p.ns).UpdateStatus(p.t.Context(), set, metav1.UpdateOptions{}); err != nil {
		p.t.Fatal(err)
	}
	return func(pod *corev1.Pod) {
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "web", UID: set.UID, Controller: &yes}}
	}
}

// report is what a kubelet reports of a pod.
func (p *place) report(name string, edit func(*corev1.PodStatus)) {
	p.t.Helper()
	vpatest.Eventually(p.t, "the status of "+name, soon, func() bool {
		pod := p.get(name)
		if pod == nil {
			return false
		}
		edit(&pod.Status)
		_, err := p.Client.CoreV1().Pods(p.ns).UpdateStatus(p.t.Context(), pod, metav1.UpdateOptions{})
		return err == nil
	})
}

func (p *place) get(name string) *corev1.Pod {
	pod, err := p.Client.CoreV1().Pods(p.ns).Get(p.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return pod
}

// evicted says whether a pod was: without a kubelet it ends for ever.
func (p *place) evicted(name string) bool {
	pod := p.get(name)
	return pod == nil || pod.DeletionTimestamp != nil
}

func (p *place) requests(name string) string {
	pod := p.get(name)
	if pod == nil {
		return "gone"
	}
	r := pod.Spec.Containers[0].Resources.Requests
	return r.Cpu().String() + "," + r.Memory().String()
}

// scales makes a HorizontalPodAutoscaler that scales on CPU.
func (p *place) scales() {
	p.t.Helper()
	use := int32(80)
	if _, err := p.Client.AutoscalingV2().HorizontalPodAutoscalers(p.ns).Create(p.t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &use}}}},
		},
	}, metav1.CreateOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

// autoscaler makes one and recommends.
func (p *place) autoscaler(mode, settings, target string) {
	p.t.Helper()
	p.autoscalerOf("apps/v1", "Deployment", mode, settings, target)
}

func (p *place) autoscalerOf(apiVersion, kind, mode, settings, target string) {
	p.t.Helper()
	o := map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": "web"},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": apiVersion, "kind": kind, "name": "web"}, "updatePolicy": map[string]any{"updateMode": mode}},
	}
	u := &unstructured.Unstructured{Object: o}
	if settings != "" {
		u.SetAnnotations(map[string]string{rightsizing.AnnotationSettings: settings})
	}
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Create(p.t.Context(), u, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		p.t.Fatal(err)
	}
	p.recommend(target)
}

func (p *place) recommend(target string) {
	p.t.Helper()
	amounts := func() map[string]any {
		m := map[string]any{}
		for r, q := range list(target) {
			m[string(r)] = q.String()
		}
		return m
	}
	one := func(name string) map[string]any {
		return map[string]any{"containerName": name, "target": amounts(), "lowerBound": amounts(), "upperBound": amounts()}
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{"recommendation": map[string]any{"containerRecommendations": []any{one("c"), one("s")}}}})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(p.t.Context(), "web", types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) application() rightsizing.Application {
	var a struct {
		Status struct {
			Application rightsizing.Application `json:"application"`
		} `json:"status"`
	}
	u, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Get(p.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := u.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return a.Status.Application
}

// becomes waits for a state whose message has these words.
func (p *place) becomes(state, words string) rightsizing.Application {
	p.t.Helper()
	var a rightsizing.Application
	for deadline := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		if a = p.application(); a.State == state && strings.Contains(a.Message, words) {
			return a
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("it is %s (%s), want %s (%s)", a.State, a.Message, state, words)
		}
	}
}

// settings are those of a policy that does not watch first, and does not cool down unless it says so.
func settings(more string) string {
	s := `{"policy":"p","level":"BalancedSavings","observation":"0s","cooldown":"0s"`
	if more != "" {
		s += "," + more
	}
	return s + "}"
}

const inPlace = "InPlace"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Cluster: vpatest.New(t, vpatest.Options{}), t: t}
	node, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Capacity, node.Status.Allocatable = list("64,256Gi"), list("64,256Gi")
	if _, err := w.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	go w.kubelets(t.Context())
	return w
}

// infeasible is what a kubelet says of a resize that its node can never fit.
func infeasible(s *corev1.PodStatus) {
	s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible, Message: "node has 1 CPU", LastTransitionTime: metav1.Now()})
}

func TestUpdater(t *testing.T) {
	w := newWorld(t)
	options := updater.Options{Patience: 3 * time.Second}
	stop := w.start(options)
	defer func() { stop() }()

	t.Run("in place, all of them, and little is written", func(t *testing.T) {
		p := w.place(t, 4)
		for i := range 4 {
			p.pod(fmt.Sprint("a", i), "1,1Gi", "2,2Gi", nil)
		}
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		a := p.becomes(rightsizing.StateApplied, "close enough")
		if a.InPlace != 4 || a.Evicted != 0 || a.LastChange.IsZero() {
			t.Errorf("%+v", a)
		}
		for i := range 4 {
			if got := p.requests(fmt.Sprint("a", i)); got != "500m,512Mi" {
				t.Errorf("pod %d has %s", i, got)
			}
		}
		if l := p.get("a0").Spec.Containers[0].Resources.Limits; l.Cpu().String() != "1" || l.Memory().String() != "1Gi" {
			t.Errorf("limits keep their proportion: %v", l)
		}
		if n := w.told("in-place", "a"); n != 4 {
			t.Errorf("%d outcomes, want 4", n)
		}
		u, _ := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Get(t.Context(), "web", metav1.GetOptions{})
		time.Sleep(time.Second) // five loops
		again, _ := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Get(t.Context(), "web", metav1.GetOptions{})
		if u.GetResourceVersion() != again.GetResourceVersion() {
			t.Error("its status is written though nothing happens")
		}
		vpatest.Eventually(t, "an Event of the resize", soon, func() bool {
			events, err := w.Client.CoreV1().Events(p.ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return false
			}
			for _, e := range events.Items {
				if e.Reason == "InPlaceResizedByVPA" && e.InvolvedObject.Name == "a0" {
					return true
				}
			}
			return false
		})
	})

	t.Run("a native sidecar", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("b", "1,1Gi", "", func(pod *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			pod.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "i", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("1,1Gi")}}}
		})
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateApplied, "")
		if r := p.get("b").Spec.InitContainers[0].Resources.Requests; r.Cpu().String() != "500m" || r.Memory().String() != "512Mi" {
			t.Errorf("the sidecar has %v", r)
		}
	})

	t.Run("a DaemonSet", func(t *testing.T) {
		for _, nodes := range []int32{1, 3} {
			t.Run(fmt.Sprint(nodes), func(t *testing.T) {
				p := w.place(t, 1)
				owned := p.daemons(nodes)
				for i := range nodes {
					p.pod(fmt.Sprint("daemon", i), "1,1Gi", "", owned)
				}
				p.autoscalerOf("apps/v1", "DaemonSet", inPlace, settings(""), "500m,512Mi")
				if a := p.becomes(rightsizing.StateApplied, "close enough"); a.InPlace != int64(nodes) {
					t.Errorf("%+v", a)
				}
				for i := range nodes {
					if got := p.requests(fmt.Sprint("daemon", i)); got != "500m,512Mi" {
						t.Errorf("pod %d has %s", i, got)
					}
				}
			})
		}
	})

	t.Run("one pod", func(t *testing.T) {
		for _, c := range []struct{ name, settings, state, words, requests string }{
			{"in place", settings(""), rightsizing.StateApplied, "", "500m,512Mi"},
			{"never", settings(`"singleReplica":"Never"`), rightsizing.StateImpossible, "singleReplica Never", "1,1Gi"},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := w.place(t, 1)
				p.pod("c", "1,1Gi", "", nil)
				p.autoscaler(inPlace, c.settings, "500m,512Mi")
				p.becomes(c.state, c.words)
				if got := p.requests("c"); got != c.requests {
					t.Errorf("it has %s, want %s", got, c.requests)
				}
			})
		}
	})

	t.Run("steps are measured from what its pods have", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("step", "1,1Gi", "", nil)
		p.autoscaler(inPlace, strings.Replace(settings(`"maxStep":{"up":100,"down":50}`), `"cooldown":"0s"`, `"cooldown":"1h"`, 1), "8,100Mi")
		p.becomes(rightsizing.StateWaiting, "cools down")
		vpatest.Eventually(t, "it is recorded, for new pods", soon, func() bool {
			c := p.application().Requests["c"]
			cpu, memory := c["cpu"], c["memory"]
			return cpu.String() == "2" && memory.String() == "512Mi"
		})
		k := rules.KnownOf(p.application(), nil)
		if got := k.Sized["c"]; got.Cpu().String() != "2" || got.Memory().String() != "512Mi" {
			t.Errorf("known are %v", k.Sized)
		}
	})

	t.Run("what is not there any more is recorded once", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("renamed", "500m,512Mi", "", nil)
		p.autoscaler(inPlace, settings(`"maxStep":{"up":100}`), "500m,512Mi")
		p.becomes(rightsizing.StateApplied, "")
		// Its container had another name, under which it ran out of memory.
		body := `{"status":{"application":{"requests":{"s":{"cpu":"1","memory":"1Gi"}}},"explanations":[{"container":"s","resource":"memory","samples":1,"median":"0","percentile":0.9,"atPercentile":"0","peak":"0","margin":0,"local":"0","held":"1Gi","result":"1Gi"}]}}`
		if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(body), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "what it has to have is recorded, and nothing else", soon, func() bool {
			s, c := p.application().Requests["s"], p.application().Requests["c"]
			memory, is := s["memory"]
			return is && memory.String() == "1Gi" && len(s) == 1 && len(c) == 2
		})
		u, _ := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Get(t.Context(), "web", metav1.GetOptions{})
		time.Sleep(time.Second) // five loops
		again, _ := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Get(t.Context(), "web", metav1.GetOptions{})
		if u.GetResourceVersion() != again.GetResourceVersion() {
			t.Error("its status is written though nothing happens")
		}
	})

	t.Run("limits keep the template's proportion", func(t *testing.T) {
		p := w.place(t, 1)
		p.template("500m,1Gi", "1,2Gi")
		p.pod("proportion", "500m,512Mi", "1,2Gi", nil) // a limit that was kept while its request was lowered
		p.autoscaler(inPlace, settings(""), "500m,1Gi")
		p.becomes(rightsizing.StateApplied, "")
		if limit := p.get("proportion").Spec.Containers[0].Resources.Limits.Memory(); p.requests("proportion") != "500m,1Gi" || limit.String() != "2Gi" {
			t.Errorf("it has %s, and a limit of %s", p.requests("proportion"), limit)
		}
	})

	t.Run("its only pod would restart", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("d", "1,1Gi", "", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
		})
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateImpossible, "would restart")
		if got := p.requests("d"); got != "1,1Gi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("held", func(t *testing.T) {
		for _, c := range []struct{ name, mode, settings, state, words string }{
			{"paused", inPlace, settings(`"paused":true`), rightsizing.StateStopped, "policy p is paused"},
			{"garbage", inPlace, `{"policy":`, rightsizing.StateRecommend, "cannot be read"},
			{"off", "Off", settings(""), rightsizing.StateRecommend, "update mode is Off"},
			{"initial", "Initial", settings(""), rightsizing.StateWaiting, "new ones are sized"},
			{"observed", inPlace, `{"policy":"p","level":"BalancedSavings"}`, rightsizing.StateWaiting, "watched for 24h"},
			{"window", inPlace, settings(`"windows":[{"schedule":"` + w.now().UTC().Add(-2*time.Hour).Format("04 15 * * *") + `","duration":"1h"}]`), rightsizing.StateWaiting, "window is closed"},
			{"left to a HorizontalPodAutoscaler by the policy", inPlace, settings(`"yield":["cpu","memory"]`), rightsizing.StateApplied, "HorizontalPodAutoscaler scales on cpu"},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := w.place(t, 1)
				p.pod("e", "1,1Gi", "", nil)
				p.autoscaler(c.mode, c.settings, "500m,512Mi")
				a := p.becomes(c.state, c.words)
				if (c.name == "window" || c.name == "observed") != !a.NotBefore.IsZero() {
					t.Errorf("not before %s", a.NotBefore)
				}
				if got := p.requests("e"); got != "1,1Gi" {
					t.Errorf("it has %s", got)
				}
			})
		}
	})

	t.Run("somebody else's, by a mark on the workload", func(t *testing.T) {
		p := w.place(t, 1)
		if _, err := w.Client.AppsV1().Deployments(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"live.stormforge.io/auto-deploy":"Enabled"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the updater sees it
		p.pod("marked", "1,1Gi", "", nil)
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateElsewhere, "StormForge")
		if got := p.requests("marked"); got != "1,1Gi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("somebody else's", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("f", "1,1Gi", "", func(pod *corev1.Pod) { pod.Labels["scaleops.sh/managed"] = "true" })
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateElsewhere, "ScaleOps")
		if got := p.requests("f"); got != "1,1Gi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("CPU is left to a HorizontalPodAutoscaler that comes later", func(t *testing.T) {
		p := w.place(t, 1)
		p.template("1,1Gi", "")
		p.pod("later", "1,1Gi", "", nil)
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateApplied, "")
		vpatest.Eventually(t, "it is sized", soon, func() bool { return p.requests("later") == "500m,512Mi" })
		p.scales()
		vpatest.Eventually(t, "it has its template's CPU again, by which it is scaled", soon, func() bool { return p.requests("later") == "1,512Mi" })
	})

	t.Run("CPU that nobody here sized is left as it is", func(t *testing.T) {
		p := w.place(t, 1)
		p.template("1,1Gi", "")
		p.scales()
		time.Sleep(time.Second)
		p.pod("theirs", "250m,1Gi", "", nil) // somebody's webhook has less of it requested
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		vpatest.Eventually(t, "its memory is sized", soon, func() bool { return p.application().InPlace == 1 && strings.HasSuffix(p.requests("theirs"), ",512Mi") })
		time.Sleep(2 * time.Second) // ten loops that know that it was changed
		if got := p.requests("theirs"); got != "250m,512Mi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("CPU is left to a HorizontalPodAutoscaler", func(t *testing.T) {
		p := w.place(t, 1)
		p.scales()
		time.Sleep(time.Second)
		p.pod("g", "1,1Gi", "", nil)
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateApplied, "HorizontalPodAutoscaler web scales on the utilization of cpu")
		if got := p.requests("g"); got != "1,512Mi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("budget", func(t *testing.T) {
		p := w.place(t, 3)
		for i := range 3 {
			p.pod(fmt.Sprint("h", i), "1,1Gi", "", nil)
		}
		p.autoscaler(inPlace, settings(`"budget":{"namespacePerHour":2}`), "500m,512Mi")
		a := p.becomes(rightsizing.StateWaiting, "budget of 2 changes in the namespace")
		if a.InPlace != 2 || a.NotBefore.Sub(w.now()) > time.Hour || a.NotBefore.Before(w.now()) {
			t.Errorf("%+v", a)
		}
	})

	t.Run("cooldown, which a kill for want of memory does not wait for", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("i", "1,1Gi", "1,1Gi", nil)
		p.autoscaler(inPlace, strings.Replace(settings(""), `"cooldown":"0s"`, `"cooldown":"1h"`, 1), "500m,512Mi")
		p.becomes(rightsizing.StateApplied, "")
		p.recommend("700m,800Mi")
		if a := p.becomes(rightsizing.StateWaiting, "cools down"); a.NotBefore.IsZero() {
			t.Error("it does not say until when")
		}
		if got := p.requests("i"); got != "500m,512Mi" {
			t.Errorf("it has %s", got)
		}
		time.Sleep(1100 * time.Millisecond) // whole seconds are all that a status has
		p.report("i", func(s *corev1.PodStatus) {
			s.ContainerStatuses[0].LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.Now()}}
		})
		p.becomes(rightsizing.StateApplied, "")
		if got := p.requests("i"); got != "700m,800Mi" {
			t.Errorf("after the kill it has %s", got)
		}
		p.recommend("700m,900Mi") // the same kill does not speed up another change
		p.becomes(rightsizing.StateWaiting, "cools down")
		stop()
		stop = w.start(options)
		time.Sleep(3 * time.Second)
		if got := p.requests("i"); got != "700m,800Mi" {
			t.Errorf("a restart forgets that it cools down: it has %s", got)
		}
	})

	t.Run("cooldown is the workload's", func(t *testing.T) {
		p := w.place(t, 5)
		for i := range 4 {
			p.pod(fmt.Sprint("wave", i), "1,1Gi", "", nil)
		}
		p.autoscaler(inPlace, strings.Replace(settings(""), `"cooldown":"0s"`, `"cooldown":"1h"`, 1), "500m,512Mi")
		if a := p.becomes(rightsizing.StateApplied, "close enough"); a.InPlace != 4 {
			t.Errorf("one change is that of all its pods, half of them at a time: %+v", a)
		}
		p.pod("late", "1,1Gi", "", nil)
		p.becomes(rightsizing.StateWaiting, "cools down")
		if got := p.requests("late"); got != "1,1Gi" {
			t.Errorf("another pod is another change: it has %s", got)
		}
		w.add(61 * time.Minute)
		p.becomes(rightsizing.StateApplied, "close enough")
		if got := p.requests("late"); got != "500m,512Mi" {
			t.Errorf("afterwards it has %s", got)
		}
	})

	t.Run("a ResourceQuota without room", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("quota", "1,1Gi", "", nil)
		quotas := w.Client.CoreV1().ResourceQuotas(p.ns)
		hard := corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("1500m")}
		q, err := quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("1")}}
		if _, err := quotas.UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the updater sees it
		p.autoscaler(inPlace, settings(""), "2,2Gi")
		p.becomes(rightsizing.StateImpossible, "ResourceQuota team has no room")
		if n := w.told("refused", "quota"); n != 0 || p.requests("quota") != "1,1Gi" {
			t.Errorf("it was tried %d times, and has %s", n, p.requests("quota"))
		}
		p.recommend("1500m,2Gi")
		p.becomes(rightsizing.StateApplied, "")
	})

	t.Run("the class of service", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("j", "", "", nil)
		p.autoscaler(inPlace, settings(""), "500m,512Mi")
		p.becomes(rightsizing.StateImpossible, "class of service")
	})

	// What Kubernetes itself allows decides about two of our rules: if this changes, they may be loosened.
	t.Run("what a resize may", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("k", "1,1Gi", "2,2Gi", nil)
		patch := func(body string) error {
			_, err := w.Client.CoreV1().Pods(p.ns).Patch(t.Context(), "k", types.JSONPatchType, []byte(body), metav1.PatchOptions{DryRun: []string{"All"}}, "resize")
			return err
		}
		if err := patch(`[{"op":"remove","path":"/spec/containers/0/resources/limits/cpu"}]`); err == nil {
			t.Error("a resize may take a limit away: LimitsNone can do so for pods that run")
		}
		if err := patch(`[{"op":"replace","path":"/spec/containers/0/resources/limits/memory","value":"1Gi"}]`); err != nil {
			t.Errorf("a resize may lower a memory limit: %v", err)
		}
		if err := patch(`[{"op":"replace","path":"/spec/containers/0/resources/limits/memory","value":"1Gi"},{"op":"replace","path":"/spec/containers/0/resources/limits/cpu","value":"1"}]`); err == nil {
			t.Error("a resize may change the class of service: the check before it is not needed")
		}
	})

	t.Run("an eviction is impossible where it is not allowed", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		for _, c := range []struct {
			name, mode, settings string
			replicas             int32
			owner                string
		}{
			{"in place alone", inPlace, settings(`"apply":"InPlace"`), 3, "ReplicaSet"},
			{"in place alone, without settings", inPlace, "", 3, "ReplicaSet"},
			{"one pod", "InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), 1, "ReplicaSet"},
			{"one pod, never", "InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate","singleReplica":"Never"`), 1, "ReplicaSet"},
			{"work that would be lost", "InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), 3, "Job"},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := w.place(t, c.replicas)
				var owned func(*corev1.Pod)
				apiVersion, kind := "apps/v1", "Deployment"
				if c.owner == "Job" {
					apiVersion, kind, owned = "batch/v1", "CronJob", p.job()
				}
				for i := range c.replicas {
					name := fmt.Sprint("l", i)
					p.pod(name, "1,1Gi", "", owned)
					p.report(name, infeasible)
				}
				p.autoscalerOf(apiVersion, kind, c.mode, c.settings, "4,4Gi")
				p.becomes(rightsizing.StateImpossible, "")
				time.Sleep(time.Second) // five loops
				for i := range c.replicas {
					if p.evicted(fmt.Sprint("l", i)) {
						t.Errorf("pod %d was evicted", i)
					}
				}
				if n := w.told("evicted", "l"); n > 0 {
					t.Errorf("%d evictions were told", n)
				}
			})
		}
	})

	t.Run("evicted where it is allowed and needed", func(t *testing.T) {
		p := w.place(t, 4)
		for i := range 4 {
			name := fmt.Sprint("m", i)
			p.pod(name, "1,1Gi", "", nil)
			p.report(name, infeasible)
		}
		w.answers(false)
		p.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), "4,4Gi")
		p.becomes(rightsizing.StateWaiting, "admission controller does not answer")
		for i := range 4 {
			if p.evicted(fmt.Sprint("m", i)) {
				t.Fatalf("pod %d was evicted while nobody would size what comes instead", i)
			}
		}
		w.answers(true)
		defer w.answers(false)
		vpatest.Eventually(t, "two of four are evicted", soon, func() bool { return p.application().Evicted == 2 })
		time.Sleep(time.Second)
		n := 0
		for i := range 4 {
			if p.evicted(fmt.Sprint("m", i)) {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d are evicted, want 2: half of them stay", n)
		}
	})

	t.Run("namespaces that the webhook is not asked about", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		for _, ns := range []string{metav1.NamespaceSystem, agenttest.Namespace} {
			t.Run(ns, func(t *testing.T) {
				p := w.placeIn(t, ns, 2)
				for i := range 2 {
					p.pod(fmt.Sprint("dns", i), "1,1Gi", "", nil)
				}
				p.autoscaler("Recreate", "", "500m,512Mi")
				p.becomes(rightsizing.StateRecommend, "namespace "+ns+" is left alone")
				other := w.place(t, 2)
				for i := range 2 {
					other.pod(fmt.Sprint("other", i), "1,1Gi", "", nil)
				}
				other.autoscaler("Recreate", "", "500m,512Mi")
				vpatest.Eventually(t, "one of another namespace is evicted", soon, func() bool { return other.application().Evicted == 1 })
				for i := range 2 {
					if p.evicted(fmt.Sprint("dns", i)) {
						t.Errorf("pod %d was evicted, and would come back as it was", i)
					}
				}
			})
		}
	})

	t.Run("a pod that starts is waited for", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		starts := func(s *corev1.PodStatus) {
			s.Phase, s.Conditions, s.ContainerStatuses[0].Ready = corev1.PodPending, nil, false
			s.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
		}
		p := w.place(t, 2)
		p.pod("runs", "1,1Gi", "", nil)
		p.pod("starts", "1,1Gi", "", nil)
		p.report("starts", starts)
		p.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), "500m,512Mi")
		vpatest.Eventually(t, "the one that runs is resized", soon, func() bool { return p.requests("runs") == "500m,512Mi" })
		p.becomes(rightsizing.StatePending, "does not run yet")
		time.Sleep(time.Second) // five loops
		if p.evicted("starts") {
			t.Fatal("it was evicted")
		}
		p.report("starts", func(s *corev1.PodStatus) {
			s.Phase, s.ContainerStatuses[0].State = corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		})
		p.becomes(rightsizing.StateApplied, "")
		if got := p.requests("starts"); got != "500m,512Mi" || p.application().Evicted != 0 {
			t.Errorf("it has %s: %+v", got, p.application())
		}

		// It never runs, for what it needs first runs out of memory.
		q := w.place(t, 2)
		for i := range 2 {
			name := fmt.Sprint("killed", i)
			q.pod(name, "1,1Gi", "", func(pod *corev1.Pod) {
				always := corev1.ContainerRestartPolicyAlways
				pod.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "i", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("1,1Gi"), Limits: list("1,1Gi")}}}
			})
			q.report(name, func(s *corev1.PodStatus) {
				starts(s)
				s.InitContainerStatuses[0].Ready, s.InitContainerStatuses[0].State = false, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.NewTime(w.now())}}
			})
		}
		q.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), "1,2Gi")
		vpatest.Eventually(t, "it is evicted", soon, func() bool { return q.application().Evicted > 0 })
	})

	t.Run("what a node puts off is waited for five minutes, and no longer", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		for i := range 2 {
			p.pod(fmt.Sprint("x", i), "1,1Gi", "", nil)
			p.report(fmt.Sprint("x", i), func(s *corev1.PodStatus) {
				s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred, Message: "node is full", LastTransitionTime: metav1.NewTime(w.now())})
			})
		}
		p.autoscaler("InPlaceOrRecreate", "", "4,4Gi")
		p.becomes(rightsizing.StateWaiting, "no room for it now")
		w.add(4 * time.Minute)
		time.Sleep(time.Second) // five loops
		if a := p.application(); a.Evicted != 0 {
			t.Fatalf("after four minutes: %+v", a)
		}
		w.add(2 * time.Minute)
		vpatest.Eventually(t, "one is evicted", soon, func() bool { return p.application().Evicted == 1 })
	})

	t.Run("evictionRequirements", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		for _, mode := range []string{"Recreate", inPlace} {
			t.Run(mode, func(t *testing.T) {
				p := w.place(t, 2)
				for i := range 2 {
					p.pod(fmt.Sprint("y", i), "1,1Gi", "", nil)
				}
				p.autoscaler("Off", "", "500m,2Gi")
				up := `{"spec":{"updatePolicy":{"updateMode":"` + mode + `","evictionRequirements":[{"resources":["cpu"],"changeRequirement":"TargetHigherThanRequests"}]}}}`
				if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(up), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
				p.becomes(rightsizing.StateWaiting, "evictionRequirements")
				time.Sleep(time.Second) // five loops
				if a := p.application(); a.Evicted+a.InPlace != 0 {
					t.Fatalf("CPU goes down: %+v", a)
				}
				p.recommend("2,2Gi")
				vpatest.Eventually(t, "it is changed", soon, func() bool { a := p.application(); return a.Evicted+a.InPlace > 0 })
			})
		}
	})

	t.Run("one pod is evicted where somebody wants it", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 1)
		p.pod("n", "1,1Gi", "", nil)
		p.report("n", infeasible)
		p.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate","singleReplica":"Evict"`), "4,4Gi")
		vpatest.Eventually(t, "it is evicted", soon, func() bool { return p.evicted("n") })
	})

	t.Run("a PodDisruptionBudget", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 2)
		all := intstr.FromInt32(0)
		if _, err := w.Client.PolicyV1().PodDisruptionBudgets(p.ns).Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &all, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			p.pod(fmt.Sprint("o", i), "1,1Gi", "", nil)
			p.report(fmt.Sprint("o", i), infeasible)
		}
		p.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate"`), "4,4Gi")
		p.becomes(rightsizing.StateWaiting, "PodDisruptionBudget")
	})

	t.Run("as upstream without settings", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 4)
		for i := range 4 {
			p.pod(fmt.Sprint("q", i), "1,1Gi", "", nil)
		}
		p.autoscaler("Recreate", "", "500m,512Mi")
		vpatest.Eventually(t, "two of four are evicted", soon, func() bool { return p.application().Evicted == 2 })
		one := w.place(t, 1)
		one.pod("r", "1,1Gi", "", nil)
		one.autoscaler("Recreate", "", "500m,512Mi")
		one.becomes(rightsizing.StateImpossible, "to have 1 pod, fewer than minReplicas (2)")
		if one.evicted("r") {
			t.Error("a single replica was evicted")
		}
	})

	t.Run("a pod that comes back as it was", func(t *testing.T) {
		w.answers(true)
		defer w.answers(false)
		for _, c := range []struct {
			name  string
			sized bool
		}{{"not sized", false}, {"sized", true}} {
			t.Run(c.name, func(t *testing.T) {
				p := w.place(t, 2)
				for i := range 2 {
					p.pod(fmt.Sprint("v", i), "1,1Gi", "", nil)
					p.report(fmt.Sprint("v", i), infeasible)
				}
				p.autoscaler("InPlaceOrRecreate", strings.Replace(settings(`"apply":"InPlaceOrRecreate","budget":{"stopAfterFailures":1}`), `"policy":"p"`, `"policy":"deaf`+c.name+`"`, 1), "4,4Gi")
				vpatest.Eventually(t, "one is evicted", soon, func() bool { return p.application().Evicted == 1 })
				p.pod("w", "1,1Gi", "", func(pod *corev1.Pod) {
					if c.sized {
						pod.Annotations = map[string]string{"vpaUpdates": "Pod resources updated by web: container 0: cpu request"}
					}
				})
				if !c.sized {
					p.becomes(rightsizing.StateStopped, "did not take hold")
					if a := p.application(); a.Failed != 1 {
						t.Errorf("%+v", a)
					}
					return
				}
				time.Sleep(2 * time.Second)
				if a := p.application(); a.Failed != 0 || a.State == rightsizing.StateStopped {
					t.Errorf("%+v", a)
				}
			})
		}
	})

	t.Run("what is reverted in the middle of a change is no failure", func(t *testing.T) {
		policy := strings.Replace(settings(`"budget":{"stopAfterFailures":1}`), `"policy":"p"`, `"policy":"reverted"`, 1)
		p := w.place(t, 1)
		p.pod("x", "1,1Gi", "", func(pod *corev1.Pod) { pod.Labels[stuck] = "" })
		p.autoscaler(inPlace, policy, "500m,512Mi")
		vpatest.Eventually(t, "it is resized", soon, func() bool { return p.application().InPlace == 1 })
		body := fmt.Sprintf(`{"metadata":{"annotations":{%q:"2026-11-28T12:00:00Z"}}}`, rightsizing.AnnotationReverted)
		if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Patch(t.Context(), "web", types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		p.becomes(rightsizing.StateRecommend, "reverted")
		w.add(10 * time.Minute)
		other := w.place(t, 1)
		other.pod("y", "1,1Gi", "", nil)
		other.autoscaler(inPlace, policy, "500m,512Mi")
		other.becomes(rightsizing.StateApplied, "") // the policy's circuit breaker is closed
		if a := p.application(); a.Failed != 0 {
			t.Errorf("%+v", a)
		}
	})

	t.Run("a resize that nobody carries out opens the circuit breaker", func(t *testing.T) {
		policy := strings.Replace(settings(`"budget":{"stopAfterFailures":1,"stopForMinutes":30}`), `"policy":"p"`, `"policy":"stuck"`, 1)
		p := w.place(t, 1)
		p.pod("s", "1,1Gi", "", func(pod *corev1.Pod) { pod.Labels[stuck] = "" })
		p.autoscaler(inPlace, policy, "500m,512Mi")
		vpatest.Eventually(t, "it fails", soon, func() bool { return p.application().Failed == 1 })
		q := w.place(t, 1)
		q.pod("t", "1,1Gi", "", nil)
		q.autoscaler(inPlace, policy, "500m,512Mi")
		a := q.becomes(rightsizing.StateStopped, "did not take hold")
		if d := a.NotBefore.Sub(w.now()); d < 25*time.Minute || d > 31*time.Minute {
			t.Errorf("it rests for %s", d)
		}
		if got := q.requests("t"); got != "1,1Gi" {
			t.Errorf("it has %s", got)
		}
		other := w.place(t, 1)
		other.pod("u", "1,1Gi", "", nil)
		other.autoscaler(inPlace, settings(""), "500m,512Mi")
		other.becomes(rightsizing.StateApplied, "") // another policy goes on
		w.add(time.Hour)
		q.becomes(rightsizing.StateApplied, "")
	})

	t.Run("a window opens", func(t *testing.T) {
		p := w.place(t, 1)
		p.pod("night", "1,1Gi", "", nil)
		opens := w.now().UTC().Add(2 * time.Hour).Truncate(time.Minute)
		p.autoscaler(inPlace, settings(`"windows":[{"schedule":"`+opens.Format("04 15 * * *")+`","duration":"1h"}]`), "500m,512Mi")
		if a := p.becomes(rightsizing.StateWaiting, "window is closed"); !a.NotBefore.Equal(opens) || p.requests("night") != "1,1Gi" {
			t.Errorf("not before %s, want %s; it has %s", a.NotBefore, opens, p.requests("night"))
		}
		w.add(2*time.Hour + time.Minute)
		p.becomes(rightsizing.StateApplied, "")
		if got := p.requests("night"); got != "500m,512Mi" {
			t.Errorf("it has %s", got)
		}
	})

	t.Run("a pod of a CronJob that ended before it was looked at", func(t *testing.T) {
		stop()
		stop = w.start(updater.Options{Every: 8 * time.Second})
		p := w.place(t, 1)
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "night"}}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: list("1,1Gi")}}}}}
		cron, err := w.Client.BatchV1().CronJobs(p.ns).Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		yes := true
		job, err := w.Client.BatchV1().Jobs(p.ns).Create(t.Context(), &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "web", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: template},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.autoscalerOf("batch/v1", "CronJob", inPlace, settings(`"maxStep":{"up":100}`), "8,8Gi")
		p.becomes(rightsizing.StateApplied, "no pod runs") // in a loop that has just been; the next comes in a while
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: "web-1-a", Labels: template.Labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "web-1", UID: job.UID, Controller: &yes}},
		}, Spec: template.Spec}
		pod.Spec.NodeName, pod.Spec.Containers[0].Resources.Requests = "node", list("2,2Gi") // as the webhook sized it, one step from the template
		if _, err := w.Client.CoreV1().Pods(p.ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.report("web-1-a", func(s *corev1.PodStatus) { s.Phase = corev1.PodSucceeded })
		vpatest.Eventually(t, "it is recorded, for the next one", soon, func() bool {
			c := p.application().Requests["c"]
			cpu, memory := c["cpu"], c["memory"]
			return cpu.String() == "2" && memory.String() == "2Gi"
		})
	})
}

// looks waits until the updater, which was started just now, decides.
func (w *world) looks(t *testing.T) {
	t.Helper()
	p := w.place(t, 1)
	p.autoscaler("Off", "", "1,1Gi")
	p.becomes(rightsizing.StateRecommend, "update mode is Off")
	time.Sleep(time.Second) // five loops
}

// TestRestart: budgets, rests and the circuit breaker are those of the hour, whichever process it was that changed pods.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	options := updater.Options{Patience: 3 * time.Second}
	stop := func() {}
	defer func() { stop() }()
	restart := func(t *testing.T) {
		t.Helper()
		stop()
		stop = w.start(options)
		w.looks(t)
	}

	t.Run("changes in the cluster, by the strictest policy", func(t *testing.T) {
		var places []*place
		for _, most := range []int{5, 3} {
			p := w.place(t, 4)
			for i := range 4 {
				p.pod(fmt.Sprint("a", i), "1,1Gi", "", nil)
			}
			p.autoscaler(inPlace, settings(fmt.Sprintf(`"budget":{"clusterPerHour":%d}`, most)), "500m,512Mi")
			places = append(places, p)
		}
		defer func() { // it is the whole cluster's
			for _, p := range places {
				if err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(p.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			}
		}()
		sized := func() (n int) {
			for _, p := range places {
				for i := range 4 {
					if p.requests(fmt.Sprint("a", i)) == "500m,512Mi" {
						n++
					}
				}
			}
			return n
		}
		restart(t)
		for _, p := range places {
			p.becomes(rightsizing.StateWaiting, "budget of 3 changes in the cluster")
		}
		if n := sized(); n != 3 {
			t.Fatalf("%d pods are changed, want 3", n)
		}
		restart(t)
		if n := sized(); n != 3 {
			t.Fatalf("after a restart %d pods are changed, want 3", n)
		}
		w.add(66 * time.Minute) // what was within a few minutes is recorded as one
		vpatest.Eventually(t, "an hour later come the next", soon, func() bool { return sized() == 6 })
		time.Sleep(time.Second) // five loops
		if n := sized(); n != 6 {
			t.Errorf("%d pods are changed, want 6", n)
		}
	})

	t.Run("evictions in the cluster", func(t *testing.T) {
		restart(t)
		w.answers(true)
		defer w.answers(false)
		p := w.place(t, 6)
		for i := range 6 {
			name := fmt.Sprint("b", i)
			p.pod(name, "1,1Gi", "", nil)
			p.report(name, infeasible)
		}
		p.autoscaler("InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate","budget":{"evictionsPerHour":2}`), "4,4Gi")
		evicted := func() (n int) {
			for i := range 6 {
				if p.evicted(fmt.Sprint("b", i)) {
					n++
				}
			}
			return n
		}
		p.becomes(rightsizing.StateWaiting, "budget of 2 evictions in the cluster")
		if n := evicted(); n != 2 {
			t.Fatalf("%d pods are evicted, want 2", n)
		}
		restart(t)
		if n := evicted(); n != 2 { // the workload could spare three
			t.Fatalf("after a restart %d pods are evicted, want 2", n)
		}
		w.answers(false)
		w.answers(true)
		w.add(66 * time.Minute)
		vpatest.Eventually(t, "an hour later comes the next", soon, func() bool { return evicted() == 3 })
	})

	t.Run("what did not take hold", func(t *testing.T) {
		restart(t)
		policy := strings.Replace(settings(`"budget":{"stopAfterFailures":2,"stopForMinutes":30}`), `"policy":"p"`, `"policy":"stuck"`, 1)
		one := func(name string, labels ...string) *place {
			p := w.place(t, 1)
			p.pod(name, "1,1Gi", "", func(pod *corev1.Pod) {
				for _, l := range labels {
					pod.Labels[l] = ""
				}
			})
			p.autoscaler(inPlace, policy, "500m,512Mi")
			return p
		}
		rests := one("rests", stuck)
		vpatest.Eventually(t, "it fails", soon, func() bool { return rests.application().Failed == 1 })
		rests.recommend("600m,600Mi")
		before := rests.becomes(rightsizing.StateWaiting, "did not take hold")
		restart(t)
		if a := rests.application(); a.State != rightsizing.StateWaiting || a.Message != before.Message || a.NotBefore.Sub(before.NotBefore).Abs() > 5*time.Minute || rests.requests("rests") != "500m,512Mi" {
			t.Errorf("after a restart it has %s, and is %+v, before %+v", rests.requests("rests"), a, before)
		}
		second := one("second", stuck)
		vpatest.Eventually(t, "the second fails", soon, func() bool { return second.application().Failed == 1 })
		third := one("third")
		before = third.becomes(rightsizing.StateStopped, "2 changes within an hour did not take hold") // one of them before the restart
		restart(t)
		if a := third.application(); a.State != rightsizing.StateStopped || a.NotBefore.Sub(before.NotBefore).Abs() > 5*time.Minute || third.requests("third") != "1,1Gi" {
			t.Errorf("after a restart it has %s, and is %+v, before %+v", third.requests("third"), a, before)
		}
		w.add(35 * time.Minute)
		third.becomes(rightsizing.StateApplied, "")
	})
}

// rollout makes one, to which the ReplicaSet of the pods belongs.
func (p *place) rollout() {
	p.t.Helper()
	p.rs.OwnerReferences = []metav1.OwnerReference{p.Make(p.t, vpatest.Rollout(), p.ns, "web")}
	var err error
	if p.rs, err = p.Client.AppsV1().ReplicaSets(p.ns).Update(p.t.Context(), p.rs, metav1.UpdateOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

// operated gives the Deployment to an object of an operator's kind.
func (p *place) operated(k vpatest.Kind) {
	p.t.Helper()
	owner := p.Make(p.t, k, p.ns, "orders")
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []metav1.OwnerReference{owner}}})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Client.AppsV1().Deployments(p.ns).Patch(p.t.Context(), "web", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

// TestOwnersThatNobodyWatches: that one could not be looked at once is not remembered for long, and what was known of it before holds meanwhile. One
// whose pods are no autoscaler's is not looked at.
func TestOwnersThatNobodyWatches(t *testing.T) {
	w := newWorld(t)
	database := vpatest.Kind{Name: "Database", Plural: "databases"}
	w.Define(t, vpatest.Rollout(), database)
	server := &vpatest.Scales{}
	w.between = server.Between
	count := func(namespace string) int { return server.Asked(vpatest.Rollout().ScalePath(namespace, "web")) }
	bare := w.place(t, 1)
	bare.rollout()
	bare.pod("a", "1,1Gi", "", nil)
	p := w.place(t, 1)
	p.rollout()
	p.pod("a", "1,1Gi", "", nil)
	p.autoscalerOf("example.com/v1", "Rollout", inPlace, settings(""), "500m,512Mi")
	defer w.start(updater.Options{})()

	vpatest.Eventually(t, "the owner is looked at", soon, func() bool { return count(p.ns) > 0 })
	vpatest.Eventually(t, "its pod is sized", soon, func() bool { return p.requests("a") == "500m,512Mi" })
	if n := count(bare.ns); n != 0 {
		t.Errorf("the owner of pods that are no autoscaler's is looked at %d times", n)
	}

	p.becomes(rightsizing.StateApplied, "every pod")
	// An operator's Deployment is the workload, for what it belongs to cannot be scaled.
	operated := w.place(t, 1)
	operated.operated(database)
	operated.pod("a", "1,1Gi", "", nil)
	operated.autoscalerOf("apps/v1", "Deployment", inPlace, settings(""), "500m,512Mi")
	vpatest.Eventually(t, "an operator's pod is sized", soon, func() bool { return operated.requests("a") == "500m,512Mi" })
	w.answers(true)
	defer w.answers(false)
	full := w.place(t, 1)
	full.rollout()
	full.pod("a", "1,1Gi", "", nil)
	full.autoscalerOf("example.com/v1", "Rollout", "InPlaceOrRecreate", settings(`"apply":"InPlaceOrRecreate","singleReplica":"Evict"`), "1,1Gi")
	full.becomes(rightsizing.StateApplied, "every pod")

	server.Down(true)
	before := count(p.ns)
	vpatest.Eventually(t, "it is looked at in vain", soon, func() bool { return count(p.ns) > before+10 })
	p.recommend("600m,512Mi")
	vpatest.Eventually(t, "its pod is sized all the same", soon, func() bool { return p.requests("a") == "600m,512Mi" })
	p.becomes(rightsizing.StateApplied, "every pod")
	operated.recommend("600m,512Mi")
	vpatest.Eventually(t, "an operator's pod is sized all the same", soon, func() bool { return operated.requests("a") == "600m,512Mi" })
	full.report("a", infeasible) // by what its node says it has to be evicted
	full.recommend("4,4Gi")
	full.becomes(rightsizing.StatePending, "none is evicted meanwhile")
	if full.evicted("a") {
		t.Error("a pod is evicted while the webhook cannot know whose it is")
	}
	late := w.place(t, 1)
	late.rollout()
	late.pod("a", "1,1Gi", "", nil)
	late.autoscalerOf("example.com/v1", "Rollout", inPlace, settings(""), "500m,512Mi")
	late.becomes(rightsizing.StatePending, "which pods are its own")
	server.Down(false)
	vpatest.Eventually(t, "its pod is sized once it is known", soon, func() bool { return late.requests("a") == "500m,512Mi" })
	late.becomes(rightsizing.StateApplied, "every pod")
	vpatest.Eventually(t, "what has to be evicted is", soon, func() bool { return full.evicted("a") })
}
