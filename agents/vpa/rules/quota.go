package rules

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
)

// overQuota says that a namespace's ResourceQuota leaves no room for a sizing. A resize is refused then, and a new pod could not be created at
// all. With requests a new pod of class BestEffort comes under quotas that it was not under.
func overQuota(quotas []*corev1.ResourceQuota, pod *corev1.Pod, s Sizing, creating bool) string {
	if len(quotas) == 0 || !s.Changed() {
		return ""
	}
	as := s.apply(pod)
	before, after := total(pod), total(as)
	wasBestEffort := bestEffort(pod)
	isBestEffort := wasBestEffort && (!creating || bestEffort(as)) // the class of one that runs does not change
	for _, q := range byName(quotas) {
		if !counts(q, pod, isBestEffort) {
			continue
		}
		if creating && !counts(q, pod, wasBestEffort) {
			if why := comesUnder(q, as); why != "" {
				return why
			}
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

func bestEffort(pod *corev1.Pod) bool {
	return cmp.Or(pod.Status.QOSClass, QoS(pod)) == corev1.PodQOSBestEffort
}

// counts says whether a quota counts a pod: all of its scopes are the pod's. One that is not known is.
func counts(q *corev1.ResourceQuota, pod *corev1.Pod, isBestEffort bool) bool {
	var scopes []corev1.ScopedResourceSelectorRequirement
	for _, scope := range q.Spec.Scopes {
		scopes = append(scopes, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		scopes = append(scopes, q.Spec.ScopeSelector.MatchExpressions...)
	}
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	return !slices.ContainsFunc(scopes, func(scope corev1.ScopedResourceSelectorRequirement) bool {
		switch class := pod.Spec.PriorityClassName; scope.ScopeName {
		case corev1.ResourceQuotaScopeTerminating:
			return !terminating
		case corev1.ResourceQuotaScopeNotTerminating:
			return terminating
		case corev1.ResourceQuotaScopeBestEffort:
			return !isBestEffort
		case corev1.ResourceQuotaScopeNotBestEffort:
			return isBestEffort
		case corev1.ResourceQuotaScopePriorityClass:
			switch scope.Operator {
			case corev1.ScopeSelectorOpIn:
				return !slices.Contains(scope.Values, class)
			case corev1.ScopeSelectorOpNotIn:
				return slices.Contains(scope.Values, class)
			case corev1.ScopeSelectorOpExists:
				return class == ""
			case corev1.ScopeSelectorOpDoesNotExist:
				return class != ""
			}
		}
		return false
	})
}

// comesUnder says why a pod cannot come under a quota that would not count it as it is.
func comesUnder(q *corev1.ResourceQuota, as *corev1.Pod) string {
	for _, key := range []corev1.ResourceName{corev1.ResourcePods, "count/pods"} {
		if hard, bounded := q.Status.Hard[key]; bounded {
			free := hard.DeepCopy()
			free.Sub(q.Status.Used[key])
			if free.Sign() <= 0 {
				return fmt.Sprintf("ResourceQuota %s has no room for one more pod, which it counts with requests alone", q.Name)
			}
		}
	}
	for _, list := range [][]corev1.Container{as.Spec.Containers, as.Spec.InitContainers} {
		for i := range list {
			for _, r := range resources() {
				_, requested := list[i].Resources.Requests[r]
				_, limited := list[i].Resources.Limits[r]
				for _, key := range []corev1.ResourceName{r, "requests." + r, "limits." + r} {
					_, bounded := q.Status.Hard[key]
					if there := limited || requested && key != "limits."+r; bounded && !there {
						return fmt.Sprintf("ResourceQuota %s counts pods with requests, and each container of them has to have %s, which container %s has not", q.Name, key, list[i].Name)
					}
				}
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

// total is what quotas count of a pod, by the names that they have: what its containers have together, and the overhead of its RuntimeClass.
func total(pod *corev1.Pod) corev1.ResourceList {
	sum := corev1.ResourceList{}
	requests := together(pod, func(c *corev1.Container) corev1.ResourceList { return requestsOf(&c.Resources) })
	limits := together(pod, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits })
	for _, r := range resources() {
		request, limit := requests[r].DeepCopy(), limits[r].DeepCopy()
		request.Add(pod.Spec.Overhead[r])
		if !limit.IsZero() {
			limit.Add(pod.Spec.Overhead[r])
		}
		sum[r], sum["requests."+r], sum["limits."+r] = request, request, limit
	}
	return sum
}

// requestsOf is what a container requests: a limit alone is a request, too, as Kubernetes has it.
func requestsOf(of *corev1.ResourceRequirements) corev1.ResourceList {
	all := corev1.ResourceList{}
	for _, r := range resources() {
		if q, is := of.Requests[r]; is {
			all[r] = q
		} else if q, is := of.Limits[r]; is {
			all[r] = q
		}
	}
	return all
}
