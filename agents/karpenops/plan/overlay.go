package plan

import (
	"fmt"
	"slices"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// discount is what an overlay takes off the price of a commitment's sibling. What is committed is paid whether it is used or not, so a
// launch within the share costs nothing more: the price must lie below that of spot, or Karpenter's consolidation will not move what runs there
// already. It is a share and not a price, and not all of it: NodeOverlays have one price for whatever they match, and under one price, or
// none, the largest machine would be as cheap as the smallest.
//
// What has to be given back would be held by it: nothing is cheaper. So the overlay is neutral while the nodes have more than there is (a lease fell,
// others use more, the end is near), or a whole node more than the limit, and cheap again when they have not. The headroom lies between the two: up to
// what there is nodes are kept, up to the limit they are launched. A closed sibling has nothing to fill, so its overlay goes.
const (
	discount = "-95%"
	neutral  = "+0%"
)

// neutralises says whether an action takes a discount back.
func neutralises(a Action) bool {
	return a.Kind == SetOverlay && len(a.Changes) > 0 && slices.ContainsFunc(a.Changes, func(c Change) bool { return c.Path == "/spec/priceAdjustment" && c.After == neutral })
}

// cheapen plans the overlay of a commitment's sibling, given what its limit will be.
func (p *planner) cheapen(b *base, s *Pool, w *want, next float64) {
	if !p.in.Karpenter.NodeOverlay {
		p.say(b.Name, "commitments: what runs already is not moved to %s: that takes Karpenter's feature gate NodeOverlay, which is off", s.Name)
		return
	}
	if closed(s) {
		return
	}
	adjustment := discount
	if s.CPUUsed > max(w.most, next) || s.CPUUsed-next >= p.band(s, resourceCPU, next) && s.CPUUsed > next {
		adjustment = neutral
	}
	if s.Overlay == nil && adjustment == neutral {
		return // it costs what it costs
	}
	reason := fmt.Sprintf("what is committed is paid already: %s on the prices of %s alone, so that running nodes move there, as its budgets allow, until its limit", discount, s.Name)
	if adjustment == neutral {
		reason = fmt.Sprintf("%s is to give back %s: at its true price, for at the discount nothing is cheaper", s.Name, human(resourceCPU, s.CPUUsed-min(next, w.most)))
	}
	switch o := s.Overlay; {
	case o == nil:
		p.do(step{rank: rankOverlay, actions: []Action{{Kind: CreateOverlay, ObjectKind: "NodeOverlay", Name: s.Name, Base: b.Name, Reason: reason, Object: map[string]any{
			"apiVersion": "karpenter.sh/v1alpha1", "kind": "NodeOverlay",
			"metadata": map[string]any{
				"name": s.Name, "labels": map[string]any{karpenstate.LabelOwned: "true"},
				"annotations": map[string]any{karpenstate.AnnotationBase: b.Name, karpenstate.AnnotationPurpose: commitmentPurpose},
			},
			"spec": map[string]any{
				"requirements": []any{
					map[string]any{"key": offering.LabelNodePool, "operator": string(offering.In), "values": []any{s.Name}},
					map[string]any{"key": offering.LabelCapacityType, "operator": string(offering.In), "values": []any{nopsapi.CapacityOnDemand}},
				},
				"priceAdjustment": discount,
			},
		}}}})
	case o.Price == "" && o.Adjustment == "" || o.Price == "" && o.Adjustment == adjustment:
	default:
		var changes []Change
		if o.Price != "" {
			changes = append(changes, Change{Path: "/spec/price", Before: o.Price})
		}
		if o.Adjustment != adjustment {
			var before any
			if o.Adjustment != "" {
				before = o.Adjustment
			}
			changes = append(changes, Change{Path: "/spec/priceAdjustment", Before: before, After: adjustment})
		}
		p.do(step{rank: rankOverlay, actions: []Action{{Kind: SetOverlay, ObjectKind: "NodeOverlay", Name: o.Name, Base: b.Name, Reason: reason, Changes: changes}}})
	}
}
