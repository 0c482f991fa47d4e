// Package verdict is what checks of signatures say: the closed set of outcomes, the reasons for them, and the finding that
// an engine gives for one signature and one requirement.
package verdict

import (
	"fmt"
	"time"
)

// Outcome is what verification came to. The zero value is none of them, and never success.
type Outcome string

// The outcomes, never conflated.
const (
	Verified  Outcome = "verified"        // signed by whom the policy names, and nothing speaks against it
	Unsigned  Outcome = "unsigned"        // every place was looked at, and there is no signature
	Untrusted Outcome = "untrusted"       // there are signatures: bad, of somebody else, or of something else
	Revoked   Outcome = "revoked"         // a good signature that was revoked, has expired, or is too old
	Unknown   Outcome = "could-not-check" // registry, credentials, revocation service or time did not allow an answer
	BadPolicy Outcome = "policy-error"    // the policy says nothing about it, or cannot be applied
)

// Outcomes are all there are.
func Outcomes() []Outcome {
	return []Outcome{Verified, Unsigned, Untrusted, Revoked, Unknown, BadPolicy}
}

// OK says whether an outcome lets an artifact through. Verified alone does.
func (o Outcome) OK() bool { return o == Verified }

// rank orders failures by what a person should hear first when several signatures failed in several ways. A signature that
// is good but for its revocation says more than junk beside it; so does one that could only not be checked to the end.
func (o Outcome) rank() int {
	switch o {
	case Revoked:
		return 5
	case Unknown:
		return 4
	case Untrusted:
		return 3
	case Unsigned:
		return 2
	case BadPolicy:
		return 6
	case Verified:
		return 0
	}
	return 7 // not an outcome: a mistake of ours, told before all else
}

// Finding is what one signature, or the lack of any, means for one requirement.
type Finding struct {
	Outcome  Outcome   `json:"outcome"`
	Reason   Reason    `json:"reason,omitempty"`
	Message  string    `json:"message,omitempty"` // one line: what, where, for which input
	Method   string    `json:"method,omitempty"`  // of the requirement: a Method of pkg/verify/policy
	Identity string    `json:"identity,omitempty"`
	SignedAt time.Time `json:"signed_at,omitzero"` // authentic time; zero where the signature proves none
	Expires  time.Time `json:"expires,omitzero"`   // of the signature itself; zero: never
	// Signature is the digest of the manifest that carries the signature, with "#N" behind it where one carries several.
	Signature string `json:"signature,omitempty"`
	// Revocation says what is known of it: "not revoked", "not checked: …", "evidence of 2026-11-01". Empty where a method
	// has none.
	Revocation string `json:"revocation,omitempty"`
}

// Fail is a finding that is not success.
func Fail(reason Reason, format string, args ...any) Finding {
	return Finding{Outcome: reason.Outcome(), Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Worse says which of two findings a person should hear of first. A verified one is never worse.
func Worse(a, b Finding) bool { return a.Outcome.rank() > b.Outcome.rank() }
