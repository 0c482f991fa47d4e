package recommender

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// ruleRestart is the rule of steps that days add.
const ruleRestart = "restart"

// days are what a process before this one said of containers' memory. A checkpoint leaves out the peaks of the day that has not ended, and
// with them the night's, where a restart comes in the morning. Until this process has seen a whole day itself, memory is recommended no
// lower than it was; one that never lives so long never lowers it.
type days struct {
	until time.Time
	by    map[model.VpaID]map[string]before
}

// before is what was said of a container.
type before struct {
	target, peak int64 // 0 from days.until on
	since        time.Time
}

// newDays are those of a process that began then.
func newDays(began time.Time) *days {
	return &days{until: began.Add(confident), by: map[model.VpaID]map[string]before{}}
}

// recall takes over what was said.
func (d *days) recall(vpa model.VpaID, all []rightsizing.Explanation) {
	for _, x := range all {
		if x.Resource != string(corev1.ResourceMemory) {
			continue
		}
		b := before{target: x.Local.Value(), peak: x.Peak.Value(), since: x.Since}
		for _, s := range x.Steps {
			if s.Rule == ruleRestart { // what the process before that one said
				b.target = max(b.target, s.To.Value())
			}
		}
		if d.by[vpa] == nil {
			d.by[vpa] = map[string]before{}
		}
		d.by[vpa][x.Container] = b
	}
}

// of is what was said of an autoscaler's containers, as far as it still counts.
func (d *days) of(vpa model.VpaID, now time.Time) map[string]before {
	if !now.Before(d.until) {
		for name, b := range d.by[vpa] {
			b.target, b.peak = 0, 0
			d.by[vpa][name] = b
		}
	}
	return d.by[vpa]
}

// forget drops what is of autoscalers that are gone.
func (d *days) forget(present func(model.VpaID) bool) {
	for id := range d.by {
		if !present(id) {
			delete(d.by, id)
		}
	}
}

// memorySince says since when the memory of an autoscaler's containers is known. The model counts CPU's samples alone.
func memorySince(first map[string]time.Time, loaded model.ContainerNameToAggregateStateMap, said map[string]before) map[string]time.Time {
	since := first
	earlier := func(container string, at time.Time) {
		if known, is := since[container]; !at.IsZero() && (!is || at.Before(known)) {
			since[container] = at
		}
	}
	for container, state := range loaded {
		if !state.AggregateMemoryPeaks.IsEmpty() {
			earlier(container, state.FirstSampleStart)
		}
	}
	for container, b := range said {
		earlier(container, b.since)
	}
	return since
}
