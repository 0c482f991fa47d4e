package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// instanceLabel carries the Helm release on every object of the chart.
const instanceLabel = "app.kubernetes.io/instance"

// clients are REST clients of three API groups. The generated clientset would bring every type of every group into the
// binary and a good part of them into memory.
type clients struct{ core, apps, batch rest.Interface }

func newClients(config *rest.Config) (*clients, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.ConfigMap{}, &corev1.Event{})
	scheme.AddKnownTypes(appsv1.SchemeGroupVersion, &appsv1.Deployment{}, &appsv1.DeploymentList{}, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{},
		&appsv1.StatefulSet{}, &appsv1.StatefulSetList{})
	scheme.AddKnownTypes(batchv1.SchemeGroupVersion, &batchv1.CronJob{}, &batchv1.CronJobList{}, &batchv1.Job{}, &batchv1.JobList{})
	groups := []schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion, batchv1.SchemeGroupVersion}
	for _, gv := range groups {
		metav1.AddToGroupVersion(scheme, gv)
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()

	made := make([]rest.Interface, len(groups))
	// One HTTP client, hence one connection to the API server.
	c := rest.CopyConfig(config)
	if c.Proxy == nil {
		// The environment's proxy is for the way out of the cluster; the API server is inside.
		c.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	c.DisableCompression = true // saves a decompressor of tens of KiB a stream, on a network that is near
	httpClient, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client of the Kubernetes API: %w", err)
	}
	for i, gv := range groups {
		g := rest.CopyConfig(c)
		g.GroupVersion, g.NegotiatedSerializer = &gv, codecs
		g.ContentType, g.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
		g.APIPath = "/apis"
		if gv.Group == "" {
			g.APIPath = "/api"
		}
		if made[i], err = rest.RESTClientForConfigAndClient(g, httpClient); err != nil {
			return nil, fmt.Errorf("making a client of %s: %w", gv, err)
		}
	}
	return &clients{core: made[0], apps: made[1], batch: made[2]}, nil
}

// watcher keeps what belongs to the release in memory, stripped.
type watcher struct {
	deployments, daemonSets, statefulSets, cronJobs, jobs, pods cache.Store
	controllers                                                 []cache.Controller
	changed                                                     chan struct{}
	core                                                        rest.Interface
}

func newWatcher(c *clients, namespace, release string) *watcher {
	w := &watcher{changed: make(chan struct{}, 1), core: c.core}
	instance := instanceLabel + "=" + release
	w.deployments = w.add(c.apps, "deployments", namespace, instance, &appsv1.Deployment{})
	w.daemonSets = w.add(c.apps, "daemonsets", namespace, instance, &appsv1.DaemonSet{})
	w.statefulSets = w.add(c.apps, "statefulsets", namespace, instance, &appsv1.StatefulSet{})
	w.cronJobs = w.add(c.batch, "cronjobs", namespace, instance, &batchv1.CronJob{})
	// A CronJob need not label its Jobs; they are found by their owner.
	w.jobs = w.add(c.batch, "jobs", namespace, "", &batchv1.Job{})
	w.pods = w.add(c.core, "pods", namespace, instance, &corev1.Pod{})
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

// writer writes the two things the agent may write.
type writer struct {
	core      rest.Interface
	namespace string
}

// errStatus is the HTTP status of an answer of the API server, 0 when there is none. (apimachinery's errors package knows as
// much, and more than is needed here.)
func errStatus(err error) int32 {
	var status interface{ Status() metav1.Status }
	if errors.As(err, &status) {
		return status.Status().Code
	}
	return 0
}

// ConfigMap makes the object be as given. It reads first: most calls change nothing.
func (w *writer) ConfigMap(ctx context.Context, want *corev1.ConfigMap) error {
	var have corev1.ConfigMap
	err := w.core.Get().Namespace(w.namespace).Resource("configmaps").Name(want.Name).Do(ctx).Into(&have)
	switch {
	case errStatus(err) == http.StatusNotFound:
		err = w.core.Post().Namespace(w.namespace).Resource("configmaps").Body(want).Do(ctx).Error()
	case err != nil:
	case equalMaps(have.Data, want.Data) && containsMap(have.Labels, want.Labels):
		return nil
	default:
		update := have.DeepCopy()
		update.Data = want.Data
		if update.Labels == nil {
			update.Labels = map[string]string{}
		}
		for k, v := range want.Labels {
			update.Labels[k] = v
		}
		err = w.core.Put().Namespace(w.namespace).Resource("configmaps").Name(want.Name).Body(update).Do(ctx).Error()
	}
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", w.namespace, want.Name, err)
	}
	return nil
}

// Event creates an event.
func (w *writer) Event(ctx context.Context, e *corev1.Event) error {
	if err := w.core.Post().Namespace(w.namespace).Resource("events").Body(e).Do(ctx).Error(); err != nil {
		return fmt.Errorf("writing an event about %s %s/%s: %w", e.InvolvedObject.Kind, w.namespace, e.InvolvedObject.Name, err)
	}
	return nil
}

func equalMaps(a, b map[string]string) bool { return len(a) == len(b) && containsMap(a, b) }

func containsMap(all, some map[string]string) bool {
	for k, v := range some {
		if have, is := all[k]; !is || have != v {
			return false
		}
	}
	return true
}
