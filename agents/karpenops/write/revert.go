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
	// A slip of the finger must not pause anything.
	if err := w.known(ctx, s); err != nil {
		return r, err
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
	back := &reverting{w: w, actor: actor, say: progress, result: &r, held: map[string]string{}}
	back.restore(ctx, s, c, st)
	back.siblings(ctx, s, c, overlays, st)
	if err := ctx.Err(); err != nil {
		what := "it was told to end"
		if errors.Is(err, context.DeadlineExceeded) {
			what = "the time is up"
		}
		return r, fmt.Errorf("reverting: %s%s: run it again, it goes on where it was (%w)", what, back.left(), err)
	}
	if len(r.Problems) > 0 {
		return r, fmt.Errorf("reverting: %s", strings.Join(r.Problems, "; "))
	}
	return r, nil
}

// ErrNoSuchPool is of a Revert of what is not there.
var ErrNoSuchPool = errors.New("there is no such NodePool")

// known refuses names of which there is nothing: no object, no sibling of it, and nothing in the journal.
func (w *Writer) known(ctx context.Context, s Selection) error {
	if s.All {
		return nil
	}
	c, err := w.look(ctx)
	if err != nil {
		return err
	}
	overlays, err := w.list(ctx, overlaysPath)
	if err != nil {
		return fmt.Errorf("listing NodeOverlays: %w", err)
	}
	st, err := w.readState(ctx)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, o := range slices.Concat(slices.Collect(maps.Values(c.pools)), overlays) {
		names[annotation(o, karpenstate.AnnotationBase)] = true
	}
	for name := range c.pools {
		names[name] = true
	}
	for ref := range st.journal.Originals {
		_, name, _ := strings.Cut(ref, "/")
		names[name] = true
	}
	delete(names, "")
	for _, name := range s.Pools {
		if !names[name] {
			return fmt.Errorf("%w: %q; there are %s. Nothing is paused, and nothing is taken back", ErrNoSuchPool, name, or(strings.Join(slices.Sorted(maps.Keys(names)), ", "), "none"))
		}
	}
	return nil
}

// left names what still has nodes, and what keeps them as far as it is known.
func (b *reverting) left() string {
	if len(b.result.Waiting) == 0 {
		return ""
	}
	var names []string
	for _, name := range b.result.Waiting {
		if why := b.held[name]; why != "" {
			name += " (" + why + ")"
		}
		names = append(names, name)
	}
	return " while there still are " + strings.Join(names, ", ")
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
	if err := w.unskew(ctx); err != nil {
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
	held   map[string]string // by sibling: what keeps its nodes
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

// siblings are the NodePools of ours that are selected, the smallest first. Also those that do not say any more that they are ours: they are left alone, and said
// to be.
func (s Selection) siblings(c *cluster, st *state) []map[string]any {
	var pools []map[string]any
	for name, pool := range c.pools {
		base := annotation(pool, karpenstate.AnnotationBase)
		ours := label(pool, karpenstate.LabelOwned) == "true" || base != "" || st.journal.Written[fieldKey(kindPool, name, "")].UID == string(uidOf(pool))
		if ours && (s.All || slices.Contains(s.Pools, name) || slices.Contains(s.Pools, base)) {
			pools = append(pools, pool)
		}
	}
	sort.Slice(pools, func(i, k int) bool {
		a, b := len(c.claims[nameOf(pools[i])]), len(c.claims[nameOf(pools[k])])
		return a < b || a == b && nameOf(pools[i]) < nameOf(pools[k])
	})
	return pools
}

// siblings drains and deletes what is ours. First all of them get the limit 0, so that no pod moves from one to the next; then one after
// the other is emptied, the smallest first.
func (b *reverting) siblings(ctx context.Context, s Selection, c *cluster, overlays []map[string]any, st *state) {
	pools := s.siblings(c, st)
	gone := map[string]bool{}
	for _, pool := range pools {
		gone[nameOf(pool)] = true
	}
	var mine []map[string]any
	for _, pool := range pools {
		if why := b.w.notOwned(pool); why != "" {
			b.result.Released = append(b.result.Released, refOf(kindPool, nameOf(pool)))
			b.say(refOf(kindPool, nameOf(pool)) + ": left alone: " + why + ". " + b.w.wayOut(pool))
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
			if ended(ctx) {
				for _, rest := range mine[i:] {
					b.result.Waiting = append(b.result.Waiting, nameOf(rest))
				}
				return
			}
			b.problem(err)
		}
	}
}

// ended says whether the time is up, or so nearly that a request which would have to wait for its turn fails for that.
func ended(ctx context.Context) bool {
	if deadline, is := ctx.Deadline(); is && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	return ctx.Err() != nil
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
		var line string
		if len(claims) > 0 {
			line = b.nodes(ctx, pool, claims)
		} else if line, err = b.remove(ctx, name, base, pool); err != nil || line == "" {
			return err
		}
		if line = refOf(kindPool, name) + ": " + line; line != last {
			b.say(line)
			last = line
		}
		if err := agent.Sleep(ctx, b.w.Limits.Poll); err != nil { // what held it last is said with what is left
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
func (b *reverting) nodes(ctx context.Context, pool map[string]any, claims []map[string]any) string {
	going := 0
	for _, c := range claims {
		if text(c, "metadata", "deletionTimestamp") != "" {
			going++
		}
	}
	blocked := b.w.blocked(ctx, claims)
	b.held[nameOf(pool)] = blocked
	line := fmt.Sprintf("waits for %s to go, of which %d are on their way out", counted(len(claims), "NodeClaim"), going)
	if len(claims) == 1 {
		line = fmt.Sprintf("waits for 1 NodeClaim to go, which is %s", map[bool]string{true: "on its way out", false: "not on its way out yet"}[going == 1])
	}
	if going == 0 && DriftBudget(pool, b.w.Now()) == 0 {
		line += "; its disruption budgets allow none now"
		for _, wrong := range Schedules(pool) {
			line += "; " + wrong
		}
	}
	if blocked != "" {
		line += "; " + blocked
	}
	return line
}

// blockedFor is how long what Karpenter said about a node counts: while it holds, it says it again every few minutes.
const blockedFor = 10 * time.Minute

// blocked quotes Karpenter on why nodes do not go: pods with a disruption budget of their own above all.
func (w *Writer) blocked(ctx context.Context, claims []map[string]any) string {
	about := map[string]string{} // what is said of, by kind and name
	for _, c := range claims {
		about["NodeClaim/"+nameOf(c)] = nameOf(c)
		if node := text(c, "status", "nodeName"); node != "" {
			about["Node/"+node] = nameOf(c)
		}
	}
	said := map[string]string{} // by NodeClaim
	last := map[string]time.Time{}
	for _, reason := range []string{"DisruptionBlocked", "FailedDraining"} {
		items, err := w.list(ctx, clusterEventsPath, "fieldSelector", "reason="+reason)
		if err != nil {
			return "" // it is told beside; the nodes are what counts
		}
		for _, e := range items {
			claim := about[refOf(text(e, "involvedObject", "kind"), text(e, "involvedObject", "name"))]
			at := lastSeen(e)
			if claim == "" || !fromKarpenter(e) || w.Now().Sub(at) > blockedFor || !at.After(last[claim]) {
				continue
			}
			said[claim], last[claim] = text(e, "message"), at
		}
	}
	const most = 3
	var all []string
	for i, claim := range slices.Sorted(maps.Keys(said)) {
		if i == most {
			all = append(all, fmt.Sprintf("and of %d more", len(said)-most))
			break
		}
		all = append(all, fmt.Sprintf("of %s: %s", claim, said[claim]))
	}
	if len(all) == 0 {
		return ""
	}
	return "Karpenter says " + strings.Join(all, "; ")
}

// wayOut is what a person does about a NodePool of ours that is not ours any more.
func (w *Writer) wayOut(pool map[string]any) string {
	name := nameOf(pool)
	out := fmt.Sprintf(`By hand: kubectl patch nodepool %s --type=merge -p '{"spec":{"limits":{"cpu":"0"}}}', and kubectl delete nodepool %[1]s once it has no nodes`, name)
	if label(pool, karpenstate.LabelOwned) != "true" && w.made(pool) && len(GitOps(pool)) == 0 {
		out = fmt.Sprintf("To have it taken back: kubectl label nodepool %s %s=true, and revert again. ", name, karpenstate.LabelOwned) + out
	}
	return out
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

// Resumed is what a Resume let go of.
type Resumed struct {
	Paused   bool     `json:"paused,omitempty"`   // it was
	Fights   []string `json:"fights,omitempty"`   // "NodePool/default /spec/weight", or an object that is set back as a whole
	Cooldown []string `json:"cooldown,omitempty"` // NodePools that were left alone after a write went ill
	Ill      []string `json:"ill,omitempty"`      // objects whose ill write stands, and does so rightly now
}

// Resume ends a pause, and lets go of fights and cool-downs: somebody has looked. Of a NodePool those of its siblings go with it, and it may be gone itself.
func (w *Writer) Resume(ctx context.Context, pool string) (Resumed, error) {
	var (
		r            Resumed
		about        map[string]bool // the NodePool and its siblings
		paused, gone bool
		err          error
	)
	if pool != "" {
		if about, paused, gone, err = w.unpause(ctx, pool); err != nil {
			return r, err
		}
	}
	err = w.mutate(ctx, func(st *state) error {
		j := &st.journal
		before := canonical(j)
		r = j.letGo(pool, about)
		r.Paused = paused
		if gone && len(r.Fights)+len(r.Cooldown)+len(r.Ill) == 0 {
			return fmt.Errorf("%w: %q, and there is nothing to let go of for one of that name", ErrNoSuchPool, pool)
		}
		if pool == "" {
			r.Paused = pausedBy(st.meta, "it") != ""
			for _, k := range []string{karpenstate.AnnotationPaused, karpenstate.AnnotationPausedBy} {
				if _, is := st.meta[k]; is {
					delete(st.meta, k)
					st.unset = append(st.unset, k)
				}
			}
		}
		if len(st.unset) == 0 && string(before) == string(canonical(j)) {
			return errUnchanged
		}
		return nil
	})
	return r, err
}

// unpause takes the pause of a NodePool away, and says whether there was one, whether the NodePool is gone, and which siblings it has.
func (w *Writer) unpause(ctx context.Context, pool string) (about map[string]bool, paused, gone bool, err error) {
	c, err := w.look(ctx, pool)
	if err != nil {
		return nil, false, false, err
	}
	about = map[string]bool{pool: true}
	for name, o := range c.pools {
		if annotation(o, karpenstate.AnnotationBase) == pool {
			about[name] = true
		}
	}
	live := c.pools[pool]
	if live == nil {
		return about, false, true, nil
	}
	if value(live, pointer("metadata", "annotations", karpenstate.AnnotationPaused)) == nil && annotation(live, karpenstate.AnnotationPausedBy) == "" {
		return about, false, false, nil
	}
	err = w.annotate(ctx, pool, map[string]any{karpenstate.AnnotationPaused: nil, karpenstate.AnnotationPausedBy: nil})
	if apiCode(err) == http.StatusNotFound {
		return about, false, true, nil
	}
	return about, pausedBy(annotationsOf(live), "it") != "", false, err
}

// letGo forgets what holds writes up: of a NodePool and those that are about, or of all (pool "").
func (j *Journal) letGo(pool string, about map[string]bool) Resumed {
	var r Resumed
	of := func(key string) string {
		ref, _, _ := strings.Cut(key, " ")
		_, name, _ := strings.Cut(ref, "/")
		return name
	}
	meant := func(name, base string) bool { return pool == "" || about[name] || base == pool }
	for key, f := range j.Fights {
		if meant(of(key), f.Base) {
			r.Fights = append(r.Fights, strings.TrimSpace(key))
			delete(j.Fights, key)
			delete(j.Reverts, key)
		}
	}
	for ref, i := range j.Ill {
		if meant(of(ref), i.Base) {
			r.Ill = append(r.Ill, ref)
			delete(j.Ill, ref)
		}
	}
	for name := range j.Cooldown {
		if meant(name, "") {
			r.Cooldown = append(r.Cooldown, name)
			delete(j.Cooldown, name)
		}
	}
	maps.DeleteFunc(j.Failures, func(name string, _ int) bool { return meant(name, "") })
	maps.DeleteFunc(j.Reverts, func(key string, _ []int64) bool { return meant(of(key), "") })
	slices.Sort(r.Fights)
	slices.Sort(r.Ill)
	slices.Sort(r.Cooldown)
	return r
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
		// One of a time that is yet to come was left by a process with a clock that was ahead, and that ended with it: of the clocks of two that run none is off by so much.
		if age := w.Now().Sub(a.At); age < w.Limits.IntentTTL && age > -w.Limits.IntentTTL {
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
			if a.At.After(w.Now()) {
				a.At = w.Now()
			}
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
		return live != nil && w.Owned(live) && (a.At.After(w.Now()) || !moment(live, "metadata", "creationTimestamp").Before(a.At.Add(-time.Minute)))
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
