package updater

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/updater/restriction"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/limitrange"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/status"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corescheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/election"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/owners"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// How often everything is listed anew: upstream's own value.
const resync = 10 * time.Minute

// Of owners that nobody watches, as a Rollout, it is remembered what was said, also that they could not be looked at: package owners knows what was said before.
// They are looked at again after one or two loops, and scaleFresh or two at most, and forgotten when no loop has asked for scaleLoops.
const (
	scaleFresh = 10 * time.Minute
	scaleLoops = 10
)

// Options of an updater. Zero values mean the defaults.
type Options struct {
	// Every is how often pods are looked at; 1m.
	Every time.Duration
	// Resizes and Evictions bound what is done in one loop; 300 and 60.
	Resizes, Evictions int
	// MinReplicas are those below which a workload's pods are not evicted, and Tolerance the share of them that may be missing at a time: 2 and
	// 0.5, as upstream's. An autoscaler can have its own minReplicas; settings say more of single replicas.
	MinReplicas int
	Tolerance   float64
	// MinChange is the share of a request below which a change is not worth it, while the request is within the bounds of the
	// recommendation; 0.1. Lifetime is how old a pod is at least before it is evicted, or changed without settings, for so little; 12h.
	MinChange float64
	Lifetime  time.Duration
	// Patience is how long a change may take to take hold; 5m.
	Patience time.Duration
	// Namespaces that are left alone, besides kube-system and the stack's own: the webhook is not asked about pods there, so that one that is
	// evicted would come back as it was, again and again.
	Ignored []string
}

// Validate says everything that is wrong at once, and fills in the defaults.
func (o *Options) Validate() error {
	var errs []error
	def(&o.Every, time.Minute)
	def(&o.Resizes, 300)
	def(&o.Evictions, 60)
	def(&o.MinReplicas, 2)
	def(&o.Tolerance, 0.5)
	def(&o.MinChange, 0.1)
	def(&o.Lifetime, 12*time.Hour)
	def(&o.Patience, 5*time.Minute)
	if o.Every < 100*time.Millisecond || o.Every > time.Hour {
		errs = append(errs, fmt.Errorf("updater: every %s is not between 100ms and 1h", o.Every))
	}
	if o.Tolerance < 0 || o.Tolerance > 1 || o.MinChange < 0 || o.MinChange > 1 {
		errs = append(errs, fmt.Errorf("updater: tolerance %g or least change %g is not between 0 and 1", o.Tolerance, o.MinChange))
	}
	if o.Resizes < 0 || o.Evictions < 0 || o.MinReplicas < 0 || o.Lifetime < 0 || o.Patience < 0 {
		errs = append(errs, errors.New("updater: a number is below zero"))
	}
	return errors.Join(errs...)
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Others know who else sizes a workload.
type Others interface {
	Ready() error
	Elsewhere(ref foreign.Ref, objects ...metav1.Object) (reason string, is bool)
	Scaled(ref foreign.Ref) map[corev1.ResourceName]string
}

var _ Others = (*foreign.Finder)(nil)

// Deps is what the process owns and the updater uses. Kube and Who are needed, the rest has defaults.
type Deps struct {
	Kube *rest.Config
	// Who it is, component vpa-updater: the election's Lease is called after it.
	Who agent.Identity
	// Candidate is the name of this process, of no other one ever; empty means that there is no election, and this one works.
	Candidate string
	// Others know who else sizes workloads; nil means that the updater looks itself.
	Others Others
	// Outcome takes what became of changes, and must not block; nil drops them.
	Outcome func(nopsapi.Outcome)
	// Turn is called with every loop, for liveness; nil means nothing.
	Turn    func()
	Metrics *agent.Metrics // nil: none
	Log     *slog.Logger   // nil: silence
	Now     func() time.Time
}

// Updater applies recommendations.
type Updater struct {
	Options

	deps     Deps
	log      *slog.Logger
	now      func() time.Time
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	finder   *foreign.Finder // when it is our own
	others   Others
	recorder record.EventRecorder
	events   record.EventBroadcaster

	kubeFactory, podFactory informers.SharedInformerFactory
	autoscalers             cache.SharedIndexInformer
	workload                func(foreign.Ref) metav1.Object
	owners                  *owners.Fetcher
	selectors               *owners.Selectors
	provider                *rules.Provider
	// spare and strict count what workloads can spare: spare lets resizes that restart nothing pass.
	spare, strict restriction.PodsRestrictionFactory
	lease         status.Validator

	memory   memory
	departed departed
	counts   counts
	// keeps says that the API server lowers no memory limits, as it said when it was asked.
	keeps bool
	asked time.Time
}

// counts are the metrics.
type counts struct{ resizes, evictions, refused, failed, loops, patches *agent.Value }

// autoscaler is one with the fields of its status that upstream's type does not have.
type autoscaler struct {
	vpav1.VerticalPodAutoscaler

	Application  rightsizing.Application
	Explanations []rightsizing.Explanation
	// broken says why it could not be read.
	broken error
}

// New makes an updater.
func New(o Options, deps Deps) (*Updater, error) {
	retarget.Ours()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.Ignored = append(slices.Clone(o.Ignored), deps.Who.Namespace, metav1.NamespaceSystem)
	u := &Updater{Options: o, deps: deps, log: deps.Log, now: deps.Now, others: deps.Others, memory: newMemory(time.Time{})}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	if u.now == nil {
		u.now = time.Now
	}
	if u.deps.Turn == nil {
		u.deps.Turn = func() {}
	}
	if u.deps.Outcome == nil {
		u.deps.Outcome = func(nopsapi.Outcome) {}
	}
	metrics := deps.Metrics
	if metrics == nil {
		metrics = &agent.Metrics{}
	}
	u.counts = counts{
		resizes:   metrics.Counter("nops_vpa_resizes_total", "Pods that were resized in place."),
		evictions: metrics.Counter("nops_vpa_evictions_total", "Pods that were evicted to be sized anew."),
		refused:   metrics.Counter("nops_vpa_refused_total", "Changes that the API server refused."),
		failed:    metrics.Counter("nops_vpa_failed_total", "Changes that did not take hold."),
		loops:     metrics.Counter("nops_vpa_updater_loops_total", "Loops of the updater."),
		patches:   metrics.Counter("nops_vpa_application_writes_total", "Writes of status.application."),
	}
	config := agent.KubeConfig(deps.Kube, deps.Who.Name()+"/"+deps.Who.Version)
	config.QPS, config.Burst = 50, 100 // of each change there is an Event, and its record
	var err error
	impatiently := rest.CopyConfig(config)
	impatiently.Wrap(func(next http.RoundTripper) http.RoundTripper { return impatient{next} })
	if u.kube, err = kubernetes.NewForConfig(impatiently); err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	if u.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", rightsizing.Group, err)
	}
	if u.others == nil {
		if u.finder, err = foreign.New(config, foreign.Options{Log: u.log}); err != nil {
			return nil, err
		}
		u.others = u.finder
	}
	return u, u.watch()
}

// watch makes the informers; Run starts them.
func (u *Updater) watch() error {
	u.kubeFactory = informers.NewSharedInformerFactoryWithOptions(u.kube, resync, informers.WithTransform(rules.SlimSizes))
	u.podFactory = informers.NewSharedInformerFactoryWithOptions(u.kube, resync, informers.WithTransform(rules.SlimPod),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = "spec.nodeName!=,status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)
		}))
	u.podFactory.Core().V1().Pods().Informer()
	u.workload = foreign.Workloads(u.kubeFactory)
	u.autoscalers = dynamicinformer.NewFilteredDynamicInformer(u.dynamic, rightsizing.Autoscalers(), metav1.NamespaceAll, resync, cache.Indexers{}, nil).Informer()
	if err := u.autoscalers.SetTransform(func(o any) (any, error) {
		if one, is := o.(*unstructured.Unstructured); is {
			return read(one), nil
		}
		return o, nil
	}); err != nil {
		return fmt.Errorf("watching %s: %w", rightsizing.Autoscalers().GroupResource(), err)
	}
	limits, err := limitrange.NewLimitsRangeCalculator(u.kubeFactory)
	if err != nil {
		return fmt.Errorf("watching LimitRanges: %w", err)
	}
	u.provider = rules.NewProvider(rules.Options{LimitRanges: limits, Ranges: rules.LimitRangesOf(u.kubeFactory), Quotas: rules.QuotasOf(u.kubeFactory), Template: rules.TemplatesOf(u.kubeFactory), Older: rules.OlderOf(u.kubeFactory), KeepMemoryLimits: func() bool { return u.keeps }, Now: u.now, Known: u.known})
	// The mark on pods that upstream's last calculator makes is left out: to write it takes the right to patch pods, and nobody reads it.
	var calculators []patch.Calculator
	for _, c := range u.provider.Calculators(patch.Resize) {
		if c.PatchResourceTarget() == patch.Resize {
			calculators = append(calculators, c)
		}
	}
	u.spare = restriction.NewPodsRestrictionFactory(u.kube, u.kubeFactory, u.MinReplicas, u.Tolerance, calculators, true)
	u.strict = restriction.NewPodsRestrictionFactory(u.kube, u.kubeFactory, u.MinReplicas, u.Tolerance, calculators, false)
	u.lease = status.NewValidator(u.kube, rightsizing.AdmissionService, u.deps.Who.Namespace)

	scheme := runtime.NewScheme()
	if err := errors.Join(corescheme.AddToScheme(scheme), vpav1.AddToScheme(scheme)); err != nil {
		return fmt.Errorf("making a scheme for Events: %w", err)
	}
	u.events = record.NewBroadcaster()
	u.recorder = u.events.NewRecorder(scheme, corev1.EventSource{Component: u.deps.Who.Name()})
	return nil
}

// impatient does not wait where a change is put off: an eviction by a PodDisruptionBudget, or one that others write all the time, or both by an API
// server that is busy, or is about to end. It then says to come again in some seconds, and the client would, ten times, while every other pod waits,
// and what was decided about this one grows old.
type impatient struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (i impatient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := i.next.RoundTrip(r)
	later := err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError) // as the client has it
	if later && (strings.HasSuffix(r.URL.Path, "/eviction") || strings.HasSuffix(r.URL.Path, "/resize")) {
		resp.Header.Del("Retry-After")
	}
	return resp, err
}

// read reads an autoscaler with all of its status. What cannot be read is kept as such: it is told in its status.
func read(u *unstructured.Unstructured) *autoscaler {
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	a := &autoscaler{}
	text, err := u.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, &a.VerticalPodAutoscaler)
	}
	if err == nil {
		var more struct {
			Status struct {
				Application  rightsizing.Application   `json:"application"`
				Explanations []rightsizing.Explanation `json:"explanations"`
			} `json:"status"`
		}
		err = json.Unmarshal(text, &more)
		a.Application, a.Explanations = more.Status.Application, more.Status.Explanations
	}
	if err != nil {
		a.broken = fmt.Errorf("reading VerticalPodAutoscaler %s/%s: %w", u.GetNamespace(), u.GetName(), err)
		a.ObjectMeta = metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion(), CreationTimestamp: u.GetCreationTimestamp()}
	}
	return a
}

// known is what the provider asks for.
func (u *Updater) known(vpa *vpav1.VerticalPodAutoscaler) rules.Known {
	k, is := u.memory.known[vpa.UID]
	if !is {
		return rules.Known{}
	}
	return k
}

// Run applies recommendations until the context ends: while it leads, where there is an election.
func (u *Updater) Run(ctx context.Context) error {
	u.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: u.kube.CoreV1().Events("")})
	defer u.events.Shutdown()
	working, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		u.kubeFactory.Shutdown()
		u.podFactory.Shutdown()
	}()
	config := agent.KubeConfig(u.deps.Kube, u.deps.Who.Name()+"/"+u.deps.Who.Version)
	selectors := retarget.Selectors(target.NewVpaTargetSelectorFetcher(config, u.kube, u.kubeFactory, working.Done()), retarget.Owned)
	fresh := min(u.Every, scaleFresh)
	controllers := controllerfetcher.NewControllerFetcher(config, u.kube, u.kubeFactory, fresh, scaleLoops*u.Every, 1, working.Done())
	controllers.Start(working, fresh/2)
	u.owners, u.selectors = owners.NewFetcher(controllers, rules.ControllersOf(u.kubeFactory), u.log), owners.NewSelectors(selectors, rules.WellKnown)
	tasks := []agent.Task{{Name: "autoscalers", Run: func(ctx context.Context) error { u.autoscalers.RunWithContext(ctx); return nil }}}
	if u.finder != nil {
		tasks = append(tasks, agent.Task{Name: "others", Run: u.finder.Run})
	}
	u.kubeFactory.StartWithContext(working)
	u.podFactory.StartWithContext(working)
	tasks = append(tasks, agent.Task{Name: "loop", Run: func(ctx context.Context) error {
		if u.deps.Candidate == "" {
			return u.loop(ctx)
		}
		return election.Lead(ctx, election.Options{
			Kube: u.deps.Kube, Who: u.deps.Who, Candidate: u.deps.Candidate,
		}, u.loop)
	}})
	return agent.Run(working, tasks...)
}

// loop looks at pods again and again.
func (u *Updater) loop(ctx context.Context) error {
	u.memory = newMemory(u.now())
	u.departed.take()
	stop, err := u.departed.watch(u.podFactory.Core().V1().Pods().Informer())
	if err != nil {
		return err
	}
	defer stop()
	for {
		u.deps.Turn()
		switch why := u.blind(); {
		case why != nil:
			u.log.LogAttrs(ctx, slog.LevelInfo, "nothing is changed yet", slog.Any("why", why))
		default:
			u.once(ctx)
		}
		u.counts.loops.Add(1)
		wait := u.Every
		if u.counts.loops.Get() < 60 && u.blind() != nil {
			wait = min(wait, time.Second) // caches fill
		}
		if agent.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// blind says why the cluster is not known well enough.
func (u *Updater) blind() error {
	for what, synced := range map[string]bool{
		"autoscalers": u.autoscalers.HasSynced(), "pods": u.podFactory.Core().V1().Pods().Informer().HasSynced(), "LimitRanges": u.kubeFactory.Core().V1().LimitRanges().Informer().HasSynced(),
		"ResourceQuotas": u.kubeFactory.Core().V1().ResourceQuotas().Informer().HasSynced(),
		"Deployments":    u.kubeFactory.Apps().V1().Deployments().Informer().HasSynced(), "ReplicaSets": u.kubeFactory.Apps().V1().ReplicaSets().Informer().HasSynced(),
		"StatefulSets": u.kubeFactory.Apps().V1().StatefulSets().Informer().HasSynced(), "DaemonSets": u.kubeFactory.Apps().V1().DaemonSets().Informer().HasSynced(),
		"ReplicationControllers": u.kubeFactory.Core().V1().ReplicationControllers().Informer().HasSynced(),
		"Jobs":                   u.kubeFactory.Batch().V1().Jobs().Informer().HasSynced(), "CronJobs": u.kubeFactory.Batch().V1().CronJobs().Informer().HasSynced(),
	} {
		if !synced {
			return fmt.Errorf("%s were not listed yet", what)
		}
	}
	return u.others.Ready()
}

// ref is the workload of an autoscaler.
func ref(vpa *vpav1.VerticalPodAutoscaler) foreign.Ref {
	if vpa.Spec.TargetRef == nil {
		return foreign.Ref{Namespace: vpa.Namespace}
	}
	return foreign.Ref{Namespace: vpa.Namespace, Kind: vpa.Spec.TargetRef.Kind, Name: vpa.Spec.TargetRef.Name}
}

// memory is what the loop remembers. A restart forgets it, but for what status.application tells: recall.
type memory struct {
	// since is when this began.
	since   time.Time
	ledger  rules.Ledger
	breaker rules.Breaker
	known   map[types.UID]rules.Known
	// written is the last application that was written, by autoscaler.
	written map[types.UID]rightsizing.Application
	// changed is when a pod was.
	changed map[types.UID]time.Time
	// waves are the last changes of workloads, by autoscaler.
	waves map[types.UID]wave
	// refused is what the API server refused of a pod.
	refused map[types.UID]refusal
	// open are changes that have not shown yet.
	open []change
	// blocked is until when the pods of an autoscaler are not evicted, for a PodDisruptionBudget did not allow it.
	blocked map[types.UID]time.Time
	// failed is until when an autoscaler's pods are left alone, for the API server failed at a change of one of them, and the same of the pod. What
	// is in it comes after everything else then: see fails.
	failed map[types.UID]setback
	// rests is until when an autoscaler's pods are left alone, for a change of theirs did not take hold.
	rests map[types.UID]resting
}

type resting struct {
	until time.Time
	why   string
}

// setback is a change that failed: what it was about is left alone until then, and comes last until later.
type setback struct {
	until, last time.Time
	why         string
}

// wave is one change of a workload: all its pods, one after the other. It is open until none is left to be changed.
type wave struct {
	began, last time.Time
	open        bool
}

type refusal struct {
	wanted string
	why    string
	until  time.Time
}

// change is one that was made.
type change struct {
	at         time.Time
	evicted    bool
	autoscaler types.UID
	policy     string
	pod        types.UID
	key        string // NAMESPACE/NAME
	owner      types.UID
	before     map[types.UID]bool // the pods there were: what comes instead is none of them
	wanted     rules.Requests
}

func newMemory(since time.Time) memory {
	return memory{
		since: since,
		known: map[types.UID]rules.Known{}, written: map[types.UID]rightsizing.Application{}, changed: map[types.UID]time.Time{}, waves: map[types.UID]wave{},
		refused: map[types.UID]refusal{}, rests: map[types.UID]resting{}, blocked: map[types.UID]time.Time{}, failed: map[types.UID]setback{},
	}
}

// fail remembers a change of a pod that failed, of its workload and of itself. One that failed before does not come earlier for it.
func (m *memory) fail(c *candidate, f setback) {
	for _, id := range []types.UID{c.UID, c.pod.UID} {
		one := f
		if before := m.failed[id]; before.last.After(f.last) {
			one.last = before.last
		}
		m.failed[id] = one
	}
}

// later compares two candidates by when a change of their workload failed last, and then by when one of their own did.
func (m *memory) later(a, b *candidate) int {
	return cmp.Or(m.failed[a.UID].until.Compare(m.failed[b.UID].until), m.failed[a.pod.UID].until.Compare(m.failed[b.pod.UID].until))
}
