package sources

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/input/metrics"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender/model"
	recommendermetrics "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/metrics/recommender"
	"k8s.io/client-go/rest"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// MetricsServer asks metrics.k8s.io, through upstream's client.
func MetricsServer(kube *rest.Config, userAgent string) (metrics.PodMetricsLister, error) {
	c, err := resourceclient.NewForConfig(agent.KubeConfig(kube, userAgent))
	if err != nil {
		return nil, fmt.Errorf("making a client of metrics.k8s.io: %w", err)
	}
	return metrics.NewPodMetricsesSource(c), nil
}

// Client gives upstream's feeder what a source lists.
type Client struct {
	Source metrics.PodMetricsLister
	Name   string // of the source, for metrics
	// Namespace that is asked for; empty means all.
	Namespace string
	// Wanted says whether a sample would be taken; nil takes all. What it refuses is not even handed on: upstream logs each one.
	Wanted func(id model.ContainerID, at time.Time) bool

	mu   sync.Mutex
	last Snapshot
}

var _ metrics.MetricsClient = (*Client)(nil)

// Snapshot is what the last question to the source brought.
type Snapshot struct {
	Containers int // that were listed
	Taken      int // of them, that were handed on
	Err        error
}

// Last is what the last question brought.
func (c *Client) Last() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// GetContainersMetrics implements metrics.MetricsClient.
func (c *Client) GetContainersMetrics(ctx context.Context) ([]*metrics.ContainerMetricsSnapshot, error) {
	list, err := c.Source.List(ctx, c.Namespace, metav1.ListOptions{})
	recommendermetrics.RecordMetricsServerResponse(err, c.Name)
	var all []*metrics.ContainerMetricsSnapshot
	listed := 0
	if list != nil {
		for i := range list.Items {
			pod := &list.Items[i]
			listed += len(pod.Containers)
			for _, container := range pod.Containers {
				s := &metrics.ContainerMetricsSnapshot{
					ID:           model.ContainerID{PodID: model.PodID{Namespace: pod.Namespace, PodName: pod.Name}, ContainerName: container.Name},
					SnapshotTime: pod.Timestamp.Time, SnapshotWindow: pod.Window.Duration, Usage: usage(container.Usage),
				}
				if len(s.Usage) > 0 && (c.Wanted == nil || c.Wanted(s.ID, s.SnapshotTime)) {
					all = append(all, s)
				}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = Snapshot{Containers: listed, Taken: len(all), Err: err}
	return all, err
}

// usage is what was measured, and nothing that was not.
func usage(list corev1.ResourceList) model.Resources {
	r := model.Resources{}
	if q, is := list[corev1.ResourceCPU]; is {
		r[model.ResourceCPU] = model.ResourceAmount(q.MilliValue())
	}
	if q, is := list[corev1.ResourceMemory]; is {
		r[model.ResourceMemory] = model.ResourceAmount(q.Value())
	}
	return r
}

// pods gathers containers into a list. Pods come in the order in which they were first seen.
type pods struct {
	list  v1beta1.PodMetricsList
	index map[podKey]int
}

type podKey struct{ namespace, name string }

// add adds what a container used until a moment. A pod's time is that of its newest container.
func (p *pods) add(namespace, pod, container string, at time.Time, window time.Duration, used corev1.ResourceList) {
	if p.index == nil {
		p.index = map[podKey]int{}
	}
	key := podKey{namespace, pod}
	i, is := p.index[key]
	if !is {
		i = len(p.list.Items)
		p.index[key] = i
		p.list.Items = append(p.list.Items, v1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}, Window: metav1.Duration{Duration: window}})
	}
	item := &p.list.Items[i]
	if at.After(item.Timestamp.Time) {
		item.Timestamp = metav1.Time{Time: at}
	}
	for j := range item.Containers {
		if item.Containers[j].Name == container {
			for name, q := range used {
				item.Containers[j].Usage[name] = q
			}
			return
		}
	}
	item.Containers = append(item.Containers, v1beta1.ContainerMetrics{Name: container, Usage: used})
}
