package rules

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	vpav1 "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/apis/autoscaling.k8s.io/v1"
	vpautil "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/utils/vpa"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// Defaults of what settings leave out.
const (
	DefaultCooldown    = 30 * time.Minute
	DefaultObservation = 24 * time.Hour
	DefaultFailures    = 5
	DefaultRest        = time.Hour
)

// Settings are what holds for an autoscaler, with the defaults filled in.
type Settings struct {
	rightsizing.Effective
	// Owned says that there are settings. Without them upstream's defaults hold: no floors, no windows, no waiting, and its own rules about
	// replicas.
	Owned bool
	// Floors, Cooldown, Observation and Windows as they are meant.
	Floors      corev1.ResourceList
	Cooldown    time.Duration
	Observation time.Duration
	Windows     []OpenWindow
	// Failures and Rest are the circuit breaker's.
	Failures int
	Rest     time.Duration
}

// Effective reads the settings of an autoscaler. Where they cannot be read, or mean nothing, there is an error that says so, and nothing
// may be applied: what somebody wanted to forbid is not known then.
func Effective(vpa *vpav1.VerticalPodAutoscaler) (Settings, error) {
	text, is := vpa.Annotations[rightsizing.AnnotationSettings]
	if !is {
		return Settings{Failures: DefaultFailures, Rest: DefaultRest}, nil
	}
	s := Settings{Owned: true, Cooldown: DefaultCooldown, Observation: DefaultObservation, Failures: DefaultFailures, Rest: DefaultRest}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields() // a word that is spelt wrong may be the one that was to keep something from happening
	err := d.Decode(&s.Effective)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind the object")
		}
	}
	if err == nil {
		err = s.fill()
	}
	if err != nil {
		return Settings{Owned: true, Failures: DefaultFailures, Rest: DefaultRest}, fmt.Errorf("annotation %s of %s/%s: %w", rightsizing.AnnotationSettings, vpa.Namespace, vpa.Name, err)
	}
	return s, nil
}

// fill checks the settings and fills in the defaults.
func (s *Settings) fill() error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	s.words(&errs)
	if s.Level != "" && !slices.Contains(rightsizing.Levels(), s.Level) {
		say("level %q is none of %v", s.Level, rightsizing.Levels())
	}
	if s.MaxStep.Up < 0 || s.MaxStep.Down < 0 || s.MaxStep.Down > rightsizing.MaxStepDown {
		say("maxStep: up %d is below 0, or down %d is not between 0 and %d percent", s.MaxStep.Up, s.MaxStep.Down, rightsizing.MaxStepDown)
	}
	s.Floors = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	for name, q := range s.Effective.Floors {
		if name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory) || q.Sign() < 0 {
			say("floors: %s of %s is neither cpu nor memory, or below zero", q.String(), name)
		}
		s.Floors[corev1.ResourceName(name)] = q
	}
	for _, names := range [][]string{s.Align, s.Yield} {
		for _, name := range names {
			if name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory) {
				say("align, yield: %q is neither cpu nor memory", name)
			}
		}
	}
	span(&errs, "cooldown", s.Effective.Cooldown, &s.Cooldown)
	span(&errs, "observation", s.Effective.Observation, &s.Observation)
	for _, w := range s.Effective.Windows {
		one, err := ParseWindow(w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.Windows = append(s.Windows, one)
	}
	b := s.Budget
	if b.ClusterPerHour < 0 || b.NamespacePerHour < 0 || b.EvictionsPerHour < 0 || b.StopAfterFailures < 0 || b.StopForMinutes < 0 {
		say("budget: there is a number below 0 in it")
	}
	if b.StopAfterFailures > 0 {
		s.Failures = int(b.StopAfterFailures)
	}
	if b.StopForMinutes > 0 {
		s.Rest = time.Duration(b.StopForMinutes) * time.Minute
	}
	return errors.Join(errs...)
}

// words checks those that have to be one of several.
func (s *Settings) words(errs *[]error) {
	word(errs, "apply", s.Apply, rightsizing.ApplyInPlace, rightsizing.ApplyInPlaceOrRecreate, rightsizing.ApplyInitial)
	word(errs, "singleReplica", s.SingleReplica, rightsizing.SingleInPlace, rightsizing.SingleNever, rightsizing.SingleEvict)
	word(errs, "hpa", s.HPA, rightsizing.HPAYield, rightsizing.HPAAlign)
	word(errs, "jvm", s.JVM, rightsizing.GuardJVM, rightsizing.IgnoreJVM)
	for _, r := range resources() {
		name, rule := "limits."+string(r), s.Limits.CPU
		if r == corev1.ResourceMemory {
			rule = s.Limits.Memory
		}
		word(errs, name+".mode", rule.Mode, rightsizing.LimitsRatio, rightsizing.LimitsHeadroom, rightsizing.LimitsKeep, rightsizing.LimitsNone)
		if rule.Headroom < 0 || rule.Headroom > rightsizing.MaxHeadroom {
			*errs = append(*errs, fmt.Errorf("%s.headroom: %d is not between 0 and %d percent", name, rule.Headroom, rightsizing.MaxHeadroom))
		}
	}
}

// word complains of a word that is none of those known; none is the first.
func word[T ~string](errs *[]error, name string, is T, known ...T) {
	if is != "" && !slices.Contains(known, is) {
		*errs = append(*errs, fmt.Errorf("%s: %q is none of %v", name, is, known))
	}
}

func span(errs *[]error, name string, is *metav1.Duration, to *time.Duration) {
	if is == nil {
		return
	}
	if is.Duration < 0 {
		*errs = append(*errs, fmt.Errorf("%s: %s is below zero", name, is.Duration))
	}
	*to = is.Duration
}

// Rule is what becomes of a resource's limit.
func (s Settings) Rule(r corev1.ResourceName) rightsizing.LimitRule {
	rule := s.Limits.CPU
	if r == corev1.ResourceMemory {
		rule = s.Limits.Memory
	}
	if rule.Mode == "" || rule.Mode == rightsizing.LimitsNone && r == corev1.ResourceMemory {
		// A container without a memory limit takes its node down with it.
		rule.Mode = rightsizing.LimitsRatio
	}
	return rule
}

// Aligned says that a HorizontalPodAutoscaler's target follows the requests of a resource.
func (s Settings) Aligned(r corev1.ResourceName) bool { return slices.Contains(s.Align, string(r)) }

// GuardsJVM says whether Java is looked for.
func (s Settings) GuardsJVM() bool { return s.Owned && s.JVM != rightsizing.IgnoreJVM }

// Hold is a reason that an autoscaler's pods are left alone, whichever they are: a state of rightsizing.Application, and why. The zero
// value is none.
type Hold struct {
	State, Why string
	// Until is when it ends, where that is known.
	Until time.Time
}

// Is says whether there is a reason.
func (h Hold) Is() bool { return h.State != "" }

// Held says whether an autoscaler's pods, new ones included, are left alone. The error is Effective's.
func Held(vpa *vpav1.VerticalPodAutoscaler, s Settings, err error, known Known, now time.Time) Hold {
	mode := vpautil.GetUpdateMode(vpa)
	_, leaving := vpa.Annotations[rightsizing.AnnotationLeaving]
	switch at, reverted := vpa.Annotations[rightsizing.AnnotationReverted]; {
	case reverted: // also where no policy sizes it any more: it stays for that mark
		return Hold{State: rightsizing.StateRecommend, Why: "reverted at " + at + "; remove annotation " + rightsizing.AnnotationReverted + " to go on"}
	case leaving:
		return Hold{State: rightsizing.StateLeaving, Why: "no policy sizes it any more; the autoscaler goes when its pods have their template's requests again"}
	case err != nil:
		return Hold{State: rightsizing.StateRecommend, Why: "the settings cannot be read, so nothing is applied: " + err.Error()}
	case s.Paused:
		return Hold{State: rightsizing.StateStopped, Why: fmt.Sprintf("policy %s is paused", s.Policy)}
	case mode == vpav1.UpdateModeOff:
		why := "it is only recommended: the update mode is Off"
		if vain := unsupported(vpa); vain != "" {
			why += "; " + vain
		}
		return Hold{State: rightsizing.StateRecommend, Why: why}
	case unsupported(vpa) != "":
		return Hold{State: rightsizing.StateImpossible, Why: unsupported(vpa)}
	case !recommends(vpa):
		return Hold{State: rightsizing.StateWaiting, Why: "there is no recommendation yet"}
	}
	if !s.Owned || known.Changed {
		return Hold{}
	}
	begin := vpa.CreationTimestamp.Time
	if !known.Watched.IsZero() {
		begin = known.Watched
	}
	if until := begin.Add(s.Observation); until.After(now) {
		return Hold{State: rightsizing.StateWaiting, Why: fmt.Sprintf("it is watched for %s before it is changed for the first time", s.Observation), Until: until}
	}
	return Hold{}
}

func recommends(vpa *vpav1.VerticalPodAutoscaler) bool {
	return vpa.Status.Recommendation != nil && len(vpa.Status.Recommendation.ContainerRecommendations) > 0
}

// unsupported says why there is no recommendation and will be none, as the recommender has it: the workload belongs to an object that has replicas
// of its own, say, by which its pods are told. Empty is that there is one, or will be. One that is there holds while its target cannot be read.
func unsupported(vpa *vpav1.VerticalPodAutoscaler) string {
	if recommends(vpa) {
		return ""
	}
	for i := range vpa.Status.Conditions {
		if c := &vpa.Status.Conditions[i]; c.Type == vpav1.ConfigUnsupported && c.Status == corev1.ConditionTrue {
			return "nothing is recommended: " + cmp.Or(c.Message, c.Reason)
		}
	}
	return ""
}

// KnownOf is what an autoscaler's status says of its workload besides the recommendation.
func KnownOf(a rightsizing.Application, explanations []rightsizing.Explanation) Known {
	k := Known{Changed: !a.LastChange.IsZero()}
	for name, requests := range a.Requests {
		if k.Sized == nil {
			k.Sized = map[string]corev1.ResourceList{}
		}
		k.Sized[name] = corev1.ResourceList{}
		for r, q := range requests {
			k.Sized[name][corev1.ResourceName(r)] = q
		}
	}
	since := map[string]time.Time{} // by resource: a container that is new is not what is waited for, a peak of memory is
	for _, e := range explanations {
		if first := since[e.Resource]; !e.Since.IsZero() && (first.IsZero() || e.Since.Before(first)) {
			since[e.Resource] = e.Since
		}
		if e.Resource == string(corev1.ResourceMemory) && e.Peak.Sign() > 0 {
			if k.Peaks == nil {
				k.Peaks = map[string]resource.Quantity{}
			}
			k.Peaks[e.Container] = e.Peak
		}
	}
	for _, first := range since {
		if first.After(k.Watched) {
			k.Watched = first
		}
	}
	return k
}
