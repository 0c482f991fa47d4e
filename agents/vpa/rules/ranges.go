package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
)

// LimitRangesOf are those that a factory's informer knows: upstream's calculator makes one of them, without what it does not ask for itself.
func LimitRangesOf(factory informers.SharedInformerFactory) func(namespace string) []*corev1.LimitRange {
	ranges := factory.Core().V1().LimitRanges()
	ranges.Informer()
	return func(namespace string) []*corev1.LimitRange {
		all, err := ranges.Lister().LimitRanges(namespace).List(labels.Everything())
		if err != nil {
			return nil // a cache has no errors
		}
		return all
	}
}

// needsLimit says who in the namespace has every container limit a resource; empty is nobody. A pod whose limit was taken away is refused there,
// or is given a default one once it was sized, which its request may exceed.
func needsLimit(ranges []*corev1.LimitRange, quotas []*corev1.ResourceQuota, r corev1.ResourceName) string {
	for _, q := range byName(quotas) {
		_, counted := q.Status.Hard[corev1.ResourceName("limits."+r)]
		_, asked := q.Spec.Hard[corev1.ResourceName("limits."+r)] // its status may come later
		if counted || asked {
			return "ResourceQuota " + q.Name + " counts limits, and refuses pods without"
		}
	}
	for _, one := range byName(ranges) {
		for i := range one.Spec.Limits {
			item := &one.Spec.Limits[i]
			for _, by := range []struct {
				name string
				list corev1.ResourceList
			}{{"default", item.Default}, {"max", item.Max}, {"maxLimitRequestRatio", item.MaxLimitRequestRatio}} {
				if _, is := by.list[r]; is {
					return fmt.Sprintf("LimitRange %s has a %s for each %s", one.Name, by.name, strings.ToLower(string(item.Type)))
				}
			}
		}
	}
	return ""
}

// byName puts them in order, so that of several the same one is named every time.
func byName[T interface{ GetName() string }](all []T) []T {
	return slices.SortedFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
}
