package karpenops

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"

	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var (
	poolsGVR   = schema.GroupVersionResource{Group: "karpenter.sh", Version: "v1", Resource: "nodepools"}
	claimsGVR  = schema.GroupVersionResource{Group: "karpenter.sh", Version: "v1", Resource: "nodeclaims"}
	classesGVR = schema.GroupVersionResource{Group: "karpenter.k8s.aws", Version: "v1", Resource: "ec2nodeclasses"}
)

// place is an API server for the tests of this file.
type place struct {
	config  *rest.Config // of somebody who may do everything
	client  kubernetes.Interface
	dynamic dynamic.Interface
	agent   *rest.Config // of the chart's service account, with the chart's roles and policy
}

// TestAgainstKubernetes holds what one API server can show; starting one for each would take minutes.
func TestAgainstKubernetes(t *testing.T) {
	config, client := agenttest.Kubernetes(t)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{config: config, client: client, dynamic: d}
	p.install(t)
	t.Run("without Karpenter", func(t *testing.T) { testWithoutKarpenter(t, p) })
	dir := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "karpenter-crds", "aws")
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the CRDs are not there (lab assets puts them beside the programs): %v", err)
	}
	if _, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{dir}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	t.Run("policy", func(t *testing.T) { testPolicy(t, p) })
	t.Run("agent", func(t *testing.T) { testLive(t, p) })
	t.Run("two agents", func(t *testing.T) { testTwo(t, p) })
	t.Run("commands", func(t *testing.T) { testCommands(t, p) })
	t.Run("rights", func(t *testing.T) { testRights(t, p) })
	t.Run("memory", func(t *testing.T) { testMemory(t, p) })
}

// install gives the service account exactly what the chart does, from a golden render: roles, bindings, and the policy.
func (p *place) install(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile("../../embedded-chart/testdata/golden/all-karpenops-further.yaml")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]int{}
	for _, doc := range strings.Split("\n"+string(data), "\n---\n") {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatal(err)
		}
		resource := map[string]string{
			"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
			"ValidatingAdmissionPolicy": "validatingadmissionpolicies", "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
		}[o.GetKind()]
		if o.GetLabels()["app.kubernetes.io/component"] != component || resource == "" {
			continue
		}
		made[o.GetKind()]++
		gv := o.GroupVersionKind().GroupVersion()
		r := p.dynamic.Resource(gv.WithResource(resource))
		if o.GetNamespace() != "" {
			_, err = r.Namespace(o.GetNamespace()).Create(t.Context(), &o, metav1.CreateOptions{FieldValidation: "Strict"})
		} else {
			_, err = r.Create(t.Context(), &o, metav1.CreateOptions{FieldValidation: "Strict"})
		}
		if err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	if want := map[string]int{"ServiceAccount": 1, "Role": 2, "RoleBinding": 2, "ClusterRole": 3, "ClusterRoleBinding": 3, "ValidatingAdmissionPolicy": 1, "ValidatingAdmissionPolicyBinding": 1}; !maps.Equal(made, want) {
		t.Fatalf("the render has %v, want %v", made, want)
	}
	p.agent = rest.CopyConfig(p.config)
	p.agent.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:nops:nops-karpenops", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:nops", "system:authenticated"}}
}

func eventually(t *testing.T, what string, limit time.Duration, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// start runs an agent until the test ends.
func (p *place) start(t *testing.T, platform *agenttest.Platform, candidate string, edit func(*Options)) *Agent {
	t.Helper()
	o := Options{
		PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: "https://nops.test", ClusterARN: agenttest.ClusterARN},
		ProcessOptions:  agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release, LogLevel: "debug"},
		Mode:            string(karpenstate.ModeSiblings), Facts: FactsPlatform, Overlays: "auto", Tick: 5 * time.Second, Prove: 5 * time.Minute, PoolEvery: 30 * time.Minute, ClusterID: "c-1",
	}
	if edit != nil {
		edit(&o)
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	logs := &agenttest.Buffer{}
	a, err := New(o, Deps{Kube: p.agent, Platform: clientOf(t, platform), Version: "1.2.3", Candidate: candidate, Log: agent.NewLogger(logs, slog.LevelDebug, agenttest.APIKey)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent %s ended with: %v", candidate, err)
		}
		for _, bad := range []string{agenttest.APIKey, planted} {
			if strings.Contains(logs.String(), bad) || strings.Contains(platform.Received(), bad) {
				t.Errorf("%q was logged or sent", bad)
			}
		}
		if strings.Contains(logs.String(), "orbidden") {
			t.Errorf("something was forbidden: the tables in doc.go lack a line")
		}
		if t.Failed() {
			t.Logf("logs of %s:\n%s", candidate, logs)
		}
	})
	return a
}

// state is the agent's ConfigMap as people see it.
func (p *place) state(t *testing.T) (s karpenstate.Status, ledger karpenstate.Ledger, cm *corev1.ConfigMap) {
	t.Helper()
	cm, err := p.client.CoreV1().ConfigMaps(agenttest.Namespace).Get(t.Context(), karpenstate.ConfigMap, metav1.GetOptions{})
	if err != nil {
		return s, ledger, nil
	}
	_ = json.Unmarshal([]byte(cm.Data[karpenstate.KeyStatus]), &s)
	_ = json.Unmarshal([]byte(cm.Data[karpenstate.KeyLedger]), &ledger)
	return s, ledger, cm
}

// clear takes away what a test left.
func (p *place) clear(t *testing.T) {
	t.Helper()
	_ = p.client.CoreV1().ConfigMaps(agenttest.Namespace).Delete(t.Context(), karpenstate.ConfigMap, metav1.DeleteOptions{})
	for _, r := range []schema.GroupVersionResource{claimsGVR, poolsGVR, classesGVR} {
		if err := p.dynamic.Resource(r).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *place) create(t *testing.T, r schema.GroupVersionResource, text string) *unstructured.Unstructured {
	t.Helper()
	var o unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	status := o.Object["status"]
	made, err := p.dynamic.Resource(r).Create(t.Context(), &o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if status != nil {
		made.Object["status"] = status
		if made, err = p.dynamic.Resource(r).UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

const planted = "planted-secret-of-somebody"

const classText = `
apiVersion: karpenter.k8s.aws/v1
kind: EC2NodeClass
metadata: {name: default}
spec:
  role: nodes
  amiSelectorTerms: [{alias: al2023@latest}]
  subnetSelectorTerms: [{id: subnet-0123456789abcdef0}]
  securityGroupSelectorTerms: [{id: sg-0123456789abcdef0}]
  userData: "export TOKEN=` + planted + `"
status:
  subnets:
    - {id: subnet-1, zone: us-east-1a, zoneID: use1-az1}
    - {id: subnet-2, zone: us-east-1b, zoneID: use1-az2}
    - {id: subnet-3, zone: us-east-1c, zoneID: use1-az3}
`

const poolText = `
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: default, annotations: {imported_by: nops}}
spec:
  limits: {cpu: "200"}
  template:
    spec:
      expireAfter: 720h
      nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
      requirements:
        - {key: karpenter.sh/capacity-type, operator: In, values: [spot, on-demand]}
        - {key: kubernetes.io/arch, operator: In, values: [amd64]}
status:
  nodeClassObservedGeneration: 1
  conditions: [{type: Ready, status: "True", reason: Ready, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}]
`

// now is the facts of the tests as of this moment.
func now(seq uint64) (nopsapi.Market, nopsapi.Commitments) {
	m, c := marketOf(seq), commitmentsOf(seq)
	at := time.Now().UTC().Add(-time.Second)
	m.AsOf, m.ValidUntil, c.AsOf, c.ValidUntil = at, at.Add(30*time.Minute), at, at.Add(30*time.Minute)
	for i := range m.Offerings {
		m.Offerings[i].ObservedAt = at
	}
	one := &c.Commitments[0]
	one.Start, one.End = at.AddDate(-1, 0, 0), at.AddDate(1, 0, 0)
	one.Allocation = &nopsapi.Allocation{VCPU: 40, LeaseUntil: at.Add(2 * time.Hour)}
	return m, c
}

func publish(t *testing.T, p *agenttest.Platform, seq uint64) {
	t.Helper()
	m, c := now(seq)
	if err := p.PublishMarket(t.Context(), agenttest.Customer, agenttest.ClusterARN, m); err != nil {
		t.Fatal(err)
	}
	if err := p.PublishCommitments(t.Context(), agenttest.Customer, agenttest.ClusterARN, c); err != nil {
		t.Fatal(err)
	}
}

// testWithoutKarpenter: nothing crashes, and the status says why nothing is done. The platform offers no market either.
func testWithoutKarpenter(t *testing.T, p *place) {
	platform := agenttest.NewPlatform(t, 0)
	a := p.start(t, platform, "alone", nil)
	eventually(t, "a status", 60*time.Second, func() bool {
		s, _, _ := p.state(t)
		return strings.Contains(s.Holding, "Karpenter is not installed") && strings.Contains(s.Market.Problem, "does not offer market data")
	})
	if err := a.health.Live(); err != nil {
		t.Error(err)
	}
	_, _, cm := p.state(t)
	if len(cm.OwnerReferences) > 0 || cm.Labels[agent.LabelPartOf] != agent.PartOf || cm.Labels[agent.LabelInstance] != agenttest.Release {
		t.Errorf("the state: owners %v, labels %v; it has to outlive the workload and to be found when uninstalling", cm.OwnerReferences, cm.Labels)
	}
}

// testPolicy: what RBAC cannot say.
func testPolicy(t *testing.T, p *place) {
	p.clear(t)
	d, err := dynamic.NewForConfig(p.agent)
	if err != nil {
		t.Fatal(err)
	}
	pools := d.Resource(poolsGVR)
	object := func(name string, labels map[string]any) *unstructured.Unstructured {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(poolText), &o.Object); err != nil {
			t.Fatal(err)
		}
		delete(o.Object, "status")
		o.Object["metadata"] = map[string]any{"name": name, "labels": labels}
		return &o
	}
	owned := map[string]any{karpenstate.LabelOwned: "true"}
	p.create(t, poolsGVR, strings.Replace(poolText, "name: default, ", "name: users, ", 1))
	busy := p.create(t, poolsGVR, strings.Replace(poolText, "name: default, annotations: {imported_by: nops}", "name: busy, labels: {"+karpenstate.LabelOwned+": \"true\"}", 1))
	busy.Object["status"].(map[string]any)["nodes"] = int64(1)
	if _, err := p.dynamic.Resource(poolsGVR).UpdateStatus(t.Context(), busy, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(name, body string) error {
		_, err := pools.Patch(t.Context(), name, "application/merge-patch+json", []byte(body), metav1.PatchOptions{})
		return err
	}
	remove := func(name string) error { return pools.Delete(t.Context(), name, metav1.DeleteOptions{}) }
	create := func(name string, labels map[string]any) error {
		_, err := pools.Create(t.Context(), object(name, labels), metav1.CreateOptions{})
		return err
	}
	// The policy takes a moment to come into force.
	eventually(t, "the policy", 30*time.Second, func() bool {
		return remove("users-not-there") != nil && strings.Contains(fmt.Sprint(create("early", nil)), "karpenops creates only")
	})
	for _, tt := range []struct {
		name    string
		do      func() error
		refusal string
	}{
		{"create without the label", func() error { return create("a", nil) }, "creates only what carries the label"},
		{"create with another value", func() error { return create("a", map[string]any{karpenstate.LabelOwned: "yes"}) }, "creates only"},
		{"create its own", func() error { return create("mine", owned) }, ""},
		{"delete the user's", func() error { return remove("users") }, "deletes only what carries the label"},
		{"label the user's", func() error { return patch("users", `{"metadata":{"labels":{"karpenops.nops.io/owned":"true"}}}`) }, "neither gives nor takes the label"},
		{"unlabel its own", func() error { return patch("mine", `{"metadata":{"labels":{"karpenops.nops.io/owned":null}}}`) }, "neither gives nor takes the label"},
		{"annotate the user's", func() error { return patch("users", `{"metadata":{"annotations":{"karpenops.nops.io/original":"x"}}}`) }, ""},
		{"limit its own", func() error { return patch("mine", `{"spec":{"limits":{"cpu":"0"}}}`) }, ""},
		{"delete its own with nodes", func() error { return remove("busy") }, "no NodePool that has nodes"},
		{"delete its own", func() error { return remove("mine") }, ""},
		{"delete a NodeClaim", func() error { return d.Resource(claimsGVR).Delete(t.Context(), "x", metav1.DeleteOptions{}) }, "cannot delete resource"},
		{"delete a node", func() error {
			return d.Resource(corev1.SchemeGroupVersion.WithResource("nodes")).Delete(t.Context(), "x", metav1.DeleteOptions{})
		}, "cannot delete resource"},
		{"read a Secret", func() error {
			_, err := d.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(agenttest.Namespace).List(t.Context(), metav1.ListOptions{})
			return err
		}, "cannot list resource"},
		{"another ConfigMap", func() error {
			_, err := d.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(agenttest.Namespace).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
			return err
		}, "cannot get resource"},
	} {
		if err := tt.do(); (err == nil) != (tt.refusal == "") || err != nil && !strings.Contains(err.Error(), tt.refusal) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.refusal)
		}
	}
	// Others are none of its business.
	if err := p.dynamic.Resource(poolsGVR).Delete(t.Context(), "busy", metav1.DeleteOptions{}); err != nil {
		t.Errorf("somebody else deletes: %v", err)
	}
}

// testLive: from facts to a sibling, by the chart's rights alone, recorded in the cluster and told to the platform.
func testLive(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, poolText)
	platform := agenttest.NewPlatform(t, 0)
	publish(t, platform, 1)
	a := p.start(t, platform, "live", nil)
	var owned []unstructured.Unstructured
	eventually(t, "a NodePool of ours", 90*time.Second, func() bool {
		list, err := p.dynamic.Resource(poolsGVR).List(t.Context(), metav1.ListOptions{LabelSelector: karpenstate.LabelOwned + "=true"})
		if err != nil {
			t.Fatal(err)
		}
		owned = list.Items
		return len(owned) > 0
	})
	if b := owned[0].GetAnnotations()[karpenstate.AnnotationBase]; b != "default" {
		t.Errorf("its base is %q", b)
	}
	eventually(t, "the record of it in the cluster and on the platform", 60*time.Second, func() bool {
		_, ledger, _ := p.state(t)
		records, err := clientOf(t, platform).Records(t.Context(), agenttest.ClusterARN, time.Time{})
		return err == nil && len(ledger.Entries) > 0 && slices.ContainsFunc(records, func(r nopsapi.KarpenterRecord) bool { return r.ID == ledger.Entries[0].ID && r.Outcome == "applied" })
	})
	eventually(t, "the inventory on the platform", 60*time.Second, func() bool {
		inv, err := clientOf(t, platform).Inventory(t.Context(), agenttest.ClusterARN)
		return err == nil && len(inv.Pools) >= 1 && len(inv.NodeClasses) == 1 && inv.Writable && inv.ClusterID == "c-1"
	})
	eventually(t, "a status that knows it", 30*time.Second, func() bool {
		s, _, _ := p.state(t)
		return slices.ContainsFunc(s.Pools, func(k karpenstate.Pool) bool { return k.Owned && k.Base == "default" }) && s.Market.Seq == 1 && s.Karpenter.Writable && slices.Contains(s.Karpenter.NodeClassKinds, "EC2NodeClass")
	})
	var b bytes.Buffer
	if _, err := a.metrics.WriteTo(&b); err != nil || !strings.Contains(b.String(), `nops_karpenops_decisions_total{action="create-sibling",outcome="applied"} `) || strings.Contains(b.String(), `nops_karpenops_decisions_total{action="create-sibling",outcome="applied"} 0`) {
		t.Errorf("metrics, %v:\n%s", err, b.String())
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// testTwo: of two replicas one decides.
func testTwo(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, poolText)
	platform := agenttest.NewPlatform(t, 0)
	a, b := p.start(t, platform, "one", nil), p.start(t, platform, "two", nil)
	eventually(t, "one of them decides", 60*time.Second, func() bool { return a.latest.Load() != nil || b.latest.Load() != nil })
	time.Sleep(3 * time.Second)
	if (a.latest.Load() != nil) == (b.latest.Load() != nil) {
		t.Errorf("both decide, or none")
	}
	if err := errorsOf(a.health.Live(), b.health.Live(), a.health.Ready(), b.health.Ready()); err != "" {
		t.Error(err)
	}
}

func errorsOf(all ...error) string {
	var said []string
	for _, err := range all {
		if err != nil {
			said = append(said, err.Error())
		}
	}
	return strings.Join(said, "; ")
}

// command runs one of the program's as a Job would, without the platform.
func (p *place) command(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	env := map[string]string{
		agent.EnvHost: "https://127.0.0.1:1", agent.EnvClusterARN: agenttest.ClusterARN, agent.EnvNamespace: agenttest.Namespace, agent.EnvRelease: agenttest.Release, agent.EnvLogLevel: "error",
		EnvFacts: "configmap:nops-karpenops-facts", EnvMode: "advise", "GOGC": "100", "GOMEMLIMIT": "off",
	}
	var stdout, stderr bytes.Buffer
	code = Program().Main(t.Context(), agent.Process{
		Args: args, Getenv: func(name string) string { return env[name] }, Stdout: &stdout, Stderr: &stderr, Version: "1.2.3", KubeConfig: func() (*rest.Config, error) { return p.agent, nil },
	})
	return stdout.String() + stderr.String(), code
}

// testCommands: plan, approve, pause, explain, revert, by facts of a ConfigMap, with the platform away and no agent running.
func testCommands(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, poolText)
	says := func(want int, args []string, parts ...string) string {
		t.Helper()
		out, code := p.command(t, args...)
		if code != want {
			t.Errorf("%v: code %d, want %d:\n%s", args, code, want, out)
		}
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%v: no %q in\n%s", args, part, out)
			}
		}
		return out
	}
	says(1, []string{"status"}, "has not run here yet")
	says(0, []string{"plan"}, "there is no ConfigMap nops/nops-karpenops-facts")
	m, c := now(1)
	facts := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops-facts"}, Data: map[string]string{KeyMarket: string(mustJSON(t, m)), KeyCommitments: string(mustJSON(t, c))}}
	if _, err := p.client.CoreV1().ConfigMaps(agenttest.Namespace).Create(t.Context(), facts, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	says(0, []string{"plan"}, "create-sibling", "NOT NOW", "advise")
	var doc struct {
		Plan struct{ Actions []struct{ ID, Kind string } }
	}
	if err := json.Unmarshal([]byte(says(0, []string{"plan", "--output=json"})), &doc); err != nil || len(doc.Plan.Actions) == 0 {
		t.Fatalf("%v, %d actions", err, len(doc.Plan.Actions))
	}
	if list, err := p.dynamic.Resource(poolsGVR).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Fatalf("plan has made something: %d NodePools, %v", len(list.Items), err)
	}
	says(2, []string{"approve", "x"}, "--by is needed")
	says(1, []string{"approve", "x", "--by=ann"}, "has the ID x")
	says(0, []string{"pause", "--by=ann", "--why=load test"}, "karpenops is paused")
	says(1, []string{"approve", doc.Plan.Actions[0].ID, "--by=ann"}, "paused")
	says(0, []string{"resume"}, "not paused any more")
	says(0, []string{"approve", doc.Plan.Actions[0].ID, "--by=ann"}, "applied", "create-sibling")
	list, err := p.dynamic.Resource(poolsGVR).List(t.Context(), metav1.ListOptions{LabelSelector: karpenstate.LabelOwned + "=true"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d NodePools of ours, %v", len(list.Items), err)
	}
	if _, ledger, _ := p.state(t); len(ledger.Entries) == 0 || ledger.Entries[len(ledger.Entries)-1].Actor != "ann" {
		t.Errorf("ledger %+v", ledger.Entries)
	}
	says(2, []string{"revert", "--by=ann"}, "--all")
	says(0, []string{"revert", "--all", "--by=ann", "--timeout=2m"}, "deleted", "karpenops is paused now")
	if list, err := p.dynamic.Resource(poolsGVR).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "default" {
		t.Errorf("after revert %d NodePools, %v", len(list.Items), err)
	}
	says(0, []string{"revert", "--all", "--by=ann", "--timeout=2m"}, "nothing of karpenops to take back")
	says(2, []string{"nonsense"}, "is no command")
	says(2, []string{"plan", "--mode=more"}, "is none of observe")
}

// testMemory runs the program as it ships, beside the usual number of nodes and beside many, and measures it at rest. The budget for many is the contract with whoever
// pays for the node; those of the usual number are such that a growth by half of what was measured fails. docs/karpenops-memory.md has the figures.
func testMemory(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, poolText)
	dir := t.TempDir()
	binary := filepath.Join(dir, "karpenops")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./testdata/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	made := 0
	for i, tt := range []struct {
		name            string
		nodes           int
		rest            time.Duration // after the inventory was delivered
		rss, anon, peak float64       // MiB
		on              string        // a variable that asks for it
	}{
		{"300 nodes, 1500 pods", 300, 10 * time.Second, 32, 12, 50, ""},
		{"2000 nodes, 10000 pods", 2000, 100 * time.Second, 34, 17, 60, "NOPS_TEST_MEMORY"}, // a round of its own within the rest
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.on != "" && os.Getenv(tt.on) == "" {
				t.Skipf("makes %d nodes and their pods, which takes minutes: set %s=1", tt.nodes, tt.on)
			}
			populate(t, p, made, tt.nodes, 5)
			made = tt.nodes
			rss, anon, peak := measure(t, p, dir, binary, uint64(i+1), tt.nodes, tt.rest)
			t.Logf("RSS %.1f MiB, of which anonymous %.1f MiB; peak %.1f MiB", rss, anon, peak)
			if rss > tt.rss || anon > tt.anon {
				t.Errorf("RSS %.1f MiB (budget %.0f), anonymous %.1f MiB (budget %.0f)", rss, tt.rss, anon, tt.anon)
			}
			if peak > tt.peak {
				t.Errorf("peak %.1f MiB (budget %.0f), the chart's limit is 128", peak, tt.peak)
			}
		})
	}
}

// measure runs the program until the platform has all nodes, and for as long as it shall rest.
func measure(t *testing.T, p *place, dir, binary string, seq uint64, nodes int, atRest time.Duration) (rss, anon, peak float64) {
	t.Helper()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	platform := agenttest.NewPlatform(t, 0)
	m, c := now(seq)
	grow(&m)
	if err := platform.PublishMarket(t.Context(), agenttest.Customer, agenttest.ClusterARN, m); err != nil {
		t.Fatal(err)
	}
	if err := platform.PublishCommitments(t.Context(), agenttest.Customer, agenttest.ClusterARN, c); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(platform)
	defer server.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	logs := &agenttest.Buffer{}
	cmd := exec.CommandContext(t.Context(), binary, "run", "--host", server.URL, "--listen-address", "127.0.0.1:0")
	cmd.Stderr = logs
	cmd.Env = []string{
		"NOPS_API_KEY=" + agenttest.APIKey, "NOPS_CLUSTER_ARN=" + agenttest.ClusterARN, "POD_NAMESPACE=" + agenttest.Namespace, "NOPS_RELEASE=" + agenttest.Release,
		"NO_PROXY=*", "GOMAXPROCS=1", "SSL_CERT_FILE=" + file("server.pem", certificate), "TEST_KUBE_HOST=" + p.config.Host,
		"TEST_KUBE_CA=" + file("ca.pem", p.config.CAData), "TEST_KUBE_CERT=" + file("cert.pem", p.config.CertData), "TEST_KUBE_KEY=" + file("key.pem", p.config.KeyData),
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended with %v\n%s", err, logs)
		}
		if t.Failed() {
			t.Logf("the agent said:\n%s", logs)
		}
	}()
	eventually(t, "the inventory with all nodes on the platform", 3*time.Minute, func() bool {
		inv, err := clientOf(t, platform).Inventory(t.Context(), agenttest.ClusterARN)
		return err == nil && len(inv.Nodes) == nodes
	})
	// Without facts and a plan by them there would be little to hold.
	if s, _, _ := p.state(t); s.Market.Seq != seq || s.Market.Problem != "" || s.Holding != "" {
		t.Errorf("what was measured decides nothing: holding %q, market %+v", s.Holding, s.Market)
	}
	time.Sleep(atRest)
	return memoryOf(t, cmd.Process.Pid)
}

// grow makes a market as large as a region's: some 800 types in three zones.
func grow(m *nopsapi.Market) {
	types, offerings := m.InstanceTypes[0], m.Offerings[0]
	for i := range 750 {
		it := types
		it.Name = fmt.Sprintf("z%d.large", i)
		it.Labels = maps.Clone(it.Labels)
		it.Labels["karpenter.k8s.aws/instance-family"] = fmt.Sprintf("z%d", i/8)
		m.InstanceTypes = append(m.InstanceTypes, it)
		for z := range 3 {
			for _, capacity := range []string{nopsapi.CapacitySpot, nopsapi.CapacityOnDemand} {
				o := offerings
				o.InstanceType, o.ZoneID, o.Zone, o.CapacityType = it.Name, fmt.Sprintf("use1-az%d", z+1), fmt.Sprintf("us-east-1%c", 'a'+z), capacity
				m.Offerings = append(m.Offerings, o)
			}
		}
	}
}

// populate makes nodes, from one number up to another, with their NodeClaims and pods.
func populate(t *testing.T, p *place, from, to, podsEach int) {
	t.Helper()
	fast := rest.CopyConfig(p.config)
	fast.QPS, fast.Burst = 5000, 5000
	client, err := kubernetes.NewForConfig(fast)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(fast)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
	const workers = 16
	work := make(chan int)
	failed := make(chan error, workers)
	for range workers {
		go func() {
			for i := range work {
				if err := populateOne(t.Context(), client, d, i, podsEach); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for i := from; i < to; i++ {
		select {
		case work <- i:
		case err := <-failed:
			t.Fatal(err)
		}
	}
	close(work)
	for range workers {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

func populateOne(ctx context.Context, client kubernetes.Interface, d dynamic.Interface, i, podsEach int) error {
	zone := string(rune('a' + i%3))
	labels := map[string]any{
		"karpenter.sh/nodepool": "default", "karpenter.sh/capacity-type": []string{"spot", "on-demand"}[i%2], "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
		"node.kubernetes.io/instance-type": "m5.2xlarge", "karpenter.k8s.aws/instance-family": "m5", "topology.kubernetes.io/zone": "us-east-1" + zone, "topology.k8s.aws/zone-id": fmt.Sprintf("use1-az%d", i%3+1),
	}
	for n := range 20 {
		labels[fmt.Sprintf("karpenter.k8s.aws/instance-trait-%d", n)] = strconv.Itoa(n)
	}
	name := fmt.Sprintf("default-%05d", i)
	claim := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": map[string]any{"name": name, "labels": labels},
		"spec": map[string]any{
			"nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"}, "expireAfter": "720h",
			"requirements": []any{map[string]any{"key": "karpenter.sh/capacity-type", "operator": "In", "values": []any{"spot"}}},
		},
	}}
	made, err := d.Resource(claimsGVR).Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Object["status"] = map[string]any{"nodeName": name, "capacity": map[string]any{"cpu": "8", "memory": "32Gi"}}
	if _, err := d.Resource(claimsGVR).UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	plain := map[string]string{"kubernetes.io/hostname": name}
	for k, v := range labels {
		plain[k] = v.(string)
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: plain}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for n := range podsEach {
		requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse([]string{"100m", "250m", "1"}[n%3]), corev1.ResourceMemory: resource.MustParse("256Mi")}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("app-%d-%05d", n, i), Labels: map[string]string{"app": strconv.Itoa(n)}, Annotations: map[string]string{"note": strings.Repeat("x", 500)}},
			Spec: corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{
				Name: "app", Image: "registry.example.com/app:1.0.0", Resources: corev1.ResourceRequirements{Requests: requests}, Env: []corev1.EnvVar{{Name: "CONFIG", Value: strings.Repeat("y", 1000)}},
			}}},
		}
		if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// memoryOf is the resident set, its anonymous part, and the highest it ever was, in MiB.
func memoryOf(t *testing.T, pid int) (rss, anon, peak float64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc to measure memory with: %v", err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			rss = kib / 1024
		case "RssAnon:":
			anon = kib / 1024
		case "VmHWM:":
			peak = kib / 1024
		}
	}
	return rss, anon, peak
}
