package sources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Chunk is what history is read in, whole ones alone: the model takes one peak of memory a day.
const Chunk = 24 * time.Hour

// How history is read.
const (
	smallest     = time.Hour // a store that finds a chunk too large gets halves of it, down to this
	step         = 5 * time.Minute
	sampleEvery  = time.Minute // how often a running recommender samples: history weighs as much
	askAgain     = 5           // times in a row, before somebody else decides when to go on
	unprocessed  = http.StatusUnprocessableEntity
	podOwner     = "kube_pod_owner"
	replicaOwner = "kube_replicaset_owner"
	jobOwner     = "kube_job_owner"
)

// Workload is what a pod belongs to in the end.
type Workload struct{ Kind, Name string }

// Usage is what containers used, by workload and container, as the model aggregates it.
type Usage map[Workload]map[string]*model.AggregateContainerState

// History is a source that knows the past.
type History interface {
	// Usage is that of a namespace between two times.
	Usage(ctx context.Context, namespace string, from, to time.Time) (Usage, error)
}

// PastOptions say how history is asked for.
type PastOptions struct {
	Backoff agent.Backoff                                        // between attempts of one question
	Sleep   func(ctx context.Context, d time.Duration) error     // nil: real time
	Observe func(namespace string, from, to time.Time, size int) // of each chunk; nil: nobody
}

// Past reads history from a store: day by day, since a cluster's week is more than a store gives at once, or this process could hold.
//
// Samples become aggregations at once, and are those of the workload that the pod belonged to then: pods of the past have no labels in
// this stack's series, and are found by their owners (kube_pod_owner, kube_replicaset_owner, kube_job_owner). An aggregation needs no
// order of time, as the model of running containers does; so history may come later than the first samples.
type Past struct {
	store *Store
	o     PastOptions
}

var _ History = (*Past)(nil)

// NewPast makes one.
func NewPast(store *Store, o PastOptions) *Past {
	if o.Sleep == nil {
		o.Sleep = func(ctx context.Context, d time.Duration) error {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-t.C:
				return nil
			}
		}
	}
	if o.Backoff.Rand == nil {
		o.Backoff.Rand = func() float64 { return 0.5 }
	}
	if o.Backoff.Base == 0 {
		o.Backoff.Base, o.Backoff.Max = 2*time.Second, time.Minute
	}
	return &Past{store: store, o: o}
}

// Usage implements History. Whole chunks alone are read, back from to.
func (p *Past) Usage(ctx context.Context, namespace string, from, to time.Time) (Usage, error) {
	all := Usage{}
	for end := to; !end.Add(-Chunk).Before(from); end = end.Add(-Chunk) {
		start := end.Add(-Chunk)
		n, err := p.day(ctx, namespace, start, end, all)
		if err != nil {
			return nil, fmt.Errorf("history of %s from %s on: %w", namespace, start.UTC().Format(time.RFC3339), err)
		}
		if p.o.Observe != nil {
			p.o.Observe(namespace, start, end, n)
		}
	}
	return all, nil
}

// day adds one chunk, and says how many samples it had.
func (p *Past) day(ctx context.Context, namespace string, start, end time.Time, all Usage) (int, error) {
	owners, err := p.owners(ctx, namespace, start, end)
	if err != nil {
		return 0, err
	}
	n, err := p.cpu(ctx, namespace, start, end, owners, all)
	if err != nil {
		return n, err
	}
	// The maximum of the day is one question without steps.
	peaks, err := p.ask(ctx, "query", url.Values{
		"query": {fmt.Sprintf("max by (namespace,pod,container) (max_over_time(%s%s[%s]))", memoryMetric, p.store.selector(namespace), seconds(end.Sub(start)))}, "time": {moment(end)},
	})
	if err != nil {
		return n, fmt.Errorf("peaks of memory: %w", err)
	}
	for _, one := range peaks {
		state := all.state(owners, one.Metric)
		if _, value, is := one.Value.read(); is && state != nil {
			state.AddSample(&model.ContainerUsageSample{MeasureStart: end, Usage: model.MemoryAmountFromBytes(value), Resource: model.ResourceMemory})
			n++
		}
	}
	return n, nil
}

// cpu adds CPU's samples of a span, in halves where the store finds it too large.
func (p *Past) cpu(ctx context.Context, namespace string, start, end time.Time, owners map[string]Workload, all Usage) (int, error) {
	window := max(step, p.store.o.Window)
	rates, err := p.ask(ctx, "query_range", url.Values{
		"query": {fmt.Sprintf("max by (namespace,pod,container) (rate(%s%s[%s]))", cpuMetric, p.store.selector(namespace), seconds(window))},
		// Steps are at the ends of what they speak of; the first begins the span.
		"start": {moment(start.Add(step))}, "end": {moment(end)}, "step": {seconds(step)},
	})
	var refused *StoreError
	if errors.As(err, &refused) && refused.Status == unprocessed && end.Sub(start) > smallest {
		middle := start.Add((end.Sub(start) / 2).Truncate(step)) // on a step of the whole, so that none is lost
		n, err := p.cpu(ctx, namespace, start, middle, owners, all)
		if err != nil {
			return n, err
		}
		more, err := p.cpu(ctx, namespace, middle, end, owners, all)
		return n + more, err
	}
	if err != nil {
		return 0, fmt.Errorf("rates of CPU: %w", err)
	}
	n := 0
	for _, one := range rates {
		state := all.state(owners, one.Metric)
		if state == nil {
			continue
		}
		for _, v := range one.Values {
			at, value, is := v.read()
			if !is {
				continue
			}
			n++
			for back := step - sampleEvery; back >= 0; back -= sampleEvery {
				state.AddSample(&model.ContainerUsageSample{MeasureStart: at.Add(-back), Usage: model.CPUAmountFromCores(value), Resource: model.ResourceCPU})
			}
		}
	}
	return n, nil
}

// state is the aggregation of a container's workload; nil for pods that belong to none.
func (u Usage) state(owners map[string]Workload, l seriesLabels) *model.AggregateContainerState {
	w, is := owners[l.Pod]
	if !is || l.Container == "" {
		return nil
	}
	if u[w] == nil {
		u[w] = map[string]*model.AggregateContainerState{}
	}
	if u[w][l.Container] == nil {
		u[w][l.Container] = model.NewAggregateContainerState()
	}
	return u[w][l.Container]
}

// owners are the workloads of all pods that were there within a span.
func (p *Past) owners(ctx context.Context, namespace string, start, end time.Time) (map[string]Workload, error) {
	read := func(metric, subject string) ([]series, error) {
		all, err := p.ask(ctx, "query", url.Values{
			"query": {fmt.Sprintf("max by (%s,owner_kind,owner_name) (max_over_time(%s%s[%s]))", subject, metric, p.store.matchers(namespace), seconds(end.Sub(start)))}, "time": {moment(end)},
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", metric, err)
		}
		return all, nil
	}
	above := map[Workload]Workload{}
	for _, q := range []struct{ metric, subject, kind string }{{replicaOwner, "replicaset", "ReplicaSet"}, {jobOwner, "job_name", "Job"}} {
		all, err := read(q.metric, q.subject)
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			name := one.Metric.ReplicaSet + one.Metric.Job // one of them is there
			if owner := (Workload{one.Metric.OwnerKind, one.Metric.OwnerName}); known(owner) {
				above[Workload{q.kind, name}] = owner
			}
		}
	}
	all, err := read(podOwner, "pod")
	if err != nil {
		return nil, err
	}
	owners := make(map[string]Workload, len(all))
	for _, one := range all {
		if owner := (Workload{one.Metric.OwnerKind, one.Metric.OwnerName}); known(owner) {
			owners[one.Metric.Pod] = top(owner, above)
		}
	}
	return owners, nil
}

// known: kube-state-metrics writes <none> for who has no owner.
func known(w Workload) bool { return w.Kind != "" && w.Name != "" && !strings.HasPrefix(w.Kind, "<") }

// top is the workload at the top. A ReplicaSet whose owner is not known any more is one of a Deployment where its name ends in a template's
// hash.
func top(w Workload, above map[Workload]Workload) Workload {
	if up, is := above[w]; is {
		return up
	}
	if i := strings.LastIndexByte(w.Name, '-'); w.Kind == "ReplicaSet" && i > 0 && hash(w.Name[i+1:]) {
		return Workload{"Deployment", w.Name[:i]}
	}
	return w
}

// hash says whether a word may be a template's hash: of the letters that Kubernetes keeps for it, which make no words.
func hash(s string) bool {
	return len(s) >= 5 && len(s) <= 10 && strings.Trim(s, "bcdfghjklmnpqrstvwxz2456789") == ""
}

// ask asks until there is an answer, or a refusal that will be given again.
func (p *Past) ask(ctx context.Context, what string, form url.Values) ([]series, error) {
	backoff := p.o.Backoff
	for attempt := 1; ; attempt++ {
		all, err := p.store.ask(ctx, what, form, true)
		var refused *StoreError
		if err == nil || !errors.As(err, &refused) || !refused.Temporary() || attempt == askAgain || ctx.Err() != nil {
			return all, err
		}
		if p.o.Sleep(ctx, backoff.Next(0)) != nil {
			return nil, err
		}
	}
}
