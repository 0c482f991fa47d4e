// Package checkpoint stores what the recommender's model knows, in no more writes than needed.
//
// Upstream writes every checkpoint in every loop, and for each autoscaler walks over all pods. Here an autoscaler is looked at once per
// interval, in the time that its own pods take, and a checkpoint is written when something moved in it that a recommendation could follow
// from, when it is old, or when there was an OOM. What is written is, byte for byte, what upstream would write, but not over another
// autoscaler's checkpoint that happens to have the same name.
package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	upstream "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/checkpoint"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/util"
)

const (
	defaultInterval = 10 * time.Minute
	defaultRefresh  = 2 * time.Hour
	// grace is how long a request may take that is made although the time is up, so that each call makes progress.
	grace = 5 * time.Second
	// longest is how long an object's name may be.
	longest = 253
)

// Cluster is what is stored: clusterstate.Cluster.
type Cluster interface {
	VPAs() map[model.VpaID]*model.Vpa
	// Aggregations calls yield for each aggregation of an autoscaler with the containers that add to it, always in the same order.
	Aggregations(vpa *model.Vpa, yield func(container string, state *model.AggregateContainerState, adding []*model.ContainerState))
	// TakeOOMed returns the autoscalers with OOMs since it was last asked.
	TakeOOMed() []model.VpaID
}

// Options of a writer. The zero value is the default.
type Options struct {
	// Interval is the least time between two writes of one checkpoint, 10 minutes when 0, none when negative.
	Interval time.Duration
	// Refresh is the age at which a checkpoint is written although nothing moved in it, at the latest; 2 hours when 0, none when negative.
	Refresh time.Duration
	// Now is the time, time.Now when nil.
	Now func() time.Time
	// Rand spreads the writes, with numbers in [0, 1); math/rand/v2.Float64 when nil.
	Rand func() float64
	// Log is told what could not be written, nobody when nil.
	Log *slog.Logger
}

// Stats count since the writer began.
type Stats struct {
	// Written checkpoints, and those that could not be.
	Written, Failed int
	// Unchanged were looked at and needed no write.
	Unchanged int
}

// Writer is upstream's CheckpointWriter.
type Writer struct {
	cluster Cluster
	client  vpaclient.VerticalPodAutoscalerCheckpointsGetter
	o       Options
	seed    maphash.Seed
	stored  map[model.VpaID]*record

	mu    sync.Mutex
	stats Stats
}

var _ upstream.CheckpointWriter = (*Writer)(nil)

// record is what is known of an autoscaler's checkpoints.
type record struct {
	look       time.Time // not looked at before
	tried      time.Time // last looked at with the intention to write
	oomed      bool
	containers map[string]*object
}

// object is what is known of one checkpoint.
type object struct {
	next    time.Time // not written before
	refresh time.Time // written then although nothing moved
	mark    mark
	content uint64 // of the status but for its time; 0 when another process wrote it
}

// NewWriter returns a writer of that cluster's checkpoints.
func NewWriter(cluster Cluster, client vpaclient.VerticalPodAutoscalerCheckpointsGetter, o Options) *Writer {
	o.Interval, o.Refresh = cmp.Or(o.Interval, defaultInterval), cmp.Or(o.Refresh, defaultRefresh)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Writer{cluster: cluster, client: client, o: o, seed: maphash.MakeSeed(), stored: map[model.VpaID]*record{}}
}

// Stats is what was done so far.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// StoreCheckpoints writes what is due, the oldest first after those with an OOM, until ctx ends. It makes progress even when ctx has ended.
func (w *Writer) StoreCheckpoints(ctx context.Context, concurrentWorkers int) {
	w.store(ctx, concurrentWorkers, false)
}

// Flush writes all that changed, however young its checkpoint is, and although history may still be on its way: what was measured is
// written with what the checkpoint knew, and the process after this one fetches history again. It is for the end of the process.
func (w *Writer) Flush(ctx context.Context, concurrentWorkers int) {
	w.store(ctx, concurrentWorkers, true)
}

// job is an autoscaler with the checkpoints that are to be written.
type job struct {
	vpa     *model.Vpa
	record  *record
	now     time.Time
	written map[string]*write
}

type write struct {
	status vpav1.VerticalPodAutoscalerCheckpointStatus
	object object
}

func (w *Writer) store(ctx context.Context, workers int, all bool) {
	workers = max(workers, 1)
	due := w.due(all)
	jobs := make(chan job, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for j := range jobs {
				w.write(ctx, j)
			}
		})
	}
	// Merging shifts the histograms that are merged, and autoscalers may share them: one goroutine looks, the others write.
	for i, vpa := range due {
		if i >= workers && ctx.Err() != nil {
			w.o.Log.Warn("the time for checkpoints is up", "left", len(due)-i, "of", len(due))
			break
		}
		if j := w.look(vpa, all); len(j.written) > 0 {
			jobs <- j
		}
	}
	close(jobs)
	wg.Wait()
}

// due are the autoscalers to look at, in order.
func (w *Writer) due(all bool) []*model.Vpa {
	now, vpas := w.o.Now(), w.cluster.VPAs()
	maps.DeleteFunc(w.stored, func(id model.VpaID, _ *record) bool { return vpas[id] == nil })
	for id, vpa := range vpas {
		if w.stored[id] == nil {
			w.stored[id] = w.first(vpa, now)
		}
	}
	for _, id := range w.cluster.TakeOOMed() {
		if r := w.stored[id]; r != nil {
			r.oomed = true
		}
	}
	var due []*model.Vpa
	for id, vpa := range vpas {
		if r := w.stored[id]; all || (r.oomed || !now.Before(r.look)) && !vpa.ConditionActive(vpav1.FetchingHistory) {
			due = append(due, vpa)
		}
	}
	slices.SortFunc(due, func(a, b *model.Vpa) int {
		ra, rb := w.stored[a.ID], w.stored[b.ID]
		if ra.oomed != rb.oomed {
			if ra.oomed {
				return -1
			}
			return 1
		}
		return cmp.Or(ra.tried.Compare(rb.tried), cmp.Compare(a.ID.Namespace, b.ID.Namespace), cmp.Compare(a.ID.VpaName, b.ID.VpaName))
	})
	return due
}

// first is the record of an autoscaler not met before. One that came with checkpoints is as stored; the first look at it is anywhere in
// the interval, or every restart would write everything. One without is looked at at once.
func (w *Writer) first(vpa *model.Vpa, now time.Time) *record {
	r := &record{containers: map[string]*object{}}
	for name, loaded := range vpa.ContainersInitialAggregateState {
		r.containers[name] = &object{refresh: w.refreshAfter(now), mark: markOf(loaded)}
		r.look = now
	}
	if !r.look.IsZero() && w.o.Interval > 0 {
		r.look = now.Add(time.Duration(w.o.Rand() * float64(w.o.Interval)))
	}
	return r
}

func (w *Writer) refreshAfter(now time.Time) time.Time {
	if w.o.Refresh <= 0 {
		return now
	}
	return now.Add(time.Duration((1 + w.o.Rand()) / 2 * float64(w.o.Refresh)))
}

func (w *Writer) lookAfter(now time.Time) time.Time {
	if w.o.Interval <= 0 {
		return now
	}
	return now.Add(time.Duration((1 + w.o.Rand()/2) * float64(w.o.Interval)))
}

// look makes the checkpoints of an autoscaler and says which are to be written.
func (w *Writer) look(vpa *model.Vpa, all bool) job {
	now, r := w.o.Now(), w.stored[vpa.ID]
	j := job{vpa: vpa, record: r, now: now, written: map[string]*write{}}
	states := w.states(vpa, now)
	unchanged := 0
	for name, state := range states {
		known, moved := r.containers[name], markOf(state)
		if known != nil && !r.oomed && !all && (now.Before(known.next) || known.mark == moved && now.Before(known.refresh)) {
			unchanged++
			continue
		}
		status, err := state.SaveToCheckpoint()
		if err != nil {
			w.failed("a checkpoint cannot be made", vpa, name, err)
			continue
		}
		content, err := w.content(*status)
		if err != nil {
			w.failed("a checkpoint cannot be made", vpa, name, err)
			continue
		}
		if known != nil && known.content == content {
			known.mark, known.refresh = moved, w.refreshAfter(now)
			unchanged++
			continue
		}
		status.LastUpdateTime = metav1.NewTime(now)
		j.written[name] = &write{status: *status, object: object{next: now.Add(w.o.Interval), refresh: w.refreshAfter(now), mark: moved, content: content}}
	}
	maps.DeleteFunc(r.containers, func(name string, _ *object) bool { return states[name] == nil })
	w.mu.Lock()
	w.stats.Unchanged += unchanged
	w.mu.Unlock()
	if len(j.written) == 0 {
		r.oomed = false
		if len(states) > 0 { // one without containers is looked at until it has some
			r.look = w.lookAfter(now)
		}
	}
	return j
}

// states merges what is to be stored per container. The memory peak of the interval that has not ended stays out: after a restart the
// interval would have two.
func (w *Writer) states(vpa *model.Vpa, now time.Time) model.ContainerNameToAggregateStateMap {
	states := model.ContainerNameToAggregateStateMap{}
	current := map[string][]*model.ContainerState{}
	w.cluster.Aggregations(vpa, func(name string, state *model.AggregateContainerState, adding []*model.ContainerState) {
		if states[name] == nil {
			states[name] = model.NewAggregateContainerState()
		}
		states[name].MergeContainerState(state)
		for _, container := range adding {
			if now.Before(container.WindowEnd) {
				current[name] = append(current[name], container)
			}
		}
	})
	vpa.MergeCheckpointedState(states)
	for name, containers := range current {
		for _, container := range containers {
			states[name].AggregateMemoryPeaks.SubtractSample(model.BytesFromMemoryAmount(container.GetMaxMemoryPeak()), 1, container.WindowEnd)
		}
	}
	return states
}

// content is never 0.
func (w *Writer) content(status vpav1.VerticalPodAutoscalerCheckpointStatus) (uint64, error) {
	status.LastUpdateTime = metav1.Time{}
	encoded, err := json.Marshal(status)
	if err != nil {
		return 0, err
	}
	return max(maphash.Bytes(w.seed, encoded), 1), nil
}

func (w *Writer) write(ctx context.Context, j job) {
	j.record.tried = j.now
	failed := false
	for _, name := range slices.Sorted(maps.Keys(j.written)) {
		one := j.written[name]
		if err := w.put(ctx, j.vpa, name, one.status); err != nil {
			failed = true
			w.failed("a checkpoint cannot be written", j.vpa, name, err)
			continue
		}
		j.record.containers[name] = &one.object
		j.vpa.CheckpointWritten = j.now
		w.mu.Lock()
		w.stats.Written++
		w.mu.Unlock()
	}
	if !failed {
		j.record.oomed, j.record.look = false, w.lookAfter(j.now)
	}
}

func (w *Writer) failed(what string, vpa *model.Vpa, container string, err error) {
	w.o.Log.Error(what, "namespace", vpa.ID.Namespace, "vpa", vpa.ID.VpaName, "container", container, "error", err.Error())
	w.mu.Lock()
	w.stats.Failed++
	w.mu.Unlock()
}

// put patches the checkpoint, or creates it. Its name is upstream's, which web's container api-proxy and web-api's container proxy share: who
// comes second gets one of its own, or would be sized after a restart by what the other used.
func (w *Writer) put(ctx context.Context, vpa *model.Vpa, container string, status vpav1.VerticalPodAutoscalerCheckpointStatus) error {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
	}
	spec := vpav1.VerticalPodAutoscalerCheckpointSpec{ContainerName: container, VPAObjectName: vpa.ID.VpaName}
	name := fmt.Sprintf("%s-%s", vpa.ID.VpaName, container)
	err := w.putAs(ctx, vpa.ID.Namespace, name, spec, status)
	if apierrors.IsInvalid(err) { // so the API server answers where a test of a patch fails
		sum := sha256.Sum256([]byte(vpa.ID.VpaName + "/" + container))
		own := name[:min(len(name), longest-11)] + "-" + hex.EncodeToString(sum[:5])
		if failed := w.putAs(ctx, vpa.ID.Namespace, own, spec, status); failed != nil {
			return errors.Join(err, failed)
		}
		return nil
	}
	return err
}

func (w *Writer) putAs(ctx context.Context, namespace, name string, spec vpav1.VerticalPodAutoscalerCheckpointSpec, status vpav1.VerticalPodAutoscalerCheckpointStatus) error {
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	body, err := json.Marshal([]step{{"test", "/spec/vpaObjectName", spec.VPAObjectName}, {"test", "/spec/containerName", spec.ContainerName}, {"replace", "/status", status}})
	if err != nil {
		return err
	}
	client := w.client.VerticalPodAutoscalerCheckpoints(namespace)
	_, err = client.Patch(ctx, name, types.JSONPatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, &vpav1.VerticalPodAutoscalerCheckpoint{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec, Status: status}, metav1.CreateOptions{})
	}
	return err
}

// mark is what recommendations follow from, as coarse as they are: two states with the same mark lead to the same ones.
type mark struct {
	cpu, memory [6]float64
	age         int // of the samples, in steps of a quarter: confidence grows with it
}

func markOf(state *model.AggregateContainerState) mark {
	m := mark{cpu: percentiles(state.AggregateCPUUsage), memory: percentiles(state.AggregateMemoryPeaks)}
	if span := state.LastSampleStart.Sub(state.FirstSampleStart); span > 0 {
		m.age = int(math.Log(span.Minutes()+1) / math.Log(1.25))
	}
	return m
}

func percentiles(h util.Histogram) [6]float64 {
	return [6]float64{h.Percentile(0.5), h.Percentile(0.75), h.Percentile(0.9), h.Percentile(0.95), h.Percentile(0.98), h.Percentile(1)}
}

// Collect deletes the checkpoints whose autoscaler is gone, in the namespaces that skip (nil for none) does not name.
func Collect(ctx context.Context, client vpaclient.VerticalPodAutoscalerCheckpointsGetter, vpas vpalisters.VerticalPodAutoscalerLister,
	checkpoints vpalisters.VerticalPodAutoscalerCheckpointLister, skip func(namespace string) bool) (deleted int, err error) {
	known, err := vpas.List(labels.Everything())
	if err != nil {
		return 0, fmt.Errorf("collecting checkpoints: listing autoscalers: %w", err)
	}
	alive := make(map[model.VpaID]struct{}, len(known))
	for _, vpa := range known {
		alive[model.VpaID{Namespace: vpa.Namespace, VpaName: vpa.Name}] = struct{}{}
	}
	stored, err := checkpoints.List(labels.Everything())
	if err != nil {
		return 0, fmt.Errorf("collecting checkpoints: listing them: %w", err)
	}
	var errs []error
	for _, checkpoint := range stored {
		if _, ok := alive[model.VpaID{Namespace: checkpoint.Namespace, VpaName: checkpoint.Spec.VPAObjectName}]; ok || skip != nil && skip(checkpoint.Namespace) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return deleted, errors.Join(append(errs, fmt.Errorf("collecting checkpoints: the time is up: %w", err))...)
		}
		err := client.VerticalPodAutoscalerCheckpoints(checkpoint.Namespace).Delete(ctx, checkpoint.Name, metav1.DeleteOptions{})
		switch {
		case err == nil:
			deleted++
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("collecting checkpoint %s/%s: %w", checkpoint.Namespace, checkpoint.Name, err))
		}
	}
	return deleted, errors.Join(errs...)
}
