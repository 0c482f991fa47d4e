package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code is an exit code of nopsctl. The table is a contract: codes are never reused.
type Code int

// The exit codes.
const (
	CodeOK               Code = 0
	CodeFailed           Code = 1
	CodeUsage            Code = 2
	CodeCheckFailed      Code = 3
	CodeAuth             Code = 4
	CodeChanges          Code = 5
	CodeTimedOut         Code = 6
	CodeVerification     Code = 7
	CodeManagedElsewhere Code = 8
	CodeCancelled        Code = 130
)

// exitCode documents a code and ties it to the class that errors name themselves.
type exitCode struct {
	Code    Code
	Class   string // of ExitClass(); empty: no error names it
	Meaning string
	About   string
}

func exitCodes() []exitCode {
	return []exitCode{
		{CodeOK, "", "ok", "What was asked for is done, or was so already. Warnings change nothing."},
		{CodeFailed, "failed", "failed", "It did not work. The message says what, where and for which input."},
		{CodeUsage, "usage", "usage", "A flag, argument or value is wrong or unknown, or a question could not be asked without a terminal. Nothing was changed."},
		{CodeCheckFailed, "preflight", "check failed", "A preflight or connectivity check failed, something is degraded, or the nOps API or the cluster cannot be reached. Preflight changes nothing; an installation whose final connectivity test fails stays."},
		{CodeAuth, "auth", "authentication", "The API key or the cluster's credentials are missing, wrong or not allowed to do this. Nothing was changed."},
		{CodeChanges, "changes", "changes present", "Reserved for diff and plan --detailed-exitcode: there are changes."},
		{CodeTimedOut, "timeout", "timed out", "Time ran out. The message names what was waited for; the release is left failed and the same command goes on from there."},
		{CodeVerification, "verification", "verification refused", "An image is not verified: it is unsigned, signed by somebody else, revoked, or could not be checked; verify and install name it and the cause. Nothing was changed."},
		{CodeManagedElsewhere, "managed-elsewhere", "managed elsewhere", "Argo CD, Flux, Terraform or another Helm release owns what would be changed. Nothing was changed."},
		{CodeCancelled, "cancelled", "cancelled", "Ctrl-C, SIGTERM, or no to a question. An installation that was interrupted is left failed, never pending, and the same command goes on from there."},
	}
}

// classified is an error that knows what sort it is. Engines and clients implement it; internal/cli alone knows codes.
type classified interface{ ExitClass() string }

// CodeOf is the one mapping from errors to exit codes.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if errors.Is(err, context.Canceled) {
		return CodeCancelled
	}
	var c classified
	if errors.As(err, &c) {
		for _, e := range exitCodes() {
			if e.Class != "" && e.Class == c.ExitClass() {
				return e.Code
			}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return CodeTimedOut
	}
	return CodeFailed
}

// classOf is the class of an error's exit code; empty when it has none to tell of.
func classOf(err error) string {
	code := CodeOf(err)
	for _, e := range exitCodes() {
		if e.Code == code {
			return e.Class
		}
	}
	return ""
}

// failure is an error of this package: one line, a class, and advice.
type failure struct {
	class  string
	reason string
	advice string
	err    error
}

// Error implements error.
func (f *failure) Error() string {
	switch {
	case f.err == nil:
		return f.reason
	case f.reason == "":
		return f.err.Error()
	}
	return f.reason + ": " + f.err.Error()
}

// Unwrap gives the cause.
func (f *failure) Unwrap() error { return f.err }

// ExitClass implements classified.
func (f *failure) ExitClass() string {
	var c classified
	switch {
	case f.class != "":
		return f.class
	case errors.As(f.err, &c):
		return c.ExitClass()
	}
	return "failed"
}

// Hint says what to do; without advice of its own, what the cause advises.
func (f *failure) Hint() string {
	if f.advice != "" {
		return f.advice
	}
	return hintOf(f.err)
}

func usage(format string, args ...any) error {
	return &failure{class: "usage", reason: fmt.Sprintf(format, args...)}
}

func usageHint(hint, format string, args ...any) error {
	return &failure{class: "usage", reason: fmt.Sprintf(format, args...), advice: hint}
}

// hintOf is the advice of an error, empty when it has none.
func hintOf(err error) string {
	var h interface{ Hint() string }
	if err != nil && errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// exitCodesText is the help topic and the core of docs/exit-codes.md.
func exitCodesText() string {
	var b strings.Builder
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "  %3d  %-21s %s\n", e.Code, e.Meaning, wrap(e.About, 70, 29))
	}
	return b.String()
}

// wrap breaks a text into lines of width columns; lines after the first are indented.
func wrap(text string, width, indent int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n"+strings.Repeat(" ", indent))
}
