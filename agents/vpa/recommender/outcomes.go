package recommender

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// fresh is how old what an autoscaler says when it is first seen may be to be told: it became so while nobody looked. Its IDs are those that
// were told then, if somebody did.
const fresh = 24 * time.Hour

// applied is what became of an autoscaler's recommendation, as the updater, which does not speak to the platform, wrote it.
type applied struct {
	metav1.ObjectMeta

	ref nopsapi.WorkloadRef
	seq uint64 // of the platform's recommendations that are in force
	rightsizing.Application
}

// readApplied reads an autoscaler; nil is one that names no workload, or cannot be read.
func readApplied(u *unstructured.Unstructured) *applied {
	var o struct {
		Spec   vpav1.VerticalPodAutoscalerSpec `json:"spec"`
		Status struct {
			Application rightsizing.Application                `json:"application"`
			Conditions  []vpav1.VerticalPodAutoscalerCondition `json:"conditions"`
		} `json:"status"`
	}
	text, err := u.MarshalJSON()
	if err != nil || json.Unmarshal(text, &o) != nil || o.Spec.TargetRef == nil {
		return nil
	}
	t := o.Spec.TargetRef
	a := &applied{
		ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()},
		ref:        nopsapi.WorkloadRef{APIVersion: t.APIVersion, Kind: t.Kind, Namespace: u.GetNamespace(), Name: t.Name}, Application: o.Status.Application,
	}
	for _, c := range o.Status.Conditions {
		if c.Type == rightsizing.ConditionPlatform && c.Status == "True" {
			a.seq = push.SeqOf(c.Message)
		}
	}
	return a
}

// became are the outcomes between two records of one autoscaler. Their IDs are made of what was recorded: whoever tells them, they are one.
func became(before, now *applied) (all []nopsapi.Outcome) {
	var was rightsizing.Application
	if before != nil && before.UID == now.UID {
		was = before.Application
	}
	is := now.Application
	tell := func(kind, id string, at time.Time, why string) {
		if !at.IsZero() {
			all = append(all, nopsapi.Outcome{ID: fmt.Sprintf("%s-%s-%s", now.UID, kind, id), At: at.UTC(), Workload: now.ref, Kind: kind, Reason: why, Seq: now.seq})
		}
	}
	if n := is.InPlace - was.InPlace; n > 0 {
		tell(nopsapi.OutcomeInPlace, fmt.Sprint(is.InPlace), is.LastChange, fmt.Sprintf("%d pods were resized in place", n))
	}
	if n := is.Evicted - was.Evicted; n > 0 {
		tell(nopsapi.OutcomeEvicted, fmt.Sprint(is.Evicted), is.LastChange, fmt.Sprintf("%d pods were evicted to be sized", n))
	}
	if n := is.Failed - was.Failed; n > 0 {
		tell(nopsapi.OutcomeRefused, fmt.Sprint("failed-", is.Failed), is.LastChange, fmt.Sprintf("%d changes did not take hold", n))
	}
	if (is.State == rightsizing.StateImpossible || is.State == rightsizing.StateStopped) && (is.State != was.State || !is.Since.Equal(was.Since)) {
		tell(nopsapi.OutcomeRefused, fmt.Sprint(is.State, "-", is.Since.Unix()), is.Since, is.State+": "+is.Message)
	}
	return all
}

// watchOutcomes tells what became of recommendations, until the context ends. To add must not block.
func watchOutcomes(ctx context.Context, client dynamic.Interface, now func() time.Time, add func(nopsapi.Outcome)) error {
	informer := dynamicinformer.NewFilteredDynamicInformer(client, rightsizing.Autoscalers(), metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	if err := informer.SetTransform(func(o any) (any, error) {
		u, is := o.(*unstructured.Unstructured)
		if !is {
			return o, nil
		}
		if a := readApplied(u); a != nil {
			return a, nil
		}
		return &applied{ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()}}, nil
	}); err != nil {
		return fmt.Errorf("watching %s: %w", rightsizing.Autoscalers().GroupResource(), err)
	}
	told := func(before, is any, since time.Time) {
		was, _ := before.(*applied)
		a, known := is.(*applied)
		if !known || a.ref.Name == "" {
			return
		}
		for _, one := range became(was, a) {
			if one.At.After(since) {
				add(one)
			}
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { told(nil, o, now().Add(-fresh)) },
		UpdateFunc: func(before, o any) { told(before, o, time.Time{}) },
	}); err != nil {
		return fmt.Errorf("watching %s: %w", rightsizing.Autoscalers().GroupResource(), err)
	}
	informer.RunWithContext(ctx)
	return nil
}
