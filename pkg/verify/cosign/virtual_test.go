package cosign_test

import (
	"encoding/base64"
	"encoding/hex"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Sigstore's own instance for tests signs, this engine checks: what our instance makes and what our engine takes could
// otherwise share a mistake.
func TestVirtualSigstore(t *testing.T) {
	virtual := must(ca.NewVirtualSigstore())(t)
	logs := virtual.RekorLogs()
	for id, l := range logs {
		l.ID = must(hex.DecodeString(id))(t) // it puts the text there
	}
	trusted := must(root.NewTrustedRoot(root.TrustedRootMediaType01, virtual.FulcioCertificateAuthorities(), nil, virtual.TimestampingAuthorities(), logs))(t)
	engine := must(cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: must(trusted.MarshalJSON())(t)}}))(t)
	a := artifact("an image")
	statement := signing.Statement(signing.CosignPredicate, imageName, a.Descriptor.Digest)
	at := time.Now().Add(5 * time.Minute).Truncate(time.Second)
	for name, sign := range map[string]func() (*ca.TestEntity, error){
		"first log": func() (*ca.TestEntity, error) {
			return virtual.AttestAtTime(mallory.Subject, mallory.Issuer, statement, at, true)
		},
		"second log": func() (*ca.TestEntity, error) {
			return virtual.AttestHashedRekordV2(mallory.Subject, mallory.Issuer, statement)
		},
	} {
		entity := must(sign())(t)
		content := must(entity.SignatureContent())(t)
		verification := must(entity.VerificationContent())(t)
		b := &protobundle.Bundle{
			MediaType: signing.BundleMediaType,
			VerificationMaterial: &protobundle.VerificationMaterial{
				Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: verification.Certificate().Raw}},
				TimestampVerificationData: &protobundle.TimestampVerificationData{},
			},
			Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
				Payload: statement, PayloadType: content.EnvelopeContent().RawEnvelope().PayloadType, Signatures: []*protodsse.Signature{{Sig: content.Signature()}},
			}},
		}
		for _, stamp := range must(entity.Timestamps())(t) {
			list := &b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps
			*list = append(*list, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: stamp})
		}
		for _, e := range must(entity.TlogEntries())(t) {
			entry := e.TransparencyLogEntry()
			if !e.IsRekorV2() {
				entry.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
				set := must(virtual.RekorSignPayload(tlog.RekorPayload{
					Body: base64.StdEncoding.EncodeToString(entry.GetCanonicalizedBody()), IntegratedTime: entry.GetIntegratedTime(), LogIndex: entry.GetLogIndex(), LogID: hex.EncodeToString(entry.GetLogId().GetKeyId()),
				}))(t)
				entry.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
			}
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, entry)
		}
		sig := inBundle(must(protojson.Marshal(b))(t))
		if f := engine.Verify(t.Context(), a, sig, policy.Rule{}, keyless(mallory)); !f.Outcome.OK() || f.Identity != mallory.Identity() || f.SignedAt.IsZero() {
			t.Errorf("%s: %+v", name, f)
		}
		if f := engine.Verify(t.Context(), a, sig, policy.Rule{}, keyless(release)); f.Reason != verdict.WrongIdentity {
			t.Errorf("%s, somebody else: %+v", name, f)
		}
		if f := engine.Verify(t.Context(), artifact("another"), sig, policy.Rule{}, keyless(mallory)); f.Reason != verdict.WrongArtifact {
			t.Errorf("%s, another image: %+v", name, f)
		}
	}
}
