package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
)

func testScenario(t *testing.T) *scenario {
	t.Helper()
	s, err := loadScenario("testdata/scenario.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReplay: what the page claims of a month holds for its first days; and the page in docs is what this code, this planner and this
// scenario come to.
func TestReplay(t *testing.T) {
	results, err := replays(t.Context(), testScenario(t), digestDays, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := check(results); err != nil {
		t.Error(err)
	}
	for _, r := range results[1:] {
		if r.Writes == 0 || r.UsedHours == 0 {
			t.Errorf("%s did nothing: %d writes, %.0f vCPU h of commitments used", r.Name, r.Writes, r.UsedHours)
		}
	}
	if r := results[0]; r.Writes != 0 || r.VCPUHours == 0 || r.cost() <= 0 || len(r.Days) != digestDays {
		t.Errorf("untouched: %+v", r)
	}
	got, err := digest(results)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOARCH != "amd64" {
		t.Skipf("the digest in docs is of amd64: on %s Go fuses multiplications and additions, and figures differ in their last bits", runtime.GOARCH)
	}
	page := readPage(t)
	if !strings.Contains(page, "`"+got+"`") {
		t.Errorf("docs/karpenops-replay.md does not have the digest %s of the first %d days: planner, simulator or scenario changed; measure again with make bench BENCH=-write", got, digestDays)
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../" + pageFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestPage: the page in docs has today's text, scenario and limits, and its plot is one.
func TestPage(t *testing.T) {
	page := readPage(t)
	s := testScenario(t)
	r := report{scenario: s}
	for _, want := range []string{thePolicies, howItIsSimulated, s.events(), "1000 offerings, 20 NodePools, 2000 nodes", "fails beyond 50ms or 64 MiB", "Simulated are 30 days of 3 clusters", r.plotName()} {
		if !strings.Contains(page, want) {
			t.Errorf("docs/karpenops-replay.md does not have %q: measure again with make bench BENCH=-write", want)
		}
	}
	plot, err := os.ReadFile("../../../" + plotFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range policies() {
		if !strings.Contains(string(plot), c.name) || !strings.Contains(page, "| "+c.name+" |") && !strings.Contains(page, " "+c.name+" |") {
			t.Errorf("%s is missing in the page or its plot", c.name)
		}
	}
}

// TestDeterminism: the same scenario gives the same bytes, and another seed others.
func TestDeterminism(t *testing.T) {
	s := testScenario(t)
	text := func(s *scenario) string {
		t.Helper()
		var all strings.Builder
		for _, c := range policies() {
			w, err := replayHours(t, s, c, 8)
			if err != nil {
				t.Fatal(err)
			}
			one, err := json.Marshal(w)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(one)
		}
		return all.String()
	}
	first := text(s)
	if text(s) != first {
		t.Error("two replays of the same scenario differ")
	}
	other := *s
	other.Seed++
	if text(&other) == first {
		t.Error("the seed does not matter")
	}
}

func replayHours(t *testing.T, s *scenario, c contender, hours int) (*result, error) {
	t.Helper()
	return replayFor(t.Context(), s, time.Duration(hours)*time.Hour, c, nil)
}

// TestCheck: every claim can fail.
func TestCheck(t *testing.T) {
	good := func() []*result {
		rules := &result{Name: "rules", Writes: 10}
		return []*result{{Name: "untouched"}, rules, {Name: "ours", Writes: 9, Disrupted: map[string]int{}}}
	}
	if err := check(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(r *result){
		"oversubscribed hour":  func(r *result) { r.OverHours = 1 },
		"oversubscribed limit": func(r *result) { r.OverLimits = 0.5 },
		"terminated":           func(r *result) { r.Disrupted[sim.Terminated] = 1 },
		"cascade":              func(r *result) { r.Disrupted[sim.Cascade] = 1 },
		"as many writes":       func(r *result) { r.Writes = 10 },
		"drift unforeseen":     func(r *result) { r.Actual = 1 },
	} {
		results := good()
		spoil(results[2])
		if check(results) == nil {
			t.Errorf("%s: not found", name)
		}
	}
	slow := report{results: good(), speed: speed{median: mostTime + 1}}
	large := report{results: good(), speed: speed{allocated: mostMemory + 1}}
	if slow.check() == nil || large.check() == nil {
		t.Error("a slow or large plan is not found")
	}
}

// TestRules: what the documented scheme does at each of its turns.
func TestRules(t *testing.T) {
	s := testScenario(t)
	r, err := replayHours(t, s, policies()[1], 12)
	if err != nil {
		t.Fatal(err)
	}
	if r.ByKind["create pool"] != len(s.Clusters)*len(s.Commitments) {
		t.Errorf("pools made: %v", r.ByKind)
	}
	spare := s.spare(&s.Commitments[0], s.Start)
	if r.OverLimits < spare {
		t.Errorf("limits are above what there is by %.0f: each of %d clusters has the %.0f vCPU", r.OverLimits, len(s.Clusters), spare)
	}
}

// TestSet: a change is made only where the value is what it was.
func TestSet(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change plan.Change
		want   map[string]any
	}{
		{"replaced", plan.Change{Path: "/spec/weight", Before: float64(3), After: 4}, map[string]any{"spec": map[string]any{"weight": 4}}},
		{"added", plan.Change{Path: "/metadata/annotations/a.b~1c", After: "d"}, map[string]any{"spec": map[string]any{"weight": 3}, "metadata": map[string]any{"annotations": map[string]any{"a.b/c": "d"}}}},
		{"removed", plan.Change{Path: "/spec/weight", Before: 3}, map[string]any{"spec": map[string]any{}}},
		{"another value", plan.Change{Path: "/spec/weight", Before: 2, After: 4}, nil},
		{"below a number", plan.Change{Path: "/spec/weight/x", After: 4}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			object := map[string]any{"spec": map[string]any{"weight": 3}}
			err := set(object, tt.change)
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("error %v", err)
			}
			if tt.want != nil && !reflect.DeepEqual(object, tt.want) {
				t.Errorf("%v, want %v", object, tt.want)
			}
		})
	}
}

// TestLarge: what is measured is what the page says.
func TestLarge(t *testing.T) {
	in := large(time.Date(2027, 1, 4, 12, 0, 0, 0, time.UTC))
	if len(in.Market.Offerings) != largeOfferings || len(in.Pools) != largePools || len(in.Nodes) != largeNodes || len(in.Shapes) != 40 || len(in.Commitments.Commitments) != 20 {
		t.Errorf("%d offerings, %d pools, %d nodes, %d shapes, %d commitments", len(in.Market.Offerings), len(in.Pools), len(in.Nodes), len(in.Shapes), len(in.Commitments.Commitments))
	}
	p := plan.Make(in)
	if p.Holding != "" || len(p.Actions) == 0 {
		t.Errorf("the planner has nothing to do: %d actions, holding: %s", len(p.Actions), p.Holding)
	}
}

// TestPlot: a plot is XML, with a line for each series.
func TestPlot(t *testing.T) {
	text := plot("t", []panel{{title: "p", lines: []series{{"a", "one", []float64{1, 2, 3}}, {"b", "two", []float64{0, 0, 0}}}}, {title: "q", lines: []series{{"a", "one", []float64{1e6}}}}})
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(text, "<title>"); n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error("a point is no number")
	}
}

// TestMarket: what is drawn is what the scenario says.
func TestMarket(t *testing.T) {
	s := testScenario(t)
	c := s.catalogue()
	m := newMarket(s, c)
	at := func(hours float64) time.Time { return s.Start.Add(time.Duration(hours * float64(time.Hour))) }
	find := func(name, zone, capacityType string) int32 {
		o, err := c.Find(name, zone, capacityType)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	flapping, collapsed := find("m6a.large", "us-east-1c", sim.Spot), find("m5.large", "us-east-1b", sim.Spot)
	for _, tt := range []struct {
		name     string
		offering int32
		hours    float64
		low      bool
	}{
		{"a wave is high first", flapping, 1, false},
		{"and then low", flapping, 3, true},
		{"every time", flapping, 403, true},
		{"before the collapse", collapsed, 263, false},
		{"in it", collapsed, 270, true},
		{"after it", collapsed, 277, false},
		{"another zone meanwhile", find("m5.large", "us-east-1c", sim.Spot), 270, false},
		{"on demand is always there", find("m5.large", "us-east-1b", sim.OnDemand), 270, false},
	} {
		if depth := m.Depth(tt.offering, at(tt.hours)); depth < 0.3 != tt.low {
			t.Errorf("%s: depth %.2f", tt.name, depth)
		}
	}
	low, high := 0, 0
	for _, o := range m.document(at(3), 1).Offerings {
		if o.CapacityType == sim.Spot && strings.HasPrefix(o.InstanceType, "m6a.") {
			low = max(low, o.PlacementScore)
		} else if o.CapacityType == sim.Spot {
			high = max(high, o.PlacementScore)
		}
		if o.Price <= 0 || o.Price > o.OnDemandPrice {
			t.Errorf("%s in %s: %g USD, on demand %g", o.InstanceType, o.ZoneID, o.Price, o.OnDemandPrice)
		}
	}
	if low == 0 || low > 5 || high < 8 {
		t.Errorf("scores: at most %d in the wave, %d elsewhere", low, high)
	}
	taken := func(hours float64) (n int) {
		for i := range 24 * 60 {
			for node := range 10 {
				if m.Reclaimed(collapsed, "x", node, at(hours).Add(time.Duration(i)*time.Minute), time.Minute) {
					n++
				}
			}
		}
		return n
	}
	if calm, collapse := taken(24), taken(264); collapse <= calm {
		t.Errorf("reclaimed: %d on a calm day, %d on that of the collapse", calm, collapse)
	}
	c0 := &s.Commitments[0]
	if s.spare(c0, at(503)) <= 0 || s.spare(c0, at(504)) != 0 {
		t.Errorf("a commitment that ends after 504 h: %.0f and %.0f vCPU", s.spare(c0, at(503)), s.spare(c0, at(504)))
	}
}
