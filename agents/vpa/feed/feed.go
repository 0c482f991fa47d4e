// Package feed is upstream's feeder with the parts replaced that lose an OOM, pass over pods, or take needless time.
package feed

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	resourcehelpers "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/resources"

	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
)

// maxQueued bounds the OOMs that wait for the feeder; the oldest give way. A process that waits to be leader feeds nothing, and its
// informer must not stand still.
const maxQueued = 5000

// Observer sees OOMs as upstream's does, and with them the labels of their pods. It is to be both the pod informer's handler and
// ClusterStateFeederFactory.OOMObserver; what it saw reaches upstream's feeder when New's wants it to.
type Observer struct {
	mu     sync.Mutex
	inner  oom.Observer
	queued []observed
	out    chan oom.OomInfo
}

// observed is an OOM and its pod, nil where only an Event told of it.
type observed struct {
	oom.OomInfo
	pod *corev1.Pod
}

var _ oom.Observer = (*Observer)(nil)

// NewObserver returns an observer that has seen nothing.
func NewObserver() *Observer {
	return &Observer{inner: oom.NewObserver(), out: make(chan oom.OomInfo, maxQueued)}
}

// GetObservedOomsChannel is where upstream's feeder reads.
func (o *Observer) GetObservedOomsChannel() chan oom.OomInfo { return o.out }

// OnEvent looks for the eviction of a pod that used too much memory.
func (o *Observer) OnEvent(event *corev1.Event) {
	o.observe(nil, nil, func() { o.inner.OnEvent(event) })
}

// OnAdd looks for a container that was killed before its pod was seen: pods that are pending are not watched, and one that takes its memory at
// once is killed within the second. What ended before this process began is in the checkpoints.
func (o *Observer) OnAdd(obj any, initial bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || initial {
		return
	}
	if slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated != nil || s.RestartCount > 0 }) {
		o.observe(nil, pod, func() { o.inner.OnUpdate(begun(pod), pod) })
	}
}

// begun is a pod as it was while its containers ran for the first time.
func begun(pod *corev1.Pod) *corev1.Pod {
	before := *pod
	before.Status.ContainerStatuses = slices.Clone(pod.Status.ContainerStatuses)
	for i := range before.Status.ContainerStatuses {
		s := &before.Status.ContainerStatuses[i]
		s.RestartCount, s.State, s.LastTerminationState = 0, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, corev1.ContainerState{}
	}
	return &before
}

// OnUpdate looks for a container that was killed.
func (o *Observer) OnUpdate(before, after any) {
	old, ok := before.(*corev1.Pod)
	if !ok {
		return
	}
	if pod, ok := after.(*corev1.Pod); ok {
		o.observe(old, pod, func() { o.inner.OnUpdate(old, pod) })
	}
}

// OnDelete sees nothing: a container that was killed is seen before its pod is deleted.
func (o *Observer) OnDelete(any) {}

// observe queues what upstream's sees in a pod, which was another one before, nil where that is not known. Who kills a container and who resizes its pod
// do not wait for each other, and one update may tell of both: the container had what it had before the resize, and upstream's would say what the resize
// asks for. A container that waits to start again would be given more for each resize that meets a kill.
func (o *Observer) observe(before, pod *corev1.Pod, look func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	look()
	for {
		select {
		case info := <-o.inner.GetObservedOomsChannel():
			if before != nil && before.UID == pod.UID { // after a gap of the watch another pod of this name may be told as an update
				had, _ := resourcehelpers.ContainerRequestsAndLimits(info.ContainerID.ContainerName, before)
				info.Memory = min(info.Memory, model.ResourceAmount(had.Memory().Value()))
			}
			if len(o.queued) == maxQueued {
				o.queued = o.queued[1:]
			}
			o.queued = append(o.queued, observed{info, pod})
		default:
			return
		}
	}
}

func (o *Observer) take() []observed {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.queued
	o.queued = nil
	return taken
}

// Cluster is what is fed: clusterstate.Cluster.
type Cluster interface {
	model.ClusterState
	// Knows says whether an OOM of the pod would be taken.
	Knows(id model.PodID) bool
}

// Options of a feeder.
type Options struct {
	// Cluster is the one that upstream's feeder was made for.
	Cluster Cluster
	// Observer is the one that upstream's feeder was made for.
	Observer *Observer
	// Checkpoints and VPAs as upstream's feeder lists them, and where checkpoints are deleted.
	Checkpoints vpalisters.VerticalPodAutoscalerCheckpointLister
	VPAs        vpalisters.VerticalPodAutoscalerLister
	Client      vpaclient.VerticalPodAutoscalerCheckpointsGetter
	// Skip says in which namespaces checkpoints are not ours to delete, nil for none.
	Skip func(namespace string) bool
	// Seen is told of each OOM before the cluster is, with its pod: nil where only an Event told of it, which says what was used and not what was
	// requested. Nobody is when nil.
	Seen func(o oom.OomInfo, pod *corev1.Pod)
	// Labels are those that the lister of upstream's feeder shows of a pod, its own when nil.
	Labels func(pod *corev1.Pod) labels.Set
	// Log is told what could not be done, nobody when nil.
	Log *slog.Logger
}

type feeder struct {
	input.ClusterStateFeeder
	o Options
}

// New wraps upstream's feeder, which goes on loading autoscalers, pods and metrics. Upstream's memory saver is not for large clusters: it
// compares each pod with each autoscaler in every loop.
func New(upstream input.ClusterStateFeeder, o Options) input.ClusterStateFeeder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &feeder{ClusterStateFeeder: upstream, o: o}
}

// InitFromCheckpoints loads autoscalers and their history. Upstream's loads all of the history once per namespace.
func (f *feeder) InitFromCheckpoints(ctx context.Context) {
	f.LoadVPAs(ctx)
	stored, err := f.o.Checkpoints.List(labels.Everything())
	if err != nil {
		f.o.Log.Error("listing checkpoints: recommendations begin without history", "error", err.Error())
		return
	}
	// Of one container there may be two, where the name of the one was another's when it was written.
	slices.SortFunc(stored, func(a, b *vpav1.VerticalPodAutoscalerCheckpoint) int {
		return a.Status.LastUpdateTime.Compare(b.Status.LastUpdateTime.Time)
	})
	vpas, loaded := f.o.Cluster.VPAs(), 0
	for _, one := range stored {
		vpa := vpas[model.VpaID{Namespace: one.Namespace, VpaName: one.Spec.VPAObjectName}]
		if vpa == nil {
			continue // its autoscaler is gone, which collecting will find, or not ours
		}
		state := model.NewAggregateContainerState()
		if err := state.LoadFromCheckpoint(&one.Status); err != nil {
			f.o.Log.Error("loading a checkpoint: its container begins without history", "namespace", one.Namespace, "checkpoint", one.Name, "error", err.Error())
			continue
		}
		vpa.ContainersInitialAggregateState[one.Spec.ContainerName] = state
		loaded++
	}
	f.o.Log.Info("loaded checkpoints", "loaded", loaded, "of", len(stored))
}

// GarbageCollectCheckpoints deletes those whose autoscaler is gone.
func (f *feeder) GarbageCollectCheckpoints(ctx context.Context) {
	deleted, err := checkpoint.Collect(ctx, f.o.Client, f.o.VPAs, f.o.Checkpoints, f.o.Skip)
	if err != nil {
		f.o.Log.Error(err.Error())
	}
	f.o.Log.Debug("collected checkpoints", "deleted", deleted)
}

// LoadRealTimeMetrics adds samples and then the OOMs seen before it began. A pod that came and was killed between two loads of pods is
// added first; the next load finds that it is gone.
func (f *feeder) LoadRealTimeMetrics(ctx context.Context) {
	for _, seen := range f.o.Observer.take() {
		if seen.pod != nil && !f.o.Cluster.Knows(seen.ContainerID.PodID) {
			f.add(seen)
		}
		select {
		case f.o.Observer.out <- seen.OomInfo:
			if f.o.Seen != nil {
				f.o.Seen(seen.OomInfo, seen.pod)
			}
		default:
			f.o.Log.Error("an OOM is lost: upstream's feeder does not read", "namespace", seen.ContainerID.Namespace, "pod", seen.ContainerID.PodName)
		}
	}
	f.ClusterStateFeeder.LoadRealTimeMetrics(ctx)
}

func (f *feeder) add(seen observed) {
	id, shown := seen.ContainerID, labels.Set(seen.pod.Labels)
	if f.o.Labels != nil {
		shown = f.o.Labels(seen.pod)
	}
	f.o.Cluster.AddOrUpdatePod(id.PodID, shown, seen.pod.Status.Phase)
	if err := f.o.Cluster.AddOrUpdateContainer(id, model.Resources{model.ResourceMemory: seen.Memory}); err != nil {
		f.o.Log.Error("adding a pod for its OOM", "namespace", id.Namespace, "pod", id.PodName, "error", err.Error())
	}
}
