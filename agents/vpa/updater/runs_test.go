package updater_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nopsctl/nopsctl/agents/vpa/updater"
	"github.com/nopsctl/nopsctl/agents/vpa/vpatest"
	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// TestRunsWithoutLabels: a run of a CronJob whose template has no labels is resized like any other.
func TestRunsWithoutLabels(t *testing.T) {
	w := &world{Cluster: vpatest.New(t, vpatest.Options{}), t: t}
	node, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Capacity, node.Status.Allocatable = list("64,256Gi"), list("64,256Gi")
	if _, err := w.Client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	go w.kubelets(t.Context())
	defer w.start(updater.Options{Patience: 3 * time.Second})()
	p := w.place(t, 1)
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: list("1,1Gi")}}}}}
	cron, err := w.Client.BatchV1().CronJobs(p.ns).Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	job, err := w.Client.BatchV1().Jobs(p.ns).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "web", UID: cron.UID, Controller: &yes}}}, Spec: batchv1.JobSpec{Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.pod("r", "1,1Gi", "", func(pod *corev1.Pod) {
		pod.Labels, pod.Spec.RestartPolicy = job.Spec.Template.Labels, corev1.RestartPolicyNever
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID, Controller: &yes}}
	})
	p.autoscalerOf("batch/v1", "CronJob", inPlace, settings(""), "500m,512Mi")
	vpatest.Eventually(t, "it is resized", soon, func() bool { return p.requests("r") == "500m,512Mi" })
	if a := p.becomes(rightsizing.StateApplied, ""); a.InPlace != 1 {
		t.Errorf("%+v", a)
	}
}
