package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
)

// A report is what a run found.
type report struct {
	when     time.Time
	machine  string
	load     string // before it began
	scenario *scenario
	days     int
	results  []*result // as policies has them
	speed    speed
	digest   string
}

// digestDays are replayed by the tests, too: the page has their digest, and so a page that other code made is found out.
const digestDays = 2

// digest is of all that the first days came to.
func digest(results []*result) (string, error) {
	var early []*result
	for _, r := range results {
		if r.early == nil {
			return "", fmt.Errorf("digest of %s: fewer than %d days", r.Name, digestDays)
		}
		early = append(early, r.early)
	}
	text, err := json.Marshal(early)
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:16], nil
}

// check holds results against what is claimed.
func check(results []*result) error {
	var problems []error
	rules := results[1]
	for _, r := range results[2:] {
		if r.OverHours > 0 || r.OverLimits > 0 {
			problems = append(problems, fmt.Errorf("%s: commitments are oversubscribed in %d hours, limits by up to %.0f vCPU", r.Name, r.OverHours, r.OverLimits))
		}
		if n := r.unbudgeted(); n > 0 {
			problems = append(problems, fmt.Errorf("%s: %d nodes went past their owners' budgets", r.Name, n))
		}
		if r.Writes >= rules.Writes {
			problems = append(problems, fmt.Errorf("%s: %d writes, and %s makes %d", r.Name, r.Writes, rules.Name, rules.Writes))
		}
		if r.Actual > r.Predicted {
			problems = append(problems, fmt.Errorf("%s: %d nodes drifted, and %d were predicted", r.Name, r.Actual, r.Predicted))
		}
	}
	return errors.Join(problems...)
}

func (r report) check() error {
	problems := []error{check(r.results)}
	if r.speed.median > mostTime {
		problems = append(problems, fmt.Errorf("a plan takes %s, of at most %s", r.speed.median, mostTime))
	}
	if r.speed.allocated > mostMemory {
		problems = append(problems, fmt.Errorf("a plan allocates %d bytes, of at most %d", r.speed.allocated, mostMemory))
	}
	return errors.Join(problems...)
}

// rows are the lines of the table: what is better is not said by the order.
func rows(results []*result) string {
	var b strings.Builder
	row := func(name string, figure func(r *result) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", figure(r))
		}
		b.WriteString("\n")
	}
	b.WriteString("| |")
	for _, r := range results {
		fmt.Fprintf(&b, " %s |", r.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(results)) + "\n")
	count := func(of func(r *result) int) func(r *result) string {
		return func(r *result) string { return fmt.Sprint(of(r)) }
	}
	usd := func(of func(r *result) float64) func(r *result) string {
		return func(r *result) string { return fmt.Sprintf("%.0f USD", of(r)) }
	}
	row("**cost**, all in", usd(func(r *result) float64 { return r.cost() }))
	row("· commitments, used or not", usd(func(r *result) float64 { return r.Committed }))
	row("· of that lost: not used in its hour", usd(func(r *result) float64 { return r.Lost }))
	row("· on demand beyond commitments", usd(func(r *result) float64 { return r.OnDemand }))
	row("· spot", usd(func(r *result) float64 { return r.Spot }))
	row("commitments used, of what others left", func(r *result) string { return fmt.Sprintf("%.1f %%", 100*r.utilisation()) })
	row("hours in which a commitment was oversubscribed", func(r *result) string { return fmt.Sprintf("%d (%.0f vCPU h)", r.OverHours, r.OverVCPUH) })
	row("limits above what there was, at most", func(r *result) string { return fmt.Sprintf("%.0f vCPU", max(0, r.OverLimits)) })
	row("**writes** to NodePools and NodeOverlays", count(func(r *result) int { return r.Writes }))
	row("drift predicted, nodes", count(func(r *result) int { return r.Predicted }))
	row("drift that came, nodes", count(func(r *result) int { return r.Actual }))
	row("**nodes taken past budgets**", count((*result).unbudgeted))
	row("nodes replaced within budgets", count(func(r *result) int { return r.Disrupted[sim.Underutilized] + r.Disrupted[sim.Drifted] }))
	row("pods evicted for it", count(func(r *result) int { return r.Evicted[sim.Underutilized] + r.Evicted[sim.Drifted] }))
	row("pods evicted past budgets", count(func(r *result) int { return r.Evicted[sim.Cascade] + r.Evicted[sim.Terminated] }))
	row("spot interruptions, nodes", count(func(r *result) int { return r.Disrupted[sim.Interrupted] }))
	row("· pods on them", count(func(r *result) int { return r.Evicted[sim.Interrupted] }))
	row("launches without capacity", count(func(r *result) int { return r.Failed }))
	row("pods waiting for a node", func(r *result) string { return fmt.Sprintf("%.0f h", r.Pending) })
	row("vCPU of nodes that pods asked for", func(r *result) string { return fmt.Sprintf("%.1f %%", 100*r.PodHours/max(r.VCPUHours, 1)) })
	row("spot: types, families, zones in use", func(r *result) string { return fmt.Sprintf("%.1f, %.1f, %.1f", r.Types, r.Families, r.Zones) })
	row("spot: share of the largest type and zone", func(r *result) string { return fmt.Sprintf("%.0f %%", 100*r.Largest) })
	return b.String()
}

// kinds are the writes of each policy.
func kinds(results []*result) string {
	var b strings.Builder
	for _, r := range results {
		if r.Writes == 0 {
			continue
		}
		var all []string
		for _, kind := range sorted(r.ByKind) {
			all = append(all, fmt.Sprintf("%s %d", kind, r.ByKind[kind]))
		}
		fmt.Fprintf(&b, "- %s: %s\n", r.Name, strings.Join(all, ", "))
	}
	return b.String()
}

// events says what a scenario has in store.
func (s *scenario) events() string {
	var b strings.Builder
	for _, w := range s.Waves {
		zone := "all zones"
		if w.Zone != "" {
			zone = w.Zone
		}
		fmt.Fprintf(&b, "- spot of %s in %s, from day %d on: %s (%s of every %s)\n", w.Family, zone, w.From+1, w.Why, hours(w.Low), hours(w.Period))
	}
	for _, c := range s.Collapses {
		fmt.Fprintf(&b, "- spot of the whole zone %s on day %d, for %s: next to nothing can be launched, and most is taken away\n", c.Zone, int(time.Duration(c.From).Hours())/24+1, hours(c.To-c.From))
	}
	for _, c := range s.Silences {
		fmt.Fprintf(&b, "- the platform does not answer on day %d, for %s\n", int(time.Duration(c.From).Hours())/24+1, hours(c.To-c.From))
	}
	for _, c := range s.Commitments {
		end := "outlasts the month"
		if days := time.Duration(c.EndsAfter).Hours() / 24; days < float64(s.Days) {
			end = fmt.Sprintf("ends after day %.0f", days)
		}
		fmt.Fprintf(&b, "- commitment %s (%s): %.0f vCPU of %s at %g USD an hour each; others use %.0f ± %.0f of it, %.1f more each day; it %s\n", c.ID, c.Kind, c.Total, c.Family, c.USDPerVCPU, c.Others.Base, c.Others.Swing, c.Others.PerDay, end)
	}
	return b.String()
}

func hours(d duration) string { return fmt.Sprintf("%.0f h", time.Duration(d).Hours()) }

// markdown is the page.
func (r report) markdown() string {
	var text strings.Builder
	rules, best := r.results[1], r.results[2]
	for _, part := range []string{
		"<!-- Generated by lab/bench/karpenops: make bench BENCH=-write -->\n\n# Karpenops over a month, simulated\n",
		fmt.Sprintf("Simulated are %d days of %d clusters that share %d commitments, the same market and load under each policy. Digest of the first %d days: `%s`.\n", r.days, len(r.scenario.Clusters), len(r.scenario.Commitments), digestDays, r.digest),
		fmt.Sprintf("karpenops in its default mode makes %d writes where the documented rules make %d, takes %d nodes past their owners' budgets (the rules: %d), oversubscribes commitments in %d hours (the rules: %d), and costs %s the rules and %s untouched Karpenter.\n",
			best.Writes, rules.Writes, best.unbudgeted(), rules.unbudgeted(), best.OverHours, rules.OverHours, than(best.cost(), rules.cost()), than(best.cost(), r.results[0].cost())),
		r.plotName() + "\n",
		"## Results\n\n" + rows(r.results),
		"Writes by kind:\n\n" + kinds(r.results),
		r.worse(),
		"## The policies\n\n" + thePolicies,
		"## The scenario\n\n" + r.scenario.events(),
		"## Claims\n\n" + claims(r.check()),
		fmt.Sprintf("## How long a plan takes\n\n%d offerings, %d NodePools, %d nodes, 40 shapes of pods, 20 commitments; %d plans in a row, each with other scores and the memory of the one before. `make bench` fails beyond %s or %d MiB.\nMeasured on %s (UTC) on %s. Load average before: %s.\n\n"+
			"| | median | slowest | processor time, mean | allocated by a plan, at most |\n|---|--:|--:|--:|--:|\n| plan.Make | %.1f ms | %.1f ms | %.1f ms | %.1f MiB |\n",
			largeOfferings, largePools, largeNodes, planRounds, mostTime, mostMemory>>20, r.when.Format("2006-01-02 15:04"), r.machine, r.load,
			milliseconds(r.speed.median), milliseconds(r.speed.worst), milliseconds(r.speed.computing), float64(r.speed.allocated)/(1<<20)),
		"## How it is simulated\n\n" + howItIsSimulated,
	} {
		text.WriteString(part + "\n")
	}
	return strings.TrimRight(text.String(), "\n") + "\n"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// than says how much less or more one is than another.
func than(a, b float64) string {
	if a <= b {
		return fmt.Sprintf("%.1f %% less than", 100*(1-a/b))
	}
	return fmt.Sprintf("**%.1f %% more than**", 100*(a/b-1))
}

// claims says what is held by the program, and what of it does not hold.
func claims(problem error) string {
	text := "`make bench` fails unless karpenops oversubscribes no commitment, neither by nodes nor by limits, takes no node past its owner's budgets, writes less than the rules, and no node drifts that was not predicted.\n"
	if problem == nil {
		return text + "All of it holds.\n"
	}
	return text + "**Missed:**\n\n- " + strings.ReplaceAll(problem.Error(), "\n", "\n- ") + "\n"
}

// worse says where ours is not the best.
func (r report) worse() string {
	var all []string
	compare := func(what string, of func(r *result) float64, format string) {
		for _, mine := range r.results[2:] {
			for _, other := range r.results[:2] {
				if of(mine) > of(other)*1.005+1e-9 {
					all = append(all, fmt.Sprintf("- %s: %s has "+format+", %s "+format, what, mine.Name, of(mine), other.Name, of(other)))
				}
			}
		}
	}
	compare("cost", (*result).cost, "%.0f USD")
	compare("money of commitments lost", func(r *result) float64 { return r.Lost }, "%.0f USD")
	compare("nodes replaced within budgets", func(r *result) float64 { return float64(r.Disrupted[sim.Underutilized] + r.Disrupted[sim.Drifted]) }, "%.0f")
	compare("spot interruptions", func(r *result) float64 { return float64(r.Disrupted[sim.Interrupted]) }, "%.0f")
	compare("largest share of a type and zone", func(r *result) float64 { return 100 * r.Largest }, "%.0f %%")
	compare("pods waiting", func(r *result) float64 { return r.Pending }, "%.0f h")
	compare("nodes' vCPU that no pod asked for", func(r *result) float64 { return 100 - 100*r.PodHours/max(r.VCPUHours, 1) }, "%.1f %%")
	if len(all) == 0 {
		return "Nowhere in this table is karpenops behind another policy.\n"
	}
	return "Where karpenops is behind another policy, by more than half a percent:\n\n" + strings.Join(all, "\n") + "\n"
}

func (r report) plotName() string {
	return "![Cost, commitments, drift and moves by day](karpenops-replay.svg)"
}

// plot shows the days.
func (r report) plot() string {
	all := policies()
	lines := func(of func(d day) float64, from int) []series {
		var lines []series
		for i := from; i < len(r.results); i++ {
			s := series{class: all[i].class, name: r.results[i].Name}
			for _, d := range r.results[i].Days {
				s.values = append(s.values, of(d))
			}
			lines = append(lines, s)
		}
		return lines
	}
	lease := series{class: "lease", name: "what others left"}
	for _, d := range r.results[0].Days {
		lease.values = append(lease.values, d.Lease)
	}
	return plot("Karpenops over a month, simulated", []panel{
		{title: "Cost a day, commitments included", unit: "$", lines: lines(func(d day) float64 { return d.Cost }, 0)},
		{title: "Commitments used, vCPU", lines: append(lines(func(d day) float64 { return d.Used }, 0), lease)},
		{title: "Nodes that drifted", lines: lines(func(d day) float64 { return float64(d.Drift) }, 0)},
		{title: "Nodes replaced for their price or taken past budgets", lines: lines(func(d day) float64 { return float64(d.Moved) }, 0)},
	})
}

const thePolicies = `- **Karpenter untouched**: the owners' NodePools and nothing else.
- **over-allocate, then clamp**: what nOps's [public documentation](https://help.nops.io/copilot-eks-optimizing-commitment-utilization.html) describes, as far as it does. Every hour, for each commitment with something to spare: a NodePool of
  its family in each cluster, a copy of the base, weight the highest plus five, limited to what is spare. Each cluster gets the whole of it, until together they use it up; then limits are cut to what each has, and what is too much is terminated.
  What the documentation leaves open is taken in its favour: it knows what others use at this moment, though bills come a day late, and shares once cut are kept. It does nothing about spot, since nothing is said of what it does. This is not nOps's product.
- **karpenops, siblings**: our planner in its default mode, one in each cluster, every ten minutes. What a cluster may use of a commitment is decided in one place, by fixed shares of what others left nine hours in ten a week ago to yesterday.
- **karpenops, overlays**: the same with NodeOverlays scoped to its own NodePools, for clusters with that feature gate.
`

const howItIsSimulated = `- **Karpenter** is a simulator of ours (` + "`lab/bench/karpenops/sim`" + `), written from v1.14.1. A test replays all recordings of the real one in it (` + "`testdata/live`" + `): every node comes and goes in the same
  order, of the same pool, capacity type and instance type, within 15 s and 5 s more for each move before it. It knows weight order, limits with their fallback just below them, one decision at a time, replacement before deletion,
  budgets with percentages, reasons and schedules, consolidation by deletion and by one cheaper node, spot never moved to spot, overlays scoped to a NodePool, drift by requirements and by hash, the cascade of a deleted NodePool. It has requirements of its own,
  apart from the planner's, so that drift predicted and drift that came are two opinions.
- **Steps** are of a minute. A node is ready a minute after its launch and gone a minute after its deletion; prices reach Karpenter every 12 hours; a launch without capacity is not tried again for three minutes.
- **Spot** has a hidden depth in each type and zone, of which the placement scores are noisy readings every ten minutes. Prices move little. An instance is taken away at a rate that follows depth, from 7 % a month to every other day; several of one type and zone go at a time.
  Launches weigh price by depth, which stands for EC2's price-capacity-optimized.
- **Money** is list price on demand, the spot price of the minute, and of each commitment what others leave of it, used or not, hour by hour. The prices are near us-east-1's and made up as far as spot goes.
- **Oversubscribed** is an hour in which nodes of NodePools that a policy made for a commitment were more than others left of it: what is beyond is paid at list price.
- **Past budgets** are nodes that a policy terminates itself or loses with a NodePool that it deletes. Interruptions are nobody's choice and count apart.

What it cannot show: a real market (waves and a collapse are drawn, not recorded); how EC2 picks among types, and so absolute diversity; topology constraints beyond spreading over zones if possible, taints, PodDisruptionBudgets, daemons beyond a fixed share, volumes, slow starts;
what evictions cost an application; the agent's write path (dry runs, undo, fights), which has tests of its own. Others' use of a commitment moves slowly here: nobody who learns of it a day late can foresee a jump, and then ours would oversubscribe, too, until the bill comes.
`
