package nopsclient

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Recommendations polls what the platform recommends. etag is that of the list that the caller has; "" is none. What comes back is valid in
// itself; whether it is of this time (FactHeader.CheckAt) and not a replay (Seq) is the caller's to see.
func (c *Client) Recommendations(ctx context.Context, arn, etag string) (Polled[nopsapi.Recommendations], error) {
	return poll[nopsapi.Recommendations](ctx, c, nopsapi.PathRecommendations(arn), etag, nopsapi.MaxRecommendations)
}

// PublishRecommendations replaces the recommendations of a cluster. A list whose number does not rise is refused: KindConflict.
func (c *Client) PublishRecommendations(ctx context.Context, arn string, all nopsapi.Recommendations) (nopsapi.RightsizingAck, error) {
	all.Workloads = slices.Clone(list(all.Workloads))
	for i := range all.Workloads {
		all.Workloads[i].Containers = list(all.Workloads[i].Containers)
	}
	return publish[nopsapi.RightsizingAck](ctx, c, http.MethodPut, nopsapi.PathRecommendations(arn), all, nopsapi.MaxRecommendations)
}

// ReportWorkloads says what recommendations are wanted for.
func (c *Client) ReportWorkloads(ctx context.Context, arn string, all nopsapi.RightsizedWorkloads) error {
	all.Workloads = slices.Clone(list(all.Workloads))
	for i := range all.Workloads {
		all.Workloads[i].Containers = list(all.Workloads[i].Containers)
	}
	_, err := publish[nopsapi.RightsizingAck](ctx, c, http.MethodPut, nopsapi.PathRightsizedWorkloads(arn), all, nopsapi.MaxRecommendations)
	return err
}

// RightsizedWorkloads is what the agent of a cluster asked recommendations for last.
func (c *Client) RightsizedWorkloads(ctx context.Context, arn string) (nopsapi.RightsizedWorkloads, error) {
	none := "" // as large as it is, it is not remembered
	all, _, err := exchange[nopsapi.RightsizedWorkloads](ctx, c, call{method: http.MethodGet, path: nopsapi.PathRightsizedWorkloads(arn), known: &none, answer: nopsapi.MaxRecommendations})
	return all, err
}

// SendOutcomes delivers what became of recommendations, at most nopsapi.MaxOutcomes. Their IDs make it idempotent: what was delivered
// before may be delivered again. An outcome that the platform will never take is an *OutcomesRefused; the others were taken.
func (c *Client) SendOutcomes(ctx context.Context, arn string, some nopsapi.Outcomes) error {
	refused := some.Refused() // here already: they would be refused there
	if n := len(some.Outcomes); len(refused) > 0 && len(refused) < n {
		wrong := map[int]bool{}
		for _, one := range refused {
			wrong[one.Index] = true
		}
		good := make([]nopsapi.Outcome, 0, n)
		for i, one := range some.Outcomes {
			if !wrong[i] {
				good = append(good, one)
			}
		}
		some.Outcomes = good
	} else {
		refused = nil
	}
	ack, err := publish[nopsapi.RightsizingAck](ctx, c, http.MethodPost, nopsapi.PathOutcomes(arn), some, 0)
	if refused = append(refused, ack.Refused...); err == nil && len(refused) > 0 {
		return &OutcomesRefused{Refused: refused}
	}
	return err
}

// OutcomesRefused says that some outcomes of a delivery were not taken, and never will be.
type OutcomesRefused struct {
	Refused []nopsapi.RefusedOutcome
}

// Error implements error.
func (e *OutcomesRefused) Error() string {
	first := e.Refused[0]
	return fmt.Sprintf("outcomes that are refused: %d, the first %q: %s", len(e.Refused), first.ID, first.Why)
}

// Outcomes lists what became of recommendations of a cluster since then, by time.
func (c *Client) Outcomes(ctx context.Context, arn string, since time.Time) ([]nopsapi.Outcome, error) {
	query := url.Values{}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	var all []nopsapi.Outcome
	for {
		page, err := get[nopsapi.OutcomeList](ctx, c, nopsapi.PathOutcomes(arn)+"?"+query.Encode())
		if err != nil {
			return nil, err
		}
		all = append(all, page.Outcomes...)
		if page.Next == "" {
			return all, nil
		}
		if len(page.Outcomes) == 0 || page.Next == query.Get("after") {
			return all, &Error{Kind: KindProtocol, Host: c.host(), Message: "the list of outcomes does not end"}
		}
		query.Set("after", page.Next)
	}
}
