// Package policy makes autoscalers of RightsizingPolicies: one for each workload that a policy selects, owned by the policy, with the
// settings that hold in an annotation. Workloads themselves are never edited.
//
// An autoscaler that a person made for a workload wins: none is made beside it. One that another rightsizer sizes gets one all the same,
// for its recommendation; recommender, updater and admission controller see by themselves that they must leave the pods alone.
//
// Where a policy says so, targets of HorizontalPodAutoscalers follow the requests (see Align): the one thing of others that is changed, with
// what it was before beside it. A policy that cannot be understood changes nothing: what it made before stays as it is.
//
// # RBAC
//
// Cluster: get, list and watch on rightsizingpolicies, verticalpodautoscalers, namespaces, pods, the workloads and HorizontalPodAutoscalers;
// create, patch and delete on verticalpodautoscalers; patch on rightsizingpolicies/status and on horizontalpodautoscalers. Revert, which
// runs as a Job, patches pods/resize.
package policy
