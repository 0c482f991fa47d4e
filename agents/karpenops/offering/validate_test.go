package offering

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// admission is testdata/admission.json. Whoever has an API server holds the same data against it.
type admission struct {
	NodePool    map[string]any
	NodeOverlay map[string]any
	Cases       []struct {
		Name, Reason string
		Kind         string
		Requirements []any
		Patch        map[string]any
		Repeat       *struct {
			Path  string
			Times int
		}
		Update    bool
		Core, AWS string
		Ready     *bool
		Problems  []Reason
		Catalogue *[]Reason
	}
}

func read(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// merge is a JSON merge patch: RFC 7386.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := mapClone(target)
	for key, value := range p {
		if value == nil {
			delete(merged, key)
		} else {
			merged[key] = merge(merged[key], value)
		}
	}
	return merged
}

// at finds and replaces what is at a JSON pointer.
func replaceAt(object any, path string, with func(any) any) any {
	name, rest, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	step := func(v any) any {
		if more {
			return replaceAt(v, rest, with)
		}
		return with(v)
	}
	switch o := object.(type) {
	case map[string]any:
		o = mapClone(o)
		o[name] = step(o[name])
		return o
	case []any:
		o = slices.Clone(o)
		o[int(name[0]-'0')] = step(o[int(name[0]-'0')])
		return o
	}
	return object
}

func TestAdmission(t *testing.T) {
	var data admission
	read(t, "admission.json", &data)
	if len(data.Cases) < 130 {
		t.Fatalf("only %d cases", len(data.Cases))
	}
	catalogue := small(t)
	verdicts := map[string]int{}
	for _, c := range data.Cases {
		t.Run(c.Name, func(t *testing.T) {
			base := data.NodePool
			if c.Kind == "NodeOverlay" {
				base = data.NodeOverlay
			}
			object := merge(base, c.Patch).(map[string]any)
			if c.Patch == nil {
				object = replaceAt(base, requirementsAt, func(any) any { return append([]any{}, c.Requirements...) }).(map[string]any)
			}
			if c.Repeat != nil {
				object = replaceAt(object, c.Repeat.Path, func(list any) any { return slices.Repeat(list.([]any), c.Repeat.Times) }).(map[string]any)
			}
			var problems Problems
			switch {
			case c.Kind == "NodeOverlay":
				problems = ValidateOverlay(object)
			case c.Update:
				problems = Validate(object, base)
			default:
				problems = Validate(object, nil)
			}
			for _, set := range []struct {
				name, want string
				aws        bool
			}{{"core", c.Core, false}, {"aws", c.AWS, true}} {
				if rejected := problems.RejectedBy(set.aws); rejected != (set.want == "rejected") || set.want != "rejected" && set.want != "accepted" {
					t.Errorf("CRDs of %s: rejected %v, want %s: %s\n%v", set.name, rejected, set.want, c.Reason, problems)
				}
				verdicts[set.name+" "+set.want]++
			}
			if c.Ready != nil {
				if ready := len(problems.Of(NotReady)) == 0; ready != *c.Ready {
					t.Errorf("ready: %v, want %v: %s\n%v", ready, *c.Ready, c.Reason, problems)
				}
			}
			var reasons []Reason
			for _, p := range problems {
				reasons = append(reasons, p.Reason)
			}
			if slices.Sort(reasons); !slices.Equal(reasons, c.Problems) {
				t.Errorf("problems: %v", cmp.Diff(c.Problems, reasons))
				for _, p := range problems {
					t.Log(p)
				}
			}
			if c.Catalogue != nil {
				requirements, err := Of(object)
				if err != nil {
					t.Fatal(err)
				}
				labels, _ := stringMap(object["spec"].(map[string]any)["template"].(map[string]any)["metadata"].(map[string]any)["labels"])
				var reasons []Reason
				for _, p := range catalogue.Check(Pool{Requirements: requirements, Labels: labels}) {
					reasons = append(reasons, p.Reason)
				}
				if !slices.Equal(reasons, *c.Catalogue) {
					t.Errorf("with a catalogue: %v", cmp.Diff(*c.Catalogue, reasons))
				}
			}
		})
	}
	if want := map[string]int{"core rejected": 70, "aws rejected": 74}; verdicts["core rejected"] != want["core rejected"] || verdicts["aws rejected"] != want["aws rejected"] {
		t.Errorf("verdicts %v, want %v: a case is lost or new", verdicts, want)
	}
}

func TestWhatWasAcceptedIsAccepted(t *testing.T) {
	var data admission
	read(t, "admission.json", &data)
	later := merge(data.NodePool, map[string]any{"spec": map[string]any{"disruption": map[string]any{"budgets": []any{map[string]any{"nodes": "0", "reasons": []any{"Unhealthy"}}}}}}).(map[string]any)
	if !Validate(later, nil).RejectedBy(false) {
		t.Fatal("a reason of a later version is accepted from nowhere")
	}
	heavier := merge(later, map[string]any{"spec": map[string]any{"weight": 10}}).(map[string]any)
	if problems := Validate(heavier, later); len(problems) > 0 {
		t.Errorf("what the API server has accepted is rejected: %v", problems)
	}
	heavier["spec"].(map[string]any)["weight"] = 1000
	if problems := Validate(heavier, later); len(problems) != 1 || problems[0].Path != "/spec/weight" {
		t.Errorf("want the weight rejected alone: %v", problems)
	}
}

// drifts is testdata/drift.json.
type drifts struct {
	NodePool map[string]any
	Labels   map[string]string
	Cases    []struct {
		Name, Reason string
		Patch        map[string]any
		Hash, Ready  bool
		Drifted      string
	}
}

func TestDriftOfEdits(t *testing.T) {
	var data drifts
	read(t, "drift.json", &data)
	if len(data.Cases) < 40 {
		t.Fatalf("only %d cases", len(data.Cases))
	}
	for _, c := range data.Cases {
		t.Run(c.Name, func(t *testing.T) {
			after := merge(data.NodePool, c.Patch).(map[string]any)
			static := StaticDrift(data.NodePool, after)
			if (len(static) > 0) != c.Hash {
				t.Errorf("changes of the hash: %v, want %v: %s", static, c.Hash, c.Reason)
			}
			requirements, err := Of(after)
			if err != nil {
				t.Fatal(err)
			}
			drifted := ""
			if got := Drift(Compile(requirements), []Node{{Name: "n", Labels: data.Labels}}); len(got) > 0 {
				drifted = "RequirementsDrifted"
				if text := got[0].String(); !strings.HasPrefix(text, "n: ") || len(got[0].Misfits) == 0 || len(got[0].Misfits[0].Entries) == 0 {
					t.Errorf("not explained: %q", text)
				}
			}
			if len(static) > 0 {
				drifted = "NodePoolDrifted"
			}
			if drifted != c.Drifted {
				t.Errorf("drifted %q, want %q: %s", drifted, c.Drifted, c.Reason)
			}
			if problems := Validate(after, data.NodePool); problems.RejectedBy(true) || (len(problems.Of(NotReady)) == 0) != c.Ready {
				t.Errorf("want it accepted, and ready %v: %v", c.Ready, problems)
			}
			// Undone, nothing drifts any more.
			if static := StaticDrift(data.NodePool, merge(after, data.NodePool).(map[string]any)); c.Hash && len(static) > 0 && c.Patch["spec"] == nil {
				t.Errorf("undone, it drifts still: %v", static)
			}
		})
	}
}

// small is a catalogue to look things up in.
func small(t testing.TB) *Catalogue {
	t.Helper()
	var types []Type
	var offerings []Offering
	for _, family := range []string{"c5", "m5", "r5", "m6g", "t3"} {
		for i, size := range []string{"large", "xlarge", "2xlarge"} {
			arch := "amd64"
			if family == "m6g" {
				arch = "arm64"
			}
			types = append(types, Type{Name: family + "." + size, VCPU: 2 << i, MemoryMiB: 8192 << i, Labels: map[string]string{LabelArch: arch, LabelOS: "linux", "karpenter.k8s.aws/instance-tenancy": "default"}})
			for _, zone := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
				for _, capacity := range []string{"on-demand", "spot"} {
					offerings = append(offerings, Offering{Type: family + "." + size, Zone: zone, CapacityType: capacity})
				}
			}
		}
	}
	c, left := New(types, offerings, map[string]string{"use1-az1": "us-east-1a", "use1-az2": "us-east-1b", "use1-az4": "us-east-1c"})
	if len(left) > 0 || c.Len() != 90 {
		t.Fatalf("catalogue of %d, left out %v", c.Len(), left)
	}
	return c
}
