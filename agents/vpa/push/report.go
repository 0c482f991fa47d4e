package push

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	// tellEvery is how long changes of the list of workloads are gathered.
	tellEvery = time.Minute
	// repeatEvery is how often an unchanged list is sent again: the platform may have lost it.
	repeatEvery = 24 * time.Hour
	// Outcomes that wait; when there are more the oldest go.
	outcomesQueued = 5000
)

// Workloads tells the platform which workloads recommendations are wanted for.
type Workloads struct {
	deps Deps

	mu         sync.Mutex
	wanted     []nopsapi.RightsizedWorkload
	set        bool
	sent       [sha256.Size]byte
	sentAt     time.Time
	generation int64
}

// NewWorkloads makes one that has nothing to tell.
func NewWorkloads(d Deps) *Workloads { return &Workloads{deps: d.filled()} }

// Set says which workloads there are, in a fixed order.
func (w *Workloads) Set(all []nopsapi.RightsizedWorkload) {
	if len(all) > nopsapi.MaxWorkloads {
		all = all[:nopsapi.MaxWorkloads]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted, w.set = all, true
}

// known says whether there is a list.
func (w *Workloads) known() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.set
}

// Run tells until the context ends.
func (w *Workloads) Run(ctx context.Context, loop *agent.Loop) error {
	backoff := agent.Backoff{Base: 2 * time.Second, Max: 15 * time.Minute, Rand: w.deps.Rand}
	for {
		wait := agent.Jitter(tellEvery, 0.1, w.deps.Rand)
		if !w.known() {
			wait = firstWithin // the first round is on its way
		}
		if err := w.Tell(ctx); err != nil && ctx.Err() == nil {
			_, after := agent.IntentOf(err)
			wait = max(wait, backoff.Next(after))
			w.deps.Log.Warn("the list of workloads could not be delivered", "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		} else {
			backoff.Reset()
		}
		if loop.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// Tell delivers the list if it changed, or was not delivered for long.
func (w *Workloads) Tell(ctx context.Context) error {
	now := w.deps.Now()
	w.mu.Lock()
	wanted, set, sent, sentAt, generation := w.wanted, w.set, w.sent, w.sentAt, w.generation
	w.mu.Unlock()
	if !set {
		return nil
	}
	text, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("writing the list of workloads: %w", err)
	}
	sum := sha256.Sum256(text)
	changed := sum != sent
	if !changed && now.Sub(sentAt) < repeatEvery {
		return nil
	}
	if changed {
		// It rises across restarts as well, as clocks do.
		generation = max(generation+1, now.Unix())
	}
	if wanted == nil {
		wanted = []nopsapi.RightsizedWorkload{}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = w.deps.Platform.ReportWorkloads(ctx, w.deps.ARN, nopsapi.RightsizedWorkloads{SchemaVersion: nopsapi.RightsizingSchema, Generation: generation, AsOf: now.UTC(), Workloads: wanted})
	switch {
	case notOffered(err): // asked again with the next change, or tomorrow
	case err != nil:
		return retryAfter(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.sentAt, w.generation = sum, now, generation
	return nil
}

// Outcomes tells the platform what became of recommendations. Each process that changes pods has one.
type Outcomes struct {
	deps  Deps
	queue *agent.Queue[nopsapi.Outcome]
}

// NewOutcomes makes one.
func NewOutcomes(d Deps) *Outcomes {
	return &Outcomes{deps: d.filled(), queue: agent.NewQueue[nopsapi.Outcome](outcomesQueued)}
}

// Add queues what became of a recommendation. Its ID makes it one, however often it is delivered.
func (o *Outcomes) Add(one nopsapi.Outcome) { o.queue.Push(one) }

// Waiting is how many wait for the platform.
func (o *Outcomes) Waiting() int { return o.queue.Len() }

// Dropped is how many had to make room.
func (o *Outcomes) Dropped() uint64 { return o.queue.Dropped() }

// Run delivers until the context ends.
func (o *Outcomes) Run(ctx context.Context, loop *agent.Loop) error {
	backoff := agent.Backoff{Base: time.Second, Max: 5 * time.Minute, Rand: o.deps.Rand}
	for {
		if o.queue.Len() == 0 {
			if loop.Await(ctx, o.queue.Wake()) != nil {
				return nil
			}
			// What one loop did comes within moments.
			if loop.Sleep(ctx, time.Second) != nil {
				return nil
			}
		}
		err := o.Deliver(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			backoff.Reset()
			continue
		}
		_, after := agent.IntentOf(err)
		wait := backoff.Next(after)
		o.deps.Log.Warn("outcomes could not be delivered", "waiting", o.queue.Len(), "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		if loop.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// Deliver sends what waits, at most one delivery. What the platform will never take is dropped.
func (o *Outcomes) Deliver(ctx context.Context) error {
	var some []nopsapi.Outcome
	for len(some) < nopsapi.MaxOutcomes {
		one, token, is := o.queue.Peek()
		if !is {
			break
		}
		some = append(some, one)
		o.queue.Done(token)
	}
	if len(some) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := o.deps.Platform.SendOutcomes(ctx, o.deps.ARN, nopsapi.Outcomes{SchemaVersion: nopsapi.RightsizingSchema, Outcomes: some})
	if err == nil || notOffered(err) {
		return nil
	}
	var refused *nopsclient.OutcomesRefused
	if errors.As(err, &refused) {
		o.deps.Log.Warn("the platform refuses some outcomes, and took the others", "error", err)
		return nil
	}
	if nopsclient.IsKind(err, nopsclient.KindRefused) {
		o.deps.Log.Warn("the platform refuses outcomes; they are dropped", "outcomes", len(some), "error", err)
		return nil
	}
	for _, one := range some { // behind what came meanwhile: order says nothing, each has its time
		o.queue.Push(one)
	}
	return retryAfter(err)
}
