package plain

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/ui/jsonl"
	"github.com/nopsctl/nopsctl/pkg/event"
)

var update = flag.Bool("update", false, "rewrite golden files")

// timers are those of steps; a test fires them by hand.
type timers struct{ pending []func() }

func (t *timers) after(_ time.Duration, f func()) func() bool {
	i := len(t.pending)
	t.pending = append(t.pending, f)
	return func() bool { t.pending[i] = nil; return true }
}

func (t *timers) fire() {
	for i, f := range t.pending {
		if f != nil {
			t.pending[i] = nil
			f()
		}
	}
}

func script(f *Face, tm *timers) {
	component := event.Component{Component: "vmagent", Object: "Deployment nops/nops-vmagent", State: "progressing", Desired: 1}
	failing := component
	failing.State, failing.Reason, failing.Message = "degraded", "ImagePullBackOff", "vmagent:v1: not found"
	ready := component
	ready.State, ready.Ready = "ready", 1
	check := func(id, leg string, o event.Outcome) event.Check {
		c := event.Check{ID: id, Leg: leg, Stage: "tcp", Destination: "api:443", Title: "it accepts connections", Outcome: o, Message: "refused", Duration: 12 * time.Millisecond}
		if o == event.Failed {
			c.Hint = "open the port"
		}
		return c
	}
	for _, e := range []event.Event{
		event.OperationStarted{Operation: "install"},
		event.StepStarted{Step: "preflight", Title: "Checking"},
		check("NOPS-PRE-001", "cluster", event.OK),
		check("NOPS-PRE-002", "cluster", event.Warned),
		event.StepFinished{Step: "preflight", Title: "Checking", Outcome: event.OK, Message: "3 to create", Duration: 1200 * time.Millisecond},
		event.Warning{ID: "NOPS-VAL-001", Message: "unknown value", Hint: "remove it"},
		event.StepStarted{Step: "wait", Title: "Waiting for the workloads"},
	} {
		f.Observe(e)
	}
	tm.fire()
	for _, e := range []event.Event{
		component, component, failing, failing, ready,
		event.StepFinished{Step: "wait", Title: "Waiting for the workloads", Outcome: event.TimedOut, Message: "vmagent", Duration: 65 * time.Second},
		event.Evidence{Object: "Pod nops/x", Source: "log", Text: strings.Repeat("line\n", 22)},
		check("NOPS-NET-001", "here", event.OK), check("NOPS-NET-002", "here", event.Failed), check("NOPS-NET-003", "here", event.Unknown),
		check("NOPS-NET-021", "cluster", event.Skipped), check("NOPS-NET-022", "cluster", event.Skipped),
		check("NOPS-NET-050", "platform", event.Skipped),
		event.OperationFinished{Operation: "install", Outcome: event.OK, Message: "ready", Duration: 3 * time.Hour},
		event.OperationFinished{Operation: "install", Outcome: event.Failed, Message: "the command says it"},
	} {
		f.Observe(e)
	}
	f.Close()
	f.Observe(event.Warning{Message: "after the end"})
}

func TestGolden(t *testing.T) {
	for name, o := range map[string]Options{
		"unicode": {Style: Style{Unicode: true}},
		"ascii":   {},
		"colour":  {Style: Style{Unicode: true, Color: true}},
		"quiet":   {Style: Style{Unicode: true}, Quiet: true},
		"verbose": {Style: Style{Unicode: true}, Verbose: true},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			tm := &timers{}
			o.Progress, o.After = &buf, tm.after
			script(New(o), tm)
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.MkdirAll("testdata", 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, buf.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), buf.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if name == "ascii" && strings.IndexFunc(buf.String(), func(r rune) bool { return r > 127 }) >= 0 {
				t.Error("signs beyond ASCII")
			}
		})
	}
}

// TestEveryEventIsShown: a new kind of event must not be dropped in silence.
func TestEveryEventIsShown(t *testing.T) {
	for _, e := range jsonl.Examples() {
		var buf bytes.Buffer
		tm := &timers{}
		f := New(Options{Progress: &buf, After: tm.after})
		f.Observe(e)
		tm.fire()
		f.Close()
		if _, silent := e.(event.OperationStarted); buf.Len() == 0 != silent {
			t.Errorf("%s: %q", e.Kind(), buf.String())
		}
	}
}

// TestWriters: only checks of a connectivity test are an answer.
func TestWriters(t *testing.T) {
	var progress, answers bytes.Buffer
	tm := &timers{}
	script(New(Options{Progress: &progress, Answers: &answers, After: tm.after}), tm)
	if strings.Contains(answers.String(), "vmagent") || !strings.Contains(answers.String(), "NOPS-NET-002") || strings.Contains(progress.String(), "NOPS-NET") || !strings.Contains(progress.String(), "NOPS-PRE-002") {
		t.Errorf("answers:\n%s\nprogress:\n%s", answers.String(), progress.String())
	}
}

func TestElapsed(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 12 * time.Millisecond: "12ms", 340 * time.Millisecond: "0.3s", 12 * time.Second: "12s", 65 * time.Second: "1m05s",
		59*time.Minute + 59*time.Second: "59m59s", 3*time.Hour + 20*time.Minute: "3h20m", 100 * time.Hour: "4 days",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	long := `container heartbeat: failed to pull and unpack image "r/x:1": failed to resolve reference "r/x:1": failed to do request: Head "http://127.0.0.1:5001/v2/x/manifests/1": dial tcp 127.0.0.1:5001: connect: connection refused`
	for _, tt := range []struct {
		name, reason, text string
		limit              int
		want               string
	}{
		{"short", "left alone", "a: b", 10, "a: b"},
		{"long", "what was done, and why it failed", long, 120, `container heartbeat: failed to pull and unpack image "r/x:1": … dial tcp 127.0.0.1:5001: connect: connection refused`},
		{"no colons", "cut at the end", strings.Repeat("x", 30), 10, "xxxxxxxxx…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Shorten(tt.text, tt.limit)
			if got != tt.want {
				t.Errorf("%q, want %q: %s", got, tt.want, tt.reason)
			}
		})
	}
}

// TestEvidenceIsNotRepeated: what a component's line has told is not told again.
func TestEvidenceIsNotRepeated(t *testing.T) {
	var buf bytes.Buffer
	f := New(Options{Progress: &buf, After: (&timers{}).after})
	f.Observe(event.Component{Component: "vmagent", Object: "Deployment nops/nops-vmagent", State: "degraded", Reason: "ImagePullBackOff", Message: "pull x: connection refused"})
	for _, e := range []event.Evidence{
		{Object: "Pod nops/a", Source: "event", Text: "Failed: Error: ImagePullBackOff"},
		{Object: "Pod nops/a", Source: "event", Text: "Failed: pull image x: connection refused"},
		{Object: "Pod nops/a", Source: "event", Text: "Scheduled: odd node"},
		{Object: "Pod nops/b", Source: "event", Text: "Scheduled: odd node"},
		{Object: "Pod nops/a", Source: "log", Text: "connection refused"},
	} {
		f.Observe(e)
	}
	f.Close()
	if got := buf.String(); strings.Count(got, "odd node") != 1 || strings.Count(got, "connection refused") != 2 || strings.Contains(got, "Failed:") {
		t.Errorf("got:\n%s", got)
	}
}
