// Package platform is the local nOps platform: the reference server of the contract in pkg/nopsapi.
//
// It authenticates, authorises by scope, customer and cluster, limits rates and validates exactly as documented. Tests, the
// lab and whoever has no nOps account use it. It knows nothing of Kubernetes and does not use the contract's client.
package platform

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// MetricsView tells what the metrics store holds of a cluster.
type MetricsView interface {
	// LastSample returns the time of the newest sample and the number of series; a zero time when there is none.
	LastSample(ctx context.Context, workspaceID, clusterARN string) (at time.Time, series int, err error)
}

// Customer is an organisation: its workspace of metrics and its defaults.
type Customer struct {
	ID                string            `json:"id"` // digits; the part of its keys before the dot
	AMP               nopsapi.AMPConfig `json:"amp"`
	ChartVersion      string            `json:"chart_version,omitempty"`
	HeartbeatInterval int               `json:"heartbeat_interval,omitempty"` // seconds, 60 when 0
}

// Server is the platform, an http.Handler. Its zero value works: in memory, with no customers. Set fields before serving.
type Server struct {
	Store   Store            // nil means memory
	Metrics MetricsView      // nil means that samples are not looked at
	Now     func() time.Time // nil means time.Now
	Faults  *Faults          // nil means none
	// RatePerMinute bounds the requests of one key; 0 means 600.
	RatePerMinute int

	once   sync.Once
	memory Memory
	mux    *http.ServeMux
	mu     sync.Mutex // serialises what reads and then writes
	rates  map[string]*window
}

type window struct {
	start time.Time
	count int
}

// key is a stored API key: its hash, never itself.
type key struct {
	nopsapi.APIKey
	Hash       string `json:"hash"`
	CustomerID string `json:"customer_id"`
}

// cluster is a stored cluster and whose it is.
type cluster struct {
	nopsapi.Cluster
	CustomerID string `json:"customer_id"`
}

// caller is who makes a request.
type caller struct {
	key      key
	customer Customer
}

func (c caller) whoAmI() nopsapi.WhoAmI {
	return nopsapi.WhoAmI{KeyID: c.key.ID, CustomerID: c.customer.ID, Scopes: c.key.Scopes, ClusterARN: c.key.ClusterARN, ContractVersion: nopsapi.Version}
}

// refusal is an answer that is not 2xx.
type refusal struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func (s *Server) store() Store {
	if s.Store == nil {
		return &s.memory
	}
	return s.Store
}

func (s *Server) now() time.Time {
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	return now.Add(s.Faults.clock()).UTC()
}

// AddCustomer makes or changes a customer.
func (s *Server) AddCustomer(ctx context.Context, c Customer) error {
	return put(ctx, s.store(), kindCustomer, "", c.ID, c)
}

// AddKey makes a key with a secret that is given, as a host does when it seeds a platform.
func (s *Server) AddKey(ctx context.Context, customerID, name, secret string, scopes ...nopsapi.Scope) error {
	if err := nopsapi.ValidateKey(secret); err != nil {
		return err
	}
	return s.putKey(ctx, key{APIKey: nopsapi.APIKey{ID: "key-" + hash(secret)[:12], Name: name, Scopes: scopes, CreatedAt: s.now()}, Hash: hash(secret), CustomerID: customerID})
}

func (s *Server) putKey(ctx context.Context, k key) error {
	return put(ctx, s.store(), kindKey, k.CustomerID, k.Hash, k)
}

// hash is what is stored of a secret. Keys are random, so a plain digest cannot be searched.
func hash(secret string) string {
	sum := sha256.Sum256([]byte("nops-api-key:" + secret))
	return hex.EncodeToString(sum[:])
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.once.Do(s.routes)
	id := randomHex(8)
	w.Header().Set(nopsapi.RequestIDHeader, id)
	w.Header().Set("Date", s.now().Format(http.TimeFormat))
	w.Header().Set(nopsapi.VersionHeader, strconv.Itoa(nopsapi.Version))
	if s.Faults.apply(w, r, id) {
		return
	}
	s.mux.ServeHTTP(w, r)
}

// handler answers with a status and a document, or with an error.
type handler func(ctx context.Context, c caller, r *request) (int, any, error)

// request is what a handler sees of one.
type request struct {
	*http.Request
	body []byte
	arn  string
}

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	route := func(pattern string, scope nopsapi.Scope, h handler) {
		method, path, _ := strings.Cut(pattern, " ")
		s.mux.Handle(method+" "+nopsapi.Base+path, s.handle(scope, h))
	}
	route("GET /api-keys/whoami", "", s.whoAmI)
	route("GET /api-keys", nopsapi.ScopeAdmin, s.listKeys)
	route("POST /api-keys", nopsapi.ScopeAdmin, s.createKey)
	route("POST /api-keys/{id}/rotate", nopsapi.ScopeAdmin, s.rotateKey)
	route("DELETE /api-keys/{id}", nopsapi.ScopeAdmin, s.revokeKey)
	route("GET /clusters", nopsapi.ScopeRead, s.listClusters)
	route("PUT /clusters/{arn}", nopsapi.ScopeInstall, s.registerCluster)
	route("GET /clusters/{arn}", nopsapi.ScopeRead, s.getCluster)
	route("GET /clusters/{arn}/install-config", nopsapi.ScopeInstall, s.installConfig)
	route("POST /clusters/{arn}/agent-key", nopsapi.ScopeInstall, s.agentKey)
	route("POST /clusters/{arn}/heartbeats", nopsapi.ScopeAgent, s.heartbeat)
	route("GET /clusters/{arn}/heartbeats", nopsapi.ScopeRead, s.listHeartbeats)
	route("GET /clusters/{arn}/warnings", nopsapi.ScopeRead, s.listWarnings)
	route("POST /clusters/{arn}/warnings/{id}/acknowledge", nopsapi.ScopeInstall, s.acknowledge)
	route("GET /clusters/{arn}/connectivity", nopsapi.ScopeRead, s.connectivity)
	route("POST /clusters/{arn}/connectivity-tests", nopsapi.ScopeInstall, s.startTest)
	route("GET /clusters/{arn}/connectivity-tests/{id}", nopsapi.ScopeRead, s.testView)
	route("POST /clusters/{arn}/connectivity-tests/{id}/observations", "", s.observe)
	s.mux.Handle("GET "+nopsapi.PublicClustersPath, s.handle(nopsapi.ScopeRead, s.publicClusters))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no such path: %s %s", r.Method, r.URL.Path))
	})
}

// handle does for every route what every route needs.
func (s *Server) handle(scope nopsapi.Scope, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		c, err := s.authenticate(ctx, r)
		if err != nil {
			s.answerError(w, r, err)
			return
		}
		req := &request{Request: r, arn: r.PathValue("arn")}
		if err := s.admit(c, scope, req); err != nil {
			s.answerError(w, r, err)
			return
		}
		if req.body, err = readBody(r); err != nil {
			s.answerError(w, r, err)
			return
		}
		status, answer, err := s.replayed(ctx, c, req, h)
		if err != nil {
			s.answerError(w, r, err)
			return
		}
		s.answer(w, r, status, answer)
	})
}

func (s *Server) authenticate(ctx context.Context, r *http.Request) (caller, error) {
	secret := r.Header.Get(nopsapi.KeyHeader)
	if secret == "" {
		return caller{}, refuse(http.StatusUnauthorized, nopsapi.CodeMissingCredentials, "no API key: send it in the header %s", nopsapi.KeyHeader)
	}
	// A look-up by digest leaks no timing of the secret itself.
	k, err := read[key](ctx, s.store(), kindKey, hash(secret))
	if errors.Is(err, ErrNoDocument) || err == nil && k.RevokedAt != nil {
		return caller{}, refuse(http.StatusUnauthorized, nopsapi.CodeInvalidCredentials, "this API key is not valid")
	} else if err != nil {
		return caller{}, err
	}
	customer, err := read[Customer](ctx, s.store(), kindCustomer, k.CustomerID)
	if err != nil {
		return caller{}, fmt.Errorf("customer of key %s: %w", k.ID, err)
	}
	return caller{k, customer}, nil
}

// admit checks the rate, the scope and, for agent keys, the cluster.
func (s *Server) admit(c caller, scope nopsapi.Scope, r *request) error {
	if wait := s.overRate(c.key.ID); wait > 0 {
		return &refusal{http.StatusTooManyRequests, nopsapi.CodeRateLimited, "too many requests with this key", wait}
	}
	who := c.whoAmI()
	if scope != "" && !who.Allows(scope) {
		return refuse(http.StatusForbidden, nopsapi.CodeForbiddenScope, "this key has the scopes %v, %s %s needs %q", who.Scopes, r.Method, r.URL.Path, scope)
	}
	if r.arn == "" {
		return nil
	}
	if _, err := nopsapi.ParseARN(r.arn); err != nil {
		return refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	if c.key.ClusterARN != "" && c.key.ClusterARN != r.arn {
		return errNoCluster(r.arn) // another cluster does not exist for this key
	}
	return nil
}

func errNoCluster(arn string) error {
	return refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no cluster %s is registered with this customer", arn)
}

func (s *Server) overRate(keyID string) time.Duration {
	limit := s.RatePerMinute
	if limit == 0 {
		limit = 600
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.rates == nil {
		s.rates = map[string]*window{}
	}
	w := s.rates[keyID]
	if w == nil || now.Sub(w.start) >= time.Minute {
		w = &window{start: now}
		s.rates[keyID] = w
	}
	w.count++
	if w.count <= limit {
		return 0
	}
	return max(time.Second, time.Minute-now.Sub(w.start))
}

func readBody(r *http.Request) ([]byte, error) {
	limit := int64(nopsapi.MaxBody)
	zipped := r.Header.Get("Content-Encoding") == "gzip"
	if zipped {
		limit = nopsapi.MaxHeartbeatCompressed
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "the body ended early")
	case int64(len(data)) > limit:
		return nil, refuse(http.StatusRequestEntityTooLarge, nopsapi.CodeTooLarge, "the body is larger than %d bytes", limit)
	case !zipped:
		return data, nil
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "the body is not gzip")
	}
	plain, err := io.ReadAll(io.LimitReader(zip, nopsapi.MaxBody+1))
	switch {
	case err != nil:
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "the body is damaged gzip")
	case len(plain) > nopsapi.MaxBody:
		return nil, refuse(http.StatusRequestEntityTooLarge, nopsapi.CodeTooLarge, "the body is larger than %d bytes unpacked", nopsapi.MaxBody)
	}
	return plain, nil
}

// replay is the stored answer of a write with an idempotency key.
type replay struct {
	Request string          `json:"request"` // digest of method, path and body
	Status  int             `json:"status"`
	Answer  json.RawMessage `json:"answer"`
}

// replayed runs a write once per idempotency key: repeated, it answers as before; with another body, it conflicts. Answers
// that hold a secret are not kept: such a repeat makes a new key, and the old one stays valid until it is revoked.
func (s *Server) replayed(ctx context.Context, c caller, r *request, h handler) (int, any, error) {
	given := r.Header.Get(nopsapi.IdempotencyHeader)
	if r.Method == http.MethodGet || given == "" {
		return h(ctx, c, r)
	}
	sum := sha256.Sum256([]byte(r.Method + " " + r.URL.EscapedPath() + "\n" + string(r.body)))
	digest := hex.EncodeToString(sum[:])
	id := c.customer.ID + "/" + r.arn + "/" + given
	// A beat is resent with a new sent_at; its own identity is checked by the handler.
	beat := strings.HasSuffix(r.URL.Path, "/heartbeats")
	old, err := read[replay](ctx, s.store(), kindReplay, id)
	switch {
	case err == nil && old.Request != digest && !beat:
		return 0, nil, refuse(http.StatusConflict, nopsapi.CodeConflict, "idempotency key %q was used for another request", given)
	case err == nil && !beat:
		return old.Status, old.Answer, nil
	case err != nil && !errors.Is(err, ErrNoDocument):
		return 0, nil, err
	}
	status, answer, err := h(ctx, c, r)
	if err != nil || beat || secretive(answer) {
		return status, answer, err
	}
	data, err := json.Marshal(answer)
	if err != nil {
		return 0, nil, fmt.Errorf("keep the answer: %w", err)
	}
	return status, answer, put(ctx, s.store(), kindReplay, c.customer.ID, id, replay{digest, status, data})
}

func secretive(answer any) bool {
	switch answer.(type) {
	case nopsapi.APIKeyCreated, nopsapi.AgentKey:
		return true
	}
	return false
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, answer any) {
	data, err := json.Marshal(answer)
	if err != nil {
		s.answerError(w, r, fmt.Errorf("encode the answer: %w", err))
		return
	}
	if r.Method == http.MethodGet {
		sum := sha256.Sum256(data)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

func (s *Server) answerError(w http.ResponseWriter, _ *http.Request, err error) {
	r := &refusal{status: http.StatusInternalServerError, code: nopsapi.CodeInternal, message: "the platform could not do this"}
	errors.As(err, &r)
	if r.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(r.retryAfter.Seconds()+0.999)))
	}
	body, _ := json.Marshal(nopsapi.ErrorBody{Error: nopsapi.ErrorDetail{Code: r.code, Message: r.message, RequestID: w.Header().Get(nopsapi.RequestIDHeader)}}) //nolint:errchkjson // three strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	_, _ = w.Write(body)
}

// own returns a cluster of the caller's customer. A cluster of another customer does not exist for this one.
func (s *Server) own(ctx context.Context, c caller, arn string) (cluster, error) {
	found, err := read[cluster](ctx, s.store(), kindCluster, arn)
	if errors.Is(err, ErrNoDocument) || err == nil && found.CustomerID != c.customer.ID {
		return cluster{}, errNoCluster(arn)
	}
	return found, err
}

func read[T any](ctx context.Context, store Store, kind Kind, id string) (T, error) {
	var doc T
	data, err := store.Get(ctx, kind, id)
	if err != nil {
		return doc, err //nolint:wrapcheck // stores name what they read
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, fmt.Errorf("stored %s %s: %w", kind, id, err)
	}
	return doc, nil
}

func put(ctx context.Context, store Store, kind Kind, parent, id string, doc any) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("store %s: %w", kind, err)
	}
	return store.Put(ctx, kind, parent, Document{id, data}) //nolint:wrapcheck // stores name what they write
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return hex.EncodeToString(raw)
}

// clusterID looks like the public examples, "D/M7Yj" and "a+ABC1": six characters of the base64 alphabet.
func clusterID(arn string) string {
	sum := sha256.Sum256([]byte("cluster-id:" + arn))
	return base64.StdEncoding.EncodeToString(sum[:])[:6]
}
