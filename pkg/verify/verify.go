package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/internal/seal"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// CheckID is the ID of the check that each artifact is.
const CheckID = "NOPS-SIG-001"

// The defaults of Options.
const (
	DefaultParallel = 16 // artifacts at a time: all of a release, so that one pass takes as long as its slowest image
	DefaultTimeout  = 30 * time.Second
)

// Options make a Verifier.
type Options struct {
	// Policy says whom to trust. Nil means that nobody said: artifacts are resolved and nothing is checked, and no result is
	// verified.
	Policy *policy.Policy
	Source oci.Source
	// Engines check signatures, by the method of the requirement.
	Engines map[policy.Method]Engine
	// Mirrors say where artifacts are asked for; policies know the names before it.
	Mirrors  ref.Mirrors
	Parallel int           // artifacts at a time; zero means DefaultParallel
	Timeout  time.Duration // for each artifact; zero means DefaultTimeout
	Cache    Cache         // of good results; nil means none
	Observe  event.Func
	Now      func() time.Time // nil means time.Now
}

// Verifier checks artifacts. It looks at each reference once: asked again, it gives the same answer, so that what was
// checked is what is installed, whatever a tag points to by then. It is safe for concurrent use.
type Verifier struct {
	Options

	mu   sync.Mutex
	seen map[ref.Reference]*sync.Once
	done map[ref.Reference]Result
}

// New makes a Verifier.
func New(o Options) (*Verifier, error) {
	if o.Source == nil {
		return nil, errors.New("verify: no source of artifacts was given")
	}
	if o.Parallel <= 0 {
		o.Parallel = DefaultParallel
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Policy != nil {
		for _, rule := range o.Policy.Rules {
			for _, leaf := range rule.Require.Leaves() {
				if o.Engines[leaf.Method] == nil {
					return nil, fmt.Errorf("verify: no engine for %s, which the rule in line %d of %s asks for", leaf.Method, rule.Line, o.Policy.Source)
				}
			}
		}
	}
	return &Verifier{Options: o, seen: map[ref.Reference]*sync.Once{}, done: map[ref.Reference]Result{}}, nil
}

// Verify checks references and returns their results in the same order. It fails only when ctx ends; whatever else goes
// wrong is a result.
func (v *Verifier) Verify(ctx context.Context, references []ref.Reference) (Report, error) {
	report := Report{SchemaVersion: 1, Time: v.Now().UTC(), Results: make([]Result, len(references))}
	if v.Policy != nil {
		report.Policy = &PolicyNote{Source: v.Policy.Source, Hash: v.Policy.Hash}
	}
	slots := make(chan struct{}, v.Parallel)
	var wg sync.WaitGroup
	for i, r := range references {
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return
			}
			report.Results[i] = v.once(ctx, r)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return report, fmt.Errorf("verify images: %w", err)
	}
	report.count()
	return report, nil
}

// once checks a reference the first time it is asked for.
func (v *Verifier) once(ctx context.Context, r ref.Reference) Result {
	v.mu.Lock()
	once := v.seen[r]
	if once == nil {
		once = new(sync.Once)
		v.seen[r] = once
	}
	v.mu.Unlock()
	once.Do(func() {
		start := v.Now()
		result := v.check(ctx, r)
		result.Duration = v.Now().Sub(start)
		v.mu.Lock()
		v.done[r] = result
		if ctx.Err() != nil { // no answer is no answer for the next who asks
			delete(v.seen, r)
		}
		v.mu.Unlock()
		v.Observe.Emit(result.Check())
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.done[r]
}

// budgeter is a Source that bounds what one artifact may cost in all.
type budgeter interface {
	Bound(ctx context.Context) (context.Context, context.CancelFunc)
}

var _ budgeter = (*oci.Registry)(nil)

// check looks at one artifact from beginning to end.
func (v *Verifier) check(ctx context.Context, given ref.Reference) (result Result) {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	if b, ok := v.Source.(budgeter); ok {
		var release context.CancelFunc
		ctx, release = b.Bound(ctx)
		defer release()
	}
	given = given.OrLatest()
	canonical := v.Mirrors.Canonical(given)
	location := v.Mirrors.Locate(canonical)
	result = Result{Reference: given.String(), Name: canonical.Name(), given: given, canonical: canonical}
	if location.Name() != canonical.Name() {
		result.Location = location.Name()
	}
	defer func() { result.settle(v.Policy != nil) }()

	rule, ruled := policy.Rule{}, false
	if v.Policy != nil {
		if rule, ruled = v.Policy.RuleFor(canonical.Name()); ruled {
			result.RuleLine = rule.Line
		}
	}
	if v.Policy != nil && !ruled && !v.mayBeExcepted(canonical.Name()) {
		result.Finding = v.noRule(canonical) // whatever its registry says: it is not even asked
		return result
	}
	artifact, err := v.Source.Resolve(ctx, canonical, location)
	if err != nil {
		result.Finding = v.failure(ctx, given, err)
		return result
	}
	result.Digest, result.MediaType, result.Size = artifact.Descriptor.Digest.String(), artifact.Descriptor.MediaType, artifact.Descriptor.Size
	result.artifact = artifact
	if v.Policy == nil {
		return result
	}
	defer v.except(&result)
	if !ruled {
		result.Finding = v.noRule(canonical)
		return result
	}
	key := Key{Name: canonical.Name(), Digest: result.Digest, Policy: v.Policy.Hash}
	// Who requires to know of revocations requires it now.
	remembers := v.Cache != nil && rule.Revocation != policy.RevocationRequire
	if remembers {
		if f, ok := v.Cache.Get(key); ok && f.Outcome.OK() && v.stillGood(f, rule) {
			result.Finding, result.Cached = f, true
			return result
		}
	}
	result.Finding = v.signatures(ctx, &result, artifact, rule)
	if result.Outcome == verdict.Unsigned && given.Tag != "" && given.Digest != "" {
		v.throughIndex(ctx, &result, canonical, location, rule)
	}
	if remembers && result.Outcome.OK() && result.Via == "" {
		v.Cache.Put(key, result.Finding)
	}
	return result
}

func (v *Verifier) noRule(canonical ref.Reference) verdict.Finding {
	return verdict.Fail(verdict.NoRule, "no rule of %s is about %s", v.Policy.Source, canonical.Name())
}

// mayBeExcepted says whether an exception is about a name, whatever its digest.
func (v *Verifier) mayBeExcepted(name string) bool {
	return slices.ContainsFunc(v.Policy.Exceptions, func(e policy.Exception) bool {
		return slices.ContainsFunc(e.Match, func(pattern string) bool { return policy.Match(pattern, name) })
	})
}

// stillGood holds a remembered finding against what has changed since: the time.
func (v *Verifier) stillGood(f verdict.Finding, rule policy.Rule) bool {
	now := v.Now()
	return (f.Expires.IsZero() || now.Before(f.Expires)) && (rule.MaxAge == 0 || now.Sub(f.SignedAt) <= rule.MaxAge)
}

// failure is the finding for an error of a source.
func (v *Verifier) failure(ctx context.Context, r ref.Reference, err error) verdict.Finding {
	var known *oci.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return verdict.Fail(verdict.TimedOut, "%s took longer than %s", r, v.Timeout)
	case errors.As(err, &known) && known.Finding.Outcome != "" && !known.Finding.Outcome.OK():
		return known.Finding
	}
	return verdict.Fail(verdict.RegistryOdd, "%s: %v", r, err)
}

// signatures finds what hangs on an artifact and holds it against the rule.
func (v *Verifier) signatures(ctx context.Context, result *Result, artifact oci.Artifact, rule policy.Rule) verdict.Finding {
	found, err := v.Source.Signatures(ctx, artifact)
	if err != nil {
		return v.failure(ctx, result.given, err)
	}
	result.Signatures, result.Others = len(found.Found)+len(found.Broken), found.Others
	result.Findings = append(result.Findings, found.Broken...)
	result.Findings = append(result.Findings, found.Failed...)
	t := trial{v: v, ctx: ctx, artifact: artifact, found: found, rule: rule, mirrored: result.Location != ""}
	finding := t.require(rule.Require)
	result.Findings = append(result.Findings, t.findings...)
	return finding
}

// throughIndex accepts an image of one platform through the index that its tag names, when that is verified and lists it.
func (v *Verifier) throughIndex(ctx context.Context, result *Result, canonical, location ref.Reference, rule policy.Rule) {
	digest := canonical.Digest
	canonical.Digest, location.Digest = "", ""
	index, err := v.Source.Resolve(ctx, canonical, location)
	if err != nil {
		return // the image's own finding stands
	}
	for _, child := range index.Children {
		if child.Digest.String() != digest {
			continue
		}
		inner := Result{given: canonical}
		finding := v.signatures(ctx, &inner, index, rule)
		result.Findings = append(result.Findings, inner.Findings...)
		if finding.Outcome.OK() {
			result.Finding, result.Via = finding, index.Descriptor.Digest.String()
			result.Signatures, result.Others = inner.Signatures, inner.Others
		}
		return
	}
}

// except applies the policy's exceptions to what did not verify.
func (v *Verifier) except(result *Result) {
	if result.Outcome.OK() || result.Digest == "" {
		return
	}
	exception, expired, ok := v.Policy.ExceptionFor(result.Name, result.Digest, v.Now())
	switch {
	case ok:
		result.Exception = &ExceptionNote{Reason: exception.Reason, Expires: exception.Expires.UTC(), Line: exception.Line}
	case expired:
		result.Findings = append(result.Findings, result.Finding)
		was := result.Finding
		result.Finding = verdict.Fail(verdict.ExceptionExpired, "the exception in line %d of %s ended on %s; without it: %s", exception.Line, v.Policy.Source, exception.Expires.Add(-1).UTC().Format(time.DateOnly), was.Message)
	}
}

// trial holds the signatures of one artifact against one rule.
type trial struct {
	v        *Verifier
	ctx      context.Context
	artifact oci.Artifact
	found    oci.Signatures
	rule     policy.Rule
	mirrored bool
	findings []verdict.Finding
}

// require is the finding for a requirement. Its zero value, which a policy cannot say, is not met.
func (t *trial) require(r policy.Requirement) verdict.Finding {
	switch {
	case r.Leaf != nil:
		return t.leaf(*r.Leaf)
	case len(r.AllOf) > 0:
		var worst, good verdict.Finding
		for _, each := range r.AllOf {
			f := t.require(each)
			if f.Outcome.OK() {
				good = joined(good, f)
				continue
			}
			if worst.Outcome == "" || verdict.Worse(f, worst) {
				worst = f
			}
		}
		if worst.Outcome != "" {
			return worst
		}
		return good
	case len(r.AnyOf) > 0:
		var worst verdict.Finding
		for _, each := range r.AnyOf {
			f := t.require(each)
			if f.Outcome.OK() {
				return f
			}
			if worst.Outcome == "" || verdict.Worse(f, worst) {
				worst = f
			}
		}
		return worst
	}
	return verdict.Fail(verdict.TrustUnusable, "the rule in line %d of %s requires nothing", t.rule.Line, t.v.Policy.Source)
}

// joined is one finding for two signatures that are both demanded: the earlier time counts, for both must be new enough.
func joined(a, b verdict.Finding) verdict.Finding {
	if a.Outcome == "" {
		return b
	}
	a.Method, a.Identity, a.Signature = a.Method+" + "+b.Method, a.Identity+" + "+b.Identity, a.Signature+" + "+b.Signature
	if a.SignedAt.IsZero() || !b.SignedAt.IsZero() && b.SignedAt.Before(a.SignedAt) {
		a.SignedAt = b.SignedAt
	}
	if a.Expires.IsZero() || !b.Expires.IsZero() && b.Expires.Before(a.Expires) {
		a.Expires = b.Expires
	}
	a.Revocation = strings.Trim(a.Revocation+"; "+b.Revocation, "; ")
	return a
}

// leaf tries every signature that is written down the way the method reads. The first good one is enough.
func (t *trial) leaf(leaf policy.Leaf) verdict.Finding {
	var worst verdict.Finding
	note := func(f verdict.Finding) {
		if worst.Outcome == "" || verdict.Worse(f, worst) {
			worst = f
		}
	}
	tried, others := 0, 0
	for _, s := range t.found.Found {
		if !slices.Contains(formats(leaf.Method), s.Format) {
			others++
			continue
		}
		tried++
		f := t.try(s, leaf)
		t.findings = append(t.findings, f)
		if f.Outcome.OK() {
			return f
		}
		note(f)
	}
	for _, f := range t.found.Broken {
		note(f)
	}
	for _, f := range t.found.Failed { // what was not seen may have been the good one
		note(f)
	}
	switch {
	case worst.Outcome != "":
		worst.Method = string(leaf.Method)
		return worst
	case others > 0:
		f := verdict.Fail(verdict.OtherMethod, "none of its %s is made the way the policy asks for (%s)", plural(others, "signature"), leaf.Method)
		f.Method = string(leaf.Method)
		return f
	}
	reason, where := verdict.NoSignature, strings.Join(t.found.Looked, ", ")
	if t.mirrored {
		reason = verdict.SignaturesMissing
	}
	message := "it has no signature"
	if where != "" {
		message += " (looked at: " + where + ")"
	}
	if t.found.Others > 0 {
		message += fmt.Sprintf("; %s beside it are none", plural(t.found.Others, "other thing"))
	}
	f := verdict.Fail(reason, "%s", message)
	f.Method = string(leaf.Method)
	return f
}

// try runs one engine on one signature, and believes it only what hangs together.
func (t *trial) try(s oci.Signature, leaf policy.Leaf) (f verdict.Finding) {
	defer func() {
		if p := recover(); p != nil {
			f = verdict.Fail(verdict.Panicked, "signature %s makes the verifier panic", s.ID())
		}
		f.Method, f.Signature = string(leaf.Method), s.ID()
	}()
	if err := t.ctx.Err(); err != nil {
		return verdict.Fail(verdict.TimedOut, "there was no time to look at signature %s", s.ID())
	}
	f = t.v.Engines[leaf.Method].Verify(t.ctx, t.artifact, s, t.rule, leaf)
	if !slices.Contains(verdict.Outcomes(), f.Outcome) || f.Outcome.OK() && (f.Identity == "" || f.Reason != "") {
		return verdict.Fail(verdict.RegistryOdd, "signature %s: the engine gave no usable answer", s.ID())
	}
	return f
}

// formats are those that a method reads.
func formats(m policy.Method) []oci.Format {
	switch m {
	case policy.MethodAWSSigner, policy.MethodNotation:
		return []oci.Format{oci.NotaryJWS, oci.NotaryCOSE}
	case policy.MethodCosignKey, policy.MethodCosignKeyless:
		return []oci.Format{oci.CosignLegacy, oci.SigstoreBundle}
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Mode is what the installer does with what does not verify.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce" // nothing goes on
	Warn    Mode = "warn"    // it is said, and goes on
)

// Admit seals what may be installed. The second value is false for what may not: what did not verify under Enforce, and
// whatever could not be resolved, in every mode. Without a policy nothing is admitted.
func (v *Verifier) Admit(r Result, mode Mode) (ref.Admitted, bool) {
	f := ref.Facts{Given: r.given, Canonical: r.canonical, Digest: r.Digest, MediaType: r.MediaType, Outcome: string(r.Outcome)}
	switch {
	case v.Policy == nil:
		return ref.Admitted{}, false
	case r.Outcome.OK():
		f.Basis, f.Method, f.Identity, f.SignedAt = ref.ByPolicy, r.Method, r.Identity, r.SignedAt
		if r.Unsure() {
			f.Note = r.Revocation
		}
	case r.Exception != nil:
		f.Basis, f.Note = ref.ByException, r.Exception.Reason
	case mode == Warn:
		f.Basis, f.Note = ref.ByWarning, r.Message
	default:
		return ref.Admitted{}, false
	}
	a, err := ref.Admit(seal.Grant(), f)
	return a, err == nil
}
