package contract

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/heartbeat"
)

// renders are the golden renders of the chart, which the chart's own tests hold against its templates.
func renders(t *testing.T) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob("../../embedded-chart/testdata/golden/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = strings.Split("\n"+string(data), "\n---\n")
	}
	if len(all) < 6 {
		t.Fatalf("only %d golden renders", len(all))
	}
	return all
}

// find decodes the one object of a kind and name, or returns false.
func find[T any](t *testing.T, docs []string, kind, name string) (T, bool) {
	t.Helper()
	var zero T
	for _, doc := range docs {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind || head.Metadata.Name != name {
			continue
		}
		var o T
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			t.Fatalf("%s %s: %v", kind, name, err)
		}
		return o, true
	}
	return zero, false
}

// fromOutside are variables that are not the agent's own: the Go runtime's, and the pod's identity.
func fromOutside(name string) bool {
	return slices.Contains([]string{"GOMAXPROCS", "GOMEMLIMIT", "GOGC"}, name)
}

// TestHeartbeatTakesWhatTheChartGives parses the container's arguments with the agent's own flags, and holds the variables
// against those it reads.
func TestHeartbeatTakesWhatTheChartGives(t *testing.T) {
	found := 0
	for file, docs := range renders(t) {
		d, ok := find[appsv1.Deployment](t, docs, "Deployment", "nops-heartbeat")
		if !ok {
			continue
		}
		found++
		c := d.Spec.Template.Spec.Containers[0]
		env := map[string]string{}
		for _, e := range c.Env {
			env[e.Name] = e.Value
			if e.ValueFrom != nil {
				env[e.Name] = "value-from-elsewhere"
			}
		}
		var run heartbeat.Options
		var probe heartbeat.ProbeOptions
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		run.BindFlags(fs, func(name string) string { return env[name] })
		if len(c.Args) == 0 || c.Args[0] != "run" {
			t.Errorf("%s: args %v, want run first", file, c.Args)
			continue
		}
		if err := fs.Parse(c.Args[1:]); err != nil {
			t.Errorf("%s: the agent does not take %v: %v", file, c.Args, err)
		}
		if err := run.Validate(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		known := append(run.Environment(), probe.Environment()...)
		for _, name := range slices.Sorted(maps.Keys(env)) {
			if !slices.Contains(known, name) && !fromOutside(name) {
				t.Errorf("%s: the chart sets %s, which the agent does not read", file, name)
			}
		}
		for _, name := range []string{"NOPS_API_KEY", "NOPS_HOST", "NOPS_CLUSTER_ARN", "POD_NAMESPACE", "NOPS_RELEASE", "NOPS_CHART_VERSION"} {
			if env[name] == "" {
				t.Errorf("%s: the chart does not set %s", file, name)
			}
		}
		ports(t, file, c)
	}
	if found == 0 {
		t.Fatal("no render has a heartbeat")
	}
}

// ports: the probes of the chart ask where the agent listens by default.
func ports(t *testing.T, file string, c corev1.Container) {
	t.Helper()
	if len(c.Ports) != 1 || c.Ports[0].ContainerPort != 8080 {
		t.Errorf("%s: ports %v, the agent listens on 8080", file, c.Ports)
	}
	if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Errorf("%s: probes %v, %v", file, c.LivenessProbe.HTTPGet, c.ReadinessProbe.HTTPGet)
	}
}

// permissions flattens rules to "group/resource[name] verb".
func permissions(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, name := range names {
					for _, verb := range r.Verbs {
						all = append(all, strings.TrimSuffix(group+"/"+resource+"["+name+"]", "[]")+" "+verb)
					}
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// documented reads the RBAC table of an agent's doc.go.
func documented(t *testing.T, path string) []rbacv1.PolicyRule {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cell := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	var rules []rbacv1.PolicyRule
	for _, line := range strings.Split(string(data), "\n") {
		row, ok := strings.CutPrefix(line, "//\t|")
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		if !ok || len(cells) != 4 || strings.Contains(row, "API group") || strings.HasPrefix(row, "--") {
			continue
		}
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{strings.TrimSpace(cells[0])}, Resources: cell(cells[1]), ResourceNames: cell(cells[2]), Verbs: cell(cells[3])})
	}
	return rules
}

// TestPermissionsAreTheDocumentedOnes: the Role of the chart equals the table in the agent's doc.go.
func TestPermissionsAreTheDocumentedOnes(t *testing.T) {
	want := permissions(documented(t, "../../agents/heartbeat/doc.go"))
	if len(want) < 8 {
		t.Fatalf("only %d permissions in the table of doc.go", len(want))
	}
	found := 0
	for file, docs := range renders(t) {
		role, ok := find[rbacv1.Role](t, docs, "Role", "nops-heartbeat")
		if !ok {
			continue
		}
		found++
		if diff := cmp.Diff(want, permissions(role.Rules)); diff != "" {
			t.Errorf("%s: documented and granted differ:\n%s", file, diff)
		}
	}
	if found == 0 {
		t.Fatal("no render has the heartbeat's Role")
	}
}
