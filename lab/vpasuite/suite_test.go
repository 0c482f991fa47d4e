package vpasuite

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var write = flag.Bool("write", false, "write docs/vpa-behaviour.md")

const document = "../../docs/vpa-behaviour.md"

// counts are those of upstream's suites.
func counts() map[string]int {
	return map[string]int{"admission": 29, "updater": 12, "recommender": 10, "actuation": 16, "full": 10}
}

// differ says what of a document is not as it must be: each case as it is known to be, yes or, with the reason, no. A failure would stand in it as **no**.
func differ(text string) string {
	all, outcome := behaviours(), map[string][]string{}
	for _, s := range stacks() {
		for _, b := range all {
			cell := "yes"
			if d, is := b.differs[s.name]; is {
				cell = "no: " + d.why
			}
			outcome[s.name] = append(outcome[s.name], cell)
		}
	}
	asked := regexp.MustCompile(`(?m)^All were asked on \d{4}-\d\d-\d\d, in .+\.$`).FindString(text)
	return cmp.Diff(table(all, outcome, asked), text)
}

// TestList holds the list to upstream's numbers, and the document to the list.
func TestList(t *testing.T) {
	got, names := map[string]int{}, map[string]bool{}
	if !*write {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		if diff := differ(string(text)); diff != "" {
			t.Errorf("docs/vpa-behaviour.md is not as it must be (-must +is):\n%s", diff)
		}
		for _, c := range [][2]string{{" | yes |\n", " | **no** |\n"}, {" | yes | yes |\n", " | **no** | yes |\n"}, {" | yes |\n", " | no: never mind |\n"}, {"All were asked on", "Some were asked on"}} {
			if planted := strings.Replace(string(text), c[0], c[1], 1); planted == string(text) || differ(planted) == "" {
				t.Errorf("%q in the document is not seen", c[1])
			}
		}
	}
	for _, b := range behaviours() {
		got[b.suite]++
		if (b.test == nil) != (b.not != "") {
			t.Errorf("%s: it is run, or there is a reason why not", b.what)
		}
		if names[b.suite+b.what] {
			t.Errorf("%s: twice", b.what)
		}
		names[b.suite+b.what] = true
		for stack, d := range b.differs {
			if d.why == "" || d.test == nil || stack != "upstream" && stack != "ours" {
				t.Errorf("%s: %s differs: %q", b.what, stack, d.why)
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

// slots are how many cases run at once: each waits more than it works, and two cores carry this many.
const slots = 8

// TestBehaviour asks both stacks the same, at the same time, each case in a namespace of its own.
func TestBehaviour(t *testing.T) {
	began := time.Now()
	w := open(t)
	all := behaviours()
	outcome := map[string][]string{}
	free := make(chan struct{}, slots)
	// What takes an admission controller away is first, beside what needs none; what fills the node is last, beside what needs no scheduler,
	// and beside what uses CPU, of which the other cases leave little.
	var silent, placed, rest, last sync.WaitGroup
	silenced := make(chan struct{})
	ask := func(s stack, n int) {
		b := all[n]
		if b.quiet == b.silences {
			<-silenced
		}
		if b.fills {
			placed.Wait()
		}
		if b.measures {
			rest.Wait()
		}
		if !b.silences && !b.schedules && !b.fills && !b.long { // others wait for those, or they take the longest
			free <- struct{}{}
			defer func() { <-free }()
		}
		outcome[s.name][n] = w.ask(t, s, n, b)
	}
	for _, s := range stacks() {
		outcome[s.name] = make([]string, len(all))
		for n, b := range all {
			if b.test == nil {
				continue
			}
			group := &rest
			switch {
			case b.silences:
				group = &silent
			case b.schedules:
				group = &placed
			case b.fills, b.measures:
				group = &last
			}
			group.Go(func() { ask(s, n) })
		}
	}
	silent.Wait()
	close(silenced)
	placed.Wait()
	rest.Wait()
	last.Wait()
	if !*write {
		return
	}
	text, err := os.ReadFile(document)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	asked := fmt.Sprintf("All were asked on %s, in %s.", time.Now().UTC().Format(time.DateOnly), time.Since(began).Round(time.Minute))
	for column, s := range stacks() {
		for n, cell := range outcome[s.name] {
			if cell != "" || all[n].test == nil {
				continue
			}
			// What -run leaves out stays as it stands there.
			var ok bool
			if outcome[s.name][n], asked, ok = stands(string(text), n, all[n], column); !ok {
				t.Fatalf("%s was not asked about case %d, nor is it in the document", s.name, n+1)
			}
		}
	}
	if err := os.WriteFile(document, []byte(table(all, outcome, asked)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// stands is what the document says of a case, and when all were asked.
func stands(text string, n int, b behaviour, column int) (cell, asked string, ok bool) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "All were asked on ") {
			asked = line
		}
		if rest, is := strings.CutPrefix(line, fmt.Sprintf("| %d | %s | %s | ", n+1, b.suite, b.what)); is {
			cells := strings.Split(strings.TrimSuffix(rest, " |"), " | ")
			if len(cells) == len(stacks()) {
				cell, ok = cells[column], true
			}
		}
	}
	return cell, asked, ok && asked != ""
}

// ask runs one case with one stack, and says what the document does; nothing when -run leaves it out.
func (w *world) ask(t *testing.T, s stack, n int, b behaviour) (cell string) {
	t.Run(fmt.Sprintf("%s/%02d-%s", s.name, n+1, b.suite), func(t *testing.T) {
		cell = "**no**"
		began := time.Now()
		defer func() { t.Logf("%s: %s after %s", b.what, cell, time.Since(began).Round(time.Second)) }()
		test := b.test
		other, differs := b.differs[s.name]
		if differs {
			test = other.test
		}
		test(w.run(t, s, n+1, b))
		cell = "yes"
		if differs {
			cell = "no: " + other.why
		}
	})
	return cell
}

func table(all []behaviour, outcome map[string][]string, asked string) string {
	var out strings.Builder
	fmt.Fprintf(&out, `<!-- Generated by lab/vpasuite: make test-vpa-behaviour BEHAVIOUR=-write -->
# What both VPAs do

The end-to-end suites of the VPA of Kubernetes have 77 cases. Each is in this list, in our words; those that are run are tests of our own
(`+"`lab/vpasuite`"+`) that know the API group only as a parameter, so that both VPAs are asked exactly the same: upstream's 1.8.1, unchanged, with
its alpha gates InPlace, PerVPAConfig and CPUStartupBoost on, and ours as the chart installs it. Both run in one lab at the same time, on a
real kubelet with real containers rather than on simulated nodes, so that what a node puts off, refuses, resizes or kills for want of memory
is not played. Loops take %s instead of a minute; what should not happen is ruled out by five of them.

"No" is what is known to be otherwise, with the reason: what the stack does instead is tested in its place. "**no**" is a failure.
A PodDisruptionBudget that refused an eviction is asked again by upstream in the next loop, by ours after five minutes.

%s

| | suite | case | upstream 1.8.1 | nOps VPA |
|---|---|---|---|---|
`, interval, asked)
	for n, b := range all {
		if b.not != "" {
			fmt.Fprintf(&out, "| %d | %s | %s | not run: %s | not run |\n", n+1, b.suite, b.what, b.not)
			continue
		}
		fmt.Fprintf(&out, "| %d | %s | %s | %s | %s |\n", n+1, b.suite, b.what, outcome["upstream"][n], outcome["ours"][n])
	}
	return out.String()
}
