package platform_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	arn      = "arn:aws:eks:us-east-1:123456789012:cluster/demo"
	adminKey = "4242.0123456789abcdef0123456789abcdef"
	otherKey = "4343.fedcba9876543210fedcba9876543210"
)

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

type metrics struct{ err error }

func (m metrics) LastSample(_ context.Context, workspace, cluster string) (time.Time, int, error) {
	if workspace != "ws-4242" || cluster != arn {
		return time.Time{}, 0, m.err
	}
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 42, m.err
}

// each runs a test against both stores.
func each(t *testing.T, f func(t *testing.T, store platform.Store)) {
	t.Run("memory", func(t *testing.T) { f(t, &platform.Memory{}) })
	t.Run("sqlite", func(t *testing.T) {
		s, err := platform.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "platform.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		f(t, s)
	})
}

func serve(t *testing.T, store platform.Store) (*platform.Server, *clock, *httptest.Server) {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := &platform.Server{Store: store, Now: c.Now, Faults: &platform.Faults{}, Metrics: metrics{}}
	seed(t, s)
	h := httptest.NewServer(readPaper(t).checked(t, s))
	t.Cleanup(h.Close)
	return s, c, h
}

// seed makes two customers with a key each.
func seed(t *testing.T, s *platform.Server) {
	t.Helper()
	for id, key := range map[string]string{"4242": adminKey, "4343": otherKey} {
		if err := s.AddCustomer(t.Context(), platform.Customer{ID: id, AMP: nopsapi.AMPConfig{WorkspaceID: "ws-" + id, Region: "us-east-1", AccessKeyID: "AKIA" + id, SecretAccessKey: "secret-" + id}}); err != nil {
			t.Fatal(err)
		}
		if err := s.AddKey(t.Context(), id, "admin", key, nopsapi.ScopeAdmin); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEveryPath makes every call of the client, and holds what was served against what the document has.
func TestEveryPath(t *testing.T) {
	s := &platform.Server{Metrics: metrics{}}
	seed(t, s)
	paper := readPaper(t)
	h := httptest.NewServer(paper.checked(t, s))
	t.Cleanup(h.Close)
	person, agent := installed(t, h.URL)
	ctx := t.Context()
	must[nopsapi.WhoAmI](t)(agent.WhoAmI(ctx))
	made := must[nopsapi.APIKeyCreated](t)(person.CreateAPIKey(ctx, nopsapi.NewAPIKey{Name: "ci", Scopes: []nopsapi.Scope{nopsapi.ScopeRead}}))
	must[nopsapi.APIKeyCreated](t)(person.RotateAPIKey(ctx, made.ID))
	if err := person.RevokeAPIKey(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	must[nopsapi.APIKeyList](t)(person.ListAPIKeys(ctx))
	must[nopsapi.ClusterList](t)(person.ListClusters(ctx))
	must[[]nopsapi.PublicCluster](t)(person.PublicClusters(ctx, 10))
	must[nopsapi.Cluster](t)(person.Cluster(ctx, arn))
	must[nopsapi.InstallConfig](t)(person.InstallConfig(ctx, arn))
	sick := beat(1, time.Now(), true, component("vmagent", nopsapi.StateFailed))
	must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(ctx, arn, sick))
	must[nopsapi.HeartbeatList](t)(person.Heartbeats(ctx, arn, time.Time{}))
	open := must[nopsapi.WarningList](t)(person.Warnings(ctx, arn, nopsapi.WarningOpen))
	must[nopsapi.Warning](t)(person.AcknowledgeWarning(ctx, arn, open.Warnings[0].ID))
	started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(ctx, arn))
	must[nopsapi.Observation](t)(agent.Observe(ctx, arn, started.ID, started.Nonce, nopsapi.FromCluster))
	must[nopsapi.ConnectivityView](t)(person.ConnectivityTest(ctx, arn, started.ID))
	must[nopsapi.ConnectivityView](t)(person.Connectivity(ctx, arn))
	must[nopsapi.KarpenterAck](t)(person.PublishMarket(ctx, arn, market(time.Now(), 1)))
	must[nopsclient.Polled[nopsapi.Market]](t)(agent.Market(ctx, arn, ""))
	must[nopsapi.KarpenterAck](t)(person.PublishCommitments(ctx, arn, commitments(time.Now(), 1)))
	must[nopsclient.Polled[nopsapi.Commitments]](t)(agent.Commitments(ctx, arn, ""))
	must[nopsapi.KarpenterAck](t)(agent.ReportInventory(ctx, arn, inventory(time.Now())))
	must[nopsapi.KarpenterInventory](t)(person.Inventory(ctx, arn))
	must[nopsapi.KarpenterAck](t)(agent.SendRecords(ctx, arn, records(time.Now(), "a")))
	must[[]nopsapi.KarpenterRecord](t)(person.Records(ctx, arn, time.Time{}))
	for _, err := range []error{agent.ReportWorkloads(ctx, arn, workloads(time.Now(), 1)), agent.SendOutcomes(ctx, arn, outcomes(time.Now(), "a"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	must[nopsapi.RightsizedWorkloads](t)(person.RightsizedWorkloads(ctx, arn))
	must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(ctx, arn, recommended(time.Now(), 1)))
	must[nopsclient.Polled[nopsapi.Recommendations]](t)(agent.Recommendations(ctx, arn, ""))
	must[[]nopsapi.Outcome](t)(person.Outcomes(ctx, arn, time.Time{}))
	if len(paper.ops) < 33 {
		t.Errorf("the document has only %d operations", len(paper.ops))
	}
	for _, op := range paper.ops {
		if !paper.seen[op] {
			t.Errorf("%s is in the document; no call of the client was answered by it", op)
		}
	}
}

// TestOtherMethodsAreRefused tries every path with every method that the document does not have for it.
func TestOtherMethodsAreRefused(t *testing.T) {
	_, _, h := serve(t, nil)
	paper := readPaper(t)
	fill := strings.NewReplacer("{arn}", url.PathEscape(arn), "{id}", "x")
	for _, op := range paper.ops {
		_, path, _ := strings.Cut(op, " ")
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if slices.Contains(paper.ops, method+" "+path) {
				continue
			}
			res, body := raw(t, h.URL, method, fill.Replace(path), adminKey, nil, nil)
			if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") == "" {
				t.Errorf("%s %s: %d %s, Allow %q", method, path, res.StatusCode, body, res.Header.Get("Allow"))
			}
		}
	}
}

// raw makes a request without the client.
func raw(t *testing.T, host, method, path, key string, header map[string]string, body []byte) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set(nopsapi.KeyHeader, key)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, answer
}

func client(t *testing.T, host, key string, adjust ...func(*nopsclient.Options)) *nopsclient.Client {
	t.Helper()
	o := nopsclient.Options{Host: host, Key: key, Sleep: func(context.Context, time.Duration) error { return nil }}
	for _, a := range adjust {
		a(&o)
	}
	c, err := nopsclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t *testing.T, err error, kind nopsclient.Kind) {
	t.Helper()
	if !nopsclient.IsKind(err, kind) {
		t.Fatalf("error %v, want kind %s", err, kind)
	}
}

func beat(seq uint64, at time.Time, full bool, components ...nopsapi.ComponentStatus) nopsapi.Heartbeat {
	return nopsapi.Heartbeat{SchemaVersion: nopsapi.HeartbeatSchema, BootID: "boot", Seq: seq, ObservedAt: at, SentAt: at, Full: full, Components: components}
}

func component(name, state string) nopsapi.ComponentStatus {
	return nopsapi.ComponentStatus{Name: name, Kind: "Deployment", Object: "nops/nops-" + name, State: state}
}

// installed registers the cluster and returns the agents' client.
func installed(t *testing.T, host string) (person, agent *nopsclient.Client) {
	t.Helper()
	person = client(t, host, adminKey)
	must[nopsapi.Cluster](t)(person.RegisterCluster(t.Context(), arn))
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn))
	return person, client(t, host, key.Key)
}

func TestAnInstallationsCalls(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, _, h := serve(t, store)
		c := client(t, h.URL, adminKey)
		who := must[nopsapi.WhoAmI](t)(c.WhoAmI(t.Context()))
		if who.CustomerID != "4242" || !who.Allows(nopsapi.ScopeInstall) || who.Allows(nopsapi.ScopeAgent) {
			t.Fatalf("whoami: %+v", who)
		}
		first := must[nopsapi.Cluster](t)(c.RegisterCluster(t.Context(), arn))
		again := must[nopsapi.Cluster](t)(c.RegisterCluster(t.Context(), arn))
		if first != again || first.Name != "demo" || first.Region != "us-east-1" || len(first.ClusterID) != 6 {
			t.Fatalf("registered %+v, then %+v", first, again)
		}
		if got := must[nopsapi.Cluster](t)(c.Cluster(t.Context(), arn)); got != first {
			t.Fatalf("read %+v", got)
		}
		config := must[nopsapi.InstallConfig](t)(c.InstallConfig(t.Context(), arn))
		if config.AMP.WorkspaceID != "ws-4242" || config.AMP.SecretAccessKey != "secret-4242" || config.HeartbeatIntervalSeconds != 60 {
			t.Fatalf("install config %v", config)
		}
		if got := fmt.Sprintf("%v %+v %#v", config.AMP, config.AMP, config.AMP); strings.Contains(got, "secret-4242") {
			t.Fatalf("printing a configuration shows its secret: %s", got)
		}
		if list := must[nopsapi.ClusterList](t)(c.ListClusters(t.Context())); len(list.Clusters) != 1 {
			t.Fatalf("clusters %+v", list)
		}
		public := must[[]nopsapi.PublicCluster](t)(c.PublicClusters(t.Context(), 10))
		if len(public) != 1 || public[0].ExternalID != first.ClusterID {
			t.Fatalf("public clusters %+v", public)
		}
		key := must[nopsapi.AgentKey](t)(c.CreateAgentKey(t.Context(), arn))
		agent := client(t, h.URL, key.Key)
		if who := must[nopsapi.WhoAmI](t)(agent.WhoAmI(t.Context())); who.ClusterARN != arn || !who.Allows(nopsapi.ScopeAgent) {
			t.Fatalf("agent key: %+v", who)
		}
		_, err := agent.InstallConfig(t.Context(), arn)
		wantKind(t, err, nopsclient.KindForbidden)
		_, err = agent.Connectivity(t.Context(), strings.Replace(arn, "demo", "another", 1))
		wantKind(t, err, nopsclient.KindNotFound)
	})
}

func TestClusterIDsAreOfTheBase64Alphabet(t *testing.T) {
	_, _, h := serve(t, nil)
	c := client(t, h.URL, adminKey)
	seen := ""
	for i := range 80 {
		seen += must[nopsapi.Cluster](t)(c.RegisterCluster(t.Context(), fmt.Sprintf("arn:aws:eks:us-east-1:123456789012:cluster/c%d", i))).ClusterID
	}
	for _, special := range []string{"/", "+"} {
		if !strings.Contains(seen, special) {
			t.Errorf("no %q in 80 cluster IDs: clients would never meet one", special)
		}
	}
}

func TestKeys(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, _, h := serve(t, store)
		c := client(t, h.URL, adminKey)
		made := must[nopsapi.APIKeyCreated](t)(c.CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Name: "ci", Scopes: []nopsapi.Scope{nopsapi.ScopeRead}}))
		if err := nopsapi.ValidateKey(made.Key); err != nil {
			t.Fatal(err)
		}
		reader := client(t, h.URL, made.Key)
		must[nopsapi.ClusterList](t)(reader.ListClusters(t.Context()))
		_, err := reader.RegisterCluster(t.Context(), arn)
		wantKind(t, err, nopsclient.KindForbidden)
		rotated := must[nopsapi.APIKeyCreated](t)(c.RotateAPIKey(t.Context(), made.ID))
		_, err = reader.WhoAmI(t.Context())
		wantKind(t, err, nopsclient.KindUnauthorized)
		reader = client(t, h.URL, rotated.Key)
		must[nopsapi.WhoAmI](t)(reader.WhoAmI(t.Context()))
		if err := c.RevokeAPIKey(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		_, err = reader.WhoAmI(t.Context())
		wantKind(t, err, nopsclient.KindUnauthorized)
		list := must[nopsapi.APIKeyList](t)(c.ListAPIKeys(t.Context()))
		if len(list.APIKeys) != 2 {
			t.Fatalf("keys %+v", list)
		}
		for _, bad := range []nopsapi.NewAPIKey{{}, {Scopes: []nopsapi.Scope{"root"}}, {Scopes: []nopsapi.Scope{nopsapi.ScopeAgent}}} {
			_, err := c.CreateAPIKey(t.Context(), bad)
			wantKind(t, err, nopsclient.KindRefused)
		}
	})
}

func TestCustomersAreSeparate(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, beat(1, c.Now(), true)))
		must[nopsapi.KarpenterAck](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 7)))
		must[nopsapi.KarpenterAck](t)(agent.ReportInventory(t.Context(), arn, inventory(c.Now())))
		must[nopsapi.KarpenterAck](t)(agent.SendRecords(t.Context(), arn, records(c.Now(), "ours")))
		must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 7)))
		if err := errors.Join(agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), 1)), agent.SendOutcomes(t.Context(), arn, outcomes(c.Now(), "ours"))); err != nil {
			t.Fatal(err)
		}
		own := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
		other := client(t, h.URL, otherKey)
		for name, call := range map[string]func() error{
			"cluster":        func() error { _, err := other.Cluster(t.Context(), arn); return err },
			"install config": func() error { _, err := other.InstallConfig(t.Context(), arn); return err },
			"agent key":      func() error { _, err := other.CreateAgentKey(t.Context(), arn); return err },
			"heartbeats":     func() error { _, err := other.Heartbeats(t.Context(), arn, time.Time{}); return err },
			"warnings":       func() error { _, err := other.Warnings(t.Context(), arn, ""); return err },
			"connectivity":   func() error { _, err := other.Connectivity(t.Context(), arn); return err },
			"test":           func() error { _, err := other.ConnectivityTest(t.Context(), arn, own.ID); return err },
			"market":         func() error { _, err := other.Market(t.Context(), arn, ""); return err },
			"commitments":    func() error { _, err := other.Commitments(t.Context(), arn, ""); return err },
			"inventory":      func() error { _, err := other.Inventory(t.Context(), arn); return err },
			"records":        func() error { _, err := other.Records(t.Context(), arn, time.Time{}); return err },
			"workloads":      func() error { _, err := other.RightsizedWorkloads(t.Context(), arn); return err },
			"recommended":    func() error { _, err := other.Recommendations(t.Context(), arn, ""); return err },
			"outcomes":       func() error { _, err := other.Outcomes(t.Context(), arn, time.Time{}); return err },
			"publish":        func() error { _, err := other.PublishMarket(t.Context(), arn, market(c.Now(), 9)); return err },
			"observation":    func() error { _, err := other.Observe(t.Context(), arn, own.ID, own.Nonce, "here"); return err },
		} {
			if err := call(); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
				t.Errorf("%s of another customer: %v, want not found", name, err)
			}
		}
		if list := must[nopsapi.ClusterList](t)(other.ListClusters(t.Context())); len(list.Clusters) != 0 {
			t.Errorf("another customer sees %+v", list)
		}
		_, err := other.SendHeartbeat(t.Context(), arn, beat(2, c.Now(), true))
		wantKind(t, err, nopsclient.KindForbidden)
		// A record of the same ARN can be made, and is the other's own: that it can tells nothing, and what it holds is nothing.
		theirs := must[nopsapi.Cluster](t)(other.RegisterCluster(t.Context(), arn))
		ours := must[nopsapi.Cluster](t)(person.Cluster(t.Context(), arn))
		if theirs.ClusterID == ours.ClusterID {
			t.Errorf("two customers share the cluster ID %s", ours.ClusterID)
		}
		if list := must[nopsapi.HeartbeatList](t)(other.Heartbeats(t.Context(), arn, time.Time{})); len(list.Heartbeats) != 0 || list.Latest != nil {
			t.Errorf("another customer sees beats: %+v", list)
		}
		if _, err := other.ConnectivityTest(t.Context(), arn, own.ID); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
			t.Errorf("another customer's record shows our test: %v", err)
		}
		if _, err := other.Market(t.Context(), arn, ""); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
			t.Errorf("another customer's record shows our market: %v", err)
		}
		if list := must[[]nopsapi.KarpenterRecord](t)(other.Records(t.Context(), arn, time.Time{})); len(list) != 0 {
			t.Errorf("another customer sees records: %+v", list)
		}
		if _, err := other.Recommendations(t.Context(), arn, ""); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
			t.Errorf("another customer's record shows our recommendations: %v", err)
		}
		if list := must[[]nopsapi.Outcome](t)(other.Outcomes(t.Context(), arn, time.Time{})); len(list) != 0 {
			t.Errorf("another customer sees outcomes: %+v", list)
		}
		must[nopsapi.RightsizingAck](t)(other.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 9)))
		if got := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, "")); got.Message.Seq != 7 {
			t.Errorf("another customer's recommendations are ours: %+v", got.Message.FactHeader)
		}
		must[nopsapi.KarpenterAck](t)(other.PublishMarket(t.Context(), arn, market(c.Now(), 9)))
		if got := must[nopsclient.Polled[nopsapi.Market]](t)(agent.Market(t.Context(), arn, "")); got.Message.Seq != 7 {
			t.Errorf("another customer's market is ours: %+v", got.Message.FactHeader)
		}
		theirAgent := client(t, h.URL, must[nopsapi.AgentKey](t)(other.CreateAgentKey(t.Context(), arn)).Key)
		must[nopsapi.HeartbeatAck](t)(theirAgent.SendHeartbeat(t.Context(), arn, beat(9, c.Now(), true, component("intruder", nopsapi.StateFailed))))
		list := must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, time.Time{}))
		if len(list.Heartbeats) != 1 || list.Heartbeats[0].Seq != 1 {
			t.Errorf("another customer's beat is among ours: %+v", list)
		}
		if w := must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, "")); len(w.Warnings) != 0 {
			t.Errorf("another customer's beat opened our warning: %+v", w)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		send := func(b nopsapi.Heartbeat) nopsapi.HeartbeatAck {
			t.Helper()
			return must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, b))
		}
		start := c.Now()
		if ack := send(beat(1, start, true, component("a", nopsapi.StateReady), component("b", nopsapi.StateReady))); ack.Resync || ack.IntervalSeconds != 60 {
			t.Fatalf("first beat: %+v", ack)
		}
		c.Advance(time.Minute)
		if ack := send(beat(2, c.Now(), false, component("b", nopsapi.StateProgressing))); ack.Resync {
			t.Fatalf("second beat: %+v", ack)
		}
		// Sent twice, as after a lost answer: stored once.
		send(beat(2, c.Now(), false, component("b", nopsapi.StateProgressing)))
		c.Advance(5 * time.Minute)
		// A gap asks for everything; a full beat ends it; late ones of a queue keep their own time.
		if ack := send(beat(5, c.Now(), false)); !ack.Resync {
			t.Fatalf("gap: %+v", ack)
		}
		if ack := send(beat(3, start.Add(2*time.Minute), false)); !ack.Resync {
			t.Fatalf("late beat: %+v", ack)
		}
		if ack := send(beat(6, c.Now(), true, component("a", nopsapi.StateReady))); ack.Resync {
			t.Fatalf("full beat: %+v", ack)
		}
		list := must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, start))
		var seqs []uint64
		for _, b := range list.Heartbeats {
			seqs = append(seqs, b.Seq)
		}
		if fmt.Sprint(seqs) != "[1 2 3 5 6]" || len(list.Latest.Components) != 1 {
			t.Fatalf("stored %v, latest %+v", seqs, list.Latest)
		}
		for name, bad := range map[string]nopsapi.Heartbeat{
			"no boot":      {SchemaVersion: 1, Seq: 1, ObservedAt: start},
			"seq 0":        {SchemaVersion: 1, BootID: "b", ObservedAt: start},
			"no time":      {SchemaVersion: 1, BootID: "b", Seq: 1},
			"no schema":    {BootID: "b", Seq: 1, ObservedAt: start},
			"newer schema": {SchemaVersion: nopsapi.HeartbeatSchema + 1, BootID: "b", Seq: 1, ObservedAt: start},
			"no state":     beat(7, start, true, component("a", "")),
		} {
			if _, err := agent.SendHeartbeat(t.Context(), arn, bad); !nopsclient.IsKind(err, nopsclient.KindRefused) {
				t.Errorf("%s: %v, want refused", name, err)
			}
		}
	})
}

func TestWarningsOpenOnceAndClose(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		open := func() []nopsapi.Warning {
			t.Helper()
			return must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, "open")).Warnings
		}
		if got := open(); len(got) != 0 {
			t.Fatalf("before the first beat: %+v", got)
		}
		sick := beat(1, c.Now(), true, component("vmagent", nopsapi.StateFailed))
		sick.Pipeline = &nopsapi.PipelineStatus{State: nopsapi.PipelineRefused, LastError: "403"}
		must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, sick))
		if got := open(); len(got) != 2 {
			t.Fatalf("failing component and pipeline: %+v", got)
		}
		sick.Seq, sick.ObservedAt = 2, c.Now()
		must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, sick))
		if got := open(); len(got) != 2 {
			t.Fatalf("the same again opened another: %+v", got)
		}
		c.Advance(179 * time.Second)
		if got := open(); len(got) != 2 {
			t.Fatalf("not yet three missed beats: %+v", got)
		}
		c.Advance(2 * time.Second)
		got := open()
		if len(got) != 3 {
			t.Fatalf("three missed beats: %+v", got)
		}
		acked := must[nopsapi.Warning](t)(person.AcknowledgeWarning(t.Context(), arn, got[0].ID))
		if acked.AcknowledgedAt == nil {
			t.Fatalf("acknowledged: %+v", acked)
		}
		well := beat(3, c.Now(), true, component("vmagent", nopsapi.StateReady))
		well.Pipeline = &nopsapi.PipelineStatus{State: nopsapi.PipelineDelivering}
		must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, well))
		if got := open(); len(got) != 0 {
			t.Fatalf("after recovery: %+v", got)
		}
		closed := must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, "closed")).Warnings
		if len(closed) != 3 {
			t.Fatalf("closed: %+v", closed)
		}
	})
}

func TestConnectivity(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
		_, err := agent.Observe(t.Context(), arn, started.ID, "guess", "cluster")
		wantKind(t, err, nopsclient.KindConflict)
		must[nopsapi.Observation](t)(agent.Observe(t.Context(), arn, started.ID, started.Nonce, "cluster"))
		must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, beat(1, c.Now(), true)))
		view := must[nopsapi.ConnectivityView](t)(person.ConnectivityTest(t.Context(), arn, started.ID))
		if len(view.NonceSeen) != 1 || view.NonceSeen[0].From != "cluster" || view.LastHeartbeat == nil || view.LastSample == nil || view.LastSample.Series != 42 {
			t.Fatalf("view %+v", view)
		}
		c.Advance(16 * time.Minute)
		_, err = agent.Observe(t.Context(), arn, started.ID, started.Nonce, "cluster")
		wantKind(t, err, nopsclient.KindConflict)
		s.Metrics = metrics{errors.New("down")}
		if view := must[nopsapi.ConnectivityView](t)(person.Connectivity(t.Context(), arn)); view.SampleError == "" || view.LastSample != nil {
			t.Fatalf("unknown became something: %+v", view)
		}
	})
}

func TestClientMeetsTrouble(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		fault        platform.Fault
		key          string
		want         nopsclient.Kind
	}{
		{"wrong key", "401 is final", platform.Fault{}, "4242.ffffffffffffffffffffffffffffffff", nopsclient.KindUnauthorized},
		{"no key", "401 is final", platform.Fault{}, "", nopsclient.KindUnauthorized},
		{"one 503", "retried", platform.Fault{Status: 503, Times: 1}, adminKey, ""},
		{"one dropped connection", "retried", platform.Fault{Drop: true, Times: 1}, adminKey, ""},
		{"429 with Retry-After", "waited for, then retried", platform.Fault{Status: 429, RetryAfter: 2 * time.Second, Times: 2}, adminKey, ""},
		{"429 for a long time", "handed to the caller, who plans", platform.Fault{Status: 429, RetryAfter: time.Hour}, adminKey, nopsclient.KindRateLimited},
		{"always 500", "given up", platform.Fault{Status: 500}, adminKey, nopsclient.KindServer},
		{"always dropped", "given up", platform.Fault{Drop: true}, adminKey, nopsclient.KindUnreachable},
		{"too slow", "a time-out is unreachable", platform.Fault{Latency: 5 * time.Second}, adminKey, nopsclient.KindUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, h := serve(t, nil)
			s.Faults.Set(tt.fault)
			c := client(t, h.URL, tt.key, func(o *nopsclient.Options) { o.Timeout = 300 * time.Millisecond })
			_, err := c.WhoAmI(t.Context())
			if tt.want == "" {
				if err != nil {
					t.Fatalf("%s: %v", tt.reason, err)
				}
				return
			}
			wantKind(t, err, tt.want)
			if tt.key != "" && strings.Contains(err.Error(), tt.key) {
				t.Errorf("the key is in the error: %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestClientNamesWhatKeepsTheAnswerAway(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	foreign := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(foreign.Close)
	for _, tt := range []struct {
		name, host string
		want       nopsclient.Kind
	}{
		{"no such name", "https://nowhere.invalid", nopsclient.KindUnreachable},
		{"nobody listens", "http://127.0.0.1:1", nopsclient.KindUnreachable},
		{"an authority nobody trusts", secure.URL, nopsclient.KindTLS},
		{"a server of something else", foreign.URL, nopsclient.KindNotOffered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client(t, tt.host, adminKey).WhoAmI(t.Context())
			wantKind(t, err, tt.want)
			var e *nopsclient.Error
			if !errors.As(err, &e) || e.Hint() == "" {
				t.Errorf("no advice for %v", err)
			}
		})
	}
}

func TestCancelledIsCancelled(t *testing.T) {
	_, _, h := serve(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client(t, h.URL, adminKey).WhoAmI(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want context.Canceled", err)
	}
}

func TestServerGuards(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 8
	call := func(method, path, key, idempotency string, body []byte) *http.Response {
		t.Helper()
		header := map[string]string{}
		if idempotency != "" {
			header[nopsapi.IdempotencyHeader] = idempotency
		}
		res, _ := raw(t, h.URL, method, path, key, header, body)
		if res.Header.Get("Date") != c.Now().Format(http.TimeFormat) || res.Header.Get(nopsapi.RequestIDHeader) == "" {
			t.Errorf("%s %s: Date %q, request ID %q", method, path, res.Header.Get("Date"), res.Header.Get(nopsapi.RequestIDHeader))
		}
		return res
	}
	for _, tt := range []struct {
		name, method, path, idempotency string
		body                            []byte
		want                            int
	}{
		{"not an ARN", "PUT", nopsapi.PathCluster("demo"), "", nil, 400},
		{"registered", "PUT", nopsapi.PathCluster(arn), "once", nil, 201},
		{"the same write again answers as before", "PUT", nopsapi.PathCluster(arn), "once", nil, 201},
		{"the key for another body", "PUT", nopsapi.PathCluster(arn), "once", []byte("{}"), 409},
		{"unknown path", "GET", nopsapi.Base + "/nothing", "", nil, 404},
		{"too large", "POST", nopsapi.PathTests(arn), "", make([]byte, nopsapi.MaxBody+1), 413},
		{"bad since", "GET", nopsapi.PathHeartbeats(arn) + "?since=yesterday", "", nil, 400},
		{"bad state", "GET", nopsapi.PathWarnings(arn) + "?state=ajar", "", nil, 400},
		{"still within the rate", "GET", nopsapi.PathWhoAmI(), "", nil, 200},
		{"beyond the rate", "GET", nopsapi.PathWhoAmI(), "", nil, 429},
	} {
		if res := call(tt.method, tt.path, adminKey, tt.idempotency, tt.body); res.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, res.StatusCode, tt.want)
		}
	}
	c.Advance(time.Minute)
	if res := call("GET", nopsapi.PathWhoAmI(), adminKey, "", nil); res.StatusCode != http.StatusOK {
		t.Errorf("a minute later: %d", res.StatusCode)
	}
}

func TestETagSparesABody(t *testing.T) {
	_, _, h := serve(t, nil)
	statuses := []int{}
	c := client(t, h.URL, adminKey, func(o *nopsclient.Options) {
		o.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if err == nil {
				statuses = append(statuses, res.StatusCode)
			}
			return res, err
		})
	})
	first := must[nopsapi.WhoAmI](t)(c.WhoAmI(t.Context()))
	second := must[nopsapi.WhoAmI](t)(c.WhoAmI(t.Context()))
	if fmt.Sprint(statuses) != "[200 304]" || first.KeyID != second.KeyID {
		t.Fatalf("statuses %v", statuses)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestClockSkewIsSeen(t *testing.T) {
	s, c, h := serve(t, nil)
	s.Faults.SetClock(10 * time.Minute)
	cl := client(t, h.URL, adminKey, func(o *nopsclient.Options) { o.Now = c.Now })
	must[nopsapi.WhoAmI](t)(cl.WhoAmI(t.Context()))
	if got := cl.Skew(); got != 10*time.Minute {
		t.Fatalf("skew %s", got)
	}
}

func TestSQLiteRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.db")
	for round := range 2 {
		store, err := platform.OpenSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := &platform.Server{Store: store}
		if round == 0 {
			if err := s.AddCustomer(t.Context(), platform.Customer{ID: "4242"}); err != nil {
				t.Fatal(err)
			}
			if err := s.AddKey(t.Context(), "4242", "admin", adminKey, nopsapi.ScopeAdmin); err != nil {
				t.Fatal(err)
			}
		}
		h := httptest.NewServer(s)
		if _, err := client(t, h.URL, adminKey).WhoAmI(t.Context()); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		h.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
