package install_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// embedded is a world with the chart that nopsctl ships.
func embedded(t *testing.T) (*world, func(...func(*install.Options)) *install.Engine) {
	t.Helper()
	w := newWorld(t)
	w.release, w.chart = "nops-kubernetes-agent", "../../embedded-chart/chart"
	fsys, err := embeddedchart.FS()
	if err != nil {
		t.Fatal(err)
	}
	engine := func(change ...func(*install.Options)) *install.Engine {
		return w.engine(append([]func(*install.Options){func(o *install.Options) { o.Chart = fsys }}, change...)...)
	}
	t.Cleanup(func() {
		if t.Failed() { // there can be one in a cluster: what this test left would fail the others too
			_, _ = engine().Uninstall(context.WithoutCancel(t.Context()), install.UninstallRequest{Timeout: time.Minute, DeleteCRDs: true})
		}
	})
	return w, engine
}

func ampValues() map[string]any {
	return map[string]any{"containerInsights": map[string]any{"ampID": "ws-12345678-1234-1234-1234-123456789012", "ampRegion": "us-east-1"}}
}

func TestEmbeddedChart(t *testing.T) {
	w, engine := embedded(t)
	before := w.everything()
	r := w.request()
	r.Values = ampValues()
	plan, result := w.install(engine(), r)
	if result.Outcome != event.OK {
		t.Fatalf("%+v", result)
	}
	for _, c := range plan.Checks {
		if c.Outcome != event.OK {
			t.Errorf("%s %s: %s %s", c.ID, c.Title, c.Outcome, c.Message)
		}
	}
	components := map[string]bool{}
	for _, c := range result.Components {
		components[c.Component] = true
	}
	if diff := cmp.Diff(map[string]bool{"heartbeat": true, "vmagent": true, "node-exporter": true, "kube-state-metrics": true, "dcgm-exporter": true, "vpa-recommender": true, "vpa-updater": true, "vpa-policy": true, "vpa-admission-controller": true}, components); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	if again, err := engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("a second install is a no-op: %v %+v", err, again)
	}
	status, err := engine().Status(t.Context())
	if err != nil || status.Health != install.Healthy || status.Release.ChartVersion == "" {
		t.Fatalf("status: %v %+v", err, status)
	}
	states := map[string]string{}
	for _, c := range status.Components {
		states[c.Name] = string(c.State)
	}
	none := string(install.ComponentUnavailable)
	if diff := cmp.Diff(map[string]string{"containerInsights": "ready", "heartbeat": "ready", "karpenops": "disabled", "containerRightsizing": "ready", "dataFetcher": none, "autoUpdater": none, "dcgmExporter": "ready", "datadog": "disabled"}, states); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	for _, c := range install.Components() {
		if install.Consequence(c.Name, true) == "" || install.Consequence(c.Name, false) == "" {
			t.Errorf("%s has no consequence", c.Name)
		}
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
}

// TestEmbeddedAdoption adopts what the command that the nOps UI shows makes, misspelling included.
func TestEmbeddedAdoption(t *testing.T) {
	w, engine := embedded(t)
	before := w.everything()
	w.helm("upgrade", "-i", w.release, w.chart, "--namespace", w.namespace, "--create-namespace",
		"--set", "datadog.apiKey=0123456789abcdef0123456789abcdef", "--set", "containerInsights.enabled=true", "--set", "containerInsights.centralized=true",
		"--set", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN="+arn, "--set", "containerInsights.ampID=ws-1", "--set", "containerInsights.ampRegion=us-west-2",
		"--set", "containerInsights.ampAccessKey=AKIAEXAMPLE", "--set", "containerInsights.ampSecretKey="+ampSecret,
		"--set", "karpenops.enabled=false", "--set", "autoUpater.enabled=false", "--set", "dataFetcher.enabled=false", "--set", "containerRightsizing.enabled=false",
		"--set", "nops.apiKey="+apiKey)
	r := w.request()
	r.Credentials = nil
	plan, result := w.install(engine(), r)
	if result.Outcome != event.OK || result.Revision != 2 || len(plan.CredentialKeys) != 4 {
		t.Fatalf("%+v %v", result, plan.CredentialKeys)
	}
	values := w.helm("get", "values", w.release, "--namespace", w.namespace, "--all", "-o", "json")
	manifest := w.helm("get", "manifest", w.release, "--namespace", w.namespace)
	for _, secret := range []string{apiKey, ampSecret, "0123456789abcdef0123456789abcdef"} {
		if strings.Contains(values, secret) || strings.Contains(manifest, secret) {
			t.Errorf("revision 2 holds a credential")
		}
	}
	if !strings.Contains(values, "us-west-2") {
		t.Errorf("values got lost: %s", values)
	}
	w.helm("upgrade", w.release, w.chart, "--namespace", w.namespace, "--reuse-values", "--set", "nops.global.labels.team=x")
	// helm uninstall --keep-history, then a new start: what was kept is history.
	w.helm("uninstall", w.release, "--namespace", w.namespace, "--keep-history")
	r = w.request()
	r.Values = ampValues()
	plan, result = w.install(engine(), r)
	if result.Revision != 4 || plan.Values()["nops"].(map[string]any)["global"] != nil {
		t.Errorf("%+v %v", result, plan.Values())
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
	after := w.everything()
	delete(after, "namespaces//"+w.namespace) // helm made it
	delete(after, "configmaps/"+w.namespace+"/kube-root-ca.crt")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
}
