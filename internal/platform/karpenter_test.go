package platform_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func header(at time.Time, seq uint64) nopsapi.FactHeader {
	return nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: at, ValidUntil: at.Add(15 * time.Minute)}
}

func market(at time.Time, seq uint64) nopsapi.Market {
	return nopsapi.Market{
		FactHeader: header(at, seq), Region: "us-east-1", InstanceTypes: []nopsapi.InstanceType{{Name: "m7i.large", VCPU: 2, MemoryMiB: 8192}},
		Offerings: []nopsapi.MarketOffering{{InstanceType: "m7i.large", ZoneID: "use1-az2", CapacityType: nopsapi.CapacitySpot, Price: 0.04, OnDemandPrice: 0.1, PlacementScore: 7, ObservedAt: at}},
	}
}

func commitments(at time.Time, seq uint64) nopsapi.Commitments {
	return nopsapi.Commitments{FactHeader: header(at, seq), Commitments: []nopsapi.Commitment{{
		ID: "sp-1", Kind: nopsapi.CommitmentComputeSP, Start: at.AddDate(-1, 0, 0), End: at.AddDate(1, 0, 0), Unit: nopsapi.UnitUSDPerHour, Total: 5, Allocation: &nopsapi.Allocation{VCPU: 8, LeaseUntil: at.Add(time.Hour)},
	}}}
}

func inventory(at time.Time) nopsapi.KarpenterInventory {
	return nopsapi.KarpenterInventory{
		SchemaVersion: nopsapi.KarpenterSchema, ObservedAt: at, Agent: nopsapi.AgentInfo{Name: "karpenops", Version: "0.1.0"}, APIVersions: []string{"v1"}, Writable: true, Mode: "siblings",
		Pools: []nopsapi.KarpenterPool{{Name: "default", Managed: true, Ready: "True", Nodes: 2, Spec: map[string]any{"weight": 10.0}}},
	}
}

func records(at time.Time, ids ...string) nopsapi.KarpenterRecords {
	var all nopsapi.KarpenterRecords
	for _, id := range ids {
		all.Records = append(all.Records, nopsapi.KarpenterRecord{ID: id, At: at, Actor: "agent", Action: "set-limits", Object: "NodePool/nops-default", Reason: "a share that grew", Outcome: "applied"})
	}
	return all
}

type (
	polledMarket = nopsclient.Polled[nopsapi.Market]
	ack          = nopsapi.KarpenterAck
)

func TestFacts(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		_, err := agent.Market(t.Context(), arn, "")
		wantKind(t, err, nopsclient.KindNotFound)
		var e *nopsclient.Error
		if !errors.As(err, &e) || e.Code != nopsapi.CodeNotFound || !strings.Contains(err.Error(), "no market is published") {
			t.Errorf("none is published: %v", err)
		}
		if got := must[ack](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 7))); got.Seq != 7 || !got.ReceivedAt.Equal(c.Now()) {
			t.Errorf("published: %+v", got)
		}
		first := must[polledMarket](t)(agent.Market(t.Context(), arn, ""))
		if diff := cmp.Diff(market(c.Now(), 7), first.Message); diff != "" || first.Unchanged || first.ETag == "" {
			t.Errorf("read: %+v\n%s", first, diff)
		}
		same := must[polledMarket](t)(agent.Market(t.Context(), arn, first.ETag))
		if !same.Unchanged || same.ETag != first.ETag || same.Message.Seq != 0 {
			t.Errorf("nothing changed: %+v", same)
		}
		for name, seq := range map[string]uint64{"the same number": 7, "an older one": 6} {
			_, err := person.PublishMarket(t.Context(), arn, market(c.Now(), seq))
			wantKind(t, err, nopsclient.KindConflict)
			if !strings.Contains(err.Error(), "not greater than 7") {
				t.Errorf("%s: %v", name, err)
			}
		}
		c.Advance(time.Minute)
		must[ack](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 9)))
		if next := must[polledMarket](t)(agent.Market(t.Context(), arn, first.ETag)); next.Unchanged || next.Message.Seq != 9 || next.ETag == first.ETag {
			t.Errorf("the next one: %+v", next)
		}
		// Each kind counts for itself.
		must[ack](t)(person.PublishCommitments(t.Context(), arn, commitments(c.Now(), 1)))
		if got := must[nopsclient.Polled[nopsapi.Commitments]](t)(agent.Commitments(t.Context(), arn, "")); got.Message.Seq != 1 || len(got.Message.Commitments) != 1 {
			t.Errorf("commitments: %+v", got)
		}
	})
}

// TestFactsThatAreRefused sends what the client would not.
func TestFactsThatAreRefused(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 1 << 20
	installed(t, h.URL)
	at := c.Now().Format(time.RFC3339)
	head := func(more string) string {
		return `{"schema_version":1,"seq":5,"as_of":"` + at + `","valid_until":"` + c.Now().Add(time.Hour).Format(time.RFC3339) + `"` + more + `}`
	}
	const rest = `,"region":"us-east-1","instance_types":[],"offerings":[]`
	for _, tt := range []struct {
		name, path, body, part string
		want                   int
	}{
		{"a market", nopsapi.PathMarket(arn), head(rest), "", 200},
		{"another region", nopsapi.PathMarket(arn), strings.Replace(head(rest), "us-east-1", "eu-west-1", 1), "eu-west-1", 400},
		{"a newer schema", nopsapi.PathMarket(arn), strings.Replace(head(rest), `version":1`, `version":2`, 1), "schema_version 2", 400},
		{"from tomorrow", nopsapi.PathMarket(arn), strings.NewReplacer(at, c.Now().Add(10*time.Minute).Format(time.RFC3339)).Replace(head(rest)), "future", 400},
		{"of yesterday", nopsapi.PathMarket(arn), `{"schema_version":1,"seq":6,"as_of":"2026-01-01T00:00:00Z","valid_until":"2026-01-01T01:00:00Z"` + rest + `}`, "has passed", 400},
		{"not a number", nopsapi.PathMarket(arn), head(`,"region":"us-east-1","instance_types":[],"offerings":[{"price":NaN}]`), "JSON", 400},
		{"not JSON", nopsapi.PathMarket(arn), "<html>", "JSON", 400},
		{"nothing", nopsapi.PathCommitments(arn), "", "JSON", 400},
		{"an unknown kind", nopsapi.PathCommitments(arn), head(`,"commitments":[{"id":"x","kind":"Gift","unit":"vcpu","start":"2025-01-01T00:00:00Z","end":"2027-01-01T00:00:00Z"}]`), "Gift", 400},
		{"too large", nopsapi.PathMarket(arn), head(rest + `,"newer":"` + strings.Repeat("x", nopsapi.MaxMarket) + `"`), "larger", 413},
		{"too large for commitments", nopsapi.PathCommitments(arn), head(`,"commitments":[],"newer":"` + strings.Repeat("x", nopsapi.MaxBody) + `"`), "larger", 413},
	} {
		res, body := raw(t, h.URL, "PUT", tt.path, adminKey, nil, []byte(tt.body))
		if res.StatusCode != tt.want || !strings.Contains(string(body), tt.part) {
			t.Errorf("%s: %d %s", tt.name, res.StatusCode, body)
		}
	}
	if res, body := raw(t, h.URL, "PUT", nopsapi.PathMarket(arn), "", nil, []byte(head(rest))); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a key: %d %s", res.StatusCode, body)
	}
	if res, body := raw(t, h.URL, "PUT", nopsapi.PathMarket(strings.Replace(arn, "demo", "other", 1)), adminKey, nil, []byte(head(rest))); res.StatusCode != http.StatusNotFound {
		t.Errorf("of a cluster that is not registered: %d %s", res.StatusCode, body)
	}
}

func TestServerMethodsPublish(t *testing.T) {
	s, c, h := serve(t, nil)
	_, agent := installed(t, h.URL)
	if err := errors.Join(s.PublishMarket(t.Context(), "4242", arn, market(c.Now(), 3)), s.PublishCommitments(t.Context(), "4242", arn, commitments(c.Now(), 4))); err != nil {
		t.Fatal(err)
	}
	if got := must[polledMarket](t)(agent.Market(t.Context(), arn, "")); got.Message.Seq != 3 {
		t.Errorf("market %+v", got.Message.FactHeader)
	}
	if err := s.PublishMarket(t.Context(), "4242", arn, market(c.Now(), 3)); err == nil {
		t.Error("the same number is published again")
	}
	if err := s.PublishCommitments(t.Context(), "4242", arn, nopsapi.Commitments{}); err == nil {
		t.Error("nothing is published")
	}
}

func TestInventory(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		_, err := person.Inventory(t.Context(), arn)
		wantKind(t, err, nopsclient.KindNotFound)
		first := inventory(c.Now())
		must[ack](t)(agent.ReportInventory(t.Context(), arn, first))
		if diff := cmp.Diff(first, must[nopsapi.KarpenterInventory](t)(person.Inventory(t.Context(), arn))); diff != "" {
			t.Errorf("read:\n%s", diff)
		}
		// An inventory of a large cluster: more than any other body may have.
		large := inventory(c.Now().Add(time.Minute))
		for i := range 9000 {
			large.Nodes = append(large.Nodes, nopsapi.KarpenterNode{Name: fmt.Sprintf("default-%05d", i), Pool: "default", InstanceType: "m7i.large", Zone: "us-east-1a", ZoneID: "use1-az2", CapacityType: nopsapi.CapacitySpot, CreatedAt: c.Now()})
		}
		must[ack](t)(agent.ReportInventory(t.Context(), arn, large))
		if got := must[nopsapi.KarpenterInventory](t)(person.Inventory(t.Context(), arn)); len(got.Nodes) != 9000 {
			t.Errorf("%d nodes", len(got.Nodes))
		}
		// What waited longer than what followed it is late news.
		must[ack](t)(agent.ReportInventory(t.Context(), arn, first))
		if got := must[nopsapi.KarpenterInventory](t)(person.Inventory(t.Context(), arn)); !got.ObservedAt.Equal(large.ObservedAt) {
			t.Errorf("the older one is served: %s", got.ObservedAt)
		}
	})
}

func TestInventoriesThatAreRefused(t *testing.T) {
	_, c, h := serve(t, nil)
	person, _ := installed(t, h.URL)
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	body := func(more string) []byte {
		return []byte(`{"schema_version":1,"observed_at":"` + c.Now().Format(time.RFC3339) + `","agent":{"name":"k","version":"1"},"api_versions":[],"writable":false,"mode":"observe","paused":false,"pools":[]` + more + `}`)
	}
	packed := map[string]string{"Content-Encoding": "gzip"}
	noisy := noise(nopsapi.MaxBody * 2)
	for _, tt := range []struct {
		name   string
		header map[string]string
		body   []byte
		want   int
	}{
		{"an inventory", nil, body(""), 200},
		{"packed", packed, zip(t, body(`,"padding":"`+strings.Repeat("x", nopsapi.MaxInventory-1000)+`"`)), 200},
		{"as large, not packed", nil, body(`,"padding":"` + strings.Repeat("x", nopsapi.MaxInventory-1000) + `"`), 200},
		{"too large", nil, body(`,"padding":"` + strings.Repeat("x", nopsapi.MaxInventory) + `"`), 413},
		{"too large unpacked", packed, zip(t, body(`,"padding":"`+strings.Repeat("x", nopsapi.MaxInventory)+`"`)), 413},
		{"too large packed", packed, zip(t, body(`,"padding":"`+noisy+`"`)), 413},
		{"not packed, and said to be", packed, body(""), 400},
		{"cut off", packed, zip(t, body(""))[:40], 400},
		{"no mode", nil, bytes.Replace(body(""), []byte("observe"), nil, 1), 400},
		{"pools that are no list", nil, bytes.Replace(body(""), []byte(`"pools":[]`), []byte(`"pools":{}`), 1), 400},
	} {
		if res, answer := raw(t, h.URL, "PUT", nopsapi.PathKarpenterInventory(arn), key, tt.header, tt.body); res.StatusCode != tt.want {
			t.Errorf("%s: %d %.300s", tt.name, res.StatusCode, answer)
		}
	}
}

func TestRecords(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, c, h := serve(t, store)
		s.RatePerMinute = 1 << 20
		person, agent := installed(t, h.URL)
		ids := func(since time.Time) string {
			t.Helper()
			var all []string
			for _, r := range must[[]nopsapi.KarpenterRecord](t)(person.Records(t.Context(), arn, since)) {
				all = append(all, r.ID+"="+r.Outcome)
			}
			return strings.Join(all, " ")
		}
		start := c.Now()
		if got := must[ack](t)(agent.SendRecords(t.Context(), arn, records(start, "b", "a"))); got.Stored != 2 {
			t.Errorf("two records: %+v", got)
		}
		later := records(start.Add(time.Minute), "c")
		must[ack](t)(agent.SendRecords(t.Context(), arn, later))
		// After a lost answer, or a restart: what is known is not stored again.
		again := records(start, "a")
		again.Records = append(again.Records, later.Records...)
		if got := must[ack](t)(agent.SendRecords(t.Context(), arn, again)); got.Stored != 0 {
			t.Errorf("delivered before: %+v", got)
		}
		if got := ids(time.Time{}); got != "a=applied b=applied c=applied" {
			t.Errorf("records %s", got)
		}
		// What became of it is known later.
		undone := records(start.Add(2*time.Minute), "a")
		undone.Records[0].Outcome = "undone"
		must[ack](t)(agent.SendRecords(t.Context(), arn, undone))
		if got := ids(time.Time{}); got != "b=applied c=applied a=undone" {
			t.Errorf("records %s", got)
		}
		if got := ids(start.Add(time.Minute)); got != "c=applied a=undone" {
			t.Errorf("since a minute: %s", got)
		}
		for name, bad := range map[string]string{
			"none": `{"records":[]}`, "no list": `{}`, "twice the same": `{"records":[` + recordText("x", "") + `,` + recordText("x", "") + `]}`,
			"without a time": `{"records":[{"id":"x","actor":"agent","action":"a","outcome":"applied"}]}`, "an ID that would lie": `{"records":[` + recordText("x|y", "") + `]}`,
		} {
			key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
			if res, body := raw(t, h.URL, "POST", nopsapi.PathKarpenterRecords(arn), key, nil, []byte(bad)); res.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %d %s", name, res.StatusCode, body)
			}
		}
		if got := ids(time.Time{}); got != "b=applied c=applied a=undone" {
			t.Errorf("what was refused left something: %s", got)
		}
	})
}

func recordText(id, more string) string {
	return `{"id":"` + id + `","at":"2026-01-02T03:04:05Z","actor":"agent","action":"set-limits","object":"NodePool/x","reason":"r","predicted_drift":0,"actual_drift":0,"outcome":"applied"` + more + `}`
}

func TestManyRecordsComeInPages(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 1 << 20
	person, agent := installed(t, h.URL)
	var want []string
	for i := range 5 {
		var names []string
		for j := range 90 {
			names = append(names, fmt.Sprintf("r-%d-%02d", i, j))
		}
		want = append(want, names...)
		must[ack](t)(agent.SendRecords(t.Context(), arn, records(c.Now().Add(time.Duration(i)*time.Second), names...)))
	}
	// A few that are large: a page has an end in bytes, too.
	for i := range 8 {
		large := records(c.Now().Add(time.Hour+time.Duration(i)*time.Second), fmt.Sprintf("large-%d", i))
		large.Records[0].Before = strings.Repeat("x", 200<<10)
		must[ack](t)(agent.SendRecords(t.Context(), arn, large))
		want = append(want, large.Records[0].ID)
	}
	var got []string
	for _, r := range must[[]nopsapi.KarpenterRecord](t)(person.Records(t.Context(), arn, time.Time{})) {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d records, want %d: %v", len(got), len(want), got)
	}
	for _, query := range []string{"limit=0", "limit=201", "limit=x", "after=%20", "since=yesterday"} {
		if res, _ := raw(t, h.URL, "GET", nopsapi.PathKarpenterRecords(arn)+"?"+query, adminKey, nil, nil); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", query, res.StatusCode)
		}
	}
	huge := records(c.Now(), "huge")
	huge.Records[0].After = strings.Repeat("x", nopsapi.MaxRecord)
	if _, err := agent.SendRecords(t.Context(), arn, huge); !nopsclient.IsKind(err, nopsclient.KindRefused) || !strings.Contains(err.Error(), "record huge") {
		t.Errorf("a record that is too large: %v", err)
	}
}

func TestWhatIsUnknownAboutKarpenterSurvives(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, _ := installed(t, h.URL)
		key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
		at, until := c.Now().Format(time.RFC3339), c.Now().Add(time.Hour).Format(time.RFC3339)
		head := `{"schema_version":1,"seq":1234567890123456789,"as_of":"` + at + `","valid_until":"` + until + `","newer":{"deep":[12345678901234567891]},`
		for _, tt := range []struct{ method, path, key, body, part string }{
			{"PUT", nopsapi.PathMarket(arn), adminKey, head + `"region":"us-east-1","instance_types":[{"name":"a","vcpu":1,"memory_mib":1,"gpus":8}],"offerings":[]}`, `"gpus":8`},
			{"PUT", nopsapi.PathCommitments(arn), adminKey, head + `"commitments":[]}`, `"deep":[12345678901234567891]`},
			{"PUT", nopsapi.PathKarpenterInventory(arn), key, `{"schema_version":1,"observed_at":"` + at + `","agent":{"name":"k","version":"1"},"api_versions":[],"writable":false,"mode":"telepathy","paused":false,"pools":[{"name":"p","managed":true,"owned":false,"ready":"Maybe","nodes":0,"mood":"fair"}]}`, `"mood":"fair"`},
			{"POST", nopsapi.PathKarpenterRecords(arn), key, `{"records":[` + recordText("x", `,"weather":"fair"`) + `]}`, `"weather":"fair"`},
		} {
			if res, answer := raw(t, h.URL, tt.method, tt.path, tt.key, nil, []byte(tt.body)); res.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d %s", tt.path, res.StatusCode, answer)
			}
			if _, answer := raw(t, h.URL, "GET", tt.path, adminKey, nil, nil); !bytes.Contains(answer, []byte(tt.part)) {
				t.Errorf("%s: %s is lost: %s", tt.path, tt.part, answer)
			}
		}
	})
}

func TestKarpenopsIsHeardOf(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		seen := func() *nopsapi.Seen {
			t.Helper()
			return must[nopsapi.ConnectivityView](t)(person.Connectivity(t.Context(), arn)).LastKarpenops
		}
		_, err := person.Market(t.Context(), arn, "")
		wantKind(t, err, nopsclient.KindNotFound)
		if got := seen(); got != nil {
			t.Errorf("a person who looks is taken for the agent: %+v", got)
		}
		for name, call := range map[string]func() error{
			"a poll in vain": func() error { _, err := agent.Commitments(t.Context(), arn, ""); return err },
			"an inventory":   func() error { _, err := agent.ReportInventory(t.Context(), arn, inventory(c.Now())); return err },
			"records":        func() error { _, err := agent.SendRecords(t.Context(), arn, records(c.Now(), "a")); return err },
		} {
			c.Advance(time.Minute)
			if err := call(); err != nil && !nopsclient.IsKind(err, nopsclient.KindNotFound) {
				t.Fatal(err)
			}
			if got := seen(); got == nil || !got.At.Equal(c.Now()) {
				t.Errorf("%s: heard of %+v, want %s", name, got, c.Now())
			}
		}
		must[ack](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 1)))
		etag := must[polledMarket](t)(agent.Market(t.Context(), arn, "")).ETag
		c.Advance(time.Minute)
		must[polledMarket](t)(agent.Market(t.Context(), arn, etag))
		if got := seen(); !got.At.Equal(c.Now()) {
			t.Errorf("a poll that changed nothing: heard of %+v, want %s", got, c.Now())
		}
	})
}

// TestWithoutTheFeature: an agent that meets a platform without it is told so in a way that it can tell from a market that is not there.
func TestWithoutTheFeature(t *testing.T) {
	s, c, h := serve(t, nil)
	_, agent := installed(t, h.URL)
	if who := must[nopsapi.WhoAmI](t)(agent.WhoAmI(t.Context())); !slices.Equal(who.Features, []string{nopsapi.FeatureKarpenter, nopsapi.FeatureRightsizing}) || who.ContractVersion != 1 {
		t.Errorf("whoami %+v", who)
	}
	bare := &platform.Server{Store: s.Store, Now: c.Now, NoKarpenter: true, NoRightsizing: true}
	seed(t, bare)
	again := httptest.NewServer(bare)
	t.Cleanup(again.Close)
	_, agent = installed(t, again.URL)
	if who := must[nopsapi.WhoAmI](t)(agent.WhoAmI(t.Context())); len(who.Features) != 0 {
		t.Errorf("features %v", who.Features)
	}
	_, err := agent.Market(t.Context(), arn, "")
	wantKind(t, err, nopsclient.KindNotOffered)
	_, err = agent.ReportInventory(t.Context(), arn, inventory(c.Now()))
	wantKind(t, err, nopsclient.KindNotOffered)
	_, err = agent.Recommendations(t.Context(), arn, "")
	wantKind(t, err, nopsclient.KindNotOffered)
	wantKind(t, agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), 1)), nopsclient.KindNotOffered)
}

// played is a server that plays a scenario from the server's present on, and the agent's client.
func played(t *testing.T, s scenario.Scenario) (*clock, *nopsclient.Client) {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	p := s.Player(c.Now())
	server := &platform.Server{Now: c.Now, RatePerMinute: 1 << 20, Scenario: func(string) *scenario.Player { return p }}
	seed(t, server)
	h := httptest.NewServer(server) // not held against the document: what it plays is not of this contract
	t.Cleanup(h.Close)
	person := client(t, h.URL, adminKey)
	must[nopsapi.Cluster](t)(person.RegisterCluster(t.Context(), arn))
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	return c, client(t, h.URL, key, func(o *nopsclient.Options) {
		o.Attempts, o.Timeout = 1, time.Minute
		if slices.ContainsFunc(s.Steps, func(step scenario.Step) bool { return step.Latency >= scenario.Duration(time.Minute) }) {
			o.Timeout = time.Second // to be waited for
		}
	})
}

// TestTheClientMeetsScenarios: what the client makes of each fault that a platform can play.
func TestTheClientMeetsScenarios(t *testing.T) {
	steady, err := scenario.Named("steady")
	if err != nil {
		t.Fatal(err)
	}
	met := map[scenario.Fault]bool{}
	for _, tt := range []struct {
		step scenario.Step
		want nopsclient.Kind
		part string // of the error, or of what CheckAt says
	}{
		{scenario.Step{Fault: scenario.FaultStatus, Status: 429, RetryAfter: scenario.Duration(2 * time.Minute)}, nopsclient.KindRateLimited, "429"},
		{scenario.Step{Fault: scenario.FaultStatus, Status: 503}, nopsclient.KindServer, "503"},
		{scenario.Step{Fault: scenario.FaultStatus, Status: 404}, nopsclient.KindNotFound, "scenario steady has no"},
		{scenario.Step{Fault: scenario.FaultStatus, Status: 403}, nopsclient.KindForbidden, "403"},
		{scenario.Step{Fault: scenario.FaultDrop}, nopsclient.KindUnreachable, "no answer"},
		{scenario.Step{Fault: scenario.FaultSlow, Latency: scenario.Duration(time.Minute)}, nopsclient.KindUnreachable, "within 1s"},
		{scenario.Step{Fault: scenario.FaultSlow, Latency: scenario.Duration(time.Millisecond)}, "", ""},
		{scenario.Step{Fault: scenario.FaultFrozen}, "", "has passed"},
		{scenario.Step{Fault: scenario.FaultStale}, "", "has passed"},
		{scenario.Step{Fault: scenario.FaultFuture}, "", "future"},
		{scenario.Step{Fault: scenario.FaultReplay}, "", "has passed"},
		{scenario.Step{Fault: scenario.FaultSchema}, nopsclient.KindProtocol, "schema_version 2"},
		{scenario.Step{Fault: scenario.FaultTruncated}, nopsclient.KindProtocol, "JSON"},
		{scenario.Step{Fault: scenario.FaultHTML}, nopsclient.KindNotOffered, "a web page"},
		{scenario.Step{Fault: scenario.FaultNumbers}, nopsclient.KindProtocol, "not of this contract"},
		{scenario.Step{Fault: scenario.FaultHuge}, nopsclient.KindProtocol, "larger than"},
		{scenario.Step{Fault: scenario.FaultEmpty}, nopsclient.KindProtocol, "JSON"},
	} {
		t.Run(fmt.Sprint(tt.step.Fault, tt.step.Status, time.Duration(tt.step.Latency)), func(t *testing.T) {
			met[tt.step.Fault] = true
			s := steady
			tt.step.At = scenario.Duration(time.Hour)
			s.Steps = []scenario.Step{tt.step}
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			c, agent := played(t, s)
			before := must[polledMarket](t)(agent.Market(t.Context(), arn, ""))
			if before.Message.Seq == 0 || before.Message.CheckAt(c.Now()) != nil {
				t.Fatalf("before: %+v", before.Message.FactHeader)
			}
			c.Advance(2 * time.Hour)
			got, err := agent.Market(t.Context(), arn, before.ETag)
			also, err2 := agent.Commitments(t.Context(), arn, "")
			if tt.want != "" {
				wantKind(t, err, tt.want)
				wantKind(t, err2, tt.want)
				if !strings.Contains(err.Error(), tt.part) || got.ETag != "" || got.Message.Seq != 0 || got.Unchanged {
					t.Errorf("%v, %+v", err, got)
				}
				return
			}
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			for _, err := range []error{got.Message.CheckAt(c.Now()), also.Message.CheckAt(c.Now())} {
				if (err != nil) != (tt.part != "") || err != nil && !strings.Contains(err.Error(), tt.part) {
					t.Errorf("%v, want %q", err, tt.part)
				}
			}
		})
	}
	for _, f := range scenario.Faults() {
		if !met[f] {
			t.Errorf("no client meets the fault %s", f)
		}
	}
}

// TestAnUnchangedScenarioCostsNothing: within a document's time nothing is sent again.
func TestAnUnchangedScenarioCostsNothing(t *testing.T) {
	s, err := scenario.Named("noise")
	if err != nil {
		t.Fatal(err)
	}
	c, agent := played(t, s)
	etag, changes := "", 0
	for range 30 {
		got := must[polledMarket](t)(agent.Market(t.Context(), arn, etag))
		if etag = got.ETag; !got.Unchanged {
			changes++
		}
		c.Advance(time.Minute)
	}
	if changes != 6 {
		t.Errorf("%d documents in half an hour, want one in five minutes", changes)
	}
}

// TestLargeAnswersArePacked: a market of a region is megabytes of much the same.
func TestLargeAnswersArePacked(t *testing.T) {
	_, c, h := serve(t, nil)
	person, agent := installed(t, h.URL)
	m := market(c.Now(), 1)
	for i := range 2000 {
		m.Offerings = append(m.Offerings, nopsapi.MarketOffering{InstanceType: "m7i.large", ZoneID: fmt.Sprintf("use1-az%d", 10+i), CapacityType: nopsapi.CapacitySpot, Price: 0.04, OnDemandPrice: 0.1, PlacementScore: 7, ObservedAt: c.Now()})
	}
	must[ack](t)(person.PublishMarket(t.Context(), arn, m))
	packed, body := raw(t, h.URL, "GET", nopsapi.PathMarket(arn), adminKey, map[string]string{"Accept-Encoding": "br, gzip;q=0.5"}, nil)
	plain, text := raw(t, h.URL, "GET", nopsapi.PathMarket(arn), adminKey, map[string]string{"Accept-Encoding": "gzip;q=0"}, nil)
	if packed.Header.Get("Content-Encoding") != "gzip" || plain.Header.Get("Content-Encoding") != "" || len(body)*10 > len(text) {
		t.Errorf("%d bytes packed, %d not", len(body), len(text))
	}
	tags := []string{packed.Header.Get("ETag"), plain.Header.Get("ETag")}
	if tags[0] == tags[1] || tags[0] == "" {
		t.Errorf("other bytes have the same strong tag: %v", tags)
	}
	for _, tag := range tags {
		if res, body := raw(t, h.URL, "GET", nopsapi.PathMarket(arn), adminKey, map[string]string{"Accept-Encoding": "gzip", "If-None-Match": tag}, nil); res.StatusCode != http.StatusNotModified || len(body) != 0 || res.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %d, %d bytes", tag, res.StatusCode, len(body))
		}
	}
	first := must[polledMarket](t)(agent.Market(t.Context(), arn, ""))
	if len(first.Message.Offerings) != 2001 || first.ETag != tags[0] {
		t.Errorf("the client: %d offerings, tag %s", len(first.Message.Offerings), first.ETag)
	}
	if again := must[polledMarket](t)(agent.Market(t.Context(), arn, first.ETag)); !again.Unchanged {
		t.Error("the client: not unchanged")
	}
	if res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, map[string]string{"Accept-Encoding": "gzip"}, nil); res.Header.Get("Content-Encoding") != "" {
		t.Error("a small answer is packed")
	}
}

func TestScenarioControl(t *testing.T) {
	store, err := platform.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "platform.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	up := func() *httptest.Server {
		s := &platform.Server{Store: store, Now: c.Now, FaultControl: true}
		h := httptest.NewServer(s)
		t.Cleanup(h.Close)
		return h
	}
	seed(t, &platform.Server{Store: store, Now: c.Now})
	h := up()
	person, agent := installed(t, h.URL)
	must[ack](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 7)))
	text, err := os.ReadFile("scenario/examples/az-collapse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	control := func(host, method, key string, body []byte) (int, string) {
		res, answer := raw(t, host, method, platform.ScenarioPath, key, nil, body)
		return res.StatusCode, string(answer)
	}
	reader := must[nopsapi.APIKeyCreated](t)(person.CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{nopsapi.ScopeInstall}})).Key
	for _, tt := range []struct {
		name, method, key string
		body              []byte
		want              int
		part              string
	}{
		{"nothing is played", "GET", adminKey, nil, 200, "{}"},
		{"not everybody's", "PUT", reader, text, 403, ""},
		{"not anybody's", "PUT", "", text, 401, ""},
		{"nonsense", "PUT", adminKey, []byte("name: x\nstepz: []"), 400, "stepz"},
		{"begun", "PUT", adminKey, text, 200, `"started_at":"2026-01-02T03:04:05Z"`},
		{"told", "GET", adminKey, nil, 200, `"name":"az-collapse"`},
	} {
		if status, answer := control(h.URL, tt.method, tt.key, tt.body); status != tt.want || !strings.Contains(answer, tt.part) {
			t.Errorf("%s: %d %s", tt.name, status, answer)
		}
	}
	scores := func(agent *nopsclient.Client) (all []int) {
		t.Helper()
		for _, o := range must[polledMarket](t)(agent.Market(t.Context(), arn, "")).Message.Offerings {
			if o.InstanceType == "c7i.large" && o.CapacityType == nopsapi.CapacitySpot {
				all = append(all, o.PlacementScore)
			}
		}
		return all
	}
	if got := scores(agent); !slices.Equal(got, []int{7, 7, 7}) {
		t.Errorf("at the start: %v", got)
	}
	// It goes on where it is, after the process was gone.
	c.Advance(48*time.Hour + time.Minute)
	again := up()
	key := must[nopsapi.AgentKey](t)(client(t, again.URL, adminKey).CreateAgentKey(t.Context(), arn)).Key
	agent = client(t, again.URL, key)
	if got := scores(agent); !slices.Equal(got, []int{1, 7, 7}) {
		t.Errorf("two days later, after a restart: %v", got)
	}
	// Begun in the middle, its numbers rise after those before it.
	before := must[polledMarket](t)(agent.Market(t.Context(), arn, "")).Message.Seq
	c.Advance(time.Second)
	if res, answer := raw(t, again.URL, "PUT", platform.ScenarioPath+"?at=2d3h", adminKey, nil, text); res.StatusCode != http.StatusOK {
		t.Errorf("begun in the middle: %d %s", res.StatusCode, answer)
	}
	if got := must[polledMarket](t)(agent.Market(t.Context(), arn, "")).Message; got.Seq <= before || got.Seq != uint64(c.Now().Unix()) {
		t.Errorf("number %d after %d at %d", got.Seq, before, c.Now().Unix())
	}
	if got := scores(agent); !slices.Equal(got, []int{1, 7, 7}) {
		t.Errorf("two days and three hours in: %v", got)
	}
	for _, at := range []string{"-1h", "soon", "1w"} {
		if res, _ := raw(t, again.URL, "PUT", platform.ScenarioPath+"?at="+at, adminKey, nil, text); res.StatusCode != http.StatusBadRequest {
			t.Errorf("at %s: %d", at, res.StatusCode)
		}
	}
	other := client(t, again.URL, otherKey)
	must[nopsapi.Cluster](t)(other.RegisterCluster(t.Context(), arn))
	_, err = other.Market(t.Context(), arn, "")
	wantKind(t, err, nopsclient.KindNotFound)
	if status, answer := control(again.URL, "DELETE", adminKey, nil); status != 200 {
		t.Errorf("ended: %d %s", status, answer)
	}
	if got := must[polledMarket](t)(agent.Market(t.Context(), arn, "")); got.Message.Seq != 7 {
		t.Errorf("after the end: %+v", got.Message.FactHeader)
	}
	_, _, plain := serve(t, nil)
	if status, _ := control(plain.URL, "GET", adminKey, nil); status != http.StatusNotFound {
		t.Errorf("where the host does not want it: %d", status)
	}
}

func TestFactsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.db")
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var etags []string
	for round := range 2 {
		store, err := platform.OpenSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := &platform.Server{Store: store, Now: c.Now}
		seed(t, s)
		h := httptest.NewServer(s)
		person, agent := installed(t, h.URL)
		if round == 0 {
			must[ack](t)(person.PublishMarket(t.Context(), arn, market(c.Now(), 7)))
			must[ack](t)(agent.SendRecords(t.Context(), arn, records(c.Now(), "a")))
		}
		etags = append(etags, must[polledMarket](t)(agent.Market(t.Context(), arn, "")).ETag)
		if got := must[ack](t)(agent.SendRecords(t.Context(), arn, records(c.Now(), "a"))); got.Stored != 0 {
			t.Errorf("round %d: a record is stored again", round)
		}
		_, err = person.PublishMarket(t.Context(), arn, market(c.Now(), 7))
		wantKind(t, err, nopsclient.KindConflict)
		h.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if etags[0] != etags[1] {
		t.Errorf("the same document has the tags %v", etags)
	}
}

func TestOldRecordsAreRemoved(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		must[ack](t)(agent.SendRecords(t.Context(), arn, records(c.Now(), "old")))
		c.Advance(30*24*time.Hour + time.Second)
		must[ack](t)(agent.SendRecords(t.Context(), arn, records(c.Now(), "new")))
		if err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		left := must[[]nopsapi.KarpenterRecord](t)(person.Records(t.Context(), arn, time.Time{}))
		if len(left) != 1 || left[0].ID != "new" {
			t.Errorf("left: %+v", left)
		}
		for _, kind := range []platform.Kind{"record", "record-id"} {
			if docs, err := store.List(t.Context(), kind, "", "", 0); err != nil || len(docs) != 1 {
				t.Errorf("%s: %d documents, %v", kind, len(docs), err)
			}
		}
	})
}

// TestManyPublishAtOnce: of several that publish the same number one comes through.
func TestManyPublishAtOnce(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, _ := installed(t, h.URL)
		var mu sync.Mutex
		won := map[uint64]int{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for seq := uint64(1); seq <= 10; seq++ {
					_, err := person.PublishMarket(t.Context(), arn, market(c.Now(), seq))
					mu.Lock()
					switch {
					case err == nil:
						won[seq]++
					case !nopsclient.IsKind(err, nopsclient.KindConflict):
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for seq, n := range won {
			if n != 1 {
				t.Errorf("number %d was published %d times", seq, n)
			}
		}
		if won[10] != 1 {
			t.Errorf("the last number was published %d times", won[10])
		}
	})
}
