package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
)

// ours is the planner: one in each cluster, which knows of the others only what the platform states. What it plans is written as the agent
// writes it, at the pace that its configuration allows; what the simulator has no word for is an error.
type ours struct {
	mode   karpenstate.Mode
	make   func(plan.Input) plan.Plan
	memory map[string]plan.Memory
}

func (o *ours) tick(w *world) error {
	for i, c := range w.clusters {
		in := o.input(w, c, i)
		p := o.make(in)
		o.memory[c.Name] = p.Memory
		for _, a := range p.Actions {
			if a.Waiting != "" {
				continue
			}
			if err := c.carryOut(w, a); err != nil {
				return fmt.Errorf("cluster %s: %s of %s: %w", c.Name, a.Kind, a.Name, err)
			}
			o.memory[c.Name] = o.memory[c.Name].Applied(a, w.now)
		}
	}
	return nil
}

// input is what the agent would see of a cluster: its own conversion of the objects does the reading.
func (o *ours) input(w *world, c *cluster, index int) plan.Input {
	snapshot := inventory.Snapshot{At: w.now, Zones: map[string]string{}}
	for _, z := range w.s.Zones {
		snapshot.Zones[z.ID] = z.Name
	}
	for _, p := range c.Pools {
		vcpu, memory, nodes := c.Usage(p.Name)
		object := make(map[string]any, len(p.Object)+1)
		for key, value := range p.Object {
			object[key] = value
		}
		object["status"] = map[string]any{
			"resources":  map[string]any{"cpu": strconv.FormatFloat(vcpu, 'f', -1, 64), "memory": strconv.FormatFloat(memory/1024, 'f', 0, 64) + "Ki", "nodes": strconv.Itoa(nodes)},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		}
		snapshot.Pools = append(snapshot.Pools, object)
	}
	slices.SortFunc(snapshot.Pools, func(a, b map[string]any) int { return strings.Compare(inventory.Name(a), inventory.Name(b)) })
	snapshot.Overlays = c.NodeOverlays()
	in := plan.Input{
		Now: w.now, Config: plan.Config{Mode: o.mode}.WithDefaults(), Zones: snapshot.Zones, Memory: o.memory[c.Name],
		Karpenter: karpenstate.Karpenter{APIVersions: []string{"v1"}, Writable: true, NodeOverlay: o.mode.Includes(karpenstate.ModeOverlays), NodeClassKinds: []string{"EC2NodeClass"}},
	}
	for _, n := range c.Nodes {
		snapshot.Claims = append(snapshot.Claims, &inventory.Claim{Name: n.Name, Pool: n.Pool, Node: n.Name, Labels: n.Labels, VCPU: float64(n.VCPU), Drifted: n.Drifted, Deleting: n.Deleting != "", Created: n.Created})
		in.Nodes = append(in.Nodes, plan.Node{Name: n.Name, Pool: n.Pool, Labels: n.Labels, VCPU: float64(n.VCPU), Requests: n.Requests(), Drifted: n.Drifted, Deleting: n.Deleting != "", Created: n.Created})
	}
	in.Pools = snapshot.PlanPools(inventory.Rules{Mode: o.mode, Budget: func(pool map[string]any, _ time.Time) int { return c.Allowed(inventory.Name(pool), sim.Drifted) }})
	in.Shapes = c.shapes()
	if m := w.platform.market; m != nil && w.now.Before(m.ValidUntil) {
		in.Market = m
	}
	if d := w.platform.commitments[index]; d != nil && w.now.Before(d.ValidUntil) {
		in.Commitments = d
	}
	return in
}

// shapes are the pods by what they ask for.
func (c *cluster) shapes() []plan.Shape {
	counts := map[string]*plan.Shape{}
	for _, p := range c.Pods {
		key := fmt.Sprint(p.CPU, p.MemoryMiB, p.Selector)
		s := counts[key]
		if s == nil {
			s = &plan.Shape{CPU: float64(p.CPU) / 1000, MemoryMiB: float64(p.MemoryMiB)}
			if workload := p.Selector["workload"]; workload != "" {
				for _, pool := range c.Pools {
					if sim.Field(pool.Object, "spec", "template", "metadata", "labels", "workload") == workload {
						s.Pools = append(s.Pools, pool.Name)
					}
				}
				slices.Sort(s.Pools)
			}
			counts[key] = s
		}
		s.Count++
		if p.Node == nil {
			s.Pending++
		}
	}
	var all []plan.Shape
	for _, s := range counts {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b plan.Shape) int {
		return cmp.Or(cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.MemoryMiB, b.MemoryMiB))
	})
	return all
}

// carryOut writes what an action says, if the object is what the plan was made for.
func (c *cluster) carryOut(w *world, a plan.Action) error {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%s %s %s %s %v %s\n", w.now.Format("02 15:04"), c.Name, a.Kind, a.Name, a.Changes, a.Reason)
	}
	w.wrote(string(a.Kind), len(a.Drift))
	if a.Object != nil {
		object := sim.Copy(a.Object)
		if object["kind"] == nil {
			object["kind"] = a.ObjectKind
		}
		if a.ObjectKind == "NodePool" {
			if c.Pool(a.Name) != nil {
				return fmt.Errorf("it exists")
			}
			c.own(w, object)
		}
		return c.Apply(object)
	}
	if a.Kind == plan.DeleteSibling || a.Kind == plan.DeleteOverlay {
		delete(c.owned, a.Name)
		return c.Delete(a.ObjectKind, a.Name)
	}
	var live map[string]any
	if a.ObjectKind == "NodePool" {
		if p := c.Pool(a.Name); p != nil {
			live = p.Object
		}
	} else {
		live = c.Overlay(a.Name)
	}
	if live == nil {
		return fmt.Errorf("there is none")
	}
	object := sim.Copy(live)
	for _, change := range a.Changes {
		if err := set(object, change); err != nil {
			return err
		}
	}
	if a.ObjectKind == "NodePool" {
		c.own(w, object)
	}
	return c.Apply(object)
}

// own notes which commitment a NodePool of ours is for, by what it says itself.
func (c *cluster) own(w *world, object map[string]any) {
	name, _ := sim.Field(object, "metadata", "name").(string)
	if sim.Field(object, "metadata", "annotations", karpenstate.AnnotationPurpose) != karpenstate.PurposeCommitment {
		return
	}
	ids, _ := sim.Field(object, "metadata", "annotations", karpenstate.AnnotationCommitment).(string)
	for i := range w.s.Commitments {
		if slices.Contains(strings.Split(ids, ","), w.s.Commitments[i].ID) {
			c.owned[name] = i
		}
	}
}

// set carries out one change of a JSON pointer, if the value is what it was.
func set(object map[string]any, change plan.Change) error {
	parts := strings.Split(strings.TrimPrefix(change.Path, "/"), "/")
	at := object
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
	}
	for _, part := range parts[:len(parts)-1] {
		next, ok := at[part].(map[string]any)
		if !ok {
			if at[part] != nil {
				return fmt.Errorf("%s: %s is no object", change.Path, part)
			}
			next = map[string]any{}
			at[part] = next
		}
		at = next
	}
	last := parts[len(parts)-1]
	if !equal(at[last], change.Before) {
		return fmt.Errorf("%s is %v, and not %v", change.Path, at[last], change.Before)
	}
	if change.After == nil {
		delete(at, last)
		return nil
	}
	at[last] = change.After
	return nil
}

// equal compares as JSON would.
func equal(a, b any) bool {
	return fmt.Sprint(a) == fmt.Sprint(b)
}
