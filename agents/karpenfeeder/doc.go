// Package karpenfeeder works out what karpenops has to know of the market and of commitments, for users without the nOps platform: from
// AWS's public APIs, once or every so often, into a ConfigMap that karpenops reads (--facts=configmap:NAME) or into a directory.
//
// # Reads
//
// AWS, in one region, with the credentials of its environment (IRSA, Pod Identity, keys): ec2:DescribeAvailabilityZones, DescribeInstanceTypes,
// DescribeSpotPriceHistory, GetSpotPlacementScores, DescribeInstances and DescribeReservedInstances; pricing:GetProducts;
// savingsplans:DescribeSavingsPlans and DescribeSavingsPlanRates; ce:GetSavingsPlansUtilizationDetails and GetReservationUtilization. All are reads; none can be
// restricted to resources. What it may not ask (Cost Explorer is often kept for few) is left out, and said.
//
// # What it concludes
//
// Placement scores are asked for each family of at least three types, in single zones: with fewer they come out low for no reason
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-placement-score.html). AWS limits how many different questions an account may
// ask in a day, so a score is asked for again only after Options.ScoresEvery. Interruption rates are in no API: none is stated.
//
// What others use of a commitment is the greater of two: what runs now on demand in its scope and is not of this cluster's own making, at its 90th
// percentile over Options.Window; and what billing says was used, less what this cluster's own nodes account for now. Billing is up to a day late and counts this
// cluster's use too: taken alone, the share would shrink the day after it was used, and grow again. The cluster's share is Options.Share of what is committed,
// leased until the second run after this one: when the feeder stops, karpenops steps down instead of using what nobody looks after.
//
// # Changes
//
// One ConfigMap, of the name it is given: market.json and commitments.json, gzip-compressed, and what it has to remember of former runs.
//
// # RBAC
//
// In the namespace of the ConfigMap; nothing with --to=dir:.
//
//	| API group | resources  | names                | verbs       |
//	|-----------|------------|----------------------|-------------|
//	|           | configmaps |                      | create      |
//	|           | configmaps | nops-karpenops-facts | get, update |
package karpenfeeder
