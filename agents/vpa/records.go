package vpa

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// records are what autoscalers' statuses say that upstream's type has no fields for.
type records struct{ informer cache.SharedIndexInformer }

// record is what is kept of one.
type record struct {
	metav1.ObjectMeta

	known rules.Known
}

func watchRecords(config *rest.Config) (*records, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", rightsizing.Group, err)
	}
	r := &records{dynamicinformer.NewFilteredDynamicInformer(client, rightsizing.Autoscalers(), metav1.NamespaceAll, 10*time.Minute, cache.Indexers{}, nil).Informer()}
	if err := r.informer.SetTransform(func(o any) (any, error) {
		u, is := o.(*unstructured.Unstructured)
		if !is {
			return o, nil
		}
		kept := &record{ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()}}
		var status struct {
			Application  rightsizing.Application   `json:"application"`
			Explanations []rightsizing.Explanation `json:"explanations"`
		}
		// What cannot be read is not known: pods are then sized by the recommendation alone.
		if text, err := json.Marshal(u.Object["status"]); err == nil && json.Unmarshal(text, &status) == nil {
			kept.known = rules.KnownOf(status.Application, status.Explanations)
		}
		return kept, nil
	}); err != nil {
		return nil, fmt.Errorf("watch autoscalers: %w", err)
	}
	return r, nil
}

func (r *records) run(ctx context.Context) error {
	r.informer.RunWithContext(ctx)
	return nil
}

// known is what is known of an autoscaler's workload.
func (r *records) known(vpa *vpav1.VerticalPodAutoscaler) rules.Known {
	o, there, err := r.informer.GetStore().GetByKey(vpa.Namespace + "/" + vpa.Name)
	if kept, is := o.(*record); err == nil && there && is && kept.UID == vpa.UID {
		return kept.known
	}
	return rules.Known{}
}

// leave says why a pod that is made stays as it is; empty is that it is sized. A new pod waits for no window and no cooldown: it disturbs
// nobody. Marks of others are on workloads, and on pods.
func leave(others *foreign.Finder, ignored []string, workload metav1.Object, pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler, known rules.Known) string {
	if slices.Contains(ignored, vpa.Namespace) {
		return "the namespace is left alone"
	}
	settings, err := rules.Effective(vpa)
	if held := rules.Held(vpa, settings, err, known, time.Now()); held.Is() {
		return held.Why
	}
	if why := others.Ready(); why != nil {
		return "it is not known yet who else sizes workloads: " + why.Error()
	}
	if t := vpa.Spec.TargetRef; t != nil {
		if why, is := others.Elsewhere(foreign.Ref{Namespace: vpa.Namespace, Kind: t.Kind, Name: t.Name}, workload, pod); is {
			return why
		}
	}
	return ""
}
