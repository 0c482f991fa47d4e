// Package recommender says what workloads need, and writes it into the status of their autoscalers.
//
// Each round: load autoscalers and pods, sample usage (package sources), compute, write, checkpoint, collect. The model, the feeder and the
// estimators are upstream's; an autoscaler without settings gets exactly what upstream recommends. One with settings (package
// rightsizing) gets the percentiles and the margin of its level, floors by container, what the platform recommends (package push), and what
// was needed when a container ran out of memory.
//
// Of the status it writes recommendation, conditions, observedGeneration and explanations, by merge patches; the application is the
// updater's. It writes when a target moved by more than 1 %, a bound by more than 5 %, a condition changed, or memory ran out. Bounds narrow for days as
// confidence grows, and nobody acts on that alone: those are written at most every hour, and at once when the request of a running
// pod comes to lie on the other side.
//
// Of several replicas one works (Lease nops-vpa-recommender).
//
// RBAC: get, list, watch on verticalpodautoscalers and verticalpodautoscalercheckpoints of vpa.nops.io; patch on
// verticalpodautoscalers/status; create, patch, delete on verticalpodautoscalercheckpoints; get, list, watch on pods, replicationcontrollers,
// deployments, daemonsets, replicasets, statefulsets, jobs, cronjobs; get on */scale; watch on events; of the sources, what they say. Its
// Lease. Nothing else is written.
package recommender
