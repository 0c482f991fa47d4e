package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// RightsizingFaultPath is where a server with FaultControl is told how to spoil the recommendations that it serves. It is no part of the
// contract.
const RightsizingFaultPath = "/lab/rightsizing/fault"

// RightsizingFaults are the ways to spoil recommendations: those of a scenario's documents, but for the ones that a time without analysis
// shows (frozen), or any fault of the server (slow).
func RightsizingFaults() []scenario.Fault {
	return slices.DeleteFunc(scenario.Faults(), func(f scenario.Fault) bool { return f == scenario.FaultSlow || f == scenario.FaultFrozen })
}

// spoiled is how recommendations are spoiled on their way: of one customer, for all its clusters. It is stored, so that it goes on after a
// restart.
type spoiled struct {
	Fault  scenario.Fault `json:"fault,omitempty"`
	Number int            `json:"number,omitempty"` // with numbers: which of the bad ones
}

func (f spoiled) check() error {
	if !slices.Contains(RightsizingFaults(), f.Fault) || f.Number < 0 {
		return fmt.Errorf("fault %q: expected one of %v", f.Fault, RightsizingFaults())
	}
	return nil
}

// firstTarget finds a number that matters; a list without workloads has its own number.
var firstTarget, itsNumber = regexp.MustCompile(`"target":[^,}]*`), regexp.MustCompile(`"seq":[0-9]+`)

// spoil is the answer in the place of good recommendations.
func (f spoiled) spoil(body []byte) (result, error) {
	sent := raw{contentType: "application/json"}
	var all nopsapi.Recommendations
	if err := json.Unmarshal(body, &all); err != nil {
		return result{}, fmt.Errorf("stored recommendations: %w", err)
	}
	switch f.Fault {
	case scenario.FaultStatus:
		return result{}, refuse(http.StatusServiceUnavailable, nopsapi.CodeUnavailable, "injected fault")
	case scenario.FaultDrop:
		panic(http.ErrAbortHandler) // the documented way to cut a connection
	case scenario.FaultStale: // a new number upon what was so two days ago
		all.Seq++
		all.AsOf, all.ValidUntil = all.AsOf.Add(-48*time.Hour), all.ValidUntil.Add(-48*time.Hour)
	case scenario.FaultFuture:
		all.Seq++
		all.AsOf, all.ValidUntil = all.AsOf.Add(48*time.Hour), all.ValidUntil.Add(48*time.Hour)
	case scenario.FaultReplay: // still valid, but for its number; and it says something else, so that it shows who goes by it
		all.Seq--
		all.AsOf, all.ValidUntil = all.AsOf.Add(-time.Second), all.ValidUntil.Add(-time.Second)
		halve(&all)
	case scenario.FaultSchema:
		all.SchemaVersion++
	case scenario.FaultTruncated:
		sent.data = body[:len(body)/2]
	case scenario.FaultHTML:
		sent.contentType, sent.data = "text/html; charset=utf-8", []byte("<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>\n")
	case scenario.FaultNumbers:
		bad := []string{"NaN", "1e999", "-0.04", `"NaN"`, "Infinity", "1e300", "-1e-9"}[f.Number%7]
		at := firstTarget.FindIndex(body)
		if at == nil {
			at = itsNumber.FindIndex(body)
		}
		name, _, _ := bytes.Cut(body[at[0]:at[1]], []byte(":"))
		sent.data = slices.Concat(body[:at[0]], name, []byte(":"+bad), body[at[1]:])
	case scenario.FaultHuge:
		sent.data = append(bytes.Repeat([]byte(" "), nopsapi.MaxRecommendations), body...)
	case scenario.FaultEmpty:
		sent.data = []byte{}
	}
	if sent.data == nil {
		return found(all), nil
	}
	return result{status: http.StatusOK, raw: &sent}, nil
}

// halve halves what is recommended.
func halve(all *nopsapi.Recommendations) {
	for _, w := range all.Workloads {
		for i := range w.Containers {
			for _, r := range []*nopsapi.Recommended{&w.Containers[i].CPU, &w.Containers[i].Memory} {
				r.Target, r.Lower, r.Upper = r.Target/2, r.Lower/2, r.Upper/2
			}
		}
	}
}

// controlRightsizingFault answers at RightsizingFaultPath: GET tells how recommendations are spoiled, PUT begins it, DELETE ends it.
func (s *Server) controlRightsizingFault(ctx context.Context, c caller, r *request) (result, error) {
	switch r.Method {
	case http.MethodPut:
		var how spoiled
		if err := nopsapi.Decode(r.body, &how); err != nil {
			return result{}, invalid(err)
		}
		if err := how.check(); err != nil {
			return result{}, invalid(err)
		}
		return found(how).writes(kindSpoiled, c.customer.ID, c.customer.ID, how)
	case http.MethodDelete:
		return result{status: http.StatusOK, answer: spoiled{}, changes: []Change{deletes(kindSpoiled, c.customer.ID)}}, nil
	}
	how, err := read[spoiled](ctx, s.store(), kindSpoiled, c.customer.ID)
	if errors.Is(err, ErrNoDocument) {
		err = nil
	}
	return found(how), err
}
