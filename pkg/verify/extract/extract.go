// Package extract finds the images that Kubernetes objects run, and pins them in place.
//
// It looks at shapes rather than kinds: whatever holds a list of containers is a pod's specification, in a Deployment as in a
// custom resource that some operator turns into pods. Beside images, it finds texts that look like images where programs take
// their names from: an operator that is told --config-reloader=IMAGE runs that image, and nobody verified it.
//
// It imports the standard library and pkg/verify/ref, so that the installer can.
package extract

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// Kind is how sure it is that something is an image.
type Kind string

// The kinds.
const (
	Image   Kind = "image"   // Kubernetes pulls it: a container's image, or an image volume
	Suspect Kind = "suspect" // it looks like one, in arguments, environment, ConfigMaps, annotations or fields of custom resources
)

// Use is one place that names an image.
type Use struct {
	Kind   Kind   `json:"kind"`
	Object string `json:"object"` // "Deployment nops/nops-heartbeat"
	Path   string `json:"path"`   // "spec.template.spec.containers[0].image"
	Text   string `json:"text"`   // the reference, as it is written there
	// Reference is what Text says; Err, why it says nothing. A suspect has no Err: what cannot be read is none.
	Reference ref.Reference `json:"-"`
	Err       error         `json:"-"`
}

// Pinned says whether the place names bytes, not only a tag.
func (u Use) Pinned() bool { return u.Reference.Digest != "" }

// Find returns every use, in the order of the objects and, within one, of their fields' names.
func Find(objects []map[string]any) []Use {
	var all []Use
	for _, o := range objects {
		walk(o, func(p place) {
			switch p.kind {
			case Image:
				u := Use{Kind: Image, Object: p.object, Path: p.path, Text: p.text, Err: p.err}
				if u.Err == nil {
					u.Reference, u.Err = ref.Parse(p.text)
				}
				all = append(all, u)
			case Suspect:
				for _, s := range scan(p.text, p.name) {
					r, _ := ref.Parse(p.text[s.from:s.to])
					all = append(all, Use{Kind: Suspect, Object: p.object, Path: p.path, Text: p.text[s.from:s.to], Reference: r})
				}
			}
		})
	}
	return all
}

// Pin rewrites in place what Find finds: images, and suspects in commands, arguments and environment. pins gives for a
// reference, as it is written or in full, the same reference with a digest. What has a digest already is left alone, and so is
// what a pin would turn into another image. It returns the number of places that changed.
func Pin(object map[string]any, pins map[string]string) (changed int) {
	walk(object, func(p place) {
		switch {
		case p.err != nil || p.set == nil:
		case p.kind == Image:
			if to, ok := pin(p.text, pins); ok {
				p.set(to)
				changed++
			}
		default:
			text, spans := p.text, scan(p.text, p.name)
			for i := len(spans) - 1; i >= 0; i-- {
				if to, ok := pin(text[spans[i].from:spans[i].to], pins); ok {
					text = text[:spans[i].from] + to + text[spans[i].to:]
				}
			}
			if text != p.text {
				p.set(text)
				changed++
			}
		}
	})
	return changed
}

func pin(text string, pins map[string]string) (string, bool) {
	given, err := ref.Parse(text)
	if err != nil || given.Digest != "" {
		return "", false
	}
	for _, key := range []string{text, given.String(), given.OrLatest().String()} {
		to, ok := pins[key]
		if !ok {
			continue
		}
		if r, err := ref.Parse(to); err == nil && r.Digest != "" && (r == given.At(r.Digest) || r == given.OrLatest().At(r.Digest)) {
			return to, true
		}
	}
	return "", false
}

// place is a text that is an image, or may hold some.
type place struct {
	kind         Kind
	object, path string
	text         string
	name         string // what the text is the value of: an option, a variable, a field
	err          error
	set          func(string) // nil: not ours to change
}

// maxNesting bounds how deep objects are looked into; those of Kubernetes are not nearly as deep.
const maxNesting = 100

type walker struct {
	object string
	custom bool // of a kind that Kubernetes itself does not have
	visit  func(place)
}

func walk(o map[string]any, visit func(place)) {
	kind, _ := o["kind"].(string)
	items, ok := o["items"].([]any)
	if !ok || !strings.HasSuffix(kind, "List") {
		walkObject(o, visit)
		return
	}
	rest := map[string]any{} // a custom resource may be called so, and have items beside its pods
	for key, v := range o {
		rest[key] = v
	}
	var others []any
	for _, item := range items {
		if m, ok := item.(map[string]any); ok && m["kind"] != nil {
			walkObject(m, visit)
		} else {
			others = append(others, item)
		}
	}
	rest["items"] = others
	walkObject(rest, visit)
}

func walkObject(o map[string]any, visit func(place)) {
	w := &walker{object: name(o), custom: custom(o), visit: visit}
	kind, _ := o["kind"].(string)
	if version, _ := o["apiVersion"].(string); kind == "ConfigMap" && version == "v1" {
		if data, ok := o["data"].(map[string]any); ok {
			for _, key := range keys(data) {
				if text, ok := data[key].(string); ok {
					visit(place{kind: Suspect, object: w.object, path: "data" + field(key), text: text, name: key})
				}
			}
		}
	}
	w.look(o, "", 0)
}

// look goes through all fields, for containers, volumes of images, annotations, and fields of custom resources.
func (w *walker) look(v any, path string, depth int) {
	if depth > maxNesting {
		return
	}
	switch v := v.(type) {
	case []any:
		for i, one := range v {
			w.look(one, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
	case map[string]any:
		for _, key := range keys(v) {
			at := strings.TrimPrefix(path+field(key), ".")
			w.field(v, key, at)
			w.look(v[key], at, depth+1)
		}
	}
}

func (w *walker) field(m map[string]any, key, path string) {
	switch key {
	case "containers", "initContainers", "ephemeralContainers":
		list, _ := m[key].([]any)
		for i, one := range list {
			if c, ok := one.(map[string]any); ok {
				w.container(c, path+"["+strconv.Itoa(i)+"]")
			}
		}
	case "volumes":
		list, _ := m[key].([]any)
		for i, one := range list {
			volume, _ := one.(map[string]any)
			if image, ok := volume["image"].(map[string]any); ok {
				w.image(image, "reference", path+"["+strconv.Itoa(i)+"].image.reference")
			}
		}
	case "annotations":
		if !strings.HasSuffix(path, "metadata.annotations") {
			return
		}
		all, _ := m[key].(map[string]any)
		for _, name := range keys(all) {
			// kubectl keeps the whole object there, whose images are found where they stand.
			if text, ok := all[name].(string); ok && name != "kubectl.kubernetes.io/last-applied-configuration" {
				w.visit(place{kind: Suspect, object: w.object, path: path + field(name), text: text, name: name})
			}
		}
	default:
		text, ok := m[key].(string)
		if ok && w.custom && namesImage(key) && !ofContainer.MatchString(path) {
			w.visit(place{kind: Suspect, object: w.object, path: path, text: text, name: key})
		}
	}
}

// ofContainer are the images that field has visited with their container.
var ofContainer = regexp.MustCompile(`(?:^|\.)(?:containers|initContainers|ephemeralContainers)\[[0-9]+\]\.image$`)

func (w *walker) container(c map[string]any, path string) {
	w.image(c, "image", path+".image")
	for _, key := range []string{"command", "args"} {
		list, _ := c[key].([]any)
		before := ""
		for i, one := range list {
			text, ok := one.(string)
			if !ok {
				before = ""
				continue
			}
			option := ""
			if strings.HasPrefix(before, "-") && !strings.Contains(before, "=") && !strings.HasPrefix(text, "-") {
				option = before // --image, and the image in an argument of its own
			}
			w.visit(place{kind: Suspect, object: w.object, path: path + "." + key + "[" + strconv.Itoa(i) + "]", text: text, name: option, set: func(s string) { list[i] = s }})
			before = text
		}
	}
	env, _ := c["env"].([]any)
	for i, one := range env {
		variable, _ := one.(map[string]any)
		if text, ok := variable["value"].(string); ok {
			name, _ := variable["name"].(string)
			w.visit(place{kind: Suspect, object: w.object, path: path + ".env[" + strconv.Itoa(i) + "].value", text: text, name: name, set: func(s string) { variable["value"] = s }})
		}
	}
}

func (w *walker) image(m map[string]any, key, path string) {
	v, there := m[key]
	if !there || v == nil || v == "" {
		return // filled in later, by whoever makes pods of it
	}
	p := place{kind: Image, object: w.object, path: path, set: func(s string) { m[key] = s }}
	var ok bool
	if p.text, ok = v.(string); !ok {
		p.text, p.err = fmt.Sprint(v), errNoText
	}
	w.visit(p)
}

var errNoText = errors.New("the image is no text")

func name(o map[string]any) string {
	kind, _ := o["kind"].(string)
	metadata, _ := o["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if namespace, _ := metadata["namespace"].(string); namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(kind + " " + name)
}

// custom says whether an object's group is not one of Kubernetes' own.
func custom(o map[string]any) bool {
	version, _ := o["apiVersion"].(string)
	group, _, ok := strings.Cut(version, "/")
	return ok && strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io")
}

func keys(m map[string]any) []string {
	all := make([]string, 0, len(m))
	for k := range m {
		all = append(all, k)
	}
	sort.Strings(all)
	return all
}

var plainField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

func field(key string) string {
	if plainField.MatchString(key) {
		return "." + key
	}
	return "[" + strconv.Quote(key) + "]"
}
