package cli

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// requests are what the pods of a workload request, and what its template does.
type requests struct {
	template   *corev1.PodSpec // nil: there is no such workload, or its template was not read
	missing    bool            // its kind was read, and it is not there
	foreign    bool            // its kind is one whose templates are not read here
	seen       bool            // its pods could be read
	pods       int
	sized      int // of them: with other requests or limits than their template's
	containers map[string]*containerRequests
}

// containerRequests are those of one container, over all pods.
type containerRequests struct {
	pods              int
	least, most, sums amounts
}

// sizedAnnotation is what the webhook of a VPA leaves on a pod that it sized.
const sizedAnnotation = "vpaUpdates"

// usage reads the pods and templates of workloads that have an autoscaler. It goes through them page by page: clusters have many.
func (v *vpaSession) usage(ctx context.Context, namespace string, autoscalers []autoscaler, problems *[]string) map[target]*requests {
	all, changed := map[target]*requests{}, map[target]bool{}
	for i := range autoscalers {
		t := autoscalers[i].target()
		all[t] = &requests{containers: map[string]*containerRequests{}}
		changed[t] = changed[t] || !autoscalers[i].Status.Application.LastChange.IsZero()
	}
	note := func(what string, err error) {
		if err != nil {
			*problems = append(*problems, "what "+what+" request is not known: "+oneLine(unreachable("list them", err)))
		}
	}
	read := v.templates(ctx, namespace, func(t target, spec *corev1.PodSpec) {
		if r := all[t]; r != nil {
			r.template = spec
		}
	})
	for _, kind := range slices.Sorted(maps.Keys(read)) {
		note("templates of "+kind+"s", read[kind])
	}
	for t, r := range all {
		err, is := read[t.Kind]
		r.missing, r.foreign = is && err == nil && r.template == nil, !is
	}
	options := metav1.ListOptions{Limit: page}
	for {
		pods, err := v.client.CoreV1().Pods(namespace).List(ctx, options)
		if err != nil {
			note("pods", err)
			return all
		}
		for i := range pods.Items {
			if t, is := ownerOf(&pods.Items[i]); is && all[t] != nil {
				all[t].add(&pods.Items[i], changed[t])
			}
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			break
		}
	}
	for _, r := range all {
		r.seen = true
	}
	return all
}

// templates reads what pods are made from, and says of each kind whether it could be read: people may be allowed to read some.
func (v *vpaSession) templates(ctx context.Context, namespace string, each func(target, *corev1.PodSpec)) map[string]error {
	apps := v.client.AppsV1()
	read := map[string]error{}
	for kind, list := range map[string]func(metav1.ListOptions) (string, error){
		"Deployment": func(o metav1.ListOptions) (string, error) {
			list, err := apps.Deployments(namespace).List(ctx, o)
			if err != nil {
				return "", err
			}
			for i := range list.Items {
				each(target{list.Items[i].Namespace, "Deployment", list.Items[i].Name}, &list.Items[i].Spec.Template.Spec)
			}
			return list.Continue, nil
		},
		"StatefulSet": func(o metav1.ListOptions) (string, error) {
			list, err := apps.StatefulSets(namespace).List(ctx, o)
			if err != nil {
				return "", err
			}
			for i := range list.Items {
				each(target{list.Items[i].Namespace, "StatefulSet", list.Items[i].Name}, &list.Items[i].Spec.Template.Spec)
			}
			return list.Continue, nil
		},
		"DaemonSet": func(o metav1.ListOptions) (string, error) {
			list, err := apps.DaemonSets(namespace).List(ctx, o)
			if err != nil {
				return "", err
			}
			for i := range list.Items {
				each(target{list.Items[i].Namespace, "DaemonSet", list.Items[i].Name}, &list.Items[i].Spec.Template.Spec)
			}
			return list.Continue, nil
		},
		"CronJob": func(o metav1.ListOptions) (string, error) {
			list, err := v.client.BatchV1().CronJobs(namespace).List(ctx, o)
			if err != nil {
				return "", err
			}
			for i := range list.Items {
				each(target{list.Items[i].Namespace, "CronJob", list.Items[i].Name}, &list.Items[i].Spec.JobTemplate.Spec.Template.Spec)
			}
			return list.Continue, nil
		},
	} {
		options := metav1.ListOptions{Limit: page}
		for {
			next, err := list(options)
			if apierrors.IsNotFound(err) {
				err = nil
			}
			read[kind] = err
			if options.Continue = next; next == "" {
				break
			}
		}
	}
	return read
}

// scheduled is the name of a CronJob's Job: the minute is at its end.
var scheduled = regexp.MustCompile(`^(.+)-\d{6,}$`)

// ownerOf is the workload of a pod. ReplicaSets and Jobs are named after who made them, so nobody needs to read those.
func ownerOf(p *corev1.Pod) (target, bool) {
	o := metav1.GetControllerOf(p)
	if o == nil {
		return target{}, false
	}
	switch hash := p.Labels["pod-template-hash"]; {
	case o.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(o.Name, "-"+hash):
		return target{p.Namespace, "Deployment", strings.TrimSuffix(o.Name, "-"+hash)}, true
	case o.Kind == "Job" && scheduled.MatchString(o.Name):
		return target{p.Namespace, "CronJob", scheduled.FindStringSubmatch(o.Name)[1]}, true
	}
	return target{p.Namespace, o.Kind, o.Name}, true
}

// lasting are the containers that run as long as the pod, sidecars included.
func lasting(spec *corev1.PodSpec) (all []*corev1.Container) {
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	for i := range spec.Containers {
		all = append(all, &spec.Containers[i])
	}
	return all
}

// add counts a pod, unless it has ended or is about to. changed says that pods of its workload were changed while they ran.
func (r *requests) add(p *corev1.Pod, changed bool) {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return
	}
	r.pods++
	made := map[string]*corev1.Container{}
	if r.template != nil {
		for _, c := range lasting(r.template) {
			made[c.Name] = c
		}
	}
	sized := false
	for _, c := range lasting(&p.Spec) {
		one := r.containers[c.Name]
		if one == nil {
			one = &containerRequests{least: requested(c), most: requested(c)}
			r.containers[c.Name] = one
		}
		one.pods++
		for i, n := range requested(c) {
			one.least[i], one.most[i] = min(one.least[i], n), max(one.most[i], n)
			one.sums[i] += max(0, n)
		}
		if from := made[c.Name]; from != nil {
			sized = sized || requested(from) != requested(c) || limited(from) != limited(c)
		}
	}
	// A LimitRange or another webhook may have changed a pod, too: without a trace of the VPA it was not the VPA.
	if sized && (changed || p.Annotations[sizedAnnotation] != "") {
		r.sized++
	}
}
