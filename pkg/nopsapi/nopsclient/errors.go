package nopsclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	KindNotOffered   Kind = "not-offered"  // a server that does not know this path of the contract
	KindConflict     Kind = "conflict"
	KindRateLimited  Kind = "rate-limited"
	KindRefused      Kind = "refused"  // any other 4xx
	KindServer       Kind = "server"   // 5xx
	KindProtocol     Kind = "protocol" // an answer that is not of this contract; also a call that was cancelled
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
		e.Code, e.Message = body.Error.Code, body.Error.Message
		if body.Error.RequestID != "" {
			e.RequestID = body.Error.RequestID
		}
	}
	switch s := res.StatusCode; {
	case s < 300 || s == http.StatusNotImplemented:
		e.Kind, e.Message = KindNotOffered, "the platform does not offer "+path(res)
		if s < 300 {
			e.Message += ": a web page answers"
		}
	case s < 400:
		e.Kind, e.Message = KindRefused, "it redirects "+path(res)+to(res)+"; the API key was not sent there"
	case s == http.StatusUnauthorized:
		e.Kind = KindUnauthorized
	case s == http.StatusForbidden:
		e.Kind = KindForbidden
	case s == http.StatusNotFound && ours && e.Code != nopsapi.CodeNotOffered:
		e.Kind = KindNotFound
	case s == http.StatusNotFound, s == http.StatusMethodNotAllowed:
		e.Kind, e.Message = KindNotOffered, "the platform does not offer "+path(res)
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
	e.Message, e.Code, e.RequestID = c.line(e.Message), c.line(e.Code), c.line(e.RequestID)
	return e
}

// page says whether a web page answers where JSON was asked for, as applications do for paths they do not know.
func page(res *http.Response) bool {
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && (kind == "text/html" || kind == "application/xhtml+xml")
}

// to names where a redirect leads, without its query.
func to(res *http.Response) string {
	target, err := res.Location()
	if err != nil {
		return ""
	}
	return " to " + target.Scheme + "://" + target.Host + target.Path
}

// path is the request's path without its query.
func path(res *http.Response) string {
	if res.Request == nil {
		return "this"
	}
	return res.Request.Method + " " + res.Request.URL.Path
}

// bare is a path without its query.
func bare(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
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

// proxyRefusal is a proxy that does not connect us.
type proxyRefusal struct {
	proxy  string
	status int
}

func (p *proxyRefusal) Error() string {
	text := fmt.Sprintf("the proxy %s does not connect us: HTTP %d %s", p.proxy, p.status, strings.ToLower(http.StatusText(p.status)))
	return strings.TrimSpace(text)
}

// transportError names what kept the answer away, in words that do not change from one try to the next. outer is the
// caller's context: its end is not the host's fault.
func (c *Client) transportError(outer context.Context, err error) error {
	e := &Error{Kind: KindUnreachable, Host: c.host(), Err: err}
	var (
		dns       *net.DNSError
		unknown   x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		roots     x509.SystemRootsError
		alert     tls.AlertError
		record    tls.RecordHeaderError
		proxy     *proxyRefusal
		operation *net.OpError
	)
	switch {
	case errors.Is(err, context.Canceled):
		e.Kind, e.Message = KindProtocol, "cancelled"
	case errors.As(err, &proxy):
		e.Message = proxy.Error()
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		e.Message = "the proxy cannot be reached: " + rootCause(operation)
	case errors.As(err, &unknown):
		e.Kind, e.Message = KindTLS, "its certificate is signed by an authority that is not trusted here"
	case errors.As(err, &roots):
		e.Kind, e.Message = KindTLS, "no authority is trusted here: there is no bundle of root certificates"
	case errors.As(err, &name):
		e.Kind, e.Message = KindTLS, "its certificate is for another name"
	case errors.As(err, &invalid):
		e.Kind, e.Message = KindTLS, "its certificate is not valid: "+why(invalid)
	case errors.As(err, &alert):
		e.Kind, e.Message = KindTLS, "the TLS handshake failed: "+alert.Error()
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		e.Kind, e.Message = KindTLS, "it does not speak TLS"
	case errors.As(err, &dns):
		e.Message = "no address for this name"
		if dns.IsTimeout {
			e.Message = "looking up this name timed out"
		}
	case errors.Is(outer.Err(), context.DeadlineExceeded):
		e.Message = "no answer in the time that was left"
	case errors.Is(err, context.DeadlineExceeded):
		e.Message = fmt.Sprintf("no answer within %s", c.o.Timeout)
	case errors.As(err, &operation) && operation.Op == "dial":
		e.Message = "cannot connect: " + rootCause(operation)
	default:
		e.Message = "no answer: " + rootCause(err)
	}
	e.Message = c.line(e.Message)
	return e
}

// why is what is wrong with a certificate. For an expired one the library's text holds the current time.
func why(err x509.CertificateInvalidError) string {
	if err.Reason == x509.Expired {
		return "it has expired or is not valid yet; check the clocks, too"
	}
	return err.Error()
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

var userinfo = regexp.MustCompile(`//[^/@\s"]+@`)

// line is what a server or a library says as one line that is not endless and does not hold the key.
func (c *Client) line(text string) string {
	const most = 400
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }), " ")
	text = userinfo.ReplaceAllString(text, "//[redacted]@") // a proxy's URL may hold a password
	if c.o.Key != "" {
		text = strings.ReplaceAll(text, c.o.Key, "[API key]")
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
