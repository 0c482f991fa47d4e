package notary

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	_ "github.com/notaryproject/notation-core-go/signature/cose"
	_ "github.com/notaryproject/notation-core-go/signature/jws"
	corex509 "github.com/notaryproject/notation-core-go/x509"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	gocose "github.com/veraison/go-cose"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// moduleDir is where the module cache has a module that this one needs.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", module, err)
	}
	dir := strings.TrimSpace(string(out))
	if dir == "" {
		t.Fatalf("%s is not in the module cache", module)
	}
	return dir
}

// vector is a file as a signature, what it claims to be about, and the roots of its own chain.
func vector(t *testing.T, file string) (oci.Signature, ocispec.Descriptor, []*x509.Certificate) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := oci.Signature{Format: oci.NotaryJWS, Payload: raw, Manifest: ocispec.Descriptor{Digest: digest.FromBytes(raw)}}
	mediaType := "application/jose+json"
	if raw[0] != '{' {
		s.Format, mediaType = oci.NotaryCOSE, "application/cose"
	}
	parsed, err := signature.ParseEnvelope(mediaType, raw)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	content, err := parsed.Content()
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var payload struct{ TargetArtifact ocispec.Descriptor }
	if err := json.Unmarshal(content.Payload.Content, &payload); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s, payload.TargetArtifact, content.SignerInfo.CertificateChain
}

// TestNotationVectors runs the envelopes that notation-go tests itself with, each for a company's requirement and for one of AWS Signer's,
// with the chain's own root trusted.
func TestNotationVectors(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(moduleDir(t, "github.com/notaryproject/notation-go"), "internal", "mock", "testdata")
	// What their names say; of plugins, there is none that they may ask for.
	want := map[string][2]verdict.Reason{
		"ca_valid_sig_env.json":                                 {"", verdict.WrongScheme},
		"ca_invalid_sig_env.json":                               {verdict.BadSignature, verdict.BadSignature},
		"ca_expired_sig_env.json":                               {verdict.SignatureExpired, verdict.WrongScheme},
		"ca_plugin_sig_env.json":                                {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_compatible_pluginver_sig_env_0.0.9.json":            {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_compatible_pluginver_sig_env_1.0.0-alpha.beta.json": {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_compatible_pluginver_sig_env_1.0.0-alpha.json":      {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_compatible_pluginver_sig_env_1.0.0.json":            {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_incompatible_pluginver_sig_env_1.0.1.json":          {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_incompatible_pluginver_sig_env_1.0.9.json":          {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_incompatible_pluginver_sig_env_1.1.0-alpha.json":    {verdict.UnknownCritical, verdict.WrongScheme},
		"ca_incompatible_pluginver_sig_env_1.2.3.json":          {verdict.UnknownCritical, verdict.WrongScheme},
		"sa_valid_sig_env.json":                                 {verdict.WrongScheme, verdict.Malformed}, // valid, and no plugin named: not AWS Signer's
		"sa_invalid_sig_env.json":                               {verdict.BadSignature, verdict.BadSignature},
		"sa_expired_sig_env.json":                               {verdict.WrongScheme, verdict.Malformed},
		"sa_plugin_sig_env.json":                                {verdict.WrongScheme, verdict.UnknownCritical},
		"sig_env_with_metadata.json":                            {verdict.CertificateTime, verdict.WrongScheme}, // its certificate lived for a day of 2023
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 17 || len(want) != 17 {
		t.Fatalf("%d envelopes, expected 17: %v", len(files), err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		reasons, known := want[name]
		if !known {
			t.Errorf("%s: nobody says what it must come to", name)
			continue
		}
		s, target, chain := vector(t, strings.Replace(file, "_invalid_", "_valid_", 1)) // what it is about, as the invalid ones cannot say
		if s.Payload, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		root := chain[len(chain)-1]
		e := w.engine(func(o *Options) {
			o.Trust.AWSSigner.Roots = []string{fingerprint(root)}
			o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{root.Raw}}}
		})
		artifact := w.artifact
		artifact.Descriptor = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
		company := policy.Leaf{Method: policy.MethodNotation, Store: "corp", Subjects: []string{"C=US,ST=WA,O=Notary"}}
		w.want(name+", company", e.Verify(t.Context(), artifact, s, best, company), reasons[0], "")
		w.want(name+", AWS", e.Verify(t.Context(), artifact, s, best, awsLeaf), reasons[1], "")
		// None is about anything else, nor by anybody that is not trusted.
		artifact.Descriptor.Size++
		if f := e.Verify(t.Context(), artifact, s, off, company); f.Reason != verdict.WrongArtifact && !strings.Contains(name, "_invalid_") || f.Outcome != verdict.Untrusted {
			t.Errorf("%s, another artifact: %+v", name, f)
		}
		artifact.Descriptor.Size--
		if f := w.engine().Verify(t.Context(), artifact, s, off, corpLeaf); f.Outcome != verdict.Untrusted {
			t.Errorf("%s, nobody's root: %+v", name, f)
		}
	}
	if w.asked() != 0 {
		t.Errorf("AWS was asked %d times", w.asked())
	}
}

// TestNotationTimestampVectors runs the envelopes with time stamps of a public authority. Their certificates name places that could
// say more of revocation; off, so that nobody is asked.
func TestNotationTimestampVectors(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(moduleDir(t, "github.com/notaryproject/notation-go"), "verifier", "testdata")
	global := certificateFile(t, filepath.Join(dir, "truststore", "x509", "tsa", "test-timestamp", "globalsignRoot.cer"))
	digicert := certificateFile(t, filepath.Join(dir, "truststore", "x509", "tsa", "test-mismatch", "DigiCertTSARootSHA384.cer"))
	want := map[string]struct {
		stamped, otherTSA, noTSA verdict.Reason
	}{
		"jwsWithTimestamp.sig":         {"", verdict.NoTimestamp, ""},
		"coseWithTimestamp.sig":        {"", verdict.NoTimestamp, ""},
		"jwsExpiredWithTimestamp.sig":  {"", verdict.NoTimestamp, verdict.CertificateTime},
		"coseExpiredWithTimestamp.sig": {"", verdict.NoTimestamp, verdict.CertificateTime},
		"timestampBeforeNotBefore.sig": {verdict.CertificateTime, verdict.CertificateTime, verdict.CertificateTime},
		"timestampAfterNotAfter.sig":   {verdict.CertificateTime, verdict.CertificateTime, verdict.CertificateTime},
		"withoutTimestamp.sig":         {"", "", ""}, // its certificate still is good, so nothing need say when
	}
	files, err := filepath.Glob(filepath.Join(dir, "timestamp", "sigEnv", "*.sig"))
	if err != nil || len(files) != 7 || len(want) != 7 {
		t.Fatalf("%d envelopes, expected 7: %v", len(files), err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		s, target, chain := vector(t, file)
		artifact := w.artifact
		artifact.Descriptor = ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
		for i, tsa := range [][][]byte{{global.Raw}, {digicert.Raw}, nil} {
			e := w.engine(func(o *Options) {
				o.Trust.Stores = []policy.Store{{Name: "corp", Certificates: [][]byte{chain[len(chain)-1].Raw}, TSA: tsa}}
			})
			f := e.Verify(t.Context(), artifact, s, off, policy.Leaf{Method: policy.MethodNotation, Store: "corp", Subjects: []string{"C=US,ST=WA,O=Notary"}})
			reason := []verdict.Reason{want[name].stamped, want[name].otherTSA, want[name].noTSA}[i]
			w.want(name, f, reason, "")
			if dated := f.Outcome.OK() && i == 0 && name != "withoutTimestamp.sig"; f.SignedAt.IsZero() == dated {
				t.Errorf("%s, %d: signed at %s", name, i, f.SignedAt)
			}
		}
	}
}

func certificateFile(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	read, err := corex509.ReadCertificateFile(file)
	if err != nil || len(read) != 1 {
		t.Fatalf("%s: %d certificates, %v", file, len(read), err)
	}
	return read[0]
}

// TestTokenVectors hangs every time stamp of tspclient-go, and those beside notation-go's envelopes and in notation-core-go, on a good signature: all are of
// something else, most are broken besides, and none may pass.
func TestTokenVectors(t *testing.T) {
	w := newWorld(t)
	tsp := filepath.Join(moduleDir(t, "github.com/notaryproject/tspclient-go"), "testdata")
	var files []string
	for _, pattern := range []string{filepath.Join(tsp, "*.p7s"), filepath.Join(tsp, "*.ts?"), filepath.Join(moduleDir(t, "github.com/notaryproject/notation-go"), "verifier", "testdata", "timestamp", "countersignature", "*.p7s"),
		filepath.Join(moduleDir(t, "github.com/notaryproject/notation-core-go"), "internal", "timestamp", "testdata", "*.p7s")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) != 23+4+1 {
		t.Errorf("%d time stamps, expected 23, 4 and 1", len(files))
	}
	root := certificateFile(t, filepath.Join(tsp, "GlobalSignRootCA.crt"))
	e := w.engine(func(o *Options) {
		o.Trust.Stores = []policy.Store{{Name: "corp-tsa", Certificates: [][]byte{w.corp.Root().Raw}, TSA: [][]byte{root.Raw}}}
	})
	good := w.sign(w.corp, signing.NotaryOptions{})
	w.want("without any", e.Verify(t.Context(), w.artifact, good, off, tsaLeaf), "", "")
	said := map[string]bool{}
	for _, file := range files {
		token, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var parts map[string]any
		if err := json.Unmarshal(good.Payload, &parts); err != nil {
			t.Fatal(err)
		}
		parts["header"].(map[string]any)["io.cncf.notary.timestampSignature"] = base64.StdEncoding.EncodeToString(token)
		s := good
		s.Payload = rawJSON(parts)
		f := e.Verify(t.Context(), w.artifact, s, off, tsaLeaf)
		w.want(filepath.Base(file), f, verdict.NoTimestamp, "does not hold")
		said[f.Message] = true
		if !f.SignedAt.IsZero() {
			t.Errorf("%s: dates the signature to %s", filepath.Base(file), f.SignedAt)
		}
		// The time is read only of tokens about the signature they hang on; these are about the word "notation".
		at, ok := (&check{env: &envelope{countersignature: token, mark: []byte("notation")}}).countersigned()
		if ok && (at.Before(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)) || at.After(time.Now())) {
			t.Errorf("%s: of %s", filepath.Base(file), at)
		}
		if _, ok := (&check{env: &envelope{countersignature: token, mark: []byte("another word")}}).countersigned(); ok {
			t.Errorf("%s: is about any word", filepath.Base(file))
		}
	}
	if len(said) < 4 {
		t.Errorf("all are refused for %d reasons; expected those about form, content and signature", len(said))
	}
}

// TestConformanceVectors runs the two messages that notation-core-go holds its encoding against. Both are without a certificate, as their
// keys are made anew in each of its runs: they can be read, and are nobody's.
func TestConformanceVectors(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(moduleDir(t, "github.com/notaryproject/notation-core-go"), "signature")
	read := func(name string) map[string]any {
		raw, err := os.ReadFile(filepath.Join(dir, name, "testdata", "conformance.json"))
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	somebody, err := w.corp.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var chain [][]byte
	var listed []any
	for _, c := range somebody {
		chain, listed = append(chain, c.Raw), append(listed, c.Raw)
	}
	message := read("jws")
	bareJWS := rawJSON(message)
	message["header"].(map[string]any)["x5c"] = chain
	chainedJWS := rawJSON(message)

	bareCOSE, err := hex.DecodeString(read("cose")["expectedOutput"].(map[string]any)["cborHex"].(string))
	if err != nil {
		t.Fatal(err)
	}
	var signed gocose.Sign1Message
	if err := signed.UnmarshalCBOR(bareCOSE); err != nil {
		t.Fatal(err)
	}
	signed.Headers.RawUnprotected = nil
	signed.Headers.Unprotected[gocose.HeaderLabelX5Chain] = listed
	chainedCOSE, err := signed.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(precheckJWS(bareJWS), precheckCOSE(bareCOSE)); err != nil {
		t.Errorf("they cannot be read: %v", err)
	}
	for _, v := range []struct {
		name   string
		format oci.Format
		blob   []byte
		reason verdict.Reason
	}{
		{"JWS", oci.NotaryJWS, bareJWS, verdict.Malformed}, {"JWS with somebody's certificates", oci.NotaryJWS, chainedJWS, verdict.BadSignature},
		{"COSE", oci.NotaryCOSE, bareCOSE, verdict.Malformed}, {"COSE with somebody's certificates", oci.NotaryCOSE, chainedCOSE, verdict.BadSignature},
	} {
		w.want(v.name, w.engine().Verify(t.Context(), w.artifact, oci.Signature{Format: v.format, Payload: v.blob}, off, corpLeaf), v.reason, "")
	}
}

// TestTrustStoreVectors makes stores of the directories that notation-go tests its own with.
func TestTrustStoreVectors(t *testing.T) {
	dir := filepath.Join(moduleDir(t, "github.com/notaryproject/notation-go"), "verifier", "testdata", "truststore", "x509")
	ran := 0
	for name, fits := range map[string]bool{
		"ca/valid-trust-store": true, "ca/valid-trust-store-2": true, "ca/valid-trust-store-self-signed": true, "ca/trust-store-with-leaf-certs": false, "ca/trust-store-with-leaf-certs-in-single-file": false,
		"signingAuthority/valid-trust-store": true, "signingAuthority/valid-trust-store-2": true,
		"tsa/test-timestamp": true, "tsa/test-mismatch": true, "tsa/test-nonSelfIssued": false, "tsa/test-nonCA": false,
	} {
		files, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(name), "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", name, len(files), err)
		}
		var ders [][]byte
		for _, file := range files {
			read, err := corex509.ReadCertificateFile(file)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, c := range read {
				ders = append(ders, c.Raw)
			}
		}
		s := policy.Store{Name: "x", Certificates: ders}
		if strings.HasPrefix(name, "tsa/") {
			good := certificateFile(t, filepath.Join(dir, "ca", "valid-trust-store", "NotationTestRoot.pem"))
			s = policy.Store{Name: "x", Certificates: [][]byte{good.Raw}, TSA: ders}
		}
		if _, err := newStore(s); (err == nil) != fits {
			t.Errorf("%s: %v, and it fits: %v", name, err, fits)
		}
		ran++
	}
	if ran != 11 {
		t.Errorf("%d ran, expected 11", ran)
	}
}
