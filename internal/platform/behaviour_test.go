package platform_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// send delivers a beat of which every part can be chosen.
func send(t *testing.T, agent *nopsclient.Client, b nopsapi.Heartbeat) nopsapi.HeartbeatAck {
	t.Helper()
	return must[nopsapi.HeartbeatAck](t)(agent.SendHeartbeat(t.Context(), arn, b))
}

func seqs(t *testing.T, person *nopsclient.Client) string {
	t.Helper()
	var all []string
	for _, b := range must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, time.Time{})).Heartbeats {
		all = append(all, fmt.Sprintf("%s%d", b.BootID, b.Seq))
	}
	return strings.Join(all, " ")
}

func states(t *testing.T, person *nopsclient.Client) string {
	t.Helper()
	var all []string
	for _, c := range must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, time.Time{})).Latest.Components {
		all = append(all, c.Name+"="+c.State)
	}
	return strings.Join(all, " ")
}

func TestUnknownFieldsSurvive(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, _ := installed(t, h.URL)
		key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
		post := func(path, body string) {
			t.Helper()
			if res, answer := raw(t, h.URL, "POST", path, key, nil, []byte(body)); res.StatusCode >= 300 {
				t.Fatalf("%d %s", res.StatusCode, answer)
			}
		}
		at := c.Now().Format(time.RFC3339)
		head := `{"schema_version":1,"boot_id":"b","sent_at":"` + at + `","agent":{"name":"a","version":"1"},"release":{"name":"r","namespace":"n"},"kubernetes":{},"dropped_beats":0,`
		component := func(name, extra string) string {
			return `{"name":"` + name + `","kind":"Deployment","object":"nops/` + name + `","state":"ready","desired":1,"ready":1,"restarts":0,"since":"` + at + `"` + extra + `}`
		}
		post(nopsapi.PathHeartbeats(arn), head+`"seq":1,"observed_at":"`+at+`","full":true,"components":[`+component("one", `,"newer":{"deep":[12345678901234567890]}`)+`,`+component("two", "")+`]}`)
		c.Advance(time.Minute)
		later := c.Now().Format(time.RFC3339)
		post(nopsapi.PathHeartbeats(arn), head+`"seq":2,"observed_at":"`+later+`","full":false,"components":[`+component("two", `,"newest":true`)+`],"top":"level",
			"pipeline":{"state":"delivering","queue_bytes":0,"dropped_packets":0,"targets_up":1,"targets_total":1,"flavour":"mint"}}`)
		started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
		post(nopsapi.PathObservations(arn, started.ID), `{"nonce":"`+started.Nonce+`","from":"cluster","at":"`+at+`","pod":"p-1"}`)
		_, beats := raw(t, h.URL, "GET", nopsapi.PathHeartbeats(arn), adminKey, nil, nil)
		_, view := raw(t, h.URL, "GET", nopsapi.PathTest(arn, started.ID), adminKey, nil, nil)
		for _, want := range []struct {
			name   string
			answer []byte
			parts  []string
		}{
			{"beats", beats, []string{`"newer":{"deep":[12345678901234567890]}`, `"newest":true`, `"top":"level"`, `"flavour":"mint"`, `"seq":2`}},
			{"view", view, []string{`"newer":{"deep":[12345678901234567890]}`, `"newest":true`, `"flavour":"mint"`, `"pod":"p-1"`}},
		} {
			for _, part := range want.parts {
				if !bytes.Contains(want.answer, []byte(part)) {
					t.Errorf("%s: %s is lost: %s", want.name, part, want.answer)
				}
			}
		}
	})
}

func TestBeatsOfDifficultTimes(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		run          func(t *testing.T, c *clock, person, agent *nopsclient.Client)
	}{
		{"the same beat with another time", "boot and number identify it, so that a resend counts once", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			send(t, agent, beat(1, c.Now(), true))
			c.Advance(time.Minute)
			send(t, agent, beat(1, c.Now(), true))
			if got := seqs(t, person); got != "boot1" {
				t.Errorf("stored %s", got)
			}
		}},
		{"a queue after an outage", "none is lost, each counts at the time of its observation, and no gap is seen", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			start := c.Now()
			send(t, agent, beat(1, start, true, component("a", nopsapi.StateReady)))
			c.Advance(10 * time.Minute)
			for i := range uint64(9) {
				b := beat(i+2, start.Add(time.Duration(i+1)*time.Minute), false)
				b.SentAt = c.Now()
				if ack := send(t, agent, b); ack.Resync {
					t.Errorf("beat %d: resync without a gap", i+2)
				}
			}
			list := must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, start.Add(5*time.Minute)))
			if len(list.Heartbeats) != 5 || list.Heartbeats[0].Seq != 6 || !list.Heartbeats[0].ReceivedAt.Equal(c.Now()) {
				t.Errorf("since five minutes: %+v", list.Heartbeats)
			}
		}},
		{"a clock set back", "within a process numbers decide, or an hour of beats would be old news", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			ahead := beat(1, c.Now().Add(time.Hour), true, component("a", nopsapi.StateReady))
			if ack := send(t, agent, ahead); len(ack.Notices) != 1 || !strings.Contains(ack.Notices[0], "1h0m0s ahead") {
				t.Errorf("notices %q", ack.Notices)
			}
			c.Advance(time.Minute)
			if ack := send(t, agent, beat(2, c.Now(), false, component("a", nopsapi.StateFailed))); len(ack.Notices) != 0 {
				t.Errorf("notices of a right clock %q", ack.Notices)
			}
			if got := states(t, person); got != "a=failed" {
				t.Errorf("state %s", got)
			}
		}},
		{"a new process behind the old one's clock", "it is the newer one all the same", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			send(t, agent, beat(7, c.Now().Add(time.Hour), true, component("a", nopsapi.StateReady)))
			c.Advance(time.Minute)
			b := beat(1, c.Now(), true, component("a", nopsapi.StateFailed))
			b.BootID = "next"
			send(t, agent, b)
			if got := states(t, person); got != "a=failed" {
				t.Errorf("state %s", got)
			}
		}},
		{"late beats of a process that is gone", "they count, and change nothing", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			send(t, agent, beat(1, c.Now(), true, component("a", nopsapi.StateReady)))
			c.Advance(time.Minute)
			b := beat(1, c.Now(), true, component("a", nopsapi.StateFailed))
			b.BootID = "next"
			send(t, agent, b)
			c.Advance(time.Second)
			send(t, agent, beat(2, c.Now(), true, component("a", nopsapi.StateReady)))
			if got := states(t, person); got != "a=failed" {
				t.Errorf("state %s", got)
			}
			if got := seqs(t, person); got != "boot1 next1 boot2" {
				t.Errorf("stored %s", got)
			}
		}},
		{"a new process that begins with a part", "what it leaves out is not known", func(t *testing.T, c *clock, person, agent *nopsclient.Client) {
			send(t, agent, beat(1, c.Now(), true, component("a", nopsapi.StateReady)))
			b := beat(1, c.Now(), false)
			b.BootID = "next"
			if ack := send(t, agent, b); !ack.Resync {
				t.Error("no resync")
			}
			b.Seq, b.Full = 2, true
			if ack := send(t, agent, b); ack.Resync {
				t.Error("resync after a full beat")
			}
			if got := states(t, person); got != "" {
				t.Errorf("state %s, want what the full beat says: nothing", got)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			each(t, func(t *testing.T, store platform.Store) {
				_, c, h := serve(t, store)
				person, agent := installed(t, h.URL)
				tt.run(t, c, person, agent)
			})
		})
	}
}

func TestManyBeatsComeInPages(t *testing.T) {
	_, c, h := serve(t, nil)
	_, agent := installed(t, h.URL)
	for i := range uint64(7) {
		c.Advance(time.Second)
		send(t, agent, beat(i+1, c.Now(), true))
	}
	var got []uint64
	next := ""
	for pages := 0; ; pages++ {
		_, body := raw(t, h.URL, "GET", nopsapi.PathHeartbeats(arn)+"?limit=3&after="+next, adminKey, nil, nil)
		var list nopsapi.HeartbeatList
		if err := nopsapi.Decode(body, &list); err != nil || pages > 3 {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, b := range list.Heartbeats {
			got = append(got, b.Seq)
		}
		if next = list.Next; next == "" {
			break
		}
	}
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("pages hold %v", got)
	}
	for _, query := range []string{"limit=0", "limit=2001", "limit=x", "after=%20"} {
		if res, _ := raw(t, h.URL, "GET", nopsapi.PathHeartbeats(arn)+"?"+query, adminKey, nil, nil); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", query, res.StatusCode)
		}
	}
}

func TestWarningsDoNotFlap(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		n := uint64(0)
		tell := func(state string, pipeline string) []nopsapi.Warning {
			t.Helper()
			n++
			c.Advance(30 * time.Second)
			b := beat(n, c.Now(), true, component("vmagent", state))
			b.Pipeline = &nopsapi.PipelineStatus{State: pipeline}
			send(t, agent, b)
			return must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, "")).Warnings
		}
		for range 5 { // a crash loop: it fails, it comes up, it seems well
			tell(nopsapi.StateDegraded, nopsapi.PipelineBlocked)
			tell(nopsapi.StateProgressing, nopsapi.PipelineStarting)
			tell(nopsapi.StateReady, nopsapi.PipelineDelivering)
		}
		all := tell(nopsapi.StateReady, nopsapi.PipelineDelivering)
		if len(all) != 2 || all[0].State != nopsapi.WarningClosed || all[1].State != nopsapi.WarningClosed {
			t.Fatalf("a flapping component and pipeline made %+v", all)
		}
		tell(nopsapi.StateFailed, nopsapi.PipelineDelivering)
		if all := tell(nopsapi.StateProgressing, nopsapi.PipelineUnknown); all[0].State != nopsapi.WarningOpen {
			t.Errorf("what restarts is not well yet: %+v", all)
		}
		id := all[0].ID
		must[nopsapi.Warning](t)(person.AcknowledgeWarning(t.Context(), arn, id))
		tell(nopsapi.StateReady, nopsapi.PipelineDelivering)
		if all := tell(nopsapi.StateDegraded, nopsapi.PipelineDelivering); all[0].ID != id || all[0].State != nopsapi.WarningOpen || all[0].AcknowledgedAt == nil || all[0].ClosedAt != nil || all[0].Message != "vmagent is degraded" {
			t.Errorf("open again it is not the same warning: %+v", all[0])
		}
		tell(nopsapi.StateReady, nopsapi.PipelineDelivering)
		c.Advance(nopsapi.ReopenWithin)
		if all := tell(nopsapi.StateFailed, nopsapi.PipelineDelivering); len(all) < 3 || all[len(all)-1].ID == id || all[len(all)-1].State != nopsapi.WarningOpen {
			t.Errorf("much later it is another warning: %+v", all)
		}
		n++
		send(t, agent, beat(n, c.Now(), true))
		if open := must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, nopsapi.WarningOpen)).Warnings; len(open) != 0 {
			t.Errorf("the component is gone, its warning is not: %+v", open)
		}
		_, err := person.AcknowledgeWarning(t.Context(), arn, "warn-none")
		wantKind(t, err, nopsclient.KindNotFound)
	})
}

// TestStatesOfANewerAgent: what this platform does not know it keeps, and neither opens nor closes a warning for.
func TestStatesOfANewerAgent(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		n := uint64(0)
		tell := func(a, b, pipeline string) string {
			t.Helper()
			n++
			c.Advance(30 * time.Second)
			said := beat(n, c.Now(), true, component("a", a), component("b", b))
			said.Pipeline = &nopsapi.PipelineStatus{State: pipeline}
			send(t, agent, said)
			var open []string
			for _, w := range must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, nopsapi.WarningOpen)).Warnings {
				open = append(open, strings.TrimSuffix(w.Kind+" "+w.Component, " "))
			}
			return strings.Join(open, ", ")
		}
		for i, step := range []struct{ reason, a, b, pipeline, want string }{
			{"nothing known to be wrong", "splendid", nopsapi.StateReady, "leaking", ""},
			{"the rest of the beat counts", "splendid", nopsapi.StateFailed, nopsapi.PipelineBlocked, "component-failing b, pipeline-broken"},
			{"nothing known to be well", nopsapi.StateReady, "splendid", "leaking", "component-failing b, pipeline-broken"},
			{"well again", nopsapi.StateReady, nopsapi.StateReady, nopsapi.PipelineDelivering, ""},
		} {
			if got := tell(step.a, step.b, step.pipeline); got != step.want {
				t.Errorf("step %d, %s: open %q, want %q", i, step.reason, got, step.want)
			}
		}
		tell("splendid", nopsapi.StateIdle, "leaking")
		latest := must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, time.Time{})).Latest
		if got := states(t, person); got != "a=splendid b=idle" || latest.Pipeline.State != "leaking" {
			t.Errorf("kept: %s, pipeline %s", got, latest.Pipeline.State)
		}
	})
}

func TestSilenceIsNotHeldAgainstAgentsWhileThePlatformWasAway(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		_, agent := installed(t, h.URL)
		send(t, agent, beat(1, c.Now(), true))
		c.Advance(20 * time.Minute) // the platform is gone, and comes back with what it stored
		back := &platform.Server{Store: store, Now: c.Now}
		again := httptest.NewServer(back)
		t.Cleanup(again.Close)
		person := client(t, again.URL, adminKey)
		open := func() int {
			return len(must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, nopsapi.WarningOpen)).Warnings)
		}
		if n := open(); n != 0 {
			t.Fatalf("%d warnings for the time nobody listened", n)
		}
		c.Advance(3 * time.Minute)
		if n := open(); n != 0 {
			t.Fatalf("%d warnings after exactly three intervals", n)
		}
		c.Advance(time.Second)
		if n := open(); n != 1 {
			t.Fatalf("%d warnings after three beats were missed", n)
		}
	})
}

// TestRunFindsSilence needs no request: the host's loop looks.
func TestRunFindsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &platform.Memory{}
		s := &platform.Server{Store: store}
		seed(t, s)
		call := func(key, method, path string, body any) []byte {
			t.Helper()
			data, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequestWithContext(t.Context(), method, path, bytes.NewReader(data))
			r.Header.Set(nopsapi.KeyHeader, key)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code >= 300 {
				t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
			return w.Body.Bytes()
		}
		call(adminKey, "PUT", nopsapi.PathCluster(arn), nil)
		var key nopsapi.AgentKey
		if err := nopsapi.Decode(call(adminKey, "POST", nopsapi.PathAgentKey(arn), nil), &key); err != nil {
			t.Fatal(err)
		}
		call(key.Key, "POST", nopsapi.PathHeartbeats(arn), beat(1, time.Now(), true))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx, time.Second) }()
		time.Sleep(10 * time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var list nopsapi.WarningList
		if err := nopsapi.Decode(call(adminKey, "GET", nopsapi.PathWarnings(arn), nil), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Warnings) != 1 || list.Warnings[0].Kind != nopsapi.WarningMissedHeartbeats {
			t.Fatalf("warnings %+v", list.Warnings)
		}
		if after := time.Since(list.Warnings[0].OpenedAt); after < 6*time.Minute || after > 7*time.Minute {
			t.Errorf("it opened %s ago, want shortly after three minutes of silence", after)
		}
	})
}

func TestWritesHappenOnce(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, _ := installed(t, h.URL)
		post := func(key, path, idempotency, body string) (int, string) {
			t.Helper()
			res, answer := raw(t, h.URL, "POST", path, key, map[string]string{nopsapi.IdempotencyHeader: idempotency}, []byte(body))
			return res.StatusCode, string(answer)
		}
		status, first := post(adminKey, nopsapi.PathAPIKeys(), "one", `{"scopes":["admin"]}`)
		if status != http.StatusCreated {
			t.Fatalf("%d %s", status, first)
		}
		if status, again := post(adminKey, nopsapi.PathAPIKeys(), "one", `{"scopes":["admin"]}`); status != http.StatusCreated || again != first {
			t.Errorf("repeated: %d %s, want %s", status, again, first)
		}
		if status, body := post(adminKey, nopsapi.PathAPIKeys(), "one", `{"scopes":["read"]}`); status != http.StatusConflict {
			t.Errorf("another body: %d %s", status, body)
		}
		if status, body := post(adminKey, nopsapi.PathAgentKey(arn), "one", `{"scopes":["admin"]}`); status != http.StatusConflict {
			t.Errorf("another path: %d %s", status, body)
		}
		var second nopsapi.APIKeyCreated
		if err := nopsapi.Decode([]byte(first), &second); err != nil {
			t.Fatal(err)
		}
		if status, other := post(second.Key, nopsapi.PathAPIKeys(), "one", `{"scopes":["admin"]}`); status != http.StatusCreated || other == first {
			t.Errorf("the idempotency key of another API key: %d %s", status, other)
		}
		if status, _ := post(adminKey, nopsapi.PathAPIKeys(), strings.Repeat("x", nopsapi.MaxIdempotencyKey+1), `{"scopes":["read"]}`); status != http.StatusBadRequest {
			t.Errorf("a long idempotency key: %d", status)
		}
		// Refusals are not kept: what was wrong may be mended.
		if status, _ := post(adminKey, nopsapi.PathAPIKeys(), "two", `{"scopes":[]}`); status != http.StatusBadRequest {
			t.Errorf("no scopes: %d", status)
		}
		if status, _ := post(adminKey, nopsapi.PathAPIKeys(), "two", `{"scopes":["read"]}`); status != http.StatusCreated {
			t.Errorf("mended: %d", status)
		}
		c.Advance(nopsapi.ReplayLifetime + time.Second)
		if status, later := post(adminKey, nopsapi.PathAPIKeys(), "one", `{"scopes":["read"]}`); status != http.StatusCreated || later == first {
			t.Errorf("a day later: %d %s", status, later)
		}
		if n := len(must[nopsapi.APIKeyList](t)(person.ListAPIKeys(t.Context())).APIKeys); n != 6 {
			t.Errorf("%d keys, want the seeded one, the agents' and four that were created", n)
		}
	})
}

func TestALostAnswerMakesNoSecondKey(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, _, h := serve(t, store)
		person, _ := installed(t, h.URL)
		before := len(must[nopsapi.APIKeyList](t)(person.ListAPIKeys(t.Context())).APIKeys)
		s.Faults.Set(platform.Fault{DropAnswer: true, Times: 2, Method: "POST"})
		key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn))
		must[nopsapi.WhoAmI](t)(client(t, h.URL, key.Key).WhoAmI(t.Context()))
		if after := len(must[nopsapi.APIKeyList](t)(person.ListAPIKeys(t.Context())).APIKeys); after != before+1 {
			t.Errorf("%d keys were made, want 1", after-before)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		_, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		var group sync.WaitGroup
		answers := make([]string, 16)
		for i := range answers {
			group.Go(func() {
				_, body := raw(t, h.URL, "POST", nopsapi.PathAPIKeys(), adminKey, map[string]string{nopsapi.IdempotencyHeader: "same"}, []byte(`{"scopes":["read"]}`))
				answers[i] = string(body)
			})
			group.Go(func() {
				if _, err := agent.SendHeartbeat(t.Context(), arn, beat(uint64(i+1), c.Now(), true, component("a", nopsapi.StateFailed))); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() {
				if _, err := person.Connectivity(t.Context(), arn); err != nil {
					t.Error(err)
				}
			})
			group.Go(func() {
				if _, err := person.RegisterCluster(t.Context(), arn); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, a := range answers {
			if a != answers[0] {
				t.Fatalf("one write, two answers: %s and %s", answers[0], a)
			}
		}
		if n := len(must[nopsapi.HeartbeatList](t)(person.Heartbeats(t.Context(), arn, time.Time{})).Heartbeats); n != len(answers) {
			t.Errorf("%d beats stored, want %d", n, len(answers))
		}
		if w := must[nopsapi.WarningList](t)(person.Warnings(t.Context(), arn, "")).Warnings; len(w) != 1 {
			t.Errorf("%d warnings of one component: %+v", len(w), w)
		}
	})
}

// TestScopes tries every operation with every scope.
func TestScopes(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 1 << 20
	person, agent := installed(t, h.URL)
	send(t, agent, beat(1, c.Now(), true, component("a", nopsapi.StateFailed)))
	started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
	clients := map[nopsapi.Scope]*nopsclient.Client{nopsapi.ScopeAdmin: person, nopsapi.ScopeAgent: agent}
	for _, scope := range []nopsapi.Scope{nopsapi.ScopeInstall, nopsapi.ScopeRead} {
		clients[scope] = client(t, h.URL, must[nopsapi.APIKeyCreated](t)(person.CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{scope}})).Key)
	}
	for _, tt := range []struct {
		name    string
		call    func(c *nopsclient.Client) error
		allowed string
	}{
		{"whoami", func(c *nopsclient.Client) error { _, err := c.WhoAmI(t.Context()); return err }, "admin install agent read"},
		{"list keys", func(c *nopsclient.Client) error { _, err := c.ListAPIKeys(t.Context()); return err }, "admin"},
		{"create key", func(c *nopsclient.Client) error {
			_, err := c.CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{nopsapi.ScopeAdmin}})
			return err
		}, "admin"},
		{"rotate key", func(c *nopsclient.Client) error { _, err := c.RotateAPIKey(t.Context(), "key-none"); return err }, "admin"},
		{"revoke key", func(c *nopsclient.Client) error { return c.RevokeAPIKey(t.Context(), "key-none") }, "admin"},
		{"list clusters", func(c *nopsclient.Client) error { _, err := c.ListClusters(t.Context()); return err }, "admin install agent read"},
		{"public clusters", func(c *nopsclient.Client) error { _, err := c.PublicClusters(t.Context(), 1); return err }, "admin install agent read"},
		{"register", func(c *nopsclient.Client) error { _, err := c.RegisterCluster(t.Context(), arn); return err }, "admin install"},
		{"cluster", func(c *nopsclient.Client) error { _, err := c.Cluster(t.Context(), arn); return err }, "admin install agent read"},
		{"install config", func(c *nopsclient.Client) error { _, err := c.InstallConfig(t.Context(), arn); return err }, "admin install"},
		{"agent key", func(c *nopsclient.Client) error { _, err := c.CreateAgentKey(t.Context(), arn); return err }, "admin install"},
		{"beat", func(cl *nopsclient.Client) error {
			_, err := cl.SendHeartbeat(t.Context(), arn, beat(2, c.Now(), true))
			return err
		}, "agent"},
		{"beats", func(c *nopsclient.Client) error { _, err := c.Heartbeats(t.Context(), arn, time.Time{}); return err }, "admin install agent read"},
		{"warnings", func(c *nopsclient.Client) error { _, err := c.Warnings(t.Context(), arn, ""); return err }, "admin install agent read"},
		{"acknowledge", func(c *nopsclient.Client) error {
			_, err := c.AcknowledgeWarning(t.Context(), arn, "warn-none")
			return err
		}, "admin install"},
		{"view", func(c *nopsclient.Client) error { _, err := c.Connectivity(t.Context(), arn); return err }, "admin install agent read"},
		{"start test", func(c *nopsclient.Client) error { _, err := c.StartConnectivityTest(t.Context(), arn); return err }, "admin install"},
		{"view of test", func(c *nopsclient.Client) error {
			_, err := c.ConnectivityTest(t.Context(), arn, started.ID)
			return err
		}, "admin install agent read"},
		{"observe", func(c *nopsclient.Client) error {
			_, err := c.Observe(t.Context(), arn, started.ID, started.Nonce, nopsapi.FromHere)
			return err
		}, "admin install agent"},
		{"market", func(c *nopsclient.Client) error { _, err := c.Market(t.Context(), arn, ""); return err }, "admin install agent read"},
		{"commitments", func(c *nopsclient.Client) error { _, err := c.Commitments(t.Context(), arn, ""); return err }, "admin install agent read"},
		{"publish market", func(cl *nopsclient.Client) error {
			_, err := cl.PublishMarket(t.Context(), arn, market(c.Now(), 1))
			return err
		}, "admin"},
		{"publish commitments", func(cl *nopsclient.Client) error {
			_, err := cl.PublishCommitments(t.Context(), arn, commitments(c.Now(), 1))
			return err
		}, "admin"},
		{"inventory", func(c *nopsclient.Client) error { _, err := c.Inventory(t.Context(), arn); return err }, "admin install agent read"},
		{"report inventory", func(cl *nopsclient.Client) error {
			_, err := cl.ReportInventory(t.Context(), arn, inventory(c.Now()))
			return err
		}, "agent"},
		{"records", func(c *nopsclient.Client) error { _, err := c.Records(t.Context(), arn, time.Time{}); return err }, "admin install agent read"},
		{"send records", func(cl *nopsclient.Client) error {
			_, err := cl.SendRecords(t.Context(), arn, records(c.Now(), "a"))
			return err
		}, "agent"},
	} {
		for scope, c := range clients {
			err := tt.call(c)
			if forbidden := nopsclient.IsKind(err, nopsclient.KindForbidden); forbidden == slices.Contains(strings.Fields(tt.allowed), string(scope)) {
				t.Errorf("%s with scope %s: %v; allowed: %s", tt.name, scope, err, tt.allowed)
			}
		}
	}
}

func TestAgentKeysAreOfOneCluster(t *testing.T) {
	_, c, h := serve(t, nil)
	person, agent := installed(t, h.URL)
	const second = "arn:aws:eks:us-east-1:123456789012:cluster/second"
	must[nopsapi.Cluster](t)(person.RegisterCluster(t.Context(), second))
	for name, call := range map[string]func() error{
		"cluster":    func() error { _, err := agent.Cluster(t.Context(), second); return err },
		"heartbeat":  func() error { _, err := agent.SendHeartbeat(t.Context(), second, beat(1, c.Now(), true)); return err },
		"heartbeats": func() error { _, err := agent.Heartbeats(t.Context(), second, time.Time{}); return err },
		"view":       func() error { _, err := agent.Connectivity(t.Context(), second); return err },
		"market":     func() error { _, err := agent.Market(t.Context(), second, ""); return err },
		"inventory":  func() error { _, err := agent.ReportInventory(t.Context(), second, inventory(c.Now())); return err },
		"records":    func() error { _, err := agent.SendRecords(t.Context(), second, records(c.Now(), "a")); return err },
	} {
		if err := call(); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
			t.Errorf("%s of another cluster: %v", name, err)
		}
	}
	if list := must[nopsapi.ClusterList](t)(agent.ListClusters(t.Context())); len(list.Clusters) != 1 || list.Clusters[0].ARN != arn {
		t.Errorf("an agent's clusters: %+v", list.Clusters)
	}
	if list := must[[]nopsapi.PublicCluster](t)(agent.PublicClusters(t.Context(), 1)); len(list) != 1 {
		t.Errorf("an agent's public clusters: %+v", list)
	}
}

func TestPublicClustersOfSomeDays(t *testing.T) {
	_, c, h := serve(t, nil)
	person, agent := installed(t, h.URL)
	c.Advance(11 * 24 * time.Hour)
	if list := must[[]nopsapi.PublicCluster](t)(person.PublicClusters(t.Context(), 10)); len(list) != 0 {
		t.Errorf("not heard of for eleven days: %+v", list)
	}
	send(t, agent, beat(1, c.Now(), true))
	if list := must[[]nopsapi.PublicCluster](t)(person.PublicClusters(t.Context(), 10)); len(list) != 1 || list[0].Name != "demo" {
		t.Errorf("heard of just now: %+v", list)
	}
	for _, path := range []string{nopsapi.PublicClustersPath + "?days=none", nopsapi.PublicClustersPath + "?days=0"} {
		if res, _ := raw(t, h.URL, "GET", path, adminKey, nil, nil); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if res, _ := raw(t, h.URL, "GET", nopsapi.PublicClustersPath+"below", adminKey, nil, nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("below the public list: %d", res.StatusCode)
	}
}

func TestHosts(t *testing.T) {
	s := &platform.Server{}
	for name, err := range map[string]error{
		"a customer without digits": s.AddCustomer(t.Context(), platform.Customer{ID: "acme"}),
		"a key of another customer": s.AddKey(t.Context(), "4242", "x", otherKey, nopsapi.ScopeRead),
		"a key of another form":     s.AddKey(t.Context(), "4242", "x", "4242.short", nopsapi.ScopeRead),
	} {
		if err == nil || strings.Contains(err.Error(), otherKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", platform.Customer{ID: "4242", DatadogAPIKey: "canary"}, platform.Customer{ID: "4242", DatadogAPIKey: "canary"}, platform.Customer{ID: "4242", DatadogAPIKey: "canary"}); strings.Contains(text, "canary") {
		t.Errorf("a customer shows a credential: %s", text)
	}
	// The zero value serves.
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", nopsapi.PathWhoAmI(), nil))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("the zero value answers %d", w.Code)
	}
}

func TestBodies(t *testing.T) {
	_, _, h := serve(t, nil)
	person, _ := installed(t, h.URL)
	agentKey := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	for _, tt := range []struct {
		name     string
		encoding string
		body     []byte
		want     int
	}{
		{"not gzip", "gzip", []byte("plain"), 400},
		{"damaged gzip", "gzip", zip(t, []byte("{}"))[:12], 400},
		{"a bomb", "gzip", zip(t, make([]byte, nopsapi.MaxBody+1)), 413},
		{"larger than a beat may be, compressed", "gzip", make([]byte, nopsapi.MaxHeartbeatCompressed+1), 400}, // read, and found to be no gzip
		{"too large compressed", "gzip", make([]byte, nopsapi.MaxBody+1), 413},
		{"too large", "", make([]byte, nopsapi.MaxBody+1), 413},
		{"another encoding", "br", []byte("x"), 400},
		{"not JSON", "", []byte("<html>"), 400},
		{"data after the document", "", []byte(`{"scopes":["read"]}{}`), 400},
	} {
		header := map[string]string{}
		if tt.encoding != "" {
			header["Content-Encoding"] = tt.encoding
		}
		if res, body := raw(t, h.URL, "POST", nopsapi.PathAPIKeys(), adminKey, header, tt.body); res.StatusCode != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, res.StatusCode, body, tt.want)
		}
	}
	// Each route has a limit of its own: a beat's is small, and what takes more is not bound by it.
	for size, want := range map[int]int{nopsapi.MaxHeartbeatCompressed: 400, nopsapi.MaxHeartbeatCompressed + 1: 413} {
		if res, body := raw(t, h.URL, "POST", nopsapi.PathHeartbeats(arn), agentKey, map[string]string{"Content-Encoding": "gzip"}, make([]byte, size)); res.StatusCode != want {
			t.Errorf("a beat of %d bytes, compressed: %d %s, want %d", size, res.StatusCode, body, want)
		}
	}
	packed := zip(t, []byte(`{"scopes":["read"],"unknown":"`+noise(nopsapi.MaxHeartbeatCompressed*2)+`"}`))
	if len(packed) <= nopsapi.MaxHeartbeatCompressed {
		t.Fatalf("only %d bytes: the test is wrong", len(packed))
	}
	if res, body := raw(t, h.URL, "POST", nopsapi.PathAPIKeys(), adminKey, map[string]string{"Content-Encoding": "gzip"}, packed); res.StatusCode != http.StatusCreated {
		t.Errorf("a request of %d bytes, compressed: %d %s", len(packed), res.StatusCode, body)
	}
}

// noise is text that does not compress well, the same each time.
func noise(n int) string {
	out, x := make([]byte, n), uint64(2654435761)
	for i := range out {
		x = x*6364136223846793005 + 1442695040888963407
		out[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[x>>58]
	}
	return string(out)
}

func zip(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestETags(t *testing.T) {
	_, _, h := serve(t, nil)
	res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil)
	tag := res.Header.Get("ETag")
	for header, want := range map[string]int{tag: 304, "W/" + tag: 304, `"other", ` + tag: 304, "*": 304, `"other"`: 200, "": 200} {
		res, body := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, map[string]string{"If-None-Match": header}, nil)
		if res.StatusCode != want || want == 304 && len(body) != 0 {
			t.Errorf("If-None-Match %s: %d %s, want %d", header, res.StatusCode, body, want)
		}
	}
}

func TestRatesTellWhenToComeBack(t *testing.T) {
	s, c, h := serve(t, nil)
	s.RatePerMinute = 6
	for range 6 {
		raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil)
	}
	res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "10" {
		t.Fatalf("%d, Retry-After %q, want 429 and 10", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), otherKey, nil, nil); res.StatusCode != http.StatusOK {
		t.Errorf("another key pays for it: %d", res.StatusCode)
	}
	c.Advance(10 * time.Second)
	for _, want := range []int{200, 429} {
		if res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil); res.StatusCode != want {
			t.Errorf("ten seconds later: %d, want %d", res.StatusCode, want)
		}
	}
}

func TestFaultControl(t *testing.T) {
	s := &platform.Server{FaultControl: true}
	seed(t, s)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	reader := must[nopsapi.APIKeyCreated](t)(client(t, h.URL, adminKey).CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{nopsapi.ScopeInstall}})).Key
	plan := `{"faults":[{"prefix":"/svc/","method":"GET","status":503,"retry_after_seconds":2.5,"times":3}],"clock_offset_seconds":-600}`
	for _, tt := range []struct {
		name, method, key, body string
		want                    int
		part                    string
	}{
		{"not everybody's", "PUT", reader, plan, 403, ""},
		{"not anybody's", "PUT", "", plan, 401, ""},
		{"set", "PUT", adminKey, plan, 200, `"status":503`},
		{"read, past all faults", "GET", adminKey, "", 200, `"clock_offset_seconds":-600`},
		{"nonsense", "PUT", adminKey, `{"faults":[{"status":200}]}`, 400, "fault 0"},
	} {
		res, body := raw(t, h.URL, tt.method, platform.FaultsPath, tt.key, nil, []byte(tt.body))
		if res.StatusCode != tt.want || !strings.Contains(string(body), tt.part) {
			t.Errorf("%s: %d %s", tt.name, res.StatusCode, body)
		}
	}
	res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "3" {
		t.Errorf("struck: %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if at, err := http.ParseTime(res.Header.Get("Date")); err != nil || time.Since(at) < 9*time.Minute {
		t.Errorf("Date %s: %v", res.Header.Get("Date"), err)
	}
	if res, body := raw(t, h.URL, "DELETE", platform.FaultsPath, adminKey, nil, nil); res.StatusCode != http.StatusOK || string(body) != `{"faults":[]}` {
		t.Errorf("ended: %d %s", res.StatusCode, body)
	}
	if res, _ := raw(t, h.URL, "GET", nopsapi.PathWhoAmI(), adminKey, nil, nil); res.StatusCode != http.StatusOK {
		t.Errorf("after the end: %d", res.StatusCode)
	}
	_, _, plain := serve(t, nil)
	if res, _ := raw(t, plain.URL, "GET", platform.FaultsPath, adminKey, nil, nil); res.StatusCode != http.StatusNotFound {
		t.Errorf("where the host does not want it: %d", res.StatusCode)
	}
}

func TestPrune(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		s, c, h := serve(t, store)
		person, agent := installed(t, h.URL)
		send(t, agent, beat(1, c.Now(), true, component("a", nopsapi.StateFailed)))
		send(t, agent, beat(2, c.Now(), true))
		started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
		count := func() int {
			n := 0
			for _, kind := range []platform.Kind{"heartbeat", "beat", "warning", "test", "replay"} {
				docs, err := store.List(t.Context(), kind, "", "", 0)
				if err != nil {
					t.Fatal(err)
				}
				n += len(docs)
			}
			return n
		}
		before := count()
		if err := s.Prune(t.Context()); err != nil || count() != before {
			t.Fatalf("fresh documents are gone: %v, %d of %d", err, count(), before)
		}
		c.Advance(31 * 24 * time.Hour)
		send(t, agent, beat(3, c.Now(), true))
		if err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 2 {
			t.Errorf("%d documents are left, want the new beat and its number", n)
		}
		if got := seqs(t, person); got != "boot3" {
			t.Errorf("beats left: %s", got)
		}
		_, err := person.ConnectivityTest(t.Context(), arn, started.ID)
		wantKind(t, err, nopsclient.KindNotFound)
		must[nopsapi.Cluster](t)(person.Cluster(t.Context(), arn))
	})
}

// TestSQLiteSurvivesARestart goes through everything that must be there after the process was gone.
func TestSQLiteSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b%c?d.db")
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	up := func(t *testing.T) (host string, down func()) {
		store, err := platform.OpenSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := &platform.Server{Store: store, Now: c.Now}
		seed(t, s)
		h := httptest.NewServer(s)
		return h.URL, func() {
			h.Close()
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	host, down := up(t)
	person, agent := installed(t, host)
	who := must[nopsapi.WhoAmI](t)(agent.WhoAmI(t.Context()))
	send(t, agent, beat(1, c.Now(), true, component("a", nopsapi.StateFailed)))
	started := must[nopsapi.ConnectivityTest](t)(person.StartConnectivityTest(t.Context(), arn))
	must[nopsapi.Observation](t)(agent.Observe(t.Context(), arn, started.ID, started.Nonce, nopsapi.FromCluster))
	key := func(host string) string {
		_, body := raw(t, host, "POST", nopsapi.PathAgentKey(arn), adminKey, map[string]string{nopsapi.IdempotencyHeader: "once"}, nil)
		return string(body)
	}
	keyBefore := key(host)
	before := must[nopsapi.ConnectivityView](t)(person.ConnectivityTest(t.Context(), arn, started.ID))
	down()

	host, down = up(t)
	defer down()
	person = client(t, host, adminKey)
	after := must[nopsapi.ConnectivityView](t)(person.ConnectivityTest(t.Context(), arn, started.ID))
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after the restart:\n%s", diff)
	}
	if got := key(host); got != keyBefore {
		t.Error("a write that is repeated after the restart happens again")
	}
	if keys := must[nopsapi.APIKeyList](t)(person.ListAPIKeys(t.Context())).APIKeys; !slices.ContainsFunc(keys, func(k nopsapi.APIKey) bool { return k.ID == who.KeyID }) {
		t.Error("the agents' key is gone")
	}
}

// TestTheStoreHoldsNoKey looks for keys in the files of a store, and for a planted text to show that it can find one.
func TestTheStoreHoldsNoKey(t *testing.T) {
	dir := t.TempDir()
	store, err := platform.OpenSQLite(t.Context(), filepath.Join(dir, "platform.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := &platform.Server{Store: store}
	seed(t, s)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	person := client(t, h.URL, adminKey)
	must[nopsapi.Cluster](t)(person.RegisterCluster(t.Context(), arn))
	agent := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn))
	made := must[nopsapi.APIKeyCreated](t)(person.CreateAPIKey(t.Context(), nopsapi.NewAPIKey{Name: "planted-name", Scopes: []nopsapi.Scope{nopsapi.ScopeRead}}))
	rotated := must[nopsapi.APIKeyCreated](t)(person.RotateAPIKey(t.Context(), made.ID))
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	if !bytes.Contains(all, []byte("planted-name")) {
		t.Fatal("the test cannot see what is stored")
	}
	for name, secret := range map[string]string{"seeded": adminKey, "agent's": agent.Key, "made": made.Key, "rotated": rotated.Key} {
		_, random, _ := strings.Cut(secret, ".")
		if bytes.Contains(all, []byte(random)) {
			t.Errorf("the %s key is in the store in the clear", name)
		}
	}
}

func TestSQLiteRefusesAnotherLayout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "platform.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE documents (x); PRAGMA user_version = 99`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := platform.OpenSQLite(t.Context(), path); err == nil || !strings.Contains(err.Error(), "layout 99") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// TestStores holds both stores to the same behaviour.
func TestStores(t *testing.T) {
	each(t, func(t *testing.T, store platform.Store) {
		ctx := t.Context()
		put := func(parent, id, text string) platform.Change {
			return platform.Change{Kind: "k", Parent: parent, Document: platform.Document{ID: id, Data: []byte(text)}}
		}
		if err := store.Write(ctx, put("a", "2", "two"), put("a", "1", "one"), put("b", "3", "three"), put("a", "4", "four")); err != nil {
			t.Fatal(err)
		}
		ids := func(parent, after string, limit int) string {
			docs, err := store.List(ctx, "k", parent, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, d := range docs {
				got += d.ID
			}
			return got
		}
		for _, tt := range []struct {
			parent, after string
			limit         int
			want          string
		}{{"", "", 0, "1234"}, {"a", "", 0, "124"}, {"a", "1", 0, "24"}, {"a", "", 2, "12"}, {"", "2", 1, "3"}, {"c", "", 0, ""}} {
			if got := ids(tt.parent, tt.after, tt.limit); got != tt.want {
				t.Errorf("%+v: %s", tt, got)
			}
		}
		if err := store.Write(ctx, put("a", "1", "uno"), put("a", "2", "")); err != nil {
			t.Fatal(err)
		}
		if data, err := store.Get(ctx, "k", "1"); err != nil || string(data) != "uno" {
			t.Errorf("%s, %v", data, err)
		}
		if _, err := store.Get(ctx, "k", "2"); !errors.Is(err, platform.ErrNoDocument) {
			t.Errorf("deleted: %v", err)
		}
		if _, err := store.Get(ctx, "other", "1"); !errors.Is(err, platform.ErrNoDocument) {
			t.Errorf("another drawer: %v", err)
		}
	})
}

// broken fails from some moment on.
type broken struct {
	platform.Store
	mu  sync.Mutex
	err error
}

func (b *broken) fail(err error) { b.mu.Lock(); defer b.mu.Unlock(); b.err = err }

func (b *broken) Write(ctx context.Context, changes ...platform.Change) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	return b.Store.Write(ctx, changes...)
}

func TestABrokenStoreIsLoggedAndNotTold(t *testing.T) {
	store := &broken{Store: &platform.Memory{}}
	s, _, h := serve(t, store)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := client(t, h.URL, adminKey, func(o *nopsclient.Options) { o.Attempts = 1 })
	store.fail(errors.New("disk on fire"))
	_, err := c.RegisterCluster(t.Context(), arn)
	wantKind(t, err, nopsclient.KindServer)
	var e *nopsclient.Error
	if !errors.As(err, &e) || e.RequestID == "" || strings.Contains(err.Error(), "fire") {
		t.Errorf("told: %v", err)
	}
	h.Close()
	for _, part := range []string{"disk on fire", e.RequestID} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("%q is not in the log: %s", part, log.String())
		}
	}
	if strings.Contains(log.String(), adminKey) {
		t.Errorf("the key is in the log: %s", log.String())
	}
}
