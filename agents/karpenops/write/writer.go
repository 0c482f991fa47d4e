package write

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Deps are what a Writer works with.
type Deps struct {
	Kube  rest.Interface // of NewClient
	Who   agent.Identity // its namespace holds the ConfigMap, its name is the field manager
	Owner *agent.Owner   // of the ConfigMap; nil: none
	Now   func() time.Time
	Log   *slog.Logger
	// Observe is told of every write that was made, refused or undone, for metrics. nil: silence.
	Observe func(action, outcome string, code Code)
	// Effective says how many offerings a NodePool can launch, and whether that is known. nil: it never is, and what changes requirements or makes
	// a NodePool is refused: the API server accepts NodePools that can launch nothing.
	Effective func(pool map[string]any) (offerings int, known bool)
	// Predict says which of a NodePool's NodeClaims would drift if it were as given. nil: the plan's word is taken for it.
	Predict func(pool map[string]any, claims []map[string]any) []string
	Limits  Limits
}

// Limits bound what a Writer does; the zero value of each means the default named.
type Limits struct {
	Mode          karpenstate.Mode // siblings
	DriftCap      int              // 0 nodes may drift by one write to a user's pool
	WritesPerHour int              // 10 in the cluster
	PoolEvery     time.Duration    // 30 m between two writes to one of the user's pools
	SiblingEvery  time.Duration    // 0: between two to one of our own
	Window        time.Duration    // 5 m in which a write has to prove itself
	Cooldown      time.Duration    // 1 h after an undo, doubled each time in a row up to a day
	DrainGrace    time.Duration    // 30 s between the end of a sibling's capacity and its deletion
	LaunchGrace   time.Duration    // 2 m for a NodeClaim to be launched
	Poll          time.Duration    // 3 s between two looks while waiting
	IntentTTL     time.Duration    // 1 m: an intent that is older has been left by a crash
}

func (l Limits) withDefaults() Limits {
	if l.Mode == "" {
		l.Mode = karpenstate.ModeSiblings
	}
	if l.WritesPerHour == 0 {
		l.WritesPerHour = 10
	}
	for d, v := range map[*time.Duration]time.Duration{
		&l.PoolEvery: 30 * time.Minute, &l.Window: 5 * time.Minute, &l.Cooldown: time.Hour, &l.DrainGrace: 30 * time.Second,
		&l.LaunchGrace: 2 * time.Minute, &l.Poll: 3 * time.Second, &l.IntentTTL: time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
	}
	return l
}

// Writer writes to NodePools and NodeOverlays. It is safe for use by several goroutines and beside other processes.
type Writer struct{ Deps }

// New makes a writer.
func New(d Deps) *Writer {
	d.Limits = d.Limits.withDefaults()
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Observe == nil {
		d.Observe = func(string, string, Code) {}
	}
	return &Writer{d}
}

// Meta is what a decision rests on.
type Meta struct {
	MarketSeq, CommitSeq uint64
	Actor                string // "agent", or who approved or reverted
}

// Outcomes of records.
const (
	Applied  = "applied"
	Refused  = "refused"
	Undone   = "undone"
	Released = "released"
)

// Actions of records beside the kinds of package plan.
const (
	actionUndo    = "undo"
	actionRelease = "release"
	actionFight   = "fight"
	actionApprove = "approve"
)

// requestTime bounds what one write may take from its intent on. It is well below Limits.IntentTTL, so that a write whose intent somebody
// else takes for a crash's cannot still be on its way.
const requestTime = 20 * time.Second

// Apply carries out one action. What it returns with a Refusal has the outcome "refused"; such a refusal is in the ledger unless it is about the
// moment. An action that is done already is applied, without a write.
func (w *Writer) Apply(ctx context.Context, a plan.Action, why Meta) (nopsapi.KarpenterRecord, error) {
	job, err := w.jobOf(a, why)
	if err != nil {
		return job.record, err
	}
	return w.run(ctx, job)
}

// run makes the attempts of a job, and the record of a refusal.
func (w *Writer) run(ctx context.Context, j *job) (nopsapi.KarpenterRecord, error) {
	const tries = 4
	var err error
	for try := range tries {
		if err = w.attempt(ctx, j); CodeOf(err) != Conflict {
			break
		}
		// Karpenter writes the status of NodePools all the time; whoever else wrote, everything is looked at afresh.
		if sleep := agent.Sleep(ctx, time.Duration(try+1)*50*time.Millisecond); sleep != nil {
			return j.record, fmt.Errorf("%s: %w", j.ref(), sleep)
		}
	}
	var r *Refusal
	switch {
	case errors.As(err, &r):
		j.record.Outcome, j.record.Explanation = Refused, fmt.Sprintf("%s: %s", r.Code, r.Why)
		if j.patient && r.waits() {
			break
		}
		w.Observe(j.record.Action, Refused, r.Code)
		w.Log.Info("a write was refused", "action", j.record.Action, "object", j.ref(), "code", r.Code, "why", r.Why)
		if !r.Transient() {
			if keeping := w.keepRefusal(ctx, j.record); keeping != nil {
				w.Log.Warn("a refusal could not be recorded", "object", j.ref(), "error", keeping)
			}
		}
	case err != nil:
		w.Observe(j.record.Action, "failed", "")
	default:
		w.Observe(j.record.Action, j.record.Outcome, "")
		w.Log.Info("written", "action", j.record.Action, "object", j.ref(), "record", j.record.ID, "reason", j.record.Reason)
	}
	return j.record, err
}

// keepRefusal writes a refusal down unless the ledger says so already.
func (w *Writer) keepRefusal(ctx context.Context, r nopsapi.KarpenterRecord) error {
	return w.mutate(ctx, func(st *state) error {
		for i := len(st.ledger.Entries) - 1; i >= 0; i-- {
			if e := st.ledger.Entries[i]; e.Object == r.Object && e.Action == r.Action {
				if e.Outcome == r.Outcome && e.Explanation == r.Explanation {
					return errUnchanged
				}
				break
			}
		}
		if !st.add(r) {
			return errUnchanged
		}
		return nil
	})
}

// A job is one write on its way.
type job struct {
	kind    plan.ActionKind
	record  nopsapi.KarpenterRecord
	object  string // kind
	name    string
	base    string // the user's pool it is about
	path    string // of the API
	create  map[string]any
	changes []plan.Change  // with what an attempt adds
	planned []plan.Change  // without
	drift   []string       // NodeClaims that are predicted to drift
	allowed []string       // and those that may, beside them
	patch   map[string]any // of an approval
	// fenceOnly is of a drain that only ends launches: the nodes' turn comes later.
	fenceOnly bool
	flip      string   // of the action: it counts against a bound of the planner's
	approved  bool     // a person wants this very change
	undo      bool     // of our own write, as opposed to a plan: an overlay that does harm goes alone
	override  bool     // a person takes back: pauses and freezes are for the agent
	patient   bool     // it is tried again and again, and whoever does says what it waits for
	released  []string // paths that were not taken back, since somebody else changed them
	// still says why the object is not what the decision was made for, "" if it is. nil: the changes' Before does.
	still func(live map[string]any) string
}

func (j *job) ref() string { return refOf(j.object, j.name) }

// pool is the name of the NodePool that a job is about, in limits and cool-downs.
func (j *job) pool() string {
	if j.object == kindOverlay {
		return j.base
	}
	return j.name
}

func (w *Writer) jobOf(a plan.Action, why Meta) (*job, error) {
	j := &job{kind: a.Kind, object: a.ObjectKind, name: a.Name, base: a.Base, drift: a.Drift, flip: a.Flip}
	if why.Actor == "" {
		why.Actor = "agent"
	}
	now := w.Now()
	j.record = nopsapi.KarpenterRecord{
		ID: recordID(a.ID, now), At: now.UTC(), Actor: why.Actor, Action: string(a.Kind), Object: j.ref(), Reason: a.Reason,
		MarketSeq: why.MarketSeq, CommitSeq: why.CommitSeq, Predicted: len(a.Drift),
	}
	fail := func(r *Refusal) (*job, error) {
		j.record.Outcome, j.record.Explanation = Refused, fmt.Sprintf("%s: %s", r.Code, r.Why)
		w.Observe(j.record.Action, Refused, r.Code)
		return j, r
	}
	if a.Waiting != "" {
		return fail(refuse(Paused, j.ref(), "", "the action waits: %s", a.Waiting))
	}
	switch a.ObjectKind {
	case kindPool:
		j.path = poolsPath + "/" + a.Name
	case kindOverlay:
		j.path = overlaysPath + "/" + a.Name
	default:
		return fail(refuse(Invariant, j.ref(), "", "objects of this kind are never written by a plan"))
	}
	if a.Name == "" || strings.ContainsAny(a.Name, "/?#%") {
		return fail(refuse(Invariant, j.ref(), "", "%q names no object", a.Name))
	}
	if a.Object != nil {
		v, err := plain(a.Object)
		if err != nil {
			return fail(refuse(Invariant, j.ref(), "", "the object cannot be encoded: %v", err))
		}
		j.create = mapOf(v)
		j.record.After = small(j.create["spec"])
	}
	for _, c := range a.Changes {
		var err error
		if c.Before, err = plain(c.Before); err == nil {
			c.After, err = plain(c.After)
		}
		if err != nil {
			return fail(refuse(Invariant, j.ref(), c.Path, "the change cannot be encoded: %v", err))
		}
		j.changes = append(j.changes, c)
	}
	if len(j.changes) > 0 {
		before, after := map[string]any{}, map[string]any{}
		for _, c := range j.changes {
			before[c.Path], after[c.Path] = small(c.Before), small(c.After)
		}
		j.record.Before, j.record.After = before, after
	}
	return j, nil
}

// recordID is of a decision and the moment: the same action may be taken again.
func recordID(action string, now time.Time) string {
	return action + "." + strconv.FormatInt(now.UnixNano(), 36)
}

const alreadySo = "it was so already"

// Made says whether a record is of a write that was made, as opposed to a refusal, and to what was so already.
func Made(r nopsapi.KarpenterRecord) bool {
	return r.Outcome != Refused && r.Explanation != alreadySo
}

// Decided says whether a record is of an action or of an approved finding with this ID.
func Decided(r nopsapi.KarpenterRecord, id string) bool {
	decision := r.ID[:max(0, strings.LastIndex(r.ID, "."))]
	return decision == id || decision == "approve-"+id
}

// attempt looks at everything afresh, and writes.
func (w *Writer) attempt(ctx context.Context, j *job) error {
	live, err := w.get(ctx, j.path)
	switch {
	case apiCode(err) == http.StatusNotFound:
		live = nil
	case err != nil:
		return fmt.Errorf("reading %s: %w", j.ref(), err)
	}
	cluster, err := w.look(ctx, j.lookedAt()...)
	if err != nil {
		return err
	}
	done, err := w.check(ctx, j, live, cluster)
	if err != nil {
		return err
	}
	if done {
		j.record.Outcome = Applied
		if j.record.Explanation == "" {
			j.record.Explanation = alreadySo
		}
		return nil
	}
	if err := w.dryRun(ctx, j, live); err != nil {
		return err
	}
	return w.commit(ctx, j, live, cluster)
}

// lookedAt are the NodePools whose NodeClaims matter for a job; none: all.
func (j *job) lookedAt() []string {
	if pool := j.pool(); pool != "" && (j.object == kindPool || j.object == kindOverlay) {
		return []string{pool}
	}
	return nil
}

// look is what the checks need to know of the cluster: all NodePools, and the NodeClaims of those that are named, or all.
func (w *Writer) look(ctx context.Context, of ...string) (*cluster, error) {
	pools, err := w.list(ctx, poolsPath)
	if err != nil {
		return nil, fmt.Errorf("listing NodePools: %w", err)
	}
	var query []string
	if len(of) > 0 {
		query = []string{"labelSelector", labelPool + " in (" + strings.Join(of, ",") + ")"}
	}
	claims, err := w.list(ctx, claimsPath, query...)
	if err != nil {
		return nil, fmt.Errorf("listing NodeClaims: %w", err)
	}
	c := &cluster{pools: map[string]map[string]any{}, claims: map[string][]map[string]any{}}
	for _, p := range pools {
		c.pools[nameOf(p)] = p
	}
	for _, n := range claims {
		pool := label(n, labelPool)
		c.claims[pool] = append(c.claims[pool], n)
	}
	return c, nil
}

// labelPool is on every NodeClaim and Node of a NodePool.
const labelPool = "karpenter.sh/nodepool"

// cluster is what the checks look at beside the object.
type cluster struct {
	pools  map[string]map[string]any
	claims map[string][]map[string]any // by pool
}

// request is how a job is written, dry or not.
func (w *Writer) request(ctx context.Context, j *job, live map[string]any, dry bool) (map[string]any, error) {
	query := []string{"fieldManager", w.Who.Name(), "fieldValidation", "Strict"}
	if dry {
		query = append(query, "dryRun", "All")
	}
	switch j.kind {
	case plan.CreateSibling, plan.CreateOverlay:
		return w.call(ctx, http.MethodPost, strings.TrimSuffix(j.path, "/"+j.name), plainJSON, j.create, query...)
	case plan.DeleteSibling, plan.DeleteOverlay:
		options := map[string]any{
			"apiVersion": "v1", "kind": "DeleteOptions",
			"preconditions": map[string]any{"uid": text(live, "metadata", "uid"), "resourceVersion": text(live, "metadata", "resourceVersion")},
		}
		if dry {
			options["dryRun"] = []string{"All"}
		}
		return w.call(ctx, http.MethodDelete, j.path, plainJSON, options)
	}
	return w.call(ctx, http.MethodPatch, j.path, mergePatch, patchOf(live, j.changes), query...)
}

// asked makes the request, and makes it again where somebody wrote something that no check looks at: Karpenter counts nodes in the status of
// NodePools, and while many come and go a write would hardly ever find one that stays as it is for the time of all checks. A deletion is not made again:
// the count is what it hangs on.
func (w *Writer) asked(ctx context.Context, j *job, live map[string]any, dry bool) (used, result map[string]any, err error) {
	const tries = 10
	for range tries {
		if result, err = w.request(ctx, j, live, dry); apiCode(err) != http.StatusConflict || live == nil || j.kind == plan.DeleteSibling || j.kind == plan.DeleteOverlay {
			break
		}
		again, reading := w.get(ctx, j.path)
		if reading != nil || !equal(w.looked(j, again), w.looked(j, live)) {
			break
		}
		live = again
	}
	return live, result, err
}

// looked is what the checks look at of an object.
func (w *Writer) looked(j *job, o map[string]any) map[string]any {
	ours := map[string]string{}
	for k, v := range annotationsOf(o) {
		if k == karpenstate.AnnotationImported || strings.HasPrefix(k, "karpenops.nops.io/") {
			ours[k] = v
		}
	}
	seen := map[string]any{
		"spec": o["spec"], "uid": uidOf(o), "going": text(o, "metadata", "deletionTimestamp"), "ours": ours, "owned": w.notOwned(o), "marks": GitOps(o),
	}
	for _, c := range j.changes {
		seen["owners of "+c.Path] = w.Owners(o, c.Path)
	}
	return seen
}

// dryRun has the server try the write, and compares what would come of it: nothing may differ but what is meant. Webhooks change things.
func (w *Writer) dryRun(ctx context.Context, j *job, live map[string]any) error {
	live, result, err := w.asked(ctx, j, live, true)
	if err != nil {
		if apiCode(err) == 0 {
			return fmt.Errorf("trying %s on %s: %w", j.kind, j.ref(), err)
		}
		return refusalOf(err, j.ref())
	}
	return j.meant(live, result)
}

// meant refuses a result that is not what the job is about.
func (j *job) meant(live, result map[string]any) error {
	var d string
	switch {
	case j.create != nil:
		d = difference(j.create, result, func(path string) bool { // defaults of the schema
			return path == "/spec/disruption" || strings.HasPrefix(path, "/spec/disruption/") || path == "/spec/template/spec/expireAfter"
		})
	case len(j.changes) > 0:
		d = difference(with(live, j.changes), result, func(string) bool { return false })
		if d == "" {
			break
		}
		for _, c := range j.changes { // an empty parent that is left behind or made is no difference
			if parent := pointer(split(c.Path)[:len(split(c.Path))-1]...); d == parent && len(mapOf(value(result, parent))) == 0 {
				return nil
			}
		}
	}
	if d != "" {
		return refuse(Invariant, j.ref(), d, "the API server would make something else of it here: an admission webhook, probably")
	}
	return nil
}

// commit writes the intent, the object and the record, in this order.
func (w *Writer) commit(ctx context.Context, j *job, live map[string]any, c *cluster) error {
	now := w.Now()
	j.record.At = now.UTC()
	attempt := Attempt{
		Record: j.record, Kind: j.kind, ObjectKind: j.object, Path: j.path, Name: j.name, UID: string(uidOf(live)), Pool: j.pool(), Base: j.base,
		At: now, Until: now.Add(w.Limits.Window), Predicted: first(slices.Concat(j.drift, j.allowed), maxNames), Undo: j.undo, Flip: j.flip, Before: first(drifted(c.claims[j.pool()]), maxNames), Ready: ready(live),
	}
	attempt.Record.Outcome = j.outcome()
	for _, change := range j.changes {
		attempt.Changes = append(attempt.Changes, keep(change))
	}
	// The gate is looked at once more with the intent: nobody can pause in between without one of the two seeing the other.
	if err := w.mutate(ctx, func(st *state) error {
		if err := w.gate(j, st); err != nil {
			return err
		}
		st.journal.Intents = append(st.journal.Intents, attempt)
		return nil
	}); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	live, result, err := w.asked(short, j, live, false)
	if code := apiCode(err); err != nil && code >= 400 && code < 500 {
		// The server said no: nothing was written.
		if dropping := w.mutate(context.WithoutCancel(ctx), func(st *state) error { st.drop(attempt.Record.ID); return nil }); dropping != nil {
			w.Log.Warn("an intent could not be taken back; Settle will", "record", attempt.Record.ID, "error", dropping)
		}
		return refusalOf(err, j.ref())
	}
	if err != nil {
		// Whether it was written is not known: the intent stays, and Settle finds out.
		return fmt.Errorf("%s on %s: %w", j.kind, j.ref(), err)
	}
	if j.kind != plan.DeleteSibling && j.kind != plan.DeleteOverlay {
		attempt.UID = string(uidOf(result))
		attempt.Generation, _ = integer(result, "metadata", "generation")
		if err := j.meant(live, result); err != nil { // a webhook that behaves otherwise when it is not tried
			attempt.Record.Explanation = err.Error()
			attempt.Until = now
		}
	}
	// Whoever cancelled after the write was made does not get out of the record.
	late, done := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
	defer done()
	if err := w.mutate(late, func(st *state) error { w.written(st, attempt); return nil }); err != nil {
		return fmt.Errorf("%s on %s was written, its record was not (Settle makes up for that): %w", j.kind, j.ref(), err)
	}
	j.record = attempt.Record
	o := result
	if o == nil || text(o, "kind") == "Status" {
		o = live
	}
	by := ""
	if j.record.Actor != "agent" {
		by = " by " + j.record.Actor
	}
	w.event(ctx, o, false, "KarpenopsApplied", fmt.Sprintf("%s%s: %s (%s)", j.kind, by, j.record.Reason, j.record.ID))
	return nil
}

// written turns an intent into a record and something to watch.
func (w *Writer) written(st *state, a Attempt) {
	st.drop(a.Record.ID)
	st.add(a.Record)
	j := &st.journal
	now := a.At.Unix()
	if j.Last == nil {
		j.Last = map[string]int64{}
	}
	j.Last[a.Pool] = now
	if !safe(a.Kind) {
		j.Tokens = j.Tokens.take(w.Limits.WritesPerHour, a.At)
	}
	if j.Written == nil {
		j.Written = map[string]Written{}
	}
	for _, c := range a.Changes {
		key := fieldKey(a.ObjectKind, a.Name, c.Path)
		if a.Kind == plan.Restore || a.Kind == actionUndo || strings.HasPrefix(c.Path, "/metadata/") {
			delete(j.Written, key)
			continue
		}
		j.Written[key] = Written{Sum: c.AfterSum, Value: c.After, Before: c.BeforeSum, At: now, ID: a.Record.ID, UID: a.UID}
	}
	switch a.Kind {
	case plan.CreateSibling, plan.CreateOverlay:
		j.Written[fieldKey(a.ObjectKind, a.Name, "")] = Written{At: now, ID: a.Record.ID, UID: a.UID}
	case plan.DeleteSibling, plan.DeleteOverlay:
		if st.forget(a.ObjectKind, a.Name); a.ObjectKind == kindPool {
			st.unlist(a.Name)
		}
		return
	case plan.Restore, actionUndo:
		delete(j.Originals, refOf(a.ObjectKind, a.Name))
		return
	}
	if st.originals(a); a.Undo {
		return // nobody holds taking back against anything
	}
	j.Watches = append(j.Watches, a)
}

// drop takes an intent back.
func (st *state) drop(id string) {
	kept := st.journal.Intents[:0:0]
	for _, i := range st.journal.Intents {
		if i.Record.ID != id {
			kept = append(kept, i)
		}
	}
	st.journal.Intents = kept
}

// forget removes what the journal knows of an object that is gone, but for what would tell a fight.
func (st *state) forget(kind, name string) {
	prefix := refOf(kind, name) + " "
	for k := range st.journal.Written {
		if strings.HasPrefix(k, prefix) {
			delete(st.journal.Written, k)
		}
	}
	kept := st.journal.Watches[:0:0]
	for _, a := range st.journal.Watches {
		if a.ObjectKind != kind || a.Name != name {
			kept = append(kept, a)
		}
	}
	st.journal.Watches = kept
	delete(st.journal.Originals, refOf(kind, name))
}

// take takes a token of a bucket that fills over an hour.
func (t Tokens) take(perHour int, now time.Time) Tokens {
	return Tokens{Used: t.used(perHour, now) + 1, At: now.Unix()}
}

func (t Tokens) used(perHour int, now time.Time) float64 {
	return max(0, t.Used-float64(perHour)*max(0, float64(now.Unix()-t.At))/float64(hour))
}

// until is when there is a token again; zero: now.
func (t Tokens) until(perHour int, now time.Time) time.Time {
	over := t.used(perHour, now) + 1 - float64(perHour)
	if over <= 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(over / float64(perHour) * float64(time.Hour)))
}

func first(all []string, n int) []string { return all[:min(n, len(all))] }

// drifted names the NodeClaims that Karpenter says have drifted.
func drifted(claims []map[string]any) []string {
	var names []string
	for _, c := range claims {
		if text(conditionOf(c, "Drifted"), "status") == "True" {
			names = append(names, nameOf(c))
		}
	}
	return names
}

func ready(o map[string]any) bool { return text(conditionOf(o, "Ready"), "status") == "True" }
