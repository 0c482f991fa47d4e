// Package election lets one of several replicas of an agent work, by a Lease. It stands beside the chassis because an agent of one replica needs none of it.
//
// The protocol is client-go's: who holds the lease renews it, the others watch it stand still for its term by their own clock, and each write is a
// compare-and-swap. client-go's own elector is not used because it brings the generated clientset and the informers of every API group with it, half of an agent's
// binary and a quarter of what the agent takes of a node's memory. Candidates of both kinds understand each other.
//
// What it needs of RBAC, in the agent's own namespace: create on leases of coordination.k8s.io, get and update on the one by
// its name.
package election

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

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

// jitter is by how much of Retry candidates wait longer, at most, so that they do not all come at once.
const jitter = 1.2

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
	where := o.Who.Namespace + "/" + o.Lease
	switch {
	case o.Candidate == "":
		return fmt.Errorf("electing a leader by Lease %s: the candidate has no name", where)
	case o.Term < time.Second || o.Retry <= 0 || o.Retry >= o.Renew || o.Retry+o.Renew >= o.Term:
		// A leader tries again a retry after it last renewed, and for Renew: when it gives up the others must still be waiting.
		return fmt.Errorf("electing a leader by Lease %s: a term of %s, renewed every %s and for at most %s, could have two leaders", where, o.Term, o.Retry, o.Renew)
	}
	clients, err := agent.NewClients(o.Kube, o.Who.Name()+"/"+o.Who.Version, agent.Group{Version: coordinationv1.SchemeGroupVersion, Kinds: []runtime.Object{&coordinationv1.Lease{}}})
	if err != nil {
		return fmt.Errorf("making a client of leases: %w", err)
	}
	e := &elector{Options: o, where: where, leases: clients[coordinationv1.SchemeGroupVersion], log: klog.FromContext(ctx)}
	if !e.acquire(ctx) {
		return nil // never led
	}
	if ctx.Err() != nil {
		e.release(context.WithoutCancel(ctx))
		return nil
	}
	// The lease is renewed for as long as the work takes to end, whatever becomes of the caller's context.
	holding, resign := context.WithCancel(context.WithoutCancel(ctx))
	working, stop := context.WithCancel(ctx)
	defer stop()
	kept := make(chan bool, 1)
	go func() {
		still := e.renew(holding)
		if !still {
			stop()
		}
		kept <- still
	}()
	over := false
	end := func() (still bool) {
		over = true
		resign()
		still = <-kept
		e.release(context.WithoutCancel(ctx))
		return still
	}
	defer func() {
		if !over { // a panic of the work
			end()
		}
	}()
	err = work(working)
	if still := end(); !still && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("leading by Lease %s: %w: it could not be renewed within %s, or another process took it", where, ErrLost, o.Renew), unlessCancelled(err))
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

// elector is a candidate, or the leader. One goroutine at a time uses it.
type elector struct {
	Options
	where  string
	leases rest.Interface
	log    klog.Logger

	held    *coordinationv1.Lease // as this process wrote it last; nil: it does not hold it
	renewed time.Time             // when it was signed last, of those signatures that were stored
	seen    sign                  // of life of another process
	since   time.Time             // when that was first seen, by this process's clock: nobody else's is to be trusted
	said    string                // the trouble that was logged last
}

// sign of a holder's life: it differs after each renewal.
type sign struct {
	holder             string
	renewed, acquired  int64
	seconds, transfers int32
}

func signOf(s coordinationv1.LeaseSpec) sign {
	micros := func(t *metav1.MicroTime) int64 {
		if t == nil {
			return 0
		}
		return t.UnixMicro()
	}
	return sign{value(s.HolderIdentity), micros(s.RenewTime), micros(s.AcquireTime), value(s.LeaseDurationSeconds), value(s.LeaseTransitions)}
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// errTaken says that another process holds the lease.
var errTaken = errors.New("another process holds the lease")

// acquire waits until this process holds the lease; false when the context ends before.
func (e *elector) acquire(ctx context.Context) bool {
	e.log.Info("Waiting for the lease", "lease", e.where, "candidate", e.Candidate)
	for {
		err := e.attempt(ctx)
		if err == nil {
			e.log.Info("The lease is held", "lease", e.where, "candidate", e.Candidate)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if errors.Is(err, errTaken) {
			e.said = ""
		} else {
			e.trouble(err, "The lease cannot be acquired; it is tried again")
		}
		if agent.Sleep(ctx, e.Retry+time.Duration(jitter*rand.Float64()*float64(e.Retry))) != nil { //nolint:gosec // no secret
			return false
		}
	}
}

// renew keeps the lease until the context ends. false: it is lost, so that another process may lead.
func (e *elector) renew(ctx context.Context) bool {
	for agent.Sleep(ctx, e.Retry) == nil {
		if !e.renewOnce(ctx) {
			return ctx.Err() != nil
		}
	}
	return true
}

// renewOnce tries until it succeeds, for at most Renew. A lease that another process holds is not waited for.
func (e *elector) renewOnce(ctx context.Context) bool {
	// It counts from the last signature, not from its answer: the others count from when they see it, which may be earlier than the answer came. An API server
	// that does not answer is no reason to go on leading.
	ctx, cancel := context.WithDeadline(ctx, e.renewed.Add(e.Retry+e.Renew))
	defer cancel()
	for {
		err := e.attempt(ctx)
		if err == nil {
			e.said = ""
			return true
		}
		if errors.Is(err, errTaken) {
			return false
		}
		if ctx.Err() == nil {
			e.trouble(err, "The lease cannot be renewed; it is tried again")
		}
		if agent.Sleep(ctx, e.Retry) != nil {
			return false
		}
	}
}

// trouble is said once, not with each attempt.
func (e *elector) trouble(err error, what string) {
	if text := err.Error(); text != e.said {
		e.said = text
		e.log.Error(err, what, "lease", e.where, "candidate", e.Candidate)
	}
}

// attempt acquires or renews the lease, once.
func (e *elector) attempt(ctx context.Context) error {
	if e.held != nil {
		// Mostly nobody else wrote it since.
		err := e.write(ctx, e.held)
		if code := agent.StatusOf(err); err == nil || code != http.StatusConflict && code != http.StatusNotFound {
			return err
		}
	}
	lease := &coordinationv1.Lease{}
	err := e.leases.Get().Namespace(e.Who.Namespace).Resource("leases").Name(e.Lease).Do(ctx).Into(lease)
	if agent.StatusOf(err) == http.StatusNotFound {
		return e.create(ctx)
	}
	if err != nil {
		return fmt.Errorf("reading Lease %s: %w", e.where, err)
	}
	if holder := value(lease.Spec.HolderIdentity); holder != e.Candidate {
		if s := signOf(lease.Spec); s != e.seen {
			e.seen, e.since = s, time.Now()
		}
		if holder != "" && time.Since(e.since) <= time.Duration(e.seen.seconds)*time.Second {
			return errTaken
		}
	}
	return e.write(ctx, lease)
}

// create makes the lease, this process's from the beginning.
func (e *elector) create(ctx context.Context) error {
	made := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.Who.Namespace, Name: e.Lease, Labels: e.Who.Labels()}}
	at := e.sign(&made.Spec)
	made.Spec.LeaseTransitions = new(int32)
	var got coordinationv1.Lease
	err := e.leases.Post().Namespace(e.Who.Namespace).Resource("leases").Body(made).Do(ctx).Into(&got)
	if agent.StatusOf(err) == http.StatusConflict {
		return errTaken // somebody was faster
	}
	if err != nil {
		return fmt.Errorf("creating Lease %s: %w", e.where, err)
	}
	e.held, e.renewed = &got, at
	return nil
}

// sign makes the lease this process's, as of now.
func (e *elector) sign(s *coordinationv1.LeaseSpec) time.Time {
	at := time.Now()
	now, seconds := metav1.NewMicroTime(at), int32(e.Term/time.Second) //nolint:gosec // terms are seconds
	if value(s.HolderIdentity) != e.Candidate {
		transfers := value(s.LeaseTransitions) + 1
		s.HolderIdentity, s.AcquireTime, s.LeaseTransitions = &e.Candidate, &now, &transfers
	}
	s.RenewTime, s.LeaseDurationSeconds = &now, &seconds
	return at
}

// write signs the lease and stores it, if nobody changed it since it was read.
func (e *elector) write(ctx context.Context, read *coordinationv1.Lease) error {
	lease := read.DeepCopy()
	at := e.sign(&lease.Spec)
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	for k, v := range e.Who.Labels() {
		lease.Labels[k] = v
	}
	var got coordinationv1.Lease
	if err := e.leases.Put().Namespace(e.Who.Namespace).Resource("leases").Name(e.Lease).Body(lease).Do(ctx).Into(&got); err != nil {
		return fmt.Errorf("writing Lease %s: %w", e.where, err)
	}
	e.held, e.renewed = &got, at
	return nil
}

// release gives the lease back, if it is still this process's: otherwise the others would wait for the rest of the term. That it fails costs no more than that.
func (e *elector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.Renew)
	defer cancel()
	for {
		lease := &coordinationv1.Lease{}
		err := e.leases.Get().Namespace(e.Who.Namespace).Resource("leases").Name(e.Lease).Do(ctx).Into(lease)
		if err == nil {
			if value(lease.Spec.HolderIdentity) != e.Candidate {
				return
			}
			nobody, second, now := "", int32(1), metav1.NewMicroTime(time.Now())
			lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime, lease.Spec.AcquireTime = &nobody, &second, &now, &now
			err = e.leases.Put().Namespace(e.Who.Namespace).Resource("leases").Name(e.Lease).Body(lease).Do(ctx).Error()
		}
		if agent.StatusOf(err) == http.StatusConflict {
			continue // a renewal that was under way when it was cancelled
		}
		if err != nil {
			e.log.Error(err, "The lease could not be given back; it ends by itself", "lease", e.where, "term", e.Term.String())
		}
		return
	}
}
