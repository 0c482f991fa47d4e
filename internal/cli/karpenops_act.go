package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// karpenActOptions are those of plan, revert and approve, which run the agent in the cluster, and of resume where it does.
type karpenActOptions struct {
	karpenFlags
	jobFlags
	verb  string
	pools []string
	all   bool
	id    string
}

// karpenActAnswer is the JSON of karpenops plan, revert and approve.
type karpenActAnswer struct {
	SchemaVersion int    `json:"schema_version"`
	Command       string `json:"command"` // "plan", "revert", "approve" or "resume"
	// Output are the lines that the agent's program wrote. Of plan there are none where it answered with a document.
	Output []string `json:"output,omitempty"`
	// Plan is the document that the agent's program answers plan with; its fields are the agent's.
	Plan      any          `json:"plan,omitempty"`
	Leftovers *leftovers   `json:"leftovers,omitempty"` // of revert: what is there of karpenops afterwards
	Error     *answerError `json:"error,omitempty"`
}

func (o *karpenActOptions) bind(cmd *cobra.Command, asks bool, timeout time.Duration, runF func(context.Context, *karpenActOptions) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch o.verb {
		case "revert", "resume":
			o.pools = args
		case "approve":
			o.id = args[0]
		}
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		return karpenActRun(cmd.Context(), o)
	}
	o.cluster.bind(cmd)
	o.jobFlags.bind(cmd, asks, timeout)
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

// byJob is what the help of each of them says.
const byJob = `It runs the agent's image as a Job, with the identity, settings and digest that the release has for it, shows its log and removes it. It works while
the agent is switched off (its permissions are then made for the time of the Job) and while the platform cannot be reached.
Ctrl-C removes the Job and says what may be half done.`

func newKarpenopsPlanCommand(f *Factory, runF func(context.Context, *karpenActOptions) error) *cobra.Command {
	o := &karpenActOptions{karpenFlags: karpenFlags{f: f}, verb: "plan"}
	return o.bind(&cobra.Command{
		Use: "plan", Short: "Show what karpenops would do now, and change nothing",
		Long:        "Makes the plan that the agent would carry out now, with the facts that it has, and prints it: each change, why, what it waits for, and which nodes it is predicted to replace.\n" + byJob,
		Args:        noArgs,
		Annotations: nil,
	}, false, 5*time.Minute, runF)
}

func newKarpenopsRevertCommand(f *Factory, runF func(context.Context, *karpenActOptions) error) *cobra.Command {
	o := &karpenActOptions{karpenFlags: karpenFlags{f: f}, verb: "revert"}
	cmd := o.bind(&cobra.Command{
		Use: "revert [NODEPOOL...]", Short: "Take back what karpenops did, to some NodePools or to all",
		Long: `Takes back what karpenops did for these NodePools, or with --all for every one. NodePools that it made get a limit of 0 vCPU, Karpenter moves their
pods within their disruption budgets, and once they have no nodes they are deleted, never before. What it changed in place gets its former
value back where it still is what karpenops wrote; what a person has changed since stays. karpenops as a whole is paused first and stays so, also where
NodePools are named, or it would begin again: nopsctl karpenops resume lets it.

` + byJob,
		Example: `  nopsctl karpenops revert default
  nopsctl karpenops revert --all`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !o.all:
				return usageHint("nopsctl karpenops status shows what it made", "name the NodePools to revert, or give --all")
			case len(args) > 0 && o.all:
				return usage("NodePools and --all exclude each other")
			}
			return nil
		},
		ValidArgsFunction: o.completePools(true),
	}, true, time.Hour, runF)
	cmd.Flags().BoolVar(&o.all, "all", false, "everything that karpenops did in this cluster")
	return cmd
}

func newKarpenopsApproveCommand(f *Factory, runF func(context.Context, *karpenActOptions) error) *cobra.Command {
	o := &karpenActOptions{karpenFlags: karpenFlags{f: f}, verb: "approve"}
	return o.bind(&cobra.Command{
		Use: "approve ID", Short: "Carry out an action or a finding's patch that waits for a person",
		Long: `Carries out what waits for approval, by its ID in status, plan or explain. The agent looks again at the cluster first: an ID stands for exactly one
change, and where the cluster has moved on it is refused. Who approved it is recorded.

` + byJob,
		Args:              oneArg("the ID of what waits"),
		ValidArgsFunction: o.completeIDs,
	}, true, 10*time.Minute, runF)
}

func karpenActRun(ctx context.Context, o *karpenActOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	answer := karpenActAnswer{SchemaVersion: 1, Command: o.verb}
	op := o.f.operation("karpenops "+map[bool]string{true: "retry", false: o.verb}[o.verb == "resume"], o.cluster, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() error { return o.act(ctx, op, &answer) },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(error) {})
}

func (o *karpenActOptions) act(ctx context.Context, op *operation, answer *karpenActAnswer) error {
	job, err := o.job(o.f, op, karpenProgram(), o.verb, &answer.Output)
	if err != nil {
		return err
	}
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return err
	}
	op.learn(reached(s.facts))
	k, err := o.f.karpen(ctx, s, o.cluster.kube.Namespace)
	if err != nil {
		return err
	}
	switch o.verb {
	case "plan":
		return o.plan(ctx, k, job, answer)
	case "approve":
		return o.approve(ctx, k, job)
	case "resume":
		return o.resume(ctx, k, job)
	}
	before, err := k.leftovers(ctx)
	if err != nil {
		return err
	}
	if err := k.known(ctx, o.pools); err != nil {
		return err
	}
	o.f.announce("About to take back what karpenops did", s.facts, op.closing.Target)
	fmt.Fprintf(o.f.IO.ErrOut, "  %-10s %s\n  %-10s %s\n  %-10s %s\n", "of", first(strings.Join(o.pools, ", "), "all NodePools"), "there is", before,
		"meanwhile", "karpenops as a whole is paused, and stays so: nopsctl karpenops resume lets it begin again")
	if err := o.f.confirm(ctx, o.yes, true, "karpenops revert"); err != nil {
		return err
	}
	err = k.revert(ctx, job, o.pools, before)
	if left, lookErr := k.leftovers(context.WithoutCancel(ctx)); lookErr == nil {
		answer.Leftovers = &left
		switch theirs := left.reach(); {
		case err == nil && o.all && theirs.any():
			err = &failure{
				class: "failed", reason: "karpenops revert: it ended, and there still is " + theirs.String(),
				advice: "what it left alone it said above, with what to do by hand; nopsctl karpenops revert --all goes on with the rest, and nopsctl karpenops status says what happened",
			}
		case err == nil && len(left.Strays) > 0:
			op.Observe(strayed(left))
		}
	}
	return err
}

// revert runs the agent's revert: of these NodePools, or without any of all.
func (k *karpenSession) revert(ctx context.Context, job agentJob, pools []string, there leftovers) error {
	job.args = []string{"revert", "--timeout=" + job.patience.String(), "--by=" + k.whoami(ctx)}
	again := "nopsctl karpenops revert --all"
	if len(pools) > 0 {
		job.args = append(append(job.args, "--"), pools...)
		again = "nopsctl karpenops revert " + strings.Join(pools, " ")
	} else {
		job.args = append(job.args, "--all")
	}
	for _, s := range there.Siblings {
		if len(pools) == 0 || slices.Contains(pools, s.Base) || slices.Contains(pools, s.Name) {
			job.avoid = append(job.avoid, s.Name)
		}
	}
	job.half = "NodePools that it had reached stay at a limit of 0 vCPU and lose their nodes within their disruption budgets; the others are as they were"
	job.goOn = again + " goes on from there, with a longer --timeout where it needs one; nopsctl karpenops status shows what is left"
	job.mend = "it says how far it came; once that is mended, " + again + " does what is left, which nopsctl karpenops status shows"
	return k.run(ctx, job)
}

func (o *karpenActOptions) plan(ctx context.Context, k *karpenSession, job agentJob, answer *karpenActAnswer) error {
	job.half, job.goOn = "a plan changes nothing", ""
	if o.output != "json" {
		return k.run(ctx, job)
	}
	job.args = append(job.args, "--output=json")
	err := k.run(ctx, job)
	if err != nil {
		return err
	}
	// The document may stand in one line or in many.
	text := strings.Join(answer.Output, "\n")
	if from := strings.Index(text, "{"); from >= 0 {
		if err := json.Unmarshal([]byte(text[from:]), &answer.Plan); err == nil {
			answer.Output = nil
			return nil
		}
	}
	return &failure{class: "failed", reason: "karpenops plan answered with no document", advice: "its image may be of another version than this nopsctl: nopsctl install upgrades the release"}
}

func (o *karpenActOptions) approve(ctx context.Context, k *karpenSession, job agentJob) error {
	record, err := k.read(ctx)
	if err != nil {
		return err
	}
	o.f.announce("About to carry out "+o.id, k.facts, event.Target{Namespace: k.namespace, Release: o.cluster.release})
	if err := o.describe(record); err != nil {
		return err
	}
	if err := o.f.confirm(ctx, o.yes, true, "karpenops approve"); err != nil {
		return err
	}
	job.args = append(job.args, "--by="+k.whoami(ctx), "--", o.id)
	job.mend = "nothing is done but what the ledger has, and nopsctl karpenops status shows that and what waits now"
	job.half, job.goOn = "whether it was carried out is in the ledger", "nopsctl karpenops status shows the ledger; what was done goes back with nopsctl karpenops revert"
	return k.run(ctx, job)
}

func newKarpenopsRetryCommand(f *Factory, runF func(context.Context, *karpenActOptions) error) *cobra.Command {
	o := &karpenActOptions{karpenFlags: karpenFlags{f: f}, verb: "resume"}
	return o.bind(&cobra.Command{
		Use: "retry [NODEPOOL]", Short: "Let karpenops write again where it had stopped by itself",
		Long: `karpenops stops writing by itself to a field that somebody sets back, twice within an hour, and for a while to a NodePool on which a write went ill.
This lets go of that, for one NodePool or for all, once somebody has looked, and ends a pause of it as resume does.

` + byJob,
		Args: atMostOneArg("a NodePool"), ValidArgsFunction: o.completePools(false),
	}, false, 5*time.Minute, runF)
}

func (o *karpenActOptions) resume(ctx context.Context, k *karpenSession, job agentJob) error {
	if len(o.pools) > 0 {
		job.args = append(append(job.args, "--"), o.pools...)
	}
	job.half, job.goOn = "whether it was let go of is not known", "run it again: twice does no harm"
	return k.run(ctx, job)
}

// describe says what an ID stands for, as far as the record knows. One that it does not know may be in a newer plan, so the agent decides.
func (o *karpenActOptions) describe(r karpenRecord) error {
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(o.f.IO.ErrOut, "  %-10s %s\n", label, text)
		}
	}
	drift := func(n int) string {
		return map[bool]string{true: count(n, "node") + ", as predicted", false: "no node, as predicted"}[n > 0]
	}
	if r.status != nil {
		for _, p := range r.status.Pending {
			if p.ID == o.id {
				row("does", p.Action+" "+p.Object)
				row("why", p.Reason)
				row("replaces", drift(p.Drift))
				return nil
			}
		}
		for _, f := range r.status.Findings {
			if f.ID == o.id && f.Patch == "" {
				return usageHint("it is for you to act on: "+f.Message, "finding %s has nothing that could be approved", o.id)
			}
			if f.ID == o.id {
				row("about", f.Object+": "+f.Message)
				row("patch", f.Patch)
				row("replaces", drift(f.Drift))
				return nil
			}
		}
	}
	row("does", "not known: its record does not have it. The agent looks again, and carries out what has this ID then, if anything")
	return nil
}

// strayed warns of what karpenops made and may not touch any more.
func strayed(l leftovers) event.Warning {
	name := l.Strays[0].Name
	return event.Warning{
		ID: warnLeftovers, Message: "nobody tends any more: " + leftovers{Strays: l.Strays}.String(),
		Hint: fmt.Sprintf("kubectl label nodepool %s %s=true, and revert again; or by hand: a limit of 0 vCPU, and kubectl delete nodepool %[1]s once it has no nodes", name, karpenstate.LabelOwned),
	}
}

// known refuses names of which there is nothing: a revert pauses karpenops, and a slip must not.
func (k *karpenSession) known(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	pools, err := k.list(ctx, "NodePool")
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range pools {
		known[pools[i].GetName()] = true
		known[pools[i].GetAnnotations()[karpenstate.AnnotationBase]] = true
	}
	// And whatever else was changed in place: a node class that a person agreed to.
	var journal struct {
		Originals map[string]json.RawMessage `json:"originals"`
	}
	if cm, err := k.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, karpenstate.ConfigMap, metav1.GetOptions{}); err == nil {
		_ = json.Unmarshal([]byte(cm.Data[karpenstate.KeyJournal]), &journal) // the agent's own: it looks again
	}
	for ref := range journal.Originals {
		_, name, _ := strings.Cut(ref, "/")
		known[name] = true
	}
	delete(known, "")
	for _, name := range names {
		if !known[name] {
			return usageHint("there are "+first(strings.Join(slices.Sorted(maps.Keys(known)), ", "), "none"), "there is no NodePool %q: nothing was done, and nothing is paused", name)
		}
	}
	return nil
}
