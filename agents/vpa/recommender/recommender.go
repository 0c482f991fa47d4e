package recommender

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/routines"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target"
	controllerfetcher "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/target/controller_fetcher"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/client"
	recommendermetrics "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/recommender"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/election"
	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
	"github.com/nopsctl/nopsctl/agents/vpa/exposition"
	"github.com/nopsctl/nopsctl/agents/vpa/feed"
	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/agents/vpa/owners"
	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/agents/vpa/retarget"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// component is the part's name in labels, leases and messages.
const component = "vpa-recommender"

const (
	// collectEvery is how often aggregations and checkpoints that nobody needs are looked for.
	collectEvery = time.Hour
	// boundsEvery is how often bounds are written that only drifted.
	boundsEvery = time.Hour
	// flushLimit is how long the last checkpoints may take at the end.
	flushLimit = 20 * time.Second
	// roundsMissed is for how many rounds the loop may not turn before it is taken for dead; one may have thousands of writes to make.
	roundsMissed = 5
	turnLimit    = 5 * time.Minute
	// deepest is how many owners of owners are looked at: a pod of a CronJob has two.
	deepest = 5
	// answerWithin is how long the first round waits for the platform's first answer.
	answerWithin = 5 * time.Second
	// How upstream's caches of scale subresources live: its own values, but that they are read anew in each round or two, for errors are remembered, too.
	resync        = 10 * time.Minute
	scaleFresh    = 10 * time.Minute
	scaleLifetime = time.Hour
	scaleJitter   = 1.0
	scaleLoop     = 7 * time.Second
	// Requests a second. Writes are sparing; a first round of a large cluster is not.
	kubeQPS, kubeBurst = 200, 400

	conditionCandidate = "election"
)

// Deps is what the process owns and the recommender uses. Kube is needed; the rest has defaults.
type Deps struct {
	Kube      *rest.Config
	Platform  push.Platform // nil: the local model is all there is
	Version   string
	Candidate string       // the name of this process, of no other one ever
	Log       *slog.Logger // nil: silence
	Listener  net.Listener // nil: no endpoints are served
	Now       func() time.Time
	Rand      agent.Rand // nil: always the middle
	// AWS finds credentials for a store of Amazon's; needed with Options.StoreRegion.
	AWS aws.CredentialsProvider
	// CABundle are certificates that the store may have besides the system's, in PEM.
	CABundle []byte
	// Metrics replaces the source of usage, for tests and benchmarks.
	Metrics metrics.PodMetricsLister
	// Past replaces the source of history.
	Past sources.History
	// Round is told after each round; nil: nobody is.
	Round func(Round)
}

// Round is what a round did.
type Round struct {
	Autoscalers, Written, Failed, Unchanged int
	// Compute is the time spent on everything but waiting for answers: loading from caches, the model, and recommendations.
	Compute, Total time.Duration
}

// Recommender is the nOps VPA's recommender.
type Recommender struct {
	opts   Options
	deps   Deps
	kube   *kubernetes.Clientset
	vpas   *vpaclient.Clientset
	config *rest.Config

	metrics   *agent.Metrics
	health    *agent.Health
	counters  counters
	intake    *push.Intake // nil without a platform, as the two below
	workloads *push.Workloads
	outcomes  *push.Outcomes

	client atomic.Pointer[sources.Client]
	writer atomic.Pointer[checkpoint.Writer]
}

// New makes one.
func New(opts Options, deps Deps) (*Recommender, error) {
	retarget.Ours()
	exposition.Recommender()
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Rand == nil {
		deps.Rand = func() float64 { return 0.5 }
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Candidate == "" {
		deps.Candidate = fmt.Sprintf("%s-%x", component, deps.Now().UnixNano())
	}
	opts.Interval, opts.Workers, opts.Source = cmp.Or(opts.Interval, time.Minute), cmp.Or(opts.Workers, 10), cmp.Or(opts.Source, SourceKubelet)
	r := &Recommender{opts: opts, deps: deps, metrics: &agent.Metrics{}, health: agent.NewHealth(deps.Now, conditionCandidate)}
	r.config = agent.KubeConfig(deps.Kube, "nops-"+component+"/"+deps.Version)
	r.config.QPS, r.config.Burst = kubeQPS, kubeBurst
	var err error
	if r.kube, err = kubernetes.NewForConfig(r.config); err != nil {
		return nil, fmt.Errorf("making a client of the Kubernetes API: %w", err)
	}
	if r.vpas, err = vpaclient.NewForConfig(r.config); err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", rightsizing.Group, err)
	}
	if deps.Platform != nil {
		d := push.Deps{Platform: deps.Platform, ARN: opts.ClusterARN, Log: deps.Log, Now: deps.Now, Rand: deps.Rand}
		r.intake, r.workloads, r.outcomes = push.NewIntake(d), push.NewWorkloads(d), push.NewOutcomes(d)
	}
	agent.RegisterProcess(r.metrics, component, deps.Version, deps.Now())
	r.counters.register(r.metrics, r)
	return r, nil
}

func (r *Recommender) sampled() sources.Snapshot {
	if c := r.client.Load(); c != nil {
		return c.Last()
	}
	return sources.Snapshot{}
}

func (r *Recommender) checkpoints() checkpoint.Stats {
	if w := r.writer.Load(); w != nil {
		return w.Stats()
	}
	return checkpoint.Stats{}
}

func (r *Recommender) identity() agent.Identity {
	return agent.Identity{Component: component, Namespace: r.opts.Namespace, Release: r.opts.Release, Version: r.deps.Version}
}

// Run works until the context ends. Of several replicas one works, the others wait.
func (r *Recommender) Run(ctx context.Context) error {
	r.health.Met(conditionCandidate) // whether it leads or waits, it is well
	tasks := []agent.Task{{Name: "leading", Run: func(ctx context.Context) error {
		return election.Lead(ctx, election.Options{Kube: r.deps.Kube, Who: r.identity(), Candidate: r.deps.Candidate}, r.lead)
	}}}
	if r.deps.Listener != nil {
		tasks = append(tasks, agent.Serve(r.deps.Listener, exposition.Handler(r.health, r.metrics)))
	}
	r.deps.Log.Info("the recommender starts", "version", r.deps.Version, "source", r.opts.Source, "interval", r.opts.Interval.String(), "platform", r.intake != nil, "candidate", r.deps.Candidate)
	err := agent.Run(ctx, tasks...)
	r.deps.Log.Info("the recommender ends")
	return err
}

// lead is the work of the one that leads.
func (r *Recommender) lead(ctx context.Context) error {
	r.counters.leading.Set(1)
	defer r.counters.leading.Set(0)
	loop := r.health.Loop("recommending", max(turnLimit, roundsMissed*r.opts.Interval))
	began := r.deps.Now()
	finder, err := foreign.New(r.config, foreign.Options{Log: r.deps.Log})
	if err != nil {
		return err
	}
	l := &leader{
		Recommender: r, loop: loop, estimators: newEstimators(), holds: newHolds(), days: newDays(began), finder: finder,
		written: map[types.UID]time.Time{}, recalled: make(chan struct{}), patience: answerWithin, began: began, collected: began, seed: maphash.MakeSeed(),
	}
	history, err := r.history()
	if err != nil {
		return err
	}
	l.past = newPast(history, r.opts.History, began, r.deps.Log, r.deps.Rand)
	tasks := []agent.Task{
		{Name: "recommending", Run: l.run},
		{Name: "looking for others", Run: finder.Run},
	}
	if history != nil {
		past := r.health.Loop("loading history", turnLimit+time.Hour)
		tasks = append(tasks, agent.Task{Name: "loading history", Run: func(ctx context.Context) error { return l.past.run(ctx, past) }})
	}
	if r.intake != nil {
		autoscalers, err := dynamic.NewForConfig(r.config)
		if err != nil {
			return fmt.Errorf("making a client of %s: %w", rightsizing.Group, err)
		}
		asking, telling, reporting := r.health.Loop("asking for recommendations", turnLimit), r.health.Loop("telling workloads", turnLimit), r.health.Loop("telling outcomes", turnLimit)
		tasks = append(tasks,
			agent.Task{Name: "asking for recommendations", Run: func(ctx context.Context) error {
				if asking.Await(ctx, l.recalled) != nil {
					return nil
				}
				return r.intake.Run(ctx, asking, nil)
			}},
			agent.Task{Name: "telling workloads", Run: func(ctx context.Context) error { return r.workloads.Run(ctx, telling) }},
			agent.Task{Name: "telling outcomes", Run: func(ctx context.Context) error { return r.outcomes.Run(ctx, reporting) }},
			agent.Task{Name: "looking for outcomes", Run: func(ctx context.Context) error { return watchOutcomes(ctx, autoscalers, r.deps.Now, r.outcomes.Add) }})
	}
	return agent.Run(ctx, tasks...)
}

// history is the source of the past; nil is none.
func (r *Recommender) history() (sources.History, error) {
	if r.deps.Past != nil || r.opts.Store == "" || r.opts.History == 0 {
		return r.deps.Past, nil
	}
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	return sources.NewPast(store, sources.PastOptions{Backoff: agent.Backoff{Base: 2 * time.Second, Max: time.Minute, Rand: r.deps.Rand}}), nil
}

// store makes a client of the store.
func (r *Recommender) store() (*sources.Store, error) {
	o := sources.StoreOptions{
		Address: r.opts.Store, Labels: r.opts.StoreLabels, Username: r.opts.StoreUsername, Password: r.opts.StorePassword, Insecure: r.opts.StoreInsecure,
		CABundle: r.deps.CABundle, Now: r.deps.Now, Window: max(2*time.Minute, 2*r.opts.Interval),
	}
	if r.opts.StoreRegion != "" {
		o.SigV4 = &sources.SigV4{Region: r.opts.StoreRegion, Credentials: r.deps.AWS}
	}
	if file := r.opts.StoreTokenFile; file != "" {
		o.BearerToken = func() (string, error) {
			text, err := os.ReadFile(file) //nolint:gosec // named by whoever starts the agent
			return strings.TrimSpace(string(text)), err
		}
	}
	return sources.NewStore(o)
}

// leader is what the leading process has.
type leader struct {
	*Recommender

	loop       *agent.Loop
	estimators estimators
	holds      *holds
	days       *days
	past       *past
	finder     *foreign.Finder
	workload   func(foreign.Ref) metav1.Object

	cluster   *clusterstate.Cluster
	feeder    input.ClusterStateFeeder
	fetcher   controllerfetcher.ControllerFetcher
	next      func() // ends a round, for who remembers targets
	podLister listersv1.PodLister
	recorded  *recorded

	patience  time.Duration           // for the platform's first answer
	recalling sync.Mutex              // held while something is remembered: the informer does that, and rounds read what came of it
	recalled  chan struct{}           // closed when it is known what a process before this one said
	written   map[types.UID]time.Time // when a status was written
	began     time.Time
	collected time.Time
	seed      maphash.Seed
	indexers  struct{ vpas, pods, nodes cache.Indexer }
}

// watch lists and watches objects of our group until the context ends.
func watch(ctx context.Context, from rest.Interface, resource string, object runtime.Object) cache.SharedIndexInformer {
	return begin(ctx, cache.NewSharedIndexInformer(cache.NewListWatchFromClient(from, resource, metav1.NamespaceAll, fields.Everything()), object, 0, byNamespace()), client.StripManagedFields)
}

func byNamespace() cache.Indexers {
	return cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
}

// begin keeps of objects what the transform leaves of them, and lists and watches until the context ends.
func begin(ctx context.Context, informer cache.SharedIndexInformer, keep cache.TransformFunc) cache.SharedIndexInformer {
	_ = informer.SetTransform(keep) // it fails of an informer that runs
	go informer.RunWithContext(ctx)
	return informer
}

// slim keeps of a pod what it is sized by: nobody here asks for its conditions, nor for who wrote what.
func slim(obj any) (any, error) {
	if p, is := obj.(*corev1.Pod); is {
		p.Status.Conditions, p.ManagedFields = nil, nil
		sidecarsAsContainers(p)
	}
	return rules.SlimPod(obj) //nolint:wrapcheck // it has none
}

// sidecarsAsContainers moves native sidecars, and their statuses, among the containers of the pod. Upstream's parts take no sample of an init container
// and see none be killed: of a sidecar that a store has the history of, they would recommend for ever what was true when this process began.
func sidecarsAsContainers(p *corev1.Pod) {
	names := map[string]bool{}
	p.Spec.InitContainers = slices.DeleteFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
		if !lasts(&c) {
			return false
		}
		names[c.Name] = true
		p.Spec.Containers = append(p.Spec.Containers, c)
		return true
	})
	p.Status.InitContainerStatuses = slices.DeleteFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool {
		if names[s.Name] {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s)
		}
		return names[s.Name]
	})
}

// assemble puts upstream's parts together and waits until they know the cluster.
func (l *leader) assemble(ctx context.Context) error {
	stop := ctx.Done()
	observer := feed.NewObserver()
	factory := informers.NewSharedInformerFactoryWithOptions(l.kube, resync, informers.WithTransform(rules.Slim))
	selectors := owners.NewSelectors(target.NewVpaTargetSelectorFetcher(l.config, l.kube, factory, stop), rules.WellKnown)
	scales := controllerfetcher.NewControllerFetcher(l.config, l.kube, factory, min(l.opts.Interval, scaleFresh), scaleLifetime, scaleJitter, stop)
	fetcher := owners.NewFetcher(scales, rules.ControllersOf(factory), l.deps.Log)
	l.workload = foreign.Workloads(factory)
	reader, err := newAutoscalers(l.config)
	if err != nil {
		return err
	}
	autoscalers := l.watchAutoscalers(ctx, reader)
	checkpoints := watch(ctx, l.vpas.AutoscalingV1().RESTClient(), rightsizing.Checkpoints().Resource, &vpav1.VerticalPodAutoscalerCheckpoint{})
	// As upstream: a pod that is pending uses nothing.
	running := coreinformers.NewFilteredPodInformer(l.kube, metav1.NamespaceAll, 0, byNamespace(), func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermNotEqualSelector("status.phase", string(corev1.PodPending)).String()
	})
	if _, err := running.AddEventHandler(observer); err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	begin(ctx, running, slim)
	machines := begin(ctx, coreinformers.NewNodeInformer(l.kube, 0, byNamespace()), slimNode)
	vpas, pods, nodes := autoscalers.GetIndexer(), running.GetIndexer(), machines.GetIndexer()
	source, err := l.usage(nodes)
	if err != nil {
		return err
	}
	factory.Start(stop)
	if err := l.recollect(ctx, autoscalers.HasSyncedChecker().Done()); err != nil { // first: the platform is not asked before
		return err
	}
	for kind, synced := range factory.WaitForCacheSync(stop) {
		if !synced {
			return fmt.Errorf("waiting for the cache of %s: %w", kind, ctx.Err())
		}
	}
	if !cache.WaitForCacheSync(stop, checkpoints.HasSynced, running.HasSynced, machines.HasSynced) {
		return fmt.Errorf("waiting for the caches: %w", ctx.Err())
	}
	input.WatchEvictionEventsWithRetries(ctx, l.kube, observer, metav1.NamespaceAll)
	scales.Start(ctx, scaleLoop)

	l.indexers.vpas, l.indexers.pods, l.indexers.nodes = vpas, pods, nodes
	l.join(seams{
		autoscalers: vpalisters.NewVerticalPodAutoscalerLister(vpas), checkpoints: vpalisters.NewVerticalPodAutoscalerCheckpointLister(checkpoints.GetIndexer()), pods: listersv1.NewPodLister(pods),
		source: source, selectors: selectors, fetcher: fetcher, observer: observer,
		next: func() { selectors.Next(); fetcher.Next() },
	})
	return nil
}

// seams are where upstream's feeder reads the cluster.
type seams struct {
	autoscalers vpalisters.VerticalPodAutoscalerLister
	checkpoints vpalisters.VerticalPodAutoscalerCheckpointLister
	pods        listersv1.PodLister
	source      metrics.PodMetricsLister
	selectors   target.VpaTargetSelectorFetcher
	fetcher     controllerfetcher.ControllerFetcher
	observer    *feed.Observer
	next        func() // ends a round
}

// join makes the model, and what fills it.
func (l *leader) join(s seams) {
	api := l.vpas.AutoscalingV1()
	l.podLister, l.fetcher, l.next = s.pods, s.fetcher, s.next
	unlabelled := feed.NewCronJobs(s.pods, l.workload)
	l.cluster = clusterstate.New(collectEvery)
	l.recorded = &recorded{Cluster: l.cluster, tell: l.ranOut, coming: map[oom.OomInfo]*corev1.Pod{}}
	c := &sources.Client{Source: s.source, Name: l.opts.Source, Wanted: l.wanted}
	l.client.Store(c)
	l.writer.Store(checkpoint.NewWriter(l.cluster, api, checkpoint.Options{Interval: l.opts.CheckpointEvery, Now: l.deps.Now, Rand: l.deps.Rand, Log: l.deps.Log}))
	upstream := input.ClusterStateFeederFactory{
		ClusterState: l.recorded, MetricsClient: c, VpaCheckpointClient: api, VpaCheckpointLister: s.checkpoints, VpaLister: addressed{s.autoscalers},
		PodLister: unlabelled, OOMObserver: s.observer, SelectorFetcher: retarget.Selectors(s.selectors, feed.OfCronJob), ControllerFetcher: s.fetcher,
		RecommenderName: input.DefaultRecommenderName, IgnoredNamespaces: l.opts.IgnoreNamespaces,
	}.Make()
	l.feeder = feed.New(upstream, feed.Options{
		Cluster: l.cluster, Observer: s.observer, Checkpoints: s.checkpoints, VPAs: s.autoscalers, Client: api, Skip: l.skip, Seen: l.recorded.see, Labels: unlabelled.Labels, Log: l.deps.Log,
	})
}

func (l *leader) skip(namespace string) bool {
	return slices.Contains(l.opts.IgnoreNamespaces, namespace)
}

// usage is the source of usage.
func (l *leader) usage(nodes cache.Indexer) (metrics.PodMetricsLister, error) {
	if l.deps.Metrics != nil {
		return l.deps.Metrics, nil
	}
	switch l.opts.Source {
	case SourceMetricsServer:
		return sources.MetricsServer(l.config, l.config.UserAgent)
	case SourceStore:
		return l.store()
	}
	return sources.NewKubelets(sources.KubeletOptions{
		Kube: l.deps.Kube, UserAgent: l.config.UserAgent, Nodes: listersv1.NewNodeLister(nodes), Insecure: l.opts.KubeletInsecure, Log: l.deps.Log, Now: l.deps.Now,
	})
}

// room is what nodes have for pods, as far as that is watched.
func (l *leader) room() *rooms {
	if l.indexers.nodes == nil || l.podLister == nil {
		return nil
	}
	nodes, err := listersv1.NewNodeLister(l.indexers.nodes).List(labels.Everything())
	pods, failed := l.podLister.List(labels.Everything())
	if err != nil || failed != nil {
		return nil
	}
	return newRooms(nodes, pods)
}

// pod is one of those that are watched; nil is not there.
func (l *leader) pod(id model.PodID) *corev1.Pod {
	if l.podLister == nil {
		return nil
	}
	pod, err := l.podLister.Pods(id.Namespace).Get(id.PodName)
	if err != nil {
		return nil
	}
	return pod
}

// onePod is one of a workload's, and whether it is its own: of those that have not ended the newest, which is made of today's template. One that
// has ended, or another's that is selected, too, only if there is no other.
func (l *leader) onePod(vpa *model.Vpa) (pod *corev1.Pod, own bool) {
	var all []*corev1.Pod
	for _, id := range l.cluster.GetMatchingPods(vpa) {
		if one := l.pod(id); one != nil {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, tellsMore)
	var perhaps *corev1.Pod
	for _, one := range all {
		switch found, certain := l.sizing(one, vpa); {
		case len(found) == 0:
		case certain:
			return one, true
		case perhaps == nil:
			perhaps = one
		}
	}
	if perhaps != nil {
		return perhaps, true
	}
	if len(all) > 0 {
		return all[0], false
	}
	return nil, false
}

// tellsMore orders pods by what they say of those to come.
func tellsMore(a, b *corev1.Pod) int {
	ended := func(p *corev1.Pod) int {
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(ended(a), ended(b)), b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// sizing are those of the autoscalers that size a pod, as updater and admission see it: those whose target is its topmost owner. Where that is not
// known, because one of its owners is gone or of a kind that is not watched, it may be any, and that is not certain.
func (l *leader) sizing(pod *corev1.Pod, vpas ...*model.Vpa) (which []*model.Vpa, certain bool) {
	var object metav1.Object = pod
	for range deepest {
		owner := metav1.GetControllerOfNoCopy(object)
		if owner == nil {
			return nil, true
		}
		var found []*model.Vpa
		for _, vpa := range vpas {
			if t := vpa.TargetRef; t != nil && t.Kind == owner.Kind && t.Name == owner.Name {
				found = append(found, vpa)
			}
		}
		if len(found) > 0 {
			return found, true
		}
		if object = l.workload(foreign.Ref{Namespace: pod.Namespace, Kind: owner.Kind, Name: owner.Name}); object == nil {
			break
		}
	}
	return vpas, false
}

// slimNode keeps of a node where its kubelet is and what it has; the list of its images alone is 20 kB.
func slimNode(obj any) (any, error) {
	if n, is := obj.(*corev1.Node); is {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels},
			Status:     corev1.NodeStatus{Allocatable: n.Status.Allocatable, Addresses: n.Status.Addresses, DaemonEndpoints: n.Status.DaemonEndpoints},
		}, nil
	}
	return obj, nil
}

// addressed lists the autoscalers that are for this recommender: those that name none, upstream's default, or ours.
type addressed struct {
	vpalisters.VerticalPodAutoscalerLister
}

// List implements vpalisters.VerticalPodAutoscalerLister. Upstream's feeder knows one name; those that name ours are shown to it as naming
// none.
func (a addressed) List(selector labels.Selector) ([]*vpav1.VerticalPodAutoscaler, error) {
	all, err := a.VerticalPodAutoscalerLister.List(selector)
	for i, vpa := range all {
		if slices.ContainsFunc(vpa.Spec.Recommenders, func(s *vpav1.VerticalPodAutoscalerRecommenderSelector) bool {
			return s != nil && s.Name == rightsizing.RecommenderName
		}) {
			shown := *vpa
			shown.Spec.Recommenders = nil
			all[i] = &shown
		}
	}
	return all, err
}

// wanted says whether the model takes a sample: it knows the container, and nothing newer of it. A pod's end is told later than its
// containers'.
func (l *leader) wanted(id model.ContainerID, at time.Time) bool {
	container := l.cluster.GetContainer(id)
	return container != nil && at.After(container.LastCPUSampleStart)
}

// run makes rounds until the context ends, and stores at the end what was learnt.
func (l *leader) run(ctx context.Context) error {
	if err := l.assemble(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	l.feeder.InitFromCheckpoints(ctx)
	l.awaitAnswer(ctx)
	defer l.flush(ctx)
	for {
		start := time.Now()
		l.loop.Turn()
		l.round(ctx)
		if l.loop.Sleep(ctx, l.opts.Interval-time.Since(start)) != nil {
			return nil
		}
	}
}

// awaitAnswer waits for the platform's first answer, but not for long. Of a workload whose recommendation ended while nobody asked the local
// model's would be written in the first round, and another one moments later.
func (l *leader) awaitAnswer(ctx context.Context) {
	if l.intake == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	_ = l.loop.Await(ctx, l.intake.Asked()) // without one the round goes by what is known
}

// remember takes over what a process before this one said.
func (l *leader) remember(one remembered) {
	id := model.VpaID{Namespace: one.Namespace, VpaName: one.Name}
	l.holds.recall(id, one.why, l.deps.Now())
	l.days.recall(id, one.why)
	if l.intake != nil {
		l.intake.Recall(one.platform())
	}
}

// flush stores what was learnt since the last checkpoints.
func (l *leader) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
	defer cancel()
	l.writer.Load().Flush(ctx, l.opts.Workers)
	l.deps.Log.Info("checkpoints are stored", "written", l.checkpoints().Written, "failed", l.checkpoints().Failed)
}

// round is one round.
func (l *leader) round(ctx context.Context) {
	timer := recommendermetrics.NewExecutionTimer()
	defer timer.ObserveTotal()
	start := time.Now()
	var did Round
	var waited time.Duration
	l.feeder.LoadVPAs(ctx)
	timer.ObserveStep("LoadVPAs")
	l.feeder.LoadPods()
	l.recorded.late()
	timer.ObserveStep("LoadPods")
	l.loop.Turn()
	asked := time.Now()
	l.feeder.LoadRealTimeMetrics(ctx)
	waited += time.Since(asked)
	timer.ObserveStep("LoadMetrics")
	l.feeder.DeleteRemovedPods()
	timer.ObserveStep("DeleteRemovedPods")
	if ctx.Err() != nil {
		return
	}
	writes := l.compute(&did)
	asked = time.Now()
	l.write(ctx, writes, &did)
	waited += time.Since(asked)
	timer.ObserveStep("UpdateVPAs")
	l.loop.Turn()
	asked = time.Now()
	l.keep(ctx)
	waited += time.Since(asked)
	timer.ObserveStep("MaintainCheckpoints")
	l.cluster.RateLimitedGarbageCollectAggregateCollectionStates(ctx, l.deps.Now(), l.fetcher)
	l.next()
	timer.ObserveStep("GarbageCollect")
	did.Total = time.Since(start)
	did.Compute = did.Total - waited
	l.counters.rounds.Add(1)
	l.counters.round.Set(did.Total.Seconds())
	l.counters.autoscalers.Set(float64(did.Autoscalers))
	l.counters.pods.Set(float64(len(l.cluster.Pods())))
	l.deps.Log.Debug("a round is made", "autoscalers", did.Autoscalers, "written", did.Written, "failed", did.Failed, "took", did.Total.String(), "computing", did.Compute.String())
	if l.deps.Round != nil {
		l.deps.Round(did)
	}
}

// keep writes checkpoints and collects those that are of nobody.
func (l *leader) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, max(time.Minute, l.opts.Interval))
	defer cancel()
	l.writer.Load().StoreCheckpoints(ctx, l.opts.Workers)
	if now := l.deps.Now(); now.Sub(l.collected) >= collectEvery {
		l.collected = now
		l.feeder.GarbageCollectCheckpoints(ctx)
	}
}

// ranOut takes what the feeder recorded, of a pod that may be known. It is held for who sizes the pod: one kill counts for all of a workload's pods,
// and selectors may overlap, as those of a Deployment and a CronJob of one Helm chart do.
func (l *leader) ranOut(told toldOOM) {
	o, pod, id := told.OomInfo, told.pod, told.ContainerID.PodID
	vpas := l.cluster.Autoscalers(&model.PodState{ID: id}) // those of a pod that is gone, too
	if pod == nil {
		pod = l.pod(id)
	}
	if pod != nil {
		vpas, _ = l.sizing(pod, vpas...)
	}
	if told.evicted {
		vpas = slices.DeleteFunc(slices.Clone(vpas), func(vpa *model.Vpa) bool {
			return l.holds.replayed(vpa.ID, o.ContainerID.ContainerName, o.Timestamp)
		})
	}
	if len(vpas) == 0 {
		return
	}
	had := int64(o.Memory)
	for _, vpa := range vpas {
		l.holds.add(vpa.ID, o.ContainerID.ContainerName, had, o.Timestamp)
	}
	l.counters.ooms.Add(1)
	l.deps.Log.Info("a container ran out of memory", "namespace", o.ContainerID.Namespace, "pod", o.ContainerID.PodName, "container", o.ContainerID.ContainerName, "requested", had)
	if ref, is := refOf(vpas[0]); is && l.outcomes != nil {
		q := push.Quantity("memory", had)
		l.outcomes.Add(nopsapi.Outcome{
			ID: oomID(o), At: o.Timestamp.UTC(), Workload: ref, Pod: o.ContainerID.PodName, Kind: nopsapi.OutcomeOOM,
			Reason: fmt.Sprintf("container %s ran out of memory with a request of %s", o.ContainerID.ContainerName, q.String()),
		})
	}
}

func refOf(vpa *model.Vpa) (nopsapi.WorkloadRef, bool) {
	if vpa.TargetRef == nil {
		return nopsapi.WorkloadRef{}, false
	}
	return nopsapi.WorkloadRef{APIVersion: vpa.TargetRef.APIVersion, Kind: vpa.TargetRef.Kind, Namespace: vpa.ID.Namespace, Name: vpa.TargetRef.Name}, true
}

// write is a status that is worth writing.
type write struct {
	vpa  *vpav1.VerticalPodAutoscaler
	body []byte
}

// compute makes all recommendations, and says what is worth writing. It is not done in parallel: to merge histograms changes those that are
// merged, which two autoscalers may share, and it takes a tenth of a millisecond each.
func (l *leader) compute(did *Round) []write {
	now := l.deps.Now()
	counter := recommendermetrics.NewObjectCounter()
	defer counter.Observe()
	var (
		writes            []write
		wanted            []nopsapi.RightsizedWorkload
		spaces            = map[string]bool{}
		present           = map[types.UID]bool{}
		unread, elsewhere int
	)
	others := l.finder.Ready() == nil
	rooms := l.room()
	for _, observed := range l.cluster.ObservedVPAs() {
		vpa := l.cluster.VPAs()[model.VpaID{Namespace: observed.Namespace, VpaName: observed.Name}]
		if vpa == nil {
			continue
		}
		did.Autoscalers++
		spaces[observed.Namespace], present[observed.UID] = true, true
		l.past.want(observed.Namespace, now)
		l.past.begin(vpa)
		l.past.mark(vpa)
		states := routines.GetContainerNameToAggregateStateMap(vpa)
		said := l.days.of(vpa.ID, now)
		g := given{vpa: observed, states: states, since: memorySince(l.cluster.MemorySince(vpa), vpa.ContainersInitialAggregateState, said)}
		settings, err := rules.Effective(observed)
		switch {
		case err != nil:
			unread++
			vpa.SetCondition(vpav1.ConfigUnsupported, true, "Settings", err.Error())
			vpa.DeleteCondition(rightsizing.ConditionPlatform)
		case settings.Owned:
			g.settings = &settings
			pod, own := l.onePod(vpa)
			g.room = rooms.of(pod, func(name string) bool { return states[name] != nil })
			if own { // which containers there are, another's does not say
				g.pod = pod
			}
			g.holds, g.before = l.holds.of(vpa.ID, now), said
			if one, is := l.ask(vpa, &g, now); is {
				wanted = append(wanted, one)
			}
		default:
			vpa.DeleteCondition(rightsizing.ConditionPlatform)
		}
		if others && l.elsewhere(vpa) {
			elsewhere++
		}
		if names := unsure(states, g.since); len(names) > 0 {
			vpa.SetCondition(vpav1.LowConfidence, true, "ShortHistory", "less than a day of usage is known of "+strings.Join(names, ", "))
		} else {
			vpa.DeleteCondition(vpav1.LowConfidence)
		}
		m := l.estimators.recommend(g)
		had := vpa.HasRecommendation()
		vpa.UpdateRecommendation(m.recommendation)
		if vpa.HasRecommendation() && !had {
			recommendermetrics.ObserveRecommendationLatency(vpa.Created)
		}
		vpa.UpdateConditions(vpa.PodCount > 0)
		if err := l.cluster.RecordRecommendation(vpa, now); err != nil {
			l.deps.Log.Info("a recommendation is missing", "error", err)
		}
		counter.Add(vpa)
		status := vpa.AsStatus()
		why := change(&observed.Status, status, func(was, is []vpav1.RecommendedContainerResources) bool {
			return l.due(observed, now) || l.across(vpa, was, is)
		})
		if why == "" && g.settings != nil && l.holds.unwritten[vpa.ID] {
			why = "oom"
		}
		if why == "" && g.platform != nil && outlived(observed.Status.Conditions, g.until, now) {
			why = "validity"
		}
		if why == "" {
			did.Unchanged++
			l.counters.unchanged.Add(1)
			continue
		}
		l.counters.reasons[why].Add(1)
		body, err := patch(observed.UID, status, m.explain(g))
		if err != nil {
			l.deps.Log.Error("a status cannot be written", "namespace", observed.Namespace, "autoscaler", observed.Name, "error", err)
			continue
		}
		writes = append(writes, write{observed, body})
	}
	l.forget(present, spaces)
	l.counters.unread.Set(float64(unread))
	l.counters.elsewhere.Set(float64(elsewhere))
	if l.workloads != nil {
		slices.SortFunc(wanted, func(a, b nopsapi.RightsizedWorkload) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.APIVersion, b.APIVersion))
		})
		wanted = slices.CompactFunc(wanted, func(a, b nopsapi.RightsizedWorkload) bool { return a.WorkloadRef == b.WorkloadRef })
		l.workloads.Set(wanted)
	}
	return writes
}

// forget drops what is kept of autoscalers that are gone.
func (l *leader) forget(present map[types.UID]bool, spaces map[string]bool) {
	for uid := range l.written {
		if !present[uid] {
			delete(l.written, uid)
		}
	}
	l.past.forget(spaces)
	there := func(id model.VpaID) bool { return l.cluster.VPAs()[id] != nil }
	l.holds.forget(there)
	l.days.forget(there)
}

// ask asks what the platform recommends, says so in a condition, and says for which workload it is asked.
func (l *leader) ask(vpa *model.Vpa, g *given, now time.Time) (nopsapi.RightsizedWorkload, bool) {
	ref, is := refOf(vpa)
	if l.intake == nil || !is {
		vpa.DeleteCondition(rightsizing.ConditionPlatform)
		return nopsapi.RightsizedWorkload{}, false
	}
	answer := l.intake.For(ref, string(g.settings.Level), now)
	// Whether it is in force is not known before the platform was asked once: what was said before stays until then.
	if answer.Reason != push.ReasonWaiting {
		g.platform, g.until = answer.Recommendation, answer.ValidUntil
		vpa.SetCondition(rightsizing.ConditionPlatform, answer.Recommendation != nil, answer.Reason, answer.Message)
	}
	return nopsapi.RightsizedWorkload{WorkloadRef: ref, Level: string(g.settings.Level), Containers: slices.Sorted(maps.Keys(g.states))}, len(g.states) > 0
}

// elsewhere looks for somebody else who sizes the workload, and says so in a condition.
func (l *leader) elsewhere(vpa *model.Vpa) bool {
	if vpa.TargetRef == nil {
		return false
	}
	ref := foreign.Ref{Namespace: vpa.ID.Namespace, Kind: vpa.TargetRef.Kind, Name: vpa.TargetRef.Name}
	var marked []metav1.Object
	if o := l.workload(ref); o != nil {
		marked = append(marked, o)
	}
	why, is := l.finder.Elsewhere(ref, marked...)
	if is {
		vpa.SetCondition(rightsizing.ConditionManagedElsewhere, true, "Found", why)
	} else {
		vpa.DeleteCondition(rightsizing.ConditionManagedElsewhere)
	}
	return is
}

// due says whether it is time to write bounds that only drifted. Autoscalers have their turns at different times.
func (l *leader) due(vpa *vpav1.VerticalPodAutoscaler, now time.Time) bool {
	last, is := l.written[vpa.UID]
	if !is {
		last = l.began.Add(-time.Duration(maphash.String(l.seed, string(vpa.UID)) % uint64(boundsEvery)))
	}
	return now.Sub(last) >= boundsEvery
}

// across says whether the request of a running container lies on the other side of a bound now.
func (l *leader) across(vpa *model.Vpa, was, is []vpav1.RecommendedContainerResources) bool {
	for _, id := range l.cluster.GetMatchingPods(vpa) {
		pod := l.cluster.Pods()[id]
		if pod == nil || pod.Phase != corev1.PodRunning {
			continue
		}
		for i := range is {
			if c := pod.Containers[is[i].ContainerName]; c != nil && crossed(was[i], is[i], c.Request) {
				return true
			}
		}
	}
	return false
}

// write writes statuses, several at once. What is not written in time is worth writing in the next round as well.
func (l *leader) write(ctx context.Context, writes []write, did *Round) {
	ctx, cancel := context.WithTimeout(ctx, max(time.Minute, l.opts.Interval))
	defer cancel()
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		queue = make(chan write)
	)
	for range min(l.opts.Workers, len(writes)) {
		group.Go(func() {
			for one := range queue {
				_, err := l.vpas.AutoscalingV1().VerticalPodAutoscalers(one.vpa.Namespace).Patch(ctx, one.vpa.Name, types.MergePatchType, one.body, metav1.PatchOptions{}, "status")
				mu.Lock()
				switch {
				case err == nil:
					did.Written++
					l.written[one.vpa.UID] = l.deps.Now()
					delete(l.holds.unwritten, model.VpaID{Namespace: one.vpa.Namespace, VpaName: one.vpa.Name})
					l.counters.written.Add(1)
				case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // gone, or another of that name
				default:
					did.Failed++
					l.counters.failed.Add(1)
					if did.Failed == 1 {
						l.deps.Log.Warn("a recommendation could not be written", "namespace", one.vpa.Namespace, "autoscaler", one.vpa.Name, "error", err)
					}
				}
				mu.Unlock()
				l.loop.Turn()
			}
		})
	}
	for _, one := range writes {
		select {
		case queue <- one:
		case <-ctx.Done():
		}
	}
	close(queue)
	group.Wait()
}
