package recommender

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/oom"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/agents/vpa/clusterstate"
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

// replayed says whether an eviction was told before: each watch of Events begins with all that are kept, for an hour or so, and by then a pod of the
// same name may request what the first one raised.
func (h *holds) replayed(vpa model.VpaID, container string, at time.Time) bool {
	before, is := h.by[vpa][container]
	return is && !at.After(before.at)
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

// earlyMost is how many OOMs of pods that are not listed yet are kept.
const earlyMost = 1000

// recorded is the model as it is given to upstream's feeder. What is recorded of memory that ran out is told at that moment, for the feeder sees
// to it that the pod is known then, even one that is gone already; a second look at the pods would find others.
type recorded struct {
	*clusterstate.Cluster

	tell   func(had toldOOM)
	coming map[oom.OomInfo]*corev1.Pod // of what the feeder records next: nil where only an Event told of it
	early  []toldOOM                   // of pods that nobody has listed
}

// toldOOM is an OOM, and who told of it.
type toldOOM struct {
	oom.OomInfo
	pod     *corev1.Pod // nil where it is not known
	evicted bool        // an Event told that the pod was evicted: the memory is what was used, whatever was requested
}

// see takes note of who tells of an OOM that is recorded next.
func (r *recorded) see(o oom.OomInfo, pod *corev1.Pod) { r.coming[o] = pod }

// RecordOOM implements model.ClusterState.
func (r *recorded) RecordOOM(id model.ContainerID, at time.Time, requested model.ResourceAmount) error {
	one := toldOOM{OomInfo: oom.OomInfo{ContainerID: id, Timestamp: at, Memory: requested}}
	var is bool
	one.pod, is = r.coming[one.OomInfo]
	one.evicted = is && one.pod == nil
	return r.record(one)
}

// record tells what the container had. Of one that was evicted that is its request, too: what it used has no bound but the node, and is no reason to
// give all replicas as much; the model counts it among what the others used.
func (r *recorded) record(one toldOOM) error {
	if !r.Knows(one.ContainerID.PodID) {
		if len(r.early) < earlyMost {
			r.early = append(r.early, one)
		}
		return fmt.Errorf("the pod is not listed yet: %w", model.NewKeyError(one.ContainerID.PodID))
	}
	had := one
	if one.evicted {
		had.Memory = r.Requested(one.ContainerID)
	}
	r.tell(had)
	return r.Cluster.RecordOOM(one.ContainerID, one.Timestamp, one.Memory)
}

// late records what came before its pod was listed, once. The pods are to be loaded before, and what comes next after it.
func (r *recorded) late() {
	clear(r.coming)
	early := r.early
	r.early = nil
	for _, one := range early {
		if r.Knows(one.ContainerID.PodID) {
			_ = r.record(one) // what the model holds for too old is held all the same
		}
	}
}

// oomID names one OOM, however often it is told.
func oomID(o oom.OomInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "oom/%s/%s/%s/%d", o.ContainerID.Namespace, o.ContainerID.PodName, o.ContainerID.ContainerName, o.Timestamp.UnixMilli()))
	return "oom-" + hex.EncodeToString(sum[:12])
}
