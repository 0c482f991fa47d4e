package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed grafana-k8s-monitoring.yaml
var grafanaFacts []byte

//go:embed names.yaml
var nameFacts []byte

// facts are what another chart collects.
type facts struct {
	Repository    string                 `json:"repository"`
	Revision      string                 `json:"revision"`
	RevisionDate  string                 `json:"revisionDate"`
	ChartVersion  string                 `json:"chartVersion"`
	Interval      string                 `json:"interval"`
	ClusterLabels []string               `json:"clusterLabels"`
	Scrapes       []string               `json:"scrapes"`
	Sources       map[string]sourceFacts `json:"sources"`
}

type sourceFacts struct {
	Job           string   `json:"job"`
	TargetLabels  []string `json:"targetLabels"`
	Keep          []string `json:"keep"` // regular expressions
	DropWhenEmpty []rule   `json:"dropWhenEmpty"`
	DropWhen      []rule   `json:"dropWhen"`
	KeepOnly      []rule   `json:"keepOnly"`
	Blank         []rule   `json:"blank"`
	ExporterArgs  []string `json:"exporterArgs"`
}

// A rule is about rows of some metrics (regular expressions), told apart by the value of a label.
type rule struct {
	Label   string   `json:"label"`
	Labels  []string `json:"labels"`
	Metrics []string `json:"metrics"`
	Values  []string `json:"values"`
}

func loadFacts() (facts, error) {
	var f facts
	if err := yaml.UnmarshalStrict(grafanaFacts, &f); err != nil {
		return f, fmt.Errorf("grafana-k8s-monitoring.yaml: %w", err)
	}
	return f, nil
}

// relabeling says the rules of a source in vmagent's words.
func (s sourceFacts) relabeling() []any {
	metrics := func(r rule) string { return strings.Join(r.Metrics, "|") }
	rules := []any{map[string]any{"action": "keep", "source_labels": []string{"__name__"}, "regex": strings.Join(s.Keep, "|")}}
	drop := func(selector string) { rules = append(rules, map[string]any{"action": "drop", "if": selector}) }
	for _, r := range s.DropWhenEmpty {
		drop(fmt.Sprintf("{__name__=~%q,%s=\"\"}", metrics(r), r.Label))
	}
	for _, r := range s.DropWhen {
		drop(fmt.Sprintf("{__name__=~%q,%s=~%q}", metrics(r), r.Label, strings.Join(r.Values, "|")))
	}
	for _, r := range s.KeepOnly {
		drop(fmt.Sprintf("{__name__=~%q,%s!~%q}", metrics(r), r.Label, strings.Join(r.Values, "|")))
	}
	for _, r := range s.Blank {
		for _, l := range r.Labels {
			rules = append(rules, map[string]any{"if": fmt.Sprintf("{__name__=~%q}", metrics(r)), "target_label": l, "replacement": "NA"})
		}
	}
	return rules
}

// keeps says whether the list of a source keeps a metric.
func (s sourceFacts) keeps(metric string) (bool, error) {
	if len(s.Keep) == 0 {
		return false, nil
	}
	re, err := regexp.Compile("^(?:" + strings.Join(s.Keep, "|") + ")$")
	if err != nil {
		return false, fmt.Errorf("grafana-k8s-monitoring.yaml: %w", err)
	}
	return re.MatchString(metric), nil
}

// names are what has to be said about metric names.
type names struct {
	// Floor is the metrics that nOps's analysis has used, by source. They have to arrive.
	Floor map[string][]string `json:"floor"`
	// Elsewhere are those that cannot, each with the reason.
	Elsewhere map[string]string `json:"elsewhere"`
	// Beyond are those that we keep and the other chart does not, each with the reason.
	Beyond map[string]string `json:"beyond"`
	// More are those that both keep and of which the chart's rules leave more series, each with the reason.
	More map[string]string `json:"more"`
}

func loadNames() (names, error) {
	var n names
	if err := yaml.UnmarshalStrict(nameFacts, &n); err != nil {
		return n, fmt.Errorf("names.yaml: %w", err)
	}
	return n, nil
}

// keepList is the chart's own list, by source.
func keepList(text []byte) (map[string][]string, error) {
	var list struct {
		Cadvisor         []string `json:"cadvisor"`
		NodeExporter     []string `json:"nodeExporter"`
		KubeStateMetrics struct {
			Metrics []string `json:"metrics"`
		} `json:"kubeStateMetrics"`
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("the chart's keep-list: %w", err)
	}
	return map[string][]string{cadvisor: list.Cadvisor, nodeExporter: list.NodeExporter, kubeStateMetrics: list.KubeStateMetrics.Metrics}, nil
}

// beyond lists what one list keeps and the other does not, in order.
func beyond(ours map[string][]string, theirs facts) ([]string, error) {
	var all []string
	for source, list := range ours {
		for _, metric := range list {
			kept, err := theirs.Sources[source].keeps(metric)
			if err != nil {
				return nil, err
			}
			if !kept {
				all = append(all, metric)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}
