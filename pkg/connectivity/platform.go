package connectivity

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func platformChecks() []ID {
	return []ID{PlatformNonceHere, PlatformNonce, PlatformHeartbeat, PlatformSamples, PlatformWarnings}
}

// platform is the leg of the other end.
func (r *run) platform(ctx context.Context) {
	skipAll := func(reason Reason, why string) {
		r.skip("", reason, why, append([]ID{PlatformView}, platformChecks()...)...)
	}
	switch {
	case r.o.API == nil:
		skipAll(ReasonNoKey, r.o.NoAPI)
		return
	case r.o.ClusterARN == "":
		skipAll(ReasonNoClusterARN, r.o.NoClusterARN)
		return
	}
	start := r.o.Now()
	view, err := r.watch(ctx)
	took := r.o.Now().Sub(start)
	if err != nil {
		outcome, reason := event.Failed, apiReason(err)
		switch {
		case ctx.Err() != nil:
			outcome, reason = event.Cancelled, Reason(probe.CodeCancelled)
		case nopsclient.IsKind(err, nopsclient.KindNotOffered):
			skipAll(ReasonNotOffered, "this platform does not offer a connectivity view; look for the cluster in its user interface")
			return
		}
		r.check(PlatformView, "", outcome, reason, err.Error(), took)
		r.skip("", ReasonEarlierFailure, "the platform did not tell", platformChecks()...)
		return
	}
	r.check(PlatformView, "", event.OK, none, "", took)
	r.nonces(view)
	r.heartbeat(view)
	r.samples(view)
	r.warnings(view)
}

func (r *run) view(ctx context.Context) (nopsapi.ConnectivityView, error) {
	if r.test != nil {
		return r.o.API.ConnectivityTest(ctx, r.o.ClusterARN, r.test.ID)
	}
	return r.o.API.Connectivity(ctx, r.o.ClusterARN)
}

// watch reads the view until everything that is due has been seen, or time is up.
func (r *run) watch(ctx context.Context) (nopsapi.ConnectivityView, error) {
	view, err := r.view(ctx)
	missing := r.missing(view)
	if !r.again(err) || err == nil && len(missing) == 0 || r.left() <= 0 {
		return view, err
	}
	title := fmt.Sprintf("Waiting up to %s for the platform to see %s", r.left().Round(time.Second), strings.Join(missing, ", "))
	if err != nil {
		title = fmt.Sprintf("Waiting up to %s for the platform to answer", r.left().Round(time.Second))
	}
	start := r.o.Now()
	r.o.Observe.Emit(event.StepStarted{Step: "platform", Title: title})
	for r.again(err) && (err != nil || len(missing) > 0) && r.left() > 0 && r.o.Sleep(ctx, min(pollEvery, r.left())) == nil {
		view, err = r.view(ctx)
		missing = r.missing(view)
	}
	finished := event.StepFinished{Step: "platform", Title: title, Outcome: event.OK, Duration: r.o.Now().Sub(start)}
	switch {
	case ctx.Err() != nil:
		finished.Outcome = event.Cancelled
		err = ctx.Err()
	case err != nil:
		finished.Outcome, finished.Message = event.Failed, err.Error()
	case len(missing) > 0:
		finished.Outcome, finished.Message = event.TimedOut, "not seen: "+strings.Join(missing, ", ")
	}
	r.o.Observe.Emit(finished)
	return view, err
}

// again says whether asking once more can help.
func (r *run) again(err error) bool {
	return err == nil || nopsclient.IsKind(err, nopsclient.KindUnreachable) || nopsclient.IsKind(err, nopsclient.KindServer) || nopsclient.IsKind(err, nopsclient.KindRateLimited)
}

// missing lists what is due and not seen yet.
func (r *run) missing(v nopsapi.ConnectivityView) []string {
	var m []string
	if r.observed && !seen(v, string(Here)) || r.posted() && !seen(v, string(Cluster)) {
		m = append(m, "the nonce")
	}
	if r.heartbeatDue() && !r.fresh(v, receivedAt(v), r.o.HeartbeatMaxAge) {
		m = append(m, "a heartbeat")
	}
	if r.samplesDue() && v.SampleError == "" && !r.fresh(v, sampledAt(v), r.o.SampleMaxAge) {
		m = append(m, "a sample")
	}
	return m
}

// heartbeatDue: with a failed way from the cluster to the platform there is nothing to wait for.
func (r *run) heartbeatDue() bool {
	if r.probed == nil {
		return r.o.Prober == nil
	}
	api, ok := r.probed.Report.Result(probe.TargetNOps)
	return !ok || api.OK()
}

// samplesDue: nor with a metrics store that refuses, or without a pipeline.
func (r *run) samplesDue() bool {
	if r.probed == nil {
		return false
	}
	v := r.probed.Report.Vmagent
	return r.probed.Insights && (v == nil || v.State == probe.Delivering || v.State == probe.Idle || v.State == probe.Unknown)
}

func (r *run) posted() bool {
	return r.probed != nil && r.probed.Report.Observation != nil && r.probed.Report.Observation.Posted
}

// fresh compares by the platform's clock alone: ours may be off. What must not be older than an event here is compared by
// ages, which need no common clock.
func (r *run) fresh(v nopsapi.ConnectivityView, at time.Time, maxAge time.Duration) bool {
	if at.IsZero() {
		return false
	}
	if !r.o.NotBefore.IsZero() {
		maxAge = min(maxAge, r.o.Now().Sub(r.o.NotBefore))
	}
	return v.ServerTime.Sub(at) <= maxAge
}

func receivedAt(v nopsapi.ConnectivityView) time.Time {
	if v.LastHeartbeat == nil {
		return time.Time{}
	}
	return v.LastHeartbeat.ReceivedAt
}

func sampledAt(v nopsapi.ConnectivityView) time.Time {
	if v.LastSample == nil {
		return time.Time{}
	}
	return v.LastSample.At
}

func seen(v nopsapi.ConnectivityView, from string) bool {
	for _, o := range v.NonceSeen {
		if o.From == from {
			return true
		}
	}
	return false
}

func (r *run) nonces(v nopsapi.ConnectivityView) {
	if r.test == nil {
		r.skip("", ReasonNoTest, orElse(r.noTest, "no test was started"), PlatformNonceHere, PlatformNonce)
		return
	}
	if seen(v, string(Here)) {
		r.check(PlatformNonceHere, "", event.OK, none, "", 0)
	} else {
		r.check(PlatformNonceHere, "", event.Failed, ReasonNotReceived, "test "+r.test.ID+": not received", 0)
	}
	switch {
	case seen(v, string(Cluster)):
		r.check(PlatformNonce, "", event.OK, none, "", 0)
	case r.probed == nil:
		r.skip("", ReasonNoProbe, "no probe ran in the cluster", PlatformNonce)
	default:
		r.check(PlatformNonce, "", event.Failed, ReasonNotReceived, "test "+r.test.ID+": not received", 0)
	}
}

func (r *run) heartbeat(v nopsapi.ConnectivityView) {
	at := receivedAt(v)
	switch {
	case at.IsZero():
		r.check(PlatformHeartbeat, "", event.Failed, ReasonNotReceived, "none was ever received", 0)
	case r.fresh(v, at, r.o.HeartbeatMaxAge):
		r.check(PlatformHeartbeat, "", event.OK, none, "last one "+ago(v, at), 0)
	default:
		r.check(PlatformHeartbeat, "", event.Failed, ReasonTooOld, "last one "+ago(v, at), 0)
	}
}

func (r *run) samples(v nopsapi.ConnectivityView) {
	at := sampledAt(v)
	switch {
	case r.probed != nil && !r.probed.Insights:
		r.skip("", ReasonNoInsights, "container insights is disabled: no metrics are collected", PlatformSamples)
	case v.SampleError != "":
		r.check(PlatformSamples, "", event.Unknown, ReasonStoreNotAsked, v.SampleError, 0)
	case at.IsZero():
		r.check(PlatformSamples, "", event.Failed, ReasonNotReceived, "no sample of this cluster is in the workspace"+pipelineSays(v), 0)
	case r.fresh(v, at, r.o.SampleMaxAge):
		r.check(PlatformSamples, "", event.OK, none, fmt.Sprintf("newest %s, %d series", ago(v, at), v.LastSample.Series), 0)
	default:
		r.check(PlatformSamples, "", event.Failed, ReasonTooOld, "newest "+ago(v, at)+pipelineSays(v), 0)
	}
}

// pipelineSays adds what the heartbeat reported about vmagent: it explains what the platform can only miss.
func pipelineSays(v nopsapi.ConnectivityView) string {
	if v.LastHeartbeat == nil || v.LastHeartbeat.Pipeline == nil || v.LastHeartbeat.Pipeline.LastError == "" {
		return ""
	}
	return "; the heartbeat reports: " + v.LastHeartbeat.Pipeline.LastError
}

func (r *run) warnings(v nopsapi.ConnectivityView) {
	if len(v.Warnings) == 0 {
		r.check(PlatformWarnings, "", event.OK, none, "", 0)
		return
	}
	texts := make([]string, 0, len(v.Warnings))
	for _, w := range v.Warnings {
		texts = append(texts, w.Message)
	}
	r.check(PlatformWarnings, "", event.Warned, ReasonOpenWarnings, strings.Join(texts, "; "), 0)
}

// ago is an age by the platform's clock.
func ago(v nopsapi.ConnectivityView, at time.Time) string {
	age := v.ServerTime.Sub(at)
	if age < time.Second {
		return "just now"
	}
	return age.Round(time.Second).String() + " ago"
}
