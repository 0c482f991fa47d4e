package write

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Approval is a person's yes to what a finding proposes.
type Approval struct {
	Finding nopsapi.KarpenterFinding
	By      string
	// Still says why the object is not what the finding was made for any more, "" if it is. Whoever found it knows: the finding, made of the
	// live object once more, has the same ID and patch. nil: not asked.
	Still func(live map[string]any) string
	// Generation of the object when the finding was made; 0: not compared.
	Generation int64
	MarketSeq  uint64
	CommitSeq  uint64
}

// Approve carries out a finding's patch. What it changes is kept, and reverted like everything else. A person's fields may be changed by a person's
// word; those of a GitOps tool may not, which would only set them back.
func (w *Writer) Approve(ctx context.Context, a Approval) (nopsapi.KarpenterRecord, error) {
	kind, name, _ := strings.Cut(a.Finding.Object, "/")
	now := w.Now()
	j := &job{
		kind: actionApprove, object: kind, name: name, base: name, approved: true,
		record: nopsapi.KarpenterRecord{
			ID: recordID("approve-"+a.Finding.ID, now), At: now.UTC(), Actor: a.By, Action: actionApprove, Object: a.Finding.Object, Reason: a.Finding.Code + ": " + a.Finding.Message,
			MarketSeq: a.MarketSeq, CommitSeq: a.CommitSeq, Predicted: a.Finding.Drift,
		},
	}
	j.still = func(live map[string]any) string {
		if generation, _ := integer(live, "metadata", "generation"); a.Generation != 0 && generation != a.Generation {
			return fmt.Sprintf("its generation is %d, the finding was made for %d", generation, a.Generation)
		}
		if a.Still != nil {
			return a.Still(live)
		}
		return ""
	}
	fail := func(err error) (nopsapi.KarpenterRecord, error) {
		j.record.Outcome, j.record.Explanation = Refused, err.Error()
		return j.record, err
	}
	if a.By == "" {
		return fail(refuse(Invariant, a.Finding.Object, "", "an approval names who approves"))
	}
	if a.Finding.Patch == "" {
		return fail(refuse(Invariant, a.Finding.Object, "", "finding %s proposes no change", a.Finding.ID))
	}
	var v any
	if err := kjson.Unmarshal([]byte(a.Finding.Patch), &v); err != nil {
		return fail(refuse(Invariant, a.Finding.Object, "", "the patch of finding %s cannot be read: %v", a.Finding.ID, err))
	}
	patch, is := v.(map[string]any)
	if !is {
		return fail(refuse(Invariant, a.Finding.Object, "", "the patch of finding %s is no object", a.Finding.ID))
	}
	if kind == "" || name == "" || strings.ContainsAny(name, "/?#%") {
		return fail(refuse(Invariant, a.Finding.Object, "", "the finding names no object, as in NodePool/default"))
	}
	c, err := w.look(ctx)
	if err != nil {
		return fail(err)
	}
	if j.path, err = w.classPath(ctx, kind, name, c); err != nil {
		return fail(err)
	}
	for k := range patch {
		if k != "spec" {
			return fail(refuse(Invariant, j.ref(), pointer(k), "findings propose changes of spec alone"))
		}
	}
	j.patch = patch
	return w.run(ctx, j)
}

// leaves are the changes that a merge patch makes to an object: one for each value that is not a map in both.
func leaves(live map[string]any, path []string, patch map[string]any) []plan.Change {
	var changes []plan.Change
	for _, k := range slices.Sorted(maps.Keys(patch)) {
		below := append(slices.Clone(path), k)
		have, _ := at(live, below...)
		if inner, is := patch[k].(map[string]any); is {
			if _, both := have.(map[string]any); both {
				changes = append(changes, leaves(live, below, inner)...)
				continue
			}
		}
		if !equal(have, patch[k]) {
			changes = append(changes, plan.Change{Path: pointer(below...), Before: have, After: patch[k]})
		}
	}
	return changes
}

func (w *Writer) checkApproved(ctx context.Context, j *job, live map[string]any, c *cluster) (bool, error) {
	ref := j.ref()
	if live == nil {
		return false, refuse(ChangedSincePlan, ref, "", "it is not there")
	}
	if why := j.still(live); why != "" {
		return false, refuse(ChangedSincePlan, ref, "", "%s", why)
	}
	if j.object != kindPool && !classKinds(c)[j.object] {
		return false, refuse(Invariant, ref, "", "findings are about NodePools and their node classes")
	}
	if label(live, karpenstate.LabelOwned) != "" {
		return false, refuse(Invariant, ref, "", "it is ours: what becomes of it is not a matter of approval")
	}
	j.changes = leaves(live, nil, j.patch)
	j.planned = slices.Clone(j.changes)
	if len(j.changes) == 0 {
		return true, nil
	}
	before, after := map[string]any{}, map[string]any{}
	requirements := false
	for _, ch := range j.changes {
		before[ch.Path], after[ch.Path] = small(ch.Before), small(ch.After)
		requirements = requirements || strings.HasPrefix(ch.Path, "/spec/template")
		if ch.Path == "/spec/replicas" {
			return false, refuse(Invariant, ref, ch.Path, "a NodePool is static or it is not, and is never touched if it is")
		}
	}
	j.record.Before, j.record.After = before, after
	changed := with(live, j.planned)
	if j.object == kindPool && requirements {
		if err := w.effective(j, changed); err != nil {
			return false, err
		}
		if w.Predict != nil {
			j.drift = w.Predict(changed, c.claims[j.name])
		}
	}
	if j.object != kindPool || requirements { // it may well rotate everything, which is what was approved
		for _, pool := range slices.Sorted(maps.Keys(c.pools)) {
			if pool == j.name && j.object == kindPool || j.object != kindPool && text(c.pools[pool], "spec", "template", "spec", "nodeClassRef", "name") == j.name {
				for _, claim := range c.claims[pool] {
					j.allowed = append(j.allowed, nameOf(claim))
				}
			}
		}
	}
	if err := w.mine(ctx, j, live); err != nil {
		return false, err
	}
	return false, j.remember(live)
}

// classKinds are the kinds of node classes that NodePools refer to.
func classKinds(c *cluster) map[string]bool {
	kinds := map[string]bool{}
	for _, p := range c.pools {
		if k := text(p, "spec", "template", "spec", "nodeClassRef", "kind"); k != "" {
			kinds[k] = true
		}
	}
	return kinds
}

// classPath finds the API's path of a NodePool or of a node class of any provider: its group is what NodePools say, the rest is discovery.
func (w *Writer) classPath(ctx context.Context, kind, name string, c *cluster) (string, error) {
	if kind == kindPool {
		return poolsPath + "/" + name, nil
	}
	group := ""
	for _, pool := range slices.Sorted(maps.Keys(c.pools)) {
		if ref := mapOf(value(c.pools[pool], "/spec/template/spec/nodeClassRef")); text(ref, "kind") == kind {
			group = text(ref, "group")
		}
	}
	if group == "" {
		return "", refuse(Invariant, refOf(kind, name), "", "no NodePool refers to a node class of this kind")
	}
	versions, err := w.get(ctx, "/apis/"+group)
	if err != nil {
		return "", fmt.Errorf("finding the API of %s: %w", refOf(kind, name), err)
	}
	version := text(versions, "preferredVersion", "groupVersion")
	resources, err := w.get(ctx, "/apis/"+version)
	if err != nil {
		return "", fmt.Errorf("finding the API of %s: %w", refOf(kind, name), err)
	}
	all, _ := resources["resources"].([]any)
	for _, r := range all {
		if m := mapOf(r); text(m, "kind") == kind && !strings.Contains(text(m, "name"), "/") {
			return "/apis/" + version + "/" + text(m, "name") + "/" + name, nil
		}
	}
	return "", refuse(Invariant, refOf(kind, name), "", "%s serves no such kind", version)
}
