package embeddedchart_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func scrapeConfig(t *testing.T) (string, object) {
	t.Helper()
	manifests, _, err := render(t, base())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range manifests {
		if name(o) == "ConfigMap/nops-vmagent" {
			config := text(o, "data", "scrape.yaml")
			var parsed object
			if err := yaml.Unmarshal([]byte(config), &parsed); err != nil {
				t.Fatal(err)
			}
			return config, parsed
		}
	}
	t.Fatal("no ConfigMap/nops-vmagent")
	return "", nil
}

func TestVmagentTakesItsConfiguration(t *testing.T) {
	vmagent := os.Getenv("NOPSCTL_VMAGENT")
	if vmagent == "" {
		t.Skip("NOPSCTL_VMAGENT names no vmagent binary (make test sets it)")
	}
	config, _ := scrapeConfig(t)
	path := filepath.Join(t.TempDir(), "scrape.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), vmagent, "-dryRun", "-promscrape.config="+path, "-promscrape.config.strictParse", "-remoteWrite.url=http://127.0.0.1:1").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestKeepList: the list reaches both the flags and the relabeling, and the floor of what nOps's analysis reads is in it.
func TestKeepList(t *testing.T) {
	var keep struct {
		Cadvisor, Kubelet, NodeExporter, Vmagent, Scrapes, Dcgm, Opencost []string
		KubeStateMetrics                                                  struct {
			Resources           map[string]string
			Labels, Annotations map[string][]string
			Metrics             []string
		}
	}
	data, err := os.ReadFile("chart/files/keep-list.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, &keep); err != nil {
		t.Fatal(err)
	}
	_, config := scrapeConfig(t)
	jobs := map[string]*regexp.Regexp{}
	for _, j := range list(config, "scrape_configs") {
		for _, r := range list(j, "metric_relabel_configs") {
			if text(r, "action") == "keep" {
				jobs[text(j, "job_name")] = regexp.MustCompile("^(?:" + text(r, "regex") + ")$")
			}
		}
	}
	for job, names := range map[string][]string{"cadvisor": keep.Cadvisor, "node-exporter": keep.NodeExporter, "kube-state-metrics": keep.KubeStateMetrics.Metrics, "vmagent": keep.Vmagent, "dcgm-exporter": keep.Dcgm} {
		if jobs[job] == nil || len(names) == 0 {
			t.Fatalf("job %s keeps everything or nothing", job)
		}
		if !sort.StringsAreSorted(names) && job == "kube-state-metrics" {
			t.Errorf("%s: keep the list sorted", job)
		}
		for _, n := range names {
			if !jobs[job].MatchString(n) {
				t.Errorf("%s: %s is not kept", job, n)
			}
		}
		if jobs[job].MatchString("something_else_total") {
			t.Errorf("%s: keeps what is not in the list", job)
		}
	}
	floor := strings.Fields(`container_cpu_usage_seconds_total container_cpu_cfs_throttled_seconds_total container_memory_usage_bytes container_memory_working_set_bytes container_memory_cache container_memory_rss
		container_fs_usage_bytes container_fs_reads_bytes_total container_fs_writes_bytes_total container_spec_cpu_quota container_spec_cpu_period container_last_seen container_network_receive_bytes_total
		container_network_transmit_bytes_total kube_pod_owner kube_pod_labels kube_pod_annotations kube_pod_status_phase kube_pod_container_status_running kube_pod_container_resource_requests
		kube_pod_container_resource_limits kube_pod_container_status_terminated_reason kube_pod_container_status_restarts_total kube_pod_spec_volumes_persistentvolumeclaims_info kube_node_info kube_node_labels
		kube_node_status_condition kube_node_status_capacity kube_node_status_allocatable kube_namespace_labels kube_namespace_annotations kube_deployment_spec_replicas kube_deployment_status_replicas_available
		kube_job_status_failed kube_persistentvolumeclaim_info kube_persistentvolumeclaim_resource_requests_storage_bytes`)
	for _, n := range floor {
		if !slices.Contains(keep.Cadvisor, n) && !slices.Contains(keep.KubeStateMetrics.Metrics, n) {
			t.Errorf("%s is read by the analysis and not kept", n)
		}
	}
	for resource := range keep.KubeStateMetrics.Resources {
		if resource == "secrets" || resource == "configmaps" {
			t.Errorf("kube-state-metrics would read %s", resource)
		}
	}
}

func TestPodUIDFromCgroup(t *testing.T) {
	_, config := scrapeConfig(t)
	var pattern string
	for _, r := range list(list(config, "scrape_configs")[0], "metric_relabel_configs") {
		if text(r, "target_label") == "pod_uid" {
			pattern = text(r, "regex")
		}
	}
	re := regexp.MustCompile("^(?:" + pattern + ")$")
	const want = "0a1b2c3d-1111-2222-3333-444455556666"
	for _, id := range []string{
		"/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/8f7e",
		"/lab/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/8f7e",
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice/cri-containerd-8f7e.scope",
	} {
		m := re.FindStringSubmatch(id)
		if m == nil || strings.Join(m[1:], "-") != want {
			t.Errorf("%s: %v", id, m)
		}
	}
}
