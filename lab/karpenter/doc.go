// Package karpenter runs Karpenter in a lab: the real controller with its kwok provider, and kwok in the place of the kubelets
// of the nodes that it launches. It is on only where somebody asked for it, because Karpenter's API being there changes what
// nopsctl installs.
//
// The nodes are fake, everything else is real: scheduling, limits, budgets, drift, consolidation. What is not as on EC2: nodes
// are there at once unless the node class says otherwise (nodeRegistrationDelay); no launch ever fails; the provider launches
// the cheapest type and zone by the catalogue's own prices, whatever a NodeOverlay says, which is obeyed by scheduling and
// consolidation alone. Pods of the lab's own node and fake ones do not mix where NodePools carry Taint and workloads Tolerate it.
package karpenter
