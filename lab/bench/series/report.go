package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

// A report is what a run found.
type report struct {
	facts    facts
	names    names
	results  map[string]map[string]result // by way and source
	chart    *chart
	when     time.Time
	versions map[string]string // of the programs
	machine  string
}

// A count is what is said of one source or of several.
type count struct {
	series       int
	pods, nodes  int     // of them those that speak of a pod, and of a node without one
	bytesAScrape float64 // when all of them are collected once
	// In a day, at the interval it is collected at.
	bytesADay, samplesADay float64
}

func (c count) plus(d count) count {
	return count{c.series + d.series, c.pods + d.pods, c.nodes + d.nodes, c.bytesAScrape + d.bytesAScrape, c.bytesADay + d.bytesADay, c.samplesADay + d.samplesADay}
}

// millions rounds for a table.
func millions(n float64) string {
	if n < 10e6 {
		return fmt.Sprintf("%.1f", n/1e6)
	}
	return number(int(n/1e6 + 0.5))
}

// count counts a source. Every series has one sample in each scrape.
func (r report) count(way, source string, interval time.Duration) count {
	x := r.results[way][source]
	c := count{series: len(x.series)}
	if x.samples == 0 || interval == 0 {
		return c
	}
	for _, s := range x.series {
		switch {
		case s.pod != "" && source != nodeExporter: // there it is the exporter's own pod
			c.pods++
		case source != kubeStateMetrics && source != vmagent || strings.HasPrefix(s.name, "kube_node_"):
			c.nodes++
		}
	}
	scrapes := float64(24*time.Hour) / float64(interval)
	c.bytesAScrape = float64(x.bytes) / float64(x.samples) * float64(c.series)
	c.bytesADay, c.samplesADay = c.bytesAScrape*scrapes, float64(c.series)*scrapes
	return c
}

// byName counts the series of each metric of a source.
func (r report) byName(way, source string) map[string]int {
	all := map[string]int{}
	for _, s := range r.results[way][source].series {
		all[s.name]++
	}
	return all
}

// check holds the run against what must be true of any run.
func (r report) check() error {
	var problems []error
	for _, source := range slices.Sorted(maps.Keys(r.names.Floor)) {
		have := r.byName(ours, source)
		for _, name := range r.names.Floor[source] {
			if have[name] == 0 {
				problems = append(problems, fmt.Errorf("%s: %s is of the floor and did not arrive", source, name))
			}
		}
	}
	for name := range r.names.Elsewhere {
		for source := range r.results[ours] {
			if r.byName(ours, source)[name] > 0 {
				problems = append(problems, fmt.Errorf("%s: %s arrived, although names.yaml says why it cannot", source, name))
			}
		}
	}
	for _, way := range []string{ours, theirs, noList} {
		for _, source := range []string{cadvisor, kubeStateMetrics} {
			if c := r.count(way, source, time.Minute); c.pods < clusterPods {
				problems = append(problems, fmt.Errorf("%s, %s: only %d series speak of a pod", way, source, c.pods))
			}
		}
	}
	return errors.Join(problems...)
}

// intervals are how often a way asks a source: the chart's, the other chart's, and for no list the chart's where it has one.
func (r report) interval(way, source string) (time.Duration, error) {
	text := r.facts.Interval
	if way != theirs && source != kubeletResource {
		var err error
		if text, err = r.chart.interval(source); err != nil {
			return 0, err
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("interval of %s: %w", source, err)
	}
	return d, nil
}

func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// markdown is the page.
func (r report) markdown() (string, error) {
	const total = "**all**"
	shared := []string{cadvisor, kubeStateMetrics, nodeExporter}
	rows := []struct {
		title   string
		sources map[string][]string // by way
	}{
		{cadvisor, map[string][]string{ours: {cadvisor}, theirs: {cadvisor}, noList: {cadvisor}}},
		{kubeStateMetrics, map[string][]string{ours: {kubeStateMetrics}, theirs: {kubeStateMetrics}, noList: {kubeStateMetrics}}},
		{nodeExporter, map[string][]string{ours: {nodeExporter}, theirs: {nodeExporter}, noList: {nodeExporter}}},
		{"**these three**", map[string][]string{ours: shared, theirs: shared, noList: shared}},
		{"kubelet, `/metrics`", map[string][]string{theirs: {kubelet}, noList: {kubelet}}},
		{"kubelet, `/metrics/resource`", map[string][]string{theirs: {kubeletResource}, noList: {kubeletResource}}},
		{"vmagent itself", map[string][]string{ours: {vmagent}}},
		{total, map[string][]string{ours: append([]string{vmagent}, shared...), theirs: append([]string{kubelet, kubeletResource}, shared...), noList: append([]string{kubelet, kubeletResource}, shared...)}},
		{"*with `victoriaMetrics.kubeletVolumeStats`*", map[string][]string{ours: {kubelet}}},
	}
	ways := []string{ours, theirs, noList}
	var counted, wire strings.Builder
	all := map[string]count{}
	for _, row := range rows {
		fmt.Fprintf(&counted, "| %s |", row.title)
		fmt.Fprintf(&wire, "| %s |", row.title)
		minute := " – | |"
		for _, way := range ways {
			if row.sources[way] == nil {
				counted.WriteString(" – | | |")
				wire.WriteString(" – | | |")
				continue
			}
			var sum, slow count
			for _, source := range row.sources[way] {
				interval, err := r.interval(way, source)
				if err != nil {
					return "", err
				}
				sum = sum.plus(r.count(way, source, interval))
				slow = slow.plus(r.count(way, source, time.Minute))
			}
			fmt.Fprintf(&counted, " %s | %.1f | %.1f |", number(sum.series), float64(sum.pods)/clusterPods, float64(sum.nodes)/clusterNodes)
			fmt.Fprintf(&wire, " %.1f | %s | %s |", sum.bytesAScrape/float64(sum.series), millions(sum.bytesADay), millions(sum.samplesADay))
			if way == ours {
				minute = fmt.Sprintf(" %s | %s |", millions(slow.bytesADay), millions(slow.samplesADay))
			}
			if row.title == total {
				all[way] = sum
			}
		}
		wire.WriteString(minute + "\n")
		counted.WriteString("\n")
	}
	more, err := r.more()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, part := range []string{
		"<!-- Generated by lab/bench/series: make bench BENCH=-write -->\n\n# What the keep-list saves\n",
		fmt.Sprintf("Measured on %s (UTC) on %s, with vmagent %s, kube-state-metrics %s, node_exporter %s and the API server of Kubernetes %s.\nThe other chart is [k8s-monitoring](%s) %s at revision `%s` (%s), its cluster metrics and Linux host metrics switched on and nothing else set.\n",
			r.when.Format("2006-01-02 15:04"), r.machine, r.versions["vmagent"], r.versions["kube-state-metrics"], r.versions["node_exporter"], r.versions["kubernetes"], r.facts.Repository, r.facts.ChartVersion, r.facts.Revision[:12], r.facts.RevisionDate),
		fmt.Sprintf("%s active series instead of %s with k8s-monitoring (%.0f %% fewer) and %s without a list (%.0f %% fewer).\n", number(all[ours].series),
			number(all[theirs].series), fewer(all[ours], all[theirs]), number(all[noList].series), fewer(all[ours], all[noList])),
		fmt.Sprintf("## Active series\n\n%d nodes with %s running pods of two containers each. Per pod: series that speak of a pod. Per node: series that speak of a node and of no pod. The rest speaks of other objects.\n\n"+
			"| source | ours | per pod | per node | k8s-monitoring | per pod | per node | no list | per pod | per node |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n%s", clusterNodes, number(clusterPods), counted.String()),
		"## On the wire\n\nBytes of a sample as remote write sends it (snappy), megabytes a day, millions of samples a day (which Amazon Managed Prometheus bills). Ours and no list at our intervals: 30 s for cAdvisor, 15 s for vmagent itself,\n" +
			"60 s for the rest; k8s-monitoring at its own, 60 s. cAdvisor is asked twice as often as there, for peaks that a minute hides; the last two columns are ours with `victoriaMetrics.scrapeInterval=60s`.\n\n" +
			"| source | ours, B/sample | MB/day | M samples/day | k8s-monitoring, B/sample | MB/day | M samples/day | no list, B/sample | MB/day | M samples/day | ours at 60 s, MB/day | M samples/day |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n" + wire.String(),
		more,
		howItIsMeasured,
	} {
		text.WriteString(part + "\n")
	}
	return strings.TrimRight(text.String(), "\n") + "\n", nil
}

// fewer is by how many percent.
func fewer(a, b count) float64 { return 100 * (1 - float64(a.series)/float64(b.series)) }

// more is what stands behind the figures, metric by metric.
func (r report) more() (string, error) {
	keep, err := keepList(r.chart.keepList)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("## Where ours is more\n\n")
	least := 0
	for _, source := range []string{cadvisor, kubeStateMetrics, nodeExporter} {
		mine, other := r.byName(ours, source), r.byName(theirs, source)
		if len(r.results[ours][source].series) < len(r.results[theirs][source].series) {
			continue
		}
		least++
		fmt.Fprintf(&text, "In %s, %s series beside %s. Metrics of which ours sends more, with the reason:\n\n| metric | ours | k8s-monitoring | why |\n|---|--:|--:|---|\n", source, number(len(r.results[ours][source].series)), number(len(r.results[theirs][source].series)))
		for _, name := range ranked(mine) {
			if mine[name] <= other[name] {
				continue
			}
			reason := r.names.Beyond[name]
			if reason == "" {
				reason = r.names.More[name]
			}
			if reason == "" {
				return "", fmt.Errorf("%s: %d series of %s beside %d, and names.yaml gives no reason", source, mine[name], name, other[name])
			}
			fmt.Fprintf(&text, "| `%s` | %s | %s | %s |\n", name, number(mine[name]), number(other[name]), reason)
		}
		text.WriteString("\n")
	}
	if least == 0 {
		text.WriteString("Nowhere: each source sends fewer series than with either of the other two.\n\n")
	}
	text.WriteString("## What we keep and k8s-monitoring does not\n\n| metric | series here | why |\n|---|--:|---|\n")
	names, err := beyond(keep, r.facts)
	if err != nil {
		return "", err
	}
	all, others := map[string]int{}, map[string]int{}
	for _, source := range []string{cadvisor, kubeStateMetrics, nodeExporter} {
		maps.Copy(all, r.byName(ours, source))
		maps.Copy(others, r.byName(theirs, source))
	}
	for _, name := range names {
		fmt.Fprintf(&text, "| `%s` | %s | %s |\n", name, number(all[name]), r.names.Beyond[name])
	}
	text.WriteString("\n“Floor”: nOps's analysis has used this name, so it stays.\n\n## What k8s-monitoring keeps and we do not\n\nThe twenty with the most series:\n\n| metric | series here |\n|---|--:|\n")
	maps.DeleteFunc(others, func(name string, _ int) bool { return all[name] > 0 })
	for _, name := range ranked(others)[:min(20, len(others))] {
		fmt.Fprintf(&text, "| `%s` | %s |\n", name, number(others[name]))
	}
	total := 0
	for _, names := range r.names.Floor {
		for _, name := range names {
			if name != "up" && name != "scrape_samples_scraped" {
				total++
			}
		}
	}
	fmt.Fprintf(&text, "\n## The floor\n\nAll %d metric names of the floor that these exporters give arrived, and `up` and `scrape_samples_scraped` of every job; a run fails otherwise. These did not:\n\n| metric | why |\n|---|---|\n", total)
	for _, name := range slices.Sorted(maps.Keys(r.names.Elsewhere)) {
		fmt.Fprintf(&text, "| `%s` | %s |\n", name, r.names.Elsewhere[name])
	}
	return text.String(), nil
}

// ranked lists names by how often they are there.
func ranked(of map[string]int) []string {
	all := slices.Sorted(maps.Keys(of))
	sort.SliceStable(all, func(i, j int) bool { return of[all[i]] > of[all[j]] })
	return all
}

const howItIsMeasured = `## How it is measured

` + "`make bench`" + ` prints this page, ` + "`make bench BENCH=-write`" + ` rewrites it. The numbers of series are the same every time, but for node_exporter's, which are this machine's; bytes vary with time stamps.

- **Collected** by the real vmagent in all three cases, one process for each source so that its bytes are its own. Ours: the configuration, relabeling and arguments that the chart renders, with only the targets, the
  interval and the address of the store replaced. k8s-monitoring: its lists and rules as facts in ` + "`lab/bench/series/grafana-k8s-monitoring.yaml`" + `, applied by vmagent with the labels that the chart gives its targets
  (its own collector is Alloy, whose packing may differ). No list: the same targets and labels as ours, nothing dropped.
- **kube-state-metrics** is the real one, run with each chart's arguments (no list: with none) against a real API server that holds the cluster: the pods belong to 164 Deployments (three old ReplicaSets each), 20
  StatefulSets with a volume for each pod, 4 DaemonSets (two of them on the node's network) and 10 CronJobs with 5 Jobs each; half the containers have a CPU limit, a tenth of the pods an init container. Besides: 55
  autoscalers, 92 disruption budgets, Services, endpoints, ConfigMaps, Secrets, Ingresses, policies.
- **node_exporter** is the real one, run with each chart's arguments on this machine, and every node shows this machine's page. A node of EKS has a network interface for each pod, which ours leaves out: 4 series more for
  each in k8s-monitoring, some 35 more in the case without a list.
- **cAdvisor's** pages are made from the table ` + "`cadvisor.txt`" + `: every family that the kubelet of Kubernetes 1.36 exports, for cgroups of version 2 and containerd as on EKS, with the rows of the node, its slices, pods,
  pauses and containers, and with the interfaces of all pods on the node in the rows of pods on its network. Pressure metrics and the file systems of pods' tmpfs mounts, which would make the case without a list larger,
  are left out. The page of a real kubelet has the same families and rows, but for block devices and CPU limits, which its node did not account for.
- **The kubelet's** page is a real one with the volumes of our pods added. It was young and had few pods, so that operations which had not happened yet are missing: the figures are low.
- Pods do not come and go here. Where they do, all three columns grow alike.
`

// versions are those that the lab builds.
func versions(repo string) (map[string]string, error) {
	all := map[string]string{}
	for program, of := range map[string][2]string{"vmagent": {"victoriametrics", "github.com/VictoriaMetrics/VictoriaMetrics"}, "kube-state-metrics": {"kube-state-metrics", "k8s.io/kube-state-metrics/v2"},
		"node_exporter": {"node-exporter", "github.com/prometheus/node_exporter"}, "kubernetes": {"kubernetes", "k8s.io/kubernetes"}} {
		path := filepath.Join(repo, "lab", "third_party", of[0], "go.mod")
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("version of %s: %w", program, err)
		}
		found := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(of[1]) + ` (v\S+)`).FindSubmatch(text)
		if found == nil {
			return nil, fmt.Errorf("version of %s: %s does not require %s", program, path, of[1])
		}
		all[program] = string(found[1])
	}
	return all, nil
}
