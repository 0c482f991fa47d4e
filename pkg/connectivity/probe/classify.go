package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// coded is an error that knows its code.
type coded struct {
	code Code
	text string
}

func (c coded) Error() string { return c.text }

// notHTTP marks what http.ReadResponse says of bytes that are no answer.
type notHTTP struct{ err error }

func (n notHTTP) Error() string { return n.err.Error() }
func (n notHTTP) Unwrap() error { return n.err }

// httpErr tells a connection that broke from one that brought something else than HTTP.
func httpErr(err error) error {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errnoOf(err) != 0 {
		return err
	}
	return notHTTP{err}
}

// Windows' socket errors are not the syscall package's E constants.
const (
	wsaNetUnreach  = syscall.Errno(10051)
	wsaReset       = syscall.Errno(10054)
	wsaTimedOut    = syscall.Errno(10060)
	wsaRefused     = syscall.Errno(10061)
	wsaHostUnreach = syscall.Errno(10065)
)

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return 0
}

// classify turns an error into a code and one stable line: no ports of our side, no memory addresses, no clock times beyond
// the certificate's own dates.
func classify(ctx context.Context, err error, now time.Time, timeout time.Duration) (Code, string) {
	var (
		own         coded
		dns         *net.DNSError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		invalid     x509.CertificateInvalidError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		foreign     notHTTP
		where       = whereOf(err)
		netErr      net.Error
		netTimedOut = errors.As(err, &netErr) && netErr.Timeout()
	)
	switch {
	case errors.As(err, &own):
		return own.code, own.text
	case errors.Is(context.Cause(ctx), context.Canceled):
		return CodeCancelled, where + "cancelled"
	case errors.As(err, &dns):
		switch {
		case dns.IsNotFound:
			return CodeNXDomain, dns.Name + ": the name does not exist"
		case dns.IsTimeout:
			return CodeTimeout, fmt.Sprintf("%s: the resolver did not answer within %s", dns.Name, timeout)
		default:
			return CodeDNSFailure, fmt.Sprintf("%s: the resolver answered with an error: %s", dns.Name, dns.Err)
		}
	case errors.As(err, &authority):
		by := "an unnamed issuer"
		if authority.Cert != nil {
			by = issuer(authority.Cert)
		}
		return CodeUnknownAuthority, where + "the certificate is signed by an authority that is not trusted here: " + by
	case errors.As(err, &hostname):
		names := "no name"
		if c := hostname.Certificate; c != nil && len(c.DNSNames)+len(c.IPAddresses) > 0 {
			all := append([]string(nil), c.DNSNames...)
			for _, ip := range c.IPAddresses {
				all = append(all, ip.String())
			}
			names = strings.Join(all, ", ")
		}
		return CodeNameMismatch, fmt.Sprintf("%sthe certificate is for %s, not for %s", where, names, hostname.Host)
	case errors.As(err, &invalid):
		if invalid.Reason == x509.Expired && invalid.Cert != nil {
			if now.Before(invalid.Cert.NotBefore) {
				return CodeNotYetValid, fmt.Sprintf("%sthe certificate is valid from %s on, which is in the future", where, invalid.Cert.NotBefore.UTC().Format(time.DateOnly))
			}
			return CodeExpired, fmt.Sprintf("%sthe certificate expired on %s", where, invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
		}
		return CodeTLSFailure, where + "the certificate is not valid: " + invalid.Error()
	case errors.As(err, &record):
		return CodeNotTLS, where + "what answers does not speak TLS"
	case errors.As(err, &alert):
		return CodeTLSFailure, where + alert.Error()
	case netTimedOut, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errnoOf(err) == syscall.ETIMEDOUT, errnoOf(err) == wsaTimedOut:
		return CodeTimeout, fmt.Sprintf("%sno answer within %s", where, timeout)
	}
	switch errnoOf(err) {
	case syscall.ECONNREFUSED, wsaRefused:
		return CodeRefused, where + "connection refused"
	case syscall.ECONNRESET, syscall.EPIPE, wsaReset:
		return CodeReset, where + "the connection was cut"
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, wsaHostUnreach, wsaNetUnreach:
		return CodeUnreachable, where + "no route"
	}
	switch {
	case errors.As(err, &foreign):
		return CodeNotHTTP, where + "what answers does not speak HTTP"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return CodeClosed, where + "the connection was closed without an answer"
	}
	return CodeUnknown, where + innermost(err)
}

// whereOf is the prefix that our own wrapping put before the error.
func whereOf(err error) string {
	inner := errors.Unwrap(err)
	var op *net.OpError
	if inner == nil || errors.As(err, &op) && err == error(op) { //nolint:errorlint // asks whether it is this very error, not one around it
		return ""
	}
	where, found := strings.CutSuffix(err.Error(), inner.Error())
	if !found || !strings.HasSuffix(where, ": ") {
		return ""
	}
	return where
}

// innermost is the text of the last error in the chain of net.OpErrors, whose own text holds ports.
func innermost(err error) string {
	var op *net.OpError
	for errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
