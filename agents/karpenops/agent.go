package karpenops

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/election"
	"github.com/nopsctl/nopsctl/agents/karpenops/inventory"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/agents/karpenops/write"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// component is the agent's name in labels, events and messages.
const component = "karpenops"

const (
	turnLimit = 5 * time.Minute
	// tickTimeout bounds one round: some writes of ten requests each.
	tickTimeout = 3 * time.Minute
	// settleEvery is how often what was written is looked after, while it has to prove itself.
	settleEvery = 15 * time.Second
	// gather is how long changes are gathered before they are looked at.
	gather = 3 * time.Second
	// Rounds out of turn, for people who edit NodePools: this many, and one more after each while.
	extraRounds, extraEvery = 3, 2 * time.Minute
	// syncLimit is how long the first round waits for the API server and for facts: until then there is nothing to decide by.
	syncLimit = 45 * time.Second
	// keepTimeout bounds recording what was done, after the end of the process was asked for.
	keepTimeout = 10 * time.Second
	// memoryEvery is how often what only helps after a restart is written.
	memoryEvery = 5 * time.Minute
	// The conditions of readiness.
	conditionCandidate = "election"
)

// Platform is what the agent needs of the platform's client.
type Platform interface {
	Market(ctx context.Context, arn, etag string) (nopsclient.Polled[nopsapi.Market], error)
	Commitments(ctx context.Context, arn, etag string) (nopsclient.Polled[nopsapi.Commitments], error)
	ReportInventory(ctx context.Context, arn string, inventory nopsapi.KarpenterInventory) (nopsapi.KarpenterAck, error)
	SendRecords(ctx context.Context, arn string, records nopsapi.KarpenterRecords) (nopsapi.KarpenterAck, error)
}

var _ Platform = (*nopsclient.Client)(nil)

// Deps is what the process owns and the agent uses. Kube and Platform are needed; the rest has defaults.
type Deps struct {
	Kube      *rest.Config
	Platform  Platform
	Version   string
	Candidate string       // the name of this process, of no other one ever
	Log       *slog.Logger // nil: silence
	Listener  net.Listener // nil: no endpoints are served
	Now       func() time.Time
	Rand      agent.Rand // nil: always the middle
}

// eyes see the cluster.
type eyes interface {
	Tasks() []agent.Task
	Snapshot() inventory.Snapshot
	Unread() string
	Changes() <-chan struct{}
}

// hands change it.
type hands interface {
	Apply(ctx context.Context, a plan.Action, why write.Meta) (nopsapi.KarpenterRecord, error)
	Settle(ctx context.Context) (write.Settled, error)
	Keep(ctx context.Context, data map[string]*string, binary map[string][]byte) error
}

var (
	_ eyes  = (*inventory.Watcher)(nil)
	_ hands = (*write.Writer)(nil)
)

// Agent is karpenops.
type Agent struct {
	opts    Options
	deps    Deps
	watch   eyes
	writer  hands
	state   stateReader
	facts   Facts
	known   *facts
	metrics *agent.Metrics
	health  *agent.Health
	loops   struct{ deciding, asking, telling, reporting *agent.Loop }
	records *outbox
	poke    chan struct{}
	asked   atomic.Bool // facts were asked for once
	latest  atomic.Pointer[round]
	sparing *agent.Sparing

	counters counters
	shelf    shelf

	// What follows is the deciding loop's own.
	memory    memory
	keptAt    time.Time // when the memory was written
	kept      [sha256.Size]byte
	content   string    // of the status as it was written
	changed   time.Time // when that changed last
	looked    time.Time // when it was written last that it was looked
	last      map[string]string
	settled   write.Settled
	unordered [sha256.Size]byte // of what people wrote into NodePools
}

// New makes an agent.
func New(opts Options, deps Deps) (*Agent, error) {
	deps = fill(deps)
	userAgent := "nops-karpenops/" + deps.Version
	watcher, err := inventory.New(inventory.Options{Kube: deps.Kube, UserAgent: userAgent, Now: deps.Now, Rand: deps.Rand, Overlays: opts.Overlays, SpotToSpot: opts.SpotToSpot})
	if err != nil {
		return nil, err
	}
	a := assemble(opts, deps, watcher)
	kube, err := write.NewClient(deps.Kube, userAgent)
	if err != nil {
		return nil, err
	}
	a.writer = write.New(a.writing(kube))
	a.state = &stateOf{kube: kube, namespace: opts.Namespace}
	a.facts = factsOf(opts, deps, kube)
	return a, nil
}

func factsOf(opts Options, deps Deps, kube rest.Interface) Facts {
	if name, is := strings.CutPrefix(opts.Facts, FactsConfigMap); is {
		return &fromConfigMap{kube: kube, namespace: opts.Namespace, name: name}
	}
	return &fromPlatform{client: deps.Platform, arn: opts.ClusterARN}
}

func identity(o Options, d Deps) agent.Identity {
	return agent.Identity{Component: component, Namespace: o.Namespace, Release: o.Release, Version: d.Version}
}

// fill sets the defaults.
func fill(deps Deps) Deps {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Rand == nil {
		deps.Rand = func() float64 { return 0.5 }
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Candidate == "" {
		deps.Candidate = fmt.Sprintf("%s-%x", component, deps.Now().UnixNano())
	}
	return deps
}

// assemble makes an agent without hands.
func assemble(opts Options, deps Deps, watch eyes) *Agent {
	m := &agent.Metrics{}
	agent.RegisterProcess(m, component, deps.Version, deps.Now())
	a := &Agent{
		opts: opts, deps: deps, watch: watch, metrics: m, known: newFacts(opts.region()), records: newOutbox(queued), poke: make(chan struct{}, 1),
		health: agent.NewHealth(deps.Now, conditionCandidate), sparing: agent.NewSparing(20, time.Minute), last: map[string]string{},
	}
	a.counters.register(m, a)
	return a
}

// writing is what the writer works with.
func (a *Agent) writing(kube rest.Interface) write.Deps {
	c := a.opts.config
	return write.Deps{
		Kube: kube, Who: identity(a.opts, a.deps), Now: a.deps.Now, Log: a.deps.Log, Observe: a.counters.observe, Effective: a.effective, Predict: predict,
		Limits: write.Limits{Mode: c.Mode, DriftCap: c.DriftCap, WritesPerHour: c.WritesPerHour, Window: a.opts.Prove, PoolEvery: a.opts.PoolEvery},
	}
}

// Run works until the context ends. Of several replicas one works, the others wait.
func (a *Agent) Run(ctx context.Context) error {
	a.health.Met(conditionCandidate) // whether it leads or waits, it is well
	tasks := []agent.Task{{Name: "leading", Run: func(ctx context.Context) error {
		return election.Lead(ctx, election.Options{Kube: a.deps.Kube, Who: identity(a.opts, a.deps), Candidate: a.deps.Candidate}, a.lead)
	}}}
	if a.deps.Listener != nil {
		tasks = append(tasks, agent.Serve(a.deps.Listener, agent.Handler(a.health, a.metrics)))
	}
	a.deps.Log.Info("karpenops starts", "version", a.deps.Version, "cluster_arn", a.opts.ClusterARN, "host", a.opts.Host, "mode", a.opts.Mode, "facts", a.opts.Facts, "candidate", a.deps.Candidate)
	err := agent.Run(ctx, tasks...)
	a.deps.Log.Info("karpenops ends", "queued", a.records.len())
	return err
}

// lead is the work of the one that leads.
func (a *Agent) lead(ctx context.Context) error {
	a.counters.leading.Set(1)
	defer a.counters.leading.Set(0)
	a.deps.Log.Info("leading")
	a.loops.deciding, a.loops.asking = a.health.Loop("deciding", turnLimit), a.health.Loop("asking for facts", turnLimit)
	a.loops.telling, a.loops.reporting = a.health.Loop("delivering records", turnLimit), a.health.Loop("reporting", turnLimit)
	return agent.Run(ctx, append(a.watch.Tasks(),
		agent.Task{Name: "asking for facts", Run: a.intake},
		agent.Task{Name: "deciding", Run: a.decide},
		agent.Task{Name: "delivering records", Run: a.tell},
		agent.Task{Name: "reporting", Run: a.report},
	)...)
}

// nudge asks for a look soon.
func (a *Agent) nudge() { signal(a.poke) }

// decide is the loop that decides, at its own pace and, a few times, when people change NodePools.
func (a *Agent) decide(ctx context.Context) error {
	if !a.begin(ctx) {
		return nil
	}
	extra := agent.Bucket{Capacity: extraRounds, Every: extraEvery}
	due, after := time.NewTimer(0), time.NewTicker(settleEvery)
	defer due.Stop()
	defer after.Stop()
	for {
		a.loops.deciding.Turn()
		select {
		case <-ctx.Done():
			return nil
		case <-after.C:
			if a.settled.Watching > 0 {
				a.settle(ctx)
			}
			continue
		case <-due.C:
		case <-a.watch.Changes():
			if a.loops.deciding.Sleep(ctx, gather) != nil {
				return nil
			}
			if !a.edited() || !extra.Take(a.deps.Now()) {
				continue
			}
		}
		a.round(ctx)
		due.Reset(agent.Jitter(a.opts.Tick, 0.1, a.deps.Rand))
	}
}

// begin takes over what was recorded before, and waits for something to decide by. A state that cannot be read is waited for: without it a
// replay could not be told from news.
func (a *Agent) begin(ctx context.Context) bool {
	backoff := agent.Backoff{Base: time.Second, Max: time.Minute, Rand: a.deps.Rand}
	for {
		err := a.takeOver(ctx)
		if err == nil {
			break
		}
		a.deps.Log.Warn("the state of before cannot be read, so nothing is decided", "error", err)
		if a.loops.deciding.Sleep(ctx, backoff.Next(0)) != nil {
			return false
		}
	}
	for deadline := time.Now().Add(syncLimit); time.Now().Before(deadline) && (!a.asked.Load() || a.watch.Snapshot().Problem != "" || a.watch.Unread() != ""); {
		if a.loops.deciding.Sleep(ctx, 250*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

func (a *Agent) takeOver(ctx context.Context) error {
	s, err := a.state.read(ctx)
	if err != nil {
		return err
	}
	if a.memory, err = unpackMemory(s.memory); err != nil {
		a.deps.Log.Warn("what was remembered is lost; it is learnt anew", "error", err)
		a.memory = memory{}
	}
	a.known.market.recall(a.memory.Market)
	a.known.commitments.recall(a.memory.Commitments)
	a.keptAt = a.deps.Now()
	var status karpenstate.Status
	if json.Unmarshal([]byte(s.status), &status) == nil {
		if _, content, err := encode(status); err == nil {
			a.content, a.changed, a.looked = content, status.At, status.LookedAt
		}
	}
	// The platform may lack the last of them; what it has is stored once.
	for _, r := range s.ledger {
		a.last[r.Object] = r.ID
	}
	a.records.push(s.ledger...)
	return nil
}

// edited says whether people wrote into NodePools since it was asked last: generation, labels and annotations of those that are not ours. What Karpenter
// writes into the status is no reason to decide anew, and what we write least of all.
func (a *Agent) edited() bool {
	var all []any
	for _, p := range a.watch.Snapshot().PlanPools(a.rules()) {
		if !p.Owned {
			all = append(all, p.Name, p.Mode, p.Managed, p.Paused, p.Requirements, p.CPULimit, p.MemoryLimit, p.Weight)
		}
	}
	sum := digest(all)
	changed := sum != a.unordered
	a.unordered = sum
	return changed
}

func (a *Agent) rules() inventory.Rules {
	return inventory.Rules{Mode: a.opts.config.Mode, Budget: write.DriftBudget, Frozen: frozen, Schedules: write.Schedules}
}

// frozenForGood begins what is said of freeze windows that cannot be read: whoever wrote them wanted a freeze.
const frozenForGood = "frozen for good, since the freeze windows cannot be read: "

// frozen says what window of an annotation is open.
func frozen(windows string, now time.Time) string {
	all, err := write.ParseWindows(windows)
	if err != nil {
		return frozenForGood + err.Error()
	}
	for _, w := range all {
		if until, open := w.Active(now); open {
			return fmt.Sprintf("frozen by the window %q until %s", w.Text, until.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// round looks, decides, acts and records, once.
func (a *Agent) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	a.edited()
	a.settle(ctx)
	r := a.think(ctx)
	// While it holds for want of facts the plan has what needs none: a NodePool was opted out or is gone, and its siblings go.
	if r.paused == "" {
		a.act(ctx, &r)
	}
	r.last = a.last
	a.latest.Store(&r)
	a.counters.show(r)
	a.keep(ctx, r)
	a.shelf.clear()
	// A round makes garbage of several times what is kept, and then there is a minute without any: the memory is somebody else's meanwhile.
	debug.FreeOSMemory()
}

// settle looks after what was written.
func (a *Agent) settle(ctx context.Context) {
	s, err := a.writer.Settle(ctx)
	a.noted(s.Records...)
	for _, w := range s.Writes {
		a.memory.Plan = a.memory.Plan.Applied(plan.Action{Flip: w.Flip}, w.At)
	}
	if err != nil {
		a.deps.Log.Warn("what was written could not be looked after", "error", err)
		return
	}
	a.settled = s
}

// think makes the plan. Whatever stands against deciding makes it an empty one, with the reason.
func (a *Agent) think(ctx context.Context) round {
	now := a.deps.Now()
	s := a.watch.Snapshot()
	r := round{fights: a.settled.Findings, market: a.known.market.status(now), commits: a.known.commitments.status(now), waiting: map[string]string{}, done: map[string]bool{}}
	pools := s.PlanPools(a.rules())
	r.input = plan.Input{
		Now: now, Config: a.opts.config, Karpenter: s.Karpenter, Pools: pools, Nodes: s.PlanNodes(), Shapes: s.PlanShapes(pools), Zones: s.Zones,
		Market: a.known.market.at(now), Commitments: a.known.commitments.at(now), Memory: a.memory.Plan,
	}
	for _, c := range s.Classes {
		r.input.NodeClasses = append(r.input.NodeClasses, c.Object)
	}
	r.snapshot = s
	pause, err := a.state.pause(ctx, now)
	switch {
	case err != nil:
		r.holding = "whether the agent is paused cannot be read: " + err.Error()
	case pause != "":
		r.paused = pause
	}
	if why, bad := strings.CutPrefix(pause, frozenForGood); bad {
		object := "ConfigMap/" + karpenstate.ConfigMap
		r.fights = append(slices.Clone(r.fights), nopsapi.KarpenterFinding{
			ID: "schedule-unreadable/" + object, Code: "schedule-unreadable", Object: object,
			Message: fmt.Sprintf("its annotation %s cannot be read (%s): nothing is written anywhere until it can", karpenstate.AnnotationFreeze, why),
		})
	}
	switch {
	case r.holding != "":
	case s.Problem != "":
		r.holding = s.Problem
	case len(s.Karpenter.APIVersions) == 0:
		r.holding = "Karpenter is not installed: its API " + inventory.Group + " is not served"
	case !s.Karpenter.Writable:
		r.holding = fmt.Sprintf("%s is served in %s, and only %s is written: upgrade Karpenter", inventory.Group, strings.Join(s.Karpenter.APIVersions, ", "), inventory.Writable)
	}
	if r.holding != "" {
		return r
	}
	r.plan = plan.Make(r.input)
	r.holding = r.plan.Holding
	a.memory.Plan = r.plan.Memory
	r.counts, r.owners = a.offerings(r.input), map[string][]string{}
	for _, o := range s.Pools {
		r.owners[inventory.Name(o)] = write.GitOps(o)
	}
	return r
}

// act carries out what is to be carried out now, in order. The first refusal for reasons of time ends it: what follows would be refused as well.
func (a *Agent) act(ctx context.Context, r *round) {
	for _, action := range r.plan.Actions {
		if action.Waiting != "" {
			continue
		}
		meta := write.Meta{Actor: "agent", MarketSeq: r.market.Seq, CommitSeq: r.commits.Seq}
		record, err := a.writer.Apply(ctx, action, meta)
		var refusal *write.Refusal
		switch {
		case errors.As(err, &refusal):
			r.waiting[action.ID] = string(refusal.Code) + ": " + refusal.Why
			if !refusal.Transient() {
				a.noted(record)
			}
		case err != nil:
			r.waiting[action.ID] = "the API server: " + err.Error()
			a.deps.Log.Warn("an action could not be carried out", "action", action.ID, "error", err)
			if ctx.Err() != nil {
				return
			}
		default:
			r.done[action.ID] = true
			a.noted(record)
			if write.Made(record) {
				a.memory.Plan = a.memory.Plan.Applied(action, a.deps.Now())
			}
		}
	}
}

// noted remembers records and hands them to the platform.
func (a *Agent) noted(records ...nopsapi.KarpenterRecord) {
	for _, r := range records {
		a.last[r.Object] = r.ID
		a.counters.drifted(r)
		a.deps.Log.Info(line(r), "record", r.ID, "predicted_drift", r.Predicted, "actual_drift", r.Actual)
	}
	a.records.push(records...)
}

// keep records the round in the cluster, where that says anything new, and else each while that it looked.
func (a *Agent) keep(ctx context.Context, r round) {
	now := a.deps.Now()
	data, binary := map[string]*string{}, map[string][]byte{}
	m := a.memory
	m.Market, m.Commitments = a.known.market.remember(), a.known.commitments.remember()
	sum := digest(m)
	// What was acted on is remembered at once, also at the end of the process: after a restart it must not be decided anew.
	if len(r.done) > 0 {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
		defer cancel()
		ctx = late
	}
	if sum != a.kept && (len(r.done) > 0 || now.Sub(a.keptAt) >= memoryEvery || a.kept == [sha256.Size]byte{}) {
		packed, err := m.pack()
		if err != nil {
			a.deps.Log.Error("the memory is not kept", "error", err)
		} else {
			binary[karpenstate.KeyMemory] = packed
		}
	}
	s := fit(r.status(a.deps.Version))
	s.LookedAt = now.UTC().Truncate(time.Second)
	_, content, err := encode(s)
	if s.At = a.changed; content != a.content || s.At.IsZero() {
		s.At = s.LookedAt
	}
	full, _, again := encode(s)
	if err = errors.Join(err, again); err != nil {
		a.deps.Log.Error("the status cannot be encoded", "error", err)
		return
	}
	if content != a.content || len(binary) > 0 || now.Sub(a.looked) >= karpenstate.LookEvery {
		data[karpenstate.KeyStatus] = &full
	}
	if len(data)+len(binary) == 0 {
		return
	}
	if err := a.writer.Keep(ctx, data, binary); err != nil {
		a.deps.Log.Warn("the state could not be recorded; it is tried again", "error", err)
		return
	}
	if len(data) > 0 {
		a.content, a.changed, a.looked = content, s.At, s.LookedAt
	}
	if len(binary) > 0 {
		a.kept, a.keptAt = sum, now
	}
}

// wire is a round as the platform is told.
func (a *Agent) wire(r round) nopsapi.KarpenterInventory {
	inv := r.snapshot.Wire(r.input.Pools, true)
	inv.Agent = nopsapi.AgentInfo{Name: component, Version: a.deps.Version}
	inv.ClusterID, inv.Mode, inv.Paused, inv.Holding = a.opts.ClusterID, a.opts.Mode, r.paused != "", r.holding
	inv.Findings = r.findings()
	return inv
}
