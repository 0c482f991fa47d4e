package platform_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/analyser"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// usage is a metrics store with one pod, which uses half a core and 100 MB, for some minutes until now.
type usage struct {
	c *clock

	mu      sync.Mutex
	minutes int
	err     error
	asked   int
}

func (u *usage) Usage(workspace string) (analyser.Store, error) {
	if workspace != "ws-4242" {
		return nil, errors.New("another customer's workspace is asked: " + workspace)
	}
	return u, nil
}

func (u *usage) set(minutes int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.minutes, u.err = minutes, err
}

func (u *usage) Instant(_ context.Context, query string, at time.Time, take func(analyser.Series) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	switch {
	case u.err != nil:
		return u.err
	case !strings.Contains(query, arn) || strings.Contains(query, "owner"), at.Before(u.c.Now().Add(-time.Duration(u.minutes) * time.Minute)):
		return nil
	}
	return take(analyser.Series{Labels: analyser.Labels{Pod: "cart-6d4f5b7c8-b2c4d", Container: "app"}, Points: analyser.Points{{At: at.UnixMilli(), Value: 1e8}}})
}

func (u *usage) Range(_ context.Context, _ string, start, end time.Time, step time.Duration, take func(analyser.Series) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	one := analyser.Series{Labels: analyser.Labels{Pod: "cart-6d4f5b7c8-b2c4d", Container: "app"}}
	oldest := u.c.Now().Add(-time.Duration(u.minutes) * time.Minute)
	for at := start; !at.After(end); at = at.Add(step) {
		if at.After(oldest) {
			one.Points = append(one.Points, analyser.Point{At: at.UnixMilli(), Value: 0.5})
		}
	}
	return take(one)
}

func analysing(t *testing.T) (*platform.Server, *clock, *usage, *httptest.Server) {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	u := &usage{c: c, minutes: 3 * 1440}
	s := &platform.Server{Now: c.Now, RatePerMinute: 1 << 20, FaultControl: true, Usage: u}
	seed(t, s)
	h := httptest.NewServer(readPaper(t).checked(t, s))
	t.Cleanup(h.Close)
	return s, c, u, h
}

func TestAnAnalysisIssuesRecommendations(t *testing.T) {
	s, c, u, h := analysing(t)
	person, agent := installed(t, h.URL)
	if _, err := s.Analyse(t.Context(), "4242", arn, nil); err == nil || !strings.Contains(err.Error(), "no agent") {
		t.Errorf("before anybody asked: %v", err)
	}
	if err := agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), 5)); err != nil {
		t.Fatal(err)
	}
	did := must[platform.Analysis](t)(s.Analyse(t.Context(), "4242", arn, nil))
	if did.Workloads != 1 || did.Containers != 1 || did.Samples != 3*1440+3 || did.Generation != 5 || did.Seq != uint64(c.Now().Unix()) || did.History != "720h0m0s" || len(did.Skipped) != 0 || did.ByName != 3 {
		t.Errorf("%+v", did)
	}
	first := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, ""))
	w := first.Message.Workloads[0]
	if got := first.Message; got.CheckAt(c.Now()) != nil || !got.ValidUntil.Equal(c.Now().Add(24*time.Hour)) || w.WorkloadRef != shop("cart") || w.Level != "BalancedSavings" ||
		w.Containers[0].CPU.Target < 0.55 || w.Containers[0].CPU.Target > 0.554 || w.Containers[0].Memory.Target < 1.1e8 || w.Containers[0].Memory.Target > 1.11e8 || w.Containers[0].Days != 3 {
		t.Errorf("%+v", got)
	}
	// Within the same second, and after a number that somebody else chose: it rises.
	for range 2 {
		before := did.Seq
		if did = must[platform.Analysis](t)(s.Analyse(t.Context(), "4242", arn, nil)); did.Seq != before+1 {
			t.Errorf("number %d after %d", did.Seq, before)
		}
	}
	must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, recommended(c.Now(), did.Seq+1000)))
	if did = must[platform.Analysis](t)(s.Analyse(t.Context(), "4242", arn, nil)); did.Seq <= first.Message.Seq+1000 {
		t.Errorf("number %d", did.Seq)
	}
	// A store that fails leaves what there is.
	u.set(1440, errors.New("the store is down"))
	if did, err := s.Analyse(t.Context(), "4242", arn, nil); err == nil || !strings.Contains(did.Problem, "the store is down") || did.Seq != 0 {
		t.Errorf("%v, %+v", err, did)
	}
	if got := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, "")); got.Message.Seq != did.Seq {
		t.Errorf("number %d is served, want %d", got.Message.Seq, did.Seq)
	}
	// What is known for too short a time is said, and left out.
	u.set(60, nil)
	did = must[platform.Analysis](t)(s.Analyse(t.Context(), "4242", arn, nil))
	if len(did.Skipped) != 1 || did.Skipped[0].String() != "Deployment shop/cart, container app: its usage is known for 1h0m0s, and 24h0m0s are needed" {
		t.Errorf("%+v", did)
	}
	if got := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, "")); got.Message.Seq != did.Seq || len(got.Message.Workloads) != 0 {
		t.Errorf("%+v", got)
	}
	bare := &platform.Server{Store: s.Store}
	if _, err := bare.Analyse(t.Context(), "4242", arn, nil); err == nil {
		t.Error("without a store something is analysed")
	}
}

// TestAnalysesAreMadeByThemselves: soon after a list came, hourly after that, and not in the place of what a person published.
func TestAnalysesAreMadeByThemselves(t *testing.T) {
	s, c, u, h := analysing(t)
	person, agent := installed(t, h.URL)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Millisecond) }()
	seq := func() uint64 {
		got, err := agent.Recommendations(t.Context(), arn, "")
		if nopsclient.IsKind(err, nopsclient.KindNotFound) {
			return 0
		} else if err != nil {
			t.Fatal(err)
		}
		return got.Message.Seq
	}
	waits := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within a minute", what)
			}
		}
	}
	// A few rounds of the loop, in which something would have happened.
	rounds := func() { time.Sleep(50 * time.Millisecond) }
	report := func(generation int64) {
		t.Helper()
		if err := agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), generation)); err != nil {
			t.Fatal(err)
		}
	}
	report(1)
	waits("the first", func() bool { return seq() == uint64(c.Now().Unix()) })
	last := seq()
	c.Advance(59 * time.Minute)
	if rounds(); seq() != last {
		t.Error("renewed before its time")
	}
	c.Advance(time.Minute)
	waits("the next", func() bool { return seq() > last })
	last = seq()
	report(2)
	if rounds(); seq() != last {
		t.Error("a list that keeps changing is analysed each time")
	}
	c.Advance(time.Minute)
	waits("after a change", func() bool { return seq() > last })
	// A store that is down is asked again, and not all the time.
	u.set(1440, errors.New("down"))
	c.Advance(time.Hour)
	u.mu.Lock()
	before := u.asked
	u.mu.Unlock()
	waits("a failure", func() bool { u.mu.Lock(); defer u.mu.Unlock(); return u.asked > before })
	rounds()
	u.mu.Lock()
	if u.asked != before+1 {
		t.Errorf("a store that is down was asked %d times", u.asked-before)
	}
	u.mu.Unlock()
	last = seq()
	u.set(3*1440, nil)
	c.Advance(5 * time.Minute)
	waits("after a failure", func() bool { return seq() > last })
	// What a person published holds to its end.
	by := recommended(c.Now(), seq()+5000)
	by.ValidUntil = c.Now().Add(2 * time.Hour)
	must[nopsapi.RightsizingAck](t)(person.PublishRecommendations(t.Context(), arn, by))
	c.Advance(90 * time.Minute)
	if rounds(); seq() != by.Seq {
		t.Error("what a person published is replaced")
	}
	c.Advance(31 * time.Minute)
	waits("after its end", func() bool { return seq() > by.Seq })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnalysesOnDemand(t *testing.T) {
	s, c, u, h := analysing(t)
	person, agent := installed(t, h.URL)
	u.set(5, nil)
	ask := func(method, query, key string) (int, []platform.Analysis, string) {
		t.Helper()
		res, body := raw(t, h.URL, method, platform.AnalysesPath+query, key, nil, nil)
		var all []platform.Analysis
		if res.StatusCode == http.StatusOK {
			if err := json.Unmarshal(body, &all); err != nil {
				t.Fatal(err)
			}
		}
		return res.StatusCode, all, string(body)
	}
	if status, all, _ := ask("POST", "", adminKey); status != http.StatusOK || len(all) != 0 {
		t.Errorf("nothing is wanted: %d %+v", status, all)
	}
	if err := agent.ReportWorkloads(t.Context(), arn, workloads(c.Now(), 1)); err != nil {
		t.Fatal(err)
	}
	if _, all, _ := ask("POST", "", adminKey); len(all) != 1 || all[0].Workloads != 0 || len(all[0].Skipped) != 1 {
		t.Errorf("five minutes are too few: %+v", all)
	}
	if _, all, _ := ask("POST", "?history=10m&min=2m&valid=1m", adminKey); len(all) != 1 || all[0].Workloads != 1 || all[0].History != "10m0s" || all[0].Min != "2m0s" {
		t.Errorf("%+v", all)
	}
	if got := must[polledRecommendations](t)(agent.Recommendations(t.Context(), arn, "")).Message; !got.ValidUntil.Equal(c.Now().Add(time.Minute)) || got.Workloads[0].Containers[0].Samples != 5 {
		t.Errorf("%+v", got)
	}
	// The next by itself goes on with what was chosen.
	c.Advance(time.Hour)
	if did := must[platform.Analysis](t)(s.Analyse(t.Context(), "4242", arn, nil)); did.Workloads != 1 || did.Min != "2m0s" {
		t.Errorf("%+v", did)
	}
	u.set(5, errors.New("down"))
	if status, all, _ := ask("POST", "", adminKey); status != http.StatusOK || len(all) != 1 || !strings.Contains(all[0].Problem, "down") {
		t.Errorf("a store that is down: %d %+v", status, all)
	}
	if _, all, _ := ask("GET", "", adminKey); len(all) != 1 || all[0].Problem == "" {
		t.Errorf("told: %+v", all)
	}
	if _, all, _ := ask("GET", "", otherKey); len(all) != 0 {
		t.Errorf("another customer is told: %+v", all)
	}
	for _, query := range []string{"?history=soon", "?history=1s", "?min=31d", "?valid=25h", "?valid=-1s", "?window=2h"} {
		if status, _, body := ask("POST", query, adminKey); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	key := must[nopsapi.AgentKey](t)(person.CreateAgentKey(t.Context(), arn)).Key
	if status, _, _ := ask("POST", "", key); status != http.StatusForbidden {
		t.Errorf("an agent analyses: %d", status)
	}
	if fmt.Sprintf("%v", analyser.Skipped{Workload: shop("cart"), Why: "x"}) != "Deployment shop/cart: x" {
		t.Error("a line is none")
	}
}
