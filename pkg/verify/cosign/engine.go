// Package cosign checks signatures of cosign and Sigstore, of both forms: a simple-signing document in a layer, and a Sigstore
// bundle. It asks nobody: keys come from the policy, everything else from the trusted root.
//
// What this package adds to the libraries it stands on, because they leave it to their callers:
//
//   - each signature is looked at alone, in this goroutine, so that one which breaks a verifier breaks nothing else;
//   - foreign text is read strictly before a library sees it, and only what was read is handed on;
//   - a claim is always compared with the artifact, an identity is always demanded and compared as a whole;
//   - an attestation is no signature, whoever signed it;
//   - every certificate of a chain must have been valid at every time that is proven for the signature;
//   - nothing reaches for the network or for variables of the environment.
//
// About time: a transparency log and a time stamp prove that a signature existed by then. With a certificate that lives for
// minutes, that is when it was made. With a key, somebody who can write to the registry may have an old signature logged
// or stamped anew: its time is only as good as the registry. A policy with maxAge is worth most with keyless signatures.
package cosign

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Limits on what is read. Honest signatures are a hundred times smaller.
const (
	maxDocument   = 256 << 10 // a simple-signing document
	maxAnnotation = 256 << 10 // one annotation: signature, certificate, the log's promise, a time stamp
	maxBundle     = 4 << 20
	maxStamps     = 32 // as many as the library takes; it takes as many entries of logs, and 1024 subjects
)

// Options make an Engine.
type Options struct {
	// Sigstore says whom keyless signatures and transparency logs are trusted by.
	Sigstore policy.Sigstore
	// Now is for the age of signatures; nil means time.Now.
	Now func() time.Time
}

// Engine checks signatures of policy.MethodCosignKey and policy.MethodCosignKeyless. It is safe for concurrent use.
type Engine struct {
	now  func() time.Time
	root func() (*root.TrustedRoot, error)
}

// New makes an Engine. The error is about the trusted root that the policy gives; the one that ships is read when it is needed.
func New(o Options) (*Engine, error) {
	e := &Engine{now: o.Now, root: sync.OnceValues(shippedRoot)}
	if e.now == nil {
		e.now = time.Now
	}
	if len(o.Sigstore.TrustedRoot) > 0 {
		given, err := parseRoot(o.Sigstore.TrustedRoot)
		if err != nil {
			return nil, fmt.Errorf("the policy's trusted root of Sigstore: %w", err)
		}
		e.root = func() (*root.TrustedRoot, error) { return given, nil }
	}
	return e, nil
}

// Verify holds one signature against one leaf of a requirement. It returns a finding in every case.
func (e *Engine) Verify(ctx context.Context, a oci.Artifact, s oci.Signature, rule policy.Rule, leaf policy.Leaf) (f verdict.Finding) {
	defer func() {
		if p := recover(); p != nil {
			f = verdict.Fail(verdict.Panicked, "signature %s makes the verifier panic: %s", s.ID(), clip(fmt.Sprint(p)))
		}
		f.Method, f.Signature = string(leaf.Method), s.ID()
	}()
	p, err := e.verify(ctx, a, s, leaf)
	if err == nil {
		err = e.age(p, rule)
	}
	if err != nil {
		var known *refusal
		if !errors.As(err, &known) {
			known = &refusal{verdict.BadSignature, err.Error()}
		}
		f = verdict.Fail(known.reason, "%s", clip(known.message))
	} else {
		f.Outcome = verdict.Verified
	}
	f.Identity, f.SignedAt = p.identity, p.signedAt()
	return f
}

// proof is what is known of a signature. Nothing is entered before it has been shown.
type proof struct {
	identity string
	times    []time.Time
}

// signedAt is the earliest of the proven times; zero where there is none.
func (p proof) signedAt() time.Time {
	var first time.Time
	for _, t := range p.times {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first.UTC()
}

func (e *Engine) verify(ctx context.Context, a oci.Artifact, s oci.Signature, leaf policy.Leaf) (proof, error) {
	if ctx.Err() != nil {
		return proof{}, refuse(verdict.TimedOut, "there was no time to look at signature %s", s.ID())
	}
	digest := a.Descriptor.Digest.String()
	if !ref.IsDigest(digest) {
		return proof{}, refuse(verdict.RegistryOdd, "the image has %q in the place of a digest", clip(digest))
	}
	want, err := e.trust(leaf)
	if err != nil {
		return proof{}, err
	}
	switch s.Format {
	case oci.CosignLegacy:
		l, err := readLayer(s, digest)
		if err != nil {
			return proof{}, err
		}
		if want.verifiers != nil {
			return want.byKey(func(want trust) (proof, error) { return l.byKey(ctx, want, digest) })
		}
		return l.byCertificate(ctx, want, digest)
	case oci.SigstoreBundle:
		b, err := readBundle(s, digest)
		if err != nil {
			return proof{}, err
		}
		if want.verifiers != nil {
			return want.byKey(func(want trust) (proof, error) { return b.byKey(ctx, want) })
		}
		return b.byCertificate(ctx, want)
	case oci.NotaryJWS, oci.NotaryCOSE:
	}
	return proof{}, refuse(verdict.OtherMethod, "signature %s is written down as %q, and the policy asks for %s", s.ID(), s.Format, leaf.Method)
}

// age holds the proven time against the rule.
func (e *Engine) age(p proof, rule policy.Rule) error {
	if rule.MaxAge <= 0 && rule.NotBefore.IsZero() {
		return nil
	}
	at, now := p.signedAt(), e.now()
	switch {
	case at.IsZero():
		return refuse(verdict.NoTimestamp, "the policy limits the age of signatures, and nothing trusted says when this one was made")
	case rule.MaxAge > 0 && now.Sub(at) > rule.MaxAge:
		return refuse(verdict.TooOld, "it was signed on %s, longer ago than the %s that the policy allows", at.Format(time.RFC3339), rule.MaxAge)
	case at.Before(rule.NotBefore):
		return refuse(verdict.TooOld, "it was signed on %s, before %s, which the policy demands", at.Format(time.RFC3339), rule.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// refusal is an error that knows its reason.
type refusal struct {
	reason  verdict.Reason
	message string
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

func refuse(reason verdict.Reason, format string, args ...any) error {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// clip keeps foreign text, which messages quote, on one line and short.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	const most = 600
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return s
}
