package offering

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNarrow(t *testing.T) {
	family := func(op Operator, values ...string) Requirement {
		return Requirement{Key: LabelFamily, Operator: op, Values: values}
	}
	least := func(r Requirement, n int) Requirement { r.MinValues = &n; return r }
	for _, tc := range []struct {
		name, reason string
		list         Requirements
		edits        []Edit
		want         Requirements
		words, err   string
	}{
		{
			name: "a value of a list", reason: "it is taken out where it stands, the rest in its order", list: Requirements{family(In, "r5", "m5", "c5"), {Key: "team", Operator: Exists}},
			edits: []Edit{{Key: LabelFamily, Without: []string{"m5", "t3"}}}, want: Requirements{family(In, "r5", "c5"), {Key: "team", Operator: Exists}},
			words: "karpenter.k8s.aws/instance-family: m5 taken out, r5, c5 left",
		},
		{
			name: "no list", reason: "families that come later stay allowed", list: Requirements{family(NotIn, "t2")}, edits: []Edit{{Key: LabelFamily, Without: []string{"m5", "t2"}}},
			want: Requirements{family(NotIn, "t2"), family(NotIn, "m5")}, words: "karpenter.k8s.aws/instance-family: without m5",
		},
		{
			name: "only", reason: "an entry is added, and the user's stays", list: Requirements{family(Exists)}, edits: []Edit{{Key: LabelFamily, Only: []string{"m5", "c5"}}},
			want: Requirements{family(Exists), family(In, "c5", "m5")}, words: "karpenter.k8s.aws/instance-family: only c5, m5",
		},
		{
			name: "under its old name", reason: "the entry keeps the name that the user gave it", list: Requirements{{Key: "failure-domain.beta.kubernetes.io/zone", Operator: In, Values: []string{"a", "b"}}},
			edits: []Edit{{Key: LabelZone, Only: []string{"b"}}}, want: Requirements{{Key: "failure-domain.beta.kubernetes.io/zone", Operator: In, Values: []string{"b"}}},
			words: "topology.kubernetes.io/zone: a taken out, b left",
		},
		{name: "nothing to do", reason: "they are not allowed anyway", list: Requirements{family(In, "m5")}, edits: []Edit{{Key: LabelFamily, Without: []string{"c5"}}}, want: Requirements{family(In, "m5")}},
		{name: "nothing left", reason: "of the list", list: Requirements{family(In, "m5")}, edits: []Edit{{Key: LabelFamily, Without: []string{"m5"}}}, err: "nothing could be launched"},
		{name: "nothing left by another entry", reason: "m5 is excluded", list: Requirements{family(NotIn, "m5")}, edits: []Edit{{Key: LabelFamily, Only: []string{"m5"}}}, err: "nothing could be launched"},
		{name: "no value", reason: "an empty list is a mistake", edits: []Edit{{Key: LabelFamily, Only: []string{}}}, err: "nothing could be launched"},
		{name: "all excluded", reason: "both at once", edits: []Edit{{Key: LabelFamily, Only: []string{"m5"}, Without: []string{"m5"}}}, err: "nothing could be launched"},
		{name: "minValues of the list", reason: "the API server would refuse it", list: Requirements{least(family(In, "m5", "c5"), 2)}, edits: []Edit{{Key: LabelFamily, Without: []string{"m5"}}}, err: "minValues asks for 2"},
		{
			name: "minValues of a list that another entry has shortened", reason: "nothing was launched before, and now the API server would refuse it", list: Requirements{least(family(In, "m5", "c5"), 2), family(In, "m5", "r5")},
			edits: []Edit{{Key: LabelFamily, Without: []string{"c5"}}}, err: "minValues asks for 2",
		},
		{name: "minValues of another entry", reason: "nothing would be launched", list: Requirements{least(family(Exists), 3)}, edits: []Edit{{Key: LabelFamily, Only: []string{"m5", "c5"}}}, err: "minValues asks for 3"},
		{name: "full", reason: "the API server takes 100", list: append(make(Requirements, 0), repeated(Requirement{Key: "a", Operator: Exists}, 100)...), edits: []Edit{{Key: LabelFamily, Only: []string{"m5"}}}, err: "100 entries already"},
		{
			name: "two keys", reason: "each by itself", list: Requirements{family(In, "m5", "c5")}, edits: []Edit{{Key: LabelCapacityType, Only: []string{"on-demand"}}, {Key: LabelFamily, Only: []string{"m5"}}},
			want:  Requirements{family(In, "m5"), {Key: LabelCapacityType, Operator: In, Values: []string{"on-demand"}}},
			words: "karpenter.sh/capacity-type: only on-demand; karpenter.k8s.aws/instance-family: c5 taken out, m5 left",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			after, words, err := Narrow(Encode(tc.list), tc.edits...)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q: %s", err, tc.err, tc.reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Encode(tc.want), after); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
			if got := strings.Join(words, "; "); got != tc.words {
				t.Errorf("said %q, want %q", got, tc.words)
			}
		})
	}
}

func repeated(r Requirement, n int) Requirements {
	list := make(Requirements, n)
	for i := range list {
		list[i] = r
	}
	return list
}

func TestRestoreLeavesWhatOthersTook(t *testing.T) {
	before := Encode(Requirements{{Key: LabelFamily, Operator: In, Values: []string{"m5", "c5"}}, {Key: LabelZone, Operator: Exists}})
	after, _, err := Narrow(before, Edit{Key: LabelFamily, Without: []string{"m5"}}, Edit{Key: LabelCapacityType, Only: []string{"spot"}})
	if err != nil {
		t.Fatal(err)
	}
	theirs := Encode(Requirements{{Key: LabelFamily, Operator: In, Values: []string{"r5"}}})[0]
	for _, tc := range []struct {
		name, reason  string
		current, want []any
		released      []string
	}{
		{"ours", "nobody else wrote", after, before, nil},
		{"restored by hand", "there is nothing to do", before, before, nil},
		{"our list changed", "whoever changed it has it now; our own entry goes", []any{theirs, after[1], after[2]}, []any{theirs, after[1]}, []string{LabelFamily}},
		{"our entry removed", "so it is released, and the list restored", after[:2], before, []string{LabelCapacityType}},
		{"re-ordered", "entries are found wherever they are", []any{after[2], after[1], after[0]}, []any{before[1], before[0]}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			restored, released := Restore(tc.current, before, after)
			if !reflect.DeepEqual(restored, tc.want) || !reflect.DeepEqual(released, tc.released) {
				t.Errorf("%s: %v, released %v; want %v, released %v", tc.reason, restored, released, tc.want, tc.released)
			}
		})
	}
}

func TestDiffInWords(t *testing.T) {
	before := Requirements{
		{Key: LabelFamily, Operator: In, Values: []string{"m5", "c5"}}, {Key: LabelZone, Operator: Exists}, {Key: LabelCPU, Operator: Gt, Values: []string{"3"}}, {Key: LabelArch, Operator: NotIn, Values: []string{"arm64"}},
		{Key: "same", Operator: In, Values: []string{"a", "b"}},
	}
	after := Requirements{
		{Key: "same", Operator: In, Values: []string{"b", "a"}}, {Key: LabelFamily, Operator: In, Values: []string{"m5", "r5"}, MinValues: nil}, {Key: LabelCPU, Operator: Gt, Values: []string{"7"}}, {Key: LabelCPU, Operator: Lte, Values: []string{"64"}},
		{Key: LabelArch, Operator: NotIn, Values: []string{"amd64"}}, {Key: LabelCapacityType, Operator: In, Values: []string{"spot"}, MinValues: new(1)},
	}
	want := []string{
		"karpenter.k8s.aws/instance-cpu: at least 8, at most 64 (was at least 4)",
		"karpenter.k8s.aws/instance-family: also r5, no longer c5",
		"karpenter.sh/capacity-type: spot, at least 1 of them (was not restricted)",
		"kubernetes.io/arch: also arm64, no longer amd64",
		"topology.kubernetes.io/zone: not restricted (was any)",
	}
	if diff := cmp.Diff(want, Diff(before, after)); diff != "" {
		t.Error(diff)
	}
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		`null`: "", `[]`: "", `[{"key":"a","operator":"In","values":["b"],"minValues":2,"later":true}]`: "",
		`{}`: "not a list", `[1]`: "not an object", `[{"operator":"In"}]`: "key is <nil>, not a string", `[{"key":"a","operator":1}]`: "operator is 1, not a string",
		`[{"key":"a","operator":"In","values":"b"}]`: "not a list", `[{"key":"a","operator":"In","values":[1]}]`: "value 0 is 1, not a string", `[{"key":"a","operator":"In","minValues":1.5}]`: "not a whole number",
	} {
		var list any
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(list); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestStaticDriftInWords(t *testing.T) {
	pool := func(spec string) map[string]any {
		var p map[string]any
		if err := json.Unmarshal([]byte(`{"spec":{"template":`+spec+`}}`), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	changes := StaticDrift(
		pool(`{"metadata":{"labels":{"a/b":"1","same":"x"}},"spec":{"expireAfter":"720h","taints":[{"key":"a","effect":"NoSchedule"},{"key":"b","effect":"NoSchedule"}]}}`),
		pool(`{"metadata":{"labels":{"same":"x","c":"2"}},"spec":{"terminationGracePeriod":"1h","taints":[{"key":"b","value":"","effect":"NoSchedule"},{"key":"a","effect":"NoSchedule"}]}}`))
	var words []string
	for _, c := range changes {
		words = append(words, c.String())
	}
	want := []string{"/spec/template/metadata/labels/a~1b from 1 to none", "/spec/template/metadata/labels/c from none to 2", "/spec/template/spec/terminationGracePeriod from none to 1h"}
	if diff := cmp.Diff(want, words); diff != "" {
		t.Error(diff)
	}
}

// What the hash makes of the less usual, each pair both ways. Karpenter itself is asked in lab/contract.
func TestStaticDriftOfPairs(t *testing.T) {
	for _, tc := range []struct {
		name, a, b string
		changes    int
	}{
		{"never and at once", `"expireAfter":"Never"`, `"expireAfter":"0s"`, 1},
		{"absent is filled in", `"expireAfter":"720h"`, `"a":1`, 0},
		{"absent is not never", `"expireAfter":"Never"`, `"a":1`, 1},
		{"a taint twice is none, in a list", `"taints":[{"key":"a"},{"key":"a"}]`, `"taints":[]`, 0},
		{"a taint twice beside another", `"taints":[{"key":"a"},{"key":"b"},{"key":"a"}]`, `"taints":[{"key":"b"}]`, 0},
		{"a taint twice is not one", `"taints":[{"key":"a"},{"key":"a"}]`, `"taints":[{"key":"a"}]`, 1},
		{"no list and an empty one", `"a":1`, `"startupTaints":[]`, 1},
		{"the same moment", `"taints":[{"key":"a","timeAdded":"2026-01-01T00:00:00Z"}]`, `"taints":[{"key":"a","timeAdded":"2026-01-01T01:00:00+01:00"}]`, 0},
		{"another moment", `"taints":[{"key":"a","timeAdded":"2026-01-01T00:00:00Z"}]`, `"taints":[{"key":"a","timeAdded":"2026-01-01T00:00:01Z"}]`, 1},
		{"a duration written otherwise", `"terminationGracePeriod":"1h"`, `"terminationGracePeriod":"60m"`, 0},
		{"a grace of nothing and none", `"terminationGracePeriod":"0s"`, `"a":1`, 1},
		{"requirements", `"requirements":[]`, `"requirements":[{"key":"a","operator":"Exists"}]`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var a, b map[string]any
			for text, into := range map[string]*map[string]any{tc.a: &a, tc.b: &b} {
				if err := json.Unmarshal([]byte(`{"spec":{"template":{"spec":{`+text+`}}}}`), into); err != nil {
					t.Fatal(err)
				}
			}
			if there, back := StaticDrift(a, b), StaticDrift(b, a); len(there) != tc.changes || len(back) != tc.changes {
				t.Errorf("%v and back %v, want %d changes", there, back, tc.changes)
			}
		})
	}
}
