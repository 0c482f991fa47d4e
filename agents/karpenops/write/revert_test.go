package write

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// untilSaid is a context that ends when a revert has said lines that begin so: it has come as far then, however long that took.
func (w *world) untilSaid(said *[]string, starts ...string) (context.Context, func(string)) {
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	w.Cleanup(cancel)
	return ctx, func(line string) {
		*said = append(*said, line)
		for _, start := range starts {
			if !slices.ContainsFunc(*said, func(line string) bool { return strings.HasPrefix(line, start) }) {
				return
			}
		}
		cancel()
	}
}

// testRevert takes everything back: fields, siblings with nodes, an overlay.
func testRevert(w *world) {
	before := w.make("kubectl-create", w.consenting("base"))
	w.make("kubectl-create", w.userPool("other", plan.Change{Path: pathWeight, After: int64(11)}))
	w.do(w.narrow("base", narrower))
	w.prove0()
	w.do(w.sibling("base-spot", "base", 20))
	w.prove0()
	w.do(w.sibling("base-commit", "base", 30))
	w.prove0()
	w.do(w.sibling("other-spot", "other", 40))
	w.prove0()
	w.do(plan.Action{ID: "o", Kind: plan.CreateOverlay, ObjectKind: kindOverlay, Name: "base-commit", Base: "base", Object: object(w, `{"apiVersion":"karpenter.sh/v1alpha1","kind":"NodeOverlay",
		"metadata":{"name":"base-commit","labels":{"karpenops.nops.io/owned":"true"}},"spec":{"price":"0.01","requirements":[{"key":"karpenter.sh/nodepool","operator":"In","values":["base-commit"]}]}}`)})
	mine := w.pool("base-spot")
	w.make("kubectl-create", with(map[string]any{"apiVersion": mine["apiVersion"], "kind": mine["kind"], "spec": mine["spec"], "metadata": map[string]any{
		"name": "copied", "labels": value(mine, "/metadata/labels"), "annotations": value(mine, "/metadata/annotations"),
	}}, []plan.Change{{Path: pathWeight, After: int64(21)}}))
	w.claim("base-spot-aaaaa", "base-spot")
	w.claim("base-spot-bbbbb", "base-spot")
	w.claim("base-commit-aaaaa", "base-commit")
	w.clock.pass(time.Hour)

	if _, err := w.Revert(w.ctx, Selection{}, "ann", nil); err == nil {
		w.Error("nothing selected, and no error")
	}
	// Only what belongs to one pool, and only so long: the nodes do not go by themselves.
	var said []string
	short, say := w.untilSaid(&said, "NodePool/base-commit: waits for", "NodePool/base-spot: waits for")
	r, err := w.Revert(short, Selection{Pools: []string{"base"}}, "ann", say)
	if err == nil || !strings.Contains(err.Error(), "run it again") {
		w.Fatalf("%+v, %v", r, err)
	}
	if diff := cmp.Diff([]string{"NodePool/base"}, r.Restored); diff != "" {
		w.Error(diff)
	}
	if diff := cmp.Diff([]string{"base-commit", "base-spot"}, slices.Sorted(slices.Values(r.Waiting))); diff != "" {
		w.Error(diff)
	}
	if diff := cmp.Diff([]string{"NodeOverlay/base-commit"}, r.Deleted); diff != "" {
		w.Error(diff)
	}
	if diff := cmp.Diff([]string{"NodePool/copied"}, r.Released); diff != "" {
		w.Error(diff)
	}
	if spec(w.pool("base")) != spec(before) {
		w.Errorf("the base:\n%s\n%s", spec(before), spec(w.pool("base")))
	}
	// All of them launch nothing, and the smaller one is the first to be emptied.
	for name, drifts := range map[string]bool{"base-commit": true, "base-spot": false} {
		if p := w.pool(name); !drained(p) || (value(p, pathDrain()) != nil) != drifts {
			w.Errorf("%s: %s", name, spec(p))
		}
	}
	if p := w.pool("other-spot"); drained(p) {
		w.Error("what was not selected is drained")
	}
	if why := pausedBy(w.state().meta, "karpenops"); why != "karpenops is paused by ann: revert of base" {
		w.Errorf("%q", why)
	}
	if len(said) == 0 || !strings.Contains(strings.Join(said, "\n"), "NodePool/base-commit: waits for 1 NodeClaim to go, which is not on its way out yet") {
		w.Errorf("said:\n%s", strings.Join(said, "\n"))
	}

	// Another process goes on where it was. Karpenter moves the nodes of whatever drifts, one at a time.
	done := make(chan struct{})
	var karpenter sync.WaitGroup
	most := 0
	karpenter.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(30 * time.Millisecond):
			}
			draining := 0
			for pool, claims := range map[string][]string{"base-commit": {"base-commit-aaaaa"}, "base-spot": {"base-spot-aaaaa", "base-spot-bbbbb"}, "other-spot": nil} {
				p, err := w.get(w.ctx, poolsPath+"/"+pool)
				if err != nil || value(p, pathDrain()) == nil {
					continue
				}
				draining++
				for _, c := range claims {
					if _, err := w.call(w.ctx, http.MethodDelete, claimsPath+"/"+c, "", nil); err == nil {
						w.clock.pass(time.Minute)
						break
					}
				}
			}
			most = max(most, draining)
		}
	})
	// What the agent has told before is not told of what is gone.
	told := karpenstate.Status{SchemaVersion: 1, At: w.Now().UTC(), Mode: karpenstate.ModeInPlace, Pools: []karpenstate.Pool{{Name: "base", Managed: true}, {Name: "base-commit", Owned: true, Base: "base"}, {Name: "base-spot", Owned: true, Base: "base"}},
		Pending: []karpenstate.Pending{{ID: "a", Object: "NodePool/base-spot"}, {ID: "b", Object: "NodePool/base"}}}
	raw, _ := json.Marshal(told)
	status := string(raw)
	if err := w.Keep(w.ctx, map[string]*string{karpenstate.KeyStatus: &status}, nil); err != nil {
		w.Fatal(err)
	}
	logged := len(w.logs.String())
	said = nil
	again := w.writer(w.config, w.Limits)
	all, cancel := context.WithTimeout(w.ctx, 5*time.Minute)
	defer cancel()
	r, err = again.Revert(all, Selection{All: true}, "bob", func(line string) { said = append(said, line) })
	close(done)
	karpenter.Wait()
	if err != nil {
		w.Fatalf("%+v, %v", r, err)
	}
	// Each thing is said once. To wait is no refusal: it is neither logged nor recorded.
	once := map[string]int{}
	for _, line := range said {
		if once[line]++; once[line] > 1 && !strings.Contains(line, "waits for") && !strings.Contains(line, "no nodes") {
			w.Errorf("said %d times: %s", once[line], line)
		}
	}
	for _, want := range []string{"NodePool/base-commit: deleted", "NodePool/base-spot: deleted", "NodePool/other-spot: deleted", "NodePool/other-spot: it launches nothing any more (limits.cpu is 0)"} {
		if once[want] != 1 {
			w.Errorf("%q was said %d times in\n%s", want, once[want], strings.Join(said, "\n"))
		}
	}
	for i := 1; i < len(said); i++ {
		if said[i] == said[i-1] {
			w.Errorf("said again, though nothing changed: %s", said[i])
		}
	}
	if log := w.logs.String()[logged:]; strings.Contains(log, "a write was refused") {
		w.Errorf("logged while it waited:\n%s", log)
	}
	for _, e := range w.state().ledger.Entries {
		if e.Outcome == Refused && strings.HasPrefix(e.Reason, "revert") {
			w.Errorf("recorded while it waited: %+v", e)
		}
	}
	told = karpenstate.Status{}
	if err := json.Unmarshal([]byte(w.state().status), &told); err != nil || len(told.Pools) != 1 || len(told.Pending) != 1 || told.Pools[0].Name != "base" || told.Mode != karpenstate.ModeInPlace {
		w.Errorf("the status lists what is gone: %+v, %v", told, err)
	}
	if diff := cmp.Diff([]string{"NodePool/base-commit", "NodePool/base-spot", "NodePool/other-spot"}, slices.Sorted(slices.Values(r.Deleted))); diff != "" {
		w.Error(diff)
	}
	if len(r.Waiting) != 0 || most > 1 {
		w.Errorf("waiting %v; %d drained at a time", r.Waiting, most)
	}
	pools, err := w.Writer.list(w.ctx, poolsPath)
	if err != nil || len(pools) != 3 { // base, other, copied
		w.Errorf("%d NodePools, %v", len(pools), err)
	}
	if why := pausedBy(w.state().meta, "karpenops"); !strings.Contains(why, "ann") {
		w.Errorf("who paused first is forgotten: %q", why)
	}
	for _, e := range w.state().ledger.Entries {
		if strings.HasPrefix(e.Reason, "revert") && e.Actor != "ann" && e.Actor != "bob" {
			w.Errorf("%+v", e)
		}
	}
	// Once more, and nothing is left to do; and resuming makes way.
	if r, err = again.Revert(w.ctx, Selection{All: true}, "bob", nil); err != nil || len(r.Records) != 0 {
		w.Errorf("%+v, %v", r, err)
	}
	w.refused(Paused, w.sibling("base-spot", "base", 20))
	if _, err := w.Resume(w.ctx, ""); err != nil {
		w.Fatal(err)
	}
	w.settle()
	w.do(w.sibling("base-spot", "base", 20))
}

// prove0 lets the window of what was written pass, with Karpenter content.
func (w *world) prove0() {
	w.Helper()
	for _, a := range w.state().journal.Watches {
		if a.ObjectKind == kindPool {
			w.ready(a.Name, 0)
		}
	}
	w.prove()
}

// testRevertBeside reverts from another process while the agent goes on trying, many times over. Nothing of it may be left in the end.
func testRevertBeside(w *world) {
	w.make("kubectl-create", w.consenting("base"))
	for round := range 4 {
		agents, stop := sync.WaitGroup{}, make(chan struct{})
		wrote := make(chan struct{}, 1000)
		for n := range 2 {
			one := w.writer(w.config, w.Limits)
			agents.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					actions := []plan.Action{w.narrow("base", narrower)}
					actions = append(actions, w.sibling(fmt.Sprintf("base-%d", n), "base", 20+n))
					for _, a := range actions {
						if r, err := one.Apply(w.ctx, a, Meta{}); err == nil && r.Explanation == "" {
							wrote <- struct{}{}
						} else if err != nil && CodeOf(err) == "" {
							w.Errorf("%+v, %v", r, err)
						}
					}
				}
			})
		}
		<-wrote
		time.Sleep(time.Duration(round) * 20 * time.Millisecond)
		job := w.writer(w.config, w.Limits)
		job.Limits.DrainGrace = time.Nanosecond
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Minute)
		r, err := job.Revert(ctx, Selection{All: true}, "ann", nil)
		cancel()
		left := w.everything()
		base := w.pool("base")
		close(stop)
		agents.Wait()
		if err != nil {
			w.Fatalf("round %d: %+v, %v", round, r, err)
		}
		if len(left) != 1 || !equal(value(base, pathRequirements), list(w, requirements)) || annotation(base, karpenstate.AnnotationOriginal) != "" {
			w.Errorf("round %d: left are %v, %s", round, keys(left), spec(base))
		}
		if now := w.everything(); len(now) != 1 || len(w.state().journal.Intents) != 0 {
			w.Errorf("round %d: after it: %v", round, keys(now))
		}
		if _, err := w.Resume(w.ctx, ""); err != nil {
			w.Fatal(err)
		}
		w.settle()
		if _, err := w.Resume(w.ctx, ""); err != nil { // fights: the job is somebody else, too
			w.Fatal(err)
		}
		w.clock.pass(time.Hour)
	}
}

// hook does something before a request goes out, once.
type hook struct {
	http.RoundTripper
	once  sync.Once
	match func(*http.Request, string) bool
	do    func()
}

func (h *hook) RoundTrip(req *http.Request) (*http.Response, error) {
	body := ""
	if req.Body != nil {
		data, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(data)
		req.Body = io.NopCloser(strings.NewReader(body))
	}
	if h.match(req, body) {
		h.once.Do(h.do)
	}
	return h.RoundTripper.RoundTrip(req)
}

// testPauseBetween pauses, and reverts, at every point of a write: either the write sees the pause, or whoever paused sees the write.
func testPauseBetween(w *world) {
	dry := func(r *http.Request, _ string) bool {
		return r.Method == http.MethodPatch && r.URL.Query().Get("dryRun") != ""
	}
	intent := func(r *http.Request, body string) bool {
		return r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/configmaps") && strings.Contains(body, `\"intents\":[{`)
	}
	made := func(r *http.Request, _ string) bool {
		return r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, poolsPath) && r.URL.Query().Get("dryRun") == ""
	}
	record := func(r *http.Request, body string) bool {
		return r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/configmaps") && strings.Contains(body, `\"watches\":[{`)
	}
	for _, c := range []struct {
		name    string
		match   func(*http.Request, string) bool
		refused bool
	}{{"before the dry run", dry, true}, {"before the intent", intent, true}, {"before the write", made, false}, {"before the record", record, false}} {
		w.clear()
		before := w.make("kubectl-create", w.consenting("base"))
		reverted := make(chan error, 1)
		revert := func() {
			var once sync.Once
			paused := make(chan struct{})
			other := w.writer(w.config, w.Limits)
			go func() {
				r, err := other.Revert(w.ctx, Selection{All: true}, "ann", func(string) { once.Do(func() { close(paused) }) })
				once.Do(func() { close(paused) })
				if err != nil {
					err = fmt.Errorf("%+v: %w", r, err)
				}
				reverted <- err
			}()
			<-paused // it is over, or it says that it waits for us
		}
		config := rest.CopyConfig(w.config)
		config.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
			return &hook{RoundTripper: rt, match: c.match, do: revert}
		}
		_, err := w.writer(config, w.Limits).Apply(w.ctx, w.narrow("base", narrower), Meta{})
		if c.refused != (CodeOf(err) == Paused) || !c.refused && err != nil {
			w.Errorf("%s: %v", c.name, err)
		}
		if err := <-reverted; err != nil {
			w.Errorf("%s: %v", c.name, err)
		}
		if after := w.pool("base"); spec(after) != spec(before) || annotation(after, karpenstate.AnnotationOriginal) != "" {
			w.Errorf("%s: left is %s", c.name, spec(after))
		}
		if st := w.state(); len(st.journal.Intents) != 0 || pausedBy(st.meta, "it") == "" {
			w.Errorf("%s: %+v", c.name, st.journal)
		}
	}
}

// testApprove has a person agree to findings.
func testApprove(w *world) {
	class := object(w, `{"apiVersion":"karpenter.k8s.aws/v1","kind":"EC2NodeClass","metadata":{"name":"default"},"spec":{"role":"r","amiSelectorTerms":[{"alias":"al2023@latest"}],
		"subnetSelectorTerms":[{"tags":{"a":"b"}}],"securityGroupSelectorTerms":[{"tags":{"a":"b"}}]}}`)
	before := w.make("kubectl-create", class)
	w.make("kubectl-create", w.userPool("base"))
	w.claim("base-aaaaa", "base")
	finding := func(object, patch string) nopsapi.KarpenterFinding {
		return nopsapi.KarpenterFinding{ID: "f1", Code: "no-metadata-hop", Object: object, Message: "m", Patch: patch, Drift: 1}
	}
	hops := finding("EC2NodeClass/default", `{"spec":{"metadataOptions":{"httpPutResponseHopLimit":3}}}`)
	classPath := "/apis/karpenter.k8s.aws/v1/ec2nodeclasses/default"
	refusals := []struct {
		name     string
		code     Code
		approval Approval
	}{
		{"nobody", Invariant, Approval{Finding: hops}},
		{"nothing", Invariant, Approval{Finding: finding("EC2NodeClass/default", ""), By: "ann"}},
		{"no patch", Invariant, Approval{Finding: finding("EC2NodeClass/default", `[]`), By: "ann"}},
		{"metadata", Invariant, Approval{Finding: finding("EC2NodeClass/default", `{"metadata":{"labels":{"a":"b"}}}`), By: "ann"}},
		{"another kind", Invariant, Approval{Finding: finding("Secret/default", `{"spec":{}}`), By: "ann"}},
		{"a path", Invariant, Approval{Finding: finding("NodePool/base/status", `{"spec":{"weight":3}}`), By: "ann"}},
		{"a NodeClaim", Invariant, Approval{Finding: finding("NodeClaim/base-aaaaa", `{"spec":{"expireAfter":"1h"}}`), By: "ann"}},
		{"what is not there", ChangedSincePlan, Approval{Finding: finding("NodePool/no-such", `{"spec":{"weight":3}}`), By: "ann"}},
		{"another generation", ChangedSincePlan, Approval{Finding: hops, By: "ann", Generation: 99}},
		{"what is another finding now", ChangedSincePlan, Approval{Finding: hops, By: "ann", Still: func(map[string]any) string { return "the finding is gone" }}},
		{"an unknown field", RejectedByServer, Approval{Finding: finding("EC2NodeClass/default", `{"spec":{"metadataOptions":{"hops":1}}}`), By: "ann"}},
		{"a static pool", Invariant, Approval{Finding: finding("NodePool/base", `{"spec":{"replicas":3}}`), By: "ann"}},
	}
	for _, c := range refusals {
		if r, err := w.Approve(w.ctx, c.approval); CodeOf(err) != c.code || r.Outcome != Refused {
			w.Errorf("%s: %+v, %v; want %s", c.name, r, err, c.code)
		}
	}
	if o, err := w.get(w.ctx, classPath); err != nil || text(o, "metadata", "resourceVersion") != text(before, "metadata", "resourceVersion") {
		w.Errorf("it was written to, %v", err)
	}
	r, err := w.Approve(w.ctx, Approval{Finding: hops, By: "ann", Generation: 1})
	if err != nil || r.Outcome != Applied || r.Actor != "ann" || r.Action != "approve" {
		w.Fatalf("%+v, %v", r, err)
	}
	o, err := w.get(w.ctx, classPath)
	if n, _ := integer(o, "spec", "metadataOptions", "httpPutResponseHopLimit"); err != nil || n != 3 {
		w.Fatalf("%s, %v", spec(o), err)
	}
	// That nodes drift was agreed to.
	w.condition("base-aaaaa", "Drifted", "True", "NodeClassDrifted")
	w.clock.pass(6 * time.Minute)
	if s := w.settle(); s.Watching != 0 || len(s.Records) != 1 || s.Records[0].Outcome != Applied || s.Records[0].Actual != 1 {
		w.Errorf("%+v", s)
	}
	// A person's field of a NodePool, and the same with a tool's.
	weight := finding("NodePool/base", `{"spec":{"limits":{"cpu":"50"}}}`)
	if r, err := w.Approve(w.ctx, Approval{Finding: weight, By: "ann"}); err != nil || r.Outcome != Applied {
		w.Errorf("%+v, %v", r, err)
	}
	w.edit("helm", "base", `{"metadata":{"annotations":{"meta.helm.sh/release-name":"karpenter"}},"spec":{"weight":12}}`)
	if r, err := w.Approve(w.ctx, Approval{Finding: finding("NodePool/base", `{"spec":{"weight":3}}`), By: "ann"}); CodeOf(err) != OwnedByOther {
		w.Errorf("%+v, %v", r, err)
	}
	// All of it is taken back with the rest.
	back, err := w.Revert(w.ctx, Selection{All: true}, "bob", nil)
	if err != nil {
		w.Fatal(err)
	}
	if diff := cmp.Diff([]string{"EC2NodeClass/default", "NodePool/base"}, slices.Sorted(slices.Values(back.Restored))); diff != "" {
		w.Error(diff)
	}
	if o, err = w.get(w.ctx, classPath); err != nil || spec(o) != spec(before) || text(w.pool("base"), "spec", "limits", "cpu") != "100" {
		w.Errorf("%s, %s, %v", spec(o), spec(w.pool("base")), err)
	}
	if _, err := w.Approve(w.ctx, Approval{Finding: hops, By: "ann"}); CodeOf(err) != Paused {
		w.Errorf("approved while paused: %v", err)
	}
}

// testWebhook has an admission webhook change what is written.
func testWebhook(w *world) {
	patch := ""
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var review struct {
			Request struct{ UID string }
		}
		if err := json.Unmarshal(body, &review); err != nil {
			return
		}
		response := map[string]any{"uid": review.Request.UID, "allowed": true}
		if patch != "" {
			response["patch"], response["patchType"] = []byte(patch), "JSONPatch"
		}
		rw.Header().Set("Content-Type", plainJSON)
		_ = json.NewEncoder(rw).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
	}))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	const hooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	hook := map[string]any{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": map[string]any{"name": "meddler"}, "webhooks": []any{map[string]any{
		"name": "meddler.example.com", "clientConfig": map[string]any{"url": server.URL, "caBundle": ca}, "sideEffects": "None", "admissionReviewVersions": []string{"v1"}, "timeoutSeconds": 5,
		"rules": []any{map[string]any{"apiGroups": []string{"karpenter.sh"}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE", "UPDATE"}, "resources": []string{"nodepools"}}},
	}}}
	w.make("kubectl-create", w.userPool("base"))
	w.do(w.sibling("base-nops", "base", 20))
	w.prove()
	if _, err := w.call(w.ctx, http.MethodPost, hooks, plainJSON, hook); err != nil {
		w.Fatal(err)
	}
	defer func() {
		if _, err := w.call(context.WithoutCancel(w.ctx), http.MethodDelete, hooks+"/meddler", "", nil); err != nil {
			w.Error(err)
		}
	}()
	patch = `[{"op":"add","path":"/spec/weight","value":99}]`
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // it takes the API server a moment to hear of it
		_, err := w.Apply(w.ctx, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "17"), Meta{})
		if CodeOf(err) == Invariant && strings.Contains(err.Error(), "/spec/weight") {
			break
		}
		if err == nil {
			w.edit("nops-karpenops", "base-nops", `{"spec":{"limits":{"cpu":"16"}}}`)
		}
		if time.Now().After(deadline) {
			w.Fatalf("not refused: %v", err)
		}
	}
	w.refused(Invariant, w.sibling("other-nops", "base", 30))
	// One that adds what nobody asked for.
	patch = `[{"op":"add","path":"/spec/template/spec/taints","value":[{"key":"a","effect":"NoSchedule"}]}]`
	w.refused(Invariant, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "17"))
	w.refused(Invariant, w.sibling("other-nops", "base", 30))
	patch = `[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`
	w.refused(Invariant, w.sibling("other-nops", "base", 30))
	patch = ""
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "18"))
}

// testLimits is about how often and how much at a time.
func testLimits(w *world) {
	w.Limits.WritesPerHour, w.Limits.PoolEvery = 3, 30*time.Minute
	w.make("kubectl-create", w.consenting("base"))
	w.make("kubectl-create", with(w.consenting("other"), []plan.Change{{Path: pathWeight, After: int64(11)}}))
	w.do(w.narrow("base", narrower))
	if r := w.refused(RateLimited, w.narrow("other", narrower)); !strings.Contains(r.Why, "one NodePool at a time") {
		w.Error(r)
	}
	w.prove0()
	w.do(w.narrow("other", narrower))
	w.prove0()
	if r := w.refused(RateLimited, w.narrow("base", strings.Replace(narrower, `"m5","r5"`, `"m5"`, 1))); !strings.Contains(r.Why, "each 30m0s") {
		w.Error(r)
	}
	w.do(w.sibling("base-nops", "base", 20))
	w.prove0()
	// The bucket is empty for another process as well, and what takes back needs no token.
	other := w.writer(w.config, w.Limits)
	if _, err := other.Apply(w.ctx, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "17"), Meta{}); CodeOf(err) != RateLimited || !strings.Contains(err.Error(), "3 writes an hour") {
		w.Error(err)
	}
	w.do(w.set(plan.DrainSibling, "base-nops", "base", pathCPU, "0"))
	if r, err := w.Apply(w.ctx, plan.Action{ID: "r", Kind: plan.Restore, ObjectKind: kindPool, Name: "base", Base: "base"}, Meta{}); err != nil || r.Outcome != Undone {
		w.Error(r, err)
	}
	w.clock.pass(20 * time.Minute)
	w.settle()
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "17"))
	if v := value(w.pool("base-nops"), pathDrain()); v != nil {
		w.Errorf("it goes on draining: %v", v)
	}
	w.refused(RateLimited, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "18"))
	// A freeze that begins before a write could prove itself.
	w.clock.pass(time.Hour)
	w.settle()
	soon := w.Now().UTC().Add(4 * time.Minute)
	w.edit("kubectl-annotate", "base", fmt.Sprintf(`{"metadata":{"annotations":{"karpenops.nops.io/freeze":"%d %d * * * 10m"}}}`, soon.Minute(), soon.Hour()))
	if r := w.refused(Frozen, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "18")); !strings.Contains(r.Why, "begins at") {
		w.Error(r)
	}
	w.do(w.set(plan.DrainSibling, "base-nops", "base", pathCPU, "0")) // it needs no proof
	w.clock.pass(5 * time.Minute)
	w.refused(Frozen, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "18"))
	w.clock.pass(11 * time.Minute)
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "18"))
	// A pool that is paused by its annotation, and resumed.
	if err := w.Pause(w.ctx, "base", "ann", "looking"); err != nil {
		w.Fatal(err)
	}
	if r := w.refused(Paused, w.set(plan.SetLimits, "base-nops", "base", pathCPU, "19")); !strings.Contains(r.Why, "ann: looking") {
		w.Error(r)
	}
	if _, err := w.Resume(w.ctx, "base"); err != nil {
		w.Fatal(err)
	}
	w.clock.pass(time.Hour)
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "19"))
}

// testRights goes through a life with the rights of the table in doc.go, and no others.
func testRights(w *world) {
	w.make("kubectl-create", w.userPool("base"))
	var cluster []rbacv1.PolicyRule
	rule := func(group, resources string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: strings.Split(resources, ","), Verbs: verbs}
	}
	cluster = append(cluster, rule("karpenter.sh", "nodepools,nodeoverlays", "get", "list", "patch", "create", "delete"), rule("karpenter.sh", "nodeclaims", "list"), rule("", "nodes,events", "list"))
	named := rule("", "configmaps", "get", "patch")
	named.ResourceNames = []string{karpenstate.ConfigMap}
	bind := func(namespace string, rules ...rbacv1.PolicyRule) {
		subject := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "karpenops"}}
		meta := metav1.ObjectMeta{Name: "karpenops-test", Namespace: namespace}
		rbac := w.client.RbacV1()
		var err error
		if namespace == "" {
			if _, err = rbac.ClusterRoles().Create(w.ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil || apierrors.IsAlreadyExists(err) {
				_, err = rbac.ClusterRoleBindings().Create(w.ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}}, metav1.CreateOptions{})
			}
		} else if _, err = rbac.Roles(namespace).Create(w.ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil || apierrors.IsAlreadyExists(err) {
			_, err = rbac.RoleBindings(namespace).Create(w.ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			w.Fatal(err)
		}
	}
	bind("", cluster...)
	bind(agenttest.Namespace, rule("", "configmaps", "create"), named)
	bind(metav1.NamespaceDefault, rule("", "events", "create"))
	config := rest.CopyConfig(w.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "karpenops", Groups: []string{"system:authenticated"}}
	limits := w.Limits
	limits.DrainGrace = time.Nanosecond
	w.Writer = w.writer(config, limits)
	w.do(w.sibling("base-nops", "base", 20))
	w.do(w.set(plan.SetLimits, "base-nops", "base", pathCPU, "17"))
	w.settle()
	if _, err := w.Revert(w.ctx, Selection{All: true}, "ann", nil); err != nil {
		w.Fatal(err)
	}
	admin := w.writer(w.config, limits)
	events, err := admin.list(w.ctx, "/api/v1/namespaces/default/events")
	if err != nil || len(events) < 4 {
		w.Errorf("%d events, %v: rights are missing", len(events), err)
	}
	if strings.Contains(w.logs.String(), "could not") {
		w.Error("something could not be done")
	}
}
