package recommender

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// script is an API server without a network, which answers one question about autoscalers after the other.
type script struct {
	t     *testing.T
	meant []exchange
	stop  context.CancelFunc // after another question: it would be asked for ever
	mu    sync.Mutex
	asked int
}

// exchange is a question and its answer: "stream" asks for a list that is streamed, "watch" for changes alone, "list" for a list, with the page.
type exchange struct {
	asks   string
	answer func() *http.Response
}

// RoundTrip implements http.RoundTripper.
func (s *script) RoundTrip(q *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := strings.TrimSpace("list " + q.URL.Query().Get("continue"))
	switch {
	case q.URL.Query().Has("sendInitialEvents"):
		asks = "stream"
	case q.URL.Query().Has("watch"):
		asks = "watch"
	}
	if q.Method != http.MethodGet || q.URL.Path != "/apis/vpa.nops.io/v1/verticalpodautoscalers" || s.asked >= len(s.meant) || s.meant[s.asked].asks != asks {
		s.t.Errorf("question %d is %q, %s %s", s.asked, asks, q.Method, q.URL)
		s.stop()
		return answered(http.StatusTeapot, strings.NewReader("{}")), nil
	}
	if q.URL.Query().Get("resourceVersion") == "0" && asks != "stream" {
		s.t.Errorf("question %d, %q, takes an answer of any age", s.asked, asks)
	}
	s.asked++
	return s.meant[s.asked-1].answer(), nil
}

func (s *script) done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked == len(s.meant)
}

func answered(code int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(body)}
}

func refused(code int, reason metav1.StatusReason) func() *http.Response {
	return func() *http.Response {
		return answered(code, strings.NewReader(fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"no: %s","code":%d}`, reason, reason, code)))
	}
}

func page(next string, items ...string) func() *http.Response {
	return func() *http.Response {
		return answered(http.StatusOK, strings.NewReader(fmt.Sprintf(`{"kind":"VerticalPodAutoscalerList","apiVersion":"vpa.nops.io/v1","metadata":{"resourceVersion":"7","continue":%q},"items":[%s]}`, next, strings.Join(items, ","))))
	}
}

// events are those of a stream, which ends after them where it does not stay.
func events(stays io.Reader, all ...string) func() *http.Response {
	return func() *http.Response {
		return answered(http.StatusOK, io.MultiReader(strings.NewReader(strings.Join(all, "\n")+"\n"), stays))
	}
}

func event(kind, object string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object) }

// bookmark is the end of a list that is streamed.
const bookmark = `{"type":"BOOKMARK","object":{"kind":"VerticalPodAutoscaler","apiVersion":"vpa.nops.io/v1","metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}`

// told is an autoscaler as the API server has it, with explanations as they are given, and of a platform that was asked.
func told(name, explanations string) string {
	return fmt.Sprintf(`{"kind":"VerticalPodAutoscaler","apiVersion":"vpa.nops.io/v1","metadata":{"namespace":"shop","name":%[1]q,"uid":%[1]q,"resourceVersion":"5","managedFields":[{"manager":"somebody"}]},
"spec":{"targetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":%[1]q}},
"status":{"observedGeneration":3,"application":{"state":"Applied"},"explanations":%[2]s,
"recommendation":{"containerRecommendations":[{"containerName":"app","target":{"cpu":"2"},"lowerBound":{"cpu":"1"},"upperBound":{"cpu":"4"}}]},
"conditions":[{"type":"PlatformRecommendation","status":"True","message":"recommendations 9 of 2026-11-19T23:00:00Z, valid until 2026-11-20T06:00:00Z"}]}}`, name, strings.ReplaceAll(explanations, "\n", ""))
}

// held explains memory that is held, what its usage was, and what the platform said.
func held(memory string) string {
	return `[{"container":"app","resource":"memory","held":"` + memory + `","heldSince":"2026-11-19T20:00:00Z","local":"300Mi","peak":"280Mi","since":"2026-11-12T00:00:00Z"},
{"container":"app","resource":"cpu","level":"BalancedSavings","steps":[{"rule":"platform","why":"because","to":"2"}]}]`
}

// reading is a leader that reads autoscalers of a script.
type reading struct {
	*stage

	log      *agenttest.Buffer
	script   *script
	informer cache.SharedIndexInformer
	ended    chan error
	cancel   context.CancelFunc
}

func read(t *testing.T, answers ...exchange) *reading {
	t.Helper()
	r := &reading{stage: newStage(t, &platform{}), log: &agenttest.Buffer{}, script: &script{t: t, meant: answers}, ended: make(chan error, 1)}
	r.health = agent.NewHealth(time.Now)
	r.loop = r.health.Loop("recommending", turnLimit)
	r.deps.Log, r.recalled = slog.New(slog.NewTextHandler(r.log, nil)), make(chan struct{})
	client, err := newAutoscalers(&rest.Config{Host: "http://api", Transport: r.script})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel, r.script.stop = cancel, cancel
	r.informer = r.watchAutoscalers(ctx, client)
	go func() { r.ended <- r.recollect(ctx, r.informer.HasSyncedChecker().Done()) }()
	return r
}

// TestAutoscalersAreListedOnce: one list serves who recommends and who remembers, whether it is streamed or not. Who recommends gets upstream's type, and
// what comes later is not remembered.
func TestAutoscalersAreListedOnce(t *testing.T) {
	items := []string{told("web", held("500Mi")), told("api", held("600Mi")), told("odd", `{"somebody":"else's"}`), told("odder", `[{"container":7,"held":"much"}]`), told("none", "null")}
	var added []string
	for _, one := range items {
		added = append(added, event("ADDED", one))
	}
	for name, answers := range map[string]func(io.Reader) []exchange{
		"streamed": func(then io.Reader) []exchange {
			return []exchange{{"stream", events(then, append(added, bookmark)...)}}
		},
		"listed": func(then io.Reader) []exchange {
			return []exchange{{"stream", refused(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)}, {"list", page("", items...)}, {"watch", events(then)}}
		},
		"in pages": func(then io.Reader) []exchange {
			return []exchange{{"stream", refused(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)}, {"list", page("2", items[:2]...)}, {"list 2", page("", items[2:]...)}, {"watch", events(then)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				then, later := io.Pipe()
				r := read(t, answers(then)...)
				if err := <-r.ended; err != nil || !r.knows() {
					t.Fatalf("it is known: %v, %v", r.knows(), err)
				}
				synctest.Wait()
				if !r.script.done() || r.log.String() != "" {
					t.Errorf("%d questions of %d, and it is told:\n%s", r.script.asked, len(r.script.meant), r.log.String())
				}
				recalls := func(when string, want map[string]int64) {
					t.Helper()
					for name, memory := range want {
						id := model.VpaID{Namespace: "shop", VpaName: name}
						if got := r.holds.of(id, start)["app"].bytes; got != memory {
							t.Errorf("%s: %s holds %d Mi, want %d", when, name, got/mi, memory/mi)
						}
						var said before
						if memory > 0 {
							said = before{target: 300 * mi, peak: 280 * mi, since: time.Date(2026, 11, 12, 0, 0, 0, 0, time.UTC)}
						}
						if got := r.days.of(id, start)["app"]; got != said {
							t.Errorf("%s: of %s it is known %+v, want %+v", when, name, got, said)
						}
						answer := r.intake.For(nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: name}, "BalancedSavings", start)
						if answer.Seq != 9 || (answer.Recommendation != nil) != (memory > 0) {
							t.Errorf("%s: the platform said of %s %+v", when, name, answer)
						} else if memory > 0 {
							if got := answer.Recommendation.Containers; answer.Reason != push.ReasonInForce || len(got) != 1 || got[0].Name != "app" || got[0].CPU != (nopsapi.Recommended{Target: 2, Lower: 1, Upper: 4}) {
								t.Errorf("%s: the platform said of %s %+v, %s", when, name, got, answer.Reason)
							}
						}
					}
				}
				recalls("at first", map[string]int64{"web": 500 * mi, "api": 600 * mi, "odd": 0, "odder": 0, "none": 0})
				lists := func(when string, want ...string) {
					t.Helper()
					all, err := vpalisters.NewVerticalPodAutoscalerLister(r.informer.GetIndexer()).List(labels.Everything())
					if err != nil {
						t.Fatal(err)
					}
					var names []string
					for _, vpa := range all {
						names = append(names, vpa.Name)
						if vpa.ManagedFields != nil || vpa.Spec.TargetRef == nil || vpa.Spec.TargetRef.Name != vpa.Name || vpa.Status.Recommendation == nil || *vpa.Status.ObservedGeneration != 3 || len(vpa.Status.Conditions) != 1 || vpa.Status.Conditions[0].Status != corev1.ConditionTrue {
							t.Errorf("%s: it is listed %+v", when, vpa)
						}
					}
					if slices.Sort(names); !slices.Equal(names, want) {
						t.Errorf("%s: %q are listed, want %q", when, names, want)
					}
				}
				lists("at first", "api", "none", "odd", "odder", "web")
				changed := strings.Replace(told("web", held("900Mi")), `"resourceVersion":"5"`, `"resourceVersion":"8"`, 1)
				for _, one := range []string{event("MODIFIED", changed), event("ADDED", told("new", held("700Mi"))), event("DELETED", told("api", held("800Mi")))} {
					if _, err := io.WriteString(later, one+"\n"); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				lists("later", "new", "none", "odd", "odder", "web")
				if o, _, err := r.informer.GetIndexer().GetByKey("shop/web"); err != nil || o.(*vpav1.VerticalPodAutoscaler).ResourceVersion != "8" {
					t.Errorf("it is kept %+v, %v", o, err)
				}
				recalls("later", map[string]int64{"web": 500 * mi, "api": 600 * mi})
				if n := len(r.holds.by); n != 2 {
					t.Errorf("%d are remembered later, want 2", n)
				}
				r.cancel()
				_ = later.Close()
			})
		})
	}
}

// TestWhatWasSaidIsReadUntilItIsKnown: whatever goes wrong on the way, and on whichever page, it is told why nothing is recommended; and nobody
// goes on before.
func TestWhatWasSaidIsReadUntilItIsKnown(t *testing.T) {
	handlers := utilruntime.ErrorHandlers                   // one of them sleeps until a moment of the real clock, which in the test's is years away
	utilruntime.ErrorHandlers = nil                         //nolint:reassign // restored below
	defer func() { utilruntime.ErrorHandlers = handlers }() //nolint:reassign // likewise
	synctest.Test(t, func(t *testing.T) {
		invalid := refused(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		then, later := io.Pipe()
		r := read(t,
			exchange{"stream", refused(http.StatusForbidden, metav1.StatusReasonForbidden)}, // the chart's role comes a moment later
			exchange{"list", refused(http.StatusForbidden, metav1.StatusReasonForbidden)},
			exchange{"stream", refused(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)}, // is asked again, and the informer tells nobody
			exchange{"stream", invalid},
			exchange{"list", page("2", told("web", held("500Mi")))},
			exchange{"list 2", refused(http.StatusInternalServerError, metav1.StatusReasonInternalError)},
			exchange{"stream", invalid},
			exchange{"list", page("2", told("web", held("500Mi")))},
			exchange{"list 2", func() *http.Response { return answered(http.StatusOK, strings.NewReader(`{"metadata":`)) }},
			exchange{"stream", events(strings.NewReader(""), event("ADDED", told("web", held("500Mi"))))}, // ends half way
			exchange{"stream", events(then, event("ADDED", told("web", held("500Mi"))), event("ADDED", told("odd", `"somebody else's"`)), event("ADDED", told("api", held("600Mi"))))},
		)
		time.Sleep(turnLimit + silence/2)
		if err := r.health.Live(); err != nil {
			t.Errorf("while it waits for what was said: %v", err)
		}
		if r.knows() || !r.script.done() {
			r.cancel()
			t.Fatalf("after %d questions of %d it is known: %v\n%s", r.script.asked, len(r.script.meant), r.knows(), r.log.String())
		}
		failures, waits := strings.Count(r.log.String(), "error="), strings.Count(r.log.String(), "waiting=")
		if n := strings.Count(r.log.String(), "nothing is recommended until it is known what was"); failures != 5 || waits != int(turnLimit/silence) || n != failures+waits {
			t.Errorf("%d failures are told, want 5, and %d times that it takes long, want %d:\n%s", failures, waits, int(turnLimit/silence), r.log.String())
		}
		if _, err := io.WriteString(later, bookmark+"\n"); err != nil {
			t.Fatal(err)
		}
		if err := <-r.ended; err != nil || !r.knows() {
			t.Errorf("it is known: %v, %v", r.knows(), err)
		}
		for name, want := range map[string]int64{"web": 500 * mi, "api": 600 * mi} {
			if got := r.holds.of(model.VpaID{Namespace: "shop", VpaName: name}, start)["app"].bytes; got != want {
				t.Errorf("%s holds %d Mi, want %d", name, got/mi, want/mi)
			}
		}
		r.cancel()
		_ = later.Close()
	})
}

// TestReadingEndsWithItsContext: and what was never read is not known, nor is its end told as a failure.
func TestReadingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		then, later := io.Pipe()
		r := read(t, exchange{"stream", events(then, event("ADDED", told("web", held("500Mi"))))})
		synctest.Wait()
		r.cancel()
		if err := <-r.ended; err == nil || r.knows() {
			t.Errorf("it is known: %v, %v", r.knows(), err)
		}
		_ = later.Close()
		synctest.Wait()
		if r.log.String() != "" {
			t.Errorf("it is told:\n%s", r.log.String())
		}
	})
}

// TestAutoscalersAreCopied: a copy says the same, and nothing of it is the other's.
func TestAutoscalersAreCopied(t *testing.T) {
	var one autoscaler
	if err := json.Unmarshal([]byte(told("web", held("500Mi"))), &one); err != nil {
		t.Fatal(err)
	}
	list := &autoscalerList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []autoscaler{one}}
	write := func(o runtime.Object) string {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before, c := write(list), list.DeepCopyObject().(*autoscalerList)
	if got := write(c); got != before || !strings.Contains(got, `"held":"500Mi"`) || !strings.Contains(got, `"observedGeneration":3`) {
		t.Errorf("%s is a copy of %s", got, before)
	}
	c.Items[0].Spec.TargetRef.Name, c.Items[0].Status.Conditions[0].Message, c.Items[0].Status.Explanations[0] = "other", "other", ' '
	if got := write(list); got != before {
		t.Errorf("the copy's change is seen: %s", got)
	}
}
