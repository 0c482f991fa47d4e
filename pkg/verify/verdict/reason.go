package verdict

// Reason is why a finding is not success, for programs. Stable: listed in docs/verification.md.
type Reason string

// ReasonInfo is what is known of a reason.
type ReasonInfo struct {
	Reason  Reason
	Outcome Outcome
	About   string // what it means, one sentence
	Hint    string // what to do about it
}

// The reasons.
const (
	NoSignature       Reason = "no-signature"
	SignaturesMissing Reason = "signatures-not-mirrored"

	Malformed       Reason = "malformed-signature"
	BadSignature    Reason = "bad-signature"
	WrongArtifact   Reason = "signs-another-artifact"
	UntrustedRoot   Reason = "untrusted-root"
	WrongIdentity   Reason = "signed-by-somebody-else"
	WrongScheme     Reason = "wrong-scheme"
	OtherMethod     Reason = "signed-another-way"
	UnknownCritical Reason = "unknown-critical-attribute"
	WrongPredicate  Reason = "attestation-is-no-signature"
	NoTimestamp     Reason = "no-trusted-time"
	NoTransparency  Reason = "not-in-transparency-log"
	CertificateTime Reason = "certificate-not-valid-then"
	Panicked        Reason = "signature-breaks-the-verifier"
	TooManyTried    Reason = "too-many-signatures"

	SignatureRevoked   Reason = "revoked"
	CertificateRevoked Reason = "certificate-revoked"
	SignatureExpired   Reason = "signature-expired"
	TooOld             Reason = "signature-too-old"
	Downgrade          Reason = "downgrade"

	RegistryUnreachable Reason = "registry-unreachable"
	RegistryDenied      Reason = "registry-denied"
	RegistryLied        Reason = "registry-served-other-bytes"
	RegistryOdd         Reason = "registry-answer-unusable"
	NotFound            Reason = "not-found"
	LimitReached        Reason = "limit-reached"
	TimedOut            Reason = "timed-out"
	NoCredentials       Reason = "no-aws-credentials"
	RevocationUnknown   Reason = "revocation-unknown"

	NoRule           Reason = "no-rule"
	NotAReference    Reason = "not-a-reference"
	TrustUnusable    Reason = "trust-unusable"
	ExceptionExpired Reason = "exception-expired"
	NoPolicy         Reason = "policy-left-out"
	NotLocked        Reason = "not-in-lock"
)

// Reasons is the whole table, in the order of documentation.
func Reasons() []ReasonInfo {
	return []ReasonInfo{
		{NoSignature, Unsigned, "Referrers, fallback tag and .sig tag were all read, and none holds a signature.", "ask whoever published it to sign it, name another tag, or except it in the policy with a reason and an end"},
		{SignaturesMissing, Unsigned, "The image is on the mirror, its signatures are not.", "copy both: nopsctl images mirror, or oras cp -r"},
		{Malformed, Untrusted, "What claims to be a signature cannot be read as one.", "have it signed again; nopsctl verify inspect shows what is there"},
		{BadSignature, Untrusted, "The signature's mathematics do not hold.", "treat the image as tampered with, and ask whoever published it"},
		{WrongArtifact, Untrusted, "The signature is about other bytes than the image's.", "a signature was copied from another image: treat it as an attack until explained"},
		{UntrustedRoot, Untrusted, "The signer's certificate does not lead to a root that the policy trusts.", "compare the fingerprint with the one the publisher documents before adding it to the policy"},
		{WrongIdentity, Untrusted, "The signature is good, and by somebody the policy does not name.", "nopsctl verify inspect shows who signed; add that identity only if its owner confirms it"},
		{WrongScheme, Untrusted, "The signature is made under another scheme than the requirement trusts.", "AWS Signer signs as notary.x509.signingAuthority; a certificate of your own as notary.x509"},
		{OtherMethod, Untrusted, "There are signatures, and none is of the kind that the policy asks for.", "nopsctl verify inspect shows what there is; change the policy only if its owner confirms it"},
		{UnknownCritical, Untrusted, "The signature carries an attribute that must be understood and is not.", "a newer nopsctl may know it; nopsctl verify inspect names it"},
		{WrongPredicate, Untrusted, "There is an attestation (an SBOM, a provenance), which is no signature of the image.", "sign the image itself: cosign sign"},
		{NoTimestamp, Untrusted, "Nothing trusted says when the signature was made.", "have it signed with a timestamp or a transparency log entry"},
		{NoTransparency, Untrusted, "The transparency log's promise is missing or not good.", "sign with the transparency log, or say in the policy that this key is used without one"},
		{CertificateTime, Untrusted, "A certificate of the chain was not valid when the signature was made.", "have it signed again"},
		{Panicked, Untrusted, "The signature is built to break verifiers.", "remove it from the registry, and report it to whoever runs that"},
		{TooManyTried, Untrusted, "More signatures hang on the image than are tried, and none of those tried is good.", "remove the junk from the registry"},
		{SignatureRevoked, Revoked, "The signer revoked the signature, the signing job or the profile.", "do not run it; take a version that is signed anew"},
		{CertificateRevoked, Revoked, "A certificate of the chain was revoked.", "do not run it; take a version that is signed anew"},
		{SignatureExpired, Revoked, "The signature's own end has passed.", "take a version that is signed anew"},
		{TooOld, Revoked, "The signature is older than the policy allows.", "take a newer version, or raise maxAge in the policy"},
		{Downgrade, Revoked, "It was signed before the version that was accepted last.", "name the newer version, or accept the older with --allow-downgrade"},
		{RegistryUnreachable, Unknown, "The registry does not answer.", "check network, proxy and name; a mirror is named with --registry-mirror"},
		{RegistryDenied, Unknown, "The registry does not give it to this reader.", "log in to it (docker login, or its credential helper)"},
		{RegistryLied, Unknown, "The registry served bytes that do not have the digest asked for.", "do not use this registry until that is explained"},
		{RegistryOdd, Unknown, "The registry's answer cannot be used.", "try another registry, or report it to whoever runs this one"},
		{NotFound, Unknown, "The registry has no such image.", "check the tag; copy it with nopsctl images mirror, or build ours with make images REGISTRY=…"},
		{LimitReached, Unknown, "The answers are larger or more than any honest image needs.", "remove the junk from the registry"},
		{TimedOut, Unknown, "It took longer than an image is given.", "try again; a slow proxy or registry needs --verify-timeout"},
		{NoCredentials, Unknown, "AWS is asked about revocation with AWS credentials, and there are none that it accepts.", "give credentials that are valid and may do signer:GetRevocationStatus, or set revocation: best-effort in the policy"},
		{RevocationUnknown, Unknown, "Whether the signature was revoked cannot be found out now.", "try again; or set revocation: best-effort in the policy, or mirror with evidence for sites without a way out"},
		{NoRule, BadPolicy, "No rule of the policy is about this name.", "add a rule that matches it; the name in the policy is the published one, not the mirror's"},
		{NotAReference, BadPolicy, "What stands in the place of an image is no reference.", "write REGISTRY/REPOSITORY:TAG"},
		{TrustUnusable, BadPolicy, "What the rule trusts cannot be used.", "see the message; nopsctl verify --policy FILE checks it"},
		{NoPolicy, BadPolicy, "The release was installed with a policy, and no policy is given now.", "name it again with --policy; --verify=off says that you mean it"},
		{NotLocked, BadPolicy, "The lock that was given does not have it.", "install what the lock was made for, or make a new lock on purpose: nopsctl verify --write-lock"},
		{ExceptionExpired, BadPolicy, "The policy's exception for it has ended, and it does not pass without.", "take a signed version, or renew the exception on purpose"},
	}
}

// Outcome is that of the reason; none where the reason is unknown, which is not success.
func (r Reason) Outcome() Outcome { return r.info().Outcome }

// Hint is what to do about it.
func (r Reason) Hint() string { return r.info().Hint }

func (r Reason) info() ReasonInfo {
	for _, i := range Reasons() {
		if i.Reason == r {
			return i
		}
	}
	return ReasonInfo{Outcome: Unknown}
}
