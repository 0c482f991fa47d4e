package crds

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

var update = flag.Bool("update", false, "rewrite the chart's definitions")

const (
	dir      = "../../../embedded-chart/chart/files/crds"
	upstream = "deploy/vpa-v1-crd-gen.yaml"
	module   = "k8s.io/autoscaler/vertical-pod-autoscaler"
)

// object is a node of a document.
type object = map[string]any

func at(o object, path ...string) object {
	for _, name := range path {
		o, _ = o[name].(object)
	}
	return o
}

// quantity is how definitions write one.
func quantity() object {
	return object{"anyOf": []any{object{"type": "integer"}, object{"type": "string"}}, "x-kubernetes-int-or-string": true}
}

// explanations and application are the schema of rightsizing.Explanation and rightsizing.Application.
func explanations() object {
	return object{"type": "array", "description": "How each recommendation came to be: usage, percentile, margin, and what changed it from there.", "items": object{
		"type": "object", "required": []any{"container", "resource", "result"},
		"properties": object{
			"container": object{"type": "string"}, "resource": object{"type": "string"}, "level": object{"type": "string"},
			"since": object{"type": "string", "format": "date-time"}, "samples": object{"type": "integer"},
			"median": quantity(), "percentile": object{"type": "number"}, "atPercentile": quantity(), "peak": quantity(), "margin": object{"type": "number"},
			"local": quantity(), "held": quantity(), "heldSince": object{"type": "string", "format": "date-time"}, "result": quantity(),
			"steps": object{"type": "array", "items": object{"type": "object", "properties": object{"rule": object{"type": "string"}, "why": object{"type": "string"}, "to": quantity()}}},
		},
	}}
}

func application() object {
	moment := object{"type": "string", "format": "date-time"}
	count := object{"type": "integer", "format": "int64"}
	return object{"type": "object", "description": "What became of the recommendation.", "properties": object{
		"state": object{"type": "string"}, "message": object{"type": "string"}, "since": moment, "notBefore": moment, "lastChange": moment,
		"requests": object{"type": "object", "additionalProperties": object{"type": "object", "additionalProperties": quantity()}},
		"inPlace":  count, "evicted": count, "failed": count,
		"recent": object{"type": "array", "items": object{"type": "object", "properties": object{
			"at": moment, "inPlace": count, "evicted": count, "failed": count, "why": object{"type": "string"},
		}}},
	}}
}

// ours turns a definition of upstream's into what the chart's template puts under spec.
func ours(t *testing.T, d object) (plural string, spec object) {
	t.Helper()
	spec = at(d, "spec")
	spec["group"] = rightsizing.Group
	names := at(spec, "names")
	plural, _ = names["plural"].(string)
	short := map[string]string{"verticalpodautoscalers": "nvpa", "verticalpodautoscalercheckpoints": "nvpacheckpoint"}[plural]
	if short == "" {
		t.Fatalf("upstream defines %q, which is new", plural)
	}
	names["shortNames"] = []any{short} // upstream's own would make `kubectl get vpa` ambiguous
	versions, _ := spec["versions"].([]any)
	versions = slices.DeleteFunc(versions, func(v any) bool { return v.(object)["name"] != rightsizing.Version })
	if len(versions) != 1 {
		t.Fatalf("upstream's %s has %d versions named %s", plural, len(versions), rightsizing.Version)
	}
	spec["versions"] = versions
	if plural != "verticalpodautoscalers" {
		return plural, spec
	}
	version, _ := versions[0].(object)
	status := at(version, "schema", "openAPIV3Schema", "properties", "status", "properties")
	if status == nil || status["explanations"] != nil || status["application"] != nil {
		t.Fatalf("the status of upstream's %s: %v", plural, status)
	}
	status["explanations"], status["application"] = explanations(), application()
	columns, _ := version["additionalPrinterColumns"].([]any)
	version["additionalPrinterColumns"] = slices.Insert(columns, 3, any(object{"name": "State", "type": "string", "jsonPath": ".status.application.state"}))
	return plural, spec
}

func TestDefinitionsAreUpstreams(t *testing.T) {
	where, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("where is %s: %v", module, err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(where)), upstream))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, one := range bytes.Split(text, []byte("\n---\n")) {
		var d object
		if err := yaml.Unmarshal(one, &d); err != nil {
			t.Fatal(err)
		}
		if len(d) == 0 {
			continue
		}
		found++
		plural, spec := ours(t, d)
		body, err := yaml.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]byte("# Made from the Kubernetes VPA's definition of the release that is linked in (agents/vpa/crds), in a group of its own, so that\n# both live in one cluster.\n"), body...)
		path := filepath.Join(dir, plural+".yaml")
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what upstream's definition makes: go test ./vpa/crds -update (%v)", path, err)
		}
	}
	if found != 2 {
		t.Errorf("%d definitions, want 2", found)
	}
}

// The schema has the fields of the Go type, and those alone: another would be pruned, or promise what nobody reads.
func TestPolicyHasItsFields(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dir, "rightsizingpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var spec object
	if err := yaml.UnmarshalStrict(text, &spec); err != nil {
		t.Fatal(err)
	}
	versions, _ := spec["versions"].([]any)
	properties := at(versions[0].(object), "schema", "openAPIV3Schema", "properties")
	fields, durations := 0, 0
	var compare func(path string, schema object, of reflect.Type)
	compare = func(path string, schema object, of reflect.Type) {
		for of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		switch {
		case schema == nil:
			t.Errorf("%s is missing", path)
		case schema["description"] == nil && strings.Count(path, ".") == 1 && !strings.ContainsAny(path, "[{"):
			t.Errorf("%s has no description", path)
		}
		switch of {
		case reflect.TypeFor[metav1.Duration]():
			durations++
			isDuration(t, path, schema)
			return
		case reflect.TypeFor[metav1.LabelSelector]():
			// What is not among the fields of a selector would choose everything.
			labels, expressions := at(schema, "properties", "matchLabels"), at(schema, "properties", "matchExpressions", "items")
			if at(labels, "additionalProperties")["type"] != "string" || len(at(expressions, "properties")) != 3 || schema["x-kubernetes-preserve-unknown-fields"] != nil {
				t.Errorf("%s lets in what is no selector: %v", path, schema)
			}
			return
		case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[metav1.Condition]():
			return
		}
		switch of.Kind() {
		case reflect.Slice:
			compare(path+"[]", at(schema, "items"), of.Elem())
		case reflect.Map:
			// By resource; others are not sized.
			have := at(schema, "properties")
			if len(have) != 2 {
				t.Errorf("%s: %v", path, have)
			}
			compare(path+"{cpu}", at(have, "cpu"), of.Elem())
			compare(path+"{memory}", at(have, "memory"), of.Elem())
		case reflect.Struct:
			have := at(schema, "properties")
			known := map[string]bool{}
			for _, f := range reflect.VisibleFields(of) {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if f.Anonymous || name == "" {
					continue
				}
				known[name] = true
				fields++
				compare(path+"."+name, at(have, name), f.Type)
			}
			for name := range have {
				if !known[name] {
					t.Errorf("%s.%s is in the definition, and no field", path, name)
				}
			}
		default:
		}
	}
	compare("spec", at(properties, "spec"), reflect.TypeFor[rightsizing.PolicySpec]())
	compare("status", at(properties, "status"), reflect.TypeFor[rightsizing.PolicyStatus]())
	if durations != 3 {
		t.Errorf("%d durations were looked at, want 3", durations)
	}
	if fields < 40 {
		t.Errorf("only %d fields were compared", fields)
	}
}

// TestNumbersOfAPolicy: the definition lets in what the parts read, and refuses what they refuse. A policy that is stored and that nobody can read
// changes nothing; a setting that is read and that no policy can have is nobody's.
func TestNumbersOfAPolicy(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dir, "rightsizingpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var spec object
	if err := yaml.UnmarshalStrict(text, &spec); err != nil {
		t.Fatal(err)
	}
	versions, _ := spec["versions"].([]any)
	fields := at(versions[0].(object), "schema", "openAPIV3Schema", "properties", "spec", "properties")
	for _, c := range []struct {
		path     string
		settings string // with a number
		most     float64
		further  bool // settings that a person wrote may be larger, for they always could
	}{
		{"limits.cpu.headroom", `{"policy":"p","limits":{"cpu":{"mode":"Headroom","headroom":%d}}}`, rightsizing.MaxHeadroom, false},
		{"limits.memory.headroom", `{"policy":"p","limits":{"memory":{"mode":"Headroom","headroom":%d}}}`, rightsizing.MaxHeadroom, false},
		{"maxStep.down", `{"policy":"p","maxStep":{"down":%d}}`, rightsizing.MaxStepDown, false},
		{"maxStep.up", `{"policy":"p","maxStep":{"up":%d}}`, 10000, true},
	} {
		schema := object{"properties": fields}
		for _, name := range strings.Split(c.path, ".") {
			schema = at(schema, "properties", name)
		}
		least, _ := schema["minimum"].(float64)
		most, _ := schema["maximum"].(float64)
		if schema["minimum"] == nil || least != 0 || most != c.most {
			t.Errorf("%s: the definition has %v to %v, want 0 to %v", c.path, schema["minimum"], schema["maximum"], c.most)
		}
		for number, want := range map[int]bool{-1: false, 0: true, int(most): true, int(most) + 1: c.further} {
			settings := fmt.Sprintf(c.settings, number)
			_, err := rules.Effective(&vpav1.VerticalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{rightsizing.AnnotationSettings: settings}}})
			if (err == nil) != want {
				t.Errorf("%s: %v, is to be read: %t", settings, err, want)
			}
		}
	}
}

// isDuration says whether a schema lets in what Go reads as a duration that is not negative, and nothing else: what it lets in by mistake
// makes a policy that nobody can read.
func isDuration(t *testing.T, path string, schema object) {
	t.Helper()
	text, _ := schema["pattern"].(string)
	pattern, err := regexp.Compile(text)
	if err != nil || text == "" {
		t.Errorf("%s: pattern %q: %v", path, text, err)
		return
	}
	for value, want := range map[string]bool{
		"0": true, "30m": true, "72h": true, "1h30m": true, "1.5h": true, ".5h": true, "1.h": true, "0s": true, "90s": true, "500ms": true,
		"": false, "3d": false, "1w": false, "-1h": false, "1": false, "1 h": false, "h": false, ".h": false, "30m ": false, "1H": false, "P1D": false, "1h30": false,
	} {
		d, err := time.ParseDuration(value)
		if reads := err == nil && d >= 0; reads != want {
			t.Fatalf("%q: the table is wrong", value)
		}
		if got := pattern.MatchString(value); got != want {
			t.Errorf("%s: %q is let in: %t, want %t", path, value, got, want)
		}
	}
}

// Every name and word of a policy can be written bare. What YAML takes for something else (off, on, yes, no) would have to be quoted, and
// nobody knows that before it went wrong.
func TestWordsOfAPolicyNeedNoQuotes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dir, "rightsizingpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var spec object
	if err := yaml.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	var collect func(o any)
	collect = func(o any) {
		switch o := o.(type) {
		case []any:
			for _, one := range o {
				collect(one)
			}
		case object:
			for name := range at(o, "properties") {
				words[name] = true
			}
			if enum, is := o["enum"].([]any); is {
				for _, w := range enum {
					words[w.(string)] = true
				}
			}
			for _, one := range o {
				collect(one)
			}
		}
	}
	collect(spec)
	if len(words) < 50 {
		t.Fatalf("only %d words", len(words))
	}
	for w := range words {
		var got any
		if err := yaml.Unmarshal([]byte(w), &got); err != nil || got != w {
			t.Errorf("%s, written bare, is %v (%T, %v)", w, got, got, err)
		}
	}
}
