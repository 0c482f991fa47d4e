package karpenter

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseGates(t *testing.T) {
	for _, tt := range []struct {
		text, again string
		ok          bool
	}{
		{"", "", true},
		{"NodeOverlay=true", "NodeOverlay=true", true},
		{"SpotToSpotConsolidation=false, NodeOverlay=true,", "NodeOverlay=true,SpotToSpotConsolidation=false", true},
		{"NodeOverlay", "", false},
		{"NodeOverlay=yes", "", false},
		{"=true", "", false},
		{"nodeOverlay=true", "", false},
		{"NodeOverlay=true\nX=true", "", false},
	} {
		gates, err := ParseGates(tt.text)
		if (err == nil) != tt.ok || FormatGates(gates) != tt.again {
			t.Errorf("%q: %q, %v", tt.text, FormatGates(gates), err)
		}
	}
}

// TestCatalogue: the provider takes the cheapest offering, so a price or a name that is wrong is a scenario that shows nothing.
func TestCatalogue(t *testing.T) {
	types, name := Catalogue(), regexp.MustCompile(`^[a-z]+\d[a-z]*\.\d*x?large$`)
	if len(types) < 40 {
		t.Fatalf("%d types", len(types))
	}
	seen, families, archs := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, it := range types {
		if seen[it.Name] || !name.MatchString(it.Name) || !strings.HasPrefix(it.Name, it.Family+".") {
			t.Errorf("%s: twice, or not a name of family %s", it.Name, it.Family)
		}
		seen[it.Name], families[it.Family], archs[it.Arch] = true, true, true
		if it.OnDemand <= 0 || it.VCPU < 2 || it.MemoryMiB < 2048*it.VCPU || len(it.Spot) != len(Zones()) {
			t.Errorf("%+v", it)
		}
		for zone, price := range it.Spot {
			if price <= 0 || price >= it.OnDemand {
				t.Errorf("%s in %s: spot costs %f, on demand %f", it.Name, zone, price, it.OnDemand)
			}
		}
	}
	if len(families) < 15 || len(archs) != 2 {
		t.Errorf("%d families, %d architectures: too few to choose from", len(families), len(archs))
	}
	text, err := instanceTypes(types)
	if err != nil {
		t.Fatal(err)
	}
	var written []kwokType
	if err := json.Unmarshal(text, &written); err != nil || len(written) != len(types) || len(written[0].Offerings) != 2*len(Zones()) {
		t.Errorf("%d types written, %v", len(written), err)
	}
	// The same catalogue is the same file: what is recorded from it can be recorded again.
	if again, err := instanceTypes(Catalogue()); err != nil || string(again) != string(text) {
		t.Errorf("written twice, it differs: %v", err)
	}
}

func claim(uid, pool, kind string, deleting bool, conditions ...string) event {
	var e event
	e.Type = kind
	e.Object.Metadata.UID, e.Object.Metadata.Labels = uid, map[string]string{"karpenter.sh/nodepool": pool, "node.kubernetes.io/instance-type": "m5.large", "karpenter.k8s.aws/instance-cpu": "2"}
	e.Object.Status.NodeName = "node-of-" + uid
	if deleting {
		e.Object.Metadata.DeletionTimestamp = "2026-01-01T00:00:00Z"
	}
	for _, c := range conditions {
		kind, reason, _ := strings.Cut(c, "=")
		e.Object.Status.Conditions = append(e.Object.Status.Conditions, struct{ Type, Status, Reason string }{kind, "True", reason})
	}
	return e
}

func pod(uid, node, phase string) event {
	var e event
	e.Type, e.Object.Metadata.UID, e.Object.Spec.NodeName, e.Object.Status.Phase = "MODIFIED", uid, node, phase
	return e
}

func TestTimeline(t *testing.T) {
	line := &Timeline{began: time.Now(), byUID: map[string]*Node{}, bound: map[string]string{}, pools: map[string]string{}}
	// The pod is seen on its node before the NodeClaim says that the node is its own.
	line.pod(pod("p", "node-of-a", "Running"))
	line.pod(pod("q", "", "Pending"))
	line.claim(claim("a", "base", "ADDED", false))
	line.claim(claim("b", "base", "ADDED", false, "Initialized"))
	line.claim(claim("a", "base", "MODIFIED", false, "Initialized", "Drifted=RequirementsDrifted"))
	line.claim(claim("a", "base", "MODIFIED", false, "Initialized", "Drifted=RequirementsDrifted"))
	line.claim(claim("a", "base", "MODIFIED", false, "Initialized"))
	line.claim(claim("c", "other", "ADDED", false))
	line.claim(claim("b", "base", "MODIFIED", true, "Initialized", "DisruptionReason=Underutilized"))
	line.claim(claim("b", "base", "DELETED", true, "Initialized", "DisruptionReason=Underutilized"))
	nodes, err := line.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	zero := 0.0
	want := []Node{
		{Name: "base-1", Pool: "base", Type: "m5.large", VCPU: 2, Ready: &zero, Drifted: []Mark{{0, "RequirementsDrifted"}, {0, ""}}},
		{Name: "base-2", Pool: "base", Type: "m5.large", VCPU: 2, Ready: &zero, Disrupted: &Mark{0, "Underutilized"}, Deleting: &zero, Gone: &zero},
		{Name: "other-1", Pool: "other", Type: "m5.large", VCPU: 2},
	}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Error(diff)
	}
	for pool, want := range map[string]string{"base": "1 false", "other": "0 true", "none": "0 false"} {
		if n, moving := Ready(nodes, pool); fmt.Sprint(n, moving) != want {
			t.Errorf("pool %s: %d ready, moving %v, want %s", pool, n, moving, want)
		}
	}
	if diff := cmp.Diff([]Pods{{Pending: 1, Running: map[string]int{"base": 1}}}, line.Pods()); diff != "" {
		t.Error(diff)
	}
}

func TestMostDeleting(t *testing.T) {
	at := func(deleting, gone float64) Node {
		n := Node{Pool: "p", Deleting: &deleting}
		if gone > 0 {
			n.Gone = &gone
		}
		return n
	}
	for _, tt := range []struct {
		name  string
		nodes []Node
		since float64
		want  int
	}{
		{"none", []Node{{Pool: "p"}}, 0, 0},
		{"one after another", []Node{at(1, 2), at(2, 3), at(3, 4)}, 0, 1},
		{"one inside another", []Node{at(1, 9), at(2, 3)}, 0, 2},
		{"all at once, not gone yet", []Node{at(1, 0), at(1, 0), at(2, 0)}, 0, 3},
		{"before the moment", []Node{at(1, 4), at(1, 4), at(5, 6)}, 5, 1},
		{"gone within the clock's resolution", []Node{at(1, 1), at(2, 2)}, 0, 1},
	} {
		if got := MostDeleting(tt.nodes, tt.since)["p"]; got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestDriftAnswers asks Karpenter's own code: what is compared with it takes these answers for the truth.
func TestDriftAnswers(t *testing.T) {
	bin := os.Getenv("KUBEBUILDER_ASSETS")
	if _, err := os.Stat(filepath.Join(bin, "karpenter-drift")); bin == "" || err != nil {
		t.Skip("KUBEBUILDER_ASSETS names no directory with karpenter-drift: run make test-unit")
	}
	const family, m5 = "karpenter.k8s.aws/instance-family", `[{"key":"karpenter.k8s.aws/instance-family","operator":"In","values":["m5"]}]`
	pool := func(spec, template string) string {
		return `{"nodepool":{"spec":{` + spec + `"template":{"spec":{` + template + `"requirements":` + m5 + `}}}}`
	}
	zones := `[{"key":"topology.kubernetes.io/zone","operator":"In","values":["a"]}]`
	questions := []struct{ name, question, want string }{
		{"family kept", pool("", "") + `,"labels":{"` + family + `":"m5"}}`, `"drifted":false`},
		{"family excluded", pool("", "") + `,"labels":{"` + family + `":"c5"}}`, `"drifted":true,"why":`},
		{"label absent", pool("", "") + `,"labels":{"x":"y"}}`, `"drifted":true,"why":`},
		{"absent for NotIn", `{"requirements":[{"key":"x","operator":"NotIn","values":["y"]}],"labels":{"z":""}}`, `{"satisfied":true}`},
		{"inclusive bound", `{"id":"i","requirements":[{"key":"x","operator":"Lte","values":["4"]}],"labels":{"x":"4"}}`, `{"id":"i","satisfied":true}`},
		{"only one knows it", `{"a":[{"key":"x","operator":"Exists"}],"b":` + m5 + `}`, `{"intersects":true,"compatible":false,"compatible_well_known":true}`},
		{"nothing in common", `{"a":[{"key":"x","operator":"In","values":["1"]}],"b":[{"key":"x","operator":"Gt","values":["1"]}]}`, `{"intersects":false,"compatible":false,"compatible_well_known":false}`},
		{"one zone", `{"requirements":` + zones + `,"types":[{"name":"m5.large","requirements":` + m5 + `,"offerings":[[{"key":"topology.kubernetes.io/zone","operator":"In","values":["b"]}],` + zones + `]}]}`, `{"types":{"m5.large":[1]}}`},
		{"folded", `{"effective":[{"key":"x","operator":"In","values":["b","a"]},{"key":"x","operator":"NotIn","values":["b"]}]}`, `{"effective":[{"key":"x","operator":"In","values":["a"]}]}`},
		{"folded to nothing", `{"effective":[{"key":"x","operator":"In","values":["a"]},{"key":"x","operator":"NotIn","values":["a"]}]}`, `{"effective":[{"key":"x","operator":"DoesNotExist"}]}`},
		{"not valid", `{"requirements":[{"key":"x","operator":"Gt","values":[]}],"labels":{"x":"4"}}`, `{"error":"panic`},
		{"not a question", `{"pool":1}`, `{"error":"read the question`},
		{"after an error", `{"id":7,"requirements":[],"labels":{"x":"4"}}`, `{"id":7,"satisfied":true}`},
	}
	hashes := []struct {
		name, question string
		same           bool
	}{
		{"the plain pool", pool("", "") + "}", true},
		{"weight and limits", pool(`"weight":7,"limits":{"cpu":"4"},`, "") + "}", true},
		{"expiry", pool("", `"expireAfter":"720h",`) + "}", false},
		{"taints", pool("", `"taints":[{"key":"k","effect":"NoSchedule"}],`) + "}", false},
	}
	var input strings.Builder
	for _, q := range questions {
		input.WriteString(q.question + "\n")
	}
	for _, h := range hashes {
		input.WriteString(h.question + "\n")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "karpenter-drift"))
	cmd.Stdin = strings.NewReader(input.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []string
	for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
		answers = append(answers, lines.Text())
	}
	if len(answers) != len(questions)+len(hashes) {
		t.Fatalf("%d answers to %d questions:\n%s", len(answers), len(questions)+len(hashes), out)
	}
	for n, q := range questions {
		if !strings.Contains(answers[n], q.want) {
			t.Errorf("%s: %s\n%s, want %s", q.name, q.question, answers[n], q.want)
		}
	}
	first := ""
	for n, h := range hashes {
		var a struct{ Hash string }
		if err := json.Unmarshal([]byte(answers[len(questions)+n]), &a); err != nil || a.Hash == "" {
			t.Fatalf("%s: %s", h.name, answers[len(questions)+n])
		}
		if first == "" {
			first = a.Hash
		}
		if (a.Hash == first) != h.same {
			t.Errorf("%s: hash %s, that of the plain pool is %s", h.name, a.Hash, first)
		}
	}
}
