package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
)

// amp is where a customer's metrics go.
type amp struct {
	WorkspaceID     string `json:"workspace_id"`
	Region          string `json:"region"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

// customer registers the cluster and asks for what the nOps UI would write into a command: a key for the agents and the
// customer's workspace.
func (w *world) customer(ts *testscript.TestScript) (key string, a amp) {
	base := strings.TrimSuffix(w.status.PlatformURL, "/") + "/svc/k8s_agent/v1/clusters/" + url.PathEscape(w.status.ClusterARN)
	var made struct{ Key string }
	var config struct{ AMP amp }
	for _, step := range []struct {
		method, path string
		into         any
	}{{http.MethodPut, "", nil}, {http.MethodPost, "/agent-key", &made}, {http.MethodGet, "/install-config", &config}} {
		body, status, err := call(step.method, base+step.path, w.status.APIKey, nil)
		if err != nil || status > 201 {
			ts.Fatalf("%s %s: %d %s: %v", step.method, step.path, status, body, err)
		}
		if step.into != nil {
			ts.Check(json.Unmarshal(body, step.into))
		}
	}
	return made.Key, config.AMP
}

var stars = regexp.MustCompile(`(?m)--set ([A-Za-z0-9_.]+)=(\*+|arn:aws:eks:\S+|us-west-2)`)

// published runs a command of the published page as it stands there, in a shell inside the lab. Only what the page leaves out
// is filled in: keys, workspace, cluster. tool is what the word helm leads to: helm, helm4, or nopsctl, which is given the
// same values and the same names.
func (w *world) published(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: published TOOL FILE [MORE ARGUMENTS…]")
	}
	tool, script := args[0], ts.ReadFile(args[1])
	key, a := w.customer(ts)
	fill := map[string]string{
		"nops.apiKey": key, "containerInsights.ampID": a.WorkspaceID, "containerInsights.ampRegion": a.Region, "containerInsights.ampAccessKey": a.AccessKeyID,
		"containerInsights.ampSecretKey": a.SecretAccessKey, "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN": w.status.ClusterARN,
		"karpenops.clusterId": "D/M7Yj", "datadog.apiKey": "0123456789abcdef0123456789abcdef",
	}
	filled := 0
	script = stars.ReplaceAllStringFunc(script, func(set string) string {
		path := stars.FindStringSubmatch(set)[1]
		value, ok := fill[path]
		if !ok {
			ts.Fatalf("%s: nothing to fill in for %s", args[1], path)
		}
		filled++
		return "--set " + path + "=" + value
	})
	if filled == 0 || strings.Contains(script, "***") {
		ts.Fatalf("%s: %d values filled in, left:\n%s", args[1], filled, script)
	}
	script = strings.TrimRight(script, "\n")
	for _, more := range args[2:] {
		script += " " + more
	}
	const helm, install = "helm upgrade -i nops-kubernetes-agent oci://public.ecr.aws/nops/kubernetes-agent --namespace nops --create-namespace", "nopsctl install --namespace nops --skip-connectivity"
	if !strings.HasPrefix(script, helm) {
		ts.Fatalf("%s does not begin with the published words:\n%s", args[1], script)
	}
	switch tool {
	case "helm":
	case "helm4":
		script = "helm() { command helm4 \"$@\"; }\n" + script
	case "nopsctl":
		file := ts.MkAbs("customer-key")
		ts.Check(os.WriteFile(file, []byte(w.status.APIKey+"\n"), 0o600))
		script = strings.Replace(script, helm, install+" --api-key-file "+file, 1)
	default:
		ts.Fatalf("no tool %q: helm, helm4 or nopsctl", tool)
	}
	ts.Check(ts.Exec(w.inside().Path, "exec", "--name", w.name, "--", "bash", "-c", "set -euo pipefail\n"+script))
}

// promised are the components that the published page says a command installs, as far as their programs are part of this
// release.
func promised(ts *testscript.TestScript, command string) []string {
	data, err := os.ReadFile("../../embedded-chart/testdata/published/commands/components.yaml")
	ts.Check(err)
	var all map[string][]string
	ts.Check(yaml.UnmarshalStrict(data, &all))
	images, err := embeddedchart.Images()
	ts.Check(err)
	var names []string
	for _, component := range all[command] {
		image := component
		if strings.HasPrefix(component, "vpa-") {
			image = "vpa"
		}
		if images[image].Available {
			names = append(names, component)
		}
	}
	if len(names) == 0 {
		ts.Fatalf("the page has no command %q", command)
	}
	return names
}

// workloads waits until exactly these components have workloads and all of them run what they should. "as-published NAME" are
// those the published page promises for a command.
func (w *world) workloads(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: workloads COMPONENT… | workloads as-published COMMAND")
	}
	if args[0] == "as-published" {
		args = promised(ts, args[1])
	}
	slices.Sort(args)
	out, err := w.inside("kubectl", "-n", "nops", "get", "deployments,daemonsets,statefulsets,cronjobs", "-o", `jsonpath={range .items[*]}{.metadata.labels.app\.kubernetes\.io/component}{" "}{.kind}/{.metadata.name}{"\n"}{end}`).Output()
	ts.Check(err)
	var have, wait []string
	for _, line := range strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " ")) {
		if kind, name, ok := strings.Cut(line, "/"); !ok {
			have = append(have, line)
		} else if kind != "CronJob" {
			wait = append(wait, strings.ToLower(kind)+"/"+name)
		}
	}
	slices.Sort(have)
	if !slices.Equal(have, args) {
		ts.Fatalf("workloads of %v, want %v", have, args)
	}
	for _, name := range wait {
		if out, err := w.inside("kubectl", "-n", "nops", "rollout", "status", name, "--timeout=120s").CombinedOutput(); err != nil {
			pods, _ := w.inside("kubectl", "-n", "nops", "get", "pods", "-o", "wide").CombinedOutput()
			ts.Fatalf("%s: %v: %s\n%s", name, err, out, pods)
		}
	}
	fmt.Fprintf(ts.Stdout(), "%d workloads run\n", len(have))
}

// secretAsPublished writes the published Secret with this customer's keys in the place of the invented ones, and beside it
// amp.yaml: the customer's workspace and cluster.
func (w *world) secretAsPublished(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: secret-as-published FILE")
	}
	data, err := os.ReadFile("../../embedded-chart/testdata/published/examples/secret.yaml")
	ts.Check(err)
	var secret map[string]any
	ts.Check(yaml.UnmarshalStrict(data, &secret))
	keys, ok := secret["data"].(map[string]any)
	if !ok || len(keys) != 4 {
		ts.Fatalf("the published Secret holds %v", secret["data"])
	}
	key, a := w.customer(ts)
	for name, value := range map[string]string{"API_KEY": key, "AMP_ACCESS_KEY": a.AccessKeyID, "AMP_SECRET_KEY": a.SecretAccessKey} {
		if keys[name] == nil {
			ts.Fatalf("the published Secret has no key %s", name)
		}
		keys[name] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	for file, content := range map[string]any{
		args[0]: secret,
		"amp.yaml": map[string]any{"containerInsights": map[string]any{"ampID": a.WorkspaceID, "ampRegion": a.Region,
			"env_variables": map[string]any{"APP_NOPS_K8S_AGENT_CLUSTER_ARN": w.status.ClusterARN}}},
	} {
		text, err := yaml.Marshal(content)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(file), text, 0o600))
	}
}
