// Package karpenops is the agent that tunes Karpenter to spot markets and commitments, in NodePools that opted in and in no others.
//
// # Reads
//
// NodePools, NodeClaims, node classes and NodeOverlays; of nodes where they are; of pods what they ask for. By watching; what is not needed is
// dropped the moment it arrives, the user data of node classes above all. And facts: what instances cost and how likely they are to be had, and what the customer has
// committed to. They come from the platform, or from a ConfigMap (--facts=configmap:NAME, keys market.json and commitments.json, gzip or not). A
// document of facts is taken whole or not at all (intake.go), and states facts alone: nothing in it names an object of the cluster or says how to change one.
//
// # Decides
//
// Package plan decides, from one snapshot, and is pure. Without facts that are valid now, or while what the cluster has is not known, it holds: nothing is
// decided, nothing is undone.
//
// # Changes
//
// Package write writes: NodePools of our own beside the user's, NodeOverlays scoped to them from mode overlays on, the user's NodePools from mode in-place on. Settings of
// node classes are findings; a person approves one (the command approve), where the chart grants it. It never deletes nodes or
// NodeClaims, and no NodePool that has nodes. Besides: Events on NodePools, and one ConfigMap, nops-karpenops-state, which holds what it sees and intends (status.json), what
// it did (ledger.json) and what it has to remember. The ConfigMap has no owner: it must outlive the workload, for revert is made of it.
//
// # Sends
//
// The inventory and the ledger, to the platform; queued while that is away. No environment, no credential, no user data.
//
// Of several replicas one works (a Lease); the commands that write, run as Jobs, are kept apart from it by the journal in the ConfigMap (package write).
//
// # RBAC
//
// The chart's roles must equal these tables (a test compares them). Each right has a story that ends otherwise without it (rbac_test.go).
// Where Kubernetes has ValidatingAdmissionPolicy (1.30), one of that name holds create and delete to what is ours: the label karpenops.nops.io/owned, which no
// update may add, and no nodes.
//
// ClusterRole nops-karpenops:
//
//	| API group         | resources              | names | verbs                                   |
//	|-------------------|------------------------|-------|-----------------------------------------|
//	| karpenter.sh      | nodepools              |       | get, list, watch, create, patch, delete |
//	| karpenter.sh      | nodeclaims             |       | list, watch                             |
//	| karpenter.sh      | nodeoverlays           |       | get, list, watch, delete                |
//	| karpenter.k8s.aws | ec2nodeclasses         |       | list, watch                             |
//	| eks.amazonaws.com | nodeclasses            |       | list, watch                             |
//	|                   | nodes, pods            |       | list, watch                             |
//	|                   | events                 |       | create, list                            |
//
// With karpenops.mode overlays or in-place (deleting is always granted: what is its own must be taken back after the mode was lowered, too):
//
// ClusterRole nops-karpenops-overlays:
//
//	| API group         | resources              | names | verbs                                   |
//	|-------------------|------------------------|-------|-----------------------------------------|
//	| karpenter.sh      | nodeoverlays           |       | create, patch                           |
//
// With karpenops.allowNodeClassApproval:
//
// ClusterRole nops-karpenops-node-classes:
//
//	| API group         | resources              | names | verbs                                   |
//	|-------------------|------------------------|-------|-----------------------------------------|
//	| karpenter.k8s.aws | ec2nodeclasses         |       | get, patch                              |
//	| eks.amazonaws.com | nodeclasses            |       | get, patch                              |
//
// Role nops-karpenops:
//
//	| API group           | resources            | names                | verbs       |
//	|---------------------|----------------------|----------------------|-------------|
//	|                     | configmaps           |                      | create      |
//	|                     | configmaps           | nops-karpenops-state | get, patch  |
//	| coordination.k8s.io | leases               |                      | create      |
//	| coordination.k8s.io | leases               | nops-karpenops       | get, update |
//
// With karpenops.facts of a ConfigMap, get on the one of that name:
//
// Role nops-karpenops-facts:
//
//	| API group           | resources            | names                | verbs       |
//	|---------------------|----------------------|----------------------|-------------|
//	|                     | configmaps           | nops-karpenops-facts | get         |
package karpenops
