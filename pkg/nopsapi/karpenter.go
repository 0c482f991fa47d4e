package nopsapi

import "time"

// KarpenterSchema is the version of what the documents about Karpenter mean, in both directions. An agent refuses a newer one whole
// and holds: it would misread it. History:
//
//	1: market, commitments, inventory, records
const KarpenterSchema = 1

// FeatureKarpenter is in WhoAmI.Features where a platform serves the paths about Karpenter.
const FeatureKarpenter = "karpenter"

// Limits of the documents about Karpenter.
const (
	MaxMarket        = 4 << 20 // bytes of a market, unpacked
	MaxInstanceTypes = 2000    // of a market
	MaxOfferings     = 20000   // of a market
	MaxCommitments   = 1000    // of a list
	MaxRecords       = 200     // of one delivery, and of one answer
	MaxInventory     = 4 << 20 // bytes of an inventory, unpacked
	MaxPools         = 2000    // of an inventory
	MaxNodeClasses   = 2000    // of an inventory
	MaxNodes         = 20000   // of an inventory
	MaxFindings      = 2000    // of an inventory
	MaxRecordID      = 200     // bytes
	MaxRecord        = 1 << 18 // bytes of one record
	MaxPrice         = 10000.0 // USD an hour: what costs more is a slip of units
)

// Bounds of time of a document of facts. What lies outside them is taken for a mistake, for it would undo what they are there for: a
// document that is valid for a year keeps an agent acting through a year of silence, a lease for a year survives the platform.
const (
	MaxValidity = 24 * time.Hour     // from AsOf to ValidUntil
	MaxAhead    = 5 * time.Minute    // that AsOf may lie in the reader's future, for clocks differ
	MaxLease    = 7 * 24 * time.Hour // from AsOf to Allocation.LeaseUntil
)

// FactHeader is what every document of facts begins with. Seq rises with every document of that kind of that cluster, whoever made it;
// an agent that has seen a later one takes the document for a replay. The Unix time in seconds makes a good one: it rises across restarts
// of whoever counts. After ValidUntil nothing may be decided by it.
type FactHeader struct {
	SchemaVersion int       `json:"schema_version"` // KarpenterSchema
	Seq           uint64    `json:"seq"`            // from 1
	AsOf          time.Time `json:"as_of"`
	ValidUntil    time.Time `json:"valid_until"`
}

// Market is what is known of the prices and the availability of instances: GET /clusters/{arn}/karpenter/market, with an ETag.
// It states facts, for one region: what to do about them is the agent's business.
type Market struct {
	FactHeader
	Region        string           `json:"region"`
	InstanceTypes []InstanceType   `json:"instance_types"`
	Offerings     []MarketOffering `json:"offerings"`
}

// InstanceType says what an instance type is, as Karpenter labels it.
type InstanceType struct {
	Name      string            `json:"name"` // "m7i.large"
	VCPU      int               `json:"vcpu"`
	MemoryMiB int               `json:"memory_mib"`
	MaxPods   int               `json:"max_pods,omitempty"` // 0: not known
	Labels    map[string]string `json:"labels,omitempty"`   // those a NodePool may require, such as karpenter.k8s.aws/instance-family and kubernetes.io/arch
}

// Capacity types, as in the label karpenter.sh/capacity-type.
const (
	CapacitySpot     = "spot"
	CapacityOnDemand = "on-demand"
	CapacityReserved = "reserved"
)

// MarketOffering is an instance type in a zone in a capacity type. Zones go by ID: names differ from account to account.
type MarketOffering struct {
	InstanceType string `json:"instance_type"`
	ZoneID       string `json:"zone_id"`        // "use1-az2"
	Zone         string `json:"zone,omitempty"` // "us-east-1a", where the sender knows the account's names
	CapacityType string `json:"capacity_type"`
	// Price is what it costs now, OnDemandPrice what it costs on demand, in USD an hour.
	Price         float64 `json:"price"`
	OnDemandPrice float64 `json:"on_demand_price"`
	// PlacementScore is EC2's spot placement score, 1 to 10, of TargetVCPU in this zone alone: how likely a launch is, and
	// no promise of capacity. 0: not known. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-placement-score.html
	PlacementScore int           `json:"placement_score,omitempty"`
	TargetVCPU     int           `json:"target_vcpu,omitempty"`
	Interruption   *Interruption `json:"interruption,omitempty"`
	Confidence     float64       `json:"confidence,omitempty"` // 0 to 1, of the interruption rate; 0: not stated, taken as 1
	ObservedAt     time.Time     `json:"observed_at"`
}

// Interruption is how often spot instances are taken away, as a share of them in a month.
type Interruption struct {
	MonthlyLow  float64 `json:"monthly_low"`
	MonthlyHigh float64 `json:"monthly_high"`
	Source      string  `json:"source"` // "advisor", "observed", "model"
}

// Kinds of commitments.
const (
	CommitmentComputeSP     = "ComputeSP"
	CommitmentEC2InstanceSP = "EC2InstanceSP"
	CommitmentStandardRI    = "StandardRI"
	CommitmentConvertibleRI = "ConvertibleRI"
	CommitmentZonalRI       = "ZonalRI"
)

// Units of commitments.
const (
	UnitUSDPerHour = "usd_per_hour"
	UnitVCPU       = "vcpu"
	UnitNormalized = "normalized" // EC2's normalisation factor: a large is 4; two vCPUs of current families
)

// Commitments is what is paid for whether it is used or not: GET /clusters/{arn}/karpenter/commitments, with an ETag.
type Commitments struct {
	FactHeader
	Commitments []Commitment `json:"commitments"`
}

// Commitment is a Savings Plan or a set of Reserved Instances. What an hour does not use is lost.
type Commitment struct {
	ID    string          `json:"id"`
	Kind  string          `json:"kind"`
	Scope CommitmentScope `json:"scope"`
	Start time.Time       `json:"start"`
	End   time.Time       `json:"end"`
	Unit  string          `json:"unit"`
	Total float64         `json:"total"` // in Unit
	// OtherUse is what others than this cluster use of it, in Unit: over a window, so that billing's delay of a day does no harm.
	OtherUse CommitmentUse `json:"other_use"`
	// Rates are what a vCPU costs an hour under it, in USD, by family.
	Rates      map[string]float64 `json:"rates,omitempty"`
	Allocation *Allocation        `json:"allocation,omitempty"` // nil: this cluster has no share
}

// CommitmentScope is what a commitment applies to; empty is everything.
type CommitmentScope struct {
	Region       string `json:"region,omitempty"`
	Family       string `json:"family,omitempty"`
	ZoneID       string `json:"zone_id,omitempty"`
	InstanceType string `json:"instance_type,omitempty"`
	Platform     string `json:"platform,omitempty"` // "Linux"
	Tenancy      string `json:"tenancy,omitempty"`  // "default"
}

// CommitmentUse is how much was in use over a window.
type CommitmentUse struct {
	P10           float64 `json:"p10"`
	P50           float64 `json:"p50"`
	P90           float64 `json:"p90"`
	Last          float64 `json:"last"`
	WindowSeconds int     `json:"window_seconds,omitempty"`
}

// Allocation is this cluster's share of a commitment: decided in one place, so that two clusters never spend the same.
type Allocation struct {
	VCPU       float64   `json:"vcpu"`
	LeaseUntil time.Time `json:"lease_until"`
}

// KarpenterInventory is what the cluster has: PUT /clusters/{arn}/karpenter/inventory, gzip. The whole state each time.
type KarpenterInventory struct {
	SchemaVersion int       `json:"schema_version"`
	ObservedAt    time.Time `json:"observed_at"`
	Agent         AgentInfo `json:"agent"`
	ClusterID     string    `json:"cluster_id,omitempty"`
	// APIVersions are those of karpenter.sh that the cluster serves; Writable says that one is among them that the agent may write.
	APIVersions []string             `json:"api_versions"`
	Writable    bool                 `json:"writable"`
	Mode        string               `json:"mode"`
	Paused      bool                 `json:"paused"`
	Holding     string               `json:"holding,omitempty"` // why nothing is decided at present
	Pools       []KarpenterPool      `json:"pools"`
	NodeClasses []KarpenterNodeClass `json:"node_classes,omitempty"`
	Nodes       []KarpenterNode      `json:"nodes,omitempty"`
	Findings    []KarpenterFinding   `json:"findings,omitempty"`
}

// KarpenterPool is a NodePool. Spec is the object's own, nothing left out.
type KarpenterPool struct {
	Name        string            `json:"name"`
	UID         string            `json:"uid,omitempty"`
	Generation  int64             `json:"generation,omitempty"`
	Managed     bool              `json:"managed"` // opted in
	Owned       bool              `json:"owned"`   // made by the agent
	Ready       string            `json:"ready"`   // "True", "False", "Unknown"
	Reason      string            `json:"reason,omitempty"`
	Nodes       int               `json:"nodes"`
	Usage       map[string]string `json:"usage,omitempty"` // of status.resources
	Spec        map[string]any    `json:"spec,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"` // those of the agent and imported_by
}

// KarpenterNodeClass is a node class of any provider.
type KarpenterNodeClass struct {
	Kind string         `json:"kind"`
	Name string         `json:"name"`
	Spec map[string]any `json:"spec,omitempty"`
}

// KarpenterNode is a NodeClaim with its node.
type KarpenterNode struct {
	Name         string    `json:"name"` // of the NodeClaim
	Pool         string    `json:"pool"`
	InstanceType string    `json:"instance_type"`
	Zone         string    `json:"zone"`
	ZoneID       string    `json:"zone_id,omitempty"`
	CapacityType string    `json:"capacity_type"`
	CreatedAt    time.Time `json:"created_at"`
	Drifted      string    `json:"drifted,omitempty"` // the reason
	Deleting     bool      `json:"deleting,omitempty"`
}

// KarpenterFinding is something a person should know, with what to do about it where that is known.
type KarpenterFinding struct {
	ID      string `json:"id"` // stable: the same finding has the same
	Code    string `json:"code"`
	Object  string `json:"object"` // "NodePool/default"
	Message string `json:"message"`
	Patch   string `json:"patch,omitempty"` // JSON merge patch that a person may approve
	Drift   int    `json:"drift,omitempty"` // nodes that the patch is predicted to replace
}

// KarpenterRecords are decisions: POST /clusters/{arn}/karpenter/records, with an idempotency key.
type KarpenterRecords struct {
	Records []KarpenterRecord `json:"records"`
}

// KarpenterRecordList is GET /clusters/{arn}/karpenter/records?since=RFC3339, by time.
type KarpenterRecordList struct {
	Records []KarpenterRecord `json:"records"`
	Next    string            `json:"next,omitempty"` // there are more: ask again with after=Next
}

// KarpenterAck answers what is written about Karpenter.
type KarpenterAck struct {
	ReceivedAt time.Time `json:"received_at"`
	Seq        uint64    `json:"seq,omitempty"`    // of the document of facts that is served from now on
	Stored     int       `json:"stored,omitempty"` // records that were not known yet
}

// KarpenterRecord is one decision of the agent: what it saw, did and got. Its ID identifies it: sent again it is stored once, and what is then
// known more of it (the actual drift, the outcome) replaces what was known before.
type KarpenterRecord struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at"`
	Actor       string    `json:"actor"` // "agent", or who approved or reverted
	Action      string    `json:"action"`
	Object      string    `json:"object"`
	Reason      string    `json:"reason"`
	Before      any       `json:"before,omitempty"`
	After       any       `json:"after,omitempty"`
	MarketSeq   uint64    `json:"market_seq,omitempty"`
	CommitSeq   uint64    `json:"commitments_seq,omitempty"`
	Predicted   int       `json:"predicted_drift"` // nodes
	Actual      int       `json:"actual_drift"`    // nodes, as far as known
	Outcome     string    `json:"outcome"`         // "applied", "refused", "undone", "released"
	Explanation string    `json:"explanation,omitempty"`
}
