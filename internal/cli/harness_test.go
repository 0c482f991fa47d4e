package cli

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/iostreams"
	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/version"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

var update = flag.Bool("update", false, "rewrite golden files")

var randomID = regexp.MustCompile(`\b(key|test)-[0-9a-f]{12}`)

var durations = regexp.MustCompile(`"duration_ns": \d+`)

const (
	demoARN   = "arn:aws:eks:us-east-1:123456789012:cluster/demo"
	personKey = "4242.0123456789abcdef0123456789abcdef"
	wrongKey  = "4242.ffffffffffffffffffffffffffffffff"
	ampSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYcanary"
)

// world is everything outside of the command line: a real platform behind a real client, a fake engine and probe.
type world struct {
	t        *testing.T
	platform *platform.Server
	samples  *samples
	server   *httptest.Server
	engine   *fakeEngine
	prober   *fakeProber
	config   clientcmdapi.Config
	env      map[string]string
	clock    *clock
	f        *Factory
	in       string
	tty      bool
	change   func(*Factory)
	raw      bool // write around the redactor, to show that leaks would be found

	streams     *iostreams.Streams
	out, errOut *iostreams.Buffer
}

// clock is a clock that moves when somebody sleeps.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, platform: &platform.Server{Faults: &platform.Faults{}}, samples: &samples{}, env: map[string]string{}, prober: &fakeProber{},
		clock: &clock{now: time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC)},
	}
	w.platform.Now, w.platform.Metrics = w.clock.Now, w.samples
	must(t, w.platform.AddCustomer(t.Context(), platform.Customer{ID: "4242", AMP: nopsapi.AMPConfig{WorkspaceID: "ws-4242", Region: "us-east-1", AccessKeyID: "AKIA4242", SecretAccessKey: ampSecret}}))
	must(t, w.platform.AddKey(t.Context(), "4242", "person", personKey, nopsapi.ScopeAdmin))
	w.server = httptest.NewServer(w.platform)
	t.Cleanup(w.server.Close)
	w.samples.at = w.clock.Now()
	w.env[EnvHost] = w.server.URL
	w.config = eksConfig(demoARN, "https://127.0.0.1:6443")
	w.engine = &fakeEngine{clock: w.clock}
	w.prober.world = w
	return w
}

func eksConfig(name, server string) clientcmdapi.Config {
	return clientcmdapi.Config{
		CurrentContext: "demo",
		Contexts:       map[string]*clientcmdapi.Context{"demo": {Cluster: name, AuthInfo: "user"}},
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: server}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"user": {Token: "kube-token"}},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command line and returns its exit code, as Main would.
func (w *world) run(args ...string) int {
	w.t.Helper()
	return w.runContext(w.t.Context(), args...)
}

func (w *world) runContext(ctx context.Context, args ...string) int {
	w.t.Helper()
	w.streams, w.out, w.errOut = iostreams.Test(w.in)
	w.streams.SetTTY(w.tty, false, w.tty)
	if w.raw {
		w.streams.Out, w.streams.ErrOut = w.out, w.errOut
	}
	w.f = NewFactory(w.streams, func(k string) string { return w.env[k] })
	w.f.Now = w.clock.Now
	w.f.Version = func() version.Info {
		return version.Info{Version: "v0.1.0", Commit: "0123456789abcdef", Go: "go1.26", Platform: "linux/amd64"}
	}
	w.f.Sleep = func(ctx context.Context, d time.Duration) error {
		w.clock.mu.Lock()
		w.clock.now = w.clock.now.Add(d)
		w.clock.mu.Unlock()
		return ctx.Err()
	}
	w.f.Resolve = func(_ context.Context, host string) ([]string, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true} // nothing leaves the machine
	}
	w.f.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	w.f.Cluster = func(o kube.Options) Cluster { return fakeCluster{kube.FromConfig(w.config, o)} }
	w.f.Engine = func(o install.Options) (Engine, error) {
		w.engine.options = o
		return w.engine, w.engine.newErr
	}
	w.f.Platform = func(o nopsclient.Options) (*nopsclient.Client, error) {
		o.Sleep = func(context.Context, time.Duration) error { return nil }
		return nopsclient.New(o)
	}
	w.f.Prober = func(kubernetes.Interface, string) connectivity.Prober { return w.prober }
	w.f.Chart = func() (fs.FS, error) { return embeddedchart.FS() }
	if w.change != nil {
		w.change(w.f)
	}
	return Exit(w.streams, runWith(ctx, w.f, args))
}

// want fails the test unless the exit code is the one expected; all output is shown then.
func (w *world) want(code Code, args ...string) {
	w.t.Helper()
	if got := w.run(args...); got != int(code) {
		w.t.Fatalf("nopsctl %s: exit %d, want %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), got, code, w.out, w.errOut)
	}
}

func (w *world) contains(where *iostreams.Buffer, texts ...string) {
	w.t.Helper()
	for _, s := range texts {
		if !strings.Contains(where.String(), s) {
			w.t.Errorf("no %q in:\n%s", s, where)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		must(t, os.MkdirAll(filepath.Dir(file), 0o700))
		must(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; go test -update rewrites it):\n%s", name, diff)
	}
}

type fakeCluster struct{ *kube.Cluster }

// ToRESTMapper is of a cluster without Karpenter.
func (fakeCluster) ToRESTMapper() (meta.RESTMapper, error) {
	return meta.NewDefaultRESTMapper(nil), nil
}

func (fakeCluster) Clientset() (kubernetes.Interface, error) { return fake.NewClientset(), nil }

type samples struct {
	at  time.Time
	err error
}

func (s *samples) LastSample(context.Context, string, string) (time.Time, int, error) {
	return s.at, 1234, s.err
}

// fakeEngine records what it is asked and tells the events an engine tells.
type fakeEngine struct {
	clock       *clock
	options     install.Options
	newErr      error
	requests    []install.Request
	toggles     []install.ToggleRequest
	uninstalls  []install.UninstallRequest
	applied     int
	credentials map[string][]byte

	status                                     *install.Status
	definitions                                []install.Definition
	live                                       *install.LiveImages
	noOp, keptByCustomer                       bool
	planErr, applyErr, statusErr, uninstallErr error
	credentialsErr                             error
	beforeApply                                func(ctx context.Context) error
	leak                                       string
}

// last is the request that was applied.
func (e *fakeEngine) last() install.Request { return e.requests[len(e.requests)-1] }

func (e *fakeEngine) target(r install.Request) event.Target {
	return event.Target{Context: e.options.Context, Server: "https://127.0.0.1:6443", ClusterARN: r.ClusterARN, Namespace: e.options.Namespace, Release: e.options.Release, ToVersion: "0.1.0"}
}

func (e *fakeEngine) Plan(_ context.Context, r install.Request) (*install.Plan, error) {
	e.requests = append(e.requests, r)
	observe := e.options.Observe
	observe.Emit(event.StepStarted{Step: "preflight", Title: "Checking the cluster and what would change"})
	observe.Emit(event.Check{ID: "NOPS-PRE-001", Leg: "cluster", Title: "API server", Outcome: event.OK, Message: "answers"})
	outcome, failed := event.OK, []event.Check{}
	if e.planErr != nil {
		outcome = event.Failed
		var p *install.PreflightError
		if errors.As(e.planErr, &p) {
			failed = p.Failed
			for _, c := range failed {
				observe.Emit(c)
			}
		}
	}
	observe.Emit(event.StepFinished{Step: "preflight", Title: "Checking the cluster and what would change", Outcome: outcome, Message: "install nops/nops-kubernetes-agent: 2 to create", Duration: 1200 * time.Millisecond})
	p := &install.Plan{
		Operation: "install", Target: e.target(r), NoOp: e.noOp, Digest: "sha256:00", CredentialKeys: []string{"AMP_SECRET_KEY", "API_KEY"},
		Changes: []install.Change{
			{Action: install.Create, Object: "Deployment nops/nops-heartbeat", Component: "heartbeat"},
			{Action: install.Create, Object: "Secret nops/nops-agent-credentials", Note: "AMP_SECRET_KEY, API_KEY"},
		},
		ValueChanges: []install.ValueChange{{Path: "containerInsights.ampID", New: "ws-4242"}},
		Images:       []install.PlannedImage{{Component: "heartbeat", Reference: "public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0", Digest: "sha256:0123456789abcdef"}},
		Checks:       failed,
	}
	if e.keptByCustomer {
		p.CredentialKeys = nil
	}
	return p, e.planErr
}

func (e *fakeEngine) Toggle(_ context.Context, t install.ToggleRequest) (*install.Plan, error) {
	e.toggles = append(e.toggles, t)
	if e.planErr != nil {
		return nil, e.planErr
	}
	return &install.Plan{
		Operation: "disable", Target: event.Target{ClusterARN: demoARN, Namespace: "nops", Release: "nops-kubernetes-agent", FromVersion: "0.1.0", ToVersion: "0.1.0"}, Revision: 1, NoOp: e.noOp,
		Consequence: install.Consequence(t.Component, t.Enabled),
		Changes:     []install.Change{{Action: install.Delete, Object: "Deployment nops/nops-vmagent", Component: "vmagent"}}, Checks: []event.Check{},
	}, nil
}

func (e *fakeEngine) Apply(ctx context.Context, p *install.Plan) (*install.Result, error) {
	e.applied++
	observe := e.options.Observe
	observe.Emit(event.OperationStarted{Operation: p.Operation, Target: p.Target})
	r := &install.Result{Operation: p.Operation, Outcome: event.OK, Message: "release nops-kubernetes-agent revision 1 is ready", Revision: 1, Components: healthy().Components[1].Workloads}
	if p.NoOp {
		r.Outcome, r.Message = event.Unchanged, "release nops-kubernetes-agent revision 1 is as wanted and healthy"
	}
	if e.leak != "" {
		observe.Emit(event.Evidence{Object: "Pod nops/nops-heartbeat-1", Source: "log", Text: "key=" + e.leak})
		observe.Emit(event.Warning{Message: "odd: " + e.leak})
	}
	observe.Emit(event.Component{Component: "heartbeat", Object: "Deployment nops/nops-heartbeat", State: "progressing", Reason: "ContainerCreating", Desired: 1})
	if e.beforeApply != nil {
		if err := e.beforeApply(ctx); err != nil {
			return r, err
		}
	}
	if e.applyErr != nil {
		r.Outcome, r.Message = event.Failed, e.applyErr.Error()
		observe.Emit(event.OperationFinished{Operation: p.Operation, Outcome: event.Failed, Message: r.Message})
		return r, e.applyErr
	}
	observe.Emit(event.Component{Component: "heartbeat", Object: "Deployment nops/nops-heartbeat", State: "ready", Ready: 1, Desired: 1})
	observe.Emit(event.OperationFinished{Operation: p.Operation, Outcome: r.Outcome, Message: r.Message, Revision: 1, Duration: 12 * time.Second})
	return r, nil
}

func (e *fakeEngine) Uninstall(_ context.Context, r install.UninstallRequest) (*install.Result, error) {
	e.uninstalls = append(e.uninstalls, r)
	e.options.Observe.Emit(event.OperationStarted{Operation: "uninstall", Target: event.Target{ClusterARN: demoARN, FromVersion: "0.1.0"}})
	if e.uninstallErr != nil {
		e.options.Observe.Emit(event.OperationFinished{Operation: "uninstall", Outcome: event.Failed, Message: e.uninstallErr.Error()})
		return &install.Result{Operation: "uninstall", Outcome: event.Failed, Message: e.uninstallErr.Error(), Revision: 1}, e.uninstallErr
	}
	e.options.Observe.Emit(event.OperationFinished{Operation: "uninstall", Outcome: event.OK, Message: "release nops-kubernetes-agent and what belongs to it are gone", Duration: 3 * time.Second})
	return &install.Result{Operation: "uninstall", Outcome: event.OK, Message: "gone"}, nil
}

func (e *fakeEngine) Status(context.Context) (*install.Status, error) {
	if e.status == nil {
		return healthy(), e.statusErr
	}
	return e.status, e.statusErr
}

func (e *fakeEngine) Credentials(context.Context) (map[string][]byte, error) {
	return e.credentials, e.credentialsErr
}

func (e *fakeEngine) LiveImages(context.Context) (*install.LiveImages, error) {
	return e.live, e.statusErr
}

func (e *fakeEngine) ComponentObjects(context.Context, install.ComponentRequest) (*install.ComponentObjects, error) {
	return nil, &install.NotInstalledError{Release: e.options.Release, Namespace: e.options.Namespace}
}

func (e *fakeEngine) Definitions(context.Context) ([]install.Definition, error) {
	return e.definitions, nil
}

func healthy() *install.Status {
	since := time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC)
	up := func(kind, name, version string) workload.Summary {
		return workload.Summary{
			Kind: kind, Namespace: "nops", Name: "nops-" + name, Component: name, State: workload.Ready, Desired: 1, Ready: 1, Version: version, Since: since,
			Images: []workload.Image{{Container: name, Reference: "public.ecr.aws/nops/" + name + ":" + version, Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}},
		}
	}
	return &install.Status{
		SchemaVersion: 1, Health: install.Healthy, Context: "demo", Server: "https://127.0.0.1:6443", ClusterARN: demoARN, Namespace: "nops",
		Release: &install.ReleaseStatus{Name: "nops-kubernetes-agent", Namespace: "nops", Revision: 3, Status: "deployed", Description: "Upgrade complete", Chart: "kubernetes-agent", ChartVersion: "0.1.0", AppVersion: "0.1.0", Updated: since},
		Pinned: []install.PinnedImage{{
			Reference: "public.ecr.aws/nops/heartbeat:0.1.0", Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Basis: "policy", Method: "aws-signer",
			Identity: "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops/AbCdEf1234", SignedAt: since,
		}},
		Components: []install.ComponentStatus{
			{Name: "containerInsights", State: "ready", Enabled: true, Available: true, Workloads: []workload.Summary{
				up("Deployment", "vmagent", "v1.130.0"), up("DaemonSet", "node-exporter", "v1.12.1"), up("Deployment", "kube-state-metrics", "v2.18.0"),
			}},
			{Name: "heartbeat", State: "ready", Enabled: true, Available: true, Workloads: []workload.Summary{up("Deployment", "heartbeat", "0.1.0")}},
			{Name: "karpenops", State: install.ComponentUnavailable, Message: "not yet part of this release"},
			{Name: "dataFetcher", State: install.ComponentUnavailable, Enabled: true, Message: "not yet part of this release"},
		},
	}
}

// fakeProber does what the probe in the cluster does, as far as the platform sees it.
type fakeProber struct {
	world  *world
	result *connectivity.ProbeResult
	err    error
	calls  int
}

func (p *fakeProber) Probe(ctx context.Context, r connectivity.ProbeRequest) (connectivity.ProbeResult, error) {
	p.calls++
	if p.err != nil {
		return connectivity.ProbeResult{}, p.err
	}
	result := good()
	if p.result != nil {
		result = *p.result
	}
	if r.TestID != "" {
		c, err := nopsclient.New(nopsclient.Options{Host: p.world.server.URL, Key: personKey})
		if err != nil {
			return result, err
		}
		_, err = c.Observe(ctx, demoARN, r.TestID, r.Nonce, "cluster")
		result.Report.Observation = &probe.Observation{Posted: err == nil}
	}
	return result, nil
}

func stagesOf(names ...string) []probe.StageResult {
	var s []probe.StageResult
	for _, n := range names {
		s = append(s, probe.StageResult{Stage: n, Outcome: probe.OK})
	}
	return s
}

func good() connectivity.ProbeResult {
	return connectivity.ProbeResult{Insights: true, Report: probe.Report{
		SchemaVersion: 1, AgentVersion: "0.1.0",
		Results: []probe.Result{
			{Target: probe.TargetNOps, Host: "app.nops.io:443", Stages: stagesOf("dns", "tcp", "tls", "http", "auth"), Status: 200, ServerDate: time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC)},
			{Target: probe.TargetAMP, Host: "aps-workspaces.us-east-1.amazonaws.com:443", Stages: stagesOf("dns", "tcp", "tls", "http"), Status: 403},
		},
		Vmagent: &probe.Delivery{State: probe.Delivering, Detail: "the metrics store accepts samples", RequestsByStatus: map[string]uint64{"2xx": 5}, TargetsUp: 6, TargetsTotal: 6},
	}}
}

// beat makes the platform see a heartbeat.
func (w *world) beat() {
	w.t.Helper()
	c, err := nopsclient.New(nopsclient.Options{Host: w.server.URL, Key: personKey})
	must(w.t, err)
	_, err = c.RegisterCluster(w.t.Context(), demoARN)
	must(w.t, err)
	key, err := c.CreateAgentKey(w.t.Context(), demoARN)
	must(w.t, err)
	agent, err := nopsclient.New(nopsclient.Options{Host: w.server.URL, Key: key.Key})
	must(w.t, err)
	_, err = agent.SendHeartbeat(w.t.Context(), demoARN, nopsapi.Heartbeat{SchemaVersion: 1, BootID: w.clock.Now().String(), Seq: 1, ObservedAt: w.clock.Now(), SentAt: w.clock.Now(), Full: true, Agent: nopsapi.AgentInfo{Name: "heartbeat", Version: "0.1.0"}})
	must(w.t, err)
	w.engine.credentials = map[string][]byte{install.KeyAPI: []byte(key.Key), install.KeyAMPSecret: []byte(ampSecret)}
}

// keyFile writes a file that holds a key.
func (w *world) keyFile(key string) string {
	w.t.Helper()
	name := filepath.Join(w.t.TempDir(), "key")
	must(w.t, os.WriteFile(name, []byte(key+"\n"), 0o600))
	return name
}
