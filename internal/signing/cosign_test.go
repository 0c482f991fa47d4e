package signing_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/nopsctl/nopsctl/internal/signing"
)

func cosignKey(t *testing.T) signing.CosignKey {
	t.Helper()
	key, err := signing.NewCosignKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verifierOf(t *testing.T, key signing.CosignKey) signature.Verifier {
	t.Helper()
	public, err := cryptoutils.UnmarshalPEMToPublicKey(key.PublicPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// repository is a registry of this process with one image, and with or without the referrers API.
func repository(t *testing.T, referrers bool) (*remote.Repository, ocispec.Descriptor) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository, err := remote.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/nops/agent")
	if err != nil {
		t.Fatal(err)
	}
	repository.PlainHTTP = true
	image, err := oras.PackManifest(t.Context(), repository, oras.PackManifestVersion1_1, "application/vnd.example.agent", oras.PackManifestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := repository.Tag(t.Context(), image, "1"); err != nil {
		t.Fatal(err)
	}
	return repository, image
}

// What is made here is what cosign itself takes, from a registry, with its own discovery.
func TestCosignTakesWhatIsMade(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		key := cosignKey(t)
		repository, image := repository(t, referrers)
		if _, err := key.SignCosign(t.Context(), repository, "public.ecr.aws/nops/agent", image); err != nil {
			t.Fatal(err)
		}
		at, err := name.ParseReference(repository.Reference.Registry+"/nops/agent:1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		checks := cosign.CheckOpts{SigVerifier: verifierOf(t, key), ClaimVerifier: cosign.SimpleClaimVerifier, IgnoreTlog: true, Offline: true, TrustedMaterial: &root.BaseTrustedMaterial{}}
		if found, _, err := cosign.VerifyImageSignatures(t.Context(), at, &checks); err != nil || len(found) != 1 {
			t.Errorf("referrers %v, first form: %d signatures, %v", referrers, len(found), err)
		}
		if _, err := key.SignCosignBundle(t.Context(), repository, "public.ecr.aws/nops/agent", image); err != nil {
			t.Fatal(err)
		}
		checks.NewBundleFormat = true
		checks.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
		if found, _, err := cosign.VerifyImageAttestations(t.Context(), at, &checks); err != nil || len(found) != 1 {
			t.Errorf("referrers %v, bundle: %d signatures, %v", referrers, len(found), err)
		}
	}
}

func TestKeylessMaterialHoldsTogether(t *testing.T) {
	who := signing.Who{Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/nops-io/images/.github/workflows/release.yml@refs/heads/main"}
	artifact := digest.FromString("an image")
	raw, err := hex.DecodeString(artifact.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-48 * time.Hour)
	for _, c := range []struct {
		name, reason string
		options      signing.SigstoreOptions
		second       bool
	}{
		{name: "first log", reason: "the entry's promise gives the time"},
		{name: "second log", reason: "the entry proves no time, the stamp does", second: true},
		{name: "no certificate transparency", reason: "then certificates carry no promise of it", options: signing.SigstoreOptions{NoCT: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			instance, err := signing.NewSigstore(c.options)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := instance.Issue(who, at.Add(-time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			statement := signing.Statement(signing.CosignPredicate, "x", artifact)
			made, err := signer.SignBundle(statement, at)
			if err != nil {
				t.Fatal(err)
			}
			if c.second {
				made.Material.Entries = nil
				if err := instance.LogBundle2(&made, signer.Certificate); err != nil {
					t.Fatal(err)
				}
				if err := instance.StampBundle(&made, at); err != nil {
					t.Fatal(err)
				}
			}
			trusted, err := root.NewTrustedRootFromJSON(instance.TrustedRoot())
			if err != nil {
				t.Fatal(err)
			}
			var b bundle.Bundle
			if err := json.Unmarshal(made.JSON(), &b); err != nil {
				t.Fatal(err)
			}
			identities := []cosign.Identity{{Issuer: who.Issuer, Subject: who.Subject}}
			checks := cosign.CheckOpts{TrustedMaterial: trusted, Identities: identities, Offline: true, IgnoreSCT: c.options.NoCT, UseSignedTimestamps: c.second}
			if _, err := cosign.VerifyNewBundle(t.Context(), &checks, verify.WithArtifactDigest("sha256", raw), &b); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeysAreKept(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]signing.CosignKey{"ecdsa": cosignKey(t), "ed25519": signing.CosignKeyOf(ed), "rsa": signing.CosignKeyOf(rs)} {
		dir := filepath.Join(t.TempDir(), "keys")
		if err := key.Save(dir); err != nil {
			t.Fatal(err)
		}
		again, err := signing.LoadCosignKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		if again.Identity() != key.Identity() {
			t.Errorf("%s: saved %s, loaded %s", name, key.Identity(), again.Identity())
		}
		if info, err := os.Stat(filepath.Join(dir, "cosign.key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: the private key's file is %v, %v", name, info.Mode(), err)
		}
		layer, err := again.SignLayer(signing.SimpleSigning("x", digest.FromString("x")))
		if err != nil {
			t.Fatal(err)
		}
		if err := verifyLayer(verifierOf(t, key), layer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := signing.LoadCosignKey(t.TempDir()); err == nil {
		t.Error("a directory without a key was loaded")
	}
}

func verifyLayer(v signature.Verifier, layer signing.CosignLayer) error {
	signed, err := base64.StdEncoding.DecodeString(layer.Annotations[signing.CosignSignature])
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(signed), bytes.NewReader(layer.Payload))
}
