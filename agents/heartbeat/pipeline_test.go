package heartbeat

import (
	"errors"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
)

func TestTracker(t *testing.T) {
	type look struct {
		after    time.Duration
		ok, no   uint64 // 2xx and 403 so far
		queue    uint64
		err      error
		want     probe.DeliveryState
		reported bool
	}
	const ill = 1000 // one 503 instead of so many 403s
	gone := errors.New("asking vmagent at x: connection refused")
	for _, tc := range []struct {
		name, reason string
		looks        []look
	}{
		{"starts well", "the second look shows it", []look{{0, 5, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 6, 0, 0, nil, probe.Delivering, true}, {time.Second, 7, 0, 0, nil, probe.Delivering, false}}},
		{"wrong key from the start", "said at once, and steady between retries", []look{
			{0, 0, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 0, 1, 10, nil, probe.Refused, true}, {5 * time.Second, 0, 1, 10, nil, probe.Refused, false},
			{time.Minute, 0, 1, 20, nil, probe.Refused, false}, {time.Second, 1, 1, 0, nil, probe.Delivering, true},
		}},
		{"a single failure is no news", "vmagent retries", []look{
			{0, 1, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 2, 0, 0, nil, probe.Delivering, true}, {15 * time.Second, 2, 1, 10, nil, probe.Delivering, false},
			{15 * time.Second, 3, 1, 0, nil, probe.Delivering, false},
		}},
		{"lasting failure is", "after a minute without success", []look{
			{0, 1, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 2, 0, 0, nil, probe.Delivering, true}, {30 * time.Second, 2, 1, 10, nil, probe.Delivering, false},
			{30 * time.Second, 2, 2, 10, nil, probe.Refused, true},
		}},
		{"quiet spells", "long scrape intervals are no outage", []look{
			{0, 1, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 2, 0, 0, nil, probe.Delivering, true}, {4 * time.Minute, 2, 0, 0, nil, probe.Delivering, false},
			{2 * time.Minute, 2, 0, 0, nil, probe.Idle, true},
		}},
		{"vmagent away for a moment", "an upgrade is no outage, a lasting absence is", []look{
			{0, 1, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 2, 0, 0, nil, probe.Delivering, true}, {0, 0, 0, 0, gone, probe.Delivering, false},
			{0, 0, 0, 0, gone, probe.Delivering, false}, {0, 0, 0, 0, gone, probe.Unknown, true}, {0, 1, 0, 0, nil, probe.Delivering, true},
		}},
		{"store with trouble of its own", "throttled or broken, said as such and steady between retries", []look{
			{0, 1, 0, 0, nil, probe.Idle, true}, {5 * time.Second, 2, 0, 0, nil, probe.Delivering, true}, {time.Minute, 2, ill, 10, nil, probe.Blocked, true},
			{time.Minute, 2, ill, 10, nil, probe.Blocked, false}, {time.Minute, 3, ill, 0, nil, probe.Delivering, true},
		}},
		{"vmagent never there", "unknown from the start", []look{{0, 0, 0, 0, gone, probe.Unknown, false}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			tr := newTracker(true)
			for i, l := range tc.looks {
				now = now.Add(l.after)
				requests := map[string]uint64{"2xx": l.ok, "403": l.no}
				if l.no == ill {
					requests = map[string]uint64{"2xx": l.ok, "503": 1}
				}
				changed := tr.look(probe.Counters{RequestsByStatus: requests, QueueBytes: l.queue}, l.err, now)
				if tr.current.state != l.want || changed != l.reported {
					t.Fatalf("%s: look %d: state %s (changed %v), want %s (%v)", tc.reason, i, tr.current.state, changed, l.want, l.reported)
				}
			}
		})
	}
	if got := newTracker(false).current.state; got != stateAbsent {
		t.Errorf("without vmagent: %s", got)
	}
}
