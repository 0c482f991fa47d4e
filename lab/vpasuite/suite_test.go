package vpasuite

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
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
	if err != nil && !*write {
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
		if !*write && !strings.Contains(string(text), row) {
			t.Errorf("docs/vpa-behaviour.md lacks %s", row)
		}
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
	w := open(t)
	all := behaviours()
	outcome := map[string][]string{}
	free := make(chan struct{}, slots)
	// What takes an admission controller away is first, beside what needs none; what fills the node is last, beside what needs no scheduler.
	var silent, placed, rest sync.WaitGroup
	silenced := make(chan struct{})
	ask := func(s stack, n int) {
		b := all[n]
		if b.quiet == b.silences {
			<-silenced
		}
		if b.fills {
			placed.Wait()
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
			}
			group.Go(func() { ask(s, n) })
		}
	}
	silent.Wait()
	close(silenced)
	placed.Wait()
	rest.Wait()
	if !*write {
		return
	}
	for name, cells := range outcome {
		for n, cell := range cells {
			if cell == "" && all[n].test != nil {
				t.Fatalf("%s was not asked about case %d: the document is written when all are", name, n+1)
			}
		}
	}
	if err := os.WriteFile(document, []byte(table(all, outcome)), 0o644); err != nil {
		t.Fatal(err)
	}
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
