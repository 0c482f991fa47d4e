package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/lab/bench/here"
	"github.com/nopsctl/nopsctl/lab/ca"
)

// TestPage: the page in docs has today's text, goals and measures, for each cluster that it is about.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../" + pageFile)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	updaters := strings.Contains(page, "\n| updater: ")
	wants := []string{howItIsMeasured + without(updaters)}
	has := func(p profile) bool { return strings.Contains(page, "\n## "+p.title()+"\n") }
	if names := missing(has); len(names) > 0 {
		t.Errorf("%s is not about %s: measure with make bench BENCH=-write", pageFile, strings.Join(names, ", "))
	}
	for _, p := range profiles() {
		if !has(p) {
			continue
		}
		wants = append(wants, fmt.Sprintf("%d pods and ", p.pods()), fmt.Sprintf("in %d namespaces; an interval of %s.", p.Namespaces, p.Interval))
		for _, m := range measures(p, updaters) {
			wants = append(wants, "\n| "+m.name+" | ")
		}
		for _, g := range example(p).goals() {
			wants = append(wants, "\n| "+g.name+" | ")
		}
	}
	for _, want := range wants {
		if !strings.Contains(page, want) {
			t.Errorf("%s does not have %q: measure again with make bench BENCH=-write", pageFile, want)
		}
	}
}

// TestPageIsWhole: which clusters a page has to be about, and that none is written without one of them.
func TestPageIsWhole(t *testing.T) {
	for _, tt := range []struct{ has, want string }{{"small,1k,5k", ""}, {"1k,5k", ""}, {"small,1k", "5k"}, {"5k", "1k"}, {"small", "1k,5k"}, {"", "1k,5k"}} {
		got := strings.Join(missing(func(p profile) bool { return slices.Contains(strings.Split(tt.has, ","), p.Name) }), ",")
		if got != tt.want {
			t.Errorf("a page about %q lacks %q, want %q", tt.has, got, tt.want)
		}
	}
	if err := run(t.Context(), []string{"-write", "-profile=1k"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "leaves out 5k") {
		t.Errorf("a page without 5k is written: %v", err)
	}
}

// TestRequests: a request is what an API server takes it for.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		method, url string
		want        request
	}{
		{"GET", "/api/v1/pods?limit=500", request{"c", "list", "", "pods"}},
		{"GET", "/api/v1/pods?watch=true", request{"c", "watch", "", "pods"}},
		{"GET", "/api/v1/pods?watch=1", request{"c", "watch", "", "pods"}},
		{"GET", "/api/v1/namespaces", request{"c", "list", "", "namespaces"}},
		{"GET", "/api/v1/namespaces/a", request{"c", "get", "", "namespaces"}},
		{"PUT", "/api/v1/namespaces/a/status", request{"c", "update", "", "namespaces/status"}},
		{"GET", "/api/v1/namespaces/a/pods", request{"c", "list", "", "pods"}},
		{"PATCH", "/api/v1/namespaces/a/pods/b/status", request{"c", "patch", "", "pods/status"}},
		{"POST", "/apis/vpa.nops.io/v1/namespaces/a/verticalpodautoscalercheckpoints", request{"c", "create", "vpa.nops.io", checkpoints}},
		{"PATCH", "/apis/autoscaling.k8s.io/v1/namespaces/a/verticalpodautoscalers/b/status", request{"c", "patch", "autoscaling.k8s.io", autoscalers + "/status"}},
		{"DELETE", "/apis/apps/v1/namespaces/a/deployments/b", request{"c", "delete", "apps", "deployments"}},
		{"DELETE", "/apis/apps/v1/namespaces/a/deployments", request{"c", "deletecollection", "apps", "deployments"}},
		{"GET", "/apis/apps/v1", request{"c", "get", "", "/apis/apps/v1"}},
		{"GET", "/version", request{"c", "get", "", "/version"}},
	} {
		r := httptest.NewRequest(tt.method, tt.url, nil)
		r.Header.Set("User-Agent", "c/v1 (linux/amd64)")
		if diff := cmp.Diff(tt.want, requestOf(r)); diff != "" {
			t.Errorf("%s %s:\n%s", tt.method, tt.url, diff)
		}
	}
}

// TestShim: a real client reaches the API server through it, with the shim's credentials; watches flow; usage is the shim's; all is counted.
func TestShim(t *testing.T) {
	release := make(chan struct{})
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}}
		switch {
		case r.URL.Query().Get("watch") != "":
			object, _ := json.Marshal(pod)
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", object)
			w.(http.Flusher).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case strings.HasSuffix(r.URL.Path, "/pods") && r.Method == http.MethodGet:
			_ = json.NewEncoder(w).Encode(&corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{*pod}})
		default:
			_ = json.NewEncoder(w).Encode(pod)
		}
	}))
	defer api.Close()
	defer close(release)
	authority, err := ca.Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.Certificate(time.Now(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newShim(api.URL, "right", certificate, listener, func(client string) []byte { return []byte(`{"kind":"PodMetricsList","items":["` + client + `"]}`) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://" + s.address, UserAgent: "tester/v1", BearerToken: "wrong", ContentConfig: rest.ContentConfig{ContentType: "application/json"}, TLSClientConfig: rest.TLSClientConfig{CAData: authority.PEM()}})
	if err != nil {
		t.Fatal(err)
	}
	before := s.counted()
	pods, ctx := client.CoreV1().Pods("a"), t.Context()
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	watch, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	select {
	case e := <-watch.ResultChan():
		if p, is := e.Object.(*corev1.Pod); !is || p.Name != "b" {
			t.Errorf("watched %v", e)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a watch is held back")
	}
	for range 3 {
		if _, err := pods.Patch(ctx, "b", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pods.Create(ctx, &corev1.Pod{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _ = client.CoordinationV1().Leases("a").Patch(ctx, "l", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}) // the answer is a pod
	usage, err := client.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/pods").DoRaw(ctx)
	if err != nil || !strings.Contains(string(usage), `"tester"`) {
		t.Errorf("usage: %s, %v", usage, err)
	}
	got := s.counted().since(before)
	want := counts{
		{"tester", "list", "", "pods"}: 1, {"tester", "watch", "", "pods"}: 1, {"tester", "patch", "", "pods/status"}: 3, {"tester", "create", "", "pods"}: 1,
		{"tester", "patch", "coordination.k8s.io", "leases"}: 1, {"tester", "list", "metrics.k8s.io", "pods"}: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"pods": 4}, got.writes()); diff != "" {
		t.Errorf("writes, but for Leases:\n%s", diff)
	}
	plain := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	res, err := plain.Get("https://" + s.address + "/version")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Errorf("clients get %s", res.Proto)
	}
}

const page = `# HELP vpa_recommender_execution_latency_seconds Time.
# TYPE vpa_recommender_execution_latency_seconds histogram
vpa_recommender_execution_latency_seconds_bucket{step="LoadPods",le="+Inf"} %d
vpa_recommender_execution_latency_seconds_sum{step="LoadPods"} %g
vpa_recommender_execution_latency_seconds_count{step="LoadPods"} %d
vpa_recommender_execution_latency_seconds_sum{step="total"} %g
vpa_recommender_execution_latency_seconds_count{step="total"} %d
go_memstats_next_gc_bytes 2.097152e+07
`

// TestSteps: what a step takes is the mean of the loops between two moments.
func TestSteps(t *testing.T) {
	at := func(loops int, pods, total float64) moment {
		s, err := parse(strings.NewReader(fmt.Sprintf(page, loops, pods, loops, total, loops)))
		if err != nil {
			t.Fatal(err)
		}
		if s.liveHeap() != 10<<20 {
			t.Errorf("live heap: %d", s.liveHeap())
		}
		return moment{samples: s}
	}
	p := &program{name: "recommender"}
	got, loops := between(p, at(2, 1.5, 4), at(6, 2.5, 12))
	if loops != 4 {
		t.Errorf("%d loops", loops)
	}
	if diff := cmp.Diff(map[string]time.Duration{"LoadPods": 250 * time.Millisecond, "total": 2 * time.Second}, got); diff != "" {
		t.Error(diff)
	}
	if got, loops := between(p, moment{samples: samples{}}, at(1, 1, 3)); loops != 1 || got["total"] != 3*time.Second {
		t.Errorf("first loop: %v of %d", got, loops)
	}
	if _, loops := between(p, at(2, 1, 3), at(2, 1, 3)); loops != 0 {
		t.Errorf("%d loops in no time", loops)
	}
	if _, err := parse(strings.NewReader("x y\n")); err == nil {
		t.Error("a line without a value is taken")
	}
}

// TestFootprint: what this process takes is read.
func TestFootprint(t *testing.T) {
	busy := uint64(0)
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; { // a few ticks
		busy = mix(busy)
	}
	f, err := footprintOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if f.CPU <= 0 || busy == 0 || f.CPU > time.Hour || f.RSS < 1<<20 || f.Top < f.RSS {
		t.Errorf("%+v", f)
	}
}

// TestUsage: the same question gets the same answer, whoever takes a pod's place uses the same, and the history has the usage's distribution.
func TestUsage(t *testing.T) {
	fill := func() *world {
		w := &world{profile: profiles()[0], asked: map[string]int{}}
		w.Autoscalers = 10
		for i := range w.Autoscalers {
			for slot := range w.Pods {
				p, _ := w.newPod(i, slot)
				w.pods = append(w.pods, p)
			}
		}
		return w
	}
	type list struct {
		Items []struct {
			Metadata   metav1.ObjectMeta
			Containers []struct {
				Name  string
				Usage corev1.ResourceList
			}
		}
	}
	ask := func(w *world) (l list) {
		t.Helper()
		if err := json.Unmarshal(w.usage("c"), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	used := func(l list) []string {
		var all []string
		for _, p := range l.Items {
			for _, c := range p.Containers {
				all = append(all, c.Name+" "+c.Usage.Cpu().String()+" "+c.Usage.Memory().String())
			}
		}
		return all
	}
	a, b := fill(), fill()
	first := used(ask(a))
	if len(first) != 75 {
		t.Fatalf("%d containers, want 75", len(first))
	}
	if diff := cmp.Diff(first, used(ask(b))); diff != "" {
		t.Errorf("the first answers differ:\n%s", diff)
	}
	if cmp.Equal(first, used(ask(a))) {
		t.Error("nothing moves")
	}
	b.made = 1000
	p, _ := b.newPod(b.pods[3].workload, b.pods[3].slot)
	if p.name == b.pods[3].name || p.hash != b.pods[3].hash {
		t.Errorf("a pod's place is taken by %+v, it was %+v", p, b.pods[3])
	}
	// Samples of one container lie in the buckets of its history, and about as often.
	c := fill()
	name, counted := containers(0)[0], map[int]int{}
	const asked = 2000
	for range asked {
		l := ask(c)
		cores := l.Items[0].Containers[0].Usage.Cpu().AsApproximateFloat64()
		bucket := int(math.Log(cores*(bucketGrowth-1)/firstCPU+1) / math.Log(bucketGrowth))
		counted[bucket-level("cpu", 0, name)]++
	}
	total := 0
	for _, n := range cpuSpread() {
		total += n
	}
	for i, n := range cpuSpread() {
		want, got := float64(asked*n)/float64(total), counted[i-len(cpuSpread())/2]
		if math.Abs(float64(got)-want) > 4*math.Sqrt(want)+5 {
			t.Errorf("bucket %+d: %d samples, want about %.0f", i-len(cpuSpread())/2, got, want)
		}
	}
	h := histogram(20, memorySpread(), 10, time.Unix(0, 0))
	if got := slices.Sorted(maps.Keys(h["bucketWeights"].(map[string]any))); !slices.Equal(got, []string{"18", "19", "20", "21", "22"}) {
		t.Errorf("buckets %v", got)
	}
}

// example are cells that meet every goal.
func example(p profile) cells {
	c := cells{profile: p}
	for i, program := range rounds() {
		one := &cell{Profile: p.Name, Program: program, Round: i, When: time.Date(2027, 1, 4, 12, 10*i, 0, 0, time.UTC), Took: 5 * time.Minute, Machine: "a machine", Load: "0.1"}
		r := &one.Recommender
		r.Recommended, r.Restart, r.Loop = duration{Took: time.Second}, duration{Took: 2 * time.Second}, duration{Took: time.Second}
		r.Steps = map[string]time.Duration{"total": time.Second, "MaintainCheckpoints": time.Millisecond}
		r.Loops, r.Steady, r.Writes, r.Heaps = 6, time.Minute, map[string]int{autoscalers: p.Autoscalers / 200, "leases": 1000}, []int64{100, 101, 102, 103}
		r.Targets, r.Bounds = map[string]string{}, map[string]string{}
		for w := range p.Autoscalers {
			for _, name := range containers(w) {
				key := workloadName(w) + "/" + name
				r.Targets[key], r.Bounds[key] = `{"cpu":"1"}`, fmt.Sprintf(`{"cpu":"900m","memory":"1000000"} {"cpu":"2","memory":"%d"}`, 2000000+i)
			}
		}
		if program == upstream {
			r.Steps["MaintainCheckpoints"] = 40 * time.Millisecond
		}
		c.all = append(c.all, one)
	}
	for _, program := range []string{ours, upstream} {
		one := &cell{Profile: p.Name, Program: program, Round: len(rounds()), When: time.Date(2027, 1, 4, 13, 0, 0, 0, time.UTC), Took: 5 * time.Minute, Machine: "a machine", Load: "0.1"}
		some := []time.Duration{3e6, 2e6, 90e6, 25e5, 35e5, 31e5, 21e5, 26e5}
		for range 2 {
			one.Admission.Direct.P50, one.Admission.Direct.P99 = append(one.Admission.Direct.P50, some...), append(one.Admission.Direct.P99, some...)
		}
		one.Admission.Through, one.Admission.Bare = one.Admission.Direct, one.Admission.Direct
		c.duel = append(c.duel, one)
	}
	return c
}

// TestGoals: each of them can be missed, and is told then.
func TestGoals(t *testing.T) {
	p := profiles()[0]
	if err := (report{profiles: []cells{example(p)}}).check(); err != nil {
		t.Fatal(err)
	}
	mine := func(f func(*cell)) func(*cells) {
		return func(c *cells) {
			for _, one := range c.of(ours) {
				f(one)
			}
		}
	}
	slow := []time.Duration{4e6, 41e5, 42e5, 5e6, 39e5, 91e6, 6e6, 37e5}
	slow = append(slow, slow...)
	for _, tt := range []struct {
		want  string
		spoil func(*cells)
	}{
		{"a steady loop", mine(func(c *cell) { c.Recommender.Loop.Took = 3 * time.Second })},
		{"checkpoints take", mine(func(c *cell) { c.Recommender.Steps["MaintainCheckpoints"] = 3 * time.Millisecond })},
		{"writes a minute", mine(func(c *cell) { c.Recommender.Writes[checkpoints] = 5 })},
		{"live heap", mine(func(c *cell) { c.Recommender.Heaps = []int64{100, 100, 120, 120} })},
		{"live heap", mine(func(c *cell) { c.Recommender.Heaps = nil })},
		{"restart", mine(func(c *cell) { c.Recommender.Restart.Took = 11 * time.Second })},
		{"webhook, p99", func(c *cells) { c.duelled(ours).Admission.Direct.P99 = slow }},
		{"webhook, p99", func(c *cells) { c.duelled(ours).Admission.Direct.P99 = nil }},
		{"pod through the API server", func(c *cells) { c.duelled(ours).Admission.Through.P99 = slow }},
		{"targets", func(c *cells) { c.of(upstream)[0].Recommender.Targets["app-00003/app"] = "{}" }},
		{"targets", func(c *cells) { c.of(ours)[1].Recommender.Targets["another"] = "{}" }},
		{"targets", func(c *cells) { c.of(ours)[0].Recommender.Targets = nil }},
		{"targets", func(c *cells) { c.of(ours)[1].Recommender.Bounds["app-00003/app"] = `{"cpu":"950m"} {"cpu":"2"}` }},
	} {
		c := example(p)
		tt.spoil(&c)
		err := report{profiles: []cells{c}}.check()
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("spoilt %q: %v", tt.want, err)
		}
	}
	chancy := example(p)
	some := []time.Duration{2e6, 21e5, 25e5, 26e5, 36e5, 4e6, 5e6, 90e6} // the middle is higher, and most that is low is as low
	chancy.duelled(ours).Admission.Direct.P99 = append(some, some...)
	if err := (report{profiles: []cells{chancy}}).check(); err != nil {
		t.Errorf("what chance does is told as missed: %v", err)
	}
	if text := (report{profiles: []cells{chancy}}).markdown(); strings.Contains(text, "All were met.") || !strings.Contains(text, "Above upstream's, by less than counts") || !strings.Contains(text, "2.80 ms (26 %)") || !strings.Contains(text, "webhook, p99 with ") {
		t.Errorf("what is above upstream's is told as met:\n%s", text)
	}
	late := example(p)
	for _, c := range late.of(upstream) {
		c.Recommender.Loop, c.Recommender.Loops, c.Recommender.Steps = duration{6 * time.Minute, true}, 0, nil
		c.Recommender.NoChurn = "its loop takes long"
	}
	text := report{profiles: []cells{late}}.markdown()
	for _, want := range []string{"> 360 s (360 s, 360 s)", "> 360 |", "not looked at with churn", "All were met."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the page of a loop without end:\n%s", want, text)
		}
	}
	for _, tt := range []struct {
		load string
		want bool
	}{{"0.52", false}, {"5.99", false}, {"17.2", true}, {"unknown", false}} {
		c := example(p)
		c.all[2].Load = tt.load
		if r := (report{profiles: []cells{c}}); r.busy() != tt.want || strings.Contains(r.markdown(), "had other work") != tt.want {
			t.Errorf("with a load average of %s: busy %v", tt.load, r.busy())
		}
	}
	for want, a := range map[string]asking{
		"takes the API server 0.50 ms more processor time for each pod that meets it, and 1.50 ms less for each that does not. By that it pays where more than 25 % of new pods do not meet it.": {Owned: []time.Duration{4e6, 9e9, 4e6}, OwnedCondition: []time.Duration{45e5}, Bare: []time.Duration{35e5}, BareCondition: []time.Duration{2e6}},
		"0.50 ms more processor time for each pod that meets it, and -0.10 ms less for each that does not. By that it never pays.":                                                               {Owned: []time.Duration{4e6, 9e9, 4e6}, OwnedCondition: []time.Duration{45e5}, Bare: []time.Duration{35e5}, BareCondition: []time.Duration{36e5}},
		"That it takes more could not be seen.": {Owned: []time.Duration{4e6, 9e9, 4e6}, OwnedCondition: []time.Duration{39e5}, Bare: []time.Duration{35e5}, BareCondition: []time.Duration{2e6}},
	} {
		dear := example(p)
		dear.duelled(ours).Admission.Asking = a
		if text := (report{profiles: []cells{dear}}).markdown(); !strings.Contains(text, want) {
			t.Errorf("%q is not in the page of a condition:\n%s", want, text)
		}
	}
	for _, tt := range []struct {
		loops int
		want  []string
	}{{0, []string{"Nor are the updater and the policy controller."}}, {3, []string{"| updater: processor time of a loop | 200 ms (200 ms, 200 ms) | 300 ms (300 ms, 300 ms) | 1.5 |", "| updater: resident memory at most | 100.0 MiB", "- **The updater**", "Nor is the policy controller."}}} {
		c := example(p)
		for _, one := range c.all {
			one.Updater = updating{Loops: tt.loops, CPU: 200 * time.Millisecond, RSS: 100 << 20}
			if one.Program == upstream {
				one.Updater.CPU = 300 * time.Millisecond
			}
		}
		text := report{profiles: []cells{c}}.markdown()
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("with %d loops of updaters, %q is not in the page:\n%s", tt.loops, want, text)
			}
		}
		if tt.loops == 0 && strings.Contains(text, "| updater: ") {
			t.Errorf("updaters that were not measured have rows:\n%s", text)
		}
	}
	idle := example(p)
	for _, c := range idle.of(ours) {
		c.Recommender.Steps["MaintainCheckpoints"] = 0
	}
	if text := (report{profiles: []cells{idle}}).markdown(); !strings.Contains(text, "| 90 times |") {
		t.Errorf("checkpoints that are due by their age are written in no time:\n%s", text)
	}
	missed := example(p)
	missed.of(ours)[0].Recommender.Restart.Took = time.Minute
	if text := (report{profiles: []cells{missed}}).markdown(); !strings.Contains(text, "**Missed**") || !strings.Contains(text, "| **31.00 s** |") {
		t.Errorf("a goal that was missed is not told:\n%s", text)
	}
}

// TestCells: what was measured is found again, unless it was something else.
func TestCells(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	c := example(profiles()[0]).all[1]
	c.Fingerprint = "now"
	if err := keep(dir, c); err != nil {
		t.Fatal(err)
	}
	got, err := recall(dir, "now", c.Profile, upstream, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		name, fingerprint, program string
		round                      int
	}{{"other programs", "then", upstream, 1}, {"another round", "now", upstream, 2}, {"another program", "now", ours, 1}} {
		if got, err := recall(dir, tt.fingerprint, c.Profile, tt.program, tt.round); err != nil || got != nil {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
	if err := os.WriteFile(cellFile(dir, c.Profile, upstream, 1), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := recall(dir, "now", c.Profile, upstream, 1); err != nil || got != nil {
		t.Errorf("half a file: %v, %v", got, err)
	}
}

// TestOurWebhook: what the API server is told is what the chart says, for pods of our side alone.
func TestOurWebhook(t *testing.T) {
	repo, err := here.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bench: &bench{repo: repo}}
	mine := w.stack(ours)
	mine.namespace = "elsewhere"
	for render, conditions := range map[string]int{golden: 0, goldenSettings: 1} {
		got, err := w.ourWebhook(mine, render)
		if err != nil {
			t.Fatal(err)
		}
		pods := got.Webhooks[0]
		if len(got.Webhooks) != 2 || len(pods.MatchConditions) != conditions || pods.NamespaceSelector.MatchLabels[sideLabel] != ours || len(pods.NamespaceSelector.MatchExpressions) != 1 || *pods.TimeoutSeconds != 5 || pods.ClientConfig.Service.Namespace != "elsewhere" {
			t.Errorf("%s: %+v", render, got.Webhooks)
		}
	}
	if _, err := w.ourWebhook(w.stack(upstream), golden); err == nil {
		t.Error("the chart has upstream's webhook")
	}
}

// TestMiddle: medians and quantiles.
func TestMiddle(t *testing.T) {
	for _, tt := range []struct {
		all  []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{1, 4}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := middle(tt.all); got != tt.want {
			t.Errorf("%v: %g", tt.all, got)
		}
	}
	var hundred []time.Duration
	for i := range 101 {
		hundred = append(hundred, time.Duration(100-i))
	}
	if got := quantile(hundred, 0.99); got != 99 {
		t.Errorf("p99 of 0…100: %d", got)
	}
}
