package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aclements/go-moremath/stats"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nopsctl/nopsctl/lab/vpa"
)

// Goals, of ours. Those of a loop are for the largest cluster, and the smaller ones have to meet them as well.
const (
	mostLoop      = 2 * time.Second
	leastTimes    = 20.0 // less time for checkpoints than upstream
	mostWrites    = 5.0  // per cent of autoscalers, a minute: a loop of the default interval
	mostGrowth    = 1.10 // of the live heap, second half of the churn to the first
	mostRestart   = 10 * time.Second
	mostSlower    = 1.10 // p99 of an admission
	chance        = 0.01 // below that, what is slower is not so by chance
	boundsApart   = 0.001
	refreshMinute = 90 // minutes after which, in the mean, ours writes a checkpoint in which nothing moved
)

// A report is what a run found.
type report struct{ profiles []cells }

// both are the values of two rounds.
func both[T any](all []*cell, value func(*cell) T) []T {
	var some []T
	for _, c := range all {
		some = append(some, value(c))
	}
	return some
}

// middle is the median; of an even number, what lies between the two in the middle.
func middle(all []float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// A measure is a row: values of both programs, in a unit.
type measure struct {
	name  string
	value func(*cell) (v float64, more bool)
	show  func(float64) string
	// times compares upstream with ours.
	times bool
	// duel is of the admission controllers.
	duel bool
	// bursts are the latencies of which the value is the middle.
	bursts func(*cell) []time.Duration
}

// cells are those that have the measure, of one program.
func (m measure) cells(c cells, program string) []*cell {
	if !m.duel {
		return c.of(program)
	}
	if one := c.duelled(program); one != nil {
		return []*cell{one}
	}
	return nil
}

func seconds(v float64) string {
	switch {
	case v < 0.01:
		return fmt.Sprintf("%.2f ms", v*1000)
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1000)
	case v < 100:
		return fmt.Sprintf("%.2f s", v)
	}
	return fmt.Sprintf("%.0f s", v)
}

func ratio(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func mebibytes(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }
func plain(v float64) string     { return fmt.Sprintf("%.4g", v) }
func percent(v float64) string   { return fmt.Sprintf("%.2f %%", v) }

// writesPerMinute is what was written of autoscalers and checkpoints.
func (c *cell) writesPerMinute() float64 {
	return float64(c.Recommender.Writes[autoscalers]+c.Recommender.Writes[checkpoints]) / c.Recommender.Steady.Minutes()
}

func (c *cell) growth() float64 {
	h := c.Recommender.Heaps
	if len(h) < 2 {
		return math.NaN()
	}
	half := func(some []int64) float64 {
		var all []float64
		for _, n := range some {
			all = append(all, float64(n))
		}
		return middle(all)
	}
	return half(h[len(h)/2:]) / half(h[:len(h)/2])
}

func durations(all []time.Duration) float64 {
	var some []float64
	for _, d := range all {
		some = append(some, d.Seconds())
	}
	return middle(some)
}

// measures are the rows of a profile's table: of updaters, too, or not.
func measures(p profile, updaters bool) []measure {
	of := func(name string, value func(*cell) time.Duration, times bool) measure {
		return measure{name: name, show: seconds, times: times, value: func(c *cell) (float64, bool) { return value(c).Seconds(), false }}
	}
	limited := func(name string, value func(*cell) duration, times bool) measure {
		return measure{name: name, show: seconds, times: times, value: func(c *cell) (float64, bool) { d := value(c); return d.Took.Seconds(), d.More }}
	}
	number := func(name string, show func(float64) string, times bool, value func(*cell) float64) measure {
		return measure{name: name, show: show, times: times, value: func(c *cell) (float64, bool) { return value(c), false }}
	}
	all := []measure{
		limited("restart: until all is recommended", func(c *cell) duration { return c.Recommender.Recommended }, true),
		limited("restart: until the first loop ends", func(c *cell) duration { return c.Recommender.Restart }, true),
		limited("a steady loop", func(c *cell) duration { return c.Recommender.Loop }, true),
	}
	for _, step := range steps() {
		all = append(all, of("… of it "+step, func(c *cell) time.Duration { return c.Recommender.Steps[step] }, step == "MaintainCheckpoints" || step == "UpdateVPAs" || step == "LoadPods"))
	}
	all = append(all,
		of("processor time of a loop", func(c *cell) time.Duration { return c.Recommender.CPU }, true),
		number("statuses written in a loop", plain, false, func(c *cell) float64 { return perLoop(c, autoscalers) }),
		number("checkpoints written in a loop", plain, false, func(c *cell) float64 { return perLoop(c, checkpoints) }),
		number("both in a minute, of the autoscalers", percent, true, func(c *cell) float64 { return 100 * c.writesPerMinute() / float64(p.Autoscalers) }),
		number("resident memory", mebibytes, true, func(c *cell) float64 { return float64(c.Recommender.RSS) }),
		number("… at most", mebibytes, true, func(c *cell) float64 { return float64(c.Recommender.TopRSS) }),
		number("live heap", mebibytes, true, func(c *cell) float64 { return float64(c.Recommender.Heap) }),
		number("live heap, second half of the churn to the first", plain, false, (*cell).growth),
		number("resident memory after the churn", mebibytes, true, func(c *cell) float64 { return float64(c.Recommender.ChurnRSS) }),
	)
	if updaters {
		all = append(all,
			of("updater: processor time of a loop", func(c *cell) time.Duration { return c.Updater.CPU }, true),
			number("updater: resident memory at most", mebibytes, true, func(c *cell) float64 { return float64(c.Updater.RSS) }),
		)
	}
	latency := func(name string, bursts func(*cell) []time.Duration) measure {
		return measure{name: name, show: seconds, duel: true, bursts: bursts, value: func(c *cell) (float64, bool) { return durations(bursts(c)), false }}
	}
	admission := []measure{
		latency("webhook, p50", func(c *cell) []time.Duration { return c.Admission.Direct.P50 }),
		latency("webhook, p99", func(c *cell) []time.Duration { return c.Admission.Direct.P99 }),
		latency("pod through the API server, p50", func(c *cell) []time.Duration { return c.Admission.Through.P50 }),
		latency("pod through the API server, p99", func(c *cell) []time.Duration { return c.Admission.Through.P99 }),
		latency("the same without a webhook, p50", func(c *cell) []time.Duration { return c.Admission.Bare.P50 }),
		latency("the same without a webhook, p99", func(c *cell) []time.Duration { return c.Admission.Bare.P99 }),
		of("processor time of an admission", func(c *cell) time.Duration { return c.Admission.CPU }, true),
		number("admission: resident memory at most", mebibytes, true, func(c *cell) float64 { return float64(c.Admission.Top) }),
	}
	for _, m := range admission {
		m.duel = true
		all = append(all, m)
	}
	return all
}

// measures are those of what was measured.
func (c cells) measures() []measure {
	return measures(c.profile, c.updaters())
}

// updaters says whether they were measured.
func (c cells) updaters() bool {
	return slices.ContainsFunc(c.all, func(one *cell) bool { return one != nil && one.Updater.Loops > 0 })
}

func perLoop(c *cell, resource string) float64 {
	return float64(c.Recommender.Writes[resource]) / float64(max(1, c.Recommender.Loops))
}

// text is a measure of one program: the middle of its rounds, and each of them; of bursts, the middle and between what half of them are. What is
// not known is a dash.
func (m measure) text(all []*cell) (text string, mid float64, more bool) {
	var values []float64
	var each []string
	for _, c := range all {
		v, over := m.value(c)
		if math.IsNaN(v) || v == 0 && strings.Contains(m.name, "churn") {
			return "–", math.NaN(), false
		}
		more = more || over
		values, each = append(values, v), append(each, m.show(v))
	}
	mid = middle(values)
	text = m.show(mid)
	if more {
		text = "> " + text
	}
	switch {
	case m.bursts != nil && len(all) == 1:
		some := m.bursts(all[0])
		return text + " (" + m.show(quantile(some, 0.25).Seconds()) + "–" + m.show(quantile(some, 0.75).Seconds()) + ")", mid, more
	case len(each) == 1:
		return text, mid, more
	}
	return text + " (" + strings.Join(each, ", ") + ")", mid, more
}

func (m measure) row(c cells) string {
	mine, a, _ := m.text(m.cells(c, ours))
	theirs, b, more := m.text(m.cells(c, upstream))
	times := ""
	if m.times && a > 0 && !math.IsNaN(b) {
		times = ratio(b / a)
		if more {
			times = "> " + times
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", m.name, mine, theirs, times)
}

// A goal of ours, and how it went.
type goal struct {
	name, want, got string
	met             bool
	// above says that it is met although the value is above upstream's: by less than counts as missed. Chance is then how probable it is to find
	// as much where both are alike.
	above  bool
	chance float64
}

// goals holds a profile against them.
func (c cells) goals() []goal {
	mine, theirs := c.of(ours), c.of(upstream)
	get := func(all []*cell, value func(*cell) float64) float64 { return middle(both(all, value)) }
	at := func(name, want string, got string, met bool) goal {
		return goal{name: name, want: want, got: got, met: met}
	}
	loop := get(mine, func(c *cell) float64 { return c.Recommender.Loop.Took.Seconds() })
	theirKept := get(theirs, func(c *cell) float64 {
		if c.Recommender.Loop.More {
			return c.Recommender.Loop.Took.Seconds() - c.Recommender.Recommended.Took.Seconds() // of a loop that did not end, at least
		}
		return c.Recommender.Steps["MaintainCheckpoints"].Seconds()
	})
	stored := 0
	for i := range c.profile.Autoscalers {
		stored += len(containers(i))
	}
	refreshed := float64(stored) / refreshMinute
	// Those that are due by their age hardly fall into the loops that were counted. Upstream writes all that are stored in each loop; each of ours is
	// taken to last as long as one of those, in loops of the default interval, a minute.
	kept := get(mine, func(c *cell) float64 { return c.Recommender.Steps["MaintainCheckpoints"].Seconds() }) + theirKept/refreshMinute
	writes := get(mine, func(one *cell) float64 {
		return 100 * (one.writesPerMinute() + refreshed) / float64(c.profile.Autoscalers)
	})
	growth := get(mine, (*cell).growth)
	restart := get(mine, func(c *cell) float64 { return c.Recommender.Restart.Took.Seconds() })
	all := []goal{
		at("a steady loop, all of it", "< "+seconds(mostLoop.Seconds()), seconds(loop), loop < mostLoop.Seconds()),
		at("checkpoints take less time, with those due by their age, than upstream's", fmt.Sprintf("≥ %.0f times", leastTimes), ratio(theirKept/kept)+" times", theirKept/kept >= leastTimes),
		at("writes a minute, with the checkpoints that are due by their age", fmt.Sprintf("< %.0f %% of autoscalers", mostWrites), percent(writes), writes < mostWrites),
		at("live heap under churn", fmt.Sprintf("≤ %.2f times", mostGrowth), fmt.Sprintf("%.2f times", growth), growth <= mostGrowth),
		at("restart to the first loop's end", "< "+seconds(mostRestart.Seconds()), seconds(restart), restart < mostRestart.Seconds()),
	}
	for _, way := range []struct {
		name  string
		value func(*cell) []time.Duration
	}{
		{"webhook, p99", func(c *cell) []time.Duration { return c.Admission.Direct.P99 }},
		{"pod through the API server, p99", func(c *cell) []time.Duration { return c.Admission.Through.P99 }},
	} {
		got, limit := c.bursts(ours, way.value), c.bursts(upstream, way.value)
		slower, probable := worse(got, limit)
		g := at(way.name, "≤ upstream's "+seconds(middle(limit)), seconds(middle(got)), !slower)
		g.above, g.chance = g.met && middle(got) > middle(limit), probable
		all = append(all, g)
	}
	same := c.compare()
	return append(all, at("targets equal to upstream's", fmt.Sprintf("all %d", same.containers), fmt.Sprintf("%d", same.containers-same.targets), same.targets == 0 && same.containers == stored && same.bounds <= boundsApart))
}

// bursts are the values of all bursts of a program's admission controller, in seconds.
func (c cells) bursts(program string, value func(*cell) []time.Duration) (some []float64) {
	if one := c.duelled(program); one != nil {
		for _, d := range value(one) {
			some = append(some, d.Seconds())
		}
	}
	return some
}

// worse says whether latencies are larger than upstream's, and not by chance: the largest of a hundred or two differ from burst to burst several
// times over, of one and the same program. It also says how probable it is to find them as much larger where both programs are alike.
func worse(mine, theirs []float64) (is bool, byChance float64) {
	if len(mine) == 0 || len(theirs) == 0 {
		return true, 0
	}
	test, err := stats.MannWhitneyUTest(mine, theirs, stats.LocationGreater)
	if err != nil {
		return false, 1 // all are the same
	}
	return middle(mine) > middle(theirs)*mostSlower && test.P < chance, test.P
}

// A comparison is how two programs' recommendations differ.
type comparison struct {
	containers, targets int
	bounds              float64 // largest relative difference
}

// compare holds the recommendations of all rounds against those of the first.
func (c cells) compare() comparison {
	var all comparison
	var first *cell
	for _, one := range c.all {
		switch {
		case one == nil:
		case first == nil:
			first = one
			all.containers = len(one.Recommender.Targets)
		default:
			for name, was := range first.Recommender.Targets {
				if one.Recommender.Targets[name] != was {
					all.targets++
				}
				all.bounds = max(all.bounds, apart(first.Recommender.Bounds[name], one.Recommender.Bounds[name]))
			}
			all.targets += max(0, len(one.Recommender.Targets)-len(first.Recommender.Targets))
		}
	}
	return all
}

// apart is by how much two pairs of bounds differ at most, each two lists of resources in JSON.
func apart(a, b string) float64 {
	most := 0.0
	read := json.NewDecoder(strings.NewReader(a))
	other := json.NewDecoder(strings.NewReader(b))
	for range 2 {
		var x, y map[string]resource.Quantity
		if read.Decode(&x) != nil || other.Decode(&y) != nil || len(x) != len(y) {
			return math.Inf(1)
		}
		for name := range x {
			p, q := x[name], y[name]
			v, w := p.AsApproximateFloat64(), q.AsApproximateFloat64()
			if name == "cpu" && math.Abs(v-w) < 0.0015 { // they are told in thousandths of a core
				continue
			}
			most = max(most, math.Abs(v-w)/max(v, w, 1e-9))
		}
	}
	return most
}

// check holds the run against the goals.
func (r report) check() error {
	var problems []error
	for _, p := range r.profiles {
		for _, g := range p.goals() {
			if !g.met {
				problems = append(problems, fmt.Errorf("%s: %s: %s, the goal is %s", p.profile.Name, g.name, g.got, g.want))
			}
		}
	}
	return errors.Join(problems...)
}

// list prints what was measured of one program.
func (r report) list(out io.Writer) error {
	for _, c := range r.profiles {
		for _, m := range c.measures() {
			for _, program := range []string{ours, upstream} {
				if all := m.cells(c, program); len(all) > 0 {
					text, _, _ := m.text(all)
					fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", c.profile.Name, program, m.name, text)
				}
			}
		}
	}
	return nil
}

// markdown is the page.
func (r report) markdown() string {
	var text strings.Builder
	first := r.profiles[0].all[0]
	last := first
	for _, c := range r.profiles {
		for _, one := range slices.Concat(c.all, c.duel) {
			if one.When.After(last.When) {
				last = one
			}
			if one.When.Before(first.When) {
				first = one
			}
		}
	}
	fmt.Fprintf(&text, "<!-- Generated by lab/bench/vpa: make bench BENCH=-write -->\n\n# The nOps VPA beside the VPA of Kubernetes\n\nMeasured from %s to %s (UTC) on %s, with the VPA of Kubernetes %s.\n\n",
		first.When.Format("2006-01-02 15:04"), last.When.Add(last.Took).Format("15:04"), last.Machine, vpa.Version)
	if r.busy() {
		text.WriteString("**The machine had other work to do meanwhile: how long things took says little, their latencies nothing.**\n\n")
	}
	text.WriteString("## Goals\n\n| | goal |")
	for _, c := range r.profiles {
		fmt.Fprintf(&text, " %s |", c.profile.title())
	}
	text.WriteString("\n|---|--:|" + strings.Repeat("--:|", len(r.profiles)) + "\n")
	var goals [][]goal
	var missed, above []string
	for _, c := range r.profiles {
		goals = append(goals, c.goals())
	}
	for i, g := range goals[0] {
		want := g.want
		if strings.HasPrefix(want, "≤ upstream's") {
			want = "≤ upstream's"
		} else if strings.HasPrefix(want, "all ") {
			want = "all"
		}
		fmt.Fprintf(&text, "| %s | %s |", g.name, want)
		for j := range goals {
			got := goals[j][i]
			fmt.Fprintf(&text, " %s%s%s |", bold(!got.met), got.got, bold(!got.met))
			if !got.met {
				missed = append(missed, fmt.Sprintf("%s with %s: %s, and the goal is %s", got.name, r.profiles[j].profile.title(), got.got, got.want))
			}
			if got.above {
				above = append(above, fmt.Sprintf("%s with %s: %s, and the goal is %s (%.0f %%)", got.name, r.profiles[j].profile.title(), got.got, got.want, 100*got.chance))
			}
		}
		text.WriteString("\n")
	}
	switch {
	case len(missed) == 0 && len(above) == 0:
		text.WriteString("\nAll were met.\n")
	case len(missed) == 0:
		fmt.Fprintf(&text, "\nNone counts as missed. Above upstream's, by less than counts (how it is measured, at the end), and in brackets how probable that is where both programs are alike: %s.\n", strings.Join(above, "; "))
	default:
		fmt.Fprintf(&text, "\n**Missed**, and `make bench` fails: %s.\n", strings.Join(missed, "; "))
	}
	for _, c := range r.profiles {
		p := c.profile
		var loads []string
		for _, one := range c.all {
			loads = append(loads, one.Load)
		}
		loads = append(loads, c.duelled(ours).Load)
		fmt.Fprintf(&text, "\n## %s\n\n%d pods and %d containers in %d namespaces; an interval of %s. %d and %d steady loops of ours were counted, %d and %d of upstream's. Load average before each round, and before the admission: %s.\n\n",
			p.title(), p.pods(), c.all[0].Recommender.Metrics, p.Namespaces, p.Interval, c.of(ours)[0].Recommender.Loops, c.of(ours)[1].Recommender.Loops, c.of(upstream)[0].Recommender.Loops, c.of(upstream)[1].Recommender.Loops, strings.Join(loads, ", "))
		text.WriteString("| | nOps VPA | VPA of Kubernetes | times |\n|---|--:|--:|--:|\n")
		for _, m := range c.measures() {
			text.WriteString(m.row(c))
		}
		if why := c.of(upstream)[0].Recommender.NoChurn; why != "" {
			fmt.Fprintf(&text, "\nUpstream was not looked at with churn: %s.\n", why)
		}
		text.WriteString(c.conditioned())
		same := c.compare()
		fmt.Fprintf(&text, "\nOf %d containers, in three comparisons with the first round, %d targets differ; bounds differ by at most %.4f %%, for they follow from the age of the history, to the second.\n", same.containers, same.targets, 100*same.bounds)
	}
	text.WriteString("\n" + howItIsMeasured + without(r.profiles[0].updaters()))
	return text.String()
}

// conditioned says what a condition takes the API server that it looks at before it asks about a pod, what it spares it, and what share of new pods
// has to fail the condition for it to pay.
func (c cells) conditioned() string {
	a := c.duelled(ours).Admission.Asking
	// A collection of the API server's garbage takes it as much as hundreds of pods, and falls into one burst or another, in a large cluster into most.
	quiet := func(bursts []time.Duration) float64 {
		if len(bursts) == 0 {
			return 0
		}
		return quantile(bursts, 0.25).Seconds()
	}
	cost, spared := quiet(a.OwnedCondition)-quiet(a.Owned), quiet(a.Bare)-quiet(a.BareCondition)
	text := fmt.Sprintf("\nThe condition of [vpa.md](vpa.md#which-pods-the-webhook-is-asked-about) takes the API server %s more processor time for each pod that meets it, and %s less for each that does not. ", seconds(cost), seconds(spared))
	switch {
	case cost <= 0:
		text += "That it takes more could not be seen."
	case spared <= 0:
		text += "By that it never pays."
	default:
		text += fmt.Sprintf("By that it pays where more than %.0f %% of new pods do not meet it.", 100*cost/(cost+spared))
	}
	return text + "\n"
}

// idle is a load average that a round does not leave behind.
const idle = 6

// busy says whether there was other work.
func (r report) busy() bool {
	for _, c := range r.profiles {
		for _, one := range slices.Concat(c.all, c.duel) {
			if v, err := strconv.ParseFloat(one.Load, 64); err == nil && v > idle {
				return true
			}
		}
	}
	return false
}

func bold(is bool) string {
	if is {
		return "**"
	}
	return ""
}

func (p profile) title() string { return fmt.Sprintf("%d autoscalers", p.Autoscalers) }

const howItIsMeasured = `## How it is measured

` + "`make bench`" + ` prints this page, ` + "`make bench BENCH=-write`" + ` rewrites it. What was measured is kept in the user's cache directory: a run that was cut short goes on where it stopped, and measures anew what was measured with other
programs. Values are the middle of two rounds, with both in brackets; latencies are the middle of bursts, and in brackets is between what half of them lie.

- **The programs** are the two that ship: ours as its image has it, upstream's built from its module without a change. Each recommender runs alone, in the order ours, upstream's, upstream's, ours, on two processors (` + "`GOMAXPROCS=2`" + `; pinned to two where the
  machine has four or more, else API server, etcd and this benchmark share them). Both make at most 200 requests a second (bursts of 400): that is what ours is built with, and upstream's has flags for it. Both write with ten workers.
  Upstream may take ten minutes for its checkpoints (` + "`--checkpoints-timeout`" + `); by default it gives up after one, and the rest waits for another loop.
- **The cluster** is a real API server and etcd. A Deployment, a ReplicaSet and five running pods for each autoscaler, every second one with a sidecar. Nobody schedules or runs anything: the pods' statuses are written.
  The same autoscalers and checkpoints are made in each side's group before each round.
- **Usage** is served by a proxy before the API server, which counts requests as well. It follows from a seed and from how often was asked, so that both see the same. CPU scatters around a level of each container, memory hardly moves
  within an hour. Autoscalers begin with eight days of history of the same distributions, as checkpoints: with a history of minutes all moves all the time, which is no steady state.
- **Cold start**: first each program runs once with that history and without any status, until all statuses are written. These recommendations are compared.
- **Restart** is from the start of the process, with all statuses and checkpoints there. Upstream waits for one interval before its first loop.
- **Steady loops** come after it. Times of loops and steps are the programs' own (` + "`vpa_recommender_execution_latency_seconds`" + `), processor time and memory the kernel's, the live heap is half of ` + "`go_memstats_next_gc_bytes`" + `.
  The intervals are shorter than the default of one minute, so writes are told by the minute as well. Ours looks at each checkpoint every ten minutes or so, and after a restart anywhere in the first ten: these minutes are
  like any others. It also writes a checkpoint in which nothing moved once in one to two hours, which is not seen in the table; the goals' figures have it: the writes as they are, and of the time that checkpoints take, for each of these as long as upstream takes for one, in loops of the default interval.
- **Churn**: every two loops a fiftieth of all pods is replaced, and as many pods of Jobs with labels of their own come, and go with the next step.
- **Admission**: both admission controllers run at the same time and are asked by turns, there and back: minutes apart, one and the same program is seen twice as slow. Each has as many autoscalers, for workloads and in namespaces of its
  own (ours yields where upstream sizes), and the API server tells each of these alone; both know all workloads. 200 reviews a second over HTTPS, 24 times 500 for each, and 50 pods a second made through the API server with a dry run,
  32 times 200 for each (16 times another 200 that no webhook is told of, as often before ours as before upstream's: one row, the same for both). Our webhook is configured as the chart does it, upstream's as it does it itself. Then
  the processor time of the API server is looked at, 8 times 600 pods each, 100 a second: with an owner and without, and both where it looks at a condition (` + "`matchConditions`" + `) before it asks ours; of the 8, a quarter took that or less, which leaves out those in which it collected its garbage. Times are from the moment at which a request was due. Every answer has to size the pod, and each has to have counted as many
  admissions as were meant for it. The slowest hundredth of a burst differs from burst to burst several times over, of one and the same program, so the goal counts as missed where the middle of all bursts is more than a tenth above
  upstream's, and a rank test (Mann–Whitney, one-sided) of all bursts of both gives chance less than 1 %.
`

// without is the end of it: what was not measured.
func without(updaters bool) string {
	text, nor := "", "are the updater and the policy controller"
	if updaters {
		text, nor = `- **The updater** comes after the recommender, in the same round and alone. Each autoscaler recommends what its pods have, in the mode `+"`InPlaceOrRecreate`"+`, so that it finds nothing to do: loops are counted from the first in which it looked
  at all pods, by its own word. How fast it changes pods is not measured: of both that is what their clients' limits let through.
`, "is the policy controller"
	}
	return text + "- What a large cluster has besides is not here: no nodes that report, no garbage collector, no other controllers, one API server that has nothing else to do. Nor " + nor + ".\n"
}
