package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/pkg/event"
)

// The objects nopsctl makes beside the chart's.
const (
	CredentialsSecret = "nops-agent-credentials" // keys API_KEY, AMP_ACCESS_KEY, AMP_SECRET_KEY, DD_KEY
	IdentityConfigMap = "nops-cluster-identity"  // keys cluster_arn, kube_system_uid
	HeartbeatState    = "nops-heartbeat-state"   // ConfigMap the heartbeat agent keeps
	// ForJobAnnotation marks what was made for the time of a Job, "NAMESPACE/NAME": accounts and permissions that the release does not have.
	ForJobAnnotation = "nops.io/for-job"
	// CreatedByAnnotation marks a namespace that an install made, which uninstall may therefore remove.
	CreatedByAnnotation = "nops.io/created-by"
)

// The keys of the credentials Secret.
const (
	KeyAPI          = "API_KEY"
	KeyAMPAccess    = "AMP_ACCESS_KEY"
	KeyAMPSecret    = "AMP_SECRET_KEY"
	KeyDatadog      = "DD_KEY"
	managerName     = "nopsctl"
	partOf          = "nops-kubernetes-agent"
	labelManagedBy  = "app.kubernetes.io/managed-by"
	labelPartOf     = "app.kubernetes.io/part-of"
	labelInstance   = "app.kubernetes.io/instance"
	maxHistory      = 10 // as helm
	defaultTimeout  = 5 * time.Minute
	defaultGrace    = 10 * time.Minute
	pingTimeout     = 15 * time.Second
	storageTimeout  = 30 * time.Second
	cleanupTimeout  = 30 * time.Second
	defaultPolling  = time.Second
	identityARN     = "cluster_arn"
	identityUID     = "kube_system_uid"
	environmentPath = "containerInsights.env_variables.APP_NOPS_K8S_AGENT_CLUSTER_ARN"
)

// Options make an Engine.
type Options struct {
	// Getter is the one identity for Helm and client-go.
	Getter    genericclioptions.RESTClientGetter
	Namespace string // empty means "nops"
	Release   string // empty means "nops-kubernetes-agent"
	// Chart is the chart's directory: Chart.yaml is at its root. Uninstall and Status work without.
	Chart   fs.FS
	Observe event.Func
	Now     func() time.Time // nil means time.Now
	// FieldManager names who writes the objects beside the chart's; empty means "nopsctl".
	FieldManager string
	// PendingGrace is how old a pending operation must be to be taken for dead; zero means ten minutes.
	PendingGrace time.Duration
	// PollInterval is how often workloads are looked at while waiting; zero means a second.
	PollInterval time.Duration
	// Context is the name of the kubeconfig context, for events only.
	Context string
}

// Engine works on one release in one cluster.
type Engine struct {
	Options
	files []*loader.BufferedFile

	mu      sync.Mutex
	clients *clients
}

// clients talk to the API server with the identity of the Getter.
type clients struct {
	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
}

// New reads the chart, so that a broken one is found before anything else happens. It does not use the network.
func New(o Options) (*Engine, error) {
	if o.Getter == nil {
		return nil, errors.New("install: no cluster was given")
	}
	if o.Namespace == "" {
		o.Namespace = "nops"
	}
	if o.Release == "" {
		o.Release = "nops-kubernetes-agent"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FieldManager == "" {
		o.FieldManager = managerName
	}
	if o.PendingGrace <= 0 {
		o.PendingGrace = defaultGrace
	}
	if o.PollInterval <= 0 {
		o.PollInterval = defaultPolling
	}
	e := &Engine{Options: o}
	if o.Chart == nil {
		return e, nil
	}
	if err := e.read(o.Chart); err != nil {
		return nil, err
	}
	_, err := e.chart()
	return e, err
}

func (e *Engine) read(root fs.FS) error {
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		e.files = append(e.files, &loader.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		return fmt.Errorf("read the chart: %w", err)
	}
	return nil
}

// chart parses the chart anew: Helm's actions change the chart they are given.
func (e *Engine) chart() (*chart.Chart, error) {
	if len(e.files) == 0 {
		return nil, errors.New("install: no chart was given")
	}
	c, err := loader.LoadFiles(e.files)
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name(), err)
	}
	return c, nil
}

func (e *Engine) connect() (*clients, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clients != nil {
		return e.clients, nil
	}
	config, err := e.Getter.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	mapper, err := e.Getter.ToRESTMapper()
	if err != nil {
		return nil, err
	}
	e.clients = &clients{config: config, typed: typed, dynamic: dyn, mapper: mapper}
	return e.clients, nil
}

// ping asks the API server for its version, which needs no permission beyond being known. Everything later would wait for
// an API server that does not answer as long as the network does.
func (e *Engine) ping(ctx context.Context, c *clients) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := c.typed.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	return explain("ask the API server at "+c.config.Host, err)
}

// helm is Helm's configuration for one operation: objects obey ctx, the release's record does not (see the package
// comment); its requests are bounded in time instead.
func (e *Engine) helm(ctx context.Context, log *lastLines) (*action.Configuration, error) {
	return e.helmWith(ctx, context.WithoutCancel(ctx), log)
}

func (e *Engine) helmWith(objectsUntil, recordsUntil context.Context, log *lastLines) (*action.Configuration, error) {
	cfg := new(action.Configuration)
	records := tuned{RESTClientGetter: e.Getter, tune: func(c *rest.Config) {
		if c.Timeout == 0 {
			c.Timeout = storageTimeout
		}
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &ending{next: next, ctx: recordsUntil} })
	}}
	if err := cfg.Init(records, e.Namespace, "secret", log.printf); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	objects := helmkube.New(tuned{RESTClientGetter: e.Getter, tune: func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &ending{next: next, ctx: objectsUntil} })
	}})
	objects.Namespace, objects.Log = e.Namespace, log.printf
	cfg.KubeClient = objects
	return cfg, nil
}

// tuned changes the configuration clients are made from.
type tuned struct {
	genericclioptions.RESTClientGetter
	tune func(*rest.Config)
}

// ToRESTConfig implements genericclioptions.RESTClientGetter.
func (t tuned) ToRESTConfig() (*rest.Config, error) {
	config, err := t.RESTClientGetter.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	t.tune(config)
	return config, nil
}

// lastLines keeps the end of Helm's log: its errors sometimes leave the reason there.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
	if n := len(l.lines); n > 50 {
		l.lines = l.lines[n-50:]
	}
}

// containing gives the last line that holds s.
func (l *lastLines) containing(s string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.lines) - 1; i >= 0; i-- {
		if strings.Contains(l.lines[i], s) {
			return l.lines[i]
		}
	}
	return ""
}

// history is what Helm has recorded, oldest first.
type history []*release.Release

func (h history) last() *release.Release {
	if len(h) == 0 {
		return nil
	}
	return h[len(h)-1]
}

// base is what Helm compares an upgrade with: the deployed revision, else the last.
func (h history) base() *release.Release {
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].Info.Status == release.StatusDeployed {
			return h[i]
		}
	}
	return h.last()
}

// history reads the records.
func (e *Engine) history(ctx context.Context) (history, error) {
	cfg, err := e.helmWith(ctx, ctx, &lastLines{})
	if err != nil {
		return nil, err
	}
	h, err := cfg.Releases.History(e.Release)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("read the records of release "+e.Release, err)
	}
	releaseutil.SortByRevision(h)
	return h, nil
}

// record changes the record of one revision, whatever happened to ctx. Nothing is written when change says no.
func (e *Engine) record(ctx context.Context, revision int, change func(*release.Release) bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	cfg, err := e.helmWith(ctx, ctx, &lastLines{})
	if err != nil {
		return err
	}
	r, err := cfg.Releases.Get(e.Release, revision)
	if err != nil {
		return fmt.Errorf("read revision %d of release %s: %w", revision, e.Release, err)
	}
	if !change(r) {
		return nil
	}
	if err := cfg.Releases.Update(r); err != nil {
		return fmt.Errorf("record revision %d of release %s: %w", revision, e.Release, err)
	}
	return nil
}

// markFailed records the revision as failed, with the reason.
func (e *Engine) markFailed(ctx context.Context, revision int, reason string) error {
	return e.record(ctx, revision, func(r *release.Release) bool {
		if r.Info.Status != release.StatusDeployed && !unfinished(r.Info.Status) {
			return false
		}
		r.SetStatus(release.StatusFailed, reason)
		r.Info.Deleted = helmtime.Time{} // of an uninstall that did not get to its end
		return true
	})
}

// unfinished says whether an operation holds the release.
func unfinished(s release.Status) bool {
	return s.IsPending() || s == release.StatusUninstalling || s == release.StatusUnknown
}

func (e *Engine) target(from, to string, arn string) event.Target {
	t := event.Target{Context: e.Context, Namespace: e.Namespace, Release: e.Release, FromVersion: from, ToVersion: to, ClusterARN: arn}
	if c, err := e.connect(); err == nil {
		t.Server = c.config.Host
	}
	return t
}

// step runs f between a StepStarted and a StepFinished.
func (e *Engine) step(id, title string, f func() (event.Outcome, string, error)) error {
	start := e.Now()
	e.Observe.Emit(event.StepStarted{Step: id, Title: title})
	outcome, message, err := f()
	if err != nil {
		outcome, message = outcomeOf(err), err.Error()
	}
	e.Observe.Emit(event.StepFinished{Step: id, Title: title, Outcome: outcome, Message: message, Duration: e.Now().Sub(start)})
	return err
}

func outcomeOf(err error) event.Outcome {
	var timeout *TimeoutError
	switch {
	case err == nil:
		return event.OK
	case errors.As(err, &timeout):
		return event.TimedOut
	case errors.Is(err, context.Canceled):
		return event.Cancelled
	}
	return event.Failed
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
