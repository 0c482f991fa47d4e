package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
)

// What is scraped. The names are those of the chart's jobs, where it has one.
const (
	cadvisor         = "cadvisor"
	kubeStateMetrics = "kube-state-metrics"
	nodeExporter     = "node-exporter"
	kubelet          = "kubelet"
	kubeletResource  = "kubelet-resource"
	vmagent          = "vmagent"
)

// The ways to collect.
const (
	ours   = "ours"
	theirs = "k8s-monitoring"
	noList = "no list"
)

// A target is a page under a path of the exporters' server, and what discovery would say of it.
type target struct {
	path   string
	labels map[string]string
}

// A collector is one way to collect: a scrape job for each source that it asks, and what it does to every sample before it goes.
type collector struct {
	name    string
	global  any
	jobs    map[string]map[string]any
	targets map[string][]target
	relabel string
}

// A result is what arrived of one source.
type result struct {
	bytes, samples int64
	series         map[string]series
}

// scrapesCounted is how often every target is scraped before anything is counted, and scrapeEvery how often it is asked here:
// the number of series and the bytes of a sample do not follow from the interval.
const (
	scrapesCounted = 3
	scrapeEvery    = 10 * time.Second
)

// noTarget are jobs of the chart that are left out, each with the reason.
func noTarget(job string) string {
	return map[string]string{"dcgm-exporter": "this cluster has no GPUs"}[job]
}

// measure collects every source by itself with the real vmagent, so that the bytes on the wire are of that source alone.
func (b *bench) measure(ctx context.Context, c collector) (map[string]result, error) {
	results := map[string]result{}
	var mu sync.Mutex
	var problems []error
	var runs sync.WaitGroup
	for source, job := range c.jobs {
		if noTarget(source) != "" {
			continue
		}
		runs.Go(func() {
			r, err := b.collect(ctx, c, source, job)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems = append(problems, fmt.Errorf("%s, %s: %w", c.name, source, err))
			}
			results[source] = r
		})
	}
	runs.Wait()
	return results, errors.Join(problems...)
}

func (b *bench) collect(ctx context.Context, c collector, source string, job map[string]any) (result, error) {
	dir, err := os.MkdirTemp(b.dir, "vmagent-")
	if err != nil {
		return result{}, fmt.Errorf("make a directory: %w", err)
	}
	r := newReceiver()
	store, closeStore, err := serve(ctx, r)
	if err != nil {
		return result{}, err
	}
	defer closeStore()
	own, err := kube.FreeAddress(ctx)
	if err != nil {
		return result{}, err
	}
	here, count := localized(job, c.targets[source], b.exporters, own)
	if count == 0 {
		return result{}, errors.New("the job has no targets: this benchmark does not know it")
	}
	config, err := yaml.Marshal(map[string]any{"global": c.global, "scrape_configs": []any{here}})
	if err != nil {
		return result{}, fmt.Errorf("write vmagent's configuration: %w", err)
	}
	for name, text := range map[string]string{"scrape.yaml": string(config), "relabel.yaml": c.relabel} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return result{}, fmt.Errorf("write vmagent's configuration: %w", err)
		}
	}
	args, err := replace(b.chart.vmagent, map[string]string{"-httpListenAddr": own, "-promscrape.config": filepath.Join(dir, "scrape.yaml"), "-remoteWrite.relabelConfig": filepath.Join(dir, "relabel.yaml"),
		"-remoteWrite.tmpDataPath": filepath.Join(dir, "queue"), "-remoteWrite.url": "http://" + store + "/api/v1/remote_write"})
	if err != nil {
		return result{}, err
	}
	agent, err := kube.Start(ctx, []string{"AWS_ACCESS_KEY_ID=AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY=example"}, filepath.Join(b.assets, "vmagent"), args...)
	if err != nil {
		return result{}, err
	}
	defer agent.Stop()
	if err := kube.Until(ctx, fmt.Sprintf("%d scrapes of %d targets", scrapesCounted, count), 3*time.Minute, func() error { return r.scraped(count, scrapesCounted) }, agent); err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, agent.Tail(5))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return result{r.bytes, r.samples, maps.Clone(r.series)}, nil
}

// localized is a job with this machine's targets in the place of discovered ones. Nothing else of it changes but the interval.
func localized(job map[string]any, targets []target, exporters, own string) (map[string]any, int) {
	here := maps.Clone(job)
	for _, discovery := range []string{"kubernetes_sd_configs", "static_configs", "scheme", "bearer_token_file", "tls_config", "metrics_path"} {
		delete(here, discovery)
	}
	here["scrape_interval"] = scrapeEvery.String()
	if job["job_name"] == vmagent {
		here["static_configs"] = []any{map[string]any{"targets": []string{own}}}
		return here, 1
	}
	var all []any
	for _, t := range targets {
		labels := maps.Clone(t.labels)
		labels["__metrics_path__"] = t.path
		all = append(all, map[string]any{"targets": []string{exporters}, "labels": labels})
	}
	here["static_configs"] = all
	return here, len(targets)
}

// replace gives flags that name places another value, all of them.
func replace(args []string, by map[string]string) ([]string, error) {
	all := slices.Clone(args)
	replaced := 0
	for i, a := range all {
		flag, _, _ := strings.Cut(a, "=")
		if value, ok := by[flag]; ok {
			all[i] = flag + "=" + value
			replaced++
		}
	}
	if replaced != len(by) {
		return nil, fmt.Errorf("%d of the %d arguments that name places are in %v", replaced, len(by), args)
	}
	return all, nil
}

// serve answers on a port of this machine until it is closed.
func serve(ctx context.Context, h http.Handler) (string, func(), error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	return l.Addr().String(), func() { _ = s.Close() }, nil
}

// collectors are the three ways that are compared: the chart as it is, the other chart's lists, and no list at all.
func (b *bench) collectors(f facts) ([]collector, error) {
	kept, err := yaml.Marshal([]any{map[string]any{"action": "drop", "if": fmt.Sprintf("{__name__=~\"scrape_.+\",__name__!~%q}", strings.Join(f.Scrapes, "|"))}})
	if err != nil {
		return nil, fmt.Errorf("write relabeling: %w", err)
	}
	external := map[string]string{}
	for _, l := range f.ClusterLabels {
		external[l] = "production"
	}
	c := []collector{
		{name: ours, global: b.chart.global, relabel: b.chart.relabel, jobs: b.chart.jobs},
		{name: theirs, global: map[string]any{"external_labels": external}, relabel: string(kept), jobs: map[string]map[string]any{}},
		{name: noList, global: b.chart.global, relabel: "[]", jobs: map[string]map[string]any{}},
	}
	for source, s := range f.Sources {
		c[1].jobs[source] = map[string]any{"job_name": s.Job, "max_scrape_size": "512MiB", "metric_relabel_configs": s.relabeling()}
		like := source
		if source == kubeletResource {
			like = kubelet
		}
		c[2].jobs[source] = map[string]any{"job_name": source, "max_scrape_size": "512MiB", "honor_labels": source == kubeStateMetrics, "relabel_configs": b.chart.jobs[like]["relabel_configs"]}
	}
	for i := range c {
		c[i].targets = map[string][]target{}
		for source := range f.Sources {
			labels := discovered
			if c[i].name == theirs {
				labels = f.Sources[source].discovered
			}
			c[i].targets[source] = targets(c[i].name, source, labels)
		}
	}
	return c, nil
}

// targets lists the pages of a source: one for the cluster, or one for each node.
func targets(who, source string, labels func(source string, node int) map[string]string) []target {
	if source == kubeStateMetrics {
		return []target{{"/" + who + "/" + source, labels(source, 0)}}
	}
	var all []target
	for i := range clusterNodes {
		all = append(all, target{"/" + who + "/" + source + "/" + nodeName(i), labels(source, i)})
	}
	return all
}

// discovered is what Kubernetes' discovery would say to the chart's own relabeling.
func discovered(source string, node int) map[string]string {
	switch source {
	case kubeStateMetrics:
		return map[string]string{"instance": "nops-kube-state-metrics.nops.svc:8080"}
	case nodeExporter:
		return map[string]string{"instance": nodeIP(node) + ":9110", "__meta_kubernetes_pod_node_name": nodeName(node), "__meta_kubernetes_pod_container_port_name": "http"}
	}
	return map[string]string{"instance": nodeIP(node) + ":10250", "__meta_kubernetes_node_name": nodeName(node)}
}

// discovered is what the other chart makes of discovery: the labels that it gives its targets.
func (s sourceFacts) discovered(source string, node int) map[string]string {
	all := map[string]string{"instance": nodeIP(node) + ":10250", "node": nodeName(node), "source": "kubernetes", "namespace": "monitoring", "container": "node-exporter", "component": "metrics",
		"app": "node-exporter", "workload": "DaemonSet/k8s-monitoring-node-exporter", "pod": "k8s-monitoring-node-exporter-" + token(5, nodeName(node))}
	switch source {
	case kubeStateMetrics:
		all["instance"] = "10.0.64.10:8080"
	case nodeExporter:
		all["instance"] = nodeName(node)
	}
	maps.DeleteFunc(all, func(label, _ string) bool { return !slices.Contains(s.TargetLabels, label) })
	return all
}
