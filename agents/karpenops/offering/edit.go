package offering

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Of reads the requirements of a NodePool as the API server gives it.
func Of(nodePool map[string]any) (Requirements, error) {
	list, found := object(nodePool, "spec", "template", "spec")["requirements"]
	if !found {
		return nil, fmt.Errorf("NodePool has no spec.template.spec.requirements")
	}
	return Decode(list)
}

// Decode reads a list as JSON decodes it. Fields that are not known are left alone, as they are by edits.
func Decode(list any) (Requirements, error) {
	if list == nil {
		return nil, nil
	}
	entries, ok := list.([]any)
	if !ok {
		return nil, fmt.Errorf("requirements are a %T, not a list", list)
	}
	read := make(Requirements, len(entries))
	for i, entry := range entries {
		m, ok := entry.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("requirement %d is a %T, not an object", i, entry)
		}
		r := &read[i]
		operator := ""
		for name, to := range map[string]*string{"key": &r.Key, "operator": &operator} {
			if *to, ok = m[name].(string); !ok {
				return nil, fmt.Errorf("requirement %d: %s is %v, not a string", i, name, m[name])
			}
		}
		r.Operator = Operator(operator)
		if values := m["values"]; values != nil {
			all, ok := values.([]any)
			if !ok {
				return nil, fmt.Errorf("requirement %d: values are %v, not a list", i, values)
			}
			r.Values = make([]string, len(all))
			for j, value := range all {
				if r.Values[j], ok = value.(string); !ok {
					return nil, fmt.Errorf("requirement %d: value %d is %v, not a string", i, j, value)
				}
			}
		}
		if least := m["minValues"]; least != nil {
			n, ok := integer(least)
			if !ok {
				return nil, fmt.Errorf("requirement %d: minValues is %v, not a whole number", i, least)
			}
			r.MinValues = &n
		}
	}
	return read, nil
}

func integer(v any) (int, bool) {
	switch n := v.(type) {
	case int:
		return n, true
	case int64:
		return int(n), true
	case float64:
		if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
			return int(n), true
		}
	}
	return 0, false
}

// Encode writes a list as JSON would decode it, with the numbers that Kubernetes' machinery expects.
func Encode(list Requirements) []any {
	encoded := make([]any, len(list))
	for i, r := range list {
		entry := map[string]any{"key": r.Key, "operator": string(r.Operator)}
		if r.Values != nil {
			entry["values"] = texts(r.Values)
		}
		if r.MinValues != nil {
			entry["minValues"] = int64(*r.MinValues)
		}
		encoded[i] = entry
	}
	return encoded
}

func texts(values []string) []any {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return list
}

// Edit narrows one key.
type Edit struct {
	Key     string
	Only    []string // nil: not restricted to a list. Not nil: nothing else than these
	Without []string // these no more
}

// maxRequirements is what the API server accepts.
const maxRequirements = 100

// Narrow applies edits to a list of requirements as the API server gives it. Every entry that need not change stays as it is, to the
// last unknown field: where an entry lists values of the key, the ones that have to go are taken out of it; where none does, one entry
// is appended. Nothing is ever widened: what Narrow gives allows a subset of what it was given, in the order of it.
//
// It refuses what would leave nothing, or fewer values than minValues asks for: minValues are never lowered. Whether what is left can be
// bought is for Effective to say. The second result says in words what was changed; none: nothing had to be.
func Narrow(list []any, edits ...Edit) ([]any, []string, error) {
	requirements, err := Decode(list)
	if err != nil {
		return nil, nil, err
	}
	after, words := slices.Clone(list), []string(nil)
	for _, e := range together(edits) {
		if e.Only != nil && len(e.Only) == 0 {
			return nil, nil, fmt.Errorf("narrow %s to no value at all: nothing could be launched", e.Key)
		}
		var keep func(string) bool
		if e.Only != nil {
			keep = func(v string) bool { return slices.Contains(e.Only, v) && !slices.Contains(e.Without, v) }
		} else {
			keep = func(v string) bool { return !slices.Contains(e.Without, v) }
		}
		at := slices.IndexFunc(requirements, func(r Requirement) bool { return r.Operator == In && Canonical(r.Key) == Canonical(e.Key) })
		if at >= 0 {
			r := &requirements[at]
			kept, gone := split(r.Values, keep)
			if len(gone) == 0 {
				continue
			}
			if len(kept) == 0 {
				return nil, nil, fmt.Errorf("narrow %s: none of %s is left, and nothing could be launched", e.Key, some(r.Values))
			}
			if r.MinValues != nil && len(kept) < *r.MinValues {
				return nil, nil, fmt.Errorf("narrow %s to %s: minValues asks for %d, and is not lowered", e.Key, some(kept), *r.MinValues)
			}
			entry := mapClone(after[at])
			entry["values"], r.Values = texts(kept), kept
			after[at] = entry
			words = append(words, fmt.Sprintf("%s: %s taken out, %s left", e.Key, some(gone), some(kept)))
			continue
		}
		r := Requirement{Key: Canonical(e.Key), Operator: In}
		if e.Only != nil {
			if r.Values, _ = split(e.Only, keep); len(r.Values) == 0 {
				return nil, nil, fmt.Errorf("narrow %s: every value is both allowed and excluded, and nothing could be launched", e.Key)
			}
			r.Values = sorted(r.Values)
			words = append(words, fmt.Sprintf("%s: only %s", e.Key, some(r.Values)))
		} else {
			// Only what is not excluded yet.
			compiled := Compile(requirements)
			_, r.Values = split(sorted(e.Without), func(v string) bool { return !compiled.Allows(e.Key, v) })
			if r.Operator = NotIn; len(r.Values) == 0 {
				continue
			}
			words = append(words, fmt.Sprintf("%s: without %s", e.Key, some(r.Values)))
		}
		if len(after) == maxRequirements {
			return nil, nil, fmt.Errorf("narrow %s: the list has %d entries already, and the API server accepts no more", e.Key, maxRequirements)
		}
		requirements, after = append(requirements, r), append(after, Encode(Requirements{r})...)
	}
	before, _ := Decode(list)
	was, is := Compile(before), Compile(requirements)
	for _, key := range is.Nothing() {
		if !slices.Contains(was.Nothing(), key) {
			return nil, nil, fmt.Errorf("narrow %s: other entries allow none of what is left, and nothing could be launched", key)
		}
	}
	for key, least := range is.MinValues() {
		if k, _ := is.get(key); !k.inverted && len(k.values) < least {
			if was, _ := was.get(key); was.inverted || len(was.values) >= least {
				return nil, nil, fmt.Errorf("narrow %s to %s: minValues asks for %d, and is not lowered", key, some(k.values), least)
			}
		}
	}
	return after, words, nil
}

// together makes one edit a key of several: they all hold.
func together(edits []Edit) []Edit {
	var one []Edit
	for _, e := range edits {
		at := slices.IndexFunc(one, func(o Edit) bool { return Canonical(o.Key) == Canonical(e.Key) })
		if at < 0 {
			one = append(one, e)
			continue
		}
		o := &one[at]
		o.Without = append(slices.Clone(o.Without), e.Without...)
		switch {
		case o.Only == nil:
			o.Only = e.Only
		case e.Only != nil:
			o.Only = slices.DeleteFunc(slices.Clone(o.Only), func(v string) bool { return !slices.Contains(e.Only, v) })
		}
	}
	return one
}

func split(values []string, keep func(string) bool) (kept, gone []string) {
	for _, v := range values {
		if keep(v) {
			kept = append(kept, v)
		} else {
			gone = append(gone, v)
		}
	}
	return kept, gone
}

func mapClone(v any) map[string]any {
	m, _ := v.(map[string]any)
	c := make(map[string]any, len(m))
	for key, value := range m {
		c[key] = value
	}
	return c
}

// Restore takes back what Narrow did: before is what it was given, after what it gave, current what there is now. Where nobody else wrote,
// the result is before. Entries that somebody changed since stay as they are, and are named: their owner has taken them over.
func Restore(current, before, after []any) (restored []any, released []string) {
	if reflect.DeepEqual(current, after) || reflect.DeepEqual(current, before) {
		return slices.Clone(before), nil
	}
	restored = slices.Clone(current)
	for i, ours := range after {
		if i < len(before) && reflect.DeepEqual(before[i], ours) {
			continue // not ours
		}
		at := slices.IndexFunc(restored, func(entry any) bool { return reflect.DeepEqual(entry, ours) })
		switch {
		case at < 0 && i < len(before) && slices.ContainsFunc(current, func(entry any) bool { return reflect.DeepEqual(entry, before[i]) }):
			// Somebody has restored it already.
		case at < 0:
			released = append(released, fmt.Sprint(mapClone(ours)["key"]))
		case i < len(before):
			restored[at] = before[i]
		default:
			restored = slices.Delete(restored, at, at+1)
		}
	}
	return restored, released
}

// Diff says in words what two lists allow differently, by key. Lists that allow the same differ in nothing, whatever their order.
func Diff(before, after Requirements) []string {
	a, b := Compile(before), Compile(after)
	var words []string
	for _, key := range sorted(append(a.Keys(), b.Keys()...)) {
		was, had := a.get(key)
		is, has := b.get(key)
		switch {
		case !had:
			words = append(words, fmt.Sprintf("%s: %s (was not restricted)", key, is.words()))
		case !has:
			words = append(words, fmt.Sprintf("%s: not restricted (was %s)", key, was.words()))
		case was.words() == is.words() && slices.Equal(was.values, is.values):
		case was.inverted == is.inverted && reflect.DeepEqual(was.gte, is.gte) && reflect.DeepEqual(was.lte, is.lte) && reflect.DeepEqual(was.minValues, is.minValues):
			_, more := split(is.values, was.listed)
			_, fewer := split(was.values, is.listed)
			if is.inverted {
				more, fewer = fewer, more
			}
			var parts []string
			if len(more) > 0 {
				parts = append(parts, "also "+some(more))
			}
			if len(fewer) > 0 {
				parts = append(parts, "no longer "+some(fewer))
			}
			words = append(words, key+": "+strings.Join(parts, ", "))
		default:
			words = append(words, fmt.Sprintf("%s: %s (was %s)", key, is.words(), was.words()))
		}
	}
	return words
}

func (k *constraint) words() string {
	s := k.String()
	if k.minValues != nil {
		s += fmt.Sprintf(", at least %d of them", *k.minValues)
	}
	return s
}
