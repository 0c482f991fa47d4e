package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	// askEvery is how often recommendations are asked for; the answer to most is that nothing changed.
	askEvery   = 5 * time.Minute
	askTimeout = time.Minute
	// restEvery is between questions to a platform that does not offer what is asked for.
	restEvery = 15 * time.Minute
	// firstWithin spreads the first questions of many clusters.
	firstWithin = 2 * time.Second
)

// Reasons why the platform's recommendation is not in force, and that it is; they are those of the condition.
const (
	ReasonInForce    = "InForce"
	ReasonNotOffered = "NotOffered" // the platform has none for this cluster
	ReasonWaiting    = "Waiting"    // it was not asked yet
	ReasonFailed     = "Unreachable"
	ReasonRefused    = "Refused" // what came was not valid, and nothing valid is left
	ReasonExpired    = "Expired"
	ReasonUnknown    = "NoRecommendation" // for this workload
	ReasonLevel      = "OtherLevel"       // it was made for another level than the policy wants
)

// Platform is what is needed of the platform's client.
type Platform interface {
	Recommendations(ctx context.Context, arn, etag string) (nopsclient.Polled[nopsapi.Recommendations], error)
	ReportWorkloads(ctx context.Context, arn string, all nopsapi.RightsizedWorkloads) error
	SendOutcomes(ctx context.Context, arn string, some nopsapi.Outcomes) error
}

// Deps are what all parts of this package need.
type Deps struct {
	Platform Platform
	ARN      string
	Log      *slog.Logger
	Now      func() time.Time
	Rand     agent.Rand
}

func (d Deps) filled() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Rand == nil {
		d.Rand = func() float64 { return 0.5 }
	}
	return d
}

// Intake holds the last recommendations that were taken.
type Intake struct {
	deps Deps
	etag string

	first sync.Once
	asked chan struct{} // closed by the first answer, whatever it is

	mu       sync.Mutex
	seen     nopsapi.FactHeader // of the last one taken, this process's or one before
	taken    bool               // by this process
	byRef    map[nopsapi.WorkloadRef]nopsapi.WorkloadRecommendation
	recalled map[nopsapi.WorkloadRef]recalled // until something is taken
	reason   string                           // why there are none
	problem  string
	counts   Counts
}

// recalled is what a process before this one took for a workload.
type recalled struct {
	nopsapi.WorkloadRecommendation
	header nopsapi.FactHeader
}

// Counts are of documents, by what became of them.
type Counts struct{ Accepted, Refused, Failed int }

// NewIntake makes one that knows nothing.
func NewIntake(d Deps) *Intake {
	return &Intake{deps: d.filled(), reason: ReasonWaiting, asked: make(chan struct{}), recalled: map[nopsapi.WorkloadRef]recalled{}}
}

// Recall tells what a process before this one took for a workload, with the message of the condition that said so; it is told before the first
// question. The highest number keeps a restart from opening a door to a replay, and what was in force stays so until something is taken or its
// end has come: it is as valid as it was, and a platform that cannot be asked just now would otherwise change all pods.
func (i *Intake) Recall(message string, w nopsapi.WorkloadRecommendation) {
	h := headerOf(message)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.taken || h.Seq == 0 {
		return
	}
	if h.Seq > i.seen.Seq {
		i.seen = h
	}
	// Two autoscalers of one workload say the same, but one may have been written later.
	if len(w.Containers) > 0 && h.Seq >= i.recalled[w.WorkloadRef].header.Seq {
		i.recalled[w.WorkloadRef] = recalled{w, h}
	}
}

// Asked is closed by the first answer of the platform, whatever it is.
func (i *Intake) Asked() <-chan struct{} { return i.asked }

// Counts are of documents, by what became of them.
func (i *Intake) Counts() Counts {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.counts
}

// Answer is what the platform says of a workload.
type Answer struct {
	Recommendation *nopsapi.WorkloadRecommendation // nil: none in force
	Seq            uint64
	ValidUntil     time.Time
	Reason         string // one of those above
	Message        string // for people; it holds no relative times
}

// For is what the platform recommends for a workload on a level now.
func (i *Intake) For(ref nopsapi.WorkloadRef, level string, now time.Time) Answer {
	i.mu.Lock()
	defer i.mu.Unlock()
	header := i.seen
	one, is := i.byRef[ref]
	if !i.taken {
		before, known := i.recalled[ref]
		if !known {
			return Answer{Seq: header.Seq, Reason: i.reason, Message: i.problem}
		}
		header, one, is = before.header, before.WorkloadRecommendation, true
	}
	a := Answer{Seq: header.Seq, ValidUntil: header.ValidUntil}
	if err := header.CheckAt(now); err != nil {
		a.Reason, a.Message = ReasonExpired, "the local model alone holds: "+err.Error()
		if i.problem != "" {
			a.Message += "; " + i.problem
		}
		return a
	}
	switch {
	case !is:
		a.Reason, a.Message = ReasonUnknown, "the platform has too little of its usage, or does not know it yet"
	case one.Level != level:
		a.Reason, a.Message = ReasonLevel, fmt.Sprintf("the platform recommends for %s, and %s is wanted", one.Level, level)
	default:
		a.Recommendation, a.Reason = &one, ReasonInForce
		a.Message = fmt.Sprintf("recommendations %d of %s, valid until %s", header.Seq, stamp(header.AsOf), stamp(header.ValidUntil))
	}
	return a
}

// SeqOf reads the number of the recommendations from the message of the condition that says that they are in force.
func SeqOf(message string) uint64 { return headerOf(message).Seq }

// ValidUntilOf reads from it until when they are.
func ValidUntilOf(message string) time.Time { return headerOf(message).ValidUntil }

// headerOf reads what the message says; what it does not say is zero.
func headerOf(message string) nopsapi.FactHeader {
	var h nopsapi.FactHeader
	var asOf, until string
	_, _ = fmt.Sscanf(message, "recommendations %d of %s valid until %s", &h.Seq, &asOf, &until)
	h.AsOf, _ = time.Parse(time.RFC3339, strings.TrimSuffix(asOf, ","))
	h.ValidUntil, _ = time.Parse(time.RFC3339, until)
	return h
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Age is that of what was taken last; -1 without.
func (i *Intake) Age(now time.Time) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.taken {
		return -time.Second
	}
	return now.Sub(i.seen.AsOf)
}

// Run asks until the context ends. What changed is told by a call of changed, which may be nil.
func (i *Intake) Run(ctx context.Context, loop *agent.Loop, changed func()) error {
	soon := agent.Backoff{Base: 2 * time.Second, Max: 5 * time.Minute, Rand: i.deps.Rand}
	if loop.Sleep(ctx, time.Duration(i.deps.Rand()*float64(firstWithin))) != nil {
		return nil
	}
	for {
		wait, fresh, err := i.Ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if fresh && changed != nil {
			changed()
		}
		if err == nil {
			soon.Reset()
			wait = agent.Jitter(wait, 0.1, i.deps.Rand)
		} else {
			_, after := agent.IntentOf(err)
			wait = soon.Next(after)
			i.deps.Log.Warn("recommendations could not be asked for", "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		}
		if loop.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// Ask asks once, and says when to ask again. What was offered and refused is said, and asked for again in due time.
func (i *Intake) Ask(ctx context.Context) (wait time.Duration, fresh bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer i.first.Do(func() { close(i.asked) })
	got, err := i.deps.Platform.Recommendations(ctx, i.deps.ARN, i.etag)
	now := i.deps.Now()
	var refused *nopsclient.Error
	is := errors.As(err, &refused)
	switch {
	case is && (refused.Kind == nopsclient.KindNotFound || refused.Kind == nopsclient.KindNotOffered):
		i.without(ReasonNotOffered, "the platform offers no recommendations for this cluster", nil)
		return restEvery, false, nil
	case is && refused.Kind == nopsclient.KindProtocol:
		i.refuse(err)
		return askEvery, false, nil
	case err != nil:
		i.without(ReasonFailed, "the platform could not be asked: "+err.Error(), func(c *Counts) { c.Failed++ })
		if is {
			err = agent.RetryAfter(err, refused.RetryAfter)
		}
		return 0, false, err
	case got.Unchanged:
		i.mu.Lock()
		i.problem = ""
		i.mu.Unlock()
		return askEvery, false, nil
	}
	fresh, err = i.offer(got.Message, now)
	if err != nil {
		i.refuse(err)
		return askEvery, false, nil
	}
	i.etag = got.ETag // of what was taken; one that was refused is asked for whole
	if fresh {
		i.deps.Log.Info("recommendations taken", "seq", got.Message.Seq, "workloads", len(got.Message.Workloads), "valid_until", stamp(got.Message.ValidUntil))
	}
	return askEvery, fresh, nil
}

// without says why nothing came. What was taken before stays.
func (i *Intake) without(reason, problem string, count func(*Counts)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reason, i.problem = reason, problem
	if count != nil {
		count(&i.counts)
	}
}

func (i *Intake) refuse(err error) {
	i.mu.Lock()
	repeated := i.problem == "refused: "+err.Error()
	i.mu.Unlock()
	i.without(ReasonRefused, "refused: "+err.Error(), func(c *Counts) { c.Refused++ })
	if !repeated {
		i.deps.Log.Warn("recommendations are refused, the last good ones stay until their end", "error", err)
	}
}

// offer takes a document in, or says why not.
func (i *Intake) offer(doc nopsapi.Recommendations, now time.Time) (fresh bool, err error) {
	if err := doc.Validate(); err != nil {
		return false, err
	}
	if err := doc.CheckAt(now); err != nil {
		return false, err
	}
	byRef := make(map[nopsapi.WorkloadRef]nopsapi.WorkloadRecommendation, len(doc.Workloads))
	for _, w := range doc.Workloads {
		byRef[w.WorkloadRef] = w
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	h := doc.FactHeader
	switch {
	case h.Seq < i.seen.Seq:
		return false, fmt.Errorf("seq %d, and %d was accepted before: a replay", h.Seq, i.seen.Seq)
	case h.Seq == i.seen.Seq && i.taken && (!h.AsOf.Equal(i.seen.AsOf) || !h.ValidUntil.Equal(i.seen.ValidUntil)):
		return false, fmt.Errorf("seq %d is that of another document, of %s", h.Seq, stamp(i.seen.AsOf))
	case h.Seq > i.seen.Seq && h.AsOf.Before(i.seen.AsOf):
		return false, fmt.Errorf("seq %d is as of %s, before that of seq %d", h.Seq, stamp(h.AsOf), i.seen.Seq)
	}
	fresh = !i.taken || h.Seq > i.seen.Seq
	i.seen, i.taken, i.byRef, i.recalled, i.problem = h, true, byRef, nil, ""
	if fresh {
		i.counts.Accepted++
	}
	return fresh, nil
}

// BoundsOf are a recommendation's for a container; both Targets are 0 where there is none.
func BoundsOf(w *nopsapi.WorkloadRecommendation, container string) (cpu, memory Bounds) {
	if w == nil {
		return Bounds{}, Bounds{}
	}
	for _, c := range w.Containers {
		if c.Name == container {
			milli := func(v float64) int64 { return int64(math.Ceil(v*1000 - 1e-6)) } // 0.07 cores are 70, and what a float adds to them is no 71st
			whole := func(v float64) int64 { return int64(math.Ceil(v)) }
			return Bounds{milli(c.CPU.Lower), milli(c.CPU.Target), milli(c.CPU.Upper)}, Bounds{whole(c.Memory.Lower), whole(c.Memory.Target), whole(c.Memory.Upper)}
		}
	}
	return Bounds{}, Bounds{}
}

func notOffered(err error) bool {
	return nopsclient.IsKind(err, nopsclient.KindNotFound) || nopsclient.IsKind(err, nopsclient.KindNotOffered)
}

func retryAfter(err error) error {
	var e *nopsclient.Error
	if errors.As(err, &e) {
		return agent.RetryAfter(err, e.RetryAfter)
	}
	return err
}
