package vpa

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/agents/vpa/admission"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// envReach makes this test's binary the program: each part runs in a process of its own, as it ships, for what is global in one is not shared.
const envReach = "NOPS_VPA_TEST_REACH"

// reach is how a part reaches the API server in a test, and the file in which it notes what it asked.
type reach struct {
	Host, Requests, User string
	CA, Certificate, Key []byte
	Groups               []string
}

func TestMain(m *testing.M) {
	text := os.Getenv(envReach)
	if text == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Program().Main(ctx, agent.Process{Args: os.Args[1:], Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Version: "1", KubeConfig: func() (*rest.Config, error) {
		var r reach
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, err
		}
		out, err := os.OpenFile(r.Requests, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		c := &rest.Config{Host: r.Host, TLSClientConfig: rest.TLSClientConfig{CAData: r.CA, CertData: r.Certificate, KeyData: r.Key}, Impersonate: rest.ImpersonationConfig{UserName: r.User, Groups: r.Groups}}
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { return noted{next, out} })
		return c, nil
	}})
	stop()
	os.Exit(code)
}

// noted writes a line for each request that was answered.
type noted struct {
	next http.RoundTripper
	out  *os.File
}

// RoundTrip implements http.RoundTripper.
func (n noted) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := n.next.RoundTrip(r)
	if err == nil {
		fmt.Fprintf(n.out, "%d %s %s\n", answer.StatusCode, r.Method, r.URL.Path)
	}
	return answer, err
}

// process is a part that runs.
type process struct {
	t        *testing.T
	cluster  *vpatest.Cluster
	part     string
	requests string
	log      agenttest.Buffer
	command  *exec.Cmd
}

func begun(t *testing.T, cluster *vpatest.Cluster, part string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cluster: cluster, part: part, requests: filepath.Join(t.TempDir(), "requests")}
	c := cluster.As(part)
	how, err := json.Marshal(reach{Host: c.Host, Requests: p.requests, User: c.Impersonate.UserName, CA: c.CAData, Certificate: c.CertData, Key: c.KeyData, Groups: c.Impersonate.Groups})
	if err != nil {
		t.Fatal(err)
	}
	p.command = exec.CommandContext(t.Context(), os.Args[0], append(args, "--listen-address=127.0.0.1:0")...)
	p.command.Env = append(os.Environ(), envReach+"="+string(how), "POD_NAMESPACE="+agenttest.Namespace, "NOPS_RELEASE="+agenttest.Release, "HOSTNAME="+part)
	p.command.Stdout, p.command.Stderr = &p.log, &p.log
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", part, p.log.String())
		}
	})
	return p
}

// listed is a request for objects of one kind, with the group where it has one.
var listed = regexp.MustCompile(`^GET /(?:api/v1|apis/([^/]+)/[^/]+)/(?:namespaces/[^/]+/)?([a-z]+)$`)

// asked are requests that were answered so far, and the resources of which it listed or watched objects.
func (p *process) asked() (lines []string, resources map[string]bool) {
	text, err := os.ReadFile(p.requests)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	resources = map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		lines = append(lines, line)
		if _, request, is := strings.Cut(line, " "); is {
			if m := listed.FindStringSubmatch(request); m != nil {
				resources[m[1]+"/"+m[2]] = true
			}
		}
	}
	return lines, resources
}

// rightful holds that its role is what it needs: nothing was forbidden, and it asked for all that it may list or watch, as far as there is such an API.
func (p *process) rightful() {
	p.t.Helper()
	role, err := p.cluster.Client.RbacV1().ClusterRoles().Get(p.t.Context(), "nops-vpa-"+p.part, metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	groups, err := p.cluster.Client.Discovery().ServerGroups()
	if err != nil {
		p.t.Fatal(err)
	}
	var may []string
	for _, rule := range role.Rules {
		if !slices.Contains(rule.Verbs, "list") && !slices.Contains(rule.Verbs, "watch") {
			continue
		}
		for _, group := range rule.APIGroups {
			if group != "" && !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group }) {
				continue // of others, who are not here
			}
			for _, name := range rule.Resources {
				may = append(may, group+"/"+name)
			}
		}
	}
	if len(may) < 10 {
		p.t.Fatalf("%s may list %v alone: the test does not see its role", p.part, may)
	}
	for _, name := range may {
		limit := time.Now().Add(20 * time.Second)
		for {
			if _, resources := p.asked(); resources[name] {
				break
			}
			if time.Now().After(limit) {
				p.t.Errorf("%s may list or watch %s, and never did", p.part, name)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	lines, _ := p.asked()
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		if strings.HasPrefix(line, "403 ") {
			p.t.Errorf("%s was refused: %s", p.part, line)
		}
	}
	_ = p.command.Process.Kill() // the next one begins with what this one left
	_ = p.command.Wait()
}

// kinds of an operator: one without replicas, and one with.
const kinds = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.operators.example.com}
spec:
  group: operators.example.com
  scope: Namespaced
  names: {kind: Database, plural: databases, singular: database}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: rollouts.operators.example.com}
spec:
  group: operators.example.com
  scope: Namespaced
  names: {kind: Rollout, plural: rollouts, singular: rollout}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
    subresources: {scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}}
---
apiVersion: operators.example.com/v1
kind: Database
metadata: {name: orders, namespace: default}
---
apiVersion: operators.example.com/v1
kind: Rollout
metadata: {name: canary, namespace: default}
spec: {replicas: 2}
status: {replicas: 2, selector: app=canary}
---
apiVersion: vpa.nops.io/v1
kind: VerticalPodAutoscaler
metadata: {name: orders, namespace: default, annotations: {vpa.nops.io/settings: '{"policy":"p","level":"BalancedSavings","observation":"0s","cooldown":"0s"}'}}
spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: orders}, updatePolicy: {updateMode: InPlace}}
---
apiVersion: vpa.nops.io/v1
kind: VerticalPodAutoscaler
metadata: {name: canary, namespace: default, annotations: {vpa.nops.io/settings: '{"policy":"p","level":"BalancedSavings","observation":"0s","cooldown":"0s"}'}}
spec: {targetRef: {apiVersion: operators.example.com/v1, kind: Rollout, name: canary}, updatePolicy: {updateMode: InPlace}}
`

// operated is a cluster whose workloads belong to kinds that nobody knew: a Deployment to one without replicas, a ReplicaSet to one with them.
type operated struct {
	*vpatest.Cluster

	t    *testing.T
	sets map[string]*appsv1.ReplicaSet
}

func operate(t *testing.T) *operated {
	t.Helper()
	o := &operated{Cluster: vpatest.New(t, vpatest.Options{WebhookURL: "https://localhost:1/mutate"}), t: t, sets: map[string]*appsv1.ReplicaSet{}}
	yes, ctx, owners := true, t.Context(), map[string]metav1.OwnerReference{}
	for _, text := range strings.Split(kinds, "\n---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		gvk := u.GroupVersionKind()
		gvr := schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: strings.ToLower(gvk.Kind) + "s"}
		vpatest.Eventually(t, u.GetKind()+" "+u.GetName()+" is made", 20*time.Second, func() bool { // a definition takes a moment
			made, err := o.Dynamic.Resource(gvr).Namespace(u.GetNamespace()).Create(ctx, u.DeepCopy(), metav1.CreateOptions{})
			if err == nil {
				owners[u.GetKind()] = metav1.OwnerReference{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Name: u.GetName(), UID: made.GetUID(), Controller: &yes}
			}
			return err == nil
		})
	}
	replicas := int32(2)
	for name, owner := range map[string]metav1.OwnerReference{"orders": owners["Database"], "canary": owners["Rollout"]} {
		labels := map[string]string{"app": name}
		selector, template := &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "app", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}},
		}}}}
		if name == "orders" {
			d, err := o.Client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{owner}}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: template},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			owner = metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: d.UID, Controller: &yes}
		}
		rs, err := o.Client.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-1", OwnerReferences: []metav1.OwnerReference{owner}}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: selector, Template: template},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		o.sets[name] = rs
		for i := range replicas {
			o.run(o.pod(name, fmt.Sprintf("%s-1-%d", name, i)))
		}
	}
	return o
}

// pod is one of a workload, not made yet.
func (o *operated) pod(workload, name string) *corev1.Pod {
	rs, yes := o.sets[workload], true
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: rs.Spec.Template.Labels, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: rs.Name, UID: rs.UID, Controller: &yes}},
		},
		Spec: *rs.Spec.Template.Spec.DeepCopy(),
	}
}

// node is where pods run: the API server resizes none whose node it does not know.
func (o *operated) node() {
	o.t.Helper()
	n, err := o.Client.CoreV1().Nodes().Create(o.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi")}
	n.Status.Allocatable = n.Status.Capacity
	if _, err := o.Client.CoreV1().Nodes().UpdateStatus(o.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		o.t.Fatal(err)
	}
}

// run makes it, on a node that says since yesterday that it runs.
func (o *operated) run(p *corev1.Pod) {
	o.t.Helper()
	p.Spec.NodeName = "node"
	p, err := o.Client.CoreV1().Pods(p.Namespace).Create(o.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	since := metav1.NewTime(time.Now().Add(-24 * time.Hour))
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &since, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Image: "app", ImageID: "app", Ready: true, Resources: p.Spec.Containers[0].Resources.DeepCopy(), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: since}}}},
	}
	if _, err := o.Client.CoreV1().Pods(p.Namespace).UpdateStatus(o.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		o.t.Fatal(err)
	}
}

// conditions of an autoscaler that are true; told is whether there are any.
func (o *operated) conditions(name string) (are []string, told bool) {
	o.t.Helper()
	u, err := o.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default").Get(o.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	all, told, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		o.t.Fatal(err)
	}
	for _, c := range all {
		if c, is := c.(map[string]any); is && c["status"] == "True" {
			are = append(are, fmt.Sprint(c["type"], ": ", c["message"]))
		}
	}
	return are, told
}

// TestRights: with the role that the chart gives it, each part sizes workloads that belong to kinds which nobody knew; it is refused nothing, and
// there is nothing to list that it does not.
func TestRights(t *testing.T) {
	o := operate(t)
	workloads := []string{"orders", "canary"}

	p := begun(t, o.Cluster, "recommender", "recommender", "--interval=1s")
	for _, name := range workloads {
		vpatest.Eventually(t, "something is said of "+name, time.Minute, func() bool { _, told := o.conditions(name); return told })
		// Nobody measures here, so that there is no recommendation; its pods are found.
		are, _ := o.conditions(name)
		for _, c := range are {
			if strings.HasPrefix(c, "ConfigUnsupported") || strings.HasPrefix(c, "NoPodsMatched") {
				t.Errorf("the recommender does not find the pods of %s: %s", name, c)
			}
		}
	}
	p.rightful()

	for _, name := range workloads {
		body := []byte(`{"status":{"recommendation":{"containerRecommendations":[{"containerName":"app","target":{"cpu":"300m","memory":"600Mi"},"lowerBound":{"cpu":"200m","memory":"500Mi"},"upperBound":{"cpu":"400m","memory":"700Mi"}}]}}}`)
		if _, err := o.Dynamic.Resource(rightsizing.Autoscalers()).Namespace("default").Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	o.node()
	p = begun(t, o.Cluster, "updater", "updater", "--every=1s")
	for _, name := range workloads {
		vpatest.Eventually(t, "the updater resizes the pods of "+name, time.Minute, func() bool {
			pod, err := o.Client.CoreV1().Pods("default").Get(t.Context(), name+"-1-0", metav1.GetOptions{})
			return err == nil && pod.Spec.Containers[0].Resources.Requests.Cpu().String() == "300m"
		})
	}
	p.rightful()

	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	p = begun(t, o.Cluster, "admission-controller", "admission", "--webhook-address="+address)
	for _, name := range workloads {
		vpatest.Eventually(t, "the webhook sizes new pods of "+name, time.Minute, func() bool { return o.sized(address, o.pod(name, name+"-1-new")) })
	}
	p.rightful()
}

// sized asks a webhook as API servers do.
func (o *operated) sized(address string, p *corev1.Pod) bool {
	o.t.Helper()
	w, err := o.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(o.t.Context(), rightsizing.WebhookName, metav1.GetOptions{})
	if err != nil {
		o.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(w.Webhooks[0].ClientConfig.CABundle) {
		return false // not yet
	}
	object, err := json.Marshal(p)
	if err != nil {
		o.t.Fatal(err)
	}
	kind := metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	review, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{
		UID: "1", Kind: kind, RequestKind: &kind, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Namespace: p.Namespace, Operation: admissionv1.Create,
		Object: runtime.RawExtension{Raw: object},
	}})
	if err != nil {
		o.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, "https://"+address+admission.Path, bytes.NewReader(review))
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: rightsizing.AdmissionService + "." + agenttest.Namespace + ".svc", MinVersion: tls.VersionTLS12,
	}}}
	response, err := client.Do(request)
	if err != nil {
		return false // not yet
	}
	defer response.Body.Close()
	var answer admissionv1.AdmissionReview
	return json.NewDecoder(response.Body).Decode(&answer) == nil && answer.Response != nil && strings.Contains(string(answer.Response.Patch), "300m")
}
