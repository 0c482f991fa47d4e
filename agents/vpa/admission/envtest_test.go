package admission_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/admission"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// lines collects a log.
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

type fixture struct {
	*vpatest.Cluster

	t         *testing.T
	port      int
	lifetimes admission.Lifetimes
	log       lines
	leave     atomic.Pointer[string]
	missing   atomic.Pointer[string]
	// between is between the controller and its API server, where it is set; remember is the controller's.
	between  func(http.RoundTripper) http.RoundTripper
	remember time.Duration
}

// start runs a controller with the rights that the chart gives; the listener may be nil, then one is made on the port.
func (f *fixture) start(name string, listener net.Listener) (stop func()) {
	f.t.Helper()
	config := f.As("admission-controller")
	if f.between != nil {
		config.Wrap(f.between)
	}
	c, err := admission.New(admission.Deps{
		Kube: config, UserAgent: "test", Remember: f.remember, Name: name, Labels: map[string]string{"app.kubernetes.io/instance": "a-release"}, Namespace: agenttest.Namespace, Listener: listener, Now: time.Now, Lifetimes: f.lifetimes,
		Log: slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Hosts: []string{"localhost"}, Every: 100 * time.Millisecond, Settle: time.Second,
		Missing: func() string {
			if why := f.missing.Load(); why != nil {
				return *why
			}
			return ""
		},
		Leave: func(_ context.Context, _ *corev1.Pod, _ *vpav1.VerticalPodAutoscaler, workload metav1.Object) string {
			if why := f.leave.Load(); why != nil {
				return *why
			}
			why, _ := foreign.Marked(workload)
			return why
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = c.Certificates(ctx, func() {}) })
	vpatest.Eventually(f.t, "the webhook has a certificate, and says that nobody answers yet", time.Minute, func() bool { return c.Ready() == "the cluster is still being read" })
	group.Go(func() {
		if err := c.Serve(ctx); err != nil && ctx.Err() == nil {
			f.t.Error(err)
		}
	})
	vpatest.Eventually(f.t, "the webhook answers", time.Minute, func() bool { return c.Ready() == "" })
	return func() { cancel(); group.Wait() }
}

// pod makes one of the workload's, and says what CPU it requests.
func (f *fixture) pod(owner *appsv1.ReplicaSet, edit func(*corev1.Pod)) (string, time.Duration) {
	f.t.Helper()
	began := time.Now()
	cpu, err := f.try(owner, edit)
	if err != nil {
		f.t.Fatalf("a pod cannot be made: %v", err)
	}
	return cpu, time.Since(began)
}

// try is pod where it may be refused.
func (f *fixture) try(owner *appsv1.ReplicaSet, edit func(*corev1.Pod)) (string, error) {
	f.t.Helper()
	made, err := f.create(owner, edit)
	if err != nil {
		return "", err
	}
	return made.Spec.Containers[0].Resources.Requests.Cpu().String(), nil
}

// asked is how many requests about pods the API server has made, as it counts them itself.
func (f *fixture) asked() int {
	f.t.Helper()
	text, err := f.Client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	all, found := 0, false
	for line := range strings.Lines(string(text)) {
		if series, value, is := strings.Cut(strings.TrimSpace(line), "} "); is && strings.HasPrefix(series, "apiserver_admission_webhook_request_total{") && strings.Contains(series, `name="pods.vpa.nops.io"`) {
			n, err := strconv.Atoi(value)
			if err != nil {
				f.t.Fatal(line, err)
			}
			all, found = all+n, true
		}
	}
	if !found {
		f.t.Fatal("the API server does not count what it asks webhooks")
	}
	return all
}

func (f *fixture) create(owner *appsv1.ReplicaSet, edit func(*corev1.Pod)) (*corev1.Pod, error) {
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Labels: map[string]string{"app": "web"}, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner.Name, UID: owner.UID, Controller: &yes},
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
		}}}},
	}
	if edit != nil {
		edit(p)
	}
	return f.Client.CoreV1().Pods("default").Create(f.t.Context(), p, metav1.CreateOptions{})
}

// authorities are those that the webhook's configuration trusts.
func (f *fixture) authorities() []*x509.Certificate {
	f.t.Helper()
	w, err := f.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(f.t.Context(), rightsizing.WebhookName, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(w.Webhooks[0].ClientConfig.CABundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// documented are the conditions that docs/vpa.md has, as JSON.
func documented(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/vpa.md")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "```") {
		values, is := strings.CutPrefix(block, "yaml\ncontainerRightsizing:")
		if !is || !strings.Contains(values, "matchConditions") {
			continue
		}
		var all struct {
			ContainerRightsizing struct {
				AdmissionController struct {
					MatchConditions json.RawMessage `json:"matchConditions"`
				} `json:"admissionController"`
			} `json:"containerRightsizing"`
		}
		if err := yaml.UnmarshalStrict([]byte("containerRightsizing:"+values), &all); err != nil {
			t.Fatal(err)
		}
		return string(all.ContainerRightsizing.AdmissionController.MatchConditions)
	}
	t.Fatal("docs/vpa.md has no values with matchConditions")
	return ""
}

// TestOwnersThatNobodyWatches: what is said of them does not stay for ever, neither an error, nor that there was one.
func TestOwnersThatNobodyWatches(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &vpatest.Scales{}
	f := &fixture{
		t: t, port: listener.Addr().(*net.TCPAddr).Port, remember: 300 * time.Millisecond,
		between: server.Between,
	}
	f.Cluster = vpatest.New(t, vpatest.Options{WebhookURL: fmt.Sprintf("https://localhost:%d/mutate", f.port)})
	ctx := t.Context()
	rollout, task := vpatest.Rollout(), vpatest.Kind{Name: "TaskRun", Plural: "taskruns"}
	f.Define(t, rollout, task)
	owned := func(k vpatest.Kind, name string) func(*corev1.Pod) {
		owner := f.Make(t, k, "default", name)
		return func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{owner} }
	}
	canary, run := owned(rollout, "canary"), owned(task, "build")
	vpas := f.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default")
	if _, err := vpas.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": "canary"},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": "example.com/v1", "kind": "Rollout", "name": "canary"}, "updatePolicy": map[string]any{"updateMode": "InPlaceOrRecreate"}},
	}}, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	recommendation := `{"status":{"recommendation":{"containerRecommendations":[{"containerName":"web","target":{"cpu":"300m","memory":"600Mi"}}]}}}`
	if _, err := vpas.Patch(ctx, "canary", types.MergePatchType, []byte(recommendation), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	defer f.start("one", listener)()

	owner := &appsv1.ReplicaSet{} // every pod gets another
	scale, runs := rollout.ScalePath("default", "canary"), task.ScalePath("default", "build")
	vpatest.Eventually(t, "the webhook asks whose pod it is", 20*time.Second, func() bool { f.pod(owner, canary); return server.Asked(scale) > 0 })
	vpatest.Eventually(t, "pods of an owner that could not be looked at once are sized", 20*time.Second, func() bool { cpu, _ := f.pod(owner, canary); return cpu == "300m" })

	f.pod(owner, run)
	before := server.Asked(runs)
	if before == 0 {
		t.Fatal("nobody asked whose pod it is")
	}
	time.Sleep(10 * f.remember)
	if n := server.Asked(runs); n > before+1 {
		t.Errorf("an owner that made one pod was looked at %d times more", n-before)
	}
	before = server.Asked(runs)
	if f.pod(owner, run); server.Asked(runs) == before {
		t.Error("an owner that made one pod is remembered")
	}

	// Nor is anything asked of a namespace that has no autoscaler: its pods do not wait for what nobody needs.
	if _, err := f.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "quiet"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	reviews := f.asked()
	if _, err := f.Client.CoreV1().Pods("quiet").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "build", OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "TaskRun", Name: "build", UID: "1", Controller: &yes}}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, asked := server.Asked(task.ScalePath("quiet", "build")), f.asked()-reviews; n != 0 || asked != 1 {
		t.Errorf("%d questions about the owner of a pod that nobody sizes, of %d reviews", n, asked)
	}
}

func TestAgainstKubernetes(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	f := &fixture{t: t, port: port}
	f.Cluster = vpatest.New(t, vpatest.Options{WebhookURL: fmt.Sprintf("https://localhost:%d/mutate", port)})
	ctx := t.Context()

	labels := map[string]string{"app": "web"}
	deployment, err := f.Client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	owner, err := f.Client.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: deployment.UID, Controller: &yes}}},
		Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: deployment.Spec.Template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vpas := f.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default")
	vpa := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": "web"},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "updatePolicy": map[string]any{"updateMode": "InPlaceOrRecreate"}},
	}}
	if _, err := vpas.Create(ctx, vpa, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	status := map[string]any{"status": map[string]any{"recommendation": map[string]any{"containerRecommendations": []any{map[string]any{
		"containerName": "web", "target": map[string]any{"cpu": "300m", "memory": "600Mi"}, "lowerBound": map[string]any{"cpu": "200m", "memory": "500Mi"}, "upperBound": map[string]any{"cpu": "400m", "memory": "700Mi"},
	}}}}}
	body, _ := json.Marshal(status)
	if _, err := vpas.Patch(ctx, "web", types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}

	hooks, err := f.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, rightsizing.WebhookName, metav1.GetOptions{})
	if err != nil || len(hooks.Webhooks) != 2 {
		t.Fatalf("%d webhooks: %v", len(hooks.Webhooks), err)
	}
	for _, w := range hooks.Webhooks {
		if *w.TimeoutSeconds != 5 || *w.FailurePolicy != admissionregistrationv1.Ignore {
			t.Errorf("%s takes up to %d s, and then: %s", w.Name, *w.TimeoutSeconds, *w.FailurePolicy)
		}
	}
	// Nobody answers: connections are taken and never spoken on. Pods are created as they are, after the webhook's time at most.
	if cpu, took := f.pod(owner, nil); cpu != "1" || took > 9*time.Second {
		t.Errorf("with a webhook that does not answer: %s after %s", cpu, took)
	}

	leases := f.Client.CoordinationV1().Leases(agenttest.Namespace)
	if _, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: rightsizing.AdmissionService}}, metav1.CreateOptions{}); err != nil { // as upstream makes it
		t.Fatal(err)
	}
	stop := f.start("one", listener)
	vpatest.Eventually(t, "pods are sized", time.Minute, func() bool { cpu, _ := f.pod(owner, nil); return cpu == "300m" })
	for _, made := range []string{"one that is there", "one of its own"} {
		vpatest.Eventually(t, "the Lease that tells the updater: "+made, time.Minute, func() bool {
			lease, err := leases.Get(ctx, rightsizing.AdmissionService, metav1.GetOptions{})
			return err == nil && lease.Spec.RenewTime != nil && *lease.Spec.HolderIdentity == "one" && lease.Labels["app.kubernetes.io/instance"] == "a-release"
		})
		if err := leases.Delete(ctx, rightsizing.AdmissionService, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("the updater is not told while no pod would be sized", func(t *testing.T) {
		why := "it is not known yet who else sizes workloads"
		f.missing.Store(&why)
		time.Sleep(12 * time.Second) // in which it would be told once
		if lease, err := leases.Get(ctx, rightsizing.AdmissionService, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%+v, %v", lease, err)
		}
		f.missing.Store(nil)
		vpatest.Eventually(t, "it is told again", time.Minute, func() bool {
			_, err := leases.Get(ctx, rightsizing.AdmissionService, metav1.GetOptions{})
			return err == nil
		})
	})

	t.Run("pods without a controller, and of others, stay as they are", func(t *testing.T) {
		if cpu, _ := f.pod(owner, func(p *corev1.Pod) { p.OwnerReferences = nil }); cpu != "1" {
			t.Errorf("a bare pod: %s", cpu)
		}
		why := "somebody else's"
		f.leave.Store(&why)
		defer f.leave.Store(nil)
		if cpu, _ := f.pod(owner, nil); cpu != "1" {
			t.Errorf("a pod that is to be left alone: %s", cpu)
		}
	})

	t.Run("so do those of a workload with somebody's mark", func(t *testing.T) {
		mark := func(value string) {
			t.Helper()
			body := `{"metadata":{"annotations":{"live.stormforge.io/auto-deploy":` + value + `}}}`
			if _, err := f.Client.AppsV1().Deployments("default").Patch(ctx, "web", types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		mark(`"Enabled"`)
		vpatest.Eventually(t, "pods of a workload that StormForge sizes stay as they are", 20*time.Second, func() bool { cpu, _ := f.pod(owner, nil); return cpu == "1" })
		mark("null")
		vpatest.Eventually(t, "and are sized without it", 20*time.Second, func() bool { cpu, _ := f.pod(owner, nil); return cpu == "300m" })
	})

	owns := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner.Name, UID: owner.UID, Controller: &yes}}
	asks := func(t *testing.T, name, namespace string, owners []metav1.OwnerReference) int {
		t.Helper()
		before := f.asked()
		if _, err := f.Client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "asked-", Labels: map[string]string{"app": "web"}, OwnerReferences: owners}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return f.asked() - before
	}

	t.Run("it is not asked about what the cluster itself consists of", func(t *testing.T) {
		for _, c := range []struct {
			name, reason, namespace string
			owners                  []metav1.OwnerReference
			asked                   int
		}{
			{"owned", "", "default", owns, 1},
			{"bare", "there is no condition unless somebody sets one", "default", nil, 1},
			{"of the system", "a cluster that cannot start its own parts cannot be mended", metav1.NamespaceSystem, []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "dns", UID: "3", Controller: &yes}}, 0},
			{"of the stack", "the webhook's own pods do not wait for it", agenttest.Namespace, []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "admission", UID: "4", Controller: &yes}}, 0},
		} {
			if got := asks(t, c.name, c.namespace, c.owners); got != c.asked {
				t.Errorf("%s: %d requests, want %d; %s", c.name, got, c.asked, c.reason)
			}
		}
	})

	t.Run("nor, by the condition that the documentation has, about pods that nobody owns", func(t *testing.T) {
		configurations := f.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
		change := func(body string) {
			t.Helper()
			if _, err := configurations.Patch(ctx, rightsizing.WebhookName, types.JSONPatchType, []byte(body), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		change(`[{"op":"add","path":"/webhooks/0/matchConditions","value":` + documented(t) + `}]`)
		defer change(`[{"op":"add","path":"/webhooks/0/matchConditions","value":[]}]`)
		vpatest.Eventually(t, "a bare pod is not asked about", 20*time.Second, func() bool { return asks(t, "bare", "default", nil) == 0 })
		no := false
		if got := asks(t, "owned by what does not control it", "default", []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "a", UID: "1", Controller: &no}, {APIVersion: "v1", Kind: "ConfigMap", Name: "b", UID: "2"}}); got != 0 {
			t.Errorf("owned by what does not control it: %d requests", got)
		}
		if cpu, _ := f.pod(owner, nil); cpu != "300m" {
			t.Errorf("with the condition, an owned pod gets %s", cpu)
		}
	})

	t.Run("a run of a CronJob whose template has no labels is sized", func(t *testing.T) {
		run := corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
		cron, err := f.Client.BatchV1().CronJobs("default").Create(ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: run}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		job, err := f.Client.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "bare-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "bare", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: run},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		bare := vpa.DeepCopy()
		bare.SetName("bare")
		_ = unstructured.SetNestedMap(bare.Object, map[string]any{"apiVersion": "batch/v1", "kind": "CronJob", "name": "bare"}, "spec", "targetRef")
		if _, err := vpas.Create(ctx, bare, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := vpas.Patch(ctx, "bare", types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "it is sized", 20*time.Second, func() bool {
			cpu, _ := f.pod(owner, func(p *corev1.Pod) {
				p.Labels = job.Spec.Template.Labels
				p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID, Controller: &yes}}
			})
			return cpu == "300m"
		})
	})

	t.Run("DaemonSets and CronJobs by a policy's settings", func(t *testing.T) {
		template := func(app string) corev1.PodTemplateSpec {
			return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
		}
		daemon, err := f.Client.AppsV1().DaemonSets("default").Create(ctx, &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "node"}}, Template: template("node")},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		batch := template("night")
		batch.Spec.RestartPolicy = corev1.RestartPolicyNever
		cron, err := f.Client.BatchV1().CronJobs("default").Create(ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "night"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: batch}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		job, err := f.Client.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "night-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "night", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: batch},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, api, kind string
			owner           metav1.OwnerReference
			restart         corev1.RestartPolicy
		}{
			{"node", "apps/v1", "DaemonSet", metav1.OwnerReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "node", UID: daemon.UID, Controller: &yes}, corev1.RestartPolicyAlways},
			{"night", "batch/v1", "CronJob", metav1.OwnerReference{APIVersion: "batch/v1", Kind: "Job", Name: "night-1", UID: job.UID, Controller: &yes}, corev1.RestartPolicyNever},
		} {
			// As the policy controller makes it.
			of := vpa.DeepCopy()
			of.SetName(strings.ToLower(c.kind) + "-" + c.name)
			of.SetAnnotations(map[string]string{rightsizing.AnnotationSettings: `{"policy":"p","level":"BalancedSavings","observation":"0s","floors":{"memory":"700Mi"}}`})
			of.SetLabels(map[string]string{rightsizing.LabelPolicy: "p"})
			for path, value := range map[string]string{"apiVersion": c.api, "kind": c.kind, "name": c.name} {
				if err := unstructured.SetNestedField(of.Object, value, "spec", "targetRef", path); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := vpas.Create(ctx, of, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
				t.Fatal(err)
			}
			if _, err := vpas.Patch(ctx, of.GetName(), types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
			vpatest.Eventually(t, "a pod of the "+c.kind+" is sized by the recommendation, and by the policy's floor", 20*time.Second, func() bool {
				made, err := f.create(owner, func(p *corev1.Pod) {
					p.Labels, p.OwnerReferences, p.Spec.RestartPolicy = map[string]string{"app": c.name}, []metav1.OwnerReference{c.owner}, c.restart
					sidecar := corev1.ContainerRestartPolicyAlways
					p.Spec.InitContainers = []corev1.Container{{Name: "log", Image: "i", RestartPolicy: &sidecar}}
				})
				if err != nil {
					t.Fatal(err)
				}
				r := made.Spec.Containers[0].Resources.Requests
				return r.Cpu().String() == "300m" && r.Memory().String() == "700Mi" && made.Annotations["vpaObservedContainers"] == "web, log" && strings.Contains(made.Annotations["vpaUpdates"], of.GetName())
			})
		}
	})

	t.Run("what a namespace asks of limits is heeded", func(t *testing.T) {
		// The API server would refuse a request of 300m beside a limit that is kept, and with it every pod of the workload.
		keep := []byte(`{"spec":{"resourcePolicy":{"containerPolicies":[{"containerName":"*","controlledValues":"RequestsOnly"}]}}}`)
		if _, err := vpas.Patch(ctx, "web", types.MergePatchType, keep, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		ranges := f.Client.CoreV1().LimitRanges("default")
		if _, err := ranges.Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "proportion"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: corev1.ResourceList{"cpu": resource.MustParse("4")}},
		}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		limited := func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("2")}
		}
		vpatest.Eventually(t, "pods are made, with as much as their limit asks for", 20*time.Second, func() bool { cpu, err := f.try(owner, limited); return err == nil && cpu == "500m" })
		if err := ranges.Delete(ctx, "proportion", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := vpas.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"resourcePolicy":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "pods are sized as before", 20*time.Second, func() bool { cpu, err := f.try(owner, nil); return err == nil && cpu == "300m" })
	})

	t.Run("an administrator's changes stay", func(t *testing.T) {
		configurations := f.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
		if _, err := configurations.Patch(ctx, rightsizing.WebhookName, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/timeoutSeconds","value":3},{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		vpatest.Eventually(t, "the authority is put back", 20*time.Second, func() bool { return len(f.authorities()) > 0 })
		w, err := configurations.Get(ctx, rightsizing.WebhookName, metav1.GetOptions{})
		if err != nil || *w.Webhooks[0].TimeoutSeconds != 3 {
			t.Errorf("the timeout is %d: %v", *w.Webhooks[0].TimeoutSeconds, err)
		}
	})

	t.Run("objects of ours are validated", func(t *testing.T) {
		bad := vpa.DeepCopy()
		bad.SetName("bad")
		_ = unstructured.SetNestedSlice(bad.Object, []any{map[string]any{"containerName": "web", "minAllowed": map[string]any{"cpu": "2"}, "maxAllowed": map[string]any{"cpu": "1"}}}, "spec", "resourcePolicy", "containerPolicies")
		if _, err := vpas.Create(ctx, bad, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "max resource") && !strings.Contains(err.Error(), "lower than min") {
			t.Errorf("bounds that contradict each other: %v", err)
		}
	})

	// Asked to end it still answers, for API servers learn later that it goes.
	gone := make(chan struct{})
	go func() { defer close(gone); stop() }()
	time.Sleep(time.Second)
	if cpu, _ := f.pod(owner, nil); cpu != "300m" {
		t.Errorf("a second after it was asked to end: %s", cpu)
	}
	<-gone
	// Gone: connections are refused. Pods are created as they are, at once.
	if cpu, took := f.pod(owner, nil); cpu != "1" || took > 10*time.Second {
		t.Errorf("without a webhook: %s after %s", cpu, took)
	}
	// Back, as after a restart: with the certificates that are in the Secret.
	before := f.authorities()[0]
	again, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	stop = f.start("three", again)
	vpatest.Eventually(t, "pods are sized after a restart", time.Minute, func() bool { cpu, _ := f.pod(owner, nil); return cpu == "300m" })
	if !f.authorities()[0].Equal(before) {
		t.Error("a restart makes another authority")
	}
	stop()

	// Certificates that live for seconds: they are renewed every few, by two replicas of which one is called; every pod is sized.
	f.lifetimes = admission.Lifetimes{Authority: 12 * time.Second, Serving: 7 * time.Second}
	if again, err = new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Fatal(err)
	}
	second, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// What is in the Secret lives for a year: made anew, as when a person deletes it.
	if _, err := f.Client.CoreV1().Secrets(agenttest.Namespace).Patch(ctx, rightsizing.CertificateSecret, types.MergePatchType, []byte(`{"data":null}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	defer f.start("four", again)()
	defer f.start("five", second)()
	vpatest.Eventually(t, "pods are sized", time.Minute, func() bool { cpu, _ := f.pod(owner, nil); return cpu == "300m" })
	seen, pods := map[string]bool{}, 0
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		cpu, _ := f.pod(owner, nil)
		if pods++; cpu != "300m" {
			t.Fatalf("pod %d is not sized while certificates rotate: %s\n%s", pods, cpu, f.log.String())
		}
		have := f.authorities()
		seen[string(have[0].Raw)] = true
		if len(have) > 3 {
			t.Fatalf("%d authorities are trusted", len(have))
		}
	}
	if len(seen) < 3 || pods < 50 {
		t.Errorf("%d authorities were trusted, over %d pods", len(seen), pods)
	}
}
