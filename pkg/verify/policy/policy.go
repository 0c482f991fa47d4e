// Package policy says who may sign what: the user's YAML, checked and compiled.
//
// A policy names images by their published names, whatever mirror they come from. Every image needs a rule; the first whose
// match fits counts. Nothing is trusted that the policy does not name: there is no built-in identity.
package policy

import (
	"time"
)

// APIVersion and Kind are what the document must say it is.
const (
	APIVersion = "nopsctl.io/v1"
	Kind       = "ImagePolicy"
)

// AWSSignerRoot is the SHA-256 of the DER of AWS Signer's root certificate for Notary Project signatures in the commercial
// partition ("AWS Signer Code Signing Root CA G1"), which AWS documents for download under
// https://docs.aws.amazon.com/signer/latest/developerguide/image-signing-prerequisites.html. Every signature carries the
// root at the end of its chain, so the fingerprint is all that is needed to trust it.
const AWSSignerRoot = "90a87d0543c3f094dbff9589b6649affe2f3d6e0f308799be2258461c686473f"

// Policy is a compiled policy. It is read-only.
type Policy struct {
	Source     string // file name, for messages
	Hash       string // sha256 of everything it says, files that it names included; hexadecimal
	Trust      Trust
	Rules      []Rule
	Exceptions []Exception
	Warnings   []string // what is allowed, and probably not meant
}

// Trust is what requirements refer to.
type Trust struct {
	AWSSigner AWSSigner
	Stores    []Store // of Notary Project signatures that are not AWS Signer's
	Sigstore  Sigstore
}

// AWSSigner says which signatures are AWS Signer's, and how its revocation is asked for.
type AWSSigner struct {
	// Roots are fingerprints: SHA-256 of the DER, lower-case hexadecimal. Empty means AWSSignerRoot. Certificates that the
	// policy names by file or text stand here by their fingerprint; one that does not have the fingerprint beside it was
	// refused.
	Roots []string
	// Endpoint of the revocation API, such as a VPC endpoint: https://HOST[:PORT]. Empty means AWS's, of the ARN's region.
	Endpoint string
	// EvidenceFile holds recorded answers of the revocation API, for sites without a way out; Evidence is its content.
	EvidenceFile string
	Evidence     []byte
	// MaxEvidenceAge is how old a recorded answer may be; zero means DefaultEvidenceAge.
	MaxEvidenceAge time.Duration
}

// DefaultEvidenceAge is how old recorded revocation answers may be where the policy does not say.
const DefaultEvidenceAge = 7 * 24 * time.Hour

// Store is a set of certificates that requirements name.
type Store struct {
	Name         string
	Certificates [][]byte // DER
	TSA          [][]byte // DER; roots of time stamping authorities that countersign
}

// Sigstore says whom keyless signatures and transparency logs are trusted by.
type Sigstore struct {
	TrustedRoot []byte // trusted_root.json; empty means the one of the public good instance that ships with nopsctl
}

// Rule says what images must satisfy.
type Rule struct {
	Line       int      // in the document, for messages
	Match      []string // patterns on canonical names: see Match
	Require    Requirement
	Revocation Revocation
	// MaxAge is how old a signature may be; zero: any age.
	MaxAge time.Duration
	// NotBefore is the earliest authentic signing time; zero: any.
	NotBefore time.Time
}

// Revocation is how much must be known of revocation.
type Revocation string

// The modes. What is known to be revoked is refused in all but Off, where nobody asks.
const (
	RevocationRequire    Revocation = "require"     // unknown refuses
	RevocationBestEffort Revocation = "best-effort" // unknown is reported and passes; the default
	RevocationOff        Revocation = "off"
)

// Requirement is a tree: exactly one of its fields is set.
type Requirement struct {
	AnyOf []Requirement
	AllOf []Requirement
	Leaf  *Leaf
}

// Method is how a leaf verifies.
type Method string

// The methods. One leaf, one method, one kind of trust.
const (
	MethodAWSSigner     Method = "aws-signer"
	MethodNotation      Method = "notation"
	MethodCosignKey     Method = "cosign-key"
	MethodCosignKeyless Method = "cosign-keyless"
)

// Leaf is one way in which an image may be signed.
type Leaf struct {
	Method Method

	// AWSSigner: ARNs of profiles (…:/signing-profiles/NAME), profile versions (…/NAME/VERSION) or aliases
	// (…:/aliases/NAME), compared exactly.
	Profiles []string

	// Notation: the name of a Store, and subjects as Notary trust policies write them ("C=US,O=Example,CN=Release"), each of
	// which a signer's certificate must have at least.
	Store    string
	Subjects []string

	// CosignKey: the public key, PEM. With Log set, an entry in a transparency log that Sigstore trusts is demanded.
	Key []byte
	Log bool

	// CosignKeyless: the issuer and the subject of the certificate, exact, or patterns of regexp that match as a whole.
	Issuer         string
	IssuerPattern  string
	Subject        string
	SubjectPattern string
}

// Exception lets an image in that does not verify, until it ends.
type Exception struct {
	Line    int
	Match   []string
	Digest  string // where set, these bytes alone
	Reason  string
	Expires time.Time
}
