package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// exclude runs until the gate of a family has turned and the plan is carried out.
func (y *toy) exclude(t testing.TB, family string, demand int) {
	t.Helper()
	for range 12 {
		y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{family: 1}, Demand: demand, Lease: -1})
	}
	if !y.memory.Gates[family].Excluded {
		t.Fatalf("%s is not excluded", family)
	}
}

func (y *toy) findings() map[string]nopsapi.KarpenterFinding {
	all := map[string]nopsapi.KarpenterFinding{}
	for _, f := range Make(y.input(false)).Findings {
		all[f.Code] = f
	}
	return all
}

// preferred is a toy whose base has a spot sibling without m5, with nodes in it.
func preferred(t testing.TB, change ...func(*world)) (*toy, string) {
	t.Helper()
	y := plain(change...)
	y.exclude(t, "m5", 0)
	y.run(t, event{After: 30 * time.Minute, Demand: 24, Lease: -1})
	all := y.siblings(spotPurpose)
	if len(all) != 1 {
		t.Fatalf("siblings %v", all)
	}
	if n, _, _ := y.usage(all[0]); n == 0 {
		t.Fatal("the sibling has no nodes")
	}
	return y, all[0]
}

func familiesOfNodes(y *toy, pool string) []string {
	var all []string
	for _, n := range y.nodes {
		if n.Pool == pool {
			all = append(all, n.Labels[offering.LabelFamily])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestSiblingIsEditedWhereNoNodeMinds(t *testing.T) {
	y, name := preferred(t)
	var free string
	for _, f := range y.Families {
		if f.Name != "m5" && !slices.Contains(familiesOfNodes(y, name), f.Name) {
			free = f.Name
		}
	}
	y.exclude(t, free, 24)
	if got := y.siblings(spotPurpose); len(got) != 1 || got[0] != name || slices.Contains(families(t, y, name), free) {
		t.Fatalf("siblings %v, and %s still allows %v", got, name, families(t, y, name))
	}
}

func TestHandoverDriftsNothing(t *testing.T) {
	y, old := preferred(t)
	used := familiesOfNodes(y, old)[0]
	var all []string
	for i := 0; len(all) < 2; i++ {
		if i == 20 {
			t.Fatalf("siblings %v, want the old and a new one", all)
		}
		y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{used: 1}, Demand: 24, Lease: -1})
		all = y.siblings(spotPurpose)
	}
	fresh := all[0]
	if fresh == old {
		fresh = all[1]
	}
	p := y.pool(y.pools[old])
	if !closed(&p) || slices.Contains(families(t, y, fresh), used) {
		t.Fatalf("the old one is closed %v; the new one allows %v", closed(&p), families(t, y, fresh))
	}
	if n, _, _ := y.usage(old); n != 6 || at(y.pools[old], "spec", "template", "metadata", "annotations") != nil {
		t.Fatalf("%d nodes are left in the old one, whose template is %s", n, encoded(at(y.pools[old], "spec", "template", "metadata")))
	}
	list, _ := offering.Of(y.pools[old])
	for _, n := range y.nodes {
		if n.Pool == old && !offering.Compile(list).Matches(n.Labels) {
			t.Fatalf("node %s drifts", n.Name)
		}
	}
	for range 8 { // scaled down, the old one goes
		y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{used: 1}, Demand: 0, Lease: -1})
	}
	if got := y.siblings(spotPurpose); len(got) != 1 || got[0] != fresh {
		t.Fatalf("siblings %v, want %s alone", got, fresh)
	}
}

func TestOneHandoverAtATimeAndMeanwhilePartly(t *testing.T) {
	y, old := preferred(t)
	y.Config.Exclude, y.Config.Dwell = 1, time.Minute
	for i := range maxClosed { // closed siblings with nodes, as many as may be
		o := copyMap(y.pools[old])
		name := "nops-default-spot-" + strings.Repeat("abc"[i:i+1], 12)
		put(o, "/metadata/name", name)
		put(o, "/spec/weight", int64(60+i))
		put(o, "/spec/limits/cpu", "0")
		y.pools[name] = o
		n := y.nodes[0]
		n.Name, n.Pool = "old-"+name, name
		y.nodes = append(y.nodes, n)
	}
	used := familiesOfNodes(y, old)[0]
	var free string
	for _, f := range y.Families {
		if f.Name != "m5" && !slices.Contains(familiesOfNodes(y, old), f.Name) {
			free = f.Name
		}
	}
	for range 12 { // Karpenter does nothing meanwhile
		y.happen(event{After: 30 * time.Minute, Scores: map[string]int{used: 1, free: 1}, Lease: -1})
		plan := Make(y.input(false))
		y.memory = plan.Memory
		if err := y.apply(plan.Actions); err != nil {
			t.Fatal(err)
		}
		for _, a := range plan.Actions {
			if a.Kind == CreateSibling {
				t.Fatalf("a handover although %d earlier siblings still have nodes: %s: %s", maxClosed, a.Name, strings.Join(plan.Why["default"], "\n"))
			}
		}
	}
	if got := families(t, y, old); slices.Contains(got, free) {
		t.Fatalf("%s, which no node has, is still allowed: %v", free, got)
	}
	if p := y.pool(y.pools[old]); closed(&p) || !slices.Contains(families(t, y, old), used) {
		t.Fatal("the present one was closed, or its nodes would drift")
	}
}

func TestWhatHappensToTheBase(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		change       func(*toy)
		want         ActionKind // "": nothing is carried out
	}{
		{"opted out", "consent is withdrawn: its nodes go within the budgets", func(y *toy) {
			delete(at(y.pools["default"], "metadata", "annotations").(map[string]any), karpenstate.AnnotationManaged)
		}, DrainSibling},
		{"deleted", "there is nothing that it could be a sibling of", func(y *toy) { delete(y.pools, "default") }, DrainSibling},
		{"paused", "nothing is done about a base that is paused", func(y *toy) {
			y.paused["default"] = "by someone"
			put(y.pools["default"], "/spec/limits", map[string]any{"cpu": "1"})
		}, ""},
		{"template changed", "its nodes are as the base's were: another one takes its place", func(y *toy) { put(y.pools["default"], "/spec/template/spec/expireAfter", "100h") }, CreateSibling},
		{"narrowed by the user", "the sibling may launch what its base may not", func(y *toy) {
			put(y.pools["default"], pathRequirements, append(slices.Clone(lookup(y.pools["default"], pathRequirements).([]any)), any(requirement(offering.LabelZone, "NotIn", "us-east-1b"))))
			y.broken["default"] = true // and no other sibling can be made
		}, SetLimits},
		{"heavier", "the sibling has to come before it", func(y *toy) { put(y.pools["default"], "/spec/weight", int64(50)) }, SetWeight},
		{"as heavy as its sibling", "ties go by name", func(y *toy) { put(y.pools["default"], "/spec/weight", int64(11)) }, SetWeight},
		{"its budgets are closed", "a closed budget is meant for the sibling too", func(y *toy) { put(y.pools["default"], "/spec/disruption/budgets", []any{map[string]any{"nodes": "0"}}) }, SetDisruption},
		{"its limit is used up", "what the base has counts against the user's limit", func(y *toy) {
			put(y.pools["default"], "/spec/limits", map[string]any{"cpu": "8"})
		}, SetLimits},
		{"unchanged", "and otherwise nothing", func(*toy) {}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			y, sibling := preferred(t)
			y.Config.MinZones = 1
			y.nodes[0].Labels[offering.LabelZone] = "us-east-1b"
			c.change(y)
			y.now, y.seq = y.now.Add(10*time.Minute), y.seq+1
			plan := Make(y.input(false))
			if c.want == "" {
				if len(did(plan)) > 0 {
					t.Fatalf("%s: %v", c.reason, did(plan))
				}
				return
			}
			a := only(t, plan, c.want)
			if a.Waiting != "" {
				t.Fatalf("%s: it waits: %s", c.reason, a.Waiting)
			}
			if c.want == DrainSibling {
				n, _, _ := y.usage(sibling)
				if a.Name != sibling || len(a.Drift) != n || !same(a.Changes[0].After, "0") {
					t.Fatalf("drift %v of %d nodes, changes %s", a.Drift, n, encoded(a.Changes))
				}
				for range 8 {
					y.run(t, event{After: 30 * time.Minute, Demand: 24, Lease: -1})
				}
				if len(y.siblings(spotPurpose)) != 0 {
					t.Fatal("the sibling is still there")
				}
			}
		})
	}
}

func TestModesAndPauses(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*world)
		api     bool
		actions bool
		waiting string
	}{
		{"observe plans nothing", func(w *world) { w.Config.Mode = karpenstate.ModeObserve }, true, false, ""},
		{"advise plans and writes nothing", func(w *world) { w.Config.Mode = karpenstate.ModeAdvise }, true, true, "mode advise: it takes mode siblings, or a person's approval"},
		{"siblings are made", nil, true, true, ""},
		{"an API that is not known is not written", nil, false, false, ""},
		{"a pool that is not opted in is left alone", func(w *world) { delete(w.Bases[0]["metadata"].(map[string]any), "annotations") }, true, false, ""},
		{"so is a static one", func(w *world) { w.Bases[0]["spec"].(map[string]any)["replicas"] = int64(3) }, true, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var change []func(*world)
			if c.change != nil {
				change = append(change, c.change)
			}
			y := plain(change...)
			var in Input
			for range 8 {
				y.happen(event{After: 30 * time.Minute, Scores: map[string]int{"m5": 1}, Lease: -1})
				in = y.input(false)
				in.Karpenter.Writable = c.api
				for i := range in.Pools {
					in.Pools[i].Static = at(in.Pools[i].Object, "spec", "replicas") != nil
				}
				y.memory = Make(in).Memory
			}
			if g := y.memory.Gates["m5"]; !g.Excluded && c.actions {
				t.Fatal("the gate did not turn")
			}
			plan := Make(in)
			if len(plan.Actions) > 0 != c.actions {
				t.Fatalf("actions %v", plan.Actions)
			}
			if c.actions && plan.Actions[0].Waiting != c.waiting {
				t.Fatalf("waiting %q, want %q", plan.Actions[0].Waiting, c.waiting)
			}
			if len(plan.Why["default"]) == 0 {
				t.Fatal("nothing is explained")
			}
		})
	}
}

func TestCommitmentUnits(t *testing.T) {
	for _, c := range []struct {
		name, unit       string
		total, p90, want float64
		lease            float64
		rates            map[string]float64
	}{
		{"vCPU count as they are", nopsapi.UnitVCPU, 100, 40, 54, 1000, nil},
		{"two normalisation factors are a vCPU", nopsapi.UnitNormalized, 200, 80, 54, 1000, nil},
		{"dollars are divided by the dearest rate that may be used", nopsapi.UnitUSDPerHour, 4, 1, 90, 1000, map[string]float64{"m5": 0.02, "c5": 0.03, "zz": 9}},
		{"without a rate nothing is known", nopsapi.UnitUSDPerHour, 4, 1, 0, 1000, map[string]float64{"zz": 0.01}},
		{"the lease bounds it", nopsapi.UnitVCPU, 100, 40, 18, 20, nil},
		{"what others use may be more than there is", nopsapi.UnitVCPU, 100, 140, 0, 20, nil},
		{"an unknown unit is nothing", "bananas", 100, 0, 0, 1000, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(committed(c.unit, c.total, c.lease, func(k *nopsapi.Commitment) { k.OtherUse.P90, k.Rates = c.p90, c.rates }))
			for range 12 {
				y.run(t, event{After: 30 * time.Minute, Lease: -1})
			}
			if got := y.limit(t, commitmentPurpose); got > c.want || got < c.want*0.9-1 {
				t.Fatalf("the limit settles at %v vCPU, want %v", got, c.want)
			}
		})
	}
}

func TestCommitmentScopes(t *testing.T) {
	for _, c := range []struct {
		name, reason, finding string
		scope                 nopsapi.CommitmentScope
		kind                  string
		want                  []string // requirements added, key=value
	}{
		{"any family", "a Compute Savings Plan pays for any", "", nopsapi.CommitmentScope{}, nopsapi.CommitmentComputeSP, nil},
		{"a family", "an EC2 Instance Savings Plan is for one", "", nopsapi.CommitmentScope{Region: "us-east-1", Family: "m5"}, nopsapi.CommitmentEC2InstanceSP, []string{offering.LabelFamily + "=m5"}},
		{"a zone", "a zonal Reserved Instance counts in its zone alone", "", nopsapi.CommitmentScope{Region: "us-east-1", ZoneID: "use1-az2", InstanceType: "m5.xlarge"}, nopsapi.CommitmentZonalRI, []string{offering.LabelZone + "=us-east-1b", offering.LabelInstanceType + "=m5.xlarge"}},
		{"another region", "it pays for nothing here", "commitment-unusable", nopsapi.CommitmentScope{Region: "eu-west-1"}, nopsapi.CommitmentComputeSP, nil},
		{"dedicated", "no node is dedicated", "commitment-unusable", nopsapi.CommitmentScope{Tenancy: "dedicated"}, nopsapi.CommitmentStandardRI, nil},
		{"another platform", "no node runs it", "commitment-unusable", nopsapi.CommitmentScope{Platform: "SUSE Linux"}, nopsapi.CommitmentStandardRI, nil},
		{"a zonal one without a zone", "it cannot be told where it counts", "commitment-unusable", nopsapi.CommitmentScope{}, nopsapi.CommitmentZonalRI, nil},
		{"a family that no pool may launch", "what it pays for is lost, and somebody should know", "commitment-no-pool", nopsapi.CommitmentScope{Family: "x9"}, nopsapi.CommitmentEC2InstanceSP, nil},
		{"a kind that is not known", "guessing would overspend", "commitment-unusable", nopsapi.CommitmentScope{}, "SageMakerSP", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(committed(nopsapi.UnitVCPU, 100, 40, func(k *nopsapi.Commitment) { k.Scope, k.Kind = c.scope, c.kind }))
			plan := y.run(t, event{After: 30 * time.Minute, Lease: -1})
			if c.finding != "" {
				if len(plan.Actions) > 0 || !slices.ContainsFunc(plan.Findings, func(f nopsapi.KarpenterFinding) bool { return f.Code == c.finding && f.Object == "Commitment/sp-1" }) {
					t.Fatalf("%s: actions %v, findings %v", c.reason, did(plan), plan.Findings)
				}
				return
			}
			a := only(t, plan, CreateSibling)
			list, _ := offering.Of(a.Object)
			compiled := offering.Compile(list)
			for _, want := range append(c.want, offering.LabelCapacityType+"=on-demand") {
				key, value, _ := strings.Cut(want, "=")
				if got := y.catalogue().Values(effective(y.catalogue(), a.Object).Set, key); !slices.Equal(got, []string{value}) || !compiled.Allows(key, value) {
					t.Fatalf("%s: %s is %v, want %s alone", c.reason, key, got, value)
				}
			}
			if at(a.Object, "metadata", "annotations", karpenstate.AnnotationCommitment) != "sp-1" || at(a.Object, "spec", "limits", "cpu") != "16" {
				t.Fatalf("%s", encoded(a.Object["metadata"]))
			}
		})
	}
}

func TestCommitmentsOfOneScopeShareASibling(t *testing.T) {
	y := plain(committed(nopsapi.UnitVCPU, 100, 10), committed(nopsapi.UnitVCPU, 100, 10, func(c *nopsapi.Commitment) { c.ID = "sp-2" }),
		committed(nopsapi.UnitVCPU, 100, 30, func(c *nopsapi.Commitment) {
			c.ID, c.Kind, c.Scope.Family = "sp-3", nopsapi.CommitmentEC2InstanceSP, "m5"
		}))
	for range 6 {
		y.run(t, event{After: 30 * time.Minute, Lease: -1})
	}
	all := y.siblings(commitmentPurpose)
	if len(all) != 2 {
		t.Fatalf("siblings %v, want one of the two plans for any family, and one for m5", all)
	}
	weights := map[float64]bool{}
	for _, name := range all {
		w, _ := amount(at(y.pools[name], "spec", "weight"))
		weights[w] = true
		ids := at(y.pools[name], "metadata", "annotations", karpenstate.AnnotationCommitment)
		v, _ := amount(at(y.pools[name], "spec", "limits", "cpu"))
		if want := map[any]float64{"sp-1,sp-2": 18, "sp-3": 27}[ids]; v > want || v < want*0.85 {
			t.Fatalf("%s for %v may have %v vCPU, want %v", name, ids, v, want)
		}
	}
	if len(weights) != 2 {
		t.Fatalf("weights %v", weights)
	}
}

// A commitment's sibling is handed over where its nodes leave enough of the lease for one more; else it stays, and its limit goes by the ramp.
func TestHandoverOfACommitmentTakesWhatItsNodesLeave(t *testing.T) {
	for _, c := range []struct {
		lease, old, fresh float64
	}{{11, 0, 3}, {10, 0, 2}, {9, 9, 0}, {5, 4, 0}, {0, 0, 0}} {
		y := plain(committed(nopsapi.UnitVCPU, 1000, 10))
		for _, demand := range []int{0, 8} {
			y.run(t, event{After: 30 * time.Minute, Demand: demand, Lease: -1})
		}
		old := y.siblings(commitmentPurpose)[0]
		if _, cpu, _ := y.usage(old); cpu != 8 || y.limit(t, commitmentPurpose) != 9 {
			t.Fatalf("%v vCPU of %v are used", cpu, y.limit(t, commitmentPurpose))
		}
		put(y.pools["default"], "/spec/template/spec/expireAfter", "100h")
		y.run(t, event{After: 30 * time.Minute, Demand: 8, Lease: c.lease})
		got := map[bool]float64{}
		for _, name := range y.siblings(commitmentPurpose) {
			v, _ := amount(at(y.pools[name], "spec", "limits", "cpu"))
			got[name == old] += v
		}
		if got[true] != c.old || got[false] != c.fresh {
			t.Errorf("with a lease of %v vCPU the old one may have %v and a new one %v, want %v and %v", c.lease, got[true], got[false], c.old, c.fresh)
		}
	}
}

// A Reserved Instance and a Savings Plan for one family narrow a base alike, and the Reserved Instance comes first in AWS's order. What comes later
// beside a Savings Plan that has its sibling takes neither that nor its limit.
func TestScopesOfTheSameRequirementsKeepTheirSiblings(t *testing.T) {
	m5 := func(id, kind string, lease float64) nopsapi.Commitment {
		w := world{}
		committed(nopsapi.UnitVCPU, 1000, lease, func(c *nopsapi.Commitment) { c.ID, c.Kind, c.Scope.Family = id, kind, "m5" })(&w)
		return w.Commits[0]
	}
	sp := m5("sp-1", nopsapi.CommitmentEC2InstanceSP, 40)
	for _, c := range []struct {
		name, reason string
		later        []nopsapi.Commitment
		change       func(*toy, string) // the sibling of the Savings Plan
		want         []float64          // vCPU, of all siblings
	}{
		{"nothing is left of the first", "it has no use for a sibling, so it closes none", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 0), sp}, nil, []float64{36}},
		{"both have something left", "each is offered by itself", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 20), sp}, nil, []float64{18, 36}},
		{"renewed beside one that has nothing left", "the new plan pays for what the old one did", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 0), m5("sp-2", nopsapi.CommitmentEC2InstanceSP, 40)}, nil, []float64{36}},
		{"replaced by the other kind", "nobody else asks for the sibling, and it suits", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 40)}, nil, []float64{36}},
		{"under another name", "it names its commitment all the same", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 0), sp}, func(y *toy, name string) {
			o := y.pools[name]
			delete(y.pools, name)
			put(o, "/metadata/name", "nops-default-commitment-0123456789ab")
			y.pools["nops-default-commitment-0123456789ab"] = o
		}, []float64{36}},
		{"taken by the first before", "it was made for the Savings Plan, which gets it back", []nopsapi.Commitment{m5("ri-1", nopsapi.CommitmentStandardRI, 0), sp}, func(y *toy, name string) {
			put(y.pools[name], "/metadata/annotations/karpenops.nops.io~1commitments", "ri-1")
		}, []float64{36}},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(func(w *world) { w.Commits = []nopsapi.Commitment{sp} })
			for range 4 {
				y.run(t, event{After: 30 * time.Minute, Lease: -1})
			}
			if len(y.siblings(commitmentPurpose)) != 1 || y.limit(t, commitmentPurpose) != 36 {
				t.Fatalf("siblings %v with %v vCPU", y.siblings(commitmentPurpose), y.limit(t, commitmentPurpose))
			}
			if c.change != nil {
				c.change(y, y.siblings(commitmentPurpose)[0])
			}
			name := y.siblings(commitmentPurpose)[0]
			y.Commits = c.later
			for i := range 12 {
				if plan := y.run(t, event{After: 30 * time.Minute, Lease: -1}); i > 4 && len(did(plan)) > 0 {
					t.Fatalf("%s: run %d of the same: %v", c.reason, i, did(plan))
				}
				if got := at(y.pools[name], "spec", "limits", "cpu"); got != "36" {
					t.Fatalf("%s: run %d: the limit of %s is %v", c.reason, i, name, got)
				}
			}
			var got []float64
			for _, s := range y.siblings(commitmentPurpose) {
				v, _ := amount(at(y.pools[s], "spec", "limits", "cpu"))
				got = append(got, v)
			}
			if slices.Sort(got); !slices.Equal(got, c.want) {
				t.Fatalf("%s: limits %v, want %v", c.reason, got, c.want)
			}
		})
	}
}

// What runs on demand in a scope anyway uses the commitment already; each node counts for one commitment only, in AWS's order.
func TestWhatRunsAnywayCounts(t *testing.T) {
	y := plain(committed(nopsapi.UnitVCPU, 1000, 40), committed(nopsapi.UnitVCPU, 1000, 12, func(c *nopsapi.Commitment) {
		c.ID, c.Kind, c.Scope.Family = "sp-m5", nopsapi.CommitmentEC2InstanceSP, "m5"
	}))
	for i := range 5 { // 20 vCPU of m5 on demand
		y.nodes = append(y.nodes, Node{Name: string(rune('a' + i)), Pool: "default", VCPU: 4, Labels: map[string]string{offering.LabelFamily: "m5", offering.LabelCapacityType: "on-demand", offering.LabelInstanceType: "m5.xlarge", offering.LabelArch: "amd64"}})
	}
	y.happen(event{After: 30 * time.Minute, Lease: -1})
	plan := Make(y.input(false))
	a := only(t, plan, CreateSibling) // 12 of m5 are used up, 8 are left over for the other: floor(0.9 × (40−8)) = 28, of which a step is 16
	if at(a.Object, "metadata", "annotations", karpenstate.AnnotationCommitment) != "sp-1" {
		t.Fatalf("a sibling for %v", at(a.Object, "metadata", "annotations", karpenstate.AnnotationCommitment))
	}
	if why := strings.Join(plan.Why["default"], "\n"); !strings.Contains(why, "28 vCPU are worth keeping") || !strings.Contains(why, "0 vCPU are worth keeping") {
		t.Fatal(why)
	}
}

func TestLeaseThatRanOutIsHeldThenGivenBack(t *testing.T) {
	until := start.Add(10 * time.Hour)
	y := plain(committed(nopsapi.UnitVCPU, 1000, 40, func(c *nopsapi.Commitment) { c.Allocation.LeaseUntil = until }))
	var at10, at1059 float64
	for y.now.Before(until.Add(5 * time.Hour)) {
		y.run(t, event{After: 10 * time.Minute, Demand: 40, Lease: -1})
		switch {
		case y.now.Equal(until):
			at10 = y.limit(t, commitmentPurpose)
		case y.now.Before(until.Add(leaseGrace)):
			at1059 = y.limit(t, commitmentPurpose)
		}
	}
	if at10 < 32 || at1059 != at10 {
		t.Fatalf("%v vCPU when the lease ran out and %v within the hour after", at10, at1059)
	}
	if got := y.limit(t, commitmentPurpose); got != 0 {
		t.Fatalf("%v vCPU are still held", got)
	}
}

func TestOverlay(t *testing.T) {
	for _, c := range []struct {
		name string
		gate bool
		mode karpenstate.Mode
		want string
	}{
		{"with the gate and the mode", true, karpenstate.ModeOverlays, ""},
		{"without the gate", false, karpenstate.ModeOverlays, "none"},
		{"without the mode it waits", true, karpenstate.ModeSiblings, "mode siblings: it takes mode overlays, or a person's approval"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(committed(nopsapi.UnitVCPU, 1000, 40), func(w *world) { w.Overlay, w.Config.Mode = c.gate, c.mode })
			y.run(t, event{After: 30 * time.Minute, Lease: -1})
			plan := y.run(t, event{After: 30 * time.Minute, Lease: -1})
			if c.want == "none" {
				if slices.ContainsFunc(plan.Actions, func(a Action) bool { return a.Kind == CreateOverlay }) {
					t.Fatal("an overlay without the gate")
				}
				return
			}
			a := only(t, plan, CreateOverlay)
			if a.Waiting != c.want {
				t.Fatalf("waiting %q", a.Waiting)
			}
			if problems := offering.ValidateOverlay(a.Object); len(problems) > 0 {
				t.Fatalf("it would not be admitted: %v", problems)
			}
			sibling := y.siblings(commitmentPurpose)[0]
			if got := encoded(at(a.Object, "spec", "requirements")); !strings.Contains(string(got), `["`+sibling+`"]`) {
				t.Fatalf("it is for %s", got)
			}
			if c.want != "" {
				return
			}
			y.Commits[0].Allocation = nil // the share is gone: the limit goes down, and the overlay goes with the pool, not before
			for i := range 10 {
				if plan = y.run(t, event{After: 30 * time.Minute, Lease: -1}); slices.ContainsFunc(plan.Actions, func(a Action) bool { return a.Kind == DeleteOverlay }) {
					if y.pools[sibling] != nil || len(y.over) != 0 {
						t.Fatalf("run %d: the pool is %v, overlays %v", i, y.pools[sibling], y.over)
					}
					return
				}
			}
			t.Fatal("the overlay stays for ever")
		})
	}
}

// At the discount nothing is cheaper than the sibling, so what its limit does not cover any more would stay: the overlay is neutral while it gives back.
func TestOverlayLetsGo(t *testing.T) {
	y := plain(committed(nopsapi.UnitVCPU, 1000, 40), func(w *world) { w.Overlay, w.Config.Mode = true, karpenstate.ModeOverlays })
	adjustment := func() any { return at(y.over[y.siblings(commitmentPurpose)[0]], "spec", "priceAdjustment") }
	for i := range 8 {
		y.run(t, event{After: 30 * time.Minute, Demand: i / 6 * 36, Lease: -1})
	}
	if _, cpu, _ := y.usage(y.siblings(commitmentPurpose)[0]); adjustment() != discount || cpu != 36 {
		t.Fatalf("%v with %v vCPU in it", adjustment(), cpu)
	}
	changes := 0
	for i, lease := range []float64{30, 30, 10, 10, 10, 10, 40, 40, 40, 40} {
		was := adjustment()
		plan := y.run(t, event{After: 30 * time.Minute, Demand: 36, Lease: lease})
		if adjustment() != was {
			changes++
		}
		s := y.pool(y.pools[y.siblings(commitmentPurpose)[0]])
		if i == 2 && adjustment() != neutral || i == 9 && adjustment() != discount {
			t.Fatalf("run %d: %v at a limit of %v and %v vCPU: %v", i, adjustment(), *s.CPULimit, s.CPUUsed, did(plan))
		}
	}
	if changes != 2 {
		t.Fatalf("%d changes, want one each way", changes)
	}
}

// Every object of a cluster has a name. An overlay without one is none, so nothing is written to it, whatever would be written to one.
func TestAnOverlayWithoutANameIsNone(t *testing.T) {
	for _, c := range []struct {
		name          string
		change        func(*toy, map[string]any) // with the sibling
		named, unsaid ActionKind                 // of the overlay, with a name and without; "": none
	}{
		{"in use", func(*toy, map[string]any) {}, "", CreateOverlay},
		{"giving back", func(y *toy, _ map[string]any) { y.Commits[0].Allocation.VCPU = 10 }, SetOverlay, ""},
		{"closed", func(y *toy, o map[string]any) { y.Commits[0].Allocation = nil; put(o, "/spec/limits/cpu", "0") }, DeleteOverlay, ""},
		{"closed and empty", func(y *toy, o map[string]any) {
			y.Commits[0].Allocation, y.nodes = nil, nil
			put(o, "/spec/limits/cpu", "0")
		}, DeleteOverlay, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(committed(nopsapi.UnitVCPU, 1000, 40), func(w *world) { w.Overlay, w.Config.Mode = true, karpenstate.ModeOverlays })
			for i := range 8 {
				y.run(t, event{After: 30 * time.Minute, Demand: i / 6 * 36, Lease: -1})
			}
			sibling := y.siblings(commitmentPurpose)[0]
			c.change(y, y.pools[sibling])
			for name, want := range map[string]ActionKind{sibling: c.named, "": c.unsaid} {
				in, got := y.input(false), ActionKind("")
				for i := range in.Pools {
					if in.Pools[i].Name == sibling {
						in.Pools[i].Overlay = &Overlay{Name: name, Adjustment: discount}
					}
				}
				for _, a := range Make(in).Actions {
					if a.ObjectKind == "NodeOverlay" {
						got = a.Kind
					}
					if a.Name == "" {
						t.Errorf("%s of a %s without a name: %s", a.Kind, a.ObjectKind, a.Reason)
					}
				}
				if got != want {
					t.Errorf("an overlay named %q: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestSiblingIsKeptWhileGatesAreRestless(t *testing.T) {
	y, name := preferred(t)
	closedAt := time.Duration(0)
	var readmitted time.Time
	for range 100 {
		y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{"m5": 9}, Demand: 24, Lease: -1})
		if readmitted.IsZero() && !y.memory.Gates["m5"].Excluded {
			readmitted = y.now
			if !slices.Contains(families(t, y, name), "m5") {
				t.Fatal("m5 is good again, and the sibling does not allow it")
			}
		}
		if p, there := y.pools[name]; closedAt == 0 && (!there || at(p, "spec", "limits", "cpu") == "0") {
			closedAt = y.now.Sub(readmitted)
		}
	}
	if readmitted.IsZero() || closedAt < 24*time.Hour || closedAt > 25*time.Hour {
		t.Fatalf("readmitted at %v, closed %v after", readmitted, closedAt)
	}
}

func TestMissingIsNotBad(t *testing.T) {
	y := plain()
	y.exclude(t, "m5", 0)
	for range 60 { // nobody says anything of m5 and c5 any more
		y.happen(event{After: 10 * time.Minute, Lease: -1})
		in := y.input(false)
		gone := func(name string) bool { return strings.HasPrefix(name, "m5.") || strings.HasPrefix(name, "c5.") }
		in.Market.Offerings = slices.DeleteFunc(in.Market.Offerings, func(o nopsapi.MarketOffering) bool { return gone(o.InstanceType) })
		y.memory = Make(in).Memory
	}
	if !y.memory.Gates["m5"].Excluded || y.memory.Gates["c5"].Excluded {
		t.Fatalf("m5 %+v, c5 %+v", y.memory.Gates["m5"], y.memory.Gates["c5"])
	}
	for range 20 { // in the end an exclusion that rests on nothing is taken back
		y.happen(event{After: 2 * time.Hour, Lease: -1})
		in := y.input(false)
		in.Market.Offerings = slices.DeleteFunc(in.Market.Offerings, func(o nopsapi.MarketOffering) bool { return strings.HasPrefix(o.InstanceType, "m5.") })
		y.memory = Make(in).Memory
	}
	if y.memory.Gates["m5"].Excluded {
		t.Fatal("m5 is excluded for ever on evidence of days ago")
	}
}

// One bad zone does not condemn a family; two of three do.
func TestSecondBestZoneDecides(t *testing.T) {
	for bad, want := range map[int]bool{1: false, 2: true} {
		y := plain()
		scores := map[string]int{}
		for _, id := range []string{"use1-az1", "use1-az2"}[:bad] {
			scores["m5/"+id] = 1
		}
		for range 12 {
			y.run(t, event{After: 30 * time.Minute, Scores: scores, Lease: -1})
		}
		if got := y.memory.Gates["m5"].Excluded; got != want {
			t.Errorf("%d bad zones: excluded %v", bad, got)
		}
		if !y.memory.Gates["m5/use1-az1"].Excluded {
			t.Error("the zone's own gate did not turn")
		}
	}
}

// Where all is scarce in every zone one stays for the floors' sake, until a better score opens another. Its own better score does not take it out.
func TestAScarceZoneStaysForTheFloorsAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		zones []string // in which m6g is better
		want  string
	}{
		{"nothing is better", nil, "us-east-1c"},
		{"it is itself", []string{"use1-az3"}, "us-east-1c"},
		{"another one is, and opens", []string{"use1-az1"}, "us-east-1a"},
		{"all are, of which one opens", []string{"use1-az1", "use1-az2", "use1-az3"}, "us-east-1a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(func(w *world) {
				w.Families = toyFamilies(4)
				w.Config = Config{Exclude: 1, Readmit: 1, Dwell: time.Minute, MinFamilies: 2, MinTypes: 5, MinZones: 1}
			})
			scores := map[string]int{}
			for _, f := range y.Families {
				scores[f.Name] = 1
			}
			for range 2 {
				y.run(t, event{After: 5 * time.Minute, Scores: scores, Lease: -1})
			}
			for range 2 {
				y.run(t, event{After: 5 * time.Minute, Scores: map[string]int{"m6g/use1-az1": 10, "m6g/use1-az3": 4}, Lease: -1})
			}
			scores = map[string]int{"m6g/use1-az1": 1, "m6g/use1-az3": 1}
			for _, id := range c.zones {
				scores["m6g/"+id] = 10
			}
			y.happen(event{After: 5 * time.Minute, Scores: scores, Lease: -1})
			choice, _ := choices(y.input(false))
			if got := zonesOf(choice["default"], "m6g"); !slices.Equal(got, []string{c.want}) {
				t.Fatalf("m6g is chosen in %v, want %s alone", got, c.want)
			}
		})
	}
}

func TestFloorsFailOpen(t *testing.T) {
	y := plain(func(w *world) { w.Families = toyFamilies(4) })
	for range 12 {
		if plan := y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{"m5": 1, "c5": 1}, Lease: -1}); len(plan.Actions) > 0 {
			t.Fatal(did(plan))
		}
	}
	if f := y.findings()["floors-not-met"]; f.Object != "NodePool/default" || !strings.Contains(f.Message, "4 families") {
		t.Fatalf("%+v", f)
	}
	y = plain(func(w *world) { // twelve families, of which those for arm64 are bad
		w.Shapes = []Shape{{CPU: 1, MemoryMiB: 500, Count: 1, Selector: offering.Requirements{{Key: offering.LabelArch, Operator: offering.In, Values: []string{"arm64"}}}}}
	})
	scores := map[string]int{}
	for _, f := range y.Families {
		if f.Arch == "arm64" {
			scores[f.Name] = 1
		}
	}
	for range 12 {
		y.run(t, event{After: 30 * time.Minute, Scores: scores, Lease: -1})
	}
	left := 0
	for _, f := range families(t, y, y.siblings(spotPurpose)[0]) {
		if scores[f] == 1 {
			left++
		}
	}
	if left != 1 {
		t.Fatalf("%d families for arm64 are left, want the one that its pods need", left)
	}
}

func TestWeights(t *testing.T) {
	for _, c := range []struct {
		name    string
		base    int
		others  map[string]int
		want    int64
		finding string
	}{
		{"the next above", 10, nil, 11, ""},
		{"of a base without one", 0, nil, 1, ""},
		{"the next that is free", 10, map[string]int{"other": 11}, 0, "weight-no-room"}, // other goes before the base, and so it stays
		{"none at 100", 100, nil, 0, "weight-ceiling"},
		{"99 has room for one", 99, nil, 100, ""},
		{"a lighter one is no obstacle", 10, map[string]int{"other": 3}, 11, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := plain(func(w *world) {
				if c.base > 0 {
					put(w.Bases[0], "/spec/weight", int64(c.base))
				} else {
					put(w.Bases[0], "/spec/weight", nil)
				}
				for name, weight := range c.others {
					o := poolObject(name, weight, nil, requirement(offering.LabelCapacityType, "In", "spot"))
					delete(o["metadata"].(map[string]any), "annotations")
					w.Others = append(w.Others, o)
				}
			})
			y.exclude(t, "m5", 0)
			if c.finding != "" {
				if f := y.findings()[c.finding]; f.Object != "NodePool/default" || len(y.siblings(spotPurpose)) > 0 {
					t.Fatalf("finding %+v, siblings %v", f, y.siblings(spotPurpose))
				}
				return
			}
			if got := at(y.pools[y.siblings(spotPurpose)[0]], "spec", "weight"); got != c.want {
				t.Fatalf("weight %v, want %d", got, c.want)
			}
		})
	}
}

// TestWords: what people read of what stands against deciding.
func TestWords(t *testing.T) {
	y := plain()
	y.happen(event{After: time.Minute, Lease: -1})
	in := y.input(true)
	for _, c := range []struct {
		name   string
		change func(*Input)
		say    func(Plan) string
		want   string
	}{
		{"no facts", func(*Input) {}, func(p Plan) string { return p.Holding }, "no market data is valid now; no commitment data is valid now"},
		{"a slip in opting in", func(in *Input) {
			put(in.Pools[0].Object, "/metadata/annotations/karpenops.nops.io~1managed", "True")
			in.Pools[0].Managed = false
		}, func(p Plan) string { return strings.Join(p.Why["default"], "") }, `left alone: its annotation karpenops.nops.io/managed is "True", and only "true" opts in`},
	} {
		in := in
		in.Pools = slices.Clone(in.Pools)
		in.Pools[0].Object = copyMap(in.Pools[0].Object)
		c.change(&in)
		if got := c.say(Make(in)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// A mode of the agent's may be overruled by an approval, one that the NodePool asks for may not.
	a := Action{Kind: CreateSibling, Base: "default"}
	for _, c := range []struct {
		agents, pools karpenstate.Mode
		want          string
	}{
		{karpenstate.ModeAdvise, "", "mode advise: it takes mode siblings, or a person's approval"},
		{karpenstate.ModeInPlace, karpenstate.ModeAdvise, "mode advise: it takes mode siblings in the annotation karpenops.nops.io/mode of NodePool default"},
		{karpenstate.ModeInPlace, "", ""},
	} {
		p := planner{cfg: Config{Mode: c.agents}, pools: map[string]*Pool{"default": {Name: "default", Mode: c.pools}}}
		if got := p.waits(a); got != c.want {
			t.Errorf("agent %q, NodePool %q: %q, want %q", c.agents, c.pools, got, c.want)
		}
	}
	for n, want := range map[int]string{0: "0 nodes", 1: "1 node", 2: "2 nodes"} {
		if got := counted(n, "node"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for base, want := range map[string]string{
		"default": "nops-default-spot-0123456789ab", strings.Repeat("a", 63): "nops-" + strings.Repeat("a", 40) + "-spot-0123456789ab",
		strings.Repeat("a", 39) + ".b-c": "nops-" + strings.Repeat("a", 39) + "-spot-0123456789ab", "a.b": "nops-a.b-spot-0123456789ab",
	} {
		if got := siblingName(base, spotPurpose, "0123456789ab"); got != want || len(got) > 63 {
			t.Errorf("%q: %q (%d), want %q", base, got, len(got), want)
		}
	}
	for key, want := range map[string]bool{
		"argocd.argoproj.io/tracking-id": true, "app.kubernetes.io/instance": true, "app.kubernetes.io/managed-by": true, "app.kubernetes.io/name": false, "kustomize.toolkit.fluxcd.io/name": true,
		"helm.toolkit.fluxcd.io/name": true, "meta.helm.sh/release-name": true, "helm.sh/chart": true, "config.kubernetes.io/origin": true, "kubectl.kubernetes.io/last-applied-configuration": true,
		"karpenter.sh/nodepool-hash": true, "karpenops.nops.io/managed": true, "imported_by": true, "team": false, "example.com/cost-center": false, "objectset.rio.cattle.io/id": true, "release": true,
	} {
		if got := foreign(key); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func TestFindings(t *testing.T) {
	class := map[string]any{
		"kind": "EC2NodeClass", "metadata": map[string]any{"name": "default"}, "spec": map[string]any{"amiSelectorTerms": []any{map[string]any{"alias": "al2023@latest"}}},
		"status": map[string]any{"amis": []any{map[string]any{"id": "ami-2"}, map[string]any{"id": "ami-1"}}},
	}
	for _, c := range []struct {
		name, code, id, says, patch string
		drift                       int
		change                      func(*world)
		input                       func(*Input)
	}{
		{name: "a misspelt family", code: "unknown-value", id: "unknown-value/NodePool/default/" + offering.LabelFamily + "=m5x", says: "misspelt", change: func(w *world) {
			w.Bases[0] = poolObject("default", 10, nil, requirement(offering.LabelFamily, "In", "m5", "m5x"))
		}},
		{name: "an empty list", code: "allows-everything", says: "every instance type", change: func(w *world) { w.Bases[0] = poolObject("default", 10, nil) }},
		{name: "a contradiction", code: "allows-nothing", says: "contradict", change: func(w *world) {
			w.Bases[0] = poolObject("default", 10, nil, requirement(offering.LabelFamily, "In", "m5"), requirement(offering.LabelFamily, "NotIn", "m5"))
		}},
		{name: "nothing on offer", code: "allows-nothing", says: "no offering", change: func(w *world) {
			w.Bases[0] = poolObject("default", 10, nil, requirement(offering.LabelFamily, "In", "q1"))
		}},
		{name: "minValues that cannot be met", code: "allows-nothing", says: "minValues asks for 3", change: func(w *world) {
			r := requirement(offering.LabelFamily, "In", "m5", "q1", "q2")
			r["minValues"] = int64(3)
			w.Bases[0] = poolObject("default", 10, nil, r)
		}},
		{name: "a short life", code: "expires-soon", says: "live 6h", drift: 2, patch: `{"spec":{"template":{"spec":{"expireAfter":"720h"}}}}`, change: func(w *world) { put(w.Bases[0], "/spec/template/spec/expireAfter", "6h") },
			input: func(in *Input) { in.Pools[0].Nodes = 2 }},
		{name: "a static pool", code: "static-pool", says: "static", input: func(in *Input) { in.Pools[0].Static = true }},
		{name: "an API that is not known", code: "unsupported-api", says: "karpenter.sh/v1beta1", input: func(in *Input) {
			in.Karpenter.Writable, in.Karpenter.APIVersions = false, []string{"karpenter.sh/v1beta1"}
		}},
		{name: "an AMI that moves", code: "ami-not-pinned", says: "latest", drift: 3, patch: `{"spec":{"amiFamily":"AL2023","amiSelectorTerms":[{"id":"ami-1"},{"id":"ami-2"}]}}`, input: func(in *Input) {
			in.NodeClasses, in.Pools[0].Nodes = []map[string]any{class}, 3
		}},
		{name: "a schedule that cannot be", code: "schedule-unreadable", says: "budget 0 cannot be read; and the freeze", input: func(in *Input) { in.Pools[0].Schedules = []string{"budget 0 cannot be read", "and the freeze"} }},
		{name: "a copy of a sibling", code: "copy-of-sibling", says: "was not made by karpenops", input: func(in *Input) {
			in.Pools = append(in.Pools, Pool{Name: "a-copy", Owned: true, Base: "default", Purpose: spotPurpose, CPULimit: ref(4)})
		}},
		{name: "a sibling that a lowered mode leaves", code: "siblings-unattended", says: "nopsctl karpenops revert default", input: func(in *Input) {
			in.Pools = append(in.Pools, Pool{Name: "nops-default-spot-0123456789ab", Owned: true, Base: "default", Purpose: spotPurpose, CPULimit: ref(4), Nodes: 1})
			in.Pools[0].Mode = karpenstate.ModeObserve
		}},
		{name: "a discount that a lowered mode leaves", code: "overlay-unattended", says: "sets no prices", input: func(in *Input) {
			in.Pools = append(in.Pools, Pool{Name: "nops-default-commitment-0123456789ab", Owned: true, Base: "default", Purpose: commitmentPurpose, CPULimit: ref(4), Nodes: 1, Overlay: &Overlay{Name: "nops-default-commitment-0123456789ab", Adjustment: discount}})
		}},
		{name: "a NodePool that grew beside its sibling", code: "limit-exceeded", says: "18 vCPU, and its limit is 14 vCPU", input: func(in *Input) {
			in.Pools[0].CPULimit, in.Pools[0].CPUUsed = ref(14), 14
			in.Pools = append(in.Pools, Pool{Name: "nops-default-spot-0123456789ab", Owned: true, Base: "default", Purpose: spotPurpose, CPULimit: ref(0), CPUUsed: 4, Nodes: 2})
		}},
		{name: "a sibling of nobody", code: "sibling-without-base", says: "left alone", input: func(in *Input) { in.Pools = append(in.Pools, Pool{Name: "nops-x", Owned: true}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var change []func(*world)
			if c.change != nil {
				change = append(change, c.change)
			}
			y := plain(change...)
			y.happen(event{After: time.Minute, Lease: -1})
			in := y.input(false)
			if c.input != nil {
				c.input(&in)
			}
			plan := Make(in)
			for _, f := range plan.Findings {
				if f.Code == c.code {
					if !strings.Contains(f.Message, c.says) || f.Patch != c.patch || f.Drift != c.drift || c.id != "" && f.ID != c.id {
						t.Fatalf("%+v", f)
					}
					return
				}
			}
			t.Fatalf("no finding %s among %v", c.code, plan.Findings)
		})
	}
	if plan := Make(func() Input { y := plain(); y.happen(event{After: time.Minute, Lease: -1}); return y.input(false) }()); len(plan.Findings) != 0 {
		t.Fatalf("a plain cluster has findings: %v", plan.Findings)
	}
}

func TestConfig(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"lo": {Lo: 6, Hi: 6}, "mode": {Mode: "everything"}, "headroom": {Headroom: 1.5}, "dwell": {Dwell: -1}, "rampUp": {RampUp: -1}, "writesPerHour": {WritesPerHour: 1}, "driftCap": {DriftCap: -1}, "restartCost": {RestartCost: -1},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A region's catalogue may come without the AWS provider's labels; then the ones that there are name the families.
func TestOtherProvidersLabels(t *testing.T) {
	y := plain()
	for range 10 {
		y.happen(event{After: 30 * time.Minute, Scores: map[string]int{"m5": 1}, Lease: -1})
		in := y.input(false)
		for i := range in.Market.InstanceTypes {
			l := in.Market.InstanceTypes[i].Labels
			l["karpenter.kwok.sh/instance-family"] = l[offering.LabelFamily]
			delete(l, offering.LabelFamily)
		}
		plan := Make(in)
		y.memory = plan.Memory
		for _, a := range plan.Actions {
			if list := string(encoded(lookup(a.Object, pathRequirements))); !strings.Contains(list, `"karpenter.kwok.sh/instance-family","operator":"NotIn","values":["m5"]`) {
				t.Fatal(list)
			}
			return
		}
	}
	t.Fatal("nothing is planned")
}

func ref(v float64) *float64 { return &v }

// A copy of a sibling takes nothing from the real one: before, the real one was closed in its favour.
func TestACopyIsNobodysSibling(t *testing.T) {
	y := plain()
	y.happen(event{After: time.Minute, Lease: -1})
	in := y.input(false)
	without := Make(in)
	in.Pools = append(in.Pools, Pool{Name: "a-copy", Owned: true, Base: "default", Purpose: spotPurpose, CPULimit: ref(4), Weight: 7})
	with := Make(in)
	if a, b := fmt.Sprint(without.Actions), fmt.Sprint(with.Actions); a != b {
		t.Errorf("without the copy %s\nwith it %s", a, b)
	}
}

// What takes back waits for no bucket: a share that shrank would be oversubscribed for an hour.
func TestTakingBackWaitsForNoBucket(t *testing.T) {
	p := &planner{cfg: Config{}.WithDefaults(), mem: Memory{Writes: make([]int64, 1000)}, pools: map[string]*Pool{}, why: map[string][]string{}}
	for rank, waits := range map[int]bool{rankDrain: false, rankLower: false, rankDelete: false, rankFollow: true, rankRaise: true} {
		p.steps = []step{{rank: rank, actions: []Action{{Kind: SetLimits, Name: "s", Base: "default"}}}}
		if got := p.schedule(); len(got) != 1 || strings.HasPrefix(got[0].Waiting, "rate limit") != waits {
			t.Errorf("rank %d: %+v, want that it waits: %v", rank, got, waits)
		}
	}
	if !neutralises(Action{Kind: SetOverlay, Changes: []Change{{Path: "/spec/priceAdjustment", After: neutral}}}) || neutralises(Action{Kind: SetOverlay, Changes: []Change{{Path: "/spec/priceAdjustment", After: discount}}}) {
		t.Error("what takes a discount back is not told from what gives one")
	}
}
