package oci

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// maxRedirects is more than any registry needs: one to its store.
const maxRedirects = 5

// checkRedirect refuses redirects that a registry has no business to make: from HTTPS to HTTP, to link-local addresses (where
// clouds keep their machines' credentials), and from a public registry into the network that nopsctl runs in.
func (r *Registry) checkRedirect(req *http.Request, via []*http.Request, registry string) error {
	from, to := via[len(via)-1].URL, req.URL
	switch {
	case len(via) > maxRedirects:
		return failf(verdict.RegistryOdd, nil, "redirects more than %d times", maxRedirects)
	case to.Scheme != "https" && (to.Scheme != "http" || from.Scheme != "http"):
		return failf(verdict.RegistryOdd, nil, "redirects from %s to %s, which is not followed", from.Scheme, printable(to.Scheme))
	}
	home := (&url.URL{Host: registry}).Hostname()
	if strings.EqualFold(to.Hostname(), home) {
		return nil
	}
	reach := worst(r.addresses(req.Context(), to.Hostname()))
	if reach == public {
		return nil
	}
	if reach == linkLocal || reach > worst(r.addresses(req.Context(), home)) {
		return failf(verdict.RegistryOdd, nil, "redirects to %s, %s, which is not followed", printable(to.Hostname()), reach)
	}
	return nil
}

// reach is how far an address is from the world. What is greater is nearer to this machine.
type reach int

const (
	public reach = iota
	private
	loopback
	linkLocal
)

// String is the reach in a sentence.
func (r reach) String() string {
	return [...]string{"a public address", "an address of a private network", "an address of this machine", "a link-local address"}[r]
}

var (
	carrierNAT = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598; holds Alibaba Cloud's metadata service
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in the last four bytes
	ec2v6      = netip.MustParseAddr("fd00:ec2::254")  // EC2's metadata service
)

func reachOf(a netip.Addr) reach {
	a = a.WithZone("").Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLinkLocalUnicast(), a.IsMulticast(), a == ec2v6, a == netip.MustParseAddr("100.100.100.200"):
		return linkLocal
	case a.IsLoopback(), a.IsUnspecified(), thisNet.Contains(a):
		return loopback
	case a.IsPrivate(), carrierNAT.Contains(a):
		return private
	}
	return public
}

func worst(all []netip.Addr) reach {
	found := public
	for _, a := range all {
		found = max(found, reachOf(a))
	}
	return found
}

// addresses of a host. None where it cannot be resolved: behind a proxy only that can, and what has no address gets no packet.
func (r *Registry) addresses(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	all, err := r.o.Lookup(ctx, host)
	if err != nil {
		return nil
	}
	return all
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	return all, nil
}

// isLoopbackName says which registries are asked over plain HTTP: those of this machine.
func isLoopbackName(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// statusIn is the HTTP status inside an error, or zero.
func statusIn(err error) int {
	var refused *errcode.ErrorResponse
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}
