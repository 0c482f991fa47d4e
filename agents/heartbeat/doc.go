// Package heartbeat is the agent that tells the platform how the stack does: that it lives, what state each component is in
// and why, and whether the metrics shipper delivers.
//
// # Reads
//
// The Deployments, DaemonSets, StatefulSets, CronJobs, Jobs and Pods of its own namespace that belong to its own release, by
// watching; everything the agent does not report (environment, arguments, volumes, annotations, managed fields) is dropped
// the moment it arrives. And vmagent's own metrics page.
//
// # Sends
//
// Heartbeats to the platform: the first within seconds of the start, then at the pace the platform sets, at once when a
// component changes state. Each is numbered within the life of the process (boot_id, seq) and carries the moment it was
// observed. While the platform is away every beat that falls due is still observed and queued, and is delivered in order
// when it is back; the queue is bounded, the oldest give way and are counted. Sends no environment, no argument, no
// credential and nothing of other namespaces.
//
// # Changes
//
// One ConfigMap, nops-heartbeat-state, which mirrors what the agent sees for people without access to the platform, written
// only when that changes; and Events, few. Nothing else, and nothing that is not its own.
//
// An outage of the platform never costs liveness: a restart mends nothing and would lose the queue.
//
// # RBAC
//
// The chart's Role must equal this table (a test compares them). Everything is in the agent's own namespace.
//
//	| API group | resources                            | names                | verbs       |
//	|-----------|--------------------------------------|----------------------|-------------|
//	|           | pods                                 |                      | list, watch |
//	| apps      | deployments, daemonsets, statefulsets |                     | list, watch |
//	| batch     | cronjobs, jobs                       |                      | list, watch |
//	|           | configmaps                           |                      | create      |
//	|           | configmaps                           | nops-heartbeat-state | get, update |
//	|           | events                               |                      | create      |
package heartbeat
