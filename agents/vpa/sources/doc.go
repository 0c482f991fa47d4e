// Package sources says what containers use: metrics-server, the kubelets themselves, or a store of Prometheus's kind, which also has
// history.
//
// Each is upstream's PodMetricsLister. Client turns what it lists into what upstream's feeder takes, and leaves out what a source does not
// know: upstream's own client takes what is missing for nothing used, and recommends that.
//
// RBAC: metrics-server needs list on pods of metrics.k8s.io, the kubelets list and watch on nodes and get on nodes/metrics (never
// nodes/proxy, which is a shell on every node). A store needs none.
package sources
