package recommender

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/feed"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
)

// question is what a server was asked.
type question struct {
	method, path, authorization, body string
	form                              url.Values
}

// asked is a server that keeps what it was asked.
type asked struct {
	*httptest.Server

	mu  sync.Mutex
	all []question
}

func newAsked(t *testing.T, answer func(q question, w http.ResponseWriter)) *asked {
	t.Helper()
	a := &asked{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		q := question{method: r.Method, path: r.URL.Path, authorization: r.Header.Get("Authorization"), body: string(body)}
		q.form, _ = url.ParseQuery(q.body)
		a.mu.Lock()
		a.all = append(a.all, q)
		a.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		answer(q, w)
	}))
	t.Cleanup(a.Close)
	return a
}

// take are the questions since it was last called.
func (a *asked) take() []question {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.all
	a.all = nil
	return taken
}

// TestStoreAsConfigured: usage and history are asked of the store that is named, for this cluster alone, by whoever is said to ask. Several clusters
// write into one workspace: without their labels a cluster would be sized by all of them.
func TestStoreAsConfigured(t *testing.T) {
	store := newAsked(t, func(q question, w http.ResponseWriter) {
		value := "0.25" // cores
		if strings.Contains(q.form.Get("query"), "memory") {
			value = fmt.Sprint(300 * mi)
		}
		if strings.HasSuffix(q.path, "/query_range") || strings.Contains(q.form.Get("query"), "kube_") {
			_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"namespace":"shop","pod":"web-0","container":"app"},"value":[%d,%q]}]}}`, start.Unix(), value)
	})
	token := filepath.Join(t.TempDir(), "token")
	for _, tc := range []struct {
		name string
		edit func(o *Options)
		who  func(authorization string) bool
	}{
		{"nobody", func(*Options) {}, func(a string) bool { return a == "" }},
		{"a user", func(o *Options) { o.StoreUsername, o.StorePassword = "u", "p" }, func(a string) bool { return a == "Basic dTpw" }},
		{"a token", func(o *Options) { o.StoreTokenFile = token }, func(a string) bool { return strings.HasPrefix(a, "Bearer fresh-") }},
		{"AWS", func(o *Options) { o.StoreRegion = "eu-west-1" }, func(a string) bool {
			return strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") && strings.Contains(a, "/eu-west-1/aps/aws4_request")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{
				Source: SourceStore, Store: store.URL + "/workspaces/ws-1", StoreLabels: map[string]string{"cluster": "arn:aws:eks:x", "env": "prod"}, Interval: 3 * time.Minute, History: 48 * time.Hour,
			}
			tc.edit(&o)
			r, err := New(o, Deps{Kube: &rest.Config{Host: "http://127.0.0.1:1"}, Now: func() time.Time { return start }, AWS: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", "")})
			if err != nil {
				t.Fatal(err)
			}
			for n := range 2 { // a token may have changed since
				fresh := fmt.Sprintf("fresh-%d", n)
				if err := os.WriteFile(token, []byte(fresh+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				source, err := (&leader{Recommender: r}).usage(nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := (&sources.Client{Source: source}).GetContainersMetrics(t.Context())
				if err != nil || len(got) != 1 || got[0].ID.PodName != "web-0" || got[0].Usage[model.ResourceCPU] != 250 || got[0].Usage[model.ResourceMemory] != 300*mi {
					t.Errorf("usage is %+v, %v", got, err)
				}
				questions := store.take()
				if len(questions) != 2 {
					t.Errorf("%d questions for the usage of a cluster, want 2", len(questions))
				}
				for _, q := range questions {
					query := q.form.Get("query")
					if q.path != "/workspaces/ws-1/api/v1/query" || !strings.Contains(query, `cluster="arn:aws:eks:x"`) || !strings.Contains(query, `env="prod"`) || strings.Contains(query, "namespace=") || !strings.Contains(query, "[360s]") {
						t.Errorf("%s is asked %s", q.path, query)
					}
					if !tc.who(q.authorization) || strings.HasPrefix(q.authorization, "Bearer") && q.authorization != "Bearer "+fresh {
						t.Errorf("it is asked by %q", q.authorization)
					}
				}
			}
			history, err := r.history()
			if err != nil || history == nil {
				t.Fatalf("history is %v, %v", history, err)
			}
			if _, err := history.Usage(t.Context(), "shop", start.Add(-o.History), start); err != nil {
				t.Error(err)
			}
			questions := store.take()
			for _, q := range questions {
				query := q.form.Get("query")
				if !strings.HasPrefix(q.path, "/workspaces/ws-1/api/v1/query") || !strings.Contains(query, `cluster="arn:aws:eks:x"`) || !strings.Contains(query, `env="prod"`) || !strings.Contains(query, `namespace="shop"`) || !tc.who(q.authorization) {
					t.Errorf("%s is asked %s by %q", q.path, query, q.authorization)
				}
			}
			if len(questions) != 2*5 { // of each day: owners of pods, ReplicaSets and Jobs, CPU, memory
				t.Errorf("%d questions for two days of a namespace, want 10", len(questions))
			}
		})
	}
	for name, o := range map[string]Options{"no store": {History: time.Hour}, "no history": {Store: store.URL}} {
		r, err := New(o, Deps{Kube: &rest.Config{Host: "http://127.0.0.1:1"}})
		if err != nil {
			t.Fatal(err)
		}
		if history, err := r.history(); history != nil || err != nil {
			t.Errorf("%s: history is %v, %v", name, history, err)
		}
	}
}

// TestTwoQuestionsARound: however many namespaces, autoscalers and pods there are.
func TestTwoQuestionsARound(t *testing.T) {
	store := newAsked(t, func(_ question, w http.ResponseWriter) {
		_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
	})
	s := newStage(t, nil)
	s.opts.Source, s.opts.Store = SourceStore, store.URL
	c := newCrowd()
	for _, name := range []string{"a", "b", "c"} {
		vpa := s.autoscaler(name, balanced).DeepCopy()
		vpa.Namespace = name
		_ = c.vpas.Add(vpa)
		for i := range 3 {
			_ = c.pods.Add(&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: fmt.Sprint(name, i), Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
			})
		}
	}
	at := c.seams(feed.NewObserver())
	var err error
	if at.source, err = s.usage(nil); err != nil {
		t.Fatal(err)
	}
	s.join(at)
	for range 2 {
		s.round(t.Context())
		if n := len(store.take()); n != 2 || len(s.cluster.VPAs()) != 3 || len(s.cluster.Pods()) != 9 {
			t.Errorf("%d questions in a round over %d autoscalers and %d pods, want 2 over 3 and 9", n, len(s.cluster.VPAs()), len(s.cluster.Pods()))
		}
	}
}

// TestMetricsServerIsAsked: once for the whole cluster.
func TestMetricsServerIsAsked(t *testing.T) {
	api := newAsked(t, func(_ question, w http.ResponseWriter) {
		_, _ = io.WriteString(w, `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","items":[{"metadata":{"namespace":"shop","name":"web-0"},"timestamp":"2026-11-20T00:00:00Z","window":"30s",`+
			`"containers":[{"name":"app","usage":{"cpu":"250m","memory":"300Mi"}}]}]}`)
	})
	r, err := New(Options{Source: SourceMetricsServer}, Deps{Kube: &rest.Config{Host: api.URL}})
	if err != nil {
		t.Fatal(err)
	}
	source, err := (&leader{Recommender: r}).usage(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&sources.Client{Source: source}).GetContainersMetrics(t.Context())
	if err != nil || len(got) != 1 || got[0].ID.Namespace != "shop" || got[0].ID.ContainerName != "app" || !got[0].SnapshotTime.Equal(start) || got[0].Usage[model.ResourceCPU] != 250 || got[0].Usage[model.ResourceMemory] != 300*mi {
		t.Errorf("usage is %+v, %v", got, err)
	}
	if all := api.take(); len(all) != 1 || all[0].method != http.MethodGet || all[0].path != "/apis/metrics.k8s.io/v1beta1/pods" {
		t.Errorf("it is asked %+v", all)
	}
}

// TestCheckpointsOfRounds: they are written while a store knows the past, too, once it was asked; and those of autoscalers that are gone are deleted by
// the hour.
func TestCheckpointsOfRounds(t *testing.T) {
	api := newAsked(t, func(q question, w http.ResponseWriter) {
		switch {
		case q.method == http.MethodPatch && strings.Contains(q.path, "/verticalpodautoscalercheckpoints/"):
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
		case q.method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, q.body)
		case q.method == http.MethodDelete:
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
		default:
			_, _ = io.WriteString(w, `{"kind":"VerticalPodAutoscaler","apiVersion":"vpa.nops.io/v1","metadata":{"namespace":"shop","name":"web"}}`)
		}
	})
	s := newStage(t, nil)
	var err error
	if s.leader.vpas, err = vpaclient.NewForConfig(&rest.Config{Host: api.URL}); err != nil {
		t.Fatal(err)
	}
	s.collected = start
	k := &known{usage: sources.Usage{}, asked: make(chan string), answer: make(chan struct{})}
	s.past = newPast(k, 8*24*time.Hour, start, slog.New(slog.DiscardHandler), func() float64 { return 0 })
	done := make(chan error, 1)
	go func() { done <- s.past.run(t.Context(), agent.NewHealth(time.Now).Loop("past", time.Minute)) }()
	c := newCrowd()
	_ = c.vpas.Add(s.autoscaler("web", balanced))
	_ = c.pods.Add(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", Labels: map[string]string{"app": "web"}, OwnerReferences: ownedBy("Deployment", "web")},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})
	for _, name := range []string{"web", "gone"} {
		_ = c.checkpoints.Add(&vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name + "-app"}, Spec: vpav1.VerticalPodAutoscalerCheckpointSpec{VPAObjectName: name, ContainerName: "app"}})
	}
	s.join(c.seams(feed.NewObserver()))
	round := func(at time.Duration) (created, deleted []string) {
		s.now = start.Add(at)
		c.usage = []v1beta1.PodMetrics{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}, Timestamp: metav1.NewTime(s.now), Containers: []v1beta1.ContainerMetrics{{Name: "app", Usage: resources("100m", "300Mi")}}}}
		s.round(t.Context())
		for _, q := range api.take() {
			switch q.method {
			case http.MethodPost:
				var one vpav1.VerticalPodAutoscalerCheckpoint
				if err := json.Unmarshal([]byte(q.body), &one); err != nil {
					t.Fatal(err)
				}
				created = append(created, fmt.Sprintf("%s of %s, %d samples", one.Spec.ContainerName, one.Spec.VPAObjectName, one.Status.TotalSamplesCount))
			case http.MethodDelete:
				deleted = append(deleted, q.path[strings.LastIndexByte(q.path, '/')+1:])
			}
		}
		return created, deleted
	}
	if created, deleted := round(time.Minute); len(created) != 0 || len(deleted) != 0 {
		t.Errorf("while history is asked for %v are written, and %v deleted", created, deleted)
	}
	select {
	case <-k.asked:
	case <-time.After(time.Minute):
		t.Fatal("nobody asks for history")
	}
	k.answer <- struct{}{}
	for deadline := time.Now().Add(time.Minute); s.past.fetching("shop"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("history never comes")
		}
	}
	if created, deleted := round(2 * time.Minute); !slices.Equal(created, []string{"app of web, 2 samples"}) || len(deleted) != 0 {
		t.Errorf("with a store %v are written, want web's, and %v deleted", created, deleted)
	}
	if _, deleted := round(collectEvery); !slices.Equal(deleted, []string{"gone-app"}) {
		t.Errorf("after an hour %v are deleted, want that of the autoscaler that is gone", deleted)
	}
	if _, deleted := round(collectEvery + time.Minute); len(deleted) != 0 {
		t.Errorf("a minute later %v are deleted", deleted)
	}
}
