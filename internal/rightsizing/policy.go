package rightsizing

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Policy is a RightsizingPolicy: which workloads are rightsized, and how carefully. It is cluster-wide; with a namespaceSelector it is
// for those namespaces. Where several select a workload the one with the highest priority holds, then the first by name.
type Policy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   PolicySpec   `json:"spec"`
	Status PolicyStatus `json:"status,omitzero"`
}

// PolicySpec is what a person wants.
type PolicySpec struct {
	Level    Level `json:"level"`
	Priority int32 `json:"priority,omitempty"`
	// Paused is the kill switch: nothing is changed while true, by the webhook neither. What runs stays as it is.
	Paused bool `json:"paused,omitempty"`
	// DryRun recommends only.
	DryRun bool `json:"dryRun,omitempty"`
	// NamespaceSelector and Selector choose by labels of the namespace and of the workload; none chooses all.
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	Selector          *metav1.LabelSelector `json:"selector,omitempty"`
	// Kinds of workloads; none means Deployment, StatefulSet, DaemonSet and CronJob.
	Kinds []string `json:"kinds,omitempty"`

	// Containers are bounds by container name; "*" is for those not named.
	Containers []ContainerRule `json:"containers,omitempty"`
	Settings   `json:",inline"`
	Budget     Budget `json:"budget,omitzero"`
}

// ContainerRule bounds a container's requests.
type ContainerRule struct {
	Name string        `json:"name"`
	Mode ContainerMode `json:"mode,omitempty"`
	// Min and Max are by resource, cpu and memory.
	Min map[string]resource.Quantity `json:"min,omitempty"`
	Max map[string]resource.Quantity `json:"max,omitempty"`
}

// Settings are how a workload's containers are sized, and when. The policy controller writes those that hold into AnnotationSettings of
// the autoscaler, with Level, Policy, Paused and Budget. Durations are Go's ("30m").
type Settings struct {
	// Apply says how: InPlace (default) never evicts; InPlaceOrRecreate may, where nothing else helps; Initial sizes new pods only.
	Apply Apply `json:"apply,omitempty"`
	// Floors are what a container never goes below; 10m and 32Mi unless set.
	Floors map[string]resource.Quantity `json:"floors,omitempty"`
	Limits LimitsRule                   `json:"limits,omitzero"`
	// MaxStep bounds one change, in percent of the request as it is: 100 up doubles it at most, 50 down halves it at most. 0 does not bound.
	MaxStep Step `json:"maxStep,omitzero"`
	// Cooldown is the least time between two changes of one workload's pods; an out-of-memory kill does not wait for it. 30m unless set.
	Cooldown *metav1.Duration `json:"cooldown,omitempty"`
	// Observation is for how long a workload is watched before it is changed for the first time. 24h unless set.
	Observation *metav1.Duration `json:"observation,omitempty"`
	// Windows are when running pods may be changed; none means always. New pods are sized at any time.
	Windows []Window `json:"windows,omitempty"`
	// SingleReplica says what may be done to a workload with one pod: InPlace (default), Never, or Evict.
	SingleReplica SingleReplica `json:"singleReplica,omitempty"`
	// HPA says what happens to a resource on whose utilization a HorizontalPodAutoscaler scales: Yield (default) only recommends it, Align
	// changes the autoscaler's target in proportion, so that it scales at the same usage as before, and yields where that cannot be.
	HPA HPARule `json:"hpa,omitempty"`
	// WholeCPUs rounds up the CPU of a container of a Guaranteed pod that requests whole CPUs: the kubelet's static CPU manager gives it CPUs of its
	// own only then.
	WholeCPUs bool `json:"wholeCPUs,omitempty"`
	// JVM guards Java that a container's own command, arguments and variables tell of; options from a ConfigMap, a Secret, the image or a file are not
	// seen. Guard (default) does not lower a memory request below what the largest heap needs, by -Xmx, or by the share of the memory limit that
	// MaxRAMPercentage says, or 25 % where nothing is said; nor a limit below what -Xmx needs, nor one that the heap is a share of. Without a limit a
	// share is not known, and nothing is held. The max of a container wins. CPU is not lowered while Java starts. Ignore does none of this.
	JVM Guard `json:"jvm,omitempty"`
}

// Words of the settings.
type (
	// ContainerMode says whether a container is sized.
	ContainerMode string
	// Apply is how recommendations reach pods.
	Apply string
	// LimitsMode is what becomes of a limit.
	LimitsMode string
	// SingleReplica is what may be done to a workload with one pod.
	SingleReplica string
	// HPARule is how a HorizontalPodAutoscaler on the same resource is met.
	HPARule string
	// Guard is whether Java is looked for.
	Guard string
)

// Values of settings. The zero value of each type means the first. None is a word that YAML takes for something else: on, off, yes, no.
const (
	ContainerAuto   ContainerMode = "Auto"
	ContainerIgnore ContainerMode = "Ignore" // left alone

	ApplyInPlace           Apply = "InPlace"
	ApplyInPlaceOrRecreate Apply = "InPlaceOrRecreate"
	ApplyInitial           Apply = "Initial"

	LimitsRatio    LimitsMode = "Ratio"    // keep the template's proportion of limit to request
	LimitsHeadroom LimitsMode = "Headroom" // request plus a percentage
	LimitsKeep     LimitsMode = "Keep"     // the template's limit, which requests then do not exceed
	LimitsNone     LimitsMode = "None"     // take CPU limits away where that does not change the class of service; never memory's

	SingleInPlace SingleReplica = "InPlace"
	SingleNever   SingleReplica = "Never"
	SingleEvict   SingleReplica = "Evict"

	HPAYield HPARule = "Yield"
	HPAAlign HPARule = "Align"

	GuardJVM  Guard = "Guard"
	IgnoreJVM Guard = "Ignore"
)

// The largest numbers of settings, in percent. The policy's definition and whoever reads AnnotationSettings have the same: what one takes and the other
// does not would be a policy that holds nowhere, or a setting that no policy can have.
const (
	MaxHeadroom = 10000 // of LimitRule.Headroom
	MaxStepDown = 100   // of Step.Down: all of it, so that 100 bounds nothing. More cannot be taken.
)

// LimitsRule is what becomes of limits.
type LimitsRule struct {
	CPU    LimitRule `json:"cpu,omitzero"`
	Memory LimitRule `json:"memory,omitzero"`
}

// LimitRule is that of one resource. Headroom is in percent of the request, at most MaxHeadroom.
type LimitRule struct {
	Mode     LimitsMode `json:"mode,omitempty"`
	Headroom int32      `json:"headroom,omitempty"`
}

// Step bounds a change, in percent; 0 does not. Down is at most MaxStepDown.
type Step struct {
	Up   int32 `json:"up,omitempty"`
	Down int32 `json:"down,omitempty"`
}

// Window is when running pods may be changed: from each time of a cron schedule (five fields) on, for a duration. The time zone is an
// IANA name; none is UTC.
type Window struct {
	Schedule string          `json:"schedule"`
	Duration metav1.Duration `json:"duration"`
	TimeZone string          `json:"timeZone,omitempty"`
}

// Budget is how many pods may be changed within an hour, and evicted at all; 0 is without bound. The strictest of the policies' cluster
// budgets holds for the cluster.
type Budget struct {
	ClusterPerHour    int32 `json:"clusterPerHour,omitempty"`
	NamespacePerHour  int32 `json:"namespacePerHour,omitempty"`
	EvictionsPerHour  int32 `json:"evictionsPerHour,omitempty"`
	StopAfterFailures int32 `json:"stopAfterFailures,omitempty"` // the circuit breaker: so many changes that did not take hold within an hour; 5 unless set
	StopForMinutes    int32 `json:"stopForMinutes,omitempty"`    // how long it then rests; 60 unless set
}

// PolicyStatus is what the policy controller made of it.
type PolicyStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Workloads          int32              `json:"workloads,omitempty"` // that it selects and no other policy does
	Elsewhere          int32              `json:"elsewhere,omitempty"` // of them: sized by somebody else
	Leaving            int32              `json:"leaving,omitempty"`   // that it sized and does not any more, and whose pods do not have their template's requests again yet
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// Effective is what AnnotationSettings holds.
type Effective struct {
	Policy string `json:"policy"`
	Level  Level  `json:"level"`
	Paused bool   `json:"paused,omitempty"`
	// Align says for which resources the HorizontalPodAutoscaler's target was made to follow; Yield for which it could not be: those are only
	// recommended.
	Align  []string `json:"align,omitempty"`
	Yield  []string `json:"yield,omitempty"`
	Budget Budget   `json:"budget,omitzero"`
	Settings
}
