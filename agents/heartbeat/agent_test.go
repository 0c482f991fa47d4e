package heartbeat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/internal/agenttest"
	"github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/workload"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// fakeCluster is the API server's side of the agent: eyes and hands.
type fakeCluster struct {
	mu         sync.Mutex
	seen       objects
	isSynced   bool
	nextErr    error
	configMaps []*corev1.ConfigMap
	events     []*corev1.Event
	changed    chan struct{}
}

var (
	_ eyes  = (*fakeCluster)(nil)
	_ hands = (*fakeCluster)(nil)
)

func newFakeCluster(o objects) *fakeCluster {
	return &fakeCluster{seen: o, isSynced: true, changed: make(chan struct{}, 1)}
}

func (f *fakeCluster) tasks() []agent.Task      { return nil }
func (f *fakeCluster) changes() <-chan struct{} { return f.changed }
func (f *fakeCluster) version(context.Context) (string, error) {
	return "v1.36.3", nil
}

func (f *fakeCluster) synced() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isSynced
}

func (f *fakeCluster) objects() objects {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

func (f *fakeCluster) set(o objects) {
	f.mu.Lock()
	f.seen, f.isSynced = o, true
	f.mu.Unlock()
	signal(f.changed)
}

func (f *fakeCluster) ConfigMap(_ context.Context, cm *corev1.ConfigMap) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.nextErr; err != nil {
		f.nextErr = nil
		return err
	}
	f.configMaps = append(f.configMaps, cm.DeepCopy())
	return nil
}

func (f *fakeCluster) Event(_ context.Context, e *corev1.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e.DeepCopy())
	return nil
}

func (f *fakeCluster) reasons() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, e := range f.events {
		all = append(all, e.Reason)
	}
	return all
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func labelsOf(comp string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": comp, agent.LabelInstance: agenttest.Release, workload.ComponentLabel: comp, workload.VersionLabel: "1.0.0",
	}
}

// deployment is a healthy one with its pod; wait, when not empty, is why its container waits.
func deployment(comp, wait string) (*appsv1.Deployment, *corev1.Pod) {
	meta := metav1.ObjectMeta{
		Name: "nops-" + comp, Namespace: agenttest.Namespace, UID: types.UID("uid-" + comp), Labels: labelsOf(comp), Generation: 1, CreationTimestamp: metav1.NewTime(epoch),
	}
	image := "public.ecr.aws/nops/" + comp + ":1.0.0"
	one := int32(1)
	d := &appsv1.Deployment{
		ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{workload.ComponentLabel: comp}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: comp, Image: image}}}},
		},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
	}
	ready := corev1.ConditionTrue
	status := corev1.ContainerStatus{Name: comp, Ready: true, Image: image, ImageID: image + "@sha256:" + strings.Repeat("ab", 32), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	if wait != "" {
		d.Status.ReadyReplicas, d.Status.AvailableReplicas, ready = 0, 0, corev1.ConditionFalse
		status.Ready, status.State = false, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: wait, Message: "because"}}
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "nops-" + comp + "-abc-1", Namespace: agenttest.Namespace, Labels: labelsOf(comp), CreationTimestamp: metav1.NewTime(epoch)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: comp, Image: image}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(epoch)}},
			ContainerStatuses: []corev1.ContainerStatus{status},
		},
	}
	return d, p
}

// stack is the heartbeat and vmagent, the latter in the given trouble.
func stack(trouble string) objects {
	hd, hp := deployment("heartbeat", "")
	vd, vp := deployment("vmagent", trouble)
	return objects{deployments: []*appsv1.Deployment{vd, hd}, pods: []*corev1.Pod{vp, hp}}
}

// rig is an agent in a bubble of fake time, with the true client and the true platform and no network.
type rig struct {
	t        *testing.T
	platform *agenttest.Platform
	cluster  *fakeCluster
	agent    *Agent
	logs     *agenttest.Buffer
	stop     func()
	err      error
}

func start(t *testing.T, interval int, change func(*Options, *Deps)) *rig {
	t.Helper()
	r := &rig{t: t, platform: agenttest.NewPlatform(t, interval), cluster: newFakeCluster(stack("")), logs: &agenttest.Buffer{}}
	client, err := nopsclient.New(nopsclient.Options{Host: "https://nops.test", Key: agenttest.APIKey, Transport: r.platform, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	o := Options{
		PlatformOptions: agent.PlatformOptions{APIKey: agenttest.APIKey, Host: "https://nops.test", ClusterARN: agenttest.ClusterARN},
		ProcessOptions:  agent.ProcessOptions{Namespace: agenttest.Namespace, Release: agenttest.Release, ChartVersion: "0.1.0"},
	}
	d := Deps{Platform: client, Version: "1.2.3", BootID: "boot", Log: agent.NewLogger(r.logs, slog.LevelDebug, agenttest.APIKey), Rand: func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rnd.Float64()
	}}
	if change != nil {
		change(&o, &d)
	}
	r.agent = assemble(o, fill(d), r.cluster, r.cluster)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.err = r.agent.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
		if r.err != nil {
			t.Errorf("the agent ended with: %v", r.err)
		}
		if logs := r.logs.String(); strings.Contains(logs, agenttest.APIKey) {
			t.Errorf("the API key is in the logs:\n%s", logs)
		}
		if sent := r.platform.Received(); strings.Contains(sent, agenttest.APIKey) {
			t.Errorf("the API key is in a body:\n%s", sent)
		}
	}
	return r
}

// sequence checks that the beats are numbered 1, 2, 3 … in the order of their observation and returns them.
func (r *rig) sequence() []nopsapi.HeartbeatReceived {
	r.t.Helper()
	beats := r.platform.Beats(r.t).Heartbeats
	for i, b := range beats {
		if b.Seq != uint64(i+1) {
			r.t.Fatalf("beat %d has number %d: %+v", i, b.Seq, beats)
		}
	}
	return beats
}

func TestFirstBeatAndCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := start(t, 60, nil)
		defer r.stop()
		time.Sleep(firstWithin + time.Second)
		list := r.platform.Beats(t)
		if len(list.Heartbeats) != 1 {
			t.Fatalf("%d beats after %s, want the first", len(list.Heartbeats), firstWithin)
		}
		l := list.Latest
		if !l.Full || l.BootID != "boot" || l.Seq != 1 || l.Agent.Version != "1.2.3" || l.Release.ChartVersion != "0.1.0" || l.KubernetesInfo.Version != "v1.36.3" {
			t.Errorf("the first beat: %+v", l)
		}
		if len(l.Components) != 2 || l.Components[0].Name != "heartbeat" || l.Components[1].Name != "vmagent" || l.Components[1].State != "ready" ||
			l.Components[1].Images[0].Digest != "sha256:"+strings.Repeat("ab", 32) || l.Components[1].Version != "1.0.0" {
			t.Errorf("components: %+v", l.Components)
		}
		if l.Pipeline == nil || l.Pipeline.State != nopsapi.PipelineDisabled {
			t.Errorf("pipeline without vmagent: %+v", l.Pipeline)
		}
		time.Sleep(time.Hour - time.Since(began))
		beats := r.sequence()
		if len(beats) < 55 || len(beats) > 66 {
			t.Errorf("%d beats in an hour, want 60 ± 10 %%", len(beats))
		}
		different := map[time.Duration]bool{}
		for i := 1; i < len(beats); i++ {
			gap := beats[i].ObservedAt.Sub(beats[i-1].ObservedAt)
			if gap < 54*time.Second || gap > 66*time.Second {
				t.Errorf("beats %d and %d are %s apart", i, i+1, gap)
			}
			different[gap] = true
		}
		if len(different) < 10 {
			t.Errorf("the intervals are not jittered: %v", different)
		}
		if full := strings.Count(r.platform.Received(), `"full":true`); full != 1 && full != 2 {
			t.Errorf("%d full beats in an hour of quiet, want the first and at most another", full)
		}
	})
}

func TestStateChangeDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 900, nil)
		defer r.stop()
		time.Sleep(30 * time.Second)
		before := len(r.sequence())
		at := time.Now()
		r.cluster.set(stack("ImagePullBackOff"))
		time.Sleep(settle + time.Second)
		beats := r.sequence()
		if len(beats) != before+1 {
			t.Fatalf("%d beats after a change of state, want %d", len(beats), before+1)
		}
		if late := beats[before].ObservedAt.Sub(at); late > settle+time.Second {
			t.Errorf("observed %s after the change", late)
		}
		latest := r.platform.Beats(t).Latest
		if c := latest.Components[1]; c.State != "degraded" || c.Reason != "ImagePullBackOff" || c.Object != "nops/nops-vmagent" || c.Kind != "Deployment" {
			t.Errorf("component: %+v", c)
		}
		// Only what changed travels.
		lines := strings.Split(strings.TrimSpace(r.platform.Received()), "\n")
		if last := lines[len(lines)-1]; strings.Contains(last, "nops-heartbeat\"") || strings.Contains(last, `"full":true`) {
			t.Errorf("the beat repeats what did not change: %s", last)
		}

		// A storm of changes is at most six extra beats a minute.
		before = len(r.sequence())
		for i := range 60 {
			if i%2 == 0 {
				r.cluster.set(stack(""))
			} else {
				r.cluster.set(stack("CrashLoopBackOff"))
			}
			time.Sleep(6 * time.Second)
		}
		if extra := len(r.sequence()) - before; extra > 6+6*6 || extra < 24 {
			t.Errorf("%d beats in six minutes of flapping, want at most 6 a minute after the first 6", extra)
		}
		// What changed back before anybody looked is no news.
		time.Sleep(10 * time.Minute)
		before = len(r.sequence())
		r.cluster.set(stack("ImagePullBackOff"))
		time.Sleep(time.Second)
		r.cluster.set(stack("CrashLoopBackOff"))
		time.Sleep(10 * time.Second)
		if n := len(r.sequence()); n-before > 1 {
			t.Errorf("%d beats, want at most one", n-before)
		}
	})
}

func TestOutageLosesNothing(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		fault        platform.Fault
	}{
		{"connection cut", "the platform is killed", platform.Fault{Drop: true}},
		{"503", "the platform is ill", platform.Fault{Status: http.StatusServiceUnavailable}},
		{"429", "the platform is busy and says for how long", platform.Fault{Status: http.StatusTooManyRequests, RetryAfter: 20 * time.Second}},
		{"no answer", "requests hang", platform.Fault{Latency: time.Hour}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, 15, nil)
				defer r.stop()
				time.Sleep(time.Minute)
				before := len(r.sequence())
				down := time.Now()
				r.platform.Faults.Set(tc.fault)
				time.Sleep(30 * time.Second)
				r.cluster.set(stack("ImagePullBackOff"))
				time.Sleep(10 * time.Minute)
				if got := len(r.platform.Beats(t).Heartbeats); got > before {
					t.Fatalf("%s: %d beats arrived during the outage", tc.reason, got-before)
				}
				if err := r.agent.health.Live(); err != nil {
					t.Errorf("an outage cost liveness: %v", err)
				}
				up := time.Now()
				r.platform.Faults.Set()
				time.Sleep(time.Minute)
				during := 0
				for _, b := range r.sequence() {
					if b.ObservedAt.After(down) && b.ObservedAt.Before(up) {
						during++
						if b.ReceivedAt.Before(up) {
							t.Errorf("beat %d was received during the outage", b.Seq)
						}
					}
				}
				if during < 36 {
					t.Errorf("%d beats of the outage, want one every 15 s", during)
				}
				latest := r.platform.Beats(t).Latest
				if latest.DroppedBeats != 0 || len(latest.Components) != 2 || latest.Components[1].Reason != "ImagePullBackOff" {
					t.Errorf("after the outage: %+v", latest)
				}
				if got := fmt.Sprint(r.cluster.reasons()); got != "[ComponentDegraded PlatformUnreachable PlatformConnected]" {
					t.Errorf("events %s", got)
				}
			})
		})
	}
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 15, nil)
		defer r.stop()
		time.Sleep(time.Minute)
		r.platform.Faults.Set(platform.Fault{Drop: true})
		time.Sleep(3 * time.Hour)
		if n := r.agent.queue.Len(); n != queueBound {
			t.Errorf("%d beats wait, want the bound %d", n, queueBound)
		}
		r.platform.Faults.Set()
		time.Sleep(3 * time.Minute)
		list := r.platform.Beats(t)
		for i := 1; i < len(list.Heartbeats); i++ {
			if list.Heartbeats[i].Seq <= list.Heartbeats[i-1].Seq {
				t.Errorf("beat %d after beat %d", list.Heartbeats[i].Seq, list.Heartbeats[i-1].Seq)
			}
		}
		if list.Latest.DroppedBeats < 400 || len(list.Latest.Components) != 2 {
			t.Errorf("dropped %d, want it said: about 460; components %d", list.Latest.DroppedBeats, len(list.Latest.Components))
		}
		if total := uint64(len(list.Heartbeats)) + list.Latest.DroppedBeats; total+1 < list.Latest.Seq {
			t.Errorf("%d delivered and %d dropped do not make %d", len(list.Heartbeats), list.Latest.DroppedBeats, list.Latest.Seq)
		}
	})
}

func TestWrongKeyIsRetriedSlowly(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		status       int
		event        string
	}{
		{"unknown key", "revoked", http.StatusUnauthorized, "PlatformUnauthorized"},
		{"key of another cluster", "copied", http.StatusForbidden, "PlatformForbidden"},
		{"no such endpoint", "another platform", http.StatusNotFound, "PlatformNotOffered"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, 60, nil)
				defer r.stop()
				r.platform.Faults.Set(platform.Fault{Status: tc.status})
				time.Sleep(2 * time.Hour)
				if n := r.agent.failures.Get(); n < 8 || n > 24 {
					t.Errorf("%v attempts in two hours, want one every quarter of an hour or so", n)
				}
				if got := fmt.Sprint(r.cluster.reasons()); got != "["+tc.event+"]" {
					t.Errorf("events %s, want %s once", got, tc.event)
				}
				r.platform.Faults.Set()
				time.Sleep(16 * time.Minute)
				beats := r.sequence()
				if len(beats) < 120 {
					t.Errorf("%d beats after the key was mended, want all of two hours", len(beats))
				}
				if got := fmt.Sprint(r.cluster.reasons()); got != "["+tc.event+" PlatformConnected]" {
					t.Errorf("events %s", got)
				}
			})
		})
	}
}

func TestRefusedBeatDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		defer r.stop()
		time.Sleep(10 * time.Second)
		r.platform.Faults.Set(platform.Fault{Status: http.StatusBadRequest, Times: 1})
		time.Sleep(5 * time.Minute)
		list := r.platform.Beats(t)
		if got := r.agent.refused.Get(); got != 1 || len(list.Heartbeats) < 4 {
			t.Errorf("%v refused, %d delivered, want 1 and the rest", got, len(list.Heartbeats))
		}
		if strings.Count(r.platform.Received(), `"full":true`) != 2 {
			t.Errorf("a lost beat must be made up for by a full one")
		}
	})
}

// TestAPlatformThatRefusesOurBeats is older than the agent, say: people must see that nothing arrives.
func TestAPlatformThatRefusesOurBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		defer r.stop()
		time.Sleep(time.Minute)
		r.platform.Faults.Set(platform.Fault{Status: http.StatusBadRequest})
		before := r.agent.seq.Get()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if n := r.agent.seq.Get() - before; n > 36 {
			t.Errorf("%v beats in half an hour of being refused, want no more than otherwise", n)
		}
		cm := r.cluster.configMaps[len(r.cluster.configMaps)-1]
		if want := "platform: refused: " + linkRefused.detail() + "\n"; !strings.Contains(cm.Data["summary"], want) {
			t.Errorf("summary:\n%s\nwant %s", cm.Data["summary"], want)
		}
		var page bytes.Buffer
		if _, err := r.agent.metrics.WriteTo(&page); err != nil || !strings.Contains(page.String(), "nops_heartbeat_platform_up 0\n") {
			t.Errorf("the platform counts as up: %v", err)
		}
		r.platform.Faults.Set()
		lost := len(r.platform.Received())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(r.cluster.reasons()); got != "[PlatformRefused PlatformConnected]" {
			t.Errorf("events %s", got)
		}
		if !strings.Contains(r.platform.Received()[lost:], `"full":true`) {
			t.Error("no full beat after what was lost")
		}
	})
}

func TestIntervalIsThePlatforms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 900, nil)
		defer r.stop()
		time.Sleep(time.Hour)
		if n := len(r.sequence()); n < 4 || n > 6 {
			t.Errorf("%d beats in an hour at 900 s", n)
		}
		if err := r.platform.AddCustomer(t.Context(), platform.Customer{ID: agenttest.Customer, HeartbeatInterval: 15}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		before := len(r.sequence())
		time.Sleep(10 * time.Minute)
		if n := len(r.sequence()) - before; n < 36 || n > 45 {
			t.Errorf("%d beats in ten minutes at 15 s", n)
		}
	})
}

func TestResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fake *resyncing
		r := start(t, 900, func(_ *Options, d *Deps) {
			fake = &resyncing{inner: d.Platform}
			d.Platform = fake
		})
		defer r.stop()
		time.Sleep(time.Minute)
		fake.ask(1)
		r.cluster.set(stack("ImagePullBackOff")) // makes a beat of differences, whose answer asks
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(fake.full); got != "[true false true]" {
			t.Errorf("full %s, want the first and the one asked for", got)
		}
		fake.ask(1 << 30) // a server that asks for ever
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := len(fake.full); n > 3+6+20*6+2 {
			t.Errorf("%d beats in twenty minutes for a server that asks for ever", n)
		}
	})
}

// resyncing asks for the full state the next n times.
type resyncing struct {
	inner Platform
	mu    sync.Mutex
	n     int
	full  []bool
}

func (f *resyncing) ask(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n = n
}

func (f *resyncing) SendHeartbeat(ctx context.Context, arn string, beat nopsapi.Heartbeat) (nopsapi.HeartbeatAck, error) {
	ack, err := f.inner.SendHeartbeat(ctx, arn, beat)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = append(f.full, beat.Full)
	if f.n > 0 {
		f.n--
		ack.Resync = true
	}
	return ack, err
}

func TestUnreadableClusterStillBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		defer r.stop()
		r.cluster.mu.Lock()
		r.cluster.isSynced = false
		r.cluster.mu.Unlock()
		time.Sleep(firstWithin + syncLimit + time.Second)
		l := r.platform.Beats(t).Latest
		if l == nil || l.Full || len(l.Components) != 0 {
			t.Fatalf("got %+v, want a beat that claims nothing about components", l)
		}
		if r.agent.health.Ready() == nil {
			t.Errorf("ready without having read the cluster")
		}
		r.cluster.set(stack(""))
		time.Sleep(settle + 2*time.Second)
		if l := r.platform.Beats(t).Latest; !l.Full || len(l.Components) != 2 {
			t.Errorf("got %+v, want all components as soon as they are known", l)
		}
		if err := r.agent.health.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

func TestComponentThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 900, nil)
		defer r.stop()
		time.Sleep(30 * time.Second)
		o := stack("")
		o.deployments = o.deployments[1:]
		r.cluster.set(o)
		time.Sleep(settle + time.Second)
		if l := r.platform.Beats(t).Latest; !l.Full || len(l.Components) != 1 {
			t.Errorf("got %+v, want a full beat without vmagent", l.Components)
		}
	})
}

func TestMirrorAndEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		defer r.stop()
		r.cluster.mu.Lock()
		r.cluster.nextErr = errors.New("forbidden")
		r.cluster.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		quiet := len(r.cluster.configMaps)
		if quiet == 0 || quiet > 2 {
			t.Fatalf("the mirror was written %d times in ten quiet minutes, want once, or once more when the platform answered", quiet)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.cluster.configMaps); n != quiet {
			t.Errorf("the mirror was written %d times more though nothing changed", n-quiet)
		}
		cm := r.cluster.configMaps[quiet-1]
		want := "heartbeat: ready\nvmagent: ready\npipeline: absent: this installation has no vmagent\nplatform: connected: the platform accepts heartbeats\n"
		if cm.Data["summary"] != want {
			t.Errorf("summary:\n%s\nwant:\n%s", cm.Data["summary"], want)
		}
		if o := cm.OwnerReferences; len(o) != 1 || o[0].UID != "uid-heartbeat" {
			t.Errorf("owner %v: the mirror must go with the release", o)
		}
		r.cluster.set(stack("ImagePullBackOff"))
		time.Sleep(time.Minute)
		r.cluster.set(stack(""))
		time.Sleep(time.Minute)
		if got := fmt.Sprint(r.cluster.reasons()); got != "[ComponentDegraded ComponentRecovered]" {
			t.Fatalf("events %s", got)
		}
		synctest.Wait()
		e := r.cluster.events[0]
		if e.Type != corev1.EventTypeWarning || e.InvolvedObject.Name != "nops-vmagent" || e.InvolvedObject.UID != "uid-vmagent" || !strings.Contains(e.Message, "ImagePullBackOff") {
			t.Errorf("event %+v", e)
		}
		n := len(r.cluster.configMaps)
		gone := stack("ImagePullBackOff")
		now := metav1.Now()
		gone.deployments[1].DeletionTimestamp = &now
		r.cluster.set(gone)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(r.cluster.configMaps) != n {
			t.Errorf("the mirror was written while the release was being removed")
		}
	})
}

func TestEndDeliversWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		time.Sleep(time.Minute)
		r.platform.Faults.Set(platform.Fault{Drop: true})
		time.Sleep(5 * time.Minute)
		r.platform.Faults.Set()
		queued := r.agent.queue.Len()
		r.stop()
		if left := r.agent.queue.Len(); left != 0 && queued != 0 {
			t.Errorf("%d of %d beats were left behind though the platform was there", left, queued)
		}
		r.sequence()
	})
}

func TestEndDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		time.Sleep(time.Minute)
		r.platform.Faults.Set(platform.Fault{Latency: time.Hour})
		time.Sleep(5 * time.Minute)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > lastWords+time.Second {
			t.Errorf("the end took %s", took)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 60, nil)
		defer r.stop()
		time.Sleep(10 * time.Second)
		var page bytes.Buffer
		if _, err := r.agent.metrics.WriteTo(&page); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"nops_heartbeat_beats_total{result=\"delivered\"} 1\n", "nops_heartbeat_platform_up 1\n", "nops_heartbeat_queue_length 0\n",
			fmt.Sprintf("nops_heartbeat_last_success_timestamp_seconds %d", epochSeconds(time.Now())), `nops_agent_info{agent="heartbeat",version="1.2.3"`,
		} {
			if !strings.Contains(page.String(), want) {
				t.Errorf("metrics lack %q:\n%s", want, page.String())
			}
		}
	})
}

// epochSeconds leaves the last digits open: the first beat comes within seconds.
func epochSeconds(now time.Time) int64 { return now.Unix() / 100 }
