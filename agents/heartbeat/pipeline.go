package heartbeat

import (
	"time"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
)

const (
	// settleAfter is how long deliveries must fail before the pipeline stops to count as delivering: vmagent retries, and a
	// single 503 is no news.
	settleAfter = time.Minute
	// quietAfter is how long nothing may be sent before the pipeline counts as idle.
	quietAfter = 5 * time.Minute
	// blindAfter is how many looks in a row may fail before vmagent counts as unknown.
	blindAfter = 3
	// stateAbsent is a pipeline that this installation does not have.
	stateAbsent probe.DeliveryState = "absent"
)

// pipeline is what is known of the deliveries to the metrics store.
type pipeline struct {
	state       probe.DeliveryState
	detail      string // stable
	lastSuccess time.Time
	lastError   string // the latest failure, stable; history once it delivers again
	lastErrorAt time.Time
	counters    probe.Counters
}

// tracker makes a steady picture of single looks at vmagent.
type tracker struct {
	current  pipeline
	previous *probe.Counters
	blind    int
}

func newTracker(present bool) *tracker {
	if !present {
		return &tracker{current: pipeline{state: stateAbsent, detail: "this installation has no vmagent"}}
	}
	return &tracker{current: pipeline{state: probe.Unknown, detail: "vmagent was not asked yet"}}
}

// look takes in one look at vmagent, or the error of the attempt, and says whether the state changed.
func (t *tracker) look(c probe.Counters, err error, now time.Time) (changed bool) {
	before := t.current.state
	if err != nil {
		t.blind++
		t.current.lastError, t.current.lastErrorAt = err.Error(), now
		if t.blind >= blindAfter || before == probe.Unknown {
			t.current.state, t.current.detail = probe.Unknown, err.Error()
		}
		return t.current.state != before
	}
	t.blind = 0
	previous := c
	if t.previous != nil {
		previous = *t.previous
	}
	t.previous, t.current.counters = &c, c

	recent := probe.Between(previous, c)
	state, detail := probe.Judge(previous, c)
	failure, why := worstOf(recent)
	if failure {
		t.current.lastError, t.current.lastErrorAt = why, now
	}
	switch {
	case state == probe.Delivering:
		t.current.state, t.current.detail, t.current.lastSuccess = state, detail, now
	case failing(state):
		if !failure {
			t.current.lastError, t.current.lastErrorAt = detail, now
		}
		// It delivered a moment ago: wait and see.
		if before != probe.Delivering || now.Sub(t.current.lastSuccess) >= settleAfter {
			t.current.state, t.current.detail = state, detail
		}
	default:
		switch {
		case before == probe.Delivering && now.Sub(t.current.lastSuccess) < quietAfter:
		case failing(before):
			// Between two retries nothing happens. A failure ends with a success.
		default:
			t.current.state, t.current.detail = state, detail
		}
	}
	return t.current.state != before
}

// failing says whether deliveries do not succeed.
func failing(s probe.DeliveryState) bool {
	return s == probe.Refused || s == probe.Blocked || s == probe.Unreachable
}

// worstOf says whether some recent requests failed, and how.
func worstOf(recent map[string]uint64) (bool, string) {
	failed := map[string]uint64{}
	for status, n := range recent {
		if status != "2xx" {
			failed[status] = n
		}
	}
	if len(failed) == 0 {
		return false, ""
	}
	_, why := probe.Judge(probe.Counters{}, probe.Counters{RequestsByStatus: failed})
	return true, why
}
