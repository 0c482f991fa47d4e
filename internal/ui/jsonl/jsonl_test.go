package jsonl

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nopsctl/nopsctl/pkg/event"
)

var update = flag.Bool("update", false, "rewrite golden files")

func at() time.Time { return time.Date(2026, 11, 23, 14, 5, 6, 789e6, time.UTC) }

func TestGolden(t *testing.T) {
	var buf bytes.Buffer
	f := New(&buf, at)
	for _, e := range Examples() {
		f.Observe(e)
	}
	f.Close()
	f.Observe(event.Warning{Message: "after the end"})
	golden := filepath.Join("testdata", "events.jsonl")
	if *update {
		if err := os.WriteFile(golden, buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), buf.String()); diff != "" {
		t.Errorf("lines changed; within a schema version fields may only be added (-want +got):\n%s", diff)
	}
}

// TestExamplesAreComplete compares the examples with the source of pkg/event: a new kind must be documented.
func TestExamplesAreComplete(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "..", "pkg", "event", "event.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if fn, ok := n.(*ast.FuncDecl); ok && fn.Name.Name == "sealed" {
			kinds++
		}
		return true
	})
	if kinds == 0 || kinds != len(Examples()) {
		t.Errorf("%d kinds of events, %d examples", kinds, len(Examples()))
	}
}

// TestSchemaHolds validates every line against the schema, and shows that the schema can refuse.
func TestSchemaHolds(t *testing.T) {
	data, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, doc)
	for _, e := range Examples() {
		line, err := Line(at(), e)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", e.Kind(), err)
		}
	}
	for _, tt := range []struct {
		name, reason, line string
		good               bool
	}{
		{"nothing", "a line has a version, a time and an event", `{}`, false},
		{"time", "RFC 3339", `{"schema_version":1,"time":"yesterday","event":"warning","message":"x"}`, false},
		{"outcome of another type", "it is a word", `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"check","id":"X","title":"x","outcome":5,"duration_ns":1}`, false},
		{"a known event, incomplete", "it must not pass for one of a later version", `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"check","id":"X","outcome":"ok","duration_ns":1}`, false},
		{"a field of a later version", "fields may be added", `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"warning","message":"x","colour":"red"}`, true},
		{"an outcome of a later version", "outcomes may be added", `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"check","id":"X","title":"x","outcome":"fine","duration_ns":1}`, true},
		{"an event of a later version", "events may be added", `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"progress","percent":5}`, true},
		{"an event of a later version without time", "what the stream adds is always there", `{"schema_version":1,"event":"progress"}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(tt.line))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); (err == nil) != tt.good {
				t.Errorf("%s: %v: %s", tt.line, err, tt.reason)
			}
		})
	}
}

func compile(t *testing.T, doc any) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("events.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("events.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

type inner struct {
	Name string `json:"name"`
}

// sorts is a struct with a field of every sort that an event may have one day.
type sorts struct {
	Word     string            `json:"word"`
	Flag     bool              `json:"flag"`
	Count    uint8             `json:"count"`
	Share    float64           `json:"share"`
	At       time.Time         `json:"at"`
	Took     time.Duration     `json:"took_ns"`
	Words    []string          `json:"words"`
	Inners   []inner           `json:"inners,omitempty"`
	Pair     [2]int            `json:"pair"`
	Labels   map[string]string `json:"labels"`
	Byname   map[string]*inner `json:"by_name,omitempty"`
	Bytes    []byte            `json:"bytes"`
	Ended    *time.Time        `json:"ended"`
	Inner    *inner            `json:"inner,omitempty"`
	Always   inner             `json:"always,omitempty"` // a struct is never empty
	Zero     inner             `json:"zero,omitzero"`
	Internal string            `json:"-"`
	hidden   int
}

// TestFieldsOfEverySort holds what the schema says of a type against what encoding/json makes of it, empty and full.
func TestFieldsOfEverySort(t *testing.T) {
	now := at()
	list := fields(reflect.TypeFor[sorts]())
	data, err := json.Marshal(objectSchema(list))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, doc)
	full := sorts{
		"word", true, 7, 0.5, now, time.Second, []string{"a"}, []inner{{"x"}}, [2]int{1, 2}, map[string]string{"a": "b"}, map[string]*inner{"a": {"x"}, "b": nil}, []byte("bytes"),
		&now, &inner{"x"}, inner{"x"}, inner{"x"}, "internal", 1,
	}
	written := map[string]any{}
	for _, v := range []sorts{{}, full} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s\n%v", data, err)
		}
		if err := json.Unmarshal(data, &written); err != nil {
			t.Fatal(err)
		}
	}
	// Each field alone, with a value of another type, must be refused: a schema that says nothing of it would pass all.
	for _, f := range list {
		broken := map[string]any{}
		for k, v := range written {
			broken[k] = v
		}
		broken[f.Name] = map[string]any{"a": 1, "name": 2}
		if f.Type == "object" || strings.HasPrefix(f.Type, "object of") {
			broken[f.Name] = "text"
		}
		if schema.Validate(broken) == nil {
			t.Errorf("field %s (%s) may be anything", f.Name, f.Type)
		}
	}
	if len(list) != 16 || len(written) != 16 {
		t.Errorf("%d fields described, %d written, want 16", len(list), len(written))
	}
}

// TestNoFieldGoesUndescribed: what has no form in the schema must not be documented as something else.
func TestNoFieldGoesUndescribed(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		typ          reflect.Type
	}{
		{"interface", "it can be anything", reflect.TypeFor[struct {
			X any `json:"x"`
		}]()},
		{"function", "it has no JSON", reflect.TypeFor[struct {
			X func() `json:"x"`
		}]()},
		{"channel", "it has no JSON", reflect.TypeFor[struct {
			X chan int `json:"x"`
		}]()},
		{"complex", "it has no JSON", reflect.TypeFor[struct {
			X complex128 `json:"x"`
		}]()},
		{"map by number", "its keys are written as strings", reflect.TypeFor[struct {
			X map[int]string `json:"x"`
		}]()},
		{"own marshaler", "nobody here knows its form", reflect.TypeFor[struct {
			X json.RawMessage `json:"x"`
		}]()},
		{"within a slice", "all the way down", reflect.TypeFor[struct {
			X []any `json:"x"`
		}]()},
		{"without a tag", "names in JSON are chosen, not derived", reflect.TypeFor[struct{ X string }]()},
		{"embedded", "its fields would take the names of others", reflect.TypeFor[struct{ inner }]()},
		{"as a string", "the schema would say integer", reflect.TypeFor[struct {
			X int `json:"x,string"`
		}]()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("described as %+v: %s", fields(tt.typ), tt.reason)
				}
			}()
			_ = fields(tt.typ)
		})
	}
}
