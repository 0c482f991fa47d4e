package lock

import (
	"fmt"
	"sort"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Downgrades says what was signed earlier than what it would replace: an old version with an old and good signature, under a
// new tag or a moved one. What stays as it is is none, and neither is what was never there. A signature without a time where
// there was one with is a downgrade, too: whoever could shed the time would not need an old one.
//
// Where a name stands for several images, the newest is held against the newest, and so on; what is left over against the
// oldest.
func Downgrades(old, now Lock) []Downgrade {
	before, after := byName(old), byName(now)
	var found []Downgrade
	for _, name := range names(after) {
		was, is := before[name], after[name]
		if len(was) == 0 {
			continue
		}
		had := map[string]bool{}
		for _, e := range was {
			had[e.Digest] = true
		}
		stays := map[string]bool{}
		var fresh, replaced []Entry
		for _, e := range is {
			if had[e.Digest] {
				stays[e.Digest] = true
			} else {
				fresh = append(fresh, e)
			}
		}
		for _, e := range was {
			if !stays[e.Digest] {
				replaced = append(replaced, e)
			}
		}
		if len(replaced) == 0 { // all is still there, and something new beside it
			oldest := was[len(was)-1]
			replaced = []Entry{oldest}
		}
		for i, e := range fresh {
			against := replaced[min(i, len(replaced)-1)]
			switch {
			case against.SignedAt.IsZero() || !e.SignedAt.Before(against.SignedAt):
				continue
			case e.SignedAt.IsZero():
				found = append(found, downgrade(e, "%s: no signature says when it was made, and what was accepted last was signed %s (%s)", e, at(against.SignedAt), against.Digest))
			default:
				found = append(found, downgrade(e, "%s was signed %s, before what was accepted last: %s (%s)", e, at(e.SignedAt), at(against.SignedAt), against.Digest))
			}
		}
	}
	return found
}

// Downgrade is an entry that is older than what it would replace, and the finding about it.
type Downgrade struct {
	Entry Entry
	verdict.Finding
}

func downgrade(e Entry, format string, args ...any) Downgrade {
	f := verdict.Fail(verdict.Downgrade, format, args...)
	f.Method, f.Identity, f.SignedAt = e.Method, e.Identity, e.SignedAt
	return Downgrade{e, f}
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// all are the entries of a lock, the chart's own among them.
func (l Lock) all() []Entry {
	entries := append([]Entry(nil), l.Images...)
	if l.Chart.Artifact != nil {
		entries = append(entries, *l.Chart.Artifact)
	}
	return entries
}

// byName groups entries by canonical name, each digest once, newest first; those without a time are oldest.
func byName(l Lock) map[string][]Entry {
	groups := map[string][]Entry{}
next:
	for _, e := range l.all() {
		for i, other := range groups[e.Name] {
			if other.Digest == e.Digest {
				if e.SignedAt.After(other.SignedAt) {
					groups[e.Name][i] = e
				}
				continue next
			}
		}
		groups[e.Name] = append(groups[e.Name], e)
	}
	for _, g := range groups {
		sort.SliceStable(g, func(i, j int) bool {
			a, b := g[i], g[j]
			return a.SignedAt.After(b.SignedAt) || a.SignedAt.Equal(b.SignedAt) && a.Digest < b.Digest
		})
	}
	return groups
}

func names(groups map[string][]Entry) []string {
	var all []string
	for name := range groups {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

// Change is one reference that two locks disagree about. From or To is empty where only the other has it.
type Change struct {
	Reference string `json:"reference"` // canonical, with the tag
	From      string `json:"from,omitempty"`
	To        string `json:"to,omitempty"`
}

// String is the change in one line.
func (c Change) String() string {
	switch {
	case c.From == "":
		return fmt.Sprintf("%s is not in the lock", c.Reference)
	case c.To == "":
		return fmt.Sprintf("%s is in the lock only", c.Reference)
	}
	return fmt.Sprintf("%s is %s now, and %s in the lock", c.Reference, c.To, c.From)
}

// Moved are the tags that name other bytes than they did.
func Moved(old, now Lock) []Change {
	var moved []Change
	for _, c := range compare(old, now) {
		if c.From != "" && c.To != "" {
			moved = append(moved, c)
		}
	}
	return moved
}

// Differences are what speaks against installing under a lock: references that it has with other bytes, and references that
// it does not have. What the lock has and nobody asks for harms nobody.
func Differences(locked, resolved Lock) []Change {
	var found []Change
	for _, c := range compare(locked, resolved) {
		if c.To != "" {
			found = append(found, c)
		}
	}
	return found
}

func compare(old, now Lock) []Change {
	type pair struct{ from, to map[string]bool }
	pairs := map[string]*pair{}
	get := func(key string) *pair {
		if pairs[key] == nil {
			pairs[key] = &pair{map[string]bool{}, map[string]bool{}}
		}
		return pairs[key]
	}
	for _, e := range old.all() {
		get(e.key()).from[e.Digest] = true
	}
	for _, e := range now.all() {
		get(e.key()).to[e.Digest] = true
	}
	var changes []Change
	for key, p := range pairs {
		from, to := without(p.from, p.to), without(p.to, p.from)
		for i := range max(len(from), len(to)) {
			c := Change{Reference: key}
			if i < len(from) {
				c.From = from[i]
			}
			if i < len(to) {
				c.To = to[i]
			}
			changes = append(changes, c)
		}
	}
	sort.Slice(changes, func(i, j int) bool {
		a, b := changes[i], changes[j]
		return a.Reference < b.Reference || a.Reference == b.Reference && (a.To < b.To || a.To == b.To && a.From < b.From)
	})
	return changes
}

func without(all, others map[string]bool) []string {
	var left []string
	for d := range all {
		if !others[d] {
			left = append(left, d)
		}
	}
	sort.Strings(left)
	return left
}
