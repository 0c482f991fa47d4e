package workload_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/internal/workload"
)

const sum = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func at(minute int) metav1.Time {
	return metav1.NewTime(time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC))
}

func deployment(change func(*appsv1.Deployment)) *appsv1.Deployment {
	two := int32(2)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-x", Namespace: "nops", Generation: 3, Labels: map[string]string{workload.ComponentLabel: "x", workload.VersionLabel: "0.1.0"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &two,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "reg/x:1"}}}},
		},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2,
			Conditions: []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, LastTransitionTime: at(5)},
				{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
			}},
	}
	if change != nil {
		change(d)
	}
	return d
}

func pod(name string, change func(*corev1.Pod)) corev1.Pod {
	yes := true
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "nops", CreationTimestamp: at(1), Labels: map[string]string{"app": "x"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "nops-x-5d", Controller: &yes}}},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "x", Image: "reg/x:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: at(2)}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "x", ImageID: "reg/x@" + sum}}},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func waiting(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodPending
		p.Status.ContainerStatuses[0].ImageID = ""
		p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	}
}

func none(d *appsv1.Deployment) {
	d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0
	d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "ReplicaSetUpdated"}}
}

func TestDeployment(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		deployment   *appsv1.Deployment
		pods         []corev1.Pod
		state        workload.State
		why, message string
		since        metav1.Time
	}{
		{
			name: "all available", reason: "the plain good case; since is when it became available",
			deployment: deployment(nil), state: workload.Ready, since: at(5),
		},
		{
			name: "not observed", reason: "status of an older generation says nothing about this one",
			deployment: deployment(func(d *appsv1.Deployment) { d.Generation = 4 }),
			state:      workload.Progressing, why: "NotObserved", message: "the controller has not seen this change yet",
		},
		{
			name: "old replicas remain", reason: "kstatus: the previous template still runs",
			deployment: deployment(func(d *appsv1.Deployment) { d.Status.Replicas = 3 }),
			state:      workload.Progressing, why: "RollingOut", message: "1 replicas of the previous template are still there",
		},
		{
			name: "no replicas wanted", reason: "scaled to zero is not an error",
			deployment: deployment(func(d *appsv1.Deployment) {
				zero := int32(0)
				d.Spec.Replicas, d.Status = &zero, appsv1.DeploymentStatus{ObservedGeneration: 3}
			}),
			state: workload.Idle, why: "NothingDesired",
		},
		{
			name: "image back-off", reason: "the kubelet's cause, without the prefix that comes and goes",
			deployment: deployment(none),
			pods:       []corev1.Pod{pod("nops-x-5d-a", waiting("ImagePullBackOff", `Back-off pulling image "reg/x:1": ErrImagePull: dial tcp 10.0.0.1:443: connect: connection refused`))},
			state:      workload.Degraded, why: "ImagePullBackOff", message: "container x: dial tcp 10.0.0.1:443: connect: connection refused", since: at(2),
		},
		{
			name: "image pull error", reason: "equal to the back-off: the kubelet alternates between the two",
			deployment: deployment(none),
			pods:       []corev1.Pod{pod("nops-x-5d-a", waiting("ErrImagePull", "dial tcp 10.0.0.1:443: connect: connection refused"))},
			state:      workload.Degraded, why: "ImagePullBackOff", message: "container x: dial tcp 10.0.0.1:443: connect: connection refused", since: at(2),
		},
		{
			name: "old kubelet's back-off", reason: "no cause given",
			deployment: deployment(none),
			pods:       []corev1.Pod{pod("nops-x-5d-a", waiting("ImagePullBackOff", `Back-off pulling image "reg/x:1"`))},
			state:      workload.Degraded, why: "ImagePullBackOff", message: "container x: the image cannot be pulled", since: at(2),
		},
		{
			name: "crash loop", reason: "the back-off time in the kubelet's message changes all the time: leave it out",
			deployment: deployment(none),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].RestartCount = 4
				p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s restarting failed container=x"}
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error"}
			})},
			state: workload.Degraded, why: "CrashLoopBackOff", message: "container x: ended with Error (exit code 2)", since: at(2),
		},
		{
			name: "crash loop, running for the moment", reason: "must equal the crash loop or it flaps",
			deployment: deployment(none),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].RestartCount = 4
				p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error"}
			})},
			state: workload.Degraded, why: "CrashLoopBackOff", message: "container x: ended with Error (exit code 2)", since: at(2),
		},
		{
			name: "out of memory", reason: "OOMKilled says more than CrashLoopBackOff",
			deployment: deployment(none),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
			})},
			state: workload.Degraded, why: "OOMKilled", message: "container x: out of memory: it used more than its limit", since: at(2),
		},
		{
			name: "missing secret", reason: "names the Secret",
			deployment: deployment(none),
			pods:       []corev1.Pod{pod("nops-x-5d-a", waiting("CreateContainerConfigError", `secret "nops-agent-credentials" not found`))},
			state:      workload.Degraded, why: "CreateContainerConfigError", message: `container x: secret "nops-agent-credentials" not found`, since: at(2),
		},
		{
			name: "unschedulable", reason: "the scheduler's words",
			deployment: deployment(none),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}}
			})},
			state: workload.Degraded, why: "Unschedulable", message: "0/1 nodes are available: 1 Insufficient cpu.", since: at(1),
		},
		{
			name: "image before unschedulable", reason: "one pod of each: the more telling one speaks",
			deployment: deployment(none),
			pods: []corev1.Pod{
				pod("nops-x-5d-b", func(p *corev1.Pod) {
					p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable"}}}
				}),
				pod("nops-x-5d-a", waiting("InvalidImageName", "couldn't parse image name")),
			},
			state: workload.Degraded, why: "InvalidImageName", message: "container x: couldn't parse image name", since: at(2),
		},
		{
			name: "starting", reason: "nothing is wrong yet",
			deployment: deployment(none),
			pods:       []corev1.Pod{pod("nops-x-5d-a", waiting("ContainerCreating", ""))},
			state:      workload.Progressing, why: "ContainerCreating", since: at(2),
		},
		{
			name: "readiness of a first rollout", reason: "may be slow: it tells, but it is not degraded",
			deployment: deployment(none),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
			})},
			state: workload.Progressing, why: "NotReady", message: "container x runs, but its readiness probe does not pass", since: at(2),
		},
		{
			name: "readiness lost later", reason: "it was complete once: a lost replica is a loss",
			deployment: deployment(func(d *appsv1.Deployment) { d.Status.AvailableReplicas, d.Status.ReadyReplicas = 1, 1 }),
			pods: []corev1.Pod{pod("nops-x-5d-a", func(p *corev1.Pod) {
				p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
			})},
			state: workload.Degraded, why: "NotReady", message: "container x runs, but its readiness probe does not pass", since: at(2),
		},
		{
			name: "gave up", reason: "the controller's deadline passed and no pod says why",
			deployment: deployment(func(d *appsv1.Deployment) {
				none(d)
				d.Status.Conditions[0] = appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "ReplicaSet has timed out progressing.", LastTransitionTime: at(7)}
			}),
			state: workload.Failed, why: "ProgressDeadlineExceeded", message: "ReplicaSet has timed out progressing.", since: at(7),
		},
		{
			name: "pods refused", reason: "quota and admission speak through the ReplicaSet",
			deployment: deployment(func(d *appsv1.Deployment) {
				none(d)
				d.Status.Replicas, d.Status.UpdatedReplicas = 0, 0
				d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "pods is forbidden: exceeded quota", LastTransitionTime: at(4)})
			}),
			state: workload.Degraded, why: "FailedCreate", message: "pods is forbidden: exceeded quota", since: at(4),
		},
		{
			name: "foreign pods", reason: "another controller's pod with the same labels, another namespace's pod, a dying pod",
			deployment: deployment(none),
			pods: []corev1.Pod{
				pod("job-a", func(p *corev1.Pod) { waiting("ErrImagePull", "x")(p); p.OwnerReferences[0].Kind = "Job" }),
				pod("nops-x-5d-a", func(p *corev1.Pod) { waiting("ErrImagePull", "x")(p); p.Namespace = "other" }),
				pod("nops-x-5d-b", func(p *corev1.Pod) { waiting("ErrImagePull", "x")(p); now := at(9); p.DeletionTimestamp = &now }),
			},
			state: workload.Progressing, why: "NotAvailable", message: "0 of 2 replicas are available", since: at(1),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := workload.Deployment(tt.deployment, tt.pods)
			want := got
			want.State, want.Reason, want.Message, want.Since = tt.state, tt.why, tt.message, tt.since.Time
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			if diff := cmp.Diff(got, workload.Deployment(tt.deployment, tt.pods)); diff != "" {
				t.Errorf("a second look differs:\n%s", diff)
			}
		})
	}
}

func TestFacts(t *testing.T) {
	old := pod("nops-x-5d-a", func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].ImageID = "reg/x@sha256:bbbb"
		p.Status.ContainerStatuses[0].RestartCount = 2
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", FinishedAt: at(3)}
	})
	young := pod("nops-x-5d-b", func(p *corev1.Pod) {
		p.CreationTimestamp = at(8)
		p.Status.ContainerStatuses[0].RestartCount = 1
		p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", FinishedAt: at(2)}
	})
	other := pod("nops-x-5d-c", func(p *corev1.Pod) {
		p.CreationTimestamp = at(9)
		p.Spec.Containers[0].Image = "reg/x:2"
		p.Status.ContainerStatuses[0].ImageID = "reg/x@sha256:cccc"
	})
	for _, pods := range [][]corev1.Pod{{old, young, other}, {other, young, old}} {
		got := workload.Deployment(deployment(nil), pods)
		want := workload.Summary{
			Kind: "Deployment", Namespace: "nops", Name: "nops-x", Component: "x", State: workload.Ready, Desired: 2, Ready: 2, Restarts: 3,
			LastTermination: "OOMKilled (exit code 137)", Version: "0.1.0", Since: at(5).Time,
			Images: []workload.Image{{Container: "x", Reference: "reg/x:1", Digest: sum}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the newest pod of the wanted reference gives the digest, whatever the order (-want +got):\n%s", diff)
		}
		if got.Object() != "Deployment nops/nops-x" {
			t.Errorf("Object() = %q", got.Object())
		}
	}
	bare := pod("nops-x-5d-a", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ImageID = sum })
	if got := workload.Deployment(deployment(nil), []corev1.Pod{bare}).Images[0].Digest; got != "" {
		t.Errorf("digest %q: a runtime's own image id is no registry digest", got)
	}
}

func TestDaemonSetAndStatefulSet(t *testing.T) {
	ds := func(change func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
		d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "nops", Generation: 1},
			Spec:   appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}},
			Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberReady: 2, NumberAvailable: 2}}
		change(d)
		return d
	}
	for _, tt := range []struct {
		name, reason string
		ds           *appsv1.DaemonSet
		want         workload.State
	}{
		{"ready", "all nodes", ds(func(*appsv1.DaemonSet) {}), workload.Ready},
		{"no nodes", "0 desired after it was observed", ds(func(d *appsv1.DaemonSet) { d.Status = appsv1.DaemonSetStatus{ObservedGeneration: 1} }), workload.Idle},
		{"brand new", "0 desired because nobody has counted", ds(func(d *appsv1.DaemonSet) { d.Status = appsv1.DaemonSetStatus{} }), workload.Progressing},
		{"half updated", "rolling", ds(func(d *appsv1.DaemonSet) { d.Status.UpdatedNumberScheduled = 1 }), workload.Progressing},
		{"on delete", "nothing to wait for", ds(func(d *appsv1.DaemonSet) {
			d.Status.UpdatedNumberScheduled = 1
			d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
		}), workload.Ready},
		{"one node away", "not available there", ds(func(d *appsv1.DaemonSet) { d.Status.NumberAvailable = 1 }), workload.Progressing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := workload.DaemonSet(tt.ds, nil); got.State != tt.want {
				t.Errorf("%s: %s (%s), want %s", tt.reason, got.State, got.Reason, tt.want)
			}
		})
	}
	ss := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "nops", Generation: 1},
		Spec:   appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}}
	if got := workload.StatefulSet(ss, nil); got.State != workload.Ready {
		t.Errorf("StatefulSet: %+v", got)
	}
	ss.Status.AvailableReplicas = 0
	if got := workload.StatefulSet(ss, nil); got.State != workload.Progressing {
		t.Errorf("StatefulSet without available replica: %+v", got)
	}
}

func TestCronJob(t *testing.T) {
	yes := true
	job := func(name string, minute int, owner string, conditions ...batchv1.JobCondition) batchv1.Job {
		return batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "nops", CreationTimestamp: at(minute), OwnerReferences: []metav1.OwnerReference{{Kind: "CronJob", Name: owner, Controller: &yes}}},
			Status: batchv1.JobStatus{Conditions: conditions}}
	}
	done := batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}
	failed := batchv1.JobCondition{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded", Message: "Job has reached the specified backoff limit"}
	for _, tt := range []struct {
		name, reason string
		suspended    bool
		jobs         []batchv1.Job
		state        workload.State
		why          string
	}{
		{"never ran", "waits for midnight", false, nil, workload.Idle, "WaitingForFirstRun"},
		{"suspended", "by somebody's will", true, []batchv1.Job{job("a", 1, "u", failed)}, workload.Idle, "Suspended"},
		{"ran well", "waits for the next midnight", false, []batchv1.Job{job("a", 1, "u", failed), job("b", 2, "u", done)}, workload.Idle, "LastRunSucceeded"},
		{"failed", "the last one counts", false, []batchv1.Job{job("a", 3, "u", failed), job("b", 2, "u", done)}, workload.Failed, "BackoffLimitExceeded"},
		{"runs", "no verdict yet", false, []batchv1.Job{job("a", 3, "u")}, workload.Progressing, "Running"},
		{"not its own", "another CronJob's failure", false, []batchv1.Job{job("a", 3, "other", failed)}, workload.Idle, "WaitingForFirstRun"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := workload.CronJob(&batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "u", Namespace: "nops"}, Spec: batchv1.CronJobSpec{Suspend: &tt.suspended}}, tt.jobs)
			if got.State != tt.state || got.Reason != tt.why {
				t.Errorf("%s: %s %s, want %s %s", tt.reason, got.State, got.Reason, tt.state, tt.why)
			}
		})
	}
}

func TestTag(t *testing.T) {
	for reference, want := range map[string]string{
		"reg/x:1": "1", "reg:5000/x": "", "reg:5000/x:v2": "v2", "x@sha256:aa": "", "reg:5000/x:v2@sha256:aa": "v2", "": "",
	} {
		if got := workload.Tag(reference); got != want {
			t.Errorf("Tag(%q) = %q, want %q", reference, got, want)
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	long := strings.Repeat("é ", 2000)
	got := workload.Deployment(deployment(none), []corev1.Pod{pod("nops-x-5d-a", waiting("ErrImagePull", "a\n\tb "+long))})
	if len(got.Message) > 520 || !strings.HasPrefix(got.Message, "container x: a b é é") || !strings.HasSuffix(got.Message, "…") {
		t.Errorf("message of %d bytes: %q", len(got.Message), got.Message)
	}
}
