// Package sim simulates what of Karpenter decides over nodes: provisioning by weight and within limits, price-driven consolidation, drift,
// budgets, overlays, interruptions and the cascade of a deleted NodePool. It is written from Karpenter v1.14.1's behaviour and held
// against recordings of the real one (see the tests).
//
// It is deterministic: the same calls give the same nodes. What it leaves out is on the page that the benchmark writes.
package sim

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Reasons for which a node goes. The first three are budgeted by Karpenter; those after are not.
const (
	Empty         = "Empty"
	Underutilized = "Underutilized"
	Drifted       = "Drifted"
	Cascade       = "PoolDeleted" // with its NodePool
	Terminated    = "Terminated"  // by whoever bypassed Karpenter
	Interrupted   = "Interrupted" // by the spot market
)

// Config is what differs between clusters. The zero value is AWS without alpha features, at no delay.
type Config struct {
	Name       string
	Step       time.Duration // of simulated time
	Boot       time.Duration // from launch to ready
	Drain      time.Duration // from deletion to gone
	Validate   time.Duration // that a decision to consolidate waits before it is carried out
	Poll       time.Duration // between two looks for something to disrupt
	Phase      time.Duration // until the first look
	Reprice    time.Duration // how old the prices that Karpenter decides by may be; 0: none
	SpotToSpot bool          // gate
	Overlays   bool          // gate
	// Kwok is the provider of Karpenter's own tests: it launches the cheapest offering, whatever overlays say.
	Kwok              bool
	OverheadMilli     int64 // of each node: daemons and kubelet
	OverheadMemoryMiB int64
}

// A Cluster is one that Karpenter works in.
type Cluster struct {
	Config
	Now       time.Time
	Catalogue *Catalogue
	Market    Market

	Pools  []*Pool // in the order in which they are tried
	Nodes  []*Node
	Pods   []*Pod
	Events []Event

	// Disrupted counts nodes by reason, Evicted the pods that ran on them.
	Disrupted, Evicted map[string]int
	// Failed counts launches for which there was no capacity.
	Failed int
	// PendingSeconds is how long pods waited for a node in all.
	PendingSeconds float64

	overlays    []overlay
	objects     map[string]map[string]any // of overlays
	unavailable map[int32]time.Time       // until when
	commands    []*command
	waiting     *command // a decision that is yet to be validated
	nextLook    time.Time
	priced      time.Time
	base        []float64 // prices as last fetched
	looked      int       // the version at the last look that found nothing
	lookedAt    time.Time
	version     int
	count       int
}

// Pod is one. Its fields but Node are set by whoever makes it.
type Pod struct {
	Name      string
	Group     string
	CPU       int64             // thousandths
	MemoryMiB int64             //
	Selector  map[string]string // labels that its node must have
	Exclusive bool              // no two of its group on a node
	Spread    bool              // over zones, if it can be
	Ends      time.Time         // zero: never
	Node      *Node             // that it runs on, or will once it is ready; nil: pending
	Moved     int               // how often it was evicted
	since     time.Time
}

// Node is a NodeClaim with its node.
type Node struct {
	Name      string
	Pool      string
	Offering  int32
	Labels    map[string]string
	Created   time.Time
	Ready     time.Time // when it is, or will be
	Drifted   string
	DriftedAt time.Time
	Deleting  string // the reason, or ""
	Pods      []*Pod
	VCPU      int // of the machine

	hash                string
	n                   int
	countCPU, countMem  int64 // against limits
	roomCPU, roomMem    int64 // for pods
	usedCPU, usedMem    int64
	gone                time.Time
	lastPod             time.Time
	tainted             bool // a command wants it gone
	without             bool // in the simulation that runs
	scratchCPU, scratch int64
	scratchGroups       []string
}

// Verbs of events.
const (
	Created  = "created"
	Deleting = "deleting"
	Deleted  = "deleted"
)

// Event is what happened to a node.
type Event struct {
	At           time.Time
	Verb         string
	Node         string
	Pool         string
	CapacityType string
	Type         string
	Zone         string
	Reason       string
}

// A command is a decision to disrupt.
type command struct {
	reason       string
	candidates   []*Node
	claims       []*claim
	replacements []*Node
	due          time.Time
}

// New makes an empty cluster.
func New(config Config, catalogue *Catalogue, market Market, at time.Time) *Cluster {
	return &Cluster{Config: config, Now: at, nextLook: at.Add(config.Phase), Catalogue: catalogue, Market: market, Disrupted: map[string]int{}, Evicted: map[string]int{}, objects: map[string]map[string]any{}, unavailable: map[int32]time.Time{}}
}

// Apply creates or replaces a NodePool or a NodeOverlay. What it leaves drifts at the next step.
func (c *Cluster) Apply(object map[string]any) error {
	c.version++
	switch kind, _ := object["kind"].(string); kind {
	case "NodeOverlay":
		o, err := parseOverlay(object)
		if err != nil {
			return err
		}
		c.objects[o.name] = object
		c.overlays = slices.DeleteFunc(c.overlays, func(other overlay) bool { return other.name == o.name })
		c.overlays = append(c.overlays, o)
		// The heaviest that fits decides; of equals the later name.
		slices.SortFunc(c.overlays, func(a, b overlay) int {
			return cmp.Or(cmp.Compare(b.weight, a.weight), strings.Compare(b.name, a.name))
		})
		c.repriced()
		return nil
	case "NodePool":
		p, err := parsePool(object)
		if err != nil {
			return err
		}
		for i, o := range c.Catalogue.Offerings {
			if p.takes(o.labels) {
				p.offerings = append(p.offerings, int32(i))
			}
		}
		c.Pools = slices.DeleteFunc(c.Pools, func(other *Pool) bool { return other.Name == p.Name })
		c.Pools = append(c.Pools, p)
		slices.SortFunc(c.Pools, func(a, b *Pool) int {
			return cmp.Or(cmp.Compare(b.Weight, a.Weight), strings.Compare(b.Name, a.Name))
		})
		for i, p := range c.Pools {
			p.order = i
		}
		return nil
	default:
		return fmt.Errorf("apply: kind %q is not simulated", kind)
	}
}

// Delete removes a NodePool, and at once its nodes; or a NodeOverlay.
func (c *Cluster) Delete(kind, name string) error {
	c.version++
	if kind == "NodeOverlay" {
		if c.objects[name] == nil {
			return fmt.Errorf("delete NodeOverlay %s: there is none", name)
		}
		delete(c.objects, name)
		c.overlays = slices.DeleteFunc(c.overlays, func(o overlay) bool { return o.name == name })
		c.repriced()
		return nil
	}
	p := c.Pool(name)
	if p == nil {
		return fmt.Errorf("delete NodePool %s: there is none", name)
	}
	c.Pools = slices.DeleteFunc(c.Pools, func(other *Pool) bool { return other == p })
	for i, p := range c.Pools {
		p.order = i
	}
	for _, n := range c.Nodes {
		if n.Pool == name && n.Deleting == "" {
			c.drop(n, Cascade)
		}
	}
	return nil
}

// Pool is the one of that name, or nil.
func (c *Cluster) Pool(name string) *Pool {
	for _, p := range c.Pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Overlay is the NodeOverlay of that name, or nil.
func (c *Cluster) Overlay(name string) map[string]any { return c.objects[name] }

// NodeOverlays are all, sorted by name.
func (c *Cluster) NodeOverlays() []map[string]any {
	var all []map[string]any
	for _, name := range slices.Sorted(maps.Keys(c.objects)) {
		all = append(all, c.objects[name])
	}
	return all
}

// Terminate removes a node as whoever has the cloud's API may: past Karpenter and its budgets.
func (c *Cluster) Terminate(n *Node) {
	if n.Deleting == "" {
		c.version++
		c.drop(n, Terminated)
	}
}

// Add makes pods pending.
func (c *Cluster) Add(pods ...*Pod) {
	for _, p := range pods {
		p.since = c.Now
		c.Pods = append(c.Pods, p)
	}
	c.version++
}

// Remove ends a pod.
func (c *Cluster) Remove(pods ...*Pod) {
	for _, p := range pods {
		c.release(p)
	}
	c.Pods = slices.DeleteFunc(c.Pods, func(p *Pod) bool { return slices.Contains(pods, p) })
	c.version++
}

// Usage is what counts against a pool's limits, in vCPU and bytes, as status.resources has it.
func (c *Cluster) Usage(pool string) (vcpu, memory float64, nodes int) {
	for _, n := range c.Nodes {
		if n.Pool == pool {
			vcpu += float64(n.countCPU) / 1000
			memory += float64(n.countMem) * (1 << 20)
			nodes++
		}
	}
	return vcpu, memory, nodes
}

// Allowed is how many nodes of a pool may be disrupted for a reason now.
func (c *Cluster) Allowed(pool, reason string) int {
	p := c.Pool(pool)
	if p == nil {
		return 0
	}
	nodes, busy := 0, 0
	for _, n := range c.Nodes {
		if n.Pool != pool || n.Ready.After(c.Now) {
			continue
		}
		nodes++
		if n.Deleting != "" || n.tainted {
			busy++
		}
	}
	return max(0, allowed(p.budgets, c.Now, nodes, reason)-busy)
}

// Requests is the vCPU that pods ask for on it.
func (n *Node) Requests() float64 { return float64(n.usedCPU) / 1000 }

// Offers is what it was launched as.
func (c *Cluster) Offers(n *Node) *Offering { return &c.Catalogue.Offerings[n.Offering] }

// Step lets a step of time pass.
func (c *Cluster) Step() {
	c.Now = c.Now.Add(c.Config.Step)
	c.reprice()
	c.interrupt()
	c.finish()
	c.endPods()
	c.mark()
	c.proceed()
	c.bind()
	c.provision()
	c.disrupt()
	for _, p := range c.Pods {
		if p.Node == nil || p.Node.Ready.After(c.Now) {
			c.PendingSeconds += c.Config.Step.Seconds()
		}
	}
}

// reprice fetches prices when those at hand are too old.
func (c *Cluster) reprice() {
	if c.base != nil && c.Now.Sub(c.priced) < c.Reprice {
		return
	}
	c.priced = c.Now
	prices := make([]float64, len(c.Catalogue.Offerings))
	for i := range prices {
		prices[i] = c.Market.Price(int32(i), c.Now)
	}
	if !slices.Equal(prices, c.base) {
		c.version++
		c.base = prices
		c.repriced()
	}
}

func (c *Cluster) repriced() {
	for _, p := range c.Pools {
		p.prices = nil
	}
}

// pricesOf are the prices as a pool sees them: with the overlays that fit it.
func (c *Cluster) pricesOf(p *Pool) []float64 {
	if p.prices != nil {
		return p.prices
	}
	p.prices = slices.Clone(c.base)
	if !c.Overlays {
		return p.prices
	}
	for _, i := range p.offerings {
		labels := c.Catalogue.Offerings[i].labels
		for _, o := range c.overlays {
			fits := true
			for _, r := range o.requirements {
				if r.key == LabelPool {
					fits = fits && r.holds(map[string]string{LabelPool: p.Name})
				} else {
					fits = fits && r.holds(labels)
				}
			}
			if fits {
				p.prices[i] = o.apply(p.prices[i])
				break
			}
		}
	}
	return p.prices
}

// takes says whether an offering fits a pool. Labels that no offering has are the pool's own.
func (p *Pool) takes(labels map[string]string) bool {
	for _, r := range p.requirements {
		if _, known := labels[r.key]; known && !r.holds(labels) {
			return false
		}
	}
	return true
}

// interrupt takes away what the spot market wants back.
func (c *Cluster) interrupt() {
	for _, n := range c.Nodes {
		if n.Deleting == "" && c.Offers(n).CapacityType == Spot && c.Market.Reclaimed(n.Offering, c.Name, n.n, c.Now, c.Config.Step) {
			c.version++
			c.drop(n, Interrupted)
		}
	}
}

// drop deletes a node: its pods are evicted, and it is gone once it is drained.
func (c *Cluster) drop(n *Node, reason string) {
	n.Deleting, n.gone = reason, c.Now.Add(c.Drain)
	c.Disrupted[reason]++
	for _, p := range slices.Clone(n.Pods) {
		if !n.Ready.After(c.Now) {
			c.Evicted[reason]++
			p.Moved++
		}
		c.release(p)
		p.since = c.Now
	}
	c.record(n, Deleting, reason)
}

func (c *Cluster) record(n *Node, verb, reason string) {
	o := c.Offers(n)
	c.Events = append(c.Events, Event{At: c.Now, Verb: verb, Node: n.Name, Pool: n.Pool, CapacityType: o.CapacityType, Type: o.Type.Name, Zone: o.Zone, Reason: reason})
}

// finish removes nodes that are drained, and notices those that have become ready.
func (c *Cluster) finish() {
	for _, n := range c.Nodes {
		if !n.Ready.After(c.Now) && n.Ready.After(c.Now.Add(-c.Config.Step)) {
			c.version++
		}
	}
	c.Nodes = slices.DeleteFunc(c.Nodes, func(n *Node) bool {
		if n.Deleting == "" || n.gone.After(c.Now) {
			return false
		}
		c.record(n, Deleted, n.Deleting)
		c.version++
		return true
	})
}

func (c *Cluster) endPods() {
	c.Pods = slices.DeleteFunc(c.Pods, func(p *Pod) bool {
		if p.Ends.IsZero() || p.Ends.After(c.Now) {
			return false
		}
		c.release(p)
		c.version++
		return true
	})
}

// mark sets and clears the condition Drifted.
func (c *Cluster) mark() {
	pools := map[string]*Pool{}
	for _, p := range c.Pools {
		pools[p.Name] = p
	}
	for _, n := range c.Nodes {
		p := pools[n.Pool]
		if p == nil {
			continue
		}
		reason := ""
		if n.hash != p.hash {
			reason = "NodePoolDrifted"
		}
		for _, r := range p.requirements {
			if reason == "" && !r.holds(n.Labels) {
				reason = "RequirementsDrifted"
			}
		}
		if reason != n.Drifted {
			c.version++
			n.DriftedAt = c.Now
		}
		n.Drifted = reason
	}
}

// release takes a pod off its node.
func (c *Cluster) release(p *Pod) {
	n := p.Node
	if n == nil {
		return
	}
	p.Node = nil
	n.Pods = slices.DeleteFunc(n.Pods, func(other *Pod) bool { return other == p })
	n.usedCPU -= p.CPU
	n.usedMem -= p.MemoryMiB
	n.lastPod = c.Now
}

// place puts a pod on a node, where it runs once the node is ready.
func (c *Cluster) place(p *Pod, n *Node) {
	p.Node = n
	n.Pods = append(n.Pods, p)
	n.usedCPU += p.CPU
	n.usedMem += p.MemoryMiB
	n.lastPod = c.Now
	c.version++
}

// bind is the Kubernetes scheduler: pending pods go to the ready node with the largest share of room.
func (c *Cluster) bind() {
	for _, p := range c.Pods {
		if p.Node != nil {
			continue
		}
		var best *Node
		most := math.Inf(-1)
		zone := ""
		if p.Spread {
			zone = c.emptiest(p)
		}
		for _, n := range c.Nodes {
			if n.Deleting != "" || n.tainted || n.Ready.After(c.Now) || n.usedCPU+p.CPU > n.roomCPU || n.usedMem+p.MemoryMiB > n.roomMem || len(p.Selector) > 0 && !p.fits(n.Labels) || p.Exclusive && n.runs(p.Group) {
				continue
			}
			share := 1 - float64(n.usedCPU+p.CPU)/float64(n.roomCPU)
			if zone != "" && n.Labels[LabelZone] == zone {
				share += 2 // spreading is preferred over balance
			}
			if share > most {
				best, most = n, share
			}
		}
		if best != nil {
			c.place(p, best)
		}
	}
}

func (p *Pod) fits(labels map[string]string) bool {
	for key, value := range p.Selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func (n *Node) runs(group string) bool {
	return slices.ContainsFunc(n.Pods, func(p *Pod) bool { return p.Group == group })
}

// emptiest is the zone with the fewest pods of a group.
func (c *Cluster) emptiest(p *Pod) string {
	counts := make([]int, len(c.Catalogue.Zones))
	for _, other := range c.Pods {
		if other.Group == p.Group && other.Node != nil {
			for i, zone := range c.Catalogue.Zones {
				if other.Node.Labels[LabelZone] == zone {
					counts[i]++
				}
			}
		}
	}
	least := 0
	for i, n := range counts {
		if n < counts[least] {
			least = i
		}
	}
	return c.Catalogue.Zones[least]
}
