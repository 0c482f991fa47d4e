package main

import (
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
)

// The cluster that is measured.
const (
	clusterNodes   = 20
	clusterPods    = 1000
	namespaces     = 23
	deployments    = 164
	statefulSets   = 20
	cronJobs       = 10
	oldReplicaSets = 3 // of each Deployment, of former revisions
)

// A pod is what the pages of its node and the API server have to agree on.
type pod struct {
	namespace, name, node string
	hostNetwork           bool
	cpuLimit              bool // both containers have one
	containers            []container
	labels, annotations   map[string]string
	owner                 metav1.OwnerReference
	claim                 string // of a volume
	initContainer         bool
	done                  bool // its second container has ended
}

type container struct{ name, image string }

// A cluster is everything that is in the API server, and the pods once more for the pages of their nodes.
type cluster struct {
	pods    []pod
	objects []kube.Object
	quotas  []kube.Object // last: an API server without controllers admits nothing where there is a quota
	placed  int           // pods that a scheduler would have placed
}

// newCluster makes 20 nodes of an EKS cluster with 50 running pods of two containers each, and what stands around them.
// Nothing is random: two runs measure the same objects.
func newCluster() *cluster {
	c := &cluster{}
	for i := range namespaces {
		c.namespace(namespaceName(i))
	}
	for i := range clusterNodes {
		c.node(i)
	}
	for i, name := range []string{"aws-node", "node-local-dns", "ebs-csi-node", "fluent-bit"} {
		c.daemonSet(name, i < 2)
	}
	for i := range statefulSets {
		c.statefulSet(i)
	}
	for i := range cronJobs {
		c.cronJob(i)
	}
	for i := range deployments {
		c.deployment(i)
	}
	c.surroundings()
	return c
}

func (c *cluster) add(collection string, body any) {
	c.objects = append(c.objects, kube.Object{Collection: collection, Body: body})
}

// at is a time in the past of the cluster.
func at(minutes int) metav1.Time {
	return metav1.NewTime(time.Date(2026, 10, 1, 6, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute))
}

func ptr[T any](v T) *T { return &v }

func nodeName(i int) string { return "ip-" + dashed(nodeIP(i)) + ".us-west-2.compute.internal" }

func nodeIP(i int) string { return fmt.Sprintf("10.0.%d.%d", 32*(i%3), 11+i*7) }

func dashed(ip string) string {
	b := []byte(ip)
	for i := range b {
		if b[i] == '.' {
			b[i] = '-'
		}
	}
	return string(b)
}

func namespaceName(i int) string {
	return []string{"checkout", "payments", "catalog", "search", "identity", "orders", "shipping", "inventory", "pricing", "media", "notifications", "analytics",
		"recommendations", "reviews", "gateway", "billing", "ledger", "fraud", "reporting", "experiments", "support", "partners", "internal-tools"}[i%namespaces]
}

func serviceName(i int) string {
	return namespaceName(i) + "-" + []string{"api", "worker", "web", "consumer", "scheduler", "cache-warmer", "exporter", "sync"}[i/namespaces%8]
}

func owner(apiVersion, kind, namespace, name string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(uuid(kind, namespace, name)), Controller: ptr(true), BlockOwnerDeletion: ptr(true)}
}

func appLabels(name, namespace string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name, "app.kubernetes.io/component": "server", "app.kubernetes.io/part-of": namespace,
		"app.kubernetes.io/version": "1.42.0", "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": name + "-3.1.4", "team": "team-" + namespace}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/instance": name}}
}

func (c *cluster) namespace(name string) {
	c.add("/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": "team-" + name, "environment": "production", "pod-security.kubernetes.io/enforce": "privileged"}}})
}

func (c *cluster) node(i int) {
	name := nodeName(i)
	zone := "us-west-2" + string("abc"[i%3])
	labels := map[string]string{
		"beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/instance-type": "m6i.xlarge", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
		"kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": "m6i.xlarge", "topology.kubernetes.io/region": "us-west-2", "topology.kubernetes.io/zone": zone,
		"failure-domain.beta.kubernetes.io/region": "us-west-2", "failure-domain.beta.kubernetes.io/zone": zone, "topology.ebs.csi.aws.com/zone": zone, "topology.k8s.aws/zone-id": "usw2-az" + string("123"[i%3]),
		"k8s.io/cloud-provider-aws": "3a1f0c9d8b7e6a5f4c3d2b1a0f9e8d7c",
	}
	if i%2 == 0 {
		maps.Copy(labels, map[string]string{"karpenter.sh/nodepool": "default", "karpenter.sh/capacity-type": "spot", "karpenter.sh/initialized": "true", "karpenter.sh/registered": "true", "karpenter.k8s.aws/ec2nodeclass": "default",
			"karpenter.k8s.aws/instance-category": "m", "karpenter.k8s.aws/instance-cpu": "4", "karpenter.k8s.aws/instance-family": "m6i", "karpenter.k8s.aws/instance-generation": "6", "karpenter.k8s.aws/instance-memory": "16384", "karpenter.k8s.aws/instance-size": "xlarge"})
	} else {
		maps.Copy(labels, map[string]string{"eks.amazonaws.com/nodegroup": "general", "eks.amazonaws.com/nodegroup-image": "ami-0a1b2c3d4e5f60718", "eks.amazonaws.com/capacityType": "ON_DEMAND",
			"alpha.eksctl.io/cluster-name": "production", "alpha.eksctl.io/nodegroup-name": "general"})
	}
	capacity := func(cpu, memory, disk string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory), "ephemeral-storage": resource.MustParse(disk), "pods": resource.MustParse("58"),
			"hugepages-1Gi": resource.MustParse("0"), "hugepages-2Mi": resource.MustParse("0")}
	}
	var conditions []corev1.NodeCondition
	for _, kind := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"} {
		status := corev1.ConditionFalse
		if kind == "Ready" {
			status = corev1.ConditionTrue
		}
		conditions = append(conditions, corev1.NodeCondition{Type: kind, Status: status, LastHeartbeatTime: at(900), LastTransitionTime: at(i), Reason: "Kubelet", Message: "as the kubelet says"})
	}
	c.add("/api/v1/nodes", &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{ProviderID: fmt.Sprintf("aws:///%s/i-%x", zone, digest(name)[:8]), PodCIDR: "", Taints: nil},
		Status: corev1.NodeStatus{Capacity: capacity("4", "16069668Ki", "80Gi"), Allocatable: capacity("3920m", "15052836Ki", "72Gi"), Conditions: conditions,
			Addresses: []corev1.NodeAddress{{Type: "InternalIP", Address: nodeIP(i)}, {Type: "InternalDNS", Address: name}, {Type: "Hostname", Address: name}},
			NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.12.40-63.114.amzn2023.x86_64", OSImage: "Amazon Linux 2023.9.20250929", ContainerRuntimeVersion: "containerd://2.1.4", KubeletVersion: "v1.33.5-eks-113cf36",
				OperatingSystem: "linux", Architecture: "amd64", MachineID: uuid(name, "machine"), SystemUUID: uuid(name, "system"), BootID: uuid(name, "boot")}},
	})
	c.add("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &coordinationv1.Lease{ObjectMeta: meta("kube-node-lease", name, nil),
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr(name), LeaseDurationSeconds: ptr(int32(40)), RenewTime: ptr(metav1.NewMicroTime(at(900).Time))}})
}

func meta(namespace, name string, labels map[string]string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, OwnerReferences: owners}
}

// template is the pod of a workload, as the workload has it; the pods themselves are made by run.
func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
}

// run adds a pod of a workload; without a node it goes where there are fewest.
func (c *cluster) run(p pod) {
	if p.node == "" {
		p.node = nodeName(c.placed % clusterNodes)
		c.placed++
	}
	i := len(c.pods)
	p.cpuLimit = i/clusterNodes%2 == 0 // half of the pods of every node
	p.initContainer = i%10 == 0
	if p.containers == nil {
		name := p.labels["app.kubernetes.io/name"]
		p.containers = []container{{name, "123456789012.dkr.ecr.us-west-2.amazonaws.com/" + name + ":1.42.0"}, {"istio-proxy", "docker.io/istio/proxyv2:1.27.1"}}
	}
	p.annotations = map[string]string{"checksum/config": fmt.Sprintf("%x", digest(p.name)), "prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
	if i%20 == 0 {
		p.annotations["karpenter.sh/do-not-disrupt"] = "true"
	}
	c.pods = append(c.pods, p)
	c.add("/api/v1/namespaces/"+p.namespace+"/pods", p.object(i))
}

func (p pod) object(i int) *corev1.Pod {
	o := &corev1.Pod{ObjectMeta: meta(p.namespace, p.name, p.labels, p.owner)}
	o.Annotations = p.annotations
	o.Spec = corev1.PodSpec{NodeName: p.node, HostNetwork: p.hostNetwork, RestartPolicy: corev1.RestartPolicyAlways, ServiceAccountName: "default", TerminationGracePeriodSeconds: ptr(int64(30)),
		Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr(int64(300))}, {Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr(int64(300))}}}
	if p.owner.Kind == "Job" {
		o.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if p.claim != "" {
		o.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: p.claim}}}}
	}
	requests := corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("256Mi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("512Mi")}}
	if p.cpuLimit {
		requests.Limits["cpu"] = resource.MustParse("500m")
	}
	ip := fmt.Sprintf("10.0.%d.%d", 64+i/200, 10+i%200)
	hostIP := ""
	for n := range clusterNodes {
		if nodeName(n) == p.node {
			hostIP = nodeIP(n)
		}
	}
	if p.hostNetwork {
		ip = hostIP
	}
	o.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: ptr(at(i)), PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: hostIP, HostIPs: []corev1.HostIP{{IP: hostIP}}, QOSClass: corev1.PodQOSBurstable}
	for _, kind := range []corev1.PodConditionType{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: at(i + 1)})
	}
	status := func(c container) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: c.name, Image: c.image, ImageID: fmt.Sprintf("%s@sha256:%x", c.image, digest(c.image)), ContainerID: fmt.Sprintf("containerd://%x", digest(p.namespace, p.name, c.name)),
			Ready: true, Started: ptr(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(i + 1)}}}
	}
	ended := func(c container, reason string, code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, StartedAt: at(i + 1), FinishedAt: at(i + 30), ContainerID: fmt.Sprintf("containerd://%x", digest(p.namespace, p.name, c.name))}}
	}
	for k, c := range p.containers {
		o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: c.name, Image: c.image, Resources: *requests.DeepCopy(), ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File"})
		s := status(c)
		if k == 0 && i%10 == 3 {
			s.RestartCount, s.LastTerminationState = int32(1+i%4), ended(c, []string{"OOMKilled", "Error"}[i/10%2], 137)
		}
		if k == 1 && p.done {
			s.Ready, s.Started, s.State = false, ptr(false), ended(c, "Completed", 0)
		}
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, s)
	}
	if p.initContainer {
		c := container{"init", p.containers[0].image}
		o.Spec.InitContainers = []corev1.Container{{Name: c.name, Image: c.image, Resources: *requests.DeepCopy(), ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File"}}
		s := status(c)
		s.Started, s.State = ptr(false), ended(c, "Completed", 0)
		o.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
	}
	return o
}

func (c *cluster) daemonSet(name string, hostNetwork bool) {
	const ns = "kube-system"
	labels := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name, "k8s-app": name}
	d := &appsv1.DaemonSet{ObjectMeta: meta(ns, name, labels), Spec: appsv1.DaemonSetSpec{Selector: selector(name), Template: template(labels)},
		Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, CurrentNumberScheduled: clusterNodes, DesiredNumberScheduled: clusterNodes, NumberReady: clusterNodes, NumberAvailable: clusterNodes, UpdatedNumberScheduled: clusterNodes}}
	c.add("/apis/apps/v1/namespaces/"+ns+"/daemonsets", d)
	own := maps.Clone(labels)
	own["controller-revision-hash"] = token(10, name)
	for i := range clusterNodes {
		c.run(pod{namespace: ns, name: name + "-" + token(5, name, nodeName(i)), node: nodeName(i), hostNetwork: hostNetwork, labels: own, owner: owner("apps/v1", "DaemonSet", ns, name),
			containers: []container{{name, "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/" + name + ":v1.20.4"}, {name + "-agent", "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/" + name + "-agent:v1.2.3"}}})
	}
}

func (c *cluster) statefulSet(i int) {
	ns := namespaceName(i)
	name := ns + "-" + []string{"postgres", "kafka", "redis", "opensearch"}[i%4]
	labels := appLabels(name, ns)
	replicas := int32(3 + i%2*2)
	c.add("/apis/apps/v1/namespaces/"+ns+"/statefulsets", &appsv1.StatefulSet{ObjectMeta: meta(ns, name, labels),
		Spec:   appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: name, Selector: selector(name), Template: template(labels)},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: replicas, ReadyReplicas: replicas, CurrentReplicas: replicas, UpdatedReplicas: replicas, AvailableReplicas: replicas, CurrentRevision: name + "-" + token(10, name), UpdateRevision: name + "-" + token(10, name)}})
	own := maps.Clone(labels)
	own["controller-revision-hash"] = name + "-" + token(10, name)
	for k := range int(replicas) {
		p := pod{namespace: ns, name: fmt.Sprintf("%s-%d", name, k), labels: own, owner: owner("apps/v1", "StatefulSet", ns, name), claim: fmt.Sprintf("data-%s-%d", name, k)}
		c.volume(ns, p.claim)
		c.run(p)
	}
	c.service(ns, name, labels, int(replicas))
}

// volume adds a claim and the volume it is bound to.
func (c *cluster) volume(ns, claim string) {
	name := "pvc-" + uuid(ns, claim)
	size := corev1.ResourceList{"storage": resource.MustParse("100Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.add("/api/v1/persistentvolumes", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"topology.kubernetes.io/zone": "us-west-2a"}},
		Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: modes, StorageClassName: "gp3", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: claim, UID: types.UID(uuid("claim", ns, claim))},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: fmt.Sprintf("vol-%x", digest(name)[:8]), FSType: "ext4"}}},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}})
	c.add("/api/v1/namespaces/"+ns+"/persistentvolumeclaims", &corev1.PersistentVolumeClaim{ObjectMeta: meta(ns, claim, map[string]string{"team": "team-" + ns}),
		Spec:   corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: ptr("gp3"), VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, AccessModes: modes, Capacity: size}})
	c.add("/apis/storage.k8s.io/v1/volumeattachments", &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("csi-%x", digest("attachment", name))},
		Spec:   storagev1.VolumeAttachmentSpec{Attacher: "ebs.csi.aws.com", NodeName: nodeName(c.placed % clusterNodes), Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name}},
		Status: storagev1.VolumeAttachmentStatus{Attached: true}})
}

// cronJob adds a CronJob with one Job that runs, three that ended well and one that failed (whose pods are gone).
func (c *cluster) cronJob(i int) {
	ns := namespaceName(i * 2)
	name := ns + "-nightly"
	labels := appLabels(name, ns)
	jobTemplate := template(labels)
	jobTemplate.Spec.RestartPolicy = corev1.RestartPolicyNever
	c.add("/apis/batch/v1/namespaces/"+ns+"/cronjobs", &batchv1.CronJob{ObjectMeta: meta(ns, name, labels),
		Spec:   batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: jobTemplate}}},
		Status: batchv1.CronJobStatus{LastScheduleTime: ptr(at(600)), LastSuccessfulTime: ptr(at(500)), Active: []corev1.ObjectReference{{APIVersion: "batch/v1", Kind: "Job", Namespace: ns, Name: fmt.Sprintf("%s-%d", name, 29000000)}}}})
	for k := range 5 {
		job := fmt.Sprintf("%s-%d", name, 29000000-k*1440)
		j := &batchv1.Job{ObjectMeta: meta(ns, job, labels, owner("batch/v1", "CronJob", ns, name)), Spec: batchv1.JobSpec{Parallelism: ptr(int32(2)), Completions: ptr(int32(2)), BackoffLimit: ptr(int32(1)), Template: jobTemplate}}
		j.Status = batchv1.JobStatus{StartTime: ptr(at(500 - k)), UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}}
		end := func(kinds ...batchv1.JobConditionType) {
			for _, kind := range kinds {
				reason := map[batchv1.JobConditionType]string{batchv1.JobFailureTarget: "BackoffLimitExceeded", batchv1.JobFailed: "BackoffLimitExceeded", batchv1.JobSuccessCriteriaMet: "CompletionsReached", batchv1.JobComplete: "CompletionsReached"}[kind]
				j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, LastProbeTime: at(520), LastTransitionTime: at(520)})
			}
		}
		switch k {
		case 0:
			j.Status.Active, j.Status.Ready = 2, ptr(int32(2))
			own := maps.Clone(labels)
			maps.Copy(own, map[string]string{"batch.kubernetes.io/job-name": job, "job-name": job, "batch.kubernetes.io/controller-uid": uuid("Job", ns, job)})
			for n := range 2 {
				c.run(pod{namespace: ns, name: job + "-" + token(5, job, fmt.Sprint(n)), labels: own, owner: owner("batch/v1", "Job", ns, job), done: n == 0})
			}
		case 1:
			j.Status.Failed, j.Status.Ready = 2, ptr(int32(0))
			end(batchv1.JobFailureTarget, batchv1.JobFailed)
		default:
			j.Status.Succeeded, j.Status.Ready, j.Status.CompletionTime = 2, ptr(int32(0)), ptr(at(520))
			end(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
		}
		c.add("/apis/batch/v1/namespaces/"+ns+"/jobs", j)
	}
}

func (c *cluster) deployment(i int) {
	ns := namespaceName(i)
	name := serviceName(i)
	labels := appLabels(name, ns)
	replicas := int32([]int{2, 3, 3, 5, 12}[i%5])
	if i >= 160 {
		replicas = 5
	}
	condition := func(kind appsv1.DeploymentConditionType) appsv1.DeploymentCondition {
		return appsv1.DeploymentCondition{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: at(i), LastTransitionTime: at(i), Reason: "Fine", Message: "fine"}
	}
	c.add("/apis/apps/v1/namespaces/"+ns+"/deployments", &appsv1.Deployment{ObjectMeta: meta(ns, name, labels), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector(name), Template: template(labels)},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas, UpdatedReplicas: replicas, Conditions: []appsv1.DeploymentCondition{condition("Available"), condition("Progressing")}}})
	for k := range 1 + oldReplicaSets {
		hash := token(9, name, fmt.Sprint(k))
		own := maps.Clone(labels)
		own["pod-template-hash"] = hash
		set := &appsv1.ReplicaSet{ObjectMeta: meta(ns, name+"-"+hash, own, owner("apps/v1", "Deployment", ns, name)),
			Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pod-template-hash": hash, "app.kubernetes.io/instance": name}}, Template: template(own)}, Status: appsv1.ReplicaSetStatus{ObservedGeneration: 1}}
		if k == 0 {
			set.Spec.Replicas = &replicas
			set.Status = appsv1.ReplicaSetStatus{ObservedGeneration: 1, Replicas: replicas, FullyLabeledReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas}
			for n := range int(replicas) {
				c.run(pod{namespace: ns, name: set.Name + "-" + token(5, set.Name, fmt.Sprint(n)), labels: own, owner: owner("apps/v1", "ReplicaSet", ns, set.Name)})
			}
		}
		c.add("/apis/apps/v1/namespaces/"+ns+"/replicasets", set)
	}
	c.service(ns, name, labels, int(replicas))
	if i%3 == 0 {
		c.add("/apis/autoscaling/v2/namespaces/"+ns+"/horizontalpodautoscalers", &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: meta(ns, name, labels),
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}, MinReplicas: ptr(int32(2)), MaxReplicas: 20,
				Metrics: []autoscalingv2.MetricSpec{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr(int32(70))}}}}},
			Status: autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: replicas, DesiredReplicas: replicas, LastScaleTime: ptr(at(i)),
				CurrentMetrics: []autoscalingv2.MetricStatus{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: ptr(int32(41)), AverageValue: ptr(resource.MustParse("41m"))}}}},
				Conditions:     []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: "AbleToScale", Status: "True", LastTransitionTime: at(i)}, {Type: "ScalingActive", Status: "True", LastTransitionTime: at(i)}, {Type: "ScalingLimited", Status: "False", LastTransitionTime: at(i)}}}})
	}
}

// service adds what stands around a workload: a Service with its endpoints, configuration, a Secret, half the time a budget.
func (c *cluster) service(ns, name string, labels map[string]string, replicas int) {
	n := len(c.objects)
	port := int32(8080)
	c.add("/api/v1/namespaces/"+ns+"/services", &corev1.Service{ObjectMeta: meta(ns, name, labels), Spec: corev1.ServiceSpec{Selector: selector(name).MatchLabels, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(port), Protocol: corev1.ProtocolTCP}}}})
	slice := &discoveryv1.EndpointSlice{ObjectMeta: meta(ns, name+"-"+token(5, "slice", name), map[string]string{"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}),
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: &port, Protocol: ptr(corev1.ProtocolTCP)}}}
	for k := range replicas {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.%d.%d", 70+n%100, 10+k)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)}})
	}
	c.add("/apis/discovery.k8s.io/v1/namespaces/"+ns+"/endpointslices", slice)
	c.add("/api/v1/namespaces/"+ns+"/configmaps", &corev1.ConfigMap{ObjectMeta: meta(ns, name, labels), Data: map[string]string{"config.yaml": "log: info\n"}})
	c.add("/api/v1/namespaces/"+ns+"/secrets", &corev1.Secret{ObjectMeta: meta(ns, name, labels), StringData: map[string]string{"example": "not a secret"}})
	if digest(name)[0]%2 == 0 {
		c.add("/apis/policy/v1/namespaces/"+ns+"/poddisruptionbudgets", &policyv1.PodDisruptionBudget{ObjectMeta: meta(ns, name, labels), Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(1)), Selector: selector(name)},
			Status: policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: int32(replicas), DesiredHealthy: int32(replicas) - 1, DisruptionsAllowed: 1, ExpectedPods: int32(replicas)}})
	}
}

// surroundings adds what a cluster has besides workloads.
func (c *cluster) surroundings() {
	for i := range namespaces {
		ns := namespaceName(i)
		labels := map[string]string{"team": "team-" + ns}
		c.add("/api/v1/namespaces/"+ns+"/serviceaccounts", &corev1.ServiceAccount{ObjectMeta: meta(ns, "default", nil)})
		c.add("/api/v1/namespaces/"+ns+"/configmaps", &corev1.ConfigMap{ObjectMeta: meta(ns, "kube-root-ca.crt", nil), Data: map[string]string{"ca.crt": "a certificate"}})
		c.add("/apis/networking.k8s.io/v1/namespaces/"+ns+"/networkpolicies", &networkingv1.NetworkPolicy{ObjectMeta: meta(ns, "default-deny", labels), Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}}})
		kind := networkingv1.PathTypePrefix
		c.add("/apis/networking.k8s.io/v1/namespaces/"+ns+"/ingresses", &networkingv1.Ingress{ObjectMeta: meta(ns, ns, labels), Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: ns + ".example.com",
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &kind, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: serviceName(i), Port: networkingv1.ServiceBackendPort{Name: "http"}}}}}}}}}}})
		hard := corev1.ResourceList{"requests.cpu": resource.MustParse("200"), "requests.memory": resource.MustParse("400Gi"), "pods": resource.MustParse("400")}
		used := corev1.ResourceList{"requests.cpu": resource.MustParse("20"), "requests.memory": resource.MustParse("40Gi"), "pods": resource.MustParse("40")}
		if i%4 == 0 {
			c.quotas = append(c.quotas, kube.Object{Collection: "/api/v1/namespaces/" + ns + "/resourcequotas", Body: &corev1.ResourceQuota{ObjectMeta: meta(ns, "quota", labels), Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}}})
			c.quotas = append(c.quotas, kube.Object{Collection: "/api/v1/namespaces/" + ns + "/limitranges", Body: &corev1.LimitRange{ObjectMeta: meta(ns, "limits", labels), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{"memory": resource.MustParse("512Mi")}, DefaultRequest: corev1.ResourceList{"cpu": resource.MustParse("100m")}}}}}})
		}
	}
	binding := storagev1.VolumeBindingWaitForFirstConsumer
	for _, name := range []string{"gp2", "gp3"} {
		c.add("/apis/storage.k8s.io/v1/storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "ebs.csi.aws.com", VolumeBindingMode: &binding})
	}
}
