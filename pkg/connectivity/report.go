package connectivity

import (
	"time"

	"github.com/nopsctl/nopsctl/pkg/event"
)

// ReportSchema is the version of Report: 1 is the first. Fields may be added within a version.
const ReportSchema = 1

// Report is how a run went.
type Report struct {
	SchemaVersion int           `json:"schema_version"`
	Outcome       event.Outcome `json:"outcome"`
	StartedAt     time.Time     `json:"started_at"`
	FinishedAt    time.Time     `json:"finished_at"`
	Host          string        `json:"host"`
	ClusterARN    string        `json:"cluster_arn,omitempty"`
	Namespace     string        `json:"namespace,omitempty"`
	TestID        string        `json:"test_id,omitempty"`
	Legs          []LegReport   `json:"legs"`
	Counts        Counts        `json:"counts"`
}

// LegReport is how one leg went.
type LegReport struct {
	Leg     Leg           `json:"leg"`
	Title   string        `json:"title"`
	Outcome event.Outcome `json:"outcome"`
	Checks  []event.Check `json:"checks"`
}

// Counts of checks by outcome.
type Counts struct {
	OK      int `json:"ok"`
	Warning int `json:"warning"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
	Unknown int `json:"unknown"`
}

// Checks are all checks, in the order they were made.
func (r Report) Checks() []event.Check {
	var all []event.Check
	for _, l := range r.Legs {
		all = append(all, l.Checks...)
	}
	return all
}

// Failed is the first check that failed, else the first whose outcome is not known.
func (r Report) Failed() (event.Check, bool) {
	for _, want := range []event.Outcome{event.Failed, event.Unknown} {
		for _, c := range r.Checks() {
			if c.Outcome == want {
				return c, true
			}
		}
	}
	return event.Check{}, false
}

// Passed says whether data flow is proven: nothing failed and nothing that was looked at stayed unknown.
func (r Report) Passed() bool { return r.Outcome == event.OK || r.Outcome == event.Warned }

// Untested lists the legs in which nothing was looked at.
func (r Report) Untested() []Leg {
	var legs []Leg
	for _, l := range r.Legs {
		if l.Outcome == event.Skipped {
			legs = append(legs, l.Leg)
		}
	}
	return legs
}

func (r *Report) finish() {
	for i := range r.Legs {
		r.Legs[i].Outcome = worst(r.Legs[i].Checks)
	}
	checks := r.Checks()
	r.Outcome = worst(checks)
	r.Counts = Counts{}
	for _, c := range checks {
		switch c.Outcome { //nolint:exhaustive // the outcomes that checks have
		case event.OK, event.Unchanged:
			r.Counts.OK++
		case event.Warned:
			r.Counts.Warning++
		case event.Skipped:
			r.Counts.Skipped++
		case event.Unknown:
			r.Counts.Unknown++
		default:
			r.Counts.Failed++
		}
	}
}

// worst is the outcome of a set of checks. A set in which nothing was looked at is skipped, which proves nothing.
func worst(checks []event.Check) event.Outcome {
	rank := map[event.Outcome]int{event.Skipped: 0, event.OK: 1, event.Warned: 2, event.Unknown: 3, event.Failed: 4}
	outcome := event.Skipped
	for _, c := range checks {
		if rank[c.Outcome] > rank[outcome] {
			outcome = c.Outcome
		}
	}
	return outcome
}
