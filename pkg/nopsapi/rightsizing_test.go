package nopsapi_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

func ref(name string) nopsapi.WorkloadRef {
	return nopsapi.WorkloadRef{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: name}
}

func goodWorkloads() nopsapi.RightsizedWorkloads {
	return nopsapi.RightsizedWorkloads{SchemaVersion: nopsapi.RightsizingSchema, Generation: 1, AsOf: asOf, Workloads: []nopsapi.RightsizedWorkload{
		{WorkloadRef: ref("a"), Level: "BalancedSavings", Containers: []string{"app", "proxy"}}, {WorkloadRef: ref("b")},
	}}
}

func goodRecommendations() nopsapi.Recommendations {
	return nopsapi.Recommendations{FactHeader: factHeader(), Workloads: []nopsapi.WorkloadRecommendation{
		{WorkloadRef: ref("a"), Level: "BalancedSavings", Containers: []nopsapi.ContainerRecommendation{
			{Name: "app", CPU: nopsapi.Recommended{Target: nopsapi.MaxCores, Lower: 0.1, Upper: nopsapi.MaxCores}, Memory: nopsapi.Recommended{Target: nopsapi.MaxMemory}, Days: 30, Samples: 43200}, {Name: "proxy"},
		}}, {WorkloadRef: ref("b")},
	}}
}

func goodOutcomes() nopsapi.Outcomes {
	return nopsapi.Outcomes{SchemaVersion: nopsapi.RightsizingSchema, Outcomes: []nopsapi.Outcome{
		{ID: "a", At: asOf, Workload: ref("a"), Pod: "a-1", Kind: nopsapi.OutcomeInPlace, Seq: 1}, {ID: "b", At: asOf, Workload: ref("a"), Kind: "celebrated"},
	}}
}

func TestWorkloadsThatAreGarbage(t *testing.T) {
	type k = nopsapi.RightsizedWorkloads
	first := func(change func(*nopsapi.RightsizedWorkload)) func(*k) { return func(x *k) { change(&x.Workloads[0]) } }
	type one = nopsapi.RightsizedWorkload
	refuses(t, goodWorkloads, []wrong[k]{
		{"a newer schema", "newer than the platform", func(x *k) { x.SchemaVersion++ }},
		{"no schema", "schema_version 0", func(x *k) { x.SchemaVersion = 0 }},
		{"of no generation", "generation 0", func(x *k) { x.Generation = 0 }},
		{"of no time", "as_of", func(x *k) { x.AsOf = time.Time{} }},
		{"too many", "20001", func(x *k) { x.Workloads = make([]one, nopsapi.MaxWorkloads+1) }},
		{"twice the same", "listed twice", func(x *k) { x.Workloads[1].WorkloadRef = ref("a") }},
		{"without a kind", "kind", first(func(x *one) { x.Kind = "" })},
		{"without a namespace", "namespace", first(func(x *one) { x.Namespace = "" })},
		{"without a name", "name", first(func(x *one) { x.Name = "" })},
		{"with a long API version", "api_version", first(func(x *one) { x.APIVersion = strings.Repeat("n", 254) })},
		{"with a long name", "name has 254", first(func(x *one) { x.Name = strings.Repeat("n", 254) })},
		{"with a long level", "level", first(func(x *one) { x.Level = strings.Repeat("n", 254) })},
		{"too many containers", "containers: 51", first(func(x *one) { x.Containers = make([]string, nopsapi.MaxContainers+1) })},
		{"a container without a name", "container 1", first(func(x *one) { x.Containers[1] = "" })},
		{"twice the same container", "listed twice", first(func(x *one) { x.Containers[1] = "app" })},
	})
	newer := goodWorkloads()
	newer.Workloads[0].Level, newer.Workloads[0].Kind, newer.Workloads[0].APIVersion = "Reckless", "Rollout", ""
	if err := newer.Validate(); err != nil {
		t.Errorf("of a newer agent: %v", err)
	}
}

func TestRecommendationsThatAreGarbage(t *testing.T) {
	type k = nopsapi.Recommendations
	type one = nopsapi.ContainerRecommendation
	first := func(change func(*one)) func(*k) { return func(x *k) { change(&x.Workloads[0].Containers[0]) } }
	refuses(t, goodRecommendations, []wrong[k]{
		{"a newer schema", "schema_version 2", func(x *k) { x.SchemaVersion++ }},
		{"of no number", "seq is 0", func(x *k) { x.Seq = 0 }},
		{"valid for too long", "at most", func(x *k) { x.ValidUntil = x.AsOf.Add(nopsapi.MaxValidity + 1) }},
		{"ends before it begins", "not after", func(x *k) { x.ValidUntil = x.AsOf }},
		{"too many", "20001", func(x *k) { x.Workloads = make([]nopsapi.WorkloadRecommendation, nopsapi.MaxWorkloads+1) }},
		{"twice the same", "listed twice", func(x *k) { x.Workloads[1].WorkloadRef = ref("a") }},
		{"of no workload", "name has 0", func(x *k) { x.Workloads[1].Name = "" }},
		{"too many containers", "containers: 51", func(x *k) { x.Workloads[0].Containers = make([]one, nopsapi.MaxContainers+1) }},
		{"twice the same container", "listed twice", first(func(x *one) { x.Name = "proxy" })},
		{"a container without a name", "container 0", first(func(x *one) { x.Name = "" })},
		{"negative", "cpu -1", first(func(x *one) { x.CPU.Target = -1 })},
		{"no number", "cpu NaN", first(func(x *one) { x.CPU.Target = math.NaN() })},
		{"endless", "memory +Inf", first(func(x *one) { x.Memory.Upper = math.Inf(1) })},
		{"millicores for cores", "cpu 1001", first(func(x *one) { x.CPU = nopsapi.Recommended{Target: 1001} })},
		{"millibytes for bytes", "memory", first(func(x *one) { x.Memory.Target = nopsapi.MaxMemory * 2 })},
		{"above its bounds", "bounds", first(func(x *one) { x.CPU.Upper = 1 })},
		{"below its bounds", "bounds", first(func(x *one) { x.Memory.Lower = nopsapi.MaxMemory; x.Memory.Target = 1 })},
		{"bounds of nothing", "bounds", first(func(x *one) { x.CPU = nopsapi.Recommended{Upper: 1} })},
		{"of negative days", "days -1", first(func(x *one) { x.Days = -1 })},
		{"of endless days", "days +Inf", first(func(x *one) { x.Days = math.Inf(1) })},
		{"of negative samples", "samples -1", first(func(x *one) { x.Samples = -1 })},
	})
}

func TestOutcomesThatAreGarbage(t *testing.T) {
	type k = nopsapi.Outcomes
	type one = nopsapi.Outcome
	first := func(change func(*one)) func(*k) { return func(x *k) { change(&x.Outcomes[0]) } }
	refuses(t, goodOutcomes, []wrong[k]{
		{"a newer schema", "newer than the platform", func(x *k) { x.SchemaVersion++ }},
		{"none", "empty", func(x *k) { x.Outcomes = nil }},
		{"too many", "501", func(x *k) { x.Outcomes = make([]one, nopsapi.MaxOutcomes+1) }},
		{"twice the same", "listed twice", first(func(x *one) { x.ID = "b" })},
		{"without an ID", "id", first(func(x *one) { x.ID = "" })},
		{"with a bar", "bar", first(func(x *one) { x.ID = "a|b" })},
		{"with a long ID", "id", first(func(x *one) { x.ID = strings.Repeat("x", nopsapi.MaxRecordID+1) })},
		{"of no time", "at is missing", first(func(x *one) { x.At = time.Time{} })},
		{"of no kind", "kind", first(func(x *one) { x.Kind = "" })},
		{"of no workload", "namespace", first(func(x *one) { x.Workload.Namespace = "" })},
		{"with a long pod", "pod", first(func(x *one) { x.Pod = strings.Repeat("x", 254) })},
	})
	refuses(t, func() nopsapi.RightsizingAck { return nopsapi.RightsizingAck{ReceivedAt: asOf} }, []wrong[nopsapi.RightsizingAck]{
		{"of no time", "received_at", func(x *nopsapi.RightsizingAck) { *x = nopsapi.RightsizingAck{} }},
	})
}
