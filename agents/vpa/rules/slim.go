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
	return slim(obj, func(template *corev1.PodTemplateSpec) {
		// Its labels are what upstream tells a CronJob's pods by.
		*template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}}
	})
}

// SlimSizes is Slim for who asks what templates request, too.
func SlimSizes(obj any) (any, error) {
	return slim(obj, func(template *corev1.PodTemplateSpec) { slimSpec(&template.Spec) })
}

func slim(obj any, keep func(*corev1.PodTemplateSpec)) (any, error) {
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
		keep(template)
	}
	if o, err := meta.Accessor(obj); err == nil {
		delete(o.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return client.StripManagedFields(obj) //nolint:wrapcheck // it has none
}

// SlimPod is a transform of informers of pods: it keeps what sizes a pod. At tens of thousands of pods the rest would be most of a process. Of who
// wrote what, which is most of a pod, it keeps what WasSized reads.
func SlimPod(obj any) (any, error) {
	pod, is := obj.(*corev1.Pod)
	if !is {
		return obj, nil
	}
	var kept []metav1.ManagedFieldsEntry // in an array of its own: that of the others goes
	for i := range pod.ManagedFields {
		if m := &pod.ManagedFields[i]; isResize(m) {
			kept = append(kept, *m)
		}
	}
	pod.ManagedFields = kept
	slimSpec(&pod.Spec)
	return pod, nil
}

// slimSpec drops what no size follows from. What a container runs says whether it is Java, and is kept where it is.
func slimSpec(s *corev1.PodSpec) {
	s.Volumes, s.Affinity, s.Tolerations, s.TopologySpreadConstraints, s.EphemeralContainers = nil, nil, nil, nil, nil
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range list {
			c := &list[i]
			c.EnvFrom, c.VolumeMounts, c.VolumeDevices, c.Ports, c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle, c.SecurityContext = nil, nil, nil, nil, nil, nil, nil, nil, nil
			if !DetectJVM(c).Is {
				c.Command, c.Args, c.Env = nil, nil, nil
			}
		}
	}
}
