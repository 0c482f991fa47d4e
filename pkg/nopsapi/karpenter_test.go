package nopsapi_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

var asOf = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func factHeader() nopsapi.FactHeader {
	return nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: 1, AsOf: asOf, ValidUntil: asOf.Add(time.Hour)}
}

func goodMarket() nopsapi.Market {
	return nopsapi.Market{
		FactHeader: factHeader(), Region: "us-east-1",
		InstanceTypes: []nopsapi.InstanceType{
			{Name: "m7i.large", VCPU: 2, MemoryMiB: 8192, MaxPods: 29, Labels: map[string]string{"kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "m7i.large", "karpenter.k8s.aws/instance-accelerator": ""}},
			{Name: "c-4x-amd64-linux", VCPU: 4, MemoryMiB: 8192},
		},
		Offerings: []nopsapi.MarketOffering{
			{InstanceType: "m7i.large", ZoneID: "use1-az2", Zone: "us-east-1a", CapacityType: nopsapi.CapacitySpot, Price: 0.04, OnDemandPrice: 0.1, PlacementScore: 10, TargetVCPU: 64, Interruption: &nopsapi.Interruption{MonthlyLow: 0.05, MonthlyHigh: 1, Source: "advisor"}, Confidence: 1, ObservedAt: asOf},
			{InstanceType: "m7i.large", ZoneID: "use1-az2", Zone: "us-east-1a", CapacityType: nopsapi.CapacityOnDemand, Price: 0.1, OnDemandPrice: 0.1, ObservedAt: asOf},
			{InstanceType: "m7i.large", ZoneID: "use1-az2", CapacityType: nopsapi.CapacityReserved, ObservedAt: asOf},
			{InstanceType: "c-4x-amd64-linux", ZoneID: "use1-az1", Zone: "us-east-1b", CapacityType: nopsapi.CapacitySpot, Price: 0.04, OnDemandPrice: 0.1, ObservedAt: asOf},
		},
	}
}

func goodCommitments() nopsapi.Commitments {
	one := func(id, kind string, scope nopsapi.CommitmentScope) nopsapi.Commitment {
		return nopsapi.Commitment{
			ID: id, Kind: kind, Scope: scope, Start: asOf.AddDate(-1, 0, 0), End: asOf.AddDate(1, 0, 0), Unit: nopsapi.UnitVCPU, Total: 12, OtherUse: nopsapi.CommitmentUse{P10: 1, P50: 2, P90: 20, Last: 30, WindowSeconds: 3600},
			Rates: map[string]float64{"m7i": 0.03}, Allocation: &nopsapi.Allocation{VCPU: 12, LeaseUntil: asOf.Add(time.Hour)},
		}
	}
	return nopsapi.Commitments{FactHeader: factHeader(), Commitments: []nopsapi.Commitment{
		one("a", nopsapi.CommitmentEC2InstanceSP, nopsapi.CommitmentScope{Region: "us-east-1", Family: "m7i", Platform: "Linux"}), one("b", nopsapi.CommitmentComputeSP, nopsapi.CommitmentScope{Region: "us-east-1"}),
		one("c", nopsapi.CommitmentStandardRI, nopsapi.CommitmentScope{Region: "us-east-1", Family: "m7i"}), one("d", nopsapi.CommitmentConvertibleRI, nopsapi.CommitmentScope{Region: "us-east-1", InstanceType: "m7i.large"}),
		one("e", nopsapi.CommitmentZonalRI, nopsapi.CommitmentScope{ZoneID: "use1-az2", InstanceType: "m7i.large"}),
	}}
}

func goodInventory() nopsapi.KarpenterInventory {
	return nopsapi.KarpenterInventory{
		SchemaVersion: nopsapi.KarpenterSchema, ObservedAt: asOf, Agent: nopsapi.AgentInfo{Name: "karpenops", Version: "1"}, Mode: "siblings", Pools: []nopsapi.KarpenterPool{{Name: "a"}, {Name: "b"}},
		NodeClasses: []nopsapi.KarpenterNodeClass{{Kind: "EC2NodeClass", Name: "a"}}, Nodes: []nopsapi.KarpenterNode{{Name: "a-1"}}, Findings: []nopsapi.KarpenterFinding{{ID: "x", Code: "y"}},
	}
}

func goodRecords() nopsapi.KarpenterRecords {
	r := nopsapi.KarpenterRecord{ID: "a", At: asOf, Actor: "agent", Action: "set-limits", Outcome: "applied"}
	other := r
	other.ID = "b"
	return nopsapi.KarpenterRecords{Records: []nopsapi.KarpenterRecord{r, other}}
}

// wrong is a message that is refused, and what the error says of it.
type wrong[T any] struct {
	name, part string
	change     func(*T)
}

func refuses[T interface{ Validate() error }](t *testing.T, good func() T, cases []wrong[T]) {
	t.Helper()
	if err := good().Validate(); err != nil {
		t.Fatalf("nothing is wrong with it: %v", err)
	}
	for _, tt := range cases {
		message := good()
		tt.change(&message)
		err := message.Validate()
		switch {
		case err == nil:
			t.Errorf("%s: nothing is found wrong", tt.name)
		case !strings.Contains(err.Error(), tt.part):
			t.Errorf("%s: %v, want an error about %q", tt.name, err, tt.part)
		case strings.Contains(err.Error(), "\n") || len(err.Error()) > 500:
			t.Errorf("%s: not a line: %q", tt.name, err)
		}
	}
}

func TestMarketsThatAreGarbage(t *testing.T) {
	type m = nopsapi.Market
	type w = wrong[m]
	first := func(change func(*nopsapi.MarketOffering)) func(*m) { return func(x *m) { change(&x.Offerings[0]) } }
	typ := func(change func(*nopsapi.InstanceType)) func(*m) { return func(x *m) { change(&x.InstanceTypes[0]) } }
	type o = nopsapi.MarketOffering
	type it = nopsapi.InstanceType
	cases := []w{
		{"a newer schema", "schema_version 2", func(x *m) { x.SchemaVersion++ }},
		{"no schema", "schema_version 0", func(x *m) { x.SchemaVersion = 0 }},
		{"no number", "seq", func(x *m) { x.Seq = 0 }},
		{"no time", "as_of is missing", func(x *m) { x.AsOf, x.ValidUntil = time.Time{}, time.Time{}.Add(time.Hour) }},
		{"valid until before", "valid_until", func(x *m) { x.ValidUntil = asOf.Add(-time.Second) }},
		{"valid for no time", "valid_until", func(x *m) { x.ValidUntil = asOf }},
		{"valid for too long", "24h", func(x *m) { x.ValidUntil = asOf.Add(nopsapi.MaxValidity + time.Second) }},
		{"valid for ever", "24h", func(x *m) { x.ValidUntil = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"no region", "region", func(x *m) { x.Region = "" }},
		{"a region that is none", "region", func(x *m) { x.Region = "us-east-1a" }},
		{"too many types", "instance_types", func(x *m) { x.InstanceTypes = make([]it, nopsapi.MaxInstanceTypes+1) }},
		{"too many offerings", "offerings", func(x *m) { x.Offerings = make([]o, nopsapi.MaxOfferings+1) }},
		{"twice the same type", "listed twice", func(x *m) { x.InstanceTypes = append(x.InstanceTypes, x.InstanceTypes[0]) }},
		{"a type without a name", "name", typ(func(x *it) { x.Name = "" })},
		{"a type whose name is no label", "name", typ(func(x *it) { x.Name = "m7i large\nand more" })},
		{"a type with a long name", "name", typ(func(x *it) { x.Name = strings.Repeat("x", 64) })},
		{"a type without processors", "vcpu 0", typ(func(x *it) { x.VCPU = 0 })},
		{"a type with too many", "vcpu", typ(func(x *it) { x.VCPU = math.MaxInt32 })},
		{"a type without memory", "memory_mib 0", typ(func(x *it) { x.MemoryMiB = 0 })},
		{"a type with memory in bytes", "memory_mib", typ(func(x *it) { x.MemoryMiB = 8 << 30 })},
		{"fewer pods than none", "max_pods", typ(func(x *it) { x.MaxPods = -1 })},
		{"a label that is none", "label", typ(func(x *it) { x.Labels["a"] = "b c" })},
		{"a label without a key", "label", typ(func(x *it) { x.Labels[""] = "b" })},
		{"a label that contradicts", "m7i.xlarge", typ(func(x *it) { x.Labels["node.kubernetes.io/instance-type"] = "m7i.xlarge" })},
		{"too many labels", "labels", typ(func(x *it) {
			for i := range 101 {
				x.Labels[fmt.Sprint("k", i)] = "v"
			}
		})},
		{"an offering of an unknown type", "not among instance_types", first(func(x *o) { x.InstanceType = "m9z.large" })},
		{"twice the same offering", "listed twice", func(x *m) { x.Offerings = append(x.Offerings, x.Offerings[0]) }},
		{"an unknown capacity type", "capacity type", first(func(x *o) { x.CapacityType = "Spot" })},
		{"no zone", "zone_id", first(func(x *o) { x.ZoneID = "" })},
		{"a zone that is none", "no name of a zone", first(func(x *o) { x.Zone = "us east" })},
		{"one ID of two zones", "of another ID", first(func(x *o) { x.Zone = "us-east-1c" })},
		{"one zone of two IDs", "of another ID", first(func(x *o) { x.ZoneID = "use1-az9" })},
		{"a negative price", "price -0.04", first(func(x *o) { x.Price = -0.04 })},
		{"for nothing", "price 0", first(func(x *o) { x.Price = 0 })},
		{"a price that is no number", "price NaN", first(func(x *o) { x.Price = math.NaN() })},
		{"an endless price", "price +Inf", first(func(x *o) { x.Price = math.Inf(1) })},
		{"a price beyond all", "price 10001", first(func(x *o) { x.Price = 10001 })},
		{"no price on demand", "on_demand_price 0", first(func(x *o) { x.OnDemandPrice = 0 })},
		{"a negative price on demand", "on_demand_price", first(func(x *o) { x.OnDemandPrice = -1 })},
		{"a price on demand that is no number", "on_demand_price NaN", first(func(x *o) { x.OnDemandPrice = math.NaN() })},
		{"a price in cents", "more than 10 times", first(func(x *o) { x.Price = 4 })},
		{"a score of eleven", "placement_score 11", first(func(x *o) { x.PlacementScore = 11 })},
		{"a negative score", "placement_score -1", first(func(x *o) { x.PlacementScore = -1 })},
		{"of fewer processors than none", "target_vcpu", first(func(x *o) { x.TargetVCPU = -1 })},
		{"more than confident", "confidence 1.5", first(func(x *o) { x.Confidence = 1.5 })},
		{"confidence that is no number", "confidence NaN", first(func(x *o) { x.Confidence = math.NaN() })},
		{"never observed", "observed_at", first(func(x *o) { x.ObservedAt = time.Time{} })},
		{"observed tomorrow", "observed_at", first(func(x *o) { x.ObservedAt = asOf.Add(24 * time.Hour) })},
		{"interrupted more often than always", "interruption", first(func(x *o) { x.Interruption.MonthlyHigh = 1.01 })},
		{"interrupted less often than never", "interruption", first(func(x *o) { x.Interruption.MonthlyLow = -0.01 })},
		{"interruptions in percent", "interruption", first(func(x *o) { x.Interruption.MonthlyLow, x.Interruption.MonthlyHigh = 5, 10 })},
		{"interruptions that are no number", "interruption", first(func(x *o) { x.Interruption.MonthlyHigh = math.NaN() })},
		{"interruptions upside down", "interruption", first(func(x *o) { x.Interruption.MonthlyLow, x.Interruption.MonthlyHigh = 0.2, 0.1 })},
	}
	refuses(t, goodMarket, cases)
	empty := nopsapi.Market{FactHeader: factHeader(), Region: "us-east-1"}
	if err := empty.Validate(); err != nil {
		t.Errorf("a market of which nothing is known: %v", err)
	}
}

func TestCommitmentsThatAreGarbage(t *testing.T) {
	type c = nopsapi.Commitments
	type w = wrong[c]
	nth := func(i int, change func(*nopsapi.Commitment)) func(*c) {
		return func(x *c) { change(&x.Commitments[i]) }
	}
	first := func(change func(*nopsapi.Commitment)) func(*c) { return nth(0, change) }
	type one = nopsapi.Commitment
	refuses(t, goodCommitments, []w{
		{"a newer schema", "schema_version 2", func(x *c) { x.SchemaVersion++ }},
		{"too many", "commitments", func(x *c) { x.Commitments = make([]one, nopsapi.MaxCommitments+1) }},
		{"twice the same", "listed twice", nth(1, func(x *one) { x.ID = "a" })},
		{"without an ID", "id", first(func(x *one) { x.ID = "" })},
		{"an unknown kind", "Gift", first(func(x *one) { x.Kind = "Gift" })},
		{"an unknown unit", "EUR", first(func(x *one) { x.Unit = "EUR" })},
		{"ends before it begins", "end", first(func(x *one) { x.End = x.Start.Add(-time.Second) })},
		{"without an end", "end", first(func(x *one) { x.End = time.Time{} })},
		{"a negative total", "total -1", first(func(x *one) { x.Total = -1 })},
		{"a total that is no number", "total NaN", first(func(x *one) { x.Total = math.NaN() })},
		{"an endless total", "total +Inf", first(func(x *one) { x.Total = math.Inf(1) })},
		{"negative use", "other_use -1", first(func(x *one) { x.OtherUse.Last = -1 })},
		{"use that is no number", "other_use NaN", first(func(x *one) { x.OtherUse.P90 = math.NaN() })},
		{"quantiles upside down", "p10 3", first(func(x *one) { x.OtherUse.P10 = 3 })},
		{"a negative window", "-1 seconds", first(func(x *one) { x.OtherUse.WindowSeconds = -1 })},
		{"a negative rate", "rate", first(func(x *one) { x.Rates["m7i"] = -0.1 })},
		{"a rate of nothing", "rate", first(func(x *one) { x.Rates[""] = 0.1 })},
		{"too many rates", "rates: 2001", first(func(x *one) {
			for i := range nopsapi.MaxInstanceTypes {
				x.Rates[fmt.Sprint("f", i)] = 0.1
			}
		})},
		{"a negative share", "-1 vCPU", first(func(x *one) { x.Allocation.VCPU = -1 })},
		{"a share that is no number", "NaN vCPU", first(func(x *one) { x.Allocation.VCPU = math.NaN() })},
		{"a share beyond the total", "13 vCPU of a total of 12", first(func(x *one) { x.Allocation.VCPU = 13 })},
		{"a share without an end", "lease_until", first(func(x *one) { x.Allocation.LeaseUntil = time.Time{} })},
		{"a share for ever", "lease_until", first(func(x *one) { x.Allocation.LeaseUntil = asOf.AddDate(100, 0, 0) })},
		{"a plan for a family that names none", "region and family", first(func(x *one) { x.Scope.Family = "" })},
		{"a plan for a region that names none", "region and family", first(func(x *one) { x.Scope.Region = "" })},
		{"a plan for everything that names a family", "every family", nth(1, func(x *one) { x.Scope.Family = "m7i" })},
		{"instances of no family", "family or instance_type", nth(2, func(x *one) { x.Scope.Family = "" })},
		{"instances of no region", "needs region", nth(3, func(x *one) { x.Scope.Region = "" })},
		{"instances of no zone", "zone_id", nth(4, func(x *one) { x.Scope.ZoneID = "" })},
		{"a family that is none", "scope", first(func(x *one) { x.Scope.Family = "m7i or so" })},
	})
}

func TestInventoriesAndRecordsThatAreGarbage(t *testing.T) {
	type k = nopsapi.KarpenterInventory
	refuses(t, goodInventory, []wrong[k]{
		{"a newer schema", "newer than the platform", func(x *k) { x.SchemaVersion++ }},
		{"no schema", "schema_version 0", func(x *k) { x.SchemaVersion = 0 }},
		{"of no time", "observed_at", func(x *k) { x.ObservedAt = time.Time{} }},
		{"no mode", "mode", func(x *k) { x.Mode = "" }},
		{"too many pools", "pools", func(x *k) { x.Pools = make([]nopsapi.KarpenterPool, nopsapi.MaxPools+1) }},
		{"too many node classes", "node_classes", func(x *k) { x.NodeClasses = make([]nopsapi.KarpenterNodeClass, nopsapi.MaxNodeClasses+1) }},
		{"too many nodes", "nodes", func(x *k) { x.Nodes = make([]nopsapi.KarpenterNode, nopsapi.MaxNodes+1) }},
		{"too many findings", "findings", func(x *k) { x.Findings = make([]nopsapi.KarpenterFinding, nopsapi.MaxFindings+1) }},
		{"twice the same pool", "listed twice", func(x *k) { x.Pools[1].Name = "a" }},
		{"a pool without a name", "pool 0", func(x *k) { x.Pools[0].Name = "" }},
		{"fewer nodes than none", "-1 nodes", func(x *k) { x.Pools[0].Nodes = -1 }},
		{"a node without a name", "node 0", func(x *k) { x.Nodes[0].Name = "" }},
		{"a finding without a code", "finding 0", func(x *k) { x.Findings[0].Code = "" }},
	})
	newer := goodInventory()
	newer.Mode, newer.Pools[0].Ready = "telepathy", "Maybe"
	if err := newer.Validate(); err != nil {
		t.Errorf("of a newer agent: %v", err)
	}
	type r = nopsapi.KarpenterRecords
	first := func(change func(*nopsapi.KarpenterRecord)) func(*r) { return func(x *r) { change(&x.Records[0]) } }
	type one = nopsapi.KarpenterRecord
	refuses(t, goodRecords, []wrong[r]{
		{"none", "empty", func(x *r) { x.Records = nil }},
		{"too many", "201", func(x *r) { x.Records = make([]one, nopsapi.MaxRecords+1) }},
		{"twice the same", "listed twice", first(func(x *one) { x.ID = "b" })},
		{"without an ID", "id", first(func(x *one) { x.ID = "" })},
		{"with a long ID", "id", first(func(x *one) { x.ID = strings.Repeat("x", nopsapi.MaxRecordID+1) })},
		{"with a bar", "bar", first(func(x *one) { x.ID = "a|b" })},
		{"of no time", "at is missing", first(func(x *one) { x.At = time.Time{} })},
		{"of nobody", "actor", first(func(x *one) { x.Actor = "" })},
		{"of nothing", "action", first(func(x *one) { x.Action = "" })},
		{"without an outcome", "outcome", first(func(x *one) { x.Outcome = "" })},
		{"with negative drift", "drift", first(func(x *one) { x.Predicted = -1 })},
	})
}

func TestAcks(t *testing.T) {
	refuses(t, func() nopsapi.KarpenterAck { return nopsapi.KarpenterAck{ReceivedAt: asOf} }, []wrong[nopsapi.KarpenterAck]{
		{"of no time", "received_at", func(x *nopsapi.KarpenterAck) { x.ReceivedAt = time.Time{} }},
	})
}

func TestCheckAt(t *testing.T) {
	h := factHeader()
	for _, tt := range []struct {
		name, part string
		now        time.Time
	}{
		{"as soon as it is made", "", asOf},
		{"as long as it is valid", "", asOf.Add(time.Hour - time.Second)},
		{"when it ends", "has passed", asOf.Add(time.Hour)},
		{"a year later", "has passed", asOf.AddDate(1, 0, 0)},
		{"by a clock that is a little behind", "", asOf.Add(-nopsapi.MaxAhead)},
		{"before it was made", "future", asOf.Add(-nopsapi.MaxAhead - time.Second)},
	} {
		if err := h.CheckAt(tt.now); (err == nil) != (tt.part == "") || err != nil && !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.part)
		}
	}
}

// TestNumbersThatAreNone: what JSON can carry of them never gets as far as Validate.
func TestNumbersThatAreNone(t *testing.T) {
	text, err := json.Marshal(goodMarket())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"NaN", "Infinity", "-Infinity", "1e999", `"0.04"`, `"NaN"`, "[]", "0x1", "١"} {
		var m nopsapi.Market
		if err := nopsapi.Decode([]byte(strings.Replace(string(text), `"price":0.04`, `"price":`+bad, 1)), &m); err == nil {
			t.Errorf("%s is read as %v", bad, m.Offerings[0].Price)
		}
	}
}

// FuzzDecodeFacts feeds the agent's side and the platform's: what is taken for valid can be written and is valid then, holds no number
// that is none, and nothing that is listed twice.
func FuzzDecodeFacts(f *testing.F) {
	for _, message := range []any{goodMarket(), goodCommitments(), goodInventory(), goodRecords(), goodWorkloads(), goodRecommendations(), goodOutcomes()} {
		text, err := json.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, name := range []string{"Market", "Commitments", "KarpenterInventory", "KarpenterRecords", "RightsizedWorkloads", "Recommendations", "Outcomes"} {
		f.Add(mustReadF(f, "testdata/messages/"+name+".json"))
	}
	f.Add([]byte(`{"schema_version":1,"seq":1,"as_of":"2026-01-02T03:04:05Z","valid_until":"2026-01-02T04:04:05Z","region":"us-east-1","offerings":[{"price":1e999}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		survives[nopsapi.KarpenterInventory](t, data)
		survives[nopsapi.KarpenterRecords](t, data)
		survives[nopsapi.RightsizedWorkloads](t, data)
		survives[nopsapi.Recommendations](t, data)
		survives[nopsapi.Outcomes](t, data)
		if m, ok := survives[nopsapi.Market](t, data); ok {
			seen := map[string]bool{}
			for _, o := range m.Offerings {
				id := o.InstanceType + "|" + o.ZoneID + "|" + o.CapacityType
				if seen[id] || !(o.Price >= 0 && o.Price <= nopsapi.MaxPrice) || o.PlacementScore < 0 || o.PlacementScore > 10 {
					t.Errorf("offering %+v", o)
				}
				seen[id] = true
			}
		}
		if c, ok := survives[nopsapi.Commitments](t, data); ok {
			for _, one := range c.Commitments {
				if !(one.Total >= 0) || !one.End.After(one.Start) || one.Allocation != nil && !(one.Allocation.VCPU >= 0) {
					t.Errorf("commitment %+v", one)
				}
			}
		}
	})
}

func survives[T interface{ Validate() error }](t *testing.T, data []byte) (T, bool) {
	t.Helper()
	var first, second T
	if nopsapi.Decode(data, &first) != nil || first.Validate() != nil {
		return first, false
	}
	again, err := json.Marshal(first)
	if err != nil {
		return first, false // a time out of the range that JSON can carry
	}
	if err := nopsapi.Decode(again, &second); err != nil || second.Validate() != nil {
		t.Errorf("a valid %T does not survive: %v, %v", first, err, second.Validate())
	}
	return first, true
}

// A number so high that no later document could have a higher one is a slip of the pen: it would make a replay of everything that follows.
func TestNoSequenceNumberEndsAllOthers(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for seq, good := range map[uint64]bool{1: true, uint64(at.Unix()): true, uint64(at.UnixNano()): true, uint64(at.UnixNano()) + 1: false, 1<<64 - 1: false} {
		h := nopsapi.FactHeader{SchemaVersion: nopsapi.KarpenterSchema, Seq: seq, AsOf: at, ValidUntil: at.Add(time.Hour)}
		if err := h.Validate(); (err == nil) != good {
			t.Errorf("seq %d: %v", seq, err)
		}
	}
}
