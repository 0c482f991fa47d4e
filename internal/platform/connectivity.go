package platform

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// maxObservations is how often the nonce of a test is written down; whoever shows it after that is answered all the same.
const maxObservations = 20

// test is a stored connectivity test.
type test struct {
	nopsapi.ConnectivityTest
	Seen []message `json:"seen"`
}

func (s *Server) startTest(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	now := s.now()
	t := test{ConnectivityTest: nopsapi.ConnectivityTest{ID: "test-" + randomHex(6), Nonce: randomHex(16), CreatedAt: now, ExpiresAt: now.Add(nopsapi.TestLifetime)}}
	return result{status: http.StatusCreated, answer: t.ConnectivityTest}.writes(kindTest, r.home, r.home+"|"+t.ID, t)
}

func (s *Server) findTest(ctx context.Context, r *request) (test, error) {
	t, err := read[test](ctx, s.store(), kindTest, r.home+"|"+r.id())
	if errors.Is(err, ErrNoDocument) {
		return test{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no connectivity test %s of this cluster", r.id())
	}
	return t, err
}

func (s *Server) observe(ctx context.Context, _ caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	var o nopsapi.Observation
	var raw message
	if err := errors.Join(nopsapi.Decode(r.body, &o), nopsapi.Decode(r.body, &raw)); err != nil {
		return result{}, invalid(err)
	}
	if err := o.Validate(); err != nil {
		return result{}, invalid(err)
	}
	t, err := s.findTest(ctx, r)
	if err != nil {
		return result{}, err
	}
	now := s.now()
	if subtle.ConstantTimeCompare([]byte(o.Nonce), []byte(t.Nonce)) != 1 || now.After(t.ExpiresAt) {
		return result{}, refuse(http.StatusConflict, nopsapi.CodeConflict, "the nonce is not that of test %s, or the test has expired", t.ID)
	}
	if raw, err = raw.with("at", now); err != nil {
		return result{}, err
	}
	res := result{status: http.StatusCreated, answer: raw}
	if len(t.Seen) >= maxObservations {
		return res, nil
	}
	t.Seen = append(t.Seen, raw)
	return res.writes(kindTest, r.home, r.home+"|"+t.ID, t)
}

// heartbeatSeen is a nopsapi.HeartbeatSeen with all that the agents sent.
type heartbeatSeen struct {
	ObservedAt time.Time       `json:"observed_at"`
	ReceivedAt time.Time       `json:"received_at"`
	BootID     string          `json:"boot_id"`
	Seq        uint64          `json:"seq"`
	Components json.RawMessage `json:"components,omitempty"`
	Pipeline   json.RawMessage `json:"pipeline,omitempty"`
}

// view is a nopsapi.ConnectivityView with all that the agents sent: its fields hide those of the same name.
type view struct {
	nopsapi.ConnectivityView
	NonceSeen     []message      `json:"nonce_seen,omitempty"`
	LastHeartbeat *heartbeatSeen `json:"last_heartbeat,omitempty"`
}

func (s *Server) view(ctx context.Context, c caller, r *request) (view, error) {
	v := view{ConnectivityView: nopsapi.ConnectivityView{ClusterARN: r.arn, ServerTime: s.now()}}
	if err := s.rejudge(ctx, c.customer, r.home, r.arn); err != nil {
		return v, err
	}
	st, err := read[state](ctx, s.store(), kindState, r.home)
	switch {
	case err == nil:
		latest, err := st.latest()
		if err != nil {
			return v, err
		}
		v.LastHeartbeat = &heartbeatSeen{
			ObservedAt: latest.ObservedAt, ReceivedAt: st.ReceivedAt, BootID: latest.BootID, Seq: latest.Seq,
			Components: st.Latest["components"], Pipeline: st.Latest["pipeline"],
		}
	case !errors.Is(err, ErrNoDocument):
		return v, err
	}
	if s.Metrics != nil {
		at, series, err := s.Metrics.LastSample(ctx, c.customer.AMP.WorkspaceID, r.arn)
		switch {
		case err != nil:
			s.log().Warn("the metrics store could not be asked", "cluster_arn", r.arn, "error", err)
			v.SampleError = "the metrics store could not be asked"
		case !at.IsZero():
			v.LastSample = &nopsapi.SampleSeen{At: at.UTC(), Series: series}
		}
	}
	if v.LastKarpenops, err = s.lastKarpenops(ctx, r.home); err != nil {
		return v, err
	}
	v.Warnings, err = s.warnings(ctx, r.home, nopsapi.WarningOpen)
	return v, err
}

func (s *Server) connectivity(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	v, err := s.view(ctx, c, r)
	return found(v), err
}

func (s *Server) testView(ctx context.Context, c caller, r *request) (result, error) {
	if _, err := s.own(ctx, r); err != nil {
		return result{}, err
	}
	t, err := s.findTest(ctx, r)
	if err != nil {
		return result{}, err
	}
	v, err := s.view(ctx, c, r)
	v.Test, v.NonceSeen = t.ID, t.Seen
	return found(v), err
}
