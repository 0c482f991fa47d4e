// Package karpenstate is what karpenops records in its cluster, in the ConfigMap nops-karpenops-state: for nopsctl, for people with
// kubectl, and for itself after a restart. The agent alone writes it, but for Pause, which anybody may set who may patch the ConfigMap.
//
// The package is a leaf: it imports the standard library and the contract's types only.
package karpenstate

import (
	"fmt"
	"time"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// ConfigMap is the object's name; it lies in the namespace of the stack.
const ConfigMap = "nops-karpenops-state"

// Keys of the ConfigMap's data.
const (
	KeyStatus  = "status.json"  // Status
	KeyLedger  = "ledger.json"  // Ledger
	KeyJournal = "journal.json" // the agent's own: what it has under way
	KeyMemory  = "memory.gz"    // in binaryData, the agent's own: what it has to remember between restarts
)

// Annotations and labels. Everything of ours lies below karpenops.nops.io/.
const (
	AnnotationPaused     = "karpenops.nops.io/paused"      // on a NodePool or on the ConfigMap: nothing is written, see PausedBy
	AnnotationPausedBy   = "karpenops.nops.io/paused-by"   // who, and why
	AnnotationManaged    = "karpenops.nops.io/managed"     // "true" on a NodePool opts it in, "false" opts it out whatever else says
	AnnotationMode       = "karpenops.nops.io/mode"        // Mode of this pool, below or equal to the agent's
	AnnotationFreeze     = "karpenops.nops.io/freeze"      // windows in which nothing is written: "CRON DURATION; …", UTC, as in disruption budgets
	AnnotationOriginal   = "karpenops.nops.io/original"    // on a NodePool edited in place: what undo restores, by path
	AnnotationBase       = "karpenops.nops.io/base"        // on a sibling: the NodePool it is made from
	AnnotationPurpose    = "karpenops.nops.io/purpose"     // on a sibling: PurposeSpot or PurposeCommitment
	AnnotationCommitment = "karpenops.nops.io/commitments" // on a sibling: IDs, separated by commas
	LabelOwned           = "karpenops.nops.io/owned"       // "true" on what the agent made
	AnnotationImported   = "imported_by"                   // "nops" opts a NodePool in: the published marker
	ImportedByNops       = "nops"
)

// PausedBy says by whom, and why, what carries these annotations is paused, "" if it is not. Without the annotation, and with "false", it is not. Whatever
// else somebody wrote is taken for a pause, and said: who mistypes "true" wants a pause, and who mistypes "false" finds out why nothing happens.
func PausedBy(annotations map[string]string) string {
	value, there := annotations[AnnotationPaused]
	if !there || value == "false" {
		return ""
	}
	by := annotations[AnnotationPausedBy]
	if by == "" {
		by = "somebody who left no name"
	}
	if value != "true" {
		const most = 40
		if r := []rune(value); len(r) > most {
			value = string(r[:most]) + "…"
		}
		by += fmt.Sprintf(" (annotation %s is %q, which is neither true nor false and pauses)", AnnotationPaused, value)
	}
	return by
}

// Purposes of siblings.
const (
	PurposeSpot       = "spot"
	PurposeCommitment = "commitment"
)

// Mode is how far the agent goes. Each includes those before.
type Mode string

// The modes.
const (
	ModeObserve  Mode = "observe"  // reports
	ModeAdvise   Mode = "advise"   // plans, and writes nothing
	ModeSiblings Mode = "siblings" // makes NodePools of its own beside the user's
	ModeOverlays Mode = "overlays" // and NodeOverlays scoped to them, where Karpenter's gate is on
	ModeInPlace  Mode = "in-place" // and narrows the user's pool where no node is predicted to drift, or few enough
)

// Modes are all modes, least first.
func Modes() []Mode { return []Mode{ModeObserve, ModeAdvise, ModeSiblings, ModeOverlays, ModeInPlace} }

// Includes says whether a mode goes at least as far as another. A mode that is not known includes nothing.
func (m Mode) Includes(other Mode) bool {
	rank := func(m Mode) int {
		for i, known := range Modes() {
			if m == known {
				return i
			}
		}
		return -1
	}
	return rank(m) >= 0 && rank(m) >= rank(other)
}

// LookEvery is how long the agent looks without writing that it did, where nothing changes.
const LookEvery = 5 * time.Minute

// Status is what the agent sees and intends.
type Status struct {
	SchemaVersion int       `json:"schema_version"` // 1
	At            time.Time `json:"at"`             // of the last change of what follows
	// LookedAt is when the agent looked last and found it so, written at least each LookEvery: what tells an agent with nothing to say from one that is gone.
	// Zero: of an agent that did not say it yet.
	LookedAt    time.Time `json:"looked_at,omitzero"`
	Version     string    `json:"version"`
	Mode        Mode      `json:"mode"`
	Paused      string    `json:"paused,omitempty"`  // by whom and why, or what freeze window; empty: not
	Holding     string    `json:"holding,omitempty"` // why nothing is decided: "no market since …", "replayed payload", …
	Karpenter   Karpenter `json:"karpenter"`
	Market      Fact      `json:"market"`
	Commitments Fact      `json:"commitments"`
	Pools       []Pool    `json:"pools"`
	// Pending are the actions that the last plan holds and that are not carried out yet, with the reason why not.
	Pending  []Pending                  `json:"pending,omitempty"`
	Findings []nopsapi.KarpenterFinding `json:"findings,omitempty"`
}

// Karpenter is what was found of it.
type Karpenter struct {
	APIVersions      []string `json:"api_versions"`
	Writable         bool     `json:"writable"` // karpenter.sh/v1 is served
	NodeOverlay      bool     `json:"node_overlay"`
	SpotToSpot       bool     `json:"spot_to_spot"`
	NodeClassKinds   []string `json:"node_class_kinds,omitempty"`
	DetectionProblem string   `json:"detection_problem,omitempty"`
}

// Fact is a document of facts as far as it was accepted.
type Fact struct {
	Seq        uint64    `json:"seq,omitempty"`
	AsOf       time.Time `json:"as_of,omitzero"`
	ValidUntil time.Time `json:"valid_until,omitzero"`
	Problem    string    `json:"problem,omitempty"` // of the last one that was not accepted, or of asking for it
}

// Pool is a NodePool as the agent sees it.
type Pool struct {
	Name       string   `json:"name"`
	Managed    bool     `json:"managed"`
	Owned      bool     `json:"owned,omitempty"`
	Base       string   `json:"base,omitempty"`
	Purpose    string   `json:"purpose,omitempty"`
	Mode       Mode     `json:"mode,omitempty"`
	Paused     string   `json:"paused,omitempty"`
	Ready      bool     `json:"ready"`
	Nodes      int      `json:"nodes"`
	Weight     int      `json:"weight,omitempty"`
	CPULimit   string   `json:"cpu_limit,omitempty"`
	CPUUsed    string   `json:"cpu_used,omitempty"`
	Offerings  int      `json:"offerings"` // that it can launch, of those known
	Owners     []string `json:"owners,omitempty"`
	Why        []string `json:"why,omitempty"`         // of what was decided, each line a step, for explain
	LastAction string   `json:"last_action,omitempty"` // ID in the ledger
}

// Pending is an action that waits.
type Pending struct {
	ID      string `json:"id"`
	Action  string `json:"action"`
	Object  string `json:"object"`
	Reason  string `json:"reason"`  // why it is wanted
	Waiting string `json:"waiting"` // what for: "mode advise", "freeze until …", "rate limit until …", "approval"
	Drift   int    `json:"drift"`   // nodes predicted to be replaced
}

// Ledger is what the agent did, newest last, as many as fit.
type Ledger struct {
	SchemaVersion int                       `json:"schema_version"` // 1
	Entries       []nopsapi.KarpenterRecord `json:"entries"`
}

// MaxEntries of a ledger that are kept.
const MaxEntries = 200
