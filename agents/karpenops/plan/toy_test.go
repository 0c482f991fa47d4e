package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// The toy is a cluster with as much of Karpenter as the properties need: pools by weight, limits that stop launches and never evict, nodes that
// drift by their labels and go a few at a time, nodes of a pool over its limit that go one by one, and the deletion of a pool that takes its
// nodes along.

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var sizes = []struct {
	name      string
	vcpu, mem int
}{{"large", 2, 8192}, {"xlarge", 4, 16384}, {"2xlarge", 8, 32768}, {"4xlarge", 16, 65536}}

// toyFamily is a family of instances.
type toyFamily struct {
	Name  string
	Arch  string
	Spot  float64 // USD per vCPU and hour
	Price float64 // on demand
}

func toyFamilies(n int) []toyFamily {
	var all []toyFamily
	for i := range n {
		f := toyFamily{Name: fmt.Sprintf("%c%d", "mcr"[i%3], 5+i/3), Arch: "amd64", Price: 0.048 + 0.001*float64(i%5)}
		if i%4 == 3 {
			f.Name, f.Arch = f.Name+"g", "arm64"
		}
		f.Spot = f.Price * (0.3 + 0.02*float64(i%4))
		all = append(all, f)
	}
	return all
}

var toyZones = map[string]string{"use1-az1": "us-east-1a", "use1-az2": "us-east-1b", "use1-az3": "us-east-1c"}

// event is what happens before a tick.
type event struct {
	After    time.Duration
	Scores   map[string]int // by family or family/zone ID
	Demand   int            // vCPU of pods, per base
	Lease    float64        // of every commitment; < 0: as it was
	Edit     string         // what the user does to the first base
	Blackout bool           // no documents
}

// world is a whole story.
type world struct {
	Families []toyFamily
	Bases    []map[string]any
	Others   []map[string]any // not opted in
	Config   Config
	Overlay  bool
	SpotTo   bool
	Commits  []nopsapi.Commitment
	Shapes   []Shape
	Events   []event
}

func requirement(key, op string, values ...string) map[string]any {
	m := map[string]any{"key": key, "operator": op}
	if len(values) > 0 {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		m["values"] = list
	}
	return m
}

func poolObject(name string, weight int, limits map[string]any, requirements ...map[string]any) map[string]any {
	list := make([]any, len(requirements))
	for i, r := range requirements {
		list[i] = r
	}
	spec := map[string]any{
		"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"team": "a"}},
			"spec": map[string]any{
				"requirements": list, "expireAfter": "720h",
				"nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
				"taints":       []any{map[string]any{"key": "dedicated", "value": "a", "effect": "NoSchedule"}},
			},
		},
		"disruption": map[string]any{"consolidateAfter": "0s", "consolidationPolicy": "WhenEmptyOrUnderutilized", "budgets": []any{map[string]any{"nodes": "10%"}}},
	}
	if weight > 0 {
		spec["weight"] = int64(weight)
	}
	if limits != nil {
		spec["limits"] = limits
	}
	return map[string]any{
		"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "spec": spec,
		"metadata": map[string]any{
			"name":        name,
			"labels":      map[string]any{"owner": "platform", "argocd.argoproj.io/instance": "apps", "app.kubernetes.io/instance": "apps"},
			"annotations": map[string]any{karpenstate.AnnotationManaged: "true", "kubectl.kubernetes.io/last-applied-configuration": "{}", "karpenter.sh/nodepool-hash": "1"},
		},
	}
}

// genWorld draws a story.
func genWorld() *rapid.Generator[world] {
	return rapid.Custom(func(t *rapid.T) world {
		w := world{Families: toyFamilies(rapid.IntRange(4, 12).Draw(t, "families")), Overlay: rapid.Bool().Draw(t, "overlay"), SpotTo: rapid.IntRange(0, 4).Draw(t, "s2s") == 0}
		w.Config = Config{
			Mode: rapid.SampledFrom([]karpenstate.Mode{karpenstate.ModeSiblings, karpenstate.ModeOverlays, karpenstate.ModeInPlace, karpenstate.ModeInPlace, karpenstate.ModeAdvise}).Draw(t, "mode"),
			// Few samples and a short dwell, so that a story of a dozen ticks has turns in it.
			Exclude: rapid.IntRange(1, 2).Draw(t, "n"), Readmit: rapid.IntRange(1, 2).Draw(t, "m"), Dwell: time.Duration(rapid.IntRange(1, 6).Draw(t, "dwell")) * time.Hour,
			MinFamilies: rapid.IntRange(2, 5).Draw(t, "minFamilies"), MinTypes: rapid.SampledFrom([]int{5, 10}).Draw(t, "minTypes"),
			MinZones: rapid.IntRange(1, 3).Draw(t, "minZones"), DriftCap: rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "cap"),
			WritesPerHour: rapid.SampledFrom([]int{2, 4, 10, 100}).Draw(t, "writes"), SiblingsPerRun: rapid.IntRange(1, 3).Draw(t, "perRun"),
		}
		names := func(label string, least int) []string {
			var some []string
			for _, f := range w.Families {
				if rapid.IntRange(0, 3).Draw(t, label) > 0 || len(some) < least {
					some = append(some, f.Name)
				}
			}
			return some
		}
		pool := func(name string) map[string]any {
			var list []map[string]any
			switch rapid.IntRange(0, 4).Draw(t, "capacity") {
			case 0:
				list = append(list, requirement(offering.LabelCapacityType, "In", "spot"))
			case 1:
				list = append(list, requirement(offering.LabelCapacityType, "In", "on-demand"))
			case 2:
			default:
				list = append(list, requirement(offering.LabelCapacityType, "In", "spot", "on-demand"))
			}
			switch rapid.IntRange(0, 3).Draw(t, "requirement") {
			case 0:
				in := requirement(offering.LabelFamily, "In", names("in", 1)...)
				if rapid.Bool().Draw(t, "min") {
					in["minValues"] = int64(rapid.IntRange(1, min(4, len(in["values"].([]any)))).Draw(t, "minValues"))
				}
				list = append(list, in)
			case 1:
				list = append(list, requirement(offering.LabelFamily, "NotIn", w.Families[rapid.IntRange(0, len(w.Families)-1).Draw(t, "notIn")].Name))
			case 2:
				list = append(list, requirement(offering.LabelCategory, "In", "m", "c"), requirement(offering.LabelGeneration, "Gt", "4"))
			}
			list = append(list, map[string]any{"key": offering.LabelArch, "operator": "In", "values": []any{"amd64", "arm64"}, "note": "kept"})
			var limits map[string]any
			if rapid.Bool().Draw(t, "limited") {
				limits = map[string]any{"cpu": fmt.Sprint(rapid.SampledFrom([]int{60, 120, 20, 3, 0}).Draw(t, "cpu"))}
				if rapid.Bool().Draw(t, "memory") {
					limits["memory"] = fmt.Sprintf("%dGi", rapid.IntRange(0, 500).Draw(t, "mem"))
				}
				if rapid.IntRange(0, 3).Draw(t, "nodes") == 0 {
					limits["nodes"] = fmt.Sprint(rapid.IntRange(1, 40).Draw(t, "n"))
				}
			}
			return poolObject(name, rapid.SampledFrom([]int{0, 10, 50, 1, 98, 99, 100}).Draw(t, "weight"), limits, list...)
		}
		for i := range rapid.IntRange(1, 2).Draw(t, "bases") {
			w.Bases = append(w.Bases, pool(fmt.Sprintf("base-%d", i)))
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "others") {
			o := pool(fmt.Sprintf("other-%d", i))
			delete(o["metadata"].(map[string]any), "annotations")
			w.Others = append(w.Others, o)
		}
		if rapid.Bool().Draw(t, "shapes") {
			w.Shapes = append(w.Shapes, Shape{CPU: 1, MemoryMiB: 1000, Count: 3}, Shape{CPU: 6, MemoryMiB: 9000, Count: 1, Pools: []string{"base-0"}})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "commitments") {
			w.Commits = append(w.Commits, genCommitment(w.Families).Draw(t, fmt.Sprint("commitment", i)))
			w.Commits[i].ID = fmt.Sprint("sp-", i)
		}
		for i := range rapid.IntRange(4, 14).Draw(t, "ticks") {
			e := event{After: rapid.SampledFrom([]time.Duration{5 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour}).Draw(t, "after"), Scores: map[string]int{}, Demand: rapid.SampledFrom([]int{20, 60, 8, 40, 0}).Draw(t, "demand"), Lease: -1}
			for range rapid.IntRange(1, 5).Draw(t, "changes") {
				f := w.Families[rapid.IntRange(0, len(w.Families)-1).Draw(t, "family")].Name
				if rapid.IntRange(0, 2).Draw(t, "zonal") == 0 {
					f += "/" + rapid.SampledFrom(slices.Sorted(maps.Keys(toyZones))).Draw(t, "zone")
				}
				e.Scores[f] = rapid.SampledFrom([]int{1, 2, 3, 1, 8, 9, 0, 5}).Draw(t, "score")
			}
			if rapid.IntRange(0, 3).Draw(t, "releases") == 0 {
				e.Lease = float64(rapid.IntRange(0, 80).Draw(t, "lease"))
			}
			if i > 1 && rapid.IntRange(0, 4).Draw(t, "edits") == 0 {
				e.Edit = rapid.SampledFrom([]string{"weight", "limit", "narrow", "template", "optout", "optin", "delete", "pause", "resume", "budget", "ready"}).Draw(t, "edit")
			}
			e.Blackout = rapid.IntRange(0, 7).Draw(t, "blackout") == 0
			w.Events = append(w.Events, e)
		}
		return w
	})
}

func genCommitment(families []toyFamily) *rapid.Generator[nopsapi.Commitment] {
	return rapid.Custom(func(t *rapid.T) nopsapi.Commitment {
		c := nopsapi.Commitment{
			Kind:  rapid.SampledFrom([]string{nopsapi.CommitmentComputeSP, nopsapi.CommitmentEC2InstanceSP, nopsapi.CommitmentStandardRI, nopsapi.CommitmentConvertibleRI, nopsapi.CommitmentZonalRI}).Draw(t, "kind"),
			Unit:  rapid.SampledFrom([]string{nopsapi.UnitVCPU, nopsapi.UnitNormalized, nopsapi.UnitUSDPerHour}).Draw(t, "unit"),
			Total: rapid.SampledFrom([]float64{100, 40, 200, 0}).Draw(t, "total"), OtherUse: nopsapi.CommitmentUse{P90: rapid.SampledFrom([]float64{0, 10, 30, 60}).Draw(t, "p90")},
			Start: start.Add(-time.Hour), End: start.Add(time.Duration(rapid.SampledFrom([]int{1000, 100, 20, 5}).Draw(t, "end")) * time.Hour),
			Scope: nopsapi.CommitmentScope{Region: "us-east-1", Platform: "Linux"},
			Allocation: &nopsapi.Allocation{
				VCPU: rapid.SampledFrom([]float64{40, 10, 80, 0}).Draw(t, "lease"), LeaseUntil: start.Add(time.Duration(rapid.SampledFrom([]int{900, 100, 10, 3}).Draw(t, "until")) * time.Hour),
			},
		}
		f := families[rapid.IntRange(0, len(families)-1).Draw(t, "family")].Name
		switch c.Kind {
		case nopsapi.CommitmentComputeSP:
		case nopsapi.CommitmentZonalRI:
			c.Scope.ZoneID, c.Scope.InstanceType = "use1-az1", f+".xlarge"
		default:
			c.Scope.Family = f
		}
		if c.Unit == nopsapi.UnitUSDPerHour {
			c.Total /= 20
			c.OtherUse.P90 /= 40
			c.Rates = map[string]float64{}
			for _, f := range families {
				c.Rates[f.Name] = f.Price * 0.7
			}
		}
		return c
	})
}

// toy is the cluster and the platform.
type toy struct {
	world
	now    time.Time
	seq    uint64
	pools  map[string]map[string]any
	paused map[string]string
	broken map[string]bool
	nodes  []Node
	over   map[string]map[string]any
	scores map[string]int
	memory Memory
	made   int
	writes []time.Time
	cat    *offering.Catalogue
}

func newToy(w world) *toy {
	y := &toy{world: w, now: start, pools: map[string]map[string]any{}, paused: map[string]string{}, broken: map[string]bool{}, over: map[string]map[string]any{}, scores: map[string]int{}}
	for _, o := range append(slices.Clone(w.Bases), w.Others...) {
		y.pools[nameOf(o)] = copyMap(o)
	}
	y.Commits = nil
	for _, c := range w.Commits {
		a := *c.Allocation
		c.Allocation = &a
		y.Commits = append(y.Commits, c)
	}
	return y
}

func (y *toy) market() *nopsapi.Market {
	m := &nopsapi.Market{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: y.seq, AsOf: y.now, ValidUntil: y.now.Add(2 * time.Hour)}, Region: "us-east-1"}
	for _, f := range y.Families {
		for _, s := range sizes {
			name := f.Name + "." + s.name
			m.InstanceTypes = append(m.InstanceTypes, nopsapi.InstanceType{Name: name, VCPU: s.vcpu, MemoryMiB: s.mem, Labels: map[string]string{offering.LabelArch: f.Arch, offering.LabelOS: "linux", offering.LabelFamily: f.Name}})
			for id, zone := range toyZones {
				score := 8
				for _, key := range []string{f.Name, f.Name + "/" + id} {
					if v, set := y.scores[key]; set {
						score = v
					}
				}
				m.Offerings = append(m.Offerings, nopsapi.MarketOffering{InstanceType: name, ZoneID: id, Zone: zone, CapacityType: "spot", Price: f.Spot * float64(s.vcpu), OnDemandPrice: f.Price * float64(s.vcpu), PlacementScore: score, ObservedAt: y.now})
			}
		}
	}
	return m
}

// catalogue does not depend on the tick.
func (y *toy) catalogue() *offering.Catalogue {
	if y.cat != nil {
		return y.cat
	}
	p := &planner{in: Input{Now: y.now, Market: y.market(), Zones: toyZones}, cfg: y.Config.WithDefaults()}
	p.readMarket()
	y.cat = p.market.cat
	return y.cat
}

func (y *toy) usage(pool string) (nodes int, cpu, mem float64) {
	for _, n := range y.nodes {
		if n.Pool == pool {
			nodes, cpu, mem = nodes+1, cpu+n.VCPU, mem+n.VCPU*4*(1<<30)
		}
	}
	return nodes, cpu, mem
}

// pool is an object as the inventory gives it.
func (y *toy) pool(o map[string]any) Pool {
	name := nameOf(o)
	n, cpu, mem := y.usage(name)
	o = copyMap(o)
	o["status"] = map[string]any{"resources": map[string]any{"cpu": quantity("cpu", cpu), "memory": quantity("memory", mem), "nodes": fmt.Sprint(n)}, "nodes": int64(n)}
	annotation := func(key string) string { s, _ := at(o, "metadata", "annotations", key).(string); return s }
	list, err := offering.Of(o)
	if err != nil {
		panic(err)
	}
	p := Pool{
		Name: name, Object: o, Managed: annotation(karpenstate.AnnotationManaged) == "true", Owned: at(o, "metadata", "labels", karpenstate.LabelOwned) == "true",
		Base: annotation(karpenstate.AnnotationBase), Purpose: annotation(karpenstate.AnnotationPurpose), Mode: y.Config.Mode, Paused: y.paused[name], Ready: !y.broken[name], Nodes: n,
		Requirements: list, Labels: map[string]string{"team": "a"}, CPUUsed: cpu, MemoryUsed: mem, DriftBudget: -1,
	}
	if ids := annotation(karpenstate.AnnotationCommitment); ids != "" {
		p.Commitments = strings.Split(ids, ",")
	}
	if p.Owned && p.Paused == "" && y.paused[p.Base] != "" {
		p.Paused = "its base: " + y.paused[p.Base]
	}
	if w, ok := amount(at(o, "spec", "weight")); ok {
		p.Weight = int(w)
	}
	for key, to := range map[string]**float64{"cpu": &p.CPULimit, "memory": &p.MemoryLimit} {
		if v, ok := amount(at(o, "spec", "limits", key)); ok {
			*to = &v
		}
	}
	if at(o, "spec", "disruption", "budgets") != nil && same(at(o, "spec", "disruption", "budgets"), []any{map[string]any{"nodes": "0"}}) {
		p.DriftBudget = 0
	}
	for _, v := range y.over {
		if at(v, "metadata", "name") == name {
			p.Overlay = &Overlay{Name: name}
			p.Overlay.Adjustment, _ = at(v, "spec", "priceAdjustment").(string)
		}
	}
	return p
}

func (y *toy) input(blackout bool) Input {
	in := Input{
		Now: y.now, Config: y.Config, Zones: toyZones, Nodes: slices.Clone(y.nodes), Shapes: y.Shapes, Memory: y.memory,
		Karpenter: karpenstate.Karpenter{APIVersions: []string{"v1"}, Writable: true, NodeOverlay: y.Overlay, SpotToSpot: y.SpotTo},
	}
	for _, name := range slices.Sorted(maps.Keys(y.pools)) {
		in.Pools = append(in.Pools, y.pool(y.pools[name]))
	}
	if !blackout {
		in.Market = y.market()
		in.Commitments = &nopsapi.Commitments{FactHeader: nopsapi.FactHeader{SchemaVersion: 1, Seq: y.seq, AsOf: y.now, ValidUntil: y.now.Add(2 * time.Hour)}, Commitments: slices.Clone(y.Commits)}
	}
	return in
}

// happen is what comes before a tick.
func (y *toy) happen(e event) {
	y.now, y.seq = y.now.Add(e.After), y.seq+1
	maps.Copy(y.scores, e.Scores)
	for i := range y.Commits {
		if e.Lease >= 0 {
			y.Commits[i].Allocation.VCPU = e.Lease
		}
	}
	o := y.pools["base-0"]
	if o == nil {
		return
	}
	spec, meta := o["spec"].(map[string]any), o["metadata"].(map[string]any)
	inner := at(o, "spec", "template", "spec").(map[string]any)
	switch e.Edit {
	case "weight":
		spec["weight"] = int64(1 + (len(y.writes)*37+int(y.seq)*11)%100)
	case "limit":
		spec["limits"] = map[string]any{"cpu": fmt.Sprint(20 + int(y.seq)*7%60)}
	case "narrow":
		inner["requirements"] = append(slices.Clone(inner["requirements"].([]any)), any(requirement(offering.LabelFamily, "NotIn", y.Families[int(y.seq)%len(y.Families)].Name)))
	case "template":
		inner["expireAfter"] = fmt.Sprintf("%dh", 100+y.seq)
	case "optout":
		delete(meta["annotations"].(map[string]any), karpenstate.AnnotationManaged)
	case "optin":
		meta["annotations"].(map[string]any)[karpenstate.AnnotationManaged] = "true"
	case "delete":
		delete(y.pools, "base-0")
		y.nodes = slices.DeleteFunc(y.nodes, func(n Node) bool { return n.Pool == "base-0" })
	case "pause":
		y.paused["base-0"] = "paused by a test"
	case "resume":
		delete(y.paused, "base-0")
	case "budget":
		spec["disruption"].(map[string]any)["budgets"] = []any{map[string]any{"nodes": "0"}}
	case "ready":
		y.broken["base-0"] = !y.broken["base-0"]
	}
}

// karpenter is a while of Karpenter.
func (y *toy) karpenter(demand int) {
	if len(y.Families) == 0 {
		return
	}
	cat := y.catalogue()
	pools := slices.SortedFunc(maps.Keys(y.pools), func(a, b string) int {
		wa, _ := amount(at(y.pools[a], "spec", "weight"))
		wb, _ := amount(at(y.pools[b], "spec", "weight"))
		return cmp.Or(cmp.Compare(wb, wa), strings.Compare(b, a))
	})
	gone := func(keep func(Node) bool, most int) {
		y.nodes = slices.DeleteFunc(y.nodes, func(n Node) bool {
			if !keep(n) && most > 0 {
				most--
				return true
			}
			return false
		})
	}
	for _, name := range pools { // drift, and what is over a limit, one node each
		o := y.pools[name]
		list, _ := offering.Of(o)
		compiled := offering.Compile(list)
		gone(func(n Node) bool { return n.Pool != name || compiled.Matches(n.Labels) }, 1)
		_, cpu, _ := y.usage(name)
		if v, ok := amount(at(o, "spec", "limits", "cpu")); ok && cpu > v {
			gone(func(n Node) bool { return n.Pool != name }, 1)
		}
		if at(o, "spec", "template", "metadata", "annotations", annotationDrain) != nil {
			gone(func(n Node) bool { return n.Pool != name }, 1)
		}
	}
	total := 0.0
	for _, n := range y.nodes {
		total += n.VCPU
	}
	for total > float64(demand) && len(y.nodes) > 0 {
		n := y.nodes[len(y.nodes)-1]
		y.nodes, total = y.nodes[:len(y.nodes)-1], total-n.VCPU
	}
	for _, name := range pools {
		o := y.pools[name]
		p := y.pool(o)
		e := cat.Effective(offering.Pool{Requirements: p.Requirements, Labels: p.Labels})
		if !e.Launches() {
			continue
		}
		best, price := -1, math.Inf(1)
		for i := range e.Set.All() {
			of := cat.Offering(i)
			if cat.Type(i).VCPU != 4 {
				continue
			}
			cost := 1.0 // on demand comes after spot
			for j, f := range y.Families {
				if strings.HasPrefix(of.Type, f.Name+".") {
					cost = f.Spot + float64((j*7+len(y.nodes)*3)%5)*0.002
				}
			}
			if of.CapacityType == "on-demand" {
				cost++
			}
			if cost < price {
				best, price = i, cost
			}
		}
		for best >= 0 && total < float64(demand) {
			_, cpu, _ := y.usage(name)
			if p.CPULimit != nil && cpu+4 > *p.CPULimit {
				break
			}
			of, labels := cat.Offering(best), maps.Clone(cat.Type(best).Labels)
			labels[offering.LabelZone], labels[offering.LabelCapacityType], labels[offering.LabelNodePool], labels["team"] = of.Zone, of.CapacityType, name, "a"
			y.made++
			y.nodes = append(y.nodes, Node{Name: fmt.Sprintf("claim-%04d", y.made), Pool: name, Labels: labels, VCPU: 4, Requests: 3, Created: y.now})
			total += 4
		}
	}
}

// apply carries out what does not wait, and holds each write against what it was planned for.
func (y *toy) apply(actions []Action) error {
	for _, a := range actions {
		if a.Waiting != "" {
			continue
		}
		y.writes, y.memory = append(y.writes, y.now), y.memory.Applied(a, y.now)
		switch a.Kind {
		case CreateSibling:
			if y.pools[a.Name] != nil {
				return fmt.Errorf("%s: %s is there already", a.Kind, a.Name)
			}
			y.pools[a.Name] = copyMap(a.Object)
			continue
		case CreateOverlay:
			y.over[a.Name] = copyMap(a.Object)
			continue
		case DeleteSibling:
			if n, _, _ := y.usage(a.Name); n > 0 {
				return fmt.Errorf("%s: %s has %d nodes, which go with it", a.Kind, a.Name, n)
			}
			if v, ok := amount(at(y.pools[a.Name], "spec", "limits", "cpu")); !ok || v > 0 {
				return fmt.Errorf("%s: %s is not closed", a.Kind, a.Name)
			}
			delete(y.pools, a.Name)
			continue
		case DeleteOverlay:
			if v, ok := amount(at(y.pools[a.Name], "spec", "limits", "cpu")); y.pools[a.Name] != nil && (!ok || v > 0) {
				return fmt.Errorf("%s: %s is still in use", a.Kind, a.Name)
			}
			delete(y.over, a.Name)
			continue
		}
		o := y.pools[a.Name]
		if a.ObjectKind == "NodeOverlay" {
			o = y.over[a.Name]
		}
		if o == nil {
			return fmt.Errorf("%s: there is no %s %s", a.Kind, a.ObjectKind, a.Name)
		}
		if len(a.Changes) == 0 {
			return fmt.Errorf("%s of %s changes nothing", a.Kind, a.Name)
		}
		for _, c := range a.Changes {
			if have := lookup(o, c.Path); !same(have, c.Before) {
				return fmt.Errorf("%s of %s at %s: planned for %s, and it is %s", a.Kind, a.Name, c.Path, encoded(c.Before), encoded(have))
			}
			if same(c.Before, c.After) && a.Kind != DrainSibling { // of one that is closed already only the mark on the template is missing
				return fmt.Errorf("%s of %s at %s: changes %s to the same", a.Kind, a.Name, c.Path, encoded(c.Before))
			}
		}
		for _, c := range a.Changes {
			put(o, c.Path, copyOf(c.After))
		}
		switch a.Kind {
		case DrainSibling:
			put(o, "/spec/template/metadata/annotations/karpenops.nops.io~1drain", "true")
		case Narrow: // as the writer does
			kept, _ := at(o, "metadata", "annotations", karpenstate.AnnotationOriginal).(string)
			value := encoded(a.Changes[0].Before)
			if kept != "" {
				b := &base{Pool: &Pool{Object: o}}
				put(o, pathRequirements, a.Changes[0].Before)
				b.readOriginal()
				value = encoded(b.original)
				put(o, pathRequirements, copyOf(a.Changes[0].After))
			}
			put(o, "/metadata/annotations/karpenops.nops.io~1original", fmt.Sprintf(`{%q:{"value":%s,"ours":%q}}`, pathRequirements, value, fingerprint(a.Changes[0].After)))
		case Restore:
			put(o, "/metadata/annotations/karpenops.nops.io~1original", nil)
		}
	}
	return nil
}

func pathParts(path string) []string {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(parts[i], "~1", "/"), "~0", "~")
	}
	return parts
}

func lookup(o map[string]any, path string) any { return at(o, pathParts(path)...) }

func put(o map[string]any, path string, v any) {
	parts := pathParts(path)
	for _, key := range parts[:len(parts)-1] {
		next, ok := o[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			o[key] = next
		}
		o = next
	}
	if last := parts[len(parts)-1]; v == nil {
		delete(o, last)
	} else {
		o[last] = v
	}
}

// tick is one run with what it saw.
type tick struct {
	toy    *toy
	in     Input
	plan   Plan
	before map[string]map[string]any // pools
}

// after is a pool as it is once the plan is carried out.
func (k tick) after(name string) map[string]any { return k.toy.pools[name] }

type maker func(Input) Plan

// play runs a story and gives each tick to the check, before and after the plan is carried out.
func play(w world, mk maker, check func(tick) error) error {
	y := newToy(w)
	for i, e := range w.Events {
		y.happen(e)
		y.karpenter(e.Demand * len(w.Bases))
		in := y.input(e.Blackout)
		k := tick{toy: y, in: in, plan: mk(in), before: map[string]map[string]any{}}
		for name, o := range y.pools {
			k.before[name] = copyMap(o)
		}
		y.memory = k.plan.Memory
		if err := y.apply(k.plan.Actions); err != nil {
			return fmt.Errorf("tick %d: %w", i, err)
		}
		if err := check(k); err != nil {
			return fmt.Errorf("tick %d: %w", i, err)
		}
	}
	return nil
}
