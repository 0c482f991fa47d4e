package heartbeat

import (
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// documentedRules parses the table in doc.go, as the drift test between chart and agents does.
func documentedRules(t *testing.T) []rbacv1.PolicyRule {
	t.Helper()
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	list := func(cell string) []string {
		var all []string
		for _, s := range strings.Split(cell, ",") {
			if s = strings.TrimSpace(s); s != "" {
				all = append(all, s)
			}
		}
		return all
	}
	var rules []rbacv1.PolicyRule
	for _, line := range strings.Split(string(doc), "\n") {
		row, is := strings.CutPrefix(line, "//\t|")
		if !is {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		if len(cells) != 4 || strings.TrimSpace(cells[0]) == "API group" || strings.HasPrefix(cells[0], "--") {
			continue
		}
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{strings.TrimSpace(cells[0])}, Resources: list(cells[1]), ResourceNames: list(cells[2]), Verbs: list(cells[3])})
	}
	return rules
}

func TestDocumentedRules(t *testing.T) {
	rules := documentedRules(t)
	if len(rules) != 6 {
		t.Fatalf("%d rules in the table of doc.go, want 6: %v", len(rules), rules)
	}
	for _, r := range rules {
		for _, all := range [][]string{r.APIGroups, r.Resources, r.Verbs} {
			if slices.Contains(all, "*") || len(all) == 0 {
				t.Errorf("%v: a wildcard or nothing", r)
			}
		}
		if slices.Contains(r.Resources, "secrets") || slices.Contains(r.Verbs, "delete") {
			t.Errorf("%v: the heartbeat has no business there", r)
		}
	}
}

func pemOf(s *httptest.Server) []byte {
	var cert *x509.Certificate = s.Certificate()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
