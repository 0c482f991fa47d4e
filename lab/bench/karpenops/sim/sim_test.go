package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// pool is a NodePool with what a test says about it.
func pool(name string, weight int, cpu, budget string, requirements ...[]string) map[string]any {
	var list []any
	for _, r := range requirements {
		var values []any
		for _, v := range r[2:] {
			values = append(values, v)
		}
		list = append(list, map[string]any{"key": r[0], "operator": r[1], "values": values})
	}
	spec := map[string]any{
		"template":   map[string]any{"spec": map[string]any{"requirements": list, "expireAfter": "Never"}},
		"disruption": map[string]any{"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "0s", "budgets": []any{map[string]any{"nodes": budget}}},
	}
	if weight > 0 {
		spec["weight"] = float64(weight)
	}
	if cpu != "" {
		spec["limits"] = map[string]any{"cpu": cpu}
	}
	return map[string]any{"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": map[string]any{"name": name}, "spec": spec}
}

func cheap(pool, percent string) map[string]any {
	return map[string]any{"kind": "NodeOverlay", "metadata": map[string]any{"name": pool}, "spec": map[string]any{"priceAdjustment": percent, "requirements": []any{
		map[string]any{"key": LabelPool, "operator": "In", "values": []any{pool}},
	}}}
}

// small is a cluster of Karpenter's kwok provider: two families, spot at 30 % of on demand.
func small(overlays bool) *Cluster { return made(overlays, "c5", "m5") }

func made(overlays bool, families ...string) *Cluster {
	var types []*Type
	for _, family := range families {
		for size, vcpu := range []int{1, 2, 4} {
			types = append(types, &Type{Name: fmt.Sprintf("%s.%d", family, size), VCPU: vcpu, MemoryMiB: vcpu * 4096, Labels: map[string]string{LabelFamily: family}})
		}
	}
	catalogue := NewCatalogue(types, []string{"a", "b"}, []string{OnDemand, Spot})
	var prices Fixed
	for _, o := range catalogue.Offerings {
		price := 0.04 * float64(o.Type.VCPU)
		if o.Labels()[LabelFamily] != "c5" {
			price *= 1.2
		}
		if o.CapacityType == Spot {
			price *= 0.3
		}
		prices = append(prices, price)
	}
	return New(Config{Name: "t", Step: time.Second, Boot: 3 * time.Second, Drain: 4 * time.Second, Validate: 15 * time.Second, Poll: 10 * time.Second, Kwok: true, Overlays: overlays}, catalogue, prices, time.Date(2027, 1, 4, 10, 0, 0, 0, time.UTC))
}

func (c *Cluster) run(seconds int) {
	for range seconds {
		c.Step()
	}
}

func (c *Cluster) apply(t *testing.T, objects ...map[string]any) {
	t.Helper()
	for _, o := range objects {
		if err := c.Apply(o); err != nil {
			t.Fatal(err)
		}
	}
}

// scale adds pods that take a node each.
func (c *Cluster) scale(n int, cpu int64) {
	for range n {
		c.Add(&Pod{Name: fmt.Sprintf("p%d", len(c.Pods)), Group: "p", CPU: cpu, MemoryMiB: 512, Exclusive: true})
	}
}

// nodes counts them by pool and capacity type.
func (c *Cluster) nodes() string {
	counts := map[string]int{}
	for _, n := range c.Nodes {
		if n.Deleting == "" {
			counts[n.Pool+"/"+c.Offers(n).CapacityType]++
		}
	}
	var all []string
	for key, n := range counts {
		all = append(all, fmt.Sprintf("%s=%d", key, n))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// mostDeleting is how many nodes were being deleted at a time.
func (c *Cluster) mostDeleting() int {
	now, most := 0, 0
	for _, e := range c.Events {
		switch e.Verb {
		case Deleting:
			now++
		case Deleted:
			now--
		}
		most = max(most, now)
	}
	return most
}

// TestBehaviour: what was seen of Karpenter in a loop, in the order in which it was seen.
func TestBehaviour(t *testing.T) {
	spotBase := pool("base", 0, "", "1", []string{LabelCapacityType, "In", Spot, OnDemand})
	commit := func(cpu string) map[string]any {
		return pool("commit", 60, cpu, "1", []string{LabelCapacityType, "In", OnDemand})
	}
	check := func(t *testing.T, c *Cluster, when, want string) {
		t.Helper()
		if got := c.nodes(); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	t.Run("commitment", func(t *testing.T) {
		c := small(true)
		c.apply(t, spotBase)
		c.scale(4, 1000)
		c.run(30)
		check(t, c, "at first", "base/spot=4")
		c.apply(t, commit("3"))
		c.run(120)
		check(t, c, "weight alone moves nothing", "base/spot=4")
		c.apply(t, cheap("commit", "-95%"))
		c.run(240)
		check(t, c, "an overlay moves nodes up to the limit", "base/spot=1 commit/on-demand=3")
		if n := c.mostDeleting(); n != 1 {
			t.Errorf("%d nodes were deleted at a time: the budget is one", n)
		}
		if err := c.Delete("NodeOverlay", "commit"); err != nil {
			t.Fatal(err)
		}
		c.run(60)
		check(t, c, "without it nothing moves back", "base/spot=1 commit/on-demand=3")
		c.apply(t, commit("1"))
		c.run(240)
		check(t, c, "a lower limit shrinks one by one", "base/spot=3 commit/on-demand=1")
		c.apply(t, commit("0"))
		c.run(120)
		check(t, c, "a limit of zero drains", "base/spot=4")
		if n := c.mostDeleting(); n != 1 {
			t.Errorf("%d nodes were deleted at a time: the budget is one", n)
		}
	})
	t.Run("a limit that is lowered under an overlay", func(t *testing.T) {
		c := small(true)
		c.apply(t, spotBase, commit("3"), cheap("commit", "-95%"))
		c.scale(4, 1000)
		c.run(120)
		check(t, c, "at first", "base/spot=1 commit/on-demand=3")
		c.apply(t, commit("1"))
		c.run(240)
		check(t, c, "what is cheap in Karpenter's eyes stays", "base/spot=1 commit/on-demand=3")
	})
	t.Run("new pods", func(t *testing.T) {
		c := small(false)
		c.apply(t, spotBase, commit("2"))
		c.scale(3, 1000)
		c.run(30)
		// Karpenter takes the largest of what it may launch off the limit, so that one batch of pods does not use it up.
		check(t, c, "the sibling first, short of its limit", "base/spot=2 commit/on-demand=1")
		c.scale(1, 1000)
		c.run(30)
		check(t, c, "the next batch gets the rest", "base/spot=2 commit/on-demand=2")
	})
	t.Run("deletion", func(t *testing.T) {
		c := small(false)
		c.apply(t, spotBase, commit("2"))
		for range 3 {
			c.scale(1, 1000)
			c.run(30)
		}
		if err := c.Delete("NodePool", "commit"); err != nil {
			t.Fatal(err)
		}
		c.run(6)
		check(t, c, "its nodes go at once", "base/spot=3")
		if c.Disrupted[Cascade] != 2 {
			t.Errorf("disrupted: %v", c.Disrupted)
		}
	})
	t.Run("drift", func(t *testing.T) {
		c := small(false)
		c.apply(t, pool("base", 0, "", "1", []string{LabelFamily, "In", "c5", "m5"}))
		c.scale(6, 900)
		c.run(30)
		c.apply(t, pool("base", 0, "", "1", []string{LabelFamily, "In", "m5"}))
		c.run(100)
		families := map[string]int{}
		for _, n := range c.Nodes {
			families[n.Labels[LabelFamily]]++
		}
		if families["m5"] != 6 || families["c5"] != 0 || c.Disrupted[Drifted] != 6 || c.mostDeleting() != 1 {
			t.Errorf("families %v, disrupted %v, at most %d deleted at a time", families, c.Disrupted, c.mostDeleting())
		}
	})
	t.Run("no budget", func(t *testing.T) {
		c := small(true)
		c.apply(t, pool("base", 0, "", "0", []string{LabelCapacityType, "In", OnDemand}))
		c.scale(3, 900)
		c.run(30)
		c.apply(t, pool("base", 0, "", "0", []string{LabelCapacityType, "In", OnDemand}, []string{LabelFamily, "In", "m5"}))
		c.run(120)
		if len(c.Disrupted) != 0 {
			t.Errorf("disrupted: %v", c.Disrupted)
		}
	})
	t.Run("overlay on a family", func(t *testing.T) {
		dear := cheap("base", "+200%")
		dear["spec"].(map[string]any)["requirements"] = []any{map[string]any{"key": LabelFamily, "operator": "In", "values": []any{"c5"}}}
		for capacityType, want := range map[string]int{OnDemand: 3, Spot: 0} {
			c := small(true)
			c.apply(t, pool("base", 0, "", "1", []string{LabelCapacityType, "In", capacityType}))
			c.scale(3, 900)
			c.run(30)
			c.apply(t, dear)
			c.run(120)
			if got := c.Disrupted[Underutilized]; got != want {
				t.Errorf("%s: %d replaced, want %d", capacityType, got, want)
			}
		}
	})
}

// TestSpotToSpot: spot nodes are replaced by spot ones only with the gate, and only where fifteen types are cheaper.
func TestSpotToSpot(t *testing.T) {
	dear := cheap("base", "+2000%")
	dear["spec"].(map[string]any)["requirements"] = []any{map[string]any{"key": LabelFamily, "operator": "In", "values": []any{"c5"}}}
	for _, tt := range []struct {
		name     string
		gate     bool
		families []string
		want     int
	}{
		{"gate off", false, []string{"c5", "m1", "m2", "m3", "m4", "m5"}, 0},
		{"gate on, fifteen types", true, []string{"c5", "m1", "m2", "m3", "m4", "m5"}, 3},
		{"gate on, twelve types", true, []string{"c5", "m1", "m2", "m3", "m4"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := made(true, tt.families...)
			c.SpotToSpot = tt.gate
			c.apply(t, pool("base", 0, "", "1", []string{LabelCapacityType, "In", Spot}))
			c.scale(3, 900)
			c.run(30)
			c.apply(t, dear)
			c.run(120)
			if got := c.Disrupted[Underutilized]; got != tt.want {
				t.Errorf("%d replaced, want %d", got, tt.want)
			}
		})
	}
}

// TestBudgets: the least of those that are active, rounded up, at most what is not busy.
func TestBudgets(t *testing.T) {
	noon := time.Date(2027, 1, 4, 12, 0, 0, 0, time.UTC) // a Monday
	for _, tt := range []struct {
		name    string
		budgets []any
		reason  string
		at      time.Time
		want    int
	}{
		{"none for the reason is no limit", []any{map[string]any{"nodes": "0", "reasons": []any{"Drifted"}}}, Empty, noon, 1 << 30},
		{"one for the reason", []any{map[string]any{"nodes": "0", "reasons": []any{"Drifted"}}, map[string]any{"nodes": "5"}}, Drifted, noon, 0},
		{"percentages round up", []any{map[string]any{"nodes": "10%"}}, Drifted, noon, 2},
		{"scheduled, within", []any{map[string]any{"nodes": "5"}, map[string]any{"nodes": "0", "schedule": "0 9 * * 1-5", "duration": "8h"}}, Drifted, noon, 0},
		{"scheduled, over", []any{map[string]any{"nodes": "5"}, map[string]any{"nodes": "0", "schedule": "0 9 * * 1-5", "duration": "3h"}}, Drifted, noon, 5},
		{"scheduled, at the weekend", []any{map[string]any{"nodes": "5"}, map[string]any{"nodes": "0", "schedule": "0 9 * * 1-5", "duration": "8h"}}, Drifted, noon.AddDate(0, 0, -1), 5},
		{"scheduled daily", []any{map[string]any{"nodes": "5"}, map[string]any{"nodes": "1", "schedule": "@daily", "duration": "13h"}}, Drifted, noon, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var budgets []budget
			for _, entry := range tt.budgets {
				b, err := parseBudget(entry)
				if err != nil {
					t.Fatal(err)
				}
				budgets = append(budgets, b)
			}
			if got := allowed(budgets, tt.at, 11, tt.reason); got != tt.want && (tt.want < 1<<30 || got < 1<<30) {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}
