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
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("events.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("events.json")
	if err != nil {
		t.Fatal(err)
	}
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
	for _, bad := range []string{`{}`, `{"schema_version":1,"time":"yesterday","event":"warning","message":"x"}`, `{"schema_version":1,"time":"2026-11-23T14:05:06Z","event":"check","id":"X","title":"x","outcome":"fine","duration_ns":1}`} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(v) == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}
