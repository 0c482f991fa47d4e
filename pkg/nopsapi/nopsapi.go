// Package nopsapi is the contract between the agent stack and the nOps platform: wire types, paths, validation.
//
// It is this project's own open protocol, described in openapi.yaml beside this file and served by internal/platform. It
// is not a description of nOps's servers. What is public about those is kept as it is public: the host
// https://app.nops.io, the header X-Nops-Api-Key, the key format "<client id>.<32 hex>" and the list of clusters under
// /svc/karpenter_manager.
//
// The package is a leaf: it imports the standard library only.
package nopsapi

import (
	"log/slog"
	"time"
)

// Version is the version of the contract. History:
//
//	1: api-keys, clusters, install-config, agent-key, heartbeats, warnings, connectivity
//
// Paths that came later are no new version: a platform that serves them says so in WhoAmI.Features, one that does not answers
// 404 not_offered. Features:
//
//	karpenter: karpenter/market, commitments, inventory, records
const Version = 1

// HeartbeatSchema is the version of what a heartbeat means. It is counted apart from the contract's: a platform takes beats
// of every schema from 1 to this one, for agents are upgraded later than the platform, and refuses newer ones. It goes up
// when an older platform would misread a beat; a new field or a new state is none of that, who does not know it leaves it
// alone. History:
//
//	1: components, pipeline, dropped beats
const HeartbeatSchema = 1

// DefaultHost is where the platform is served.
const DefaultHost = "https://app.nops.io"

// Header names of the contract.
const (
	KeyHeader         = "X-Nops-Api-Key"
	RequestIDHeader   = "X-Request-Id"
	IdempotencyHeader = "Idempotency-Key"
	VersionHeader     = "X-Nops-Contract-Version"
)

// Base is the path below which everything of this contract lies.
const Base = "/svc/k8s_agent/v1"

// PublicClustersPath is the public list of clusters; its query is ?days=N.
const PublicClustersPath = "/svc/karpenter_manager/clusters/"

// Limits of the contract.
const (
	MaxHeartbeatCompressed = 16 << 10 // bytes of a heartbeat that is gzip-compressed
	MaxBody                = 1 << 20  // bytes of any other body, compressed or not, of any unpacked, and of any answer; MaxMarket and MaxInventory are the exceptions
	MinHeartbeatInterval   = 15       // seconds
	MaxHeartbeatInterval   = 900      // seconds
	MaxBootID              = 128      // bytes
	MaxComponents          = 256      // of a heartbeat
	MaxKeyName             = 100      // bytes
	MaxIdempotencyKey      = 200      // bytes
	MaxHeartbeatsPerAnswer = 2000     // of a list; the rest comes with HeartbeatList.Next
)

// Lifetimes of the contract.
const (
	TestLifetime   = 15 * time.Minute // of a connectivity test
	ReplayLifetime = 24 * time.Hour   // of the stored answer to a write with an idempotency key
	ReopenWithin   = 10 * time.Minute // what goes wrong again within it is the same warning, not another one
)

// Scope is what a key may do.
type Scope string

// The scopes. Admin manages keys and includes the others; Install registers clusters and reads install configurations; Agent
// belongs to one cluster and writes what agents report; Read reads.
const (
	ScopeAdmin   Scope = "admin"
	ScopeInstall Scope = "install"
	ScopeAgent   Scope = "agent"
	ScopeRead    Scope = "read"
)

// WhoAmI says what a key is: GET /api-keys/whoami.
type WhoAmI struct {
	KeyID           string   `json:"key_id"`
	CustomerID      string   `json:"customer_id"`
	Scopes          []Scope  `json:"scopes"`
	ClusterARN      string   `json:"cluster_arn,omitempty"` // of an agent key
	ContractVersion int      `json:"contract_version"`
	Features        []string `json:"features,omitempty"` // what this platform offers beyond version 1
}

// Allows says whether the key has a scope, admin including all but agent.
func (w WhoAmI) Allows(scope Scope) bool {
	for _, s := range w.Scopes {
		if s == scope || s == ScopeAdmin && scope != ScopeAgent || s == ScopeInstall && scope == ScopeRead {
			return true
		}
	}
	return false
}

// APIKey is a key without its secret.
type APIKey struct {
	ID         string     `json:"id"`
	Name       string     `json:"name,omitempty"`
	Scopes     []Scope    `json:"scopes"`
	ClusterARN string     `json:"cluster_arn,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
}

// NewAPIKey asks for a key: POST /api-keys.
type NewAPIKey struct {
	Name   string  `json:"name,omitempty"`
	Scopes []Scope `json:"scopes"`
}

// APIKeyCreated is the one answer that holds a key's secret.
type APIKeyCreated struct {
	APIKey
	Key string `json:"key"`
}

// String never shows the secret.
func (k APIKeyCreated) String() string { return "API key " + k.ID }

// GoString never shows the secret.
func (k APIKeyCreated) GoString() string { return "APIKeyCreated{" + k.ID + "}" }

// LogValue never shows the secret.
func (k APIKeyCreated) LogValue() slog.Value { return slog.StringValue(k.String()) }

// APIKeyList is GET /api-keys.
type APIKeyList struct {
	APIKeys []APIKey `json:"api_keys"`
}

// AgentKey is a key for the agents of one cluster: POST /clusters/{arn}/agent-key. Older ones stay valid until revoked.
type AgentKey struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// String never shows the secret.
func (k AgentKey) String() string { return "agent key " + k.ID }

// GoString never shows the secret.
func (k AgentKey) GoString() string { return "AgentKey{" + k.ID + "}" }

// LogValue never shows the secret.
func (k AgentKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Cluster is a registered cluster: PUT and GET /clusters/{arn}.
type Cluster struct {
	ARN          string    `json:"arn"`
	Name         string    `json:"name"`
	Region       string    `json:"region"`
	ClusterID    string    `json:"cluster_id"` // such as "D/M7Yj"; an attribute, never part of a path
	RegisteredAt time.Time `json:"registered_at"`
}

// ClusterList is GET /clusters.
type ClusterList struct {
	Clusters []Cluster `json:"clusters"`
}

// PublicCluster is an element of the public list of clusters.
type PublicCluster struct {
	Name       string `json:"name"`
	ExternalID string `json:"external_id"` // the value of karpenops.clusterId
}

// AMPConfig leads to the customer's workspace of Amazon Managed Prometheus.
type AMPConfig struct {
	WorkspaceID     string `json:"workspace_id"`
	Region          string `json:"region"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

// String never shows a credential.
func (a AMPConfig) String() string { return "workspace " + a.WorkspaceID + " in " + a.Region }

// GoString never shows a credential.
func (a AMPConfig) GoString() string { return "AMPConfig{" + a.String() + "}" }

// LogValue never shows a credential.
func (a AMPConfig) LogValue() slog.Value { return slog.StringValue(a.String()) }

// InstallConfig is all an installation needs besides the key: GET /clusters/{arn}/install-config.
type InstallConfig struct {
	ClusterARN               string    `json:"cluster_arn"`
	ClusterID                string    `json:"cluster_id"`
	AMP                      AMPConfig `json:"amp"`
	ChartVersion             string    `json:"chart_version,omitempty"` // recommended; empty: whatever the installer brings
	DatadogAPIKey            string    `json:"datadog_api_key,omitempty"`
	HeartbeatIntervalSeconds int       `json:"heartbeat_interval_seconds"`
}

// String never shows a credential.
func (c InstallConfig) String() string {
	return "install configuration of " + c.ClusterARN + ": " + c.AMP.String()
}

// GoString never shows a credential.
func (c InstallConfig) GoString() string { return "InstallConfig{" + c.String() + "}" }

// LogValue never shows a credential.
func (c InstallConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Component states of a heartbeat, those of internal/workload. A newer agent may send others: they are kept, and nobody
// takes them for well or wrong.
const (
	StateReady       = "ready"
	StateProgressing = "progressing"
	StateDegraded    = "degraded"
	StateFailed      = "failed"
	StateIdle        = "idle"
)

// ImageStatus is an image that runs.
type ImageStatus struct {
	Container string `json:"container"`
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"` // "sha256:…"
}

// ComponentStatus is the state of one workload of the stack.
type ComponentStatus struct {
	Name            string        `json:"name"`   // "heartbeat", "vmagent", …
	Kind            string        `json:"kind"`   // "Deployment", …
	Object          string        `json:"object"` // "nops/nops-vmagent"
	State           string        `json:"state"`
	Reason          string        `json:"reason,omitempty"`
	Message         string        `json:"message,omitempty"` // stable: no relative times
	Version         string        `json:"version,omitempty"`
	Images          []ImageStatus `json:"images,omitempty"`
	Desired         int32         `json:"desired"`
	Ready           int32         `json:"ready"`
	Restarts        int32         `json:"restarts"`
	LastTermination string        `json:"last_termination,omitempty"` // "OOMKilled", …
	Since           time.Time     `json:"since"`
}

// Pipeline states; of others the same holds.
const (
	PipelineDelivering = "delivering"
	PipelineStarting   = "starting"
	PipelineRefused    = "refused"     // the store answers 4xx
	PipelineBlocked    = "blocked"     // no answer, or 5xx: samples wait in the queue
	PipelineUnknown    = "unknown"     // vmagent could not be asked
	PipelineDisabled   = "not-applied" // container insights is off
)

// PipelineStatus is how vmagent delivers.
type PipelineStatus struct {
	State            string            `json:"state"`
	LastSuccessAt    *time.Time        `json:"last_success_at,omitempty"`
	QueueBytes       int64             `json:"queue_bytes"`
	DroppedPackets   uint64            `json:"dropped_packets"`
	RequestsByStatus map[string]uint64 `json:"requests_by_status,omitempty"` // by status code, or by class where only that is counted: "2xx", "403", "error"
	TargetsUp        int               `json:"targets_up"`
	TargetsTotal     int               `json:"targets_total"`
	LastError        string            `json:"last_error,omitempty"`
}

// AgentInfo says which agent speaks.
type AgentInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// ReleaseInfo says which release the agent belongs to.
type ReleaseInfo struct {
	Name         string `json:"name"`
	Namespace    string `json:"namespace"`
	ChartVersion string `json:"chart_version,omitempty"`
}

// Heartbeat is one beat: POST /clusters/{arn}/heartbeats, gzip, at most MaxHeartbeatCompressed bytes, with an idempotency key.
type Heartbeat struct {
	SchemaVersion  int               `json:"schema_version"` // HeartbeatSchema
	BootID         string            `json:"boot_id"`        // new at each start of the agent
	Seq            uint64            `json:"seq"`            // from 1, without gaps within a boot
	ObservedAt     time.Time         `json:"observed_at"`
	SentAt         time.Time         `json:"sent_at"`
	Full           bool              `json:"full"` // all components; otherwise only those that changed
	Agent          AgentInfo         `json:"agent"`
	Release        ReleaseInfo       `json:"release"`
	KubernetesInfo KubernetesInfo    `json:"kubernetes"`
	Components     []ComponentStatus `json:"components"`
	Pipeline       *PipelineStatus   `json:"pipeline,omitempty"`
	DroppedBeats   uint64            `json:"dropped_beats"` // lost to the bound of the agent's queue since its start
}

// KubernetesInfo names the cluster's version.
type KubernetesInfo struct {
	Version string `json:"version,omitempty"`
}

// HeartbeatAck answers a beat.
type HeartbeatAck struct {
	IntervalSeconds int       `json:"interval_seconds"` // until the next one
	Resync          bool      `json:"resync"`           // send a full one next
	ServerTime      time.Time `json:"server_time"`
	Notices         []string  `json:"notices,omitempty"`
}

// HeartbeatReceived is a beat as the platform stored it.
type HeartbeatReceived struct {
	BootID     string    `json:"boot_id"`
	Seq        uint64    `json:"seq"`
	ObservedAt time.Time `json:"observed_at"`
	ReceivedAt time.Time `json:"received_at"`
}

// HeartbeatList is GET /clusters/{arn}/heartbeats?since=RFC3339, by time of observation.
type HeartbeatList struct {
	Heartbeats []HeartbeatReceived `json:"heartbeats"`
	Next       string              `json:"next,omitempty"`   // there are more: ask again with after=Next
	Latest     *Heartbeat          `json:"latest,omitempty"` // components merged to the full state
}

// Kinds of warnings.
const (
	WarningMissedHeartbeats = "missed-heartbeats"
	WarningComponent        = "component-failing"
	WarningPipeline         = "pipeline-broken"
)

// States of a warning.
const (
	WarningOpen   = "open"
	WarningClosed = "closed"
)

// Warning is something wrong with a cluster. It opens once and closes on recovery.
type Warning struct {
	ID             string     `json:"id"`
	ClusterARN     string     `json:"cluster_arn"`
	Kind           string     `json:"kind"`
	Component      string     `json:"component,omitempty"`
	Message        string     `json:"message"`
	State          string     `json:"state"` // "open" or "closed"
	OpenedAt       time.Time  `json:"opened_at"`
	ClosedAt       *time.Time `json:"closed_at,omitempty"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty"`
}

// WarningList is GET /clusters/{arn}/warnings?state=open|closed.
type WarningList struct {
	Warnings []Warning `json:"warnings"`
}

// ConnectivityTest is a test in progress: POST /clusters/{arn}/connectivity-tests.
type ConnectivityTest struct {
	ID        string    `json:"id"`
	Nonce     string    `json:"nonce"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Where an observation is made.
const (
	FromHere    = "here"    // the machine of the person who tests
	FromCluster = "cluster" // a pod of the cluster
)

// Observation says that somebody with the nonce reached the platform: POST /clusters/{arn}/connectivity-tests/{id}/observations.
type Observation struct {
	Nonce string    `json:"nonce"`
	From  string    `json:"from"` // "here" or "cluster"
	At    time.Time `json:"at"`   // by the platform's clock; ignored in requests
}

// HeartbeatSeen is the newest beat of a cluster.
type HeartbeatSeen struct {
	ObservedAt time.Time         `json:"observed_at"`
	ReceivedAt time.Time         `json:"received_at"`
	BootID     string            `json:"boot_id"`
	Seq        uint64            `json:"seq"`
	Components []ComponentStatus `json:"components,omitempty"`
	Pipeline   *PipelineStatus   `json:"pipeline,omitempty"`
}

// SampleSeen is the newest sample of a cluster in the metrics store.
type SampleSeen struct {
	At     time.Time `json:"at"`
	Series int       `json:"series"`
}

// Seen is a moment at which the platform heard of something.
type Seen struct {
	At time.Time `json:"at"`
}

// ConnectivityView is what the platform has seen of a cluster: GET /clusters/{arn}/connectivity and …/connectivity-tests/{id}.
type ConnectivityView struct {
	ClusterARN      string         `json:"cluster_arn"`
	ServerTime      time.Time      `json:"server_time"`
	Test            string         `json:"test,omitempty"`       // ID of the test that was asked for
	NonceSeen       []Observation  `json:"nonce_seen,omitempty"` // of that test
	LastHeartbeat   *HeartbeatSeen `json:"last_heartbeat,omitempty"`
	LastSample      *SampleSeen    `json:"last_sample,omitempty"`
	SampleError     string         `json:"sample_error,omitempty"` // why the metrics store could not be asked
	LastDataFetcher *Seen          `json:"last_data_fetcher,omitempty"`
	LastKarpenops   *Seen          `json:"last_karpenops,omitempty"`
	Warnings        []Warning      `json:"warnings,omitempty"` // open ones
}

// ErrorBody is the body of every refusal.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail says what was refused and why.
type ErrorDetail struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
}

// Error codes of the contract, those of the public API where it has one.
const (
	CodeInvalidRequest     = "invalid_request"     // 400
	CodeMissingCredentials = "missing_credentials" // 401
	CodeInvalidCredentials = "invalid_credentials" // 401
	CodeForbiddenScope     = "forbidden_scope"     // 403
	CodeNotFound           = "not_found"           // 404: the thing is not there
	CodeNotOffered         = "not_offered"         // 404: the path is not of the version that this platform serves
	CodeMethodNotAllowed   = "method_not_allowed"  // 405
	CodeConflict           = "conflict"            // 409
	CodeTooLarge           = "too_large"           // 413
	CodeRateLimited        = "rate_limited"        // 429, with Retry-After
	CodeInternal           = "internal"            // 500
	CodeUnavailable        = "unavailable"         // 503
)
