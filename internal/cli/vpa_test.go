package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// vpaDefinitions are those that the chart brings, and the Kubernetes VPA's without a schema.
func vpaDefinitions() ([]*unstructured.Unstructured, error) {
	chart, err := embeddedchart.FS()
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(chart, "files/crds/*.yaml")
	if err != nil || len(files) != 3 {
		return nil, fmt.Errorf("%d definitions in the chart, %w", len(files), err)
	}
	var all []*unstructured.Unstructured
	for _, name := range files {
		data, err := fs.ReadFile(chart, name)
		if err != nil {
			return nil, err
		}
		var spec map[string]any
		if err := yaml.Unmarshal(data, &spec); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		plural, _, _ := unstructured.NestedString(spec, "names", "plural")
		all = append(all, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + rightsizing.Group}, "spec": spec}})
	}
	theirs := definition("verticalpodautoscalers", "VerticalPodAutoscaler", "v1")
	theirs.SetName("verticalpodautoscalers." + rightsizing.UpstreamGroup)
	theirs.SetAnnotations(map[string]string{"api-approved.kubernetes.io": "unapproved, test"})
	if err := unstructured.SetNestedField(theirs.Object, rightsizing.UpstreamGroup, "spec", "group"); err != nil {
		return nil, err
	}
	return append(all, theirs), unstructured.SetNestedField(theirs.Object, "Namespaced", "spec", "scope")
}

// vpaWorld is a world in which containers are sized: the stack in one namespace, workloads in another.
type vpaWorld struct {
	*karpenWorld
	shop string
}

func newVPAWorld(t *testing.T) *vpaWorld {
	t.Helper()
	v := &vpaWorld{karpenWorld: newKarpenWorld(t)}
	v.shop = "s-" + v.namespace
	_, err := v.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v.shop}}, metav1.CreateOptions{})
	must(t, err)
	v.componentState("ready")
	t.Cleanup(v.empty)
	return v
}

// empty removes what tests make outside of the stack.
func (v *vpaWorld) empty() {
	ctx := context.WithoutCancel(v.t.Context())
	now := int64(0)
	for _, r := range []schema.GroupVersionResource{rightsizing.Autoscalers(), rightsizing.UpstreamAutoscalers(), {Version: "v1", Resource: "pods"}, {Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "apps", Version: "v1", Resource: "statefulsets"}, {Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}} {
		if err := v.dynamic.Resource(r).Namespace(v.shop).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
			v.t.Error(err)
		}
	}
	if err := v.dynamic.Resource(rightsizing.Policies()).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		v.t.Error(err)
	}
}

// in adds the stack's namespace, and of says which workloads' namespace.
func (v *vpaWorld) in(args ...string) []string { return append(args, "--stack-namespace", v.namespace) }

func (v *vpaWorld) componentState(state install.ComponentState) {
	parts := []workload.Summary{}
	for _, name := range vpaParts() {
		s := healthy().Components[1].Workloads[0]
		s.Name, s.Component = "nops-"+name, name
		parts = append(parts, s)
	}
	c := install.ComponentStatus{Name: rightsizingComponent, State: state, Available: true, Enabled: state != install.ComponentDisabled}
	if c.Enabled {
		c.Workloads = parts
	}
	for i := range v.engine.status.Components {
		if v.engine.status.Components[i].Name == rightsizingComponent {
			v.engine.status.Components[i] = c
			return
		}
	}
	v.engine.status.Components = append(v.engine.status.Components, c)
}

func requirements(text string) corev1.ResourceRequirements { // "500m/512Mi" or "500m/512Mi limit 1/1Gi"
	list := func(s string) corev1.ResourceList {
		cpu, memory, both := strings.Cut(s, "/")
		out := corev1.ResourceList{}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if both && memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return out
	}
	requests, limits, limited := strings.Cut(text, " limit ")
	r := corev1.ResourceRequirements{Requests: list(requests)}
	if limited {
		r.Limits = list(limits)
	}
	return r
}

func podOf(containers ...string) corev1.PodSpec { // NAME RESOURCES…
	var spec corev1.PodSpec
	for i := 0; i < len(containers); i += 2 {
		spec.Containers = append(spec.Containers, corev1.Container{Name: containers[i], Image: "registry.example.com/x", Resources: requirements(containers[i+1])})
	}
	return spec
}

// deployment makes one with its pods, each sized as it is given.
func (v *vpaWorld) deployment(name string, template corev1.PodSpec, pods ...corev1.PodSpec) {
	v.t.Helper()
	labels := map[string]string{"app": name}
	_, err := v.client.AppsV1().Deployments(v.shop).Create(v.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template}},
	}, metav1.CreateOptions{})
	must(v.t, err)
	yes := true
	for _, spec := range pods {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			GenerateName: name + "-", Labels: map[string]string{"app": name, "pod-template-hash": "abc"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-abc", UID: "1", Controller: &yes}},
		}, Spec: spec}
		_, err := v.client.CoreV1().Pods(v.shop).Create(v.t.Context(), p, metav1.CreateOptions{})
		must(v.t, err)
	}
}

func (v *vpaWorld) make(r schema.GroupVersionResource, namespace, text string) {
	v.t.Helper()
	o := &unstructured.Unstructured{}
	must(v.t, yaml.Unmarshal([]byte(text), &o.Object))
	status, has := o.Object["status"]
	made, err := v.dynamic.Resource(r).Namespace(namespace).Create(v.t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"})
	must(v.t, err)
	if has {
		made.Object["status"] = status
		_, err = v.dynamic.Resource(r).Namespace(namespace).UpdateStatus(v.t.Context(), made, metav1.UpdateOptions{FieldValidation: "Strict"})
		must(v.t, err)
	}
}

func (v *vpaWorld) policy(name, spec, status string) {
	v.t.Helper()
	v.make(rightsizing.Policies(), "", "apiVersion: vpa.nops.io/v1alpha1\nkind: RightsizingPolicy\nmetadata: {name: "+name+"}\nspec: "+spec+"\nstatus: "+status)
}

// autoscaler makes one of a policy, or somebody's own, with what recommender and updater recorded.
func (v *vpaWorld) autoscaler(kind, name, policy, mode, settings string, targets map[string]string, explanations []rightsizing.Explanation, application rightsizing.Application, conditions ...string) {
	v.t.Helper()
	o := map[string]any{
		"apiVersion": "vpa.nops.io/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": strings.ToLower(kind) + "-" + name},
		"spec": map[string]any{"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": kind, "name": name}, "updatePolicy": map[string]any{"updateMode": mode}},
	}
	meta := o["metadata"].(map[string]any)
	if policy != "" {
		meta["labels"], meta["annotations"] = map[string]any{rightsizing.LabelPolicy: policy}, map[string]any{rightsizing.AnnotationSettings: settings}
	}
	var containers, said []any
	for name, text := range targets {
		to := func(factor int64) map[string]any {
			r := requirements(text).Requests
			cpu, memory := r.Cpu().MilliValue()*factor/100, r.Memory().Value()*factor/100
			return map[string]any{"cpu": resource.NewMilliQuantity(cpu, resource.DecimalSI).String(), "memory": fmt.Sprint(memory)}
		}
		containers = append(containers, map[string]any{"containerName": name, "target": to(100), "lowerBound": to(80), "upperBound": to(150)})
	}
	for _, c := range conditions { // TYPE STATUS MESSAGE
		parts := strings.SplitN(c, " ", 3)
		said = append(said, map[string]any{"type": parts[0], "status": parts[1], "message": parts[2], "lastTransitionTime": "2026-11-23T12:00:00Z"})
	}
	status := map[string]any{"conditions": said}
	if len(containers) > 0 {
		status["recommendation"] = map[string]any{"containerRecommendations": containers}
	}
	if explanations != nil {
		status["explanations"] = explanations
	}
	if application.State != "" {
		status["application"] = application
	}
	o["status"] = status
	text, err := yaml.Marshal(o)
	must(v.t, err)
	v.make(rightsizing.Autoscalers(), v.shop, string(text))
}

// imported is a copy of one of the Kubernetes VPA's, as nopsctl vpa import makes it.
func (v *vpaWorld) imported(name, deployment, mode, cpu, memory string) {
	v.t.Helper()
	v.make(rightsizing.Autoscalers(), v.shop, fmt.Sprintf(`
apiVersion: vpa.nops.io/v1
kind: VerticalPodAutoscaler
metadata: {name: %s, annotations: {%s: %s/%s}}
spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: %s}, updatePolicy: {updateMode: %q}}
status: {recommendation: {containerRecommendations: [{containerName: %s, target: {cpu: %s, memory: %s}}]}}`,
		name, rightsizing.AnnotationImported, v.shop, name, deployment, mode, deployment, cpu, memory))
}

// turnOn gives an autoscaler an update mode.
func (v *vpaWorld) turnOn(name string) {
	v.t.Helper()
	_, err := v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(v.shop).Patch(v.t.Context(), name, types.MergePatchType, []byte(`{"spec":{"updatePolicy":{"updateMode":"InPlace"}}}`), metav1.PatchOptions{})
	must(v.t, err)
}

// yields notes why resources are left to a HorizontalPodAutoscaler, as the policy controller does.
func (v *vpaWorld) yields(name, why string) {
	v.t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{rightsizing.AnnotationYields: why}}})
	must(v.t, err)
	_, err = v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(v.shop).Patch(v.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	must(v.t, err)
}

func totalsOf(t *testing.T, a vpaStatusAnswer) string {
	t.Helper()
	text, err := json.Marshal(a.Totals)
	must(t, err)
	return string(text)
}

// shown is an output with what differs from run to run made equal.
func (v *vpaWorld) shown(text string) string {
	return v.karpenWorld.shown(strings.ReplaceAll(text, v.shop, "shop"))
}

const careful = `{"policy":"careful","level":"BalancedPerformance","apply":"InPlaceOrRecreate","cooldown":"1h0m0s","windows":[{"schedule":"0 2 * * 1-5","duration":"4h0m0s","timeZone":"Europe/Berlin"}],"maxStep":{"up":100,"down":30},"yield":["cpu"]}`

// fill makes something of everything.
func (v *vpaWorld) fill() {
	v.t.Helper()
	now := v.clock.Now()
	q := resource.MustParse
	v.policy("careful", `{level: BalancedPerformance, priority: 10, apply: InPlaceOrRecreate}`, `{observedGeneration: 1, workloads: 4, elsewhere: 1, conditions: [{type: Ready, status: "True", reason: Applied, message: "", lastTransitionTime: "2026-11-23T12:00:00Z"}]}`)
	v.policy("everything-else-in-this-cluster", `{level: MaximumSavings, dryRun: true}`, `{observedGeneration: 1, workloads: 1}`)
	v.policy("wrong", `{level: BalancedSavings, containers: [{name: "*", min: {cpu: "2"}, max: {cpu: "1"}}]}`, `{observedGeneration: 1, conditions: [{type: Ready, status: "False", reason: Invalid, message: "spec.containers[0] (*): min cpu 2 is above max 1", lastTransitionTime: "2026-11-23T12:00:00Z"}]}`)
	v.deployment("web", podOf("web", "1/1Gi limit 2/2Gi", "proxy", "100m/128Mi"), podOf("web", "400m/1536Mi limit 800m/3Gi", "proxy", "100m/128Mi"), podOf("web", "400m/1536Mi limit 800m/3Gi", "proxy", "100m/128Mi"))
	since := now.Add(-9 * 24 * time.Hour)
	v.autoscaler("Deployment", "web", "careful", "InPlaceOrRecreate", careful, map[string]string{"web": "250m/1710Mi", "proxy": "100m/128Mi"}, []rightsizing.Explanation{
		{Container: "web", Resource: "cpu", Level: rightsizing.BalancedPerformance, Since: since, Samples: 12960, Median: q("90m"), Percentile: 0.95, AtPercent: q("180m"), Peak: q("1100m"), Margin: 0.15, Local: q("207m"), Steps: []rightsizing.Adjustment{
			{Rule: "platform", Why: "the platform's recommendation of 2026-11-23, generation 41", To: q("250m")},
		}, Result: q("250m")},
		{Container: "web", Resource: "memory", Level: rightsizing.BalancedPerformance, Since: since, Samples: 12960, Median: q("700Mi"), Percentile: 0.98, AtPercent: q("900Mi"), Peak: q("1400Mi"), Margin: 0.15, Local: q("1035Mi"), Held: &[]resource.Quantity{q("1710Mi")}[0], HeldSince: now.Add(-20 * time.Hour), Steps: []rightsizing.Adjustment{
			{Rule: "oom", Why: "it ran out of memory with 1425Mi", To: q("1710Mi")},
		}, Result: q("1710Mi")},
	}, rightsizing.Application{State: rightsizing.StateWaiting, Message: "the cooldown after the last change", Since: now.Add(-20 * time.Minute), NotBefore: now.Add(40 * time.Minute), LastChange: now.Add(-20 * time.Minute), InPlace: 6, Evicted: 1},
		"RecommendationProvided True x", "PlatformRecommendation True in force until 2026-11-24 02:00 UTC")
	v.deployment("api", podOf("api", "2/4Gi"), podOf("api", "1500m/3Gi"), podOf("api", "2/4Gi"))
	v.autoscaler("Deployment", "api", "careful", "InPlaceOrRecreate", careful, map[string]string{"api": "1500m/3Gi"}, nil, rightsizing.Application{State: rightsizing.StatePending, Message: "1 pod has other requests", LastChange: now.Add(-time.Minute), InPlace: 1})
	v.deployment("cache", podOf("cache", "250m/1Gi"), podOf("cache", "250m/1Gi"))
	v.autoscaler("Deployment", "cache", "careful", "InPlaceOrRecreate", careful, map[string]string{"cache": "250m/1Gi"}, nil, rightsizing.Application{State: rightsizing.StateApplied, Message: "every pod has what is recommended, or is close enough"})
	v.deployment("pay", podOf("pay", "250m/1Gi"), podOf("pay", "250m/1Gi"))
	v.autoscaler("Deployment", "pay", "careful", "InPlaceOrRecreate", careful, map[string]string{"pay": "100m/256Mi"}, nil, rightsizing.Application{State: rightsizing.StateElsewhere, Message: "VerticalPodAutoscaler pay of autoscaling.k8s.io sizes it"}, "ManagedElsewhere True VerticalPodAutoscaler pay of autoscaling.k8s.io sizes it")
	v.deployment("a-workload-with-a-name-that-is-as-long-as-some-teams-like-them", podOf("main", ""), podOf("main", ""))
	v.autoscaler("Deployment", "a-workload-with-a-name-that-is-as-long-as-some-teams-like-them", "everything-else-in-this-cluster", "Off", `{"policy":"everything-else-in-this-cluster","level":"MaximumSavings"}`, map[string]string{"main": "10m/32Mi"}, nil, rightsizing.Application{})
	v.autoscaler("StatefulSet", "own", "", "Initial", "", nil, nil, rightsizing.Application{}) // somebody's own, of a workload that is not there
}

func TestVPAStatus(t *testing.T) {
	v := newVPAWorld(t)
	for _, tt := range []struct {
		name, reason string
		arrange      func()
		args         []string
		code         Code
		state        string
		says         []string
		not          []string
		golden       bool
	}{
		{name: "idle", reason: "it runs and nobody said what to size: the policy to begin with", state: "idle", says: []string{"kind: RightsizingPolicy", "dryRun: true"}, golden: true},
		{name: "full", reason: "all of it", arrange: v.fill, state: "running", golden: true},
		{name: "one namespace", reason: "no workload of others", arrange: v.fill, args: []string{"-n", "default"}, state: "running", says: []string{"No workload of namespace default has an autoscaler", "careful"}, not: []string{"Deployment/web"}},
		{name: "disabled", reason: "by choice; what was recorded stays", arrange: func() { v.fill(); v.componentState(install.ComponentDisabled) }, state: "disabled", says: []string{"what was recorded last", "Deployment/web"}},
		{name: "not part", reason: "an older release", arrange: func() { v.componentState(install.ComponentUnavailable) }, code: CodeCheckFailed, state: "not-installed", says: []string{"nopsctl install upgrades it"}},
		{name: "not installed", reason: "nothing is", arrange: func() { v.engine.status.Health = install.NotInstalled }, code: CodeCheckFailed, state: "not-installed", says: []string{"--stack-namespace"}},
		{name: "degraded", reason: "a part does not run", arrange: func() { v.componentState("degraded") }, code: CodeCheckFailed, state: "degraded"},
		{name: "starting", reason: "that takes a moment", arrange: func() { v.componentState("progressing") }, state: "starting"},
		{name: "paused", reason: "the kill switch", arrange: func() { v.policy("p", `{level: BalancedSavings, paused: true}`, `{observedGeneration: 1}`) }, state: "paused", says: []string{"nothing is changed"}},
		{name: "reverted", reason: "by somebody, who is named", arrange: func() {
			v.make(rightsizing.Policies(), "", "apiVersion: vpa.nops.io/v1alpha1\nkind: RightsizingPolicy\nmetadata: {name: p, annotations: {vpa.nops.io/reverted: \"2026-11-23T13:00:00Z\", vpa.nops.io/reverted-by: jane}}\nspec: {level: BalancedSavings}")
		}, state: "paused", says: []string{"reverted 2026-11-23T13:00:00Z, by jane", "has not seen its last change yet"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v.t = t
			v.engine.status = healthy()
			v.componentState("ready")
			if tt.arrange != nil {
				tt.arrange()
			}
			defer v.empty()
			args := append([]string{"vpa", "status"}, tt.args...)
			for _, width := range []int{80, 120} {
				v.width = width
				v.want(tt.code, v.in(args...)...)
				for _, line := range strings.Split(v.out.String(), "\n") {
					if n := len([]rune(line)); n > width {
						t.Errorf("%d columns in a terminal of %d: %s", n, width, line)
					}
				}
				if !strings.Contains(v.out.String(), "vpa "+tt.state+"\n") {
					t.Errorf("not %s: %s\n%s", tt.state, tt.reason, v.out)
				}
				if tt.golden {
					golden(t, fmt.Sprintf("vpa-status-%s-%d.txt", tt.name, width), v.shown(v.out.String()))
				}
			}
			text := strings.Join(strings.Fields(v.out.String()+v.errOut.String()), " ")
			for _, s := range tt.says {
				if !strings.Contains(text, s) {
					t.Errorf("no %q: %s\n%s", s, tt.reason, text)
				}
			}
			for _, s := range tt.not {
				if strings.Contains(text, s) {
					t.Errorf("%q: %s\n%s", s, tt.reason, text)
				}
			}
			v.want(tt.code, v.in(append(args, "-o", "json")...)...)
			v.fits("vpa-status")
			var a vpaStatusAnswer
			must(t, json.Unmarshal([]byte(v.out.String()), &a))
			if a.State != tt.state || (a.Error == nil) != (tt.code == CodeOK) {
				t.Errorf("state %s, error %+v, want %s: %s", a.State, a.Error, tt.state, tt.reason)
			}
			if tt.golden {
				golden(t, "vpa-status-"+tt.name+".json", v.shown(v.out.String()))
			}
			asJSON := v.out.String()
			v.want(tt.code, v.in(append(args, "-o", "yaml")...)...)
			back, err := yaml.YAMLToJSON([]byte(v.out.String()))
			must(t, err)
			var fromYAML, fromJSON any
			must(t, json.Unmarshal(back, &fromYAML))
			must(t, json.Unmarshal([]byte(asJSON), &fromJSON))
			if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
				t.Errorf("YAML says something else (-json +yaml):\n%s", diff)
			}
		})
	}
	v.t = t
	// Sums, by hand: web has 2 pods (1 → 0.4 CPU, 1Gi → 1.5Gi), api 2 of which one is sized (2 → 1.5, 4Gi → 3Gi), and one without requests would get 10m and 32Mi.
	v.fill()
	v.want(CodeOK, v.in("vpa", "status", "-o", "json")...)
	var a vpaStatusAnswer
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	have := map[string]string{}
	for name, change := range map[string]vpaChange{"done": a.Totals.Done, "open": a.Totals.Open} {
		for what, all := range map[string]map[string]resource.Quantity{"saved": change.Saved, "added": change.Added} {
			for r, q := range all {
				have[name+" "+what+" "+r] = q.String()
			}
		}
	}
	if diff := cmp.Diff(map[string]string{
		"done saved cpu": "1700m", "done saved memory": "1Gi", "done added cpu": "0", "done added memory": "1Gi",
		"open saved cpu": "800m", "open saved memory": "1Gi", "open added cpu": "10m", "open added memory": "380Mi",
	}, have); diff != "" || a.Totals.Pods != 7 {
		t.Errorf("%d pods (-want +got):\n%s", a.Totals.Pods, diff)
	}
	// A copy that was imported sizes nothing beside a policy's autoscaler: pods are counted once, for the latter.
	totals := totalsOf(t, a)
	v.imported("a-copy", "web", "Off", "50m", "64Mi")
	v.want(CodeOK, v.in("vpa", "status", "-o", "json")...)
	a = vpaStatusAnswer{}
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	messages := map[string]string{}
	for _, w := range a.Workloads {
		messages[w.Autoscaler] = w.Message
	}
	if got := messages["a-copy"]; totalsOf(t, a) != totals || len(a.Workloads) != 7 || got != "a copy that was imported, and only recommends: deployment-web sizes it" || messages["deployment-web"] != "the cooldown after the last change" {
		t.Errorf("with a copy of %d workloads (%q):\n%s\nwithout it\n%s", len(a.Workloads), messages, totalsOf(t, a), totals)
	}
	// Beside one that sizes nothing it is not said that it does.
	v.imported("b-copy", "pay", "Off", "50m", "64Mi")
	v.imported("c-copy", "a-workload-with-a-name-that-is-as-long-as-some-teams-like-them", "Off", "50m", "64Mi")
	v.want(CodeOK, v.in("vpa", "status", "-o", "json")...)
	a = vpaStatusAnswer{}
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	for _, w := range a.Workloads {
		messages[w.Autoscaler] = w.Message
	}
	for name, beside := range map[string]string{"b-copy": "deployment-pay", "c-copy": "deployment-a-workload-with-a-name-that-is-as-long-as-some-teams-like-them"} {
		if want := "a copy that was imported, and only recommends, beside " + beside; messages[name] != want {
			t.Errorf("%s: %q, want %q", name, messages[name], want)
		}
		must(t, v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(v.shop).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	// Turned on it is a person's own, and sizes: 2 pods from 400m and 1.5Gi to 50m and 64Mi instead of 250m and 1.67Gi.
	v.turnOn("a-copy")
	v.want(CodeOK, v.in("vpa", "status", "-o", "json")...)
	a = vpaStatusAnswer{}
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	if cpu, memory := a.Totals.Open.Saved["cpu"], a.Totals.Open.Saved["memory"]; cpu.String() != "1200m" || memory.String() != "3968Mi" || a.Totals.Pods != 7 {
		t.Errorf("with a copy that is turned on %s and %s would be saved of %d pods", cpu.String(), memory.String(), a.Totals.Pods)
	}
	must(t, v.dynamic.Resource(rightsizing.Autoscalers()).Namespace(v.shop).Delete(t.Context(), "a-copy", metav1.DeleteOptions{}))
	// Whoever may not see pods sees the rest; whoever may not see autoscalers is told which permission that is.
	v.grant("half", []string{"vpa.nops.io"}, "list")
	v.want(CodeOK, v.in("vpa", "status", "--as", "half")...)
	v.contains(v.out, "not known", "pods", "Deployment/web")
	text := v.out.String()
	if !strings.Contains(text, "? →") || strings.Contains(text, "none →") || strings.Contains(text, "no such workload") {
		t.Errorf("what may not be read is told as none:\n%s", text)
	}
	v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/web", "--as", "half")...)
	v.contains(v.out, "web, cpu: ? →")
	// A kind that may not be read: its workloads are not told to be gone, others are.
	v.autoscaler("CronJob", "nightly", "", "Initial", "", map[string]string{"main": "10m/32Mi"}, nil, rightsizing.Application{State: rightsizing.StateWaiting, Message: "waits for a window"})
	v.grant("most", []string{"vpa.nops.io", "apps", ""}, "list")
	v.want(CodeOK, v.in("vpa", "status", "-o", "json", "--as", "most")...)
	a = vpaStatusAnswer{}
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	messages = map[string]string{}
	for _, w := range a.Workloads {
		messages[w.Workload] = w.Message
	}
	if got := messages[v.shop+"/CronJob/nightly"]; got != "waits for a window" {
		t.Errorf("of a CronJob that may not be read: %q", got)
	}
	if got := messages[v.shop+"/StatefulSet/own"]; got != "there is no such workload" {
		t.Errorf("of a StatefulSet that is not there: %q", got)
	}
	if !slices.ContainsFunc(a.Problems, func(p string) bool { return strings.Contains(p, "CronJobs") }) || len(a.Problems) != 1 {
		t.Errorf("problems: %q", a.Problems)
	}
	v.want(CodeAuth, v.in("vpa", "status", "--as", "nobody")...)
	v.contains(v.errOut, "list on verticalpodautoscalers.vpa.nops.io")
	v.want(CodeUsage, v.in("vpa", "status", "--all", "-n", v.shop)...)

	// What had no request gets one: that is added.
	v.empty()
	v.deployment("best-effort", podOf("main", ""), podOf("main", ""), podOf("main", ""))
	v.autoscaler("Deployment", "best-effort", "", "InPlace", "", map[string]string{"main": "500m/64Mi"}, nil, rightsizing.Application{})
	v.want(CodeOK, v.in("vpa", "status", "-o", "json")...)
	a = vpaStatusAnswer{}
	must(t, json.Unmarshal([]byte(v.out.String()), &a))
	cpu, memory := a.Totals.Open.Added["cpu"], a.Totals.Open.Added["memory"]
	if cpu.String() != "1" || memory.String() != "128Mi" {
		t.Errorf("two pods without requests get 500m and 64Mi each: added %s and %s", cpu.String(), memory.String())
	}
}

func TestVPAExplain(t *testing.T) {
	v := newVPAWorld(t)
	v.want(CodeUsage, v.in("vpa", "explain", v.shop+"/Deployment/web")...)
	v.contains(v.errOut, "there is no RightsizingPolicy")
	v.fill()
	for _, width := range []int{80, 120} {
		v.width = width
		for _, name := range []string{"web", "api", "pay"} {
			v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/"+name)...)
			for _, line := range strings.Split(v.out.String(), "\n") {
				if n := len([]rune(v.shown(line))); n > width && !strings.Contains(line, "kubectl") {
					t.Errorf("%d columns in a terminal of %d: %s", n, width, line)
				}
			}
			golden(t, fmt.Sprintf("vpa-explain-%s-%d.txt", name, width), v.shown(v.out.String()))
		}
	}
	v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/web", "-o", "json")...)
	v.fits("vpa-explain")
	golden(t, "vpa-explain.json", v.shown(v.out.String()))
	whole := v.out.String()
	v.yields("deployment-api", `{"cpu":"HorizontalPodAutoscaler api is written by helm, which would put its target back"}`)
	v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/api")...)
	v.contains(v.out, "left alone    cpu: HorizontalPodAutoscaler api is written by helm, which would put its target back, so it is only")
	v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/api", "-o", "json")...)
	v.fits("vpa-explain")
	v.contains(v.out, `"cpu": "HorizontalPodAutoscaler api is written by helm, which would put its target back"`)
	for _, alike := range [][]string{{"deploy/web", "-n", v.shop}, {"deployments/web", "-n", v.shop}, {v.shop + "/deployment/web"}} {
		v.want(CodeOK, v.in(append([]string{"vpa", "explain", "-o", "json"}, alike...)...)...)
		if v.out.String() != whole {
			t.Errorf("%v says something else", alike)
		}
	}
	v.want(CodeOK, v.in("vpa", "explain", "sts/own", "-n", v.shop)...)
	v.contains(v.out, "There is no recommendation yet", "somebody's own")
	// Of one that nothing can be recommended for that is told, also before the updater has looked at it, and no restart is said to help.
	const why = "The target apps/v1.Deployment/owned has a parent controller"
	for name, told := range map[string]rightsizing.Application{"new": {}, "old": {State: rightsizing.StateImpossible, Message: "nothing is recommended: " + why}} {
		v.deployment(name, podOf(name, "1/1Gi"), podOf(name, "1/1Gi"))
		v.autoscaler("Deployment", name, "careful", "InPlace", careful, nil, nil, told, "ConfigUnsupported True "+why)
		v.want(CodeOK, v.in("vpa", "explain", "deploy/"+name, "-n", v.shop)...)
		v.contains(v.out, "/Deployment/"+name+": Impossible", "nothing is recommended: The target")
		if strings.Contains(v.out.String(), "rollout restart") {
			t.Errorf("%s: a restart is said to help:\n%s", name, v.out)
		}
	}
	v.want(CodeOK, v.in("vpa", "status")...)
	v.contains(v.out, "Impossible", "nothing is recommended: The target")
	v.want(CodeUsage, v.in("vpa", "explain", v.shop+"/Deployment/wbe")...)
	v.contains(v.errOut, v.shop+"/Deployment/web", rightsizing.AnnotationOff)

	// A copy that was imported only recommends, and to turn it on would take the workload from its policy. Once it is, it is what sizes.
	v.imported("a-copy", "web", "Off", "50m", "64Mi")
	for _, tt := range []struct {
		name, by, other string
		turnsOn         bool
	}{{"imported", "deployment-web", "a-copy", false}, {"turned on", "a-copy", "deployment-web", true}} {
		if tt.turnsOn {
			v.turnOn("a-copy")
		}
		v.want(CodeOK, v.in("vpa", "explain", v.shop+"/Deployment/web", "-o", "json")...)
		var a vpaExplainAnswer
		must(t, json.Unmarshal([]byte(v.out.String()), &a))
		if a.Workload.Autoscaler != tt.by || !slices.Equal(a.Others, []string{tt.other}) || strings.Contains(strings.Join(a.Next, "\n"), "updateMode") {
			t.Errorf("%s: %s is explained, besides %v; what can be done: %q", tt.name, a.Workload.Autoscaler, a.Others, a.Next)
		}
	}

	// A shell is told what has an autoscaler, each once.
	v.want(CodeOK, append([]string{"__complete"}, append(v.in("vpa", "explain"), "")...)...)
	v.contains(v.out, v.shop+"/Deployment/web\tWaiting", v.shop+"/StatefulSet/own\tWaiting")
	if n := strings.Count(v.out.String(), v.shop+"/Deployment/web\t"); n != 1 {
		t.Errorf("a workload with two autoscalers is offered %d times:\n%s", n, v.out)
	}
}

// TestStatesAreExplained: every state that an autoscaler may be in is in the help of status and in the description of its JSON.
func TestStatesAreExplained(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "rightsizing", "record.go"))
	must(t, err)
	described, err := os.ReadFile(filepath.Join("..", "..", "docs", "json.md"))
	must(t, err)
	states := regexp.MustCompile(`(?m)^\tState\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(states) != 8 {
		t.Errorf("%d states are found, want 8", len(states))
	}
	help := newVPAStatusCommand(&Factory{}, nil).Long
	for _, s := range states {
		if !strings.Contains(help, "\n  "+s[1]+" ") || !strings.Contains(string(described), "`"+s[1]+"`") {
			t.Errorf("state %s is not explained by nopsctl vpa status --help, or not in docs/json.md", s[1])
		}
	}
}

// TestTargets: workloads as people write them.
func TestTargets(t *testing.T) {
	for _, tt := range []struct{ name, reason, text, namespace, want, says string }{
		{"whole", "", "shop/Deployment/web", "", "shop/Deployment/web", ""},
		{"plural", "as kubectl prints them", "deployments/web", "shop", "shop/Deployment/web", ""},
		{"short", "as people write them", "ds/web", "shop", "shop/DaemonSet/web", ""},
		{"unknown kind", "somebody's own controller", "shop/Rollout/web", "", "shop/Rollout/web", ""},
		{"where", "nobody guesses a namespace", "Deployment/web", "", "", "in which namespace"},
		{"twice", "a contradiction", "shop/Deployment/web", "pay", "", "is not in namespace pay"},
		{"same twice", "", "shop/Deployment/web", "shop", "shop/Deployment/web", ""},
		{"a name alone", "", "web", "shop", "", "names no workload"},
		{"too much", "", "a/b/c/d", "", "", "names no workload"},
		{"a part is empty", "", "shop//web", "", "", "names no workload"},
	} {
		got, err := targetOf(tt.text, tt.namespace)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) || classOf(err) != "usage" {
				t.Errorf("%s: %v; %s", tt.name, err, tt.reason)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: %s, %v; %s", tt.name, got, err, tt.reason)
		}
	}
}

// TestShown: quantities for people are never longer than they need to be, and never wrong by more than half of their last place.
func TestShown(t *testing.T) {
	for _, tt := range []struct {
		i    int
		n    int64
		want string
	}{
		{0, -1, "?"}, {0, 0, "0m"}, {0, 10, "10m"}, {0, 999, "999m"}, {0, 1000, "1"}, {0, 1500, "1.5"}, {0, 12345, "12.35"}, {0, 100000, "100"},
		{1, -1, "?"}, {1, 1 << 10, "1Ki"}, {1, 32 << 20, "32Mi"}, {1, 1710 << 20, "1.67Gi"}, {1, 1 << 30, "1Gi"}, {1, 100 << 30, "100Gi"}, {1, 262144000, "250Mi"},
	} {
		if got := shown(tt.i, tt.n); got != tt.want {
			t.Errorf("%s of %d: %s, want %s", vpaResources[tt.i], tt.n, got, tt.want)
		}
	}
}

// TestSized: what counts as sized by the VPA.
func TestSized(t *testing.T) {
	template := podOf("web", "1/1Gi limit 2/2Gi")
	for _, tt := range []struct {
		name, reason string
		spec         corev1.PodSpec
		annotations  map[string]string
		changed      bool
		phase        corev1.PodPhase
		pods, sized  int
	}{
		{name: "as the template", reason: "with or without traces", spec: template, changed: true, annotations: map[string]string{sizedAnnotation: "x"}, pods: 1},
		{name: "resized", reason: "while it ran", spec: podOf("web", "500m/1Gi limit 2/2Gi"), changed: true, pods: 1, sized: 1},
		{name: "made so", reason: "by the webhook", spec: podOf("web", "500m/1Gi limit 2/2Gi"), annotations: map[string]string{sizedAnnotation: "x"}, pods: 1, sized: 1},
		{name: "a limit alone", reason: "limits go with requests", spec: podOf("web", "1/1Gi limit 3/2Gi"), changed: true, pods: 1, sized: 1},
		{name: "no trace", reason: "a LimitRange, another webhook", spec: podOf("web", "500m/1Gi"), pods: 1},
		{name: "another container", reason: "a sidecar that a mesh adds is nobody's to compare", spec: podOf("web", "1/1Gi limit 2/2Gi", "mesh", "1/1Gi"), changed: true, pods: 1},
		{name: "ended", reason: "it requests nothing", spec: podOf("web", "500m/1Gi"), changed: true, phase: corev1.PodSucceeded},
	} {
		r := &requests{template: &template, containers: map[string]*containerRequests{}}
		r.add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: tt.annotations}, Spec: tt.spec, Status: corev1.PodStatus{Phase: tt.phase}}, tt.changed)
		if r.pods != tt.pods || r.sized != tt.sized {
			t.Errorf("%s: %d pods, %d sized, want %d and %d; %s", tt.name, r.pods, r.sized, tt.pods, tt.sized, tt.reason)
		}
	}
	// A template with a limit alone requests as much: the API server says so of pods.
	alone := podOf("web", " limit 1/1Gi")
	r := &requests{template: &alone, containers: map[string]*containerRequests{}}
	r.add(&corev1.Pod{Spec: podOf("web", "1/1Gi limit 1/1Gi")}, true)
	if r.sized != 0 {
		t.Error("what the API server completes is not sized")
	}
}

// TestOwners: workloads of pods, by what their names are made of.
func TestOwners(t *testing.T) {
	yes := true
	for _, tt := range []struct{ kind, name, hash, want string }{
		{"ReplicaSet", "web-abc", "abc", "n/Deployment/web"}, {"ReplicaSet", "web-abc", "", "n/ReplicaSet/web-abc"}, {"StatefulSet", "db", "", "n/StatefulSet/db"}, {"DaemonSet", "log", "", "n/DaemonSet/log"},
		{"Job", "nightly-29381730", "", "n/CronJob/nightly"}, {"Job", "migrate-2", "", "n/Job/migrate-2"}, {"Job", "once", "", "n/Job/once"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Labels: map[string]string{}, OwnerReferences: []metav1.OwnerReference{{Kind: tt.kind, Name: tt.name, Controller: &yes}}}}
		if tt.hash != "" {
			p.Labels["pod-template-hash"] = tt.hash
		}
		if got, is := ownerOf(p); !is || got.String() != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.kind, tt.name, got, tt.want)
		}
	}
	if _, is := ownerOf(&corev1.Pod{}); is {
		t.Error("a pod of nobody")
	}
}

// TestVPADocument: the policies of docs/vpa.md are ones that an API server takes, on every level, and the table of levels is the code's.
func TestVPADocument(t *testing.T) {
	v := newVPAWorld(t)
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "vpa.md"))
	must(t, err)
	seen, policies := map[string]bool{}, 0
	for _, b := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(data), -1) {
		if strings.HasPrefix(b[1], "containerRightsizing:") {
			continue // values of the chart
		}
		policies++
		v.make(rightsizing.Policies(), "", b[1])
		var p rightsizing.Policy
		must(t, yaml.Unmarshal([]byte(b[1]), &p))
		seen[string(p.Spec.Level)] = true
	}
	if policies != 5 || len(seen) != len(rightsizing.Levels()) {
		t.Errorf("%d policies on levels %v", policies, seen)
	}
	for _, l := range rightsizing.Levels() {
		e, _ := l.Estimation()
		row := fmt.Sprintf("| `%s` | %.0f %% | %.0f %% | %.0f %% |", l, e.CPU.Target*100, e.Memory.Target*100, e.Margin*100)
		if !strings.Contains(string(data), row) {
			t.Errorf("docs/vpa.md does not say: %s", row)
		}
	}
	// So is the one to begin with.
	v.empty()
	v.make(rightsizing.Policies(), "", regexp.MustCompile(`(?s)<<'EOF'\n(.*)EOF`).FindStringSubmatch(leastPolicy)[1])
}
