package karpenops

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/internal/karpenstate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

const (
	// askEvery is how often facts are asked for; the answer to most is that nothing changed.
	askEvery   = time.Minute
	askTimeout = 30 * time.Second
	// restEvery is between questions to a platform that does not offer what is asked for.
	restEvery = 15 * time.Minute
)

// Keys of a ConfigMap of facts.
const (
	KeyMarket      = "market.json"
	KeyCommitments = "commitments.json"
)

// document is one of the two that facts come in.
type document interface {
	Validate() error
	CheckAt(now time.Time) error
}

// fact is the last document of a kind that was accepted. A document is taken whole or not at all: what is stale, replayed, of another
// region, too new or simply wrong changes nothing, and the last good one stays until its own end.
type fact[T document] struct {
	header func(T) nopsapi.FactHeader
	// foreign says why a document is not for this cluster; "" when it is.
	foreign func(T) string

	mu      sync.Mutex
	last    *T
	seen    nopsapi.FactHeader // of the last accepted one, this process's or one before
	source  string             // of it: numbers of one source say nothing about those of another
	problem string
}

// offer takes a document in, or says why not. It is decided by the document and the moment alone.
func (f *fact[T]) offer(source string, doc T, now time.Time) (fresh bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.header(doc)
	defer func() {
		if f.problem = ""; err != nil {
			f.problem = err.Error()
		}
	}()
	if err := doc.Validate(); err != nil {
		return false, fmt.Errorf("refused: %w", err)
	}
	if err := doc.CheckAt(now); err != nil {
		return false, fmt.Errorf("refused: %w", err)
	}
	if why := f.foreign(doc); why != "" {
		return false, fmt.Errorf("refused: %s", why)
	}
	if source == f.source {
		switch {
		case h.Seq < f.seen.Seq:
			return false, fmt.Errorf("refused: seq %d, and %d was accepted before: a replay", h.Seq, f.seen.Seq)
		case h.Seq == f.seen.Seq && (!h.AsOf.Equal(f.seen.AsOf) || !h.ValidUntil.Equal(f.seen.ValidUntil)):
			return false, fmt.Errorf("refused: seq %d is that of another document, of %s", h.Seq, f.seen.AsOf.UTC().Format(time.RFC3339))
		case h.Seq == f.seen.Seq && f.last != nil:
			return false, nil
		case h.Seq > f.seen.Seq && h.AsOf.Before(f.seen.AsOf):
			return false, fmt.Errorf("refused: seq %d is as of %s, before that of seq %d", h.Seq, h.AsOf.UTC().Format(time.RFC3339), f.seen.Seq)
		}
	}
	f.last, f.seen, f.source = &doc, h, source
	return true, nil
}

// fail says that nothing could be offered.
func (f *fact[T]) fail(problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = problem
}

// confirm says that what was taken is still what is offered.
func (f *fact[T]) confirm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = ""
}

// at is the document that may be decided by now; nil without one.
func (f *fact[T]) at(now time.Time) *T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil || (*f.last).CheckAt(now) != nil {
		return nil
	}
	return f.last
}

// status is the fact for people. It holds no relative times.
func (f *fact[T]) status(now time.Time) karpenstate.Fact {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := karpenstate.Fact{Seq: f.seen.Seq, AsOf: f.seen.AsOf.UTC(), ValidUntil: f.seen.ValidUntil.UTC(), Problem: f.problem}
	if s.Seq == 0 {
		s.AsOf, s.ValidUntil = time.Time{}, time.Time{}
	}
	if s.Problem == "" && f.last != nil && !f.seen.ValidUntil.After(now) {
		s.Problem = "valid_until has passed, and nothing newer was offered"
	}
	return s
}

// seenFact is what is remembered of a fact between processes, so that a restart opens no door to a replay.
type seenFact struct {
	Source string             `json:"source,omitempty"`
	Header nopsapi.FactHeader `json:"header"`
}

func (f *fact[T]) remember() seenFact {
	f.mu.Lock()
	defer f.mu.Unlock()
	return seenFact{f.source, f.seen}
}

func (f *fact[T]) recall(s seenFact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil {
		f.source, f.seen = s.Source, s.Header
	}
}

// facts are both documents.
type facts struct {
	market      fact[nopsapi.Market]
	commitments fact[nopsapi.Commitments]
}

func newFacts(region string) *facts {
	f := &facts{}
	f.market.header = func(m nopsapi.Market) nopsapi.FactHeader { return m.FactHeader }
	f.market.foreign = func(m nopsapi.Market) string {
		if m.Region != region {
			return fmt.Sprintf("it is of region %s, and this cluster is in %s", m.Region, region)
		}
		return ""
	}
	f.commitments.header = func(c nopsapi.Commitments) nopsapi.FactHeader { return c.FactHeader }
	f.commitments.foreign = func(nopsapi.Commitments) string { return "" }
	return f
}

// Facts is where facts come from.
type Facts interface {
	// Name is of the source; numbers of different ones are not compared.
	Name() string
	Market(ctx context.Context) (answer[nopsapi.Market], error)
	Commitments(ctx context.Context) (answer[nopsapi.Commitments], error)
}

// answer is a document, or that nothing changed since the one that was taken last. take is to be called when it is taken: until then it is asked for whole, so that
// one that was refused is not taken for known.
type answer[T any] struct {
	doc       T
	unchanged bool
	take      func()
}

// errNotOffered says that a source has no such document, and that this is nothing wrong.
var errNotOffered = errors.New("not offered")

// intake asks the source for both documents until the context ends.
func (a *Agent) intake(ctx context.Context) error {
	soon := agent.Backoff{Base: 2 * time.Second, Max: 5 * time.Minute, Rand: a.deps.Rand}
	if a.loops.asking.Sleep(ctx, time.Duration(a.deps.Rand()*float64(2*time.Second))) != nil {
		return nil
	}
	for {
		wait, err := a.ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			soon.Reset()
			wait = agent.Jitter(wait, 0.1, a.deps.Rand)
		} else {
			_, after := agent.IntentOf(err)
			wait = max(wait, soon.Next(after))
			a.deps.Log.Warn("facts could not be asked for", "source", a.facts.Name(), "retry_in", wait.Round(time.Millisecond).String(), "error", err)
		}
		if a.loops.asking.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// ask asks once. What could not be asked for is an error; what was offered and refused is said, and asked for again in due time.
func (a *Agent) ask(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	errM := askFor(ctx, a, "market", a.facts.Market, &a.known.market)
	errC := askFor(ctx, a, "commitments", a.facts.Commitments, &a.known.commitments)
	a.asked.Store(true)
	a.nudge()
	for _, e := range []error{errM, errC} {
		if errors.Is(e, errNotOffered) {
			wait = restEvery
		}
	}
	if errM == nil || errC == nil {
		wait = askEvery // one of them is offered
	}
	if errors.Is(errM, errNotOffered) {
		errM = nil
	}
	if errors.Is(errC, errNotOffered) {
		errC = nil
	}
	return max(wait, askEvery), errors.Join(errM, errC)
}

// askFor asks for one document, and offers what comes.
func askFor[T document](ctx context.Context, a *Agent, what string, ask func(context.Context) (answer[T], error), f *fact[T]) error {
	got, err := ask(ctx)
	now := a.deps.Now()
	switch {
	case errors.Is(err, errNotOffered):
		f.fail(err.Error())
		return errNotOffered
	case nopsclient.IsKind(err, nopsclient.KindProtocol):
		// What came is no document of this contract, or breaks its rules.
		a.counters.refusedFacts.Add(1)
		f.fail("refused: " + err.Error())
		return err
	case err != nil:
		a.counters.failedFacts.Add(1)
		f.fail("could not be asked for: " + err.Error())
		return err
	case got.unchanged:
		f.confirm()
		return nil
	}
	fresh, err := f.offer(a.facts.Name(), got.doc, now)
	switch {
	case err != nil:
		a.counters.refusedFacts.Add(1)
		if a.sparing.Allow(agent.Note{Topic: what, Reason: "Refused", Why: err.Error()}, now) {
			a.deps.Log.WarnContext(ctx, "a document of facts is refused, the last good one stays", "document", what, "error", err)
		}
		return nil
	case fresh:
		a.counters.acceptedFacts.Add(1)
		a.sparing.Allow(agent.Note{Topic: what, Reason: "Accepted"}, now)
		a.deps.Log.InfoContext(ctx, "facts accepted", "document", what, "seq", f.header(got.doc).Seq)
	}
	got.take()
	return nil
}

// fromPlatform asks the platform.
type fromPlatform struct {
	client              Platform
	arn                 string
	market, commitments string // ETags of what was taken
}

var _ Facts = (*fromPlatform)(nil)

// Name implements Facts.
func (*fromPlatform) Name() string { return FactsPlatform }

// Market implements Facts.
func (p *fromPlatform) Market(ctx context.Context) (answer[nopsapi.Market], error) {
	got, err := p.client.Market(ctx, p.arn, p.market)
	return answer[nopsapi.Market]{got.Message, got.Unchanged, func() { p.market = got.ETag }}, offeredBy(err, "the platform does not offer market data for this cluster")
}

// Commitments implements Facts.
func (p *fromPlatform) Commitments(ctx context.Context) (answer[nopsapi.Commitments], error) {
	got, err := p.client.Commitments(ctx, p.arn, p.commitments)
	return answer[nopsapi.Commitments]{got.Message, got.Unchanged, func() { p.commitments = got.ETag }}, offeredBy(err, "the platform does not offer commitments for this cluster")
}

func offeredBy(err error, otherwise string) error {
	var e *nopsclient.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Kind == nopsclient.KindNotFound || e.Kind == nopsclient.KindNotOffered {
		return fmt.Errorf("%s (%w)", otherwise, errNotOffered)
	}
	return agent.RetryAfter(err, e.RetryAfter)
}

// fromConfigMap reads documents of the same form from a ConfigMap beside the agent, for whoever computes facts without the platform.
type fromConfigMap struct {
	kube                rest.Interface // of write.NewClient
	namespace, name     string
	market, commitments string // resourceVersions of what was taken
}

var _ Facts = (*fromConfigMap)(nil)

// Name implements Facts.
func (f *fromConfigMap) Name() string { return FactsConfigMap + f.name }

// Market implements Facts.
func (f *fromConfigMap) Market(ctx context.Context) (answer[nopsapi.Market], error) {
	return readFact[nopsapi.Market](ctx, f, KeyMarket, &f.market)
}

// Commitments implements Facts.
func (f *fromConfigMap) Commitments(ctx context.Context) (answer[nopsapi.Commitments], error) {
	return readFact[nopsapi.Commitments](ctx, f, KeyCommitments, &f.commitments)
}

func readFact[T any](ctx context.Context, f *fromConfigMap, name string, taken *string) (a answer[T], err error) {
	got, err := agent.Raw(f.kube.Get().AbsPath("/api/v1/namespaces", f.namespace, "configmaps", f.name).Do(ctx))
	if agent.StatusOf(err) == http.StatusNotFound {
		return a, fmt.Errorf("there is no ConfigMap %s/%s (%w)", f.namespace, f.name, errNotOffered)
	}
	var cm corev1.ConfigMap
	if err == nil {
		err = json.Unmarshal(got, &cm)
	}
	if err != nil {
		return a, fmt.Errorf("reading ConfigMap %s/%s: %w", f.namespace, f.name, err)
	}
	if cm.ResourceVersion == *taken {
		return answer[T]{unchanged: true}, nil
	}
	raw := []byte(cm.Data[name])
	if packed, is := cm.BinaryData[name]; is {
		raw = packed
	}
	if len(raw) == 0 {
		return a, fmt.Errorf("ConfigMap %s/%s has no %s (%w)", f.namespace, f.name, name, errNotOffered)
	}
	doc, err := decodeFact[T](raw)
	if err != nil {
		return a, fmt.Errorf("ConfigMap %s/%s: %s: %w", f.namespace, f.name, name, err)
	}
	return answer[T]{doc: doc, take: func() { *taken = cm.ResourceVersion }}, nil
}

// decodeFact reads a document, gzip-compressed or not: a market of a region is more than a ConfigMap holds unpacked.
func decodeFact[T any](raw []byte) (doc T, err error) {
	if bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		if raw, err = unpack(raw, nopsapi.MaxMarket); err != nil {
			return doc, err
		}
	}
	if len(raw) > nopsapi.MaxMarket {
		return doc, fmt.Errorf("%d bytes, at most %d are read", len(raw), nopsapi.MaxMarket)
	}
	if err := nopsapi.Decode(raw, &doc); err != nil {
		return doc, fmt.Errorf("reading the document: %w", err)
	}
	return doc, nil
}

// unpack gunzips what has at most limit bytes.
func unpack(raw []byte, limit int) ([]byte, error) {
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(zip, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	if len(plain) > limit {
		return nil, fmt.Errorf("more than %d bytes unpacked", limit)
	}
	return plain, nil
}
