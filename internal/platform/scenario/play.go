package scenario

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Answer is what a platform answers at a moment.
type Answer struct {
	Fault Fault // "" where nothing is wrong
	// Status is 200 unless the fault is another one. Drop: there is no answer.
	Status      int
	RetryAfter  time.Duration
	Latency     time.Duration // before the answer
	Drop        bool
	ContentType string
	// Market or Commitments is the document, nil where the body is none. It is shared: do not change it. With the faults frozen, stale, future, replay and
	// schema it is one that must not be acted on.
	Market      *nopsapi.Market
	Commitments *nopsapi.Commitments
	body        []byte
}

// Body is what HTTP carries.
func (a Answer) Body() []byte {
	var document any
	switch {
	case a.Market != nil:
		document = a.Market
	case a.Commitments != nil:
		document = a.Commitments
	default:
		return a.body
	}
	data, _ := json.Marshal(document) //nolint:errchkjson // finite numbers and times of this century: Validate saw to it
	return data
}

// Player plays a scenario from its start on. It is safe for concurrent use.
type Player struct {
	s     Scenario
	start time.Time
	types []nopsapi.InstanceType
	base  []offering

	mu     sync.Mutex
	number uint64 // of the market below, plus 1
	market *nopsapi.Market
}

// offering is one with what its steps are chosen by.
type offering struct {
	nopsapi.MarketOffering
	family string
	seed   uint64
	steps  []Step
}

// Player plays the scenario, which must be valid: Decode and Named return no others.
func (s Scenario) Player(start time.Time) *Player {
	s = s.withDefaults()
	p := &Player{s: s, start: start.UTC().Truncate(time.Second)}
	types, _ := s.types() // valid: its families have sizes
	for _, t := range types {
		p.types = append(p.types, nopsapi.InstanceType{Name: t.Name, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, MaxPods: t.MaxPods, Labels: t.labels()})
		for _, zone := range s.Zones {
			if len(t.Zones) > 0 && !slices.Contains(t.Zones, zone.ID) {
				continue
			}
			for _, capacity := range t.capacities() {
				p.base = append(p.base, s.offering(t, zone, capacity))
			}
		}
	}
	return p
}

func (s Scenario) offering(t Type, zone Zone, capacity string) offering {
	family, _, _ := strings.Cut(t.Name, ".")
	o := offering{family: family, seed: hash(s.Noise.Seed, t.Name+"|"+zone.ID+"|"+capacity), MarketOffering: nopsapi.MarketOffering{
		InstanceType: t.Name, ZoneID: zone.ID, Zone: zone.Name, CapacityType: capacity, OnDemandPrice: cents(t.OnDemand),
	}}
	switch capacity {
	case nopsapi.CapacityOnDemand:
		o.Price = o.OnDemandPrice
	case nopsapi.CapacitySpot:
		o.Price, o.PlacementScore, o.Confidence = cents(t.Spot), t.Score, t.Confidence
		if t.Score > 0 {
			o.TargetVCPU = s.TargetVCPU
		}
		if len(t.Interruption) == 2 {
			o.Interruption = &nopsapi.Interruption{MonthlyLow: t.Interruption[0], MonthlyHigh: t.Interruption[1], Source: "model"}
		}
	}
	for _, step := range s.Steps {
		w := step.Where
		chosen := func(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }
		if step.Fault == "" && step.Commitment == "" && chosen(w.Families, family) && chosen(w.Types, t.Name) && chosen(w.Zones, zone.ID) && chosen(w.CapacityTypes, capacity) {
			o.steps = append(o.steps, step)
		}
	}
	return o
}

// cents keeps prices as short as they are published.
func cents(price float64) float64 { return max(math.Round(price*1e4)/1e4, 1e-4) }

var ec2Name = regexp.MustCompile(`^(([a-z]+)(\d+)[a-z0-9-]*)\.([a-z0-9-]+)$`)

// labels are those that Karpenter gives nodes of a type, as far as its name and size tell.
func (t Type) labels() map[string]string {
	arch := t.Arch
	if arch == "" {
		arch = "amd64"
	}
	all := map[string]string{
		"node.kubernetes.io/instance-type": t.Name, "kubernetes.io/arch": arch, "kubernetes.io/os": "linux",
	}
	if m := ec2Name.FindStringSubmatch(t.Name); m != nil {
		for key, value := range map[string]string{"family": m[1], "category": m[2], "generation": m[3], "size": m[4], "cpu": strconv.Itoa(t.VCPU), "memory": strconv.Itoa(t.MemoryMiB)} {
			all["karpenter.k8s.aws/instance-"+key] = value
		}
	}
	maps.Copy(all, t.Labels)
	return all
}

// active says whether a step holds at a time since the start, and since when.
func (step Step) active(at time.Duration) (since time.Duration, ok bool) {
	since = time.Duration(step.At)
	if at < since {
		return 0, false
	}
	if r := time.Duration(step.Repeat); r > 0 {
		since = at - (at-since)%r
	}
	return since, step.For == 0 || at < since+time.Duration(step.For)
}

// Start is when the scenario began.
func (p *Player) Start() time.Time { return p.start }

// Scenario is what is played.
func (p *Player) Scenario() Scenario { return p.s }

// At is the answer for a kind of document at a moment. Before the start there is none: 404.
func (p *Player) At(kind Kind, now time.Time) Answer {
	at := now.Sub(p.start)
	if at < 0 {
		return Answer{Status: http.StatusNotFound}
	}
	number := uint64(at / time.Duration(p.s.Every)) //nolint:gosec // not negative
	a := Answer{Status: http.StatusOK, ContentType: "application/json"}
	for _, step := range p.s.Steps {
		since, ok := step.active(at)
		if !ok || step.Fault == "" || len(step.Of) > 0 && !slices.Contains(step.Of, kind) {
			continue
		}
		return p.faulty(kind, step, number, since)
	}
	return p.put(a, kind, number, 0, 0)
}

// put puts a document into an answer: that of a number, with its times moved and its schema raised.
func (p *Player) put(a Answer, kind Kind, number uint64, shift time.Duration, schema int) Answer {
	if kind == Commitments {
		a.Commitments = p.commitments(number)
		if shift != 0 || schema != 0 {
			move(&a.Commitments.FactHeader, shift, schema)
		}
		return a
	}
	a.Market = p.prices(number)
	if shift != 0 || schema != 0 {
		moved := *a.Market
		moved.Offerings = slices.Clone(moved.Offerings)
		for i := range moved.Offerings {
			moved.Offerings[i].ObservedAt = moved.Offerings[i].ObservedAt.Add(shift)
		}
		move(&moved.FactHeader, shift, schema)
		a.Market = &moved
	}
	return a
}

func move(h *nopsapi.FactHeader, shift time.Duration, schema int) {
	h.AsOf, h.ValidUntil, h.SchemaVersion = h.AsOf.Add(shift), h.ValidUntil.Add(shift), h.SchemaVersion+schema
}

func (p *Player) faulty(kind Kind, step Step, number uint64, since time.Duration) Answer {
	shift, back := time.Duration(step.Shift), uint64(step.Back) //nolint:gosec // not negative
	if shift == 0 {
		shift = time.Duration(p.s.ValidFor) + time.Hour
	}
	if back == 0 {
		back = 5
	}
	a := Answer{Fault: step.Fault, Status: http.StatusOK, ContentType: "application/json", Latency: time.Duration(step.Latency), RetryAfter: time.Duration(step.RetryAfter)}
	whole := func() []byte { return p.put(a, kind, number, 0, 0).Body() }
	switch step.Fault {
	case FaultStatus:
		a.Status = step.Status
	case FaultDrop:
		a.Drop = true
	case FaultSlow:
		return p.put(a, kind, number, 0, 0)
	case FaultFrozen:
		return p.put(a, kind, uint64(since/time.Duration(p.s.Every)), 0, 0) //nolint:gosec // not negative
	case FaultStale:
		return p.put(a, kind, number, -shift, 0)
	case FaultFuture:
		return p.put(a, kind, number, shift, 0)
	case FaultReplay:
		return p.put(a, kind, number-min(number, back), 0, 0)
	case FaultSchema:
		return p.put(a, kind, number, 0, 1)
	case FaultTruncated:
		body := whole()
		a.body = body[:len(body)/2]
	case FaultHTML:
		a.ContentType, a.body = "text/html; charset=utf-8", []byte("<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>\n")
	case FaultNumbers:
		a.body = numbers(kind, whole(), number)
	case FaultHuge:
		a.body = append(bytes.Repeat([]byte(" "), nopsapi.MaxMarket), whole()...)
	case FaultEmpty:
		a.body = []byte{}
	}
	return a
}

// firstNumber finds what a number of each kind of document stands after: that of the first offering, or of the first commitment.
var firstNumber = map[Kind]*regexp.Regexp{Market: regexp.MustCompile(`"price":[^,}]*`), Commitments: regexp.MustCompile(`"total":[^,}]*`)}

// numbers puts what is no number, or none that can be, where a number belongs.
func numbers(kind Kind, body []byte, number uint64) []byte {
	bad := []string{"NaN", "1e999", "-0.04", `"NaN"`, "Infinity", "1e300", "-1e-9"}[number%7]
	at := firstNumber[kind].FindIndex(body)
	if at == nil { // nothing is offered: the header has numbers, too
		at = regexp.MustCompile(`"seq":[0-9]+`).FindIndex(body)
	}
	name, _, _ := bytes.Cut(body[at[0]:at[1]], []byte(":"))
	return slices.Concat(body[:at[0]], name, []byte(":"+bad), body[at[1]:])
}

func (p *Player) header(number uint64) nopsapi.FactHeader {
	first := p.s.FirstSeq
	if first == 0 {
		first = uint64(max(p.start.Unix(), 1))
	}
	asOf := p.start.Add(time.Duration(number) * time.Duration(p.s.Every)) //nolint:gosec // of a scenario's length
	return nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: first + number, AsOf: asOf, ValidUntil: asOf.Add(time.Duration(p.s.ValidFor))}
}

// prices is the market of a number. The last one is kept: it is asked for more often than it changes.
func (p *Player) prices(number uint64) *nopsapi.Market {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.number == number+1 {
		return p.market
	}
	m := &nopsapi.Market{FactHeader: p.header(number), Region: p.s.Region, InstanceTypes: p.types, Offerings: make([]nopsapi.MarketOffering, 0, len(p.base))}
	if m.InstanceTypes == nil {
		m.InstanceTypes = []nopsapi.InstanceType{}
	}
	at := m.AsOf.Sub(p.start)
	for i := range p.base {
		if o, known := p.base[i].at(p.s.Noise, at, number); known {
			o.ObservedAt = m.AsOf
			m.Offerings = append(m.Offerings, o)
		}
	}
	p.number, p.market = number+1, m
	return m
}

// at is an offering at a time since the start; false where it is not known.
func (o *offering) at(n Noise, at time.Duration, number uint64) (nopsapi.MarketOffering, bool) {
	now, factor := o.MarketOffering, 1.0
	for _, step := range o.steps {
		since, ok := step.active(at)
		if !ok {
			continue
		}
		if step.Absent {
			return now, false
		}
		if now.CapacityType != nopsapi.CapacitySpot {
			continue
		}
		switch {
		case step.Square != nil:
			half := time.Duration(step.Square.Period) / 2
			if now.PlacementScore = step.Square.Low; (at-since)/half%2 == 1 {
				now.PlacementScore = step.Square.High
			}
		case step.Score != nil:
			now.PlacementScore = *step.Score
		}
		if step.PriceFactor > 0 {
			factor = step.PriceFactor
			if ramp := time.Duration(step.Ramp); at-since < ramp {
				factor = 1 + (factor-1)*float64(at-since)/float64(ramp)
			}
		}
		if len(step.Interruption) == 2 {
			now.Interruption = &nopsapi.Interruption{MonthlyLow: step.Interruption[0], MonthlyHigh: step.Interruption[1], Source: "model"}
		}
	}
	if now.CapacityType != nopsapi.CapacitySpot {
		return now, true
	}
	if now.PlacementScore > 0 {
		score := float64(now.PlacementScore) + n.Score*n.wave(o.seed, at, number)
		now.PlacementScore = int(min(max(math.Round(score), 1), 10))
	}
	// Dearer than on demand is what EC2 does not let it become.
	now.Price = cents(min(now.Price*factor*(1+n.Price*n.wave(o.seed+1, at, number)), now.OnDemandPrice))
	return now, true
}

// wave is from -1 to 1: smooth over the period, with a quarter of it from document to document.
func (n Noise) wave(seed uint64, at time.Duration, number uint64) float64 {
	period := time.Duration(n.Period)
	k, part := uint64(at/period), float64(at%period)/float64(period) //nolint:gosec // not negative
	part = (1 - math.Cos(part*math.Pi)) / 2
	return 0.75*(unit(seed, k)*(1-part)+unit(seed, k+1)*part) + 0.25*unit(seed^0x9e3779b97f4a7c15, number)
}

// unit is from -1 to 1, by splitmix64.
func unit(seed, k uint64) float64 {
	z := seed + (k+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11)/(1<<52) - 1
}

func hash(seed uint64, text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return h.Sum64() ^ seed*0x9e3779b97f4a7c15
}

func (p *Player) commitments(number uint64) *nopsapi.Commitments {
	all := &nopsapi.Commitments{FactHeader: p.header(number), Commitments: []nopsapi.Commitment{}}
	for _, c := range p.s.Commitments {
		if one, listed := p.commitment(c, all.AsOf); listed {
			all.Commitments = append(all.Commitments, one)
		}
	}
	return all
}

func (p *Player) commitment(c Commitment, asOf time.Time) (nopsapi.Commitment, bool) {
	one := nopsapi.Commitment{
		ID: c.ID, Kind: c.Kind, Scope: c.Scope, Start: p.start.Add(time.Duration(c.Start)), End: p.start.Add(time.Duration(c.End)), Unit: c.Unit, Total: c.Total, OtherUse: c.OtherUse, Rates: c.Rates,
	}
	if !asOf.Before(one.End) {
		return one, false
	}
	vcpu, leased := c.VCPU, asOf
	for _, step := range p.s.Steps {
		since, ok := step.active(asOf.Sub(p.start))
		if !ok || step.Commitment != c.ID {
			continue
		}
		if step.Gone {
			return one, false
		}
		if step.Total != nil {
			one.Total = *step.Total
		}
		if u := step.OtherUse; u != nil {
			one.OtherUse = nopsapi.CommitmentUse{P10: *u, P50: *u, P90: *u, Last: *u, WindowSeconds: c.OtherUse.WindowSeconds}
		}
		if step.VCPU != nil {
			vcpu = step.VCPU
		}
		if step.NoAllocation {
			vcpu = nil
		}
		if step.LeaseEnds {
			leased = p.start.Add(since)
		}
	}
	if vcpu != nil {
		share := *vcpu
		if c.Unit == nopsapi.UnitVCPU {
			share = min(share, one.Total)
		}
		one.Allocation = &nopsapi.Allocation{VCPU: share, LeaseUntil: leased.Add(min(time.Duration(c.Lease), one.End.Sub(leased)))}
	}
	return one, true
}
