package contract

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/lab/bench/here"
)

// What karpenops predicts is what Karpenter's own code answers: random questions, put to both. The other side is the lab's program
// karpenter-drift, whose doc comment says what each question means.

const (
	satisfyQuestions   = 12000
	poolQuestions      = 8000 // two NodePools each
	relationQuestions  = 6000
	effectiveQuestions = 6000
	typeQuestions      = 3000
)

// karpenterAnswer is one line of the program's.
type karpenterAnswer struct {
	ID                  int
	Hash                string
	Invalid             string
	Drifted             *bool
	Why                 string
	Satisfied           *bool
	Intersects          *bool
	Compatible          *bool
	CompatibleWellKnown *bool            `json:"compatible_well_known"`
	Types               map[string][]int `json:"types"`
	MinValues           string           `json:"min_values"`
	Effective           offering.Requirements
	Error               string
}

// askKarpenter puts all questions to the program, and gives its answers in their order.
func askKarpenter(t *testing.T, questions []map[string]any) []karpenterAnswer {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS") // make test-unit sets it
	if assets == "" {
		// Skipped, it would pass for a proof. Compiled before, this takes no time; else it takes minutes.
		var err error
		if assets, err = here.Programs(t.Context(), "../..", t.Logf, "karpenter-drift"); err != nil {
			t.Fatal(err)
		}
	}
	program := exec.CommandContext(t.Context(), filepath.Join(assets, "karpenter-drift"))
	var lines, complaints bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for i, q := range questions {
		q["id"] = i
		if err := encoder.Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	program.Stdin, program.Stderr = &lines, &complaints
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatalf("start karpenter-drift: %v", err)
	}
	var answers []karpenterAnswer
	decoder := json.NewDecoder(bufio.NewReader(out))
	for {
		var a karpenterAnswer
		if err := decoder.Decode(&a); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("answer %d: %v", len(answers), err)
		}
		if a.ID != len(answers) {
			t.Fatalf("answer %d is to question %d", len(answers), a.ID)
		}
		answers = append(answers, a)
	}
	if err := program.Wait(); err != nil {
		t.Fatalf("karpenter-drift: %v\n%s", err, complaints.String())
	}
	if len(answers) != len(questions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(questions))
	}
	return answers
}

// chance makes questions. Labels and values are few, so that they meet.
type chance struct{ *rand.Rand }

// newChance has a seed of its own for each test; another one is as good.
func newChance(t *testing.T) chance {
	seed := uint64(0)
	for _, c := range t.Name() {
		seed = seed*31 + uint64(c)
	}
	return chance{rand.New(rand.NewPCG(seed, 1))}
}

func pick[T any](c chance, from ...T) T { return from[c.IntN(len(from))] }

func (c chance) one(in int) bool { return c.IntN(in) == 0 }

const (
	teamLabel = "example.com/team"
	tierLabel = "example.com/tier"
	gpuLabel  = "karpenter.k8s.aws/instance-gpu-name"
	ebsZone   = "topology.ebs.csi.aws.com/zone" // of volumes, which the AWS provider takes for the zone
)

func (c chance) key() string {
	return pick(c, offering.LabelFamily, offering.LabelZone, "failure-domain.beta.kubernetes.io/zone", ebsZone, offering.LabelInstanceType, "beta.kubernetes.io/instance-type",
		offering.LabelArch, "beta.kubernetes.io/arch", offering.LabelCapacityType, offering.LabelCPU, offering.LabelCPU, offering.LabelMemory, offering.LabelZoneID, teamLabel, tierLabel, tierLabel)
}

func (c chance) value(key string) string {
	switch offering.Canonical(key) {
	case offering.LabelFamily:
		return pick(c, "m5", "c5", "m6g", "g4dn", "5")
	case offering.LabelZone:
		return pick(c, "a", "b", "c")
	case offering.LabelZoneID:
		return pick(c, "az1", "az2", "az3")
	case offering.LabelInstanceType:
		return pick(c, "m5.large", "m5.xlarge", "c5.large", "m6g.large", "g4dn.xlarge")
	case offering.LabelArch:
		return pick(c, "amd64", "arm64")
	case offering.LabelCapacityType:
		return pick(c, "spot", "on-demand", "reserved", "spot", "on-demand", "bogus")
	case teamLabel:
		return pick(c, "a", "b", "", "Z_9.x")
	case gpuLabel:
		return pick(c, "t4", "v100")
	}
	return pick(c, "0", "1", "2", "4", "4", "8", "16", "08", "x", "", "1.5")
}

func (c chance) requirement(key string) offering.Requirement {
	r := offering.Requirement{Key: key, Operator: pick(c, offering.In, offering.In, offering.NotIn, offering.NotIn, offering.Exists, offering.DoesNotExist, offering.Gt, offering.Lt, offering.Gte, offering.Lte)}
	switch r.Operator {
	case offering.In, offering.NotIn:
		r.Values = []string{}
		for range c.IntN(5) {
			r.Values = append(r.Values, c.value(key))
		}
	case offering.Gt, offering.Lt, offering.Gte, offering.Lte:
		r.Values = []string{pick(c, "0", "1", "2", "3", "4", "5", "8", "8", "16", "08", "+4", "-1", "x", "9223372036854775806", "9223372036854775807", "9223372036854775808", "-9223372036854775808")}
	}
	if c.one(5) {
		r.MinValues = new(1 + c.IntN(4))
	}
	return r
}

// requirements are up to most entries, some of them of the same key.
func (c chance) requirements(most int) offering.Requirements {
	list := offering.Requirements{}
	for range c.IntN(most + 1) {
		key := c.key()
		if len(list) > 0 && c.one(3) {
			key = pick(c, list...).Key
		}
		list = append(list, c.requirement(key))
	}
	return list
}

func (c chance) labels() map[string]string {
	labels := map[string]string{}
	for range c.IntN(12) {
		key := c.key()
		labels[key] = c.value(key)
	}
	return labels
}

// tally counts what was compared, so that a generator that only makes one kind of case is noticed.
type tally map[string]int

func (n tally) atLeast(t *testing.T, least map[string]int) {
	t.Helper()
	t.Log(n)
	for what, want := range least {
		if n[what] < want {
			t.Errorf("%s: %d cases, want at least %d", what, n[what], want)
		}
	}
}

// disagree reports, at most a few times.
func disagree(t *testing.T, question map[string]any, format string, args ...any) {
	t.Helper()
	text, _ := json.Marshal(question)
	t.Errorf("%s\n%s", fmt.Sprintf(format, args...), text)
}

func TestKarpenterSatisfies(t *testing.T) {
	c, n := newChance(t), tally{}
	questions, lists, nodes := make([]map[string]any, satisfyQuestions), make([]offering.Requirements, satisfyQuestions), make([]map[string]string, satisfyQuestions)
	for i := range questions {
		lists[i], nodes[i] = c.requirements(4), c.labels()
		questions[i] = map[string]any{"requirements": lists[i], "labels": nodes[i]}
	}
	wrong := 0
	for i, a := range askKarpenter(t, questions) {
		compiled := offering.Compile(lists[i])
		got := compiled.Matches(nodes[i])
		if a.Error != "" || a.Satisfied == nil {
			t.Fatalf("no answer: %s %v", a.Error, questions[i])
		}
		n["compared"]++
		n[fmt.Sprint("satisfied ", got)]++
		if got != *a.Satisfied || (len(compiled.Misfits(nodes[i])) == 0) != got {
			if wrong++; wrong <= 5 {
				disagree(t, questions[i], "we say %v (%v), Karpenter %v: %s", got, compiled.Misfits(nodes[i]), *a.Satisfied, a.Why)
			}
		}
	}
	n.atLeast(t, map[string]int{"compared": satisfyQuestions, "satisfied true": satisfyQuestions / 10, "satisfied false": satisfyQuestions / 10})
	if wrong > 0 {
		t.Errorf("%d disagreements", wrong)
	}
}

func TestKarpenterRelates(t *testing.T) {
	c, n := newChance(t), tally{}
	questions, pairs := make([]map[string]any, relationQuestions), make([][2]offering.Requirements, relationQuestions)
	for i := range questions {
		pairs[i] = [2]offering.Requirements{c.requirements(4), c.requirements(4)}
		questions[i] = map[string]any{"a": pairs[i][0], "b": pairs[i][1]}
	}
	wrong := 0
	for i, answer := range askKarpenter(t, questions) {
		if answer.Error != "" {
			t.Fatalf("no answer: %s %v", answer.Error, questions[i])
		}
		a, b := offering.Compile(pairs[i][0]), offering.Compile(pairs[i][1])
		got := [3]bool{a.Intersects(b), a.Compatible(b, nil), a.Compatible(b, offering.WellKnown)}
		want := [3]bool{*answer.Intersects, *answer.Compatible, *answer.CompatibleWellKnown}
		n["compared"]++
		n[fmt.Sprint(want)]++
		if got != want {
			if wrong++; wrong <= 5 {
				disagree(t, questions[i], "intersects, compatible, with well-known: we say %v, Karpenter %v", got, want)
			}
		}
	}
	n.atLeast(t, map[string]int{"compared": relationQuestions, "[true true true]": 100, "[true false true]": 100, "[true false false]": 100, "[false false false]": 100})
	if wrong > 0 {
		t.Errorf("%d disagreements", wrong)
	}
}

func TestKarpenterFolds(t *testing.T) {
	c, n := newChance(t), tally{}
	questions, lists := make([]map[string]any, effectiveQuestions), make([]offering.Requirements, effectiveQuestions)
	for i := range questions {
		lists[i] = c.requirements(6)
		questions[i] = map[string]any{"effective": lists[i]}
	}
	wrong := 0
	for i, a := range askKarpenter(t, questions) {
		if a.Error != "" {
			t.Fatalf("no answer: %s %v", a.Error, questions[i])
		}
		got, _ := json.Marshal(offering.Compile(lists[i]).Requirements())
		want, _ := json.Marshal(append(offering.Requirements{}, a.Effective...))
		n["compared"]++
		if bytes.Contains(want, []byte("minValues")) {
			n["with minValues"]++
		}
		if bytes.Contains(want, []byte("Gte")) && bytes.Contains(want, []byte("Lte")) {
			n["range"]++
		}
		if !bytes.Equal(got, want) {
			if wrong++; wrong <= 5 {
				disagree(t, questions[i], "we fold to     %s\nKarpenter to   %s", got, want)
			}
		}
	}
	n.atLeast(t, map[string]int{"compared": effectiveQuestions, "with minValues": 500, "range": 50})
	if wrong > 0 {
		t.Errorf("%d disagreements", wrong)
	}
}

// pool is a NodePool as the API server holds it: expireAfter is filled in, and so is the class.
func (c chance) pool() map[string]any {
	metadata, spec := map[string]any{}, map[string]any{
		"expireAfter":  pick(c, "720h", "43200m", "480h", "Never", "0s"),
		"nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": pick(c, "default", "other")},
		"requirements": offering.Encode(c.requirements(4)),
	}
	for _, field := range []string{"labels", "annotations"} {
		if c.one(2) {
			texts := map[string]any{}
			for range c.IntN(3) {
				key := pick(c, teamLabel, tierLabel, "kubernetes.io/arch", "a")
				texts[key] = pick(c, "a", "b", "")
			}
			metadata[field] = texts
		}
	}
	if c.one(30) {
		metadata["labels"] = map[string]any{pick(c, "my team", "karpenter.k8s.aws/instance-famly", "karpenter.k8s.aws/ec2nodeclass", "example.com/"+strings.Repeat("a", 64), strings.Repeat("x", 254)+".com/a", "mykarpenter.k8s.aws/a"): "a"}
	}
	for _, field := range []string{"taints", "startupTaints"} {
		if c.one(3) {
			list := []any{}
			for range c.IntN(4) {
				taint := map[string]any{"key": pick(c, "a", "b", "example.com/c"), "effect": pick(c, "NoSchedule", "NoExecute")}
				if c.one(2) {
					taint["value"] = pick(c, "a", "b", "")
				}
				if c.one(4) {
					taint["timeAdded"] = pick(c, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z")
				}
				list = append(list, taint)
			}
			spec[field] = list
		}
	}
	if c.one(3) {
		spec["terminationGracePeriod"] = pick(c, "1h", "60m", "2h", "0s", "1h0m0s")
	}
	if c.one(15) {
		spec["requirements"] = append(spec["requirements"].([]any), offering.Encode(offering.Requirements{{
			Key:      pick(c, "karpenter.k8s.aws/instance-famly", "karpenter.k8s.aws/ec2nodeclass", "example.com/"+strings.Repeat("a", 64), "mykarpenter.k8s.aws/a", offering.LabelFamily, offering.LabelCapacityType),
			Operator: pick(c, offering.In, offering.NotIn), Values: []string{pick(c, "a", "a b", strings.Repeat("m", 64), "-a")},
		}})...)
	}
	pool := map[string]any{
		"metadata": map[string]any{"name": "case"},
		"spec": map[string]any{
			"template":   map[string]any{"metadata": metadata, "spec": spec},
			"disruption": map[string]any{"consolidateAfter": "1m", "budgets": []any{map[string]any{"nodes": pick(c, "1", "10%")}}},
		},
	}
	if c.one(2) {
		pool["spec"].(map[string]any)["weight"] = 1 + c.IntN(100)
	}
	if c.one(2) {
		pool["spec"].(map[string]any)["limits"] = map[string]any{"cpu": pick(c, "0", "100")}
	}
	return pool
}

// edited is the pool with some of its fields as another pool has them, or written otherwise.
func (c chance) edited(pool map[string]any) map[string]any {
	data, _ := json.Marshal(pool)
	var after map[string]any
	if err := json.Unmarshal(data, &after); err != nil {
		panic(err)
	}
	other := c.pool()
	take := func(path ...string) {
		to, from := after, other
		for _, name := range path[:len(path)-1] {
			to, from = to[name].(map[string]any), from[name].(map[string]any)
		}
		last := path[len(path)-1]
		if value, found := from[last]; found {
			to[last] = value
		} else {
			delete(to, last)
		}
	}
	for range 1 + c.IntN(2) {
		switch c.IntN(15) {
		case 12, 13, 14:
			c.rewrite(after["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any))
		case 0, 1:
			take("spec", "weight")
		case 2:
			take("spec", "limits")
		case 3:
			take("spec", "disruption")
		case 4:
			take("spec", "template", "metadata", "labels")
		case 5:
			take("spec", "template", "metadata", "annotations")
		case 6:
			take("spec", "template", "spec", "taints")
		case 7:
			take("spec", "template", "spec", "startupTaints")
		case 8:
			take("spec", "template", "spec", "nodeClassRef")
		case 9:
			take("spec", "template", "spec", "terminationGracePeriod")
		case 10:
			take("spec", "template", "spec", "expireAfter")
		default:
			take("spec", "template", "spec", "requirements")
		}
	}
	return after
}

// rewrite says the same in other words, as far as time and order go.
func (c chance) rewrite(spec map[string]any) {
	for _, field := range []string{"expireAfter", "terminationGracePeriod"} {
		if other, found := map[any]string{"720h": "43200m", "43200m": "720h", "1h": "60m", "60m": "1h0m0s", "0s": "0m"}[spec[field]]; found {
			spec[field] = other
		}
	}
	for _, field := range []string{"taints", "startupTaints"} {
		list, _ := spec[field].([]any)
		c.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, taint := range list {
			taint := taint.(map[string]any)
			if taint["timeAdded"] == "2026-01-01T00:00:00Z" {
				taint["timeAdded"] = "2026-01-01T01:00:00+01:00"
			}
			if taint["value"] == "" {
				delete(taint, "value")
			}
		}
	}
}

func TestKarpenterOnNodePools(t *testing.T) {
	c, n := newChance(t), tally{}
	var questions []map[string]any
	for range poolQuestions {
		before, node := c.pool(), c.labels()
		questions = append(questions, map[string]any{"nodepool": before, "labels": node}, map[string]any{"nodepool": c.edited(before), "labels": node})
	}
	answers, wrong := askKarpenter(t, questions), 0
	say := func(i int, format string, args ...any) {
		if wrong++; wrong <= 5 {
			disagree(t, questions[i], format, args...)
		}
	}
	for i := 0; i < len(questions); i += 2 {
		before, after := questions[i]["nodepool"].(map[string]any), questions[i+1]["nodepool"].(map[string]any)
		a, b := answers[i], answers[i+1]
		if a.Error != "" || b.Error != "" {
			t.Fatalf("no answer: %s %s %v", a.Error, b.Error, questions[i])
		}
		changes := offering.StaticDrift(before, after)
		n["compared"]++
		n[fmt.Sprint("hash changes ", a.Hash != b.Hash)]++
		if (len(changes) > 0) != (a.Hash != b.Hash) {
			say(i+1, "hash %s → %s, we say %v; before it was %v", a.Hash, b.Hash, changes, before)
		}
		requirements, err := offering.Of(after)
		if err != nil {
			t.Fatal(err)
		}
		drifted := offering.Drift(offering.Compile(requirements), []offering.Node{{Name: "n", Labels: questions[i+1]["labels"].(map[string]string)}})
		n[fmt.Sprint("drifted ", *b.Drifted)]++
		if (len(drifted) > 0) != *b.Drifted {
			say(i+1, "drifted: we say %v, Karpenter %v: %s", drifted, *b.Drifted, b.Why)
		}
		// What the API server rejects never comes before Karpenter's own validation.
		problems := offering.Validate(after, nil)
		if problems.RejectedBy(false) {
			n["rejected"]++
			continue
		}
		ready := len(problems.Of(offering.NotReady)) == 0
		n[fmt.Sprint("valid ", ready)]++
		if ready != (b.Invalid == "") {
			say(i+1, "ready: we say %v (%v), Karpenter: %q", ready, problems, b.Invalid)
		}
	}
	n.atLeast(t, map[string]int{"compared": poolQuestions, "hash changes true": 1000, "hash changes false": 1000, "drifted true": 1000, "drifted false": 1000, "valid true": 1000, "valid false": 500})
	if wrong > 0 {
		t.Errorf("%d disagreements", wrong)
	}
}

func TestKarpenterKeepsTypes(t *testing.T) {
	c, n := newChance(t), tally{}
	zones := map[string]string{"az1": "a", "az2": "b", "az3": "c"}
	questions, lists, catalogues := make([]map[string]any, typeQuestions), make([]offering.Requirements, typeQuestions), make([]*offering.Catalogue, typeQuestions)
	for i := range questions {
		var types []offering.Type
		var offerings []offering.Offering
		for _, name := range []string{"m5.large", "m5.xlarge", "c5.large", "m6g.large", "g4dn.xlarge"} {
			it := offering.Type{Name: name, VCPU: pick(c, 2, 4, 8), MemoryMiB: pick(c, 4, 8, 16), Labels: map[string]string{offering.LabelArch: c.value(offering.LabelArch)}}
			if name == "g4dn.xlarge" && c.one(2) {
				it.Labels[gpuLabel] = "t4"
			}
			types = append(types, it)
			for _, zone := range []string{"a", "b", "c"} {
				for _, capacity := range []string{"spot", "on-demand"} {
					if !c.one(3) {
						offerings = append(offerings, offering.Offering{Type: name, Zone: zone, CapacityType: capacity})
					}
				}
			}
		}
		catalogue, left := offering.New(types, offerings, zones)
		if len(left) > 0 {
			t.Fatal(left)
		}
		lists[i], catalogues[i] = c.requirements(2), catalogue
		if c.one(4) {
			lists[i] = append(lists[i], c.requirement(gpuLabel))
		}
		if c.one(3) {
			lists[i] = append(lists[i], offering.Requirement{
				Key: pick(c, offering.LabelFamily, offering.LabelInstanceType, offering.LabelZone, offering.LabelZoneID, offering.LabelCapacityType, offering.LabelCPU), Operator: offering.Exists, MinValues: new(1 + c.IntN(4)),
			})
		}
		questions[i] = map[string]any{"requirements": lists[i], "types": asTypes(catalogue, zones)}
	}
	wrong := 0
	for i, a := range askKarpenter(t, questions) {
		if a.Error != "" {
			t.Fatalf("no answer: %s %v", a.Error, questions[i])
		}
		catalogue := catalogues[i]
		e := catalogue.Effective(offering.Pool{Requirements: lists[i]})
		got, first := map[string][]int{}, map[string]int{}
		for j := range catalogue.Len() {
			name := catalogue.Offering(j).Type
			if _, seen := first[name]; !seen {
				first[name] = j
			}
			if e.Set.Has(j) {
				got[name] = append(got[name], j-first[name])
			}
		}
		n["compared"]++
		n[fmt.Sprint("any left ", len(got) > 0)]++
		if e.Required.MinValues() != nil && len(e.Required.MinValues()) > 0 {
			n[fmt.Sprint("minValues met ", a.MinValues == "")]++
		}
		if want := a.Types; len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			if wrong++; wrong <= 5 {
				disagree(t, questions[i], "we keep %v, Karpenter %v", got, want)
			}
		}
		if (len(e.Unmet) == 0) != (a.MinValues == "") {
			if wrong++; wrong <= 5 {
				disagree(t, questions[i], "minValues: we say %v, Karpenter %q", e.Unmet, a.MinValues)
			}
		}
	}
	n.atLeast(t, map[string]int{"compared": typeQuestions, "any left true": 500, "any left false": 500, "minValues met true": 300, "minValues met false": 300})
	if wrong > 0 {
		t.Errorf("%d disagreements", wrong)
	}
}

// asTypes writes a catalogue as the AWS provider describes instance types: what a type has not does not exist, and what all of them lack
// of the labels that few have, neither.
func asTypes(catalogue *offering.Catalogue, zones map[string]string) []map[string]any {
	ids := map[string]string{}
	for id, name := range zones {
		ids[name] = id
	}
	keys := []string{gpuLabel}
	for i := range catalogue.Len() {
		for key := range catalogue.Type(i).Labels {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	var types []map[string]any
	in := func(key string, values ...string) offering.Requirement {
		return offering.Requirement{Key: key, Operator: offering.In, Values: values}
	}
	for i := range catalogue.Len() {
		o := catalogue.Offering(i)
		if len(types) == 0 || types[len(types)-1]["name"] != o.Type {
			var has offering.Requirements
			for _, key := range keys {
				if value, found := catalogue.Type(i).Labels[key]; found {
					has = append(has, in(key, value))
				} else {
					has = append(has, offering.Requirement{Key: key, Operator: offering.DoesNotExist})
				}
			}
			all := catalogue.Where(offering.LabelInstanceType, o.Type)
			has = append(has, in(offering.LabelZone, catalogue.Values(all, offering.LabelZone)...), in(offering.LabelCapacityType, catalogue.Values(all, offering.LabelCapacityType)...),
				in(offering.LabelZoneID, catalogue.Values(all, offering.LabelZoneID)...))
			types = append(types, map[string]any{"name": o.Type, "requirements": has, "offerings": []offering.Requirements{}})
		}
		last := types[len(types)-1]
		last["offerings"] = append(last["offerings"].([]offering.Requirements), offering.Requirements{in(offering.LabelZone, o.Zone), in(offering.LabelCapacityType, o.CapacityType), in(offering.LabelZoneID, ids[o.Zone])})
	}
	return types
}
