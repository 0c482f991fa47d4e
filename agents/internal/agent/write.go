package agent

import (
	"context"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/internal/workload"
)

// The labels on everything that agents make. Uninstalling goes by part-of and instance: what lacks them stays behind.
const (
	LabelName      = "app.kubernetes.io/name"
	LabelInstance  = "app.kubernetes.io/instance" // the Helm release, on every object of the chart as well
	LabelPartOf    = "app.kubernetes.io/part-of"
	LabelManagedBy = "app.kubernetes.io/managed-by"
	PartOf         = "nops-kubernetes-agent"
)

// Identity is who writes.
type Identity struct {
	Component          string // "heartbeat", as in the label app.kubernetes.io/component
	Namespace, Release string
	Version            string
}

// Name is how the agent calls itself: nops-<component>.
func (i Identity) Name() string { return "nops-" + i.Component }

// Labels are for everything the agent makes.
func (i Identity) Labels() map[string]string {
	return map[string]string{
		LabelName: i.Component, LabelInstance: i.Release, workload.ComponentLabel: i.Component, LabelPartOf: PartOf, LabelManagedBy: i.Name(),
	}
}

// Owner is the agent's own workload. What the agent makes is owned by it, so that it goes when the release goes.
type Owner struct {
	Kind string // "Deployment", "DaemonSet", …
	Name string
	UID  types.UID
}

// Reference is the owner as objects carry it.
func (o Owner) Reference() []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: apiVersion(o.Kind), Kind: o.Kind, Name: o.Name, UID: o.UID}}
}

func apiVersion(kind string) string {
	switch kind {
	case "CronJob", "Job":
		return "batch/v1"
	case "Pod", "ConfigMap":
		return "v1"
	}
	return "apps/v1"
}

// Writer writes what agents tell people inside the cluster: ConfigMaps and events, in the agent's own namespace.
type Writer struct {
	core rest.Interface
	who  Identity
}

// NewWriter makes a writer of a client of the core group that knows ConfigMap and Event.
func NewWriter(core rest.Interface, who Identity) *Writer { return &Writer{core: core, who: who} }

// ConfigMap makes the object be as given, with the agent's labels. It reads first: most calls change nothing.
func (w *Writer) ConfigMap(ctx context.Context, given *corev1.ConfigMap) error {
	want := given.DeepCopy()
	want.Namespace = w.who.Namespace
	want.Labels = merged(want.Labels, w.who.Labels())
	var have corev1.ConfigMap
	err := w.core.Get().Namespace(w.who.Namespace).Resource("configmaps").Name(want.Name).Do(ctx).Into(&have)
	switch {
	case StatusOf(err) == http.StatusNotFound:
		err = w.core.Post().Namespace(w.who.Namespace).Resource("configmaps").Body(want).Do(ctx).Error()
	case err != nil:
	case EqualMaps(have.Data, want.Data) && containsMap(have.Labels, want.Labels):
		return nil
	default:
		update := have.DeepCopy()
		update.Data, update.Labels = want.Data, merged(have.Labels, want.Labels)
		err = w.core.Put().Namespace(w.who.Namespace).Resource("configmaps").Name(want.Name).Body(update).Do(ctx).Error()
	}
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", w.who.Namespace, want.Name, err)
	}
	return nil
}

// Event creates an event.
func (w *Writer) Event(ctx context.Context, e *corev1.Event) error {
	if err := w.core.Post().Namespace(w.who.Namespace).Resource("events").Body(e).Do(ctx).Error(); err != nil {
		return fmt.Errorf("writing an event about %s %s/%s: %w", e.InvolvedObject.Kind, w.who.Namespace, e.InvolvedObject.Name, err)
	}
	return nil
}

func merged(all ...map[string]string) map[string]string {
	m := map[string]string{}
	for _, some := range all {
		for k, v := range some {
			m[k] = v
		}
	}
	return m
}

// EqualMaps says whether two maps hold the same.
func EqualMaps(a, b map[string]string) bool { return len(a) == len(b) && containsMap(a, b) }

func containsMap(all, some map[string]string) bool {
	for k, v := range some {
		if have, is := all[k]; !is || have != v {
			return false
		}
	}
	return true
}
