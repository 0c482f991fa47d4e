package karpenops

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// TestActsAgainstKubernetes: what people do with the program, on an API server with the CRDs of the AWS provider, by the chart's rights alone.
func TestActsAgainstKubernetes(t *testing.T) {
	config, client := agenttest.Kubernetes(t)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{config: config, client: client, dynamic: d}
	p.install(t)
	dir := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "karpenter-crds", "aws")
	if _, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{dir}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	t.Run("approve", func(t *testing.T) { testApproves(t, p) })
	t.Run("schedules", func(t *testing.T) { testSchedules(t, p) })
	t.Run("revert", func(t *testing.T) { testRevertSays(t, p) })
}

// testSchedules: the API server takes a schedule that no day has, and it is found.
func testSchedules(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, strings.Replace(poolText, "  limits:", `  disruption: {consolidateAfter: 1m, budgets: [{nodes: "10%"}, {nodes: "0", schedule: "0 99 * * *", duration: 1h}]}`+"\n  limits:", 1))
	out, code := p.command(t, "plan")
	if want := "schedule-unreadable/NodePool/default  NodePool/default: its disruption budget 1 cannot be read"; code != 0 || !strings.Contains(out, want) {
		t.Errorf("code %d, want %q in\n%s", code, want, out)
	}
}

// testRevertSays: a revert says each thing once, in lines that belong to no log.
func testRevertSays(t *testing.T, p *place) {
	p.clear(t)
	p.create(t, classesGVR, classText)
	p.create(t, poolsGVR, poolText)
	facts := p.facts(t)
	defer facts()
	out, code := p.command(t, "plan", "--output=json")
	var doc struct {
		Plan struct{ Actions []struct{ ID, Name string } }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 || len(doc.Plan.Actions) == 0 {
		t.Fatalf("code %d, %v:\n%s", code, err, out)
	}
	if out, code := p.command(t, "approve", doc.Plan.Actions[0].ID, "--by=ann"); code != 0 {
		t.Fatalf("code %d:\n%s", code, out)
	}
	out, code = p.command(t, "revert", "--all", "--by=ann", "--timeout=2m", "--log-level=info")
	sibling := "NodePool/" + doc.Plan.Actions[0].Name
	if want := []string{
		sibling + ": it launches nothing any more (limits.cpu is 0)",
		sibling + ": no nodes; one may be on its way still, so it is deleted 30s after its limit became 0",
		sibling + ": deleted",
		"karpenops is paused now, or it would begin again. To let it: nopsctl karpenops resume",
	}; code != 0 || out != strings.Join(want, "\n")+"\n" {
		t.Errorf("code %d, want these lines, each once:\n%s\ngot:\n%s", code, strings.Join(want, "\n"), out)
	}
	_, ledger, _ := p.state(t)
	for _, r := range ledger.Entries {
		if r.Outcome == "refused" {
			t.Errorf("the ledger has what it waited for: %+v", r)
		}
	}
	if len(ledger.Entries) != 3 {
		t.Errorf("%d entries, want that it was made, closed and deleted: %+v", len(ledger.Entries), ledger.Entries)
	}
}

// testApproves: a person agrees to what is proposed about a node class, by the command. An ID stands for one change, once.
func testApproves(t *testing.T, p *place) {
	const ami, other = "ami-0123456789abcdef0", "ami-0fedcba9876543210"
	p.clear(t)
	selected := func(id string) map[string]any {
		return map[string]any{"id": id, "name": "al2023", "requirements": []any{map[string]any{"key": "kubernetes.io/arch", "operator": "In", "values": []any{"amd64"}}}}
	}
	class := p.create(t, classesGVR, classText)
	select1 := func(id string) {
		t.Helper()
		class.Object["status"].(map[string]any)["amis"] = []any{selected(id)}
		var err error
		if class, err = p.dynamic.Resource(classesGVR).UpdateStatus(t.Context(), class, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	terms := func() string {
		t.Helper()
		o, err := p.dynamic.Resource(classesGVR).Get(t.Context(), "default", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		list, _, _ := unstructured.NestedSlice(o.Object, "spec", "amiSelectorTerms")
		return string(mustJSON(t, list))
	}
	const alias = `[{"alias":"al2023@latest"}]`
	p.create(t, poolsGVR, poolText)
	for _, name := range []string{"default-aaaaa", "default-bbbbb"} {
		p.create(t, claimsGVR, `{apiVersion: karpenter.sh/v1, kind: NodeClaim, metadata: {name: `+name+`, labels: {karpenter.sh/nodepool: default}},
			spec: {nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}, requirements: []}}`)
	}
	found := func() nopsapi.KarpenterFinding {
		t.Helper()
		out, code := p.command(t, "plan", "--output=json")
		var doc struct {
			Plan struct{ Findings []nopsapi.KarpenterFinding }
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 {
			t.Fatalf("code %d, %v:\n%s", code, err, out)
		}
		for _, f := range doc.Plan.Findings {
			if f.Code == "ami-not-pinned" {
				return f
			}
		}
		return nopsapi.KarpenterFinding{}
	}
	says := func(want int, args []string, parts ...string) {
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
	}
	select1(ami)
	seen := found()
	if seen.Object != "EC2NodeClass/default" || seen.Drift != 2 || seen.Patch != `{"spec":{"amiFamily":"AL2023","amiSelectorTerms":[{"id":"`+ami+`"}]}}` {
		t.Fatalf("found %+v", seen)
	}
	granted := "--node-class-approval"
	says(0, []string{"plan"}, "approve "+seen.ID, "replaces 2 nodes")
	says(2, []string{"approve", seen.ID, granted}, "--by is needed")
	says(1, []string{"approve", seen.ID, "--by=ann"}, "node classes may not be changed here", "karpenops.allowNodeClassApproval=true", "kubectl patch ec2nodeclass default --type=merge -p '"+seen.Patch+"'")
	// AWS has released another one since.
	select1(other)
	changed := found()
	if changed.ID == seen.ID {
		t.Fatalf("one ID for two changes: %s", seen.ID)
	}
	says(1, []string{"approve", seen.ID, "--by=ann", granted}, "has changed since", changed.ID, other)
	if got := terms(); got != alias {
		t.Fatalf("what was refused was written: %s", got)
	}
	if _, _, cm := p.state(t); cm != nil && strings.Contains(cm.Data[karpenstate.KeyLedger], "approve") {
		t.Errorf("the ledger has what was not tried: %s", cm.Data[karpenstate.KeyLedger])
	}

	says(0, []string{"approve", changed.ID, "--by=ann", granted}, "applied", "approve EC2NodeClass/default")
	if got := terms(); got != `[{"id":"`+other+`"}]` {
		t.Errorf("applied, and it is %s", got)
	}
	_, ledger, _ := p.state(t)
	if len(ledger.Entries) != 1 {
		t.Fatalf("ledger %+v", ledger.Entries)
	}
	if e := ledger.Entries[0]; e.Actor != "ann" || e.Action != "approve" || e.Object != "EC2NodeClass/default" || e.Outcome != "applied" || e.Predicted != 2 || !strings.Contains(e.Reason, "ami-not-pinned") {
		t.Errorf("ledger %+v", e)
	}
	events, err := p.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=EC2NodeClass,involvedObject.name=default,reason=KarpenopsApplied"})
	if err != nil || len(events.Items) != 1 || !strings.Contains(events.Items[0].Message, ledger.Entries[0].ID) || !strings.Contains(events.Items[0].Message, "ann") {
		t.Errorf("events %+v, %v", events, err)
	}
	// Once: whoever comes second is told who came first.
	says(1, []string{"approve", changed.ID, "--by=bob", granted}, "carried out already", "by ann", ledger.Entries[0].ID)
	says(1, []string{"approve", seen.ID, "--by=bob", granted}, "nothing that is planned or found now has the ID "+seen.ID)
	// It is taken back like everything else; nothing of what was pinned remains.
	says(0, []string{"revert", "default", "--by=ann"}, "EC2NodeClass/default: it has again what it had before")
	if got := terms(); got != alias {
		t.Errorf("taken back, it is %s", got)
	}
	if err := p.client.CoreV1().ConfigMaps(agenttest.Namespace).Delete(t.Context(), karpenstate.ConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// facts puts the facts where the commands look for them, and gives what takes them away.
func (p *place) facts(t *testing.T) func() {
	t.Helper()
	m, c := now(1)
	facts := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nops-karpenops-facts"}, Data: map[string]string{KeyMarket: string(mustJSON(t, m)), KeyCommitments: string(mustJSON(t, c))}}
	maps := p.client.CoreV1().ConfigMaps(agenttest.Namespace)
	if _, err := maps.Create(t.Context(), facts, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := maps.Delete(t.Context(), facts.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}
