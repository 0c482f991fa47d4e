package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// shape is a Shape with what fits it.
type shape struct {
	Shape
	fits offering.Set
}

func (p *planner) measureShapes() {
	for _, s := range p.in.Shapes {
		p.shapes = append(p.shapes, shape{Shape: s, fits: p.market.cat.Fits(p.market.cat.All(), s.CPU, s.MemoryMiB, offering.Compile(s.Selector))})
	}
}

// tally counts what a set of families has, so that taking one out is a subtraction. Families partition instance types, hence what fits a shape too.
type tally struct {
	types    int
	families int
	zones    map[string]int // families in it
	archs    map[string]int
	oss      map[string]int
	fits     []int
}

func newTally(shapes int) *tally {
	return &tally{zones: map[string]int{}, archs: map[string]int{}, oss: map[string]int{}, fits: make([]int, shapes)}
}

// count is the tally of one family.
func (p *planner) count(set offering.Set, shapes []shape) *tally {
	t := newTally(len(shapes))
	t.types, t.families = p.market.cat.Types(set), 1
	for key, counts := range map[string]map[string]int{offering.LabelZone: t.zones, offering.LabelArch: t.archs, offering.LabelOS: t.oss} {
		for _, value := range p.market.cat.Values(set, key) {
			counts[value] = 1
		}
	}
	last := make([]*offering.Type, len(shapes)) // offerings of a type lie together
	for o := range set.All() {
		of := p.market.cat.Type(o)
		for i := range shapes {
			if last[i] != of && shapes[i].fits.Has(o) {
				t.fits[i]++
				last[i] = of
			}
		}
	}
	return t
}

func (t *tally) add(o *tally, sign int) {
	t.types += sign * o.types
	t.families += sign * o.families
	for to, from := range map[*map[string]int]map[string]int{&t.zones: o.zones, &t.archs: o.archs, &t.oss: o.oss} {
		for key, n := range from {
			if (*to)[key] += sign * n; (*to)[key] == 0 {
				delete(*to, key)
			}
		}
	}
	for i, n := range o.fits {
		t.fits[i] += sign * n
	}
}

// floor is what has to be left.
type floor struct {
	types, families, zones int
	archs, oss             []string
	fits                   []int
}

// floorOf is the floor of a pool, given all that it has. An architecture, an operating system and, as far as there are that many, types
// for each shape of pods that it has now stay; the numbers are asked of it whatever it has.
func (p *planner) floorOf(all *tally) floor {
	f := floor{types: p.cfg.MinTypes, families: p.cfg.MinFamilies, zones: min(p.cfg.MinZones, len(all.zones))}
	if p.in.Karpenter.SpotToSpot {
		f.types = max(f.types, 15) // below it Karpenter does not move spot to cheaper spot
	}
	f.archs, f.oss = slices.Sorted(maps.Keys(all.archs)), slices.Sorted(maps.Keys(all.oss))
	for _, n := range all.fits {
		f.fits = append(f.fits, min(n, p.cfg.MinFits))
	}
	return f
}

// missing says what of the floor does not hold, "" if all does.
func (f floor) missing(t *tally, shapes []shape) string {
	switch {
	case t.types < f.types:
		return fmt.Sprintf("%d instance types, and at least %d are wanted", t.types, f.types)
	case t.families < f.families:
		return fmt.Sprintf("%d families, and at least %d are wanted", t.families, f.families)
	case len(t.zones) < f.zones:
		return fmt.Sprintf("%d zones, and at least %d are wanted", len(t.zones), f.zones)
	}
	for _, arch := range f.archs {
		if t.archs[arch] == 0 {
			return "nothing for " + arch
		}
	}
	for _, os := range f.oss {
		if t.oss[os] == 0 {
			return "nothing for " + os
		}
	}
	for i, n := range f.fits {
		if t.fits[i] < n {
			return fmt.Sprintf("%d instance types that fit pods of %s vCPU and %s MiB, and at least %d are wanted", t.fits[i], number(shapes[i].CPU), number(shapes[i].MemoryMiB), n)
		}
	}
	return ""
}

// family is a candidate.
type family struct {
	*unitState
	set      offering.Set
	tally    *tally
	excluded bool // by its gate
	dear     bool
}

// preferSpot decides which families a preferred spot pool of a base would have, and whether it is worth one.
//
// Excluded are families whose gate says so, the worst first, and then those that are dear, each only while what is left keeps the floors.
// Where the base itself does not keep them nothing is excluded at all. What is excluded is said with NotIn, or taken out of a list that
// the user wrote: a family that nothing is known of stays allowed.
func (p *planner) preferSpot(b *base) {
	if !p.plans(b) {
		b.undecided = true
		return
	}
	if p.market == nil {
		b.undecided = true
		p.say(b.Name, "spot: held as it is, for no market data is valid now")
		return
	}
	c := p.market.cat
	n := c.Count(b.effective.Set)
	p.say(b.Name, "it can launch %d offerings: %d instance types of %d families in %d zones", n.Offerings, n.Types, n.Families, n.Zones)
	for _, note := range p.notes {
		p.say(b.Name, "market %d: %s", p.market.seq, note)
	}
	if b.spot.IsEmpty() {
		p.say(b.Name, "spot: none of it is spot, so there is nothing to prefer")
		return
	}
	have := p.preferredNow(b)
	var shapes []shape
	for _, s := range p.shapes {
		if s.Pools == nil || slices.Contains(s.Pools, b.Name) {
			shapes = append(shapes, s)
		}
	}
	var families []*family
	all := newTally(len(shapes))
	split := c.By(b.spot, p.market.unit)
	for _, name := range slices.Sorted(maps.Keys(split)) {
		f := &family{unitState: p.unit[name], set: split[name], tally: p.count(split[name], shapes), excluded: name != "" && p.mem.Gates[name].Excluded}
		if f.unitState == nil { // types of no family: they cannot be named, so they stay
			f.unitState = &unitState{}
			f.tally.families = 0
		}
		all.add(f.tally, 1)
		families = append(families, f)
	}
	floor := p.floorOf(all)
	object := "NodePool/" + b.Name
	if missing := floor.missing(all, shapes); missing != "" {
		p.say(b.Name, "spot: nothing is excluded, for the pool itself has only %s", missing)
		p.find("floors-not-met", object, "", fmt.Sprintf("with all that its requirements allow on spot it has only %s: the fewer kinds of instances, the more of them are interrupted together. Allow more of them.", missing), nil, 0)
		return
	}
	if unmet := p.unmet(b, b.spot); unmet != "" {
		p.say(b.Name, "spot: nothing is excluded, for spot alone has only %s", unmet)
		return
	}
	p.markDear(families, have)
	gone, left, kept, turned := p.leaveOut(b, families, all, floor, shapes)
	strict := len(b.effective.Required.MinValues()) > 0
	zones := p.badZones(b, families, gone, kept, floor, shapes, strict)
	for _, zone := range zones {
		kept, turned = kept.Minus(c.Where(offering.LabelZone, zone)), true
	}
	before, after := p.costOf(b.spot), p.costOf(kept)
	saving := 0.0
	if before > 0 && after > 0 {
		saving = 1 - after/before
	}
	enough := p.cfg.MinSaving
	if have != nil {
		enough /= 2 // what is there stays until it is worth half as much
	}
	switch {
	case len(gone)+len(zones) == 0:
		p.say(b.Name, "spot: all %d families are as good as the rest, so there is nothing to prefer", all.families)
		p.idle(b, families, have)
		return
	case !turned && saving < enough:
		p.say(b.Name, "spot: without them a vCPU and hour would cost $%.4f instead of $%.4f: %.1f %% are not worth a NodePool, which takes %.1f %%", after, before, saving*100, enough*100)
		p.idle(b, families, have)
		return
	}
	list, _, err := offering.Narrow(b.original, edits(p.market.unit, gone, zones)...)
	if err != nil {
		p.say(b.Name, "spot: no preferred pool can be made: %v", err)
		return
	}
	change := fmt.Sprintf("%.1f %% less", saving*100)
	if saving < 0 {
		change = fmt.Sprintf("%.1f %% more", -saving*100)
	}
	reason := fmt.Sprintf("spot without %s: $%.4f instead of $%.4f per vCPU and hour, interruptions counted (%s)", names(append(slices.Clone(gone), zones...)), after, before, change)
	b.prefer = &want{purpose: spotPurpose, list: list, set: kept, reason: reason, byGate: turned, families: gone, zones: zones}
	p.say(b.Name, "spot: a preferred pool would have %d instance types of %d families in %d zones; %s", c.Types(kept), left.families, len(c.Values(kept, offering.LabelZone)), reason)
}

// leaveOut takes families out, the worst first, as long as what is left keeps the floor.
func (p *planner) leaveOut(b *base, families []*family, all *tally, floor floor, shapes []shape) (gone []string, left *tally, kept offering.Set, turned bool) {
	candidates := slices.DeleteFunc(slices.Clone(families), func(f *family) bool { return f.name == "" || !f.excluded && !f.dear })
	slices.SortFunc(candidates, func(x, y *family) int {
		return cmp.Or(boolean(y.excluded)-boolean(x.excluded), cmp.Compare(y.cost, x.cost), strings.Compare(x.name, y.name))
	})
	left, kept = newTally(len(shapes)), b.spot
	left.add(all, 1)
	strict := len(b.effective.Required.MinValues()) > 0
	for _, f := range candidates {
		why := fmt.Sprintf("spot costs $%.4f per vCPU and hour with interruptions", f.cost)
		if f.excluded {
			why = fmt.Sprintf("placement score %.1f, and its gate excludes it since %s", f.score, stamp(unix(p.mem.Gates[f.name].Since)))
		}
		left.add(f.tally, -1)
		trial := kept.Minus(f.set)
		missing := floor.missing(left, shapes)
		if missing == "" && strict {
			missing = p.unmet(b, trial)
		}
		if missing != "" {
			left.add(f.tally, 1)
			p.say(b.Name, "spot: %s stays (%s): without it there would be %s", f.name, why, missing)
			continue
		}
		kept, turned = trial, turned || f.excluded
		gone = append(gone, f.name)
		p.say(b.Name, "spot: %s is left out: %s", f.name, why)
	}
	return gone, left, kept, turned
}

// unmet says what minValues of a base a set does not meet, "" if it meets all.
func (p *planner) unmet(b *base, set offering.Set) string {
	unmet := p.market.cat.Unmet(set, b.effective.Required, p.market.cat.Reach(b.Zones))
	if len(unmet) == 0 {
		return ""
	}
	return fmt.Sprintf("%d values of %s, and minValues asks for %d", unmet[0].Have, unmet[0].Key, unmet[0].Want)
}

// idle keeps a sibling that there is nothing to prefer by, open to all that its base may launch on spot, until the gates have been quiet for a
// while: what turned today turns again tomorrow, and a sibling that goes and comes back is two NodePools and a handover for nothing.
func (p *planner) idle(b *base, families []*family, have *offering.Compiled) {
	if have == nil {
		return
	}
	var last int64
	for _, f := range families {
		last = max(last, p.mem.Gates[f.name].Since)
	}
	until := unix(last).Add(quiet * p.cfg.Dwell)
	if !p.in.Now.Before(until) {
		return
	}
	list, _, err := offering.Narrow(b.original, edits(p.market.unit, nil, nil)...)
	if err != nil {
		return
	}
	b.prefer = &want{purpose: spotPurpose, list: list, set: b.spot, reason: "all of its base's spot, for nothing is excluded now", byGate: true}
	p.say(b.Name, "spot: its sibling stays, open to all of them, until the gates have been quiet for %s: %s", time.Duration(quiet)*p.cfg.Dwell, stamp(until))
}

func edits(unit string, families, zones []string) []offering.Edit {
	all := []offering.Edit{{Key: offering.LabelCapacityType, Only: []string{nopsapi.CapacitySpot}}}
	if len(families) > 0 {
		all = append(all, offering.Edit{Key: unit, Without: families})
	}
	if len(zones) > 0 {
		all = append(all, offering.Edit{Key: offering.LabelZone, Without: zones})
	}
	return all
}

// preferredNow is what the base's spot sibling requires now; nil: there is none that takes nodes.
func (p *planner) preferredNow(b *base) *offering.Compiled {
	for _, s := range b.siblings {
		if s.Purpose == spotPurpose && !closed(s) {
			return new(offering.Compile(s.Requirements))
		}
	}
	return nil
}

// markDear marks families that cost much more than the cheapest ones that the floor asks for anyway. One that is left out already has to
// become somewhat cheaper than that before it is let in again, so that a price at the edge changes nothing.
func (p *planner) markDear(families []*family, have *offering.Compiled) {
	var costs []float64
	for _, f := range families {
		if f.cost > 0 {
			costs = append(costs, f.cost)
		}
	}
	if len(costs) <= p.cfg.MinFamilies {
		return
	}
	slices.Sort(costs)
	reference := costs[p.cfg.MinFamilies-1]
	for _, f := range families {
		times := dearer
		if have != nil && !have.Allows(p.market.unit, f.name) {
			times = cheaper
		}
		f.dear = f.cost > reference*times
	}
}

// badZones are zones in which the gates of all families that are left say no, as far as any says anything.
func (p *planner) badZones(b *base, families []*family, gone []string, kept offering.Set, floor floor, shapes []shape, strict bool) []string {
	c := p.market.cat
	ids := map[string]string{}
	for i := range b.spot.All() {
		ids[c.Offering(i).Zone] = p.market.zoneID[i]
	}
	var bad []string
	for _, zone := range c.Values(kept, offering.LabelZone) {
		excluded, other := 0, 0
		for _, f := range families {
			if f.name == "" || slices.Contains(gone, f.name) {
				continue
			}
			g, known := p.mem.Gates[f.name+"/"+ids[zone]]
			switch {
			case !known:
			case g.Excluded:
				excluded++
			default:
				other++
			}
		}
		if excluded == 0 || other > 0 {
			continue
		}
		trial := kept.Minus(c.Where(offering.LabelZone, zone))
		left := newTally(len(shapes))
		for _, set := range c.By(trial, p.market.unit) {
			left.add(p.count(set, shapes), 1)
		}
		missing := floor.missing(left, shapes)
		if missing == "" && strict {
			missing = p.unmet(b, trial)
		}
		if missing != "" {
			p.say(b.Name, "spot: zone %s stays although %d families are scarce there: without it there would be %s", zone, excluded, missing)
			continue
		}
		p.say(b.Name, "spot: zone %s is left out: all %d families that are known there are scarce", zone, excluded)
		kept = trial
		bad = append(bad, zone)
	}
	return bad
}

// costOf is what a vCPU and hour of a set costs, interruptions counted: the mean over the cheapest types that Karpenter would offer EC2.
func (p *planner) costOf(set offering.Set) float64 {
	cheapest := map[string]float64{}
	for i := range set.All() {
		if e := p.market.cost[i]; e > 0 {
			if name := p.market.cat.Offering(i).Type; cheapest[name] == 0 || e < cheapest[name] {
				cheapest[name] = e
			}
		}
	}
	costs := slices.Sorted(maps.Values(cheapest))
	costs = costs[:min(len(costs), spread)]
	sum := 0.0
	for _, e := range costs {
		sum += e
	}
	if len(costs) == 0 {
		return 0
	}
	return sum / float64(len(costs))
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}
