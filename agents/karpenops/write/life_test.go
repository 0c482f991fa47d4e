package write

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// testLife goes through the life of a sibling and its overlay.
func testLife(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.ready("base", 0)
	w.do(w.sibling("base-nops", "base", 20))
	made := w.pool("base-nops")
	if !w.Owned(made) {
		w.Fatalf("what was made is not ours: %s", w.notOwned(made))
	}
	if got := w.outcomes("NodePool/base-nops"); !cmp.Equal(got, []string{"create-sibling applied"}) {
		w.Errorf("ledger: %v", got)
	}
	if got := w.events("base-nops"); !cmp.Equal(got, []string{"KarpenopsApplied"}) {
		w.Errorf("events: %v", got)
	}
	if e := w.state().ledger.Entries[0]; e.MarketSeq != 7 || e.CommitSeq != 3 || e.Actor != "agent" || e.Reason != "spot is cheap there" {
		w.Errorf("record: %+v", e)
	}
	version := text(made, "metadata", "resourceVersion")
	w.do(w.sibling("base-nops", "base", 20))
	if text(w.pool("base-nops"), "metadata", "resourceVersion") != version || len(w.state().ledger.Entries) != 1 {
		w.Error("the second time changed something")
	}

	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
	w.do(w.set(plan.SetWeight, "base-nops", "base", pathWeight, int64(30)))
	w.do(w.set(plan.SetRequirements, "base-nops", "base", pathRequirements, list(w, narrower)))
	w.edit("kubectl-edit", "base", `{"spec":{"disruption":{"budgets":[{"nodes":"0"}]}}}`)
	w.do(w.set(plan.SetDisruption, "base-nops", "base", pathDisruption, value(w.pool("base"), pathDisruption)))
	if d := offering.StaticDrift(w.pool("base-nops"), w.pool("base")); len(d) > 0 {
		w.Errorf("its nodes would drift: %v", d)
	}
	overlay := plan.Action{ID: "o", Kind: plan.CreateOverlay, ObjectKind: kindOverlay, Name: "base-nops", Base: "base", Object: object(w, `{"apiVersion":"karpenter.sh/v1alpha1","kind":"NodeOverlay",
		"metadata":{"name":"base-nops","labels":{"karpenops.nops.io/owned":"true"}},"spec":{"price":"0.01","requirements":[{"key":"karpenter.sh/nodepool","operator":"In","values":["base-nops"]}]}}`)}
	w.refused(RateLimited, overlay) // NodePools of another name are being watched
	w.clock.pass(6 * time.Minute)
	w.ready("base-nops", 1)
	if s := w.settle(); s.Watching != 0 || len(s.Records) != 5 {
		w.Fatalf("settled: %+v", s)
	}
	w.do(overlay)
	price := plan.Action{ID: "p", Kind: plan.SetOverlay, ObjectKind: kindOverlay, Name: "base-nops", Base: "base", Changes: []plan.Change{{Path: pathPrice, Before: "0.01", After: "0.02"}}}
	w.do(price)
	gone := plan.Action{ID: "d", Kind: plan.DeleteOverlay, ObjectKind: kindOverlay, Name: "base-nops", Base: "base"}
	w.refused(Invariant, gone) // while the sibling is in use

	w.claim("base-nops-aaaaa", "base-nops")
	remove := plan.Action{ID: "x", Kind: plan.DeleteSibling, ObjectKind: kindPool, Name: "base-nops", Base: "base"}
	w.refused(Invariant, remove)
	w.do(w.set(plan.DrainSibling, "base-nops", "base", pathCPU, "0"))
	if v := value(w.pool("base-nops"), pathDrain()); v != "true" {
		w.Errorf("its nodes would not drift: %v", v)
	}
	w.do(gone)
	w.refused(Invariant, remove) // a node in the status and a NodeClaim
	w.status(poolsPath+"/base-nops", `{"status":{"nodes":0}}`)
	w.refused(Invariant, remove) // a NodeClaim
	w.unclaim("base-nops-aaaaa")
	w.refused(RateLimited, remove) // one may be on its way
	w.clock.pass(time.Minute)
	node := object(w, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","labels":{"karpenter.sh/nodepool":"base-nops"}}}`)
	if _, err := w.call(w.ctx, http.MethodPost, nodesPath, plainJSON, node); err != nil {
		w.Fatal(err)
	}
	w.refused(Invariant, remove) // a node
	if _, err := w.call(w.ctx, http.MethodDelete, nodesPath+"/n", "", nil); err != nil {
		w.Fatal(err)
	}
	w.do(remove)
	if w.pool("base-nops") != nil {
		w.Error("it is still there")
	}
	w.do(remove) // done already
	want := []string{
		"create-sibling applied", "set-limits applied", "set-weight applied", "set-requirements applied", "set-disruption applied", "delete-sibling refused", "drain-sibling applied", "delete-sibling refused", "delete-sibling refused",
		"delete-sibling refused", "delete-sibling applied",
	}
	if diff := cmp.Diff(want, w.outcomes("NodePool/base-nops")); diff != "" {
		w.Errorf("ledger (-want +got):\n%s", diff)
	}
	if s := w.settle(); len(s.Findings) != 0 || len(w.state().journal.Written) != 0 {
		w.Errorf("left: %+v %v", s, keys(w.state().journal.Written))
	}
	if value(w.pool("base"), pathRequirements) == nil || annotation(w.pool("base"), karpenstate.AnnotationOriginal) != "" {
		w.Error("the user's NodePool was touched")
	}
}

func TestTokens(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var b Tokens
	for range 10 {
		if until := b.until(10, now); !until.IsZero() {
			t.Fatalf("none left until %s", until)
		}
		b = b.take(10, now)
	}
	if until := b.until(10, now); !until.Equal(now.Add(6 * time.Minute)) {
		t.Errorf("the eleventh at %s", until)
	}
	if until := b.until(10, now.Add(-time.Hour)); until.IsZero() {
		t.Error("a clock that goes back makes tokens")
	}
	if until := b.until(10, now.Add(6*time.Minute)); !until.IsZero() {
		t.Errorf("after six minutes: %s", until)
	}
}
