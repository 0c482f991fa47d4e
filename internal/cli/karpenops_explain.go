package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

type karpenExplainOptions struct {
	karpenFlags
	pool string
}

// karpenExplainAnswer is the JSON of karpenops explain.
type karpenExplainAnswer struct {
	SchemaVersion int                        `json:"schema_version"`
	Record        *karpenWhen                `json:"record,omitempty"`
	Pool          *karpenstate.Pool          `json:"pool,omitempty"`
	Siblings      []karpenstate.Pool         `json:"siblings"`
	Pending       []karpenstate.Pending      `json:"pending"`
	Findings      []nopsapi.KarpenterFinding `json:"findings"`
	Ledger        []nopsapi.KarpenterRecord  `json:"ledger"` // of this NodePool and its siblings, newest first
	Holding       string                     `json:"holding,omitempty"`
	Paused        string                     `json:"paused,omitempty"` // the whole agent
	// Next is what a person can do.
	Next  []string     `json:"next"`
	Error *answerError `json:"error,omitempty"`
}

func newKarpenopsExplainCommand(f *Factory, runF func(context.Context, *karpenExplainOptions) error) *cobra.Command {
	o := &karpenExplainOptions{karpenFlags: karpenFlags{f: f}}
	cmd := &cobra.Command{
		Use:   "explain NODEPOOL",
		Short: "Explain what was decided about a NodePool, step by step",
		Long: `Explains from the agent's record what it decided about a NodePool and why, what it would do and what that waits for, what it did, and how to
opt in, approve, pause or undo. It needs neither the agent nor the platform to answer.`,
		Example: "  nopsctl karpenops explain default",
		Args:    oneArg("a NodePool"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.pool = args[0]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return karpenExplainRun(cmd.Context(), o)
		},
	}
	o.cluster.bind(cmd)
	cmd.ValidArgsFunction = o.completePools(false)
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	return cmd
}

func karpenExplainRun(ctx context.Context, o *karpenExplainOptions) error {
	if err := checkOutput(o.output, "text", "json", "yaml"); err != nil {
		return err
	}
	a := karpenExplainAnswer{
		SchemaVersion: 1, Siblings: []karpenstate.Pool{}, Pending: []karpenstate.Pending{}, Findings: []nopsapi.KarpenterFinding{}, Ledger: []nopsapi.KarpenterRecord{}, Next: []string{},
	}
	err := o.find(ctx, &a)
	if o.output == "text" {
		if err == nil {
			o.print(a)
		}
		return err
	}
	a.Error = answerErrorOf(err)
	return errors.Join(err, o.f.write(o.output, a))
}

func (o *karpenExplainOptions) find(ctx context.Context, a *karpenExplainAnswer) error {
	k, err := o.look(ctx)
	if err != nil {
		return err
	}
	record, err := k.read(ctx)
	if err != nil {
		return err
	}
	if record.status == nil {
		return noRecord(k.namespace, record)
	}
	var whole karpenStatusAnswer
	(&karpenStatusOptions{karpenFlags: o.karpenFlags}).fill(&whole, record)
	a.Record, a.Holding, a.Paused = whole.Record, whole.Holding, whole.Paused
	at := slices.IndexFunc(whole.Pools, func(p karpenstate.Pool) bool { return p.Name == o.pool })
	if at < 0 {
		var names []string
		for _, p := range whole.Pools {
			names = append(names, p.Name)
		}
		return usageHint("it knows "+first(strings.Join(names, ", "), "none"), "karpenops knows no NodePool %q", o.pool)
	}
	a.Pool = &whole.Pools[at]
	about := map[string]bool{o.pool: true}
	for _, p := range whole.Pools {
		if p.Base == o.pool && p.Owned {
			a.Siblings = append(a.Siblings, p)
			about[p.Name] = true
		}
	}
	concerns := func(object string) bool { // "NodePool/name"; a NodeOverlay of ours is named after its NodePool
		_, name, _ := strings.Cut(object, "/")
		return about[name]
	}
	for _, p := range whole.Pending {
		if concerns(p.Object) {
			a.Pending = append(a.Pending, p)
		}
	}
	for _, f := range whole.Findings {
		if concerns(f.Object) {
			a.Findings = append(a.Findings, f)
		}
	}
	for _, e := range whole.Ledger {
		if concerns(e.Object) {
			a.Ledger = append(a.Ledger, e)
		}
	}
	a.Next = next(*a, karpenstate.Mode(whole.Mode))
	return nil
}

// noRecord says why there is nothing to explain.
func noRecord(namespace string, r karpenRecord) error {
	if len(r.problems) > 0 {
		return &failure{class: "preflight", reason: r.problems[0]}
	}
	return &failure{class: "preflight", reason: "karpenops has recorded nothing in namespace " + namespace, advice: "nopsctl karpenops status says whether it is installed and runs"}
}

// next is what a person can do about a NodePool.
func next(a karpenExplainAnswer, mode karpenstate.Mode) []string {
	p, base := a.Pool, a.Pool.Name
	steps := []string{}
	annotate := func(name, annotation, value string) string {
		return fmt.Sprintf("kubectl annotate --overwrite nodepool %s %s=%s", name, annotation, value)
	}
	switch {
	case p.Owned:
		return append(steps, "take it back, drained within its disruption budgets: nopsctl karpenops revert "+base)
	case !p.Managed:
		return append(steps, "opt in: "+annotate(base, karpenstate.AnnotationManaged, "true")+" (or in the manifest that GitOps applies)")
	}
	for _, w := range a.Pending {
		if strings.Contains(w.Waiting, "approval") {
			steps = append(steps, "approve "+w.Action+" "+w.Object+": nopsctl karpenops approve "+w.ID)
		}
	}
	for _, f := range a.Findings {
		if f.Patch != "" {
			steps = append(steps, "approve "+f.Code+": nopsctl karpenops approve "+f.ID)
		}
	}
	if own := first(string(p.Mode), string(mode)); own != string(karpenstate.ModeInPlace) {
		steps = append(steps, "let it go further: "+annotate(base, karpenstate.AnnotationMode, string(karpenstate.ModeInPlace))+" (at most as far as the agent's own mode, "+string(mode)+")")
	}
	if p.Paused == "" {
		steps = append(steps, "pause: nopsctl karpenops pause "+base+" --why REASON")
	} else {
		steps = append(steps, "resume: nopsctl karpenops resume "+base)
	}
	return append(steps, "undo all it did for it: nopsctl karpenops revert "+base, "opt out: "+annotate(base, karpenstate.AnnotationManaged, "false"))
}

func (o *karpenExplainOptions) print(a karpenExplainAnswer) {
	t := sheet{o.f.IO.Out, o.f.styleOut(), o.f.IO.Width()}
	p := a.Pool
	const label = 11
	t.para(0, "", 0, t.s.Bold(p.Name)+": "+map[bool]string{true: "made by karpenops for " + p.Base + ", " + poolWord(*p), false: poolWord(*p)}[p.Owned])
	if a.Record.Old {
		t.para(2, "", 0, "The record is of "+moment(a.Record.last())+": things may have changed.")
	}
	t.para(2, "paused", label, first(p.Paused, a.Paused))
	t.para(2, "holding", label, a.Holding)
	t.para(2, "mode", label, string(p.Mode))
	t.para(2, "nodes", label, fmt.Sprintf("%d, using %s of %s vCPU", p.Nodes, first(p.CPUUsed, "0"), first(p.CPULimit, "any number of")))
	t.para(2, "offerings", label, strconv.Itoa(p.Offerings)+" of those known can be launched")
	t.para(2, "owners", label, strings.Join(p.Owners, ", "))
	if len(p.Why) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", t.s.Bold("Why"))
		for n, line := range p.Why {
			t.para(2, strconv.Itoa(n+1)+".", 4, line)
		}
	}
	if len(a.Siblings) > 0 {
		fmt.Fprintf(t.w, "\n%s\n", t.s.Bold("Its siblings"))
		printPools(t, a.Siblings, p.Mode)
		for _, s := range a.Siblings {
			for _, line := range s.Why {
				t.para(4, "", 0, clip(s.Name, 28)+": "+line)
			}
		}
	}
	for _, part := range []struct {
		title string
		n     int
		one   func(int)
	}{
		{"Waiting", len(a.Pending), func(i int) { printPending(t, a.Pending[i]) }},
		{"To know", len(a.Findings), func(i int) { printFinding(t, a.Findings[i]) }},
		{"Done", len(a.Ledger), func(i int) { printEntry(t, a.Ledger[i]) }},
		{"What you can do", len(a.Next), func(i int) { t.para(2, "-", 2, a.Next[i]) }},
	} {
		if part.n > 0 {
			fmt.Fprintf(t.w, "\n%s\n", t.s.Bold(part.title))
		}
		for i := range part.n {
			part.one(i)
		}
	}
}
