package cosign_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const imageName = "public.ecr.aws/nops/agent"

var (
	release = signing.Who{Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/nops-io/images/.github/workflows/release.yml@refs/tags/v1"}
	mallory = signing.Who{Issuer: "https://accounts.google.com", Subject: "mallory@evil.example"}
)

// artifact is an image that nobody needs to see: engines get its digest.
func artifact(text string) oci.Artifact {
	return oci.Artifact{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(text), Size: int64(len(text))}, Manifest: []byte(text)}
}

func carried(format oci.Format, blob ocispec.Descriptor, payload []byte) oci.Signature {
	return oci.Signature{Format: format, Manifest: ocispec.Descriptor{Digest: digest.FromBytes(append([]byte("manifest of "), payload...))}, Blob: blob, Payload: payload}
}

func inLayer(l signing.CosignLayer) oci.Signature {
	return carried(oci.CosignLegacy, l.Descriptor(), l.Payload)
}

func inBundle(b []byte) oci.Signature {
	return carried(oci.SigstoreBundle, ocispec.Descriptor{MediaType: signing.BundleMediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stage is one instance of Sigstore, one key, one moment.
type stage struct {
	testing.TB
	*signing.Sigstore
	key signing.CosignKey
	now time.Time // of the engine
	at  time.Time // of the signatures
}

func newStage(t testing.TB, o signing.SigstoreOptions) stage {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	if o.Now.IsZero() {
		o.Now = now
	}
	return stage{TB: t, Sigstore: must(signing.NewSigstore(o))(t), key: must(signing.NewCosignKey())(t), now: now, at: now.Add(-90 * 24 * time.Hour)}
}

func (s stage) engine() *cosign.Engine {
	s.Helper()
	return must(cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: s.TrustedRoot()}, Now: func() time.Time { return s.now }}))(s.TB)
}

func (s stage) verify(a oci.Artifact, sig oci.Signature, rule policy.Rule, leaf policy.Leaf) verdict.Finding {
	s.Helper()
	f := s.engine().Verify(s.Context(), a, sig, rule, leaf)
	if f.Method != string(leaf.Method) || f.Signature != sig.ID() {
		s.Errorf("the finding is about %q by %q, expected %q by %q", f.Signature, f.Method, sig.ID(), leaf.Method)
	}
	if f.Outcome.OK() != (f.Reason == "") || f.Outcome.OK() && f.Identity == "" || !f.Outcome.OK() && f.Message == "" {
		s.Errorf("the finding does not hang together: %+v", f)
	}
	return f
}

func (s stage) keyed() policy.Leaf {
	return policy.Leaf{Method: policy.MethodCosignKey, Key: s.key.PublicPEM()}
}

func (s stage) inLog() policy.Leaf {
	leaf := s.keyed()
	leaf.Log = true
	return leaf
}

func keyless(who signing.Who) policy.Leaf {
	return policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: who.Issuer, Subject: who.Subject}
}

func (s stage) issue(who signing.Who) signing.Keyless {
	s.Helper()
	return must(s.Issue(who, s.at.Add(-time.Minute)))(s.TB)
}

func (s stage) layer(a oci.Artifact) signing.CosignLayer {
	s.Helper()
	return must(s.key.SignLayer(signing.SimpleSigning(imageName, a.Descriptor.Digest)))(s.TB)
}

func (s stage) loggedLayer(a oci.Artifact) signing.CosignLayer {
	s.Helper()
	l := s.layer(a)
	ok(s.TB, s.LogLayer(l, s.key.PublicPEM(), s.at))
	return l
}

func (s stage) keylessLayer(who signing.Who, a oci.Artifact) signing.CosignLayer {
	s.Helper()
	return must(s.issue(who).SignLayer(signing.SimpleSigning(imageName, a.Descriptor.Digest), s.at))(s.TB)
}

func (s stage) bundle(a oci.Artifact) signing.Bundle {
	s.Helper()
	return must(s.key.SignBundle(signing.Statement(signing.CosignPredicate, imageName, a.Descriptor.Digest)))(s.TB)
}

func (s stage) keylessBundle(who signing.Who, a oci.Artifact) signing.Bundle {
	s.Helper()
	return must(s.issue(who).SignBundle(signing.Statement(signing.CosignPredicate, imageName, a.Descriptor.Digest), s.at))(s.TB)
}

func TestGoodSignaturesVerify(t *testing.T) {
	a := artifact("an image")
	full := signing.SigstoreOptions{}
	cases := []struct {
		name, reason string
		instance     signing.SigstoreOptions
		leaf         func(stage) policy.Leaf
		sign         func(stage) oci.Signature
		identity     func(stage) string // nil: of the key
		timed        bool
	}{
		{
			name: "key, first form", reason: "what cosign 2 makes with a key and --tlog-upload=false", instance: full,
			leaf: stage.keyed, sign: func(s stage) oci.Signature { return inLayer(s.layer(a)) },
		}, {
			name: "key, first form, stamped", reason: "a stamp of a trusted authority is a time", instance: full, timed: true,
			leaf: stage.keyed, sign: func(s stage) oci.Signature {
				l := s.layer(a)
				ok(s.TB, s.StampLayer(l, s.at))
				return inLayer(l)
			},
		}, {
			name: "key, first form, logged and not asked for", reason: "the log's time counts all the same", instance: full, timed: true,
			leaf: stage.keyed, sign: func(s stage) oci.Signature { return inLayer(s.loggedLayer(a)) },
		}, {
			name: "key, first form, in a log nobody knows, and not asked for", reason: "a log of the publisher's own does not spoil a good signature", instance: full,
			leaf: stage.keyed, sign: func(s stage) oci.Signature {
				l := s.layer(a)
				ok(s.TB, newStage(s.TB, full).LogLayer(l, s.key.PublicPEM(), s.at))
				return inLayer(l)
			},
		}, {
			name: "key, first form, logged", reason: "what cosign 2 makes with a key", instance: full, timed: true,
			leaf: stage.inLog, sign: func(s stage) oci.Signature { return inLayer(s.loggedLayer(a)) },
		}, {
			name: "key, bundle", reason: "what cosign 3 makes with a key, without a log", instance: full,
			leaf: stage.keyed, sign: func(s stage) oci.Signature { return inBundle(s.bundle(a).JSON()) },
		}, {
			name: "key, bundle, logged", reason: "what cosign 3 makes with a key and the first log", instance: full, timed: true,
			leaf: stage.inLog, sign: func(s stage) oci.Signature {
				b := s.bundle(a)
				ok(s.TB, s.LogBundle(&b, s.key.PublicPEM(), s.at))
				return inBundle(b.JSON())
			},
		}, {
			name: "key, bundle, second log", reason: "it proves that the log holds the signature, and no time", instance: full,
			leaf: stage.inLog, sign: func(s stage) oci.Signature {
				b := s.bundle(a)
				ok(s.TB, s.LogBundle2(&b, s.key))
				return inBundle(b.JSON())
			},
		}, {
			name: "key, bundle, second log, stamped", reason: "then the stamp is the time", instance: full, timed: true,
			leaf: stage.inLog, sign: func(s stage) oci.Signature {
				b := s.bundle(a)
				ok(s.TB, s.LogBundle2(&b, s.key))
				ok(s.TB, s.StampBundle(&b, s.at))
				return inBundle(b.JSON())
			},
		}, {
			name: "key, bundle without an envelope", reason: "the manifest's bytes themselves are signed", instance: full,
			leaf: stage.keyed, sign: func(s stage) oci.Signature { return inBundle(must(s.key.SignMessage(a.Manifest))(s.TB).JSON()) },
		}, {
			name: "keyless, first form", reason: "what cosign 2 makes without a key", instance: full, timed: true,
			leaf:     func(stage) policy.Leaf { return keyless(release) },
			sign:     func(s stage) oci.Signature { return inLayer(s.keylessLayer(release, a)) },
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, first form, logged and stamped", reason: "both times hold", instance: full, timed: true,
			leaf: func(stage) policy.Leaf { return keyless(release) },
			sign: func(s stage) oci.Signature {
				l := s.keylessLayer(release, a)
				ok(s.TB, s.StampLayer(l, s.at.Add(time.Second)))
				return inLayer(l)
			},
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, first form, an instance without logs", reason: "what the trusted root names is demanded, and it names an authority for time alone", timed: true,
			instance: signing.SigstoreOptions{NoRekor: true, NoCT: true},
			leaf:     func(stage) policy.Leaf { return keyless(release) },
			sign: func(s stage) oci.Signature {
				l := s.keylessLayer(release, a)
				delete(l.Annotations, signing.CosignRekor)
				ok(s.TB, s.StampLayer(l, s.at))
				return inLayer(l)
			},
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, bundle", reason: "what cosign 3 makes without a key", instance: full, timed: true,
			leaf:     func(stage) policy.Leaf { return keyless(release) },
			sign:     func(s stage) oci.Signature { return inBundle(s.keylessBundle(release, a).JSON()) },
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, bundle, second log, stamped", reason: "what cosign 3 makes where the log is of the second version", instance: full, timed: true,
			leaf: func(stage) policy.Leaf { return keyless(release) },
			sign: func(s stage) oci.Signature {
				signer := s.issue(release)
				b := must(signer.SignBundle(signing.Statement(signing.CosignPredicate, imageName, a.Descriptor.Digest), s.at))(s.TB)
				b.Material.Entries = nil
				ok(s.TB, s.LogBundle2(&b, signer.Certificate))
				ok(s.TB, s.StampBundle(&b, s.at))
				return inBundle(b.JSON())
			},
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, bundle, an instance without logs", reason: "the stamp alone", instance: signing.SigstoreOptions{NoRekor: true, NoCT: true}, timed: true,
			leaf: func(stage) policy.Leaf { return keyless(release) },
			sign: func(s stage) oci.Signature {
				b := s.keylessBundle(release, a)
				b.Material.Entries = nil
				ok(s.TB, s.StampBundle(&b, s.at))
				return inBundle(b.JSON())
			},
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, patterns", reason: "they match as a whole", instance: full, timed: true,
			leaf: func(stage) policy.Leaf {
				return policy.Leaf{Method: policy.MethodCosignKeyless, IssuerPattern: `https://token\.actions\..*`, SubjectPattern: `x|https://github\.com/nops-io/images/.*`}
			},
			sign:     func(s stage) oci.Signature { return inLayer(s.keylessLayer(release, a)) },
			identity: func(stage) string { return release.Identity() },
		}, {
			name: "keyless, a mail address", reason: "people sign too", instance: full, timed: true,
			leaf:     func(stage) policy.Leaf { return keyless(mallory) },
			sign:     func(s stage) oci.Signature { return inBundle(s.keylessBundle(mallory, a).JSON()) },
			identity: func(stage) string { return mallory.Identity() },
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, c.instance)
			f := s.verify(a, c.sign(s), policy.Rule{}, c.leaf(s))
			identity := s.key.Identity()
			if c.identity != nil {
				identity = c.identity(s)
			}
			if !f.Outcome.OK() || f.Identity != identity {
				t.Errorf("%s: %+v", c.reason, f)
			}
			if c.timed && !f.SignedAt.Equal(s.at) || !c.timed && !f.SignedAt.IsZero() {
				t.Errorf("%s: signed at %v, expected %v (or no time: %v)", c.reason, f.SignedAt, s.at, !c.timed)
			}
		})
	}
}

func TestKeysOfEveryKindVerify(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	signers := map[string]crypto.Signer{
		"ECDSA P-256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t),
		"ECDSA P-384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t),
		"RSA 2048":    must(rsa.GenerateKey(rand.Reader, 2048))(t),
		"Ed25519":     ed,
	}
	a := artifact("an image")
	for name, signer := range signers {
		s := newStage(t, signing.SigstoreOptions{})
		s.key = signing.CosignKeyOf(signer)
		for form, sig := range map[string]oci.Signature{"first form": inLayer(s.layer(a)), "bundle": inBundle(s.bundle(a).JSON())} {
			if f := s.verify(a, sig, policy.Rule{}, s.keyed()); !f.Outcome.OK() || f.Identity != s.key.Identity() {
				t.Errorf("%s, %s: %+v", name, form, f)
			}
		}
	}
}

// cosign signs with the hash that goes with a key, and has not always done so.
func TestKeysSignInMoreWaysThanOne(t *testing.T) {
	a := artifact("an image")
	document, statement := signing.SimpleSigning(imageName, a.Descriptor.Digest), signing.Statement(signing.CosignPredicate, imageName, a.Descriptor.Digest)
	dsse := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(signing.InTotoMediaType), signing.InTotoMediaType, len(statement), statement)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	for _, c := range []struct {
		name string
		key  crypto.Signer
		hash crypto.Hash
	}{
		{"P-384 with SHA-384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t), crypto.SHA384},
		{"P-521 with SHA-512", must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t), crypto.SHA512},
		{"Ed25519 with SHA-512", ed, crypto.SHA512},
	} {
		s := newStage(t, signing.SigstoreOptions{})
		s.key = signing.CosignKeyOf(c.key)
		sign := func(message []byte) []byte {
			h := c.hash.New()
			h.Write(message)
			return must(c.key.Sign(rand.Reader, h.Sum(nil), c.hash))(t)
		}
		l, b := s.layer(a), s.bundle(a)
		l.Annotations[signing.CosignSignature] = base64.StdEncoding.EncodeToString(sign(document))
		b.Envelope.Signatures[0].Sig = sign(dsse)
		for form, sig := range map[string]oci.Signature{"first form": inLayer(l), "bundle": inBundle(b.JSON())} {
			if f := s.verify(a, sig, policy.Rule{}, s.keyed()); !f.Outcome.OK() {
				t.Errorf("%s, %s: %+v", c.name, form, f)
			}
		}
	}
}
