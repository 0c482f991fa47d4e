package cosign_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// FuzzSignatures feeds the engine whatever a registry might serve. Nothing may get past its recover, and nothing may verify but
// what was signed. What panics inside is refused, and reported here all the same: it is worth a check of its own.
func FuzzSignatures(f *testing.F) {
	s, a := newStage(f, signing.SigstoreOptions{}), artifact("an image")
	stamped := s.keylessLayer(release, a)
	ok(f, s.StampLayer(stamped, s.at))
	second := s.bundle(a)
	ok(f, s.LogBundle2(&second, s.key))
	ok(f, s.StampBundle(&second, s.at))
	seeds := []oci.Signature{
		inLayer(s.loggedLayer(a)), inLayer(stamped), inBundle(s.bundle(a).JSON()), inBundle(second.JSON()), inBundle(s.keylessBundle(release, a).JSON()),
		inBundle(must(s.key.SignMessage(a.Manifest))(f).JSON()), inLayer(must(s.key.SignAttestation(signing.Statement(signing.SPDXPredicate, imageName, a.Descriptor.Digest)))(f)),
		bent(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = 42 }))(s),
	}
	signed := map[string]bool{}
	for _, seed := range seeds {
		at := seed.Blob.Annotations
		body, _ := base64.StdEncoding.DecodeString(body(at[signing.CosignRekor]))
		f.Add(seed.Format == oci.SigstoreBundle, seed.Payload, at[signing.CosignSignature], at[signing.CosignCertificate], at[signing.CosignRekor], at[signing.CosignTimestamp], body)
		signed[content(seed)] = true
	}
	engine := s.engine()
	leaves := []policy.Leaf{s.keyed(), s.inLog(), keyless(release)}
	f.Fuzz(func(t *testing.T, bundled bool, payload []byte, signature, certificate, rekor, stamp string, entry []byte) {
		sig := carried(oci.CosignLegacy, ocispec.Descriptor{Annotations: map[string]string{
			signing.CosignSignature: signature, signing.CosignCertificate: certificate, signing.CosignRekor: rekor, signing.CosignTimestamp: stamp,
		}}, bytes.Clone(payload))
		if was := body(rekor); was != "" { // what mutates text breaks base64: so the entry inside comes apart
			sig.Blob.Annotations[signing.CosignRekor] = strings.Replace(rekor, was, base64.StdEncoding.EncodeToString(entry), 1)
		}
		if bundled {
			sig.Format = oci.SigstoreBundle
		}
		for _, leaf := range leaves {
			found := engine.Verify(t.Context(), a, sig, policy.Rule{}, leaf)
			switch {
			case found.Reason == verdict.Panicked:
				t.Errorf("it panics: %s", found.Message)
			case found.Outcome.OK() && !signed[content(sig)]:
				t.Errorf("nobody signed %+v: %+v", sig, found)
			case found.Outcome == "" || found.Outcome.OK() != (found.Reason == ""):
				t.Errorf("the finding does not hang together: %+v", found)
			}
		}
	})
}

// body is the entry inside a log's promise.
func body(rekor string) string {
	var promise signing.RekorBundle
	if json.Unmarshal([]byte(rekor), &promise) != nil {
		return ""
	}
	text, _ := promise.Payload.Body.(string)
	return text
}

// content is what a signature is about: the layer's bytes, or what stands in a bundle, however that is written.
func content(s oci.Signature) string {
	if s.Format != oci.SigstoreBundle {
		return string(s.Payload)
	}
	var b bundle.Bundle
	if b.UnmarshalJSON(s.Payload) != nil {
		return ""
	}
	return b.GetDsseEnvelope().String() + b.GetMessageSignature().String()
}
