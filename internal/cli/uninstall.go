package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

type uninstallOptions struct {
	f       *Factory
	cluster clusterFlags
	show    faceFlags

	keeper        keeper
	yes           bool
	keepNamespace bool
	deleteCRDs    bool
	recover       bool
	timeout       time.Duration
	output        string
}

// uninstallAnswer is the JSON of uninstall.
type uninstallAnswer struct {
	SchemaVersion int             `json:"schema_version"`
	Leftovers     *leftovers      `json:"leftovers,omitempty"` // what karpenops had made and changed
	Sized         *vpaSized       `json:"sized,omitempty"`     // workloads with pods whose requests containerRightsizing had changed
	Reverted      bool            `json:"reverted,omitempty"`  // they were taken back first
	Result        *install.Result `json:"result,omitempty"`
	Error         *answerError    `json:"error,omitempty"`
}

func newUninstallCommand(f *Factory, runF func(context.Context, *uninstallOptions) error) *cobra.Command {
	o := &uninstallOptions{f: f}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the stack and all that belongs to it",
		Long: `Removes the release, the credentials, the pinned identity of the cluster and, when an installation made it and nobody
else uses it, the namespace. What could block the creation of pods goes first. Definitions of custom resources (vpa.nops.io)
go when no object of theirs is left, or with all their objects when --delete-crds is given. Samples and heartbeats that were
sent stay with the platform, and so does the cluster's registration.

What karpenops made, and requests of running pods that containerRightsizing changed, stay in the cluster unless they are taken back: where there
are any, --revert or --no-revert has to decide, or the answer to a question. It says what goes and asks. Without a terminal it needs --yes.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return uninstallRun(cmd.Context(), o)
		},
	}
	o.cluster.bind(cmd)
	o.show.bind(cmd)
	o.keeper.bind(cmd)
	fs := cmd.Flags()
	fs.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&o.keepNamespace, "keep-namespace", false, "keep the namespace even when an installation made it")
	fs.BoolVar(&o.deleteCRDs, "delete-crds", false, "remove definitions of custom resources together with all objects of theirs")
	fs.BoolVar(&o.recover, "recover", false, "take an operation that still holds the release for dead")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for the pods to end")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	return cmd
}

func uninstallRun(ctx context.Context, o *uninstallOptions) error {
	if err := errors.Join(checkOutput(o.output, "text", "json", "jsonl"), o.keeper.check()); err != nil {
		return err
	}
	answer := uninstallAnswer{SchemaVersion: 1}
	op := o.f.operation("uninstall", o.cluster, o.output, o.f.face(o.output, o.show, false))
	return op.run(func() (err error) { answer.Result, err = o.uninstall(ctx, op, &answer); return err },
		func(failed *answerError) any { answer.Error = failed; return answer },
		func(error) {}) // the last line of progress is the answer
}

func (o *uninstallOptions) uninstall(ctx context.Context, op *operation, answer *uninstallAnswer) (*install.Result, error) {
	s, err := o.f.open(o.cluster, op.Observe)
	if err != nil {
		return nil, err
	}
	op.learn(reached(s.facts))
	s.learn(ctx, o.f)
	all, err := o.leaves(ctx, s, answer)
	if err != nil {
		return nil, err
	}
	if !o.yes {
		if err := o.say(ctx, s); err != nil {
			return nil, err
		}
		for _, l := range all {
			l.say(o.f)
		}
	}
	for _, l := range all {
		if l.unknown == nil || o.keeper.revert { // what cannot be seen must not keep the stack from going
			if err := o.keeper.choose(ctx, o.f, l, o.yes, "uninstall"); err != nil {
				return nil, err
			}
		}
	}
	if !o.yes {
		if err := o.f.confirm(ctx, false, true, "uninstall"); err != nil {
			return nil, err
		}
	}
	for _, l := range all {
		if err := o.keeper.leave(ctx, l, "uninstall", op.Observe); err != nil {
			return nil, err
		}
		answer.Reverted = answer.Reverted || l.reverted
	}
	result, err := s.engine.Uninstall(ctx, install.UninstallRequest{Timeout: o.timeout, KeepNamespace: o.keepNamespace, DeleteCRDs: o.deleteCRDs, Recover: o.recover})
	if err != nil {
		return result, err
	}
	var errs []error
	for _, l := range all {
		errs = append(errs, l.after(ctx, op.Observe))
	}
	return result, errors.Join(errs...)
}

// leaves is what the components would leave.
func (o *uninstallOptions) leaves(ctx context.Context, s *session, answer *uninstallAnswer) ([]*leaving, error) {
	k, err := o.f.karpen(ctx, s, o.cluster.kube.Namespace)
	if err != nil {
		return nil, err
	}
	pools, sized := &karpenRemains{k: k}, &vpaRemains{v: &vpaSession{k.reach}}
	var all []*leaving
	for _, r := range []remains{pools, sized} {
		l, err := o.keeper.find(ctx, r)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	if all[0].there() {
		answer.Leftovers = &pools.leftovers
	}
	if all[1].there() {
		answer.Sized = &sized.vpaSized
	}
	return all, nil
}

// say lists what goes, before the question.
func (o *uninstallOptions) say(ctx context.Context, s *session) error {
	status, err := s.engine.Status(ctx)
	if err != nil {
		return err
	}
	target := event.Target{ClusterARN: first(status.ClusterARN, s.facts.ClusterARN), Namespace: o.cluster.kube.Namespace, Release: o.cluster.release}
	if status.Release != nil {
		target.FromVersion = status.Release.ChartVersion
	}
	o.f.announce("About to remove the nOps Kubernetes agent stack", s.facts, target)
	w := o.f.IO.ErrOut
	if status.Release == nil {
		fmt.Fprintln(w, "  no release is there; what earlier ones left is removed")
	}
	for _, c := range status.Components {
		for _, l := range c.Workloads {
			fmt.Fprintf(w, "  - %s\n", l.Object())
		}
		if len(c.Workloads) > 0 {
			fmt.Fprintf(w, "      %s\n", install.Consequence(c.Name, false))
		}
	}
	fmt.Fprintf(w, "  - Secret %s/%s, ConfigMap %s/%s, roles, services and the release's history\n", target.Namespace, install.CredentialsSecret, target.Namespace, install.IdentityConfigMap)
	definitions, err := s.engine.Definitions(ctx)
	if err != nil {
		return err
	}
	for _, d := range definitions {
		switch {
		case d.Objects == 0 && d.Unknown == "":
			fmt.Fprintf(w, "  - CustomResourceDefinition %s\n", d.Name)
		case o.deleteCRDs:
			fmt.Fprintf(w, "  - %s, with all its objects\n", d)
		default:
			fmt.Fprintf(w, "    %s stays: --delete-crds removes it with all its objects\n", d)
		}
	}
	if !o.keepNamespace {
		fmt.Fprintf(w, "  - Namespace %s, if an installation made it and nothing else is in it\n", target.Namespace)
	}
	return nil
}
