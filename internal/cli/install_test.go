package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func TestInstall(t *testing.T) {
	w := newWorld(t)
	w.beforeBeat()
	w.want(CodeOK, "install", "--api-key-file", w.keyFile(personKey))
	r := w.engine.last()
	if r.ClusterARN != demoARN || !r.Wait || r.Images == nil {
		t.Errorf("request: %+v", r)
	}
	images, err := embeddedchart.Images()
	must(t, err)
	var own []string
	for _, i := range images {
		if i.Ours {
			own = append(own, path.Base(i.Repository))
		}
	}
	sort.Strings(own)
	if diff := cmp.Diff(own, r.OwnImages); diff != "" || !slices.Contains(own, "k8s-heartbeat-agent") {
		t.Errorf("images that must be ours, by the image list, in order (-want +got):\n%s", diff)
	}
	for at, want := range map[string]any{
		"containerInsights.ampID": "ws-4242", "containerInsights.ampRegion": "us-east-1", "nops.host": w.server.URL,
		"containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN": demoARN,
	} {
		if got := lookup(r.Values, at); got != want {
			t.Errorf("value %s = %v, want %v", at, got, want)
		}
	}
	if lookup(r.Values, "nops.apiKey") != nil || lookup(r.Values, "containerInsights.ampSecretKey") != nil {
		t.Error("a credential is among the values")
	}
	if got := string(r.Credentials[install.KeyAMPSecret]); got != ampSecret {
		t.Errorf("secret key: %q", got)
	}
	if got := string(r.Credentials[install.KeyAPI]); got == "" || got == personKey || got == placeholder {
		t.Errorf("the agents must get a key of their own, not the person's")
	}
	w.contains(w.out, "nops-kubernetes-agent 0.1.0 is installed in namespace nops (revision 1)", "proven", "nopsctl status")
	w.contains(w.errOut, "About to install", demoARN, "namespace  nops", "new → 0.1.0", "heartbeat", "From inside the cluster")
	golden(t, "install.stdout", w.out.String())
	golden(t, "install.stderr", w.stable(w.errOut.String()))
}

// beforeBeat makes the heartbeat arrive while the engine applies.
func (w *world) beforeBeat() {
	w.engine.beforeApply = func(context.Context) error {
		w.clock.mu.Lock()
		w.clock.now = w.clock.now.Add(10 * time.Second)
		w.clock.mu.Unlock()
		w.beat()
		w.samples.at = w.clock.Now()
		return nil
	}
}

// stable replaces what differs from run to run.
func (w *world) stable(s string) string {
	s = strings.ReplaceAll(s, w.server.URL, "https://app.nops.io")
	s = strings.ReplaceAll(s, strings.TrimPrefix(w.server.URL, "http://"), "app.nops.io:443")
	return randomID.ReplaceAllString(s, "$1-ID")
}

func TestInstallReusesTheAgentsKey(t *testing.T) {
	w := newWorld(t)
	w.beat()
	have := string(w.engine.credentials[install.KeyAPI])
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity")
	if got := string(w.engine.last().Credentials[install.KeyAPI]); got != have {
		t.Error("a good key was replaced: pods restart for nothing, and keys pile up")
	}
	w.engine.credentials[install.KeyAPI] = []byte(wrongKey)
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity")
	if got := string(w.engine.last().Credentials[install.KeyAPI]); got == wrongKey || got == personKey || got == placeholder {
		t.Error("a key that is not valid was kept")
	}
}

// TestNoKeyIsMadeForNothing: refused by preflight or by the person, nothing is left on the platform that could be used.
func TestNoKeyIsMadeForNothing(t *testing.T) {
	keys := func(w *world) int {
		c, err := nopsclient.New(nopsclient.Options{Host: w.server.URL, Key: personKey})
		must(t, err)
		list, err := c.ListAPIKeys(t.Context())
		must(t, err)
		return len(list.APIKeys)
	}
	w := newWorld(t)
	before := keys(w)
	w.engine.planErr = &install.PreflightError{}
	w.want(CodeCheckFailed, "install", "--api-key", personKey)
	w.engine.planErr = nil
	w.tty, w.in = true, "n\n"
	w.want(CodeCancelled, "install", "--api-key", personKey)
	w.want(CodeOK, "install", "--api-key", personKey, "--dry-run")
	if after := keys(w); after != before {
		t.Errorf("%d keys were made", after-before)
	}
	w.engine.keptByCustomer = true // the values of the release name their Secrets, or External Secrets
	w.want(CodeOK, "install", "--api-key", personKey, "--yes", "--skip-connectivity")
	if after := keys(w); after != before {
		t.Errorf("%d keys were made that no agent uses", after-before)
	}
	w.engine.keptByCustomer = false
	w.want(CodeOK, "install", "--api-key", personKey, "--yes", "--skip-connectivity")
	if after := keys(w); after != before+1 {
		t.Errorf("%d keys were made, want one", after-before)
	}
	if strings.Count(w.errOut.String(), "Checking the cluster and what would change") != 1 {
		t.Errorf("the second plan is told:\n%s", w.errOut)
	}
}

func TestInstallRefuses(t *testing.T) {
	timeout := &install.TimeoutError{After: 45 * time.Second, Waiting: []workload.Summary{{Kind: "Deployment", Namespace: "nops", Name: "nops-vmagent", Reason: "ImagePullBackOff", Desired: 1}}}
	for _, tt := range []struct {
		name, reason string
		arrange      func(*world)
		args         []string
		code         Code
		stderr       []string
		applied      int
	}{
		{name: "wrong key", reason: "exit 4, said in words, nothing written", args: []string{"--api-key", wrongKey}, code: CodeAuth, stderr: []string{"API key from --api-key is not accepted", "Settings → API Key", "HTTP 401"}},
		{name: "misshapen key", reason: "never sent anywhere", args: []string{"--api-key", "hello-world-secret"}, code: CodeAuth, stderr: []string{"unexpected form"}},
		{name: "no key", reason: "nobody to ask", code: CodeAuth, stderr: []string{"no API key was given", "--api-key-file"}},
		{name: "two keys", reason: "which one is meant?", args: []string{"--api-key", personKey, "--api-key-stdin"}, code: CodeUsage, stderr: []string{"exclude each other"}},
		{name: "no such key file", reason: "named", args: []string{"--api-key-file", "/nonexistent/key"}, code: CodeUsage, stderr: []string{"--api-key-file", "/nonexistent/key"}},
		{name: "platform down", reason: "exit 3, host named, nothing written", args: []string{"--api-key", personKey}, arrange: func(w *world) { w.server.Close() }, code: CodeCheckFailed, stderr: []string{"127.0.0.1", "HTTPS_PROXY"}},
		{name: "platform in trouble", reason: "500s are not the user's mistake", args: []string{"--api-key", personKey}, arrange: func(w *world) { w.platform.Faults.Set(platform.Fault{Status: 503}) }, code: CodeCheckFailed, stderr: []string{"503"}},
		{name: "no ARN", reason: "a guess would mix clusters up", args: []string{"--api-key", personKey}, arrange: func(w *world) { w.config = eksConfig("kind", "https://127.0.0.1:1") }, code: CodeUsage, stderr: []string{"--cluster-arn"}},
		{name: "other ARN", reason: "command of cluster A, context of cluster B", args: []string{"--api-key", personKey, "--cluster-arn", strings.Replace(demoARN, "demo", "other", 1)}, code: CodeUsage, stderr: []string{"--context"}},
		{name: "bad ARN", reason: "found before anything is asked", args: []string{"--api-key", personKey, "--cluster-arn", "demo"}, code: CodeUsage, stderr: []string{"--cluster-arn"}},
		{name: "no context", reason: "the contexts there are are named", args: []string{"--api-key", personKey, "--context", "prod"}, code: CodeUsage, stderr: []string{"demo"}},
		{name: "bad mirror", reason: "found before anything is asked", args: []string{"--registry-mirror", "nonsense"}, code: CodeUsage, stderr: []string{"REGISTRY=MIRROR"}},
		{name: "bad output", reason: "formats are listed", args: []string{"-o", "xml"}, code: CodeUsage, stderr: []string{"text, json, jsonl"}},
		{name: "bad --set", reason: "without repeating it", args: []string{"--set", "nops.apiKey[=" + personKey}, code: CodeUsage, stderr: []string{"--set nops.apiKey[=…"}},
		{name: "preflight", reason: "each failed check is shown, once", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.engine.planErr = &install.PreflightError{Failed: []event.Check{{ID: "NOPS-PRE-007", Title: "Images", Outcome: event.Failed, Message: "x/y:1: registry x has no such image", Hint: "--registry-mirror"}}}
		}, code: CodeCheckFailed, stderr: []string{"NOPS-PRE-007", "has no such image", "preflight failed (NOPS-PRE-007): nothing was changed", "--registry-mirror"}},
		{name: "unknown value", reason: "helm would ignore it", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.engine.planErr = &install.UnknownValuesError{Values: []install.UnknownValue{{Path: "autoUpater.enabled", Suggestion: "autoUpdater.enabled"}}}
		}, code: CodeUsage, stderr: []string{`did you mean "autoUpdater.enabled"`}},
		{name: "managed elsewhere", reason: "exit 8", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.engine.planErr = &install.ManagedElsewhereError{Object: "release x", Owner: install.Owner{Tool: install.ToolArgoCD, Name: "nops"}}
		}, code: CodeManagedElsewhere, stderr: []string{"Argo CD"}},
		{name: "timed out", reason: "what was waited for is named", args: []string{"--api-key", personKey}, arrange: func(w *world) { w.engine.applyErr = timeout }, code: CodeTimedOut, stderr: []string{"nops-vmagent", "ImagePullBackOff"}, applied: 1},
		{name: "data does not flow", reason: "the release stays, exit 3", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.beforeBeat()
			r := good()
			r.Report.Vmagent = &probe.Delivery{State: probe.Refused, Detail: "the metrics store refuses the credentials: HTTP 403", RequestsByStatus: map[string]uint64{"403": 3}, QueueBytes: 2048, TargetsUp: 6, TargetsTotal: 6}
			w.prober.result = &r
		}, code: CodeCheckFailed, stderr: []string{"the stack is installed, but data does not flow yet", "NOPS-NET-035", "stage auth", "403", "--amp-secret-key-file"}, applied: 1},
		{name: "probe cannot run", reason: "why is told", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.beforeBeat()
			w.prober.err = &connectivity.ProbeError{Reason: "Pod nops/x did not start within 60s: Unschedulable: 0/1 nodes"}
		}, code: CodeCheckFailed, stderr: []string{"NOPS-NET-020", "Unschedulable"}, applied: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			w.want(tt.code, append([]string{"install"}, tt.args...)...)
			if w.engine.applied != tt.applied {
				t.Errorf("applied %d times, want %d: %s", w.engine.applied, tt.applied, tt.reason)
			}
			w.contains(w.errOut, tt.stderr...)
			if w.out.String() != "" {
				t.Errorf("answers are for commands that worked:\n%s", w.out)
			}
			if all := w.out.String() + w.errOut.String(); strings.Contains(all, personKey) || strings.Contains(all, wrongKey) || strings.Contains(all, "hello-world-secret") {
				t.Errorf("a key was shown:\n%s", all)
			}
		})
	}
}

func TestInstallAsks(t *testing.T) {
	for _, tt := range []struct {
		name, reason, in string
		args             []string
		code             Code
		applied          int
	}{
		{name: "no", reason: "nothing is changed", in: "n\n", code: CodeCancelled},
		{name: "nothing", reason: "the default is no", in: "\n", code: CodeCancelled},
		{name: "end of input", reason: "silence is no", in: "", code: CodeCancelled},
		{name: "nonsense, then yes", reason: "asked again", in: "maybe\nyes\n", code: CodeOK, applied: 1},
		{name: "--yes", reason: "not asked", args: []string{"--yes"}, code: CodeOK, applied: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.tty, w.in = true, tt.in
			w.env[EnvAPIKey] = personKey
			w.want(tt.code, append([]string{"install", "--skip-connectivity"}, tt.args...)...)
			if w.engine.applied != tt.applied {
				t.Errorf("applied %d times: %s", w.engine.applied, tt.reason)
			}
			if asked := strings.Contains(w.errOut.String(), "Proceed?"); asked == (len(tt.args) > 0) {
				t.Errorf("asked: %v: %s", asked, tt.reason)
			}
		})
	}
}

func TestInstallAsksForTheKey(t *testing.T) {
	w := newWorld(t)
	w.tty, w.in = true, personKey+"\ny\n"
	w.want(CodeOK, "install", "--skip-connectivity")
	w.contains(w.errOut, "not shown")
	if strings.Contains(w.errOut.String(), personKey) {
		t.Error("the key was echoed")
	}
}

// TestInstallTakesTheKeyFromValues: published commands give it there, those of 2024 elsewhere.
func TestInstallTakesTheKeyFromValues(t *testing.T) {
	for _, path := range []string{"nops.apiKey", "karpenops.apiKey"} {
		w := newWorld(t)
		w.want(CodeOK, "install", "--set", path+"="+personKey, "--skip-connectivity")
		w.want(CodeAuth, "install", "--set", path+"="+wrongKey, "--skip-connectivity")
		w.contains(w.errOut, "the API key from value "+path+" is not accepted")
	}
}

func TestInstallTakesTheKeyFromStdin(t *testing.T) {
	w := newWorld(t)
	w.in = personKey + "\n"
	w.want(CodeOK, "install", "--api-key-stdin", "--skip-connectivity")
}

func TestInstallOnAPlatformWithoutTheContract(t *testing.T) {
	w := newWorld(t)
	public := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/svc/k8s_agent") {
			http.NotFound(rw, r)
			return
		}
		w.platform.ServeHTTP(rw, r)
	}))
	t.Cleanup(public.Close)
	w.env[EnvHost] = public.URL
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte(ampSecret), 0o600))
	w.engine.planErr = &install.Error{Class: install.ClassUsage, Reason: "render chart kubernetes-agent: the workspace is missing"}
	w.want(CodeUsage, "install", "--api-key", personKey, "--skip-connectivity")
	w.contains(w.errOut, "NOPS-CLI-001", "--amp-id")

	w.engine.planErr = nil
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity", "--amp-id", "ws-mine", "--amp-region", "eu-west-1", "--amp-access-key", "AKIAMINE", "--amp-secret-key-file", secret, "--cluster-id", "D/M7Yj")
	r := w.engine.last()
	if lookup(r.Values, "containerInsights.ampID") != "ws-mine" || lookup(r.Values, "karpenops.clusterId") != "D/M7Yj" {
		t.Errorf("values: %v", r.Values)
	}
	if string(r.Credentials[install.KeyAPI]) != personKey || string(r.Credentials[install.KeyAMPSecret]) != ampSecret {
		t.Error("credentials: the agents use the given key, and the given secret")
	}
}

func TestInstallValues(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "values.yaml")
	must(t, os.WriteFile(file, []byte("heartbeat:\n  labels: {team: sre}\ncontainerInsights:\n  ampID: ws-file\n"), 0o600))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600))
	w.want(CodeUsage, "install", "--api-key", personKey, "--ca-bundle", file)
	w.contains(w.errOut, "no PEM certificate")
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity", "-f", file, "--set", "containerInsights.ampRegion=eu-west-1,heartbeat.enabled=true",
		"--set-json", `prometheus.nodeExporter.resources={"limits":{"memory":"1Gi"}}`, "--set-string", "heartbeat.image.tag=1", "--registry-mirror", "public.ecr.aws=mirror.example/public")
	values := w.engine.last().Values
	for path, want := range map[string]any{
		"containerInsights.ampID": "ws-file", "containerInsights.ampRegion": "eu-west-1", "heartbeat.enabled": true, "heartbeat.image.tag": "1",
		"heartbeat.labels.team": "sre", "prometheus.nodeExporter.resources.limits.memory": "1Gi", "nops.global.imageRegistry": "mirror.example/public",
	} {
		if got := lookup(values, path); got != want {
			t.Errorf("%s = %v (%T), want %v", path, got, got, want)
		}
	}
}

func TestInstallWithTheCustomersSecrets(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity", "--set", "customerManagedSecrets.enabled=true,customerManagedSecrets.apiSecretName=mine,customerManagedSecrets.apiSecretKey=k")
	if c := w.engine.last().Credentials; c != nil {
		t.Errorf("credentials were given although the customer keeps them: %d", len(c))
	}
}

func TestInstallDryRun(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "install", "--api-key", personKey, "--dry-run")
	if w.engine.applied != 0 {
		t.Error("a dry run applied")
	}
	golden(t, "install-dry-run.stdout", w.stable(w.out.String()))
	w.want(CodeOK, "install", "--api-key", personKey, "--dry-run", "-o", "json")
	golden(t, "install-dry-run.json", w.stable(w.out.String()))
}

func TestInstallFormats(t *testing.T) {
	w := newWorld(t)
	w.beforeBeat()
	w.want(CodeOK, "install", "--api-key", personKey, "-o", "json")
	var answer struct {
		SchemaVersion int `json:"schema_version"`
		Result        struct{ Outcome string }
		Connectivity  struct{ Outcome string }
	}
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	if answer.SchemaVersion != 1 || answer.Result.Outcome != "ok" || answer.Connectivity.Outcome != "warning" {
		t.Errorf("%+v\n%s", answer, w.out)
	}
	w.want(CodeOK, "install", "--api-key", personKey, "-o", "jsonl")
	lines := strings.Split(strings.TrimSpace(w.out.String()), "\n")
	for _, l := range lines {
		var e struct{ Event string }
		if err := json.Unmarshal([]byte(l), &e); err != nil || e.Event == "" {
			t.Errorf("not an event: %s", l)
		}
	}
	if len(lines) < 20 || strings.Contains(w.errOut.String(), "From here") {
		t.Errorf("%d lines; stderr:\n%s", len(lines), w.errOut)
	}
	w.want(CodeOK, "install", "--api-key", personKey, "--quiet")
	if w.out.String() != "" {
		t.Errorf("quiet: %s", w.out)
	}
}

func TestInstallCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.engine.beforeApply = func(context.Context) error {
		cancel()
		return &install.CancelledError{While: "waiting for the workloads", State: "revision 1 of the release is failed"}
	}
	if code := w.runContext(ctx, "install", "--api-key", personKey); code != int(CodeCancelled) {
		t.Errorf("exit %d", code)
	}
	w.contains(w.errOut, "revision 1 of the release is failed", "run the same command again")
	if w.prober.calls != 0 {
		t.Error("the connectivity test ran after Ctrl-C")
	}
}

// TestCancelledBeforeTheAnswer: a call that was cancelled is not a platform without the contract.
func TestCancelledBeforeTheAnswer(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel(); time.Sleep(time.Millisecond) }))
	t.Cleanup(slow.Close)
	w.env[EnvHost] = slow.URL
	if code := w.runContext(ctx, "install", "--api-key", personKey); code != int(CodeCancelled) {
		t.Errorf("exit %d:\n%s", code, w.errOut)
	}
	if strings.Contains(w.errOut.String(), "NOPS-CLI-001") || w.engine.applied != 0 {
		t.Errorf("taken for an answer:\n%s", w.errOut)
	}
}

// TestPortal: what answers anything with a page is no platform; a key must not be installed unchecked.
func TestPortal(t *testing.T) {
	w := newWorld(t)
	portal := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<html>please log in</html>") }))
	t.Cleanup(portal.Close)
	w.env[EnvHost] = portal.URL
	w.want(CodeCheckFailed, "install", "--api-key", personKey, "--amp-id", "ws", "--amp-region", "us-east-1")
	w.contains(w.errOut, "nothing was changed", "portal")
	if len(w.engine.requests) != 0 {
		t.Error("planned with a key that nobody checked")
	}
}

func TestInstallUnchanged(t *testing.T) {
	w := newWorld(t)
	w.tty, w.engine.noOp = true, true
	w.beat()
	w.want(CodeOK, "install", "--api-key", personKey)
	if strings.Contains(w.errOut.String(), "Proceed?") {
		t.Error("asked although nothing changes")
	}
	w.contains(w.out, "is unchanged")
}

// TestExplainedErrorsKeepTheirCause: wrapping must not hide what others ask for.
func TestExplainedErrorsKeepTheirCause(t *testing.T) {
	cause := errors.New("cause")
	if !errors.Is(&failure{reason: "x", err: cause}, cause) {
		t.Error("the cause is gone")
	}
}
