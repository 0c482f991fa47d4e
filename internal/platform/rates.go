package platform

import (
	"sync"
	"time"
)

// rates is a bucket of requests per key. Its zero value is ready.
type rates struct {
	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// take takes one request of a key, and says how long to wait when there is none left.
func (r *rates) take(key string, perMinute int, now time.Time) time.Duration {
	if perMinute == 0 {
		perMinute = 600
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buckets == nil {
		r.buckets = map[string]bucket{}
	}
	b, known := r.buckets[key]
	switch {
	case !known:
		b.left = float64(perMinute)
	case now.After(b.at):
		b.left = min(float64(perMinute), b.left+now.Sub(b.at).Minutes()*float64(perMinute))
	}
	b.at = now
	if b.left < 1 {
		r.buckets[key] = b
		return time.Duration((1 - b.left) / float64(perMinute) * float64(time.Minute))
	}
	b.left--
	r.buckets[key] = b
	return 0
}
