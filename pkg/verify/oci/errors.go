package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

func sprintf(format string, args ...any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}

// size is a limit as people read it.
func size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// named is an error as a finding, with who is to blame before it: "registry public.ecr.aws …", "layout DIR …". What a registry
// wrote itself never gets into the text: it could be made to be read by a terminal.
func named(who string, err error) *Error {
	var done *Error
	if errors.As(err, &done) {
		return done
	}
	reason, text := explain(err)
	return &Error{Finding: verdict.Fail(reason, "%s %s", who, text), Err: err}
}

func explain(err error) (verdict.Reason, string) {
	var known *problem
	var refused *errcode.ErrorResponse
	var at *url.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &known):
		return known.reason, known.text
	case errors.Is(err, context.DeadlineExceeded):
		return verdict.TimedOut, "does not answer in time"
	case errors.Is(err, context.Canceled):
		return verdict.TimedOut, "was not waited for: stopped"
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return verdict.RegistryDenied, "does not give it to anonymous readers"
	case errors.As(err, &refused):
		reason, text := explainStatus(refused.StatusCode)
		return reason, text
	case errors.Is(err, io.ErrUnexpectedEOF):
		return verdict.RegistryOdd, "breaks off in the middle of an answer"
	case errors.As(err, &dns) && dns.IsNotFound:
		return verdict.RegistryUnreachable, "cannot be reached: no such host"
	case errors.As(err, &at):
		if at.Timeout() {
			return verdict.TimedOut, "does not answer in time"
		}
		return verdict.RegistryUnreachable, "cannot be reached: " + printable(at.Err.Error())
	}
	return verdict.RegistryOdd, "gives an answer that cannot be used: " + printable(err.Error())
}

// explainStatus says what an HTTP status means for whoever asked for an artifact.
func explainStatus(status int) (verdict.Reason, string) {
	switch status {
	case http.StatusNotFound:
		return verdict.NotFound, "has no such image"
	case http.StatusUnauthorized, http.StatusForbidden:
		return verdict.RegistryDenied, fmt.Sprintf("does not give it to this reader (HTTP %d)", status)
	case http.StatusTooManyRequests:
		return verdict.RegistryOdd, "is asked too often (HTTP 429): wait, or log in to it"
	case http.StatusProxyAuthRequired:
		return verdict.RegistryUnreachable, "cannot be reached: the proxy wants to know who asks (HTTP 407)"
	}
	return verdict.RegistryOdd, fmt.Sprintf("answers HTTP %d", status)
}

// statusOf is an answer that is not success, as an error.
func statusOf(res *http.Response) error {
	reason, text := explainStatus(res.StatusCode)
	return failf(reason, &errcode.ErrorResponse{Method: res.Request.Method, URL: res.Request.URL, StatusCode: res.StatusCode}, "%s", text)
}

// printable is foreign text that cannot move a cursor, in one line of bearable length.
func printable(s string) string {
	const longest = 300
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

// Explain is what an error that some registry caused means, as the errors of this package say it.
func Explain(at ref.Reference, err error) *Error { return named("registry "+at.Registry, err) }
