package ref

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/internal/seal"
)

// Basis is why a reference was admitted.
type Basis string

// The bases. Only the first means that a signature was found good.
const (
	ByPolicy    Basis = "policy"    // verified as the policy demands
	ByException Basis = "exception" // the policy excepts it, for a time and with a reason
	ByWarning   Basis = "warning"   // refused, and the user said to go on all the same (--verify=warn)
)

// Facts are what is known of an admitted reference.
type Facts struct {
	Given     Reference // as it was asked for, such as in a rendered manifest
	Canonical Reference // the name that the policy knows it by; differs from Given by mirrors
	Digest    string    // what Given was resolved to, once; the digest of the bytes that the registry served
	MediaType string    // of the manifest
	Basis     Basis
	Outcome   string    // of the verification: an Outcome of pkg/verify/verdict
	Method    string    // "aws-signer", "notation", "cosign-key", "cosign-keyless"; empty unless Basis is ByPolicy
	Identity  string    // who signed: a signing profile's ARN, a certificate's subject, a key's fingerprint
	SignedAt  time.Time // authentic time of the signature; zero where there is none
	Note      string    // the exception's reason, or what was found instead
}

// Admitted is a reference that may be installed, pinned to the bytes that were looked at. Only verification makes one; the
// zero value is not admitted.
type Admitted struct{ facts Facts }

// verified is Verified of pkg/verify/verdict, which a leaf does not import; a test holds the two together.
const verified = "verified"

// Admit makes one. Only packages below pkg/verify can: nobody else can make a token that opens.
func Admit(t seal.Token, f Facts) (Admitted, error) {
	switch {
	case !t.Granted():
		return Admitted{}, fmt.Errorf("admit %s: only verification admits (seal.Grant)", f.Given)
	case f.Given.Repository == "" || f.Canonical.Repository == "":
		return Admitted{}, fmt.Errorf("admit %s: a name is missing", f.Given)
	case !IsDigest(f.Digest):
		return Admitted{}, fmt.Errorf("admit %s: %q is no digest", f.Given, f.Digest)
	case f.Given.Digest != "" && f.Given.Digest != f.Digest:
		return Admitted{}, fmt.Errorf("admit %s: it was resolved to %s", f.Given, f.Digest)
	}
	switch f.Basis {
	case ByPolicy, ByException, ByWarning:
	default:
		return Admitted{}, fmt.Errorf("admit %s: no basis", f.Given)
	}
	if (f.Basis == ByPolicy) != (f.Outcome == verified) {
		return Admitted{}, fmt.Errorf("admit %s: basis %q with outcome %q", f.Given, f.Basis, f.Outcome)
	}
	return Admitted{f}, nil
}

// Valid says whether a is more than a zero value.
func (a Admitted) Valid() bool { return a.facts.Digest != "" }

// Facts are what is known of it.
func (a Admitted) Facts() Facts { return a.facts }

// Given is the reference as it was asked for.
func (a Admitted) Given() Reference { return a.facts.Given }

// Digest is what it was resolved to.
func (a Admitted) Digest() string { return a.facts.Digest }

// Pinned is what is to run: the reference as asked for, with the digest.
func (a Admitted) Pinned() Reference { return a.facts.Given.At(a.facts.Digest) }

// String implements fmt.Stringer.
func (a Admitted) String() string {
	if !a.Valid() {
		return "not admitted"
	}
	return a.Pinned().String()
}

// MarshalJSON implements json.Marshaler, for reports. There is no way back: what is read from a file was not admitted.
func (a Admitted) MarshalJSON() ([]byte, error) {
	f := a.facts
	var at *time.Time
	if !f.SignedAt.IsZero() {
		at = &f.SignedAt
	}
	data, err := json.Marshal(struct {
		Reference string     `json:"reference"`
		Digest    string     `json:"digest"`
		Basis     Basis      `json:"basis"`
		Outcome   string     `json:"outcome,omitempty"`
		Method    string     `json:"method,omitempty"`
		Identity  string     `json:"identity,omitempty"`
		SignedAt  *time.Time `json:"signed_at,omitempty"`
		Note      string     `json:"note,omitempty"`
	}{f.Given.String(), f.Digest, f.Basis, f.Outcome, f.Method, f.Identity, at, f.Note})
	if err != nil {
		return nil, fmt.Errorf("admitted reference: %w", err)
	}
	return data, nil
}
