package rules_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/vpa/rules"
)

// TestSlim: of each kind that is watched, nothing stays of what it runs, and all that upstream and the matcher ask for.
func TestSlim(t *testing.T) {
	yes := true
	labels := map[string]string{"app": "web"}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	meta := func(annotations map[string]string, fields ...metav1.ManagedFieldsEntry) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "1", ResourceVersion: "2", Labels: labels, Annotations: annotations, ManagedFields: fields,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "App", Name: "web", UID: "3", Controller: &yes}},
		}
	}
	whole := func() metav1.ObjectMeta {
		return meta(map[string]string{"live.stormforge.io/auto-deploy": "Enabled", corev1.LastAppliedConfigAnnotation: "{}"}, metav1.ManagedFieldsEntry{Manager: "kubectl"})
	}
	left := meta(map[string]string{"live.stormforge.io/auto-deploy": "Enabled"})
	runs := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
	none := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}
	claims := []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	job := func(template corev1.PodTemplateSpec) batchv1.JobTemplateSpec {
		return batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}
	}
	bounds := corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypePod, Max: corev1.ResourceList{"cpu": resource.MustParse("1")}}}}
	for _, c := range []struct{ given, want runtime.Object }{
		{&appsv1.Deployment{ObjectMeta: whole(), Spec: appsv1.DeploymentSpec{Selector: selector, Template: runs}}, &appsv1.Deployment{ObjectMeta: left, Spec: appsv1.DeploymentSpec{Selector: selector, Template: none}}},
		{&appsv1.ReplicaSet{ObjectMeta: whole(), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: runs}}, &appsv1.ReplicaSet{ObjectMeta: left, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: none}}},
		{
			&appsv1.StatefulSet{ObjectMeta: whole(), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: runs, VolumeClaimTemplates: claims}},
			&appsv1.StatefulSet{ObjectMeta: left, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: none}},
		},
		{&appsv1.DaemonSet{ObjectMeta: whole(), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: runs}}, &appsv1.DaemonSet{ObjectMeta: left, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: none}}},
		{&batchv1.Job{ObjectMeta: whole(), Spec: batchv1.JobSpec{Selector: selector, Template: runs}}, &batchv1.Job{ObjectMeta: left, Spec: batchv1.JobSpec{Selector: selector, Template: none}}},
		{&batchv1.CronJob{ObjectMeta: whole(), Spec: batchv1.CronJobSpec{JobTemplate: job(runs)}}, &batchv1.CronJob{ObjectMeta: left, Spec: batchv1.CronJobSpec{JobTemplate: job(none)}}},
		{
			&corev1.ReplicationController{ObjectMeta: whole(), Spec: corev1.ReplicationControllerSpec{Selector: labels, Template: &runs}},
			&corev1.ReplicationController{ObjectMeta: left, Spec: corev1.ReplicationControllerSpec{Selector: labels, Template: &none}},
		},
		{&corev1.ReplicationController{ObjectMeta: whole()}, &corev1.ReplicationController{ObjectMeta: left}},
		{&corev1.Pod{ObjectMeta: whole(), Spec: runs.Spec}, &corev1.Pod{ObjectMeta: left, Spec: runs.Spec}},
		{&corev1.LimitRange{ObjectMeta: whole(), Spec: bounds}, &corev1.LimitRange{ObjectMeta: left, Spec: bounds}},
	} {
		got, err := rules.Slim(c.given.DeepCopyObject())
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%T: %v\n%s", c.given, err, diff)
		}
	}
	if got, err := rules.Slim(cache.DeletedFinalStateUnknown{Key: "shop/web"}); err != nil || got == nil {
		t.Errorf("what is no object: %v, %v", got, err)
	}
}
