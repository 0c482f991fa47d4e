package recommender

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/client"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// silence is after how long it is told again that nobody knows yet what was.
const silence = time.Minute

// autoscaler is one as the API server has it: upstream's type, and what that does not know of the status. It is read so that one list serves
// both who recommends and who remembers; nobody keeps it.
type autoscaler struct {
	vpav1.VerticalPodAutoscaler

	Status autoscalerStatus `json:"status"` // in place of upstream's
}

// autoscalerStatus is its status. Explanations are read where they are asked for: what somebody else wrote there must not keep the others from
// being read.
type autoscalerStatus struct {
	vpav1.VerticalPodAutoscalerStatus

	Explanations json.RawMessage `json:"explanations"`
}

// DeepCopyObject implements runtime.Object.
func (a *autoscaler) DeepCopyObject() runtime.Object {
	c := &autoscaler{VerticalPodAutoscaler: *a.DeepCopy()}
	a.Status.DeepCopyInto(&c.Status.VerticalPodAutoscalerStatus)
	c.Status.Explanations = append(c.Status.Explanations, a.Status.Explanations...)
	return c
}

// plain is what upstream knows of it, and holds nothing of the rest.
func (a *autoscaler) plain() *vpav1.VerticalPodAutoscaler {
	vpa := a.VerticalPodAutoscaler
	vpa.Status = a.Status.VerticalPodAutoscalerStatus
	return &vpa
}

// autoscalerList is a list of them.
type autoscalerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []autoscaler `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *autoscalerList) DeepCopyObject() runtime.Object {
	c := &autoscalerList{TypeMeta: l.TypeMeta, Items: make([]autoscaler, len(l.Items))}
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	for i := range l.Items {
		if one, is := l.Items[i].DeepCopyObject().(*autoscaler); is {
			c.Items[i] = *one
		}
	}
	return c
}

// newAutoscalers makes a client that reads autoscalers as those.
func newAutoscalers(config *rest.Config) (rest.Interface, error) {
	version, scheme := rightsizing.Autoscalers().GroupVersion(), runtime.NewScheme()
	scheme.AddKnownTypeWithName(version.WithKind("VerticalPodAutoscaler"), &autoscaler{})
	scheme.AddKnownTypeWithName(version.WithKind("VerticalPodAutoscalerList"), &autoscalerList{})
	metav1.AddToGroupVersion(scheme, version)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion, c.NegotiatedSerializer = "/apis", &version, serializer.NewCodecFactory(scheme).WithoutConversion()
	made, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", version, err)
	}
	return made, nil
}

// watchAutoscalers lists and watches them until the context ends, as upstream's type. Of the first list it is remembered what a process before
// this one said; a list of its own for that would be as long again, and a restart of a large cluster's is mostly reading.
func (l *leader) watchAutoscalers(ctx context.Context, from rest.Interface) cache.SharedIndexInformer {
	both := cache.NewListWatchFromClient(from, rightsizing.Autoscalers().Resource, metav1.NamespaceAll, fields.Everything())
	list, watch := both.ListWithContextFunc, both.WatchFuncWithContext
	both.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		if !l.knows() && o.ResourceVersion == "0" {
			o.ResourceVersion = "" // of any age: what the process before this one wrote last might not be in it, and is not remembered later
		}
		all, err := list(ctx, o)
		l.unknown(ctx, err)
		return all, err
	}
	both.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
		stream, err := watch(ctx, o)
		if !apierrors.IsInvalid(err) { // an API server that does not stream lists; it is asked for a list next
			l.unknown(ctx, err)
		}
		return stream, err
	}
	return begin(ctx, cache.NewSharedIndexInformer(both, &autoscaler{}, 0, byNamespace()), l.take)
}

// unknown tells why it is not known yet what was. The informer tries again by itself, and of some errors it tells nobody.
func (l *leader) unknown(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil && !l.knows() {
		l.deps.Log.Warn("nothing is recommended until it is known what was", "error", err)
	}
}

// knows says whether it is known what a process before this one said.
func (l *leader) knows() bool {
	select {
	case <-l.recalled:
		return true
	default:
		return false
	}
}

// take makes of what was read what upstream reads, and remembers what it says until all of the first list was read. A list that failed half way is
// read again, so that one may be remembered twice. Of lists that are streamed the informer gives what was taken once more.
func (l *leader) take(obj any) (any, error) {
	one, is := obj.(*autoscaler)
	if !is {
		return client.StripManagedFields(obj)
	}
	vpa := one.plain()
	l.recalling.Lock()
	if !l.knows() {
		r := remembered{VerticalPodAutoscaler: vpa}
		if json.Unmarshal(one.Status.Explanations, &r.why) != nil { // there are none, or somebody else's, which are not ours to understand
			r.why = nil
		}
		l.remember(r)
	}
	l.recalling.Unlock()
	return client.StripManagedFields(vpa)
}

// recollect waits until all of the first list was taken: the first round writes over it, and what is held of memory that ran out would be gone with
// it, as would the number that keeps replays out. From then on nothing is remembered, and rounds have what was for themselves.
func (l *leader) recollect(ctx context.Context, listed <-chan struct{}) error {
	for began := time.Now(); ; {
		l.loop.Turn()
		select {
		case <-listed:
			l.recalling.Lock()
			defer l.recalling.Unlock()
			close(l.recalled)
			return nil
		case <-ctx.Done():
			return fmt.Errorf("waiting for what autoscalers say: %w", ctx.Err())
		case <-time.After(silence):
			l.deps.Log.Warn("nothing is recommended until it is known what was", "waiting", time.Since(began).Round(time.Second).String())
		}
	}
}
