package install_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

func TestInstallTwice(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	plan, result := w.install(e, w.request())
	if result.Outcome != event.OK || result.Revision != 1 || plan.NoOp {
		t.Fatalf("first install: %+v", result)
	}
	if diff := cmp.Diff([]string{"deployed"}, w.revisions()); diff != "" {
		t.Fatalf("revisions (-want +got):\n%s", diff)
	}
	if !strings.Contains(result.Notes, "kubernetes-agent is installed") {
		t.Errorf("notes: %q", result.Notes)
	}
	if len(result.Components) != 2 || result.Components[0].State != workload.Ready {
		t.Errorf("components: %+v", result.Components)
	}
	if c := w.componentEvents(); len(c) < 2 {
		t.Errorf("component events: %+v", c)
	}
	secret, err := w.client.CoreV1().Secrets(w.namespace).Get(t.Context(), install.CredentialsSecret, metav1.GetOptions{})
	if err != nil || string(secret.Data[install.KeyAPI]) != apiKey {
		t.Fatalf("credentials: %v", err)
	}
	ns, err := w.client.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Errorf("a namespace of ours admits the node exporter: %v %v", ns.Labels, err)
	}

	again, second := w.install(w.engine(), w.request())
	if !again.NoOp || second.Outcome != event.Unchanged || second.Revision != 1 {
		t.Errorf("a second install does nothing: no-op %v, %+v, changes %+v", again.NoOp, second, again.Changes)
	}
	if diff := cmp.Diff([]string{"deployed"}, w.revisions()); diff != "" {
		t.Errorf("a second install makes no revision (-want +got):\n%s", diff)
	}
	third, err := w.engine().Plan(t.Context(), w.request())
	if err != nil || third.Digest != again.Digest || third.Digest == plan.Digest {
		t.Errorf("equal plans have equal digests, others do not: %v", err)
	}
}

func TestPlanWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.makeNamespace(nil)
	before := w.everything()
	var writes atomic.Int32
	e := w.engine(func(o *install.Options) {
		o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
			read := r.Method == http.MethodGet || strings.Contains(r.URL.Path, "selfsubjectaccessreviews") || r.URL.Query().Get("dryRun") == "All"
			if !read {
				writes.Add(1)
				t.Errorf("%s %s", r.Method, r.URL)
			}
			return nil
		}}
	})
	plan, err := e.Plan(t.Context(), w.request())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" || writes.Load() > 0 {
		t.Errorf("the plan wrote:\n%s", diff)
	}
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"JSON": string(b), "%v": fmt.Sprintf("%v", plan), "%+v": fmt.Sprintf("%+v", plan), "%#v": fmt.Sprintf("%#v", plan), "%s": plan.String(), "values": fmt.Sprint(plan.Values())} {
		for _, secret := range []string{apiKey, ampSecret} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds a credential: %s", name, text)
			}
		}
	}
	kinds := map[install.Action]int{}
	for _, c := range plan.Changes {
		kinds[c.Action]++
	}
	if kinds[install.Create] != 7 { // five of the chart, ConfigMap and Secret
		t.Errorf("changes: %+v", plan.Changes)
	}
	for _, c := range plan.Checks {
		if c.Outcome != event.OK {
			t.Errorf("check %s %s: %s %s", c.ID, c.Title, c.Outcome, c.Message)
		}
	}
}

func TestValuesAreKeptAndMerged(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Values = map[string]any{"heartbeat": map[string]any{"replicas": 3}, "nops": map[string]any{"global": map[string]any{"labels": map[string]any{"team": "x"}}}}
	w.install(w.engine(), r)
	r = w.request()
	r.Values = map[string]any{"nops": map[string]any{"host": "https://other.example"}}
	plan, result := w.install(w.engine(), r)
	if result.Revision != 2 {
		t.Fatalf("a changed value is a revision: %+v", result)
	}
	got := plan.Values()
	want := map[string]any{"replicas": int64(3)}
	if diff := cmp.Diff(want, got["heartbeat"]); diff != "" {
		t.Errorf("stored values stay (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]install.ValueChange{{Path: "nops.host", New: "https://other.example"}}, plan.ValueChanges); diff != "" {
		t.Errorf("value changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"superseded", "deployed"}, w.revisions()); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
}

// TestFreshValues: what suits the cluster is what a new release begins with, below what the command says; a release that is there keeps what it has.
func TestFreshValues(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Fresh = map[string]any{"heartbeat": map[string]any{"replicas": 2}, "nops": map[string]any{"host": "https://fresh.example"}}
	r.Values = map[string]any{"heartbeat": map[string]any{"replicas": 3}}
	plan, _ := w.install(w.engine(), r)
	got := plan.Values()
	if host := got["nops"].(map[string]any)["host"]; host != "https://fresh.example" {
		t.Errorf("a new release has %v", got["nops"])
	}
	if diff := cmp.Diff(map[string]any{"replicas": int64(3)}, got["heartbeat"]); diff != "" {
		t.Errorf("the command's word counts (-want +got):\n%s", diff)
	}
	r.Values, r.Fresh = nil, map[string]any{"heartbeat": map[string]any{"replicas": 1}, "nops": map[string]any{"host": "https://other.example"}}
	again, err := w.engine().Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again.Values()); diff != "" {
		t.Errorf("a release that is there changed (-before +after):\n%s", diff)
	}
}

func TestRotatedKeyRestartsPods(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	r := w.request()
	r.Credentials = map[string][]byte{install.KeyAPI: []byte("4242.ffffffffffffffffffffffffffffffff")}
	plan, result := w.install(w.engine(), r)
	if result.Revision != 2 || result.Outcome != event.OK {
		t.Fatalf("%+v", result)
	}
	updated := ""
	for _, c := range plan.Changes {
		if c.Action == install.Update {
			updated += c.Object + ";"
		}
	}
	if !strings.Contains(updated, "Deployment "+w.namespace+"/nops-heartbeat") || !strings.Contains(updated, "Secret ") {
		t.Errorf("updated: %s", updated)
	}
	data, err := w.engine().Credentials(t.Context())
	if err != nil || string(data[install.KeyAMPSecret]) != ampSecret || !strings.HasSuffix(string(data[install.KeyAPI]), "ffff") {
		t.Errorf("keys that were not given stay: %v", err)
	}
	r.Credentials = nil
	if again, err := w.engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("no credentials given: leave them: %v %+v", err, again)
	}
}

func TestUnknownValues(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Values = map[string]any{"autoUpdatr": map[string]any{"enabled": false}, "heartbeat": map[string]any{"replicaz": 2}, "nops": map[string]any{"global": map[string]any{"labels": map[string]any{"anything": 1}}}}
	_, err := w.engine().Plan(t.Context(), r)
	var unknown *install.UnknownValuesError
	if !errors.As(err, &unknown) || class(err) != install.ClassUsage {
		t.Fatalf("%v", err)
	}
	want := []install.UnknownValue{{Path: "autoUpdatr.enabled", Suggestion: "autoUpdater.enabled"}, {Path: "heartbeat.replicaz", Suggestion: "heartbeat.replicas"}}
	if diff := cmp.Diff(want, unknown.Values); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.Values = map[string]any{"heartbeat": map[string]any{"replicas": "many"}}
	if _, err = w.engine().Plan(t.Context(), r); class(err) != install.ClassUsage || strings.Contains(err.Error(), "\n") {
		t.Errorf("a value of the wrong type: %v", err)
	}
}

// TestAdoption takes over a release that the real helm made with credentials in its values.
func TestAdoption(t *testing.T) {
	w := newWorld(t)
	w.helm("upgrade", "-i", w.release, w.chart, "--namespace", w.namespace, "--create-namespace", "--skip-schema-validation",
		"--set", "nops.apiKey="+apiKey, "--set", "containerInsights.ampAccessKey=AKIAOLD", "--set", "containerInsights.ampSecretKey="+ampSecret,
		"--set", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN="+arn,
		"--set", "heartbeat.replicas=2", "--set", "autoUpater.enabled=false", "--set", "old.gone=1")
	r := w.request()
	r.Credentials = nil
	plan, result := w.install(w.engine(), r)
	if result.Outcome != event.OK || result.Revision != 2 {
		t.Fatalf("%+v", result)
	}
	ids := map[string]string{}
	for _, warning := range plan.Warnings {
		ids[warning.ID] += warning.Message + ";"
	}
	if !strings.Contains(ids["NOPS-VAL-001"], `"old.gone"`) || !strings.Contains(ids["NOPS-VAL-002"], "autoUpater") || !strings.Contains(ids["NOPS-VAL-003"], "still hold them: 1") {
		t.Errorf("warnings: %v", ids)
	}
	data, err := w.engine().Credentials(t.Context())
	if err != nil || string(data[install.KeyAPI]) != apiKey || string(data[install.KeyAMPAccess]) != "AKIAOLD" || string(data[install.KeyAMPSecret]) != ampSecret {
		t.Errorf("credentials did not move: %v", err)
	}
	values := w.helm("get", "values", w.release, "--namespace", w.namespace, "-o", "json")
	if strings.Contains(values, apiKey) || strings.Contains(values, ampSecret) || !strings.Contains(values, `"replicas":2`) || !strings.Contains(values, `"old"`) {
		t.Errorf("values afterwards: %s", values)
	}
	if _, err := w.client.CoreV1().Secrets(w.namespace).Get(t.Context(), "nops-inline-credentials", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the chart's own Secret is no longer rendered: %v", err)
	}
	// helm goes on working on it.
	w.helm("upgrade", w.release, w.chart, "--namespace", w.namespace, "--reuse-values", "--skip-schema-validation", "--set", "heartbeat.replicas=3")
	if diff := cmp.Diff([]string{"superseded", "superseded", "deployed"}, w.revisions()); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
	if again, err := w.engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("what helm did is as wanted: %v %+v", err, again.Changes)
	}
	w.helm("rollback", w.release, "2", "--namespace", w.namespace)
	w.helm("uninstall", w.release, "--namespace", w.namespace)
}

// TestCancel interrupts an installation at every request that writes something.
func TestCancel(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		at           func(*http.Request) bool
		revisions    []string
	}{
		{"namespace", "nothing of Helm's exists yet", func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/namespaces") }, []string{}},
		{"credentials", "nothing of Helm's exists yet", func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, "/secrets") && r.Method == http.MethodPost
		}, []string{}},
		{"first object", "Helm has recorded pending-install", func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/serviceaccounts") }, []string{"failed"}},
		{"last object", "half of the objects exist", func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, "/daemonsets") && r.Method == http.MethodPost
		}, []string{"failed"}},
		{"waiting", "Helm has recorded deployed", func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, "/pods") && strings.Contains(r.URL.Path, "/namespaces/")
		}, []string{"failed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			leaks := goleak.IgnoreCurrent()
			if tt.name == "waiting" {
				w.makeNamespace(map[string]string{brokenNamespace: "yes"})
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			applying := atomic.Bool{}
			e := w.engine(func(o *install.Options) {
				o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
					dry := r.URL.Query().Get("dryRun") != ""
					if applying.Load() && !dry && (r.Method != http.MethodGet || tt.name == "waiting") && tt.at(r) {
						cancel()
					}
					return nil
				}}
			})
			plan, err := e.Plan(ctx, w.request())
			if err != nil {
				t.Fatal(err)
			}
			applying.Store(true)
			result, err := e.Apply(ctx, plan)
			if class(err) != "cancelled" || result.Outcome != event.Cancelled {
				t.Fatalf("%s: %v, %+v", tt.reason, err, result)
			}
			if diff := cmp.Diff(tt.revisions, w.revisions()); diff != "" {
				t.Errorf("%s: revisions (-want +got):\n%s", tt.reason, diff)
			}
			w.round.Lock() // the stand-in for the controllers has requests of its own
			goleak.VerifyNone(t, leaks, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
				goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"),
				goleak.IgnoreAnyFunction("net/http/internal/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("k8s.io/client-go/transport.(*dynamicClientCert).run"))
			w.round.Unlock()

			if tt.name == "waiting" {
				ns, err := w.client.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				delete(ns.Labels, brokenNamespace)
				if _, err := w.client.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if _, result := w.install(w.engine(), w.request()); result.Outcome != event.OK || result.Revision != len(tt.revisions)+1 {
				t.Errorf("the same command goes on: %+v", result)
			}
			want := []string{"deployed"}
			if len(tt.revisions) > 0 {
				want = []string{"superseded", "deployed"} // as helm does with a failed revision it upgrades over
			}
			if diff := cmp.Diff(want, w.revisions()); diff != "" {
				t.Errorf("afterwards (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimeoutNamesTheReason(t *testing.T) {
	w := newWorld(t)
	w.makeNamespace(map[string]string{brokenNamespace: "yes"})
	labels := map[string]string{"app.kubernetes.io/instance": w.release, "app.kubernetes.io/component": "heartbeat", "app.kubernetes.io/part-of": "nops-kubernetes-agent"}
	pod, err := w.client.CoreV1().Pods(w.namespace).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nops-heartbeat-x", Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "heartbeat", Image: "x"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "heartbeat", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: `Back-off pulling image "x": ErrImagePull: connection refused with ` + apiKey}}}}}
	if _, err := w.client.CoreV1().Pods(w.namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.CoreV1().Events(w.namespace).Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: w.namespace, Name: "nops-heartbeat-x"},
		Type: corev1.EventTypeWarning, Reason: "Failed", Message: "Error: ErrImagePull"}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e := w.engine()
	r := w.request()
	r.Timeout = 3 * time.Second
	plan, err := e.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Apply(t.Context(), plan)
	var timeout *install.TimeoutError
	if !errors.As(err, &timeout) || class(err) != install.ClassTimeout || !strings.Contains(err.Error(), "Deployment "+w.namespace+"/nops-heartbeat (0 of 1 ready): ImagePullBackOff: container heartbeat: connection refused") {
		t.Fatalf("%v", err)
	}
	if diff := cmp.Diff([]string{"failed"}, w.revisions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text := fmt.Sprint(result.Evidence)
	if !strings.Contains(text, "Failed: Error: ErrImagePull") || !strings.Contains(text, "Pod "+w.namespace+"/nops-heartbeat-x") || strings.Contains(text, apiKey) {
		t.Errorf("evidence: %s", text)
	}
	status, err := w.engine().Status(t.Context())
	if err != nil || status.Health != install.Degraded || status.Release.Status != "failed" || !strings.Contains(status.Release.Description, "ImagePullBackOff") {
		t.Errorf("status: %v %+v", err, status)
	}
}

func TestPending(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	// An operation that was killed while it ran.
	w.pend("pending-upgrade")
	_, err := w.engine().Plan(t.Context(), w.request())
	var pending *install.PendingError
	if !errors.As(err, &pending) || class(err) != install.ClassPreflight || !strings.Contains(hint(err), "--recover") {
		t.Fatalf("young: it may still run: %v", err)
	}
	r := w.request()
	r.Recover = true
	if _, result := w.install(w.engine(), r); result.Revision != 2 {
		t.Errorf("recovered when asked: %+v", result)
	}
	if diff := cmp.Diff([]string{"superseded", "deployed"}, w.revisions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.pend("pending-rollback")
	later := w.engine(func(o *install.Options) { o.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	if _, result := w.install(later, w.request()); result.Revision != 3 {
		t.Errorf("an old one is recovered unasked: %+v", result)
	}
	w.pend("pending-upgrade")
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second}); !errors.As(err, &pending) {
		t.Errorf("uninstall does not pull the rug from under another: %v", err)
	}
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second, Recover: true}); err != nil {
		t.Errorf("unless asked: %v", err)
	}
}

func TestConcurrentInstall(t *testing.T) {
	w := newWorld(t)
	first, second := w.engine(), w.engine()
	one, err := first.Plan(t.Context(), w.request())
	if err != nil {
		t.Fatal(err)
	}
	two, err := second.Plan(t.Context(), w.request())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Apply(t.Context(), two); err == nil || !strings.Contains(err.Error(), "changed since it was planned") {
		t.Errorf("a plan does not outlive what it was made for: %v", err)
	}
}

func TestToggle(t *testing.T) {
	w := newWorld(t)
	if _, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "containerInsights"}); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("nothing to toggle: %v", err)
	}
	r := w.request()
	r.Values = map[string]any{"heartbeat": map[string]any{"replicas": 2}}
	w.install(w.engine(), r)
	e := w.engine()
	plan, err := e.Toggle(t.Context(), install.ToggleRequest{Component: "containerInsights", Request: install.Request{Wait: true, Timeout: 10 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]install.ValueChange{{Path: "containerInsights.enabled", New: false}}, plan.ValueChanges); diff != "" || plan.Operation != "disable" || plan.Consequence == "" || plan.Target.ClusterARN != arn {
		t.Errorf("one change: %+v\n%s", plan, diff)
	}
	if _, err := e.Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.AppsV1().DaemonSets(w.namespace).Get(t.Context(), "nops-node-exporter", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the DaemonSet is gone: %v", err)
	}
	status, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, c := range status.Components {
		states[c.Name] = string(c.State) + ": " + c.Message
	}
	want := map[string]string{
		"containerInsights": "disabled: disabled by you", "heartbeat": "ready: ", "karpenops": "not-part-of-this-release: not yet part of this release",
		"autoUpdater": "not-part-of-this-release: not yet part of this release", "datadog": "disabled: disabled by default",
		"containerRightsizing": "disabled: disabled by default", "dataFetcher": "disabled: disabled by default", "dcgmExporter": "disabled: disabled by default",
	}
	if diff := cmp.Diff(want, states); diff != "" || status.Health != install.Healthy {
		t.Errorf("status %s (-want +got):\n%s", status.Health, diff)
	}
	for _, tt := range []struct {
		name    string
		request install.ToggleRequest
		class   string
		says    string
	}{
		{"unavailable", install.ToggleRequest{Component: "karpenops", Enabled: true}, install.ClassUsage, "not yet part of this release"},
		{"misspelt", install.ToggleRequest{Component: "containerinsight"}, install.ClassUsage, "unknown component"},
		{"heartbeat", install.ToggleRequest{Component: "heartbeat"}, install.ClassUsage, "disabling heartbeat"},
	} {
		if _, err := w.engine().Toggle(t.Context(), tt.request); class(err) != tt.class || !strings.Contains(err.Error(), tt.says) || hint(err) == "" {
			t.Errorf("%s: %v (%s)", tt.name, err, hint(err))
		}
	}
	if plan, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "containerInsights"}); err != nil || !plan.NoOp {
		t.Errorf("it is disabled already: %v", err)
	}
	if _, err := w.engine().Toggle(t.Context(), install.ToggleRequest{Component: "heartbeat", Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
}

func TestUninstallLeavesNothing(t *testing.T) {
	for _, tt := range []struct{ name, reason, state string }{
		{"deployed", "the plain case", "deployed"},
		{"failed", "a failed revision is uninstalled too", "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			before := w.everything()
			w.install(w.engine(), w.request())
			w.pend(tt.state)
			result, err := w.engine(func(o *install.Options) { o.Chart = nil }).Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second})
			if err != nil {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			if diff := cmp.Diff(before, w.everything()); diff != "" || result.Outcome != event.OK || len(result.Kept) > 0 {
				t.Errorf("%+v (-before +after):\n%s", result, diff)
			}
			if again, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second}); err != nil || again.Outcome != event.Unchanged {
				t.Errorf("a second time there is nothing to do: %v %+v", err, again)
			}
			status, err := w.engine().Status(t.Context())
			if err != nil || status.Health != install.NotInstalled {
				t.Errorf("status: %v %+v", err, status)
			}
		})
	}
}

func TestUninstallKeepsTheCustomers(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	if _, err := w.client.CoreV1().Secrets(w.namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "customers"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	result, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second})
	if err != nil || len(result.Kept) != 1 || !strings.Contains(result.Kept[0], "Secret customers") {
		t.Fatalf("%v %+v", err, result)
	}
	list, err := w.client.CoreV1().Secrets(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("only the customer's Secret stays: %v %v", list.Items, err)
	}
}

func TestUninstallAfterHalfAnUpgrade(t *testing.T) {
	w := newWorld(t)
	before := w.everything()
	w.install(w.engine(), w.request())
	// The upgrade no longer renders the DaemonSet and is interrupted before Helm removes it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	applying := atomic.Bool{}
	e := w.engine(func(o *install.Options) {
		o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
			if applying.Load() && r.Method == http.MethodPatch {
				cancel()
			}
			return nil
		}}
	})
	r := w.request()
	r.Values = map[string]any{"containerInsights": map[string]any{"enabled": false}, "heartbeat": map[string]any{"replicas": 2}}
	plan, err := e.Plan(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	applying.Store(true)
	if _, err := e.Apply(ctx, plan); class(err) != "cancelled" {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"deployed", "failed"}, w.revisions()); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" {
		t.Errorf("what the revision before made goes too (-before +after):\n%s", diff)
	}
}

func TestManagedElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name                string
		labels, annotations map[string]string
		class, says         string
	}{
		{"foreign release", map[string]string{"app.kubernetes.io/managed-by": "Helm"}, map[string]string{"meta.helm.sh/release-name": "other", "meta.helm.sh/release-namespace": "x"}, install.ClassManagedElsewhere, "Helm release x/other"},
		{"argo cd", nil, map[string]string{"argocd.argoproj.io/tracking-id": "agents:/ServiceAccount:x/y"}, install.ClassManagedElsewhere, "Argo CD Application agents"},
		{"flux", map[string]string{"helm.toolkit.fluxcd.io/name": "agents", "helm.toolkit.fluxcd.io/namespace": "flux"}, nil, install.ClassManagedElsewhere, "Flux (HelmRelease flux/agents)"},
		{"operator", map[string]string{"app.kubernetes.io/managed-by": "some-operator"}, nil, install.ClassManagedElsewhere, "some-operator"},
		{"nobody", nil, nil, install.ClassPreflight, "--adopt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.makeNamespace(nil)
			_, err := w.client.CoreV1().ServiceAccounts(w.namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "nops-heartbeat", Labels: tt.labels, Annotations: tt.annotations}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.engine().Plan(t.Context(), w.request())
			if class(err) != tt.class || !strings.Contains(err.Error()+hint(err), tt.says) || hint(err) == "" {
				t.Fatalf("%v (%s)", err, hint(err))
			}
			if tt.name != "nobody" {
				return
			}
			r := w.request()
			r.Adopt = true
			if _, result := w.install(w.engine(), r); result.Outcome != event.OK {
				t.Errorf("adopted: %+v", result)
			}
		})
	}
}

func TestClusterIdentity(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	r := w.request()
	r.ClusterARN = "arn:aws:eks:us-east-1:123456789012:cluster/production"
	_, err := w.engine().Plan(t.Context(), r)
	if class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "this cluster is "+arn) || !strings.Contains(err.Error(), "production") {
		t.Errorf("%v", err)
	}
	r = w.request()
	r.Values = map[string]any{"containerInsights": map[string]any{"env_variables": map[string]any{"APP_NOPS_K8S_AGENT_CLUSTER_ARN": "arn:aws:eks:us-east-1:123456789012:cluster/other"}}}
	if _, err = w.engine().Plan(t.Context(), r); class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "cluster/other") {
		t.Errorf("the ARN of the values counts too: %v", err)
	}
	cm, err := w.client.CoreV1().ConfigMaps(w.namespace).Get(t.Context(), install.IdentityConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["kube_system_uid"] = "another"
	if _, err := w.client.CoreV1().ConfigMaps(w.namespace).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = w.engine().Plan(t.Context(), w.request()); class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("a restored backup is another cluster: %v", err)
	}
}

func TestPermissions(t *testing.T) {
	w := newWorld(t)
	w.makeNamespace(nil)
	user, err := w.env.AddUser(envtest.User{Name: "restricted-" + w.release}, nil)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := writeKubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: w.release + "-user"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps", "serviceaccounts", "pods", "namespaces"}, Verbs: []string{"*"}},
		{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"*"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles", "clusterrolebindings"}, Verbs: []string{"get", "create", "patch", "delete"}},
	}}
	if _, err := w.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role.Name}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "restricted-" + w.release}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e := w.engine(func(o *install.Options) { o.Getter = w.cluster(kube.Options{Kubeconfig: kubeconfig}) })
	plan, err := e.Plan(t.Context(), w.request())
	var preflight *install.PreflightError
	if !errors.As(err, &preflight) || class(err) != install.ClassPreflight {
		t.Fatalf("%v", err)
	}
	messages := map[string]string{}
	for _, c := range plan.Checks {
		messages[c.ID] = string(c.Outcome) + " " + c.Message
	}
	if want := "failed missing: create, delete, patch deployments.apps in namespace " + w.namespace; messages["NOPS-PRE-003"] != want {
		t.Errorf("got  %s\nwant %s", messages["NOPS-PRE-003"], want)
	}
	if !strings.Contains(messages["NOPS-PRE-010"], "attempting to grant") {
		t.Errorf("granting what one does not have: %s", messages["NOPS-PRE-010"])
	}
	if diff := cmp.Diff([]string{}, w.revisions()); diff != "" {
		t.Errorf("something was written:\n%s", diff)
	}

	reader, err := w.env.AddUser(envtest.User{Name: "nobody"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kubeconfig, err = writeKubeconfig(reader); err != nil {
		t.Fatal(err)
	}
	status, err := w.engine(func(o *install.Options) { o.Getter = w.cluster(kube.Options{Kubeconfig: kubeconfig}) }).Status(t.Context())
	if err != nil || len(status.Problems) == 0 || status.Health != install.Unknown {
		t.Errorf("status says what it could not read: %v %+v", err, status)
	}
}

func TestHostPortConflict(t *testing.T) {
	w := newWorld(t)
	other := "t-other-exporter"
	if _, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	if _, err := w.client.CoreV1().Pods(other).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "exporter-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "exporter", UID: "u", Controller: &yes}}},
		Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "x", Image: "x", Ports: []corev1.ContainerPort{{ContainerPort: 9110, HostPort: 9110}}}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	plan, err := w.engine().Plan(t.Context(), w.request())
	if err != nil {
		t.Fatalf("a warning stops nothing: %v", err)
	}
	for _, c := range plan.Checks {
		if c.ID == "NOPS-PRE-008" && (c.Outcome != event.Warned || !strings.Contains(c.Message, "port 9110") || !strings.Contains(c.Message, "DaemonSet t-other-exporter/exporter")) {
			t.Errorf("%+v", c)
		}
	}
	if err := w.client.CoreV1().Pods(other).Delete(t.Context(), "exporter-1", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
}

func TestImages(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.OwnImages = []string{"k8s-heartbeat-agent"}
	for _, tt := range []struct {
		name   string
		label  string
		err    error
		passes bool
		says   string
	}{
		{"ours", install.SourceValue, nil, true, ""},
		{"another build", "https://example.com", nil, false, "k8s-heartbeat-agent:0.1.0 is not a build of this project"},
		{"missing", "", errors.New("MANIFEST_UNKNOWN"), false, "MANIFEST_UNKNOWN"},
	} {
		r.Images = install.ImageResolverFunc(func(_ context.Context, ref string) (install.ImageInfo, error) {
			return install.ImageInfo{Digest: "sha256:aa", Labels: map[string]string{install.SourceLabel: tt.label}}, tt.err
		})
		plan, err := w.engine().Plan(t.Context(), r)
		if tt.passes != (err == nil) || err != nil && (!strings.Contains(err.Error(), tt.says) || !strings.Contains(hint(err), "make images REGISTRY=") || class(err) != install.ClassPreflight) {
			t.Errorf("%s: %v (%s)", tt.name, err, hint(err))
		}
		if tt.passes && (len(plan.Images) != 2 || plan.Images[0].Digest != "sha256:aa") {
			t.Errorf("%s: %+v", tt.name, plan.Images)
		}
	}
}

func TestCustomersSecrets(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Values = map[string]any{"customerManagedSecrets": map[string]any{"enabled": true, "apiSecretName": "theirs", "apiSecretKey": "K"}}
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.CredentialKeys) > 0 || len(plan.Warnings) != 1 || plan.Warnings[0].ID != "NOPS-VAL-004" {
		t.Errorf("%+v", plan)
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	e := w.engine(func(o *install.Options) {
		o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(*http.Request) error { return errors.New("connection refused") }}
	})
	if _, err := e.Plan(t.Context(), w.request()); class(err) != install.ClassPreflight || hint(err) == "" {
		t.Errorf("%v (%s)", err, hint(err))
	}
	if _, err := e.Status(t.Context()); err == nil {
		t.Error("status of an unreachable cluster is an error")
	}
}

// TestOneIdentity: Helm and client-go speak to the same server as the same user.
func TestOneIdentity(t *testing.T) {
	w := newWorld(t)
	type identity struct{ host, user, groups string }
	seen := map[identity]int{}
	var storage, typed int
	getter := w.cluster(kube.Options{As: "admin", AsGroups: []string{"system:masters"}, Namespace: w.namespace})
	mu := make(chan struct{}, 1)
	e := w.engine(func(o *install.Options) {
		o.Getter = tapped{RESTClientGetter: getter, tap: func(r *http.Request) error {
			mu <- struct{}{}
			defer func() { <-mu }()
			seen[identity{r.URL.Host, r.Header.Get("Impersonate-User"), strings.Join(r.Header.Values("Impersonate-Group"), ",")}]++
			if strings.Contains(r.URL.RawQuery, "owner%3Dhelm") {
				storage++
			}
			if strings.Contains(r.URL.Path, "selfsubjectaccessreviews") {
				typed++
			}
			return nil
		}}
	})
	w.install(e, w.request())
	if len(seen) != 1 || storage == 0 || typed == 0 {
		t.Errorf("one identity for all: %v, of Helm %d, of client-go %d", seen, storage, typed)
	}
	for id := range seen {
		if id.user != "admin" || id.groups != "system:masters" {
			t.Errorf("impersonation is lost: %+v", id)
		}
	}
}

// pend rewrites the status of the last revision, as a process that died would have left it.
func (w *world) pend(status string) {
	w.t.Helper()
	if err := setStatus(w, status); err != nil {
		w.t.Fatal(err)
	}
}
