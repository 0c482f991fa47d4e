package updater

import (
	"slices"
	"time"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// mostOfASpell bounds what is believed of a record: whoever may write one could have the loop count for ever.
const mostOfASpell = 2_000

// recall takes over what was recorded of autoscalers that this process has not seen yet, by the one that led before it: a new one would otherwise
// spend the hour's budgets again, and go on with what was stopped. Of changes that had not shown by then nothing is known.
func (u *Updater) recall(plans []*plan, now time.Time) {
	type failure struct {
		policy string
		at     time.Time
	}
	var failures []failure
	for _, p := range plans {
		if _, seen := u.memory.written[p.UID]; seen {
			continue
		}
		for _, s := range lately(p.Application.Recent, p.settings.Rest, now) {
			for range min(s.InPlace, mostOfASpell) {
				u.memory.ledger.Add(rules.Change{At: s.At, Namespace: p.Namespace})
			}
			for range min(s.Evicted, mostOfASpell) {
				u.memory.ledger.Add(rules.Change{At: s.At, Namespace: p.Namespace, Evicted: true})
			}
			for range min(s.Failed, mostOfASpell) {
				failures = append(failures, failure{p.settings.Policy, s.At})
			}
			if until := s.At.Add(p.settings.Rest); s.Failed > 0 && until.After(u.memory.rests[p.UID].until) {
				u.memory.rests[p.UID] = resting{until: until, why: s.Why}
			}
		}
	}
	slices.SortStableFunc(failures, func(a, b failure) int { return a.at.Compare(b.at) }) // as the breaker wants them
	for _, f := range failures {
		u.memory.breaker.Failed(f.policy, f.at)
	}
}

// within is the spell that something belongs to that happens now, among those recorded. What is recorded belongs to the informer: it is copied.
// A spell counts as a whole from its last moment on, so that nothing is forgotten too early.
func within(recent []rightsizing.Spell, now time.Time) ([]rightsizing.Spell, *rightsizing.Spell) {
	recent = slices.Clone(recent)
	if n := len(recent); n == 0 || !recent[n-1].At.Truncate(near).Equal(now.Truncate(near)) {
		recent = append(recent, rightsizing.Spell{})
	}
	last := &recent[len(recent)-1]
	last.At = now.UTC().Truncate(time.Second)
	return recent, last
}

// lately are the spells that still count: an hour for budgets, and failures for as long as the circuit breaker looks at them.
func lately(recent []rightsizing.Spell, rest time.Duration, now time.Time) []rightsizing.Spell {
	if len(recent) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(recent), func(s rightsizing.Spell) bool {
		counts := time.Hour
		if s.Failed > 0 {
			counts += rest
		}
		return !s.At.After(now.Add(-counts))
	})
}
