// Package gate stands before a metrics store and answers as Amazon Managed Service for Prometheus does.
//
// It serves the paths of a workspace,
//
//	POST     /workspaces/<id>/api/v1/remote_write
//	GET|POST /workspaces/<id>/api/v1/{query,query_range,series,labels,label/<name>/values,metadata}
//
// verifies AWS Signature Version 4 (service aps) on each of them, reads included, lets a key pair into its own workspace
// alone, and applies the limits at which the real service refuses: snappy only, size, labels per series, age of samples,
// rate. What passes goes to the workspace's store, which knows nothing of all this.
//
// Every workspace has a store of its own, a process of VictoriaMetrics. The alternative, one store for all with a label per
// workspace added on write and enforced on read, costs a little less memory, but makes isolation depend on the rewriting
// of labels and selectors, shows the foreign label in every answer, and lets one customer's load slow the other's.
//
// Where the real service is not documented, or where the lab would gain nothing, the gate is simpler: it knows no
// out-of-order window, no limit of active series, no role of IAM; a key may everything in its workspace. Only the
// Authorization header is understood, no presigned URL.
package gate
