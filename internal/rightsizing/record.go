package rightsizing

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Explanation says how a container's recommendation for a resource came to be: usage, the percentile of the level, its margin, then
// what raised or bounded it. It is in the autoscaler's status as explanations. Quantities are requests.
type Explanation struct {
	Container string    `json:"container"`
	Resource  string    `json:"resource"` // cpu, memory
	Level     Level     `json:"level,omitempty"`
	Since     time.Time `json:"since,omitzero"` // of the first sample
	Samples   int       `json:"samples"`

	// Usage of the decaying histogram: median, the level's percentile and the peak.
	Median     resource.Quantity `json:"median"`
	Percentile float64           `json:"percentile"` // 0.9
	AtPercent  resource.Quantity `json:"atPercentile"`
	Peak       resource.Quantity `json:"peak"`
	// Margin is added, as a fraction; Confidence is the factor that little history adds.
	Margin float64           `json:"margin"`
	Local  resource.Quantity `json:"local"` // percentile with margin

	// Held is what a container that ran out of memory is given at least, for OOMHold from HeldSince on. A restart of the recommender finds
	// it here.
	Held      *resource.Quantity `json:"held,omitempty"`
	HeldSince time.Time          `json:"heldSince,omitzero"`

	// Steps are what changed it from there on, in order.
	Steps  []Adjustment      `json:"steps,omitempty"`
	Result resource.Quantity `json:"result"`
}

// Adjustment is one thing that changed a recommendation, or what a pod gets of it: what keeps to the pod, as "jvm", is not in the recommendation's
// explanation, but in the message of its Application.
type Adjustment struct {
	Rule string            `json:"rule"` // "floor", "restart", "platform", "oom", "max", "min", "jvm", "node", "limitRange"
	Why  string            `json:"why"`  // for people
	To   resource.Quantity `json:"to"`
}

// Application is what became of a recommendation, in the autoscaler's status as application; the updater writes it.
type Application struct {
	// State is one of the words below; Message says more.
	State   string    `json:"state"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// NotBefore is when the next change may be, where that is known: the end of a cooldown, the beginning of a window.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// LastChange is when a pod was changed last, and how many pods were since the autoscaler was made.
	LastChange time.Time `json:"lastChange,omitzero"`
	InPlace    int64     `json:"inPlace,omitempty"`
	Evicted    int64     `json:"evicted,omitempty"`
	Failed     int64     `json:"failed,omitempty"`
	// Requests are the largest that pods of the workload have, by container and resource, where steps are bounded: that of a new pod is
	// measured from them.
	Requests map[string]map[string]resource.Quantity `json:"requests,omitempty"`
	// Recent are the changes of the last hour, and those that did not take hold for as long as they count: what budgets, rests and the circuit
	// breaker go by when the updater begins anew. What is older may still be there.
	Recent []Spell `json:"recent,omitempty"`
}

// Spell is what was done within a few minutes.
type Spell struct {
	At      time.Time `json:"at"` // of the last of it
	InPlace int64     `json:"inPlace,omitempty"`
	Evicted int64     `json:"evicted,omitempty"`
	Failed  int64     `json:"failed,omitempty"`
	Why     string    `json:"why,omitempty"` // the last that failed did
}

// States of an application.
const (
	StateApplied    = "Applied"    // every pod has what is recommended, or is close enough
	StatePending    = "Pending"    // to be changed in the next loops
	StateWaiting    = "Waiting"    // for a window, a cooldown, observation, a budget: NotBefore
	StateStopped    = "Stopped"    // the circuit breaker, a pause
	StateElsewhere  = "Elsewhere"  // somebody else's
	StateRecommend  = "Recommend"  // only recommended: dry run, mode Off
	StateLeaving    = "Leaving"    // no policy any more: it goes when its pods have their template's requests again
	StateImpossible = "Impossible" // cannot be done without what is not allowed: Message says what
)
