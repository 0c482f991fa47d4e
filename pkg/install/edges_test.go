package install_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/release"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// TestNoCredentialLeaves looks for the credentials of an installation wherever it leaves a trace.
func TestNoCredentialLeaves(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.Values = map[string]any{"nops": map[string]any{"apiKey": apiKey}} // given inline, as published commands do
	plan, result := w.install(w.engine(), r)
	records, err := recorded(w)
	if err != nil {
		t.Fatal(err)
	}
	status, err := w.engine().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	traces := map[string]any{"plan": plan, "result": result, "events": w.events, "status": status}
	secrets := []string{apiKey, ampSecret}
	find := func(where, text string) bool {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				return true
			}
		}
		return false
	}
	for where, v := range traces {
		b, err := json.Marshal(v)
		if err != nil || len(b) < 10 {
			t.Fatalf("%s: %v", where, err)
		}
		if find(where, string(b)) {
			t.Errorf("%s holds a credential", where)
		}
	}
	if find("records", records) {
		t.Error("the release's record holds a credential")
	}
	// A search that cannot find anything proves nothing.
	if err := change(w, func(r *release.Release) { r.Config["planted"] = ampSecret }); err != nil {
		t.Fatal(err)
	}
	if records, err = recorded(w); err != nil || !find("records", records) {
		t.Errorf("the planted credential was not found: %v", err)
	}
}

func TestTerraform(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	secrets := w.client.CoreV1().Secrets(w.namespace)
	record, err := secrets.Get(t.Context(), "sh.helm.release.v1."+w.release+".v1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	record.Labels["modifiedAt"] = "1"
	if _, err := secrets.Update(t.Context(), record, metav1.UpdateOptions{FieldManager: "terraform-provider-helm_v2.17.0_x5"}); err != nil {
		t.Fatal(err)
	}
	_, planned := w.engine().Plan(t.Context(), w.request())
	_, removed := w.engine().Uninstall(t.Context(), install.UninstallRequest{})
	for what, err := range map[string]error{"plan": planned, "uninstall": removed} {
		if class(err) != install.ClassManagedElsewhere || !strings.Contains(err.Error(), "Terraform") || !strings.Contains(hint(err), "Terraform") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if diff := cmp.Diff([]string{"deployed"}, w.revisions()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVersionRange(t *testing.T) {
	w := newWorld(t)
	files := fstest.MapFS{}
	for name, data := range readDir(t, w.chart) {
		files[name] = &fstest.MapFile{Data: data}
	}
	files["Chart.yaml"].Data = []byte(strings.Replace(string(files["Chart.yaml"].Data), ">=1.23.0-0", ">=2.0.0-0", 1))
	plan, err := w.engine(func(o *install.Options) { o.Chart = files }).Plan(t.Context(), w.request())
	if class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "needs >=2.0.0-0") {
		t.Errorf("%v", err)
	}
	if last := plan.Checks[len(plan.Checks)-1]; last.ID != "NOPS-PRE-002" || last.Outcome != event.Failed || last.Hint == "" {
		t.Errorf("%+v", last)
	}
}

// withHook is the tests' chart with a webhook and what resizes pods, both switched by containerInsights.
func (w *world) withHook() fstest.MapFS {
	w.t.Helper()
	files := fstest.MapFS{}
	for name, data := range readDir(w.t, w.chart) {
		files[name] = &fstest.MapFile{Data: data}
	}
	files["templates/hook.yaml"] = &fstest.MapFile{Data: []byte(`{{- if .Values.containerInsights.enabled }}
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: ` + w.release + `-hook, labels: {app.kubernetes.io/instance: {{ .Release.Name }}}}
webhooks:
  - name: x.nops.io
    admissionReviewVersions: [v1]
    sideEffects: None
    failurePolicy: Ignore
    clientConfig: {service: {namespace: {{ .Release.Namespace }}, name: gone}}
    rules: [{apiGroups: [test.nops.io], apiVersions: [v1], operations: [CREATE], resources: [tests]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hook, labels: {app.kubernetes.io/component: vpa-updater, app.kubernetes.io/instance: {{ .Release.Name }}}}
spec:
  replicas: 1
  selector: {matchLabels: {app: hook}}
  template:
    metadata: {labels: {app: hook}}
    spec: {containers: [{name: hook, image: "registry.example.com/hook:1"}]}
{{- end }}
`)}
	return files
}

// TestWebhooksLeaveFirst: an upgrade that removes a webhook removes it before what answers it, and again when it is run again.
func TestWebhooksLeaveFirst(t *testing.T) {
	w := newWorld(t)
	chart := func(o *install.Options) { o.Chart = w.withHook() }
	w.install(w.engine(chart), w.request())
	var mu sync.Mutex
	var deleted []string
	fail := true
	watched := func(o *install.Options) {
		chart(o)
		o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
			if r.Method != http.MethodDelete {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			name := path.Base(r.URL.Path)
			deleted = append(deleted, name)
			if name == "hook" && fail {
				return errors.New("the connection breaks")
			}
			return nil
		}}
	}
	toggle := install.ToggleRequest{Component: "containerInsights", Request: install.Request{Wait: true, Timeout: time.Minute}}
	switchOff := func() error {
		e := w.engine(watched)
		plan, err := e.Toggle(t.Context(), toggle)
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Apply(t.Context(), plan)
		return err
	}
	if err := switchOff(); err != nil && !strings.Contains(err.Error(), "the connection breaks") {
		t.Error(err)
	}
	if i, j := index(deleted, w.release+"-hook"), index(deleted, "hook"); i != 0 || j < 1 {
		t.Errorf("deleted %v: the webhook has to go first, then what answers it", deleted)
	}
	fail = false
	if err := switchOff(); err != nil {
		t.Errorf("again, without the webhook: %v", err)
	}
	if _, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), w.release+"-hook", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the webhook is there: %v", err)
	}
	// A release that somebody worked on meanwhile keeps its webhook.
	toggle.Enabled = true
	e := w.engine(chart)
	for _, step := range []bool{true, false} {
		toggle.Enabled = step
		plan, err := e.Toggle(t.Context(), toggle)
		if err != nil {
			t.Fatal(err)
		}
		if !step {
			if err := change(w, func(r *release.Release) { r.Info.Status = release.StatusFailed }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := e.Apply(t.Context(), plan); (err == nil) != step {
			t.Errorf("%v: %v", step, err)
		}
	}
	if _, err := w.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), w.release+"-hook", metav1.GetOptions{}); err != nil {
		t.Errorf("the plan was refused, and its webhook went: %v", err)
	}
}

// versioned is a cluster of another version.
type versioned struct {
	genericclioptions.RESTClientGetter
	version string
}

func (v versioned) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	c, err := v.RESTClientGetter.ToDiscoveryClient()
	return versionedDiscovery{c, v.version}, err
}

type versionedDiscovery struct {
	discovery.CachedDiscoveryInterface
	version string
}

func (v versionedDiscovery) ServerVersion() (*version.Info, error) {
	return &version.Info{GitVersion: v.version}, nil
}

func TestPodsAreResizedFrom133On(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		version string
		without bool // what resizes pods
		want    event.Outcome
	}{
		{"v1.32.9-eks-abcdef0", false, event.Warned}, {"v1.33.0-eks-abcdef0", false, event.OK}, {"v1.36.1", false, event.OK}, {"v1.29.0+k3s1", false, event.Warned}, {"v1.29.0", true, ""},
	} {
		plan, err := w.engine(func(o *install.Options) {
			o.Getter = versioned{o.Getter, tt.version}
			if !tt.without {
				o.Chart = w.withHook()
			}
		}).Plan(t.Context(), w.request())
		if err != nil {
			t.Fatal(err)
		}
		if c := check(plan, "NOPS-PRE-013"); c.Outcome != tt.want || tt.want == event.Warned && (c.Hint == "" || !strings.Contains(c.Message, tt.version)) {
			t.Errorf("%s: %+v, want %q", tt.version, c, tt.want)
		}
	}
}

func readDir(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"Chart.yaml", "values.yaml", "values.schema.json", "files/images.yaml", "templates/all.yaml", "templates/NOTES.txt"} {
		data, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	return files
}

// TestUninstallOfADamagedRelease: a kind of the manifest is no longer served, which stops Helm.
func TestUninstallOfADamagedRelease(t *testing.T) {
	w := newWorld(t)
	before := w.everything()
	w.install(w.engine(), w.request())
	if err := change(w, func(r *release.Release) {
		r.Manifest += "---\napiVersion: gone.example.com/v1\nkind: Gone\nmetadata: {name: x}\n"
	}); err != nil {
		t.Fatal(err)
	}
	result, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" || result.Outcome != event.OK {
		t.Errorf("%+v (-before +after):\n%s", result, diff)
	}
}

func TestUninstallRemovesWebhooksFirst(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	before := w.everything()
	fail, none := admissionv1.Fail, admissionv1.SideEffectClassNone
	for name, labels := range map[string]map[string]string{w.release + "-ours": {"app.kubernetes.io/instance": w.release}, w.release + "-theirs": {"app.kubernetes.io/instance": "other"}} {
		hook := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "x.nops.io", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: w.namespace, Name: "gone"}},
			Rules:        []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{"test.nops.io"}, APIVersions: []string{"v1"}, Resources: []string{"tests"}}}},
		}}}
		if _, err := w.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = w.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(context.WithoutCancel(t.Context()), w.release+"-theirs", metav1.DeleteOptions{})
	})
	if _, err := w.engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	var steps []string
	w.mu.Lock()
	for _, e := range w.events {
		if s, ok := e.(event.StepFinished); ok && s.Step != "preflight" && s.Outcome == event.OK {
			steps = append(steps, s.Step)
		}
	}
	w.mu.Unlock()
	if i, j := index(steps, "webhooks"), len(steps)-1; i < 0 || index(steps[i:], "release") < 1 || j < 0 {
		t.Errorf("order: %v", steps)
	}
	after := w.everything()
	if after["validatingwebhookconfigurations//"+w.release+"-ours"] || !after["validatingwebhookconfigurations//"+w.release+"-theirs"] {
		t.Errorf("ours goes, theirs stays: %v", after)
	}
	if before["validatingwebhookconfigurations//"+w.release+"-ours"] {
		t.Error("the test is wrong")
	}
}

func index(list []string, s string) int {
	for i, x := range list {
		if x == s {
			return i
		}
	}
	return -1
}

// TestHealthIsWaitedFor: nothing changes, but the release is not healthy yet.
func TestHealthIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.install(w.engine(), w.request())
	ns, err := w.client.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Labels[brokenNamespace] = "yes"
	if _, err := w.client.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.pass() // the stand-in for the controllers lets go
	d, err := w.client.AppsV1().Deployments(w.namespace).Get(t.Context(), "nops-heartbeat", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Status.AvailableReplicas, d.Status.ReadyReplicas = 0, 0
	if _, err := w.client.AppsV1().Deployments(w.namespace).UpdateStatus(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r := w.request()
	r.Timeout = time.Second
	plan, err := w.engine().Plan(t.Context(), r)
	if err != nil || !plan.NoOp {
		t.Fatalf("%v %+v", err, plan)
	}
	if _, err := w.engine().Apply(t.Context(), plan); class(err) != install.ClassTimeout {
		t.Errorf("it is waited for: %v", err)
	}
	if diff := cmp.Diff([]string{"deployed"}, w.revisions()); diff != "" {
		t.Errorf("a revision that this command did not make is not marked (-want +got):\n%s", diff)
	}
}
