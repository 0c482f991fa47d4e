package embeddedchart_test

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"
)

// paths are all groups and leaves of the values.
func paths(prefix string, values object) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		path := strings.TrimPrefix(prefix+"."+name, ".")
		all = append(all, path)
		if below, ok := values[name].(object); ok {
			all = append(all, paths(path, below)...)
		}
	}
	return all
}

// TestNothingWhereSomethingWas: people comment entries out, set values to null, and bring along values of another chart. The
// chart renders, or says what is missing; it never speaks of its templates.
func TestNothingWhereSomethingWas(t *testing.T) {
	c := withAll(t)
	all := paths("", c.Values)
	if len(all) < 250 {
		t.Fatalf("only %d values", len(all))
	}
	said := 0
	for _, path := range all {
		if strings.Contains(path, ".resources.") {
			continue // written out as they are
		}
		_, notes, err := renderChart(t, c, base("karpenops.enabled=true", "karpenops.clusterId=x", path+"=null"))
		switch {
		case err == nil && strings.Contains(notes, "%!"):
			t.Errorf("%s=null: NOTES:\n%s", path, notes)
		case err == nil:
		case regexp.MustCompile(`nil pointer|reflect|wrong type|error calling (?:get|deepCopy|concat|dig|has|printf)|%!`).MatchString(err.Error()):
			t.Errorf("%s=null: %v", path, err)
		default:
			said++
		}
	}
	if said < 20 {
		t.Errorf("only %d refusals among %d nulls", said, len(all))
	}
}

// TestValuesOfAnotherChart: --reuse-values leaves out what the chart knows and the release did not.
func TestValuesOfAnotherChart(t *testing.T) {
	c := load(t)
	c.Values = nil
	_, _, err := renderChart(t, c, base())
	if err == nil || !strings.Contains(err.Error(), "--reset-then-reuse-values") {
		t.Errorf("%v, want a sentence that says how", err)
	}
}

// TestOddInput: legal, if not usual.
func TestOddInput(t *testing.T) {
	digest := "sha256:8888888888888888888888888888888888888888888888888888888888888888"
	for _, tt := range []struct {
		name, reason string
		set          []string
		object       string
		path         []string
		want         string
	}{
		{"a digest in the tag", "labels take no @ and no :", []string{"heartbeat.image.tag=0.1.0@" + digest}, "Deployment/nops-heartbeat", []string{"metadata", "labels", "app.kubernetes.io/version"}, "0.1.0_sha256_" + strings.Repeat("8", 63-len("0.1.0_sha256_"))},
		{"a registry in the repository", "it is no part of the path", []string{"prometheus.kubeStateMetrics.image.repository=mirror.example.com:5000/nops/kube-state-metrics"}, "Deployment/nops-kube-state-metrics", []string{"spec", "template", "spec", "containers", "0", "image"}, "mirror.example.com:5000/nops/kube-state-metrics:v2.18.0"},
		{"labels of a resource that has none in the list", "what is asked for is kept", []string{"prometheus.kubeStateMetrics.metricLabels.deployments={team}"}, "ConfigMap/nops-vmagent", []string{"data", "scrape.yaml"}, "…kube_deployment_labels…"},
		{"an annotation in camel case", "kube-state-metrics writes snake case", []string{"prometheus.kubeStateMetrics.metricAnnotations.pods={costCenter}"}, "ConfigMap/nops-vmagent", []string{"data", "scrape.yaml"}, "…annotation_cost_center]…"},
		{"all annotations", "only alone it means all", []string{"prometheus.kubeStateMetrics.metricAnnotations.pods={*}"}, "Deployment/nops-kube-state-metrics", []string{"spec", "template", "spec", "containers", "0", "args"}, "…pods=[*]…"},
		{"Datadog beside Fargate", "its pods cannot run there", []string{"datadog.enabled=true", "datadog.apiKey=x"}, "DaemonSet/nops-datadog", []string{"spec", "template", "spec", "affinity"}, "…fargate…"},
		{"a role behind a proxy", "its credentials are asked for through it", []string{"nops.global.proxy.url=http://proxy:3128", "containerInsights.podIdentity.enabled=true"}, "Deployment/nops-vmagent", []string{"spec", "template", "spec", "containers", "0", "env"}, "…HTTPS_PROXY…"},
		{"an interval of more than one unit", "", []string{"victoriaMetrics.scrapeInterval=1m30s"}, "ConfigMap/nops-vmagent", []string{"data", "scrape.yaml"}, "…1m30s…"},
		{"a policy and a Prometheus of one's own", "who is told to scrape must be let in", []string{"nops.global.networkPolicy.enabled=true", "prometheus.kubeStateMetrics.prometheusScrape=true"}, "NetworkPolicy/nops-kube-state-metrics", []string{"spec", "ingress"}, "[map[ports:[map[port:http]]]]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manifests, _, err := render(t, base(tt.set...))
			if err != nil {
				t.Fatal(err)
			}
			var at any = find(t, manifests, tt.object)
			for _, p := range tt.path {
				if items, ok := at.([]any); ok {
					at = items[0]
					continue
				}
				at = get(at, p)
			}
			got := fmt.Sprint(at)
			part, partial := strings.CutPrefix(tt.want, "…")
			if partial && !strings.Contains(got, strings.TrimSuffix(part, "…")) || !partial && got != tt.want {
				t.Errorf("%s, want %s (%s)", got, tt.want, tt.reason)
			}
		})
	}
}

// TestCertificatesThatChange restart whoever read them at the start.
func TestCertificatesThatChange(t *testing.T) {
	annotations := func(bundle string) map[string]string {
		manifests, _, err := renderAll(t, base("karpenops.enabled=true", "karpenops.clusterId=x", "datadog.enabled=true", "datadog.apiKey=x", "nops.global.caBundle="+bundle))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, o := range manifests {
			data, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if workload(o) && text(o, "kind") != "CronJob" && bytes.Contains(data, []byte("nops-ca-bundle")) {
				all[name(o)] = text(template(o), "metadata", "annotations", "nops.io/ca-bundle")
			}
		}
		return all
	}
	old := annotations("one")
	if len(old) < 6 {
		t.Errorf("only %d workloads mount the bundle", len(old))
	}
	for workload, hash := range annotations("two") {
		if hash == old[workload] || hash == "<nil>" {
			t.Errorf("%s is not restarted", workload)
		}
	}
}

// TestNamesThatLookLikeNumbers: a release and a namespace may be called 2024.
func TestNamesThatLookLikeNumbers(t *testing.T) {
	c := withAll(t)
	values, err := chartutil.ToRenderValues(c, base("karpenops.enabled=true", "karpenops.clusterId=x"), chartutil.ReleaseOptions{Name: "123", Namespace: "2024", Revision: 1, IsInstall: true}, eks())
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, values)
	if err != nil {
		t.Fatal(err)
	}
	objects := 0
	for file, content := range files {
		if strings.HasSuffix(file, "NOTES.txt") {
			continue
		}
		for _, doc := range strings.Split(content, "\n---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o == nil {
				continue
			}
			objects++
			for _, path := range [][]string{{"metadata", "namespace"}, {"metadata", "labels", "app.kubernetes.io/instance"}, {"spec", "selector", "matchLabels", "app.kubernetes.io/instance"}, {"spec", "template", "metadata", "labels", "app.kubernetes.io/instance"}} {
				if v := get(o, path...); v != nil {
					if _, ok := v.(string); !ok {
						t.Errorf("%s: %s is a %T", name(o), strings.Join(path, "."), v)
					}
				}
			}
		}
	}
	if objects < 50 {
		t.Errorf("only %d objects", objects)
	}
}
