package conformance

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// document is a tiny one: a kind A that contains itself, and a version of it that is not stable.
func document(property string) []byte {
	kind := func(version string) string {
		return `{"type": "object", "x-kubernetes-group-version-kind": [{"group": "g.h", "kind": "A", "version": "` + version + `"}],
			"properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"$ref": "#/definitions/m.ObjectMeta"}, "x": ` + property + `}}`
	}
	return []byte(`{"definitions": {
		"m.ObjectMeta": {"type": "object", "description": "about", "required": ["name"], "properties": {"name": {"type": "string"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
		"q.Quantity": {"type": "string"}, "q.IntOrString": {"type": "string", "format": "int-or-string"}, "q.Any": {"type": "object"},
		"q.Tree": {"type": "object", "properties": {"more": {"type": "array", "items": {"$ref": "#/definitions/q.Tree"}}}},
		"q.Open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "boolean"}}},
		"g.A": ` + kind("v1") + `, "g.A1": ` + kind("v1beta1") + `}}`)
}

func TestSchemas(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		property     string
		want         string // of the property
		definitions  string // besides that of the metadata
	}{
		{"a string", "optional, so null is nothing", `{"type": "string", "description": "x", "x-kubernetes-list-type": "set"}`, `{"type": ["string", "null"]}`, `{}`},
		{"a list", "its items are there or not", `{"type": "array", "items": {"type": "string"}}`, `{"type": ["array", "null"], "items": {"type": "string"}}`, `{}`},
		{"a quantity", "written as a number too", `{"$ref": "#/definitions/q.Quantity"}`, `{"$ref": "#/definitions/q.Quantity?"}`, `{"q.Quantity?": {"type": ["string", "number", "null"]}}`},
		{"a number or a name", "", `{"$ref": "#/definitions/q.IntOrString"}`, `{"$ref": "#/definitions/q.IntOrString?"}`, `{"q.IntOrString?": {"type": ["string", "integer", "null"]}}`},
		{"anything", "an object without properties is open", `{"$ref": "#/definitions/q.Any"}`, `{"$ref": "#/definitions/q.Any?"}`, `{"q.Any?": {"type": ["object", "null"]}}`},
		{"what contains itself", "no end otherwise", `{"$ref": "#/definitions/q.Tree"}`, `{"$ref": "#/definitions/q.Tree?"}`,
			`{"q.Tree?": {"type": ["object", "null"], "additionalProperties": false, "properties": {"more": {"type": ["array", "null"], "items": {"$ref": "#/definitions/q.Tree"}}}},
			  "q.Tree": {"type": "object", "additionalProperties": false, "properties": {"more": {"type": ["array", "null"], "items": {"$ref": "#/definitions/q.Tree"}}}}}`},
		{"unknown fields kept", "as the document says", `{"$ref": "#/definitions/q.Open"}`, `{"$ref": "#/definitions/q.Open?"}`, `{"q.Open?": {"type": ["object", "null"], "properties": {"a": {"type": ["boolean", "null"]}}}}`},
		{"a format", "", `{"type": "string", "format": "date-time"}`, `{"type": ["string", "null"], "format": "date-time"}`, `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, err := Schemas(document(tt.property))
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 {
				t.Fatalf("%d schemas, want that of the stable version alone", len(all))
			}
			var got, want any
			if err := json.Unmarshal(all["a-g-v1.json"], &got); err != nil {
				t.Fatal(err)
			}
			definitions := strings.TrimSuffix(strings.TrimPrefix(tt.definitions, "{"), "}")
			if definitions != "" {
				definitions = "," + definitions
			}
			if err := json.Unmarshal([]byte(`{"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "additionalProperties": false, "required": ["apiVersion", "kind", "metadata"],
				"properties": {"apiVersion": {"enum": ["g.h/v1"]}, "kind": {"enum": ["A"]}, "metadata": {"$ref": "#/definitions/m.ObjectMeta"}, "x": `+tt.want+`},
				"definitions": {"m.ObjectMeta": {"type": "object", "additionalProperties": false, "required": ["name"],
					"properties": {"name": {"type": "string"}, "labels": {"type": ["object", "null"], "additionalProperties": {"type": "string"}}}}`+definitions+`}}`), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", tt.reason, diff)
			}
		})
	}
}

func TestSchemasRefuse(t *testing.T) {
	for _, tt := range []struct{ name, document, want string }{
		{"no JSON", "{", "parse the OpenAPI document"},
		{"a reference to nowhere", string(document(`{"$ref": "#/definitions/none"}`)), `reference "#/definitions/none" leads nowhere`},
		{"an unknown keyword", string(document(`{"type": "string", "pattern": "^a$"}`)), `keyword "pattern"`},
		{"an unknown keyword with a list", string(document(`{"allOf": []}`)), `keyword "allOf"`},
		{"an unknown keyword with a schema", string(document(`{"not": {}}`)), `keyword "not"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Schemas([]byte(tt.document)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
