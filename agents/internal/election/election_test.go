package election

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

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
	return standFor(t, Options{Kube: config, Who: who, Lease: lease, Candidate: name, Term: 4 * time.Second, Renew: 3 * time.Second, Retry: 500 * time.Millisecond}, lastWork)
}

func standFor(t *testing.T, o Options, lastWork func()) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{leads: make(chan struct{}), done: make(chan struct{}), stop: cancel, lastWork: lastWork}
	go func() {
		defer close(c.done)
		// As an agent runs it: what counts is what becomes of the process.
		c.err = agent.Run(ctx, agent.Task{Name: "leading", Run: func(ctx context.Context) error {
			return Lead(ctx, o, func(ctx context.Context) error {
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

func (c *candidate) ended() bool {
	select {
	case <-c.done:
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
		t.Parallel()
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
		t.Parallel()
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
		t.Parallel()
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
		t.Parallel()
		boom := errors.New("boom")
		err := Lead(t.Context(), Options{Kube: config, Who: who, Lease: "failing", Candidate: "first"}, func(context.Context) error { return boom })
		if !errors.Is(err, boom) || errors.Is(err, ErrLost) {
			t.Errorf("got %v", err)
		}
		if holder := *read(t, client, "failing").Spec.HolderIdentity; holder != "" {
			t.Errorf("the lease was not given back: %q holds it", holder)
		}
	})
	t.Run("a leader that died", func(t *testing.T) {
		t.Parallel()
		// Its clock was an hour slow: what counts is that the lease stands still.
		dead, seconds, renewed := "dead", int32(4), metav1.NewMicroTime(time.Now().Add(-time.Hour))
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "dead"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &dead, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
		lease, err := client.CoordinationV1().Leases(agenttest.Namespace).Create(t.Context(), lease, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := stand(t, config, "dead", "heir", nil)
		time.Sleep(2500 * time.Millisecond)
		alive := metav1.NewMicroTime(renewed.Add(time.Second))
		lease.Spec.RenewTime = &alive
		if _, err := client.CoordinationV1().Leases(agenttest.Namespace).Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		await(t, "the heir leads", c.leads)
		if after := time.Since(last); after < 4*time.Second {
			t.Errorf("the heir led %s after a sign of life, within the term of 4s", after)
		}
		if l := read(t, client, "dead"); value(l.Spec.HolderIdentity) != "heir" || value(l.Spec.LeaseTransitions) != 1 || l.Labels[agent.LabelPartOf] != agent.PartOf {
			t.Errorf("the lease: %+v, labels %v", l.Spec, l.Labels)
		}
	})
	t.Run("the lease is deleted", func(t *testing.T) {
		t.Parallel()
		c := stand(t, config, "deleted", "first", nil)
		await(t, "it leads", c.leads)
		if err := client.CoordinationV1().Leases(agenttest.Namespace).Delete(t.Context(), "deleted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if _, err := client.CoordinationV1().Leases(agenttest.Namespace).Get(t.Context(), "deleted", metav1.GetOptions{}); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the lease was not made anew")
			}
		}
		if holder := value(read(t, client, "deleted").Spec.HolderIdentity); holder != "first" || c.ended() {
			t.Errorf("held by %q, ended %v: nobody else led, so the work goes on", holder, c.ended())
		}
	})
	t.Run("an API server that answers no more", func(t *testing.T) {
		t.Parallel()
		target, err := url.Parse(config.Host)
		if err != nil {
			t.Fatal(err)
		}
		transport, err := rest.TransportFor(config)
		if err != nil {
			t.Fatal(err)
		}
		var silent atomic.Bool
		var answered atomic.Int64 // when the last request came that was answered
		over := make(chan struct{})
		proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if silent.Load() {
				select {
				case <-r.Context().Done():
				case <-over:
				}
				return
			}
			answered.Store(time.Now().UnixNano())
			proxy.ServeHTTP(w, r)
		}))
		defer server.Close()
		defer close(over)
		var ended atomic.Int64
		o := Options{Kube: &rest.Config{Host: server.URL}, Who: who, Lease: "silent", Candidate: "first", Term: 6 * time.Second, Renew: 2 * time.Second, Retry: 500 * time.Millisecond}
		c := standFor(t, o, func() { ended.Store(time.Now().UnixNano()) })
		await(t, "it leads", c.leads)
		silent.Store(true)
		await(t, "the end of the work", c.done)
		if !errors.Is(c.err, ErrLost) {
			t.Errorf("the agent ended with: %v, want that the lease is lost", c.err)
		}
		if after := time.Duration(ended.Load() - answered.Load()); after >= o.Term {
			t.Errorf("the work was told to end %s after the last renewal: others may lead after %s", after, o.Term)
		}
	})
	t.Run("one of ten", func(t *testing.T) {
		t.Parallel()
		var all []*candidate
		for i := range 10 {
			all = append(all, stand(t, config, "ten", fmt.Sprintf("c%d", i), nil))
		}
		for left := all; len(left) > 0; {
			var leader int
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				if leader = slices.IndexFunc(left, leads); leader >= 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("nobody of %d leads within a minute", len(left))
				}
			}
			n := 0
			for _, c := range left {
				if leads(c) {
					n++
				}
			}
			if n != 1 {
				t.Fatalf("%d lead", n)
			}
			left[leader].stop()
			await(t, "the end of a leader", left[leader].done)
			left = slices.Delete(left, leader, leader+1)
		}
	})
	t.Run("beside client-go", func(t *testing.T) {
		t.Parallel()
		// An agent of before, whose elector was client-go's, may still run while a new one comes.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began, done := make(chan struct{}), make(chan struct{})
		theirs, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: agenttest.Namespace, Name: "both"}, Client: client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: "theirs"},
			},
			LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 500 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { close(began) }, OnStoppedLeading: func() {}},
		})
		if err != nil {
			t.Fatal(err)
		}
		first := stand(t, config, "both", "ours", nil)
		await(t, "ours leads", first.leads)
		go func() {
			defer close(done)
			theirs.Run(ctx)
		}()
		time.Sleep(5 * time.Second) // longer than a term
		select {
		case <-began:
			t.Error("client-go's took a lease that is renewed")
		default:
		}
		first.stop()
		await(t, "client-go's leads", began)
		second := stand(t, config, "both", "ours again", nil)
		time.Sleep(5 * time.Second)
		if leads(second) {
			t.Error("ours took a lease that is renewed")
		}
		cancel()
		<-done
		await(t, "ours leads again", second.leads)
		if n := value(read(t, client, "both").Spec.LeaseTransitions); n != 2 {
			t.Errorf("%d transitions, want 2", n)
		}
	})
	t.Run("two leaders by the times", func(t *testing.T) {
		t.Parallel()
		err := Lead(t.Context(), Options{Kube: config, Who: who, Candidate: "first", Term: 12 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}, nil)
		if err == nil || !strings.Contains(err.Error(), "could have two leaders") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no name", func(t *testing.T) {
		t.Parallel()
		if err := Lead(t.Context(), Options{Kube: config, Who: who}, nil); err == nil || !strings.Contains(err.Error(), "Lease nops/nops-vpa: the candidate has no name") {
			t.Errorf("got %v", err)
		}
	})
}
