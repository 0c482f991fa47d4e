package offering

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Node is a NodeClaim by what drift is decided by. Labels are those of the NodeClaim, not of its Node: kubelets and people add to those.
type Node struct {
	Name   string
	Labels map[string]string
}

// Drifted is a NodeClaim that would be marked RequirementsDrifted, and replaced as the budgets allow.
type Drifted struct {
	Node    string
	Misfits []Misfit
}

// Misfit is a label that does not fit.
type Misfit struct {
	Key     string
	Value   string // of the node
	Absent  bool   // the node has no such label
	Allowed string // in words
	Entries []int  // of the requirements that Compile was given, which together exclude it
}

// String says it in words: "topology.kubernetes.io/zone is us-east-1c; allowed: us-east-1a, us-east-1b".
func (m Misfit) String() string {
	if m.Absent {
		return fmt.Sprintf("%s is missing; allowed: %s", m.Key, m.Allowed)
	}
	return fmt.Sprintf("%s is %s; allowed: %s", m.Key, m.Value, m.Allowed)
}

// String says it in words.
func (d Drifted) String() string {
	why := make([]string, len(d.Misfits))
	for i, m := range d.Misfits {
		why[i] = m.String()
	}
	return d.Node + ": " + strings.Join(why, "; ")
}

// Misfits are the labels that keep a NodeClaim from fitting, by key. There are none exactly where Matches.
func (c Compiled) Misfits(labels map[string]string) []Misfit {
	var misfits []Misfit
	for i := range c.keys {
		k := &c.keys[i]
		if k.matches(labels) {
			continue
		}
		m := Misfit{Key: k.key, Allowed: k.String(), Entries: slices.Clone(k.entries)}
		switch value, state := labelOf(labels, k.key); state {
		case none:
			m.Absent = true
		case several:
			m.Value = "different under its old name"
		default:
			m.Value = value
		}
		misfits = append(misfits, m)
	}
	return misfits
}

// Drift is which NodeClaims of a NodePool would be marked RequirementsDrifted if its requirements were these, in the order given. Template
// labels have no part in it: Karpenter compares the requirements with the labels that the NodeClaim has. See StaticDrift for the rest.
func Drift(after Compiled, nodes []Node) []Drifted {
	var drifted []Drifted
	for i := range nodes {
		if !after.Matches(nodes[i].Labels) {
			drifted = append(drifted, Drifted{Node: nodes[i].Name, Misfits: after.Misfits(nodes[i].Labels)})
		}
	}
	return drifted
}

// Fleet answers about the same nodes many times: whoever tries one edit after the other asks it instead of Drift. It reads a label of
// all nodes when it is first asked about it, so one goroutine at a time may ask. The nodes must not change.
type Fleet struct {
	nodes   []Node
	columns map[string]*column
}

// NewFleet is one of these nodes.
func NewFleet(nodes []Node) *Fleet { return &Fleet{nodes: nodes, columns: map[string]*column{}} }

// Drift is Drift of all nodes.
func (f *Fleet) Drift(after Compiled) []Drifted {
	var drifted []Drifted
	for _, i := range f.Drifting(after) {
		drifted = append(drifted, Drifted{Node: f.nodes[i].Name, Misfits: after.Misfits(f.nodes[i].Labels)})
	}
	return drifted
}

// Drifting is which nodes Drift would name, by their places in the list.
func (f *Fleet) Drifting(after Compiled) []int {
	misfits := make([]bool, len(f.nodes))
	var allowed []bool
	for i := range after.keys {
		k := &after.keys[i]
		col := f.column(k.key)
		allowed = append(allowed[:0], k.absent())
		for _, value := range col.values[1:] {
			allowed = append(allowed, k.has(value))
		}
		for n, value := range col.of {
			misfits[n] = misfits[n] || !allowed[value]
		}
	}
	var drifting []int
	for n, misfit := range misfits {
		if misfit {
			drifting = append(drifting, n)
		}
	}
	return drifting
}

func (f *Fleet) column(key string) *column {
	col := f.columns[key]
	if col == nil {
		col = &column{values: []string{""}, of: make([]uint32, len(f.nodes))}
		numbers := map[string]uint32{}
		for i := range f.nodes {
			value, state := labelOf(f.nodes[i].Labels, key)
			if state != one {
				continue // see matches: several names with different values count like none
			}
			n, found := numbers[value]
			if !found {
				n = uint32(len(col.values)) //nolint:gosec // at most as many as there are nodes
				col.values, numbers[value] = append(col.values, value), n
			}
			col.of[i] = n
		}
		f.columns[key] = col
	}
	return col
}

// StaticChange is a changed field that makes every NodeClaim of a NodePool NodePoolDrifted.
type StaticChange struct {
	Path          string // JSON pointer into the NodePool
	Before, After any    // nil: absent
}

// String says it in words.
func (s StaticChange) String() string {
	return fmt.Sprintf("%s from %v to %v", s.Path, orNone(s.Before), orNone(s.After))
}

func orNone(v any) any {
	if v == nil {
		return "none"
	}
	return v
}

// StaticDrift is which fields that differ between two NodePools enter the hash that Karpenter compares (version v3, of Karpenter 1.x):
// everything in spec.template but the requirements. Where one does, all NodeClaims drift. Weight, limits, disruption and the NodePool's
// own metadata do not enter it.
//
// As the hash does, it ignores the order of taints and the way a duration is written, takes 'Never' for no expiry, and tells an empty
// list or map from none. What the API server fills in is taken as filled in: expireAfter is 720h where it is absent.
func StaticDrift(before, after map[string]any) []StaticChange {
	var changes []StaticChange
	a, b := object(before, "spec", "template"), object(after, "spec", "template")
	compare := func(path string, before, after any, canonical func(any) any) {
		if !reflect.DeepEqual(canonical(before), canonical(after)) {
			changes = append(changes, StaticChange{Path: path, Before: before, After: after})
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		x, y := object(a, "metadata")[field], object(b, "metadata")[field]
		before, isX := x.(map[string]any)
		after, isY := y.(map[string]any)
		if isX != isY {
			compare("/spec/template/metadata/"+field, x, y, same)
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(merged(before, after))) {
			compare("/spec/template/metadata/"+field+"/"+escape(key), before[key], after[key], same)
		}
	}
	x, y := object(a, "spec"), object(b, "spec")
	for _, field := range []struct {
		name      string
		canonical func(any) any
	}{
		{"taints", taints},
		{"startupTaints", taints},
		{"nodeClassRef", zeroless},
		{"terminationGracePeriod", duration},
		{"expireAfter", expiry},
	} {
		compare("/spec/template/spec/"+field.name, x[field.name], y[field.name], field.canonical)
	}
	return changes
}

func same(v any) any { return v }

func merged(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	return all
}

func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func object(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}

// zeroless drops empty strings, which count like absent ones.
func zeroless(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	kept := map[string]any{}
	for key, value := range m {
		if value != "" && value != nil {
			kept[key] = value
		}
	}
	return kept
}

// taints are a set, and two equal ones cancel each other: the hash is an exclusive or of theirs.
func taints(v any) any {
	list, ok := v.([]any)
	if !ok {
		return nil
	}
	odd := map[string]bool{}
	for _, taint := range list {
		t, _ := zeroless(taint).(map[string]any)
		added, _ := t["timeAdded"].(string)
		if at, err := time.Parse(time.RFC3339, added); err == nil {
			added = at.UTC().Format(time.RFC3339Nano)
		}
		key := fmt.Sprintf("%q %q %q %q", t["key"], t["value"], t["effect"], added)
		if odd[key] {
			delete(odd, key)
		} else {
			odd[key] = true
		}
	}
	return odd
}

func duration(v any) any {
	text, ok := v.(string)
	if !ok {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return text
	}
	return d
}

func expiry(v any) any {
	switch v {
	case nil:
		return 720 * time.Hour
	case "Never":
		return nil
	}
	return duration(v)
}
