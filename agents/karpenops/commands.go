package karpenops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/agents/karpenops/write"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// session is what the commands that act or answer once work with.
type session struct {
	o     ActOptions
	call  *agent.Call
	kube  rest.Interface
	agent *Agent
	state *stateOf
	out   io.Writer
}

func open(c *agent.Call) (*session, error) {
	s := &session{call: c, out: c.Out()}
	if err := c.Parse(&s.o); err != nil {
		return nil, err
	}
	agent.Memory(c.Getenv, memoryLimit)
	if s.o.LogLevel == "info" {
		s.o.LogLevel = "warn" // what was done is the answer, and in the ledger
	}
	log, err := c.Logger(s.o.ProcessOptions)
	if err != nil {
		return nil, err
	}
	config, err := c.Kubernetes()
	if err != nil {
		return nil, err
	}
	bundle, err := s.o.CABundle()
	if err != nil {
		return nil, err
	}
	deps := Deps{Kube: config, Version: c.Version, Log: log, Rand: rand.Float64}
	if s.o.APIKey != "" && s.o.Facts == FactsPlatform { // without a key the platform is as if it were away
		if deps.Platform, err = s.o.Client(c.UserAgent("nops-karpenops"), bundle, attempts); err != nil {
			return nil, err
		}
	}
	if s.agent, err = New(s.o.Options, deps); err != nil {
		return nil, err
	}
	if s.kube, err = write.NewClient(config, c.UserAgent("nops-karpenops")); err != nil {
		return nil, err
	}
	s.state = &stateOf{kube: s.kube, namespace: s.o.Namespace}
	return s, nil
}

// one is the one argument of a command.
func (s *session) one(what string) (string, error) {
	if len(s.o.Args) != 1 {
		return "", agent.Misuse(fmt.Errorf("expected one %s, got %d", what, len(s.o.Args)))
	}
	return s.o.Args[0], nil
}

func (s *session) json(v any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// status is what the agent recorded.
func (s *session) status(ctx context.Context) (karpenstate.Status, karpenstate.Ledger, error) {
	var (
		st     karpenstate.Status
		ledger karpenstate.Ledger
	)
	r, err := s.state.read(ctx)
	if err != nil {
		return st, ledger, err
	}
	if r.status == "" {
		return st, ledger, fmt.Errorf("ConfigMap %s/%s has no %s: karpenops has not run here yet", s.o.Namespace, karpenstate.ConfigMap, karpenstate.KeyStatus)
	}
	if err := json.Unmarshal([]byte(r.status), &st); err != nil {
		return st, ledger, fmt.Errorf("ConfigMap %s/%s, %s: %w", s.o.Namespace, karpenstate.ConfigMap, karpenstate.KeyStatus, err)
	}
	ledger.Entries = r.ledger
	return st, ledger, nil
}

func runStatus(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	st, ledger, err := s.status(ctx)
	if err != nil {
		return err
	}
	if pause, err := s.state.pause(ctx, s.agent.deps.Now()); err == nil {
		st.Paused = pause // the agent's next round will say so
	}
	if s.o.Output == "json" {
		return s.json(st)
	}
	printStatus(s.out, st)
	if n := len(ledger.Entries); n > 0 {
		fmt.Fprintf(s.out, "\nLast of %d in the ledger:\n", n)
		for _, r := range ledger.Entries[max(0, n-5):] {
			fmt.Fprintf(s.out, "  %s  %s\n", r.At.UTC().Format(time.RFC3339), line(r))
		}
	}
	return nil
}

func runExplain(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	name, err := s.one("NodePool")
	if err != nil {
		return err
	}
	st, ledger, err := s.status(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(st.Pools, func(p karpenstate.Pool) bool { return p.Name == name })
	if i < 0 {
		var known []string
		for _, p := range st.Pools {
			known = append(known, p.Name)
		}
		return fmt.Errorf("there is no NodePool %s in what was recorded at %s; there are %s", name, st.At.Format(time.RFC3339), or(strings.Join(known, ", "), "none"))
	}
	if s.o.Output == "json" {
		return s.json(st.Pools[i])
	}
	explain(s.out, st, ledger, st.Pools[i])
	return nil
}

// runPlan decides once, by the facts there are, and prints what it came to.
func runPlan(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	if len(s.o.Args) > 0 {
		return agent.Misuse(fmt.Errorf("unexpected argument %q", s.o.Args[0]))
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	r, err := s.decide(ctx)
	if err != nil {
		return err
	}
	st := r.status(c.Version)
	if s.o.Output == "json" {
		return s.json(planned{Mode: st.Mode, Holding: r.holding, Paused: r.paused, Market: r.market, Commitments: r.commits, Plan: r.plan})
	}
	printPlan(s.out, r)
	return nil
}

// planned is the answer of plan.
type planned struct {
	Mode        karpenstate.Mode `json:"mode"`
	Holding     string           `json:"holding,omitempty"`
	Paused      string           `json:"paused,omitempty"`
	Market      karpenstate.Fact `json:"market"`
	Commitments karpenstate.Fact `json:"commitments"`
	Plan        plan.Plan        `json:"plan"`
}

// decide makes a plan as the agent would now, and changes nothing.
func (s *session) decide(ctx context.Context) (r round, err error) {
	a := s.agent
	if err := a.takeOver(ctx); err != nil {
		return r, err
	}
	if s.o.Facts == FactsPlatform && a.deps.Platform == nil {
		a.known.market.fail("the platform was not asked: " + agent.EnvAPIKey + " is empty")
		a.known.commitments.fail("the platform was not asked: " + agent.EnvAPIKey + " is empty")
	} else if _, err := a.ask(ctx); err != nil {
		a.deps.Log.Warn("facts could not be asked for", "source", a.facts.Name(), "error", err)
	}
	look, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- agent.Run(look, a.watch.Tasks()...) }()
	defer func() {
		stop()
		err = errors.Join(err, <-done)
	}()
	for deadline := time.Now().Add(time.Minute); (a.watch.Snapshot().Problem != "" || a.watch.Unread() != "") && time.Now().Before(deadline); {
		if err := agent.Sleep(ctx, 200*time.Millisecond); err != nil {
			return r, fmt.Errorf("reading the cluster: %w: %s", err, or(a.watch.Snapshot().Problem, a.watch.Unread()+" not read yet"))
		}
	}
	return a.think(ctx), nil
}

func runPause(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	why := strings.Join(strings.Fields(s.o.Why), " ")
	if s.o.By == "" || why == "" {
		return agent.Misuse(errors.New("--by and --why are needed: whoever finds it paused will want to know"))
	}
	pool, err := s.oneOrAll()
	if err != nil {
		return err
	}
	if err := s.writer(write.Limits{}).Pause(ctx, pool, s.o.By, why); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s is paused: nothing is written until it is resumed; nodes and NodePools stay as they are\n", subject(pool))
	return nil
}

func runResume(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	pool, err := s.oneOrAll()
	if err != nil {
		return err
	}
	if err := s.writer(write.Limits{}).Resume(ctx, pool); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s is not paused any more\n", subject(pool))
	return nil
}

// oneOrAll is the NodePool that a command is about; "" is all.
func (s *session) oneOrAll() (string, error) {
	switch {
	case len(s.o.Args) == 0:
		return "", nil
	case len(s.o.Args) == 1 && !strings.ContainsAny(s.o.Args[0], "/?#%"):
		return s.o.Args[0], nil
	}
	return "", agent.Misuse(fmt.Errorf("expected one NodePool or none, got %s", strings.Join(s.o.Args, " ")))
}

func subject(pool string) string {
	if pool == "" {
		return "karpenops"
	}
	return "NodePool " + pool
}

// writer is the agent's with other limits.
func (s *session) writer(l write.Limits) *write.Writer {
	d := s.agent.writing(s.kube)
	if l.Mode != "" {
		d.Limits = l
	}
	return write.New(d)
}

// runRevert takes back what was done. It needs the cluster and nothing else.
func runRevert(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	switch {
	case s.o.All == (len(s.o.Args) > 0):
		return agent.Misuse(errors.New("name the NodePools to revert, or give --all"))
	case s.o.By == "":
		return agent.Misuse(errors.New("--by is needed: it is recorded"))
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	text := s.o.Output == "text"
	done, err := s.writer(write.Limits{}).Revert(ctx, write.Selection{Pools: s.o.Args, All: s.o.All}, s.o.By, func(line string) {
		if text {
			fmt.Fprintln(s.out, line)
		}
	})
	if !text {
		return errors.Join(err, s.json(done))
	}
	// What was done is said already, as it was done.
	if n := len(done.Problems); n > 0 && ctx.Err() == nil {
		err = fmt.Errorf("reverting: %d of it could not be taken back, as said above; the rest is", n)
	}
	if err == nil && len(done.Restored)+len(done.Released)+len(done.Deleted) == 0 {
		fmt.Fprintln(s.out, "There was nothing of karpenops to take back.")
	}
	if err == nil {
		fmt.Fprintln(s.out, "karpenops is paused now, or it would begin again. To let it: nopsctl karpenops resume")
	}
	return err
}

// runApprove carries out what waits for a person: it is looked for in what is planned and found now, not in what was recorded.
func runApprove(ctx context.Context, c *agent.Call) error {
	s, err := open(c)
	if err != nil {
		return err
	}
	id, err := s.one("ID of what waits")
	if err != nil {
		return err
	}
	if s.o.By == "" {
		return agent.Misuse(errors.New("--by is needed: whoever approves is recorded"))
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	r, err := s.decide(ctx)
	if err != nil {
		return err
	}
	var record nopsapi.KarpenterRecord
	action := slices.IndexFunc(r.plan.Actions, func(a plan.Action) bool { return a.ID == id })
	finding := slices.IndexFunc(r.findings(), func(f nopsapi.KarpenterFinding) bool { return f.ID == id })
	switch {
	case action >= 0:
		a := r.plan.Actions[action]
		a.Waiting = ""
		// A person's word stands for the mode and for the nodes that it replaces; pauses, freezes and whose fields they are it does not touch.
		limits := write.Limits{Mode: karpenstate.ModeInPlace, DriftCap: len(a.Drift), WritesPerHour: s.o.config.WritesPerHour}
		record, err = s.writer(limits).Apply(ctx, a, write.Meta{Actor: s.o.By, MarketSeq: r.market.Seq, CommitSeq: r.commits.Seq})
	case finding >= 0:
		f := r.findings()[finding]
		kind, name, _ := strings.Cut(f.Object, "/")
		if f.Patch == "" {
			return fmt.Errorf("finding %s has nothing that could be carried out: %s", id, f.Message)
		}
		if kind != "NodePool" && !s.o.ClassApproval {
			return fmt.Errorf("finding %s is about %s %s, and node classes may not be changed here: set karpenops.allowNodeClassApproval=true, or apply the patch yourself: "+
				"kubectl patch %s %s --type=merge -p '%s'", id, kind, name, strings.ToLower(kind), name, f.Patch)
		}
		record, err = s.writer(write.Limits{}).Approve(ctx, write.Approval{Finding: f, By: s.o.By, Generation: r.generation(kind, name), MarketSeq: r.market.Seq, CommitSeq: r.commits.Seq})
	default:
		return s.unknown(ctx, id, r)
	}
	if err != nil {
		return err
	}
	if s.o.Output == "json" {
		return s.json(record)
	}
	fmt.Fprintf(s.out, "%s\nrecorded as %s\n", line(record), record.ID)
	return nil
}

// unknown says why nothing has an ID: it was carried out, it is another change by now, or nothing asks for it any more.
func (s *session) unknown(ctx context.Context, id string, r round) error {
	if recorded, err := s.state.read(ctx); err == nil {
		for _, e := range slices.Backward(recorded.ledger) {
			if write.Decided(e, id) && e.Outcome == write.Applied {
				return fmt.Errorf("%s was carried out already, at %s by %s (record %s): there is nothing left to approve", id, e.At.UTC().Format(time.RFC3339), e.Actor, e.ID)
			}
		}
	}
	about := func(id string) string { return id[:max(0, strings.LastIndex(id, "/"))] } // without the patch's digest
	for _, f := range r.findings() {
		if f.Patch != "" && about(f.ID) == about(id) {
			return fmt.Errorf("finding %s has changed since: it is %s now, with the patch %s (%s). Where that is right, too, approve that ID", id, f.ID, f.Patch, replaces(f.Drift))
		}
	}
	return fmt.Errorf("nothing that is planned or found now has the ID %s%s: the cluster has moved on, and status says what waits now", id, because(r))
}

func because(r round) string {
	if why := or(r.holding, r.paused); why != "" {
		return " (nothing is planned: " + why + ")"
	}
	return ""
}
