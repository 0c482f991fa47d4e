// Package write carries out what package plan decided, and takes it back. It plans nothing and never speaks to the platform.
//
// # One write
//
// Every write goes the same way, and each step may end it with a Refusal: the pause and the freeze windows of the cluster and of the pool; the
// object, which must still be what the plan was made for; whom its fields belong to (managed fields, and a server-side apply that is neither
// forced nor kept); the invariants (which kinds, which fields, whose objects, weights, and that something is left to launch); how many nodes
// may drift; the same write with dryRun=All and fieldValidation=Strict, whose result may differ in nothing but what was meant; an intent in the
// ConfigMap; the write itself on the condition of the resourceVersion that all this was looked up at; and the record.
//
// The intent is written on the condition of the ConfigMap's resourceVersion at which nothing was paused. So a pause comes either before the
// intent, and the write is refused, or after it, and whoever paused sees that there is one to wait for: Revert runs beside the agent
// without a lock. An intent without a record is what a crash leaves; Settle looks at the object and writes the record.
//
// # After it
//
// For a window (five minutes) Settle holds the write against what Karpenter makes of it: conditions, nodes that drift and were not predicted
// to, a NodePool that nothing is left for, launches that fail. If it goes ill the write is undone and its pool left alone for a while.
// An undo is not held up by a freeze window, which is there to keep things as they were; it is by a pause, which is somebody's word.
//
// # Whose fields
//
// A field that a GitOps tool manages is never taken. A person's field is taken where the NodePool itself says so, by the annotation
// karpenops.nops.io/mode: in-place, or where a person approved the very change. spec.template.spec.requirements is required, hence always
// somebody's: without that rule nothing could ever be narrowed in place.
//
// What is changed in place is kept, as it was, in the annotation karpenops.nops.io/original beside it (no drift follows from annotations of the
// object), and given back only where the field still has our value: an edit by somebody else wins.
//
// # Siblings
//
// A sibling is drained by limits.cpu "0", so that it launches nothing, and an annotation of its template, so that its nodes drift: Karpenter
// then moves them within the disruption budgets. The limit alone would do only where something cheaper is at hand: four spot nodes beside a spot base did not
// move for as long as we watched (70 s), and were gone 45 s after the annotation, one at a time, each pod moved once (Karpenter v1.14.1, budget 1).
// It is deleted when it has no nodes, and not before: Karpenter deletes the nodes of a NodePool that is deleted at once, whatever the budgets.
//
// # RBAC
//
//	| API group              | resources              | names                 | verbs                                    | why                             |
//	|------------------------|------------------------|-----------------------|------------------------------------------|---------------------------------|
//	| karpenter.sh           | nodepools              |                       | get, list, patch, create, delete         | siblings; narrowing, annotations |
//	| karpenter.sh           | nodeoverlays           |                       | get, list, patch, create, delete         | overlays of siblings            |
//	| karpenter.sh           | nodeclaims             |                       | list                                     | what drifts, what is empty      |
//	|                        | nodes                  |                       | list                                     | what is empty                   |
//	|                        | events                 |                       | create in default, list everywhere       | what is said about NodePools    |
//	|                        | configmaps             |                       | create in its own namespace              | the ledger                      |
//	|                        | configmaps             | nops-karpenops-state  | get, patch in its own namespace          |                                 |
//	| of the node classes    | of the node classes    |                       | get, patch                               | approve, and only there         |
package write
