// Package connectivity is Test Connectivity: it proves that data flows, and when it does not, says where it stops and what
// to do.
//
// A run has three legs, each a different view of the same path:
//
//   - here: from this machine to the nOps API and the image registry;
//   - cluster: from inside the cluster, by a Job with the image, environment and identity of the heartbeat agent, to the nOps
//     API and the metrics store; and what vmagent itself says of its deliveries;
//   - platform: what the platform has seen: the nonce of this very run, the last heartbeat, the last sample.
//
// A connection is taken apart into stages: dns, tcp, tls, http, auth, data. Every check has a stable ID (Catalog) and ends
// in one outcome; a check that could not be made is skipped or unknown and says why, it never passes. A run cleans up after
// itself, also when it is cancelled.
package connectivity

// Leg is a point of view.
type Leg string

// The legs.
const (
	Here     Leg = "here"
	Cluster  Leg = "cluster"
	Platform Leg = "platform"
)

// Legs are all of them, in the order they are run.
func Legs() []Leg { return []Leg{Here, Cluster, Platform} }

// Title names a leg for people.
func (l Leg) Title() string {
	switch l {
	case Here:
		return "from here"
	case Cluster:
		return "from inside the cluster"
	case Platform:
		return "as the platform sees it"
	}
	return string(l)
}

// Stages of a check beyond those of package probe.
const (
	StagePod   = "pod"   // the probe itself runs in the cluster
	StageClock = "clock" // clocks agree
	StageNonce = "nonce" // the platform received the nonce of this run
)
