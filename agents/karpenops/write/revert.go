package write

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Selection is what to revert.
type Selection struct {
	Pools []string // NodePools of the user's, with all that is of ours beside them; or siblings by their own names
	All   bool
}

// Reverted is what came of it. What is in Waiting goes on when Revert is called again: all that it needs is in the cluster.
type Reverted struct {
	Records  []nopsapi.KarpenterRecord `json:"records,omitempty"`
	Restored []string                  `json:"restored,omitempty"` // "NodePool/default"
	Released []string                  `json:"released,omitempty"` // "NodePool/default /spec/…": somebody else changed it, and that stays
	Deleted  []string                  `json:"deleted,omitempty"`
	Waiting  []string                  `json:"waiting,omitempty"` // siblings that still have nodes
	Problems []string                  `json:"problems,omitempty"`
}

// Progress is told how a revert goes on, in sentences.
type Progress func(line string)

// Revert takes back what this agent did: fields of the user's NodePools get their values back where they still have ours; siblings are drained
// and deleted. It needs the cluster and nothing else. It pauses the agent first and leaves it paused, or the agent would begin again; it does
// not lock it out, since every write of either is made on the condition that the other made none.
func (w *Writer) Revert(ctx context.Context, s Selection, actor string, progress Progress) (Reverted, error) {
	if progress == nil {
		progress = func(string) {}
	}
	var r Reverted
	if !s.All && len(s.Pools) == 0 {
		return r, errors.New("reverting: no NodePool is named, and not all of them are meant")
	}
	if err := w.quiesce(ctx, s, actor, progress); err != nil {
		return r, err
	}
	c, err := w.look(ctx)
	if err != nil {
		return r, err
	}
	overlays, err := w.list(ctx, overlaysPath)
	if err != nil {
		return r, fmt.Errorf("listing NodeOverlays: %w", err)
	}
	st, err := w.readState(ctx)
	if err != nil {
		return r, err
	}
	back := &reverting{w: w, actor: actor, say: progress, result: &r}
	back.restore(ctx, s, c, st)
	back.siblings(ctx, s, c, overlays)
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("reverting: %w%s: run it again, it goes on where it was", err, left(r.Waiting))
	}
	if len(r.Problems) > 0 {
		return r, fmt.Errorf("reverting: %s", strings.Join(r.Problems, "; "))
	}
	return r, nil
}

// left names what still has nodes.
func left(siblings []string) string {
	if len(siblings) == 0 {
		return ""
	}
	return " while there still are " + strings.Join(siblings, ", ")
}

// quiesce pauses, and waits until no write is on its way.
func (w *Writer) quiesce(ctx context.Context, s Selection, actor string, progress Progress) error {
	why := "revert of everything"
	if !s.All {
		why = "revert of " + strings.Join(s.Pools, ", ")
	}
	if err := w.Pause(ctx, "", actor, why); err != nil {
		return err
	}
	for told := false; ; told = true {
		st, err := w.readState(ctx)
		if err != nil {
			return err
		}
		if len(st.journal.Intents) == 0 {
			return nil
		}
		if err := w.recover(ctx, st, &Settled{}); err != nil {
			return err
		}
		if !told {
			progress("waiting for a write that the agent has begun")
		}
		if err := agent.Sleep(ctx, w.Limits.Poll); err != nil {
			return fmt.Errorf("waiting for a write that the agent has begun: %w", err)
		}
	}
}

type reverting struct {
	w      *Writer
	actor  string
	say    Progress
	result *Reverted
}

// problem keeps what could not be done; the rest goes on.
func (b *reverting) problem(err error) {
	b.result.Problems = append(b.result.Problems, err.Error())
	b.say("not taken back: " + err.Error())
}

// job is one step of a revert.
func (b *reverting) job(kind plan.ActionKind, object, name, base, reason string) *job {
	path := poolsPath
	if object == kindOverlay {
		path = overlaysPath
	}
	j := &job{kind: kind, object: object, name: name, base: base, path: path + "/" + name, approved: false, override: true, undo: true}
	now := b.w.Now()
	j.record = nopsapi.KarpenterRecord{ID: recordID(string(kind)+"-"+name, now), At: now.UTC(), Actor: b.actor, Action: string(kind), Object: j.ref(), Reason: reason}
	return j
}

func (b *reverting) run(ctx context.Context, j *job) error {
	record, err := b.w.run(ctx, j)
	b.result.Records = append(b.result.Records, record)
	return err
}

// restore gives the fields of objects that are not ours back.
func (b *reverting) restore(ctx context.Context, s Selection, c *cluster, st *state) {
	names := map[string]bool{}
	for name, pool := range c.pools {
		if annotation(pool, karpenstate.AnnotationOriginal) != "" {
			names[refOf(kindPool, name)] = true
		}
	}
	for ref := range st.journal.Originals {
		names[ref] = true
	}
	for _, ref := range slices.Sorted(maps.Keys(names)) {
		kind, name, _ := strings.Cut(ref, "/")
		if !s.All && !slices.Contains(s.Pools, name) {
			continue
		}
		j := b.job(plan.Restore, kind, name, "", "revert")
		if kind != kindPool {
			path, err := b.w.classPath(ctx, kind, name, c)
			if err != nil {
				b.problem(err)
				continue
			}
			j.path = path
		}
		if err := b.run(ctx, j); err != nil {
			b.problem(err)
			continue
		}
		if j.record.Outcome == Undone {
			b.result.Restored = append(b.result.Restored, ref)
		}
		for _, path := range j.released {
			b.result.Released = append(b.result.Released, ref+" "+path)
		}
		switch {
		case j.record.Outcome == Undone && len(j.released) > 0:
			b.say(ref + ": it has again what it had before, but " + j.record.Explanation)
		case j.record.Outcome == Undone:
			b.say(ref + ": it has again what it had before")
		case len(j.released) > 0:
			b.say(ref + ": left as it is: " + j.record.Explanation)
		default:
			b.say(ref + ": " + j.record.Explanation)
		}
	}
}

// siblings drains and deletes what is ours. First all of them get the limit 0, so that no pod moves from one to the next; then one after
// the other is emptied, the smallest first.
func (b *reverting) siblings(ctx context.Context, s Selection, c *cluster, overlays []map[string]any) {
	var pools []map[string]any
	for _, pool := range c.pools {
		base := annotation(pool, karpenstate.AnnotationBase)
		if label(pool, karpenstate.LabelOwned) == "true" && (s.All || slices.Contains(s.Pools, nameOf(pool)) || slices.Contains(s.Pools, base)) {
			pools = append(pools, pool)
		}
	}
	sort.Slice(pools, func(i, k int) bool {
		a, b := len(c.claims[nameOf(pools[i])]), len(c.claims[nameOf(pools[k])])
		return a < b || a == b && nameOf(pools[i]) < nameOf(pools[k])
	})
	gone := map[string]bool{}
	for _, pool := range pools {
		gone[nameOf(pool)] = true
	}
	var mine []map[string]any
	for _, pool := range pools {
		if why := b.w.notOwned(pool); why != "" {
			b.result.Released = append(b.result.Released, refOf(kindPool, nameOf(pool)))
			b.say(refOf(kindPool, nameOf(pool)) + ": left alone: " + why)
			continue
		}
		if drained(pool) {
			mine = append(mine, pool)
			continue
		}
		j := b.job(plan.DrainSibling, kindPool, nameOf(pool), annotation(pool, karpenstate.AnnotationBase), "revert: it launches nothing any more")
		j.changes = []plan.Change{{Path: pathCPU, Before: value(pool, pathCPU), After: "0"}}
		j.fenceOnly = true
		if err := b.run(ctx, j); err != nil {
			b.problem(err)
			continue
		}
		mine = append(mine, pool)
		b.say(refOf(kindPool, nameOf(pool)) + ": it launches nothing any more (limits.cpu is 0)")
	}
	// A price of ours that makes a sibling look cheap would keep its nodes where they are.
	for _, o := range overlays {
		if !b.w.Owned(o) {
			continue
		}
		all := len(scope(o)) > 0
		for _, n := range scope(o) {
			all = all && gone[n]
		}
		if !all && !s.All {
			continue
		}
		if err := b.run(ctx, b.job(plan.DeleteOverlay, kindOverlay, nameOf(o), "", "revert")); err != nil {
			b.problem(err)
			continue
		}
		b.result.Deleted = append(b.result.Deleted, refOf(kindOverlay, nameOf(o)))
		b.say(refOf(kindOverlay, nameOf(o)) + ": deleted")
	}
	for i, pool := range mine {
		if err := b.empty(ctx, nameOf(pool), annotation(pool, karpenstate.AnnotationBase)); err != nil {
			if ctx.Err() != nil {
				for _, rest := range mine[i:] {
					b.result.Waiting = append(b.result.Waiting, nameOf(rest))
				}
				return
			}
			b.problem(err)
		}
	}
}

// empty has a sibling's nodes drift, waits until it has none, and deletes it.
func (b *reverting) empty(ctx context.Context, name, base string) error {
	last := ""
	for {
		pool, err := b.w.get(ctx, poolsPath+"/"+name)
		if apiCode(err) == http.StatusNotFound {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", refOf(kindPool, name), err)
		}
		claims, err := b.w.list(ctx, claimsPath, "labelSelector", labelPool+"="+name)
		if err != nil {
			return fmt.Errorf("listing the NodeClaims of %s: %w", refOf(kindPool, name), err)
		}
		if len(claims) > 0 && value(pool, pathDrain()) == nil {
			j := b.job(plan.DrainSibling, kindPool, name, base, "revert: its nodes are moved within its disruption budgets")
			j.changes = []plan.Change{{Path: pathCPU, Before: value(pool, pathCPU), After: "0"}}
			if err := b.run(ctx, j); err != nil {
				return err
			}
			continue
		}
		line := ""
		if len(claims) > 0 {
			line = b.nodes(pool, claims)
		} else if line, err = b.remove(ctx, name, base, pool); err != nil || line == "" {
			return err
		}
		if line = refOf(kindPool, name) + ": " + line; line != last {
			b.say(line)
			last = line
		}
		if err := agent.Sleep(ctx, b.w.Limits.Poll); err != nil {
			return fmt.Errorf("waiting for %s: %w", refOf(kindPool, name), err)
		}
	}
}

// remove deletes a sibling without NodeClaims, or says what that waits for, in words that change only when that does.
func (b *reverting) remove(ctx context.Context, name, base string, pool map[string]any) (waits string, err error) {
	j := b.job(plan.DeleteSibling, kindPool, name, base, "revert: it has no nodes")
	j.patient = b.w.Owned(pool)
	_, err = b.w.run(ctx, j)
	var r *Refusal
	switch {
	case err == nil:
		b.result.Records = append(b.result.Records, j.record)
		b.result.Deleted = append(b.result.Deleted, refOf(kindPool, name))
		b.say(refOf(kindPool, name) + ": deleted")
		return "", nil
	case !errors.As(err, &r) || !j.patient || !r.waits():
		return "", err
	case r.Code == RateLimited:
		return fmt.Sprintf("no nodes; one may be on its way still, so it is deleted %s after its limit became 0", b.w.Limits.DrainGrace), nil
	case r.Code == Conflict:
		return "no nodes; somebody writes to it, so it is tried again", nil
	}
	return "no NodeClaims; " + r.Why, nil
}

// nodes says how far a sibling's are on their way.
func (b *reverting) nodes(pool map[string]any, claims []map[string]any) string {
	going := 0
	for _, c := range claims {
		if text(c, "metadata", "deletionTimestamp") != "" {
			going++
		}
	}
	line := fmt.Sprintf("waits for %d NodeClaims to go, %d of them are going", len(claims), going)
	if len(claims) == 1 {
		line = fmt.Sprintf("waits for 1 NodeClaim to go, %s", map[bool]string{true: "it is going", false: "it is not going yet"}[going == 1])
	}
	if going == 0 && DriftBudget(pool, b.w.Now()) == 0 {
		line += "; its disruption budgets allow none now"
		for _, wrong := range Schedules(pool) {
			line += "; " + wrong
		}
	}
	return line
}

// Pause stops the agent's writes, in the cluster (pool "") or to one NodePool and its siblings. Who paused first is kept.
func (w *Writer) Pause(ctx context.Context, pool, by, why string) error {
	words := strings.TrimSuffix(by+": "+why, ": ")
	if pool == "" {
		return w.mutate(ctx, func(st *state) error {
			if pausedBy(st.meta, "it") != "" {
				return errUnchanged
			}
			st.meta[karpenstate.AnnotationPaused], st.meta[karpenstate.AnnotationPausedBy] = "true", words
			return nil
		})
	}
	return w.annotate(ctx, pool, map[string]any{karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: words})
}

// Resume ends a pause, and lets go of fights and cool-downs: somebody has looked.
func (w *Writer) Resume(ctx context.Context, pool string) error {
	if pool != "" {
		if err := w.annotate(ctx, pool, map[string]any{karpenstate.AnnotationPaused: nil, karpenstate.AnnotationPausedBy: nil}); err != nil {
			return err
		}
	}
	return w.mutate(ctx, func(st *state) error {
		j := &st.journal
		before := canonical(j)
		if pool == "" {
			j.Fights, j.Cooldown, j.Failures, j.Reverts = nil, nil, nil, nil
			for _, k := range []string{karpenstate.AnnotationPaused, karpenstate.AnnotationPausedBy} {
				if _, is := st.meta[k]; is {
					delete(st.meta, k)
					st.unset = append(st.unset, k)
				}
			}
		} else {
			delete(j.Cooldown, pool)
			delete(j.Failures, pool)
			prefix := refOf(kindPool, pool) + " "
			maps.DeleteFunc(j.Fights, func(k string, _ Fight) bool { return strings.HasPrefix(k, prefix) })
			maps.DeleteFunc(j.Reverts, func(k string, _ []int64) bool { return strings.HasPrefix(k, prefix) })
		}
		if len(st.unset) == 0 && string(before) == string(canonical(j)) {
			return errUnchanged
		}
		return nil
	})
}

func (w *Writer) annotate(ctx context.Context, pool string, annotations map[string]any) error {
	body := map[string]any{"metadata": map[string]any{"annotations": annotations}}
	if _, err := w.call(ctx, http.MethodPatch, poolsPath+"/"+pool, mergePatch, body, "fieldManager", w.Who.Name()); err != nil {
		return fmt.Errorf("annotating %s: %w", refOf(kindPool, pool), err)
	}
	return nil
}

// recover writes the records of intents that a crash left, by what is in the cluster.
func (w *Writer) recover(ctx context.Context, st *state, s *Settled) error {
	for _, a := range st.journal.Intents {
		if w.Now().Sub(a.At) < w.Limits.IntentTTL {
			continue
		}
		live, err := w.get(ctx, a.Path)
		if apiCode(err) == http.StatusNotFound {
			live = nil
		} else if err != nil {
			return fmt.Errorf("looking at what a crash left: %w", err)
		}
		made, ours := w.wasMade(a, live), false
		if err := w.mutate(ctx, func(st *state) error {
			ours = false
			if !slices.ContainsFunc(st.journal.Intents, func(i Attempt) bool { return i.Record.ID == a.Record.ID }) {
				return errUnchanged // somebody else did
			}
			if !made {
				st.drop(a.Record.ID)
				a.Record.Outcome, a.Record.Explanation = Refused, "it was interrupted before anything was written"
				st.add(a.Record)
				return nil
			}
			a.Record.Explanation = strings.TrimPrefix(a.Record.Explanation+"; it was interrupted after it was written", "; ")
			a.UID = string(uidOf(live))
			a.Generation, _ = integer(live, "metadata", "generation")
			a.Until = w.Now().Add(w.Limits.Window)
			w.written(st, a)
			ours = true
			return nil
		}); err != nil {
			return err
		}
		if ours {
			s.Records, s.Writes = append(s.Records, a.Record), append(s.Writes, Write{At: a.At, Flip: a.Flip})
		}
		w.Log.Warn("a write that was interrupted is recorded", "action", a.Kind, "object", refOf(a.ObjectKind, a.Name), "written", made)
	}
	return nil
}

// wasMade says whether the object is as the write would have made it.
func (w *Writer) wasMade(a Attempt, live map[string]any) bool {
	switch a.Kind {
	case plan.CreateSibling, plan.CreateOverlay:
		return live != nil && w.Owned(live) && !moment(live, "metadata", "creationTimestamp").Before(a.At.Add(-time.Minute))
	case plan.DeleteSibling, plan.DeleteOverlay:
		return live == nil || string(uidOf(live)) != a.UID
	}
	if live == nil || string(uidOf(live)) != a.UID {
		return false
	}
	for _, c := range a.Changes {
		if sum(value(live, c.Path)) != c.AfterSum {
			return false
		}
	}
	return true
}
