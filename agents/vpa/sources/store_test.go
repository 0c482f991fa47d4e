package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/internal/sigv4"
)

const (
	mi  = 1 << 20
	arn = "arn:aws:eks:us-east-1:123456789012:cluster/test"
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

// load gives a store samples in the text format, with times.
func load(t *testing.T, address string, lines []string) {
	t.Helper()
	for _, path := range []string{"/api/v1/import/prometheus", "/internal/force_flush"} {
		res, err := http.Post(address+path, "text/plain", strings.NewReader(strings.Join(lines, "\n")+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode/100 != 2 {
			t.Fatalf("%s: %s %s", path, res.Status, text)
		}
	}
}

// container writes a container's series, minute by minute: its CPU's rate in cores and its memory in MiB.
func container(labels string, from, to time.Time, use func(minute int) (cores float64, mebi float64)) []string {
	var lines []string
	total := 0.0
	for at, minute := from, 0; !at.After(to); at, minute = at.Add(time.Minute), minute+1 {
		cores, mebi := use(minute)
		total += cores * 60
		lines = append(lines,
			fmt.Sprintf("%s{%s} %g %d", cpuMetric, labels, total, at.UnixMilli()), fmt.Sprintf("%s{%s} %g %d", memoryMetric, labels, mebi*mi, at.UnixMilli()))
	}
	return lines
}

func owner(metric, labels string, from, to time.Time) []string {
	var lines []string
	for at := from; !at.After(to); at = at.Add(10 * time.Minute) {
		lines = append(lines, fmt.Sprintf("%s{%s} 1 %d", metric, labels, at.UnixMilli()))
	}
	return lines
}

func steady(cores, mebi float64) func(int) (float64, float64) {
	return func(int) (float64, float64) { return cores, mebi }
}

// world is what the store of these tests knows: two clusters, of which one is asked about, twice scraped; running pods, and those of before.
func world(end time.Time) []string {
	day := func(n int) time.Time { return end.Add(-time.Duration(n) * 24 * time.Hour) }
	in := func(ns, pod, c string) string {
		return fmt.Sprintf(`namespace=%q,pod=%q,container=%q,cluster=%q,pod_uid="u-%s",prometheus="a"`, ns, pod, c, arn, pod)
	}
	owned := func(metric, subject, ns, name, kind, by string, from, to time.Time) []string {
		return owner(metric, fmt.Sprintf(`namespace=%q,%s=%q,owner_kind=%q,owner_name=%q,cluster=%q`, ns, subject, name, kind, by, arn), from, to)
	}
	spiky := func(minute int) (float64, float64) {
		if minute%(24*60) == 700 {
			return 0.5, 500 // a minute a day, which a sample a minute may miss
		}
		return 0.5, 300
	}
	var all []string
	add := func(lines ...[]string) {
		for _, l := range lines {
			all = append(all, l...)
		}
	}
	// A Deployment: its pod, that of the second scrape, a sidecar, the sum of the cgroup, the pause.
	add(container(in("shop", "web-7c5ddbdf54-abcde", "app"), day(1), end, spiky), container(strings.Replace(in("shop", "web-7c5ddbdf54-abcde", "app"), `"a"`, `"b"`, 1), day(1), end, spiky),
		container(in("shop", "web-7c5ddbdf54-abcde", "sidecar"), day(1), end, steady(0.01, 20)),
		container(in("shop", "web-7c5ddbdf54-abcde", ""), day(1), end, steady(9, 900)), container(in("shop", "web-7c5ddbdf54-abcde", "POD"), day(1), end, steady(8, 800)),
		owned(podOwner, "pod", "shop", "web-7c5ddbdf54-abcde", "ReplicaSet", "web-7c5ddbdf54", day(1), end), owned(replicaOwner, "replicaset", "shop", "web-7c5ddbdf54", "Deployment", "web", day(1), end))
	// Its pod of two days ago, whose ReplicaSet nobody knows any more.
	add(container(in("shop", "web-66b6c48dd5-xyz12", "app"), day(3), day(1), steady(1, 400)), owned(podOwner, "pod", "shop", "web-66b6c48dd5-xyz12", "ReplicaSet", "web-66b6c48dd5", day(3), day(1)))
	// A job of a CronJob, an hour long; and pods of a StatefulSet, of nobody, of another namespace, of another cluster.
	add(container(in("shop", "report-123-aaaaa", "main"), day(2), day(2).Add(time.Hour), steady(2, 1000)),
		owned(podOwner, "pod", "shop", "report-123-aaaaa", "Job", "report-123", day(2), day(2).Add(time.Hour)), owned(jobOwner, "job_name", "shop", "report-123", "CronJob", "report", day(2), day(2).Add(time.Hour)),
		container(in("shop", "db-0", "app"), day(1), end, steady(0.25, 200)), owned(podOwner, "pod", "shop", "db-0", "StatefulSet", "db", day(1), end),
		container(in("shop", "debug", "app"), day(1), end, steady(3, 300)), owned(podOwner, "pod", "shop", "debug", "<none>", "<none>", day(1), end),
		container(in("other", "db-0", "app"), day(1), end, steady(4, 100)),
		container(strings.Replace(in("shop", "web-7c5ddbdf54-abcde", "app"), arn, "another", 1), day(1), end, steady(7, 7000)))
	return all
}

func around(got, want, within float64) bool { return math.Abs(got-want) <= within*want }

// TestStore asks a real store, for what is used now and for what was.
func TestStore(t *testing.T) {
	address := victoriaMetrics(t)
	end := time.Now().Add(-time.Hour).Truncate(time.Minute)
	load(t, address, world(end))
	store, err := NewStore(StoreOptions{Address: address + "/", Labels: map[string]string{"cluster": arn}, Now: func() time.Time { return end }})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("now", func(t *testing.T) { testNow(t, store, end) })
	t.Run("then", func(t *testing.T) { testThen(t, store, end) })
	t.Run("halves", func(t *testing.T) { testHalves(t, address, end) })
	t.Run("credentials", func(t *testing.T) { testCredentials(t, address, end) })
}

func testNow(t *testing.T, store *Store, end time.Time) {
	t.Helper()
	client := &Client{Source: store, Name: "store"}
	got, err := client.GetContainersMetrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]float64{
		"shop/web-7c5ddbdf54-abcde/app": {500, 300}, "shop/web-7c5ddbdf54-abcde/sidecar": {10, 20}, "shop/db-0/app": {250, 200}, "shop/debug/app": {3000, 300}, "other/db-0/app": {4000, 100},
	}
	for _, s := range got {
		id := s.ID.Namespace + "/" + s.ID.PodName + "/" + s.ID.ContainerName
		w, is := want[id]
		if !is {
			t.Errorf("%s is none, or gone: %+v", id, s)
			continue
		}
		delete(want, id)
		if !around(float64(s.Usage[model.ResourceCPU]), w[0], 0.01) || !around(float64(s.Usage[model.ResourceMemory])/mi, w[1], 0.001) || !s.SnapshotTime.Equal(end) {
			t.Errorf("%s: %dm and %d Mi at %s, want %v at %s", id, s.Usage[model.ResourceCPU], s.Usage[model.ResourceMemory]/mi, s.SnapshotTime, w, end)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	if last := client.Last(); last.Containers != 5 || last.Taken != 5 || last.Err != nil {
		t.Errorf("%+v", last)
	}
	one, err := store.List(t.Context(), "other", metav1.ListOptions{})
	if err != nil || len(one.Items) != 1 || one.Items[0].Namespace != "other" {
		t.Errorf("one namespace: %+v, %v", one, err)
	}
	// The spike is seen at any time within the window.
	spike := end.Add(-24 * time.Hour).Add(700 * time.Minute)
	store.o.Now = func() time.Time { return spike.Add(90 * time.Second) }
	defer func() { store.o.Now = func() time.Time { return end } }()
	list, err := store.List(t.Context(), "shop", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, p := range list.Items {
		for _, c := range p.Containers {
			if q := c.Usage[corev1.ResourceMemory]; p.Name == "web-7c5ddbdf54-abcde" && c.Name == "app" {
				seen = true
				if q.Value() != 500*mi {
					t.Errorf("%d Mi a minute and a half after a spike of 500", q.Value()/mi)
				}
			}
		}
	}
	if !seen {
		t.Error("the container of the spike is not there")
	}
}

func testThen(t *testing.T, store *Store, end time.Time) {
	t.Helper()
	chunks := 0
	past := NewPast(store, PastOptions{Observe: func(_ string, from, to time.Time, n int) {
		chunks++
		if to.Sub(from) != 24*time.Hour {
			t.Errorf("a chunk of %s with %d samples", to.Sub(from), n)
		}
	}})
	usage, err := past.Usage(t.Context(), "shop", end.Add(-3*24*time.Hour), end)
	if err != nil || chunks != 3 {
		t.Fatalf("%d chunks, %v", chunks, err)
	}
	const minutes = 24 * 60
	for _, c := range []struct {
		of            Workload
		container     string
		samples       int     // about
		median, cores float64 // of CPU, and its 95th percentile
		peak          float64 // of memory, in MiB
		days          float64
	}{
		{Workload{"Deployment", "web"}, "app", 3 * minutes, 1, 1, 500, 3},
		{Workload{"Deployment", "web"}, "sidecar", minutes, 0.01, 0.01, 20, 1},
		{Workload{"CronJob", "report"}, "main", 60, 2, 2, 1000, 1. / 24},
		{Workload{"StatefulSet", "db"}, "app", minutes, 0.25, 0.25, 200, 1},
	} {
		s := usage[c.of][c.container]
		if s == nil {
			t.Errorf("%v %s is missing", c.of, c.container)
			continue
		}
		if !around(float64(s.TotalSamplesCount), float64(c.samples), 0.1) || !around(s.LastSampleStart.Sub(s.FirstSampleStart).Hours()/24, c.days, 0.1) {
			t.Errorf("%v %s: %d samples over %s, want about %d over %g days", c.of, c.container, s.TotalSamplesCount, s.LastSampleStart.Sub(s.FirstSampleStart), c.samples, c.days)
		}
		// A bucket is 5 % wide, its upper end counts, and the first one ends at 10m.
		if got := s.AggregateCPUUsage.Percentile(0.95); got < c.cores || got > c.cores*1.11+0.011 {
			t.Errorf("%v %s: %g cores, want %g", c.of, c.container, got, c.cores)
		}
		if got := s.AggregateMemoryPeaks.Percentile(1) / mi; got < c.peak || got > c.peak*1.11+15 {
			t.Errorf("%v %s: a peak of %g Mi, want %g", c.of, c.container, got, c.peak)
		}
	}
	if len(usage) != 3 {
		t.Errorf("workloads %v, want three", usage)
	}
	// Yesterday's half core weighs more than the whole one of the days before.
	if got := usage[Workload{"Deployment", "web"}]["app"].AggregateCPUUsage.Percentile(0.5); got < 0.5 || got > 0.56 {
		t.Errorf("the median is %g cores, want that of the last day", got)
	}
	if none, err := past.Usage(t.Context(), "empty", end.Add(-24*time.Hour), end); err != nil || len(none) != 0 {
		t.Errorf("a namespace without anything: %v, %v", none, err)
	}
	if none, err := past.Usage(t.Context(), "shop", end.Add(-time.Hour), end); err != nil || len(none) != 0 {
		t.Errorf("less than a chunk: %v, %v", none, err)
	}
}

// testHalves: a store that is down for a while and finds a day too large gives the same history.
func testHalves(t *testing.T, address string, end time.Time) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	down, refused, spans := 3, 0, 0
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body))
		if down > 0 {
			down--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		number := func(name string) float64 { v, _ := strconv.ParseFloat(form.Get(name), 64); return v }
		if strings.HasSuffix(r.URL.Path, "query_range") {
			if number("end")-number("start") > 7*3600 {
				refused++
				w.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(w, `{"status":"error","errorType":"execution","error":"query processing would load too many samples into memory"}`)
				return
			}
			spans++
		}
		proxy.ServeHTTP(w, r)
	}))
	defer gate.Close()
	usageOf := func(address string) Usage {
		store, err := NewStore(StoreOptions{Address: address, Labels: map[string]string{"cluster": arn}})
		if err != nil {
			t.Fatal(err)
		}
		slept := 0
		past := NewPast(store, PastOptions{Sleep: func(context.Context, time.Duration) error { slept++; return nil }})
		usage, err := past.Usage(t.Context(), "shop", end.Add(-24*time.Hour), end)
		if err != nil {
			t.Fatal(err)
		}
		if address == gate.URL && slept != 3 {
			t.Errorf("it waited %d times, want 3", slept)
		}
		return usage
	}
	whole, halves := usageOf(address)[Workload{"Deployment", "web"}]["app"], usageOf(gate.URL)[Workload{"Deployment", "web"}]["app"]
	if refused != 3 || spans != 4 {
		t.Errorf("%d spans were refused and %d answered, want 3 and 4", refused, spans)
	}
	if whole == nil || halves == nil || whole.TotalSamplesCount != halves.TotalSamplesCount || !whole.AggregateCPUUsage.Equals(halves.AggregateCPUUsage) {
		t.Errorf("in halves it is another history: %d samples, and %d", whole.TotalSamplesCount, halves.TotalSamplesCount)
	}
}

// testCredentials: each way to say who asks is taken by a gate that asks for it, and by no other.
func testCredentials(t *testing.T, address string, end time.Time) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	key := sigv4.Key{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", SessionToken: "token/of+a=session"}
	verifier := sigv4.Verifier{Region: "eu-west-1", Service: "aps", Lookup: func(id string) (sigv4.Key, error) {
		if id != key.AccessKeyID {
			return sigv4.Key{}, errors.New("unknown")
		}
		return key, nil
	}}
	signed := func(secret string) *SigV4 {
		return &SigV4{Region: "eu-west-1", Credentials: aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider(key.AccessKeyID, secret, key.SessionToken))}
	}
	gates := map[string]func(r *http.Request, body []byte) bool{
		"basic":  func(r *http.Request, _ []byte) bool { u, p, is := r.BasicAuth(); return is && u == "u" && p == "p" },
		"bearer": func(r *http.Request, _ []byte) bool { return r.Header.Get("Authorization") == "Bearer fresh" },
		"sigv4":  func(r *http.Request, body []byte) bool { _, err := verifier.Verify(r, body); return err == nil },
	}
	ways := map[string]StoreOptions{
		"basic": {Username: "u", Password: "p"}, "bearer": {BearerToken: func() (string, error) { return "fresh", nil }}, "sigv4": {SigV4: signed(key.SecretAccessKey)},
		"nobody": {}, "another": {SigV4: signed("x")},
	}
	asked := 0
	for gateName, lets := range gates {
		gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if !lets(r, body) {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			// AMP's own path comes before the API's.
			http.StripPrefix("/workspaces/ws-1", httputil.NewSingleHostReverseProxy(to)).ServeHTTP(w, r)
		}))
		for way, o := range ways {
			asked++
			// Signatures are of now; the samples are of an hour ago.
			o.Address, o.Labels, o.Window = gate.URL+"/workspaces/ws-1", map[string]string{"cluster": arn}, 2*time.Hour
			store, err := NewStore(o)
			if err != nil {
				t.Fatal(err)
			}
			list, err := store.List(t.Context(), "", metav1.ListOptions{})
			var refused *StoreError
			switch {
			case way == gateName && (err != nil || len(list.Items) != 4):
				t.Errorf("%s at a gate that wants it: %v, %v", way, list, err)
			case way != gateName && (!errors.As(err, &refused) || refused.Status != http.StatusForbidden || refused.Temporary()):
				t.Errorf("%s at a gate that wants %s: %v", way, gateName, err)
			}
		}
		gate.Close()
	}
	if asked != 15 {
		t.Errorf("%d were tried", asked)
	}
	_ = end
}

var _ metrics.PodMetricsLister = (*Store)(nil)

// TestStoresThatFail: what is wrong is said in a line, with the address and without credentials.
func TestStoresThatFail(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed, with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for _, c := range []struct {
		name      string
		answer    http.HandlerFunc
		says      string
		temporary bool
	}{
		{"down", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "answers HTTP 502", true},
		{"overloaded", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "answers HTTP 429", true},
		{"refused", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"status":"error","error":"parse error"}`)
		}, "answers HTTP 400: parse error", false},
		{"an error with 200", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"error","error":"half of it"}`) }, "half of it", false},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }, "reading the answer", true},
		{"cut", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"success","data":{"result":[`) }, "reading the answer", true},
		{"a part", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}`)
		}, "only a part", true},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "answers HTTP 307", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			store, err := NewStore(StoreOptions{Address: server.URL, Username: "u", Password: "canary"})
			if err != nil {
				t.Fatal(err)
			}
			fails := func(what string, err error) {
				t.Helper()
				var refused *StoreError
				if !errors.As(err, &refused) {
					t.Errorf("%s: %v", what, err)
				} else if !strings.Contains(err.Error(), c.says) || refused.Temporary() != c.temporary || strings.Contains(err.Error(), "canary") {
					t.Errorf("%s: %v, temporary %v", what, err, refused.Temporary())
				}
			}
			past := NewPast(store, PastOptions{Sleep: func(context.Context, time.Duration) error { return nil }})
			_, err = past.Usage(t.Context(), "shop", time.Now().Add(-25*time.Hour), time.Now())
			fails("of the past", err)
			_, err = store.List(t.Context(), "", metav1.ListOptions{})
			if c.name != "a part" {
				fails("of now", err)
			} else if err != nil {
				t.Errorf("what is there is right, and the rest comes with the next question: %v", err)
			}
		})
	}
	for _, o := range []StoreOptions{
		{}, {Address: "ftp://x"}, {Address: "http://u:p@x"}, {Address: "http://x", Username: "u", SigV4: &SigV4{}}, {Address: "http://x", SigV4: &SigV4{Region: "r"}}, {Address: "https://x", CABundle: []byte("none")},
	} {
		if _, err := NewStore(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// Points that are no usage are left out: a store says NaN, and numbers as text.
func TestPoints(t *testing.T) {
	for text, want := range map[string]bool{`[1,"2"]`: true, `[1.5,"0"]`: true, `[1,"NaN"]`: false, `[1,"+Inf"]`: false, `[1,"-1"]`: false, `["x","1"]`: false, `[1]`: false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"namespace":"n","pod":"p","container":"c"},"value":%s}]}}`, text)
		}))
		store, err := NewStore(StoreOptions{Address: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		list, err := store.List(t.Context(), "", metav1.ListOptions{})
		if err != nil || (len(list.Items) == 1) != want {
			t.Errorf("%s: %+v, %v", text, list, err)
		}
		server.Close()
	}
}
