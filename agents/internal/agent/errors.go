package agent

import (
	"errors"
	"time"
)

// Intent is what an error asks the loop to do.
type Intent int

// The intents.
const (
	// Retry soon, with backoff: the default for errors without an intent.
	Retry Intent = iota
	// Stalled: trying soon will not help, somebody has to do something (a key, a permission). Retry slowly and say so.
	Stalled
	// Ignore: the work is done or void; drop it and go on.
	Ignore
)

// intentError carries an intent along the chain.
type intentError struct {
	err    error
	intent Intent
	after  time.Duration
}

func (e *intentError) Error() string { return e.err.Error() }
func (e *intentError) Unwrap() error { return e.err }

// RetryAfter asks for a retry not before d has passed.
func RetryAfter(err error, d time.Duration) error {
	return &intentError{err: err, intent: Retry, after: d}
}

// Stall says that a retry soon will not help.
func Stall(err error) error { return &intentError{err: err, intent: Stalled} }

// Ignorable says that the work can be dropped.
func Ignorable(err error) error { return &intentError{err: err, intent: Ignore} }

// IntentOf finds what an error asks for, and how long to wait at least before a retry.
func IntentOf(err error) (Intent, time.Duration) {
	var e *intentError
	if errors.As(err, &e) {
		return e.intent, e.after
	}
	return Retry, 0
}
