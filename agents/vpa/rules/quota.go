package rules

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
)

// overQuota says that a namespace's ResourceQuota leaves no room for a sizing. A resize is refused then, and a new pod could not be created at
// all. Quotas for some pods only (scopes) are left to the API server, which knows whose they are.
func overQuota(quotas []*corev1.ResourceQuota, pod *corev1.Pod, s Sizing, creating bool) string {
	if len(quotas) == 0 || !s.Changed() {
		return ""
	}
	before, after := total(pod), total(s.apply(pod))
	for _, q := range byName(quotas) {
		if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
			continue
		}
		for _, key := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU, corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory} {
			hard, bounded := q.Status.Hard[key]
			if !bounded {
				continue
			}
			had, gets := before[key], after[key]
			if gets.Cmp(had) <= 0 {
				continue // what is there may stay, and become less
			}
			free := hard.DeepCopy()
			free.Sub(q.Status.Used[key])
			if !creating {
				free.Add(had) // it is counted already
			}
			if gets.Cmp(free) > 0 {
				return fmt.Sprintf("ResourceQuota %s has no room: a pod with %s of %s is too much, %s at most", q.Name, gets.String(), key, free.String())
			}
		}
	}
	return ""
}

// QuotasOf are those that a factory's informer knows.
func QuotasOf(factory informers.SharedInformerFactory) func(namespace string) []*corev1.ResourceQuota {
	quotas := factory.Core().V1().ResourceQuotas()
	quotas.Informer()
	return func(namespace string) []*corev1.ResourceQuota {
		all, err := quotas.Lister().ResourceQuotas(namespace).List(labels.Everything())
		if err != nil {
			return nil // a cache has no errors
		}
		return all
	}
}

// total is what a pod's containers request and are limited to together, by the names that quotas have.
func total(pod *corev1.Pod) corev1.ResourceList {
	sum := corev1.ResourceList{}
	add := func(key corev1.ResourceName, q resource.Quantity) {
		is := sum[key].DeepCopy()
		is.Add(q)
		sum[key] = is
	}
	each := func(c *corev1.Container) {
		for _, r := range resources() {
			limit := c.Resources.Limits[r]
			request, is := c.Resources.Requests[r]
			if !is {
				request = limit // as Kubernetes has it
			}
			add(r, request)
			add("requests."+r, request)
			add("limits."+r, limit)
		}
	}
	for i := range pod.Spec.Containers {
		each(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			each(c)
		}
	}
	return sum
}
