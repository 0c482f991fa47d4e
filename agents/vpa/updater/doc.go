// Package updater applies recommendations to pods that run: in place first, by eviction only where that is allowed.
//
// The loop is our own, upon upstream's parts: its restriction counts what a workload can spare and writes resizes and evictions, its
// calculators make the patches, its priorities order pods. Upstream's loop around them could not be used. It asks the Lease of the
// admission controller before anything, where a resize does not need the webhook. It falls back from a resize to an eviction without
// asking again whether an eviction is allowed. In the mode InPlace it goes on to resize what its restriction has just deferred, so that
// pods whose containers restart are restarted all at once. It says of no pod why it was left alone. And it visits autoscalers in no order,
// which lets a budget be spent on what matters least.
//
// Here every pod is decided upon first (decide.go), all that is to be done is sorted (kills for want of memory, growth, then by how far a
// pod is off), and done as far as budgets reach (act.go). Evictions are one after the other, as upstream's: the API server takes a tenth
// of a second for each. A number bounds them in a loop.
//
// An eviction is impossible where it is not allowed: upstream's restriction of evictions is made in one function, which asks first, and
// everybody else sees an autoscaler whose mode is InPlace.
//
// What was done is looked after: a resize has to show in the pod's status, an evicted pod has to come back sized. What does not take hold
// rests its workload, and enough of it the whole policy. A restart, or another leader, goes on from what status.application says of the last hour
// (recall.go).
//
// Pods are changed for some seconds in a loop, and each autoscaler is looked at again before each of its pods: who pauses, reverts or lets go does
// not wait for a loop to end.
//
// It reads autoscalers, pods, the workloads upstream knows, LimitRanges, its own and the admission controller's Lease, and what package
// foreign reads. It changes pods/resize, pods/eviction, status.application of autoscalers, Events and its Lease.
package updater
