package karpenops

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/agents/karpenops/write"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func clientOf(t *testing.T, p *agenttest.Platform) *nopsclient.Client {
	t.Helper()
	c, err := nopsclient.New(nopsclient.Options{Host: "https://nops.test", Key: agenttest.APIKey, Transport: p, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fakeEyes see what a test shows.
type fakeEyes struct {
	mu      sync.Mutex
	s       inventory.Snapshot
	changed chan struct{}
}

func (*fakeEyes) Tasks() []agent.Task { return nil }

func (e *fakeEyes) Snapshot() inventory.Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.s
}

func (*fakeEyes) Unread() string { return "" }

func (e *fakeEyes) Changes() <-chan struct{} { return e.changed }

// fakeHands record what they are told to do.
type fakeHands struct {
	mu      sync.Mutex
	applied []plan.Action
	why     []write.Meta
	fail    error // of the next Apply, and those after it
	settled write.Settled
	data    map[string]string
	binary  map[string][]byte
	keeps   int
	paused  string
	unread  error  // of the state
	explain string // of the next records
	then    func() // after an Apply
}

func (h *fakeHands) Apply(_ context.Context, a plan.Action, why write.Meta) (nopsapi.KarpenterRecord, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := nopsapi.KarpenterRecord{ID: a.ID + ".1", At: noon, Actor: why.Actor, Action: string(a.Kind), Object: a.ObjectKind + "/" + a.Name, Outcome: write.Applied, Predicted: len(a.Drift), Explanation: h.explain}
	if h.fail != nil {
		r.Outcome = write.Refused
		return r, h.fail
	}
	h.applied, h.why = append(h.applied, a), append(h.why, why)
	if h.then != nil {
		h.then()
	}
	return r, nil
}

func (h *fakeHands) Settle(context.Context) (write.Settled, error) { return h.settled, nil }

func (h *fakeHands) Keep(ctx context.Context, data map[string]*string, binary map[string][]byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	h.keeps++
	for k, v := range data {
		h.data[k] = *v
	}
	maps.Copy(h.binary, binary)
	return nil
}

func (h *fakeHands) read(context.Context) (recorded, error) {
	return recorded{status: h.data[karpenstate.KeyStatus], memory: h.binary[karpenstate.KeyMemory]}, h.unread
}

func (h *fakeHands) pause(context.Context, time.Time) (string, error) { return h.paused, h.unread }

func (h *fakeHands) status(t *testing.T) karpenstate.Status {
	t.Helper()
	var s karpenstate.Status
	if err := json.Unmarshal([]byte(h.data[karpenstate.KeyStatus]), &s); err != nil {
		t.Fatalf("no status was kept: %v", err)
	}
	return s
}

// poolOf is a NodePool that opted in.
func poolOf(name string, annotations map[string]any) map[string]any {
	return map[string]any{
		"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": map[string]any{"name": name, "uid": "uid-" + name, "generation": int64(3), "annotations": annotations},
		"spec": map[string]any{
			"limits": map[string]any{"cpu": "200"},
			"template": map[string]any{"spec": map[string]any{
				"nodeClassRef": map[string]any{"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
				"requirements": []any{
					map[string]any{"key": "karpenter.sh/capacity-type", "operator": "In", "values": []any{"spot", "on-demand"}},
					map[string]any{"key": "kubernetes.io/arch", "operator": "In", "values": []any{"amd64"}},
				},
			}},
		},
		"status": map[string]any{"resources": map[string]any{"cpu": "20"}, "nodes": int64(3), "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
	}
}

func newTestAgent(t *testing.T, platform bool) (*Agent, *fakeHands) {
	t.Helper()
	o := Options{
		PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: "https://nops.test", ClusterARN: agenttest.ClusterARN},
		ProcessOptions:  agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release, LogLevel: "info"},
		Mode:            string(karpenstate.ModeSiblings), Facts: FactsPlatform, Overlays: "auto", Tick: time.Minute, Prove: 5 * time.Minute, PoolEvery: 30 * time.Minute, ClusterID: "c-1",
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	eyes := &fakeEyes{changed: make(chan struct{}, 1), s: inventory.Snapshot{
		At: noon, Karpenter: karpenstate.Karpenter{APIVersions: []string{"v1"}, Writable: true}, Pools: []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true"})},
		Zones: map[string]string{"use1-az1": "us-east-1a", "use1-az2": "us-east-1b", "use1-az3": "us-east-1c"},
	}}
	deps := fill(Deps{Version: "1.2.3", Now: func() time.Time { return noon }})
	if platform {
		deps.Platform = clientOf(t, agenttest.NewPlatform(t, 0))
	}
	a := assemble(o, deps, eyes)
	hands := &fakeHands{data: map[string]string{}, binary: map[string][]byte{}}
	a.writer, a.state = hands, hands
	a.loops.deciding, a.loops.asking = a.health.Loop("deciding", turnLimit), a.health.Loop("asking for facts", turnLimit)
	a.loops.telling, a.loops.reporting = a.health.Loop("delivering records", turnLimit), a.health.Loop("reporting", turnLimit)
	return a, hands
}

// informed gives the agent facts that are right.
func informed(t *testing.T, a *Agent) {
	t.Helper()
	if _, err := a.known.market.offer("given", marketOf(10), noon); err != nil {
		t.Fatal(err)
	}
	if _, err := a.known.commitments.offer("given", commitmentsOf(10), noon); err != nil {
		t.Fatal(err)
	}
}

// TestWhatStopsIt: each of these alone keeps it from writing anything, and is said.
func TestWhatStopsIt(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		set          func(*Agent, *fakeHands, *inventory.Snapshot)
		says         func(karpenstate.Status) string
		want         string
	}{
		{"paused", "somebody's word", func(_ *Agent, h *fakeHands, _ *inventory.Snapshot) { h.paused = "paused by ann: load test" }, func(s karpenstate.Status) string { return s.Paused }, "ann: load test"},
		{"state unreadable", "whether it is paused is not known", func(_ *Agent, h *fakeHands, _ *inventory.Snapshot) { h.unread = fmt.Errorf("etcd is away") }, func(s karpenstate.Status) string { return s.Holding }, "etcd is away"},
		{"inventory behind", "what is there is not known", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) { s.Problem = "NodePools were last seen at noon" }, func(s karpenstate.Status) string { return s.Holding }, "last seen at noon"},
		{"no Karpenter", "there is nothing to do", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) { s.Karpenter = karpenstate.Karpenter{} }, func(s karpenstate.Status) string { return s.Holding }, "not installed"},
		{"an old Karpenter", "v1beta1 is reported, never written", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Karpenter = karpenstate.Karpenter{APIVersions: []string{"v1beta1"}}
		}, func(s karpenstate.Status) string { return s.Holding }, "upgrade Karpenter"},
		{"the pool paused", "", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true", karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: "bob: no"})}
		}, func(s karpenstate.Status) string { return s.Pools[0].Paused }, "bob: no"},
		{"the pool frozen", "", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true", karpenstate.AnnotationFreeze: "0 8 * * * 10h"})}
		}, func(s karpenstate.Status) string { return s.Pools[0].Paused }, "frozen"},
		{"the pool's freeze unreadable", "whoever wrote it wanted a freeze, and is told", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true", karpenstate.AnnotationFreeze: "0 25 * * * 10h"})}
		}, func(s karpenstate.Status) string { return s.Pools[0].Paused + fmt.Sprint(s.Findings) }, "{schedule-unreadable/NodePool/default schedule-unreadable NodePool/default its annotation karpenops.nops.io/freeze cannot be read"},
		{"the freeze of all unreadable", "likewise", func(_ *Agent, h *fakeHands, _ *inventory.Snapshot) { h.paused = frozen("0 25 * * * 10h", noon) }, func(s karpenstate.Status) string { return s.Paused + fmt.Sprint(s.Findings) },
			"{schedule-unreadable/ConfigMap/nops-karpenops-state schedule-unreadable ConfigMap/nops-karpenops-state its annotation"},
		{"not opted in", "", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{"a": "b"})}
		}, func(s karpenstate.Status) string { return fmt.Sprint(s.Pools[0].Managed) }, "false"},
		{"opted out", "false wins over the published marker", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationImported: "nops", karpenstate.AnnotationManaged: "false"})}
		}, func(s karpenstate.Status) string { return fmt.Sprint(s.Pools[0].Managed) }, "false"},
		{"the pool says advise", "the lesser mode counts", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true", karpenstate.AnnotationMode: "advise"})}
		}, func(s karpenstate.Status) string { return s.Pending[0].Waiting }, "advise"},
		{"a mode that is not known", "whoever wrote it meant something", func(_ *Agent, _ *fakeHands, s *inventory.Snapshot) {
			s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "true", karpenstate.AnnotationMode: "sibling"})}
		}, func(s karpenstate.Status) string { return string(s.Pools[0].Mode) }, "observe"},
		{"no facts", "nothing to decide by", func(a *Agent, _ *fakeHands, _ *inventory.Snapshot) { a.known = newFacts("us-east-1") }, func(s karpenstate.Status) string { return s.Holding + fmt.Sprint(s.Pools[0].Why) }, "market"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, hands := newTestAgent(t, false)
			informed(t, a)
			tt.set(a, hands, &a.watch.(*fakeEyes).s)
			a.round(t.Context())
			if len(hands.applied) > 0 {
				t.Errorf("%s: %d writes, the first %+v", tt.reason, len(hands.applied), hands.applied[0])
			}
			if got := tt.says(hands.status(t)); !strings.Contains(got, tt.want) {
				t.Errorf("%s: it says %q, want %q in it", tt.reason, got, tt.want)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		a, hands := newTestAgent(t, false)
		informed(t, a)
		a.round(t.Context())
		if len(hands.applied) == 0 {
			t.Errorf("nothing stopped it, and it wrote nothing: the cases above prove nothing; %s", hands.data[karpenstate.KeyStatus])
		}
	})
}

// TestPauseOfTheState: whatever is written into the annotation but "false" pauses, by the state as the API server has it.
func TestPauseOfTheState(t *testing.T) {
	for value, want := range map[string]string{
		"": "", `"false"`: "", `"true"`: "paused by ann: test", `"yes"`: `"yes", which is neither true nor false`, `"True"`: `"True", which`, `""`: `"", which`,
	} {
		annotations := `"karpenops.nops.io/paused-by":"ann: test"`
		if value != "" {
			annotations += `,"karpenops.nops.io/paused":` + value
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"nops-karpenops-state","annotations":{%s}}}`, annotations)
		}))
		kube, err := write.NewClient(&rest.Config{Host: server.URL}, "test")
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&stateOf{kube: kube, namespace: "nops"}).pause(t.Context(), noon)
		if err != nil || (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("paused: %s: %q, %v; want %q", value, got, err, want)
		}
		server.Close()
	}
}

// TestOptingOutNeedsNoFacts: what a person says of a NodePool is done while the platform is away, too.
func TestOptingOutNeedsNoFacts(t *testing.T) {
	a, hands := newTestAgent(t, false)
	sibling := poolOf("nops-default-spot-1", map[string]any{karpenstate.AnnotationBase: "default", karpenstate.AnnotationPurpose: karpenstate.PurposeSpot})
	sibling["metadata"].(map[string]any)["labels"] = map[string]any{karpenstate.LabelOwned: "true"}
	a.watch.(*fakeEyes).s.Pools = []map[string]any{poolOf("default", map[string]any{karpenstate.AnnotationManaged: "false"}), sibling}
	a.round(t.Context())
	if len(hands.applied) != 1 || hands.applied[0].Kind != plan.DrainSibling {
		t.Errorf("applied %+v, want the sibling drained; holding %q", hands.applied, a.latest.Load().holding)
	}
}

// TestRefusalsAreSaid: what the writer refuses waits, with the reason, and the rest goes on.
func TestRefusalsAreSaid(t *testing.T) {
	a, hands := newTestAgent(t, false)
	informed(t, a)
	hands.fail = &write.Refusal{Code: write.RateLimited, Object: "NodePool/x", Why: "the next write may be made at noon"}
	a.round(t.Context())
	s := hands.status(t)
	if len(s.Pending) == 0 || !strings.Contains(s.Pending[0].Waiting, "the next write may be made at noon") {
		t.Errorf("pending %+v", s.Pending)
	}
	if a.records.len() != 0 {
		t.Errorf("what is about the moment is no record, %d were made", a.records.len())
	}
	hands.fail = &write.Refusal{Code: write.OwnedByOther, Object: "NodePool/x", Why: "Argo CD's"}
	a.round(t.Context())
	if a.records.len() == 0 {
		t.Errorf("a refusal that lasts was not recorded")
	}
}

// TestOnlyWhatWasWrittenCounts: the bounds of writes and of changes of a choice count what was written. Refusals use nothing up; what was undone was written, and so
// is what undid it.
func TestOnlyWhatWasWrittenCounts(t *testing.T) {
	a, hands := newTestAgent(t, false)
	informed(t, a)
	now := noon
	a.deps.Now = func() time.Time { return now }
	hands.fail = &write.Refusal{Code: write.RateLimited, Object: "NodePool/x", Why: "another one has to prove itself"}
	for range 25 { // more than an hour's writes
		now = now.Add(time.Minute)
		a.round(t.Context())
		if m := a.memory.Plan; len(m.Writes) != 0 || len(m.Flips) != 0 {
			t.Fatalf("refusals were counted: %v %v", m.Writes, m.Flips)
		}
	}
	if s := hands.status(t); len(s.Pending) == 0 || !strings.Contains(s.Pending[0].Waiting, "another one has to prove itself") {
		t.Fatalf("it waits for something else: %+v", s.Pending)
	}
	// What was so already is no write.
	hands.fail, hands.explain = nil, "it was so already"
	a.round(t.Context())
	if n := len(a.memory.Plan.Writes); n != 0 || len(hands.applied) == 0 {
		t.Fatalf("%d writes counted of what was so already, %d applied", n, len(hands.applied))
	}
	hands.explain, hands.applied = "", nil
	a.round(t.Context())
	made := len(hands.applied)
	if n := len(a.memory.Plan.Writes); n != made || made == 0 {
		t.Fatalf("%d writes counted, %d made", n, made)
	}
	// An undo, and one that a crash left, of a change of the choice.
	hands.fail = &write.Refusal{Code: write.RateLimited, Object: "NodePool/x", Why: "it is left alone"}
	hands.settled = write.Settled{Writes: []write.Write{{At: now}, {At: now, Flip: "default"}}}
	a.settle(t.Context())
	hands.settled = write.Settled{}
	a.round(t.Context())
	if m := a.memory.Plan; len(m.Writes) != made+2 || len(m.Flips["default"]) != 1 {
		t.Errorf("%d writes counted, want %d; flips %v", len(m.Writes), made+2, m.Flips)
	}
}

// TestWhatWasDoneIsRemembered also where the process is told to end while it is done.
func TestWhatWasDoneIsRemembered(t *testing.T) {
	a, hands := newTestAgent(t, false)
	informed(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	hands.then = cancel
	a.round(ctx)
	m, err := unpackMemory(hands.binary[karpenstate.KeyMemory])
	if err != nil || len(hands.applied) == 0 || len(m.Plan.Writes) != len(hands.applied) {
		t.Errorf("%d writes in the memory, %d made, %v", len(m.Plan.Writes), len(hands.applied), err)
	}
}

// TestStable: what did not change is not written, and equal rounds give equal bytes.
func TestStable(t *testing.T) {
	a, hands := newTestAgent(t, false)
	hands.fail = &write.Refusal{Code: write.RateLimited, Object: "NodePool/x", Why: "the next write may be made at noon"}
	informed(t, a)
	now := noon
	a.deps.Now = func() time.Time { return now }
	a.round(t.Context())
	keeps, before := hands.keeps, hands.data[karpenstate.KeyStatus]
	for range 3 {
		now = now.Add(time.Minute)
		a.round(t.Context())
	}
	if hands.keeps != keeps || hands.data[karpenstate.KeyStatus] != before {
		t.Errorf("%d writes of the state in rounds without change:\n%s\n%s", hands.keeps-keeps, before, hands.data[karpenstate.KeyStatus])
	}
	now = noon.Add(40 * time.Minute) // the facts have ended
	a.round(t.Context())
	if s := hands.status(t); hands.keeps == keeps || !s.At.Equal(now) || !strings.Contains(s.Market.Problem, "valid_until has passed") {
		t.Errorf("a change was not recorded: %+v", s.Market)
	}
	if _, err := unpackMemory(hands.binary[karpenstate.KeyMemory]); err != nil || len(hands.binary[karpenstate.KeyMemory]) == 0 {
		t.Errorf("the memory: %v", err)
	}
}

// TestLooks: where nothing changes it is written now and then that it looked, so that an agent with nothing to say differs from one that is gone; and when something
// changed last stays.
func TestLooks(t *testing.T) {
	a, hands := newTestAgent(t, false)
	now := noon
	a.deps.Now = func() time.Time { return now }
	a.round(t.Context())
	first, keeps := hands.status(t), hands.keeps
	if !first.At.Equal(noon) || !first.LookedAt.Equal(noon) {
		t.Fatalf("changed %s, looked %s", first.At, first.LookedAt)
	}
	for range 60 {
		now = now.Add(time.Minute)
		a.round(t.Context())
		if age := now.Sub(hands.status(t).LookedAt); age >= karpenstate.LookEvery {
			t.Fatalf("%s: it says that it looked %s ago", now, age)
		}
	}
	if n := hands.keeps - keeps; n < 10 || n > 12 {
		t.Errorf("%d writes in an hour without changes, want one in %s", n, karpenstate.LookEvery)
	}
	if s := hands.status(t); !s.At.Equal(noon) {
		t.Errorf("nothing changed, and it says that something did at %s", s.At)
	}
	// Another process goes on with it, and what changes changes at once.
	b, _ := newTestAgent(t, false)
	b.deps.Now, b.writer, b.state = a.deps.Now, hands, hands
	if err := b.takeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	b.round(t.Context())
	if s := hands.status(t); !s.At.Equal(noon) || !s.LookedAt.Equal(now) {
		t.Errorf("after a restart: changed %s, looked %s", s.At, s.LookedAt)
	}
	hands.paused = "paused by ann: test"
	now = now.Add(time.Minute)
	b.round(t.Context())
	if s := hands.status(t); !s.At.Equal(now) || s.Paused == "" {
		t.Errorf("a change: changed %s, %q", s.At, s.Paused)
	}
}

// TestMemoryFits: it stays within its bound, and gates are what is kept.
func TestMemoryFits(t *testing.T) {
	m := memory{Plan: plan.Memory{Schema: 1, Series: map[string]plan.Series{}, Gates: map[string]plan.Gate{"m5": {Excluded: true}}}}
	for i := range 20000 {
		m.Plan.Series[fmt.Sprintf("m%d.%dxlarge/us-east-1%c/spot", i, i*7919%1000, 'a'+i%6)] = plan.Series{
			At: []int64{1772366400 + int64(i*7919%86400), 1772366460 + int64(i), 3, 4, 5}, Scores: []float64{float64(i%10) + 0.123456789*float64(i), 3, 4, 5, 6}, Price: 0.0123 * float64(i), Smooth: 1 / float64(i+1),
		}
	}
	packed, err := m.pack()
	if err != nil || len(packed) > maxMemory {
		t.Fatalf("%d bytes, %v", len(packed), err)
	}
	back, err := unpackMemory(packed)
	if err != nil || !back.Plan.Gates["m5"].Excluded || len(back.Plan.Series) == 0 || len(back.Plan.Series) == 20000 {
		t.Errorf("%d series of 20000, gates %v, %v", len(back.Plan.Series), back.Plan.Gates, err)
	}
	if _, err := unpackMemory([]byte("nonsense")); err == nil {
		t.Error("nonsense is a memory")
	}
}

// TestOutbox: in order, the last word on each, the oldest give way.
func TestOutbox(t *testing.T) {
	o := newOutbox(3)
	r := func(id, outcome string) nopsapi.KarpenterRecord {
		return nopsapi.KarpenterRecord{ID: id, Outcome: outcome}
	}
	o.push(r("1", "applied"), r("2", "applied"))
	told := o.peek(10)
	o.push(r("2", "undone")) // while they are told
	o.done(told)
	if left := o.peek(10); len(left) != 1 || left[0].Outcome != "undone" {
		t.Errorf("left %+v, want the newer word on 2", left)
	}
	o.push(r("3", "applied"), r("4", "applied"), r("5", "applied"))
	if left := o.peek(10); len(left) != 3 || left[0].ID != "3" || o.dropped != 1 {
		t.Errorf("left %+v, dropped %d", left, o.dropped)
	}
}

// TestRecordsReachThePlatform, each once, whatever the platform does meanwhile.
func TestRecordsReachThePlatform(t *testing.T) {
	p := agenttest.NewPlatform(t, 0)
	a, _ := newTestAgent(t, false)
	a.deps.Platform = clientOf(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.tell(ctx) }()
	for i := range 5 {
		a.noted(nopsapi.KarpenterRecord{ID: fmt.Sprint("r-", i), At: noon.Add(time.Duration(i) * time.Second), Actor: "agent", Action: "set-limits", Object: "NodePool/x", Outcome: "applied"})
	}
	a.noted(nopsapi.KarpenterRecord{ID: "r-0", At: noon, Actor: "agent", Action: "set-limits", Object: "NodePool/x", Outcome: "undone"})
	deadline := time.Now().Add(20 * time.Second)
	for a.records.len() > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	all, err := clientOf(t, p).Records(t.Context(), agenttest.ClusterARN, time.Time{})
	if err != nil || len(all) != 5 || all[0].Outcome != "undone" {
		t.Errorf("the platform has %+v, %v", all, err)
	}
}

// TestSettings: the planner's settings are those of its Config, and a slip is refused.
func TestSettings(t *testing.T) {
	raw, err := json.Marshal(plan.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "mode")
	known := plannerSettings()
	if len(fields) < 20 {
		t.Fatalf("only %d fields", len(fields))
	}
	for name := range fields {
		if _, is := known[name]; !is {
			t.Errorf("plan.Config has %s, and there is no such setting", name)
		}
	}
	for name := range known {
		if _, is := fields[name]; !is {
			t.Errorf("setting %s is nothing of plan.Config", name)
		}
	}
	c, err := settings([]string{"minTypes=20", "dwell=12h", "headroom=0.8"})
	if err != nil || c.MinTypes != 20 || c.Dwell != 12*time.Hour || c.Headroom != 0.8 {
		t.Errorf("%+v %v", c, err)
	}
	for _, bad := range []string{"minTypes", "minTypes=-1", "minTypes=x", "headroom=1.5", "headroom=NaN", "dwell=6", "nonsense=1", "lo=6,hi=3"} {
		if _, err := settings(strings.Split(bad, ",")); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
