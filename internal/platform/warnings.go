package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// missedBeats is how many intervals of silence open a warning.
const missedBeats = 3

// verdict is what is to become of a warning.
type verdict int

const (
	well    verdict = iota // closes it
	unclear                // leaves it: what restarts, or is in a state unknown here, is neither well nor newly wrong
	wrong                  // opens it
)

// A finding is a verdict on one thing that may go wrong.
type finding struct {
	kind, component string
	verdict         verdict
	message         string
}

func (f finding) key() string { return f.kind + "/" + f.component }

// look says how a cluster does by its state. Silence counts from when this process began to listen: what could not be heard
// was not missed.
func (s *Server) look(customer Customer, st state) ([]finding, error) {
	heard := st.HeardAt
	if s.since.After(heard) {
		heard = s.since
	}
	silence := finding{kind: nopsapi.WarningMissedHeartbeats}
	if s.now().Sub(heard) > time.Duration(missedBeats*interval(customer))*time.Second {
		silence.verdict, silence.message = wrong, "no heartbeat since "+st.HeardAt.UTC().Format(time.RFC3339)
	}
	latest, err := st.latest()
	if err != nil {
		return nil, err
	}
	components := map[string]finding{}
	for _, c := range latest.Components {
		f := finding{kind: nopsapi.WarningComponent, component: c.Name, verdict: unclear}
		switch c.State {
		case nopsapi.StateFailed, nopsapi.StateDegraded:
			f.verdict, f.message = wrong, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", c.Name, c.State, c.Reason), ": ")
		case nopsapi.StateReady, nopsapi.StateIdle:
			f.verdict = well
		}
		if worst, known := components[c.Name]; !known || f.verdict > worst.verdict {
			components[c.Name] = f
		}
	}
	findings := []finding{silence}
	for _, f := range components {
		findings = append(findings, f)
	}
	sort.Slice(findings, func(i, j int) bool { return findings[i].key() < findings[j].key() })
	return append(findings, lookAtPipeline(latest.Pipeline)), nil
}

func lookAtPipeline(p *nopsapi.PipelineStatus) finding {
	f := finding{kind: nopsapi.WarningPipeline, verdict: unclear}
	if p == nil {
		return f
	}
	switch p.State {
	case nopsapi.PipelineRefused, nopsapi.PipelineBlocked:
		f.verdict, f.message = wrong, strings.TrimSuffix(fmt.Sprintf("metrics delivery is %s: %s", p.State, p.LastError), ": ")
	case nopsapi.PipelineDelivering, nopsapi.PipelineDisabled:
		f.verdict = well
	}
	return f
}

// judge opens and closes the warnings that follow from a cluster's state. What is open stays the same warning, and what
// comes back soon after it closed is opened again: a flapping component makes one warning, not a hundred.
func (s *Server) judge(ctx context.Context, customer Customer, home, arn string, st state) ([]Change, error) {
	findings, err := s.look(customer, st)
	if err != nil {
		return nil, err
	}
	warnings, err := s.warnings(ctx, home, "")
	if err != nil {
		return nil, err
	}
	now := s.now()
	last := map[string]nopsapi.Warning{} // by key, the newest
	for _, w := range warnings {
		last[finding{kind: w.Kind, component: w.Component}.key()] = w
	}
	var changes result
	put := func(w nopsapi.Warning) {
		if err == nil {
			changes, err = changes.writes(kindWarning, home, w.ID, w)
		}
	}
	closes := func(w nopsapi.Warning) {
		if w.State == nopsapi.WarningOpen {
			w.State, w.ClosedAt = nopsapi.WarningClosed, &now
			put(w)
		}
	}
	for _, f := range findings {
		w, known := last[f.key()]
		delete(last, f.key())
		switch {
		case f.verdict == unclear:
		case f.verdict == well:
			closes(w)
		case known && w.State == nopsapi.WarningOpen:
			if w.Message != f.message {
				w.Message = f.message
				put(w)
			}
		case known && w.ClosedAt != nil && now.Sub(*w.ClosedAt) < nopsapi.ReopenWithin:
			w.State, w.ClosedAt, w.Message = nopsapi.WarningOpen, nil, f.message
			put(w)
		default:
			put(nopsapi.Warning{ID: "warn-" + randomHex(6), ClusterARN: arn, Kind: f.kind, Component: f.component, Message: f.message, State: nopsapi.WarningOpen, OpenedAt: now})
		}
	}
	for _, w := range last {
		closes(w) // of a component that is gone
	}
	return changes.changes, err
}

// warnings are a cluster's, by the time they opened.
func (s *Server) warnings(ctx context.Context, home, which string) ([]nopsapi.Warning, error) {
	all, err := list[nopsapi.Warning](ctx, s.store(), kindWarning, home)
	if err != nil {
		return nil, err
	}
	some := []nopsapi.Warning{}
	for _, w := range all {
		if which == "" || w.State == which {
			some = append(some, w)
		}
	}
	sort.Slice(some, func(i, j int) bool {
		a, b := some[i], some[j]
		return a.OpenedAt.Before(b.OpenedAt) || a.OpenedAt.Equal(b.OpenedAt) && a.Kind+"/"+a.Component < b.Kind+"/"+b.Component
	})
	return some, nil
}

// rejudge looks at the clock: silence opens a warning without any request of the silent one.
func (s *Server) rejudge(ctx context.Context, customer Customer, home, arn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := read[state](ctx, s.store(), kindState, home)
	if errors.Is(err, ErrNoDocument) {
		return nil // never beat: not installed yet, nothing to warn of
	} else if err != nil {
		return err
	}
	changes, err := s.judge(ctx, customer, home, arn, st)
	if err != nil || len(changes) == 0 {
		return err
	}
	return s.store().Write(ctx, changes...) //nolint:wrapcheck // stores name what they write
}

func (s *Server) listWarnings(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	which := r.URL.Query().Get("state")
	if which != "" && which != nopsapi.WarningOpen && which != nopsapi.WarningClosed {
		return result{}, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "state %q: open, closed, or nothing for both", which)
	}
	if err := s.rejudge(ctx, c.customer, r.home, r.arn); err != nil {
		return result{}, err
	}
	all, err := s.warnings(ctx, r.home, which)
	return found(nopsapi.WarningList{Warnings: all}), err
}

func (s *Server) acknowledge(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	all, err := s.warnings(ctx, r.home, "")
	if err != nil {
		return result{}, err
	}
	for _, w := range all {
		if w.ID != r.id() {
			continue
		}
		if w.AcknowledgedAt == nil {
			now := s.now()
			w.AcknowledgedAt = &now
		}
		return found(w).writes(kindWarning, r.home, w.ID, w)
	}
	return result{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no warning %s of this cluster", r.id())
}
