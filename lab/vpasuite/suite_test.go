package vpasuite

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var write = flag.Bool("write", false, "write docs/vpa-behaviour.md")

const document = "../../docs/vpa-behaviour.md"

// counts are those of upstream's suites.
func counts() map[string]int {
	return map[string]int{"admission": 29, "updater": 12, "recommender": 10, "actuation": 16, "full": 10}
}

// TestList holds the list to upstream's numbers, and the document to the list.
func TestList(t *testing.T) {
	got, names := map[string]int{}, map[string]bool{}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range behaviours() {
		got[b.suite]++
		if (b.test == nil) != (b.not != "") {
			t.Errorf("%s: it is run, or there is a reason why not", b.what)
		}
		if names[b.suite+b.what] {
			t.Errorf("%s: twice", b.what)
		}
		names[b.suite+b.what] = true
		row := fmt.Sprintf("| %d | %s | %s |", n+1, b.suite, b.what)
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/vpa-behaviour.md lacks %s", row)
		}
		for stack, why := range b.differs {
			if why == "" || stack != "upstream" && stack != "ours" {
				t.Errorf("%s: %s differs: %q", b.what, stack, why)
			}
		}
	}
	for suite, want := range counts() {
		if got[suite] != want {
			t.Errorf("%s: %d cases, upstream has %d", suite, got[suite], want)
		}
	}
	if len(got) != len(counts()) || len(names) != 77 {
		t.Errorf("%d suites, %d cases", len(got), len(names))
	}
}

// TestBehaviour asks both stacks the same.
func TestBehaviour(t *testing.T) {
	w := open(t)
	all := behaviours()
	outcome := map[string][]string{}
	for _, s := range stacks() {
		outcome[s.name] = make([]string, len(all))
		for n, b := range all {
			if b.not != "" {
				outcome[s.name][n] = "not run"
				continue
			}
			outcome[s.name][n] = "not asked"
			t.Run(fmt.Sprintf("%s/%02d-%s", s.name, n+1, b.suite), func(t *testing.T) {
				t.Log(b.what)
				began := time.Now()
				ok := t.Run("case", func(t *testing.T) { probe(t, w.run(t, s, n+1), b) })
				outcome[s.name][n] = map[bool]string{true: "yes", false: "**no**"}[ok]
				if why := b.differs[s.name]; why != "" && ok {
					outcome[s.name][n] = "no: " + why
				}
				t.Logf("%s after %s", outcome[s.name][n], time.Since(began).Round(time.Second))
			})
		}
	}
	if *write && !t.Skipped() {
		if err := os.WriteFile(document, []byte(table(all, outcome)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// probe runs a case. One of which is known that the stack does something else is not run with it: the reason stands in the document.
func probe(t *testing.T, r *run, b behaviour) {
	t.Helper()
	if b.differs[r.stack.name] != "" {
		return
	}
	b.test(r)
}

func table(all []behaviour, outcome map[string][]string) string {
	var out strings.Builder
	fmt.Fprintf(&out, `# What both VPAs do

The end-to-end suites of the VPA of Kubernetes have 77 cases. Each is in this list, in our words; those that are run are tests of our own
(`+"`lab/vpasuite`"+`) that know the API group only as a parameter, so that both VPAs are asked exactly the same: upstream's 1.8.1, unchanged, with
its alpha gates InPlace, PerVPAConfig and CPUStartupBoost on, and ours as the chart installs it. Both run in one lab at the same time, with a
real kubelet and real containers, and loops of %s. What upstream's cases take minutes to rule out is ruled out by five loops.

Run on %s.

| | suite | case | upstream 1.8.1 | nOps VPA |
|---|---|---|---|---|
`, interval, time.Now().UTC().Format(time.DateOnly))
	for n, b := range all {
		if b.not != "" {
			fmt.Fprintf(&out, "| %d | %s | %s | not run: %s | not run |\n", n+1, b.suite, b.what, b.not)
			continue
		}
		fmt.Fprintf(&out, "| %d | %s | %s | %s | %s |\n", n+1, b.suite, b.what, outcome["upstream"][n], outcome["ours"][n])
	}
	return out.String()
}
