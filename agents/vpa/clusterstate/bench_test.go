package clusterstate

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpaclient "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/client/clientset/versioned/typed/autoscaling.k8s.io/v1"
	upstream "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/checkpoint"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"

	"github.com/nopsctl/nopsctl/agents/vpa/checkpoint"
)

// Run with -benchtime=1x for the larger ones: upstream takes seconds for each.

const podsPerVPA = 5

type profile struct{ vpas, namespaces int }

func (p profile) namespace(i int) string { return fmt.Sprint("ns", i%p.namespaces) }

// fill adds the profile's autoscalers, and its pods with two containers each.
func (p profile) fill(b *testing.B, c model.ClusterState) {
	b.Helper()
	for i := range p.vpas {
		name := fmt.Sprint("app", i)
		one := object(name)
		one.Namespace, one.Name = p.namespace(i), name
		if err := c.AddOrUpdateVpa(one, labels.SelectorFromSet(labels.Set{"app": name})); err != nil {
			b.Fatal(err)
		}
	}
	p.load(b, c)
}

// load is what a loop does with the pods that it lists.
func (p profile) load(b *testing.B, c model.ClusterState) {
	b.Helper()
	for i := range p.vpas {
		for j := range podsPerVPA {
			id := model.PodID{Namespace: p.namespace(i), PodName: fmt.Sprintf("app%d-%d", i, j)}
			c.AddOrUpdatePod(id, labels.Set{"app": fmt.Sprint("app", i), "env": "prod", "pod-template-hash": fmt.Sprint(i % 7)}, corev1.PodRunning)
			for _, name := range []string{"app", "side"} {
				if err := c.AddOrUpdateContainer(model.ContainerID{PodID: id, ContainerName: name}, model.Resources{model.ResourceMemory: 1e9}); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

func (p profile) sample(b *testing.B, c model.ClusterState) {
	b.Helper()
	now, i := time.Now(), 0
	for id, pod := range c.Pods() {
		for name := range pod.Containers {
			for resource, usage := range map[model.ResourceName]model.ResourceAmount{model.ResourceCPU: 200, model.ResourceMemory: 5e8} {
				i++
				if err := c.AddSample(&model.ContainerUsageSampleWithKey{Container: model.ContainerID{PodID: id, ContainerName: name},
					ContainerUsageSample: model.ContainerUsageSample{MeasureStart: now, Resource: resource, Usage: usage + model.ResourceAmount(i%13)}}); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

func each(b *testing.B, run func(b *testing.B, p profile, empty func() model.ClusterState)) {
	b.Helper()
	for _, p := range []profile{{1000, 50}, {1000, 1}, {2000, 50}} {
		for _, of := range []struct {
			name  string
			empty func() model.ClusterState
		}{{"upstream", func() model.ClusterState { return model.NewClusterState(time.Hour) }}, {"ours", func() model.ClusterState { return New(time.Hour) }}} {
			b.Run(fmt.Sprintf("vpas=%d/pods=%d/namespaces=%d/%s", p.vpas, p.vpas*podsPerVPA, p.namespaces, of.name), func(b *testing.B) { run(b, p, of.empty) })
		}
	}
}

func BenchmarkLoadPods(b *testing.B) {
	each(b, func(b *testing.B, p profile, empty func() model.ClusterState) {
		b.ReportAllocs()
		for b.Loop() {
			p.fill(b, empty())
		}
	})
}

// BenchmarkLoadPodsAgain is the loop's daily bread: nothing changed.
func BenchmarkLoadPodsAgain(b *testing.B) {
	each(b, func(b *testing.B, p profile, empty func() model.ClusterState) {
		c := empty()
		p.fill(b, c)
		b.ReportAllocs()
		for b.Loop() {
			p.load(b, c)
		}
	})
}

// BenchmarkStoreCheckpoints writes all of them; ours is made to, which it does once per restart at most.
func BenchmarkStoreCheckpoints(b *testing.B) {
	each(b, func(b *testing.B, p profile, empty func() model.ClusterState) {
		c := empty()
		p.fill(b, c)
		p.sample(b, c)
		w := upstream.NewCheckpointWriter(c, nowhere{})
		if ours, ok := c.(*Cluster); ok {
			w = checkpoint.NewWriter(ours, nowhere{}, checkpoint.Options{Interval: -1, Refresh: -1})
		}
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			time.Sleep(time.Millisecond) // samples are in order
			p.sample(b, c)
			b.StartTimer()
			w.StoreCheckpoints(context.Background(), 10)
		}
	})
}

// BenchmarkChurn is one pod of a Job per autoscaler coming and going, each with a label of its own, and the collection after it.
func BenchmarkChurn(b *testing.B) {
	each(b, func(b *testing.B, p profile, empty func() model.ClusterState) {
		c := empty()
		p.fill(b, c)
		b.ReportAllocs()
		now, n := time.Now(), 0
		for b.Loop() {
			for i := range p.vpas {
				n++
				id := model.PodID{Namespace: p.namespace(i), PodName: fmt.Sprint("job-", n)}
				c.AddOrUpdatePod(id, labels.Set{"job": fmt.Sprint(n)}, corev1.PodRunning)
				if err := c.AddOrUpdateContainer(model.ContainerID{PodID: id, ContainerName: "app"}, nil); err != nil {
					b.Fatal(err)
				}
				c.DeletePod(id)
			}
			now = now.Add(2 * time.Hour)
			c.RateLimitedGarbageCollectAggregateCollectionStates(context.Background(), now, nothing())
		}
	})
}

// nowhere takes every checkpoint.
type nowhere struct {
	vpaclient.VerticalPodAutoscalerCheckpointInterface
}

func (n nowhere) VerticalPodAutoscalerCheckpoints(string) vpaclient.VerticalPodAutoscalerCheckpointInterface {
	return n
}

func (nowhere) Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*vpav1.VerticalPodAutoscalerCheckpoint, error) {
	return nil, nil
}
