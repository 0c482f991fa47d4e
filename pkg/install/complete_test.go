package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// complete is the embedded chart with every component, as it will be when the last agent is part of a release.
func complete(t *testing.T) fstest.MapFS {
	t.Helper()
	root, err := embeddedchart.FS()
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	err = fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		files[path] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	edit(t, files, "files/images.yaml", "available: false", "available: true")
	return files
}

// edit replaces a text in a file of a chart; that nothing was there to be replaced fails.
func edit(t *testing.T, files fstest.MapFS, name, from, to string) {
	t.Helper()
	if !bytes.Contains(files[name].Data, []byte(from)) {
		t.Fatalf("%s does not hold %q", name, from)
	}
	files[name] = &fstest.MapFile{Data: bytes.ReplaceAll(files[name].Data, []byte(from), []byte(to))}
}

// completed is a world with that chart.
func completed(t *testing.T) (*world, fstest.MapFS, func(...func(*install.Options)) *install.Engine) {
	t.Helper()
	w, _ := embedded(t)
	files := complete(t)
	return w, files, func(change ...func(*install.Options)) *install.Engine {
		return w.engine(append([]func(*install.Options){func(o *install.Options) { o.Chart = files }}, change...)...)
	}
}

// values reads values as a file holds them.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func check(p *install.Plan, id string) event.Check {
	for _, c := range p.Checks {
		if c.ID == id {
			return c
		}
	}
	return event.Check{}
}

func warning(p *install.Plan, id string) event.Warning {
	for _, w := range p.Warnings {
		if w.ID == id {
			return w
		}
	}
	return event.Warning{}
}

const everyComponent = `
containerInsights: {ampID: ws-12345678-1234-1234-1234-123456789012, ampRegion: us-east-1}
karpenops: {enabled: true, clusterId: a+ABC1}
datadog: {enabled: true, apiKey: 0123456789abcdef0123456789abcdef}
`

// Little besides the component that a test is about: an installation takes as long as it has objects.
const (
	updaterAlone     = "{containerInsights: {enabled: false}, containerRightsizing: {enabled: false}, dataFetcher: {enabled: false}}"
	rightsizingAlone = "{containerInsights: {enabled: false}, autoUpdater: {enabled: false}, dataFetcher: {enabled: false}}"
)

const inTheCluster = `
containerInsights: {centralized: false, env_variables: {APP_AWS_S3_BUCKET: bucket}}
karpenops: {enabled: true, clusterId: a+ABC1}
autoUpater: {enabled: false}
`

// TestEveryComponent installs the whole stack in both of its forms: every component is told by its own name, a second
// installation does nothing, and nothing is left.
func TestEveryComponent(t *testing.T) {
	for _, tt := range []struct {
		name, values string
		want         map[string]string // states of components: their workloads, or why there are none
	}{
		{"centralized", everyComponent, map[string]string{
			"containerInsights": "kube-state-metrics, node-exporter, vmagent", "heartbeat": "heartbeat", "karpenops": "karpenops",
			"containerRightsizing": "vpa-admission-controller, vpa-policy, vpa-recommender, vpa-updater", "dataFetcher": "data-fetcher", "autoUpdater": "image-tag-updater",
			"dcgmExporter": "dcgm-exporter", "datadog": "datadog",
		}},
		{"in the cluster", inTheCluster, map[string]string{
			"containerInsights": "container-insights-agent, kube-state-metrics, node-exporter, opencost, prometheus-server", "heartbeat": "heartbeat", "karpenops": "karpenops",
			"containerRightsizing": "vpa-admission-controller, vpa-policy, vpa-recommender, vpa-updater", "dataFetcher": "data-fetcher", "autoUpdater": "disabled: disabled by you",
			"dcgmExporter": "dcgm-exporter", "datadog": "disabled: disabled by default",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, _, engine := completed(t)
			before := w.everything()
			r := w.request()
			r.Values = values(t, tt.values)
			plan, result := w.install(engine(), r)
			if result.Outcome != event.OK {
				t.Fatalf("%+v", result)
			}
			for _, c := range plan.Checks {
				if c.Outcome != event.OK {
					t.Errorf("%s %s: %s %s", c.ID, c.Title, c.Outcome, c.Message)
				}
			}
			if again, err := engine().Plan(t.Context(), r); err != nil || !again.NoOp {
				t.Errorf("a second install is a no-op: %v %+v %+v", err, again.Changes, again.ValueChanges)
			}
			status, err := engine().Status(t.Context())
			if err != nil || status.Health != install.Healthy {
				t.Fatalf("status: %v %+v", err, status)
			}
			got := map[string]string{}
			for _, c := range status.Components {
				var names []string
				for _, l := range c.Workloads {
					names = append(names, l.Component)
				}
				slices.Sort(names)
				got[c.Name] = strings.Join(names, ", ")
				if len(names) == 0 {
					got[c.Name] = string(c.State) + ": " + c.Message
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("components (-want +got):\n%s", diff)
			}
			result, err = engine().Uninstall(t.Context(), install.UninstallRequest{})
			if err != nil || len(result.Kept) > 0 {
				t.Fatalf("%v %+v", err, result)
			}
			if diff := cmp.Diff(before, w.everything()); diff != "" {
				t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
			}
		})
	}
}

// TestUpdaterSpellings switches the updater by every name it goes by, over several commands.
func TestUpdaterSpellings(t *testing.T) {
	w, _, engine := completed(t)
	runs := func() bool {
		_, err := w.client.BatchV1().CronJobs(w.namespace).Get(t.Context(), "nops-image-tag-updater", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	r := w.request()
	set := func(text string) *install.Plan {
		r.Values = overlaid(values(t, updaterAlone), values(t, text))
		plan, _ := w.install(engine(), r)
		return plan
	}
	if set("{}"); !runs() {
		t.Error("on by default, though the chart's value is null")
	}
	if plan := set("autoUpater: {enabled: false}"); runs() || !strings.Contains(warning(plan, "NOPS-VAL-002").Hint, "write autoUpdater") {
		t.Errorf("the published misspelling is honoured, with a warning: %+v", plan.Warnings)
	}
	for _, enable := range []bool{true, false, true} {
		plan, err := engine().Toggle(t.Context(), install.ToggleRequest{Component: "autoUpdater", Enabled: enable, Request: install.Request{Wait: true, Timeout: time.Minute}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("autoUpdater.enabled", plan.ValueChanges[0].Path); diff != "" || len(plan.ValueChanges) != 1 {
			t.Errorf("enable and disable use the right spelling: %+v", plan.ValueChanges)
		}
		if _, err := engine().Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if runs() != enable {
			t.Errorf("enabled %v, runs %v, though the misspelling says no", enable, runs())
		}
	}
	if set("autoUpater: {enabled: false}"); runs() {
		t.Error("what a command says now wins over what one said before, however it is spelt")
	}
	if set("autoUpater: {enabled: false}\nautoUpdater: {enabled: true}"); !runs() {
		t.Error("within one command the right spelling wins")
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
}

// TestDependentComponent: the DCGM exporter's samples go through container insights.
func TestDependentComponent(t *testing.T) {
	w, engine := embedded(t)
	r := w.request()
	r.Values = values(t, "{containerInsights: {enabled: false}, dcgmExporter: {enabled: false}}")
	w.install(engine(), r)
	plan, err := engine().Toggle(t.Context(), install.ToggleRequest{Component: "dcgmExporter", Enabled: true})
	if err != nil || !strings.Contains(plan.Consequence, "needs containerInsights, which is switched off") {
		t.Errorf("%v %q", err, plan.Consequence)
	}
	if _, err = engine().Toggle(t.Context(), install.ToggleRequest{Component: "dataFetcher", Enabled: true}); err == nil || class(err) != install.ClassUsage {
		t.Errorf("not yet part of this release: %v", err)
	}
	r.Values = values(t, "{containerInsights: {centralized: false, env_variables: {APP_AWS_S3_BUCKET: b}}}")
	r.Values["containerInsights"].(map[string]any)["enabled"] = true
	if _, err := engine().Plan(t.Context(), r); err != nil {
		t.Errorf("container insights is there though one of its agents is not: %v", err)
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
}

// nodes makes nodes with labels for one test.
func (w *world) nodes(all ...map[string]string) {
	w.t.Helper()
	for i, l := range all {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", w.release, i), Labels: l}}
		if _, err := w.client.CoreV1().Nodes().Create(w.t.Context(), n, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			if err := w.client.CoreV1().Nodes().Delete(context.WithoutCancel(w.t.Context()), n.Name, metav1.DeleteOptions{}); err != nil {
				w.t.Error(err)
			}
		})
	}
}

// TestImagesOfWorkloadsThatRunNowhere: an image that no node would pull now does not stop an installation.
func TestImagesOfWorkloadsThatRunNowhere(t *testing.T) {
	linux := map[string]string{"kubernetes.io/os": "linux"}
	windows := map[string]string{"kubernetes.io/os": "windows"}
	fargate := map[string]string{"kubernetes.io/os": "linux", "eks.amazonaws.com/compute-type": "fargate"}
	gpu := map[string]string{"kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "g5.xlarge"}
	notFound := errors.New("registry public.ecr.aws has no such image")
	for _, tt := range []struct {
		name, reason string
		nodes        []map[string]string
		missing      []string // images, by the last part of their name
		foreign      string
		blind        bool // nodes cannot be listed
		want         event.Outcome
		says, hints  []string
		silent       string
	}{
		{name: "no GPUs", reason: "nobody would pull it", nodes: []map[string]string{linux, windows}, missing: []string{"dcgm-exporter"}, want: event.Warned,
			says:  []string{"nvidia/dcgm-exporter:3.3.6-3.4.2-ubuntu22.04: registry public.ecr.aws has no such image", "no node here would run DaemonSet", "nops-dcgm-exporter now"},
			hints: []string{"before nodes are added that run them", "--registry-mirror", "--set dcgmExporter.enabled=false"}},
		{name: "a GPU", reason: "its node would pull it now", nodes: []map[string]string{linux, gpu}, missing: []string{"dcgm-exporter"}, want: event.Failed, says: []string{"dcgm-exporter"}, hints: []string{"make images REGISTRY="}},
		{name: "another image too", reason: "which is needed", nodes: []map[string]string{linux}, missing: []string{"dcgm-exporter", "vmagent"}, want: event.Failed, says: []string{"vmagent:v1.130.0: registry", "dcgm-exporter", "no node here would run"}},
		{name: "a DaemonSet of every node", reason: "every Linux node runs it", nodes: []map[string]string{linux}, missing: []string{"node-exporter"}, want: event.Failed, says: []string{"node-exporter"}, silent: "no node here"},
		{name: "Fargate alone", reason: "no node exporter there", nodes: []map[string]string{fargate}, missing: []string{"node-exporter", "dcgm-exporter"}, want: event.Warned, says: []string{"nops-node-exporter now", "nops-dcgm-exporter now"}},
		{name: "no nodes at all", reason: "says nothing about those that come", missing: []string{"dcgm-exporter"}, want: event.Failed, says: []string{"dcgm-exporter"}},
		{name: "nodes cannot be listed", reason: "what is not known does not count as good", nodes: []map[string]string{linux}, blind: true, missing: []string{"dcgm-exporter"}, want: event.Failed, says: []string{"whether a node would run it now is not known", "nodes cannot be listed"}},
		{name: "somebody else's build", reason: "which is another fault", nodes: []map[string]string{linux}, foreign: "k8s-heartbeat-agent", missing: []string{"dcgm-exporter"}, want: event.Failed, says: []string{"is not a build of this project"}},
		{name: "all there", reason: "the nodes are not asked for", blind: true, want: event.OK, says: []string{"6 images resolved"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, engine := embedded(t)
			w.nodes(tt.nodes...)
			r := w.request()
			r.Values, r.OwnImages = ampValues(), []string{"k8s-heartbeat-agent"}
			r.Images = install.ImageResolverFunc(func(_ context.Context, ref string) (install.ImageInfo, error) {
				for _, name := range tt.missing {
					if strings.Contains(ref, "/"+name+":") {
						return install.ImageInfo{}, notFound
					}
				}
				if tt.foreign != "" && strings.Contains(ref, tt.foreign) {
					return install.ImageInfo{Digest: "sha256:aa"}, nil
				}
				return install.ImageInfo{Digest: "sha256:aa", Labels: map[string]string{install.SourceLabel: install.SourceValue}}, nil
			})
			e := engine(func(o *install.Options) {
				o.Getter = tapped{RESTClientGetter: o.Getter, tap: func(r *http.Request) error {
					if tt.blind && strings.HasSuffix(r.URL.Path, "/nodes") {
						return errors.New("refused")
					}
					return nil
				}}
			})
			plan, err := e.Plan(t.Context(), r)
			if (err != nil) != (tt.want == event.Failed) {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			c := check(plan, "NOPS-PRE-007")
			if c.Outcome != tt.want {
				t.Errorf("%s: %+v", tt.reason, c)
			}
			for _, s := range tt.says {
				if !strings.Contains(c.Message, s) {
					t.Errorf("no %q in %q", s, c.Message)
				}
			}
			for _, s := range tt.hints {
				if !strings.Contains(c.Hint, s) {
					t.Errorf("no %q in %q", s, c.Hint)
				}
			}
			if tt.silent != "" && strings.Contains(c.Message, tt.silent) {
				t.Errorf("%q in %q", tt.silent, c.Message)
			}
			for _, c := range plan.Checks {
				if c.ID == "NOPS-PRE-003" && strings.Contains(c.Message, "nodes") {
					t.Errorf("the permission to list nodes is not demanded: %s", c.Message)
				}
			}
		})
	}
}

// TestPodSecurity holds the complete render against the levels of the namespace.
func TestPodSecurity(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		labels       map[string]string
		outcome      event.Outcome
		refused      map[string]string // workload: what of the reason must be said
	}{
		{"none", "the cluster's default is not known", nil, event.OK, nil},
		{"privileged", "admits all", map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}, event.OK, nil},
		{"warned only", "warning is not enforcing", map[string]string{"pod-security.kubernetes.io/warn": "restricted"}, event.OK, nil},
		{"baseline", "root is admitted, the host is not", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}, event.Warned, map[string]string{
			"nops-node-exporter": "host namespaces, hostPath volumes", "nops-dcgm-exporter": "non-default capabilities, hostPath volumes", "nops-datadog": "hostPath volumes, privileged",
		}},
		{"restricted", "nor is root; every agent of ours passes", map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.29"}, event.Warned, map[string]string{
			"nops-node-exporter": "host namespaces", "nops-dcgm-exporter": "runAsUser=0", "nops-datadog": "privileged",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, _, engine := completed(t)
			w.makeNamespace(tt.labels)
			r := w.request()
			r.Values = values(t, everyComponent)
			plan, err := engine().Plan(t.Context(), r)
			if err != nil {
				t.Fatalf("a warning stops nothing: %v", err)
			}
			c := check(plan, "NOPS-PRE-009")
			if c.Outcome != tt.outcome {
				t.Errorf("%s: %+v", tt.reason, c)
			}
			if got := strings.Count(c.Message, w.namespace+"/nops-"); got != len(tt.refused) {
				t.Errorf("%d workloads, want %d: %s", got, len(tt.refused), c.Message)
			}
			for name, why := range tt.refused {
				_, after, _ := strings.Cut(c.Message, "/"+name+" (")
				found, _, _ := strings.Cut(after, ")")
				for _, s := range strings.Split(why, ", ") {
					if !strings.Contains(found, s) {
						t.Errorf("%s: no %q in %q", name, s, found)
					}
				}
			}
		})
	}
}

// older is a chart of another hand: the names of today, selectors and pod labels of its own.
func older() fstest.MapFS {
	workload := func(kind, name, extra string) string {
		return fmt.Sprintf(`
---
apiVersion: apps/v1
kind: %[1]s
metadata: {name: %[2]s, labels: {app: %[2]s}}
spec:
  selector: {matchLabels: {app: %[2]s, chart: old}}
  template:
    metadata: {labels: {app: %[2]s, chart: old, role: metrics}}
    spec:
      %[3]s
      containers: [{name: c, image: "example.com/old:1", ports: [{containerPort: 9110}]}]
---
apiVersion: v1
kind: Service
metadata: {name: %[2]s}
spec:
  selector: {app: %[2]s}
  ports: [{name: http, port: 9110}]
`, kind, name, extra)
	}
	return fstest.MapFS{
		"Chart.yaml":  {Data: []byte("apiVersion: v2\nname: kubernetes-agent\nversion: 0.0.9\n")},
		"values.yaml": {Data: []byte("nops: {apiKey: \"\"}\n")},
		"templates/all.yaml": {Data: []byte(workload("Deployment", "nops-heartbeat", "") + workload("Deployment", "nops-vmagent", "") + workload("Deployment", "nops-kube-state-metrics", "") +
			workload("DaemonSet", "nops-node-exporter", "hostNetwork: true") + workload("DaemonSet", "nops-prometheus-node-exporter", "hostNetwork: true"))},
	}
}

// TestSelectorsOfOtherCharts: a selector can never be changed, so workloads of another chart that have our names keep theirs.
func TestSelectorsOfOtherCharts(t *testing.T) {
	w, engine := embedded(t)
	before := w.everything()
	r := install.Request{Wait: true, Timeout: time.Minute}
	w.install(w.engine(func(o *install.Options) { o.Chart = older() }), r)
	type identity struct{ uid, selector string }
	look := func() map[string]identity {
		found := map[string]identity{}
		deployments, err := w.client.AppsV1().Deployments(w.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deployments.Items {
			found[d.Name] = identity{string(d.UID), metav1.FormatLabelSelector(d.Spec.Selector)}
		}
		sets, err := w.client.AppsV1().DaemonSets(w.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range sets.Items {
			found[d.Name] = identity{string(d.UID), metav1.FormatLabelSelector(d.Spec.Selector)}
		}
		return found
	}
	old := look()
	// The old exporter that goes has the port that the new one needs.
	yes := true
	if _, err := w.client.CoreV1().Pods(w.namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "old-exporter", Labels: map[string]string{"app": "x"}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "nops-prometheus-node-exporter", UID: "u", Controller: &yes}}},
		Spec:       corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "x", Image: "x", Ports: []corev1.ContainerPort{{ContainerPort: 9110, HostPort: 9110}}}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r = w.request()
	r.Values = ampValues()
	plan, result := w.install(engine(), r)
	if result.Outcome != event.OK || result.Revision != 2 {
		t.Fatalf("%+v", result)
	}
	if c := check(plan, "NOPS-PRE-008"); c.Outcome != event.OK {
		t.Errorf("what this upgrade removes is in nobody's way: %+v", c)
	}
	now := look()
	kept := 0
	for name, was := range old {
		is, there := now[name]
		switch {
		case name == "nops-prometheus-node-exporter":
			if there {
				t.Errorf("%s is doubled", name)
			}
		case was != is:
			t.Errorf("%s: was %v, is %v", name, was, is)
		default:
			kept++
		}
	}
	if kept != 4 || len(now) != 9 { // and the DCGM exporter, and the four parts of the VPA
		t.Errorf("upgraded in place: %d of %v", kept, now)
	}
	// What a Service selects are the pods that the templates make, under either label.
	templates := map[string]labels.Set{}
	deployments, err := w.client.AppsV1().Deployments(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deployments.Items {
		templates[d.Name] = d.Spec.Template.Labels
	}
	sets, err := w.client.AppsV1().DaemonSets(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range sets.Items {
		templates[d.Name] = d.Spec.Template.Labels
	}
	services, err := w.client.CoreV1().Services(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, s := range services.Items {
		if diff := cmp.Diff(map[string]string{"nops.io/component": strings.TrimPrefix(s.Name, "nops-")}, s.Spec.Selector); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.Name, diff)
		}
		if !labels.SelectorFromSet(s.Spec.Selector).Matches(templates[s.Name]) {
			t.Errorf("%s selects nothing: %v", s.Name, templates[s.Name])
		}
		checked++
	}
	if checked < 3 {
		t.Errorf("only %d Services", checked)
	}
	if again, err := engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("the plan renders what was applied, selectors included: %v %+v", err, again.Changes)
	}
	if err := w.client.CoreV1().Pods(w.namespace).Delete(t.Context(), "old-exporter", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
}

func custom(kind, version, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "vpa.nops.io/" + version, "kind": kind, "spec": spec}}
	o.SetName(name)
	o.SetNamespace(namespace)
	return o
}

// TestDefinitions follows the definitions of custom resources through upgrades, an uninstallation that keeps them, a new
// installation over the kept ones, and one that removes them.
func TestDefinitions(t *testing.T) {
	w, files, engine := completed(t)
	before := w.everything()
	crds := w.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	policies := w.dynamic.Resource(schema.GroupVersionResource{Group: "vpa.nops.io", Version: "v1alpha1", Resource: "rightsizingpolicies"})
	scalers := w.dynamic.Resource(schema.GroupVersionResource{Group: "vpa.nops.io", Version: "v1", Resource: "verticalpodautoscalers"})
	shortNames := func() string {
		t.Helper()
		o, err := crds.Get(t.Context(), "rightsizingpolicies.vpa.nops.io", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		names, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "names", "shortNames")
		return strings.Join(names, ",")
	}
	r := w.request()
	r.Values = values(t, rightsizingAlone)
	w.install(engine(), r)
	if got := shortNames(); got != "rsp" {
		t.Fatalf("short names: %s", got)
	}
	const file = "files/crds/rightsizingpolicies.yaml"
	edit(t, files, file, "shortNames: [rsp]", "shortNames: [rsp, policy]")
	edit(t, files, file, "{description: Recommend only., type: boolean}", "{description: Recommend only., type: boolean}\n              window: {type: string}")
	if plan, _ := w.install(engine(), r); plan.NoOp || shortNames() != "rsp,policy" {
		t.Errorf("an upgrade brings new definitions: %s", shortNames())
	}
	// Definitions are served with a delay.
	create := func(resource interface {
		Create(context.Context, *unstructured.Unstructured, metav1.CreateOptions, ...string) (*unstructured.Unstructured, error)
	}, o *unstructured.Unstructured) {
		t.Helper()
		var last error
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, last = resource.Create(ctx, o, metav1.CreateOptions{FieldValidation: "Strict"})
			return last == nil, nil
		}); err != nil {
			t.Fatalf("%v: %v", err, last)
		}
	}
	create(policies, custom("RightsizingPolicy", "v1alpha1", "", "mine", map[string]any{"level": "BalancedSavings", "window": "nights"}))
	agents := custom("RightsizingPolicy", "v1alpha1", "", "default", map[string]any{"level": "BalancedSavings"})
	agents.SetLabels(map[string]string{"app.kubernetes.io/part-of": "nops-kubernetes-agent"})
	create(policies, agents)
	for _, name := range []string{"a", "b"} {
		create(scalers.Namespace("default"), custom("VerticalPodAutoscaler", "v1", "default", name, map[string]any{"targetRef": map[string]any{"kind": "Deployment", "name": name}}))
	}
	definitions, err := engine().Definitions(t.Context())
	want := []install.Definition{{Name: "rightsizingpolicies.vpa.nops.io", Objects: 1}, {Name: "verticalpodautoscalercheckpoints.vpa.nops.io"}, {Name: "verticalpodautoscalers.vpa.nops.io", Objects: 2}}
	if diff := cmp.Diff(want, definitions); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	kept := []string{"CustomResourceDefinition rightsizingpolicies.vpa.nops.io (1 object)", "CustomResourceDefinition verticalpodautoscalers.vpa.nops.io (2 objects)"}
	result, err := engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: time.Minute})
	if diff := cmp.Diff(kept, result.Kept); diff != "" || err != nil {
		t.Fatalf("what has objects stays, named with their number: %v (-want +got):\n%s", err, diff)
	}
	if _, err := policies.Get(t.Context(), "mine", metav1.GetOptions{}); err != nil {
		t.Errorf("no object is lost: %v", err)
	}
	after := w.everything()
	for _, name := range []string{"rightsizingpolicies", "verticalpodautoscalers"} {
		delete(after, "customresourcedefinitions//"+name+".vpa.nops.io")
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("nothing else stays (-before +after):\n%s", diff)
	}
	again, err := engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: time.Minute})
	if diff := cmp.Diff(kept, again.Kept); diff != "" || err != nil || again.Outcome != event.Unchanged || !strings.Contains(again.Message, "(2 objects)") {
		t.Errorf("a second time: %v %+v", err, again)
	}

	edit(t, files, file, "shortNames: [rsp, policy]", "shortNames: [rsp, rightsizing]")
	if _, result := w.install(engine(), r); result.Outcome != event.OK || shortNames() != "rsp,rightsizing" {
		t.Errorf("an installation over kept definitions brings new ones: %+v %s", result, shortNames())
	}
	if again, err := engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("and a second one does nothing: %v %+v", err, again.Changes)
	}
	// Switched off, the definitions stay though they are no longer rendered.
	plan, err := engine().Toggle(t.Context(), install.ToggleRequest{Component: "containerRightsizing", Request: install.Request{Wait: true, Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine().Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if _, err := policies.Get(t.Context(), "mine", metav1.GetOptions{}); err != nil {
		t.Errorf("disabling loses no object: %v", err)
	}
	if result, err = engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: time.Minute, DeleteCRDs: true}); err != nil || len(result.Kept) > 0 {
		t.Errorf("asked for, all of it goes: %v %+v", err, result)
	}
	if diff := cmp.Diff(before, w.everything()); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
	said := false
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if s, ok := e.(event.StepFinished); ok && s.Step == "definitions" && strings.Contains(s.Message, "verticalpodautoscalers.vpa.nops.io (2 objects)") && !strings.Contains(s.Message, "kept") {
			said = true
		}
	}
	if !said {
		t.Error("what went with a definition is not told")
	}
}

// TestDefinitionsOfOthers: those that another release brought, and others' of the same group, are left alone.
func TestDefinitionsOfOthers(t *testing.T) {
	w, _, engine := completed(t)
	crds := w.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	made := func(plural, group string, labels, annotations map[string]string) {
		t.Helper()
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"kind": "Kind" + plural, "plural": plural, "singular": plural + "s"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}},
		}}}
		o.SetName(plural + "." + group)
		o.SetLabels(labels)
		o.SetAnnotations(annotations)
		if _, err := crds.Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = crds.Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{}) })
	}
	ours := map[string]string{"app.kubernetes.io/part-of": "nops-kubernetes-agent", "app.kubernetes.io/managed-by": "Helm"}
	release := func(namespace string) map[string]string {
		return map[string]string{"meta.helm.sh/release-name": w.release, "meta.helm.sh/release-namespace": namespace}
	}
	made("unlabelled", "vpa.nops.io", nil, release(w.namespace))
	made("elsewhere", "vpa.nops.io", ours, release("elsewhere"))
	made("another", "example.com", ours, release(w.namespace))
	made("unused", "vpa.nops.io", ours, release(w.namespace))
	var definitions []install.Definition
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		var err error
		definitions, err = engine().Definitions(ctx)
		return len(definitions) > 0 && definitions[0].Unknown == "", err // served with a delay; until then nobody knows
	})
	if diff := cmp.Diff([]install.Definition{{Name: "unused.vpa.nops.io"}}, definitions); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{Timeout: time.Minute, DeleteCRDs: true}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"unlabelled.vpa.nops.io": true, "elsewhere.vpa.nops.io": true, "another.example.com": true, "unused.vpa.nops.io": false} {
		if _, err := crds.Get(t.Context(), name, metav1.GetOptions{}); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// withExternalSecrets serves ClusterExternalSecrets for one test.
func (w *world) withExternalSecrets() {
	w.t.Helper()
	crds := w.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": map[string]any{
		"group": "external-secrets.io", "scope": "Cluster", "names": map[string]any{"kind": "ClusterExternalSecret", "plural": "clusterexternalsecrets", "singular": "clusterexternalsecret"},
		"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
	}}}
	o.SetName("clusterexternalsecrets.external-secrets.io")
	if _, err := crds.Create(w.t.Context(), o, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx := context.WithoutCancel(w.t.Context())
		if err := crds.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
			w.t.Error(err)
		}
		if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, err := crds.Get(ctx, o.GetName(), metav1.GetOptions{})
			return apierrors.IsNotFound(err), nil
		}); err != nil {
			w.t.Error(err)
		}
	})
	list := w.dynamic.Resource(schema.GroupVersionResource{Group: "external-secrets.io", Version: "v1", Resource: "clusterexternalsecrets"})
	if err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := list.List(ctx, metav1.ListOptions{})
		return err == nil, nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

const store = `
externalSecrets: {enabled: true, secretStoreRef: {name: vault}, data: {apiKeys: {remoteRef: {key: nops/api}}}}
containerInsights: {ampID: ws-12345678-1234-1234-1234-123456789012, ampRegion: us-east-1}
`

// TestExternalSecrets: the store brings the API key; the keys of the metrics store come from there too, or from a role, and
// are never put among the values by nopsctl.
func TestExternalSecrets(t *testing.T) {
	w, engine := embedded(t)
	const entry = "externalSecrets: {data: {ampKeys: {remoteRef: {key: nops/amp}}}}"
	r := w.request()
	r.Values = overlaid(values(t, store), values(t, entry))
	if _, err := engine().Plan(t.Context(), r); class(err) != install.ClassPreflight || !strings.Contains(err.Error(), "does not serve external-secrets.io/v1beta1, Kind=ClusterExternalSecret") || !strings.Contains(hint(err), "External Secrets Operator") {
		t.Errorf("without the operator: %v (%s)", err, hint(err))
	}
	w.withExternalSecrets()
	for _, tt := range []struct {
		name, reason string
		values       string
		class        string
		says, hints  string
	}{
		{"keys from the platform", "they are not used, and there are none", "{}", install.ClassUsage, "The AMP access key is missing", "put AMP_ACCESS_KEY and AMP_SECRET_KEY into an entry of the store"},
		{"keys among the values", "would be readable in the release's Secrets", "containerInsights: {ampAccessKey: AKIAEXAMPLE, ampSecretKey: " + ampSecret + "}", install.ClassUsage,
			"containerInsights.ampAccessKey and containerInsights.ampSecretKey: with externalSecrets the chart would read them from the values", "externalSecrets.data.ampKeys.remoteRef.key"},
		{"an entry of the store", "nothing else is needed", entry, "", "", ""},
		{"a role", "nothing else is needed", "containerInsights: {podIdentity: {enabled: true}}", "", "", ""},
		{"no container insights", "nothing is written to the metrics store", "containerInsights: {enabled: false}", "", "", ""},
		{"an API key among the values", "it leaves them, unused", "{nops: {apiKey: " + apiKey + "}, containerInsights: {podIdentity: {enabled: true}}}", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.Values = overlaid(values(t, store), values(t, tt.values))
			plan, err := engine().Plan(t.Context(), r)
			if class(err) != tt.class || err != nil && (!strings.Contains(err.Error(), tt.says) || !strings.Contains(hint(err), tt.hints)) {
				t.Fatalf("%s: %v (%s)", tt.reason, err, hint(err))
			}
			if err != nil {
				if strings.Contains(err.Error(), ampSecret) {
					t.Error("the error repeats the key")
				}
				return
			}
			if len(plan.CredentialKeys) > 0 || warning(plan, "NOPS-VAL-004").Message == "" {
				t.Errorf("what the platform hands out is not used, with a warning: %+v", plan.Warnings)
			}
			if text := fmt.Sprint(plan.Values()); strings.Contains(text, apiKey) || strings.Contains(text, ampSecret) {
				t.Errorf("a credential is among the values: %s", text)
			}
		})
	}
}

// overlaid merges maps as values are merged.
func overlaid(under, over map[string]any) map[string]any {
	for k, v := range over {
		below, isMap := under[k].(map[string]any)
		above, bothMaps := v.(map[string]any)
		if isMap && bothMaps {
			v = overlaid(below, above)
		}
		under[k] = v
	}
	return under
}

// TestAdoptionWithExternalSecrets takes over a release that has the keys of the metrics store among its values, where the
// chart reads them from: it goes on working, with a warning, until the keys are in the store.
func TestAdoptionWithExternalSecrets(t *testing.T) {
	w, engine := embedded(t)
	before := w.everything()
	w.withExternalSecrets()
	w.helm("upgrade", "-i", w.release, w.chart, "--namespace", w.namespace, "--create-namespace",
		"--set", "externalSecrets.enabled=true", "--set", "externalSecrets.secretStoreRef.name=vault", "--set", "externalSecrets.data.apiKeys.remoteRef.key=nops/api",
		"--set", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN="+arn, "--set", "containerInsights.ampID=ws-1", "--set", "containerInsights.ampRegion=us-west-2",
		"--set", "containerInsights.ampAccessKey=AKIAEXAMPLE", "--set", "containerInsights.ampSecretKey="+ampSecret, "--set", "datadog.apiKey=0123456789abcdef0123456789abcdef")
	for _, tt := range []struct{ name, values string }{
		{"as it is", "{}"},
		{"the values file again", "containerInsights: {ampAccessKey: AKIAEXAMPLE, ampSecretKey: " + ampSecret + "}"},
	} {
		r := w.request()
		r.Values = values(t, tt.values)
		plan, result := w.install(engine(), r)
		if result.Outcome == event.Failed {
			t.Fatalf("%s: %+v", tt.name, result)
		}
		if k := warning(plan, "NOPS-VAL-005"); !strings.Contains(k.Message, "containerInsights.ampAccessKey and containerInsights.ampSecretKey stay") || !strings.Contains(k.Message, "revisions that hold them: 1") || !strings.Contains(k.Hint, "rotate") {
			t.Errorf("%s: %+v", tt.name, plan.Warnings)
		}
		if text := fmt.Sprint(plan.ValueChanges, plan.Warnings, plan.Changes, plan, result); strings.Contains(text, ampSecret) || strings.Contains(text, "0123456789abcdef0123456789abcdef") {
			t.Errorf("%s: a credential is shown: %s", tt.name, text)
		}
	}
	kept, err := w.client.CoreV1().Secrets(w.namespace).Get(t.Context(), "nops-inline-credentials", metav1.GetOptions{})
	if err != nil || string(kept.Data["AMP_SECRET_KEY"]) != ampSecret || len(kept.Data) != 2 {
		t.Errorf("the keys still reach vmagent: %v", err)
	}
	if text := w.helm("get", "values", w.release, "--namespace", w.namespace); strings.Contains(text, "0123456789abcdef0123456789abcdef") || !strings.Contains(text, ampSecret) {
		t.Error("what the store brings leaves the values, what it does not bring stays")
	}
	r := w.request()
	r.Values = values(t, "containerInsights: {ampSecretKey: another}")
	if _, err := engine().Plan(t.Context(), r); class(err) != install.ClassUsage || strings.Contains(err.Error(), "another") {
		t.Errorf("a new one is refused: %v", err)
	}
	r.Values = values(t, "externalSecrets: {data: {ampKeys: {remoteRef: {key: nops/amp}}}}")
	plan, _ := w.install(engine(), r)
	if k := warning(plan, "NOPS-VAL-003"); !strings.Contains(k.Message, "are not used and leave them") || !strings.Contains(k.Message, "hold them: 1, 2") {
		t.Errorf("once the store has them: %+v", plan.Warnings)
	}
	if text := w.helm("get", "values", w.release, "--namespace", w.namespace); strings.Contains(text, ampSecret) {
		t.Error("they leave the values")
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
	after := w.everything()
	delete(after, "namespaces//"+w.namespace) // helm made it
	delete(after, "configmaps/"+w.namespace+"/kube-root-ca.crt")
	delete(after, "customresourcedefinitions//clusterexternalsecrets.external-secrets.io")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
}

// TestRoleNeedsNoKeys: with a role the keys that the platform hands out are not stored; those that are there stay for a
// rollback, and nothing refers to them.
func TestRoleNeedsNoKeys(t *testing.T) {
	w, engine := embedded(t)
	r := w.request()
	r.Values = overlaid(ampValues(), values(t, "containerInsights: {podIdentity: {enabled: true}}"))
	plan, _ := w.install(engine(), r)
	if diff := cmp.Diff([]string{install.KeyAPI}, plan.CredentialKeys); diff != "" || strings.Contains(fmt.Sprint(plan.Values()), "ampAccessName") {
		t.Errorf("%v (-want +got):\n%s", plan.Values(), diff)
	}
	r.Values = values(t, "containerInsights: {podIdentity: {enabled: false}}")
	plan, _ = w.install(engine(), r)
	if diff := cmp.Diff([]string{install.KeyAMPAccess, install.KeyAMPSecret, install.KeyAPI}, plan.CredentialKeys); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.Values = values(t, "victoriaMetrics: {serviceAccount: {annotations: {eks.amazonaws.com/role-arn: \"arn:aws:iam::123456789012:role/x\"}}}")
	plan, _ = w.install(engine(), r)
	if diff := cmp.Diff([]string{install.KeyAMPAccess, install.KeyAMPSecret, install.KeyAPI}, plan.CredentialKeys); diff != "" || strings.Contains(fmt.Sprint(plan.Values()), "ampAccessName") {
		t.Errorf("%v (-want +got):\n%s", plan.Values(), diff)
	}
	if again, err := engine().Plan(t.Context(), r); err != nil || !again.NoOp {
		t.Errorf("a second install is a no-op: %v %+v", err, again)
	}
	if _, err := engine().Uninstall(t.Context(), install.UninstallRequest{}); err != nil {
		t.Fatal(err)
	}
}

// TestMisspeltFields: the chart takes Kubernetes' own fields as they come; the API server would drop a misspelt one without a
// word.
func TestMisspeltFields(t *testing.T) {
	w, engine := embedded(t)
	w.makeNamespace(nil)
	r := w.request()
	r.Values = overlaid(values(t, updaterAlone), values(t, "nops: {global: {affinity: {nodeAffinty: {}}}}"))
	plan, err := engine().Plan(t.Context(), r)
	if class(err) != install.ClassPreflight || !strings.Contains(check(plan, "NOPS-PRE-010").Message, `unknown field "spec.template.spec.affinity.nodeAffinty"`) {
		t.Errorf("%v %+v", err, check(plan, "NOPS-PRE-010"))
	}
}
