package offering

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Few keys and values, so that they meet. What Karpenter itself makes of lists like these is compared in lab/contract.

var (
	anyKey      = rapid.SampledFrom([]string{LabelFamily, LabelZone, "failure-domain.beta.kubernetes.io/zone", LabelCapacityType, LabelCPU, LabelArch, "example.com/team"})
	anyOperator = rapid.SampledFrom([]Operator{In, In, NotIn, NotIn, Exists, DoesNotExist, Gt, Lt, Gte, Lte})
)

func anyValue(key string) *rapid.Generator[string] {
	return rapid.SampledFrom(map[string][]string{
		LabelFamily: {"c5", "m5", "r5", "m6g", "t3"}, LabelZone: {"us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d"},
		LabelCapacityType: {"spot", "on-demand"}, LabelCPU: {"2", "4", "8", "16"}, LabelArch: {"amd64", "arm64"}, "example.com/team": {"a", "b", "7"},
	}[Canonical(key)])
}

var anyRequirement = rapid.Custom(func(t *rapid.T) Requirement {
	r := Requirement{Key: anyKey.Draw(t, "key"), Operator: anyOperator.Draw(t, "operator")}
	switch r.Operator {
	case In:
		r.Values = rapid.SliceOfN(anyValue(r.Key), 1, 4).Draw(t, "values")
	case NotIn:
		r.Values = rapid.SliceOfN(anyValue(r.Key), 0, 3).Draw(t, "values")
	case Gt, Lt, Gte, Lte:
		r.Values = []string{rapid.SampledFrom([]string{"0", "2", "4", "5", "8", "16"}).Draw(t, "bound")}
	}
	if rapid.IntRange(0, 4).Draw(t, "has minValues") == 0 {
		r.MinValues = new(rapid.IntRange(1, 3).Draw(t, "minValues"))
	}
	return r
})

var anyList = rapid.Custom(func(t *rapid.T) Requirements { return rapid.SliceOfN(anyRequirement, 0, 6).Draw(t, "requirements") })

var anyLabels = rapid.Custom(func(t *rapid.T) map[string]string {
	labels := map[string]string{}
	for _, key := range rapid.SliceOfDistinct(anyKey, rapid.ID[string]).Draw(t, "keys") {
		labels[key] = anyValue(key).Draw(t, key)
	}
	return labels
})

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := anyList.Draw(t, "list")
		other := slices.Clone(list)
		for i := range other {
			other[i].Values = rapid.Permutation(other[i].Values).Draw(t, "values")
		}
		other = rapid.Permutation(other).Draw(t, "order")
		labels := anyLabels.Draw(t, "labels")
		a, b := Compile(list), Compile(other)
		if !reflect.DeepEqual(a.Requirements(), b.Requirements()) || a.Matches(labels) != b.Matches(labels) || len(Diff(list, other)) > 0 {
			t.Fatalf("%v and %v differ: %v", a.Requirements(), b.Requirements(), Diff(list, other))
		}
	})
}

// What both lists allow is what each allows, value by value. Absence is another matter: entries of a key that contradict each other allow
// it though neither does, which is Karpenter's own reading (see TestMatches).
func TestIntersectionIsPointwise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, y := anyList.Draw(t, "x"), anyList.Draw(t, "y")
		a, b := Compile(x), Compile(y)
		both := a.And(b)
		key := anyKey.Draw(t, "key")
		value := anyValue(key).Draw(t, "value")
		if got, want := both.Allows(key, value), a.Allows(key, value) && b.Allows(key, value); got != want {
			t.Fatalf("%s %s: both allow %v, each %v", key, value, got, want)
		}
		if together := Compile(append(slices.Clone(x), y...)); !reflect.DeepEqual(together.Requirements(), both.Requirements()) {
			t.Fatalf("And %v, one list %v", both.Requirements(), together.Requirements())
		}
		if a.Intersects(b) != b.Intersects(a) {
			t.Fatal("Intersects depends on the side")
		}
		labels := anyLabels.Draw(t, "labels")
		for _, key := range sortedKeys(labels) {
			if other := oldNames(Canonical(key)); labels[other[0]] != "" && labels[Canonical(key)] != "" {
				return // two names, two values: nothing is allowed, whatever the list
			}
		}
		complete := true
		for _, key := range both.Keys() {
			_, state := labelOf(labels, key)
			complete = complete && state == one
		}
		if got, want := both.Matches(labels), a.Matches(labels) && b.Matches(labels); complete && got != want {
			t.Fatalf("both match %v, each %v", got, want)
		}
		if CompileLabels(labels).Compatible(both, nil) != both.Matches(labels) {
			t.Fatal("labels are not compatible where they match")
		}
	})
}

func TestSubsetsAreMonotone(t *testing.T) {
	catalogue := small(t)
	rapid.Check(t, func(t *rapid.T) {
		x, more := anyList.Draw(t, "x"), anyList.Draw(t, "more")
		zones := rapid.SliceOfDistinct(anyValue(LabelZone), rapid.ID[string]).Draw(t, "zones")
		before := catalogue.Effective(Pool{Requirements: x})
		after := catalogue.Effective(Pool{Requirements: append(slices.Clone(x), more...), Zones: zones})
		// Karpenter lets a label be absent that is contradicted: only labels that all types have are free of it.
		contradicted := slices.ContainsFunc(after.Required.Nothing(), func(key string) bool { return catalogue.columns[key] == nil })
		if !contradicted && !after.Set.Within(before.Set) {
			t.Fatalf("more requirements allow more: %d → %d", before.Set.Len(), after.Set.Len())
		}
		for i := range after.Set.All() {
			if o := catalogue.Offering(i); !slices.Contains(zones, o.Zone) {
				t.Fatalf("%v is out of reach %v", o, zones)
			}
		}
		n := catalogue.Count(after.Set)
		if n.Offerings != after.Set.Len() || n.Types < n.Families || n.Offerings < n.Types || (n.Offerings == 0) != (n.Zones == 0) || len(catalogue.Values(after.Set, LabelFamily)) != n.Families {
			t.Fatalf("counts do not fit together: %+v", n)
		}
		if fits := catalogue.Fits(after.Set, 3, 1000, Compile(more)); !fits.Within(after.Set) {
			t.Fatal("what fits is not among what there is")
		}
	})
}

// The catalogue is an index: offering by offering, by hand, comes to the same.
func TestMatchingIsPointwise(t *testing.T) {
	catalogue := small(t)
	rapid.Check(t, func(t *rapid.T) {
		compiled := Compile(anyList.Draw(t, "list"))
		set := catalogue.Matching(compiled)
		for i := range catalogue.Len() {
			labels := mapOf(catalogue, i)
			want := true
			for _, key := range compiled.Keys() {
				if value, has := labels[key]; has {
					want = want && compiled.Allows(key, value)
				}
			}
			if set.Has(i) != want {
				t.Fatalf("%v: %v, want %v", catalogue.Offering(i), set.Has(i), want)
			}
		}
	})
}

func mapOf(c *Catalogue, i int) map[string]string {
	labels := map[string]string{LabelZone: c.Offering(i).Zone, LabelCapacityType: c.Offering(i).CapacityType}
	for key, value := range c.Type(i).Labels {
		labels[key] = value
	}
	return labels
}

func TestDriftIsWhatDoesNotMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := anyList.Draw(t, "list")
		after := Compile(list)
		var nodes []Node
		for i := range rapid.IntRange(0, 5).Draw(t, "nodes") {
			nodes = append(nodes, Node{Name: fmt.Sprint(i), Labels: anyLabels.Draw(t, "labels")})
		}
		drifted := Drift(after, nodes)
		if fleet := NewFleet(nodes).Drift(after); !reflect.DeepEqual(fleet, drifted) {
			t.Fatalf("a fleet says %v, Drift %v", fleet, drifted)
		}
		for _, n := range nodes {
			i := slices.IndexFunc(drifted, func(d Drifted) bool { return d.Node == n.Name })
			if (i >= 0) == after.Matches(n.Labels) {
				t.Fatalf("node %s %v drifts %v and matches %v", n.Name, n.Labels, i >= 0, i < 0)
			}
			if i < 0 {
				continue
			}
			// Each misfit alone suffices, by the entries it names.
			for _, m := range drifted[i].Misfits {
				var alone Requirements
				for _, e := range m.Entries {
					alone = append(alone, list[e])
				}
				if len(alone) == 0 || Compile(alone).Matches(n.Labels) {
					t.Fatalf("%v is not why %v drifts", m, n.Labels)
				}
			}
		}
	})
}

func TestNarrowNarrows(t *testing.T) {
	catalogue := small(t)
	narrowed := 0
	rapid.Check(t, func(t *rapid.T) {
		list := anyList.Draw(t, "list")
		before := Encode(list)
		for i := range before {
			before[i].(map[string]any)["unknown"] = i // a field of a later version
		}
		original, _ := json.Marshal(before)
		var edits []Edit
		for range rapid.IntRange(1, 2).Draw(t, "edits") {
			key := rapid.SampledFrom([]string{LabelFamily, LabelZone, LabelCapacityType}).Draw(t, "key")
			e := Edit{Key: key, Without: rapid.SliceOfDistinct(anyValue(key), rapid.ID[string]).Draw(t, "without")}
			if rapid.Bool().Draw(t, "only") {
				e.Only = rapid.SliceOfDistinct(anyValue(key), rapid.ID[string]).Draw(t, "values")
			}
			edits = append(edits, e)
		}
		after, words, err := Narrow(before, edits...)
		if now, _ := json.Marshal(before); string(now) != string(original) {
			t.Fatal("Narrow changed what it was given")
		}
		if err != nil {
			return
		}
		narrowed++
		compiled, err := Decode(after)
		if err != nil {
			t.Fatal(err)
		}
		a, b := Compile(list), Compile(compiled)
		// P3: what need not change is the same to the byte, in its place; minValues are never lowered.
		edited := 0
		for i := range before {
			if reflect.DeepEqual(before[i], after[i]) {
				continue
			}
			edited++
			was, is := mapClone(before[i]), mapClone(after[i])
			if was["operator"] != "In" || !slices.ContainsFunc(edits, func(e Edit) bool { return e.Key == Canonical(fmt.Sprint(was["key"])) }) {
				t.Fatalf("entry %v was not to be changed: %v", was, is)
			}
			delete(was, "values")
			delete(is, "values")
			if !reflect.DeepEqual(was, is) {
				t.Fatalf("more than values changed: %v → %v", was, is)
			}
		}
		if edited+len(after)-len(before) > 2*len(edits) || (edited+len(after)-len(before) > 0) != (len(words) > 0) {
			t.Fatalf("%d entries changed, %d added, said %v", edited, len(after)-len(before), words)
		}
		for key, least := range a.MinValues() {
			if b.MinValues()[key] != least {
				t.Fatalf("minValues of %s changed", key)
			}
		}
		// It allows what was allowed and is not excluded, no more and no less.
		for i := range catalogue.Len() {
			labels := mapOf(catalogue, i)
			want := a.Matches(labels)
			for _, e := range edits {
				want = want && !slices.Contains(e.Without, labels[e.Key]) && (e.Only == nil || slices.Contains(e.Only, labels[e.Key]))
			}
			if b.Matches(labels) != want {
				t.Fatalf("%v: %v, want %v\n%v\n%v", catalogue.Offering(i), !want, want, list, compiled)
			}
		}
		if problems := compiled.Problems(); problems.RejectedBy(true) && !list.Problems().RejectedBy(true) {
			t.Fatalf("the API server would reject it: %v", problems)
		}
		if again, words, err := Narrow(after, edits...); err != nil || len(words) > 0 || !reflect.DeepEqual(again, after) {
			t.Fatalf("not idempotent: %v %v", words, err)
		}
		// P12: undone it is what it was; with an entry that somebody added it keeps that.
		if restored, released := Restore(after, before, after); !reflect.DeepEqual(restored, before) || released != nil {
			t.Fatalf("restored %v, released %v", restored, released)
		}
		theirs := Encode(Requirements{{Key: "example.com/theirs", Operator: Exists}})[0]
		if restored, released := Restore(append(slices.Clone(after), theirs), before, after); !reflect.DeepEqual(restored, append(slices.Clone(before), theirs)) || released != nil {
			t.Fatalf("beside somebody's entry: restored %v, released %v", restored, released)
		}
	})
	if narrowed < 20 {
		t.Fatalf("only %d lists could be narrowed", narrowed)
	}
}

func TestCodingIsLossless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := anyList.Draw(t, "list")
		data, err := json.Marshal(Encode(list))
		if err != nil {
			t.Fatal(err)
		}
		var decoded []any
		if err := json.Unmarshal(data, &decoded); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(decoded)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(list)
		b, _ := json.Marshal(again)
		if string(a) != string(b) {
			t.Fatalf("%s → %s", a, b)
		}
	})
}

// FuzzDecode: whatever JSON says, decoding and all that follows neither panics nor changes it.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`[]`, `null`, `{}`, `[1]`, `[{"key":"a","operator":"In","values":["b"],"minValues":1}]`, `[{"key":1,"operator":"In"}]`, `[{"key":"a","operator":"Gt","values":[]}]`,
		`[{"key":"a","operator":"Gt","values":["99999999999999999999"],"minValues":1.5}]`, `[{"key":"a","operator":"In","values":[null]}]`, `[{"key":"a","operator":"In","values":{}}]`,
		`[{"key":"a","operator":"Lt","values":["-9223372036854775808"],"minValues":1e300}]`,
	} {
		f.Add([]byte(seed))
	}
	catalogue := small(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var list any
		if json.Unmarshal(data, &list) != nil {
			return
		}
		requirements, err := Decode(list)
		pool := map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"requirements": list}}}}
		problems := Validate(pool, nil)
		ValidateOverlay(map[string]any{"spec": map[string]any{"requirements": list}})
		if err != nil {
			if !problems.RejectedBy(false) {
				t.Fatalf("not readable, and not rejected: %v", err)
			}
			return
		}
		compiled := Compile(requirements)
		catalogue.Check(Pool{Requirements: requirements})
		Drift(compiled, []Node{{Labels: map[string]string{"a": "b"}}})
		before, _ := json.Marshal(list)
		if entries, ok := list.([]any); ok {
			after, _, err := Narrow(entries, Edit{Key: LabelFamily, Without: []string{"m5"}})
			if err == nil && len(after) < len(entries) {
				t.Fatal("entries are gone")
			}
		}
		if after, _ := json.Marshal(list); string(before) != string(after) {
			t.Fatalf("changed: %s → %s", before, after)
		}
		_ = Diff(requirements, compiled.Requirements())
	})
}
