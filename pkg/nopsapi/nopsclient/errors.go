package nopsclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Kind is what sort of failure an Error is.
type Kind string

// The kinds.
const (
	KindUnreachable  Kind = "unreachable"  // no answer: DNS, TCP, timeout
	KindTLS          Kind = "tls"          // an answer that cannot be trusted
	KindUnauthorized Kind = "unauthorized" // 401
	KindForbidden    Kind = "forbidden"    // 403
	KindNotFound     Kind = "not-found"    // 404 of this contract: the thing is not there
	KindNotOffered   Kind = "not-offered"  // 404 or 405 of a server that does not know this contract
	KindConflict     Kind = "conflict"
	KindRateLimited  Kind = "rate-limited"
	KindRefused      Kind = "refused" // any other 4xx
	KindServer       Kind = "server"  // 5xx
	KindProtocol     Kind = "protocol"
)

// Error is a call that failed. Its text is one line, names the host, and never holds the key.
type Error struct {
	Kind       Kind
	Host       string
	Status     int    // HTTP status, 0 when there was no answer
	Code       string // of the contract
	Message    string
	RequestID  string
	RetryAfter time.Duration // when the platform said so
	Err        error
}

// Error implements error.
func (e *Error) Error() string {
	text := "nOps API " + e.Host + ": " + e.Message
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d", e.Status)
		if e.Code != "" {
			text += " " + e.Code
		}
		if e.RequestID != "" {
			text += ", request " + e.RequestID
		}
		text += ")"
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary says whether the same call may succeed later.
func (e *Error) Temporary() bool {
	return e.Kind == KindUnreachable || e.Kind == KindServer || e.Kind == KindRateLimited
}

// Hint says what to do.
func (e *Error) Hint() string {
	switch e.Kind {
	case KindUnauthorized:
		return "check the key in nOps under Settings → API Key; it has the form <client id>.<32 hexadecimal digits>"
	case KindForbidden:
		return "this key may not do that; use one with the scope that the message names"
	case KindUnreachable:
		return "check DNS, firewall and proxy (HTTPS_PROXY, NO_PROXY) for " + e.Host
	case KindTLS:
		return "if a proxy inspects TLS here, give its certificates with --ca-bundle FILE"
	case KindNotOffered:
		return "this platform does not serve this project's contract; give its values by flags instead (nopsctl install --help)"
	case KindRateLimited:
		return "wait and try again"
	case KindServer:
		return "the platform has a problem of its own; try again, and give its support the request ID"
	case KindNotFound, KindConflict, KindRefused, KindProtocol:
	}
	return ""
}

// ExitClass is how the command-line tool classifies the failure for its exit code.
func (e *Error) ExitClass() string {
	switch e.Kind {
	case KindUnauthorized, KindForbidden:
		return "auth"
	case KindUnreachable, KindTLS, KindServer, KindRateLimited, KindNotOffered:
		return "preflight"
	case KindNotFound, KindConflict, KindRefused, KindProtocol:
	}
	return "failed"
}

// IsKind says whether an error is a failed call of that kind.
func IsKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// refusal turns an answer that is not 2xx into an Error.
func (c *Client) refusal(res *http.Response, data []byte) error {
	e := &Error{Host: c.host(), Status: res.StatusCode, RequestID: res.Header.Get(nopsapi.RequestIDHeader)}
	var body nopsapi.ErrorBody
	ours := nopsapi.Decode(data, &body) == nil && body.Error.Code != ""
	if ours {
		e.Code, e.Message = body.Error.Code, c.redact(body.Error.Message)
		if body.Error.RequestID != "" {
			e.RequestID = body.Error.RequestID
		}
	}
	switch s := res.StatusCode; {
	case s == http.StatusUnauthorized:
		e.Kind = KindUnauthorized
	case s == http.StatusForbidden:
		e.Kind = KindForbidden
	case s == http.StatusNotFound && ours:
		e.Kind = KindNotFound
	case s == http.StatusNotFound, s == http.StatusMethodNotAllowed && !ours:
		e.Kind = KindNotOffered
		e.Message = "the platform does not offer " + path(res)
	case s == http.StatusConflict:
		e.Kind = KindConflict
	case s == http.StatusTooManyRequests:
		e.Kind = KindRateLimited
		e.RetryAfter = retryAfter(res, c.o.Now())
	case s >= 500:
		e.Kind = KindServer
		e.RetryAfter = retryAfter(res, c.o.Now())
	default:
		e.Kind = KindRefused
	}
	if e.Message == "" {
		e.Message = strings.ToLower(http.StatusText(res.StatusCode))
	}
	return e
}

// path is the request's path without its query.
func path(res *http.Response) string {
	if res.Request == nil {
		return "this"
	}
	return res.Request.Method + " " + res.Request.URL.Path
}

// retryAfter reads both forms of the header: seconds and a date.
func retryAfter(res *http.Response, now time.Time) time.Duration {
	text := res.Header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// transportError names what kept the answer away, in words that do not change from one try to the next.
func (c *Client) transportError(err error) error {
	e := &Error{Kind: KindUnreachable, Host: c.host(), Err: err}
	var (
		dns       *net.DNSError
		unknown   x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		operation *net.OpError
		urlError  *url.Error
	)
	switch {
	case errors.As(err, &unknown):
		e.Kind, e.Message = KindTLS, "its certificate is signed by an authority that is not trusted here"
	case errors.As(err, &name):
		e.Kind, e.Message = KindTLS, "its certificate is for another name"
	case errors.As(err, &invalid):
		e.Kind, e.Message = KindTLS, "its certificate is not valid: "+invalid.Error()
	case errors.As(err, &record):
		e.Kind, e.Message = KindTLS, "it does not speak TLS"
	case errors.As(err, &dns):
		e.Message = "no address for this name"
		if dns.IsTimeout {
			e.Message = "looking up this name timed out"
		}
	case errors.Is(err, context.Canceled):
		e.Kind, e.Message = KindProtocol, "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		e.Message = fmt.Sprintf("no answer within %s", c.o.Timeout)
	case errors.As(err, &operation) && operation.Op == "dial":
		e.Message = "cannot connect: " + rootCause(operation)
	case errors.As(err, &urlError):
		e.Message = "no answer: " + c.redact(rootCause(urlError.Err))
	default:
		e.Message = "no answer: " + c.redact(rootCause(err))
	}
	return e
}

func rootCause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// redact blanks the key, should a server or a library repeat it.
func (c *Client) redact(text string) string {
	if c.o.Key == "" {
		return text
	}
	return strings.ReplaceAll(text, c.o.Key, "[API key]")
}
