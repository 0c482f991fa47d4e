package write

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// outcome is what becomes of a job that is written.
func (j *job) outcome() string {
	if j.kind != plan.Restore && j.kind != actionUndo && !j.undo {
		return Applied
	}
	for _, c := range j.changes {
		if !strings.HasPrefix(c.Path, "/metadata/") {
			return Undone
		}
	}
	if len(j.released) > 0 {
		return Released
	}
	return Undone
}

// decode reads a value that was written down.
func decode(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var v any
	if err := kjson.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("reading what was kept: %w", err)
	}
	return v, nil
}

// restoring makes the changes of a job be those that bring back what we changed in place. A field that no longer has our value, or that
// somebody else has given the same value since, is theirs: it is released.
func (w *Writer) restoring(j *job, live map[string]any, st *state) (bool, error) {
	originals, err := originalsOf(live)
	if err != nil || len(originals) == 0 {
		// The journal knows small ones, too.
		kept := st.journal.Originals[j.ref()]
		if err != nil && len(kept) == 0 {
			return false, refuse(Invariant, j.ref(), pathOriginal(), "what it was before cannot be read: %v", err)
		}
		originals = kept
	}
	if len(originals) == 0 {
		j.record.Explanation = "there is nothing of ours in it"
		return true, nil
	}
	j.changes, j.released = nil, nil
	before, after := map[string]any{}, map[string]any{}
	for _, path := range slices.Sorted(maps.Keys(originals)) {
		original, err := decode(originals[path].Value)
		if err != nil {
			return false, refuse(Invariant, j.ref(), path, "%v", err)
		}
		have := value(live, path)
		switch {
		case equal(have, original):
			continue
		case sum(have) != originals[path].Ours, len(w.Owners(live, path)) > 0:
			j.released = append(j.released, path)
			continue
		}
		before[path], after[path] = small(have), small(original)
		j.changes = append(j.changes, plan.Change{Path: path, Before: have, After: original})
	}
	if have := annotation(live, karpenstate.AnnotationOriginal); have != "" {
		j.changes = append(j.changes, plan.Change{Path: pathOriginal(), Before: have})
	}
	j.record.Before, j.record.After = before, after
	j.explainReleased()
	j.planned = slices.Clone(j.changes)
	return len(j.changes) == 0, nil
}

func (j *job) explainReleased() {
	if len(j.released) > 0 {
		j.record.Explanation = "somebody else changed " + strings.Join(j.released, ", ") + " since, and that stays"
	}
}

// undoing takes one write back, as far as its fields still have our value.
func (w *Writer) undoing(j *job, live map[string]any) (bool, error) {
	if live == nil {
		return false, refuse(ChangedSincePlan, j.ref(), "", "it is not there any more")
	}
	originals, err := originalsOf(live)
	if err != nil {
		return false, refuse(Invariant, j.ref(), pathOriginal(), "what it was before cannot be read: %v", err)
	}
	j.released = nil
	back := slices.Clone(j.planned)
	j.changes = nil
	for _, c := range back {
		have := value(live, c.Path)
		if equal(have, c.After) {
			continue
		}
		if sum(have) != c.Before || len(w.Owners(live, c.Path)) > 0 {
			j.released = append(j.released, c.Path)
			continue
		}
		j.changes = append(j.changes, plan.Change{Path: c.Path, Before: have, After: c.After})
		if kept, is := originals[c.Path]; is {
			if kept.Ours = sum(c.After); bytesEqual(kept.Value, c.After) {
				delete(originals, c.Path)
			} else {
				originals[c.Path] = kept
			}
		}
	}
	if have := annotation(live, karpenstate.AnnotationOriginal); have != "" {
		change := plan.Change{Path: pathOriginal(), Before: have}
		if len(originals) > 0 {
			change.After = string(canonical(originals))
		}
		if change.After != have {
			j.changes = append(j.changes, change)
		}
	}
	j.explainReleased()
	return len(j.changes) == 0, nil
}

func bytesEqual(kept json.RawMessage, v any) bool {
	if v == nil {
		return len(kept) == 0
	}
	return string(kept) == string(canonical(v))
}

// originals keeps in the journal what the annotation has, unless it is large.
func (st *state) originals(a Attempt) {
	if a.Kind != plan.Narrow && a.Kind != actionApprove {
		return
	}
	for _, c := range a.Changes {
		if c.Path != pathOriginal() || len(c.After) == 0 {
			continue
		}
		var s string
		var o Originals
		if json.Unmarshal(c.After, &s) != nil || json.Unmarshal([]byte(s), &o) != nil {
			continue
		}
		if st.journal.Originals == nil {
			st.journal.Originals = map[string]Originals{}
		}
		st.journal.Originals[refOf(a.ObjectKind, a.Name)] = o
	}
}
