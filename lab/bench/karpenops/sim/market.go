package sim

import "time"

// Fixed is a market in which nothing moves and nothing is taken away.
type Fixed []float64

// Price is what it was made with.
func (m Fixed) Price(offering int32, _ time.Time) float64 { return m[offering] }

// Depth is full.
func (Fixed) Depth(int32, time.Time) float64 { return 1 }

// Reclaimed is never.
func (Fixed) Reclaimed(int32, string, int, time.Time, time.Duration) bool { return false }
