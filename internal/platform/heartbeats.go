package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const (
	// promptly is how soon after its observation a beat is sent when it did not wait in a queue.
	promptly = 10 * time.Second
	// formerBoots is how many processes of an agent are remembered, to tell their late beats from those of a new one.
	formerBoots = 16
	// skewNotice is from when on an agent is told of its clock.
	skewNotice = 2 * time.Minute
)

// state is what the platform makes of a cluster's beats.
type state struct {
	Latest     message   `json:"latest"`      // components merged to the full state
	ReceivedAt time.Time `json:"received_at"` // when the latest came
	HeardAt    time.Time `json:"heard_at"`    // when any beat came last
	NeedsFull  bool      `json:"needs_full"`
	Boots      []string  `json:"boots,omitempty"` // processes before that of the latest
}

// latest is the part of the latest beat that this version knows.
func (st state) latest() (nopsapi.Heartbeat, error) {
	var beat nopsapi.Heartbeat
	data, err := json.Marshal(st.Latest)
	if err == nil {
		err = json.Unmarshal(data, &beat)
	}
	if err != nil {
		return beat, fmt.Errorf("stored heartbeat: %w", err)
	}
	return beat, nil
}

// moment is a time as part of an ID: IDs sort by it.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// beatID sorts by time of observation, below the cluster's home.
func beatID(b nopsapi.HeartbeatReceived) string {
	return fmt.Sprintf("%s|%s|%020d", moment(b.ObservedAt), b.BootID, b.Seq)
}

func (s *Server) heartbeat(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	var beat nopsapi.Heartbeat
	var raw message
	if err := errors.Join(nopsapi.Decode(r.body, &beat), nopsapi.Decode(r.body, &raw)); err != nil {
		return result{}, invalid(err)
	}
	if err := beat.Validate(); err != nil {
		return result{}, invalid(err)
	}
	if beat.SentAt.IsZero() {
		return result{}, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "sent_at is missing")
	}
	now := s.now()
	st, err := read[state](ctx, s.store(), kindState, r.home)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	res := result{}
	index := fmt.Sprintf("%s|%s|%020d", r.home, beat.BootID, beat.Seq)
	switch _, err := s.store().Get(ctx, kindBeat, index); {
	case errors.Is(err, ErrNoDocument):
		received := nopsapi.HeartbeatReceived{BootID: beat.BootID, Seq: beat.Seq, ObservedAt: beat.ObservedAt, ReceivedAt: now}
		id := beatID(received)
		if st, err = st.merge(beat, raw, now); err == nil {
			res, err = res.writes(kindHeartbeat, r.home, r.home+"|"+id, received)
		}
		if err == nil {
			res, err = res.writes(kindBeat, r.home, index, id)
		}
		if err != nil {
			return result{}, err
		}
	case err != nil:
		return result{}, err //nolint:wrapcheck // stores name what they read
	} // stored already: its answer was lost, and it is given again
	st.HeardAt = now
	if res, err = res.writes(kindState, r.home, r.home, st); err != nil {
		return result{}, err
	}
	judged, err := s.judge(ctx, c.customer, r.home, r.arn, st)
	res.changes = append(res.changes, judged...)
	res.status = http.StatusOK
	res.answer = nopsapi.HeartbeatAck{IntervalSeconds: interval(c.customer), Resync: st.NeedsFull, ServerTime: now, Notices: notices(beat, now)}
	return res, err
}

func notices(beat nopsapi.Heartbeat, now time.Time) []string {
	skew := beat.SentAt.Sub(now).Round(time.Minute)
	switch {
	case skew >= skewNotice:
		return []string{fmt.Sprintf("the agent's clock is %s ahead of the platform's", skew)}
	case skew <= -skewNotice:
		return []string{fmt.Sprintf("the agent's clock is %s behind the platform's", -skew)}
	}
	return nil
}

// supersedes says whether a beat tells of a later moment than the latest so far. Within a process numbers decide: clocks
// may be set back. A process that is not known yet follows the known ones, unless what it says has waited since before.
func (st state) supersedes(beat, latest nopsapi.Heartbeat) bool {
	switch {
	case st.Latest == nil:
		return true
	case beat.BootID == latest.BootID:
		return beat.Seq > latest.Seq
	case slices.Contains(st.Boots, beat.BootID):
		return false
	}
	return !beat.ObservedAt.Before(latest.ObservedAt) || beat.SentAt.Sub(beat.ObservedAt) < promptly
}

// merge takes a beat into the state. Late beats of a queue count as received, but an older observation never replaces a
// newer one; a gap in the sequence means that changes may have been missed, so the full state is asked for.
func (st state) merge(beat nopsapi.Heartbeat, raw message, now time.Time) (state, error) {
	latest, err := st.latest()
	if err != nil {
		return st, err
	}
	if !st.supersedes(beat, latest) {
		return st, nil
	}
	next := state{Latest: raw, ReceivedAt: now, Boots: st.Boots}
	if st.Latest != nil && beat.BootID != latest.BootID {
		next.Boots = append(slices.Clone(st.Boots), latest.BootID)
		next.Boots = next.Boots[max(0, len(next.Boots)-formerBoots):]
	}
	if beat.Full {
		return next, nil
	}
	next.NeedsFull = st.NeedsFull || beat.BootID != latest.BootID || beat.Seq != latest.Seq+1
	components, err := mergeComponents(st.Latest["components"], raw["components"])
	if err != nil {
		return st, err
	}
	if next.Latest, err = raw.with("components", components); err != nil {
		return st, err
	}
	if beat.Pipeline == nil && st.Latest["pipeline"] != nil {
		next.Latest["pipeline"] = st.Latest["pipeline"]
	}
	return next, nil
}

// mergeComponents lays lists of components over each other, the later ones on top, whatever else their elements hold.
func mergeComponents(lists ...json.RawMessage) ([]json.RawMessage, error) {
	type element struct {
		order string
		raw   json.RawMessage
	}
	byObject := map[string]element{}
	for _, text := range lists {
		var elements []json.RawMessage
		if len(text) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &elements); err != nil {
			return nil, fmt.Errorf("components: %w", err)
		}
		for _, raw := range elements {
			var c nopsapi.ComponentStatus
			if err := json.Unmarshal(raw, &c); err != nil {
				return nil, fmt.Errorf("component: %w", err)
			}
			byObject[c.Kind+"|"+c.Object+"|"+c.Name] = element{c.Name + "|" + c.Kind + "|" + c.Object, raw}
		}
	}
	all := make([]element, 0, len(byObject))
	for _, e := range byObject {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].order < all[j].order })
	merged := make([]json.RawMessage, len(all))
	for i, e := range all {
		merged[i] = e.raw
	}
	return merged, nil
}

// heartbeatList is a nopsapi.HeartbeatList with all that the agents sent.
type heartbeatList struct {
	Heartbeats []json.RawMessage `json:"heartbeats"`
	Next       string            `json:"next,omitempty"`
	Latest     message           `json:"latest,omitempty"`
}

func (s *Server) listHeartbeats(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	docs, next, err := s.page(ctx, r, kindHeartbeat, nopsapi.MaxHeartbeatsPerAnswer)
	if err != nil {
		return result{}, err
	}
	answer := heartbeatList{Heartbeats: []json.RawMessage{}, Next: next}
	for _, d := range docs {
		answer.Heartbeats = append(answer.Heartbeats, d.Data)
	}
	st, err := read[state](ctx, s.store(), kindState, r.home)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return result{}, err
	}
	answer.Latest = st.Latest
	return found(answer), nil
}
