package vpa

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
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

// TestLeave: a pod that is made stays as it is where somebody else sizes its workload, however that is told.
func TestLeave(t *testing.T) {
	cluster := vpatest.New(t, vpatest.Options{})
	finder, err := foreign.New(cluster.As("admission-controller"), foreign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = finder.Run(ctx) })
	defer group.Wait()
	defer cancel()
	vpatest.Eventually(t, "it is known who else sizes workloads", 30*time.Second, func() bool { return finder.Ready() == nil })
	mode := vpav1.UpdateModeInPlace
	vpa := &vpav1.VerticalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: vpav1.VerticalPodAutoscalerSpec{
			TargetRef: &autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, UpdatePolicy: &vpav1.PodUpdatePolicy{UpdateMode: &mode},
		},
		Status: vpav1.VerticalPodAutoscalerStatus{Recommendation: &vpav1.RecommendedPodResources{ContainerRecommendations: []vpav1.RecommendedContainerResources{{ContainerName: "web"}}}},
	}
	plain := metav1.ObjectMeta{Namespace: "default", Name: "web"}
	marked := *plain.DeepCopy()
	marked.Annotations = map[string]string{"live.stormforge.io/auto-deploy": "Enabled"}
	for _, c := range []struct {
		name     string
		workload metav1.Object
		pod      metav1.ObjectMeta
		ignored  []string
		why      string
	}{
		{"nobody else", &plain, plain, nil, ""},
		{"a workload that is not known yet", nil, plain, nil, ""},
		{"a mark on the workload", &marked, plain, nil, "StormForge"},
		{"a mark on the pod", &plain, marked, nil, "StormForge"},
		{"an ignored namespace", &plain, plain, []string{"default"}, "the namespace is left alone"},
	} {
		if why := leave(finder, c.ignored, c.workload, &corev1.Pod{ObjectMeta: c.pod}, vpa, rules.Known{}); !strings.HasPrefix(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: left alone for %q, want %q", c.name, why, c.why)
		}
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
