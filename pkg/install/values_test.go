package install

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

type m = map[string]any

func TestMerge(t *testing.T) {
	for _, tt := range []struct {
		name, reason     string
		base, over, want m
	}{
		{"maps merge", "what is not mentioned stays", m{"a": m{"x": 1, "y": 2}}, m{"a": m{"y": 3}}, m{"a": m{"x": int64(1), "y": int64(3)}}},
		{"lists replace", "as helm", m{"a": []any{1, 2}}, m{"a": []any{3}}, m{"a": []any{int64(3)}}},
		{"null stays", "Helm removes a default for it", m{"a": m{"x": 1}}, m{"a": nil}, m{"a": nil}},
		{"a map replaces a scalar", "the newer one wins", m{"a": 1}, m{"a": m{"x": 1}}, m{"a": m{"x": int64(1)}}},
		{"numbers are one type", "from --set, from YAML, from a release's record", m{"a": float64(8429), "b": json.Number("7")}, m{"c": 1.5}, m{"a": int64(8429), "b": int64(7), "c": 1.5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := canonical(tt.base)
			if diff := cmp.Diff(tt.want, merge(tt.base, tt.over)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			if string(base) != string(canonical(tt.base)) {
				t.Error("merge changed its input")
			}
		})
	}
}

func values() *rapid.Generator[m] {
	return rapid.Custom(func(t *rapid.T) m { return drawMap(t, 3) })
}

func drawMap(t *rapid.T, depth int) m {
	out := m{}
	for _, k := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 3).Draw(t, "keys") {
		if depth > 0 && rapid.Bool().Draw(t, "deeper") {
			out[k] = drawMap(t, depth-1)
			continue
		}
		out[k] = rapid.SampledFrom([]any{nil, "s", true, 1, 2.5, float64(3), []any{1}}).Draw(t, "leaf")
	}
	return out
}

func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := values().Draw(t, "a"), values().Draw(t, "b")
		both := merge(a, b)
		if !equalValues(merge(both, b), both) {
			t.Fatalf("laying the same values on top again changes something: %v", both)
		}
		if !equalValues(merge(a, nil), a) || !equalValues(merge(nil, b), b) {
			t.Fatal("nothing is not nothing")
		}
		var stored m
		if err := json.Unmarshal(canonical(both), &stored); err != nil || string(canonical(merge(stored, nil))) != string(canonical(both)) {
			t.Fatalf("a release's record gives other values: %v %s", err, canonical(both))
		}
		if len(valueChanges(both, both)) != 0 {
			t.Fatal("equal values differ")
		}
	})
}

func FuzzUnknownValues(f *testing.F) {
	f.Add(`{"autoUpater":{"enabled":false}}`)
	f.Add(`{"nops":{"apiKey":{"x":[1,null]}},"":{"":{}}}`)
	k, err := knownValues(testChart(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var v m
		if json.Unmarshal([]byte(text), &v) != nil {
			t.Skip()
		}
		for _, u := range k.unknown(v) {
			if u.Suggestion == u.Path && u.Path != "" {
				t.Errorf("suggests what was given: %+v", u)
			}
		}
		takeCredentials(merge(v, nil))
		k.deprecated(v)
	})
}

func testChart(t testing.TB) *chart.Chart {
	t.Helper()
	return &chart.Chart{Metadata: &chart.Metadata{Name: "c", Version: "1"},
		Values: m{"nops": m{"apiKey": "", "global": m{"labels": m{}}}, "autoUpdater": m{"enabled": true}, "datadog": m{"apiKey": "", "enabled": false}, "open": m{}},
		Schema: []byte(`{"properties": {
			"only": {"type": "object", "properties": {"inSchema": {}}, "patternProperties": {"^x-": {}}},
			"strict": {"type": "object", "additionalProperties": false},
			"autoUpatar": {"type": "object", "deprecated": true, "additionalProperties": false, "properties": {"enabled": {}}},
			"recursive": {"$ref": "#/$defs/r"},
			"mixed": {"allOf": [{"properties": {"one": {}}}, {"$ref": "#/$defs/two"}]}},
			"$defs": {"r": {"type": "object", "properties": {"again": {"$ref": "#/$defs/r"}}}, "two": {"properties": {"two": {}}}}}`)}
}

func TestUnknown(t *testing.T) {
	k, err := knownValues(testChart(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, reason string
		given        m
		want         []UnknownValue
	}{
		{"known", "all of it", m{"nops": m{"apiKey": "k", "global": m{"labels": m{"team": "x"}}}, "open": m{"any": 1}, "global": m{"x": 1}}, nil},
		{"misspelt", "the vendor's own typo", m{"autoUpater": m{"enabled": false}}, []UnknownValue{{"autoUpater.enabled", "autoUpdater.enabled"}}},
		{"swapped letters", "one mistake, not two", m{"datdaog": m{"enabled": false}}, []UnknownValue{{"datdaog.enabled", "datadog.enabled"}}},
		{"wrong case", "YAML is case sensitive", m{"nops": m{"apikey": "k"}}, []UnknownValue{{"nops.apikey", "nops.apiKey"}}},
		{"wrong depth", "given at the top; the shorter of two", m{"apiKey": "k"}, []UnknownValue{{"apiKey", "nops.apiKey"}}},
		{"far off", "no suggestion is better than a wrong one", m{"zzzzzzzz": 1}, []UnknownValue{{"zzzzzzzz", ""}}},
		{"nearly the misspelling", "one that is deprecated is not what was meant", m{"autoUpatr": m{"enabled": false}}, []UnknownValue{{"autoUpatr.enabled", "autoUpdater.enabled"}}},
		{"schema only", "known by the schema alone", m{"only": m{"inSchema": 1, "x-y": 2, "inSchemer": 3}}, []UnknownValue{{"only.inSchemer", "only.inSchema"}}},
		{"closed", "nothing is allowed there", m{"strict": m{"a": 1}}, []UnknownValue{{"strict.a", ""}}},
		{"recursive", "a schema that refers to itself ends", m{"recursive": m{"again": m{"again": m{"agian": 1}}}}, []UnknownValue{{"recursive.again.again.agian", "recursive.again.again.again"}}},
		{"allOf", "parts add up", m{"mixed": m{"one": 1, "two": 2, "tow": 3}}, []UnknownValue{{"mixed.tow", "mixed.two"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, k.unknown(tt.given)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

// TestValuesOfTheChart holds the reading of schemas against the chart we ship: all that its own cases give is known, and
// what is nearly right gets the right suggestion.
func TestValuesOfTheChart(t *testing.T) {
	c, err := loader.LoadDir("../../embedded-chart/chart")
	if err != nil {
		t.Fatal(err)
	}
	k, err := knownValues(c)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob("../../embedded-chart/testdata/cases/*.yaml")
	if err != nil || len(cases) < 30 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, name := range cases {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var v m
		if err := yaml.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		if unknown := k.unknown(v); len(unknown) > 0 {
			t.Errorf("%s: %v", name, unknown)
		}
	}
	for _, tt := range []struct{ given, want string }{
		{"containerInsight.enabled", "containerInsights.enabled"}, {"dcgmExporter.enable", "dcgmExporter.enabled"}, {"autoUpatter.enabled", "autoUpdater.enabled"},
		{"autoUpater.enabeld", "autoUpdater.enabled"}, {"nops.global.toleration", "nops.global.tolerations"}, {"nops.apikey", "nops.apiKey"}, {"datadog.api_key", "datadog.apiKey"},
		{"karpenops.clusterID", "karpenops.clusterId"}, {"prometheus.nodeExporter.image.tags", "prometheus.nodeExporter.image.tag"}, {"customerManagedSecret.enabled", "customerManagedSecrets.enabled"},
		{"containerInsights.centralised", "containerInsights.centralized"}, {"externalSecrets.secretStoreRef.nam", "externalSecrets.secretStoreRef.name"}, {"ampID", "containerInsights.ampID"},
		{"containerInsights.podidentity.enabled", "containerInsights.podIdentity.enabled"}, {"containerRightsizing.recomender.resources", "containerRightsizing.recommender.resources"},
	} {
		v := m{}
		set(v, tt.given, true)
		if diff := cmp.Diff([]UnknownValue{{tt.given, tt.want}}, k.unknown(v)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for _, open := range []string{"nops.global.labels.team", "nops.global.nodeSelector.pool", "containerInsights.env_variables.APP_ANYTHING", "containerInsights.serviceAccount.annotations.team", "nops.global.affinity.nodeAffinity.x",
		"heartbeat.resources.limits.cpu", "victoriaMetrics.image.pullPolicy", "opencost.opencost.exporter.image.registry", "prometheus.kubeStateMetrics.metricLabels.pods"} {
		v := m{}
		set(v, open, "x")
		if unknown := k.unknown(v); len(unknown) > 0 {
			t.Errorf("%s is known: %v", open, unknown)
		}
	}
	deprecated := map[string]string{}
	for path, says := range k.deprecated(m{"autoUpater": m{"enabled": false}, "autoUpdater": m{"enabled": false, "repository": "r", "imageTag": "1"}, "karpenops": m{"apiKey": "k", "enabled": true}}) {
		deprecated[path] = says
		if says == "" {
			t.Errorf("%s: what to do instead is not said", path)
		}
	}
	if diff := cmp.Diff([]string{"autoUpater", "autoUpdater.imageTag", "autoUpdater.repository", "karpenops.apiKey"}, sortedKeys(deprecated)); diff != "" {
		t.Errorf("deprecated (-want +got):\n%s", diff)
	}
}

func TestCredentialsLeaveTheValues(t *testing.T) {
	v := m{"nops": m{"apiKey": "secret-1"}, "containerInsights": m{"ampAccessKey": "secret-2", "ampSecretKey": "", "ampID": "ws"}, "datadog": m{"apiKey": 12345}, "karpenops": m{"apiKey": "secret-0", "clusterId": "c"}}
	if !holdsCredentials(v) {
		t.Error("they are there")
	}
	got := takeCredentials(v)
	if diff := cmp.Diff(secretData{KeyAPI: []byte("secret-1"), KeyAMPAccess: []byte("secret-2"), KeyDatadog: []byte("12345")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(m{"containerInsights": m{"ampID": "ws", "ampSecretKey": ""}, "karpenops": m{"clusterId": "c"}}, v); diff != "" || holdsCredentials(v) {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	if old := takeCredentials(m{"karpenops": m{"apiKey": "secret-0"}, "nops": m{"apiKey": ""}}); string(old[KeyAPI]) != "secret-0" {
		t.Error("where the API key was until 2024 counts while it stands nowhere else")
	}
	b, err := json.Marshal(struct{ D secretData }{got})
	for _, text := range []string{fmt.Sprint(got), fmt.Sprintf("%v %+v %#v %s", got, got, got, got), string(b)} {
		if strings.Contains(text, "secret-") || err != nil {
			t.Errorf("printed: %s", text)
		}
	}
	changes := fmt.Sprint(valueChanges(m{"nops": m{"apiKey": "secret-1"}, "x": m{"password": "secret-3"}}, m{"customerManagedSecrets": m{"apiSecretKey": "API_KEY"}, "x": m{"password": "secret-4"}}))
	if strings.Contains(changes, "secret-") || !strings.Contains(changes, "API_KEY") {
		t.Errorf("changes: %s", changes)
	}
	store := m{"secretName": "reader", "usernameKey": "USER", "passwordKey": "PASS", "tokenKey": "TOKEN", "password": "secret-5"}
	changes = fmt.Sprint(valueChanges(nil, m{"containerRightsizing": m{"recommender": m{"store": store}}}))
	if strings.Contains(changes, "secret-") || !strings.Contains(changes, "PASS") {
		t.Errorf("changes: %s", changes)
	}
}

// TestRole: the chart's own rule, so that a role is believed exactly when the chart believes it.
func TestRole(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/vmagent"
	account := func(in string, v any) m {
		return m{in: m{"serviceAccount": m{"annotations": m{"eks.amazonaws.com/role-arn": v}}}}
	}
	for _, tt := range []struct {
		name, reason string
		values       m
		want         bool
	}{
		{"none", "keys are needed", m{"containerInsights": m{"enabled": true}}, false},
		{"annotation", "IRSA", account("containerInsights", role), true},
		{"annotation of vmagent", "the same account", account("victoriaMetrics", role), true},
		{"taken away", "vmagent's annotations win", merge(account("containerInsights", role), account("victoriaMetrics", "")), false},
		{"pod identity", "an association outside of the cluster", m{"containerInsights": m{"podIdentity": m{"enabled": true}}}, true},
		{"no pod identity", "the default, written out", m{"containerInsights": m{"podIdentity": m{"enabled": false}}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hasRole(tt.values); got != tt.want {
				t.Errorf("%s: %v", tt.reason, got)
			}
			store := merge(tt.values, m{"externalSecrets": m{"enabled": true}})
			if readsAMPFromValues(tt.values) || readsAMPFromValues(store) == tt.want {
				t.Errorf("with External Secrets the keys are read from the values unless there is a role")
			}
			set(store, "externalSecrets.data.ampKeys.remoteRef.key", "nops/amp")
			if readsAMPFromValues(store) {
				t.Error("or an entry of the store that holds them")
			}
			data := secretData{KeyAPI: []byte("a"), KeyAMPAccess: []byte("b"), KeyAMPSecret: []byte("c")}
			values := merge(tt.values, m{"customerManagedSecrets": m{"ampAccessName": CredentialsSecret, "ampAccessKey": KeyAMPAccess}})
			refer(values, data)
			if _, refers := lookup(values, "customerManagedSecrets.ampAccessName"); refers == tt.want || lookupString(values, "customerManagedSecrets.apiSecretKey") != KeyAPI {
				t.Errorf("references: %v", values["customerManagedSecrets"])
			}
		})
	}
}

func TestRevisionOfCredentials(t *testing.T) {
	a := secretData{"A": []byte("1"), "B": []byte("2")}
	if revisionOf(a, "u") != revisionOf(secretData{"B": []byte("2"), "A": []byte("1")}, "u") {
		t.Error("equal data, equal revision")
	}
	for name, other := range map[string]string{
		"another value":   revisionOf(secretData{"A": []byte("1"), "B": []byte("3")}, "u"),
		"shifted borders": revisionOf(secretData{"A": []byte("1B2")}, "u"),
		"another cluster": revisionOf(a, "v"),
	} {
		if other == revisionOf(a, "u") {
			t.Errorf("%s gives the same revision", name)
		}
	}
}

func TestOwners(t *testing.T) {
	terraform := &unstructured.Unstructured{}
	terraform.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "helm"}, {Manager: "terraform-provider-helm_v2.17.0_x5"}})
	if !terraformed(terraform) || terraformed(&unstructured.Unstructured{}) {
		t.Error("Terraform's Helm provider is known by its field manager")
	}
	o := &unstructured.Unstructured{}
	o.SetOwnerReferences([]metav1.OwnerReference{{Kind: "NopsAgent", Name: "x"}})
	if whose, owner := ownerOf(o, "r", "n"); whose != foreign || owner.String() != "NopsAgent (x)" {
		t.Errorf("an operator's: %v %s", whose, owner)
	}
	for _, tool := range []string{ToolArgoCD, ToolFlux, ToolTerraform, ToolHelm, "other"} {
		if e := (&ManagedElsewhereError{Object: "release r", Owner: Owner{Tool: tool, Name: "n"}}); e.Hint() == "" || !strings.Contains(e.Error(), tool) {
			t.Errorf("%s: %s (%s)", tool, e, e.Hint())
		}
	}
}

func TestVersionsOfProviders(t *testing.T) {
	for v, want := range map[string]string{"v1.33.1-eks-595af52": "v1.33.1", "v1.31.4+k3s1": "v1.31.4", "v1.30.0": "v1.30.0", "v1.32.0-gke.1+x": "v1.32.0"} {
		if got := plainVersion(v); got != want {
			t.Errorf("plainVersion(%q) = %q, want %q", v, got, want)
		}
	}
}

func TestImageBase(t *testing.T) {
	for ref, want := range map[string]string{
		"public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0": "k8s-heartbeat-agent", "localhost:5000/x/vpa": "vpa", "r/x@sha256:aa": "x", "r/x:1@sha256:aa": "x",
	} {
		if got := base(ref); got != want {
			t.Errorf("base(%q) = %q, want %q", ref, got, want)
		}
	}
}

func TestAvailability(t *testing.T) {
	has, err := available(&chart.Chart{Files: []*chart.File{{Name: "files/images.yaml", Data: []byte("components:\n  vmagent: {available: true, toggle: containerInsights}\n  vpa: {available: false, toggle: containerRightsizing}\n  data-fetcher: {available: false}\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"containerInsights": true, "containerRightsizing": false, "dataFetcher": false, "heartbeat": true} {
		c, ok := component(name)
		if !ok || has(c) != want {
			t.Errorf("%s: available %v, want %v", name, has(c), want)
		}
	}
	if _, err := available(&chart.Chart{Metadata: &chart.Metadata{Name: "x"}, Files: []*chart.File{{Name: "files/images.yaml", Data: []byte("\t")}}}); err == nil {
		t.Error("a broken list is an error")
	}
}

// TestSwitches: what a component is set to, as the chart decides it.
func TestSwitches(t *testing.T) {
	c := &chart.Chart{Metadata: &chart.Metadata{Name: "c", Version: "1"}, Values: m{
		"containerInsights": m{"enabled": true}, "dcgmExporter": m{"enabled": true}, "autoUpdater": m{"enabled": nil, "schedule": "0 0 * * *"}, "karpenops": m{"enabled": false}, "heartbeat": m{"enabled": true},
	}}
	updater := func(right, wrong any) m {
		v := m{}
		if right != "" {
			set(v, "autoUpdater.enabled", right)
		}
		if wrong != "" {
			set(v, "autoUpater.enabled", wrong)
		}
		return v
	}
	for _, tt := range []struct {
		name, component, reason string
		config                  m
		want                    switched
	}{
		{"nothing given", "autoUpdater", "on unless somebody says otherwise", nil, switched{enabled: true}},
		{"null", "autoUpdater", "says nothing", updater(nil, ""), switched{enabled: true}},
		{"misspelt off", "autoUpdater", "the published commands", updater("", false), switched{explicit: true}},
		{"misspelt on", "autoUpdater", "is honoured too", updater("", true), switched{enabled: true, explicit: true}},
		{"null and misspelt", "autoUpdater", "null is not given", updater(nil, false), switched{explicit: true}},
		{"right on, misspelt off", "autoUpdater", "the right spelling wins", updater(true, false), switched{enabled: true, explicit: true}},
		{"right off, misspelt on", "autoUpdater", "the right spelling wins", updater(false, true), switched{explicit: true}},
		{"chart without it", "heartbeat", "charts before the toggle always had it", nil, switched{enabled: true}},
		{"by default", "karpenops", "off", nil, switched{}},
		{"GPUs", "dcgmExporter", "with container insights", nil, switched{enabled: true}},
		{"GPUs alone", "dcgmExporter", "its samples have nowhere to go", m{"containerInsights": m{"enabled": false}}, switched{enabled: true, without: "containerInsights"}},
		{"no GPUs", "dcgmExporter", "its own switch says more", m{"containerInsights": m{"enabled": false}, "dcgmExporter": m{"enabled": false}}, switched{explicit: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			on, err := switches(c, tt.config)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.available = true
			if on[tt.component] != tt.want {
				t.Errorf("%s: %+v, want %+v", tt.reason, on[tt.component], tt.want)
			}
		})
	}
	on, err := switches(c, m{"containerInsights": m{"enabled": false}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range componentStatuses(on, nil, false) {
		if s.Name == "dcgmExporter" && (s.State != ComponentDisabled || s.Message != "disabled with containerInsights") {
			t.Errorf("%+v", s)
		}
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("without a cluster")
	}
	for name, files := range map[string]fstest.MapFS{
		"empty":  {},
		"broken": {"Chart.yaml": {Data: []byte("name: [")}},
	} {
		if _, err := New(Options{Getter: tuned{}, Chart: files}); err == nil {
			t.Errorf("%s chart", name)
		}
	}
}

func TestChecksAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Checks() {
		if seen[d.ID] || d.Title == "" || d.What == "" || d.Fix == "" || !strings.HasPrefix(d.ID, "NOPS-PRE-") {
			t.Errorf("%+v", d)
		}
		seen[d.ID] = true
	}
}
