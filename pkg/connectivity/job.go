package connectivity

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
)

// Names of the objects the probe looks at and makes.
const (
	heartbeatName = "nops-heartbeat"
	vmagentName   = "nops-vmagent"
	JobPrefix     = "nops-connectivity-test-"
	component     = "connectivity-test"
)

// JobProber runs the heartbeat's image as a Job: same environment, identity and placement, so that what holds for the probe
// holds for the agent.
type JobProber struct {
	Client    kubernetes.Interface
	Namespace string
	// StartTimeout bounds the wait for the pod to run; zero means 60 s. RunTimeout bounds the probe; zero means two minutes.
	StartTimeout, RunTimeout time.Duration
	Poll                     time.Duration                                    // zero means half a second
	Sleep                    func(ctx context.Context, d time.Duration) error // nil means a timer
	Now                      func() time.Time                                 // nil means time.Now
	Logs                     func(ctx context.Context, pod, container string) ([]byte, error)
}

var _ Prober = (*JobProber)(nil)

const (
	cleanupTimeout = 20 * time.Second
	maxLog         = 1 << 20
)

// Probe implements Prober.
func (p *JobProber) Probe(ctx context.Context, r ProbeRequest) (ProbeResult, error) {
	p.defaults()
	heartbeat, err := p.Client.AppsV1().Deployments(p.Namespace).Get(ctx, heartbeatName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ProbeResult{}, &ProbeError{Reason: fmt.Sprintf("there is no Deployment %s/%s", p.Namespace, heartbeatName), Advice: "install the stack first: nopsctl install"}
	}
	if err != nil {
		return ProbeResult{}, fmt.Errorf("read Deployment %s/%s: %w", p.Namespace, heartbeatName, err)
	}
	address, insights, err := p.remoteWrite(ctx)
	if err != nil {
		return ProbeResult{}, err
	}
	job, err := probeJob(heartbeat, jobName(), r, address)
	if err != nil {
		return ProbeResult{}, err
	}
	// Whatever happens from here on, also when the answer to the creation is lost: the Job goes.
	defer p.cleanup(ctx, job.Name)
	if _, err := p.Client.BatchV1().Jobs(p.Namespace).Create(ctx, job, metav1.CreateOptions{}); err != nil {
		return ProbeResult{}, fmt.Errorf("create Job %s/%s: %w", p.Namespace, job.Name, err)
	}
	pod, err := p.await(ctx, job.Name)
	if err != nil {
		return ProbeResult{}, err
	}
	log, err := p.Logs(ctx, pod.Name, job.Spec.Template.Spec.Containers[0].Name)
	if err != nil {
		return ProbeResult{}, fmt.Errorf("read the log of Pod %s/%s: %w", p.Namespace, pod.Name, err)
	}
	report, err := parseReport(log)
	if err != nil {
		return ProbeResult{}, &ProbeError{
			Reason: fmt.Sprintf("the probe in Pod %s/%s ended (%s) without a report: %s", p.Namespace, pod.Name, pod.Status.Phase, lastLine(log)),
			Advice: "the heartbeat image may be older than this nopsctl: nopsctl install upgrades it",
		}
	}
	return ProbeResult{Report: report, Insights: insights}, nil
}

func (p *JobProber) defaults() {
	if p.StartTimeout <= 0 {
		p.StartTimeout = time.Minute
	}
	if p.RunTimeout <= 0 {
		p.RunTimeout = 2 * time.Minute
	}
	if p.Poll <= 0 {
		p.Poll = 500 * time.Millisecond
	}
	if p.Sleep == nil {
		p.Sleep = sleep
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Logs == nil {
		p.Logs = p.logs
	}
}

// jobName tells runs apart, also two of one test.
func jobName() string {
	raw := make([]byte, 4)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	return JobPrefix + hex.EncodeToString(raw)
}

// remoteWrite reads from the live vmagent where samples go. Without a vmagent container insights is off.
func (p *JobProber) remoteWrite(ctx context.Context) (address string, insights bool, err error) {
	d, err := p.Client.AppsV1().Deployments(p.Namespace).Get(ctx, vmagentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read Deployment %s/%s: %w", p.Namespace, vmagentName, err)
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		for i, a := range c.Args {
			name, value, joined := strings.Cut(strings.TrimLeft(a, "-"), "=")
			if name != "remoteWrite.url" {
				continue
			}
			if !joined && i+1 < len(c.Args) {
				value = c.Args[i+1]
			}
			return expand(value, c.Env), true, nil
		}
	}
	return "", true, nil
}

// expand replaces $(NAME) as the kubelet does, as far as the value stands in the environment.
func expand(s string, env []corev1.EnvVar) string {
	for _, e := range env {
		if e.Value != "" {
			s = strings.ReplaceAll(s, "$("+e.Name+")", e.Value)
		}
	}
	return s
}

// probeJob copies what makes the heartbeat what it is, and nothing that selects or counts it: its labels differ, so that no
// Service sends it traffic and no Deployment adopts it.
func probeJob(heartbeat *appsv1.Deployment, name string, r ProbeRequest, remoteWrite string) (*batchv1.Job, error) {
	template := heartbeat.Spec.Template.Spec
	if len(template.Containers) == 0 {
		return nil, fmt.Errorf("Deployment %s/%s has no container", heartbeat.Namespace, heartbeat.Name)
	}
	container := template.Containers[0]
	for _, c := range template.Containers {
		if c.Name == "heartbeat" {
			container = c
		}
	}
	args := []string{"probe"}
	if r.TestID != "" {
		args = append(args, "--test-id="+r.TestID, "--nonce="+r.Nonce)
	}
	if remoteWrite != "" {
		args = append(args, "--amp-url="+remoteWrite)
	}
	own := map[string]string{
		"app.kubernetes.io/name": component, "app.kubernetes.io/component": component,
		"app.kubernetes.io/part-of": "nops-kubernetes-agent", "app.kubernetes.io/managed-by": "nopsctl",
	}
	none, ttl, deadline := int32(0), int32(300), int64(300)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: heartbeat.Namespace, Labels: own},
		Spec: batchv1.JobSpec{
			BackoffLimit: &none, TTLSecondsAfterFinished: &ttl, ActiveDeadlineSeconds: &deadline,
			Template: corev1.PodTemplateSpec{
				// A service mesh's sidecar would keep the Job from ending; annotations are copied all the same, because they
				// may be what lets a pod out.
				ObjectMeta: metav1.ObjectMeta{Labels: own, Annotations: heartbeat.Spec.Template.Annotations},
				Spec: corev1.PodSpec{
					RestartPolicy:                corev1.RestartPolicyNever,
					ServiceAccountName:           template.ServiceAccountName,
					AutomountServiceAccountToken: template.AutomountServiceAccountToken,
					ImagePullSecrets:             template.ImagePullSecrets,
					SecurityContext:              template.SecurityContext,
					NodeSelector:                 template.NodeSelector,
					Tolerations:                  template.Tolerations,
					Affinity:                     template.Affinity,
					PriorityClassName:            template.PriorityClassName,
					DNSPolicy:                    template.DNSPolicy,
					DNSConfig:                    template.DNSConfig,
					HostAliases:                  template.HostAliases,
					Volumes:                      template.Volumes,
					Containers: []corev1.Container{{
						Name: "probe", Image: container.Image, ImagePullPolicy: container.ImagePullPolicy, Command: container.Command, Args: args,
						Env: container.Env, EnvFrom: container.EnvFrom, VolumeMounts: container.VolumeMounts, Resources: container.Resources,
						SecurityContext: container.SecurityContext,
					}},
				},
			},
		},
	}, nil
}

// await waits until the Job's pod has ended.
func (p *JobProber) await(ctx context.Context, job string) (*corev1.Pod, error) {
	start := p.Now()
	selector := labels.Set{batchv1.JobNameLabel: job}.String()
	for {
		pods, err := p.Client.CoreV1().Pods(p.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, fmt.Errorf("list the pods of Job %s/%s: %w", p.Namespace, job, err)
		}
		waited := p.Now().Sub(start)
		switch pod := newest(pods.Items); {
		case pod == nil:
			if waited > p.StartTimeout/2 {
				return nil, &ProbeError{Reason: fmt.Sprintf("no pod was made for Job %s/%s within %s%s", p.Namespace, job, waited.Round(time.Second), p.refused(ctx, job))}
			}
		case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
			return pod, nil
		case pod.Status.Phase == corev1.PodPending && waited > p.StartTimeout:
			return nil, &ProbeError{Reason: fmt.Sprintf("Pod %s/%s did not start within %s%s", p.Namespace, pod.Name, waited.Round(time.Second), why(pod))}
		case waited > p.StartTimeout+p.RunTimeout:
			return nil, &ProbeError{Reason: fmt.Sprintf("the probe in Pod %s/%s did not end within %s", p.Namespace, pod.Name, waited.Round(time.Second))}
		}
		if err := p.Sleep(ctx, p.Poll); err != nil {
			return nil, err
		}
	}
}

func newest(pods []corev1.Pod) *corev1.Pod {
	var found *corev1.Pod
	for i := range pods {
		if found == nil || found.CreationTimestamp.Before(&pods[i].CreationTimestamp) {
			found = &pods[i]
		}
	}
	return found
}

func why(pod *corev1.Pod) string {
	reason, message := workload.Pod(pod)
	switch {
	case reason != "" && message != "":
		return ": " + reason + ": " + message
	case reason != "":
		return ": " + reason
	}
	return ""
}

// refused finds what the Job controller was told when it made no pod: quota, Pod Security, a webhook.
func (p *JobProber) refused(ctx context.Context, job string) string {
	events, err := p.Client.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Job,involvedObject.name=" + job})
	if err != nil {
		return ""
	}
	for i := len(events.Items) - 1; i >= 0; i-- {
		if e := events.Items[i]; e.Type == corev1.EventTypeWarning {
			return ": " + e.Reason + ": " + e.Message
		}
	}
	return ""
}

func (p *JobProber) logs(ctx context.Context, pod, container string) ([]byte, error) {
	stream, err := p.Client.CoreV1().Pods(p.Namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).Stream(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the pod
	}
	defer stream.Close()
	return io.ReadAll(io.LimitReader(stream, maxLog))
}

// cleanup removes the Job and its pods, whatever became of ctx. What it cannot remove, the Job's own time limit does.
func (p *JobProber) cleanup(ctx context.Context, job string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	background := metav1.DeletePropagationBackground
	for {
		err := p.Client.BatchV1().Jobs(p.Namespace).Delete(ctx, job, metav1.DeleteOptions{PropagationPolicy: &background})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || p.Sleep(ctx, p.Poll) != nil {
			return
		}
	}
}

// parseReport finds the report among the lines of a log, which also holds what the probe wrote to stderr.
func parseReport(log []byte) (probe.Report, error) {
	lines := bytes.Split(log, []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		line := bytes.TrimSpace(lines[i])
		if !bytes.HasPrefix(line, []byte("{")) {
			continue
		}
		var r probe.Report
		if json.Unmarshal(line, &r) == nil && r.SchemaVersion > 0 && r.Results != nil {
			return r, nil
		}
	}
	return probe.Report{}, errors.New("no report")
}

func lastLine(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return "its log is empty"
	}
	if len(last) > 300 {
		last = last[:300] + "…"
	}
	return last
}
