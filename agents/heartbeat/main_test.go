package heartbeat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// The API server's test binary keeps its client's connections.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"), goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"),
	)
}

// call runs the program and returns its exit code and what it wrote. The key is a canary: it must not be in there.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut agenttest.Buffer
	getenv := func(k string) string {
		if k == agent.EnvAPIKey && env[k] == "" {
			return agenttest.APIKey
		}
		return env[k]
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = Program().Main(ctx, agent.Process{
		Args: args, Getenv: getenv, Stdout: &out, Stderr: &errOut, Version: "1.2.3",
		KubeConfig: func() (*rest.Config, error) { return nil, errors.New("not in a pod; by the way " + agenttest.APIKey) },
	})
	if all := out.String() + errOut.String(); strings.Contains(all, agenttest.APIKey) {
		t.Errorf("%v writes the API key:\n%s", args, all)
	}
	return code, out.String(), errOut.String()
}

func TestProgram(t *testing.T) {
	good := map[string]string{agent.EnvClusterARN: agenttest.ClusterARN, agent.EnvNamespace: "nops", "GOGC": "100", "GOMEMLIMIT": "1GiB"}
	for _, tc := range []struct {
		name, reason   string
		env            map[string]string
		args           []string
		code           int
		stdout, stderr string
	}{
		{name: "version", reason: "one line on stdout", args: []string{"version"}, stdout: "1.2.3\n"},
		{name: "help", reason: "an answer, not a mistake", args: []string{"--help"}, stdout: "k8s-heartbeat-agent reports"},
		{name: "help of a command", reason: "flags", args: []string{"run", "--help"}, stderr: "--vmagent-url"},
		{name: "nothing", reason: "usage", code: 2, stderr: `"" is no command`},
		{name: "unknown", reason: "usage", args: []string{"walk"}, code: 2, stderr: `"walk" is no command`},
		{name: "unknown flag", reason: "usage", args: []string{"run", "--api-key", agenttest.APIKey}, code: 2, stderr: "unknown flag: --api-key"},
		{name: "unexpected argument", reason: "usage", env: good, args: []string{"run", agenttest.APIKey}, code: 2, stderr: `unexpected argument "REDACTED"`},
		{name: "no options", reason: "all that is missing at once", args: []string{"run"}, code: 2, stderr: "--cluster-arn (NOPS_CLUSTER_ARN)"},
		{name: "no API server", reason: "a failure, not a mistake", env: good, args: []string{"run", "--listen-address", "127.0.0.1:0"}, code: 1, stderr: "finding the Kubernetes API: not in a pod; by the way REDACTED"},
		{name: "no bundle", reason: "a named file that is not there is no default", env: good, args: []string{"probe", "--ca-bundle", "/nowhere/ca.crt"}, code: 1, stderr: "--ca-bundle (NOPS_CA_BUNDLE): open /nowhere/ca.crt"},
		{name: "half a nonce", reason: "usage", env: good, args: []string{"probe", "--nonce", "n"}, code: 2, stderr: "--nonce and --test-id go together"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := call(t, tc.env, tc.args...)
			if code != tc.code || !strings.HasPrefix(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("%s: exit %d\nstdout: %s\nstderr: %s", tc.reason, code, stdout, stderr)
			}
		})
	}
}

// TestFlagsAndEnvironment pins the names that the chart renders.
func TestFlagsAndEnvironment(t *testing.T) {
	var o ProbeOptions
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	var asked []string
	o.BindFlags(fs, func(k string) string { asked = append(asked, k); return "" })
	var flags []string
	fs.VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	if diff := cmp.Diff([]string{"amp-url", "ca-bundle", "chart-version", "cluster-arn", "host", "listen-address", "log-level", "namespace", "nonce", "release", "test-id", "vmagent-url"}, flags); diff != "" {
		t.Errorf("flags: -want +got\n%s", diff)
	}
	want := []string{"NOPS_API_KEY", "NOPS_HOST", "NOPS_CLUSTER_ARN", "POD_NAMESPACE", "NOPS_LOG_LEVEL", "NOPS_LISTEN_ADDRESS", "NOPS_CA_BUNDLE", "NOPS_RELEASE", "NOPS_CHART_VERSION", "NOPS_VMAGENT_URL", "NOPS_AMP_URL"}
	if diff := cmp.Diff(want, o.Environment()); diff != "" {
		t.Errorf("environment: -want +got\n%s", diff)
	}
	read := map[string]bool{}
	for _, k := range asked {
		read[k] = true
	}
	for _, k := range want {
		if !read[k] {
			t.Errorf("%s is named but not read", k)
		}
	}
	if len(read) != len(want) {
		t.Errorf("read %v", read)
	}
}

// vmagentFake counts up the requests with one status.
func vmagentFake(t *testing.T, status string) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vmagent_remotewrite_requests_total{status_code=%q} %d\nvmagent_remotewrite_pending_data_bytes 7\nvm_promscrape_targets{status=\"up\"} 3\nvm_promscrape_targets{status=\"down\"} 1\n", status, n.Add(1))
	}))
	t.Cleanup(s.Close)
	return s
}

func stagesOf(r probe.Result) string {
	var all []string
	for _, s := range r.Stages {
		all = append(all, s.Stage+" "+s.Outcome)
	}
	return strings.Join(all, ", ")
}

func TestProbe(t *testing.T) {
	p := agenttest.NewPlatform(t, 60)
	nops := httptest.NewServer(p)
	t.Cleanup(nops.Close)
	amp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(amp.Close)
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") }))
	t.Cleanup(portal.Close)
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, r.Header)
	}))
	t.Cleanup(echo.Close)

	started := p.Call(t.Context(), http.MethodPost, nopsapi.PathTests(agenttest.ClusterARN), "{}")
	var test nopsapi.ConnectivityTest
	if err := json.Unmarshal(started.Body.Bytes(), &test); err != nil || test.Nonce == "" {
		t.Fatalf("starting a test: HTTP %d %s", started.Code, started.Body)
	}
	base := func(args ...string) []string {
		return append([]string{"probe", "--cluster-arn", agenttest.ClusterARN, "--namespace", "nops"}, args...)
	}
	const all = "dns skipped, tcp ok, tls skipped, http ok"
	for _, tc := range []struct {
		name, reason string
		env          map[string]string
		args         []string
		check        func(*testing.T, probe.Report)
	}{
		{
			name: "all well", reason: "every part of the report", args: base("--host", nops.URL, "--amp-url", amp.URL, "--vmagent-url", vmagentFake(t, "2XX").URL, "--nonce", test.Nonce, "--test-id", test.ID),
			check: func(t *testing.T, r probe.Report) {
				n, _ := r.Result(probe.TargetNOps)
				a, _ := r.Result(probe.TargetAMP)
				if got := stagesOf(n); got != all+", auth ok" {
					t.Errorf("nOps: %s", got)
				}
				if s, _ := n.Stage(probe.StageAuth); !strings.HasPrefix(s.Detail, "customer 4242, scope ") {
					t.Errorf("auth: %q", s.Detail)
				}
				if got := stagesOf(a); got != all || a.Status != http.StatusForbidden {
					t.Errorf("AMP: %s: an unsigned request that is refused proves the way", got)
				}
				if r.Vmagent == nil || r.Vmagent.State != probe.Delivering || r.Vmagent.TargetsUp != 3 || r.Vmagent.TargetsTotal != 4 || r.Vmagent.QueueBytes != 7 {
					t.Errorf("vmagent: %+v", r.Vmagent)
				}
				if r.Observation == nil || !r.Observation.Posted {
					t.Errorf("observation: %+v", r.Observation)
				}
				if r.SchemaVersion != 1 || r.AgentVersion != "1.2.3" || r.TestID != test.ID || r.ClusterARN != agenttest.ClusterARN {
					t.Errorf("report: %+v", r)
				}
				w := p.Call(t.Context(), http.MethodGet, nopsapi.PathTest(agenttest.ClusterARN, test.ID), "")
				var view nopsapi.ConnectivityView
				if err := json.Unmarshal(w.Body.Bytes(), &view); err != nil || len(view.NonceSeen) != 1 || view.NonceSeen[0].From != "cluster" {
					t.Errorf("the platform saw %+v", view.NonceSeen)
				}
			},
		},
		{
			name: "wrong AMP key", reason: "403 is named", args: base("--host", nops.URL, "--vmagent-url", vmagentFake(t, "403").URL),
			check: func(t *testing.T, r probe.Report) {
				if r.Vmagent.State != probe.Refused || r.Vmagent.RecentByStatus["403"] == 0 || !strings.Contains(r.Vmagent.Detail, "HTTP 403") {
					t.Errorf("vmagent: %+v", r.Vmagent)
				}
			},
		},
		{
			name: "wrong API key", reason: "auth fails, the way is fine", env: map[string]string{agent.EnvAPIKey: "4242." + strings.Repeat("0", 32)},
			args: base("--host", nops.URL, "--nonce", test.Nonce, "--test-id", test.ID),
			check: func(t *testing.T, r probe.Report) {
				n, _ := r.Result(probe.TargetNOps)
				if f, _ := n.Failure(); stagesOf(n) != all+", auth failed" || f.Code != probe.CodeUnauthorized {
					t.Errorf("nOps: %s %+v", stagesOf(n), f)
				}
				if r.Observation.Posted || !strings.Contains(r.Observation.Error, "401") {
					t.Errorf("observation: %+v", r.Observation)
				}
			},
		},
		{
			name: "captive portal", reason: "a 200 of somebody else is no success", args: base("--host", portal.URL),
			check: func(t *testing.T, r probe.Report) {
				n, _ := r.Result(probe.TargetNOps)
				if f, _ := n.Failure(); f.Stage != probe.StageAuth || !strings.Contains(f.Error, "something in between") {
					t.Errorf("nOps: %+v", n.Stages)
				}
			},
		},
		{
			name: "another platform", reason: "an endpoint that is not offered is not an error", args: base("--host", elsewhere.URL),
			check: func(t *testing.T, r probe.Report) {
				n, _ := r.Result(probe.TargetNOps)
				if !n.OK() || stagesOf(n) != all+", auth skipped" {
					t.Errorf("nOps: %+v", n.Stages)
				}
			},
		},
		{
			name: "an echo", reason: "a server that repeats the key must not leak through the report", args: base("--host", echo.URL),
			check: func(t *testing.T, r probe.Report) {
				if n, _ := r.Result(probe.TargetNOps); stagesOf(n) != "dns skipped, tcp ok, tls skipped, http failed, auth skipped" {
					t.Errorf("nOps: %s", stagesOf(n))
				}
			},
		},
		{
			name: "nothing there", reason: "unreachable things are in the report, the exit is still 0", args: base("--host", "http://127.0.0.1:1", "--amp-url", "http://127.0.0.1:1", "--vmagent-url", "http://127.0.0.1:1"),
			check: func(t *testing.T, r probe.Report) {
				for _, name := range []string{probe.TargetNOps, probe.TargetAMP} {
					res, _ := r.Result(name)
					if f, _ := res.Failure(); f.Stage != probe.StageTCP || f.Code != probe.CodeRefused {
						t.Errorf("%s: %+v", name, res.Stages)
					}
				}
				if r.Vmagent.State != probe.Unknown || r.Vmagent.Error != "asking vmagent at 127.0.0.1:1: connection refused" {
					t.Errorf("vmagent: %+v", r.Vmagent)
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr := call(t, tc.env, tc.args...)
			if code != 0 || stderr != "" {
				t.Fatalf("%s: exit %d, stderr %s", tc.reason, code, stderr)
			}
			var r probe.Report
			dec := json.NewDecoder(bytes.NewReader([]byte(stdout)))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&r); err != nil || dec.More() {
				t.Fatalf("not one report: %v\n%s", err, stdout)
			}
			tc.check(t, r)
		})
	}
}

// TestProbeTrustsTheBundle runs the program against a server whose certificate only the bundle vouches for.
func TestProbeTrustsTheBundle(t *testing.T) {
	p := agenttest.NewPlatform(t, 60)
	nops := httptest.NewUnstartedServer(p)
	nops.Config.ErrorLog = log.New(io.Discard, "", 0)
	nops.StartTLS()
	t.Cleanup(nops.Close)
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pemOf(nops), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ bundle, want string }{
		{"", "dns skipped, tcp ok, tls failed, http skipped, auth skipped"},
		{file, "dns skipped, tcp ok, tls ok, http ok, auth ok"},
	} {
		_, stdout, _ := call(t, map[string]string{agent.EnvCABundle: tc.bundle}, "probe", "--host", nops.URL, "--cluster-arn", agenttest.ClusterARN)
		var r probe.Report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		if got := stagesOf(r.Results[0]); got != tc.want {
			t.Errorf("bundle %q: %s, want %s", tc.bundle, got, tc.want)
		}
	}
}

func TestProbeKeyOfAnotherCluster(t *testing.T) {
	p := agenttest.NewPlatform(t, 60)
	nops := httptest.NewServer(p)
	t.Cleanup(nops.Close)
	w := p.Call(t.Context(), http.MethodPost, nopsapi.PathAgentKey(agenttest.ClusterARN), "{}")
	var key nopsapi.AgentKey
	if err := json.Unmarshal(w.Body.Bytes(), &key); err != nil || key.Key == "" {
		t.Fatalf("minting a key: HTTP %d %s", w.Code, w.Body)
	}
	other := strings.Replace(agenttest.ClusterARN, "cluster/test", "cluster/other", 1)
	r := Probe(t.Context(), ProbeOptions{Options: Options{PlatformOptions: agent.PlatformOptions{APIKey: key.Key, Host: nops.URL, ClusterARN: other}}}, ProbeDeps{})
	if f, _ := r.Results[0].Failure(); f.Code != probe.CodeForbidden || !strings.Contains(f.Error, "another cluster: "+agenttest.ClusterARN) {
		t.Errorf("got %+v", f)
	}
}

// TestOverTheWire is the agent with its own HTTP client against a server that dies and comes back at the same address.
func TestOverTheWire(t *testing.T) {
	p := agenttest.NewPlatform(t, 15)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: p, ReadHeaderTimeout: time.Second}}
	s.Start()
	r := start(t, 15, func(o *Options, d *Deps) {
		o.Host, o.VmagentURL = s.URL, vmagentFake(t, "2XX").URL
		d.Platform = clientFor(t, s.URL)
		d.Rand = nil
	})
	defer r.stop()
	received := func() int { return len(p.Beats(t).Heartbeats) }
	eventually(t, "the first beat", 10*time.Second, func() bool { return received() == 1 })
	s.CloseClientConnections()
	s.Close()
	r.cluster.set(stack("ImagePullBackOff"))
	eventually(t, "a failed attempt", 15*time.Second, func() bool { return r.agent.failures.Get() > 0 })
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Skipf("somebody took the port meanwhile: %v", err)
	}
	again := &httptest.Server{Listener: l, Config: &http.Server{Handler: p, ReadHeaderTimeout: time.Second}}
	again.Start()
	defer again.Close()
	eventually(t, "the beat of the outage", 30*time.Second, func() bool { return received() >= 2 })
	beats := p.Beats(t)
	for i, b := range beats.Heartbeats {
		if b.Seq != uint64(i+1) {
			t.Errorf("beat %d has number %d", i+1, b.Seq)
		}
	}
	if c := beats.Latest.Components; len(c) != 2 || c[1].Reason != "ImagePullBackOff" {
		t.Errorf("components %+v", c)
	}
	if s := beats.Latest.Pipeline.State; s != nopsapi.PipelineDelivering && s != nopsapi.PipelineStarting {
		t.Errorf("pipeline %s", s)
	}
}

// TestProbeIsNotFooledByFaults makes sure that a platform in trouble is told from a wrong key.
func TestProbeIsNotFooledByFaults(t *testing.T) {
	p := agenttest.NewPlatform(t, 60)
	nops := httptest.NewServer(p)
	t.Cleanup(nops.Close)
	p.Faults.Set(platform.Fault{Status: http.StatusServiceUnavailable})
	r := Probe(t.Context(), ProbeOptions{Options: Options{PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: nops.URL, ClusterARN: agenttest.ClusterARN}}}, ProbeDeps{})
	if f, _ := r.Results[0].Failure(); f.Stage != probe.StageHTTP || f.Error != "HTTP 503 Service Unavailable" {
		t.Errorf("got %+v", f)
	}
}
