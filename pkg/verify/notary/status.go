package notary

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// statusOptions say how certificates' revocation is asked for (OCSP, CRL).
type statusOptions struct {
	allowPrivate bool
	proxy        func(*http.Request) (*url.URL, error)
	resolver     *net.Resolver // nil means the system's
}

const statusTime = 5 * time.Second

// errForbidden is of an address that no certificate may send anybody to.
var errForbidden = errors.New("a loopback, link-local or private address, which certificates may name only where the user says so")

// client asks at the addresses that certificates name.
func (o statusOptions) client() *http.Client {
	dial := &net.Dialer{Timeout: statusTime, Resolver: o.resolver, Control: func(_, address string, _ syscall.RawConn) error {
		// After resolving: what the name means is decided by whoever owns it.
		if to, err := netip.ParseAddrPort(address); err != nil || !o.allowed(to.Addr()) {
			return fmt.Errorf("%s: %w", address, errForbidden)
		}
		return nil
	}}
	direct := &http.Transport{DialContext: dial.DialContext, DisableKeepAlives: true, ResponseHeaderTimeout: statusTime, MaxResponseHeaderBytes: 64 << 10}
	through := &http.Transport{Proxy: o.proxy, DisableKeepAlives: true, ResponseHeaderTimeout: statusTime, MaxResponseHeaderBytes: 64 << 10}
	return &http.Client{Timeout: statusTime, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
			return nil, fmt.Errorf("%q is no address of the web", r.URL.Redacted())
		}
		host := r.URL.Hostname()
		if ip, err := netip.ParseAddr(host); err == nil && !o.allowed(ip) || !o.allowPrivate && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
			return nil, fmt.Errorf("%s: %w", host, errForbidden)
		}
		if o.proxy != nil {
			if p, err := o.proxy(r); err != nil || p != nil {
				return through.RoundTrip(r) // the user's own proxy may be at any address
			}
		}
		return direct.RoundTrip(r)
	}), CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 2 {
			return errors.New("redirected more than twice")
		}
		return nil
	}}
}

func (o statusOptions) allowed(ip netip.Addr) bool {
	ip = ip.Unmap()
	global := ip.IsValid() && ip.IsGlobalUnicast() && !ip.IsPrivate() && !reserved(ip)
	// The metadata services of clouds are never a responder.
	return global || o.allowPrivate && (ip.IsPrivate() || ip.IsLoopback())
}

// reserved are networks that netip takes for global and that lead nowhere public: shared address space, and IPv4 inside IPv6.
func reserved(ip netip.Addr) bool {
	for _, p := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fd00:ec2::/32"} {
		if netip.MustParsePrefix(p).Contains(ip) {
			return true
		}
	}
	return false
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// statusCheckers are the validators of the signer's chain and of the time stamping authority's. trusted are the certificates
// that the signature's chain was found to contain.
func (c *check) statusCheckers(trusted []*x509.Certificate) (signing, stamping revocation.Validator, err error) {
	lists, err := crl.NewHTTPFetcher(c.e.status)
	if err != nil {
		return nil, nil, err
	}
	validator := func(p purpose.Purpose, who string, roots []*x509.Certificate) (revocation.Validator, error) {
		inner, err := revocation.NewWithOptions(revocation.Options{OCSPHTTPClient: c.e.status, CRLFetcher: lists, CertChainPurpose: p})
		return statusValidator{c: c, who: who, inner: inner, roots: roots}, err
	}
	if signing, err = validator(purpose.CodeSigning, whoSigner, trusted); err != nil {
		return nil, nil, err
	}
	stamping, err = validator(purpose.Timestamping, whoTSA, c.tsa())
	return signing, stamping, err
}

// statusValidator asks the library's validator, keeps what it says apart by what it means, and asks nobody in the name of a chain
// that is not trusted.
type statusValidator struct {
	c     *check
	who   string // a word for messages, and whose chain it is
	inner revocation.Validator
	roots []*x509.Certificate
}

var _ revocation.Validator = statusValidator{}

const (
	whoSigner = "certificate"
	whoTSA    = "time stamping certificate"
)

func (v statusValidator) signer() bool { return v.who == whoSigner }

// ValidateContext implements revocation.Validator.
func (v statusValidator) ValidateContext(ctx context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	c := v.c
	if c.leaf.Method != policy.MethodNotation || !slices.ContainsFunc(o.CertChain, func(in *x509.Certificate) bool { return slices.ContainsFunc(v.roots, in.Equal) }) {
		return nil, fmt.Errorf("the revocation of a %s is asked for before its chain is trusted", v.who)
	}
	if c.rule.Revocation == policy.RevocationOff {
		return fine(len(o.CertChain)), nil
	}
	results, err := v.inner.ValidateContext(ctx, o)
	if err != nil {
		c.unknown = &UnansweredError{Reason: verdict.RevocationUnknown, Message: fmt.Sprintf("whether a %s was revoked: %v", v.who, err), Err: err}
		return v.tolerate(results, err, len(o.CertChain))
	}
	if len(results) != len(o.CertChain) {
		return nil, fmt.Errorf("%d answers about %d certificates", len(results), len(o.CertChain))
	}
	asked := 0
	for i, r := range results {
		switch r.Result {
		case result.ResultRevoked:
			c.revoked = &RevokedError{Reason: verdict.CertificateRevoked, Message: fmt.Sprintf("the %s %q was revoked", v.who, o.CertChain[i].Subject)}
			return results, nil
		case result.ResultNonRevokable:
			// The library calls this fine. Where the rule demands that it be known, nothing can say so is not knowing.
			if i == 0 && v.signer() && c.rule.Revocation == policy.RevocationRequire {
				c.unknown = &UnansweredError{Reason: verdict.RevocationUnknown, Message: fmt.Sprintf("the certificate %q names no place that could say whether it was revoked", o.CertChain[i].Subject)}
			}
		case result.ResultOK:
			asked++
		case result.ResultUnknown:
			c.unknown = &UnansweredError{Reason: verdict.RevocationUnknown, Message: fmt.Sprintf("whether the %s %q was revoked%s", v.who, o.CertChain[i].Subject, why(r))}
		default:
			c.unknown = &UnansweredError{Reason: verdict.RevocationUnknown, Message: fmt.Sprintf("whether the %s %q was revoked: an answer of an unknown kind, %d", v.who, o.CertChain[i].Subject, r.Result)}
		}
	}
	if c.unknown != nil {
		return v.tolerate(results, nil, len(o.CertChain))
	}
	if c.revocation == "" || asked > 0 {
		c.revocation = "not revoked"
		if asked == 0 {
			c.revocation = "its certificates name no place that could say"
		}
	}
	return results, nil
}

// tolerate lets the time stamping authority's unknown status pass where the rule says best-effort. The library refuses it at every
// level; the signer's it leaves to the level, and that it was unknown is told either way.
func (v statusValidator) tolerate(results []*result.CertRevocationResult, err error, n int) ([]*result.CertRevocationResult, error) {
	if v.c.rule.Revocation == policy.RevocationBestEffort && !v.signer() {
		return fine(n), nil
	}
	return results, err
}

func fine(n int) []*result.CertRevocationResult {
	all := make([]*result.CertRevocationResult, n)
	for i := range all {
		all[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	return all
}

func why(r *result.CertRevocationResult) string {
	for _, s := range r.ServerResults {
		if s != nil && s.Error != nil {
			if s.Server != "" {
				return fmt.Sprintf(": %s: %s", s.Server, lastLine(s.Error))
			}
			return ": " + lastLine(s.Error)
		}
	}
	return ""
}
