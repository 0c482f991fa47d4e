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

// Commitments
//
// What an hour does not use of a commitment is lost, so this cluster's share of it is offered to pods first, in a sibling that launches on demand
// alone and whose limit is the share. Commitments of one scope (kind of coverage, family, zone, instance type) share a sibling; those of different scopes do
// not: a limit of their sum would let one family use up what only another one is paid for. Different scopes may have the same requirements all the same,
// as a Reserved Instance and a Savings Plan for one family do, so whose a sibling is they do not tell (whose does).
//
// The share counts after what the cluster runs on demand in that scope anyway, outside the sibling: AWS applies the commitment to that too,
// whatever we do. Who is served first is AWS's order (https://docs.aws.amazon.com/savingsplans/latest/userguide/sp-applying.html): Reserved Instances, zonal ones
// first, then EC2 Instance Savings Plans, then Compute Savings Plans.
//
// Capacity reservations (capacity type reserved) are none of this: Karpenter fills them by itself.

const (
	perNormalized = 2         // normalisation factors of a vCPU: a large has 4, and two vCPUs
	leaseGrace    = time.Hour // after a lease, in which it is held and not raised
	taperMargin   = 12        // the taper reaches 0 this part of itself before the end: limits take no node away, and consolidation takes its time
)

// scope is what several commitments have in common, and one sibling is for.
type scope struct {
	key                            string
	rank                           int // in AWS's order
	family, zone, instance, region string
	os                             string
	commitments                    []nopsapi.Commitment
	live                           float64 // vCPU that run on demand in it, outside its sibling
	unusable                       string
}

// scopes groups what is valid by scope.
func (p *planner) scopes() []*scope {
	by := map[string]*scope{}
	list := slices.Clone(p.in.Commitments.Commitments)
	slices.SortStableFunc(list, func(a, b nopsapi.Commitment) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return strings.Compare(digest(a), digest(b))
	})
	list = slices.CompactFunc(list, func(a, b nopsapi.Commitment) bool { return a.ID == b.ID })
	for _, c := range list {
		s := &scope{region: c.Scope.Region, family: c.Scope.Family, zone: c.Scope.ZoneID, instance: c.Scope.InstanceType}
		switch c.Kind {
		case nopsapi.CommitmentZonalRI:
			s.rank = 0
		case nopsapi.CommitmentStandardRI:
			s.rank = 1
		case nopsapi.CommitmentConvertibleRI:
			s.rank = 2
		case nopsapi.CommitmentEC2InstanceSP:
			s.rank = 3
		case nopsapi.CommitmentComputeSP:
			s.rank = 4
		default:
			s.unusable = fmt.Sprintf("its kind %q is not known", c.Kind)
		}
		switch platform := strings.ToLower(c.Scope.Platform); {
		case platform == "" || strings.HasPrefix(platform, "linux"):
		case platform == "windows":
			s.os = "windows"
		default:
			s.unusable = fmt.Sprintf("it is for the platform %q, which no node of a NodePool has", c.Scope.Platform)
		}
		if t := c.Scope.Tenancy; t != "" && t != "default" && t != "shared" {
			s.unusable = fmt.Sprintf("it is for the tenancy %q", t)
		}
		if c.Kind == nopsapi.CommitmentZonalRI && (s.zone == "" || s.instance == "") {
			s.unusable = "a zonal Reserved Instance names its zone and its instance type, and this one does not"
		}
		if region := p.region(); s.unusable == "" && s.region != "" && region != s.region {
			s.unusable = fmt.Sprintf("it is for %s, and this cluster is in %s", s.region, cmp.Or(region, "a region that is not known"))
		}
		s.key = fmt.Sprintf("%d/%s/%s/%s/%s/%s", s.rank, s.region, s.family, s.zone, s.instance, s.os)
		if s.unusable != "" {
			p.find("commitment-unusable", "Commitment/"+c.ID, "", "it cannot be used here: "+s.unusable, nil, 0)
			continue
		}
		if by[s.key] == nil {
			by[s.key] = s
		}
		by[s.key].commitments = append(by[s.key].commitments, c)
	}
	all := slices.Collect(maps.Values(by))
	slices.SortFunc(all, func(a, b *scope) int { return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.key, b.key)) })
	return all
}

// region is the cluster's, "" if nothing says it.
func (p *planner) region() string {
	if p.market != nil && p.market.region != "" {
		return p.market.region
	}
	for _, id := range slices.Sorted(maps.Keys(p.in.Zones)) {
		if zone := p.in.Zones[id]; len(zone) > 1 {
			return strings.TrimRight(zone, "abcdefghijklmnopqrstuvwxyz")
		}
	}
	return ""
}

func (s *scope) ids() []string {
	var ids []string
	for _, c := range s.commitments {
		ids = append(ids, c.ID)
	}
	return ids
}

func (s *scope) String() string {
	parts := []string{s.commitments[0].Kind}
	for _, part := range []string{s.region, s.family, s.zone, s.instance, s.os} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, " ") + " (" + names(s.ids()) + ")"
}

// scopeEdits are what narrows a base to the scope. rated are the families that a price is known of, where the commitment is in dollars.
func (p *planner) scopeEdits(s *scope, rated []string) []offering.Edit {
	all := []offering.Edit{{Key: offering.LabelCapacityType, Only: []string{nopsapi.CapacityOnDemand}}}
	switch {
	case s.family != "":
		all = append(all, offering.Edit{Key: p.unitLabel(), Only: []string{s.family}})
	case rated != nil:
		all = append(all, offering.Edit{Key: p.unitLabel(), Only: rated})
	}
	if s.zone != "" {
		all = append(all, offering.Edit{Key: offering.LabelZone, Only: []string{cmp.Or(p.in.Zones[s.zone], s.zone)}})
	}
	if s.instance != "" {
		all = append(all, offering.Edit{Key: offering.LabelInstanceType, Only: []string{s.instance}})
	}
	if s.os != "" {
		all = append(all, offering.Edit{Key: offering.LabelOS, Only: []string{s.os}})
	}
	return all
}

func (p *planner) unitLabel() string {
	if p.market != nil {
		return p.market.unit
	}
	return offering.LabelFamily
}

// rated are the families that all commitments in dollars of a scope have a rate for; nil: none is in dollars.
func (s *scope) rated() []string {
	var all []string
	first := true
	for _, c := range s.commitments {
		if c.Unit != nopsapi.UnitUSDPerHour {
			continue
		}
		var mine []string
		for family, rate := range c.Rates {
			if sane(rate) {
				mine = append(mine, family)
			}
		}
		slices.Sort(mine)
		if first {
			all, first = append([]string{}, mine...), false
		} else {
			all = slices.DeleteFunc(all, func(f string) bool { return !slices.Contains(mine, f) })
		}
	}
	return all
}

// sold are those of the families that the region has, as far as that is known: the others have rates, and nobody can launch them.
func (p *planner) sold(families []string) []string {
	if families == nil || p.market == nil {
		return families
	}
	known := p.market.cat.Values(p.market.cat.All(), p.market.unit)
	return slices.DeleteFunc(families, func(f string) bool { return !slices.Contains(known, f) })
}

// onDemand says whether a commitment may cover a node at all.
func onDemand(n *Node) bool {
	ct := n.Labels[offering.LabelCapacityType]
	return ct == nopsapi.CapacityOnDemand || ct == nopsapi.CapacityReserved
}

// fits says whether an on-demand node is covered by the scope.
func (s *scope) fits(n *Node, unit string, zones map[string]string, rated []string) bool {
	family := n.Labels[unit]
	if family == "" {
		family, _, _ = strings.Cut(n.Labels[offering.LabelInstanceType], ".")
	}
	switch {
	case s.family != "" && family != s.family:
	case s.family == "" && rated != nil && !slices.Contains(rated, family):
	case s.zone != "" && n.Labels[offering.LabelZone] != cmp.Or(zones[s.zone], s.zone) && n.Labels[offering.LabelZoneID] != s.zone:
	case s.instance != "" && n.Labels[offering.LabelInstanceType] != s.instance:
	case s.os != "" && n.Labels[offering.LabelOS] != s.os:
	default:
		return true
	}
	return false
}

// share is what a scope gives this cluster now.
type share struct {
	target float64 // vCPU, less what runs anyway, with headroom
	lease  float64 // vCPU that may be used at most
	whole  float64 // vCPU that are there, with the taper before the end
	frozen bool
	why    []string
	known  bool
}

// shareOf sums a scope up. A commitment that is in dollars counts by the dearest family that may be launched under it.
func (p *planner) shareOf(s *scope, families []string) share {
	out := share{known: true}
	for _, c := range s.commitments {
		convert := 1.0
		switch c.Unit {
		case nopsapi.UnitVCPU:
		case nopsapi.UnitNormalized:
			convert = 1.0 / perNormalized
		case nopsapi.UnitUSDPerHour:
			rate := 0.0
			for _, family := range families {
				if r := c.Rates[family]; sane(r) {
					rate = max(rate, r)
				}
			}
			if rate == 0 {
				p.find("commitment-no-rate", "Commitment/"+c.ID, "", "it is in dollars an hour, and there is no rate for any family that a managed NodePool may launch, so how many vCPU it pays for is not known", nil, 0)
				out.known = false
				out.why = append(out.why, c.ID+": no rate to convert dollars by")
				continue
			}
			convert = 1 / rate
		default:
			p.find("commitment-no-rate", "Commitment/"+c.ID, "", fmt.Sprintf("its unit %q is not known", c.Unit), nil, 0)
			out.known = false
			continue
		}
		switch {
		case c.Allocation == nil:
			out.why = append(out.why, c.ID+": this cluster has no share of it")
			continue
		case p.in.Now.Before(c.Start):
			out.why = append(out.why, c.ID+": it begins on "+stamp(c.Start))
			continue
		case !c.End.IsZero() && !p.in.Now.Before(c.End):
			out.why = append(out.why, c.ID+": it ended on "+stamp(c.End))
			continue
		}
		lease, late := clean(c.Allocation.VCPU), p.in.Now.Sub(c.Allocation.LeaseUntil)
		switch {
		case late >= leaseGrace:
			out.why = append(out.why, c.ID+": its lease ran out on "+stamp(c.Allocation.LeaseUntil))
			continue
		case late >= 0:
			out.frozen = true
			out.why = append(out.why, c.ID+": its lease ran out on "+stamp(c.Allocation.LeaseUntil)+": held, not raised")
		}
		free := max(0, clean(c.Total)-clean(c.OtherUse.P90)) * convert
		part := min(lease, free)
		words := fmt.Sprintf("%s: lease %.0f vCPU, %.0f left by others (%s less their 90th percentile %s, in %s)", c.ID, lease, free, number(clean(c.Total)), number(clean(c.OtherUse.P90)), c.Unit)
		if left := c.End.Sub(p.in.Now); !c.End.IsZero() && left < p.cfg.ExpiryTaper {
			margin := p.cfg.ExpiryTaper / taperMargin
			part *= max(0, float64(left-margin)/float64(p.cfg.ExpiryTaper-margin))
			words += fmt.Sprintf(", of which %.0f, for it ends in %s", part, left.Round(time.Minute))
		}
		out.why = append(out.why, words)
		out.lease += lease
		out.whole += part
	}
	out.lease = math.Floor(max(0, out.lease-s.live))
	out.target = min(out.lease, math.Floor(p.cfg.Headroom*max(0, out.whole-s.live)))
	if s.live > 0 {
		out.why = append(out.why, fmt.Sprintf("%s vCPU run on demand in its scope anyway", number(s.live)))
	}
	return out
}

func clean(f float64) float64 {
	if sane(f) {
		return min(f, 1<<50)
	}
	return 0
}

// ledger is what shareCommitments keeps account of.
type ledger struct {
	siblings map[*Pool]*base   // for commitments
	owners   map[*Pool]*scope  // whose they are; none: any scope's that they suit
	done     map[*Pool]bool    // those that a scope has found
	nodes    []*Node           // on demand
	rest     map[*Node]float64 // of their vCPU what no commitment is taken to cover yet
}

// shareCommitments finds a base for each scope and says what sibling it should have there.
func (p *planner) shareCommitments() {
	l := ledger{siblings: map[*Pool]*base{}, done: map[*Pool]bool{}, rest: map[*Node]float64{}}
	for _, b := range p.bases {
		if !p.plans(b) {
			continue
		}
		for _, s := range b.siblings {
			if s.Purpose == commitmentPurpose {
				l.siblings[s] = b
			}
		}
		if p.in.Commitments == nil {
			p.say(b.Name, "commitments: held as they are, for no commitment data is valid now")
		}
	}
	if p.in.Commitments != nil {
		for i := range p.in.Nodes {
			if n := &p.in.Nodes[i]; onDemand(n) {
				l.nodes, l.rest[n] = append(l.nodes, n), n.VCPU
			}
		}
		scopes := p.scopes()
		l.owners = whose(scopes, l.siblings)
		for _, s := range scopes {
			p.shareScope(s, l)
		}
	}
	for _, s := range p.sortedPools() {
		b := l.siblings[s]
		switch {
		case b == nil || l.done[s] || closed(s):
		case p.in.Commitments == nil:
			p.stays(b, s, "nothing is known of commitments now")
		default:
			why := "its commitments are gone"
			if slices.ContainsFunc(p.in.Commitments.Commitments, func(c nopsapi.Commitment) bool { return slices.Contains(s.Commitments, c.ID) && c.End.After(p.in.Now) }) {
				why = "nothing that its commitments cover may be bought for it any more"
			}
			p.say(b.Name, "commitments: %s (%s): %s; its limit falls by %d vCPU a run", s.Name, strings.Join(s.Commitments, ", "), why, p.cfg.RampDown)
			b.committed = append(b.committed, &want{purpose: commitmentPurpose, list: listOf(s), current: s, fate: exact, ids: s.Commitments, reason: why})
		}
	}
}

// stays holds a sibling as it is.
func (p *planner) stays(b *base, s *Pool, why string) {
	p.say(b.Name, "commitments: %s stays as it is: %s", s.Name, why)
	now, _ := limit(s, resourceCPU)
	b.committed = append(b.committed, &want{purpose: commitmentPurpose, list: listOf(s), current: s, fate: exact, ids: s.Commitments, lease: now, target: now, held: true, reason: why})
}

// shareScope decides about one scope.
func (p *planner) shareScope(s *scope, l ledger) {
	rated := p.sold(s.rated())
	at, current := p.baseFor(s, rated, l)
	own := p.inScope(s, rated, current, l)
	families := rated
	if s.family != "" {
		families = []string{s.family}
	}
	if at != nil {
		allowed := offering.Compile(at.Requirements)
		if current != nil && p.market == nil {
			allowed = offering.Compile(current.Requirements)
		}
		families = slices.DeleteFunc(slices.Clone(families), func(f string) bool { return !allowed.Allows(p.unitLabel(), f) })
	}
	share := p.shareOf(s, families)
	p.cover(s, share.whole, own, l, rated)
	if at == nil {
		if len(p.bases) > 0 && p.market != nil {
			for _, id := range s.ids() {
				p.find("commitment-no-pool", "Commitment/"+id, "", "no managed NodePool may launch on demand what it pays for ("+s.String()+"): what this cluster does not use of it is lost", nil, 0)
			}
		}
		return
	}
	for _, line := range share.why {
		p.say(at.Name, "commitments: %s", line)
	}
	if current != nil {
		l.done[current] = true
	}
	if !share.known {
		if current != nil && !closed(current) {
			p.stays(at, current, "what it pays for is not known")
		}
		return
	}
	p.say(at.Name, "commitments: %s: %.0f vCPU are worth keeping in use here (%.0f %% of what is left)", s, share.target, p.cfg.Headroom*100)
	if share.target < 1 && (current == nil || closed(current)) {
		return // there is none to make, or it goes
	}
	w := &want{
		purpose: commitmentPurpose, ids: s.ids(), key: s.key, target: share.target, lease: share.lease, most: min(share.lease, max(0, share.whole-s.live)), frozen: share.frozen, current: current,
		reason: fmt.Sprintf("%.0f vCPU of %s for this cluster", share.target, s),
	}
	if p.market == nil {
		w.list, w.fate = listOf(current), exact
	} else {
		list, _, err := offering.Narrow(at.original, p.scopeEdits(s, rated)...)
		if err != nil {
			p.say(at.Name, "commitments: %s: no pool can be made for it: %v", s, err)
			return
		}
		w.list, w.set = list, p.launches(at, list).Set
		if current != nil {
			_, w.fate = p.match(at, list, []*Pool{current})
		}
	}
	at.committed = append(at.committed, w)
}

// inScope sums up what runs on demand in a scope outside its sibling, as far as nothing covers it yet, and gives the nodes inside.
func (p *planner) inScope(s *scope, rated []string, current *Pool, l ledger) (own []*Node) {
	for _, n := range l.nodes {
		switch {
		case !s.fits(n, p.unitLabel(), p.in.Zones, rated):
		case current != nil && n.Pool == current.Name:
			own = append(own, n)
		default:
			s.live += l.rest[n]
		}
	}
	return own
}

// cover takes what a scope pays for off the nodes in it, so that what comes later in AWS's order does not count them again.
func (p *planner) cover(s *scope, whole float64, own []*Node, l ledger, rated []string) {
	for _, inside := range []bool{false, true} { // what runs anyway first
		for _, n := range l.nodes {
			if s.fits(n, p.unitLabel(), p.in.Zones, rated) && slices.Contains(own, n) == inside {
				take := min(l.rest[n], whole)
				l.rest[n], whole = l.rest[n]-take, whole-take
			}
		}
	}
}

// whose finds the scope that each sibling is for: the one that it was made for, which its name tells while its template is as it was made, or else one with
// a commitment that it names. One of neither is nobody's: its commitments are gone, and others of the same coverage may have come in their place. Were a
// sibling taken by its requirements alone, the first scope in AWS's order would take what a later one fills, and with nothing left to share close it, and
// the later one would make it again.
func whose(scopes []*scope, siblings map[*Pool]*base) map[*Pool]*scope {
	owners := map[*Pool]*scope{}
	for pool, b := range siblings {
		made := func(s *scope) bool {
			return pool.Name == scopedName(b.Name, commitmentPurpose, s.key, at(pool.Object, "spec", "template"))
		}
		named := func(s *scope) bool {
			return slices.ContainsFunc(s.ids(), func(id string) bool { return slices.Contains(pool.Commitments, id) })
		}
		i := slices.IndexFunc(scopes, made)
		if i < 0 {
			i = slices.IndexFunc(scopes, named)
		}
		if i >= 0 {
			owners[pool] = scopes[i]
		}
	}
	return owners
}

// baseFor finds the base that a scope's sibling is beside: where there is one already, its own before one of nobody's, or the one with the most vCPU
// that may use it.
func (p *planner) baseFor(s *scope, rated []string, l ledger) (*base, *Pool) {
	lists := map[*base][]any{}
	list := func(b *base) []any { // nil: it is not for this scope
		if known, asked := lists[b]; asked || p.market == nil {
			return known
		}
		narrowed, _, err := offering.Narrow(b.original, p.scopeEdits(s, rated)...)
		if err != nil || !p.sound(b, narrowed) {
			narrowed = nil
		}
		lists[b] = narrowed
		return narrowed
	}
	find := func(owner *scope, suits func(*Pool, *base) bool) *Pool {
		for _, pool := range p.sortedPools() {
			if b := l.siblings[pool]; b != nil && !l.done[pool] && l.owners[pool] == owner && (p.market == nil || list(b) != nil) && suits(pool, b) {
				return pool
			}
		}
		return nil
	}
	exactly := func(pool *Pool, b *base) bool { return list(b) != nil && same(listOf(pool), list(b)) }
	open := func(pool *Pool, _ *base) bool { return !closed(pool) }
	both := func(pool *Pool, b *base) bool { return open(pool, b) && exactly(pool, b) }
	found := cmp.Or(find(s, both), find(nil, both), find(s, exactly), find(nil, exactly), find(s, open))
	if found != nil {
		return l.siblings[found], found
	}
	if p.market == nil {
		return nil, nil
	}
	for _, b := range p.byLoad() {
		if list(b) != nil {
			return b, nil
		}
	}
	return nil, nil
}

// byLoad are the bases, those with the most vCPU in them and their siblings first.
func (p *planner) byLoad() []*base {
	var bases []*base
	total := map[*base]float64{}
	for _, b := range p.bases {
		if p.plans(b) {
			bases, total[b] = append(bases, b), b.CPUUsed
			for _, sibling := range b.siblings {
				total[b] += sibling.CPUUsed
			}
		}
	}
	slices.SortStableFunc(bases, func(x, y *base) int { return cmp.Compare(total[y], total[x]) })
	return bases
}

// ramp is the limit of a commitment's sibling now, on its way to the target. Up and down go by steps; below the dead band nothing moves. What the
// lease does not cover goes at once as far as no node uses it: others may have it by now.
func (p *planner) ramp(w *want, s *Pool) float64 {
	if s == nil {
		return min(w.target, float64(p.cfg.RampUp))
	}
	now, _ := limit(s, resourceCPU)
	if w.held {
		return now
	}
	next := now
	switch off := math.Abs(w.target - now); {
	case w.target > now && w.frozen:
	case w.target == now:
	case off < p.band(s, resourceCPU, now) && w.target >= 1 && now <= w.lease && now > 0:
	case w.target > now:
		next = min(w.target, now+float64(p.cfg.RampUp))
	default:
		next = max(w.target, now-float64(p.cfg.RampDown))
	}
	if next > w.lease {
		next = min(next, max(w.lease, s.CPUUsed-float64(p.cfg.RampDown)))
	}
	return max(0, next)
}
