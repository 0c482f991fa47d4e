// Package policy makes autoscalers of RightsizingPolicies: one for each workload that a policy selects, with the settings that hold in an
// annotation. Workloads themselves are never edited.
//
// Where no policy sizes a workload any more, its pods are given back in place what their templates request; only then its autoscaler goes
// (part.go). Autoscalers have no owner for that reason: the garbage collector would remove the only thing that says which pods were sized.
//
// An autoscaler that a person made for a workload wins: none is made beside it; a copy that import made does once somebody gives it an update
// mode. A workload that another rightsizer sizes gets one all the same, for its recommendation; recommender, updater and admission controller
// see by themselves that they must leave the pods alone.
//
// Where a policy says so, targets of HorizontalPodAutoscalers follow the requests (see Align): the one thing of others that is changed, with
// what it was before beside it until pods request what their template says. A policy that cannot be read or understood changes nothing and
// is in no other's way: what it made before stays as it is, unless it is paused: then that is switched off.
//
// # RBAC
//
// Cluster: get, list and watch on rightsizingpolicies, verticalpodautoscalers, namespaces, pods, the workloads and HorizontalPodAutoscalers;
// create, patch and delete on verticalpodautoscalers; patch on rightsizingpolicies/status, on
// horizontalpodautoscalers and on pods/resize, as revert does, which runs as a Job, and which reads (get, list) replicationcontrollers of autoscalers of
// persons' besides; list on limitranges, whose defaults are a template's, too; create and patch on events.
package policy
