package karpenops

import (
	"fmt"
	"slices"
	"sync"

	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// outbox holds records until the platform has them, in order; of one ID the last word counts. When it is full the oldest give way: the ledger in the
// cluster has them.
type outbox struct {
	mu      sync.Mutex
	items   []nopsapi.KarpenterRecord
	bound   int
	dropped int
	wake    chan struct{}
}

func newOutbox(bound int) *outbox { return &outbox{bound: bound, wake: make(chan struct{}, 1)} }

func (o *outbox) push(records ...nopsapi.KarpenterRecord) {
	if len(records) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range records {
		if i := slices.IndexFunc(o.items, func(have nopsapi.KarpenterRecord) bool { return have.ID == r.ID }); i >= 0 {
			o.items[i] = r
			continue
		}
		if len(o.items) == o.bound {
			o.items, o.dropped = o.items[1:], o.dropped+1
		}
		o.items = append(o.items, r)
	}
	signal(o.wake)
}

// peek copies the oldest.
func (o *outbox) peek(most int) []nopsapi.KarpenterRecord {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.items[:min(most, len(o.items))])
}

// done removes what was told, unless there is a newer word of it.
func (o *outbox) done(batch []nopsapi.KarpenterRecord) {
	o.mu.Lock()
	defer o.mu.Unlock()
	word := func(r nopsapi.KarpenterRecord) string { return fmt.Sprint(r.Outcome, r.Actual, r.Explanation) }
	told := map[string]string{}
	for _, r := range batch {
		told[r.ID] = word(r)
	}
	o.items = slices.DeleteFunc(o.items, func(r nopsapi.KarpenterRecord) bool {
		said, is := told[r.ID]
		return is && said == word(r)
	})
}

func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.items)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
