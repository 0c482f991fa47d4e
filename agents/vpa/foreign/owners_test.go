package foreign

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestClaims: what the objects of others say.
func TestClaims(t *testing.T) {
	for _, c := range []struct {
		name, reason, resource, text string
		kind, workload, why, scales  string
	}{
		{"upstream", "", "verticalpodautoscalers", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}}", "Deployment", "web", "VerticalPodAutoscaler web", ""},
		{"upstream, off", "Goldilocks' only recommend", "verticalpodautoscalers", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}, updatePolicy: {updateMode: \"Off\"}}", "Deployment", "web", "", ""},
		{"upstream, initial", "it sizes new pods", "verticalpodautoscalers", "metadata: {name: web}\nspec: {targetRef: {kind: Deployment, name: web}, updatePolicy: {updateMode: Initial}}", "Deployment", "web", "VerticalPodAutoscaler web", ""},
		{"EKS", "the name says it", "resourceoptimizations", "metadata: {name: web-deploy}", "Deployment", "web", "ResourceOptimization web-deploy", ""},
		{"EKS, StatefulSet", "", "resourceoptimizations", "metadata: {name: db-sts}\nspec: {mode: Apply}", "StatefulSet", "db", "ResourceOptimization db-sts", ""},
		{"EKS, a target", "it says more than its name", "resourceoptimizations", "metadata: {name: anything}\nspec: {targetRef: {kind: StatefulSet, name: db}}", "StatefulSet", "db", "ResourceOptimization anything", ""},
		{"EKS, a target and a name", "", "resourceoptimizations", "metadata: {name: web-deploy}\nspec: {targetRef: {kind: StatefulSet, name: db}}", "StatefulSet", "db", "ResourceOptimization web-deploy", ""},
		{"EKS, is to recommend", "wherever its mode is", "resourceoptimizations", "metadata: {name: web-deploy}\nspec: {mode: Recommend}", "Deployment", "web", "", ""},
		{"EKS, neither a target nor such a name", "it is about nothing that is known", "resourceoptimizations", "metadata: {name: web}", "", "", "ResourceOptimization web", ""},
		{"EKS, recommends", "it changes nothing", "resourceoptimizations", "metadata: {name: web-deploy}\nstatus: {mode: Recommend}", "Deployment", "web", "", ""},
		{"Datadog", "", "datadogpodautoscalers", "metadata: {name: d}\nspec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, applyPolicy: {mode: Apply}}", "Deployment", "web", "DatadogPodAutoscaler d", ""},
		{"Datadog, preview", "", "datadogpodautoscalers", "metadata: {name: d}\nspec: {targetRef: {kind: Deployment, name: web}, applyPolicy: {mode: Preview}}", "Deployment", "web", "", ""},
		{"Datadog, horizontal alone", "", "datadogpodautoscalers", "metadata: {name: d}\nspec: {targetRef: {kind: Deployment, name: web}, applyPolicy: {update: {strategy: Disabled}}}", "Deployment", "web", "", ""},
		{"PerfectScale", "", "workloadautomationconfigs", "metadata: {name: w}\nspec: {targetRef: {kind: Deployment, name: web}, automation: {operational: {automationMode: Enabled}}}", "Deployment", "web", "WorkloadAutomationConfig w", ""},
		{"PerfectScale, off", "", "workloadautomationconfigs", "metadata: {name: w}\nspec: {targetRef: {kind: Deployment, name: web}, automation: {operational: {automationMode: Disabled}}}", "Deployment", "web", "", ""},
		{"horizontal on CPU", "a share of the request", "horizontalpodautoscalers", "metadata: {name: h}\nspec: {scaleTargetRef: {kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}", "Deployment", "web", "", "cpu"},
		{"horizontal on an amount", "requests do not matter to it", "horizontalpodautoscalers", "metadata: {name: h}\nspec: {scaleTargetRef: {kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 1}}}]}", "Deployment", "web", "", ""},
		{"horizontal by container", "", "horizontalpodautoscalers", "metadata: {name: h}\nspec: {scaleTargetRef: {kind: Deployment, name: web}, metrics: [{type: External}, {type: ContainerResource, containerResource: {container: c, name: memory, target: {type: Utilization}}}]}", "Deployment", "web", "", "memory"},
		{"nothing in it", "", "datadogpodautoscalers", "metadata: {name: d}", "", "", "DatadogPodAutoscaler d", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var u unstructured.Unstructured
			if err := yaml.Unmarshal([]byte(c.text), &u.Object); err != nil {
				t.Fatal(err)
			}
			u.SetNamespace("n")
			found := false
			for _, s := range sources() {
				if s.resource != c.resource {
					continue
				}
				found = true
				got := s.read(&u)
				var scales []string
				for _, r := range got.scales {
					scales = append(scales, string(r))
				}
				if got.ref != (Ref{"n", c.kind, c.workload}) || (c.why == "") != (got.why == "") || !strings.Contains(got.why, c.why) || strings.Join(scales, " ") != c.scales {
					t.Errorf("%+v, %q, %v; %s", got.ref, got.why, scales, c.reason)
				}
			}
			if !found {
				t.Fatalf("nobody reads %s", c.resource)
			}
		})
	}
}

func TestMarked(t *testing.T) {
	object := func(annotation, label string) metav1.Object {
		pair := func(text string) map[string]string {
			k, v, is := strings.Cut(text, "=")
			if !is {
				return nil
			}
			return map[string]string{k: v}
		}
		return &metav1.ObjectMeta{Annotations: pair(annotation), Labels: pair(label)}
	}
	type marked struct {
		name   string
		object metav1.Object
		who    string
	}
	cases := []marked{
		{"nobody", object("a=b", "c=d"), ""},
		{"none", nil, ""},
		{"CAST AI", object("workloads.cast.ai/configuration=vertical: {optimization: on}", ""), "CAST AI"},
		{"CAST AI, off", object("workloads.cast.ai/configuration=vertical: {optimization: off}", ""), ""},
		{"CAST AI, not readable", object("workloads.cast.ai/configuration={", ""), "CAST AI"},
		{"CAST AI, before", object("workloads.cast.ai/vertical-autoscaling=on", ""), "CAST AI"},
		{"CAST AI, sized", object("autoscaling.cast.ai/vertical-recommendation-hash=abc", ""), "CAST AI"},
		{"ScaleOps", object("scaleops.sh/default-rightsize-auto=true", ""), "ScaleOps"},
		{"ScaleOps, off", object("scaleops.sh/default-rightsize-auto=false", ""), ""},
		{"ScaleOps, pod", object("", "scaleops.sh/managed=true"), "ScaleOps"},
		{"ScaleOps, before", object("scaleops.sh/default-auto=true", ""), "ScaleOps"},
		{"ScaleOps, before, off", object("scaleops.sh/default-auto=false", ""), ""},
		{"ScaleOps, containers of a pod", object("scaleops.sh/managed-containers=web", ""), "ScaleOps"},
		{"ScaleOps, no containers", object("scaleops.sh/managed-containers=", ""), ""},
		{"CAST AI, before, off", object("workloads.cast.ai/vertical-autoscaling=off", ""), ""},
		{"StormForge, off", object("live.stormforge.io/auto-deploy=Disabled", ""), ""},
		{"Kubecost, off", object("request.autoscaling.kubecost.com/enabled=false", ""), ""},
		{"StormForge", object("live.stormforge.io/auto-deploy=Enabled", ""), "StormForge"},
		{"Kubecost", object("request.autoscaling.kubecost.com/enabled=true", ""), "Kubecost"},
	}
	for _, m := range marks() {
		if !slices.ContainsFunc(cases, func(c marked) bool {
			if c.object == nil || c.who != m.product {
				return false
			}
			_, annotated := c.object.GetAnnotations()[m.key]
			_, labelled := c.object.GetLabels()[m.key]
			return annotated || labelled
		}) {
			t.Errorf("no case shows that %s counts", m.key)
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			why, is := Marked(nil, c.object)
			if is != (c.who != "") || !strings.Contains(why, c.who) {
				t.Errorf("%q, %t", why, is)
			}
		})
	}
}
