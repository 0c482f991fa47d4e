package platform_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/platform/analyser"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// TestRightsizing: usage that the real agent delivered becomes a recommendation under the real name, which may be spoiled, replaced and
// answered.
func TestRightsizing(t *testing.T) {
	p := run(t, platform.Options{})
	seed, err := platform.LoadSeed(p.options.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	mine := seed.Customers[0]
	vmagent := startAgent(t, p, mine.WorkspaceID, mine.AccessKeyID, mine.SecretAccessKey, "rightsizing")
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
	if all, err := p.control.Analyses(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("before an agent asked: %+v, %v", all, err)
	}
	// Half an hour of a pod, as the stack would have delivered it minute by minute: 0.2 cores and 100 MiB.
	const labels = `{cluster="` + arn + `",namespace="shop",pod="cart-6d4f5b7c8-b2c4d",container="app"}`
	now := time.Now().Truncate(time.Second)
	var lines []string
	for back := 30; back >= 0; back-- {
		at := now.Add(-time.Duration(back) * time.Minute).UnixMilli()
		lines = append(lines, fmt.Sprintf("container_cpu_usage_seconds_total%s %d %d", labels, (30-back)*12, at), fmt.Sprintf("container_memory_working_set_bytes%s %d %d", labels, 100<<20, at))
	}
	eventually(t, "the store has what was delivered", func() error {
		res, err := http.Post(strings.TrimSuffix(vmagent.metrics, "/metrics")+"/api/v1/import/prometheus", "text/plain", strings.NewReader(strings.Join(lines, "\n")+"\n"))
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		got, err := p.ask(t, "count_over_time(container_memory_working_set_bytes{pod=\"cart-6d4f5b7c8-b2c4d\"}[40m])")
		if err == nil && (len(got) == 0 || got[0] == "0") {
			err = fmt.Errorf("HTTP %s, and nothing in the store", res.Status)
		}
		return err
	})
	cart := nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "cart"}
	if err := agent.ReportWorkloads(t.Context(), arn, nopsapi.RightsizedWorkloads{SchemaVersion: 1, Generation: 1, AsOf: now, Workloads: []nopsapi.RightsizedWorkload{{WorkloadRef: cart, Level: "MaximumSavings", Containers: []string{"app"}}}}); err != nil {
		t.Fatal(err)
	}
	// By itself it says that half an hour is too little.
	eventually(t, "an analysis by itself", func() error {
		all, err := p.control.Analyses(t.Context())
		if err == nil && (len(all) != 1 || len(all[0].Skipped) != 1 || !strings.Contains(all[0].Skipped[0].Why, "24h0m0s are needed")) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	read := func() nopsapi.Recommendations {
		t.Helper()
		got, err := agent.Recommendations(t.Context(), arn, "")
		if err != nil {
			t.Fatal(err)
		}
		return got.Message
	}
	first := read()
	if len(first.Workloads) != 0 {
		t.Errorf("half an hour is enough: %+v", first)
	}
	all, err := p.control.Analyse(t.Context(), nops.AnalysisSettings{Settings: analyser.Settings{History: 10 * time.Minute, Min: 2 * time.Minute}})
	if err != nil || len(all) != 1 || all[0].Workloads != 1 || all[0].Problem != "" {
		t.Fatalf("%+v, %v", all, err)
	}
	got := read()
	if got.Seq <= first.Seq || len(got.Workloads) != 1 || got.CheckAt(time.Now()) != nil {
		t.Fatalf("%+v after %+v", got, first.FactHeader)
	}
	if c := got.Workloads[0].Containers[0]; c.CPU.Target < 0.21 || c.CPU.Target > 0.213 || c.Memory.Target < 105<<20 || c.Memory.Target > 106<<20 {
		t.Errorf("%+v", c)
	}
	if err := p.control.SpoilRecommendations(t.Context(), "replay"); err != nil {
		t.Fatal(err)
	}
	p.fault(t, "platform", "down")
	if _, err := p.control.Analyses(t.Context()); err == nil || !strings.Contains(err.Error(), "lab fault platform up") {
		t.Errorf("while the platform is down: %v", err)
	}
	p.fault(t, "platform", "up")
	if how, err := p.control.Spoiled(t.Context()); err != nil || how != "replay" || read().Seq != got.Seq-1 {
		t.Errorf("spoiled: %q, %v", how, err)
	}
	if err := p.control.SpoilRecommendations(t.Context(), "nonsense"); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("a fault that is none: %v", err)
	}
	if err := p.control.SpoilRecommendations(t.Context(), ""); err != nil || read().Seq != got.Seq {
		t.Errorf("not spoiled any more: %v", err)
	}
	ack, err := p.control.Recommend(t.Context(), arn, time.Hour, []nopsapi.WorkloadRecommendation{{WorkloadRef: cart, Level: "MaximumSavings", Containers: []nopsapi.ContainerRecommendation{{Name: "app", CPU: nopsapi.Recommended{Target: 1}}}}})
	if err != nil || ack.Seq <= got.Seq || read().Seq != ack.Seq || read().Workloads[0].Containers[0].CPU.Target != 1 {
		t.Errorf("published: %+v, %v", ack, err)
	}
	told := nopsapi.Outcomes{SchemaVersion: 1, Outcomes: []nopsapi.Outcome{{ID: "a", At: now, Workload: cart, Pod: "cart-6d4f5b7c8-b2c4d", Kind: nopsapi.OutcomeInPlace, Seq: ack.Seq}}}
	if err := agent.SendOutcomes(t.Context(), arn, told); err != nil {
		t.Fatal(err)
	}
	if list, err := p.control.Outcomes(t.Context(), arn); err != nil || len(list) != 1 || list[0].Kind != nopsapi.OutcomeInPlace {
		t.Errorf("outcomes: %+v, %v", list, err)
	}
	if clusters, err := p.control.Clusters(t.Context()); err != nil || len(clusters) != 1 {
		t.Errorf("clusters: %+v, %v", clusters, err)
	}
}
