package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"
)

// maxHead bounds the status line and headers of an answer.
const maxHead = 64 << 10

// Run tries the target and returns how it went, stage by stage. It never fails otherwise: what goes wrong is the result.
func Run(ctx context.Context, t Target) Result {
	r := &run{target: t, result: Result{Target: t.Name}}
	if r.target.Timeout <= 0 {
		r.target.Timeout = DefaultTimeout
	}
	if r.target.MaxBody <= 0 {
		r.target.MaxBody = DefaultMaxBody
	}
	if r.target.Now == nil {
		r.target.Now = time.Now
	}
	if r.target.Resolve == nil {
		r.target.Resolve = net.DefaultResolver.LookupHost
	}
	defer r.close()

	for _, s := range []struct {
		name string
		do   func(context.Context) (detail string, err error)
	}{
		{StageDNS, r.lookup},
		{StageTCP, r.connect},
		{StageTLS, r.encrypt},
		{StageHTTP, r.ask},
	} {
		r.stage(ctx, s.name, s.do)
	}
	return r.result
}

// run is the state that one stage hands to the next.
type run struct {
	target  Target
	result  Result
	request *http.Request
	proxy   *url.URL // nil when direct
	addrs   []string // of the host, or of the proxy
	conn    net.Conn
	secrets []string
	roots   *x509.CertPool
}

// skip is the way of a stage to say that it has nothing to do.
type skip string

func (s skip) Error() string { return string(s) }

func (r *run) stage(ctx context.Context, name string, do func(context.Context) (string, error)) {
	if failed, is := r.result.Failure(); is {
		r.result.Stages = append(r.result.Stages, StageResult{Stage: name, Outcome: Skipped, Detail: failed.Stage + " failed"})
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.target.Timeout)
	defer cancel()
	start := r.target.Now()
	detail, err := do(ctx)
	s := StageResult{Stage: name, Outcome: OK, Detail: r.redact(detail), Millis: r.target.Now().Sub(start).Milliseconds()}
	switch e := err.(type) { //nolint:errorlint // skip is ours, returned as it is by the stages alone
	case nil:
	case skip:
		s.Outcome, s.Detail = Skipped, string(e)
	default:
		s.Outcome = Failed
		s.Code, s.Error = classify(ctx, err, r.target.Now(), r.target.Timeout)
		s.Error = r.redact(s.Error)
	}
	r.result.Stages = append(r.result.Stages, s)
}

// prepare parses what the caller gave. Its errors count as failures of the first stage: without a name nothing is looked up.
func (r *run) prepare(ctx context.Context) error {
	for _, values := range r.target.Header {
		r.secrets = append(r.secrets, values...)
	}
	u, err := url.Parse(r.target.URL)
	if err != nil {
		// The error of url.Parse quotes the address, which may hold a password.
		return coded{CodeBadURL, "the address cannot be parsed"}
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return coded{CodeBadURL, "the address is not an http or https URL with a host"}
	}
	r.addPassword(u)
	r.result.Host = hostPort(u)

	method := r.target.Method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if len(r.target.Body) > 0 {
		body = bytes.NewReader(r.target.Body)
	}
	r.request, err = http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return coded{CodeBadURL, fmt.Sprintf("the request cannot be built for method %q", method)}
	}
	for k, v := range r.target.Header {
		r.request.Header[k] = append([]string(nil), v...)
	}
	if r.request.Header.Get("User-Agent") == "" {
		r.request.Header.Set("User-Agent", "nops-connectivity-probe")
	}
	r.request.Close = true

	if r.target.Proxy != nil {
		p, err := r.target.Proxy(r.request)
		if err != nil {
			return coded{CodeBadURL, "the proxy's address cannot be parsed"}
		}
		if p != nil {
			if (p.Scheme != "http" && p.Scheme != "https") || p.Hostname() == "" {
				return coded{CodeBadURL, "the proxy's address is not an http or https URL with a host: " + p.Scheme}
			}
			r.proxy = p
			r.addPassword(p)
			r.result.Proxy = hostPort(p)
		}
	}

	if len(r.target.CABundle) > 0 {
		r.roots, err = x509.SystemCertPool()
		if err != nil {
			r.roots = x509.NewCertPool()
		}
		if !r.roots.AppendCertsFromPEM(r.target.CABundle) {
			return coded{CodeBadCA, "the CA bundle holds no PEM certificate"}
		}
	}
	return nil
}

func (r *run) addPassword(u *url.URL) {
	if p, is := u.User.Password(); is {
		r.secrets = append(r.secrets, p, url.QueryEscape(p), url.PathEscape(p))
	}
}

// hop is the first thing a connection is made to: the proxy, or the host itself.
func (r *run) hop() (u *url.URL, prefix string) {
	if r.proxy != nil {
		return r.proxy, "proxy " + r.proxy.Hostname() + ": "
	}
	return r.request.URL, ""
}

func (r *run) lookup(ctx context.Context) (string, error) {
	if err := r.prepare(ctx); err != nil {
		return "", err
	}
	u, prefix := r.hop()
	if net.ParseIP(u.Hostname()) != nil {
		r.addrs = []string{u.Hostname()}
		return "", skip(prefix + "an address, nothing to look up")
	}
	addrs, err := r.target.Resolve(ctx, u.Hostname())
	if err != nil {
		return "", err
	}
	if len(addrs) == 0 {
		return "", coded{CodeNXDomain, fmt.Sprintf("%s: the name has no address", u.Hostname())}
	}
	// The order in which resolvers answer changes from call to call; ours does not, and IPv4 comes first because it is what
	// clusters route.
	sort.SliceStable(addrs, func(i, j int) bool {
		v4i, v4j := !strings.Contains(addrs[i], ":"), !strings.Contains(addrs[j], ":")
		if v4i != v4j {
			return v4i
		}
		return addrs[i] < addrs[j]
	})
	r.addrs = addrs
	return prefix + strings.Join(addrs, ", "), nil
}

func (r *run) connect(ctx context.Context) (string, error) {
	u, prefix := r.hop()
	var firstErr error
	for i, addr := range r.addrs {
		// Every address gets its share of what time is left, so that one that swallows packets leaves some to the others.
		share := r.target.Timeout
		if deadline, is := ctx.Deadline(); is {
			share = time.Until(deadline) / time.Duration(len(r.addrs)-i)
		}
		dial, cancel := context.WithTimeout(ctx, share)
		conn, err := (&net.Dialer{}).DialContext(dial, "tcp", net.JoinHostPort(addr, port(u)))
		cancel()
		if err == nil {
			r.conn = conn
			return r.tunnel(ctx, prefix+net.JoinHostPort(addr, port(u)))
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return "", fmt.Errorf("%s%s: %w", prefix, net.JoinHostPort(u.Hostname(), port(u)), firstErr)
}

// tunnel asks the proxy, if there is one, for a connection to the host. A plain http request needs none.
func (r *run) tunnel(ctx context.Context, detail string) (string, error) {
	if r.proxy == nil {
		return detail, nil
	}
	if r.proxy.Scheme == "https" {
		c := tls.Client(r.conn, &tls.Config{ServerName: r.proxy.Hostname(), RootCAs: r.roots, MinVersion: TLSVersion, Time: r.target.Now})
		if err := c.HandshakeContext(ctx); err != nil {
			return "", fmt.Errorf("proxy %s: %w", r.proxy.Hostname(), err)
		}
		r.conn = c
	}
	if r.request.URL.Scheme != "https" {
		return detail, nil
	}
	defer r.bind(ctx)()
	connect := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: r.result.Host}, Host: r.result.Host, Header: http.Header{}}
	r.proxyAuth(connect.Header)
	if err := connect.Write(r.conn); err != nil {
		return "", fmt.Errorf("proxy %s: %w", r.proxy.Hostname(), err)
	}
	// One byte at a time: what follows the proxy's answer belongs to the host.
	br := bufio.NewReaderSize(&singleByte{io.LimitReader(r.conn, maxHead)}, 16)
	resp, err := http.ReadResponse(br, connect) //nolint:bodyclose // the answer to CONNECT has no body: what follows is the tunnel
	if err != nil {
		return "", fmt.Errorf("proxy %s: %w", r.proxy.Hostname(), httpErr(err))
	}
	switch {
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return "", coded{CodeProxyAuth, fmt.Sprintf("proxy %s wants credentials: HTTP 407", r.proxy.Hostname())}
	case resp.StatusCode/100 != 2:
		return "", coded{CodeProxyRefused, fmt.Sprintf("proxy %s refuses a connection to %s: HTTP %d", r.proxy.Hostname(), r.result.Host, resp.StatusCode)}
	}
	return detail + ", tunnel to " + r.result.Host, nil
}

func (r *run) proxyAuth(h http.Header) {
	if r.proxy == nil || r.proxy.User == nil {
		return
	}
	password, _ := r.proxy.User.Password()
	token := base64.StdEncoding.EncodeToString([]byte(r.proxy.User.Username() + ":" + password))
	r.secrets = append(r.secrets, token)
	h.Set("Proxy-Authorization", "Basic "+token)
}

func (r *run) encrypt(ctx context.Context) (string, error) {
	if r.request.URL.Scheme != "https" {
		return "", skip("plain http")
	}
	c := tls.Client(r.conn, &tls.Config{
		ServerName: r.request.URL.Hostname(), RootCAs: r.roots, MinVersion: TLSVersion, NextProtos: []string{"http/1.1"}, Time: r.target.Now,
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return "", err
	}
	r.conn = c
	state := c.ConnectionState()
	leaf := state.PeerCertificates[0]
	return fmt.Sprintf("%s, certificate of %s by %s until %s", tls.VersionName(state.Version), certName(leaf), issuer(leaf),
		leaf.NotAfter.UTC().Format(time.DateOnly)), nil
}

func (r *run) ask(ctx context.Context) (string, error) {
	defer r.bind(ctx)()
	write := r.request.Write
	if r.proxy != nil && r.request.URL.Scheme == "http" {
		r.proxyAuth(r.request.Header)
		write = r.request.WriteProxy
	}
	if err := write(r.conn); err != nil {
		return "", err
	}
	br := bufio.NewReader(io.LimitReader(r.conn, maxHead+r.target.MaxBody))
	resp, err := http.ReadResponse(br, r.request)
	for err == nil && resp.StatusCode/100 == 1 {
		resp, err = http.ReadResponse(br, r.request)
	}
	if err != nil {
		return "", httpErr(err)
	}
	defer resp.Body.Close()
	r.result.Status, r.result.Header = resp.StatusCode, resp.Header
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		r.result.ServerDate = date.UTC()
		if skew := r.target.Now().Sub(date); skew >= 2*time.Second || skew <= -2*time.Second {
			r.result.ClockSkewMillis = skew.Milliseconds()
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.target.MaxBody))
	r.result.Body = []byte(r.redact(string(body)))
	if err != nil && len(body) == 0 {
		return "", err
	}
	expect := r.target.Expect
	if expect == nil {
		expect = func(status int) error {
			if status >= http.StatusInternalServerError {
				return fmt.Errorf("HTTP %d %s", status, http.StatusText(status))
			}
			return nil
		}
	}
	if err := expect(resp.StatusCode); err != nil {
		return "", coded{CodeHTTPStatus, err.Error()}
	}
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))), nil
}

// bind makes reads and writes of the connection end with the context. The returned function releases it.
func (r *run) bind(ctx context.Context) func() {
	if deadline, is := ctx.Deadline(); is {
		_ = r.conn.SetDeadline(deadline)
	}
	conn := r.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = conn.SetDeadline(time.Time{})
		}
	}
}

func (r *run) close() {
	if r.conn != nil {
		_ = r.conn.Close()
	}
}

// redact replaces what must not leave. Very short values are left alone: they are no credentials, and replacing them would
// only garble the text.
func (r *run) redact(s string) string {
	for _, secret := range r.secrets {
		if len(secret) >= 6 {
			s = strings.ReplaceAll(s, secret, "REDACTED")
		}
	}
	return s
}

// singleByte keeps a buffered reader from reading ahead.
type singleByte struct{ r io.Reader }

func (s *singleByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return s.r.Read(p[:1])
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

func hostPort(u *url.URL) string { return net.JoinHostPort(u.Hostname(), port(u)) }

func certName(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.CommonName
}

func issuer(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}
