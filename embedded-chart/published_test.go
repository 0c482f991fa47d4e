package embeddedchart_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
)

// publishedRow is a row of testdata/published/values.yaml, whose head explains the fields.
type publishedRow struct {
	Path           string          `json:"path"`
	Tables         []string        `json:"tables"`
	Published      json.RawMessage `json:"published"`
	Default        json.RawMessage `json:"default"`
	Pinned         string          `json:"pinned"`
	Why            string          `json:"why"`
	With           []string        `json:"with"`
	Again          []string        `json:"again"`
	Value          any             `json:"value"`
	RefusedWithout string          `json:"refusedWithout"`
	Shows          []place         `json:"shows"`
	Keeps          []place         `json:"keeps"`
	Everywhere     []reach         `json:"everywhere"`
	Adds           []string        `json:"adds"`
	Removes        []string        `json:"removes"`
	Lands          string          `json:"lands"`
	Note           string          `json:"note"`
	Unused         string          `json:"unused"`
}

// componentMark is what annotation rows set, found again wherever it lands.
const componentMark = "of-the-component"

type place struct {
	In string `json:"in"`
	At string `json:"at"`
	Is any    `json:"is"`
}

type reach struct {
	In     []string `json:"in"`
	At     string   `json:"at"`
	Is     any      `json:"is"`
	Spares []string `json:"spares"`
}

type publishedValues struct {
	Settings map[string][]string `json:"settings"`
	Rows     []publishedRow      `json:"rows"`
}

// listed is a line of testdata/published/paths.txt; to is where annotations go, as the page has it.
type listed struct{ table, path, to string }

// rendered is what a render came to.
type rendered struct {
	objects []object
	notes   string
	err     error
}

func publishedData(t *testing.T) (publishedValues, []listed) {
	t.Helper()
	data, err := os.ReadFile("testdata/published/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values publishedValues
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		t.Fatalf("testdata/published/values.yaml: %v", err)
	}
	if data, err = os.ReadFile("testdata/published/paths.txt"); err != nil {
		t.Fatal(err)
	}
	var paths []listed
	for i, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(f) < 2 || len(f) > 3 || (len(f) == 3) != (f[0] == "annotations") {
			t.Fatalf("testdata/published/paths.txt:%d: want a table, a path and, for annotations alone, where they go: %s", i+1, line)
		}
		paths = append(paths, listed{f[0], f[1], strings.Join(f[2:], "")})
	}
	return values, paths
}

// publishedGaps says what of the published tables no row exercises, and what rows are there for nothing that is published.
func publishedGaps(rows []publishedRow, paths []listed) []string {
	var gaps []string
	there := map[listed]bool{}
	for _, p := range paths {
		p.to = ""
		if there[p] {
			gaps = append(gaps, p.table+": "+p.path+" is listed twice")
		}
		there[p] = true
	}
	covered, exercised := map[listed]bool{}, map[string]bool{}
	for _, r := range rows {
		if len(r.Tables) == 0 {
			gaps = append(gaps, r.Path+": a row of no table")
		}
		for _, table := range r.Tables {
			if !there[listed{table, r.Path, ""}] {
				gaps = append(gaps, table+": "+r.Path+" has a row and is not listed")
			}
			covered[listed{table, r.Path, ""}] = true
		}
		causes := r.RefusedWithout != "" || len(r.Shows)+len(r.Everywhere)+len(r.Adds)+len(r.Removes) > 0 || r.Lands != ""
		if !causes && len(r.Keeps) == 0 && r.Unused == "" {
			gaps = append(gaps, r.Path+": a row that expects nothing")
		}
		if r.Value == nil && r.Lands == "" {
			gaps = append(gaps, r.Path+": a row without a value")
		}
		for _, p := range slices.Concat(r.Shows, r.Keeps) {
			if p.In == "" || p.At == "" || p.Is == nil {
				gaps = append(gaps, r.Path+": an expectation lacks in, at or is")
			}
		}
		if causes && r.Unused != "" {
			gaps = append(gaps, r.Path+": a row says unused and what the value does")
		}
		if causes || (r.Unused != "" && r.Note != "") {
			exercised[r.Path] = true
		}
	}
	for _, p := range paths {
		p.to = ""
		if !covered[p] {
			gaps = append(gaps, p.table+": "+p.path+" has no row")
		} else if !exercised[p.path] {
			gaps = append(gaps, p.table+": "+p.path+": no row says what the value does, or notes that it does nothing")
		}
	}
	return gaps
}

// TestPublishedTables: every row of every published table has a row here that exercises it.
func TestPublishedTables(t *testing.T) {
	values, paths := publishedData(t)
	for _, gap := range publishedGaps(values.Rows, paths) {
		t.Error(gap)
	}
	counts := map[string]int{}
	for _, p := range paths {
		counts[p.table]++
	}
	want := map[string]int{"required": 8, "global": 5, "annotations": 21, "secrets": 2, "disabling": 6, "text": 25, "2024-required": 7, "2024-optional": 58, "2024-superseded": 1}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("the published tables have other numbers of rows:\n%s", diff)
	}
	if n := len(values.Rows); n != 136 {
		t.Errorf("%d rows, the test knows 136", n)
	}
}

// TestPublishedRows renders every row without its value and with it.
func TestPublishedRows(t *testing.T) {
	values, paths := publishedData(t)
	to := map[string]string{}
	for _, p := range paths {
		if p.to != "" {
			to[p.path] = p.to
		}
	}
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	pins := map[string]string{}
	for _, i := range images {
		tag := ".tag"
		if i.Flat {
			tag = ".imageTag"
		}
		pins[i.Values+tag] = i.Tag
	}
	c := withAll(t)
	run := func(t *testing.T, values object) (r rendered) {
		t.Helper()
		r.objects, r.notes, r.err = renderChart(t, c, values)
		return r
	}
	// Most rows have the render without their value in common.
	common := map[string]rendered{}
	for _, r := range values.Rows {
		t.Run(r.Path, func(t *testing.T) {
			for _, wrong := range r.wrongDefault(get(c.Values, strings.Split(r.Path, ".")...), pins) {
				t.Error(wrong)
			}
			if r.Lands != "" {
				// The same key among the global ones: the component's own wins.
				r.With = append(slices.Clone(r.With), `nops.global.annotations.nops\.example/own=global`)
				r.Value = object{"nops.example/own": componentMark}
			}
			times := [][]string{r.With}
			if len(r.Again) > 0 {
				times = append(times, slices.Concat(r.With, r.Again))
			}
			for _, also := range times {
				without, with := base(values.set(also)...), base(values.set(also)...)
				remove(without, strings.Split(r.Path, "."))
				put(with, strings.Split(r.Path, "."), r.Value)
				key, err := json.Marshal(without)
				if err != nil {
					t.Fatal(err)
				}
				if _, done := common[string(key)]; !done {
					common[string(key)] = run(t, without)
				}
				for _, wrong := range r.wrong(common[string(key)], run(t, with), to[r.Path]) {
					t.Errorf("with %v: %s", also, wrong)
				}
			}
		})
	}
}

// set is what the names of settings among these stand for.
func (v publishedValues) set(with []string) []string {
	var set []string
	for _, w := range with {
		if named, ok := v.Settings[w]; ok {
			set = append(set, named...)
		} else {
			set = append(set, w)
		}
	}
	return set
}

func (r publishedRow) wrongDefault(have any, pins map[string]string) []string {
	plain := func(raw json.RawMessage) (v any) {
		if err := json.Unmarshal(raw, &v); err != nil {
			panic(err) // it was JSON a moment ago
		}
		return v
	}
	data, err := json.Marshal(have)
	if err != nil {
		panic(err)
	}
	have = plain(data)
	switch {
	case r.Pinned != "":
		pin, ok := pins[r.Path]
		switch {
		case !ok || r.Published == nil:
			return []string{"pinned, but files/images.yaml lists no image there, or no tag is published"}
		case plain(r.Published) == any(pin):
			return []string{"pinned, but the published version is the one that is listed: say published alone"}
		case have != any(pin):
			return []string{fmt.Sprintf("values.yaml has %v, files/images.yaml lists %s", have, pin)}
		}
	case r.Default != nil:
		if r.Published != nil && reflect.DeepEqual(plain(r.Default), plain(r.Published)) {
			return []string{"the default is the published one: say published alone"}
		}
		if (r.Published != nil) != (r.Why != "") {
			return []string{"why is for defaults that differ from published ones, and for them always"}
		}
		if !reflect.DeepEqual(plain(r.Default), have) {
			return []string{fmt.Sprintf("values.yaml has %v, the row says %s", have, r.Default)}
		}
	case r.Published == nil:
		return []string{"neither a published default nor ours"}
	case !reflect.DeepEqual(plain(r.Published), have):
		return []string{fmt.Sprintf("values.yaml has %v, published is %s: mend it, or give our default and why", have, r.Published)}
	}
	return nil
}

// wrong holds the renders without and with the value against what the row expects.
func (r publishedRow) wrong(without, with rendered, to string) []string {
	var wrong []string
	say := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	if with.err != nil {
		return []string{fmt.Sprintf("refused with the value: %v", with.err)}
	}
	switch {
	case r.RefusedWithout == "" && without.err != nil:
		return []string{fmt.Sprintf("refused without the value: %v", without.err)}
	case r.RefusedWithout != "" && (without.err == nil || !strings.Contains(without.err.Error(), r.RefusedWithout)):
		say("without the value: %v, want a refusal that says %q", without.err, r.RefusedWithout)
	}
	holds := func(in rendered, p place) bool {
		i := slices.IndexFunc(in.objects, func(o object) bool { return name(o) == p.In })
		return i >= 0 && matches(at(in.objects[i], p.At), p.Is)
	}
	for _, p := range r.Shows {
		if !holds(with, p) {
			say("%s %s is not %v", p.In, p.At, p.Is)
		}
		if holds(without, p) {
			say("%s %s is %v without the value too", p.In, p.At, p.Is)
		}
	}
	for _, p := range r.Keeps {
		if !holds(with, p) || (without.err == nil && !holds(without, p)) {
			say("%s %s is not %v, with and without the value", p.In, p.At, p.Is)
		}
	}
	for _, e := range r.Everywhere {
		wrong = append(wrong, e.wrong(without, with)...)
	}
	if len(r.Adds)+len(r.Removes) > 0 {
		for _, d := range []struct {
			verb     string
			of, from rendered
			want     []string
		}{{"adds", with, without, r.Adds}, {"removes", without, with, r.Removes}} {
			had := map[string]bool{}
			for _, o := range d.from.objects {
				had[name(o)] = true
			}
			var got []string
			for _, o := range d.of.objects {
				if !had[name(o)] && (workload(o) || slices.Contains(d.want, name(o))) {
					got = append(got, name(o))
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(slices.Sorted(slices.Values(d.want)), got); diff != "" {
				say("%s:\n%s", d.verb, diff)
			}
		}
	}
	if r.Lands != "" {
		wrong = append(wrong, r.wrongLanding(without, with, to)...)
	}
	if r.Note != "" && !strings.Contains(with.notes, r.Note) {
		say("no %q in NOTES:\n%s", r.Note, with.notes)
	}
	if r.Note != "" && strings.Contains(without.notes, r.Note) {
		say("%q is in NOTES without the value too", r.Note)
	}
	if r.Unused != "" {
		if diff := cmp.Diff(without.objects, with.objects); diff != "" {
			say("not unused:\n%s", diff)
		}
	}
	return wrong
}

func (e reach) wrong(without, with rendered) []string {
	var wrong []string
	spared := map[string]bool{}
	reached := 0
	for _, o := range with.objects {
		of := slices.Contains(e.In, "object") || slices.Contains(e.In, text(o, "kind")) || (slices.Contains(e.In, "workload") && workload(o))
		spare := slices.Contains(e.Spares, name(o))
		spared[name(o)] = spare
		if has := matches(at(o, e.At), e.Is); has != (of && !spare) {
			wrong = append(wrong, fmt.Sprintf("%s: %s is %v: %v, spared: %v", name(o), e.At, e.Is, has, spare))
		} else if has {
			reached++
		}
	}
	for _, s := range e.Spares {
		if !spared[s] {
			wrong = append(wrong, s+": spared, but it is not there")
		}
	}
	if reached == 0 {
		wrong = append(wrong, e.At+" reaches nothing")
	}
	for _, o := range without.objects {
		if matches(at(o, e.At), e.Is) {
			wrong = append(wrong, fmt.Sprintf("%s: %s is %v without the value too", name(o), e.At, e.Is))
		}
	}
	return wrong
}

// wrongLanding looks for the component's annotation through all the objects: it has to be in one place.
func (r publishedRow) wrongLanding(without, with rendered, to string) []string {
	kind, _, _ := strings.Cut(r.Lands, "/")
	pod := map[string]string{"Deployment": "spec.template", "DaemonSet": "spec.template", "CronJob": "spec.jobTemplate.spec.template"}[kind]
	where := ""
	switch {
	case to == "Pod" && pod != "":
		where = pod + "."
	case to == "Workload" && (kind == "Deployment" || kind == "DaemonSet"):
	case to == kind && (kind == "Service" || kind == "ServiceAccount" || kind == "CronJob"):
	default:
		return []string{fmt.Sprintf("published for %s, and lands on %s", to, r.Lands)}
	}
	var wrong []string
	if got := standing(without.objects, componentMark); len(got) != 0 {
		wrong = append(wrong, fmt.Sprintf("without the value too: %v", got))
	}
	if diff := cmp.Diff([]string{r.Lands + " " + where + "metadata.annotations.nops.example/own"}, standing(with.objects, componentMark)); diff != "" {
		wrong = append(wrong, "lands elsewhere:\n"+diff)
	}
	return wrong
}

// standing is where a string stands, or stands in one that is longer, in all objects.
func standing(objects []object, s string) []string {
	var found []string
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch x := v.(type) {
		case object:
			for k, e := range x {
				walk(e, path+"."+k)
			}
		case []any:
			for _, e := range x {
				walk(e, path+"[]")
			}
		case string:
			if strings.Contains(x, s) {
				found = append(found, path)
			}
		}
	}
	for _, o := range objects {
		for k, v := range o {
			walk(v, name(o)+" "+k)
		}
	}
	slices.Sort(found)
	return found
}

var step = regexp.MustCompile(`\[[^\]]+\]|[^.\[\]]+`)

// at follows a path into an object; the head of testdata/published/values.yaml explains it.
func at(o object, path string) any {
	var v any = o
	for i, s := range step.FindAllString(path, -1) {
		if i == 0 && (s == "pod" || s == "podMetadata") {
			v = get(template(o), map[string]string{"pod": "spec", "podMetadata": "metadata"}[s])
			continue
		}
		key := strings.Trim(s, "[]")
		if file, ok := v.(string); ok {
			v = nil
			if yaml.Unmarshal([]byte(file), &v) != nil {
				return nil
			}
		}
		switch x := v.(type) {
		case object:
			v = x[key]
		case []any:
			v = nil
			for _, e := range x {
				if rest, ok := strings.CutPrefix(fmt.Sprint(e), key+"="); ok {
					v = rest
				} else if text(e, "name") == key {
					v = e
				}
			}
		default:
			return nil
		}
	}
	if s, ok := v.(string); ok && text(o, "kind") == "Secret" && strings.HasPrefix(path, "data.") {
		if decoded, err := base64.StdEncoding.DecodeString(s); err == nil {
			return string(decoded)
		}
	}
	return v
}

// matches says whether what is there is what is wanted: of a map these keys, of a list this element or, of a list, all of them.
func matches(have, want any) bool {
	switch h := have.(type) {
	case object:
		w, ok := want.(object)
		for k, v := range w {
			ok = ok && matches(h[k], v)
		}
		return ok
	case []any:
		if w, ok := want.([]any); ok {
			return slices.EqualFunc(h, w, matches)
		}
		return slices.ContainsFunc(h, func(e any) bool { return matches(e, want) })
	}
	return have == want
}

func put(values object, path []string, value any) {
	for ; len(path) > 1; path = path[1:] {
		next, ok := values[path[0]].(object)
		if !ok {
			next = object{}
			values[path[0]] = next
		}
		values = next
	}
	values[path[0]] = value
}

func remove(values object, path []string) {
	for ; len(path) > 1; path = path[1:] {
		next, ok := values[path[0]].(object)
		if !ok {
			return
		}
		values = next
	}
	delete(values, path[0])
}

// TestPublishedRowsAreHeld: the tests above see what is missing or wrong.
func TestPublishedRowsAreHeld(t *testing.T) {
	paths := []listed{{"a", "x.y", ""}, {"b", "x.y", ""}, {"a", "z", ""}}
	row := func(path, tables string, r publishedRow) publishedRow {
		r.Path, r.Tables, r.Value = path, strings.Fields(tables), 1.0
		return r
	}
	shows := []place{{"Service/s", "spec.port", 1.0}}
	shown := publishedRow{Shows: shows}
	for _, tt := range []struct {
		name string
		rows []publishedRow
		want string
	}{
		{"a path without a row", []publishedRow{row("x.y", "a b", shown)}, "a: z has no row"},
		{"a table without a row", []publishedRow{row("x.y", "a", shown), row("z", "a", shown)}, "b: x.y has no row"},
		{"a row that expects nothing", []publishedRow{row("x.y", "a b", publishedRow{}), row("z", "a", shown)}, "x.y: a row that expects nothing"},
		{"a row without a value", []publishedRow{{Path: "x.y", Tables: []string{"a", "b"}, Shows: shows}, row("z", "a", shown)}, "x.y: a row without a value"},
		{"half an expectation", []publishedRow{row("x.y", "a b", publishedRow{Shows: []place{{In: "Service/s", At: "spec.port"}}}), row("z", "a", shown)}, "lacks in, at or is"},
		{"unused without a note", []publishedRow{row("x.y", "a b", publishedRow{Unused: "why"}), row("z", "a", shown)}, "notes that it does nothing"},
		{"what is not published", []publishedRow{row("x.y", "a b", shown), row("z", "a b", shown)}, "b: z has a row and is not listed"},
	} {
		if got := strings.Join(publishedGaps(tt.rows, paths), "\n"); got == "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if gaps := publishedGaps([]publishedRow{row("x.y", "a b", shown), row("z", "a", publishedRow{Unused: "why", Note: "note"})}, paths); gaps != nil {
		t.Errorf("all is there, and yet: %v", gaps)
	}

	service := func(port float64, annotations object) rendered {
		return rendered{objects: []object{{"kind": "Service", "metadata": object{"name": "s", "annotations": annotations}, "spec": object{"port": port}}}, notes: fmt.Sprintf("port %v", port)}
	}
	deployment := rendered{objects: []object{{"kind": "Deployment", "metadata": object{"name": "d", "labels": object{"l": "1"}}}}}
	own := object{"nops.example/own": componentMark}
	for _, tt := range []struct {
		name          string
		row           publishedRow
		without, with rendered
		want          string
	}{
		{"it is so anyhow", publishedRow{Shows: shows}, service(1, nil), service(1, nil), "without the value too"},
		{"it is not so", publishedRow{Shows: shows}, service(2, nil), service(3, nil), "is not 1"},
		{"the object is gone", publishedRow{Shows: shows}, service(2, nil), rendered{}, "is not 1"},
		{"it does not stay", publishedRow{Keeps: shows}, service(1, nil), service(2, nil), "with and without"},
		{"no refusal", publishedRow{RefusedWithout: "missing"}, service(1, nil), service(1, nil), "want a refusal"},
		{"not unused", publishedRow{Unused: "why"}, service(1, nil), service(2, nil), "not unused"},
		{"one workload more", publishedRow{Adds: []string{"Service/s"}}, rendered{}, rendered{objects: slices.Concat(service(1, nil).objects, deployment.objects)}, "Deployment/d"},
		{"the note is there anyhow", publishedRow{Note: "port 1"}, service(1, nil), service(1, nil), "in NOTES without"},
		{"no note", publishedRow{Note: "port 1"}, service(2, nil), service(2, nil), "no \"port 1\""},
		{"it lands twice", publishedRow{Lands: "Service/s"}, rendered{}, rendered{objects: slices.Concat(service(1, own).objects, []object{{"kind": "Service", "metadata": object{"name": "other", "annotations": own}}})}, "Service/other"},
		{"it lands on the wrong kind", publishedRow{Lands: "ServiceAccount/s"}, rendered{}, service(1, own), "published for Service"},
		{"it does not reach all", publishedRow{Everywhere: []reach{{In: []string{"object"}, At: "metadata.labels.l", Is: "1"}}}, rendered{}, rendered{objects: slices.Concat(service(1, nil).objects, deployment.objects)}, "Service/s"},
		{"it reaches what it spares", publishedRow{Everywhere: []reach{{In: []string{"workload"}, At: "metadata.labels.l", Is: "1", Spares: []string{"Deployment/d"}}}}, rendered{}, deployment, "spared: true"},
	} {
		if got := strings.Join(tt.row.wrong(tt.without, tt.with, "Service"), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		name string
		row  publishedRow
		have any
		want string
	}{
		{"another default", publishedRow{Published: []byte(`"a"`)}, "b", "published is"},
		{"another default than ours", publishedRow{Published: []byte(`"a"`), Default: []byte(`"b"`), Why: "why"}, "c", "the row says"},
		{"no reason", publishedRow{Published: []byte(`"a"`), Default: []byte(`"b"`)}, "b", "why is for"},
		{"the pin is the published one", publishedRow{Path: "i.tag", Published: []byte(`"1"`), Pinned: "why"}, "1", "say published alone"},
		{"no default at all", publishedRow{}, "b", "neither"},
	} {
		if got := strings.Join(tt.row.wrongDefault(tt.have, map[string]string{"i.tag": "1"}), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// words splits a command as a shell does: lines joined by backslashes, words parted by spaces. The published ones need no more;
// whatever else a shell would act upon fails the test instead of being passed on as text.
func words(t *testing.T, command string) []string {
	t.Helper()
	if i := strings.IndexAny(command, "\"'`$;&|<>(){}~#!?"); i >= 0 {
		t.Fatalf("this test does not read %q as a shell does", command[i:i+1])
	}
	command = strings.ReplaceAll(command, "\\\n", " ")
	if strings.Contains(command, "\\") || strings.Contains(strings.TrimSpace(command), "\n") {
		t.Fatalf("more than one command, or a backslash that joins no lines:\n%s", command)
	}
	return strings.Fields(command)
}

// publishedCommands reads the commands of the page, as what they set.
func publishedCommands(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("testdata/published/commands/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Fatalf("%d commands, the page has 3", len(files))
	}
	commands := map[string][]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		args := words(t, string(data))
		head := strings.Fields("helm upgrade -i nops-kubernetes-agent oci://public.ecr.aws/nops/kubernetes-agent --namespace nops --create-namespace")
		if len(args) < len(head) || !slices.Equal(args[:len(head)], head) {
			t.Fatalf("%s: starts otherwise: %v", file, args)
		}
		var set []string
		for rest := args[len(head):]; len(rest) > 0; rest = rest[2:] {
			if rest[0] != "--set" || len(rest) < 2 {
				t.Fatalf("%s: %s is no --set with a value", file, rest[0])
			}
			set = append(set, rest[1])
		}
		commands[strings.TrimSuffix(filepath.Base(file), ".txt")] = set
	}
	return commands
}

func parseSet(t *testing.T, set []string) object {
	t.Helper()
	v := object{}
	for _, s := range set {
		if err := strvals.ParseInto(s, v); err != nil {
			t.Fatalf("--set %s: %v", s, err)
		}
	}
	return v
}

func components(objects []object) []string {
	var all []string
	for _, o := range objects {
		if workload(o) {
			all = append(all, text(o, "metadata", "labels", "app.kubernetes.io/component"))
		}
	}
	slices.Sort(all)
	return all
}

// TestPublishedCommands renders the example commands of the published page as they stand there, misspelling included.
func TestPublishedCommands(t *testing.T) {
	data, err := os.ReadFile("testdata/published/commands/components.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var says map[string][]string
	if err := yaml.UnmarshalStrict(data, &says); err != nil {
		t.Fatalf("testdata/published/commands/components.yaml: %v", err)
	}
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	commands := publishedCommands(t)
	if len(says) != len(commands) {
		t.Errorf("%d commands and what %d install", len(commands), len(says))
	}
	for command, set := range commands {
		t.Run(command, func(t *testing.T) {
			all, _, err := renderAll(t, parseSet(t, set))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(says[command], components(all)); diff != "" {
				t.Errorf("with every component available:\n%s", diff)
			}
			now, notes, err := render(t, parseSet(t, set))
			if err != nil {
				t.Fatal(err)
			}
			var available []string
			for _, component := range says[command] {
				listed := component
				if strings.HasPrefix(component, "vpa-") {
					listed = "vpa"
				}
				image, ok := images[listed]
				if !ok {
					t.Errorf("files/images.yaml lists no %s", listed)
				}
				if image.Available {
					available = append(available, component)
				}
			}
			if diff := cmp.Diff(available, components(now)); diff != "" {
				t.Errorf("with what is available:\n%s", diff)
			}
			has := func(s string) bool { return slices.Contains(set, s) }
			if has("autoUpater.enabled=false") != strings.Contains(notes, "misspelling of autoUpdater") {
				t.Errorf("the misspelling is there: %v, and NOTES:\n%s", has("autoUpater.enabled=false"), notes)
			}
			if nothing := has("karpenops.enabled=true") && !images["karpenops"].Available; nothing != strings.Contains(notes, "karpenops.enabled=true renders nothing") {
				t.Errorf("karpenops is asked for and not there: %v, and NOTES:\n%s", nothing, notes)
			}
			for _, o := range all {
				// datadog.apiKey is given in all of them, and is for an agent that is off.
				if name(o) == "Secret/nops-inline-credentials" && get(o, "data", "DD_KEY") != nil {
					t.Error("a key that nobody reads is kept in a Secret")
				}
			}
		})
	}
}

func publishedExample(t *testing.T, file string) object {
	t.Helper()
	data, err := os.ReadFile("testdata/published/examples/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := yaml.UnmarshalStrict(data, &o); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return o
}

// TestPublishedGlobalExample adds the page's global settings to its command.
func TestPublishedGlobalExample(t *testing.T) {
	example := publishedExample(t, "global.yaml")
	global, _ := get(example, "nops", "global").(object)
	if len(global) != 5 {
		t.Fatalf("the example has five settings, not %d", len(global))
	}
	values := parseSet(t, publishedCommands(t)["ui"])
	put(values, []string{"nops", "global"}, global)
	manifests, _, err := renderAll(t, values)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, o := range manifests {
		if !matches(at(o, "metadata.labels"), global["labels"]) {
			t.Errorf("%s: labels", name(o))
		}
		if (workload(o) || text(o, "kind") == "Service") != matches(at(o, "metadata.annotations"), global["annotations"]) {
			t.Errorf("%s: annotations %v", name(o), at(o, "metadata.annotations"))
		}
		if !workload(o) {
			continue
		}
		seen++
		if !matches(at(o, "podMetadata.labels"), global["labels"]) || !matches(at(o, "podMetadata.annotations"), global["annotations"]) {
			t.Errorf("%s: labels or annotations of pods", name(o))
		}
		for _, toleration := range list(global, "tolerations") {
			if !matches(at(o, "pod.tolerations"), toleration) {
				t.Errorf("%s: tolerations %v", name(o), at(o, "pod.tolerations"))
			}
		}
		spared := name(o) == "DaemonSet/nops-node-exporter" || name(o) == "DaemonSet/nops-dcgm-exporter"
		if selected := matches(at(o, "pod.nodeSelector"), global["nodeSelector"]); selected == spared {
			t.Errorf("%s: nodeSelector %v", name(o), at(o, "pod.nodeSelector"))
		}
		if preferred := matches(at(o, "pod.affinity"), global["affinity"]); preferred == spared {
			t.Errorf("%s: affinity %v", name(o), at(o, "pod.affinity"))
		}
	}
	if seen != 12 {
		t.Errorf("%d workloads, want 12", seen)
	}
}

// TestPublishedSecretExample follows the page: the Secret is made, the matching --set are taken out of the command, and what
// names the Secret is put in.
func TestPublishedSecretExample(t *testing.T) {
	secret := publishedExample(t, "secret.yaml")
	said, err := os.ReadFile("testdata/published/examples/secret.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(secret["data"].(object)) != 4 || text(secret, "metadata", "namespace") != "nops" {
		t.Fatalf("the example has four credentials in namespace nops: %v", secret)
	}
	for key := range secret["data"].(object) {
		if want := fmt.Sprintf("%s: %s # %q\n", key, text(secret, "data", key), at(secret, "data."+key)); !strings.Contains(string(said), want) {
			t.Errorf("the example says otherwise of %s than %q", key, want)
		}
	}
	matching := regexp.MustCompile(`^(nops\.apiKey|datadog\.apiKey|containerInsights\.amp(Access|Secret)Key)=`)
	for _, tt := range []struct {
		name string
		set  []string
		used []string
	}{
		{"as published", nil, []string{"AMP_ACCESS_KEY", "AMP_SECRET_KEY", "API_KEY"}},
		{"with Datadog", []string{"datadog.enabled=true"}, []string{"AMP_ACCESS_KEY", "AMP_SECRET_KEY", "API_KEY", "DD_KEY"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := slices.DeleteFunc(publishedCommands(t)["ui"], matching.MatchString)
			if len(set) != 8 {
				t.Fatalf("%d settings are left, want 8: %v", len(set), set)
			}
			values := parseSet(t, append(set, tt.set...))
			values["customerManagedSecrets"] = publishedExample(t, "customer-managed-secrets.yaml")["customerManagedSecrets"]
			manifests, notes, err := renderAll(t, values)
			if err != nil {
				t.Fatal(err)
			}
			used := map[string]bool{}
			for _, o := range manifests {
				if name(o) == "Secret/nops-inline-credentials" {
					t.Error("a Secret of the chart's own")
				}
				for _, c := range list(at(o, "pod"), "containers") {
					for _, e := range list(c, "env") {
						ref, ok := get(e, "valueFrom", "secretKeyRef").(object)
						if !ok {
							continue
						}
						if text(ref, "name") != "nops-secret" || get(secret, "data", text(ref, "key")) == nil {
							t.Errorf("%s: %s is read from %v, which the example does not hold", name(o), text(e, "name"), ref)
						}
						used[text(ref, "key")] = true
					}
				}
			}
			var got []string
			for key := range used {
				got = append(got, key)
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.used, got); diff != "" {
				t.Errorf("of the Secret is read:\n%s", diff)
			}
			for _, not := range []string{"stay readable", "remove the inline"} {
				if strings.Contains(notes, not) {
					t.Errorf("%q in NOTES:\n%s", not, notes)
				}
			}
		})
	}
}

// TestPublishedTextIsListed: what commands and examples set is in the list of paths, so a row exercises it.
func TestPublishedTextIsListed(t *testing.T) {
	_, paths := publishedData(t)
	of2024 := func(p listed) bool { return strings.HasPrefix(p.table, "2024-") }
	known := func(path string) bool {
		return slices.ContainsFunc(paths, func(p listed) bool {
			return !of2024(p) && (p.path == path || strings.HasPrefix(path, p.path+"."))
		})
	}
	seen := map[string]bool{}
	for command, set := range publishedCommands(t) {
		for _, s := range set {
			path, _, _ := strings.Cut(s, "=")
			if seen[path] = true; !known(path) {
				t.Errorf("%s sets %s, which paths.txt does not list", command, path)
			}
		}
	}
	for _, example := range []string{"global.yaml", "customer-managed-secrets.yaml"} {
		var walk func(v any, path string)
		walk = func(v any, path string) {
			if m, ok := v.(object); ok && !known(path) {
				for k, e := range m {
					walk(e, strings.TrimPrefix(path+"."+k, "."))
				}
				return
			}
			if seen[path] = true; !known(path) {
				t.Errorf("%s sets %s, which paths.txt does not list", example, path)
			}
		}
		walk(publishedExample(t, example), "")
	}
	if len(seen) != 29 {
		t.Errorf("commands and examples set %d values, want 29", len(seen))
	}
}

// TestPublishedPins: a tag that a published command or a row of the tables pins for a program of ours is one that registries of
// ours serve it under, as soon as it is there (lab/cmd/lab holds the registry against the list).
func TestPublishedPins(t *testing.T) {
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	pin := regexp.MustCompile(`--set ([A-Za-z.]+)\.tag=(\S+)`)
	files, err := filepath.Glob("testdata/published/commands/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pin.FindAllStringSubmatch(string(data), -1) {
			for component, i := range images {
				if i.Values != m[1] {
					continue
				}
				found++
				if i.Ours && i.Tag != m[2] && !slices.Contains(i.PublishedTags, m[2]) {
					t.Errorf("%s pins %s to %s, under which nobody serves it: %v", file, component, m[2], i.PublishedTags)
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("%d pins in the published commands, want the 2 of karpenops", found)
	}
}
