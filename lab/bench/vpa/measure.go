package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Waits end. What takes longer is told as more than that.
const (
	coldLimit    = 6 * time.Minute
	restartLimit = 8 * time.Minute
	steadyLimit  = 6 * time.Minute
	churnLimit   = 4 * time.Minute
	// poll is how often a program that starts is asked how far it is. Later it is asked a few times a loop: answering costs it something.
	poll         = 100 * time.Millisecond
	pollsPerLoop = 20
	// slowLoop is from when on a loop is too long to look at several with churn.
	slowLoop = time.Minute
)

// steps of a loop, as both name them.
func steps() []string {
	return []string{"LoadVPAs", "LoadPods", "LoadMetrics", "DeleteRemovedPods", "UpdateVPAs", "MaintainCheckpoints", "GarbageCollect"}
}

// A duration is how long something took, or that it took more than that.
type duration struct {
	Took time.Duration
	More bool
}

// recommending is what a recommender did.
type recommending struct {
	// Cold: from its start without a status to the first loop's last one written.
	Cold       duration
	ColdWrites map[string]int
	Targets    map[string]string // by container
	Bounds     map[string]string

	// Restart: from its start with all statuses and checkpoints there to all recommendations made, and to the end of the first loop.
	Recommended, Restart duration
	// RestartSteps are those of the first loop.
	RestartSteps map[string]time.Duration

	// Loops that were counted after it. Steps are means of one.
	Loops   int
	Steady  time.Duration // how long they were counted
	Steps   map[string]time.Duration
	Loop    duration
	CPU     time.Duration // a loop's
	Writes  map[string]int
	RSS     int64
	TopRSS  int64
	Heap    int64 // live
	Metrics int   // containers whose usage was served

	// Churn: live heap after each loop.
	Churned int // pods that came
	Heaps   []int64
	// ChurnRSS is after it.
	ChurnRSS int64
	NoChurn  string // why it was not measured
}

// A moment is what is known at the end of a loop.
type moment struct {
	at      time.Time
	samples samples
	counts  counts
	took    footprint
}

func (w *world) moment(ctx context.Context, p *program) (moment, error) {
	m := moment{at: time.Now(), counts: w.shim.counted()}
	var err error
	if m.samples, err = p.scrape(ctx); err != nil {
		return m, err
	}
	m.took, err = footprintOf(p.PID())
	return m, err
}

// until waits until a step was gone through so many times. It says whether the limit was reached.
func (w *world) until(ctx context.Context, p *program, step string, times int, every, limit time.Duration) (m moment, more bool, err error) {
	deadline := time.Now().Add(limit)
	for {
		if err := errors.Join(p.Ended(), w.api.Ended(), ctx.Err()); err != nil {
			return m, false, err
		}
		if got, err := w.moment(ctx, p); err == nil { // it may not serve yet
			m = got
			if n, _ := m.samples.step(p.name, step); n >= times {
				return m, false, nil
			}
		}
		if time.Now().After(deadline) {
			if m.samples == nil {
				return m, true, fmt.Errorf("after %s its metrics do not answer\n%s", limit, p.Tail(15))
			}
			return m, true, nil
		}
		time.Sleep(every)
	}
}

// loops is how many there were.
func (p *program) loops(m moment) int {
	n, _ := m.samples.step(p.name, "total")
	return n
}

func (w *world) recommender(ctx context.Context, s stack) (got recommending, err error) {
	if got, err = w.cold(ctx, s); err != nil {
		return got, fmt.Errorf("cold start: %w", err)
	}
	w.say("restart")
	began := time.Now()
	p, err := w.startRecommender(ctx, s)
	if err != nil {
		return got, err
	}
	defer p.Stop()
	m, more, err := w.until(ctx, p, "UpdateVPAs", 1, poll, restartLimit)
	if err != nil {
		return got, fmt.Errorf("restart: %w", err)
	}
	got.Recommended = duration{m.at.Sub(began), more}
	if m, more, err = w.until(ctx, p, "total", 1, poll, restartLimit); err != nil {
		return got, fmt.Errorf("restart: %w", err)
	}
	got.Restart = duration{m.at.Sub(began), more}
	got.RestartSteps, _ = between(p, moment{samples: samples{}}, m)
	if err := w.steady(ctx, p, m, &got); err != nil {
		return got, fmt.Errorf("steady loops: %w", err)
	}
	if got.Loop.Took > slowLoop {
		got.NoChurn = "its loop takes " + got.Loop.Took.Round(time.Second).String()
		return got, nil
	}
	if err := w.churning(ctx, p, &got); err != nil {
		return got, fmt.Errorf("churn: %w", err)
	}
	return got, w.calm(ctx)
}

// cold starts with history and without any status.
func (w *world) cold(ctx context.Context, s stack) (got recommending, err error) {
	w.say("cold start")
	before, began := w.shim.counted(), time.Now()
	p, err := w.startRecommender(ctx, s)
	if err != nil {
		return got, err
	}
	// On a machine with other work a first loop may not write all in its time; the ones after it do.
	for loops := 1; ; loops++ {
		m, more, err := w.until(ctx, p, "UpdateVPAs", loops, poll, time.Until(began.Add(coldLimit)))
		if err != nil {
			p.Stop()
			return got, err
		}
		got.Cold, got.ColdWrites = duration{m.at.Sub(began), more}, m.counts.since(before).writes()
		if more || got.ColdWrites[autoscalers] >= w.Autoscalers {
			break
		}
	}
	p.Stop()
	got.Targets, got.Bounds, err = w.recommendations(ctx, s)
	return got, err
}

// between is what each step took in the mean of the loops between two moments, and how many those are.
func between(p *program, before, after moment) (map[string]time.Duration, int) {
	all := map[string]time.Duration{}
	for _, step := range append(steps(), "total") {
		n0, took0 := before.samples.step(p.name, step)
		n, took := after.samples.step(p.name, step)
		if n > n0 {
			all[step] = (took - took0) / time.Duration(n-n0)
		}
	}
	n, loops := p.loops(after), 0
	if before.samples != nil {
		loops = p.loops(before)
	}
	return all, n - loops
}

// steady counts loops that have nothing new to say.
func (w *world) steady(ctx context.Context, p *program, from moment, got *recommending) error {
	w.say("loops, for %s", w.Steady)
	deadline := from.at.Add(w.Steady)
	m, more := from, false
	for !more && (m.at.Before(deadline) || p.loops(m) == p.loops(from)) {
		var err error
		if m, more, err = w.until(ctx, p, "total", p.loops(m)+1, w.Interval/pollsPerLoop, time.Until(from.at.Add(steadyLimit))); err != nil {
			return err
		}
	}
	got.Steps, got.Loops = between(p, from, m)
	got.Loop = duration{got.Steps["total"], false}
	if got.Loops == 0 {
		got.Loop = duration{m.at.Sub(from.at), true}
	}
	got.Steady, got.Writes = m.at.Sub(from.at), m.counts.since(from.counts).writes()
	got.CPU = (m.took.CPU - from.took.CPU) / time.Duration(max(1, got.Loops))
	got.RSS, got.TopRSS, got.Heap = m.took.RSS, m.took.Top, m.samples.liveHeap()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.pods {
		got.Metrics += len(containers(one.workload))
	}
	return nil
}

// churning lets pods come and go, a step a loop.
func (w *world) churning(ctx context.Context, p *program, got *recommending) error {
	w.say("%d loops with pods that come and go", w.Churn)
	began, made := time.Now(), w.made
	for step := range w.Churn {
		if err := w.churn(ctx, step); err != nil {
			return err
		}
		m, err := w.moment(ctx, p)
		if err != nil {
			return err
		}
		// The loop that goes on may have read pods before; the one after it has seen them all.
		m, more, err := w.until(ctx, p, "total", p.loops(m)+2, w.Interval/pollsPerLoop, time.Until(began.Add(churnLimit)))
		if err != nil {
			return err
		}
		got.Heaps = append(got.Heaps, m.samples.liveHeap())
		got.ChurnRSS = m.took.RSS
		if more {
			break
		}
	}
	got.Churned = w.made - made
	return nil
}
