package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// recordOf is a record with something of everything in it.
func recordOf(now time.Time) (karpenstate.Status, []karpenstateEntry) {
	s := karpenstate.Status{
		SchemaVersion: 1, At: now.Add(-90 * time.Second), LookedAt: now.Add(-30 * time.Second), Version: "0.1.0", Mode: karpenstate.ModeSiblings,
		Karpenter:   karpenstate.Karpenter{APIVersions: []string{"v1"}, Writable: true, SpotToSpot: true, NodeClassKinds: []string{"EC2NodeClass"}},
		Market:      karpenstate.Fact{Seq: 8812, AsOf: now.Add(-3 * time.Minute), ValidUntil: now.Add(12 * time.Minute)},
		Commitments: karpenstate.Fact{Seq: 41, AsOf: now.Add(-3 * time.Hour), ValidUntil: now.Add(-time.Minute), Problem: "the platform does not answer: connection refused"},
		Pools: []karpenstate.Pool{
			{Name: "default-spot-7f3a", Managed: true, Owned: true, Base: "default", Purpose: karpenstate.PurposeSpot, Mode: karpenstate.ModeSiblings, Ready: true, Nodes: 4, Weight: 10, CPULimit: "48", CPUUsed: "30.5", Offerings: 96, Why: []string{"base less 2 families"}},
			{Name: "batch", Ready: true, Nodes: 2, CPUUsed: "16", Offerings: 40},
			{
				Name: "default", Managed: true, Mode: karpenstate.ModeSiblings, Ready: true, Nodes: 3, CPULimit: "100", CPUUsed: "22", Offerings: 124, Owners: []string{"argocd-controller"},
				Why: []string{
					"spot scores of c7i in use1-az2 were 3 or lower three times in a row: excluded there since 2026-11-23 08:10 UTC",
					"without it 96 of 124 offerings remain, in 9 families and 3 zones: above the floors of 10 types, 5 families and 3 zones",
					"a sibling saves 4.1 % and drifts no node: default-spot-7f3a",
				},
				LastAction: "9d1e40",
			},
			{Name: "default-commit-02b1", Managed: true, Owned: true, Base: "default", Purpose: karpenstate.PurposeCommitment, Mode: karpenstate.ModeSiblings, Nodes: 1, Weight: 60, CPULimit: "8", CPUUsed: "8", Offerings: 14},
			{Name: "a-node-pool-with-a-name-that-is-as-long-as-some-teams-like-them", Managed: true, Mode: karpenstate.ModeAdvise, Paused: "NodePool/a-node-pool is paused by jane: migrating the node class", Ready: true, Nodes: 12, Weight: 5, CPUUsed: "310", Offerings: 7},
		},
		Pending: []karpenstate.Pending{
			{ID: "b41c77", Action: "set-limits", Object: "NodePool/default-commit-02b1", Reason: "12 vCPU of sp-0a1b are not used by anybody, 90 % of which may be", Waiting: "rate limit until 2026-11-23 14:20 UTC"},
			{ID: "c0ffee", Action: "narrow", Object: "NodePool/default", Reason: "c7i in use1-az2 is often interrupted", Waiting: "approval: 2 nodes would be replaced", Drift: 2},
		},
		Findings: []nopsapi.KarpenterFinding{
			{ID: "f-31", Code: "weight-at-maximum", Object: "NodePool/a-node-pool-with-a-name-that-is-as-long-as-some-teams-like-them", Message: "it has weight 100: nothing can be tried before it"},
			{ID: "f-77", Code: "few-families", Object: "NodePool/default", Message: "two families more would bring the interruption rate from 12 % down to 4 %", Patch: `{"spec":{}}`, Drift: 1},
		},
	}
	entries := []karpenstateEntry{
		{ID: "000001", At: now.Add(-26 * time.Hour), Actor: "agent", Action: "create-sibling", Object: "NodePool/default-spot-7f3a", Reason: "spot in 9 families", Outcome: "applied"},
		{ID: "9d1e40", At: now.Add(-6 * time.Hour), Actor: "arn:aws:sts::123456789012:assumed-role/admin/jane", Action: "narrow", Object: "NodePool/default", Reason: "approved", Outcome: "refused", Explanation: "the object has changed"},
	}
	return s, entries
}

// shown is an output with what differs from run to run made equal.
func (k *karpenWorld) shown(text string) string {
	text = strings.ReplaceAll(text, k.namespace, "nops")
	text = strings.ReplaceAll(text, k.apiServer.config.CurrentContext, "demo")
	return regexp.MustCompile(`nops-karpenops-[0-9a-f]{8}`).ReplaceAllString(text, "nops-karpenops-0a1b2c3d")
}

// fits holds a JSON answer against its documented schema.
func (k *karpenWorld) fits(schema string) {
	k.t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(k.out.String()))
	if err != nil {
		k.t.Fatalf("no document: %v\n%s\n%s", err, k.out, k.errOut)
	}
	if err := answerSchema(k.t, schema).Validate(v); err != nil {
		k.t.Errorf("%s\n%v", k.out, err)
	}
}

func TestKarpenopsStatus(t *testing.T) {
	k := newKarpenWorld(t)
	full, entries := recordOf(k.clock.Now())
	for _, tt := range []struct {
		name, reason string
		arrange      func()
		code         Code
		state        string
		says         []string
		golden       bool
	}{
		{name: "never-ran", reason: "it should run, and says nothing", code: CodeCheckFailed, state: "never-ran", says: []string{"has recorded nothing yet"}, golden: true},
		{name: "starting", reason: "that takes a moment, which is no failure", arrange: func() { k.agentState("progressing") }, state: "never-ran"},
		{name: "not-part", reason: "the release is older than karpenops", arrange: func() { k.agentState(install.ComponentUnavailable) }, code: CodeCheckFailed, state: "not-installed", says: []string{"nopsctl install upgrades it"}},
		{name: "not-installed", reason: "nothing is", arrange: func() { k.engine.status.Health = install.NotInstalled }, code: CodeCheckFailed, state: "not-installed", says: []string{"nopsctl install installs it"}},
		{name: "disabled", reason: "by choice, and it never ran", arrange: func() { k.agentState(install.ComponentDisabled) }, state: "disabled"},
		{name: "full", reason: "all of it", arrange: func() { k.record(full, entries...) }, state: "running", golden: true},
		{name: "quiet", reason: "nothing has changed for a day, and it goes on looking", arrange: func() {
			s := full
			s.At, s.LookedAt = s.At.Add(-24*time.Hour), s.LookedAt.Add(-4*time.Minute)
			k.record(s)
		}, state: "running", says: []string{"changed 24h02m ago", "looked 4m30s ago"}},
		{name: "gone", reason: "its pod is there, and it does not look any more", arrange: func() {
			s := full
			s.LookedAt = s.LookedAt.Add(-20 * time.Minute)
			k.record(s)
		}, code: CodeCheckFailed, state: "silent", says: []string{"recorded nothing for 20m30s", "13:39"}},
		{name: "quiet, and older", reason: "an agent that does not say when it looked, and is well", arrange: func() {
			s := full
			s.At, s.LookedAt = s.At.Add(-24*time.Hour), time.Time{}
			k.record(s)
		}, state: "running", says: []string{"24h02m ago"}},
		{name: "silent", reason: "one that does not say it, and is on its way for an hour", arrange: func() {
			s := full
			s.At, s.LookedAt = s.At.Add(-time.Hour), time.Time{}
			k.record(s)
			k.agentState("progressing")
		}, code: CodeCheckFailed, state: "silent", says: []string{"recorded nothing for 1h02m", "12:58"}},
		{name: "degraded", reason: "its workload is", arrange: func() { k.record(full); k.agentState("degraded") }, code: CodeCheckFailed, state: "degraded"},
		{name: "paused", reason: "by somebody, whether or not the agent has seen it yet", arrange: func() {
			k.record(full)
			cm := k.stateMap()
			cm.Annotations = map[string]string{karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: "jane: load test"}
			_, err := k.client.CoreV1().ConfigMaps(k.namespace).Update(t.Context(), cm, metav1.UpdateOptions{})
			must(t, err)
		}, state: "paused", says: []string{"nothing is written: paused by jane: load test", "paused by jane: load test karpenter"}},
		{name: "holding", reason: "no facts", arrange: func() {
			s := full
			s.Holding = "no market since 2026-11-23 12:00 UTC"
			k.record(s)
		}, state: "holding", says: []string{"no market since 2026-11-23 12:00 UTC"}},
		{name: "advising", reason: "it writes nothing", arrange: func() { s := full; s.Mode = karpenstate.ModeAdvise; k.record(s) }, state: "running", says: []string{"it plans, and writes nothing"}},
		{name: "left", reason: "switched off, and its NodePools go on", arrange: func() {
			k.record(full)
			k.agentState(install.ComponentDisabled)
			k.pool("default", "", 3)
			k.pool("default-spot-7f3a", "default", 4)
		}, state: "disabled", says: []string{"Nobody tends", "default-spot-7f3a (4 nodes)"}, golden: true},
		{name: "damaged", reason: "not JSON", arrange: func() {
			cm := newStateConfigMap(k.namespace, nil)
			cm.Data = map[string]string{karpenstate.KeyStatus: "{"}
			_, err := k.client.CoreV1().ConfigMaps(k.namespace).Create(t.Context(), cm, metav1.CreateOptions{})
			must(t, err)
		}, code: CodeCheckFailed, state: "unknown", says: []string{"status.json"}},
		{name: "newer", reason: "a schema that this build does not know is not guessed at", arrange: func() { s := full; s.SchemaVersion = 2; k.record(s) }, code: CodeCheckFailed, state: "unknown", says: []string{"upgrade nopsctl"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k.t = t
			_ = k.client.CoreV1().ConfigMaps(k.namespace).Delete(t.Context(), karpenstate.ConfigMap, metav1.DeleteOptions{})
			k.engine.status = healthy()
			k.agentState("ready")
			if tt.arrange != nil {
				tt.arrange()
			}
			for _, width := range []int{80, 120} {
				k.width = width
				k.want(tt.code, k.args("karpenops", "status")...)
				for _, line := range strings.Split(k.out.String(), "\n") {
					if n := len([]rune(line)); n > width {
						t.Errorf("%d columns in a terminal of %d: %s", n, width, line)
					}
				}
				if !strings.Contains(k.out.String(), "karpenops "+tt.state+"\n") {
					t.Errorf("not %s: %s\n%s", tt.state, tt.reason, k.out)
				}
				if tt.golden {
					golden(t, fmt.Sprintf("karpenops-status-%s-%d.txt", tt.name, width), k.shown(k.out.String()))
				}
			}
			for _, s := range tt.says {
				if !strings.Contains(strings.Join(strings.Fields(k.out.String()+k.errOut.String()), " "), s) {
					t.Errorf("no %q: %s\n%s%s", s, tt.reason, k.out, k.errOut)
				}
			}
			k.want(tt.code, k.args("karpenops", "status", "-o", "json")...)
			k.fits("karpenops-status")
			var a karpenStatusAnswer
			must(t, json.Unmarshal([]byte(k.out.String()), &a))
			if a.State != tt.state || (a.Error == nil) != (tt.code == CodeOK) {
				t.Errorf("state %s, error %+v, want %s: %s", a.State, a.Error, tt.state, tt.reason)
			}
			if tt.golden {
				golden(t, "karpenops-status-"+tt.name+".json", k.shown(k.out.String()))
			}
			asJSON := k.out.String()
			k.want(tt.code, k.args("karpenops", "status", "-o", "yaml")...)
			back, err := yaml.YAMLToJSON([]byte(k.out.String()))
			must(t, err)
			var fromYAML, fromJSON any
			must(t, json.Unmarshal(back, &fromYAML))
			must(t, json.Unmarshal([]byte(asJSON), &fromJSON))
			if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
				t.Errorf("YAML says something else (-json +yaml):\n%s", diff)
			}
		})
	}
	k.t = t
	k.want(CodeUsage, k.args("karpenops", "status", "--last", "-1")...)
	// Not allowed to read the record is said as such.
	k.want(CodeAuth, k.args("karpenops", "status", "--as", "nobody")...)
	k.contains(k.errOut, "get on that ConfigMap")
}

func TestKarpenopsExplain(t *testing.T) {
	k := newKarpenWorld(t)
	k.want(CodeCheckFailed, k.args("karpenops", "explain", "default")...)
	k.contains(k.errOut, "has recorded nothing")
	s, entries := recordOf(k.clock.Now())
	k.record(s, entries...)
	for _, width := range []int{80, 120} {
		k.width = width
		for _, pool := range []string{"default", "batch", "default-spot-7f3a"} {
			k.want(CodeOK, k.args("karpenops", "explain", pool)...)
			golden(t, fmt.Sprintf("karpenops-explain-%s-%d.txt", pool, width), k.shown(k.out.String()))
		}
	}
	k.want(CodeOK, k.args("karpenops", "explain", "default", "-o", "json")...)
	k.fits("karpenops-explain")
	golden(t, "karpenops-explain.json", k.shown(k.out.String()))
	k.want(CodeUsage, k.args("karpenops", "explain", "defualt")...)
	k.contains(k.errOut, "default-spot-7f3a")
	k.want(CodeUsage, k.args("karpenops", "explain")...)

	// A shell asks the record, and is told nothing where there is none.
	k.want(CodeOK, append([]string{"__complete"}, append(k.args("karpenops", "explain"), "")...)...)
	k.contains(k.out, "default-commit-02b1\tcommitment", "batch\tleft alone")
	k.want(CodeOK, append([]string{"__complete"}, append(k.args("karpenops", "approve"), "")...)...)
	k.contains(k.out, "c0ffee\tnarrow NodePool/default", "f-77\tfew-families")
	if strings.Contains(k.out.String(), "f-31") {
		t.Error("a finding without a patch cannot be approved")
	}
	k.want(CodeOK, append([]string{"__complete"}, append(k.args("karpenops", "revert", "default"), "")...)...)
	if strings.Contains(k.out.String(), "default\t") {
		t.Errorf("a NodePool twice:\n%s", k.out)
	}
}

func TestKarpenopsPause(t *testing.T) {
	k := newKarpenWorld(t)
	k.want(CodeUsage, k.args("karpenops", "pause")...)
	k.contains(k.errOut, "say why")
	k.want(CodeOK, k.args("karpenops", "resume")...)
	k.contains(k.out, "was not paused")
	if k.stateMap().Name != "" {
		t.Error("resume made a ConfigMap")
	}
	// Before the agent ever ran: it starts paused.
	k.want(CodeOK, k.args("karpenops", "pause", "--why", "load\ntest")...)
	k.contains(k.out, "karpenops is paused")
	if by := k.stateMap().Annotations[karpenstate.AnnotationPausedBy]; by != "jane: load test" || k.stateMap().Annotations[karpenstate.AnnotationPaused] != "true" {
		t.Errorf("paused by %q", by)
	}
	// What the agent recorded stays.
	s, entries := recordOf(k.clock.Now())
	k.record(s, entries...)
	before := k.stateMap().Data
	k.want(CodeOK, k.args("karpenops", "pause", "--why", "again", "--as", "bob", "--as-group", "system:masters")...)
	k.want(CodeOK, k.args("karpenops", "pause", "--why", "again", "-o", "json")...)
	k.fits("karpenops-pause")
	var a karpenPauseAnswer
	must(t, json.Unmarshal([]byte(k.out.String()), &a))
	if want := (karpenPauseAnswer{SchemaVersion: 1, Object: "ConfigMap " + k.namespace + "/nops-karpenops-state", Paused: true, By: "jane: again", Was: "bob: again", Changed: true}); a != want {
		t.Errorf("%+v, want %+v", a, want)
	}
	golden(t, "karpenops-pause.json", k.shown(k.out.String()))
	k.want(CodeOK, k.args("karpenops", "resume")...)
	k.contains(k.out, "it was paused: jane: again")
	if cm := k.stateMap(); len(cm.Annotations) != 0 || !cmp.Equal(before, cm.Data) {
		t.Errorf("left: %v", cm.Annotations)
	}

	k.pool("default", "", 3)
	k.want(CodeUsage, k.args("karpenops", "pause", "defualt", "--why", "x")...)
	k.contains(k.errOut, "there are default")
	k.want(CodeOK, k.args("karpenops", "pause", "default", "--why", "migration")...)
	read := func() *unstructured.Unstructured {
		o, err := k.dynamic.Resource(nodePools).Get(t.Context(), "default", metav1.GetOptions{})
		must(t, err)
		return o
	}
	if o := read(); o.GetAnnotations()[karpenstate.AnnotationPausedBy] != "jane: migration" || o.GetGeneration() != 1 {
		t.Errorf("%v, generation %d", o.GetAnnotations(), o.GetGeneration())
	}
	k.want(CodeOK, k.args("karpenops", "resume", "default")...)
	if o := read(); len(o.GetAnnotations()) != 0 {
		t.Errorf("left: %v", o.GetAnnotations())
	}
	k.want(CodeAuth, k.args("karpenops", "pause", "default", "--why", "x", "--as", "nobody")...)
	// Whoever cannot write to NodePools, because their admission does not answer above all, has another way.
	k.refuse("nodepools")
	k.want(CodeFailed, k.args("karpenops", "pause", "default", "--why", "x")...)
	k.contains(k.errOut, "nopsctl karpenops pause --why REASON", "as a whole")
	k.want(CodeOK, k.args("karpenops", "pause", "--why", "x")...)
	k.want(CodeOK, k.args("karpenops", "resume")...)
	k.want(CodeUsage, k.args("karpenops", "pause", "a", "b", "--why", "x")...)
}

// installed puts the real engine and a real release of the real chart under the commands.
func (k *karpenWorld) installed(values map[string]any) {
	k.t.Helper()
	chart := withAgents(k.t)
	factory := k.change
	k.change = func(f *Factory) {
		factory(f)
		f.Engine = func(o install.Options) (Engine, error) {
			o.Chart, o.PollInterval = chart, 20*time.Millisecond
			return install.New(o)
		}
	}
	engine, err := install.New(install.Options{Getter: k.getter(), Namespace: k.namespace, Release: defaultRelease, Chart: chart, PollInterval: 20 * time.Millisecond})
	must(k.t, err)
	k.real = engine
	plan, err := engine.Plan(k.t.Context(), install.Request{ClusterARN: demoARN, Values: values, Credentials: map[string][]byte{install.KeyAPI: []byte(personKey)}})
	must(k.t, err)
	_, err = engine.Apply(k.t.Context(), plan)
	must(k.t, err)
	k.t.Cleanup(func() {
		_, err := engine.Uninstall(context.WithoutCancel(k.t.Context()), install.UninstallRequest{KeepNamespace: true, Timeout: time.Minute})
		must(k.t, err)
	})
}

// release is a small one: heartbeat, and karpenops or not.
func releaseOf(karpen bool) map[string]any {
	off := map[string]any{"enabled": false}
	return map[string]any{
		"containerInsights": off, "containerRightsizing": off, "dataFetcher": off, "autoUpdater": off,
		"karpenops": map[string]any{"enabled": karpen, "clusterId": "c-42"},
		"nops":      map[string]any{"global": map[string]any{"proxy": map[string]any{"url": "http://proxy:3128"}, "caBundle": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "tolerations": []any{map[string]any{"operator": "Exists"}}}},
	}
}

// TestKarpenopsJob: what runs is the agent as the release has it, with permissions that are there for as long.
func TestKarpenopsJob(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(false))
	k.world.server.Close() // of the platform: nothing here may need it
	k.pool("default", "", 3)
	k.pool("default-spot", "default", 2)
	var during []metav1.Object
	jobs := k.program(agentRun{
		lines: []string{`{"time":"2026-11-23T14:00:00Z","level":"INFO","msg":"looking at the cluster","pools":2}`, "default: narrow, drifts 0 nodes", "", "nothing else"},
		act:   func() { during = k.permissions() },
	})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if got := k.out.String(); got != "default: narrow, drifts 0 nodes\n\nnothing else\n" {
		t.Errorf("the answer:\n%s", got)
	}
	k.contains(k.errOut, "Running karpenops plan in the cluster", "info looking at the cluster pools=2")
	k.clean()
	if len(during) != 5 || len(k.permissions()) != 0 {
		t.Errorf("%d objects were there while it ran and %d afterwards, want 5 and none", len(during), len(k.permissions()))
	}
	for _, o := range during {
		if o.GetLabels()["app.kubernetes.io/managed-by"] != "nopsctl" {
			t.Errorf("%T %s: %v: an install could not take it over", o, o.GetName(), o.GetLabels())
		}
	}
	if len(*jobs) != 1 {
		t.Fatalf("%d Jobs", len(*jobs))
	}
	job := (*jobs)[0]
	golden(t, "karpenops-job.yaml", k.shown(jobYAML(t, job)))
	objects, err := k.real.ComponentObjects(t.Context(), install.ComponentRequest{Component: karpenops})
	must(t, err)
	for _, o := range objects.Objects {
		if o.GetKind() != "Deployment" {
			continue
		}
		d, err := typed[appsv1.Deployment](o)
		must(t, err)
		want, got := d.Spec.Template.Spec, job.Spec.Template.Spec
		names := func(env []corev1.EnvVar) (all []string) {
			for _, e := range env {
				all = append(all, e.Name+"="+e.Value)
			}
			return all
		}
		for what, same := range map[string]bool{
			"image": want.Containers[0].Image == got.Containers[0].Image, "environment": len(names(want.Containers[0].Env)) > 10 && cmp.Equal(names(want.Containers[0].Env), names(got.Containers[0].Env)),
			"security": cmp.Equal(want.SecurityContext, got.SecurityContext) && cmp.Equal(want.Containers[0].SecurityContext, got.Containers[0].SecurityContext), "account": want.ServiceAccountName == got.ServiceAccountName,
			"resources": cmp.Equal(want.Containers[0].Resources, got.Containers[0].Resources), "node selector": cmp.Equal(want.NodeSelector, got.NodeSelector), "tolerations": cmp.Equal(want.Tolerations, got.Tolerations),
		} {
			if !same {
				t.Errorf("%s differs from the agent's", what)
			}
		}
	}
	for _, text := range append(append([]string{}, job.Spec.Template.Spec.Containers[0].Args...), jobYAML(t, job)) {
		if strings.Contains(text, personKey) || strings.Contains(text, "0123456789abcdef") {
			t.Errorf("a credential in the Job:\n%s", text)
		}
	}

	// The document of a plan.
	k.program(agentRun{lines: []string{`{"time":"2026-11-23T14:00:00Z","level":"INFO","msg":"x"}`, "{", ` "actions": [],`, ` "holding": "no market"`, "}"}})
	k.want(CodeOK, k.args("karpenops", "plan", "-o", "json")...)
	k.fits("karpenops-act")
	golden(t, "karpenops-plan.json", k.out.String())
	k.program(agentRun{lines: []string{"what?"}})
	k.want(CodeFailed, k.args("karpenops", "plan", "-o", "json")...)
	k.fits("karpenops-act")
	k.contains(k.out, "no document")

	// A long log over a connection that breaks: each line once, in order.
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("line %d", i))
	}
	k.program(agentRun{lines: many, cut: 7})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if got := k.out.String(); got != strings.Join(many, "\n")+"\n" {
		t.Errorf("a log that broke:\n%s", got)
	}
	k.program(agentRun{lines: []string{"draining", "done"}, evicted: true})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if got := k.out.String(); got != "draining\ndone\n" {
		t.Errorf("after an eviction:\n%s", got)
	}
	k.clean()
}

// jobYAML is the shape of a Job: what the API server adds, and what is the chart's alone (settings of karpenops, resources), left out.
func jobYAML(t *testing.T, j batchv1.Job) string {
	t.Helper()
	j = *j.DeepCopy()
	c := &j.Spec.Template.Spec.Containers[0]
	c.Resources = corev1.ResourceRequirements{}
	c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool {
		return strings.HasPrefix(e.Name, "NOPS_KARPENOPS_") || strings.HasPrefix(e.Name, "GO")
	})
	for name := range j.Spec.Template.Annotations { // hashes
		j.Spec.Template.Annotations[name] = "…"
	}
	j.UID, j.ResourceVersion, j.CreationTimestamp, j.ManagedFields, j.Generation, j.Status = "", "", metav1.Time{}, nil, 0, batchv1.JobStatus{}
	j.Spec.Selector = nil
	for _, labels := range []map[string]string{j.Labels, j.Spec.Template.Labels} {
		for _, l := range []string{batchv1.ControllerUidLabel, "controller-uid", batchv1.JobNameLabel, "job-name"} {
			delete(labels, l)
		}
	}
	data, err := yaml.Marshal(j)
	must(t, err)
	return string(data)
}

// TestKarpenopsJobsThatFail: the reason, the exit code, and nothing left.
func TestKarpenopsJobsThatFail(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(true))
	k.pool("default-spot", "default", 2)
	for _, tt := range []struct {
		name, reason string
		run          agentRun
		args         []string
		fast         bool // the clock, past what is waited for
		code         Code
		says         []string
	}{
		{name: "fails", reason: "the last word of the program, once", run: agentRun{code: 1, lines: []string{"looking", "karpenops: NodePool default: the API server went away"}}, code: CodeFailed, says: []string{"karpenops plan: NodePool default: the API server went away"}},
		{name: "misuse", reason: "its exit codes are ours", run: agentRun{code: 2, lines: []string{"karpenops: unknown flag: --nonsense"}}, code: CodeUsage, says: []string{"unknown flag"}},
		{name: "no word", reason: "killed, for example", run: agentRun{code: 137}, code: CodeFailed, says: []string{"ended with code 137"}},
		{name: "a refusal", reason: "a class of its own where the program says so", run: agentRun{code: 3, lines: []string{"karpenops: Karpenter is not there"}}, code: CodeCheckFailed},
		{name: "no image", reason: "the kubelet's reason", run: agentRun{waiting: "ImagePullBackOff"}, fast: true, code: CodeFailed, says: []string{"ImagePullBackOff", "did not start within", "not found"}},
		{name: "no node", reason: "it is bounded", run: agentRun{waiting: "ContainerCreating"}, fast: true, code: CodeFailed, says: []string{"did not start within 3m"}},
		{name: "no pod", reason: "quota, Pod Security: what the Job's controller was told", run: agentRun{noPod: `pods "x" is forbidden: exceeded quota`}, fast: true, code: CodeFailed, says: []string{"no pod was made", "exceeded quota"}},
		{name: "too long", reason: "what may be half done, and how to go on", run: agentRun{expired: true, lines: []string{"draining default-spot"}}, args: []string{"karpenops", "revert", "--all", "--yes"}, code: CodeTimedOut, says: []string{"stay at a limit of 0 vCPU", "nopsctl karpenops revert --all goes on"}},
		{name: "slow", reason: "it keeps to the time by itself", run: agentRun{code: 1, long: true, lines: []string{"karpenops: reverting: default-spot still has nodes"}}, args: []string{"karpenops", "revert", "--all", "--yes"}, code: CodeTimedOut, says: []string{"still has nodes", "goes on from there"}},
		{name: "mends", reason: "what stands in the way, and no promise to go on from there", run: agentRun{code: 1, lines: []string{"karpenops: schema 2: a newer version of the agent wrote the journal"}}, args: []string{"karpenops", "revert", "--all", "--yes"}, code: CodeFailed, says: []string{"once that is mended, nopsctl karpenops revert --all does what is left"}},
		{name: "half", reason: "it says that it is done, and the cluster says otherwise", run: agentRun{lines: []string{"done"}}, args: []string{"karpenops", "revert", "--all", "--yes"}, code: CodeFailed, says: []string{"there still is", "default-spot (2 nodes)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k.t = t
			k.fast = tt.fast
			k.program(tt.run)
			args := tt.args
			if args == nil {
				args = []string{"karpenops", "plan"}
			}
			k.want(tt.code, k.args(args...)...)
			for _, s := range tt.says {
				if text := strings.Join(strings.Fields(k.errOut.String()), " "); !strings.Contains(text, s) {
					t.Errorf("no %q: %s\n%s", s, tt.reason, k.errOut)
				}
			}
			if strings.Count(k.out.String(), "went away") > 0 {
				t.Errorf("what went wrong is no answer:\n%s", k.out)
			}
			k.clean()
			if len(k.permissions()) != 5 {
				t.Errorf("what belongs to the release is gone: %d objects are left", len(k.permissions()))
			}
		})
	}
}

// TestKarpenopsCancelled: Ctrl-C while it runs leaves no Job, and says what may be half done.
func TestKarpenopsCancelled(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(false))
	k.pool("default-spot", "default", 2)
	withRelease := k.change
	for _, tt := range []struct {
		name string
		args []string
		run  agentRun
		says string
	}{
		{name: "revert", args: []string{"karpenops", "revert", "default", "--yes"}, run: agentRun{hold: true, lines: []string{"draining default-spot"}}, says: "nopsctl karpenops revert default goes on from there"},
		{name: "plan", args: []string{"karpenops", "plan"}, run: agentRun{hold: true, lines: []string{"looking"}}, says: "a plan changes nothing"},
		{name: "before it starts", args: []string{"karpenops", "approve", "c0ffee", "--yes"}, run: agentRun{waiting: "ContainerCreating"}, says: "is in the ledger"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k.t = t
			ctx, cancel := context.WithCancel(t.Context())
			jobs := k.program(tt.run)
			waits := tt.run.waiting
			if waits == "" {
				waits = tt.run.lines[0]
			}
			k.change = func(f *Factory) {
				withRelease(f)
				f.IO.Out, f.IO.ErrOut = &trigger{f.IO.Out, waits, cancel}, &trigger{f.IO.ErrOut, waits, cancel}
			}
			if code := k.runContext(ctx, k.args(tt.args...)...); code != int(CodeCancelled) {
				t.Errorf("exit %d\n%s%s", code, k.out, k.errOut)
			}
			k.contains(k.errOut, tt.says, "is removed")
			k.clean()
			if len(*jobs) != 1 || len(k.permissions()) != 0 {
				t.Errorf("%d Jobs, %d objects left", len(*jobs), len(k.permissions()))
			}
			cancel()
		})
	}
}

// trigger is a stream on which a text makes somebody press Ctrl-C.
type trigger struct {
	io.Writer
	text   string
	cancel func()
}

// Write implements io.Writer.
func (w *trigger) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.cancel()
	}
	return w.Writer.Write(p)
}

// TestKarpenopsAct: who reverts and approves, what they see before they say yes, and where the Job may run.
func TestKarpenopsAct(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(true))
	s, entries := recordOf(k.clock.Now())
	k.record(s, entries...)
	k.pool("default", "", 3)
	k.pool("default-spot", "default", 2)
	k.pool("other-spot", "other", 0)

	k.want(CodeUsage, k.args("karpenops", "revert")...)
	k.contains(k.errOut, "--all")
	k.want(CodeUsage, k.args("karpenops", "revert", "default", "--all")...)
	jobs := k.program(agentRun{lines: []string{"default-spot: deleted"}, act: func() { k.deletePool("default-spot") }})
	k.want(CodeUsage, k.args("karpenops", "revert", "default")...)
	k.contains(k.errOut, "--yes", "default-spot (2 nodes)")
	if len(*jobs) != 0 {
		t.Error("it ran without a yes")
	}
	k.contains(k.errOut, "karpenops as a whole is paused")
	k.want(CodeUsage, k.args("karpenops", "revert", "defualt", "--yes")...)
	k.contains(k.errOut, `there is no NodePool "defualt"`, "there are default, default-spot, other, other-spot", "nothing is paused")
	if len(*jobs) != 0 || karpenstate.PausedBy(k.stateMap().Annotations) != "" {
		t.Error("it ran, or paused, for a NodePool that there is not")
	}
	k.want(CodeOK, k.args("karpenops", "revert", "default", "--yes", "-o", "json")...)
	k.fits("karpenops-act")
	golden(t, "karpenops-revert.json", k.shown(k.out.String()))
	spec := (*jobs)[0].Spec.Template.Spec
	if diff := cmp.Diff([]string{"revert", "--timeout=1h0m0s", "--by=jane", "--", "default"}, spec.Containers[0].Args); diff != "" {
		t.Error(diff)
	}
	want := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "karpenter.sh/nodepool", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"default-spot"}}}}}
	if spec.Affinity == nil || !cmp.Equal(spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, want) {
		t.Errorf("affinity %+v: the Job may run on a node that it waits for to go", spec.Affinity)
	}

	jobs = k.program(agentRun{lines: []string{"narrow NodePool/default: applied"}})
	k.tty, k.in = true, "n\n"
	k.want(CodeCancelled, k.args("karpenops", "approve", "c0ffee")...)
	k.contains(k.errOut, "narrow NodePool/default", "2 nodes, as predicted", "c7i in use1-az2")
	k.in = "y\n"
	k.want(CodeOK, k.args("karpenops", "approve", "c0ffee")...)
	k.contains(k.out, "narrow NodePool/default: applied")
	k.tty = false
	if diff := cmp.Diff([]string{"approve", "--timeout=10m0s", "--by=jane", "--", "c0ffee"}, (*jobs)[0].Spec.Template.Spec.Containers[0].Args); diff != "" || len(*jobs) != 1 {
		t.Errorf("%d Jobs\n%s", len(*jobs), diff)
	}
	k.want(CodeOK, k.args("karpenops", "approve", "f-77", "--yes")...)
	k.contains(k.errOut, `{"spec":{}}`)
	k.want(CodeUsage, k.args("karpenops", "approve", "f-31", "--yes")...)
	k.contains(k.errOut, "nothing that could be approved")
	k.want(CodeOK, k.args("karpenops", "approve", "0000", "--yes")...)
	k.contains(k.errOut, "its record does not have it")
	k.program(agentRun{code: 1, lines: []string{`{"time":"2026-11-23T14:00:00Z","level":"INFO","msg":"facts","seq":1795828189}`, "karpenops: NodePool/default: frozen: until Monday"}})
	k.want(CodeFailed, k.args("karpenops", "approve", "c0ffee", "--yes")...)
	k.contains(k.errOut, "info facts seq=1795828189", "frozen: until Monday", "nothing is done but what the ledger has")
	if strings.Contains(k.errOut.String(), "karpenops revert") {
		t.Errorf("there is nothing to take back:\n%s", k.errOut)
	}
	jobs = k.program(agentRun{lines: []string{"NodePool default is not paused any more"}})
	k.want(CodeOK, k.args("karpenops", "retry", "default")...)
	if diff := cmp.Diff([]string{"resume", "--timeout=5m0s", "--", "default"}, (*jobs)[0].Spec.Template.Spec.Containers[0].Args); diff != "" {
		t.Error(diff)
	}
	k.clean()
}

// TestKarpenopsPermissionsThatAreMissing: somebody removed a part; only that is made, and only that goes. Whoever may not make it is told so.
func TestKarpenopsPermissionsThatAreMissing(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(true))
	must(t, k.client.RbacV1().ClusterRoleBindings().Delete(t.Context(), "nops-karpenops", metav1.DeleteOptions{}))
	var during int
	k.program(agentRun{lines: []string{"ok"}, act: func() { during = len(k.permissions()) }})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if during != 5 || len(k.permissions()) != 4 {
		t.Errorf("%d while it ran, %d afterwards, want 5 and 4", during, len(k.permissions()))
	}
	k.clean()

	// What a nopsctl that was killed left goes with the next run.
	left := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops", Labels: map[string]string{"app.kubernetes.io/managed-by": "nopsctl"}, Annotations: map[string]string{jobAnnotation: k.namespace + "/nops-karpenops-gone"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "nops-karpenops"},
	}
	_, err := k.client.RbacV1().ClusterRoleBindings().Create(t.Context(), left, metav1.CreateOptions{})
	must(t, err)
	k.want(CodeOK, k.args("karpenops", "plan")...)
	k.clean()

	// What somebody took over while it ran stays.
	k.program(agentRun{lines: []string{"ok"}, act: func() {
		b, err := k.client.RbacV1().ClusterRoleBindings().Get(t.Context(), "nops-karpenops", metav1.GetOptions{})
		if err == nil {
			b.Labels["app.kubernetes.io/managed-by"] = "Helm"
			_, err = k.client.RbacV1().ClusterRoleBindings().Update(t.Context(), b, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Error(err)
		}
	}})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if len(k.permissions()) != 5 {
		t.Errorf("%d objects: what belongs to somebody else was removed", len(k.permissions()))
	}
	must(t, k.client.RbacV1().ClusterRoleBindings().Delete(t.Context(), "nops-karpenops", metav1.DeleteOptions{}))

	// Somebody who may do everything in the namespace, and nothing beyond.
	role := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "eve", Namespace: k.namespace}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "eve"}}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"}}
	_, err = k.client.RbacV1().RoleBindings(k.namespace).Create(t.Context(), role, metav1.CreateOptions{})
	must(t, err)
	reader := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader-" + k.namespace}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}}}}
	_, err = k.client.RbacV1().ClusterRoles().Create(t.Context(), reader, metav1.CreateOptions{})
	must(t, err)
	_, err = k.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: reader.Name}, Subjects: role.Subjects, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: reader.Name}}, metav1.CreateOptions{})
	must(t, err)
	jobs := k.program(agentRun{})
	k.want(CodeAuth, k.args("karpenops", "plan", "--as", "eve")...)
	k.contains(k.errOut, "ClusterRoleBinding nops-karpenops", "you may not")
	if len(*jobs) != 0 {
		t.Error("a Job was made all the same")
	}
	k.clean()
}

// TestKarpenopsWithoutARelease: Argo CD renders the chart, so Helm knows nothing; the live Deployment does.
func TestKarpenopsWithoutARelease(t *testing.T) {
	k := newKarpenWorld(t)
	yes, no := true, false
	k.want(CodeCheckFailed, k.args("karpenops", "plan")...)
	k.contains(k.errOut, "is not installed", "karpenops.nops.io/owned=true")
	labels := map[string]string{"app.kubernetes.io/name": karpenops}
	_, err := k.client.AppsV1().Deployments(k.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}, Containers: []corev1.Container{{
				Name: karpenops, Image: "registry.example.com/karpenops@sha256:" + strings.Repeat("a", 64), Args: []string{"run"},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}}},
		}},
	}, metav1.CreateOptions{})
	must(t, err)
	jobs := k.program(agentRun{lines: []string{"ok"}})
	k.want(CodeOK, k.args("karpenops", "plan")...)
	if got := (*jobs)[0].Spec.Template.Spec.Containers[0].Image; got != "registry.example.com/karpenops@sha256:"+strings.Repeat("a", 64) {
		t.Errorf("image %s", got)
	}
	k.clean()

	// status goes by it, too.
	k.engine.status = &install.Status{SchemaVersion: 1, Health: install.NotInstalled, Namespace: k.namespace, Components: []install.ComponentStatus{}}
	k.want(CodeOK, k.args("karpenops", "status", "-o", "json")...) // it starts
	k.fits("karpenops-status")
	k.contains(k.out, `"state": "progressing"`, `"image": "registry.example.com/karpenops@sha256:`)
	s, entries := recordOf(k.clock.Now())
	k.record(s, entries...)
	k.want(CodeOK, k.args("karpenops", "status")...)
	k.contains(k.out, "karpenops running")
}

func TestDisableKarpenops(t *testing.T) {
	k := newKarpenWorld(t)
	k.installed(releaseOf(true))
	withRelease := k.change
	for _, tt := range []struct {
		name, reason string
		pools        bool
		in           string
		args         []string
		run          agentRun
		code         Code
		says         []string
		jobs         int
		disabled     bool
		paused       bool
		real         bool
		stray        bool
		silent       string
	}{
		{name: "nothing left", reason: "nothing to decide", args: []string{"--yes"}, disabled: true},
		{name: "no choice", reason: "neither draining nor leaving is guessed", pools: true, args: []string{"--yes"}, code: CodeUsage, says: []string{"--revert", "--no-revert", "default-spot (2 nodes)"}},
		{name: "both", reason: "a contradiction", pools: true, args: []string{"--yes", "--revert", "--no-revert"}, code: CodeUsage},
		{name: "no revert", reason: "said, not silent", pools: true, args: []string{"--yes", "--no-revert"}, says: []string{"NOPS-CLI-002", "nobody tends any more", "nopsctl karpenops revert --all"}, disabled: true},
		{name: "asked, yes by default", reason: "the careful answer", pools: true, in: "\ny\n", jobs: 1, disabled: true, says: []string{"[Y/n]", "NodePools stay as they are now"}},
		{name: "asked, no", reason: "then it is said what stays", pools: true, in: "n\ny\n", disabled: true, says: []string{"NOPS-CLI-002"}},
		{name: "asked, not at all", reason: "nothing happens", pools: true, in: "y\nn\n", code: CodeCancelled},
		{name: "revert fails", reason: "the agent stays, and says in what state", pools: true, args: []string{"--yes", "--revert"}, run: agentRun{code: 1, lines: []string{"karpenops: no budget"}}, jobs: 1, code: CodeFailed, paused: true, says: []string{"karpenops stays, and is paused", "no budget", "nopsctl karpenops resume"}},
		{name: "revert, said", reason: "not the opposite of what it does", pools: true, args: []string{"--yes", "--revert"}, jobs: 1, disabled: true, says: []string{"means what karpenops made and changed is taken back first"}, silent: "nobody to tend"},
		{name: "astray", reason: "what it may not touch keeps nothing from going, and is said", pools: true, stray: true, args: []string{"--yes", "--revert"}, jobs: 1, disabled: true, says: []string{"NOPS-CLI-002", "default-stray (1 node)", "kubectl label nodepool default-stray karpenops.nops.io/owned=true"}},
		{name: "dry run", reason: "needs no decision", pools: true, args: []string{"--dry-run"}, says: []string{"default-spot (2 nodes)"}},
		{name: "revert", reason: "first, paused meanwhile, and not paused when it is switched on again", pools: true, args: []string{"--yes", "--revert"}, jobs: 1, disabled: true, real: true},
		{name: "again", reason: "it is switched off, and its permissions are gone; what came back by itself is taken back all the same", pools: true, args: []string{"--yes", "--revert"}, jobs: 1, disabled: true, real: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k.t = t
			// The real engine switches it off where nothing else is tested, the stand-in for it counts.
			k.engine.applied = 0
			k.change = func(f *Factory) {
				withRelease(f)
				if !tt.real {
					f.Engine = func(o install.Options) (Engine, error) { k.engine.options = o; return rendering{k.engine, k.real}, nil }
				}
			}
			_ = k.client.CoreV1().ConfigMaps(k.namespace).Delete(t.Context(), karpenstate.ConfigMap, metav1.DeleteOptions{})
			must(t, k.dynamic.Resource(nodePools).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
			if tt.pools {
				k.pool("default", "", 3)
				k.pool("default-spot", "default", 2)
			}
			if tt.stray {
				k.pool("default-stray", "default", 1)
				_, err := k.dynamic.Resource(nodePools).Patch(t.Context(), "default-stray", types.MergePatchType, []byte(`{"metadata":{"labels":{"karpenops.nops.io/owned":null}}}`), metav1.PatchOptions{})
				must(t, err)
			}
			var pausedBy string
			run := tt.run
			if run.code == 0 {
				run.lines = []string{"default-spot: deleted"}
				run.act = func() {
					pausedBy = k.stateMap().Annotations[karpenstate.AnnotationPausedBy]
					k.deletePool("default-spot")
				}
			}
			jobs := k.program(run)
			k.tty, k.in = tt.in != "", tt.in
			k.want(tt.code, k.args(append([]string{"disable", "karpenops", "--wait=false"}, tt.args...)...)...)
			for _, s := range tt.says {
				if text := strings.Join(strings.Fields(k.errOut.String()), " "); !strings.Contains(text, s) {
					t.Errorf("no %q: %s\n%s", s, tt.reason, k.errOut)
				}
			}
			if tt.silent != "" && strings.Contains(k.errOut.String(), tt.silent) {
				t.Errorf("%q: %s\n%s", tt.silent, tt.reason, k.errOut)
			}
			if len(*jobs) != tt.jobs {
				t.Errorf("%d Jobs, want %d: %s", len(*jobs), tt.jobs, tt.reason)
			}
			if gone := k.engine.applied == 1 || tt.real && len(k.permissions()) == 0; gone != tt.disabled {
				t.Errorf("switched off: %v, want %v: %s", gone, tt.disabled, tt.reason)
			}
			if got := k.stateMap().Annotations[karpenstate.AnnotationPaused] == "true"; got != tt.paused {
				t.Errorf("paused: %v, want %v: %s", got, tt.paused, tt.reason)
			}
			if tt.jobs == 1 && tt.disabled && pausedBy != "jane: nopsctl disable karpenops" {
				t.Errorf("while it reverted, paused by %q", pausedBy)
			}
			k.clean()
		})
	}
}

// rendering is a stand-in for the engine that renders as the real one does.
type rendering struct {
	*fakeEngine
	real *install.Engine
}

// ComponentObjects implements Reader.
func (r rendering) ComponentObjects(ctx context.Context, q install.ComponentRequest) (*install.ComponentObjects, error) {
	return r.real.ComponentObjects(ctx, q)
}

func TestUninstallLeavesNothingOfKarpenopsSilently(t *testing.T) {
	k := newKarpenWorld(t)
	k.pool("default-spot", "default", 2)
	k.want(CodeUsage, k.args("uninstall", "--yes")...)
	k.contains(k.errOut, "default-spot (2 nodes)", "--no-revert")
	k.want(CodeOK, k.args("uninstall", "--yes", "--no-revert", "-o", "json")...)
	k.contains(k.errOut, "NOPS-CLI-002")
	k.contains(k.out, `"name": "default-spot"`)
	if len(k.engine.uninstalls) != 1 {
		t.Errorf("%d uninstalls", len(k.engine.uninstalls))
	}
	k.tty, k.in = true, "n\ny\n"
	k.want(CodeOK, k.args("uninstall")...)
	k.contains(k.errOut, "leaves", "[Y/n]")
}
