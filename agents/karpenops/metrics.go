package karpenops

import (
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops/plan"
	"github.com/nopsctl/nopsctl/agents/karpenops/write"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// counters are the agent's metrics.
type counters struct {
	acceptedFacts, refusedFacts, failedFacts *agent.Value
	leading, holding, paused, rounds         *agent.Value
	predicted, actual, fights                *agent.Value
	pending, siblings                        *agent.Value
	committed, used                          *agent.Value

	mu      sync.Mutex
	metrics *agent.Metrics
	writes  map[[2]string]*agent.Value // by action and outcome
	blocked map[write.Code]*agent.Value
	drift   map[string][2]int // by record: predicted and actual, counted so far
}

func (c *counters) register(m *agent.Metrics, a *Agent) {
	const offered, offeredHelp = "nops_karpenops_facts_total", "Documents of facts by what became of them."
	c.metrics = m
	c.writes, c.blocked, c.drift = map[[2]string]*agent.Value{}, map[write.Code]*agent.Value{}, map[string][2]int{}
	c.acceptedFacts, c.refusedFacts, c.failedFacts = m.Counter(offered, offeredHelp, "result", "accepted"), m.Counter(offered, offeredHelp, "result", "refused"), m.Counter(offered, offeredHelp, "result", "failed")
	c.leading = m.Gauge("nops_karpenops_leading", "1 while this process leads.")
	c.holding = m.Gauge("nops_karpenops_holding", "1 while nothing is decided.")
	c.paused = m.Gauge("nops_karpenops_paused", "1 while the agent is paused or a freeze window is open.")
	c.rounds = m.Counter("nops_karpenops_rounds_total", "Times it was decided.")
	c.predicted = m.Counter("nops_karpenops_drift_predicted_nodes_total", "Nodes that writes were predicted to replace.")
	c.actual = m.Counter("nops_karpenops_drift_actual_nodes_total", "Nodes that writes replaced, as far as known.")
	c.fights = m.Counter("nops_karpenops_fights_total", "Writes that were left alone because somebody else sets the field back.")
	c.pending = m.Gauge("nops_karpenops_pending_actions", "Actions that are planned and wait.")
	c.siblings = m.Gauge("nops_karpenops_siblings", "NodePools that karpenops made.")
	c.committed = m.Gauge("nops_karpenops_commitment_limit_vcpu", "vCPU that NodePools for commitments may have.")
	c.used = m.Gauge("nops_karpenops_commitment_used_vcpu", "vCPU that they have.")
	// What there is to be counted is there from the start: a series that appears with its first count hides it from rate().
	for _, k := range []plan.ActionKind{plan.CreateSibling, plan.SetLimits, plan.SetWeight, plan.SetRequirements, plan.SetDisruption, plan.DrainSibling, plan.DeleteSibling, plan.CreateOverlay, plan.SetOverlay, plan.DeleteOverlay, plan.Narrow, plan.Restore} {
		for _, outcome := range []string{write.Applied, write.Refused} {
			c.write(string(k), outcome)
		}
	}
	for _, code := range []write.Code{write.ChangedSincePlan, write.OwnedByOther, write.Invariant, write.RejectedByServer, write.Conflict, write.Paused, write.Frozen, write.RateLimited, write.Fighting} {
		c.block(code)
	}
	age := func(status func(time.Time) karpenstate.Fact) func() float64 {
		return func() float64 {
			now := a.deps.Now()
			s := status(now)
			if s.AsOf.IsZero() {
				return -1
			}
			return now.Sub(s.AsOf).Seconds()
		}
	}
	m.GaugeFunc("nops_karpenops_fact_age_seconds", "Age of the facts that were accepted last; -1 before the first.", age(a.known.market.status), "document", "market")
	m.GaugeFunc("nops_karpenops_fact_age_seconds", "Age of the facts that were accepted last; -1 before the first.", age(a.known.commitments.status), "document", "commitments")
	m.GaugeFunc("nops_karpenops_records_queued", "Records that wait for the platform.", func() float64 { return float64(a.records.len()) })
}

func (c *counters) write(action, outcome string) *agent.Value {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := [2]string{action, outcome}
	if c.writes[k] == nil {
		c.writes[k] = c.metrics.Counter("nops_karpenops_decisions_total", "Decisions by what became of them.", "action", action, "outcome", outcome)
	}
	return c.writes[k]
}

func (c *counters) block(code write.Code) *agent.Value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked[code] == nil {
		c.blocked[code] = c.metrics.Counter("nops_karpenops_blocked_total", "Writes that were not made, by the reason.", "by", string(code))
	}
	return c.blocked[code]
}

// observe counts what the writer did.
func (c *counters) observe(action, outcome string, code write.Code) {
	c.write(action, outcome).Add(1)
	if code != "" {
		c.block(code).Add(1)
	}
	if code == write.Fighting {
		c.fights.Add(1)
	}
}

// drifted counts the drift of records, each once: a later word on the same adds what is more.
func (c *counters) drifted(r nopsapi.KarpenterRecord) {
	if r.Outcome == write.Refused {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.drift[r.ID]
	if len(c.drift) > 1000 {
		clear(c.drift)
	}
	c.drift[r.ID] = [2]int{r.Predicted, r.Actual}
	c.predicted.Add(float64(max(0, r.Predicted-before[0])))
	c.actual.Add(float64(max(0, r.Actual-before[1])))
}

// show shows a round.
func (c *counters) show(r round) {
	c.rounds.Add(1)
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	c.holding.Set(yes(r.holding != ""))
	c.paused.Set(yes(r.paused != ""))
	waiting, siblings := 0, 0
	limit, used := 0.0, 0.0
	for _, a := range r.plan.Actions {
		if !r.done[a.ID] {
			waiting++
		}
	}
	for _, p := range r.input.Pools {
		if !p.Owned {
			continue
		}
		siblings++
		if p.Purpose == karpenstate.PurposeCommitment {
			used += p.CPUUsed
			if p.CPULimit != nil {
				limit += *p.CPULimit
			}
		}
	}
	c.pending.Set(float64(waiting))
	c.siblings.Set(float64(siblings))
	c.committed.Set(limit)
	c.used.Set(used)
}
