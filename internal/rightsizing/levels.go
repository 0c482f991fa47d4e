package rightsizing

import (
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Estimation is how usage becomes a recommendation: percentiles of it, each with the margin added. Lower and Upper bound what is close
// enough.
type Estimation struct {
	CPU, Memory Percentiles
	Margin      float64 // as a fraction
}

// Percentiles are from 0 to 1.
type Percentiles struct{ Lower, Target, Upper float64 }

// Upstream is the estimation of an autoscaler without settings: what upstream's recommender does unless it is told otherwise.
func Upstream() Estimation {
	p := Percentiles{0.5, 0.9, 0.95}
	return Estimation{CPU: p, Memory: p, Margin: 0.15}
}

// Estimation is that of a level; upstream's, and false, of a word that is none. CPU that is short slows a container, memory that is short kills it: memory
// goes by a higher percentile on every level, and its samples are a day's peaks to begin with.
func (l Level) Estimation() (Estimation, bool) {
	switch l {
	case MaximumSavings:
		return Estimation{CPU: Percentiles{0.5, 0.8, 0.9}, Memory: Percentiles{0.5, 0.9, 0.95}, Margin: 0.05}, true
	case BalancedSavings:
		return Estimation{CPU: Percentiles{0.5, 0.9, 0.95}, Memory: Percentiles{0.6, 0.95, 0.98}, Margin: 0.10}, true
	case BalancedPerformance:
		return Estimation{CPU: Percentiles{0.6, 0.95, 0.98}, Memory: Percentiles{0.8, 0.98, 0.99}, Margin: 0.15}, true
	case MaximumPerformance:
		return Estimation{CPU: Percentiles{0.8, 0.99, 1}, Memory: Percentiles{0.9, 1, 1}, Margin: 0.25}, true
	}
	return Upstream(), false
}

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
