package cli

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// leftovers is what karpenops made or changed, as the cluster has it now: what nobody tends when the agent is gone.
type leftovers struct {
	Siblings []leftSibling `json:"siblings"`
	Strays   []leftSibling `json:"strays,omitempty"` // that it made, and that somebody took the label from: it does not touch them any more
	InPlace  []string      `json:"in_place"`         // NodePools of the user's that it changed
	Overlays []string      `json:"overlays"`         // NodeOverlays
}

// leftSibling is a NodePool that karpenops made.
type leftSibling struct {
	Name    string `json:"name"`
	Base    string `json:"base,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	Nodes   int64  `json:"nodes"`
}

func (l leftovers) any() bool {
	return len(l.Siblings)+len(l.Strays)+len(l.InPlace)+len(l.Overlays) > 0
}

// reach is what of it karpenops can take back.
func (l leftovers) reach() leftovers {
	l.Strays = nil
	return l
}

func (l leftovers) nodes() (n int64) {
	for _, s := range l.Siblings {
		n += s.Nodes
	}
	return n
}

// String is one line.
func (l leftovers) String() string {
	var parts []string
	names := func(of []leftSibling) string {
		var names []string
		for _, s := range of {
			names = append(names, fmt.Sprintf("%s (%s)", s.Name, count(int(s.Nodes), "node")))
		}
		return strings.Join(names, ", ")
	}
	if len(l.Siblings) > 0 {
		parts = append(parts, fmt.Sprintf("%s that it made, with %s: %s", count(len(l.Siblings), "NodePool"), count(int(l.nodes()), "node"), names(l.Siblings)))
	}
	if len(l.Strays) > 0 {
		parts = append(parts, fmt.Sprintf("%s that it made and does not touch, for the label %s is gone: %s", count(len(l.Strays), "NodePool"), karpenstate.LabelOwned, names(l.Strays)))
	}
	if len(l.Overlays) > 0 {
		parts = append(parts, fmt.Sprintf("%s: %s", count(len(l.Overlays), "NodeOverlay"), strings.Join(l.Overlays, ", ")))
	}
	if len(l.InPlace) > 0 {
		parts = append(parts, fmt.Sprintf("%s of yours that it changed in place: %s", count(len(l.InPlace), "NodePool"), strings.Join(l.InPlace, ", ")))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

// leftovers looks for them. Without Karpenter there are none.
func (k *karpenSession) leftovers(ctx context.Context) (leftovers, error) {
	l := leftovers{Siblings: []leftSibling{}, InPlace: []string{}, Overlays: []string{}}
	pools, err := k.list(ctx, "NodePool")
	if err != nil {
		return l, err
	}
	for i := range pools {
		p := &pools[i]
		annotations := p.GetAnnotations()
		sibling := leftSibling{Name: p.GetName(), Base: annotations[karpenstate.AnnotationBase], Purpose: annotations[karpenstate.AnnotationPurpose], Nodes: nodesOf(p)}
		switch {
		case owned(p):
			l.Siblings = append(l.Siblings, sibling)
		case sibling.Base != "":
			l.Strays = append(l.Strays, sibling)
		case annotations[karpenstate.AnnotationOriginal] != "":
			l.InPlace = append(l.InPlace, p.GetName())
		}
	}
	overlays, err := k.list(ctx, "NodeOverlay")
	if err != nil {
		return l, err
	}
	for i := range overlays {
		if owned(&overlays[i]) {
			l.Overlays = append(l.Overlays, overlays[i].GetName())
		}
	}
	return l, nil
}

func owned(o *unstructured.Unstructured) bool { return o.GetLabels()[karpenstate.LabelOwned] == "true" }

// nodesOf is how many nodes Karpenter counts in a NodePool: status.nodes, and in older versions status.resources.nodes.
func nodesOf(p *unstructured.Unstructured) int64 {
	if n, ok, err := unstructured.NestedInt64(p.Object, "status", "nodes"); ok && err == nil {
		return n
	}
	text, _, _ := unstructured.NestedString(p.Object, "status", "resources", "nodes")
	var n int64
	_, _ = fmt.Sscan(text, &n)
	return n
}

// karpenRemains are the leftovers of a component that goes.
type karpenRemains struct {
	k *karpenSession
	leftovers
}

func (r *karpenRemains) look(ctx context.Context) (err error) {
	r.leftovers, err = r.k.leftovers(ctx)
	return err
}

func (r *karpenRemains) words() remainsWords {
	return remainsWords{
		program: karpenProgram(), what: "what karpenops made", unknown: "whether karpenops left NodePools is not known",
		question: "Take that back first, draining nodes within their disruption budgets?",
		demand:   "would leave with nobody to tend it:", choices: "--revert takes it back first, within the disruption budgets; --no-revert leaves it as it is",
		warning: event.Warning{ID: warnLeftovers, Message: "nobody tends any more: ", Hint: "nopsctl karpenops revert --all takes it back, also while karpenops is switched off"},
		stays:   "karpenops stays, and is paused", resume: "nopsctl karpenops resume lets it work again as before",
	}
}

func (r *karpenRemains) takeBack(ctx context.Context, job agentJob, operation string) error {
	// While it is drained the agent must not make it anew.
	if _, _, err := r.k.pauseAll(ctx, r.k.whoami(ctx)+": nopsctl "+operation); err != nil {
		return err
	}
	if err := r.k.revert(ctx, job, nil, r.leftovers); err != nil {
		return err
	}
	left, err := r.k.leftovers(ctx)
	switch {
	case err != nil:
		return err
	case left.reach().any():
		return &failure{class: "failed", reason: "there still is " + left.reach().String()}
	case len(left.Strays) > 0:
		job.observe.Emit(strayed(left))
	}
	return nil
}

// after has nothing to do: what karpenops changed, revert takes back.
func (r *karpenRemains) after(context.Context, event.Func) error { return nil }

// settle ends the pause, which was the operation's own.
func (r *karpenRemains) settle(ctx context.Context) error {
	_, _, err := r.k.pauseAll(ctx, "")
	return err
}
