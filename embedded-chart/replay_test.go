package embeddedchart_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// program returns a third-party binary of the lab's cache, or skips.
func program(t *testing.T, variable, file string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path != "" && file != "" {
		path = filepath.Join(path, file)
	}
	if path == "" {
		t.Skipf("%s is not set: only the real program shows that it understands (make test-unit sets it)", variable)
	}
	return path
}

// freeAddress is one that nobody listens on now.
func freeAddress() string {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	return s.Listener.Addr().String()
}

// start runs a program until the test ends.
func start(t *testing.T, env []string, path string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), log.String())
		}
	})
}

// eventually repeats a check until it holds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute: %v", what, err)
		}
	}
}

func page(t *testing.T, address, path string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	var body bytes.Buffer
	_, err = body.ReadFrom(res.Body)
	return res.StatusCode, body.String(), err
}

// exporters are servers that answer with the fixtures, the kubelet's as kubelets do: over TLS and to those with a token.
type exporters struct {
	kubelet *httptest.Server
	plain   *httptest.Server
	fargate *httptest.Server
	asked   atomic.Int64 // how often somebody asked Fargate's kubelet
}

const token = "canary-of-the-token"

func startExporters(t *testing.T) *exporters {
	t.Helper()
	fixture := func(file string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, filepath.Join("testdata", "exporters", file))
		}
	}
	x := &exporters{}
	kubelet := http.NewServeMux()
	kubelet.HandleFunc("/metrics/cadvisor", fixture("cadvisor.txt"))
	kubelet.HandleFunc("/metrics", fixture("kubelet.txt"))
	x.kubelet = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		kubelet.ServeHTTP(w, r)
	}))
	plain := http.NewServeMux()
	plain.HandleFunc("/node-exporter", fixture("node-exporter.txt"))
	plain.HandleFunc("/kube-state-metrics", fixture("kube-state-metrics.txt"))
	plain.HandleFunc("/dcgm-exporter", fixture("dcgm-exporter.txt"))
	x.plain = httptest.NewServer(plain)
	x.fargate = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { x.asked.Add(1) }))
	for _, s := range []*httptest.Server{x.kubelet, x.plain, x.fargate} {
		t.Cleanup(s.Close)
	}
	return x
}

// here rewrites the rendered configuration for this machine: what the API server would discover becomes a list, and nothing
// else changes.
func (x *exporters) here(t *testing.T, config, dir, self string) string {
	t.Helper()
	var parsed object
	if err := yaml.Unmarshal([]byte(config), &parsed); err != nil {
		t.Fatal(err)
	}
	target := func(s *httptest.Server, labels object) object {
		return object{"targets": []any{s.Listener.Addr().String()}, "labels": labels}
	}
	for _, j := range list(parsed, "scrape_configs") {
		job, _ := j.(object)
		switch job["job_name"] {
		case "cadvisor", "kubelet":
			job["bearer_token_file"] = filepath.Join(dir, "token")
			tls, _ := job["tls_config"].(object)
			tls["ca_file"] = filepath.Join(dir, "kubelet.crt")
			job["static_configs"] = []any{
				target(x.kubelet, object{"__meta_kubernetes_node_name": "node-a", "__meta_kubernetes_node_label_topology_kubernetes_io_zone": "a"}),
				target(x.fargate, object{"__meta_kubernetes_node_name": "fargate-1", "__meta_kubernetes_node_label_eks_amazonaws_com_compute_type": "fargate"}),
			}
		case "node-exporter":
			job["metrics_path"] = "/node-exporter"
			job["static_configs"] = []any{
				target(x.plain, object{"__meta_kubernetes_pod_node_name": "node-a", "__meta_kubernetes_pod_container_port_name": "http"}),
				target(x.fargate, object{"__meta_kubernetes_pod_node_name": "node-a", "__meta_kubernetes_pod_container_port_name": "other"}),
			}
		case "dcgm-exporter":
			job["metrics_path"] = "/dcgm-exporter"
			job["static_configs"] = []any{target(x.plain, object{"__meta_kubernetes_pod_node_name": "node-a", "__meta_kubernetes_pod_container_port_name": "http"})}
		case "kube-state-metrics":
			job["metrics_path"] = "/kube-state-metrics"
			job["static_configs"] = []any{target(x.plain, object{})}
		case "vmagent":
			job["static_configs"] = []any{object{"targets": []any{self}}}
		default:
			t.Fatalf("job %v: this test knows no target for it", job["job_name"])
		}
		delete(job, "kubernetes_sd_configs")
	}
	data, err := yaml.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// shipper is the real vmagent, with the arguments and environment of the rendered Deployment.
type shipper struct{ address string }

func startVmagent(t *testing.T, values object, x *exporters, store string, files map[string]string) shipper {
	t.Helper()
	path := program(t, "NOPSCTL_VMAGENT", "")
	manifests, _, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := shipper{address: freeAddress()}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(name, text)
	}
	write("token", token)
	write("kubelet.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.kubelet.Certificate().Raw})))
	var args, env []string
	for _, o := range manifests {
		switch name(o) {
		case "ConfigMap/nops-vmagent":
			write("scrape.yaml", x.here(t, text(o, "data", "scrape.yaml"), dir, s.address))
			write("relabel.yaml", text(o, "data", "relabel.yaml"))
		case "Deployment/nops-vmagent":
			c := list(o, "spec", "template", "spec", "containers")[0]
			for _, a := range list(c, "args") {
				args = append(args, fmt.Sprint(a))
			}
			for _, e := range list(c, "env") {
				value := text(e, "value")
				switch text(e, "name") {
				case "AWS_ACCESS_KEY_ID":
					value = "AKIACANARY"
				case "AWS_SECRET_ACCESS_KEY":
					value = "canary-of-the-secret"
				}
				env = append(env, text(e, "name")+"="+strings.ReplaceAll(value, "/etc/nops-ca", dir))
			}
		}
	}
	replaced := 0
	for i, a := range args {
		flag, _, _ := strings.Cut(a, "=")
		if value, ok := map[string]string{
			"-httpListenAddr": s.address, "-promscrape.config": filepath.Join(dir, "scrape.yaml"), "-remoteWrite.relabelConfig": filepath.Join(dir, "relabel.yaml"),
			"-remoteWrite.tmpDataPath": filepath.Join(dir, "queue"), "-remoteWrite.url": store,
		}[flag]; ok {
			args[i] = flag + "=" + value
			replaced++
		}
	}
	if replaced != 5 {
		t.Fatalf("%d of the 5 arguments that name places: %v", replaced, args)
	}
	start(t, env, path, args...)
	return s
}

// line writes a series as exporters do, without the addresses of this run.
func line(metric map[string]string) string {
	var labels []string
	for _, l := range slices.Sorted(maps.Keys(metric)) {
		if l != "__name__" && l != "instance" && l != "cluster" {
			labels = append(labels, fmt.Sprintf("%s=%q", l, metric[l]))
		}
	}
	cluster := ""
	if metric["cluster"] != "arn:aws:eks:us-west-2:123456789012:cluster/my-sample-cluster" {
		cluster = " without the cluster's ARN"
	}
	return metric["__name__"] + "{" + strings.Join(labels, ",") + "}" + cluster
}

// TestReplay: the real vmagent reads exporters' pages with the rendered configuration, and what arrives in a real store is
// compared series by series.
func TestReplay(t *testing.T) {
	program(t, "NOPSCTL_VMAGENT", "")
	victoria := program(t, "NOPSCTL_VICTORIAMETRICS", "")
	store := freeAddress()
	start(t, nil, victoria, "-httpListenAddr="+store, "-storageDataPath="+t.TempDir(), "-search.latencyOffset=0s", "-search.disableCache", "-http.maxGracefulShutdownDuration=1s")
	eventually(t, "the store", func() error { _, _, err := page(t, store, "/health"); return err })
	x := startExporters(t)
	began := time.Now()
	agent := startVmagent(t, base("victoriaMetrics.scrapeInterval=1s", "victoriaMetrics.kubeletVolumeStats=true"), x, "http://"+store+"/api/v1/write", nil)

	golden, err := os.ReadFile("testdata/golden/replay.txt")
	if err != nil && !*update {
		t.Fatalf("%v (run with -update)", err)
	}
	want := strings.Split(strings.TrimSpace(string(golden)), "\n")
	var got, self []string
	eventually(t, "series of all jobs", func() error {
		got, self = nil, nil
		jobs := map[string]bool{}
		status, body, err := page(t, store, "/api/v1/export?"+url.Values{"match[]": {`{__name__!=""}`}}.Encode())
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("export: %d %s %w", status, body, err)
		}
		for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
			var series struct {
				Metric     map[string]string
				Timestamps []int64
			}
			if err := json.Unmarshal(lines.Bytes(), &series); err != nil {
				t.Fatal(err)
			}
			if at := time.UnixMilli(series.Timestamps[0]); at.Before(began.Add(-time.Second)) {
				t.Fatalf("%v: taken at %v, which is the exporter's time and not that of the scrape", series.Metric, at)
			}
			jobs[series.Metric["job"]] = true
			if series.Metric["job"] == "vmagent" {
				self = append(self, series.Metric["__name__"])
				continue
			}
			got = append(got, line(series.Metric))
		}
		if len(jobs) != 6 || !slices.Contains(self, "vmagent_remotewrite_requests_total") {
			return fmt.Errorf("jobs so far: %v", slices.Sorted(maps.Keys(jobs)))
		}
		sort.Strings(got)
		for _, series := range want {
			if _, found := slices.BinarySearch(got, series); !found && !*update {
				return fmt.Errorf("missing: %s", series)
			}
		}
		return nil
	})
	if *update {
		if err := os.WriteFile("testdata/golden/replay.txt", []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (run with -update and read the change):\n%s", diff)
	}
	if len(self) > 20 {
		t.Errorf("vmagent says %d series of itself: %v", len(self), self)
	}
	if n := x.asked.Load(); n != 0 {
		t.Errorf("what is not to be scraped was, %d times", n)
	}

	// It scrapes and nothing else: nobody in the cluster may write into the customer's workspace through it.
	for _, push := range []string{"/api/v1/import/prometheus", "/api/v1/write", "/api/v1/import", "/write", "/datadog/api/v1/series", "/opentelemetry/v1/metrics"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+agent.address+push, strings.NewReader("planted 1\n"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("a push to %s is answered with %s", push, res.Status)
		}
	}
}

// TestVmagentTrustsTheBundle: with a bundle of the user's, vmagent reaches a store whose certificate only that bundle knows,
// and signs for Amazon Managed Prometheus.
func TestVmagentTrustsTheBundle(t *testing.T) {
	var signed atomic.Value
	store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed.Store(r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(store.Close)
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: store.Certificate().Raw}))
	values := base("victoriaMetrics.scrapeInterval=1s", "nops.global.caBundle="+strings.ReplaceAll(bundle, ",", `\,`))
	startVmagent(t, values, startExporters(t), store.URL+"/api/v1/remote_write", map[string]string{"ca.crt": bundle})
	eventually(t, "a signed request", func() error {
		const want = "AWS4-HMAC-SHA256 Credential=AKIACANARY/"
		have, _ := signed.Load().(string)
		if !strings.HasPrefix(have, want) || !strings.Contains(have, "/us-west-2/aps/aws4_request") {
			return fmt.Errorf("Authorization %q", have)
		}
		return nil
	})
}

// TestExportersTakeTheirFlags: the real exporters start with the rendered arguments and offer what the keep-list keeps.
func TestExportersTakeTheirFlags(t *testing.T) {
	for _, tt := range []struct {
		component, file string
		swap            map[string]string
		want            []string
	}{
		{"node-exporter", "node_exporter", map[string]string{"/host/proc": "/proc", "/host/sys": "/sys", "/host/root": "/"}, []string{"node_boot_time_seconds", "node_cpu_seconds_total", "node_load1", "node_load5", "node_load15",
			"node_memory_Buffers_bytes", "node_memory_Cached_bytes", "node_memory_MemAvailable_bytes", "node_memory_MemFree_bytes", "node_memory_MemTotal_bytes", "node_uname_info"}},
	} {
		t.Run(tt.component, func(t *testing.T) {
			path := program(t, "KUBEBUILDER_ASSETS", tt.file)
			manifests, _, err := render(t, base())
			if err != nil {
				t.Fatal(err)
			}
			address := freeAddress()
			var args []string
			for _, o := range manifests {
				if !workload(o) || text(o, "metadata", "labels", "app.kubernetes.io/component") != tt.component {
					continue
				}
				for _, a := range list(list(o, "spec", "template", "spec", "containers")[0], "args") {
					flag, value, set := strings.Cut(fmt.Sprint(a), "=")
					for from, to := range tt.swap {
						if rest, ok := strings.CutPrefix(value, from); ok {
							value = filepath.Join(to, rest)
						}
					}
					if flag == "--web.listen-address" {
						value = address
					}
					if set {
						flag += "=" + value
					}
					args = append(args, flag)
				}
			}
			start(t, nil, path, args...)
			var body string
			eventually(t, "metrics", func() error {
				var status int
				var err error
				if status, body, err = page(t, address, "/metrics"); err == nil && status != http.StatusOK {
					err = fmt.Errorf("status %d", status)
				}
				return err
			})
			for _, metric := range tt.want {
				if !strings.Contains(body, "\n"+metric+" ") && !strings.Contains(body, "\n"+metric+"{") {
					t.Errorf("%s is kept and not offered", metric)
				}
			}
			if n := strings.Count(body, "\n"); n > 5000 {
				t.Errorf("%d lines: the collectors are not restricted", n)
			}
		})
	}
}
