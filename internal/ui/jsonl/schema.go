package jsonl

import (
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
		event.Check{ID: "NOPS-NET-001", Leg: "here", Destination: "app.nops.io:443", Stage: "dns", Title: "the name of the nOps API resolves", Outcome: event.OK, Message: "192.0.2.1", Duration: 3 * time.Millisecond},
		event.Evidence{Object: "Pod nops/nops-vmagent-0", Source: "log", Text: "cannot read the configuration"},
		event.OperationFinished{Operation: "install", Outcome: event.OK, Message: "nops-kubernetes-agent 0.1.0 is installed", Revision: 1, Duration: 20 * time.Second},
	}
}

// Field is one field of a line.
type Field struct {
	Name     string
	Type     string // of JSON Schema
	Optional bool
	Fields   []Field // of an object
}

// Fields describes the fields of an event, those of the stream aside.
func Fields(e event.Event) []Field { return fields(reflect.TypeOf(e)) }

func fields(t reflect.Type) []Field {
	var list []Field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		field := Field{Name: name, Type: jsonType(f.Type), Optional: strings.Contains(options, "omitempty")}
		if f.Type.Kind() == reflect.Struct {
			field.Fields = fields(f.Type)
		}
		list = append(list, field)
	}
	return list
}

func jsonType(t reflect.Type) string {
	switch t.Kind() { //nolint:exhaustive // the kinds that events have
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Struct:
		return "object"
	default:
		return "integer"
	}
}

// Schema is the JSON Schema (draft 2020-12) of a line. Unknown fields are allowed: a later version may add some.
func Schema() map[string]any {
	var variants []any
	for _, e := range Examples() {
		object := objectSchema(Fields(e))
		properties, _ := object["properties"].(map[string]any)
		properties["schema_version"] = map[string]any{"const": SchemaVersion}
		properties["time"] = map[string]any{"type": "string", "format": "date-time"}
		properties["event"] = map[string]any{"const": string(e.Kind())}
		required, _ := object["required"].([]any)
		object["required"] = append([]any{"schema_version", "time", "event"}, required...)
		object["title"] = string(e.Kind())
		variants = append(variants, object)
	}
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     "https://github.com/nopsctl/nopsctl/docs/events.schema.json",
		"title":   "One line of nopsctl -o jsonl",
		"oneOf":   variants,
	}
}

func objectSchema(list []Field) map[string]any {
	properties := map[string]any{}
	required := []any{}
	for _, f := range list {
		property := map[string]any{"type": f.Type}
		if f.Type == "object" {
			property = objectSchema(f.Fields)
		}
		if f.Name == "outcome" {
			property["enum"] = outcomes()
		}
		properties[f.Name] = property
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
