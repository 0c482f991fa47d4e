package rules

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/client"
)

// Slim is a transform of informers of workloads: of one of upstream's well-known kinds it keeps who owns it, which pods it selects, and how it is
// marked, for who asks no more. What a workload would run is most of what it weighs, and a collection of garbage goes through all of it.
func Slim(obj any) (any, error) {
	var template *corev1.PodTemplateSpec
	switch o := obj.(type) {
	case *appsv1.Deployment:
		template = &o.Spec.Template
	case *appsv1.ReplicaSet:
		template = &o.Spec.Template
	case *appsv1.StatefulSet:
		template, o.Spec.VolumeClaimTemplates = &o.Spec.Template, nil
	case *appsv1.DaemonSet:
		template = &o.Spec.Template
	case *batchv1.Job:
		template = &o.Spec.Template
	case *batchv1.CronJob:
		template = &o.Spec.JobTemplate.Spec.Template
	case *corev1.ReplicationController:
		template = o.Spec.Template
	}
	if template != nil {
		// Its labels are what upstream tells a CronJob's pods by.
		*template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}}
	}
	if o, err := meta.Accessor(obj); err == nil {
		delete(o.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return client.StripManagedFields(obj) //nolint:wrapcheck // it has none
}
