package analyser

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/internal/rightsizing/level"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const (
	mi    = 1 << 20
	arn   = "arn:aws:eks:us-east-1:123456789012:cluster/test"
	other = "arn:aws:eks:us-east-1:123456789012:cluster/other"
	day   = 24 * time.Hour
)

// victoriaMetrics starts the real program until the test ends, and returns its address.
func victoriaMetrics(t *testing.T) string {
	t.Helper()
	path := os.Getenv("NOPSCTL_VICTORIAMETRICS")
	if path == "" {
		t.Skip("NOPSCTL_VICTORIAMETRICS names no victoria-metrics: what is asked of a store is asked of a real one (make test-unit sets it)")
	}
	free := httptest.NewServer(http.NotFoundHandler())
	address := free.Listener.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "-httpListenAddr="+address, "-storageDataPath="+t.TempDir(), "-retentionPeriod=10y", "-search.latencyOffset=0s", "-search.disableCache", "-http.maxGracefulShutdownDuration=1s", "-memory.allowedBytes=128MB")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		res, err := http.Get("http://" + address + "/health")
		if err == nil {
			_ = res.Body.Close()
			return "http://" + address
		}
		if time.Now().After(deadline) {
			t.Fatalf("victoria-metrics does not come up: %v", err)
		}
	}
}

// loading is what is loaded: series as lines of VictoriaMetrics' JSON.
type loading struct {
	bytes.Buffer
	samples int
}

func (l *loading) series(labels string, at []int64, values []float64) {
	l.samples += len(at)
	times, numbers := make([]string, len(at)), make([]string, len(at))
	for i := range at {
		times[i], numbers[i] = strconv.FormatInt(at[i], 10), strconv.FormatFloat(values[i], 'g', -1, 64)
	}
	fmt.Fprintf(l, `{"metric":{%s},"timestamps":[%s],"values":[%s]}`+"\n", labels, strings.Join(times, ","), strings.Join(numbers, ","))
}

func labels(pairs ...string) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, strconv.Quote(pairs[i])+":"+strconv.Quote(pairs[i+1]))
	}
	return strings.Join(all, ",")
}

// truth is what a container used, as the test knows it: each minute of CPU, each day's peak of memory.
type truth struct{ cpu, memory []float64 }

// run writes a pod's series from one time to another, and adds to the truth what an analysis at now must find.
func (l *loading) run(cluster, namespace, pod, container string, from, to, now time.Time, known *truth, use func(minute int) (cores, mebi float64)) {
	var at []int64
	var total, memory []float64
	sum := 0.0
	for when, minute := from, 0; !when.After(to); when, minute = when.Add(time.Minute), minute+1 {
		cores, mebi := use(minute)
		sum += cores * 60
		at, total, memory = append(at, when.UnixMilli()), append(total, sum), append(memory, mebi*mi)
	}
	if known != nil {
		peaks := map[int64]float64{}
		for i, ms := range at {
			if !time.UnixMilli(ms).After(now.Add(-30 * day)) {
				continue
			}
			switch { // two minutes' mean; at both ends of a life what there is of them
			case i >= 2:
				known.cpu = append(known.cpu, (total[i]-total[i-2])/120)
			case i == 1:
				known.cpu = append(known.cpu, (total[1]-total[0])/60)
			}
			if i == len(at)-1 && to.Before(now) {
				known.cpu = append(known.cpu, (total[i]-total[i-1])/60)
			}
			d := now.Sub(time.UnixMilli(ms)) / day
			peaks[int64(d)] = max(peaks[int64(d)], memory[i])
		}
		known.memory = append(known.memory, slices.Collect(maps.Values(peaks))...)
	}
	of := []string{"cluster", cluster, "namespace", namespace, "pod", pod, "container", container, "job", "cadvisor", "node", "n1"}
	l.series(labels(append(of, "__name__", cpuMetric, "cpu", "total")...), at, total)
	l.series(labels(append(of, "__name__", memoryMetric)...), at, memory)
}

// owns writes who owns something, every half hour.
func (l *loading) owns(metric, subject, name, namespace, kind, owner string, from, to time.Time) {
	var at []int64
	var one []float64
	for when := from; !when.After(to); when = when.Add(30 * time.Minute) {
		at, one = append(at, when.UnixMilli()), append(one, 1)
	}
	l.series(labels("__name__", metric, "cluster", arn, "namespace", namespace, subject, name, "owner_kind", kind, "owner_name", owner), at, one)
}

func (l *loading) into(t *testing.T, address string) {
	t.Helper()
	for _, path := range []string{"/api/v1/import", "/internal/force_flush"} {
		res, err := http.Post(address+path, "application/json", bytes.NewReader(l.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode/100 != 2 {
			t.Fatalf("%s: %s %s", path, res.Status, text)
		}
	}
	// A flush does not wait for what is being turned into parts meanwhile.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var seen float64
		err := (&Reader{Address: address}).Instant(t.Context(), `sum(count_over_time({__name__!=""}[40d]))`, time.Now(), func(s Series) error {
			seen = s.Points[0].Value
			return nil
		})
		if err == nil && seen == float64(l.samples) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store has %v samples, want %d: %v", seen, l.samples, err)
		}
	}
}

// at is the percentile as the sorted samples have it.
func at(samples []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max(int(math.Ceil(p*float64(len(sorted))-1e-9)), 1)-1]
}

// hold holds a recommendation against the truth: with a margin upon percentiles that are at most a bucket too large, rounded up.
func hold(t *testing.T, name string, got nopsapi.Recommended, samples []float64, p level.Percentiles, margin, unit float64) {
	t.Helper()
	for what, one := range map[string]struct{ got, p float64 }{"target": {got.Target, p.Target}, "lower": {got.Lower, p.Lower}, "upper": {got.Upper, p.Upper}} {
		exact := at(samples, one.p) * (1 + margin)
		if one.got < exact*(1-1e-6) || one.got > exact*growth*(1+1e-6)+unit {
			t.Errorf("%s: %s is %v, want %v (percentile %v of %d samples, margin %v)", name, what, one.got, exact, one.p, len(samples), margin)
		}
	}
}

// TestThirtyDays asks a real store with a month of minutes, whose percentiles are known, for every level.
func TestThirtyDays(t *testing.T) {
	address := victoriaMetrics(t)
	now := time.Now().UTC().Truncate(time.Minute)
	begin := now.Add(-31 * day) // one day more than is looked at
	random := rand.New(rand.NewPCG(1, 2))
	// Usage as it is in life: a day's swing, noise, peaks; memory that grows with the days.
	life := func(cores, mebi float64) func(int) (float64, float64) {
		return func(minute int) (float64, float64) {
			swing := 1 + 0.5*math.Sin(float64(minute)/1440*2*math.Pi)
			peak := 1.0
			if random.IntN(100) == 0 {
				peak = 3
			}
			return cores * swing * peak * (0.9 + 0.2*random.Float64()), mebi * (1 + float64(minute)/1440/60 + 0.1*random.Float64())
		}
	}
	flat := func(cores, mebi float64) func(int) (float64, float64) {
		return func(int) (float64, float64) { return cores, mebi }
	}
	var l loading
	var web, sidecar, named, night truth
	// A Deployment that was rolled out in the middle of the month: two pods of each ReplicaSet.
	for _, part := range []struct {
		set      string
		from, to time.Time
	}{{"web-6d4f5b7c8", begin, now.Add(-15*day - 5*time.Hour)}, {"web-7c8d9b4f5", now.Add(-15*day - 5*time.Hour), now}} {
		l.owns(replicaOwner, "replicaset", part.set, "shop", "Deployment", "web", part.from, part.to)
		for _, suffix := range []string{"-b2c4d", "-f5g6h"} {
			pod := part.set + suffix
			l.owns(podOwner, "pod", pod, "shop", "ReplicaSet", part.set, part.from, part.to)
			l.run(arn, "shop", pod, "app", part.from, part.to, now, &web, life(0.2, 200))
			l.run(arn, "shop", pod, "proxy", part.from, part.to, now, &sidecar, life(0.01, 30))
		}
	}
	// What must not count: another cluster's, other workloads' of a name that begins the same or is the same, the sum of a pod's cgroups.
	l.run(other, "shop", "web-6d4f5b7c8-b2c4d", "app", begin, now, now, nil, flat(50, 50000))
	l.owns(replicaOwner, "replicaset", "web-api-6d4f5b7c8", "shop", "Deployment", "web-api", begin, now)
	l.owns(podOwner, "pod", "web-api-6d4f5b7c8-b2c4d", "shop", "ReplicaSet", "web-api-6d4f5b7c8", begin, now)
	l.run(arn, "shop", "web-api-6d4f5b7c8-b2c4d", "app", begin, now, now, nil, flat(40, 40000))
	l.owns(replicaOwner, "replicaset", "web-8f9b5d6c4", "shop", "Rollout", "web", begin, now)
	l.owns(podOwner, "pod", "web-8f9b5d6c4-b2c4d", "shop", "ReplicaSet", "web-8f9b5d6c4", begin, now)
	l.run(arn, "shop", "web-8f9b5d6c4-b2c4d", "app", begin, now, now, nil, flat(30, 30000))
	l.run(arn, "shop", "web-6d4f5b7c8-b2c4d", "", begin, now, now, nil, flat(60, 60000))
	// A namespace that kube-state-metrics says nothing of.
	l.run(arn, "legacy", "db-0", "db", begin, now, now, &named, life(0.7, 900))
	l.run(arn, "legacy", "db-1", "db", begin, now, now, &named, life(0.3, 400))
	l.run(arn, "legacy", "dba-0", "db", begin, now, now, nil, flat(70, 70000))
	// A CronJob: a pod of ten minutes each night, of a Job that is known to belong to it.
	for d := range 29 {
		job := fmt.Sprintf("night-%08d", 29400000+d*1440)
		if d%2 == 0 { // begun by hand: its name says nothing
			job = fmt.Sprintf("night-by-hand-%d", d)
		}
		start := now.Add(-time.Duration(29-d) * day).Add(3 * time.Hour)
		l.owns(jobOwner, "job_name", job, "shop", "CronJob", "night", start, start)
		l.owns(podOwner, "pod", job+"-b2c4d", "shop", "Job", job, start, start)
		l.run(arn, "shop", job+"-b2c4d", "run", start, start.Add(9*time.Minute), now, &night, life(1, 100+float64(d)))
	}
	// Too young, by a minute.
	l.run(arn, "legacy", "young-b2c4d", "app", now.Add(-day).Add(3*time.Minute), now, now, nil, flat(1, 100))
	l.into(t, address)

	want := []nopsapi.RightsizedWorkload{
		{WorkloadRef: of("Deployment", "web"), Containers: []string{"app", "proxy", "ghost"}}, {WorkloadRef: of("CronJob", "night")},
		{WorkloadRef: of("StatefulSet", "db")}, {WorkloadRef: of("DaemonSet", "young"), Containers: []string{"app"}}, {WorkloadRef: of("Deployment", "gone")}, {WorkloadRef: of("DaemonSet", "odd")},
	}
	for i := 2; i < 5; i++ {
		want[i].Namespace = "legacy"
	}
	var before map[string]nopsapi.ContainerRecommendation
	for _, lvl := range append([]level.Level{""}, level.All()...) {
		for i := range want {
			want[i].Level = string(lvl)
		}
		want[5].Level = "Reckless"
		got, err := Run(t.Context(), &Reader{Address: address}, Options{Cluster: arn, Workloads: want, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		e, _ := lvl.Estimation()
		all := map[string]nopsapi.ContainerRecommendation{}
		for _, w := range got.Workloads {
			if w.Level != string(lvl) {
				t.Errorf("%s is for level %q, want %q", w.Name, w.Level, lvl)
			}
			for _, c := range w.Containers {
				all[w.Name+"/"+c.Name] = c
			}
		}
		for name, known := range map[string]*truth{"web/app": &web, "web/proxy": &sidecar, "db/db": &named, "night/run": &night} {
			c, is := all[name]
			if !is {
				t.Errorf("%s: %s: nothing is recommended", lvl, name)
				continue
			}
			if c.Samples != int64(len(known.cpu)) {
				t.Errorf("%s: %s: %d samples, want %d", lvl, name, c.Samples, len(known.cpu))
			}
			hold(t, string(lvl)+" "+name+" cpu", c.CPU, known.cpu, e.CPU, e.Margin, 0.001)
			hold(t, string(lvl)+" "+name+" memory", c.Memory, known.memory, e.Memory, e.Margin, 1)
			if b, is := before[name]; is && (c.CPU.Target < b.CPU.Target || c.Memory.Target < b.Memory.Target || c.CPU.Upper < b.CPU.Upper || c.Memory.Lower < b.Memory.Lower) {
				t.Errorf("%s: %s is below the level before: %+v, %+v", lvl, name, b, c)
			}
		}
		if len(all) != 4 {
			t.Errorf("%s: recommended for %v, want four containers", lvl, slices.Sorted(maps.Keys(all)))
		}
		if lvl != "" { // without a level upstream's percentiles hold, which are no part of the row
			before = all
		}
		if days := all["web/app"].Days; days != 30 {
			t.Errorf("%v days of web", days)
		}
		var said []string
		for _, s := range got.Skipped {
			said = append(said, s.String())
		}
		for _, part := range []string{
			"Deployment shop/web, container ghost: the store has no usage of the last 30 days", "DaemonSet legacy/young, container app: its usage is known for 23h5",
			"Deployment legacy/gone: the store has no usage", `DaemonSet shop/odd: level "Reckless" is not known`,
		} {
			if !slices.ContainsFunc(said, func(line string) bool { return strings.HasPrefix(line, part) }) {
				t.Errorf("nobody says %q: %q", part, said)
			}
		}
		if len(said) != 4 || got.Chunks != 60 {
			t.Errorf("%d are skipped: %q; %d chunks", len(said), said, got.Chunks)
		}
	}
	// A shorter history, as a story has it, and less that is needed.
	short, err := Run(t.Context(), &Reader{Address: address}, Options{Cluster: arn, Now: now, Workloads: want[3:4], Settings: Settings{History: 10 * time.Minute, Min: 2 * time.Minute}})
	if err != nil || len(short.Workloads) != 1 {
		t.Fatalf("%v, %+v", err, short)
	}
	if c := short.Workloads[0].Containers[0]; c.Samples != 10 || c.CPU.Lower < 1.25 || c.CPU.Upper > 1.2501*growth || c.Memory.Target < 125*mi || c.Memory.Target > 125*mi*growth {
		t.Errorf("of ten minutes: %+v", c)
	}
}
