package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	resourceadmission "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/admission-controller/resource/pod/patch"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	"k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/annotations"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Resizer is the field manager of what the updater resizes: its name.
const Resizer = "nops-vpa-updater"

func isResize(m *metav1.ManagedFieldsEntry) bool {
	return m.Subresource == "resize" && m.Manager == Resizer && m.FieldsV1 != nil
}

// WasSized says whether what a container requests of a resource may be of a sizing.
func WasSized(pod *corev1.Pod, container string, r corev1.ResourceName) bool {
	return Gave(pod, container, "requests", r)
}

// Gave says whether one of a container's requests or limits may be of a sizing: the webhook notes on a pod what it sized, and the API server
// knows who resized it. What is nobody's of these is its template's, or of somebody else's webhook, as the next pod's will be.
func Gave(pod *corev1.Pod, container, field string, r corev1.ResourceName) bool {
	if noted(pod, container, string(r)+" "+strings.TrimSuffix(field, "s")) {
		return true
	}
	type owned struct {
		Resources map[string]map[string]struct{} `json:"f:resources"`
	}
	key, of := fmt.Sprintf("k:{\"name\":%q}", container), "f:"+string(r)
	for i := range pod.ManagedFields {
		var fields struct {
			Spec struct {
				Containers     map[string]owned `json:"f:containers"`
				InitContainers map[string]owned `json:"f:initContainers"`
			} `json:"f:spec"`
		}
		if m := &pod.ManagedFields[i]; !isResize(m) || json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		_, is := fields.Spec.Containers[key].Resources["f:"+field][of]
		_, sidecar := fields.Spec.InitContainers[key].Resources["f:"+field][of]
		if is || sidecar {
			return true
		}
	}
	return false
}

// Where the webhook's note is about which container: by its place among the containers, as upstream writes it, or by its name.
var about = regexp.MustCompile(`(?:: |; )(?:container (\d+)|sidecar ([a-z0-9-]+)): `)

// aboutSidecar is the note's text about a native sidecar, of which upstream knows nothing.
func aboutSidecar(s Sized) string {
	var what []string
	for _, of := range []struct {
		list corev1.ResourceList
		kind string
	}{{s.Target.Requests, " request"}, {s.Target.Limits, " limit"}} {
		for _, r := range slices.Sorted(maps.Keys(of.list)) {
			what = append(what, string(r)+of.kind)
		}
	}
	return "sidecar " + s.Name + ": " + strings.Join(what, ", ")
}

// noted says whether the webhook's note says of a container that it changed this, for example "memory request".
func noted(pod *corev1.Pod, container, what string) bool {
	note := pod.Annotations[patch.ResourceUpdatesAnnotation]
	if !strings.Contains(note, what) {
		return false
	}
	parts := about.FindAllStringSubmatchIndex(note, -1)
	for i, at := range parts {
		text := note[at[1]:]
		if i+1 < len(parts) {
			text = note[at[1]:parts[i+1][0]]
		}
		if name := namedIn(pod, note, at); name == container && slices.Contains(strings.Split(text, ", "), what) {
			return true
		}
	}
	return false
}

// namedIn is the container that a part of the note is about. Those that the webhook saw are written down beside it, for others may have put
// theirs before them since.
func namedIn(pod *corev1.Pod, note string, at []int) string {
	if at[4] >= 0 {
		return note[at[4]:at[5]]
	}
	i, err := strconv.Atoi(note[at[2]:at[3]])
	if err != nil {
		return ""
	}
	if seen, err := annotations.ParseVpaObservedContainersValue(pod.Annotations[annotations.VpaObservedContainersLabel]); err == nil && i < len(seen) {
		return seen[i]
	}
	if i < len(pod.Spec.Containers) {
		return pod.Spec.Containers[i].Name
	}
	return ""
}

// observer notes on a new pod which containers the webhook sees. Upstream's notes those of the pod alone: native sidecars, of which it knows nothing, come
// after them, so that the place of a container among those noted stays what it is in the pod.
type observer struct{}

// NewObserver makes the calculator of the annotation vpaObservedContainers.
func NewObserver() patch.Calculator { return observer{} }

// PatchResourceTarget implements patch.Calculator.
func (observer) PatchResourceTarget() patch.PatchResourceTarget { return patch.Pod }

// CalculatePatches implements patch.Calculator.
func (observer) CalculatePatches(pod *corev1.Pod, _ *vpav1.VerticalPodAutoscaler) ([]resourceadmission.PatchRecord, error) {
	return []resourceadmission.PatchRecord{patch.GetAddAnnotationPatch(annotations.VpaObservedContainersLabel, annotations.GetVpaObservedContainersValue(asContainers(pod)))}, nil
}

// added names the containers of a pod that runs which the webhook did not see, for somebody's webhook that is asked later added them: the note tells.
// Without one, or with one that cannot be read, all count as seen, as upstream has it: the pod was made while nobody was asked. Of a native sidecar
// the note of upstream's webhook says nothing; one of the template is seen.
func (in Input) added() []string {
	note, is := in.Pod.Annotations[annotations.VpaObservedContainersLabel]
	if !is || Creating(in.Pod) {
		return nil
	}
	seen, err := annotations.ParseVpaObservedContainersValue(note)
	if err != nil {
		return nil
	}
	var names []string
	for i := range in.Pod.Spec.Containers {
		if name := in.Pod.Spec.Containers[i].Name; !slices.Contains(seen, name) {
			names = append(names, name)
		}
	}
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		if _, made := in.Template[c.Name]; isSidecar(c) && !made && !slices.Contains(seen, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// Without is a pod without some of its containers, as the webhook sees what comes instead of it. Its class of service is of those that are left.
func Without(pod *corev1.Pod, names []string) *corev1.Pod {
	is := func(c corev1.Container) bool { return slices.Contains(names, c.Name) }
	to := *pod
	to.Spec.Containers, to.Spec.InitContainers = slices.DeleteFunc(slices.Clone(pod.Spec.Containers), is), slices.DeleteFunc(slices.Clone(pod.Spec.InitContainers), is)
	to.Status.QOSClass = ""
	return &to
}

// TemplatesOf finds what pods are made from, by their controllers, as a factory's informers know them; nil where that is not known. It registers those: call it before the
// factory starts.
func TemplatesOf(factory informers.SharedInformerFactory) func(*corev1.Pod) *corev1.PodSpec {
	apps, batch := factory.Apps().V1(), factory.Batch().V1()
	sets, stateful, daemons, jobs := apps.ReplicaSets().Lister(), apps.StatefulSets().Lister(), apps.DaemonSets().Lister(), batch.Jobs().Lister()
	return func(pod *corev1.Pod) *corev1.PodSpec {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			return nil
		}
		var is types.UID
		var template *corev1.PodTemplateSpec
		switch owner.Kind {
		case "ReplicaSet":
			if o, err := sets.ReplicaSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "StatefulSet":
			if o, err := stateful.StatefulSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "DaemonSet":
			if o, err := daemons.DaemonSets(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		case "Job":
			if o, err := jobs.Jobs(pod.Namespace).Get(owner.Name); err == nil {
				is, template = o.UID, &o.Spec.Template
			}
		}
		if template == nil || is != owner.UID {
			return nil
		}
		return &template.Spec
	}
}

// OlderOf says of pods that they were made from an older template than their controllers have now, as below a StatefulSet's partition, or where a
// DaemonSet's are replaced when somebody deletes them. It registers a factory's informers: call it before the factory starts.
func OlderOf(factory informers.SharedInformerFactory) func(*corev1.Pod) bool {
	stateful, daemons := factory.Apps().V1().StatefulSets().Lister(), factory.Apps().V1().DaemonSets().Lister()
	return func(pod *corev1.Pod) bool {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			return false
		}
		switch owner.Kind {
		case "StatefulSet":
			if o, err := stateful.StatefulSets(pod.Namespace).Get(owner.Name); err == nil && o.Status.UpdateRevision != "" {
				return o.Status.ObservedGeneration < o.Generation || pod.Labels[appsv1.StatefulSetRevisionLabel] != o.Status.UpdateRevision
			}
		case "DaemonSet":
			if o, err := daemons.DaemonSets(pod.Namespace).Get(owner.Name); err == nil {
				now, made := o.Annotations[appsv1.DeprecatedTemplateGeneration], pod.Labels[templateGeneration]
				return now != "" && made != "" && now != made
			}
		}
		return false
	}
}

// templateGeneration is the label by which the DaemonSet controller says from which generation of the template a pod is made: extensions/v1beta1's
// DaemonSetTemplateGenerationKey, which it still writes.
const templateGeneration = "pod-template-generation"

// ControllersOf are the stores of a factory of upstream's well-known kinds. It registers their informers: call it before the factory starts.
func ControllersOf(f informers.SharedInformerFactory) map[schema.GroupKind]cache.Store {
	apps, batch := f.Apps().V1(), f.Batch().V1()
	return map[schema.GroupKind]cache.Store{
		{Group: "apps", Kind: "Deployment"}: apps.Deployments().Informer().GetStore(), {Group: "apps", Kind: "ReplicaSet"}: apps.ReplicaSets().Informer().GetStore(),
		{Group: "apps", Kind: "StatefulSet"}: apps.StatefulSets().Informer().GetStore(), {Group: "apps", Kind: "DaemonSet"}: apps.DaemonSets().Informer().GetStore(),
		{Group: "batch", Kind: "Job"}: batch.Jobs().Informer().GetStore(), {Group: "batch", Kind: "CronJob"}: batch.CronJobs().Informer().GetStore(),
		{Kind: "ReplicationController"}: f.Core().V1().ReplicationControllers().Informer().GetStore(),
	}
}

// WellKnown says whether upstream knows a kind by itself: its word about the kind's objects is a cache's.
func WellKnown(kind string) bool {
	switch kind {
	case "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController":
		return true
	}
	return false
}
