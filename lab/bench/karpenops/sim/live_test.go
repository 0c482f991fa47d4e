package sim_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/karpenops/sim"
	"github.com/nopsctl/nopsctl/lab/karpenter"
)

// How far a moment of the simulation may lie from the recorded one. Karpenter looks every ten seconds, and at which of them is chance: one phase has to do.
// It waits fifteen before it acts on a consolidation and drops it if anything has changed, and evaluates overlays in its own time: a move may come
// a round later, and each further one waits for the one before. What is no further apart than a slot may come in either order.
const (
	livePoll      = 10 * time.Second
	liveTolerance = 15 * time.Second
	liveEach      = 5 * time.Second // more for each move before it in the same step
	liveSlot      = 6 * time.Second
)

// TestLive: the simulator brings forth what the real Karpenter was recorded to do, node by node: the same pools, capacity types and
// instance types, created and deleted in the same order, at about the same time.
func TestLive(t *testing.T) {
	files, err := filepath.Glob("../testdata/live/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d recordings, %v: there were ten", len(files), err)
	}
	compared := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s karpenter.Scenario
			if err := json.Unmarshal(text, &s); err != nil {
				t.Fatal(err)
			}
			if s.Observed == nil {
				newLive(t, s, 0).untilThen(t, s)
				return
			}
			compared++
			want := recorded(s.Observed)
			var problems []string
			for phase := time.Duration(0); phase < livePoll; phase += time.Second {
				l := newLive(t, s, phase)
				got := l.asRecorded(t, s)
				problem := differ(got, want, s.Observed.Steps)
				if most := l.mostDeleting(); problem == "" && fmt.Sprint(most) != fmt.Sprint(s.Observed.MostDeleting) {
					problem = fmt.Sprintf("nodes being deleted at a time: %v, recorded %v", most, s.Observed.MostDeleting)
				}
				if problem == "" {
					t.Logf("as recorded with the first look after %s", phase)
					return
				}
				problems = append(problems, fmt.Sprintf("first look after %s: %s\nsimulated:\n%s", phase, problem, moments(got)))
			}
			t.Errorf("at no phase of the looks is it as recorded:\n%s\n%s", moments(want), strings.Join(problems, "\n"))
		})
	}
	if compared < 10 {
		t.Errorf("%d of %d scenarios have a recording: there were eleven", compared, len(files))
	}
	t.Logf("%d of %d scenarios have a recording", compared, len(files))
}

type live struct {
	*sim.Cluster
	began  time.Time
	groups map[string][]*sim.Pod
	spec   map[string]func() *sim.Pod
}

func newLive(t *testing.T, s karpenter.Scenario, phase time.Duration) *live {
	t.Helper()
	var types []*sim.Type
	prices := map[string]karpenter.Type{}
	for _, k := range karpenter.Catalogue() {
		_, size, _ := strings.Cut(k.Name, ".")
		types = append(types, &sim.Type{Name: k.Name, VCPU: k.VCPU, MemoryMiB: k.MemoryMiB, Labels: map[string]string{
			sim.LabelFamily: k.Family, "karpenter.k8s.aws/instance-category": k.Family[:1], "karpenter.k8s.aws/instance-size": size, "karpenter.k8s.aws/instance-cpu": strconv.Itoa(k.VCPU), "kubernetes.io/arch": k.Arch, "kubernetes.io/os": "linux"}})
		prices[k.Name] = k
	}
	var zones []string
	for _, z := range karpenter.Zones() {
		zones = append(zones, z.Name)
	}
	catalogue := sim.NewCatalogue(types, zones, []string{sim.OnDemand, sim.Spot})
	var market sim.Fixed
	for _, o := range catalogue.Offerings {
		price := prices[o.Type.Name].OnDemand
		if o.CapacityType == sim.Spot {
			price = prices[o.Type.Name].Spot[o.Zone]
		}
		market = append(market, price)
	}
	boot := 3 * time.Second
	if s.Options.Boot != "" {
		d, err := time.ParseDuration(s.Options.Boot)
		if err != nil {
			t.Fatal(err)
		}
		boot += d
	}
	began := time.Date(2027, 1, 4, 10, 0, 0, 0, time.UTC)
	config := sim.Config{Name: s.Name, Step: time.Second, Boot: boot, Drain: 2 * time.Second, Validate: 15 * time.Second, Poll: livePoll, Phase: phase, Kwok: true, Overlays: s.Options.Gates["NodeOverlay"], SpotToSpot: s.Options.Gates["SpotToSpotConsolidation"]}
	return &live{Cluster: sim.New(config, catalogue, market, began), began: began, groups: map[string][]*sim.Pod{}, spec: map[string]func() *sim.Pod{}}
}

// do carries a step out.
func (l *live) do(t *testing.T, step karpenter.Step) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("step %s: %v", step.Name, err)
		}
	}
	for _, text := range step.Apply {
		object := map[string]any{}
		must(json.Unmarshal(text, &object))
		if object["kind"] != "Deployment" {
			must(l.Apply(object))
			continue
		}
		name, _ := sim.Field(object, "metadata", "name").(string)
		replicas, _ := sim.Number(sim.Field(object, "spec", "replicas"))
		containers, _ := sim.Field(object, "spec", "template", "spec", "containers").([]any)
		requests, _ := sim.Field(containers[0].(map[string]any), "resources", "requests").(map[string]any)
		cpu, err := sim.Quantity(requests["cpu"])
		must(err)
		memory, err := sim.Quantity(requests["memory"])
		must(err)
		exclusive := sim.Field(object, "spec", "template", "spec", "affinity", "podAntiAffinity") != nil
		l.spec[name] = func() *sim.Pod {
			return &sim.Pod{Name: fmt.Sprintf("%s-%d", name, len(l.groups[name])), Group: name, CPU: int64(math.Round(cpu * 1000)), MemoryMiB: int64(memory / (1 << 20)), Exclusive: exclusive}
		}
		l.scale(name, int(replicas))
	}
	for name, n := range step.Scale {
		l.scale(name, n)
	}
	if step.Patch != nil {
		kind, name, _ := strings.Cut(step.Patch.Object, "/")
		if kind != "nodepool" {
			t.Fatalf("step %s: patches %s", step.Name, kind)
		}
		merge := map[string]any{}
		must(json.Unmarshal(step.Patch.Merge, &merge))
		object := sim.Copy(l.Pool(name).Object)
		mergeInto(object, merge)
		must(l.Apply(object))
	}
	if kind, name, ok := strings.Cut(step.Delete, "/"); ok {
		must(l.Delete(map[string]string{"nodepool": "NodePool", "nodeoverlay": "NodeOverlay"}[kind], name))
	}
}

// mergeInto is a JSON merge patch.
func mergeInto(object, merge map[string]any) {
	for key, value := range merge {
		switch value := value.(type) {
		case nil:
			delete(object, key)
		case map[string]any:
			below, ok := object[key].(map[string]any)
			if !ok {
				below = map[string]any{}
				object[key] = below
			}
			mergeInto(below, value)
		default:
			object[key] = value
		}
	}
}

func (l *live) scale(name string, n int) {
	for len(l.groups[name]) < n {
		p := l.spec[name]()
		l.groups[name] = append(l.groups[name], p)
		l.Add(p)
	}
	if len(l.groups[name]) > n {
		l.Remove(l.groups[name][n:]...)
		l.groups[name] = l.groups[name][:n]
	}
}

// untilThen plays a scenario that nobody has recorded yet: what it waits for has to come.
func (l *live) untilThen(t *testing.T, s karpenter.Scenario) {
	t.Helper()
	for _, step := range s.Steps {
		l.do(t, step)
		if step.Until != nil {
			within, err := time.ParseDuration(step.Until.Within)
			if err != nil {
				t.Fatal(err)
			}
			deadline := l.Now.Add(within)
			for !l.met(step.Until) {
				if l.Now.After(deadline) {
					t.Fatalf("step %s: not within %s: nodes %v, pods %v; there are %v", step.Name, within, step.Until.Nodes, step.Until.Pods, l.counts())
				}
				l.Step()
			}
		}
		if step.Hold != "" {
			hold, err := time.ParseDuration(step.Hold)
			if err != nil {
				t.Fatal(err)
			}
			for end := l.Now.Add(hold); l.Now.Before(end); {
				l.Step()
			}
			if step.Until != nil && !l.met(step.Until) {
				t.Errorf("step %s: what had come did not stay: nodes %v, pods %v; there are %v", step.Name, step.Until.Nodes, step.Until.Pods, l.counts())
			}
		}
	}
}

func (l *live) counts() map[string]int {
	all := map[string]int{}
	for _, n := range l.Nodes {
		all[n.Pool]++
	}
	return all
}

func (l *live) met(u *karpenter.Until) bool {
	counts := l.counts()
	for pool, want := range u.Nodes {
		if counts[pool] != want {
			return false
		}
	}
	for _, n := range l.Nodes {
		if _, named := u.Nodes[n.Pool]; named && (n.Deleting != "" || n.Ready.After(l.Now)) {
			return false
		}
	}
	if u.Pods == nil {
		return true
	}
	running := map[string]int{}
	for _, p := range l.Pods {
		if p.Node == nil || p.Node.Ready.After(l.Now) {
			return false
		}
		running[p.Node.Pool]++
	}
	return fmt.Sprint(running) == fmt.Sprint(u.Pods)
}

// A moment is a node that came or went.
type moment struct {
	at                       time.Duration
	verb, pool, capacityType string
	instanceType             string
}

func (m moment) kind() string {
	return m.verb + " " + m.pool + " " + m.capacityType + " " + m.instanceType
}

func moments(all []moment) string {
	var b strings.Builder
	for _, m := range all {
		fmt.Fprintf(&b, "  %6.1f s  %s\n", m.at.Seconds(), m.kind())
	}
	return b.String()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// asRecorded does each step when it was done, and says what came of it.
func (l *live) asRecorded(t *testing.T, s karpenter.Scenario) []moment {
	t.Helper()
	for i, step := range s.Steps {
		for l.Now.Sub(l.began) < seconds(s.Observed.Steps[i].Began) {
			l.Step()
		}
		l.do(t, step)
	}
	for l.Now.Sub(l.began) < seconds(s.Observed.Steps[len(s.Steps)-1].Ended) {
		l.Step()
	}
	var all []moment
	for _, e := range l.Events {
		if e.Verb == sim.Created || e.Verb == sim.Deleting {
			all = append(all, moment{e.At.Sub(l.began), e.Verb, e.Pool, e.CapacityType, e.Type})
		}
	}
	return all
}

func (l *live) mostDeleting() map[string]int {
	now, most := map[string]int{}, map[string]int{}
	for _, e := range l.Events {
		switch e.Verb {
		case sim.Deleting:
			now[e.Pool]++
			most[e.Pool] = max(most[e.Pool], now[e.Pool])
		case sim.Deleted:
			now[e.Pool]--
		}
	}
	return most
}

func recorded(o *karpenter.Observed) []moment {
	var all []moment
	for _, n := range o.Nodes {
		all = append(all, moment{seconds(n.Created), sim.Created, n.Pool, n.CapacityType, n.Type})
		if n.Deleting != nil {
			all = append(all, moment{seconds(*n.Deleting), sim.Deleting, n.Pool, n.CapacityType, n.Type})
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int { return int(a.at - b.at) })
	return all
}

// differ says where two sequences part: the nth of a kind belongs to the nth of that kind.
func differ(got, want []moment, steps []karpenter.StepTime) string {
	byKind := func(all []moment) map[string][]int {
		kinds := map[string][]int{}
		for i, m := range all {
			kinds[m.kind()] = append(kinds[m.kind()], i)
		}
		return kinds
	}
	mine, theirs := byKind(got), byKind(want)
	for kind, list := range mine {
		if len(list) != len(theirs[kind]) {
			return fmt.Sprintf("%s: %d times, recorded %d times", kind, len(list), len(theirs[kind]))
		}
	}
	partner := make([]time.Duration, len(want)) // when the same came in the simulation
	for kind, list := range theirs {
		if len(mine[kind]) != len(list) {
			return fmt.Sprintf("%s: %d times, recorded %d times", kind, len(mine[kind]), len(list))
		}
		for n, i := range list {
			partner[i] = got[mine[kind][n]].at
		}
	}
	for i, m := range want {
		before := 0
		for _, other := range want[:i] {
			if stepOf(other.at, steps) == stepOf(m.at, steps) && other.verb == sim.Deleting && m.at-other.at > liveSlot {
				before++
			}
		}
		if off := (partner[i] - m.at).Abs(); off > liveTolerance+time.Duration(before)*liveEach {
			return fmt.Sprintf("%s at %.1f s came %.1f s off", m.kind(), m.at.Seconds(), off.Seconds())
		}
		for j := range i {
			if m.at-want[j].at > liveSlot && partner[j] > partner[i] {
				return fmt.Sprintf("%s at %.1f s came after %s at %.1f s", want[j].kind(), want[j].at.Seconds(), m.kind(), m.at.Seconds())
			}
		}
	}
	return ""
}

func stepOf(at time.Duration, steps []karpenter.StepTime) int {
	n := 0
	for i, s := range steps {
		if at >= seconds(s.Began) {
			n = i
		}
	}
	return n
}
