package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// How a sibling changes
//
// Its nodes carry the labels that its requirements had when they were launched, so a changed choice is one of three, by what offering.Drift says:
//
// Nothing that a running node minds: widening, and leaving out a family that it has no node of. The requirements are edited where they are.
//
// Something that a running node would not fit any more. Karpenter would replace the node, although it works: the choice is about where the next
// nodes come from, not about those that are there. So a new sibling is made and the old one closed: its limit becomes 0, it launches nothing more,
// and its nodes go as consolidation, their expiry and scaling down take them. While too many closed ones still have nodes the next handover
// waits, and meanwhile the present sibling leaves out as much as none of its nodes minds.
//
// A template that the user changed in the base. There every node drifts by the user's own will; editing the sibling likewise would rotate both at
// once, each by its own budgets. It is handed over as above.
//
// A sibling that may launch what its base may not any more is closed at once, whether or not there is another one.
//
// Closing is not draining. Drained, with its nodes replaced as the budgets allow, is a sibling whose base is gone, is static or is not opted in
// any more: the user has taken back the word by which it is there. While a base is paused nothing is done to its siblings either.

const (
	spotPurpose       = karpenstate.PurposeSpot
	commitmentPurpose = karpenstate.PurposeCommitment
	maxName           = 63
	maxWeight         = 100
	maxClosed         = 3       // closed siblings of a base and purpose that still have nodes, before a handover waits
	perVCPU           = 8 << 30 // bytes that a vCPU of a commitment's sibling may bring along: the most of the general families
	roomToGrow        = 2.0     // times the base's vCPU now: the limit of a sibling whose base has none
	roomLeft          = 1.5     // times; below that it is raised
	leastRoom         = 64.0    // vCPU
)

// closed says whether a sibling launches nothing any more.
func closed(s *Pool) bool { return s.CPULimit != nil && *s.CPULimit <= 0 }

// empty says whether a sibling may be deleted: Karpenter deletes what nodes it has at once, whatever the budgets.
func (p *planner) empty(s *Pool) bool { return s.Nodes == 0 && len(p.nodes[s.Name]) == 0 }

// listOf are a pool's requirements as its object has them.
func listOf(pool *Pool) []any {
	if list, ok := at(pool.Object, "spec", "template", "spec", "requirements").([]any); ok {
		return list
	}
	return offering.Encode(pool.Requirements)
}

// drift is which nodes of a pool would drift under a list.
func (p *planner) drift(pool *Pool, list []any) []string {
	requirements, err := offering.Decode(list)
	if err != nil {
		return p.nodeNames(pool)
	}
	nodes := make([]offering.Node, 0, len(p.nodes[pool.Name]))
	for _, n := range p.nodes[pool.Name] {
		nodes = append(nodes, offering.Node{Name: n.Name, Labels: n.Labels})
	}
	var drifted []string
	for _, d := range offering.Drift(offering.Compile(requirements), nodes) {
		drifted = append(drifted, d.Node)
	}
	return drifted
}

func (p *planner) nodeNames(pool *Pool) []string {
	var all []string
	for _, n := range p.nodes[pool.Name] {
		all = append(all, n.Name)
	}
	return all
}

// stale says in what a sibling's template is not its base's, "" if it is.
func stale(b *base, s *Pool) string {
	if changes := offering.StaticDrift(s.Object, b.Object); len(changes) > 0 {
		return changes[0].String()
	}
	return ""
}

// launches is what a list would launch with the rest of a base.
func (p *planner) launches(b *base, list []any) offering.Effective {
	requirements, _ := offering.Decode(list)
	return p.market.cat.Effective(offering.Pool{Requirements: requirements, Labels: b.Labels, Zones: b.Zones})
}

// outside says whether a sibling may launch what its base may not.
func (p *planner) outside(b *base, s *Pool) bool {
	return p.market != nil && !p.launches(b, listOf(s)).Set.Within(b.effective.Set)
}

// sound is the last look at a list of requirements before it is planned: something can be launched by it, and nothing that the base may not.
func (p *planner) sound(b *base, list []any) bool {
	if p.market == nil {
		return false
	}
	e := p.launches(b, list)
	return e.Launches() && e.Set.Within(b.effective.Set)
}

// fate is how a wanted sibling stands to what is there.
type fate int

const (
	missing fate = iota
	exact
	editable   // only its requirements differ, and no node minds
	superseded // a new one has to take its place
)

// match finds the sibling that is to be the wanted one.
func (p *planner) match(b *base, list []any, siblings []*Pool) (*Pool, fate) {
	siblings = slices.Clone(siblings)
	slices.SortStableFunc(siblings, func(x, y *Pool) int { return boolean(closed(x)) - boolean(closed(y)) })
	for _, s := range siblings {
		if stale(b, s) == "" && same(listOf(s), list) {
			return s, exact
		}
	}
	for _, s := range siblings {
		if !closed(s) && stale(b, s) == "" && len(p.drift(s, list)) == 0 {
			return s, editable
		}
	}
	for _, s := range siblings {
		if !closed(s) {
			return s, superseded
		}
	}
	return nil, missing
}

// used is how much of a resource a pool has in its nodes.
func used(pool *Pool, name string) float64 {
	switch name {
	case resourceCPU:
		return pool.CPUUsed
	case resourceMemory:
		return pool.MemoryUsed
	}
	v, _ := amount(at(pool.Object, "status", "resources", name))
	return v
}

// limit is a pool's limit of a resource.
func limit(pool *Pool, name string) (float64, bool) {
	switch {
	case name == resourceCPU && pool.CPULimit != nil:
		return *pool.CPULimit, true
	case name == resourceMemory && pool.MemoryLimit != nil:
		return *pool.MemoryLimit, true
	}
	v := at(pool.Object, "spec", "limits", name)
	if v == nil {
		return 0, false
	}
	f, ok := amount(v)
	return f, ok
}

// room is what the user's limits of a base leave for siblings: the limits less what the base and its closed siblings have now. Karpenter
// counts each NodePool by itself, so the base may still grow to its own limit while the siblings are full; each run then lowers theirs again.
type room map[string]float64

func roomOf(b *base) room {
	r, names := room{}, []string{resourceCPU, resourceMemory}
	limits, _ := at(b.Object, "spec", "limits").(map[string]any)
	for _, name := range append(names, slices.Collect(maps.Keys(limits))...) {
		if v, ok := limit(b.Pool, name); ok {
			r[name] = v - used(b.Pool, name)
		}
	}
	return r
}

func (r room) takeUse(s *Pool) {
	for name := range r {
		r[name] -= used(s, name)
	}
}

// take takes a sibling's limits, or what it has already where that is more.
func (r room) take(limits map[string]float64, s *Pool) {
	for name := range r {
		v := limits[name]
		if s != nil {
			v = max(v, used(s, name))
		}
		r[name] -= v
	}
}

// limits are what a sibling's limits should be, given what room there is. There is always one of cpu: what runs away must stop somewhere.
func (p *planner) limits(b *base, w *want, current *Pool, r room) map[string]float64 {
	l := map[string]float64{}
	for name, left := range r {
		l[name] = round(name, left)
	}
	if w.purpose == commitmentPurpose {
		cpu := round(resourceCPU, p.ramp(w, current))
		if left, limited := l[resourceCPU]; limited {
			cpu = min(cpu, left)
		}
		for name, left := range l {
			switch name {
			case resourceMemory:
				l[name] = min(left, cpu*perVCPU)
			default:
				l[name] = round(name, left/2) // the rest is the spot sibling's
			}
		}
		l[resourceCPU] = cpu
	} else if _, limited := l[resourceCPU]; !limited {
		total := b.CPUUsed
		for _, s := range b.siblings {
			total += s.CPUUsed
		}
		l[resourceCPU] = math.Ceil(max(leastRoom, total*roomToGrow))
		if current != nil {
			if have, ok := limit(current, resourceCPU); ok && have >= max(leastRoom, total*roomLeft) {
				l[resourceCPU] = have
			}
		}
	}
	if current == nil {
		return l
	}
	for name, v := range l {
		have, ok := limit(current, name)
		if name == resourceCPU && w.purpose == commitmentPurpose {
			continue // ramp has a dead band of its own
		}
		if ok && have > 0 && v > have && v-have < p.band(current, name, have) {
			l[name] = have
		}
	}
	return l
}

// band is how much a limit has to be off before it is raised: less than a node of it has would change nothing.
func (p *planner) band(s *Pool, name string, have float64) float64 {
	band := p.cfg.DeadBand * have
	if name == resourceCPU {
		for _, n := range p.nodes[s.Name] {
			band = max(band, n.VCPU)
		}
	}
	return band
}

// settle turns what is wanted beside a base into steps.
func (p *planner) settle(b *base) {
	if !p.plans(b) {
		return
	}
	var spot []*Pool
	for _, s := range b.siblings {
		if s.Purpose == spotPurpose {
			spot = append(spot, s)
		}
	}
	if b.undecided && b.prefer == nil {
		for _, s := range spot {
			if !closed(s) {
				b.prefer = &want{purpose: spotPurpose, list: listOf(s), current: s, fate: exact, reason: "as it is"}
				break
			}
		}
	} else if b.prefer != nil && b.narrowed == nil {
		b.prefer.current, b.prefer.fate = p.match(b, b.prefer.list, spot)
	}
	inPlace := p.inPlace(b)
	wants := slices.Clone(b.committed)
	if b.prefer != nil && !inPlace {
		wants = append(wants, b.prefer)
	}
	r, kept := roomOf(b), map[*Pool]bool{}
	for _, w := range wants {
		kept[w.current] = true
	}
	for _, s := range b.siblings {
		switch {
		case kept[s]:
		case s.Purpose != spotPurpose && s.Purpose != commitmentPurpose:
			r.take(map[string]float64{}, s)
			p.say(b.Name, "%s is left alone: its purpose %q is not one that this version knows", s.Name, s.Purpose)
		default:
			r.takeUse(s)
			p.leave(b, s, "nothing asks for it any more")
		}
	}
	for _, w := range slices.Backward(wants) { // spot comes before commitments in weight,
		p.weigh(b, w)
	}
	for _, w := range wants { // and after them in what room there is
		p.realize(b, w, r)
	}
}

// realize makes one wanted sibling be.
func (p *planner) realize(b *base, w *want, r room) {
	if w.current != nil && w.fate != superseded {
		p.keep(b, w, w.current, w.list, r)
		return
	}
	var handover []Action
	outside, left := false, maps.Clone(r)
	if old := w.current; old != nil {
		outside = p.outside(b, old)
		left.takeUse(old)
		handover = append(handover, p.closing(b, old, "another sibling takes its place"))
	}
	limits := p.limits(b, w, nil, left)
	if w.current != nil && w.purpose == commitmentPurpose {
		limits[resourceCPU] = round(resourceCPU, min(limits[resourceCPU], max(0, w.lease-used(w.current, resourceCPU))))
	}
	o, blocked := p.object(b, w, limits)
	if blocked == "" && w.current != nil {
		if n := p.closedWithNodes(b, w); n >= maxClosed {
			blocked = fmt.Sprintf("%s before it still have nodes", counted(n, "sibling"))
		}
	}
	old := func() []step { // what is done about the present one where no other takes its place now
		switch {
		case w.current == nil:
			return nil
		case outside:
			a := p.closing(b, w.current, fmt.Sprintf("it may launch what NodePool %s may not any more", b.Name))
			return []step{{rank: rankDrain, actions: []Action{a}}}
		}
		return p.keeping(b, w, w.current, p.partly(b, w), maps.Clone(r))
	}
	if blocked != "" {
		p.say(b.Name, "%s: no new sibling: %s", w.purpose, blocked)
		for _, s := range old() {
			p.do(s)
		}
		if w.current != nil {
			r.take(p.limits(b, w, w.current, r), w.current)
		}
		return
	}
	s := step{rank: rankCreate, otherwise: old(), actions: handover}
	s.actions = append(s.actions, Action{Kind: CreateSibling, ObjectKind: "NodePool", Name: nameOf(o), Base: b.Name, Object: o, Reason: w.reason})
	if w.purpose == spotPurpose && w.byGate && w.current != nil && !outside {
		s.flip = b.Name
	}
	p.names[nameOf(o)] = true
	p.do(s)
	r.takeUse(cmp.Or(w.current, &Pool{}))
	r.take(limits, nil)
}

func nameOf(o map[string]any) string {
	name, _ := at(o, "metadata", "name").(string)
	return name
}

// closedWithNodes are how many closed siblings of a purpose still have nodes.
func (p *planner) closedWithNodes(b *base, w *want) int {
	n := 0
	for _, s := range b.siblings {
		if s != w.current && s.Purpose == w.purpose && !p.empty(s) && (w.purpose == spotPurpose || slices.ContainsFunc(w.ids, func(id string) bool { return slices.Contains(s.Commitments, id) })) {
			n++
		}
	}
	return n
}

// partly is what of a choice none of the present nodes minds.
func (p *planner) partly(b *base, w *want) []any {
	now := listOf(w.current)
	if w.purpose != spotPurpose || p.market == nil || stale(b, w.current) != "" {
		return now
	}
	without := func(gone []string, label string) []string {
		return slices.DeleteFunc(slices.Clone(gone), func(value string) bool {
			return slices.ContainsFunc(p.nodes[w.current.Name], func(n *Node) bool { return n.Labels[label] == value })
		})
	}
	list, _, err := offering.Narrow(b.original, edits(p.market.unit, without(w.families, p.market.unit), without(w.zones, offering.LabelZone))...)
	if err != nil || len(p.drift(w.current, list)) > 0 || !p.sound(b, list) {
		return now
	}
	return list
}

// keep plans what a sibling that stays needs, and takes its room.
func (p *planner) keep(b *base, w *want, s *Pool, list []any, r room) {
	for _, step := range p.keeping(b, w, s, list, r) {
		p.do(step)
	}
	limits := p.limits(b, w, s, r)
	r.take(limits, s)
	lim, _ := limit(s, resourceCPU)
	p.say(b.Name, "%s: %s is there: weight %d before %d of its base, limit %s, %s in %s", w.purpose, s.Name, s.Weight, b.Weight, human(resourceCPU, lim), human(resourceCPU, s.CPUUsed), counted(max(s.Nodes, len(p.nodes[s.Name])), "node"))
	if w.purpose == commitmentPurpose && !w.held {
		p.cheapen(b, s, w, limits[resourceCPU])
	}
}

func (p *planner) keeping(b *base, w *want, s *Pool, list []any, r room) []step {
	var steps []step
	add := func(rank int, kind ActionKind, reason string, changes ...Change) *step {
		steps = append(steps, step{rank: rank, actions: []Action{{Kind: kind, ObjectKind: "NodePool", Name: s.Name, Base: b.Name, Changes: changes, Reason: reason}}})
		return &steps[len(steps)-1]
	}
	limits := p.limits(b, w, s, r)
	if changes, words, lower := limitChanges(s, limits); len(changes) > 0 {
		rank, why := rankRaise, w.reason
		if lower {
			rank = rankLower
		}
		if w.purpose == spotPurpose {
			why = fmt.Sprintf("what the limits of NodePool %s leave", b.Name)
		}
		if ids := strings.Join(w.ids, ","); w.purpose == commitmentPurpose && len(w.ids) > 0 && ids != strings.Join(s.Commitments, ",") {
			path := "/metadata/annotations/" + strings.ReplaceAll(karpenstate.AnnotationCommitment, "/", "~1")
			changes = append(changes, Change{Path: path, Before: at(s.Object, "metadata", "annotations", karpenstate.AnnotationCommitment), After: ids})
		}
		add(rank, SetLimits, words+": "+why, changes...)
	}
	if w.keepWeight != s.Weight && w.keepWeight > 0 {
		add(rankWeight, SetWeight, fmt.Sprintf("it has to come before NodePool %s and to share its weight with none", b.Name), Change{Path: "/spec/weight", Before: at(s.Object, "spec", "weight"), After: int64(w.keepWeight)})
	}
	if have := listOf(s); !same(have, list) && !closed(s) {
		if p.sound(b, list) {
			a, _ := offering.Decode(have)
			z, _ := offering.Decode(list)
			st := add(rankEdit, SetRequirements, strings.Join(offering.Diff(a, z), "; ")+", which none of its nodes minds", Change{Path: "/spec/template/spec/requirements", Before: have, After: copyOf(list)})
			if w.purpose == spotPurpose && w.byGate && !p.outside(b, s) {
				st.flip = b.Name
			}
		} else if p.market != nil {
			p.say(b.Name, "%s: the requirements of %s stay: the wanted ones could launch nothing, or more than its base", w.purpose, s.Name)
		}
	}
	if st := p.follow(b, s); st != nil {
		steps = append(steps, *st)
	}
	return steps
}

// follow keeps the disruption settings of a sibling those of its base: a budget that the user closes is closed for both.
func (p *planner) follow(b *base, s *Pool) *step {
	before, after := at(s.Object, "spec", "disruption"), at(b.Object, "spec", "disruption")
	if same(before, after) || after == nil {
		return nil
	}
	return &step{rank: rankFollow, actions: []Action{{
		Kind: SetDisruption, ObjectKind: "NodePool", Name: s.Name, Base: b.Name, Reason: "NodePool " + b.Name + " has other disruption settings now",
		Changes: []Change{{Path: "/spec/disruption", Before: before, After: copyOf(after)}},
	}}}
}

// limitChanges are what has to be written so that a sibling has these limits, in words too, and whether one falls.
func limitChanges(s *Pool, limits map[string]float64) (changes []Change, words string, lower bool) {
	have, _ := at(s.Object, "spec", "limits").(map[string]any)
	whole, say := false, []string{}
	after := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		is, ok := limit(s, name)
		after[name] = have[name]
		if ok && is == limits[name] && have[name] != nil {
			continue
		}
		after[name] = quantity(name, limits[name])
		lower = lower || !ok || limits[name] < is
		was := "none"
		if ok {
			was = human(name, is)
		}
		say = append(say, fmt.Sprintf("limit from %s to %s", was, human(name, limits[name])))
		changes = append(changes, Change{Path: "/spec/limits/" + name, Before: have[name], After: after[name]})
		whole = whole || name != resourceCPU && name != resourceMemory
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, wanted := limits[name]; !wanted {
			say = append(say, "no limit of "+name)
			changes = append(changes, Change{Path: "/spec/limits/" + name, Before: have[name]})
			whole = whole || name != resourceMemory
		}
	}
	if whole || have == nil && len(changes) > 0 {
		var before any
		if have != nil {
			before = copyOf(have)
		}
		changes = []Change{{Path: "/spec/limits", Before: before, After: after}}
	}
	return changes, strings.Join(say, ", "), lower
}

// closing is the action that closes a sibling.
func (p *planner) closing(b *base, s *Pool, why string) Action {
	return Action{Kind: SetLimits, ObjectKind: "NodePool", Name: s.Name, Base: b.Name, Changes: zeroCPU(s), Reason: fmt.Sprintf("limit to 0: %s; what nodes it has (%d) stay until they are not needed", why, s.Nodes)}
}

func zeroCPU(s *Pool) []Change {
	return []Change{{Path: "/spec/limits/cpu", Before: at(s.Object, "spec", "limits", resourceCPU), After: "0"}}
}

// leave closes a sibling that nothing asks for, and deletes it when it has no nodes.
func (p *planner) leave(b *base, s *Pool, why string) {
	switch {
	case !closed(s):
		p.do(step{rank: rankDrain, actions: []Action{p.closing(b, s, why)}})
	case p.empty(s):
		p.remove(b.Name, s)
	default:
		p.say(b.Name, "%s: %s is closed and has %s left", s.Purpose, s.Name, counted(max(s.Nodes, len(p.nodes[s.Name])), "node"))
	}
	if p.empty(s) {
		return
	}
	if st := p.follow(b, s); st != nil {
		p.do(*st)
	}
	if s.Overlay != nil && closed(s) {
		p.do(step{rank: rankOverlay, actions: []Action{{Kind: DeleteOverlay, ObjectKind: "NodeOverlay", Name: s.Overlay.Name, Base: b.Name, Reason: s.Name + " is closed: at the discount its nodes would stay for ever"}}})
	}
}

func (p *planner) remove(base string, s *Pool) {
	st := step{rank: rankDelete, actions: []Action{{Kind: DeleteSibling, ObjectKind: "NodePool", Name: s.Name, Base: base, Reason: "it is closed and has no nodes"}}}
	if s.Overlay != nil {
		st.actions = append(st.actions, Action{Kind: DeleteOverlay, ObjectKind: "NodeOverlay", Name: s.Overlay.Name, Base: base, Reason: "it goes with its NodePool"})
	}
	p.do(st)
}

// orphans drains siblings whose base is not there for them any more.
func (p *planner) orphans() {
	if !p.in.Karpenter.Writable {
		return
	}
	for _, s := range p.sortedPools() {
		if !s.Owned {
			continue
		}
		var why string
		b := p.pools[s.Base]
		switch {
		case copied(s):
			p.find("copy-of-sibling", "NodePool/"+s.Name, "", fmt.Sprintf("it has the label %s and was not made by karpenops: a copy of a sibling, probably. It is left alone, and launches nodes as it says; take the label away, or delete it", karpenstate.LabelOwned), nil, 0)
			p.say(s.Name, "left alone: it is a copy of a sibling")
			continue
		case s.Base == "":
			p.find("sibling-without-base", "NodePool/"+s.Name, "", fmt.Sprintf("it has the label %s and no annotation %s, so whose sibling it is cannot be told, and it is left alone", karpenstate.LabelOwned, karpenstate.AnnotationBase), nil, 0)
			p.say(s.Name, "left alone: it does not say of which NodePool it is a sibling")
			continue
		case b == nil:
			why = "its base " + s.Base + " is gone"
		case b.Owned:
			why = "its base " + s.Base + " is a sibling itself"
		case b.Static:
			why = "its base " + s.Base + " is static now"
		case !b.Managed:
			why = "its base " + s.Base + " is not opted in any more"
		default:
			p.say(s.Name, "a sibling of %s for %s: see there", s.Base, s.Purpose)
			continue
		}
		p.say(s.Name, "%s, so it is drained within its disruption budgets and then deleted", why)
		switch {
		case !closed(s) || !p.empty(s) && at(s.Object, "spec", "template", "metadata", "annotations", annotationDrain) == nil:
			p.do(step{rank: rankDrain, actions: []Action{{
				Kind: DrainSibling, ObjectKind: "NodePool", Name: s.Name, Base: s.Base, Changes: zeroCPU(s), Drift: p.nodeNames(s),
				Reason: why + ": its nodes are replaced as its disruption budgets allow",
			}}})
		case p.empty(s):
			p.remove(s.Base, s)
		}
	}
}

// annotationDrain is what makes the nodes of a drained sibling drift; whoever carries out DrainSibling puts it on the template.
const annotationDrain = "karpenops.nops.io/drain"

// object is the sibling as it would be made, or why it is not.
func (p *planner) object(b *base, w *want, limits map[string]float64) (map[string]any, string) {
	switch {
	case p.market == nil:
		return nil, "no market data is valid now"
	case !p.sound(b, w.list):
		return nil, "it could launch nothing, or what its base may not"
	case !b.Ready:
		return nil, "NodePool " + b.Name + " is not ready, and a sibling would be neither"
	case w.newWeight == 0:
		return nil, w.noWeight
	}
	smallest := math.Inf(1)
	for i := range w.set.All() {
		if v := p.market.cat.Type(i).VCPU; v > 0 {
			smallest = min(smallest, float64(v))
		}
	}
	if limits[resourceCPU] < smallest {
		return nil, fmt.Sprintf("there is room for %s, and the smallest instance has %s", human(resourceCPU, limits[resourceCPU]), human(resourceCPU, smallest))
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if limits[name] <= 0 {
			return nil, "there is no room for any " + name + " in the limits of NodePool " + b.Name
		}
	}
	spec := copyMap(at(b.Object, "spec"))
	template, _ := spec["template"].(map[string]any)
	inner, _ := at(template, "spec").(map[string]any)
	if inner == nil {
		return nil, "NodePool " + b.Name + " has no template"
	}
	inner["requirements"] = copyOf(w.list)
	delete(spec, "replicas")
	spec["weight"] = int64(w.newWeight)
	bounds := map[string]any{}
	for name, v := range limits {
		bounds[name] = quantity(name, v)
	}
	spec["limits"] = bounds
	name := scopedName(b.Name, w.purpose, w.key, template)
	if p.names[name] {
		return nil, "there is a NodePool " + name + " already"
	}
	labels, annotations := inherit(at(b.Object, "metadata", "labels")), inherit(at(b.Object, "metadata", "annotations"))
	labels[karpenstate.LabelOwned] = "true"
	annotations[karpenstate.AnnotationBase], annotations[karpenstate.AnnotationPurpose] = b.Name, w.purpose
	if len(w.ids) > 0 {
		annotations[karpenstate.AnnotationCommitment] = strings.Join(w.ids, ",")
	}
	return map[string]any{
		"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "spec": spec,
		"metadata": map[string]any{"name": name, "labels": labels, "annotations": annotations},
	}, ""
}

// scopedName is the name of a sibling that is made with this template, for a commitment's scope or, with no key, for spot.
func scopedName(base, purpose, key string, template any) string {
	return siblingName(base, purpose, digest(base, purpose, key, template))
}

// siblingName is unique by its hash and stays a label value, which Karpenter makes of a NodePool's name.
func siblingName(base, purpose, hash string) string {
	return siblingPrefix(base, purpose, len(hash)) + hash
}

// siblingPrefix is what the names of a base's siblings for a purpose begin with.
func siblingPrefix(base, purpose string, hash int) string {
	const most = maxName - len("nops---")
	if room := most - len(purpose) - hash; len(base) > room {
		base = strings.TrimRight(base[:room], "-.")
	}
	return fmt.Sprintf("nops-%s-%s-", base, purpose)
}

// copied says whether a NodePool says that it is a sibling and has a name that no sibling has: somebody copied one, labels and all.
func copied(pool *Pool) bool {
	return pool.Owned && pool.Base != "" && pool.Purpose != "" && !strings.HasPrefix(pool.Name, siblingPrefix(pool.Base, pool.Purpose, len(digest())))
}

// weigh finds the weights of a wanted sibling: the one that there is keeps its own while that is right, and a new one gets the next that is free
// above its base. A commitment's comes before a spot sibling's, for it is paid already. None comes before a NodePool of the user's that goes
// before the base and takes some of the same pods: that order is the user's.
func (p *planner) weigh(b *base, w *want) {
	above, below := b.Weight, p.ceiling(b)
	if w.purpose == commitmentPurpose && b.prefer != nil {
		above = max(above, b.prefer.keepWeight, b.prefer.newWeight)
	}
	free := func(from int, own *Pool) int {
		for n := max(from, 1); n < below && above < maxWeight; n++ {
			if who := p.weights[n]; who == "" || own != nil && who == own.Name && p.sole(n, own) {
				return n
			}
		}
		return 0
	}
	if s := w.current; s != nil {
		if s.Weight > above && s.Weight < below && p.sole(s.Weight, s) {
			w.keepWeight = s.Weight
		} else if n := free(above+1, nil); n > 0 {
			w.keepWeight = n
			p.weights[n] = s.Name
		} else {
			p.noWeight(b, w)
		}
	}
	if w.current != nil && w.fate != superseded {
		return
	}
	n := 0
	if w.purpose == commitmentPurpose && b.prefer == nil {
		n = free(above+2, nil) // so that a spot sibling will fit in between
	}
	if n == 0 {
		n = free(above+1, nil)
	}
	if n == 0 {
		p.noWeight(b, w)
		return
	}
	w.newWeight = n
	p.weights[n] = "of a sibling to be made"
}

func (p *planner) noWeight(b *base, w *want) {
	code := "weight-no-room"
	w.noWeight = fmt.Sprintf("no weight is free above %d, that of NodePool %s", b.Weight, b.Name)
	if below := p.ceiling(b); below <= maxWeight {
		w.noWeight += fmt.Sprintf(", and below %d, from which on NodePools of the user's go before it", below)
	}
	if b.Weight >= maxWeight {
		code, w.noWeight = "weight-ceiling", fmt.Sprintf("NodePool %s has the weight 100, and nothing can go before it", b.Name)
	}
	p.find(code, "NodePool/"+b.Name, "", w.noWeight+": no sibling can be preferred. Give it a lower weight.", nil, 0)
}

// sole says whether no other pool has this weight.
func (p *planner) sole(weight int, own *Pool) bool {
	for _, other := range p.pools {
		if other != own && other.Weight == weight {
			return false
		}
	}
	return p.weights[weight] == own.Name || p.weights[weight] == ""
}

// ceiling is the least weight of the user's NodePools that go before a base and take some of its pods; 101 if there are none.
func (p *planner) ceiling(b *base) int {
	least := maxWeight + 1
	for _, other := range p.pools {
		if !other.Owned && !other.Static && other.Weight > b.Weight && other.Weight < least && p.sharePods(b.Pool, other) {
			least = other.Weight
		}
	}
	return least
}

// sharePods says whether some pods may run in both, by their taints and labels; of no pods known, they may.
func (p *planner) sharePods(a, b *Pool) bool {
	if len(p.in.Shapes) == 0 {
		return true
	}
	return slices.ContainsFunc(p.in.Shapes, func(s Shape) bool {
		return s.Pools == nil || slices.Contains(s.Pools, a.Name) && slices.Contains(s.Pools, b.Name)
	})
}
