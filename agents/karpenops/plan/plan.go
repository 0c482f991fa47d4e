// Package plan decides what karpenops does to NodePools. It is pure and deterministic: the same input gives the same plan, byte for byte,
// whatever the order of its lists; no client, no clock, no randomness.
//
// It prefers, in this order: nothing; a NodePool of its own beside the user's (a sibling); weight and limits of its own; a NodeOverlay
// scoped to its own; and, where the user opted in, narrowing the user's NodePool. Whatever cannot be done without replacing nodes that the user did
// not agree to is a finding.
package plan

import (
	"slices"
	"time"

	"github.com/nopsctl/nopsctl/agents/karpenops/offering"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// Input is all that a plan depends on.
type Input struct {
	Now         time.Time
	Config      Config
	Karpenter   karpenstate.Karpenter
	Pools       []Pool
	Nodes       []Node
	Shapes      []Shape              // of pods, pending and running
	Zones       map[string]string    // zone ID → the account's name of the zone
	Market      *nopsapi.Market      // nil: none that is valid now, so nothing is decided by it
	Commitments *nopsapi.Commitments // nil: likewise
	NodeClasses []map[string]any     // whole, for findings alone; nil: nothing is said of them
	Memory      Memory
}

// Config is what the operator may set; the zero value means the defaults named (WithDefaults fills them in).
type Config struct {
	Mode           karpenstate.Mode `json:"mode"`           // siblings
	Lo             int              `json:"lo"`             // 3: a placement score this low, or lower, counts against a family
	Hi             int              `json:"hi"`             // 6: this high, or higher, for it
	Exclude        int              `json:"exclude"`        // 3 samples in a row exclude
	Readmit        int              `json:"readmit"`        // 6 samples in a row readmit
	Dwell          time.Duration    `json:"dwell"`          // 6 h at least between two flips of one gate
	FlipsPerDay    int              `json:"flipsPerDay"`    // 4 of one pool
	SampleTTL      time.Duration    `json:"sampleTTL"`      // 2 h: older samples are dropped
	RestartCost    float64          `json:"restartCost"`    // 0.01 USD per vCPU: what an interruption costs
	MinSaving      float64          `json:"minSaving"`      // 0.02: share of the cost below which nothing is done
	MinTypes       int              `json:"minTypes"`       // 10, and 15 where spot-to-spot consolidation is on
	MinFamilies    int              `json:"minFamilies"`    // 5
	MinZones       int              `json:"minZones"`       // 3
	MinFits        int              `json:"minFits"`        // 3 types that fit each shape of pods
	Headroom       float64          `json:"headroom"`       // 0.9 of what a commitment leaves
	RampUp         int              `json:"rampUp"`         // 16 vCPU a tick
	RampDown       int              `json:"rampDown"`       // 8 vCPU a tick
	DeadBand       float64          `json:"deadBand"`       // 0.1 of the limit, or the largest node
	ExpiryTaper    time.Duration    `json:"expiryTaper"`    // 72 h before a commitment ends
	DriftCap       int              `json:"driftCap"`       // 0 nodes predicted to drift by an edit in place
	WritesPerHour  int              `json:"writesPerHour"`  // 10
	SiblingsPerRun int              `json:"siblingsPerRun"` // 1 new NodePool a tick
}

// Pool is a NodePool with what is known about it. Object is the whole of it, as the API server gave it.
type Pool struct {
	Name         string
	Object       map[string]any
	Managed      bool // opted in
	Owned        bool // made by karpenops
	Static       bool // has spec.replicas: left alone
	Base         string
	Purpose      string
	Commitments  []string
	Mode         karpenstate.Mode // the lesser of the agent's and the pool's
	Paused       string           // why nothing may be written to it, or ""
	Ready        bool
	Nodes        int
	Weight       int // 0: unset
	Requirements offering.Requirements
	Labels       map[string]string // of spec.template.metadata
	CPULimit     *float64          // vCPU; nil: none
	MemoryLimit  *float64          // bytes; nil: none
	CPUUsed      float64           // vCPU, of status.resources
	MemoryUsed   float64           // bytes
	Zones        []string          // that its NodeClass reaches; nil: not known, all
	DriftBudget  int               // nodes that may be disrupted for drift now; -1: as many as there are
	Overlay      *Overlay          // of ours, scoped to it
	Schedules    []string          // what of its disruption budgets and freeze windows cannot be read or never comes, in sentences
}

// Overlay is a NodeOverlay of ours.
type Overlay struct {
	Name  string
	Price string // USD an hour, as the object has it in spec.price
	// Adjustment is what it has in spec.priceAdjustment. Ours have that and no price: one price for all sizes would make the largest machine as
	// cheap as the smallest. Where both fields are empty nothing is known, and nothing is repaired.
	Adjustment string
}

// Node is a NodeClaim with its node's labels.
type Node struct {
	Name     string // of the NodeClaim
	Pool     string
	Labels   map[string]string
	VCPU     float64
	Requests float64 // vCPU that pods ask for on it
	Drifted  string
	Deleting bool
	Created  time.Time
}

// Shape is what a kind of pod asks for.
type Shape struct {
	CPU       float64 // vCPU
	MemoryMiB float64
	Selector  offering.Requirements // from nodeSelector and required node affinity, as far as one list can say it
	Pools     []string              // that it can run on by taints and labels; nil: all
	Count     int
	Pending   int
}

// ActionKind is what an action does.
type ActionKind string

// The kinds of actions.
const (
	CreateSibling ActionKind = "create-sibling"
	SetLimits     ActionKind = "set-limits" // of a sibling; to 0 closes it
	SetWeight     ActionKind = "set-weight" // of a sibling
	// SetRequirements of a sibling, only where no node of its is predicted to drift.
	SetRequirements ActionKind = "set-requirements"
	SetDisruption   ActionKind = "set-disruption" // of a sibling, which follows its base: a budget that the user closes is closed for both
	DrainSibling    ActionKind = "drain-sibling"  // limits.cpu 0, and its nodes replaced as the budgets allow
	DeleteSibling   ActionKind = "delete-sibling" // never before it has no nodes
	CreateOverlay   ActionKind = "create-overlay"
	SetOverlay      ActionKind = "set-overlay"
	DeleteOverlay   ActionKind = "delete-overlay" // only together with the sibling
	Narrow          ActionKind = "narrow"         // requirements of the user's pool, in place
	Restore         ActionKind = "restore"        // what Narrow changed
)

// Action is one write. Changes are exact, so that it is made only where the object still is what the plan was made for.
type Action struct {
	ID         string         `json:"id"` // of what it does: the same action has the same ID
	Kind       ActionKind     `json:"kind"`
	ObjectKind string         `json:"objectKind"` // "NodePool" or "NodeOverlay"
	Name       string         `json:"name"`
	Base       string         `json:"base,omitempty"`    // the user's pool it is about
	Object     map[string]any `json:"object,omitempty"`  // whole, of the kinds that create
	Changes    []Change       `json:"changes,omitempty"` // of the kinds that edit
	Drift      []string       `json:"drift,omitempty"`   // NodeClaims predicted to drift
	Reason     string         `json:"reason"`
	// Flip is the NodePool whose choice it changes because a gate turned, which FlipsPerDay bounds; "": none.
	Flip string `json:"flip,omitempty"`
	// Waiting says why it is planned and not to be carried out now: a mode that does not go so far, a pause. "": to be carried out.
	Waiting string `json:"waiting,omitempty"`
}

// Change is of one field. Path is a JSON pointer; nil is absent.
type Change struct {
	Path   string `json:"path"`
	Before any    `json:"before"`
	After  any    `json:"after"`
}

// Plan is what is to be done, why, and what to remember for the next time.
type Plan struct {
	Actions  []Action                   `json:"actions"`
	Findings []nopsapi.KarpenterFinding `json:"findings"`
	Why      map[string][]string        `json:"why"` // by pool: each step of what was decided
	Holding  string                     `json:"holding,omitempty"`
	Memory   Memory                     `json:"-"`
}

// Memory is what one plan hands to the next. It is a value: Make never changes the one it is given. What was planned is not in it, for it may never be written:
// whoever carries an action out says so by Applied, before the next plan.
type Memory struct {
	Schema int                `json:"schema"`           // 1; of another one nothing is taken over
	Series map[string]Series  `json:"series,omitempty"` // by "type/zone/capacity type"
	Gates  map[string]Gate    `json:"gates,omitempty"`  // by "family" or "family/zone"
	Flips  map[string][]int64 `json:"flips,omitempty"`  // by pool: unix seconds of the last day's
	Writes []int64            `json:"writes,omitempty"` // unix seconds of the last hour's
}

// Applied is the memory after an action was written. A refused one was not, and uses up nothing; one that was undone later was, and stays counted.
func (m Memory) Applied(a Action, at time.Time) Memory {
	m = clone(m)
	m.Writes = append(m.Writes, at.Unix())
	if a.Flip != "" {
		m.Flips[a.Flip] = append(slices.Clone(m.Flips[a.Flip]), at.Unix())
	}
	return m
}

// Series are the last samples of an offering.
type Series struct {
	At     []int64   `json:"at"` // unix seconds, oldest first
	Scores []float64 `json:"scores"`
	Price  float64   `json:"price"`
	Smooth float64   `json:"smooth"` // of the scores
}

// Gate is a Schmitt trigger.
type Gate struct {
	Excluded bool   `json:"excluded"`
	Since    int64  `json:"since"` // unix seconds
	Bad      int    `json:"bad"`   // samples in a row
	Good     int    `json:"good"`
	LastSeq  uint64 `json:"lastSeq"`        // market it counted last: one document counts once
	Seen     int64  `json:"seen"`           // unix seconds of the newest observation counted: what was not observed again does not count again
	Cost     bool   `json:"cost,omitempty"` // it is excluded because spot costs as much as on demand, and may be readmitted by that alone
}
