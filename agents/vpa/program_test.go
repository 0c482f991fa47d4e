package vpa

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// TestWhoElse: revert leaves pods of others alone, and does not wait for ever to know whose they are.
func TestWhoElse(t *testing.T) {
	cluster := vpatest.New(t, vpatest.Options{})
	marked := &metav1.ObjectMeta{Annotations: map[string]string{"live.stormforge.io/auto-deploy": "Enabled"}}
	for _, c := range []struct {
		name     string
		kube     *rest.Config
		patience time.Duration
		said     string
	}{
		{"the API server answers", cluster.As("policy"), time.Minute, ""},
		{"nobody does", &rest.Config{Host: "127.0.0.1:1"}, 100 * time.Millisecond, "It is not known who else sizes workloads"},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := ""
			who, stop, err := whoElse(t.Context(), c.kube, c.patience, func(format string, args ...any) { said += fmt.Sprintf(format, args...) })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if !strings.HasPrefix(said, c.said) || (said == "") != (c.said == "") {
				t.Errorf("it said %q, want %q", said, c.said)
			}
			if by, err := who("Deployment", "default", "web", &metav1.ObjectMeta{}); by != "" || err != nil {
				t.Errorf("nobody sizes it: %q, %v", by, err)
			}
			if by, err := who("Deployment", "default", "web", &metav1.ObjectMeta{}, marked); !strings.HasPrefix(by, "StormForge") || err != nil {
				t.Errorf("it is StormForge's: %q, %v", by, err)
			}
		})
	}
}

// TestLeave: a pod that is made stays as it is where somebody else sizes its workload, however that is told.
func TestLeave(t *testing.T) {
	cluster := vpatest.New(t, vpatest.Options{})
	finder, err := foreign.New(cluster.As("admission-controller"), foreign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = finder.Run(ctx) })
	defer group.Wait()
	defer cancel()
	vpatest.Eventually(t, "it is known who else sizes workloads", 30*time.Second, func() bool { return finder.Ready() == nil })
	mode := vpav1.UpdateModeInPlace
	vpa := &vpav1.VerticalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: vpav1.VerticalPodAutoscalerSpec{
			TargetRef: &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, UpdatePolicy: &vpav1.PodUpdatePolicy{UpdateMode: &mode},
		},
		Status: vpav1.VerticalPodAutoscalerStatus{Recommendation: &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{{ContainerName: "web"}}}},
	}
	plain := metav1.ObjectMeta{Namespace: "default", Name: "web"}
	marked := *plain.DeepCopy()
	marked.Annotations = map[string]string{"live.stormforge.io/auto-deploy": "Enabled"}
	note := func(key, value string) func(*vpav1.VerticalPodAutoscaler) {
		return func(vpa *vpav1.VerticalPodAutoscaler) { vpa.Annotations = map[string]string{key: value} }
	}
	settings := func(more string) func(*vpav1.VerticalPodAutoscaler) {
		return note(rightsizing.AnnotationSettings, `{"policy":"p","level":"BalancedSavings",`+more+`}`)
	}
	for _, c := range []struct {
		name     string
		workload metav1.Object
		pod      metav1.ObjectMeta
		ignored  []string
		edit     func(*vpav1.VerticalPodAutoscaler)
		known    rules.Known
		why      string
	}{
		{name: "nobody else", workload: &plain, pod: plain},
		{name: "a workload that is not known yet", pod: plain},
		{name: "a mark on the workload", workload: &marked, pod: plain, why: "StormForge"},
		{name: "a mark on the pod", workload: &plain, pod: marked, why: "StormForge"},
		{name: "an ignored namespace", workload: &plain, pod: plain, ignored: []string{"default"}, why: "the namespace is left alone"},
		{name: "paused", workload: &plain, pod: plain, edit: settings(`"paused":true`), why: "policy p is paused"},
		{name: "watched first", workload: &plain, pod: plain, edit: settings(`"observation":"24h"`), why: "it is watched for 24h"},
		{name: "changed before", workload: &plain, pod: plain, edit: settings(`"observation":"24h"`), known: rules.Known{Changed: true}},
		{name: "watched for long", workload: &plain, pod: plain, edit: settings(`"observation":"24h"`), known: rules.Known{Watched: time.Now().Add(-25 * time.Hour)}},
		{name: "settings that cannot be read", workload: &plain, pod: plain, edit: settings(`"pausd":true`), why: "the settings cannot be read"},
		{name: "reverted", workload: &plain, pod: plain, edit: note(rightsizing.AnnotationReverted, "2026-11-28T12:00:00Z"), why: "reverted at 2026-11-28T12:00:00Z"},
		{name: "leaving", workload: &plain, pod: plain, edit: note(rightsizing.AnnotationLeaving, "2026-11-28T12:00:00Z"), why: "no policy sizes it any more"},
		{name: "outside of its window", workload: &plain, pod: plain, edit: settings(`"observation":"0s","windows":[{"schedule":"` + time.Now().UTC().Add(-2*time.Hour).Format("04 15 * * *") + `","duration":"1h"}]`)},
		{name: "nothing is recommended", workload: &plain, pod: plain, edit: func(vpa *vpav1.VerticalPodAutoscaler) { vpa.Status.Recommendation = nil }, why: "there is no recommendation yet"},
	} {
		of := vpa.DeepCopy()
		of.CreationTimestamp = metav1.Now()
		if c.edit != nil {
			c.edit(of)
		}
		if why := leave(finder, c.ignored, c.workload, &corev1.Pod{ObjectMeta: c.pod}, of, c.known); !strings.HasPrefix(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: left alone for %q, want %q", c.name, why, c.why)
		}
	}
}

// TestAdmission is the program as it is deployed, but for its place: the API server calls it by the chart's Service. What a new pod gets goes by
// what the autoscaler's status says of its workload, and by who else has to do with it.
func TestAdmission(t *testing.T) {
	probe, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().(*net.TCPAddr)
	cluster := vpatest.New(t, vpatest.Options{WebhookPort: address.Port})
	_ = probe.Close()
	ctx := t.Context()
	for _, name := range []string{"shop", "quiet"} {
		if _, err := cluster.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}, Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
	}}}}
	labels, yes, percent := map[string]string{"app": "web"}, true, int32(80)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
	sets := map[string]*appsv1.ReplicaSet{}
	for _, namespace := range []string{"quiet", "shop"} {
		d, err := cluster.Client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if sets[namespace], err = cluster.Client.AppsV1().ReplicaSets(namespace).Create(ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: d.UID, Controller: &yes}}},
			Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		// It was made just now, and is watched for a day, unless its pods were changed before.
		vpas := cluster.Dynamic.Resource(rightsizing.Autoscalers()).Namespace(namespace)
		if _, err := vpas.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler",
			"metadata": map[string]any{"name": "web", "annotations": map[string]any{rightsizing.AnnotationSettings: `{"policy":"p","level":"BalancedSavings","maxStep":{"up":100}}`}},
			"spec":     map[string]any{"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "updatePolicy": map[string]any{"updateMode": "InPlace"}},
		}}, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
			t.Fatal(err)
		}
		status, err := json.Marshal(map[string]any{"status": map[string]any{
			"recommendation": map[string]any{"containerRecommendations": []any{map[string]any{"containerName": "web", "target": map[string]any{"cpu": "300m", "memory": "600Mi"}}}},
			"application":    rightsizing.Application{State: rightsizing.StateApplied, LastChange: time.Now(), InPlace: 1, Requests: map[string]map[string]resource.Quantity{"web": {"memory": resource.MustParse("200Mi")}}},
			"explanations":   []rightsizing.Explanation{{Container: "web", Resource: "memory", Peak: resource.MustParse("500Mi")}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vpas.Patch(ctx, "web", types.MergePatchType, status, metav1.PatchOptions{FieldValidation: "Strict"}, "status"); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 3, ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(namespace string) string {
		t.Helper()
		made, err := cluster.Client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-1-", Labels: labels, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: sets[namespace].UID, Controller: &yes},
		}}, Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r := made.Spec.Containers[0].Resources
		return fmt.Sprintf("%s,%s/%s", r.Requests.Cpu(), r.Requests.Memory(), r.Limits.Memory())
	}

	running, stop := context.WithCancel(ctx)
	listen, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := listen.Addr().String()
	_ = listen.Close()
	environment := map[string]string{agent.EnvNamespace: agenttest.Namespace, agent.EnvListen: metrics, EnvWebhookAddress: address.String(), EnvIgnoreNamespaces: "other, quiet"}
	var said lines
	ended := make(chan int, 1)
	go func() {
		ended <- Program().Main(running, agent.Process{
			Args: []string{"admission"}, Getenv: func(name string) string { return environment[name] }, Stdout: &said, Stderr: &said, Version: "1",
			KubeConfig: func() (*rest.Config, error) { return cluster.As("admission-controller"), nil },
		})
	}()
	defer func() {
		stop()
		if code := <-ended; code != 0 || t.Failed() {
			t.Errorf("it ended with %d and said:\n%s", code, said.String())
		}
	}()
	// The logger that it sets is the process's, of client-go too, which must not be asked for anything meanwhile.
	vpatest.Eventually(t, "it starts", time.Minute, func() bool { return strings.Contains(said.String(), "nops-vpa starts") })
	becomes := func(what, want string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(time.Minute); got != want; time.Sleep(100 * time.Millisecond) {
			if got = pod("shop"); got != want && time.Now().After(end) {
				t.Fatalf("%s: a new pod has %s, want %s", what, got, want)
			}
		}
	}
	// Changed before, so that it is not watched first; its CPU is its HorizontalPodAutoscaler's; its memory is one step from what the others have, and
	// its limit not below what was used.
	becomes("as its workload is", "1,400Mi/550Mi")
	if got := pod("quiet"); got != "1,1Gi/1Gi" {
		t.Errorf("a pod of a namespace that is left alone has %s", got)
	}
	if err := cluster.Client.AutoscalingV2().HorizontalPodAutoscalers("shop").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("without a HorizontalPodAutoscaler", "300m,400Mi/550Mi")
	mark := func(value string) {
		t.Helper()
		body := `{"metadata":{"annotations":{"live.stormforge.io/auto-deploy":` + value + `}}}`
		if _, err := cluster.Client.AppsV1().Deployments("shop").Patch(ctx, "web", types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mark(`"Enabled"`)
	becomes("with somebody's mark", "1,1Gi/1Gi")
	mark("null")
	becomes("without it", "300m,400Mi/550Mi")
	if _, err := cluster.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("shop").Patch(ctx, "web", types.MergePatchType, []byte(`{"status":{"application":{"lastChange":null}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	becomes("watched first, for it was never changed", "1,1Gi/1Gi")
	res, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	for _, want := range []string{`vpa_admission_controller_admission_latency_seconds_count{resource="Pod",status="applied"} `, `vpa_admission_controller_admission_pods_total{applied="true"} `} {
		if err != nil || !strings.Contains(string(page), "\n"+want) {
			t.Errorf("%q is not among what it measures, %v", want, err)
		}
	}
}

// lines collects what is said.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// TestWhenReady: a replica says what it waits for, and is ready only when there is nothing.
func TestWhenReady(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := agent.NewHealth(time.Now, conditionWebhook)
	var missing atomic.Pointer[string]
	set := func(s string) { missing.Store(&s) }
	set("the cluster is still being read")
	done := make(chan error, 1)
	go func() { done <- whenReady(ctx, h, conditionWebhook, func() string { return *missing.Load() }) }()
	ready := func(want string) {
		t.Helper()
		var got string
		for range 500 {
			got = ""
			if err := h.Ready(); err != nil {
				got = err.Error()
			}
			if got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("it is ready: %q, want %q", got, want)
	}
	ready("not ready: webhook: the cluster is still being read")
	set("")
	ready("")
	select {
	case <-done:
		t.Fatal("the task ended before the program")
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
