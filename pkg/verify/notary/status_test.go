package notary

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// TestCertificateStatus: OCSP and CRLs, in each mode.
func TestCertificateStatus(t *testing.T) {
	w := newWorld(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("no answer of that kind")) }))
	defer broken.Close()
	for _, tc := range []struct {
		name                string
		ocsp, crl           string // "ok": the responder
		revoke              int    // certificate of the chain; -1: none
		require, bestEffort verdict.Reason
	}{
		{"OCSP says good", "ok", "", -1, "", ""},
		{"OCSP says revoked", "ok", "", 0, verdict.CertificateRevoked, verdict.CertificateRevoked},
		{"OCSP says that the issuing certificate was revoked", "ok", "", 1, verdict.CertificateRevoked, verdict.CertificateRevoked},
		{"OCSP does not answer", gone.URL, "", -1, verdict.RevocationUnknown, ""},
		{"OCSP answers garbage", broken.URL, "", -1, verdict.RevocationUnknown, ""},
		{"OCSP at no address of the web", "ftp://127.0.0.1/", "", -1, verdict.RevocationUnknown, ""},
		{"the list says good; that of another issuer is not taken", "", "ok", -1, verdict.RevocationUnknown, ""},
		{"the list says revoked", "", "ok", 0, verdict.CertificateRevoked, verdict.CertificateRevoked},
		{"OCSP does not answer, the list says revoked", gone.URL, "ok", 0, verdict.CertificateRevoked, verdict.CertificateRevoked},
		{"no list to be had", "", gone.URL, -1, verdict.RevocationUnknown, ""},
	} {
		status := &signing.CertificateStatus{}
		responder := httptest.NewServer(status)
		at := func(s string) string {
			if s == "ok" {
				return responder.URL
			}
			return s
		}
		a := w.authority(signing.AuthorityOptions{Organization: "Example", OCSP: at(tc.ocsp), CRL: at(tc.crl)})
		status.Of(a)
		sig := w.sign(a, signing.NotaryOptions{})
		chain, err := a.Chain(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if tc.revoke >= 0 {
			status.Revoke(chain[tc.revoke], time.Now().Add(-time.Hour))
		}
		e := w.engine(func(o *Options) {
			o.AllowPrivate = true
			o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{a.Root().Raw}}}
		})
		w.want(tc.name+", require", e.Verify(t.Context(), w.artifact, sig, require, corpLeaf), tc.require, "")
		f := e.Verify(t.Context(), w.artifact, sig, best, corpLeaf)
		w.want(tc.name+", best effort", f, tc.bestEffort, "")
		if f.Outcome.OK() && tc.require != "" && !strings.HasPrefix(f.Revocation, "not checked: ") {
			t.Errorf("%s: passes as %q", tc.name, f.Revocation)
		}
		before := status.Asked()
		w.want(tc.name+", off", e.Verify(t.Context(), w.artifact, sig, off, corpLeaf), "", "")
		if got := status.Asked() - before; got != 0 {
			t.Errorf("%s, off: asked %d times", tc.name, got)
		}
		responder.Close()
	}
}

// TestNobodyIsAskedForStrangers: the addresses in a chain that nobody trusts are never called, nor those of a good chain whose
// signature is not good.
func TestNobodyIsAskedForStrangers(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int64
	responder := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer responder.Close()
	o := signing.AuthorityOptions{Organization: "Example", OCSP: responder.URL, CRL: responder.URL}
	stranger, trusted := w.authority(o), w.authority(o)
	e := w.engine(func(o *Options) {
		o.AllowPrivate = true
		o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{trusted.Root().Raw}}}
	})
	elsewhere := w.artifact
	elsewhere.Descriptor.Size++
	expired := signing.NotaryOptions{SignedAt: time.Now().Add(-time.Hour), Expires: time.Now().Add(-time.Minute)}
	w.want("a stranger's", e.Verify(t.Context(), w.artifact, w.sign(stranger, signing.NotaryOptions{}), require, corpLeaf), verdict.UntrustedRoot, "")
	w.want("another artifact's", e.Verify(t.Context(), elsewhere, w.sign(trusted, signing.NotaryOptions{}), require, corpLeaf), verdict.WrongArtifact, "")
	w.want("expired", e.Verify(t.Context(), w.artifact, w.sign(trusted, expired), require, corpLeaf), verdict.SignatureExpired, "")
	somebody := corpLeaf
	somebody.Subjects = []string{corpSubject + ",CN=Somebody"}
	w.want("somebody else's", e.Verify(t.Context(), w.artifact, w.sign(trusted, signing.NotaryOptions{}), require, somebody), verdict.WrongIdentity, "")
	if n := calls.Load(); n != 0 {
		t.Errorf("the responder was called %d times", n)
	}
	w.want("a good one", e.Verify(t.Context(), w.artifact, w.sign(trusted, signing.NotaryOptions{}), require, corpLeaf), verdict.RevocationUnknown, "")
	if calls.Load() == 0 {
		t.Error("the responder was not called for a good one either: this test proves nothing")
	}
	// The last line of defence, asked directly.
	chain, _ := stranger.Chain(time.Now())
	v := statusValidator{c: &check{e: e, rule: require, leaf: corpLeaf}, who: whoSigner, roots: e.stores["corp"].authorities}
	if _, err := v.ValidateContext(t.Context(), revocation.ValidateContextOptions{CertChain: chain}); err == nil {
		t.Error("a chain that is not trusted was asked about")
	}
}

// TestAddressesOfCertificates: where a certificate's addresses may not lead, unless the user says so.
func TestAddressesOfCertificates(t *testing.T) {
	for _, tc := range []struct {
		ip           string
		free, inside bool
	}{
		{"93.184.216.34", true, true}, {"2606:2800:220:1::1", true, true},
		{"127.0.0.1", false, true}, {"::1", false, true}, {"::ffff:127.0.0.1", false, true},
		{"10.0.0.1", false, true}, {"172.16.0.1", false, true}, {"192.168.1.1", false, true}, {"fd00::1", false, true}, {"::ffff:10.0.0.1", false, true},
		{"169.254.169.254", false, false}, {"::ffff:169.254.169.254", false, false}, {"fe80::1", false, false}, {"169.254.170.2", false, false},
		{"0.0.0.0", false, false}, {"::", false, false}, {"224.0.0.1", false, false}, {"ff02::1", false, false}, {"255.255.255.255", false, false},
		{"100.64.0.1", false, false}, {"64:ff9b::a9fe:a9fe", false, false}, {"2002:7f00:1::", false, false}, {"0.1.2.3", false, false},
	} {
		ip := netip.MustParseAddr(tc.ip)
		if got := (statusOptions{}).allowed(ip); got != tc.free {
			t.Errorf("%s is allowed: %v, want %v", tc.ip, got, tc.free)
		}
		if got := (statusOptions{allowPrivate: true}).allowed(ip); got != tc.inside {
			t.Errorf("%s is allowed where private addresses are: %v, want %v", tc.ip, got, tc.inside)
		}
	}
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer server.Close()
	get := func(o statusOptions, target string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := o.client().Do(r)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	port := server.Listener.Addr().String()[len("127.0.0.1"):]
	for _, target := range []string{server.URL, "http://localhost" + port, "http://x.localhost" + port, "http://[::ffff:127.0.0.1]" + port, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"} {
		if err := get(statusOptions{}, target); err == nil || !errors.Is(err, errForbidden) && !strings.Contains(err.Error(), "address of the web") {
			t.Errorf("%s: %v", target, err)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Fatalf("%d calls came through", n)
	}
	if err := get(statusOptions{allowPrivate: true}, server.URL); err != nil || calls.Load() != 1 {
		t.Errorf("allowed, and %v, %d calls", err, calls.Load())
	}
	for _, to := range []string{"http://169.254.169.254/", "gopher://127.0.0.1/"} {
		if err := get(statusOptions{allowPrivate: true}, server.URL+"?to="+url.QueryEscape(to)); err == nil {
			t.Errorf("redirected to %s", to)
		}
	}
	before := calls.Load()
	if err := get(statusOptions{allowPrivate: true}, server.URL+"?to="+url.QueryEscape(server.URL+"?to="+url.QueryEscape(server.URL+"?to="+url.QueryEscape(server.URL)))); err == nil || calls.Load()-before > 3 {
		t.Errorf("redirected for ever: %v, %d calls", err, calls.Load()-before)
	}
	// Through the user's proxy, which may be anywhere; the target may not.
	proxy := func(*http.Request) (*url.URL, error) { return url.Parse(server.URL) }
	before = calls.Load()
	if err := get(statusOptions{proxy: proxy}, "http://ocsp.example/"); err != nil || calls.Load() != before+1 {
		t.Errorf("through the proxy: %v, %d calls", err, calls.Load()-before)
	}
	if err := get(statusOptions{proxy: proxy}, "http://10.0.0.1/"); !errors.Is(err, errForbidden) {
		t.Errorf("through the proxy to a private address: %v", err)
	}
	// By a name of the web whose owner says that it is here.
	names := resolver(t, [4]byte{127, 0, 0, 1})
	before = calls.Load()
	if err := get(statusOptions{resolver: names}, "http://ocsp.example"+port); !errors.Is(err, errForbidden) || calls.Load() != before {
		t.Errorf("by a name that leads here: %v, %d calls", err, calls.Load()-before)
	}
	if err := get(statusOptions{resolver: names, allowPrivate: true}, "http://ocsp.example"+port); err != nil || calls.Load() != before+1 {
		t.Errorf("by a name that leads here, and may: %v", err)
	}
	if err := get(statusOptions{resolver: resolver(t, [4]byte{169, 254, 169, 254}), allowPrivate: true}, "http://ocsp.example/"); !errors.Is(err, errForbidden) {
		t.Errorf("by a name that leads to a cloud's metadata: %v", err)
	}
	// And as an engine: the address stands in a certificate that is trusted.
	w := newWorld(t)
	a := w.authority(signing.AuthorityOptions{Organization: "Example", OCSP: server.URL})
	e := w.engine(func(o *Options) {
		o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{a.Root().Raw}}}
	})
	before = calls.Load()
	w.want("a private responder", e.Verify(t.Context(), w.artifact, w.sign(a, signing.NotaryOptions{}), require, corpLeaf), verdict.RevocationUnknown, "private address")
	if calls.Load() != before {
		t.Error("it was called all the same")
	}
}

// resolver knows one address, whatever it is asked for.
func resolver(t *testing.T, address [4]byte) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: address}}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = server.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// TestStampersStatus: what is unknown of a time stamping authority's certificate follows the rule's mode; what is revoked does not.
func TestStampersStatus(t *testing.T) {
	w := newWorld(t)
	sig := w.sign(w.corp, signing.NotaryOptions{TSA: w.tsa})
	e := w.engine()
	w.want("nothing to ask", e.Verify(t.Context(), w.artifact, sig, best, tsaLeaf), "", "")
	// A validator that says what a responder would.
	tsaChain := w.tsa.Chain()
	for _, tc := range []struct {
		name   string
		inner  revocation.Validator
		rule   policy.Rule
		fatal  bool
		failed bool
	}{
		{"revoked, require", revokedValidator{}, require, true, false},
		{"revoked, best effort", revokedValidator{}, best, true, false},
		{"unknown, require", failing{}, require, false, true},
		{"unknown, best effort", failing{}, best, false, false},
		{"unknown, off", failing{}, off, false, false},
	} {
		c := &check{e: e, rule: tc.rule, leaf: tsaLeaf}
		_, err := statusValidator{c: c, who: whoTSA, inner: tc.inner, roots: e.stores["corp-tsa"].tsa}.ValidateContext(t.Context(), revocation.ValidateContextOptions{CertChain: tsaChain})
		if (c.revoked != nil) != tc.fatal || (err != nil) != tc.failed {
			t.Errorf("%s: revoked %v, error %v", tc.name, c.revoked, err)
		}
		if unknown := c.unknown != nil; unknown != (!tc.fatal && tc.rule.Revocation != policy.RevocationOff) {
			t.Errorf("%s: unknown %v", tc.name, c.unknown)
		}
	}
}

// TestStampersRevoked: a responder that says so of the time stamping authority's certificate, through the whole verification.
func TestStampersRevoked(t *testing.T) {
	w := newWorld(t)
	status := &signing.CertificateStatus{}
	responder := httptest.NewServer(status)
	defer responder.Close()
	tsa, err := signing.NewTSAWithStatus(responder.URL)
	if err != nil {
		t.Fatal(err)
	}
	e := w.engine(func(o *Options) {
		o.AllowPrivate = true
		o.Trust.Stores = []policy.Store{{Name: "corp-tsa", Certificates: [][]byte{w.corp.Root().Raw}, TSA: [][]byte{tsa.Root().Raw}}}
	})
	sig := w.sign(w.corp, signing.NotaryOptions{TSA: tsa})
	f := e.Verify(t.Context(), w.artifact, sig, best, tsaLeaf)
	w.want("nobody knows", f, "", "")
	if !strings.HasPrefix(f.Revocation, "not checked: ") || f.SignedAt.IsZero() {
		t.Errorf("passes as %q, signed at %s", f.Revocation, f.SignedAt)
	}
	w.want("nobody knows, required", e.Verify(t.Context(), w.artifact, sig, require, tsaLeaf), verdict.RevocationUnknown, "time stamping")
	status.OfTSA(tsa)
	w.want("good", e.Verify(t.Context(), w.artifact, sig, best, tsaLeaf), "", "")
	status.Revoke(tsa.Chain()[0], time.Now().Add(-time.Hour))
	for _, rule := range []policy.Rule{best, require} {
		w.want("revoked, "+string(rule.Revocation), e.Verify(t.Context(), w.artifact, sig, rule, tsaLeaf), verdict.CertificateRevoked, "time stamping")
	}
	w.want("revoked, off", e.Verify(t.Context(), w.artifact, sig, off, tsaLeaf), "", "")
}

// TestOddNames: names of certificates that once cost the parser all memory, or that read as something else.
func TestOddNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"x=#", "=#ffffffff", "Release,O=Other", "Release+OU=x", "\u202eesaeleR", "Release\x1b[31m", strings.Repeat("#=", 30000), "*"} {
		a := w.authority(signing.AuthorityOptions{Organization: "Example", Signer: name})
		e := w.engine(func(o *Options) {
			o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{a.Root().Raw}}}
		})
		leaf := corpLeaf
		leaf.Subjects = []string{corpSubject + ",CN=Release"}
		f := e.Verify(t.Context(), w.artifact, w.sign(a, signing.NotaryOptions{}), best, leaf)
		w.want(fmt.Sprintf("%.20q", name), f, verdict.WrongIdentity, "")
		if len(f.Message) > 1100 || len(f.Identity) > 1100 || strings.ContainsAny(f.Identity, "\x1b\u202e") {
			t.Errorf("%.20q: told as %q, %d characters", name, f.Identity, len(f.Message))
		}
	}
}

type failing struct{}

var errFailing = errors.New("no answer")

func (failing) ValidateContext(context.Context, revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	return nil, errFailing
}
