package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nopsctl/nopsctl/internal/ui/jsonl"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// line is what a reader of the stream needs to know how a command ended.
type line struct {
	Event     string
	Operation string
	Outcome   string
	Class     string
	Message   string
	Hint      string
	Revision  int
	DryRun    bool `json:"dry_run"`
	Target    event.Target
}

// stream reads what a command wrote with -o jsonl: one opening first, one closing last, every line by the schema.
func (w *world) stream(schema *jsonschema.Schema) (opening, closing line) {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(w.out.String()), "\n")
	all := make([]line, len(lines))
	count := map[string]int{}
	for i, text := range lines {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		must(w.t, err)
		if err := schema.Validate(v); err != nil {
			w.t.Errorf("%s\n%v", text, err)
		}
		must(w.t, json.Unmarshal([]byte(text), &all[i]))
		count[all[i].Event]++
	}
	opening, closing = all[0], all[len(all)-1]
	if opening.Event != "operation-started" || closing.Event != "operation-finished" || count["operation-started"] != 1 || count["operation-finished"] != 1 {
		w.t.Errorf("a stream opens and closes once, at its ends:\n%s", w.out)
	}
	if opening.Operation != closing.Operation {
		w.t.Errorf("opened %q, closed %q", opening.Operation, closing.Operation)
	}
	return opening, closing
}

// TestFailuresAreAnswered: whatever fails, at whatever point, whoever reads JSON learns that and why: the stream is opened
// and closed, the document is written as far as the command came.
func TestFailuresAreAnswered(t *testing.T) {
	timeout := &install.TimeoutError{After: 45 * time.Second, Waiting: []workload.Summary{{Kind: "Deployment", Namespace: "nops", Name: "nops-vmagent", Reason: "ImagePullBackOff", Desired: 1}}}
	preflight := &install.PreflightError{Failed: []event.Check{{ID: "NOPS-PRE-007", Leg: "cluster", Title: "Images", Outcome: event.Failed, Message: "x/y:1: registry x has no such image", Hint: "--registry-mirror"}}}
	elsewhere := &install.ManagedElsewhereError{Object: "release x", Owner: install.Owner{Tool: install.ToolArgoCD, Name: "nops"}}
	plan := func(err error) func(*world) { return func(w *world) { w.engine.planErr = err } }
	noContext := func(w *world) { w.config.CurrentContext = "gone" }
	personsKey := []string{"--api-key", personKey}
	classes := map[string]bool{}
	for _, tt := range []struct {
		name, reason string
		command      []string
		answer       string // the schema's name; empty: that of the command
		arrange      func(*world)
		tty          bool
		code         Code
		class        string
		outcome      event.Outcome
		has          []string // fields of the document
		says         string   // in message or hint
	}{
		{name: "apply fails", reason: "the plan and what is left", command: append([]string{"install"}, personsKey...), arrange: func(w *world) { w.engine.applyErr = errors.New("the API server went away") },
			code: CodeFailed, class: "failed", outcome: event.Failed, has: []string{"plan", "result"}, says: "went away"},
		{name: "wrong key", reason: "before any engine", command: []string{"install", "--api-key", wrongKey}, code: CodeAuth, class: "auth", outcome: event.Failed, says: "not accepted"},
		{name: "no key", reason: "before the platform", command: []string{"install"}, code: CodeAuth, class: "auth", outcome: event.Failed, says: "--api-key-file"},
		{name: "bad mirror", reason: "before the cluster", command: []string{"install", "--registry-mirror", "nonsense"}, code: CodeUsage, class: "usage", outcome: event.Failed, says: "REGISTRY=MIRROR"},
		{name: "no context", reason: "before an engine is made", command: append([]string{"install"}, personsKey...), arrange: noContext, code: CodeUsage, class: "usage", outcome: event.Failed, says: "gone"},
		{name: "unknown value", reason: "planned in part", command: append([]string{"install"}, personsKey...), arrange: plan(&install.UnknownValuesError{Values: []install.UnknownValue{{Path: "heartbaet"}}}),
			code: CodeUsage, class: "usage", outcome: event.Failed, has: []string{"plan"}, says: "heartbaet"},
		{name: "preflight", reason: "the failed checks are in the plan", command: append([]string{"install"}, personsKey...), arrange: plan(preflight),
			code: CodeCheckFailed, class: "preflight", outcome: event.Failed, has: []string{"plan"}, says: "NOPS-PRE-007"},
		{name: "dry run, preflight", reason: "the same without a change", command: append([]string{"install", "--dry-run"}, personsKey...), arrange: plan(preflight),
			code: CodeCheckFailed, class: "preflight", outcome: event.Failed, has: []string{"plan", "dry_run"}, says: "NOPS-PRE-007"},
		{name: "managed elsewhere", reason: "not to be taken for another failure", command: append([]string{"install"}, personsKey...), arrange: plan(elsewhere),
			code: CodeManagedElsewhere, class: "managed-elsewhere", outcome: event.Failed, has: []string{"plan"}, says: "Argo CD"},
		{name: "refused verification", reason: "nor this one", command: append([]string{"install"}, personsKey...), arrange: plan(classOnly("verification")),
			code: CodeVerification, class: "verification", outcome: event.Failed, has: []string{"plan"}},
		{name: "timed out", reason: "what was waited for", command: append([]string{"install"}, personsKey...), arrange: func(w *world) { w.engine.applyErr = timeout },
			code: CodeTimedOut, class: "timeout", outcome: event.TimedOut, has: []string{"plan", "result"}, says: "nops-vmagent"},
		{name: "no to the question", reason: "nothing was applied", command: append([]string{"install"}, personsKey...), tty: true,
			code: CodeCancelled, class: "cancelled", outcome: event.Cancelled, has: []string{"plan"}, says: "not confirmed"},
		{name: "data does not flow", reason: "installed, and the test's report", command: append([]string{"install"}, personsKey...), arrange: func(w *world) {
			w.beforeBeat()
			r := good()
			r.Report.Vmagent = &probe.Delivery{State: probe.Refused, Detail: "HTTP 403", RequestsByStatus: map[string]uint64{"403": 3}, TargetsUp: 6, TargetsTotal: 6}
			w.prober.result = &r
		}, code: CodeCheckFailed, class: "preflight", outcome: event.Failed, has: []string{"plan", "result", "connectivity"}, says: "NOPS-NET-035"},
		{name: "enable, not available", reason: "no plan", command: []string{"enable", "karpenops"}, answer: "toggle", arrange: plan(&install.Error{Class: install.ClassUsage, Reason: "component karpenops is not yet part of this release"}),
			code: CodeUsage, class: "usage", outcome: event.Failed, says: "not yet part"},
		{name: "disable without a yes", reason: "nobody to ask", command: []string{"disable", "heartbeat"}, answer: "toggle", code: CodeUsage, class: "usage", outcome: event.Failed, says: "--yes"},
		{name: "disable, no to the question", reason: "planned", command: []string{"disable", "heartbeat"}, answer: "toggle", tty: true, code: CodeCancelled, class: "cancelled", outcome: event.Cancelled, has: []string{"plan"}},
		{name: "disable, no context", reason: "before an engine is made", command: []string{"disable", "heartbeat", "--yes"}, answer: "toggle", arrange: noContext, code: CodeUsage, class: "usage", outcome: event.Failed},
		{name: "disable fails", reason: "what is left", command: []string{"disable", "heartbeat", "--yes"}, answer: "toggle", arrange: func(w *world) { w.engine.applyErr = timeout },
			code: CodeTimedOut, class: "timeout", outcome: event.TimedOut, has: []string{"plan", "result"}},
		{name: "uninstall without a yes", reason: "nobody to ask", command: []string{"uninstall"}, code: CodeUsage, class: "usage", outcome: event.Failed, says: "--yes"},
		{name: "uninstall, no context", reason: "before an engine is made", command: []string{"uninstall", "--yes"}, arrange: noContext, code: CodeUsage, class: "usage", outcome: event.Failed},
		{name: "uninstall, managed elsewhere", reason: "what is left", command: []string{"uninstall", "--yes"}, arrange: func(w *world) { w.engine.uninstallErr = elsewhere },
			code: CodeManagedElsewhere, class: "managed-elsewhere", outcome: event.Failed, has: []string{"result"}},
		{name: "test, misshapen key", reason: "nothing was tested", command: []string{"test-connectivity", "--api-key", "hello"}, code: CodeAuth, class: "auth", outcome: event.Failed, has: []string{"legs"}, says: "unexpected form"},
		{name: "test, no context", reason: "nothing was tested", command: []string{"test-connectivity"}, arrange: noContext, code: CodeUsage, class: "usage", outcome: event.Failed, has: []string{"legs"}},
		{name: "test, not proven", reason: "the report", command: append([]string{"test-connectivity"}, personsKey...), arrange: func(w *world) { w.prober.err = errors.New("no node") },
			code: CodeCheckFailed, class: "preflight", outcome: event.Failed, has: []string{"legs"}, says: "NOPS-NET-020"},
		{name: "test, not known", reason: "unknown is neither well nor failed", command: []string{"test-connectivity", "--wait", "0s"}, arrange: func(w *world) {
			w.beat()
			r := good()
			r.Report.Vmagent = &probe.Delivery{State: probe.Unknown, TargetsTotal: 1}
			w.prober.result = &r
		}, code: CodeCheckFailed, class: "preflight", outcome: event.Unknown, has: []string{"legs"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			classes[tt.class] = true
			w := newWorld(t)
			start := func() {
				w.engine.clock, w.tty = w.clock, tt.tty
				if tt.tty {
					w.in = "n\n"
				}
				if tt.arrange != nil {
					tt.arrange(w)
				}
			}
			start()
			w.want(tt.code, append(tt.command, "-o", "jsonl")...)
			opening, closing := w.stream(compiled(t, jsonl.Schema()))
			if opening.Operation != tt.command[0] || opening.Target.Namespace != "nops" || opening.Target.Release != "nops-kubernetes-agent" {
				t.Errorf("opened as %+v", opening)
			}
			if closing.Class != tt.class || closing.Outcome != string(tt.outcome) || !strings.Contains(closing.Message+" "+closing.Hint, tt.says) || closing.Message == "" {
				t.Errorf("closed as %+v, want class %s, outcome %s, %q: %s", closing, tt.class, tt.outcome, tt.says, tt.reason)
			}

			w = newWorld(t)
			start()
			w.want(tt.code, append(tt.command, "-o", "json")...)
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(w.out.String()))
			if err != nil {
				t.Fatalf("no document: %v\n%s", err, w.out)
			}
			name := tt.answer
			if name == "" {
				name = tt.command[0]
			}
			if err := answerSchema(t, name).Validate(v); err != nil {
				t.Errorf("%s\n%v", w.out, err)
			}
			var document struct{ Error answerError }
			must(t, json.Unmarshal([]byte(w.out.String()), &document))
			if e := document.Error; e.Class != tt.class || e.ExitCode != int(tt.code) || !strings.Contains(e.Message+" "+e.Hint, tt.says) || e.Message == "" {
				t.Errorf("error %+v, want class %s, exit code %d, %q", e, tt.class, tt.code, tt.says)
			}
			fields, _ := v.(map[string]any)
			for _, field := range tt.has {
				if fields[field] == nil {
					t.Errorf("no %s: %s\n%s", field, tt.reason, w.out)
				}
			}
			if errors.Is(w.engine.planErr, preflight) && !strings.Contains(w.out.String(), `"id": "NOPS-PRE-007"`) {
				t.Errorf("the failed check is not in the plan:\n%s", w.out)
			}
		})
	}
	for _, e := range exitCodes() {
		if e.Class != "" && e.Class != "changes" && !classes[e.Class] {
			t.Errorf("no failure of class %s was tried", e.Class)
		}
	}
}

// TestStreamsOfWhatWorks: one opening and one closing, also where a command calls two engines.
func TestStreamsOfWhatWorks(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		command      []string
		outcome      event.Outcome
		noOp         bool
		revision     int
		dryRun       bool
		to           string
		says         string
	}{
		{name: "install", reason: "the test at its end is a part of it", command: []string{"install", "--api-key", personKey}, outcome: event.OK, revision: 1, to: "0.1.0", says: "revision 1 is ready; "},
		{name: "install again", reason: "unchanged, whatever the test after it says", command: []string{"install", "--api-key", personKey}, noOp: true, outcome: event.Unchanged, revision: 1, to: "0.1.0", says: "as wanted"},
		{name: "dry run", reason: "said so, in both", command: []string{"install", "--api-key", personKey, "--dry-run"}, outcome: event.Unchanged, dryRun: true, to: "0.1.0", says: "nothing was changed"},
		{name: "disable", reason: "the engine's", command: []string{"disable", "heartbeat", "--yes"}, outcome: event.OK, revision: 1, to: "0.1.0", says: "ready"},
		{name: "disable, dry run", reason: "said so", command: []string{"disable", "heartbeat", "--dry-run"}, outcome: event.Unchanged, dryRun: true, to: "0.1.0", says: "nothing was changed"},
		{name: "enable", reason: "the engine's", command: []string{"enable", "heartbeat"}, outcome: event.OK, revision: 1, to: "0.1.0", says: "ready"},
		{name: "uninstall", reason: "no revision is left", command: []string{"uninstall", "--yes"}, outcome: event.OK, says: "gone"},
		{name: "test-connectivity", reason: "a warning is an outcome here", command: []string{"test-connectivity", "--api-key", personKey}, outcome: event.Warned, to: "0.1.0", says: "checks passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.engine.noOp = tt.noOp
			w.beat()
			if !tt.noOp {
				w.beforeBeat()
			}
			w.want(CodeOK, append(tt.command, "-o", "jsonl")...)
			opening, closing := w.stream(compiled(t, jsonl.Schema()))
			if closing.Outcome != string(tt.outcome) || closing.Class != "" || closing.Revision != tt.revision || !strings.Contains(closing.Message, tt.says) {
				t.Errorf("closed as %+v: %s", closing, tt.reason)
			}
			if opening.DryRun != tt.dryRun || closing.DryRun != tt.dryRun {
				t.Errorf("dry run: opened %v, closed %v", opening.DryRun, closing.DryRun)
			}
			if closing.Target.ClusterARN != demoARN || closing.Target.Context != "demo" || closing.Target.Server == "" || closing.Target.ToVersion != tt.to {
				t.Errorf("closed with target %+v", closing.Target)
			}
		})
	}
}

// TestStatusIsAnsweredOnFailure: scripts ask status most of all.
func TestStatusIsAnsweredOnFailure(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		args         []string
		arrange      func(*world)
		code         Code
		class        string
	}{
		{name: "no context", reason: "nothing is known", arrange: func(w *world) { w.config.CurrentContext = "gone" }, code: CodeUsage, class: "usage"},
		{name: "misshapen key", reason: "nothing was asked", args: []string{"--api-key", "hello"}, code: CodeAuth, class: "auth"},
		{name: "no cluster", reason: "health is unknown", arrange: func(w *world) {
			w.engine.statusErr = &install.Error{Class: install.ClassPreflight, Reason: "ask the API server", Err: errors.New("connection refused")}
		}, code: CodeCheckFailed, class: "preflight"},
		{name: "degraded", reason: "the error beside the state", arrange: func(w *world) { w.engine.status = broken() }, code: CodeCheckFailed, class: "preflight"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			if tt.arrange != nil {
				tt.arrange(w)
			}
			w.want(tt.code, append([]string{"status", "-o", "json"}, tt.args...)...)
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(w.out.String()))
			if err != nil {
				t.Fatalf("no document: %v\n%s", err, w.out)
			}
			if err := answerSchema(t, "status").Validate(v); err != nil {
				t.Errorf("%s\n%v", w.out, err)
			}
			var document struct {
				Health string
				Error  answerError
			}
			must(t, json.Unmarshal([]byte(w.out.String()), &document))
			if e := document.Error; e.Class != tt.class || e.ExitCode != int(tt.code) || e.Message == "" || document.Health == "healthy" {
				t.Errorf("%+v: %s", document, tt.reason)
			}
		})
	}
}
