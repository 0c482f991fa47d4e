package notary

import (
	"context"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// answered is what came of a question to AWS.
type answered struct {
	answer Answer
	err    error
	panic  any // goes on where the answer is taken, so that it ends this signature's check and nothing else
}

// askAhead asks AWS while the library looks at the envelope once more: the one takes a round trip, the other a processor. Everything
// that has to be known before anybody is asked is known by then, and the answer counts only when the library comes for it.
// The function that it returns ends the question; nothing goes on after that.
func (c *check) askAhead(ctx context.Context) (end func()) {
	if c.leaf.Method != policy.MethodAWSSigner || c.rule.Revocation == policy.RevocationOff {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	answer, done := make(chan answered, 1), make(chan struct{})
	c.ahead = answer
	c.e.leaving.enter()
	left := sync.OnceFunc(c.e.leaving.leave)
	go func() {
		defer close(done)
		defer left() // answered without a request: from the cache, from evidence, or not at all
		defer func() {
			if p := recover(); p != nil {
				answer <- answered{panic: p}
			}
		}()
		got, err := c.e.checker.Check(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { left() }}), c.question())
		answer <- answered{answer: got, err: err}
	}()
	c.e.leaving.wait(ctx)
	return func() { cancel(); <-done }
}

// answer waits for what askAhead asked.
func (c *check) answer(ctx context.Context) (Answer, error) {
	if c.ahead == nil {
		return Answer{}, errNotLooked
	}
	select {
	case a := <-c.ahead:
		if a.panic != nil {
			panic(a.panic)
		}
		return a.answer, a.err
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// door is where questions leave. Whoever has much to compute waits until none is on its way out: on few processors all the
// images' computations together would otherwise come before the last image's question, which then waits a round trip more.
type door struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // closed when nobody is inside
}

// patience is how long computing waits at most: AWS may be slow to connect to.
const patience = 100 * time.Millisecond

func (d *door) enter() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside++; d.inside == 1 {
		d.empty = make(chan struct{})
	}
}

func (d *door) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside--; d.inside == 0 {
		close(d.empty)
	}
}

func (d *door) wait(ctx context.Context) {
	d.mu.Lock()
	empty := d.empty
	d.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-empty:
	case <-timer.C:
	case <-ctx.Done():
	}
}
