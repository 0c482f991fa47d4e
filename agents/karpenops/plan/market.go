package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const (
	medianOf  = 5   // samples
	blend     = 0.5 // share of the newest median in the smoothed score
	dearer    = 1.5 // times the reference at which a family that is used counts as dear
	cheaper   = 1.35
	spread    = 60 // cheapest instance types that Karpenter offers EC2 in one request
	hoursOf   = 720.0
	gateFade  = 4 // dwells without any observation after which an exclusion is taken back
	quiet     = 4 // dwells after the last turn of a gate in which a sibling is kept that nothing asks for
	forgetful = 7 * 24 * time.Hour
	ahead     = 5 * time.Minute // that a sender's clock may be fast
)

// market is what is known of offerings now, by the catalogue's numbers.
type market struct {
	cat      *offering.Catalogue
	seq      uint64
	region   string
	unit     string      // label whose values are excluded and readmitted together: a family's, where types say one
	price    []float64   // of the machine, USD an hour; 0: not known
	cost     []float64   // effective, USD per vCPU and hour; 0: not known
	score    []float64   // of placement, as it came; 0: not known
	observed []time.Time // of the offering
	zoneID   []string
}

func sane(f float64) bool { return f > 0 && !math.IsInf(f, 0) && !math.IsNaN(f) }

// readMarket makes the catalogue. It leaves out what has no zone that the account has a name for, and what was seen too long ago, or
// in the future, keeps its place as an offering but tells nothing.
func (p *planner) readMarket() {
	m := p.in.Market
	if m == nil {
		return
	}
	types := make([]offering.Type, 0, len(m.InstanceTypes))
	unit, others := false, map[string]bool{}
	for _, t := range m.InstanceTypes {
		types = append(types, offering.Type{Name: t.Name, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, MaxPods: t.MaxPods, Labels: t.Labels})
		for key := range t.Labels {
			if key == offering.LabelFamily {
				unit = true
			} else if strings.HasSuffix(key, "/instance-family") {
				others[key] = true
			}
		}
	}
	slices.SortFunc(types, func(a, b offering.Type) int {
		if c := cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.VCPU, b.VCPU), cmp.Compare(a.MemoryMiB, b.MemoryMiB), cmp.Compare(a.MaxPods, b.MaxPods)); c != 0 {
			return c
		}
		return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels))
	})
	read := &market{seq: m.Seq, region: m.Region, unit: offering.LabelFamily}
	if !unit && len(others) > 0 {
		read.unit = slices.Min(slices.Collect(maps.Keys(others)))
	}
	rows := p.rows(m)
	offerings, zones := make([]offering.Offering, len(rows)), maps.Clone(p.in.Zones)
	if zones == nil {
		zones = map[string]string{}
	}
	for i, r := range rows {
		offerings[i] = r.Offering
		if _, known := zones[r.zoneID]; !known && r.of.ZoneID != "" {
			zones[r.zoneID] = r.Zone
		}
	}
	cat, left := offering.New(types, offerings, zones)
	if len(left) > 0 {
		slices.Sort(left)
		p.notes = append(p.notes, fmt.Sprintf("%d entries of the market were left out, the first: %s", len(left), left[0]))
	}
	n := cat.Len()
	read.cat, read.price, read.cost, read.observed, read.zoneID = cat, make([]float64, n), make([]float64, n), make([]time.Time, n), make([]string, n)
	read.score = make([]float64, n)
	for _, r := range rows {
		i, found := cat.Number(r.Offering)
		if !found {
			continue
		}
		read.zoneID[i] = r.zoneID
		if age := p.in.Now.Sub(r.of.ObservedAt); r.of.ObservedAt.IsZero() || age <= p.cfg.SampleTTL && age >= -ahead {
			read.take(i, r, p.cfg.RestartCost)
		}
	}
	p.market = read
}

// take takes in what a row tells about an offering.
func (m *market) take(i int, r row, restart float64) {
	m.observed[i] = r.of.ObservedAt
	if sane(r.of.Price) {
		m.price[i] = r.of.Price
		if vcpu := float64(m.cat.Type(i).VCPU); vcpu > 0 {
			m.cost[i] = r.of.Price / vcpu
			if r.CapacityType == nopsapi.CapacitySpot {
				m.cost[i] += hazard(r.of) * restart
			}
		}
	}
	if r.CapacityType == nopsapi.CapacitySpot && r.of.PlacementScore >= 1 && r.of.PlacementScore <= 10 {
		m.score[i] = float64(r.of.PlacementScore)
	}
}

// row is an offering of the market.
type row struct {
	offering.Offering
	zoneID string
	of     nopsapi.MarketOffering
}

// rows are the offerings of the market, each once.
func (p *planner) rows(m *nopsapi.Market) []row {
	rows, nameless := make([]row, 0, len(m.Offerings)), 0
	for _, o := range m.Offerings {
		zone := cmp.Or(o.Zone, p.in.Zones[o.ZoneID])
		if zone == "" {
			nameless++
			continue
		}
		if o.ObservedAt.IsZero() {
			o.ObservedAt = m.AsOf
		}
		r := row{offering.Offering{Type: o.InstanceType, Zone: zone, CapacityType: o.CapacityType}, cmp.Or(o.ZoneID, zone), o}
		rows = append(rows, r)
		if o.CapacityType == nopsapi.CapacitySpot && sane(o.OnDemandPrice) { // what has a spot price is sold on demand too
			r.CapacityType = nopsapi.CapacityOnDemand
			r.of.Price, r.of.CapacityType, r.of.PlacementScore, r.of.Interruption = o.OnDemandPrice, r.CapacityType, 0, nil
			r.of.ObservedAt = time.Time{} // loses against a row of its own
			rows = append(rows, r)
		}
	}
	if nameless > 0 {
		p.notes = append(p.notes, fmt.Sprintf("%d offerings are in zones whose names in this account are not known, and were left out", nameless))
	}
	// The newest row of an offering counts; where two are equally new, whichever sorts first, so that their order in the document is nothing.
	slices.SortFunc(rows, func(a, b row) int {
		if c := cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Zone, b.Zone), strings.Compare(a.CapacityType, b.CapacityType)); c != 0 {
			return c
		}
		return cmp.Or(b.of.ObservedAt.Compare(a.of.ObservedAt), cmp.Compare(a.of.Price, b.of.Price), cmp.Compare(a.of.OnDemandPrice, b.of.OnDemandPrice), cmp.Compare(a.of.PlacementScore, b.of.PlacementScore), strings.Compare(a.zoneID, b.zoneID),
			cmp.Compare(a.of.Confidence, b.of.Confidence), cmp.Compare(monthly(a.of.Interruption), monthly(b.of.Interruption)))
	})
	rows = slices.CompactFunc(rows, func(a, b row) bool { return a.Offering == b.Offering })
	return rows
}

func monthly(i *nopsapi.Interruption) float64 {
	if i == nil {
		return -1
	}
	return i.MonthlyHigh
}

// hazard is how often an hour a spot instance is taken away. The upper edge of what is known of a month counts, and more the less sure that is.
func hazard(o nopsapi.MarketOffering) float64 {
	if o.Interruption == nil || !sane(o.Interruption.MonthlyHigh) {
		return 0
	}
	confidence := o.Confidence
	if !sane(confidence) || confidence > 1 {
		confidence = 1
	}
	return -math.Log(1-min(o.Interruption.MonthlyHigh*(2-confidence), 0.99)) / hoursOf
}

func (p *planner) seriesKey(i int) string {
	o := p.market.cat.Offering(i)
	return o.Type + "/" + p.market.zoneID[i] + "/" + o.CapacityType
}

// smooth takes the new scores into the series: a median of the last five against outliers, then a moving average. What is missing is
// missing, not bad; samples die with their age. Series are kept of what a pool that we manage may launch, and of nothing else.
func (p *planner) smooth() {
	mine := p.market.cat.Empty()
	for _, b := range p.bases {
		mine = mine.Or(b.spot)
	}
	for i := range mine.All() {
		if p.market.score[i] == 0 || p.market.observed[i].IsZero() {
			continue
		}
		key, at := p.seriesKey(i), p.market.observed[i].Unix()
		s := p.mem.Series[key]
		if n := len(s.At); n > 0 && s.At[n-1] >= at {
			continue // seen before
		}
		fresh := Series{Price: p.market.price[i], Smooth: s.Smooth}
		fresh.At, fresh.Scores = append(slices.Clone(s.At), at), append(slices.Clone(s.Scores), p.market.score[i])
		if n := len(fresh.At); n > medianOf {
			fresh.At, fresh.Scores = fresh.At[n-medianOf:], fresh.Scores[n-medianOf:]
		}
		middle := median(fresh.Scores)
		if len(s.At) == 0 {
			fresh.Smooth = middle
		} else {
			fresh.Smooth += blend * (middle - fresh.Smooth)
		}
		p.mem.Series[key] = fresh
	}
}

// age drops what is too old from the memory.
func (p *planner) age() {
	oldest := p.in.Now.Add(-p.cfg.SampleTTL).Unix()
	newest := p.in.Now.Add(ahead).Unix()
	for key, s := range p.mem.Series {
		n := 0
		for n < len(s.At) && s.At[n] < oldest {
			n++
		}
		switch {
		case n == len(s.At) || len(s.Scores) != len(s.At) || s.At[len(s.At)-1] > newest:
			delete(p.mem.Series, key)
		case n > 0:
			s.At, s.Scores = slices.Clone(s.At[n:]), slices.Clone(s.Scores[n:])
			p.mem.Series[key] = s
		}
	}
	since := func(list []int64, d time.Duration) []int64 {
		return slices.DeleteFunc(slices.Clone(list), func(at int64) bool { return at <= p.in.Now.Add(-d).Unix() || at > newest })
	}
	p.mem.Writes = since(p.mem.Writes, time.Hour)
	for pool, flips := range p.mem.Flips {
		if flips = since(flips, 24*time.Hour); len(flips) == 0 {
			delete(p.mem.Flips, pool)
		} else {
			p.mem.Flips[pool] = flips
		}
	}
}

// fade takes back exclusions that rest on nothing any more, and forgets gates that nobody asks for.
func (p *planner) fade() {
	for key, g := range p.mem.Gates {
		unseen := p.in.Now.Sub(time.Unix(g.Seen, 0))
		switch {
		case g.Excluded && unseen > gateFade*max(p.cfg.Dwell, p.cfg.SampleTTL):
			p.mem.Gates[key] = Gate{Since: p.in.Now.Unix(), LastSeq: g.LastSeq, Seen: g.Seen}
		case !g.Excluded && unseen > forgetful:
			delete(p.mem.Gates, key)
		}
	}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// unitState is what is known of a family now.
type unitState struct {
	name     string
	score    float64            // 0: not known
	cost     float64            // USD per vCPU and hour, spot, with interruptions; 0: not known
	onDemand float64            // likewise, on demand
	zones    map[string]float64 // zone ID → score
	seen     time.Time
}

// units sums the market up by family. A family's score in a zone is the median of its types'; its score is that of its second best zone,
// so that one bad zone condemns nothing, and one good zone does not save it.
func (p *planner) units() map[string]*unitState {
	all := map[string]*unitState{}
	if p.market == nil {
		return all
	}
	spot := p.market.cat.Where(offering.LabelCapacityType, nopsapi.CapacitySpot)
	onDemand := p.market.cat.By(p.market.cat.Where(offering.LabelCapacityType, nopsapi.CapacityOnDemand), p.market.unit)
	for name, set := range p.market.cat.By(spot, p.market.unit) {
		if name == "" {
			continue
		}
		u := &unitState{name: name, zones: map[string]float64{}}
		scores, costs := map[string][]float64{}, []float64{}
		for i := range set.All() {
			if p.market.cost[i] > 0 {
				costs = append(costs, p.market.cost[i])
			}
			if at := p.market.observed[i]; at.After(u.seen) {
				u.seen = at
			}
			if s, known := p.mem.Series[p.seriesKey(i)]; known {
				scores[p.market.zoneID[i]] = append(scores[p.market.zoneID[i]], s.Smooth)
			}
		}
		u.cost = median(costs)
		costs = costs[:0]
		for i := range onDemand[name].All() {
			if p.market.cost[i] > 0 {
				costs = append(costs, p.market.cost[i])
			}
		}
		u.onDemand = median(costs)
		var best []float64
		for zone, list := range scores {
			u.zones[zone] = median(list)
			best = append(best, u.zones[zone])
		}
		slices.Sort(best)
		if n := len(best); n > 0 {
			u.score = best[max(0, n-2)]
		}
		all[name] = u
	}
	return all
}

// turnGates lets each gate count this market, once.
func (p *planner) turnGates() {
	for _, name := range slices.Sorted(maps.Keys(p.unit)) {
		u := p.unit[name]
		p.turn(name, u.score, u.cost, u.onDemand, u.seen)
		for _, zone := range slices.Sorted(maps.Keys(u.zones)) {
			p.turn(name+"/"+zone, u.zones[zone], 0, 0, u.seen)
		}
	}
}

// sample is what a market says of a family: for it, against it, neither, or nothing at all.
type sample struct{ good, bad, dear, silent bool }

// judge weighs what is known. A score decides where there is one. Spot that costs as much as on demand counts against a family whatever the score is;
// where there is no score, cost alone may only take back what cost alone has done.
func (p *planner) judge(g Gate, score, cost, onDemand float64) sample {
	priced := cost > 0 && onDemand > 0
	cheap := priced && cost <= onDemand*0.9
	s := sample{dear: priced && cost >= onDemand}
	s.bad = s.dear || score > 0 && score <= float64(p.cfg.Lo)
	if score > 0 {
		s.good = !s.bad && score >= float64(p.cfg.Hi) && (cheap || !priced)
		return s
	}
	s.good = !s.bad && g.Excluded && g.Cost && cheap
	s.silent = !s.good && !s.bad
	return s
}

// turn is one sample of one gate. One between the thresholds breaks both counts; what is not known leaves them as they are.
func (p *planner) turn(key string, score, cost, onDemand float64, seen time.Time) {
	g := p.mem.Gates[key]
	if p.market.seq <= g.LastSeq || seen.IsZero() || seen.Unix() <= g.Seen {
		return
	}
	s := p.judge(g, score, cost, onDemand)
	g.LastSeq, g.Seen = p.market.seq, seen.Unix()
	switch {
	case s.silent:
	case s.bad:
		g.Bad, g.Good = min(g.Bad+1, p.cfg.Exclude), 0
	case s.good:
		g.Bad, g.Good = 0, min(g.Good+1, p.cfg.Readmit)
	default:
		g.Bad, g.Good = 0, 0
	}
	settled := g.Since == 0 || p.in.Now.Sub(time.Unix(g.Since, 0)) >= p.cfg.Dwell
	switch {
	case s.silent || !settled:
	case !g.Excluded && g.Bad >= p.cfg.Exclude:
		g.Excluded, g.Cost, g.Since, g.Bad, g.Good = true, s.dear && (score == 0 || score > float64(p.cfg.Lo)), p.in.Now.Unix(), 0, 0
	case g.Excluded && g.Good >= p.cfg.Readmit:
		g = Gate{Since: p.in.Now.Unix(), LastSeq: g.LastSeq, Seen: g.Seen}
	}
	p.mem.Gates[key] = g
}
