package analyser

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// TestAnswers: what is no whole answer is none.
func TestAnswers(t *testing.T) {
	const head = `{"status":"success","data":{"resultType":"matrix","result":[`
	for _, tt := range []struct {
		name, answer string
		status       int
		want, part   string
	}{
		{"a range", head + `{"metric":{"pod":"a","container":"c"},"values":[[1.5,"0.25"],[2.5,"1e3"]]},{"metric":{"pod":"b"},"values":[]}]}}`, 200, "a/c=[{1500 0.25} {2500 1000}] b/=[]", ""},
		{"a moment", `{"status":"success","isPartial":false,"data":{"result":[{"metric":{"pod":"a"},"value":[ 7, "3" ]}],"resultType":"vector"},"stats":{"x":[1]}}`, 200, "a/=[{7000 3}]", ""},
		{"what is no usage", head + `{"metric":{"pod":"a"},"values":[[1,"NaN"],[2,"-1"],[3,"+Inf"],[4,"4"]]}]}}`, 200, "a/=[{4000 4}]", ""},
		{"nothing", `{"status":"success","data":{"result":null}}`, 200, "", ""},
		{"a part", `{"status":"success","isPartial":true,"data":{"result":[{"metric":{"pod":"a"},"value":[7,"3"]}]}}`, 200, "", "only a part"},
		{"cut off", head + `{"metric":{"pod":"a"},"values":[[1,"2"]]}`, 200, "a/=[{1000 2}]", "reading the answer"},
		{"an error with 200", `{"status":"error","error":"x"}`, 200, "", `status "error"`},
		{"a refusal", `{"status":"error","error":"too many points"}`, 422, "", "HTTP 422: too many points"},
		{"a web page", `<html>`, 200, "", "reading the answer"},
		{"a point that is none", head + `{"metric":{"pod":"a"},"values":[["x","y"]]}]}}`, 200, "", "expected a time and a value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.answer))
			}))
			defer h.Close()
			var got []string
			err := (&Reader{Address: h.URL}).Range(t.Context(), "q", time.Unix(0, 0), time.Unix(60, 0), time.Minute, func(s Series) error {
				got = append(got, fmt.Sprintf("%s/%s=%v", s.Labels.Pod, s.Labels.Container, s.Points))
				return nil
			})
			if (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
				t.Errorf("%v, want %q", err, tt.part)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	mine := errors.New("mine")
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(head + `{"metric":{"pod":"a"},"values":[[1,"2"]]}]}}`))
	}))
	defer h.Close()
	var of *StoreError
	if err := (&Reader{Address: h.URL}).Instant(t.Context(), "q", time.Unix(0, 0), func(Series) error { return mine }); !errors.Is(err, mine) || errors.As(err, &of) {
		t.Errorf("an error of whoever takes is the store's: %v", err)
	}
}

// TestAStoreThatFails: what fails for a moment is asked again and counted once, what is refused is not, and half an analysis is none.
func TestAStoreThatFails(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	o := Options{Cluster: "c", Now: now, Settings: Settings{History: time.Hour, Min: time.Minute}, Workloads: []nopsapi.RightsizedWorkload{{WorkloadRef: of("StatefulSet", "db"), Level: "MaximumSavings"}}}
	o.Sleep = func(context.Context, time.Duration) error { return nil }
	for _, tt := range []struct {
		name   string
		fails  int64 // in a row, from the first
		status int
		asked  int64
		ok     bool
	}{{"never", 0, 0, 6, true}, {"twice", 2, 503, 8, true}, {"always", 1 << 30, 503, 3, false}, {"refuses", 1, 400, 1, false}} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int64
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) <= tt.fails {
					w.WriteHeader(tt.status)
					return
				}
				_, _ = w.Write([]byte(said(r, now)))
			}))
			defer h.Close()
			got, err := Run(t.Context(), &Reader{Address: h.URL}, o)
			if (err == nil) != tt.ok || asked.Load() != tt.asked {
				t.Fatalf("%v after %d questions", err, asked.Load())
			}
			if !tt.ok {
				if len(got.Workloads)+len(got.Skipped) > 0 {
					t.Errorf("half an analysis: %+v", got)
				}
				return
			}
			if c := got.Workloads[0].Containers[0]; len(got.Workloads) != 1 || c.Samples != 2 || got.Samples != 3 || got.ByName != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// said is what a store with one pod of a StatefulSet, and without kube-state-metrics, says.
func said(r *http.Request, now time.Time) string {
	series := ""
	switch query := r.FormValue("query"); {
	case strings.HasPrefix(query, "count by (pod)"):
		series = `{"metric":{"pod":"db-0"},"value":[1,"1"]}`
	case strings.Contains(query, "rate("):
		series = fmt.Sprintf(`{"metric":{"pod":"db-0","container":"db"},"values":[[%d,"0.5"],[%d,"0.5"]]}`, now.Add(-time.Minute).Unix(), now.Unix())
	case strings.Contains(query, "max_over_time("):
		series = `{"metric":{"pod":"db-0","container":"db"},"value":[1,"1e8"]}`
	}
	return `{"status":"success","data":{"resultType":"matrix","result":[` + series + `]}}`
}

// TestAQuestionThatIsTooLarge is asked in halves, which together are the whole.
func TestAQuestionThatIsTooLarge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	var spans []string
	minutes := map[int64]int{}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "query_range") {
			_, _ = w.Write([]byte(said(r, now)))
			return
		}
		var start, end int64
		_, _ = fmt.Sscanf(r.FormValue("start")+" "+r.FormValue("end"), "%d.000 %d.000", &start, &end)
		spans = append(spans, time.Duration((end-start+60)*1e9).String())
		if end-start > 8*3600 {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		var points []string
		for at := start; at <= end; at += 60 {
			minutes[at]++
			points = append(points, fmt.Sprintf(`[%d,"0.5"]`, at))
		}
		_, _ = w.Write([]byte(`{"status":"success","data":{"result":[{"metric":{"pod":"db-0","container":"db"},"values":[` + strings.Join(points, ",") + `]}]}}`))
	}))
	defer h.Close()
	got, err := Run(t.Context(), &Reader{Address: h.URL}, Options{Cluster: "c", Now: now, Settings: Settings{History: 24 * time.Hour}, Workloads: []nopsapi.RightsizedWorkload{{WorkloadRef: of("StatefulSet", "db")}}})
	if err != nil {
		t.Fatal(err)
	}
	if c := got.Workloads[0].Containers[0]; c.Samples != 1440 || c.Days != 1 || len(minutes) != 1440 {
		t.Errorf("%d of %d minutes, %v days", c.Samples, len(minutes), c.Days)
	}
	if fmt.Sprint(spans) != "[24h0m0s 12h0m0s 6h0m0s 6h0m0s 12h0m0s 6h0m0s 6h0m0s]" {
		t.Errorf("asked for %v", spans)
	}
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    Settings
		part string
	}{
		{"none", Settings{}, ""}, {"a story's", Settings{History: 10 * time.Minute, Min: 2 * time.Minute, Window: time.Minute}, ""},
		{"no history", Settings{History: time.Second}, "history"}, {"too long", Settings{History: 401 * 24 * time.Hour}, "history"},
		{"more than there is", Settings{History: time.Hour}, "min"}, {"negative", Settings{Min: -1}, "min"}, {"no rate", Settings{Window: time.Second}, "window"},
	} {
		if err := tt.s.Validate(); (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func of(kind, name string) nopsapi.WorkloadRef {
	return nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: kind, Namespace: "shop", Name: name}
}

// TestNames: what the name of a pod says where nothing else does.
func TestNames(t *testing.T) {
	n := &namespace{name: "shop", result: &Result{}, by: map[object]*workload{}}
	for _, w := range []nopsapi.WorkloadRef{
		of("Deployment", "web"), of("Deployment", "web-api"), of("StatefulSet", "db"), of("DaemonSet", "log"), of("CronJob", "night"), of("Job", "once"),
		of("DaemonSet", "twin"), of("ReplicaSet", "twin"), of("Rollout", "blue"),
	} {
		n.want(nopsapi.RightsizedWorkload{WorkloadRef: w})
	}
	for pod, want := range map[string]string{
		"web-6d4f5b7c8-x2k7p": "Deployment shop/web", "web-api-6d4f5b7c8-x2k7p": "Deployment shop/web-api", "db-0": "StatefulSet shop/db", "db-12": "StatefulSet shop/db",
		"log-x2k7p": "DaemonSet shop/log", "night-29401234-x2k7p": "CronJob shop/night", "night-29401234-0-x2k7p": "CronJob shop/night", "once-x2k7p": "Job shop/once",
		"web": "", "web-x2k7p": "", "web-6d4f5b7c8-x2k7pp": "", "web-apple-x2k7p": "", "webs-6d4f5b7c8-x2k7p": "", "db-x2k7p": "", "log-aeiou": "", "twin-x2k7p": "", "blue-6d4f5b7c8-x2k7p": "", "night-manual-x2k7p": "",
	} {
		got := ""
		if w := n.named(pod); w != nil {
			got = line(w.ref)
		}
		if got != want {
			t.Errorf("%s is of %q, want %q", pod, got, want)
		}
	}
}
