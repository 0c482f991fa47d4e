package write

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
)

// testRefusals is a table of writes that are not made, each with what it would have cost. Nothing in the cluster may differ after any.
func testRefusals(w *world) {
	for name, annotations := range map[string]string{
		"base": `{}`, "not-opted-in": `{"karpenops.nops.io/managed":null}`, "opted-out": `{"karpenops.nops.io/managed":"false","imported_by":"nops"}`,
		"advised": `{"karpenops.nops.io/mode":"advise"}`, "misspelt": `{"karpenops.nops.io/mode":"in-plaace"}`, "paused": `{"karpenops.nops.io/paused":"true","karpenops.nops.io/paused-by":"ann: demo"}`,
		"paused-oddly": `{"karpenops.nops.io/paused":"yes please"}`, "frozen": `{"karpenops.nops.io/freeze":"* * * * * 1h"}`, "frozen-badly": `{"karpenops.nops.io/freeze":"at night"}`,
		"in-place": `{"karpenops.nops.io/mode":"in-place"}`, "argo": `{"karpenops.nops.io/mode":"in-place","argocd.argoproj.io/tracking-id":"a:b/c"}`,
		"broken-original": `{"karpenops.nops.io/mode":"in-place","karpenops.nops.io/original":"{"}`,
	} {
		w.make("kubectl-create", w.userPool(name))
		w.edit("kubectl-create", name, `{"metadata":{"annotations":`+annotations+`},"spec":{"weight":null}}`)
	}
	w.edit("kubectl-edit", "base", `{"spec":{"weight":10}}`)
	w.make("kubectl-create", with(w.userPool("static"), []plan.Change{
		{Path: "/spec/replicas", After: int64(2)}, {Path: pathWeight}, {Path: pathLimits}, {Path: "/metadata/annotations/karpenops.nops.io~1mode", After: "in-place"},
	}))
	w.do(w.sibling("base-nops", "base", 20))
	w.prove()
	// A copy of it that somebody made, as people do, with everything that it says of itself.
	mine := w.pool("base-nops")
	copied := map[string]any{"apiVersion": mine["apiVersion"], "kind": mine["kind"], "spec": mine["spec"], "metadata": map[string]any{"name": "copied", "labels": value(mine, "/metadata/labels"), "annotations": value(mine, "/metadata/annotations")}}
	w.make("kubectl-create", with(copied, []plan.Change{{Path: pathWeight, After: int64(21)}}))
	w.do(w.sibling("adopted-nops", "base", 22))
	w.prove()
	w.edit("argocd-controller", "adopted-nops", `{"metadata":{"annotations":{"argocd.argoproj.io/tracking-id":"a:b/c"}}}`)
	w.do(w.sibling("edited-nops", "base", 23))
	w.edit("kubectl-edit", "edited-nops", `{"spec":{"limits":{"cpu":"8"}}}`)
	w.claim("in-place-aaaaa", "in-place")
	w.claim("base-nops-aaaaa", "base-nops")
	w.clock.pass(time.Hour)
	w.prove()

	narrow := func(pool string, drift ...string) plan.Action {
		a := w.set(plan.Narrow, pool, pool, pathRequirements, list(w, narrower))
		a.Drift = drift
		return a
	}
	create := func(changes ...plan.Change) plan.Action { return w.sibling("new-nops", "base", 50, changes...) }
	of := func(base string) plan.Action { return w.sibling("new-nops", base, 50) }
	overlay := func(requirements string) plan.Action {
		return plan.Action{ID: "o", Kind: plan.CreateOverlay, ObjectKind: kindOverlay, Name: "o", Base: "base", Object: object(w, `{"apiVersion":"karpenter.sh/v1alpha1","kind":"NodeOverlay",
			"metadata":{"name":"o","labels":{"karpenops.nops.io/owned":"true"}},"spec":{"price":"0.01","requirements":%s}}`, requirements)}
	}
	remove := func(pool string) plan.Action {
		return plan.Action{ID: "x", Kind: plan.DeleteSibling, ObjectKind: kindPool, Name: pool, Base: "base"}
	}
	change := func(a plan.Action, f func(*plan.Action)) plan.Action { f(&a); return a }
	spec := "/spec/template/spec"
	cases := []struct {
		name, reason string
		code         Code
		action       plan.Action
		offerings    int // 0: 20
	}{
		{"waiting", "the planner said so", Paused, change(create(), func(a *plan.Action) { a.Waiting = "mode advise" }), 0},
		{"node class", "every field of it may rotate every node", Invariant, plan.Action{ID: "n", Kind: plan.Narrow, ObjectKind: "EC2NodeClass", Name: "default"}, 0},
		{"node claim", "deleting one bypasses budgets", Invariant, plan.Action{ID: "n", Kind: plan.DeleteSibling, ObjectKind: "NodeClaim", Name: "in-place-aaaaa"}, 0},
		{"no name", "the collection would be deleted", Invariant, remove(""), 0},
		{"name with a path", "another object would be written", Invariant, remove("x/status"), 0},
		{"unknown kind", "a newer planner", Invariant, plan.Action{ID: "n", Kind: "rotate", ObjectKind: kindPool, Name: "base"}, 0},

		{"of one that is not opted in", "nobody agreed", Invariant, of("not-opted-in"), 0},
		{"of one that is opted out", "managed: false goes before imported_by", Invariant, of("opted-out"), 0},
		{"of one with mode advise", "the user's word for this pool", Invariant, of("advised"), 0},
		{"of one with a mode that is none", "what is not understood allows nothing", Invariant, of("misspelt"), 0},
		{"of a static one", "it has no weight", Invariant, of("static"), 0},
		{"of one that is not there", "it was deleted since", ChangedSincePlan, of("no-such"), 0},
		{"of one of ours", "a sibling of a sibling", Invariant, change(w.sibling("new-nops", "base-nops", 50), func(*plan.Action) {}), 0},
		{"of a paused one", "a pause holds for what is beside it, too", Paused, of("paused"), 0},
		{"of one that is paused oddly", "whoever wrote it wanted a pause", Paused, of("paused-oddly"), 0},
		{"of a frozen one", "so does a freeze", Frozen, of("frozen"), 0},
		{"of one whose freeze cannot be read", "whoever wrote it wanted a freeze", Frozen, of("frozen-badly"), 0},
		{"name that is taken", "it is the user's", ChangedSincePlan, w.sibling("in-place", "base", 50), 0},
		{"without the label", "nobody would find it again", Invariant, create(plan.Change{Path: "/metadata/labels/karpenops.nops.io~1owned"}), 0},
		{"with Argo's mark", "Argo CD would prune it, with its nodes", Invariant, create(plan.Change{Path: "/metadata/annotations/argocd.argoproj.io~1tracking-id", After: "a:b/c"}), 0},
		{"with Flux's label", "Flux would prune it", Invariant, create(plan.Change{Path: "/metadata/labels/kustomize.toolkit.fluxcd.io~1name", After: "a"}), 0},
		{"with Helm's annotation", "Helm would take it over", Invariant, create(plan.Change{Path: "/metadata/annotations/meta.helm.sh~1release-name", After: "a"}), 0},
		{"with our release's label", "uninstalling would delete it, with its nodes", Invariant, create(plan.Change{Path: "/metadata/labels/app.kubernetes.io~1part-of", After: "nops-kubernetes-agent"}), 0},
		{"with an owner", "garbage collection would delete it, with its nodes", Invariant, create(plan.Change{Path: "/metadata/ownerReferences", After: []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}}}), 0},
		{"with a finalizer", "it could not be deleted", Invariant, create(plan.Change{Path: "/metadata/finalizers", After: []any{"a/b"}}), 0},
		{"of another base than it says", "undo would not find it", Invariant, create(plan.Change{Path: "/metadata/annotations/karpenops.nops.io~1base", After: "in-place"}), 0},
		{"with another node class", "other machines than the user's", Invariant, create(plan.Change{Path: spec + "/nodeClassRef/name", After: "other"}), 0},
		{"without the taints", "pods would come that should not", Invariant, create(plan.Change{Path: spec + "/taints", After: []any{map[string]any{"key": "a", "effect": "NoSchedule"}}}), 0},
		{"with another life", "expiry knows no budgets", Invariant, create(plan.Change{Path: spec + "/expireAfter", After: "1h"}), 0},
		{"with replicas", "a static one", Invariant, create(plan.Change{Path: "/spec/replicas", After: int64(1)}), 0},
		{"without a limit", "it would take everything", Invariant, create(plan.Change{Path: pathCPU}), 0},
		{"with a negative limit", "the API server takes it", Invariant, create(plan.Change{Path: pathCPU, After: "-1"}), 0},
		{"with the weight of another", "the order would go by names", Invariant, w.sibling("new-nops", "base", 20), 0},
		{"with the weight of the base", "likewise", Invariant, w.sibling("new-nops", "base", 10), 0},
		{"with a weight below the base", "nothing would go to it", Invariant, w.sibling("new-nops", "base", 5), 0},
		{"with the weight 101", "out of bounds", Invariant, w.sibling("new-nops", "base", 101), 0},
		{"without a weight", "it is 0 then", Invariant, create(plan.Change{Path: pathWeight}), 0},
		{"that can launch nothing", "Karpenter calls it ready", Invariant, create(), -2},
		{"of which nothing is known", "no catalogue", Invariant, create(), -1},
		{"that admission refuses", "it is the server's to say", RejectedByServer, create(plan.Change{Path: pathRequirements, After: list(w, `[{"key":"karpenter.k8s.aws/no-such","operator":"Exists"}]`)}), 0},
		{"with an unknown field", "it would be dropped, silently", RejectedByServer, create(plan.Change{Path: "/spec/wieght", After: int64(1)}), 0},

		{"limits of the user's", "only of our own", Invariant, w.set(plan.SetLimits, "base", "base", pathCPU, "50"), 0},
		{"weight of the user's", "only of our own", Invariant, w.set(plan.SetWeight, "base", "base", pathWeight, int64(50)), 0},
		{"requirements of the user's, as if they were ours", "in place is another kind", Invariant, w.set(plan.SetRequirements, "base", "base", pathRequirements, list(w, narrower)), 0},
		{"disruption that the base does not have", "a sibling follows it", ChangedSincePlan, w.set(plan.SetDisruption, "base-nops", "base", pathDisruption, map[string]any{"consolidateAfter": "9m"}), 0},
		{"limits of a copy", "somebody else made it", Invariant, w.set(plan.SetLimits, "copied", "base", pathCPU, "50"), 0},
		{"limits of one that Argo CD took over", "it is its now", Invariant, w.set(plan.SetLimits, "adopted-nops", "base", pathCPU, "50"), 0},
		{"limits that a person set", "an edit by somebody else wins", OwnedByOther, w.set(plan.SetLimits, "edited-nops", "base", pathCPU, "50"), 0},
		{"limits taken away", "it would take everything", Invariant, w.set(plan.SetLimits, "base-nops", "base", pathCPU, nil), 0},
		{"limits below zero", "the API server takes it", Invariant, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "-1"), 0},
		{"limits that are none", "no quantity", Invariant, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "many"), 0},
		{"weight as limits", "an action is about its fields", Invariant, w.set(plan.SetLimits, "base-nops", "base", pathWeight, int64(50)), 0},
		{"budgets", "they are the user's", Invariant, w.set(plan.SetLimits, "base-nops", "base", "/spec/disruption/budgets", []any{}), 0},
		{"node class", "every node would drift", Invariant, w.set(plan.Narrow, "in-place", "in-place", spec+"/nodeClassRef/name", "other"), 0},
		{"our pause", "that is the user's word", Invariant, w.set(plan.SetLimits, "base-nops", "base", "/metadata/annotations/karpenops.nops.io~1paused", "false"), 0},
		{"nothing", "an action without a change", Invariant, plan.Action{ID: "n", Kind: plan.SetLimits, ObjectKind: kindPool, Name: "base-nops", Base: "base"}, 0},
		{"limits that changed", "the plan was made for another value", ChangedSincePlan, change(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "50"), func(a *plan.Action) { a.Changes[0].Before = "17" }), 0},
		{"limits of what is gone", "it was deleted since", ChangedSincePlan, w.set(plan.SetLimits, "no-such", "base", pathCPU, "50"), 0},
		{"drain to something", "it is limits.cpu 0", Invariant, w.set(plan.DrainSibling, "base-nops", "base", pathCPU, "1"), 0},

		{"delete the user's", "never", Invariant, remove("base"), 0},
		{"delete a copy", "somebody else made it", Invariant, remove("copied"), 0},
		{"delete one that Argo CD took over", "it is its now", Invariant, remove("adopted-nops"), 0},
		{"delete one in use", "its nodes would go at once", Invariant, remove("base-nops"), 0},
		{"delete one that could be used", "a node may come between the look and the deletion", Invariant, remove("edited-nops"), 0},

		{"narrow without consent", "it is a person's field", OwnedByOther, narrow("base"), 0},
		{"narrow what Argo CD has", "it would be set back", OwnedByOther, narrow("argo"), 0},
		{"narrow a static one", "never", Invariant, narrow("static"), 0},
		{"narrow one that is not opted in", "nobody agreed", Invariant, narrow("not-opted-in"), 0},
		{"narrow with drift", "nodes would be replaced", Invariant, narrow("in-place", "in-place-aaaaa"), 0},
		{"narrow to nothing", "Karpenter calls it ready", Invariant, narrow("in-place"), -2},
		{"narrow what cannot be given back", "the annotation cannot be read", Invariant, narrow("broken-original"), 0},
		{"narrow a paused one", "paused", Paused, narrow("paused"), 0},

		{"overlay of everything", "every node of the user's would move", Invariant, overlay(`[]`), 0},
		{"overlay of a family", "likewise", Invariant, overlay(`[{"key":"karpenter.k8s.aws/instance-family","operator":"In","values":["m5"]}]`), 0},
		{"overlay of all but one", "likewise", Invariant, overlay(`[{"key":"karpenter.sh/nodepool","operator":"NotIn","values":["base-nops"]}]`), 0},
		{"overlay of the user's", "its nodes would move", Invariant, overlay(`[{"key":"karpenter.sh/nodepool","operator":"In","values":["base-nops","base"]}]`), 0},
		{"overlay of a copy", "it is the user's", Invariant, overlay(`[{"key":"karpenter.sh/nodepool","operator":"In","values":["copied"]}]`), 0},
		{"overlay with a negative price", "it is the server's to say", RejectedByServer, change(overlay(`[{"key":"karpenter.sh/nodepool","operator":"In","values":["base-nops"]}]`), func(a *plan.Action) { mapOf(a.Object["spec"])["price"] = "-1" }), 0},
	}
	const least = 70
	if len(cases) < least {
		w.Fatalf("%d cases, at least %d were expected", len(cases), least)
	}
	before := w.everything()
	for _, c := range cases {
		w.offerings = 20
		if c.offerings != 0 {
			w.offerings = c.offerings
		}
		if c.offerings == -2 {
			w.offerings = 0
		}
		record, err := w.Apply(w.ctx, c.action, Meta{})
		if CodeOf(err) != c.code || record.Outcome != Refused || !strings.HasPrefix(record.Explanation, string(c.code)+": ") {
			w.Errorf("%s (%s): %+v, %v; want %s", c.name, c.reason, record, err, c.code)
		}
		if after := w.everything(); !maps.Equal(before, after) {
			w.Errorf("%s (%s): something was written", c.name, c.reason)
			before = after
		}
	}
	w.offerings = 20

	for annotation, code := range map[string]Code{
		`{"karpenops.nops.io/paused":"true","karpenops.nops.io/paused-by":"ann: incident"}`: Paused, `{"karpenops.nops.io/freeze":"* * * * * 1h"}`: Frozen, `{"karpenops.nops.io/freeze":"60 0 * * * 1h"}`: Frozen,
	} {
		body := json.RawMessage(`{"metadata":{"annotations":` + annotation + `}}`)
		if _, err := w.call(w.ctx, http.MethodPatch, w.statePath(), mergePatch, body); err != nil {
			w.Fatal(err)
		}
		for _, a := range []plan.Action{create(), narrow("in-place"), w.set(plan.DrainSibling, "base-nops", "base", pathCPU, "0")} {
			if r := w.refused(code, a); code == Paused && !strings.Contains(r.Why, "ann: incident") {
				w.Errorf("it does not say who paused: %v", r)
			}
		}
		if _, err := w.call(w.ctx, http.MethodPatch, w.statePath(), mergePatch, json.RawMessage(`{"metadata":{"annotations":{"karpenops.nops.io/paused":null,"karpenops.nops.io/paused-by":null,"karpenops.nops.io/freeze":null}}}`)); err != nil {
			w.Fatal(err)
		}
	}
	if after := w.everything(); !maps.Equal(before, after) {
		w.Error("something was written in spite of a pause")
	}
	// Refusals about the moment are nothing for the ledger, and others are written down once.
	count := len(w.state().ledger.Entries)
	w.refused(Invariant, narrow("in-place", "in-place-aaaaa"))
	w.refused(Invariant, narrow("in-place", "in-place-aaaaa"))
	if now := len(w.state().ledger.Entries); now > count+1 {
		w.Errorf("%d entries more for one refusal that was repeated", now-count)
	}

	// With what is known of the nodes, the plan's word is not what counts, and the budgets of the moment are.
	w.Predict = func(map[string]any, []map[string]any) []string { return []string{"in-place-aaaaa"} }
	w.refused(Invariant, narrow("in-place"))
	w.Limits.DriftCap = 3
	w.edit("kubectl-edit", "in-place", `{"spec":{"disruption":{"budgets":[{"nodes":"0","reasons":["Drifted"]},{"nodes":"10%"}]}}}`)
	w.refused(RateLimited, narrow("in-place"))
	w.edit("kubectl-edit", "in-place", `{"spec":{"disruption":{"budgets":[{"nodes":"1","reasons":["Drifted"]}]}}}`)
	w.do(narrow("in-place"))
}

// everything is the resourceVersion of all that could be written.
func (w *world) everything() map[string]string {
	w.Helper()
	all := map[string]string{}
	for _, path := range []string{poolsPath, overlaysPath, claimsPath} {
		items, err := w.Writer.list(w.ctx, path)
		if err != nil {
			w.Fatal(err)
		}
		for _, o := range items {
			all[path+"/"+nameOf(o)] = text(o, "metadata", "resourceVersion")
		}
	}
	return all
}

func TestRefusalsAreErrors(t *testing.T) {
	var err error = refuse(Frozen, "NodePool/a", "/spec/weight", "frozen until %s", "noon")
	if CodeOf(errors.Join(err)) != Frozen || CodeOf(errors.New("x")) != "" || err.Error() != "NodePool/a /spec/weight: frozen: frozen until noon" {
		t.Errorf("%v", err)
	}
}
