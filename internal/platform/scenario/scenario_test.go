package scenario_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func named(t *testing.T, name string) *scenario.Player {
	t.Helper()
	s, err := scenario.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	return s.Player(start)
}

// walk asks for both documents every few minutes.
func walk(p *scenario.Player, length, every time.Duration, f func(kind scenario.Kind, at time.Duration, a scenario.Answer)) {
	for at := time.Duration(0); at < length; at += every {
		for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
			f(kind, at, p.At(kind, start.Add(at)))
		}
	}
}

// decode reads what HTTP would carry and says what is wrong with it at that time.
func decode(kind scenario.Kind, body []byte, now time.Time) (nopsapi.FactHeader, error) {
	var m nopsapi.Market
	var c nopsapi.Commitments
	check := func(into any, validate func() error, h *nopsapi.FactHeader) error {
		if err := nopsapi.Decode(body, into); err != nil {
			return err
		}
		if err := validate(); err != nil {
			return err
		}
		return h.CheckAt(now)
	}
	if kind == scenario.Market {
		err := check(&m, func() error { return m.Validate() }, &m.FactHeader)
		return m.FactHeader, err
	}
	err := check(&c, func() error { return c.Validate() }, &c.FactHeader)
	return c.FactHeader, err
}

// TestEveryExample walks through each for a month: what is not a fault is a document that is right, and numbers rise.
func TestEveryExample(t *testing.T) {
	names := scenario.Names()
	if len(names) < 8 {
		t.Fatalf("only %d examples: %v", len(names), names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			p := named(t, name)
			if s := p.Scenario(); s.Name != name || s.About == "" {
				t.Errorf("it calls itself %q, and says of itself %q", s.Name, s.About)
			}
			last := map[scenario.Kind]uint64{}
			right := 0
			walk(p, 30*24*time.Hour, 155*time.Minute, func(kind scenario.Kind, at time.Duration, a scenario.Answer) {
				if a.Fault != "" && a.Fault != scenario.FaultSlow {
					return
				}
				h, err := decode(kind, a.Body(), start.Add(at))
				if err != nil || a.Status != http.StatusOK {
					t.Fatalf("%s at %s: %d, %v", kind, at, a.Status, err)
				}
				if h.Seq <= last[kind] {
					t.Fatalf("%s at %s: number %d after %d", kind, at, h.Seq, last[kind])
				}
				last[kind] = h.Seq
				right++
			})
			if right < 500 {
				t.Errorf("only %d documents", right)
			}
		})
	}
}

// TestTheDocumentedExample: what the page shows is what the package reads, and it shows every fault's name.
func TestTheDocumentedExample(t *testing.T) {
	page, err := os.ReadFile("../../../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```yaml\n")
	text, _, closed := strings.Cut(text, "```")
	if !found || !closed {
		t.Fatal("no example in docs/contract.md")
	}
	s, err := scenario.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Steps) < 8 || len(s.Player(start).At(scenario.Market, start).Market.InstanceTypes) != 3 {
		t.Errorf("%+v", s)
	}
	for _, f := range scenario.Faults() {
		if !strings.Contains(string(page), "`"+string(f)+"`") {
			t.Errorf("the page does not name the fault %s", f)
		}
	}
}

// TestTheSameAgain: what is answered depends on the moment alone, not on what was asked before.
func TestTheSameAgain(t *testing.T) {
	forth, back := named(t, "month"), named(t, "month")
	moments := []time.Duration{0, time.Minute, 4*24*time.Hour + 7*time.Minute, 12 * 24 * time.Hour, 23 * 24 * time.Hour}
	want := map[string][]byte{}
	for _, at := range moments {
		for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
			want[fmt.Sprint(kind, at)] = forth.At(kind, start.Add(at)).Body()
		}
	}
	slices.Reverse(moments)
	for _, at := range moments {
		for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
			if got := back.At(kind, start.Add(at)).Body(); !bytes.Equal(got, want[fmt.Sprint(kind, at)]) {
				t.Errorf("%s at %s is another document when it is asked for later", kind, at)
			}
		}
	}
	if bytes.Equal(want["market0s"], want[fmt.Sprint("market", 4*24*time.Hour+7*time.Minute)]) {
		t.Error("the market never changes: the test sees nothing")
	}
	if !bytes.Equal(want["market0s"], want["market1m0s"]) {
		t.Error("within five minutes it is another document")
	}
}

// scores are the placement scores of a family in a zone at a moment; 0 where it is not listed.
func scores(t *testing.T, p *scenario.Player, at time.Duration, family, zone string) []int {
	t.Helper()
	a := p.At(scenario.Market, start.Add(at))
	if a.Market == nil {
		t.Fatalf("no market at %s: %+v", at, a)
	}
	var all []int
	for _, o := range a.Market.Offerings {
		if strings.HasPrefix(o.InstanceType, family+".") && o.ZoneID == zone && o.CapacityType == nopsapi.CapacitySpot {
			all = append(all, o.PlacementScore)
		}
	}
	return all
}

func TestPrices(t *testing.T) {
	const day = 24 * time.Hour
	t.Run("a zone collapses and recovers", func(t *testing.T) {
		p := named(t, "az-collapse")
		for _, tt := range []struct {
			at           time.Duration
			family, zone string
			want         []int
		}{
			{2*day - time.Minute, "c7i", "use1-az1", []int{7, 7, 7, 7}},
			{2 * day, "c7i", "use1-az1", []int{1, 1, 1, 1}},
			{2 * day, "c7i", "use1-az2", []int{7, 7, 7, 7}},
			{2*day + 2*time.Hour, "m7i", "use1-az1", nil},
			{2*day + 6*time.Hour, "m7i", "use1-az1", []int{8, 8, 8, 8}},
		} {
			if got := scores(t, p, tt.at, tt.family, tt.zone); !slices.Equal(got, tt.want) {
				t.Errorf("%s: %s in %s has %v, want %v", tt.at, tt.family, tt.zone, got, tt.want)
			}
		}
		price := func(at time.Duration) float64 {
			for _, o := range p.At(scenario.Market, start.Add(at)).Market.Offerings {
				if o.InstanceType == "c7i.large" && o.ZoneID == "use1-az1" && o.CapacityType == nopsapi.CapacitySpot {
					return o.Price
				}
			}
			return 0
		}
		calm, half, full := price(0), price(2*day+30*time.Minute), price(2*day+time.Hour)
		if calm != 0.0354 || math.Abs(half-1.5*calm) > 1e-9 || math.Abs(full-2*calm) > 1e-9 {
			t.Errorf("prices %v, %v, %v: expected half and then the whole of twice as much", calm, half, full)
		}
	})
	t.Run("a square wave", func(t *testing.T) {
		p := named(t, "square-wave")
		var got []int
		for i := range 6 {
			got = append(got, scores(t, p, time.Hour+time.Duration(i)*30*time.Minute, "c7i", "use1-az2")[0])
		}
		if !slices.Equal(got, []int{1, 9, 1, 9, 1, 9}) {
			t.Errorf("scores %v", got)
		}
	})
	t.Run("noise", func(t *testing.T) {
		p := named(t, "noise")
		low, high := 10, 0
		for at := time.Duration(0); at < 5*day; at += time.Hour {
			for _, s := range scores(t, p, at, "m7i", "use1-az1") {
				low, high = min(low, s), max(high, s)
			}
		}
		if low < 6 || low > 7 || high > 10 || high < 9 {
			t.Errorf("a score of 8 with a noise of 2 goes from %d to %d", low, high)
		}
		s := p.Scenario()
		s.Noise.Seed++
		if cmp.Equal(s.Player(start).At(scenario.Market, start).Market.Offerings, p.At(scenario.Market, start).Market.Offerings) {
			t.Error("another seed is the same noise")
		}
	})
}

// small is a scenario of one instance type in one zone.
func small(t *testing.T, more string) *scenario.Player {
	t.Helper()
	s, err := scenario.Decode([]byte("name: small\nzones: [{id: z}]\ntypes: [{name: a, vcpu: 1, memory_mib: 1024, on_demand: 1, spot: 0.3, score: 5}]\n" + more))
	if err != nil {
		t.Fatal(err)
	}
	return s.Player(start)
}

func TestSpotIsNeverDearerThanOnDemand(t *testing.T) {
	p := small(t, "noise: {price: 0.5}\nsteps: [{at: 0s, price_factor: 50}]")
	for i := range 50 {
		if o := p.At(scenario.Market, start.Add(time.Duration(i)*time.Hour)).Market.Offerings[0]; o.Price != 1 || o.OnDemandPrice != 1 {
			t.Fatalf("after %d h: %+v", i, o)
		}
	}
}

// TestNoiseFromDocumentToDocument: within a period prices are not all the same, and not far from each other either.
func TestNoiseFromDocumentToDocument(t *testing.T) {
	p := small(t, "noise: {price: 0.2, period: 3000d}")
	prices := map[float64]bool{}
	low, high := 1.0, 0.0
	for i := range 40 {
		price := p.At(scenario.Market, start.Add(time.Duration(i)*5*time.Minute)).Market.Offerings[0].Price
		prices[price], low, high = true, min(low, price), max(high, price)
	}
	if len(prices) < 10 || high-low > 0.3*0.2*0.5+0.001 {
		t.Errorf("%d prices from %v to %v", len(prices), low, high)
	}
}

// TestAFaultLeavesNothingBehind: a document is the same before and after it was played with other times.
func TestAFaultLeavesNothingBehind(t *testing.T) {
	p := small(t, "commitments: [{id: sp, kind: ComputeSP, unit: vcpu, total: 4, vcpu: 3}]\nsteps: [{at: 1m, for: 1m, fault: stale}, {at: 2m, for: 1m, fault: schema}]")
	for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
		before := p.At(kind, start).Body()
		for _, at := range []time.Duration{time.Minute, 2 * time.Minute} {
			if bytes.Equal(p.At(kind, start.Add(at)).Body(), before) {
				t.Errorf("%s at %s: no fault", kind, at)
			}
		}
		if after := p.At(kind, start.Add(3*time.Minute)).Body(); !bytes.Equal(after, before) {
			t.Errorf("%s is another after the faults:\n%s\n%s", kind, before, after)
		}
	}
}

func TestCommitmentsOverTime(t *testing.T) {
	const day = 24 * time.Hour
	one := func(t *testing.T, p *scenario.Player, at time.Duration, id string) *nopsapi.Commitment {
		t.Helper()
		for _, c := range p.At(scenario.Commitments, start.Add(at)).Commitments.Commitments {
			if c.ID == id {
				return &c
			}
		}
		return nil
	}
	t.Run("the share changes", func(t *testing.T) {
		p := named(t, "allocation-changes")
		for _, tt := range []struct {
			at   time.Duration
			want float64 // -1: none
		}{{0, 48}, {day, 72}, {2 * day, 24}, {3 * day, -1}, {3*day + 6*time.Hour, 24}} {
			c, got := one(t, p, tt.at, "sp-m7i"), -1.0
			if c.Allocation != nil {
				got = c.Allocation.VCPU
			}
			if got != tt.want {
				t.Errorf("%s: share %v, want %v", tt.at, got, tt.want)
			}
		}
		began := start.Add(4*day + 2*time.Hour)
		if c := one(t, p, 4*day+5*time.Hour, "sp-m7i"); !c.Allocation.LeaseUntil.Equal(began) {
			t.Errorf("the lease is renewed: until %s", c.Allocation.LeaseUntil)
		}
		if c := one(t, p, 4*day+12*time.Hour, "sp-m7i"); !c.Allocation.LeaseUntil.Equal(start.Add(4*day + 14*time.Hour)) {
			t.Errorf("the lease is not renewed again: until %s", c.Allocation.LeaseUntil)
		}
		if c := one(t, p, 5*day, "ri-c7i"); c.OtherUse.P90 != 60 || c.OtherUse.Last != 60 {
			t.Errorf("others use %+v", c.OtherUse)
		}
		if c := one(t, p, 6*day, "ri-c7i"); c.Total != 16 || c.Allocation.VCPU != 16 {
			t.Errorf("a share beyond the total: %+v of %v", c.Allocation, c.Total)
		}
		if c := one(t, p, 7*day, "ri-c7i"); c != nil {
			t.Errorf("it is gone, and listed: %+v", c)
		}
	})
	t.Run("a plan ends", func(t *testing.T) {
		p := named(t, "commitment-expiry")
		c := one(t, p, 6*day-time.Hour, "sp-m7i")
		if end := start.Add(6 * day); c == nil || !c.End.Equal(end) || c.Allocation.LeaseUntil.After(end) {
			t.Errorf("an hour before its end: %+v", c)
		}
		if c := one(t, p, 6*day, "sp-m7i"); c != nil {
			t.Errorf("after its end: %+v", c)
		}
	})
}

// TestFaults: what is answered in each fault, and that nothing of it can pass for a document that may be acted on.
func TestFaults(t *testing.T) {
	base := named(t, "steady").Scenario()
	seen := map[scenario.Fault]bool{}
	for _, tt := range []struct {
		step   scenario.Step
		reason string
		check  func(t *testing.T, a scenario.Answer, h nopsapi.FactHeader, err error)
	}{
		{scenario.Step{Fault: scenario.FaultStatus, Status: 429, RetryAfter: scenario.Duration(time.Minute)}, "refused", func(t *testing.T, a scenario.Answer, _ nopsapi.FactHeader, _ error) {
			if a.Status != 429 || a.RetryAfter != time.Minute || len(a.Body()) != 0 {
				t.Errorf("%d, %s", a.Status, a.RetryAfter)
			}
		}},
		{scenario.Step{Fault: scenario.FaultDrop}, "no answer at all", func(t *testing.T, a scenario.Answer, _ nopsapi.FactHeader, _ error) {
			if !a.Drop {
				t.Error("an answer")
			}
		}},
		{scenario.Step{Fault: scenario.FaultSlow, Latency: scenario.Duration(time.Second)}, "right, and late", func(t *testing.T, a scenario.Answer, _ nopsapi.FactHeader, err error) {
			if a.Latency != time.Second || err != nil {
				t.Errorf("%s, %v", a.Latency, err)
			}
		}},
		{scenario.Step{Fault: scenario.FaultFrozen}, "expired, with an old number", wrong("has passed")},
		{scenario.Step{Fault: scenario.FaultStale}, "a rising number alone proves nothing", func(t *testing.T, a scenario.Answer, h nopsapi.FactHeader, err error) {
			wrong("has passed")(t, a, h, err)
			if h.Seq != uint64(start.Unix())+120 {
				t.Errorf("number %d", h.Seq)
			}
		}},
		{scenario.Step{Fault: scenario.FaultFuture}, "it would stay valid through an outage", wrong("in the future")},
		{scenario.Step{Fault: scenario.FaultReplay, Back: 2}, "valid still, and already seen", func(t *testing.T, _ scenario.Answer, h nopsapi.FactHeader, err error) {
			if err != nil || h.Seq != uint64(start.Unix())+118 {
				t.Errorf("number %d, %v", h.Seq, err)
			}
		}},
		{scenario.Step{Fault: scenario.FaultSchema}, "nobody knows what it means", wrong("schema_version 2")},
		{scenario.Step{Fault: scenario.FaultTruncated}, "a connection that ends early", wrong("JSON")},
		{scenario.Step{Fault: scenario.FaultHTML}, "a page of a proxy", func(t *testing.T, a scenario.Answer, h nopsapi.FactHeader, err error) {
			wrong("JSON")(t, a, h, err)
			if !strings.HasPrefix(a.ContentType, "text/html") {
				t.Errorf("type %q", a.ContentType)
			}
		}},
		{scenario.Step{Fault: scenario.FaultNumbers}, "", func(t *testing.T, _ scenario.Answer, _ nopsapi.FactHeader, err error) {
			if err == nil {
				t.Error("accepted")
			}
		}},
		{scenario.Step{Fault: scenario.FaultHuge}, "more than anybody reads", func(t *testing.T, a scenario.Answer, _ nopsapi.FactHeader, _ error) {
			if len(a.Body()) <= nopsapi.MaxMarket {
				t.Errorf("%d bytes", len(a.Body()))
			}
		}},
		{scenario.Step{Fault: scenario.FaultEmpty}, "", wrong("JSON")},
	} {
		seen[tt.step.Fault] = true
		s := base
		tt.step.At = scenario.Duration(time.Hour)
		s.Steps = []scenario.Step{tt.step}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		p := s.Player(start)
		for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
			t.Run(fmt.Sprint(tt.step.Fault, " ", kind), func(t *testing.T) {
				if a := p.At(kind, start.Add(time.Hour-time.Second)); a.Fault != "" {
					t.Fatalf("too early: %+v", a)
				}
				at := start.Add(10 * time.Hour)
				a := p.At(kind, at)
				h, err := decode(kind, a.Body(), at)
				if a.Fault != tt.step.Fault {
					t.Fatalf("%s: %+v", tt.reason, a)
				}
				tt.check(t, a, h, err)
			})
		}
	}
	for _, f := range scenario.Faults() {
		if !seen[f] {
			t.Errorf("the fault %s is in no test", f)
		}
	}
}

func wrong(part string) func(*testing.T, scenario.Answer, nopsapi.FactHeader, error) {
	return func(t *testing.T, _ scenario.Answer, _ nopsapi.FactHeader, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want one about %q", err, part)
		}
	}
}

// TestNumbersAreNone: each of the bad numbers is refused, in both documents, and in a market that offers nothing.
func TestNumbersAreNone(t *testing.T) {
	empty := scenario.Scenario{Name: "empty", Steps: []scenario.Step{{Fault: scenario.FaultNumbers}}}
	full := named(t, "steady").Scenario()
	full.Steps = empty.Steps
	for _, s := range []scenario.Scenario{empty, full} {
		p := s.Player(start)
		bodies := map[string]bool{}
		for i := range 7 {
			at := start.Add(time.Duration(i) * 5 * time.Minute)
			for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
				a := p.At(kind, at)
				if _, err := decode(kind, a.Body(), at); err == nil {
					t.Errorf("%s, document %d of %s is accepted: %.300s", s.Name, i, kind, a.Body())
				}
				bodies[string(a.Body())] = true
			}
		}
		if len(bodies) != 14 {
			t.Errorf("%s: %d different bodies, want 14", s.Name, len(bodies))
		}
	}
}

func TestOfOneKind(t *testing.T) {
	p := named(t, "outage")
	at := start.Add(14*time.Hour + time.Minute)
	if a := p.At(scenario.Market, at); a.Status != http.StatusNotFound {
		t.Errorf("market: %d", a.Status)
	}
	if a := p.At(scenario.Commitments, at); a.Status != http.StatusOK || a.Commitments == nil {
		t.Errorf("commitments: %d", a.Status)
	}
	if a := p.At(scenario.Market, start.Add(-time.Second)); a.Status != http.StatusNotFound {
		t.Errorf("before the start: %d", a.Status)
	}
}

func TestRepeat(t *testing.T) {
	p := named(t, "month")
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{25 * 24 * time.Hour, 429}, {25*24*time.Hour + 5*time.Minute, 200}, {25*24*time.Hour + 6*time.Hour, 429}, {25*24*time.Hour + 18*time.Hour + 4*time.Minute, 429}} {
		if got := p.At(scenario.Market, start.Add(tt.at)).Status; got != tt.want {
			t.Errorf("%s: %d, want %d", tt.at, got, tt.want)
		}
	}
}

// TestLabels: types are labelled as Karpenter labels their nodes.
func TestLabels(t *testing.T) {
	s, err := scenario.Decode([]byte(`{"name": "x", "zones": [{"id": "z"}], "types": [{"name": "c-4x-amd64-linux", "vcpu": 4, "memory_mib": 8192, "on_demand": 1, "labels": {"karpenter.kwok.sh/instance-family": "c"}}],
		"families": [{"name": "m7i-flex", "sizes": ["medium", "2xlarge"], "memory_mib_per_vcpu": 4096, "on_demand_per_vcpu": 0.05, "arch": "arm64"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	m := s.Player(start).At(scenario.Market, start).Market
	got := map[string]map[string]string{}
	for _, typ := range m.InstanceTypes {
		got[typ.Name] = typ.Labels
	}
	flex := func(size, cpu, memory string) map[string]string {
		return map[string]string{
			"node.kubernetes.io/instance-type": "m7i-flex." + size, "kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", "karpenter.k8s.aws/instance-family": "m7i-flex", "karpenter.k8s.aws/instance-category": "m",
			"karpenter.k8s.aws/instance-generation": "7", "karpenter.k8s.aws/instance-size": size, "karpenter.k8s.aws/instance-cpu": cpu, "karpenter.k8s.aws/instance-memory": memory,
		}
	}
	want := map[string]map[string]string{
		"c-4x-amd64-linux": {"node.kubernetes.io/instance-type": "c-4x-amd64-linux", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "karpenter.kwok.sh/instance-family": "c"},
		"m7i-flex.medium":  flex("medium", "1", "4096"), "m7i-flex.2xlarge": flex("2xlarge", "8", "32768"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(m.Offerings) != 3 || m.Offerings[0].CapacityType != nopsapi.CapacityOnDemand {
		t.Errorf("without a price of spot there is none: %+v", m.Offerings)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const zone = "zones: [{id: z}]\n"
	const typ = zone + "types: [{name: m7i.large, vcpu: 2, memory_mib: 8192, on_demand: 0.1, spot: 0.04, score: 7}]\n"
	for _, tt := range []struct{ name, text, part string }{
		{"nothing", "", "EOF"},
		{"no YAML", "a: [", "yaml"},
		{"a list", "[1]", "cannot unmarshal"},
		{"a misspelt field", "name: x\nregoin: y", "regoin"},
		{"a misspelt field within", "name: x\n" + typ + "steps: [{at: 1h, where: {zone: [z]}, score: 1}]", "zone"},
		{"two documents", "name: x\n---\nname: y", "more than one"},
		{"no name", "region: us-east-1", "name is missing"},
		{"no region", "name: x\nregion: the moon", "region"},
		{"faster than numbers rise", "name: x\nevery: 10ms", "every"},
		{"valid for a week", "name: x\nvalid_for: 7d", "valid_for"},
		{"not a duration", "name: x\nevery: 5", "duration"},
		{"not a duration either", "name: x\nevery: 1w", "duration"},
		{"a century", "name: x\nevery: 36500d", "at most"},
		{"no zones", "name: x\ntypes: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1}]", "zones is empty"},
		{"twice the same zone", "name: x\nzones: [{id: z}, {id: z}]", "twice"},
		{"a free type", "name: x\n" + zone + "types: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 0}]", "on demand at 0"},
		{"spot dearer than on demand", "name: x\n" + zone + "types: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1, spot: 2}]", "dearer"},
		{"a score of eleven", "name: x\n" + zone + "types: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1, spot: 1, score: 11}]", "score 11"},
		{"a zone of nowhere", "name: x\n" + zone + "types: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1, zones: [y]}]", `zone "y"`},
		{"twice the same type", "name: x\n" + typ + "families: [{name: m7i, sizes: [large], memory_mib_per_vcpu: 1, on_demand_per_vcpu: 1}]", "listed twice"},
		{"an unknown size", "name: x\n" + zone + "families: [{name: m7i, sizes: [huge], memory_mib_per_vcpu: 1, on_demand_per_vcpu: 1}]", "huge"},
		{"spot without a price", "name: x\n" + zone + "types: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1, capacity_types: [spot]}]", "without a price"},
		{"an unknown fault", "name: x\nsteps: [{at: 1h, fault: fire}]", "fire"},
		{"a status that is none", "name: x\nsteps: [{at: 1h, fault: status, status: 200}]", "status 200"},
		{"a status without its fault", "name: x\nsteps: [{at: 1h, fault: drop, status: 503}]", "status 503"},
		{"slow, and not slow", "name: x\nsteps: [{at: 1h, fault: slow}]", "latency"},
		{"a step that does nothing", "name: x\nsteps: [{at: 1h}]", "one thing"},
		{"a step that does two things", "name: x\n" + typ + "steps: [{at: 1h, score: 1, fault: drop}]", "one thing"},
		{"a step before the start", "name: x\nsteps: [{at: -1h, fault: drop}]", "negative"},
		{"a step that repeats before it ends", "name: x\nsteps: [{at: 1h, for: 2h, repeat: 1h, fault: drop}]", "repeats"},
		{"a fault of something else", "name: x\nsteps: [{at: 1h, fault: drop, of: [heartbeats]}]", "heartbeats"},
		{"a commitment that is none", "name: x\nsteps: [{at: 1h, commitment: sp, vcpu: 1}]", "sp"},
		{"a plan for a family that names none", "name: x\ncommitments: [{id: sp, kind: EC2InstanceSP, unit: vcpu, total: 1}]", "region and family"},
		{"a negative total", "name: x\ncommitments: [{id: sp, kind: ComputeSP, unit: vcpu, total: -1}]", "total -1"},
		{"a total that is no number", "name: x\ncommitments: [{id: sp, kind: ComputeSP, unit: vcpu, total: .nan}]", "NaN"},
		{"too many steps", "name: x\nsteps: [" + strings.Repeat("{at: 1h, fault: drop},", 501) + "]", "501"},
		{"too large", strings.Repeat("#", 1<<20+1), "bytes"},
	} {
		_, err := scenario.Decode([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s: %v, want an error about %q", tt.name, err, tt.part)
		}
	}
	if _, err := scenario.Named("nothing"); err == nil || !strings.Contains(err.Error(), "az-collapse") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "3d": 72 * time.Hour, "3d12h": 84 * time.Hour, "-30d": -720 * time.Hour, "-1h30m": -90 * time.Minute, "0s": 0, "1d0s": 24 * time.Hour} {
		var d scenario.Duration
		if err := json.Unmarshal([]byte(`"`+text+`"`), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %s, %v", text, time.Duration(d), err)
		}
		again, err := json.Marshal(d)
		var second scenario.Duration
		if err != nil || json.Unmarshal(again, &second) != nil || second != d {
			t.Errorf("%s: written as %s it is another: %v", text, again, err)
		}
	}
	for _, text := range []string{`""`, `"d"`, `"--1h"`, `"1h-30m"`, `"1d-1h"`, `"-"`, `"1.5d"`, `1`, `null1`} {
		var d scenario.Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s: %s", text, time.Duration(d))
		}
	}
}

// FuzzDecode: whatever file is accepted, each answer that is not a fault is a document that is right, and survives being written as JSON.
func FuzzDecode(f *testing.F) {
	// Small ones: the examples have catalogues, which hold a fuzzer up.
	for _, text := range []string{
		"name: a\nzones: [{id: z1, name: y1}, {id: z2}]\nfamilies: [{name: m7i, sizes: [large], memory_mib_per_vcpu: 4096, on_demand_per_vcpu: 0.05, spot_per_vcpu: 0.02, score: 8, interruption: [0.05, 0.1]}]\nsteps: [{at: 1h, where: {zones: [z1]}, square: {period: 1h, low: 1, high: 9}}]",
		"name: b\nevery: 1m\nnoise: {seed: 7, score: 2, price: 0.2}\nzones: [{id: z}]\ntypes: [{name: a, vcpu: 1, memory_mib: 1, on_demand: 1, spot: 0.5, score: 5}]\nsteps: [{at: 0s, fault: numbers, of: [market]}, {at: 1h, where: {capacity_types: [spot]}, absent: true}]",
		"name: c\ncommitments: [{id: sp, kind: ComputeSP, unit: vcpu, total: 4, vcpu: 3, end: 2h}]\nsteps: [{at: 30m, for: 10m, repeat: 1h, commitment: sp, total: 2}, {at: 1h, commitment: sp, lease_ends: true}]",
	} {
		f.Add([]byte(text), uint32(3600))
	}
	f.Add([]byte(`{"name":"x","zones":[{"id":"z"}],"types":[{"name":"a","vcpu":1,"memory_mib":1,"on_demand":1,"spot":0.5}],"steps":[{"at":"1h","for":"2h","repeat":"3h","price_factor":3}]}`), uint32(7200))
	f.Fuzz(func(t *testing.T, data []byte, seconds uint32) {
		s, err := scenario.Decode(data)
		if err != nil {
			return
		}
		now := start.Add(time.Duration(seconds) * time.Second)
		p := s.Player(start)
		for _, kind := range []scenario.Kind{scenario.Market, scenario.Commitments} {
			a := p.At(kind, now)
			if a.Fault != "" {
				continue
			}
			if h, err := decode(kind, a.Body(), h2(a, now)); err != nil {
				t.Errorf("%s after %d s: %v", kind, seconds, err)
			} else if h.Seq == 0 {
				t.Errorf("%s has no number", kind)
			}
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		second, err := scenario.Decode(again)
		if err != nil {
			t.Fatalf("written as JSON it is refused: %v\n%s", err, again)
		}
		if first, second := p.At(scenario.Market, now).Body(), second.Player(start).At(scenario.Market, now).Body(); !bytes.Equal(first, second) {
			t.Errorf("written as JSON it plays another market:\n%s\n%s", first, second)
		}
	})
}

// h2 is a moment at which a document is valid: scenarios may let them expire before the next.
func h2(a scenario.Answer, now time.Time) time.Time {
	h := nopsapi.FactHeader{}
	switch {
	case a.Market != nil:
		h = a.Market.FactHeader
	case a.Commitments != nil:
		h = a.Commitments.FactHeader
	}
	if !h.ValidUntil.After(now) {
		return h.AsOf
	}
	return now
}
