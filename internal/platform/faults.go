package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// FaultsPath is where a server with FaultControl is given its faults. It is no part of the contract.
const FaultsPath = "/lab/faults"

// Fault is something that goes wrong for the requests whose path begins with a prefix.
type Fault struct {
	Prefix     string        // of the path; empty: every request
	Method     string        // empty: every one
	Latency    time.Duration // before anything else
	Status     int           // answered instead of serving; 0: none
	RetryAfter time.Duration // with Status
	Drop       bool          // close the connection without serving
	DropAnswer bool          // serve, then close the connection without an answer
	Times      int           // how many requests it strikes; 0: all
}

// faultWire is a Fault in JSON.
type faultWire struct {
	Prefix     string  `json:"prefix,omitempty"`
	Method     string  `json:"method,omitempty"`
	LatencyMS  int64   `json:"latency_ms,omitempty"`
	Status     int     `json:"status,omitempty"`
	RetryAfter float64 `json:"retry_after_seconds,omitempty"`
	Drop       bool    `json:"drop,omitempty"`
	DropAnswer bool    `json:"drop_answer,omitempty"`
	Times      int     `json:"times,omitempty"`
}

// faultPlan is the document at FaultsPath.
type faultPlan struct {
	Faults       []faultWire `json:"faults"`
	ClockSeconds float64     `json:"clock_offset_seconds,omitempty"`
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
	f.faults = slices.Clone(faults)
}

// SetClock moves the server's clock away from the true one.
func (f *Faults) SetClock(offset time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offset = offset
}

func (f *Faults) clock() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offset
}

func (f *Faults) match(r *http.Request) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range f.faults {
		if !strings.HasPrefix(r.URL.Path, fault.Prefix) || fault.Method != "" && fault.Method != r.Method || fault.Times < 0 {
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

// apply strikes a request. It returns what the answer is to be written to, nil when the fault was the answer.
func (f *Faults) apply(w http.ResponseWriter, r *http.Request, id string) http.ResponseWriter {
	fault, ok := f.match(r)
	if !ok {
		return w
	}
	if fault.Latency > 0 {
		t := time.NewTimer(fault.Latency)
		defer t.Stop()
		select {
		case <-r.Context().Done():
			return nil
		case <-t.C:
		}
	}
	switch {
	case fault.Drop:
		panic(http.ErrAbortHandler) // the documented way to cut a connection
	case fault.DropAnswer:
		return &lost{header: w.Header()}
	case fault.Status == 0:
		return w
	}
	if fault.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(fault.RetryAfter)))
	}
	body, _ := json.Marshal(nopsapi.ErrorBody{Error: nopsapi.ErrorDetail{Code: codeOf(fault.Status), Message: "injected fault", RequestID: id}}) //nolint:errchkjson // three strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(fault.Status)
	_, _ = w.Write(body)
	return nil
}

// codeOf is the code that goes with a status.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return nopsapi.CodeInvalidCredentials
	case http.StatusForbidden:
		return nopsapi.CodeForbiddenScope
	case http.StatusNotFound:
		return nopsapi.CodeNotFound
	case http.StatusConflict:
		return nopsapi.CodeConflict
	case http.StatusRequestEntityTooLarge:
		return nopsapi.CodeTooLarge
	case http.StatusTooManyRequests:
		return nopsapi.CodeRateLimited
	case http.StatusInternalServerError:
		return nopsapi.CodeInternal
	}
	if status < http.StatusInternalServerError {
		return nopsapi.CodeInvalidRequest
	}
	return nopsapi.CodeUnavailable
}

// lost is an answer that nobody will receive.
type lost struct{ header http.Header }

func (l *lost) Header() http.Header         { return l.header }
func (l *lost) WriteHeader(int)             {}
func (l *lost) Write(p []byte) (int, error) { return len(p), nil }
func (l *lost) cut()                        { panic(http.ErrAbortHandler) } // the documented way to cut a connection

// plan is what is set now, without what is spent.
func (f *Faults) plan() faultPlan {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := faultPlan{Faults: []faultWire{}, ClockSeconds: f.offset.Seconds()}
	for _, a := range f.faults {
		if a.Times >= 0 {
			p.Faults = append(p.Faults, faultWire{a.Prefix, a.Method, a.Latency.Milliseconds(), a.Status, a.RetryAfter.Seconds(), a.Drop, a.DropAnswer, a.Times})
		}
	}
	return p
}

func (p faultPlan) faults() ([]Fault, error) {
	all := make([]Fault, 0, len(p.Faults))
	for i, w := range p.Faults {
		if w.Status != 0 && (w.Status < 400 || w.Status > 599) || w.Times < 0 || w.LatencyMS < 0 || w.RetryAfter < 0 {
			return nil, fmt.Errorf("fault %d: expected a status from 400 to 599, and nothing negative", i)
		}
		all = append(all, Fault{w.Prefix, w.Method, time.Duration(w.LatencyMS) * time.Millisecond, w.Status, time.Duration(w.RetryAfter * float64(time.Second)), w.Drop, w.DropAnswer, w.Times})
	}
	return all, nil
}

// controlFaults answers at FaultsPath: GET tells them, PUT replaces them, DELETE ends them.
func (s *Server) controlFaults(_ context.Context, _ caller, r *request) (result, error) {
	switch r.Method {
	case http.MethodPut:
		var plan faultPlan
		if err := nopsapi.Decode(r.body, &plan); err != nil {
			return result{}, invalid(err)
		}
		faults, err := plan.faults()
		if err != nil {
			return result{}, invalid(err)
		}
		s.knobs().Set(faults...)
		s.knobs().SetClock(time.Duration(plan.ClockSeconds * float64(time.Second)))
	case http.MethodDelete:
		s.knobs().Set()
		s.knobs().SetClock(0)
	}
	return found(s.knobs().plan()), nil
}
