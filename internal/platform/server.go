// Package platform is the local nOps platform: the reference server of the contract in pkg/nopsapi.
//
// It authenticates, authorises by scope, customer and cluster, limits rates and validates exactly as documented. Tests, the
// lab and whoever has no nOps account use it. It knows nothing of Kubernetes and does not use the contract's client.
package platform

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
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
	DatadogAPIKey     string            `json:"datadog_api_key,omitempty"`
	HeartbeatInterval int               `json:"heartbeat_interval,omitempty"` // seconds, 60 when 0
}

// String never shows a credential.
func (c Customer) String() string { return "customer " + c.ID }

// GoString never shows a credential.
func (c Customer) GoString() string { return "Customer{" + c.ID + "}" }

// LogValue never shows a credential.
func (c Customer) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Server is the platform, an http.Handler. Its zero value works: in memory, with no customers. Set fields before serving.
type Server struct {
	Store   Store            // nil means memory
	Metrics MetricsView      // nil means that samples are not looked at
	Now     func() time.Time // nil means time.Now
	Log     *slog.Logger     // nil means silence
	Faults  *Faults          // nil means none, until FaultControl sets some
	// FaultControl serves FaultsPath, where keys of the scope admin set the faults of the whole server, ScenarioPath,
	// RightsizingFaultPath and AnalysesPath. For labs only.
	FaultControl bool
	// Scenario plays markets and commitments for a cluster in the place of what was published; nil, or a nil player, means that what was
	// published is served. FaultControl serves ScenarioPath besides.
	Scenario func(arn string) *scenario.Player
	// NoKarpenter makes it a platform that does not offer the feature "karpenter".
	NoKarpenter bool
	// NoRightsizing makes it one that does not offer "rightsizing".
	NoRightsizing bool
	// Usage is what recommendations are worked out from, by Run; nil means that those which are published are all there are.
	Usage UsageView
	// RatePerMinute bounds the requests of one key; 0 means 600. As many may come at once.
	RatePerMinute int
	// Retention is how long heartbeats and closed warnings are kept; 0 means 30 days.
	Retention time.Duration

	once   sync.Once
	memory Memory
	faults Faults
	mux    *http.ServeMux
	since  time.Time  // when this process began to listen: before, nobody could be heard
	mu     sync.Mutex // serialises what reads and then writes
	rates  rates
	// analyses are made one after another; this is held before mu.
	analyses sync.Mutex
	stages   struct {
		sync.Mutex
		of map[string]stage // by customer
	}
}

// start is called once, before the first request or look.
func (s *Server) start() {
	s.since = s.now()
	s.routes()
}

func (s *Server) store() Store {
	if s.Store == nil {
		return &s.memory
	}
	return s.Store
}

func (s *Server) knobs() *Faults {
	if s.Faults == nil {
		return &s.faults
	}
	return s.Faults
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *Server) now() time.Time {
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	return now.Add(s.knobs().clock()).UTC()
}

// AddCustomer makes or changes a customer.
func (s *Server) AddCustomer(ctx context.Context, c Customer) error {
	if err := nopsapi.ValidateClientID(c.ID); err != nil {
		return err
	}
	change, err := document(kindCustomer, "", c.ID, c)
	if err != nil {
		return err
	}
	return s.store().Write(ctx, change)
}

// AddKey makes a key with a secret that is given, as a host does when it seeds a platform. Like every key it begins with the
// ID of its customer.
func (s *Server) AddKey(ctx context.Context, customerID, name, secret string, scopes ...nopsapi.Scope) error {
	if err := nopsapi.ValidateKey(secret); err != nil {
		return err
	}
	if !strings.HasPrefix(secret, customerID+".") {
		return fmt.Errorf("the key %q is not one of customer %s: its part before the dot is another", name, customerID)
	}
	k := key{APIKey: nopsapi.APIKey{ID: "key-" + hash(secret)[:12], Name: name, Scopes: scopes, CreatedAt: s.now()}, Hash: hash(secret), CustomerID: customerID}
	change, err := k.document()
	if err != nil {
		return err
	}
	return s.store().Write(ctx, change)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.once.Do(s.start)
	id := randomHex(8)
	w.Header().Set(nopsapi.RequestIDHeader, id)
	w.Header().Set("Date", s.now().Format(http.TimeFormat))
	w.Header().Set(nopsapi.VersionHeader, strconv.Itoa(nopsapi.Version))
	if s.FaultControl && slices.Contains([]string{FaultsPath, ScenarioPath, RightsizingFaultPath, AnalysesPath}, r.URL.Path) {
		s.mux.ServeHTTP(w, r) // faults do not bar the way to mending them
		return
	}
	if w = s.knobs().apply(w, r, id); w != nil {
		s.mux.ServeHTTP(w, r)
		if dropped, ok := w.(*lost); ok {
			dropped.cut()
		}
	}
}

// caller is who makes a request.
type caller struct {
	key      key
	customer Customer
	secret   string
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

func invalid(err error) error {
	return refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
}

// result is what a handler answers and what it wants written. Both come to be, or neither.
type result struct {
	status  int
	answer  any
	changes []Change
	secret  bool // the answer holds one: it is never stored in the clear
	raw     *raw // takes the place of answer
}

// raw is what a scenario plays: whatever it is.
type raw struct {
	contentType string
	data        []byte
}

func found(answer any) result { return result{status: http.StatusOK, answer: answer} }

// handler answers a request. It reads the store and leaves writing to its caller.
type handler func(ctx context.Context, c caller, r *request) (result, error)

// request is what a handler sees of one.
type request struct {
	*http.Request
	body []byte
	arn  string
	home string // where the store keeps the documents of this customer's cluster
}

// id is the one in the path.
func (r *request) id() string { return r.PathValue("id") }

type route struct {
	pattern string // method and path, below nopsapi.Base unless it is a whole path
	scopes  []nopsapi.Scope
	handler handler
	packed  int64 // bytes that a compressed body may have; 0 means nopsapi.MaxBody
	plain   int64 // bytes that a body may have unpacked; 0 means nopsapi.MaxBody
}

func (s *Server) table() []route {
	type scopes = []nopsapi.Scope
	anyKey, admin, install, agent, read := scopes(nil), scopes{nopsapi.ScopeAdmin}, scopes{nopsapi.ScopeInstall}, scopes{nopsapi.ScopeAgent}, scopes{nopsapi.ScopeRead}
	all := []route{
		{"GET /api-keys/whoami", anyKey, s.whoAmI, 0, 0},
		{"GET /api-keys", admin, s.listKeys, 0, 0},
		{"POST /api-keys", admin, s.createKey, 0, 0},
		{"POST /api-keys/{id}/rotate", admin, s.rotateKey, 0, 0},
		{"DELETE /api-keys/{id}", admin, s.revokeKey, 0, 0},
		{"GET /clusters", read, s.listClusters, 0, 0},
		{"PUT /clusters/{arn}", install, s.registerCluster, 0, 0},
		{"GET /clusters/{arn}", read, s.getCluster, 0, 0},
		{"GET /clusters/{arn}/install-config", install, s.installConfig, 0, 0},
		{"POST /clusters/{arn}/agent-key", install, s.agentKey, 0, 0},
		{"POST /clusters/{arn}/heartbeats", agent, s.heartbeat, nopsapi.MaxHeartbeatCompressed, 0},
		{"GET /clusters/{arn}/heartbeats", read, s.listHeartbeats, 0, 0},
		{"GET /clusters/{arn}/warnings", read, s.listWarnings, 0, 0},
		{"POST /clusters/{arn}/warnings/{id}/acknowledge", install, s.acknowledge, 0, 0},
		{"GET /clusters/{arn}/connectivity", read, s.connectivity, 0, 0},
		{"POST /clusters/{arn}/connectivity-tests", install, s.startTest, 0, 0},
		{"GET /clusters/{arn}/connectivity-tests/{id}", read, s.testView, 0, 0},
		{"POST /clusters/{arn}/connectivity-tests/{id}/observations", scopes{nopsapi.ScopeInstall, nopsapi.ScopeAgent}, s.observe, 0, 0},
		{"GET " + nopsapi.PublicClustersPath + "{$}", read, s.publicClusters, 0, 0},
	}
	if !s.NoKarpenter {
		all = append(all, s.karpenterTable()...)
	}
	if !s.NoRightsizing {
		all = append(all, s.rightsizingTable()...)
	}
	return all
}

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	methods := map[string][]string{} // of a path
	for _, r := range s.table() {
		method, path, _ := strings.Cut(r.pattern, " ")
		if !strings.HasPrefix(path, "/svc/") {
			path = nopsapi.Base + path
		}
		s.mux.Handle(method+" "+path, s.handle(r))
		methods[path] = append(methods[path], method)
	}
	for path, served := range methods {
		allow := strings.Join(served, ", ")
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if strings.Contains(allow, method) {
				continue
			}
			s.mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Allow", allow)
				s.answerError(w, r, refuse(http.StatusMethodNotAllowed, nopsapi.CodeMethodNotAllowed, "%s is not for this path: %s", r.Method, allow))
			})
		}
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answerError(w, r, refuse(http.StatusNotFound, nopsapi.CodeNotOffered, "this platform does not offer %s %s", r.Method, r.URL.Path))
	})
	if s.FaultControl {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			s.mux.Handle(method+" "+FaultsPath, s.handle(route{scopes: []nopsapi.Scope{nopsapi.ScopeAdmin}, handler: s.controlFaults}))
			s.mux.Handle(method+" "+ScenarioPath, s.handle(route{scopes: []nopsapi.Scope{nopsapi.ScopeAdmin}, handler: s.controlScenario}))
			s.mux.Handle(method+" "+RightsizingFaultPath, s.handle(route{scopes: []nopsapi.Scope{nopsapi.ScopeAdmin}, handler: s.controlRightsizingFault}))
		}
		// An analysis takes its time and writes at its end: it is no write that others wait for.
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			s.mux.Handle(method+" "+AnalysesPath, s.through(route{scopes: []nopsapi.Scope{nopsapi.ScopeAdmin}, handler: s.controlAnalyses}, func(ctx context.Context, c caller, r *request, h handler) (result, error) { return h(ctx, c, r) }))
		}
	}
}

// handle does for every route what every route needs.
func (s *Server) handle(served route) http.Handler { return s.through(served, s.run) }

// through is handle with another way to run a handler.
func (s *Server) through(served route, run func(context.Context, caller, *request, handler) (result, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		c, err := s.authenticate(ctx, r)
		if err != nil {
			s.answerError(w, r, err)
			return
		}
		req := &request{Request: r, arn: r.PathValue("arn")}
		req.home = home(c.customer.ID, req.arn)
		if err := s.admit(c, served.scopes, req); err != nil {
			s.answerError(w, r, err)
			return
		}
		if req.body, err = readBody(r, served.packed, served.plain); err != nil {
			s.answerError(w, r, err)
			return
		}
		res, err := run(ctx, c, req, served.handler)
		if err != nil {
			s.answerError(w, r, err)
			return
		}
		s.log().Debug("served", "method", r.Method, "path", r.URL.Path, "status", res.status, "key_id", c.key.ID, "request_id", w.Header().Get(nopsapi.RequestIDHeader))
		s.answer(w, r, res)
	})
}

// run calls a handler. Reads run side by side; writes one after another, once per idempotency key, and whole.
func (s *Server) run(ctx context.Context, c caller, r *request, h handler) (result, error) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return h(ctx, c, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again, err := s.replayed(ctx, c, r)
	if err != nil || again != nil {
		return deref(again), err
	}
	res, err := h(ctx, c, r)
	if err != nil {
		return res, err
	}
	if remember, err := s.remember(c, r, res); err != nil {
		return res, err
	} else if remember != nil {
		res.changes = append(res.changes, *remember)
	}
	return res, s.store().Write(ctx, res.changes...)
}

func deref(r *result) result {
	if r == nil {
		return result{}
	}
	return *r
}

func (s *Server) authenticate(ctx context.Context, r *http.Request) (caller, error) {
	secret := r.Header.Get(nopsapi.KeyHeader)
	if secret == "" {
		return caller{}, refuse(http.StatusUnauthorized, nopsapi.CodeMissingCredentials, "no API key: send it in the header %s", nopsapi.KeyHeader)
	}
	// What is looked up is a digest: how long that takes tells nothing of a stored secret.
	digest := hash(secret)
	k, err := read[key](ctx, s.store(), kindKey, digest)
	switch {
	case errors.Is(err, ErrNoDocument), err == nil && (k.RevokedAt != nil || subtle.ConstantTimeCompare([]byte(k.Hash), []byte(digest)) != 1):
		return caller{}, refuse(http.StatusUnauthorized, nopsapi.CodeInvalidCredentials, "this API key is not valid")
	case err != nil:
		return caller{}, err
	}
	customer, err := read[Customer](ctx, s.store(), kindCustomer, k.CustomerID)
	if err != nil {
		return caller{}, fmt.Errorf("customer of key %s: %w", k.ID, err)
	}
	return caller{k, customer, secret}, nil
}

// admit checks the rate, the scope and, for agent keys, the cluster.
func (s *Server) admit(c caller, scopes []nopsapi.Scope, r *request) error {
	if wait := s.rates.take(c.key.ID, s.RatePerMinute, s.now()); wait > 0 {
		return &refusal{http.StatusTooManyRequests, nopsapi.CodeRateLimited, "too many requests with this key", wait}
	}
	who := c.whoAmI()
	allowed := len(scopes) == 0
	for _, scope := range scopes {
		allowed = allowed || who.Allows(scope)
	}
	if !allowed {
		return refuse(http.StatusForbidden, nopsapi.CodeForbiddenScope, "this key has the scopes %v, %s %s needs %v", who.Scopes, r.Method, r.URL.Path, scopes)
	}
	if r.arn == "" {
		return nil
	}
	if _, err := nopsapi.ParseARN(r.arn); err != nil {
		return invalid(err)
	}
	if c.key.ClusterARN != "" && c.key.ClusterARN != r.arn {
		return errNoCluster(r.arn) // another cluster does not exist for this key
	}
	return nil
}

func errNoCluster(arn string) error {
	return refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no cluster %s is registered with this customer", arn)
}

// readBody reads a body, unpacked. packed bounds a compressed one, plain one unpacked; 0 means nopsapi.MaxBody.
func readBody(r *http.Request, packed, plain int64) ([]byte, error) {
	packed, plain = cmp.Or(packed, nopsapi.MaxBody), cmp.Or(plain, nopsapi.MaxBody)
	limit, zipped := plain, false
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		limit, zipped = packed, true
	default:
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "Content-Encoding %q: gzip or none", encoding)
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
	data, err = io.ReadAll(io.LimitReader(zip, plain+1))
	switch {
	case err != nil:
		return nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "the body is damaged gzip")
	case int64(len(data)) > plain:
		return nil, refuse(http.StatusRequestEntityTooLarge, nopsapi.CodeTooLarge, "the body is larger than %d bytes unpacked", plain)
	}
	return data, nil
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, res result) {
	sent := raw{contentType: "application/json"}
	if res.raw != nil {
		sent = *res.raw
	} else {
		var err error
		if sent.data, err = json.Marshal(res.answer); err != nil {
			s.answerError(w, r, fmt.Errorf("encode the answer: %w", err))
			return
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		sum := sha256.Sum256(sent.data)
		name := hex.EncodeToString(sum[:8])
		etag, zipped := `"`+name+`"`, `"`+name+`-gzip"` // a strong tag stands for bytes: packed they are others
		same := matches(r.Header.Get("If-None-Match"), etag, zipped)
		if len(sent.data) >= worthPacking && accepts(r.Header.Get("Accept-Encoding")) {
			w.Header().Set("Vary", "Accept-Encoding")
			if etag = zipped; !same {
				w.Header().Set("Content-Encoding", "gzip")
				sent.data = pack(sent.data)
			}
		}
		w.Header().Set("ETag", etag)
		if same {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", sent.contentType)
	w.WriteHeader(res.status)
	_, _ = w.Write(sent.data)
}

// worthPacking is from how many bytes on an answer is compressed: markets and inventories, which are polled or large.
const worthPacking = 16 << 10

// accepts says whether a caller takes gzip.
func accepts(header string) bool {
	for _, coding := range strings.Split(header, ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(coding, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(weight, "q="), 64)
			return weight == "" || err == nil && q > 0
		}
	}
	return false
}

func pack(data []byte) []byte {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	_, _ = zip.Write(data) // memory takes all there is
	_ = zip.Close()
	return buf.Bytes()
}

// matches reads a list of tags; a proxy that compresses makes them weak.
func matches(header string, etags ...string) bool {
	for _, tag := range strings.Split(header, ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || slices.Contains(etags, tag) {
			return true
		}
	}
	return false
}

func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	id := w.Header().Get(nopsapi.RequestIDHeader)
	refused := &refusal{status: http.StatusInternalServerError, code: nopsapi.CodeInternal, message: "the platform could not do this"}
	switch {
	case errors.As(err, &refused):
		s.log().Debug("refused", "method", r.Method, "path", r.URL.Path, "status", refused.status, "code", refused.code, "request_id", id)
	case r.Context().Err() != nil:
		s.log().Debug("the caller is gone", "method", r.Method, "path", r.URL.Path, "request_id", id)
	default:
		s.log().Error("not served", "method", r.Method, "path", r.URL.Path, "error", err, "request_id", id)
	}
	if refused.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(refused.retryAfter)))
	}
	body, _ := json.Marshal(nopsapi.ErrorBody{Error: nopsapi.ErrorDetail{Code: refused.code, Message: refused.message, RequestID: id}}) //nolint:errchkjson // three strings
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(refused.status)
	_, _ = w.Write(body)
}

// seconds rounds up: who comes back after them is not too early.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
