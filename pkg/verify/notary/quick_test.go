package notary

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/jws"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// byLibrary is how the library reads an envelope.
func byLibrary(raw []byte) (*signature.EnvelopeContent, error) {
	parsed, err := signature.ParseEnvelope(jws.MediaTypeEnvelope, raw)
	if err != nil {
		return nil, err
	}
	return parsed.Verify()
}

// bend changes the envelope after it was signed.
func bend(t *testing.T, raw []byte, change func(envelope, header map[string]any)) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	change(e, e["header"].(map[string]any))
	return rawJSON(e)
}

// TestQuick: what is read the quick way is what the library reads and finds good. The library may know more; it is asked then.
func TestQuick(t *testing.T) {
	w := newWorld(t)
	signed := func(change ...func(*signing.NotaryOptions)) []byte {
		return w.sign(w.aws, awsSigned(change...)).Payload
	}
	header := func(change func(header map[string]any)) []byte {
		return w.byHand(w.aws, awsSigned(), func(h map[string]any, payload []byte) ([]byte, []byte) {
			change(h)
			return rawJSON(h), payload
		}).Payload
	}
	good, foreign := signed(), w.sign(w.authority(signing.AuthorityOptions{}), awsSigned()).Payload
	chain := func(raw []byte) []any {
		var e struct {
			Header struct {
				Chain []any `json:"x5c"`
			} `json:"header"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		return e.Header.Chain
	}
	reencode := func(text any, change func([]byte)) string {
		raw, err := base64.RawURLEncoding.DecodeString(text.(string))
		if err != nil {
			t.Fatal(err)
		}
		change(raw)
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	company, cose := signing.NotaryOptions{}, awsSigned()
	cose.COSE = true
	cases := []struct {
		name  string
		raw   []byte
		quick bool
	}{
		{"as AWS signs", good, true},
		{"without an end", signed(func(o *signing.NotaryOptions) { o.Expires = time.Time{} }), true},
		{"with an alias", signed(func(o *signing.NotaryOptions) { o.Alias = alias }), true},
		{"an attribute more, critical", signed(with(signature.Attribute{Key: "x", Critical: true, Value: "y"})), true},
		{"an attribute more, not critical", signed(with(signature.Attribute{Key: "x", Value: "y"})), true},
		{"by hand", header(func(map[string]any) {}), true},
		{"a company's", w.sign(w.corp, company).Payload, false},
		{"COSE", w.sign(w.aws, cose).Payload, false},
		{"empty", nil, false},
		{"no JSON", []byte("{"), false},
		{"another algorithm", header(func(h map[string]any) { h["alg"] = "ES256" }), false},
		{"no algorithm", header(func(h map[string]any) { h["alg"] = "none" }), false},
		{"nothing critical", header(func(h map[string]any) { delete(h, "crit") }), false},
		{"the scheme is not critical", header(func(h map[string]any) {
			h["crit"] = []string{"io.cncf.notary.authenticSigningTime", "io.cncf.notary.expiry"}
		}), false},
		{"the time is not critical", header(func(h map[string]any) { h["crit"] = []string{"io.cncf.notary.signingScheme", "io.cncf.notary.expiry"} }), false},
		{"the end is not critical", header(func(h map[string]any) {
			h["crit"] = []string{"io.cncf.notary.signingScheme", "io.cncf.notary.authenticSigningTime"}
		}), false},
		{"critical and not there", header(func(h map[string]any) { h["crit"] = append(h["crit"].([]string), "nowhere") }), false},
		{"both times", header(func(h map[string]any) { h["io.cncf.notary.signingTime"] = time.Now() }), false},
		{"no time", header(func(h map[string]any) { delete(h, "io.cncf.notary.authenticSigningTime") }), false},
		{"the time is null", header(func(h map[string]any) { h["io.cncf.notary.authenticSigningTime"] = nil }), false},
		{"the end is null", header(func(h map[string]any) {
			h["io.cncf.notary.expiry"], h["crit"] = nil, []string{"io.cncf.notary.signingScheme", "io.cncf.notary.authenticSigningTime"}
		}), false},
		{"ended before it was signed", header(func(h map[string]any) { h["io.cncf.notary.expiry"] = time.Now().Add(-48 * time.Hour) }), false},
		{"another scheme", header(func(h map[string]any) { h["io.cncf.notary.signingScheme"] = "notary.x509.other" }), false},
		{"another payload", bend(t, good, func(e, _ map[string]any) { e["payload"] = reencode(e["payload"], func(b []byte) { b[len(b)/2] ^= 1 }) }), false},
		{"another header", bend(t, good, func(e, _ map[string]any) {
			e["protected"] = reencode(e["protected"], func(b []byte) { b[len(b)/2] ^= 1 })
		}), false},
		{"another signature", bend(t, good, func(e, _ map[string]any) { e["signature"] = reencode(e["signature"], func(b []byte) { b[50] ^= 1 }) }), false},
		{"a signature of zeros", bend(t, good, func(e, _ map[string]any) { e["signature"] = reencode(e["signature"], func(b []byte) { clear(b) }) }), false},
		{"half a signature", bend(t, good, func(e, _ map[string]any) { e["signature"] = e["signature"].(string)[:64] }), false},
		{"no certificates", bend(t, good, func(_, h map[string]any) { h["x5c"] = []any{} }), false},
		{"the leaf alone", bend(t, good, func(_, h map[string]any) { h["x5c"] = chain(good)[:1] }), false},
		{"no root", bend(t, good, func(_, h map[string]any) { h["x5c"] = chain(good)[:3] }), false},
		{"another's root", bend(t, good, func(_, h map[string]any) { h["x5c"] = append(chain(good)[:3:3], chain(foreign)[3]) }), false},
		{"another's certificates", bend(t, good, func(_, h map[string]any) { h["x5c"] = chain(foreign) }), false},
		{"another's leaf", bend(t, foreign, func(_, h map[string]any) { h["x5c"] = append(chain(foreign)[:1:1], chain(good)[1:]...) }), false},
		{"the root twice", bend(t, good, func(_, h map[string]any) { h["x5c"] = append(chain(good), chain(good)[3]) }), false},
	}
	var known chains
	quick := 0
	for range 2 { // the second time from what is remembered of the chains
		for _, tt := range cases {
			e, ok := known.quick(tt.raw)
			content, err := byLibrary(tt.raw)
			switch {
			case ok != tt.quick:
				t.Errorf("%s: quick %v, want %v; the library: %v", tt.name, ok, tt.quick, err)
			case ok && (err != nil || !e.agrees(content)):
				t.Errorf("%s: it is read the quick way, and not like this by the library: %v", tt.name, err)
			case ok:
				quick++
			}
		}
	}
	if quick != 12 || len(cases) != 35 {
		t.Errorf("%d of %d cases are read the quick way, want 6 of 35, twice", quick, len(cases))
	}
}

// TestAgrees: nothing that a decision hangs on can differ unnoticed.
func TestAgrees(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.aws, awsSigned()).Payload
	e, ok := new(chains).quick(raw)
	if !ok {
		t.Fatal("it is not read the quick way")
	}
	other, err := byLibrary(w.sign(w.authority(signing.AuthorityOptions{}), awsSigned()).Payload)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func(c *signature.EnvelopeContent){
		"type of the payload": func(c *signature.EnvelopeContent) { c.Payload.ContentType = "text/plain" },
		"artifact": func(c *signature.EnvelopeContent) {
			c.Payload.Content = []byte(strings.Replace(string(c.Payload.Content), testTarget.Digest.String(), "sha256:"+strings.Repeat("0", 64), 1))
		},
		"size": func(c *signature.EnvelopeContent) {
			c.Payload.Content = []byte(strings.Replace(string(c.Payload.Content), `"size":8`, `"size":9`, 1))
		},
		"no artifact":   func(c *signature.EnvelopeContent) { c.Payload.Content = []byte("{}") },
		"algorithm":     func(c *signature.EnvelopeContent) { c.SignerInfo.SignatureAlgorithm = signature.AlgorithmES256 },
		"signature":     func(c *signature.EnvelopeContent) { c.SignerInfo.Signature = other.SignerInfo.Signature },
		"certificates":  func(c *signature.EnvelopeContent) { c.SignerInfo.CertificateChain = other.SignerInfo.CertificateChain },
		"fewer of them": func(c *signature.EnvelopeContent) { c.SignerInfo.CertificateChain = c.SignerInfo.CertificateChain[:3] },
		"scheme": func(c *signature.EnvelopeContent) {
			c.SignerInfo.SignedAttributes.SigningScheme = signature.SigningSchemeX509
		},
		"time":         func(c *signature.EnvelopeContent) { c.SignerInfo.SignedAttributes.SigningTime = time.Now() },
		"end":          func(c *signature.EnvelopeContent) { c.SignerInfo.SignedAttributes.Expiry = time.Time{} },
		"an attribute": func(c *signature.EnvelopeContent) { c.SignerInfo.SignedAttributes.ExtendedAttributes[0].Value = "x" },
		"criticality": func(c *signature.EnvelopeContent) {
			c.SignerInfo.SignedAttributes.ExtendedAttributes[0].Critical = false
		},
		"fewer attributes": func(c *signature.EnvelopeContent) {
			a := &c.SignerInfo.SignedAttributes.ExtendedAttributes
			*a = (*a)[1:]
		},
		"an attribute more": func(c *signature.EnvelopeContent) {
			a := &c.SignerInfo.SignedAttributes.ExtendedAttributes
			*a = append(*a, signature.Attribute{Key: "x", Value: "y"})
		},
		"one for another": func(c *signature.EnvelopeContent) { c.SignerInfo.SignedAttributes.ExtendedAttributes[0].Key = "x" },
	}
	for name, change := range changes {
		content, err := byLibrary(raw)
		if err != nil || !e.agrees(content) {
			t.Fatalf("it does not agree with itself: %v", err)
		}
		if change(content); e.agrees(content) {
			t.Errorf("another %s goes unnoticed", name)
		}
	}
}

// TestChains: only so many chains are remembered, and none that does not hold together is taken for one that does.
func TestChains(t *testing.T) {
	w := newWorld(t)
	good, err := w.aws.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var known chains
	for i := range 3 * maxChains {
		if known.hold([]*x509.Certificate{{Raw: binary.BigEndian.AppendUint32(nil, uint32(i))}}) {
			t.Fatal("what is no certificate holds")
		}
		if i == 0 && !known.hold(good) {
			t.Fatal("it does not hold")
		}
	}
	if !known.hold(good) || known.hold(good[:3]) || known.hold(nil) {
		t.Error("another answer than before, or to another question")
	}
	if n := len(known.known); n != maxChains || len(known.good) != n {
		t.Errorf("%d chains are remembered, of at most %d", n, maxChains)
	}
}

// FuzzQuick: no envelope is read the quick way that the library refuses or reads in another way.
func FuzzQuick(f *testing.F) {
	aws, err := signing.NewAuthority(signing.AuthorityOptions{})
	if err != nil {
		f.Fatal(err)
	}
	e, err := aws.Sign(f.Context(), testTarget, awsSigned())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Blob)
	f.Add([]byte(strings.Replace(string(e.Blob), `"payload"`, `"Payload"`, 1)))
	f.Add([]byte(strings.Replace(string(e.Blob), `{`, `{"payload":"","protected":"",`, 1)))
	var known chains
	f.Fuzz(func(t *testing.T, raw []byte) {
		quick, ok := known.quick(raw)
		if !ok || precheckJWS(raw) != nil {
			return
		}
		if content, err := byLibrary(raw); err != nil || !quick.agrees(content) {
			t.Errorf("it is read the quick way, and not like this by the library: %v", err)
		}
	})
}

// slow answers when it is told to, or when the question is taken back.
type slow struct {
	started, ended atomic.Int32
	answer         chan Answer
}

func (s *slow) Check(ctx context.Context, _ Question) (Answer, error) {
	s.started.Add(1)
	defer s.ended.Add(1)
	select {
	case a := <-s.answer:
		return a, nil
	case <-ctx.Done():
		return Answer{}, &UnansweredError{Reason: verdict.RevocationUnknown, Message: "taken back", Err: ctx.Err()}
	}
}

// TestAskAhead: an answer that does not come in time is no answer, and no question outlives its check.
func TestAskAhead(t *testing.T) {
	w := newWorld(t)
	s := w.sign(w.aws, awsSigned())
	checker := &slow{answer: make(chan Answer, 1)}
	e := w.engine(func(o *Options) { o.Checker = checker })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	w.want("no answer", e.Verify(ctx, w.artifact, s, require, awsLeaf), verdict.TimedOut, "")
	if started, ended := checker.started.Load(), checker.ended.Load(); started != 1 || ended != 1 {
		t.Errorf("%d questions were asked and %d ended, want one", started, ended)
	}
	checker.answer <- Answer{Revoked: []string{job}}
	w.want("revoked", e.Verify(t.Context(), w.artifact, s, best, awsLeaf), verdict.SignatureRevoked, job)
	checker.answer <- Answer{At: time.Now()}
	w.want("an answer", e.Verify(t.Context(), w.artifact, s, require, awsLeaf), "", "")
	w.want("nobody is asked", e.Verify(t.Context(), w.artifact, s, off, awsLeaf), "", "")
	if started, ended := checker.started.Load(), checker.ended.Load(); started != 3 || ended != 3 {
		t.Errorf("%d questions were asked and %d ended, want three", started, ended)
	}
	if _, err := (&check{e: e}).answer(t.Context()); !errors.Is(err, errNotLooked) {
		t.Errorf("an answer to what was not asked: %v", err)
	}
	if e.leaving.inside != 0 {
		t.Errorf("%d are still about to ask", e.leaving.inside)
	}
}

// TestDoor: computing waits for questions on their way out, for a while.
func TestDoor(t *testing.T) {
	var d door
	d.enter()
	d.enter()
	d.leave()
	began := time.Now()
	d.wait(t.Context())
	if waited := time.Since(began); waited < patience {
		t.Errorf("it waited %s, of %s", waited, patience)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.wait(ctx)
	d.leave()
	d.wait(t.Context())
	d.enter()
	d.leave()
	d.wait(t.Context())
	if d.inside != 0 {
		t.Errorf("%d are inside", d.inside)
	}
}
