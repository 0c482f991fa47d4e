package agent

import "sync"

// Queue is a bounded first-in-first-out queue in memory. When it is full the oldest entry makes room: for reports of state
// the newest are worth most. What was dropped is counted.
type Queue[T any] struct {
	mu      sync.Mutex
	items   []T
	bound   int
	dropped uint64
	wake    chan struct{}
}

// NewQueue makes a queue of at most bound entries, at least one.
func NewQueue[T any](bound int) *Queue[T] {
	return &Queue[T]{bound: max(bound, 1), wake: make(chan struct{}, 1)}
}

// Push appends, and says whether the oldest entry had to go.
func (q *Queue[T]) Push(item T) (dropped bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == q.bound {
		var zero T
		q.items[0] = zero
		q.items = q.items[1:]
		q.dropped++
		dropped = true
	}
	q.items = append(q.items, item)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return dropped
}

// Peek returns the oldest entry and how many were dropped before it came to be the oldest; Done takes both back.
func (q *Queue[T]) Peek() (item T, token uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return item, 0, false
	}
	return q.items[0], q.dropped, true
}

// Done removes the entry that Peek returned with the token, unless it was dropped meanwhile.
func (q *Queue[T]) Done(token uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 || q.dropped != token {
		return
	}
	var zero T
	q.items[0] = zero
	q.items = q.items[1:]
	if len(q.items) == 0 {
		q.items = nil // give the array back
	}
}

// Len is the number of entries.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// Dropped is the number of entries that had to make room.
func (q *Queue[T]) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Wake receives after a Push. One receiver only.
func (q *Queue[T]) Wake() <-chan struct{} { return q.wake }
