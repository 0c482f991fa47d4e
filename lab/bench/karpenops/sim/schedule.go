package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// A claim is a NodeClaim that is being made up: its pods, and what can still hold them.
type claim struct {
	pool     *Pool
	options  []int32
	pods     []*Pod
	cpu, mem int64
	zone     string // that spreading asks for
	onlySpot bool
}

// A solution is where pods would go.
type solution struct {
	existing map[*Pod]*Node
	claims   []*claim
	failed   []*Pod
}

// A rest is what a pool's limits leave.
type rest struct{ cpu, mem, nodes int64 }

// solve places pods as Karpenter's scheduler does: the largest first, on what exists, then on what is being made up, then on a new
// NodeClaim of the first pool that has something that fits and is not at its limits. Nodes marked without do not exist.
// displaced are pods of a simulated consolidation, which does not use nodes that lately got or lost a pod.
func (c *Cluster) solve(pods []*Pod, displaced bool) solution {
	s := solution{existing: map[*Pod]*Node{}}
	pods = slices.Clone(pods)
	slices.SortStableFunc(pods, func(a, b *Pod) int {
		return cmp.Or(cmp.Compare(b.CPU, a.CPU), cmp.Compare(b.MemoryMiB, a.MemoryMiB))
	})
	left := make([]rest, len(c.Pools))
	byName := make(map[string]*Pool, len(c.Pools))
	for i, p := range c.Pools {
		left[i] = rest{p.cpuLimit, p.memoryLimit, p.nodeLimit}
		byName[p.Name] = p
	}
	var nodes []*Node
	for _, n := range c.Nodes {
		if n.Deleting != "" || n.without {
			continue
		}
		p := byName[n.Pool]
		if p != nil {
			left[p.order].cpu -= n.countCPU
			left[p.order].mem -= n.countMem
			left[p.order].nodes--
		}
		n.scratchCPU, n.scratch, n.scratchGroups = n.roomCPU-n.usedCPU, n.roomMem-n.usedMem, nil
		if n.tainted || displaced && p != nil && (n.Ready.After(c.Now) || p.consolidateAfter > 0 && c.Now.Sub(later(n.lastPod, n.Ready)) < p.consolidateAfter) {
			continue
		}
		nodes = append(nodes, n)
	}
	// Initialised ones first, otherwise as they came.
	slices.SortStableFunc(nodes, func(a, b *Node) int { return cmp.Compare(btoi(a.Ready.After(c.Now)), btoi(b.Ready.After(c.Now))) })
	for _, p := range pods {
		if n := c.onExisting(nodes, p); n != nil {
			n.scratchCPU -= p.CPU
			n.scratch -= p.MemoryMiB
			if p.Exclusive {
				n.scratchGroups = append(n.scratchGroups, p.Group)
			}
			s.existing[p] = n
			continue
		}
		slices.SortStableFunc(s.claims, func(a, b *claim) int { return cmp.Compare(len(a.pods), len(b.pods)) })
		if slices.ContainsFunc(s.claims, func(cl *claim) bool { return c.join(cl, p) }) {
			continue
		}
		made := false
		for i := 0; i < len(c.Pools) && !made; i++ {
			if cl := c.makeUp(p, c.Pools[i], &left[i]); cl != nil {
				s.claims = append(s.claims, cl)
				made = true
			}
		}
		if !made {
			s.failed = append(s.failed, p)
		}
	}
	return s
}

// makeUp is a new claim of a pool for a pod, within what the limits leave, or nil. It takes it off them.
func (c *Cluster) makeUp(p *Pod, pool *Pool, left *rest) *claim {
	if left.nodes <= 0 {
		return nil
	}
	cl := &claim{pool: pool}
	for _, o := range pool.offerings {
		t := c.Catalogue.Offerings[o].Type
		if int64(t.VCPU)*1000 <= left.cpu && int64(t.MemoryMiB) <= left.mem && !c.unavailable[o].After(c.Now) {
			cl.options = append(cl.options, o)
		}
	}
	if p.Spread {
		cl.zone = c.emptiest(p)
	}
	if !c.join(cl, p) {
		if cl.zone == "" {
			return nil
		}
		if cl.zone = ""; !c.join(cl, p) { // spreading is a preference
			return nil
		}
	}
	// Karpenter takes the largest of its options off the limits, as if that were what is launched.
	var cpu, mem int64
	for _, o := range cl.options {
		t := c.Catalogue.Offerings[o].Type
		cpu, mem = max(cpu, int64(t.VCPU)*1000), max(mem, int64(t.MemoryMiB))
	}
	if pool.cpuLimit != math.MaxInt64 {
		left.cpu -= cpu
	}
	if pool.memoryLimit != math.MaxInt64 {
		left.mem -= mem
	}
	if pool.nodeLimit != math.MaxInt64 {
		left.nodes--
	}
	return cl
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *Cluster) onExisting(nodes []*Node, p *Pod) *Node {
	for _, n := range nodes {
		if n.scratchCPU < p.CPU || n.scratch < p.MemoryMiB || len(p.Selector) > 0 && !p.fits(n.Labels) || p.Exclusive && (n.runs(p.Group) || slices.Contains(n.scratchGroups, p.Group)) {
			continue
		}
		return n
	}
	return nil
}

// join adds a pod to a claim if some option holds all of them.
func (c *Cluster) join(cl *claim, p *Pod) bool {
	if p.Exclusive && slices.ContainsFunc(cl.pods, func(other *Pod) bool { return other.Group == p.Group }) {
		return false
	}
	cpu, mem := cl.cpu+p.CPU, cl.mem+p.MemoryMiB
	var options []int32
	for _, o := range cl.options {
		offering := &c.Catalogue.Offerings[o]
		if int64(offering.Type.VCPU)*1000-c.OverheadMilli < cpu || int64(offering.Type.MemoryMiB)-c.OverheadMemoryMiB < mem || cl.zone != "" && offering.Zone != cl.zone {
			continue
		}
		if len(p.Selector) > 0 && !c.accepts(p, cl.pool, offering) {
			continue
		}
		options = append(options, o)
	}
	if len(options) == 0 {
		return false
	}
	cl.options, cl.cpu, cl.mem = options, cpu, mem
	cl.pods = append(cl.pods, p)
	return true
}

// accepts says whether a pod's selector fits an offering of a pool.
func (c *Cluster) accepts(p *Pod, pool *Pool, o *Offering) bool {
	for key, value := range p.Selector {
		own, ok := o.labels[key]
		if !ok {
			own = pool.labels[key]
		}
		if own != value {
			return false
		}
	}
	return true
}

// provision makes nodes for pods that have none.
func (c *Cluster) provision() {
	var pending []*Pod
	for _, p := range c.Pods {
		if p.Node == nil {
			pending = append(pending, p)
		}
	}
	if len(pending) == 0 {
		return
	}
	s := c.solve(pending, false)
	for _, p := range pending {
		if n := s.existing[p]; n != nil {
			c.place(p, n)
		}
	}
	for _, cl := range s.claims {
		if n := c.launch(cl); n != nil {
			for _, p := range cl.pods {
				c.place(p, n)
			}
		}
	}
}

// deepEnough is how much of an offering there has to be for a launch to succeed.
const deepEnough = 0.05

// launch makes a claim a node, or nil where there is no capacity.
func (c *Cluster) launch(cl *claim) *Node {
	prices := c.pricesOf(cl.pool)
	if c.Kwok {
		prices = c.base
	}
	best, least := int32(-1), math.Inf(1)
	capacityType := ""
	cheapestOnDemand := math.Inf(1)
	for _, o := range cl.options {
		switch c.Catalogue.Offerings[o].CapacityType {
		case Spot:
			capacityType = Spot
		case OnDemand:
			cheapestOnDemand = min(cheapestOnDemand, prices[o])
		}
	}
	for _, o := range cl.options {
		offering := &c.Catalogue.Offerings[o]
		if !c.Kwok && (capacityType != "" && offering.CapacityType != capacityType || offering.CapacityType == Spot && prices[o] > cheapestOnDemand) || cl.onlySpot && offering.CapacityType != Spot {
			continue
		}
		price := prices[o]
		if !c.Kwok {
			depth := c.Market.Depth(o, c.Now)
			if depth < deepEnough {
				c.unavailable[o] = c.Now.Add(3 * time.Minute) // as long as the AWS provider remembers it
				continue
			}
			if offering.CapacityType == Spot {
				price *= 2 - depth // price-capacity-optimized: a stand-in for what AWS does not publish
			}
		}
		if price < least {
			best, least = o, price
		}
	}
	if best < 0 {
		c.Failed++
		c.version++
		return nil
	}
	o := &c.Catalogue.Offerings[best]
	c.count++
	n := &Node{Name: fmt.Sprintf("%s-%04d", cl.pool.Name, c.count), Pool: cl.pool.Name, Offering: best, Labels: maps.Clone(o.labels), Created: c.Now, Ready: c.Now.Add(c.Boot), VCPU: o.Type.VCPU, hash: cl.pool.hash, n: c.count,
		countCPU: int64(o.Type.VCPU) * 1000, countMem: int64(o.Type.MemoryMiB), roomCPU: int64(o.Type.VCPU)*1000 - c.OverheadMilli, roomMem: int64(o.Type.MemoryMiB) - c.OverheadMemoryMiB, lastPod: c.Now}
	maps.Copy(n.Labels, cl.pool.labels)
	for key, value := range o.labels {
		n.Labels[key] = value
	}
	c.Nodes = append(c.Nodes, n)
	c.version++
	c.record(n, Created, "")
	return n
}

// price is what Karpenter takes a node to cost.
func (c *Cluster) price(n *Node, pools map[string]*Pool) float64 {
	if p := pools[n.Pool]; p != nil {
		return c.pricesOf(p)[n.Offering]
	}
	return c.base[n.Offering]
}
