package nopsapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var update = flag.Bool("update", false, "write the golden messages anew")

// fill sets every field of a message to something that is not zero and that the contract allows.
func fill(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC)))
			return
		}
		for i := range v.NumField() {
			tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			fill(v.Field(i), v.Type().Name()+"."+tag)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		element := reflect.New(v.Type().Elem()).Elem()
		if fill(element, name+" element"); element.Kind() == reflect.Uint64 {
			element.SetUint(2)
		}
		v.SetMapIndex(reflect.ValueOf("403"), element)
	case reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"limits": map[string]any{"cpu": "36"}}))
	case reflect.Float64:
		v.SetFloat(0.25)
	case reflect.String:
		v.SetString(sample(name))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint64:
		v.SetUint(1<<53 + 1) // beyond what a float64 holds exactly
	default:
		v.SetInt(sampleNumber(name))
	}
}

func sampleNumber(name string) int64 {
	switch name {
	case "Heartbeat.schema_version":
		return nopsapi.HeartbeatSchema
	case "FactHeader.schema_version", "KarpenterInventory.schema_version":
		return nopsapi.KarpenterSchema
	case "RightsizedWorkloads.schema_version", "Outcomes.schema_version":
		return nopsapi.RightsizingSchema
	case "WhoAmI.contract_version":
		return nopsapi.Version
	case "HeartbeatAck.interval_seconds", "InstallConfig.heartbeat_interval_seconds":
		return 60
	}
	return 7
}

// sample is a value as it is in life. The others show that every character crosses the wire.
func sample(name string) string {
	values := map[string]string{
		"APIKey.scopes": "read", "NewAPIKey.scopes": "read", "WhoAmI.scopes": "agent", "AgentKey.key": "4242.00000000000000000000000000000000", "APIKeyCreated.key": "4242.00000000000000000000000000000000",
		"Cluster.cluster_id": "D/M7Yj", "InstallConfig.cluster_id": "a+ABC1", "PublicCluster.external_id": "D/M7Yj", "Cluster.name": "demo", "PublicCluster.name": "demo", "Cluster.region": "us-east-1",
		"AMPConfig.workspace_id": "ws-00000000-0000-0000-0000-000000000000", "AMPConfig.region": "us-east-1", "AMPConfig.access_key_id": "AKIAEXAMPLE", "AMPConfig.secret_access_key": "ex+ample/==",
		"ComponentStatus.name": "vmagent", "ComponentStatus.kind": "Deployment", "ComponentStatus.object": "nops/nops-vmagent", "ComponentStatus.state": nopsapi.StateDegraded, "ComponentStatus.reason": "CrashLoopBackOff",
		"ComponentStatus.message": "„<unknown>“ & \"quoted\": back-off\n", "ComponentStatus.version": "v1.130.0", "ComponentStatus.last_termination": "OOMKilled",
		"ImageStatus.container": "vmagent", "ImageStatus.reference": "public.ecr.aws/nops/victoriametrics/vmagent:v1.130.0", "ImageStatus.digest": "sha256:" + strings.Repeat("0", 64),
		"PipelineStatus.state": nopsapi.PipelineRefused, "PipelineStatus.last_error": "the store answers 403", "Observation.from": nopsapi.FromCluster, "ErrorDetail.code": nopsapi.CodeNotFound,
		"Warning.kind": nopsapi.WarningComponent, "Warning.state": nopsapi.WarningClosed, "Warning.component": "vmagent", "ReleaseInfo.name": "nops-kubernetes-agent", "ReleaseInfo.namespace": "nops",
		"AgentInfo.name": "heartbeat", "AgentInfo.version": "0.1.0", "KubernetesInfo.version": "v1.33.1-eks-595af52",
		"MarketOffering.capacity_type": nopsapi.CapacitySpot, "Commitment.kind": nopsapi.CommitmentEC2InstanceSP, "Commitment.unit": nopsapi.UnitUSDPerHour, "Interruption.source": "advisor", "InstanceType.name": "m7i.large",
		"WorkloadRef.api_version": "apps/v1", "WorkloadRef.kind": "Deployment", "WorkloadRef.namespace": "shop", "WorkloadRef.name": "cart", "Outcome.kind": nopsapi.OutcomeInPlace,
	}
	if v, ok := values[name]; ok {
		return v
	}
	if _, field, _ := strings.Cut(name, "."); field == "arn" || field == "cluster_arn" {
		return "arn:aws:eks:us-east-1:123456789012:cluster/demo"
	}
	return "some " + name[strings.Index(name, ".")+1:]
}

// checker makes JSON Schemas of the document's.
func checker(t *testing.T) func(name string, data []byte) error {
	t.Helper()
	text, err := yaml.YAMLToJSON(mustRead(t, "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return func(name string, data []byte) error {
		s, err := c.Compile("openapi.json#/components/schemas/" + name)
		if err != nil {
			return err
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return s.Validate(value)
	}
}

// TestGoldenMessages holds one document of each message, with every field set, against what is written: a changed name or
// form of a field changes the wire.
func TestGoldenMessages(t *testing.T) {
	check := checker(t)
	for name, message := range messages() {
		t.Run(name, func(t *testing.T) {
			value := reflect.New(reflect.TypeOf(message))
			fill(value.Elem(), "")
			got, err := json.MarshalIndent(value.Interface(), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", "messages", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := mustRead(t, file)
			if !bytes.Equal(got, want) {
				t.Errorf("the wire changed:\n got %s\nwant %s", got, want)
			}
			if err := check(name, want); err != nil {
				t.Errorf("openapi.yaml does not allow it: %v", err)
			}
			again := reflect.New(reflect.TypeOf(message))
			if err := nopsapi.Decode(want, again.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(again.Interface(), value.Interface()) {
				t.Errorf("read again it is another message:\n got %#v\nwant %#v", again, value)
			}
		})
	}
	files, err := filepath.Glob("testdata/messages/*.json")
	if err != nil || len(files) != len(messages()) {
		t.Errorf("%d golden files for %d messages: %v", len(files), len(messages()), err)
	}
}

// TestSecretsDoNotPrint writes every message in the ways that logs and errors write things.
func TestSecretsDoNotPrint(t *testing.T) {
	const canary = "4242.c0ffeec0ffeec0ffeec0ffeec0ffee00"
	for name, message := range map[string]any{
		"AgentKey":      nopsapi.AgentKey{ID: "id", Key: canary},
		"APIKeyCreated": nopsapi.APIKeyCreated{APIKey: nopsapi.APIKey{ID: "id"}, Key: canary},
		"AMPConfig":     nopsapi.AMPConfig{WorkspaceID: "ws", AccessKeyID: canary, SecretAccessKey: canary},
		"InstallConfig": nopsapi.InstallConfig{ClusterARN: "arn", AMP: nopsapi.AMPConfig{SecretAccessKey: canary}, DatadogAPIKey: canary},
	} {
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "it", message)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "it", message)
		if text := fmt.Sprintf("%v %+v %#v %s %v", message, message, message, message, []any{message}) + log.String(); strings.Contains(text, canary) {
			t.Errorf("%s shows its secret: %s", name, text)
		}
		// The test itself must be able to see a leak.
		if text, err := json.Marshal(message); err != nil || !bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s: the canary is not in the message: %v", name, err)
		}
	}
}

func TestValidate(t *testing.T) {
	good := nopsapi.Heartbeat{SchemaVersion: nopsapi.HeartbeatSchema, BootID: "b", Seq: 1, ObservedAt: time.Unix(1, 0)}
	beat := func(change func(*nopsapi.Heartbeat)) nopsapi.Heartbeat {
		b := good
		change(&b)
		return b
	}
	for _, tt := range []struct {
		name, reason string
		message      interface{ Validate() error }
		ok           bool
	}{
		{"beat", "nothing is wrong", good, true},
		{"beat without boot", "its number means nothing", beat(func(b *nopsapi.Heartbeat) { b.BootID = "" }), false},
		{"beat with a long boot", "the contract bounds it", beat(func(b *nopsapi.Heartbeat) { b.BootID = strings.Repeat("b", nopsapi.MaxBootID+1) }), false},
		{"beat with the longest boot", "the bound is inclusive", beat(func(b *nopsapi.Heartbeat) { b.BootID = strings.Repeat("b", nopsapi.MaxBootID) }), true},
		{"beat 0", "the first is 1", beat(func(b *nopsapi.Heartbeat) { b.Seq = 0 }), false},
		{"beat of no time", "it could not be counted", beat(func(b *nopsapi.Heartbeat) { b.ObservedAt = time.Time{} }), false},
		{"beat of the first schema", "agents are upgraded after the platform", beat(func(b *nopsapi.Heartbeat) { b.SchemaVersion = 1 }), true},
		{"beat of a newer schema", "an older platform must not guess", beat(func(b *nopsapi.Heartbeat) { b.SchemaVersion++ }), false},
		{"beat of no schema", "nobody knows what it means", beat(func(b *nopsapi.Heartbeat) { b.SchemaVersion = 0 }), false},
		{"unknown state", "a newer agent's: the rest of the beat is worth keeping", beat(func(b *nopsapi.Heartbeat) { b.Components = []nopsapi.ComponentStatus{{Name: "a", State: "splendid"}} }), true},
		{"component without state", "says nothing", beat(func(b *nopsapi.Heartbeat) { b.Components = []nopsapi.ComponentStatus{{Name: "a"}} }), false},
		{"component without name", "nobody could be told of it", beat(func(b *nopsapi.Heartbeat) { b.Components = []nopsapi.ComponentStatus{{State: nopsapi.StateReady}} }), false},
		{"too many components", "the contract bounds them", beat(func(b *nopsapi.Heartbeat) { b.Components = make([]nopsapi.ComponentStatus, nopsapi.MaxComponents+1) }), false},
		{"unknown state of the pipeline", "a newer agent's, likewise", beat(func(b *nopsapi.Heartbeat) { b.Pipeline = &nopsapi.PipelineStatus{State: "leaking"} }), true},
		{"pipeline without state", "says nothing", beat(func(b *nopsapi.Heartbeat) { b.Pipeline = &nopsapi.PipelineStatus{} }), false},
		{"key", "nothing is wrong", nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{nopsapi.ScopeRead}}, true},
		{"key without scope", "of no use", nopsapi.NewAPIKey{}, false},
		{"key for agents", "belongs to a cluster", nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{nopsapi.ScopeAgent}}, false},
		{"key of unknown scope", "nobody knows what it may", nopsapi.NewAPIKey{Scopes: []nopsapi.Scope{"root"}}, false},
		{"key with a long name", "the contract bounds it", nopsapi.NewAPIKey{Name: strings.Repeat("n", nopsapi.MaxKeyName+1), Scopes: []nopsapi.Scope{nopsapi.ScopeRead}}, false},
		{"observation", "nothing is wrong", nopsapi.Observation{Nonce: "n", From: nopsapi.FromHere}, true},
		{"observation from the moon", "not a place", nopsapi.Observation{Nonce: "n", From: "moon"}, false},
		{"observation without nonce", "shows nothing", nopsapi.Observation{From: nopsapi.FromHere}, false},
	} {
		err := tt.message.Validate()
		if (err == nil) != tt.ok {
			t.Errorf("%s (%s): %v", tt.name, tt.reason, err)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 300) {
			t.Errorf("%s: not a line: %q", tt.name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	for text, ok := range map[string]bool{`{}`: true, ` {"id":"x","newer":[1]} `: true, `{} {}`: false, `{}}`: false, ``: false, `<html>`: false, `{"id":1}`: false} {
		var k nopsapi.AgentKey
		if err := nopsapi.Decode([]byte(text), &k); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
