package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/iostreams"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func broken() *install.Status {
	s := healthy()
	s.Health = install.Degraded
	s.Components[0].State, s.Components[0].Reason = "degraded", "ImagePullBackOff"
	s.Components[0].Message = "Deployment nops/nops-vmagent (0 of 1 ready): ImagePullBackOff: not found"
	w := &s.Components[0].Workloads[0]
	w.State, w.Ready, w.Reason, w.Message, w.Restarts, w.LastTermination = workload.Degraded, 0, "ImagePullBackOff", "public.ecr.aws/nops/victoriametrics/vmagent:v1.130.0: not found", 3, "OOMKilled (exit code 137)"
	s.Components = append(s.Components, install.ComponentStatus{Name: "datadog", State: install.ComponentDisabled, Message: "disabled by you", Available: true})
	s.Problems = []string{"components: forbidden"}
	return s
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		arrange      func(*world)
		args         []string
		code         Code
	}{
		{name: "healthy", reason: "with the key of the agents, nobody has to give one", arrange: func(w *world) { w.beat() }, code: CodeOK},
		{name: "degraded", reason: "the reason stands under the workload; exit 3 for scripts", arrange: func(w *world) { w.beat(); w.engine.status = broken() }, code: CodeCheckFailed},
		{name: "no-key", reason: "says what it does not know", code: CodeOK},
		{name: "not-installed", reason: "exit 3, and what to do", arrange: func(w *world) {
			w.engine.status = &install.Status{SchemaVersion: 1, Health: install.NotInstalled, Namespace: "nops", Components: []install.ComponentStatus{}}
		}, code: CodeCheckFailed},
		{name: "platform-down", reason: "the cluster's state is still told", arrange: func(w *world) { w.beat(); w.server.Close() }, code: CodeOK},
		{name: "failed-release", reason: "healthy pods of a failed release are not well", arrange: func(w *world) {
			s := healthy()
			s.Health, s.Release.Status, s.Release.Description = install.Degraded, "failed", "timed out waiting for Deployment nops/nops-vmagent"
			w.engine.status = s
		}, code: CodeCheckFailed},
		{name: "old-data", reason: "silence is a warning", arrange: func(w *world) {
			w.beat()
			w.clock.now = w.clock.now.Add(time.Hour)
		}, code: CodeOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			w.want(tt.code, append([]string{"status"}, tt.args...)...)
			golden(t, "status-"+tt.name+".stdout", w.stable(w.out.String()))
			w.want(tt.code, append([]string{"status", "-o", "json"}, tt.args...)...)
			if tt.name == "healthy" || tt.name == "degraded" || tt.name == "no-key" {
				golden(t, "status-"+tt.name+".json", w.stable(w.out.String()))
			}
			if !json.Valid([]byte(w.out.String())) {
				t.Errorf("not JSON:\n%s", w.out)
			}
		})
	}
}

func TestStatusInColour(t *testing.T) {
	w := newWorld(t)
	w.env["CLICOLOR_FORCE"] = "1"
	w.run("status")
	// The test's streams have no environment of their own; colour is decided by iostreams and tested there.
	if strings.Contains(w.out.String(), "\x1b[") {
		t.Error("colour without a terminal")
	}
}

func TestConnectivityCommand(t *testing.T) {
	refused := good()
	refused.Report.Vmagent = &probe.Delivery{State: probe.Refused, Detail: "the metrics store refuses the credentials: HTTP 403", RequestsByStatus: map[string]uint64{"403": 3}, QueueBytes: 2048, TargetsUp: 6, TargetsTotal: 6}
	for _, tt := range []struct {
		name, reason string
		arrange      func(*world)
		args         []string
		code         Code
		stdout       []string
	}{
		{name: "passes", reason: "three legs, one verdict", args: []string{"--api-key", personKey}, code: CodeOK, stdout: []string{"data flows"}},
		{name: "refused", reason: "leg, stage, reason, what to do", args: []string{"--api-key", personKey, "--wait", "1s"}, arrange: func(w *world) { w.prober.result = &refused; w.samples.at = time.Time{} }, code: CodeCheckFailed, stdout: []string{"auth", "403", "data flow is not proven"}},
		{name: "agents-key", reason: "reads, but starts no test: no nonce", code: CodeOK, stdout: []string{"this API key may read but not start a test"}},
		{name: "no-key", reason: "what needs the platform is skipped, with the reason", arrange: func(w *world) { w.engine.credentials = nil }, code: CodeOK, stdout: []string{"no API key was given", "not tested: as the platform sees it"}},
		{name: "no-cluster", reason: "the leg from here still tells", args: []string{"--api-key", personKey}, arrange: func(w *world) {
			w.engine.statusErr = &install.Error{Class: install.ClassPreflight, Reason: "ask the API server", Err: errors.New("connection refused")}
		}, code: CodeCheckFailed, stdout: []string{"the cluster cannot be asked", "data flow is not proven"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.beat()
			if tt.arrange != nil {
				tt.arrange(w)
			}
			w.want(tt.code, append([]string{"test-connectivity"}, tt.args...)...)
			w.contains(w.out, tt.stdout...)
			golden(t, "connectivity-"+tt.name+".stdout", w.stable(w.out.String()))
			w.want(tt.code, append([]string{"check", "-o", "json"}, tt.args...)...)
			if !json.Valid([]byte(w.out.String())) {
				t.Errorf("not JSON:\n%s", w.out)
			}
			if tt.name == "passes" || tt.name == "refused" {
				golden(t, "connectivity-"+tt.name+".json", durations.ReplaceAllString(w.stable(w.out.String()), `"duration_ns": 0`))
			}
			w.want(tt.code, append([]string{"test-connectivity", "-o", "jsonl"}, tt.args...)...)
			if strings.Contains(w.out.String()+w.errOut.String(), personKey) {
				t.Error("the key was shown")
			}
		})
	}
}

func TestToggle(t *testing.T) {
	unavailable := &install.Error{Class: install.ClassUsage, Reason: "component karpenops is not yet part of this release (chart 0.1.0)"}
	for _, tt := range []struct {
		name, reason string
		args         []string
		tty          bool
		in           string
		noOp         bool
		planErr      error
		code         Code
		stdout       []string
		stderr       []string
		applied      int
	}{
		{name: "disable without terminal", reason: "needs a yes, and says what for", args: []string{"disable", "containerInsights"}, code: CodeUsage, stderr: []string{"--yes", "no metrics are collected any more"}},
		{name: "disable with --yes", reason: "goes on", args: []string{"disable", "containerInsights", "--yes"}, code: CodeOK, stdout: []string{"containerInsights is disabled"}, stderr: []string{"no metrics are collected any more"}, applied: 1},
		{name: "disable asked, no", reason: "nothing happens", args: []string{"disable", "containerInsights"}, tty: true, in: "n\n", code: CodeCancelled, stderr: []string{"no metrics are collected any more", "not confirmed"}},
		{name: "disable asked, yes", reason: "done", args: []string{"disable", "containerInsights"}, tty: true, in: "y\n", code: CodeOK, applied: 1},
		{name: "enable without terminal", reason: "adds only: goes on", args: []string{"enable", "containerInsights"}, code: CodeOK, stdout: []string{"containerInsights is enabled"}, applied: 1},
		{name: "enabled already", reason: "says so", args: []string{"enable", "containerInsights"}, noOp: true, code: CodeOK, stdout: []string{"was enabled already"}, applied: 1},
		{name: "not available", reason: "exit 2", args: []string{"enable", "karpenops", "--yes"}, planErr: unavailable, code: CodeUsage, stderr: []string{"not yet part of this release"}},
		{name: "dry run", reason: "asks nothing, changes nothing", args: []string{"disable", "containerInsights", "--dry-run"}, code: CodeOK, stdout: []string{"delete  Deployment nops/nops-vmagent"}},
		{name: "no component", reason: "usage", args: []string{"disable"}, code: CodeUsage, stderr: []string{"needs one argument"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.tty, w.in, w.engine.noOp, w.engine.planErr = tt.tty, tt.in, tt.noOp, tt.planErr
			w.want(tt.code, tt.args...)
			w.contains(w.out, tt.stdout...)
			w.contains(w.errOut, tt.stderr...)
			if w.engine.applied != tt.applied {
				t.Errorf("applied %d times: %s", w.engine.applied, tt.reason)
			}
		})
	}
	w := newWorld(t)
	w.want(CodeOK, "disable", "heartbeat", "--force", "--yes", "-o", "json")
	if !w.engine.toggles[0].Force || w.engine.toggles[0].Enabled {
		t.Errorf("toggle: %+v", w.engine.toggles[0])
	}
	golden(t, "disable.json", w.out.String())
}

func TestUninstall(t *testing.T) {
	w := newWorld(t)
	w.want(CodeUsage, "uninstall")
	w.contains(w.errOut, "--yes", "Deployment nops/nops-vmagent", "no metrics are collected any more", "0.1.0 → removed")
	w.want(CodeOK, "uninstall", "--yes", "--keep-namespace")
	if len(w.engine.uninstalls) != 1 || !w.engine.uninstalls[0].KeepNamespace {
		t.Errorf("uninstalls: %+v", w.engine.uninstalls)
	}
	w.contains(w.errOut, "are gone")
	w.engine.definitions = []install.Definition{{Name: "rightsizingpolicies.vpa.nops.io"}, {Name: "verticalpodautoscalers.vpa.nops.io", Objects: 3}}
	w.want(CodeUsage, "uninstall")
	w.contains(w.errOut, "  - CustomResourceDefinition rightsizingpolicies.vpa.nops.io\n", "verticalpodautoscalers.vpa.nops.io (3 objects) stays: --delete-crds")
	w.want(CodeUsage, "uninstall", "--delete-crds")
	w.contains(w.errOut, "  - CustomResourceDefinition verticalpodautoscalers.vpa.nops.io (3 objects), with all its objects")
	w.want(CodeOK, "uninstall", "--yes", "--delete-crds")
	if n := len(w.engine.uninstalls); n != 2 || w.engine.uninstalls[0].DeleteCRDs || !w.engine.uninstalls[1].DeleteCRDs {
		t.Errorf("uninstalls: %+v", w.engine.uninstalls)
	}
	w.want(CodeOK, "uninstall", "--yes", "-o", "json")
	golden(t, "uninstall.json", w.out.String())

	w.tty, w.in = true, "no\n"
	w.want(CodeCancelled, "uninstall")
	w.in = "y\n"
	w.want(CodeOK, "uninstall")
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	w.config.Contexts = nil // it must not look at the cluster
	w.want(CodeOK, "version")
	golden(t, "version.stdout", w.out.String())
	w.want(CodeOK, "version", "-o", "json")
	golden(t, "version.json", w.out.String())
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		w.want(CodeOK, "completion", shell)
		w.contains(w.out, "nopsctl")
	}
	w.want(CodeUsage, "completion", "tcsh")
	w.want(CodeOK, "__complete", "disable", "")
	w.contains(w.out, "containerInsights", "no metrics are collected")
	w.want(CodeOK, "__complete", "explain", "")
	w.contains(w.out, "NOPS-NET-035", "NOPS-PRE-001", "NOPS-VAL-001")
}

func TestExplain(t *testing.T) {
	ids := map[string]bool{}
	w := newWorld(t)
	for _, e := range Explanations() {
		if ids[e.ID] || e.Title == "" || e.About == "" || e.Hint == "" {
			t.Errorf("incomplete or twice: %+v", e)
		}
		ids[e.ID] = true
		w.want(CodeOK, "explain", strings.ToLower(e.ID))
		w.contains(w.out, e.ID, e.Title)
	}
	if len(ids) < 40 {
		t.Errorf("only %d IDs", len(ids))
	}
	w.want(CodeOK, "explain", "NOPS-NET-035", "-o", "json")
	golden(t, "explain.json", w.out.String())
	w.want(CodeUsage, "explain", "NOPS-NET-999")
}

// TestHelp keeps the help of every command, which is the contract people read.
func TestHelp(t *testing.T) {
	w := newWorld(t)
	w.run("--help")
	golden(t, "help/nopsctl.txt", w.out.String())
	root := newRootCommand(w.f)
	n := 0
	for _, c := range root.Commands() {
		name := strings.Fields(c.Use)[0]
		args := []string{name, "--help"}
		if !c.Runnable() {
			args = []string{"help", name}
		}
		w.want(CodeOK, args...)
		if strings.Contains(w.out.String(), "true|false") || w.errOut.String() != "" {
			t.Errorf("%s: noise in help", name)
		}
		golden(t, "help/"+name+".txt", w.out.String())
		n++
	}
	if n < 10 {
		t.Errorf("only %d commands", n)
	}
}

type classOnly string

func (c classOnly) Error() string     { return "it is " + string(c) }
func (c classOnly) ExitClass() string { return string(c) }

// TestExitCodes holds one error of every kind against its code. The codes are a contract.
func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want Code
	}{
		{"ok", nil, 0},
		{"plain", errors.New("x"), 1},
		{"failed", classOnly("failed"), 1},
		{"an unknown class", classOnly("surprise"), 1},
		{"usage", fmt.Errorf("wrapped: %w", usage("x")), 2},
		{"values", &install.UnknownValuesError{}, 2},
		{"preflight", &install.PreflightError{}, 3},
		{"pending", &install.PendingError{}, 3},
		{"unreachable", &nopsclient.Error{Kind: nopsclient.KindUnreachable}, 3},
		{"unauthorized", &nopsclient.Error{Kind: nopsclient.KindUnauthorized}, 4},
		{"auth", classOnly("auth"), 4},
		{"changes", classOnly("changes"), 5},
		{"timeout", &install.TimeoutError{}, 6},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), 6},
		{"verification", classOnly("verification"), 7},
		{"managed elsewhere", &install.ManagedElsewhereError{}, 8},
		{"cancelled", &install.CancelledError{}, 130},
		{"cancelled underneath", fmt.Errorf("x: %w", &nopsclient.Error{Kind: nopsclient.KindUnreachable, Err: context.Canceled}), 130},
		{"not confirmed", classOnly("cancelled"), 130},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := CodeOf(tt.err); got != tt.want {
				t.Errorf("%v: code %d, want %d", tt.err, got, tt.want)
			}
		})
	}
	tested := map[Code]bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 130: true}
	for _, e := range exitCodes() {
		if !tested[e.Code] {
			t.Errorf("code %d is in no test", e.Code)
		}
	}
}

// TestErrorsAreShownOnce: one line, its advice, nothing else.
func TestErrorsAreShownOnce(t *testing.T) {
	s, out, errOut := iostreams.Test("")
	code := Exit(s, fmt.Errorf("install:\n  %w", &failure{class: "auth", reason: "the key " + personKey + " is wrong", advice: "take another"}))
	if code != 4 || out.String() != "" || errOut.String() != "Error: install: the key [REDACTED] is wrong\n  → take another\n" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errOut)
	}
}

// TestCanary sends credentials through every command and every format: they never come out. Then it plants a leak and
// takes the redactor away, to show that the search finds one.
func TestCanary(t *testing.T) {
	secrets := func(w *world) []string {
		all := []string{personKey, wrongKey, ampSecret, "hunter2-datadog-key"}
		for _, v := range w.engine.credentials {
			all = append(all, string(v))
		}
		return all
	}
	leaked := func(w *world, text string) string {
		for _, s := range secrets(w) {
			if strings.Contains(text, s) {
				return s
			}
		}
		return ""
	}
	commands := [][]string{
		{"install", "--api-key", personKey, "--set", "datadog.apiKey=hunter2-datadog-key"},
		{"install", "--api-key", personKey, "-v"},
		{"install", "--api-key", personKey, "--dry-run"},
		{"install", "--api-key", wrongKey},
		{"install", "--api-kye", personKey},
		{"install", personKey},
		{personKey},
		{"install", "--context", personKey},
		{"install", "--set", "a[" + personKey},
		{"test-connectivity", "--api-key", personKey},
		{"test-connectivity", "--api-key", wrongKey},
		{"status", "--api-key", personKey},
		{"status"},
		{"enable", "containerInsights"},
		{"enable", personKey},
		{"disable", "containerInsights", "--yes"},
		{"uninstall", "--yes"},
		{"explain", personKey},
		{"version"},
		{"completion", personKey},
		{"help", personKey},
	}
	searched := 0
	for _, args := range commands {
		for _, format := range []string{"", "json", "jsonl"} {
			w := newWorld(t)
			w.beat()
			w.engine.leak = personKey + " " + ampSecret + " " + string(w.engine.credentials[install.KeyAPI])
			w.engine.planErr = nil
			w.engine.applyErr = errors.New("apply: " + personKey + " " + ampSecret)
			w.prober.err = errors.New("probe: " + personKey)
			all := append([]string{}, args...)
			if format != "" {
				all = append(all, "-o", format)
			}
			w.run(all...)
			searched++
			if s := leaked(w, w.out.String()+w.errOut.String()); s != "" {
				t.Errorf("nopsctl %s (-o %s) shows %q:\n%s\n%s", args[0], format, s, w.out, w.errOut)
			}
		}
	}
	if searched < 60 {
		t.Errorf("only %d runs searched", searched)
	}
	// The same, around the redactor: an engine that leaks into an event must be caught by this search.
	for _, secret := range []string{personKey, ampSecret} {
		w := newWorld(t)
		w.raw, w.engine.leak = true, secret
		w.run("install", "--api-key", personKey, "--skip-connectivity")
		if leaked(w, w.out.String()+w.errOut.String()) != secret {
			t.Errorf("a planted leak is not found:\n%s", w.errOut)
		}
	}
}

// TestNoArguments shows help on stdout and is no failure; the wizard comes later.
func TestNoArguments(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK)
	w.contains(w.out, "test-connectivity")
	w.want(CodeUsage, "stauts")
	w.contains(w.errOut, "did you mean status?")
}

// TestOneIdentity: the engine and every client get the same context, user and namespace.
func TestOneIdentity(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "status", "--as", "auditor", "--namespace", "other", "--release", "mine")
	o := w.engine.options
	config, err := o.Getter.ToRESTConfig()
	must(t, err)
	if config.Impersonate.UserName != "auditor" || o.Namespace != "other" || o.Release != "mine" || o.Context != "demo" {
		t.Errorf("engine: %+v, impersonates %q", o, config.Impersonate.UserName)
	}
}
