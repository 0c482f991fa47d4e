package feed

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestKilledWhileResized: one update tells of a kill and of a resize, and the container was killed with what it had before.
func TestKilledWhileResized(t *testing.T) {
	for _, tt := range []struct{ from, uid, to, want string }{{"64Mi", "1", "190Mi", "64Mi"}, {"300Mi", "1", "200Mi", "200Mi"}, {"64Mi", "1", "64Mi", "64Mi"}, {"64Mi", "another", "190Mi", "190Mi"}} {
		pod := func(uid, has string, state corev1.ContainerState) *corev1.Pod {
			of := func(memory string) corev1.ResourceRequirements {
				return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}
			}
			status := of(has)
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cart-1", UID: types.UID(uid)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: of(tt.to)}}}, // is asked for already
				Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: state, Resources: &status}}},
			}
		}
		o, want := NewObserver(), resource.MustParse(tt.want)
		o.OnUpdate(pod(tt.uid, tt.from, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}), pod("1", tt.to, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled"}}))
		if got := o.take(); len(got) != 1 || int64(got[0].Memory) != want.Value() {
			t.Errorf("resized from %s to %s: %v, want one with %s", tt.from, tt.to, got, tt.want)
		}
	}
}
