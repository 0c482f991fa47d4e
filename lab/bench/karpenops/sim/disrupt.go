package sim

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// relook is after how long Karpenter considers consolidation again though nothing has changed.
const relook = 5 * time.Minute

// proceed deletes the candidates of commands whose replacements are ready.
func (c *Cluster) proceed() {
	c.commands = slices.DeleteFunc(c.commands, func(cmd *command) bool {
		for _, n := range cmd.replacements {
			if n.Deleting != "" { // interrupted before it was of use: the command is given up
				for _, candidate := range cmd.candidates {
					candidate.tainted = false
				}
				c.version++
				return true
			}
			if n.Ready.After(c.Now) {
				return false
			}
		}
		for _, candidate := range cmd.candidates {
			candidate.tainted = false
			if candidate.Deleting == "" {
				c.drop(candidate, cmd.reason)
			}
		}
		c.version++
		return true
	})
}

// disrupt looks for something to disrupt: empty nodes, drifted ones, several at once that are not worth their price, one such.
// One look takes one decision.
func (c *Cluster) disrupt() {
	for range 10 { // within one step as often as a decision is carried out at once
		if c.waiting != nil {
			if c.Now.Before(c.waiting.due) {
				return
			}
			cmd := c.waiting
			c.waiting = nil
			if again := c.validate(cmd); again != nil {
				c.start(again)
			}
			continue
		}
		if c.Now.Before(c.nextLook) {
			return
		}
		cmd := c.decide()
		if cmd == nil {
			c.nextLook = c.Now.Add(c.Poll)
			return
		}
		if cmd.reason == Drifted || c.Validate == 0 {
			c.start(cmd)
			continue
		}
		cmd.due = c.Now.Add(c.Validate)
		c.waiting = cmd
	}
}

// start carries a decision out: taints, launches, and deletes once what replaces is ready.
func (c *Cluster) start(cmd *command) {
	c.version++
	for _, n := range cmd.candidates {
		n.tainted = true
	}
	for _, cl := range cmd.claims {
		n := c.launch(cl)
		if n == nil {
			for _, candidate := range cmd.candidates {
				candidate.tainted = false
			}
			for _, launched := range cmd.replacements {
				c.drop(launched, Empty)
			}
			return
		}
		cmd.replacements = append(cmd.replacements, n)
	}
	c.commands = append(c.commands, cmd)
	if len(cmd.replacements) == 0 {
		c.proceed()
	}
}

// validate asks again whether a decision still holds.
func (c *Cluster) validate(cmd *command) *command {
	room := map[string]int{}
	for _, n := range cmd.candidates {
		if n.Deleting != "" || n.tainted {
			return nil
		}
		if _, ok := room[n.Pool]; !ok {
			room[n.Pool] = c.Allowed(n.Pool, cmd.reason)
		}
		if room[n.Pool]--; room[n.Pool] < 0 {
			return nil
		}
	}
	if cmd.reason == Empty {
		for _, n := range cmd.candidates {
			if len(n.Pods) > 0 {
				return nil
			}
		}
		return cmd
	}
	for _, n := range cmd.candidates {
		if !c.quiet(n, c.Pool(n.Pool)) {
			return nil
		}
	}
	return c.consolidate(cmd.candidates)
}

// quiet says whether a node may be considered for consolidation: ready, and for as long as its pool asks without a pod that came or went.
func (c *Cluster) quiet(n *Node, p *Pool) bool {
	return p != nil && p.consolidateAfter >= 0 && n.Deleting == "" && !n.tainted && !n.Ready.After(c.Now) && c.Now.Sub(later(n.lastPod, n.Ready)) >= p.consolidateAfter
}

func (c *Cluster) decide() *command {
	pools := map[string]*Pool{}
	room := map[string]map[string]int{Empty: {}, Drifted: {}, Underutilized: {}}
	for _, p := range c.Pools {
		pools[p.Name] = p
		for reason, by := range room {
			by[p.Name] = c.Allowed(p.Name, reason)
		}
	}
	cmd := &command{reason: Empty}
	for _, n := range c.Nodes {
		if len(n.Pods) == 0 && c.quiet(n, pools[n.Pool]) && room[Empty][n.Pool] > 0 {
			room[Empty][n.Pool]--
			cmd.candidates = append(cmd.candidates, n)
		}
	}
	if len(cmd.candidates) > 0 {
		return cmd
	}
	if cmd := c.decideDrift(room[Drifted]); cmd != nil {
		return cmd
	}
	var candidates []*Node
	for _, n := range c.Nodes {
		if p := pools[n.Pool]; len(n.Pods) > 0 && c.quiet(n, p) && !p.whenEmpty {
			candidates = append(candidates, n)
		}
	}
	// Where there was something to look at and nothing to do, the cluster counts as consolidated until something changes. That a node has been
	// left alone for long enough is no change, so those that were too new then are passed over.
	if len(candidates) == 0 || c.looked == c.version && c.Now.Sub(c.lookedAt) < relook {
		return nil
	}
	// Those that cost most for what moving them disturbs come first.
	ratio := func(n *Node) float64 { return c.price(n, pools) / float64(1+len(n.Pods)) }
	slices.SortStableFunc(candidates, func(a, b *Node) int { return cmp.Compare(ratio(b), ratio(a)) })
	constrained := false
	for _, n := range candidates {
		constrained = constrained || room[Underutilized][n.Pool] == 0
	}
	if cmd := c.several(candidates, maps.Clone(room[Underutilized])); cmd != nil {
		return cmd
	}
	for _, n := range c.interweave(candidates) {
		if room[Underutilized][n.Pool] == 0 {
			continue
		}
		if cmd := c.consolidate([]*Node{n}); cmd != nil {
			return cmd
		}
	}
	if !constrained {
		c.looked, c.lookedAt = c.version, c.Now
	}
	return nil
}

// interweave takes the candidates of each pool in turn.
func (c *Cluster) interweave(candidates []*Node) []*Node {
	queues := make([][]*Node, len(c.Pools))
	for _, n := range candidates {
		if p := c.Pool(n.Pool); p != nil {
			queues[p.order] = append(queues[p.order], n)
		}
	}
	var all []*Node
	for i := 0; len(all) < len(candidates); i++ {
		for _, queue := range queues {
			if i < len(queue) {
				all = append(all, queue[i])
			}
		}
	}
	return all
}

// decideDrift takes the longest drifted node first, empty ones before all.
func (c *Cluster) decideDrift(room map[string]int) *command {
	var drifted []*Node
	for _, n := range c.Nodes {
		if n.Drifted != "" && n.Deleting == "" && !n.tainted && !n.Ready.After(c.Now) {
			drifted = append(drifted, n)
		}
	}
	slices.SortStableFunc(drifted, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(min(1, len(a.Pods)), min(1, len(b.Pods))), a.DriftedAt.Compare(b.DriftedAt))
	})
	for _, n := range drifted {
		if room[n.Pool] <= 0 {
			continue
		}
		n.without = true
		s := c.solve(n.Pods, false)
		n.without = false
		if len(s.failed) > 0 {
			continue
		}
		return &command{reason: Drifted, candidates: []*Node{n}, claims: s.claims}
	}
	return nil
}

// several looks for the largest number of nodes, of those that come first, that one or none can replace.
func (c *Cluster) several(candidates []*Node, room map[string]int) *command {
	var free []*Node
	for _, n := range candidates {
		if room[n.Pool] > 0 {
			room[n.Pool]--
			free = append(free, n)
		}
	}
	if len(free) < 2 {
		return nil
	}
	low, high := 1, min(len(free)-1, 100)
	var found *command
	for low <= high {
		middle := (low + high) / 2
		cmd := c.consolidate(free[:middle+1])
		if cmd != nil && len(cmd.claims) > 0 && !c.otherType(cmd) {
			cmd = nil
		}
		if cmd != nil {
			found, low = cmd, middle+1
		} else {
			high = middle - 1
		}
	}
	return found
}

// otherType removes options that are as dear as a candidate of a type that is among the options: several nodes are not replaced by one
// of their own kind, which would better be kept. It says whether anything is left.
func (c *Cluster) otherType(cmd *command) bool {
	cl := cmd.claims[0]
	prices := c.pricesOf(cl.pool)
	limit := math.Inf(1)
	for _, n := range cmd.candidates {
		for _, o := range cl.options {
			if c.Catalogue.Offerings[o].typeIndex == c.Offers(n).typeIndex {
				limit = min(limit, prices[n.Offering])
			}
		}
	}
	cl.options = c.cheaper(cl, limit)
	return len(cl.options) > 0
}

// consolidate says how these nodes could go: with their pods on others, or on one new node that costs less than they do.
func (c *Cluster) consolidate(candidates []*Node) *command {
	pools := map[string]*Pool{}
	for _, p := range c.Pools {
		pools[p.Name] = p
	}
	var pods []*Pod
	price, allSpot := 0.0, true
	for _, n := range candidates {
		pods = append(pods, n.Pods...)
		price += c.price(n, pools)
		allSpot = allSpot && c.Offers(n).CapacityType == Spot
		n.without = true
	}
	s := c.solve(pods, true)
	for _, n := range candidates {
		n.without = false
	}
	cmd := &command{reason: Underutilized, candidates: slices.Clone(candidates), claims: s.claims}
	if len(s.failed) > 0 || len(s.claims) > 1 {
		return nil
	}
	if len(s.claims) == 0 {
		return cmd
	}
	cl := s.claims[0]
	spot := slices.ContainsFunc(cl.options, func(o int32) bool { return c.Catalogue.Offerings[o].CapacityType == Spot })
	if allSpot && spot {
		if !c.SpotToSpot {
			return nil
		}
		cl.onlySpot = true
	}
	cl.options = c.cheaper(cl, price)
	if len(cl.options) == 0 {
		return nil
	}
	if allSpot && spot {
		cl.options = c.cheapestTypes(cl, 15)
		if len(candidates) == 1 && cl.options == nil {
			return nil
		}
	}
	cl.onlySpot = cl.onlySpot || spot
	return cmd
}

// cheaper are the options of types whose dearest offering, of spot if there is any, costs less than that.
func (c *Cluster) cheaper(cl *claim, limit float64) []int32 {
	prices := c.pricesOf(cl.pool)
	worst := map[int32]float64{}
	spot := map[int32]bool{}
	for _, o := range cl.options {
		offering := &c.Catalogue.Offerings[o]
		t := offering.typeIndex
		switch {
		case offering.CapacityType == Spot && !spot[t]:
			spot[t], worst[t] = true, prices[o]
		case offering.CapacityType == Spot || !spot[t] && !cl.onlySpot:
			worst[t] = max(worst[t], prices[o])
		}
	}
	var kept []int32
	for _, o := range cl.options {
		offering := &c.Catalogue.Offerings[o]
		if w, ok := worst[offering.typeIndex]; ok && w < limit && (!cl.onlySpot || offering.CapacityType == Spot) {
			kept = append(kept, o)
		}
	}
	return kept
}

// cheapestTypes are the options of the n cheapest types, or nil if there are fewer types.
func (c *Cluster) cheapestTypes(cl *claim, n int) []int32 {
	prices := c.pricesOf(cl.pool)
	least := map[int32]float64{}
	for _, o := range cl.options {
		t := c.Catalogue.Offerings[o].typeIndex
		if p, ok := least[t]; !ok || prices[o] < p {
			least[t] = prices[o]
		}
	}
	if len(least) < n {
		return nil
	}
	types := make([]int32, 0, len(least))
	for t := range least {
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b int32) int { return cmp.Or(cmp.Compare(least[a], least[b]), cmp.Compare(a, b)) })
	types = types[:n]
	var kept []int32
	for _, o := range cl.options {
		if slices.Contains(types, c.Catalogue.Offerings[o].typeIndex) {
			kept = append(kept, o)
		}
	}
	return kept
}
