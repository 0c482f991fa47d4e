// Package agent is the chassis every agent runs on: options with the environment as fallback, logs that hold no
// credential, health and metrics endpoints, backoff, a bounded queue, errors that say what to do about them, and an end in
// good order.
//
// It is small on purpose: an agent idles in a customer's cluster, and what the chassis costs, every agent costs.
package agent
