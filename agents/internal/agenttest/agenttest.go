// Package agenttest holds the fixtures of agents' tests: a real API server, and the platform with its knobs.
package agenttest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// What the fixtures use. The key is of the right form and of no value; it serves as the canary that must not leak.
const (
	ClusterARN = "arn:aws:eks:us-east-1:123456789012:cluster/test"
	Customer   = "4242"
	APIKey     = "4242.c0ffee00c0ffee00c0ffee00c0ffee00"
	Namespace  = "nops"
	Release    = "nops-kubernetes-agent"
)

// Kubernetes starts an API server with etcd from KUBEBUILDER_ASSETS and makes the namespace. Without the binaries the test
// is skipped and says so.
func Kubernetes(t *testing.T) (*rest.Config, kubernetes.Interface) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("needs a real API server: KUBEBUILDER_ASSETS is not set (make test-unit sets it)")
	}
	env := &envtest.Environment{ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	config, err := env.Start()
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return config, client
}

// Platform is the platform in this process, with one customer, one cluster and the key of the fixtures.
type Platform struct {
	*platform.Server
	Faults *platform.Faults

	// view is the same platform without faults: tests look while it is down.
	view  platform.Server
	mu    sync.Mutex
	bytes []byte // bodies of requests
}

// NewPlatform makes a platform whose beats are due every interval seconds (60 when 0).
func NewPlatform(t *testing.T, interval int) *Platform {
	t.Helper()
	p := &Platform{Faults: &platform.Faults{}}
	// Tests in fake time make many requests within what they take for a minute.
	store := &platform.Memory{}
	p.view.Store, p.view.RatePerMinute = store, 100000
	p.Server = &platform.Server{Store: store, Faults: p.Faults, RatePerMinute: 100000}
	ctx := t.Context()
	if err := p.AddCustomer(ctx, platform.Customer{ID: Customer, HeartbeatInterval: interval}); err != nil {
		t.Fatal(err)
	}
	if err := p.AddKey(ctx, Customer, "tests", APIKey, nopsapi.ScopeInstall, nopsapi.ScopeAgent); err != nil {
		t.Fatal(err)
	}
	if status := p.Call(ctx, http.MethodPut, nopsapi.PathCluster(ClusterARN), "{}").Code; status/100 != 2 {
		t.Fatalf("registering the cluster: HTTP %d", status)
	}
	return p
}

// Call makes a request as the owner of the key, past the network and its faults.
func (p *Platform) Call(ctx context.Context, method, path, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequestWithContext(ctx, method, path, stringReader(body))
	req.Header.Set(nopsapi.KeyHeader, APIKey)
	req.Header.Set(nopsapi.IdempotencyHeader, path+time.Now().String())
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	p.view.ServeHTTP(w, req)
	return w
}

// Beats are the heartbeats the platform received, by time of observation.
func (p *Platform) Beats(t *testing.T) nopsapi.HeartbeatList {
	t.Helper()
	w := p.Call(context.WithoutCancel(t.Context()), http.MethodGet, nopsapi.PathHeartbeats(ClusterARN), "")
	var list nopsapi.HeartbeatList
	if err := nopsapi.Decode(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK {
		t.Fatalf("listing heartbeats: HTTP %d %s: %v", w.Code, w.Body, err)
	}
	return list
}

// RoundTrip implements http.RoundTripper: the platform without a network in between, for tests in fake time. A Fault that
// drops the connection becomes an error, as it would on a wire.
func (p *Platform) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	defer func() {
		if r := recover(); r != nil {
			resp, err = nil, errCut
		}
	}()
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	p.record(in)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, in)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp = w.Result()
	resp.Request = req
	return resp, nil
}

var _ http.RoundTripper = (*Platform)(nil)
