package signing

import (
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/notaryproject/notation-core-go/signature"
	notaryregistry "github.com/notaryproject/notation-go/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

const (
	testProfile = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops/AbCdEfGhIj"
	testJob     = "arn:aws:signer:us-east-1:123456789012:/signing-jobs/8ad1f3a9-1111-4222-8333-444455556666"
)

var testTarget = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("an image"), Size: 8}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestChainLooksLikeAWS: what is known of AWS's chain from published signatures.
func TestChainLooksLikeAWS(t *testing.T) {
	a := must[*Authority](t)(NewAuthority(AuthorityOptions{Region: "us-west-2"}))
	chain, err := a.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for _, c := range chain {
		subjects = append(subjects, c.Subject.String())
	}
	const rest = ",OU=AWS Cryptography,O=AWS,L=Seattle,ST=WA,C=US"
	want := []string{"CN=AWS Signer" + rest, "CN=AWS Signer us-west-2 Code Signing CA G1" + rest, "CN=AWS Signer Code Signing Int CA G1" + rest, "CN=AWS Signer Code Signing Root CA G1" + rest}
	if diff := cmp.Diff(want, subjects); diff != "" {
		t.Error(diff)
	}
	if life := chain[0].NotAfter.Sub(chain[0].NotBefore); life > 4*24*time.Hour {
		t.Errorf("the leaf lives for %s, expected days", life)
	}
	again, _ := a.Chain(time.Now().Add(time.Hour))
	later, _ := a.Chain(time.Now().Add(30 * 24 * time.Hour))
	if again[0] != chain[0] || later[0] == chain[0] {
		t.Error("one leaf serves its days, and no longer")
	}
	if len(a.RootFingerprint()) != 64 || a.RootFingerprint() != strings.ToLower(a.RootFingerprint()) {
		t.Errorf("fingerprint %q", a.RootFingerprint())
	}
}

func TestDirectoryIsAnAuthority(t *testing.T) {
	dir := t.TempDir() + "/deeper"
	if _, err := LoadAuthority(dir, AuthorityOptions{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("nothing there: %v", err)
	}
	first := must[*Authority](t)(OpenAuthority(dir, AuthorityOptions{}))
	second := must[*Authority](t)(OpenAuthority(dir, AuthorityOptions{}))
	if first.RootFingerprint() != second.RootFingerprint() {
		t.Error("the same directory, another root")
	}
	e := must[NotaryEnvelope](t)(second.Sign(t.Context(), testTarget, NotaryOptions{Profile: testProfile, Job: testJob}))
	if Fingerprint(e.Chain[3]) != first.RootFingerprint() {
		t.Error("what was loaded signs under another root")
	}
}

// TestLibraryReadsThem: every kind of envelope is what the specification's library takes, those made by hand too.
func TestLibraryReadsThem(t *testing.T) {
	aws := must[*Authority](t)(NewAuthority(AuthorityOptions{}))
	corp := must[*Authority](t)(NewAuthority(AuthorityOptions{Organization: "Example"}))
	tsa := must[*TSA](t)(NewTSA())
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for _, tc := range []struct {
		name  string
		by    *Authority
		o     NotaryOptions
		attrs int
	}{
		{"AWS, JWS", aws, NotaryOptions{SignedAt: at, Profile: testProfile, Job: testJob, Expires: at.Add(year)}, 3},
		{"AWS, COSE", aws, NotaryOptions{COSE: true, SignedAt: at, Profile: testProfile, Job: testJob, Alias: "arn:aws:signer:us-east-1:123456789012:/aliases/x"}, 4},
		{"company, JWS, time stamped", corp, NotaryOptions{SignedAt: at, TSA: tsa, Metadata: map[string]string{"version": "1"}}, 0},
		{"company, COSE, time stamped", corp, NotaryOptions{COSE: true, SignedAt: at, TSA: tsa, Extra: []signature.Attribute{{Key: "a", Value: "b"}}}, 1},
		{"nothing but the time", aws, NotaryOptions{SignedAt: at}, 0},
	} {
		e, err := tc.by.Sign(t.Context(), testTarget, tc.o)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		envelopes := []NotaryEnvelope{e}
		if !tc.o.COSE {
			header, payload, err := tc.by.Draft(testTarget, tc.o)
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := json.Marshal(header)
			envelopes = append(envelopes, must[NotaryEnvelope](t)(tc.by.SignByHand(raw, payload, at)))
		}
		for i, e := range envelopes {
			parsed, err := signature.ParseEnvelope(e.MediaType, e.Blob)
			if err != nil {
				t.Fatalf("%s, %d: %v", tc.name, i, err)
			}
			signed, err := parsed.Verify()
			if err != nil {
				t.Fatalf("%s, %d: %v", tc.name, i, err)
			}
			info := signed.SignerInfo
			if got := info.SignedAttributes; !got.SigningTime.Equal(at) || len(got.ExtendedAttributes) != tc.attrs || !got.Expiry.Equal(tc.o.Expires) {
				t.Errorf("%s, %d: %+v", tc.name, i, got)
			}
			if stamped := len(info.UnsignedAttributes.TimestampSignature) > 0; stamped != (tc.o.TSA != nil && i == 0) {
				t.Errorf("%s, %d: time stamped: %v", tc.name, i, stamped)
			}
			var about struct{ TargetArtifact ocispec.Descriptor }
			if err := json.Unmarshal(signed.Payload.Content, &about); err != nil || !content.Equal(about.TargetArtifact, testTarget) {
				t.Errorf("%s, %d: payload %s: %v", tc.name, i, signed.Payload.Content, err)
			}
		}
	}
}

// TestPush: the specification's own client finds what was pushed, in registries with the referrers API and without.
func TestPush(t *testing.T) {
	a := must[*Authority](t)(NewAuthority(AuthorityOptions{}))
	for _, referrers := range []bool{true, false} {
		server := httptest.NewServer(registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0))))
		defer server.Close()
		repository, err := remote.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/nops/agent")
		if err != nil {
			t.Fatal(err)
		}
		repository.PlainHTTP = true
		target, err := oras.PackManifest(t.Context(), repository, oras.PackManifestVersion1_1, "application/x-test", oras.PackManifestOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e := must[NotaryEnvelope](t)(a.Sign(t.Context(), target, NotaryOptions{Profile: testProfile, Job: testJob}))
		manifest, err := e.Push(t.Context(), repository, target)
		if err != nil {
			t.Fatalf("referrers API %v: %v", referrers, err)
		}
		var found []digest.Digest
		client := notaryregistry.NewRepository(repository)
		err = client.ListSignatures(t.Context(), target, func(all []ocispec.Descriptor) error {
			for _, d := range all {
				found = append(found, d.Digest)
			}
			return nil
		})
		if err != nil || len(found) != 1 || found[0] != manifest.Digest {
			t.Errorf("referrers API %v: found %v, pushed %s: %v", referrers, found, manifest.Digest, err)
		}
		if blob, d, err := client.FetchSignatureBlob(t.Context(), manifest); err != nil || string(blob) != string(e.Blob) || d.MediaType != e.MediaType {
			t.Errorf("referrers API %v: the blob that comes back is another: %v", referrers, err)
		}
	}
}
