// Package vpa is the program of the nOps VPA: rightsizing that works beside the Kubernetes VPA.
//
// One program has four parts, each a Deployment of its own with its own rights: the recommender says what containers should request, the
// updater gives it to pods that run, the admission controller to those that are made, and the policy controller makes autoscalers of
// RightsizingPolicies. Each works without the others, and with the platform away. revert and import act once; nopsctl runs them as Jobs.
package vpa
