// Package vpatest puts the chart's part of the nOps VPA onto a real API server, for tests: definitions, roles, Secret and webhook, from a
// golden render, so that what runs in a test has exactly the rights that it ships with.
package vpatest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
)

// Cluster is an API server with the chart's part of the nOps VPA.
type Cluster struct {
	Admin   *rest.Config // of somebody who may do everything
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
}

// golden is the render that has every component.
const golden = "embedded-chart/testdata/golden/all-default.yaml"

// Options of a cluster.
type Options struct {
	// WebhookURL is where the API server finds the webhook, which in tests is no Service: "https://localhost:1234/mutate". Empty leaves the
	// webhook's configuration out.
	WebhookURL string
	// WebhookPort has the API server find it by the chart's own Service instead, at that port of this machine.
	WebhookPort int
}

// New starts an API server and installs. Without its programs the test is skipped and says so.
func New(t *testing.T, o Options) *Cluster {
	t.Helper()
	retarget.Ours()
	config, client := agenttest.Kubernetes(t)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Admin: config, Client: client, Dynamic: d}
	objects := c.render(t)
	var definitions []*unstructured.Unstructured
	for _, one := range objects {
		if one.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, one)
		}
	}
	if len(definitions) != 3 {
		t.Fatalf("%s has %d definitions, want 3", golden, len(definitions))
	}
	dir := t.TempDir()
	for _, one := range definitions {
		body, err := yaml.Marshal(one.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, one.GetName()+".yaml"), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{dir}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	apis, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(apis))
	made := 0
	for _, one := range objects {
		switch one.GetKind() {
		case "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret":
		case "Service":
			if o.WebhookPort == 0 {
				continue
			}
			one.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": "localhost"}
		case "MutatingWebhookConfiguration":
			if o.WebhookURL == "" && o.WebhookPort == 0 {
				continue
			}
			o.point(t, one)
		default:
			continue
		}
		gvk := one.GroupVersionKind()
		m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			t.Fatal(err)
		}
		var r dynamic.ResourceInterface = d.Resource(m.Resource)
		if one.GetNamespace() != "" {
			r = d.Resource(m.Resource).Namespace(one.GetNamespace())
		}
		if _, err := r.Create(t.Context(), one, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
			t.Fatalf("%s %s: %v", one.GetKind(), one.GetName(), err)
		}
		made++
	}
	if made < 15 {
		t.Fatalf("only %d objects of %s are of the nOps VPA", made, golden)
	}
	return c
}

// point has the API server find the webhook where it is in this test.
func (o Options) point(t *testing.T, configuration *unstructured.Unstructured) {
	t.Helper()
	webhooks, _, _ := unstructured.NestedSlice(configuration.Object, "webhooks")
	for _, w := range webhooks {
		hook, is := w.(map[string]any)
		switch {
		case !is:
		case o.WebhookURL != "":
			hook["clientConfig"] = map[string]any{"url": o.WebhookURL}
		default:
			if err := unstructured.SetNestedField(hook, int64(o.WebhookPort), "clientConfig", "service", "port"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks"); err != nil {
		t.Fatal(err)
	}
}

// render are the objects of the nOps VPA in the golden render.
func (c *Cluster) render(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	_, here, _, _ := runtime.Caller(0) //nolint:dogsled // its signature
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../..", golden))
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for _, doc := range strings.Split("\n"+string(text), "\n---\n") {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatal(err)
		}
		if component := o.GetLabels()["app.kubernetes.io/component"]; component == "vpa" || strings.HasPrefix(component, "vpa-") {
			out = append(out, &o)
		}
	}
	return out
}

// As is what a part of the nOps VPA reaches the API server with: recommender, updater, admission-controller, policy.
func (c *Cluster) As(part string) *rest.Config {
	config := rest.CopyConfig(c.Admin)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + agenttest.Namespace + ":nops-vpa-" + part,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + agenttest.Namespace, "system:authenticated"},
	}
	return config
}

// Eventually waits until a condition holds.
func Eventually(t *testing.T, what string, limit time.Duration, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
