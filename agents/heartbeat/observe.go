package heartbeat

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nopsctl/nopsctl/internal/workload"
)

// objects is what is in the cluster.
type objects struct {
	deployments  []*appsv1.Deployment
	daemonSets   []*appsv1.DaemonSet
	statefulSets []*appsv1.StatefulSet
	cronJobs     []*batchv1.CronJob
	jobs         []*batchv1.Job
	pods         []*corev1.Pod
}

// summarise says how every workload does, sorted. Two calls on equal objects give equal results whatever their order.
func summarise(o objects) []workload.Summary {
	pods := map[string][]corev1.Pod{}
	for _, p := range o.pods {
		c := p.Labels[workload.ComponentLabel]
		pods[c] = append(pods[c], *p)
	}
	// The order of equal pods decides nothing in workload, but nobody promises that.
	for _, group := range pods {
		slices.SortFunc(group, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	}
	of := func(labels map[string]string) []corev1.Pod { return pods[labels[workload.ComponentLabel]] }
	jobs := make([]batchv1.Job, 0, len(o.jobs))
	for _, j := range o.jobs {
		jobs = append(jobs, *j)
	}

	var all []workload.Summary
	for _, d := range o.deployments {
		all = append(all, workload.Deployment(d, of(d.Labels)))
	}
	for _, d := range o.daemonSets {
		all = append(all, workload.DaemonSet(d, of(d.Labels)))
	}
	for _, s := range o.statefulSets {
		all = append(all, workload.StatefulSet(s, of(s.Labels)))
	}
	for _, c := range o.cronJobs {
		all = append(all, workload.CronJob(c, jobs))
	}
	slices.SortFunc(all, func(a, b workload.Summary) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return all
}
