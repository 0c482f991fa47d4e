package connectivity

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const arn = "arn:aws:eks:us-east-1:123456789012:cluster/demo"

// fakeAPI is a platform that has seen what the test says.
type fakeAPI struct {
	who      nopsapi.WhoAmI
	whoErr   error
	startErr error
	viewErr  []error // one per look, then nil
	views    []nopsapi.ConnectivityView
	looks    int
	observed []string
}

func (a *fakeAPI) WhoAmI(context.Context) (nopsapi.WhoAmI, error) { return a.who, a.whoErr }

func (a *fakeAPI) StartConnectivityTest(context.Context, string) (nopsapi.ConnectivityTest, error) {
	return nopsapi.ConnectivityTest{ID: "test-1", Nonce: "n0nce"}, a.startErr
}

func (a *fakeAPI) Observe(_ context.Context, _, _, nonce, from string) (nopsapi.Observation, error) {
	a.observed = append(a.observed, nonce+" "+from)
	return nopsapi.Observation{}, nil
}

func (a *fakeAPI) ConnectivityTest(ctx context.Context, arn, _ string) (nopsapi.ConnectivityView, error) {
	v, err := a.Connectivity(ctx, arn)
	v.NonceSeen = []nopsapi.Observation{{From: "here"}, {From: "cluster"}}
	return v, err
}

func (a *fakeAPI) Connectivity(context.Context, string) (nopsapi.ConnectivityView, error) {
	look := a.looks
	a.looks++
	var err error
	if look < len(a.viewErr) {
		err = a.viewErr[look]
	}
	if len(a.views) == 0 {
		return nopsapi.ConnectivityView{}, err
	}
	return a.views[min(look, len(a.views)-1)], err
}

var _ API = (*fakeAPI)(nil)

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

func start() time.Time { return time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC) }

func view(heartbeat, sample time.Duration) nopsapi.ConnectivityView {
	// The platform's clock is a day off: only ages may count.
	now := start().Add(24 * time.Hour)
	v := nopsapi.ConnectivityView{ServerTime: now}
	if heartbeat >= 0 {
		v.LastHeartbeat = &nopsapi.HeartbeatSeen{ReceivedAt: now.Add(-heartbeat)}
	}
	if sample >= 0 {
		v.LastSample = &nopsapi.SampleSeen{At: now.Add(-sample), Series: 7}
	}
	return v
}

func stages(outcomes ...string) []probe.StageResult {
	var all []probe.StageResult
	for i, o := range outcomes {
		all = append(all, probe.StageResult{Stage: []string{"dns", "tcp", "tls", "http", "auth"}[i], Outcome: o, Detail: "because", Error: "because"})
	}
	return all
}

func result(adjust func(*probe.Report)) ProbeResult {
	r := probe.Report{
		SchemaVersion: 1, AgentVersion: "1",
		Results: []probe.Result{
			{Target: probe.TargetNOps, Host: "api:443", Stages: stages("ok", "ok", "ok", "ok", "ok"), ServerDate: start()},
			{Target: probe.TargetAMP, Host: "amp:443", Stages: stages("ok", "ok", "ok", "ok")},
		},
		Observation: &probe.Observation{Posted: true},
		Vmagent:     &probe.Delivery{State: probe.Delivering, RequestsByStatus: map[string]uint64{"2xx": 1}, TargetsUp: 2, TargetsTotal: 2},
	}
	if adjust != nil {
		adjust(&r)
	}
	return ProbeResult{Report: r, Insights: true}
}

func vmagent(d probe.Delivery) func(*probe.Report) {
	return func(r *probe.Report) { r.Vmagent = &d }
}

func TestRun(t *testing.T) {
	reasons := map[Reason]bool{}
	for _, d := range Reasons() {
		reasons[d.Reason] = true
	}
	refused := &nopsclient.Error{Kind: nopsclient.KindUnauthorized, Message: "no"}
	for _, tt := range []struct {
		name, reason string
		api          *fakeAPI
		probe        ProbeResult
		probeErr     error
		options      func(*Options)
		outcome      event.Outcome
		want         map[ID]event.Outcome
		says         map[ID]string
	}{
		{name: "all well", reason: "three legs, the last waits for nothing", outcome: event.OK,
			want: map[ID]event.Outcome{HereAuth: event.OK, ClusterPod: event.OK, AMPAuth: event.OK, AMPData: event.OK, AMPTargets: event.OK, PlatformNonce: event.OK, PlatformHeartbeat: event.OK, PlatformSamples: event.OK}},
		{name: "wrong key here", reason: "the cluster's leg still runs", api: &fakeAPI{whoErr: refused}, outcome: event.Failed,
			want: map[ID]event.Outcome{HereAuth: event.Failed, ClusterPod: event.OK, PlatformNonce: event.Skipped}},
		{name: "wrong AMP secret", reason: "cluster leg, stage auth; no waiting for samples that cannot come", outcome: event.Failed,
			probe: result(vmagent(probe.Delivery{State: probe.Refused, Detail: "HTTP 403", RequestsByStatus: map[string]uint64{"403": 2}, QueueBytes: 1, TargetsUp: 1, TargetsTotal: 1})),
			api:   &fakeAPI{views: []nopsapi.ConnectivityView{view(0, -1)}},
			want:  map[ID]event.Outcome{AMPAuth: event.Failed, AMPData: event.Failed, PlatformSamples: event.Failed},
			says:  map[ID]string{AMPAuth: "HTTP 403", AMPData: "1 KiB wait"}},
		{name: "workspace gone", reason: "404 is no question of credentials", outcome: event.Failed,
			probe: result(vmagent(probe.Delivery{State: probe.Refused, Detail: "HTTP 404", RequestsByStatus: map[string]uint64{"404": 2}, TargetsUp: 1, TargetsTotal: 1})),
			want:  map[ID]event.Outcome{AMPAuth: event.Skipped, AMPData: event.Failed}},
		{name: "403 of yesterday", reason: "what happens now decides: 5xx now is no wrong key", outcome: event.Failed,
			probe: result(vmagent(probe.Delivery{State: probe.Blocked, Detail: "HTTP 503", RequestsByStatus: map[string]uint64{"403": 9, "503": 2}, RecentByStatus: map[string]uint64{"503": 2}, TargetsUp: 1, TargetsTotal: 1})),
			want:  map[ID]event.Outcome{AMPAuth: event.Skipped, AMPData: event.Failed}},
		{name: "dropped blocks", reason: "delivering now, but something was lost", outcome: event.Warned,
			probe: result(vmagent(probe.Delivery{State: probe.Delivering, Detail: "accepts", RequestsByStatus: map[string]uint64{"2xx": 9}, DroppedPackets: 3, TargetsUp: 1, TargetsTotal: 1})),
			want:  map[ID]event.Outcome{AMPData: event.Warned}},
		{name: "idle, accepted before", reason: "between two sends", outcome: event.OK,
			probe: result(vmagent(probe.Delivery{State: probe.Idle, RequestsByStatus: map[string]uint64{"2xx": 9}, TargetsUp: 1, TargetsTotal: 1})),
			want:  map[ID]event.Outcome{AMPAuth: event.OK, AMPData: event.OK}},
		{name: "never sent anything", reason: "unknown is not well", outcome: event.Unknown,
			probe: result(vmagent(probe.Delivery{State: probe.Idle, Detail: "nothing yet", TargetsUp: 1, TargetsTotal: 1})),
			want:  map[ID]event.Outcome{AMPAuth: event.Unknown, AMPData: event.Unknown}},
		{name: "some targets down", reason: "a warning: the rest flows", outcome: event.Warned,
			probe: result(vmagent(probe.Delivery{State: probe.Delivering, RequestsByStatus: map[string]uint64{"2xx": 9}, TargetsUp: 1, TargetsTotal: 3})),
			want:  map[ID]event.Outcome{AMPTargets: event.Warned}, says: map[ID]string{AMPTargets: "1 of 3 up"}},
		{name: "nothing to scrape", reason: "no data will come", outcome: event.Failed,
			probe: result(vmagent(probe.Delivery{State: probe.Delivering, RequestsByStatus: map[string]uint64{"2xx": 9}})),
			want:  map[ID]event.Outcome{AMPTargets: event.Failed}},
		{name: "insights off", reason: "no pipeline, nothing to test", outcome: event.OK, probe: ProbeResult{Report: result(nil).Report},
			api:  &fakeAPI{views: []nopsapi.ConnectivityView{view(0, -1)}},
			want: map[ID]event.Outcome{AMPDNS: event.Skipped, AMPData: event.Skipped, PlatformSamples: event.Skipped}},
		{name: "no egress", reason: "the stage that failed, and no waiting", outcome: event.Failed,
			probe: result(func(r *probe.Report) {
				r.Results[0].Stages = stages("ok", "failed", "skipped", "skipped", "skipped")
				r.Observation = &probe.Observation{Error: "timeout"}
			}),
			want: map[ID]event.Outcome{ClusterDNS: event.OK, ClusterTCP: event.Failed, ClusterTLS: event.Skipped, ClusterNonce: event.Failed, ClusterClock: event.Skipped}},
		{name: "node's clock off", reason: "signatures are refused beyond five minutes", outcome: event.Failed,
			probe: result(func(r *probe.Report) { r.Results[0].ClockSkewMillis = -int64(6 * time.Minute / time.Millisecond) }),
			want:  map[ID]event.Outcome{ClusterClock: event.Failed}, says: map[ID]string{ClusterClock: "6m0s behind"}},
		{name: "probe cannot start", reason: "the advice of the error beats the check's", outcome: event.Failed, probeErr: &ProbeError{Reason: "ImagePullBackOff", Advice: "look at the registry"},
			want: map[ID]event.Outcome{ClusterPod: event.Failed, ClusterDNS: event.Skipped, AMPData: event.Skipped}, says: map[ID]string{ClusterPod: "ImagePullBackOff"}},
		{name: "old heartbeat", reason: "three missed", outcome: event.Failed, api: &fakeAPI{views: []nopsapi.ConnectivityView{view(10*time.Minute, 0)}},
			want: map[ID]event.Outcome{PlatformHeartbeat: event.Failed}, says: map[ID]string{PlatformHeartbeat: "10m0s ago"}},
		{name: "older than the installation", reason: "a beat of the release before proves nothing", outcome: event.Failed, api: &fakeAPI{views: []nopsapi.ConnectivityView{view(time.Minute, 0)}},
			options: func(o *Options) { o.NotBefore = start().Add(-30 * time.Second) }, want: map[ID]event.Outcome{PlatformHeartbeat: event.Failed, PlatformSamples: event.OK}},
		{name: "arrives while waiting", reason: "that is what the wait is for", outcome: event.OK, api: &fakeAPI{views: []nopsapi.ConnectivityView{view(-1, -1), view(0, -1), view(0, 0)}},
			options: func(o *Options) { o.Wait = time.Minute }, want: map[ID]event.Outcome{PlatformHeartbeat: event.OK, PlatformSamples: event.OK}},
		{name: "platform hiccup while waiting", reason: "asked again", outcome: event.OK, api: &fakeAPI{viewErr: []error{&nopsclient.Error{Kind: nopsclient.KindServer}}, views: []nopsapi.ConnectivityView{view(0, 0)}},
			options: func(o *Options) { o.Wait = time.Minute }, want: map[ID]event.Outcome{PlatformView: event.OK}},
		{name: "not registered", reason: "waiting does not help", outcome: event.Failed, api: &fakeAPI{startErr: &nopsclient.Error{Kind: nopsclient.KindNotFound}, viewErr: []error{&nopsclient.Error{Kind: nopsclient.KindNotFound, Message: "no cluster"}}},
			options: func(o *Options) { o.Wait = time.Minute }, want: map[ID]event.Outcome{PlatformView: event.Failed, PlatformSamples: event.Skipped}},
		{name: "platform without the contract", reason: "skipped, with the reason", outcome: event.OK, api: &fakeAPI{whoErr: &nopsclient.Error{Kind: nopsclient.KindNotOffered}, viewErr: []error{&nopsclient.Error{Kind: nopsclient.KindNotOffered}}},
			want: map[ID]event.Outcome{HereAuth: event.Skipped, PlatformView: event.Skipped}, says: map[ID]string{PlatformView: "does not offer"}},
		{name: "no ARN", reason: "skipped, with the reason", outcome: event.OK, options: func(o *Options) { o.ClusterARN, o.NoClusterARN = "", "nobody says" },
			want: map[ID]event.Outcome{PlatformView: event.Skipped}, says: map[ID]string{PlatformView: "nobody says"}},
		{name: "metrics store not asked", reason: "unknown is not well", outcome: event.Unknown, api: &fakeAPI{views: []nopsapi.ConnectivityView{{ServerTime: start(), LastHeartbeat: &nopsapi.HeartbeatSeen{ReceivedAt: start()}, SampleError: "cannot be asked"}}},
			want: map[ID]event.Outcome{PlatformSamples: event.Unknown}},
		{name: "warnings open", reason: "told, no failure", outcome: event.Warned, api: &fakeAPI{views: []nopsapi.ConnectivityView{func() nopsapi.ConnectivityView {
			v := view(0, 0)
			v.Warnings = []nopsapi.Warning{{Message: "component failing"}}
			return v
		}()}}, want: map[ID]event.Outcome{PlatformWarnings: event.Warned}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{now: start()}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", c.Now().Format(http.TimeFormat))
			}))
			defer server.Close()
			if tt.api == nil {
				tt.api = &fakeAPI{views: []nopsapi.ConnectivityView{view(0, 0)}}
			}
			if tt.probe.Report.SchemaVersion == 0 {
				tt.probe = result(nil)
			}
			var events []event.Event
			o := Options{
				Host: server.URL, API: tt.api, ClusterARN: arn, Now: c.Now, Sleep: c.Sleep, Observe: func(e event.Event) { events = append(events, e) },
				Prober: ProberFunc(func(_ context.Context, r ProbeRequest) (ProbeResult, error) {
					if tt.api.startErr == nil && tt.api.whoErr == nil && r.Nonce != "n0nce" && tt.options == nil {
						t.Errorf("the probe was not given the nonce: %+v", r)
					}
					return tt.probe, tt.probeErr
				}),
			}
			if tt.options != nil {
				tt.options(&o)
			}
			report, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			got := map[ID]event.Check{}
			for _, check := range report.Checks() {
				got[ID(check.ID)] = check
			}
			for id, want := range tt.want {
				if got[id].Outcome != want {
					t.Errorf("%s %q: %s (%s), want %s: %s", id, got[id].Title, got[id].Outcome, got[id].Message, want, tt.reason)
				}
			}
			for id, want := range tt.says {
				if !strings.Contains(got[id].Message, want) {
					t.Errorf("%s says %q, want %q", id, got[id].Message, want)
				}
			}
			if report.Outcome != tt.outcome {
				t.Errorf("outcome %s, want %s: %+v", report.Outcome, tt.outcome, report.Counts)
			}
			if report.Passed() != (tt.outcome == event.OK || tt.outcome == event.Warned) {
				t.Error("Passed disagrees with the outcome")
			}
			// Whatever happens, every check of the catalogue is accounted for, once, in order, and told as it comes.
			var told, all []string
			for _, e := range events {
				if check, ok := e.(event.Check); ok {
					told = append(told, check.ID)
				}
			}
			for _, d := range Catalog() {
				all = append(all, string(d.ID))
			}
			if strings.Join(told, " ") != strings.Join(all, " ") {
				t.Errorf("told %v\nwant %v", told, all)
			}
			for _, check := range report.Checks() {
				if documented := reasons[Reason(check.Reason)]; documented == (check.Outcome == event.OK) {
					t.Errorf("%s %s for reason %q: passed checks have none, others a documented one", check.ID, check.Outcome, check.Reason)
				}
				if check.Outcome != event.OK && check.Outcome != event.Skipped && check.Hint == "" {
					t.Errorf("%s %s without advice", check.ID, check.Outcome)
				}
				if check.Outcome == event.Skipped && check.Message == "" {
					t.Errorf("%s skipped without a reason", check.ID)
				}
			}
			if _, ok := events[len(events)-1].(event.OperationFinished); !ok {
				t.Errorf("the last event is %T", events[len(events)-1])
			}
		})
	}
}

// TestLooksAgain: minutes after an installation vmagent has sent nothing; the probe is repeated while there is time.
func TestLooksAgain(t *testing.T) {
	c := &clock{now: start()}
	calls := 0
	report, err := Run(t.Context(), Options{
		Host: "http://127.0.0.1:0", NoAPI: "no key", NoClusterARN: "none", Wait: time.Minute, Now: c.Now, Sleep: c.Sleep,
		Prober: ProberFunc(func(context.Context, ProbeRequest) (ProbeResult, error) {
			calls++
			if calls < 3 {
				return result(vmagent(probe.Delivery{State: probe.Idle})), nil
			}
			return result(nil), nil
		}),
	})
	if err != nil || calls != 3 {
		t.Errorf("%d probes, %v: %+v", calls, err, report.Counts)
	}
}

func TestUnreachableHere(t *testing.T) {
	c := &clock{now: start()}
	report, err := Run(t.Context(), Options{
		Host: "https://app.nops.io", NoAPI: "no key", NoProber: "no cluster", NoClusterARN: "none", Now: c.Now, Sleep: c.Sleep, RegistryURL: "https://public.ecr.aws/v2/",
		Resolve: func(_ context.Context, host string) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f, ok := report.Failed()
	if !ok || f.ID != string(HereDNS) || !strings.Contains(f.Message, "app.nops.io") {
		t.Errorf("%+v", f)
	}
	for _, check := range report.Checks() {
		if check.ID == string(HereRegistry) && check.Outcome != event.Warned {
			t.Errorf("the registry is the nodes' business: %s", check.Outcome)
		}
		if check.ID == string(ClusterPod) && check.Outcome != event.Unknown {
			t.Errorf("a cluster that cannot be asked is not well: %s", check.Outcome)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := &clock{now: start()}
	report, err := Run(ctx, Options{
		Host: "http://127.0.0.1:0", NoAPI: "no key", Now: c.Now, Sleep: c.Sleep,
		Prober: ProberFunc(func(context.Context, ProbeRequest) (ProbeResult, error) {
			cancel()
			return ProbeResult{}, context.Canceled
		}),
	})
	if !errors.Is(err, context.Canceled) || report.Outcome != event.Cancelled {
		t.Errorf("%v, %s", err, report.Outcome)
	}
}

func TestCatalog(t *testing.T) {
	seen := map[ID]bool{}
	for _, d := range Catalog() {
		if seen[d.ID] || d.Title == "" || d.About == "" || d.Hint == "" || d.Stage == "" || d.Leg == "" {
			t.Errorf("incomplete or twice: %+v", d)
		}
		seen[d.ID] = true
	}
	if _, ok := Explain("NOPS-NET-999"); ok {
		t.Error("explains what is not there")
	}
}
