package rules

import (
	"cmp"
	"fmt"
	"maps"
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

// needsLimit says who in the namespace has every container of a pod limit a resource; empty is nobody. A pod whose limit was taken away is refused there,
// or is given a default one once it was sized, which its request may exceed.
func needsLimit(ranges []*corev1.LimitRange, quotas []*corev1.ResourceQuota, pod *corev1.Pod, r corev1.ResourceName) string {
	for _, q := range byName(quotas) {
		_, counted := q.Status.Hard["limits."+r]
		_, asked := q.Spec.Hard["limits."+r] // its status may come later
		if (counted || asked) && counts(q, pod, false) {
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

// proportions are the strictest bounds of limits in proportion to requests, those of pods too: a pod whose containers keep it keeps it.
func proportions(ranges []*corev1.LimitRange) corev1.ResourceList {
	var strictest corev1.ResourceList
	for _, one := range ranges {
		for i := range one.Spec.Limits {
			item := &one.Spec.Limits[i]
			for _, r := range resources() {
				most, is := item.MaxLimitRequestRatio[r]
				if !is || most.Sign() <= 0 || item.Type != corev1.LimitTypeContainer && item.Type != corev1.LimitTypePod {
					continue
				}
				if strictest == nil {
					strictest = corev1.ResourceList{}
				}
				if before, bounded := strictest[r]; bounded {
					most = smaller(most, before)
				}
				strictest[r] = most
			}
		}
	}
	return strictest
}

// outOfRange says which LimitRange does not allow a sizing, by what the API server asks of a pod: rules that keep a limit, or what containers have
// that are not sized, can make of the whole pod what its template was not.
func outOfRange(ranges []*corev1.LimitRange, pod *corev1.Pod, s Sizing) string {
	if len(ranges) == 0 || !s.Changed() {
		return ""
	}
	after, fill := s.apply(pod), defaults(ranges)
	for _, list := range [][]corev1.Container{after.Spec.Containers, after.Spec.InitContainers} {
		for i := range list {
			list[i].Resources = fill(list[i].Resources) // of containers that another webhook put in
		}
	}
	for _, one := range byName(ranges) {
		for i := range one.Spec.Limits {
			item, why := &one.Spec.Limits[i], ""
			switch item.Type {
			case corev1.LimitTypeContainer:
				for _, list := range [][]corev1.Container{after.Spec.Containers, after.Spec.InitContainers} {
					for j := range list {
						why = cmp.Or(why, disallows(item, list[j].Resources.Requests, list[j].Resources.Limits))
					}
				}
			case corev1.LimitTypePod:
				why = disallows(item, together(after, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests }), together(after, func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits }))
			}
			if why != "" {
				return fmt.Sprintf("LimitRange %s does not allow it for a %s: %s", one.Name, strings.ToLower(string(item.Type)), why)
			}
		}
	}
	return ""
}

// defaults is what the API server makes of a container's resources where something is missing.
func defaults(ranges []*corev1.LimitRange) func(corev1.ResourceRequirements) corev1.ResourceRequirements {
	var limits, requests corev1.ResourceList
	put := func(to *corev1.ResourceList, r corev1.ResourceName, from corev1.ResourceList) {
		q, is := from[r]
		if _, there := (*to)[r]; !is || there {
			return
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[r] = q
	}
	for _, one := range byName(ranges) {
		for i := range one.Spec.Limits {
			if item := &one.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
				for _, r := range resources() {
					put(&limits, r, item.Default)
					put(&requests, r, item.DefaultRequest)
				}
			}
		}
	}
	return func(is corev1.ResourceRequirements) corev1.ResourceRequirements {
		to := corev1.ResourceRequirements{Limits: maps.Clone(is.Limits), Requests: maps.Clone(is.Requests)}
		for _, r := range resources() {
			put(&to.Requests, r, is.Limits)
			put(&to.Limits, r, limits)
			put(&to.Requests, r, requests)
		}
		return to
	}
}

// disallows says what an item of a LimitRange does not allow.
func disallows(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) string {
	for _, r := range resources() {
		request, requested := requests[r]
		limit, limited := limits[r]
		if least, is := item.Min[r]; is && (!requested || request.Cmp(least) < 0 || limited && limit.Cmp(least) < 0) {
			return fmt.Sprintf("%s of %s and a limit of %s, at least %s are asked for", request.String(), r, limit.String(), least.String())
		}
		if most, is := item.Max[r]; is && (!limited || limit.Cmp(most) > 0 || request.Cmp(most) > 0) {
			return fmt.Sprintf("%s of %s and a limit of %s, at most %s are allowed", request.String(), r, limit.String(), most.String())
		}
		// The API server reckons with floating point, too.
		if most, is := item.MaxLimitRequestRatio[r]; is && (request.IsZero() || limit.IsZero() || float64(limit.MilliValue())/float64(request.MilliValue())*1000 > float64(most.MilliValue())) {
			return fmt.Sprintf("%s of %s and a limit of %s, which may be %s times as much at most", request.String(), r, limit.String(), most.String())
		}
	}
	return ""
}

// together is what the containers of a pod have, as the API server reckons it: those that run at once.
func together(pod *corev1.Pod, of func(*corev1.Container) corev1.ResourceList) corev1.ResourceList {
	all, sidecars, most := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	add := func(to, list corev1.ResourceList) {
		for _, r := range resources() {
			if q, is := list[r]; is {
				sum := to[r].DeepCopy()
				sum.Add(q)
				to[r] = sum
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(all, of(&pod.Spec.Containers[i]))
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if isSidecar(c) {
			add(all, of(c))
			add(sidecars, of(c))
			continue
		}
		once := sidecars.DeepCopy()
		add(once, of(c))
		for r, q := range once {
			most[r] = larger(most[r], q)
		}
	}
	for r, q := range most {
		all[r] = larger(all[r], q)
	}
	return all
}
