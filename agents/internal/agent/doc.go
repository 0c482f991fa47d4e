// Package agent is the chassis every agent runs on: the program and its commands, options with the environment as fallback,
// logs that hold no credential, health and metrics endpoints, clients of the API server and of the platform, what agents tell
// people inside the cluster (ConfigMaps and events), backoff, a bounded queue, errors that say what to do about them, and an
// end in good order.
//
// It is small on purpose: an agent idles in a customer's cluster, and what the chassis costs, every agent costs. What costs
// more and is not for all stands beside it (election).
package agent
