package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// apiServer is the one API server of this package's tests, with a stand-in for what makes pods of Jobs and runs them. Logs come through the API server from
// a kubelet's own endpoint, so that they are followed as in any cluster.
type apiServer struct {
	env     *envtest.Environment
	config  clientcmdapi.Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	stop    func()

	mu   sync.Mutex
	runs map[string]func(*batchv1.Job) agentRun // by namespace: what the program does
	logs map[string]*podLog                     // by namespace/pod
	done map[string]int                         // by namespace/job: pods that were made for it
}

// agentRun is what the agent's program does in a pod, as far as anybody outside sees it.
type agentRun struct {
	lines   []string
	code    int32
	hold    bool   // until it is told to end
	waiting string // never starts: the kubelet's reason
	evicted bool   // the first pod is, before it ends; the next one ends well
	noPod   string // the Job's controller makes none: the reason in its Event
	expired bool   // the Job's deadline passes while it runs
	long    bool   // it ran as long as it may
	cut     int    // connections to the log that break after that many lines
	act     func() // what it does to the cluster
}

type podLog struct {
	mu    sync.Mutex
	lines []string // with their timestamps
	ended bool
	cut   int
}

var server struct {
	once sync.Once
	*apiServer
	err error
}

// withServer stops the API server when the tests have run: a process that is left would outlive them.
type withServer struct{ *testing.M }

// Run implements testscript.TestingM.
func (m withServer) Run() int {
	code := m.M.Run()
	if server.apiServer != nil {
		server.stop()
	}
	return code
}

// realCluster starts the API server on first use.
func realCluster(t *testing.T) *apiServer {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver: make test sets it")
	}
	server.once.Do(func() { server.apiServer, server.err = startAPIServer(t.Context()) })
	must(t, server.err)
	return server.apiServer
}

func definition(plural, kind, version string) *unstructured.Unstructured {
	anything := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + ".karpenter.sh"},
		"spec": map[string]any{
			"group": "karpenter.sh", "scope": "Cluster", "names": map[string]any{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{"name": version, "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}}, "schema": map[string]any{"openAPIV3Schema": anything}}},
		},
	}}
}

func startAPIServer(ctx context.Context) (*apiServer, error) {
	env := &envtest.Environment{ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	config, err := env.Start()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	s := &apiServer{env: env, client: kubernetes.NewForConfigOrDie(config), dynamic: dynamic.NewForConfigOrDie(config), runs: map[string]func(*batchv1.Job) agentRun{}, logs: map[string]*podLog{}, done: map[string]int{}}
	admin, err := env.AddUser(envtest.User{Name: "jane", Groups: []string{"system:masters"}}, config)
	if err != nil {
		return nil, err
	}
	data, err := admin.KubeConfig()
	if err != nil {
		return nil, err
	}
	loaded, err := clientcmd.Load(data)
	if err != nil {
		return nil, err
	}
	s.config = *loaded
	crds := s.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	definitions, err := vpaDefinitions()
	if err != nil {
		return nil, err
	}
	for _, d := range append(definitions, definition("nodepools", "NodePool", "v1"), definition("nodeoverlays", "NodeOverlay", "v1alpha1")) {
		if _, err := crds.Create(ctx, d, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	for _, r := range []schema.GroupVersionResource{nodePools, nodeOverlays, rightsizing.Policies(), rightsizing.Autoscalers(), rightsizing.UpstreamAutoscalers()} {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if _, err := s.dynamic.Resource(r).List(ctx, metav1.ListOptions{}); err == nil {
				break
			} else if time.Now().After(end) {
				return nil, err
			}
		}
	}
	kubelet := httptest.NewTLSServer(http.HandlerFunc(s.kubelet))
	host, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	node, err := s.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := s.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.control(running) }()
	s.stop = func() {
		cancel()
		<-done
		kubelet.CloseClientConnections()
		kubelet.Close()
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the API server:", err)
		}
	}
	return s, nil
}

var (
	nodePools    = schema.GroupVersionResource{Group: "karpenter.sh", Version: "v1", Resource: "nodepools"}
	nodeOverlays = schema.GroupVersionResource{Group: "karpenter.sh", Version: "v1alpha1", Resource: "nodeoverlays"}
)

// kubelet serves logs: GET /containerLogs/NAMESPACE/POD/CONTAINER?follow=true&timestamps=true&sinceTime=….
func (s *apiServer) kubelet(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "containerLogs" || r.URL.Query().Get("timestamps") != "true" {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	log := s.logs[parts[1]+"/"+parts[2]]
	s.mu.Unlock()
	if log == nil {
		http.Error(w, "no such pod", http.StatusNotFound)
		return
	}
	since := r.URL.Query().Get("sinceTime")
	flush := w.(http.Flusher).Flush
	for sent := 0; ; time.Sleep(5 * time.Millisecond) {
		log.mu.Lock()
		lines, ended, cut := slices.Clone(log.lines), log.ended, log.cut
		log.mu.Unlock()
		for ; sent < len(lines); sent++ {
			// Seconds are what the API counts in.
			if stamp, _, _ := strings.Cut(lines[sent], " "); since != "" && stamp[:19] < since[:19] {
				continue
			}
			if cut > 0 && sent == cut {
				log.mu.Lock()
				log.cut = 0
				log.mu.Unlock()
				io.WriteString(w, lines[sent][:len(lines[sent])-2]) // in the middle of a line
				flush()
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, lines[sent]+"\n")
		}
		flush()
		if ended || r.Context().Err() != nil {
			return
		}
	}
}

// control is what the Job's controller, the scheduler and a kubelet would do.
func (s *apiServer) control(ctx context.Context) {
	for ctx.Err() == nil {
		jobs, err := s.client.BatchV1().Jobs(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err == nil {
			known := map[string]bool{}
			for i := range jobs.Items {
				j := &jobs.Items[i]
				known[j.Namespace+"/"+j.Name] = true
				s.mu.Lock()
				run, made := s.runs[j.Namespace], s.done[j.Namespace+"/"+j.Name]
				s.mu.Unlock()
				if run != nil && made == 0 && j.DeletionTimestamp == nil {
					s.mu.Lock()
					s.done[j.Namespace+"/"+j.Name]++
					s.mu.Unlock()
					go s.work(ctx, j, run(j))
				}
			}
			s.collect(ctx, known)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// collect removes the pods of Jobs that are gone.
func (s *apiServer) collect(ctx context.Context, known map[string]bool) {
	pods, err := s.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel})
	if err != nil {
		return
	}
	for _, p := range pods.Items {
		if !known[p.Namespace+"/"+p.Labels[batchv1.JobNameLabel]] {
			now := int64(0)
			_ = s.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		}
	}
}

// work makes the pod of a Job and lives its life.
func (s *apiServer) work(ctx context.Context, j *batchv1.Job, run agentRun) {
	if run.noPod != "" {
		_, _ = s.client.CoreV1().Events(j.Namespace).Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "e-", Namespace: j.Namespace}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: run.noPod,
			InvolvedObject: corev1.ObjectReference{Kind: "Job", Name: j.Name, Namespace: j.Namespace},
		}, metav1.CreateOptions{})
		return
	}
	if run.evicted {
		first := run
		first.code, first.lines = 143, run.lines[:1]
		if pod := s.pod(ctx, j, first); pod != nil {
			s.end(ctx, pod, first)
		}
		run.lines = run.lines[1:]
	}
	pod := s.pod(ctx, j, run)
	if pod == nil || run.waiting != "" {
		return
	}
	if run.act != nil {
		run.act()
	}
	for run.hold { // until the pod is gone
		if _, err := s.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
			s.finish(pod)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !run.expired {
		s.end(ctx, pod, run)
	}
	s.conclude(ctx, j, run)
	s.finish(pod)
}

func (s *apiServer) pod(ctx context.Context, j *batchv1.Job, run agentRun) *corev1.Pod {
	labels := maps.Clone(j.Spec.Template.Labels)
	labels[batchv1.JobNameLabel] = j.Name
	spec := *j.Spec.Template.Spec.DeepCopy()
	spec.NodeName = "node-1"
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: j.Name + "-", Namespace: j.Namespace, Labels: labels, Annotations: j.Spec.Template.Annotations}, Spec: spec}
	pod, err := s.client.CoreV1().Pods(j.Namespace).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "the stand-in for the Job's controller:", err)
		return nil
	}
	now := metav1.Now()
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	pod.Status.Phase = corev1.PodRunning
	if run.waiting != "" {
		state, pod.Status.Phase = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: run.waiting, Message: "Back-off pulling image: not found"}}, corev1.PodPending
	}
	log := &podLog{cut: run.cut}
	for i, line := range run.lines {
		// Several lines in one second, and one in the next: the log goes on from a second, not from a line.
		log.lines = append(log.lines, time.Date(2026, 11, 23, 14, 0, i/3, 1000*(i+1), time.UTC).Format(time.RFC3339Nano)+" "+line)
	}
	s.mu.Lock()
	s.logs[pod.Namespace+"/"+pod.Name] = log
	s.mu.Unlock()
	pod.Status.StartTime = &now
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: spec.Containers[0].Name, Image: spec.Containers[0].Image, State: state}}
	if _, err := s.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, "the stand-in for the kubelet:", err)
	}
	return pod
}

// finish ends a pod's log.
func (s *apiServer) finish(pod *corev1.Pod) {
	s.mu.Lock()
	log := s.logs[pod.Namespace+"/"+pod.Name]
	s.mu.Unlock()
	log.mu.Lock()
	log.ended = true
	log.mu.Unlock()
}

func (s *apiServer) end(ctx context.Context, pod *corev1.Pod, run agentRun) {
	live, err := s.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return
	}
	live.Status.Phase = corev1.PodSucceeded
	reason := "Completed"
	if run.code != 0 {
		live.Status.Phase, reason = corev1.PodFailed, "Error"
	}
	live.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: run.code, Reason: reason, StartedAt: *live.Status.StartTime, FinishedAt: metav1.Now()}}
	if run.long {
		live.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(live.Status.StartTime.Add(2 * time.Hour))
	}
	_, _ = s.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, live, metav1.UpdateOptions{})
	s.finish(pod)
}

// conclude writes the Job's conditions, as its controller does a moment after the pod.
func (s *apiServer) conclude(ctx context.Context, j *batchv1.Job, run agentRun) {
	live, err := s.client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
	if err != nil {
		return
	}
	now := metav1.Now()
	live.Status.StartTime = &now
	say := func(reason, message string, types ...batchv1.JobConditionType) {
		for _, t := range types {
			live.Status.Conditions = append(live.Status.Conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: now})
		}
	}
	switch {
	case run.expired:
		say(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline", batchv1.JobFailureTarget, batchv1.JobFailed)
		live.Status.Failed = 1
	case run.code != 0:
		say(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit", batchv1.JobFailureTarget, batchv1.JobFailed)
		live.Status.Failed = 1
	default:
		say(batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
		live.Status.Succeeded, live.Status.CompletionTime = 1, &now
	}
	if _, err := s.client.BatchV1().Jobs(j.Namespace).UpdateStatus(ctx, live, metav1.UpdateOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, "the stand-in for the Job's controller:", err)
	}
}

// karpenWorld is a world on the real API server, in a namespace of its own.
type karpenWorld struct {
	*world
	*apiServer
	namespace string
	real      *install.Engine // of installed
	width     int             // of the terminal; 0: 100
	fast      bool            // time passes whenever somebody waits, so that what is bounded ends
}

func (k *karpenWorld) getter() *kube.Cluster {
	return kube.FromConfig(k.apiServer.config, kube.Options{Namespace: k.namespace})
}

func newKarpenWorld(t *testing.T) *karpenWorld {
	t.Helper()
	s := realCluster(t)
	k := &karpenWorld{world: newWorld(t), apiServer: s, namespace: "t-" + jobNameOf("")}
	_, err := s.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: k.namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}, metav1.CreateOptions{})
	must(t, err)
	k.change = func(f *Factory) {
		f.Cluster = func(o kube.Options) Cluster { return kube.FromConfig(s.config, o) }
		if k.width > 0 {
			f.IO.SetWidth(k.width)
		}
		f.Sleep = func(ctx context.Context, d time.Duration) error {
			if k.fast {
				k.clock.mu.Lock()
				k.clock.now = k.clock.now.Add(4 * d)
				k.clock.mu.Unlock()
			}
			return pauseFor(ctx, 5*time.Millisecond)
		}
	}
	k.engine.status = healthy()
	k.agentState(install.ComponentState("ready"))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, r := range []schema.GroupVersionResource{nodePools, nodeOverlays, rightsizing.Policies()} {
			must(t, s.dynamic.Resource(r).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		}
	})
	return k
}

// args adds the namespace.
func (k *karpenWorld) args(args ...string) []string { return append(args, "--namespace", k.namespace) }

func (k *karpenWorld) agentState(state install.ComponentState) {
	for i := range k.engine.status.Components {
		if c := &k.engine.status.Components[i]; c.Name == karpenops {
			*c = install.ComponentStatus{Name: karpenops, State: state, Available: true, Enabled: state != install.ComponentDisabled}
			if c.Enabled {
				c.Workloads = slices.Clone(healthy().Components[1].Workloads)
				c.Workloads[0].Name, c.Workloads[0].Component = "nops-karpenops", karpenops
			}
		}
	}
}

// record writes the ConfigMap as the agent does.
func (k *karpenWorld) record(s karpenstate.Status, entries ...karpenstateEntry) {
	k.t.Helper()
	status, err := json.Marshal(s)
	must(k.t, err)
	ledger, err := json.Marshal(karpenstate.Ledger{SchemaVersion: 1, Entries: entries})
	must(k.t, err)
	cm := newStateConfigMap(k.namespace, nil)
	cm.Data = map[string]string{karpenstate.KeyStatus: string(status), karpenstate.KeyLedger: string(ledger)}
	maps := k.client.CoreV1().ConfigMaps(k.namespace)
	if err := maps.Delete(k.t.Context(), cm.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		k.t.Fatal(err)
	}
	_, err = maps.Create(k.t.Context(), cm, metav1.CreateOptions{})
	must(k.t, err)
}

func (k *karpenWorld) stateMap() *corev1.ConfigMap {
	k.t.Helper()
	cm, err := k.client.CoreV1().ConfigMaps(k.namespace).Get(k.t.Context(), karpenstate.ConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &corev1.ConfigMap{}
	}
	must(k.t, err)
	return cm
}

// pool makes a NodePool; base makes it a sibling.
func (k *karpenWorld) pool(name, base string, nodes int64) {
	k.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": map[string]any{"name": name}, "spec": map[string]any{"limits": map[string]any{"cpu": "100"}}}}
	if base != "" {
		o.SetLabels(map[string]string{karpenstate.LabelOwned: "true"})
		o.SetAnnotations(map[string]string{karpenstate.AnnotationBase: base, karpenstate.AnnotationPurpose: karpenstate.PurposeSpot})
	}
	made, err := k.dynamic.Resource(nodePools).Create(k.t.Context(), o, metav1.CreateOptions{})
	must(k.t, err)
	must(k.t, unstructured.SetNestedField(made.Object, nodes, "status", "nodes"))
	_, err = k.dynamic.Resource(nodePools).UpdateStatus(k.t.Context(), made, metav1.UpdateOptions{})
	must(k.t, err)
}

// refuse has an admission webhook of a resource of Karpenter's that does not answer, until the test ends.
func (k *karpenWorld) refuse(plural string) {
	k.t.Helper()
	fail, none, scope, url := admissionv1.Fail, admissionv1.SideEffectClassNone, admissionv1.AllScopes, "https://127.0.0.1:1/"
	hooks := k.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	made, err := hooks.Create(k.t.Context(), &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: k.namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "gone.example.com", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, ClientConfig: admissionv1.WebhookClientConfig{URL: &url},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Update}, Rule: admissionv1.Rule{APIGroups: []string{"karpenter.sh"}, APIVersions: []string{"v1"}, Resources: []string{plural}, Scope: &scope},
			}},
		}},
	}, metav1.CreateOptions{})
	must(k.t, err)
	k.t.Cleanup(func() {
		if err := hooks.Delete(context.WithoutCancel(k.t.Context()), made.Name, metav1.DeleteOptions{}); err != nil {
			k.t.Error(err)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // until the API server has heard of it
		_, err := k.dynamic.Resource(nodePools).Patch(k.t.Context(), "default", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return
		}
		if time.Now().After(end) {
			k.t.Fatal("the webhook is not asked")
		}
	}
}

func (k *karpenWorld) deletePool(name string) {
	if err := k.dynamic.Resource(nodePools).Delete(context.WithoutCancel(k.t.Context()), name, metav1.DeleteOptions{}); err != nil {
		k.t.Error(err)
	}
}

// program says what the agent does in the pods of this namespace's Jobs, and collects the Jobs.
func (k *karpenWorld) program(run agentRun) *[]batchv1.Job {
	seen := &[]batchv1.Job{}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs[k.namespace] = func(j *batchv1.Job) agentRun { *seen = append(*seen, *j); return run }
	return seen
}

// clean fails the test when a Job or something that was made for one is left.
func (k *karpenWorld) clean() {
	k.t.Helper()
	ctx := context.WithoutCancel(k.t.Context())
	jobs, err := k.client.BatchV1().Jobs(k.namespace).List(ctx, metav1.ListOptions{})
	must(k.t, err)
	for _, j := range jobs.Items {
		k.t.Errorf("Job %s is left", j.Name)
	}
	for _, resource := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"} {
		list, err := k.dynamic.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource}).List(ctx, metav1.ListOptions{})
		must(k.t, err)
		for i := range list.Items {
			if list.Items[i].GetAnnotations()[jobAnnotation] != "" {
				k.t.Errorf("%s %s is left", resource, list.Items[i].GetName())
			}
		}
	}
	for _, o := range k.permissions() {
		if _, made := o.GetAnnotations()[jobAnnotation]; made {
			k.t.Errorf("%T %s is left", o, o.GetName())
		}
	}
}

// permissions are the accounts, roles and bindings of karpenops that are there.
func (k *karpenWorld) permissions() []metav1.Object {
	k.t.Helper()
	ctx := context.WithoutCancel(k.t.Context())
	var found []metav1.Object
	add := func(o metav1.Object, err error) {
		if err == nil {
			found = append(found, o)
		} else if !apierrors.IsNotFound(err) {
			k.t.Fatal(err)
		}
	}
	const name = "nops-karpenops"
	get := metav1.GetOptions{}
	rbac := k.client.RbacV1()
	account, err := k.client.CoreV1().ServiceAccounts(k.namespace).Get(ctx, name, get)
	add(account, err)
	role, err := rbac.Roles(k.namespace).Get(ctx, name, get)
	add(role, err)
	binding, err := rbac.RoleBindings(k.namespace).Get(ctx, name, get)
	add(binding, err)
	clusterRole, err := rbac.ClusterRoles().Get(ctx, name, get)
	add(clusterRole, err)
	clusterBinding, err := rbac.ClusterRoleBindings().Get(ctx, name, get)
	add(clusterBinding, err)
	return found
}

// withAgents is the chart inside nopsctl with karpenops and the VPA as parts of it, whether or not this build's are yet.
func withAgents(t *testing.T) fs.FS {
	t.Helper()
	chart, err := embeddedchart.FS()
	must(t, err)
	all := fstest.MapFS{}
	must(t, fs.WalkDir(chart, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(chart, path)
		if path == filepath.ToSlash("files/images.yaml") {
			for _, name := range []string{"karpenops", "vpa"} {
				data = []byte(strings.Replace(string(data), "\n  "+name+":\n    available: false\n", "\n  "+name+":\n    available: true\n", 1))
			}
		}
		all[path] = &fstest.MapFile{Data: data}
		return err
	}))
	return all
}

// grant lets a user do something with all resources of some API groups, and nothing else.
func (k *karpenWorld) grant(user string, groups []string, verbs ...string) {
	k.t.Helper()
	name := user + "-" + k.namespace
	_, err := k.client.RbacV1().ClusterRoles().Create(k.t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{APIGroups: groups, Resources: []string{"*"}, Verbs: verbs}}}, metav1.CreateOptions{})
	must(k.t, err)
	_, err = k.client.RbacV1().ClusterRoleBindings().Create(k.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: name},
	}, metav1.CreateOptions{})
	must(k.t, err)
}
