package cli

import (
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// TestComponentsForNodesThatAreNotThere: nothing is wrong with an exporter of GPUs in a cluster without any, and nothing runs.
func TestComponentsForNodesThatAreNotThere(t *testing.T) {
	idle := workload.Summary{Kind: "DaemonSet", Name: "nops-dcgm-exporter", Component: "dcgm-exporter", State: workload.Idle, Reason: "NothingDesired"}
	for _, tt := range []struct {
		name, reason string
		component    install.ComponentStatus
		want         string
	}{
		{"no node", "", install.ComponentStatus{Name: "dcgmExporter", State: install.ComponentState(workload.Idle), Workloads: []workload.Summary{idle}}, "- dcgmExporter           not applicable: no node here is one it runs on"},
		{"between runs", "a CronJob waits for its time", install.ComponentStatus{Name: "autoUpdater", State: install.ComponentState(workload.Idle), Workloads: []workload.Summary{{Kind: "CronJob", State: workload.Idle}}}, "+ autoUpdater            OK, idle"},
		{"on some", "the others run", install.ComponentStatus{Name: "containerInsights", State: install.ComponentState(workload.Ready), Workloads: []workload.Summary{idle, {Kind: "Deployment", State: workload.Ready}}}, "+ containerInsights      OK"},
		{"no workloads", "", install.ComponentStatus{Name: "datadog", State: install.ComponentDisabled, Message: "disabled by default"}, "- datadog                disabled by default"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			printComponent(&out, plain.Style{}, tt.component)
			line, _, _ := strings.Cut(out.String(), "\n")
			if got := strings.TrimSpace(line); got != tt.want {
				t.Errorf("%q, want %q (%s)", got, tt.want, tt.reason)
			}
		})
	}
}
