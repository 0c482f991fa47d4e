package cosign_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	sigcosign "github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	sigoci "github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"go.uber.org/goleak"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Each test of this file shows first what the library does when it is called the plain way, so that the day it changes is
// noticed, and then what the engine does.

// plain is a signature of the first form as the library reads it from a registry.
func plain(t *testing.T, l signing.CosignLayer) sigoci.Signature {
	t.Helper()
	options := []static.Option{static.WithAnnotations(l.Annotations)}
	if text := l.Annotations[signing.CosignRekor]; text != "" {
		var b cbundle.RekorBundle
		ok(t, json.Unmarshal([]byte(text), &b))
		options = append(options, static.WithBundle(&b))
	}
	if text := l.Annotations[signing.CosignTimestamp]; text != "" {
		var b cbundle.RFC3161Timestamp
		ok(t, json.Unmarshal([]byte(text), &b))
		options = append(options, static.WithRFC3161Timestamp(&b))
	}
	if text := l.Annotations[signing.CosignCertificate]; text != "" {
		options = append(options, static.WithCertChain([]byte(text), []byte(l.Annotations[signing.CosignChain])))
	}
	return must(static.NewSignature(l.Payload, l.Annotations[signing.CosignSignature], options...))(t)
}

func hashOf(t *testing.T, a oci.Artifact) v1.Hash {
	t.Helper()
	return must(v1.NewHash(a.Descriptor.Digest.String()))(t)
}

func (s stage) verifier() signature.Verifier {
	s.Helper()
	public := must(cryptoutils.UnmarshalPEMToPublicKey(s.key.PublicPEM()))(s.TB)
	return must(signature.LoadVerifier(public, crypto.SHA256))(s.TB)
}

func (s stage) trusted() *root.TrustedRoot {
	s.Helper()
	return must(root.NewTrustedRootFromJSON(s.TrustedRoot()))(s.TB)
}

func parsed(t *testing.T, b signing.Bundle) *bundle.Bundle {
	t.Helper()
	var p bundle.Bundle
	ok(t, p.UnmarshalJSON(b.JSON()))
	return &p
}

func about(t *testing.T, a oci.Artifact) sigverify.ArtifactPolicyOption {
	t.Helper()
	return sigverify.WithArtifactDigest("sha256", must(hex.DecodeString(a.Descriptor.Digest.Encoded()))(t))
}

// wants is what a finding must be.
func (s stage) wants(f verdict.Finding, reason verdict.Reason) {
	s.Helper()
	if f.Reason != reason || f.Outcome.OK() != (reason == "") {
		s.Errorf("expected %q: %+v", reason, f)
	}
}

func TestTrapNoClaimVerifier(t *testing.T) {
	s, a, b := newStage(t, signing.SigstoreOptions{}), artifact("A"), artifact("B")
	replayed := s.layer(a)
	if _, err := sigcosign.VerifyImageSignature(t.Context(), plain(t, replayed), hashOf(t, b), &sigcosign.CheckOpts{SigVerifier: s.verifier(), IgnoreTlog: true}); err != nil {
		t.Errorf("the library refuses a replayed signature by itself now: %v", err)
	}
	s.wants(s.verify(b, inLayer(replayed), policy.Rule{}, s.keyed()), verdict.WrongArtifact)
}

func TestTrapNoIdentities(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	l := s.keylessLayer(mallory, a)
	if _, err := sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), &sigcosign.CheckOpts{ClaimVerifier: sigcosign.SimpleClaimVerifier, TrustedMaterial: s.trusted(), Offline: true}); err != nil {
		t.Errorf("the library refuses requirements without an identity by itself now: %v", err)
	}
	s.wants(s.verify(a, inLayer(l), policy.Rule{}, policy.Leaf{Method: policy.MethodCosignKeyless}), verdict.TrustUnusable)
	s.wants(s.verify(a, inBundle(s.keylessBundle(mallory, a).JSON()), policy.Rule{}, policy.Leaf{Method: policy.MethodCosignKeyless}), verdict.TrustUnusable)
}

func TestTrapUnanchoredPattern(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	who := signing.Who{Issuer: release.Issuer, Subject: "https://evil.example/github.com/nops-io/images"}
	co := &sigcosign.CheckOpts{
		ClaimVerifier: sigcosign.SimpleClaimVerifier, TrustedMaterial: s.trusted(), Offline: true,
		Identities: []sigcosign.Identity{{Issuer: release.Issuer, SubjectRegExp: "github.com/nops-io/images"}},
	}
	l, b := s.keylessLayer(who, a), s.keylessBundle(who, a)
	if _, err := sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), co); err != nil {
		t.Errorf("the library anchors patterns by itself now: %v", err)
	}
	if _, err := sigcosign.VerifyNewBundle(t.Context(), co, about(t, a), parsed(t, b)); err != nil {
		t.Errorf("the library anchors patterns by itself now: %v", err)
	}
	leaf := policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: release.Issuer, SubjectPattern: "github.com/nops-io/images"}
	s.wants(s.verify(a, inLayer(l), policy.Rule{}, leaf), verdict.WrongIdentity)
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, leaf), verdict.WrongIdentity)
}

// served is a registry of this process with one image.
func served(t *testing.T) (*remote.Repository, name.Reference, oci.Artifact) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	at := strings.TrimPrefix(server.URL, "http://") + "/nops/agent"
	repository := must(remote.NewRepository(at))(t)
	repository.PlainHTTP = true
	image := must(oras.PackManifest(t.Context(), repository, oras.PackManifestVersion1_1, "application/vnd.example.agent", oras.PackManifestOptions{}))(t)
	ok(t, repository.Tag(t.Context(), image, "1"))
	return repository, must(name.ParseReference(at+":1", name.Insecure))(t), oci.Artifact{Descriptor: image}
}

func TestTrapAttestationForASignature(t *testing.T) {
	s := newStage(t, signing.SigstoreOptions{})
	repository, at, a := served(t)
	b := must(s.key.SignBundle(signing.Statement(signing.SPDXPredicate, imageName, a.Descriptor.Digest)))(t)
	must(signing.PushBundle(t.Context(), repository, a.Descriptor, b.JSON(), signing.CosignPredicate))(t)
	co := &sigcosign.CheckOpts{SigVerifier: s.verifier(), IgnoreTlog: true, Offline: true, NewBundleFormat: true, TrustedMaterial: &root.BaseTrustedMaterial{}, ClaimVerifier: sigcosign.IntotoSubjectClaimVerifier}
	if found, _, err := sigcosign.VerifyImageAttestations(t.Context(), at, co); err != nil || len(found) != 1 {
		t.Errorf("the library tells attestations from signatures by itself now: %d, %v", len(found), err)
	}
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, s.keyed()), verdict.WrongPredicate)
}

func TestTrapNoTrustedMaterial(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	b := s.bundle(a)
	if _, err := sigcosign.VerifyNewBundle(t.Context(), &sigcosign.CheckOpts{SigVerifier: s.verifier(), IgnoreTlog: true, Offline: true}, about(t, a), parsed(t, b)); err == nil {
		t.Error("the library takes keyed bundles without trusted material now")
	}
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, s.keyed()), "")
}

func TestTrapTwoIdentities(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	b := s.keylessBundle(release, a)
	co := &sigcosign.CheckOpts{TrustedMaterial: s.trusted(), Offline: true, Identities: []sigcosign.Identity{{Issuer: mallory.Issuer, Subject: mallory.Subject}, {Issuer: release.Issuer, Subject: release.Subject}}}
	if _, err := sigcosign.VerifyNewBundle(t.Context(), co, about(t, a), parsed(t, b)); err == nil {
		t.Error("the library takes several identities for a bundle now")
	}
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, keyless(mallory)), verdict.WrongIdentity) // leaves are tried one by one
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, keyless(release)), "")
}

func TestTrapBundlesAreNotSeen(t *testing.T) {
	s := newStage(t, signing.SigstoreOptions{})
	repository, at, a := served(t)
	must(s.key.SignCosignBundle(t.Context(), repository, imageName, a.Descriptor))(t)
	co := &sigcosign.CheckOpts{SigVerifier: s.verifier(), IgnoreTlog: true, Offline: true, ClaimVerifier: sigcosign.SimpleClaimVerifier}
	if found, _, err := sigcosign.VerifyImageSignatures(t.Context(), at, co); err == nil {
		t.Errorf("the library sees what cosign 3 writes now: %d", len(found))
	}
	// What the registry lists as a referrer is what the engine takes.
	var found []ocispec.Descriptor
	ok(t, repository.Referrers(t.Context(), a.Descriptor, "", func(r []ocispec.Descriptor) error { found = append(found, r...); return nil }))
	if len(found) != 1 {
		t.Fatalf("%d referrers, expected 1", len(found))
	}
	_, reader, err := oras.Fetch(t.Context(), repository, found[0].Digest.String(), oras.FetchOptions{})
	ok(t, err)
	defer reader.Close()
	var manifest ocispec.Manifest
	ok(t, json.NewDecoder(reader).Decode(&manifest))
	blob := must(repository.Blobs().Fetch(t.Context(), manifest.Layers[0]))(t)
	defer blob.Close()
	s.wants(s.verify(a, inBundle(must(io.ReadAll(blob))(t)), policy.Rule{}, s.keyed()), "")
}

const loopVariable = "NOPSCTL_TEST_COSIGN_LOOP"

// The library's loop starts a goroutine per signature; what panics there ends the process, whatever its caller recovers from.
func TestTrapBodyThatIsNoString(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	l := s.loggedLayer(a)
	promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = 42 })(s, &l)
	co := &sigcosign.CheckOpts{SigVerifier: s.verifier(), TrustedMaterial: s.trusted(), Offline: true, ClaimVerifier: sigcosign.SimpleClaimVerifier}
	if os.Getenv(loopVariable) != "" {
		repository, at, image := served(t)
		l = s.loggedLayer(image)
		promise(func(_ stage, b *signing.RekorBundle) { b.Payload.Body = 42 })(s, &l)
		must(signing.PushCosign(t.Context(), repository, image.Descriptor.Digest, l))(t)
		defer func() { _ = recover() }()
		_, _, _ = sigcosign.VerifyImageSignatures(t.Context(), at, co)
		return
	}
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	program.Env = append(os.Environ(), loopVariable+"=1")
	if out, err := program.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("interface conversion")) {
		t.Errorf("the library's loop survives now: %v\n%s", err, out)
	}
	panicked := func() (p any) {
		defer func() { p = recover() }()
		_, _ = sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), co)
		return nil
	}()
	if panicked == nil {
		t.Error("the library no longer panics")
	}
	s.wants(s.verify(a, inLayer(l), policy.Rule{}, s.inLog()), verdict.Malformed)
}

func TestTrapStampThatIsNotGood(t *testing.T) {
	instance := signing.SigstoreOptions{NoRekor: true, NoCT: true}
	s, a := newStage(t, instance), artifact("A")
	l := s.keylessLayer(release, a)
	delete(l.Annotations, signing.CosignRekor)
	ok(t, newStage(t, instance).StampLayer(l, s.at))
	co := &sigcosign.CheckOpts{TrustedMaterial: s.trusted(), Offline: true, IgnoreTlog: true, IgnoreSCT: true, UseSignedTimestamps: true, ClaimVerifier: sigcosign.SimpleClaimVerifier}
	log.SetOutput(io.Discard) // it prints a warning before it panics
	panicked := func() (p any) {
		defer func() { p = recover() }()
		_, _ = sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), co)
		return nil
	}()
	log.SetOutput(os.Stderr)
	if panicked == nil {
		t.Error("the library no longer panics")
	}
	s.wants(s.verify(a, inLayer(l), policy.Rule{}, keyless(release)), verdict.NoTimestamp)
}

// Ed25519 without a hash signs messages, not digests: asked about a digest, the library checks the empty message. Whoever
// signed an empty file once has then signed every image.
func TestTrapEd25519SignatureOfNothing(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("an image")
	s.key = signing.CosignKeyOf(ed)
	b := must(s.key.SignMessage(a.Manifest))(t)
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, s.keyed()), verdict.BadSignature)
	b.Message.Signature = ed25519.Sign(ed, nil)
	co := &sigcosign.CheckOpts{SigVerifier: s.verifier(), IgnoreTlog: true, Offline: true, TrustedMaterial: &root.BaseTrustedMaterial{}}
	if _, err := sigcosign.VerifyNewBundle(t.Context(), co, about(t, a), parsed(t, b)); err != nil {
		t.Errorf("the library refuses signatures of nothing by itself now: %v", err)
	}
	s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, s.keyed()), verdict.BadSignature)
}

// CVE-2026-24122: an authority that had ended when the signature was made.
func TestTrapAuthorityThatHadEnded(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	at := now.Add(-90 * 24 * time.Hour)
	for _, instance := range []signing.SigstoreOptions{{NoRekor: true, NoCT: true}, {NoRekor: true}, {NoCT: true}, {}} {
		instance.Now, instance.IssuerEnd = now, at.Add(-30*time.Second) // the certificate begins before it, the signature is made after it
		s, a := newStage(t, instance), artifact("A")
		l := s.keylessLayer(release, a)
		if instance.NoRekor {
			delete(l.Annotations, signing.CosignRekor)
		}
		ok(t, s.StampLayer(l, at))
		co := &sigcosign.CheckOpts{
			TrustedMaterial: s.trusted(), Offline: true, IgnoreTlog: instance.NoRekor, IgnoreSCT: instance.NoCT, UseSignedTimestamps: true, ClaimVerifier: sigcosign.SimpleClaimVerifier,
			Identities: []sigcosign.Identity{{Issuer: release.Issuer, Subject: release.Subject}},
		}
		if _, err := sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), co); err != nil {
			t.Errorf("the library looks at the chain when the signature was made now: %v", err)
		}
		s.wants(s.verify(a, inLayer(l), policy.Rule{}, keyless(release)), verdict.CertificateTime)
		b := s.keylessBundle(release, a)
		if instance.NoRekor {
			b.Material.Entries = nil
			ok(t, s.StampBundle(&b, at))
		}
		s.wants(s.verify(a, inBundle(b.JSON()), policy.Rule{}, keyless(release)), verdict.CertificateTime)
	}
}

// A certificate must be in a certificate transparency log where the trusted root names one.
func TestTrapCertificateInNoLog(t *testing.T) {
	without, a := newStage(t, signing.SigstoreOptions{NoCT: true}), artifact("A")
	with := newStage(t, signing.SigstoreOptions{})
	var mine, theirs map[string]json.RawMessage
	ok(t, json.Unmarshal(without.TrustedRoot(), &mine))
	ok(t, json.Unmarshal(with.TrustedRoot(), &theirs))
	mine["ctlogs"] = theirs["ctlogs"]
	demanding := must(cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: must(json.Marshal(mine))(t)}}))(t)
	l, b := inLayer(without.keylessLayer(release, a)), inBundle(without.keylessBundle(release, a).JSON())
	for _, sig := range []oci.Signature{l, b} {
		without.wants(without.verify(a, sig, policy.Rule{}, keyless(release)), "")
		without.wants(demanding.Verify(t.Context(), a, sig, policy.Rule{}, keyless(release)), verdict.NoTransparency)
	}
	ok(t, json.Unmarshal(with.TrustedRoot(), &mine))
	delete(theirs, "ctlogs")
	ok(t, json.Unmarshal(newStage(t, signing.SigstoreOptions{}).TrustedRoot(), &theirs))
	mine["ctlogs"] = theirs["ctlogs"]
	another := must(cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: must(json.Marshal(mine))(t)}}))(t)
	with.wants(another.Verify(t.Context(), a, inLayer(with.keylessLayer(release, a)), policy.Rule{}, keyless(release)), verdict.NoTransparency)
}

// The library's functions that go through a registry's signatures themselves panic where nobody can recover, see no bundles, and
// let attestations pass as signatures whatever the claims say; those that look for trust ask the network. None of them is named here.
func TestOnlyWhatIsForOneSignatureIsCalled(t *testing.T) {
	allowed := map[string]bool{"CheckOpts": true, "Identity": true, "SimpleClaimVerifier": true, "VerifyBundle": true, "VerifyImageSignature": true, "VerifyNewBundle": true}
	used := map[string]bool{}
	files := 0
	for _, name := range must(filepath.Glob("*.go"))(t) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f := must(parser.ParseFile(token.NewFileSet(), name, nil, 0))(t)
		files++
		library := ""
		for _, i := range f.Imports {
			switch path := strings.Trim(i.Path.Value, `"`); {
			case path == "github.com/sigstore/cosign/v2/pkg/cosign":
				library = i.Name.Name
			case strings.HasSuffix(path, "/remote"), strings.Contains(path, "/tuf"), strings.HasPrefix(path, "github.com/sigstore/cosign/v2/cmd"), path == "net/http", path == "os":
				t.Errorf("%s imports %s", name, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && library != "" {
				if of, ok := s.X.(*ast.Ident); ok && of.Name == library {
					used[s.Sel.Name] = true
					if !allowed[s.Sel.Name] {
						t.Errorf("%s uses %s of cosign's", name, s.Sel.Name)
					}
				}
			}
			return true
		})
	}
	if files < 4 || len(used) != len(allowed) {
		t.Errorf("%d files use %v: of what is allowed, some is not there", files, used)
	}
}

// goroutines notes in which goroutine the library asks for things.
type goroutines struct {
	mu   sync.Mutex
	seen map[string]int
}

func (g *goroutines) note() {
	stack := make([]byte, 64)
	id, _, _ := strings.Cut(string(stack[:runtime.Stack(stack, false)]), " [")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen[id]++
}

type notedVerifier struct {
	signature.Verifier
	*goroutines
}

func (v notedVerifier) VerifySignature(s, m io.Reader, o ...signature.VerifyOption) error {
	v.note()
	return v.Verifier.VerifySignature(s, m, o...)
}

type notedRoot struct {
	root.TrustedMaterial
	*goroutines
}

func (r notedRoot) RekorLogs() map[string]*root.TransparencyLog {
	r.note()
	return r.TrustedMaterial.RekorLogs()
}

func (r notedRoot) FulcioCertificateAuthorities() []root.CertificateAuthority {
	r.note()
	return r.TrustedMaterial.FulcioCertificateAuthorities()
}

func (r notedRoot) TimestampingAuthorities() []root.TimestampingAuthority {
	r.note()
	return r.TrustedMaterial.TimestampingAuthorities()
}

// Recovering is worth something only because the functions for one signature stay in their caller's goroutine.
func TestOneSignatureStartsNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	g := &goroutines{seen: map[string]int{}}
	trusted := notedRoot{s.trusted(), g}
	claims := func(sig sigoci.Signature, h v1.Hash, m map[string]any) error {
		g.note()
		return sigcosign.SimpleClaimVerifier(sig, h, m)
	}
	identities := []sigcosign.Identity{{Issuer: release.Issuer, Subject: release.Subject}}
	l := s.keylessLayer(release, a)
	ok(t, s.StampLayer(l, s.at))
	b := s.keylessBundle(release, a)
	ok(t, s.StampBundle(&b, s.at))
	keyed := s.bundle(a)
	ok(t, s.LogBundle(&keyed, s.key.PublicPEM(), s.at))
	before := runtime.NumGoroutine()
	_, err := sigcosign.VerifyImageSignature(t.Context(), plain(t, l), hashOf(t, a), &sigcosign.CheckOpts{TrustedMaterial: trusted, ClaimVerifier: claims, Identities: identities, Offline: true, UseSignedTimestamps: true})
	ok(t, err)
	_, err = sigcosign.VerifyImageSignature(t.Context(), plain(t, s.loggedLayer(a)), hashOf(t, a), &sigcosign.CheckOpts{TrustedMaterial: trusted, ClaimVerifier: claims, SigVerifier: notedVerifier{s.verifier(), g}, Offline: true})
	ok(t, err)
	_, err = sigcosign.VerifyNewBundle(t.Context(), &sigcosign.CheckOpts{TrustedMaterial: trusted, Identities: identities, Offline: true, UseSignedTimestamps: true}, about(t, a), parsed(t, b))
	ok(t, err)
	_, err = sigcosign.VerifyNewBundle(t.Context(), &sigcosign.CheckOpts{TrustedMaterial: trusted, SigVerifier: notedVerifier{s.verifier(), g}, Offline: true}, about(t, a), parsed(t, keyed))
	ok(t, err)
	calls := 0
	for _, n := range g.seen {
		calls += n
	}
	if len(g.seen) != 1 || calls < 10 {
		t.Errorf("the library worked in %d goroutines, seen in %d calls: %v", len(g.seen), calls, g.seen)
	}
	if after := runtime.NumGoroutine(); after != before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

// Trust comes from the policy. Variables that redirect cosign's own commands change nothing, and nothing asks the network.
func TestEnvironmentCannotRedirectTrust(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusNotFound) }))
	defer server.Close()
	s, evil, a := newStage(t, signing.SigstoreOptions{}), newStage(t, signing.SigstoreOptions{}), artifact("A")
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, data, 0o600))
		return path
	}
	rootFile := file("trusted_root.json", evil.TrustedRoot())
	caFile := file("ca.pem", []byte(evil.keylessLayer(release, a).Annotations[signing.CosignChain]))
	keyFile := file("key.pub", evil.key.PublicPEM())
	for variable, value := range map[string]string{
		"TUF_ROOT": dir, "TUF_ROOT_JSON": rootFile, "TUF_MIRROR": server.URL, "SIGSTORE_NO_CACHE": "true", "SIGSTORE_TRUSTED_ROOT": rootFile, "SIGSTORE_ROOT_FILE": caFile,
		"SIGSTORE_REKOR_PUBLIC_KEY": keyFile, "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE": keyFile, "SIGSTORE_TSA_CERTIFICATE_FILE": caFile, "REKOR_URL": server.URL, "FULCIO_URL": server.URL,
		"COSIGN_REPOSITORY": "evil.example/images", "COSIGN_EXPERIMENTAL": "1", "COSIGN_DOCKER_MEDIA_TYPES": "1", "COSIGN_MAX_ATTACHMENT_SIZE": "1",
		"HTTP_PROXY": server.URL, "HTTPS_PROXY": server.URL, "HOME": dir, "XDG_CACHE_HOME": dir,
	} {
		t.Setenv(variable, value)
	}
	signed := func(s stage) []oci.Signature {
		return []oci.Signature{inLayer(s.keylessLayer(release, a)), inBundle(s.keylessBundle(release, a).JSON())}
	}
	for _, sig := range signed(s) {
		s.wants(s.verify(a, sig, policy.Rule{}, keyless(release)), "")
	}
	for _, sig := range signed(evil) {
		if f := s.verify(a, sig, policy.Rule{}, keyless(release)); f.Outcome.OK() {
			t.Errorf("a signature by a redirected root verifies: %+v", f)
		}
	}
	l := evil.layer(a)
	ok(t, evil.LogLayer(l, evil.key.PublicPEM(), s.at))
	s.wants(s.verify(a, inLayer(l), policy.Rule{}, evil.inLog()), verdict.NoTransparency)
	shipped := must(cosign.New(cosign.Options{}))(t)
	for _, sig := range append(signed(evil), signed(s)...) {
		if f := shipped.Verify(t.Context(), a, sig, policy.Rule{}, keyless(release)); f.Outcome.OK() {
			t.Errorf("a signature by an instance of our own verifies by the public one's root: %+v", f)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the network was asked %d times", n)
	}
	for _, entry := range must(os.ReadDir(dir))(t) {
		if name := entry.Name(); name != "trusted_root.json" && name != "ca.pem" && name != "key.pub" {
			t.Errorf("%s was written", name)
		}
	}
}

// The library tries a second algorithm with keys on larger curves and says so on the terminal. An engine prints nothing.
func TestNothingIsPrinted(t *testing.T) {
	s := newStage(t, signing.SigstoreOptions{})
	printed := filepath.Join(t.TempDir(), "printed")
	file := must(os.Create(printed))(t)
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = file, file
	log.SetOutput(file)
	for _, sig := range []oci.Signature{
		bentKeyless(func(s stage, l *signing.CosignLayer) {
			ok(s.TB, newStage(s.TB, signing.SigstoreOptions{}).StampLayer(*l, s.at))
		})(s),
		bentKeylessBundle(func(stage, *signing.Bundle) {})(s), largeCurve(s),
	} {
		s.engine().Verify(t.Context(), artifact("an image"), sig, policy.Rule{}, keyless(release))
	}
	os.Stdout, os.Stderr = stdout, stderr
	log.SetOutput(os.Stderr)
	file.Close()
	if out := must(os.ReadFile(printed))(t); len(out) != 0 {
		t.Errorf("it printed %q", out)
	}
}

func TestFindingsAreOneShortLine(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	l := must(s.key.SignLayer(bytes.Replace(signing.SimpleSigning(imageName, a.Descriptor.Digest), []byte("cosign container"), []byte(strings.Repeat(`\u001b[31m\n`, 1000)), 1)))(t)
	if f := s.verify(a, inLayer(l), policy.Rule{}, s.keyed()); f.Outcome.OK() || len(f.Message) > 4000 || strings.ContainsAny(f.Message, "\n\r\x1b") {
		t.Errorf("a message of %d bytes: %q", len(f.Message), f.Message)
	}
	b := s.bundle(a)
	b.Material.PublicKey.Hint = "\x1b[31m\n" + strings.Repeat("x", 5000)
	if claims, f := cosign.Inspect(inBundle(b.JSON()), a.Descriptor.Digest.String()); f != nil || len(claims.KeyHint) > 1000 || strings.ContainsAny(claims.KeyHint, "\n\x1b") {
		t.Errorf("claims %q, finding %v", claims.KeyHint, f)
	}
}

func TestTimeIsUp(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.wants(s.engine().Verify(ctx, a, inLayer(s.layer(a)), policy.Rule{}, s.keyed()), verdict.TimedOut)
}

func TestTrustedRootsThatCannotBeUsed(t *testing.T) {
	for name, given := range map[string]string{
		"no JSON": "hello", "null": "null", "empty": "{}", "of no version": `{"mediaType":""}`, "naming nobody": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"empty authority": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{}]}`,
		"empty log":       `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{}]}`,
		"null log":        `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[null]}`,
		"empty stamps":    `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","timestampAuthorities":[{"certChain":{"certificates":[]}}]}`,
	} {
		if _, err := cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: []byte(given)}}); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// CVE-2024-29903: many layers. Each is a finding of its own, and the good one behind them is found.
func TestJunkBesideAGoodSignature(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	engine, good := s.engine(), s.loggedLayer(a)
	for i := range 1000 {
		l := signing.CosignLayer{Payload: good.Payload, Annotations: maps.Clone(good.Annotations)}
		switch i % 4 {
		case 0:
			l.Annotations[signing.CosignSignature] = "aGVsbG8="
		case 1:
			l.Annotations[signing.CosignRekor] = `{"Payload":{"body":42}}`
		case 2:
			l.Payload = []byte("{}")
		case 3:
			l.Annotations = nil
		}
		if f := engine.Verify(t.Context(), a, inLayer(l), policy.Rule{}, s.inLog()); f.Outcome != verdict.Untrusted {
			t.Fatalf("junk %d: %+v", i, f)
		}
	}
	s.wants(engine.Verify(t.Context(), a, inLayer(good), policy.Rule{}, s.inLog()), "")
}

// Many findings at once: one engine serves all.
func TestEngineIsSafeForConcurrentUse(t *testing.T) {
	s, a := newStage(t, signing.SigstoreOptions{}), artifact("A")
	engine := s.engine()
	signatures := []oci.Signature{inLayer(s.keylessLayer(release, a)), inBundle(s.keylessBundle(release, a).JSON())}
	keyed := []oci.Signature{inLayer(s.loggedLayer(a)), inBundle(s.bundle(a).JSON())}
	shipped := must(cosign.New(cosign.Options{}))(t)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if f := engine.Verify(t.Context(), a, signatures[i%2], policy.Rule{}, keyless(release)); !f.Outcome.OK() {
				t.Errorf("%+v", f)
			}
			if f := shipped.Verify(t.Context(), a, keyed[i%2], policy.Rule{}, s.keyed()); !f.Outcome.OK() {
				t.Errorf("%+v", f)
			}
		})
	}
	wg.Wait()
}

// largeCurve is a keyless bundle by a key on P-384 whose signature is bad.
func largeCurve(s stage) oci.Signature {
	s.Helper()
	key := signing.CosignKeyOf(must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(s.TB))
	b := must(must(s.IssueFor(key, release, s.at.Add(-time.Minute)))(s.TB).SignBundle(signing.Statement(signing.CosignPredicate, imageName, artifact("an image").Descriptor.Digest), s.at))(s.TB)
	return inBundle(b.JSON())
}
