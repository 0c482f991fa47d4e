package offering

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Compiled is a list of requirements folded to one constraint a key, as Karpenter folds it: order does not matter, several entries of
// a key hold together, and old names of labels stand for the new ones. The zero value requires nothing. It is a value: nothing changes it.
type Compiled struct {
	keys []constraint // by key
}

// constraint is a set of values: those listed, or (inverted) all but those listed, within the bounds.
type constraint struct {
	key       string
	inverted  bool
	values    []string // sorted, each once
	gte, lte  *int
	minValues *int
	wanted    bool  // some entry asks for a value: it is not DoesNotExist alone
	entries   []int // of the list it was compiled from
}

// Compile folds a list. Any list can be compiled, also one that is refused everywhere: see Problems.
func Compile(list Requirements) Compiled {
	var c Compiled
	for i, r := range list {
		k := fromRequirement(r)
		k.wanted, k.entries = r.Operator != DoesNotExist, []int{i}
		c.add(k)
	}
	return c
}

// CompileLabels is the list that requires exactly these labels, among others.
func CompileLabels(labels map[string]string) Compiled {
	c := Compiled{keys: make([]constraint, 0, len(labels))}
	for key, value := range labels {
		c.add(constraint{key: Canonical(key), values: []string{value}, wanted: true})
	}
	return c
}

// And holds what both hold.
func (c Compiled) And(d Compiled) Compiled {
	both := Compiled{keys: slices.Clone(c.keys)}
	for _, k := range d.keys {
		k.entries = nil // numbers of another list
		both.add(k)
	}
	return both
}

func (c *Compiled) add(k constraint) {
	i, found := c.find(k.key)
	if found {
		c.keys[i] = c.keys[i].and(k)
		return
	}
	c.keys = slices.Insert(c.keys, i, k)
}

func (c Compiled) find(key string) (int, bool) {
	return slices.BinarySearchFunc(c.keys, key, func(k constraint, key string) int { return strings.Compare(k.key, key) })
}

func (c Compiled) get(key string) (constraint, bool) {
	if i, found := c.find(key); found {
		return c.keys[i], true
	}
	return constraint{}, false
}

// Keys are the labels that something is required of, under their present names, sorted.
func (c Compiled) Keys() []string {
	keys := make([]string, len(c.keys))
	for i, k := range c.keys {
		keys[i] = k.key
	}
	return keys
}

// Allows says whether a label may have this value. What nothing is required of may have any.
func (c Compiled) Allows(key, value string) bool {
	k, found := c.get(Canonical(key))
	return !found || k.has(value)
}

// AllowsAbsent says whether a label may be absent from a node, as Karpenter sees it when it looks for drift: it may where values are
// excluded or the set is empty, and not where they are listed, bounded, or the label has to exist.
func (c Compiled) AllowsAbsent(key string) bool {
	k, found := c.get(Canonical(key))
	return !found || k.absent()
}

// Nothing are the keys that no value is left for although no entry says DoesNotExist alone: the entries contradict each other,
// and nothing can be launched.
func (c Compiled) Nothing() []string {
	var keys []string
	for _, k := range c.keys {
		if k.wanted && !k.inverted && len(k.values) == 0 {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// MinValues are the least numbers of distinct values, by key.
func (c Compiled) MinValues() map[string]int {
	least := map[string]int{}
	for _, k := range c.keys {
		if k.minValues != nil {
			least[k.key] = *k.minValues
		}
	}
	return least
}

// Requirements is the folded list: one entry a key, two for a range with both bounds, by key. What is left empty is DoesNotExist;
// excluded values are left out of a range, as Karpenter leaves them out when it writes a NodeClaim.
func (c Compiled) Requirements() Requirements {
	list := make(Requirements, 0, len(c.keys))
	for _, k := range c.keys {
		bound := func(op Operator, n int) {
			list = append(list, Requirement{Key: k.key, Operator: op, Values: []string{strconv.Itoa(n)}, MinValues: k.minValues})
		}
		switch {
		case k.gte != nil || k.lte != nil:
			if k.gte != nil {
				bound(Gte, *k.gte)
			}
			if k.lte != nil {
				bound(Lte, *k.lte)
			}
		case k.inverted && len(k.values) > 0:
			list = append(list, Requirement{Key: k.key, Operator: NotIn, Values: k.values, MinValues: k.minValues})
		case k.inverted:
			list = append(list, Requirement{Key: k.key, Operator: Exists, MinValues: k.minValues})
		case len(k.values) > 0:
			list = append(list, Requirement{Key: k.key, Operator: In, Values: k.values, MinValues: k.minValues})
		default:
			list = append(list, Requirement{Key: k.key, Operator: DoesNotExist, MinValues: k.minValues})
		}
	}
	return list
}

// Intersects says whether each key that both have leaves a value. Keys that only one has are no obstacle.
func (c Compiled) Intersects(d Compiled) bool {
	a, b := c.keys, d.keys
	for len(a) > 0 && len(b) > 0 {
		switch cmp.Compare(a[0].key, b[0].key) {
		case -1:
			a = a[1:]
		case 1:
			b = b[1:]
		default:
			if !a[0].meets(b[0]) && (!a[0].absent() || !b[0].absent()) {
				return false
			}
			a, b = a[1:], b[1:]
		}
	}
	return true
}

// Compatible says whether what d requires can be met by what has c: each key of d is one of c, or may be absent, or is one of those
// that mayLack names (nil: none); and the common ones intersect. Karpenter asks it of a pool and a pod with WellKnown.
func (c Compiled) Compatible(d Compiled, mayLack func(key string) bool) bool {
	for _, k := range d.keys {
		if _, has := c.find(k.key); !has && !k.absent() && (mayLack == nil || !mayLack(k.key)) {
			return false
		}
	}
	return c.Intersects(d)
}

// Matches says whether a NodeClaim with these labels fits, as Karpenter decides RequirementsDrifted: a key that the labels lack fits
// only where it may be absent, also a well-known one.
func (c Compiled) Matches(labels map[string]string) bool {
	for i := range c.keys {
		if !c.keys[i].matches(labels) {
			return false
		}
	}
	return true
}

func (k *constraint) matches(labels map[string]string) bool {
	value, state := labelOf(labels, k.key)
	switch state {
	case one:
		return k.has(value)
	default: // absent, or old and new name say different things, which leaves no value: Karpenter treats both alike
		return k.absent()
	}
}

type labelState int

const (
	none labelState = iota
	one
	several
)

// labelOf finds a label under its present name and its old ones. Where they differ no value is left.
func labelOf(labels map[string]string, key string) (value string, state labelState) {
	value, found := labels[key]
	if found {
		state = one
	}
	for _, old := range oldNames(key) {
		if old == "" {
			break
		}
		other, found := labels[old]
		switch {
		case !found:
		case state == none:
			value, state = other, one
		case other != value:
			return "", several
		}
	}
	return value, state
}

// Canonical is the present name of a label that Karpenter knows by an old one, or the key itself.
func Canonical(key string) string {
	switch key {
	case "failure-domain.beta.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone":
		return LabelZone
	case "failure-domain.beta.kubernetes.io/region":
		return LabelRegion
	case "beta.kubernetes.io/arch":
		return LabelArch
	case "beta.kubernetes.io/os":
		return LabelOS
	case "beta.kubernetes.io/instance-type":
		return LabelInstanceType
	}
	return key
}

func oldNames(key string) [2]string {
	switch key {
	case LabelZone:
		return [2]string{"failure-domain.beta.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"}
	case LabelRegion:
		return [2]string{"failure-domain.beta.kubernetes.io/region"}
	case LabelArch:
		return [2]string{"beta.kubernetes.io/arch"}
	case LabelOS:
		return [2]string{"beta.kubernetes.io/os"}
	case LabelInstanceType:
		return [2]string{"beta.kubernetes.io/instance-type"}
	}
	return [2]string{}
}

func fromRequirement(r Requirement) constraint {
	k := constraint{key: Canonical(r.Key), minValues: r.MinValues}
	number := func() (int, bool) {
		if len(r.Values) == 0 {
			return 0, false
		}
		n, _ := strconv.Atoi(r.Values[0]) // what is no number is 0, and too large a one the largest, as in Karpenter: admission refuses both
		return n, true
	}
	switch r.Operator {
	case In:
		k.values = sorted(r.Values)
	case DoesNotExist:
	case NotIn:
		k.inverted, k.values = true, sorted(r.Values)
	case Gt, Gte, Lt, Lte:
		n, ok := number()
		if !ok {
			return k // no bound to compare with: nothing fits
		}
		switch r.Operator {
		case Gt:
			if n == math.MaxInt {
				return constraint{key: k.key} // nothing is larger; Karpenter drops minValues with it
			}
			k.gte = new(n + 1)
		case Gte:
			k.gte = &n
		case Lt:
			k.lte = new(n - 1)
		default:
			k.lte = &n
		}
		k.inverted = true
	default: // Exists, and what admission refuses
		k.inverted = true
	}
	return k
}

func sorted(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

func (k constraint) and(o constraint) constraint {
	both := constraint{
		key: k.key, inverted: k.inverted && o.inverted, wanted: k.wanted || o.wanted, entries: append(slices.Clone(k.entries), o.entries...),
		gte: tighter(k.gte, o.gte, func(a, b int) bool { return a > b }), lte: tighter(k.lte, o.lte, func(a, b int) bool { return a < b }),
		minValues: tighter(k.minValues, o.minValues, func(a, b int) bool { return a > b }),
	}
	if both.gte != nil && both.lte != nil && *both.gte > *both.lte {
		both.inverted, both.gte, both.lte = false, nil, nil
		return both
	}
	switch {
	case k.inverted && o.inverted:
		both.values = sorted(append(slices.Clone(k.values), o.values...))
	case k.inverted:
		both.values = slices.DeleteFunc(slices.Clone(o.values), k.listed)
	case o.inverted:
		both.values = slices.DeleteFunc(slices.Clone(k.values), o.listed)
	default:
		both.values = slices.DeleteFunc(slices.Clone(k.values), func(v string) bool { return !o.listed(v) })
	}
	// Excluded values outside the bounds are dropped too. That does not change the set, but what may be absent: see absent.
	both.values = slices.DeleteFunc(both.values, func(v string) bool { return !both.within(v) })
	if !both.inverted {
		both.gte, both.lte = nil, nil
	}
	return both
}

func tighter(a, b *int, wins func(a, b int) bool) *int {
	if a == nil || b != nil && wins(*b, *a) {
		return b
	}
	return a
}

func (k *constraint) listed(value string) bool {
	_, found := slices.BinarySearch(k.values, value)
	return found
}

func (k *constraint) within(value string) bool {
	if k.gte == nil && k.lte == nil {
		return true
	}
	n, err := strconv.Atoi(value)
	return err == nil && (k.gte == nil || n >= *k.gte) && (k.lte == nil || n <= *k.lte)
}

func (k *constraint) has(value string) bool { return k.listed(value) != k.inverted && k.within(value) }

// absent says whether a label that is not there fits: where Karpenter takes the constraint for NotIn or DoesNotExist. So an empty In
// fits an absent label, and NotIn with no values does not.
func (k *constraint) absent() bool { return k.inverted == (len(k.values) > 0) }

// meets says whether two constraints of a key have a value in common. Two open sets always do, as far as Karpenter looks, unless
// their bounds cross.
func (k *constraint) meets(o constraint) bool {
	gte, lte := tighter(k.gte, o.gte, func(a, b int) bool { return a > b }), tighter(k.lte, o.lte, func(a, b int) bool { return a < b })
	if gte != nil && lte != nil && *gte > *lte {
		return false
	}
	if k.inverted && o.inverted {
		return true
	}
	few, other := k, &o
	if few.inverted || !o.inverted && len(o.values) < len(k.values) {
		few, other = &o, k
	}
	return slices.ContainsFunc(few.values, func(v string) bool { return few.has(v) && other.has(v) })
}

// String says what is allowed, for people: "m5, m6i", "not t2", "at least 4", "none".
func (k *constraint) String() string {
	var parts []string
	switch {
	case !k.inverted && len(k.values) == 0:
		return "none"
	case !k.inverted:
		return some(k.values)
	case len(k.values) > 0:
		parts = append(parts, "not "+some(k.values))
	case k.gte == nil && k.lte == nil:
		return "any"
	}
	if k.gte != nil {
		parts = append(parts, fmt.Sprintf("at least %d", *k.gte))
	}
	if k.lte != nil {
		parts = append(parts, fmt.Sprintf("at most %d", *k.lte))
	}
	return strings.Join(parts, ", ")
}

// some names at most eight.
func some(values []string) string {
	const most = 8
	if len(values) <= most {
		return strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:most], ", "), len(values)-most)
}

// String is an entry as people read it: "karpenter.k8s.aws/instance-family In [m5, m6i]".
func (r Requirement) String() string {
	s := r.Key + " " + string(r.Operator)
	if len(r.Values) > 0 || r.Operator == In || r.Operator == NotIn {
		s += " [" + some(r.Values) + "]"
	}
	if r.MinValues != nil {
		s += fmt.Sprintf(" minValues %d", *r.MinValues)
	}
	return s
}
