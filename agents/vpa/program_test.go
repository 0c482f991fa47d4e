package vpa

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

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
