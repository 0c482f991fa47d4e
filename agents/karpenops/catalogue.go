package karpenops

import (
	"sync"

	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// shelf keeps the catalogue of the market that is known, for those who ask what a NodePool can launch. They ask many times in a round and seldom between rounds, so
// it is cleared after each: a region's is some MiB, and made within milliseconds.
type shelf struct {
	mu    sync.Mutex
	of    *nopsapi.Market
	zones map[string]string
	cat   *offering.Catalogue
}

// catalogue of a market; nil without one. An offering whose zone has no name in this account is left out: no NodePool can ask for it.
func (s *shelf) catalogue(m *nopsapi.Market, zones map[string]string) *offering.Catalogue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m == nil {
		s.of, s.cat = nil, nil
		return nil
	}
	if s.of == m && equalZones(s.zones, zones) {
		return s.cat
	}
	types := make([]offering.Type, 0, len(m.InstanceTypes))
	for _, t := range m.InstanceTypes {
		types = append(types, offering.Type{Name: t.Name, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, MaxPods: t.MaxPods, Labels: t.Labels})
	}
	names := map[string]string{}
	for id, name := range zones {
		names[id] = name
	}
	var all []offering.Offering
	for _, o := range m.Offerings {
		if names[o.ZoneID] == "" && o.Zone != "" {
			names[o.ZoneID] = o.Zone
		}
		zone := or(o.Zone, names[o.ZoneID])
		if zone == "" {
			continue
		}
		all = append(all, offering.Offering{Type: o.InstanceType, Zone: zone, CapacityType: o.CapacityType})
		if o.CapacityType == nopsapi.CapacitySpot && o.OnDemandPrice > 0 { // what has a spot price is sold on demand too
			all = append(all, offering.Offering{Type: o.InstanceType, Zone: zone, CapacityType: nopsapi.CapacityOnDemand})
		}
	}
	s.of, s.zones = m, zones
	s.cat, _ = offering.New(types, all, names)
	return s.cat
}

func (s *shelf) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of, s.zones, s.cat = nil, nil, nil
}

func equalZones(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// effective says how many offerings a NodePool can launch, for the writer; false where nothing is known of the market.
func (a *Agent) effective(pool map[string]any) (int, bool) {
	s := a.watch.Snapshot()
	cat := a.shelf.catalogue(a.known.market.at(a.deps.Now()), s.Zones)
	if cat == nil {
		return 0, false
	}
	p := s.OfferingPool(pool)
	e := cat.Effective(p)
	if !e.Launches() {
		return 0, len(e.Unknown) == 0 // what an unknown key excludes is not known
	}
	return e.Set.Len(), true
}

// predict says which of a NodePool's NodeClaims would drift, were it so.
func predict(pool map[string]any, claims []map[string]any) []string {
	list, err := offering.Of(pool)
	if err != nil {
		return nil
	}
	nodes := make([]offering.Node, 0, len(claims))
	for _, c := range claims {
		nodes = append(nodes, offering.Node{Name: inventory.Name(c), Labels: inventory.Labels(c)})
	}
	var drifted []string
	for _, d := range offering.Drift(offering.Compile(list), nodes) {
		drifted = append(drifted, d.Node)
	}
	return drifted
}

// offerings counts, by pool, what each can launch of what is known.
func (a *Agent) offerings(in plan.Input) map[string]int {
	counts := map[string]int{}
	cat := a.shelf.catalogue(in.Market, in.Zones)
	if cat == nil {
		return counts
	}
	for _, p := range in.Pools {
		counts[p.Name] = cat.Effective(offering.Pool{Requirements: p.Requirements, Labels: p.Labels, Zones: p.Zones}).Set.Len()
	}
	return counts
}
