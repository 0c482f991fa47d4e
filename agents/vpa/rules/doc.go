// Package rules says how a pod's containers are sized by an autoscaler, and when that may happen.
//
// Everything here is a function of values and of the time that is given; nothing reads the cluster. Updater and admission controller size
// pods by the same Provider, so that a pod which is evicted comes back as it would have been resized.
package rules
