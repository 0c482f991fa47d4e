package connectivity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// ProbeError says why the probe did not run, or not to its end.
type ProbeError struct {
	Reason string // one line
	Advice string // instead of the check's own hint, when there is something better to say
}

// Error implements error.
func (e *ProbeError) Error() string { return e.Reason }

// Hint says what to do.
func (e *ProbeError) Hint() string { return e.Advice }

func clusterChecks() []ID {
	return []ID{ClusterDNS, ClusterTCP, ClusterTLS, ClusterHTTP, ClusterAuth, ClusterClock, ClusterNonce, AMPDNS, AMPTCP, AMPTLS, AMPHTTP, AMPAuth, AMPData, AMPTargets}
}

// cluster is the leg from inside the cluster.
func (r *run) cluster(ctx context.Context) {
	if r.o.Prober == nil {
		// Not known is not well: whoever reads the verdict must not take this leg for tested.
		r.check(ClusterPod, "", event.Unknown, ReasonNoCluster, r.o.NoProber, 0)
		r.skip("", ReasonNoProbe, "no probe ran", clusterChecks()...)
		return
	}
	start := r.o.Now()
	result, err := r.probe(ctx)
	took := r.o.Now().Sub(start)
	if err != nil {
		outcome, reason, message := event.Failed, ReasonProbeFailed, err.Error()
		if ctx.Err() != nil {
			outcome, reason, message = event.Cancelled, Reason(probe.CodeCancelled), "the probe was removed from the cluster"
		}
		r.check(ClusterPod, "", outcome, reason, message, took)
		var advice interface{ Hint() string }
		if errors.As(err, &advice) && advice.Hint() != "" {
			leg := &r.report.Legs[len(r.report.Legs)-1]
			leg.Checks[len(leg.Checks)-1].Hint = advice.Hint()
		}
		r.skip("", ReasonNoProbe, "no probe ran", clusterChecks()...)
		return
	}
	r.probed = &result
	rep := result.Report
	r.check(ClusterPod, "", event.OK, none, "k8s-heartbeat-agent "+rep.AgentVersion, took)

	if api, ok := rep.Result(probe.TargetNOps); ok {
		r.stages(api, map[string]ID{probe.StageDNS: ClusterDNS, probe.StageTCP: ClusterTCP, probe.StageTLS: ClusterTLS, probe.StageHTTP: ClusterHTTP, probe.StageAuth: ClusterAuth})
		if f, failed := api.Failure(); failed && f.Stage != probe.StageAuth {
			r.skip(api.Host, ReasonEarlierFailure, f.Stage+" failed", ClusterClock)
		} else {
			r.clock(ClusterClock, api, event.Failed)
		}
	} else {
		r.skip("", ReasonNotReported, "the probe did not report on "+nopsAPI, ClusterDNS, ClusterTCP, ClusterTLS, ClusterHTTP, ClusterAuth, ClusterClock)
	}
	switch o := rep.Observation; {
	case o == nil:
		r.skip("", ReasonNoTest, orElse(r.noTest, "no test was started"), ClusterNonce)
	case o.Posted:
		r.check(ClusterNonce, "", event.OK, none, "", 0)
	default:
		r.check(ClusterNonce, "", event.Failed, ReasonNotReceived, o.Error, 0)
	}
	r.pipeline(result)
}

// probe runs the probe, and again while vmagent has not sent anything yet and there is time: minutes after an installation
// that is normal, and proves nothing either way.
func (r *run) probe(ctx context.Context) (ProbeResult, error) {
	request := ProbeRequest{}
	if r.test != nil {
		request = ProbeRequest{TestID: r.test.ID, Nonce: r.test.Nonce}
	}
	for attempt := 1; ; attempt++ {
		title := "Running a probe in the cluster"
		if attempt > 1 {
			title = fmt.Sprintf("Looking again, for up to %s: vmagent has not sent anything yet", r.left().Round(time.Second))
		}
		start := r.o.Now()
		r.o.Observe.Emit(event.StepStarted{Step: "probe", Title: title})
		result, err := r.o.Prober.Probe(ctx, request)
		finished := event.StepFinished{Step: "probe", Title: title, Outcome: event.OK, Duration: r.o.Now().Sub(start)}
		if err != nil {
			finished.Outcome, finished.Message = event.Failed, err.Error()
			if ctx.Err() != nil {
				finished.Outcome = event.Cancelled
			}
		}
		r.o.Observe.Emit(finished)
		if err != nil || !silent(result) || r.left() <= 0 {
			return result, err
		}
		if r.o.Sleep(ctx, pollEvery) != nil {
			return result, ctx.Err()
		}
	}
}

func (r *run) left() time.Duration { return r.deadline.Sub(r.o.Now()) }

// silent says whether a pipeline is there and has never sent anything.
func silent(p ProbeResult) bool {
	v := p.Report.Vmagent
	return p.Insights && v != nil && (v.State == probe.Idle && len(v.RequestsByStatus) == 0 || v.State == probe.Unknown)
}

// pipeline judges the way to the metrics store: what the probe tried, and what vmagent says of its own deliveries.
func (r *run) pipeline(p ProbeResult) {
	all := []ID{AMPDNS, AMPTCP, AMPTLS, AMPHTTP, AMPAuth, AMPData, AMPTargets}
	if !p.Insights {
		r.skip("", ReasonNoInsights, "container insights is disabled: no metrics are collected", all...)
		return
	}
	host := ""
	if amp, ok := p.Report.Result(probe.TargetAMP); ok {
		host = amp.Host
		r.stages(amp, map[string]ID{probe.StageDNS: AMPDNS, probe.StageTCP: AMPTCP, probe.StageTLS: AMPTLS, probe.StageHTTP: AMPHTTP})
	} else {
		r.skip("", ReasonNotReported, "vmagent's arguments name no remote-write address", AMPDNS, AMPTCP, AMPTLS, AMPHTTP)
	}
	v := p.Report.Vmagent
	if v == nil {
		r.check(AMPAuth, host, event.Unknown, ReasonNoVmagent, "the probe was not told where vmagent is", 0)
		r.check(AMPData, host, event.Unknown, ReasonNoVmagent, "the probe was not told where vmagent is", 0)
		r.skip("", ReasonNoVmagent, "the probe was not told where vmagent is", AMPTargets)
		return
	}
	r.delivery(host, *v)
	r.targets(*v)
}

func (r *run) delivery(host string, v probe.Delivery) {
	accepted := v.RequestsByStatus["2xx"] > 0
	refusedKey := v.State == probe.Refused && (only(v, "401") || only(v, "403"))
	switch {
	case refusedKey:
		reason := Reason(probe.CodeForbidden)
		if only(v, "401") {
			reason = Reason(probe.CodeUnauthorized)
		}
		r.check(AMPAuth, host, event.Failed, reason, v.Detail, 0)
		r.check(AMPData, host, event.Failed, ReasonStoreRefuses, waiting("no sample is accepted", v), 0)
	case v.State == probe.Refused:
		r.check(AMPAuth, host, event.Skipped, ReasonStoreRefuses, "refused for another reason", 0)
		r.check(AMPData, host, event.Failed, ReasonStoreRefuses, waiting(v.Detail, v), 0)
	case v.State == probe.Blocked, v.State == probe.Unreachable:
		reason := ReasonStoreNoAnswer
		if v.State == probe.Blocked {
			reason = ReasonStoreBlocked
		}
		r.check(AMPAuth, host, event.Skipped, reason, "no answer to judge by", 0)
		r.check(AMPData, host, event.Failed, reason, waiting(v.Detail, v), 0)
	case v.State == probe.Delivering, v.State == probe.Idle && accepted:
		r.check(AMPAuth, host, event.OK, none, "", 0)
		outcome, reason, message := event.OK, none, v.Detail
		if v.DroppedPackets > 0 {
			outcome, reason, message = event.Warned, ReasonDropped, fmt.Sprintf("%s, but %d blocks were rejected and dropped since vmagent started", v.Detail, v.DroppedPackets)
		}
		r.check(AMPData, host, outcome, reason, message, 0)
	case v.State == probe.Unknown:
		r.check(AMPAuth, host, event.Unknown, ReasonVmagentSilent, "vmagent could not be asked", 0)
		r.check(AMPData, host, event.Unknown, ReasonVmagentSilent, orElse(v.Error, "vmagent could not be asked"), 0)
	default:
		r.check(AMPAuth, host, event.Unknown, ReasonNothingSent, v.Detail, 0)
		r.check(AMPData, host, event.Unknown, ReasonNothingSent, v.Detail, 0)
	}
}

// only says whether the given status is the refusal that the verdict was made of.
func only(v probe.Delivery, status string) bool {
	counts := v.RecentByStatus
	if len(counts) == 0 {
		counts = v.RequestsByStatus
	}
	if counts[status] == 0 {
		return false
	}
	for s, n := range counts {
		if s != status && s != "2xx" && s != probe.StatusError && n > counts[status] {
			return false
		}
	}
	return true
}

func waiting(what string, v probe.Delivery) string {
	if v.QueueBytes > 0 {
		return fmt.Sprintf("%s; %d KiB wait on vmagent's disk", what, (v.QueueBytes+1023)/1024)
	}
	return what
}

// firstScrapes is how long a vmagent may run before a target that was never scraped says something: the longest interval of
// the chart is a minute, over which it spreads the first scrapes.
const firstScrapes = 75 // seconds

func (r *run) targets(v probe.Delivery) {
	message := fmt.Sprintf("%d of %d up", v.TargetsUp, v.TargetsTotal)
	switch {
	case v.State == probe.Unknown:
		r.skip("", ReasonVmagentSilent, "vmagent could not be asked", AMPTargets)
	case v.TargetsUp < v.TargetsTotal && v.UptimeSeconds > 0 && v.UptimeSeconds < firstScrapes:
		r.skip("", ReasonTooEarly, fmt.Sprintf("%s so far; vmagent started %d s ago, and the first scrape of each takes up to a minute", message, v.UptimeSeconds), AMPTargets)
	case v.TargetsTotal == 0:
		r.check(AMPTargets, "", event.Failed, ReasonNoTargets, "vmagent has found nothing to scrape", 0)
	case v.TargetsUp == 0:
		r.check(AMPTargets, "", event.Failed, ReasonAllDown, message, 0)
	case v.TargetsUp < v.TargetsTotal:
		r.check(AMPTargets, "", event.Warned, ReasonSomeDown, message, 0)
	default:
		r.check(AMPTargets, "", event.OK, none, message, 0)
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
