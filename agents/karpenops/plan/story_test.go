package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// plain is a cluster without surprises: one managed pool on spot and on demand, twelve families, three zones, the default configuration.
func plain(change ...func(*world)) *toy {
	w := world{Families: toyFamilies(12)}
	w.Bases = []map[string]any{poolObject("default", 10, nil, requirement(offering.LabelCapacityType, "In", "spot", "on-demand"), requirement(offering.LabelArch, "In", "amd64", "arm64"))}
	for _, c := range change {
		c(&w)
	}
	return newToy(w)
}

// run is one tick: what happens, Karpenter, the plan, carried out.
func (y *toy) run(t testing.TB, e event) Plan {
	t.Helper()
	y.happen(e)
	y.karpenter(e.Demand)
	plan := Make(y.input(e.Blackout))
	y.memory = plan.Memory
	if err := y.apply(plan.Actions); err != nil {
		t.Fatal(err)
	}
	return plan
}

// did are the kinds of what is carried out, with the names.
func did(p Plan) []string {
	var all []string
	for _, a := range p.Actions {
		if a.Waiting == "" {
			all = append(all, string(a.Kind)+" "+a.Name)
		}
	}
	return all
}

func only(t testing.TB, p Plan, kind ActionKind) Action {
	t.Helper()
	var found []Action
	for _, a := range p.Actions {
		if a.Kind == kind {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d actions %s among %v, want one; why: %s", len(found), kind, did(p), encoded(p.Why))
	}
	return found[0]
}

func (y *toy) siblings(purpose string) []string {
	var all []string
	for name, o := range y.pools {
		if at(o, "metadata", "annotations", karpenstate.AnnotationPurpose) == purpose {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

func families(t testing.TB, y *toy, name string) []string {
	t.Helper()
	if y.pools[name] == nil {
		t.Fatalf("there is no pool %s", name)
	}
	return y.catalogue().Values(effective(y.catalogue(), y.pools[name]).Set, offering.LabelFamily)
}

// few draws n cases instead of rapid's hundred, where each is a long story; whoever asks for another number by -rapid.checks gets that.
func few(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	checks := flag.Lookup("rapid.checks").Value
	if was := checks.String(); was == "100" {
		_ = checks.Set(fmt.Sprint(n))
		defer func() { _ = checks.Set(was) }()
	}
	rapid.Check(t, property)
}

// P7: between the thresholds nothing turns, and what turns faster than the dwell turns once a dwell at most.
func TestP7Hysteresis(t *testing.T) {
	t.Run("noise between the thresholds changes nothing", func(t *testing.T) {
		few(t, 8, func(r *rapid.T) {
			y := plain()
			bad := rapid.SliceOfN(rapid.IntRange(0, 11), 0, 3).Draw(r, "bad")
			for i := range 16 { // some families are excluded, and all is settled
				scores := map[string]int{}
				for j, f := range y.Families {
					scores[f.Name] = 8
					if slices.Contains(bad, j) && i < 8 {
						scores[f.Name] = 1
					} else if slices.Contains(bad, j) {
						scores[f.Name] = 5
					}
				}
				y.run(t, event{After: 10 * time.Minute, Scores: scores, Demand: 16, Lease: -1})
			}
			for i := range 12 {
				scores := map[string]int{}
				for _, f := range y.Families {
					scores[f.Name] = rapid.IntRange(4, 5).Draw(r, "noise")
				}
				if plan := y.run(t, event{After: time.Hour, Scores: scores, Demand: 16, Lease: -1}); len(plan.Actions) > 0 {
					r.Fatalf("run %d of noise: %v", i, did(plan))
				}
			}
		})
	})
	t.Run("a square wave turns a gate once a dwell", func(t *testing.T) {
		few(t, 8, func(r *rapid.T) {
			period := rapid.IntRange(1, 20).Draw(r, "half a period")
			y := plain(func(w *world) { w.Config.Exclude, w.Config.Readmit, w.Config.FlipsPerDay = 1, 1, 100 })
			f := y.Families[rapid.IntRange(0, 11).Draw(r, "family")].Name
			var turns []time.Time
			was := false
			for i := range 100 {
				score := 9
				if i/period%2 == 0 {
					score = 1
				}
				y.run(t, event{After: 10 * time.Minute, Scores: map[string]int{f: score}, Demand: 16, Lease: -1})
				if g := y.memory.Gates[f]; g.Excluded != was {
					was, turns = g.Excluded, append(turns, y.now)
				}
			}
			if len(turns) == 0 {
				r.Fatalf("the gate never turned")
			}
			for i := 1; i < len(turns); i++ {
				if turns[i].Sub(turns[i-1]) < 6*time.Hour {
					r.Fatalf("turns at %v and %v", turns[i-1], turns[i])
				}
			}
		})
	})
	t.Run("a choice changes no more often in a day than it may", func(t *testing.T) {
		y := plain(func(w *world) {
			w.Config.Exclude, w.Config.Readmit, w.Config.Dwell, w.Config.FlipsPerDay = 1, 1, time.Minute, 3
		})
		edits, waited := 0, 0
		for i := range 96 {
			scores := map[string]int{y.Families[11].Name: 1, y.Families[i%4].Name: []int{1, 9}[i/4%2]} // the sibling never goes
			plan := y.run(t, event{After: 15 * time.Minute, Scores: scores, Demand: 0, Lease: -1})
			for _, a := range plan.Actions {
				switch {
				case a.Kind == SetRequirements && a.Waiting == "":
					edits++
				case strings.Contains(a.Waiting, "in the last 24 h"):
					waited++
				}
			}
		}
		if edits != 3 || waited == 0 {
			t.Fatalf("%d changes of the choice in a day, want 3, and %d that waited", edits, waited)
		}
	})
	t.Run("what was planned and not written uses nothing up", func(t *testing.T) {
		y, old := preferred(t)
		y.Config.Exclude, y.Config.Readmit, y.Config.Dwell, y.Config.FlipsPerDay, y.Config.WritesPerHour = 1, 1, time.Minute, 1, 3
		y.memory.Writes, y.memory.Flips = nil, nil
		used := familiesOfNodes(y, old)[0]
		handover := func() Plan {
			y.happen(event{After: 5 * time.Minute, Scores: map[string]int{used: 1}, Lease: -1})
			plan := Make(y.input(false))
			y.memory = plan.Memory
			return plan
		}
		var plan Plan
		for tries := 0; len(did(plan)) == 0 && tries < 20; tries++ { // the smoothed score takes a while to fall
			plan = handover()
		}
		for i := range 20 { // each of them refused
			plan = handover()
			if len(did(plan)) != 2 || len(y.memory.Writes) != 0 || len(y.memory.Flips) != 0 {
				t.Fatalf("refusal %d: %v; writes %v, flips %v", i, did(plan), y.memory.Writes, y.memory.Flips)
			}
		}
		if plan.Actions[0].Flip != "" || only(t, plan, CreateSibling).Flip != "default" {
			t.Fatalf("of a handover that counts which makes the new one: %+v", plan.Actions)
		}
		before := y.memory
		if err := y.apply(plan.Actions); err != nil {
			t.Fatal(err)
		}
		if len(y.memory.Writes) != 2 || len(y.memory.Flips["default"]) != 1 || len(before.Writes) != 0 || len(before.Flips) != 0 {
			t.Fatalf("written: %v %v; the memory before: %v %v", y.memory.Writes, y.memory.Flips, before.Writes, before.Flips)
		}
	})
	t.Run("a document counts once", func(t *testing.T) {
		y := plain()
		y.happen(event{After: time.Minute, Scores: map[string]int{y.Families[0].Name: 1}, Lease: -1})
		for range 10 {
			plan := Make(y.input(false))
			y.memory = plan.Memory
			if g := y.memory.Gates[y.Families[0].Name]; g.Bad != 1 || g.Excluded {
				t.Fatalf("the same market seen again counts again: %+v", g)
			}
			y.now = y.now.Add(time.Second)
		}
	})
}

func committed(unit string, total, lease float64, change ...func(*nopsapi.Commitment)) func(*world) {
	c := nopsapi.Commitment{
		ID: "sp-1", Kind: nopsapi.CommitmentComputeSP, Unit: unit, Total: total, Start: start.Add(-time.Hour), End: start.Add(10000 * time.Hour),
		Scope: nopsapi.CommitmentScope{Region: "us-east-1"}, Allocation: &nopsapi.Allocation{VCPU: lease, LeaseUntil: start.Add(9000 * time.Hour)},
	}
	for _, f := range change {
		f(&c)
	}
	return func(w *world) { w.Commits = append(w.Commits, c) }
}

func (y *toy) limit(t testing.TB, purpose string) float64 {
	t.Helper()
	sum := 0.0
	for _, name := range y.siblings(purpose) {
		v, ok := amount(at(y.pools[name], "spec", "limits", "cpu"))
		if !ok {
			t.Fatalf("%s has no cpu limit", name)
		}
		sum += v
	}
	return sum
}

// P8: with constant input a commitment's limit reaches its target, but for the dead band, in as many steps as the ramp takes.
func TestP8Converges(t *testing.T) {
	few(t, 15, func(r *rapid.T) {
		y := plain(committed(nopsapi.UnitVCPU, 1000, float64(rapid.IntRange(10, 300).Draw(r, "lease"))))
		steps := func(from, to float64) int {
			by := float64(16)
			if to < from {
				by = 8
			}
			return int(math.Ceil(math.Abs(to-from) / by))
		}
		settle := func(target float64) {
			from := y.limit(t, commitmentPurpose)
			n := 0
			for ; n < 100; n++ {
				if plan := y.run(t, event{After: 30 * time.Minute, Lease: -1}); !slices.ContainsFunc(did(plan), func(d string) bool { return !strings.HasPrefix(d, "delete") }) {
					break
				}
			}
			got := y.limit(t, commitmentPurpose)
			if n > steps(from, target) {
				r.Fatalf("from %v to %v took %d runs, and may take %d", from, target, n, steps(from, target))
			}
			if math.Abs(got-target) > 0.1*max(got, target)+1e-9 {
				r.Fatalf("it settled at %v, and the target is %v", got, target)
			}
			for range 3 {
				if plan := y.run(t, event{After: 30 * time.Minute, Lease: -1}); len(did(plan)) > 0 {
					r.Fatalf("settled, and still: %v", did(plan))
				}
			}
		}
		settle(math.Floor(0.9 * y.Commits[0].Allocation.VCPU))
		// What others use grows, the lease stays: down by steps.
		y.Commits[0].OtherUse.P90 = 1000 - float64(rapid.IntRange(0, 300).Draw(r, "left"))
		settle(math.Floor(0.9 * min(y.Commits[0].Allocation.VCPU, 1000-y.Commits[0].OtherUse.P90)))
	})
}

// P11: documents that are not valid now decide nothing, whatever is in them, and an older one than was seen counts nowhere.
func TestP11StaleDocumentsDecideNothing(t *testing.T) {
	few(t, 12, func(r *rapid.T) {
		y := plain(committed(nopsapi.UnitVCPU, 1000, 60), func(w *world) { w.Overlay, w.Config.Mode = true, karpenstate.ModeOverlays })
		bad := y.Families[rapid.IntRange(0, 11).Draw(r, "family")].Name
		for range 30 {
			y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{bad: 1}, Demand: 40, Lease: -1})
		}
		if len(y.siblings(spotPurpose)) != 1 || len(y.siblings(commitmentPurpose)) != 1 {
			r.Fatalf("the story holds too little: %v %v", y.siblings(spotPurpose), y.siblings(commitmentPurpose))
		}
		for i := range y.scores {
			y.scores[i] = rapid.IntRange(0, 10).Draw(r, "score")
		}
		y.Commits[0].Allocation.VCPU = float64(rapid.IntRange(0, 500).Draw(r, "lease"))
		y.now, y.seq = y.now.Add(10*time.Minute), y.seq+1
		in := y.input(false)
		how := rapid.SampledFrom([]string{"expired", "newer schema", "none"}).Draw(r, "how")
		for _, h := range []*nopsapi.FactHeader{&in.Market.FactHeader, &in.Commitments.FactHeader} {
			switch how {
			case "expired":
				h.ValidUntil = y.now.Add(-time.Second)
			case "newer schema":
				h.SchemaVersion = nopsapi.KarpenterSchema + 1
			}
		}
		if how == "none" {
			in.Market, in.Commitments = nil, nil
		}
		plan := Make(in)
		if len(plan.Actions) > 0 || plan.Holding == "" {
			r.Fatalf("%s: %v, holding %q", how, did(plan), plan.Holding)
		}
		// A replay of an old market is for whoever takes documents in; if one comes through, no gate counts it.
		in = y.input(false)
		in.Market.Seq = uint64(rapid.IntRange(0, int(y.seq)-1).Draw(r, "seq"))
		for key, g := range Make(in).Memory.Gates {
			if was := y.memory.Gates[key]; g != was {
				r.Fatalf("gate %s counted market %d after %d: %+v was %+v", key, in.Market.Seq, was.LastSeq, g, was)
			}
		}
	})
}

// P12: what is narrowed in place is given back as it was, to the last byte; what somebody changed since is theirs.
func TestP12Undo(t *testing.T) {
	narrowed, released := 0, 0
	few(t, 12, func(r *rapid.T) {
		original := poolObject("default", 100, nil, requirement(offering.LabelCapacityType, "In", "spot", "on-demand"), map[string]any{"key": offering.LabelArch, "operator": "In", "values": []any{"arm64", "amd64"}, "note": "<kept>"})
		if rapid.Bool().Draw(r, "a list of the user's own") {
			list := lookup(original, pathRequirements).([]any)
			in := requirement(offering.LabelFamily, "In")
			var values []any
			for _, f := range toyFamilies(12) {
				values = append(values, f.Name)
			}
			in["values"], in["minValues"] = values, int64(rapid.IntRange(1, 6).Draw(r, "minValues"))
			put(original, pathRequirements, append(slices.Clone(list), any(in)))
		}
		y := plain(func(w *world) { w.Config.Mode, w.Bases = karpenstate.ModeInPlace, []map[string]any{original} })
		bad := y.Families[rapid.IntRange(0, 11).Draw(r, "family")].Name
		before := string(encoded(lookup(y.pools["default"], pathRequirements)))
		for range 12 {
			y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{bad: 1}, Demand: 0, Lease: -1})
		}
		if string(encoded(lookup(y.pools["default"], pathRequirements))) == before {
			r.Fatalf("nothing was narrowed")
		}
		narrowed++
		human := rapid.Bool().Draw(r, "a person edits it meanwhile")
		var theirs string
		if human {
			list := append(slices.Clone(lookup(y.pools["default"], pathRequirements).([]any)), any(requirement("node.kubernetes.io/instance-type", "NotIn", "m5.large")))
			put(y.pools["default"], pathRequirements, list)
			theirs = string(encoded(list))
		}
		restored := false
		for range 40 {
			plan := y.run(t, event{After: 30 * time.Minute, Scores: map[string]int{bad: 9}, Demand: 0, Lease: -1})
			restored = restored || slices.Contains(did(plan), "restore default")
		}
		after := string(encoded(lookup(y.pools["default"], pathRequirements)))
		switch {
		case human && (restored || after != theirs):
			r.Fatalf("a person's edit was undone: %s", after)
		case !human && (!restored || after != before):
			r.Fatalf("restored %v: %s, was %s", restored, after, before)
		}
		if human {
			released++
		}
	})
	if narrowed == 0 || released == 0 {
		t.Fatalf("%d narrowed, %d released: nothing is shown", narrowed, released)
	}
}

// P13: before a commitment ends its limit falls, never by more than a step, and at the end the target is 0.
func TestP13Expiry(t *testing.T) {
	few(t, 7, func(r *rapid.T) {
		every := rapid.SampledFrom([]time.Duration{20 * time.Minute, 30 * time.Minute, time.Hour}).Draw(r, "every")
		ends := start.Add(90 * time.Hour)
		y := plain(committed(nopsapi.UnitVCPU, 1000, float64(rapid.IntRange(20, 150).Draw(r, "lease")), func(c *nopsapi.Commitment) { c.End = ends }), func(w *world) { w.Families = toyFamilies(5) })
		demand := rapid.IntRange(0, 120).Draw(r, "demand")
		last, most, atEnd := 0.0, 0.0, -1.0
		for y.now.Before(ends.Add(4 * time.Hour)) {
			y.run(t, event{After: every, Demand: demand, Lease: -1})
			now := y.limit(t, commitmentPurpose)
			if y.now.Before(ends) && last-now > 8 {
				r.Fatalf("%s before the end the limit falls from %v to %v", ends.Sub(y.now), last, now)
			}
			if y.now.Before(ends) {
				atEnd = now
			}
			last, most = now, max(most, now)
		}
		if most == 0 || last != 0 {
			r.Fatalf("the limit rose to %v and is %v four hours after the end", most, last)
		}
		if atEnd != 0 {
			r.Fatalf("just before the end the limit is still %v of %v", atEnd, most)
		}
	})
}

// What each property is worth: a planner that breaks it is caught by it.
func TestBrokenPlannersAreCaught(t *testing.T) {
	edit := func(kinds []ActionKind, change func(in Input, a *Action)) maker {
		return func(in Input) Plan {
			p := Make(in)
			for i := range p.Actions {
				if slices.Contains(kinds, p.Actions[i].Kind) {
					var a Action
					data, _ := json.Marshal(p.Actions[i])
					_ = json.Unmarshal(data, &a)
					change(in, &a)
					p.Actions[i] = a
				}
			}
			return p
		}
	}
	list := func(a *Action, change func([]any) []any) {
		if a.Kind == CreateSibling {
			put(a.Object, pathRequirements, change(lookup(a.Object, pathRequirements).([]any)))
			return
		}
		for i := range a.Changes {
			a.Changes[i].After = change(a.Changes[i].After.([]any))
		}
	}
	lists := []ActionKind{CreateSibling, SetRequirements, Narrow}
	for _, c := range []struct {
		property, reason string
		broken           maker
	}{
		{"P1", "a family that does not exist leaves nothing", edit(lists, func(_ Input, a *Action) {
			list(a, func(l []any) []any { return append(l, any(requirement(offering.LabelFamily, "In", "m77"))) })
		})},
		{"P1", "requirements left out allow what the base does not", edit(lists, func(_ Input, a *Action) { list(a, func(l []any) []any { return l[len(l)-1:] }) })},
		{"admission", "a weight that is none", edit([]ActionKind{CreateSibling}, func(_ Input, a *Action) { put(a.Object, "/spec/weight", int64(101)) })},
		{"P2", "one family more than the floor lets go", edit([]ActionKind{CreateSibling}, func(_ Input, a *Action) {
			if at(a.Object, "metadata", "annotations", karpenstate.AnnotationPurpose) == spotPurpose {
				list(a, func(l []any) []any {
					return append(l, any(requirement(offering.LabelFamily, "NotIn", "m5", "c5", "r5", "m6", "c6", "r6", "m6g")))
				})
			}
		})},
		{"P3", "a value is added to a requirement of the user's", edit(lists, func(_ Input, a *Action) {
			list(a, func(l []any) []any {
				l = slices.Clone(l)
				e := copyMap(l[0])
				e["values"] = append(slices.Clone(e["values"].([]any)), any("reserved"))
				l[0] = e
				return l
			})
		})},
		{"P3", "an unknown field of a requirement is lost", edit(lists, func(_ Input, a *Action) {
			list(a, func(l []any) []any {
				var out []any
				for _, e := range l {
					e := copyMap(e)
					delete(e, "note")
					out = append(out, e)
				}
				return out
			})
		})},
		{"P3", "a GitOps label is inherited", edit([]ActionKind{CreateSibling}, func(_ Input, a *Action) { put(a.Object, "/metadata/labels/argocd.argoproj.io~1instance", "apps") })},
		{"P3", "the template is not the base's", edit([]ActionKind{CreateSibling}, func(_ Input, a *Action) { put(a.Object, "/spec/template/spec/expireAfter", "1h") })},
		{"P9", "what waits for the bucket does not wait", func(in Input) Plan {
			p := Make(in)
			for i := range p.Actions {
				if strings.HasPrefix(p.Actions[i].Waiting, "rate limit") {
					p.Actions[i].Waiting = ""
				}
			}
			return p
		}},
		{"P9", "what waits for the next run does not wait", func(in Input) Plan {
			p := Make(in)
			for i := range p.Actions {
				if strings.HasPrefix(p.Actions[i].Waiting, "one run makes") {
					p.Actions[i].Waiting = ""
				}
			}
			return p
		}},
		{"P10", "a sibling takes the base's whole limit", edit([]ActionKind{CreateSibling}, func(in Input, a *Action) {
			for _, b := range in.Pools {
				if b.Name == a.Base && b.CPULimit != nil {
					put(a.Object, "/spec/limits/cpu", fmt.Sprint(*b.CPULimit+1))
				}
			}
		})},
		{"P10", "a commitment's sibling may have more than its lease", edit([]ActionKind{CreateSibling}, func(_ Input, a *Action) {
			if at(a.Object, "metadata", "annotations", karpenstate.AnnotationPurpose) == commitmentPurpose {
				put(a.Object, "/spec/limits/cpu", "81")
			}
		})},
		{"P14", "a sibling has its base's weight", edit([]ActionKind{CreateSibling}, func(in Input, a *Action) {
			for _, b := range in.Pools {
				if b.Name == a.Base {
					put(a.Object, "/spec/weight", int64(b.Weight))
				}
			}
		})},
		{"P14", "a sibling has some other pool's weight", edit([]ActionKind{CreateSibling}, func(in Input, a *Action) {
			for _, b := range in.Pools {
				if b.Name != a.Base && b.Weight > 0 {
					put(a.Object, "/spec/weight", int64(b.Weight))
				}
			}
		})},
		{"P15", "drift is not predicted", edit([]ActionKind{Narrow}, func(_ Input, a *Action) { a.Drift = nil })},
		{"P15", "drift is predicted that does not come", edit([]ActionKind{SetRequirements}, func(_ Input, a *Action) { a.Drift = []string{"claim-0001"} })},
	} {
		t.Run(c.property+" "+c.reason, func(t *testing.T) {
			gen := genWorld()
			for seed := range 1500 {
				if err := play(gen.Example(seed), c.broken, checks[c.property]); err != nil {
					t.Logf("caught in story %d: %v", seed, err)
					return
				}
			}
			t.Fatal("1500 stories, and nobody noticed")
		})
	}
}
