package heartbeat

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// TestAgainstKubernetes holds what one API server can show; starting one for each would take minutes.
func TestAgainstKubernetes(t *testing.T) {
	config, client := agenttest.Kubernetes(t)
	populate(t, client, 40)
	t.Run("agent", func(t *testing.T) { testLive(t, config, client) })
	t.Run("memory", func(t *testing.T) { testMemory(t, config) })
}

const planted = "planted-secret-of-somebody-else"

// populate makes the stack as the chart would, with credentials where people put them, and pods in trouble.
func populate(t *testing.T, client kubernetes.Interface, nodes int) {
	t.Helper()
	ctx := t.Context()
	template := func(comp string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(comp), Annotations: map[string]string{"note": planted}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: comp, Image: "public.ecr.aws/nops/" + comp + ":1.0.0", Args: []string{"--password=" + planted}, Env: []corev1.EnvVar{{Name: "KEY", Value: planted}},
			}}},
		}
	}
	selector := func(comp string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{workload.ComponentLabel: comp}}
	}
	for _, comp := range []string{"heartbeat", "vmagent", "kube-state-metrics"} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "nops-" + comp, Labels: labelsOf(comp)}, Spec: appsv1.DeploymentSpec{Selector: selector(comp), Template: template(comp)}}
		must(client.AppsV1().Deployments(agenttest.Namespace).Create(ctx, d, metav1.CreateOptions{}))(t)
	}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "nops-node-exporter", Labels: labelsOf("node-exporter")}, Spec: appsv1.DaemonSetSpec{Selector: selector("node-exporter"), Template: template("node-exporter")}}
	made := must(client.AppsV1().DaemonSets(agenttest.Namespace).Create(ctx, ds, metav1.CreateOptions{}))(t)
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "nops-updater", Labels: labelsOf("updater")}, Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: func() corev1.PodTemplateSpec {
		tpl := template("updater")
		tpl.Spec.RestartPolicy = corev1.RestartPolicyNever
		return tpl
	}()}}}}
	must(client.BatchV1().CronJobs(agenttest.Namespace).Create(ctx, cj, metav1.CreateOptions{}))(t)
	foreign := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "somebody-elses", Labels: map[string]string{"app": "x"}}, Spec: appsv1.DeploymentSpec{Selector: selector("x"), Template: template("x")}}
	foreign.Spec.Template.Labels = map[string]string{workload.ComponentLabel: "x"}
	must(client.AppsV1().Deployments(agenttest.Namespace).Create(ctx, foreign, metav1.CreateOptions{}))(t)

	yes := true
	for i := range nodes {
		tpl := template("node-exporter")
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("nops-node-exporter-%03d", i), Labels: tpl.Labels, Annotations: tpl.Annotations,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: made.Name, UID: made.UID, Controller: &yes}},
			}, Spec: tpl.Spec,
		}
		p = must(client.CoreV1().Pods(agenttest.Namespace).Create(ctx, p, metav1.CreateOptions{}))(t)
		p.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "node-exporter", Ready: true, Image: tpl.Spec.Containers[0].Image, ImageID: tpl.Spec.Containers[0].Image + "@sha256:" + strings.Repeat("ab", 32),
				State:                corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: planted}},
			}},
		}
		must(client.CoreV1().Pods(agenttest.Namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}))(t)
	}
	made.Status = appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: int32(nodes), CurrentNumberScheduled: int32(nodes), NumberReady: int32(nodes), NumberAvailable: int32(nodes), UpdatedNumberScheduled: int32(nodes)}
	must(client.AppsV1().DaemonSets(agenttest.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{}))(t)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// as is a client with exactly the permissions of the table in doc.go: what the agent needs is what it says it needs.
func as(t *testing.T, config *rest.Config, client kubernetes.Interface) *rest.Config {
	t.Helper()
	ctx := t.Context()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "nops-heartbeat"}, Rules: documentedRules(t)}
	must(client.RbacV1().Roles(agenttest.Namespace).Create(ctx, role, metav1.CreateOptions{}))(t)
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-heartbeat"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "heartbeat"}},
	}
	must(client.RbacV1().RoleBindings(agenttest.Namespace).Create(ctx, binding, metav1.CreateOptions{}))(t)
	c := rest.CopyConfig(config)
	c.Impersonate = rest.ImpersonationConfig{UserName: "heartbeat", Groups: []string{"system:authenticated"}}
	return c
}

func eventually(t *testing.T, what string, limit time.Duration, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func testLive(t *testing.T, config *rest.Config, client kubernetes.Interface) {
	p := agenttest.NewPlatform(t, 15)
	platform, err := nopsclient.New(nopsclient.Options{Host: "https://nops.test", Key: agenttest.APIKey, Transport: p, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	logs := &agenttest.Buffer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: "https://nops.test", ClusterARN: agenttest.ClusterARN},
		ProcessOptions:  agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release},
	}
	a, err := New(o, Deps{Kube: as(t, config, client), Platform: platform, Version: "1.2.3", Log: agent.NewLogger(logs, slog.LevelDebug, agenttest.APIKey), Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended with: %v", err)
		}
		for _, bad := range []string{planted, agenttest.APIKey} {
			if strings.Contains(p.Received(), bad) || strings.Contains(logs.String(), bad) {
				t.Errorf("%q was sent or logged", bad)
			}
		}
		if t.Failed() {
			t.Logf("logs:\n%s", logs)
		}
	}()

	latest := func() map[string]nopsapi.ComponentStatus {
		all := map[string]nopsapi.ComponentStatus{}
		if l := p.Beats(t).Latest; l != nil {
			for _, c := range l.Components {
				all[c.Name] = c
			}
		}
		return all
	}
	eventually(t, "a beat with the five components of the release", 30*time.Second, func() bool { return len(latest()) == 5 })
	c := latest()["node-exporter"]
	if c.State != "ready" || c.Ready != 40 || c.Kind != "DaemonSet" || c.Object != "nops/nops-node-exporter" || c.Images[0].Digest != "sha256:"+strings.Repeat("ab", 32) {
		t.Errorf("node-exporter: %+v", c)
	}
	if c := latest()["updater"]; c.State != "idle" || c.Kind != "CronJob" {
		t.Errorf("updater: %+v", c)
	}
	eventually(t, "readiness", 10*time.Second, func() bool { return get(t, l.Addr(), "/readyz") == http.StatusOK })
	if got := get(t, l.Addr(), "/healthz"); got != http.StatusOK {
		t.Errorf("liveness %d", got)
	}
	if got := p.Beats(t).Latest.KubernetesInfo.Version; got != "" && !strings.HasPrefix(got, "v1.") {
		t.Errorf("version %q", got)
	}
	eventually(t, "the mirror", 20*time.Second, func() bool {
		cm, err := client.CoreV1().ConfigMaps(agenttest.Namespace).Get(ctx, StateConfigMap, metav1.GetOptions{})
		return err == nil && strings.Contains(cm.Data["summary"], "node-exporter: ready\n") && strings.Contains(cm.Data["summary"], "platform: connected") && len(cm.OwnerReferences) == 1
	})
	mine, err := client.CoreV1().ConfigMaps(agenttest.Namespace).List(ctx, metav1.ListOptions{LabelSelector: agent.LabelPartOf + "=" + agent.PartOf + "," + agent.LabelInstance + "=" + agenttest.Release})
	if err != nil || len(mine.Items) != 1 || mine.Items[0].Labels[agent.LabelManagedBy] != "nops-heartbeat" {
		t.Errorf("by the labels that uninstalling goes by, %d ConfigMaps are found, want the mirror: %v", len(mine.Items), err)
	}

	// Trouble is seen, told to the platform and said in an Event, with the permissions of the table.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-vmagent-abc-1", Labels: labelsOf("vmagent")},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "vmagent", Image: "public.ecr.aws/nops/vmagent:1.0.0"}}},
	}
	pod = must(client.CoreV1().Pods(agenttest.Namespace).Create(ctx, pod, metav1.CreateOptions{}))(t)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "vmagent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: `Back-off pulling image "x": no such host`}},
	}}}
	must(client.CoreV1().Pods(agenttest.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}))(t)
	d := must(client.AppsV1().Deployments(agenttest.Namespace).Get(ctx, "nops-vmagent", metav1.GetOptions{}))(t)
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, UnavailableReplicas: 1}
	d = must(client.AppsV1().Deployments(agenttest.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}))(t)
	eventually(t, "the trouble of vmagent on the platform", 20*time.Second, func() bool { return latest()["vmagent"].Reason == "ImagePullBackOff" })
	eventually(t, "an Event about it", 10*time.Second, func() bool {
		events, err := client.CoreV1().Events(agenttest.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(d.UID)})
		if err != nil {
			return false
		}
		for _, e := range events.Items {
			if e.Reason == "ComponentDegraded" && strings.Contains(e.Message, "no such host") {
				return true
			}
		}
		return false
	})
	for _, held := range a.watch.objects().pods {
		if held.Annotations != nil || held.ManagedFields != nil || len(held.Spec.Containers[0].Env) > 0 || len(held.Spec.Containers[0].Args) > 0 {
			t.Fatalf("pod %s was not stripped: %+v", held.Name, held)
		}
	}
	if strings.Contains(logs.String(), "orbidden") {
		t.Errorf("something was forbidden: the table in doc.go lacks a line")
	}
}

func get(t *testing.T, addr net.Addr, path string) int {
	t.Helper()
	resp, err := http.Get("http://" + addr.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// testMemory runs the program as it ships and measures it at rest. The budget is the contract with whoever pays for the
// node: 30 MiB resident, 12 MiB of them anonymous.
func testMemory(t *testing.T, config *rest.Config) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "k8s-heartbeat-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./testdata/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := agenttest.NewPlatform(t, 15)
	server := httptest.NewTLSServer(p)
	defer server.Close()
	page, err := os.ReadFile("../../pkg/connectivity/probe/testdata/vmagent-unreachable.txt")
	if err != nil {
		t.Fatal(err)
	}
	vmagent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) }))
	defer vmagent.Close()

	logs := &agenttest.Buffer{}
	cmd := exec.CommandContext(t.Context(), binary, "run", "--host", server.URL, "--listen-address", "127.0.0.1:0", "--vmagent-url", vmagent.URL)
	cmd.Stderr = logs
	cmd.Env = []string{
		"NOPS_API_KEY=" + agenttest.APIKey, "NOPS_CLUSTER_ARN=" + agenttest.ClusterARN, "POD_NAMESPACE=" + agenttest.Namespace, "NOPS_RELEASE=" + agenttest.Release,
		"NO_PROXY=*", "SSL_CERT_FILE=" + file("server.pem", pemOf(server)), "TEST_KUBE_HOST=" + config.Host,
		"TEST_KUBE_CA=" + file("ca.pem", config.CAData), "TEST_KUBE_CERT=" + file("cert.pem", config.CertData), "TEST_KUBE_KEY=" + file("key.pem", config.KeyData),
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v\n%s", err, logs)
		}
		if strings.Contains(logs.String(), agenttest.APIKey) {
			t.Errorf("the key is in the logs")
		}
	}()
	beats := 3
	if s := os.Getenv("NOPS_TEST_BEATS"); s != "" {
		beats, _ = strconv.Atoi(s)
	}
	eventually(t, "several beats\n"+logs.String(), time.Duration(beats)*20*time.Second+30*time.Second, func() bool { return len(p.Beats(t).Heartbeats) >= beats })
	rss, anon := memoryOf(t, cmd.Process.Pid)
	t.Logf("RSS %.1f MiB, of which anonymous %.1f MiB", rss, anon)
	if rss > 30 || anon > 12 {
		t.Errorf("RSS %.1f MiB (budget 30), anonymous %.1f MiB (budget 12)", rss, anon)
	}
}

// memoryOf is the resident set and its anonymous part, in MiB.
func memoryOf(t *testing.T, pid int) (rss, anon float64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc to measure memory with: %v", err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			rss = kib / 1024
		case "RssAnon:":
			anon = kib / 1024
		}
	}
	return rss, anon
}
