package recommender

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// holds are what containers were given since they ran out of memory. In the model an OOM is one peak among those of all replicas, and a
// percentile may leave it out; what killed a container is no outlier.
type holds struct {
	by map[model.VpaID]map[string]hold
	// unwritten are those whose status does not tell them yet: another process would not know.
	unwritten map[model.VpaID]bool
}

func newHolds() *holds {
	return &holds{by: map[model.VpaID]map[string]hold{}, unwritten: map[model.VpaID]bool{}}
}

// need is what is given to a container that ran out of memory with so much: upstream's rule, of what it had alone. What was recommended
// since then must not count: a container that is killed over and over while it waits for its turn would be given ever more.
func need(had int64) int64 {
	return max(had+int64(model.DefaultOOMMinBumpUp), int64(float64(had)*model.DefaultOOMBumpUpRatio))
}

// add records an OOM, and says whether more is held than before.
func (h *holds) add(vpa model.VpaID, container string, had int64, at time.Time) bool {
	before := h.by[vpa][container]
	bytes := need(had)
	h.unwritten[vpa] = true
	if before.bytes > bytes {
		// It was given more already, or waits for it: the hold goes on from now.
		h.put(vpa, container, hold{before.bytes, at})
		return false
	}
	h.put(vpa, container, hold{bytes, at})
	return bytes > before.bytes
}

func (h *holds) put(vpa model.VpaID, container string, one hold) {
	if h.by[vpa] == nil {
		h.by[vpa] = map[string]hold{}
	}
	h.by[vpa][container] = one
}

// of are those of an autoscaler that still hold.
func (h *holds) of(vpa model.VpaID, now time.Time) map[string]hold {
	for container, one := range h.by[vpa] {
		if now.Sub(one.at) >= rightsizing.OOMHold {
			delete(h.by[vpa], container)
		}
	}
	return h.by[vpa]
}

// forget drops what is of autoscalers that are gone.
func (h *holds) forget(present func(model.VpaID) bool) {
	for id := range h.by {
		if !present(id) {
			delete(h.by, id)
			delete(h.unwritten, id)
		}
	}
}

// recall takes over what a process before this one held, from the explanations that it wrote.
func (h *holds) recall(vpa model.VpaID, all []rightsizing.Explanation, now time.Time) {
	for _, x := range all {
		if x.Held != nil && now.Sub(x.HeldSince) < rightsizing.OOMHold {
			h.put(vpa, x.Container, hold{x.Held.Value(), x.HeldSince})
		}
	}
}

// both hands events to two observers: upstream's, which feeds the model, and one that this loop reads.
type both struct{ model, loop oom.Observer }

var _ cache.ResourceEventHandler = both{}

// OnEvent is for Events of evictions.
func (b both) OnEvent(e *corev1.Event) {
	b.model.OnEvent(e)
	b.loop.OnEvent(e)
}

// GetObservedOomsChannel implements oom.Observer, for what watches evictions.
func (b both) GetObservedOomsChannel() chan oom.OomInfo { return b.model.GetObservedOomsChannel() }

// OnAdd implements cache.ResourceEventHandler.
func (b both) OnAdd(obj any, initial bool) {
	b.model.OnAdd(obj, initial)
	b.loop.OnAdd(obj, initial)
}

// OnUpdate implements cache.ResourceEventHandler.
func (b both) OnUpdate(was, is any) {
	b.model.OnUpdate(was, is)
	b.loop.OnUpdate(was, is)
}

// OnDelete implements cache.ResourceEventHandler.
func (b both) OnDelete(obj any) {
	b.model.OnDelete(obj)
	b.loop.OnDelete(obj)
}

// oomID names one OOM, however often it is told.
func oomID(o oom.OomInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "oom/%s/%s/%s/%d", o.ContainerID.Namespace, o.ContainerID.PodName, o.ContainerID.ContainerName, o.Timestamp.UnixMilli()))
	return "oom-" + hex.EncodeToString(sum[:12])
}
