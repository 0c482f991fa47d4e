package mirror_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/cosign"
	"github.com/nopsctl/nopsctl/pkg/verify/mirror"
	"github.com/nopsctl/nopsctl/pkg/verify/notary"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/oci/ocitest"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// TestVerifiesAfterwards: real signatures, made by the libraries that make them elsewhere, are good where they were made, in the
// layout, and in a registry of another name that knows no referrers.
func TestVerifiesAfterwards(t *testing.T) {
	ctx := t.Context()
	const profile = "arn:aws:signer:us-east-1:123456789012:/signing-profiles/nops_agents"
	authority, err := signing.NewAuthority(signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.NewCosignKey()
	if err != nil {
		t.Fatal(err)
	}
	r, far := ocitest.New(t, true), ocitest.New(t, false)
	image := r.Image(t, repo, "1.0.0", "one", nil)
	at, err := remote.NewRepository(r.Host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	at.PlainHTTP = true
	envelope, err := authority.Sign(ctx, image, signing.NotaryOptions{Profile: profile + "/AbCdEfGhIj", Job: "arn:aws:signer:us-east-1:123456789012:/signing-jobs/8ad1f3a9-1111-4222-8333-444455556666"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envelope.Push(ctx, at, image); err != nil {
		t.Fatal(err)
	}
	canonical := ref.Reference{Registry: "public.ecr.aws", Repository: repo, Tag: "1.0.0"}
	if _, err := key.SignCosign(ctx, at, canonical.Name(), image); err != nil {
		t.Fatal(err)
	}
	if _, err := key.SignCosignBundle(ctx, at, canonical.Name(), image); err != nil {
		t.Fatal(err)
	}

	byNotary, err := notary.New(notary.Options{Trust: policy.Trust{AWSSigner: policy.AWSSigner{Roots: []string{authority.RootFingerprint()}}}})
	if err != nil {
		t.Fatal(err)
	}
	byCosign, err := cosign.New(cosign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rule := policy.Rule{Revocation: policy.RevocationOff}
	verify := func(where string, s oci.Source, from ref.Reference) {
		t.Helper()
		a, err := s.Resolve(ctx, canonical, from)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		found, err := s.Signatures(ctx, a)
		if err != nil || len(found.Failed)+len(found.Broken) > 0 {
			t.Fatalf("%s: %+v, %v", where, found, err)
		}
		got := map[string]verdict.Outcome{}
		for _, one := range found.Found {
			leaf := policy.Leaf{Method: policy.MethodCosignKey, Key: key.PublicPEM()}
			if one.Format == oci.NotaryJWS {
				leaf = policy.Leaf{Method: policy.MethodAWSSigner, Profiles: []string{profile}}
				got[string(one.Format)] = byNotary.Verify(ctx, a, one, rule, leaf).Outcome
				continue
			}
			got[string(one.Format)] = byCosign.Verify(ctx, a, one, rule, leaf).Outcome
		}
		if diff := cmp.Diff(map[string]verdict.Outcome{"notary-jws": verdict.Verified, "cosign": verdict.Verified, "sigstore-bundle": verdict.Verified}, got); diff != "" {
			t.Errorf("%s: %s", where, diff)
		}
	}
	s := oci.New(oci.Options{Prefer: []string{authority.RootFingerprint()}})
	verify("where it was signed", s, r.Ref(repo, "1.0.0"))

	dir := filepath.Join(t.TempDir(), "layout")
	l, err := mirror.ToLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := mirror.Copy(ctx, s, l, []mirror.Item{{Canonical: canonical, From: r.Ref(repo, "1.0.0"), To: canonical}}, mirror.Options{}); err != nil {
		t.Fatal(err)
	}
	shelf, err := oci.OpenLayout(dir, oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer shelf.Close()
	verify("in the layout", shelf, canonical)

	if _, err := mirror.Copy(ctx, shelf, mirror.ToRegistry(s), []mirror.Item{{Canonical: canonical, From: canonical, To: far.Ref(there, "1.0.0")}}, mirror.Options{}); err != nil {
		t.Fatal(err)
	}
	verify("in the registry far away", s, far.Ref(there, "1.0.0"))
}
