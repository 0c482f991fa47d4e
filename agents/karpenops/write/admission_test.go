package write

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
)

// testAdmission holds the table of what admission says, which the algebra of requirements is tested by as well, against the API server.
func testAdmission(t *testing.T, config *rest.Config, client kubernetes.Interface, set string) {
	w := newWorld(t, config, client)
	data, err := os.ReadFile(filepath.Join("..", "offering", "testdata", "admission.json"))
	if err != nil {
		t.Fatal(err)
	}
	type repeat struct {
		Path  string `json:"path"`
		Times int    `json:"times"`
	}
	var table struct {
		NodePool, NodeOverlay map[string]any
		Cases                 []struct {
			Name, Reason, Kind string
			Requirements       *json.RawMessage
			Patch              *json.RawMessage
			Repeat             *repeat
			Update             bool
			Base               *json.RawMessage
			Core, AWS          string
		}
	}
	if err := json.Unmarshal(data, &table); err != nil {
		t.Fatal(err)
	}
	const least = 60
	if len(table.Cases) < least {
		t.Fatalf("%d cases, at least %d were expected", len(table.Cases), least)
	}
	w.awaitSet(set)
	ran, rejected := 0, 0
	for _, c := range table.Cases {
		base, path := table.NodePool, poolsPath
		if c.Kind == kindOverlay {
			base, path = table.NodeOverlay, overlaysPath
		}
		base = mapOf(list(t, string(canonical(base))))
		changed := base
		if c.Requirements != nil {
			at := pathRequirements
			if c.Kind == kindOverlay {
				at = "/spec/requirements"
			}
			changed = with(changed, []plan.Change{{Path: at, After: list(t, string(*c.Requirements))}})
		}
		if c.Patch != nil {
			changed = mapOf(merged(changed, list(t, string(*c.Patch))))
		}
		if c.Repeat != nil {
			changed = repeated(changed, split(c.Repeat.Path), c.Repeat.Times)
		}
		ran++
		want := map[string]string{"core": c.Core, "aws": c.AWS}[set]
		var err error
		if c.Update {
			if _, made := w.call(w.ctx, http.MethodPost, path, plainJSON, base); made != nil {
				t.Fatalf("%s: the base: %v", c.Name, made)
			}
			live, got := w.get(w.ctx, path+"/"+nameOf(base))
			if got != nil {
				t.Fatal(got)
			}
			changed = with(changed, []plan.Change{{Path: "/metadata/resourceVersion", After: text(live, "metadata", "resourceVersion")}})
			_, err = w.call(w.ctx, http.MethodPut, path+"/"+nameOf(base), plainJSON, changed, "dryRun", "All", "fieldValidation", "Strict")
			if _, gone := w.call(w.ctx, http.MethodDelete, path+"/"+nameOf(base), "", nil); gone != nil {
				t.Fatal(gone)
			}
		} else {
			_, err = w.call(w.ctx, http.MethodPost, path, plainJSON, changed, "dryRun", "All", "fieldValidation", "Strict")
		}
		got := "accepted"
		if err != nil {
			got = "rejected"
			if code := apiCode(err); code != http.StatusUnprocessableEntity && code != http.StatusBadRequest {
				t.Errorf("%s: %v", c.Name, err)
			}
			rejected++
		}
		if got != want {
			t.Errorf("%s (%s): %s, want %s: %v", c.Name, c.Reason, got, want, err)
		}
	}
	if ran < least || rejected == 0 || rejected == ran {
		t.Errorf("%d cases, %d of them rejected", ran, rejected)
	}
}

// awaitSet waits until the API server goes by the set of CRDs.
func (w *world) awaitSet(set string) {
	w.Helper()
	probe := w.userPool("probe", plan.Change{Path: pathRequirements, After: list(w, `[{"key":"karpenter.k8s.aws/no-such-label","operator":"Exists"}]`)})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := w.call(w.ctx, http.MethodPost, poolsPath, plainJSON, probe, "dryRun", "All")
		if set == "core" && err == nil || set == "aws" && apiCode(err) == http.StatusUnprocessableEntity {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("the API server does not go by the CRDs of %s: %v", set, err)
		}
	}
}

// merged is a JSON merge patch, applied.
func merged(o, patch any) any {
	p, is := patch.(map[string]any)
	if !is {
		return patch
	}
	out := map[string]any{}
	for k, v := range mapOf(o) {
		out[k] = v
	}
	for k, v := range p {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = merged(out[k], v)
	}
	return out
}

// repeated makes the list at a path be so many copies of its one member. Members of lists on the way go by number.
func repeated(o map[string]any, path []string, times int) map[string]any {
	var walk func(v any, path []string) any
	walk = func(v any, path []string) any {
		if len(path) == 0 {
			all, _ := v.([]any)
			var out []any
			for range times {
				out = append(out, all[0])
			}
			return out
		}
		if m, is := v.(map[string]any); is {
			m[path[0]] = walk(m[path[0]], path[1:])
			return m
		}
		all, _ := v.([]any)
		i := int(path[0][0] - '0')
		all[i] = walk(all[i], path[1:])
		return all
	}
	return mapOf(walk(o, path))
}
