package vpa

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
)

// TestWhoElse: revert leaves pods of others alone, and does not wait for ever to know whose they are.
func TestWhoElse(t *testing.T) {
	cluster := vpatest.New(t, vpatest.Options{})
	marked := &metav1.ObjectMeta{Annotations: map[string]string{"live.stormforge.io/auto-deploy": "Enabled"}}
	for _, c := range []struct {
		name     string
		kube     *rest.Config
		patience time.Duration
		said     string
	}{
		{"the API server answers", cluster.As("policy"), time.Minute, ""},
		{"nobody does", &rest.Config{Host: "127.0.0.1:1"}, 100 * time.Millisecond, "It is not known who else sizes workloads"},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := ""
			who, stop, err := whoElse(t.Context(), c.kube, c.patience, func(format string, args ...any) { said += fmt.Sprintf(format, args...) })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if !strings.HasPrefix(said, c.said) || (said == "") != (c.said == "") {
				t.Errorf("it said %q, want %q", said, c.said)
			}
			if by, err := who("Deployment", "default", "web", &metav1.ObjectMeta{}); by != "" || err != nil {
				t.Errorf("nobody sizes it: %q, %v", by, err)
			}
			if by, err := who("Deployment", "default", "web", &metav1.ObjectMeta{}, marked); !strings.HasPrefix(by, "StormForge") || err != nil {
				t.Errorf("it is StormForge's: %q, %v", by, err)
			}
		})
	}
}

// TestWhenReady: a replica says what it waits for, and is ready only when there is nothing.
func TestWhenReady(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := agent.NewHealth(time.Now, conditionWebhook)
	var missing atomic.Pointer[string]
	set := func(s string) { missing.Store(&s) }
	set("the cluster is still being read")
	done := make(chan error, 1)
	go func() { done <- whenReady(ctx, h, conditionWebhook, func() string { return *missing.Load() }) }()
	ready := func(want string) {
		t.Helper()
		var got string
		for range 500 {
			got = ""
			if err := h.Ready(); err != nil {
				got = err.Error()
			}
			if got == want {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("it is ready: %q, want %q", got, want)
	}
	ready("not ready: webhook: the cluster is still being read")
	set("")
	ready("")
	select {
	case <-done:
		t.Fatal("the task ended before the program")
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
