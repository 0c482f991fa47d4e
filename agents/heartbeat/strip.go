package heartbeat

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// Strip makes of an object that arrived one that holds what internal/workload reads and no more. It builds anew instead of
// clearing fields, so that what a future Kubernetes adds is left out as well. Environment, arguments and volumes, where
// other people's credentials may be, never stay in memory.
func Strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return stripPod(o), nil
	case *appsv1.Deployment:
		return &appsv1.Deployment{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec: appsv1.DeploymentSpec{
				Replicas: o.Spec.Replicas, Selector: o.Spec.Selector, Template: stripTemplate(o.Spec.Template), Paused: o.Spec.Paused,
				Strategy: appsv1.DeploymentStrategy{Type: o.Spec.Strategy.Type},
			},
			Status: o.Status,
		}, nil
	case *appsv1.DaemonSet:
		return &appsv1.DaemonSet{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec: appsv1.DaemonSetSpec{
				Selector: o.Spec.Selector, Template: stripTemplate(o.Spec.Template),
				UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: o.Spec.UpdateStrategy.Type},
			},
			Status: o.Status,
		}, nil
	case *appsv1.StatefulSet:
		return &appsv1.StatefulSet{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec: appsv1.StatefulSetSpec{
				Replicas: o.Spec.Replicas, Selector: o.Spec.Selector, Template: stripTemplate(o.Spec.Template),
				UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: o.Spec.UpdateStrategy.Type, RollingUpdate: o.Spec.UpdateStrategy.RollingUpdate},
			},
			Status: o.Status,
		}, nil
	case *batchv1.CronJob:
		return &batchv1.CronJob{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec: batchv1.CronJobSpec{
				Schedule: o.Spec.Schedule, Suspend: o.Spec.Suspend,
				JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: stripTemplate(o.Spec.JobTemplate.Spec.Template)}},
			},
			Status: o.Status,
		}, nil
	case *batchv1.Job:
		return &batchv1.Job{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec:       batchv1.JobSpec{Parallelism: o.Spec.Parallelism, Completions: o.Spec.Completions, Suspend: o.Spec.Suspend},
			Status: batchv1.JobStatus{
				Conditions: o.Status.Conditions, StartTime: o.Status.StartTime, CompletionTime: o.Status.CompletionTime,
				Active: o.Status.Active, Succeeded: o.Status.Succeeded, Failed: o.Status.Failed,
			},
		}, nil
	case cache.DeletedFinalStateUnknown:
		return o, nil
	}
	return nil, fmt.Errorf("no idea how to strip a %T", obj)
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation, Labels: m.Labels,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, OwnerReferences: m.OwnerReferences,
	}
}

func stripTemplate(t corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: t.Spec.RestartPolicy, InitContainers: stripContainers(t.Spec.InitContainers), Containers: stripContainers(t.Spec.Containers),
	}}
}

func stripContainers(cs []corev1.Container) []corev1.Container {
	if len(cs) == 0 {
		return nil
	}
	out := make([]corev1.Container, len(cs))
	for i, c := range cs {
		out[i] = corev1.Container{Name: c.Name, Image: c.Image}
	}
	return out
}

func stripPod(p *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: stripMeta(p.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, RestartPolicy: p.Spec.RestartPolicy,
			InitContainers: stripContainers(p.Spec.InitContainers), Containers: stripContainers(p.Spec.Containers),
		},
		Status: corev1.PodStatus{
			Phase: p.Status.Phase, Reason: p.Status.Reason, Message: p.Status.Message, StartTime: p.Status.StartTime, Conditions: p.Status.Conditions,
			InitContainerStatuses: stripStatuses(p.Status.InitContainerStatuses), ContainerStatuses: stripStatuses(p.Status.ContainerStatuses),
		},
	}
}

func stripStatuses(cs []corev1.ContainerStatus) []corev1.ContainerStatus {
	if len(cs) == 0 {
		return nil
	}
	out := make([]corev1.ContainerStatus, len(cs))
	for i, c := range cs {
		out[i] = corev1.ContainerStatus{
			Name: c.Name, State: stripState(c.State), LastTerminationState: stripState(c.LastTerminationState),
			Ready: c.Ready, RestartCount: c.RestartCount, Image: c.Image, ImageID: c.ImageID, Started: c.Started,
		}
	}
	return out
}

// stripState leaves out what a container wrote about its own end: it may be the tail of its log. Where the runtime could not
// even start it, the words are the runtime's and tell why.
func stripState(s corev1.ContainerState) corev1.ContainerState {
	if t := s.Terminated; t != nil {
		kept := &corev1.ContainerStateTerminated{ExitCode: t.ExitCode, Signal: t.Signal, Reason: t.Reason, StartedAt: t.StartedAt, FinishedAt: t.FinishedAt}
		if strings.HasPrefix(t.Reason, "StartError") || t.Reason == "ContainerCannotRun" {
			kept.Message = t.Message
		}
		s.Terminated = kept
	}
	return s
}
