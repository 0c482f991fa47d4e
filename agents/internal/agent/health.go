package agent

import (
	"context"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"
)

// Health answers the kubelet. Liveness asks one thing: do the agent's own loops still turn, each of them? It knows nothing of
// the platform or the API server, because restarting the agent mends neither. Readiness lists conditions that must be met
// once the agent started.
type Health struct {
	now func() time.Time

	mu      sync.Mutex
	loops   map[string]*Loop
	waiting map[string]string // condition → why it is not met
}

// NewHealth makes a Health that is ready when the conditions are met.
func NewHealth(now func() time.Time, conditions ...string) *Health {
	h := &Health{now: now, loops: map[string]*Loop{}, waiting: map[string]string{}}
	for _, c := range conditions {
		h.waiting[c] = "not yet"
	}
	return h
}

// Loop is one of an agent's loops.
type Loop struct {
	health *Health
	name   string
	limit  time.Duration
	turned time.Time // the Health's lock guards it
}

// Loop adds a loop that must turn at least every limit, from now on. Two of one name would hide each other's standstill: the
// second is a mistake of the program, and panics when the agent is made.
func (h *Health) Loop(name string, limit time.Duration) *Loop {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.loops[name] != nil {
		panic(fmt.Sprintf("two loops are called %q", name))
	}
	l := &Loop{health: h, name: name, limit: limit, turned: h.now()}
	h.loops[name] = l
	return l
}

// Turn says that the loop is alive.
func (l *Loop) Turn() {
	l.health.mu.Lock()
	defer l.health.mu.Unlock()
	l.turned = l.health.now()
}

// End says that the loop is done in good order: it need not turn any more.
func (l *Loop) End() {
	l.health.mu.Lock()
	defer l.health.mu.Unlock()
	delete(l.health.loops, l.name)
}

// Sleep waits for d, or until the context ends. A loop that sleeps on purpose is alive.
func (l *Loop) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		l.Turn()
		return ctx.Err()
	}
	return l.wait(ctx, nil, time.After(d))
}

// Await waits until wake receives, or until the context ends. A loop that waits for work is alive.
func (l *Loop) Await(ctx context.Context, wake <-chan struct{}) error { return l.wait(ctx, wake, nil) }

func (l *Loop) wait(ctx context.Context, wake <-chan struct{}, over <-chan time.Time) error {
	ticker := time.NewTicker(l.limit / 3)
	defer ticker.Stop()
	for {
		l.Turn()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
			return nil
		case <-over:
			return nil
		case <-ticker.C:
		}
	}
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

// Live returns an error that names the loops that have not turned for too long.
func (h *Health) Live() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var still []string
	for name, l := range h.loops {
		if h.now().Sub(l.turned) > l.limit {
			still = append(still, fmt.Sprintf("%s has not turned for more than %s", name, l.limit))
		}
	}
	if len(still) == 0 {
		return nil
	}
	sort.Strings(still)
	return fmt.Errorf("a loop of the agent stands still: %s", strings.Join(still, "; "))
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
