package platform_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func shop(name string) nopsapi.WorkloadRef {
	return nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: name}
}

func workloads(at time.Time, generation int64) nopsapi.RightsizedWorkloads {
	return nopsapi.RightsizedWorkloads{SchemaVersion: nopsapi.RightsizingSchema, Generation: generation, AsOf: at, Workloads: []nopsapi.RightsizedWorkload{
		{WorkloadRef: shop("cart"), Level: "BalancedSavings", Containers: []string{"app"}},
	}}
}

func recommended(at time.Time, seq uint64) nopsapi.Recommendations {
	return nopsapi.Recommendations{
		FactHeader: nopsapi.FactHeader{SchemaVersion: nopsapi.RightsizingSchema, Seq: seq, AsOf: at, ValidUntil: at.Add(24 * time.Hour)},
		Workloads: []nopsapi.WorkloadRecommendation{{WorkloadRef: shop("cart"), Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{
			{Name: "app", CPU: nopsapi.Recommended{Target: 0.5, Lower: 0.25, Upper: 0.75}, Memory: nopsapi.Recommended{Target: 1 << 28}, Days: 30, Samples: 43200},
		}}},
	}
}

func outcomes(at time.Time, ids ...string) nopsapi.Outcomes {
	all := nopsapi.Outcomes{SchemaVersion: nopsapi.RightsizingSchema}
	for _, id := range ids {
		all.Outcomes = append(all.Outcomes, nopsapi.Outcome{ID: id, At: at, Workload: shop("cart"), Pod: "cart-1", Kind: nopsapi.OutcomeInPlace, Seq: 7})
	}
	return all
}

type polledRecommendations = nopsclient.Polled[nopsapi.Recommendations]

func TestWorkloadsThatAreWanted(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		_, err := person.RightsizedWorkloads(t.Context(), arn)
		wantKind(t, err, nopsclient.KindNotFound)
		generation := func() int64 {
			t.Helper()
			return must[nopsapi.RightsizedWorkloads](t)(person.RightsizedWorkloads(t.Context(), arn)).Generation
		}
		for _, step := range []struct{ told, want int64 }{{5, 5}, {7, 7}, {6, 7}, {7, 7}, {8, 8}} { // the third was on its way for longer
			if err := agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), step.told)); err != nil {
				t.Fatal(err)
			}
			if got := generation(); got != step.want {
				t.Errorf("after generation %d it is %d, want %d", step.told, got, step.want)
			}
		}
		// A list of a large cluster: more than any other body may have.
		large := workloads(c.Now(), 9)
		for i := range nopsapi.MaxWorkloads - 1 {
			large.Workloads = append(large.Workloads, nopsapi.RightsizedWorkload{WorkloadRef: shop(fmt.Sprintf("service-%05d", i)), Level: "MaximumPerformance"})
		}
		if err := agent.ReportWorkloads(t.Context(), arn, large); err != nil {
			t.Fatal(err)
		}
		if got := must[nopsapi.RightsizedWorkloads](t)(person.RightsizedWorkloads(t.Context(), arn)); len(got.Workloads) != nopsapi.MaxWorkloads {
			t.Errorf("%d workloads", len(got.Workloads))
		}
		// Nobody but an agent speaks for a cluster.
		wantKind(t, person.ReportWorkloads(t.Context(), arn, workloads(c.Now(), 10)), nopsclient.KindForbidden)
		_, err = agent.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 1))
		wantKind(t, err, nopsclient.KindForbidden)
	})
}

func TestRecommendations(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		_, err := agent.Recommendations(t.Context(), arn, "")
		wantKind(t, err, nopsclient.KindNotFound)
		var e *nopsclient.Error
		if !errors.As(err, &e) || e.Code != nopsapi.CodeNotFound {
			t.Errorf("there are none: %v", err)
		}
		if got := must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 7))); got.Seq != 7 {
			t.Errorf("published: %+v", got)
		}
		first := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, ""))
		if diff := cmp.Diff(recommended(c.Now(), 7), first.Message); diff != "" || first.ETag == "" {
			t.Errorf("read, tag %q:\n%s", first.ETag, diff)
		}
		if same := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, first.ETag)); !same.Unchanged {
			t.Errorf("nothing changed: %+v", same)
		}
		for _, seq := range []uint64{6, 7} {
			_, err := person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), seq))
			wantKind(t, err, nopsclient.KindConflict)
		}
		for name, at := range map[string]time.Time{"of the future": c.Now().Add(time.Hour), "of the past": c.Now().Add(-25 * time.Hour)} {
			if _, err := person.PublishRecommendations(t.Context(), arn, recommended(at, 8)); !nopsclient.IsKind(err, nopsclient.KindRefused) {
				t.Errorf("%s: %v", name, err)
			}
		}
		must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 8)))
		if next := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, first.ETag)); next.Unchanged || next.Message.Seq != 8 {
			t.Errorf("the next one: %+v", next)
		}
	})
}

func TestOutcomes(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, c, h := serve(t, store)
		s.RatePerMinute = 1 << 20
		person, agent := installed(t, h.URL)
		send := func(o nopsapi.Outcomes) {
			t.Helper()
			if err := agent.SendOutcomes(t.Context(), arn, o); err != nil {
				t.Fatal(err)
			}
		}
		list := func(since time.Time) string {
			t.Helper()
			var all []string
			for _, o := range must[[]nopsapi.Outcome](t)(person.Outcomes(t.Context(), arn, since)) {
				all = append(all, o.ID+"="+o.Kind)
			}
			return strings.Join(all, " ")
		}
		start := c.Now()
		send(outcomes(start, "b", "a"))
		later := outcomes(start.Add(time.Minute), "c")
		later.Outcomes[0].Kind = nopsapi.OutcomeOOM
		send(later)
		// After a lost answer some are delivered again, with others: each is one.
		again := outcomes(start, "a")
		again.Outcomes = append(again.Outcomes, later.Outcomes...)
		send(again)
		send(outcomes(start.Add(time.Hour), "a")) // as if it had happened later: it did not
		if got := list(time.Time{}); got != "a=in-place b=in-place c=oom" {
			t.Errorf("outcomes %s", got)
		}
		if got := list(start.Add(time.Minute)); got != "c=oom" {
			t.Errorf("since a minute: %s", got)
		}
		// One that is wrong keeps no other one away, and is named.
		mixed := outcomes(start.Add(30*time.Second), "d", "e|f", "d")
		var refused *nopsclient.OutcomesRefused
		if err := agent.SendOutcomes(t.Context(), arn, mixed); !errors.As(err, &refused) || len(refused.Refused) != 2 || refused.Refused[0].ID != "e|f" {
			t.Errorf("one of three is good: %v", err)
		}
		if got := list(start.Add(30 * time.Second)); got != "d=in-place c=oom" {
			t.Errorf("what was good of it: %s", got)
		}
		// More than a page.
		var ids []string
		for i := range nopsapi.MaxOutcomes {
			ids = append(ids, fmt.Sprintf("r-%03d", i))
		}
		send(outcomes(start.Add(2*time.Minute), ids...))
		if got := strings.Fields(list(time.Time{})); len(got) != nopsapi.MaxOutcomes+4 || got[len(got)-1] != "r-499=in-place" {
			t.Errorf("%d outcomes", len(got))
		}
		c.Advance(30*24*time.Hour + 90*time.Second)
		if err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(list(time.Time{})); len(got) != nopsapi.MaxOutcomes {
			t.Errorf("%d outcomes are left, want those of the third minute", len(got))
		}
		for _, kind := range []platform.Kind{"outcome", "outcome-id"} {
			if docs, err := store.List(t.Context(), kind, "", "", 0); err != nil || len(docs) != nopsapi.MaxOutcomes {
				t.Errorf("%s: %d documents, %v", kind, len(docs), err)
			}
		}
	})
}

// One outcome that is wrong, or cannot be read at all, keeps no other one away: it is named. The document allows no such delivery, and a
// platform that took nothing of it would be asked for ever.
func TestOneOutcomeIsWrong(t *testing.T) {
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := &platform.Server{Now: c.Now, RatePerMinute: 1 << 20}
	seed(t, s)
	h := httptest.NewServer(s) // not held against the document
	t.Cleanup(h.Close)
	person, _ := installed(t, h.URL)
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	one := func(id string) string {
		return `{"id":` + id + `,"at":"2026-01-02T03:04:05Z","workload":{"api_version":"apps/v1","kind":"Deployment","namespace":"n","name":"w"},"pod":"p","kind":"oom"}`
	}
	for _, tt := range []struct {
		name, outcomes, part string
		want                 int
	}{
		{"an ID that would lie", one(`"a|"`) + "," + one(`"a"`), `"stored":1,"refused":[{"index":0,"id":"a|","why":"id: `, 200},
		{"twice", one(`"b"`) + "," + one(`"b"`), `"stored":1,"refused":[{"index":1,"id":"b","why":"listed twice"}]`, 200},
		{"one that cannot be read", one(`"c"`) + `,{"id":7}`, `"stored":1,"refused":[{"index":1,"id":"","why":"JSON`, 200},
		{"nothing else", `{"id":7}`, "none of 1 outcomes can be taken", 400},
	} {
		res, body := raw(t, h.URL, "POST", nopsapi.PathOutcomes(arn), key, nil, []byte(`{"schema_version":1,"outcomes":[`+tt.outcomes+`]}`))
		if res.StatusCode != tt.want || !strings.Contains(string(body), tt.part) {
			t.Errorf("%s: %d %s", tt.name, res.StatusCode, body)
		}
	}
	if all := must[[]nopsapi.Outcome](t)(person.Outcomes(t.Context(), arn, time.Time{})); len(all) != 3 {
		t.Errorf("%d outcomes are stored, want 3: %+v", len(all), all)
	}
}

func TestRightsizingThatIsRefused(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 1 << 20
	person, _ := installed(t, h.URL)
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	at := c.Now().Format(time.RFC3339)
	const ref = `"api_version":"apps/v1","kind":"Deployment","namespace":"n","name":"w"`
	wanted := `{"schema_version":1,"generation":1,"as_of":"` + at + `","workloads":[{` + ref + `,"level":"","containers":[]}]}`
	told := `{"schema_version":1,"outcomes":[{"id":"x","at":"` + at + `","workload":{` + ref + `},"pod":"p","kind":"oom"}]}`
	list := `{"schema_version":1,"seq":5,"as_of":"` + at + `","valid_until":"` + c.Now().Add(time.Hour).Format(time.RFC3339) + `","workloads":[]}`
	for _, tt := range []struct {
		name, method, path, key, body, part string
		want                                int
	}{
		{"a list", "PUT", nopsapi.PathRightsizedWorkloads(arn), key, wanted, `"generation":1`, 200},
		{"of a newer schema", "PUT", nopsapi.PathRightsizedWorkloads(arn), key, strings.Replace(wanted, `version":1`, `version":2`, 1), "schema_version 2", 400},
		{"no JSON", "PUT", nopsapi.PathRightsizedWorkloads(arn), key, "<html>", "JSON", 400},
		{"without a kind", "PUT", nopsapi.PathRightsizedWorkloads(arn), key, strings.Replace(wanted, "Deployment", "", 1), "kind", 400},
		{"too large", "PUT", nopsapi.PathRightsizedWorkloads(arn), key, wanted + strings.Repeat(" ", nopsapi.MaxRecommendations), "larger", 413},
		{"outcomes", "POST", nopsapi.PathOutcomes(arn), key, told, `"stored":1`, 200},
		{"the same again", "POST", nopsapi.PathOutcomes(arn), key, told, `"received_at"`, 200},
		{"no outcomes", "POST", nopsapi.PathOutcomes(arn), key, `{"schema_version":1,"outcomes":[]}`, "empty", 400},
		{"an ID that would lie", "POST", nopsapi.PathOutcomes(arn), key, strings.Replace(told, `"x"`, `"x|y"`, 1), "bar", 400},
		{"recommendations", "PUT", nopsapi.PathRecommendations(arn), adminKey, list, `"seq":5`, 200},
		{"without an end", "PUT", nopsapi.PathRecommendations(arn), adminKey, `{"schema_version":1,"seq":6,"as_of":"` + at + `","workloads":[]}`, "valid_until", 400},
		{"of a cluster that is not registered", "PUT", nopsapi.PathRecommendations(strings.Replace(arn, "demo", "other", 1)), adminKey, list, "no cluster", 404},
		{"without a key", "PUT", nopsapi.PathRecommendations(arn), "", list, "", 401},
		{"a page that is none", "GET", nopsapi.PathOutcomes(arn) + "?limit=501", adminKey, "", "limit", 400},
	} {
		res, body := raw(t, h.URL, tt.method, tt.path, tt.key, nil, []byte(tt.body))
		if res.StatusCode != tt.want || !strings.Contains(string(body), tt.part) {
			t.Errorf("%s: %d %.300s", tt.name, res.StatusCode, body)
		}
	}
	// What is unknown survives.
	for _, tt := range []struct{ method, path, key, body string }{
		{"PUT", nopsapi.PathRightsizedWorkloads(arn), key, strings.NewReplacer(`"generation":1`, `"generation":2,"newer":{"deep":[12345678901234567891]}`).Replace(wanted)},
		{"POST", nopsapi.PathOutcomes(arn), key, strings.NewReplacer(`"x"`, `"z","newer":{"deep":[12345678901234567891]}`).Replace(told)},
		{"PUT", nopsapi.PathRecommendations(arn), adminKey, strings.NewReplacer(`"seq":5`, `"seq":6,"newer":{"deep":[12345678901234567891]}`).Replace(list)},
	} {
		if res, body := raw(t, h.URL, tt.method, tt.path, tt.key, nil, []byte(tt.body)); res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", tt.path, res.StatusCode, body)
		}
		if _, body := raw(t, h.URL, "GET", tt.path, adminKey, nil, nil); !bytes.Contains(body, []byte(`"deep":[12345678901234567891]`)) {
			t.Errorf("%s: what is unknown is lost: %s", tt.path, body)
		}
	}
}

// TestTheClientMeetsSpoiledRecommendations: what the client makes of each way to spoil them. What it cannot tell from good ones the header
// must show: the number is lower, or CheckAt says so.
func TestTheClientMeetsSpoiledRecommendations(t *testing.T) {
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := &platform.Server{Now: c.Now, RatePerMinute: 1 << 20, FaultControl: true}
	seed(t, s)
	h := httptest.NewServer(s) // not held against the document: what it serves is not of this contract
	t.Cleanup(h.Close)
	person, _ := installed(t, h.URL)
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	agent := client(t, h.URL, key, func(o *nopsclient.Options) { o.Attempts = 1 })
	spoil := func(method, body string) int {
		t.Helper()
		res, _ := raw(t, h.URL, method, platform.RightsizingFaultPath, adminKey, nil, []byte(body))
		return res.StatusCode
	}
	must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 7)))
	good := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, ""))
	met := map[scenario.Fault]bool{}
	for _, tt := range []struct {
		fault scenario.Fault
		kind  nopsclient.Kind // of the error; "" is none
		part  string          // of the error, or of what CheckAt says
		seq   uint64
	}{
		{scenario.FaultStatus, nopsclient.KindServer, "503", 0}, {scenario.FaultDrop, nopsclient.KindUnreachable, "no answer", 0},
		{scenario.FaultStale, "", "has passed", 8}, {scenario.FaultFuture, "", "future", 8}, {scenario.FaultReplay, "", "", 6},
		{scenario.FaultSchema, nopsclient.KindProtocol, "schema_version 2", 0}, {scenario.FaultTruncated, nopsclient.KindProtocol, "JSON", 0},
		{scenario.FaultHTML, nopsclient.KindNotOffered, "a web page", 0}, {scenario.FaultNumbers, nopsclient.KindProtocol, "not of this contract", 0},
		{scenario.FaultHuge, nopsclient.KindProtocol, "larger than", 0}, {scenario.FaultEmpty, nopsclient.KindProtocol, "JSON", 0},
	} {
		met[tt.fault] = true
		numbers := 1
		if tt.fault == scenario.FaultNumbers {
			numbers = 7
		}
		for n := range numbers {
			if status := spoil("PUT", fmt.Sprintf(`{"fault":%q,"number":%d}`, tt.fault, n)); status != http.StatusOK {
				t.Fatalf("%s: %d", tt.fault, status)
			}
			got, err := agent.Recommendations(t.Context(), arn, good.ETag)
			if tt.kind != "" {
				wantKind(t, err, tt.kind)
				if !strings.Contains(err.Error(), tt.part) || got.Unchanged || got.ETag != "" {
					t.Errorf("%s %d: %v, %+v", tt.fault, n, err, got)
				}
				continue
			}
			if err != nil || got.Unchanged || got.Message.Seq != tt.seq {
				t.Fatalf("%s: %v, %+v", tt.fault, err, got)
			}
			if err := got.Message.CheckAt(c.Now()); (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
				t.Errorf("%s: %v, want %q", tt.fault, err, tt.part)
			}
			if half := got.Message.Workloads[0].Containers[0].CPU.Target; (tt.fault == scenario.FaultReplay) != (half == 0.25) {
				t.Errorf("%s says %v cores", tt.fault, half)
			}
		}
	}
	for _, f := range platform.RightsizingFaults() {
		if !met[f] {
			t.Errorf("no client meets the fault %s", f)
		}
	}
	if spoil("PUT", `{"fault":"slow"}`) != http.StatusBadRequest || spoil("PUT", `{"fault":"numbers","number":-1}`) != http.StatusBadRequest || spoil("PUT", `<`) != http.StatusBadRequest {
		t.Error("nonsense is taken")
	}
	if spoil("DELETE", "") != http.StatusOK {
		t.Error("it does not end")
	}
	if again := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, good.ETag)); !again.Unchanged {
		t.Errorf("after the end: %+v", again)
	}
}

// TestRecommendationsSurviveARestart: numbers go on, and so does what was spoiled.
func TestRecommendationsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.db")
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var etags []string
	for round := range 2 {
		store, err := platform.OpenSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := &platform.Server{Store: store, Now: c.Now, FaultControl: true}
		seed(t, s)
		h := httptest.NewServer(s)
		person, agent := installed(t, h.URL)
		if round == 0 {
			must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 7)))
			if err := agent.SendOutcomes(t.Context(), arn, outcomes(c.Now(), "a")); err != nil {
				t.Fatal(err)
			}
		}
		etags = append(etags, must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, "")).ETag)
		if err := agent.SendOutcomes(t.Context(), arn, outcomes(c.Now(), "a")); err != nil {
			t.Fatal(err)
		}
		if got := must[[]nopsapi.Outcome](t)(person.Outcomes(t.Context(), arn, time.Time{})); len(got) != 1 {
			t.Errorf("round %d: %d outcomes", round, len(got))
		}
		_, err = person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), 7))
		wantKind(t, err, nopsclient.KindConflict)
		h.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(etags[:1], etags[1:]) {
		t.Errorf("the same document has the tags %v", etags)
	}
}
