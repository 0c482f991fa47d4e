package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const (
	// pruneEvery is how often Run removes what is too old.
	pruneEvery = time.Hour
	pruneBatch = 500
)

// Run looks for silent clusters until the context ends, removes what is too old, and works out recommendations where Usage is set. Reads look for silence too: a host that
// does not call Run loses only the exact time at which a warning opened.
func (s *Server) Run(ctx context.Context, every time.Duration) error {
	s.once.Do(s.start)
	if s.Usage != nil {
		var wg sync.WaitGroup
		wg.Go(func() { s.analyse(ctx, every) })
		defer wg.Wait()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var pruned time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.rejudgeAll(ctx); err != nil && ctx.Err() == nil {
			s.log().Error("looking for silent clusters", "error", err) // the next look may succeed
		}
		if now := s.now(); now.Sub(pruned) >= pruneEvery {
			pruned = now
			if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
				s.log().Error("removing what is too old", "error", err)
			}
		}
	}
}

func (s *Server) rejudgeAll(ctx context.Context) error {
	all, err := list[cluster](ctx, s.store(), kindCluster, "")
	if err != nil {
		return err
	}
	for _, cl := range all {
		customer, err := read[Customer](ctx, s.store(), kindCustomer, cl.CustomerID)
		if err != nil {
			return fmt.Errorf("customer of cluster %s: %w", cl.ARN, err)
		}
		if err := s.rejudge(ctx, customer, home(cl.CustomerID, cl.ARN), cl.ARN); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes heartbeats, records of karpenops, outcomes and closed warnings beyond the retention, tests a day after they expired, and the answers to
// writes that can no longer be repeated.
func (s *Server) Prune(ctx context.Context) error {
	retention := s.Retention
	if retention == 0 {
		retention = 30 * 24 * time.Hour
	}
	now := s.now()
	old := now.Add(-retention)
	if err := prune(ctx, s, kindHeartbeat, func(d Document, b nopsapi.HeartbeatReceived) []Change {
		if !b.ReceivedAt.Before(old) {
			return nil
		}
		home := d.ID[:len(d.ID)-len("|"+beatID(b))]
		return []Change{deletes(kindHeartbeat, d.ID), deletes(kindBeat, fmt.Sprintf("%s|%s|%020d", home, b.BootID, b.Seq))}
	}); err != nil {
		return err
	}
	if err := prune(ctx, s, kindRecord, func(d Document, r nopsapi.KarpenterRecord) []Change {
		if !r.At.Before(old) {
			return nil
		}
		home := d.ID[:len(d.ID)-len("|"+recordID(r))]
		return []Change{deletes(kindRecord, d.ID), deletes(kindRecordID, home+"|"+r.ID)}
	}); err != nil {
		return err
	}
	if err := prune(ctx, s, kindOutcome, func(d Document, o nopsapi.Outcome) []Change {
		if !o.At.Before(old) {
			return nil
		}
		home := d.ID[:len(d.ID)-len("|"+outcomeID(o))]
		return []Change{deletes(kindOutcome, d.ID), deletes(kindOutcomeID, home+"|"+o.ID)}
	}); err != nil {
		return err
	}
	if err := prune(ctx, s, kindWarning, func(d Document, w nopsapi.Warning) []Change {
		return when(w.ClosedAt != nil && w.ClosedAt.Before(old), kindWarning, d)
	}); err != nil {
		return err
	}
	if err := prune(ctx, s, kindTest, func(d Document, t test) []Change {
		return when(now.Sub(t.ExpiresAt) > 24*time.Hour, kindTest, d)
	}); err != nil {
		return err
	}
	return prune(ctx, s, kindReplay, func(d Document, r replay) []Change {
		return when(now.Sub(r.At) > nopsapi.ReplayLifetime, kindReplay, d)
	})
}

func when(old bool, kind Kind, d Document) []Change {
	if !old {
		return nil
	}
	return []Change{deletes(kind, d.ID)}
}

// prune goes through a drawer in batches, so that requests need not wait for all of it.
func prune[T any](ctx context.Context, s *Server, kind Kind, judge func(Document, T) []Change) error {
	for after := ""; ; {
		docs, err := s.store().List(ctx, kind, "", after, pruneBatch)
		if err != nil || len(docs) == 0 {
			return err //nolint:wrapcheck // stores name what they read
		}
		var changes []Change
		for _, d := range docs {
			after = d.ID
			var doc T
			if err := json.Unmarshal(d.Data, &doc); err != nil {
				return fmt.Errorf("stored %s %s: %w", kind, d.ID, err)
			}
			changes = append(changes, judge(d, doc)...)
		}
		if err := s.store().Write(ctx, changes...); err != nil {
			return err //nolint:wrapcheck // stores name what they write
		}
	}
}
