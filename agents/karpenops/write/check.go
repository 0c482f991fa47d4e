package write

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// Paths of fields.
const (
	pathRequirements = "/spec/template/spec/requirements"
	pathWeight       = "/spec/weight"
	pathCPU          = "/spec/limits/cpu"
	pathMemory       = "/spec/limits/memory"
	pathLimits       = "/spec/limits"
	pathDisruption   = "/spec/disruption"
	pathPrice        = "/spec/price"
	pathAdjustment   = "/spec/priceAdjustment"
)

// AnnotationDrain is on the template of a sibling that is drained: it makes its nodes drift.
const AnnotationDrain = "karpenops.nops.io/drain"

// Pointers to annotations of ours.
func pathOriginal() string { return pointer("metadata", "annotations", karpenstate.AnnotationOriginal) }

func pathDrain() string {
	return pointer("spec", "template", "metadata", "annotations", AnnotationDrain)
}

// safe are the kinds that take something of ours back. They wait for no rate limit and no cool-down.
func safe(kind plan.ActionKind) bool {
	switch kind {
	case plan.DrainSibling, plan.DeleteSibling, plan.DeleteOverlay, plan.Restore, actionUndo:
		return true
	}
	return false
}

// bold are the kinds of which there is one pool at a time, until it has proved itself.
func bold(kind plan.ActionKind) bool {
	switch kind {
	case plan.CreateSibling, plan.CreateOverlay, plan.SetOverlay, plan.SetWeight, plan.Narrow:
		return true
	}
	return false
}

// needs is the mode that a kind belongs to.
func needs(kind plan.ActionKind) karpenstate.Mode {
	switch kind {
	case plan.CreateSibling, plan.SetLimits, plan.SetWeight, plan.SetRequirements, plan.SetDisruption:
		return karpenstate.ModeSiblings
	case plan.CreateOverlay, plan.SetOverlay:
		return karpenstate.ModeOverlays
	case plan.Narrow:
		return karpenstate.ModeInPlace
	}
	return karpenstate.ModeObserve // taking back is what every mode may
}

// pausedBy says by whom and why something is paused, "" if it is not.
func pausedBy(annotations map[string]string, what string) string {
	if by := karpenstate.PausedBy(annotations); by != "" {
		return what + " is paused by " + by
	}
	return ""
}

func annotationsOf(o map[string]any) map[string]string {
	return (&unstructured.Unstructured{Object: o}).GetAnnotations()
}

// gate is what may hold up a write that is right in itself.
func (w *Writer) gate(j *job, st *state) error {
	now, ref := w.Now(), j.ref()
	if j.override {
		return nil
	}
	if why := pausedBy(st.meta, "karpenops"); why != "" {
		return refuse(Paused, ref, "", "%s", why)
	}
	if why := frozen(st.meta[karpenstate.AnnotationFreeze], now, w.ahead(j)); why != "" && j.kind != actionUndo {
		return refuse(Frozen, ref, "", "%s", why)
	}
	paths := []string{""}
	for _, c := range j.changes {
		paths = append(paths, c.Path)
	}
	for _, p := range paths {
		if f, is := st.journal.Fights[fieldKey(j.object, j.name, p)]; is && !safe(j.kind) {
			r := refuse(Fighting, ref, p, "%s has set it back twice within an hour (%s): nothing is written there until somebody resumes the pool", f.Manager, f.Since.UTC().Format(time.RFC3339))
			r.Owners, r.Want = []Owner{{Manager: f.Manager, Kind: kindOf(f.Manager, false), Path: p}}, j.want()
			return r
		}
	}
	if safe(j.kind) || j.approved {
		return nil
	}
	pool := j.pool()
	for _, p := range []string{pool, j.base} {
		if until := st.journal.Cooldown[p]; until > now.Unix() {
			return refuse(RateLimited, ref, "", "a write to %s was undone: it is left alone until %s", p, time.Unix(until, 0).UTC().Format(time.RFC3339))
		}
	}
	if until := st.journal.Tokens.until(w.Limits.WritesPerHour, now); !until.IsZero() {
		return refuse(RateLimited, ref, "", "%d writes an hour in the cluster: the next one at %s", w.Limits.WritesPerHour, until.UTC().Format(time.RFC3339))
	}
	every := w.Limits.SiblingEvery
	if j.kind == plan.Narrow {
		every = w.Limits.PoolEvery
	}
	if last, is := st.journal.Last[pool]; is && now.Before(time.Unix(last, 0).Add(every)) {
		return refuse(RateLimited, ref, "", "one write to this NodePool each %s: the next one at %s", every, time.Unix(last, 0).Add(every).UTC().Format(time.RFC3339))
	}
	if !bold(j.kind) {
		return nil
	}
	for _, a := range slices.Concat(st.journal.Intents, st.journal.Watches) {
		if bold(a.Kind) && a.Pool != pool {
			return refuse(RateLimited, ref, "", "one NodePool at a time: %s of %s has to prove itself until %s", a.Kind, refOf(a.ObjectKind, a.Name), a.Until.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// ahead is how long a write has to be left alone by freezes to prove itself.
func (w *Writer) ahead(j *job) time.Duration {
	if safe(j.kind) {
		return 0
	}
	return w.Limits.Window
}

// want is what a job would have changed, as a JSON merge patch for whoever owns it.
func (j *job) want() string {
	want := map[string]any{}
	for _, c := range j.changes {
		if strings.HasPrefix(c.Path, "/metadata/") {
			continue
		}
		if c.After == nil {
			want = with(want, []plan.Change{{Path: c.Path, After: json.RawMessage("null")}})
			continue
		}
		want = with(want, []plan.Change{c})
	}
	if j.create != nil {
		want = j.create
	}
	return string(canonical(want))
}

// check refuses what must not be written, and says whether there is nothing to do.
func (w *Writer) check(ctx context.Context, j *job, live map[string]any, c *cluster) (done bool, err error) {
	st, err := w.readState(ctx)
	if err != nil {
		return false, err
	}
	j.restart()
	if err := w.gate(j, st); err != nil {
		return false, err
	}
	ref := j.ref()
	if live != nil {
		if text(live, "metadata", "deletionTimestamp") != "" {
			return false, refuse(ChangedSincePlan, ref, "", "it is being deleted")
		}
		if _, static := at(live, "spec", "replicas"); static {
			return false, refuse(Invariant, ref, "", "it is a static NodePool (spec.replicas), which is never touched")
		}
	}
	// The user's words on the pools that it is about.
	for _, o := range []map[string]any{live, c.pools[j.base]} {
		if o == nil || j.override {
			continue
		}
		if why := pausedBy(annotationsOf(o), refOf(text(o, "kind"), nameOf(o))); why != "" {
			return false, refuse(Paused, ref, "", "%s", why)
		}
		if why := frozen(annotation(o, karpenstate.AnnotationFreeze), w.Now(), w.ahead(j)); why != "" && j.kind != actionUndo {
			return false, refuse(Frozen, ref, "", "%s: %s", refOf(text(o, "kind"), nameOf(o)), why)
		}
	}
	if j.approved {
		return w.checkApproved(ctx, j, live, c)
	}
	switch j.kind {
	case plan.CreateSibling:
		return w.checkSibling(j, live, c)
	case plan.CreateOverlay:
		return w.checkOverlay(j, live, c)
	case plan.DeleteSibling:
		return w.checkDelete(ctx, j, live, c, st)
	case plan.DeleteOverlay:
		if live == nil {
			return true, nil
		}
		return false, w.checkOverlayDelete(j, live, c)
	case actionUndo:
		return w.undoing(j, live)
	case plan.SetLimits, plan.SetWeight, plan.SetRequirements, plan.SetDisruption, plan.DrainSibling, plan.SetOverlay, plan.Narrow, plan.Restore:
		return w.checkEdit(ctx, j, live, c, st)
	}
	return false, refuse(Invariant, ref, "", "%q is nothing that this agent does", j.kind)
}

// restart takes back what an earlier attempt added.
func (j *job) restart() {
	if j.planned == nil {
		j.planned = slices.Clone(j.changes)
	}
	j.changes = slices.Clone(j.planned)
}

// optedIn says why a user's NodePool may not be managed, "" if it may.
func optedIn(pool map[string]any) string {
	switch managed := annotation(pool, karpenstate.AnnotationManaged); {
	case managed == "true":
		return ""
	case managed != "":
		return fmt.Sprintf("%s opts it out (%s: %s)", refOf(kindPool, nameOf(pool)), karpenstate.AnnotationManaged, managed)
	case annotation(pool, karpenstate.AnnotationImported) == karpenstate.ImportedByNops:
		return ""
	}
	return fmt.Sprintf("%s is not opted in (annotation %s: \"true\")", refOf(kindPool, nameOf(pool)), karpenstate.AnnotationManaged)
}

// allowed checks the user's consent for a kind of action about a pool of theirs.
func (w *Writer) allowed(j *job, base map[string]any) error {
	need := needs(j.kind)
	if need == karpenstate.ModeObserve {
		return nil
	}
	if base == nil {
		return refuse(ChangedSincePlan, j.ref(), "", "the NodePool %q that it is about is not there", j.base)
	}
	if _, static := at(base, "spec", "replicas"); static {
		return refuse(Invariant, j.ref(), "", "%s is a static NodePool (spec.replicas), which is never touched", refOf(kindPool, nameOf(base)))
	}
	if why := optedIn(base); why != "" {
		return refuse(Invariant, j.ref(), "", "%s", why)
	}
	if !w.Limits.Mode.Includes(need) {
		return refuse(Invariant, j.ref(), "", "the agent's mode is %q, and it takes %q", w.Limits.Mode, need)
	}
	if own := karpenstate.Mode(annotation(base, karpenstate.AnnotationMode)); own != "" && !own.Includes(need) {
		return refuse(Invariant, j.ref(), "", "the mode of %s is %q, and it takes %q", refOf(kindPool, nameOf(base)), own, need)
	}
	return nil
}

// Owned says whether an object is ours: it says so, it was we who said it, and nobody has taken it over.
func (w *Writer) Owned(o map[string]any) bool { return w.notOwned(o) == "" }

func (w *Writer) notOwned(o map[string]any) string {
	if label(o, karpenstate.LabelOwned) != "true" {
		return fmt.Sprintf("it does not have the label %s=true", karpenstate.LabelOwned)
	}
	if marks := GitOps(o); len(marks) > 0 {
		return "a tool manages it now: " + strings.Join(marks, ", ")
	}
	for _, entry := range (&unstructured.Unstructured{Object: o}).GetManagedFields() {
		if w.ours(entry.Manager) && entry.FieldsV1 != nil {
			if _, is := ownedAt(o, fieldsOf(entry), pointer("metadata", "labels", karpenstate.LabelOwned)); is {
				return ""
			}
		}
	}
	return fmt.Sprintf("it has the label %s, but this agent did not put it there: a copy of a sibling, probably", karpenstate.LabelOwned)
}

func (w *Writer) effective(j *job, pool map[string]any) error {
	if w.Effective == nil {
		return refuse(Invariant, j.ref(), pathRequirements, "what it could launch is not known: there is no catalogue of offerings")
	}
	n, known := w.Effective(pool)
	if !known {
		return refuse(Invariant, j.ref(), pathRequirements, "what it could launch is not known: the catalogue of offerings does not tell")
	}
	if n <= 0 {
		return refuse(Invariant, j.ref(), pathRequirements, "it could launch nothing any more, and Karpenter would call it ready")
	}
	return nil
}

// weighs checks a weight: one that no other NodePool has, since ties go by name, and above the pool that it is to go before.
func weighs(j *job, v any, c *cluster) error {
	weight, is := integer(map[string]any{"w": v}, "w")
	if !is || weight < 1 || weight > 100 {
		return refuse(Invariant, j.ref(), pathWeight, "the weight %v is not one of 1 to 100", v)
	}
	for _, name := range slices.Sorted(maps.Keys(c.pools)) {
		other, _ := integer(c.pools[name], "spec", "weight")
		if name != j.name && other == weight {
			return refuse(Invariant, j.ref(), pathWeight, "%s has the weight %d, too: which one comes first would go by their names", refOf(kindPool, name), weight)
		}
	}
	if base, is := c.pools[j.base]; is {
		if below, _ := integer(base, "spec", "weight"); weight <= below {
			return refuse(Invariant, j.ref(), pathWeight, "the weight %d does not come before that of %s, %d", weight, refOf(kindPool, j.base), below)
		}
	}
	return nil
}

func (w *Writer) checkSibling(j *job, live map[string]any, c *cluster) (bool, error) {
	o, ref, base := j.create, j.ref(), c.pools[j.base]
	if live != nil {
		if w.Owned(live) && difference(mapOf(o["spec"]), mapOf(live["spec"]), func(string) bool { return true }) == "" {
			return true, nil
		}
		return false, refuse(ChangedSincePlan, ref, "", "there is one of this name already")
	}
	if err := w.allowed(j, base); err != nil {
		return false, err
	}
	if text(o, "apiVersion") != "karpenter.sh/v1" || text(o, "kind") != kindPool || nameOf(o) != j.name {
		return false, refuse(Invariant, ref, "", "what is to be made is %s %s/%s", text(o, "apiVersion"), text(o, "kind"), nameOf(o))
	}
	if label(base, karpenstate.LabelOwned) != "" || annotation(o, karpenstate.AnnotationBase) != j.base {
		return false, refuse(Invariant, ref, "", "a sibling is of a NodePool of the user's and says so in the annotation %s", karpenstate.AnnotationBase)
	}
	if err := fresh(j); err != nil {
		return false, err
	}
	if _, static := at(o, "spec", "replicas"); static {
		return false, refuse(Invariant, ref, "/spec/replicas", "a sibling is no static NodePool")
	}
	// What its nodes are, and whom they take, is as with the base: a sibling is about which machines and how many.
	for _, path := range []string{
		"/spec/template/spec/nodeClassRef", "/spec/template/spec/taints", "/spec/template/spec/startupTaints", "/spec/template/spec/expireAfter",
		"/spec/template/spec/terminationGracePeriod",
	} {
		if mine, theirs := value(o, path), value(base, path); mine == nil && path == "/spec/template/spec/expireAfter" && theirs == "720h" {
			continue // the default
		} else if !equal(mine, theirs) {
			return false, refuse(Invariant, ref, path, "it differs from %s: %s instead of %s", refOf(kindPool, j.base), canonical(mine), canonical(theirs))
		}
	}
	if err := weighs(j, value(o, pathWeight), c); err != nil {
		return false, err
	}
	if _, err := quantity(value(o, pathCPU)); err != nil {
		return false, refuse(Invariant, ref, pathCPU, "a sibling has a limit: %v", err)
	}
	return false, w.effective(j, o)
}

// fresh checks what is to be made: ours by its label, and nobody's by any other.
func fresh(j *job) error {
	meta := mapOf(j.create["metadata"])
	for k := range meta {
		if k != "name" && k != "labels" && k != "annotations" {
			return refuse(Invariant, j.ref(), "/metadata/"+k, "what is made has a name, labels and annotations")
		}
	}
	if _, is := j.create["status"]; is {
		return refuse(Invariant, j.ref(), "/status", "the status is Karpenter's")
	}
	if label(j.create, karpenstate.LabelOwned) != "true" {
		return refuse(Invariant, j.ref(), "/metadata/labels", "what is made has the label %s=true", karpenstate.LabelOwned)
	}
	for _, part := range []string{"labels", "annotations"} {
		for _, k := range slices.Sorted(maps.Keys(mapOf(meta[part]))) {
			if trackingKey(k) {
				return refuse(Invariant, j.ref(), pointer("metadata", part, k), "it makes the object part of somebody's release, who would take it over or delete it")
			}
		}
	}
	return nil
}

// scope is the NodePools that an overlay is limited to; none means everything.
func scope(overlay map[string]any) []string {
	v, _ := at(overlay, "spec", "requirements")
	all, _ := v.([]any)
	for _, r := range all {
		m := mapOf(r)
		if text(m, "key") != labelPool || text(m, "operator") != "In" {
			continue
		}
		values, _ := m["values"].([]any)
		var names []string
		for _, n := range values {
			if s, is := n.(string); is {
				names = append(names, s)
			}
		}
		return names
	}
	return nil
}

func (w *Writer) checkOverlay(j *job, live map[string]any, c *cluster) (bool, error) {
	o, ref := j.create, j.ref()
	if live != nil {
		if w.Owned(live) && difference(mapOf(o["spec"]), mapOf(live["spec"]), func(string) bool { return true }) == "" {
			return true, nil
		}
		return false, refuse(ChangedSincePlan, ref, "", "there is one of this name already")
	}
	if err := w.allowed(j, c.pools[j.base]); err != nil {
		return false, err
	}
	if text(o, "apiVersion") != "karpenter.sh/v1alpha1" || text(o, "kind") != kindOverlay || nameOf(o) != j.name {
		return false, refuse(Invariant, ref, "", "what is to be made is %s %s/%s", text(o, "apiVersion"), text(o, "kind"), nameOf(o))
	}
	if err := fresh(j); err != nil {
		return false, err
	}
	return false, w.scoped(j, o, c)
}

// scoped checks that an overlay speaks of our own NodePools alone: one that is wider moves the user's nodes.
func (w *Writer) scoped(j *job, o map[string]any, c *cluster) error {
	names := scope(o)
	if len(names) == 0 {
		return refuse(Invariant, j.ref(), "/spec/requirements", "it is not limited to NodePools (%s In …)", labelPool)
	}
	for _, n := range names {
		if pool := c.pools[n]; pool == nil || !w.Owned(pool) {
			return refuse(Invariant, j.ref(), "/spec/requirements", "it would speak of %s, which is not ours", refOf(kindPool, n))
		}
	}
	return nil
}

func (w *Writer) checkOverlayDelete(j *job, live map[string]any, c *cluster) error {
	if why := w.notOwned(live); why != "" {
		return refuse(Invariant, j.ref(), "", "only what is ours is deleted: %s", why)
	}
	if j.undo {
		return nil
	}
	for _, n := range scope(live) {
		if pool := c.pools[n]; pool != nil && !drained(pool) {
			return refuse(Invariant, j.ref(), "", "it goes together with %s, which is still in use: prices that come and go move nodes", refOf(kindPool, n))
		}
	}
	return nil
}

// drained says whether a NodePool can launch nothing by its limit.
func drained(pool map[string]any) bool {
	q, err := quantity(value(pool, pathCPU))
	return err == nil && q.IsZero()
}

func quantity(v any) (resource.Quantity, error) {
	switch v := v.(type) {
	case string:
		q, err := resource.ParseQuantity(v)
		if err != nil {
			return q, fmt.Errorf("%q is no quantity: %w", v, err)
		}
		if q.Sign() < 0 {
			return q, fmt.Errorf("%q is negative", v)
		}
		return q, nil
	case int64:
		if v < 0 {
			return resource.Quantity{}, fmt.Errorf("%d is negative", v)
		}
		return *resource.NewQuantity(v, resource.DecimalSI), nil
	case nil:
		return resource.Quantity{}, fmt.Errorf("there is none")
	}
	return resource.Quantity{}, fmt.Errorf("%v is no quantity", v)
}

// checkDelete refuses to delete a NodePool that has, or could get, a node: its nodes would go with it at once.
func (w *Writer) checkDelete(ctx context.Context, j *job, live map[string]any, c *cluster, st *state) (bool, error) {
	if live == nil {
		return true, nil
	}
	ref := j.ref()
	if why := w.notOwned(live); why != "" {
		return false, refuse(Invariant, ref, "", "only what is ours is deleted: %s", why)
	}
	if !drained(live) {
		return false, refuse(Invariant, ref, pathCPU, "it is not drained: limits.cpu is %s, so it could launch a node meanwhile", canonical(value(live, pathCPU)))
	}
	if n, is := integer(live, "status", "nodes"); is && n > 0 {
		return false, refuse(Invariant, ref, "", "it has %d nodes by its status: they would go with it at once", n)
	}
	if n := len(c.claims[j.name]); n > 0 {
		return false, refuse(Invariant, ref, "", "it has %d NodeClaims: they would go with it at once", n)
	}
	nodes, err := w.list(ctx, nodesPath, "labelSelector", labelPool+"="+j.name)
	if err != nil {
		return false, fmt.Errorf("listing the nodes of %s: %w", ref, err)
	}
	if len(nodes) > 0 {
		return false, refuse(Invariant, ref, "", "there are %d nodes with its label", len(nodes))
	}
	// What Karpenter began to launch before the limit became 0 takes a moment to show.
	last := w.touched(live)
	if t := time.Unix(st.journal.Last[j.name], 0); t.After(last) {
		last = t
	}
	if since := w.Now().Sub(last); since < w.Limits.DrainGrace {
		return false, refuse(RateLimited, ref, "", "it was drained %s ago: a node may be on its way, ask again in %s", since.Round(time.Second), (w.Limits.DrainGrace - since).Round(time.Second))
	}
	return false, nil
}

// touched is when we last changed an object.
func (w *Writer) touched(o map[string]any) time.Time {
	var last time.Time
	for _, entry := range (&unstructured.Unstructured{Object: o}).GetManagedFields() {
		if w.ours(entry.Manager) && entry.Time != nil && entry.Time.After(last) {
			last = entry.Time.Time
		}
	}
	return last
}

// mayChange are the fields that each kind of edit is about.
func mayChange(kind plan.ActionKind, path string) bool {
	switch kind {
	case plan.SetLimits:
		return path == pathCPU || path == pathMemory || path == pathLimits || ownAnnotation(path)
	case plan.DrainSibling:
		return path == pathCPU || ownAnnotation(path)
	case plan.SetWeight:
		return path == pathWeight
	case plan.SetOverlay:
		return path == pathPrice || path == pathAdjustment
	case plan.Narrow, plan.Restore, plan.SetRequirements:
		return path == pathRequirements
	case plan.SetDisruption:
		return path == pathDisruption
	}
	return false
}

// ownAnnotation are annotations that describe what is ours. Those that are the user's words to us are not among them.
func ownAnnotation(path string) bool {
	for _, k := range []string{karpenstate.AnnotationCommitment, karpenstate.AnnotationPurpose} {
		if path == pointer("metadata", "annotations", k) {
			return true
		}
	}
	return false
}

func (w *Writer) checkEdit(ctx context.Context, j *job, live map[string]any, c *cluster, st *state) (bool, error) {
	ref := j.ref()
	if live == nil {
		return false, refuse(ChangedSincePlan, ref, "", "it is not there")
	}
	if j.kind == plan.SetOverlay != (j.object == kindOverlay) {
		return false, refuse(Invariant, ref, "", "%s is not about a %s", j.kind, j.object)
	}
	if len(j.changes) == 0 && j.kind != plan.Restore {
		return false, refuse(Invariant, ref, "", "the action changes nothing")
	}
	for _, ch := range j.changes {
		if !mayChange(j.kind, ch.Path) {
			return false, refuse(Invariant, ref, ch.Path, "%s never changes this field", j.kind)
		}
	}
	inPlace := j.kind == plan.Narrow || j.kind == plan.Restore
	mine := w.notOwned(live)
	if mine != "" && !inPlace {
		return false, refuse(Invariant, ref, "", "%s is for NodePools and NodeOverlays of our own: %s", j.kind, mine)
	}
	if j.kind == plan.Restore {
		return w.restoring(j, live, st)
	}
	done := j.kind != plan.DrainSibling || j.fenceOnly || value(live, pathDrain()) != nil
	for _, ch := range j.changes {
		done = done && equal(value(live, ch.Path), ch.After)
	}
	if done {
		return true, nil
	}
	for _, ch := range j.changes {
		if have := value(live, ch.Path); !equal(have, ch.Before) {
			return false, refuse(ChangedSincePlan, ref, ch.Path, "it is %s, the plan was made for %s", brief(have), brief(ch.Before))
		}
	}
	base := c.pools[j.base]
	if mine != "" {
		base = live
	}
	if j.kind != plan.DrainSibling {
		if err := w.allowed(j, base); err != nil {
			return false, err
		}
	}
	if err := w.invariants(j, live, c, mine == ""); err != nil {
		return false, err
	}
	if j.kind == plan.DrainSibling {
		return false, nil
	}
	return false, w.mine(ctx, j, live)
}

// mine refuses changes of fields that are somebody else's.
func (w *Writer) mine(ctx context.Context, j *job, live map[string]any) error {
	owners, err := w.conflicts(ctx, j.path, live, j.planned)
	if err != nil {
		return err
	}
	for _, ch := range j.planned {
		owners = append(owners, w.Owners(live, ch.Path)...)
	}
	if against := mayTake(live, owners, j.approved); len(against) > 0 {
		r := refuse(OwnedByOther, j.ref(), against[0].Path, "it belongs to %s", namesOf(against))
		if marks := GitOps(live); len(marks) > 0 {
			r.Why += "; the object has the marks of " + strings.Join(marks, ", ")
		}
		r.Owners, r.Want = against, j.want()
		return r
	}
	return nil
}

// invariants are what holds of each kind of edit.
func (w *Writer) invariants(j *job, live map[string]any, c *cluster, owned bool) error {
	ref := j.ref()
	for _, ch := range j.planned {
		switch ch.Path {
		case pathWeight:
			if err := weighs(j, ch.After, c); err != nil {
				return err
			}
		case pathCPU, pathMemory:
			if _, err := quantity(ch.After); err != nil && !(ch.Path == pathMemory && ch.After == nil) {
				return refuse(Invariant, ref, ch.Path, "a sibling keeps its limit: %v", err)
			}
		case pathLimits:
			if _, err := quantity(mapOf(ch.After)["cpu"]); err != nil {
				return refuse(Invariant, ref, pathCPU, "a sibling keeps its limit: %v", err)
			}
		}
	}
	after := with(live, j.planned)
	switch j.kind {
	case plan.DrainSibling:
		if !drained(after) {
			return refuse(Invariant, ref, pathCPU, "draining is limits.cpu 0, not %s", canonical(value(after, pathCPU)))
		}
		j.drift = nil
		for _, claim := range c.claims[j.name] {
			j.drift = append(j.drift, nameOf(claim))
		}
		j.record.Predicted = len(j.drift)
		if !j.fenceOnly {
			j.changes = append(j.changes, plan.Change{Path: pathDrain(), Before: value(live, pathDrain()), After: "true"})
		}
	case plan.SetLimits:
		if value(live, pathDrain()) != nil && !drained(after) {
			j.changes = append(j.changes, plan.Change{Path: pathDrain(), Before: value(live, pathDrain())})
		}
	case plan.SetOverlay:
		return w.scoped(j, live, c)
	case plan.SetDisruption:
		// A sibling lets its nodes go as its base does, and not otherwise.
		if base := c.pools[j.base]; !equal(value(after, pathDisruption), value(base, pathDisruption)) {
			return refuse(ChangedSincePlan, ref, pathDisruption, "%s has other disruption settings than the plan was made for", refOf(kindPool, j.base))
		}
	case plan.Narrow, plan.SetRequirements:
		return w.narrowing(j, live, after, c, owned)
	}
	return nil
}

// narrowing checks an edit in place, and adds what undo will need.
func (w *Writer) narrowing(j *job, live, after map[string]any, c *cluster, owned bool) error {
	if err := w.effective(j, after); err != nil {
		return err
	}
	if w.Predict != nil {
		j.drift = w.Predict(after, c.claims[j.name])
		j.record.Predicted = len(j.drift)
	}
	if n := len(j.drift); n > 0 {
		if n > w.Limits.DriftCap {
			return refuse(Invariant, j.ref(), pathRequirements, "%d nodes would be replaced, and %d may be", n, w.Limits.DriftCap)
		}
		if budget := DriftBudget(live, w.Now()); budget != Unlimited && n > budget {
			return refuse(RateLimited, j.ref(), pathRequirements, "%d nodes would be replaced, and the NodePool's disruption budgets allow %d now", n, budget)
		}
	}
	if owned {
		return nil
	}
	return j.remember(live)
}

// remember adds the annotation with what the changed fields are now.
func (j *job) remember(live map[string]any) error {
	originals, err := originalsOf(live)
	if err != nil {
		return refuse(Invariant, j.ref(), pathOriginal(), "it cannot be read, so what it holds could not be kept: %v", err)
	}
	for _, ch := range j.planned {
		kept, is := originals[ch.Path]
		if !is || kept.Ours != sum(ch.Before) { // what somebody else made of it since is what undo goes back to
			kept = Original{}
			if ch.Before != nil {
				kept.Value = canonical(ch.Before)
			}
		}
		kept.Ours = sum(ch.After)
		originals[ch.Path] = kept
	}
	const maxAnnotations = 200 << 10 // of 256 KiB
	v := string(canonical(originals))
	size := len(v)
	for k, other := range annotationsOf(live) {
		if k != karpenstate.AnnotationOriginal {
			size += len(k) + len(other)
		}
	}
	if size > maxAnnotations {
		return refuse(Invariant, j.ref(), pathOriginal(), "what undo needs does not fit into the annotations (%d bytes)", size)
	}
	var before any
	if have := annotation(live, karpenstate.AnnotationOriginal); have != "" {
		before = have
	}
	j.changes = append(j.changes, plan.Change{Path: pathOriginal(), Before: before, After: v})
	return nil
}

// originalsOf reads the annotation with what undo restores.
func originalsOf(o map[string]any) (Originals, error) {
	originals := Originals{}
	if s := annotation(o, karpenstate.AnnotationOriginal); s != "" {
		if err := json.Unmarshal([]byte(s), &originals); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", karpenstate.AnnotationOriginal, err)
		}
	}
	return originals, nil
}

// brief is a value as a sentence carries it.
func brief(v any) string {
	if v == nil {
		return "absent"
	}
	s := string(canonical(v))
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
