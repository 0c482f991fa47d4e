package vpasuite

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// stack is one of the two.
type stack struct {
	name, group string
	// admission stops and starts the admission controller; restart restarts the recommender.
	admission func(w *world, on bool) error
	restart   func(w *world) error
}

// Both take this for one loop, and what should not happen is waited for so long that it would.
const (
	interval = 5 * time.Second
	never    = 25 * time.Second
	soon     = 2 * time.Minute
)

func stacks() []stack {
	return []stack{
		{
			name: "upstream", group: "autoscaling.k8s.io",
			admission: func(w *world, on bool) error { return w.process("upstream-vpa-admission-controller", on) },
			restart:   func(w *world) error { return w.kill("upstream-vpa-recommender") },
		},
		{
			name: "ours", group: "vpa.nops.io",
			admission: func(w *world, on bool) error {
				replicas := "0"
				if on {
					replicas = "2"
				}
				if _, err := w.lab("exec", "--name", w.name, "--", "kubectl", "-n", "nops", "scale", "deployment/nops-vpa-admission-controller", "--replicas="+replicas); err != nil {
					return err
				}
				_, err := w.lab("exec", "--name", w.name, "--", "kubectl", "-n", "nops", "rollout", "status", "deployment/nops-vpa-admission-controller", "--timeout=60s")
				return err
			},
			restart: func(w *world) error {
				_, err := w.lab("exec", "--name", w.name, "--", "kubectl", "-n", "nops", "delete", "pods", "-l", "nops.io/component=vpa-recommender", "--wait=true")
				return err
			},
		},
	}
}

// world is the lab.
type world struct {
	bin, name, kubeconfig string
	node                  string
	kube                  kubernetes.Interface
	dynamic               dynamic.Interface
}

func (w *world) lab(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(w.bin, "lab"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("lab %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// process pauses a program of the node, or lets it go on: one that is stopped in earnest would be another one after.
func (w *world) process(name string, on bool) error {
	signal := "-STOP"
	if on {
		signal = "-CONT"
	}
	return w.signal(name, signal)
}

// kill ends a program of the node; the lab starts it again.
func (w *world) kill(name string) error { return w.signal(name, "-TERM") }

// signal finds the program among the lab's own processes.
func (w *world) signal(name, signal string) error {
	_, err := w.lab("exec", "--name", w.name, "--", "bash", "-c", fmt.Sprintf(`n=0; for p in /proc/[0-9]*; do if [ "$(tr '\0' '\n' <$p/cmdline 2>/dev/null | head -1 | xargs -r basename)" = %s ]; then kill %s ${p#/proc/}; n=1; fi; done; [ $n = 1 ]`, name, signal))
	return err
}

// open installs ours and starts upstream's in the lab that NOPSCTL_LAB names.
func open(t *testing.T) *world {
	t.Helper()
	w := &world{name: os.Getenv("NOPSCTL_LAB")}
	if w.name == "" {
		t.Skip("NOPSCTL_LAB names no lab: the cases need one, with a Kubernetes and containers that are real")
	}
	var err error
	if w.bin, err = filepath.Abs("../../bin"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(w.bin, "lab"), "status", "--name", w.name, "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		Kubeconfig, Policy string
		APIKey             string `json:"api_key"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(status.APIKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"exec", "--name", w.name, "--", "nopsctl", "install", "--api-key-file", key, "--policy", status.Policy, "--skip-connectivity", "--set", "containerInsights.enabled=false", "--set", "karpenops.enabled=false",
			"--set", "containerRightsizing.recommender.interval=" + interval.String(), "--set", "containerRightsizing.updater.interval=" + interval.String(), "--set", "containerRightsizing.policy.interval=" + interval.String()},
		{"upstream-vpa", "on", "--name", w.name, "--interval", interval.String(), "--gates", "InPlace=true,PerVPAConfig=true,CPUStartupBoost=true"},
		{"exec", "--name", w.name, "--", "kubectl", "-n", "nops", "rollout", "status", "deployment/nops-vpa-admission-controller", "--timeout=120s"},
	} {
		if _, err := w.lab(args...); err != nil {
			t.Fatal(err)
		}
	}
	w.kubeconfig = status.Kubeconfig
	config, err := clientcmd.BuildConfigFromFlags("", status.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	if w.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if w.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	nodes, err := w.kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("a lab has one node, this one has %d: %v", len(nodes.Items), err)
	}
	w.node = nodes.Items[0].Name
	// What an earlier run left when it was interrupted would take this one's room.
	selector := metav1.ListOptions{LabelSelector: label}
	left, err := w.kube.CoreV1().Namespaces().List(t.Context(), selector)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range left.Items {
		_ = w.kube.CoreV1().Namespaces().Delete(t.Context(), one.Name, metav1.DeleteOptions{})
	}
	for began := time.Now(); len(left.Items) > 0; time.Sleep(time.Second) {
		if left, err = w.kube.CoreV1().Namespaces().List(t.Context(), selector); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%d namespaces of an earlier run are still there: %s", len(left.Items), left.Items[0].Name)
		}
	}
	return w
}

// label is on the namespaces of cases.
const label = "lab.nopsctl.local/vpasuite"

// run is one case with one stack, in a namespace of its own.
type run struct {
	*testing.T
	*world

	stack     stack
	namespace string
	// node is where its pods are put past the scheduler, which would take a node for full that is going to be; empty leaves it to that.
	node string
}

func (w *world) run(t *testing.T, s stack, number int, b behaviour) *run {
	t.Helper()
	r := &run{T: t, world: w, stack: s, namespace: fmt.Sprintf("case-%s-%d", s.name, number)}
	if !b.schedules {
		r.node = w.node
	}
	_, err := w.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.namespace, Labels: map[string]string{label: "case"}}}, metav1.CreateOptions{})
	r.check(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = w.kube.CoreV1().Namespaces().Delete(ctx, r.namespace, metav1.DeleteOptions{})
	})
	return r
}

func (r *run) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// until waits for what is said to be wrong to be nothing.
func (r *run) until(within time.Duration, what string, wrong func() string) {
	r.Helper()
	for began := time.Now(); ; time.Sleep(300 * time.Millisecond) {
		why := wrong()
		if why == "" {
			return
		}
		if time.Since(began) > within {
			r.Fatalf("not within %s: %s: %s", within, what, why)
		}
	}
}

// all the time nothing is wrong.
func (r *run) always(d time.Duration, what string, wrong func() string) {
	r.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(500 * time.Millisecond) {
		if why := wrong(); why != "" {
			r.Fatalf("%s: %s, after %s", what, why, time.Since(began).Round(time.Second))
		}
	}
}

// amounts are of CPU and memory, as "100m 200Mi"; - leaves one out.
type amounts string

func (a amounts) list() corev1.ResourceList {
	list := corev1.ResourceList{}
	for i, text := range strings.Fields(string(a)) {
		if text != "-" {
			list[[]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}[i]] = resource.MustParse(text)
		}
	}
	return list
}

func (a amounts) object() map[string]any {
	out := map[string]any{}
	for name, q := range a.list() {
		out[string(name)] = q.String()
	}
	return out
}

// container of a workload's pods.
type container struct {
	name             string
	requests, limits amounts
	args             []string
}

// recommended is what the autoscaler's status says of a container.
type recommended struct {
	container            string
	target, lower, upper amounts // bounds are the target unless said otherwise
}

// autoscaler is what is made in the stack's group.
type autoscaler struct {
	name         string // hamster unless said otherwise
	kind, target string // Deployment hamster unless said otherwise
	mode         string
	policies     []map[string]any // of containers
	update       map[string]any   // more of the update policy
	boost        map[string]any
	status       []recommended
	recommenders []string // nobody unless said otherwise, so that the status stays what it is
	defaults     bool     // no recommender is named: the stack's own
}

func (r *run) resource(plural string) dynamic.ResourceInterface {
	return r.dynamic.Resource(schema.GroupVersionResource{Group: r.stack.group, Version: "v1", Resource: plural}).Namespace(r.namespace)
}

func (r *run) autoscale(a autoscaler) {
	r.Helper()
	r.check(r.create(a, false))
	if len(a.status) > 0 {
		r.recommend(a.status...)
	}
	time.Sleep(time.Second) // whoever watches has seen it
}

// answers waits until the stack's webhook does: whoever is ready is not yet known to every proxy.
func (r *run) answers() {
	r.Helper()
	wrong := autoscaler{name: "wrong", policies: []map[string]any{{"containerName": "*", "minAllowed": map[string]any{"requests": map[string]any{"cpu": "10m"}}}}}
	for range 5 {
		r.until(soon, "the webhook answers", func() string {
			if err := r.create(wrong, true); err == nil {
				return "what means nothing is taken"
			}
			return ""
		})
		time.Sleep(500 * time.Millisecond)
	}
}

func (r *run) create(a autoscaler, dry bool) error {
	if a.name == "" {
		a.name = "hamster"
	}
	if a.kind == "" {
		a.kind = "Deployment"
	}
	if a.target == "" {
		a.target = "hamster"
	}
	spec := map[string]any{"targetRef": map[string]any{"apiVersion": versions()[a.kind], "kind": a.kind, "name": a.target}}
	update := map[string]any{}
	for k, v := range a.update {
		update[k] = v
	}
	if a.mode != "" {
		update["updateMode"] = a.mode
	}
	if len(update) > 0 {
		spec["updatePolicy"] = update
	}
	if len(a.policies) > 0 {
		var all []any
		for _, p := range a.policies {
			all = append(all, p)
		}
		spec["resourcePolicy"] = map[string]any{"containerPolicies": all}
	}
	if a.boost != nil {
		spec["startupBoost"] = a.boost
	}
	if !a.defaults {
		if a.recommenders == nil {
			a.recommenders = []string{"nobody"}
		}
		var all []any
		for _, name := range a.recommenders {
			all = append(all, map[string]any{"name": name})
		}
		spec["recommenders"] = all
	}
	options := metav1.CreateOptions{}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err := r.resource("verticalpodautoscalers").Create(r.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": r.stack.group + "/v1", "kind": "VerticalPodAutoscaler", "metadata": map[string]any{"name": a.name}, "spec": spec,
	}}, options)
	return err
}

func (r *run) recommend(all ...recommended) {
	r.Helper()
	var list []any
	for _, one := range all {
		if one.lower == "" {
			one.lower = one.target
		}
		if one.upper == "" {
			one.upper = one.target
		}
		list = append(list, map[string]any{"containerName": one.container, "target": one.target.object(), "lowerBound": one.lower.object(), "upperBound": one.upper.object(), "uncappedTarget": one.target.object()})
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"recommendation": map[string]any{"containerRecommendations": list},
		"conditions":     []any{map[string]any{"type": "RecommendationProvided", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}},
	}})
	r.check(err)
	_, err = r.resource("verticalpodautoscalers").Patch(r.Context(), "hamster", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	r.check(err)
}

// recommendation waits for one of the stack's recommender, with so many containers.
func (r *run) recommendation(containers int) []any {
	r.Helper()
	var list []any
	r.until(3*time.Minute, fmt.Sprintf("%d containers have a recommendation", containers), func() string {
		u, err := r.resource("verticalpodautoscalers").Get(r.Context(), "hamster", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		list, _, _ = unstructured.NestedSlice(u.Object, "status", "recommendation", "containerRecommendations")
		if len(list) != containers {
			return fmt.Sprint(u.Object["status"])
		}
		return ""
	})
	return list
}

// quantity of a recommendation.
func quantity(recommendation any, path ...string) resource.Quantity {
	m, _ := recommendation.(map[string]any)
	text, _, _ := unstructured.NestedString(m, path...)
	q, _ := resource.ParseQuantity(text)
	return q
}

func versions() map[string]string {
	return map[string]string{"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1", "CronJob": "batch/v1", "ReplicationController": "v1"}
}

const image = "public.ecr.aws/lab/load:1"

func hamsters(n int, requests, limits amounts) []container {
	var all []container
	for i := range n {
		all = append(all, container{name: hamster(i), requests: requests, limits: limits})
	}
	return all
}

func hamster(i int) string {
	if i == 0 {
		return "hamster"
	}
	return fmt.Sprintf("hamster%d", i+1)
}

func template(node string, containers []container) corev1.PodTemplateSpec {
	zero := int64(0)
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "hamster"}}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &zero, NodeName: node}}
	for _, c := range containers {
		t.Spec.Containers = append(t.Spec.Containers, corev1.Container{Name: c.name, Image: image, Args: c.args, Resources: corev1.ResourceRequirements{Requests: c.requests.list(), Limits: c.limits.list()}})
	}
	return t
}

// start makes a workload and waits until its pods run.
func (r *run) start(kind string, replicas int32, containers ...container) []corev1.Pod {
	r.Helper()
	meta := metav1.ObjectMeta{Name: "hamster", Namespace: r.namespace}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "hamster"}}
	spec := template(r.node, containers)
	// A pod's containers share its network, and the program listens.
	for i := range spec.Spec.Containers {
		if i > 0 {
			spec.Spec.Containers[i].Args = []string{"silent", fmt.Sprintf("127.0.0.1:%d", 9000+i)}
		}
	}
	var err error
	switch kind {
	case "Deployment":
		_, err = r.kube.AppsV1().Deployments(r.namespace).Create(r.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: spec}}, metav1.CreateOptions{})
	case "ReplicaSet":
		_, err = r.kube.AppsV1().ReplicaSets(r.namespace).Create(r.Context(), &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: selector, Template: spec}}, metav1.CreateOptions{})
	case "StatefulSet":
		_, err = r.kube.AppsV1().StatefulSets(r.namespace).Create(r.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{ServiceName: "hamster", Replicas: &replicas, Selector: selector, Template: spec, PodManagementPolicy: appsv1.ParallelPodManagement}}, metav1.CreateOptions{})
	case "ReplicationController":
		_, err = r.kube.CoreV1().ReplicationControllers(r.namespace).Create(r.Context(), &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: selector.MatchLabels, Template: &spec}}, metav1.CreateOptions{})
	case "Job", "CronJob":
		spec.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		backoff := int32(100)
		job := batchv1.JobSpec{Parallelism: &replicas, Completions: &replicas, BackoffLimit: &backoff, Template: spec}
		if kind == "Job" {
			_, err = r.kube.BatchV1().Jobs(r.namespace).Create(r.Context(), &batchv1.Job{ObjectMeta: meta, Spec: job}, metav1.CreateOptions{})
			break
		}
		// Every minute, and never two at a time: what comes is there for good.
		_, err = r.kube.BatchV1().CronJobs(r.namespace).Create(r.Context(), &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: job}}}, metav1.CreateOptions{})
	default:
		r.Fatalf("no kind %s", kind)
	}
	r.check(err)
	return r.running(int(replicas))
}

// pods are those that live, by age and name.
func (r *run) pods() []corev1.Pod {
	r.Helper()
	list, err := r.kube.CoreV1().Pods(r.namespace).List(r.Context(), metav1.ListOptions{LabelSelector: "app=hamster"})
	r.check(err)
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods
}

// running waits until exactly so many run.
func (r *run) running(n int) []corev1.Pod {
	r.Helper()
	var pods []corev1.Pod
	r.until(soon, fmt.Sprintf("%d pods run", n), func() string {
		pods = r.pods()
		if len(pods) != n {
			return fmt.Sprintf("there are %d", len(pods))
		}
		for _, p := range pods {
			if p.Status.Phase != corev1.PodRunning {
				return fmt.Sprintf("%s is %s: %v", p.Name, p.Status.Phase, p.Status.Conditions)
			}
		}
		return ""
	})
	return pods
}

// gone says how many of the pods are not there any more.
func (r *run) gone(before []corev1.Pod) int {
	r.Helper()
	now := map[types.UID]bool{}
	for _, p := range r.pods() {
		now[p.UID] = true
	}
	n := 0
	for _, p := range before {
		if !now[p.UID] {
			n++
		}
	}
	return n
}

func (r *run) evicted(before []corev1.Pod, within time.Duration) {
	r.Helper()
	r.until(within, "a pod is evicted", func() string {
		if r.gone(before) > 0 {
			return ""
		}
		return "all are there"
	})
}

func (r *run) stays(before []corev1.Pod) {
	r.Helper()
	r.always(never, "no pod is evicted", func() string {
		if n := r.gone(before); n > 0 {
			return fmt.Sprintf("%d are gone", n)
		}
		return ""
	})
}

// have says what of the first container's, or all containers', requests is not as wanted.
func have(pods []corev1.Pod, want ...amounts) string {
	for _, p := range pods {
		for i, w := range want {
			for name, q := range w.list() {
				if got := p.Spec.Containers[i].Resources.Requests[name]; got.Cmp(q) != 0 {
					return fmt.Sprintf("container %s of %s requests %s of %s instead of %s", p.Spec.Containers[i].Name, p.Name, got.String(), name, q.String())
				}
			}
		}
	}
	return ""
}

// actual is the same of what the node gives them.
func actual(pods []corev1.Pod, want ...amounts) string {
	for _, p := range pods {
		for i, w := range want {
			for _, s := range p.Status.ContainerStatuses {
				if s.Name != p.Spec.Containers[i].Name {
					continue
				}
				for name, q := range w.list() {
					if s.Resources == nil {
						return "the node says nothing of " + p.Name
					}
					if got := s.Resources.Requests[name]; got.Cmp(q) != 0 {
						return fmt.Sprintf("container %s of %s was given %s of %s instead of %s", s.Name, p.Name, got.String(), name, q.String())
					}
				}
			}
		}
	}
	return have(pods, want...)
}

// resized waits until the same pods have it, given by the node.
func (r *run) resized(before []corev1.Pod, want ...amounts) {
	r.Helper()
	r.until(soon, "pods are resized in place", func() string {
		if n := r.gone(before); n > 0 {
			r.Fatalf("%d pods are gone instead", n)
		}
		return actual(r.pods(), want...)
	})
	for _, p := range r.pods() {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount > 0 {
				r.Fatalf("container %s of %s was restarted", s.Name, p.Name)
			}
		}
	}
}

func (r *run) limitRange(kind corev1.LimitType, least, most amounts) {
	r.Helper()
	item := corev1.LimitRangeItem{Type: kind}
	if least != "" {
		item.Min = least.list()
	}
	if most != "" {
		item.Max = most.list()
	}
	_, err := r.kube.CoreV1().LimitRanges(r.namespace).Create(r.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "hamster"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}, metav1.CreateOptions{})
	r.check(err)
	time.Sleep(time.Second)
}

func (r *run) disruption(unavailable int) {
	r.Helper()
	n := intstr.FromInt32(int32(unavailable))
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "hamster"}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "hamster"}}}}
	_ = r.kube.PolicyV1().PodDisruptionBudgets(r.namespace).Delete(r.Context(), "hamster", metav1.DeleteOptions{})
	_, err := r.kube.PolicyV1().PodDisruptionBudgets(r.namespace).Create(r.Context(), budget, metav1.CreateOptions{})
	r.check(err)
}

// killOne deletes a pod and waits for the one that comes instead.
func (r *run) killOne(replicas int) {
	r.Helper()
	before := r.pods()
	r.check(r.kube.CoreV1().Pods(r.namespace).Delete(r.Context(), before[0].Name, metav1.DeleteOptions{}))
	r.until(soon, "another pod comes", func() string {
		if r.gone(before) == 0 {
			return "it is still there"
		}
		return ""
	})
	r.running(replicas)
}
