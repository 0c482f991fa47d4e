package install

import (
	"context"
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"sigs.k8s.io/yaml"
)

// A Component is a part of the stack that can be switched on and off.
type Component struct {
	Name      string   `json:"name"`      // the public one: "containerInsights"
	Toggle    string   `json:"toggle"`    // value path
	Workloads []string `json:"workloads"` // the values of app.kubernetes.io/component it consists of
	on, off   string
	byDefault bool   // what the values mean that do not say: absent and null
	alias     string // a misspelling of Toggle that the chart honours where Toggle itself is not given
	within    string // the component without which this one is not rendered
}

// wants says whether the values switch the component on, and whether they say so at all.
func (c Component) wants(values map[string]any) (on, known bool) {
	for _, path := range []string{c.Toggle, c.alias} {
		if on, known := lookupBool(values, path); known {
			return on, true
		}
	}
	return c.byDefault, false
}

// Components lists them, in the order in which they are shown.
func Components() []Component {
	return []Component{
		{Name: "containerInsights", Toggle: "containerInsights.enabled",
			Workloads: []string{"vmagent", "node-exporter", "kube-state-metrics", "prometheus-server", "opencost", "container-insights-agent"},
			on:        "the cluster's nodes, pods and containers are measured, and the samples are sent to your metrics workspace",
			off:       "no metrics are collected any more, those of GPUs included: cost and rightsizing views of this cluster go stale; samples not sent yet are lost"},
		{Name: "heartbeat", Toggle: "heartbeat.enabled", Workloads: []string{"heartbeat"}, byDefault: true, // charts before the toggle always had it
			on:  "the platform sees whether the stack works, and warns when it does not",
			off: "the platform no longer sees this cluster: it will warn that the agent is gone, and nobody is told when the stack breaks"},
		{Name: "karpenops", Toggle: "karpenops.enabled", Workloads: []string{"karpenops"},
			on:  "NodePools that opted in are tuned to spot markets and commitments, as far as karpenops.mode lets it go; by default it makes NodePools of its own beside them",
			off: "NodePools stay as they are now and are not changed any more; those that it made go on launching nodes, with nobody to tend them"},
		{Name: "containerRightsizing", Toggle: "containerRightsizing.enabled", Workloads: []string{"vpa-recommender", "vpa-updater", "vpa-policy", "vpa-admission-controller"},
			on:  "requests of containers are recommended and, where a RightsizingPolicy says so, changed: in place, without restarts, unless the policy allows evictions; without a policy nothing is changed",
			off: "requests are not recommended or changed any more, and its webhook goes first; pods keep what they have now until they are replaced"},
		{Name: "dataFetcher", Toggle: "dataFetcher.enabled", Workloads: []string{"data-fetcher"},
			on:  "the dashboard may ask this cluster for live data",
			off: "the Workloads tab shows no live data for this cluster"},
		{Name: "autoUpdater", Toggle: "autoUpdater.enabled", alias: "autoUpater.enabled", Workloads: []string{"image-tag-updater"}, byDefault: true,
			on:  "the stack's images are updated every night",
			off: "images stay as they are until somebody upgrades the release"},
		{Name: "dcgmExporter", Toggle: "dcgmExporter.enabled", Workloads: []string{"dcgm-exporter"}, within: "containerInsights",
			on:  "GPUs are measured on nodes that have any",
			off: "GPUs are not measured any more"},
		{Name: "datadog", Toggle: "datadog.enabled", Workloads: []string{"datadog"},
			on:  "a Datadog agent sends logs and metrics of the stack to nOps support; switch it off when the case is closed",
			off: "nOps support sees no more diagnostics"},
	}
}

func component(name string) (Component, bool) {
	for _, c := range Components() {
		if strings.EqualFold(c.Name, name) {
			return c, true
		}
	}
	return Component{}, false
}

// Consequence says what enabling or disabling a component leads to, in one sentence; empty for an unknown one.
func Consequence(name string, enable bool) string {
	c, ok := component(name)
	switch {
	case !ok:
		return ""
	case enable:
		return c.on
	}
	return c.off
}

// available says which components the chart has images for. The chart lists them in files/images.yaml; a chart without that
// list (one published before it existed) is taken to have everything.
func available(c *chart.Chart) (func(Component) bool, error) {
	all := func(Component) bool { return true }
	if c == nil {
		return all, nil
	}
	for _, f := range c.Files {
		if f.Name != "files/images.yaml" {
			continue
		}
		var content any
		if err := yaml.Unmarshal(f.Data, &content); err != nil {
			return nil, fmt.Errorf("chart %s: files/images.yaml: %w", c.Name(), err)
		}
		listed := map[string]bool{}
		collectAvailable("", content, listed)
		return func(c Component) bool {
			known := false
			for _, name := range append([]string{c.Name}, c.Workloads...) {
				on, ok := listed[plainName(name)]
				if on {
					return true
				}
				known = known || ok
			}
			return !known
		}, nil
	}
	return all, nil
}

// collectAvailable finds every entry with an `available` field, by its key or its name.
func collectAvailable(key string, v any, listed map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			collectAvailable("", x, listed)
		}
	case map[string]any:
		if on, ok := v["available"].(bool); ok {
			for _, field := range []string{"component", "name"} {
				if s, _ := v[field].(string); s != "" {
					key = s
				}
			}
			name := plainName(key)
			listed[name] = listed[name] || on
			if toggle, _ := v["toggle"].(string); toggle != "" {
				listed[plainName(toggle)] = listed[plainName(toggle)] || on
			}
			return
		}
		for k, x := range v {
			collectAvailable(k, x, listed)
		}
	}
}

// plainName makes data-fetcher and dataFetcher one.
func plainName(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }

// ToggleRequest switches one component.
type ToggleRequest struct {
	Component string // public name
	Enabled   bool
	Force     bool // needed to disable the heartbeat
	// Request holds the rest: Images, Wait, Timeout, Recover. Its Operation and Values are set here.
	Request Request
}

// Toggle plans the switch of one component: what the release has stored, and this one change. The chart stays the one the
// release was made with, so that enabling a component upgrades nothing else.
func (e *Engine) Toggle(ctx context.Context, t ToggleRequest) (*Plan, error) {
	c, ok := component(t.Component)
	if !ok {
		var names []string
		for _, c := range Components() {
			names = append(names, c.Name)
		}
		best := ""
		for _, n := range names {
			if distance(strings.ToLower(n), strings.ToLower(t.Component)) <= 3 {
				best = n
			}
		}
		advice := "components: " + strings.Join(names, ", ")
		if best != "" {
			advice = "did you mean " + best + "? " + advice
		}
		return nil, &Error{Class: ClassUsage, Reason: fmt.Sprintf("unknown component %q", t.Component), Advice: advice}
	}
	if c.Name == "heartbeat" && !t.Enabled && !t.Force {
		return nil, &Error{Class: ClassUsage, Reason: "disabling heartbeat: " + c.off, Advice: "add --force if that is what you want"}
	}
	h, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	_, used, err := e.chartWith(h, c)
	if err != nil {
		return nil, err
	}
	request := t.Request
	request.Operation = map[bool]string{true: "enable", false: "disable"}[t.Enabled]
	request.Values = map[string]any{}
	set(request.Values, c.Toggle, t.Enabled)
	plan, err := e.plan(ctx, request, used)
	if plan == nil {
		return nil, err
	}
	plan.Consequence = Consequence(c.Name, t.Enabled)
	if on, problem := switches(used, plan.values); problem == nil && on[c.Name].without != "" {
		plan.Consequence = fmt.Sprintf("nothing runs yet: %s needs %s, which is switched off", c.Name, on[c.Name].without)
	}
	return plan, err
}

// chartOf gives the chart a release was made with. Helm does not record subcharts: of a chart that has any, the record is
// not whole, and the engine's own chart has to do.
func (e *Engine) chartOf(r *release.Release) (*chart.Chart, error) {
	own, err := e.chart()
	switch {
	case r.Chart == nil || r.Chart.Metadata == nil || len(r.Chart.Metadata.Dependencies) > 0 || len(r.Chart.Templates) == 0:
		return own, err
	case err == nil && own.Metadata.Version == r.Chart.Metadata.Version && own.Name() == r.Chart.Name():
		return own, nil
	}
	return r.Chart, nil
}

// switched says of a component whether the values switch it on, and whether somebody said so.
type switched struct {
	enabled, explicit, available bool
	without                      string // the component that is switched off and takes this one with it
}

func switches(c *chart.Chart, config map[string]any) (map[string]switched, error) {
	has, err := available(c)
	if err != nil {
		return nil, err
	}
	values := config
	if c != nil {
		all, err := chartutil.CoalesceValues(c, config)
		if err != nil {
			return nil, fmt.Errorf("values of chart %s: %w", c.Name(), err)
		}
		values = all
	}
	out := map[string]switched{}
	for _, comp := range Components() {
		on, _ := comp.wants(values)
		_, explicit := comp.wants(config)
		sw := switched{enabled: on, explicit: explicit, available: has(comp)}
		if above, ok := component(comp.within); ok && on {
			if aboveOn, _ := above.wants(values); !aboveOn {
				sw.without = above.Name
			}
		}
		out[comp.Name] = sw
	}
	return out, nil
}

// chartWith is the release as it is, and its chart, which has the component.
func (e *Engine) chartWith(h history, c Component) (*release.Release, *chart.Chart, error) {
	last := h.last()
	if last == nil || last.Info.Status == release.StatusUninstalled {
		return nil, nil, &NotInstalledError{Release: e.Release, Namespace: e.Namespace}
	}
	used, err := e.chartOf(last)
	if err != nil {
		return nil, nil, err
	}
	has, err := available(used)
	if err != nil {
		return nil, nil, err
	}
	if !has(c) {
		return nil, nil, &Error{Class: ClassUsage, Reason: fmt.Sprintf("component %s is not yet part of this release (chart %s)", c.Name, used.Metadata.Version), Advice: "nopsctl install upgrades the release"}
	}
	return last, used, nil
}
