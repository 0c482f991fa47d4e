package karpenops

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
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
	t.Run("revert", func(t *testing.T) { testRevertSays(t, p) })
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
