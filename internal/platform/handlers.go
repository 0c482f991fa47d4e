package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// missedBeats is how many intervals of silence open a warning.
const missedBeats = 3

func (s *Server) whoAmI(_ context.Context, c caller, _ *request) (int, any, error) {
	return http.StatusOK, c.whoAmI(), nil
}

func (s *Server) keys(ctx context.Context, c caller) ([]key, error) {
	docs, err := s.store().List(ctx, kindKey, c.customer.ID)
	if err != nil {
		return nil, err //nolint:wrapcheck // stores name what they read
	}
	keys := make([]key, 0, len(docs))
	for _, d := range docs {
		var k key
		if err := json.Unmarshal(d.Data, &k); err != nil {
			return nil, fmt.Errorf("stored key: %w", err)
		}
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		return a.CreatedAt.Before(b.CreatedAt) || a.CreatedAt.Equal(b.CreatedAt) && a.ID < b.ID
	})
	return keys, nil
}

func (s *Server) listKeys(ctx context.Context, c caller, _ *request) (int, any, error) {
	keys, err := s.keys(ctx, c)
	if err != nil {
		return 0, nil, err
	}
	list := nopsapi.APIKeyList{APIKeys: []nopsapi.APIKey{}}
	for _, k := range keys {
		list.APIKeys = append(list.APIKeys, k.APIKey)
	}
	return http.StatusOK, list, nil
}

// mint makes a key and its secret.
func (s *Server) mint(ctx context.Context, c caller, name, arn string, scopes ...nopsapi.Scope) (nopsapi.APIKeyCreated, error) {
	secret := c.customer.ID + "." + randomHex(16)
	k := key{Hash: hash(secret), CustomerID: c.customer.ID, APIKey: nopsapi.APIKey{ID: "key-" + randomHex(6), Name: name, Scopes: scopes, ClusterARN: arn, CreatedAt: s.now()}}
	return nopsapi.APIKeyCreated{APIKey: k.APIKey, Key: secret}, s.putKey(ctx, k)
}

func (s *Server) createKey(ctx context.Context, c caller, r *request) (int, any, error) {
	var want nopsapi.NewAPIKey
	if err := nopsapi.Decode(r.body, &want); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	if len(want.Scopes) == 0 {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "scopes is empty: a key that may nothing is of no use")
	}
	for _, scope := range want.Scopes {
		switch scope {
		case nopsapi.ScopeAdmin, nopsapi.ScopeInstall, nopsapi.ScopeRead:
		case nopsapi.ScopeAgent:
			return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "agent keys belong to a cluster: POST /clusters/{arn}/agent-key")
		default:
			return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "unknown scope %q", scope)
		}
	}
	created, err := s.mint(ctx, c, want.Name, "", want.Scopes...)
	return http.StatusCreated, created, err
}

func (s *Server) keyByID(ctx context.Context, c caller, id string) (key, error) {
	keys, err := s.keys(ctx, c)
	if err != nil {
		return key{}, err
	}
	for _, k := range keys {
		if k.ID == id {
			return k, nil
		}
	}
	return key{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no key %s", id)
}

func (s *Server) rotateKey(ctx context.Context, c caller, r *request) (int, any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.keyByID(ctx, c, r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	if k.RevokedAt != nil {
		return 0, nil, refuse(http.StatusConflict, nopsapi.CodeConflict, "key %s is revoked", k.ID)
	}
	secret := c.customer.ID + "." + randomHex(16)
	old := k.Hash
	k.Hash = hash(secret)
	if err := s.putKey(ctx, k); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nopsapi.APIKeyCreated{APIKey: k.APIKey, Key: secret}, s.store().Delete(ctx, kindKey, old)
}

func (s *Server) revokeKey(ctx context.Context, c caller, r *request) (int, any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.keyByID(ctx, c, r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	if k.RevokedAt == nil {
		now := s.now()
		k.RevokedAt = &now
	}
	return http.StatusOK, struct{}{}, s.putKey(ctx, k)
}

func (s *Server) clusters(ctx context.Context, c caller) ([]cluster, error) {
	docs, err := s.store().List(ctx, kindCluster, c.customer.ID)
	if err != nil {
		return nil, err //nolint:wrapcheck // stores name what they read
	}
	var all []cluster
	for _, d := range docs {
		var cl cluster
		if err := json.Unmarshal(d.Data, &cl); err != nil {
			return nil, fmt.Errorf("stored cluster: %w", err)
		}
		if c.key.ClusterARN == "" || c.key.ClusterARN == cl.ARN {
			all = append(all, cl)
		}
	}
	return all, nil
}

func (s *Server) listClusters(ctx context.Context, c caller, _ *request) (int, any, error) {
	all, err := s.clusters(ctx, c)
	list := nopsapi.ClusterList{Clusters: []nopsapi.Cluster{}}
	for _, cl := range all {
		list.Clusters = append(list.Clusters, cl.Cluster)
	}
	return http.StatusOK, list, err
}

func (s *Server) publicClusters(ctx context.Context, c caller, _ *request) (int, any, error) {
	all, err := s.clusters(ctx, c)
	list := []nopsapi.PublicCluster{}
	for _, cl := range all {
		list = append(list, nopsapi.PublicCluster{Name: cl.Name, ExternalID: cl.ClusterID})
	}
	return http.StatusOK, list, err
}

func (s *Server) registerCluster(ctx context.Context, c caller, r *request) (int, any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := read[cluster](ctx, s.store(), kindCluster, r.arn)
	switch {
	case err == nil && found.CustomerID != c.customer.ID:
		return 0, nil, refuse(http.StatusConflict, nopsapi.CodeConflict, "cluster %s cannot be registered with this customer", r.arn)
	case err == nil:
		return http.StatusOK, found.Cluster, nil
	case !errors.Is(err, ErrNoDocument):
		return 0, nil, err
	}
	parts, err := nopsapi.ParseARN(r.arn)
	if err != nil {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	made := cluster{CustomerID: c.customer.ID, Cluster: nopsapi.Cluster{ARN: r.arn, Name: parts.Name, Region: parts.Region, ClusterID: clusterID(r.arn), RegisteredAt: s.now()}}
	return http.StatusCreated, made.Cluster, put(ctx, s.store(), kindCluster, c.customer.ID, r.arn, made)
}

func (s *Server) getCluster(ctx context.Context, c caller, r *request) (int, any, error) {
	found, err := s.own(ctx, c, r.arn)
	return http.StatusOK, found.Cluster, err
}

func (s *Server) interval(c Customer) int {
	if c.HeartbeatInterval == 0 {
		return 60
	}
	return min(max(c.HeartbeatInterval, nopsapi.MinHeartbeatInterval), nopsapi.MaxHeartbeatInterval)
}

func (s *Server) installConfig(ctx context.Context, c caller, r *request) (int, any, error) {
	found, err := s.own(ctx, c, r.arn)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nopsapi.InstallConfig{
		ClusterARN: found.ARN, ClusterID: found.ClusterID, AMP: c.customer.AMP, ChartVersion: c.customer.ChartVersion, HeartbeatIntervalSeconds: s.interval(c.customer),
	}, nil
}

func (s *Server) agentKey(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	created, err := s.mint(ctx, c, "agents of "+r.arn, r.arn, nopsapi.ScopeAgent, nopsapi.ScopeRead)
	return http.StatusCreated, nopsapi.AgentKey{ID: created.ID, Key: created.Key}, err
}

// state is what the platform makes of a cluster's beats.
type state struct {
	Latest     nopsapi.Heartbeat `json:"latest"` // components merged to the full state
	ReceivedAt time.Time         `json:"received_at"`
	NeedsFull  bool              `json:"needs_full"`
}

// beatID sorts by time of observation.
func beatID(arn string, b nopsapi.HeartbeatReceived) string {
	return fmt.Sprintf("%s|%s|%s|%020d", arn, b.ObservedAt.UTC().Format("2006-01-02T15:04:05.000000000Z"), b.BootID, b.Seq)
}

func (s *Server) heartbeat(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	var beat nopsapi.Heartbeat
	if err := nopsapi.Decode(r.body, &beat); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	if err := beat.Validate(); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	received := nopsapi.HeartbeatReceived{BootID: beat.BootID, Seq: beat.Seq, ObservedAt: beat.ObservedAt, ReceivedAt: now}
	id := beatID(r.arn, received)
	if _, err := s.store().Get(ctx, kindHeartbeat, id); errors.Is(err, ErrNoDocument) {
		if err := put(ctx, s.store(), kindHeartbeat, r.arn, id, received); err != nil {
			return 0, nil, err
		}
	} else if err != nil {
		return 0, nil, err //nolint:wrapcheck // stores name what they read
	}
	st, err := read[state](ctx, s.store(), kindState, r.arn)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return 0, nil, err
	}
	st = merge(st, beat, now)
	if err := put(ctx, s.store(), kindState, r.arn, r.arn, st); err != nil {
		return 0, nil, err
	}
	if err := s.judge(ctx, c.customer, r.arn, st); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nopsapi.HeartbeatAck{IntervalSeconds: s.interval(c.customer), Resync: st.NeedsFull, ServerTime: now}, nil
}

// merge takes a beat into the state. Late beats of a queue count as received, but an older observation never replaces a
// newer one; a gap in the sequence means that changes may have been missed, so the full state is asked for.
func merge(st state, beat nopsapi.Heartbeat, now time.Time) state {
	if st.Latest.ObservedAt.After(beat.ObservedAt) {
		return st
	}
	next := st.Latest.BootID == beat.BootID && beat.Seq <= st.Latest.Seq+1
	if beat.Full {
		return state{Latest: beat, ReceivedAt: now}
	}
	components := map[string]nopsapi.ComponentStatus{}
	for _, list := range [][]nopsapi.ComponentStatus{st.Latest.Components, beat.Components} {
		for _, comp := range list {
			components[comp.Object+"/"+comp.Name] = comp
		}
	}
	beat.Components = beat.Components[:0]
	for _, comp := range components {
		beat.Components = append(beat.Components, comp)
	}
	sort.Slice(beat.Components, func(i, j int) bool { return beat.Components[i].Name < beat.Components[j].Name })
	if beat.Pipeline == nil {
		beat.Pipeline = st.Latest.Pipeline
	}
	return state{Latest: beat, ReceivedAt: now, NeedsFull: st.NeedsFull || !next}
}

func (s *Server) listHeartbeats(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	var since time.Time
	if text := r.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "since %q: expected a time such as 2026-01-02T15:04:05Z", text)
		}
	}
	docs, err := s.store().List(ctx, kindHeartbeat, r.arn)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // stores name what they read
	}
	list := nopsapi.HeartbeatList{Heartbeats: []nopsapi.HeartbeatReceived{}}
	for _, d := range docs {
		var b nopsapi.HeartbeatReceived
		if err := json.Unmarshal(d.Data, &b); err != nil {
			return 0, nil, fmt.Errorf("stored heartbeat: %w", err)
		}
		if !b.ObservedAt.Before(since) {
			list.Heartbeats = append(list.Heartbeats, b)
		}
	}
	st, err := read[state](ctx, s.store(), kindState, r.arn)
	if err == nil {
		list.Latest = &st.Latest
	} else if !errors.Is(err, ErrNoDocument) {
		return 0, nil, err
	}
	return http.StatusOK, list, nil
}

// judge opens and closes the warnings that follow from a cluster's state.
func (s *Server) judge(ctx context.Context, customer Customer, arn string, st state) error {
	now := s.now()
	wanted := map[string]nopsapi.Warning{}
	want := func(kind, component, message string) {
		wanted[kind+"/"+component] = nopsapi.Warning{ClusterARN: arn, Kind: kind, Component: component, Message: message, State: "open", OpenedAt: now}
	}
	if limit := time.Duration(missedBeats*s.interval(customer)) * time.Second; now.Sub(st.ReceivedAt) > limit {
		want(nopsapi.WarningMissedHeartbeats, "", fmt.Sprintf("no heartbeat since %s", st.ReceivedAt.UTC().Format(time.RFC3339)))
	}
	for _, comp := range st.Latest.Components {
		if comp.State == nopsapi.StateFailed || comp.State == nopsapi.StateDegraded {
			want(nopsapi.WarningComponent, comp.Name, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", comp.Name, comp.State, comp.Reason), ": "))
		}
	}
	if p := st.Latest.Pipeline; p != nil && (p.State == nopsapi.PipelineRefused || p.State == nopsapi.PipelineBlocked) {
		want(nopsapi.WarningPipeline, "", strings.TrimSuffix(fmt.Sprintf("metrics delivery is %s: %s", p.State, p.LastError), ": "))
	}
	open, err := s.warnings(ctx, arn, "open")
	if err != nil {
		return err
	}
	for _, w := range open {
		id := w.Kind + "/" + w.Component
		if _, still := wanted[id]; still {
			delete(wanted, id) // open already: neither a second one nor a new time
			continue
		}
		w.State, w.ClosedAt = "closed", &now
		if err := put(ctx, s.store(), kindWarning, arn, w.ID, w); err != nil {
			return err
		}
	}
	for _, w := range wanted {
		w.ID = "warn-" + randomHex(6)
		if err := put(ctx, s.store(), kindWarning, arn, w.ID, w); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) warnings(ctx context.Context, arn, which string) ([]nopsapi.Warning, error) {
	docs, err := s.store().List(ctx, kindWarning, arn)
	if err != nil {
		return nil, err //nolint:wrapcheck // stores name what they read
	}
	found := []nopsapi.Warning{}
	for _, d := range docs {
		var w nopsapi.Warning
		if err := json.Unmarshal(d.Data, &w); err != nil {
			return nil, fmt.Errorf("stored warning: %w", err)
		}
		if which == "" || w.State == which {
			found = append(found, w)
		}
	}
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i], found[j]
		return a.OpenedAt.Before(b.OpenedAt) || a.OpenedAt.Equal(b.OpenedAt) && a.ID < b.ID
	})
	return found, nil
}

// rejudge looks at the clock: silence opens a warning without any request of the silent one.
func (s *Server) rejudge(ctx context.Context, customer Customer, arn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := read[state](ctx, s.store(), kindState, arn)
	if errors.Is(err, ErrNoDocument) {
		return nil // never beat: not installed yet, nothing to warn of
	} else if err != nil {
		return err
	}
	return s.judge(ctx, customer, arn, st)
}

// Run looks for silent clusters until the context ends. Reads do so too: a host that does not call Run loses only the exact
// time at which a warning opened.
func (s *Server) Run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		docs, err := s.store().List(ctx, kindCluster, "")
		if err != nil {
			continue // the next look may succeed; reads report the store's errors
		}
		for _, d := range docs {
			var cl cluster
			if json.Unmarshal(d.Data, &cl) != nil {
				continue
			}
			if customer, err := read[Customer](ctx, s.store(), kindCustomer, cl.CustomerID); err == nil {
				_ = s.rejudge(ctx, customer, cl.ARN)
			}
		}
	}
}

func (s *Server) listWarnings(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	which := r.URL.Query().Get("state")
	if which != "" && which != "open" && which != "closed" {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "state %q: open, closed, or nothing for both", which)
	}
	if err := s.rejudge(ctx, c.customer, r.arn); err != nil {
		return 0, nil, err
	}
	found, err := s.warnings(ctx, r.arn, which)
	return http.StatusOK, nopsapi.WarningList{Warnings: found}, err
}

func (s *Server) acknowledge(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := read[nopsapi.Warning](ctx, s.store(), kindWarning, r.PathValue("id"))
	if errors.Is(err, ErrNoDocument) || err == nil && w.ClusterARN != r.arn {
		return 0, nil, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no warning %s of this cluster", r.PathValue("id"))
	} else if err != nil {
		return 0, nil, err
	}
	if w.AcknowledgedAt == nil {
		now := s.now()
		w.AcknowledgedAt = &now
	}
	return http.StatusOK, w, put(ctx, s.store(), kindWarning, r.arn, w.ID, w)
}

// test is a stored connectivity test.
type test struct {
	nopsapi.ConnectivityTest
	ClusterARN string                `json:"cluster_arn"`
	Seen       []nopsapi.Observation `json:"seen"`
}

func (s *Server) startTest(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	now := s.now()
	t := test{ClusterARN: r.arn, ConnectivityTest: nopsapi.ConnectivityTest{ID: "test-" + randomHex(6), Nonce: randomHex(16), CreatedAt: now, ExpiresAt: now.Add(15 * time.Minute)}}
	return http.StatusCreated, t.ConnectivityTest, put(ctx, s.store(), kindTest, r.arn, t.ID, t)
}

func (s *Server) findTest(ctx context.Context, r *request) (test, error) {
	t, err := read[test](ctx, s.store(), kindTest, r.PathValue("id"))
	if errors.Is(err, ErrNoDocument) || err == nil && t.ClusterARN != r.arn {
		return test{}, refuse(http.StatusNotFound, nopsapi.CodeNotFound, "no connectivity test %s of this cluster", r.PathValue("id"))
	}
	return t, err
}

func (s *Server) observe(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	var o nopsapi.Observation
	if err := nopsapi.Decode(r.body, &o); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, "%v", err)
	}
	if o.From != "here" && o.From != "cluster" {
		return 0, nil, refuse(http.StatusBadRequest, nopsapi.CodeInvalidRequest, `from %q: "here" or "cluster"`, o.From)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.findTest(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	now := s.now()
	if o.Nonce != t.Nonce || now.After(t.ExpiresAt) {
		return 0, nil, refuse(http.StatusConflict, nopsapi.CodeConflict, "the nonce is not that of test %s, or the test has expired", t.ID)
	}
	o.At = now
	t.Seen = append(t.Seen, o)
	return http.StatusCreated, o, put(ctx, s.store(), kindTest, r.arn, t.ID, t)
}

func (s *Server) view(ctx context.Context, c caller, arn string) (nopsapi.ConnectivityView, error) {
	v := nopsapi.ConnectivityView{ClusterARN: arn, ServerTime: s.now()}
	if err := s.rejudge(ctx, c.customer, arn); err != nil {
		return v, err
	}
	st, err := read[state](ctx, s.store(), kindState, arn)
	if err == nil {
		v.LastHeartbeat = &nopsapi.HeartbeatSeen{ObservedAt: st.Latest.ObservedAt, ReceivedAt: st.ReceivedAt, BootID: st.Latest.BootID, Seq: st.Latest.Seq, Components: st.Latest.Components, Pipeline: st.Latest.Pipeline}
	} else if !errors.Is(err, ErrNoDocument) {
		return v, err
	}
	if s.Metrics != nil {
		at, series, err := s.Metrics.LastSample(ctx, c.customer.AMP.WorkspaceID, arn)
		switch {
		case err != nil:
			v.SampleError = "the metrics store could not be asked"
		case !at.IsZero():
			v.LastSample = &nopsapi.SampleSeen{At: at.UTC(), Series: series}
		}
	}
	v.Warnings, err = s.warnings(ctx, arn, "open")
	return v, err
}

func (s *Server) connectivity(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	v, err := s.view(ctx, c, r.arn)
	return http.StatusOK, v, err
}

func (s *Server) testView(ctx context.Context, c caller, r *request) (int, any, error) {
	if _, err := s.own(ctx, c, r.arn); err != nil {
		return 0, nil, err
	}
	t, err := s.findTest(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	v, err := s.view(ctx, c, r.arn)
	v.Test, v.NonceSeen = t.ID, t.Seen
	return http.StatusOK, v, err
}
