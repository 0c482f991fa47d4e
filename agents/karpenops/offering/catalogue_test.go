package offering

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCatalogueSaysWhatItLeavesOut(t *testing.T) {
	c, left := New(
		[]Type{{Name: "m5.large", VCPU: 2}, {Name: "m5.large", VCPU: 4}, {Name: "c5.large"}},
		[]Offering{{"m5.large", "a", "spot"}, {"m5.large", "a", "spot"}, {"r5.large", "a", "spot"}}, nil)
	if c.Len() != 1 || c.Type(0).VCPU != 2 || len(left) != 2 || !strings.Contains(left[0], "m5.large") || !strings.Contains(left[1], "r5.large") {
		t.Errorf("%d offerings, left out %q", c.Len(), left)
	}
	want := map[string]string{LabelInstanceType: "m5.large", LabelFamily: "m5", LabelSize: "large", LabelCategory: "m", LabelGeneration: "5", LabelCPU: "2", LabelFlex: "false", LabelOS: "linux"}
	if diff := cmp.Diff(want, c.Type(0).Labels); diff != "" {
		t.Errorf("labels that follow from the name: %s", diff)
	}
}

func TestLabelsOfNames(t *testing.T) {
	for name, want := range map[string][4]string{ // category, generation, family, flex
		"m7i-flex.large": {"m", "7", "m7i-flex", "true"}, "u-6tb1.metal": {"u", "1", "u-6tb1", "false"}, "g4dn.xlarge": {"g", "4", "g4dn", "false"},
		"trn1n.32xlarge": {"trn", "1", "trn1n", "false"}, "mac2-m2pro.metal": {"mac", "2", "mac2-m2pro", "false"}, "odd": {"", "", "", "false"},
	} {
		l := labelsOf(Type{Name: name})
		if got := [4]string{l[LabelCategory], l[LabelGeneration], l[LabelFamily], l[LabelFlex]}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	// What the market says goes before what we make of the name, under the present name of the label.
	if l := labelsOf(Type{Name: "m5.large", Labels: map[string]string{LabelFamily: "x", "beta.kubernetes.io/arch": "arm64", LabelZone: "a"}}); l[LabelFamily] != "x" || l[LabelArch] != "arm64" || l[LabelZone] != "" {
		t.Errorf("labels %v", l)
	}
}

func TestEffective(t *testing.T) {
	c := small(t)
	families := func(s Set) string { return strings.Join(c.Values(s, LabelFamily), " ") }
	for _, tc := range []struct {
		name, reason   string
		pool           Pool
		families       string
		offerings      int
		unmet, unknown string
		unmatched      string
	}{
		{name: "everything", reason: "nothing is required", families: "c5 m5 m6g r5 t3", offerings: 90},
		{name: "family", reason: "3 sizes, 3 zones, 2 capacity types", pool: Pool{Requirements: Requirements{{Key: LabelFamily, Operator: In, Values: []string{"m5"}}}}, families: "m5", offerings: 18},
		{name: "zone ID", reason: "the zone by its other name", pool: Pool{Requirements: Requirements{{Key: LabelZoneID, Operator: In, Values: []string{"use1-az4"}}}}, families: "c5 m5 m6g r5 t3", offerings: 30},
		{name: "reach", reason: "the NodeClass has subnets there only", pool: Pool{Zones: []string{"us-east-1a"}}, families: "c5 m5 m6g r5 t3", offerings: 30},
		{name: "no reach", reason: "no subnet at all", pool: Pool{Zones: []string{}}},
		{name: "template label", reason: "it restricts as well", pool: Pool{Labels: map[string]string{LabelFamily: "c5", "team": "a"}}, families: "c5", offerings: 18},
		{name: "template label against requirements", reason: "no type is both", pool: Pool{Requirements: Requirements{{Key: LabelFamily, Operator: In, Values: []string{"m5"}}}, Labels: map[string]string{LabelFamily: "c5"}}},
		{name: "custom label", reason: "the node gets it from the pool", pool: Pool{Requirements: Requirements{{Key: "team", Operator: In, Values: []string{"a"}}}}, families: "c5 m5 m6g r5 t3", offerings: 90},
		{name: "GPU", reason: "no type of this catalogue has one", pool: Pool{Requirements: Requirements{{Key: "karpenter.k8s.aws/instance-gpu-name", Operator: Exists}}}},
		{name: "no GPU", reason: "every type of this catalogue will do", pool: Pool{Requirements: Requirements{{Key: "karpenter.k8s.aws/instance-gpu-name", Operator: DoesNotExist}}}, families: "c5 m5 m6g r5 t3", offerings: 90},
		{
			name: "bandwidth", reason: "the market does not say", pool: Pool{Requirements: Requirements{{Key: "karpenter.k8s.aws/instance-ebs-bandwidth", Operator: Gt, Values: []string{"1000"}}}},
			families: "c5 m5 m6g r5 t3", offerings: 90, unknown: "karpenter.k8s.aws/instance-ebs-bandwidth",
		},
		{name: "size", reason: "4 and 8 vCPU", pool: Pool{Requirements: Requirements{{Key: LabelCPU, Operator: Gt, Values: []string{"2"}}, {Key: LabelCPU, Operator: Lt, Values: []string{"9"}}}}, families: "c5 m5 m6g r5 t3", offerings: 60},
		{name: "minValues met", reason: "5 families", pool: Pool{Requirements: Requirements{{Key: LabelFamily, Operator: Exists, MinValues: new(5)}}}, families: "c5 m5 m6g r5 t3", offerings: 90},
		{
			name: "minValues unmet", reason: "2 families", pool: Pool{Requirements: Requirements{{Key: LabelFamily, Operator: In, Values: []string{"m5", "c5"}}, {Key: LabelFamily, Operator: Exists, MinValues: new(5)}}},
			families: "c5 m5", offerings: 36, unmet: "[{karpenter.k8s.aws/instance-family 5 2}]",
		},
		{
			name: "minValues of zones", reason: "a type counts with the zones it is offered in, whatever zone is required: Karpenter's own way",
			pool: Pool{Requirements: Requirements{{Key: LabelZone, Operator: In, Values: []string{"us-east-1a"}, MinValues: new(3)}}}, families: "c5 m5 m6g r5 t3", offerings: 30,
		},
		{
			name: "minValues of zones out of reach", reason: "but not with those that the NodeClass does not reach",
			pool:     Pool{Requirements: Requirements{{Key: LabelZone, Operator: In, Values: []string{"us-east-1a"}, MinValues: new(3)}}, Zones: []string{"us-east-1a", "us-east-1b"}},
			families: "c5 m5 m6g r5 t3", offerings: 30, unmet: "[{topology.kubernetes.io/zone 3 2}]",
		},
		{
			name: "misspelt", reason: "and what was probably meant", pool: Pool{Requirements: Requirements{{Key: LabelArch, Operator: In, Values: []string{"amd46", "arm64", "riscv"}}}},
			families: "m6g", offerings: 18, unmatched: "[{kubernetes.io/arch amd46 0 amd64} {kubernetes.io/arch riscv 0 }]",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := c.Effective(tc.pool)
			if got := families(e.Set); got != tc.families || e.Set.Len() != tc.offerings {
				t.Errorf("families %q and %d offerings, want %q and %d: %s", got, e.Set.Len(), tc.families, tc.offerings, tc.reason)
			}
			text := func(v any, n int) string {
				if n == 0 {
					return ""
				}
				return fmt.Sprint(v)
			}
			if got := text(e.Unmet, len(e.Unmet)); got != tc.unmet {
				t.Errorf("unmet %s, want %s", got, tc.unmet)
			}
			if got := text(e.Unmatched, len(e.Unmatched)); got != tc.unmatched {
				t.Errorf("unmatched %s, want %s", got, tc.unmatched)
			}
			if got := strings.Join(e.Unknown, " "); got != tc.unknown {
				t.Errorf("unknown %s, want %s", got, tc.unknown)
			}
			if e.Launches() != (tc.offerings > 0 && tc.unmet == "") {
				t.Errorf("launches %v", e.Launches())
			}
		})
	}
}

func TestLabelsThatFewTypesHave(t *testing.T) {
	const gpu = "karpenter.k8s.aws/instance-gpu-name"
	c, _ := New([]Type{{Name: "m5.large"}, {Name: "g4dn.xlarge", Labels: map[string]string{gpu: "t4"}}}, []Offering{{"m5.large", "a", "spot"}, {"g4dn.xlarge", "a", "spot"}}, nil)
	for _, tc := range []struct {
		required Requirement
		want     string
	}{
		{Requirement{Key: gpu, Operator: Exists}, "g4dn.xlarge"}, {Requirement{Key: gpu, Operator: DoesNotExist}, "m5.large"},
		{Requirement{Key: gpu, Operator: NotIn, Values: []string{"t4"}}, "m5.large"}, {Requirement{Key: gpu, Operator: In, Values: []string{"v100"}}, ""},
		{Requirement{Key: gpu, Operator: NotIn, Values: []string{"v100"}}, "g4dn.xlarge m5.large"},
	} {
		if got := strings.Join(c.Values(c.Matching(Compile(Requirements{tc.required})), LabelInstanceType), " "); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.required, got, tc.want)
		}
	}
}

// A hand-made table of what EKS leaves of EC2's sizes, by the AWS provider's rules at their defaults.
func TestAllocatable(t *testing.T) {
	for _, tc := range []struct {
		of     Type
		cpu    float64
		memory float64
	}{
		{Type{VCPU: 2, MemoryMiB: 8192, MaxPods: 29}, 1.93, 8192 - 615 - (11*29 + 255) - 100},
		{Type{VCPU: 4, MemoryMiB: 16384, MaxPods: 58}, 3.92, 16384 - 1229 - (11*58 + 255) - 100},
		{Type{VCPU: 8, MemoryMiB: 32768}, 7.91, 32768 - 2458 - (11*110 + 255) - 100},
		{Type{VCPU: 2, MemoryMiB: 8192, MaxPods: 29, Labels: map[string]string{LabelArch: "arm64"}}, 1.93, 8128 - 610 - (11*29 + 255) - 100},
		{Type{VCPU: 1, MemoryMiB: 512}, 0.94, 0},
	} {
		if got := allocatableOf(tc.of); math.Abs(got.cpu-tc.cpu) > 1e-9 || got.memoryMiB != tc.memory {
			t.Errorf("%+v leaves %v vCPU and %v MiB, want %v and %v", tc.of, got.cpu, got.memoryMiB, tc.cpu, tc.memory)
		}
	}
}

func TestFits(t *testing.T) {
	c := small(t)
	for _, tc := range []struct {
		cpu, memory float64
		selector    Requirements
		types       int
	}{
		{0, 0, nil, 15}, {2, 0, nil, 10}, {3.9, 0, nil, 10}, {3.93, 0, nil, 5}, {1, 10000, nil, 10}, {100, 0, nil, 0},
		{1, 100, Requirements{{Key: LabelArch, Operator: In, Values: []string{"arm64"}}}, 3},
		{1, 100, Requirements{{Key: LabelZone, Operator: In, Values: []string{"nowhere"}}}, 0},
	} {
		if got := c.Types(c.Fits(c.All(), tc.cpu, tc.memory, Compile(tc.selector))); got != tc.types {
			t.Errorf("%v vCPU, %v MiB, %v: %d types, want %d", tc.cpu, tc.memory, tc.selector, got, tc.types)
		}
	}
}

func TestSets(t *testing.T) {
	c := small(t)
	m5, spot := c.Where(LabelFamily, "m5"), c.Where(LabelCapacityType, "spot")
	if m5.And(spot).Len() != 9 || m5.Or(spot).Len() != 54 || m5.Minus(spot).Len() != 9 || !m5.And(spot).Within(m5) || m5.Within(spot) || !m5.And(spot).Equal(spot.And(m5)) {
		t.Error("sets are not what they are")
	}
	if (Set{}).Len() != 0 || !(Set{}).IsEmpty() || !(Set{}).Within(m5) || !m5.Or(Set{}).Equal(m5) || c.Empty().Has(1000) {
		t.Error("the zero set is not the empty one")
	}
	by, sum := c.By(m5, LabelZone), 0
	for _, part := range by {
		sum += part.Len()
	}
	if len(by) != 3 || sum != 18 {
		t.Errorf("split into %d parts of %d together", len(by), sum)
	}
	n, found := c.Number(Offering{"m5.large", "us-east-1b", "spot"})
	if !found || !c.Of(c.Offering(n)).Equal(c.Where(LabelInstanceType, "m5.large").And(c.Where(LabelZone, "us-east-1b")).And(spot)) {
		t.Error("an offering by its number is another one")
	}
}

// Markets come with 1,000 offerings and more; twenty pools with 2,000 nodes are a large cluster.
func large(t testing.TB, offerings int) (*Catalogue, []Pool, []Node) {
	t.Helper()
	var types []Type
	var all []Offering
	for i := 0; len(all) < offerings; i++ {
		name := fmt.Sprintf("%s%d.%dxlarge", string(rune('a'+i%20)), i/20%9, 1+i/180)
		types = append(types, Type{Name: name, VCPU: 2 << (i % 6), MemoryMiB: 4096 << (i % 6), MaxPods: 58, Labels: map[string]string{LabelArch: []string{"amd64", "arm64"}[i%2], LabelOS: "linux"}})
		for _, zone := range []string{"a", "b", "c"} {
			for _, capacity := range []string{"spot", "on-demand"} {
				all = append(all, Offering{name, zone, capacity})
			}
		}
	}
	c, left := New(types, all, map[string]string{"az1": "a", "az2": "b", "az3": "c"})
	if len(left) > 0 {
		t.Fatal(left)
	}
	var pools []Pool
	for i := range 20 {
		pools = append(pools, Pool{Zones: []string{"a", "b"}, Labels: map[string]string{"team": fmt.Sprint(i)}, Requirements: Requirements{
			{Key: LabelCategory, Operator: In, Values: []string{"a", "b", "c", "d", "e", "f", "g", "h"}, MinValues: new(2)}, {Key: LabelCapacityType, Operator: In, Values: []string{"spot", "on-demand"}},
			{Key: LabelArch, Operator: In, Values: []string{"amd64"}}, {Key: LabelFamily, Operator: NotIn, Values: []string{fmt.Sprintf("a%d", i%9)}},
			{Key: LabelCPU, Operator: Gt, Values: []string{"2"}}, {Key: LabelZone, Operator: In, Values: []string{"a", "b", "c"}},
		}})
	}
	var nodes []Node
	for i := range 2000 {
		at := i * 7 % c.Len()
		nodes = append(nodes, Node{Name: fmt.Sprintf("default-%d", i), Labels: mapOf(c, at)})
	}
	return c, pools, nodes
}

// tick is what a planner asks at least: each pool's set, its counts, what fits ten shapes, and the drift of all nodes were they its own.
func tick(c *Catalogue, pools []Pool, nodes []Node) int {
	n, fleet := 0, NewFleet(nodes)
	for _, p := range pools {
		e := c.Effective(p)
		n += c.Count(e.Set).Types
		for shape := range 10 {
			n += c.Types(e.Set.And(c.Fitting(float64(shape), float64(1024*shape))))
		}
		n += len(fleet.Drifting(Compile(p.Requirements)))
	}
	return n
}

func TestATickIsCheap(t *testing.T) {
	c, pools, nodes := large(t, 1000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	n := tick(c, pools, nodes)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if n == 0 {
		t.Fatal("nothing was asked")
	}
	if allocated := (after.TotalAlloc - before.TotalAlloc) >> 20; allocated > 64 || took > 2*time.Second {
		t.Errorf("a tick allocates %d MiB in %v; it is to stay below 64 MiB (and 50 ms: see the benchmark)", allocated, took)
	}
}

func BenchmarkTick(b *testing.B) {
	for _, offerings := range []int{1000, 20000} {
		b.Run(fmt.Sprint(offerings), func(b *testing.B) {
			c, pools, nodes := large(b, offerings)
			b.ReportAllocs()
			for b.Loop() {
				tick(c, pools, nodes)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	c, _, _ := large(b, 20000)
	types, offerings := slices.Clone(c.types), slices.Clone(c.offerings)
	b.ReportAllocs()
	for b.Loop() {
		New(types, offerings, nil)
	}
}

func BenchmarkEffective(b *testing.B) {
	c, pools, _ := large(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		c.Effective(pools[0])
	}
}

func BenchmarkDrift(b *testing.B) {
	_, pools, nodes := large(b, 1000)
	compiled := Compile(pools[0].Requirements)
	b.Run("once", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Drift(compiled, nodes)
		}
	})
	b.Run("again", func(b *testing.B) {
		fleet := NewFleet(nodes)
		b.ReportAllocs()
		for b.Loop() {
			fleet.Drifting(compiled)
		}
	})
}

func BenchmarkMatches(b *testing.B) {
	_, pools, nodes := large(b, 1000)
	compiled := Compile(pools[0].Requirements)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		compiled.Matches(nodes[i%len(nodes)].Labels)
	}
}
