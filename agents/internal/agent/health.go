package agent

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"
)

// Health answers the kubelet. Liveness asks one thing: does the agent's own loop still turn? It knows nothing of the
// platform or the API server, because restarting the agent mends neither. Readiness lists conditions that must be met once
// the agent started.
type Health struct {
	now   func() time.Time
	limit time.Duration

	mu      sync.Mutex
	turned  time.Time
	waiting map[string]string // condition → why it is not met
}

// NewHealth makes a Health whose loop must call Turn at least every limit. It counts from now on.
func NewHealth(now func() time.Time, limit time.Duration, conditions ...string) *Health {
	h := &Health{now: now, limit: limit, turned: now(), waiting: map[string]string{}}
	for _, c := range conditions {
		h.waiting[c] = "not yet"
	}
	return h
}

// Turn says that the loop is alive.
func (h *Health) Turn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turned = h.now()
}

// Met says that a condition of readiness is met.
func (h *Health) Met(condition string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, condition)
}

// Unmet says why a condition is not met.
func (h *Health) Unmet(condition, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[condition] = why
}

// Live returns an error when the loop has not turned for too long.
func (h *Health) Live() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now().Sub(h.turned) > h.limit {
		return fmt.Errorf("the agent's loop has not turned for more than %s", h.limit)
	}
	return nil
}

// Ready returns an error that names the conditions that are not met.
func (h *Health) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 {
		return nil
	}
	var all []string
	for c, why := range h.waiting {
		all = append(all, c+": "+why)
	}
	sort.Strings(all)
	return fmt.Errorf("not ready: %s", strings.Join(all, "; "))
}

// Handler serves /healthz, /readyz and /metrics.
func Handler(h *Health, m *Metrics) http.Handler {
	mux := http.NewServeMux()
	answer := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte("ok\n"))
		}
	}
	mux.HandleFunc("GET /healthz", answer(h.Live))
	mux.HandleFunc("GET /readyz", answer(h.Ready))
	mux.Handle("GET /metrics", m)
	return mux
}
