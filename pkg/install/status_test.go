package install

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"

	"github.com/nopsctl/nopsctl/internal/workload"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestStatusGolden holds the documented JSON of a status still.
func TestStatusGolden(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &release.Release{Name: "nops-kubernetes-agent", Namespace: "nops", Version: 3, Config: map[string]any{"karpenops": map[string]any{"enabled": false}},
		Info:  &release.Info{Status: release.StatusDeployed, Description: "Upgrade complete", LastDeployed: helmtime.Time{Time: at}},
		Chart: &chart.Chart{Metadata: &chart.Metadata{Name: "kubernetes-agent", Version: "0.1.0", AppVersion: "0.1.0"}, Values: map[string]any{"containerInsights": map[string]any{"enabled": true}, "autoUpdater": map[string]any{"enabled": true}}}}
	r.Chart.Files = []*chart.File{{Name: "files/images.yaml", Data: []byte("components: {vpa: {available: false, toggle: containerRightsizing}}")}}
	summaries := []workload.Summary{
		{Kind: "Deployment", Namespace: "nops", Name: "nops-heartbeat", Component: "heartbeat", State: workload.Ready, Desired: 1, Ready: 1, Version: "0.1.0", Since: at,
			Images: []workload.Image{{Container: "heartbeat", Reference: "public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0", Digest: "sha256:aa"}}},
		{Kind: "Deployment", Namespace: "nops", Name: "nops-vmagent", Component: "vmagent", State: workload.Degraded, Reason: "ImagePullBackOff", Message: "container vmagent: connection refused", Desired: 1, Restarts: 2, LastTermination: "Error (exit code 1)", Since: at,
			Images: []workload.Image{{Container: "vmagent", Reference: "public.ecr.aws/nops/victoriametrics/vmagent:v1.130.0"}}},
		{Kind: "DaemonSet", Namespace: "nops", Name: "nops-node-exporter", Component: "node-exporter", State: workload.Idle, Reason: "NothingDesired", Message: "no node is selected", Since: at},
		{Kind: "Deployment", Namespace: "nops", Name: "extra", Component: "extra", State: workload.Ready, Desired: 1, Ready: 1},
	}
	on, err := switches(r.Chart, r.Config)
	if err != nil {
		t.Fatal(err)
	}
	s := &Status{SchemaVersion: 1, Context: "prod", Server: "https://example.com", ClusterARN: "arn:aws:eks:us-east-1:123456789012:cluster/x", Namespace: "nops", Release: describeRelease(r), Components: componentStatuses(on, summaries, false)}
	s.Health = health(s, r, false)
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/status.golden.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		status       release.Status
		states       []ComponentState
		want         Health
	}{
		{"all ready", "and what is switched off does not matter", release.StatusDeployed, []ComponentState{"ready", ComponentDisabled, ComponentUnavailable, "idle"}, Healthy},
		{"one degraded", "the worst counts", release.StatusDeployed, []ComponentState{"ready", "degraded", "progressing"}, Degraded},
		{"failed release", "its pods may do well, but not as wanted", release.StatusFailed, []ComponentState{"ready"}, Degraded},
		{"failed workload", "the controller gave up", release.StatusFailed, []ComponentState{"failed"}, Failed},
		{"pending", "somebody is at it", release.StatusPendingUpgrade, []ComponentState{"ready"}, Progressing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Status{}
			for _, c := range tt.states {
				s.Components = append(s.Components, ComponentStatus{State: c})
			}
			if got := health(s, &release.Release{Info: &release.Info{Status: tt.status}}, false); got != tt.want {
				t.Errorf("%s: %s, want %s", tt.reason, got, tt.want)
			}
		})
	}
}
