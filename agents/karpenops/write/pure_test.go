package write

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
)

func TestWindows(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse("Mon 2006-01-02 15:04", text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := []struct {
		text, now string
		frozen    string // part of why; "": it is not
		ahead     time.Duration
	}{
		{"", "Fri 2026-05-01 12:00", "", 0},
		{" ; ", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 8 * * mon-fri 10h", "Fri 2026-05-01 12:00", "until 2026-05-01T18:00:00Z", 0},
		{"0 8 * * mon-fri 10h", "Fri 2026-05-01 08:00", "until 2026-05-01T18:00:00Z", 0},
		{"0 8 * * mon-fri 10h", "Fri 2026-05-01 07:59", "", 0},
		{"0 8 * * mon-fri 10h", "Fri 2026-05-01 07:59", "begins at 2026-05-01T08:00:00Z", 5 * time.Minute},
		{"0 8 * * mon-fri 10h", "Fri 2026-05-01 18:00", "", 0},
		{"0 8 * * mon-fri 10h", "Sat 2026-05-02 12:00", "", time.Hour},
		{"@daily 30m", "Sat 2026-05-02 00:29", "until 2026-05-02T00:30:00Z", 0},
		{"@daily 1h30m", "Sat 2026-05-02 01:29", "until 2026-05-02T01:30:00Z", 0},
		{"@daily 24h", "Sat 2026-05-02 13:00", "until", 0},
		{"0 22 * * * 4h", "Sat 2026-05-02 01:00", "until 2026-05-02T02:00:00Z", 0},
		{"0 8 * * * 1h; 0 12 * * * 1h0m0s", "Sat 2026-05-02 12:30", "until 2026-05-02T13:00:00Z", 0},
		{"0 0 30 2 * 1h", "Sat 2026-05-02 12:30", "frozen", 0}, // a day that never comes is one that always is, as Karpenter has it
		{"0 8 * * mon-fri", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 8 * * mon-fri 10", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 8 * * mon-fri 10s", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 8 * * mon-fri 1d", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 25 * * * 1h", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"TZ=Asia/Tokyo 0 8 * * * 1h", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"10h", "Fri 2026-05-01 12:00", "cannot be read", 0},
		{"0 8 * * * 1h; never", "Fri 2026-05-01 12:00", "cannot be read", 0},
	}
	for _, c := range cases {
		got := frozen(c.text, at(c.now), c.ahead)
		if (c.frozen == "") != (got == "") || !strings.Contains(got, c.frozen) {
			t.Errorf("%q at %s: %q, want %q", c.text, c.now, got, c.frozen)
		}
		// The clock's zone is nothing to a window.
		if other := frozen(c.text, at(c.now).In(time.FixedZone("x", -7*3600)), c.ahead); other != got {
			t.Errorf("%q at %s, elsewhere: %q, here %q", c.text, c.now, other, got)
		}
	}
}

func TestDriftBudget(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) // a Friday
	cases := []struct {
		name, budgets string
		nodes, want   int
	}{
		{"none", `[]`, 10, Unlimited},
		{"a number", `[{"nodes":"3"}]`, 10, 3},
		{"zero", `[{"nodes":"0"}]`, 10, 0},
		{"more than there are", `[{"nodes":"30"}]`, 10, 30},
		{"a percentage rounds up", `[{"nodes":"5%"}]`, 10, 1},
		{"likewise", `[{"nodes":"10%"}]`, 11, 2},
		{"exact", `[{"nodes":"10%"}]`, 20, 2},
		{"of none", `[{"nodes":"10%"}]`, 0, 0},
		{"all", `[{"nodes":"100%"}]`, 7, 7},
		{"the strictest", `[{"nodes":"5"},{"nodes":"2"},{"nodes":"50%"}]`, 10, 2},
		{"of drift", `[{"nodes":"0","reasons":["Drifted"]},{"nodes":"5"}]`, 10, 0},
		{"of something else", `[{"nodes":"0","reasons":["Underutilized","Empty"]},{"nodes":"5"}]`, 10, 5},
		{"of something else alone", `[{"nodes":"0","reasons":["Underutilized","Empty"]}]`, 10, Unlimited},
		{"of no reason", `[{"nodes":"0","reasons":[]}]`, 10, Unlimited},
		{"now", `[{"nodes":"0","schedule":"0 8 * * fri","duration":"8h"},{"nodes":"5"}]`, 10, 0},
		{"not now", `[{"nodes":"0","schedule":"0 8 * * sat","duration":"8h"},{"nodes":"5"}]`, 10, 5},
		{"not now alone", `[{"nodes":"0","schedule":"0 8 * * sat","duration":"8h"}]`, 10, Unlimited},
		{"unreadable schedule", `[{"nodes":"5","schedule":"61 * * * *","duration":"8h"}]`, 10, 0},
		{"unreadable schedule of another reason", `[{"nodes":"5"},{"nodes":"7","reasons":["Empty"],"schedule":"61 * * * *","duration":"8h"}]`, 10, 0},
		{"schedule without a duration", `[{"nodes":"5","schedule":"* * * * *"}]`, 10, 0},
		{"unreadable nodes", `[{"nodes":"some"}]`, 10, 0},
	}
	for _, c := range cases {
		pool := object(t, `{"spec":{"disruption":{"budgets":%s}},"status":{"nodes":%d}}`, c.budgets, c.nodes)
		if got := DriftBudget(pool, now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := DriftBudget(map[string]any{}, now); got != Unlimited {
		t.Errorf("no budgets at all: %d", got)
	}
}

// TestOwnedAt reads managed fields as the API server writes them.
// TestSchedules: what the NodePool's schema lets through and cannot be is said, and closes.
func TestSchedules(t *testing.T) {
	now := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, budgets, freeze string
		says                  []string
		closed                bool // no node may go
	}{
		{"none", `[]`, "", nil, false},
		{"without a schedule", `[{"nodes":"10%"}]`, "", nil, false},
		{"a good one", `[{"nodes":"0","schedule":"0 20 * * mon-fri","duration":"10h"}]`, "0 8 * * mon-fri 10h; @daily 30m", nil, false},
		{"the hour 99", `[{"nodes":"3"},{"nodes":"3","schedule":"0 99 * * *","duration":"1h"}]`, "", []string{"disruption budget 1 cannot be read", "0 99 * * *"}, true},
		{"five words", `[{"nodes":"3","schedule":"a b c d e","duration":"1h"}]`, "", []string{"disruption budget 0 cannot be read"}, true},
		{"six fields", `[{"nodes":"3","schedule":"0 0 8 * * *","duration":"1h"}]`, "", []string{"disruption budget 0 cannot be read"}, true},
		{"a range that goes back", `[{"nodes":"3","schedule":"0 8 * * fri-mon","duration":"1h"}]`, "", []string{"disruption budget 0 cannot be read"}, true},
		{"a time zone", `[{"nodes":"3","schedule":"CRON_TZ=Asia/Tokyo 0 8 * * *","duration":"1h"}]`, "", []string{"disruption budget 0 cannot be read"}, true},
		{"30 February", `[{"nodes":"0","schedule":"0 0 30 2 *","duration":"1h"}]`, "", []string{"never comes, which Karpenter takes for always"}, true},
		{"a freeze of the hour 25", `[{"nodes":"3"}]`, "0 25 * * * 1h", []string{"annotation karpenops.nops.io/freeze cannot be read"}, false},
		{"a freeze that never comes", `[{"nodes":"3"}]`, "0 0 31 4 * 1h", []string{"the freeze window", "never comes"}, false},
		{"both", `[{"nodes":"3","schedule":"60 * * * *","duration":"1h"}]`, "tomorrow", []string{"disruption budget 0", "annotation karpenops.nops.io/freeze"}, true},
	} {
		pool := object(t, `{"metadata":{"annotations":{"karpenops.nops.io/freeze":%q}},"spec":{"disruption":{"budgets":%s}},"status":{"nodes":4}}`, tt.freeze, tt.budgets)
		said := strings.Join(Schedules(pool), "\n")
		if (said == "") != (len(tt.says) == 0) {
			t.Errorf("%s: %q", tt.name, said)
		}
		for _, s := range tt.says {
			if !strings.Contains(said, s) {
				t.Errorf("%s: no %q in %q", tt.name, s, said)
			}
		}
		if n := DriftBudget(pool, now); (n == 0) != tt.closed {
			t.Errorf("%s: %d nodes may go, closed: %v", tt.name, n, tt.closed)
		}
		if bad := strings.Contains(said, "freeze"); bad != (frozen(tt.freeze, now, 0) != "") && tt.name != "a good one" {
			t.Errorf("%s: frozen: %q", tt.name, frozen(tt.freeze, now, 0))
		}
	}
}

func TestOwnedAt(t *testing.T) {
	o := object(t, `{"spec":{"limits":{"cpu":"1"},"weight":1,"template":{"metadata":{"labels":{"a":"b"}},"spec":{"requirements":[]}}}}`)
	fields := object(t, `{"f:spec":{"f:limits":{},"f:template":{"f:metadata":{"f:labels":{}},"f:spec":{".":{},"f:requirements":{}}}},"f:metadata":{"f:annotations":{".":{},"f:a.b/c~d":{}}}}`)
	for path, want := range map[string]string{
		"/spec/template/spec/requirements":    "/spec/template/spec/requirements",
		"/spec/template/spec/requirements/0":  "/spec/template/spec/requirements",
		"/spec/template/spec":                 "/spec/template/spec",
		"/spec/template/metadata/labels/a":    "/spec/template/metadata/labels",
		"/spec/limits":                        "/spec/limits",
		"/spec/limits/cpu":                    "", // that there are limits is theirs, how many vCPU is nobody's
		"/spec/weight":                        "",
		"/metadata/annotations/a.b~1c~0d":     "/metadata/annotations/a.b~1c~0d",
		"/metadata/annotations/a.b~1c":        "",
		"/spec/template/spec/expireAfter":     "",
		"/spec/template/metadata/annotations": "",
	} {
		if got, is := ownedAt(o, fields, path); is != (want != "") || is && got != want {
			t.Errorf("%s: %q, %t; want %q", path, got, is, want)
		}
	}
}

func TestGitOps(t *testing.T) {
	for _, c := range []struct {
		metadata string
		marks    int
	}{
		{`{}`, 0},
		{`{"labels":{"app.kubernetes.io/instance":"x","app.kubernetes.io/managed-by":"karpenter"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}`, 0},
		{`{"annotations":{"argocd.argoproj.io/tracking-id":"x"}}`, 1},
		{`{"labels":{"argocd.argoproj.io/instance":"x"}}`, 1},
		{`{"labels":{"kustomize.toolkit.fluxcd.io/name":"x","kustomize.toolkit.fluxcd.io/namespace":"y"}}`, 2},
		{`{"labels":{"helm.toolkit.fluxcd.io/name":"x"}}`, 1},
		{`{"labels":{"app.kubernetes.io/managed-by":"Helm"},"annotations":{"meta.helm.sh/release-name":"x","meta.helm.sh/release-namespace":"y"}}`, 3},
		{`{"labels":{"app.kubernetes.io/managed-by":"kustomize-v5.0.0"}}`, 1},
		{`{"annotations":{"config.kubernetes.io/origin":"x"}}`, 1},
	} {
		if got := GitOps(object(t, `{"metadata":%s}`, c.metadata)); len(got) != c.marks {
			t.Errorf("%s: %v, want %d", c.metadata, got, c.marks)
		}
	}
	for manager, want := range map[string]OwnerKind{
		"argocd-controller": OwnerGitOps, "argocd-application-controller": OwnerGitOps, "kustomize-controller": OwnerGitOps, "helm-controller": OwnerGitOps, "Helm": OwnerGitOps, "helm": OwnerGitOps,
		"Terraform": OwnerGitOps, "pulumi-resource-kubernetes": OwnerGitOps, "kubectl-client-side-apply": OwnerPerson, "kubectl-edit": OwnerPerson, "kubectl": OwnerPerson, "k9s": OwnerPerson, "node-fetch": OwnerPerson, "unheard-of": OwnerPerson,
	} {
		if got := kindOf(manager, false); got != want {
			t.Errorf("%s: %s, want %s", manager, got, want)
		}
		if got := kindOf(manager, true); got != OwnerGitOps {
			t.Errorf("%s on an object with marks: %s", manager, got)
		}
	}
}

// tree draws a small JSON object.
func tree(depth int) *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		m := map[string]any{}
		for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c/d", "e~f"}), 0, 3, rapid.ID).Draw(t, "keys") {
			m[k] = leaf(depth).Draw(t, "value")
		}
		return m
	})
}

func leaf(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch n := rapid.IntRange(0, 4).Draw(t, "kind"); {
		case n == 0 && depth > 0:
			return tree(depth-1).Draw(t, "tree")
		case n <= 1:
			return rapid.Int64Range(-3, 3).Draw(t, "number")
		case n == 2:
			return []any{rapid.SampledFrom([]string{"x", "y"}).Draw(t, "item")}
		}
		return rapid.SampledFrom([]string{"s", "", "0"}).Draw(t, "text")
	})
}

// TestPatches: the merge patch of some changes, merged as the API server merges, is the object with the changes; and nothing is
// changed but what was meant.
func TestPatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := map[string]any{"metadata": map[string]any{"resourceVersion": "1", "uid": "u"}, "spec": tree(3).Draw(t, "spec")}
		var changes []plan.Change
		// Of distinct fields, none within another.
		for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c/d"}), 1, 3, rapid.ID).Draw(t, "fields") {
			parts := []string{"spec", k}
			if rapid.Bool().Draw(t, "deeper") {
				if _, is := mapOf(o["spec"])[k].(map[string]any); is {
					parts = append(parts, rapid.SampledFrom([]string{"a", "e~f"}).Draw(t, "below"))
				}
			}
			c := plan.Change{Path: pointer(parts...)}
			c.Before = value(o, c.Path)
			if rapid.IntRange(0, 3).Draw(t, "remove") > 0 {
				c.After = leaf(2).Draw(t, "after")
			}
			changes = append(changes, c)
		}
		before := canonical(o)
		want := with(o, changes)
		got := merged(o, mapOf(fromJSON(t, canonical(patchOf(o, changes)))))
		if !equal(want, got) {
			t.Fatalf("%s\n+ %s\nwant %s\ngot  %s", before, canonical(patchOf(o, changes)), canonical(want), canonical(got))
		}
		if string(before) != string(canonical(o)) {
			t.Fatal("the object itself was changed")
		}
		none := func(string) bool { return false }
		if d := difference(want, mapOf(got), none); d != "" {
			t.Fatalf("a difference at %s", d)
		}
		if !equal(o, want) && difference(o, want, none) == "" {
			t.Fatalf("a change that is not seen: %s, %s", canonical(o), canonical(want))
		}
	})
}

func fromJSON(t *rapid.T, data []byte) any {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestValues: equal values have equal bytes whatever they were made of, and digests tell them apart.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		a, b  any
		equal bool
	}{
		{int64(1), 1.0, true}, {1, int64(1), true}, {"1", 1, false}, {nil, "", false}, {[]any{}, nil, false}, {map[string]any{"b": 1, "a": 2}, map[string]any{"a": 2.0, "b": int64(1)}, true},
		{"<&>", "<&>", true}, {[]string{"a"}, []any{"a"}, true}, {[]any{"a", "b"}, []any{"b", "a"}, false}, {math.Inf(1), math.Inf(1), true},
	} {
		if equal(c.a, c.b) != c.equal || (sum(c.a) == sum(c.b)) != c.equal {
			t.Errorf("%v and %v: equal %t, digests %s %s", c.a, c.b, equal(c.a, c.b), sum(c.a), sum(c.b))
		}
	}
	if p := pointer(split("/metadata/annotations/a~1b~0c")...); p != "/metadata/annotations/a~1b~0c" {
		t.Error(p)
	}
	if v := small(strings.Repeat("x", maxValue)); fmt.Sprint(mapOf(v)["bytes"]) != fmt.Sprint(maxValue+2) {
		t.Errorf("%v", v)
	}
}

func TestBlames(t *testing.T) {
	// As Karpenter v1.14.1 says it, for two NodePools.
	both := "Failed to schedule pod, incompatible requirements, key example.com/a, example.com/a In [x] not in ; no instance type met all requirements, requirements=karpenter.sh/nodepool In [b], resources={}"
	for _, c := range []struct {
		pool, key string
		want      bool
	}{{"b", "", true}, {"a", "", false}, {"a", "example.com/a", true}, {"a", "example.com/ab", false}, {"a", "example.com", false}} {
		if blames(both, c.pool, []string{c.key}) != c.want {
			t.Errorf("%+v", c)
		}
	}
}
