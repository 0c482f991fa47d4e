package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
)

func heartbeat() *appsv1.Deployment {
	no := false
	user := int64(65534)
	labels := map[string]string{"app.kubernetes.io/name": "heartbeat", "app.kubernetes.io/instance": "nops-kubernetes-agent", "app.kubernetes.io/component": "heartbeat"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-heartbeat", Namespace: "nops", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"team": "sre"}},
				Spec: corev1.PodSpec{
					ServiceAccountName: "nops-heartbeat", AutomountServiceAccountToken: &no, NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
					Volumes: []corev1.Volume{{Name: "ca"}}, SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user},
					Containers: []corev1.Container{{
						Name: "heartbeat", Image: "public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0", Args: []string{"run"},
						Env:            []corev1.EnvVar{{Name: "NOPS_API_KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "API_KEY"}}}},
						VolumeMounts:   []corev1.VolumeMount{{Name: "ca", MountPath: "/ca"}},
						LivenessProbe:  &corev1.Probe{},
						ReadinessProbe: &corev1.Probe{},
						Ports:          []corev1.ContainerPort{{ContainerPort: 8080}},
					}},
				},
			},
		},
	}
}

func vmagentDeployment(args ...string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "nops-vmagent", Namespace: "nops"}, Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "vmagent", Args: args, Env: []corev1.EnvVar{{Name: "REGION", Value: "eu-west-1"}}}},
	}}}}
}

// kubelet makes a pod for every Job, as the Job controller and a kubelet do.
func kubelet(client *fake.Clientset, pod func(*corev1.Pod)) {
	client.PrependReactor("create", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		job, _ := a.(k8stesting.CreateAction).GetObject().(*batchv1.Job)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: job.Name + "-x", Namespace: job.Namespace, Labels: map[string]string{batchv1.JobNameLabel: job.Name}}, Spec: job.Spec.Template.Spec}
		pod(p)
		return false, nil, client.Tracker().Add(p)
	})
}

func report(t *testing.T) string {
	t.Helper()
	data, err := json.Marshal(probe.Report{SchemaVersion: 1, AgentVersion: "0.1.0", Results: []probe.Result{}})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func phase(p corev1.PodPhase) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Status.Phase = p }
}

func prober(client *fake.Clientset, log string) *JobProber {
	c := &clock{now: start()}
	return &JobProber{
		Client: client, Namespace: "nops", Now: c.Now, Sleep: c.Sleep,
		Logs: func(context.Context, string, string) ([]byte, error) { return []byte(log), nil },
	}
}

func jobs(t *testing.T, client *fake.Clientset) int {
	t.Helper()
	list, err := client.BatchV1().Jobs("nops").List(context.WithoutCancel(t.Context()), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

func TestJobProber(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		objects      []runtime.Object
		pod          func(*corev1.Pod)
		log          string
		want         string // of the error; empty: none
		insights     bool
	}{
		{name: "reports", reason: "the line of JSON among others is the report", objects: []runtime.Object{heartbeat(), vmagentDeployment("-remoteWrite.url=https://amp")}, pod: phase(corev1.PodSucceeded), log: "warming up\nREPORT\n{\"level\":\"info\"}\n", insights: true},
		{name: "without vmagent", reason: "container insights is off", objects: []runtime.Object{heartbeat()}, pod: phase(corev1.PodSucceeded), log: "REPORT"},
		{name: "not installed", reason: "says so", want: "there is no Deployment nops/nops-heartbeat"},
		{name: "image cannot be pulled", reason: "the kubelet's reason", objects: []runtime.Object{heartbeat()}, pod: func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "probe", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}}}}
		}, want: "ImagePullBackOff"},
		{name: "never ends", reason: "bounded", objects: []runtime.Object{heartbeat()}, pod: phase(corev1.PodRunning), want: "did not end within"},
		{name: "no report", reason: "an older image does not know the subcommand", objects: []runtime.Object{heartbeat()}, pod: phase(corev1.PodFailed), log: `unknown command "probe"`, want: `without a report: unknown command "probe"`},
		{name: "foreign JSON", reason: "JSON alone is no report", objects: []runtime.Object{heartbeat()}, pod: phase(corev1.PodSucceeded), log: `{"level":"info"}`, want: "without a report"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(tt.objects...)
			if tt.pod != nil {
				kubelet(client, tt.pod)
			}
			got, err := prober(client, strings.ReplaceAll(tt.log, "REPORT", report(t))).Probe(t.Context(), ProbeRequest{TestID: "test-1", Nonce: "n"})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%v: %s", err, tt.reason)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q: %s", err, tt.want, tt.reason)
			case tt.want == "" && (got.Report.AgentVersion != "0.1.0" || got.Insights != tt.insights):
				t.Errorf("got %+v", got)
			}
			if n := jobs(t, client); n != 0 {
				t.Errorf("%d Jobs were left", n)
			}
		})
	}
}

// TestJobWithoutPod: quota or Pod Security keep the Job controller from making one; the event says which.
func TestJobWithoutPod(t *testing.T) {
	client := fake.NewClientset(heartbeat(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "nops"}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "exceeded quota"})
	_, err := prober(client, "").Probe(t.Context(), ProbeRequest{})
	if err == nil || !strings.Contains(err.Error(), "FailedCreate: exceeded quota") {
		t.Errorf("%v", err)
	}
	if n := jobs(t, client); n != 0 {
		t.Errorf("%d Jobs were left", n)
	}
}

// TestJobIsRemovedOnCancel: Ctrl-C while the probe runs leaves nothing.
func TestJobIsRemovedOnCancel(t *testing.T) {
	client := fake.NewClientset(heartbeat())
	kubelet(client, phase(corev1.PodRunning))
	ctx, cancel := context.WithCancel(t.Context())
	p := prober(client, "")
	slept := 0
	p.Sleep = func(ctx context.Context, _ time.Duration) error {
		if slept++; slept == 3 {
			cancel()
		}
		return ctx.Err()
	}
	if _, err := p.Probe(ctx, ProbeRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := jobs(t, client); n != 0 {
		t.Errorf("%d Jobs were left", n)
	}
}

// TestJobIsRemovedThough the API server stumbles over the first deletion.
func TestJobIsRemovedThough(t *testing.T) {
	client := fake.NewClientset(heartbeat())
	kubelet(client, phase(corev1.PodSucceeded))
	failures := 2
	client.PrependReactor("delete", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
		if failures--; failures >= 0 {
			return true, nil, apierrors.NewInternalError(errors.New("etcd"))
		}
		return false, nil, nil
	})
	if _, err := prober(client, report(t)).Probe(t.Context(), ProbeRequest{}); err != nil {
		t.Error(err)
	}
	if n := jobs(t, client); n != 0 {
		t.Errorf("%d Jobs were left", n)
	}
}

func TestJobIsRefused(t *testing.T) {
	client := fake.NewClientset(heartbeat())
	client.PrependReactor("create", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "x", errors.New("no"))
	})
	_, err := prober(client, "").Probe(t.Context(), ProbeRequest{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("%v", err)
	}
}

func TestProbeJob(t *testing.T) {
	h := heartbeat()
	job, err := probeJob(h, "nops-connectivity-test-1", ProbeRequest{TestID: "test-1", Nonce: "n0nce"}, "https://amp/api/v1/remote_write")
	if err != nil {
		t.Fatal(err)
	}
	spec, c := job.Spec.Template.Spec, job.Spec.Template.Spec.Containers[0]
	want := h.Spec.Template.Spec
	if diff := cmp.Diff([]string{"probe", "--test-id=test-1", "--nonce=n0nce", "--amp-url=https://amp/api/v1/remote_write"}, c.Args); diff != "" {
		t.Error(diff)
	}
	for name, same := range map[string]bool{
		"image": c.Image == want.Containers[0].Image, "env": cmp.Equal(c.Env, want.Containers[0].Env), "mounts": cmp.Equal(c.VolumeMounts, want.Containers[0].VolumeMounts),
		"service account": spec.ServiceAccountName == want.ServiceAccountName, "node selector": cmp.Equal(spec.NodeSelector, want.NodeSelector), "tolerations": cmp.Equal(spec.Tolerations, want.Tolerations),
		"volumes": cmp.Equal(spec.Volumes, want.Volumes), "pull secrets": cmp.Equal(spec.ImagePullSecrets, want.ImagePullSecrets), "security": cmp.Equal(spec.SecurityContext, want.SecurityContext),
		"annotations": cmp.Equal(job.Spec.Template.Annotations, h.Spec.Template.Annotations),
	} {
		if !same {
			t.Errorf("%s differs from the heartbeat's: the probe would prove something else", name)
		}
	}
	if c.LivenessProbe != nil || c.ReadinessProbe != nil || len(c.Ports) != 0 || spec.RestartPolicy != corev1.RestartPolicyNever || *job.Spec.BackoffLimit != 0 || job.Spec.TTLSecondsAfterFinished == nil || job.Spec.ActiveDeadlineSeconds == nil {
		t.Errorf("not the shape of a probe: %+v", job.Spec)
	}
	selector, err := metav1.LabelSelectorAsSelector(h.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	for _, labels := range []map[string]string{job.Labels, job.Spec.Template.Labels} {
		if selector.Matches(set(labels)) || labels["app.kubernetes.io/managed-by"] != "nopsctl" {
			t.Errorf("labels %v: a Deployment would adopt the pod, or uninstall would not find it", labels)
		}
	}
}

type set map[string]string

func (s set) Has(k string) bool              { _, ok := s[k]; return ok }
func (s set) Get(k string) string            { return s[k] }
func (s set) Lookup(k string) (string, bool) { v, ok := s[k]; return v, ok }

func TestRemoteWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"joined":      {[]string{"-x", "-remoteWrite.url=https://a/b"}, "https://a/b"},
		"two dashes":  {[]string{"--remoteWrite.url=https://a/b"}, "https://a/b"},
		"separate":    {[]string{"-remoteWrite.url", "https://a/b"}, "https://a/b"},
		"environment": {[]string{"-remoteWrite.url=https://aps.$(REGION).x"}, "https://aps.eu-west-1.x"},
		"none":        {[]string{"-x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, insights, err := prober(fake.NewClientset(vmagentDeployment(tt.args...)), "").remoteWrite(t.Context())
			if err != nil || !insights || got != tt.want {
				t.Errorf("%q, %v, %v", got, insights, err)
			}
		})
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"schema_version":1,"results":[]}`))
	f.Add([]byte("x\n{\n}"))
	f.Fuzz(func(t *testing.T, log []byte) {
		r, err := parseReport(log)
		if err == nil && (r.SchemaVersion == 0 || r.Results == nil) {
			t.Errorf("accepted %q", log)
		}
		if lastLine(log) == "" {
			t.Error("an empty reason")
		}
	})
}
