package karpenops

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"runtime/debug"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	// queued is how many records wait for the platform at most; the ledger in the cluster keeps its own.
	queued = 1000
	// reportEvery is how often the inventory is looked at for changes, nodesEvery how often for changes of the nodes alone, and
	// freshEvery how often it is told without any.
	reportEvery, nodesEvery, freshEvery = time.Minute, 5 * time.Minute, time.Hour
	sendTimeout                         = 30 * time.Second
	lastWords                           = 3 * time.Second
)

// tell delivers records in order, as many at once as there are. They are idempotent, so one that may have arrived is sent again.
func (a *Agent) tell(ctx context.Context) error {
	soon := agent.Backoff{Base: time.Second, Max: 5 * time.Minute, Rand: a.deps.Rand}
	for {
		batch := a.records.peek(nopsapi.MaxRecords)
		if len(batch) == 0 {
			if a.loops.telling.Await(ctx, a.records.wake) != nil {
				return nil
			}
			continue
		}
		err := a.deliver(ctx, batch)
		if err == nil {
			a.records.done(batch)
			soon.Reset()
			continue
		}
		if ctx.Err() != nil {
			a.lastWords(ctx)
			return nil
		}
		wait := soon.Next(0)
		switch intent, after := agent.IntentOf(err); intent {
		case agent.Ignore:
			a.deps.Log.Error("the platform refuses records, they are dropped there; the ledger in the cluster has them", "records", len(batch), "error", err)
			a.records.done(batch)
			continue
		case agent.Stalled:
			wait = max(wait, agent.Jitter(restEvery, 0.1, a.deps.Rand))
		default:
			wait = max(wait, after)
		}
		a.deps.Log.Warn("records could not be delivered", "queued", a.records.len(), "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		if a.loops.telling.Sleep(ctx, wait) != nil {
			a.lastWords(ctx)
			return nil
		}
	}
}

// lastWords gives what is queued one chance at the end of the process.
func (a *Agent) lastWords(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if batch := a.records.peek(nopsapi.MaxRecords); len(batch) > 0 && a.deliver(ctx, batch) == nil {
		a.records.done(batch)
	}
}

func (a *Agent) deliver(ctx context.Context, batch []nopsapi.KarpenterRecord) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	_, err := a.deps.Platform.SendRecords(ctx, a.opts.ClusterARN, nopsapi.KarpenterRecords{Records: batch})
	return intend(err)
}

// intend says what a failed call asks for.
func intend(err error) error {
	var e *nopsclient.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case nopsclient.KindUnauthorized, nopsclient.KindForbidden, nopsclient.KindNotFound, nopsclient.KindNotOffered:
		return agent.Stall(err)
	case nopsclient.KindConflict, nopsclient.KindRefused:
		return agent.Ignorable(err)
	}
	return agent.RetryAfter(err, e.RetryAfter)
}

// report tells the platform what the cluster has, when that changed.
func (a *Agent) report(ctx context.Context) error {
	var (
		soon              = agent.Backoff{Base: 5 * time.Second, Max: 10 * time.Minute, Rand: a.deps.Rand}
		told, toldNodes   [sha256.Size]byte
		last, lastOfNodes time.Time
		wait              = 5 * time.Second
	)
	for a.loops.reporting.Sleep(ctx, wait) == nil {
		wait = agent.Jitter(reportEvery, 0.1, a.deps.Rand)
		r := a.latest.Load()
		if r == nil {
			wait = 2 * time.Second
			continue
		}
		inv := a.wire(*r)
		now := a.deps.Now()
		nodes := digest(inv.Nodes)
		bare := inv
		bare.Nodes, bare.ObservedAt = nil, time.Time{}
		sum := digest(bare)
		if sum == told && (nodes == toldNodes || now.Sub(lastOfNodes) < nodesEvery) && now.Sub(last) < freshEvery {
			continue
		}
		err := a.send(ctx, inv)
		if err == nil {
			soon.Reset()
			told, toldNodes, last, lastOfNodes = sum, nodes, now, now
			debug.FreeOSMemory() // of thousands of nodes as JSON
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		intent, after := agent.IntentOf(err)
		wait = max(soon.Next(0), after)
		if intent != agent.Retry {
			wait = agent.Jitter(restEvery, 0.1, a.deps.Rand)
		}
		a.deps.Log.Warn("the inventory could not be delivered", "retry_in", wait.Round(time.Millisecond).String(), "error", err)
	}
	return nil
}

// send delivers an inventory. One that is too large goes without its nodes: the pools are worth more.
func (a *Agent) send(ctx context.Context, inv nopsapi.KarpenterInventory) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	_, err := a.deps.Platform.ReportInventory(ctx, a.opts.ClusterARN, inv)
	var e *nopsclient.Error
	if errors.As(err, &e) && e.Code == nopsapi.CodeTooLarge && len(inv.Nodes) > 0 {
		a.deps.Log.Warn("the inventory is too large, its nodes are left out", "nodes", len(inv.Nodes))
		inv.Nodes = nil
		_, err = a.deps.Platform.ReportInventory(ctx, a.opts.ClusterARN, inv)
	}
	return intend(err)
}

func digest(v any) [sha256.Size]byte {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(v); err != nil { // what the contract holds encodes
		return [sha256.Size]byte{}
	}
	return [sha256.Size]byte(h.Sum(nil))
}
