package heartbeat

import (
	"reflect"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// maxComponents bounds a beat: the contract bounds its size, and the stack has a dozen.
const maxComponents = 64

// fullEvery is after how many beats all components are sent although nobody asked: what went wrong unseen ends here.
const fullEvery = 60

// composer numbers beats and leaves out what was said before. It belongs to one goroutine.
type composer struct {
	bootID  string
	agent   nopsapi.AgentInfo
	release nopsapi.ReleaseInfo

	seq       uint64
	lastFull  uint64
	said      map[string]nopsapi.ComponentStatus // by kind and object, as of the last beat
	forceFull bool
}

// compose makes the next beat. known says whether the components were read: before the first list from the API server
// there is nothing to say about them, which is not the same as that there are none.
func (c *composer) compose(now time.Time, s snapshot, known bool, kubernetes string, dropped uint64) nopsapi.Heartbeat {
	c.seq++
	beat := nopsapi.Heartbeat{
		SchemaVersion: nopsapi.HeartbeatSchema, BootID: c.bootID, Seq: c.seq, ObservedAt: now.UTC(), Agent: c.agent, Release: c.release,
		KubernetesInfo: nopsapi.KubernetesInfo{Version: kubernetes}, Components: []nopsapi.ComponentStatus{}, Pipeline: pipelineStatus(s.pipeline), DroppedBeats: dropped,
	}
	if !known {
		return beat
	}
	current := statuses(s.components)
	// A beat of differences cannot say that something went away.
	beat.Full = c.forceFull || c.lastFull == 0 || c.seq-c.lastFull >= fullEvery || c.vanished(current)
	said := make(map[string]nopsapi.ComponentStatus, len(current))
	for _, status := range current {
		key := status.Kind + " " + status.Object
		if old, before := c.said[key]; beat.Full || !before || !reflect.DeepEqual(old, status) {
			beat.Components = append(beat.Components, status)
		}
		said[key] = status
	}
	c.said = said
	if beat.Full {
		c.lastFull, c.forceFull = c.seq, false
	}
	return beat
}

func (c *composer) vanished(current []nopsapi.ComponentStatus) bool {
	present := map[string]bool{}
	for _, status := range current {
		present[status.Kind+" "+status.Object] = true
	}
	for key := range c.said {
		if !present[key] {
			return true
		}
	}
	return false
}

// crowd is from how many components on messages are cut, so that a beat stays within the contract's size.
const crowd, crowdMessage = 16, 120

// statuses puts summaries on the wire.
func statuses(summaries []workload.Summary) []nopsapi.ComponentStatus {
	all := make([]nopsapi.ComponentStatus, 0, len(summaries))
	for _, s := range summaries {
		if len(all) == maxComponents {
			break
		}
		status := nopsapi.ComponentStatus{
			Name: s.Component, Kind: s.Kind, Object: s.Namespace + "/" + s.Name, State: string(s.State), Reason: s.Reason, Message: s.Message, Version: s.Version,
			Desired: s.Desired, Ready: s.Ready, Restarts: s.Restarts, LastTermination: s.LastTermination, Since: s.Since.UTC(),
		}
		if len(summaries) > crowd && len(status.Message) > crowdMessage {
			status.Message = strings.ToValidUTF8(status.Message[:crowdMessage], "") + "…"
		}
		for _, i := range s.Images {
			status.Images = append(status.Images, nopsapi.ImageStatus{Container: i.Container, Reference: i.Reference, Digest: i.Digest})
		}
		all = append(all, status)
	}
	return all
}

// pipelineStatus puts the pipeline on the wire.
func pipelineStatus(p pipeline) *nopsapi.PipelineStatus {
	s := &nopsapi.PipelineStatus{
		State: pipelineState(p), QueueBytes: int64(min(p.counters.QueueBytes, 1<<62)), DroppedPackets: p.counters.DroppedPackets,
		RequestsByStatus: p.counters.RequestsByStatus, TargetsUp: p.counters.TargetsUp, TargetsTotal: p.counters.TargetsTotal, LastError: p.lastError,
	}
	if !p.lastSuccess.IsZero() {
		at := p.lastSuccess.UTC()
		s.LastSuccessAt = &at
	}
	return s
}

func pipelineState(p pipeline) string {
	switch p.state {
	case stateAbsent:
		return nopsapi.PipelineDisabled
	case probe.Delivering:
		return nopsapi.PipelineDelivering
	case probe.Refused:
		return nopsapi.PipelineRefused
	case probe.Blocked, probe.Unreachable:
		return nopsapi.PipelineBlocked
	case probe.Idle:
		if p.lastSuccess.IsZero() {
			return nopsapi.PipelineStarting
		}
	}
	return nopsapi.PipelineUnknown
}

// signature is what must not wait for the next beat when it changes: states, reasons, versions, images. Counts of replicas
// and restarts wait.
func signature(s snapshot) map[string]string {
	sig := map[string]string{"pipeline": string(s.pipeline.state)}
	for _, c := range s.components {
		text := string(c.State) + "|" + c.Reason + "|" + c.Version
		for _, i := range c.Images {
			text += "|" + i.Reference + "@" + i.Digest
		}
		sig[c.Object()] = text
	}
	return sig
}
