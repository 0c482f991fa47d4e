package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// toggleOptions are those of enable and disable.
type toggleOptions struct {
	f       *Factory
	cluster clusterFlags
	show    faceFlags
	admit   admitFlags // of enable
	keeper  keeper     // of disable

	component string
	enable    bool
	yes       bool
	force     bool
	dryRun    bool
	wait      bool
	recover   bool
	timeout   time.Duration
	output    string
}

// toggleAnswer is the JSON of enable and disable.
type toggleAnswer struct {
	SchemaVersion int             `json:"schema_version"`
	DryRun        bool            `json:"dry_run,omitempty"`
	Component     string          `json:"component"`
	Enabled       bool            `json:"enabled"`
	Consequence   string          `json:"consequence"`
	Plan          *install.Plan   `json:"plan,omitempty"`
	Leftovers     *leftovers      `json:"leftovers,omitempty"` // of disabling karpenops: what it had made and changed
	Sized         *vpaSized       `json:"sized,omitempty"`     // of disabling containerRightsizing: workloads with pods that have other requests than their templates
	Reverted      bool            `json:"reverted,omitempty"`  // they were taken back first
	Result        *install.Result `json:"result,omitempty"`
	Error         *answerError    `json:"error,omitempty"`
}

func (o *toggleOptions) bind(cmd *cobra.Command, runF func(context.Context, *toggleOptions) error) *cobra.Command {
	cmd.Args = oneArg("a component")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if len(args) == 0 {
			for _, c := range install.Components() {
				names = append(names, c.Name+"\t"+install.Consequence(c.Name, o.enable))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.component = args[0]
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		return toggleRun(cmd.Context(), o)
	}
	o.cluster.bind(cmd)
	o.show.bind(cmd)
	if o.enable {
		o.admit.bind(cmd)
		o.admit.bindBundle(cmd)
	} else {
		o.keeper.bind(cmd)
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&o.dryRun, "dry-run", false, "show what would change and change nothing")
	fs.BoolVar(&o.wait, "wait", true, "wait until the workloads are ready")
	fs.BoolVar(&o.recover, "recover", false, "take an operation that still holds the release for dead")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for the workloads")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	return cmd
}

func componentList() string {
	text := "Components:\n"
	for _, c := range install.Components() {
		text += "  " + c.Name + "\n"
	}
	return text
}

func toggleRun(ctx context.Context, o *toggleOptions) error {
	if err := errors.Join(checkOutput(o.output, "text", "json", "jsonl"), o.keeper.check()); err != nil {
		return err
	}
	operation := map[bool]string{true: "enable", false: "disable"}[o.enable]
	answer := toggleAnswer{SchemaVersion: 1, DryRun: o.dryRun, Component: o.component, Enabled: o.enable, Consequence: install.Consequence(o.component, o.enable)}
	op := o.f.operation(operation, o.cluster, o.output, o.f.face(o.output, o.show, false))
	op.closing.DryRun = o.dryRun
	return op.run(func() error { return o.toggle(ctx, op, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(err error) {
			if err == nil && !o.show.quiet {
				o.tell(answer)
			}
		})
}

func (o *toggleOptions) toggle(ctx context.Context, op *operation, answer *toggleAnswer) error {
	operation := op.closing.Operation
	admission, err := o.admission(op)
	if err != nil {
		return err
	}
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return err
	}
	op.learn(reached(s.facts))
	s.learn(ctx, o.f)
	// Disabling removes what runs: without a yes there is nothing to plan for when nobody can be asked.
	mustAsk := !o.enable && !o.dryRun
	if text := o.consequence(install.Consequence(o.component, o.enable)); mustAsk && !o.yes && !o.f.IO.CanPrompt() && text != "" {
		fmt.Fprintf(o.f.IO.ErrOut, "%s %s: %s\n", operation, o.component, text)
	}
	if err := o.confirmable(ctx, mustAsk, operation); err != nil {
		return err
	}
	leaves, err := o.leaves(ctx, s, answer)
	if err != nil {
		return err
	}
	plan, err := s.engine.Toggle(ctx, install.ToggleRequest{
		Component: o.component, Enabled: o.enable, Force: o.force,
		Request: install.Request{Wait: o.wait, Timeout: o.timeout, Recover: o.recover, Admission: admission, AllowDowngrade: o.admit.allowDowngrade, Unverified: o.admit.asked == "off", Lock: o.admit.lock},
	})
	if plan != nil {
		answer.Plan = plan
		op.learn(plan.Target)
	}
	if err != nil {
		return err
	}
	answer.Consequence = o.consequence(plan.Consequence)
	o.say(ctx, s, plan, answer.Consequence, leaves, operation)
	if o.dryRun {
		op.nothingChanged()
		return nil
	}
	if leaves != nil {
		if err := o.keeper.choose(ctx, o.f, leaves, o.yes, operation+" "+o.component); err != nil {
			return err
		}
	}
	if !plan.NoOp {
		if err := o.f.confirm(ctx, o.yes, mustAsk, operation+" "+o.component); err != nil {
			return err
		}
	}
	return o.carryOut(ctx, op, s, plan, leaves, answer)
}

// carryOut switches, and takes back first what is to be.
func (o *toggleOptions) carryOut(ctx context.Context, op *operation, s *session, plan *install.Plan, leaves *leaving, answer *toggleAnswer) (err error) {
	if leaves == nil {
		answer.Result, err = s.engine.Apply(ctx, plan)
		return err
	}
	if err := o.keeper.leave(ctx, leaves, op.closing.Operation+" "+o.component, op.Observe); err != nil {
		return err
	}
	if answer.Reverted = leaves.reverted; leaves.reverted { // what the plan was made for has taken a while
		if plan, err = s.engine.Toggle(ctx, install.ToggleRequest{Component: o.component, Request: install.Request{Wait: o.wait, Timeout: o.timeout, Recover: o.recover}}); err != nil {
			return err
		}
		answer.Plan = plan
	}
	if answer.Result, err = s.engine.Apply(ctx, plan); err != nil {
		return err
	}
	return leaves.gone(ctx, op.Observe)
}

// consequence is what the switch leads to: with --revert not what the engine knows, which leaves things as they are.
func (o *toggleOptions) consequence(otherwise string) string {
	switch {
	case o.enable || !o.keeper.revert:
	case strings.EqualFold(o.component, karpenops):
		return "what karpenops made and changed is taken back first: its NodePools are drained within their disruption budgets and deleted; NodePools are not changed any more then"
	case strings.EqualFold(o.component, rightsizingComponent):
		return "pods get back what their templates request first, in place; requests are not recommended or changed any more then"
	}
	return otherwise
}

// say tells what is about to be done, before the question.
func (o *toggleOptions) say(ctx context.Context, s *session, plan *install.Plan, consequence string, leaves *leaving, operation string) {
	if !plan.NoOp || o.dryRun {
		o.f.announce(fmt.Sprintf("About to %s %s", operation, o.component), s.facts, plan.Target)
		fmt.Fprintf(o.f.IO.ErrOut, "  %-10s %s\n  %-10s %s\n", "means", consequence, "changes", changes(plan))
	}
	if leaves != nil {
		leaves.say(o.f)
	}
	if o.enable && strings.EqualFold(o.component, rightsizingComponent) {
		o.begins(ctx, s)
	}
}

// leaves is what a component would leave when it is switched off; nil of one that leaves nothing, and of one that is switched on.
func (o *toggleOptions) leaves(ctx context.Context, s *session, answer *toggleAnswer) (*leaving, error) {
	switch {
	case !o.enable && strings.EqualFold(o.component, karpenops):
		k, err := o.f.karpen(ctx, s, o.cluster.kube.Namespace)
		if err != nil {
			return nil, err
		}
		r := &karpenRemains{k: k}
		l, err := o.keeper.find(ctx, r)
		if err == nil && l.unknown == nil {
			answer.Leftovers = &r.leftovers
		}
		return l, err
	case !o.enable && strings.EqualFold(o.component, rightsizingComponent):
		r, err := o.f.vpaRemains(ctx, s, o.cluster.kube.Namespace)
		if err != nil {
			return nil, err
		}
		l, err := o.keeper.find(ctx, r)
		if err == nil && l.unknown == nil {
			answer.Sized = &r.vpaSized
		}
		return l, err
	case o.keeper.revert || o.keeper.noRevert:
		return nil, usage("--revert and --no-revert are about karpenops and containerRightsizing alone")
	}
	return nil, nil
}

// begins says whom containerRightsizing would size, and how one begins where nobody said it.
func (o *toggleOptions) begins(ctx context.Context, s *session) {
	v, err := o.f.vpa(ctx, s, o.cluster.kube.Namespace)
	if err != nil {
		return // what keeps it from being looked at keeps it from being enabled, too
	}
	var problems, names []string
	policies, err := v.policies(ctx, &problems)
	w := o.f.IO.ErrOut
	switch {
	case err != nil || len(problems) > 0:
		fmt.Fprintf(w, "  %-10s what is there of RightsizingPolicies is not known; what they say holds from now on\n", "policies")
	case len(policies) == 0:
		fmt.Fprintf(w, "  %-10s none: nothing is changed until there is a RightsizingPolicy. The least one, which only recommends:\n\n%s\n", "policies", indented(leastPolicy, "    "))
	default:
		for _, p := range policies {
			q := policyOf(&p)
			names = append(names, strings.Join(nonEmpty(p.Name+" ("+q.Level+")", map[bool]string{true: q.word()}[q.Paused || q.DryRun || q.Reverted != ""]), " "))
		}
		fmt.Fprintf(w, "  %-10s %s: they hold from now on\n", "policies", strings.Join(names, ", "))
	}
}

// admission verifies what a switch makes run. Switching off makes nothing run: the rest keeps the digests it has, and no
// registry is asked.
func (o *toggleOptions) admission(op *operation) (install.Admission, error) {
	if !o.enable {
		return nil, nil
	}
	if err := o.admit.read(o.f, nil); err != nil {
		return nil, err
	}
	source, err := o.f.source(&o.admit.trustFlags)
	if err != nil {
		return nil, err
	}
	return o.f.admission(&o.admit, source, op)
}

// confirmable refuses early what could not be asked later.
func (o *toggleOptions) confirmable(ctx context.Context, mustAsk bool, operation string) error {
	if !mustAsk || o.yes || o.f.IO.CanPrompt() {
		return nil
	}
	return o.f.confirm(ctx, o.yes, mustAsk, operation+" "+o.component)
}

func (o *toggleOptions) tell(a toggleAnswer) {
	state := map[bool]string{true: "enabled", false: "disabled"}[a.Enabled]
	switch {
	case a.DryRun && a.Plan.NoOp:
		fmt.Fprintf(o.f.IO.Out, "%s is %s already\n", a.Component, state)
	case a.DryRun:
		for _, c := range a.Plan.Changes {
			if c.Action != install.Unchanged {
				fmt.Fprintf(o.f.IO.Out, "%-7s %s\n", c.Action, c.Object)
			}
		}
	case a.Result.Outcome == event.Unchanged:
		fmt.Fprintf(o.f.IO.Out, "%s was %s already\n", a.Component, state)
	default:
		fmt.Fprintf(o.f.IO.Out, "%s is %s (revision %d)\n", a.Component, state, a.Result.Revision)
	}
}
