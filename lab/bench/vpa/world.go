package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/lab/bench/kube"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/ca"
)

// The programs.
const (
	ours     = "ours"
	upstream = "upstream"
)

// A stack is one of the two, as it meets a cluster.
type stack struct {
	name      string
	group     string
	namespace string // its own
	service   string // of its webhook
	path      string // of the webhook
	port      int    // of the webhook
	webhook   string // name of its configuration
}

func (w *world) stack(name string) stack {
	if name == ours {
		return stack{name: ours, group: "vpa.nops.io", namespace: "nops", service: "nops-vpa-admission-controller", path: "/mutate", port: w.ports[0], webhook: "nops-vpa"}
	}
	return stack{name: upstream, group: "autoscaling.k8s.io", namespace: "kube-system", service: "vpa-webhook", path: "/", port: w.ports[1], webhook: "vpa-webhook-config"}
}

func (s stack) collection(namespace, resource string) string {
	return "/apis/" + s.group + "/v1/namespaces/" + namespace + "/" + resource
}

const (
	autoscalers = "verticalpodautoscalers"
	checkpoints = "verticalpodautoscalercheckpoints"
)

// A pod that runs.
type pod struct {
	namespace, name string
	workload        int // -1: of nobody
	slot            int // which of its workload's; who takes its place has it too
	hash            uint64
}

// A world is an API server with everything that both stacks meet, and the shim before it.
type world struct {
	*bench
	profile
	api       *kube.Server
	shim      *shim
	authority *ca.Authority
	ip        string // of this machine, which the API server finds webhooks at
	ports     [2]int // of webhooks
	dir       string

	mu    sync.Mutex
	pods  []pod
	made  int            // pods that were ever made
	asked map[string]int // questions for usage, since the last start
}

func (b *bench) newWorld(ctx context.Context, p profile) (_ *world, err error) {
	w := &world{bench: b, profile: p, asked: map[string]int{}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp(b.dir, p.Name); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	if w.authority, err = ca.Open(filepath.Join(w.dir, "ca"), time.Now()); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if w.ip, err = address(); err != nil {
		return nil, err
	}
	for i := range w.ports {
		free, err := kube.FreeAddress(ctx)
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(free)
		if w.ports[i], err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("port of webhooks: %w", err)
		}
	}
	// Webhooks are found at their endpoints: there is no network of Services here.
	if w.api, err = kube.StartServer(ctx, b.assets, w.dir, "--enable-aggregator-routing=true", "--delete-collection-workers=16", "--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000"); err != nil {
		return nil, err
	}
	certificate, err := w.authority.Certificate(time.Now(), "127.0.0.1")
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen before the API server: %w", err)
	}
	if w.shim, err = newShim(w.api.URL, w.api.Token, certificate, listener, w.usage); err != nil {
		return nil, err
	}
	kubeconfig := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": "https://%s", "certificate-authority": %q}}], "users": [{"name": "u", "user": {"token": "shim"}}]}`, w.shim.address, filepath.Join(w.dir, "shim.crt"))
	for name, text := range map[string][]byte{"kubeconfig-shim": []byte(kubeconfig), "shim.crt": w.authority.PEM()} {
		if err := os.WriteFile(filepath.Join(w.dir, name), text, 0o600); err != nil {
			return nil, fmt.Errorf("write for programs: %w", err)
		}
	}
	if err := w.definitions(ctx); err != nil {
		return nil, err
	}
	return w, w.fill(ctx)
}

func (w *world) close() {
	if w.shim != nil {
		w.shim.close()
	}
	if w.api != nil {
		w.api.Stop()
	}
}

// address is one of this machine that is not its loopback, where no API server looks for endpoints.
func address() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, a := range all {
		if n, is := a.(*net.IPNet); is && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this machine has no IPv4 address besides its loopback: webhooks would be at none that an API server takes")
}

// Renders of our chart: as it comes, and with settings of its own for everything.
const (
	golden         = "embedded-chart/testdata/golden/all-default.yaml"
	goldenSettings = "embedded-chart/testdata/golden/all-own-settings.yaml"
)

// documents are those of a render.
func documents(repo, render string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(repo, render))
	if err != nil {
		return nil, fmt.Errorf("our chart's render: %w", err)
	}
	return strings.Split("\n"+string(text), "\n---\n"), nil
}

// definitions makes both groups, as each side ships them, and the namespaces of the two.
func (w *world) definitions(ctx context.Context) error {
	theirs, err := (build.Builder{Repo: w.repo}).UpstreamVPACRDs(ctx)
	if err != nil {
		return fmt.Errorf("definitions of upstream: %w", err)
	}
	rendered, err := documents(w.repo, golden)
	if err != nil {
		return err
	}
	var all []kube.Object
	names := []string{}
	for _, some := range [][]string{strings.Split("\n"+string(theirs), "\n---\n"), rendered} {
		for _, doc := range some {
			var o map[string]any
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				return fmt.Errorf("definitions: %w", err)
			}
			meta, _ := o["metadata"].(map[string]any)
			name, _ := meta["name"].(string)
			labels, _ := meta["labels"].(map[string]any)
			switch {
			case o["kind"] == "CustomResourceDefinition" && (strings.HasSuffix(name, ".vpa.nops.io") || strings.HasSuffix(name, ".autoscaling.k8s.io")):
				delete(o, "status")
				all, names = append(all, kube.Object{Collection: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Body: o}), append(names, name)
			case o["kind"] == "Secret" && name == "nops-vpa-certificates" && labels["app.kubernetes.io/component"] != nil:
				meta["namespace"] = "nops"
				all = append(all, kube.Object{Collection: "/api/v1/namespaces/nops/secrets", Body: o})
			}
		}
	}
	if len(names) != 5 || len(all) != 6 {
		return fmt.Errorf("definitions: found %s and %d more", strings.Join(names, ", "), len(all)-len(names))
	}
	for _, s := range []stack{w.stack(ours), w.stack(upstream)} {
		if s.namespace != "kube-system" { // which the API server makes
			all = append(all, kube.Object{Collection: "/api/v1/namespaces", Body: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}})
		}
	}
	if err := kube.Until(ctx, "kube-system", time.Minute, func() error { return w.api.Do(ctx, http.MethodGet, "/api/v1/namespaces/kube-system", "", nil, nil) }); err != nil {
		return err
	}
	for _, s := range []stack{w.stack(ours), w.stack(upstream)} {
		port, name, tcp, ready := int32(s.port), "https", corev1.ProtocolTCP, true
		all = append(all,
			kube.Object{Collection: "/api/v1/namespaces/" + s.namespace + "/services", Body: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: s.service},
				Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: name, Port: 443, TargetPort: intstr.FromInt32(port), Protocol: tcp}}}}},
			kube.Object{Collection: "/apis/discovery.k8s.io/v1/namespaces/" + s.namespace + "/endpointslices", Body: &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: s.service, Labels: map[string]string{discoveryv1.LabelServiceName: s.service}}, AddressType: discoveryv1.AddressTypeIPv4,
				Ports:     []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{w.ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}})
	}
	if err := w.api.Fill(ctx, all); err != nil {
		return err
	}
	return kube.Until(ctx, "both groups", time.Minute, func() error {
		for _, s := range []stack{w.stack(ours), w.stack(upstream)} {
			for _, r := range []string{autoscalers, checkpoints} {
				if err := w.api.Do(ctx, http.MethodGet, "/apis/"+s.group+"/v1/"+r, "", nil, nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func namespaceOf(i, of int) string { return fmt.Sprintf("team-%02d", i%of) }

// namespace is where a workload is. Those beyond the autoscalers' number are there for the admission of upstream alone.
func (w *world) namespace(workload int) string {
	if workload >= w.Autoscalers {
		return rivalOf(workload, w.Namespaces)
	}
	return namespaceOf(workload, w.Namespaces)
}
func rivalOf(i, of int) string  { return fmt.Sprintf("rival-%02d", i%of) }
func workloadName(i int) string { return fmt.Sprintf("app-%05d", i) }

// containers of a workload: every second one has a sidecar.
func containers(workload int) []string {
	if workload%2 == 0 {
		return []string{"app", "sidecar"}
	}
	return []string{"app"}
}

func labelsOf(workload int) map[string]string {
	return map[string]string{"app": workloadName(workload), "tier": []string{"web", "worker", "cache"}[workload%3]}
}

func owned(kind, name string, uid types.UID) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: uid, Controller: &yes, BlockOwnerDeletion: &yes}}
}

// uidOf is what an owner is referred by. Nothing here looks whether it is the right one.
func uidOf(parts ...any) types.UID {
	h := hashOf(parts...)
	return types.UID(fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(h), uint16(h>>8), h>>20&0xfff, h>>32&0xfff, h&0xffffffffffff))
}

func hashOf(parts ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, parts...)
	return mix(h.Sum64())
}

// mix spreads a number over all bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill makes nodes, namespaces, Deployments, their ReplicaSets and pods that run.
func (w *world) fill(ctx context.Context) error {
	var all []kube.Object
	for i := range w.Namespaces {
		all = append(all, kube.Object{Collection: "/api/v1/namespaces", Body: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(i, w.Namespaces), Labels: map[string]string{sideLabel: ours}}}})
	}
	capacity := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
	for i := range w.nodes() {
		all = append(all, kube.Object{Collection: "/api/v1/nodes", Body: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}, Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}}}})
	}
	for i := range w.Autoscalers {
		all = append(all, w.newWorkload(i)...)
	}
	for i := range w.Autoscalers {
		for slot := range w.Pods {
			one, object := w.newPod(i, slot)
			w.pods = append(w.pods, one)
			all = append(all, object)
		}
	}
	return w.api.Fill(ctx, all)
}

// newWorkload makes a Deployment and its ReplicaSet.
func (w *world) newWorkload(i int) []kube.Object {
	meta := metav1.ObjectMeta{Name: workloadName(i), Labels: labelsOf(i)}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(i)}, Spec: podSpec(i)}
	selector, replicas := &metav1.LabelSelector{MatchLabels: map[string]string{"app": workloadName(i)}}, int32(w.Pods)
	set := metav1.ObjectMeta{Name: setName(i), Labels: labelsOf(i), OwnerReferences: owned("Deployment", workloadName(i), uidOf("deployment", i))}
	return []kube.Object{
		{Collection: "/apis/apps/v1/namespaces/" + w.namespace(i) + "/deployments", Body: &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: template}}},
		{Collection: "/apis/apps/v1/namespaces/" + w.namespace(i) + "/replicasets", Body: &appsv1.ReplicaSet{ObjectMeta: set, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: selector, Template: template}}},
	}
}

func (w *world) nodes() int               { return max(1, w.profile.pods()/100) }
func nodeName(i int) string               { return fmt.Sprintf("node-%03d", i) }
func setName(i int) string                { return workloadName(i) + "-6d4cf56db6" }
func quantity(s string) resource.Quantity { return resource.MustParse(s) }

// podSpec is about as large as those that people have.
func podSpec(workload int) corev1.PodSpec {
	var spec corev1.PodSpec
	for _, name := range containers(workload) {
		c := corev1.Container{
			Name: name, Image: "registry.example.com/team/" + name + ":1.27.3", ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"serve", "--config=/etc/app/config.yaml"},
			Resources:     corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": quantity("250m"), "memory": quantity("512Mi")}, Limits: corev1.ResourceList{"memory": quantity("1Gi")}},
			LivenessProbe: &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}},
			Ports:         []corev1.ContainerPort{{Name: "http-" + name[:3], ContainerPort: 8080}}, VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/app"}},
		}
		for _, env := range []string{"REGION", "LOG_LEVEL", "DATABASE_HOST", "CACHE_HOST", "TRACING_ENDPOINT", "FEATURE_FLAGS"} {
			c.Env = append(c.Env, corev1.EnvVar{Name: env, Value: "a value of " + strings.ToLower(env)})
		}
		spec.Containers = append(spec.Containers, c)
	}
	spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	return spec
}

// newPod makes a pod of a workload, or one of a Job that nobody looks after (-1).
func (w *world) newPod(workload, slot int) (pod, kube.Object) {
	n := w.made
	w.made++
	p := pod{workload: workload, slot: slot}
	object := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	if workload < 0 {
		p.slot, p.namespace, p.name = n, namespaceOf(n, w.Namespaces), fmt.Sprintf("job-%07d-x", n)
		// Each Job has labels of its own, as the job controller gives them.
		object.Labels = map[string]string{"job-name": fmt.Sprintf("job-%07d", n), "controller-uid": string(uidOf("job", n))}
		object.Spec = podSpec(1)
	} else {
		p.namespace, p.name = w.namespace(workload), fmt.Sprintf("%s-%05x", setName(workload), n)
		object.Labels = maps.Clone(labelsOf(workload))
		object.Labels["pod-template-hash"] = "6d4cf56db6"
		object.OwnerReferences = owned("ReplicaSet", setName(workload), uidOf("set", workload))
		object.Spec = podSpec(workload)
	}
	p.hash = hashOf("pod", p.workload, p.slot)
	object.Namespace, object.Name = p.namespace, p.name
	object.Spec.NodeName = nodeName(n % w.nodes())
	started := metav1.NewTime(time.Now().Add(-time.Hour))
	object.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &started, PodIP: fmt.Sprintf("10.%d.%d.%d", 64+n>>16&63, n>>8&255, n&255), Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	for _, c := range object.Spec.Containers {
		object.Status.ContainerStatuses = append(object.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}})
	}
	return p, kube.Object{Collection: "/api/v1/namespaces/" + p.namespace + "/pods", Body: object}
}

// Usage. A container uses CPU around a level of its own, a little more or less each time, and memory that hardly moves within the hour, as
// containers do; the history that autoscalers begin with is of the same distributions. Levels are buckets of the histograms of the VPA.
const (
	bucketGrowth    = 1.05
	firstCPU        = 0.01 // cores
	firstMemory     = 1e7  // bytes
	maxBucketWeight = 10000
	historyDays     = 8
)

// spreads say how often usage lies how many buckets beside its level.
func cpuSpread() []int    { return []int{1, 2, 4, 7, 9, 7, 4, 2, 1} }
func memorySpread() []int { return []int{1, 4, 6, 4, 1} }

// level is the bucket around which a container of a workload lies.
func level(kind string, workload int, container string) int {
	return 8 + int(hashOf(kind, workload, container)%32)
}

// drawn is a bucket beside the level.
func drawn(spread []int, hash uint64) int {
	total := 0
	for _, n := range spread {
		total += n
	}
	at := int(hash % uint64(total))
	for i, n := range spread {
		if at -= n; at < 0 {
			return i - len(spread)/2
		}
	}
	return 0
}

// inBucket is a value within a bucket, part of the way through it.
func inBucket(first float64, bucket int, part float64) float64 {
	start := func(n int) float64 { return first * (math.Pow(bucketGrowth, float64(n)) - 1) / (bucketGrowth - 1) }
	return start(bucket) + part*(start(bucket+1)-start(bucket))
}

// usage is what all pods use now, as metrics-server says it. It follows from the seed and from how often the client asked since it started.
func (w *world) usage(client string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[client]++
	turn := uint64(w.asked[client])
	now := time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
	var b bytes.Buffer
	b.Grow(len(w.pods) * 400)
	b.WriteString(`{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[`)
	for i, p := range w.pods {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"metadata":{"name":"%s","namespace":"%s","creationTimestamp":"%s"},"timestamp":"%s","window":"15s","containers":[`, p.name, p.namespace, now, now)
		for j, c := range containers(p.workload) {
			if j > 0 {
				b.WriteByte(',')
			}
			h := mix(p.hash + uint64(j)*7919)
			cpu := inBucket(firstCPU, level("cpu", p.workload, c)+drawn(cpuSpread(), mix(h+turn)), 0.5)
			memory := inBucket(firstMemory, level("memory", p.workload, c)+drawn(memorySpread(), h), 0.5+0.2*float64(mix(h^turn)%100)/100)
			fmt.Fprintf(&b, `{"name":"%s","usage":{"cpu":"%dn","memory":"%dKi"}}`, c, int64(cpu*1e9), int64(memory/1024))
		}
		b.WriteString(`]}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// histogram is a stored one. Its weights are of a day's beginning, half as much for each day before.
func histogram(level int, spread []int, total float64, at time.Time) map[string]any {
	weights, most := map[string]any{}, slices.Max(spread)
	for i, n := range spread {
		weights[strconv.Itoa(level+i-len(spread)/2)] = maxBucketWeight * n / most
	}
	return map[string]any{"referenceTimestamp": at.Format(time.RFC3339), "bucketWeights": weights, "totalWeight": total}
}

// forget removes all autoscalers and checkpoints, of both groups.
func (w *world) forget(ctx context.Context) error {
	for _, s := range []stack{w.stack(ours), w.stack(upstream)} {
		for _, r := range []string{autoscalers, checkpoints} {
			for i := range w.Namespaces {
				if err := w.api.Do(ctx, http.MethodDelete, s.collection(namespaceOf(i, w.Namespaces), r), "", nil, nil); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// autoscaler is one for a workload.
func (s stack) autoscaler(workload int, mode string) map[string]any {
	return map[string]any{"apiVersion": s.group + "/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": workloadName(workload)}, "spec": map[string]any{
		"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": workloadName(workload)}, "updatePolicy": map[string]any{"updateMode": mode}}}
}

const (
	// sideLabel of a namespace says whose webhook is told of its pods.
	sideLabel = "bench/side"
	// plainNamespace is one that no webhook is told of.
	plainNamespace = "plain"
)

// sides makes what both admission controllers need: as many workloads again, and for each workload an autoscaler with a recommendation; of ours
// for the first half, of upstream's for the second.
func (w *world) sides(ctx context.Context) error {
	if err := w.forget(ctx); err != nil {
		return err
	}
	all := []kube.Object{{Collection: "/api/v1/namespaces", Body: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: plainNamespace}}}}
	for i := range w.Namespaces {
		all = append(all, kube.Object{Collection: "/api/v1/namespaces", Body: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: rivalOf(i, w.Namespaces), Labels: map[string]string{sideLabel: upstream}}}})
	}
	now := time.Now().UTC().Format(time.RFC3339)
	for i := range 2 * w.Autoscalers {
		s := w.stack(ours)
		if i >= w.Autoscalers {
			s = w.stack(upstream)
			all = append(all, w.newWorkload(i)...)
		}
		one := s.autoscaler(i, "Initial")
		var recommended []map[string]any
		for _, c := range containers(i) {
			of := func(times float64) map[string]any {
				cpu, memory := inBucket(firstCPU, level("cpu", i, c)+1, 0), inBucket(firstMemory, level("memory", i, c)+1, 0)
				return map[string]any{"cpu": fmt.Sprintf("%dm", int64(1000*times*cpu)), "memory": strconv.FormatInt(int64(times*memory), 10)}
			}
			recommended = append(recommended, map[string]any{"containerName": c, "target": of(1), "uncappedTarget": of(1), "lowerBound": of(0.5), "upperBound": of(2)})
		}
		one["status"] = map[string]any{"recommendation": map[string]any{"containerRecommendations": recommended}, "conditions": []map[string]any{{"type": "RecommendationProvided", "status": "True", "lastTransitionTime": now}}}
		all = append(all, kube.Object{Collection: s.collection(w.namespace(i), autoscalers), Body: one})
	}
	return w.api.Fill(ctx, all)
}

// autoscalers removes what there is of both groups, and makes an autoscaler for each Deployment with its history.
func (w *world) autoscalers(ctx context.Context, s stack) error {
	if err := w.forget(ctx); err != nil {
		return err
	}
	now := time.Now().UTC()
	reference := now.Round(24 * time.Hour)
	// What a sample weighs that is taken now, relative to one of the reference's time.
	weight := math.Exp2(now.Sub(reference).Hours() / 24)
	var all []kube.Object
	for i := range w.Autoscalers {
		ns := w.namespace(i)
		all = append(all, kube.Object{Collection: s.collection(ns, autoscalers), Body: s.autoscaler(i, "Initial")})
		for _, c := range containers(i) {
			const perDay = 1440 // samples, each of which weighs a tenth
			all = append(all, kube.Object{Collection: s.collection(ns, checkpoints), Body: map[string]any{"apiVersion": s.group + "/v1", "kind": "VerticalPodAutoscalerCheckpoint", "metadata": map[string]any{"name": workloadName(i) + "-" + c},
				"spec": map[string]any{"vpaObjectName": workloadName(i), "containerName": c}, "status": map[string]any{
					"version": "v3", "firstSampleStart": now.AddDate(0, 0, -historyDays).Format(time.RFC3339), "lastSampleStart": now.Add(-time.Minute).Format(time.RFC3339), "lastUpdateTime": now.Format(time.RFC3339),
					"totalSamplesCount": historyDays * perDay * w.Pods,
					"cpuHistogram":      histogram(level("cpu", i, c), cpuSpread(), weight*0.1*perDay*float64(w.Pods)/math.Ln2, reference),
					"memoryHistogram":   histogram(level("memory", i, c), memorySpread(), weight*float64(w.Pods)*2, reference),
				}}})
		}
	}
	// Stored checkpoints have no status apart: the object is what it says.
	return w.api.FillWhole(ctx, all)
}

// churn replaces pods, and lets Jobs' pods come and go: a fiftieth of all each.
func (w *world) churn(ctx context.Context, step int) error {
	n := max(1, w.profile.pods()/50)
	w.mu.Lock()
	var gone, stay []pod
	for i, p := range w.pods {
		if p.workload < 0 || i%50 == step%50 {
			gone = append(gone, p)
		} else {
			stay = append(stay, p)
		}
	}
	var come []pod
	var objects []kube.Object
	add := func(workload, slot int) {
		p, o := w.newPod(workload, slot)
		come, objects = append(come, p), append(objects, o)
	}
	for _, p := range gone {
		if p.workload >= 0 {
			add(p.workload, p.slot)
		}
	}
	for range n {
		add(-1, 0)
	}
	w.mu.Unlock()
	if err := w.api.Fill(ctx, objects); err != nil {
		return err
	}
	if err := w.remove(ctx, gone); err != nil {
		return err
	}
	w.mu.Lock()
	w.pods = slices.Concat(stay, come)
	w.mu.Unlock()
	return nil
}

// remove deletes pods.
func (w *world) remove(ctx context.Context, gone []pod) error {
	return kube.Each(len(gone), func(i int) error {
		return w.api.Do(ctx, http.MethodDelete, "/api/v1/namespaces/"+gone[i].namespace+"/pods/"+gone[i].name, "application/json", []byte(`{"gracePeriodSeconds":0}`), nil)
	})
}

// calm removes the pods of Jobs.
func (w *world) calm(ctx context.Context) error {
	w.mu.Lock()
	var gone []pod
	w.pods = slices.DeleteFunc(w.pods, func(p pod) bool {
		if p.workload < 0 {
			gone = append(gone, p)
		}
		return p.workload < 0
	})
	w.mu.Unlock()
	return w.remove(ctx, gone)
}

// recommendations are the targets and bounds of all containers, as text.
func (w *world) recommendations(ctx context.Context, s stack) (targets, bounds map[string]string, err error) {
	var list struct {
		Items []struct {
			Metadata metav1.ObjectMeta
			Status   struct {
				Recommendation struct {
					ContainerRecommendations []struct {
						ContainerName                  string
						Target, LowerBound, UpperBound json.RawMessage
					}
				}
			}
		}
	}
	if err := w.api.Do(ctx, http.MethodGet, "/apis/"+s.group+"/v1/"+autoscalers, "", nil, &list); err != nil {
		return nil, nil, err
	}
	targets, bounds = map[string]string{}, map[string]string{}
	for _, one := range list.Items {
		for _, c := range one.Status.Recommendation.ContainerRecommendations {
			key := one.Metadata.Namespace + "/" + one.Metadata.Name + "/" + c.ContainerName
			targets[key], bounds[key] = string(c.Target), string(c.LowerBound)+" "+string(c.UpperBound)
		}
	}
	return targets, bounds, nil
}

// quiet is a log of what nobody needs to know.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
