package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// memorySchema is of Memory. Of another one nothing is taken over: gates start anew, which holds everything for a while and harms nothing.
const memorySchema = 1

// planner is one run. Nothing of it outlives Make.
type planner struct {
	in       Input
	cfg      Config
	mem      Memory
	market   *market
	unit     map[string]*unitState
	pools    map[string]*Pool
	nodes    map[string][]*Node // by pool
	shapes   []shape
	bases    []*base // by name
	notes    []string
	why      map[string][]string
	steps    []step
	findings map[string]nopsapi.KarpenterFinding
	weights  map[int]string // who has it, or will have
	holding  string
	names    map[string]bool
}

// base is a NodePool of the user's that is managed.
type base struct {
	*Pool
	original  []any // requirements as the user wrote them, whatever was narrowed since
	narrowed  []any // what we made of them in place, nil: nothing
	effective offering.Effective
	spot      offering.Set
	siblings  []*Pool
	prefer    *want // the spot sibling
	undecided bool  // nothing is known that a spot sibling could be decided by
	committed []*want
}

// want is a sibling that there should be.
type want struct {
	purpose               string
	list                  []any // requirements
	set                   offering.Set
	ids                   []string
	key                   string // of a commitment's scope
	target                float64
	lease                 float64
	most                  float64 // vCPU that there are, without headroom
	frozen                bool    // it must not grow: a lease ran out
	held                  bool    // nothing is known: its limit stays
	byGate                bool    // it changes because a gate turned
	reason                string
	families              []string // left out
	zones                 []string
	current               *Pool // what there is of it
	fate                  fate
	keepWeight, newWeight int
	noWeight              string
}

// step is one or several actions that are carried out all or none.
type step struct {
	rank      int
	actions   []Action
	waiting   string
	flip      string // base whose choice this changes because of a gate
	otherwise []step // if it has to wait
}

// Make decides. It changes nothing that it is given.
func Make(in Input) Plan {
	if err := in.Config.Validate(); err != nil {
		return Plan{Actions: []Action{}, Findings: []nopsapi.KarpenterFinding{}, Why: map[string][]string{}, Holding: "the configuration cannot be: " + strings.ReplaceAll(err.Error(), "\n", "; "), Memory: clone(in.Memory)}
	}
	p := decide(in)
	plan := Plan{Actions: p.schedule(), Findings: []nopsapi.KarpenterFinding{}, Why: p.why, Holding: p.holding, Memory: p.mem}
	for _, id := range slices.Sorted(maps.Keys(p.findings)) {
		plan.Findings = append(plan.Findings, p.findings[id])
	}
	return plan
}

// decide is all but what may be carried out now.
func decide(in Input) *planner {
	p := &planner{
		in: in, cfg: in.Config.WithDefaults(), mem: clone(in.Memory), unit: map[string]*unitState{}, pools: map[string]*Pool{}, nodes: map[string][]*Node{},
		why: map[string][]string{}, findings: map[string]nopsapi.KarpenterFinding{}, weights: map[int]string{}, names: map[string]bool{},
	}
	p.arrange()
	p.holding = p.admit()
	p.age()
	p.readMarket()
	p.findBases()
	if p.market != nil {
		p.measureShapes()
		p.smooth()
		p.unit = p.units()
		p.turnGates()
	}
	p.fade()
	for _, b := range p.bases {
		p.preferSpot(b)
	}
	p.shareCommitments()
	for _, b := range p.bases {
		p.settle(b)
	}
	p.orphans()
	p.inspect()
	return p
}

func clone(m Memory) Memory {
	if m.Schema != memorySchema {
		m = Memory{}
	}
	c := Memory{Schema: memorySchema, Series: map[string]Series{}, Gates: map[string]Gate{}, Flips: map[string][]int64{}, Writes: slices.Clone(m.Writes)}
	maps.Copy(c.Series, m.Series) // the slices inside are never written to
	maps.Copy(c.Gates, m.Gates)
	maps.Copy(c.Flips, m.Flips)
	return c
}

// arrange sorts what came, so that its order is nothing, and makes the indexes.
func (p *planner) arrange() {
	p.in.Pools = slices.Clone(p.in.Pools)
	slices.SortStableFunc(p.in.Pools, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	for i := range p.in.Pools {
		pool := &p.in.Pools[i]
		if pool.Name == "" || p.pools[pool.Name] != nil {
			continue // names are unique in a cluster
		}
		pool.CPUUsed, pool.MemoryUsed = clean(pool.CPUUsed), clean(pool.MemoryUsed)
		if pool.Overlay != nil && pool.Overlay.Name == "" {
			pool.Overlay = nil // none of a cluster's: it could be neither changed nor deleted
		}
		p.pools[pool.Name], p.names[pool.Name] = pool, true
		if pool.Weight > 0 {
			p.weights[pool.Weight] = pool.Name
		}
	}
	p.in.Shapes = slices.Clone(p.in.Shapes)
	slices.SortStableFunc(p.in.Shapes, func(a, b Shape) int {
		return cmp.Or(cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.MemoryMiB, b.MemoryMiB), slices.Compare(a.Pools, b.Pools), strings.Compare(fmt.Sprint(a.Selector), fmt.Sprint(b.Selector)))
	})
	p.in.Nodes = slices.Clone(p.in.Nodes)
	slices.SortStableFunc(p.in.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for i := range p.in.Nodes {
		n := &p.in.Nodes[i]
		n.VCPU = clean(n.VCPU)
		p.nodes[n.Pool] = append(p.nodes[n.Pool], n)
	}
}

// admit refuses documents that no decision may rest on, and says what is held. Whoever calls has looked already: this is the second pair of eyes.
func (p *planner) admit() string {
	var hold []string
	look := func(what string, there bool, h nopsapi.FactHeader) bool {
		switch {
		case !there:
			hold = append(hold, "no "+what+" data is valid now")
		case h.SchemaVersion > nopsapi.KarpenterSchema:
			hold = append(hold, fmt.Sprintf("the %s data (number %d) is of schema %d, which this version does not know", what, h.Seq, h.SchemaVersion))
		case !h.ValidUntil.IsZero() && h.ValidUntil.Before(p.in.Now):
			hold = append(hold, fmt.Sprintf("the %s data (number %d) was valid until %s", what, h.Seq, stamp(h.ValidUntil)))
		default:
			return true
		}
		return false
	}
	if m := p.in.Market; m == nil {
		look("market", false, nopsapi.FactHeader{})
	} else if !look("market", true, m.FactHeader) {
		p.in.Market = nil
	}
	if c := p.in.Commitments; c == nil {
		look("commitment", false, nopsapi.FactHeader{})
	} else if !look("commitment", true, c.FactHeader) {
		p.in.Commitments = nil
	}
	if len(hold) < 2 {
		return "" // what the other one says is decided all the same; the lines of each pool say what is not
	}
	return strings.Join(hold, "; ")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func (p *planner) say(pool, line string, args ...any) {
	p.why[pool] = append(p.why[pool], fmt.Sprintf(line, args...))
}

// modeOf is how far may be gone at a pool; without one, anywhere.
func (p *planner) modeOf(pool *Pool) karpenstate.Mode {
	if pool == nil || pool.Mode == "" || !p.cfg.Mode.Includes(pool.Mode) {
		return p.cfg.Mode
	}
	return pool.Mode
}

// findBases looks at every pool and finds those that something may be done about, and whose siblings are whose.
func (p *planner) findBases() {
	for _, pool := range p.sortedPools() {
		b := &base{Pool: pool}
		switch {
		case pool.Owned:
			continue
		case pool.Static:
			p.say(pool.Name, "left alone: it is static (spec.replicas), and Karpenter takes neither weight nor cpu limits for it")
			continue
		case !pool.Managed && badWord(pool) != "":
			p.say(pool.Name, "left alone: its annotation %s is %q, and only \"true\" opts in", karpenstate.AnnotationManaged, badWord(pool))
			continue
		case !pool.Managed:
			p.say(pool.Name, "left alone: it is not opted in (annotation %s: \"true\", or %s: %s)", karpenstate.AnnotationManaged, karpenstate.AnnotationImported, karpenstate.ImportedByNops)
			continue
		case p.modeOf(pool) == karpenstate.ModeObserve:
			p.say(pool.Name, "observed: mode observe plans nothing")
		case !p.in.Karpenter.Writable:
			p.say(pool.Name, "observed: the cluster does not serve karpenter.sh/v1, and no other version is written")
		}
		for _, s := range p.sortedPools() {
			if s.Owned && s.Base == pool.Name && !copied(s) {
				b.siblings = append(b.siblings, s)
			}
		}
		p.inspectFamily(b)
		b.readOriginal()
		if p.market != nil {
			list, _ := offering.Decode(b.original)
			b.effective = p.market.cat.Effective(offering.Pool{Requirements: list, Labels: pool.Labels, Zones: pool.Zones})
			b.spot = b.effective.Set.And(p.market.cat.Where(offering.LabelCapacityType, nopsapi.CapacitySpot))
		}
		p.bases = append(p.bases, b)
	}
}

// badWord is what a pool says about being managed, where that is neither yes nor no.
func badWord(pool *Pool) string {
	word, _ := at(pool.Object, "metadata", "annotations", karpenstate.AnnotationManaged).(string)
	if word == "true" || word == "false" {
		return ""
	}
	return word
}

func (p *planner) sortedPools() []*Pool {
	all := make([]*Pool, 0, len(p.pools))
	for i := range p.in.Pools {
		if pool := &p.in.Pools[i]; p.pools[pool.Name] == pool {
			all = append(all, pool)
		}
	}
	return all
}

// plans says whether anything is planned about a base.
func (p *planner) plans(b *base) bool {
	return p.in.Karpenter.Writable && p.modeOf(b.Pool).Includes(karpenstate.ModeAdvise)
}

// Ranks of steps: what makes room or keeps a promise comes before what spends, so that an empty bucket stops the latter.
const (
	rankDrain = iota
	rankLower
	rankDelete
	rankFollow
	rankWeight
	rankEdit
	rankCreate
	rankRaise
	rankOverlay
	rankNarrow
)

func (p *planner) do(s step) {
	identify(s.actions)
	p.steps = append(p.steps, s)
}

func identify(actions []Action) {
	for i := range actions {
		a := &actions[i]
		a.ID = string(a.Kind) + "-" + digest(a.Kind, a.ObjectKind, a.Name, a.Object, a.Changes)
	}
}

// schedule orders the steps and says which have to wait, and for what.
func (p *planner) schedule() []Action {
	slices.SortStableFunc(p.steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.actions[0].Name, b.actions[0].Name), strings.Compare(a.actions[0].ID, b.actions[0].ID))
	})
	all, created, writes, flips := []Action{}, 0, len(p.mem.Writes), map[string]int{}
	for base, before := range p.mem.Flips {
		flips[base] = len(before)
	}
	for len(p.steps) > 0 {
		s := p.steps[0]
		p.steps = p.steps[1:]
		for _, a := range s.actions {
			if s.waiting == "" {
				s.waiting = p.waits(a)
			}
		}
		makes := slices.ContainsFunc(s.actions, func(a Action) bool { return a.Kind == CreateSibling })
		switch {
		case s.waiting != "":
		case makes && created >= p.cfg.SiblingsPerRun:
			s.waiting = fmt.Sprintf("one run makes no more than %s: the next one", counted(p.cfg.SiblingsPerRun, "NodePool"))
		case s.flip != "" && flips[s.flip] >= p.cfg.FlipsPerDay:
			s.waiting = fmt.Sprintf("the choice for %s was changed %s in the last 24 h, and more often it may not be", s.flip, counted(flips[s.flip], "time"))
		case s.rank > rankDelete && writes+len(s.actions) > p.cfg.WritesPerHour:
			s.waiting = fmt.Sprintf("rate limit: of %d writes an hour %d are used", p.cfg.WritesPerHour, writes)
		default:
			writes += len(s.actions)
			if s.flip != "" {
				flips[s.flip]++
				s.actions[len(s.actions)-1].Flip = s.flip // of a handover what is made: to close the old one alone changes no choice
			}
			if makes {
				created++
			}
		}
		for _, a := range s.actions {
			a.back = s.rank <= rankDelete
			if a.Waiting = s.waiting; a.Waiting != "" {
				p.say(cmp.Or(a.Base, a.Name), "%s %s waits: %s", a.Kind, a.Name, a.Waiting)
			} else {
				p.say(cmp.Or(a.Base, a.Name), "%s %s: %s", a.Kind, a.Name, a.Reason)
			}
			all = append(all, a)
		}
		if s.waiting != "" {
			for i := range s.otherwise {
				identify(s.otherwise[i].actions)
			}
			p.steps = append(s.otherwise, p.steps...)
		}
	}
	return all
}

// waits says why an action is not to be carried out now, whatever else there is.
func (p *planner) waits(a Action) string {
	needs := karpenstate.ModeSiblings
	switch a.Kind {
	case CreateOverlay, SetOverlay, DeleteOverlay:
		needs = karpenstate.ModeOverlays
		if a.Kind == DeleteOverlay || neutralises(a) {
			needs = karpenstate.ModeSiblings // it goes with its sibling, and to take a discount back is no more than that
		}
	case Narrow, Restore:
		needs = karpenstate.ModeInPlace
	}
	mode := p.modeOf(p.pools[a.Base])
	if !mode.Includes(needs) && p.cfg.Mode.Includes(needs) { // the NodePool's own word, which no approval overrules
		return fmt.Sprintf("mode %s: it takes mode %s in the annotation %s of NodePool %s", mode, needs, karpenstate.AnnotationMode, a.Base)
	}
	if !mode.Includes(needs) {
		return fmt.Sprintf("mode %s: it takes mode %s, or a person's approval", mode, needs)
	}
	for _, name := range []string{a.Base, a.Name} {
		if pool := p.pools[name]; pool != nil && pool.Paused != "" {
			return fmt.Sprintf("NodePool %s: %s", name, pool.Paused)
		}
	}
	return ""
}
