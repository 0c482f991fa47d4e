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

// TestSlimSizes: of pods, and of what workloads would run, stays what sizes them, and of Java what tells it.
func TestSlimSizes(t *testing.T) {
	probe := &corev1.Probe{PeriodSeconds: 10}
	bulky := func(name string, words ...string) corev1.Container {
		return corev1.Container{
			Name: name, Command: words, Args: []string{"serve"}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}}, EnvFrom: []corev1.EnvFromSource{{Prefix: "P"}}, VolumeMounts: []corev1.VolumeMount{{Name: "v"}},
			VolumeDevices: []corev1.VolumeDevice{{Name: "d"}}, Ports: []corev1.ContainerPort{{ContainerPort: 80}}, LivenessProbe: probe, ReadinessProbe: probe, StartupProbe: probe, Lifecycle: &corev1.Lifecycle{},
			SecurityContext: &corev1.SecurityContext{}, Image: "web:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
			ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}},
		}
	}
	bare := func(name string) corev1.Container {
		c := bulky(name)
		return corev1.Container{Name: name, Image: c.Image, Resources: c.Resources, ResizePolicy: c.ResizePolicy}
	}
	java := func(c corev1.Container) corev1.Container {
		c.Command, c.Args, c.Env = []string{"java"}, []string{"serve"}, []corev1.EnvVar{{Name: "A", Value: "b"}}
		return c
	}
	always, deadline := corev1.ContainerRestartPolicyAlways, int64(60)
	sidecar := func(c corev1.Container) corev1.Container {
		c.RestartPolicy = &always
		return c
	}
	rest := corev1.PodSpec{NodeName: "n", NodeSelector: map[string]string{"a": "b"}, PriorityClassName: "high", ActiveDeadlineSeconds: &deadline, Overhead: corev1.ResourceList{"cpu": resource.MustParse("1m")}}
	given, want := *rest.DeepCopy(), *rest.DeepCopy()
	given.Volumes, given.Affinity, given.Tolerations = []corev1.Volume{{Name: "v"}}, &corev1.Affinity{}, []corev1.Toleration{{Key: "k"}}
	given.TopologySpreadConstraints, given.EphemeralContainers = []corev1.TopologySpreadConstraint{{TopologyKey: "zone"}}, []corev1.EphemeralContainer{{}}
	given.Containers, given.InitContainers = []corev1.Container{bulky("web"), bulky("jvm", "java")}, []corev1.Container{sidecar(bulky("proxy"))}
	want.Containers, want.InitContainers = []corev1.Container{bare("web"), java(bare("jvm"))}, []corev1.Container{sidecar(bare("proxy"))}

	status := corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, Conditions: []corev1.PodCondition{{Type: corev1.PodResizePending}}, ContainerStatuses: []corev1.ContainerStatus{{Name: "web", RestartCount: 1}}}
	pod, err := rules.SlimPod(&corev1.Pod{Spec: *given.DeepCopy(), Status: status})
	if diff := cmp.Diff(&corev1.Pod{Spec: want, Status: status}, pod); diff != "" || err != nil {
		t.Errorf("a pod: %v\n%s", err, diff)
	}
	labels := metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "b"}}
	set, err := rules.SlimSizes(&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: corev1.PodTemplateSpec{ObjectMeta: labels, Spec: given}, VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{}}}, Status: appsv1.StatefulSetStatus{UpdateRevision: "1"}})
	if diff := cmp.Diff(&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: corev1.PodTemplateSpec{ObjectMeta: labels, Spec: want}}, Status: appsv1.StatefulSetStatus{UpdateRevision: "1"}}, set); diff != "" || err != nil {
		t.Errorf("a StatefulSet: %v\n%s", err, diff)
	}
}

// Who wrote what of a pod is most of it, and is not kept, but for what tells that it was resized.
func TestSlimPodResizes(t *testing.T) {
	entry := func(manager, subresource string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, FieldsV1: metav1.NewFieldsV1("{}")}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{entry("kube-controller-manager", ""), entry("kubelet", "status"), entry(rules.Resizer, "resize"), entry("kubectl", "resize"), entry(rules.Resizer, ""), {Manager: rules.Resizer, Subresource: "resize"}}}}
	for range 2 { // informers may ask twice
		if o, err := rules.SlimPod(pod); o != pod || err != nil || len(pod.ManagedFields) != 1 || pod.ManagedFields[0].Manager != rules.Resizer {
			t.Fatalf("%v, %v", pod.ManagedFields, err)
		}
	}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{entry("kubelet", "status")}
	if _, err := rules.SlimPod(pod); err != nil || pod.ManagedFields != nil {
		t.Errorf("%v, %v", pod.ManagedFields, err)
	}
	if o, err := rules.SlimPod("else"); o != "else" || err != nil {
		t.Errorf("%v, %v", o, err)
	}
}
