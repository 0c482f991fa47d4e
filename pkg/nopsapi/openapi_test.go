package nopsapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

type schema struct {
	Enum       []string          `json:"enum"`
	Known      []string          `json:"x-known-values"` // of a text that may be another one
	MaxLength  int               `json:"maxLength"`
	MaxItems   int               `json:"maxItems"`
	Minimum    int               `json:"minimum"`
	Maximum    int               `json:"maximum"`
	Pattern    string            `json:"pattern"`
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Format     string            `json:"format"`
	Required   []string          `json:"required"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
	Additional *schema           `json:"additionalProperties"`
}

type media struct {
	Schema  schema          `json:"schema"`
	Example json.RawMessage `json:"example"`
}

type body struct {
	Content map[string]media `json:"content"`
}

type operation struct {
	OperationID   string          `json:"operationId"`
	MaxCompressed int             `json:"x-max-compressed-bytes"`
	MaxBytes      int             `json:"x-max-bytes"`
	RequestBody   *body           `json:"requestBody"`
	Responses     map[string]body `json:"responses"`
}

type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Version     string `json:"version"`
		Description string `json:"description"`
	} `json:"info"`
	Servers []struct {
		URL string `json:"url"`
	} `json:"servers"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas    map[string]schema `json:"schemas"`
		Parameters map[string]struct {
			Name   string `json:"name"`
			Schema schema `json:"schema"`
		} `json:"parameters"`
		SecuritySchemes map[string]struct {
			Name string `json:"name"`
		} `json:"securitySchemes"`
	} `json:"components"`
}

func read(t *testing.T) document {
	t.Helper()
	var d document
	if err := yaml.Unmarshal(mustRead(t, "openapi.yaml"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// messages are the types of the wire, by the name of their schema.
func messages() map[string]any {
	return map[string]any{
		"AMPConfig": nopsapi.AMPConfig{}, "APIKey": nopsapi.APIKey{}, "APIKeyCreated": nopsapi.APIKeyCreated{}, "APIKeyList": nopsapi.APIKeyList{}, "AgentInfo": nopsapi.AgentInfo{}, "AgentKey": nopsapi.AgentKey{},
		"Cluster": nopsapi.Cluster{}, "ClusterList": nopsapi.ClusterList{}, "ComponentStatus": nopsapi.ComponentStatus{}, "ConnectivityTest": nopsapi.ConnectivityTest{}, "ConnectivityView": nopsapi.ConnectivityView{},
		"ErrorBody": nopsapi.ErrorBody{}, "ErrorDetail": nopsapi.ErrorDetail{}, "Heartbeat": nopsapi.Heartbeat{}, "HeartbeatAck": nopsapi.HeartbeatAck{}, "HeartbeatList": nopsapi.HeartbeatList{},
		"HeartbeatReceived": nopsapi.HeartbeatReceived{}, "HeartbeatSeen": nopsapi.HeartbeatSeen{}, "ImageStatus": nopsapi.ImageStatus{}, "InstallConfig": nopsapi.InstallConfig{}, "KubernetesInfo": nopsapi.KubernetesInfo{},
		"NewAPIKey": nopsapi.NewAPIKey{}, "Observation": nopsapi.Observation{}, "PipelineStatus": nopsapi.PipelineStatus{}, "PublicCluster": nopsapi.PublicCluster{}, "ReleaseInfo": nopsapi.ReleaseInfo{},
		"FactHeader": nopsapi.FactHeader{}, "Market": nopsapi.Market{}, "InstanceType": nopsapi.InstanceType{}, "MarketOffering": nopsapi.MarketOffering{}, "Interruption": nopsapi.Interruption{},
		"Commitments": nopsapi.Commitments{}, "Commitment": nopsapi.Commitment{}, "CommitmentScope": nopsapi.CommitmentScope{}, "CommitmentUse": nopsapi.CommitmentUse{}, "Allocation": nopsapi.Allocation{},
		"KarpenterInventory": nopsapi.KarpenterInventory{}, "KarpenterPool": nopsapi.KarpenterPool{}, "KarpenterNodeClass": nopsapi.KarpenterNodeClass{}, "KarpenterNode": nopsapi.KarpenterNode{}, "KarpenterFinding": nopsapi.KarpenterFinding{},
		"KarpenterRecords": nopsapi.KarpenterRecords{}, "KarpenterRecordList": nopsapi.KarpenterRecordList{}, "KarpenterRecord": nopsapi.KarpenterRecord{}, "KarpenterAck": nopsapi.KarpenterAck{},
		"WorkloadRef": nopsapi.WorkloadRef{}, "RightsizedWorkloads": nopsapi.RightsizedWorkloads{}, "RightsizedWorkload": nopsapi.RightsizedWorkload{}, "Recommendations": nopsapi.Recommendations{}, "WorkloadRecommendation": nopsapi.WorkloadRecommendation{},
		"ContainerRecommendation": nopsapi.ContainerRecommendation{}, "Recommended": nopsapi.Recommended{}, "Outcomes": nopsapi.Outcomes{}, "Outcome": nopsapi.Outcome{}, "OutcomeList": nopsapi.OutcomeList{}, "RightsizingAck": nopsapi.RightsizingAck{}, "RefusedOutcome": nopsapi.RefusedOutcome{},
		"SampleSeen": nopsapi.SampleSeen{}, "Seen": nopsapi.Seen{}, "Warning": nopsapi.Warning{}, "WarningList": nopsapi.WarningList{}, "WhoAmI": nopsapi.WhoAmI{},
	}
}

// TestPaths holds the paths of the document against those of the package, by filling in the same values.
func TestPaths(t *testing.T) {
	fill := strings.NewReplacer("{arn}", "a%2Fb", "{id}", "i")
	want := map[string]string{
		"GET " + nopsapi.PathWhoAmI(): "whoAmI", "GET " + nopsapi.PathAPIKeys(): "listAPIKeys", "POST " + nopsapi.PathAPIKeys(): "createAPIKey", "POST " + nopsapi.PathAPIKeyRotate("i"): "rotateAPIKey",
		"DELETE " + nopsapi.PathAPIKey("i"): "revokeAPIKey", "GET " + nopsapi.PathClusters(): "listClusters", "PUT " + nopsapi.PathCluster("a/b"): "registerCluster", "GET " + nopsapi.PathCluster("a/b"): "getCluster",
		"GET " + nopsapi.PathInstallConfig("a/b"): "installConfig", "POST " + nopsapi.PathAgentKey("a/b"): "createAgentKey", "POST " + nopsapi.PathHeartbeats("a/b"): "sendHeartbeat", "GET " + nopsapi.PathHeartbeats("a/b"): "listHeartbeats",
		"GET " + nopsapi.PathWarnings("a/b"): "listWarnings", "POST " + nopsapi.PathAcknowledge("a/b", "i"): "acknowledgeWarning", "GET " + nopsapi.PathConnectivity("a/b"): "connectivity", "POST " + nopsapi.PathTests("a/b"): "startConnectivityTest",
		"GET " + nopsapi.PathTest("a/b", "i"): "connectivityTest", "POST " + nopsapi.PathObservations("a/b", "i"): "observe", "GET " + nopsapi.PublicClustersPath: "publicClusters",
		"GET " + nopsapi.PathMarket("a/b"): "karpenterMarket", "PUT " + nopsapi.PathMarket("a/b"): "publishMarket", "GET " + nopsapi.PathCommitments("a/b"): "karpenterCommitments", "PUT " + nopsapi.PathCommitments("a/b"): "publishCommitments",
		"GET " + nopsapi.PathKarpenterInventory("a/b"): "karpenterInventory", "PUT " + nopsapi.PathKarpenterInventory("a/b"): "reportInventory",
		"GET " + nopsapi.PathKarpenterRecords("a/b"): "listRecords", "POST " + nopsapi.PathKarpenterRecords("a/b"): "sendRecords",
		"GET " + nopsapi.PathRightsizedWorkloads("a/b"): "rightsizedWorkloads", "PUT " + nopsapi.PathRightsizedWorkloads("a/b"): "reportWorkloads",
		"GET " + nopsapi.PathRecommendations("a/b"): "recommendations", "PUT " + nopsapi.PathRecommendations("a/b"): "publishRecommendations",
		"GET " + nopsapi.PathOutcomes("a/b"): "listOutcomes", "POST " + nopsapi.PathOutcomes("a/b"): "sendOutcomes",
	}
	got := map[string]string{}
	for path, methods := range read(t).Paths {
		for method, op := range methods {
			got[strings.ToUpper(method)+" "+fill.Replace(path)] = op.OperationID
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths of the package and of openapi.yaml differ:\n%s", diff)
	}
}

func fields(t reflect.Type) (names, required []string, types map[string]reflect.Type) {
	types = map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
		types[name] = f.Type
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			required = append(required, name)
		}
	}
	sort.Strings(names)
	sort.Strings(required)
	return names, required, types
}

// TestSchemas holds every schema against its Go type.
func TestSchemas(t *testing.T) {
	schemas := read(t).Components.Schemas
	if diff := cmp.Diff(slices.Sorted(maps.Keys(messages())), slices.Sorted(maps.Keys(schemas))); diff != "" {
		t.Errorf("messages of the package and schemas of openapi.yaml differ:\n%s", diff)
	}
	for name, message := range messages() {
		for _, problem := range compare(name, schemas[name], message) {
			t.Error(problem)
		}
	}
}

// compare says what differs between a schema and a type: names, what is required, kinds.
func compare(name string, s schema, message any) (problems []string) {
	names, required, types := fields(reflect.TypeOf(message))
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(s.Properties))); diff != "" {
		problems = append(problems, fmt.Sprintf("%s: properties:\n%s", name, diff))
	}
	want := slices.Sorted(slices.Values(s.Required))
	if len(required)+len(want) > 0 && !cmp.Equal(required, want) {
		problems = append(problems, fmt.Sprintf("%s: required:\n%s", name, cmp.Diff(required, want)))
	}
	for p, typ := range types {
		if got, want := describe(s.Properties[p]), kind(typ); got != want {
			problems = append(problems, fmt.Sprintf("%s.%s: schema says %s, Go says %s", name, p, got, want))
		}
	}
	return problems
}

func describe(s schema) string {
	switch {
	case s.Ref != "":
		return strings.TrimPrefix(s.Ref, "#/components/schemas/")
	case s.Type == "array":
		return "[]" + describe(*s.Items)
	case s.Additional != nil:
		return "map " + describe(*s.Additional)
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

func kind(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return kind(t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return "time"
	case t.Kind() == reflect.Slice:
		return "[]" + kind(t.Elem())
	case t.Kind() == reflect.Map:
		return "map " + kind(t.Elem())
	case t.Kind() == reflect.Struct:
		return t.Name()
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.Interface:
		return "" // anything
	}
	return "integer"
}

// TestExamples reads every example into its Go type and writes it again: nothing is lost and nothing is made up.
func TestExamples(t *testing.T) {
	types, allowed := messages(), checker(t)
	seen := 0
	check := func(op string, m media) {
		t.Helper()
		name, many := describe(m.Schema), false
		if strings.HasPrefix(name, "[]") {
			name, many = name[2:], true
		}
		if m.Example == nil {
			t.Errorf("%s: no example of %s", op, name)
			return
		}
		typ := reflect.TypeOf(types[name])
		if many {
			typ = reflect.SliceOf(typ)
		}
		value := reflect.New(typ)
		if err := nopsapi.Decode(m.Example, value.Interface()); err != nil {
			t.Errorf("%s: %v", op, err)
			return
		}
		if err := allowed(name, m.Example); !many && err != nil {
			t.Errorf("%s: the example of %s: %v", op, name, err)
		}
		if v, ok := value.Interface().(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				t.Errorf("%s: the example of %s: %v", op, name, err)
			}
		}
		again, err := json.Marshal(value.Interface())
		if err != nil {
			t.Errorf("%s: %v", op, err)
			return
		}
		var want, got any
		if json.Unmarshal(m.Example, &want) != nil || json.Unmarshal(again, &got) != nil {
			t.Errorf("%s: example is not JSON", op)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the example of %s does not survive:\n%s", op, name, diff)
		}
		seen++
	}
	for _, methods := range read(t).Paths {
		for _, op := range methods {
			if op.RequestBody != nil {
				check(op.OperationID, op.RequestBody.Content["application/json"])
			}
			for status, r := range op.Responses {
				if m, ok := r.Content["application/json"]; ok && status != "default" {
					check(op.OperationID, m)
				}
			}
		}
	}
	if seen < 43 {
		t.Errorf("only %d examples", seen)
	}
}

func TestParseARN(t *testing.T) {
	for _, tt := range []struct {
		arn  string
		want nopsapi.ARN
		ok   bool
	}{
		{"arn:aws:eks:us-west-2:123456789012:cluster/my-sample-cluster", nopsapi.ARN{Region: "us-west-2", Account: "123456789012", Name: "my-sample-cluster"}, true},
		{"arn:aws-cn:eks:cn-north-1:123456789012:cluster/c", nopsapi.ARN{Region: "cn-north-1", Account: "123456789012", Name: "c"}, true},
		{"arn:aws-us-gov:eks:us-gov-west-1:123456789012:cluster/C_1", nopsapi.ARN{Region: "us-gov-west-1", Account: "123456789012", Name: "C_1"}, true},
		{"arn:aws:eks:us-west-2:1234:cluster/c", nopsapi.ARN{}, false},
		{"arn:aws:eks:us-west-2:123456789012:cluster/", nopsapi.ARN{}, false},
		{"arn:aws:eks:us-west-2:123456789012:cluster/a/b", nopsapi.ARN{}, false},
		{"my-sample-cluster", nopsapi.ARN{}, false},
	} {
		got, err := nopsapi.ParseARN(tt.arn)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: %+v, %v", tt.arn, got, err)
		}
	}
}

func TestValidateKeyNeverRepeatsTheKey(t *testing.T) {
	for _, bad := range []string{"", "4242", "secret-thing", "4242.tooshort", "x.0123456789abcdef0123456789abcdef"} {
		err := nopsapi.ValidateKey(bad)
		if err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := nopsapi.ValidateKey("4242.0123456789abcdef0123456789abcdef"); err != nil {
		t.Error(err)
	}
}

// FuzzDecodeHeartbeat feeds the platform's side: whatever is accepted survives being stored.
func FuzzDecodeHeartbeat(f *testing.F) {
	f.Add(mustReadF(f, "testdata/messages/Heartbeat.json"))
	f.Add([]byte(`{"schema_version":1,"boot_id":"b","seq":1,"observed_at":"2026-01-02T03:04:05Z","components":[{"name":"a","state":"ready"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h nopsapi.Heartbeat
		if nopsapi.Decode(data, &h) != nil || h.Validate() != nil {
			return
		}
		again, err := json.Marshal(h)
		if err != nil {
			t.Skip("time out of the range that JSON can carry")
		}
		var second nopsapi.Heartbeat
		if err := nopsapi.Decode(again, &second); err != nil || second.Validate() != nil {
			t.Errorf("a valid heartbeat does not survive: %v", err)
		}
	})
}

// FuzzDecodeAnswers feeds the client's side: whatever is read is the same when it is written and read again.
func FuzzDecodeAnswers(f *testing.F) {
	all := messages()
	names := slices.Sorted(maps.Keys(all))
	for i, name := range names {
		f.Add(i, mustReadF(f, "testdata/messages/"+name+".json"))
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		if i < 0 {
			return
		}
		typ := reflect.TypeOf(all[names[i%len(names)]])
		first, second := reflect.New(typ), reflect.New(typ)
		if nopsapi.Decode(data, first.Interface()) != nil {
			return
		}
		again, err := json.Marshal(first.Interface())
		if err != nil {
			t.Skip("time out of the range that JSON can carry")
		}
		if err := nopsapi.Decode(again, second.Interface()); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		third, err := json.Marshal(second.Interface())
		if err != nil || !bytes.Equal(again, third) {
			t.Errorf("written twice it differs: %v\n%s\n%s", err, again, third)
		}
	})
}

// FuzzParseARN feeds the path: whatever is an ARN comes back from the segment of a path as it was.
func FuzzParseARN(f *testing.F) {
	f.Add("arn:aws:eks:us-west-2:123456789012:cluster/my-sample-cluster")
	f.Add("arn:aws:eks:us-west-2:123456789012:cluster/a/b")
	f.Fuzz(func(t *testing.T, arn string) {
		parts, err := nopsapi.ParseARN(arn)
		if err != nil {
			return
		}
		if parts.Name == "" || len(parts.Account) != 12 || parts.Region == "" {
			t.Errorf("%q: %+v", arn, parts)
		}
		segment := strings.TrimPrefix(nopsapi.PathCluster(arn), nopsapi.Base+"/clusters/")
		if back, err := url.PathUnescape(segment); err != nil || back != arn || strings.Contains(segment, "/") {
			t.Errorf("%q as a segment is %q: %v", arn, segment, err)
		}
	})
}

func mustReadF(f *testing.F, name string) []byte {
	f.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	return data
}
