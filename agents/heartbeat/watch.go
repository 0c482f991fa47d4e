package heartbeat

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

func newClients(config *rest.Config, userAgent string) (agent.Clients, error) {
	return agent.NewClients(config, userAgent,
		agent.Group{Version: corev1.SchemeGroupVersion, Kinds: []runtime.Object{&corev1.Pod{}, &corev1.PodList{}, &corev1.ConfigMap{}, &corev1.Event{}}},
		agent.Group{Version: appsv1.SchemeGroupVersion, Kinds: []runtime.Object{
			&appsv1.Deployment{}, &appsv1.DeploymentList{}, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{}, &appsv1.StatefulSet{}, &appsv1.StatefulSetList{},
		}},
		agent.Group{Version: batchv1.SchemeGroupVersion, Kinds: []runtime.Object{&batchv1.CronJob{}, &batchv1.CronJobList{}, &batchv1.Job{}, &batchv1.JobList{}}},
	)
}

// watcher keeps what belongs to the release in memory, stripped.
type watcher struct {
	deployments, daemonSets, statefulSets, cronJobs, jobs, pods cache.Store
	controllers                                                 []cache.Controller
	changed                                                     chan struct{}
	core                                                        rest.Interface
}

func newWatcher(c agent.Clients, namespace, release string) *watcher {
	core, apps, batch := c[corev1.SchemeGroupVersion], c[appsv1.SchemeGroupVersion], c[batchv1.SchemeGroupVersion]
	w := &watcher{changed: make(chan struct{}, 1), core: core}
	instance := agent.LabelInstance + "=" + release
	w.deployments = w.add(apps, "deployments", namespace, instance, &appsv1.Deployment{})
	w.daemonSets = w.add(apps, "daemonsets", namespace, instance, &appsv1.DaemonSet{})
	w.statefulSets = w.add(apps, "statefulsets", namespace, instance, &appsv1.StatefulSet{})
	w.cronJobs = w.add(batch, "cronjobs", namespace, instance, &batchv1.CronJob{})
	// A CronJob need not label its Jobs; they are found by their owner.
	w.jobs = w.add(batch, "jobs", namespace, "", &batchv1.Job{})
	w.pods = w.add(core, "pods", namespace, instance, &corev1.Pod{})
	return w
}

func (w *watcher) add(c rest.Interface, resource, namespace, selector string, kind runtime.Object) cache.Store {
	notify := func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(c, resource, namespace, func(o *metav1.ListOptions) { o.LabelSelector = selector }),
		ObjectType:    kind,
		Transform:     Strip,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { notify() }, UpdateFunc: func(_, _ any) { notify() }, DeleteFunc: func(any) { notify() },
		},
	})
	w.controllers = append(w.controllers, controller)
	return store
}

// tasks run the informers. They outlive every trouble of the API server: the reflector retries by itself.
func (w *watcher) tasks() []agent.Task {
	var all []agent.Task
	for _, c := range w.controllers {
		all = append(all, agent.Task{Name: "watching", Run: func(ctx context.Context) error {
			c.RunWithContext(ctx)
			return nil
		}})
	}
	return all
}

func (w *watcher) synced() bool {
	for _, c := range w.controllers {
		if !c.HasSynced() {
			return false
		}
	}
	return true
}

func (w *watcher) changes() <-chan struct{} { return w.changed }

// version asks the API server for its version.
func (w *watcher) version(ctx context.Context) (string, error) {
	raw, err := w.core.Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("asking the API server for its version: %w", err)
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("asking the API server for its version: %w", err)
	}
	return v.GitVersion, nil
}

// objects is what the stores hold. The pointers are shared with them: read only.
func (w *watcher) objects() objects {
	return objects{
		deployments: listed[*appsv1.Deployment](w.deployments), daemonSets: listed[*appsv1.DaemonSet](w.daemonSets),
		statefulSets: listed[*appsv1.StatefulSet](w.statefulSets), cronJobs: listed[*batchv1.CronJob](w.cronJobs),
		jobs: listed[*batchv1.Job](w.jobs), pods: listed[*corev1.Pod](w.pods),
	}
}

func listed[T any](s cache.Store) []T {
	var all []T
	for _, o := range s.List() {
		if t, is := o.(T); is {
			all = append(all, t)
		}
	}
	return all
}
