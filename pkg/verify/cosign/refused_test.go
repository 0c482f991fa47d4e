package cosign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// refused is a signature that must not verify. Each case bends one thing of a signature that would.
type refused struct {
	name, reason string
	instance     signing.SigstoreOptions
	leaf         func(stage) policy.Leaf // nil: the key
	rule         func(stage) policy.Rule
	sign         func(stage) oci.Signature
	want         verdict.Reason
	says         string // a part of the message
}

func runRefused(t *testing.T, cases []refused) {
	t.Helper()
	image := artifact("an image")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, c.instance)
			leaf, rule := s.keyed(), policy.Rule{}
			if c.leaf != nil {
				leaf = c.leaf(s)
			}
			if c.rule != nil {
				rule = c.rule(s)
			}
			f := s.verify(image, c.sign(s), rule, leaf)
			if f.Outcome.OK() || f.Reason != c.want || !strings.Contains(f.Message, c.says) {
				t.Errorf("%s: %+v; expected %s, saying %q", c.reason, f, c.want, c.says)
			}
		})
	}
}

// bent is the good signature of the first form, by the key and logged, with something done to it.
func bent(bend func(stage, *signing.CosignLayer)) func(stage) oci.Signature {
	return func(s stage) oci.Signature {
		l := s.loggedLayer(artifact("an image"))
		bend(s, &l)
		return inLayer(l)
	}
}

// bentKeyless is the same, keyless.
func bentKeyless(bend func(stage, *signing.CosignLayer)) func(stage) oci.Signature {
	return func(s stage) oci.Signature {
		l := s.keylessLayer(release, artifact("an image"))
		bend(s, &l)
		return inLayer(l)
	}
}

// promise does something to what the log promised.
func promise(bend func(s stage, b *signing.RekorBundle)) func(stage, *signing.CosignLayer) {
	return func(s stage, l *signing.CosignLayer) {
		b := must(l.Promise())(s.TB)
		bend(s, &b)
		l.Annotations[signing.CosignRekor] = string(must(json.Marshal(b))(s.TB))
	}
}

func annotation(key, value string) func(stage, *signing.CosignLayer) {
	return func(_ stage, l *signing.CosignLayer) { l.Annotations[key] = value }
}

func byRelease(stage) policy.Leaf { return keyless(release) }

func TestFirstFormIsRefused(t *testing.T) {
	other := artifact("another image")
	noLogs := signing.SigstoreOptions{NoRekor: true, NoCT: true}
	stampedAlone := func(bend func(stage, *signing.CosignLayer)) func(stage) oci.Signature {
		return bentKeyless(func(s stage, l *signing.CosignLayer) {
			delete(l.Annotations, signing.CosignRekor)
			ok(s.TB, s.StampLayer(*l, s.at))
			bend(s, l)
		})
	}
	runRefused(t, []refused{
		{
			name: "replayed", reason: "a good signature of another image, copied here", want: verdict.WrongArtifact, says: other.Descriptor.Digest.String(),
			sign: func(s stage) oci.Signature { return inLayer(s.layer(other)) },
		}, {
			name: "altered", reason: "the document names this image, and the signature is of another document", want: verdict.BadSignature,
			sign: bent(func(s stage, l *signing.CosignLayer) {
				l.Annotations[signing.CosignSignature] = s.layer(other).Annotations[signing.CosignSignature]
			}),
		}, {
			name: "another key", reason: "nobody the policy names", want: verdict.BadSignature,
			sign: func(s stage) oci.Signature {
				s.key = must(signing.NewCosignKey())(s.TB)
				return inLayer(s.layer(artifact("an image")))
			},
		}, {
			name: "another key, logged", reason: "the log's entry holds the key that did: people hear whose it is", want: verdict.WrongIdentity, says: "it is signed with key sha256:",
			sign: func(s stage) oci.Signature {
				s.key = must(signing.NewCosignKey())(s.TB)
				return inLayer(s.loggedLayer(artifact("an image")))
			},
		}, {
			name: "keyless for a key", reason: "another way of signing", want: verdict.OtherMethod,
			sign: bentKeyless(func(stage, *signing.CosignLayer) {}),
		}, {
			name: "a key for keyless", reason: "another way of signing", want: verdict.OtherMethod, leaf: byRelease,
			sign: bent(func(stage, *signing.CosignLayer) {}),
		},
		{name: "no signature", reason: "a layer alone", want: verdict.Malformed, sign: bent(annotation(signing.CosignSignature, ""))},
		{name: "signature of garbage", reason: "not base64", want: verdict.Malformed, sign: bent(annotation(signing.CosignSignature, "*"))},
		{name: "signature with a tail", reason: "not base64", want: verdict.Malformed, sign: bent(func(_ stage, l *signing.CosignLayer) { l.Annotations[signing.CosignSignature] += "====" })},
		{
			name: "document of another kind", reason: "podman's own signatures are no cosign signatures", want: verdict.Malformed, says: "atomic",
			sign: func(s stage) oci.Signature {
				document := bytes.Replace(signing.SimpleSigning(imageName, artifact("an image").Descriptor.Digest), []byte("cosign container image"), []byte("atomic container"), 1)
				return inLayer(must(s.key.SignLayer(document))(s.TB))
			},
		}, {
			name: "no document", reason: "the key signed something", want: verdict.Malformed,
			sign: func(s stage) oci.Signature { return inLayer(must(s.key.SignLayer([]byte("hello")))(s.TB)) },
		}, {
			name: "a document that is null", reason: "JSON, and nothing", want: verdict.Malformed,
			sign: func(s stage) oci.Signature { return inLayer(must(s.key.SignLayer([]byte("null")))(s.TB)) },
		}, {
			name: "digest of other case", reason: "digests have one spelling", want: verdict.WrongArtifact,
			sign: func(s stage) oci.Signature {
				document := bytes.ReplaceAll(signing.SimpleSigning(imageName, artifact("an image").Descriptor.Digest), []byte("sha256:"), []byte("SHA256:"))
				return inLayer(must(s.key.SignLayer(document))(s.TB))
			},
		},
		{name: "attestation for a signature", reason: "CVE-2022-35929: the release key signs SBOMs too", want: verdict.WrongPredicate, sign: func(s stage) oci.Signature {
			return inLayer(must(s.key.SignAttestation(signing.Statement(signing.SPDXPredicate, imageName, artifact("an image").Descriptor.Digest)))(s.TB))
		}},
		{name: "attestation under a signature's media type", reason: "media types are claims", want: verdict.WrongPredicate, sign: func(s stage) oci.Signature {
			l := must(s.key.SignAttestation(signing.Statement(signing.CosignPredicate, imageName, artifact("an image").Descriptor.Digest)))(s.TB)
			l.MediaType = signing.SimpleSigningMediaType
			return inLayer(l)
		}},
		{name: "large document", reason: "CVE-2024-29902: sizes are limited", want: verdict.Malformed, says: "bytes", sign: func(s stage) oci.Signature {
			document := append(signing.SimpleSigning(imageName, artifact("an image").Descriptor.Digest), bytes.Repeat([]byte(" "), 1<<20)...)
			return inLayer(must(s.key.SignLayer(document))(s.TB))
		}},
		{name: "large annotation", reason: "CVE-2024-29902: sizes are limited", want: verdict.Malformed, says: "bytes", sign: bent(annotation(signing.CosignRekor, strings.Repeat("[", 1<<20)))},

		// The transparency log.
		{name: "body 42", reason: "the library takes it for a string and panics", want: verdict.Malformed, sign: bent(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = 42 }))},
		{name: "body null", reason: "the same", want: verdict.Malformed, sign: bent(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = nil }))},
		{name: "body a map", reason: "the same", want: verdict.Malformed, leaf: byRelease, sign: bentKeyless(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = map[string]int{"a": 1} }))},
		{name: "body of garbage", reason: "not base64", want: verdict.Malformed, sign: bent(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = "*" }))},
		{name: "body of no entry", reason: "base64 of garbage", want: verdict.Malformed, sign: bent(promise(func(_ stage, b *signing.RekorBundle) {
			b.Payload.Body = base64.StdEncoding.EncodeToString([]byte("hello"))
		}))},
		{name: "body of an empty entry", reason: "the library follows pointers in it", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(promise(func(_ stage, b *signing.RekorBundle) {
			b.Payload.Body = base64.StdEncoding.EncodeToString([]byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}`))
		}))},
		{name: "promise of nothing", reason: "a part is missing", want: verdict.Malformed, sign: bent(annotation(signing.CosignRekor, "{}"))},
		{name: "promise of garbage", reason: "not JSON", want: verdict.Malformed, sign: bent(annotation(signing.CosignRekor, "hello"))},
		{
			name: "no entry", reason: "the requirement asks for the log", want: verdict.NoTransparency, leaf: stage.inLog,
			sign: func(s stage) oci.Signature { return inLayer(s.layer(artifact("an image"))) },
		},
		{name: "promise by somebody else", reason: "CVE-2022-23649: the log's key is checked", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).LogLayer(*l, s.key.PublicPEM(), s.at))
		})},
		{name: "somebody else's promise under the log's name", reason: "CVE-2022-23649", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			ours := must(l.Promise())(s.TB)
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).LogLayer(*l, s.key.PublicPEM(), s.at))
			promise(func(_ stage, b *signing.RekorBundle) { b.Payload.LogID = ours.Payload.LogID })(s, l)
		})},
		{name: "entry of another signature", reason: "CVE-2026-22703, CVE-2022-36056: any entry of the log is not this one", want: verdict.NoTransparency, leaf: stage.inLog, says: "another signature",
			sign: bent(func(s stage, l *signing.CosignLayer) {
				l.Annotations[signing.CosignRekor] = s.loggedLayer(other).Annotations[signing.CosignRekor]
			})},
		{name: "entry of another signature of this document", reason: "CVE-2026-22703: by the same key, and still not this one", want: verdict.NoTransparency, leaf: stage.inLog, says: "another signature",
			sign: bent(func(s stage, l *signing.CosignLayer) {
				l.Annotations[signing.CosignRekor] = s.loggedLayer(artifact("an image")).Annotations[signing.CosignRekor]
			})},
		{name: "entry of another signature, keyless", reason: "CVE-2026-22703", want: verdict.NoTransparency, leaf: byRelease, says: "another signature", sign: bentKeyless(func(s stage, l *signing.CosignLayer) {
			l.Annotations[signing.CosignRekor] = s.keylessLayer(release, other).Annotations[signing.CosignRekor]
		})},
		{name: "entry of another document", reason: "the signature's bytes, the hash of something else", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			forged := signing.CosignLayer{Payload: []byte("other"), Annotations: map[string]string{signing.CosignSignature: l.Annotations[signing.CosignSignature]}}
			ok(s.TB, s.LogLayer(forged, s.key.PublicPEM(), s.at))
			l.Annotations[signing.CosignRekor] = forged.Annotations[signing.CosignRekor]
		})},
		{name: "entry under another key", reason: "the same signature, somebody else's name on it", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, s.LogLayer(*l, must(signing.NewCosignKey())(s.TB).PublicPEM(), s.at))
		})},
		{name: "entry under a certificate", reason: "the requirement is about a key", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, s.LogLayer(*l, s.issue(release).PEM(), s.at))
		})},
		{name: "entry of another kind", reason: "signatures of images are hashedrekord; others make the library follow pointers", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			promised := must(s.Promise([]byte(`{"apiVersion":"0.0.1","kind":"rekord","spec":{}}`), s.at))(s.TB)
			l.Annotations[signing.CosignRekor] = string(must(json.Marshal(promised))(s.TB))
		})},
		{name: "time of the promise altered", reason: "the log signed another", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Time++ }))},
		{name: "promise outside the life of the log's key", reason: "keys of logs have ends", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, s.LogLayer(*l, s.key.PublicPEM(), s.now.AddDate(11, 0, 0)))
		})},
		{name: "empty promise", reason: "an entry alone proves nothing", want: verdict.NoTransparency, leaf: stage.inLog, sign: bent(promise(func(_ stage, b *signing.RekorBundle) { b.SET = nil }))},

		// Certificates.
		{name: "somebody else", reason: "a good signature by Mallory", want: verdict.WrongIdentity, leaf: byRelease, says: mallory.Subject, sign: func(s stage) oci.Signature {
			return inLayer(s.keylessLayer(mallory, artifact("an image")))
		}},
		{name: "the right name from another issuer", reason: "issuers vouch for names", want: verdict.WrongIdentity, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inLayer(s.keylessLayer(signing.Who{Issuer: mallory.Issuer, Subject: release.Subject}, artifact("an image")))
		}},
		{name: "another authority", reason: "everybody can make one", want: verdict.UntrustedRoot, leaf: byRelease, sign: func(s stage) oci.Signature {
			theirs := newStage(s.TB, signing.SigstoreOptions{})
			l := theirs.keylessLayer(release, artifact("an image"))
			signer := must(theirs.Issue(release, s.at.Add(-time.Minute)))(s.TB)
			l = must(signer.SignLayer(l.Payload, s.at))(s.TB)
			ok(s.TB, s.LogLayer(l, signer.PEM(), s.at)) // logs take everybody's
			return inLayer(l)
		}},
		{name: "another certificate of the same name", reason: "the key that signed is not the certificate's", want: verdict.BadSignature, leaf: byRelease, instance: noLogs, sign: stampedAlone(func(s stage, l *signing.CosignLayer) {
			l.Annotations[signing.CosignCertificate] = string(s.issue(release).PEM())
		})},
		{name: "another certificate of the same name, and the log has it so", reason: "no log takes such an entry", want: verdict.NoTransparency, leaf: byRelease, sign: bentKeyless(func(s stage, l *signing.CosignLayer) {
			signer := s.issue(release)
			l.Annotations[signing.CosignCertificate] = string(signer.PEM())
			ok(s.TB, s.LogLayer(*l, signer.PEM(), s.at))
		})},
		{name: "certificate of garbage", reason: "not PEM", want: verdict.Malformed, leaf: byRelease, sign: bentKeyless(annotation(signing.CosignCertificate, "hello"))},
		{name: "certificate of bad bytes", reason: "PEM of garbage", want: verdict.Malformed, leaf: byRelease, sign: bentKeyless(annotation(signing.CosignCertificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))))},
		{name: "two certificates", reason: "one is looked at, so one may be there", want: verdict.Malformed, leaf: byRelease, sign: bentKeyless(func(s stage, l *signing.CosignLayer) {
			l.Annotations[signing.CosignCertificate] += string(s.issue(mallory).PEM())
		})},
		{name: "logged after the certificate's end", reason: "whoever finds the key then must not be able to sign", want: verdict.CertificateTime, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inLayer(must(s.issue(release).SignLayer(signing.SimpleSigning(imageName, artifact("an image").Descriptor.Digest), s.at.Add(time.Hour)))(s.TB))
		}},
		{name: "logged before the certificate's beginning", reason: "the same", want: verdict.CertificateTime, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inLayer(must(s.issue(release).SignLayer(signing.SimpleSigning(imageName, artifact("an image").Descriptor.Digest), s.at.Add(-time.Hour)))(s.TB))
		}},
		{name: "stamped after the certificate's end", reason: "both times must hold", want: verdict.CertificateTime, leaf: byRelease, sign: bentKeyless(func(s stage, l *signing.CosignLayer) { ok(s.TB, s.StampLayer(*l, s.at.Add(time.Hour))) })},
		{name: "keyless and not logged", reason: "the trusted root has a log", want: verdict.NoTransparency, leaf: byRelease, sign: bentKeyless(func(s stage, l *signing.CosignLayer) {
			delete(l.Annotations, signing.CosignRekor)
			ok(s.TB, s.StampLayer(*l, s.at)) // a stamp is not instead of the log
		})},
		{name: "no time at all", reason: "a certificate of minutes says nothing without", want: verdict.NoTimestamp, leaf: byRelease, instance: noLogs, sign: stampedAlone(func(_ stage, l *signing.CosignLayer) { delete(l.Annotations, signing.CosignTimestamp) })},
		{name: "stamp by somebody else", reason: "authorities for time are named too", want: verdict.NoTimestamp, leaf: byRelease, instance: noLogs, sign: stampedAlone(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).StampLayer(*l, s.at))
		})},
		{name: "stamp of another signature", reason: "a stamp is about something", want: verdict.NoTimestamp, leaf: byRelease, instance: noLogs, sign: stampedAlone(func(s stage, l *signing.CosignLayer) {
			l2 := s.keylessLayer(release, other)
			ok(s.TB, s.StampLayer(l2, s.at))
			l.Annotations[signing.CosignTimestamp] = l2.Annotations[signing.CosignTimestamp]
		})},
		{name: "stamp of garbage", reason: "the library panics at stamps that are not good", want: verdict.NoTimestamp, leaf: byRelease, instance: noLogs, sign: stampedAlone(func(_ stage, l *signing.CosignLayer) {
			l.Annotations[signing.CosignTimestamp] = `{"SignedRFC3161Timestamp":"aGVsbG8="}`
		})},
		{name: "stamp of no JSON", reason: "not readable", want: verdict.Malformed, leaf: byRelease, instance: noLogs, sign: stampedAlone(annotation(signing.CosignTimestamp, "hello"))},
		{name: "stamp by a neighbour with the authority's certificate before its own", reason: "CVE-2026-39984: the certificate looked at is the one that signed", want: verdict.NoTimestamp, leaf: byRelease, instance: noLogs,
			sign: stampedAlone(func(s stage, l *signing.CosignLayer) {
				raw := must(base64.StdEncoding.DecodeString(l.Annotations[signing.CosignSignature]))(s.TB)
				l.Annotations[signing.CosignTimestamp] = string(must(json.Marshal(map[string]any{"SignedRFC3161Timestamp": forgedStamp(s, raw)}))(s.TB))
			})},

		// Ages.
		{name: "too old", reason: "the policy limits the age", want: verdict.TooOld, rule: func(stage) policy.Rule { return policy.Rule{MaxAge: 89 * 24 * time.Hour} }, sign: bent(func(stage, *signing.CosignLayer) {})},
		{name: "too early", reason: "the policy names a beginning", want: verdict.TooOld, rule: func(s stage) policy.Rule { return policy.Rule{NotBefore: s.at.Add(time.Second)} }, sign: bent(func(stage, *signing.CosignLayer) {})},
		{name: "of unknown age", reason: "no log, no stamp", want: verdict.NoTimestamp, rule: func(stage) policy.Rule { return policy.Rule{MaxAge: 1000 * 24 * time.Hour} }, sign: func(s stage) oci.Signature { return inLayer(s.layer(artifact("an image"))) }},
		{name: "of unknown age, in a log nobody knows", reason: "a time that nobody vouches for is none", want: verdict.NoTimestamp, rule: func(stage) policy.Rule { return policy.Rule{NotBefore: time.Unix(1, 0)} },
			sign: bent(func(s stage, l *signing.CosignLayer) {
				ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).LogLayer(*l, s.key.PublicPEM(), s.at))
			})},
		{name: "stamped anew", reason: "the earliest of the proven times counts", want: verdict.TooOld, rule: func(stage) policy.Rule { return policy.Rule{MaxAge: 24 * time.Hour} }, sign: bent(func(s stage, l *signing.CosignLayer) { ok(s.TB, s.StampLayer(*l, s.now)) })},
	})
}

// forgedStamp is a stamp that a neighbour of the authority signed, with the authority's own certificate put before the
// neighbour's.
func forgedStamp(s stage, signature []byte) []byte {
	s.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(s.TB)
	neighbour := must(s.IssueTSA(key.Public()))(s.TB)
	var response struct {
		Status asn1.RawValue
		Token  asn1.RawValue
	}
	must(asn1.Unmarshal(must(signing.StampBy(neighbour, key, signature, s.at))(s.TB), &response))(s.TB)
	honest := must(pkcs7.Parse(response.Token.FullBytes))(s.TB)
	forged := must(pkcs7.NewSignedData(honest.Content))(s.TB)
	forged.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	forged.SetContentType(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4})
	forged.GetSignedData().Version = 3
	forged.AddCertificate(s.TSA())
	ok(s.TB, forged.AddSigner(neighbour, key, pkcs7.SignerInfoConfig{}))
	token := must(forged.Finish())(s.TB)
	again := must(pkcs7.Parse(token))(s.TB)
	if ok := again.Verify() == nil && len(again.Certificates) == 2 && again.Certificates[0].Equal(s.TSA()) && again.GetOnlySigner().Equal(neighbour); !ok {
		s.Fatal("the forgery is not what it is meant to be")
	}
	response.Token = asn1.RawValue{FullBytes: token}
	return must(asn1.Marshal(response))(s.TB)
}

// bentBundle is the good bundle, by the key, with something done to it.
func bentBundle(bend func(stage, *signing.Bundle)) func(stage) oci.Signature {
	return func(s stage) oci.Signature {
		b := s.bundle(artifact("an image"))
		ok(s.TB, s.LogBundle(&b, s.key.PublicPEM(), s.at))
		bend(s, &b)
		return inBundle(b.JSON())
	}
}

func bentKeylessBundle(bend func(stage, *signing.Bundle)) func(stage) oci.Signature {
	return func(s stage) oci.Signature {
		b := s.keylessBundle(release, artifact("an image"))
		bend(s, &b)
		return inBundle(b.JSON())
	}
}

// text is a bundle that is this.
func text(s string) func(stage) oci.Signature {
	return func(stage) oci.Signature { return inBundle([]byte(s)) }
}

// saying is a bundle with a statement of the test's own, signed by the key.
func saying(statement func() []byte) func(stage) oci.Signature {
	return func(s stage) oci.Signature { return inBundle(must(s.key.SignBundle(statement()))(s.TB).JSON()) }
}

func TestBundlesAreRefused(t *testing.T) {
	image, other := artifact("an image").Descriptor.Digest, artifact("another image").Descriptor.Digest
	subjects := func(n int) []byte {
		one := fmt.Sprintf(`{"name":"x","digest":{"sha256":%q}},`, image.Encoded())
		return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"predicate":{},"subject":[%s]}`, signing.CosignPredicate, strings.TrimSuffix(strings.Repeat(one, n), ","))
	}
	predicate := func(p string) func(stage) oci.Signature {
		return saying(func() []byte { return signing.Statement(p, imageName, image) })
	}
	runRefused(t, []refused{
		{name: "replayed", reason: "a good signature of another image, copied here", want: verdict.WrongArtifact, says: other.String(), sign: saying(func() []byte { return signing.Statement(signing.CosignPredicate, imageName, other) })},
		{name: "replayed, keyless", reason: "the same", want: verdict.WrongArtifact, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inBundle(s.keylessBundle(release, artifact("another image")).JSON())
		}},
		{name: "about nothing", reason: "no subject", want: verdict.WrongArtifact, sign: saying(func() []byte { return subjects(0) })},
		{name: "about a digest of another kind", reason: "images are pinned by SHA-256", want: verdict.WrongArtifact, sign: saying(func() []byte {
			return bytes.Replace(signing.Statement(signing.CosignPredicate, imageName, image), []byte("sha256"), []byte("sha512"), 1)
		})},
		{name: "about too many", reason: "CVE-2024-45395: counts are limited", want: verdict.BadSignature, says: "too many subjects", sign: saying(func() []byte { return subjects(1025) })},
		{name: "SPDX", reason: "an SBOM by the release key is no signature", want: verdict.WrongPredicate, says: signing.SPDXPredicate, sign: predicate(signing.SPDXPredicate)},
		{name: "SLSA", reason: "nor is a provenance", want: verdict.WrongPredicate, sign: predicate(signing.SLSAPredicate)},
		{name: "cosign attest", reason: "nor is what cosign attests", want: verdict.WrongPredicate, sign: predicate("https://cosign.sigstore.dev/attestation/v1")},
		{name: "no predicate", reason: "nor is nothing", want: verdict.WrongPredicate, sign: predicate("")},
		{name: "predicate of other case", reason: "compared exactly", want: verdict.WrongPredicate, sign: predicate(strings.ToUpper(signing.CosignPredicate))},
		{name: "predicate with a tail", reason: "compared exactly", want: verdict.WrongPredicate, sign: predicate(signing.CosignPredicate + "/")},
		{name: "SPDX, keyless", reason: "the same without a key", want: verdict.WrongPredicate, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inBundle(must(s.issue(release).SignBundle(signing.Statement(signing.SPDXPredicate, imageName, image), s.at))(s.TB).JSON())
		}},
		{name: "two predicates", reason: "readers must not disagree about which", want: verdict.Malformed, sign: saying(func() []byte {
			return bytes.Replace(signing.Statement(signing.CosignPredicate, imageName, image), []byte("}"), fmt.Appendf(nil, `},"predicateType":%q`, signing.SPDXPredicate), 1)
		})},
		{name: "envelope of another type", reason: "not a statement", want: verdict.WrongPredicate, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Envelope.PayloadType = "text/plain" })},
		{name: "statement of garbage", reason: "CVE-2026-39395: what cannot be read is not good", want: verdict.Malformed, sign: saying(func() []byte { return []byte("hello") })},
		{name: "statement that is null", reason: "CVE-2026-39395", want: verdict.WrongPredicate, sign: saying(func() []byte { return []byte("null") })},
		{name: "altered", reason: "one byte of the statement", want: verdict.BadSignature, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Envelope.Payload = append(b.Envelope.Payload, ' ') })},
		{name: "altered, keyless", reason: "one byte of the statement", want: verdict.NoTransparency, leaf: byRelease, sign: bentKeylessBundle(func(_ stage, b *signing.Bundle) { b.Envelope.Payload = append(b.Envelope.Payload, ' ') })},
		{name: "altered, and the log has it so", reason: "logs take everything", want: verdict.BadSignature, leaf: byRelease, sign: func(s stage) oci.Signature {
			signer := s.issue(release)
			b := must(signer.SignBundle(signing.Statement(signing.CosignPredicate, imageName, other), s.at))(s.TB)
			b.Envelope.Payload = signing.Statement(signing.CosignPredicate, imageName, image)
			b.Material.Entries = nil
			ok(s.TB, s.LogBundle(&b, signer.PEM(), s.at))
			return inBundle(b.JSON())
		}},
		{name: "another key", reason: "nobody the policy names", want: verdict.BadSignature, sign: func(s stage) oci.Signature {
			s.key = must(signing.NewCosignKey())(s.TB)
			return inBundle(s.bundle(artifact("an image")).JSON())
		}},
		{name: "another key under the key's hint", reason: "hints are not believed", want: verdict.BadSignature, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b.Envelope = must(must(signing.NewCosignKey())(s.TB).SignBundle(b.Envelope.Payload))(s.TB).Envelope
		})},
		{name: "no signature", reason: "an envelope alone", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Envelope.Signatures = nil })},
		{name: "two signatures", reason: "bundles have one", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) {
			b.Envelope.Signatures = append(b.Envelope.Signatures, b.Envelope.Signatures[0])
		})},
		{name: "empty signature", reason: "nothing was signed", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Envelope.Signatures[0].Sig = []byte{} })},
		{name: "keyless for a key", reason: "another way of signing", want: verdict.OtherMethod, sign: bentKeylessBundle(func(stage, *signing.Bundle) {})},
		{name: "a key for keyless", reason: "another way of signing", want: verdict.OtherMethod, leaf: byRelease, sign: bentBundle(func(stage, *signing.Bundle) {})},
		{name: "signature of other bytes", reason: "a bundle without an envelope is about bytes", want: verdict.WrongArtifact, sign: func(s stage) oci.Signature {
			return inBundle(must(s.key.SignMessage([]byte("other")))(s.TB).JSON())
		}},
		{name: "signature of other bytes that claims these", reason: "what it claims is compared, what it signs decides", want: verdict.BadSignature, sign: func(s stage) oci.Signature {
			b := must(s.key.SignMessage([]byte("other")))(s.TB)
			b.Message.Digest.Digest = must(s.key.SignMessage([]byte("an image")))(s.TB).Message.Digest.Digest
			return inBundle(b.JSON())
		}},

		// What is no bundle.
		{name: "nothing", reason: "no bytes", want: verdict.Malformed, sign: text("")},
		{name: "null", reason: "no bundle", want: verdict.Malformed, sign: text("null")},
		{name: "empty", reason: "no bundle", want: verdict.Malformed, sign: text("{}")},
		{name: "a list", reason: "no bundle", want: verdict.Malformed, sign: text("[]")},
		{name: "deep", reason: "no stack may overflow", want: verdict.Malformed, sign: text(strings.Repeat(`{"dsseEnvelope":`, 100000))},
		{name: "large", reason: "sizes are limited", want: verdict.Malformed, says: "bytes", sign: text(strings.Repeat(" ", 5<<20))},
		{name: "of the future", reason: "unknown rules", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle.v0.9+json" })},
		{name: "of no version", reason: "unknown rules", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.MediaType = "" })},
		{name: "by nobody", reason: "neither key nor certificate", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.PublicKey = nil })},
		{name: "by an empty certificate", reason: "the library must not follow it", want: verdict.Malformed, leaf: byRelease, sign: bentKeylessBundle(func(_ stage, b *signing.Bundle) { b.Material.Certificate.Raw = []byte{} })},
		{name: "entry that is null", reason: "the library must not follow it", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.Entries = []*signing.LogEntry{nil} })},
		{name: "entry of nothing", reason: "the library must not follow it", want: verdict.Malformed, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.Entries = []*signing.LogEntry{{}} })},
		{name: "many entries", reason: "CVE-2024-45395: counts are limited", want: verdict.Malformed, says: "too many", sign: bentBundle(func(_ stage, b *signing.Bundle) {
			for range 100 {
				b.Material.Entries = append(b.Material.Entries, b.Material.Entries[0])
			}
		})},
		{name: "many stamps", reason: "CVE-2024-45395: counts are limited", want: verdict.Malformed, says: "time stamps", sign: bentBundle(func(s stage, b *signing.Bundle) {
			ok(s.TB, s.StampBundle(b, s.at))
			for range 100 {
				b.Material.Timestamps.List = append(b.Material.Timestamps.List, b.Material.Timestamps.List[0])
			}
		})},

		// The transparency log.
		{name: "no entry", reason: "the requirement asks for the log", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.Entries = nil })},
		{name: "one entry twice", reason: "counting must not be fooled", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(_ stage, b *signing.Bundle) {
			b.Material.Entries = append(b.Material.Entries, b.Material.Entries[0])
		})},
		{name: "entry of another log", reason: "CVE-2022-23649", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b.Material.Entries = nil
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).LogBundle(b, s.key.PublicPEM(), s.at))
		})},
		{name: "entry of another log under this one's name", reason: "CVE-2022-23649", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			id := b.Material.Entries[0].Log
			b.Material.Entries = nil
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).LogBundle(b, s.key.PublicPEM(), s.at))
			b.Material.Entries[0].Log = id
		})},
		{name: "entry of another bundle", reason: "CVE-2022-36056, CVE-2026-22703", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b2 := s.bundle(artifact("another image"))
			ok(s.TB, s.LogBundle(&b2, s.key.PublicPEM(), s.at))
			b.Material.Entries = b2.Material.Entries
		})},
		{name: "entry of another keyless bundle", reason: "CVE-2026-22703", want: verdict.NoTransparency, leaf: byRelease, sign: bentKeylessBundle(func(s stage, b *signing.Bundle) {
			b.Material.Entries = s.keylessBundle(release, artifact("another image")).Material.Entries
		})},
		{name: "time of the promise altered", reason: "the log signed another", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.Entries[0].Time++ })},
		{name: "proof altered", reason: "the tree has another root", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(_ stage, b *signing.Bundle) { b.Material.Entries[0].Proof.Root[0]++ })},
		{name: "proof of the second log altered", reason: "it leads to another root", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b.Material.Entries = nil
			ok(s.TB, s.LogBundle2(b, s.key))
			b.Material.Entries[0].Proof.Hashes = [][]byte{b.Material.Entries[0].Proof.Root}
		})},
		{name: "checkpoint of the second log altered", reason: "the log signed another", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b.Material.Entries = nil
			ok(s.TB, s.LogBundle2(b, s.key))
			note := &b.Material.Entries[0].Proof.Checkpoint.Envelope
			*note = strings.Replace(*note, "\n1\n", "\n2\n", 1)
		})},
		{name: "entry of another bundle in the second log", reason: "CVE-2026-22703", want: verdict.NoTransparency, leaf: stage.inLog, sign: bentBundle(func(s stage, b *signing.Bundle) {
			b2 := s.bundle(artifact("another image"))
			ok(s.TB, s.LogBundle2(&b2, s.key))
			b.Material.Entries = b2.Material.Entries
		})},
		{name: "second log, and a time nobody promised", reason: "anybody can write a number there", want: verdict.NoTimestamp, leaf: stage.inLog,
			rule: func(stage) policy.Rule { return policy.Rule{MaxAge: 1000 * 24 * time.Hour} },
			sign: bentBundle(func(s stage, b *signing.Bundle) {
				b.Material.Entries = nil
				ok(s.TB, s.LogBundle2(b, s.key))
				b.Material.Entries[0].Time = s.at.Unix()
			})},
		{name: "keyless, second log, no stamp", reason: "the log promises no time", want: verdict.NoTimestamp, leaf: byRelease, sign: func(s stage) oci.Signature {
			signer := s.issue(release)
			b := must(signer.SignBundle(signing.Statement(signing.CosignPredicate, imageName, image), s.at))(s.TB)
			b.Material.Entries = nil
			ok(s.TB, s.LogBundle2(&b, signer.Certificate))
			b.Material.Entries[0].Time = s.at.Unix()
			return inBundle(b.JSON())
		}},

		// Certificates and stamps.
		{name: "somebody else", reason: "a good signature by Mallory", want: verdict.WrongIdentity, leaf: byRelease, says: mallory.Subject, sign: func(s stage) oci.Signature {
			return inBundle(s.keylessBundle(mallory, artifact("an image")).JSON())
		}},
		{name: "another authority", reason: "everybody can make one", want: verdict.UntrustedRoot, leaf: byRelease, sign: func(s stage) oci.Signature {
			signer := newStage(s.TB, signing.SigstoreOptions{}).issue(release)
			b := must(signer.SignBundle(signing.Statement(signing.CosignPredicate, imageName, image), s.at))(s.TB)
			b.Material.Entries = nil
			ok(s.TB, s.LogBundle(&b, signer.PEM(), s.at))
			return inBundle(b.JSON())
		}},
		{name: "stamped after the certificate's end", reason: "both times must hold", want: verdict.CertificateTime, leaf: byRelease, sign: bentKeylessBundle(func(s stage, b *signing.Bundle) { ok(s.TB, s.StampBundle(b, s.at.Add(time.Hour))) })},
		{name: "logged after the certificate's end", reason: "whoever finds the key then must not be able to sign", want: verdict.NoTransparency, leaf: byRelease, sign: func(s stage) oci.Signature {
			return inBundle(must(s.issue(release).SignBundle(signing.Statement(signing.CosignPredicate, imageName, image), s.at.Add(time.Hour)))(s.TB).JSON())
		}},
		{name: "stamp by a neighbour with the authority's certificate before its own", reason: "CVE-2026-39984", want: verdict.NoTimestamp, leaf: byRelease, instance: signing.SigstoreOptions{NoRekor: true, NoCT: true},
			sign: bentKeylessBundle(func(s stage, b *signing.Bundle) {
				b.Material.Entries = nil
				b.Material.Timestamps = &signing.Rfc3161List{List: []signing.Rfc3161{{Signed: forgedStamp(s, b.Envelope.Signatures[0].Sig)}}}
			})},
		{name: "too old", reason: "the policy limits the age", want: verdict.TooOld, leaf: byRelease, rule: func(stage) policy.Rule { return policy.Rule{MaxAge: 24 * time.Hour} }, sign: bentKeylessBundle(func(stage, *signing.Bundle) {})},
	})
}

func TestRequirementsThatCannotBeUsed(t *testing.T) {
	small := must(rsa.GenerateKey(rand.Reader, 3072))(t)
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(small))(t)})
	weak := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t)
	good := func(s stage) oci.Signature { return inLayer(s.layer(artifact("an image"))) }
	keylessGood := func(s stage) oci.Signature { return inLayer(s.keylessLayer(release, artifact("an image"))) }
	key := func(pem func(stage) []byte) func(stage) policy.Leaf {
		return func(s stage) policy.Leaf { return policy.Leaf{Method: policy.MethodCosignKey, Key: pem(s)} }
	}
	by := func(l policy.Leaf) func(stage) policy.Leaf {
		l.Method = policy.MethodCosignKeyless
		return func(stage) policy.Leaf { return l }
	}
	runRefused(t, []refused{
		{name: "no key", reason: "nobody is named", want: verdict.TrustUnusable, sign: good, leaf: key(func(stage) []byte { return nil })},
		{name: "a private key", reason: "a mistake worth hearing of", want: verdict.TrustUnusable, sign: good, leaf: key(func(stage) []byte { return private })},
		{name: "two keys", reason: "which", want: verdict.TrustUnusable, sign: good, leaf: key(func(s stage) []byte { return append(s.key.PublicPEM(), s.key.PublicPEM()...) })},
		{name: "a key of a weak curve", reason: "P-224", want: verdict.TrustUnusable, sign: good, leaf: key(func(stage) []byte { return signing.CosignKeyOf(weak).PublicPEM() })},
		{name: "a key of garbage", reason: "PEM of garbage", want: verdict.TrustUnusable, sign: good, leaf: key(func(stage) []byte { return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}) })},
		{name: "a log where the trusted root has none", reason: "nothing could ever satisfy it", want: verdict.TrustUnusable, sign: good, leaf: stage.inLog, instance: signing.SigstoreOptions{NoRekor: true}},
		{name: "no identity", reason: "the library takes anybody then", want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{})},
		{name: "no subject", reason: "everybody whom the issuer knows", want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer})},
		{name: "no issuer", reason: "any issuer may call somebody so", want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{Subject: release.Subject})},
		{name: "subject and pattern", reason: "which", want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer, Subject: release.Subject, SubjectPattern: ".*"})},
		{name: "pattern that does not compile", reason: "nothing matches it", want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer, SubjectPattern: "("})},
		{name: "pattern that would leave the anchors", reason: `"x)|(?:.*" between anchors matches everything`, want: verdict.TrustUnusable, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer, SubjectPattern: "x)|(?:.*"})},
		{name: "pattern of the middle", reason: "patterns match as a whole", want: verdict.WrongIdentity, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer, SubjectPattern: "github.com/nops-io/images"})},
		{name: "pattern of the beginning", reason: "patterns match as a whole", want: verdict.WrongIdentity, sign: keylessGood, leaf: by(policy.Leaf{Issuer: release.Issuer, SubjectPattern: "https://github.com/nops-io|x"})},
		{name: "pattern of the issuer's end", reason: "patterns match as a whole", want: verdict.WrongIdentity, sign: keylessGood, leaf: by(policy.Leaf{IssuerPattern: "githubusercontent.com", Subject: release.Subject})},
		{name: "another method", reason: "not this engine's", want: verdict.TrustUnusable, sign: good, leaf: func(stage) policy.Leaf { return policy.Leaf{Method: policy.MethodNotation} }},
		{name: "Notary's signature", reason: "not this engine's", want: verdict.OtherMethod, sign: func(stage) oci.Signature { return carried(oci.NotaryJWS, ocispec.Descriptor{}, []byte("{}")) }},
	})
}
