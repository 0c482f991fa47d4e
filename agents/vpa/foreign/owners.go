package foreign

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Ref names a workload. As with upstream's, the group of its kind is not looked at.
type Ref struct{ Namespace, Kind, Name string }

func (r Ref) key() string { return r.Namespace + "/" + r.Kind + "/" + r.Name }

// claim is what remains of an object in memory: which workload it is about, and what it does to it.
type claim struct {
	metav1.ObjectMeta

	ref Ref
	// why says for people that it sizes the workload; empty is that it does not.
	why string
	// scales are the resources on whose utilization it scales.
	scales []corev1.ResourceName
}

// source is a resource of others.
type source struct {
	group, resource string
	read            func(*unstructured.Unstructured) claim
}

// sources are those that are known.
func sources() []source {
	return []source{
		{rightsizing.UpstreamGroup, "verticalpodautoscalers", upstream},
		{"eks.amazonaws.com", "resourceoptimizations", eks},
		{"datadoghq.com", "datadogpodautoscalers", datadog},
		{"perfectscale.io", "workloadautomationconfigs", perfectScale},
		{"autoscaling", "horizontalpodautoscalers", horizontal},
	}
}

func text(u *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, path...)
	return s
}

func target(u *unstructured.Unstructured, path ...string) Ref {
	at := func(field string) string { return text(u, append(append([]string{}, path...), field)...) }
	return Ref{Namespace: u.GetNamespace(), Kind: at("kind"), Name: at("name")}
}

// upstream is the Kubernetes VPA. One whose mode is Off only recommends, as Goldilocks' do.
func upstream(u *unstructured.Unstructured) claim {
	c := claim{ref: target(u, "spec", "targetRef")}
	if text(u, "spec", "updatePolicy", "updateMode") != "Off" {
		c.why = fmt.Sprintf("VerticalPodAutoscaler %s of %s sizes it", u.GetName(), rightsizing.UpstreamGroup)
	}
	return c
}

// eks is one of EKS Auto Mode's, a preview: an object for each workload that a ClusterResourceOptimizationPolicy selects, called after it
// with -deploy or -sts behind. In the mode Recommend it changes nothing. Which field the object has its mode in is not in
// https://docs.aws.amazon.com/eks/latest/userguide/auto-ro-reference.html yet as of the preview, so both places are looked at, and an
// object without a mode is taken for one that applies.
func eks(u *unstructured.Unstructured) claim {
	c := claim{ref: target(u, "spec", "targetRef")}
	if c.ref.Name == "" {
		for suffix, kind := range map[string]string{"-deploy": "Deployment", "-sts": "StatefulSet"} {
			if name, is := strings.CutSuffix(u.GetName(), suffix); is {
				c.ref = Ref{Namespace: u.GetNamespace(), Kind: kind, Name: name}
			}
		}
	}
	if text(u, "spec", "mode") == "Recommend" || text(u, "status", "mode") == "Recommend" {
		return c
	}
	c.why = fmt.Sprintf("EKS Auto Mode's ResourceOptimization %s sizes it", u.GetName())
	return c
}

// datadog is https://docs.datadoghq.com/containers/autoscaling/manifest/: Preview changes nothing, and the strategy Disabled leaves
// containers as they are.
func datadog(u *unstructured.Unstructured) claim {
	c := claim{ref: target(u, "spec", "targetRef")}
	if text(u, "spec", "applyPolicy", "mode") != "Preview" && text(u, "spec", "applyPolicy", "update", "strategy") != "Disabled" {
		c.why = fmt.Sprintf("DatadogPodAutoscaler %s sizes it", u.GetName())
	}
	return c
}

// perfectScale is
// https://docs.perfectscale.io/enable-automation/including-a-cluster-namespace-or-workload-to-the-automation/configuring-automation-for-a-workload.
// Its automation of whole namespaces and clusters is not seen.
func perfectScale(u *unstructured.Unstructured) claim {
	c := claim{ref: target(u, "spec", "targetRef")}
	if text(u, "spec", "automation", "operational", "automationMode") != "Disabled" {
		c.why = fmt.Sprintf("PerfectScale's WorkloadAutomationConfig %s sizes it", u.GetName())
	}
	return c
}

// horizontal is a HorizontalPodAutoscaler. A target of utilization is a share of the request: who changes one moves the other.
func horizontal(u *unstructured.Unstructured) claim {
	c := claim{ref: target(u, "spec", "scaleTargetRef")}
	metrics, _, _ := unstructured.NestedSlice(u.Object, "spec", "metrics")
	for _, m := range metrics {
		metric, _ := m.(map[string]any)
		for _, field := range []string{"resource", "containerResource"} {
			name, _, _ := unstructured.NestedString(metric, field, "name")
			kind, _, _ := unstructured.NestedString(metric, field, "target", "type")
			if r := corev1.ResourceName(name); kind == "Utilization" && (r == corev1.ResourceCPU || r == corev1.ResourceMemory) {
				c.scales = append(c.scales, r)
			}
		}
	}
	return c
}

// mark is a label or an annotation of another product.
type mark struct {
	key     string
	product string
	// means says whether the value means that it sizes what is marked.
	means func(value string) bool
}

func marks() []mark {
	is := func(word string) func(string) bool {
		return func(v string) bool { return strings.EqualFold(strings.TrimSpace(v), word) }
	}
	set := func(v string) bool { return v != "" }
	return []mark{
		// https://docs.cast.ai/docs/workload-autoscaler-annotations-reference
		{"workloads.cast.ai/configuration", "CAST AI", castAI},
		// https://docs.cast.ai/docs/workload-autoscaler-legacy-annotations-reference
		{"workloads.cast.ai/vertical-autoscaling", "CAST AI", is("on")},
		// On pods that it sized, as its documentation says how to see that it did.
		{"autoscaling.cast.ai/vertical-recommendation-hash", "CAST AI", set},
		// https://scaleops.glowstick.me/scaleops-via-yamls/workload-actions, a copy of its documentation; default-auto is that of older releases.
		{"scaleops.sh/default-rightsize-auto", "ScaleOps", is("true")},
		{"scaleops.sh/default-auto", "ScaleOps", is("true")},
		// A label of its pods, and an annotation: operators that compare pods look for it (Koperator).
		{"scaleops.sh/managed", "ScaleOps", is("true")},
		{"scaleops.sh/managed-containers", "ScaleOps", set},
		// https://docs.stormforge.io/optimize-live: recommendations are applied without asking.
		{"live.stormforge.io/auto-deploy", "StormForge", is("Enabled")},
		// https://kyverno.io/policies/kubecost/enable-kubecost-continuous-rightsizing/enable-kubecost-continuous-rightsizing
		{"request.autoscaling.kubecost.com/enabled", "Kubecost", is("true")},
	}
}

// castAI reads its settings: vertical.optimization off leaves containers alone. What cannot be read counts.
func castAI(value string) bool {
	var settings struct {
		Vertical struct {
			Optimization any `json:"optimization"` // on and off are booleans to YAML
		} `json:"vertical"`
	}
	if err := yaml.Unmarshal([]byte(value), &settings); err != nil {
		return true
	}
	return settings.Vertical.Optimization != false && settings.Vertical.Optimization != "off"
}

// Marked says that another product has put its mark onto one of the objects, workloads or pods; nil ones are passed over.
func Marked(objects ...metav1.Object) (reason string, is bool) {
	known := marks()
	for _, o := range objects {
		if o == nil {
			continue
		}
		labels, annotations := o.GetLabels(), o.GetAnnotations()
		for _, m := range known {
			if v, there := annotations[m.key]; there && m.means(v) {
				return fmt.Sprintf("%s sizes it, by its annotation %s", m.product, m.key), true
			}
			if v, there := labels[m.key]; there && m.means(v) {
				return fmt.Sprintf("%s sizes it, by its label %s", m.product, m.key), true
			}
		}
	}
	return "", false
}
