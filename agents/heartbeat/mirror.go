package heartbeat

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
)

// StateConfigMap is the name of the mirror.
const StateConfigMap = "nops-heartbeat-state"

// component is the agent's own name in labels and events.
const component = "heartbeat"

// link is how the agent stands with the platform.
type link string

// The states of the link.
const (
	linkConnecting   link = "connecting"   // nothing was answered yet
	linkConnected    link = "connected"    // beats are accepted
	linkUnauthorized link = "unauthorized" // 401
	linkForbidden    link = "forbidden"    // 403
	linkNotOffered   link = "not-offered"  // the platform does not take heartbeats of this cluster (404)
	linkRefused      link = "refused"      // it takes none of what we say (another 4xx): the beats are lost
	linkUnreachable  link = "unreachable"  // no sensible answer
)

func (l link) detail() string {
	switch l {
	case linkConnecting:
		return "no answer from the platform yet"
	case linkConnected:
		return "the platform accepts heartbeats"
	case linkUnauthorized:
		return "the platform does not know the API key (HTTP 401): make a new one and run nopsctl install"
	case linkForbidden:
		return "the API key may not report this cluster (HTTP 403): make one for this cluster and run nopsctl install"
	case linkNotOffered:
		return "the platform does not offer heartbeats for this cluster (HTTP 404)"
	case linkRefused:
		return "the platform refuses heartbeats of this agent, and they are lost: its log says why; a platform that is older than the agent does so"
	default:
		return "the platform gives no answer: heartbeats are queued; nopsctl test-connectivity says where it fails"
	}
}

// broken says whether somebody has to do something.
func (l link) broken() bool {
	return l == linkUnauthorized || l == linkForbidden || l == linkNotOffered || l == linkRefused || l == linkUnreachable
}

// snapshot is what the agent sees at one moment.
type snapshot struct {
	components []workload.Summary
	pipeline   pipeline
	link       link
}

// mirrored is the part of a snapshot that stays equal while nothing changes: no counters, no times of now.
type mirrored struct {
	Components []mirroredComponent `json:"components"`
	Pipeline   mirroredState       `json:"pipeline"`
	Platform   mirroredState       `json:"platform"`
}

type mirroredComponent struct {
	Name    string    `json:"name"`
	Object  string    `json:"object"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

type mirroredState struct {
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// mirror renders the snapshot: JSON for programs, lines for people. Equal snapshots give equal bytes.
func mirror(s snapshot) map[string]string {
	m := mirrored{
		Components: []mirroredComponent{},
		Pipeline:   mirroredState{string(s.pipeline.state), s.pipeline.detail},
		Platform:   mirroredState{string(s.link), s.link.detail()},
	}
	var lines strings.Builder
	for _, c := range s.components {
		m.Components = append(m.Components, mirroredComponent{
			Name: c.Component, Object: c.Object(), State: string(c.State), Reason: c.Reason, Message: c.Message, Version: c.Version, Since: c.Since.UTC(),
		})
		fmt.Fprintf(&lines, "%s: %s\n", c.Component, describe(string(c.State), c.Reason, c.Message))
	}
	fmt.Fprintf(&lines, "pipeline: %s\nplatform: %s\n", describe(m.Pipeline.State, m.Pipeline.Detail), describe(m.Platform.State, m.Platform.Detail))
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil { // strings and times marshal
		raw = []byte(`{}`)
	}
	return map[string]string{"state.json": string(raw), "summary": lines.String()}
}

func describe(parts ...string) string {
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return strings.Join(said, ": ")
}

// ownDeployment finds the agent's Deployment among the objects. While it is not there, or on its way out, the agent writes
// nothing: it would come after the cleaning.
func ownDeployment(o objects) (agent.Owner, bool) {
	for _, d := range o.deployments {
		if d.Labels[workload.ComponentLabel] == component && d.DeletionTimestamp == nil {
			return agent.Owner{Kind: "Deployment", Name: d.Name, UID: d.UID}, true
		}
	}
	return agent.Owner{}, false
}

// stateConfigMap is the mirror as an object.
func stateConfigMap(own agent.Owner, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: StateConfigMap, OwnerReferences: own.Reference()}, Data: data}
}

// notes are the events that the way from one snapshot to the next deserves: something broke, or what was broken recovered.
// Ordinary progress is the controllers' to tell.
func notes(before, after snapshot, uids map[string]types.UID, own agent.Owner) []agent.Note {
	var all []agent.Note
	was := map[string]workload.Summary{}
	for _, c := range before.components {
		was[c.Object()] = c
	}
	bad := func(s workload.State) bool { return s == workload.Degraded || s == workload.Failed }
	for _, c := range after.components {
		n := agent.Note{Topic: c.Object(), Kind: c.Kind, Name: c.Name, UID: uids[c.Object()]}
		old := was[c.Object()]
		switch {
		case bad(c.State) && (!bad(old.State) || old.Reason != c.Reason):
			n.Warning, n.Reason, n.Why = true, "Component"+title(string(c.State)), describe(c.Component, c.Reason, c.Message)
		case bad(old.State) && c.State.Settled():
			n.Reason, n.Why = "ComponentRecovered", c.Component+" is "+string(c.State)
		default:
			continue
		}
		all = append(all, n)
	}
	mine := agent.Note{Kind: own.Kind, Name: own.Name, UID: own.UID}
	switch n := mine; {
	case failing(after.pipeline.state) && (!failing(before.pipeline.state) || before.pipeline.detail != after.pipeline.detail):
		n.Topic, n.Warning, n.Reason, n.Why = "delivery", true, "DeliveryFailing", after.pipeline.detail
		all = append(all, n)
	case failing(before.pipeline.state) && after.pipeline.state == probe.Delivering:
		n.Topic, n.Reason, n.Why = "delivery", "DeliveryRestored", after.pipeline.detail
		all = append(all, n)
	}
	switch n := mine; {
	case after.link.broken() && before.link != after.link:
		n.Topic, n.Warning, n.Reason, n.Why = "platform", true, "Platform"+title(strings.ReplaceAll(string(after.link), "-o", "O")), after.link.detail()
		all = append(all, n)
	case before.link.broken() && after.link == linkConnected:
		n.Topic, n.Reason, n.Why = "platform", "PlatformConnected", after.link.detail()
		all = append(all, n)
	}
	return all
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
