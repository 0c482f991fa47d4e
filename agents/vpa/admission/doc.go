// Package admission sizes pods as they are created: the webhook of the nOps VPA, upon upstream's admission logic.
//
// Nothing here may keep a pod from being created. The webhook's failurePolicy is Ignore and its timeout short; what cannot be answered is
// answered with a pod as it is. Certificates are its own (see Authority): replicas share them in a Secret that the chart makes and only
// they fill, and put the authority into the webhook's configuration, which they patch and never make or delete: an administrator's
// changes to it stay.
//
// # RBAC
//
// Besides what finds a pod's autoscaler (see package vpa), in the stack's namespace get and update on Secret nops-vpa-certificates and on
// Lease nops-vpa-admission-controller, and in the cluster get and patch on the MutatingWebhookConfiguration nops-vpa.
package admission
