package notary

import (
	"context"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/plugin"
	pluginframework "github.com/notaryproject/notation-plugin-framework-go/plugin"
	"golang.org/x/mod/semver"

	"github.com/nopsctl/nopsctl/pkg/verify/policy"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Names in AWS Signer's signatures.
const (
	pluginName = "com.amazonaws.signer.notation.plugin"
	// pluginVersion is the version of AWS's plugin whose checks are made here, and since when signatures with aliases besides.
	pluginVersion = "1.0.350"

	attributePlugin           = "io.cncf.notary.verificationPlugin"
	attributePluginMinVersion = "io.cncf.notary.verificationPluginMinVersion"
	attributeProfileVersion   = "com.amazonaws.signer.signingProfileVersion"
	attributeJob              = "com.amazonaws.signer.signingJob"
	attributeAlias            = "com.amazonaws.signer.signingProfileAlias"
)

// awsAttributes are all that AWS Signer is known to write beside what the format has.
func awsAttributes() []string {
	return []string{attributePlugin, attributePluginMinVersion, attributeProfileVersion, attributeJob, attributeAlias}
}

// arn is one of AWS Signer's. Its kind is the first part of the resource.
type arn struct {
	partition, region, account string
	kind, name, version        string
}

// Kinds of resources.
const (
	kindProfile = "signing-profiles"
	kindAliased = "aliased-signing-profiles" // a profile that is known by its alias only; its name is a UUID, and no account is told
	kindAlias   = "aliases"                  // its ARN may leave out region and account
	kindJob     = "signing-jobs"
)

func (a arn) String() string {
	s := fmt.Sprintf("arn:%s:signer:%s:%s:/%s/%s", a.partition, a.region, a.account, a.kind, a.name)
	if a.version != "" {
		s += "/" + a.version
	}
	return s
}

var (
	partitions = regexp.MustCompile(`^aws(-[a-z]+)*$`)
	regions    = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d$`)
	accounts   = regexp.MustCompile(`^\d{12}$`)
	names      = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
)

// parseARN reads an ARN of AWS Signer. There is one way to write each: what is read is written back the same.
func parseARN(s string) (arn, error) {
	var a arn
	parts := strings.Split(s, ":")
	if len(s) > 512 || len(parts) != 6 || parts[0] != "arn" || parts[2] != "signer" {
		return a, fmt.Errorf("%.100q is no ARN of AWS Signer (arn:aws:signer:REGION:ACCOUNT:/signing-profiles/NAME)", s)
	}
	a.partition, a.region, a.account = parts[1], parts[3], parts[4]
	switch {
	case len(parts[5]) == 0, parts[5][0] != '/':
		return a, fmt.Errorf("%.100q: the resource is no /%s/NAME, with or without /VERSION", s, kindProfile)
	case !partitions.MatchString(a.partition):
		return a, fmt.Errorf("%.100q: %q is no partition of AWS", s, a.partition)
	}
	resource := strings.Split(parts[5], "/")
	if len(resource) < 3 || len(resource) > 4 {
		return a, fmt.Errorf("%.100q: the resource is no /%s/NAME, with or without /VERSION", s, kindProfile)
	}
	a.kind, a.name = resource[1], resource[2]
	switch {
	case !regions.MatchString(a.region) && (a.region != "" || a.kind != kindAlias):
		return a, fmt.Errorf("%.100q: %q is no region of AWS", s, a.region)
	case !accounts.MatchString(a.account) && (a.account != "" || a.kind != kindAlias && a.kind != kindAliased):
		return a, fmt.Errorf("%.100q: an account is twelve digits", s)
	}
	if len(resource) == 4 {
		if a.version = resource[3]; !names.MatchString(a.version) {
			return a, fmt.Errorf("%.100q: the version is not made of letters and digits", s)
		}
	}
	if !names.MatchString(a.name) {
		return a, fmt.Errorf("%.100q: the name is not made of letters, digits, dots, dashes and underscores", s)
	}
	return a, nil
}

// parseIdentity reads an ARN that a requirement may trust.
func parseIdentity(s string) (arn, error) {
	if strings.Contains(s, "*") {
		return arn{}, fmt.Errorf("%.100q: * is not allowed; every customer's signatures have the same certificates, so it would let in all of them", s)
	}
	if strings.HasPrefix(s, "x509.subject") {
		return arn{}, fmt.Errorf("%.100q: a subject is not allowed; every customer's signatures have the same one", s)
	}
	a, err := parseARN(s)
	switch {
	case err != nil:
		return a, err
	case a.kind == "signing-profile":
		return a, fmt.Errorf("%.100q: did you mean /%s/%s, with an s?", s, kindProfile, a.name)
	case a.kind != kindProfile && a.kind != kindAliased && a.kind != kindAlias, a.kind == kindAlias && a.version != "":
		return a, fmt.Errorf("%.100q names no profile, profile version or alias", s)
	}
	return a, nil
}

// awsClaims are who signed, as AWS Signer wrote it down.
type awsClaims struct {
	profile arn // with its version, except where only the alias is told
	alias   arn // zero where there is none
	job     arn
}

// matches says whether a trusted identity is meant: exactly, letter by letter.
func (w awsClaims) matches(want arn) bool {
	if want.kind == kindAlias {
		return w.alias == want
	}
	if want.version == "" {
		got := w.profile
		got.version = ""
		return got == want
	}
	return w.profile == want
}

// awsIdentity reads who signed and holds it against the requirement.
func (c *check) awsIdentity() *verdict.Finding {
	fail := func(reason verdict.Reason, format string, args ...any) *verdict.Finding {
		f := verdict.Fail(reason, format, args...)
		return &f
	}
	if c.env.algorithm != signature.AlgorithmES384 {
		return fail(verdict.Malformed, "AWS Signer signs with ECDSA and SHA-384, and this is not")
	}
	claims, err := readClaims(c.env)
	if err != nil {
		return fail(verdict.Malformed, "%v", err)
	}
	c.aws = claims
	if !slices.ContainsFunc(c.want, claims.matches) {
		who := claims.profile.String()
		if claims.alias != (arn{}) {
			who += " (" + claims.alias.String() + ")"
		}
		return fail(verdict.WrongIdentity, "it is signed by %s, and the policy asks for %s", who, strings.Join(c.leaf.Profiles, " or "))
	}
	return nil
}

func readClaims(e *envelope) (awsClaims, error) {
	var claims awsClaims
	for _, a := range []struct {
		name string
		into *arn
	}{{attributeProfileVersion, &claims.profile}, {attributeJob, &claims.job}} {
		value, _, err := e.text(a.name)
		if err == nil && value == "" {
			err = fmt.Errorf("it lacks the attribute %s", a.name)
		}
		if err == nil {
			*a.into, err = parseARN(value)
		}
		if err != nil {
			return claims, err
		}
	}
	switch p, j := claims.profile, claims.job; {
	case p.kind != kindAliased && (p.kind != kindProfile || p.version == ""):
		return claims, fmt.Errorf("%s is no version of a profile", p)
	case j.kind != kindJob || j.version != "":
		return claims, fmt.Errorf("%s is no signing job", j)
	case p.partition != j.partition:
		return claims, fmt.Errorf("profile %s and job %s are of two partitions", p, j)
	}
	alias, _, err := e.text(attributeAlias)
	switch {
	case err != nil:
		return claims, err
	case alias == "":
		return claims, nil
	}
	if claims.alias, err = parseARN(alias); err != nil {
		return claims, err
	}
	if a, p := claims.alias, claims.profile; a.kind != kindAlias || a.version != "" || a.partition != p.partition || a.region != "" && a.region != p.region {
		return claims, fmt.Errorf("%s is no alias of %s", a, p)
	}
	return claims, nil
}

// certificateHashes are the names under which AWS Signer knows the certificates of a chain: for each the SHA-384 of what its issuer
// signed, then that of its issuer's. A root is its own issuer.
func certificateHashes(chain []*x509.Certificate) []string {
	sums := make([]string, len(chain))
	for i, c := range chain {
		sum := sha512.Sum384(c.RawTBSCertificate)
		sums[i] = hex.EncodeToString(sum[:])
	}
	all := make([]string, len(chain))
	for i := range chain {
		all[i] = sums[i] + sums[min(i+1, len(chain)-1)]
	}
	return all
}

func isVersion(s string) bool {
	return semver.IsValid("v"+s) && strings.Count(strings.SplitN(strings.SplitN(s, "+", 2)[0], "-", 2)[0], ".") == 2
}

func newer(a, b string) bool { return semver.Compare("v"+a, "v"+b) > 0 }

// manager has one plugin, which is part of this program: the name that is asked for comes out of the signature.
type manager struct{ c *check }

var _ plugin.Manager = manager{}

// Get implements plugin.Manager.
func (m manager) Get(_ context.Context, name string) (pluginframework.Plugin, error) {
	if name != pluginName || m.c.leaf.Method != policy.MethodAWSSigner {
		return nil, fmt.Errorf("the signature names the verifier %q; there is %s alone, and for AWS Signer's signatures", name, pluginName)
	}
	return awsPlugin{c: m.c}, nil
}

// List implements plugin.Manager.
func (m manager) List(context.Context) ([]string, error) { return []string{pluginName}, nil }

// awsPlugin is AWS Signer's part of the verification. It is asked when the chain has been verified.
type awsPlugin struct {
	pluginframework.SignPlugin // none; there is nothing to sign here

	c *check
}

// GetMetadata implements plugin.Plugin.
func (p awsPlugin) GetMetadata(context.Context, *pluginframework.GetMetadataRequest) (*pluginframework.GetMetadataResponse, error) {
	return &pluginframework.GetMetadataResponse{
		Name: pluginName, Description: "AWS Signer, in process", Version: pluginVersion, URL: "https://docs.aws.amazon.com/signer/", SupportedContractVersions: []string{pluginframework.ContractVersion},
		Capabilities: []pluginframework.Capability{pluginframework.CapabilityTrustedIdentityVerifier, pluginframework.CapabilityRevocationCheckVerifier},
	}, nil
}

var errNotLooked = errors.New("the signature was not looked at first")

// VerifySignature implements plugin.Plugin. What is known to be revoked is an error, which no setting of the library's tolerates;
// that it cannot be found out is a result, which the rule's mode decides upon.
func (p awsPlugin) VerifySignature(ctx context.Context, r *pluginframework.VerifySignatureRequest) (*pluginframework.VerifySignatureResponse, error) {
	c := p.c
	if r.Signature.CriticalAttributes.SigningScheme != string(signature.SigningSchemeX509SigningAuthority) || r.Signature.CriticalAttributes.AuthenticSigningTime == nil || c.aws == (awsClaims{}) {
		return nil, errNotLooked
	}
	response := &pluginframework.VerifySignatureResponse{VerificationResults: map[pluginframework.Capability]*pluginframework.VerificationResult{}}
	for _, name := range r.Signature.UnprocessedAttributes {
		if slices.Contains(awsAttributes(), name) {
			response.ProcessedAttributes = append(response.ProcessedAttributes, name)
		}
	}
	for _, capability := range r.TrustPolicy.SignatureVerification {
		result := &pluginframework.VerificationResult{}
		switch capability {
		case pluginframework.CapabilityTrustedIdentityVerifier:
			result.Success = slices.ContainsFunc(c.want, c.aws.matches)
			result.Reason = "the ARN decides"
		case pluginframework.CapabilityRevocationCheckVerifier:
			if err := c.askAWS(ctx); err != nil {
				return nil, err
			}
			result.Success = c.unknown == nil
			if c.unknown != nil {
				result.Reason = c.unknown.Message
			}
		default:
			return nil, fmt.Errorf("unknown capability %q", capability)
		}
		response.VerificationResults[capability] = result
	}
	return response, nil
}

// question is the one about job, profile and certificates.
func (c *check) question() Question {
	return Question{
		Region: c.aws.profile.region, ProfileVersion: c.aws.profile.String(), Job: c.aws.job.String(), SignedAt: c.env.signed.SigningTime.UTC(), CertificateHashes: certificateHashes(c.env.chain),
	}
}

// askAWS takes the answer to it; its error says that something was revoked.
func (c *check) askAWS(ctx context.Context) error {
	answer, err := c.answer(ctx)
	if err != nil {
		c.unknown = unansweredBy(err)
		return nil
	}
	if len(answer.Revoked) > 0 {
		c.revoked = &RevokedError{Reason: verdict.SignatureRevoked, Message: "AWS Signer says that these were revoked: " + strings.Join(answer.Revoked, ", ")}
		if !slices.ContainsFunc(answer.Revoked, func(entity string) bool { return strings.HasPrefix(entity, "arn:") }) {
			c.revoked.Reason = verdict.CertificateRevoked
		}
		if answer.Recorded {
			c.revoked.Message += " (recorded on " + stamp(answer.At) + ")"
		}
		return c.revoked
	}
	c.revocation = "not revoked"
	if answer.Recorded {
		c.revocation = "not revoked: evidence of " + stamp(answer.At)
	}
	return nil
}
