package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

type karpenPauseOptions struct {
	karpenFlags
	pool   string // empty: all
	why    string
	paused bool
}

// karpenPauseAnswer is the JSON of karpenops pause and resume.
type karpenPauseAnswer struct {
	SchemaVersion int          `json:"schema_version"`
	Object        string       `json:"object,omitempty"` // that carries the annotation
	Paused        bool         `json:"paused"`
	By            string       `json:"by,omitempty"`
	Was           string       `json:"was,omitempty"` // by whom it was paused before, and why
	Changed       bool         `json:"changed"`
	Error         *answerError `json:"error,omitempty"`
}

func newKarpenopsPauseCommand(f *Factory, runF func(context.Context, *karpenPauseOptions) error) *cobra.Command {
	o := &karpenPauseOptions{karpenFlags: karpenFlags{f: f}, paused: true}
	cmd := o.command("pause [NODEPOOL]", "Let karpenops write nothing, to one NodePool or at all", runF)
	cmd.Long = `Pauses karpenops: it goes on looking and reporting, and writes nothing, whatever else says. Without a NodePool for all of them. Nodes and
NodePools stay as they are. It is an annotation, set with your own permissions: it works whether or not the agent runs, and outlives
restarts and upgrades. Whoever looks at status sees who paused it and why.`
	cmd.Example = `  nopsctl karpenops pause --why "load test until Friday"
  nopsctl karpenops pause default --why "migrating the node class"`
	cmd.Flags().StringVar(&o.why, "why", "", "the reason, for whoever finds it paused")
	return cmd
}

func newKarpenopsResumeCommand(f *Factory, runF func(context.Context, *karpenPauseOptions) error) *cobra.Command {
	o := &karpenPauseOptions{karpenFlags: karpenFlags{f: f}}
	cmd := o.command("resume [NODEPOOL]", "Let karpenops work again after a pause", runF)
	cmd.Long = "Takes a pause back: of one NodePool, or without a name the pause of all. NodePools that are paused by themselves stay so.\n" +
		"Where karpenops stopped by itself, because somebody sets back what it writes, nopsctl karpenops retry lets it go on."
	return cmd
}

func (o *karpenPauseOptions) command(use, short string, runF func(context.Context, *karpenPauseOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: atMostOneArg("a NodePool"), ValidArgsFunction: o.completePools(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.pool = args[0]
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return karpenPauseRun(cmd.Context(), o)
		},
	}
	o.cluster.bind(cmd)
	outputFlag(cmd, &o.output, "text", "json")
	return cmd
}

func atMostOneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageHint(cmd.CommandPath()+" --help shows how it is used", "%s takes at most one argument, %s; got %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func karpenPauseRun(ctx context.Context, o *karpenPauseOptions) error {
	if err := checkOutput(o.output, "text", "json"); err != nil {
		return err
	}
	if o.why = strings.Join(strings.Fields(o.why), " "); o.paused && o.why == "" {
		return usageHint(`for example --why "load test until Friday"`, "say why: whoever finds karpenops paused will want to know")
	}
	a := karpenPauseAnswer{SchemaVersion: 1, Paused: o.paused}
	err := o.set(ctx, &a)
	if o.output == "json" {
		a.Error = answerErrorOf(err)
		return errors.Join(err, writeJSON(o.f.IO.Out, a))
	}
	if err == nil {
		o.tell(a)
	}
	return err
}

func (o *karpenPauseOptions) tell(a karpenPauseAnswer) {
	what := "karpenops"
	if o.pool != "" {
		what = "karpenops on NodePool " + o.pool
	}
	w := o.f.IO.Out
	switch {
	case o.paused && a.Was != "":
		fmt.Fprintf(w, "%s was paused already (%s) and is now by %s\n", what, a.Was, a.By)
	case o.paused:
		fmt.Fprintf(w, "%s is paused: nothing is written until nopsctl karpenops resume%s\n", what, map[bool]string{true: " " + o.pool}[o.pool != ""])
	case a.Was == "":
		fmt.Fprintf(w, "%s was not paused\n", what)
	default:
		fmt.Fprintf(w, "%s works again; it was paused: %s\n", what, a.Was)
	}
}

func (o *karpenPauseOptions) set(ctx context.Context, a *karpenPauseAnswer) error {
	k, err := o.look(ctx)
	if err != nil {
		return err
	}
	if o.paused {
		a.By = k.whoami(ctx) + ": " + o.why
	}
	if o.pool == "" {
		a.Object = "ConfigMap " + k.namespace + "/" + karpenstate.ConfigMap
		a.Was, a.Changed, err = k.pauseAll(ctx, a.By)
		return err
	}
	a.Object = "NodePool " + o.pool
	a.Was, a.Changed, err = k.pausePool(ctx, o.pool, a.By)
	return err
}

// pausing is the patch that pauses, or with nobody as by, ends the pause.
func pausing(by string) []byte {
	annotations := map[string]any{karpenstate.AnnotationPaused: nil, karpenstate.AnnotationPausedBy: nil}
	if by != "" {
		annotations = map[string]any{karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: by}
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil { // strings always marshal
		return nil
	}
	return data
}

// pauseAll pauses the agent, or ends its pause when by is empty. It says by whom it was paused before.
func (k *karpenSession) pauseAll(ctx context.Context, by string) (was string, changed bool, err error) {
	maps := k.client.CoreV1().ConfigMaps(k.namespace)
	what := "ConfigMap " + k.namespace + "/" + karpenstate.ConfigMap
	have, err := maps.Get(ctx, karpenstate.ConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && by == "":
		return "", false, nil
	case apierrors.IsNotFound(err): // it has never run, and starts paused
		fresh := newStateConfigMap(k.namespace, map[string]string{karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: by})
		_, err = maps.Create(ctx, fresh, metav1.CreateOptions{FieldManager: "nopsctl"})
		if err == nil {
			return "", true, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", false, unreachable("create "+what, err)
		}
	case err != nil:
		return "", false, unreachable("read "+what, err)
	default:
		if was = karpenstate.PausedBy(have.Annotations); was == "" && by == "" {
			return "", false, nil
		}
	}
	if _, err = maps.Patch(ctx, karpenstate.ConfigMap, types.MergePatchType, pausing(by), metav1.PatchOptions{FieldManager: "nopsctl"}); err != nil {
		return was, false, unreachable("annotate "+what, err)
	}
	return was, true, nil
}

// pausePool does the same to one NodePool.
func (k *karpenSession) pausePool(ctx context.Context, pool, by string) (was string, changed bool, err error) {
	pools, err := k.resource("NodePool")
	switch {
	case err != nil:
		return "", false, err
	case pools == nil:
		return "", false, &failure{class: "failed", reason: "this cluster does not serve karpenter.sh NodePools: Karpenter is not installed"}
	}
	have, err := pools.Get(ctx, pool, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		names := []string{}
		if all, err := k.list(ctx, "NodePool"); err == nil {
			for i := range all {
				names = append(names, all[i].GetName())
			}
		}
		return "", false, usageHint("there are "+first(strings.Join(names, ", "), "none"), "there is no NodePool %q", pool)
	case err != nil:
		return "", false, unreachable("read NodePool "+pool, err)
	}
	if was = karpenstate.PausedBy(have.GetAnnotations()); was == "" && by == "" {
		return "", false, nil
	}
	if _, err := pools.Patch(ctx, pool, types.MergePatchType, pausing(by), metav1.PatchOptions{FieldManager: "nopsctl"}); err != nil {
		return was, false, unreachable("annotate NodePool "+pool, err)
	}
	return was, true, nil
}
