// Package rightsizing is what the nOps VPA's parts and nopsctl agree on: names, policies, settings, and what was recorded.
//
// A RightsizingPolicy selects workloads. The policy controller makes one VerticalPodAutoscaler (group vpa.nops.io, kinds as upstream's)
// for each, with the settings that hold for it in an annotation. Recommender, updater and admission controller read the
// autoscaler alone. What they found and did is in its status: the recommender writes the recommendation, its explanation and the
// conditions, the updater the application; each patches its own fields.
package rightsizing
