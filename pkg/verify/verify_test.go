package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// shelf is a Source that serves what it is given; tags can be moved between requests.
type shelf struct {
	mu         sync.Mutex
	tags       map[string]string         // "registry/repository:tag" → digest
	indexes    map[string][]string       // digest → digests of its children
	signatures map[string]oci.Signatures // by digest
	fail       map[string]error          // by registry/repository
	block      map[string]bool           // waits for the context
	asked      []string
}

func digestOf(s string) string { return digest.FromString(s).String() }

func (s *shelf) Resolve(ctx context.Context, canonical, location ref.Reference) (oci.Artifact, error) {
	s.mu.Lock()
	s.asked = append(s.asked, location.String())
	err, block := s.fail[location.Name()], s.block[location.Name()]
	d := location.Digest
	if d == "" {
		d = s.tags[location.Name()+":"+location.Tag]
	}
	children := s.indexes[d]
	s.mu.Unlock()
	if block {
		<-ctx.Done()
		return oci.Artifact{}, ctx.Err()
	}
	if err != nil {
		return oci.Artifact{}, err
	}
	if d == "" {
		return oci.Artifact{}, &oci.Error{Finding: verdict.Fail(verdict.NotFound, "%s is not there", location)}
	}
	a := oci.Artifact{Canonical: canonical, Location: location.At(d), Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: 7}}
	for _, c := range children {
		a.Children = append(a.Children, ocispec.Descriptor{Digest: digest.Digest(c)})
	}
	return a, nil
}

func (s *shelf) Signatures(_ context.Context, a oci.Artifact) (oci.Signatures, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.signatures[a.Descriptor.Digest.String()]
	found.Looked = []string{"referrers"}
	return found, nil
}

// says is an engine whose findings are the payloads of the signatures.
type says struct{ calls int }

func (e *says) Verify(_ context.Context, _ oci.Artifact, s oci.Signature, _ policy.Rule, _ policy.Leaf) verdict.Finding {
	e.calls++
	text := string(s.Payload)
	if text == "panic" {
		panic("built to break")
	}
	if text == "good" {
		return verdict.Finding{Outcome: verdict.Verified, Identity: "release@example.com", SignedAt: start.Add(-time.Hour)}
	}
	if r := verdict.Reason(text); r.Outcome() != verdict.Unknown || r == verdict.RevocationUnknown {
		return verdict.Fail(r, "said so")
	}
	return verdict.Finding{Outcome: verdict.Outcome(text), Identity: "x"}
}

func sig(text string, format oci.Format) oci.Signature {
	return oci.Signature{Format: format, Payload: []byte(text), Manifest: ocispec.Descriptor{Digest: digest.FromString("signature " + text)}}
}

const image = "public.ecr.aws/nops/agent"

func leafOf(m policy.Method) policy.Requirement {
	return policy.Requirement{Leaf: &policy.Leaf{Method: m}}
}

func policyOf(r policy.Requirement) *policy.Policy {
	return &policy.Policy{Source: "policy.yaml", Hash: "h1", Rules: []policy.Rule{{Line: 3, Match: []string{"public.ecr.aws/nops/*"}, Require: r}}}
}

func newShelf(signatures ...oci.Signature) *shelf {
	return &shelf{
		tags: map[string]string{image + ":1": digestOf("one"), image + ":2": digestOf("two")}, indexes: map[string][]string{}, fail: map[string]error{}, block: map[string]bool{},
		signatures: map[string]oci.Signatures{digestOf("one"): {Found: signatures}},
	}
}

func verifier(t testing.TB, p *policy.Policy, s oci.Source, more ...func(*Options)) *Verifier {
	t.Helper()
	engine := &says{}
	o := Options{
		Policy: p, Source: s, Now: func() time.Time { return start },
		Engines: map[policy.Method]Engine{policy.MethodAWSSigner: engine, policy.MethodCosignKey: engine, policy.MethodNotation: engine, policy.MethodCosignKeyless: engine},
	}
	for _, f := range more {
		f(&o)
	}
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func one(t testing.TB, v *Verifier, reference string) Result {
	t.Helper()
	r, err := ref.Parse(reference)
	if err != nil {
		t.Fatal(err)
	}
	report, err := v.Verify(t.Context(), []ref.Reference{r})
	if err != nil {
		t.Fatal(err)
	}
	return report.Results[0]
}

// TestOutcomes is one case for every outcome and every way into it, and what may be installed afterwards.
func TestOutcomes(t *testing.T) {
	const aws, key = oci.NotaryJWS, oci.CosignLegacy
	failed := verdict.Fail(verdict.RegistryUnreachable, "referrers: no answer")
	cases := []struct {
		name       string
		require    policy.Requirement
		signatures oci.Signatures
		reference  string
		breaks     func(*shelf)
		want       verdict.Outcome
		reason     verdict.Reason
	}{
		{name: "signed", signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws)}}, want: verdict.Verified},
		{name: "nothing", want: verdict.Unsigned, reason: verdict.NoSignature},
		{name: "only an SBOM", signatures: oci.Signatures{Others: 1}, want: verdict.Unsigned, reason: verdict.NoSignature},
		{name: "a good one among junk", signatures: oci.Signatures{Found: []oci.Signature{sig("bad-signature", aws), sig("panic", aws), sig("good", aws)}}, want: verdict.Verified},
		{name: "junk alone", signatures: oci.Signatures{Found: []oci.Signature{sig("bad-signature", aws)}}, want: verdict.Untrusted, reason: verdict.BadSignature},
		{name: "a panic", signatures: oci.Signatures{Found: []oci.Signature{sig("panic", aws)}}, want: verdict.Untrusted, reason: verdict.Panicked},
		{name: "unreadable", signatures: oci.Signatures{Broken: []verdict.Finding{verdict.Fail(verdict.Malformed, "two layers")}}, want: verdict.Untrusted, reason: verdict.Malformed},
		{name: "unreadable beside a good one", signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws)}, Broken: []verdict.Finding{verdict.Fail(verdict.Malformed, "two layers")}}, want: verdict.Verified},
		{name: "of another kind", signatures: oci.Signatures{Found: []oci.Signature{sig("good", key)}}, want: verdict.Untrusted, reason: verdict.OtherMethod},
		{name: "revoked", signatures: oci.Signatures{Found: []oci.Signature{sig("revoked", aws)}}, want: verdict.Revoked, reason: verdict.SignatureRevoked},
		{name: "revoked, and junk", signatures: oci.Signatures{Found: []oci.Signature{sig("bad-signature", aws), sig("revoked", aws), sig("malformed-signature", aws)}}, want: verdict.Revoked, reason: verdict.SignatureRevoked},
		{name: "revocation unknown, and junk", signatures: oci.Signatures{Found: []oci.Signature{sig("revocation-unknown", aws), sig("bad-signature", aws)}}, want: verdict.Unknown, reason: verdict.RevocationUnknown},
		{name: "an engine that says nothing", signatures: oci.Signatures{Found: []oci.Signature{sig("", aws)}}, want: verdict.Unknown, reason: verdict.RegistryOdd},
		{name: "an engine that says what is no outcome", signatures: oci.Signatures{Found: []oci.Signature{sig("fine", aws)}}, want: verdict.Unknown, reason: verdict.RegistryOdd},
		{name: "a place that could not be looked at is not absence", signatures: oci.Signatures{Failed: []verdict.Finding{failed}}, want: verdict.Unknown, reason: verdict.RegistryUnreachable},
		{name: "nor does it hide a good one", signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws)}, Failed: []verdict.Finding{failed}}, want: verdict.Verified},
		{name: "and weighs more than junk", signatures: oci.Signatures{Found: []oci.Signature{sig("bad-signature", aws)}, Failed: []verdict.Finding{failed}}, want: verdict.Unknown, reason: verdict.RegistryUnreachable},
		{name: "no such tag", reference: image + ":9", want: verdict.Unknown, reason: verdict.NotFound},
		{name: "registry breaks", breaks: func(s *shelf) { s.fail[image] = errors.New("boom") }, want: verdict.Unknown, reason: verdict.RegistryOdd},
		{name: "a source that calls its error good", breaks: func(s *shelf) {
			s.fail[image] = &oci.Error{Finding: verdict.Finding{Outcome: verdict.Verified, Identity: "x"}}
		}, want: verdict.Unknown, reason: verdict.RegistryOdd},
		{name: "time", breaks: func(s *shelf) { s.block[image] = true }, want: verdict.Unknown, reason: verdict.TimedOut},
		{name: "no rule", reference: "docker.io/library/nginx:1", breaks: func(s *shelf) { s.tags["docker.io/library/nginx:1"] = digestOf("one") }, want: verdict.BadPolicy, reason: verdict.NoRule},
		{name: "a rule that requires nothing", require: policy.Requirement{AllOf: []policy.Requirement{}, AnyOf: []policy.Requirement{}}, signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws)}}, want: verdict.BadPolicy, reason: verdict.TrustUnusable},
		{name: "all of two, one there", require: policy.Requirement{AllOf: []policy.Requirement{leafOf(policy.MethodAWSSigner), leafOf(policy.MethodCosignKey)}}, signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws)}}, want: verdict.Untrusted, reason: verdict.OtherMethod},
		{name: "all of two, both there", require: policy.Requirement{AllOf: []policy.Requirement{leafOf(policy.MethodAWSSigner), leafOf(policy.MethodCosignKey)}}, signatures: oci.Signatures{Found: []oci.Signature{sig("good", aws), sig("good", key)}}, want: verdict.Verified},
		{name: "any of two", require: policy.Requirement{AnyOf: []policy.Requirement{leafOf(policy.MethodAWSSigner), leafOf(policy.MethodCosignKey)}}, signatures: oci.Signatures{Found: []oci.Signature{sig("good", key)}}, want: verdict.Verified},
	}
	reached := map[verdict.Outcome]bool{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require := c.require
			if require.Leaf == nil && require.AllOf == nil && require.AnyOf == nil {
				require = leafOf(policy.MethodAWSSigner)
			}
			s := newShelf()
			s.signatures[digestOf("one")] = c.signatures
			if c.breaks != nil {
				c.breaks(s)
			}
			reference := c.reference
			if reference == "" {
				reference = image + ":1"
			}
			v := verifier(t, policyOf(require), s, func(o *Options) { o.Timeout = 200 * time.Millisecond })
			r := one(t, v, reference)
			if r.Outcome != c.want || r.Reason != c.reason {
				t.Fatalf("%s (%s): %s, want %s (%s)", r.Outcome, r.Reason, r.Message, c.want, c.reason)
			}
			reached[r.Outcome] = true
			a, ok := v.Admit(r, Enforce)
			if ok != (c.want == verdict.Verified) || a.Valid() != ok {
				t.Errorf("admitted under enforcement: %v", ok)
			}
			if _, ok := v.Admit(r, Warn); ok != (r.Digest != "") {
				t.Errorf("admitted with a warning: %v, digest %q", ok, r.Digest)
			}
			if c.want != verdict.Verified && (r.Hint == "" || r.Message == "") {
				t.Errorf("a failure without a message or a hint: %+v", r)
			}
			if check := r.Check(); (check.Outcome == event.OK) != (c.want == verdict.Verified) || (check.Outcome == event.Unknown) != (c.want == verdict.Unknown) {
				t.Errorf("its check is %s", check.Outcome)
			}
		})
	}
	for _, o := range verdict.Outcomes() {
		if !reached[o] {
			t.Errorf("no case ends as %s", o)
		}
	}
}

// TestNoWayFromUnknownToOK builds requirements and findings at random: an artifact is verified exactly when the tree is
// satisfied by signatures that an engine called verified, whatever else there is.
func TestNoWayFromUnknownToOK(t *testing.T) {
	methods := []policy.Method{policy.MethodAWSSigner, policy.MethodNotation, policy.MethodCosignKey, policy.MethodCosignKeyless}
	words := []string{"good", "panic", "", "ok", "verified ", "could-not-check"}
	for _, r := range verdict.Reasons() {
		words = append(words, string(r.Reason))
	}
	rapid.Check(t, func(t *rapid.T) {
		var tree func(depth int) policy.Requirement
		tree = func(depth int) policy.Requirement {
			kind := 0
			if depth > 0 {
				kind = rapid.IntRange(0, 2).Draw(t, "kind")
			}
			if kind == 0 {
				return leafOf(rapid.SampledFrom(methods).Draw(t, "method"))
			}
			var all []policy.Requirement
			for range rapid.IntRange(0, 3).Draw(t, "width") {
				all = append(all, tree(depth-1))
			}
			if kind == 1 {
				return policy.Requirement{AllOf: all}
			}
			return policy.Requirement{AnyOf: all}
		}
		require := tree(3)
		var found oci.Signatures
		for range rapid.IntRange(0, 4).Draw(t, "signatures") {
			format := rapid.SampledFrom([]oci.Format{oci.NotaryJWS, oci.NotaryCOSE, oci.CosignLegacy, oci.SigstoreBundle}).Draw(t, "format")
			found.Found = append(found.Found, sig(rapid.SampledFrom(words).Draw(t, "word"), format))
		}
		if rapid.Bool().Draw(t, "failed") {
			found.Failed = []verdict.Finding{verdict.Fail(verdict.RegistryUnreachable, "x")}
		}
		var satisfied func(r policy.Requirement) bool
		satisfied = func(r policy.Requirement) bool {
			switch {
			case r.Leaf != nil:
				return slices.ContainsFunc(found.Found, func(s oci.Signature) bool {
					return string(s.Payload) == "good" && slices.Contains(formats(r.Leaf.Method), s.Format)
				})
			case len(r.AllOf) > 0:
				return !slices.ContainsFunc(r.AllOf, func(r policy.Requirement) bool { return !satisfied(r) })
			}
			return slices.ContainsFunc(r.AnyOf, satisfied)
		}
		s := newShelf()
		s.signatures[digestOf("one")] = found
		engine := &says{}
		v, err := New(Options{
			Policy: policyOf(require), Source: s, Now: func() time.Time { return start },
			Engines: map[policy.Method]Engine{policy.MethodAWSSigner: engine, policy.MethodCosignKey: engine, policy.MethodNotation: engine, policy.MethodCosignKeyless: engine},
		})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := ref.Parse(image + ":1")
		report, err := v.Verify(context.Background(), []ref.Reference{r})
		if err != nil {
			t.Fatal(err)
		}
		result := report.Results[0]
		if !slices.Contains(verdict.Outcomes(), result.Outcome) {
			t.Fatalf("no outcome: %+v", result)
		}
		if want := satisfied(require); (result.Outcome == verdict.Verified) != want || report.Passed != want {
			t.Fatalf("%s, passed %v, want verified: %v", result.Outcome, report.Passed, want)
		}
		if _, ok := v.Admit(result, Enforce); ok != satisfied(require) {
			t.Fatalf("admitted: %v", ok)
		}
	})
}

// TestATagIsLookedAtOnce: what was checked is what is installed, wherever the tag points to by then.
func TestATagIsLookedAtOnce(t *testing.T) {
	s := newShelf(sig("good", oci.NotaryJWS))
	v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s)
	first := one(t, v, image+":1")
	s.mu.Lock()
	s.tags[image+":1"] = digestOf("evil")
	s.mu.Unlock()
	again := one(t, v, image+":1")
	a, ok := v.Admit(again, Enforce)
	if !ok || a.Digest() != digestOf("one") || first.Digest != again.Digest || a.Pinned().String() != image+":1@"+digestOf("one") {
		t.Errorf("admitted %v (%v)", a, ok)
	}
	if len(s.asked) != 1 {
		t.Errorf("asked %d times: %v", len(s.asked), s.asked)
	}
	// Another run looks anew, and sees what the tag has become.
	if r := one(t, verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s), image+":1"); r.Outcome != verdict.Unsigned {
		t.Errorf("a moved tag is %s", r.Outcome)
	}
}

// TestACancelledCheckIsNoAnswer: who asks next is not told what a cancelled check did not find out.
func TestACancelledCheckIsNoAnswer(t *testing.T) {
	s := newShelf(sig("good", oci.NotaryJWS))
	s.block[image] = true
	v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	r, _ := ref.Parse(image + ":1")
	if _, err := v.Verify(ctx, []ref.Reference{r}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	s.mu.Lock()
	s.block[image] = false
	s.mu.Unlock()
	if r := one(t, v, image+":1"); r.Outcome != verdict.Verified {
		t.Errorf("after a cancelled check: %s %s", r.Outcome, r.Message)
	}
}

func TestMirrors(t *testing.T) {
	s := newShelf()
	const there = "reg.example.com/copy/nops/agent"
	s.tags[there+":1"] = digestOf("one")
	s.signatures[digestOf("one")] = oci.Signatures{Found: []oci.Signature{sig("good", oci.NotaryJWS)}}
	mirrors := ref.Mirrors{{From: "public.ecr.aws", To: "reg.example.com/copy"}}
	with := func(o *Options) { o.Mirrors = mirrors }
	for _, asked := range []string{image + ":1", there + ":1"} { // by its published name, and as a render with the mirror says
		v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s, with)
		r := one(t, v, asked)
		if r.Outcome != verdict.Verified || r.Name != image || r.Location != there {
			t.Errorf("%s: %s %s, name %s, location %s", asked, r.Outcome, r.Message, r.Name, r.Location)
		}
		if a, ok := v.Admit(r, Enforce); !ok || a.Pinned().String() != asked+"@"+digestOf("one") || a.Facts().Canonical.Name() != image {
			t.Errorf("%s: admitted %v %v", asked, a, ok)
		}
	}
	s.signatures[digestOf("one")] = oci.Signatures{}
	r := one(t, verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s, with), image+":1")
	if r.Outcome != verdict.Unsigned || r.Reason != verdict.SignaturesMissing || !strings.Contains(r.Hint, "images mirror") {
		t.Errorf("a mirror without signatures: %s %s, hint %q", r.Outcome, r.Reason, r.Hint)
	}
}

// TestIndexAndChild: an image of one platform passes through the index its tag names, if that is signed and lists it.
func TestIndexAndChild(t *testing.T) {
	s := newShelf()
	s.indexes[digestOf("one")] = []string{digestOf("amd64"), digestOf("arm64")}
	s.signatures[digestOf("one")] = oci.Signatures{Found: []oci.Signature{sig("good", oci.NotaryJWS)}}
	for _, c := range []struct {
		name, reference string
		want            verdict.Outcome
		via             string
	}{
		{"the index", image + ":1", verdict.Verified, ""},
		{"a child that the tag's index lists", image + ":1@" + digestOf("arm64"), verdict.Verified, digestOf("one")},
		{"a child without a tag", image + "@" + digestOf("arm64"), verdict.Unsigned, ""},
		{"a child that it does not list", image + ":1@" + digestOf("other"), verdict.Unsigned, ""},
		{"a child by the tag of another image", image + ":2@" + digestOf("arm64"), verdict.Unsigned, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s)
			r := one(t, v, c.reference)
			if r.Outcome != c.want || r.Via != c.via {
				t.Fatalf("%s %s, via %q", r.Outcome, r.Message, r.Via)
			}
			if a, ok := v.Admit(r, Enforce); ok && strings.Contains(c.reference, "@") && a.Digest() != strings.SplitN(c.reference, "@", 2)[1] {
				t.Errorf("admitted another digest: %s", a)
			}
		})
	}
	s.signatures[digestOf("one")] = oci.Signatures{Found: []oci.Signature{sig("revoked", oci.NotaryJWS)}}
	if r := one(t, verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s), image+":1@"+digestOf("arm64")); r.Outcome == verdict.Verified {
		t.Error("a child passes through a revoked index")
	}
	// Not the other way round: who signed one of its images has not said which others the index may list.
	good := oci.Signatures{Found: []oci.Signature{sig("good", oci.NotaryJWS)}}
	s.signatures = map[string]oci.Signatures{digestOf("amd64"): good, digestOf("arm64"): good}
	for reference, want := range map[string]verdict.Outcome{image + ":1": verdict.Unsigned, image + "@" + digestOf("amd64"): verdict.Verified} {
		v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s)
		r := one(t, v, reference)
		if _, ok := v.Admit(r, Enforce); r.Outcome != want || ok != (want == verdict.Verified) {
			t.Errorf("with signed children alone, %s is %s, admitted %v", reference, r.Outcome, ok)
		}
	}
}

func TestExceptions(t *testing.T) {
	p := policyOf(leafOf(policy.MethodAWSSigner))
	p.Exceptions = []policy.Exception{{Line: 9, Match: []string{image}, Digest: digestOf("one"), Reason: "unsigned until the next release", Expires: start.Add(time.Hour)}}
	s := newShelf()
	now := start
	v := verifier(t, p, s, func(o *Options) { o.Now = func() time.Time { return now } })
	r := one(t, v, image+":1")
	a, ok := v.Admit(r, Enforce)
	if !ok || a.Facts().Basis != ref.ByException || r.Outcome != verdict.Unsigned || !r.Passed() || r.Check().Outcome != event.Warned {
		t.Errorf("excepted: %+v, admitted %v", r, ok)
	}
	if r := one(t, v, image+":2"); r.Passed() {
		t.Error("an exception for some bytes lets other bytes in")
	}
	now = start.Add(2 * time.Hour)
	v = verifier(t, p, s, func(o *Options) { o.Now = func() time.Time { return now } })
	if r := one(t, v, image+":1"); r.Passed() || r.Reason != verdict.ExceptionExpired || r.Outcome != verdict.BadPolicy {
		t.Errorf("after its end: %s %s", r.Outcome, r.Reason)
	}
}

func TestWithoutAPolicyNothingIsVerified(t *testing.T) {
	v := verifier(t, nil, newShelf(sig("good", oci.NotaryJWS)))
	r := one(t, v, image+":1")
	if r.Passed() || r.Outcome != "" || !r.Unchecked() || r.Check().Outcome != event.Skipped {
		t.Errorf("%+v", r)
	}
	for _, mode := range []Mode{Enforce, Warn} {
		if a, ok := v.Admit(r, mode); ok {
			t.Errorf("%s admits %s without a policy", mode, a)
		}
	}
	reference, _ := ref.Parse(image + ":1")
	report, err := v.Verify(t.Context(), []ref.Reference{reference})
	if err != nil || report.Passed || report.Counts["unchecked"] != 1 {
		t.Errorf("report %+v, %v", report, err)
	}
}

func TestCache(t *testing.T) {
	now := start
	dir := filepath.Join(t.TempDir(), "verified")
	cache := FileCache{Dir: dir, Now: func() time.Time { return now }}
	with := func(o *Options) { o.Cache, o.Now = cache, func() time.Time { return now } }
	s := newShelf(sig("good", oci.NotaryJWS))
	p := policyOf(leafOf(policy.MethodAWSSigner))
	if r := one(t, verifier(t, p, s, with), image+":1"); r.Outcome != verdict.Verified || r.Cached {
		t.Fatalf("first: %+v", r)
	}
	s.signatures[digestOf("one")] = oci.Signatures{Found: []oci.Signature{sig("revoked", oci.NotaryJWS)}}
	cases := []struct {
		name   string
		change func(p *policy.Policy)
		cached bool
		want   verdict.Outcome
	}{
		{"again", func(*policy.Policy) {}, true, verdict.Verified},
		{"a tag that moved is other bytes", func(*policy.Policy) { s.tags[image+":1"] = digestOf("two") }, false, verdict.Unsigned},
		{"another policy", func(p *policy.Policy) { s.tags[image+":1"] = digestOf("one"); p.Hash = "h2" }, false, verdict.Revoked},
		{"who requires to know of revocations", func(p *policy.Policy) { p.Rules[0].Revocation = policy.RevocationRequire }, false, verdict.Revoked},
		{"too old by now", func(p *policy.Policy) { p.Rules[0].MaxAge = 30 * time.Minute }, false, verdict.Revoked},
		{"others may write the directory", func(*policy.Policy) { _ = os.Chmod(dir, 0o777) }, false, verdict.Revoked},
		{"after ten minutes", func(*policy.Policy) { _ = os.Chmod(dir, 0o700); now = now.Add(CacheTTL + time.Second) }, false, verdict.Revoked},
		{"a clock set back", func(*policy.Policy) { now = start.Add(-time.Hour) }, false, verdict.Revoked},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := policyOf(leafOf(policy.MethodAWSSigner))
			c.change(p)
			r := one(t, verifier(t, p, s, with), image+":1")
			if r.Cached != c.cached || r.Outcome != c.want {
				t.Errorf("cached %v, %s", r.Cached, r.Outcome)
			}
		})
	}
	now = start
	// A signature's own end may come before that of the memory.
	ending := Key{Name: image, Digest: digestOf("one"), Policy: "h3"}
	cache.Put(ending, verdict.Finding{Outcome: verdict.Verified, Identity: "x", SignedAt: start.Add(-time.Hour), Expires: start.Add(time.Minute)})
	for _, later := range []time.Duration{0, 2 * time.Minute} {
		now = start.Add(later)
		p := policyOf(leafOf(policy.MethodAWSSigner))
		p.Hash = "h3"
		if r := one(t, verifier(t, p, s, with), image+":1"); r.Cached != (later == 0) || r.Outcome.OK() != (later == 0) {
			t.Errorf("%s later, with a signature that expires in a minute: cached %v, %s", later, r.Cached, r.Outcome)
		}
	}
	now = start
	// Where nothing can be written, nothing is remembered, and no more than that.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		nowhere := func(o *Options) { o.Cache = FileCache{Dir: filepath.Join(file, "verified"), Now: o.Now} }
		if r := one(t, verifier(t, p, newShelf(sig("good", oci.NotaryJWS)), nowhere), image+":1"); r.Outcome != verdict.Verified || r.Cached {
			t.Errorf("with a cache that cannot be written: %s, cached %v", r.Outcome, r.Cached)
		}
	}
	// A finding that is not good is never remembered, nor believed when somebody wrote it there.
	cache.Put(Key{Name: image, Digest: digestOf("two"), Policy: "h1"}, verdict.Fail(verdict.NoSignature, "x"))
	if _, ok := cache.Get(Key{Name: image, Digest: digestOf("two"), Policy: "h1"}); ok {
		t.Error("a refusal was remembered")
	}
	// What was remembered of some bytes is not believed of others, wherever its file is put.
	one, two := Key{Name: image, Digest: digestOf("one"), Policy: "h1"}, Key{Name: image, Digest: digestOf("two"), Policy: "h1"}
	data, err := os.ReadFile(cache.file(one))
	if err != nil || cache.file(one) == cache.file(two) || os.WriteFile(cache.file(two), data, 0o600) != nil {
		t.Fatalf("%v, in %s", err, cache.file(one))
	}
	if _, ok := cache.Get(one); !ok {
		t.Error("what is remembered is not there: the next line proves nothing")
	}
	if f, ok := cache.Get(two); ok {
		t.Errorf("a finding about other bytes was believed: %+v", f)
	}
	// One name's finding is not another's: rules are about names.
	if _, ok := cache.Get(Key{Name: image + "2", Digest: digestOf("one"), Policy: "h1"}); ok {
		t.Error("a finding was believed under another name")
	}
}

// TestNoRuleAsksNobody: a registry that the policy says nothing about is not even asked.
func TestNoRuleAsksNobody(t *testing.T) {
	s := newShelf()
	p := policyOf(leafOf(policy.MethodAWSSigner))
	if r := one(t, verifier(t, p, s), "evil.example.com/x:1"); r.Reason != verdict.NoRule || len(s.asked) != 0 {
		t.Errorf("%s, asked %v", r.Reason, s.asked)
	}
	p.Exceptions = []policy.Exception{{Match: []string{"evil.example.com/*"}, Reason: "for now", Expires: start.Add(time.Hour)}}
	s.tags["evil.example.com/x:1"] = digestOf("one")
	if r := one(t, verifier(t, p, s), "evil.example.com/x:1"); !r.Passed() || len(s.asked) != 1 {
		t.Errorf("excepted: %s, asked %v", r.Reason, s.asked)
	}
}

// TestCacheOfAnother: what another user wrote is not believed, though nobody else may write it. It takes root to show that.
func TestCacheOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a file that belongs to somebody else")
	}
	cache := FileCache{Dir: filepath.Join(t.TempDir(), "verified"), Now: func() time.Time { return start }}
	key := Key{Name: image, Digest: digestOf("one"), Policy: "h"}
	cache.Put(key, verdict.Finding{Outcome: verdict.Verified, Identity: "x"})
	if _, ok := cache.Get(key); !ok {
		t.Fatal("nothing is remembered")
	}
	if err := os.Chown(cache.file(key), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if f, ok := cache.Get(key); ok {
		t.Errorf("believed: %+v", f)
	}
}

func TestReport(t *testing.T) {
	s := newShelf(sig("good", oci.NotaryJWS))
	v := verifier(t, policyOf(leafOf(policy.MethodAWSSigner)), s)
	var references []ref.Reference
	for _, text := range []string{image + ":2", image + ":1", image + ":9"} {
		r, err := ref.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		references = append(references, r)
	}
	report, err := v.Verify(t.Context(), references)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range report.Results { // in the order asked for, whoever was first
		if r.Reference != references[i].String() {
			t.Errorf("result %d is of %s", i, r.Reference)
		}
	}
	if report.Passed || fmt.Sprint(report.Counts) != "map[could-not-check:1 unsigned:1 verified:1]" || len(report.Refused()) != 2 {
		t.Errorf("passed %v, counts %v", report.Passed, report.Counts)
	}
	data, err := json.Marshal(report)
	if err != nil || strings.Contains(string(data), `"outcome":""`) {
		t.Errorf("%v\n%s", err, data)
	}
}

func TestARuleNeedsItsEngine(t *testing.T) {
	_, err := New(Options{Policy: policyOf(leafOf(policy.MethodCosignKey)), Source: newShelf(), Engines: map[policy.Method]Engine{policy.MethodAWSSigner: &says{}}})
	if err == nil || !strings.Contains(err.Error(), "cosign-key") || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v", err)
	}
}
