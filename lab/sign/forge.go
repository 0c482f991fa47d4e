package sign

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// A Forgery is an image that must not run, or that must not run any more.
type Forgery string

// The forgeries. All do what the image they are made from does, so that it is verification alone that stops them.
const (
	Tampered Forgery = "tampered" // other content, and the signature of the image it was made from
	Unsigned Forgery = "unsigned" // other content, and no signature
	Foreign  Forgery = "foreign"  // signed by another authority, or another key, under the same names
	Stranger Forgery = "stranger" // signed by AWS Signer for another customer, whose profile has the same name
	Older    Forgery = "older"    // signed by the right signer, a month ago
	Revoked  Forgery = "revoked"  // signed by the right signer; who revokes the job is the caller
)

// Forgeries are all of them.
func Forgeries() []Forgery { return []Forgery{Tampered, Unsigned, Foreign, Stranger, Older, Revoked} }

// Forge puts a forgery of an image under another tag of its repository. method is how the image is signed. It returns the
// forgery's digest.
func (k *Keys) Forge(ctx context.Context, r images.Registry, what Forgery, repository, from, tag string, method policy.Method, now time.Time) (string, error) {
	if !slices.Contains(Forgeries(), what) {
		return "", fmt.Errorf("forge %q: expected one of %s", what, forgeryNames())
	}
	if method != policy.MethodAWSSigner && (what == Stranger || what == Older || what == Revoked) {
		return "", fmt.Errorf("forge %s:%s: %s is about AWS Signer, and it is signed with %s", repository, from, what, method)
	}
	original, err := r.Digest(ctx, repository, from)
	switch {
	case err != nil:
		return "", err //nolint:wrapcheck // names the image
	case original == "":
		return "", fmt.Errorf("forge %s:%s: the registry has no such image", repository, from)
	}
	digest, err := r.Variant(ctx, repository, from, tag, string(what)+" "+tag)
	if err != nil {
		return "", err //nolint:wrapcheck // names the image
	}
	how := How{Method: method}
	signer := k
	switch what {
	case Unsigned:
		return digest, nil
	case Tampered:
		moved, err := r.MoveSignatures(ctx, repository, original, digest)
		if err == nil && moved == 0 {
			err = fmt.Errorf("forge %s:%s: it has no signature that could be moved", repository, from)
		}
		return digest, err //nolint:wrapcheck // names the image
	case Foreign:
		if signer, err = New(); err != nil {
			return "", err
		}
	case Stranger:
		how.Profile = OtherProfile
	case Older:
		how.At = now.AddDate(0, -1, 0)
	case Revoked:
	}
	_, err = signer.Sign(ctx, r, repository, digest, how)
	return digest, err
}

func forgeryNames() string {
	var names []string
	for _, f := range Forgeries() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}
