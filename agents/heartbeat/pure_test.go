package heartbeat

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/connectivity/probe"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

func clientFor(t *testing.T, host string) Platform {
	t.Helper()
	c, err := nopsclient.New(nopsclient.Options{Host: host, Key: "4242.c0ffee00c0ffee00c0ffee00c0ffee00", Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secretive is a pod spec with a credential in every place people put one.
func secretive(image string) corev1.PodSpec {
	c := corev1.Container{
		Name: "c", Image: image, Command: []string{planted}, Args: []string{planted}, WorkingDir: planted, Env: []corev1.EnvVar{{Name: planted, Value: planted}},
		Lifecycle:      &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{planted}}}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{HTTPHeaders: []corev1.HTTPHeader{{Value: planted}}}}},
	}
	return corev1.PodSpec{
		InitContainers: []corev1.Container{c}, Containers: []corev1.Container{c}, ServiceAccountName: planted, Hostname: planted,
		Volumes: []corev1.Volume{{Name: planted, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: planted}}}},
	}
}

func TestStrip(t *testing.T) {
	meta := metav1.ObjectMeta{
		Name: "n", Namespace: "ns", UID: "u", ResourceVersion: "7", Generation: 3, Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"k": planted},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: planted}}, Finalizers: []string{planted},
	}
	spec := secretive("i")
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: meta.Annotations}, Spec: spec}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: planted}}
	objects := []runtime.Object{
		&corev1.Pod{ObjectMeta: meta, Spec: spec, Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: ended, LastTerminationState: ended, RestartCount: 4}}}},
		&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: template}},
		&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: template}},
		&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: template, VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: meta}}}},
		&batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template}}}},
		&batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template}},
	}
	for _, o := range objects {
		t.Run(fmt.Sprintf("%T", o), func(t *testing.T) {
			got, err := Strip(o)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(raw), planted) {
				t.Errorf("a credential stays in memory: %s", raw)
			}
			m := got.(metav1.Object)
			if m.GetName() != "n" || m.GetUID() != "u" || m.GetResourceVersion() != "7" || m.GetGeneration() != 3 || m.GetLabels()["a"] != "b" {
				t.Errorf("what is needed is gone: %s", raw)
			}
		})
	}
	if _, err := Strip(cache.DeletedFinalStateUnknown{}); err != nil {
		t.Errorf("tombstones pass: %v", err)
	}
	if _, err := Strip(&corev1.Secret{}); err == nil {
		t.Error("an unknown kind must not pass unstripped")
	}
}

// TestStripKeepsWhatIsReported compares the summaries of whole objects and of stripped ones.
func TestStripKeepsWhatIsReported(t *testing.T) {
	for _, trouble := range []string{"", "ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError"} {
		whole := stack(trouble)
		stripped := objects{}
		for _, d := range whole.deployments {
			o, _ := Strip(d)
			stripped.deployments = append(stripped.deployments, o.(*appsv1.Deployment))
		}
		for _, p := range whole.pods {
			o, _ := Strip(p)
			stripped.pods = append(stripped.pods, o.(*corev1.Pod))
		}
		if diff := cmp.Diff(summarise(whole), summarise(stripped)); diff != "" {
			t.Errorf("%s: -whole +stripped\n%s", trouble, diff)
		}
	}
}

func TestSummariesDoNotDependOnOrder(t *testing.T) {
	var o objects
	for i := range 5 {
		d, p := deployment(fmt.Sprintf("c%d", i), []string{"", "ImagePullBackOff"}[i%2])
		o.deployments, o.pods = append(o.deployments, d), append(o.pods, p)
		for range 3 {
			copied := p.DeepCopy()
			copied.Name += "x"
			o.pods = append(o.pods, copied)
		}
	}
	want := mirror(snapshot{components: summarise(o), link: linkConnected})
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		rnd.Shuffle(len(o.pods), func(i, j int) { o.pods[i], o.pods[j] = o.pods[j], o.pods[i] })
		rnd.Shuffle(len(o.deployments), func(i, j int) { o.deployments[i], o.deployments[j] = o.deployments[j], o.deployments[i] })
		if diff := cmp.Diff(want, mirror(snapshot{components: summarise(o), link: linkConnected})); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

func TestComposer(t *testing.T) {
	c := &composer{bootID: "b"}
	summary := func(name string, state workload.State) workload.Summary {
		return workload.Summary{Kind: "Deployment", Namespace: "nops", Name: name, Component: name, State: state}
	}
	see := func(all ...workload.Summary) snapshot {
		return snapshot{components: all, pipeline: newTracker(false).current}
	}
	type said struct {
		full  bool
		names string
	}
	say := func(s snapshot, known bool) said {
		b := c.compose(epoch, s, known, "v1", 0)
		var names []string
		for _, comp := range b.Components {
			names = append(names, comp.Name)
		}
		if err := b.Validate(); err != nil {
			t.Errorf("the contract refuses the beat: %v", err)
		}
		return said{b.Full, strings.Join(names, " ")}
	}
	a, b, broken := summary("a", workload.Ready), summary("b", workload.Ready), summary("b", workload.Failed)
	for i, step := range []struct {
		reason string
		got    said
		want   said
	}{
		{"nothing known, nothing claimed", say(see(), false), said{false, ""}},
		{"the first that knows says all", say(see(a, b), true), said{true, "a b"}},
		{"nothing changed", say(see(a, b), true), said{false, ""}},
		{"one changed", say(see(a, broken), true), said{false, "b"}},
		{"one changed back", say(see(a, b), true), said{false, "b"}},
		{"one came", say(see(a, b, summary("c", workload.Idle)), true), said{false, "c"}},
		{"one went", say(see(a, b), true), said{true, "a b"}},
	} {
		if step.got != step.want {
			t.Errorf("step %d, %s: %+v, want %+v", i, step.reason, step.got, step.want)
		}
	}
	c.forceFull = true
	if got := say(see(a), true); !got.full {
		t.Error("a full beat that was asked for is not full")
	}
	full := 0
	for range 3 * fullEvery {
		if say(see(a), true).full {
			full++
		}
	}
	if full != 3 {
		t.Errorf("%d full beats among %d, want one each %d", full, 3*fullEvery, fullEvery)
	}
}

// TestBeatStaysWithinTheContract makes the worst beat there can be: every component in another trouble with the longest
// message there is, random so that compression does not help.
func TestBeatStaysWithinTheContract(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	word := func(n int) string {
		const letters = "abcdefghijklmnopqrstuvwxyz0123456789 ./:-"
		b := make([]byte, n)
		for i := range b {
			b[i] = letters[rnd.IntN(len(letters))]
		}
		return string(b)
	}
	for _, n := range []int{12, crowd, crowd + 1, 200} {
		var s snapshot
		for range n {
			s.components = append(s.components, workload.Summary{
				Kind: "Deployment", Namespace: "nops", Name: word(20), Component: word(12), State: workload.Degraded, Reason: word(16), Message: word(512), Version: word(8),
				Images: []workload.Image{{Container: word(8), Reference: word(50), Digest: "sha256:" + word(64)}}, Since: epoch,
			})
		}
		c := &composer{bootID: "b"}
		if _, err := encodeAsClient(t, c.compose(epoch, s, true, "v1.36.3", 0)); err != nil {
			t.Errorf("%d components: %v", n, err)
		}
	}
}

func TestPipelineOnTheWire(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		in           pipeline
		want         string
	}{
		{"absent", "container insights is off", pipeline{state: stateAbsent}, nopsapi.PipelineDisabled},
		{"delivering", "", pipeline{state: probe.Delivering}, nopsapi.PipelineDelivering},
		{"refused", "4xx", pipeline{state: probe.Refused}, nopsapi.PipelineRefused},
		{"blocked", "5xx", pipeline{state: probe.Blocked}, nopsapi.PipelineBlocked},
		{"unreachable", "no answer", pipeline{state: probe.Unreachable}, nopsapi.PipelineBlocked},
		{"idle at first", "not begun", pipeline{state: probe.Idle}, nopsapi.PipelineStarting},
		{"idle later", "nothing is sent any more", pipeline{state: probe.Idle, lastSuccess: epoch}, nopsapi.PipelineUnknown},
		{"unknown", "vmagent is away", pipeline{state: probe.Unknown}, nopsapi.PipelineUnknown},
	} {
		if got := pipelineStatus(tc.in); got.State != tc.want || (got.LastSuccessAt != nil) == tc.in.lastSuccess.IsZero() {
			t.Errorf("%s (%s): %+v, want %s", tc.name, tc.reason, got, tc.want)
		}
	}
}

func TestNotes(t *testing.T) {
	vm := func(state workload.State, reason string) []workload.Summary {
		return []workload.Summary{{Kind: "Deployment", Namespace: "nops", Name: "nops-vmagent", Component: "vmagent", State: state, Reason: reason}}
	}
	pipe := func(state probe.DeliveryState, detail string) pipeline { return pipeline{state: state, detail: detail} }
	own := agent.Owner{Kind: "Deployment", Name: "nops-heartbeat", UID: "own"}
	for _, tc := range []struct {
		name, reason  string
		before, after snapshot
		want          string
	}{
		{"start, all well", "good news at start is no news", snapshot{}, snapshot{components: vm(workload.Ready, ""), link: linkConnected, pipeline: pipe(probe.Delivering, "")}, ""},
		{"start in trouble", "what is broken is said", snapshot{}, snapshot{components: vm(workload.Failed, "OOMKilled"), link: linkConnecting}, "nops-vmagent ComponentFailed: vmagent: OOMKilled"},
		{"progress", "the controllers tell that", snapshot{components: vm(workload.Ready, "")}, snapshot{components: vm(workload.Progressing, "RollingOut")}, ""},
		{"same trouble", "said once", snapshot{components: vm(workload.Degraded, "OOMKilled")}, snapshot{components: vm(workload.Failed, "OOMKilled")}, ""},
		{"other trouble", "a new reason is news", snapshot{components: vm(workload.Degraded, "OOMKilled")}, snapshot{components: vm(workload.Degraded, "ImagePullBackOff")}, "nops-vmagent ComponentDegraded: vmagent: ImagePullBackOff"},
		{"not yet over", "progressing is not recovered", snapshot{components: vm(workload.Degraded, "x")}, snapshot{components: vm(workload.Progressing, "")}, ""},
		{"delivery breaks", "on the agent's own object", snapshot{pipeline: pipe(probe.Delivering, "")}, snapshot{pipeline: pipe(probe.Refused, "HTTP 403")}, "nops-heartbeat DeliveryFailing: HTTP 403"},
		{"delivery mends", "", snapshot{pipeline: pipe(probe.Blocked, "HTTP 503")}, snapshot{pipeline: pipe(probe.Delivering, "fine")}, "nops-heartbeat DeliveryRestored: fine"},
		{"refused", "beats are lost", snapshot{link: linkConnected}, snapshot{link: linkRefused}, "nops-heartbeat PlatformRefused: " + linkRefused.detail()},
		{"not offered", "camel case", snapshot{link: linkConnecting}, snapshot{link: linkNotOffered}, "nops-heartbeat PlatformNotOffered: " + linkNotOffered.detail()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, n := range notes(tc.before, tc.after, map[string]types.UID{}, own) {
				got = append(got, n.Name+" "+n.Reason+": "+n.Why)
			}
			if s := strings.Join(got, "; "); s != tc.want {
				t.Errorf("%s: %q, want %q", tc.reason, s, tc.want)
			}
		})
	}
}

// encodeAsClient sends the beat with the real client and measures what would be on the wire.
func encodeAsClient(t *testing.T, beat nopsapi.Heartbeat) (int, error) {
	t.Helper()
	w := &wire{}
	c, err := nopsclient.New(nopsclient.Options{Host: "https://nops.test", Key: "k", Transport: w, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.SendHeartbeat(t.Context(), "arn", beat)
	return w.size, err
}

// wire takes every request and counts its bytes.
type wire struct{ size int }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(r.Body)
	w.size = len(raw)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, err
}
