package updater

import (
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// TestNext: what is not news is not written.
func TestNext(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	recorded := rightsizing.Application{State: rightsizing.StateWaiting, Message: "m", Since: now.Add(-time.Hour), NotBefore: now.Add(time.Hour), LastChange: now.Add(-time.Hour), InPlace: 3}
	for _, c := range []struct {
		name, reason   string
		edit           func(*rightsizing.Application)
		state, message string
		until          time.Time
		write, since   bool // whether it is written, and Since begins anew
	}{
		{"nothing", "", nil, rightsizing.StateWaiting, "m", now.Add(time.Hour), false, false},
		{"a little later", "times move a little from loop to loop", nil, rightsizing.StateWaiting, "m", now.Add(time.Hour + time.Minute), false, false},
		{"much later", "", nil, rightsizing.StateWaiting, "m", now.Add(2 * time.Hour), true, false},
		{"not known any more", "", nil, rightsizing.StateWaiting, "m", time.Time{}, true, false},
		{"another reason", "", nil, rightsizing.StateWaiting, "n", now.Add(time.Hour), true, false},
		{"another state", "", nil, rightsizing.StateApplied, "m", now.Add(time.Hour), true, true},
		{"a change", "", func(a *rightsizing.Application) { a.InPlace++; a.LastChange = now }, rightsizing.StateWaiting, "m", now.Add(time.Hour), true, false},
		{"a failure", "", func(a *rightsizing.Application) { a.Failed++ }, rightsizing.StateWaiting, "m", now.Add(time.Hour), true, false},
	} {
		known := recorded
		if c.edit != nil {
			c.edit(&known)
		}
		a, write := next(recorded, known, c.state, c.message, c.until, now)
		if write != c.write || a.Since.Equal(now) != c.since || a.State != c.state || a.InPlace != known.InPlace {
			t.Errorf("%s: %+v, written %t; %s", c.name, a, write, c.reason)
		}
	}
}

// TestReasonsAreStable: the order of pods does not show.
func TestReasonsAreStable(t *testing.T) {
	if got := most([]string{"b", "a", "b", "c"}); got != "b" {
		t.Errorf("most have b, not %s", got)
	}
	if a, b := most([]string{"y", "x"}), most([]string{"x", "y"}); a != b || a != "x" {
		t.Errorf("of two that are as many: %s, %s", a, b)
	}
	now := time.Now()
	holds := []rules.Hold{{Why: "unknown"}, {Why: "later", Until: now.Add(time.Hour)}, {Why: "soon", Until: now}}
	if got := earliest(holds); got.Why != "soon" {
		t.Errorf("the one that ends first is soon, not %s", got.Why)
	}
}
