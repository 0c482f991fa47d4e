package election

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
)

var who = agent.Identity{Component: "vpa", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "1.2.3"}

// candidate is one process of the agent, whose work lasts until its context ends.
type candidate struct {
	leads chan struct{} // closed when the work begins
	done  chan struct{}
	stop  context.CancelFunc
	err   error
	// lastWork runs between the end of the work's context and that of the work.
	lastWork func()
}

func stand(t *testing.T, config *rest.Config, lease, name string, lastWork func()) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{leads: make(chan struct{}), done: make(chan struct{}), stop: cancel, lastWork: lastWork}
	go func() {
		defer close(c.done)
		// As an agent runs it: what counts is what becomes of the process.
		c.err = agent.Run(ctx, agent.Task{Name: "leading", Run: func(ctx context.Context) error {
			return Lead(ctx, Options{Kube: config, Who: who, Lease: lease, Candidate: name, Term: 4 * time.Second, Renew: 3 * time.Second, Retry: 500 * time.Millisecond}, func(ctx context.Context) error {
				close(c.leads)
				<-ctx.Done()
				if c.lastWork != nil {
					c.lastWork()
				}
				return ctx.Err()
			})
		}})
	}()
	t.Cleanup(func() { c.stop(); <-c.done })
	return c
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("not within a minute: %s", what)
	}
}

func leads(c *candidate) bool {
	select {
	case <-c.leads:
		return true
	default:
		return false
	}
}

func read(t *testing.T, client kubernetes.Interface, name string) *coordinationv1.Lease {
	t.Helper()
	l, err := client.CoordinationV1().Leases(agenttest.Namespace).Get(context.WithoutCancel(t.Context()), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLead(t *testing.T) {
	config, client := agenttest.Kubernetes(t)
	t.Run("one of two", func(t *testing.T) {
		var second *candidate
		overlap := false
		first := stand(t, config, "", "first", func() {
			time.Sleep(6 * time.Second) // longer than a term: the lease is renewed while the work ends
			overlap = leads(second)
		})
		await(t, "the first leads", first.leads)
		lease := read(t, client, "nops-vpa")
		if *lease.Spec.HolderIdentity != "first" {
			t.Errorf("the lease is held by %q", *lease.Spec.HolderIdentity)
		}
		for k, want := range who.Labels() {
			if lease.Labels[k] != want {
				t.Errorf("label %s is %q, want %q: uninstalling would not find the lease", k, lease.Labels[k], want)
			}
		}
		second = stand(t, config, "", "second", nil)
		time.Sleep(2 * time.Second)
		if leads(second) {
			t.Error("two lead")
		}
		first.stop()
		await(t, "the end of the first", first.done)
		if first.err != nil {
			t.Errorf("an ordinary end: %v", first.err)
		}
		if overlap {
			t.Error("the second led while the first had not ended its work")
		}
		await(t, "the second leads", second.leads)
	})
	t.Run("a candidate that never leads", func(t *testing.T) {
		first := stand(t, config, "waiting", "first", nil)
		await(t, "the first leads", first.leads)
		second := stand(t, config, "waiting", "second", nil)
		time.Sleep(time.Second)
		second.stop()
		await(t, "the end of the second", second.done)
		if second.err != nil || leads(second) {
			t.Errorf("leads %v, error %v", leads(second), second.err)
		}
	})
	t.Run("the lease is lost", func(t *testing.T) {
		c := stand(t, config, "lost", "first", nil)
		await(t, "it leads", c.leads)
		thief, long := "thief", int32(3600)
		for {
			lease := read(t, client, "lost")
			lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &thief, &long, &metav1.MicroTime{Time: time.Now()}
			if _, err := client.CoordinationV1().Leases(agenttest.Namespace).Update(t.Context(), lease, metav1.UpdateOptions{}); err == nil {
				break
			}
		}
		await(t, "the end of the work", c.done)
		if !errors.Is(c.err, ErrLost) || !strings.Contains(c.err.Error(), "leading: leading by Lease nops/lost") || strings.Contains(c.err.Error(), "canceled") {
			t.Errorf("the agent ended with: %v, want an error that names the lost lease", c.err)
		}
		if holder := *read(t, client, "lost").Spec.HolderIdentity; holder != thief {
			t.Errorf("the lease of another one was given away: %q", holder)
		}
	})
	t.Run("the work fails", func(t *testing.T) {
		boom := errors.New("boom")
		err := Lead(t.Context(), Options{Kube: config, Who: who, Lease: "failing", Candidate: "first"}, func(context.Context) error { return boom })
		if !errors.Is(err, boom) || errors.Is(err, ErrLost) {
			t.Errorf("got %v", err)
		}
		if holder := *read(t, client, "failing").Spec.HolderIdentity; holder != "" {
			t.Errorf("the lease was not given back: %q holds it", holder)
		}
	})
	t.Run("no name", func(t *testing.T) {
		if err := Lead(t.Context(), Options{Kube: config, Who: who}, nil); err == nil || !strings.Contains(err.Error(), "Lease nops/nops-vpa: the candidate has no name") {
			t.Errorf("got %v", err)
		}
	})
}
