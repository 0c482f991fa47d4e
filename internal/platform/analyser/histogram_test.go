package analyser

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPercentiles holds the histogram against sorted samples: a percentile is never below the true one, and at most a bucket above.
func TestPercentiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 {
			return math.Pow(10, rapid.Float64Range(-5, 3).Draw(t, "magnitude"))
		}), 1, 400).Draw(t, "samples")
		h := histogram{first: smallestCPU}
		for _, v := range samples {
			h.add(v)
		}
		sorted := slices.Sorted(slices.Values(samples))
		for _, p := range []float64{0.01, 0.5, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 1} {
			exact := sorted[max(int(math.Ceil(p*float64(len(sorted))-1e-9)), 1)-1]
			got := h.percentile(p)
			if got < exact*(1-1e-12) || got > max(exact, smallestCPU)*growth*(1+1e-9) {
				t.Fatalf("percentile %v of %d samples is %v, the true one %v", p, len(sorted), got, exact)
			}
		}
	})
}

func TestHistogramsOfLittle(t *testing.T) {
	h := histogram{first: smallestCPU}
	if got := h.percentile(0.9); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	h.add(0)
	if got := h.percentile(1); got != smallestCPU {
		t.Errorf("of a container that does nothing: %v, want the least that can be requested", got)
	}
	// A container that starts with nothing and then needs a thousand cores takes no memory worth naming.
	h.add(1000)
	if len(h.counts) > 4000 {
		t.Errorf("%d buckets", len(h.counts))
	}
}
