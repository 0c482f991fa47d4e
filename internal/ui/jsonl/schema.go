package jsonl

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/event"
)

// Examples holds one event of every kind, in the order of the documentation.
func Examples() []event.Event {
	target := event.Target{Context: "demo", Server: "https://127.0.0.1:6443", ClusterARN: "arn:aws:eks:us-east-1:123456789012:cluster/demo", Namespace: "nops", Release: "nops-kubernetes-agent", ToVersion: "0.1.0"}
	return []event.Event{
		event.OperationStarted{Operation: "install", Target: target},
		event.StepStarted{Step: "wait", Title: "waiting for 4 components"},
		event.Component{Component: "vmagent", Object: "Deployment nops/nops-vmagent", State: "degraded", Reason: "ImagePullBackOff", Message: "registry.example/vmagent:v1.130.0: not found", Desired: 1},
		event.StepFinished{Step: "wait", Title: "4 components ready", Outcome: event.OK, Duration: 12 * time.Second},
		event.Warning{ID: "NOPS-VAL-001", Message: "value autoUpater.enabled is a misspelling of autoUpdater.enabled; it is honoured", Hint: "write autoUpdater.enabled"},
		event.Check{ID: "NOPS-NET-001", Leg: "here", Destination: "app.nops.io:443", Stage: "dns", Title: "the name of the nOps API resolves", Outcome: event.Failed, Reason: "nxdomain", Message: "app.nops.io: the name does not exist", Hint: "check this machine's DNS", Duration: 3 * time.Millisecond},
		event.Evidence{Object: "Pod nops/nops-vmagent-0", Source: "log", Text: "cannot read the configuration"},
		event.OperationFinished{Operation: "install", Outcome: event.OK, Message: "nops-kubernetes-agent 0.1.0 is installed", Target: target, Revision: 1, Duration: 20 * time.Second},
	}
}

// Field is one field of a line.
type Field struct {
	Name     string
	Type     string // as documented: "string", "integer", "time", "array of string", …
	Optional bool
	Fields   []Field // of an object, or of the objects of an array

	schema map[string]any
}

// Fields describes the fields of an event, those of the stream aside. It panics for a type that it cannot describe, so that
// whoever adds a field of a new sort finds out in the first test.
func Fields(e event.Event) []Field { return fields(reflect.TypeOf(e)) }

func fields(t reflect.Type) []Field {
	var list []Field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := t.Name() + "." + f.Name
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous, name == "", strings.Contains(options, "string"):
			panic(at + ": a field of an event has a name of its own in JSON, and no other form than its type's")
		}
		field := typeOf(at, f.Type)
		field.Name = name
		// encoding/json never takes a struct for empty.
		field.Optional = strings.Contains(options, "omitzero") || strings.Contains(options, "omitempty") && f.Type.Kind() != reflect.Struct
		if nillable(f.Type) && !field.Optional {
			field.Type += " or null"
			field.schema["type"] = []any{field.schema["type"], "null"}
		}
		list = append(list, field)
	}
	return list
}

func nillable(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map
}

// typeOf describes a type the way encoding/json writes it.
func typeOf(at string, t reflect.Type) Field {
	plain := func(name string) Field { return Field{Type: name, schema: map[string]any{"type": name}} }
	address := reflect.PointerTo(t) // has the methods of both
	switch {
	case t.Kind() == reflect.Pointer:
		return typeOf(at, t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return Field{Type: "time", schema: map[string]any{"type": "string", "format": "date-time"}}
	case address.Implements(reflect.TypeFor[json.Marshaler]()), address.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		panic(at + ": " + t.String() + " writes itself, in a form nobody knows here")
	}
	switch t.Kind() { //nolint:exhaustive // the rest has no place in an event
	case reflect.String:
		return plain("string")
	case reflect.Bool:
		return plain("boolean")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return plain("integer")
	case reflect.Float32, reflect.Float64:
		return plain("number")
	case reflect.Slice, reflect.Array:
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			return Field{Type: "string (base64)", schema: map[string]any{"type": "string", "contentEncoding": "base64"}}
		}
		inner := typeOf(at+"[]", t.Elem())
		return Field{Type: "array of " + inner.Type, Fields: inner.Fields, schema: map[string]any{"type": "array", "items": element(t.Elem(), inner)}}
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			inner := typeOf(at+"[]", t.Elem())
			return Field{Type: "object of " + inner.Type, schema: map[string]any{"type": "object", "additionalProperties": element(t.Elem(), inner)}}
		}
	case reflect.Struct:
		inner := fields(t)
		return Field{Type: "object", Fields: inner, schema: objectSchema(inner)}
	}
	panic(at + ": a field of an event cannot be a " + t.String())
}

// element is the schema of what an array or a map holds.
func element(t reflect.Type, f Field) map[string]any {
	if nillable(t) {
		f.schema["type"] = []any{f.schema["type"], "null"}
	}
	return f.schema
}

// Schema is the JSON Schema (draft 2020-12) of a line. A later version may add fields, events and outcomes: they are let
// through, so that who validates lines does not break by it.
func Schema() map[string]any {
	var variants, kinds []any
	for _, e := range Examples() {
		variants = append(variants, line(string(e.Kind()), objectSchema(Fields(e)), map[string]any{"const": string(e.Kind())}))
		kinds = append(kinds, string(e.Kind()))
	}
	later := objectSchema(nil)
	variants = append(variants, line("an event of a later version", later, map[string]any{"type": "string", "not": map[string]any{"enum": kinds}}))
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     "https://github.com/nopsctl/nopsctl/docs/events.schema.json",
		"title":   "One line of nopsctl -o jsonl",
		"oneOf":   variants,
	}
}

// line adds what the stream adds to the fields of an event.
func line(title string, object, kind map[string]any) map[string]any {
	properties, _ := object["properties"].(map[string]any)
	properties["schema_version"] = map[string]any{"const": SchemaVersion}
	properties["time"] = map[string]any{"type": "string", "format": "date-time"}
	properties["event"] = kind
	required, _ := object["required"].([]any)
	object["required"] = append([]any{"schema_version", "time", "event"}, required...)
	object["title"] = title
	return object
}

func objectSchema(list []Field) map[string]any {
	properties := map[string]any{}
	required := []any{}
	for _, f := range list {
		if f.Name == "outcome" {
			f.schema["description"], f.schema["examples"] = "take one that you do not know for unknown", outcomes()
		}
		properties[f.Name] = f.schema
		if !f.Optional {
			required = append(required, f.Name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

func outcomes() []any {
	return []any{
		string(event.OK), string(event.Unchanged), string(event.Skipped), string(event.Warned),
		string(event.Failed), string(event.TimedOut), string(event.Cancelled), string(event.Unknown),
	}
}
