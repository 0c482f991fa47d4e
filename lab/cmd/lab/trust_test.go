package main

import (
	"path"
	"strings"
	"testing"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/lab/sign"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// TestPolicyIsAboutWhatIsServed: the policy that a lab writes is one, and has for every image the rule that its signature meets.
func TestPolicyIsAboutWhatIsServed(t *testing.T) {
	keys, err := sign.New()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ourRepositories()
	if err != nil {
		t.Fatal(err)
	}
	text := keys.Policy(ours)
	p, err := policy.Parse([]byte(text), policy.Options{Source: "policy.yaml"})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(p.Trust.AWSSigner.Roots) != 1 || p.Trust.AWSSigner.Roots[0] != keys.AWS.RootFingerprint() {
		t.Errorf("roots %v", p.Trust.AWSSigner.Roots)
	}
	all, err := served()
	if err != nil {
		t.Fatal(err)
	}
	all[chartRepository+":0.1.0"] = policy.MethodAWSSigner
	methods := map[policy.Method]int{}
	for image, method := range all {
		name, _, _ := strings.Cut(image, ":")
		rule, ok := p.RuleFor("public.ecr.aws/" + name)
		leaves := rule.Require.Leaves()
		if !ok || len(leaves) != 1 || leaves[0].Method != method {
			t.Errorf("%s is signed with %s, and the rule is %+v", image, method, rule)
			continue
		}
		methods[method]++
		switch leaf := leaves[0]; method {
		case policy.MethodAWSSigner:
			if len(leaf.Profiles) != 1 || leaf.Profiles[0] != sign.Profile || rule.Revocation != policy.RevocationRequire {
				t.Errorf("%s: %+v", image, rule)
			}
		default:
			if string(leaf.Key) != string(keys.Cosign.PublicPEM()) || leaf.Log {
				t.Errorf("%s: %+v", image, leaf)
			}
		}
	}
	if methods[policy.MethodAWSSigner] < 3 || methods[policy.MethodCosignKey] < 3 || len(all) < 8 {
		t.Errorf("%v of %d images: a lab shows both", methods, len(all))
	}
	if _, ok := p.RuleFor("docker.io/library/busybox"); ok {
		t.Error("what the lab does not serve has a rule")
	}
}

// TestChartRepository: the chart is published where policies and tests look for it.
func TestChartRepository(t *testing.T) {
	chart, err := embeddedchart.FS()
	if err != nil {
		t.Fatal(err)
	}
	text, err := chart.Open("Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	buf := make([]byte, 4096)
	n, _ := text.Read(buf)
	if !strings.Contains(string(buf[:n]), "name: "+path.Base(chartRepository)+"\n") {
		t.Errorf("the chart is not called %s:\n%s", path.Base(chartRepository), buf[:n])
	}
}

// TestNothingServedIsForged: the tags that every lab of the machine serves are not for forgeries.
func TestNothingServedIsForged(t *testing.T) {
	for text, taken := range map[string]bool{"nops/k8s-heartbeat-agent:0.1.0": true, "nops/k8s-heartbeat-agent:0.1.4": true, "nops/k8s-heartbeat-agent:story": false, "story/k8s-heartbeat-agent:0.1.0": false} {
		repository, tag, _ := strings.Cut(text, ":")
		if err := (image{repository: repository, tag: tag}).own(); (err != nil) != taken {
			t.Errorf("%s: %v, taken %v", text, err, taken)
		}
	}
}
