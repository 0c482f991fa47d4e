package workload

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The reasons this package gives beyond those of the kubelet and the scheduler.
const (
	ReasonNotReady = "NotReady" // the container runs, its readiness probe does not pass
	ReasonStarting = "ContainerCreating"
)

// Ranks of trouble, the most telling highest. Up to rankStarting it is not trouble but the way things start.
const (
	rankNone = iota
	rankStarting
	rankNotReady      // may be slow, may be broken: it waits and tells
	rankUnschedulable // from here on something is wrong
	rankEvicted
	rankFailed
	rankCrash
	rankConfig
	rankImage
)

// trouble is what keeps a pod from being ready.
type trouble struct {
	rank            int
	reason, message string
	since           time.Time
}

func (t trouble) wrong() bool { return t.rank > rankNotReady }

// Pod says why a pod is not ready: the most telling reason of its containers, its scheduling and its phase, and what the
// kubelet or scheduler says about it. Both are empty when the pod is ready or ended well.
func Pod(p *corev1.Pod) (reason, message string) {
	t := of(p)
	return t.reason, t.message
}

// worst is the most telling trouble of the pods; among equals that of the newest pod.
func worst(pods []*corev1.Pod) trouble {
	var t trouble
	var from *corev1.Pod
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue // on its way out: its successor speaks
		}
		if o := of(p); o.rank > t.rank || o.rank == t.rank && o.rank > 0 && newer(p, from) {
			t, from = o, p
		}
	}
	return t
}

func of(p *corev1.Pod) trouble {
	t := trouble{}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return trouble{}
		case c.Type == corev1.PodReady:
			t.since = c.LastTransitionTime.Time
		}
	}
	if t.since.IsZero() {
		t.since = p.CreationTimestamp.Time
	}
	raise := func(rank int, reason, message string) {
		if rank > t.rank {
			t.rank, t.reason, t.message = rank, reason, sentence(message)
		}
	}
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		return trouble{}
	case corev1.PodFailed:
		// An evicted or rejected pod is history; its successor, if it is in trouble too, says what is wrong now.
		if p.Status.Reason != "" {
			raise(rankEvicted, p.Status.Reason, p.Status.Message)
		}
		raise(rankFailed, "PodFailed", orElse(p.Status.Message, "pod "+p.Name+" failed"))
		if p.Status.Reason != "" {
			t.rank, t.reason, t.message = rankEvicted, p.Status.Reason, sentence(p.Status.Message)
		}
	case corev1.PodPending:
		raise(rankStarting, ReasonStarting, "")
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			raise(rankUnschedulable, orElse(c.Reason, corev1.PodReasonUnschedulable), c.Message)
		}
	}
	for _, c := range p.Status.InitContainerStatuses {
		raise(container("init container "+c.Name, c, p.Spec.RestartPolicy))
	}
	for _, c := range p.Status.ContainerStatuses {
		raise(container("container "+c.Name, c, p.Spec.RestartPolicy))
	}
	return t
}

// container ranks one container.
func container(who string, c corev1.ContainerStatus, policy corev1.RestartPolicy) (rank int, reason, message string) {
	last := c.LastTerminationState.Terminated
	crashed := func(t *corev1.ContainerStateTerminated) (int, string, string) {
		if t != nil && t.Reason == "OOMKilled" {
			return rankCrash, "OOMKilled", who + ": out of memory: it used more than its limit"
		}
		if t == nil {
			return rankCrash, "CrashLoopBackOff", who + ": keeps ending"
		}
		return rankCrash, "CrashLoopBackOff", who + ": ended with " + termination(t)
	}
	switch {
	case c.State.Waiting != nil:
		w := c.State.Waiting
		switch w.Reason {
		case "", "PodInitializing", "ContainerCreating":
			if last != nil && c.RestartCount > 0 {
				return crashed(last)
			}
			return rankStarting, ReasonStarting, ""
		case "ErrImagePull", "ImagePullBackOff":
			return rankImage, "ImagePullBackOff", who + ": " + pull(w.Message)
		case "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
			return rankImage, w.Reason, who + ": " + w.Message
		case "CrashLoopBackOff":
			return crashed(last)
		default: // CreateContainerConfigError, CreateContainerError, RunContainerError, PostStartHookError, …
			return rankConfig, w.Reason, who + ": " + w.Message
		}
	case c.State.Terminated != nil:
		t := c.State.Terminated
		switch {
		case t.ExitCode == 0 && (strings.HasPrefix(who, "init ") || policy != corev1.RestartPolicyAlways && policy != ""):
			return rankNone, "", ""
		case strings.HasPrefix(t.Reason, "StartError"), t.Reason == "ContainerCannotRun":
			return rankConfig, "RunContainerError", who + ": " + t.Message
		default:
			return crashed(t)
		}
	case c.Ready || strings.HasPrefix(who, "init "):
		return rankNone, "", ""
	case c.RestartCount > 1 && last != nil && last.ExitCode != 0:
		// It runs again for the moment. Reporting that would make every crash loop flap.
		return crashed(last)
	case c.State.Running != nil:
		return rankNotReady, ReasonNotReady, who + " runs, but its readiness probe does not pass"
	}
	return rankStarting, ReasonStarting, ""
}

var (
	backOff = regexp.MustCompile(`(?i)^back-off pulling image "[^"]*"(?:: )?(?:ErrImagePull: )?`)
	pullOf  = regexp.MustCompile(`^rpc error: code = \w+ desc = `)
	spaces  = regexp.MustCompile(`\s+`)
)

// pull strips what alternates between the kubelet's two messages, which leaves the cause.
func pull(message string) string {
	cause := pullOf.ReplaceAllString(backOff.ReplaceAllString(message, ""), "")
	if cause == "" {
		return "the image cannot be pulled"
	}
	return cause
}

// maxMessage bounds messages: they travel in heartbeats.
const maxMessage = 512

// sentence makes one bounded line.
func sentence(message string) string {
	message = strings.TrimSpace(spaces.ReplaceAllString(message, " "))
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage
	for cut > 0 && message[cut]&0xC0 == 0x80 { // never through a character
		cut--
	}
	return fmt.Sprintf("%s…", message[:cut])
}
