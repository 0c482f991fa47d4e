package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestFacts: what the other chart collects is read whole. The numbers are those of its lists at the revision.
func TestFacts(t *testing.T) {
	f, err := loadFacts()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(f.Revision) || f.RevisionDate == "" || f.Repository == "" || f.ChartVersion == "" {
		t.Errorf("the facts do not say where they are from: %+v", f)
	}
	have := map[string][2]int{}
	for source, s := range f.Sources {
		rules := s.relabeling()
		have[source] = [2]int{len(s.Keep), len(rules)}
		if !slices.IsSorted(s.Keep) || len(slices.Compact(slices.Clone(s.Keep))) != len(s.Keep) {
			t.Errorf("%s: the list is not in order or names a metric twice", source)
		}
		if s.Job == "" || !slices.Contains(s.TargetLabels, "instance") {
			t.Errorf("%s: no job or no labels of its targets", source)
		}
		for _, r := range slices.Concat(s.DropWhenEmpty, s.DropWhen, s.KeepOnly, s.Blank) {
			if len(r.Metrics) == 0 || r.Label == "" && len(r.Labels) == 0 {
				t.Errorf("%s: a rule about nothing: %+v", source, r)
			}
		}
	}
	want := map[string][2]int{cadvisor: {19, 7}, kubelet: {36, 1}, kubeletResource: {2, 1}, kubeStateMetrics: {43, 1}, nodeExporter: {10, 2}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("patterns and rules of each source:\n%s", diff)
	}
}

func TestKeeps(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		keep         []string
		metric       string
		want         bool
	}{
		{"a name", "listed", []string{"a_b", "c"}, "c", true},
		{"a pattern", "regular expressions are whole", []string{"kube_job.*"}, "kube_job_owner", true},
		{"the beginning of a name", "and anchored at the end", []string{"kube_job"}, "kube_job_owner", false},
		{"the end of a name", "and at the beginning", []string{"b"}, "a_b", false},
		{"a source without a list", "nothing of it is collected", nil, "a", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := (sourceFacts{Keep: tt.keep}).keeps(tt.metric); err != nil || got != tt.want {
				t.Errorf("%v, %v, want %v: %s", got, err, tt.want, tt.reason)
			}
		})
	}
	if _, err := (sourceFacts{Keep: []string{"("}}).keeps("a"); err == nil {
		t.Error("a damaged pattern keeps nothing and says nothing")
	}
}

// TestNamesHaveReasons: no metric is kept beyond the other chart's list without a reason, and no reason is left over.
func TestNamesHaveReasons(t *testing.T) {
	f, err := loadFacts()
	if err != nil {
		t.Fatal(err)
	}
	n, err := loadNames()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../../embedded-chart/chart/files/keep-list.yaml")
	if err != nil {
		t.Fatal(err)
	}
	list, err := keepList(text)
	if err != nil {
		t.Fatal(err)
	}
	more, err := beyond(list, f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(more, slices.Sorted(maps.Keys(n.Beyond))); diff != "" || len(more) < 20 {
		t.Errorf("%d metrics that the chart keeps and the other does not (-), and those with a reason (+); write the reason into names.yaml:\n%s", len(more), diff)
	}
	floor := 0
	for source, names := range n.Floor {
		for _, name := range names {
			if name == "up" || name == "scrape_samples_scraped" {
				continue
			}
			floor++
			if !slices.Contains(list[source], name) {
				t.Errorf("%s: %s is of the floor and not in the chart's keep-list", source, name)
			}
			if _, reason := n.Elsewhere[name]; reason {
				t.Errorf("%s: has to arrive, and there is a reason why it cannot", name)
			}
		}
	}
	if floor+len(n.Elsewhere) != 38 {
		t.Errorf("the floor has %d metrics and %d that cannot be here, want 38 in all", floor, len(n.Elsewhere))
	}
	for _, reasons := range []map[string]string{n.Beyond, n.More, n.Elsewhere} {
		for name, reason := range reasons {
			if strings.TrimSpace(reason) == "" {
				t.Errorf("%s: an empty reason", name)
			}
		}
	}
	page, err := os.ReadFile("../../../docs/series.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range append(more, f.Revision[:12]) {
		if !bytes.Contains(page, []byte("`"+what+"`")) {
			t.Errorf("docs/series.md does not know %s: measure again with make bench BENCH=-write", what)
		}
	}
}

func TestParseFamilies(t *testing.T) {
	all, err := parseFamilies(cadvisorTable)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, f := range all {
		if kind, known := names[f.name]; known && kind != f.kind {
			t.Errorf("%s is a %s and a %s", f.name, kind, f.kind)
		}
		names[f.name] = f.kind
	}
	if len(all) != 80 || len(names) != 77 {
		t.Errorf("%d lines of %d families, want 80 of 77", len(all), len(names))
	}
	for _, tt := range []struct{ name, table, want string }{
		{"no rows", "a gauge", "line 1"},
		{"unknown rows", "# comment\na gauge everywhere", "line 2"},
		{"not a label", "a gauge all device", "device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseFamilies(tt.table); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}

// rows are the series of a page, each once.
func rows(t *testing.T, page []byte) []string {
	t.Helper()
	var all []string
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(page)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		series, _, found := strings.Cut(line, "} ")
		if !found {
			series, _, _ = strings.Cut(line, " ")
		}
		if seen[series] {
			t.Fatalf("twice: %s", series)
		}
		seen[series] = true
		all = append(all, series)
	}
	return all
}

// TestCadvisorPage counts by hand what a node with three pods shows.
func TestCadvisorPage(t *testing.T) {
	families, err := parseFamilies(strings.Join([]string{"machine gauge machine boot=$boot", "all gauge all kind=a,b", "root gauge root", "quota counter quota", "main gauge main", "net counter net"}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	two := []container{{"app", "image-1"}, {"proxy", "image-2"}}
	pods := []pod{
		{namespace: "a", name: "limited", node: "n", cpuLimit: true, containers: two},
		{namespace: "a", name: "open", node: "n", containers: two},
		{namespace: "b", name: "host", node: "n", hostNetwork: true, containers: two},
		{namespace: "b", name: "elsewhere", node: "m", containers: two},
	}
	have := map[string]int{}
	host := 0
	for _, series := range rows(t, cadvisorPage(families, "n", pods)) {
		name, _, _ := strings.Cut(series, "{")
		have[name]++
		if strings.Contains(series, `pod="host"`) && name == "net" {
			host++
		}
		if strings.Contains(series, "elsewhere") {
			t.Errorf("a pod of another node: %s", series)
		}
	}
	// Cgroups: the node, 7 slices, and a pod, a pause and two containers for each of three pods. Interfaces: ens5 and one for
	// each of the two pods on the pods' network, seen by the node and by the pod on its network; eth0 of the other two.
	want := map[string]int{"machine": 1, "all": 2 * (8 + 3*4), "root": 1, "quota": 3, "main": 3 * 3, "net": 3 + 3 + 2}
	if diff := cmp.Diff(want, have); diff != "" || host != 3 {
		t.Errorf("rows by family, and %d of the pod on the node's network, want 3:\n%s", host, diff)
	}
}

// TestPages: two runs make the same pages, and every row is there once.
func TestPages(t *testing.T) {
	families, err := parseFamilies(cadvisorTable)
	if err != nil {
		t.Fatal(err)
	}
	pods := newCluster().pods
	node := nodeName(3)
	for _, tt := range []struct {
		source string
		page   func() []byte
		want   int
	}{
		{cadvisor, func() []byte { return cadvisorPage(families, node, pods) }, 11609},
		{kubeletResource, func() []byte { return resourcePage(node, pods) }, 4 + 50*3 + 100*5},
		{kubelet, func() []byte { return kubeletPage(node, pods) }, 1598 + 4*6},
	} {
		t.Run(tt.source, func(t *testing.T) {
			page := tt.page()
			if got := len(rows(t, page)); got != tt.want {
				t.Errorf("%d rows, want %d", got, tt.want)
			}
			if !bytes.Equal(page, tt.page()) {
				t.Error("the second page differs")
			}
		})
	}
}

// TestCluster: what is measured is what the page says.
func TestCluster(t *testing.T) {
	c := newCluster()
	onNode, owners, names := map[string]int{}, map[string]int{}, map[string]bool{}
	limited, done := 0, 0
	for _, p := range c.pods {
		onNode[p.node]++
		owners[p.owner.Kind]++
		names[p.namespace+"/"+p.name] = true
		if p.cpuLimit {
			limited++
		}
		if p.done {
			done++
		}
		if len(p.containers) != 2 {
			t.Errorf("%s has %d containers", p.name, len(p.containers))
		}
	}
	if len(c.pods) != clusterPods || len(names) != clusterPods || len(onNode) != clusterNodes || limited != clusterPods/2 || done != cronJobs {
		t.Errorf("%d pods, %d names, %d nodes, %d with CPU limits, %d with an ended container", len(c.pods), len(names), len(onNode), limited, done)
	}
	for node, n := range onNode {
		if n != clusterPods/clusterNodes {
			t.Errorf("%s has %d pods", node, n)
		}
	}
	if diff := cmp.Diff(map[string]int{"DaemonSet": 80, "StatefulSet": 80, "Job": 20, "ReplicaSet": 820}, owners); diff != "" {
		t.Errorf("pods by the kind of their owner:\n%s", diff)
	}
	collections := map[string]int{}
	running := 0
	for _, o := range c.objects {
		collections[o.Collection[strings.LastIndex(o.Collection, "/")+1:]]++
		if p, ok := o.Body.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning && p.Status.HostIP != "" {
			running++
		}
	}
	want := map[string]int{"pods": 1000, "nodes": 20, "leases": 20, "namespaces": 23, "deployments": 164, "replicasets": 656, "statefulsets": 20, "daemonsets": 4, "cronjobs": 10, "jobs": 50, "persistentvolumes": 80, "persistentvolumeclaims": 80,
		"volumeattachments": 80, "services": 184, "endpointslices": 184, "configmaps": 207, "secrets": 184, "horizontalpodautoscalers": 55, "poddisruptionbudgets": 92, "serviceaccounts": 23, "ingresses": 23, "networkpolicies": 23, "storageclasses": 2}
	if diff := cmp.Diff(want, collections); diff != "" || running != clusterPods {
		t.Errorf("%d running pods; objects by kind:\n%s", running, diff)
	}
	first, err := json.Marshal(c.objects[len(c.objects)/2].Body)
	if err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(newCluster().objects[len(c.objects)/2].Body)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two clusters differ: %s, %s (%v)", first, second, err)
	}
}

// message encodes protocol buffers, as far as remote write needs them.
func message(number uint64, value []byte) []byte {
	m := binary.AppendUvarint(nil, number<<3|2)
	m = binary.AppendUvarint(m, uint64(len(value)))
	return append(m, value...)
}

func timeSeries(labels map[string]string, values ...float64) []byte {
	var s []byte
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, message(1, append(message(1, []byte(name)), message(2, []byte(labels[name]))...))...)
	}
	for i, v := range values {
		sample := binary.LittleEndian.AppendUint64([]byte{1<<3 | 1}, math.Float64bits(v))
		sample = binary.AppendUvarint(append(sample, 2<<3), uint64(1e12+i))
		s = append(s, message(2, sample)...)
	}
	return message(1, s)
}

func TestReceiver(t *testing.T) {
	write := slices.Concat(
		timeSeries(map[string]string{"__name__": "up", "instance": "a"}, 1, 1),
		timeSeries(map[string]string{"__name__": "up", "instance": "b"}, 0),
		timeSeries(map[string]string{"__name__": "m", "instance": "a", "pod": "p"}, 7),
	)
	r := newReceiver()
	body := snappy.Encode(nil, write)
	for range 2 { // the same series again
		if err := r.take("snappy", body); err != nil {
			t.Fatal(err)
		}
	}
	if r.samples != 8 || len(r.series) != 3 || r.bytes != int64(2*len(body)) {
		t.Errorf("%d samples of %d series in %d bytes, want 8, 3, %d", r.samples, len(r.series), r.bytes, 2*len(body))
	}
	if diff := cmp.Diff(map[string]int{"a": 4}, r.ups); diff != "" {
		t.Errorf("scrapes that went well; that of b did not:\n%s", diff)
	}
	if r.scraped(1, 4) != nil || r.scraped(2, 1) == nil || r.scraped(1, 5) == nil {
		t.Error("one target was scraped four times, and no other")
	}
	pods := 0
	for _, s := range r.series {
		if s.pod == "p" && s.name == "m" {
			pods++
		}
	}
	if pods != 1 {
		t.Errorf("%d series of the pod, want 1", pods)
	}
	for _, tt := range []struct{ name, encoding, body string }{
		{"another encoding", "zstd", string(body)},
		{"not packed", "snappy", "plain"},
		{"cut short", "snappy", string(snappy.Encode(nil, write[:len(write)-3]))},
		{"an unknown type of field", "snappy", string(snappy.Encode(nil, []byte{1<<3 | 3, 0}))},
		{"a number that does not end", "snappy", string(snappy.Encode(nil, []byte{1 << 3, 0x80}))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := newReceiver().take(tt.encoding, []byte(tt.body)); err == nil {
				t.Error("taken without an error")
			}
		})
	}
}

// TestLocalized: nothing of a job changes but where its targets are and how often they are asked.
func TestLocalized(t *testing.T) {
	job := map[string]any{"job_name": "j", "scheme": "https", "bearer_token_file": "t", "tls_config": 1, "kubernetes_sd_configs": 2, "metrics_path": "/m", "scrape_interval": "60s", "relabel_configs": 3, "metric_relabel_configs": 4, "honor_labels": true}
	labels := map[string]string{"node": "n"}
	got, count := localized(job, []target{{"/x", labels}}, "127.0.0.1:1", "127.0.0.1:2")
	want := map[string]any{"job_name": "j", "scrape_interval": scrapeEvery.String(), "relabel_configs": 3, "metric_relabel_configs": 4, "honor_labels": true,
		"static_configs": []any{map[string]any{"targets": []string{"127.0.0.1:1"}, "labels": map[string]string{"node": "n", "__metrics_path__": "/x"}}}}
	if diff := cmp.Diff(want, got); diff != "" || count != 1 || len(labels) != 1 || job["scheme"] != "https" {
		t.Errorf("%d targets, the original %v:\n%s", count, job, diff)
	}
	if _, err := replace([]string{"-a=1", "-b"}, map[string]string{"-a": "2", "-c": "3"}); err == nil {
		t.Error("an argument that is not there is replaced")
	}
	if got, err := replace([]string{"-a=1", "-b"}, map[string]string{"-a": "2"}); err != nil || !slices.Equal(got, []string{"-a=2", "-b"}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestCount: what is said of a source follows from what arrived.
func TestCount(t *testing.T) {
	r := report{results: map[string]map[string]result{ours: {
		cadvisor:         {bytes: 600, samples: 12, series: map[string]series{"1": {name: "c", pod: "p"}, "2": {name: "c", pod: "q"}, "3": {name: "machine"}, "4": {name: "up"}}},
		kubeStateMetrics: {bytes: 30, samples: 3, series: map[string]series{"1": {name: "kube_pod_info", pod: "p"}, "2": {name: "kube_node_info"}, "3": {name: "kube_namespace_labels"}}},
		nodeExporter:     {bytes: 10, samples: 1, series: map[string]series{"1": {name: "node_load1", pod: "the exporter's"}}},
	}}}
	for _, tt := range []struct {
		source string
		want   count
	}{
		{cadvisor, count{series: 4, pods: 2, nodes: 2, bytesAScrape: 200, bytesADay: 200 * 1440, samplesADay: 4 * 1440}},
		{kubeStateMetrics, count{series: 3, pods: 1, nodes: 1, bytesAScrape: 30, bytesADay: 30 * 1440, samplesADay: 3 * 1440}},
		{nodeExporter, count{series: 1, nodes: 1, bytesAScrape: 10, bytesADay: 10 * 1440, samplesADay: 1440}},
		{kubelet, count{}},
	} {
		if got := r.count(ours, tt.source, time.Minute); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.source, got, tt.want)
		}
	}
	if got := number(1234567) + " " + number(999) + " " + millions(12_345_678) + " " + millions(2_340_000); got != "1,234,567 999 12 2.3" {
		t.Errorf("numbers: %s", got)
	}
}

// TestCheck: a run in which a metric of the floor does not arrive fails.
func TestCheck(t *testing.T) {
	many := map[string]series{}
	for i := range clusterPods {
		many[number(i)] = series{name: "kept", pod: number(i)}
	}
	r := report{names: names{Floor: map[string][]string{cadvisor: {"kept", "lost"}}, Elsewhere: map[string]string{"elsewhere": "not here"}}, results: map[string]map[string]result{}}
	for _, way := range []string{ours, theirs, noList} {
		r.results[way] = map[string]result{cadvisor: {bytes: 1, samples: 1, series: many}, kubeStateMetrics: {bytes: 1, samples: 1, series: many}}
	}
	err := r.check()
	if err == nil || !strings.Contains(err.Error(), "lost") || strings.Contains(err.Error(), "kept is") {
		t.Errorf("error %v, want one about the lost metric alone", err)
	}
	r.names.Floor = nil
	if err := r.check(); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
	r.names.Elsewhere["kept"] = "a reason that does not hold"
	if err := r.check(); err == nil || !strings.Contains(err.Error(), "kept") {
		t.Errorf("error %v, want one about a metric that arrives although it cannot", err)
	}
}
