package karpenops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// marketOf is a market that is right, as of noon.
func marketOf(seq uint64) nopsapi.Market {
	m := nopsapi.Market{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: noon, ValidUntil: noon.Add(30 * time.Minute)}, Region: "us-east-1"}
	for _, family := range []string{"m5", "m6i", "m7i", "c5", "c6i", "c7i", "r5", "r6i"} {
		for _, size := range []struct {
			name string
			cpu  int
		}{{"large", 2}, {"xlarge", 4}, {"2xlarge", 8}} {
			name := family + "." + size.name
			m.InstanceTypes = append(m.InstanceTypes, nopsapi.InstanceType{Name: name, VCPU: size.cpu, MemoryMiB: size.cpu * 4096, Labels: map[string]string{
				"karpenter.k8s.aws/instance-family": family, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
			}})
			for i, zone := range []string{"a", "b", "c"} {
				m.Offerings = append(m.Offerings, nopsapi.MarketOffering{
					InstanceType: name, ZoneID: fmt.Sprintf("use1-az%d", i+1), Zone: "us-east-1" + zone, CapacityType: nopsapi.CapacitySpot, Price: 0.02 * float64(size.cpu), OnDemandPrice: 0.05 * float64(size.cpu),
					PlacementScore: 8, TargetVCPU: 64, ObservedAt: noon,
				})
			}
		}
	}
	return m
}

func with(m nopsapi.Market, edit func(*nopsapi.Market)) nopsapi.Market {
	edit(&m)
	return m
}

func TestOffer(t *testing.T) {
	first := marketOf(10)
	for _, tt := range []struct {
		name, reason string
		source       string // the first came from "platform"
		doc          nopsapi.Market
		at           time.Time
		fresh        bool
		problem      string // part of it; "" for none
		stays        uint64 // number that is decided by afterwards; 0: none
	}{
		{"newer", "its number rises", "platform", marketOf(11), noon, true, "", 11},
		{"the same", "a poll brings it again", "platform", first, noon, false, "", 10},
		{"older", "a replay", "platform", marketOf(9), noon, false, "a replay", 10},
		{"another under the same number", "one of the two is not what it says", "platform", with(marketOf(10), func(m *nopsapi.Market) { m.AsOf = noon.Add(-time.Minute) }), noon, false, "that of another document", 10},
		{"a higher number of the past", "a recording that was renumbered", "platform", with(marketOf(11), func(m *nopsapi.Market) { m.AsOf = noon.Add(-time.Minute) }), noon, false, "before that of seq 10", 10},
		{"another source", "numbers of one say nothing about those of another", "configmap:x", marketOf(1), noon, true, "", 1},
		{"of another region", "prices are a region's", "platform", with(marketOf(11), func(m *nopsapi.Market) { m.Region = "eu-west-1" }), noon, false, "in us-east-1", 10},
		{"a newer schema", "it would be misread", "platform", with(marketOf(11), func(m *nopsapi.Market) { m.SchemaVersion++ }), noon, false, "would misread", 10},
		{"of the future", "more than clocks differ", "platform", with(marketOf(11), func(m *nopsapi.Market) {
			m.AsOf, m.ValidUntil = noon.Add(6*time.Minute), noon.Add(time.Hour)
		}), noon, false, "in the future", 10},
		{"a little of the future", "clocks differ", "platform", with(marketOf(11), func(m *nopsapi.Market) {
			m.AsOf, m.ValidUntil = noon.Add(4*time.Minute), noon.Add(time.Hour)
		}), noon, true, "", 11},
		{"stale", "what it says was", "platform", with(marketOf(11), func(m *nopsapi.Market) {
			m.AsOf, m.ValidUntil = noon.Add(time.Minute), noon.Add(10*time.Minute)
		}), noon.Add(11 * time.Minute), false, "has passed", 10},
		{"one number wrong", "who gets one wrong may have got others wrong", "platform", with(marketOf(11), func(m *nopsapi.Market) { m.Offerings[3].Price = -1 }), noon, false, "price", 10},
		{"the good one ends", "afterwards nothing is decided", "platform", marketOf(9), noon.Add(31 * time.Minute), false, "passed", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFacts("us-east-1")
			if fresh, err := f.market.offer("platform", first, noon); !fresh || err != nil {
				t.Fatalf("the first: %v %v", fresh, err)
			}
			fresh, err := f.market.offer(tt.source, tt.doc, tt.at)
			if fresh != tt.fresh || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("%s: fresh %v, %v; want %v, %q", tt.reason, fresh, err, tt.fresh, tt.problem)
			}
			var stays uint64
			if m := f.market.at(tt.at); m != nil {
				stays = m.Seq
			}
			if stays != tt.stays {
				t.Errorf("%s: decided by number %d, want %d", tt.reason, stays, tt.stays)
			}
			if got := f.market.status(tt.at).Problem; (got == "") != (tt.problem == "") {
				t.Errorf("the status says %q", got)
			}
		})
	}
}

// TestOfferAfterRestart: a restart opens no door to a replay, and does not shut out what was valid before it.
func TestOfferAfterRestart(t *testing.T) {
	before := newFacts("us-east-1")
	if _, err := before.market.offer("platform", marketOf(10), noon); err != nil {
		t.Fatal(err)
	}
	m := memory{Market: before.market.remember()}
	packed, err := m.pack()
	if err != nil {
		t.Fatal(err)
	}
	m, err = unpackMemory(packed)
	if err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[uint64]bool{9: false, 10: true, 11: true} {
		after := newFacts("us-east-1")
		after.market.recall(m.Market)
		if after.market.at(noon) != nil {
			t.Fatal("a number alone is something to decide by")
		}
		if fresh, err := after.market.offer("platform", marketOf(seq), noon); fresh != want {
			t.Errorf("number %d after 10 and a restart: fresh %v, %v", seq, fresh, err)
		}
	}
}

// given is a source that gives what a test puts in.
type given struct {
	market      []byte
	commitments []byte
	err         error
}

func (*given) Name() string { return "given" }

func (g *given) Market(context.Context) (answer[nopsapi.Market], error) {
	doc, err := decodeFact[nopsapi.Market](g.market)
	return answer[nopsapi.Market]{doc: doc, take: func() {}}, errors.Join(g.err, err)
}

func (g *given) Commitments(context.Context) (answer[nopsapi.Commitments], error) {
	doc, err := decodeFact[nopsapi.Commitments](g.commitments)
	return answer[nopsapi.Commitments]{doc: doc, take: func() {}}, errors.Join(g.err, err)
}

// acceptable is the rule once more, written apart from the intake.
func acceptable(raw []byte, now time.Time) bool {
	var m nopsapi.Market
	return len(raw) <= nopsapi.MaxMarket && json.Unmarshal(raw, &m) == nil && m.Validate() == nil && m.Region == "us-east-1" &&
		m.Seq > 10 && !m.AsOf.Before(noon) && !m.AsOf.After(now.Add(nopsapi.MaxAhead)) && m.ValidUntil.After(now)
}

// FuzzFacts is property P11: whatever comes instead of a document, unless it is acceptable by every rule nothing is written that would
// not have been written without it, and what was known stays known.
func FuzzFacts(f *testing.F) {
	good, err := json.Marshal(marketOf(11))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, edit := range []func(*nopsapi.Market){
		func(m *nopsapi.Market) { m.Seq = 3 }, func(m *nopsapi.Market) { m.Region = "eu-west-1" }, func(m *nopsapi.Market) { m.ValidUntil = noon.Add(-time.Second) },
		func(m *nopsapi.Market) { m.Offerings[0].PlacementScore = 99 }, func(m *nopsapi.Market) { m.SchemaVersion = 7 },
	} {
		raw, err := json.Marshal(with(marketOf(11), edit))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	for _, raw := range []string{"", "null", "{}", "[]", `{"seq":1e99}`, "<html>", string(good[:len(good)/2]), string(good) + "x", strings.Repeat("[", 10000), "\x1f\x8bnot gzip"} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, h := newTestAgent(t, false)
		first := marketOf(10)
		if _, err := a.known.market.offer("given", first, noon); err != nil {
			t.Fatal(err)
		}
		a.facts = &given{market: raw, commitments: raw}
		_, _ = a.ask(t.Context())
		if m := a.known.market.at(noon); acceptable(raw, noon) {
			if m == nil || m.Seq <= 10 {
				t.Fatalf("an acceptable document was not taken: %+v", a.known.market.status(noon))
			}
			return
		} else if m == nil || m.Seq != 10 {
			t.Fatalf("what was known is not known any more: %+v", a.known.market.status(noon))
		}
		if a.known.commitments.at(noon) != nil {
			var c nopsapi.Commitments
			if json.Unmarshal(raw, &c) != nil || c.Validate() != nil {
				t.Fatal("commitments were taken that break the rules")
			}
			return
		}
		// Without the one before there is nothing to decide by: no write at all.
		b, hands := newTestAgent(t, false)
		b.facts = &given{market: raw, commitments: raw}
		_, _ = b.ask(t.Context())
		b.round(t.Context())
		if len(hands.applied) > 0 {
			t.Fatalf("%d writes by %.100q: %+v", len(hands.applied), raw, hands.applied[0])
		}
		_ = h
	})
}

// TestWritesByGoodFacts: the fuzz above would pass by an agent that never writes.
func TestWritesByGoodFacts(t *testing.T) {
	a, hands := newTestAgent(t, false)
	raw, err := json.Marshal(marketOf(11))
	if err != nil {
		t.Fatal(err)
	}
	commitments, err := json.Marshal(commitmentsOf(11))
	if err != nil {
		t.Fatal(err)
	}
	a.facts = &given{market: raw, commitments: commitments}
	if _, err := a.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.round(t.Context())
	if len(hands.applied) == 0 {
		r := a.latest.Load()
		t.Fatalf("nothing was written; holding %q, actions %+v, why %v", r.holding, r.plan.Actions, r.plan.Why)
	}
	if hands.why[0].MarketSeq != 11 || hands.why[0].CommitSeq != 11 {
		t.Errorf("the write rests on %+v", hands.why[0])
	}
}

func commitmentsOf(seq uint64) nopsapi.Commitments {
	return nopsapi.Commitments{
		FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: noon, ValidUntil: noon.Add(30 * time.Minute)},
		Commitments: []nopsapi.Commitment{{
			ID: "sp-1", Kind: nopsapi.CommitmentEC2InstanceSP, Scope: nopsapi.CommitmentScope{Region: "us-east-1", Family: "m7i", Platform: "Linux", Tenancy: "default"},
			Start: noon.AddDate(-1, 0, 0), End: noon.AddDate(1, 0, 0), Unit: nopsapi.UnitVCPU, Total: 100, Rates: map[string]float64{"m7i": 0.03},
			Allocation: &nopsapi.Allocation{VCPU: 40, LeaseUntil: noon.Add(2 * time.Hour)},
		}},
	}
}

// TestNotOffered: a platform without market data is nothing to crash or to hurry about.
func TestNotOffered(t *testing.T) {
	a, hands := newTestAgent(t, false)
	a.facts = &given{err: fmt.Errorf("the platform does not offer it (%w)", errNotOffered)}
	wait, err := a.ask(t.Context())
	if err != nil || wait != restEvery {
		t.Errorf("asked again after %s, %v", wait, err)
	}
	a.round(t.Context())
	if s := hands.status(t); len(hands.applied) > 0 || !strings.Contains(s.Market.Problem, "does not offer") || s.Holding == "" && len(s.Pending) > 0 {
		t.Errorf("status %+v", s)
	}
}

func TestFromPlatform(t *testing.T) {
	p := agenttest.NewPlatform(t, 0)
	f := &fromPlatform{client: clientOf(t, p), arn: agenttest.ClusterARN}
	if _, err := f.Market(t.Context()); !errors.Is(err, errNotOffered) {
		t.Fatalf("before there is a market: %v", err)
	}
	m := marketOf(1)
	m.AsOf, m.ValidUntil = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	for i := range m.Offerings {
		m.Offerings[i].ObservedAt = m.AsOf
	}
	if err := p.PublishMarket(t.Context(), agenttest.Customer, agenttest.ClusterARN, m); err != nil {
		t.Fatal(err)
	}
	got, err := f.Market(t.Context())
	if err != nil || got.doc.Seq != 1 || len(got.doc.Offerings) != len(m.Offerings) {
		t.Fatalf("%d offerings, %v", len(got.doc.Offerings), err)
	}
	if again, err := f.Market(t.Context()); err != nil || again.unchanged {
		t.Errorf("one that was not taken is asked for whole: unchanged %v, %v", again.unchanged, err)
	}
	got.take()
	if again, err := f.Market(t.Context()); err != nil || !again.unchanged {
		t.Errorf("one that was taken is not sent again: unchanged %v, %v", again.unchanged, err)
	}
}
