package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// rightsizingTable are the routes of the feature "rightsizing".
func (s *Server) rightsizingTable() []route {
	type scopes = []nopsapi.Scope
	admin, agent, read := scopes{nopsapi.ScopeAdmin}, scopes{nopsapi.ScopeAgent}, scopes{nopsapi.ScopeRead}
	const below = "/clusters/{arn}/rightsizing/"
	return []route{
		{"GET " + below + "workloads", read, s.wantedWorkloads, 0, 0},
		{"PUT " + below + "workloads", agent, s.reportWorkloads, 0, nopsapi.MaxRecommendations},
		{"GET " + below + "recommendations", read, s.recommendations, 0, 0},
		{"PUT " + below + "recommendations", admin, s.publishRecommendations, 0, nopsapi.MaxRecommendations},
		{"GET " + below + "outcomes", read, s.listOutcomes, 0, 0},
		{"POST " + below + "outcomes", agent, s.sendOutcomes, 0, 0},
	}
}

// wanted is a list of workloads as it came.
type wanted struct {
	Generation int64           `json:"generation"`
	ReceivedAt time.Time       `json:"received_at"`
	Body       json.RawMessage `json:"body"`
}

// issued are the recommendations that are served.
type issued struct {
	Seq        uint64          `json:"seq"`
	ValidUntil time.Time       `json:"valid_until"`
	ByHand     bool            `json:"by_hand,omitempty"` // published with PUT: they hold to their end
	Body       json.RawMessage `json:"body"`
}

// decoded reads a message and says what is wrong with all of it.
func decoded[T interface{ Validate() error }](body []byte) (message T, err error) {
	if err = nopsapi.Decode(body, &message); err == nil {
		err = message.Validate()
	}
	if err != nil {
		err = invalid(err)
	}
	return message, err
}

func (s *Server) wantedWorkloads(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	doc, err := read[wanted](ctx, s.store(), kindWorkloads, r.home)
	if errors.Is(err, ErrNoDocument) {
		return result{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no agent of cluster %s has asked for recommendations yet", r.arn)
	}
	return found(doc.Body), err
}

func (s *Server) reportWorkloads(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	told, err := decoded[nopsapi.RightsizedWorkloads](r.body)
	if err != nil {
		return result{}, err
	}
	last, err := read[wanted](ctx, s.store(), kindWorkloads, r.home)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	now := s.now()
	if told.Generation < last.Generation { // it was on its way for longer than the one that followed it
		return found(nopsapi.RightsizingAck{ReceivedAt: now, Generation: last.Generation}), nil
	}
	res, err := found(nopsapi.RightsizingAck{ReceivedAt: now, Generation: told.Generation}).writes(kindWorkloads, r.home, r.home, wanted{told.Generation, now, r.body})
	if err != nil {
		return result{}, err
	}
	a, err := s.analysisOf(ctx, r.home)
	if err != nil {
		return result{}, err
	}
	a.CustomerID, a.ClusterARN, a.Wanted = c.customer.ID, r.arn, told.Generation
	return res.writes(kindAnalysis, "", r.home, a)
}

func (s *Server) recommendations(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	how, err := read[spoiled](ctx, s.store(), kindSpoiled, c.customer.ID)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	doc, err := read[issued](ctx, s.store(), kindRecommendations, r.home)
	switch {
	case errors.Is(err, ErrNoDocument):
		if how.Fault != "" {
			doc.Body, err = s.nothing()
			break
		}
		return result{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "there are no recommendations for cluster %s yet", r.arn)
	case err != nil:
		return result{}, err
	}
	if err != nil || how.Fault == "" {
		return found(doc.Body), err
	}
	return how.spoil(doc.Body)
}

// nothing is a list of no recommendations.
func (s *Server) nothing() ([]byte, error) {
	now := s.now()
	return json.Marshal(nopsapi.Recommendations{ //nolint:wrapcheck // cannot fail
		FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.RightsizingSchema, Seq: uint64(max(now.Unix(), 1)), AsOf: now, ValidUntil: now.Add(time.Hour)}, Workloads: []nopsapi.WorkloadRecommendation{},
	})
}

// issue is the result that replaces the recommendations of a cluster. Numbers rise, whoever counts: agents take anything else for a replay.
func (s *Server) issue(ctx context.Context, home string, body []byte, byHand bool) (result, error) {
	told, err := decoded[nopsapi.Recommendations](body)
	if err != nil {
		return result{}, err
	}
	now := s.now()
	if err := told.CheckAt(now); err != nil {
		return result{}, invalid(err)
	}
	last, err := read[issued](ctx, s.store(), kindRecommendations, home)
	switch {
	case err != nil && !errors.Is(err, ErrNoDocument):
		return result{}, err
	case err == nil && told.Seq <= last.Seq:
		return result{}, refuse(http.StatusConflict, nopsapi.CodeConflict, "seq %d of the recommendations is not greater than %d, the last one", told.Seq, last.Seq)
	}
	return found(nopsapi.RightsizingAck{ReceivedAt: now, Seq: told.Seq}).writes(kindRecommendations, home, home, issued{told.Seq, told.ValidUntil, byHand, body})
}

func (s *Server) publishRecommendations(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	return s.issue(ctx, r.home, r.body, true)
}

// outcomeID sorts by time, below the cluster's home.
func outcomeID(o nopsapi.Outcome) string { return moment(o.At) + "|" + o.ID }

func (s *Server) sendOutcomes(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	var raw struct {
		SchemaVersion int               `json:"schema_version"`
		Outcomes      []json.RawMessage `json:"outcomes"`
	}
	if err := nopsapi.Decode(r.body, &raw); err != nil {
		return result{}, invalid(err)
	}
	told := nopsapi.Outcomes{SchemaVersion: raw.SchemaVersion, Outcomes: make([]nopsapi.Outcome, len(raw.Outcomes))}
	unread := map[int]error{}
	for i := range raw.Outcomes {
		if err := nopsapi.Decode(raw.Outcomes[i], &told.Outcomes[i]); err != nil {
			told.Outcomes[i], unread[i] = nopsapi.Outcome{}, err
		}
	}
	if err := told.ValidateDelivery(); err != nil {
		return result{}, invalid(err)
	}
	refused := told.Refused() // one that is wrong keeps no other one away
	wrong := map[int]bool{}
	for i := range refused {
		wrong[refused[i].Index] = true
		if err := unread[refused[i].Index]; err != nil {
			refused[i].Why = err.Error()
		}
	}
	if len(refused) == len(told.Outcomes) {
		return result{}, invalid(fmt.Errorf("none of %d outcomes can be taken, the first %q: %s", len(refused), refused[0].ID, refused[0].Why))
	}
	var res result
	stored := 0
	for i, o := range told.Outcomes {
		if wrong[i] {
			continue
		}
		index := r.home + "|" + o.ID
		_, err := s.store().Get(ctx, kindOutcomeID, index)
		switch {
		case err == nil:
			continue // what became of something does not change
		case !errors.Is(err, ErrNoDocument):
			return result{}, err //nolint:wrapcheck // stores name what they read
		}
		stored++
		if res, err = res.writes(kindOutcome, r.home, r.home+"|"+outcomeID(o), raw.Outcomes[i]); err == nil {
			res, err = res.writes(kindOutcomeID, r.home, index, o.At)
		}
		if err != nil {
			return result{}, err
		}
	}
	res.status, res.answer = http.StatusOK, nopsapi.RightsizingAck{ReceivedAt: s.now(), Stored: stored, Refused: refused}
	return res, nil
}

// outcomeList is a nopsapi.OutcomeList with all that the agent sent.
type outcomeList struct {
	Outcomes []json.RawMessage `json:"outcomes"`
	Next     string            `json:"next,omitempty"`
}

func (s *Server) listOutcomes(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	docs, next, err := s.page(ctx, r, kindOutcome, nopsapi.MaxOutcomes)
	answer := outcomeList{Outcomes: []json.RawMessage{}, Next: next}
	for _, d := range docs {
		answer.Outcomes = append(answer.Outcomes, d.Data)
	}
	return found(answer), err
}
