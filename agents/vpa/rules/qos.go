package rules

import (
	corev1 "k8s.io/api/core/v1"
)

// QoS is the class of service that the pod's containers make, of CPU and memory alone, as Kubernetes reckons it.
func QoS(pod *corev1.Pod) corev1.PodQOSClass {
	guaranteed, something := true, false
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			c := &containers[i]
			for _, r := range resources() {
				limit, request := c.Resources.Limits[r], c.Resources.Requests[r]
				if !limit.IsZero() || !request.IsZero() {
					something = true
				}
				if limit.IsZero() || !request.IsZero() && request.Cmp(limit) != 0 {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case !something:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// resources are those that are sized.
func resources() [2]corev1.ResourceName {
	return [2]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
}
