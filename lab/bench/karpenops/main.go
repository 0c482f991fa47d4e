// Command karpenops compares, over a month of a simulated market, what Karpenter does untouched, what it does under the rules that nOps's public
// documentation describes, and what it does under our planner; and measures how long the planner takes.
//
// Everything but the planner's time is a function of the scenario: two runs on machines of one kind give the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/lab/bench/here"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the process starts here
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)                                     //nolint:forbidigo // likewise
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "karpenops:", err) //nolint:forbidigo // likewise
		os.Exit(1)                                 //nolint:forbidigo // likewise
	}
}

// Where things lie, from the checkout.
const (
	scenarioFile = "lab/bench/karpenops/testdata/scenario.json"
	pageFile     = "docs/karpenops-replay.md"
	plotFile     = "docs/karpenops-replay.svg"
)

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	fs := flag.NewFlagSet("karpenops", flag.ContinueOnError)
	write := fs.Bool("write", false, "rewrite docs/karpenops-replay.md and its plot")
	days := fs.Int("days", 0, "simulate so many days and not those of the scenario")
	trace := fs.String("trace", "", "write each change of a policy into this directory")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	repo, err := here.Checkout()
	if err != nil {
		return err
	}
	s, err := loadScenario(filepath.Join(repo, scenarioFile))
	if err != nil {
		return err
	}
	if *days == 0 {
		*days = s.Days
	}
	say(progress, "planning %d times for %d nodes", planRounds, largeNodes)
	r := report{when: time.Now().UTC(), machine: here.Machine(), load: here.Load(), scenario: s, days: *days, speed: measure(plan.Make)}
	say(progress, "replaying %d days under %d policies", *days, len(policies()))
	if r.results, err = replays(ctx, s, *days, *trace); err != nil {
		return err
	}
	if r.digest, err = digest(r.results); err != nil {
		return err
	}
	page := r.markdown()
	fmt.Fprint(out, page)
	if *write {
		for file, text := range map[string]string{pageFile: page, plotFile: r.plot()} {
			if err := os.WriteFile(filepath.Join(repo, file), []byte(text), 0o644); err != nil {
				return fmt.Errorf("write the page: %w", err)
			}
		}
	}
	return r.check()
}

func say(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "· "+format+" …\n", args...)
}

// A contender is a policy with its name.
type contender struct {
	class, name string
	policy      policy
}

// policies are new ones, in the order of the page.
func policies() []contender {
	planner := func(mode karpenstate.Mode) policy {
		return &ours{mode: mode, make: plan.Make, memory: map[string]plan.Memory{}}
	}
	return []contender{
		{"a", "Karpenter untouched", untouched{}},
		{"b", "over-allocate, then clamp", &rules{shares: map[int][]float64{}}},
		{"c", "karpenops, siblings", planner(karpenstate.ModeSiblings)},
		{"d", "karpenops, overlays", planner(karpenstate.ModeOverlays)},
	}
}

// replays runs all policies beside each other. They share nothing but the scenario, which nobody changes.
func replays(ctx context.Context, s *scenario, days int, trace string) ([]*result, error) {
	all := policies()
	results, problems := make([]*result, len(all)), make([]error, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() {
			var log io.Writer
			if trace != "" {
				file, err := os.Create(filepath.Join(trace, c.class+".log"))
				if err != nil {
					problems[i] = err
					return
				}
				defer file.Close()
				log = file
			}
			results[i], problems[i] = replayFor(ctx, s, time.Duration(days)*24*time.Hour, c, log)
		})
	}
	group.Wait()
	return results, errors.Join(problems...)
}
