package embeddedchart_test

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
)

var update = flag.Bool("update", false, "rewrite the golden files")

type object = map[string]any

func load(t *testing.T) *chart.Chart {
	t.Helper()
	root, err := embeddedchart.FS()
	if err != nil {
		t.Fatal(err)
	}
	var files []*loader.BufferedFile
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		files = append(files, &loader.BufferedFile{Name: name, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render is what `helm template` does, for the version string of an EKS cluster.
func render(t *testing.T, values object) (manifests []object, notes string, err error) {
	t.Helper()
	return renderChart(t, load(t), values)
}

// renderAll renders as if every component were part of this release: those whose programs are still to come are held against
// the same laws.
func renderAll(t *testing.T, values object) (manifests []object, notes string, err error) {
	t.Helper()
	return renderChart(t, withAll(t), values)
}

func withAll(t *testing.T) *chart.Chart {
	t.Helper()
	c := load(t)
	for _, f := range c.Files {
		if f.Name == "files/images.yaml" {
			f.Data = bytes.ReplaceAll(f.Data, []byte("available: false"), []byte("available: true"))
		}
	}
	return c
}

// renderCase renders a case of testdata/cases: those called all-… with every component.
func renderCase(t *testing.T, name string, values object) (manifests []object, notes string, err error) {
	t.Helper()
	if strings.HasPrefix(name, "all-") {
		return renderAll(t, values)
	}
	return render(t, values)
}

func renderChart(t *testing.T, c *chart.Chart, values object) (manifests []object, notes string, err error) {
	t.Helper()
	return renderWith(t, c, values, eks())
}

// eks is what a cluster of EKS says of itself.
func eks() *chartutil.Capabilities {
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.33.1-eks-595af52", Major: "1", Minor: "33+"}
	return caps
}

func renderWith(t *testing.T, c *chart.Chart, values object, caps *chartutil.Capabilities) (manifests []object, notes string, err error) {
	t.Helper()
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, caps.KubeVersion.Version) {
		t.Fatalf("kubeVersion %q refuses %s", c.Metadata.KubeVersion, caps.KubeVersion.Version)
	}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "nops-kubernetes-agent", Namespace: "nops", Revision: 1, IsInstall: true}, caps)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, "", err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = files[name]
			continue
		}
		for _, text := range strings.Split(files[name], "\n---\n") {
			var o object
			if err := yaml.Unmarshal([]byte(text), &o); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			if o != nil {
				manifests = append(manifests, o)
			}
		}
	}
	return manifests, notes, nil
}

func cases(t *testing.T) map[string]object {
	t.Helper()
	paths, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]object{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var values object
		if err := yaml.UnmarshalStrict(data, &values); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".yaml")] = values
	}
	if len(all) < 10 {
		t.Fatalf("only %d cases", len(all))
	}
	return all
}

// TestCases renders every case, and holds each render against its golden file and against what must always be so.
func TestCases(t *testing.T) {
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	all := cases(t)
	if len(all) < 30 {
		t.Errorf("only %d cases", len(all))
	}
	for caseName, values := range all {
		t.Run(caseName, func(t *testing.T) {
			manifests, notes, err := renderCase(t, caseName, values)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, caseName, manifests, notes)
			laws(t, manifests, images, strings.HasPrefix(caseName, "all-"))
			noCredentials(t, values, manifests)
			types(t, manifests)
			hangTogether(t, values, manifests)
			// Two renders are equal to the byte, or every upgrade would restart something.
			again, notesAgain, err := renderCase(t, caseName, values)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(manifests, again); diff != "" || notes != notesAgain {
				t.Errorf("two renders differ:\n%s", diff)
			}
		})
	}
}

func golden(t *testing.T, caseName string, manifests []object, notes string) {
	t.Helper()
	var out bytes.Buffer
	for _, o := range manifests {
		if text(o, "kind") == "CustomResourceDefinition" && caseName != "all-default" {
			continue // long, and the same whatever the values: TestDefinitions
		}
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "---\n%s", data)
	}
	fmt.Fprintf(&out, "---\n# NOTES\n# %s\n", strings.ReplaceAll(strings.TrimSpace(notes), "\n", "\n# "))
	path := filepath.Join("testdata", "golden", caseName+".yaml")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if string(want) != out.String() {
		t.Errorf("differs from %s (run with -update and read the change):\n%s", path, cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")))
	}
}

// TestDefinitions: of the custom resource definitions, values change the labels alone; they outlive the release.
func TestDefinitions(t *testing.T) {
	specs := func(set ...string) map[string]any {
		manifests, _, err := renderAll(t, base(set...))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{}
		for _, o := range manifests {
			if text(o, "kind") != "CustomResourceDefinition" {
				continue
			}
			all[name(o)] = o["spec"]
			if text(o, "metadata", "annotations", "helm.sh/resource-policy") != "keep" {
				t.Errorf("%s: goes with the release, and all its objects with it", name(o))
			}
		}
		return all
	}
	plain := specs()
	if len(plain) != 3 {
		t.Errorf("%d definitions", len(plain))
	}
	if diff := cmp.Diff(plain, specs("nops.global.labels.a=b", "nops.global.annotations.a=b", "containerRightsizing.labels.c=d")); diff != "" {
		t.Errorf("values change them:\n%s", diff)
	}
}

func get(o any, path ...string) any {
	for _, p := range path {
		m, ok := o.(object)
		if !ok {
			return nil
		}
		o = m[p]
	}
	return o
}

func text(o any, path ...string) string { return fmt.Sprint(get(o, path...)) }

func list(o any, path ...string) []any {
	l, _ := get(o, path...).([]any)
	return l
}

func name(o object) string { return text(o, "kind") + "/" + text(o, "metadata", "name") }

func workload(o object) bool {
	return slices.Contains([]string{"Deployment", "DaemonSet", "StatefulSet", "CronJob", "Job"}, text(o, "kind"))
}

// template is the pod template of a workload.
func template(o object) object {
	path := []string{"spec", "template"}
	if text(o, "kind") == "CronJob" {
		path = []string{"spec", "jobTemplate", "spec", "template"}
	}
	pod, _ := get(o, path...).(object)
	return pod
}

// imageOf is the entry of images.yaml that a container runs.
func imageOf(container any) string {
	if name := text(container, "name"); !strings.HasPrefix(name, "vpa-") {
		return name
	}
	return "vpa"
}

// Who differs from what everybody else must do, and why, is written in the templates.
var (
	asRoot     = []string{"DaemonSet/nops-dcgm-exporter"}
	privileged = []string{"DaemonSet/nops-datadog"}
	onHost     = []string{"DaemonSet/nops-node-exporter"}                                                           // its network and processes
	hostPaths  = []string{"DaemonSet/nops-node-exporter", "DaemonSet/nops-dcgm-exporter", "DaemonSet/nops-datadog"} // its files
	noToken    = []string{"DaemonSet/nops-node-exporter", "DaemonSet/nops-dcgm-exporter", "DaemonSet/nops-datadog", "CronJob/nops-container-insights-agent"}
	everyNode  = []string{"DaemonSet/nops-node-exporter", "DaemonSet/nops-dcgm-exporter"} // spared by the global node selector
)

func laws(t *testing.T, manifests []object, images map[string]embeddedchart.Image, all bool) {
	t.Helper()
	if len(manifests) < 5 {
		t.Errorf("only %d objects", len(manifests))
	}
	for _, o := range manifests {
		labels, _ := get(o, "metadata", "labels").(object)
		for _, l := range []string{"name", "instance", "component", "part-of", "managed-by", "version"} {
			if labels["app.kubernetes.io/"+l] == nil {
				t.Errorf("%s: no label app.kubernetes.io/%s", name(o), l)
			}
		}
		if n := text(o, "metadata", "name"); !strings.HasPrefix(n, "nops-") && !strings.HasSuffix(n, ".vpa.nops.io") {
			t.Errorf("%s: not named nops-…", name(o))
		}
		rules(t, o)
		if workload(o) {
			pods(t, o, images, all)
		}
	}
}

func pods(t *testing.T, o object, images map[string]embeddedchart.Image, all bool) {
	t.Helper()
	at := name(o)
	selector, _ := get(o, "spec", "selector", "matchLabels").(object)
	job := text(o, "kind") == "CronJob"
	if !job && len(selector) != 3 {
		t.Errorf("%s: selector %v, want name, instance and component alone", at, selector)
	}
	labels, _ := get(template(o), "metadata", "labels").(object)
	if !subset(selector, labels) || labels["nops.io/component"] != get(o, "metadata", "labels", "app.kubernetes.io/component") {
		t.Errorf("%s: labels of the pods: %v", at, labels)
	}
	pod, _ := template(o)["spec"].(object)
	root, open := slices.Contains(asRoot, name(o)), slices.Contains(privileged, name(o))
	security := pod["securityContext"]
	if (text(security, "runAsNonRoot") == "true") == root || (text(security, "runAsUser") == "0") != root || text(security, "seccompProfile", "type") != "RuntimeDefault" {
		t.Errorf("%s: pod security %v", at, security)
	}
	if !root && !open && text(security, "runAsUser") != "65534" {
		t.Errorf("%s: runs as %s", at, text(security, "runAsUser"))
	}
	for _, c := range list(pod, "containers") {
		security := get(c, "securityContext")
		if (text(security, "privileged") == "true") != open {
			t.Errorf("%s: privileged: %v", at, security)
		}
		if !open && fmt.Sprint(list(security, "capabilities", "drop")) != "[ALL]" || (fmt.Sprint(list(security, "capabilities", "add")) == "[SYS_ADMIN]") != root {
			t.Errorf("%s: capabilities %v", at, security)
		}
		if !root && !open && (text(security, "readOnlyRootFilesystem") != "true" || text(security, "allowPrivilegeEscalation") != "false") {
			t.Errorf("%s: container security %v", at, security)
		}
		if get(c, "resources", "requests") == nil || text(c, "resources", "limits", "memory") == "<nil>" {
			t.Errorf("%s: no requests or no memory limit", at)
		}
		if probes := get(c, "livenessProbe") != nil && get(c, "readinessProbe") != nil; probes == job {
			t.Errorf("%s: probes: %v", at, probes)
		}
		listed, ok := images[imageOf(c)]
		if !ok || !all && !listed.Available {
			t.Errorf("%s: %s is not in the list of images, or not part of this release", at, imageOf(c))
		}
	}
}

// changes are what may be written by whom, besides Events. Nobody else writes anything.
var changes = map[string][]string{
	"Role/nops-heartbeat":                       {"create configmaps", "update configmaps nops-heartbeat-state"},
	"ClusterRole/nops-karpenops":                {"create nodepools", "patch nodepools", "delete nodepools", "delete nodeoverlays"},
	"ClusterRole/nops-karpenops-overlays":       {"create nodeoverlays", "patch nodeoverlays"},
	"ClusterRole/nops-karpenops-node-classes":   {"patch ec2nodeclasses", "patch nodeclasses"},
	"Role/nops-karpenops":                       {"create configmaps", "patch configmaps nops-karpenops-state", "create leases", "update leases nops-karpenops"},
	"Role/nops-image-tag-updater":               {"patch deployments", "patch daemonsets", "patch cronjobs", "create configmaps", "update configmaps nops-image-state", "patch configmaps nops-image-state"},
	"ClusterRole/nops-vpa-recommender":          {"patch verticalpodautoscalers/status", "create verticalpodautoscalercheckpoints", "patch verticalpodautoscalercheckpoints", "delete verticalpodautoscalercheckpoints"},
	"ClusterRole/nops-vpa-updater":              {"patch verticalpodautoscalers/status", "patch pods/resize", "create pods/eviction"},
	"ClusterRole/nops-vpa-policy":               {"create verticalpodautoscalers", "patch verticalpodautoscalers", "delete verticalpodautoscalers", "patch rightsizingpolicies", "patch rightsizingpolicies/status", "patch horizontalpodautoscalers", "patch pods/resize"},
	"Role/nops-vpa-policy":                      {"create leases", "update leases nops-vpa-policy"},
	"ClusterRole/nops-vpa-admission-controller": {"patch mutatingwebhookconfigurations nops-vpa"},
	"Role/nops-vpa-recommender":                 {"create leases", "update leases nops-vpa-recommender"},
	"Role/nops-vpa-updater":                     {"create leases", "update leases nops-vpa-updater"},
	"Role/nops-vpa-admission-controller":        {"create leases", "update leases nops-vpa-admission-controller", "update secrets nops-vpa-certificates"},
}

// scales follow owners of pods to the top. Those are of kinds that nobody knows beforehand, and each is asked for its replicas: the only wildcard.
var scales = []string{"ClusterRole/nops-vpa-recommender", "ClusterRole/nops-vpa-updater", "ClusterRole/nops-vpa-admission-controller"}

func rules(t *testing.T, o object) {
	t.Helper()
	at := name(o)
	for _, r := range list(o, "rules") {
		if text(o, "kind") != "Role" && text(o, "kind") != "ClusterRole" {
			continue // a webhook's
		}
		replicas := slices.Contains(scales, at) && fmt.Sprint(list(r, "apiGroups"), list(r, "resources"), list(r, "verbs")) == "[*] [*/scale] [get]"
		for _, field := range []string{"apiGroups", "resources", "verbs"} {
			if !replicas && slices.ContainsFunc(list(r, field), func(v any) bool { return strings.Contains(fmt.Sprint(v), "*") }) {
				t.Errorf("%s: wildcard in %s", at, field)
			}
		}
		names := list(r, "resourceNames")
		for _, resource := range list(r, "resources") {
			switch {
			case resource == "nodes/proxy":
				t.Errorf("%s: nodes/proxy runs commands in any pod", at)
			case resource == "secrets" && fmt.Sprint(names) != "[nops-vpa-certificates]":
				t.Errorf("%s: nobody reads Secrets", at)
			case resource == "events":
				continue
			}
			for _, verb := range list(r, "verbs") {
				if slices.Contains([]any{"get", "list", "watch"}, verb) {
					continue
				}
				what := fmt.Sprintf("%s %s", verb, resource)
				named := what
				if len(names) == 1 {
					named = fmt.Sprintf("%s %s", what, names[0])
				}
				allowed := changes[name(o)]
				if !slices.Contains(allowed, named) && !(len(names) > 1 && slices.Contains(allowed, what)) {
					t.Errorf("%s: may %s", at, named)
				}
			}
		}
	}
}

// noCredentials: what was given as a credential is in Secrets only.
func noCredentials(t *testing.T, values object, manifests []object) {
	t.Helper()
	for _, path := range [][]string{{"nops", "apiKey"}, {"containerInsights", "ampAccessKey"}, {"containerInsights", "ampSecretKey"}, {"datadog", "apiKey"}, {"karpenops", "apiKey"}} {
		secret, _ := get(values, path...).(string)
		if secret == "" {
			continue
		}
		for _, o := range manifests {
			data, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if text(o, "kind") != "Secret" && bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s is in %s", strings.Join(path, "."), name(o))
			}
		}
	}
}

func TestFSHoldsTheWholeChart(t *testing.T) {
	root, err := embeddedchart.FS()
	if err != nil {
		t.Fatal(err)
	}
	walk := func(f fs.FS) []string {
		var names []string
		if err := fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		sort.Strings(names)
		return names
	}
	if diff := cmp.Diff(walk(os.DirFS("chart")), walk(root)); diff != "" {
		t.Errorf("embedded and on disk differ:\n%s", diff)
	}
	if !slices.Contains(walk(root), "templates/_helpers.tpl") {
		t.Error("_helpers.tpl is missing")
	}
}

func TestImagesEqualValues(t *testing.T) {
	images, err := embeddedchart.Images()
	if err != nil {
		t.Fatal(err)
	}
	values := load(t).Values
	available := 0
	for component, i := range images {
		if i.Available {
			available++
		}
		v := get(values, strings.Split(i.Values, ".")...)
		repository, tag, digest := text(v, "repository"), text(v, "tag"), text(v, "digest")
		if i.Flat {
			tag, digest = text(v, "imageTag"), text(v, "imageDigest")
		}
		if r := text(v, "registry"); r != "<nil>" {
			repository = r + "/" + repository
		}
		if repository != i.Repository || tag != i.Tag || digest != i.Digest {
			t.Errorf("%s: values %s, %s, %s, list %+v", component, repository, tag, digest, i)
		}
		if i.Ours && i.Tag != load(t).AppVersion() {
			t.Errorf("%s: tag %s, the chart's appVersion is %s", component, i.Tag, load(t).AppVersion())
		}
		if i.Ours && i.External || len(i.PublishedTags) > 0 && !i.Ours {
			t.Errorf("%s: %+v", component, i)
		}
	}
	if len(images) != 14 || available != 11 {
		t.Errorf("%d components, %d of them available; the tests know 14 and 11", len(images), available)
	}
}

// base is what every installation gives.
func base(set ...string) object {
	v := object{}
	for _, s := range append([]string{
		"nops.apiKey=4242.canary-of-the-api-key", "containerInsights.ampID=ws-1", "containerInsights.ampRegion=us-west-2", "containerInsights.ampAccessKey=AKIACANARY", "containerInsights.ampSecretKey=canary-of-the-secret",
		"containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN=arn:aws:eks:us-west-2:123456789012:cluster/my-sample-cluster",
	}, set...) {
		if err := strvals.ParseInto(s, v); err != nil {
			panic(err)
		}
	}
	return v
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ name, set, want string }{
		{"no API key", "nops.apiKey=", "nops.apiKey"},
		{"no ARN", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN=", "APP_NOPS_K8S_AGENT_CLUSTER_ARN"},
		{"not an ARN", "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN=demo", "expected arn:aws:eks"},
		{"no workspace", "containerInsights.ampID=", "containerInsights.ampID"},
		{"no region", "containerInsights.ampRegion=", "containerInsights.ampRegion"},
		{"no access key", "containerInsights.ampAccessKey=", "containerInsights.ampAccessKey"},
		{"no secret key", "containerInsights.ampSecretKey=", "containerInsights.ampSecretKey"},
		{"both sources of secrets", "customerManagedSecrets.enabled=true,externalSecrets.enabled=true", "both true"},
		{"reference without a name", "customerManagedSecrets.enabled=true", "customerManagedSecrets.apiSecretName"},
		{"reference without the AMP secret", "customerManagedSecrets.enabled=true,customerManagedSecrets.apiSecretName=s,customerManagedSecrets.apiSecretKey=k,customerManagedSecrets.ampAccessName=s,customerManagedSecrets.ampAccessKey=k", "customerManagedSecrets.ampSecretName"},
		{"external secrets without a store", "externalSecrets.enabled=true,externalSecrets.data.apiKeys.remoteRef.key=k", "externalSecrets.secretStoreRef.name"},
		{"external secrets without an entry", "externalSecrets.enabled=true,externalSecrets.secretStoreRef.name=s", "externalSecrets.data.apiKeys.remoteRef.key"},
		{"external secrets without the AMP keys", "externalSecrets.enabled=true,externalSecrets.secretStoreRef.name=s,externalSecrets.data.apiKeys.remoteRef.key=k,containerInsights.ampAccessKey=", "externalSecrets.data.ampKeys.remoteRef.key"},
		{"Datadog without a key", "datadog.enabled=true", "datadog.apiKey"},
		{"Datadog without a reference", "datadog.enabled=true,customerManagedSecrets.enabled=true,customerManagedSecrets.apiSecretName=s,customerManagedSecrets.apiSecretKey=k,customerManagedSecrets.ampAccessName=s,customerManagedSecrets.ampAccessKey=k,customerManagedSecrets.ampSecretName=s,customerManagedSecrets.ampSecretKey=k", "customerManagedSecrets.ddSecretName"},
		{"karpenops without the cluster's id", "karpenops.enabled=true", "karpenops.clusterId"},
		{"the server without a bucket", "containerInsights.centralized=false", "APP_AWS_S3_BUCKET"},
		{"a password in the proxy", "nops.global.proxy.url=http://me:canary@proxy.example.com:3128", "nops.global.proxy.url holds a user"},
		{"a variable that is none", "containerInsights.env_variables.APP-DEBUG=1", "APP-DEBUG"},
		{"the misspelling of something else", "autoUpater.schedule=@daily", "schedule"},
		{"a schedule that is none", "autoUpdater.schedule=midnight", "schedule"},
		{"no replicas", "dataFetcher.replicaCount=0", "replicaCount"},
		{"a typo", "containerInsights.enabeld=true", "enabeld"},
		{"a typo at the top", "hearbeat.enabled=true", "hearbeat"},
		{"a wrong type", "containerInsights.enabled=maybe", "containerInsights"},
		{"a digest that is none", "heartbeat.image.digest=latest", "digest"},
		{"a password in the address", "containerInsights.remoteWriteUrl=https://me:canary@store.example.com/write", "containerInsights.remoteWriteUrl holds a user"},
		{"a password in the platform's address", "nops.host=https://me:canary@nops.example.com", "nops.host is no address"},
		{"another scheme with a password", "nops.global.proxy.url=socks5://me:canary@proxy.example.com", "nops.global.proxy.url is no address"},
		{"a mirror with a scheme", "nops.global.imageRegistry=https://mirror.example.com", "nops.global.imageRegistry"},
		{"a variable of ours", "containerInsights.env_variables.NOPS_API_KEY=x", "containerInsights.env_variables.NOPS_API_KEY is set by the chart"},
		{"two conditions of one name", "containerRightsizing.admissionController.matchConditions[0].name=a,containerRightsizing.admissionController.matchConditions[0].expression=has(object.spec),containerRightsizing.admissionController.matchConditions[1].name=a,containerRightsizing.admissionController.matchConditions[1].expression=has(object.spec)", "two conditions of the name a"},
		{"a condition without an expression", "containerRightsizing.admissionController.matchConditions[0].name=a", "matchConditions/0"},
		{"a condition whose name is none", "containerRightsizing.admissionController.matchConditions[0].name=a b,containerRightsizing.admissionController.matchConditions[0].expression=has(object.spec)", "matchConditions/0/name"},
		{"a source without its store", "containerRightsizing.recommender.source=store", "containerRightsizing.recommender.store.url is missing"},
		{"hours of the past", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.history=12h", "containerRightsizing.recommender.store.history is 12h: expected hours between 24h and 1440h"},
		{"minutes of the past", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.history=1440m", "containerRightsizing.recommender.store.history is 1440m"},
		{"too much of the past", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.history=1441h", "containerRightsizing.recommender.store.history is 1441h"},
		{"credentials of no store", "containerRightsizing.recommender.store.secretName=s", "containerRightsizing.recommender.store.secretName is set but url is missing"},
		{"credentials and signatures", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.secretName=s,containerRightsizing.recommender.store.awsRegion=us-west-2", "secretName and awsRegion are both set"},
		{"a token of no Secret", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.tokenKey=token", "containerRightsizing.recommender.store.tokenKey is set but secretName is missing"},
		{"a user without a password", "containerRightsizing.recommender.store.url=https://x,containerRightsizing.recommender.store.secretName=s,containerRightsizing.recommender.store.passwordKey=", "usernameKey or passwordKey is empty"},
		{"a password in the store's address", "containerRightsizing.recommender.store.url=https://me:canary@store.example.com", "containerRightsizing.recommender.store.url holds a user"},
		{"a store's address without a scheme", "containerRightsizing.recommender.store.url=me:canary@store:9090", "containerRightsizing.recommender.store.url is no address"},
		{"a Secret that cannot be", "containerRightsizing.recommender.store.secretName=My_Secret", "secretName"},
		{"a password among the values", "containerRightsizing.recommender.store.password=canary", "password"},
		{"a queue larger than its volume", "victoriaMetrics.queueSize=10GiB", "victoriaMetrics.queueVolumeSize (2Gi) is too small for queueSize (10GiB)"},
		{"no tag", "heartbeat.image.tag=", "tag"},
		{"an interval without a unit", "victoriaMetrics.scrapeIntervals.cadvisor=30", "cadvisor"},
		{"an interval of a job that is not there", "victoriaMetrics.scrapeIntervals.etcd=30s", "etcd"},
		{"labels of what is not watched", "prometheus.kubeStateMetrics.metricLabels.secrets[0]=x", "prometheus.kubeStateMetrics.metricLabels names secrets"},
		{"annotations of what is not watched", "prometheus.kubeStateMetrics.metricAnnotations.configmaps[0]=x", "prometheus.kubeStateMetrics.metricAnnotations names configmaps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := renderAll(t, base(tt.set))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want a refusal that names %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("a credential in: %v", err)
			}
		})
	}
}

func TestNoStaticKeysWithARole(t *testing.T) {
	v := base("containerInsights.ampAccessKey=", "containerInsights.ampSecretKey=", `containerInsights.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::123456789012:role/amp`)
	manifests, _, err := render(t, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range manifests {
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("AWS_ACCESS_KEY_ID")) {
			t.Errorf("%s: an empty static key would shadow the role", name(o))
		}
	}
}

// TestGlobals: which workloads the global settings reach, and who wins.
func TestGlobals(t *testing.T) {
	v := base("nops.global.nodeSelector.pool=agents", "nops.global.labels.team=finops", "nops.global.annotations.owner=platform", "heartbeat.podAnnotations.owner=sre", "nops.global.tolerations[0].operator=Exists", "nops.global.tolerations[0].key=x", "heartbeat.tolerations[0].operator=Exists", "heartbeat.tolerations[0].key=x")
	manifests, _, err := renderAll(t, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range manifests {
		if text(o, "metadata", "labels", "team") != "finops" {
			t.Errorf("%s: the global label is missing", name(o))
		}
		if !workload(o) {
			continue
		}
		if spared := text(template(o), "spec", "nodeSelector", "pool") != "agents"; spared != slices.Contains(everyNode, name(o)) {
			t.Errorf("%s: spared by the global nodeSelector: %v", name(o), spared)
		}
		if !slices.ContainsFunc(list(template(o), "spec", "tolerations"), func(x any) bool { return text(x, "key") == "x" }) {
			t.Errorf("%s: the global toleration is missing", name(o))
		}
		want := "platform"
		if name(o) == "Deployment/nops-heartbeat" {
			want = "sre"
			if n := len(list(template(o), "spec", "tolerations")); n != 1 {
				t.Errorf("the same toleration %d times", n)
			}
		}
		if got := text(template(o), "metadata", "annotations", "owner"); got != want {
			t.Errorf("%s: pod annotation owner=%s, want %s", name(o), got, want)
		}
	}
}

func TestMirror(t *testing.T) {
	manifests, _, err := renderAll(t, base("nops.global.imageRegistry=registry.example.com/ecr", "nops.global.imagePullSecrets[0]=pull"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range manifests {
		if workload(o) {
			c := list(template(o), "spec", "containers")[0]
			if !strings.HasPrefix(text(c, "image"), "registry.example.com/ecr/nops/") || len(list(template(o), "spec", "imagePullSecrets")) != 1 {
				t.Errorf("%s: image %s", name(o), text(c, "image"))
			}
		}
	}
}
