package nopsclient_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// key is the canary: it must be in the header of requests and nowhere else.
const (
	key = "4242.c0ffeec0ffeec0ffeec0ffeec0ffee00"
	arn = "arn:aws:eks:us-east-1:123456789012:cluster/demo"
)

// answer is what a server says once.
type answer struct {
	status int
	header map[string]string
	body   string
	cut    bool // close the connection instead
}

const whoami = `{"key_id":"k","customer_id":"4242","scopes":["read"],"contract_version":1}`

var good = answer{status: 200, body: whoami}

func refusal(status int, code, message string) answer {
	return answer{status: status, body: `{"error":{"code":"` + code + `","message":"` + message + `","request_id":"r-1"}}`}
}

// script answers requests in turn, the last answer ever after, and keeps what it was asked.
type script struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

func (s *script) asked() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func play(t *testing.T, answers ...answer) *script {
	t.Helper()
	s := &script{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		a := answers[min(len(s.requests), len(answers))-1]
		s.mu.Unlock()
		if a.cut {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		for k, v := range a.header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	}))
	t.Cleanup(s.Close)
	return s
}

// waits records how long a client would have slept.
type waits []time.Duration

func (w *waits) sleep(ctx context.Context, d time.Duration) error {
	*w = append(*w, d)
	return ctx.Err()
}

func client(t *testing.T, host string, adjust ...func(*nopsclient.Options)) (*nopsclient.Client, *waits) {
	t.Helper()
	var w waits
	o := nopsclient.Options{Host: host, Key: key, Sleep: w.sleep, Jitter: func() float64 { return 0.5 }}
	for _, a := range adjust {
		a(&o)
	}
	c, err := nopsclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, &w
}

func TestAnswers(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name, reason string
		answers      []answer
		kind         nopsclient.Kind // empty: no error
		text         string          // in the error
		calls        int
		waits        waits
	}{
		{"good", "one call", []answer{good}, "", "", 1, nil},
		{"503, then good", "tried again after a part of the bound", []answer{{status: 503}, good}, "", "", 2, waits{250 * time.Millisecond}},
		{"always 500", "the bound doubles; then it is given up", []answer{{status: 500}}, nopsclient.KindServer, "internal server error (HTTP 500)", 4, waits{250 * time.Millisecond, 500 * time.Millisecond, time.Second}},
		{"cut, then good", "tried again", []answer{{cut: true}, good}, "", "", 2, waits{250 * time.Millisecond}},
		{"429 in seconds", "as long as it says", []answer{{status: 429, header: map[string]string{"Retry-After": "7"}}, good}, "", "", 2, waits{7 * time.Second}},
		{"503 until a date", "as long as it says", []answer{{status: 503, header: map[string]string{"Retry-After": date.Add(9 * time.Second).Format(http.TimeFormat)}}, good}, "", "", 2, waits{9 * time.Second}},
		{"503 until a date that is over", "backoff", []answer{{status: 503, header: map[string]string{"Retry-After": date.Add(-time.Hour).Format(http.TimeFormat)}}, good}, "", "", 2, waits{250 * time.Millisecond}},
		{"429 for an hour", "the caller has other things to do", []answer{{status: 429, header: map[string]string{"Retry-After": "3600"}}}, nopsclient.KindRateLimited, "too many requests", 1, nil},
		{"401", "final", []answer{refusal(401, "invalid_credentials", "this API key is not valid")}, nopsclient.KindUnauthorized, "this API key is not valid (HTTP 401 invalid_credentials, request r-1)", 1, nil},
		{"403", "final", []answer{refusal(403, "forbidden_scope", "needs admin")}, nopsclient.KindForbidden, "needs admin", 1, nil},
		{"404 of the contract", "the thing is not there", []answer{refusal(404, "not_found", "no cluster")}, nopsclient.KindNotFound, "no cluster", 1, nil},
		{"404 of an older platform", "it says so itself", []answer{refusal(404, "not_offered", "no such path")}, nopsclient.KindNotOffered, "the platform does not offer GET /svc/k8s_agent/v1/api-keys/whoami", 1, nil},
		{"404 of something else", "a server without the contract", []answer{{status: 404, body: "not found"}}, nopsclient.KindNotOffered, "does not offer", 1, nil},
		{"405", "a server without the contract", []answer{{status: 405}}, nopsclient.KindNotOffered, "does not offer", 1, nil},
		{"501", "a server without the contract", []answer{{status: 501}}, nopsclient.KindNotOffered, "does not offer", 1, nil},
		{"a web page", "applications answer so for every path", []answer{{status: 200, header: map[string]string{"Content-Type": "text/html; charset=utf-8"}, body: "<html>"}}, nopsclient.KindNotOffered, "a web page answers", 1, nil},
		{"a redirect", "the key must not follow", []answer{{status: 302, header: map[string]string{"Location": "https://login.example.com/sso?next=secret"}}}, nopsclient.KindRefused, "to https://login.example.com/sso; the API key was not sent there (HTTP 302)", 1, nil},
		{"409", "final", []answer{refusal(409, "conflict", "taken")}, nopsclient.KindConflict, "taken", 1, nil},
		{"400", "final", []answer{refusal(400, "invalid_request", "wrong")}, nopsclient.KindRefused, "wrong", 1, nil},
		{"not JSON", "nothing is made up", []answer{{status: 200, body: "hello"}}, nopsclient.KindProtocol, "the answer to GET /svc/k8s_agent/v1/api-keys/whoami is not of this contract", 1, nil},
		{"nothing", "nothing is made up", []answer{{status: 200}}, nopsclient.KindProtocol, "is not of this contract", 1, nil},
		{"an empty object", "nothing is made up", []answer{{status: 200, body: "{}"}}, nopsclient.KindProtocol, "key_id or customer_id is empty", 1, nil},
		{"endless", "memory is finite", []answer{{status: 200, body: strings.Repeat(" ", nopsapi.MaxBody+1)}}, nopsclient.KindProtocol, "larger than", 1, nil},
		{"an error of many lines", "errors are one line", []answer{refusal(400, "invalid_request", `one\n\ttwo\u001b[31m`)}, nopsclient.KindRefused, "one two [31m", 1, nil},
		{"an endless error", "errors are one line", []answer{refusal(400, "invalid_request", strings.Repeat("long ", 1000))}, nopsclient.KindRefused, "…", 1, nil},
		{"the key in an error", "it is cut out", []answer{refusal(400, key, "key "+key+" is odd")}, nopsclient.KindRefused, "key [API key] is odd (HTTP 400 [API key]", 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := play(t, tt.answers...)
			c, w := client(t, s.URL, func(o *nopsclient.Options) { o.Now = func() time.Time { return date } })
			who, err := c.WhoAmI(t.Context())
			if diff := cmp.Diff(tt.waits, *w); diff != "" {
				t.Errorf("%s: waits:\n%s", tt.reason, diff)
			}
			if len(s.asked()) != tt.calls {
				t.Errorf("%s: %d calls, want %d", tt.reason, len(s.asked()), tt.calls)
			}
			if tt.kind == "" {
				if err != nil || who.CustomerID != "4242" {
					t.Errorf("%s: %+v, %v", tt.reason, who, err)
				}
				return
			}
			check(t, s.URL, err, tt.kind, tt.text)
			if diff := cmp.Diff(nopsapi.WhoAmI{}, who); diff != "" {
				t.Errorf("an error with an answer:\n%s", diff)
			}
		})
	}
}

// check holds an error to what all of them must be.
func check(t *testing.T, host string, err error, kind nopsclient.Kind, text string) {
	t.Helper()
	if !nopsclient.IsKind(err, kind) || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want kind %s with %q", err, kind, text)
	}
	var e *nopsclient.Error
	errors.As(err, &e)
	u, _ := url.Parse(host)
	message := err.Error()
	if !strings.HasPrefix(message, "nOps API "+u.Host+": ") || strings.ContainsAny(message, "\n\r\t\x1b") || len(message) > 600 {
		t.Errorf("not one line that names the host: %q", message)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v %s", err, err, err, e.Hint()), key) {
		t.Errorf("the key is in the error: %#v", err)
	}
}

func TestWhatKeepsTheAnswerAway(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whoami) }))
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // it will complain of us
	secure.StartTLS()
	t.Cleanup(secure.Close)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	plain := play(t, good)
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	t.Cleanup(refusing.Close)
	gone, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	through := func(proxy string) func(*nopsclient.Options) {
		return func(o *nopsclient.Options) {
			transport, err := nopsclient.Transport(nil)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			transport.Proxy = http.ProxyURL(u)
			o.Transport = transport
		}
	}
	for _, tt := range []struct {
		name, host string
		adjust     func(*nopsclient.Options)
		kind       nopsclient.Kind
		text       string
	}{
		{"no such name", "https://nowhere.invalid", nil, nopsclient.KindUnreachable, "no address for this name"},
		{"nobody listens", "http://" + gone.Addr().String(), nil, nopsclient.KindUnreachable, "cannot connect: connection refused"},
		{"an authority nobody trusts", secure.URL, nil, nopsclient.KindTLS, "an authority that is not trusted here"},
		{"an authority of the bundle", secure.URL, func(o *nopsclient.Options) { o.CABundle = bundle }, "", ""},
		{"a certificate for another name", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), func(o *nopsclient.Options) { o.CABundle = bundle }, nopsclient.KindTLS, "for another name"},
		{"no TLS", strings.Replace(plain.URL, "http://", "https://", 1), nil, nopsclient.KindTLS, "does not speak TLS"},
		{"too slow", slow.URL, func(o *nopsclient.Options) { o.Timeout = 30 * time.Millisecond; o.Attempts = 1 }, nopsclient.KindUnreachable, "no answer within 30ms"},
		{"a proxy that wants a password", "https://nops.example", through(refusing.URL), nopsclient.KindUnreachable, "the proxy " + strings.TrimPrefix(refusing.URL, "http://") + " does not connect us: HTTP 407 proxy authentication required"},
		{"a proxy that is gone", "https://nops.example", through("http://somebody:hunter2@" + gone.Addr().String()), nopsclient.KindUnreachable, "the proxy cannot be reached: connection refused"},
		{"a proxy that is none", "https://nops.example", func(o *nopsclient.Options) {
			o.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				return nil, errors.New(`invalid proxy address "ftp://somebody:hunter2@proxy": no`)
			})
		}, nopsclient.KindUnreachable, "ftp://[redacted]@proxy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			adjust := tt.adjust
			if adjust == nil {
				adjust = func(*nopsclient.Options) {}
			}
			c, _ := client(t, tt.host, adjust)
			_, err := c.WhoAmI(t.Context())
			if tt.kind == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			check(t, tt.host, err, tt.kind, tt.text)
			var e *nopsclient.Error
			if errors.As(err, &e); e.Hint() == "" || e.ExitClass() != "preflight" {
				t.Errorf("hint %q, class %s", e.Hint(), e.ExitClass())
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a proxy's password is in the error: %v", err)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHostsTheKeyMustNotGoTo(t *testing.T) {
	for host, ok := range map[string]bool{
		"": true, "app.nops.io": true, "https://app.nops.io/": true, "http://127.0.0.1:80": true, "http://[::1]:80": true, "http://localhost:80": true, "https://gateway.example/nops": true,
		"http://app.nops.io": false, "http://10.0.0.1": false, "https://user:hunter2@app.nops.io": false, "ftp://app.nops.io": false, "https://": false, "https://app.nops.io?x=hunter2": false, "https://app nops": false, "http://user:hunter2@[": false,
	} {
		_, err := nopsclient.New(nopsclient.Options{Host: host, Key: key})
		if (err == nil) != ok {
			t.Errorf("%q: %v", host, err)
		}
		if err != nil && (strings.Contains(err.Error(), key) || strings.Contains(err.Error(), ":hunter2")) {
			t.Errorf("%q: a secret is in the error: %v", host, err)
		}
	}
	if _, err := nopsclient.New(nopsclient.Options{CABundle: []byte("none")}); err == nil {
		t.Error("a bundle without a certificate is taken")
	}
}

func TestTheCallersTime(t *testing.T) {
	t.Run("cancelled while waiting", func(t *testing.T) {
		s := play(t, answer{status: 503})
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := client(t, s.URL, func(o *nopsclient.Options) {
			o.Sleep = func(context.Context, time.Duration) error { cancel(); return context.Canceled }
		})
		if _, err := c.WhoAmI(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	t.Run("cancelled while asking", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }))
		t.Cleanup(slow.Close)
		c, w := client(t, slow.URL)
		if _, err := c.WhoAmI(ctx); !errors.Is(err, context.Canceled) || len(*w) != 0 {
			t.Errorf("%v after waits %v", err, *w)
		}
	})
	t.Run("over while waiting", func(t *testing.T) {
		s := play(t, answer{status: 503})
		c, _ := client(t, s.URL, func(o *nopsclient.Options) {
			o.Sleep = func(context.Context, time.Duration) error { return context.DeadlineExceeded }
		})
		_, err := c.WhoAmI(t.Context())
		check(t, s.URL, err, nopsclient.KindServer, "service unavailable")
	})
	t.Run("over while asking", func(t *testing.T) {
		slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		t.Cleanup(slow.Close)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		c, w := client(t, slow.URL)
		_, err := c.WhoAmI(ctx)
		check(t, slow.URL, err, nopsclient.KindUnreachable, "no answer in the time that was left")
		if len(*w) != 0 {
			t.Errorf("waits %v", *w)
		}
	})
}

func TestTheRealSleepEndsWithTheContext(t *testing.T) {
	s := play(t, answer{status: 503, header: map[string]string{"Retry-After": "20"}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c, err := nopsclient.New(nopsclient.Options{Host: s.URL, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.WhoAmI(ctx)
	check(t, s.URL, err, nopsclient.KindServer, "503")
}

func TestWritesCarryTheSameKeyEachTime(t *testing.T) {
	s := play(t, answer{status: 503}, answer{cut: true}, answer{status: 201, body: `{"id":"k","key":"` + key + `"}`})
	c, _ := client(t, s.URL)
	if _, err := c.CreateAgentKey(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	first := s.asked()[0].Header.Get(nopsapi.IdempotencyHeader)
	for i, r := range s.asked() {
		if got := r.Header.Get(nopsapi.IdempotencyHeader); got == "" || got != first {
			t.Errorf("attempt %d has the idempotency key %q, the first %q", i+1, got, first)
		}
	}
	if _, err := c.CreateAgentKey(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	if again := s.asked()[len(s.asked())-1].Header.Get(nopsapi.IdempotencyHeader); again == first {
		t.Error("another write has the same idempotency key")
	}
}

func TestEveryWriteHasAnIdempotencyKeyAndNoReadHas(t *testing.T) {
	s := play(t, answer{status: 200, body: `{}`})
	c, _ := client(t, s.URL)
	ctx := t.Context()
	_, _ = c.CreateAPIKey(ctx, nopsapi.NewAPIKey{})
	_, _ = c.RotateAPIKey(ctx, "k/1")
	_ = c.RevokeAPIKey(ctx, "k")
	_, _ = c.RegisterCluster(ctx, arn)
	_, _ = c.CreateAgentKey(ctx, arn)
	_, _ = c.SendHeartbeat(ctx, arn, nopsapi.Heartbeat{BootID: "b", Seq: 7})
	_, _ = c.AcknowledgeWarning(ctx, arn, "w")
	_, _ = c.StartConnectivityTest(ctx, arn)
	_, _ = c.Observe(ctx, arn, "t", "n", nopsapi.FromHere)
	_, _ = c.WhoAmI(ctx)
	_, _ = c.Connectivity(ctx, arn)
	writes := 0
	for _, r := range s.asked() {
		has := r.Header.Get(nopsapi.IdempotencyHeader) != ""
		if has != (r.Method != http.MethodGet) {
			t.Errorf("%s %s: idempotency key %q", r.Method, r.URL.Path, r.Header.Get(nopsapi.IdempotencyHeader))
		}
		if has {
			writes++
		}
		if r.Header.Get(nopsapi.KeyHeader) != key || r.URL.RawQuery != "" || strings.Contains(r.URL.String(), key) {
			t.Errorf("%s %s: the key belongs into the header alone", r.Method, r.URL)
		}
	}
	if writes != 9 {
		t.Errorf("%d writes", writes)
	}
	if got := s.asked()[5].Header.Get(nopsapi.IdempotencyHeader); got != "b-7" {
		t.Errorf("a heartbeat's idempotency key is %q", got)
	}
	if got := s.asked()[1].URL.EscapedPath(); got != nopsapi.Base+"/api-keys/k%2F1/rotate" {
		t.Errorf("path %s", got)
	}
}

func TestHeartbeatsAreCompressedAndBounded(t *testing.T) {
	s := play(t, answer{status: 200, body: `{"interval_seconds":60}`})
	c, _ := client(t, s.URL)
	if _, err := c.SendHeartbeat(t.Context(), arn, nopsapi.Heartbeat{BootID: "b", Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if got := s.asked()[0].Header.Get("Content-Encoding"); got != "gzip" {
		t.Errorf("Content-Encoding %q", got)
	}
	var big nopsapi.Heartbeat
	for i := range nopsapi.MaxComponents {
		big.Components = append(big.Components, nopsapi.ComponentStatus{Message: fmt.Sprintf("%x", bytes.Repeat([]byte{byte(i), byte(i * 7), byte(i * 13)}, 200)) + fmt.Sprint(i*i*i*7919)})
	}
	for i := range big.Components {
		big.Components[i].Message += noise(i, 200)
	}
	_, err := c.SendHeartbeat(t.Context(), arn, big)
	check(t, s.URL, err, nopsclient.KindRefused, "the contract allows 16384")
	if len(s.asked()) != 1 {
		t.Error("it was sent nevertheless")
	}
}

// noise does not compress well, and is the same each time.
func noise(seed, n int) string {
	x := uint64(seed)*2654435761 + 1
	out := make([]byte, n)
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = '!' + byte(x%90)
	}
	return string(out)
}

func TestHeartbeatsInPages(t *testing.T) {
	page := func(seq int, next string) answer {
		return answer{status: 200, body: fmt.Sprintf(`{"heartbeats":[{"boot_id":"b","seq":%d,"observed_at":"2026-01-02T03:04:05Z","received_at":"2026-01-02T03:04:05Z"}],"next":%q}`, seq, next)}
	}
	s := play(t, page(1, "one"), page(2, "two"), page(3, ""))
	c, _ := client(t, s.URL)
	list, err := c.Heartbeats(t.Context(), arn, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	if err != nil || len(list.Heartbeats) != 3 || list.Heartbeats[2].Seq != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	var queries []string
	for _, r := range s.asked() {
		queries = append(queries, r.URL.RawQuery)
	}
	const since = "since=2026-01-02T03%3A04%3A05.000000006Z"
	if diff := cmp.Diff([]string{since, "after=one&" + since, "after=two&" + since}, queries); diff != "" {
		t.Error(diff)
	}
	endless := play(t, page(1, "same"))
	c, _ = client(t, endless.URL)
	_, err = c.Heartbeats(t.Context(), arn, time.Time{})
	check(t, endless.URL, err, nopsclient.KindProtocol, "does not end")
}

func TestETag(t *testing.T) {
	var notModified atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			notModified.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, whoami)
	}))
	t.Cleanup(s.Close)
	c, _ := client(t, s.URL)
	for range 3 {
		if who, err := c.WhoAmI(t.Context()); err != nil || who.CustomerID != "4242" {
			t.Fatalf("%+v, %v", who, err)
		}
	}
	if notModified.Load() != 2 {
		t.Errorf("%d of 2 answers were spared", notModified.Load())
	}
	// What is asked for with a query is not kept: nobody asks for it again.
	for range 2 {
		_, _ = c.PublicClusters(t.Context(), 10)
	}
	if notModified.Load() != 2 {
		t.Error("an answer to a query is kept")
	}
}

func TestSkew(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 999, time.UTC)
	s := play(t, answer{status: 200, body: whoami, header: map[string]string{"Date": now.Add(-10 * time.Minute).Format(http.TimeFormat)}})
	c, _ := client(t, s.URL, func(o *nopsclient.Options) { o.Now = func() time.Time { return now } })
	if _, err := c.WhoAmI(t.Context()); err != nil || c.Skew() != -10*time.Minute {
		t.Errorf("skew %s, %v", c.Skew(), err)
	}
}

func TestNothingPrintsTheKey(t *testing.T) {
	o := nopsclient.Options{Host: "https://app.nops.io", Key: key}
	c, _ := client(t, o.Host)
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&log, nil), slog.NewTextHandler(&log, nil)} {
		slog.New(h).Info("x", "options", o, "client", c)
	}
	if text := fmt.Sprintf("%v %+v %#v %s %v %+v %#v", o, o, o, o, c, c, c) + log.String(); strings.Contains(text, key) {
		t.Errorf("the key is shown: %s", text)
	}
	// A key that cannot be a header is refused without being repeated.
	c, err := nopsclient.New(nopsclient.Options{Host: "http://127.0.0.1:1", Key: key + "\nx", Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.WhoAmI(t.Context())
	if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err)), "c0ffee") {
		t.Errorf("%v", err)
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add(400, "application/json", `{"error":{"code":"x","message":"y","request_id":"z"}}`, "5")
	f.Add(302, "text/html", "<html>", "")
	f.Add(200, "application/json", whoami, "Fri, 02 Jan 2026 03:04:05 GMT")
	f.Fuzz(func(t *testing.T, status int, kind, body, retry string) {
		if status < 200 || status > 999 {
			return
		}
		c, _ := client(t, "https://nops.example", func(o *nopsclient.Options) {
			o.Attempts = 1
			o.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {kind}, "Retry-After": {retry}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
			})
		})
		_, err := c.WhoAmI(t.Context())
		if err == nil {
			return
		}
		var e *nopsclient.Error
		if !errors.As(err, &e) || e.RetryAfter < 0 || strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 2000 || strings.Contains(err.Error(), key) {
			t.Errorf("%q", err)
		}
	})
}
