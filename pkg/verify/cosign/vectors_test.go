package cosign_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigverify "github.com/sigstore/sigstore-go/pkg/verify"
	"golang.org/x/mod/semver"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// list asks the go command about a module that this one requires.
func list(t *testing.T, format string, modules ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-m", "-f", format}, modules...)...)
	cmd.Stderr = os.Stderr
	out := strings.Fields(string(must(cmd.Output())(t)))
	if len(out) != len(modules) {
		t.Fatalf("go list knows %d of %d modules: %v", len(out), len(modules), out)
	}
	return out
}

func moduleFile(t *testing.T, module string, path ...string) []byte {
	t.Helper()
	return must(os.ReadFile(filepath.Join(append([]string{list(t, "{{.Dir}}", module)[0]}, path...)...)))(t)
}

func TestShippedTrustedRootIsSigstores(t *testing.T) {
	ours := must(os.ReadFile("trusted_root.json"))(t)
	if theirs := moduleFile(t, "github.com/sigstore/sigstore", "pkg", "tuf", "repository", "targets", "trusted_root.json"); !bytes.Equal(ours, theirs) {
		t.Error("trusted_root.json differs from the module's: copy it again, and read what changed")
	}
	tr := must(root.NewTrustedRootFromJSON(ours))(t)
	if len(tr.FulcioCertificateAuthorities()) != 2 || len(tr.RekorLogs()) != 1 || len(tr.CTLogs()) != 2 || len(tr.TimestampingAuthorities()) != 1 {
		t.Errorf("it names %d authorities, %d logs, %d certificate logs, %d authorities for time", len(tr.FulcioCertificateAuthorities()), len(tr.RekorLogs()), len(tr.CTLogs()), len(tr.TimestampingAuthorities()))
	}
}

// Versions below these have known holes, each of which has its test above; nothing may select them again.
func TestVersionsWithKnownHolesAreNotUsed(t *testing.T) {
	least := []struct{ module, version, holes string }{
		{"github.com/sigstore/cosign/v2", "v2.6.3", "CVE-2026-22703, CVE-2026-39395"},
		{"github.com/sigstore/sigstore-go", "v1.2.1", "CVE-2026-54787"},
		{"github.com/sigstore/timestamp-authority/v2", "v2.0.6", "CVE-2026-39984"},
		{"oras.land/oras-go/v2", "v2.6.2", "CVE-2026-48978, CVE-2026-50163"},
	}
	var modules []string
	for _, l := range least {
		modules = append(modules, l.module)
	}
	for i, got := range list(t, "{{with .Replace}}replaced{{else}}{{.Version}}{{end}}", modules...) {
		if !semver.IsValid(got) || semver.Compare(got, least[i].version) < 0 {
			t.Errorf("%s is %s, at least %s is needed for %s", least[i].module, got, least[i].version, least[i].holes)
		}
	}
}

// The bundles that sigstore-go tests itself with, through this engine. Attestations among them are refused before their
// mathematics; that those hold is asked of the library beside it, so that the refusal is for the right reason.
func TestBundlesOfSigstoreGo(t *testing.T) {
	dir := filepath.Join(list(t, "{{.Dir}}", "github.com/sigstore/sigstore-go")[0], "pkg", "testing", "data")
	read := func(kind, name string) []byte { return must(os.ReadFile(filepath.Join(dir, kind, name)))(t) }
	sum := func(algorithm, text string) oci.Artifact {
		a := artifact("")
		a.Descriptor.Digest = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), text)
		return a
	}
	workflow := policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"}
	person := policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: "https://github.com/login/oauth", Subject: "brian@dehamer.com"}
	local := policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: "http://oidc.local:8080", Subject: "foo!oidc.local"}
	mail := local
	mail.Subject = "foo@oidc.local"
	key := policy.Leaf{Method: policy.MethodCosignKey, Key: read("public-keys", "public-key-validity.pem")}
	stranger := policy.Leaf{Method: policy.MethodCosignKey, Key: must(signing.NewCosignKey())(t).PublicPEM()}
	content, stamped := artifact("test content"), time.Date(2026, 6, 4, 17, 43, 29, 0, time.UTC)
	othername := sum("sha256", "bc103b4a84971ef6459b294a2b98568a2bfb72cded09d4acd1e16366a401f95b")
	cases := []struct {
		bundle, root, reason string
		artifact             oci.Artifact
		leaf                 policy.Leaf
		rule                 policy.Rule
		want                 verdict.Reason
		at                   time.Time
	}{
		{bundle: "sigstore.js@2.0.0-provenance.sigstore.json", root: "public-good.json", reason: "a provenance", artifact: content, leaf: workflow, want: verdict.WrongPredicate},
		{bundle: "dsse.sigstore.json", root: "public-good.json", reason: "a provenance", artifact: content, leaf: person, want: verdict.WrongPredicate},
		{bundle: "dsse-2sigs.sigstore.json", root: "public-good.json", reason: "bundles have one signature", artifact: content, leaf: person, want: verdict.Malformed},
		{bundle: "othername.sigstore.json", root: "scaffolding.json", reason: "a name that Go does not know, in a critical extension", artifact: othername, leaf: local, at: time.Unix(1720811189, 0)},
		{bundle: "othername.sigstore.json", root: "scaffolding.json", reason: "such a name is no mail address", artifact: othername, leaf: mail, want: verdict.WrongIdentity},
		{bundle: "othername.sigstore.json", root: "scaffolding.json", reason: "another artifact", artifact: content, leaf: local, want: verdict.WrongArtifact},
		{bundle: "othername.sigstore.json", root: "public-good.json", reason: "logged and certified by another instance", artifact: othername, leaf: local, want: verdict.NoTransparency},
		{bundle: "public-key-validity.sigstore.json", root: "public-key-validity.json", reason: "keys of a policy have no window of their own; its rules have", artifact: content, leaf: key, at: stamped},
		{bundle: "public-key-validity.sigstore.json", root: "public-key-validity.json", reason: "CVE-2026-54787: the window is held against the stamp", artifact: content, leaf: key, rule: policy.Rule{NotBefore: stamped.Add(time.Second)}, want: verdict.TooOld, at: stamped},
		{bundle: "public-key-validity.sigstore.json", root: "public-key-validity.json", reason: "CVE-2026-54787: the window is held against the stamp", artifact: content, leaf: key, rule: policy.Rule{MaxAge: time.Hour}, want: verdict.TooOld, at: stamped},
		{bundle: "public-key-validity.sigstore.json", root: "public-good.json", reason: "a stamp of somebody else is none", artifact: content, leaf: key, rule: policy.Rule{MaxAge: 1 << 62}, want: verdict.NoTimestamp},
		{bundle: "public-key-validity.sigstore.json", root: "public-key-validity.json", reason: "another key", artifact: content, leaf: stranger, want: verdict.BadSignature},
		{bundle: "public-key-validity.sigstore.json", root: "public-key-validity.json", reason: "another artifact", artifact: othername, leaf: key, want: verdict.WrongArtifact},
	}
	seen := map[string]bool{}
	for _, c := range cases {
		seen[c.bundle] = true
		engine := must(cosign.New(cosign.Options{Sigstore: policy.Sigstore{TrustedRoot: read("trusted-roots", c.root)}, Now: func() time.Time { return stamped.Add(24 * time.Hour) }}))(t)
		f := engine.Verify(t.Context(), c.artifact, inBundle(read("bundles", c.bundle)), c.rule, c.leaf)
		if f.Reason != c.want || f.Outcome.OK() != (c.want == "") || !f.SignedAt.Equal(c.at) {
			t.Errorf("%s, %s: %+v; expected %q at %v", c.bundle, c.reason, f, c.want, c.at)
		}
	}
	if files := must(filepath.Glob(filepath.Join(dir, "bundles", "*.json")))(t); len(files) != 5 || len(seen) != len(files) {
		t.Errorf("sigstore-go has %d bundles, %d of which were used; 5 were expected", len(files), len(seen))
	}
	for _, name := range []string{"sigstore.js@2.0.0-provenance.sigstore.json", "dsse.sigstore.json"} {
		var b bundle.Bundle
		ok(t, b.UnmarshalJSON(read("bundles", name)))
		for what, data := range map[string][]byte{"its": read("trusted-roots", "public-good.json"), "the shipped": must(os.ReadFile("trusted_root.json"))(t)} {
			v := must(sigverify.NewVerifier(must(root.NewTrustedRootFromJSON(data))(t), sigverify.WithTransparencyLog(1), sigverify.WithIntegratedTimestamps(1), sigverify.WithSignedCertificateTimestamps(1)))(t)
			if _, err := v.Verify(&b, sigverify.NewPolicy(sigverify.WithoutArtifactUnsafe(), sigverify.WithoutIdentitiesUnsafe())); err != nil {
				t.Errorf("%s does not hold by %s trusted root: %v", name, what, err)
			}
		}
	}
}

// What cosign tests itself with: an attestation of an image, by the public instance.
func TestAttestationOfCosign(t *testing.T) {
	const module = "github.com/sigstore/cosign/v2"
	attestation := moduleFile(t, module, "pkg", "cosign", "testdata", "oci-attestation.sigstore.json")
	trusted := moduleFile(t, module, "pkg", "cosign", "testdata", "trusted_root_pgi.json")
	a := artifact("")
	a.Descriptor.Digest = "sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4"
	leaf := policy.Leaf{Method: policy.MethodCosignKeyless, Issuer: "https://github.com/login/oauth", Subject: "cody@soyland.com"}
	for name, o := range map[string]cosign.Options{"cosign's trusted root": {Sigstore: policy.Sigstore{TrustedRoot: trusted}}, "the shipped one": {}} {
		if f := must(cosign.New(o))(t).Verify(t.Context(), a, inBundle(attestation), policy.Rule{}, leaf); f.Reason != verdict.WrongPredicate {
			t.Errorf("%s: %+v", name, f)
		}
	}
	var b bundle.Bundle
	ok(t, b.UnmarshalJSON(attestation))
	identity := must(sigverify.NewShortCertificateIdentity(leaf.Issuer, "", leaf.Subject, ""))(t)
	for name, data := range map[string][]byte{"cosign's": trusted, "the shipped": must(os.ReadFile("trusted_root.json"))(t)} {
		v := must(sigverify.NewVerifier(must(root.NewTrustedRootFromJSON(data))(t), sigverify.WithTransparencyLog(1), sigverify.WithIntegratedTimestamps(1)))(t)
		if _, err := v.Verify(&b, sigverify.NewPolicy(about(t, a), sigverify.WithCertificateIdentity(identity))); err != nil {
			t.Errorf("it does not hold by %s trusted root: %v", name, err)
		}
	}
}

// The vector of timestamp-authority for CVE-2026-39984: a stamp with a certificate in it that has nothing to do with it.
func TestStampWithInjectedCertificate(t *testing.T) {
	stamp := moduleFile(t, "github.com/sigstore/timestamp-authority/v2", "pkg", "verification", "testdata", "response-injected-certs.tsr")
	response := must(timestamp.ParseResponse(stamp))(t)
	if len(response.Certificates) != 3 {
		t.Fatalf("the stamp holds %d certificates, expected 3", len(response.Certificates))
	}
	signer := response.Certificates[2] // it leads nowhere that the stamp knows, so it stands for its own root
	counted := map[string]int{}
	for _, c := range response.Certificates {
		var trusted map[string]any
		ok(t, json.Unmarshal(newStage(t, signing.SigstoreOptions{}).TrustedRoot(), &trusted))
		authority := trusted["timestampAuthorities"].([]any)[0].(map[string]any)
		authority["certChain"] = map[string]any{"certificates": []any{signing.RawBytes{Raw: c.Raw}, signing.RawBytes{Raw: signer.Raw}}}
		authority["validFor"] = map[string]any{"start": "2000-01-01T00:00:00Z"}
		times, err := cosign.Stamped(must(json.Marshal(trusted))(t), []byte("hello"), stamp)
		ok(t, err)
		counted[c.Issuer.CommonName] += len(times)
	}
	if want := map[string]int{"Nonexistent CA": 0, "Test TSA Timestamping": 0, "Test TSA Intermediate": 1}; !maps.Equal(counted, want) {
		t.Errorf("the stamp counts, by the issuer of the certificate that the trusted root names: %v; expected %v", counted, want)
	}
}
