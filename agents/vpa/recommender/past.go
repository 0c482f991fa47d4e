package recommender

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/util"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
)

// past loads history in the background, namespace by namespace, and hands it to the loop. It ends when this process began to sample.
//
// What it finds becomes the state that an autoscaler's aggregations begin with, as a checkpoint does, in whose place it comes where it
// knows more: both together would count the same usage twice. Peaks of memory that the checkpoint alone knows are kept.
type past struct {
	source sources.History // nil: there is none
	length time.Duration
	until  time.Time
	log    *slog.Logger
	rand   agent.Rand

	mu     sync.Mutex
	spaces map[string]*space
	wake   chan struct{}
}

// space is a namespace whose history is wanted.
type space struct {
	tried, done bool
	usage       sources.Usage
}

func newPast(source sources.History, length time.Duration, until time.Time, log *slog.Logger, rand agent.Rand) *past {
	return &past{source: source, length: length, until: until, log: log, rand: rand, spaces: map[string]*space{}, wake: make(chan struct{}, 1)}
}

// fetching says whether an autoscaler still waits for the first attempt at its namespace's history, or for the store's first failure. After
// that it does not wait any more: a store that does not answer must not keep checkpoints from being written.
func (p *past) fetching(namespace string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.spaces[namespace]
	return s != nil && !s.tried
}

// want asks for a namespace's history, which is loaded once.
func (p *past) want(namespace string, now time.Time) {
	if p.source == nil || now.Sub(p.until) > p.length {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spaces[namespace] == nil {
		p.spaces[namespace] = &space{}
		signal(p.wake)
	}
}

// begin gives an autoscaler what is known of its workload before this process, and says whether there was anything new.
func (p *past) begin(vpa *model.Vpa) bool {
	if p.source == nil || vpa.TargetRef == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.spaces[vpa.ID.Namespace]
	if s == nil || s.usage == nil {
		return false
	}
	w := sources.Workload{Kind: vpa.TargetRef.Kind, Name: vpa.TargetRef.Name}
	taken := false
	for container, state := range s.usage[w] {
		if known := vpa.ContainersInitialAggregateState[container]; known == nil || known.TotalSamplesCount < state.TotalSamplesCount && known != state {
			if known != nil {
				if err := together(state, known); err != nil {
					p.log.Error("history is not taken: what is stored cannot be read", "namespace", vpa.ID.Namespace, "vpa", vpa.ID.VpaName, "container", container, "error", err.Error())
					continue
				}
			}
			vpa.ContainersInitialAggregateState[container] = state
			taken = true
		}
	}
	return taken
}

// together gives history the peaks of memory that a checkpoint knows besides: the store may have fewer of its days, and has none of what a
// container would have needed when it was killed. Of each size there are as many as the one knows that knows more of them, since most of
// them are the same.
func together(found, stored *model.AggregateContainerState) error {
	halfLife := model.GetAggregationsConfig().MemoryHistogramDecayHalfLife
	if found.AggregateMemoryPeaks.IsEmpty() {
		found.AggregateMemoryPeaks = stored.AggregateMemoryPeaks
		return nil
	}
	if stored.AggregateMemoryPeaks.IsEmpty() {
		return nil
	}
	var saved [2]*vpav1.HistogramCheckpoint
	var begin time.Time // that both weigh from
	for i, h := range []util.Histogram{found.AggregateMemoryPeaks, stored.AggregateMemoryPeaks} {
		var err error
		if saved[i], err = h.SaveToChekpoint(); err != nil {
			return err
		}
		if at := saved[i].ReferenceTimestamp.Time; at.After(begin) {
			begin = at
		}
	}
	weights, total, most := map[int]float64{}, 0.0, 0.0
	for _, h := range saved {
		sum := 0.0
		for _, w := range h.BucketWeights {
			sum += float64(w)
		}
		unit := h.TotalWeight / sum * math.Exp2(-float64(begin.Sub(h.ReferenceTimestamp.Time))/float64(halfLife))
		for bucket, w := range h.BucketWeights {
			weights[bucket] = max(weights[bucket], float64(w)*unit)
		}
	}
	for _, w := range weights {
		total, most = total+w, max(most, w)
	}
	all := vpav1.HistogramCheckpoint{ReferenceTimestamp: metav1.NewTime(begin), TotalWeight: total, BucketWeights: map[int]uint32{}}
	for bucket, w := range weights {
		if share := uint32(math.Round(w / most * float64(util.MaxCheckpointWeight))); share > 0 {
			all.BucketWeights[bucket] = share
		}
	}
	peaks := model.NewAggregateContainerState().AggregateMemoryPeaks
	if err := peaks.LoadFromCheckpoint(&all); err != nil {
		return err
	}
	found.AggregateMemoryPeaks = peaks
	return nil
}

// forget drops namespaces that have no autoscaler any more.
func (p *past) forget(present map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.spaces {
		if !present[name] {
			delete(p.spaces, name)
		}
	}
}

// next is a namespace to load, those never tried first.
func (p *past) next() (name string, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, s := range p.spaces {
		if s.done {
			continue
		}
		if !s.tried {
			return n, true
		}
		name, is = n, true
	}
	return name, is
}

// run loads until the context ends.
func (p *past) run(ctx context.Context, loop *agent.Loop) error {
	backoff := agent.Backoff{Base: 10 * time.Second, Max: 15 * time.Minute, Rand: p.rand}
	for {
		name, is := p.next()
		if !is {
			if loop.Await(ctx, p.wake) != nil {
				return nil
			}
			continue
		}
		loop.Turn()
		usage, err := p.source.Usage(ctx, name, p.until.Add(-p.length), p.until)
		if ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		s := p.spaces[name]
		if s != nil {
			s.tried = true
			s.done, s.usage = err == nil, usage
		}
		if err != nil { // the others would wait for the same, one after the other and longer each time
			for _, other := range p.spaces {
				other.tried = true
			}
		}
		p.mu.Unlock()
		if err == nil {
			backoff.Reset()
			p.log.Info("history loaded", "namespace", name, "workloads", len(usage))
			continue
		}
		wait := backoff.Next(0)
		p.log.Warn("history could not be loaded; what is measured from now on counts meanwhile", "namespace", name, "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		if loop.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// mark sets upstream's condition.
func (p *past) mark(vpa *model.Vpa) {
	if p.fetching(vpa.ID.Namespace) {
		vpa.SetCondition(vpav1.FetchingHistory, true, "Loading", "history is being loaded from the store")
		return
	}
	vpa.DeleteCondition(vpav1.FetchingHistory)
}

// signal wakes whoever waits, once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
