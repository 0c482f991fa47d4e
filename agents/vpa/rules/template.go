package rules

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	"k8s.io/client-go/informers"
)

// Resizer is the field manager of what the updater resizes: its name.
const Resizer = "nops-vpa-updater"

func isResize(m *metav1.ManagedFieldsEntry) bool {
	return m.Subresource == "resize" && m.Manager == Resizer && m.FieldsV1 != nil
}

// KeepResizes is a transform of informers of pods: of who wrote what, which is most of a pod, it keeps what WasSized reads.
func KeepResizes(o any) (any, error) {
	pod, is := o.(*corev1.Pod)
	if !is {
		return o, nil
	}
	var kept []metav1.ManagedFieldsEntry
	for i := range pod.ManagedFields {
		if m := &pod.ManagedFields[i]; isResize(m) {
			kept = append(kept, *m)
		}
	}
	pod.ManagedFields = kept
	return pod, nil
}

// WasSized says whether what a container requests of a resource may be of a sizing.
func WasSized(pod *corev1.Pod, container string, r corev1.ResourceName) bool {
	return Gave(pod, container, "requests", r)
}

// Gave says whether one of a container's requests or limits may be of a sizing: the webhook notes on a pod what it sized, and the API server
// knows who resized it. What is nobody's of these is its template's, or of somebody else's webhook, as the next pod's will be.
func Gave(pod *corev1.Pod, container, field string, r corev1.ResourceName) bool {
	if strings.Contains(pod.Annotations[patch.ResourceUpdatesAnnotation], string(r)+" "+strings.TrimSuffix(field, "s")) {
		return true
	}
	type owned struct {
		Resources map[string]map[string]struct{} `json:"f:resources"`
	}
	key, of := fmt.Sprintf("k:{\"name\":%q}", container), "f:"+string(r)
	for i := range pod.ManagedFields {
		var fields struct {
			Spec struct {
				Containers     map[string]owned `json:"f:containers"`
				InitContainers map[string]owned `json:"f:initContainers"`
			} `json:"f:spec"`
		}
		if m := &pod.ManagedFields[i]; !isResize(m) || json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		_, is := fields.Spec.Containers[key].Resources["f:"+field][of]
		_, sidecar := fields.Spec.InitContainers[key].Resources["f:"+field][of]
		if is || sidecar {
			return true
		}
	}
	return false
}

// TemplatesOf finds what pods are made from, by their controllers, as a factory's informers know them. It registers those: call it before the
// factory starts.
func TemplatesOf(factory informers.SharedInformerFactory) func(*corev1.Pod) *corev1.PodSpec {
	apps, batch := factory.Apps().V1(), factory.Batch().V1()
	sets, stateful, daemons, jobs := apps.ReplicaSets().Lister(), apps.StatefulSets().Lister(), apps.DaemonSets().Lister(), batch.Jobs().Lister()
	return func(pod *corev1.Pod) *corev1.PodSpec {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			return nil
		}
		var is types.UID
		var template *corev1.PodTemplateSpec
		switch owner.Kind {
		case "ReplicaSet":
			if o, err := sets.ReplicaSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "StatefulSet":
			if o, err := stateful.StatefulSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "DaemonSet":
			if o, err := daemons.DaemonSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "Job":
			if o, err := jobs.Jobs(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		}
		if template == nil || is != owner.UID {
			return nil
		}
		return &template.Spec
	}
}
