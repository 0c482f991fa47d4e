package probe

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestWatchRealVmagent lets the real program deliver to a store that behaves in every way there is: what its counters are
// called and when they move is its business, and nothing we should believe unseen.
func TestWatchRealVmagent(t *testing.T) {
	program := os.Getenv("NOPSCTL_VMAGENT")
	if program == "" {
		t.Skip("needs the real vmagent: NOPSCTL_VMAGENT is not set (make test-unit sets it)")
	}
	var status atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	defer store.Close()

	for _, tc := range []struct {
		name, reason string
		status       int
		url          string
		want         DeliveryState
	}{
		{"accepted", "what AMP answers", http.StatusOK, store.URL, Delivering},
		{"wrong key", "retried for ever, with growing pauses", http.StatusForbidden, store.URL, Refused},
		{"store broken", "", http.StatusServiceUnavailable, store.URL, Blocked},
		{"throttled", "", http.StatusTooManyRequests, store.URL, Blocked},
		{"rejected", "dropped by vmagent", http.StatusBadRequest, store.URL, Refused},
		{"nothing there", "", 0, "http://" + refusedAddress(t), Unreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status.Store(int64(tc.status))
			dir := t.TempDir()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().String()
			l.Close()
			config := filepath.Join(dir, "scrape.yml")
			text := fmt.Sprintf("scrape_configs: [{job_name: self, scrape_interval: 1s, static_configs: [{targets: [%q, %q]}]}]", address, refusedAddress(t))
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, "-httpListenAddr="+address, "-promscrape.config="+config, "-remoteWrite.url="+tc.url,
				"-remoteWrite.tmpDataPath="+filepath.Join(dir, "queue"), "-remoteWrite.forcePromProto", "-remoteWrite.flushInterval=1s")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(syscall.SIGKILL)
				_ = cmd.Wait()
			}()
			var got Delivery
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
				got = Watch(t.Context(), http.DefaultClient, "http://"+address, 5*time.Second, 200*time.Millisecond, time.Now)
				if got.State == tc.want && got.TargetsUp == 1 && got.TargetsTotal == 2 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got.State != tc.want || got.TargetsUp != 1 || got.TargetsTotal != 2 {
				t.Errorf("%s: %+v, want %s and 1 of 2 targets", tc.reason, got, tc.want)
			}
			if tc.status == http.StatusBadRequest && got.DroppedPackets == 0 {
				t.Errorf("dropped packets are not seen: %+v", got)
			}
			// A single look between two retries must come to the same verdict, where anything was said at all.
			if state, detail := Judge(Counters{}, Counters{RequestsByStatus: got.RequestsByStatus, QueueBytes: got.QueueBytes}); state != tc.want {
				t.Errorf("from the totals: %s %q", state, detail)
			}
		})
	}
}
