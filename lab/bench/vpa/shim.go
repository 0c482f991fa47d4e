package main

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A request is what a client asked of the API server.
type request struct {
	Client   string // the first word of its name
	Verb     string
	Group    string // empty: core
	Resource string // with its subresource: pods/status
}

// writes says whether it changes something.
func (r request) writes() bool {
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, r.Verb)
}

// requestOf reads a request as an API server does.
func requestOf(r *http.Request) request {
	client, _, _ := strings.Cut(r.UserAgent(), "/")
	q := request{Client: client, Verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		q.Group, parts = parts[1], parts[3:]
	default: // discovery, health
		q.Resource = r.URL.Path
		return q
	}
	if len(parts) > 2 && parts[0] == "namespaces" && parts[2] != "status" && parts[2] != "finalize" {
		parts = parts[2:]
	}
	q.Resource = parts[0]
	if len(parts) > 2 {
		q.Resource += "/" + parts[2]
	}
	named := len(parts) > 1
	switch r.Method {
	case http.MethodGet:
		switch {
		case slices.Contains([]string{"true", "1"}, r.URL.Query().Get("watch")):
			q.Verb = "watch"
		case !named:
			q.Verb = "list"
		}
	case http.MethodPost:
		q.Verb = "create"
	case http.MethodPut:
		q.Verb = "update"
	case http.MethodDelete:
		if !named {
			q.Verb = "deletecollection"
		}
	}
	return q
}

// counts are requests by what they are.
type counts map[request]int

// since is what came after an earlier state.
func (c counts) since(before counts) counts {
	since := counts{}
	for r, n := range c {
		if n -= before[r]; n > 0 {
			since[r] = n
		}
	}
	return since
}

// writes counts those that change something, by resource. A client's own Lease is none of them.
func (c counts) writes() map[string]int {
	all := map[string]int{}
	for r, n := range c {
		if r.writes() && r.Resource != "leases" && r.Resource != "events" {
			name, _, _ := strings.Cut(r.Resource, "/")
			all[name] += n
		}
	}
	return all
}

// A shim stands before an API server. It counts requests, and serves metrics.k8s.io itself.
type shim struct {
	usage   func(client string) []byte // a PodMetricsList
	proxy   *httputil.ReverseProxy
	address string
	server  *http.Server

	mu     sync.Mutex
	counts counts
}

// newShim starts one before the API server at target, to which it shows the token.
func newShim(target, token string, certificate tls.Certificate, listener net.Listener, usage func(client string) []byte) (*shim, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	s := &shim{usage: usage, counts: counts{}, address: listener.Addr().String()}
	s.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Authorization", "Bearer "+token)
		},
		FlushInterval: -1, // watches
		// HTTP/2, as clients have without anybody between. Answers are handed on as they are packed.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway) // the API server or the client went away
		},
	}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}, ErrorLog: quiet()}
	go func() { _ = s.server.ServeTLS(listener, "", "") }()
	return s, nil
}

func (s *shim) close() { _ = s.server.Close() }

// ServeHTTP implements http.Handler.
func (s *shim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := requestOf(r)
	s.mu.Lock()
	s.counts[q]++
	s.mu.Unlock()
	if q.Group != "metrics.k8s.io" {
		c := &coalescing{ResponseWriter: w}
		defer c.end()
		s.proxy.ServeHTTP(c, r)
		return
	}
	if q.Verb != "list" || q.Resource != "pods" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.usage(q.Client))
}

// coalesce is how late an event of a watch may be. A program that starts is sent tens of thousands, and to hand on each by itself would cost more
// than to make it.
const coalesce = 5 * time.Millisecond

// coalescing hands on what was written a little later, and all that came meanwhile with it.
type coalescing struct {
	http.ResponseWriter

	mu    sync.Mutex
	timer *time.Timer // until then what was written waits; nil: nothing does
	ended bool
}

// Write implements io.Writer.
func (c *coalescing) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (c *coalescing) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil && !c.ended {
		c.timer = time.AfterFunc(coalesce, c.flush)
	}
}

func (c *coalescing) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = nil
	if !c.ended { // the server takes the writer back
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
}

func (c *coalescing) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// counted is what was asked until now.
func (s *shim) counted() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}
