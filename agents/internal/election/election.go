// Package election lets one of several replicas of an agent work, by a Lease. It stands beside the chassis because it brings
// the generated clientset with it, which an agent of one replica need not pay for.
//
// What it needs of RBAC, in the agent's own namespace: create on leases of coordination.k8s.io, get and update on the one by
// its name.
package election

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Options of an election.
type Options struct {
	Kube *rest.Config
	// Who stands for election; its labels go onto the Lease, so that uninstalling finds it.
	Who agent.Identity
	// Lease is its name; empty means Who.Name().
	Lease string
	// Candidate is the name of this process, of no other one ever: a pod's name and something new with each start.
	Candidate string
	// Term is for how long the others wait for a leader that does not renew, Renew for how long the leader tries to, Retry how
	// often; zero means 15, 10 and 2 seconds.
	Term, Renew, Retry time.Duration
}

// ErrLost says that another process may lead now.
var ErrLost = errors.New("the lease is lost")

// Lead waits until this process leads, then runs the work, and returns when the work has ended. The work's context ends with
// the caller's, or when the lease is lost, which is an error (ErrLost): the process shall end and come back as a candidate. The
// lease is given back only after the work has ended, so that never two of them work.
func Lead(ctx context.Context, o Options, work func(ctx context.Context) error) error {
	if o.Lease == "" {
		o.Lease = o.Who.Name()
	}
	if o.Term == 0 {
		o.Term, o.Renew, o.Retry = 15*time.Second, 10*time.Second, 2*time.Second
	}
	if o.Candidate == "" {
		return fmt.Errorf("electing a leader by Lease %s/%s: the candidate has no name", o.Who.Namespace, o.Lease)
	}
	client, err := coordination.NewForConfig(agent.KubeConfig(o.Kube, o.Who.Name()+"/"+o.Who.Version))
	if err != nil {
		return fmt.Errorf("making a client of leases: %w", err)
	}
	began := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: o.Lease,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: o.Who.Namespace, Name: o.Lease}, Client: client, Labels: o.Who.Labels(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Candidate},
		},
		LeaseDuration: o.Term, RenewDeadline: o.Renew, RetryPeriod: o.Retry, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) { began <- term },
			OnStoppedLeading: func() {}, // the term's context says it
		},
	})
	if err != nil {
		return fmt.Errorf("electing a leader by Lease %s/%s: %w", o.Who.Namespace, o.Lease, err)
	}
	// The elector outlives the caller's context: it renews the lease for as long as the work takes to end.
	candidacy, resign := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() {
		defer close(over)
		elector.Run(candidacy)
	}()
	defer func() {
		resign()
		<-over
	}()
	var term context.Context
	select {
	case <-ctx.Done():
		return nil // never led
	case term = <-began:
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(term, stop)()
	err = work(working)
	if term.Err() != nil && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("leading by Lease %s/%s: %w: it could not be renewed within %s, or another process took it", o.Who.Namespace, o.Lease, ErrLost, o.Renew), unlessCancelled(err))
	}
	return err
}

// unlessCancelled leaves out what only says that the term has ended.
func unlessCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
