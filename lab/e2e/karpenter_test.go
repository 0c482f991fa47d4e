package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/lab/karpenter"
)

// TestKarpenter plays the stories that need Karpenter's API, which changes what nopsctl installs: apart, and each turns it on.
// They hardly do anything but wait for Karpenter, which moves a node in fifteen seconds and looks for another ten later. So those
// that are told by hand, without an agent, have a lab and a Karpenter of their own, at the same time.
func TestKarpenter(t *testing.T) {
	files := stories(t, "karpenter", 5)
	if theirs() != "" {
		run(t, "karpenter", 5)
		return
	}
	labs := map[string][]string{}
	for _, file := range files {
		name := "e2e"
		if strings.HasSuffix(file, "-by-hand.txtar") {
			name = "e2e-by-hand"
		}
		labs[name] = append(labs[name], file)
	}
	var both sync.WaitGroup
	for name, files := range labs {
		both.Go(func() {
			w, err := start(name)
			defer w.down(t)()
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			w.play(t, files)
		})
	}
	both.Wait()
}

// karpenter turns Karpenter on, with a timeline of its nodes, or off. A story that ends without turning it off is cleaned up after.
func (w *world) karpenter(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 || args[0] != "on" && (args[0] != "off" || len(args) == 2) {
		ts.Fatalf("usage: karpenter on [GATE=true,…] | karpenter off")
	}
	w.forgetTimeline()
	if args[0] == "off" {
		w.runs("lab")(ts, false, []string{"karpenter", "off"})
		return
	}
	gates := ""
	if len(args) == 2 {
		gates = args[1]
	}
	// `lab karpenter` has its flags behind the subcommand.
	if out, err := w.lab("karpenter", "on", "--name", w.name, "--gates", gates).CombinedOutput(); err != nil {
		ts.Fatalf("lab karpenter on: %v\n%s", err, out)
	}
	timeline, err := karpenter.Watch(context.Background(), func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(w.bin, "lab"), append([]string{"exec", "--name", w.name, "--", "kubectl"}, args...)...)
	}, "default")
	ts.Check(err)
	w.timeline = timeline
	ts.Defer(w.forgetTimeline)
}

func (w *world) forgetTimeline() {
	if w.timeline != nil {
		w.timeline.End()
		w.timeline = nil
	}
}

// nodes are those that were seen since Karpenter was turned on.
func (w *world) nodes(ts *testscript.TestScript) []karpenter.Node {
	if w.timeline == nil {
		ts.Fatalf("Karpenter is off: the story says `karpenter on` first")
	}
	nodes, err := w.timeline.Nodes()
	ts.Check(err)
	return nodes
}

// count reads POOL N WORD TIME.
func count(ts *testscript.TestScript, neg bool, args []string, usage, word string) (pool string, n int, d time.Duration) {
	if neg || len(args) != 4 || args[2] != word {
		ts.Fatalf("usage: %s POOL N %s TIME", usage, word)
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	d, err = time.ParseDuration(args[3])
	ts.Check(err)
	return args[0], n, d
}

func (w *world) nodesOf(ts *testscript.TestScript, neg bool, args []string) {
	pool, want, within := count(ts, neg, args, "nodes-of", "within")
	began := time.Now()
	for {
		nodes := w.nodes(ts)
		if n, moving := karpenter.Ready(nodes, pool); n == want && !moving {
			ts.Logf("pool %s has %d nodes after %s", pool, n, time.Since(began).Round(100*time.Millisecond))
			return
		}
		if time.Since(began) > within {
			ts.Fatalf("pool %s does not have %d nodes, and none that come or go, within %s: %s", pool, want, within, karpenter.Describe(nodes))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *world) nodesStay(ts *testscript.TestScript, neg bool, args []string) {
	pool, want, d := count(ts, neg, args, "nodes-stay", "for")
	for began := time.Now(); time.Since(began) < d; time.Sleep(100 * time.Millisecond) {
		nodes := w.nodes(ts)
		if n, moving := karpenter.Ready(nodes, pool); n != want || moving {
			ts.Fatalf("pool %s does not stay at %d nodes for %s, after %s: %s", pool, want, d, time.Since(began).Round(100*time.Millisecond), karpenter.Describe(nodes))
		}
	}
}

func (w *world) drifted(ts *testscript.TestScript, neg bool, args []string) {
	pool, want, within := count(ts, neg, args, "drifted", "within")
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		nodes, got := w.nodes(ts), 0
		for _, n := range nodes {
			if last := len(n.Drifted) - 1; n.Pool == pool && n.Gone == nil && last >= 0 && n.Drifted[last].Reason != "" {
				got++
			}
		}
		if got == want {
			return
		}
		if time.Since(began) > within {
			ts.Fatalf("%d nodes of pool %s drifted, want %d, within %s: %s", got, pool, want, within, karpenter.Describe(nodes))
		}
	}
}

// atMost holds how many nodes of a pool were ever being deleted at once against a number.
func (w *world) atMost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[1] != "deleting" {
		ts.Fatalf("usage: at-most N deleting POOL")
	}
	limit, err := strconv.Atoi(args[0])
	ts.Check(err)
	nodes := w.nodes(ts)
	if most := karpenter.MostDeleting(nodes, 0)[args[2]]; most > limit {
		ts.Fatalf("%d nodes of pool %s were being deleted at once, at most %d should: %s", most, args[2], limit, timelineText(nodes))
	}
}

// launched holds the number of nodes that a pool ever had against a number: what was replaced is seen. With a time it waits
// until there have been so many.
func (w *world) launched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 && (len(args) != 4 || args[2] != "within") {
		ts.Fatalf("usage: launched POOL N [within TIME]")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	within := time.Duration(0)
	if len(args) == 4 {
		within, err = time.ParseDuration(args[3])
		ts.Check(err)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		nodes, got := w.nodes(ts), 0
		for _, n := range nodes {
			if n.Pool == args[0] {
				got++
			}
		}
		switch {
		case got == want:
			if within > 0 {
				ts.Logf("pool %s has launched %d nodes after %s", args[0], got, time.Since(began).Round(100*time.Millisecond))
			}
			return
		case got > want || time.Since(began) > within:
			ts.Fatalf("pool %s launched %d nodes, want %d: %s", args[0], got, want, timelineText(nodes))
		}
	}
}

// printTimeline prints every NodeClaim since Karpenter was turned on, one JSON object a line.
func (w *world) printTimeline(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: timeline")
	}
	fmt.Fprint(ts.Stdout(), timelineText(w.nodes(ts)))
}

func timelineText(nodes []karpenter.Node) string {
	var out strings.Builder
	for _, n := range nodes {
		line, err := json.Marshal(n)
		if err != nil {
			return err.Error()
		}
		fmt.Fprintf(&out, "%s\n", line)
	}
	return out.String()
}

// TestRecordings holds the recordings of live scenarios to their form: each is a scenario that was played by the version that
// the lab runs, whose every step ended and whose every node has a pool and a type of the catalogue.
func TestRecordings(t *testing.T) {
	files, err := filepath.Glob("../bench/karpenops/testdata/live/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("%d recordings", len(files))
	}
	types := map[string]int{}
	for _, it := range karpenter.Catalogue() {
		types[it.Name] = it.VCPU
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s karpenter.Scenario
			if err := json.Unmarshal(text, &s); err != nil {
				t.Fatal(err)
			}
			if s.Name+".json" != filepath.Base(file) || s.Reason == "" {
				t.Errorf("it is called %q, for the reason %q", s.Name, s.Reason)
			}
			if s.Options.Version != karpenter.Version {
				t.Errorf("played by Karpenter %q, the lab runs %s: lab karpenter play %s", s.Options.Version, karpenter.Version, file)
			}
			if again, err := s.Format(); err != nil || string(again) != string(text) {
				t.Errorf("it was not written by lab karpenter play: %v", err)
			}
			if s.Observed == nil || len(s.Observed.Steps) != len(s.Steps) {
				t.Fatal("it was not played to its end")
			}
			for n, step := range s.Steps {
				if o := s.Observed.Steps[n]; o.Name != step.Name || o.Ended < o.Began || (o.Met == nil) != (step.Until == nil) {
					t.Errorf("step %q: %+v", step.Name, o)
				}
			}
			for _, n := range s.Observed.Nodes {
				if n.Pool == "" || n.VCPU == 0 || types[n.Type] != n.VCPU {
					t.Errorf("node %+v: not one of the catalogue", n)
				}
			}
		})
	}
}

// TestBehaviours: the page that says what karpenops relies on names every story and recording, and none that is gone.
func TestBehaviours(t *testing.T) {
	page, err := os.ReadFile("../../docs/karpenter-behaviour.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, found := range regexp.MustCompile("`([0-9a-z-]+\\.(?:txtar|json))`").FindAllStringSubmatch(string(page), -1) {
		named[found[1]] = true
	}
	there := 0
	for _, pattern := range []string{"testdata/karpenter/*.txtar", "../bench/karpenops/testdata/live/*.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			there++
			if !named[filepath.Base(file)] {
				t.Errorf("%s shows what Karpenter does, and docs/karpenter-behaviour.md does not say what", filepath.Base(file))
			}
			delete(named, filepath.Base(file))
		}
	}
	for name := range named {
		t.Errorf("docs/karpenter-behaviour.md refers to %s, which is not there", name)
	}
	t.Logf("%d stories and recordings", there)
}

// sibling waits until exactly one NodePool of karpenops's own launches nodes, and puts its name into a variable.
func (w *world) sibling(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[1] != "within" {
		ts.Fatalf("usage: sibling VARIABLE within TIME")
	}
	within, err := time.ParseDuration(args[2])
	ts.Check(err)
	var names []string
	for began := time.Now(); time.Since(began) < within; time.Sleep(500 * time.Millisecond) {
		out, err := w.inside("kubectl", "get", "nodepools", "-l", karpenstate.LabelOwned+"=true", "-o", `jsonpath={range .items[?(@.spec.limits.cpu!="0")]}{.metadata.name} {end}`).Output()
		ts.Check(err)
		if names = strings.Fields(string(out)); len(names) == 1 {
			ts.Logf("the sibling is %s, after %s", names[0], time.Since(began).Round(time.Second))
			ts.Setenv(args[0], names[0])
			return
		}
	}
	ts.Fatalf("there are %d siblings, want one, within %s: %s", len(names), within, names)
}
