package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

const pathRequirements = "/spec/template/spec/requirements"

// readOriginal finds the requirements as the user wrote them. A pool that was narrowed in place carries them in an annotation, beside the digest of
// what was made of them; where the pool has something else now, somebody has changed it since, and that is what the user wrote.
func (b *base) readOriginal() {
	b.original = listOf(b.Pool)
	text, _ := at(b.Object, "metadata", "annotations", karpenstate.AnnotationOriginal).(string)
	if text == "" {
		return
	}
	var kept map[string]struct {
		Value json.RawMessage `json:"value"`
		Ours  string          `json:"ours"`
	}
	if json.Unmarshal([]byte(text), &kept) != nil || kept[pathRequirements].Ours != fingerprint(b.original) {
		return
	}
	var list []any
	if json.Unmarshal(kept[pathRequirements].Value, &list) != nil {
		return
	}
	for _, entry := range list {
		if m, ok := entry.(map[string]any); ok {
			if n, ok := m["minValues"].(float64); ok {
				m["minValues"] = int64(n)
			}
		}
	}
	b.original, b.narrowed = list, b.original
}

// fingerprint is how the annotation names a value that is too large to be kept twice.
func fingerprint(v any) string {
	var data bytes.Buffer
	e := json.NewEncoder(&data)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return ""
	}
	sum := sha256.Sum256(bytes.TrimSuffix(data.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:12])
}

// inPlace narrows the user's own pool, or takes that back. It comes last: only where a sibling cannot go before the pool, where the user asked for
// it, and where no more nodes are predicted to drift than were agreed to and than the pool's budgets let go now. On-demand capacity stays
// allowed: there is no other pool to fall back on. It says whether that is how the choice is made here.
func (p *planner) inPlace(b *base) bool {
	if b.narrowed != nil && !b.undecided && b.prefer == nil {
		p.do(step{rank: rankNarrow, actions: []Action{{
			Kind: Restore, ObjectKind: "NodePool", Name: b.Name, Base: b.Name, Reason: "nothing is excluded any more",
			Changes: []Change{{Path: pathRequirements, Before: b.narrowed, After: b.original}},
		}}})
		return true
	}
	w := b.prefer
	if w == nil || b.undecided || !p.modeOf(b.Pool).Includes(karpenstate.ModeInPlace) {
		return b.narrowed != nil
	}
	if b.narrowed == nil {
		if w.current != nil {
			return false
		}
		probe := *w
		if p.weigh(b, &probe); probe.newWeight > 0 {
			delete(p.weights, probe.newWeight)
			return false
		}
	}
	list, words, err := offering.Narrow(b.original, edits(p.market.unit, w.families, w.zones)[1:]...)
	if err != nil {
		p.say(b.Name, "in place: %v", err)
		return true
	}
	now := listOf(b.Pool)
	if same(list, now) {
		p.say(b.Name, "in place: narrowed already")
		return true
	}
	drift := p.drift(b.Pool, list)
	allowed := p.cfg.DriftCap
	if b.DriftBudget >= 0 {
		allowed = min(allowed, b.DriftBudget)
	}
	drift = slices.DeleteFunc(drift, func(name string) bool { return slices.Contains(p.drift(b.Pool, now), name) })
	switch {
	case b.DriftBudget == 0:
		p.say(b.Name, "in place: it waits, for its disruption budgets let no node drift now")
	case len(drift) > allowed:
		p.say(b.Name, "in place: it waits, for %s would be replaced (%s), and no more than %d may be", counted(len(drift), "node"), names(drift), allowed)
	case !p.sound(b, list):
		p.say(b.Name, "in place: what is left could launch nothing")
	default:
		p.do(step{rank: rankNarrow, flip: b.Name, actions: []Action{{
			Kind: Narrow, ObjectKind: "NodePool", Name: b.Name, Base: b.Name, Drift: drift, Reason: fmt.Sprintf("%s; no sibling can go before it", names(words)),
			Changes: []Change{{Path: pathRequirements, Before: now, After: copyOf(list)}},
		}}})
	}
	return true
}
