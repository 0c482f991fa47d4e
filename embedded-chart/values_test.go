package embeddedchart_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// setting is a leaf of values.yaml.
type setting struct{ path, value, comment string }

// settings reads values.yaml as people do: the comment above a value is about that value; what has none of its own is
// explained by the one above its group. The file keeps to two spaces and to flow style for values.
func settings(t *testing.T) []setting {
	t.Helper()
	data, err := os.ReadFile("chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type group struct{ name, comment string }
	var above []group
	var all []setting
	comment := ""
	line := regexp.MustCompile(`^((?:  )*)([A-Za-z0-9_]+):(?: (.*))?$`)
	for i, s := range strings.Split(string(data), "\n") {
		if trimmed := strings.TrimSpace(s); trimmed == "" {
			comment = ""
			continue
		} else if c, ok := strings.CutPrefix(trimmed, "# "); ok {
			comment = strings.TrimSpace(comment + " " + c)
			continue
		}
		m := line.FindStringSubmatch(s)
		if m == nil {
			t.Fatalf("values.yaml:%d: not a form this test reads: %s", i+1, s)
		}
		depth := len(m[1]) / 2
		above = append(above[:depth], group{m[2], comment})
		path, why := "", ""
		for _, g := range above {
			path += "." + g.name
		}
		for j := depth; j >= 0 && why == ""; j-- {
			why = above[j].comment
		}
		if m[3] != "" {
			all = append(all, setting{path[1:], m[3], why})
		}
		comment = ""
	}
	return all
}

func TestEveryValueIsExplained(t *testing.T) {
	values := load(t).Values
	all := settings(t)
	if len(all) < 80 {
		t.Errorf("only %d values", len(all))
	}
	for _, s := range all {
		if s.comment == "" {
			t.Errorf("%s: no comment above it or its group", s.path)
		}
		var value any
		if err := yaml.Unmarshal([]byte(s.value), &value); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fmt.Sprint(get(values, strings.Split(s.path, ".")...)), fmt.Sprint(value)); diff != "" {
			t.Errorf("%s is read otherwise than Helm reads it:\n%s", s.path, diff)
		}
	}
}

// TestValuesDocument holds docs/values.md against values.yaml; -update rewrites it.
func TestValuesDocument(t *testing.T) {
	var doc strings.Builder
	doc.WriteString("<!-- Generated from embedded-chart/chart/values.yaml: go test ./embedded-chart -run ValuesDocument -update -->\n\n# Values of the chart\n\n" +
		"The paths are those of the published chart `oci://public.ecr.aws/nops/kubernetes-agent`; those marked *ours* are not in it.\n" +
		"A value that is not in this table or in `values.schema.json` is refused.\n\n" +
		"| value | default | what it is |\n|---|---|---|\n")
	for _, s := range settings(t) {
		comment, ours := strings.CutPrefix(s.comment, "(ours) ")
		if ours {
			comment = "*ours:* " + comment
		}
		escape := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;")
		fmt.Fprintf(&doc, "| `%s` | `%s` | %s |\n", s.path, strings.ReplaceAll(s.value, "|", `\|`), escape.Replace(comment))
	}
	const path = "../docs/values.md"
	if *update {
		if err := os.WriteFile(path, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(strings.Split(string(have), "\n"), strings.Split(doc.String(), "\n")); diff != "" {
		t.Errorf("docs/values.md is not up to date (run with -update):\n%s", diff)
	}
}
