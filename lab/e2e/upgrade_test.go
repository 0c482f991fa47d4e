package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
)

// values2024 writes what a customer of 2024 has stored (the paths and the form of then, with the tags this lab serves), and
// beside it amp.yaml: what moving to Amazon Managed Prometheus adds.
func (w *world) values2024(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: published-2024 FILE")
	}
	images, err := embeddedchart.Images()
	ts.Check(err)
	key, a := w.customer(ts)
	type m = map[string]any
	image := func(component string) m {
		registry, repository, _ := strings.Cut(images[component].Repository, "/")
		return m{"registry": registry, "repository": repository, "tag": images[component].Tag}
	}
	for file, values := range map[string]m{
		args[0]: {
			"nops":              m{"apiKey": key},
			"autoUpdater":       m{"enabled": true, "schedule": "0 0 * * 1", "repository": "public.ecr.aws/nops/alpine/k8s", "imageTag": "1.30.4", "successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0},
			"containerInsights": m{"enabled": true, "env_variables": m{"APP_NOPS_K8S_AGENT_CLUSTER_ARN": w.status.ClusterARN, "APP_AWS_S3_BUCKET": "nops-container-cost-123456789012"}, "imageTag": "2.0.4"},
			"karpenops":         m{"enabled": true, "clusterId": "D/M7Yj", "image": m{"tag": "1.23.2"}},
			"heartbeat":         m{"image": m{"repository": "public.ecr.aws/nops/k8s-heartbeat-agent", "tag": "0.1.4"}}, // the published tag of then
			"dcgmExporter":      m{"enabled": true},
			"dataFetcher":       m{"replicaCount": 2},
			"opencost":          m{"opencost": m{"exporter": m{"image": image("opencost")}}},
			"prometheus": m{
				"kubeStateMetrics": m{"image": image("kube-state-metrics")},
				"nodeExporter":     m{"image": image("node-exporter"), "resources": m{}},
				"server":           m{"image": m{"repository": images["prometheus-server"].Repository, "tag": images["prometheus-server"].Tag}, "nodeSelector": m{}},
			},
		},
		"amp.yaml": {"containerInsights": m{"centralized": true, "ampID": a.WorkspaceID, "ampRegion": a.Region, "ampAccessKey": a.AccessKeyID, "ampSecretKey": a.SecretAccessKey}},
	} {
		text, err := yaml.Marshal(values)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(file), text, 0o600))
	}
}

func (w *world) get(ts *testscript.TestScript, into any, args ...string) {
	out, err := w.inside(append([]string{"kubectl", "-n", "nops", "get", "-o", "json"}, args...)...).Output()
	ts.Check(err)
	ts.Check(json.Unmarshal(out, into))
}

// upgraded shows that a release of the chart of 2024 is now one of ours: selectors that cannot change stayed, nothing runs
// twice, nothing of the old names is left, and Services lead to pods.
func (w *world) upgraded(ts *testscript.TestScript, _ bool, _ []string) {
	var heartbeat appsv1.Deployment
	w.get(ts, &heartbeat, "deployment", "nops-heartbeat")
	if got := heartbeat.Spec.Selector.MatchLabels; len(got) != 2 || got["app"] != "nops-heartbeat" {
		ts.Fatalf("nops-heartbeat selects by %v: it was made anew", got)
	}
	// It was rolling and cannot be anything else for Helm 4; two must not report at once all the same.
	if s := heartbeat.Spec.Strategy; s.RollingUpdate == nil || s.RollingUpdate.MaxSurge.String() != "0" {
		ts.Fatalf("nops-heartbeat rolls out by %v", s)
	}
	var dcgm appsv1.DaemonSet
	w.get(ts, &dcgm, "daemonset", "nops-dcgm-exporter")
	if got := dcgm.Spec.Selector.MatchLabels["app.kubernetes.io/component"]; got != "dcgm-exporter-metrics" {
		ts.Fatalf("nops-dcgm-exporter selects component %q", got)
	}
	var pods corev1.PodList
	w.get(ts, &pods, "pods")
	running := map[string]int{}
	for i := range pods.Items {
		component := pods.Items[i].Labels["nops.io/component"]
		if component == "" && pods.Items[i].DeletionTimestamp == nil {
			ts.Fatalf("Pod %s is of the old chart", pods.Items[i].Name)
		}
		running[component]++
	}
	for _, component := range []string{"heartbeat", "vmagent", "node-exporter", "kube-state-metrics", "karpenops"} {
		if running[component] != 1 {
			ts.Fatalf("%d pods of %s: %v", running[component], component, running)
		}
	}
	out, err := w.inside("kubectl", "get", "-A", "-o", "name", "deployments,daemonsets,cronjobs,services,serviceaccounts,configmaps,limitranges,secrets,clusterroles,clusterrolebindings").Output()
	ts.Check(err)
	var old []string
	for _, object := range strings.Fields(string(out)) {
		_, name, _ := strings.Cut(object, "/")
		if slices.Contains([]string{"nops-prometheus-server", "nops-prometheus-kube-state-metrics", "nops-prometheus-node-exporter", "nops-cost", "nops-data-fetcher", "nops-auto-updater",
			"nops-kubernetes-agent-high", "nops-agent-secrets", "mem-limit-range", "nops-kubernetes-agent-configmap", "exporter-metrics-config-map"}, name) {
			old = append(old, object)
		}
	}
	if len(old) > 0 {
		ts.Fatalf("left of the old chart: %v", old)
	}
	for _, service := range []string{"nops-vmagent", "nops-kube-state-metrics", "nops-node-exporter"} {
		out, err := w.inside("kubectl", "-n", "nops", "get", "endpointslices", "-l", "kubernetes.io/service-name="+service, "-o", "jsonpath={.items[*].endpoints[*].addresses[0]}").Output()
		if err != nil || len(strings.Fields(string(out))) != 1 {
			ts.Fatalf("Service %s leads to %q: %v", service, out, err)
		}
	}
	fmt.Fprintf(ts.Stdout(), "pods: %v\n", running)
}
