package recommender

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestBare: of every kind that upstream's caches of workloads hold, containers are left out, and what is asked of them stays.
func TestBare(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"mark": "of another"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}, OwnerReferences: []metav1.OwnerReference{{Name: "owner"}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	template := func() corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}}
	}
	t1, rc := template(), template()
	for name, object := range map[string]runtime.Object{
		"Deployment":            &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: t1}},
		"ReplicaSet":            &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: t1}},
		"StatefulSet":           &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: t1}},
		"DaemonSet":             &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: t1}},
		"Job":                   &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Selector: selector, Template: t1}},
		"CronJob":               &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Selector: selector, Template: t1}}}},
		"ReplicationController": &corev1.ReplicationController{ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Selector: selector.MatchLabels, Template: &rc}},
		"RC without a template": &corev1.ReplicationController{ObjectMeta: meta},
		"Pod, which is none":    &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bare(object)
			if err != nil {
				t.Fatal(err)
			}
			fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(got)
			if err != nil {
				t.Fatal(err)
			}
			stays, containers := map[string]bool{}, 0
			var walk func(path string, v any)
			walk = func(path string, v any) {
				switch v := v.(type) {
				case map[string]any:
					for k, inner := range v {
						walk(path+"/"+k, inner)
					}
				case []any:
					if path[max(0, len(path)-len("/containers")):] == "/containers" {
						containers += len(v)
					}
					stays[path] = true
				default:
					stays[path] = true
				}
			}
			walk("", fields)
			if _, is := object.(*corev1.Pod); !is && containers != 0 || is && containers != 1 {
				t.Errorf("%d containers", containers)
			}
			if !stays["/metadata/annotations/mark"] || !stays["/metadata/ownerReferences"] || stays["/metadata/managedFields"] {
				t.Errorf("there are %v", stays)
			}
			switch o := got.(type) {
			case *corev1.Pod:
			case *batchv1.CronJob:
				if o.Spec.JobTemplate.Spec.Template.Labels["app"] != "web" {
					t.Error("the labels of its pods are gone")
				}
			case *corev1.ReplicationController:
			default:
				if !stays["/spec/selector/matchLabels/app"] || !stays["/spec/template/metadata/labels/app"] {
					t.Errorf("there are %v", stays)
				}
			}
		})
	}
}
