package cli

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/ui"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// operation is one run of a command, as its stream tells it: opened before anything can fail, closed once, however it ends.
// Engines open and close what they do themselves; here that is a part of the command, and what they say of it goes into the
// closing line.
type operation struct {
	f       *Factory
	face    ui.Face
	output  string
	started time.Time

	mu       sync.Mutex
	closing  event.OperationFinished
	messages []string
}

var _ ui.Face = (*operation)(nil)

// operation makes the one of a command. Nothing is told before run.
func (f *Factory) operation(name string, c clusterFlags, output string, face ui.Face) *operation {
	target := event.Target{Context: c.kube.Context, Namespace: c.kube.Namespace, Release: c.release}
	return &operation{f: f, face: face, output: output, closing: event.OperationFinished{Operation: name, Target: target}}
}

// run opens the stream, does the work, closes the stream and gives the answer, as text or, with the error in it when there
// is one, as JSON. This is the one place that opens and closes, so that no way out of a command can miss it.
func (o *operation) run(do func() error, answer func(*answerError) any, tell func(error)) error {
	o.started = o.f.Now()
	o.face.Observe(event.OperationStarted{Operation: o.closing.Operation, Target: o.closing.Target, DryRun: o.closing.DryRun})
	err := do()
	o.close(err)
	switch o.output {
	case "json":
		if jsonErr := writeJSON(o.f.IO.Out, answer(answerErrorOf(err))); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
	case "text":
		tell(err)
	}
	return err
}

// Observe implements ui.Face.
func (o *operation) Observe(e event.Event) {
	switch e := e.(type) {
	case event.OperationStarted:
		o.learn(e.Target)
	case event.OperationFinished:
		o.mu.Lock()
		defer o.mu.Unlock()
		// An installation that changed something is "ok", whatever the test after it warns of; that it failed counts.
		if o.closing.Outcome == "" || !well(e.Outcome) {
			o.closing.Outcome = e.Outcome
		}
		if e.Message != "" {
			o.messages = append(o.messages, e.Message)
		}
		if e.Revision != 0 {
			o.closing.Revision = e.Revision
		}
	default:
		o.face.Observe(e)
	}
}

// Close implements ui.Face.
func (o *operation) Close() { o.face.Close() }

// learn adds to what is known of the target.
func (o *operation) learn(t event.Target) {
	o.mu.Lock()
	defer o.mu.Unlock()
	have := &o.closing.Target
	for _, field := range []struct {
		have *string
		now  string
	}{
		{&have.Context, t.Context}, {&have.Server, t.Server}, {&have.ClusterARN, t.ClusterARN}, {&have.Namespace, t.Namespace}, {&have.Release, t.Release},
		{&have.FromVersion, t.FromVersion}, {&have.ToVersion, t.ToVersion},
	} {
		if field.now != "" {
			*field.have = field.now
		}
	}
}

// nothingChanged ends a dry run.
func (o *operation) nothingChanged() { o.nothingToDo("dry run: nothing was changed") }

// nothingToDo ends what found nothing to change.
func (o *operation) nothingToDo(why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closing.Outcome, o.messages = event.Unchanged, []string{why}
}

// reached is what is known of the target once the kubeconfig was read.
func reached(f kube.Facts) event.Target {
	return event.Target{Context: f.Context, Server: f.Server, ClusterARN: f.ClusterARN}
}

func (o *operation) close(err error) {
	o.mu.Lock()
	closing := o.closing
	closing.Message = strings.Join(o.messages, "; ")
	o.mu.Unlock()
	closing.Duration = o.f.Now().Sub(o.started)
	if err != nil {
		closing.Class, closing.Message, closing.Hint = classOf(err), oneLine(err), hintOf(err)
	}
	closing.Outcome = outcomeOf(err, closing.Outcome)
	o.face.Observe(closing)
	o.face.Close()
}

// outcomeOf is how a command ended: by its error, and where that leaves a choice as the engine said; "" is an engine that
// did not get as far.
func outcomeOf(err error, said event.Outcome) event.Outcome {
	switch code := CodeOf(err); {
	case code == CodeOK && said == "":
		return event.OK
	case code == CodeOK:
		return said
	case code == CodeCancelled:
		return event.Cancelled
	case code == CodeTimedOut:
		return event.TimedOut
	case said == "" || well(said):
		return event.Failed
	}
	return said
}

func well(o event.Outcome) bool {
	return o == event.OK || o == event.Unchanged || o == event.Warned || o == event.Skipped
}

// answerError is the error of a command in its JSON: there exactly when the exit code is not 0.
type answerError struct {
	Class    string `json:"class"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`
}

func answerErrorOf(err error) *answerError {
	if err == nil {
		return nil
	}
	return &answerError{Class: classOf(err), Message: oneLine(err), Hint: hintOf(err), ExitCode: int(CodeOf(err))}
}

// oneLine is an error for programs: all of it, in one line.
func oneLine(err error) string { return strings.Join(strings.Fields(fmt.Sprint(err)), " ") }
