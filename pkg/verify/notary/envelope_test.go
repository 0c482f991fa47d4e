package notary

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	gocose "github.com/veraison/go-cose"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// TestEnvelopes: what is signed well and written badly, and the reverse.
func TestEnvelopes(t *testing.T) {
	w := newWorld(t)
	good := w.sign(w.aws, awsSigned())
	coseGood := w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) { o.COSE = true }))
	outer := func(change func(map[string]any)) oci.Signature {
		var parsed map[string]any
		if err := json.Unmarshal(good.Payload, &parsed); err != nil {
			t.Fatal(err)
		}
		change(parsed)
		s := good
		s.Payload = rawJSON(parsed)
		return s
	}
	text := func(old, replacement string) oci.Signature {
		s := good
		s.Payload = bytes.Replace(good.Payload, []byte(old), []byte(replacement), 1)
		if bytes.Equal(s.Payload, good.Payload) {
			t.Fatalf("%q is not there to be replaced", old)
		}
		return s
	}
	header := func(change func(string) string) oci.Signature {
		return w.byHand(w.aws, awsSigned(), func(h map[string]any, p []byte) ([]byte, []byte) { return []byte(change(string(rawJSON(h)))), p })
	}
	payload := func(change func(string) string) oci.Signature {
		return w.byHand(w.aws, awsSigned(), func(h map[string]any, p []byte) ([]byte, []byte) { return rawJSON(h), []byte(change(string(p))) })
	}
	raw := func(format oci.Format, b []byte) oci.Signature {
		return oci.Signature{Format: format, Payload: b, Manifest: ocispec.Descriptor{Digest: digest.FromBytes(b)}}
	}
	flip := func(s oci.Signature, field string) oci.Signature {
		var parsed map[string]any
		if err := json.Unmarshal(s.Payload, &parsed); err != nil {
			t.Fatal(err)
		}
		b, err := base64.RawURLEncoding.DecodeString(parsed[field].(string))
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		parsed[field] = base64.RawURLEncoding.EncodeToString(b)
		s.Payload = rawJSON(parsed)
		return s
	}
	coseChange := func(change func(*gocose.Sign1Message)) oci.Signature {
		var m gocose.Sign1Message
		if err := m.UnmarshalCBOR(coseGood.Payload); err != nil {
			t.Fatal(err)
		}
		change(&m)
		m.Headers.RawUnprotected = nil
		b, err := m.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		return raw(oci.NotaryCOSE, b)
	}
	prefix := func(s, with string) string { return "{" + with + "," + s[1:] }
	chain, err := w.aws.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		sig    oci.Signature
		reason verdict.Reason
	}{
		{"good", good, ""},
		{"good, COSE", coseGood, ""},
		{"empty", raw(oci.NotaryJWS, nil), verdict.Malformed},
		{"empty, COSE", raw(oci.NotaryCOSE, nil), verdict.Malformed},
		{"null", raw(oci.NotaryJWS, []byte("null")), verdict.Malformed},
		{"a list", raw(oci.NotaryJWS, []byte("[]")), verdict.Malformed},
		{"an empty object", raw(oci.NotaryJWS, []byte("{}")), verdict.Malformed},
		{"garbage", raw(oci.NotaryJWS, []byte("\x00\xff")), verdict.Malformed},
		{"garbage, COSE", raw(oci.NotaryCOSE, []byte("\x00\xff")), verdict.Malformed},
		{"JWS as COSE", raw(oci.NotaryCOSE, good.Payload), verdict.Malformed},
		{"COSE as JWS", raw(oci.NotaryJWS, coseGood.Payload), verdict.Malformed},
		{"cosign's", raw(oci.CosignLegacy, good.Payload), verdict.OtherMethod},
		{"too large", raw(oci.NotaryJWS, append(bytes.Clone(good.Payload), bytes.Repeat([]byte(" "), maxEnvelope)...)), verdict.Malformed},
		{"cut off", raw(oci.NotaryJWS, good.Payload[:len(good.Payload)-10]), verdict.Malformed},
		{"cut off, COSE", raw(oci.NotaryCOSE, coseGood.Payload[:len(coseGood.Payload)-10]), verdict.Malformed},
		{"nested without end", raw(oci.NotaryJWS, []byte(strings.Repeat(`{"a":`, 100000))), verdict.Malformed},
		{"nested lists, COSE", raw(oci.NotaryCOSE, bytes.Repeat([]byte{0x81}, 100000)), verdict.Malformed},
		{"more behind", raw(oci.NotaryJWS, append(bytes.Clone(good.Payload), '{', '}')), verdict.Malformed},
		{"the payload twice", text(`"payload":`, `"payload":"e30","payload":`), verdict.Malformed},
		{"the payload in capitals", text(`"payload":`, `"PAYLOAD":`), verdict.Malformed},
		{"the payload in capitals besides", text(`"payload":`, `"Payload":"e30","payload":`), verdict.Malformed},
		{"the chain twice", text(`"x5c":`, `"x5c":[],"x5c":`), verdict.Malformed},
		{"a letter that folds to another", text(`"signature":`, `"ſignature":"e30","signature":`), verdict.Malformed},
		{"no chain", outer(func(m map[string]any) { delete(m["header"].(map[string]any), "x5c") }), verdict.Malformed},
		{"a chain that is no list", outer(func(m map[string]any) { m["header"].(map[string]any)["x5c"] = 42 }), verdict.Malformed},
		{"a chain of garbage", outer(func(m map[string]any) { m["header"].(map[string]any)["x5c"] = []string{"AAAA"} }), verdict.Malformed},
		{"a chain without its root", outer(func(m map[string]any) {
			h := m["header"].(map[string]any)
			h["x5c"] = h["x5c"].([]any)[:3]
		}), verdict.Malformed},
		{"the chain upside down", outer(func(m map[string]any) {
			h := m["header"].(map[string]any)
			c := h["x5c"].([]any)
			h["x5c"] = []any{c[3], c[2], c[1], c[0]}
		}), verdict.BadSignature},
		{"the root twice", outer(func(m map[string]any) {
			h := m["header"].(map[string]any)
			c := h["x5c"].([]any)
			h["x5c"] = append(c, c[3])
		}), verdict.Malformed},
		{"a thousand certificates", outer(func(m map[string]any) {
			c := make([]string, 1000)
			for i := range c {
				c[i] = base64.StdEncoding.EncodeToString(chain[2].Raw)
			}
			m["header"].(map[string]any)["x5c"] = c[:800]
		}), verdict.Malformed},
		{"a key that takes for ever", outer(func(m map[string]any) {
			h := m["header"].(map[string]any)
			c := h["x5c"].([]any)
			c[1] = base64.StdEncoding.EncodeToString(endlessKey(t))
		}), verdict.Malformed},
		{"no signature", outer(func(m map[string]any) { m["signature"] = "" }), verdict.BadSignature},
		{"a bit of the signature", flip(good, "signature"), verdict.BadSignature},
		{"a bit of the payload", flip(good, "payload"), verdict.BadSignature},
		{"another's signature", outer(func(m map[string]any) {
			var two map[string]any
			_ = json.Unmarshal(w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) { o.Job += "0" })).Payload, &two)
			m["signature"] = two["signature"]
		}), verdict.BadSignature},
		{"no certificate, COSE", coseChange(func(m *gocose.Sign1Message) { delete(m.Headers.Unprotected, gocose.HeaderLabelX5Chain) }), verdict.Malformed},
		{"eleven certificates, COSE", coseChange(func(m *gocose.Sign1Message) {
			var c []any
			for range 11 {
				c = append(c, chain[1].Raw)
			}
			m.Headers.Unprotected[gocose.HeaderLabelX5Chain] = c
		}), verdict.Malformed},
		{"a bit of the signature, COSE", coseChange(func(m *gocose.Sign1Message) { m.Signature[5] ^= 1 }), verdict.BadSignature},
		{"another payload, COSE", coseChange(func(m *gocose.Sign1Message) { m.Payload = []byte(`{"targetArtifact":{}}`) }), verdict.BadSignature},

		{"algorithm none", header(func(h string) string { return strings.Replace(h, `"ES384"`, `"none"`, 1) }), verdict.BadSignature},
		{"algorithm HS384", header(func(h string) string { return strings.Replace(h, `"ES384"`, `"HS384"`, 1) }), verdict.BadSignature},
		{"another algorithm of the curve", header(func(h string) string { return strings.Replace(h, `"ES384"`, `"ES256"`, 1) }), verdict.BadSignature},
		{"an attribute twice", header(func(h string) string {
			return prefix(h, `"`+attributeProfileVersion+`":"arn:aws:signer:us-east-1:999999999999:/signing-profiles/evil/AbCdEfGhIj"`)
		}), verdict.Malformed},
		{"an expiry in capitals", header(func(h string) string { return prefix(h, `"IO.CNCF.NOTARY.EXPIRY":"2199-01-01T00:00:00Z"`) }), verdict.Malformed},
		{"crit in capitals", header(func(h string) string { return prefix(h, `"CRIT":["io.cncf.notary.signingScheme"]`) }), verdict.Malformed},
		{"no crit", header(func(h string) string { return strings.Replace(h, `"crit"`, `"krit"`, 1) }), verdict.Malformed},
		{"critical, and not there", header(func(h string) string { return strings.Replace(h, `"crit":[`, `"crit":["com.example.gone",`, 1) }), verdict.Malformed},
		{"expiry not critical", header(func(h string) string { return strings.Replace(h, `,"io.cncf.notary.expiry"`, ``, 1) }), verdict.Malformed},
		{"a scheme of the future", header(func(h string) string {
			return strings.Replace(h, "notary.x509.signingAuthority", "notary.x509.signingAuthority2", 1)
		}), verdict.Malformed},
		{"a time that is none", header(func(h string) string {
			return strings.Replace(h, `"io.cncf.notary.authenticSigningTime":"2`, `"io.cncf.notary.authenticSigningTime":"x2`, 1)
		}), verdict.Malformed},
		{"no time", header(func(h string) string {
			return strings.ReplaceAll(h, `"io.cncf.notary.authenticSigningTime"`, `"com.example.time"`)
		}), verdict.Malformed},
		{"both times", header(func(h string) string { return prefix(h, `"io.cncf.notary.signingTime":"2026-01-01T00:00:00Z"`) }), verdict.Malformed},
		{"another type of payload", header(func(h string) string { return strings.Replace(h, "notary.payload.v1", "notary.payload.v2", 1) }), verdict.Malformed},
		{"a header that is no object", header(func(string) string { return `[]` }), verdict.BadSignature},

		{"a payload that is no object", payload(func(string) string { return `"x"` }), verdict.BadSignature},
		{"a payload without artifact", payload(func(string) string { return `{}` }), verdict.Malformed},
		{"a payload of null", payload(func(string) string { return `{"targetArtifact":null}` }), verdict.Malformed},
		{"two artifacts", payload(func(p string) string { return prefix(p, p[1:strings.LastIndex(p, "}")]) }), verdict.Malformed},
		{"an artifact in capitals besides", payload(func(p string) string { return prefix(p, `"TargetArtifact":{"size":1}`) }), verdict.Malformed},
		{"the digest twice", payload(func(p string) string {
			return strings.Replace(p, `"digest":`, `"digest":"sha256:`+strings.Repeat("0", 64)+`","digest":`, 1)
		}), verdict.Malformed},
		{"the digest in capitals besides", payload(func(p string) string {
			return strings.Replace(p, `"digest":`, `"Digest":"sha256:`+strings.Repeat("0", 64)+`","digest":`, 1)
		}), verdict.Malformed},
		{"a digest that is none", payload(func(p string) string { return strings.Replace(p, "sha256:", "sha256:\\u001b[31m", 1) }), verdict.Malformed},
		{"a size that is none", payload(func(p string) string { return strings.Replace(p, `"size":8`, `"size":"8"`, 1) }), verdict.Malformed},
		{"a media type for terminals", payload(func(p string) string { return strings.Replace(p, `"mediaType":"`, `"mediaType":"\u001b[31m\n`, 1) }), verdict.WrongArtifact},
		{"what one may add", payload(func(p string) string { return prefix(p, `"note":{"deep":[1,2]}`) }), ""},
	}
	for _, tc := range cases {
		f := w.engine().Verify(t.Context(), w.artifact, tc.sig, require, awsLeaf)
		w.want(tc.name, f, tc.reason, "")
	}
	if len(cases) < 60 {
		t.Errorf("%d cases", len(cases))
	}
	if err := precheckChain([][]byte{endlessKey(t)}); err == nil || !strings.Contains(err.Error(), "bits") {
		t.Errorf("a key of a hundred thousand bits: %v", err)
	}
}

// endlessKey is a certificate with an RSA key of a hundred thousand bits, which nobody need have.
func endlessKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).SetBit(big.NewInt(1), 100_000, 1)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &rsa.PublicKey{N: n, E: 65537}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestInspect: what a signature says of itself is shown, whoever made it.
func TestInspect(t *testing.T) {
	w := newWorld(t)
	o := awsSigned(func(o *signing.NotaryOptions) { o.Alias = alias })
	c, f := Inspect(w.sign(w.aws, o))
	if f != nil {
		t.Fatal(f.Message)
	}
	if c.Profile != version || c.Job != job || c.Alias != alias || c.Target.Digest != testTarget.Digest || len(c.Certificates) != 4 || c.Certificates[3].SHA256 != w.aws.RootFingerprint() || len(c.Attributes) != 4 || len(c.RevocationHash) != 4 {
		t.Errorf("%+v", c)
	}
	if c, f = Inspect(w.sign(w.corp, signing.NotaryOptions{COSE: true, TSA: w.tsa})); f != nil || c.TimeStamp.IsZero() || c.Profile != "" || c.Scheme != string(signature.SigningSchemeX509) {
		t.Errorf("%+v, %+v", c, f)
	}
	if _, f = Inspect(oci.Signature{Format: oci.NotaryJWS, Payload: []byte("{}")}); f == nil || f.Reason != verdict.Malformed {
		t.Errorf("%+v", f)
	}
}

// FuzzOpen: no bytes make the reader panic, and what it takes is about something, by somebody.
func FuzzOpen(f *testing.F) {
	a, err := signing.NewAuthority(signing.AuthorityOptions{})
	if err != nil {
		f.Fatal(err)
	}
	for _, isCOSE := range []bool{false, true} {
		e, err := a.Sign(f.Context(), testTarget, awsSigned(func(o *signing.NotaryOptions) { o.COSE = isCOSE }))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Blob, isCOSE)
		f.Add(e.Blob[:len(e.Blob)/2], isCOSE)
	}
	for _, seed := range []string{"", "{}", "null", `{"payload":"","protected":"","header":{"x5c":[]},"signature":""}`, `{"protected":"eyJjcml0IjpbIiJdfQ"}`, strings.Repeat("[", 20), "\xd2\x84\x40\xa0\x40\x40", "\xd2\x84\x43\xa1\x01\x38\xa0\x40\x40"} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, blob []byte, isCOSE bool) {
		s := oci.Signature{Format: oci.NotaryJWS, Payload: blob}
		if isCOSE {
			s.Format = oci.NotaryCOSE
		}
		e, finding := open(s, nil)
		switch {
		case finding != nil:
			if finding.Outcome == verdict.Verified || finding.Outcome == "" || e != nil {
				t.Errorf("refused as %+v, with %v", finding, e)
			}
		case e == nil || len(e.chain) == 0 || len(e.chain) > maxChain || e.target.Digest.Validate() != nil || len(e.mark) == 0 || e.signed.SigningTime.IsZero():
			t.Errorf("taken, and %+v", e)
		}
	})
}

// FuzzJSON: what passes has one meaning, the one that a decoder which takes the first of two names has as well.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":1}]}}`, `{"A":1,"a":2}`, `[{"a":1},{"a":2}]`, `{"a":"\u0062","b":null}`, `{"a":1}x`, `"a"`, `{"a":{"a":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if checkJSON(raw, 3, "a", "b") != nil {
			return
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Errorf("%q passes, and is no JSON: %v", raw, err)
		}
		if again, err := json.Marshal(v); err != nil || checkJSON(again, 3, "a", "b") != nil {
			t.Errorf("%q passes, and what it means does not: %s", raw, again)
		}
	})
}
