package verdict_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/verification.md")

// constants are the values of all constants of a type, as the source has them: a list that somebody keeps by hand forgets.
func constants(t *testing.T, typ string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typ {
				for _, v := range spec.Values {
					lit, ok := v.(*ast.BasicLit)
					if !ok {
						t.Fatalf("%s: a constant of %s is no literal", file, typ)
					}
					text, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, text)
				}
			}
			return true
		})
	}
	return all
}

// TestOneOutcomeIsSuccess: there is no path on which unknown becomes ok.
func TestOneOutcomeIsSuccess(t *testing.T) {
	source := constants(t, "Outcome")
	if len(source) != 6 {
		t.Errorf("%d outcomes in the source: say in this test what the new one is", len(source))
	}
	listed := map[string]bool{}
	ok := 0
	for _, o := range verdict.Outcomes() {
		listed[string(o)] = true
		if o.OK() {
			ok++
		}
	}
	for _, o := range source {
		if !listed[o] {
			t.Errorf("Outcomes() does not list %q", o)
		}
	}
	if len(listed) != len(source) {
		t.Errorf("Outcomes() lists %d of %d", len(listed), len(source))
	}
	if ok != 1 || !verdict.Verified.OK() {
		t.Errorf("%d outcomes are success", ok)
	}
	for _, o := range []verdict.Outcome{"", "ok", "Verified", "verified ", "unknown", "true"} {
		if o.OK() {
			t.Errorf("%q is success", o)
		}
	}
	var zero verdict.Finding
	if zero.Outcome.OK() {
		t.Error("a finding that nobody made is success")
	}
}

// TestReasonsAreFailures: each has an entry in the table, an outcome that is not success, and advice.
func TestReasonsAreFailures(t *testing.T) {
	source := constants(t, "Reason")
	table := map[string]verdict.ReasonInfo{}
	for _, i := range verdict.Reasons() {
		if _, twice := table[string(i.Reason)]; twice {
			t.Errorf("%s is in the table twice", i.Reason)
		}
		table[string(i.Reason)] = i
	}
	if len(source) < 30 || len(source) != len(table) {
		t.Errorf("%d reasons in the source, %d in the table", len(source), len(table))
	}
	outcomes := map[verdict.Outcome]int{}
	word := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	for _, name := range source {
		i, ok := table[name]
		if !ok {
			t.Errorf("%s has no entry in the table", name)
			continue
		}
		r := verdict.Reason(name)
		known := false
		for _, o := range verdict.Outcomes() {
			known = known || o == i.Outcome
		}
		if !known || i.Outcome.OK() || r.Outcome() != i.Outcome {
			t.Errorf("%s leads to %q", name, i.Outcome)
		}
		if !word.MatchString(name) || i.About == "" || i.Hint == "" || r.Hint() != i.Hint || !strings.HasSuffix(i.About, ".") || strings.HasSuffix(i.Hint, ".") {
			t.Errorf("%s: %+v", name, i)
		}
		if f := verdict.Fail(r, "%s", "x"); f.Outcome.OK() || f.Outcome != i.Outcome || f.Reason != r || f.Message != "x" {
			t.Errorf("%s: %+v", name, f)
		}
		outcomes[i.Outcome]++
	}
	for _, o := range verdict.Outcomes() {
		if (outcomes[o] == 0) != o.OK() {
			t.Errorf("%d reasons lead to %s", outcomes[o], o)
		}
	}
	for _, r := range []verdict.Reason{"", "verified", "ok", "no-such-reason"} {
		if r.Outcome() != verdict.Unknown || verdict.Fail(r, "x").Outcome != verdict.Unknown {
			t.Errorf("%q leads to %q", r, r.Outcome())
		}
	}
}

// TestWorse: an order to sort by (strict, weak), in which success is never preferred to a failure.
func TestWorse(t *testing.T) {
	all := append(verdict.Outcomes(), "", "no outcome")
	for _, o := range all {
		if o.OK() {
			continue
		}
		good, bad := verdict.Finding{Outcome: verdict.Verified}, verdict.Finding{Outcome: o}
		if verdict.Worse(good, bad) || !verdict.Worse(bad, good) {
			t.Errorf("success hides %q", o)
		}
	}
	for _, pair := range [][2]verdict.Outcome{{verdict.Revoked, verdict.Untrusted}, {verdict.Unknown, verdict.Untrusted}, {verdict.Untrusted, verdict.Unsigned}, {verdict.BadPolicy, verdict.Revoked}, {"", verdict.BadPolicy}} {
		if !verdict.Worse(verdict.Finding{Outcome: pair[0]}, verdict.Finding{Outcome: pair[1]}) {
			t.Errorf("%q is told after %q", pair[0], pair[1])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) verdict.Finding {
			return verdict.Finding{Outcome: rapid.SampledFrom(all).Draw(t, name), Message: rapid.String().Draw(t, name+" message")}
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		same := func(x, y verdict.Finding) bool { return !verdict.Worse(x, y) && !verdict.Worse(y, x) }
		switch {
		case verdict.Worse(a, a):
			t.Fatal("not irreflexive")
		case verdict.Worse(a, b) && verdict.Worse(b, a):
			t.Fatal("not asymmetric")
		case verdict.Worse(a, b) && verdict.Worse(b, c) && !verdict.Worse(a, c):
			t.Fatal("not transitive")
		case same(a, b) && same(b, c) && !same(a, c):
			t.Fatal("not weak: what compares as equal does not")
		case verdict.Worse(a, b) && a.Outcome.OK():
			t.Fatal("success is told first")
		}
	})
}

const (
	begin = "<!-- The table of reasons is generated by `make generate` from the code. Do not edit below. -->\n"
	end   = "<!-- End of the generated part. -->\n"
)

// TestDocs holds the reasons in docs/verification.md against the code; -update (make generate) rewrites them.
func TestDocs(t *testing.T) {
	page := filepath.Join("..", "..", "..", "docs", "verification.md")
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no generated part: %q … %q", page, begin, end)
	}
	var b strings.Builder
	b.WriteString("\n| outcome | reason | means | what to do |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, i := range verdict.Reasons() {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", i.Outcome, i.Reason, cell.Replace(i.About), cell.Replace(i.Hint))
	}
	b.WriteString("\n")
	want := before + begin + b.String() + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(data) {
		t.Errorf("%s does not say what the code says: make generate rewrites it", page)
	}
}
