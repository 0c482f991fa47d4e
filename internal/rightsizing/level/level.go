// Package level says what the four published levels are: which percentiles of usage a container requests, with which margin. The agent's
// model and the platform's analysis both go by it, and the platform knows nothing of Kubernetes.
package level

// Level is one of the four published levels, from the cheapest to the safest.
type Level string

// Levels.
const (
	MaximumSavings      Level = "MaximumSavings"
	BalancedSavings     Level = "BalancedSavings"
	BalancedPerformance Level = "BalancedPerformance"
	MaximumPerformance  Level = "MaximumPerformance"
)

// All are all of them, in their order.
func All() []Level {
	return []Level{MaximumSavings, BalancedSavings, BalancedPerformance, MaximumPerformance}
}

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
