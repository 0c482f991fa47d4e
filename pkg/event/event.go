// Package event is the spine of nopsctl: the closed set of things that happen while an engine works.
//
// Engines (pkg/install, pkg/verify, pkg/connectivity) take an observe function and call it; they never print. The faces
// (plain lines, JSON lines, the terminal UI) and the tests all hang on these types. An event says what happened, not how
// to show it; it never carries a credential.
//
// The package is a leaf: it imports the standard library only.
package event

import "time"

// An Event is one of the types of this package. The set is sealed: a face that switches over all of them is complete.
type Event interface {
	// Kind is the stable, kebab-case name of the event in JSON.
	Kind() Kind
	sealed()
}

// Func observes events. A nil Func is silence: engines call it through Emit.
type Func func(Event)

// Emit calls f unless it is nil.
func (f Func) Emit(e Event) {
	if f != nil {
		f(e)
	}
}

// Kind names a type of event in JSON.
type Kind string

// The kinds, one per type of this package.
const (
	KindOperationStarted  Kind = "operation-started"
	KindOperationFinished Kind = "operation-finished"
	KindStepStarted       Kind = "step-started"
	KindStepFinished      Kind = "step-finished"
	KindComponent         Kind = "component"
	KindWarning           Kind = "warning"
	KindCheck             Kind = "check"
	KindEvidence          Kind = "evidence"
)

// Outcome is how a step, an operation or a check ended.
type Outcome string

// The outcomes. Unknown is never success.
const (
	OK        Outcome = "ok"
	Unchanged Outcome = "unchanged" // nothing had to be done
	Skipped   Outcome = "skipped"   // not attempted, for a stated reason
	Warned    Outcome = "warning"
	Failed    Outcome = "failed"
	TimedOut  Outcome = "timed-out"
	Cancelled Outcome = "cancelled"
	Unknown   Outcome = "unknown" // could not be found out, for a stated reason
)

// Target names what an operation touches. Every field may be empty when not known yet.
type Target struct {
	Context     string `json:"context,omitempty"`     // kubeconfig context
	Server      string `json:"server,omitempty"`      // API server URL
	ClusterARN  string `json:"cluster_arn,omitempty"` // arn:aws:eks:<region>:<account>:cluster/<name>
	Namespace   string `json:"namespace,omitempty"`
	Release     string `json:"release,omitempty"`
	FromVersion string `json:"from_version,omitempty"` // chart version before, empty for a first installation
	ToVersion   string `json:"to_version,omitempty"`   // chart version after, empty when the operation removes it
}

// OperationStarted opens an operation. An engine opens what it does; a command that calls several engines opens one
// operation around them, before anything can fail, and takes what they open and close as part of it.
type OperationStarted struct {
	Operation string `json:"operation"` // "install", "enable", "disable", "uninstall", "test-connectivity", …
	Target    Target `json:"target"`
	DryRun    bool   `json:"dry_run,omitempty"` // nothing will be changed
}

// OperationFinished closes it, however it ends. Message says in one line what state things are in; Hint what to do next.
type OperationFinished struct {
	Operation string        `json:"operation"`
	Outcome   Outcome       `json:"outcome"`
	Class     string        `json:"class,omitempty"` // of the failure, as in docs/exit-codes.md; empty when there is none
	Message   string        `json:"message,omitempty"`
	Hint      string        `json:"hint,omitempty"`
	Target    Target        `json:"target,omitzero"`    // as it turned out to be: the opening knows less
	Revision  int           `json:"revision,omitempty"` // Helm revision now deployed, 0 when none
	DryRun    bool          `json:"dry_run,omitempty"`  // nothing was changed
	Duration  time.Duration `json:"duration_ns"`
}

// StepStarted says that a named part of an operation began.
type StepStarted struct {
	Step  string `json:"step"`  // stable kebab-case ID, such as "preflight" or "credentials"
	Title string `json:"title"` // what is being done, for people
}

// StepFinished says how it ended.
type StepFinished struct {
	Step     string        `json:"step"`
	Title    string        `json:"title"`
	Outcome  Outcome       `json:"outcome"`
	Message  string        `json:"message,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

// Component reports a change of state of one part of the stack while an operation waits for it.
type Component struct {
	Component string `json:"component"` // "heartbeat", "vmagent", …
	Object    string `json:"object"`    // "Deployment nops/nops-heartbeat"
	State     string `json:"state"`     // a State of internal/workload
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
	Ready     int32  `json:"ready"`
	Desired   int32  `json:"desired"`
}

// Warning is advice that changes no exit code.
type Warning struct {
	ID      string `json:"id,omitempty"` // stable, such as NOPS-VAL-001
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Check is one finished check of preflight or connectivity.
type Check struct {
	ID          string        `json:"id"`                    // stable, such as NOPS-NET-003
	Leg         string        `json:"leg,omitempty"`         // "here", "cluster" or "platform"
	Destination string        `json:"destination,omitempty"` // host:port, or the thing looked at
	Stage       string        `json:"stage,omitempty"`       // "dns", "tcp", "tls", "http", "auth", "data"
	Title       string        `json:"title"`
	Outcome     Outcome       `json:"outcome"`
	Reason      string        `json:"reason,omitempty"` // why it did not pass, for programs: one of docs/checks.md
	Message     string        `json:"message,omitempty"`
	Hint        string        `json:"hint,omitempty"`
	Duration    time.Duration `json:"duration_ns"`
}

// Evidence is what was found at the scene of a failure, captured before anything is rolled back or removed.
type Evidence struct {
	Object string `json:"object"` // "Pod nops/nops-heartbeat-abc"
	Source string `json:"source"` // "status", "event" or "log"
	Text   string `json:"text"`
}

// Kind implements Event.
func (OperationStarted) Kind() Kind { return KindOperationStarted }

// Kind implements Event.
func (OperationFinished) Kind() Kind { return KindOperationFinished }

// Kind implements Event.
func (StepStarted) Kind() Kind { return KindStepStarted }

// Kind implements Event.
func (StepFinished) Kind() Kind { return KindStepFinished }

// Kind implements Event.
func (Component) Kind() Kind { return KindComponent }

// Kind implements Event.
func (Warning) Kind() Kind { return KindWarning }

// Kind implements Event.
func (Check) Kind() Kind { return KindCheck }

// Kind implements Event.
func (Evidence) Kind() Kind { return KindEvidence }

func (OperationStarted) sealed()  {}
func (OperationFinished) sealed() {}
func (StepStarted) sealed()       {}
func (StepFinished) sealed()      {}
func (Component) sealed()         {}
func (Warning) sealed()           {}
func (Check) sealed()             {}
func (Evidence) sealed()          {}
