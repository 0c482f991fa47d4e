package notary

import (
	"testing"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// TestAccept: that the library says so is not enough. What it says must be about all that was to be checked, and about what was read here.
func TestAccept(t *testing.T) {
	w := newWorld(t)
	read := func(s oci.Signature) *signature.EnvelopeContent {
		parsed, err := signature.ParseEnvelope("application/jose+json", s.Payload)
		if err != nil {
			t.Fatal(err)
		}
		content, err := parsed.Verify()
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	sig := w.sign(w.aws, awsSigned())
	other := w.sign(w.aws, awsSigned(func(o *signing.NotaryOptions) { o.Job += "0" }))
	passed := func(types ...trustpolicy.ValidationType) *notation.VerificationOutcome {
		o := &notation.VerificationOutcome{EnvelopeContent: read(sig)}
		for _, kind := range types {
			o.VerificationResults = append(o.VerificationResults, &notation.ValidationResult{Type: kind, Action: trustpolicy.ActionEnforce})
		}
		return o
	}
	const integrity, authenticity, stamped, expiry, revoked = trustpolicy.TypeIntegrity, trustpolicy.TypeAuthenticity, trustpolicy.TypeAuthenticTimestamp, trustpolicy.TypeExpiry, trustpolicy.TypeRevocation
	with := func(o *notation.VerificationOutcome, change func(*notation.VerificationOutcome)) *notation.VerificationOutcome {
		change(o)
		return o
	}
	unknown := &UnansweredError{Reason: verdict.RevocationUnknown, Message: "nobody answers"}
	for _, tc := range []struct {
		name    string
		outcome *notation.VerificationOutcome
		rule    policy.Rule
		said    string
		unknown *UnansweredError
		reason  verdict.Reason
	}{
		{"all", passed(integrity, authenticity, stamped, expiry, revoked), require, "not revoked", nil, ""},
		{"all, revocation off", passed(integrity, authenticity, stamped, expiry), off, "", nil, ""},
		{"nothing", nil, require, "not revoked", nil, verdict.Malformed},
		{"no envelope", &notation.VerificationOutcome{}, require, "not revoked", nil, verdict.Malformed},
		{"no check", passed(), require, "not revoked", nil, verdict.Malformed},
		{"no integrity", passed(authenticity, stamped, expiry, revoked), require, "not revoked", nil, verdict.Malformed},
		{"no authenticity", passed(integrity, stamped, expiry, revoked), require, "not revoked", nil, verdict.Malformed},
		{"no time", passed(integrity, authenticity, expiry, revoked), require, "not revoked", nil, verdict.Malformed},
		{"no expiry", passed(integrity, authenticity, stamped, revoked), require, "not revoked", nil, verdict.Malformed},
		{"no revocation", passed(integrity, authenticity, stamped, expiry), require, "not revoked", nil, verdict.Malformed},
		{"no revocation, best effort", passed(integrity, authenticity, stamped, expiry), best, "not revoked", nil, verdict.Malformed},
		{"another envelope", with(passed(integrity, authenticity, stamped, expiry, revoked), func(o *notation.VerificationOutcome) { o.EnvelopeContent = read(other) }), require, "not revoked", nil, verdict.Malformed},
		{"a failure that was only logged", with(passed(integrity, authenticity, stamped, expiry, revoked), func(o *notation.VerificationOutcome) {
			o.VerificationResults[1].Error, o.VerificationResults[1].Action = errNoKey, trustpolicy.ActionLog
		}), best, "not revoked", nil, verdict.Malformed},
		{"revocation that failed, and nobody knows why", with(passed(integrity, authenticity, stamped, expiry, revoked), func(o *notation.VerificationOutcome) {
			o.VerificationResults[4].Error, o.VerificationResults[4].Action = errNoKey, trustpolicy.ActionLog
		}), best, "not revoked", nil, verdict.Malformed},
		{"revocation of which nothing was said", passed(integrity, authenticity, stamped, expiry, revoked), require, "", nil, verdict.RevocationUnknown},
		{"revocation of which nothing was said, best effort", passed(integrity, authenticity, stamped, expiry, revoked), best, "", nil, verdict.RevocationUnknown},
		{"unknown, where it must be known", passed(integrity, authenticity, stamped, expiry, revoked), require, "", unknown, verdict.RevocationUnknown},
		{"unknown, best effort", passed(integrity, authenticity, stamped, expiry, revoked), best, "", unknown, ""},
	} {
		env, fail := open(sig, nil)
		if fail != nil {
			t.Fatal(fail.Message)
		}
		c := &check{e: w.engine(), a: w.artifact, s: sig, rule: tc.rule, leaf: awsLeaf, env: env, revocation: tc.said, unknown: tc.unknown}
		f := c.accept(t.Context(), tc.outcome)
		f.Identity, f.Revocation = c.identity(), c.revocation
		w.want(tc.name, f, tc.reason, "")
	}
}
