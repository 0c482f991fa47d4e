package platform

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Fault is something that goes wrong for the requests whose path begins with a prefix.
type Fault struct {
	Prefix     string        // of the path; empty: every request
	Latency    time.Duration // before anything else
	Status     int           // answered instead of serving; 0: none
	RetryAfter time.Duration // with Status
	Drop       bool          // close the connection without an answer
	Times      int           // how many requests it strikes; 0: all
}

// Faults are the knobs of a server. The zero value does nothing; it is safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	faults []Fault
	offset time.Duration
}

// Set replaces the faults.
func (f *Faults) Set(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append([]Fault(nil), faults...)
}

// SetClock moves the server's clock away from the true one.
func (f *Faults) SetClock(offset time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offset = offset
}

func (f *Faults) clock() time.Duration {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offset
}

func (f *Faults) match(r *http.Request) (Fault, bool) {
	if f == nil {
		return Fault{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range f.faults {
		if !strings.HasPrefix(r.URL.Path, fault.Prefix) || fault.Times < 0 {
			continue
		}
		if fault.Times > 0 {
			f.faults[i].Times--
			if f.faults[i].Times == 0 {
				f.faults[i].Times = -1 // spent
			}
		}
		return fault, true
	}
	return Fault{}, false
}

// apply strikes a request and says whether that answered it.
func (f *Faults) apply(w http.ResponseWriter, r *http.Request, id string) bool {
	fault, ok := f.match(r)
	if !ok {
		return false
	}
	if fault.Latency > 0 {
		select {
		case <-r.Context().Done():
			return true
		case <-time.After(fault.Latency):
		}
	}
	if fault.Drop {
		panic(http.ErrAbortHandler) // the documented way to cut a connection
	}
	if fault.Status == 0 {
		return false
	}
	if fault.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(fault.RetryAfter.Seconds())))
	}
	code := nopsapi.CodeUnavailable
	if fault.Status == http.StatusTooManyRequests {
		code = nopsapi.CodeRateLimited
	}
	body, _ := json.Marshal(nopsapi.ErrorBody{Error: nopsapi.ErrorDetail{Code: code, Message: "injected fault", RequestID: id}}) //nolint:errchkjson // three strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(fault.Status)
	_, _ = w.Write(body)
	return true
}
