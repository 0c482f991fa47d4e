package write

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// testJudgement is a table of what Karpenter makes of a write, and what we make of that.
func testJudgement(w *world) {
	narrowed := func() {
		w.make("kubectl-create", w.consenting("base"))
		w.ready("base", 2)
		w.claim("base-aaaaa", "base")
		w.claim("base-bbbbb", "base")
		w.condition("base-bbbbb", "Drifted", "True", "NodePoolDrifted") // before
		w.do(w.narrow("base", narrower))
	}
	made := func() {
		w.make("kubectl-create", w.userPool("base"))
		w.do(w.sibling("base-nops", "base", 20))
	}
	falseOf := func(pool, condition string) {
		generation, _ := integer(w.pool(pool), "metadata", "generation")
		w.status(poolsPath+"/"+pool, fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":"False","reason":"R","message":"no good","observedGeneration":%d,"lastTransitionTime":%q}]}}`,
			condition, generation, w.Now().UTC().Format(time.RFC3339)))
	}
	failed := func(n int) {
		for i := range n {
			w.says("NodeClaim", fmt.Sprintf("base-nops-%c%c%c%c%c", 'a'+i, 'a', 'a', 'a', 'a'), "InsufficientCapacityError", "no capacity")
		}
	}
	cases := []struct {
		name, reason string
		write        func()
		then         func()
		ill          string // part of why it is undone; "": it is not
		object       string
	}{
		{"nothing happens", "the rule", narrowed, func() { w.ready("base", 2) }, "", "base"},
		{"Karpenter does not look at a narrowed pool", "what is not seen is not proved", narrowed, func() {}, "not looked", "base"},
		{"Karpenter does not look at a sibling", "it does no harm", made, func() {}, "", "base-nops"},
		{"a node drifts", "it was not predicted to", narrowed, func() { w.ready("base", 2); w.condition("base-aaaaa", "Drifted", "True", "RequirementsDrifted") }, "1 nodes drifted", "base"},
		{"a node drifts by its image", "that is not ours", narrowed, func() { w.ready("base", 2); w.condition("base-aaaaa", "Drifted", "True", "AMIDrift") }, "", "base"},
		{"a node drifts no more", "a mark that clears", narrowed, func() { w.ready("base", 2); w.condition("base-bbbbb", "Drifted", "False", "NotDrifted") }, "", "base"},
		{"validation fails", "Karpenter knows more than admission", narrowed, func() { falseOf("base", "ValidationSucceeded") }, "ValidationSucceeded is False: R no good", "base"},
		{"it is not ready any more", "it was before", narrowed, func() { falseOf("base", "Ready") }, "Ready is False", "base"},
		{"an old condition", "of the generation before", narrowed, func() {
			w.ready("base", 2)
			w.status(poolsPath+"/base", `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"R","message":"","observedGeneration":2,"lastTransitionTime":"2026-01-01T00:00:00Z"},
				{"type":"ValidationSucceeded","status":"False","reason":"R","message":"","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
		}, "", "base"},
		{"nothing is left", "Karpenter says so of the pool, which stays ready", narrowed, func() {
			w.ready("base", 2)
			w.says(kindPool, "base", "NoCompatibleInstanceTypes", "NodePool requirements filtered out all compatible available instance types")
		}, "can launch nothing", "base"},
		{"nothing is left of another", "not ours", narrowed, func() {
			w.ready("base", 2)
			w.says(kindPool, "other", "NoCompatibleInstanceTypes", "NodePool requirements filtered out all compatible available instance types")
		}, "", "base"},
		{"a pod does not fit any more", "and our pool is named for it", narrowed, func() {
			w.ready("base", 2)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, did not tolerate taint (taint=a:NoSchedule); incompatible requirements, key karpenter.k8s.aws/instance-family, karpenter.k8s.aws/instance-family In [c5] not in karpenter.k8s.aws/instance-family In [m5 r5]")
		}, "pod p cannot be scheduled", "base"},
		{"a pod finds no instance type", "among those of our pool", narrowed, func() {
			w.ready("base", 2)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, no instance type has enough resources, requirements=karpenter.k8s.aws/instance-family In [m5 r5], karpenter.sh/nodepool In [base], resources={\"cpu\":\"400\"}")
		}, "pod p cannot be scheduled", "base"},
		{"no NodePool has anything left", "Karpenter names none then", narrowed, func() {
			w.ready("base", 2)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, nodepool requirements filtered out all available instance types")
		}, "pod p cannot be scheduled", "base"},
		{"a pod does not fit for other reasons", "taints, limits, another label, another pool", narrowed, func() {
			w.ready("base", 2)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, did not tolerate taint (taint=a:NoSchedule); all available instance types exceed limits for nodepool (NodePool=base); incompatible requirements, key example.com/team, example.com/team In [a] not in ; no instance type has enough resources, requirements=karpenter.sh/nodepool In [other], resources={}")
		}, "", "base"},
		{"a pod has not fitted for long", "since before", narrowed, func() {
			w.ready("base", 2)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, nodepool requirements filtered out all available instance types", time.Hour)
		}, "", "base"},
		{"a pod does not fit, beside a sibling", "the base is as it was", made, func() {
			w.ready("base-nops", 0)
			w.says("Pod", "p", "FailedScheduling", "Failed to schedule pod, nodepool requirements filtered out all available instance types")
		}, "", "base-nops"},
		{"a sibling that is not ready", "after a while", made, func() { w.clock.pass(3 * time.Minute); falseOf("base-nops", "Ready") }, "Ready is False", "base-nops"},
		{"a sibling that is not ready yet", "its node class may be new", made, func() { falseOf("base-nops", "Ready"); w.settle(); w.ready("base-nops", 0) }, "", "base-nops"},
		{"no capacity", "three launches fail and none succeeds", made, func() { w.ready("base-nops", 0); failed(3) }, "no capacity: 3", "base-nops"},
		{"little capacity", "one of them succeeds", made, func() {
			w.ready("base-nops", 0)
			failed(3)
			time.Sleep(1100 * time.Millisecond) // objects are as old as whole seconds
			w.claim("base-nops-zzzzz", "base-nops")
		}, "", "base-nops"},
		{"capacity is short elsewhere", "the names of others begin alike", made, func() {
			w.ready("base-nops", 0)
			for range 4 {
				w.says("NodeClaim", "base-nops-two-aaaaa", "InsufficientCapacityError", "no capacity")
				w.says("NodeClaim", "base-aaaaa", "InsufficientCapacityError", "no capacity")
			}
		}, "", "base-nops"},
		{"a launch fails", "for another reason than capacity", made, func() {
			w.ready("base-nops", 0)
			time.Sleep(1100 * time.Millisecond)
			w.claim("base-nops-aaaaa", "base-nops")
			w.condition("base-nops-aaaaa", "Launched", "Unknown", "LaunchFailed")
			w.clock.pass(3 * time.Minute)
		}, "LaunchFailed", "base-nops"},
		{"a launch is under way", "it is given a while", made, func() {
			w.ready("base-nops", 0)
			w.claim("base-nops-aaaaa", "base-nops")
			w.condition("base-nops-aaaaa", "Launched", "Unknown", "AwaitingReconciliation")
		}, "", "base-nops"},
	}
	const least = 24
	if len(cases) < least {
		w.Fatalf("%d cases, at least %d were expected", len(cases), least)
	}
	for _, c := range cases {
		w.clear()
		w.clock.reset() // the age of objects is the API server's to say
		c.write()
		before := w.settle()
		if before.Watching == 0 && c.ill == "" {
			w.Errorf("%s: nothing is watched: %+v", c.name, before)
		}
		c.then()
		s := w.settle()
		if strings.Contains(c.ill, "not looked") || c.ill == "" {
			if s.Watching != 1 || len(s.Records) != 0 {
				w.Errorf("%s (%s): settled before the window is over: %+v", c.name, c.reason, s)
			}
			w.clock.pass(6 * time.Minute)
			s = w.settle()
		}
		if s.Watching != 0 || len(s.Records) == 0 {
			w.Errorf("%s (%s): %+v", c.name, c.reason, s)
			continue
		}
		last := s.Records[len(s.Records)-1]
		if c.ill == "" {
			if last.Outcome != Applied || len(s.Records) != 1 {
				w.Errorf("%s (%s): %+v", c.name, c.reason, s.Records)
			}
			continue
		}
		if last.Outcome != Undone || !strings.Contains(last.Explanation, c.ill) {
			w.Errorf("%s (%s): %+v, want undone because of %q", c.name, c.reason, last, c.ill)
		}
		if !slices.Contains(w.events(c.object), "KarpenopsUndone") {
			w.Errorf("%s: events %v", c.name, w.events(c.object))
		}
		switch live := w.pool(c.object); c.object {
		case "base":
			if !equal(value(live, pathRequirements), list(w, requirements)) || annotation(live, karpenstate.AnnotationOriginal) != "" {
				w.Errorf("%s: %s %v", c.name, spec(live), annotationsOf(live))
			}
		default:
			if !drained(live) || value(live, pathDrain()) == nil {
				w.Errorf("%s: %s", c.name, spec(live))
			}
		}
	}
}

// testUndo is about what may come in the way of an undo, and what follows from one.
func testUndo(w *world) {
	ill := func() {
		w.says(kindPool, "base", "NoCompatibleInstanceTypes", "NodePool requirements filtered out all compatible available instance types")
	}
	before := w.make("kubectl-create", w.consenting("base"))
	w.do(w.narrow("base", narrower))
	ill()
	// A pause is somebody's word; a freeze keeps things as they were, which is what an undo does.
	if err := w.Pause(w.ctx, "", "ann", "incident"); err != nil {
		w.Fatal(err)
	}
	for range 2 {
		if s := w.settle(); s.Watching != 1 || len(s.Records) != 0 {
			w.Fatalf("paused: %+v", s)
		}
	}
	if got := w.events("base"); !slices.Contains(got, "KarpenopsUndoWaits") || slices.Contains(got, "KarpenopsUndone") {
		w.Errorf("events: %v", got)
	}
	if err := w.Resume(w.ctx, ""); err != nil {
		w.Fatal(err)
	}
	w.edit("kubectl-annotate", "base", `{"metadata":{"annotations":{"karpenops.nops.io/freeze":"* * * * * 1h"}}}`)
	s := w.settle()
	if s.Watching != 0 || spec(w.pool("base")) != spec(before) {
		w.Fatalf("frozen: %+v: %s", s, spec(w.pool("base")))
	}
	if diff := cmp.Diff([]string{"narrow undone", "undo undone"}, w.outcomes("NodePool/base")); diff != "" {
		w.Errorf("ledger (-want +got):\n%s", diff)
	}
	w.edit("kubectl-annotate", "base", `{"metadata":{"annotations":{"karpenops.nops.io/freeze":null}}}`)

	// Then the pool is left alone: an hour, then two, and after a write that went well an hour again.
	for i, hours := range []int{1, 2, 4} {
		r := w.refused(RateLimited, w.narrow("base", narrower))
		if !strings.Contains(r.Why, "was undone") {
			w.Errorf("%d: %v", i, r)
		}
		w.clock.pass(time.Duration(hours)*time.Hour - time.Minute)
		w.refused(RateLimited, w.narrow("base", narrower))
		w.clock.pass(2 * time.Minute)
		w.do(w.narrow("base", narrower))
		if i < 2 {
			ill()
			w.settle()
			continue
		}
		w.ready("base", 0)
		w.prove()
	}
	restore := plan.Action{ID: "r", Kind: plan.Restore, ObjectKind: kindPool, Name: "base", Base: "base"}
	if r, err := w.Apply(w.ctx, restore, Meta{}); err != nil || r.Outcome != Undone {
		w.Fatal(r, err)
	}
	w.do(w.narrow("base", narrower))
	ill()
	w.settle()
	w.clock.pass(61 * time.Minute)

	// What somebody changed meanwhile stays as they made it.
	w.do(w.narrow("base", narrower))
	theirs := strings.Replace(narrower, `"m5","r5"`, `"c5"`, 1)
	w.edit("kubectl-edit", "base", `{"spec":{"template":{"spec":{"requirements":`+theirs+`}}}}`)
	ill()
	s = w.settle()
	if s.Watching != 0 || !equal(value(w.pool("base"), pathRequirements), list(w, theirs)) {
		w.Errorf("%+v: %s", s, spec(w.pool("base")))
	}
	// Of two writes to one pool only the one that goes ill is undone: the first value is kept for the other.
	w.clear()
	w.make("kubectl-create", w.consenting("base"))
	w.do(w.narrow("base", narrower))
	w.ready("base", 0)
	w.prove()
	w.do(w.narrow("base", strings.Replace(narrower, `"m5","r5"`, `"m5"`, 1)))
	ill()
	w.settle()
	originals, err := originalsOf(w.pool("base"))
	if err != nil || !equal(value(w.pool("base"), pathRequirements), list(w, narrower)) || !equal(originals[pathRequirements].Value, list(w, requirements)) {
		w.Errorf("%s %s, %v", spec(w.pool("base")), canonical(originals), err)
	}
	if r, err := w.Apply(w.ctx, restore, Meta{}); err != nil || r.Outcome != Undone || !equal(value(w.pool("base"), pathRequirements), list(w, requirements)) {
		w.Errorf("%+v, %v", r, err)
	}
	// A large list is not in the journal, but in the annotation.
	w.clear()
	var many []any
	for i := range 2000 {
		many = append(many, fmt.Sprintf("m%d.large", i))
	}
	large := []any{map[string]any{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": many}}
	w.make("kubectl-create", with(w.consenting("base"), []plan.Change{{Path: pathRequirements, After: large}}))
	w.do(w.narrow("base", narrower))
	if n := len(canonical(w.state().journal)); n > maxValue {
		w.Errorf("the journal is %d bytes long", n)
	}
	ill()
	w.settle()
	if !equal(value(w.pool("base"), pathRequirements), large) {
		w.Errorf("a large list: %s", brief(value(w.pool("base"), pathRequirements)))
	}
}

// cut is a connection to the API server that breaks at a request, after it was answered or before it was made.
type cut struct {
	http.RoundTripper
	mu    sync.Mutex
	match func(*http.Request, string) bool
	after bool
	off   bool // after the first cut nothing goes through: the process is gone
}

func (c *cut) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return nil, errors.New("cut off")
	}
	body := ""
	if req.Body != nil {
		data, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(data)
		req.Body = io.NopCloser(bytes.NewReader(data))
	}
	if c.match(req, body) {
		c.off = true
		if c.after {
			if resp, err := c.RoundTripper.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}
		return nil, errors.New("cut off")
	}
	return c.RoundTripper.RoundTrip(req)
}

// testCrash kills a writer at every point of a write, and has another one come after it.
func testCrash(w *world) {
	isPool := func(r *http.Request, _ string) bool {
		return r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, poolsPath) && r.URL.Query().Get("dryRun") == ""
	}
	isState := func(with string) func(*http.Request, string) bool {
		return func(r *http.Request, body string) bool {
			return r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/configmaps") && strings.Contains(body, with)
		}
	}
	cases := []struct {
		name, reason string
		match        func(*http.Request, string) bool
		after        bool
		written      bool
		outcome      []string
	}{
		{"before the intent", "nothing happened", isState(`\"intents\":[{`), false, false, nil},
		{"after the intent", "it is written down, and was not done", isState(`\"intents\":[{`), true, false, []string{"narrow refused"}},
		{"before the write", "likewise", isPool, false, false, []string{"narrow refused"}},
		{"after the write", "it is done, and there is no record", isPool, true, true, []string{"narrow applied"}},
		{"before the record", "likewise", isState(`\"watches\":[{`), false, true, []string{"narrow applied"}},
		{"after the record", "only the event is missing", isState(`\"watches\":[{`), true, true, []string{"narrow applied"}},
	}
	for _, c := range cases {
		w.clear()
		w.make("kubectl-create", w.consenting("base"))
		config := rest.CopyConfig(w.config)
		config.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
			return &cut{RoundTripper: rt, match: c.match, after: c.after}
		}
		config.QPS, config.Burst = 1000, 1000
		doomed := w.writer(config, w.Limits)
		action := w.narrow("base", narrower)
		action.Flip = "base"
		if _, err := doomed.Apply(w.ctx, action, Meta{}); err == nil && c.name != "after the record" {
			w.Errorf("%s: it knows of no error", c.name)
		}
		if got := equal(value(w.pool("base"), pathRequirements), list(w, narrower)); got != c.written {
			w.Errorf("%s (%s): written %t, want %t", c.name, c.reason, got, c.written)
		}
		// Whoever looks at once leaves it alone: the writer could live. After a while it is settled.
		w.settle()
		w.clock.pass(w.Limits.IntentTTL + time.Second)
		// Whoever counts writes is told of those that it does not know of.
		if s, unknown := w.settle(), c.written && c.name != "after the record"; unknown != (len(s.Writes) == 1 && s.Writes[0].Flip == "base") || !unknown && len(s.Writes) > 0 {
			w.Errorf("%s (%s): counted as written: %+v", c.name, c.reason, s.Writes)
		}
		if diff := cmp.Diff(c.outcome, w.outcomes("NodePool/base")); diff != "" {
			w.Errorf("%s (%s): ledger (-want +got):\n%s", c.name, c.reason, diff)
		}
		if n := len(w.state().journal.Intents); n != 0 {
			w.Errorf("%s: %d intents are left", c.name, n)
		}
		if c.written {
			// And it is watched, and can be undone, as if nothing had happened.
			w.says(kindPool, "base", "NoCompatibleInstanceTypes", "filtered out all")
			if s := w.settle(); len(s.Writes) != 1 || s.Writes[0].Flip != "" {
				w.Errorf("%s: an undo is a write, and counted are %+v", c.name, s.Writes)
			}
			if !equal(value(w.pool("base"), pathRequirements), list(w, requirements)) {
				w.Errorf("%s: it was not undone", c.name)
			}
		} else if w.do(w.narrow("base", narrower)); annotation(w.pool("base"), karpenstate.AnnotationOriginal) == "" {
			w.Errorf("%s: the next write", c.name)
		}
	}
}

// testBounds fills the ConfigMap.
func testBounds(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	big := strings.Repeat("x", 400<<10)
	if err := w.Keep(w.ctx, map[string]*string{karpenstate.KeyStatus: &big}, map[string][]byte{karpenstate.KeyMemory: bytes.Repeat([]byte{7}, 200<<10)}); err != nil {
		w.Fatal(err)
	}
	if err := w.mutate(w.ctx, func(st *state) error {
		for i := range 2000 {
			r := w.record(i)
			r.Before, r.After = strings.Repeat("b", 3<<10), strings.Repeat("a", 3<<10)
			st.add(r)
		}
		st.journal.Written, st.journal.Fights = map[string]Written{}, map[string]Fight{}
		for i := range 2000 {
			st.journal.Written[fieldKey(kindPool, fmt.Sprint(i), "")] = Written{At: int64(i)}
			st.journal.Fights[fieldKey(kindPool, fmt.Sprint(i), "")] = Fight{Since: time.Unix(int64(i), 0)}
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	o, err := w.get(w.ctx, w.statePath())
	if err != nil {
		w.Fatal(err)
	}
	size := 0
	for _, part := range []string{"data", "binaryData"} {
		for k, v := range mapOf(o[part]) {
			size += len(k) + len(v.(string))
		}
	}
	st := w.state()
	n := len(st.ledger.Entries)
	if size > maxState || n == 0 || n > karpenstate.MaxEntries || st.ledger.Entries[n-1].ID != w.record(1999).ID {
		w.Errorf("%d bytes, %d entries, the last %s", size, n, st.ledger.Entries[n-1].ID)
	}
	if len(st.journal.Written) != maxWritten || len(st.journal.Fights) != maxFights || st.journal.Written[fieldKey(kindPool, "1999", "")].At != 1999 {
		w.Errorf("%d fields, %d fights", len(st.journal.Written), len(st.journal.Fights))
	}
	if v := mapOf(o["data"])[karpenstate.KeyStatus]; v != big {
		w.Error("the status was lost")
	}
	small := "{}"
	if err := w.Keep(w.ctx, map[string]*string{karpenstate.KeyStatus: &small}, map[string][]byte{karpenstate.KeyMemory: nil}); err != nil {
		w.Fatal(err)
	}
	if err := w.mutate(w.ctx, func(st *state) error {
		st.journal.Written, st.journal.Fights = nil, nil
		for i := range 500 {
			st.add(w.record(i))
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	if n := len(w.state().ledger.Entries); n != karpenstate.MaxEntries {
		w.Errorf("%d entries", n)
	}
	// What cannot be read does not stop the agent; what a newer one wrote does.
	for text, works := range map[string]bool{`{"schema_version":1,`: true, `[]`: true, `{"schema_version":2}`: false} {
		patch, err := json.Marshal(map[string]any{"data": map[string]string{karpenstate.KeyJournal: text, karpenstate.KeyLedger: "x"}})
		if err != nil {
			w.Fatal(err)
		}
		if _, err := w.call(w.ctx, http.MethodPatch, w.statePath(), mergePatch, json.RawMessage(patch)); err != nil {
			w.Fatal(err)
		}
		_, err = w.Apply(w.ctx, w.sibling("base-nops", "base", 20), Meta{})
		if works != (err == nil) || !works && !errors.Is(err, errNewer) {
			w.Errorf("journal %s: %v", text, err)
		}
	}
}
