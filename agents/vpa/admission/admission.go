package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/logic"
	handlers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	autoscaler "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/vpa"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/limitrange"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Path is where the webhook is.
const Path = "/mutate"

const (
	resync     = 10 * time.Minute // how often everything is listed anew: upstream's value
	leaseEvery = 10 * time.Second
	// remember is how long it is remembered what was said of an owner of a kind that is not watched, after it was last asked for. Errors are
	// remembered, too: no pod of that owner is sized meanwhile, so that upstream's hour is no choice. Of a roll-out it spares most questions; who
	// runs a pod once, as a TaskRun, is forgotten soon.
	remember = 5 * time.Second
	// linger is how long requests are still answered after the end was asked for: nodes, and API servers that keep connections open, learn only
	// then that this replica goes.
	linger         = 5 * time.Second
	requestTimeout = 10 * time.Second // twice the webhook's: whoever asked has gone by then
)

// Deps are what the controller works with.
type Deps struct {
	Kube      *rest.Config
	UserAgent string
	// Name is this process's, in the Lease that tells the updater that somebody answers.
	Name      string
	Labels    map[string]string // of that Lease
	Namespace string
	Listener  net.Listener // of the webhook
	Log       *slog.Logger
	Now       func() time.Time
	Lifetimes Lifetimes
	// Every and Settle are the Authority's.
	Every, Settle time.Duration
	// Hosts are the names under which the webhook is called; empty means those of its Service.
	Hosts []string
	// Linger is how long requests are still answered once the context has ended; 5s unless set.
	Linger time.Duration
	// Remember is how long it is remembered what was said of owners that are not watched; 5s unless set. One that is asked for again and again is
	// looked at anew within five times that.
	Remember time.Duration
	// Known is what is known of an autoscaler's workload; nil means nothing.
	Known func(*vpav1.VerticalPodAutoscaler) rules.Known
	// Missing says what else keeps pods from being sized; empty, or nil, is nothing.
	Missing func() string
	// Leave says why a pod of an autoscaler is not to be sized; empty is that it is. The workload is the autoscaler's target, nil where it is not
	// known. Nil never does.
	Leave func(ctx context.Context, pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler, workload metav1.Object) string
}

// Controller answers API servers.
type Controller struct {
	deps      Deps
	kube      kubernetes.Interface
	vpas      *vpaclient.Clientset
	authority *Authority
	answers   atomic.Bool
}

// New makes a controller.
func New(deps Deps) (*Controller, error) {
	retarget.Ours()
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Linger <= 0 {
		deps.Linger = linger
	}
	if deps.Remember <= 0 {
		deps.Remember = remember
	}
	config := agent.KubeConfig(deps.Kube, deps.UserAgent)
	config.QPS, config.Burst = 200, 400 // a pod whose owner is not watched waits for a question about it, while an API server waits for the pod
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	vpas, err := vpaclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", rightsizing.Group, err)
	}
	return &Controller{deps: deps, kube: kube, vpas: vpas, authority: &Authority{
		Client: kube, Namespace: deps.Namespace, Lifetimes: deps.Lifetimes, Now: deps.Now, Log: deps.Log, Hosts: deps.Hosts, Every: deps.Every, Settle: deps.Settle,
	}}, nil
}

// Ready says what keeps the webhook from being called; empty is nothing. A replica that is called before it knows the cluster lets pods through as
// they are, and they stay so.
func (c *Controller) Ready() string {
	switch {
	case !c.authority.Ready():
		return "there is no certificate yet"
	case !c.answers.Load():
		return "the cluster is still being read"
	case c.deps.Missing != nil:
		return c.deps.Missing()
	}
	return ""
}

// Certificates is the task that looks after them; beat is called each time it did.
func (c *Controller) Certificates(ctx context.Context, beat func()) error {
	return c.authority.Run(ctx, beat)
}

// Serve answers API servers until the context ends.
func (c *Controller) Serve(ctx context.Context) error {
	server, err := c.logic(ctx)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+Path, leaving(ctx, c.safely(server)))
	https := &http.Server{
		Handler: mux, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.authority.GetCertificate},
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }, // see linger
		ErrorLog:    slog.NewLogLogger(c.deps.Log.Handler(), slog.LevelDebug),                 // API servers that hang up, probes that only connect
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		time.Sleep(c.deps.Linger)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		_ = https.Shutdown(grace)
	}()
	c.answers.Store(true) // the listener takes connections already
	// While its Lease is fresh, the updater may evict: whatever comes back is sized.
	go c.renewing(ctx)
	if err := https.ServeTLS(c.deps.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the webhook: %w", err)
	}
	<-done
	return nil
}

// leaving tells API servers to ask elsewhere next time, once this replica goes: their connections would be cut when it is gone, one of them
// perhaps in the middle of a request.
func leaving(ctx context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// safely turns what upstream's logic cannot digest into an answer: the API server then creates the pod as it is.
func (c *Controller) safely(server *logic.AdmissionServer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				c.deps.Log.LogAttrs(r.Context(), slog.LevelError, "a request could not be answered; the object is admitted as it is", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
				http.Error(w, "this request could not be answered", http.StatusInternalServerError)
			}
		}()
		server.Serve(w, r)
	})
}

// logic puts upstream's together and waits until it knows the cluster.
func (c *Controller) logic(ctx context.Context) (*logic.AdmissionServer, error) {
	stop := ctx.Done()
	config := agent.KubeConfig(c.deps.Kube, c.deps.UserAgent)
	factory := informers.NewSharedInformerFactoryWithOptions(c.kube, resync, informers.WithTransform(rules.Slim))
	selectors := retarget.Selectors(target.NewVpaTargetSelectorFetcher(config, c.kube, factory, stop), retarget.Owned)
	// Looked at anew is only what is still asked for when the rest is forgotten.
	controllers := controllerfetcher.NewControllerFetcher(config, c.kube, factory, 2*c.deps.Remember, c.deps.Remember, 1, stop)
	limits, err := limitrange.NewLimitsRangeCalculator(factory)
	if err != nil {
		return nil, fmt.Errorf("watch LimitRanges: %w", err)
	}
	_, index, err := retarget.Autoscalers(ctx, c.vpas)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it waited for
	}
	provider := rules.NewProvider(rules.Options{LimitRanges: limits, Ranges: rules.LimitRangesOf(factory), Quotas: rules.QuotasOf(factory), Now: c.deps.Now, Known: c.deps.Known})
	workloads := foreign.Workloads(factory)
	factory.Start(stop)
	for kind, synced := range factory.WaitForCacheSync(stop) {
		if !synced {
			return nil, fmt.Errorf("wait for the cache of %s: %w", kind, ctx.Err())
		}
	}
	controllers.Start(ctx, c.deps.Remember)
	calculators := append(provider.Calculators(patch.Pod), rules.NewObserver())
	for i := range calculators {
		calculators[i] = loud{calculators[i], c.deps.Log}
	}
	server := logic.NewAdmissionServer(pod.NewDefaultPreProcessor(), autoscaler.NewDefaultPreProcessor(), limits, matcher{
		Matcher: autoscaler.NewMatcher(index, selectors, patient{controllers, rules.ControllersOf(factory), func(namespace string) bool { return sizes(index, namespace) }}), leave: c.deps.Leave, workload: workloads, log: c.deps.Log,
	}, calculators)
	server.RegisterResourceHandler(ours{autoscaler.NewResourceHandler(autoscaler.NewDefaultPreProcessor())})
	return server, nil
}

// sizes says whether a namespace has an autoscaler that sizes pods.
func sizes(index cache.Indexer, namespace string) bool {
	all, err := index.ByIndex(cache.NamespaceIndex, namespace)
	return err == nil && slices.ContainsFunc(all, func(o any) bool {
		vpa, is := o.(*vpav1.VerticalPodAutoscaler)
		return is && vpautil.GetUpdateMode(vpa) != vpav1.UpdateModeOff
	})
}

// loud says why a pod could not be sized. Upstream's handler admits it as it is then, and says nothing.
type loud struct {
	patch.Calculator

	log *slog.Logger
}

// CalculatePatches implements patch.Calculator.
func (l loud) CalculatePatches(p *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler) ([]handlers.PatchRecord, error) {
	patches, err := l.Calculator.CalculatePatches(p, vpa)
	if err != nil {
		l.log.Warn("a pod is admitted as it is, for it could not be sized", slog.String("namespace", p.Namespace), slog.String("pod", p.Name), slog.String("autoscaler", vpa.Name), slog.Any("error", err))
	}
	return patches, err
}

// matcher leaves pods alone that are not to be sized.
type matcher struct {
	autoscaler.Matcher

	leave    func(ctx context.Context, pod *corev1.Pod, vpa *vpav1.VerticalPodAutoscaler, workload metav1.Object) string
	workload func(foreign.Ref) metav1.Object
	log      *slog.Logger
}

// GetMatchingVPA implements autoscaler.Matcher.
func (m matcher) GetMatchingVPA(ctx context.Context, p *corev1.Pod) *vpav1.VerticalPodAutoscaler {
	found := m.Matcher.GetMatchingVPA(ctx, p)
	if found == nil || m.leave == nil {
		return found
	}
	var of metav1.Object
	if t := found.Spec.TargetRef; t != nil {
		of = m.workload(foreign.Ref{Namespace: found.Namespace, Kind: t.Kind, Name: t.Name})
	}
	if why := m.leave(ctx, p, found, of); why != "" {
		m.log.LogAttrs(ctx, slog.LevelDebug, "a pod is admitted as it is", slog.String("namespace", p.Namespace), slog.String("pod", p.Name), slog.String("autoscaler", found.Name), slog.String("why", why))
		return nil
	}
	return found
}

// ours is upstream's handler of autoscalers, for our group.
type ours struct{ handlers.Handler }

// GroupResource implements handlers.Handler.
func (ours) GroupResource() metav1.GroupResource {
	return metav1.GroupResource{Group: rightsizing.Group, Resource: rightsizing.Autoscalers().Resource}
}
