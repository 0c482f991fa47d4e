package write

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// consenting is a NodePool that says that it may be changed in place.
func (w *world) consenting(name string) map[string]any {
	return with(w.userPool(name), []plan.Change{{Path: pointer("metadata", "annotations", karpenstate.AnnotationMode), After: string(karpenstate.ModeInPlace)}})
}

func (w *world) narrow(name, to string) plan.Action {
	return w.set(plan.Narrow, name, name, pathRequirements, list(w, to))
}

// spec is what a user sees of an object, as bytes.
func spec(o map[string]any) string { return string(canonical(o["spec"])) }

// testInPlace narrows a user's NodePool and gives it back.
func testInPlace(w *world) {
	before := w.make("kubectl-create", w.consenting("base"))
	narrowest := strings.Replace(narrower, `"m5","r5"`, `"m5"`, 1)
	w.do(w.narrow("base", narrower))
	first := w.pool("base")
	if !equal(value(first, pathRequirements), list(w, narrower)) {
		w.Fatalf("requirements: %s", brief(value(first, pathRequirements)))
	}
	w.do(w.narrow("base", narrower)) // done already
	w.do(w.narrow("base", narrowest))
	originals, err := originalsOf(w.pool("base"))
	if err != nil || !equal(originals[pathRequirements].Value, value(before, pathRequirements)) || originals[pathRequirements].Ours != sum(list(w, narrowest)) {
		w.Fatalf("the first value is not kept: %s, %v", canonical(originals), err)
	}
	restore := plan.Action{ID: "r", Kind: plan.Restore, ObjectKind: kindPool, Name: "base", Base: "base"}
	r, err := w.Apply(w.ctx, restore, Meta{})
	if err != nil || r.Outcome != Undone {
		w.Fatalf("%+v, %v", r, err)
	}
	after := w.pool("base")
	if spec(after) != spec(before) || annotation(after, karpenstate.AnnotationOriginal) != "" {
		w.Errorf("undo did not restore it:\n%s\n%s\n%v", spec(before), spec(after), annotationsOf(after))
	}
	if r, err := w.Apply(w.ctx, restore, Meta{}); err != nil || !strings.Contains(r.Explanation, "nothing of ours") {
		w.Errorf("the second time: %+v, %v", r, err)
	}
	if diff := cmp.Diff([]string{"narrow applied", "narrow applied", "restore undone"}, w.outcomes("NodePool/base")); diff != "" {
		w.Errorf("ledger (-want +got):\n%s", diff)
	}

	// A person's edit of what we narrowed wins, and is what is kept from then on.
	theirs := strings.Replace(narrower, `"m5","r5"`, `"c5"`, 1)
	w.do(w.narrow("base", narrower))
	w.edit("kubectl-edit", "base", `{"spec":{"template":{"spec":{"requirements":`+theirs+`}}}}`)
	r, err = w.Apply(w.ctx, restore, Meta{})
	if err != nil || r.Outcome != Released || !strings.Contains(r.Explanation, pathRequirements) {
		w.Errorf("%+v, %v", r, err)
	}
	if after := w.pool("base"); !equal(value(after, pathRequirements), list(w, theirs)) || annotation(after, karpenstate.AnnotationOriginal) != "" {
		w.Errorf("a person's edit: %s %v", spec(after), annotationsOf(after))
	}
	w.do(w.narrow("base", narrower))
	w.edit("kubectl-edit", "base", `{"spec":{"template":{"spec":{"requirements":`+theirs+`}}}}`)
	w.do(w.narrow("base", narrowest))
	if r, err = w.Apply(w.ctx, restore, Meta{}); err != nil || r.Outcome != Undone {
		w.Fatalf("%+v, %v", r, err)
	}
	if !equal(value(w.pool("base"), pathRequirements), list(w, theirs)) {
		w.Errorf("what a person made of it was not restored: %s", spec(w.pool("base")))
	}
	// Somebody who wants the same as we do owns it, too.
	w.do(w.narrow("base", narrower))
	same := object(w, `{"apiVersion":"karpenter.sh/v1","kind":"NodePool","metadata":{"name":"base"},"spec":{"template":{"spec":{"requirements":%s}}}}`, narrower)
	if _, err := w.apply("ann", false, same); err != nil {
		w.Fatal(err)
	}
	if r, err = w.Apply(w.ctx, restore, Meta{}); err != nil || r.Outcome != Released {
		w.Errorf("%+v, %v", r, err)
	}
	if !equal(value(w.pool("base"), pathRequirements), list(w, narrower)) {
		w.Error("what somebody applied since was taken back")
	}
	// Without the annotation the journal knows.
	w.edit("ann", "base", `{"spec":{"weight":11}}`)
	if _, err := w.apply("ann", false, object(w, `{"apiVersion":"karpenter.sh/v1","kind":"NodePool","metadata":{"name":"base"}}`)); err != nil {
		w.Fatal(err)
	}
	w.do(w.narrow("base", narrowest))
	w.edit("kubectl-edit", "base", `{"metadata":{"annotations":{"karpenops.nops.io/original":null}}}`)
	if r, err = w.Apply(w.ctx, restore, Meta{}); err != nil || r.Outcome != Undone || !equal(value(w.pool("base"), pathRequirements), list(w, narrower)) {
		w.Errorf("%+v, %v: %s", r, err, spec(w.pool("base")))
	}
}

// testGitOps has a tool own fields by server-side apply, and fights over one that we may have.
func testGitOps(w *world) {
	declared := object(w, `{"apiVersion":"karpenter.sh/v1","kind":"NodePool","metadata":{"name":"base","annotations":{"karpenops.nops.io/managed":"true","karpenops.nops.io/mode":"in-place"}},
		"spec":{"disruption":{"consolidateAfter":"1m"},"template":{"spec":{"nodeClassRef":{"group":"karpenter.k8s.aws","kind":"EC2NodeClass","name":"default"},"requirements":%s}}}}`, requirements)
	if _, err := w.apply("argocd-controller", true, declared); err != nil {
		w.Fatal(err)
	}
	r := w.refused(OwnedByOther, w.narrow("base", narrower))
	if len(r.Owners) == 0 || r.Owners[0].Manager != "argocd-controller" || r.Owners[0].Kind != OwnerGitOps {
		w.Errorf("owners: %+v", r.Owners)
	}
	if !equal(value(object(w, "%s", r.Want), pathRequirements), list(w, narrower)) {
		w.Errorf("what is wanted: %s", r.Want)
	}
	// The dry run of a server-side apply tells as much by itself.
	by, err := w.conflicts(w.ctx, poolsPath+"/base", w.pool("base"), w.narrow("base", narrower).Changes)
	if err != nil || len(by) != 1 || by[0].Manager != "argocd-controller" || by[0].Path != ".spec.template.spec.requirements" {
		w.Errorf("the API server names %+v, %v", by, err)
	}
	// Nobody's field is free, beside a tool's.
	if owners := w.Owners(w.pool("base"), pathWeight); len(owners) != 0 {
		w.Errorf("the weight belongs to %v", owners)
	}
	for i, path := range []string{pathRequirements, "/spec", "/spec/template/spec/requirements/0", "/metadata/annotations/karpenops.nops.io~1mode"} {
		if owners := w.Owners(w.pool("base"), path); len(owners) != 1 {
			w.Errorf("%d: %s belongs to %v", i, path, owners)
		}
	}

	// A tool that sets the limit of a sibling back, though it has no mark on it: twice, and it is left to it.
	w.do(w.sibling("base-nops", "base", 20))
	w.prove()
	for round := range 2 {
		w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
		w.edit("flux-operator", "base-nops", `{"spec":{"limits":{"cpu":"16"}}}`)
		s := w.settle()
		if len(s.Records) != 2 || s.Records[0].Outcome != Released || s.Records[0].Actor != "flux-operator" || !strings.Contains(s.Records[0].Reason, "set it back") {
			w.Fatalf("round %d: %+v", round, s.Records)
		}
		if round == 0 {
			if len(s.Findings) != 0 {
				w.Errorf("once is no fight: %+v", s.Findings)
			}
			w.refused(OwnedByOther, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
			// It lets go, and we try again.
			w.edit("flux-operator", "base-nops", `{"spec":{"limits":{"cpu":null}}}`)
			w.edit("nops-karpenops", "base-nops", `{"spec":{"limits":{"cpu":"16"}}}`)
			w.clock.pass(20 * time.Minute)
		}
	}
	s := w.settle()
	if len(s.Findings) != 1 || s.Findings[0].Code != CodeFight || s.Findings[0].Object != "NodePool/base-nops" || !strings.Contains(s.Findings[0].Message, "spec:\n  limits:\n    cpu: \"32\"") ||
		!equal(json.RawMessage(s.Findings[0].Patch), object(w, `{"spec":{"limits":{"cpu":"32"}}}`)) {
		w.Fatalf("findings: %+v", s.Findings)
	}
	if !slices.Contains(w.events("base-nops"), "GitOpsConflict") {
		w.Errorf("events: %v", w.events("base-nops"))
	}
	w.edit("flux-operator", "base-nops", `{"spec":{"limits":{"cpu":null}}}`)
	w.edit("nops-karpenops", "base-nops", `{"spec":{"limits":{"cpu":"16"}}}`)
	r = w.refused(Fighting, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
	if !strings.Contains(r.Error(), "flux-operator") {
		w.Errorf("%v", r)
	}
	w.do(w.set(plan.SetWeight, "base-nops", "base", pathWeight, int64(30))) // another field
	w.clock.pass(48 * time.Hour)
	w.refused(Fighting, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
	if _, err := w.Resume(w.ctx, "base-nops"); err != nil {
		w.Fatal(err)
	}
	w.prove()
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "32"))
	if s := w.settle(); len(s.Findings) != 0 {
		w.Errorf("after resuming: %+v", s.Findings)
	}

	// Twice, but not within an hour.
	w.do(w.set(plan.SetWeight, "base-nops", "base", pathWeight, int64(40)))
	for range 2 {
		w.edit("flux-operator", "base-nops", `{"spec":{"weight":31}}`)
		w.settle()
		w.edit("flux-operator", "base-nops", `{"spec":{"weight":null}}`)
		w.clock.pass(61 * time.Minute)
		w.do(w.set(plan.SetWeight, "base-nops", "base", pathWeight, int64(41)))
	}
	if s := w.settle(); len(s.Findings) != 0 {
		w.Errorf("two in more than an hour: %+v", s.Findings)
	}
	// Somebody who deletes what we make, twice.
	w.clock.pass(2 * time.Hour)
	w.settle()
	for range 2 {
		if _, err := w.call(w.ctx, http.MethodDelete, poolsPath+"/base-nops", "", nil); err != nil {
			w.Fatal(err)
		}
		w.settle()
		if w.state().journal.Fights == nil {
			w.do(w.sibling("base-nops", "base", 20))
		}
	}
	w.refused(Fighting, w.sibling("base-nops", "base", 20))
}

// testRaces has writers, a person, and Karpenter all write at once. Run it with -race.
func testRaces(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.prove()
	const writers, rounds = 4, 6
	stop := make(chan struct{})
	var noise, group sync.WaitGroup
	noise.Go(func() { // Karpenter counts nodes, and somebody labels
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(15 * time.Millisecond):
			}
			w.ready("base-nops", i%5)
			w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"seen":"`+string(rune('a'+i%26))+`"}}}`)
		}
	})
	var mu sync.Mutex
	applied, codes := map[string]bool{}, map[Code]int{}
	for n := range writers {
		group.Go(func() {
			for round := range rounds {
				value := string(rune('1'+n)) + string(rune('0'+round))
				r, err := w.Apply(w.ctx, w.set(plan.SetLimits, "base-nops", "base", pathCPU, value), Meta{})
				mu.Lock()
				if err == nil && r.Outcome == Applied {
					applied[value] = true
				} else if codes[CodeOf(err)]++; CodeOf(err) != ChangedSincePlan && CodeOf(err) != Conflict {
					w.Errorf("%+v, %v", r, err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	close(stop)
	noise.Wait()
	// Each write was of the value that it was planned for, so the records are a chain.
	have := "16"
	entries := w.state().ledger.Entries
	chain := 0
	for _, e := range entries {
		if e.Action != string(plan.SetLimits) || e.Outcome != Applied {
			continue
		}
		chain++
		if before := mapOf(e.Before)[pathCPU]; before != have {
			w.Errorf("record %s: it replaced %v, and %s was there", e.ID, before, have)
		}
		have, _ = mapOf(e.After)[pathCPU].(string)
	}
	if chain != len(applied) || chain == 0 || text(w.pool("base-nops"), "spec", "limits", "cpu") != have {
		w.Errorf("%d records, %d writes, %s at the end, want %s", chain, len(applied), text(w.pool("base-nops"), "spec", "limits", "cpu"), have)
	}
	if label(w.pool("base-nops"), "seen") == "" || len(w.state().journal.Intents) != 0 {
		w.Errorf("left: %+v", w.state().journal.Intents)
	}
	w.Logf("%d writes went through, refused were %v", chain, codes)

	// A stale resourceVersion by itself: what nobody looks at may have changed, the rest may not.
	live := w.pool("base-nops")
	w.edit("kubectl-label", "base-nops", `{"metadata":{"labels":{"seen":"now"}}}`)
	if err := w.dryRun(w.ctx, &job{kind: plan.SetLimits, object: kindPool, name: "base-nops", path: poolsPath + "/base-nops", changes: []plan.Change{{Path: pathCPU, Before: have, After: "1"}}}, live); err != nil {
		w.Errorf("with another label: %v", err)
	}
	w.edit("kubectl-edit", "base-nops", `{"spec":{"weight":25}}`)
	stale := &job{kind: plan.SetLimits, object: kindPool, name: "base-nops", path: poolsPath + "/base-nops", changes: []plan.Change{{Path: pathCPU, Before: have, After: "1"}}}
	if err := w.dryRun(w.ctx, stale, live); CodeOf(err) != Conflict {
		w.Errorf("a dry run of a stale object: %v", err)
	}
	if err := w.commit(w.ctx, stale, live, &cluster{}); CodeOf(err) != Conflict || len(w.state().journal.Intents) != 0 {
		w.Errorf("a write of a stale object: %v", err)
	}
	// And a deletion.
	remove := &job{kind: plan.DeleteSibling, object: kindPool, name: "base-nops", path: poolsPath + "/base-nops"}
	if err := w.commit(w.ctx, remove, live, &cluster{}); CodeOf(err) != Conflict || w.pool("base-nops") == nil {
		w.Errorf("a deletion of a stale object: %v", err)
	}
}
