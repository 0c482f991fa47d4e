package agent

import (
	"net/http"
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// TestKubeConfigGoesPastTheProxy: the proxy of the environment leads out of the cluster, where the API server is not.
func TestKubeConfigGoesPastTheProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://10.0.0.1/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	given := &rest.Config{Host: "https://10.0.0.1"}
	c := KubeConfig(given, "nops-x/1.2.3")
	if proxy, err := c.Proxy(req); proxy != nil || err != nil || c.UserAgent != "nops-x/1.2.3" || !c.DisableCompression {
		t.Errorf("proxy %v, %v; %+v", proxy, err, c)
	}
	if given.Proxy != nil || given.UserAgent != "" {
		t.Error("what was given was changed")
	}
	own := &url.URL{Scheme: "http", Host: "kubernetes-proxy.example.com"}
	c = KubeConfig(&rest.Config{Proxy: func(*http.Request) (*url.URL, error) { return own, nil }}, "x")
	if proxy, err := c.Proxy(req); proxy != own || err != nil {
		t.Errorf("a proxy of the kubeconfig's own is meant: %v, %v", proxy, err)
	}
	clients, err := NewClients(given, "x", Group{Version: corev1.SchemeGroupVersion, Kinds: []runtime.Object{&corev1.ConfigMap{}}})
	if err != nil || clients[corev1.SchemeGroupVersion] == nil || len(clients) != 1 {
		t.Errorf("clients %v, %v", clients, err)
	}
}
