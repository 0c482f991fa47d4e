package platform_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/signer"
	"github.com/aws/smithy-go"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/lab/platform"
	"github.com/nopsctl/nopsctl/lab/sign"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// ask asks AWS Signer with AWS's own client, under the real name, through the lab's proxy: as whoever verifies outside does.
func ask(t *testing.T, tr http.RoundTripper, id, secret string, chain []*x509.Certificate, job string) ([]string, error) {
	t.Helper()
	client := signer.New(signer.Options{
		Region: "us-east-1", HTTPClient: &http.Client{Transport: tr}, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, nil
		}),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	out, err := client.GetRevocationStatus(ctx, &signer.GetRevocationStatusInput{
		CertificateHashes: signing.RevocationHashes(chain), JobArn: aws.String(job), PlatformId: aws.String(signing.RevocationPlatform),
		ProfileVersionArn: aws.String(sign.Profile + "/v1"), SignatureTimestamp: aws.Time(time.Now()),
	})
	if err != nil {
		return nil, err
	}
	return out.RevokedEntities, nil
}

func TestSigner(t *testing.T) {
	r := run(t, platform.Options{})
	keys, err := sign.Open(filepath.Join(r.options.CacheDir, "signing"))
	if err != nil {
		t.Fatal(err)
	}
	// What is asked about is a real signature in the lab's registry, of which the registry's own port tells the job.
	program := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(program, []byte("a static binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	shelf := images.Registry{Host: r.Addresses.Registry, Insecure: true}
	digest, _, err := shelf.Ensure(t.Context(), images.Spec{Repository: "nops/agent", Tag: "1", Program: program, Name: "agent"}, "")
	if err != nil {
		t.Fatal(err)
	}
	memo := t.TempDir()
	for _, method := range []policy.Method{policy.MethodAWSSigner, policy.MethodCosignKey} {
		if signed, err := keys.Ensure(t.Context(), shelf, "nops/agent", digest, method, memo); err != nil || !signed {
			t.Fatalf("%s: signed %v, %v", method, signed, err)
		}
	}
	jobs, err := sign.Jobs(t.Context(), shelf, "nops/agent", digest)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("jobs %q, %v", jobs, err)
	}
	if tag, err := shelf.Has(t.Context(), "nops/agent", strings.Replace(digest, ":", "-", 1)); err != nil || tag {
		t.Errorf("a list of signatures under a fallback tag: %v, %v; this registry knows referrers, and says so", tag, err)
	}
	chain, err := keys.AWS.Chain(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tr := r.transport(t)
	expect := func(when string, revoked bool) {
		t.Helper()
		got, err := ask(t, tr, r.AWSAccessKeyID, r.AWSSecretAccessKey, chain, jobs[0])
		if err != nil || (len(got) == 1 && got[0] == jobs[0]) != revoked || !revoked && len(got) > 0 {
			t.Errorf("%s: revoked %q, %v; want revoked: %v", when, got, err, revoked)
		}
	}
	expect("at first", false)
	var answer smithy.APIError
	for _, tt := range []struct{ name, id, secret, code string }{
		{"another secret", r.AWSAccessKeyID, strings.Repeat("x", 40), "InvalidSignatureException"},
		{"another key", "AKIAAAAAAAAAAAAAAAAA", r.AWSSecretAccessKey, "UnrecognizedClientException"},
		{"no key at all", "", "", "MissingAuthenticationTokenException"},
	} {
		_, err := ask(t, tr, tt.id, tt.secret, chain, jobs[0])
		if tt.id == "" { // the SDK refuses to sign with nothing; a request without a signature is made by hand
			res, err := (&http.Client{Transport: tr}).Get("https://data-signer.us-east-1.amazonaws.com/revocations")
			if err != nil || res.StatusCode != http.StatusForbidden || res.Header.Get("X-Amzn-Errortype") != tt.code {
				t.Errorf("%s: %v, %v; want %s", tt.name, res, err, tt.code)
			}
			if err == nil {
				res.Body.Close()
			}
			continue
		}
		if !errors.As(err, &answer) || answer.ErrorCode() != tt.code {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
	for _, wrong := range []string{"", "nops/agent:1", "arn:aws:s3:::bucket"} {
		if err := r.control.Revoke(t.Context(), wrong, true); err == nil {
			t.Errorf("%q was revoked", wrong)
		}
	}
	if err := r.control.Revoke(t.Context(), jobs[0], true); err != nil {
		t.Fatal(err)
	}
	expect("revoked", true)

	r.fault(t, platform.FaultSigner, "503")
	if _, err := ask(t, tr, r.AWSAccessKeyID, r.AWSSecretAccessKey, chain, jobs[0]); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("with a fault: %v, want its status", err)
	}
	r.fault(t, platform.FaultSigner, "down")
	if _, err := ask(t, tr, r.AWSAccessKeyID, r.AWSSecretAccessKey, chain, jobs[0]); err == nil || errors.As(err, &answer) {
		t.Errorf("down: %v, want no answer at all", err)
	}
	r.fault(t, platform.FaultSigner, "slow")
	if _, err := ask(t, tr, r.AWSAccessKeyID, r.AWSSecretAccessKey, chain, jobs[0]); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v, want nobody to wait that long", err)
	}
	if err := r.control.Fault(t.Context(), platform.FaultSigner, "sideways"); err == nil || !strings.Contains(err.Error(), "slow") {
		t.Errorf("no such state: %v, want the states that there are", err)
	}
	if err := r.control.Fault(t.Context(), platform.FaultRegistry, "slow"); err == nil {
		t.Error("a registry cannot be slow")
	}
	r.fault(t, platform.FaultSigner, "up")
	expect("up again", true)
	before, err := r.control.Info(t.Context())
	if err != nil || len(before.Revoked) != 1 || before.Signer.Revoked != 2 || before.Signer.Refused["InvalidSignatureException"] != 1 {
		t.Errorf("revoked %q, counts %+v, %v", before.Revoked, before.Signer, err)
	}
	r.stop()

	// What was revoked and whose key it is survive a restart, and so do signatures: nothing is signed again.
	again := run(t, platform.Options{StateDir: r.options.StateDir, CacheDir: r.options.CacheDir})
	if again.AWSSecretAccessKey != r.AWSSecretAccessKey || r.AWSSecretAccessKey == "" {
		t.Error("another key pair after the restart")
	}
	tr = again.transport(t)
	expect("after a restart", true)
	shelf.Host = again.Addresses.Registry
	for _, method := range []policy.Method{policy.MethodAWSSigner, policy.MethodCosignKey} {
		if signed, err := keys.Ensure(t.Context(), shelf, "nops/agent", digest, method, memo); err != nil || signed {
			t.Errorf("%s after the restart: signed %v, %v", method, signed, err)
		}
	}
	if err := again.control.Revoke(t.Context(), jobs[0], false); err != nil {
		t.Fatal(err)
	}
	expect("taken back", false)
}

func TestRegistryDown(t *testing.T) {
	r := run(t, platform.Options{})
	tr := r.transport(t)
	ping := func() error {
		res, err := (&http.Client{Transport: tr}).Get("https://public.ecr.aws/v2/")
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	r.fault(t, platform.FaultRegistry, "down")
	if err := ping(); err == nil {
		t.Error("public.ecr.aws answers while it is down")
	}
	// The nodes pull from another address, and pushes go to a third.
	for _, address := range []string{r.Addresses.Registry, r.Addresses.RegistryNodes} {
		if text := request(t, http.DefaultTransport, http.MethodGet, "http://"+address+"/v2/", ""); len(text) > 100 {
			t.Errorf("%s: %s", address, text)
		}
	}
	r.fault(t, platform.FaultRegistry, "up")
	if err := ping(); err != nil {
		t.Errorf("up again: %v", err)
	}
}
