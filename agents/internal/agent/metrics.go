package agent

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Metrics is a registry in the text exposition format. It is forty lines where the usual library is a megabyte of memory.
// The zero value works.
//
// To register the same series twice is a mistake of the program, for only one of the two would ever be seen: it panics, when
// the agent is made.
type Metrics struct {
	mu       sync.Mutex
	families map[string]*family
}

type family struct {
	help, kind string
	samples    map[string]func() float64 // by rendered labels
}

// Value is a counter or gauge.
type Value struct{ bits atomic.Uint64 }

// Set sets a gauge.
func (v *Value) Set(f float64) { v.bits.Store(math.Float64bits(f)) }

// Get reads it.
func (v *Value) Get() float64 { return math.Float64frombits(v.bits.Load()) }

// Add adds to it.
func (v *Value) Add(f float64) {
	for {
		old := v.bits.Load()
		if v.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+f)) {
			return
		}
	}
}

// Counter registers a counter. Labels are pairs of name and value.
func (m *Metrics) Counter(name, help string, labels ...string) *Value {
	v := &Value{}
	m.add(name, help, "counter", v.Get, labels)
	return v
}

// CounterFunc registers a counter that is read when asked for.
func (m *Metrics) CounterFunc(name, help string, f func() float64, labels ...string) {
	m.add(name, help, "counter", f, labels)
}

// Gauge registers a gauge.
func (m *Metrics) Gauge(name, help string, labels ...string) *Value {
	v := &Value{}
	m.add(name, help, "gauge", v.Get, labels)
	return v
}

// GaugeFunc registers a gauge that is read when asked for.
func (m *Metrics) GaugeFunc(name, help string, f func() float64, labels ...string) {
	m.add(name, help, "gauge", f, labels)
}

func (m *Metrics) add(name, help, kind string, f func() float64, labels []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.families == nil {
		m.families = map[string]*family{}
	}
	known := m.families[name]
	if known == nil {
		known = &family{help: help, kind: kind, samples: map[string]func() float64{}}
		m.families[name] = known
	}
	rendered := renderLabels(labels)
	switch {
	case len(labels)%2 != 0:
		panic(fmt.Sprintf("metric %s: labels %q are no pairs of name and value", name, labels))
	case known.kind != kind || known.help != help:
		panic(fmt.Sprintf("metric %s is a %s (%s) and a %s (%s)", name, known.kind, known.help, kind, help))
	case known.samples[rendered] != nil:
		panic(fmt.Sprintf("metric %s%s is registered twice", name, rendered))
	}
	known.samples[rendered] = f
}

func renderLabels(pairs []string) string {
	if len(pairs) == 0 {
		return ""
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, pairs[i], escape.Replace(pairs[i+1]))
	}
	return "{" + b.String() + "}"
}

// WriteTo writes all metrics, sorted.
func (m *Metrics) WriteTo(w io.Writer) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, name := range sortedKeys(m.families) {
		f := m.families[name]
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, f.kind)
		for _, labels := range sortedKeys(f.samples) {
			b.WriteString(name + labels + " " + strconv.FormatFloat(f.samples[labels](), 'f', -1, 64) + "\n")
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// ServeHTTP implements http.Handler.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = m.WriteTo(w)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
