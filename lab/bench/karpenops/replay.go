package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// A policy is what is compared: whoever changes NodePools, or nobody.
type policy interface {
	// tick is called every ten minutes, with all clusters.
	tick(w *world) error
}

// world is one replay: the clusters of a scenario under one policy.
type world struct {
	s        *scenario
	market   *market
	clusters []*cluster
	now      time.Time
	result   *result
	platform *platform
	trace    io.Writer // of writes; nil: none
}

type cluster struct {
	*sim.Cluster
	spec   *clusterSpec
	groups [][]*sim.Pod
	names  int
	// owned are the NodePools that the policy made for commitments: by name, the commitment's index.
	owned map[string]int
	drift map[string]string // of the nodes, as it was a step ago
}

// A result is what one policy came to.
type result struct {
	Name string `json:"name"`

	Writes    int            `json:"writes"`
	ByKind    map[string]int `json:"byKind"`
	Predicted int            `json:"predictedDrift"`
	Actual    int            `json:"actualDrift"`

	Disrupted map[string]int `json:"disrupted"` // nodes, by reason
	Evicted   map[string]int `json:"evicted"`   // pods, by reason
	Failed    int            `json:"failedLaunches"`
	Pending   float64        `json:"pendingPodHours"`

	Spot       float64 `json:"spot"`       // USD
	OnDemand   float64 `json:"onDemand"`   // USD, what no commitment covers
	Committed  float64 `json:"committed"`  // USD, used or not
	Lost       float64 `json:"lost"`       // USD of that, not used
	VCPUHours  float64 `json:"vcpuHours"`  // of nodes
	PodHours   float64 `json:"podHours"`   // vCPU that pods asked for and had
	SpareHours float64 `json:"spareHours"` // vCPU hours that others left of the commitments
	UsedHours  float64 `json:"usedHours"`  // of them, used
	OverHours  int     `json:"overHours"`  // in which nodes that were made for a commitment were more than it
	OverVCPUH  float64 `json:"overVcpuHours"`
	OverLimits float64 `json:"overLimits"` // the most by which limits of such pools exceeded what there was, in vCPU

	Types    float64 `json:"types"` // of running spot nodes, a mean over time and clusters
	Families float64 `json:"families"`
	Zones    float64 `json:"zones"`
	Largest  float64 `json:"largest"` // share of the largest pool of capacity (type and zone) of spot vCPU

	Days []day `json:"days"`

	samples int
	early   *result // of the first days, of which the page has the digest
}

// A day is a point of the plot.
type day struct {
	Cost  float64 `json:"cost"`
	Used  float64 `json:"used"`  // vCPU, a mean
	Lease float64 `json:"lease"` // vCPU that others left, likewise
	Drift int     `json:"drift"` // nodes
	Moved int     `json:"moved"` // nodes replaced for their price, or past their budgets
}

func (r *result) cost() float64        { return r.Spot + r.OnDemand + r.Committed }
func (r *result) utilisation() float64 { return r.UsedHours / max(r.SpareHours, 1) }

// unbudgeted are the nodes that somebody took away past the owner's budgets.
func (r *result) unbudgeted() int { return r.Disrupted[sim.Cascade] + r.Disrupted[sim.Terminated] }

const (
	step       = time.Minute
	everyTicks = 10 // steps between two looks of a policy
)

// replayFor runs a scenario for so long under one policy. Steps are a minute.
func replayFor(ctx context.Context, s *scenario, long time.Duration, who contender, trace io.Writer) (*result, error) {
	catalogue := s.catalogue()
	w := &world{s: s, market: newMarket(s, catalogue), now: s.Start, result: &result{Name: who.name, ByKind: map[string]int{}, Disrupted: map[string]int{}, Evicted: map[string]int{}}, trace: trace}
	w.platform = newPlatform(w)
	for i := range s.Clusters {
		spec := &s.Clusters[i]
		config := sim.Config{Name: spec.Name, Step: step, Boot: time.Minute, Drain: time.Minute, Poll: time.Minute, Reprice: 12 * time.Hour, Overlays: true, OverheadMilli: 180, OverheadMemoryMiB: 700}
		c := &cluster{Cluster: sim.New(config, catalogue, w.market, s.Start), spec: spec, groups: make([][]*sim.Pod, len(spec.Groups)), owned: map[string]int{}, drift: map[string]string{}}
		for _, object := range s.basePools(spec) {
			if err := c.Apply(object); err != nil {
				return nil, err
			}
		}
		w.clusters = append(w.clusters, c)
	}
	hour := newHour(w)
	for i := range int(long / step) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		w.now = s.Start.Add(time.Duration(i+1) * step)
		if len(w.result.Days) <= i/(24*60) {
			w.result.Days = append(w.result.Days, day{})
		}
		for _, c := range w.clusters {
			if i%5 == 0 {
				w.load(c)
			}
			c.Add(s.batches(c.spec, w.now)...)
			c.Step()
			w.watch(c)
		}
		hour.account()
		if (i+1)%60 == 0 {
			hour.settle()
			hour = newHour(w)
		}
		if i%everyTicks == 0 {
			w.platform.update()
			if err := who.policy.tick(w); err != nil {
				return nil, fmt.Errorf("%s at %s: %w", who.name, w.now.Format(time.RFC3339), err)
			}
		}
		if i+1 == digestDays*24*60 {
			w.result.early = w.finish()
		}
	}
	return w.finish(), nil
}

// finish is what there is so far, apart from the world that goes on.
func (w *world) finish() *result {
	r := *w.result
	r.ByKind, r.Days = maps.Clone(r.ByKind), slices.Clone(r.Days)
	r.Disrupted, r.Evicted = map[string]int{}, map[string]int{}
	for _, c := range w.clusters {
		for reason, n := range c.Disrupted {
			r.Disrupted[reason] += n
		}
		for reason, n := range c.Evicted {
			r.Evicted[reason] += n
		}
		r.Failed += c.Failed
		r.Pending += c.PendingSeconds / 3600
	}
	n := float64(max(r.samples, 1))
	r.Types, r.Families, r.Zones, r.Largest = r.Types/n, r.Families/n, r.Zones/n, r.Largest/n
	return &r
}

// load scales the groups of a cluster to what the hour asks for. What is too much goes newest first, as in a ReplicaSet.
func (w *world) load(c *cluster) {
	for i := range c.spec.Groups {
		g := &c.spec.Groups[i]
		want := w.s.wanted(c.spec, i, w.now)
		for len(c.groups[i]) < want {
			c.names++
			p := &sim.Pod{Name: fmt.Sprintf("%s-%d", g.Name, c.names), Group: g.Name, CPU: g.CPU, MemoryMiB: g.MemoryMiB, Spread: g.Spread}
			c.groups[i] = append(c.groups[i], p)
			c.Add(p)
		}
		if len(c.groups[i]) > want {
			c.Remove(c.groups[i][want:]...)
			c.groups[i] = c.groups[i][:want]
		}
	}
}

// watch counts what began to drift, and what moved.
func (w *world) watch(c *cluster) {
	today := &w.result.Days[len(w.result.Days)-1]
	drift := make(map[string]string, len(c.Nodes))
	for _, n := range c.Nodes {
		drift[n.Name] = n.Drifted
		if n.Drifted != "" && c.drift[n.Name] == "" {
			w.result.Actual++
			today.Drift++
		}
	}
	c.drift = drift
	for _, e := range c.Events {
		if e.Verb == sim.Deleting && (e.Reason == sim.Underutilized || e.Reason == sim.Cascade || e.Reason == sim.Terminated) {
			today.Moved++
		}
	}
	c.Events = c.Events[:0]
}

// wrote counts a write.
func (w *world) wrote(kind string, predicted int) {
	w.result.Writes++
	w.result.ByKind[kind]++
	w.result.Predicted += predicted
}

// An hour is what is billed at once: what it does not use of a commitment is lost.
type hour struct {
	w        *world
	onDemand []map[string]float64 // by commitment: vCPU minutes by family that it covers
	owned    []float64            // by commitment: vCPU minutes of nodes of pools that were made for it
	list     map[string]float64   // by family: USD a vCPU hour
	other    float64              // USD of on-demand nodes that no commitment is for
}

func newHour(w *world) *hour {
	h := &hour{w: w, owned: make([]float64, len(w.s.Commitments)), list: map[string]float64{}}
	for range w.s.Commitments {
		h.onDemand = append(h.onDemand, map[string]float64{})
	}
	for _, f := range w.s.Families {
		h.list[f.Name] = f.USDPerVCPU
	}
	return h
}

// account adds a step up.
func (h *hour) account() {
	r := h.w.result
	limits := make([]float64, len(h.w.s.Commitments))
	for _, c := range h.w.clusters {
		types, families, zones, capacity := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]int{}
		spot := 0
		for _, n := range c.Nodes {
			o := c.Offers(n)
			family := o.Type.Labels[sim.LabelFamily]
			r.VCPUHours += float64(n.VCPU) / 60
			r.PodHours += n.Requests() / 60
			if o.CapacityType == sim.Spot {
				price := h.w.market.Price(n.Offering, h.w.now) / 60
				r.Spot += price
				r.Days[len(r.Days)-1].Cost += price
				types[o.Type.Name], families[family], zones[o.Zone] = true, true, true
				capacity[o.Type.Name+o.Zone] += n.VCPU
				spot += n.VCPU
				continue
			}
			covered := false
			for i := range h.w.s.Commitments {
				if h.w.s.Commitments[i].Family == family {
					h.onDemand[i][family] += float64(n.VCPU)
					covered = true
				}
			}
			if !covered {
				h.other += float64(n.VCPU) * h.list[family] / 60
			}
			if i, ok := c.owned[n.Pool]; ok {
				h.owned[i] += float64(n.VCPU)
			}
		}
		if spot > 0 && h.w.now.Minute() == 0 {
			r.samples++
			r.Types += float64(len(types))
			r.Families += float64(len(families))
			r.Zones += float64(len(zones))
			r.Largest += float64(slices.Max(slices.Collect(maps.Values(capacity)))) / float64(spot)
		}
		for name, i := range c.owned {
			if p := c.Pool(name); p != nil {
				cpu, err := sim.Quantity(sim.Field(p.Object, "spec", "limits", "cpu"))
				if err == nil {
					limits[i] += cpu
				}
			}
		}
	}
	for i := range limits {
		r.OverLimits = max(r.OverLimits, limits[i]-h.w.s.spare(&h.w.s.Commitments[i], h.w.now.Add(-step)))
	}
}

// settle bills the hour.
func (h *hour) settle() {
	r := h.w.result
	today := &r.Days[len(r.Days)-1]
	begun := h.w.now.Add(-time.Hour)
	r.OnDemand += h.other
	today.Cost += h.other
	for i := range h.w.s.Commitments {
		c := &h.w.s.Commitments[i]
		spare := h.w.s.spare(c, begun)
		use := 0.0
		for _, minutes := range h.onDemand[i] {
			use += minutes / 60
		}
		covered := min(use, spare)
		uncovered := (use - covered) * h.list[c.Family]
		r.SpareHours += spare
		r.UsedHours += covered
		r.Committed += spare * c.USDPerVCPU
		r.Lost += (spare - covered) * c.USDPerVCPU
		r.OnDemand += uncovered
		today.Cost += spare*c.USDPerVCPU + uncovered
		today.Used += covered / 24
		today.Lease += spare / 24
		if over := h.owned[i]/60 - spare; over > 1e-9 {
			r.OverHours++
			r.OverVCPUH += over
		}
		h.w.platform.used[i] = append(h.w.platform.used[i], h.byCluster(c.Family))
	}
}

// byCluster is what each cluster runs on demand of a family now.
func (h *hour) byCluster(family string) []float64 {
	all := make([]float64, len(h.w.clusters))
	for i, c := range h.w.clusters {
		for _, n := range c.Nodes {
			if o := c.Offers(n); o.CapacityType == sim.OnDemand && o.Type.Labels[sim.LabelFamily] == family {
				all[i] += float64(n.VCPU)
			}
		}
	}
	return all
}

// platform is what states facts to the agents, and shares commitments out in one place.
type platform struct {
	w           *world
	used        [][][]float64 // by commitment, hour and cluster: vCPU
	market      *nopsapi.Market
	commitments []*nopsapi.Commitments // by cluster
	asked       time.Time
}

func newPlatform(w *world) *platform {
	return &platform{w: w, used: make([][][]float64, len(w.s.Commitments)), commitments: make([]*nopsapi.Commitments, len(w.s.Clusters))}
}

// billed is how late it is known what others used.
const billed = 24 * time.Hour

func (p *platform) update() {
	now := p.w.now
	if p.w.s.silent(now) {
		return
	}
	if p.market == nil || now.Sub(p.market.AsOf) >= time.Duration(p.w.s.MarketEvery) {
		p.market = p.w.market.document(now, uint64(now.Unix()))
	}
	if now.Sub(p.asked) < time.Hour {
		return
	}
	p.asked = now
	for i := range p.w.s.Clusters {
		d := &nopsapi.Commitments{FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: uint64(now.Unix()), AsOf: now, ValidUntil: now.Add(2 * time.Hour)}}
		for j := range p.w.s.Commitments {
			d.Commitments = append(d.Commitments, p.commitment(j, i, now))
		}
		p.commitments[i] = d
	}
}

func (p *platform) commitment(i, cluster int, now time.Time) nopsapi.Commitment {
	c := &p.w.s.Commitments[i]
	outside, all := p.history(i, cluster, now)
	share := float64(int(p.w.s.Clusters[cluster].Share*max(0, c.Total-quantile(outside, 0.9)) + 1e-9))
	return nopsapi.Commitment{
		ID: c.ID, Kind: c.Kind, Scope: nopsapi.CommitmentScope{Region: p.w.s.Region, Family: c.Family, Platform: "Linux", Tenancy: "default"}, Start: p.w.s.Start.AddDate(-1, 0, 0), End: p.w.s.Start.Add(time.Duration(c.EndsAfter)),
		Unit: nopsapi.UnitVCPU, Total: c.Total, Rates: map[string]float64{c.Family: c.USDPerVCPU},
		OtherUse:   nopsapi.CommitmentUse{P10: quantile(all, 0.1), P50: quantile(all, 0.5), P90: quantile(all, 0.9), Last: all[0], WindowSeconds: 168 * 3600},
		Allocation: &nopsapi.Allocation{VCPU: share, LeaseUntil: now.Add(2 * time.Hour)},
	}
}

// history is what strangers, and strangers and the other clusters, used in the week before the last bill; the latest first.
func (p *platform) history(i, cluster int, now time.Time) (outside, all []float64) {
	for h := range 168 {
		at := now.Add(-billed - time.Duration(h)*time.Hour)
		others := p.w.s.others(&p.w.s.Commitments[i], at)
		outside = append(outside, others)
		if n := len(p.used[i]) - 1 - h; n >= 0 { // nodes are seen at once, bills are not
			for j, vcpu := range p.used[i][n] {
				if j != cluster {
					others += vcpu
				}
			}
		}
		all = append(all, others)
	}
	return outside, all
}

func quantile(all []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// untouched is Karpenter alone.
type untouched struct{}

func (untouched) tick(*world) error { return nil }

// rules are what the public documentation of nOps describes, as far as it does: every hour, for each commitment that is not used up, a
// NodePool of its family in every cluster, above all others, limited to what is spare. The same spare is given to each cluster, until
// together they use all of it; then the limits are cut to what each has of it, and what is too much is terminated.
// https://help.nops.io/copilot-eks-optimizing-commitment-utilization.html
//
// What it does not describe is taken in its favour: it knows what others use now, though bills come late; and shares that were cut stay,
// until less than half of the commitment is used.
type rules struct{ shares map[int][]float64 }

func (r *rules) tick(w *world) error {
	if w.now.Sub(w.s.Start)%time.Hour >= everyTicks*step {
		return nil
	}
	for i := range w.s.Commitments {
		c := &w.s.Commitments[i]
		spare := w.s.spare(c, w.now)
		name := "nops-" + c.ID
		use := make([]float64, len(w.clusters))
		total := 0.0
		for j, cl := range w.clusters {
			use[j], _, _ = cl.Usage(name)
			total += use[j]
		}
		switch {
		case total >= spare && r.shares[i] == nil:
			r.shares[i] = make([]float64, len(use))
			for j := range use {
				r.shares[i][j] = use[j] / max(total, 1)
			}
		case total < spare/2:
			delete(r.shares, i)
		}
		for j, cl := range w.clusters {
			limit := spare
			if r.shares[i] != nil {
				limit = math.Floor(spare * r.shares[i][j])
			}
			if err := ruled(w, cl, i, name, limit); err != nil {
				return err
			}
			nodes := slices.DeleteFunc(slices.Clone(cl.Nodes), func(n *sim.Node) bool { return n.Pool != name || n.Deleting != "" })
			slices.SortFunc(nodes, func(a, b *sim.Node) int { return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Name, b.Name)) })
			for _, n := range nodes {
				if r.shares[i] == nil || use[j] <= limit {
					break
				}
				use[j] -= float64(n.VCPU)
				cl.Terminate(n)
			}
		}
	}
	return nil
}

func ruled(w *world, c *cluster, commitment int, name string, limit float64) error {
	spec := &w.s.Commitments[commitment]
	kind := "edit limits"
	var object map[string]any
	text := fmt.Sprintf("%.0f", limit)
	if p := c.Pool(name); p != nil {
		if sim.Field(p.Object, "spec", "limits", "cpu") == text {
			return nil
		}
		object = sim.Copy(p.Object)
	} else {
		if limit <= 0 {
			return nil
		}
		kind = "create pool"
		base := c.Pool(c.spec.Pools[0].Name)
		object = sim.Copy(base.Object)
		weight := 0
		for _, p := range c.Pools {
			weight = max(weight, p.Weight)
		}
		object["metadata"] = map[string]any{"name": name}
		pool, _ := object["spec"].(map[string]any)
		pool["weight"] = int64(min(weight+5, 100))
		template, _ := sim.Field(pool, "template", "spec").(map[string]any)
		var list []any
		requirements, _ := template["requirements"].([]any)
		for _, r := range requirements {
			entry, _ := r.(map[string]any)
			if key := entry["key"]; key != sim.LabelFamily && key != sim.LabelCapacityType {
				list = append(list, r)
			}
		}
		template["requirements"] = append(list, map[string]any{"key": sim.LabelFamily, "operator": "In", "values": []any{spec.Family}},
			map[string]any{"key": sim.LabelCapacityType, "operator": "In", "values": []any{sim.OnDemand}})
	}
	pool, _ := object["spec"].(map[string]any)
	pool["limits"] = map[string]any{"cpu": text}
	c.owned[name] = commitment
	w.wrote(kind, 0)
	return c.Apply(object)
}

func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
