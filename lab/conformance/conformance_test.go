package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const chart = "../../embedded-chart"

// rendered is one golden render, which the chart's own tests hold against its templates.
type rendered struct {
	name    string
	path    string
	objects []Object
}

// names are those of the files of a directory of the chart's test data.
func names(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(chart, "testdata", dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range paths {
		all = append(all, strings.TrimSuffix(filepath.Base(path), ".yaml"))
	}
	if len(all) < 30 {
		t.Fatalf("only %d %s", len(all), dir)
	}
	return all
}

func renders(t *testing.T) []rendered {
	t.Helper()
	var p Parser
	var all []rendered
	for _, name := range names(t, "golden") {
		path := filepath.Join(chart, "testdata", "golden", name+".yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := p.Parse(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(objects) < 4 {
			t.Errorf("%s: only %d objects", path, len(objects))
		}
		all = append(all, rendered{name, path, objects})
	}
	return all
}

// TestEveryCaseHasItsRender: what is judged here is all that the chart is tried with.
func TestEveryCaseHasItsRender(t *testing.T) {
	cases, have := names(t, "cases"), names(t, "golden")
	for _, name := range cases {
		if !slices.Contains(have, name) {
			t.Errorf("case %s has no render", name)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, reason, render string
		want                 []string
		wrong                string
	}{
		{"as the chart's tests write it", "", "---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\napiVersion: v1\nkind: B\nmetadata: {name: b}\n---\n# NOTES\n# Runs: nothing\n", []string{"A/a", "B/b"}, ""},
		{"a line in a text", "only a line of its own divides", "apiVersion: v1\nkind: A\nmetadata: {name: a}\ndata:\n  x: |\n    ---\n    y\n", []string{"A/a"}, ""},
		{"no kind", "a template that rendered half must not pass for nothing", "---\napiVersion: v1\nmetadata: {name: a}\n", nil, "no apiVersion, kind or name"},
		{"no name", "", "---\napiVersion: v1\nkind: A\n", nil, "no apiVersion, kind or name"},
		{"no YAML", "", "---\na: [\n", nil, "parse a document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects, err := (&Parser{}).Parse([]byte(tt.render))
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Fatalf("%v, want %q (%s)", err, tt.wrong, tt.reason)
				}
				return
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.ID())
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%v, %v, want %v (%s)", got, err, tt.want, tt.reason)
			}
		})
	}
}
