// Package analyser works out what containers should request from weeks of their usage in a metrics store.
//
// It reads namespace by namespace and day by day, a batch of pods at a time, and keeps a histogram of each container of one namespace:
// memory does not grow with the length of history, nor with the size of an answer. CPU is the rate over Window, minute by minute, of every
// pod of the workload; memory is the highest working set of each pod in each day. What becomes of them a level says (package level).
//
// Which pods belonged to a workload kube-state-metrics' owner series say, of each day; pods that it does not know go by their names.
package analyser

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/internal/rightsizing/level"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const (
	cpuMetric    = "container_cpu_usage_seconds_total"
	memoryMetric = "container_memory_working_set_bytes"
)

// What holds unless Settings say otherwise.
const (
	DefaultHistory = 30 * 24 * time.Hour
	DefaultMin     = 24 * time.Hour
	DefaultWindow  = 2 * time.Minute // twice the interval of scrapes that the stack may be set to
)

const (
	chunk    = 24 * time.Hour // memory's samples are peaks of it
	shortest = time.Hour      // a store that finds a question too large gets halves of it, down to this
	step     = time.Minute
	batch    = 200 // pods of one question
	askAgain = 3   // times in a row
	// fewest is how many minutes of CPU a container needs, whatever the time between the first and the last.
	fewest = 60

	smallestCPU    = 0.001   // cores
	smallestMemory = 1 << 20 // bytes
)

// Settings are what a person may choose.
type Settings struct {
	History time.Duration `json:"history,omitempty"` // how far to look back; 30 days unless set
	Min     time.Duration `json:"min,omitempty"`     // of usage, for a recommendation; a day unless set
	Window  time.Duration `json:"window,omitempty"`  // of CPU's rate; 2 minutes unless set
}

// WithDefaults are the settings that hold.
func (s Settings) WithDefaults() Settings {
	return Settings{cmp.Or(s.History, DefaultHistory), cmp.Or(s.Min, DefaultMin), cmp.Or(s.Window, DefaultWindow)}
}

// Validate says what is wrong with settings.
func (s Settings) Validate() error {
	s = s.WithDefaults()
	switch {
	case s.History < step || s.History > 400*24*time.Hour:
		return fmt.Errorf("history %s: expected one minute to 400 days", s.History)
	case s.Min < 0 || s.Min > s.History:
		return fmt.Errorf("min %s: expected at most the history, %s", s.Min, s.History)
	case s.Window < step || s.Window > time.Hour:
		return fmt.Errorf("window %s: expected one minute to one hour", s.Window)
	}
	return nil
}

// Options say what to analyse.
type Options struct {
	Settings
	Cluster   string // ARN: the label cluster of its series
	Workloads []nopsapi.RightsizedWorkload
	Now       time.Time
	// Sleep is between attempts of one question; nil waits.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Result is what came out.
type Result struct {
	Workloads []nopsapi.WorkloadRecommendation
	Skipped   []Skipped
	Samples   int64 // of CPU and memory that were read
	Chunks    int   // of namespaces, with pods in them
	ByName    int   // pods, in each chunk, that nothing but their name assigned
}

// Skipped is what nothing is recommended for, and why.
type Skipped struct {
	Workload  nopsapi.WorkloadRef `json:"workload"`
	Container string              `json:"container,omitempty"` // "": the whole workload
	Why       string              `json:"why"`
}

// String is a line for people.
func (s Skipped) String() string {
	if s.Container == "" {
		return line(s.Workload) + ": " + s.Why
	}
	return line(s.Workload) + ", container " + s.Container + ": " + s.Why
}

// container is what is known of one of a workload.
type container struct {
	cpu, memory histogram
	first, last int64 // of CPU's minutes, Unix milliseconds
}

// workload is one that is analysed.
type workload struct {
	ref        nopsapi.WorkloadRef
	level      string
	estimation level.Estimation
	containers map[string]*container
	wanted     []string // empty: all
}

// namespace is one that is analysed.
type namespace struct {
	name      string
	o         Options
	store     Store
	workloads []*workload
	by        map[object]*workload
	result    *Result
}

// Run analyses. It fails where the store does: a recommendation from half the usage would be half as much.
func Run(ctx context.Context, store Store, o Options) (Result, error) {
	o.Settings = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return Result{}, err
	}
	if o.Sleep == nil {
		o.Sleep = func(ctx context.Context, d time.Duration) error {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-t.C:
				return nil
			}
		}
	}
	o.Now = o.Now.UTC().Truncate(step)
	var result Result
	spaces := map[string][]nopsapi.RightsizedWorkload{}
	for _, w := range o.Workloads {
		spaces[w.Namespace] = append(spaces[w.Namespace], w)
	}
	for _, name := range slices.Sorted(maps.Keys(spaces)) {
		n := &namespace{name: name, o: o, store: store, by: map[object]*workload{}, result: &result}
		for _, w := range spaces[name] {
			n.want(w)
		}
		if err := n.analyse(ctx); err != nil {
			return Result{}, fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return result, nil
}

// want takes a workload in.
func (n *namespace) want(w nopsapi.RightsizedWorkload) {
	e, is := level.Level(w.Level).Estimation()
	skip := func(why string) {
		n.result.Skipped = append(n.result.Skipped, Skipped{Workload: w.WorkloadRef, Why: why})
	}
	switch of := (object{w.Kind, w.Name}); {
	case !is && w.Level != "":
		skip(fmt.Sprintf("level %q is not known", w.Level))
	case n.by[of] != nil: // of another API version: owners do not tell them apart
		skip("another workload has its kind and its name")
	default:
		one := &workload{ref: w.WorkloadRef, level: w.Level, estimation: e, containers: map[string]*container{}, wanted: w.Containers}
		n.workloads, n.by[of] = append(n.workloads, one), one
	}
}

func (n *namespace) analyse(ctx context.Context) error {
	if len(n.workloads) == 0 {
		return nil
	}
	oldest := n.o.Now.Add(-n.o.History)
	for end := n.o.Now; end.After(oldest); end = end.Add(-chunk) {
		start := end.Add(-chunk)
		if start.Before(oldest) {
			start = oldest
		}
		if err := n.chunk(ctx, start, end); err != nil {
			return fmt.Errorf("from %s on: %w", start.Format(time.RFC3339), err)
		}
	}
	for _, w := range n.workloads {
		n.conclude(w)
	}
	return nil
}

// chunk reads a day.
func (n *namespace) chunk(ctx context.Context, start, end time.Time) error {
	pods, err := n.pods(ctx, start, end)
	if err != nil || len(pods) == 0 {
		return err
	}
	n.result.Chunks++
	for names := range slices.Chunk(slices.Sorted(maps.Keys(pods)), batch) {
		if err := n.cpu(ctx, names, pods, start, end); err != nil {
			return fmt.Errorf("rates of CPU: %w", err)
		}
		query := fmt.Sprintf("max by (pod,container) (max_over_time(%s%s[%s]))", memoryMetric, n.containers(either(names)), seconds(end.Sub(start)))
		err := n.ask(ctx, query, end, func(s Series) error {
			if c := containerOf(pods, s.Labels); c != nil && len(s.Points) > 0 {
				c.memory.add(s.Points[0].Value)
				n.result.Samples++
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("peaks of memory: %w", err)
		}
	}
	return nil
}

// cpu reads the minutes of a span, in halves where the store finds it too large.
func (n *namespace) cpu(ctx context.Context, names []string, pods map[string]*workload, start, end time.Time) error {
	query := fmt.Sprintf("max by (pod,container) (rate(%s%s[%s]))", cpuMetric, n.containers(either(names)), seconds(n.o.Window))
	// What was taken of an answer that then broke off would be counted twice: points are taken when all are there.
	type taken struct {
		c      *container
		points Points
	}
	var all []taken
	err := n.repeat(ctx, func() error {
		all = all[:0]
		// Minutes are at the ends of what they speak of; the first begins the span.
		return n.store.Range(ctx, query, start.Add(step), end, step, func(s Series) error {
			if c := containerOf(pods, s.Labels); c != nil {
				all = append(all, taken{c, slices.Clone(s.Points)})
			}
			return nil
		})
	})
	if tooLarge(err) && end.Sub(start) > shortest {
		middle := start.Add(end.Sub(start) / 2).Truncate(step)
		return errors.Join(n.cpu(ctx, names, pods, start, middle), n.cpu(ctx, names, pods, middle, end))
	}
	if err != nil {
		return err
	}
	for _, one := range all {
		for _, p := range one.points {
			one.c.cpu.add(p.Value)
			one.c.last = max(one.c.last, p.At)
			if one.c.first == 0 || p.At < one.c.first {
				one.c.first = p.At
			}
		}
		n.result.Samples += int64(len(one.points))
	}
	return nil
}

// containerOf is what is known of a series' container; nil of one that is not wanted.
func containerOf(pods map[string]*workload, l Labels) *container {
	w := pods[l.Pod]
	if w == nil || l.Container == "" || len(w.wanted) > 0 && !slices.Contains(w.wanted, l.Container) {
		return nil
	}
	c := w.containers[l.Container]
	if c == nil && len(w.containers) < nopsapi.MaxContainers {
		c = &container{cpu: histogram{first: smallestCPU}, memory: histogram{first: smallestMemory}}
		w.containers[l.Container] = c
	}
	return c
}

// conclude makes the recommendation of a workload, and forgets its usage.
func (n *namespace) conclude(w *workload) {
	names := w.wanted
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(w.containers))
	}
	all := nopsapi.WorkloadRecommendation{WorkloadRef: w.ref, Level: w.level}
	for _, name := range names {
		if c, why := w.containers[name].recommend(w.estimation, n.o.Settings); why == "" {
			c.Name = name
			all.Containers = append(all.Containers, c)
		} else {
			n.result.Skipped = append(n.result.Skipped, Skipped{w.ref, name, why})
		}
	}
	if len(names) == 0 {
		n.result.Skipped = append(n.result.Skipped, Skipped{w.ref, "", nothing(n.o.Settings)})
	}
	if len(all.Containers) > 0 {
		n.result.Workloads = append(n.result.Workloads, all)
	}
	w.containers = nil
}

func nothing(s Settings) string { return "the store has no usage of the last " + words(s.History) }

// recommend is a container's recommendation, or why there is none.
func (c *container) recommend(e level.Estimation, s Settings) (r nopsapi.ContainerRecommendation, why string) {
	if c == nil || c.cpu.total == 0 || c.memory.total == 0 {
		return r, nothing(s)
	}
	span := time.Duration(c.last-c.first)*time.Millisecond + step // each speaks of the minute before it
	needed := min(fewest, int64(s.Min/step))
	switch {
	case span < s.Min:
		return r, fmt.Sprintf("its usage is known for %s, and %s are needed", words(span), words(s.Min))
	case c.cpu.total < needed:
		return r, fmt.Sprintf("its usage is known of %d minutes, and %d are needed", c.cpu.total, needed)
	}
	r.CPU = recommended(&c.cpu, e.CPU, e.Margin, func(v float64) float64 { return math.Ceil(v*1000-1e-6) / 1000 })
	r.Memory = recommended(&c.memory, e.Memory, e.Margin, func(v float64) float64 { return math.Ceil(v - 1e-6) })
	r.Days, r.Samples = math.Round(span.Hours()/24*1000)/1000, c.cpu.total
	if r.CPU.Upper > nopsapi.MaxCores || r.Memory.Upper > nopsapi.MaxMemory {
		return r, fmt.Sprintf("%g cores or %g bytes cannot be meant", r.CPU.Upper, r.Memory.Upper)
	}
	return r, ""
}

// recommended are percentiles with the margin.
func recommended(h *histogram, p level.Percentiles, margin float64, round func(float64) float64) nopsapi.Recommended {
	at := func(p float64) float64 { return round(h.percentile(p) * (1 + margin)) }
	return nopsapi.Recommended{Target: at(p.Target), Lower: at(p.Lower), Upper: at(p.Upper)}
}

// words is a span as people say it.
func words(d time.Duration) string {
	if d >= 48*time.Hour {
		return strconv.FormatFloat(math.Round(d.Hours()/24*10)/10, 'f', -1, 64) + " days"
	}
	return d.Round(time.Second).String()
}

// containers selects the series of this namespace's containers: sums of cgroups have no container, pauses none or POD.
func (n *namespace) containers(pods string) string {
	more := []string{`container!=""`, `container!="POD"`}
	if pods == "" {
		return n.matchers(append(more, `pod!=""`)...)
	}
	return n.matchers(append(more, "pod=~"+strconv.Quote(pods))...)
}

func (n *namespace) matchers(more ...string) string {
	return "{" + strings.Join(append(more, "cluster="+strconv.Quote(n.o.Cluster), "namespace="+strconv.Quote(n.name)), ",") + "}"
}

// either matches one of some names.
func either(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return strings.Join(quoted, "|")
}

// ask asks about a moment until there is an answer, and hands it on when it is whole.
func (n *namespace) ask(ctx context.Context, query string, at time.Time, take func(Series) error) error {
	var all []Series
	err := n.repeat(ctx, func() error {
		all = all[:0]
		return n.store.Instant(ctx, query, at, func(s Series) error {
			s.Points = slices.Clone(s.Points)
			all = append(all, s)
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := take(s); err != nil {
			return err
		}
	}
	return nil
}

// repeat asks until there is an answer, or a refusal that will be given again.
func (n *namespace) repeat(ctx context.Context, ask func() error) error {
	for attempt := 1; ; attempt++ {
		err := ask()
		var refused *StoreError
		if err == nil || !errors.As(err, &refused) || !refused.Temporary() || attempt == askAgain || ctx.Err() != nil {
			return err
		}
		if n.o.Sleep(ctx, time.Duration(attempt)*2*time.Second) != nil {
			return err
		}
	}
}
