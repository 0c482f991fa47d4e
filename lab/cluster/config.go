package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// A Process is a program that the init starts and keeps an eye on.
type Process struct {
	Name string
	Path string
	Args []string
	Env  []string // added to a minimal environment
}

// A Forward carries connections from an address of the host to one inside.
type Forward struct {
	Name string // as the caller asks for it in Cluster.Forwards
	To   string // address inside, host:port
	Host string // address on the host, filled in by Start
}

// spec is what the init needs to know; it crosses the re-execution as a file.
type spec struct {
	Layout    Layout
	Bin       string // directory of the Kubernetes programs and CoreDNS
	APIPort   int    // of the API server, the same on the host and inside
	Forwards  []Forward
	Processes []Process // of the caller
	Hosts     []string  // names that lead to NodeIP
	Bundle    string    // file of certificates, replaces the system's inside
	Pause     string    // tarball with the pause image
	PauseRef  string
	Mirrors   map[string]string // registry host → URL that the nodes pull from instead
	Keep      []string          // directories to see inside although something above them is covered
	Timeout   time.Duration     // until the node is Ready
}

func (s spec) pki(name string) string { return s.Layout.Path("pki", name) }
func (s spec) server() string         { return fmt.Sprintf("https://127.0.0.1:%d", s.APIPort) }

// kubernetes is the list of Kubernetes processes with their arguments; the API server and etcd come first.
func (s spec) kubernetes() (first, rest []Process) {
	bin := func(name string) string { return filepath.Join(s.Bin, name) }
	cfg := func(name string) string { return s.Layout.Path("config", name) }
	first = []Process{
		{Name: "etcd", Path: bin("etcd"), Args: []string{
			"--name=lab", "--data-dir=" + s.Layout.Path("etcd"), "--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=lab=http://127.0.0.1:2380",
			"--cert-file=" + s.pki("etcd.crt"), "--key-file=" + s.pki("etcd.key"), "--client-cert-auth", "--trusted-ca-file=" + s.pki("ca.crt"),
			"--unsafe-no-fsync", "--log-level=warn",
		}},
		{Name: "kube-apiserver", Path: bin("kube-apiserver"), Args: []string{
			"--advertise-address=" + NodeIP, "--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", s.APIPort),
			"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + s.pki("ca.crt"), "--etcd-certfile=" + s.pki("etcd.crt"), "--etcd-keyfile=" + s.pki("etcd.key"),
			"--tls-cert-file=" + s.pki("apiserver.crt"), "--tls-private-key-file=" + s.pki("apiserver.key"), "--client-ca-file=" + s.pki("ca.crt"),
			"--kubelet-certificate-authority=" + s.pki("ca.crt"), "--kubelet-client-certificate=" + s.pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + s.pki("apiserver-kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--service-cluster-ip-range=" + serviceCIDR, "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + s.pki("sa.pub"), "--service-account-signing-key-file=" + s.pki("sa.key"),
			"--requestheader-client-ca-file=" + s.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--proxy-client-cert-file=" + s.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + s.pki("front-proxy-client.key"), "--v=1",
			"--audit-policy-file=" + cfg("audit.yaml"), "--audit-log-path=" + s.Layout.AuditLog(), "--audit-log-mode=blocking-strict", "--audit-log-maxsize=64", "--audit-log-maxbackup=1",
		}},
	}
	rest = []Process{
		{Name: "kube-controller-manager", Path: bin("kube-controller-manager"), Args: []string{
			"--kubeconfig=" + cfg("controller-manager.kubeconfig"), "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials", "--root-ca-file=" + s.pki("ca.crt"),
			"--service-account-private-key-file=" + s.pki("sa.key"), "--cluster-signing-cert-file=" + s.pki("ca.crt"), "--cluster-signing-key-file=" + s.pki("ca.key"), "--allocate-node-cidrs=false", "--v=1",
		}},
		{Name: "kube-scheduler", Path: bin("kube-scheduler"), Args: []string{"--kubeconfig=" + cfg("scheduler.kubeconfig"), "--bind-address=127.0.0.1", "--leader-elect=false", "--v=1"}},
		{Name: "kubelet", Path: bin("kubelet"), Args: []string{
			"--kubeconfig=" + cfg("kubelet.kubeconfig"), "--config=" + cfg("kubelet.yaml"), "--hostname-override=" + NodeName, "--node-ip=" + NodeIP,
			"--node-labels=node.kubernetes.io/instance-type=m6i.large,topology.kubernetes.io/region=" + Region + ",topology.kubernetes.io/zone=" + Region + "a", "--v=1",
		}},
		{Name: "kube-proxy", Path: bin("kube-proxy"), Args: []string{"--config=" + cfg("kube-proxy.yaml"), "--v=1"}},
		{Name: "coredns", Path: bin("coredns"), Args: []string{"-conf", cfg("Corefile")}},
	}
	return first, rest
}

// containerd runs at its standard path inside: the kubelet's cAdvisor looks there.
func (s spec) containerd() Process {
	return Process{Name: "containerd", Path: "/usr/bin/containerd", Args: []string{"--config", s.Layout.Path("config", "containerd.toml")}}
}

// write renders every configuration file.
func (s spec) write(snapshotter string) error {
	for _, user := range []struct{ file, cert string }{
		{"controller-manager", "controller-manager"}, {"scheduler", "scheduler"}, {"kubelet", "kubelet"}, {"kube-proxy", "kube-proxy"}, {"coredns", "coredns"}, {"karpenter", "karpenter"}, {"kwok", "kwok"},
		{"upstream-vpa-recommender", "upstream-vpa-recommender"}, {"upstream-vpa-updater", "upstream-vpa-updater"}, {"upstream-vpa-admission-controller", "upstream-vpa-admission-controller"}, {"metrics-server", "metrics-server"},
	} {
		if err := s.writeKubeconfig(s.Layout.Path("config", user.file+".kubeconfig"), user.cert); err != nil {
			return err
		}
	}
	if err := s.writeKubeconfig(s.Layout.Kubeconfig(), "admin"); err != nil {
		return err
	}
	data := map[string]any{"S": s, "NodeIP": NodeIP, "PodCIDR": podCIDR, "Domain": clusterDomain, "Cgroup": s.Layout.cgroup(), "Snapshotter": snapshotter, "Zone": Region + "a", "CgroupV1": !v2()}
	for name, text := range map[string]string{
		"containerd.toml": containerdTOML, "kubelet.yaml": kubeletYAML, "kube-proxy.yaml": kubeProxyYAML, "Corefile": corefile, "bootstrap.yaml": bootstrapYAML, "audit.yaml": auditYAML, "cni/10-lab.conflist": cniConflist,
		"hosts": hostsFile, "resolv.conf": "nameserver " + NodeIP + "\n",
	} {
		t, err := template.New(name).Parse(text)
		if err != nil {
			return fmt.Errorf("configuration %s: %w", name, err)
		}
		var out strings.Builder
		if err := t.Execute(&out, data); err != nil {
			return fmt.Errorf("configuration %s: %w", name, err)
		}
		if err := writeFile(s.Layout.Path("config", name), out.String(), 0o644); err != nil {
			return err
		}
	}
	for host, mirror := range s.Mirrors {
		toml := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", mirror, mirror)
		if err := writeFile(s.Layout.Path("config", "certs.d", host, "hosts.toml"), toml, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig names the cluster entry by its ARN, as `aws eks update-kubeconfig` does.
func (s spec) writeKubeconfig(path, cert string) error {
	ca, err := os.ReadFile(s.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	crt, err := os.ReadFile(s.pki(cert + ".crt"))
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	key, err := os.ReadFile(s.pki(cert + ".key"))
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	arn := ARN(s.Layout.Name)
	// JSON is YAML, and encoding/json puts certificates into base64 by itself.
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": arn,
		"clusters": []any{map[string]any{"name": arn, "cluster": map[string]any{"server": s.server(), "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": arn, "user": map[string]any{"client-certificate-data": crt, "client-key-data": key}}},
		"contexts": []any{map[string]any{"name": arn, "context": map[string]any{"cluster": arn, "user": arn}}},
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return writeFile(path, string(text)+"\n", 0o600)
}

func writeFile(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower a score and dies before the container starts.
const containerdTOML = `version = 2
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.S.PauseRef}}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{{.Snapshotter}}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{{.S.Layout.Path "config" "cni"}}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{{.S.Layout.Path "config" "certs.d"}}"
`

const cniConflist = `{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
`

const kubeletYAML = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: {{.S.Layout.Path "pki" "ca.crt"}}}
authorization: {mode: Webhook}
tlsCertFile: {{.S.Layout.Path "pki" "kubelet-server.crt"}}
tlsPrivateKeyFile: {{.S.Layout.Path "pki" "kubelet-server.key"}}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /{{.Cgroup}}
failCgroupV1: false
clusterDNS: ["{{.NodeIP}}"]
clusterDomain: {{.Domain}}
resolvConf: /etc/resolv.conf
providerID: aws:///{{.Zone}}/i-0000000000000001
failSwapOn: false
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
`

const kubeProxyYAML = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {{.PodCIDR}}
clientConnection: {kubeconfig: {{.S.Layout.Path "config" "kube-proxy.kubeconfig"}}}
conntrack: {maxPerCore: 0, min: 0}
nodePortAddresses: ["127.0.0.0/8"]
`

// Cluster names from the API server, the lab's names to the node, and NXDOMAIN for the rest of the world.
const corefile = `{{.Domain}}:53 in-addr.arpa:53 {
    bind {{.NodeIP}}
    errors
    kubernetes {{.Domain}} in-addr.arpa {
        kubeconfig {{.S.Layout.Path "config" "coredns.kubeconfig"}}
        ttl 5
    }
}
.:53 {
    bind {{.NodeIP}}
    errors
{{- range .S.Hosts}}
    template IN A {{.}} {
        answer "{{"{{ .Name }}"}} 60 IN A {{$.NodeIP}}"
    }
    template ANY ANY {{.}} {
        rcode NOERROR
    }
{{- end}}
    template ANY ANY . {
        rcode NXDOMAIN
    }
}
`

const hostsFile = `127.0.0.1 localhost
{{.NodeIP}} lab-node{{range .S.Hosts}} {{.}}{{end}}
`

// What people and their programs write, by the certificate of the kubeconfig: stories ask what a command wrote, if anything. And, of the
// two VPAs, what either does with autoscalers and pods, and which webhook changed a pod that was created. Blocking and strict, so that the
// line is there before the answer is.
const auditYAML = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, users: [lab-admin], verbs: [create, update, patch, delete, deletecollection]}
- {level: Metadata, userGroups: ["system:serviceaccounts:nops"], resources: &autoscalers [{group: autoscaling.k8s.io}, {group: vpa.nops.io}]}
- {level: Metadata, users: &upstream [upstream-vpa-recommender, upstream-vpa-updater, upstream-vpa-admission-controller], resources: *autoscalers}
- {level: Metadata, userGroups: ["system:serviceaccounts:nops"], resources: &own [{group: coordination.k8s.io, resources: [leases]}, {group: "", resources: [secrets]}, {group: admissionregistration.k8s.io, resources: [mutatingwebhookconfigurations]}]}
- {level: Metadata, users: *upstream, resources: *own}
- {level: Metadata, userGroups: ["system:serviceaccounts:nops"], verbs: &changes [create, update, patch, delete], resources: &pods [{group: "", resources: [pods, pods/eviction, pods/resize]}]}
- {level: Metadata, users: *upstream, verbs: *changes, resources: *pods}
- {level: Metadata, userGroups: ["system:serviceaccounts:kube-system"], verbs: [create], resources: [{group: "", resources: [pods]}]}
- {level: None}
`

const bootstrapYAML = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects: [{kind: User, name: system:coredns, apiGroup: rbac.authorization.k8s.io}]
`
