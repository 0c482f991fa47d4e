package contract

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/heartbeat"
	"github.com/nopsctl/nopsctl/agents/karpenops"
	"github.com/nopsctl/nopsctl/agents/vpa"
	"github.com/nopsctl/nopsctl/agents/vpa/recommender"
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

// fromOutside are variables that are not the agent's own: the Go runtime's and its HTTP client's.
func fromOutside(name string) bool {
	return slices.Contains([]string{"GOMAXPROCS", "GOMEMLIMIT", "GOGC", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}, name)
}

// told is what an agent's command can be told.
type told interface {
	Environment() []string
	Validate() error
}

// command is one of an agent's.
type command struct {
	bind  func(fs *pflag.FlagSet, env func(string) string) told
	needs []string // variables without which it is of no use
	ports []int32  // of a daemon; the first serves health and metrics
}

// entry is what this room knows of an agent; everything else it finds in the chart.
type entry struct {
	doc      string             // with the tables of what it needs of RBAC
	commands map[string]command // by name; a container's first argument chooses one
	roles    []string           // kind and name, as the chart renders them
	least    int                // permissions of the tables, so that one which is not read is noticed
}

// agents are ours, by their component in images.yaml. TestEveryAgentIsHere says when one is missing.
func agents() map[string]entry {
	return map[string]entry{
		"heartbeat": {
			doc: "../../agents/heartbeat/doc.go",
			commands: map[string]command{
				"run": {
					bind: func(fs *pflag.FlagSet, env func(string) string) told {
						o := &heartbeat.Options{}
						o.BindFlags(fs, env)
						return o
					},
					needs: []string{"NOPS_API_KEY", "NOPS_HOST", "NOPS_CLUSTER_ARN", "POD_NAMESPACE", "NOPS_RELEASE", "NOPS_CHART_VERSION"},
					ports: []int32{8080},
				},
				"probe": {bind: func(fs *pflag.FlagSet, env func(string) string) told {
					o := &heartbeat.ProbeOptions{}
					o.BindFlags(fs, env)
					return o
				}},
			},
			roles: []string{"Role nops-heartbeat"},
			least: 8,
		},
		"karpenops": {
			doc:      "../../agents/karpenops/doc.go",
			commands: ofKarpenops(),
			roles: []string{
				"ClusterRole nops-karpenops", "ClusterRole nops-karpenops-node-classes", "ClusterRole nops-karpenops-overlays", "Role nops-karpenops", "Role nops-karpenops-facts",
			},
			least: 25,
		},
		"vpa": {
			doc:      "../../agents/vpa/doc.go",
			commands: ofVPA(),
			roles: []string{
				"ClusterRole nops-vpa-admission-controller", "ClusterRole nops-vpa-policy", "ClusterRole nops-vpa-recommender", "ClusterRole nops-vpa-updater",
				"Role nops-vpa-admission-controller", "Role nops-vpa-policy", "Role nops-vpa-recommender", "Role nops-vpa-updater",
			},
			least: 200,
		},
	}
}

// ofVPA are its commands: four parts, each a Deployment, and two that Jobs run once.
func ofVPA() map[string]command {
	who := []string{"POD_NAMESPACE", "NOPS_RELEASE"}
	part := func(options func() *vpa.PartOptions, ports []int32, needs ...string) command {
		return command{bind: func(fs *pflag.FlagSet, env func(string) string) told {
			o := options()
			o.BindFlags(fs, env)
			return o
		}, needs: append(needs, who...), ports: ports}
	}
	act := command{bind: func(fs *pflag.FlagSet, env func(string) string) told {
		o := &vpa.ActOptions{}
		o.BindFlags(fs, env)
		return o
	}}
	return map[string]command{
		"recommender": {
			bind: func(fs *pflag.FlagSet, env func(string) string) told {
				o := &recommender.Options{}
				o.BindFlags(fs, env)
				return o
			},
			needs: append([]string{"NOPS_API_KEY", "NOPS_HOST", "NOPS_CLUSTER_ARN"}, who...), ports: []int32{8080},
		},
		"updater":   part(vpa.UpdaterOptions, []int32{8080}, vpa.EnvUpdaterEvery),
		"policy":    part(vpa.PolicyOptions, []int32{8080}, vpa.EnvPolicyEvery),
		"admission": part(vpa.AdmissionOptions, []int32{8080, 8000}),
		"revert":    act, "import": act,
	}
}

// ofKarpenops are its commands: the one that runs, and those that Jobs run once with the same pod.
func ofKarpenops() map[string]command {
	all := map[string]command{"run": {
		bind: func(fs *pflag.FlagSet, env func(string) string) told {
			o := &karpenops.Options{}
			o.BindFlags(fs, env)
			return o
		},
		needs: []string{"NOPS_API_KEY", "NOPS_HOST", "NOPS_CLUSTER_ARN", "POD_NAMESPACE", "NOPS_RELEASE", "NOPS_CHART_VERSION", "NOPS_CLUSTER_ID", karpenops.EnvMode, karpenops.EnvFacts},
		ports: []int32{8080},
	}}
	for _, c := range karpenops.Program().Commands {
		if c.Name != "run" {
			all[c.Name] = command{bind: func(fs *pflag.FlagSet, env func(string) string) told {
				o := &karpenops.ActOptions{}
				o.BindFlags(fs, env)
				return o
			}}
		}
	}
	return all
}

// ours reads the chart's list of images: the programs of the agents that are part of this release, by component.
func ours(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("../../embedded-chart/chart/files/images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Components map[string]struct {
			Available, Ours bool
			Repository      string
		}
	}
	if err := yaml.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for component, image := range list.Components {
		if image.Ours && image.Available {
			programs[component] = path.Base(image.Repository)
		}
	}
	if len(list.Components) < 10 || len(programs) == 0 {
		t.Fatalf("%d components in images.yaml, %d of them ours and available: the test does not see them", len(list.Components), len(programs))
	}
	return programs
}

// missing says which agents one of the three places knows and another does not: this table, the chart's list of images, the
// folders of the programs.
func missing(table map[string]entry, programs map[string]string, folders []string) []string {
	var all []string
	for component := range table {
		if programs[component] == "" {
			all = append(all, component+" is in the table of lab/contract; images.yaml has it not, or not as ours and available")
		}
	}
	for component, program := range programs {
		if _, known := table[component]; !known {
			all = append(all, component+" is ours and available in images.yaml, and not in the table of lab/contract")
		}
		if !slices.Contains(folders, program) {
			all = append(all, component+" is ours and available in images.yaml, and there is no agents/cmd/"+program)
		}
	}
	for _, folder := range folders {
		if !slices.Contains(slices.Collect(maps.Values(programs)), folder) {
			all = append(all, "agents/cmd/"+folder+" is the program of no component that is ours and available in images.yaml")
		}
	}
	slices.Sort(all)
	return all
}

func TestEveryAgentIsHere(t *testing.T) {
	list, err := os.ReadDir("../../agents/cmd")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, e := range list {
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	for _, problem := range missing(agents(), ours(t), folders) {
		t.Error(problem)
	}
	// What is planted must be found, or the above proves nothing.
	known, programs := agents(), ours(t)
	known["planted-in-the-table"] = entry{}
	programs["planted-in-the-list"] = "planted-program"
	if got := missing(known, programs, append(folders, "planted-folder")); len(got) != 4 {
		t.Errorf("of a planted entry, a planted image without a program, and a planted folder this is found: %q", got)
	}
}

// container is one of ours in a render.
type container struct {
	where  string
	daemon bool // not of a Job
	corev1.Container
}

// containers finds those that run a program of ours, whatever the workload is called: by image, by name where the values
// give another image.
func containers(t *testing.T, file string, docs []string, component, program string) []container {
	t.Helper()
	var all []container
	for _, doc := range docs {
		kind, name, pod := workload(t, file, doc)
		for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
			image, _, _ := strings.Cut(c.Image, "@")
			base, _, _ := strings.Cut(path.Base(image), ":")
			if base == program || c.Name == component {
				all = append(all, container{file + " " + kind + " " + name, kind != "CronJob" && kind != "Job", c})
			}
		}
	}
	return all
}

// workload decodes what runs pods; of other objects the pod is empty.
func workload(t *testing.T, file, doc string) (kind, name string, pod corev1.PodTemplateSpec) {
	t.Helper()
	kind = kindOf(t, doc)
	var (
		deployment appsv1.Deployment
		daemonSet  appsv1.DaemonSet
		set        appsv1.StatefulSet
		cronJob    batchv1.CronJob
		job        batchv1.Job
	)
	into := map[string]any{"Deployment": &deployment, "DaemonSet": &daemonSet, "StatefulSet": &set, "CronJob": &cronJob, "Job": &job}[kind]
	if into == nil {
		return kind, "", pod
	}
	if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
		t.Fatalf("%s: %s: %v", file, kind, err)
	}
	switch kind {
	case "Deployment":
		return kind, deployment.Name, deployment.Spec.Template
	case "DaemonSet":
		return kind, daemonSet.Name, daemonSet.Spec.Template
	case "StatefulSet":
		return kind, set.Name, set.Spec.Template
	case "CronJob":
		return kind, cronJob.Name, cronJob.Spec.JobTemplate.Spec.Template
	}
	return kind, job.Name, job.Spec.Template
}

func kindOf(t *testing.T, doc string) string {
	t.Helper()
	var head struct{ Kind string }
	if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
		t.Fatal(err)
	}
	return head.Kind
}

// TestAgentsTakeWhatTheChartGives parses each container's arguments with the agent's own flags, and holds the variables
// against those it reads.
func TestAgentsTakeWhatTheChartGives(t *testing.T) {
	all, programs := renders(t), ours(t)
	for component, e := range agents() {
		t.Run(component, func(t *testing.T) {
			found := 0
			for file, docs := range all {
				for _, c := range containers(t, file, docs, component, programs[component]) {
					found++
					e.takes(t, c)
				}
			}
			if found < 6 {
				t.Fatalf("it runs in only %d places of the renders", found)
			}
		})
	}
}

func (e entry) takes(t *testing.T, c container) {
	t.Helper()
	env := map[string]string{}
	for _, v := range c.Env {
		env[v.Name] = v.Value
		if v.ValueFrom != nil {
			env[v.Name] = "value-from-elsewhere"
		}
	}
	getenv := func(name string) string { return env[name] }
	if len(c.Args) == 0 || e.commands[c.Args[0]].bind == nil {
		t.Errorf("%s: args %v begin with none of its commands", c.where, c.Args)
		return
	}
	called := e.commands[c.Args[0]]
	fs := pflag.NewFlagSet(c.Args[0], pflag.ContinueOnError)
	options := called.bind(fs, getenv)
	if err := fs.Parse(c.Args[1:]); err != nil {
		t.Errorf("%s: the agent does not take %v: %v", c.where, c.Args, err)
	}
	if err := options.Validate(); err != nil {
		t.Errorf("%s: %v", c.where, err)
	}
	var known []string // of all its commands: people run the others in the same pod
	for name, other := range e.commands {
		known = append(known, other.bind(pflag.NewFlagSet(name, pflag.ContinueOnError), getenv).Environment()...)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !slices.Contains(known, name) && !fromOutside(name) {
			t.Errorf("%s: the chart sets %s, which the agent does not read", c.where, name)
		}
	}
	for _, name := range called.needs {
		if env[name] == "" {
			t.Errorf("%s: the chart does not set %s", c.where, name)
		}
	}
	if c.daemon {
		called.listens(t, c)
	}
}

// listens: the probes of the chart ask where the agent listens by default.
func (called command) listens(t *testing.T, c container) {
	t.Helper()
	var open []int32
	for _, p := range c.Ports {
		open = append(open, p.ContainerPort)
	}
	if !slices.Equal(open, called.ports) {
		t.Errorf("%s: ports %v, the agent listens on %v", c.where, open, called.ports)
	}
	for what, asked := range map[string]struct {
		probe *corev1.Probe
		path  string
	}{"liveness": {c.LivenessProbe, "/healthz"}, "readiness": {c.ReadinessProbe, "/readyz"}} {
		if asked.probe == nil || asked.probe.HTTPGet == nil || asked.probe.HTTPGet.Path != asked.path {
			t.Errorf("%s: %s asks %v, the agent answers at %s", c.where, what, asked.probe, asked.path)
		}
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

// heading stands above the table of one of several roles.
var heading = regexp.MustCompile(`^// ((?:Cluster)?Role [a-z0-9-]+):$`)

// tables reads the RBAC tables of an agent's doc.go, by role: one needs no heading.
func tables(doc, only string) map[string][]rbacv1.PolicyRule {
	cell := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	rules, role := map[string][]rbacv1.PolicyRule{}, only
	for _, line := range strings.Split(doc, "\n") {
		if m := heading.FindStringSubmatch(line); m != nil {
			role = m[1]
		}
		row, ok := strings.CutPrefix(line, "//\t|")
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		if !ok || len(cells) != 4 || strings.Contains(row, "API group") || strings.HasPrefix(row, "--") {
			continue
		}
		rules[role] = append(rules[role], rbacv1.PolicyRule{APIGroups: []string{strings.TrimSpace(cells[0])}, Resources: cell(cells[1]), ResourceNames: cell(cells[2]), Verbs: cell(cells[3])})
	}
	return rules
}

func TestTables(t *testing.T) {
	const header = "//\t| API group | resources | names | verbs |\n//\t|---|---|---|---|\n"
	one, two := "//\t|  | pods, secrets |  | list |\n", "//\t| apps | deployments | x | get, patch |\n"
	for _, tt := range []struct{ name, reason, doc, want string }{
		{"one", "no heading is needed", header + one, "Role nops-x [/pods list /secrets list]"},
		{"two", "each below its role", "// ClusterRole nops-y:\n//\n" + header + one + "//\n// Role nops-x:\n//\n" + header + two, "ClusterRole nops-y [/pods list /secrets list] Role nops-x [apps/deployments[x] get apps/deployments[x] patch]"},
		{"none", "", "// Role nops-x:\n", ""},
	} {
		var got []string
		rules := tables(tt.doc, "Role nops-x")
		for _, role := range slices.Sorted(maps.Keys(rules)) {
			got = append(got, fmt.Sprintf("%s %v", role, permissions(rules[role])))
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s (%s): %s, want %s", tt.name, tt.reason, text, tt.want)
		}
	}
}

// TestPermissionsAreTheDocumentedOnes: the roles of the chart equal the tables in the agents' doc.go, and no agent has another.
func TestPermissionsAreTheDocumentedOnes(t *testing.T) {
	all := renders(t)
	for component, e := range agents() {
		t.Run(component, func(t *testing.T) {
			doc, err := os.ReadFile(e.doc)
			if err != nil {
				t.Fatal(err)
			}
			want := tables(string(doc), e.roles[0])
			if diff := cmp.Diff(slices.Sorted(slices.Values(e.roles)), slices.Sorted(maps.Keys(want))); diff != "" {
				t.Fatalf("the roles of the table here and of %s differ:\n%s", e.doc, diff)
			}
			found := map[string]int{}
			for file, docs := range all {
				for _, doc := range docs {
					kind := kindOf(t, doc)
					if kind != "Role" && kind != "ClusterRole" {
						continue
					}
					var granted rbacv1.ClusterRole // a Role has no field that it has not
					if err := yaml.UnmarshalStrict([]byte(doc), &granted); err != nil {
						t.Fatalf("%s: %s: %v", file, kind, err)
					}
					role, of := kind+" "+granted.Name, granted.Labels["app.kubernetes.io/component"]
					switch {
					case slices.Contains(e.roles, role):
						found[role]++
						if diff := cmp.Diff(permissions(want[role]), permissions(granted.Rules)); diff != "" {
							t.Errorf("%s: documented and granted by %s differ:\n%s", file, role, diff)
						}
					case of == component, strings.HasPrefix(of, component+"-"):
						t.Errorf("%s: %s is the agent's and in no table of %s", file, role, e.doc)
					}
				}
			}
			documented := 0
			for _, role := range e.roles {
				documented += len(permissions(want[role]))
				if found[role] == 0 {
					t.Errorf("no render has %s", role)
				}
			}
			if documented < e.least {
				t.Errorf("only %d permissions in %s, want %d at least: the test does not see them", documented, e.doc, e.least)
			}
		})
	}
}
