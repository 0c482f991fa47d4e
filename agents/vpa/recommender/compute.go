package recommender

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/config"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/logic"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/routines"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"

	"github.com/nopsctl/nopsctl/agents/vpa/push"
	"github.com/nopsctl/nopsctl/agents/vpa/rules"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// estimators are upstream's: one as it is, and one for each level, without floors.
type estimators struct {
	upstream logic.PodResourceRecommender
	bare     logic.PodResourceRecommender // upstream's without floors, for explanations
	levels   map[rightsizing.Level]logic.PodResourceRecommender
	format   logic.RecommendationFormat
}

func newEstimators() estimators {
	d := config.DefaultRecommenderConfig()
	e := estimators{
		upstream: estimator(rightsizing.Upstream(), d.PodMinCPUMillicores, d.PodMinMemoryMb), bare: estimator(rightsizing.Upstream(), 0, 0),
		levels: map[rightsizing.Level]logic.PodResourceRecommender{},
		format: logic.RecommendationFormat{HumanizeMemory: d.HumanizeMemory, RoundCPUMillicores: d.RoundCPUMillicores, RoundMemoryBytes: d.RoundMemoryBytes},
	}
	for _, l := range rightsizing.Levels() {
		known, _ := l.Estimation()
		e.levels[l] = estimator(known, 0, 0)
	}
	return e
}

// estimator is upstream's with these percentiles, and floors by pod.
func estimator(e rightsizing.Estimation, milliCPU, megabytes float64) logic.PodResourceRecommender {
	d := config.DefaultRecommenderConfig()
	return logic.CreatePodResourceRecommender(logic.RecommendationConfig{
		SafetyMarginFraction: e.Margin, PodMinCPUMillicores: milliCPU, PodMinMemoryMb: megabytes,
		TargetCPUPercentile: e.CPU.Target, LowerBoundCPUPercentile: e.CPU.Lower, UpperBoundCPUPercentile: e.CPU.Upper, ConfidenceIntervalCPU: d.ConfidenceIntervalCPU,
		TargetMemoryPercentile: e.Memory.Target, LowerBoundMemoryPercentile: e.Memory.Lower, UpperBoundMemoryPercentile: e.Memory.Upper, ConfidenceIntervalMemory: d.ConfidenceIntervalMemory,
	})
}

// given is what a recommendation is made from.
type given struct {
	vpa      *vpav1.VerticalPodAutoscaler
	settings *rules.Settings // nil: upstream's defaults hold
	states   model.ContainerNameToAggregateStateMap
	platform *nopsapi.WorkloadRecommendation // nil: none in force
	until    time.Time                       // of the platform's
	holds    map[string]hold                 // by container
	before   map[string]before               // by container: what a process before this one said of its memory
	since    map[string]time.Time            // by container: when its memory was known first
	most     corev1.ResourceList             // of any container, of all autoscalers
	room     corev1.ResourceList             // of its containers together: what the largest node has that they may run on; nil is not known
	pod      *corev1.Pod                     // one of its own pods; nil is not known
}

// hold is the memory that a container is given since it ran out.
type hold struct {
	bytes int64
	at    time.Time
}

// made is a recommendation and how it came to be.
type made struct {
	recommendation *vpav1.RecommendedPodResources
	parts          []part
}

// part is how one resource of one container came to be.
type part struct {
	container string
	resource  corev1.ResourceName
	local     int64
	steps     []rightsizing.Adjustment
	result    resource.Quantity
}

// recommend is pure.
func (e estimators) recommend(g given) made {
	if g.settings == nil {
		return e.asUpstream(g)
	}
	estimate, is := e.levels[g.settings.Level]
	if !is {
		estimate = e.bare
	}
	estimated := estimate.GetRecommendedPodResources(g.states)
	var m made
	for name, r := range estimated {
		var platform [2]push.Bounds
		platform[0], platform[1] = push.BoundsOf(g.platform, name)
		for i, res := range []model.ResourceName{model.ResourceCPU, model.ResourceMemory} {
			if _, controlled := r.Target[res]; !controlled {
				continue
			}
			if g.unknown(name, res) && platform[i].Target == 0 {
				// An empty histogram says zero, and a container that never came so far as to be measured would be given the floor.
				delete(r.LowerBound, res)
				delete(r.Target, res)
				delete(r.UpperBound, res)
				continue
			}
			in := push.Inputs{Resource: string(res), Local: push.Bounds{Lower: int64(r.LowerBound[res]), Target: int64(r.Target[res]), Upper: int64(r.UpperBound[res])}, Platform: platform[i]}
			local := in.Local.Target
			var kept []rightsizing.Adjustment
			if res == model.ResourceMemory {
				in.OOM, in.Peak = g.holds[name].bytes, max(int64(g.states[name].AggregateMemoryPeaks.Percentile(1)), g.before[name].peak)
				if said := g.before[name].target; said > local {
					in.Local.Target = said
					kept = []rightsizing.Adjustment{{Rule: ruleRestart, Why: "it was so much when the recommender began again, less than a day ago, and peaks of a day that has not ended are not stored", To: push.Quantity(string(res), said)}}
				}
			}
			b, steps := push.Merge(in)
			steps = append(kept, steps...)
			b, steps = floor(b, steps, res, g.settings.Floors)
			r.LowerBound[res], r.Target[res], r.UpperBound[res] = model.ResourceAmount(b.Lower), model.ResourceAmount(b.Target), model.ResourceAmount(b.Upper)
			m.parts = append(m.parts, part{container: name, resource: corev1.ResourceName(res), local: local, steps: steps})
		}
		if len(r.Target) == 0 {
			delete(estimated, name)
		}
	}
	m.recommendation = logic.MapToListOfRecommendedContainerResources(estimated, e.format)
	m.cap(g)
	return m
}

// unknown says whether nothing is known of what a container needs of a resource: no usage, now or before a restart, and no kill for want of it.
func (g given) unknown(container string, res model.ResourceName) bool {
	state := g.states[container]
	if res == model.ResourceMemory {
		return state.AggregateMemoryPeaks.IsEmpty() && g.holds[container].bytes == 0 && g.before[container].target == 0
	}
	return state.AggregateCPUUsage.IsEmpty()
}

// floor raises what lies below the floor.
func floor(b push.Bounds, steps []rightsizing.Adjustment, res model.ResourceName, floors corev1.ResourceList) (push.Bounds, []rightsizing.Adjustment) {
	q := floors[corev1.ResourceName(res)]
	least := q.Value()
	if res == model.ResourceCPU {
		least = q.MilliValue()
	}
	if b.Target < least {
		steps = append(steps, rightsizing.Adjustment{Rule: "floor", Why: "no container gets less", To: q})
	}
	return push.Bounds{Lower: max(b.Lower, least), Target: max(b.Target, least), Upper: max(b.Upper, least)}, steps
}

// asUpstream recommends what upstream's recommender does.
func (e estimators) asUpstream(g given) made {
	estimated := e.upstream.GetRecommendedPodResources(g.states)
	bare := e.bare.GetRecommendedPodResources(g.states)
	m := made{recommendation: logic.MapToListOfRecommendedContainerResources(estimated, e.format)}
	for name, r := range estimated {
		for res, target := range r.Target {
			p := part{container: name, resource: corev1.ResourceName(res), local: int64(bare[name].Target[res])}
			if int64(target) > p.local {
				p.steps = []rightsizing.Adjustment{{Rule: "floor", Why: "the least for a pod, divided by its containers", To: push.Quantity(string(res), int64(target))}}
			}
			m.parts = append(m.parts, p)
		}
	}
	m.cap(g)
	return m
}

// cap bounds the recommendation by the autoscaler's policy, as upstream does, and completes the parts.
func (m *made) cap(g given) {
	// As upstream does where its option is given; an autoscaler without the annotation does not change.
	m.recommendation = (&routines.IntegerCPUPostProcessor{}).Process(g.vpa, m.recommendation)
	free := m.recommendation
	if capped, err := vpautil.ApplyVPAPolicy(free, g.vpa.Spec.ResourcePolicy, g.most); err == nil && capped != nil {
		m.recommendation = capped
	}
	targets := func(r *vpav1.RecommendedPodResources) map[string]corev1.ResourceList {
		all := map[string]corev1.ResourceList{}
		for _, c := range r.ContainerRecommendations {
			all[c.ContainerName] = c.Target
		}
		return all
	}
	before, after := targets(free), targets(m.recommendation)
	for i := range m.parts {
		p := &m.parts[i]
		was, is := before[p.container][p.resource], after[p.container][p.resource]
		switch is.Cmp(was) {
		case 1:
			p.steps = append(p.steps, rightsizing.Adjustment{Rule: "min", Why: "the autoscaler allows no less", To: is})
		case -1:
			p.steps = append(p.steps, rightsizing.Adjustment{Rule: "max", Why: "the autoscaler allows no more", To: is})
		}
		p.result = is
	}
	m.fit(g)
	slices.SortFunc(m.parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.resource, b.resource))
	})
}

// fit bounds the containers together by the largest node that they may run on, each by the same share: what fits none is never applied. What one
// is held at since it ran out of memory is not shared, if there is so much. Containers that the pod does not have take nothing: usage of one that
// was renamed is known for days, and its checkpoint stays.
func (m *made) fit(g given) {
	if g.settings == nil || m.recommendation == nil {
		return
	}
	absent := func(container string) bool { return g.pod != nil && !runs(g.pod, container) }
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		room, known := g.room[name]
		if !known || room.Sign() <= 0 {
			continue
		}
		sum, kept, all := resource.Quantity{}, map[string]int64{}, int64(0)
		for _, c := range m.recommendation.ContainerRecommendations {
			if absent(c.ContainerName) {
				continue
			}
			target := c.Target[name]
			sum.Add(target)
			if held := g.holds[c.ContainerName].bytes; held > 0 && name == corev1.ResourceMemory {
				kept[c.ContainerName] = min(held, target.Value())
				all += kept[c.ContainerName]
			}
		}
		if sum.Cmp(room) <= 0 {
			continue
		}
		if all >= room.Value() {
			clear(kept)
			all = 0
		}
		part := (room.AsApproximateFloat64() - float64(all)) / (sum.AsApproximateFloat64() - float64(all))
		for _, c := range m.recommendation.ContainerRecommendations {
			q, is := c.Target[name]
			if !is || absent(c.ContainerName) {
				continue
			}
			to := share(name, q, kept[c.ContainerName], part)
			for _, bounds := range []corev1.ResourceList{c.Target, c.LowerBound} {
				if was, is := bounds[name]; is && was.Cmp(to) > 0 {
					bounds[name] = to
				}
			}
			if upper, is := c.UpperBound[name]; is && upper.Cmp(room) > 0 {
				c.UpperBound[name] = room
			}
			for i := range m.parts {
				if p := &m.parts[i]; p.container == c.ContainerName && p.resource == name && to.Cmp(q) != 0 {
					p.steps = append(p.steps, rightsizing.Adjustment{Rule: "node", Why: fmt.Sprintf("the largest node that it may run on has %s for the containers of a pod, besides its DaemonSets", room.String()), To: to})
					p.result = to
				}
			}
		}
	}
}

// explain says how the recommendation came to be.
func (m made) explain(g given) []rightsizing.Explanation {
	var level rightsizing.Level
	if g.settings != nil {
		level = g.settings.Level
	}
	estimation, _ := level.Estimation()
	all := make([]rightsizing.Explanation, 0, len(m.parts))
	for _, p := range m.parts {
		state := g.states[p.container]
		if state == nil {
			continue
		}
		x := rightsizing.Explanation{
			Container: p.container, Resource: string(p.resource), Level: level, Since: state.FirstSampleStart.UTC(), Samples: state.TotalSamplesCount, Margin: estimation.Margin,
			Local: push.Quantity(string(p.resource), p.local), Steps: p.steps, Result: p.result,
		}
		if held, is := g.holds[p.container]; is && p.resource == corev1.ResourceMemory {
			q := push.Quantity("memory", held.bytes)
			x.Held, x.HeldSince = &q, held.at.UTC()
		}
		usage, percentiles, unit := state.AggregateCPUUsage, estimation.CPU, 1000.0
		if p.resource == corev1.ResourceMemory {
			usage, percentiles, unit = state.AggregateMemoryPeaks, estimation.Memory, 1
		}
		at := func(percentile float64) resource.Quantity {
			return push.Quantity(string(p.resource), int64(usage.Percentile(percentile)*unit))
		}
		if p.resource == corev1.ResourceMemory && !g.since[p.container].IsZero() {
			x.Since = g.since[p.container].UTC()
		}
		x.Median, x.Percentile, x.AtPercent, x.Peak = at(0.5), percentiles.Target, at(percentiles.Target), at(1)
		if said := g.before[p.container].peak; p.resource == corev1.ResourceMemory && said > x.Peak.Value() {
			x.Peak = push.Quantity("memory", said)
		}
		all = append(all, x)
	}
	return all
}

// confident is how much usage has to be known for confidence.
const confident = 24 * time.Hour

// unsure names the containers of which less is known, in a fixed order. Where there is no memory at all, none is recommended.
func unsure(states model.ContainerNameToAggregateStateMap, memory map[string]time.Time) []string {
	var names []string
	for name, s := range states {
		if s.LastSampleStart.Sub(s.FirstSampleStart) < confident || !s.AggregateMemoryPeaks.IsEmpty() && s.LastSampleStart.Sub(memory[name]) < confident {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// moved says whether a quantity differs from another by more than a fraction of it.
func moved(from, to resource.Quantity, fraction float64) bool {
	a, b := from.AsApproximateFloat64(), to.AsApproximateFloat64()
	return math.Abs(a-b) > fraction*math.Abs(a)*(1+1e-9) // what is exactly so much is not more, however it is rounded
}

// What counts as a change of a status.
const (
	targetMoves = 0.01
	boundMoves  = 0.05
)

// change says why a status is worth writing; "" when it is not. Whether bounds are written that drifted, and no more, is asked of drifted,
// with the bounds from before and now.
func change(before, now *vpav1.VerticalPodAutoscalerStatus, drifted func(was, is []vpav1.RecommendedContainerResources) bool) string {
	if !sameConditions(before.Conditions, now.Conditions) {
		return "conditions"
	}
	if before.ObservedGeneration == nil || now.ObservedGeneration != nil && *before.ObservedGeneration != *now.ObservedGeneration {
		return "generation"
	}
	was, is := containers(before.Recommendation), containers(now.Recommendation)
	if (before.Recommendation == nil) != (now.Recommendation == nil) || len(was) != len(is) {
		return "containers"
	}
	bounds := false
	for i := range is {
		a, b := was[i], is[i]
		if a.ContainerName != b.ContainerName {
			return "containers"
		}
		for _, pair := range [][2]corev1.ResourceList{{a.Target, b.Target}, {a.LowerBound, b.LowerBound}, {a.UpperBound, b.UpperBound}} {
			if !sameResources(pair[0], pair[1]) {
				return "resources"
			}
		}
		for name, q := range b.Target {
			if moved(a.Target[name], q, targetMoves) {
				return "target"
			}
			bounds = bounds || moved(a.LowerBound[name], b.LowerBound[name], boundMoves) || moved(a.UpperBound[name], b.UpperBound[name], boundMoves)
		}
	}
	if bounds && drifted(was, is) {
		return "bounds"
	}
	return ""
}

func containers(r *vpav1.RecommendedPodResources) []vpav1.RecommendedContainerResources {
	if r == nil {
		return nil
	}
	return r.ContainerRecommendations
}

func sameResources(a, b corev1.ResourceList) bool {
	for name := range a {
		if _, is := b[name]; !is {
			return false
		}
	}
	return len(a) == len(b)
}

// sameConditions compares what conditions say. Messages of two of them tell numbers and names that come and go; they are written with the
// next change.
func sameConditions(a, b []vpav1.VerticalPodAutoscalerCondition) bool {
	words := func(all []vpav1.VerticalPodAutoscalerCondition) []string {
		var w []string
		for _, c := range all {
			message := c.Message
			if c.Type == rightsizing.ConditionPlatform || c.Type == vpav1.LowConfidence {
				message = ""
			}
			w = append(w, fmt.Sprint(c.Type, c.Status, c.Reason, message))
		}
		slices.Sort(w)
		return w
	}
	return slices.Equal(words(a), words(b))
}

// outlived says whether what a status says of the platform's validity is less than half of what is left of it. Each list has another one, and to
// write them all would be a write for each autoscaler and list; but a process after this one goes by what is written.
func outlived(written []vpav1.VerticalPodAutoscalerCondition, until, now time.Time) bool {
	for _, c := range written {
		if c.Type == rightsizing.ConditionPlatform {
			return push.ValidUntilOf(c.Message).Sub(now) < until.Sub(now)/2
		}
	}
	return false
}

// crossed says whether one of the requests lies within the bounds of before and outside of those of now, or the other way round: that is what
// the updater acts on.
func crossed(was, is vpav1.RecommendedContainerResources, request model.Resources) bool {
	for res, amount := range request {
		name := corev1.ResourceName(res)
		q := push.Quantity(string(res), int64(amount))
		if within(was, name, q) != within(is, name, q) {
			return true
		}
	}
	return false
}

func within(r vpav1.RecommendedContainerResources, name corev1.ResourceName, q resource.Quantity) bool {
	lower, isLower := r.LowerBound[name]
	upper, isUpper := r.UpperBound[name]
	return (!isLower || q.Cmp(lower) >= 0) && (!isUpper || q.Cmp(upper) <= 0)
}
