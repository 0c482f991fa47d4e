package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// minAligned is by how much a target must be off, in percent of it, before it is written again: each write makes the horizontal autoscaler
// look anew.
const minAligned = 5

// Alignment is what is to be done about one HorizontalPodAutoscaler. Of a workload it says Align, Yield and Why alone.
type Alignment struct {
	// Align and Yield are the resources whose target follows, and those on which it scales and whose target cannot.
	Align, Yield []string
	// Why says why of those in Yield, by resource.
	Why map[string]string
	// Patch is a JSON merge patch of its metadata, and Targets what to set in its metrics; nil changes nothing.
	Targets *rightsizing.Targets
	Set     map[corev1.ResourceName]int32
}

// utilization are the resources on whose utilization it scales, with their targets. Absolute targets (AverageValue) do not move with requests.
func utilization(h *autoscalingv2.HorizontalPodAutoscaler) map[corev1.ResourceName]int32 {
	out := map[corev1.ResourceName]int32{}
	for _, m := range h.Spec.Metrics {
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Target.Type == autoscalingv2.UtilizationMetricType && m.Resource.Target.AverageUtilization != nil {
			out[m.Resource.Name] = *m.Resource.Target.AverageUtilization
		}
	}
	return out
}

// byContainer names the container on whose utilization it scales, by resource. Such a target follows nothing: beside one, a target that does would
// leave the other behind, and with it the pods.
func byContainer(h *autoscalingv2.HorizontalPodAutoscaler) map[corev1.ResourceName]string {
	out := map[corev1.ResourceName]string{}
	for _, m := range h.Spec.Metrics {
		if c := m.ContainerResource; m.Type == autoscalingv2.ContainerResourceMetricSourceType && c != nil && c.Target.Type == autoscalingv2.UtilizationMetricType {
			out[c.Name] = c.Container
		}
	}
	return out
}

// gitops are field managers that write what is in a repository, again and again: to change what they write is a fight.
func gitops(h *autoscalingv2.HorizontalPodAutoscaler) string {
	known := []string{"argocd", "argo-cd", "openshift-gitops", "kustomize-controller", "helm", "flux", "gotk", "terraform", "pulumi", "crossplane", "configsync", "fleet", "kapp"}
	var found []string
	for _, m := range h.ManagedFields {
		if slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(strings.ToLower(m.Manager), k) }) {
			found = append(found, m.Manager)
		}
	}
	if len(found) > 0 {
		return slices.Min(found) // they come in the order in which they wrote last
	}
	for _, o := range h.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			return o.Kind + " " + o.Name
		}
	}
	return ""
}

// Align decides about one HorizontalPodAutoscaler. wanted says that a policy wants its targets to follow; template and live are a pod's
// requests by its template, and on the average of those that run, in thousandths. A target that followed goes back with the pods, and is its
// own again when they request what their template says: at once it would scale out, or in, by as much as it had been moved.
func Align(h *autoscalingv2.HorizontalPodAutoscaler, wanted bool, template, live map[corev1.ResourceName]int64) (out Alignment) {
	out.Why, out.Set = map[string]string{}, map[corev1.ResourceName]int32{}
	was := rightsizing.Targets{}
	text, marked := h.Annotations[rightsizing.AnnotationTargets]
	if marked && json.Unmarshal([]byte(text), &was) != nil {
		was = rightsizing.Targets{} // nobody can know what it was: what is there now is the beginning
	}
	now := rightsizing.Targets{}
	writer, containers := gitops(h), byContainer(h)
	for name, percent := range utilization(h) {
		before, known := was[name]
		if known && percent != before.Written {
			before.Released = true // a person's, or a tool's
		}
		of := percent
		if known {
			of = before.Percent
		}
		target := moved(of, percent, template[name], live[name])
		follow := func() {
			if target != percent {
				out.Set[name] = target
			}
			before.Written = target
			now[name] = before
		}
		yield := func(format string, args ...any) {
			out.Yield = append(out.Yield, string(name))
			out.Why[string(name)] = fmt.Sprintf(format, args...)
			switch {
			case !known:
			case before.Released:
				now[name] = before // remembered: it is not taken again
			case template[name] > 0 && live[name] > 0 && live[name] != template[name]:
				follow() // until pods are given back, or replaced
			case percent != before.Percent:
				out.Set[name] = before.Percent
			}
		}
		switch {
		case !wanted:
			yield("HorizontalPodAutoscaler %s scales on the utilization of %s, which is a share of the request", h.Name, name)
		case known && before.Released:
			yield("somebody changed the target of HorizontalPodAutoscaler %s since it was made to follow requests", h.Name)
		case writer != "":
			yield("HorizontalPodAutoscaler %s is written by %s, which would put its target back", h.Name, writer)
		case containers[name] != "":
			yield("HorizontalPodAutoscaler %s scales on the utilization of %s in container %s, too, and that target follows no requests", h.Name, name, containers[name])
		case template[name] <= 0:
			yield("HorizontalPodAutoscaler %s scales on a share of requests for %s, of which its pods' template has none", h.Name, name)
		default:
			if !known {
				before = rightsizing.Target{Percent: percent, Written: percent}
			}
			out.Align = append(out.Align, string(name))
			follow()
		}
	}
	slices.Sort(out.Align)
	slices.Sort(out.Yield)
	if len(now) == 0 && marked || len(now) > 0 && string(encoded(now)) != text {
		out.Targets = &now
	}
	return out
}

// together is the alignment of a workload that all of these scale. Where there are several, none of which follows, each resource that any of them
// scales on is left alone.
func together(all []*autoscalingv2.HorizontalPodAutoscaler, is []Alignment) Alignment {
	var out Alignment
	for _, a := range is {
		out.Align, out.Yield = append(out.Align, a.Align...), append(out.Yield, a.Yield...)
		if len(a.Why) > 0 {
			out.Why = a.Why
		}
	}
	if len(all) == 1 || len(out.Yield) == 0 {
		return out
	}
	slices.Sort(out.Yield)
	out.Yield, out.Why = slices.Compact(out.Yield), map[string]string{}
	var names []string
	for _, h := range all {
		names = append(names, h.Name)
	}
	for _, name := range out.Yield {
		out.Why[name] = fmt.Sprintf("several HorizontalPodAutoscalers (%s) scale its workload, and the target of none follows then", strings.Join(names, ", "))
	}
	return out
}

// moved is the target at which scaling begins at the same usage as at that percent of what the template requests; the one there is, where that is
// near it.
func moved(of, there int32, template, live int64) int32 {
	if template <= 0 || live <= 0 {
		return there
	}
	target := int32(min(max(math.Round(float64(of)*float64(template)/float64(live)), 1), 10000))
	if math.Abs(float64(target-there))*100 < minAligned*float64(there) {
		return there
	}
	return target
}

// patch is the JSON patch that an alignment comes to; nil is none. It tests the version that was read.
func (a Alignment) patch(h *autoscalingv2.HorizontalPodAutoscaler) []map[string]any {
	if a.Targets == nil && len(a.Set) == 0 {
		return nil
	}
	out := []map[string]any{{"op": "test", "path": "/metadata/resourceVersion", "value": h.ResourceVersion}}
	path := "/metadata/annotations/" + strings.ReplaceAll(rightsizing.AnnotationTargets, "/", "~1")
	switch {
	case a.Targets == nil:
	case len(*a.Targets) == 0:
		out = append(out, map[string]any{"op": "remove", "path": path})
	default:
		body := encoded(*a.Targets)
		if h.Annotations == nil {
			out = append(out, map[string]any{"op": "add", "path": "/metadata/annotations", "value": map[string]any{}})
		}
		out = append(out, map[string]any{"op": "add", "path": path, "value": string(body)})
	}
	for i, m := range h.Spec.Metrics {
		if m.Type != autoscalingv2.ResourceMetricSourceType || m.Resource == nil {
			continue
		}
		if percent, is := a.Set[m.Resource.Name]; is {
			out = append(out, map[string]any{"op": "replace", "path": fmt.Sprintf("/spec/metrics/%d/resource/target/averageUtilization", i), "value": percent})
		}
	}
	return out
}
