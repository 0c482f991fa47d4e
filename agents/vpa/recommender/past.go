package recommender

import (
	"context"
	"log/slog"
	"sync"
	"time"

	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa/sources"
)

// past loads history in the background, namespace by namespace, and hands it to the loop. It ends when this process began to sample.
//
// What it finds becomes the state that an autoscaler's aggregations begin with, as a checkpoint does, in whose place it comes where it
// knows more: both together would count the same usage twice.
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

// fetching says whether an autoscaler still waits for the first attempt at its namespace's history. After that it does not wait any more:
// a store that does not answer must not keep checkpoints from being written.
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
			vpa.ContainersInitialAggregateState[container] = state
			taken = true
		}
	}
	return taken
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
