package install_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/nopsctl/nopsctl/internal/kube"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

const arn = "arn:aws:eks:us-east-1:123456789012:cluster/test"

// server is the one API server of this package's tests; nil without binaries for it.
type server struct {
	env        *envtest.Environment
	kubeconfig string
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	stop       func()
	rounds     atomic.Int64 // of control
	round      sync.Mutex   // held while a round is made: who holds it keeps control still
}

var (
	startOnce sync.Once
	started   *server
	startErr  error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if started != nil {
		started.stop()
		if err := started.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the API server:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// apiServer starts the API server on first use.
func apiServer(t *testing.T) *server {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver: make test sets it")
	}
	startOnce.Do(func() { started, startErr = startServer() })
	if startErr != nil {
		t.Fatal(startErr)
	}
	return started
}

func startServer() (*server, error) {
	env := &envtest.Environment{}
	config, err := env.Start()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400
	s := &server{env: env}
	s.client = kubernetes.NewForConfigOrDie(config)
	s.dynamic = dynamic.NewForConfigOrDie(config)
	admin, err := env.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, config)
	if err != nil {
		return nil, err
	}
	if s.kubeconfig, err = writeKubeconfig(admin); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.control(ctx) }()
	s.stop = func() { cancel(); <-done; os.Remove(s.kubeconfig) }
	return s, nil
}

func writeKubeconfig(u *envtest.AuthenticatedUser) (string, error) {
	data, err := u.KubeConfig()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp("", "kubeconfig")
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = f.Write(data)
	return f.Name(), err
}

// The label that keeps the stand-in for the controllers from making a workload ready.
const brokenNamespace = "test.nops.io/broken"

// control is what the controllers would do: workloads become ready, namespaces end.
func (s *server) control(ctx context.Context) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.once(ctx)
	}
}

func (s *server) once(ctx context.Context) {
	s.round.Lock()
	defer s.round.Unlock()
	s.rounds.Add(1)
	namespaces, err := s.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	broken := map[string]bool{}
	for i := range namespaces.Items {
		ns := &namespaces.Items[i]
		if ns.DeletionTimestamp != nil {
			ns.Spec.Finalizers = nil
			_, _ = s.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
			continue
		}
		broken[ns.Name] = ns.Labels[brokenNamespace] != ""
	}
	s.makeReady(ctx, broken)
}

// pass waits until control has made a round with what is there now.
func (s *server) pass() {
	for begun := s.rounds.Load(); s.rounds.Load() < begun+2; {
		time.Sleep(time.Millisecond)
	}
}

// makeReady lists once for all namespaces: this goes on beside every test.
func (s *server) makeReady(ctx context.Context, broken map[string]bool) {
	deployments, err := s.client.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		if _, seen := broken[d.Namespace]; !seen {
			continue // its namespace is newer than the list: whether it is broken is not known yet
		}
		if broken[d.Namespace] {
			if d.Status.ObservedGeneration != d.Generation {
				d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: *d.Spec.Replicas, UpdatedReplicas: *d.Spec.Replicas}
				_, _ = s.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
			}
			continue
		}
		want := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: *d.Spec.Replicas, UpdatedReplicas: *d.Spec.Replicas, ReadyReplicas: *d.Spec.Replicas, AvailableReplicas: *d.Spec.Replicas}
		if d.Status.ObservedGeneration != d.Generation || d.Status.AvailableReplicas != *d.Spec.Replicas {
			d.Status = want
			_, _ = s.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
		}
	}
	sets, err := s.client.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range sets.Items {
		d := &sets.Items[i]
		if d.Status.ObservedGeneration != d.Generation || d.Status.NumberAvailable == 0 {
			d.Status = appsv1.DaemonSetStatus{ObservedGeneration: d.Generation, DesiredNumberScheduled: 1, CurrentNumberScheduled: 1, UpdatedNumberScheduled: 1, NumberReady: 1, NumberAvailable: 1}
			_, _ = s.client.AppsV1().DaemonSets(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
		}
	}
}

// world is one test's release in a namespace of its own.
type world struct {
	*server
	t         *testing.T
	namespace string
	release   string
	chart     string
	mu        sync.Mutex
	events    []event.Event
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := apiServer(t)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name()))
	if len(name) > 40 {
		name = name[:40]
	}
	w := &world{server: s, t: t, namespace: "t-" + strings.Trim(name, "-"), release: strings.Trim(name, "-"), chart: filepath.Join("testdata", "chart")}
	return w
}

func (w *world) cluster(o kube.Options) *kube.Cluster {
	if o.Kubeconfig == "" {
		o.Kubeconfig = w.kubeconfig
	}
	return kube.New(o)
}

func (w *world) engine(change ...func(*install.Options)) *install.Engine {
	w.t.Helper()
	o := install.Options{
		Getter: w.cluster(kube.Options{}), Namespace: w.namespace, Release: w.release, Chart: os.DirFS(w.chart), PollInterval: 20 * time.Millisecond,
		Observe: func(e event.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
	for _, c := range change {
		c(&o)
	}
	e, err := install.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

const (
	apiKey    = "4242.0123456789abcdef0123456789abcdef"
	ampSecret = "wJalrXUtnFEMI-K7MDENG-canary"
)

func (w *world) request() install.Request {
	return install.Request{
		ClusterARN: arn, Wait: true, Timeout: time.Minute,
		Credentials: map[string][]byte{install.KeyAPI: []byte(apiKey), install.KeyAMPAccess: []byte("AKIAEXAMPLE"), install.KeyAMPSecret: []byte(ampSecret)},
	}
}

func (w *world) install(e *install.Engine, r install.Request) (*install.Plan, *install.Result) {
	w.t.Helper()
	plan, err := e.Plan(w.t.Context(), r)
	if err != nil {
		w.t.Fatalf("plan: %v", err)
	}
	result, err := e.Apply(w.t.Context(), plan)
	if err != nil {
		w.t.Fatalf("apply: %v", err)
	}
	return plan, result
}

// status of the last revision, as Helm has recorded it, and all revisions.
func (w *world) revisions() []string {
	w.t.Helper()
	list, err := w.client.CoreV1().Secrets(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=" + w.release})
	if err != nil {
		w.t.Fatal(err)
	}
	revisions := make([]string, len(list.Items))
	for _, s := range list.Items {
		var n int
		fmt.Sscan(s.Labels["version"], &n)
		for len(revisions) < n {
			revisions = append(revisions, "")
		}
		revisions[n-1] = s.Labels["status"]
	}
	return revisions
}

func (w *world) componentEvents() []event.Component {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []event.Component
	for _, e := range w.events {
		if c, ok := e.(event.Component); ok {
			found = append(found, c)
		}
	}
	return found
}

func (w *world) makeNamespace(labels map[string]string) {
	w.t.Helper()
	_, err := w.client.CoreV1().Namespaces().Create(w.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace, Labels: labels}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
}

// everything lists what an installation could leave, cluster-wide.
func (w *world) everything() map[string]bool {
	w.t.Helper()
	found := map[string]bool{}
	for _, gvr := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "namespaces"}, {Version: "v1", Resource: "secrets"}, {Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "serviceaccounts"},
		{Version: "v1", Resource: "services"}, {Version: "v1", Resource: "pods"}, {Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "apps", Version: "v1", Resource: "daemonsets"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}, {Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}, {Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
		{Group: "batch", Version: "v1", Resource: "jobs"}, {Group: "batch", Version: "v1", Resource: "cronjobs"}, {Version: "v1", Resource: "persistentvolumeclaims"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	} {
		list, err := w.dynamic.Resource(gvr).List(w.t.Context(), metav1.ListOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, o := range list.Items {
			if gvr.Resource == "persistentvolumeclaims" && o.GetDeletionTimestamp() != nil {
				continue // held by a finalizer whose controller is not here: that its end was asked for is what counts
			}
			if o.GetNamespace() == "" || strings.HasPrefix(o.GetNamespace(), w.namespace) {
				found[gvr.Resource+"/"+o.GetNamespace()+"/"+o.GetName()] = true
			}
		}
	}
	return found
}

func (w *world) helm(args ...string) string {
	w.t.Helper()
	bin := os.Getenv("NOPSCTL_HELM3")
	if bin == "" {
		w.t.Skip("NOPSCTL_HELM3 names no helm binary: make test sets it")
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.kubeconfig, "HELM_CACHE_HOME="+w.t.TempDir(), "HELM_CONFIG_HOME="+w.t.TempDir(), "HELM_DATA_HOME="+w.t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tapped lets a test look at every request, or stop it.
type tapped struct {
	genericclioptions.RESTClientGetter
	tap func(*http.Request) error
}

func (g tapped) ToRESTConfig() (*rest.Config, error) {
	config, err := g.RESTClientGetter.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tapTransport{next: next, tap: g.tap}
	})
	return config, nil
}

type tapTransport struct {
	next http.RoundTripper
	tap  func(*http.Request) error
}

func (t tapTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.tap(r); err != nil {
		return nil, err
	}
	return t.next.RoundTrip(r)
}

func class(err error) string {
	var c interface{ ExitClass() string }
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &c):
		return c.ExitClass()
	}
	return install.ClassFailed
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
