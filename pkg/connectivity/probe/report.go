package probe

import "time"

// ReportSchema is the version of Report: 1 is the first.
const ReportSchema = 1

// Names of targets in a Report of the heartbeat agent.
const (
	TargetNOps = "nops-api"
	TargetAMP  = "amp"
)

// Report is what `k8s-heartbeat-agent probe` prints: how things look from inside the cluster.
type Report struct {
	SchemaVersion int       `json:"schema_version"`
	AgentVersion  string    `json:"agent_version"`
	At            time.Time `json:"at"`
	Namespace     string    `json:"namespace,omitempty"`
	ClusterARN    string    `json:"cluster_arn,omitempty"`
	TestID        string    `json:"test_id,omitempty"`
	// Results of the targets: TargetNOps with a StageAuth at its end, TargetAMP when an address was given.
	Results []Result `json:"results"`
	// Vmagent is what the metrics shipper itself says of its deliveries; nil when nobody told us where it is.
	Vmagent *Delivery `json:"vmagent,omitempty"`
	// Observation says whether the nonce was posted; nil when none was given.
	Observation *Observation `json:"observation,omitempty"`
}

// Result finds a result by the name of its target.
func (r Report) Result(target string) (Result, bool) {
	for _, res := range r.Results {
		if res.Target == target {
			return res, true
		}
	}
	return Result{}, false
}

// Observation is the attempt to tell the platform the nonce of a connectivity test.
type Observation struct {
	Posted bool   `json:"posted"`
	Error  string `json:"error,omitempty"`
}

// DeliveryState says what becomes of the samples.
type DeliveryState string

// The states of delivery.
const (
	Delivering  DeliveryState = "delivering"  // the store accepts
	Refused     DeliveryState = "refused"     // the store answers, and says no (4xx): somebody has to do something
	Blocked     DeliveryState = "blocked"     // the store throttles or has trouble of its own (429, 5xx): samples wait
	Unreachable DeliveryState = "unreachable" // requests end without an answer
	Idle        DeliveryState = "idle"        // nothing was sent lately, and nothing shows why it should fail
	Unknown     DeliveryState = "unknown"     // vmagent could not be asked
)

// StatusError is the key in Delivery's maps under which requests without any answer are counted.
const StatusError = "error"

// Delivery is what vmagent says of itself. Counters are since vmagent's start, except the recent ones.
type Delivery struct {
	URL    string        `json:"url"`
	State  DeliveryState `json:"state"`
	Detail string        `json:"detail"`          // one stable sentence
	Error  string        `json:"error,omitempty"` // why vmagent could not be asked
	// RequestsByStatus counts remote-write requests: "2xx", "400", "403" …, and StatusError.
	RequestsByStatus map[string]uint64 `json:"requests_by_status,omitempty"`
	// RecentByStatus counts those between the two looks at vmagent.
	RecentByStatus map[string]uint64 `json:"recent_by_status,omitempty"`
	WindowMillis   int64             `json:"window_millis,omitempty"`
	QueueBytes     uint64            `json:"queue_bytes"`
	DroppedPackets uint64            `json:"dropped_packets"`
	TargetsUp      int               `json:"targets_up"`
	TargetsTotal   int               `json:"targets_total"`
	UptimeSeconds  uint64            `json:"uptime_seconds,omitempty"` // of vmagent; a target counts as down until its first scrape
}
