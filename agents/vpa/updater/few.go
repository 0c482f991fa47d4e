package updater

import (
	"fmt"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nopsctl/nopsctl/agents/vpa/foreign"
)

// tooFew says why no pod of a workload is changed for as long as it is to have as many as now, empty where that is no matter of how many it has, or
// only until the others run. It is about autoscalers without settings: upstream's restriction changes nothing of what has fewer than minReplicas.
func (u *Updater) tooFew(p *plan, pod *corev1.Pod) string {
	by := metav1.GetControllerOf(pod)
	if p.settings.Owned || by == nil {
		return ""
	}
	least := int64(u.MinReplicas)
	if policy := p.Spec.UpdatePolicy; policy != nil && policy.MinReplicas != nil {
		least = int64(*policy.MinReplicas)
	}
	there := int64(0) // with the same controller, as upstream counts them
	for _, other := range p.pods {
		if c := metav1.GetControllerOf(other); c != nil && c.UID == by.UID {
			if there++; there >= least {
				return ""
			}
		}
	}
	wants := u.desired(p, by)
	if wants <= 0 || wants >= least {
		return ""
	}
	pods := "1 pod"
	if wants > 1 {
		pods = fmt.Sprint(wants, " pods")
	}
	return fmt.Sprintf("its workload is to have %s, fewer than minReplicas (%d), so that none is resized or evicted: spec.updatePolicy.minReplicas of the autoscaler", pods, least)
}

// desired is how many pods the workload of a pod with that controller is to have; 0 is not known, or none.
func (u *Updater) desired(p *plan, by *metav1.OwnerReference) int64 {
	if by.Kind == "Job" {
		return u.replicas(foreign.Ref{Namespace: p.Namespace, Kind: by.Kind, Name: by.Name}) // upstream counts the pods of each Job
	}
	if n := u.replicas(ref(&p.VerticalPodAutoscaler)); n > 0 {
		return n
	}
	// One of a kind that is not known here, as a Rollout: it is what its controllers are to have together.
	var seen []types.UID
	sum := int64(0)
	for _, pod := range p.pods {
		c := metav1.GetControllerOf(pod)
		if c == nil || slices.Contains(seen, c.UID) {
			continue
		}
		n := u.replicas(foreign.Ref{Namespace: p.Namespace, Kind: c.Kind, Name: c.Name})
		if n <= 0 {
			return 0
		}
		sum, seen = sum+n, append(seen, c.UID)
	}
	return sum
}

// replicas is how many pods an object is to have; 0 is not known, or none.
func (u *Updater) replicas(r foreign.Ref) int64 {
	set := func(n *int32, otherwise int64) int64 {
		if n == nil {
			return otherwise
		}
		return int64(*n)
	}
	switch o := u.workload(r).(type) {
	case *appsv1.Deployment:
		return set(o.Spec.Replicas, 1)
	case *appsv1.StatefulSet:
		return set(o.Spec.Replicas, 1)
	case *appsv1.ReplicaSet:
		return set(o.Spec.Replicas, 1)
	case *appsv1.DaemonSet:
		return int64(o.Status.DesiredNumberScheduled)
	case *batchv1.Job:
		return min(set(o.Spec.Parallelism, 1), set(o.Spec.Completions, math.MaxInt64))
	}
	if r.Kind == "ReplicationController" {
		if c, err := u.kubeFactory.Core().V1().ReplicationControllers().Lister().ReplicationControllers(r.Namespace).Get(r.Name); err == nil {
			return set(c.Spec.Replicas, 1)
		}
	}
	return 0
}
