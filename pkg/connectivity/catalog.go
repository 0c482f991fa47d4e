package connectivity

import "github.com/nopsctl/nopsctl/pkg/connectivity/probe"

// ID names a check for good. IDs are never reused; numbers are grouped by leg and destination.
type ID string

// The checks.
const (
	HereDNS      ID = "NOPS-NET-001"
	HereTCP      ID = "NOPS-NET-002"
	HereTLS      ID = "NOPS-NET-003"
	HereHTTP     ID = "NOPS-NET-004"
	HereAuth     ID = "NOPS-NET-005"
	HereClock    ID = "NOPS-NET-006"
	HereRegistry ID = "NOPS-NET-007"

	ClusterPod   ID = "NOPS-NET-020"
	ClusterDNS   ID = "NOPS-NET-021"
	ClusterTCP   ID = "NOPS-NET-022"
	ClusterTLS   ID = "NOPS-NET-023"
	ClusterHTTP  ID = "NOPS-NET-024"
	ClusterAuth  ID = "NOPS-NET-025"
	ClusterClock ID = "NOPS-NET-026"
	ClusterNonce ID = "NOPS-NET-027"
	AMPDNS       ID = "NOPS-NET-031"
	AMPTCP       ID = "NOPS-NET-032"
	AMPTLS       ID = "NOPS-NET-033"
	AMPHTTP      ID = "NOPS-NET-034"
	AMPAuth      ID = "NOPS-NET-035"
	AMPData      ID = "NOPS-NET-036"
	AMPTargets   ID = "NOPS-NET-037"

	PlatformView      ID = "NOPS-NET-050"
	PlatformNonceHere ID = "NOPS-NET-051"
	PlatformNonce     ID = "NOPS-NET-052"
	PlatformHeartbeat ID = "NOPS-NET-053"
	PlatformSamples   ID = "NOPS-NET-054"
	PlatformWarnings  ID = "NOPS-NET-055"
)

// Definition documents a check.
type Definition struct {
	ID    ID
	Leg   Leg
	Stage string
	Title string // what holds when it passes
	About string // what is looked at, and why it matters
	Hint  string // what to do when it fails
}

const (
	nopsAPI = "the nOps API"
	store   = "the metrics store"
)

// Catalog lists every check, in the order they are run.
func Catalog() []Definition {
	return []Definition{
		{
			HereDNS, Here, probe.StageDNS, "the name of the nOps API resolves",
			"This machine looks up the host of the nOps API (with a proxy: the proxy's host).",
			"check this machine's DNS, VPN and the spelling of --host or NOPS_HOST",
		},
		{
			HereTCP, Here, probe.StageTCP, "the nOps API accepts connections",
			"This machine connects to port 443 of the nOps API, or through the proxy of HTTPS_PROXY.",
			"allow TCP 443 to the nOps API in firewall and security groups, or set HTTPS_PROXY",
		},
		{
			HereTLS, Here, probe.StageTLS, "its certificate is trusted",
			"The certificate of the nOps API is checked against the system's roots and --ca-bundle.",
			"if a proxy inspects TLS here, give its certificates with --ca-bundle FILE or NOPS_CA_BUNDLE",
		},
		{
			HereHTTP, Here, probe.StageHTTP, "it answers",
			"A request gets an answer below HTTP 500.",
			"the platform, or something between, has a problem of its own: try again, and ask its support with the time of the attempt",
		},
		{
			HereAuth, Here, probe.StageAuth, "the API key is accepted",
			"The API key given to this command is shown to the nOps API. Without one the check is skipped.",
			"take a valid key from nOps under Settings → API Key and give it with --api-key-file or NOPS_API_KEY",
		},
		{
			HereClock, Here, StageClock, "this machine's clock agrees",
			"The Date of the answer is compared with this machine's clock.",
			"synchronise this machine's clock (NTP): signatures and certificates depend on it",
		},
		{
			HereRegistry, Here, probe.StageHTTP, "the image registry answers",
			"The registry of the stack's images is asked from here. Nodes pull images themselves, so a failure here is a warning; nopsctl install needs it to look at images before it installs them.",
			"allow HTTPS to the registry, or give a mirror with --registry-mirror",
		},
		{
			ClusterPod, Cluster, StagePod, "a probe runs in the cluster",
			"A Job with the image, environment, ServiceAccount, node selection and tolerations of the heartbeat agent is started in its namespace and removed again.",
			"look at the reason: the heartbeat agent has the same image and placement and suffers from the same",
		},
		{
			ClusterDNS, Cluster, probe.StageDNS, "the name of the nOps API resolves",
			"A pod looks up the host of the nOps API with the cluster's DNS.",
			"check CoreDNS and the resolver behind it: kubectl -n kube-system logs -l k8s-app=kube-dns",
		},
		{
			ClusterTCP, Cluster, probe.StageTCP, "the nOps API accepts connections",
			"A pod connects to the nOps API, or to the proxy its environment names.",
			"allow egress to TCP 443: NetworkPolicy, security groups, NAT gateway, firewall",
		},
		{
			ClusterTLS, Cluster, probe.StageTLS, "its certificate is trusted",
			"A pod checks the certificate of the nOps API with the roots of its image and nops.global.caBundle.",
			"if a proxy inspects TLS, give its certificates to the stack: nopsctl install --ca-bundle FILE",
		},
		{
			ClusterHTTP, Cluster, probe.StageHTTP, "it answers",
			"A request from a pod gets an answer below HTTP 500.",
			"the platform, or a proxy between, has a problem of its own: compare with the leg from here",
		},
		{
			ClusterAuth, Cluster, probe.StageAuth, "the agents' API key is accepted",
			"A pod shows the key that the agents use, from their Secret, to the nOps API.",
			"run nopsctl install again: it gives the agents a new key",
		},
		{
			ClusterClock, Cluster, StageClock, "the node's clock agrees",
			"The Date of the answer is compared with the node's clock. The metrics store refuses signatures that are more than five minutes off.",
			"synchronise the nodes' clocks (on EKS: chrony with the Amazon Time Sync Service)",
		},
		{
			ClusterNonce, Cluster, StageNonce, "the probe reports to the platform",
			"A pod posts the nonce of this run to the platform.",
			"see the failed stage before this one",
		},
		{
			AMPDNS, Cluster, probe.StageDNS, "the name of the metrics store resolves",
			"A pod looks up the host of the remote-write endpoint (Amazon Managed Prometheus).",
			"check containerInsights.ampRegion, and the private hosted zone if you use a VPC endpoint for aps-workspaces",
		},
		{
			AMPTCP, Cluster, probe.StageTCP, "the metrics store accepts connections",
			"A pod connects to the remote-write endpoint.",
			"allow egress to TCP 443 of aps-workspaces.REGION.amazonaws.com: NetworkPolicy, security groups, VPC endpoint policy",
		},
		{
			AMPTLS, Cluster, probe.StageTLS, "its certificate is trusted",
			"A pod checks the certificate of the remote-write endpoint.",
			"if a proxy inspects TLS, give its certificates to the stack: nopsctl install --ca-bundle FILE",
		},
		{
			AMPHTTP, Cluster, probe.StageHTTP, "it answers",
			"An unsigned request gets an answer below HTTP 500; a refusal is an answer.",
			"the metrics store has a problem of its own: samples wait on vmagent's disk until it is back",
		},
		{
			AMPAuth, Cluster, probe.StageAuth, "the metrics store accepts the credentials",
			"vmagent's own counters: the store refuses writes (HTTP 401, 403) whose signature or key it does not accept.",
			"the AMP access key or secret key is wrong, or may not aps:RemoteWrite to this workspace: run nopsctl install with the right ones (--amp-access-key, --amp-secret-key-file), or without, to fetch them from the nOps API",
		},
		{
			AMPData, Cluster, probe.StageData, "samples are delivered",
			"vmagent's own counters: writes that the store accepted, since the probe looks and before.",
			"kubectl -n nops logs deployment/nops-vmagent says what the store answers",
		},
		{
			AMPTargets, Cluster, "targets", "every scrape target is up",
			"vmagent's own view of what it scrapes: node-exporter, kube-state-metrics, kubelets.",
			"kubectl -n nops get pods shows which exporter is down; kubelets need TCP 10250 from vmagent's node",
		},
		{
			PlatformView, Platform, probe.StageHTTP, "the platform tells what it has seen",
			"The platform's connectivity view of this cluster is read.",
			"register the cluster: nopsctl install; the API key must belong to the same customer",
		},
		{
			PlatformNonceHere, Platform, StageNonce, "it has seen the nonce from here",
			"The platform received the nonce of this run from this machine: no cache or proxy answers in its place.",
			"something between answers for the platform: look at HTTPS_PROXY and at the certificate's issuer",
		},
		{
			PlatformNonce, Platform, StageNonce, "it has seen the nonce from the cluster",
			"The platform received the nonce of this run from inside the cluster.",
			"see the failed stage of the leg from inside the cluster",
		},
		{
			PlatformHeartbeat, Platform, "heartbeat", "heartbeats arrive",
			"The newest heartbeat of this cluster is recent.",
			"kubectl -n nops logs deployment/nops-heartbeat says what keeps it",
		},
		{
			PlatformSamples, Platform, probe.StageData, "samples arrive",
			"The newest sample of this cluster in the customer's metrics workspace is recent.",
			"see the checks of the metrics store in the leg from inside the cluster",
		},
		{
			PlatformWarnings, Platform, "warnings", "no warning is open",
			"Warnings that the platform holds open for this cluster.",
			"nopsctl status names the component; a warning closes when its cause is gone",
		},
	}
}

// Explain finds the definition of a check.
func Explain(id ID) (Definition, bool) {
	for _, d := range Catalog() {
		if d.ID == id {
			return d, true
		}
	}
	return Definition{}, false
}
