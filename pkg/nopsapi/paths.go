package nopsapi

import (
	"net/url"
	"strings"
)

// clusterPath is below a cluster: its ARN is one escaped segment.
func clusterPath(arn string, rest ...string) string {
	return strings.Join(append([]string{Base, "clusters", url.PathEscape(arn)}, rest...), "/")
}

// PathWhoAmI says what a key is.
func PathWhoAmI() string { return Base + "/api-keys/whoami" }

// PathAPIKeys lists and creates keys.
func PathAPIKeys() string { return Base + "/api-keys" }

// PathAPIKey is one key.
func PathAPIKey(id string) string { return PathAPIKeys() + "/" + url.PathEscape(id) }

// PathAPIKeyRotate replaces the secret of a key.
func PathAPIKeyRotate(id string) string { return PathAPIKey(id) + "/rotate" }

// PathClusters lists clusters.
func PathClusters() string { return Base + "/clusters" }

// PathCluster is one cluster.
func PathCluster(arn string) string { return clusterPath(arn) }

// PathInstallConfig is what an installation needs.
func PathInstallConfig(arn string) string { return clusterPath(arn, "install-config") }

// PathAgentKey mints a key for agents.
func PathAgentKey(arn string) string { return clusterPath(arn, "agent-key") }

// PathHeartbeats takes and lists beats.
func PathHeartbeats(arn string) string { return clusterPath(arn, "heartbeats") }

// PathWarnings lists warnings.
func PathWarnings(arn string) string { return clusterPath(arn, "warnings") }

// PathAcknowledge marks a warning as seen by a person.
func PathAcknowledge(arn, id string) string {
	return clusterPath(arn, "warnings", url.PathEscape(id), "acknowledge")
}

// PathConnectivity is the platform's view of a cluster.
func PathConnectivity(arn string) string { return clusterPath(arn, "connectivity") }

// PathTests starts a connectivity test.
func PathTests(arn string) string { return clusterPath(arn, "connectivity-tests") }

// PathTest is the platform's view, with a test.
func PathTest(arn, id string) string {
	return clusterPath(arn, "connectivity-tests", url.PathEscape(id))
}

// PathObservations takes the nonce of a test.
func PathObservations(arn, id string) string { return PathTest(arn, id) + "/observations" }

// PathMarket is the market of a cluster's region: agents read it, who makes it writes it.
func PathMarket(arn string) string { return clusterPath(arn, "karpenter", "market") }

// PathCommitments is what the customer has committed to, with the cluster's share.
func PathCommitments(arn string) string { return clusterPath(arn, "karpenter", "commitments") }

// PathKarpenterInventory is what the cluster has.
func PathKarpenterInventory(arn string) string { return clusterPath(arn, "karpenter", "inventory") }

// PathKarpenterRecords takes and lists decisions.
func PathKarpenterRecords(arn string) string { return clusterPath(arn, "karpenter", "records") }

// PathRightsizedWorkloads takes what recommendations are wanted for.
func PathRightsizedWorkloads(arn string) string { return clusterPath(arn, "rightsizing", "workloads") }

// PathRecommendations is what the platform recommends.
func PathRecommendations(arn string) string {
	return clusterPath(arn, "rightsizing", "recommendations")
}

// PathOutcomes takes and lists what became of recommendations.
func PathOutcomes(arn string) string { return clusterPath(arn, "rightsizing", "outcomes") }
