package rules

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
)

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
