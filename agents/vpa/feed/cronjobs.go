package feed

import (
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	listersv1 "k8s.io/client-go/listers/core/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// labelCronJob is what pods are shown with, and what selects them, of a CronJob whose template gives them no labels: they have those of their run
// alone, and the model goes by labels.
const labelCronJob = rightsizing.Group + "/cronjob"

// OfCronJob selects the pods that CronJobs shows as those of a CronJob.
func OfCronJob(name string) labels.Selector {
	return labels.SelectorFromSet(labels.Set{labelCronJob: name})
}

// CronJobs is a lister of pods that shows those without labels of their own as their CronJob's. Like the feeder, it belongs to one goroutine.
type CronJobs struct {
	listersv1.PodLister

	workload func(foreign.Ref) metav1.Object
	shown    map[types.UID]cronPod
}

// cronPod is a pod of a CronJob, and how it is shown.
type cronPod struct {
	cronJob string
	pod, as *corev1.Pod
}

// NewCronJobs shows what a lister lists. The workloads are CronJobs and Jobs, nil where there is none.
func NewCronJobs(pods listersv1.PodLister, workload func(foreign.Ref) metav1.Object) *CronJobs {
	return &CronJobs{PodLister: pods, workload: workload}
}

// List implements listersv1.PodLister.
func (c *CronJobs) List(selector labels.Selector) ([]*corev1.Pod, error) {
	all, err := c.PodLister.List(selector)
	next := map[types.UID]cronPod{}
	for i, pod := range all {
		if one, is := c.show(pod); is {
			all[i], next[pod.UID] = one.as, one
		}
	}
	c.shown = next
	return all, err //nolint:wrapcheck // upstream's own
}

// Labels are those that a pod is shown with.
func (c *CronJobs) Labels(pod *corev1.Pod) labels.Set {
	if one, is := c.show(pod); is {
		return one.as.Labels
	}
	return pod.Labels
}

// show shows a pod of a CronJob that needs it.
func (c *CronJobs) show(pod *corev1.Pod) (cronPod, bool) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || owner.Kind != "Job" {
		return cronPod{}, false
	}
	known := c.shown[pod.UID]
	name := known.cronJob // a Job may go before its pods
	if job := c.workload(foreign.Ref{Namespace: pod.Namespace, Kind: "Job", Name: owner.Name}); job != nil {
		name = ""
		if by := metav1.GetControllerOfNoCopy(job); by != nil && by.Kind == "CronJob" {
			name = by.Name
		}
	}
	if name == "" {
		return cronPod{}, false
	}
	if object, is := c.workload(foreign.Ref{Namespace: pod.Namespace, Kind: "CronJob", Name: name}).(*batchv1.CronJob); is && len(object.Spec.JobTemplate.Spec.Template.Labels) > 0 {
		return cronPod{}, false
	}
	if known.pod == pod && known.cronJob == name {
		return known, true
	}
	shown := *pod
	if shown.Labels = maps.Clone(pod.Labels); shown.Labels == nil {
		shown.Labels = map[string]string{}
	}
	shown.Labels[labelCronJob] = name
	return cronPod{name, pod, &shown}, true
}
