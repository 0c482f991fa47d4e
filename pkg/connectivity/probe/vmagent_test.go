package probe

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func TestParseVmagent(t *testing.T) {
	page, err := os.ReadFile("testdata/vmagent-unreachable.txt")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseVmagent(strings.NewReader(string(page)))
	if err != nil {
		t.Fatal(err)
	}
	want := Counters{RequestsByStatus: map[string]uint64{StatusError: 8}, QueueBytes: 53143, Retries: 4, TargetsUp: 1, TargetsTotal: 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a page of vmagent v1.130.0: -want +got\n%s", diff)
	}
}

func TestParseVmagentForeign(t *testing.T) {
	for _, tc := range []struct {
		name, reason, page string
		want               map[string]uint64
		wantErr            error
	}{
		{name: "another program", reason: "a wrong address must not read as health", page: "go_goroutines 7\n", wantErr: ErrNotVmagent},
		{name: "empty", reason: "same", page: "", wantErr: ErrNotVmagent},
		{
			name: "two stores", reason: "counters of several URLs add up", want: map[string]uint64{"2xx": 5, "403": 2},
			page: `vmagent_remotewrite_requests_total{url="1:secret-url", status_code="2XX"} 2
vmagent_remotewrite_requests_total{url="2:secret-url",status_code="2XX"} 3 1700000000
vmagent_remotewrite_requests_total{url="2:\"}, status_code=\"500",status_code="403"} 2`,
		},
		{
			name: "garbage", reason: "broken lines are passed over", want: map[string]uint64{"2xx": 1},
			page: "vmagent_remotewrite_requests_total{status_code=\"2XX\"} 1\nvmagent_remotewrite_requests_total{status_code=\"2XX\nvmagent_remotewrite_requests_total{=} x\nvmagent_remotewrite_errors_total NaN\nvmagent_remotewrite_errors_total -4\nvmagent_remotewrite_errors_total\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseVmagent(strings.NewReader(tc.page))
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("%s: error %v, want %v", tc.reason, err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got.RequestsByStatus, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want +got\n%s", tc.reason, diff)
			}
		})
	}
}

func FuzzParseVmagent(f *testing.F) {
	page, err := os.ReadFile("testdata/vmagent-unreachable.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page)
	f.Add([]byte(`vmagent_remotewrite_requests_total{url="1:\"x", status_code="2XX"} 1e300 5`))
	f.Add([]byte("vm_promscrape_targets{status=\"up\"} 1e99\nvm_promscrape_targets{} 3"))
	f.Fuzz(func(t *testing.T, page []byte) {
		c, err := ParseVmagent(strings.NewReader(string(page)))
		if len(c.RequestsByStatus) > 64 {
			t.Errorf("%d status codes remembered", len(c.RequestsByStatus))
		}
		if err == nil && c.TargetsUp > c.TargetsTotal {
			t.Errorf("%d of %d targets up", c.TargetsUp, c.TargetsTotal)
		}
		Judge(Counters{}, c)
		Judge(c, Counters{})
	})
}

func TestJudge(t *testing.T) {
	type m = map[string]uint64
	for _, tc := range []struct {
		name, reason  string
		first, second m
		queue         uint64
		want          DeliveryState
		detail        string
	}{
		{"flowing", "what happens now counts", m{"2xx": 4}, m{"2xx": 5}, 0, Delivering, "accepts"},
		{"recovered", "old failures are history", m{"2xx": 4, "403": 9}, m{"2xx": 5, "403": 9}, 10, Delivering, "accepts"},
		{"wrong key now", "old successes are history", m{"2xx": 4, "403": 9}, m{"2xx": 4, "403": 10}, 10, Refused, "credentials: HTTP 403"},
		{"wrong key from the start, between retries", "totals prove it", m{"2xx": 0, "403": 9}, m{"2xx": 0, "403": 9}, 10, Refused, "credentials: HTTP 403"},
		{"throttled", "429 is no credential problem", m{}, m{"429": 1}, 10, Blocked, "throttles"},
		{"wrong workspace", "404 is no credential problem", m{}, m{"404": 1}, 10, Refused, "workspace"},
		{"rejected", "400 drops data", m{}, m{"400": 1}, 10, Refused, "rejects the samples: HTTP 400"},
		{"store broken", "5xx", m{}, m{"503": 1}, 10, Blocked, "HTTP 503"},
		{"an answer tells more", "403 beside network errors names the 403", m{}, m{"403": 1, StatusError: 9}, 10, Refused, "403"},
		{"unreachable", "no answer at all", m{StatusError: 1}, m{StatusError: 2}, 10, Unreachable, "no answer"},
		{"unreachable between retries", "totals prove it", m{StatusError: 2}, m{StatusError: 2}, 10, Unreachable, "no answer"},
		{"fresh", "nothing sent yet is no failure", m{"2xx": 0}, m{"2xx": 0}, 0, Idle, "not sent anything yet"},
		{"quiet", "nothing sent in the window", m{"2xx": 7}, m{"2xx": 7}, 0, Idle, "accepted before"},
		{"restarted", "counters that went back start anew", m{"2xx": 7, "403": 2}, m{"403": 3}, 10, Refused, "403"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state, detail := Judge(Counters{RequestsByStatus: tc.first}, Counters{RequestsByStatus: tc.second, QueueBytes: tc.queue})
			if state != tc.want || !strings.Contains(detail, tc.detail) {
				t.Errorf("%s: got %s %q, want %s …%q", tc.reason, state, detail, tc.want, tc.detail)
			}
		})
	}
}

func TestJudgeHeldUp(t *testing.T) {
	at := time.Unix(1000, 0)
	look := func(after time.Duration, queue uint64) Counters {
		return Counters{At: at.Add(after), QueueBytes: queue, RequestsByStatus: map[string]uint64{"2xx": 100, "403": 5}}
	}
	for _, tc := range []struct {
		name, reason  string
		first, second Counters
		want          DeliveryState
	}{
		{"held up", "a key that was rotated: accepted once, refused now, and we look between two retries", look(0, 9), look(15*time.Second, 20), Refused},
		{"too short a look", "a queue is not empty for a moment every now and then", look(0, 9), look(time.Second, 9), Idle},
		{"nothing waits", "a quiet spell", look(0, 0), look(15*time.Second, 0), Idle},
		{"just came", "what came during the look may be on its way", look(0, 0), look(15*time.Second, 9), Idle},
	} {
		if state, detail := Judge(tc.first, tc.second); state != tc.want {
			t.Errorf("%s (%s): %s %q, want %s", tc.name, tc.reason, state, detail, tc.want)
		}
	}
}

func TestWatch(t *testing.T) {
	var looks atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		n := looks.Add(1)
		fmt.Fprintf(w, "vmagent_remotewrite_requests_total{status_code=\"2XX\"} 3\nvmagent_remotewrite_requests_total{status_code=\"403\"} %d\n", max(0, n-3))
	}))
	defer s.Close()
	got := Watch(t.Context(), s.Client(), s.URL, time.Minute, time.Millisecond, time.Now)
	if got.State != Refused || got.RecentByStatus["403"] == 0 || looks.Load() != 4 {
		t.Errorf("got %+v after %d looks, want refused at the fourth", got, looks.Load())
	}
	looks.Store(-1000)
	got = Watch(t.Context(), s.Client(), s.URL+"/metrics", 5*time.Millisecond, time.Millisecond, time.Now)
	if got.State != Idle || got.Error != "" {
		t.Errorf("got %+v, want idle at the end of the window", got)
	}
	s.Close()
	got = Watch(t.Context(), s.Client(), s.URL, time.Minute, time.Millisecond, time.Now)
	if want := "asking vmagent at " + strings.TrimPrefix(s.URL, "http://") + ": connection refused"; got.State != Unknown || got.Error != want {
		t.Errorf("got %s %q, want unknown %q", got.State, got.Error, want)
	}
}
