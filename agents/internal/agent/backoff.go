package agent

import "time"

// Rand is a source of uniform numbers in [0,1), as math/rand/v2.Float64.
type Rand func() float64

// Backoff is exponential with full jitter: the n-th wait is uniform between nothing and the smaller of Max and Base·2ⁿ, so
// that a thousand agents that lost the platform at the same moment do not come back at the same moment.
type Backoff struct {
	Base, Max time.Duration
	Rand      Rand
	attempt   int
}

// Next is how long to wait before the next attempt, at least atLeast. What the server asks for is never undercut, and is
// spread by up to a tenth for the same reason as the rest.
func (b *Backoff) Next(atLeast time.Duration) time.Duration {
	ceiling := b.Max
	if b.attempt < 62 && b.Base<<b.attempt > 0 && b.Base<<b.attempt < b.Max {
		ceiling = b.Base << b.attempt
	}
	b.attempt++
	wait := time.Duration(b.Rand() * float64(ceiling))
	if atLeast > 0 && wait < atLeast {
		wait = atLeast + time.Duration(b.Rand()*float64(atLeast)/10)
	}
	return wait
}

// Reset starts anew after a success.
func (b *Backoff) Reset() { b.attempt = 0 }

// Attempts counts the waits since the last success.
func (b *Backoff) Attempts() int { return b.attempt }

// Jitter spreads d by ±fraction.
func Jitter(d time.Duration, fraction float64, rnd Rand) time.Duration {
	return d + time.Duration((2*rnd()-1)*fraction*float64(d))
}
