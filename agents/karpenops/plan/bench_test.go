package plan

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// large is a cluster of the size that the agent promises to decide about quickly: 1,000 offerings, 20 NodePools, 2,000 nodes, 40 shapes of pods, 20 commitments. Two of
// the families have been excluded before, so that there is something to decide.
func large(tb testing.TB) Input {
	tb.Helper()
	w := world{Families: toyFamilies(42)}
	for i := range 20 {
		w.Bases = append(w.Bases, poolObject(fmt.Sprintf("pool-%02d", i), i*4, map[string]any{"cpu": "4000"}, requirement(offering.LabelCapacityType, "In", "spot", "on-demand"), requirement(offering.LabelCategory, "In", "m", "c", "r")))
	}
	for i := range 40 {
		w.Shapes = append(w.Shapes, Shape{CPU: 0.25 * float64(1+i%24), MemoryMiB: 512 * float64(1+i%16), Count: 50, Selector: offering.Requirements{{Key: offering.LabelArch, Operator: offering.In, Values: []string{"amd64"}}}})
	}
	w.Commits = []nopsapi.Commitment{
		{ID: "sp-1", Kind: nopsapi.CommitmentComputeSP, Unit: nopsapi.UnitVCPU, Total: 2000, Start: start.Add(-time.Hour), End: start.Add(9000 * time.Hour), Scope: nopsapi.CommitmentScope{Region: "us-east-1"}, Allocation: &nopsapi.Allocation{VCPU: 1500, LeaseUntil: start.Add(5000 * time.Hour)}},
		{ID: "sp-2", Kind: nopsapi.CommitmentEC2InstanceSP, Unit: nopsapi.UnitVCPU, Total: 500, Start: start.Add(-time.Hour), End: start.Add(9000 * time.Hour), Scope: nopsapi.CommitmentScope{Region: "us-east-1", Family: "m5"}, Allocation: &nopsapi.Allocation{VCPU: 300, LeaseUntil: start.Add(5000 * time.Hour)}},
	}
	for i := range 18 {
		w.Commits = append(w.Commits, nopsapi.Commitment{ID: fmt.Sprint("ri-", i), Kind: nopsapi.CommitmentStandardRI, Unit: nopsapi.UnitNormalized, Total: 400, Start: start.Add(-time.Hour), End: start.Add(9000 * time.Hour), Scope: nopsapi.CommitmentScope{Region: "us-east-1", Family: w.Families[i].Name}, Allocation: &nopsapi.Allocation{VCPU: 100, LeaseUntil: start.Add(5000 * time.Hour)}})
	}
	y := newToy(w)
	cat := y.catalogue()
	spot := cat.Where(offering.LabelCapacityType, "spot")
	var some []int
	for i := range spot.All() {
		some = append(some, i)
	}
	for i := range 2000 {
		of, labels := cat.Offering(some[i%len(some)]), map[string]string{}
		for key, value := range cat.Type(some[i%len(some)]).Labels {
			labels[key] = value
		}
		labels[offering.LabelZone], labels[offering.LabelCapacityType] = of.Zone, of.CapacityType
		y.nodes = append(y.nodes, Node{Name: fmt.Sprintf("claim-%04d", i), Pool: fmt.Sprintf("pool-%02d", i%20), Labels: labels, VCPU: 4})
	}
	for range 4 {
		y.happen(event{After: 30 * time.Minute, Scores: map[string]int{"m5": 1, "c6": 1}, Lease: -1})
		y.memory = Make(y.input(false)).Memory
	}
	y.happen(event{After: 30 * time.Minute, Lease: -1})
	in := y.input(false)
	if n := len(in.Market.Offerings) * 2; n < 1000 || len(in.Pools) != 20 || len(in.Nodes) != 2000 {
		tb.Fatalf("%d offerings, %d pools, %d nodes", n, len(in.Pools), len(in.Nodes))
	}
	return in
}

func BenchmarkMake(b *testing.B) {
	in := large(b)
	b.ReportAllocs()
	before := processor(b)
	for b.Loop() {
		if plan := Make(in); len(plan.Actions) == 0 {
			b.Fatal("nothing is decided")
		}
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-ns/op") // what it takes on a machine that others use too, the collector included
}

func processor(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The promise is 64 MiB; what is allocated is the same on every machine, unlike the time.
func TestLargeInputStaysWithinMemory(t *testing.T) {
	in := large(t)
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Make(in)
		}
	})
	if got := r.AllocedBytesPerOp(); got > 64<<20 {
		t.Fatalf("a run allocates %d MiB", got>>20)
	}
	t.Logf("%s %s", r, r.MemString())
}

// The whole of Make takes whatever JSON decodes to: it never panics, and what it writes may be written.
func FuzzMake(f *testing.F) {
	y := plain(committed(nopsapi.UnitUSDPerHour, 3, 40, func(c *nopsapi.Commitment) { c.Rates = map[string]float64{"m5": 0.03, "c5": 0.02} }), func(w *world) {
		w.Families = toyFamilies(3) // mutations of a large seed find nothing
		w.Config = Config{MinFamilies: 1, MinTypes: 2, MinZones: 1, MinFits: 1, Exclude: 1}
	})
	for range 12 {
		y.happen(event{After: 30 * time.Minute, Scores: map[string]int{"m5": 1}, Lease: -1})
		y.karpenter(20)
		in := y.input(false)
		plan := Make(in)
		y.memory = plan.Memory
		if err := y.apply(plan.Actions); err != nil {
			f.Fatal(err)
		}
	}
	seed, err := json.Marshal(y.input(false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"Market":{"seq":1,"offerings":[{"zone_id":"a"}]},"Pools":[{"Managed":true,"Object":{"spec":[]}},{"Owned":true,"Base":""}],"Karpenter":{"writable":true}}`))
	f.Add([]byte(`{"Config":{"lo":-5,"dwell":-1,"writesPerHour":-3},"Commitments":{"commitments":[{"unit":"vcpu","kind":"ComputeSP","total":-1e308,"allocation":{"vcpu":1e308}}]},"Pools":[{"Managed":true,"Name":"a"}],"Karpenter":{"writable":true}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in Input
		if json.Unmarshal(data, &in) != nil {
			return
		}
		first := planBytes(t, Make(in))
		if again := planBytes(t, Make(in)); again != first {
			t.Fatalf("twice is not once:\n%s\n%s", first, again)
		}
		plan := Make(in)
		for _, a := range plan.Actions {
			if a.Name == "" || a.ID == "" || a.Reason == "" {
				t.Fatalf("an action that cannot be carried out: %+v", a)
			}
			if !in.Karpenter.Writable {
				t.Fatalf("something is planned although nothing may be written: %+v", a)
			}
			for _, c := range a.Changes {
				if same(c.Before, c.After) && a.Kind != DrainSibling {
					t.Fatalf("%s of %s at %s changes nothing", a.Kind, a.Name, c.Path)
				}
			}
			if a.Kind == CreateSibling {
				v, ok := amount(at(a.Object, "spec", "limits", "cpu"))
				if w, _ := amount(at(a.Object, "spec", "weight")); !ok || v <= 0 || w < 1 || w > 100 {
					t.Fatalf("a sibling that cannot be: %s", encoded(a.Object))
				}
			}
		}
	})
}
