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

What karpenops made stays in the cluster unless it is taken back: where there is any, --revert or --no-revert has to decide, or the answer to a
question. It says what goes and asks. Without a terminal it needs --yes.`,
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
	leaves, err := o.keeper.find(ctx, o.f, s, o.cluster.kube.Namespace)
	if err != nil {
		return nil, err
	}
	if leaves.unknown == nil && leaves.there.any() {
		answer.Leftovers = &leaves.there
	}
	if !o.yes {
		if err := o.say(ctx, s); err != nil {
			return nil, err
		}
		leaves.say(o.f)
	}
	if leaves.unknown == nil || o.keeper.revert { // what cannot be seen must not keep the stack from going
		if err := o.keeper.choose(ctx, o.f, leaves, o.yes, "uninstall"); err != nil {
			return nil, err
		}
	}
	if !o.yes {
		if err := o.f.confirm(ctx, false, true, "uninstall"); err != nil {
			return nil, err
		}
	}
	if err := o.keeper.leave(ctx, leaves, "uninstall", op.Observe); err != nil {
		return nil, err
	}
	answer.Reverted = leaves.reverted
	return s.engine.Uninstall(ctx, install.UninstallRequest{Timeout: o.timeout, KeepNamespace: o.keepNamespace, DeleteCRDs: o.deleteCRDs, Recover: o.recover})
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
