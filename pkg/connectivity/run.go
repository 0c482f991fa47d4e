package connectivity

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// API is what a run asks the nOps API for. *nopsclient.Client is one.
type API interface {
	WhoAmI(ctx context.Context) (nopsapi.WhoAmI, error)
	StartConnectivityTest(ctx context.Context, arn string) (nopsapi.ConnectivityTest, error)
	Observe(ctx context.Context, arn, id, nonce, from string) (nopsapi.Observation, error)
	ConnectivityTest(ctx context.Context, arn, id string) (nopsapi.ConnectivityView, error)
	Connectivity(ctx context.Context, arn string) (nopsapi.ConnectivityView, error)
}

var _ API = (*nopsclient.Client)(nil)

// ProbeRequest is what the probe in the cluster is told.
type ProbeRequest struct {
	TestID string // empty when no test could be started
	Nonce  string
}

// ProbeResult is what it found.
type ProbeResult struct {
	Report probe.Report
	// Insights says whether a metrics pipeline is installed at all.
	Insights bool
}

// Prober runs the probe inside the cluster and leaves nothing behind.
type Prober interface {
	Probe(ctx context.Context, r ProbeRequest) (ProbeResult, error)
}

// ProberFunc is a Prober.
type ProberFunc func(ctx context.Context, r ProbeRequest) (ProbeResult, error)

// Probe implements Prober.
func (f ProberFunc) Probe(ctx context.Context, r ProbeRequest) (ProbeResult, error) { return f(ctx, r) }

var _ Prober = ProberFunc(nil)

// Options of a run. What is missing is skipped, with the reason given beside it.
type Options struct {
	Host     string // URL of the nOps API; empty means nopsapi.DefaultHost
	CABundle []byte // PEM, trusted besides the system's roots
	// Header is sent by the probe from here, such as the API key's; its values are redacted in results.
	Header http.Header
	Proxy  func(*http.Request) (*url.URL, error)
	// RegistryURL is asked from here; empty skips the check.
	RegistryURL string

	API   API
	NoAPI string // why API is nil, such as "no API key was given"

	Prober   Prober
	NoProber string // why Prober is nil

	ClusterARN   string // empty: the platform cannot be asked about the cluster
	NoClusterARN string // why ClusterARN is empty

	// Wait bounds the wait for the first heartbeat, the first sample and vmagent's first delivery; zero does not wait.
	Wait time.Duration
	// NotBefore is when what is to be proven began, such as an installation; older heartbeats and samples prove nothing.
	// The zero time accepts whatever is recent.
	NotBefore time.Time
	// HeartbeatMaxAge and SampleMaxAge say what is recent; zero means three minutes.
	HeartbeatMaxAge, SampleMaxAge time.Duration

	Target  event.Target
	Observe event.Func
	Now     func() time.Time                                 // nil means time.Now
	Sleep   func(ctx context.Context, d time.Duration) error // nil means a timer
	// Resolve looks names up for the leg from here; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
}

const (
	defaultMaxAge = 3 * time.Minute
	pollEvery     = 2 * time.Second
	maxSkew       = 5 * time.Minute // the metrics store refuses signatures that are farther off
	warnSkew      = time.Minute
)

// Run makes all checks. Its error is the context's: what fails is in the report, which is complete up to there either way.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Host == "" {
		o.Host = nopsapi.DefaultHost
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.HeartbeatMaxAge <= 0 {
		o.HeartbeatMaxAge = defaultMaxAge
	}
	if o.SampleMaxAge <= 0 {
		o.SampleMaxAge = defaultMaxAge
	}
	r := &run{o: o, started: o.Now()}
	r.deadline = r.started.Add(o.Wait)
	r.report = Report{SchemaVersion: ReportSchema, StartedAt: r.started.UTC(), Host: o.Host, ClusterARN: o.ClusterARN, Namespace: o.Target.Namespace, Legs: []LegReport{}}
	o.Observe.Emit(event.OperationStarted{Operation: "test-connectivity", Target: o.Target})
	for _, leg := range []struct {
		leg Leg
		do  func(context.Context)
	}{{Here, r.here}, {Cluster, r.cluster}, {Platform, r.platform}} {
		if ctx.Err() != nil {
			break
		}
		r.report.Legs = append(r.report.Legs, LegReport{Leg: leg.leg, Title: leg.leg.Title(), Checks: []event.Check{}})
		leg.do(ctx)
	}
	r.report.finish()
	r.report.FinishedAt = o.Now().UTC()
	finished := event.OperationFinished{Operation: "test-connectivity", Outcome: r.report.Outcome, Message: r.summary(), Duration: o.Now().Sub(r.started)}
	if ctx.Err() != nil {
		r.report.Outcome, finished.Outcome, finished.Message = event.Cancelled, event.Cancelled, "cancelled; the probe was removed from the cluster"
	} else if c, is := r.report.Failed(); is {
		finished.Hint = c.Hint
	}
	o.Observe.Emit(finished)
	return r.report, ctx.Err() //nolint:wrapcheck // the caller looks for exactly this
}

type run struct {
	o        Options
	report   Report
	started  time.Time
	deadline time.Time

	test     *nopsapi.ConnectivityTest
	noTest   string // why there is none
	observed bool   // the nonce was shown from here
	probed   *ProbeResult
}

func (r *run) summary() string {
	c := r.report.Counts
	if f, is := r.report.Failed(); is {
		s := fmt.Sprintf("%s %s: %s", f.ID, Leg(f.Leg).Title(), f.Title)
		if f.Outcome == event.Unknown {
			return s + ": not known"
		}
		return s + ": failed"
	}
	return fmt.Sprintf("%d checks passed, %d warnings, %d skipped", c.OK, c.Warning, c.Skipped)
}

// check records one outcome. Hints are shown where something is to be done.
func (r *run) check(id ID, destination string, outcome event.Outcome, reason Reason, message string, took time.Duration) {
	d, _ := Explain(id)
	c := event.Check{
		ID: string(id), Leg: string(d.Leg), Destination: destination, Stage: d.Stage, Title: d.Title, Outcome: outcome,
		Reason: string(reason), Message: strings.Join(strings.Fields(message), " "), Duration: took,
	}
	if outcome == event.Failed || outcome == event.Warned || outcome == event.Unknown {
		c.Hint = d.Hint
	}
	leg := &r.report.Legs[len(r.report.Legs)-1]
	leg.Checks = append(leg.Checks, c)
	r.o.Observe.Emit(c)
}

// skip records checks that were not made.
func (r *run) skip(destination string, reason Reason, why string, ids ...ID) {
	for _, id := range ids {
		r.check(id, destination, event.Skipped, reason, why, 0)
	}
}

// stages records a probe's stages under their IDs.
func (r *run) stages(res probe.Result, ids map[string]ID) {
	for _, s := range res.Stages {
		id, ok := ids[s.Stage]
		if !ok {
			continue
		}
		outcome, message := event.OK, s.Detail
		switch s.Outcome {
		case probe.Failed:
			outcome, message = event.Failed, s.Error
		case probe.Skipped:
			outcome = event.Skipped
		}
		destination := res.Host
		if res.Proxy != "" {
			destination += " via proxy " + res.Proxy
		}
		r.check(id, destination, outcome, stageReason(res, s), message, time.Duration(s.Millis)*time.Millisecond)
	}
}

// here is the leg from this machine.
func (r *run) here(ctx context.Context) {
	res := probe.Run(ctx, probe.Target{
		Name: probe.TargetNOps, URL: strings.TrimRight(r.o.Host, "/") + nopsapi.PathWhoAmI(), Header: r.o.Header, CABundle: r.o.CABundle, Proxy: r.o.Proxy, Now: r.o.Now, Resolve: r.o.Resolve,
	})
	if len(r.o.Header) == 0 && res.Status == http.StatusUnauthorized {
		explainMissingKey(&res)
	}
	r.stages(res, map[string]ID{probe.StageDNS: HereDNS, probe.StageTCP: HereTCP, probe.StageTLS: HereTLS, probe.StageHTTP: HereHTTP})
	failure, failed := res.Failure()
	switch {
	case failed:
		r.noTest = failure.Stage + " failed from here"
		r.skip(res.Host, ReasonEarlierFailure, failure.Stage+" failed", HereAuth, HereClock)
	default:
		r.auth(ctx, res.Host)
		r.clock(HereClock, res, event.Warned)
	}
	r.registry(ctx)
	r.startTest(ctx)
}

// explainMissingKey keeps a refusal that was to be expected from looking like a finding.
func explainMissingKey(res *probe.Result) {
	for i, s := range res.Stages {
		if s.Stage == probe.StageHTTP && s.Outcome == probe.OK {
			res.Stages[i].Detail = "HTTP 401, as expected without a key"
		}
	}
}

func (r *run) auth(ctx context.Context, host string) {
	if r.o.API == nil {
		r.skip(host, ReasonNoKey, r.o.NoAPI, HereAuth)
		r.noTest = r.o.NoAPI
		return
	}
	start := r.o.Now()
	who, err := r.o.API.WhoAmI(ctx)
	took := r.o.Now().Sub(start)
	switch {
	case err == nil:
		r.check(HereAuth, host, event.OK, none, describe(who), took)
	case nopsclient.IsKind(err, nopsclient.KindNotOffered):
		r.noTest = "this platform does not offer connectivity tests"
		r.check(HereAuth, host, event.Skipped, ReasonNotOffered, "this platform does not offer to check a key", took)
	case nopsclient.IsKind(err, nopsclient.KindUnauthorized), nopsclient.IsKind(err, nopsclient.KindForbidden):
		r.noTest = "the API key is not accepted"
		r.check(HereAuth, host, event.Failed, apiReason(err), err.Error(), took)
	default:
		r.noTest = "the nOps API did not answer"
		r.check(HereAuth, host, event.Unknown, apiReason(err), err.Error(), took)
	}
}

func describe(who nopsapi.WhoAmI) string {
	scopes := make([]string, 0, len(who.Scopes))
	for _, s := range who.Scopes {
		scopes = append(scopes, string(s))
	}
	return fmt.Sprintf("customer %s, scope %s", who.CustomerID, strings.Join(scopes, ", "))
}

// clock compares clocks. Small differences are the network's.
func (r *run) clock(id ID, res probe.Result, beyond event.Outcome) {
	if res.ServerDate.IsZero() {
		r.skip(res.Host, ReasonNoDate, "the answer has no Date", id)
		return
	}
	skew := time.Duration(res.ClockSkewMillis) * time.Millisecond
	where := "ahead of"
	if skew < 0 {
		skew, where = -skew, "behind"
	}
	message := fmt.Sprintf("%s %s the platform's", skew.Round(time.Second), where)
	switch {
	case skew >= maxSkew:
		r.check(id, res.Host, beyond, ReasonClockSkew, message, 0)
	case skew >= warnSkew:
		r.check(id, res.Host, event.Warned, ReasonClockSkew, message, 0)
	default:
		r.check(id, res.Host, event.OK, none, "within a minute", 0)
	}
}

func (r *run) registry(ctx context.Context) {
	if r.o.RegistryURL == "" {
		r.skip("", ReasonNotAsked, "no image registry was named", HereRegistry)
		return
	}
	res := probe.Run(ctx, probe.Target{Name: "registry", URL: r.o.RegistryURL, CABundle: r.o.CABundle, Proxy: r.o.Proxy, Now: r.o.Now, Resolve: r.o.Resolve})
	var took int64
	for _, s := range res.Stages {
		took += s.Millis
	}
	duration := time.Duration(took) * time.Millisecond
	if f, failed := res.Failure(); failed {
		r.check(HereRegistry, res.Host, event.Warned, stageReason(res, f), f.Stage+": "+f.Error, duration)
		return
	}
	r.check(HereRegistry, res.Host, event.OK, none, fmt.Sprintf("HTTP %d", res.Status), duration)
}

// startTest asks for a nonce and shows it from here.
func (r *run) startTest(ctx context.Context) {
	switch {
	case r.noTest != "":
		return
	case r.o.ClusterARN == "":
		r.noTest = r.o.NoClusterARN
		return
	}
	test, err := r.o.API.StartConnectivityTest(ctx, r.o.ClusterARN)
	switch {
	case nopsclient.IsKind(err, nopsclient.KindForbidden):
		r.noTest = "this API key may read but not start a test"
		return
	case nopsclient.IsKind(err, nopsclient.KindNotFound):
		r.noTest = "the cluster is not registered with the platform"
		return
	case nopsclient.IsKind(err, nopsclient.KindNotOffered):
		r.noTest = "this platform does not offer connectivity tests"
		return
	case err != nil:
		r.noTest = "no test could be started: " + err.Error()
		return
	}
	r.test, r.report.TestID = &test, test.ID
	_, err = r.o.API.Observe(ctx, r.o.ClusterARN, test.ID, test.Nonce, string(Here))
	r.observed = err == nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the caller asks only whether
	case <-t.C:
		return nil
	}
}
