package exposition

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/admission"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/recommender"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// TestHandler: one page has upstream's measures, the heap and the chassis's, and no family twice.
func TestHandler(t *testing.T) {
	Recommender()
	Recommender() // twice is once
	Admission()
	Admission()
	admission.NewAdmissionLatency().Observe(admission.Applied, admission.Pod)
	timer := recommender.NewExecutionTimer()
	timer.ObserveStep("LoadPods")
	m := &agent.Metrics{}
	agent.RegisterProcess(m, "test", "v1", time.Now())
	server := httptest.NewRecorder()
	Handler(agent.NewHealth(time.Now), m).ServeHTTP(server, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page := server.Body.String()
	for _, want := range []string{`vpa_recommender_execution_latency_seconds_count{step="LoadPods"} 1`, `vpa_admission_controller_admission_latency_seconds_count{resource="Pod",status="applied"} 1`, "\ngo_memstats_next_gc_bytes ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in the page", want)
		}
	}
	families := map[string]int{}
	for line := range strings.Lines(page) {
		if name, is := strings.CutPrefix(line, "# TYPE "); is {
			name, _, _ = strings.Cut(name, " ")
			families[name]++
		}
	}
	if len(families) < 10 {
		t.Errorf("%d families", len(families))
	}
	for name, n := range families {
		if n > 1 {
			t.Errorf("%s is there %d times", name, n)
		}
	}
}
