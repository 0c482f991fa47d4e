package updater

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// most departed pods that are kept until they are looked at: one of each Job that had one since the last time.
const mostDeparted = 5000

// departed are pods of Jobs that ended or went since they were looked at last. Those of a CronJob may never run when the others are looked at, and
// what they were given is what the next one's step is measured from.
type departed struct {
	mu   sync.Mutex
	last map[types.UID]*corev1.Pod // by Job
}

// watch keeps them from now on, until stop.
func (d *departed) watch(pods cache.SharedIndexInformer) (stop func(), err error) {
	registration, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: d.left})
	if err != nil {
		return nil, fmt.Errorf("watching pods that end: %w", err)
	}
	return func() { _ = pods.RemoveEventHandler(registration) }, nil
}

// left takes a pod in that the informer does not know any more: it is about those that have not ended.
func (d *departed) left(o any) {
	if unknown, is := o.(cache.DeletedFinalStateUnknown); is {
		o = unknown.Obj
	}
	pod, is := o.(*corev1.Pod)
	if !is {
		return
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || owner.Kind != "Job" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before, known := d.last[owner.UID]
	if known && pod.CreationTimestamp.Before(&before.CreationTimestamp) || !known && len(d.last) >= mostDeparted {
		return
	}
	if d.last == nil {
		d.last = map[types.UID]*corev1.Pod{}
	}
	d.last[owner.UID] = pod
}

// take gives those that left since it was asked last.
func (d *departed) take() map[types.UID]*corev1.Pod {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.last
	d.last = nil
	return last
}
