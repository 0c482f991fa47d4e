package recommender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// meter is a source of usage of which tests say what it measures.
type meter struct {
	mu   sync.Mutex
	used map[string][2]string // pod, or pod/container where it is not the one called app → CPU and memory
	at   time.Time
}

func (m *meter) set(of, cpu, memory string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used == nil {
		m.used = map[string][2]string{}
	}
	m.used[of] = [2]string{cpu, memory}
}

// List implements metrics.PodMetricsLister; each answer is a minute later than the one before.
func (m *meter) List(context.Context, string, metav1.ListOptions) (*v1beta1.PodMetricsList, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.IsZero() {
		m.at = time.Now().Add(-24 * time.Hour)
	}
	m.at = m.at.Add(time.Minute)
	var list v1beta1.PodMetricsList
	for of, u := range m.used {
		pod, container, named := strings.Cut(of, "/")
		if !named {
			container = "app"
		}
		list.Items = append(list.Items, v1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod}, Timestamp: metav1.NewTime(m.at),
			Containers: []v1beta1.ContainerMetrics{{Name: container, Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(u[0]), corev1.ResourceMemory: resource.MustParse(u[1])}}},
		})
	}
	return &list, nil
}

// place is an API server with the chart's part of the nOps VPA, and workloads that nobody runs.
type place struct {
	*vpatest.Cluster

	t      *testing.T
	vpas   *vpaclient.Clientset
	scales vpatest.Scales // between the second one and its API server
	second *running
}

func (p *place) workload(name string, pods int, annotations map[string]string, edits ...func(*corev1.PodSpec)) {
	p.t.Helper()
	ctx := p.t.Context()
	labels := map[string]string{"app": name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("400Mi")}},
	}}}}
	for _, edit := range edits {
		edit(&template.Spec)
	}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	d, err := p.Client.AppsV1().Deployments("shop").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	yes := true
	rs, err := p.Client.AppsV1().ReplicaSets("shop").Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-1", Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: d.UID, Controller: &yes}}},
		Spec:       appsv1.ReplicaSetSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range pods {
		pod, err := p.Client.CoreV1().Pods("shop").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-1-%d", name, i), Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: rs.Name, UID: rs.UID, Controller: &yes}}},
			Spec:       template.Spec,
		}, metav1.CreateOptions{})
		if err != nil {
			p.t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}}
		if _, err := p.Client.CoreV1().Pods("shop").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *place) autoscaler(name, target, settings string, recommenders ...string) {
	p.t.Helper()
	spec := map[string]any{"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}
	var list []any
	for _, r := range recommenders {
		list = append(list, map[string]any{"name": r})
	}
	if list != nil {
		spec["recommenders"] = list
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": name, "namespace": "shop"}, "spec": spec}}
	if settings != "" {
		o.SetAnnotations(map[string]string{rightsizing.AnnotationSettings: settings})
	}
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Create(p.t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		p.t.Fatal(err)
	}
}

// seen is an autoscaler as kubectl has it.
type seen struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		ownStatus
		Application *rightsizing.Application `json:"application"`
	} `json:"status"`
}

func (p *place) see(name string) seen {
	p.t.Helper()
	o, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Get(p.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		p.t.Fatal(err)
	}
	var s seen
	if err := json.Unmarshal(raw, &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (s seen) target(name corev1.ResourceName) string {
	if s.Status.Recommendation == nil || len(s.Status.Recommendation.ContainerRecommendations) == 0 {
		return ""
	}
	q := s.Status.Recommendation.ContainerRecommendations[0].Target[name]
	return q.String()
}

func (s seen) condition(kind string) string {
	for _, c := range s.Status.Conditions {
		if string(c.Type) == kind {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

// running is a recommender that runs.
type running struct {
	rounds chan Round
	stop   context.CancelFunc
	done   chan struct{}
	err    error
	log    *agenttest.Buffer
	url    string
}

func (p *place) start(m *meter, platform push.Platform, candidate string, edits ...func(*Deps)) *running {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	run := &running{rounds: make(chan Round, 1000), stop: cancel, done: make(chan struct{}), log: &agenttest.Buffer{}, url: "http://" + listener.Addr().String()}
	deps := Deps{
		Kube: p.As("recommender"), Platform: platform, Version: "1.2.3", Candidate: candidate, Log: slog.New(slog.NewTextHandler(run.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Listener: listener,
		Round: func(r Round) {
			select {
			case run.rounds <- r:
			default:
			}
		},
	}
	if m != nil {
		deps.Metrics = m
	}
	for _, edit := range edits {
		edit(&deps)
	}
	r, err := New(Options{
		PlatformOptions: agent.PlatformOptions{ClusterARN: agenttest.ClusterARN}, ProcessOptions: agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release},
		Interval: time.Second, CheckpointEvery: time.Second,
	}, deps)
	if err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(run.done)
		run.err = r.Run(ctx)
	}()
	p.t.Cleanup(func() {
		run.end(p.t)
		if p.t.Failed() {
			p.t.Log(run.log.String())
		}
	})
	return run
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	if r.err != nil {
		t.Errorf("it ended with: %v", r.err)
	}
}

// refusal refuses to say what autoscalers say, a few times, and counts how often all of it is asked for.
type refusal struct {
	mu          sync.Mutex
	left, asked int
}

// into makes clients of the configuration, however many there are, refused so often together. The dynamic client, with which outcomes are looked for,
// is let through.
func (r *refusal) into(c *rest.Config) {
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return through(func(q *http.Request) (*http.Response, error) {
			asks := q.URL.Query()
			all := strings.HasSuffix(q.URL.Path, "/"+rightsizing.Group+"/"+rightsizing.Version+"/"+rightsizing.Autoscalers().Resource) && (!asks.Has("watch") || asks.Has("sendInitialEvents"))
			if all && r.refuses(q.Header.Get("Accept") == "application/json") {
				return nil, errors.New("the API server is busy")
			}
			return next.RoundTrip(q)
		})
	})
}

func (r *refusal) refuses(outcomes bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if outcomes {
		return false
	}
	r.left--
	return r.left >= 0
}

// through is a function as an http.RoundTripper.
type through func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (t through) RoundTrip(q *http.Request) (*http.Response, error) { return t(q) }

// next waits for rounds that began after now.
func (r *running) next(t *testing.T, n int) Round {
	t.Helper()
	for len(r.rounds) > 0 {
		<-r.rounds
	}
	var last Round
	for range n + 1 { // one may be on its way
		select {
		case last = <-r.rounds:
		case <-time.After(time.Minute):
			t.Fatalf("no round within a minute\n%s", r.log.String())
		}
	}
	return last
}

// TestAgainstKubernetes holds what one API server can show, with the rights that the chart gives.
func TestAgainstKubernetes(t *testing.T) {
	c := vpatest.New(t, vpatest.Options{})
	vpas, err := vpaclient.NewForConfig(c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{Cluster: c, t: t, vpas: vpas}
	if _, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const replicas = 30 // of which one runs out of memory: no percentile of the level sees it
	p.workload("web", replicas, nil)
	p.workload("plain", 2, nil)
	p.autoscaler("web", "web", balanced, rightsizing.RecommenderName)
	p.autoscaler("plain", "plain", "")
	p.autoscaler("foreign", "plain", "", "somebody-else")
	p.autoscaler("lost", "nothing", "")
	m := &meter{}
	for i := range replicas {
		m.set(fmt.Sprintf("web-1-%d", i), "500m", "200Mi")
	}
	for i := range 2 {
		m.set(fmt.Sprintf("plain-1-%d", i), "500m", "200Mi")
	}
	fixture := agenttest.NewPlatform(t, 0)
	const admin = "4242.d00dfeedd00dfeedd00dfeedd00dfeed"
	if err := fixture.AddKey(t.Context(), agenttest.Customer, "admin", admin, nopsapi.ScopeAdmin); err != nil {
		t.Fatal(err)
	}
	with := func(key string) *nopsclient.Client {
		c, err := nopsclient.New(nopsclient.Options{Host: "https://nops.test", Key: key, Attempts: 1, Transport: fixture})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	client := with(agenttest.APIKey)
	first := p.start(m, client, "first")
	first.next(t, 1)
	t.Run("status", func(t *testing.T) { testStatus(t, p, first) })
	t.Run("sparing", func(t *testing.T) { testSparing(t, p, first) })
	t.Run("endpoints", func(t *testing.T) { testEndpoints(t, first) })
	t.Run("elsewhere", func(t *testing.T) { testElsewhere(t, p, first) })
	t.Run("out of memory", func(t *testing.T) { testOOM(t, p, first) })
	t.Run("outcomes", func(t *testing.T) { testOutcomes(t, p, with(admin)) })
	t.Run("restart", func(t *testing.T) { testRestart(t, p, client, with(admin), first) })
	t.Run("a kind that nobody watches", func(t *testing.T) { testScales(t, p) })
	t.Run("runs without labels", func(t *testing.T) { testRunsWithoutLabels(t, p) })
	t.Run("one name of two", func(t *testing.T) { testOneName(t, p) })
	t.Run("metrics-server", func(t *testing.T) { testMetricsServer(t, p) })
	t.Run("a native sidecar", func(t *testing.T) { testSidecar(t, p, client) })
	if strings.Contains(first.log.String(), agenttest.APIKey) {
		t.Error("the log has the key")
	}
}

// What the updater records in an autoscaler reaches the platform, once for each change of it.
func testOutcomes(t *testing.T, p *place, person *nopsclient.Client) {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Second)
	record := func(a rightsizing.Application) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"status": map[string]any{"application": a}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Patch(t.Context(), "web", types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	// Another test has recorded three without saying when.
	record(rightsizing.Application{State: rightsizing.StatePending, Since: at, LastChange: at, InPlace: 5})
	record(rightsizing.Application{State: rightsizing.StateApplied, Since: at, LastChange: at, InPlace: 5}) // nothing was changed
	record(rightsizing.Application{State: rightsizing.StateImpossible, Message: "not in place: no", Since: at, LastChange: at, InPlace: 6, Evicted: 1})
	want := []string{"evicted: 1 pods were evicted to be sized", "in-place: 1 pods were resized in place", "in-place: 2 pods were resized in place", "refused: Impossible: not in place: no"}
	var got []string
	vpatest.Eventually(t, "the platform has been told", 30*time.Second, func() bool {
		all, err := person.Outcomes(t.Context(), agenttest.ClusterARN, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		for _, o := range all {
			if o.Kind != nopsapi.OutcomeOOM && o.Workload.Name == "web" && o.Workload.Namespace == "shop" {
				got = append(got, o.Kind+": "+o.Reason)
			}
		}
		return len(got) >= len(want)
	})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func testStatus(t *testing.T, p *place, run *running) {
	t.Helper()
	web, plain := p.see("web"), p.see("plain")
	if web.target("cpu") == "" || plain.target("cpu") == "" {
		t.Fatalf("%+v\n%+v\n%s", web, plain, run.log.String())
	}
	// 500m is in the bucket up to 511m; 15 % and 10 % more.
	if plain.target("memory") != "262144k" && plain.target("memory") != "250Mi" {
		t.Logf("memory of plain: %s", plain.target("memory"))
	}
	cpu, _ := resource.ParseQuantity(web.target("cpu"))
	if v := cpu.MilliValue(); v < 550 || v > 620 {
		t.Errorf("web: %s, want 500m and a bit, and 10 %%", cpu.String())
	}
	cpu, _ = resource.ParseQuantity(plain.target("cpu"))
	if v := cpu.MilliValue(); v < 575 || v > 640 {
		t.Errorf("plain: %s, want 500m and a bit, and 15 %%", cpu.String())
	}
	for name, s := range map[string]seen{"web": web, "plain": plain} {
		if got := s.condition("RecommendationProvided"); got != "True " {
			t.Errorf("%s: RecommendationProvided %q", name, got)
		}
		if got := s.condition("LowConfidence"); got != "True ShortHistory" {
			t.Errorf("%s: LowConfidence %q", name, got)
		}
		if s.Status.ObservedGeneration == nil || *s.Status.ObservedGeneration != 1 || len(s.Status.Explanations) != 2 || s.Status.Explanations[0].Resource != "cpu" || s.Status.Explanations[0].Samples == 0 || s.Status.Explanations[0].Since.IsZero() {
			t.Errorf("%s: %+v", name, s.Status)
		}
	}
	if web.Status.Explanations[0].Level != rightsizing.BalancedSavings || plain.Status.Explanations[0].Level != "" {
		t.Errorf("levels %q and %q", web.Status.Explanations[0].Level, plain.Status.Explanations[0].Level)
	}
	if s := p.see("foreign"); len(s.Status.Conditions) != 0 {
		t.Errorf("one for another recommender was written: %+v", s.Status)
	}
	if s := p.see("lost"); s.condition("ConfigUnsupported") != "True " || s.target("cpu") != "" {
		t.Errorf("one without a target: %+v", s.Status)
	}
}

// testSparing: rounds that find nothing new write nothing, and what the updater wrote stays through those that do.
func testSparing(t *testing.T, p *place, run *running) {
	t.Helper()
	applied := []byte(`{"status":{"application":{"state":"Applied","inPlace":3}}}`)
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Patch(t.Context(), "web", types.MergePatchType, applied, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	run.next(t, 1)
	before := map[string]string{"web": p.see("web").Metadata.ResourceVersion, "plain": p.see("plain").Metadata.ResourceVersion, "lost": p.see("lost").Metadata.ResourceVersion}
	if last := run.next(t, 3); last.Written != 0 || last.Autoscalers != 3 || last.Unchanged != 3 {
		t.Errorf("%+v", last)
	}
	for name, version := range before {
		if got := p.see(name).Metadata.ResourceVersion; got != version {
			t.Errorf("%s was written although nothing changed", name)
		}
	}
	// A new generation is observed; the application stays.
	edit := []byte(`{"spec":{"resourcePolicy":{"containerPolicies":[{"containerName":"*","minAllowed":{"cpu":"2"}}]}}}`)
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Patch(t.Context(), "web", types.MergePatchType, edit, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	run.next(t, 1)
	s := p.see("web")
	if s.target("cpu") != "2" || *s.Status.ObservedGeneration != 2 || s.Status.Application == nil || s.Status.Application.State != "Applied" || s.Status.Application.InPlace != 3 {
		t.Errorf("%+v", s.Status)
	}
	if steps := s.Status.Explanations[0].Steps; len(steps) != 1 || steps[0].Rule != "min" {
		t.Errorf("it is explained by %+v", steps)
	}
}

func testEndpoints(t *testing.T, run *running) {
	t.Helper()
	for path, wants := range map[string][]string{
		"/healthz": {"ok"}, "/readyz": {"ok"},
		"/metrics": {"nops_vpa_recommender_leading 1", `vpa_recommender_execution_latency_seconds_count{step="UpdateVPAs"}`, `vpa_recommender_metric_server_responses{client_name="kubelet",is_error="false"}`, "nops_vpa_recommender_autoscalers 3", "nops_agent_info"},
	} {
		res, err := http.Get(run.url + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		for _, want := range wants {
			if res.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
				t.Errorf("%s: %s, without %q", path, res.Status, want)
			}
		}
		if path == "/metrics" && strings.Count(string(text), "\ngo_goroutines ") != 1 {
			t.Error("what is known of the process is there twice, or not")
		}
	}
}

func testElsewhere(t *testing.T, p *place, run *running) {
	t.Helper()
	mark := func(value string) {
		patch := []byte(`{"metadata":{"annotations":{"scaleops.sh/managed":` + value + `}}}`)
		if _, err := p.Client.AppsV1().Deployments("shop").Patch(t.Context(), "plain", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mark(`"true"`)
	vpatest.Eventually(t, "that somebody else sizes it is said", time.Minute, func() bool { return p.see("plain").condition("ManagedElsewhere") == "True Found" })
	if p.see("plain").target("cpu") == "" {
		t.Error("it is not even recommended any more")
	}
	mark(`null`)
	vpatest.Eventually(t, "that nobody else does is said", time.Minute, func() bool { return p.see("plain").condition("ManagedElsewhere") == "" })
	run.next(t, 1)
}

func testOOM(t *testing.T, p *place, run *running) {
	t.Helper()
	pod, err := p.Client.CoreV1().Pods("shop").Get(t.Context(), "web-1-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	killed := &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.Now()}
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: killed}
	pod.Status.ContainerStatuses[0].RestartCount = 1
	if pod, err = p.Client.CoreV1().Pods("shop").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	vpatest.Eventually(t, "the memory is raised", time.Minute, func() bool { return p.see("web").target("memory") == "500Mi" })
	found := false
	for _, x := range p.see("web").Status.Explanations {
		if x.Resource == "memory" {
			found = x.Held != nil && x.Held.String() == "500Mi" && x.HeldSince.Equal(killed.FinishedAt.UTC().Truncate(time.Second)) && len(x.Steps) == 1 && x.Steps[0].Rule == "oom"
		}
	}
	if !found {
		t.Errorf("it is explained by %+v, want 500Mi held since %s: a restart would forget it", p.see("web").Status.Explanations, killed.FinishedAt)
	}
	// It runs again, and is measured: raised once.
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	pod.Status.ContainerStatuses[0].LastTerminationState = corev1.ContainerState{Terminated: killed}
	if _, err := p.Client.CoreV1().Pods("shop").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	run.next(t, 3)
	if got := p.see("web").target("memory"); got != "500Mi" {
		t.Errorf("%s after a few rounds, want 500Mi", got)
	}
}

// testSidecar: a native sidecar is measured, and raised once it was killed, as any container; an init container that ends is not.
func testSidecar(t *testing.T, p *place, client *nopsclient.Client) {
	t.Helper()
	p.second.end(t)
	m := &meter{}
	p.start(m, client, "third")
	p.workload("meshed", 1, nil, func(s *corev1.PodSpec) {
		always := corev1.ContainerRestartPolicyAlways
		s.InitContainers = []corev1.Container{{Name: "setup", Image: "app"}, {Name: "mesh", Image: "app", RestartPolicy: &always, Resources: s.Containers[0].Resources}}
	})
	p.autoscaler("meshed", "meshed", "")
	for of, cpu := range map[string]string{"meshed-1-0": "500m", "meshed-1-0/mesh": "300m", "meshed-1-0/setup": "700m"} {
		m.set(of, cpu, "200Mi")
	}
	of := func(container string, name corev1.ResourceName) (quantity resource.Quantity) {
		if r := p.see("meshed").Status.Recommendation; r != nil {
			for _, c := range r.ContainerRecommendations {
				if c.ContainerName == container {
					quantity = c.Target[name]
				}
			}
		}
		return quantity
	}
	vpatest.Eventually(t, "both are recommended what they use", time.Minute, func() bool {
		app, mesh := of("app", corev1.ResourceCPU), of("mesh", corev1.ResourceCPU)
		return app.MilliValue() > 550 && app.MilliValue() < 660 && mesh.MilliValue() > 330 && mesh.MilliValue() < 400
	})
	if setup := of("setup", corev1.ResourceCPU); !setup.IsZero() {
		t.Errorf("the init container is recommended %s", setup.String())
	}
	pod, err := p.Client.CoreV1().Pods("shop").Get(t.Context(), "meshed-1-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mesh := corev1.ContainerStatus{Name: "mesh", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}
	killed := mesh
	killed.RestartCount, killed.State = 1, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.Now()}}
	for _, status := range []corev1.ContainerStatus{mesh, killed} {
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{status}
		if pod, err = p.Client.CoreV1().Pods("shop").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	vpatest.Eventually(t, "its memory is raised", time.Minute, func() bool { memory := of("mesh", corev1.ResourceMemory); return memory.Value() >= 500<<20 })
	if memory := of("app", corev1.ResourceMemory); memory.Value() >= 400<<20 {
		t.Errorf("its neighbour has %s", memory.String())
	}
}

// testRestart: what was learnt is stored when the process ends, and is there when the next begins, before anything is measured.
func testRestart(t *testing.T, p *place, client, admin *nopsclient.Client, first *running) {
	t.Helper()
	before := map[string]seen{"web": p.see("web"), "plain": p.see("plain")}
	first.end(t)
	stored, err := p.vpas.AutoscalingV1().VerticalPodAutoscalerCheckpoints("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(stored.Items) != 2 {
		t.Fatalf("%d checkpoints, want 2: %v", len(stored.Items), err)
	}
	for _, c := range stored.Items {
		if c.Status.TotalSamplesCount == 0 || time.Since(c.Status.LastUpdateTime.Time) > time.Minute {
			t.Errorf("%s: %+v", c.Name, c.Status)
		}
	}
	lease, err := p.Client.CoordinationV1().Leases(agenttest.Namespace).Get(t.Context(), "nops-vpa-recommender", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "" {
		t.Errorf("the lease is held by %v: %v", lease.Spec.HolderIdentity, err)
	}
	// What the platform recommends now is taken by the next process.
	ref := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
	now := time.Now().UTC().Truncate(time.Second)
	list := nopsapi.Recommendations{
		FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: 41, AsOf: now, ValidUntil: now.Add(time.Hour)},
		Workloads:  []nopsapi.WorkloadRecommendation{{WorkloadRef: ref, Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{{Name: "app", CPU: nopsapi.Recommended{Target: 3}, Days: 30, Samples: 43200}}}},
	}
	if _, err := admin.PublishRecommendations(t.Context(), agenttest.ClusterARN, list); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	// Who asks for what autoscalers say is refused at first. Without it what is held would be gone for ever: the first round writes.
	busy := &refusal{left: 4}
	second := p.start(nil, client, "second", func(d *Deps) { // asks kubelets, of which there is none
		d.Kube.Wrap(p.scales.Between)
		busy.into(d.Kube)
		d.Rand = func() float64 { return 0.1 }
	})
	select {
	case <-second.rounds:
	case <-time.After(time.Minute):
		t.Fatalf("no round\n%s", second.log.String())
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the first round after a restart took %s", took)
	}
	log := second.log.String()
	if n := strings.Count(log, "the API server is busy"); n != 4 {
		t.Errorf("%d refusals are told, and the log is\n%s", n, log)
	}
	busy.mu.Lock()
	if busy.asked != 4+2 { // by who recommends, and by who looks for outcomes
		t.Errorf("all autoscalers are asked for %d times, want twice besides what was refused", busy.asked)
	}
	busy.mu.Unlock()
	if taken := strings.Index(log, "recommendations taken"); taken >= 0 && taken < strings.LastIndex(log, "the API server is busy") {
		t.Errorf("the platform was asked before it was known which number was taken last\n%s", log)
	}
	p.second = second
	second.next(t, 2)
	if got := p.see("plain"); got.target("cpu") != before["plain"].target("cpu") || got.target("memory") != before["plain"].target("memory") {
		t.Errorf("plain: %s and %s, before %s and %s", got.target("cpu"), got.target("memory"), before["plain"].target("cpu"), before["plain"].target("memory"))
	}
	vpatest.Eventually(t, "the platform's recommendation is in force", time.Minute, func() bool { return p.see("web").target("cpu") == "3" })
	got := p.see("web")
	if got.target("memory") != "500Mi" || got.condition(rightsizing.ConditionPlatform) != "True InForce" {
		t.Errorf("web: %s, want what was held before; %q", got.target("memory"), got.condition(rightsizing.ConditionPlatform))
	}
	vpatest.Eventually(t, "the platform knows for what recommendations are wanted", time.Minute, func() bool {
		all, err := admin.RightsizedWorkloads(t.Context(), agenttest.ClusterARN)
		return err == nil && len(all.Workloads) == 1 && all.Workloads[0].WorkloadRef == ref && len(all.Workloads[0].Containers) == 1
	})
	if strings.Contains(second.log.String(), "forbidden") {
		t.Error("the chart gives too little:\n" + second.log.String())
	}
	told, err := admin.Outcomes(t.Context(), agenttest.ClusterARN, time.Time{})
	told = slices.DeleteFunc(told, func(o nopsapi.Outcome) bool { return o.Kind != nopsapi.OutcomeOOM }) // the others are asked for above
	if err != nil || len(told) != 1 || told[0].Kind != nopsapi.OutcomeOOM || told[0].Workload != ref || told[0].Pod != "web-1-1" {
		t.Errorf("outcomes %+v, %v", told, err)
	}
	// An autoscaler that is deleted is forgotten.
	if err := p.vpas.AutoscalingV1().VerticalPodAutoscalers("shop").Delete(t.Context(), "plain", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if last := second.next(t, 1); last.Autoscalers != 2 {
		t.Errorf("%+v", last)
	}
}

// testRunsWithoutLabels: a CronJob as kubectl makes it, whose run is killed before anybody has seen it run.
func testRunsWithoutLabels(t *testing.T, p *place) {
	t.Helper()
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
		Name: "app", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("400Mi")}},
	}}}}
	cron, err := p.Client.BatchV1().CronJobs("shop").Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "night"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	job, err := p.Client.BatchV1().Jobs("shop").Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "night-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "night", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": "night", "namespace": "shop", "annotations": map[string]any{rightsizing.AnnotationSettings: balanced}},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": "batch/v1", "kind": "CronJob", "name": "night"}},
	}}
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Create(t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	vpatest.Eventually(t, "it is said that nothing is known of it yet", time.Minute, func() bool { return p.see("night").condition("NoPodsMatched") == "True NoPodsMatched" })
	pod, err := p.Client.CoreV1().Pods("shop").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "night-1-x", Labels: job.Spec.Template.Labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID, Controller: &yes}}}, Spec: template.Spec,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.Now()}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: killed}}}
	if _, err := p.Client.CoreV1().Pods("shop").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	held := ""
	vpatest.Eventually(t, "the next run is given more", time.Minute, func() bool {
		for _, x := range p.see("night").Status.Explanations {
			if x.Resource == "memory" && x.Held != nil {
				held = x.Held.String()
			}
		}
		return held != ""
	})
	if held != "500Mi" || p.see("night").condition("NoPodsMatched") != "" {
		t.Errorf("%s are held, want 500Mi; %+v", held, p.see("night").Status.Conditions)
	}
}

// testMetricsServer: whom the chart lets ask.
func testMetricsServer(t *testing.T, p *place) {
	t.Helper()
	c, err := kubernetes.NewForConfig(p.As("recommender"))
	if err != nil {
		t.Fatal(err)
	}
	review, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "metrics.k8s.io", Resource: "pods", Verb: "list"},
	}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Allowed {
		t.Errorf("it may not ask metrics-server: %+v, %v", review, err)
	}
}

// testScales: while the API server fails to say what a Rollout is, what it said before holds.
func testScales(t *testing.T, p *place) {
	t.Helper()
	p.Define(t, vpatest.Rollout())
	p.Make(t, vpatest.Rollout(), "shop", "canary")
	if _, err := p.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": "canary", "namespace": "shop"},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": "example.com/v1", "kind": "Rollout", "name": "canary"}},
	}}, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	supported := func() bool {
		s := p.see("canary")
		return s.Status.Conditions != nil && s.condition("ConfigUnsupported") == ""
	}
	vpatest.Eventually(t, "the first question fails, and not for long", 30*time.Second, supported)
	p.scales.Down(true)
	defer p.scales.Down(false)
	before := p.scales.Asked(vpatest.Rollout().ScalePath("shop", "canary"))
	p.second.next(t, 10) // what upstream remembers is read anew every 7 s
	if n := p.scales.Asked(vpatest.Rollout().ScalePath("shop", "canary")) - before; n < 10 {
		t.Errorf("it was asked %d times in ten rounds", n)
	}
	if !supported() {
		t.Errorf("%+v", p.see("canary").Status.Conditions)
	}
}

// testOneName: two autoscalers whose checkpoints would have the same name do not write to each other's; it is the API server that says so.
func testOneName(t *testing.T, p *place) {
	t.Helper()
	if _, err := p.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "names"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster := clusterstate.New(time.Hour)
	w := checkpoint.NewWriter(cluster, p.vpas.AutoscalingV1(), checkpoint.Options{Interval: -1, Refresh: -1, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	containers := map[string]string{"web": "api-proxy", "web-api": "proxy"}
	for range 2 {
		for name, container := range containers {
			id := model.ContainerID{PodID: model.PodID{Namespace: "names", PodName: name}, ContainerName: container}
			vpa := &vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "names", Name: name}}
			cluster.AddOrUpdatePod(id.PodID, labels.Set{"app": name}, corev1.PodRunning)
			if err := errors.Join(cluster.AddOrUpdateVpa(vpa, labels.SelectorFromSet(labels.Set{"app": name})), cluster.AddOrUpdateContainer(id, nil), cluster.AddSample(&model.ContainerUsageSampleWithKey{
				Container: id, ContainerUsageSample: model.ContainerUsageSample{MeasureStart: time.Now(), Resource: model.ResourceCPU, Usage: 100}})); err != nil {
				t.Fatal(err)
			}
		}
		w.Flush(t.Context(), 1)
	}
	stored, err := p.vpas.AutoscalingV1().VerticalPodAutoscalerCheckpoints("names").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(stored.Items) != 2 || w.Stats().Failed > 0 {
		t.Fatalf("%d checkpoints, want 2: %v, %+v", len(stored.Items), err, w.Stats())
	}
	for _, c := range stored.Items {
		if containers[c.Spec.VPAObjectName] != c.Spec.ContainerName || c.Status.TotalSamplesCount != 2 {
			t.Errorf("%s: %+v, %d samples", c.Name, c.Spec, c.Status.TotalSamplesCount)
		}
	}
}
