package write

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// TestAgainstKubernetes holds what one API server can show; starting one for each would take minutes. The scenarios run with the CRDs of
// the AWS provider, which are the stricter ones, and the life of a sibling with those of Karpenter itself as well.
func TestAgainstKubernetes(t *testing.T) {
	config, client := agenttest.Kubernetes(t)
	serve(t, config, "core")
	t.Run("core", func(t *testing.T) {
		t.Run("admission", func(t *testing.T) { testAdmission(t, config, client, "core") })
		t.Run("life", func(t *testing.T) { testLife(newWorld(t, config, client)) })
	})
	serve(t, config, "aws")
	t.Run("aws", func(t *testing.T) {
		t.Run("admission", func(t *testing.T) { testAdmission(t, config, client, "aws") })
		for _, s := range []struct {
			name string
			run  func(*world)
		}{
			{"life", testLife}, {"refusals", testRefusals}, {"in place", testInPlace}, {"gitops", testGitOps}, {"races", testRaces}, {"judgement", testJudgement}, {"undo", testUndo},
			{"crash", testCrash}, {"bounds", testBounds}, {"revert", testRevert}, {"revert beside the agent", testRevertBeside}, {"pause between", testPauseBetween}, {"approve", testApprove}, {"webhook", testWebhook},
			{"limits", testLimits}, {"rights", testRights}, {"ill and not undone", testIll}, {"deleted again and again", testDeletedAgain}, {"a clock that was ahead", testAhead},
			{"not ours any more", testAstray}, {"a slip", testSlip}, {"nodes that are held", testHeld},
		} {
			t.Run(s.name, func(t *testing.T) { s.run(newWorld(t, config, client)) })
		}
	})
}

// serve makes the API server serve one set of CRDs.
func serve(t *testing.T, config *rest.Config, set string) {
	t.Helper()
	dir := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "karpenter-crds", set)
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the CRDs are not there (lab assets puts them beside the programs): %v", err)
	}
	if _, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{dir}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
}

// world is a cluster with one writer, whose clock the test moves.
type world struct {
	*testing.T
	*Writer
	ctx    context.Context
	config *rest.Config
	client kubernetes.Interface
	clock  *clock
	// offerings is what any NodePool can launch.
	offerings int
	logs      *agenttest.Buffer
}

type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = 0
}

func who() agent.Identity {
	return agent.Identity{Component: "karpenops", Namespace: agenttest.Namespace, Release: agenttest.Release, Version: "1.2.3"}
}

func newWorld(t *testing.T, config *rest.Config, client kubernetes.Interface) *world {
	t.Helper()
	w := &world{T: t, ctx: t.Context(), config: config, client: client, clock: &clock{}, offerings: 20, logs: &agenttest.Buffer{}}
	w.Writer = w.writer(config, Limits{Mode: karpenstate.ModeInPlace, Poll: 20 * time.Millisecond, WritesPerHour: 1000, PoolEvery: time.Nanosecond})
	w.clear()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs:\n%s", w.logs)
		}
	})
	return w
}

func (w *world) writer(config *rest.Config, l Limits) *Writer {
	w.Helper()
	c := rest.CopyConfig(config)
	c.QPS, c.Burst = 1000, 1000
	kube, err := NewClient(c, "nops-karpenops-test")
	if err != nil {
		w.Fatal(err)
	}
	kube.(*rest.RESTClient).Client.Timeout = 30 * time.Second
	return New(Deps{
		Kube: kube, Who: who(), Now: w.clock.now, Log: slog.New(slog.NewTextHandler(w.logs, nil)), Limits: l,
		Effective: func(map[string]any) (int, bool) { return w.offerings, w.offerings >= 0 },
	})
}

// clear empties the cluster of what scenarios leave.
func (w *world) clear() {
	w.Helper()
	for _, path := range []string{claimsPath, overlaysPath, poolsPath, "/apis/karpenter.k8s.aws/v1/ec2nodeclasses", "/api/v1/namespaces/default/events", "/api/v1/namespaces/nops/configmaps", nodesPath} {
		items, err := w.Writer.list(w.ctx, path)
		if err != nil {
			w.Fatal(err)
		}
		for _, o := range items {
			if nameOf(o) == "kube-root-ca.crt" {
				continue
			}
			if _, err := w.call(w.ctx, http.MethodDelete, path+"/"+nameOf(o), "", nil); err != nil && apiCode(err) != http.StatusNotFound {
				w.Fatal(err)
			}
		}
	}
}

// fataler is what the makers of fixtures need of a test.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// object is JSON as an object.
func object(t fataler, text string, args ...any) map[string]any {
	t.Helper()
	v, err := plain(json.RawMessage(fmt.Sprintf(text, args...)))
	if err != nil {
		t.Fatal(err)
	}
	return mapOf(v)
}

// requirements are as most pools have them.
const requirements = `[{"key":"karpenter.k8s.aws/instance-family","operator":"In","values":["m5","c5","r5"]},{"key":"karpenter.sh/capacity-type","operator":"In","values":["spot","on-demand"]}]`

// narrower is a part of them.
const narrower = `[{"key":"karpenter.k8s.aws/instance-family","operator":"In","values":["m5","r5"]},{"key":"karpenter.sh/capacity-type","operator":"In","values":["spot","on-demand"]}]`

func list(t fataler, text string) any {
	t.Helper()
	v, err := plain(json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// userPool is a NodePool as a user has it, opted in.
func (w *world) userPool(name string, changes ...plan.Change) map[string]any {
	w.Helper()
	o := object(w, `{"apiVersion":"karpenter.sh/v1","kind":"NodePool","metadata":{"name":%q,"annotations":{"karpenops.nops.io/managed":"true"}},"spec":{
		"weight":10,"limits":{"cpu":"100"},"disruption":{"consolidateAfter":"1m","consolidationPolicy":"WhenEmptyOrUnderutilized","budgets":[{"nodes":"10%%"}]},
		"template":{"spec":{"expireAfter":"720h","nodeClassRef":{"group":"karpenter.k8s.aws","kind":"EC2NodeClass","name":"default"},"requirements":%s}}}}`, name, requirements)
	return with(o, changes)
}

// sibling is what the planner would make of it.
func (w *world) sibling(name, base string, weight int, changes ...plan.Change) plan.Action {
	w.Helper()
	o := w.userPool(name, plan.Change{Path: pathWeight, After: int64(weight)}, plan.Change{Path: pathCPU, After: "16"})
	o["metadata"] = map[string]any{"name": name, "labels": map[string]any{karpenstate.LabelOwned: "true"}, "annotations": map[string]any{
		karpenstate.AnnotationBase: base, karpenstate.AnnotationPurpose: karpenstate.PurposeSpot,
	}}
	return plan.Action{ID: "create-" + name, Kind: plan.CreateSibling, ObjectKind: kindPool, Name: name, Base: base, Object: with(o, changes), Reason: "spot is cheap there"}
}

// make creates an object as somebody.
func (w *world) make(manager string, o map[string]any) map[string]any {
	w.Helper()
	path := map[string]string{kindPool: poolsPath, kindOverlay: overlaysPath, "NodeClaim": claimsPath, "EC2NodeClass": "/apis/karpenter.k8s.aws/v1/ec2nodeclasses"}[text(o, "kind")]
	made, err := w.call(w.ctx, http.MethodPost, path, plainJSON, o, "fieldManager", manager, "fieldValidation", "Strict")
	if err != nil {
		w.Fatal(err)
	}
	return made
}

// edit is somebody's merge patch of a NodePool.
func (w *world) edit(manager, pool, patch string) map[string]any {
	w.Helper()
	o, err := w.call(w.ctx, http.MethodPatch, poolsPath+"/"+pool, mergePatch, json.RawMessage(patch), "fieldManager", manager)
	if err != nil {
		w.Fatal(err)
	}
	return o
}

// apply is a tool's server-side apply.
func (w *world) apply(manager string, force bool, o map[string]any) (map[string]any, error) {
	return w.call(w.ctx, http.MethodPatch, poolsPath+"/"+nameOf(o), applyPatch, o, "fieldManager", manager, "force", fmt.Sprint(force))
}

func (w *world) pool(name string) map[string]any {
	w.Helper()
	o, err := w.get(w.ctx, poolsPath+"/"+name)
	if apiCode(err) == http.StatusNotFound {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return o
}

// status is what Karpenter would write.
func (w *world) status(path, patch string) {
	w.Helper()
	if _, err := w.call(w.ctx, http.MethodPatch, path+"/status", mergePatch, json.RawMessage(patch), "fieldManager", "karpenter"); err != nil {
		w.Fatal(err)
	}
}

// ready is a NodePool that Karpenter is content with, as it is now.
func (w *world) ready(pool string, nodes int) {
	w.Helper()
	generation, _ := integer(w.pool(pool), "metadata", "generation")
	at := w.Now().UTC().Format(time.RFC3339)
	w.status(poolsPath+"/"+pool, fmt.Sprintf(`{"status":{"nodes":%d,"conditions":[
		{"type":"Ready","status":"True","reason":"Ready","message":"","observedGeneration":%d,"lastTransitionTime":%q},
		{"type":"ValidationSucceeded","status":"True","reason":"ValidationSucceeded","message":"","observedGeneration":%d,"lastTransitionTime":%q}]}}`, nodes, generation, at, generation, at))
}

// claim is a NodeClaim of a NodePool.
func (w *world) claim(name, pool string) {
	w.Helper()
	w.make("karpenter", object(w, `{"apiVersion":"karpenter.sh/v1","kind":"NodeClaim","metadata":{"name":%q,"labels":{"karpenter.sh/nodepool":%q}},"spec":{
		"nodeClassRef":{"group":"karpenter.k8s.aws","kind":"EC2NodeClass","name":"default"},"requirements":[]}}`, name, pool))
	w.condition(name, "Launched", "True", "Launched")
}

func (w *world) condition(claim, kind, status, reason string) {
	w.Helper()
	w.status(claimsPath+"/"+claim, fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q,"reason":%q,"message":"","lastTransitionTime":%q}]}}`,
		kind, status, reason, w.Now().UTC().Format(time.RFC3339)))
}

func (w *world) unclaim(name string) {
	w.Helper()
	if _, err := w.call(w.ctx, http.MethodDelete, claimsPath+"/"+name, "", nil); err != nil {
		w.Fatal(err)
	}
}

// says is an event of Karpenter's, a moment from now; since is how long it has been saying so.
func (w *world) says(kind, name, reason, message string, since ...time.Duration) {
	w.Helper()
	uid := "uid-of-" + name
	if pool := w.pool(name); pool != nil && kind == kindPool {
		uid = string(uidOf(pool))
	}
	w.saysAs("karpenter", "default", uid, kind, name, reason, message, since...)
}

// saysAs is an event in somebody's name.
func (w *world) saysAs(source, namespace, uid, kind, name, reason, message string, since ...time.Duration) {
	w.Helper()
	last := w.Now().Add(2 * time.Second).UTC()
	first := last
	for _, d := range since {
		first = last.Add(-d)
	}
	e := object(w, `{"apiVersion":"v1","kind":"Event","metadata":{"generateName":"e-","namespace":%q},"source":{"component":%q},"involvedObject":{"kind":%q,"name":%q,"uid":%q},"reason":%q,"type":"Warning","firstTimestamp":%q,"lastTimestamp":%q}`,
		namespace, source, kind, name, uid, reason, first.Format(time.RFC3339), last.Format(time.RFC3339))
	e["message"] = message
	if namespace != "default" {
		e["involvedObject"].(map[string]any)["namespace"] = namespace
	}
	if _, err := w.call(w.ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/events", plainJSON, e); err != nil {
		w.Fatal(err)
	}
}

// events are the reasons of our own events about a NodePool.
func (w *world) events(pool string) []string {
	w.Helper()
	items, err := w.Writer.list(w.ctx, "/api/v1/namespaces/default/events")
	if err != nil {
		w.Fatal(err)
	}
	var reasons []string
	for _, e := range items {
		if text(e, "source", "component") == "nops-karpenops" && text(e, "involvedObject", "name") == pool {
			reasons = append(reasons, text(e, "reason"))
		}
	}
	slices.Sort(reasons)
	return slices.Compact(reasons)
}

func (w *world) do(a plan.Action) {
	w.Helper()
	if r, err := w.Apply(w.ctx, a, Meta{MarketSeq: 7, CommitSeq: 3}); err != nil || r.Outcome != Applied {
		w.Fatalf("%s of %s: %+v, %v", a.Kind, a.Name, r, err)
	}
}

// set is an action with one change of what a NodePool is now.
func (w *world) set(kind plan.ActionKind, name, base, path string, after any) plan.Action {
	w.Helper()
	var before any
	if live := w.pool(name); live != nil {
		before = value(live, path)
	}
	return plan.Action{ID: string(kind) + "-" + name, Kind: kind, ObjectKind: kindPool, Name: name, Base: base, Reason: "a test", Changes: []plan.Change{{Path: path, Before: before, After: after}}}
}

func (w *world) settle() Settled {
	w.Helper()
	s, err := w.Settle(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// prove lets the window of what was written pass.
func (w *world) prove() {
	w.Helper()
	w.clock.pass(w.Limits.Window + time.Second)
	if s := w.settle(); s.Watching != 0 {
		w.Fatalf("still being watched: %+v", s)
	}
}

func (w *world) state() *state {
	w.Helper()
	st, err := w.readState(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return st
}

// last is the last record about an object with an outcome.
func (w *world) outcomes(object string) []string {
	w.Helper()
	var out []string
	for _, e := range w.state().ledger.Entries {
		if e.Object == object {
			out = append(out, e.Action+" "+e.Outcome)
		}
	}
	return out
}

func (w *world) refused(code Code, a plan.Action) *Refusal {
	w.Helper()
	r, err := w.Apply(w.ctx, a, Meta{})
	if CodeOf(err) != code {
		w.Fatalf("%s of %s: %+v, %v; want a refusal for %s", a.Kind, a.Name, r, err, code)
	}
	if r.Outcome != Refused {
		w.Errorf("%s of %s: a refusal with the outcome %q", a.Kind, a.Name, r.Outcome)
	}
	refusal, _ := err.(*Refusal) //nolint:errorlint // Apply returns it as it is
	return refusal
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// record is one for filling ledgers.
func (w *world) record(i int) nopsapi.KarpenterRecord {
	return nopsapi.KarpenterRecord{ID: fmt.Sprintf("r%d", i), At: w.Now().UTC(), Actor: "agent", Action: "set-limits", Object: "NodePool/x", Outcome: Applied}
}
