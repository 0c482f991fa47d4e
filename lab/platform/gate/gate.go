package gate

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang/snappy"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

// Service is the name of the service in signatures.
const Service = "aps"

// Other reasons of refusal.
const (
	Access   = "other_workspace"
	NoPath   = "no_such_path"
	Store    = "store_unavailable"
	Injected = "injected"
)

// Key opens a workspace.
type Key = sigv4.Key

// Workspace is one customer's store and the key pair that opens it.
type Workspace struct {
	ID    string
	Key   Key
	Store *url.URL // Prometheus API and remote write of its store
}

// Limits bound writes. The zero value of each means its default.
type Limits struct {
	Body     int64         // bytes as sent; 8 MiB
	Unpacked int64         // bytes; 64 MiB
	Age      time.Duration // of a sample; one hour; negative: any
	Labels   int           // of a series; 150
	Rate     float64       // samples per second and workspace, in bursts of ten seconds; no limit
}

func (l Limits) withDefaults() Limits {
	if l.Body == 0 {
		l.Body = 8 << 20
	}
	if l.Unpacked == 0 {
		l.Unpacked = 64 << 20
	}
	if l.Age == 0 {
		l.Age = time.Hour
	}
	if l.Labels == 0 {
		l.Labels = 150
	}
	return l
}

// Fault is what goes wrong with requests that are otherwise in order. The zero value is none.
type Fault struct {
	Workspace  string        // empty: every one
	Reads      bool          // queries too, not writes alone
	Status     int           // answered instead of serving
	RetryAfter time.Duration // told with it
	Times      int           // how many requests it strikes; 0: all
}

// Count is what the gate has seen of a workspace.
type Count struct {
	Writes   uint64            `json:"writes"` // accepted, whole or in part
	Series   uint64            `json:"series"` // in accepted writes
	Samples  uint64            `json:"samples"`
	Reads    uint64            `json:"reads"`
	Rejected map[string]uint64 `json:"rejected"` // requests by reason; those of which a part was left out count here and as accepted
}

// Gate is an http.Handler. Set its fields before serving; it is safe for concurrent use.
type Gate struct {
	Region     string
	Account    string // in messages; any twelve digits
	Workspaces []Workspace
	Limits     Limits
	Transport  http.RoundTripper // to the stores; nil means http.DefaultTransport
	Now        func() time.Time  // nil means time.Now
	Log        *slog.Logger      // of refusals; nil means silence

	mu      sync.Mutex
	fault   Fault
	counts  map[string]*Count
	buckets map[string]*bucket
}

var _ http.Handler = (*Gate)(nil)

// bucket holds the samples that may still be written.
type bucket struct {
	tokens float64
	at     time.Time
}

// Inject replaces the fault; the zero Fault ends it.
func (g *Gate) Inject(f Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = f
}

// Counts returns what was seen so far, by workspace; under "" what belongs to none.
func (g *Gate) Counts() map[string]Count {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := map[string]Count{}
	for _, w := range g.Workspaces {
		all[w.ID] = Count{Rejected: map[string]uint64{}}
	}
	for id, c := range g.counts {
		count := *c
		count.Rejected = maps.Clone(c.Rejected)
		all[id] = count
	}
	return all
}

// count changes what was seen of a workspace. Only workspaces that exist have an entry, so that nobody can fill the memory.
func (g *Gate) count(id string, change func(*Count)) {
	if _, ok := g.workspace(id); !ok {
		id = ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.counts == nil {
		g.counts = map[string]*Count{}
	}
	if g.counts[id] == nil {
		g.counts[id] = &Count{Rejected: map[string]uint64{}}
	}
	change(g.counts[id])
}

func (g *Gate) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}

func (g *Gate) workspace(id string) (Workspace, bool) {
	for _, w := range g.Workspaces {
		if w.ID == id {
			return w, true
		}
	}
	return Workspace{}, false
}

var paths = regexp.MustCompile(`^/workspaces/([^/]+)/api/v1/([^?]+)$`)

// readable are the paths of the Prometheus API that a workspace answers.
var readable = regexp.MustCompile(`^(query|query_range|series|labels|label/[^/]+/values|metadata)$`)

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amzn-Requestid", requestID())
	id, err := g.serve(w, r)
	if err == nil {
		return
	}
	var d *sigv4.DeniedError
	if !errors.As(err, &d) {
		d = &sigv4.DeniedError{Status: http.StatusServiceUnavailable, Type: "ServiceUnavailableException", Reason: Store, Message: "Service Unavailable"}
	}
	g.count(id, func(c *Count) { c.Rejected[d.Reason]++ })
	if g.Log != nil {
		g.Log.Info("refused", "method", r.Method, "path", r.URL.Path, "status", d.Status, "reason", d.Reason, "message", d.Message)
	}
	deny(w, d)
}

// deny answers as the service does.
func deny(w http.ResponseWriter, d *sigv4.DeniedError) {
	body, _ := json.Marshal(map[string]string{"message": d.Message}) //nolint:errchkjson // strings
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", d.Type)
	w.WriteHeader(d.Status)
	_, _ = w.Write(body)
}

// serve returns the workspace that was asked for, and why it was refused. The order is that of AWS: who, may they, then what.
func (g *Gate) serve(w http.ResponseWriter, r *http.Request) (string, error) {
	limits := g.Limits.withDefaults()
	match := paths.FindStringSubmatch(r.URL.Path)
	id, path := "", ""
	if match != nil {
		id, path = match[1], match[2]
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limits.Body+1))
	if err != nil {
		return id, refuse(http.StatusBadRequest, "ValidationException", Invalid, "the body ended early")
	}
	if int64(len(body)) > limits.Body {
		return id, refuse(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", TooLarge, "the body is larger than %d bytes", limits.Body)
	}
	signer, err := sigv4.Verifier{Region: g.Region, Service: Service, Now: g.Now, Lookup: g.lookup}.Verify(r, body)
	if err != nil {
		return id, err
	}
	write := path == "remote_write" && r.Method == http.MethodPost
	if !write && !(readable.MatchString(path) && (r.Method == http.MethodGet || r.Method == http.MethodPost)) {
		return id, refuse(http.StatusNotFound, "UnknownOperationException", NoPath, "no such operation: %s %s", r.Method, r.URL.Path)
	}
	space, ok := g.workspace(id)
	if !ok || space.Key.AccessKeyID != signer {
		action := "QueryMetrics"
		if write {
			action = "RemoteWrite"
		}
		// The same answer for a workspace of somebody else and for none: neither says that the other exists.
		return id, refuse(http.StatusForbidden, "AccessDeniedException", Access, "User is not authorized to perform: aps:%s on resource: arn:aws:aps:%s:%s:workspace/%s", action, g.Region, g.Account, id)
	}
	if err := g.strike(w, id, !write); err != nil {
		return id, err
	}
	if write {
		return id, g.write(w, r, space, body, limits)
	}
	if err := g.forward(w, r, space, "/api/v1/"+path, body); err != nil {
		return id, err
	}
	g.count(id, func(c *Count) { c.Reads++ })
	return id, nil
}

var errUnknownKey = errors.New("no such key")

func (g *Gate) lookup(id string) (Key, error) {
	for _, w := range g.Workspaces {
		if w.Key.AccessKeyID == id {
			return w.Key, nil
		}
	}
	return Key{}, errUnknownKey
}

// strike applies the fault.
func (g *Gate) strike(w http.ResponseWriter, id string, read bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.fault
	if f.Status == 0 || read && !f.Reads || f.Workspace != "" && f.Workspace != id {
		return nil
	}
	if f.Times > 0 {
		g.fault.Times--
		if g.fault.Times == 0 {
			g.fault = Fault{}
		}
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds()+0.999)))
	}
	return refuse(f.Status, http.StatusText(f.Status), Injected, "injected fault: %s", http.StatusText(f.Status))
}

// take takes samples from a workspace's bucket. A write larger than the bucket passes when the bucket is full: it could
// never pass otherwise.
func (g *Gate) take(id string, samples int, rate float64) bool {
	if rate <= 0 {
		return true
	}
	const burst = 10 // seconds
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.buckets == nil {
		g.buckets = map[string]*bucket{}
	}
	now := g.now()
	b := g.buckets[id]
	if b == nil {
		b = &bucket{tokens: rate * burst, at: now}
		g.buckets[id] = b
	}
	b.tokens = min(rate*burst, b.tokens+rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.tokens < min(float64(samples), rate*burst) {
		return false
	}
	b.tokens -= float64(samples)
	return true
}

func (g *Gate) write(w http.ResponseWriter, r *http.Request, space Workspace, body []byte, limits Limits) error {
	message, err := unpack(r, body, limits.Unpacked)
	if err != nil {
		return err
	}
	var oldest time.Time
	if limits.Age > 0 {
		oldest = g.now().Add(-limits.Age)
	}
	message, found, err := screen(message, oldest, limits.Labels)
	if err != nil {
		return refuse(http.StatusBadRequest, "ValidationException", Invalid, "the body is no remote-write message: %v", err)
	}
	if !g.take(space.ID, found.samples, limits.Rate) {
		w.Header().Set("Retry-After", "1")
		return refuse(http.StatusTooManyRequests, "ThrottlingException", RateLimit, "Ingestion rate limit (%v) exceeded while adding %d samples", limits.Rate, found.samples)
	}
	if len(message) > 0 {
		if err := g.send(r.Context(), space, message); err != nil {
			return err
		}
	}
	if found.samples > 0 {
		g.count(space.ID, func(c *Count) {
			c.Writes++
			c.Series += uint64(found.series)
			c.Samples += uint64(found.samples)
		})
	}
	// As the real service does: what is in order was taken, and the answer speaks of what was not.
	switch {
	case found.tooOld > 0:
		return refuse(http.StatusBadRequest, "ValidationException", TooOld, "out of bounds: %d samples are older than %s", found.tooOld, limits.Age)
	case found.labels > 0:
		return refuse(http.StatusBadRequest, "ValidationException", TooMany, "%d series have more than %d labels", found.labels, limits.Labels)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// send hands a write to the store.
func (g *Gate) send(ctx context.Context, space Workspace, message []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, space.Store.JoinPath("api/v1/write").String(), bytes.NewReader(snappy.Encode(nil, message)))
	if err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	res, err := g.transport().RoundTrip(req)
	if err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	switch {
	case res.StatusCode < http.StatusMultipleChoices:
		return nil
	case res.StatusCode < http.StatusInternalServerError:
		return refuse(http.StatusBadRequest, "ValidationException", Invalid, "%s", strings.TrimSpace(string(text)))
	}
	return fmt.Errorf("write to the store: %s: %s", res.Status, text)
}

func (g *Gate) transport() http.RoundTripper {
	if g.Transport != nil {
		return g.Transport
	}
	return http.DefaultTransport
}

// forward asks the store and passes its answer on.
func (g *Gate) forward(w http.ResponseWriter, r *http.Request, space Workspace, path string, body []byte) error {
	target := space.Store.JoinPath(path)
	target.RawQuery = r.URL.RawQuery
	req, err := http.NewRequestWithContext(r.Context(), r.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the store: %w", err)
	}
	for _, name := range []string{"Content-Type", "Accept", "Accept-Encoding"} {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[name] = slices.Clone(values)
		}
	}
	res, err := g.transport().RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the store: %w", err)
	}
	defer res.Body.Close()
	for _, name := range []string{"Content-Type", "Content-Encoding", "Vary", "Location"} {
		if values := res.Header.Values(name); len(values) > 0 {
			w.Header()[name] = slices.Clone(values)
		}
	}
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
	return nil
}

// Open serves the Prometheus API of one workspace at the root, for reading, without asking who it is: for the people and
// tests of this machine, on a loopback address alone. The store's own page for queries is at /vmui/.
func (g *Gate) Open(workspaceID string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		space, ok := g.workspace(workspaceID)
		path, api := strings.CutPrefix(r.URL.Path, "/api/v1/")
		page := r.Method == http.MethodGet && (r.URL.Path == "/vmui" || strings.HasPrefix(r.URL.Path, "/vmui/"))
		switch {
		case r.URL.Path == "/" && r.Method == http.MethodGet:
			http.Redirect(w, r, "/vmui/", http.StatusFound)
			return
		case !ok, !page && !(api && readable.MatchString(path) && (r.Method == http.MethodGet || r.Method == http.MethodPost)):
			deny(w, &sigv4.DeniedError{Status: http.StatusNotFound, Type: "UnknownOperationException", Message: fmt.Sprintf("no such operation: %s %s", r.Method, r.URL.Path)})
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, g.Limits.withDefaults().Body))
		if err == nil {
			err = g.forward(w, r, space, r.URL.Path, body)
		}
		if err != nil {
			deny(w, &sigv4.DeniedError{Status: http.StatusServiceUnavailable, Type: "ServiceUnavailableException", Message: "the metrics store does not answer"})
		}
	})
}

func requestID() string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return hex.EncodeToString(raw)
}
