package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
)

const (
	directRate, directCount, directBursts = 200, 500, 24 // requests a second, in a burst, and how many bursts of each program
	throughRate, through, throughBursts   = 50, 200, 32
	conditionRate, conditionCount         = 100, 600
	conditionBursts                       = 8  // of each way in which the API server asks
	inFlight                              = 16 // at most; what is late because of it is late
	admissionLimit                        = 90 * time.Second
)

// admitting is what an admission controller did: latencies of the webhook asked directly, of pods made through the API server without being
// stored (dry run), and of such pods that no webhook is told of.
type admitting struct {
	Direct, Through latencies
	Bare            latencies // the same for both
	Top             int64     // most resident memory
	CPU             time.Duration
	Asking          asking // of ours alone
}

// asking is how much processor time a pod takes the API server, with what it does meanwhile besides: one that has an owner and is sized, and one
// that nobody owns and that stays as it is; and both where it first looks at the condition that only pods with an owner meet.
type asking struct{ Owned, OwnedCondition, Bare, BareCondition []time.Duration } // of each burst

// latencies of bursts, as they were seen by who asked.
type latencies struct {
	P50, P99 []time.Duration // of each burst
	Count    int
	Sized    int // answers that changed the pod's requests
}

// ask asks for one pod, and says whether it was sized.
type ask func(ctx context.Context, i int) (sized bool, err error)

// A side is one of two admission controllers that run at the same time.
type side struct {
	stack

	program         *program
	direct, through ask
	got             admitting
	admitted        float64 // what it counted before
}

// duel measures both admission controllers, burst by burst: minutes apart one and the same program is seen to be twice as slow, and what the
// machine does meets both within seconds. Each has workloads of its own, for ours yields where upstream sizes, and the API server tells each of
// those alone.
func (w *world) duel(ctx context.Context) (got map[string]admitting, err error) {
	w.say("admission: workloads and autoscalers for both")
	if err := w.sides(ctx); err != nil {
		return nil, err
	}
	var all []*side
	defer func() {
		for _, s := range all {
			s.program.Stop()
			err = errors.Join(err, w.api.Do(context.WithoutCancel(ctx), http.MethodDelete, configurations+"/"+s.webhook, "", nil, nil))
		}
	}()
	for i, name := range []string{ours, upstream} {
		s := w.stack(name)
		p, err := w.startAdmission(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, &side{stack: s, program: p, direct: w.direct(s, i*w.Autoscalers), through: w.dryRun(func(n int) *corev1.Pod { return w.fresh(i*w.Autoscalers, n, w.namespace) })})
	}
	if err := w.told(ctx, all); err != nil {
		return nil, err
	}
	bare := w.dryRun(func(i int) *corev1.Pod { return w.fresh(0, i, func(int) string { return plainNamespace }) })
	var without latencies
	w.say("admission: %d bursts of %d reviews, by turns", len(all)*directBursts, directCount)
	for b := range directBursts {
		for _, s := range turn(all, b) {
			if err := s.timed(func() error { return w.burst(ctx, directRate, directCount, &s.got.Direct, s.direct) }); err != nil {
				return nil, fmt.Errorf("ask the webhook, %s: %w", s.name, err)
			}
		}
	}
	w.say("admission: %d bursts of %d pods, by turns", len(all)*throughBursts, through)
	for b := range throughBursts {
		if b%4 < 2 { // once before each of them
			if err := w.burst(ctx, throughRate, through, &without, bare); err != nil {
				return nil, fmt.Errorf("pods without a webhook: %w", err)
			}
		}
		for _, s := range turn(all, b) {
			if err := s.timed(func() error { return w.burst(ctx, throughRate, through, &s.got.Through, s.through) }); err != nil {
				return nil, fmt.Errorf("make pods, %s: %w", s.name, err)
			}
		}
	}
	if without.Sized > 0 {
		return nil, fmt.Errorf("of %d pods that no webhook should be told of, %d were sized", without.Count, without.Sized)
	}
	for _, s := range all {
		if err := s.asked(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := w.conditions(ctx, all[0]); err != nil {
		return nil, fmt.Errorf("with a condition: %w", err)
	}
	got = map[string]admitting{}
	for _, s := range all {
		s.got.Bare = without
		got[s.name] = s.got
	}
	return got, nil
}

// conditions measures what it takes the API server to look at a condition before it asks: the one that the documentation has.
func (w *world) conditions(ctx context.Context, s *side) error {
	settings, err := w.ourWebhook(s.stack, goldenSettings)
	if err != nil {
		return err
	}
	owned := settings.Webhooks[0].MatchConditions
	if len(owned) == 0 {
		return fmt.Errorf("%s has no matchConditions", goldenSettings)
	}
	bare := w.dryRun(func(i int) *corev1.Pod {
		p := w.fresh(0, i, w.namespace)
		p.OwnerReferences = nil
		return p
	})
	a := &s.got.Asking
	ways := []struct {
		conditions []admissionregistrationv1.MatchCondition
		one        ask
		sized      int
		took       *[]time.Duration
	}{{owned, s.through, conditionCount, &a.OwnedCondition}, {owned, bare, 0, &a.BareCondition}, {nil, bare, 0, &a.Bare}, {nil, s.through, conditionCount, &a.Owned}}
	w.say("admission: %d bursts of %d pods, with a condition and without", len(ways)*conditionBursts, conditionCount)
	for b := range conditionBursts {
		if b > 0 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			if err := w.condition(ctx, s, way.conditions); err != nil {
				return err
			}
			var got latencies
			before, err := footprintOf(w.api.PID())
			if err != nil {
				return err
			}
			if err := w.burst(ctx, conditionRate, conditionCount, &got, way.one); err != nil {
				return err
			}
			after, err := footprintOf(w.api.PID())
			if err != nil {
				return err
			}
			if got.Sized != way.sized {
				return fmt.Errorf("of %d pods, %d were sized, not %d", got.Count, got.Sized, way.sized)
			}
			*way.took = append(*way.took, (after.CPU-before.CPU)/conditionCount)
		}
	}
	return nil
}

// condition has the API server look at conditions before it asks a side about a pod, and waits until it does: about a pod that nobody owns it asks
// only where there are none.
func (w *world) condition(ctx context.Context, s *side, conditions []admissionregistrationv1.MatchCondition) error {
	var found admissionregistrationv1.MutatingWebhookConfiguration
	if err := w.api.Do(ctx, http.MethodGet, configurations+"/"+s.webhook, "", nil, &found); err != nil {
		return err
	}
	found.Webhooks[0].MatchConditions = conditions
	body, err := json.Marshal(&found)
	if err != nil {
		return fmt.Errorf("encode a configuration: %w", err)
	}
	if err := w.api.Do(ctx, http.MethodPut, configurations+"/"+s.webhook, "application/json", body, nil); err != nil {
		return err
	}
	p := w.fresh(0, 0, w.namespace)
	p.OwnerReferences = nil
	pod, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode a pod: %w", err)
	}
	return kube.Until(ctx, "the API server to know the conditions", admissionLimit, func() error {
		before, err := s.admissions(ctx)
		if err != nil {
			return err
		}
		if err := w.api.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+p.Namespace+"/pods?dryRun=All", "application/json", pod, nil); err != nil {
			return err
		}
		after, err := s.admissions(ctx)
		if err == nil && (after > before) != (len(conditions) == 0) {
			err = errors.New("it does not yet")
		}
		return err
	}, s.program.Process)
}

// turn is in which order they are asked: there, and back the next time.
func turn(all []*side, burst int) []*side {
	if burst%2 == 0 {
		return all
	}
	back := slices.Clone(all)
	slices.Reverse(back)
	return back
}

// told waits until the API server tells each side of its own pods.
func (w *world) told(ctx context.Context, all []*side) error {
	webhook, err := w.ourWebhook(all[0].stack, golden)
	if err != nil {
		return err
	}
	if err := w.api.Fill(ctx, []kube.Object{{Collection: configurations, Body: webhook}}); err != nil {
		return err
	}
	// Upstream registers ten seconds after it serves, and for pods of all namespaces.
	theirs := all[1]
	err = kube.Until(ctx, "upstream to register", admissionLimit, func() error {
		var found admissionregistrationv1.MutatingWebhookConfiguration
		if err := w.api.Do(ctx, http.MethodGet, configurations+"/"+theirs.webhook, "", nil, &found); err != nil {
			return err
		}
		for i := range found.Webhooks {
			found.Webhooks[i].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{sideLabel: theirs.name}}
		}
		body, err := json.Marshal(&found)
		if err != nil {
			return fmt.Errorf("encode a configuration: %w", err)
		}
		return w.api.Do(ctx, http.MethodPut, configurations+"/"+theirs.webhook, "application/json", body, nil)
	}, theirs.program.Process)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, theirs.program.Tail(15))
	}
	for _, s := range all {
		err := kube.Until(ctx, "pods to be sized", admissionLimit, func() error {
			for _, one := range []ask{s.direct, s.through} {
				if sized, err := one(ctx, 0); err != nil || !sized {
					return errors.Join(err, errors.New("not sized"))
				}
			}
			return w.api.Ended()
		}, s.program.Process)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", s.name, err, s.program.Tail(15))
		}
	}
	// Nobody says when the API server knows the configurations. That it did is seen at the end: of how many pods each side was told.
	time.Sleep(settle)
	for _, s := range all {
		var err error
		if s.admitted, err = s.admissions(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settle is much longer than an API server takes to see a configuration that it watches.
const settle = 3 * time.Second

// timed does something, and adds what processor time it took the side.
func (s *side) timed(do func() error) error {
	before, err := footprintOf(s.program.PID())
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return fmt.Errorf("%w\n%s", err, s.program.Tail(15))
	}
	after, err := footprintOf(s.program.PID())
	s.got.CPU, s.got.Top = s.got.CPU+after.CPU-before.CPU, after.Top
	return err
}

// admissions is how many a side counted.
func (s *side) admissions(ctx context.Context) (float64, error) {
	page, err := s.program.scrape(ctx)
	n := 0.0
	for name, v := range page {
		if strings.HasPrefix(name, "vpa_"+s.program.name+"_admission_latency_seconds_count") {
			n += v
		}
	}
	return n, err
}

// asked fails unless a side was asked what it should have been, and sized all.
func (s *side) asked(ctx context.Context) error {
	for _, l := range []latencies{s.got.Direct, s.got.Through} {
		if l.Sized != l.Count {
			return fmt.Errorf("of %d pods, %d were sized", l.Count, l.Sized)
		}
	}
	asked := s.got.Direct.Count + s.got.Through.Count
	s.got.CPU /= time.Duration(asked)
	now, err := s.admissions(ctx)
	if err == nil && now-s.admitted != float64(asked) {
		err = fmt.Errorf("it was told of %.0f pods, %d were meant for it", now-s.admitted, asked)
	}
	return err
}

const configurations = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

// ourWebhook is the chart's, as one of its renders has it, for pods of our side alone.
func (w *world) ourWebhook(s stack, render string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	all, err := documents(w.repo, render)
	if err != nil {
		return nil, err
	}
	for _, text := range all {
		var found admissionregistrationv1.MutatingWebhookConfiguration
		if err := yaml.Unmarshal([]byte(text), &found); err != nil {
			return nil, fmt.Errorf("%s: %w", render, err)
		}
		if found.Kind != "MutatingWebhookConfiguration" || found.Name != s.webhook {
			continue
		}
		for i := range found.Webhooks {
			found.Webhooks[i].ClientConfig.Service.Namespace = s.namespace
		}
		pods := &found.Webhooks[0]
		if pods.NamespaceSelector == nil || !slices.Contains(pods.Rules[0].Resources, "pods") {
			return nil, fmt.Errorf("%s: the first webhook of %s is not that of pods", render, s.webhook)
		}
		pods.NamespaceSelector.MatchLabels = map[string]string{sideLabel: s.name}
		return &found, nil
	}
	return nil, fmt.Errorf("%s has no webhook %s", render, s.webhook)
}

// fresh is a pod that a ReplicaSet's controller would make, of one of the workloads from the first on.
func (w *world) fresh(first, i int, namespace func(workload int) string) *corev1.Pod {
	workload := first + i*7919%w.Autoscalers
	labels := labelsOf(workload)
	labels["pod-template-hash"] = "6d4cf56db6"
	return &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: podSpec(workload), ObjectMeta: metav1.ObjectMeta{
		GenerateName: setName(workload) + "-", Namespace: namespace(workload), Labels: labels, OwnerReferences: owned("ReplicaSet", setName(workload), uidOf("set", workload))}}
}

// direct asks the webhook as an API server does.
func (w *world) direct(s stack, first int) ask {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: inFlight}}
	url := fmt.Sprintf("https://127.0.0.1:%d%s", s.port, s.path)
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	kind := metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	return func(ctx context.Context, i int) (bool, error) {
		p := w.fresh(first, i, w.namespace)
		object, err := json.Marshal(p)
		if err != nil {
			return false, fmt.Errorf("encode a pod: %w", err)
		}
		id := types.UID(fmt.Sprintf("review-%d", i))
		body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{
			UID: id, Kind: kind, Resource: pods, RequestKind: &kind, RequestResource: &pods, Namespace: p.Namespace, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: object}}})
		if err != nil {
			return false, fmt.Errorf("encode a review: %w", err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return false, fmt.Errorf("ask the webhook: %w", err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			return false, fmt.Errorf("ask the webhook: %w", err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return false, fmt.Errorf("ask the webhook: %w", err)
		}
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(text, &review); err != nil || review.Response == nil {
			return false, fmt.Errorf("the webhook answers %s: %.200s", res.Status, text)
		}
		return review.Response.Allowed && bytes.Contains(review.Response.Patch, []byte("/resources/requests")), nil
	}
}

// dryRun makes pods that are not stored.
func (w *world) dryRun(pod func(i int) *corev1.Pod) ask {
	return func(ctx context.Context, i int) (sized bool, err error) {
		p := pod(i)
		body, err := json.Marshal(p)
		if err != nil {
			return false, fmt.Errorf("encode a pod: %w", err)
		}
		var made corev1.Pod
		if err := w.api.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+p.Namespace+"/pods?dryRun=All", "application/json", body, &made); err != nil {
			return false, err
		}
		return slices.EqualFunc(made.Spec.Containers, p.Spec.Containers, func(got, sent corev1.Container) bool {
			return !equality.Semantic.DeepEqual(got.Resources.Requests, sent.Resources.Requests)
		}), nil
	}
}

// burst asks at a rate, and times each answer from the moment at which it was due. No garbage of this program, which feeds the cluster, is
// collected meanwhile: it has a heap to go through that would be seen in the answers.
func (w *world) burst(ctx context.Context, rate, count int, all *latencies, one ask) error {
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var (
		mu       sync.Mutex
		took     []time.Duration
		failures []error
		group    sync.WaitGroup
		slots    = make(chan struct{}, inFlight)
	)
	began := time.Now()
	for i := range count {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		slots <- struct{}{}
		n := all.Count + i
		group.Go(func() {
			defer func() { <-slots }()
			sized, err := one(ctx, n)
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
			if err != nil {
				failures = append(failures, err)
			}
			if sized {
				all.Sized++
			}
		})
	}
	group.Wait()
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d failed: %w", len(failures), count, failures[0])
	}
	all.Count += count
	all.P50, all.P99 = append(all.P50, quantile(took, 0.5)), append(all.P99, quantile(took, 0.99))
	return nil
}

// quantile is the value at or below which so much lies.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1))]
}
