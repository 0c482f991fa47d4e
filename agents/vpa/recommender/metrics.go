package recommender

import (
	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// counters are ours, beside upstream's (vpa_recommender_…).
type counters struct {
	leading, round                       *agent.Value
	written, failed, unchanged           *agent.Value
	reasons                              map[string]*agent.Value
	autoscalers, pods, unread, elsewhere *agent.Value
	ooms                                 *agent.Value
	rounds                               *agent.Value
}

func (c *counters) register(m *agent.Metrics, r *Recommender) {
	const statuses, statusesHelp = "nops_vpa_recommender_statuses_total", "Statuses of autoscalers that were computed, by what became of them."
	c.leading = m.Gauge("nops_vpa_recommender_leading", "1 while this process leads.")
	c.rounds = m.Counter("nops_vpa_recommender_rounds_total", "Rounds that were made.")
	c.round = m.Gauge("nops_vpa_recommender_round_seconds", "How long the last round took, waiting for writes included.")
	c.written, c.failed, c.unchanged = m.Counter(statuses, statusesHelp, "result", "written"), m.Counter(statuses, statusesHelp, "result", "failed"), m.Counter(statuses, statusesHelp, "result", "unchanged")
	c.reasons = map[string]*agent.Value{}
	for _, why := range []string{"conditions", "generation", "containers", "resources", "target", "bounds", "oom", "validity"} {
		c.reasons[why] = m.Counter("nops_vpa_recommender_changes_total", "Statuses that were worth writing, by the first reason.", "because", why)
	}
	c.autoscalers = m.Gauge("nops_vpa_recommender_autoscalers", "Autoscalers that recommendations are made for.")
	c.pods = m.Gauge("nops_vpa_recommender_pods", "Pods in the model.")
	c.unread = m.Gauge("nops_vpa_recommender_unread_settings", "Autoscalers whose settings cannot be read.")
	c.elsewhere = m.Gauge("nops_vpa_recommender_elsewhere", "Autoscalers whose workload somebody else sizes.")
	c.ooms = m.Counter("nops_vpa_recommender_ooms_total", "Containers that ran out of memory, of workloads with an autoscaler.")
	m.GaugeFunc("nops_vpa_recommender_samples", "Containers whose use was taken from the source's last answer.", func() float64 { return float64(r.sampled().Taken) })
	m.GaugeFunc("nops_vpa_recommender_source_up", "1 while the source answers.", func() float64 {
		if r.sampled().Err != nil {
			return 0
		}
		return 1
	})
	const checkpoints, checkpointsHelp = "nops_vpa_recommender_checkpoints_total", "Checkpoints that were looked at, by what became of them."
	m.CounterFunc(checkpoints, checkpointsHelp, func() float64 { return float64(r.checkpoints().Written) }, "result", "written")
	m.CounterFunc(checkpoints, checkpointsHelp, func() float64 { return float64(r.checkpoints().Failed) }, "result", "failed")
	m.CounterFunc(checkpoints, checkpointsHelp, func() float64 { return float64(r.checkpoints().Unchanged) }, "result", "unchanged")
	if r.intake == nil {
		return
	}
	const documents, documentsHelp = "nops_vpa_recommendations_total", "Lists of recommendations from the platform, by what became of them."
	m.CounterFunc(documents, documentsHelp, func() float64 { return float64(r.intake.Counts().Accepted) }, "result", "accepted")
	m.CounterFunc(documents, documentsHelp, func() float64 { return float64(r.intake.Counts().Refused) }, "result", "refused")
	m.CounterFunc(documents, documentsHelp, func() float64 { return float64(r.intake.Counts().Failed) }, "result", "failed")
	m.GaugeFunc("nops_vpa_recommendations_age_seconds", "Age of the recommendations that were taken last; -1 before the first.", func() float64 { return r.intake.Age(r.deps.Now()).Seconds() })
	m.GaugeFunc("nops_vpa_recommender_outcomes_queued", "Outcomes that wait for the platform.", func() float64 { return float64(r.outcomes.Waiting()) })
}
