package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// A chart is what ours renders of container insights.
type chart struct {
	jobs     map[string]map[string]any // of vmagent, by name
	global   any
	relabel  string
	vmagent  []string
	exporter map[string][]string // arguments of the exporters
	keepList []byte
}

// values stand for those of a customer; nothing of them changes what is collected.
func values() []string {
	return []string{"nops.apiKey=none", "containerInsights.ampID=ws-1", "containerInsights.ampRegion=us-west-2", "containerInsights.ampAccessKey=AKIAEXAMPLE", "containerInsights.ampSecretKey=example",
		"containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN=arn:aws:eks:us-west-2:123456789012:cluster/production", "victoriaMetrics.kubeletVolumeStats=true"}
}

// render renders the chart of the checkout with the real helm. The kubelet's volumes, which are off by default, are on: they are
// measured on their own.
func render(ctx context.Context, assets, repo string) (*chart, error) {
	dir := filepath.Join(repo, "embedded-chart", "chart")
	cmd := exec.CommandContext(ctx, filepath.Join(assets, "helm"), "template", "nops-kubernetes-agent", dir, "--namespace=nops", "--kube-version=1.33.1", "--set="+strings.Join(values(), ","))
	cmd.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull)
	var problem strings.Builder
	cmd.Stderr = &problem
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("render %s: %w: %s", dir, err, problem.String())
	}
	c := &chart{jobs: map[string]map[string]any{}, exporter: map[string][]string{}}
	for _, document := range strings.Split("\n"+string(text), "\n---\n") {
		if err := c.read(document); err != nil {
			return nil, fmt.Errorf("render %s: %w", dir, err)
		}
	}
	if c.keepList, err = os.ReadFile(filepath.Join(dir, "files", "keep-list.yaml")); err != nil {
		return nil, fmt.Errorf("the chart's keep-list: %w", err)
	}
	for _, source := range []string{cadvisor, kubelet, kubeStateMetrics, nodeExporter, vmagent} {
		if c.jobs[source] == nil {
			return nil, fmt.Errorf("render %s: no scrape job %q", dir, source)
		}
	}
	if len(c.vmagent) == 0 || len(c.exporter[kubeStateMetrics]) == 0 || len(c.exporter[nodeExporter]) == 0 || c.relabel == "" {
		return nil, fmt.Errorf("render %s: no arguments or no relabeling: were objects renamed?", dir)
	}
	return c, nil
}

// read takes what is of interest from a manifest.
func (c *chart) read(document string) error {
	var o struct {
		Kind     string
		Metadata struct{ Name string }
		Data     map[string]string
		Spec     struct {
			Template struct {
				Spec struct {
					Containers []struct{ Args []string }
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(document), &o); err != nil {
		return fmt.Errorf("read a manifest: %w", err)
	}
	switch o.Kind + "/" + o.Metadata.Name {
	case "ConfigMap/nops-vmagent":
		var config struct {
			Global any              `json:"global"`
			Jobs   []map[string]any `json:"scrape_configs"`
		}
		if err := yaml.Unmarshal([]byte(o.Data["scrape.yaml"]), &config); err != nil {
			return fmt.Errorf("read vmagent's configuration: %w", err)
		}
		c.global, c.relabel = config.Global, o.Data["relabel.yaml"]
		for _, job := range config.Jobs {
			name, _ := job["job_name"].(string)
			c.jobs[name] = job
		}
	case "Deployment/nops-vmagent":
		c.vmagent = o.Spec.Template.Spec.Containers[0].Args
	case "Deployment/nops-kube-state-metrics":
		c.exporter[kubeStateMetrics] = o.Spec.Template.Spec.Containers[0].Args
	case "DaemonSet/nops-node-exporter":
		c.exporter[nodeExporter] = o.Spec.Template.Spec.Containers[0].Args
	}
	return nil
}

// interval is how often a source is asked by the chart.
func (c *chart) interval(source string) (string, error) {
	text, ok := c.jobs[source]["scrape_interval"].(string)
	if !ok {
		return "", fmt.Errorf("the chart's job %q has no scrape_interval", source)
	}
	return text, nil
}
