package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

//go:embed cadvisor.txt
var cadvisorTable string

//go:embed kubelet.txt
var kubeletSeries string

// A family is one line of the table of what cAdvisor says.
type family struct {
	name, kind, rows string
	labels           []label
}

// A label of a family, with a value for each row that the family has in a cgroup.
type label struct {
	name   string
	values []string
}

// parseFamilies reads the table.
func parseFamilies(table string) ([]family, error) {
	var all []family
	for i, line := range strings.Split(table, "\n") {
		columns := strings.Fields(line)
		if len(columns) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(columns) < 3 || !slices.Contains([]string{"all", "root", "quota", "main", "net", "machine"}, columns[2]) {
			return nil, fmt.Errorf("cadvisor.txt, line %d: %q is not a family, a type and the rows that have it", i+1, line)
		}
		f := family{name: columns[0], kind: columns[1], rows: columns[2]}
		for _, column := range columns[3:] {
			name, values, found := strings.Cut(column, "=")
			if !found {
				return nil, fmt.Errorf("cadvisor.txt, line %d: %q is not a label", i+1, column)
			}
			f.labels = append(f.labels, label{name, strings.Split(values, ",")})
		}
		all = append(all, f)
	}
	return all, nil
}

// A cgroup is one row of most families.
type cgroup struct {
	id, name, image, namespace, pod, container string
	quota                                      bool     // it has a CPU limit
	interfaces                                 []string // of its own network
}

// cgroups lists what a kubelet with containerd accounts for on a node: the node, its slices, and for each pod the pod, its
// pause and its containers. Every pod on the node's network shows the node's interfaces as its own, those of all other pods
// among them.
func cgroups(node string, pods []pod) []cgroup {
	host := []string{"ens5"}
	for _, p := range pods {
		if p.node == node && !p.hostNetwork {
			host = append(host, "eni"+token(11, p.namespace, p.name))
		}
	}
	all := []cgroup{{id: "/", interfaces: host}}
	for _, id := range []string{"/kubepods.slice", "/kubepods.slice/kubepods-besteffort.slice", "/kubepods.slice/kubepods-burstable.slice",
		"/runtime.slice", "/runtime.slice/containerd.service", "/runtime.slice/kubelet.service", "/system.slice"} {
		all = append(all, cgroup{id: id})
	}
	for _, p := range pods {
		if p.node != node {
			continue
		}
		slice := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(uuid(p.namespace, p.name), "-", "_") + ".slice"
		own := []string{"eth0"}
		if p.hostNetwork {
			own = host
		}
		scope := func(c cgroup, what string) cgroup {
			c.name = hex.EncodeToString(digest(p.namespace, p.name, what))
			c.id = slice + "/cri-containerd-" + c.name + ".scope"
			c.namespace, c.pod = p.namespace, p.name
			return c
		}
		all = append(all, cgroup{id: slice, namespace: p.namespace, pod: p.name, quota: p.cpuLimit},
			scope(cgroup{image: "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/pause:3.10", interfaces: own}, "pause"))
		for _, c := range p.containers {
			all = append(all, scope(cgroup{container: c.name, image: c.image, quota: p.cpuLimit}, c.name))
		}
	}
	return all
}

// cadvisorPage is a node's /metrics/cadvisor.
func cadvisorPage(families []family, node string, pods []pod) []byte {
	var page bytes.Buffer
	groups := cgroups(node, pods)
	written := ""
	for _, f := range families {
		if f.name != written {
			fmt.Fprintf(&page, "# TYPE %s %s\n", f.name, f.kind)
			written = f.name
		}
		if f.rows == "machine" {
			f.write(&page, node, nil, nil)
			continue
		}
		for _, c := range groups {
			if f.rows == "root" && c.id != "/" || f.rows == "quota" && !c.quota || f.rows == "main" && c.image == "" || f.rows == "net" && c.interfaces == nil {
				continue
			}
			own := []label{{"container", []string{c.container}}, {"id", []string{c.id}}, {"image", []string{c.image}}, {"name", []string{c.name}}, {"namespace", []string{c.namespace}}, {"pod", []string{c.pod}}}
			if f.rows != "net" {
				f.write(&page, node, own, nil)
				continue
			}
			for _, i := range c.interfaces {
				f.write(&page, node, own, []label{{"interface", []string{i}}})
			}
		}
	}
	return page.Bytes()
}

// write writes the rows of a family in one cgroup.
func (f family) write(page *bytes.Buffer, node string, own, more []label) {
	labels := slices.Concat(own, f.labels, more)
	slices.SortFunc(labels, func(a, b label) int { return strings.Compare(a.name, b.name) })
	rows := 1
	for _, l := range labels {
		rows = max(rows, len(l.values))
	}
	for row := range rows {
		var series strings.Builder
		series.WriteString(f.name)
		for i, l := range labels {
			value := l.values[row%len(l.values)]
			if name, ok := strings.CutPrefix(value, "$"); ok {
				value = uuid(node, name)
			}
			fmt.Fprintf(&series, "%s%s=%q", string("{,"[min(i, 1)]), l.name, value)
		}
		if len(labels) > 0 {
			series.WriteString("}")
		}
		fmt.Fprintf(page, "%s %s 1761000000000\n", series.String(), f.value(node, series.String()))
	}
}

// value makes a number up that compresses like a real one: of the size and with the digits that the family has.
func (f family) value(node, series string) string {
	n := binary.BigEndian.Uint64(digest(node, series))
	switch {
	case strings.Contains(f.name, "seconds"):
		return strconv.FormatFloat(float64(n%1e15)/1e9, 'g', -1, 64)
	case f.name == "container_spec_cpu_period":
		return "100000"
	case strings.Contains(f.name, "memory") || strings.Contains(f.name, "bytes"):
		return strconv.FormatFloat(float64(n%(1<<20)*4096), 'g', -1, 64)
	case f.kind == "counter":
		return strconv.FormatUint(n%1e8, 10)
	}
	return strconv.FormatUint(n%100, 10)
}

// resourcePage is a node's /metrics/resource.
func resourcePage(node string, pods []pod) []byte {
	var page bytes.Buffer
	row := func(name, labels string) {
		f := family{name: name}
		fmt.Fprintf(&page, "%s%s %s\n", name, labels, f.value(node, name+labels))
	}
	for _, name := range []string{"node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "node_swap_usage_bytes", "resource_scrape_error"} {
		row(name, "")
	}
	for _, p := range pods {
		if p.node != node {
			continue
		}
		for _, name := range []string{"pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes", "pod_swap_usage_bytes"} {
			row(name, fmt.Sprintf("{namespace=%q,pod=%q}", p.namespace, p.name))
		}
		for _, c := range p.containers {
			for _, name := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds", "container_swap_limit_bytes", "container_swap_usage_bytes"} {
				row(name, fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.name, p.namespace, p.name))
			}
		}
	}
	return page.Bytes()
}

// kubeletPage is a node's /metrics.
func kubeletPage(node string, pods []pod) []byte {
	var page bytes.Buffer
	row := func(series string) {
		name, _, _ := strings.Cut(series, "{")
		f := family{name: name}
		fmt.Fprintf(&page, "%s %s\n", series, f.value(node, series))
	}
	for _, line := range strings.Split(strings.TrimSpace(kubeletSeries), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.ReplaceAll(line, "$node", node)
		before, bounds, found := strings.Cut(line, `le="`)
		if !found {
			row(line)
			continue
		}
		bounds, after, _ := strings.Cut(bounds, `"`)
		for _, le := range strings.Split(bounds, "|") {
			row(before + `le="` + le + `"` + after)
		}
	}
	for _, p := range pods {
		if p.node != node || p.claim == "" {
			continue
		}
		for _, what := range []string{"available_bytes", "capacity_bytes", "inodes", "inodes_free", "inodes_used", "used_bytes"} {
			row(fmt.Sprintf("kubelet_volume_stats_%s{namespace=%q,persistentvolumeclaim=%q}", what, p.namespace, p.claim))
		}
	}
	return page.Bytes()
}

// digest, uuid and token make what a cluster makes at random, the same every time.
func digest(of ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(of, "\x00")))
	return sum[:]
}

func uuid(of ...string) string {
	b := digest(append([]string{"uuid"}, of...)...)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func token(length int, of ...string) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789" // those of Kubernetes' names
	b := digest(append([]string{"token"}, of...)...)[:length]
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}
