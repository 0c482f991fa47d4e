package rightsizing

import (
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nopsctl/nopsctl/internal/rightsizing/level"
)

// What the levels mean is in the package level, for those who know nothing of Kubernetes.
type (
	// Level is one of the four published levels, from the cheapest to the safest.
	Level = level.Level
	// Estimation is how usage becomes a recommendation.
	Estimation = level.Estimation
	// Percentiles are from 0 to 1.
	Percentiles = level.Percentiles
)

// Levels.
const (
	MaximumSavings      = level.MaximumSavings
	BalancedSavings     = level.BalancedSavings
	BalancedPerformance = level.BalancedPerformance
	MaximumPerformance  = level.MaximumPerformance
)

// Levels are all of them, in their order.
func Levels() []Level { return level.All() }

// Upstream is the estimation of an autoscaler without settings: what upstream's recommender does unless it is told otherwise.
func Upstream() Estimation { return level.Upstream() }

// Floor is what a container never goes below of a resource, cpu or memory.
func (s Settings) Floor(name string) resource.Quantity {
	if q, is := s.Floors[name]; is {
		return q
	}
	switch name {
	case "cpu":
		return *resource.NewMilliQuantity(10, resource.DecimalSI)
	case "memory":
		return *resource.NewQuantity(32<<20, resource.BinarySI)
	}
	return resource.Quantity{}
}

// EffectiveOf reads the settings of an autoscaler from its annotations; nil when it has none, and upstream's defaults hold. Settings that
// cannot be read are an error: nobody guesses what a person meant. Without a
// level upstream's percentiles hold.
func EffectiveOf(annotations map[string]string) (*Effective, error) {
	text, is := annotations[AnnotationSettings]
	if !is {
		return nil, nil
	}
	var e Effective
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, fmt.Errorf("reading annotation %s: %w", AnnotationSettings, err)
	}
	if _, is := e.Level.Estimation(); !is && e.Level != "" {
		return nil, fmt.Errorf("annotation %s: level %q is none of %v", AnnotationSettings, e.Level, Levels())
	}
	return &e, nil
}

// OOMHold is for how long a container that ran out of memory keeps the memory it was given then, whatever its usage says since: the length
// of the memory that upstream's model has.
const OOMHold = 8 * 24 * time.Hour

// YieldsOf says, by resource, why it is left to a HorizontalPodAutoscaler, as far as that is known: nil where it is not, or cannot be read.
func YieldsOf(annotations map[string]string) map[string]string {
	var why map[string]string
	if json.Unmarshal([]byte(annotations[AnnotationYields]), &why) != nil {
		return nil
	}
	return why
}
