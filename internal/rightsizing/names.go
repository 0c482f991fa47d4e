package rightsizing

import "k8s.io/apimachinery/pkg/runtime/schema"

// Names in the API. The kinds of the group's version v1 are upstream's (autoscaling.k8s.io/v1) and mean the same.
const (
	Group         = "vpa.nops.io"
	Version       = "v1"       // VerticalPodAutoscaler, VerticalPodAutoscalerCheckpoint
	PolicyVersion = "v1alpha1" // RightsizingPolicy
	UpstreamGroup = "autoscaling.k8s.io"
)

// Autoscalers are our VerticalPodAutoscalers.
func Autoscalers() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: Group, Version: Version, Resource: "verticalpodautoscalers"}
}

// Checkpoints keep the recommender's histograms.
func Checkpoints() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: Group, Version: Version, Resource: "verticalpodautoscalercheckpoints"}
}

// Policies are RightsizingPolicies.
func Policies() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: Group, Version: PolicyVersion, Resource: "rightsizingpolicies"}
}

// UpstreamAutoscalers are those of upstream's VPA.
func UpstreamAutoscalers() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: UpstreamGroup, Version: Version, Resource: "verticalpodautoscalers"}
}

// Objects of the parts.
const (
	WebhookName       = "nops-vpa"                      // MutatingWebhookConfiguration
	CertificateSecret = "nops-vpa-certificates"         // of the admission controller
	AdmissionService  = "nops-vpa-admission-controller" // and name of its status Lease
	RecommenderName   = "nops"                          // spec.recommenders[].name that the recommender answers to, besides none
)

// Annotations and labels, on VerticalPodAutoscalers unless said otherwise.
const (
	// LabelPolicy names the policy that made the autoscaler. An autoscaler without it was made by a person, and is nobody's to change.
	LabelPolicy = "vpa.nops.io/policy"
	// AnnotationSettings is a Settings in JSON. Without it upstream's defaults hold.
	AnnotationSettings = "vpa.nops.io/settings"
	// AnnotationYields says why resources are left to a HorizontalPodAutoscaler, in JSON by resource, for people: see YieldsOf. It is not among the
	// settings, which a part of an older release does not read with a field that is new to it.
	AnnotationYields = "vpa.nops.io/yields"
	// AnnotationReverted, a time (RFC 3339), on an autoscaler whose workload was given back its template's requests: it is left alone until it
	// is removed. On a workload it keeps every policy away from it.
	AnnotationReverted = "vpa.nops.io/reverted"
	// AnnotationRevertedBy says who.
	AnnotationRevertedBy = "vpa.nops.io/reverted-by"
	// AnnotationSized, "true", on an autoscaler that a policy made, says that pods may have been sized by it: before nobody sizes them any more
	// they are given back what their templates request.
	AnnotationSized = "vpa.nops.io/sized"
	// AnnotationLeaving, a time (RFC 3339), on an autoscaler that has no policy any more: it goes when its pods have their template's requests.
	AnnotationLeaving = "vpa.nops.io/leaving"
	// AnnotationOff, "true", on a workload or a namespace, keeps policies away from it.
	AnnotationOff = "vpa.nops.io/off"
	// AnnotationImported on an autoscaler names the upstream object it was copied from, NAMESPACE/NAME.
	AnnotationImported = "vpa.nops.io/imported-from"
)

// Conditions of an autoscaler besides upstream's.
const (
	// ConditionManagedElsewhere is true where somebody else sizes the workload: nothing is applied.
	ConditionManagedElsewhere = "ManagedElsewhere"
	// ConditionPlatform is true where the platform's recommendation is in force; its reason says why not.
	ConditionPlatform = "PlatformRecommendation"
)
