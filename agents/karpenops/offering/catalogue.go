package offering

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Catalogue is what can be bought: built once a market, then asked for each pool. It does not change and may be used from anywhere.
//
// It keeps a column a label, with the number of a value for each offering, so that a question costs a look at each value and then
// one at each offering.
type Catalogue struct {
	types     []Type
	offerings []Offering // by type, zone, capacity type
	typeOf    []int32    // of an offering
	first     []int32    // offering of a type; one more at the end
	columns   map[string]*column
	allocate  []allocatable    // of a type
	number    map[Offering]int // of an offering
}

// column is a label over all offerings. Value 0 is that the label is not there.
type column struct {
	values []string
	of     []uint32 // offering → value
}

type allocatable struct{ cpu, memoryMiB float64 }

// Set is a set of a catalogue's offerings. The zero value is empty. Sets of different catalogues have nothing to do with each other.
type Set struct{ words []uint64 }

// New makes a catalogue of the types that have an offering. zones tells the account's name of a zone by its ID, for pools that
// require IDs; nil: not known. What names no known type, or comes twice, is left out and said.
func New(types []Type, offerings []Offering, zones map[string]string) (*Catalogue, []string) {
	c := &Catalogue{columns: map[string]*column{}, number: map[Offering]int{}}
	var left []string
	known := map[string]*Type{}
	for i := range types {
		if t := &types[i]; known[t.Name] == nil {
			known[t.Name] = t
		} else {
			left = append(left, fmt.Sprintf("instance type %q comes twice: the first counts", t.Name))
		}
	}
	for _, o := range offerings {
		if known[o.Type] == nil {
			left = append(left, fmt.Sprintf("offering %s/%s/%s: the type is not described", o.Type, o.Zone, o.CapacityType))
			continue
		}
		c.offerings = append(c.offerings, o)
	}
	slices.SortFunc(c.offerings, func(a, b Offering) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Zone, b.Zone), strings.Compare(a.CapacityType, b.CapacityType))
	})
	c.offerings = slices.Compact(c.offerings)
	ids := map[string]string{}
	for id, name := range zones {
		ids[name] = id
	}
	c.typeOf = make([]int32, len(c.offerings))
	for i, o := range c.offerings {
		if i == 0 || c.offerings[i-1].Type != o.Type {
			t := *known[o.Type]
			t.Labels = labelsOf(t)
			c.types, c.first = append(c.types, t), append(c.first, int32(i))
			c.allocate = append(c.allocate, allocatableOf(t))
		}
		c.typeOf[i] = int32(len(c.types) - 1) //nolint:gosec // likewise
		c.number[o] = i
	}
	c.first = append(c.first, int32(len(c.offerings))) //nolint:gosec // likewise
	filler := map[string]map[string]uint32{}
	set := func(key, value string, from, to int32) {
		col, numbers := c.columns[key], filler[key]
		if col == nil {
			col, numbers = &column{values: []string{""}, of: make([]uint32, len(c.offerings))}, map[string]uint32{}
			c.columns[key], filler[key] = col, numbers
		}
		n, found := numbers[value]
		if !found {
			n = uint32(len(col.values)) //nolint:gosec // at most as many as there are offerings
			col.values, numbers[value] = append(col.values, value), n
		}
		for i := from; i < to; i++ {
			col.of[i] = n
		}
	}
	for t := range c.types {
		for key, value := range c.types[t].Labels {
			set(key, value, c.first[t], c.first[t+1])
		}
	}
	for i, o := range c.offerings {
		at := int32(i)
		set(LabelZone, o.Zone, at, at+1)
		set(LabelCapacityType, o.CapacityType, at, at+1)
		if id := ids[o.Zone]; id != "" {
			set(LabelZoneID, id, at, at+1)
		}
	}
	return c, left
}

// Karpenter's AWS provider reads category and generation so.
var scheme = regexp.MustCompile(`^([a-z]+)(-[0-9]+tb)?([0-9]+).*\.`)

// labelsOf completes a type's labels by those that follow from its name and size; zones and capacity types are the offerings'. Of
// operating systems Linux is assumed: which one it is follows from the NodeClass's image, and for a pool of Windows nothing is found
// rather than something wrong.
func labelsOf(t Type) map[string]string {
	labels := map[string]string{LabelInstanceType: t.Name, LabelFlex: "false", LabelOS: "linux"}
	if family, size, ok := strings.Cut(t.Name, "."); ok {
		labels[LabelFamily], labels[LabelSize] = family, size
		labels[LabelFlex] = strconv.FormatBool(strings.Contains(family, "-flex"))
	}
	if m := scheme.FindStringSubmatch(t.Name); m != nil {
		labels[LabelCategory], labels[LabelGeneration] = m[1], m[3]
	}
	if t.VCPU > 0 {
		labels[LabelCPU] = strconv.Itoa(t.VCPU)
	}
	if t.MemoryMiB > 0 {
		labels[LabelMemory] = strconv.Itoa(t.MemoryMiB)
	}
	for key, value := range t.Labels {
		labels[Canonical(key)] = value
	}
	delete(labels, LabelZone)
	delete(labels, LabelCapacityType)
	delete(labels, LabelZoneID)
	return labels
}

// allocatableOf is what a type leaves for pods, by the AWS provider's defaults: https://karpenter.sh/docs/concepts/scheduling/ and
// the reservations of EKS. Where the number of pods is not known, 110 are reserved for. DaemonSets are not counted.
func allocatableOf(t Type) allocatable {
	const overhead, eviction = 0.075, 100
	pods := t.MaxPods
	if pods == 0 {
		pods = 110
	}
	memory := float64(t.MemoryMiB)
	if t.Labels[LabelArch] == "arm64" {
		memory -= 64
	}
	memory -= math.Ceil(memory*overhead) + float64(11*pods+255) + eviction
	cpu := float64(t.VCPU) * 1000
	for _, r := range []struct{ from, to, share float64 }{{0, 1000, .06}, {1000, 2000, .01}, {2000, 4000, .005}, {4000, math.MaxInt32, .0025}} {
		if total := float64(t.VCPU) * 1000; total >= r.from {
			cpu -= math.Floor((min(total, r.to) - r.from) * r.share)
		}
	}
	return allocatable{cpu: cpu / 1000, memoryMiB: max(memory, 0)}
}

// Len is the number of offerings.
func (c *Catalogue) Len() int { return len(c.offerings) }

// Offering is the offering with this number; numbers go by type, zone and capacity type.
func (c *Catalogue) Offering(i int) Offering { return c.offerings[i] }

// Type is the type of the offering with this number, its labels completed. It must not be changed.
func (c *Catalogue) Type(i int) *Type { return &c.types[c.typeOf[i]] }

// Number is the number of an offering.
func (c *Catalogue) Number(o Offering) (int, bool) {
	i, found := c.number[o]
	return i, found
}

// All is the whole catalogue.
func (c *Catalogue) All() Set {
	s := c.Empty()
	for i := range c.offerings {
		s.words[i/64] |= 1 << (i % 64)
	}
	return s
}

// Empty is a set with room for all.
func (c *Catalogue) Empty() Set { return Set{words: make([]uint64, (len(c.offerings)+63)/64)} }

// Of is the set of those offerings that the catalogue has.
func (c *Catalogue) Of(offerings ...Offering) Set {
	s := c.Empty()
	for _, o := range offerings {
		if i, found := c.number[o]; found {
			s.words[i/64] |= 1 << (i % 64)
		}
	}
	return s
}

// Where is the set of offerings whose label has one of the values.
func (c *Catalogue) Where(key string, values ...string) Set {
	return c.Matching(Compile(Requirements{{Key: key, Operator: In, Values: values}}))
}

// Matching is what the requirements leave, as Karpenter's scheduler filters instance types and their offerings: a label that a type
// lacks and others have must be allowed to be absent; a label that no type has is one of the node's own, which restricts nothing.
// See Effective for what is not known.
func (c *Catalogue) Matching(required Compiled) Set {
	s := c.All()
	var allowed []bool
	for i := range required.keys {
		k := &required.keys[i]
		col := c.columns[k.key]
		if col == nil {
			if optional(k.key) && !k.absent() {
				return c.Empty() // types of this kind there are, but none in the catalogue
			}
			continue
		}
		allowed = append(allowed[:0], k.absent())
		for _, value := range col.values[1:] {
			allowed = append(allowed, k.has(value))
		}
		for w := range s.words {
			for left := s.words[w]; left != 0; left &= left - 1 {
				if n := bits.TrailingZeros64(left); !allowed[col.of[w*64+n]] {
					s.words[w] &^= 1 << n
				}
			}
		}
	}
	return s
}

// Fitting is the set of offerings whose type leaves this much for pods, beside what the system takes.
func (c *Catalogue) Fitting(cpu, memoryMiB float64) Set {
	s := c.Empty()
	for t, a := range c.allocate {
		if a.cpu < cpu || a.memoryMiB < memoryMiB {
			continue
		}
		for i := c.first[t]; i < c.first[t+1]; i++ {
			s.words[i/64] |= 1 << (i % 64)
		}
	}
	return s
}

// Fits is what of a set a pod can run on by size and by its own requirements.
func (c *Catalogue) Fits(s Set, cpu, memoryMiB float64, selector Compiled) Set {
	return s.And(c.Fitting(cpu, memoryMiB)).And(c.Matching(selector))
}

// Pool is what of a NodePool decides what it can launch.
type Pool struct {
	Requirements Requirements
	Labels       map[string]string // of spec.template.metadata: they restrict like requirements
	Zones        []string          // that its NodeClass reaches; nil: not known, all
}

// Effective is what a NodePool can launch.
type Effective struct {
	Set       Set
	Required  Compiled    // requirements and labels
	Unmet     []Shortfall // of minValues: with the policy Strict nothing is launched
	Unknown   []string    // keys that instance types have, but not those of this catalogue: what they exclude is not known
	Unmatched []Unmatched // values that match no offering: misspelt, or gone
}

// Launches says whether anything can be launched by what is known.
func (e Effective) Launches() bool { return !e.Set.IsEmpty() && len(e.Unmet) == 0 }

// Shortfall is a minValues that is not met.
type Shortfall struct {
	Key        string
	Want, Have int
}

// Unmatched is a value that an entry lists and no offering has.
type Unmatched struct {
	Key, Value string
	Entry      int    // of the requirements; -1: a template label
	Near       string // a value that is much like it, or ""
}

// Effective is what a NodePool can launch out of this catalogue.
func (c *Catalogue) Effective(p Pool) Effective {
	required := Compile(p.Requirements)
	e := Effective{Required: required.And(CompileLabels(p.Labels))}
	reach := c.Reach(p.Zones)
	e.Set = c.Matching(e.Required).And(reach)
	e.Unmet = c.Unmet(e.Set, e.Required, reach)
	for _, key := range e.Required.Keys() {
		if c.columns[key] == nil && WellKnown(key) && !optional(key) {
			e.Unknown = append(e.Unknown, key)
		}
	}
	e.Unmatched = c.unmatched(p)
	return e
}

// Reach is the set of offerings in these zones; nil: all.
func (c *Catalogue) Reach(zones []string) Set {
	if zones == nil {
		return c.All()
	}
	return c.Where(LabelZone, zones...)
}

// Unmet are the minValues that a set does not meet. As Karpenter counts them, a type counts with all the zones and capacity types that
// it is offered in within reach, not only with those that are required.
func (c *Catalogue) Unmet(s Set, required Compiled, reach Set) []Shortfall {
	var unmet []Shortfall
	for i := range required.keys {
		k := &required.keys[i]
		if k.minValues == nil {
			continue
		}
		have := 0
		if col := c.columns[k.key]; col != nil {
			whole := s
			if k.key == LabelZone || k.key == LabelCapacityType || k.key == LabelZoneID {
				whole = c.ofSameTypes(s).And(reach)
			}
			have = len(c.numbers(whole, col))
		}
		if have < *k.minValues {
			unmet = append(unmet, Shortfall{Key: k.key, Want: *k.minValues, Have: have})
		}
	}
	return unmet
}

// ofSameTypes are all offerings of the types of a set.
func (c *Catalogue) ofSameTypes(s Set) Set {
	all := c.Empty()
	for t := range c.typesOf(s) {
		for i := c.first[t]; i < c.first[t+1]; i++ {
			all.words[i/64] |= 1 << (i % 64)
		}
	}
	return all
}

func (c *Catalogue) unmatched(p Pool) []Unmatched {
	var found []Unmatched
	look := func(key, value string, entry int) {
		key = Canonical(key)
		if col := c.columns[key]; col != nil && !slices.Contains(col.values[1:], value) {
			found = append(found, Unmatched{Key: key, Value: value, Entry: entry, Near: near(value, col.values[1:])})
		}
	}
	for i, r := range p.Requirements {
		if r.Operator != In {
			continue
		}
		for _, value := range r.Values {
			look(r.Key, value, i)
		}
	}
	for _, key := range sortedKeys(p.Labels) {
		look(key, p.Labels[key], -1)
	}
	return found
}

// Counts are numbers of distinct things in a set.
type Counts struct{ Offerings, Types, Families, Zones, CapacityTypes, Archs, OSs int }

// Count counts a set.
func (c *Catalogue) Count(s Set) Counts {
	n := Counts{Offerings: s.Len()}
	for range c.typesOf(s) {
		n.Types++
	}
	distinct := func(key string) int {
		if col := c.columns[key]; col != nil {
			return len(c.numbers(s, col))
		}
		return 0
	}
	n.Families, n.Zones, n.CapacityTypes = distinct(LabelFamily), distinct(LabelZone), distinct(LabelCapacityType)
	n.Archs, n.OSs = distinct(LabelArch), distinct(LabelOS)
	return n
}

// Types is the number of types in a set.
func (c *Catalogue) Types(s Set) int {
	n := 0
	for range c.typesOf(s) {
		n++
	}
	return n
}

// Values are the values of a label in a set, sorted. That some have none does not show.
func (c *Catalogue) Values(s Set, key string) []string {
	col := c.columns[Canonical(key)]
	if col == nil {
		return nil
	}
	var values []string
	for _, n := range c.numbers(s, col) {
		values = append(values, col.values[n])
	}
	slices.Sort(values)
	return values
}

// By splits a set by the values of a label; what lacks the label is under "".
func (c *Catalogue) By(s Set, key string) map[string]Set {
	split, col := map[string]Set{}, c.columns[Canonical(key)]
	for i := range s.All() {
		value := ""
		if col != nil {
			value = col.values[col.of[i]]
		}
		part, found := split[value]
		if !found {
			part = c.Empty()
			split[value] = part
		}
		part.words[i/64] |= 1 << (i % 64)
	}
	return split
}

func (c *Catalogue) numbers(s Set, col *column) []uint32 {
	seen := make([]bool, len(col.values))
	var numbers []uint32
	for i := range s.All() {
		if n := col.of[i]; n > 0 && !seen[n] {
			seen[n], numbers = true, append(numbers, n)
		}
	}
	return numbers
}

// typesOf goes through the types of a set once each; offerings of a type lie together.
func (c *Catalogue) typesOf(s Set) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		last := int32(-1)
		for i := range s.All() {
			if t := c.typeOf[i]; t != last {
				last = t
				if !yield(t) {
					return
				}
			}
		}
	}
}

// Len is the number of offerings in the set.
func (s Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// IsEmpty says that nothing is in it.
func (s Set) IsEmpty() bool {
	return !slices.ContainsFunc(s.words, func(w uint64) bool { return w != 0 })
}

// Has says whether the offering with this number is in it.
func (s Set) Has(i int) bool { return i >= 0 && i/64 < len(s.words) && s.words[i/64]&(1<<(i%64)) != 0 }

// All goes through the numbers of the set's offerings, in order.
func (s Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for w, word := range s.words {
			for ; word != 0; word &= word - 1 {
				if !yield(w*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// And is what is in both.
func (s Set) And(o Set) Set { return s.with(o, func(a, b uint64) uint64 { return a & b }) }

// Or is what is in one of them.
func (s Set) Or(o Set) Set { return s.with(o, func(a, b uint64) uint64 { return a | b }) }

// Minus is what is in s and not in o.
func (s Set) Minus(o Set) Set { return s.with(o, func(a, b uint64) uint64 { return a &^ b }) }

// Within says whether all of s is in o.
func (s Set) Within(o Set) bool { return s.Minus(o).IsEmpty() }

// Equal says whether both hold the same.
func (s Set) Equal(o Set) bool { return s.Within(o) && o.Within(s) }

func (s Set) with(o Set, op func(a, b uint64) uint64) Set {
	at := func(words []uint64, i int) uint64 {
		if i < len(words) {
			return words[i]
		}
		return 0
	}
	words := make([]uint64, max(len(s.words), len(o.words)))
	for i := range words {
		words[i] = op(at(s.words, i), at(o.words, i))
	}
	return Set{words: words}
}
