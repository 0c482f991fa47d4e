// Package exposition serves upstream's metrics beside an agent's own.
//
// Upstream keeps its collectors in package variables of Prometheus's default registry, which also has what that library knows of the
// process. The chassis has its own of those; what begins with vpa_ is taken from there, and what the library knows of the heap, under the
// names that upstream's programs have it under.
package exposition

import (
	"bytes"
	"net/http"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/admission"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/quality"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/recommender"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Recommender registers what upstream's recommender measures, once: to do so twice is a panic there.
func Recommender() { recommenders() }

var recommenders = sync.OnceFunc(func() { //nolint:gochecknoglobals // what it changes is global to the process
	recommender.Register()
	quality.Register()
})

// Admission registers what upstream's admission controller measures, once: how many pods came and how many were sized, and how long that took.
func Admission() { admissions() }

var admissions = sync.OnceFunc(admission.Register) //nolint:gochecknoglobals // what it changes is global to the process

// Handler serves /healthz, /readyz and /metrics.
func Handler(h *agent.Health, m *agent.Metrics) http.Handler {
	own := agent.Handler(h, m)
	mux := http.NewServeMux()
	mux.Handle("/", own)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		own.ServeHTTP(w, r)
		_, _ = w.Write(upstream(prometheus.DefaultGatherer))
	})
	return mux
}

// heap is how the names begin of what is known of the memory that Go manages.
const heap = "go_memstats_"

// upstream writes the families of upstream's. What cannot be gathered is left out: the rest is worth having.
func upstream(from prometheus.Gatherer) []byte {
	families, _ := from.Gather()
	var text bytes.Buffer
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), metrics.TopMetricsNamespace) || strings.HasPrefix(f.GetName(), heap) {
			_, _ = expfmt.MetricFamilyToText(&text, f)
		}
	}
	return text.Bytes()
}
