package plan

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// checks are the properties that hold at each tick of each story, by name. Each returns what is wrong.
var checks = map[string]func(tick) error{
	"admission": admitted, "P1": p1NeverEmpty, "P2": p2Floors, "P3": p3Keeps, "P9": p9Churn, "P10": p10Limits, "P14": p14Weights, "P15": p15Drift,
}

// written gives the actions that are carried out and change what a pool may launch, with the object that results and its base.
func written(k tick, each func(a Action, o map[string]any, b Pool) error) error {
	for _, a := range k.plan.Actions {
		if a.Waiting != "" || a.Kind != CreateSibling && a.Kind != SetRequirements && a.Kind != Narrow && a.Kind != Restore {
			continue
		}
		i := slices.IndexFunc(k.in.Pools, func(p Pool) bool { return p.Name == a.Base })
		if i < 0 {
			return fmt.Errorf("%s of %s names a base %q that is not there", a.Kind, a.Name, a.Base)
		}
		if err := each(a, k.after(a.Name), k.in.Pools[i]); err != nil {
			return fmt.Errorf("%s of %s: %w", a.Kind, a.Name, err)
		}
	}
	return nil
}

func effective(c *offering.Catalogue, o map[string]any) offering.Effective {
	list, _ := offering.Of(o)
	return c.Effective(offering.Pool{Requirements: list, Labels: map[string]string{"team": "a"}})
}

// written by the user: what undo would give back.
func userList(b Pool) []any {
	base := base{Pool: &b}
	base.readOriginal()
	return base.original
}

func withList(o map[string]any, list []any) map[string]any {
	o = copyMap(o)
	put(o, pathRequirements, list)
	return o
}

// P1: what is written allows something, and nothing that the user's own requirements do not.
func p1NeverEmpty(k tick) error {
	c := k.toy.catalogue()
	return written(k, func(a Action, o map[string]any, b Pool) error {
		got, whole := effective(c, o), effective(c, withList(b.Object, userList(b)))
		switch {
		case !got.Launches():
			return fmt.Errorf("nothing can be launched by %s", encoded(lookup(o, pathRequirements)))
		case !got.Set.Within(whole.Set):
			return fmt.Errorf("it allows %d offerings that its base does not", got.Set.Minus(whole.Set).Len())
		}
		return nil
	})
}

// P2: the floors hold for what is written wherever they hold for the base, counted here anew.
func p2Floors(k tick) error {
	c, cfg := k.toy.catalogue(), k.in.Config.WithDefaults()
	return written(k, func(a Action, o map[string]any, b Pool) error {
		if at(o, "metadata", "annotations", karpenstate.AnnotationPurpose) == commitmentPurpose {
			return nil // it is for one family or what a plan pays for, and the base stays beside it
		}
		spot := c.Where(offering.LabelCapacityType, "spot")
		whole, got := effective(c, withList(b.Object, userList(b))).Set.And(spot), effective(c, o).Set.And(spot)
		types := cfg.MinTypes
		if k.in.Karpenter.SpotToSpot {
			types = max(types, 15)
		}
		n, all := c.Count(got), c.Count(whole)
		for _, f := range []struct {
			what             string
			have, base, want int
		}{
			{"types", n.Types, all.Types, types}, {"families", n.Families, all.Families, cfg.MinFamilies}, {"zones", n.Zones, all.Zones, min(cfg.MinZones, all.Zones)},
			{"architectures", n.Archs, all.Archs, all.Archs}, {"operating systems", n.OSs, all.OSs, all.OSs},
		} {
			if f.have < f.want {
				return fmt.Errorf("%d %s of %d are left, and %d have to be", f.have, f.what, f.base, f.want)
			}
		}
		for _, s := range k.in.Shapes {
			if s.Pools != nil && !slices.Contains(s.Pools, b.Name) {
				continue
			}
			sel := offering.Compile(s.Selector)
			have, had := c.Types(c.Fits(got, s.CPU, s.MemoryMiB, sel)), c.Types(c.Fits(whole, s.CPU, s.MemoryMiB, sel))
			if have < min(had, cfg.MinFits) {
				return fmt.Errorf("%d types are left for pods of %v vCPU", have, s.CPU)
			}
		}
		return nil
	})
}

// P3: every requirement of the user's is there, to the last unknown field, in its order; of the labels that are managed values may be
// gone from a list, and entries added at the end. The rest of the template is the base's.
func p3Keeps(k tick) error {
	managed := []string{offering.LabelFamily, offering.LabelZone, offering.LabelCapacityType, offering.LabelInstanceType, offering.LabelOS}
	return written(k, func(a Action, o map[string]any, b Pool) error {
		list, original := lookup(o, pathRequirements).([]any), userList(b)
		if len(list) < len(original) {
			return fmt.Errorf("%d requirements of %d are left", len(list), len(original))
		}
		for i, entry := range list {
			key, _ := at(entry, "key").(string)
			if i >= len(original) {
				if !slices.Contains(managed, key) {
					return fmt.Errorf("a requirement of %s is added", key)
				}
				continue
			}
			if same(entry, original[i]) {
				continue
			}
			was, is := copyMap(original[i]), copyMap(entry)
			before, _ := was["values"].([]any)
			after, _ := is["values"].([]any)
			delete(was, "values")
			delete(is, "values")
			if !slices.Contains(managed, key) || !same(was, is) || len(after) == 0 || slices.ContainsFunc(after, func(v any) bool { return !slices.Contains(before, v) }) {
				return fmt.Errorf("requirement %d was %s and is %s", i, encoded(original[i]), encoded(entry))
			}
		}
		if a.Kind == CreateSibling {
			if d := offering.StaticDrift(b.Object, o); len(d) > 0 {
				return fmt.Errorf("its template differs: %s", d[0])
			}
			for _, part := range []string{"labels", "annotations"} {
				m, _ := at(o, "metadata", part).(map[string]any)
				for key := range m {
					if strings.Contains(key, "argocd") || strings.Contains(key, "kubectl") || key == "app.kubernetes.io/instance" || strings.HasPrefix(key, "karpenter.sh/") {
						return fmt.Errorf("it inherits %s", key)
					}
				}
			}
			if at(o, "metadata", "labels", "owner") != "platform" {
				return fmt.Errorf("a label of the user's is lost")
			}
			if len(a.Name) > 63 || !strings.HasPrefix(a.Name, "nops-"+b.Name+"-") {
				return fmt.Errorf("its name is %q", a.Name)
			}
		}
		return nil
	})
}

// P9: no more nodes drift than the cap, and no more is written in an hour than the bucket holds. What only takes back is not bounded: a
// share that shrank, or a NodePool that opted out, cannot wait.
func p9Churn(k tick) error {
	cfg := k.in.Config.WithDefaults()
	for _, a := range k.plan.Actions {
		if a.Waiting == "" && a.Kind != DrainSibling && len(a.Drift) > cfg.DriftCap {
			return fmt.Errorf("%s of %s: %d nodes drift, and the cap is %d", a.Kind, a.Name, len(a.Drift), cfg.DriftCap)
		}
	}
	n := 0
	for _, at := range k.toy.spent {
		if k.in.Now.Sub(at) < time.Hour {
			n++
		}
	}
	if n > cfg.WritesPerHour {
		return fmt.Errorf("%d writes in an hour, and %d may be", n, cfg.WritesPerHour)
	}
	made := 0
	for _, a := range k.plan.Actions {
		if a.Waiting == "" && a.Kind == CreateSibling {
			made++
		}
	}
	if made > cfg.SiblingsPerRun {
		return fmt.Errorf("%d NodePools made in one run", made)
	}
	return nil
}

// P10: once carried out, what the base uses and its siblings may use stay within the user's limits, as far as nothing was over before
// (a sibling counts by what it uses where that is more: a limit takes no node away). A limit that rises stays within what the lease pays for.
func p10Limits(k tick) error {
	waits := map[string]bool{}
	for _, a := range k.plan.Actions {
		if a.Waiting != "" {
			waits[a.Base], waits[a.Name] = true, true
		}
	}
	for _, b := range k.in.Pools {
		if b.Owned || !b.Managed || k.after(b.Name) == nil || waits[b.Name] || !k.in.Config.Mode.Includes(karpenstate.ModeSiblings) {
			continue // what waits is not done yet
		}
		limits, _ := at(b.Object, "spec", "limits").(map[string]any)
		for name := range limits {
			l, _ := limit(&b, name)
			sum := 0.0
			for sibling, o := range k.toy.pools {
				if at(o, "metadata", "annotations", karpenstate.AnnotationBase) != b.Name {
					continue
				}
				p := k.toy.pool(o)
				v, limited := limit(&p, name)
				if !limited {
					if closed(&p) {
						continue
					}
					return fmt.Errorf("%s has no limit of %s, and its base has", sibling, name)
				}
				if closed(&p) {
					v = 0
				}
				sum += v
			}
			if sum > 0 && sum+used(&b, name) > l+1e-6 {
				return fmt.Errorf("%s: %s of siblings and %s of the base are over its limit of %s", b.Name, human(name, sum), human(name, used(&b, name)), human(name, l))
			}
		}
	}
	if k.in.Commitments == nil {
		return nil
	}
	lease := 0.0
	for _, c := range k.in.Commitments.Commitments {
		if c.Allocation != nil && k.in.Now.Before(c.End) && k.in.Now.Before(c.Allocation.LeaseUntil.Add(leaseGrace)) {
			lease += c.Allocation.VCPU
		}
	}
	sum, raised := 0.0, false
	for name, o := range k.toy.pools {
		if at(o, "metadata", "annotations", karpenstate.AnnotationPurpose) != commitmentPurpose {
			continue
		}
		v, _ := amount(at(o, "spec", "limits", "cpu"))
		was, had := amount(at(k.before[name], "spec", "limits", "cpu"))
		sum, raised = sum+v, raised || !had || v > was
	}
	if raised && sum > lease+1e-6 && !slices.ContainsFunc(k.in.Pools, func(p Pool) bool {
		return p.Owned && p.Purpose == commitmentPurpose && p.CPULimit != nil && *p.CPULimit > 0
	}) {
		return fmt.Errorf("siblings for commitments may have %v vCPU, and the leases are of %v", sum, lease)
	}
	for _, a := range k.plan.Actions {
		if a.Waiting != "" || a.Kind != CreateSibling && a.Kind != SetLimits || at(k.after(a.Name), "metadata", "annotations", karpenstate.AnnotationPurpose) != commitmentPurpose {
			continue
		}
		v, _ := amount(at(k.after(a.Name), "spec", "limits", "cpu"))
		was, _ := amount(at(k.before[a.Name], "spec", "limits", "cpu"))
		ids, _ := at(k.after(a.Name), "metadata", "annotations", karpenstate.AnnotationCommitment).(string)
		mine := 0.0
		for _, c := range k.in.Commitments.Commitments {
			if slices.Contains(strings.Split(ids, ","), c.ID) && k.in.Now.Before(c.End) && k.in.Now.Before(c.Allocation.LeaseUntil.Add(leaseGrace)) {
				mine += c.Allocation.VCPU
			}
		}
		if v > was && v > mine {
			return fmt.Errorf("%s may have %v vCPU, and its lease is of %v", a.Name, v, mine)
		}
		if v > was && v-was > float64(k.in.Config.WithDefaults().RampUp) {
			return fmt.Errorf("%s rises from %v to %v vCPU in one step", a.Name, was, v)
		}
	}
	return nil
}

// P14: a sibling that launches has a weight from 1 to 100, above its base's, and no other NodePool has it.
func p14Weights(k tick) error {
	if err := standing(k); err != nil {
		return err
	}
	for _, a := range k.plan.Actions {
		if a.Waiting != "" || a.Kind != CreateSibling && a.Kind != SetWeight {
			continue
		}
		w, _ := amount(at(k.after(a.Name), "spec", "weight"))
		base, _ := amount(at(k.after(a.Base), "spec", "weight"))
		if w < 1 || w > 100 || w <= base {
			return fmt.Errorf("%s of %s: the weight %v, and its base has %v", a.Kind, a.Name, w, base)
		}
		for name, o := range k.toy.pools {
			if other, _ := amount(at(o, "spec", "weight")); name != a.Name && other == w {
				return fmt.Errorf("%s of %s: %s has the weight %v too", a.Kind, a.Name, name, w)
			}
		}
		for _, p := range k.in.Pools { // the user's own order stays
			if !p.Owned && p.Weight > int(base) && float64(p.Weight) <= w && len(k.in.Shapes) == 0 {
				return fmt.Errorf("%s of %s: the weight %v goes before %s (%d), which goes before its base", a.Kind, a.Name, w, p.Name, p.Weight)
			}
		}
	}
	return nil
}

// standing is P14 of the siblings that are there already: what the user changes about weights is put right, where there is a weight that is.
func standing(k tick) error {
	settled := map[string]bool{}
	for _, b := range k.in.Pools {
		settled[b.Name] = !b.Owned && b.Managed && b.Paused == "" && k.in.Config.Mode.Includes(karpenstate.ModeSiblings)
	}
	for _, f := range k.plan.Findings {
		if strings.HasPrefix(f.Code, "weight-") {
			settled[strings.TrimPrefix(f.Object, "NodePool/")] = false
		}
	}
	for _, a := range k.plan.Actions {
		if a.Waiting != "" {
			settled[a.Base] = false
		}
	}
	for name, o := range k.toy.pools {
		p := k.toy.pool(o)
		if !p.Owned || closed(&p) || !settled[p.Base] {
			continue
		}
		base, _ := amount(at(k.after(p.Base), "spec", "weight"))
		for other, o := range k.toy.pools {
			if w, _ := amount(at(o, "spec", "weight")); other != name && int(w) == p.Weight {
				return fmt.Errorf("%s and %s have the weight %d", name, other, p.Weight)
			}
		}
		if p.Weight <= int(base) {
			return fmt.Errorf("%s has the weight %d, and its base %v", name, p.Weight, base)
		}
	}
	return nil
}

// P15: the drift that an action predicts is what offering.Drift says of the object that results.
func p15Drift(k tick) error {
	return written(k, func(a Action, o map[string]any, _ Pool) error {
		if a.Kind == CreateSibling {
			if len(a.Drift) > 0 {
				return fmt.Errorf("making a pool drifts %v", a.Drift)
			}
			return nil
		}
		list, _ := offering.Of(o)
		had, _ := offering.Of(k.before[a.Name])
		var nodes []offering.Node
		for _, n := range k.in.Nodes {
			if n.Pool == a.Name {
				nodes = append(nodes, offering.Node{Name: n.Name, Labels: n.Labels})
			}
		}
		before, want := offering.Drift(offering.Compile(had), nodes), []string(nil)
		for _, d := range offering.Drift(offering.Compile(list), nodes) {
			if !slices.ContainsFunc(before, func(b offering.Drifted) bool { return b.Node == d.Node }) {
				want = append(want, d.Node)
			}
		}
		if !slices.Equal(want, a.Drift) {
			return fmt.Errorf("it predicts %v, and %v drift", a.Drift, want)
		}
		return nil
	})
}

// What is written is admitted by the API server with either set of CRDs, and Karpenter calls it valid: as far as that holds for the base.
func admitted(k tick) error {
	for _, a := range k.plan.Actions {
		if a.Waiting != "" {
			continue
		}
		if a.Kind == CreateOverlay {
			if p := offering.ValidateOverlay(a.Object); len(p) > 0 {
				return fmt.Errorf("%s of %s: %s", a.Kind, a.Name, p[0])
			}
		}
		i := slices.IndexFunc(k.in.Pools, func(p Pool) bool { return p.Name == a.Base })
		if o := k.after(a.Name); a.ObjectKind == "NodePool" && o != nil && i >= 0 {
			known := offering.Validate(k.in.Pools[i].Object, nil)
			for _, p := range offering.Validate(o, k.before[a.Name]) {
				if !slices.ContainsFunc(known, func(q offering.Problem) bool { return p.Level == q.Level && p.Reason == q.Reason }) {
					return fmt.Errorf("%s of %s: %s", a.Kind, a.Name, p)
				}
			}
		}
	}
	return nil
}

func stories(t *testing.T, name string) {
	t.Helper()
	seen := map[ActionKind]int{}
	few(t, 50, func(t *rapid.T) {
		w := genWorld().Draw(t, "world")
		err := play(w, Make, func(k tick) error {
			for _, a := range k.plan.Actions {
				if a.Waiting == "" {
					seen[a.Kind]++
				}
			}
			return checks[name](k)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if len(seen) < 5 {
		t.Fatalf("the stories hold too little to show anything: %v", seen)
	}
	t.Logf("carried out: %v", seen)
}

func TestEveryWriteIsAdmitted(t *testing.T) { stories(t, "admission") }
func TestP1NeverEmpty(t *testing.T)         { stories(t, "P1") }
func TestP2FloorsHold(t *testing.T)         { stories(t, "P2") }
func TestP3KeepsWhatIsNotOurs(t *testing.T) { stories(t, "P3") }
func TestP9BoundedChurn(t *testing.T)       { stories(t, "P9") }
func TestP10WithinLimits(t *testing.T)      { stories(t, "P10") }
func TestP14Weights(t *testing.T)           { stories(t, "P14") }
func TestP15PredictedDrift(t *testing.T)    { stories(t, "P15") }

// plans compares bytes: what is not equal byte for byte was not decided, it happened.
func planBytes(t interface{ Fatal(...any) }, p Plan) string {
	out, err := json.Marshal(struct {
		Plan
		Memory Memory
	}{p, p.Memory})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// shuffled is the same input in another order.
func shuffled(in Input, r *rand.Rand) Input {
	mix := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
	in.Pools, in.Nodes, in.Shapes = slices.Clone(in.Pools), slices.Clone(in.Nodes), slices.Clone(in.Shapes)
	mix(len(in.Pools), reflect.Swapper(in.Pools))
	mix(len(in.Nodes), reflect.Swapper(in.Nodes))
	mix(len(in.Shapes), reflect.Swapper(in.Shapes))
	if in.Market != nil {
		m := *in.Market
		m.InstanceTypes, m.Offerings = slices.Clone(m.InstanceTypes), slices.Clone(m.Offerings)
		mix(len(m.InstanceTypes), reflect.Swapper(m.InstanceTypes))
		mix(len(m.Offerings), reflect.Swapper(m.Offerings))
		in.Market = &m
	}
	if in.Commitments != nil {
		c := *in.Commitments
		c.Commitments = slices.Clone(c.Commitments)
		mix(len(c.Commitments), reflect.Swapper(c.Commitments))
		in.Commitments = &c
	}
	return in
}

// P6: the order of lists is nothing, twice is once, and the input is as it was.
func TestP6Deterministic(t *testing.T) {
	actions := 0
	few(t, 25, func(t *rapid.T) {
		w, seed := genWorld().Draw(t, "world"), rapid.Uint64().Draw(t, "seed")
		err := play(w, Make, func(k tick) error {
			was, _ := json.Marshal(k.in)
			want := planBytes(t, Make(k.in))
			if now, _ := json.Marshal(k.in); string(now) != string(was) {
				return fmt.Errorf("the input was changed")
			}
			if got := planBytes(t, Make(shuffled(k.in, rand.New(rand.NewPCG(seed, 1))))); got != want {
				return fmt.Errorf("another order, another plan:\n%s\n%s", want, got)
			}
			actions += len(k.plan.Actions)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if actions < 20 {
		t.Fatalf("%d actions show nothing", actions)
	}
}

// choices are the families that each base would prefer now, by what is decided before any actuator.
func choices(in Input) (map[string][]string, *planner) {
	p := decide(in)
	c := map[string][]string{}
	for _, b := range p.bases {
		set := b.spot
		if b.prefer != nil && b.prefer.fate != exact {
			set = b.prefer.set
		} else if b.prefer != nil {
			set = b.prefer.set
		}
		for _, zone := range p.market.cat.Values(set, offering.LabelZone) {
			for _, f := range p.market.cat.Values(set.And(p.market.cat.Where(offering.LabelZone, zone)), offering.LabelFamily) {
				c[b.Name] = append(c[b.Name], f+"/"+zone)
			}
		}
	}
	return c, p
}

// P4: a worse score of an offering never adds it to the choice, and a better one never takes it out; less to spare never raises a limit.
//
// That is of an offering by itself, and of a family in a zone. Where the scores of a family change in all zones at once the family stays in the choice
// likewise. A zone in which all is scarce with either score stays only while the floors need it, though: another zone, which the better score opens, may
// take its place.
func TestP4Monotone(t *testing.T) {
	compared, differ, replaced := 0, 0, 0
	few(t, 60, func(t *rapid.T) {
		w := genWorld().Draw(t, "world")
		f := w.Families[rapid.IntRange(0, len(w.Families)-1).Draw(t, "family")].Name
		size := rapid.SampledFrom(sizes).Draw(t, "size").name
		low := rapid.SampledFrom([]int{1, 2, 3, 4, 5, 8}).Draw(t, "low")
		high := rapid.SampledFrom([]int{9, 10, 8}).Draw(t, "high")
		wide := rapid.IntRange(0, 3).Draw(t, "wide")                                                                          // one offering, the whole family in one zone, or in all zones
		w.Config.Exclude, w.Config.Readmit, w.Config.Dwell, w.Config.MinFamilies, w.Config.MinTypes = 1, 1, time.Minute, 2, 5 // gates that turn
		err := play(w, Make, func(k tick) error {
			if k.in.Market == nil {
				return nil
			}
			with := func(score int) Input {
				in := k.in
				m := *in.Market
				m.Offerings = slices.Clone(m.Offerings)
				for i := range m.Offerings {
					if o := &m.Offerings[i]; strings.HasPrefix(o.InstanceType, f+".") && (wide > 0 || o.InstanceType == f+"."+size) && (wide > 1 || o.ZoneID == "use1-az1") {
						o.PlacementScore = score
					}
				}
				in.Market = &m
				return in
			}
			worse, p := choices(with(low))
			better, q := choices(with(high))
			if len(p.bases) == 0 {
				return nil
			}
			for _, b := range p.bases {
				had, has := zonesOf(worse[b.Name], f), zonesOf(better[b.Name], f)
				opened := slices.ContainsFunc(has, func(zone string) bool {
					key := f + "/" + zoneID(zone)
					return !slices.Contains(had, zone) && p.mem.Gates[key].Excluded && !q.mem.Gates[key].Excluded
				})
				for _, zone := range had {
					if slices.Contains(has, zone) || wide < 2 && zoneID(zone) != "use1-az1" {
						continue
					}
					if key := f + "/" + zoneID(zone); wide < 2 || !opened || !p.mem.Gates[key].Excluded || !q.mem.Gates[key].Excluded {
						return fmt.Errorf("%s/%s is chosen for %s with a score of %d, and not with %d", f, zone, b.Name, low, high)
					}
					replaced++
				}
				compared++
				if !slices.Equal(worse[b.Name], better[b.Name]) {
					differ++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if compared < 100 || differ == 0 {
		t.Fatalf("%d choices compared, %d of them different: nothing is shown", compared, differ)
	}
	t.Logf("%d choices compared, %d of them different; %d zones replaced", compared, differ, replaced)
}

// zonesOf are the zones in which a choice has a family.
func zonesOf(choice []string, family string) []string {
	var zones []string
	for _, one := range choice {
		if f, zone, _ := strings.Cut(one, "/"); f == family {
			zones = append(zones, zone)
		}
	}
	return zones
}

func zoneID(zone string) string {
	for id, name := range toyZones {
		if name == zone {
			return id
		}
	}
	return ""
}

// limitsOf are the cpu limits of commitments' siblings once a plan is carried out, waiting or not, in sum by base, and the siblings that it hands over.
// What is done to one only while its handover waits does not count.
func limitsOf(in Input, plan Plan) (sum map[string]float64, handed map[string]bool) {
	sum, handed = map[string]float64{}, map[string]bool{}
	limits, made := map[string]float64{}, map[string]bool{}
	for _, a := range slices.Backward(plan.Actions) { // the handover goes before what is done otherwise
		switch a.Kind {
		case CreateSibling:
			if at(a.Object, "metadata", "annotations", karpenstate.AnnotationPurpose) == commitmentPurpose {
				v, _ := amount(at(a.Object, "spec", "limits", "cpu"))
				sum[a.Base] += v
				made[a.Base] = true
			}
		case SetLimits:
			for _, c := range a.Changes {
				switch c.Path {
				case "/spec/limits":
					limits[a.Name], _ = amount(at(c.After, "cpu"))
				case "/spec/limits/cpu":
					limits[a.Name], _ = amount(c.After)
				}
			}
		}
	}
	for _, p := range in.Pools {
		if !p.Owned || p.Purpose != commitmentPurpose || p.CPULimit == nil {
			continue
		}
		v, set := limits[p.Name]
		if !set {
			v = *p.CPULimit
		}
		sum[p.Base] += v
		handed[p.Base] = handed[p.Base] || made[p.Base] && *p.CPULimit > 0 && v == 0
	}
	return sum, handed
}

// What is handed over goes on with its nodes, beside a sibling that begins anew with what they leave of the lease, and only where that is enough for a
// node; else it stays, and its limit goes by the ramp. Of those two no sum is less than the other's, so kept is held against kept, and handed over against
// handed over. More to spare may make a handover possible, and less never.
func TestP4LessToSpareNeverRaisesALimit(t *testing.T) {
	compared, differ, apart := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := genWorld().Draw(t, "world")
		// One alone: of several, what one does not take another may.
		w.Commits = []nopsapi.Commitment{genCommitment(w.Families).Draw(t, "commitment")}
		w.Commits[0].ID = "sp-0"
		share := rapid.Float64Range(0, 1).Draw(t, "share")
		what := rapid.IntRange(0, 2).Draw(t, "what")
		err := play(w, Make, func(k tick) error {
			if k.in.Commitments == nil {
				return nil
			}
			in := k.in
			list := slices.Clone(in.Commitments.Commitments)
			c := &list[0]
			switch what {
			case 0:
				c.Total *= share
			case 1:
				a := *c.Allocation
				a.VCPU *= share
				c.Allocation = &a
			default:
				c.OtherUse.P90 += (1 - share) * 20
			}
			less := *in.Commitments
			less.Commitments = list
			in.Commitments = &less
			compare := func(with, without Input) error {
				more, handedMore := limitsOf(with, Make(with))
				fewer, handedFewer := limitsOf(without, Make(without))
				for base, v := range fewer {
					switch {
					case handedFewer[base] && !handedMore[base]:
						return fmt.Errorf("with less to spare a sibling of %s is handed over, and with more it is not", base)
					case handedMore[base] && !handedFewer[base]:
						apart++
						continue
					}
					compared++
					if v > more[base] {
						return fmt.Errorf("with less to spare the siblings of %s may have %v vCPU, and with more %v", base, v, more[base])
					}
					if v < more[base] {
						differ++
					}
				}
				return nil
			}
			if err := compare(k.in, in); err != nil {
				return err
			}
			if err := compare(keepsAll(k.in), keepsAll(in)); err != nil {
				return fmt.Errorf("where none can be made: %w", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if compared < 20 || differ == 0 {
		t.Fatalf("%d limits compared, %d of them different: nothing is shown", compared, differ)
	}
	t.Logf("%d limits compared, %d of them different; %d times one was handed over, and the other kept", compared, differ, apart)
}

// keepsAll is an input by which no sibling is made, so that those that there are stay.
func keepsAll(in Input) Input {
	in.Pools = slices.Clone(in.Pools)
	for i := range in.Pools {
		in.Pools[i].Ready = false
	}
	return in
}

// P5: planning again for what was carried out does nothing, but for ramps, which end: nothing is ever written twice on the way.
func TestP5Idempotent(t *testing.T) {
	settled := 0
	few(t, 80, func(t *rapid.T) {
		w := genWorld().Draw(t, "world")
		w.Config.WritesPerHour, w.Config.SiblingsPerRun, w.Config.FlipsPerDay = 10000, 100, 100
		at := rapid.IntRange(0, len(w.Events)-1).Draw(t, "at")
		n := -1
		err := play(w, Make, func(k tick) error {
			if n++; n != at {
				return nil
			}
			y := k.toy
			seen := map[string]bool{}
			for _, a := range k.plan.Actions {
				if a.Waiting == "" {
					seen[string(encoded([]any{a.Name, a.Kind, a.Object, a.Changes}))] = true
				}
			}
			ramps := 0
			for i := 0; ; i++ {
				plan := Make(y.input(false))
				y.memory = plan.Memory
				did := false
				for _, a := range plan.Actions {
					if a.Waiting != "" {
						continue
					}
					did = true
					if key := string(encoded([]any{a.Name, a.Kind, a.Object, a.Changes})); seen[key] && a.Kind != DeleteSibling {
						return fmt.Errorf("round %d: %s of %s is written again: %s", i, a.Kind, a.Name, encoded(a.Changes))
					} else {
						seen[key] = true
					}
					if a.Kind == SetLimits {
						ramps++
					}
				}
				if !did {
					settled++
					return nil
				}
				if err := y.apply(plan.Actions); err != nil {
					return err
				}
				if i > 30 {
					return fmt.Errorf("after %d rounds of nothing happening there is still something to do: %s of %s: %s", i, plan.Actions[0].Kind, plan.Actions[0].Name, plan.Actions[0].Reason)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if settled < 40 {
		t.Fatalf("%d stories settled", settled)
	}
}

// corrupt sets some leaves of a value to what nobody would send.
func corrupt(v reflect.Value, r *rand.Rand, share float64) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			if v.Kind() == reflect.Pointer && r.Float64() < share/4 && v.CanSet() {
				v.SetZero()
				return
			}
			corrupt(v.Elem(), r, share)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				corrupt(v.Field(i), r, share)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			corrupt(v.Index(i), r, share)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			switch {
			case r.Float64() < share/4:
				v.SetMapIndex(key, reflect.Value{})
			case v.Type().Elem().Kind() == reflect.Interface:
				if inner := v.MapIndex(key).Elem(); inner.IsValid() && r.Float64() < share {
					v.SetMapIndex(key, reflect.ValueOf([]any{"garbage", int64(-1), 1e300, true, nil, map[string]any{}, []any{nil, "x"}}[r.IntN(7)]))
				} else if inner.IsValid() {
					corrupt(inner, r, share)
				}
			}
		}
	default:
		if !v.CanSet() || r.Float64() >= share {
			return
		}
		switch v.Kind() {
		case reflect.Int, reflect.Int64:
			v.SetInt([]int64{-1, 0, math.MaxInt64, math.MinInt64, 7}[r.IntN(5)])
		case reflect.Uint64:
			v.SetUint([]uint64{0, math.MaxUint64}[r.IntN(2)])
		case reflect.Float64:
			v.SetFloat([]float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0, 1e300}[r.IntN(6)])
		case reflect.String:
			v.SetString([]string{"", "garbage", "spot", "base-0"}[r.IntN(4)])
		case reflect.Bool:
			v.SetBool(!v.Bool())
		}
	}
}

// Whatever is in the input, nothing panics, and no sibling is made that could not be.
func TestGarbage(t *testing.T) {
	siblings := 0
	few(t, 50, func(t *rapid.T) {
		w, seed := genWorld().Draw(t, "world"), rapid.Uint64().Draw(t, "seed")
		share := rapid.SampledFrom([]float64{0.001, 0.01, 0.1}).Draw(t, "share")
		r := rand.New(rand.NewPCG(seed, 2))
		_ = play(w, Make, func(k tick) error {
			data, err := json.Marshal(k.in) // a copy
			if err != nil {
				t.Fatal(err)
			}
			var in Input
			if err := json.Unmarshal(data, &in); err != nil {
				t.Fatal(err)
			}
			config := in.Config
			corrupt(reflect.ValueOf(&in).Elem(), r, share)
			if in.Config.Validate() != nil {
				if plan := Make(in); len(plan.Actions) > 0 || plan.Holding == "" {
					t.Fatalf("a configuration that cannot be plans %v", plan.Actions)
				}
				in.Config = config
			}
			plan := Make(in)
			for _, a := range plan.Actions {
				if a.Name == "" || a.Reason == "" || a.ID == "" {
					t.Fatalf("an action that cannot be carried out: %+v", a)
				}
				if a.Kind != CreateSibling {
					continue
				}
				siblings++
				cpu, ok := amount(at(a.Object, "spec", "limits", "cpu"))
				weight, _ := amount(at(a.Object, "spec", "weight"))
				if !ok || cpu <= 0 || weight < 1 || weight > 100 {
					t.Fatalf("a sibling that cannot be: %s", encoded(a.Object))
				}
			}
			if _, err := json.Marshal(plan.Memory); err != nil {
				t.Fatalf("the memory cannot be kept: %v", err)
			}
			return nil
		})
	})
	if siblings == 0 {
		t.Fatal("nothing is ever planned")
	}
}
