package verify

import (
	"fmt"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Report is what a pass over artifacts came to.
type Report struct {
	SchemaVersion int            `json:"schema_version"`
	Time          time.Time      `json:"time"`
	Policy        *PolicyNote    `json:"policy,omitempty"` // none: nothing was checked
	Passed        bool           `json:"passed"`           // everything verified or excepted; false without a policy
	Counts        map[string]int `json:"counts"`           // by outcome; "excepted" counts what an exception let in, "unchecked" what nobody checked
	Results       []Result       `json:"results"`
}

// PolicyNote says which policy it was.
type PolicyNote struct {
	Source string `json:"source"`
	Hash   string `json:"hash"`
}

// ExceptionNote says which exception let an artifact in.
type ExceptionNote struct {
	Reason  string    `json:"reason"`
	Expires time.Time `json:"expires"`
	Line    int       `json:"line"` // in the policy
}

// Result is what one artifact came to.
type Result struct {
	Reference string `json:"reference"`          // as it was asked for
	Name      string `json:"name"`               // that the policy knows
	Location  string `json:"location,omitempty"` // the mirror it was looked for at
	Digest    string `json:"digest,omitempty"`
	MediaType string `json:"media_type,omitempty"`
	Size      int64  `json:"-"`

	verdict.Finding

	Hint       string            `json:"hint,omitempty"`
	RuleLine   int               `json:"rule_line,omitempty"` // of the policy
	Exception  *ExceptionNote    `json:"exception,omitempty"`
	Via        string            `json:"via,omitempty"` // digest of the verified index that lists it
	Signatures int               `json:"signatures"`    // that hang on it, good or bad
	Others     int               `json:"others,omitempty"`
	Findings   []verdict.Finding `json:"findings,omitempty"` // one for each signature and requirement that was tried
	Cached     bool              `json:"cached,omitempty"`
	Duration   time.Duration     `json:"duration_ns"`

	given, canonical ref.Reference
	artifact         oci.Artifact
	checked          bool
}

// Artifact is what the reference was resolved to; its zero value when it was not.
func (r Result) Artifact() oci.Artifact { return r.artifact }

// Given is the reference as it was asked for.
func (r Result) Given() ref.Reference { return r.given }

// Unchecked says that no policy was there to check it by.
func (r Result) Unchecked() bool { return !r.checked && r.Outcome == "" }

// Unsure says that it is verified but for what nobody could ask, or asked a while ago: its revocation.
func (r Result) Unsure() bool {
	return r.Outcome.OK() && (strings.HasPrefix(r.Revocation, "not checked") && r.Revocation != "not checked: the policy says off" || strings.Contains(r.Revocation, "evidence"))
}

// Passed says whether the artifact may be used.
func (r Result) Passed() bool { return r.Outcome.OK() || r.Exception != nil }

// settle ends a check: whatever has no outcome by now could not be checked.
func (r *Result) settle(checked bool) {
	r.checked = checked
	if r.Outcome == "" && checked {
		r.Finding = verdict.Fail(verdict.RegistryOdd, "nothing came of the check of %s", r.Reference)
	}
	if r.Reason != "" {
		r.Hint = r.Reason.Hint()
	}
}

// Check is the result as a finished check.
func (r Result) Check() event.Check {
	c := event.Check{ID: CheckID, Destination: r.Reference, Stage: "signature", Title: "Signature of " + r.Reference, Reason: string(r.Reason), Message: r.Line(), Hint: r.Hint, Duration: r.Duration}
	switch {
	case r.Unchecked():
		c.Outcome, c.Message = event.Skipped, "resolved to "+r.Digest+"; no policy says who must have signed it"
	case r.Unsure():
		c.Outcome, c.Hint = event.Warned, ""
	case r.Outcome.OK():
		c.Outcome, c.Hint = event.OK, ""
	case r.Exception != nil:
		c.Outcome = event.Warned
	case r.Outcome == verdict.Unknown:
		c.Outcome = event.Unknown
	default:
		c.Outcome = event.Failed
	}
	return c
}

// Line says in one line what came of it.
func (r Result) Line() string {
	var b strings.Builder
	switch {
	case r.Unchecked():
		return "not checked"
	case r.Outcome.OK():
		fmt.Fprintf(&b, "signed by %s", r.Identity)
		if !r.SignedAt.IsZero() {
			fmt.Fprintf(&b, " on %s", r.SignedAt.UTC().Format(time.DateOnly))
		}
		if r.Via != "" {
			b.WriteString(" (through the index that lists it)")
		}
		if r.Revocation != "" {
			fmt.Fprintf(&b, "; %s", r.Revocation)
		}
	default:
		fmt.Fprintf(&b, "%s: %s", r.Outcome, r.Message)
		if r.Exception != nil {
			fmt.Fprintf(&b, "; excepted until %s: %s", r.Exception.Expires.Format(time.DateOnly), r.Exception.Reason)
		}
	}
	return b.String()
}

func (r *Report) count() {
	r.Counts, r.Passed = map[string]int{}, r.Policy != nil
	for _, result := range r.Results {
		switch {
		case result.Unchecked():
			r.Counts["unchecked"]++
		case result.Exception != nil:
			r.Counts["excepted"]++
		default:
			r.Counts[string(result.Outcome)]++
		}
		if !result.Passed() {
			r.Passed = false
		}
	}
}

// Refused are the results that may not be used.
func (r Report) Refused() []Result {
	var all []Result
	for _, result := range r.Results {
		if !result.Passed() && !result.Unchecked() {
			all = append(all, result)
		}
	}
	return all
}
