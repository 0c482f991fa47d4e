// Package nopsclient is the one HTTP client of the contract: authentication, retries with jittered backoff, idempotency,
// redaction. The command-line tool and the agents use it.
//
// A call is tried again when that can help (no answer, 5xx, 429) and cannot harm: reads, and writes that carry an
// idempotency key, which all of this client do. It waits as long as Retry-After says, otherwise a random part of a doubling
// bound, and returns an *Error that says what failed, where, and in Hint what to do.
package nopsclient

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Options configures a Client. The zero value of each optional field is its default.
type Options struct {
	Host      string                                           // "https://app.nops.io" when empty
	Key       string                                           // API key; never shown
	CABundle  []byte                                           // PEM, added to the system's roots
	Transport http.RoundTripper                                // replaces the default transport, CABundle included
	UserAgent string                                           // "nopsctl" when empty
	Attempts  int                                              // of one call, 4 when 0; 1 means no retry
	Timeout   time.Duration                                    // of one attempt, 15 s when 0
	Now       func() time.Time                                 // time.Now when nil
	Sleep     func(ctx context.Context, d time.Duration) error // a timer when nil
	Jitter    func() float64                                   // in [0,1); random when nil
}

// String never shows the key.
func (o Options) String() string { return "nOps API at " + o.Host }

// GoString never shows the key.
func (o Options) GoString() string { return "Options{" + o.String() + "}" }

// LogValue never shows the key.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

const (
	// longestWait is what a caller stands still for between two attempts. A longer Retry-After is handed to the caller, who
	// has other things to do.
	longestWait = 30 * time.Second
	// Bounds of the backoff.
	firstWait, lastWait = 500 * time.Millisecond, 8 * time.Second
	// maxCached bounds the answers that are kept for their ETag.
	maxCached = 32
)

// Client speaks the contract. It is safe for concurrent use.
type Client struct {
	o    Options
	http *http.Client

	mu   sync.Mutex
	skew time.Duration
	etag map[string]cached
}

type cached struct {
	etag string
	body []byte
}

// New returns a client, or says what is wrong with the options.
func New(o Options) (*Client, error) {
	if o.Host == "" {
		o.Host = nopsapi.DefaultHost
	}
	if !strings.Contains(o.Host, "://") {
		o.Host = "https://" + o.Host
	}
	if err := checkHost(o.Host); err != nil {
		return nil, err
	}
	o.Host = strings.TrimRight(o.Host, "/")
	if o.UserAgent == "" {
		o.UserAgent = "nopsctl"
	}
	if o.Attempts == 0 {
		o.Attempts = 4
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Jitter == nil {
		o.Jitter = jitter
	}
	transport := o.Transport
	if transport == nil {
		var err error
		if transport, err = Transport(o.CABundle); err != nil {
			return nil, err
		}
	}
	return &Client{o: o, etag: map[string]cached{}, http: &http.Client{
		Transport: transport,
		// A key must not follow a redirect to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// checkHost refuses what the key must not be sent to. Over plain HTTP it would be readable on its way.
func checkHost(host string) error {
	u, err := url.Parse(host)
	switch {
	case err != nil: // its text would repeat the URL, a password in it included
		return fmt.Errorf("nOps host: not a URL; expected one such as %s", nopsapi.DefaultHost)
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("nOps host %q: expected a URL such as %s", u.Redacted(), nopsapi.DefaultHost)
	case u.User != nil:
		return fmt.Errorf("nOps host %q: a user or password has no place in it, the API key authenticates", u.Redacted())
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("nOps host %q: the API key would cross the network in the clear; use https://", u.Redacted())
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Transport trusts the system's roots and those of a PEM bundle, and uses the proxy of the environment.
func Transport(bundle []byte) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 4, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		// A connection that died silently, as behind a NAT that forgot it, is found out instead of waited for.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, res *http.Response) error {
			if res.StatusCode != http.StatusOK {
				return &proxyRefusal{proxy: proxy.Host, status: res.StatusCode}
			}
			return nil
		},
	}
	if len(bundle) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(bundle) {
			return nil, errors.New("CA bundle: no PEM certificate in it")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// Host is where this client speaks to.
func (c *Client) Host() string { return c.o.Host }

// String never shows the key.
func (c *Client) String() string { return c.o.String() }

// GoString never shows the key.
func (c *Client) GoString() string { return "Client{" + c.o.String() + "}" }

// LogValue never shows the key.
func (c *Client) LogValue() slog.Value { return c.o.LogValue() }

// Skew is how far the platform's clock is ahead of ours, as of the last answer.
func (c *Client) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew
}

// WhoAmI says what the client's key is.
func (c *Client) WhoAmI(ctx context.Context) (nopsapi.WhoAmI, error) {
	return get[nopsapi.WhoAmI](ctx, c, nopsapi.PathWhoAmI())
}

// ListAPIKeys lists the customer's keys without their secrets.
func (c *Client) ListAPIKeys(ctx context.Context) (nopsapi.APIKeyList, error) {
	return get[nopsapi.APIKeyList](ctx, c, nopsapi.PathAPIKeys())
}

// CreateAPIKey makes a key; the answer alone holds its secret.
func (c *Client) CreateAPIKey(ctx context.Context, key nopsapi.NewAPIKey) (nopsapi.APIKeyCreated, error) {
	return send[nopsapi.APIKeyCreated](ctx, c, http.MethodPost, nopsapi.PathAPIKeys(), key, 0)
}

// RotateAPIKey replaces the secret of a key. Rotate the key of this very client with another one: should the answer be lost,
// the old secret is void and cannot ask again.
func (c *Client) RotateAPIKey(ctx context.Context, id string) (nopsapi.APIKeyCreated, error) {
	return send[nopsapi.APIKeyCreated](ctx, c, http.MethodPost, nopsapi.PathAPIKeyRotate(id), struct{}{}, 0)
}

// RevokeAPIKey ends a key.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) error {
	_, err := send[nopsapi.APIKey](ctx, c, http.MethodDelete, nopsapi.PathAPIKey(id), nil, 0)
	return err
}

// ListClusters lists the customer's clusters.
func (c *Client) ListClusters(ctx context.Context) (nopsapi.ClusterList, error) {
	return get[nopsapi.ClusterList](ctx, c, nopsapi.PathClusters())
}

// PublicClusters is the public list of clusters seen within some days.
func (c *Client) PublicClusters(ctx context.Context, days int) ([]nopsapi.PublicCluster, error) {
	return get[[]nopsapi.PublicCluster](ctx, c, nopsapi.PublicClustersPath+"?days="+strconv.Itoa(days))
}

// RegisterCluster makes a cluster known; once more changes nothing.
func (c *Client) RegisterCluster(ctx context.Context, arn string) (nopsapi.Cluster, error) {
	return send[nopsapi.Cluster](ctx, c, http.MethodPut, nopsapi.PathCluster(arn), struct{}{}, 0)
}

// Cluster reads a registered cluster.
func (c *Client) Cluster(ctx context.Context, arn string) (nopsapi.Cluster, error) {
	return get[nopsapi.Cluster](ctx, c, nopsapi.PathCluster(arn))
}

// InstallConfig reads what an installation needs besides the key.
func (c *Client) InstallConfig(ctx context.Context, arn string) (nopsapi.InstallConfig, error) {
	return get[nopsapi.InstallConfig](ctx, c, nopsapi.PathInstallConfig(arn))
}

// CreateAgentKey mints a key for the agents of one cluster.
func (c *Client) CreateAgentKey(ctx context.Context, arn string) (nopsapi.AgentKey, error) {
	return send[nopsapi.AgentKey](ctx, c, http.MethodPost, nopsapi.PathAgentKey(arn), struct{}{}, 0)
}

// SendHeartbeat delivers a beat. Boot and sequence number make it idempotent.
func (c *Client) SendHeartbeat(ctx context.Context, arn string, beat nopsapi.Heartbeat) (nopsapi.HeartbeatAck, error) {
	if beat.Components == nil {
		beat.Components = []nopsapi.ComponentStatus{} // the contract wants a list
	}
	return send[nopsapi.HeartbeatAck](ctx, c, http.MethodPost, nopsapi.PathHeartbeats(arn), beat, nopsapi.MaxHeartbeatCompressed)
}

// Heartbeats lists all beats that were observed since then and arrived, by time of observation.
func (c *Client) Heartbeats(ctx context.Context, arn string, since time.Time) (nopsapi.HeartbeatList, error) {
	query := url.Values{}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	var all nopsapi.HeartbeatList
	for {
		page, err := get[nopsapi.HeartbeatList](ctx, c, nopsapi.PathHeartbeats(arn)+"?"+query.Encode())
		if err != nil {
			return nopsapi.HeartbeatList{}, err
		}
		all.Heartbeats, all.Latest = append(all.Heartbeats, page.Heartbeats...), page.Latest
		if page.Next == "" {
			return all, nil
		}
		if len(page.Heartbeats) == 0 || page.Next == query.Get("after") {
			return all, &Error{Kind: KindProtocol, Host: c.host(), Message: "the list of heartbeats does not end"}
		}
		query.Set("after", page.Next)
	}
}

// Warnings lists a cluster's warnings; state is "open", "closed" or empty for both.
func (c *Client) Warnings(ctx context.Context, arn, state string) (nopsapi.WarningList, error) {
	path := nopsapi.PathWarnings(arn)
	if state != "" {
		path += "?state=" + url.QueryEscape(state)
	}
	return get[nopsapi.WarningList](ctx, c, path)
}

// AcknowledgeWarning marks a warning as seen by a person.
func (c *Client) AcknowledgeWarning(ctx context.Context, arn, id string) (nopsapi.Warning, error) {
	return send[nopsapi.Warning](ctx, c, http.MethodPost, nopsapi.PathAcknowledge(arn, id), struct{}{}, 0)
}

// StartConnectivityTest asks the platform for a nonce to look out for.
func (c *Client) StartConnectivityTest(ctx context.Context, arn string) (nopsapi.ConnectivityTest, error) {
	return send[nopsapi.ConnectivityTest](ctx, c, http.MethodPost, nopsapi.PathTests(arn), struct{}{}, 0)
}

// Observe shows the nonce to the platform; from is "here" or "cluster".
func (c *Client) Observe(ctx context.Context, arn, id, nonce, from string) (nopsapi.Observation, error) {
	return send[nopsapi.Observation](ctx, c, http.MethodPost, nopsapi.PathObservations(arn, id), nopsapi.Observation{Nonce: nonce, From: from, At: c.o.Now().UTC()}, 0)
}

// ConnectivityTest is what the platform has seen, and of this test's nonce.
func (c *Client) ConnectivityTest(ctx context.Context, arn, id string) (nopsapi.ConnectivityView, error) {
	return get[nopsapi.ConnectivityView](ctx, c, nopsapi.PathTest(arn, id))
}

// Connectivity is what the platform has seen of a cluster.
func (c *Client) Connectivity(ctx context.Context, arn string) (nopsapi.ConnectivityView, error) {
	return get[nopsapi.ConnectivityView](ctx, c, nopsapi.PathConnectivity(arn))
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return send[T](ctx, c, http.MethodGet, path, nil, 0)
}

// send makes one call of the contract. packed is how many bytes the body may have compressed, a limit of the path's own; 0
// sends it as it is.
func send[T any](ctx context.Context, c *Client, method, path string, body any, packed int) (T, error) {
	message, _, err := exchange[T](ctx, c, call{method: method, path: path, body: body, packed: packed})
	return message, err
}

// call is one of the contract, with the limits of its path: bytes of a body compressed (0: it is sent as it is), of one unpacked and of
// an answer (0: nopsapi.MaxBody).
type call struct {
	method, path          string
	body                  any
	packed, plain, answer int
	// known is the ETag of what the caller has already; nil: the client remembers answers itself.
	known *string
}

// answer is what came back.
type answer struct {
	data      []byte
	etag      string
	unchanged bool // since the ETag that the caller knows
}

// exchange makes a call, and reads the message of the answer unless it is unchanged.
func exchange[T any](ctx context.Context, c *Client, do call) (message T, got answer, err error) {
	var payload []byte
	header := http.Header{}
	header.Set(nopsapi.VersionHeader, strconv.Itoa(nopsapi.Version))
	if do.body != nil {
		if payload, err = encode(do.body, do.packed, do.plain); err != nil {
			// Refused before it is sent: trying the same again would fail the same way.
			return message, got, &Error{Kind: KindRefused, Host: c.host(), Code: nopsapi.CodeTooLarge, Message: c.line(do.method + " " + bare(do.path) + ": " + err.Error()), Err: err}
		}
		header.Set("Content-Type", "application/json")
		if do.packed > 0 {
			header.Set("Content-Encoding", "gzip")
		}
	}
	if do.method != http.MethodGet {
		header.Set(nopsapi.IdempotencyHeader, idempotencyKey(do.body))
	}
	if got, err = c.retry(ctx, do, header, payload); err != nil || got.unchanged {
		return message, got, err
	}
	err = nopsapi.Decode(got.data, &message)
	if v, ok := any(message).(interface{ Validate() error }); ok && err == nil {
		err = v.Validate()
	}
	if err != nil {
		var none T
		return none, answer{}, &Error{Kind: KindProtocol, Host: c.host(), Message: c.line("the answer to " + do.method + " " + bare(do.path) + " is not of this contract: " + err.Error()), Err: err}
	}
	return message, got, nil
}

// encode makes the body of a request. What the other side would refuse for its size is not sent at all.
func encode(body any, packed, plain int) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if plain = cmp.Or(plain, nopsapi.MaxBody); len(data) > plain {
		return nil, fmt.Errorf("the request has %d bytes, the contract allows %d", len(data), plain)
	}
	if packed == 0 {
		return data, nil
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	if _, err := zip.Write(data); err != nil {
		return nil, fmt.Errorf("compress the request: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("compress the request: %w", err)
	}
	if buf.Len() > packed {
		return nil, fmt.Errorf("the request has %d bytes compressed, the contract allows %d", buf.Len(), packed)
	}
	return buf.Bytes(), nil
}

// idempotencyKey is fixed for a beat, so that a resend after a restart of the queue is the same write; random otherwise.
func idempotencyKey(body any) string {
	if beat, ok := body.(nopsapi.Heartbeat); ok {
		return beat.BootID + "-" + strconv.FormatUint(beat.Seq, 10)
	}
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return hex.EncodeToString(raw)
}

// repeatable says whether a call may be made twice.
func repeatable(method string, header http.Header) bool {
	return method == http.MethodGet || header.Get(nopsapi.IdempotencyHeader) != ""
}

// retry repeats a call while that can help: the platform unreachable, 5xx or 429.
func (c *Client) retry(ctx context.Context, do call, header http.Header, payload []byte) (answer, error) {
	for attempt := 1; ; attempt++ {
		got, err := c.attempt(ctx, do, header, payload)
		var e *Error
		if err == nil || !errors.As(err, &e) || !e.Temporary() || !repeatable(do.method, header) || attempt >= c.o.Attempts || ctx.Err() != nil {
			return got, err
		}
		wait := e.RetryAfter
		if wait == 0 {
			// Full jitter: a random part of a doubling bound, so that many clients do not return together.
			wait = time.Duration(c.o.Jitter() * float64(min(firstWait<<min(attempt-1, 10), lastWait)))
		}
		if wait > longestWait {
			return got, err
		}
		if c.o.Sleep(ctx, wait) != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				return got, c.transportError(ctx, ctx.Err())
			}
			return got, err // time is up: what went wrong says more than that
		}
	}
}

func (c *Client) attempt(ctx context.Context, do call, header http.Header, payload []byte) (answer, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, do.method, c.o.Host+do.path, bytes.NewReader(payload))
	if err != nil {
		return answer{}, &Error{Kind: KindProtocol, Host: c.host(), Message: c.line("the request cannot be made: " + rootCause(err)), Err: err}
	}
	req.Header = header.Clone()
	req.Header.Set("User-Agent", c.o.UserAgent)
	req.Header.Set(nopsapi.KeyHeader, c.o.Key)
	known := c.known(do)
	if known.etag != "" {
		req.Header.Set("If-None-Match", known.etag)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, c.transportError(outer, err)
	}
	defer res.Body.Close()
	c.observeClock(res)
	if res.StatusCode == http.StatusNotModified && known.etag != "" {
		return answer{data: known.body, etag: known.etag, unchanged: do.known != nil}, nil
	}
	limit := cmp.Or(do.answer, nopsapi.MaxBody)
	data, err := io.ReadAll(io.LimitReader(res.Body, int64(limit)+1))
	switch {
	case err != nil:
		return answer{}, c.transportError(outer, err)
	case len(data) > limit:
		return answer{}, &Error{Kind: KindProtocol, Host: c.host(), Status: res.StatusCode, Message: fmt.Sprintf("the answer is larger than %d bytes", limit)}
	case res.StatusCode >= 200 && res.StatusCode < 300:
		if page(res) {
			return answer{}, c.refusal(res, data)
		}
		etag := res.Header.Get("ETag")
		if do.known == nil {
			c.remember(do.method, do.path, etag, data)
		}
		return answer{data: data, etag: etag}, nil
	}
	return answer{}, c.refusal(res, data)
}

// known is what is known of the answer to a call; without an ETag nothing is.
func (c *Client) known(do call) cached {
	switch {
	case do.method != http.MethodGet:
		return cached{}
	case do.known != nil:
		return cached{etag: *do.known}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.etag[do.path]
}

func (c *Client) remember(method, path, etag string, body []byte) {
	if method != http.MethodGet || etag == "" || strings.Contains(path, "?") {
		return // what is asked for with a query is asked for once
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.etag[path]; !known && len(c.etag) >= maxCached {
		return
	}
	c.etag[path] = cached{etag, body}
}

func (c *Client) observeClock(res *http.Response) {
	if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		c.mu.Lock()
		c.skew = at.Sub(c.o.Now().Truncate(time.Second))
		c.mu.Unlock()
	}
}

func (c *Client) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(c.o.Host, "https://"), "http://")
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the caller asks only whether
	case <-t.C:
		return nil
	}
}

func jitter() float64 {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<30))
	if err != nil {
		return 0.5
	}
	return float64(n.Int64()) / (1 << 30)
}
