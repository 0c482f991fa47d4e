package write

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// CodeFight is the code of findings about fields that somebody else sets back.
const CodeFight = "gitops-conflict"

// Settled is what one look came to.
type Settled struct {
	Records  []nopsapi.KarpenterRecord  // new ones, and those whose outcome is known now
	Writes   []Write                    // that were made by it, to undo, or found made; they are among the records
	Findings []nopsapi.KarpenterFinding // of fields that are fought over, as long as they are
	Watching int                        // writes that have to prove themselves yet
	Until    time.Time                  // when the last of them will have; zero: there is none
}

// Write is a write that whoever asked for it does not know of: the process ended or the answer was lost before its record was made, or it takes back one that
// went ill.
type Write struct {
	At   time.Time
	Flip string // of the action
}

// Settle holds what was written against what became of it: once. Call it in a loop, every few seconds while something is watched. All that it
// goes by is in the ConfigMap, so it is the same after a restart.
func (w *Writer) Settle(ctx context.Context) (Settled, error) {
	var s Settled
	st, err := w.readState(ctx)
	if err != nil {
		return s, err
	}
	if len(st.journal.Intents) > 0 {
		if err := w.recover(ctx, st, &s); err != nil {
			return s, err
		}
		if st, err = w.readState(ctx); err != nil {
			return s, err
		}
	}
	if err := w.compare(ctx, st, &s); err != nil {
		return s, err
	}
	if len(st.journal.Watches) > 0 {
		if err := w.judge(ctx, st, &s); err != nil {
			return s, err
		}
		if st, err = w.readState(ctx); err != nil {
			return s, err
		}
	}
	for _, a := range st.journal.Watches {
		s.Watching++
		if a.Until.After(s.Until) {
			s.Until = a.Until
		}
	}
	s.Findings = w.fights(st)
	return s, nil
}

// compare finds fields that do not have our value any more. The field is let go: whoever changed it wins. Twice within an hour, it is a fight.
func (w *Writer) compare(ctx context.Context, st *state, s *Settled) error {
	byObject := map[string][]string{}
	lists := map[string]string{} // kind → path
	for key := range st.journal.Written {
		ref, path, _ := strings.Cut(key, " ")
		byObject[ref] = append(byObject[ref], path)
		switch kind, _, _ := strings.Cut(ref, "/"); kind {
		case kindPool:
			lists[kind] = poolsPath
		case kindOverlay:
			lists[kind] = overlaysPath
		}
	}
	found := map[string]map[string]any{}
	for kind, path := range lists {
		items, err := w.list(ctx, path)
		if err != nil {
			return fmt.Errorf("comparing with what was written: %w", err)
		}
		for _, o := range items {
			found[refOf(kind, nameOf(o))] = o
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(byObject)) {
		kind, _, _ := strings.Cut(ref, "/")
		if lists[kind] == "" {
			continue // a node class, which its watch sees; nobody fights over it
		}
		live := found[ref]
		sort.Strings(byObject[ref])
		for _, path := range byObject[ref] {
			written := st.journal.Written[ref+" "+path]
			if w.stands(live, path, written) {
				continue
			}
			if err := w.letGo(ctx, ref, path, live, written, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) stands(live map[string]any, path string, written Written) bool {
	if live == nil || string(uidOf(live)) != written.UID {
		return false
	}
	if path == "" {
		return text(live, "metadata", "deletionTimestamp") == ""
	}
	return sum(value(live, path)) == written.Sum
}

func (w *Writer) letGo(ctx context.Context, ref, path string, live map[string]any, written Written, s *Settled) error {
	kind, name, _ := strings.Cut(ref, "/")
	by, what := "somebody", "changed it"
	switch {
	case live == nil || string(uidOf(live)) != written.UID:
		what, live = "deleted it", nil
		if path != "" {
			by = "" // said once, for the object
		}
	case path == "":
		what = "deletes it"
	default:
		by = w.hand(live, path)
		if sum(value(live, path)) == written.Before {
			what = "set it back"
		}
	}
	now := w.Now()
	record := nopsapi.KarpenterRecord{
		ID: recordID("release-"+sum(ref+path), now), At: now.UTC(), Actor: by, Action: actionRelease, Object: ref, Reason: fmt.Sprintf("%s %s", by, what), Outcome: Released,
		Explanation: "it was written by " + written.ID, After: map[string]any{path: small(value(live, path))},
	}
	fight := false
	if err := w.mutate(ctx, func(st *state) error {
		j := &st.journal
		key := ref + " " + path
		if now, is := j.Written[key]; !is || now.ID != written.ID {
			return errUnchanged // written anew meanwhile
		}
		delete(j.Written, key)
		if by == "" {
			return nil
		}
		st.add(record)
		if j.Reverts == nil {
			j.Reverts = map[string][]int64{}
		}
		j.prune(now)
		j.Reverts[key] = append(j.Reverts[key], now.Unix())
		if len(j.Reverts[key]) < 2 {
			return nil
		}
		fight = true
		if j.Fights == nil {
			j.Fights = map[string]Fight{}
		}
		j.Fights[key] = Fight{Since: now, Manager: by, Want: written.Value}
		st.add(nopsapi.KarpenterRecord{
			ID: recordID("fight-"+sum(ref+path), now), At: now.UTC(), Actor: "agent", Action: actionFight, Object: ref, Outcome: Released,
			Reason: fmt.Sprintf("%s %s twice within an hour: it is left alone", by, what),
		})
		return nil
	}); err != nil {
		return err
	}
	if by == "" {
		return nil
	}
	s.Records = append(s.Records, record)
	w.Observe(actionRelease, Released, "")
	w.Log.Info("a field is let go", "object", ref, "path", path, "by", by, "what", what)
	if fight {
		w.Observe(actionFight, Released, Fighting)
		if live == nil {
			live = map[string]any{"apiVersion": "karpenter.sh/v1", "kind": kind, "metadata": map[string]any{"name": name}}
		}
		w.event(ctx, live, true, "GitOpsConflict", fmt.Sprintf("%s %s twice within an hour (%s): karpenops leaves it alone. %s", by, what, path, suggestion(path, written.Value)))
	}
	return nil
}

// hand names who has a field, the latest first.
func (w *Writer) hand(live map[string]any, path string) string {
	var name string
	var last time.Time
	for _, entry := range (&unstructured.Unstructured{Object: live}).GetManagedFields() {
		if entry.Subresource != "" || w.ours(entry.Manager) || entry.FieldsV1 == nil {
			continue
		}
		if _, is := ownedAt(live, fieldsOf(entry), path); !is {
			continue
		}
		if name == "" || entry.Time != nil && entry.Time.After(last) {
			name = entry.Manager
		}
		if entry.Time != nil {
			last = entry.Time.Time
		}
	}
	if name == "" {
		return "somebody" // who took the field away leaves no trace
	}
	return name
}

// suggestion is what to write into the repository instead, as YAML.
func suggestion(path string, want json.RawMessage) string {
	if len(want) == 0 || path == "" {
		return "Take the object out of what the tool manages, or pause karpenops for this NodePool."
	}
	v, err := decode(want)
	if err != nil {
		return ""
	}
	text, err := yaml.Marshal(with(map[string]any{}, []plan.Change{{Path: path, After: v}}))
	if err != nil {
		return ""
	}
	return "To have it, write into the source of the object:\n" + string(text)
}

// fights are findings of what is fought over.
func (w *Writer) fights(st *state) []nopsapi.KarpenterFinding {
	var findings []nopsapi.KarpenterFinding
	for _, key := range slices.Sorted(maps.Keys(st.journal.Fights)) {
		f := st.journal.Fights[key]
		ref, path, _ := strings.Cut(key, " ")
		finding := nopsapi.KarpenterFinding{
			ID: CodeFight + "-" + sum(key), Code: CodeFight, Object: ref,
			Message: strings.TrimSpace(fmt.Sprintf("%s sets %s back whenever karpenops sets it, and has it. %s", f.Manager, strings.TrimSpace(path+" of "+ref), suggestion(path, f.Want))),
		}
		if v, err := decode(f.Want); err == nil && v != nil && path != "" {
			finding.Patch = string(canonical(with(map[string]any{}, []plan.Change{{Path: path, After: v}})))
		}
		findings = append(findings, finding)
	}
	return findings
}

// verdict is how a write stands.
type verdict struct {
	ill    string   // why it has to be undone
	note   string   // what else is to be said
	actual []string // NodeClaims that drifted since
	over   bool     // the window is
}

func (w *Writer) judge(ctx context.Context, st *state, s *Settled) error {
	var pools []string
	for _, a := range st.journal.Watches {
		if a.ObjectKind != kindPool && a.ObjectKind != kindOverlay {
			pools = nil // a node class, which any of them may use
			break
		}
		pools = append(pools, a.Pool)
	}
	c, err := w.look(ctx, pools...)
	if err != nil {
		return err
	}
	events, err := w.complaints(ctx)
	if err != nil {
		return err
	}
	var problems []error // of one write are nothing that another has to wait for
	for _, a := range st.journal.Watches {
		live, err := w.get(ctx, a.Path)
		if apiCode(err) == http.StatusNotFound {
			live, err = nil, nil
		}
		if err == nil {
			switch v := w.verdictOf(a, live, c, events); {
			case v.ill != "":
				err = w.undo(ctx, a, live, v, s)
			case v.over:
				err = w.settled(ctx, a, v, s)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("judging %s of %s: %w", a.Kind, refOf(a.ObjectKind, a.Name), err))
		}
	}
	return errors.Join(problems...)
}

// settled ends a watch that went well.
func (w *Writer) settled(ctx context.Context, a Attempt, v verdict, s *Settled) error {
	a.Record.Actual = len(v.actual)
	a.Record.Explanation = joined(a.Record.Explanation, v.note)
	s.Records = append(s.Records, a.Record)
	return w.mutate(ctx, func(st *state) error {
		st.unwatch(a.Record.ID)
		st.add(a.Record)
		delete(st.journal.Failures, a.Pool)
		return nil
	})
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

func (st *state) unwatch(id string) {
	kept := st.journal.Watches[:0:0]
	for _, a := range st.journal.Watches {
		if a.Record.ID != id {
			kept = append(kept, a)
		}
	}
	st.journal.Watches = kept
}

// undo takes back a write that went ill, and has its pool left alone for a while.
func (w *Writer) undo(ctx context.Context, a Attempt, live map[string]any, v verdict, s *Settled) error {
	j, err := w.undoJob(a, live, v)
	if err != nil {
		return err
	}
	var record nopsapi.KarpenterRecord
	if j != nil {
		record, err = w.run(ctx, j)
		var r *Refusal
		switch {
		case errors.As(err, &r) && (r.Code == Paused || r.Code == Conflict || r.Code == RateLimited):
			// It has to wait; that is said once.
			if a.Told == r.Why {
				return nil
			}
			if live != nil {
				w.event(ctx, live, true, "KarpenopsUndoWaits", fmt.Sprintf("%s went ill (%s) and is not undone: %s", a.Kind, v.ill, r.Why))
			}
			return w.mutate(ctx, func(st *state) error {
				for i := range st.journal.Watches {
					if st.journal.Watches[i].Record.ID == a.Record.ID {
						st.journal.Watches[i].Told = r.Why
					}
				}
				return nil
			})
		case errors.As(err, &r):
			record.Explanation = "it could not be undone: " + r.Error()
		case err != nil:
			return err
		}
		s.Records = append(s.Records, record)
		if Made(record) {
			s.Writes = append(s.Writes, Write{At: record.At})
		}
	}
	a.Record.Actual, a.Record.Outcome = len(v.actual), Undone
	if j != nil && record.Outcome != Undone {
		a.Record.Outcome = Released
	}
	a.Record.Explanation = joined(a.Record.Explanation, v.ill, record.Explanation)
	s.Records = append(s.Records, a.Record)
	if err := w.mutate(ctx, func(st *state) error {
		st.unwatch(a.Record.ID)
		st.add(a.Record)
		journal := &st.journal
		if journal.Cooldown == nil {
			journal.Cooldown = map[string]int64{}
		}
		if journal.Failures == nil {
			journal.Failures = map[string]int{}
		}
		pause := min(w.Limits.Cooldown<<min(journal.Failures[a.Pool], 10), 24*time.Hour)
		journal.Failures[a.Pool]++
		for _, pool := range []string{a.Pool, a.Base} {
			if pool != "" {
				journal.Cooldown[pool] = w.Now().Add(pause).Unix()
			}
		}
		return nil
	}); err != nil {
		return err
	}
	w.Observe(actionUndo, a.Record.Outcome, "")
	w.Log.Warn("a write went ill and was undone", "action", a.Kind, "object", refOf(a.ObjectKind, a.Name), "why", v.ill, "record", a.Record.ID)
	if live != nil {
		w.event(ctx, live, true, "KarpenopsUndone", fmt.Sprintf("%s: %s (%s)", a.Kind, v.ill, a.Record.ID))
	}
	return nil
}

// undoJob is what takes an attempt back; nil: nothing can.
func (w *Writer) undoJob(a Attempt, live map[string]any, v verdict) (*job, error) {
	if live == nil {
		return nil, nil
	}
	now := w.Now()
	j := &job{kind: actionUndo, object: a.ObjectKind, name: a.Name, base: a.Base, path: a.Path, undo: true}
	switch a.Kind {
	case plan.CreateSibling:
		j.kind = plan.DrainSibling
		j.changes = []plan.Change{{Path: pathCPU, Before: value(live, pathCPU), After: "0"}}
	case plan.CreateOverlay:
		j.kind = plan.DeleteOverlay
	default:
		for _, c := range a.Changes {
			if strings.HasPrefix(c.Path, "/metadata/") {
				continue
			}
			before, err := decode(c.Before)
			if err != nil {
				return nil, err
			}
			if before == nil && c.BeforeSum != sum(nil) { // too large for the journal; the annotation has it, or what was before it
				originals, err := originalsOf(live)
				if err != nil {
					return nil, err
				}
				if before, err = decode(originals[c.Path].Value); err != nil {
					return nil, err
				}
			}
			// Before is the digest of our value here: see undoing.
			j.changes = append(j.changes, plan.Change{Path: c.Path, Before: c.AfterSum, After: before})
		}
	}
	j.record = nopsapi.KarpenterRecord{
		ID: recordID("undo-"+a.Record.ID, now), At: now.UTC(), Actor: "agent", Action: actionUndo, Object: a.Record.Object, Reason: v.ill, Before: a.Record.After, After: a.Record.Before,
		MarketSeq: a.Record.MarketSeq, CommitSeq: a.Record.CommitSeq,
	}
	return j, nil
}

// Conditions that Karpenter sets on a NodeClaim that has drifted from its NodePool, as opposed to its node class.
func driftedFromPool(reason string) bool {
	return reason == "RequirementsDrifted" || reason == "NodePoolDrifted"
}

// verdictOf is the judgement, from what there is to see.
func (w *Writer) verdictOf(a Attempt, live map[string]any, c *cluster, events []complaint) verdict {
	now := w.Now()
	v := verdict{over: !now.Before(a.Until)}
	if live == nil || a.UID != "" && string(uidOf(live)) != a.UID {
		v.over, v.note = true, "somebody deleted it"
		return v
	}
	for _, ch := range a.Changes { // whose value is gone already has nothing to prove
		if sum(value(live, ch.Path)) != ch.AfterSum && !strings.HasPrefix(ch.Path, "/metadata/") {
			v.over, v.note = true, "it was changed since"
			return v
		}
	}
	if a.Record.Explanation != "" && !a.Until.After(a.At) {
		v.ill = a.Record.Explanation
		return v
	}
	v.actual, v.ill = w.drift(a, c)
	if v.ill == "" {
		v.ill = conditions(a, live, now, w.Limits.LaunchGrace)
	}
	if v.ill == "" && a.ObjectKind != kindOverlay {
		v.ill = complained(a, events, c)
	}
	if v.ill == "" && a.ObjectKind == kindPool {
		v.ill = w.launches(a, c)
	}
	if v.ill == "" && v.over && a.Generation > 0 && a.ObjectKind == kindPool {
		if seen, _ := integer(conditionOf(live, "Ready"), "observedGeneration"); seen < a.Generation {
			v.note = "Karpenter has not looked at it since"
			if a.Kind == plan.Narrow {
				v.ill = v.note
			}
		}
	}
	return v
}

// drift compares the NodeClaims that drifted since the write with those that were predicted to.
func (w *Writer) drift(a Attempt, c *cluster) (actual []string, ill string) {
	var surprising []string
	pools := []string{a.Pool}
	if a.ObjectKind != kindPool && a.ObjectKind != kindOverlay { // a node class: of all pools that use it
		pools = slices.Sorted(maps.Keys(c.pools))
	}
	for _, pool := range pools {
		for _, claim := range c.claims[pool] {
			cond := conditionOf(claim, "Drifted")
			if text(cond, "status") != "True" || slices.Contains(a.Before, nameOf(claim)) {
				continue
			}
			if a.ObjectKind == kindPool && !driftedFromPool(text(cond, "reason")) {
				continue // an image, a subnet: not ours
			}
			actual = append(actual, nameOf(claim))
			if !slices.Contains(a.Predicted, nameOf(claim)) && a.Record.Action != actionApprove {
				surprising = append(surprising, nameOf(claim))
			}
		}
	}
	if len(surprising) > 0 && a.Kind != plan.DrainSibling {
		return actual, fmt.Sprintf("%d nodes drifted that were not predicted to: %s", len(surprising), strings.Join(first(surprising, 5), ", "))
	}
	return actual, ""
}

// conditions are what Karpenter says of the object itself.
func conditions(a Attempt, live map[string]any, now time.Time, grace time.Duration) string {
	for _, kind := range []string{"ValidationSucceeded", "Ready"} {
		cond := conditionOf(live, kind)
		if text(cond, "status") != "False" {
			continue
		}
		if seen, is := integer(cond, "observedGeneration"); is && seen < a.Generation {
			continue
		}
		// What was never ready is given a while: its node class may be new, too.
		if kind == "Ready" && !a.Ready && now.Before(a.At.Add(grace)) {
			continue
		}
		if kind == "Ready" && !a.Ready && a.Kind != plan.CreateSibling && a.Kind != plan.CreateOverlay {
			continue // it was not before
		}
		return fmt.Sprintf("%s is False: %s %s", kind, text(cond, "reason"), text(cond, "message"))
	}
	return ""
}

// complaint is an event of Karpenter's.
type complaint struct {
	reason, kind, name, message string
	first, at                   time.Time
}

// complaints are what Karpenter says about NodePools, pods and NodeClaims that bears on a write.
func (w *Writer) complaints(ctx context.Context) ([]complaint, error) {
	var all []complaint
	for _, reason := range []string{"NoCompatibleInstanceTypes", "FailedScheduling", "InsufficientCapacityError"} {
		items, err := w.list(ctx, eventsPath, "fieldSelector", "reason="+reason)
		if err != nil {
			return nil, fmt.Errorf("listing events: %w", err)
		}
		for _, e := range items {
			c := complaint{first: moment(e, "firstTimestamp"), reason: reason, kind: text(e, "involvedObject", "kind"), name: text(e, "involvedObject", "name"), message: text(e, "message")}
			for _, t := range []time.Time{moment(e, "lastTimestamp"), moment(e, "series", "lastObservedTime"), moment(e, "eventTime"), moment(e, "firstTimestamp")} {
				if t.After(c.at) {
					c.at = t
				}
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// filtered is how Karpenter says that a NodePool's requirements leave nothing.
const filtered = "filtered out all"

// complained finds events that blame the NodePool since the write.
func complained(a Attempt, events []complaint, c *cluster) string {
	insufficient := 0
	for _, e := range events {
		if !e.at.After(a.At) {
			continue
		}
		switch e.reason {
		case "NoCompatibleInstanceTypes":
			if e.kind == kindPool && e.name == a.Pool {
				return "Karpenter can launch nothing for it: " + e.message
			}
		case "FailedScheduling":
			// A sibling takes nothing away. After a NodePool was narrowed, pods that failed before are nobody's fault.
			if (a.Kind == plan.Narrow || a.Kind == actionApprove) && e.kind == "Pod" && e.first.After(a.At) && blames(e.message, a.Pool, a.keys()) {
				return fmt.Sprintf("pod %s cannot be scheduled: %s", e.name, e.message)
			}
		case "InsufficientCapacityError":
			if e.kind == "NodeClaim" && claimOf(e.name, a.Pool, c) {
				insufficient++
			}
		}
	}
	const enough = 3
	if insufficient < enough || a.Kind == plan.DrainSibling {
		return ""
	}
	for _, claim := range c.claims[a.Pool] {
		if text(conditionOf(claim, "Launched"), "status") == "True" && moment(claim, "metadata", "creationTimestamp").After(a.At) {
			return ""
		}
	}
	return fmt.Sprintf("there is no capacity: %d launches failed and none succeeded", insufficient)
}

// blames finds, in what Karpenter says about a pod, that a NodePool's requirements are why. Karpenter goes through the NodePools one after the other
// and seldom names them: by their label among the requirements that no instance type met, or not at all where a label of the pod's and one of
// the NodePool's exclude each other. Taints and limits are other reasons.
func blames(message, pool string, keys []string) bool {
	if strings.Contains(message, filtered) {
		return true
	}
	for part := range strings.SplitSeq(message, "; ") {
		if strings.Contains(part, "no instance type") && strings.Contains(part, labelPool+" In ["+pool+"]") {
			return true
		}
		for _, key := range keys {
			if strings.Contains(part, "key "+key+", ") {
				return true
			}
		}
	}
	return false
}

// keys are the labels that an attempt's requirements are about, as far as they are in the journal.
func (a Attempt) keys() []string {
	var keys []string
	for _, c := range a.Changes {
		for _, raw := range []json.RawMessage{c.Before, c.After} {
			v, err := decode(raw)
			all, _ := v.([]any)
			for _, r := range all {
				if key := text(mapOf(r), "key"); err == nil && key != "" {
					keys = append(keys, key)
				}
			}
		}
	}
	return keys
}

// claimOf says whether a NodeClaim, which may be gone, was of a pool: its name is the pool's and five letters.
func claimOf(name, pool string, c *cluster) bool {
	rest, is := strings.CutPrefix(name, pool+"-")
	if !is || strings.Contains(rest, "-") {
		return false
	}
	_, other := c.pools[name]
	return !other
}

// launches finds NodeClaims that Karpenter could not launch since the write.
func (w *Writer) launches(a Attempt, c *cluster) string {
	if a.Kind == plan.DrainSibling {
		return ""
	}
	for _, claim := range c.claims[a.Pool] {
		made := moment(claim, "metadata", "creationTimestamp")
		if !made.After(a.At) || w.Now().Sub(made) < w.Limits.LaunchGrace {
			continue
		}
		cond := conditionOf(claim, "Launched")
		if reason := text(cond, "reason"); cond != nil && text(cond, "status") != "True" && reason != "AwaitingReconciliation" {
			return fmt.Sprintf("NodeClaim %s is not launched: %s %s", nameOf(claim), reason, text(cond, "message"))
		}
	}
	return ""
}
