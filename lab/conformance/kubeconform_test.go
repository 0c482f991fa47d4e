package conformance

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/yannh/kubeconform/pkg/resource"
	"github.com/yannh/kubeconform/pkg/validator"
)

// derivationSource is part of what schemas follow from.
//
//go:embed schemas.go
var derivationSource []byte

const module = "k8s.io/kubernetes"

// release is one line of testdata/kubernetes.sum.
type release struct {
	version string
	sum     string
	minor   int
}

func releases(t *testing.T) []release {
	t.Helper()
	data, err := os.ReadFile("testdata/kubernetes.sum")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^` + regexp.QuoteMeta(module) + ` (v1\.([0-9]+)\.[0-9]+) (h1:[A-Za-z0-9+/]{43}=)$`)
	var all []release
	for i, text := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(text, "#") {
			continue
		}
		m := line.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("testdata/kubernetes.sum:%d: %q is not of the form %s v1.N.P h1:…", i+1, text, module)
		}
		minor, _ := strconv.Atoi(m[2])
		all = append(all, release{m[1], m[3], minor})
	}
	return all
}

// TestReleases: nine minors, none left out.
func TestReleases(t *testing.T) {
	var minors []int
	for _, r := range releases(t) {
		minors = append(minors, r.minor)
	}
	if want := []int{28, 29, 30, 31, 32, 33, 34, 35, 36}; !slices.Equal(minors, want) {
		t.Errorf("minors %v, want %v", minors, want)
	}
}

// schemas is the directory of a release's schemas, made the first time and kept in the user's cache.
func (r release) schemas(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(slices.Concat([]byte(r.sum), derivationSource))
	dir := filepath.Join(cache, "nopsctl", "schemas", r.version+"-"+hex.EncodeToString(sum[:])[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	began := time.Now()
	all, err := Schemas(r.document(t))
	if err != nil {
		t.Fatalf("%s %s: %v", module, r.version, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), ".partial-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(partial) })
	for name, data := range all {
		if err := os.WriteFile(filepath.Join(partial, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(partial, dir); err != nil {
		if _, there := os.Stat(dir); there != nil { // another run was quicker
			t.Fatal(err)
		}
	}
	t.Logf("%s %s: downloaded, %d schemas derived in %s, kept in %s", module, r.version, len(all), time.Since(began).Round(time.Second), dir)
	return dir
}

// document downloads the module and reads the OpenAPI document in it. The go command holds it against the checksum database, we hold
// it against our own line. The module, 100 MB once it is unpacked, is not kept.
func (r release) document(t *testing.T) []byte {
	t.Helper()
	work := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module+"@"+r.version)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "GOMODCACHE="+filepath.Join(work, "modules"), "GOFLAGS=-modcacherw", "GOWORK=off")
	out, err := cmd.Output()
	var got struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &got); err != nil || jsonErr != nil || got.Error != "" {
		t.Fatalf("download %s@%s, whose OpenAPI document holds the schemas (once, from the Go module proxy): %v %v %s", module, r.version, err, jsonErr, got.Error)
	}
	if got.Sum != r.sum {
		t.Fatalf("%s@%s has the sum %s, testdata/kubernetes.sum says %s", module, r.version, got.Sum, r.sum)
	}
	data, err := os.ReadFile(filepath.Join(got.Dir, "api", "openapi-spec", "swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// kubeconform is the library behind the program of that name, in strict mode.
func (r release) kubeconform(t *testing.T) validator.Validator {
	t.Helper()
	v, err := validator.New([]string{
		filepath.Join(r.schemas(t), "{{.ResourceKind}}{{.KindSuffix}}.json"),
		"testdata/foreign/{{.ResourceKind}}-{{.Group}}.json",
	}, validator.Opts{Strict: true, KubernetesVersion: strings.TrimPrefix(r.version, "v")})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// schemaName is what the reader of a judgement can do without.
var schemaName = regexp.MustCompile(`Check JSON formatting: jsonschema validation failed with '[^']*'`)

// judge is "", or what is wrong with a document.
func judge(v validator.Validator, path string, text []byte) string {
	result := v.ValidateResource(resource.Resource{Path: path, Bytes: text})
	if result.Status == validator.Valid {
		return ""
	}
	if result.Err == nil {
		return fmt.Sprintf("not judged (status %d)", result.Status)
	}
	if strings.HasPrefix(result.Err.Error(), "could not find schema") {
		return result.Err.Error() + ": this Kubernetes serves no stable version of it (of a foreign kind, testdata/foreign needs a schema)"
	}
	return schemaName.ReplaceAllString(result.Err.Error(), "")
}

// younger says whether the chart leaves an object of this kind out for a Kubernetes that old. The golden renders are of one version; the chart's own
// tests (TestPolicyByVersion) show that it does.
func younger(id, version string) bool {
	kind, _, _ := strings.Cut(id, "/")
	return strings.HasPrefix(kind, "ValidatingAdmissionPolicy") && (strings.HasPrefix(version, "v1.28.") || strings.HasPrefix(version, "v1.29."))
}

// TestKubeconform holds every object of every render against every minor release.
func TestKubeconform(t *testing.T) {
	all := renders(t)
	objects := 0
	for _, r := range all {
		objects += len(r.objects)
	}
	if objects < 900 {
		t.Fatalf("only %d objects in %d renders", objects, len(all))
	}
	where := map[string][]string{} // by what is wrong, as the same mistake is in many renders
	judged, left := map[string]int{}, 0
	for _, r := range releases(t) {
		v := r.kubeconform(t)
		known := map[string]string{} // what was said of the same text in another render
		for _, render := range all {
			for _, o := range render.objects {
				judged[r.version]++
				wrong, ok := known[string(o.Text)]
				if !ok {
					wrong = judge(v, render.path, o.Text)
					known[string(o.Text)] = wrong
				}
				if wrong != "" && younger(o.ID(), r.version) {
					if !strings.Contains(wrong, "serves no stable version") {
						t.Errorf("%s: %s is taken for younger than that, and is served: %s", r.version, o.ID(), wrong)
					}
					left++
					continue
				}
				if wrong != "" {
					where[o.ID()+": "+wrong] = append(where[o.ID()+": "+wrong], r.version+" "+render.name)
				}
			}
		}
	}
	for _, wrong := range slices.Sorted(maps.Keys(where)) {
		t.Errorf("%s\n\tin %s", wrong, strings.Join(where[wrong], ", "))
	}
	for _, version := range slices.Sorted(maps.Keys(judged)) {
		if judged[version] != objects {
			t.Errorf("%s: %d objects judged, want all %d", version, judged[version], objects)
		}
	}
	if len(judged) != 9 {
		t.Errorf("%d versions, want 9", len(judged))
	}
	if left == 0 {
		t.Error("nothing is younger than the oldest Kubernetes any more: the exception can go")
	}
	t.Logf("%d objects of %d renders against each of %v", objects, len(all), slices.Sorted(maps.Keys(judged)))
}

// TestForeignSchemasAreUsed: each is there for an object of some render.
func TestForeignSchemasAreUsed(t *testing.T) {
	paths, err := filepath.Glob("testdata/foreign/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d foreign schemas, %v", len(paths), err)
	}
	used := map[string]int{}
	for _, r := range renders(t) {
		for _, o := range r.objects {
			group, _, _ := strings.Cut(o.APIVersion, "/")
			used[filepath.Join("testdata", "foreign", strings.ToLower(o.Kind)+"-"+group+".json")]++
		}
	}
	for _, path := range paths {
		if used[path] == 0 {
			t.Errorf("%s: no render has such an object", path)
		}
		t.Logf("%s: %d objects", path, used[path])
	}
}

// TestKubeconformCanFail: the schemas refuse what they must, take what they must, and differ from minor to minor.
func TestKubeconformCanFail(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: " + spec + "}}\n"
	}
	container := func(rest string) string { return pod("{containers: [{name: a, image: b, " + rest + "}]}") }
	crd := func(schema string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: as.b.c}\nspec: {group: b.c, scope: Namespaced, names: {plural: as, kind: A}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: " + schema + "}}]}\n"
	}
	foreign := func(spec string) string {
		return "apiVersion: external-secrets.io/v1\nkind: ClusterExternalSecret\nmetadata: {name: a}\nspec: " + spec + "\n"
	}
	all := releases(t)
	judges := map[string]validator.Validator{}
	for _, r := range all {
		judges[r.version] = r.kubeconform(t)
	}
	const never = 99
	for _, tt := range []struct {
		name, reason string
		document     string
		since        int    // the first minor that takes it; 0: all do
		wrong        string // what those that refuse it say
	}{
		{"a deployment", "", container("args: [x]"), 0, ""},
		{"an unknown field", "strict", container("argz: [x]"), never, "'argz' not allowed"},
		{"a misplaced field", "at every depth", container("securityContext: {fsGroup: 1}"), never, "'fsGroup' not allowed"},
		{"a number for a string", "", container("args: [1]"), never, "want string"},
		{"a string for a number", "", container("ports: [{containerPort: http}]"), never, "want integer"},
		{"a map for a list", "", container("args: {x: y}"), never, "want null or array"},
		{"a required field missing", "", pod("{containers: [{image: b}]}"), never, "missing property 'name'"},
		{"a required field null", "what a template with an empty value renders", pod("{containers: null}"), never, "got null, want array"},
		{"an optional field null", "the API server drops it", container("args: null"), 0, ""},
		{"an optional object null", "", container("resources: null"), 0, ""},
		{"an item null", "", container("args: [null]"), never, "got null, want string"},
		{"a label null", "", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {b: null}}\n", never, "got null, want string"},
		{"a port by number or name", "int-or-string", container("livenessProbe: {tcpSocket: {port: 80}}, readinessProbe: {tcpSocket: {port: http}}"), 0, ""},
		{"a port by truth", "", container("livenessProbe: {tcpSocket: {port: true}}"), never, "got boolean, want integer or string"},
		{"a quantity as a number", "the API server reads it", container("resources: {limits: {cpu: 1, memory: 0.5}}"), 0, ""},
		{"a quantity as a list", "", container("resources: {limits: {cpu: [1]}}"), never, "got array, want number or string"},
		{"a key twice", "YAML lets the last one win", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b, a: c}\n", never, "already set"},
		{"no metadata", "", "apiVersion: v1\nkind: ConfigMap\n", never, "missing property 'metadata'"},
		{"a kind of another group with the same first word", "schemas are found by the first word", "apiVersion: apps.example.com/v1\nkind: Deployment\nmetadata: {name: a}\n", never, "apiVersion"},
		{"a removed version", "gone in 1.25", "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: a}\n", never, "could not find schema"},
		{"a beta version", "served by nobody's EKS", "apiVersion: networking.k8s.io/v1beta1\nkind: ServiceCIDR\nmetadata: {name: a}\n", never, "could not find schema"},
		{"a foreign kind without a schema", "", "apiVersion: example.com/v1\nkind: A\nmetadata: {name: a}\n", never, "could not find schema"},
		{"a field of a later minor", "1.28 does not know it, and a server that does not know a field drops it", container("lifecycle: {preStop: {sleep: {seconds: 1}}}"), 29, "'sleep' not allowed"},
		{"a kind of a later minor", "", "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: a}\nspec: {}\n", 30, "could not find schema"},
		{"a definition of a kind", "", crd("{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {spec: {type: object, properties: {a: {type: array, items: {type: string}}}}}}"), 0, ""},
		{"a misspelling deep in it", "the language contains itself", crd("{type: object, properties: {spec: {type: object, properties: {a: {type: object, propertys: {}}}}}}"), never, "'propertys' not allowed"},
		{"a misspelling in the items of a list", "the OpenAPI document leaves this place open", crd("{type: object, properties: {a: {type: array, items: {typ: string}}}}"), never, "'typ' not allowed"},
		{"a misspelling in the values of a map", "likewise", crd("{type: object, properties: {a: {type: object, additionalProperties: {typ: string}}}}"), never, "'typ' not allowed"},
		{"any values in a map", "", crd("{type: object, additionalProperties: true}"), 0, ""},
		{"a default of any form", "", crd("{type: object, default: {a: [1, {b: c}]}}"), 0, ""},
		{"an external secret", "", foreign("{externalSecretName: a, refreshTime: 1m, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nops}}, externalSecretSpec: {refreshInterval: 1h, secretStoreRef: {name: s, kind: ClusterSecretStore}, target: {name: a, creationPolicy: Owner}, dataFrom: [{extract: {key: k}}]}}"), 0, ""},
		{"an external secret from nowhere", "", foreign("{externalSecretSpec: {dataFrom: [{extract: {key: k}}]}}"), never, "missing property 'secretStoreRef'"},
		{"an external secret with a misspelling", "", foreign("{externalSecretSpec: {secretStoreRef: {name: s}, datafrom: []}}"), never, "'datafrom' not allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range all {
				wrong := judge(judges[r.version], "", []byte(tt.document))
				if r.minor >= tt.since && wrong != "" {
					t.Errorf("%s: %s (%s)", r.version, wrong, tt.reason)
				}
				if r.minor < tt.since && !strings.Contains(wrong, tt.wrong) {
					t.Errorf("%s: %q, want %q (%s)", r.version, wrong, tt.wrong, tt.reason)
				}
			}
		})
	}
}
