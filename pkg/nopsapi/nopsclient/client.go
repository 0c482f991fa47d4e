// Package nopsclient is the one HTTP client of the contract: authentication, retries with jittered backoff, idempotency,
// redaction. The command-line tool and the agents use it.
package nopsclient

import (
	"bytes"
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
	"math/big"
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
	u, err := url.Parse(o.Host)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("nOps host %q: expected a URL such as %s", o.Host, nopsapi.DefaultHost)
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

// Transport trusts the system's roots and those of a PEM bundle, and uses the proxy of the environment.
func Transport(bundle []byte) (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 4, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
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
	return send[nopsapi.APIKeyCreated](ctx, c, http.MethodPost, nopsapi.PathAPIKeys(), key, false)
}

// RotateAPIKey replaces the secret of a key.
func (c *Client) RotateAPIKey(ctx context.Context, id string) (nopsapi.APIKeyCreated, error) {
	return send[nopsapi.APIKeyCreated](ctx, c, http.MethodPost, nopsapi.PathAPIKeyRotate(id), struct{}{}, false)
}

// RevokeAPIKey ends a key.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) error {
	_, err := send[struct{}](ctx, c, http.MethodDelete, nopsapi.PathAPIKey(id), nil, false)
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
	return send[nopsapi.Cluster](ctx, c, http.MethodPut, nopsapi.PathCluster(arn), struct{}{}, false)
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
	return send[nopsapi.AgentKey](ctx, c, http.MethodPost, nopsapi.PathAgentKey(arn), struct{}{}, false)
}

// SendHeartbeat delivers a beat. Boot and sequence number make it idempotent.
func (c *Client) SendHeartbeat(ctx context.Context, arn string, beat nopsapi.Heartbeat) (nopsapi.HeartbeatAck, error) {
	return send[nopsapi.HeartbeatAck](ctx, c, http.MethodPost, nopsapi.PathHeartbeats(arn), beat, true)
}

// Heartbeats lists the beats that arrived, by time of observation.
func (c *Client) Heartbeats(ctx context.Context, arn string, since time.Time) (nopsapi.HeartbeatList, error) {
	return get[nopsapi.HeartbeatList](ctx, c, nopsapi.PathHeartbeats(arn)+"?since="+url.QueryEscape(since.UTC().Format(time.RFC3339Nano)))
}

// Warnings lists a cluster's warnings; state is "open", "closed" or empty for both.
func (c *Client) Warnings(ctx context.Context, arn, state string) (nopsapi.WarningList, error) {
	return get[nopsapi.WarningList](ctx, c, nopsapi.PathWarnings(arn)+"?state="+url.QueryEscape(state))
}

// AcknowledgeWarning marks a warning as seen by a person.
func (c *Client) AcknowledgeWarning(ctx context.Context, arn, id string) (nopsapi.Warning, error) {
	return send[nopsapi.Warning](ctx, c, http.MethodPost, nopsapi.PathAcknowledge(arn, id), struct{}{}, false)
}

// StartConnectivityTest asks the platform for a nonce to look out for.
func (c *Client) StartConnectivityTest(ctx context.Context, arn string) (nopsapi.ConnectivityTest, error) {
	return send[nopsapi.ConnectivityTest](ctx, c, http.MethodPost, nopsapi.PathTests(arn), struct{}{}, false)
}

// Observe shows the nonce to the platform; from is "here" or "cluster".
func (c *Client) Observe(ctx context.Context, arn, id, nonce, from string) (nopsapi.Observation, error) {
	return send[nopsapi.Observation](ctx, c, http.MethodPost, nopsapi.PathObservations(arn, id), nopsapi.Observation{Nonce: nonce, From: from}, false)
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
	return send[T](ctx, c, http.MethodGet, path, nil, false)
}

// send makes one call of the contract. Every method of it is safe to repeat: reads by nature, writes by their key.
func send[T any](ctx context.Context, c *Client, method, path string, body any, compress bool) (T, error) {
	var answer T
	var payload []byte
	header := http.Header{}
	header.Set(nopsapi.VersionHeader, strconv.Itoa(nopsapi.Version))
	if body != nil {
		var err error
		if payload, err = encode(body, compress); err != nil {
			return answer, fmt.Errorf("nOps API %s: %w", path, err)
		}
		header.Set("Content-Type", "application/json")
		if compress {
			header.Set("Content-Encoding", "gzip")
		}
		header.Set(nopsapi.IdempotencyHeader, idempotencyKey(body))
	}
	data, err := c.retry(ctx, method, path, header, payload)
	if err != nil || len(data) == 0 {
		return answer, err
	}
	if err := nopsapi.Decode(data, &answer); err != nil {
		return answer, &Error{Kind: KindProtocol, Host: c.host(), Message: "the answer is not of this contract: " + err.Error(), Err: err}
	}
	return answer, nil
}

func encode(body any, compress bool) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if !compress {
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
	if buf.Len() > nopsapi.MaxHeartbeatCompressed {
		return nil, fmt.Errorf("the request has %d bytes compressed, the contract allows %d", buf.Len(), nopsapi.MaxHeartbeatCompressed)
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

// retry repeats a call while that can help: the platform unreachable, 5xx or 429.
func (c *Client) retry(ctx context.Context, method, path string, header http.Header, payload []byte) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		data, err := c.attempt(ctx, method, path, header, payload)
		var e *Error
		if err == nil || !errors.As(err, &e) || !e.Temporary() || attempt >= c.o.Attempts || ctx.Err() != nil {
			return data, err
		}
		wait := e.RetryAfter
		if wait == 0 {
			// Full jitter: a random part of a doubling bound, so that many clients do not return together.
			wait = time.Duration(c.o.Jitter() * float64(min(500*time.Millisecond<<(attempt-1), 8*time.Second)))
		}
		if wait > 30*time.Second {
			return data, err // longer than a caller wants to stand still; it has RetryAfter to plan with
		}
		if c.o.Sleep(ctx, wait) != nil {
			return data, err
		}
	}
}

func (c *Client) attempt(ctx context.Context, method, path string, header http.Header, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.o.Host+path, bytes.NewReader(payload))
	if err != nil {
		return nil, &Error{Kind: KindProtocol, Host: c.host(), Message: "the request cannot be made", Err: err}
	}
	req.Header = header.Clone()
	req.Header.Set("User-Agent", c.o.UserAgent)
	req.Header.Set(nopsapi.KeyHeader, c.o.Key)
	known, ok := c.known(method, path)
	if ok {
		req.Header.Set("If-None-Match", known.etag)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(err)
	}
	defer res.Body.Close()
	c.observeClock(res)
	data, err := io.ReadAll(io.LimitReader(res.Body, nopsapi.MaxBody+1))
	switch {
	case err != nil:
		return nil, c.transportError(err)
	case len(data) > nopsapi.MaxBody:
		return nil, &Error{Kind: KindProtocol, Host: c.host(), Status: res.StatusCode, Message: fmt.Sprintf("the answer is larger than %d bytes", nopsapi.MaxBody)}
	case res.StatusCode == http.StatusNotModified && ok:
		return known.body, nil
	case res.StatusCode >= 200 && res.StatusCode < 300:
		c.remember(method, path, res.Header.Get("ETag"), data)
		return data, nil
	}
	return nil, c.refusal(res, data)
}

func (c *Client) known(method, path string) (cached, bool) {
	if method != http.MethodGet {
		return cached{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.etag[path]
	return known, ok
}

func (c *Client) remember(method, path, etag string, body []byte) {
	if method != http.MethodGet || etag == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
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
