package platform

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// ScenarioPath is where a server with FaultControl is given a scenario of markets and commitments. It is no part of the contract.
const ScenarioPath = "/lab/scenario"

// karpenterTable are the routes of the feature "karpenter".
func (s *Server) karpenterTable() []route {
	type scopes = []nopsapi.Scope
	admin, agent, read := scopes{nopsapi.ScopeAdmin}, scopes{nopsapi.ScopeAgent}, scopes{nopsapi.ScopeRead}
	const below = "/clusters/{arn}/karpenter/"
	return []route{
		{"GET " + below + "market", read, s.facts(scenario.Market), 0, 0},
		{"PUT " + below + "market", admin, s.publish(scenario.Market), 0, nopsapi.MaxMarket},
		{"GET " + below + "commitments", read, s.facts(scenario.Commitments), 0, 0},
		{"PUT " + below + "commitments", admin, s.publish(scenario.Commitments), 0, 0},
		{"GET " + below + "inventory", read, s.inventory, 0, 0},
		{"PUT " + below + "inventory", agent, s.reportInventory, 0, nopsapi.MaxInventory},
		{"GET " + below + "records", read, s.listRecords, 0, 0},
		{"POST " + below + "records", agent, s.sendRecords, 0, 0},
	}
}

// delivered is a document as it came, with all that its sender put in it.
type delivered struct {
	Seq        uint64          `json:"seq,omitempty"`        // of facts
	ObservedAt time.Time       `json:"observed_at,omitzero"` // of an inventory
	ReceivedAt time.Time       `json:"received_at"`
	Body       json.RawMessage `json:"body"`
}

func factsID(home string, kind scenario.Kind) string { return home + "|" + string(kind) }

// readFacts reads the header of a document and says what is wrong with all of it.
func readFacts(kind scenario.Kind, body []byte, arn string, now time.Time) (nopsapi.FactHeader, error) {
	var (
		market      nopsapi.Market
		commitments nopsapi.Commitments
		header      *nopsapi.FactHeader
		err         error
	)
	if kind == scenario.Market {
		header = &market.FactHeader
		if err = nopsapi.Decode(body, &market); err == nil {
			err = market.Validate()
		}
		if parts, wrong := nopsapi.ParseARN(arn); err == nil && (wrong != nil || market.Region != parts.Region) {
			return *header, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "a market of region %q for a cluster of region %q", market.Region, parts.Region)
		}
	} else {
		header = &commitments.FactHeader
		if err = nopsapi.Decode(body, &commitments); err == nil {
			err = commitments.Validate()
		}
	}
	if err == nil {
		err = header.CheckAt(now)
	}
	if err != nil {
		return *header, invalid(err)
	}
	return *header, nil
}

// put is the result that replaces a document of facts. Numbers rise, whoever counts: agents take anything else for a replay.
func (s *Server) put(ctx context.Context, kind scenario.Kind, home, arn string, body []byte) (result, error) {
	now := s.now()
	header, err := readFacts(kind, body, arn, now)
	if err != nil {
		return result{}, err
	}
	last, err := read[delivered](ctx, s.store(), kindFacts, factsID(home, kind))
	switch {
	case err != nil && !errors.Is(err, ErrNoDocument):
		return result{}, err
	case err == nil && header.Seq <= last.Seq:
		return result{}, refuse(http.StatusConflict, nopsapi.CodeConflict, "seq %d of the %s is not greater than %d, the last one", header.Seq, kind, last.Seq)
	}
	res := found(nopsapi.KarpenterAck{ReceivedAt: now, Seq: header.Seq})
	return res.writes(kindFacts, home, factsID(home, kind), delivered{Seq: header.Seq, ReceivedAt: now, Body: body})
}

func (s *Server) publish(kind scenario.Kind) handler {
	return func(ctx context.Context, _ caller, r *request) (result, error) {
		if _, err := s.own(ctx, r); err != nil {
			return result{}, err
		}
		return s.put(ctx, kind, r.home, r.arn, r.body)
	}
}

// PublishMarket puts a market for a cluster, as whoever makes it does with PUT.
func (s *Server) PublishMarket(ctx context.Context, customerID, arn string, m nopsapi.Market) error {
	return s.publishFacts(ctx, scenario.Market, customerID, arn, m)
}

// PublishCommitments puts commitments for a cluster, as whoever knows them does with PUT.
func (s *Server) PublishCommitments(ctx context.Context, customerID, arn string, c nopsapi.Commitments) error {
	return s.publishFacts(ctx, scenario.Commitments, customerID, arn, c)
}

func (s *Server) publishFacts(ctx context.Context, kind scenario.Kind, customerID, arn string, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return invalid(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res, err := s.put(ctx, kind, home(customerID, arn), arn, body)
	if err != nil {
		return err
	}
	return s.store().Write(ctx, res.changes...)
}

// facts answers what was published, or what the scenario plays.
func (s *Server) facts(kind scenario.Kind) handler {
	return func(ctx context.Context, c caller, r *request) (result, error) {
		if _, err := s.own(ctx, r); err != nil {
			return result{}, err
		}
		if heard, err := s.heard(c, r); err == nil && heard != nil {
			if err := s.store().Write(ctx, *heard); err != nil { // no reason not to answer
				s.log().Warn("a poll is not noted", "cluster_arn", r.arn, "error", err)
			}
		}
		player, err := s.player(ctx, c, r.arn)
		switch {
		case err != nil:
			return result{}, err
		case player != nil:
			return s.play(ctx, player, kind)
		}
		doc, err := read[delivered](ctx, s.store(), kindFacts, factsID(r.home, kind))
		if errors.Is(err, ErrNoDocument) {
			return result{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no %s is published for cluster %s", kind, r.arn)
		}
		return found(doc.Body), err
	}
}

// heard is the change that notes that karpenops of this cluster spoke to the platform; nil for the keys of people.
func (s *Server) heard(c caller, r *request) (*Change, error) {
	if c.key.ClusterARN == "" {
		return nil, nil
	}
	change, err := document(kindPoll, r.home, r.home, nopsapi.Seen{At: s.now()})
	return &change, err
}

// hearing is a result that also notes it.
func (s *Server) hearing(c caller, r *request, res result) (result, error) {
	change, err := s.heard(c, r)
	if change != nil {
		res.changes = append(res.changes, *change)
	}
	return res, err
}

func (s *Server) lastKarpenops(ctx context.Context, home string) (*nopsapi.Seen, error) {
	seen, err := read[nopsapi.Seen](ctx, s.store(), kindPoll, home)
	if errors.Is(err, ErrNoDocument) {
		return nil, nil
	}
	return &seen, err
}

func (s *Server) inventory(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	doc, err := read[delivered](ctx, s.store(), kindInventory, r.home)
	if errors.Is(err, ErrNoDocument) {
		return result{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "karpenops of cluster %s has not told of anything yet", r.arn)
	}
	return found(doc.Body), err
}

func (s *Server) reportInventory(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	var told nopsapi.KarpenterInventory
	err := nopsapi.Decode(r.body, &told)
	if err == nil {
		err = told.Validate()
	}
	if err != nil {
		return result{}, invalid(err)
	}
	last, err := read[delivered](ctx, s.store(), kindInventory, r.home)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	now := s.now()
	res := found(nopsapi.KarpenterAck{ReceivedAt: now})
	if !told.ObservedAt.Before(last.ObservedAt) { // otherwise it was on its way for longer than the one that followed it
		if res, err = res.writes(kindInventory, r.home, r.home, delivered{ObservedAt: told.ObservedAt, ReceivedAt: now, Body: r.body}); err != nil {
			return result{}, err
		}
	}
	return s.hearing(c, r, res)
}

// recordID sorts by time, below the cluster's home.
func recordID(r nopsapi.KarpenterRecord) string { return moment(r.At) + "|" + r.ID }

func (s *Server) sendRecords(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	var told nopsapi.KarpenterRecords
	var raw struct {
		Records []json.RawMessage `json:"records"`
	}
	if err := errors.Join(nopsapi.Decode(r.body, &told), nopsapi.Decode(r.body, &raw)); err != nil {
		return result{}, invalid(err)
	}
	if err := told.Validate(); err != nil {
		return result{}, invalid(err)
	}
	var res result
	stored := 0
	for i, record := range told.Records {
		if len(raw.Records[i]) > nopsapi.MaxRecord {
			return result{}, refuse(http.StatusRequestEntityTooLarge, nopsapi.CodeTooLarge, "record %s has %d bytes, at most %d are allowed", record.ID, len(raw.Records[i]), nopsapi.MaxRecord)
		}
		index, place := r.home+"|"+record.ID, r.home+"|"+recordID(record)
		before, err := read[string](ctx, s.store(), kindRecordID, index)
		switch {
		case errors.Is(err, ErrNoDocument):
			stored++
		case err != nil:
			return result{}, err
		case before != place:
			res.changes = append(res.changes, deletes(kindRecord, before))
		}
		if res, err = res.writes(kindRecord, r.home, place, raw.Records[i]); err == nil {
			res, err = res.writes(kindRecordID, r.home, index, place)
		}
		if err != nil {
			return result{}, err
		}
	}
	res.status, res.answer = http.StatusOK, nopsapi.KarpenterAck{ReceivedAt: s.now(), Stored: stored}
	return s.hearing(c, r, res)
}

// recordList is a nopsapi.KarpenterRecordList with all that the agent sent.
type recordList struct {
	Records []json.RawMessage `json:"records"`
	Next    string            `json:"next,omitempty"`
}

func (s *Server) listRecords(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	docs, next, err := s.page(ctx, r, kindRecord, nopsapi.MaxRecords)
	answer := recordList{Records: []json.RawMessage{}, Next: next}
	for _, d := range docs {
		answer.Records = append(answer.Records, d.Data)
	}
	return found(answer), err
}

// staged is a scenario that was begun at ScenarioPath: of one customer, for all its clusters. It is stored, so that it goes on after a
// restart.
type staged struct {
	StartedAt time.Time         `json:"started_at"`
	Scenario  scenario.Scenario `json:"scenario"`
}

// player is the one that plays for a cluster; nil: none, what was published is served.
func (s *Server) player(ctx context.Context, c caller, arn string) (*scenario.Player, error) {
	if s.Scenario != nil {
		if p := s.Scenario(arn); p != nil {
			return p, nil
		}
	}
	data, err := s.store().Get(ctx, kindScenario, c.customer.ID)
	switch {
	case errors.Is(err, ErrNoDocument):
		return nil, nil
	case err != nil:
		return nil, err //nolint:wrapcheck // stores name what they read
	}
	s.stages.Lock()
	defer s.stages.Unlock()
	if known, ok := s.stages.of[c.customer.ID]; ok && bytes.Equal(known.data, data) {
		return known.player, nil
	}
	doc, err := read[staged](ctx, s.store(), kindScenario, c.customer.ID)
	if err != nil {
		return nil, err
	}
	if s.stages.of == nil {
		s.stages.of = map[string]stage{}
	}
	p := doc.Scenario.Player(doc.StartedAt)
	s.stages.of[c.customer.ID] = stage{data, p}
	return p, nil
}

// stage is a scenario's player, and what it was made of.
type stage struct {
	data   []byte
	player *scenario.Player
}

// play answers what a scenario has at this moment.
func (s *Server) play(ctx context.Context, p *scenario.Player, kind scenario.Kind) (result, error) {
	a := p.At(kind, s.now())
	if a.Latency > 0 {
		t := time.NewTimer(a.Latency)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return result{}, ctx.Err() //nolint:wrapcheck // the caller is gone
		case <-t.C:
		}
	}
	switch {
	case a.Drop:
		panic(http.ErrAbortHandler) // the documented way to cut a connection
	case a.Status != http.StatusOK:
		return result{}, &refusal{a.Status, codeOf(a.Status), "scenario " + p.Scenario().Name + " has no " + string(kind) + " now", a.RetryAfter}
	}
	return result{status: a.Status, raw: &raw{a.ContentType, a.Body()}}, nil
}

// controlScenario answers at ScenarioPath: GET tells what is played, PUT begins a scenario, ?at=47h in the middle of it, DELETE ends it.
func (s *Server) controlScenario(ctx context.Context, c caller, r *request) (result, error) {
	switch r.Method {
	case http.MethodPut:
		begun, err := scenario.Decode(r.body)
		if err != nil {
			return result{}, invalid(err)
		}
		at, err := scenario.ParseDuration(cmp.Or(r.URL.Query().Get("at"), "0s"))
		if err != nil || at < 0 {
			return result{}, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "at %q: expected how far into the scenario to begin, such as 47h", r.URL.Query().Get("at"))
		}
		now := s.now().Truncate(time.Second)
		doc := staged{StartedAt: now.Add(-at), Scenario: begun.From(at, now)}
		return found(doc).writes(kindScenario, c.customer.ID, c.customer.ID, doc)
	case http.MethodDelete:
		return result{status: http.StatusOK, answer: struct{}{}, changes: []Change{deletes(kindScenario, c.customer.ID)}}, nil
	}
	doc, err := read[staged](ctx, s.store(), kindScenario, c.customer.ID)
	if errors.Is(err, ErrNoDocument) {
		return found(struct{}{}), nil
	}
	return found(doc), err
}
