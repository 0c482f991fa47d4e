package platform_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/platform/scenario"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// TestScenario: an agent of the lab meets what the command chose, under the real name, also after the platform was away.
func TestScenario(t *testing.T) {
	p := run(t, platform.Options{})
	tr := p.transport(t)
	client := func(key string) *nopsclient.Client {
		t.Helper()
		c, err := nopsclient.New(nopsclient.Options{Key: key, Transport: tr, Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	person := client(p.APIKey)
	if _, err := person.RegisterCluster(t.Context(), arn); err != nil {
		t.Fatal(err)
	}
	key, err := person.CreateAgentKey(t.Context(), arn)
	if err != nil {
		t.Fatal(err)
	}
	agent := client(key.Key)
	score := func() int {
		t.Helper()
		got, err := agent.Market(t.Context(), arn, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Message.CheckAt(time.Now()); err != nil {
			t.Error(err)
		}
		for _, o := range got.Message.Offerings {
			if o.InstanceType == "c7i.large" && o.ZoneID == "use1-az1" && o.CapacityType == nopsapi.CapacitySpot {
				return o.PlacementScore
			}
		}
		return 0
	}
	if _, err := agent.Market(t.Context(), arn, ""); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
		t.Errorf("before anything is chosen: %v", err)
	}
	if played, err := p.control.Played(t.Context()); err != nil || played.Scenario.Name != "" {
		t.Errorf("before anything is chosen: %+v, %v", played, err)
	}
	text, err := scenario.Text("az-collapse")
	if err != nil {
		t.Fatal(err)
	}
	played, err := p.control.Scenario(t.Context(), text, 0)
	if err != nil || played.Scenario.Name != "az-collapse" || played.Scenario.About == "" {
		t.Fatalf("%+v, %v", played, err)
	}
	if got := score(); got != 7 {
		t.Errorf("at the start: a score of %d", got)
	}
	if _, err := p.control.Scenario(t.Context(), text, 49*time.Hour); err != nil {
		t.Fatal(err)
	}
	p.fault(t, "platform", "down")
	if _, err := p.control.Played(t.Context()); err == nil || !strings.Contains(err.Error(), "lab fault platform up") {
		t.Errorf("while the platform is down: %v", err)
	}
	p.fault(t, "platform", "up")
	if got := score(); got != 1 {
		t.Errorf("two days in, after the platform was away: a score of %d", got)
	}
	if _, err := p.control.Scenario(t.Context(), []byte("name: x\nstepz: []"), 0); err == nil || !strings.Contains(err.Error(), "stepz") || strings.Contains(err.Error(), "{") {
		t.Errorf("a file with a slip: %v", err)
	}
	if err := p.control.EndScenario(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Market(t.Context(), arn, ""); !nopsclient.IsKind(err, nopsclient.KindNotFound) {
		t.Errorf("after the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.control.Played(ctx); err == nil {
		t.Error("an answer for nobody")
	}
}
