package analyser

import "math"

// growth is by how much each bucket of a histogram is wider than the one before: a percentile is never too small, and too large by less than
// this.
const growth = 1.005

// histogram counts samples in buckets whose width grows. A month of minutes of a workload takes some kilobytes, however many pods it has;
// samples themselves would take as many megabytes.
type histogram struct {
	first  float64 // everything up to it is in bucket 0
	counts []uint32
	base   int // the bucket that counts[0] stands for
	total  int64
	most   float64
}

// bucket is the one of a value; its upper bound is first·growth^bucket.
func (h *histogram) bucket(v float64) int {
	if v <= h.first {
		return 0
	}
	b := int(math.Ceil(math.Log(v/h.first) / math.Log(growth)))
	if b > 0 && h.first*math.Pow(growth, float64(b-1)) >= v { // a bound itself belongs below it
		b--
	}
	return b
}

func (h *histogram) add(v float64) {
	b := h.bucket(v)
	switch {
	case len(h.counts) == 0:
		h.base, h.counts = b, make([]uint32, 1, 16)
	case b < h.base:
		grown := make([]uint32, h.base-b+len(h.counts))
		copy(grown[h.base-b:], h.counts)
		h.base, h.counts = b, grown
	}
	for b-h.base >= len(h.counts) {
		h.counts = append(h.counts, 0)
	}
	if h.counts[b-h.base] < math.MaxUint32 {
		h.counts[b-h.base]++
		h.total++
	}
	h.most = max(h.most, v)
}

// percentile is the smallest value that at least this part of all samples does not exceed, rounded up to the bound of its bucket; 0 without
// samples.
func (h *histogram) percentile(p float64) float64 {
	rank := max(int64(math.Ceil(p*float64(h.total)-1e-9)), 1)
	var seen int64
	for i, n := range h.counts {
		if seen += int64(n); seen >= rank {
			return min(h.first*math.Pow(growth, float64(h.base+i)), max(h.most, h.first))
		}
	}
	return 0
}
