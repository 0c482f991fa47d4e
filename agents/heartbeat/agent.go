package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	defaultInterval = time.Minute
	// firstWithin spreads the first beats of many agents a little; an installation shall show at once.
	firstWithin = 3 * time.Second
	// syncLimit is how long the first beat waits for the API server. A beat without components says at least that we live.
	syncLimit = 20 * time.Second
	// settle is how long changes are gathered before they are looked at.
	settle = 5 * time.Second
	// Beats out of turn: this many a minute.
	extraPerMinute = 6
	queueBound     = 256
	sendTimeout    = 20 * time.Second
	// pace is between beats of a backlog.
	pace = 100 * time.Millisecond
	// Retries after failures that somebody has to mend.
	stallBase, stallMax = time.Minute, 15 * time.Minute
	// unreachableAfter is how long nothing must get through before people are told.
	unreachableAfter = 2 * time.Minute
	// lastWords is how long the end may take to deliver what is queued.
	lastWords = 3 * time.Second
	// turnEvery and turnLimit are for liveness.
	turnEvery, turnLimit = 20 * time.Second, 3 * time.Minute
	writeTimeout         = 10 * time.Second
	// The condition of readiness.
	conditionKubernetes = "kubernetes"
)

// Platform is what the agent needs of the platform's client.
type Platform interface {
	SendHeartbeat(ctx context.Context, clusterARN string, beat nopsapi.Heartbeat) (nopsapi.HeartbeatAck, error)
}

var _ Platform = (*nopsclient.Client)(nil)

// Deps is what the process owns and the agent uses. Kube and Platform are needed; the rest has defaults.
type Deps struct {
	Kube     *rest.Config
	Platform Platform
	Version  string
	Log      *slog.Logger   // nil: silence
	Listener net.Listener   // nil: no endpoints are served
	Vmagent  probe.HTTPDoer // nil: a client with short timeouts and without proxy
	Now      func() time.Time
	Rand     agent.Rand // nil: always the middle
	BootID   string     // empty: from the clock
}

// eyes see the release's workloads.
type eyes interface {
	tasks() []agent.Task
	synced() bool
	objects() objects
	changes() <-chan struct{}
	version(ctx context.Context) (string, error)
}

// hands write the two things the agent may write.
type hands interface {
	ConfigMap(ctx context.Context, want *corev1.ConfigMap) error
	Event(ctx context.Context, e *corev1.Event) error
}

var (
	_ eyes  = (*watcher)(nil)
	_ hands = (*agent.Writer)(nil)
)

// Agent is the heartbeat.
type Agent struct {
	opts    Options
	deps    Deps
	watch   eyes
	writer  hands
	metrics *agent.Metrics
	health  *agent.Health
	loops   struct{ observing, sending, asking *agent.Loop }
	queue   *agent.Queue[nopsapi.Heartbeat]

	interval   atomic.Int64 // nanoseconds
	kubernetes atomic.Pointer[string]
	wantFull   atomic.Bool
	lastFull   atomic.Uint64
	poke       chan struct{} // something is worth a look
	rhythm     chan struct{} // the interval changed

	mu      sync.Mutex
	tracker *tracker
	link    link

	delivered, refused, failures, skew, lastSuccess, seq *agent.Value
}

// New makes an agent.
func New(opts Options, deps Deps) (*Agent, error) {
	deps = fill(deps)
	c, err := newClients(deps.Kube, "nops-heartbeat/"+deps.Version)
	if err != nil {
		return nil, err
	}
	return assemble(opts, deps, newWatcher(c, opts.Namespace, opts.Release), agent.NewWriter(c[corev1.SchemeGroupVersion], identity(opts, deps))), nil
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
	if deps.BootID == "" {
		deps.BootID = fmt.Sprintf("%x", deps.Now().UnixNano())
	}
	if deps.Vmagent == nil {
		// Inside the cluster, hence past every proxy.
		deps.Vmagent = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConns: 1, IdleConnTimeout: time.Minute, DisableCompression: true}}
	}
	return deps
}

// assemble makes an agent of its parts.
func assemble(opts Options, deps Deps, watch eyes, write hands) *Agent {
	m := &agent.Metrics{}
	agent.RegisterProcess(m, component, deps.Version, deps.Now())
	const beats, beatsHelp = "nops_heartbeat_beats_total", "Heartbeats by what became of them."
	a := &Agent{
		opts: opts, deps: deps, metrics: m, watch: watch, writer: write,
		health: agent.NewHealth(deps.Now, conditionKubernetes), queue: agent.NewQueue[nopsapi.Heartbeat](queueBound),
		poke: make(chan struct{}, 1), rhythm: make(chan struct{}, 1), tracker: newTracker(opts.VmagentURL != ""), link: linkConnecting,
		delivered:   m.Counter(beats, beatsHelp, "result", "delivered"),
		refused:     m.Counter(beats, beatsHelp, "result", "refused"),
		failures:    m.Counter("nops_heartbeat_send_failures_total", "Attempts to deliver a heartbeat that failed."),
		skew:        m.Gauge("nops_heartbeat_clock_skew_seconds", "How far our clock is ahead of the platform's."),
		lastSuccess: m.Gauge("nops_heartbeat_last_success_timestamp_seconds", "When the platform last accepted a heartbeat; 0 before the first."),
		seq:         m.Gauge("nops_heartbeat_sequence", "Number of the latest heartbeat of this process."),
	}
	a.interval.Store(int64(defaultInterval))
	a.loops.observing, a.loops.sending = a.health.Loop("observing", turnLimit), a.health.Loop("sending", turnLimit)
	if opts.VmagentURL != "" {
		a.loops.asking = a.health.Loop("asking vmagent", turnLimit)
	}
	m.CounterFunc(beats, beatsHelp, func() float64 { return float64(a.queue.Dropped()) }, "result", "dropped")
	m.GaugeFunc("nops_heartbeat_queue_length", "Heartbeats that wait for the platform.", func() float64 { return float64(a.queue.Len()) })
	m.GaugeFunc("nops_heartbeat_interval_seconds", "Time between heartbeats, as the platform set it.", func() float64 { return time.Duration(a.interval.Load()).Seconds() })
	m.GaugeFunc("nops_heartbeat_platform_up", "1 while the platform accepts heartbeats.", func() float64 {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.link == linkConnected {
			return 1
		}
		return 0
	})
	return a
}

// Run works until the context ends.
func (a *Agent) Run(ctx context.Context) error {
	tasks := append(a.watch.tasks(),
		agent.Task{Name: "observing", Run: a.observe},
		agent.Task{Name: "sending", Run: a.send},
		agent.Task{Name: "learning the cluster's version", Run: a.learnVersion},
	)
	if a.opts.VmagentURL != "" {
		tasks = append(tasks, agent.Task{Name: "asking vmagent", Run: a.askVmagent})
	}
	if a.deps.Listener != nil {
		tasks = append(tasks, agent.Serve(a.deps.Listener, agent.Handler(a.health, a.metrics)))
	}
	a.deps.Log.Info("heartbeat starts", "version", a.deps.Version, "boot_id", a.deps.BootID, "cluster_arn", a.opts.ClusterARN, "host", a.opts.Host,
		"namespace", a.opts.Namespace, "release", a.opts.Release, "vmagent", a.opts.VmagentURL)
	err := agent.Run(ctx, tasks...)
	a.deps.Log.Info("heartbeat ends", "queued", a.queue.Len())
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// look is what there is to see now. known is false while the API server has not been read.
func (a *Agent) look() (s snapshot, o objects, known bool) {
	a.mu.Lock()
	s.pipeline, s.link = a.tracker.current, a.link
	a.mu.Unlock()
	if known = a.watch.synced(); known {
		a.health.Met(conditionKubernetes)
		o = a.watch.objects()
		s.components = summarise(o)
	}
	return s, o, known
}

// waitSynced waits until everything was listed once, at most for syncLimit.
func (a *Agent) waitSynced(ctx context.Context) {
	for deadline := time.Now().Add(syncLimit); !a.watch.synced() && time.Now().Before(deadline); {
		if agent.Sleep(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}

// observe is the loop that decides when there is a beat, and makes it. It never waits for the platform.
func (a *Agent) observe(ctx context.Context) error {
	if agent.Sleep(ctx, time.Duration(a.deps.Rand()*float64(firstWithin))) != nil {
		return nil
	}
	a.waitSynced(ctx)
	var (
		c = &composer{
			bootID: a.deps.BootID, agent: nopsapi.AgentInfo{Name: component, Version: a.deps.Version},
			release: nopsapi.ReleaseInfo{Name: a.opts.Release, Namespace: a.opts.Namespace, ChartVersion: a.opts.ChartVersion},
		}
		extra   = agent.Bucket{Capacity: extraPerMinute, Every: time.Minute / extraPerMinute}
		teller  = &teller{agent: a, sparing: agent.NewSparing(10, time.Minute)}
		said    map[string]string // signature of the last beat
		due     = time.NewTimer(0)
		turn    = time.NewTicker(turnEvery)
		gather  *time.Timer // runs while changes are gathered
		gatherC <-chan time.Time
		last    time.Time
	)
	defer due.Stop()
	defer turn.Stop()
	schedule := func() {
		interval := time.Duration(a.interval.Load())
		due.Reset(max(0, agent.Jitter(interval, 0.1, a.deps.Rand)-a.deps.Now().Sub(last)))
	}
	gatherFor := func(d time.Duration) {
		if gatherC == nil {
			gather = time.NewTimer(d)
			gatherC = gather.C
		}
	}
	beat := func(s snapshot, known bool) {
		c.forceFull = c.forceFull || a.wantFull.Swap(false)
		kubernetes := ""
		if v := a.kubernetes.Load(); v != nil {
			kubernetes = *v
		}
		b := c.compose(a.deps.Now(), s, known, kubernetes, a.queue.Dropped())
		if b.Full {
			a.lastFull.Store(b.Seq)
		}
		if a.queue.Push(b) {
			a.deps.Log.Warn("the queue is full, the oldest heartbeat gave way", "dropped", a.queue.Dropped(), "bound", queueBound)
			c.forceFull = true // what was dropped may have held changes
		}
		a.seq.Set(float64(b.Seq))
		said, last = signature(s), a.deps.Now()
	}
	for {
		a.loops.observing.Turn()
		select {
		case <-ctx.Done():
			if gather != nil {
				gather.Stop()
			}
			return nil
		case <-turn.C:
		case <-a.rhythm:
			schedule()
		case <-a.watch.changes():
			gatherFor(settle)
		case <-a.poke:
			gatherFor(settle)
		case <-due.C:
			s, o, known := a.look()
			beat(s, known)
			schedule()
			teller.tell(ctx, s, o, known)
		case <-gatherC:
			gatherC = nil
			now := a.deps.Now()
			s, o, known := a.look()
			if known && (!maps.Equal(said, signature(s)) || a.wantFull.Load()) {
				if extra.Take(now) {
					beat(s, known)
					schedule()
				} else {
					gatherFor(extra.Wait(now))
				}
			}
			teller.tell(ctx, s, o, known)
		}
	}
}

// teller tells people inside the cluster: the ConfigMap and events. What it cannot write it tries again at the next look.
type teller struct {
	agent   *Agent
	sparing *agent.Sparing
	before  snapshot
	written map[string]string
}

func (t *teller) tell(ctx context.Context, s snapshot, o objects, known bool) {
	a := t.agent
	own, found := ownDeployment(o)
	if !known || !found || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if data := mirror(s); !agent.EqualMaps(t.written, data) {
		if err := a.writer.ConfigMap(ctx, stateConfigMap(own, data)); err != nil {
			a.deps.Log.Warn("the mirror could not be written", "error", err)
		} else {
			t.written = data
		}
	}
	for _, n := range notes(t.before, s, uidsOf(o), own) {
		now := a.deps.Now()
		if !t.sparing.Allow(n, now) {
			continue
		}
		a.deps.Log.Log(ctx, levelOf(n), n.Why, "reason", n.Reason, "object", n.Kind+"/"+n.Name)
		if err := a.writer.Event(ctx, n.Event(identity(a.opts, a.deps), now)); err != nil {
			a.deps.Log.Warn("an event could not be written", "error", err)
		}
	}
	t.before = s
}

func levelOf(n agent.Note) slog.Level {
	if n.Warning {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func uidsOf(o objects) map[string]types.UID {
	uids := map[string]types.UID{}
	for _, d := range o.deployments {
		uids["Deployment "+d.Namespace+"/"+d.Name] = d.UID
	}
	for _, d := range o.daemonSets {
		uids["DaemonSet "+d.Namespace+"/"+d.Name] = d.UID
	}
	for _, s := range o.statefulSets {
		uids["StatefulSet "+s.Namespace+"/"+s.Name] = s.UID
	}
	for _, c := range o.cronJobs {
		uids["CronJob "+c.Namespace+"/"+c.Name] = c.UID
	}
	return uids
}

// send is the loop that delivers, in order, one beat at a time.
func (a *Agent) send(ctx context.Context) error {
	soon := agent.Backoff{Base: time.Second, Rand: a.deps.Rand}
	stalled := agent.Backoff{Base: stallBase, Max: stallMax, Rand: a.deps.Rand}
	failing := a.deps.Now() // since when nothing got through
	for {
		beat, token, waiting := a.queue.Peek()
		if !waiting {
			if a.loops.sending.Await(ctx, a.queue.Wake()) != nil {
				return nil
			}
			continue
		}
		a.loops.sending.Turn()
		err := a.deliver(ctx, beat)
		if ctx.Err() != nil {
			a.finish(ctx, err == nil, token)
			return nil
		}
		if err == nil {
			a.queue.Done(token)
			soon.Reset()
			stalled.Reset()
			failing = a.deps.Now()
			if a.queue.Len() > 0 && a.loops.sending.Sleep(ctx, pace) != nil {
				a.finish(ctx, false, 0)
				return nil
			}
			continue
		}
		a.failures.Add(1)
		var wait time.Duration
		switch intent, after := agent.IntentOf(err); intent {
		case agent.Ignore:
			a.queue.Done(token)
			a.refused.Add(1)
			a.wantFull.Store(true)
			a.setLink(linkOf(err))
			a.deps.Log.Error("the platform refuses a heartbeat, it is dropped", "seq", beat.Seq, "error", err)
			continue
		case agent.Stalled:
			a.setLink(linkOf(err))
			// Never less than half the bound: nobody mends a key within seconds.
			bound := min(stallMax, stallBase<<min(stalled.Attempts(), 10))
			wait = max(stalled.Next(0), bound/2)
		default:
			// The end of an outage is noticed within half an interval, so that little is late.
			soon.Max = min(max(time.Duration(a.interval.Load())/2, 15*time.Second), 5*time.Minute)
			wait = soon.Next(after)
			if a.deps.Now().Sub(failing) >= unreachableAfter {
				a.setLink(linkUnreachable)
			}
		}
		a.deps.Log.Warn("a heartbeat could not be delivered", "seq", beat.Seq, "queued", a.queue.Len(), "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		if a.loops.sending.Sleep(ctx, wait) != nil {
			a.finish(ctx, false, 0)
			return nil
		}
	}
}

// finish is for the end of the process: a beat that was under way is finished, and what else is queued gets one chance.
func (a *Agent) finish(ctx context.Context, first bool, token uint64) {
	if first {
		a.queue.Done(token)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for {
		beat, token, waiting := a.queue.Peek()
		if !waiting || a.deliver(ctx, beat) != nil {
			return
		}
		a.queue.Done(token)
	}
}

// deliver sends one beat and takes in the answer. Its errors carry intent.
func (a *Agent) deliver(ctx context.Context, beat nopsapi.Heartbeat) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	beat.SentAt = a.deps.Now().UTC()
	ack, err := a.deps.Platform.SendHeartbeat(ctx, a.opts.ClusterARN, beat)
	if err != nil {
		return intend(err)
	}
	a.delivered.Add(1)
	a.lastSuccess.Set(float64(a.deps.Now().UnixMilli()) / 1000)
	if !ack.ServerTime.IsZero() {
		a.skew.Set(a.deps.Now().Sub(ack.ServerTime).Seconds())
	}
	a.setLink(linkConnected)
	if seconds := min(max(ack.IntervalSeconds, nopsapi.MinHeartbeatInterval), nopsapi.MaxHeartbeatInterval); ack.IntervalSeconds > 0 {
		if d := time.Duration(seconds) * time.Second; a.interval.Swap(int64(d)) != int64(d) {
			a.deps.Log.Info("the platform sets the interval", "interval", d.String())
			signal(a.rhythm)
		}
	}
	// While a backlog is delivered every answer may ask for what is already on its way.
	if ack.Resync && beat.Seq >= a.lastFull.Load() {
		a.wantFull.Store(true)
		signal(a.poke)
	}
	for _, n := range ack.Notices {
		a.deps.Log.Info("notice of the platform", "notice", n)
	}
	return nil
}

// intend says what a failed delivery asks for.
func intend(err error) error {
	var e *nopsclient.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case nopsclient.KindUnauthorized, nopsclient.KindForbidden, nopsclient.KindNotFound, nopsclient.KindNotOffered:
		return agent.Stall(err)
	case nopsclient.KindConflict, nopsclient.KindRefused:
		return agent.Ignorable(err)
	}
	return agent.RetryAfter(err, e.RetryAfter)
}

func linkOf(err error) link {
	var e *nopsclient.Error
	if errors.As(err, &e) {
		switch e.Kind {
		case nopsclient.KindUnauthorized:
			return linkUnauthorized
		case nopsclient.KindForbidden:
			return linkForbidden
		case nopsclient.KindNotFound, nopsclient.KindNotOffered:
			return linkNotOffered
		case nopsclient.KindConflict, nopsclient.KindRefused:
			return linkRefused
		}
	}
	return linkUnreachable
}

func (a *Agent) setLink(l link) {
	a.mu.Lock()
	changed := a.link != l
	a.link = l
	a.mu.Unlock()
	if changed {
		a.deps.Log.Info("the platform", "state", string(l), "detail", l.detail())
		signal(a.poke)
	}
}

// askVmagent looks at vmagent, often at first and then at leisure.
func (a *Agent) askVmagent(ctx context.Context) error {
	const first, quick, often, seldom = time.Second, 12, 5 * time.Second, 15 * time.Second
	wait := first
	for n := 0; a.loops.asking.Sleep(ctx, wait) == nil; n++ {
		counters, err := probe.ReadVmagent(ctx, a.deps.Vmagent, a.opts.VmagentURL, a.deps.Now)
		if ctx.Err() != nil {
			return nil
		}
		a.mu.Lock()
		changed := a.tracker.look(counters, err, a.deps.Now())
		p := a.tracker.current
		a.mu.Unlock()
		if changed {
			a.deps.Log.Info("the pipeline", "state", string(p.state), "detail", p.detail)
			signal(a.poke)
		}
		if wait = often; n >= quick {
			wait = agent.Jitter(seldom, 0.1, a.deps.Rand)
		}
	}
	return nil
}

// learnVersion asks the API server for its version, now and then: clusters are upgraded under us.
func (a *Agent) learnVersion(ctx context.Context) error {
	for wait := time.Duration(0); agent.Sleep(ctx, wait) == nil; {
		if v, err := a.watch.version(ctx); err != nil {
			wait = time.Minute
		} else {
			a.kubernetes.Store(&v)
			wait = agent.Jitter(time.Hour, 0.1, a.deps.Rand)
		}
	}
	return nil
}
