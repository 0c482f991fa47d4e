package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// karpenops is the component, and the name of the agent's program in its log.
const karpenops = "karpenops"

// karpenProgram is the agent, run as a Job.
func karpenProgram() agentProgram {
	return agentProgram{
		name: karpenops, command: karpenops, component: karpenops, label: karpenops,
		byHand: func(string) string {
			return "set spec.limits.cpu of the NodePools labelled karpenops.nops.io/owned=true to 0, wait until they have no nodes, delete them"
		},
	}
}

func newKarpenopsCommand(f *Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   karpenops,
		Short: "See what karpenops does to NodePools, and act: plan, pause, revert, approve",
		Long: `karpenops tunes Karpenter to spot markets and commitments. It decides in the cluster and records what it sees, intends and did there;
status and explain read that record. plan, revert and approve run the agent's own image as a Job, with its identity and digest: they work while
the agent is switched off and while the platform cannot be reached. pause and resume set an annotation.

  nopsctl help karpenops-safety     what it never does, and how to stop it`,
		Example: `  nopsctl karpenops status
  nopsctl karpenops explain default
  nopsctl karpenops pause --why "load test until Friday"
  nopsctl karpenops revert --all`,
		Args: noSuchCommand, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newKarpenopsStatusCommand(f, nil), newKarpenopsExplainCommand(f, nil), newKarpenopsPlanCommand(f, nil), newKarpenopsPauseCommand(f, nil), newKarpenopsResumeCommand(f, nil),
		newKarpenopsRevertCommand(f, nil), newKarpenopsApproveCommand(f, nil), newKarpenopsRetryCommand(f, nil),
	)
	return cmd
}

const karpenopsSafety = `What karpenops never does, and how to stop it

  It touches only NodePools that opted in: annotation imported_by: nops, or karpenops.nops.io/managed: "true"; "false" opts out whatever else
  says. It prefers a NodePool of its own beside yours (a sibling), which is given what the limit that you set leaves over. Should yours
  grow into that while the sibling has nodes, both may have more for a while, by at most what the sibling had: status says so. It never
  deletes a NodePool that has nodes, never deletes nodes or NodeClaims, never writes node classes, and never forces a field that GitOps owns.
  Without facts that are valid now it holds: nothing is decided, nothing is undone.

  how far it goes     value karpenops.mode, or the annotation karpenops.nops.io/mode on one NodePool: observe, advise, siblings, overlays, in-place
  stop now            nopsctl karpenops pause --why REASON, for all or for one NodePool; nodes that are there stay
  stop at times       annotation karpenops.nops.io/freeze: "CRON DURATION; …" in UTC, as in disruption budgets
  go on after a fight nopsctl karpenops retry, once whoever set its fields back has been found; status says who
  undo                nopsctl karpenops revert --all, or NODEPOOL…: siblings are drained within their disruption budgets, then deleted; what was
                      changed in place gets its former value back where it still is what karpenops wrote
  switch off          nopsctl disable karpenops --revert; without reverting, siblings go on launching nodes with nobody to tend them
  what it did         nopsctl karpenops status, Events of the NodePools, and the ConfigMap nops-karpenops-state
`

// karpenFlags are those of every command of karpenops.
type karpenFlags struct {
	f       *Factory
	cluster clusterFlags
	output  string
}

// karpenSession is a cluster with what karpenops left in it.
type karpenSession struct{ *reach }

func (f *Factory) karpen(ctx context.Context, s *session, namespace string) (*karpenSession, error) {
	r, err := f.reach(ctx, s, namespace)
	return &karpenSession{r}, err
}

// look opens the session of a command that looks at no release's progress.
func (o *karpenFlags) look(ctx context.Context) (*karpenSession, error) {
	s, err := o.f.open(o.cluster, nil)
	if err != nil {
		return nil, err
	}
	return o.f.karpen(ctx, s, o.cluster.kube.Namespace)
}

// karpenRecord is what the agent recorded, as far as it can be read.
type karpenRecord struct {
	status   *karpenstate.Status // nil: it never ran, or the record is damaged
	ledger   []karpenstateEntry
	paused   string // "paused by …" whoever set the annotation, whether or not the agent has seen it yet
	problems []string
}

// read reads the agent's ConfigMap. That there is none is no error: the agent never ran.
func (k *karpenSession) read(ctx context.Context) (karpenRecord, error) {
	var r karpenRecord
	where := "ConfigMap " + k.namespace + "/" + karpenstate.ConfigMap
	cm, err := k.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, karpenstate.ConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return r, nil
	case apierrors.IsForbidden(err):
		return r, &failure{class: "auth", reason: "read " + where, err: err, advice: "the record of karpenops is read with your own permissions: get on that ConfigMap"}
	case err != nil:
		return r, unreachable("read "+where, err)
	}
	if by := karpenstate.PausedBy(cm.Annotations); by != "" {
		r.paused = "paused by " + by // as the agent says it
	}
	text, there := cm.Data[karpenstate.KeyStatus]
	if !there {
		return r, nil
	}
	var status karpenstate.Status
	switch err := json.Unmarshal([]byte(text), &status); {
	case err != nil:
		r.problems = append(r.problems, fmt.Sprintf("%s, key %s: %v", where, karpenstate.KeyStatus, err))
	case status.SchemaVersion > karpenstateSchema:
		r.problems = append(r.problems, fmt.Sprintf("%s has schema version %d and this nopsctl knows %d: the agent is newer, so upgrade nopsctl", where, status.SchemaVersion, karpenstateSchema))
	default:
		r.status = &status
	}
	var ledger karpenstate.Ledger
	if text := cm.Data[karpenstate.KeyLedger]; text != "" {
		if err := json.Unmarshal([]byte(text), &ledger); err != nil {
			r.problems = append(r.problems, fmt.Sprintf("%s, key %s: %v", where, karpenstate.KeyLedger, err))
		}
	}
	r.ledger = ledger.Entries
	return r, nil
}

// karpenstateSchema is the version of the record that this build reads.
const karpenstateSchema = 1

// unreachable gives an error of the API server the class of one that is not there.
func unreachable(what string, err error) error {
	if apierrors.IsUnauthorized(err) {
		return &failure{class: "auth", reason: what, err: err, advice: "log in to the cluster again"}
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) { // it answered
		return &failure{class: map[bool]string{true: "auth", false: "failed"}[apierrors.IsForbidden(err)], reason: what, err: err}
	}
	return &failure{class: "preflight", reason: what, err: err, advice: "is the cluster's API server reachable from here? kubectl get --raw /version"}
}

// nodePools is where NodePools are; nil where Karpenter's API is not served.
func (k *karpenSession) resource(kind string) (dynamic.ResourceInterface, error) {
	mapping, err := k.mapper.RESTMapping(schema.GroupKind{Group: "karpenter.sh", Kind: kind})
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unreachable("find "+kind+"s of Karpenter", err)
	}
	return k.dynamic.Resource(mapping.Resource), nil
}

// list lists objects of Karpenter; none where its API is not served.
func (k *karpenSession) list(ctx context.Context, kind string) ([]unstructured.Unstructured, error) {
	r, err := k.resource(kind)
	if err != nil || r == nil {
		return nil, err
	}
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, unreachable("list "+kind+"s", err)
	}
	slices.SortFunc(list.Items, func(a, b unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
	return list.Items, nil
}

// completePools completes names of NodePools: those of the record, which everybody who may see it can, and needs no second permission.
func (o *karpenFlags) completePools(several bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.complete(cmd, func(s *karpenstate.Status) []cobra.Completion {
			var names []cobra.Completion
			for _, p := range s.Pools {
				if !slices.Contains(args, p.Name) {
					names = append(names, cobra.CompletionWithDesc(p.Name, poolWord(p)))
				}
			}
			return names
		})
	}
}

// completeIDs completes what waits.
func (o *karpenFlags) completeIDs(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.complete(cmd, func(s *karpenstate.Status) []cobra.Completion {
		var ids []cobra.Completion
		for _, p := range s.Pending {
			ids = append(ids, cobra.CompletionWithDesc(p.ID, p.Action+" "+p.Object))
		}
		for _, f := range s.Findings {
			if f.Patch != "" {
				ids = append(ids, cobra.CompletionWithDesc(f.ID, f.Code+" "+f.Object))
			}
		}
		return ids
	})
}

// completionPatience is how long a shell waits for a cluster.
const completionPatience = 3 * time.Second

func (o *karpenFlags) complete(cmd *cobra.Command, of func(*karpenstate.Status) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	s, err := o.f.open(o.cluster, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := s.cluster.Clientset()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	record, err := (&karpenSession{&reach{session: s, client: client, namespace: o.cluster.kube.Namespace}}).read(ctx)
	if err != nil || record.status == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return of(record.status), cobra.ShellCompDirectiveNoFileComp
}

// notInstalledHint says how karpenops comes into a cluster.
func notInstalledHint(state install.ComponentState) string {
	if state == install.ComponentUnavailable {
		return "the installed release has no karpenops yet: nopsctl install upgrades it"
	}
	return "nopsctl enable karpenops switches it on"
}

func newStateConfigMap(namespace string, annotations map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: karpenstate.ConfigMap, Namespace: namespace, Annotations: annotations,
		Labels: map[string]string{"app.kubernetes.io/part-of": "nops-kubernetes-agent", "app.kubernetes.io/managed-by": "nopsctl", componentLabel: karpenops},
	}}
}
