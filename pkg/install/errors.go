package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// The classes of errors, which internal/cli maps to exit codes.
const (
	ClassFailed           = "failed"
	ClassUsage            = "usage"
	ClassPreflight        = "preflight"
	ClassAuth             = "auth"
	ClassTimeout          = "timeout"
	ClassVerification     = "verification"
	ClassManagedElsewhere = "managed-elsewhere"
)

// Error is a failure with a class and, where there is one, advice.
type Error struct {
	Class  string
	Reason string // what, where, for which input
	Advice string
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Reason
	case e.Reason == "":
		return e.Err.Error()
	}
	return e.Reason + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string { return e.Advice }

// ExitClass is the class of the exit code.
func (e *Error) ExitClass() string {
	if e.Class == "" {
		return ClassFailed
	}
	return e.Class
}

// PreflightError lists the checks that stopped a plan.
type PreflightError struct{ Failed []event.Check }

// Error implements error.
func (e *PreflightError) Error() string {
	var s []string
	for _, c := range e.Failed {
		s = append(s, c.ID+" "+c.Title+": "+c.Message)
	}
	return "nothing was changed: " + strings.Join(s, "; ")
}

// Hint is the advice of the first failed check that has any.
func (e *PreflightError) Hint() string {
	for _, c := range e.Failed {
		if c.Hint != "" {
			return c.Hint
		}
	}
	return ""
}

// ExitClass is the class of the exit code.
func (e *PreflightError) ExitClass() string { return ClassPreflight }

// ManagedElsewhereError says that somebody else owns the release or one of its objects.
type ManagedElsewhereError struct {
	Object string // "Deployment nops/nops-vmagent", or the release
	Owner  Owner
}

// Error implements error.
func (e *ManagedElsewhereError) Error() string {
	return fmt.Sprintf("%s is managed by %s: nothing was changed", e.Object, e.Owner)
}

// Hint says where the change belongs.
func (e *ManagedElsewhereError) Hint() string {
	switch e.Owner.Tool {
	case ToolArgoCD:
		return fmt.Sprintf("change the values in the Argo CD Application %q and let it sync; a change made here would be reverted", e.Owner.Name)
	case ToolFlux:
		return fmt.Sprintf("change the values in the Flux resource %q and let it reconcile; a change made here would be reverted", e.Owner.Name)
	case ToolTerraform:
		return "change the values in the Terraform configuration and apply it; a change made here would show up as drift there"
	case ToolHelm:
		return fmt.Sprintf("the stack exists once per cluster: uninstall the other release (helm uninstall %s) or work on that one", e.Owner.Name)
	}
	return "remove the object, or change it where it is managed"
}

// ExitClass is the class of the exit code.
func (e *ManagedElsewhereError) ExitClass() string { return ClassManagedElsewhere }

// TimeoutError says what was waited for in vain. The release is recorded as failed and can be installed over.
type TimeoutError struct {
	After   time.Duration
	Doing   string             // "waiting for …"; used when Waiting is empty
	Waiting []workload.Summary // what was not ready
}

// Error implements error.
func (e *TimeoutError) Error() string {
	if len(e.Waiting) == 0 {
		return fmt.Sprintf("timed out after %s %s", e.After, e.Doing)
	}
	return fmt.Sprintf("timed out after %s waiting for %s", e.After, waitingFor(e.Waiting))
}

// Hint says what to do.
func (e *TimeoutError) Hint() string {
	return "remove the cause, then run the same command again: it goes on from here; --timeout waits longer"
}

// ExitClass is the class of the exit code.
func (e *TimeoutError) ExitClass() string { return ClassTimeout }

// Is makes the error a deadline for those who only ask that.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// CancelledError says what an interrupted command left. It is a context.Canceled.
type CancelledError struct {
	While string // what was being done
	State string // what state things are in now
}

// Error implements error.
func (e *CancelledError) Error() string {
	return fmt.Sprintf("cancelled while %s: %s", e.While, e.State)
}

// Hint says what to do.
func (e *CancelledError) Hint() string {
	return "run the same command again to go on from here, or uninstall to remove what is there"
}

// Unwrap gives context.Canceled.
func (e *CancelledError) Unwrap() error { return context.Canceled }

// PendingError says that another operation holds the release, or died holding it.
type PendingError struct {
	Release  string
	Revision int
	Status   string
	Since    time.Time
	Age      time.Duration
}

// Error implements error.
func (e *PendingError) Error() string {
	return fmt.Sprintf("release %s revision %d is %s since %s (%s ago): another operation is running, or was killed while it ran",
		e.Release, e.Revision, e.Status, e.Since.UTC().Format(time.RFC3339), e.Age.Round(time.Second))
}

// Hint says what to do.
func (e *PendingError) Hint() string {
	return "wait for the other operation to end; if there is none, run again with --recover, which marks that revision failed and goes on"
}

// ExitClass is the class of the exit code.
func (e *PendingError) ExitClass() string { return ClassPreflight }

// UnknownValuesError lists values this chart does not know.
type UnknownValuesError struct{ Values []UnknownValue }

// Error implements error.
func (e *UnknownValuesError) Error() string {
	var s []string
	for _, v := range e.Values {
		s = append(s, v.String())
	}
	return strings.Join(s, "; ")
}

// Hint says what to do.
func (e *UnknownValuesError) Hint() string {
	return "Helm would ignore such a value without a word; remove or correct it"
}

// ExitClass is the class of the exit code.
func (e *UnknownValuesError) ExitClass() string { return ClassUsage }

// NotInstalledError says that there is no release to work on.
type NotInstalledError struct{ Release, Namespace string }

// Error implements error.
func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("release %s is not installed in namespace %s", e.Release, e.Namespace)
}

// Hint says what to do.
func (e *NotInstalledError) Hint() string { return "install it first" }

func waitingFor(summaries []workload.Summary) string {
	var s []string
	for _, w := range summaries {
		s = append(s, describe(w))
	}
	return strings.Join(s, "; ")
}

// describe is one line about one workload: "Deployment nops/nops-vmagent (0 of 1 ready): ImagePullBackOff: …".
func describe(w workload.Summary) string {
	s := fmt.Sprintf("%s (%d of %d ready)", w.Object(), w.Ready, w.Desired)
	if w.Reason != "" {
		s += ": " + w.Reason
	}
	if w.Message != "" {
		s += ": " + w.Message
	}
	return s
}

// explain gives errors of the API server a class and advice.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	var typed interface{ ExitClass() string }
	if errors.As(err, &typed) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	e := &Error{Class: ClassFailed, Reason: doing, Err: err}
	var network net.Error
	var u *url.Error
	switch {
	case apierrors.IsUnauthorized(err):
		e.Class, e.Advice = ClassAuth, "the API server does not accept these credentials: renew them (for EKS: aws sso login, or aws eks update-kubeconfig)"
	case apierrors.IsForbidden(err):
		e.Class, e.Advice = ClassPreflight, "ask for the missing permission, or use a context that has it"
	case errors.As(err, &u), errors.As(err, &network):
		e.Class, e.Advice = ClassPreflight, "is the cluster running, and reachable from here? check --context, VPN and proxy"
	case strings.Contains(err.Error(), "getting credentials: exec"):
		e.Class, e.Advice = ClassAuth, "the kubeconfig's credential plugin did not work: run its command by hand"
	}
	return e
}
