package install_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/release"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
