package probe

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const canary = "4242.00112233445566778899aabbccddeeff"

// authority is a CA of the test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a authority) issue(t *testing.T, name string, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// local resolves every name to this machine.
func local(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }

func tlsServer(t *testing.T, cert tls.Certificate, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// named is the server's address with a name in place of the IP.
func named(s *httptest.Server, name string) string {
	u, _ := url.Parse(s.URL)
	u.Host = net.JoinHostPort(name, u.Port())
	return u.String()
}

// raw serves connections with a function.
func raw(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	return l.Addr().String()
}

func refusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// outcome is a result with what changes from run to run left out.
type outcome struct {
	Stage, Outcome string
	Code           Code
}

func outcomes(r Result) []outcome {
	var all []outcome
	for _, s := range r.Stages {
		all = append(all, outcome{s.Stage, s.Outcome, s.Code})
	}
	return all
}

func TestRun(t *testing.T) {
	ca := newAuthority(t)
	now := time.Now()
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	good := tlsServer(t, ca.issue(t, "app.nops.test", now.Add(-time.Hour), now.Add(time.Hour)), hello)
	other := tlsServer(t, ca.issue(t, "other.test", now.Add(-time.Hour), now.Add(time.Hour)), hello)
	expired := tlsServer(t, ca.issue(t, "app.nops.test", now.Add(-48*time.Hour), now.Add(-24*time.Hour)), hello)
	future := tlsServer(t, ca.issue(t, "app.nops.test", now.Add(24*time.Hour), now.Add(48*time.Hour)), hello)
	plain := httptest.NewServer(hello)
	t.Cleanup(plain.Close)
	status := func(code int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(s.Close)
		return s
	}
	hang := make(chan struct{})
	slow := raw(t, func(c net.Conn) { <-hang })
	t.Cleanup(func() { close(hang) })
	mute := raw(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1024)) })
	ssh := raw(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
		_, _ = c.Read(make([]byte, 1024))
	})
	nx := func(_ context.Context, host string) ([]string, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}

	ok := []outcome{{"dns", OK, ""}, {"tcp", OK, ""}, {"tls", OK, ""}, {"http", OK, ""}}
	okPlain := []outcome{{"dns", Skipped, ""}, {"tcp", OK, ""}, {"tls", Skipped, ""}, {"http", OK, ""}}
	failing := func(at string, code Code) []outcome {
		var all []outcome
		failed := false
		for _, s := range []string{"dns", "tcp", "tls", "http"} {
			switch {
			case s == at:
				failed = true
				all = append(all, outcome{s, Failed, code})
			case failed:
				all = append(all, outcome{s, Skipped, ""})
			default:
				all = append(all, outcome{s, OK, ""})
			}
		}
		return all
	}
	skipping := func(all []outcome, stages ...string) []outcome {
		for i := range all {
			for _, s := range stages {
				if all[i].Stage == s {
					all[i].Outcome = Skipped
				}
			}
		}
		return all
	}

	cases := []struct {
		name, reason string
		target       Target
		want         []outcome
		wantError    string
		wantStatus   int
	}{
		{
			name: "all well", reason: "a CA of one's own is trusted besides the system's roots",
			target: Target{URL: named(good, "app.nops.test"), CABundle: ca.pem, Resolve: local}, want: ok, wantStatus: 200,
		},
		{
			name: "plain http by address", reason: "no name, no encryption: skipped, not failed",
			target: Target{URL: plain.URL}, want: okPlain, wantStatus: 200,
		},
		{
			name: "no such name", reason: "a typo or split DNS", target: Target{URL: "https://app.nops.test", Resolve: nx},
			want: failing("dns", CodeNXDomain), wantError: "app.nops.test: the name does not exist",
		},
		{
			name: "resolver broken", reason: "SERVFAIL is not NXDOMAIN",
			target: Target{URL: "https://app.nops.test", Resolve: func(_ context.Context, host string) ([]string, error) {
				return nil, &net.DNSError{Err: "server misbehaving", Name: host, Server: "10.0.0.1:53", IsTemporary: true}
			}},
			want: failing("dns", CodeDNSFailure), wantError: "app.nops.test: the resolver answered with an error: server misbehaving",
		},
		{
			name: "resolver silent", reason: "timeouts of the resolver name it",
			target: Target{URL: "https://app.nops.test", Timeout: 20 * time.Millisecond, Resolve: func(ctx context.Context, host string) ([]string, error) {
				<-ctx.Done()
				return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true}
			}},
			want: failing("dns", CodeTimeout), wantError: "app.nops.test: the resolver did not answer within 20ms",
		},
		{
			name: "nothing listens", reason: "refused", target: Target{URL: "http://" + refusedAddress(t)},
			want: skipping(failing("tcp", CodeRefused), "dns"), wantError: "connection refused",
		},
		{
			name: "issuer unknown", reason: "a middlebox or a private CA without a bundle",
			target: Target{URL: named(good, "app.nops.test"), Resolve: local},
			want:   failing("tls", CodeUnknownAuthority), wantError: "not trusted here: test authority",
		},
		{
			name: "certificate of another", reason: "DNS points at the wrong place",
			target: Target{URL: named(other, "app.nops.test"), CABundle: ca.pem, Resolve: local},
			want:   failing("tls", CodeNameMismatch), wantError: "the certificate is for other.test, not for app.nops.test",
		},
		{
			name: "certificate over", reason: "expired", target: Target{URL: named(expired, "app.nops.test"), CABundle: ca.pem, Resolve: local},
			want: failing("tls", CodeExpired), wantError: "the certificate expired on " + now.Add(-24*time.Hour).UTC().Format(time.DateOnly),
		},
		{
			name: "clock behind", reason: "a certificate of the future means a wrong clock, mostly ours",
			target: Target{URL: named(future, "app.nops.test"), CABundle: ca.pem, Resolve: local}, want: failing("tls", CodeNotYetValid),
			wantError: "which is in the future",
		},
		{
			name: "https to a plain server", reason: "wrong port", target: Target{URL: "https://" + strings.TrimPrefix(plain.URL, "http://")},
			want: skipping(failing("tls", CodeNotTLS), "dns"), wantError: "does not speak TLS",
		},
		{
			name: "TLS swallowed", reason: "a firewall that lets SYN through and nothing else",
			target: Target{URL: "https://" + slow, Timeout: 50 * time.Millisecond}, want: skipping(failing("tls", CodeTimeout), "dns"),
			wantError: "no answer within 50ms",
		},
		{
			name: "answer never comes", reason: "slow server", target: Target{URL: "http://" + slow, Timeout: 50 * time.Millisecond},
			want: skipping(failing("http", CodeTimeout), "dns", "tls"), wantError: "no answer within 50ms",
		},
		{
			name: "hung up", reason: "closed without a byte", target: Target{URL: "http://" + mute},
			want: skipping(failing("http", CodeClosed), "dns", "tls"), wantError: "closed without an answer",
		},
		{
			name: "not http", reason: "another protocol", target: Target{URL: "http://" + ssh},
			want: skipping(failing("http", CodeNotHTTP), "dns", "tls"), wantError: "does not speak HTTP",
		},
		{
			name: "server error", reason: "5xx fails by default", target: Target{URL: status(503).URL},
			want: skipping(failing("http", CodeHTTPStatus), "dns", "tls"), wantError: "HTTP 503 Service Unavailable", wantStatus: 503,
		},
		{
			name: "forbidden is an answer", reason: "an unsigned request to AMP proves the way there", target: Target{URL: status(403).URL}, want: okPlain, wantStatus: 403,
		},
		{
			name: "expectation", reason: "the caller decides what an answer must be",
			target: Target{URL: status(404).URL, Expect: func(status int) error {
				if status != 200 {
					return fmt.Errorf("wanted 200, got %d", status)
				}
				return nil
			}},
			want: skipping(failing("http", CodeHTTPStatus), "dns", "tls"), wantError: "wanted 200, got 404", wantStatus: 404,
		},
		{
			name: "garbage address", reason: "user input", target: Target{URL: "https://user:" + canary + "@[::1"}, want: failing("dns", CodeBadURL),
			wantError: "cannot be parsed",
		},
		{name: "no host", reason: "user input", target: Target{URL: "ftp://x"}, want: failing("dns", CodeBadURL), wantError: "not an http or https URL"},
		{
			name: "garbage CA", reason: "a bundle without a certificate would silently be none", target: Target{URL: plain.URL, CABundle: []byte("x")},
			want: failing("dns", CodeBadCA), wantError: "holds no PEM certificate",
		},
		{
			name: "second address works", reason: "one dead address of several is not the host down",
			target: Target{URL: named(good, "app.nops.test"), CABundle: ca.pem, Resolve: func(context.Context, string) ([]string, error) {
				return []string{"127.0.0.1", "127.0.0.0"}, nil
			}}, want: ok, wantStatus: 200,
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.target.Name = "t"
			got := Run(t.Context(), tc.target)
			if diff := cmp.Diff(tc.want, outcomes(got)); diff != "" {
				t.Errorf("%s: -want +got\n%s\n%+v", tc.reason, diff, got)
			}
			if got.Status != tc.wantStatus {
				t.Errorf("status %d, want %d", got.Status, tc.wantStatus)
			}
			failure, failed := got.Failure()
			if failed != (tc.wantError != "") || !strings.Contains(failure.Error, tc.wantError) {
				t.Errorf("error %q, want %q", failure.Error, tc.wantError)
			}
			if failed == got.OK() {
				t.Errorf("OK() = %v", got.OK())
			}
			again := Run(t.Context(), tc.target)
			for i := range again.Stages {
				a, b := again.Stages[i], got.Stages[i]
				a.Millis, b.Millis = 0, 0
				if diff := cmp.Diff(b, a); diff != "" {
					t.Errorf("two runs differ: %s", diff)
				}
			}
			if raw, _ := json.Marshal(got); bytes.Contains(raw, []byte(canary)) {
				t.Errorf("the credential is in the result: %s", raw)
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := raw(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1024)); cancel(); _, _ = c.Read(make([]byte, 1)) })
	got := Run(ctx, Target{URL: "http://" + addr, Timeout: time.Minute})
	if f, _ := got.Failure(); f.Code != CodeCancelled || f.Stage != StageHTTP {
		t.Errorf("got %+v, want cancelled at http", f)
	}
}

func TestRunBoundsBody(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
	}))
	defer s.Close()
	got := Run(t.Context(), Target{URL: s.URL, MaxBody: 1000})
	if !got.OK() || len(got.Body) != 1000 {
		t.Errorf("ok %v, kept %d bytes, want 1000", got.OK(), len(got.Body))
	}
	endless := raw(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for i := range 100000 {
			if _, err := fmt.Fprintf(c, "X-%d: y\r\n", i); err != nil {
				return
			}
		}
	})
	if got := Run(t.Context(), Target{URL: "http://" + endless}); got.OK() {
		t.Errorf("an endless head was taken for an answer: %+v", got.Stages)
	}
}

func TestRunSkew(t *testing.T) {
	date := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Date", date.Format(http.TimeFormat)) }))
	defer s.Close()
	got := Run(t.Context(), Target{URL: s.URL, Now: func() time.Time { return date.Add(5 * time.Minute) }})
	if !got.ServerDate.Equal(date) || got.ClockSkewMillis != 300000 {
		t.Errorf("date %v skew %d, want %v and 300000", got.ServerDate, got.ClockSkewMillis, date)
	}
}

func TestRunRedacts(t *testing.T) {
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you sent %s", r.Header.Get("X-Nops-Api-Key"))
	}))
	defer echo.Close()
	got := Run(t.Context(), Target{
		URL: echo.URL, Header: http.Header{"X-Nops-Api-Key": {canary}},
		Expect: func(int) error { return errors.New("the key " + canary + " is not good") },
	})
	if f, _ := got.Failure(); f.Error != "the key REDACTED is not good" {
		t.Errorf("error %q", f.Error)
	}
	if string(got.Body) != "you sent REDACTED" {
		t.Errorf("body %q: a server that echoes must not leak through us", got.Body)
	}
}

// proxyServer speaks CONNECT and forwards plain requests; it takes all names to be on this machine.
func proxyServer(t *testing.T, user, password string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if u, p, _ := probe.BasicAuth(); u != user || p != password {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		_, port, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect {
			fmt.Fprintf(w, "proxied %s", r.URL)
			return
		}
		if strings.HasPrefix(r.Host, "forbidden.test") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		up, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(up, down) }()
		_, _ = io.Copy(down, up)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestRunThroughProxy(t *testing.T) {
	ca := newAuthority(t)
	good := tlsServer(t, ca.issue(t, "app.nops.test", time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "proxy header %q", r.Header.Get("Proxy-Authorization"))
		}))
	proxy := proxyServer(t, "me", canary)
	via := func(userinfo *url.Userinfo) func(*http.Request) (*url.URL, error) {
		return func(*http.Request) (*url.URL, error) {
			u, err := url.Parse(proxy.URL)
			u.User = userinfo
			return u, err
		}
	}
	nowhere := func(context.Context, string) ([]string, error) {
		return nil, errors.New("the proxy looks names up, not we")
	}
	cases := []struct {
		name, reason string
		target       Target
		stage        string
		code         Code
		body         string
	}{
		{
			name: "tunnel", reason: "https goes through CONNECT, and credentials stay with the proxy", body: `proxy header ""`,
			target: Target{URL: named(good, "app.nops.test"), CABundle: ca.pem, Proxy: via(url.UserPassword("me", canary))},
		},
		{
			name: "plain", reason: "http is forwarded", body: "proxied http://app.nops.test/x",
			target: Target{URL: "http://app.nops.test/x", Proxy: via(url.UserPassword("me", canary))},
		},
		{
			name: "no credentials", reason: "407 is the proxy's, not the platform's", stage: StageTCP, code: CodeProxyAuth,
			target: Target{URL: named(good, "app.nops.test"), CABundle: ca.pem, Proxy: via(nil)},
		},
		{
			name: "refused by the proxy", reason: "an egress allow-list", stage: StageTCP, code: CodeProxyRefused,
			target: Target{URL: "https://forbidden.test", Proxy: via(url.UserPassword("me", canary))},
		},
		{
			name: "proxy gone", reason: "refused names the proxy", stage: StageTCP, code: CodeRefused,
			target: Target{URL: "https://app.nops.test", Proxy: func(*http.Request) (*url.URL, error) {
				return &url.URL{Scheme: "http", Host: refusedAddress(t), User: url.UserPassword("me", canary)}, nil
			}},
		},
		{
			name: "proxy garbage", reason: "HTTPS_PROXY=socks5://…", stage: StageDNS, code: CodeBadURL,
			target: Target{URL: "https://app.nops.test", Proxy: func(*http.Request) (*url.URL, error) { return url.Parse("socks5://" + canary + "@x") }},
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tc.target.Resolve = nowhere
			got := Run(t.Context(), tc.target)
			f, _ := got.Failure()
			if f.Stage != tc.stage || f.Code != tc.code {
				t.Errorf("%s: failed at %q with %q (%s), want %q %q", tc.reason, f.Stage, f.Code, f.Error, tc.stage, tc.code)
			}
			if tc.code == CodeRefused && !strings.HasPrefix(f.Error, "proxy 127.0.0.1: ") {
				t.Errorf("the error %q does not name the proxy", f.Error)
			}
			if string(got.Body) != tc.body {
				t.Errorf("body %q, want %q", got.Body, tc.body)
			}
			if raw, _ := json.Marshal(got); bytes.Contains(raw, []byte(canary)) {
				t.Errorf("the proxy's password is in the result: %s", raw)
			}
		})
	}
}
