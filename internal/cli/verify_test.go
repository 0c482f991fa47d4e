package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	orascore "oras.land/oras-go/v2"
	oras "oras.land/oras-go/v2/registry/remote"

	embeddedchart "github.com/nopsctl/nopsctl/embedded-chart"
	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/internal/sigv4"
	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/verify/lock"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

const (
	profile        = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops"
	profileVersion = profile + "/AbCdEf1234"
	revokedJob     = "arn:aws:signer:us-east-1:123456789012:/signing-jobs/revoked"
)

// signed is a registry with images, each signed or not in its own way, whom to trust for them, and the API of revocations.
type signed struct {
	registry    string
	policy      string // file
	bundle      string // file with the certificate of the API
	revocations *signing.Revocations
	api         *httptest.Server
	digests     map[string]string // by "name:tag"
	// push pushes a chart, signed or not.
	push func(image string, chart []byte, signed bool)
	// before is asked about every request to the registry; true means that it has answered.
	before func(http.ResponseWriter, *http.Request) bool
}

func newSigned(t *testing.T, w *world) *signed {
	t.Helper()
	var s *signed
	stored := ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.before == nil || !s.before(w, r) {
			stored.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	key := sigv4.Key{AccessKeyID: "AKIASIGNER", SecretAccessKey: "signer-secret-canary"}
	s = &signed{registry: strings.TrimPrefix(server.URL, "http://"), digests: map[string]string{}, revocations: &signing.Revocations{
		Keys: func(string) (sigv4.Key, error) { return key, nil },
	}}
	s.revocations.Revoke(revokedJob, time.Time{})
	s.api = httptest.NewTLSServer(s.revocations)
	t.Cleanup(s.api.Close)
	w.env["AWS_ACCESS_KEY_ID"], w.env["AWS_SECRET_ACCESS_KEY"] = key.AccessKeyID, key.SecretAccessKey
	w.clock.now = time.Now() // certificates are made now

	ours, err := signing.NewAuthority(signing.AuthorityOptions{})
	must(t, err)
	theirs, err := signing.NewAuthority(signing.AuthorityOptions{})
	must(t, err)
	cosign, err := signing.NewCosignKey()
	must(t, err)
	push := func(image string, sign func(repository *oras.Repository, d ocispec.Descriptor)) {
		made, err := random.Image(64, 1)
		must(t, err)
		tag, err := name.NewTag(s.registry+"/nops/"+image, name.Insecure)
		must(t, err)
		must(t, remote.Write(tag, made))
		d, err := made.Digest()
		must(t, err)
		size, err := made.Size()
		must(t, err)
		mediaType, err := made.MediaType()
		must(t, err)
		s.digests[image] = d.String()
		repository, err := oras.NewRepository(tag.Context().String())
		must(t, err)
		repository.PlainHTTP = true
		if sign != nil {
			sign(repository, ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.Digest(d.String()), Size: size})
		}
	}
	notary := func(by *signing.Authority, job string) func(*oras.Repository, ocispec.Descriptor) {
		return func(repository *oras.Repository, d ocispec.Descriptor) {
			e, err := by.Sign(t.Context(), d, signing.NotaryOptions{SignedAt: time.Now(), Profile: profileVersion, Job: job})
			must(t, err)
			_, err = e.Push(t.Context(), repository, d)
			must(t, err)
		}
	}
	push("good:1", notary(ours, "arn:aws:signer:us-east-1:123456789012:/signing-jobs/one"))
	push("cosigned:1", func(r *oras.Repository, d ocispec.Descriptor) {
		_, err := cosign.SignCosign(t.Context(), r, "public.ecr.aws/nops/cosigned", d)
		must(t, err)
	})
	push("unsigned:1", nil)
	push("good:2", nil)
	push("foreign:1", notary(theirs, "arn:aws:signer:us-east-1:123456789012:/signing-jobs/two"))
	push("revoked:1", notary(ours, revokedJob))
	push("tampered:1", func(r *oras.Repository, d ocispec.Descriptor) { // the signature of another image, hung on this one
		e, err := ours.Sign(t.Context(), ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(s.digests["good:1"]), Size: d.Size}, signing.NotaryOptions{SignedAt: time.Now(), Profile: profileVersion, Job: "arn:aws:signer:us-east-1:123456789012:/signing-jobs/one"})
		must(t, err)
		_, err = e.Push(t.Context(), r, d)
		must(t, err)
	})

	s.push = func(image string, chart []byte, signed bool) {
		repository, err := oras.NewRepository(s.registry + "/nops/" + strings.Split(image, ":")[0])
		must(t, err)
		repository.PlainHTTP = true
		layer, err := orascore.PushBytes(t.Context(), repository, chartLayer, chart)
		must(t, err)
		d, err := orascore.PackManifest(t.Context(), repository, orascore.PackManifestVersion1_1, "application/vnd.cncf.helm.config.v1+json", orascore.PackManifestOptions{
			Layers: []ocispec.Descriptor{layer}, ManifestAnnotations: map[string]string{"tag": image},
		})
		must(t, err)
		must(t, repository.Tag(t.Context(), d, strings.Split(image, ":")[1]))
		s.digests[image] = d.Digest.String()
		if signed {
			notary(ours, "arn:aws:signer:us-east-1:123456789012:/signing-jobs/chart")(repository, d)
		}
	}

	dir := t.TempDir()
	s.policy, s.bundle = filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(filepath.Join(dir, "cosign.pub"), cosign.PublicPEM(), 0o600))
	must(t, os.WriteFile(s.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.api.Certificate().Raw}), 0o600))
	must(t, os.WriteFile(s.policy, []byte(`apiVersion: nopsctl.io/v1
kind: ImagePolicy
trust:
  awsSigner:
    roots: [{sha256: `+ours.RootFingerprint()+`}]
    endpoint: `+s.api.URL+`
images:
  - match: [public.ecr.aws/nops/cosigned]
    require: {cosignKey: {keyFile: cosign.pub, transparencyLog: false}}
  - match: [public.ecr.aws/nops/*]
    require: {awsSigner: {profiles: ["`+profile+`"]}}
    revocation: require
`), 0o600))
	return s
}

// args are the flags that every command here needs.
func (s *signed) args(args ...string) []string {
	return append(args, "--policy", s.policy, "--ca-bundle", s.bundle, "--registry-mirror", "public.ecr.aws="+s.registry)
}

const nops = "public.ecr.aws/nops/"

func TestVerifyImages(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	w.want(CodeOK, s.args("verify", nops+"good:1", nops+"cosigned:1")...)
	w.contains(w.out, "public.ecr.aws/nops/good:1", "verified", profile, "Signed by:")
	for _, c := range []struct {
		image   string
		outcome verdict.Outcome
		reason  verdict.Reason
	}{
		{"unsigned:1", verdict.Unsigned, verdict.SignaturesMissing}, // it comes from a mirror
		{"foreign:1", verdict.Untrusted, verdict.UntrustedRoot},
		{"tampered:1", verdict.Untrusted, verdict.WrongArtifact},
		{"revoked:1", verdict.Revoked, verdict.SignatureRevoked},
		{"absent:1", verdict.Unknown, verdict.NotFound},
	} {
		t.Run(c.image, func(t *testing.T) {
			w.t = t
			w.want(CodeVerification, s.args("verify", "-o", "json", nops+"good:1", nops+c.image)...)
			fits(t, "verify", w.out.String())
			var answer verifyAnswer
			must(t, json.Unmarshal([]byte(w.out.String()), &answer))
			if r := answer.Results[1]; r.Outcome != c.outcome || r.Reason != c.reason || r.Hint == "" || answer.Passed || answer.Error.ExitCode != int(CodeVerification) {
				t.Errorf("%s %s: %s\n%s", r.Outcome, r.Reason, r.Message, w.out)
			}
			if answer.Results[0].Outcome != verdict.Verified {
				t.Errorf("the good one is %s: %s", answer.Results[0].Outcome, answer.Results[0].Message)
			}
			w.want(CodeVerification, s.args("verify", nops+c.image)...)
			w.contains(w.out, string(c.outcome), nops+c.image)
			w.contains(w.errOut, nops+c.image)
		})
	}
	w.t = t
	if n := len(s.revocations.Requests()); n == 0 {
		t.Error("AWS was never asked about revocation")
	}
}

// TestVerifyRevocationUnknown: what cannot be asked refuses under require, and is said under best-effort.
func TestVerifyRevocationUnknown(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	s.revocations.Inject(signing.RevocationFault{Status: 403})
	w.want(CodeVerification, s.args("verify", nops+"good:1")...)
	w.contains(w.out, string(verdict.Unknown))
	text, err := os.ReadFile(s.policy)
	must(t, err)
	must(t, os.WriteFile(s.policy, []byte(strings.Replace(string(text), "revocation: require", "revocation: best-effort", 1)), 0o600))
	w.want(CodeOK, s.args("verify", nops+"good:1")...)
	w.contains(w.out, "not checked") // it passes, and is said
}

func TestVerifyNeedsAPolicy(t *testing.T) {
	w := newWorld(t)
	w.want(CodeUsage, "verify", nops+"good:1")
	w.contains(w.errOut, "nobody says who must have signed", "example-policy")
	w.want(CodeUsage, "install", "--api-key", personKey, "--verify", "enforce")
	w.contains(w.errOut, "needs a policy")
	w.want(CodeUsage, "verify", "--policy", "nowhere.yaml", nops+"good:1")
	w.contains(w.errOut, "nowhere.yaml")
	// An unset variable in a script is no way to switch verification off, and neither is a link that leads nowhere.
	w.want(CodeUsage, "install", "--api-key", personKey, "--policy", "")
	w.contains(w.errOut, "--policy is empty")
	w.want(CodeUsage, "install", "--api-key", personKey, "--lock", "")
	w.contains(w.errOut, "--lock is empty")
	home := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(home, "nopsctl"), 0o700))
	must(t, os.Symlink(filepath.Join(home, "gone.yaml"), filepath.Join(home, "nopsctl", "policy.yaml")))
	w.env["XDG_CONFIG_HOME"] = home
	w.want(CodeUsage, "install", "--api-key", personKey)
	w.contains(w.errOut, "policy.yaml")
	delete(w.env, "XDG_CONFIG_HOME")
	w.want(CodeUsage, "install", "--api-key", personKey, "--verify", "maybe")
	w.contains(w.errOut, "enforce, warn or off")
}

// TestPolicyWarnings: what a policy allows and probably does not mean is said by whoever reads it, and changes nothing.
func TestPolicyWarnings(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	text, err := os.ReadFile(s.policy)
	must(t, err)
	must(t, os.WriteFile(s.policy, append(text, "  - match: [public.ecr.aws/nops/good]\n    require: {cosignKey: {keyFile: cosign.pub}}\n"...), 0o600))
	w.want(CodeOK, s.args("verify", nops+"good:1")...)
	w.contains(w.errOut, warnPolicy, "policy.yaml", "line 1")
	w.want(CodeOK, s.args("install", "--api-key", personKey, "--skip-connectivity", "--yes")...)
	w.contains(w.errOut, warnPolicy)
}

// TestUsersPolicy is found where a user keeps it, and by the environment, which goes before.
func TestUsersPolicy(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	home := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(home, ".config", "nopsctl"), 0o700))
	for _, file := range []string{"policy.yaml", "cosign.pub"} {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(s.policy), file))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(home, ".config", "nopsctl", file), data, 0o600))
	}
	rest := []string{"--ca-bundle", s.bundle, "--registry-mirror", "public.ecr.aws=" + s.registry}
	w.env["HOME"] = home
	w.want(CodeOK, append([]string{"verify", nops + "cosigned:1"}, rest...)...)
	if found, err := filepath.Glob(filepath.Join(home, ".cache", "nopsctl", "verified", "*.json")); err != nil || len(found) != 1 {
		t.Errorf("what was verified is not remembered: %v %v", found, err)
	}
	w.env[EnvPolicy] = "nowhere.yaml"
	w.want(CodeUsage, append([]string{"verify", nops + "cosigned:1"}, rest...)...)
}

func TestVerifyRunning(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	// The tag means something good by now; what runs is what was pulled then.
	w.engine.live = &install.LiveImages{
		Declared: []install.DeclaredImage{{Reference: nops + "good:1"}},
		Running:  []install.RunningImage{{Pod: "nops/a", Container: "a", Reference: nops + "good:1", Digest: s.digests["good:2"]}, {Pod: "nops/b", Container: "b", Reference: nops + "cosigned:1", Digest: s.digests["cosigned:1"]}},
	}
	w.want(CodeOK, s.args("verify", "--release")...)
	w.want(CodeVerification, s.args("verify", "--running", "-o", "json")...)
	var answer verifyAnswer
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	if answer.Of != "running" || len(answer.Results) != 2 || answer.Results[0].Passed() || answer.Results[0].Digest != s.digests["good:2"] || !answer.Results[1].Passed() {
		t.Errorf("%s", w.out)
	}
	w.want(CodeUsage, s.args("verify", "--running", nops+"good:1")...)
}

// TestInstallAdmits gives the engine an Admission that pins what passes and refuses what does not.
func TestInstallAdmits(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	install := func(more ...string) []string {
		return s.args(append([]string{"install", "--api-key", personKey, "--skip-connectivity", "--yes"}, more...)...)
	}
	good, bad := nops+"good:1", nops+"unsigned:1"
	ask := func() map[string]bool {
		t.Helper()
		all, err := references([]string{good, bad})
		must(t, err)
		result, err := w.engine.last().Admission.Admit(context.Background(), all)
		must(t, err)
		return map[string]bool{"enforced": result.Enforced, "good": result.Images[0].Admitted.Valid(), "bad": result.Images[1].Admitted.Valid()}
	}
	w.want(CodeOK, install()...)
	if got := ask(); !got["enforced"] || !got["good"] || got["bad"] {
		t.Errorf("with a policy: %v", got)
	}
	w.want(CodeOK, install("--verify=warn")...)
	if got := ask(); got["enforced"] || !got["good"] || !got["bad"] {
		t.Errorf("--verify=warn: %v", got)
	}
	w.want(CodeOK, install("--verify=off", "--allow-downgrade")...)
	if w.engine.last().Admission != nil || !w.engine.last().AllowDowngrade {
		t.Errorf("--verify=off: %v", w.engine.last())
	}
	w.contains(w.errOut, "NOPS-SIG-002", "--verify=off")
	w.want(CodeOK, "install", "--api-key", personKey, "--skip-connectivity", "--yes")
	if w.engine.last().Admission != nil {
		t.Error("without a policy something is verified")
	}
	w.contains(w.errOut, "NOPS-SIG-002", "no policy says", "example-policy")
}

func TestExamplePolicy(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "verify", "example-policy", "--profile-arn", profile)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	must(t, os.WriteFile(file, []byte(w.out.String()), 0o600))
	_, err := w.f.loadPolicy(file)
	must(t, err)
	w.want(CodeUsage, "verify", "example-policy", "--profile-arn", "nops")
	w.want(CodeOK, "verify", "example-policy")
	must(t, os.WriteFile(file, []byte(w.out.String()), 0o600))
	if _, err := w.f.loadPolicy(file); CodeOf(err) != CodeUsage {
		t.Errorf("a policy with a place holder is taken: %v", err)
	}
}

func TestImagesList(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "images", "list", "--offline", "-o", "json")
	fits(t, "images-list", w.out.String())
	var answer imagesAnswer
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	if len(answer.Images) < 4 {
		t.Errorf("%s", w.out)
	}
	w.want(CodeOK, "images", "list", "--offline", "--set", "containerInsights.enabled=false", "-o", "json")
	var fewer imagesAnswer
	must(t, json.Unmarshal([]byte(w.out.String()), &fewer))
	if len(fewer.Images) == 0 || len(fewer.Images) >= len(answer.Images) {
		t.Errorf("%d images without container insights, %d with", len(fewer.Images), len(answer.Images))
	}
	s := newSigned(t, w)
	w.want(CodeCheckFailed, s.args("images", "list")...) // that registry has none of them
	w.contains(w.out, "no such image")
}

// TestStatusSaysWhoSigned, and what runs that nobody verified.
func TestStatusSaysWhoSigned(t *testing.T) {
	w := newWorld(t)
	w.want(CodeOK, "status")
	w.contains(w.out, "1 image", "/signing-profiles/nops/")
	w.engine.status = healthy()
	w.engine.status.Components[1].Workloads[0].Images[0].Digest = "sha256:" + strings.Repeat("f", 64)
	w.want(CodeOK, "status")
	w.contains(w.out, "heartbeat              runs sha256:ffffffffffff, which is not what was verified")
	for basis, want := range map[string]string{"warning": "! 1 image                nobody: let in by --verify=warn", "exception": "! 1 image                nobody: let in by an exception of the policy", "odd": "! 1 image                nobody (odd)"} {
		w.engine.status = healthy()
		w.engine.status.Pinned[0].Basis = basis // its identity is only what its signature claims
		w.want(CodeOK, "status")
		w.contains(w.out, want)
	}
	w.engine.status.Pinned = nil
	w.want(CodeOK, "status")
	w.contains(w.out, "not verified: it was installed without a policy")
}

// TestLock writes what was verified, and gives it to the engine; one that cannot be read, or would not be used, is refused.
func TestLock(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	file := filepath.Join(t.TempDir(), lock.FileName)
	w.want(CodeVerification, s.args("verify", "--write-lock", file, nops+"good:1", nops+"unsigned:1")...)
	if _, err := os.Stat(file); err == nil {
		t.Error("a lock was written of what does not verify")
	}
	w.want(CodeOK, s.args("verify", "--write-lock", file, nops+"good:1", nops+"cosigned:1")...)
	base := []string{"install", "--api-key", personKey, "--skip-connectivity", "--yes", "--lock", file}
	w.want(CodeOK, s.args(base...)...)
	if l := w.engine.last().Lock; l == nil || len(l.Images) != 2 || l.Images[1].Digest != s.digests["good:1"] || l.Images[1].SignedAt.IsZero() {
		t.Errorf("%+v", w.engine.last().Lock)
	}
	w.want(CodeUsage, s.args(append(base, "--verify=off")...)...)
	w.want(CodeUsage, base...)
	w.contains(w.errOut, "--lock needs a policy")
	must(t, os.WriteFile(file, []byte("kind: Something"), 0o600))
	w.want(CodeUsage, s.args(base...)...)
	w.contains(w.errOut, "--lock "+file)
}

// TestChart installs a chart from a registry that verifies, by the digest that did; refuses one that does not; and takes a
// directory and an archive as they are.
func TestChart(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	packed := packedChart(t)
	s.push("chart:1", packed, true)
	s.push("chart:2", packed, false)
	install := func(chart string, more ...string) []string {
		return s.args(append([]string{"install", "--api-key", personKey, "--skip-connectivity", "--yes", "--chart", chart}, more...)...)
	}
	w.want(CodeOK, install("oci://"+nops+"chart:1")...)
	w.contains(w.errOut, "Fetching the chart", s.digests["chart:1"], "signed by "+profile)
	data, err := fs.ReadFile(w.engine.options.Chart, "Chart.yaml")
	must(t, err)
	if a := w.engine.last().ChartArtifact; !strings.Contains(string(data), "name: kubernetes-agent") || !a.Valid() || a.Digest() != s.digests["chart:1"] {
		t.Errorf("installed with %s\n%s", a, data)
	}
	plans := len(w.engine.requests)
	w.want(CodeVerification, install("oci://"+nops+"chart:2")...)
	w.contains(w.errOut, "nothing was changed", nops+"chart:2", string(verdict.Unsigned))
	w.want(CodeUsage, install("oci://"+nops+"good:1")...)
	w.contains(w.errOut, "holds no Helm chart")
	w.want(CodeCheckFailed, install("oci://"+nops+"chart:9", "--verify=off")...)
	w.want(CodeUsage, install("nowhere.tgz")...)
	if len(w.engine.requests) != plans {
		t.Error("something was installed")
	}
	w.want(CodeOK, install("oci://"+nops+"chart:2", "--verify=warn")...)
	w.contains(w.errOut, warnChart, "is not verified")
	archive := filepath.Join(t.TempDir(), "chart.tgz")
	must(t, os.WriteFile(archive, packed, 0o600))
	w.want(CodeOK, install(archive)...)
	w.want(CodeOK, install(filepath.Join("..", "..", "embedded-chart", "chart"))...)
}

// TestChartIsWhatWasVerified: a registry that serves another chart's signature, other bytes, or another chart by the time that
// it is read.
func TestChartIsWhatWasVerified(t *testing.T) {
	packed := packedChart(t)
	for _, tt := range []struct {
		name   string
		code   Code
		says   string
		attack func(t *testing.T, s *signed)
	}{
		{"as it was signed", CodeOK, "signed by " + profile, func(*testing.T, *signed) {}},
		{"the signature of another chart", CodeVerification, string(verdict.Untrusted), func(t *testing.T, s *signed) {
			s.push("chart:2", append(bytes.Clone(packed), 0), false)
			was, is := s.digests["chart:1"], s.digests["chart:2"]
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				// What hangs on the signed chart is said to hang on the other, which the tag means now.
				r.URL.Path = strings.NewReplacer("referrers/"+is, "referrers/"+was, "manifests/1", "manifests/2").Replace(r.URL.Path)
				return false
			}
		}},
		{"other bytes for what was signed", CodeVerification, "serves bytes with", func(_ *testing.T, s *signed) {
			other := append(bytes.Clone(packed[:len(packed)-1]), packed[len(packed)-1]^1)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromBytes(packed).String()) {
					return false
				}
				_, _ = w.Write(other)
				return true
			}
		}},
		{"a registry that is gone", CodeVerification, "nothing was changed", func(_ *testing.T, s *signed) {
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
		}},
		{"a tag that moves once it was looked at", CodeOK, "signed by " + profile, func(t *testing.T, s *signed) {
			s.push("chart:2", evilChart(t), false)
			looked := false
			s.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/chart/manifests/1") {
					if looked {
						r.URL.Path = strings.TrimSuffix(r.URL.Path, "1") + "2"
					}
					looked = true
				}
				return false
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := newSigned(t, w)
			s.push("chart:1", packed, true)
			tt.attack(t, s)
			w.want(tt.code, s.args("install", "--api-key", personKey, "--skip-connectivity", "--yes", "--chart", "oci://"+nops+"chart:1")...)
			w.contains(w.errOut, tt.says)
			if tt.code != CodeOK {
				if len(w.engine.requests) > 0 {
					t.Error("something was planned")
				}
				return
			}
			data, err := fs.ReadFile(w.engine.options.Chart, "Chart.yaml")
			must(t, err)
			if a := w.engine.last().ChartArtifact; a.Digest() != s.digests["chart:1"] || strings.Contains(string(data), "evil") {
				t.Errorf("installed with %s\n%s", a, data)
			}
		})
	}
}

// evilChart is another chart.
func evilChart(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	text := "apiVersion: v2\nname: evil\nversion: 0.1.0\n"
	must(t, archive.WriteHeader(&tar.Header{Name: "evil/Chart.yaml", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(archive, text)
	must(t, err)
	must(t, archive.Close())
	must(t, zip.Close())
	return out.Bytes()
}

// packedChart is the embedded chart as helm package makes it.
func packedChart(t *testing.T) []byte {
	t.Helper()
	chart, err := embeddedchart.FS()
	must(t, err)
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	must(t, fs.WalkDir(chart, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(chart, path)
		must(t, err)
		must(t, archive.WriteHeader(&tar.Header{Name: "kubernetes-agent/" + path, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err = archive.Write(data)
		return err
	}))
	must(t, archive.Close())
	must(t, zip.Close())
	return out.Bytes()
}

// TestInspect shows who signed, and calls nobody trusted: it needs no policy.
func TestInspect(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	mirror := "public.ecr.aws=" + s.registry
	w.want(CodeOK, "verify", "inspect", "--registry-mirror", mirror, nops+"good:1")
	w.contains(w.out, profileVersion, "signing-jobs/one", "CN=AWS Signer", "trusts nobody")
	w.want(CodeOK, "verify", "inspect", "--registry-mirror", mirror, nops+"good:1", "-o", "json")
	fits(t, "inspect", w.out.String())
	w.want(CodeOK, "verify", "inspect", "--registry-mirror", mirror, nops+"cosigned:1")
	w.contains(w.out, "made with a key")
	w.want(CodeOK, "verify", "inspect", "--registry-mirror", mirror, nops+"tampered:1")
	w.contains(w.out, "about another artifact", s.digests["good:1"])
	w.want(CodeOK, "verify", "inspect", "--registry-mirror", mirror, nops+"unsigned:1")
	w.contains(w.out, "no signature")
	w.want(CodeVerification, "verify", "inspect", "--registry-mirror", mirror, nops+"absent:1")
	w.want(CodeUsage, "verify", "inspect")
}

// TestImagesMirror carries images over a directory into another registry, where they verify without asking AWS, and refuses to
// carry what the policy does not let pass.
func TestImagesMirror(t *testing.T) {
	w := newWorld(t)
	s := newSigned(t, w)
	bundle := "oci:" + filepath.Join(t.TempDir(), "bundle")
	w.want(CodeOK, s.args("images", "mirror", "--to", bundle, "-o", "json", nops+"good:1", nops+"cosigned:1")...)
	fits(t, "images-mirror", w.out.String())
	var answer mirrorAnswer
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	for _, i := range answer.Images {
		if i.Signatures != 1 || i.Sent == 0 || i.Digest != s.digests[strings.TrimPrefix(i.Reference, nops)] || i.Outcome != string(verdict.Verified) {
			t.Errorf("%+v", i)
		}
	}
	// There, AWS cannot be asked: the evidence in the directory answers.
	s.api.Close()
	policy, err := os.ReadFile(s.policy)
	must(t, err)
	evidence := filepath.Join(strings.TrimPrefix(bundle, "oci:"), answer.Evidence)
	must(t, os.WriteFile(s.policy, []byte(strings.Replace(string(policy), "    endpoint:", "    evidenceFile: "+evidence+"\n    endpoint:", 1)), 0o600))
	other := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(false), ggcr.Logger(log.New(io.Discard, "", 0))))
	defer other.Close()
	to := strings.TrimPrefix(other.URL, "http://") + "/copy"
	w.want(CodeOK, "images", "mirror", "--from", bundle, "--to", to, "--policy", s.policy, "--ca-bundle", s.bundle)
	w.contains(w.out, "good:1", "1 signature,")
	w.want(CodeOK, "verify", "--policy", s.policy, "--ca-bundle", s.bundle, "--registry-mirror", "public.ecr.aws="+to, nops+"good:1", nops+"cosigned:1")
	w.want(CodeOK, "images", "mirror", "--from", bundle, "--to", to, "--policy", s.policy, "--ca-bundle", s.bundle, "-o", "json")
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	for _, i := range answer.Images {
		if i.Sent != 0 {
			t.Errorf("sent again: %+v", i)
		}
	}
	w.want(CodeVerification, s.args("images", "mirror", "--to", to+"2", nops+"unsigned:1")...)
	// With a warning it is copied all the same, signature and all.
	w.want(CodeOK, s.args("images", "mirror", "--verify=warn", "--to", to+"3", nops+"unsigned:1", nops+"tampered:1", "-o", "json")...)
	must(t, json.Unmarshal([]byte(w.out.String()), &answer))
	for _, i := range answer.Images {
		if i.Sent == 0 || i.Digest == "" || i.Problem == "" || i.Outcome == string(verdict.Verified) {
			t.Errorf("%+v", i)
		}
	}
	w.want(CodeUsage, "verify", "--policy", s.policy, "--registry-mirror", "public.ecr.aws=https://x", nops+"good:1")
	w.want(CodeUsage, "images", "mirror", nops+"good:1")
	w.contains(w.errOut, "--to")
	w.want(CodeUsage, "images", "mirror", "--to", "https://registry", nops+"good:1")
	w.want(CodeUsage, "images", "mirror", "--to", to, nops+"good:1", "docker.io/library/nginx:1")
	w.contains(w.errOut, "several registries")
	w.want(CodeOK, "images", "mirror", "--to", "registry.example.com/p", "--print")
	w.contains(w.out, "public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0 registry.example.com/p/nops/k8s-heartbeat-agent:0.1.0")
}

// fits holds an answer against its documented schema.
func fits(t *testing.T, name, text string) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	must(t, err)
	if err := answerSchema(t, name).Validate(v); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}
