package admission

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// TestLeaving: over HTTP/2, which API servers speak, a connection serves one request after another until the end was asked for, and then no
// more than the one that was answered.
func TestLeaving(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	server := httptest.NewUnstartedServer(leaving(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	server.EnableHTTP2 = true
	var connections atomic.Int64
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	ask := func() {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(request)
		if err != nil || response.ProtoMajor != 2 {
			t.Fatalf("%v, %v", response, err)
		}
		_ = response.Body.Close()
	}
	for range 3 {
		ask()
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections for three requests", got)
	}
	leave()
	for deadline := time.Now().Add(10 * time.Second); connections.Load() < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections: the first one was never given up", connections.Load())
		}
		ask()
	}
}
