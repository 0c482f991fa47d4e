package write

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
)

// at walks down an object.
func at(o any, keys ...string) (any, bool) {
	for _, k := range keys {
		m, is := o.(map[string]any)
		if !is {
			return nil, false
		}
		if o, is = m[k]; !is {
			return nil, false
		}
	}
	return o, true
}

func text(o map[string]any, keys ...string) string {
	v, _ := at(o, keys...)
	s, _ := v.(string)
	return s
}

func nameOf(o map[string]any) string { return text(o, "metadata", "name") }

func uidOf(o map[string]any) types.UID { return types.UID(text(o, "metadata", "uid")) }

func annotation(o map[string]any, key string) string { return text(o, "metadata", "annotations", key) }

func label(o map[string]any, key string) string { return text(o, "metadata", "labels", key) }

func integer(o map[string]any, keys ...string) (int64, bool) {
	v, _ := at(o, keys...)
	switch n := v.(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), n == float64(int64(n))
	}
	return 0, false
}

func moment(o map[string]any, keys ...string) time.Time {
	t, err := time.Parse(time.RFC3339, text(o, keys...))
	if err != nil {
		return time.Time{}
	}
	return t
}

// split takes a JSON pointer apart.
func split(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return parts
}

// pointer puts a JSON pointer together.
func pointer(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + strings.ReplaceAll(strings.ReplaceAll(p, "~", "~0"), "/", "~1"))
	}
	return b.String()
}

// value is what an object has at a path; nil is absent.
func value(o map[string]any, path string) any {
	v, _ := at(o, split(path)...)
	return v
}

// plain is a value as it comes from the API: numbers are int64 or float64, whatever they were made of.
func plain(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says of what
	}
	var out any
	if err := kjson.Unmarshal(data, &out); err != nil {
		return nil, err //nolint:wrapcheck // likewise
	}
	return out, nil
}

// canonical is a value as bytes: equal values have equal ones.
func canonical(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return []byte("unencodable " + err.Error()) // equal to nothing from the API
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func equal(a, b any) bool { return bytes.Equal(canonical(a), canonical(b)) }

// sum names a value in few bytes.
func sum(v any) string {
	if v == nil {
		return "absent"
	}
	h := sha256.Sum256(canonical(v))
	return hex.EncodeToString(h[:12])
}

// with is the object with the changes made. A parent that is not there is made, one that is left empty stays.
func with(o map[string]any, changes []plan.Change) map[string]any {
	o = runtime.DeepCopyJSON(o)
	for _, c := range changes {
		parts := split(c.Path)
		parent := o
		for _, p := range parts[:len(parts)-1] {
			next, is := parent[p].(map[string]any)
			if !is {
				next = map[string]any{}
				parent[p] = next
			}
			parent = next
		}
		if last := parts[len(parts)-1]; c.After == nil {
			delete(parent, last)
		} else {
			parent[last] = c.After
		}
	}
	return o
}

// patchOf is the JSON merge patch of the changes, on the condition of the object's resourceVersion and identity.
func patchOf(o map[string]any, changes []plan.Change) map[string]any {
	patch := map[string]any{}
	set := func(parts []string, v any) {
		m := patch
		for _, p := range parts[:len(parts)-1] {
			next, is := m[p].(map[string]any)
			if !is {
				next = map[string]any{}
				m[p] = next
			}
			m = next
		}
		m[parts[len(parts)-1]] = v
	}
	for _, c := range changes {
		set(split(c.Path), replacing(value(o, c.Path), c.After))
	}
	set([]string{"metadata", "resourceVersion"}, text(o, "metadata", "resourceVersion"))
	set([]string{"metadata", "uid"}, text(o, "metadata", "uid"))
	return patch
}

// replacing is what a merge patch has to say to replace one value by another: maps are merged, so what is to go is null.
func replacing(before, after any) any {
	old, is := before.(map[string]any)
	if !is {
		return after
	}
	fresh, is := after.(map[string]any)
	if !is {
		return after
	}
	out := map[string]any{}
	for k := range old {
		out[k] = nil
	}
	for k, v := range fresh {
		out[k] = replacing(old[k], v)
	}
	return out
}

// difference finds the first path at which two objects differ, "" if none. What the server keeps by itself does not count.
func difference(want, have map[string]any, additions func(path string) bool) string {
	strip := func(o map[string]any) map[string]any {
		o = runtime.DeepCopyJSON(o)
		if m, is := o["metadata"].(map[string]any); is {
			for _, k := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"} {
				delete(m, k)
			}
			for _, k := range []string{"annotations", "labels"} { // an empty map and none are the same to the server
				if inner, is := m[k].(map[string]any); is && len(inner) == 0 {
					delete(m, k)
				}
			}
		}
		return o
	}
	return differs("", strip(want), strip(have), additions)
}

func differs(path string, want, have any, additions func(path string) bool) string {
	w, isW := want.(map[string]any)
	h, isH := have.(map[string]any)
	if !isW || !isH {
		if equal(want, have) || want == nil && additions(path) {
			return ""
		}
		return path
	}
	keys := map[string]bool{}
	for k := range w {
		keys[k] = true
	}
	for k := range h {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		below := path + pointer(k)
		wv, inW := w[k]
		hv, inH := h[k]
		if !inW && inH {
			if !additions(below) {
				return below
			}
			continue
		}
		if inW && !inH {
			return below
		}
		if d := differs(below, wv, hv, additions); d != "" {
			return d
		}
	}
	return ""
}

// conditionOf finds a condition of an object's status.
func conditionOf(o map[string]any, kind string) map[string]any {
	v, _ := at(o, "status", "conditions")
	all, _ := v.([]any)
	for _, c := range all {
		if m, is := c.(map[string]any); is && text(m, "type") == kind {
			return m
		}
	}
	return nil
}

// refOf names an object as people do.
func refOf(kind, name string) string { return fmt.Sprintf("%s/%s", kind, name) }
