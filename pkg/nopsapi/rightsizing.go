package nopsapi

import "time"

// RightsizingSchema is the version of what the documents about rightsizing mean, in both directions. An agent refuses a newer one whole
// and goes by what it knows itself. History:
//
//	1: workloads, recommendations, outcomes
const RightsizingSchema = 1

// FeatureRightsizing is in WhoAmI.Features where a platform serves the paths about rightsizing.
const FeatureRightsizing = "rightsizing"

// Limits of the documents about rightsizing.
const (
	MaxRecommendations = 8 << 20 // bytes of a list, unpacked; of a list of workloads as well
	MaxWorkloads       = 20000   // of a list
	MaxContainers      = 50      // of a workload
	MaxOutcomes        = 500     // of one delivery, and of one answer
	MaxCores           = 1000.0  // of a container: what is more is a slip of units
	MaxMemory          = 1e13    // bytes of a container, likewise
)

// Kinds of outcomes.
const (
	OutcomeInPlace  = "in-place"
	OutcomeEvicted  = "evicted"
	OutcomeCreated  = "created"
	OutcomeOOM      = "oom"
	OutcomeRefused  = "refused"
	OutcomeReverted = "reverted"
)

// WorkloadRef names a workload: "apps/v1", "Deployment".
type WorkloadRef struct {
	APIVersion string `json:"api_version"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

// RightsizedWorkloads is what the agent asks recommendations for: PUT /clusters/{arn}/rightsizing/workloads. It replaces the one before.
type RightsizedWorkloads struct {
	SchemaVersion int                  `json:"schema_version"` // RightsizingSchema
	Generation    int64                `json:"generation"`     // rises with every change
	AsOf          time.Time            `json:"as_of"`
	Workloads     []RightsizedWorkload `json:"workloads"`
}

// RightsizedWorkload is a workload with the level that its policy wants: MaximumSavings, BalancedSavings, BalancedPerformance,
// MaximumPerformance.
type RightsizedWorkload struct {
	WorkloadRef
	Level      string   `json:"level"`
	Containers []string `json:"containers"`
}

// Recommendations is what the platform recommends, from weeks of usage: GET /clusters/{arn}/rightsizing/recommendations, with an ETag.
// After ValidUntil the agent goes by its own model again.
type Recommendations struct {
	FactHeader
	Workloads []WorkloadRecommendation `json:"workloads"`
}

// WorkloadRecommendation is for one workload.
type WorkloadRecommendation struct {
	WorkloadRef
	Level      string                    `json:"level"`
	Containers []ContainerRecommendation `json:"containers"`
}

// ContainerRecommendation is what a container should request: CPU in cores, memory in bytes. Lower and Upper bound what is close enough.
// Zero means that nothing is recommended for that resource.
type ContainerRecommendation struct {
	Name    string      `json:"name"`
	CPU     Recommended `json:"cpu,omitzero"`
	Memory  Recommended `json:"memory,omitzero"`
	Days    float64     `json:"days"`    // of usage that was looked at
	Samples int64       `json:"samples"` // that were there
}

// Recommended is a request with the bounds of what is close enough.
type Recommended struct {
	Target float64 `json:"target"`
	Lower  float64 `json:"lower,omitempty"`
	Upper  float64 `json:"upper,omitempty"`
}

// Outcomes tell what became of recommendations: POST /clusters/{arn}/rightsizing/outcomes, with an idempotency key each (ID).
type Outcomes struct {
	SchemaVersion int       `json:"schema_version"`
	Outcomes      []Outcome `json:"outcomes"`
}

// Outcome is one change of one pod, or one that could not be made.
type Outcome struct {
	ID       string      `json:"id"`
	At       time.Time   `json:"at"`
	Workload WorkloadRef `json:"workload"`
	Pod      string      `json:"pod"`
	// Kind is one of those above; Reason says why, for people.
	Kind   string `json:"kind"`
	Reason string `json:"reason,omitempty"`
	// Seq is that of the recommendations that it follows; 0 is the agent's own model.
	Seq uint64 `json:"seq,omitempty"`
}

// OutcomeList is GET /clusters/{arn}/rightsizing/outcomes?since=RFC3339, by time.
type OutcomeList struct {
	Outcomes []Outcome `json:"outcomes"`
	Next     string    `json:"next,omitempty"` // there are more: ask again with after=Next
}

// RightsizingAck answers what is written about rightsizing.
type RightsizingAck struct {
	ReceivedAt time.Time `json:"received_at"`
	Generation int64     `json:"generation,omitempty"` // of the list of workloads that recommendations are made for from now on
	Seq        uint64    `json:"seq,omitempty"`        // of the recommendations that are served from now on
	Stored     int       `json:"stored,omitempty"`     // outcomes that were not known yet
	// Refused are outcomes that were not taken, and never will be; the others were.
	Refused []RefusedOutcome `json:"refused,omitempty"`
}

// RefusedOutcome is one outcome of a delivery that was not taken. ID is the beginning of its ID.
type RefusedOutcome struct {
	Index int    `json:"index"` // from 0
	ID    string `json:"id"`
	Why   string `json:"why"`
}
