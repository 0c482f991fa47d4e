// Package workload says in what state a workload is, and why.
//
// Its functions are pure: from a workload and its pods, as the API server returned them, to a Summary. The installer waits
// on them and prints them, the heartbeat agent reports them; both therefore use the same words for the same trouble.
//
// Summaries are stable: two calls on the same objects give equal values, messages hold no relative times and no counters,
// and reasons that the kubelet alternates between while nothing changes (ErrImagePull and ImagePullBackOff, CrashLoopBackOff
// and a container that just started again) are reported as one.
//
// A caller that strips objects to save memory must keep: metadata (name, namespace, uid, generation, labels, creation and
// deletion time, owner references), the workload's replicas, selector, strategy type and container names and images, the
// pods' container names and images and restart policy, and all of status.
package workload

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// State is how a workload does.
type State string

// The states.
const (
	Ready       State = "ready"       // as many replicas as desired run the current template and are available
	Progressing State = "progressing" // on its way, nothing found wrong
	Degraded    State = "degraded"    // something is wrong, the controllers still try
	Failed      State = "failed"      // the controller gave up
	Idle        State = "idle"        // nothing has to run now: no replica desired, no node selected, a CronJob between runs
)

// Settled says whether nothing is left to wait for.
func (s State) Settled() bool { return s == Ready || s == Idle }

// The labels a Summary is made from.
const (
	ComponentLabel = "app.kubernetes.io/component"
	VersionLabel   = "app.kubernetes.io/version"
)

// An Image is what one container runs.
type Image struct {
	Container string `json:"container"`
	Reference string `json:"reference"`        // as the workload's template says
	Digest    string `json:"digest,omitempty"` // sha256:… as the node resolved it; empty when not known
}

// A Summary is the state of one workload.
type Summary struct {
	Kind            string    `json:"kind"`
	Namespace       string    `json:"namespace"`
	Name            string    `json:"name"`
	Component       string    `json:"component"` // label app.kubernetes.io/component, else the name
	State           State     `json:"state"`
	Reason          string    `json:"reason,omitempty"`  // one word, the most telling one found
	Message         string    `json:"message,omitempty"` // what the kubelet, scheduler or controller says
	Desired         int32     `json:"desired"`
	Ready           int32     `json:"ready"`
	Restarts        int32     `json:"restarts"`                   // of all containers of its present pods
	LastTermination string    `json:"last_termination,omitempty"` // of the container that ended last, such as "OOMKilled (exit code 137)"
	Images          []Image   `json:"images,omitempty"`
	Version         string    `json:"version,omitempty"`
	Since           time.Time `json:"since,omitzero"` // when it came into this state, as far as the objects tell
}

// Object names the workload the way people do: "Deployment nops/nops-heartbeat".
func (s Summary) Object() string { return s.Kind + " " + s.Namespace + "/" + s.Name }

// Deployment summarises d. Pods that are not its own are ignored, so that the pods of a whole namespace may be given.
func Deployment(d *appsv1.Deployment, pods []corev1.Pod) Summary {
	s := summary("Deployment", d, d.Spec.Template.Spec)
	own := owned(pods, d, d.Spec.Selector, func(o metav1.OwnerReference) bool {
		return o.Kind == "ReplicaSet" && strings.HasPrefix(o.Name, d.Name+"-")
	})
	s.Desired = replicas(d.Spec.Replicas)
	s.Ready = d.Status.ReadyReplicas
	s.fromPods(own)

	var progressing, available, replicaFailure *appsv1.DeploymentCondition
	for i := range d.Status.Conditions {
		switch c := &d.Status.Conditions[i]; c.Type {
		case appsv1.DeploymentProgressing:
			progressing = c
		case appsv1.DeploymentAvailable:
			available = c
		case appsv1.DeploymentReplicaFailure:
			replicaFailure = c
		}
	}
	st := d.Status
	r := rollout{
		observed: st.ObservedGeneration >= d.Generation, desired: s.Desired,
		updated: st.UpdatedReplicas, total: st.Replicas, available: st.AvailableReplicas, ready: st.ReadyReplicas,
		// The controller says so once per template; afterwards missing replicas are losses, not progress.
		complete: progressing != nil && progressing.Reason == "NewReplicaSetAvailable",
		pausedAt: d.Spec.Paused,
	}
	if progressing != nil && progressing.Status == corev1.ConditionFalse && progressing.Reason == "ProgressDeadlineExceeded" {
		r.gaveUp, r.gaveUpReason, r.gaveUpMessage, r.gaveUpAt = true, progressing.Reason, progressing.Message, progressing.LastTransitionTime.Time
	}
	if replicaFailure != nil && replicaFailure.Status == corev1.ConditionTrue {
		r.refused, r.refusedReason, r.refusedMessage, r.refusedAt = true, replicaFailure.Reason, replicaFailure.Message, replicaFailure.LastTransitionTime.Time
	}
	if available != nil {
		r.availableSince = available.LastTransitionTime.Time
	}
	s.judge(r, own)
	return s
}

// DaemonSet summarises ds. Pods that are not its own are ignored.
func DaemonSet(ds *appsv1.DaemonSet, pods []corev1.Pod) Summary {
	s := summary("DaemonSet", ds, ds.Spec.Template.Spec)
	own := owned(pods, ds, ds.Spec.Selector, sameController("DaemonSet", ds))
	st := ds.Status
	s.Desired, s.Ready = st.DesiredNumberScheduled, st.NumberReady
	s.fromPods(own)
	updated := st.UpdatedNumberScheduled
	if ds.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		updated = st.DesiredNumberScheduled // pods are replaced when somebody deletes them: nothing to wait for
	}
	s.judge(rollout{
		observed: st.ObservedGeneration >= ds.Generation && st.ObservedGeneration > 0, desired: s.Desired,
		updated: updated, total: st.CurrentNumberScheduled, available: st.NumberAvailable, ready: st.NumberReady,
	}, own)
	return s
}

// StatefulSet summarises ss. Pods that are not its own are ignored.
func StatefulSet(ss *appsv1.StatefulSet, pods []corev1.Pod) Summary {
	s := summary("StatefulSet", ss, ss.Spec.Template.Spec)
	own := owned(pods, ss, ss.Spec.Selector, sameController("StatefulSet", ss))
	st := ss.Status
	s.Desired, s.Ready = replicas(ss.Spec.Replicas), st.ReadyReplicas
	s.fromPods(own)
	updated := st.UpdatedReplicas
	if u := ss.Spec.UpdateStrategy; u.Type == appsv1.OnDeleteStatefulSetStrategyType {
		updated = s.Desired
	} else if u.RollingUpdate != nil && u.RollingUpdate.Partition != nil {
		updated += min(*u.RollingUpdate.Partition, s.Desired)
	}
	s.judge(rollout{
		observed: st.ObservedGeneration >= ss.Generation && st.ObservedGeneration > 0, desired: s.Desired,
		updated: min(updated, s.Desired), total: s.Desired, available: st.AvailableReplicas, ready: st.ReadyReplicas,
	}, own)
	return s
}

// CronJob summarises cj by its jobs. Jobs that are not its own are ignored.
func CronJob(cj *batchv1.CronJob, jobs []batchv1.Job) Summary {
	s := summary("CronJob", cj, cj.Spec.JobTemplate.Spec.Template.Spec)
	var last *batchv1.Job
	for i := range jobs {
		j := &jobs[i]
		if j.Namespace != cj.Namespace || !anyOwner(j.OwnerReferences, sameController("CronJob", cj)) {
			continue
		}
		if last == nil || newer(j, last) {
			last = j
		}
	}
	switch {
	case cj.Spec.Suspend != nil && *cj.Spec.Suspend:
		s.State, s.Reason = Idle, "Suspended"
	case last == nil:
		s.State, s.Reason = Idle, "WaitingForFirstRun"
	default:
		s.lastRun(last)
	}
	if s.Since.IsZero() {
		s.Since = cj.CreationTimestamp.Time
	}
	return s
}

func (s *Summary) lastRun(last *batchv1.Job) {
	s.State, s.Reason, s.Since = Progressing, "Running", last.CreationTimestamp.Time
	s.Desired, s.Ready = 1, last.Status.Active
	for _, c := range last.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			s.State, s.Reason, s.Message, s.Since, s.Desired, s.Ready = Idle, "LastRunSucceeded", "", c.LastTransitionTime.Time, 0, 0
			return
		case batchv1.JobFailed:
			s.State, s.Reason, s.Since = Failed, orElse(c.Reason, "JobFailed"), c.LastTransitionTime.Time
			s.Message = sentence("last run " + last.Name + ": " + orElse(c.Message, "failed"))
			s.Desired, s.Ready = 0, 0
			return
		}
	}
	if last.Status.Failed > 0 {
		s.State, s.Reason, s.Message = Degraded, "PodFailed", "job "+last.Name+" tries again"
	}
}

// rollout is what the kinds have in common.
type rollout struct {
	observed                                   bool // the controller has seen the current generation
	complete                                   bool // the controller said that the current template was once fully available
	pausedAt                                   bool
	desired, updated, total, available, ready  int32
	gaveUp, refused                            bool
	gaveUpReason, gaveUpMessage, refusedReason string
	refusedMessage                             string
	gaveUpAt, refusedAt, availableSince        time.Time
}

// judge decides the state with the semantics of kstatus, and the reason with what the pods tell.
func (s *Summary) judge(r rollout, pods []*corev1.Pod) {
	trouble := worst(pods)
	switch {
	case !r.observed:
		s.State, s.Reason, s.Message = Progressing, "NotObserved", "the controller has not seen this change yet"
	case r.desired == 0 && r.total == 0:
		s.State, s.Reason = Idle, "NothingDesired"
		if s.Kind == "DaemonSet" {
			s.Message = "no node is selected"
		}
	case r.updated >= r.desired && r.total <= r.updated && r.available >= r.desired:
		s.State = Ready
		s.Since = latest(r.availableSince, readySince(pods))
	case r.gaveUp:
		s.State, s.Reason, s.Message, s.Since = Failed, r.gaveUpReason, sentence(r.gaveUpMessage), r.gaveUpAt
		// The deadline is the fact, the pod is the reason.
		if trouble.wrong() {
			s.Reason, s.Message = trouble.reason, trouble.message
		}
	case trouble.wrong():
		s.State, s.Reason, s.Message, s.Since = Degraded, trouble.reason, trouble.message, trouble.since
	case r.refused:
		s.State, s.Reason, s.Message, s.Since = Degraded, orElse(r.refusedReason, "FailedCreate"), sentence(r.refusedMessage), r.refusedAt
	case r.complete && r.updated >= r.desired && trouble.rank > rankStarting:
		s.State, s.Reason, s.Message, s.Since = Degraded, trouble.reason, trouble.message, trouble.since
	default:
		s.State = Progressing
		s.Reason, s.Message = progress(r, trouble)
		s.Since = trouble.since
	}
	if s.Since.IsZero() {
		s.Since = s.created(pods)
	}
}

func progress(r rollout, trouble trouble) (reason, message string) {
	switch {
	case r.pausedAt && r.updated < r.desired:
		return "Paused", "the rollout is paused"
	case trouble.rank > 0:
		return trouble.reason, trouble.message
	case r.updated < r.desired:
		return "RollingOut", fmt.Sprintf("%d of %d replicas run the current template", r.updated, r.desired)
	case r.total > r.updated:
		return "RollingOut", fmt.Sprintf("%d replicas of the previous template are still there", r.total-r.updated)
	default:
		return "NotAvailable", fmt.Sprintf("%d of %d replicas are available", r.available, r.desired)
	}
}

// created is the last resort of Since: the age of the newest pod is nearer to the truth than that of the workload.
func (s *Summary) created(pods []*corev1.Pod) time.Time {
	var t time.Time
	for _, p := range pods {
		t = latest(t, p.CreationTimestamp.Time)
	}
	return t
}

func summary(kind string, o metav1.Object, spec corev1.PodSpec) Summary {
	s := Summary{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), Component: orElse(o.GetLabels()[ComponentLabel], o.GetName()), Version: o.GetLabels()[VersionLabel]}
	for _, c := range spec.Containers {
		s.Images = append(s.Images, Image{Container: c.Name, Reference: c.Image})
	}
	if s.Version == "" && len(s.Images) > 0 {
		s.Version = Tag(s.Images[0].Reference)
	}
	return s
}

// Tag is the tag of an image reference, empty when it has none.
func Tag(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i >= 0 && !strings.Contains(reference[i:], "/") {
		return reference[i+1:]
	}
	return ""
}

// fromPods adds restarts, the last termination and digests.
func (s *Summary) fromPods(pods []*corev1.Pod) {
	var ended time.Time
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			s.Restarts += c.RestartCount
			for _, t := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
				if t != nil && (s.LastTermination == "" || t.FinishedAt.After(ended)) {
					ended, s.LastTermination = t.FinishedAt.Time, termination(t)
				}
			}
		}
	}
	for i := range s.Images {
		s.Images[i].Digest = digest(pods, s.Images[i])
	}
}

// digest looks at the newest pod that runs the wanted reference: older ones may have resolved the same tag differently.
func digest(pods []*corev1.Pod, want Image) string {
	var from *corev1.Pod
	found := ""
	for _, p := range pods {
		if from != nil && !newer(p, from) {
			continue
		}
		for _, c := range p.Spec.Containers {
			if c.Name != want.Container || c.Image != want.Reference {
				continue
			}
			for _, st := range p.Status.ContainerStatuses {
				// What follows an @ is the manifest's digest; a bare sha256:… is the runtime's own id and compares with nothing.
				if _, d, ok := strings.Cut(st.ImageID, "@"); ok && st.Name == want.Container && strings.HasPrefix(d, "sha256:") {
					from, found = p, d
				}
			}
		}
	}
	return found
}

func termination(t *corev1.ContainerStateTerminated) string {
	reason := orElse(t.Reason, "Terminated")
	if t.Signal != 0 {
		return fmt.Sprintf("%s (signal %d)", reason, t.Signal)
	}
	return fmt.Sprintf("%s (exit code %d)", reason, t.ExitCode)
}

func owned(pods []corev1.Pod, o metav1.Object, selector *metav1.LabelSelector, owner func(metav1.OwnerReference) bool) []*corev1.Pod {
	match := labels.Nothing()
	if selector != nil {
		if m, err := metav1.LabelSelectorAsSelector(selector); err == nil {
			match = m
		}
	}
	var own []*corev1.Pod
	for i := range pods {
		p := &pods[i]
		if p.Namespace == o.GetNamespace() && match.Matches(labels.Set(p.Labels)) && anyOwner(p.OwnerReferences, owner) {
			own = append(own, p)
		}
	}
	return own
}

// anyOwner lets objects without a controller pass: their labels have already spoken.
func anyOwner(refs []metav1.OwnerReference, owner func(metav1.OwnerReference) bool) bool {
	for _, r := range refs {
		if r.Controller != nil && *r.Controller {
			return owner(r)
		}
	}
	return true
}

func sameController(kind string, o metav1.Object) func(metav1.OwnerReference) bool {
	return func(r metav1.OwnerReference) bool {
		return r.Kind == kind && r.Name == o.GetName() && (o.GetUID() == "" || r.UID == "" || r.UID == o.GetUID())
	}
}

// newer orders by age and then by name, so that equal ages do not flap.
func newer(a, b metav1.Object) bool {
	ta, tb := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if ta.Equal(&tb) {
		return a.GetName() > b.GetName()
	}
	return tb.Before(&ta)
}

func readySince(pods []*corev1.Pod) time.Time {
	var t time.Time
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				t = latest(t, c.LastTransitionTime.Time)
			}
		}
	}
	return t
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
