package policy

import (
	"testing"
)

func TestExample(t *testing.T) {
	const arn = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops_agents"
	p, err := Parse([]byte(Example(arn)), Options{Source: "policy.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	rule, ok := p.RuleFor("public.ecr.aws/nops/vpa")
	if !ok || len(rule.Require.Leaves()) != 1 || rule.Require.Leaves()[0].Profiles[0] != arn {
		t.Errorf("%+v", p)
	}
	if _, err := Parse([]byte(Example("")), Options{Source: "policy.yaml"}); err == nil {
		t.Error("a template that nobody filled in passes")
	} else {
		t.Log(err)
	}
}
