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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
)

const (
	directRate, directCount, directBursts = 200, 500, 12 // requests a second, in a burst, and how many of them
	throughRate, through, throughBursts   = 50, 200, 8
	bareBursts                            = 3
	inFlight                              = 16 // at most; what is late because of it is late
	admissionLimit                        = 90 * time.Second
)

// admitting is what an admission controller did: latencies of the webhook asked directly, and of pods made through the API server without being
// stored (dry run), with the webhook and with none.
type admitting struct {
	Ready           duration
	Direct, Through latencies
	Bare            latencies
	Top             int64 // most resident memory
	CPU             time.Duration
}

// latencies of bursts, as they were seen by who asked.
type latencies struct {
	P50, P99 []time.Duration // of each burst
	Count    int
	Sized    int // answers that changed the pod's requests
}

// admission measures a stack's admission controller.
func (w *world) admission(ctx context.Context, s stack) (got admitting, err error) {
	w.say("admission")
	if got.Bare, err = w.burst(ctx, throughRate, through, bareBursts, w.dryRun); err != nil {
		return got, fmt.Errorf("pods without a webhook: %w", err)
	}
	configurations := "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	name := "vpa-webhook-config"
	if s.name == ours {
		name = "nops-vpa"
		if err := w.api.Fill(ctx, []kube.Object{{Collection: configurations, Body: ourWebhook(s)}}); err != nil {
			return got, err
		}
	}
	began := time.Now()
	p, err := w.startAdmission(ctx, s)
	if err != nil {
		return got, err
	}
	defer func() {
		p.Stop()
		err = errors.Join(err, w.api.Do(context.WithoutCancel(ctx), http.MethodDelete, configurations+"/"+name, "", nil, nil))
	}()
	direct := w.direct(s)
	// Upstream registers ten seconds after it serves, and an API server looks for configurations every now and then.
	err = kube.Until(ctx, "pods to be sized", admissionLimit, func() error {
		for _, ask := range []func(context.Context, int) (bool, error){direct, w.dryRun} {
			if sized, err := ask(ctx, 0); err != nil || !sized {
				return errors.Join(err, errors.New("not sized"))
			}
		}
		return w.api.Ended()
	}, p.Process)
	if err != nil {
		return got, fmt.Errorf("%w\n%s", err, p.Tail(15))
	}
	got.Ready = duration{Took: time.Since(began)}
	before, err := footprintOf(p.PID())
	if err != nil {
		return got, err
	}
	if got.Direct, err = w.burst(ctx, directRate, directCount, directBursts, direct); err != nil {
		return got, fmt.Errorf("ask the webhook: %w", err)
	}
	if got.Through, err = w.burst(ctx, throughRate, through, throughBursts, w.dryRun); err != nil {
		return got, fmt.Errorf("make pods: %w", err)
	}
	after, err := footprintOf(p.PID())
	if err != nil {
		return got, err
	}
	got.Top, got.CPU = after.Top, (after.CPU-before.CPU)/time.Duration(got.Direct.Count+got.Through.Count)
	for _, l := range []latencies{got.Direct, got.Through} {
		if l.Sized != l.Count {
			return got, fmt.Errorf("of %d pods, %d were sized", l.Count, l.Sized)
		}
	}
	return got, nil
}

// ourWebhook is the chart's, which has no condition here that another API server would not have.
func ourWebhook(s stack) *admissionregistrationv1.MutatingWebhookConfiguration {
	port, timeout, path := int32(443), int32(5), s.path
	ignore, none, never, equivalent, scope := admissionregistrationv1.Ignore, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.Equivalent, admissionregistrationv1.NamespacedScope
	hook := func(name, group, resource string, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{
			Name: name, AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &ignore, SideEffects: &none, ReinvocationPolicy: &never, MatchPolicy: &equivalent, TimeoutSeconds: &timeout,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: s.namespace, Name: s.service, Path: &path, Port: &port}},
			Rules:        []admissionregistrationv1.RuleWithOperations{{Operations: operations, Rule: admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{resource}, Scope: &scope}}},
		}
	}
	pods := hook("pods.vpa.nops.io", "", "pods", admissionregistrationv1.Create)
	pods.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"kube-system", s.namespace}}}}
	pods.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "owned", Expression: "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.exists(o, has(o.controller) && o.controller)"}}
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-vpa"},
		Webhooks:   []admissionregistrationv1.MutatingWebhook{pods, hook("autoscalers.vpa.nops.io", s.group, autoscalers, admissionregistrationv1.Create, admissionregistrationv1.Update)},
	}
}

// fresh is a pod that a ReplicaSet's controller would make.
func (w *world) fresh(i int) *corev1.Pod {
	workload := i * 7919 % w.Autoscalers
	labels := labelsOf(workload)
	labels["pod-template-hash"] = "6d4cf56db6"
	return &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: podSpec(workload), ObjectMeta: metav1.ObjectMeta{
		GenerateName: setName(workload) + "-", Namespace: w.namespace(workload), Labels: labels, OwnerReferences: owned("ReplicaSet", setName(workload), uidOf("set", workload))}}
}

// direct asks the webhook as an API server does.
func (w *world) direct(s stack) func(ctx context.Context, i int) (sized bool, err error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: inFlight}}
	url := fmt.Sprintf("https://127.0.0.1:%d%s", w.port, s.path)
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	kind := metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	return func(ctx context.Context, i int) (bool, error) {
		object, err := json.Marshal(w.fresh(i))
		if err != nil {
			return false, fmt.Errorf("encode a pod: %w", err)
		}
		id := types.UID(fmt.Sprintf("review-%d", i))
		body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{
			UID: id, Kind: kind, Resource: pods, RequestKind: &kind, RequestResource: &pods, Namespace: w.fresh(i).Namespace, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: object}}})
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

// dryRun makes a pod that is not stored.
func (w *world) dryRun(ctx context.Context, i int) (sized bool, err error) {
	p := w.fresh(i)
	body, err := json.Marshal(p)
	if err != nil {
		return false, fmt.Errorf("encode a pod: %w", err)
	}
	var made corev1.Pod
	if err := w.api.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+p.Namespace+"/pods?dryRun=All", "application/json", body, &made); err != nil {
		return false, err
	}
	for name := range made.Annotations {
		if strings.HasPrefix(name, "vpaUpdates") || strings.Contains(name, "vpa") {
			return true, nil
		}
	}
	return false, nil
}

// burst asks at a rate, several times over, and times each answer from the moment at which it was due. No garbage of this program, which feeds the
// cluster, is collected meanwhile: it has a heap to go through that would be seen in the answers.
func (w *world) burst(ctx context.Context, rate, count, bursts int, ask func(context.Context, int) (bool, error)) (latencies, error) {
	var all latencies
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for b := range bursts {
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
			group.Go(func() {
				defer func() { <-slots }()
				sized, err := ask(ctx, b*count+i)
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
			return all, fmt.Errorf("%d of %d failed: %w", len(failures), count, failures[0])
		}
		all.Count += count
		all.P50, all.P99 = append(all.P50, quantile(took, 0.5)), append(all.P99, quantile(took, 0.99))
	}
	return all, nil
}

// quantile is the value at or below which so much lies.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1))]
}
