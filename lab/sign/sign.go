// Package sign signs what the lab serves: our images and the chart as AWS Signer signs them, other people's with a cosign key,
// so that a lab shows both. Authority and key are made on this machine and kept in its cache beside the lab's CA; whoever
// trusts them trusts this machine's labs. nopsctl learns of them from the policy that its user names, and from nowhere else.
package sign

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/lab/images"
	"github.com/nopsctl/nopsctl/pkg/verify/policy"
)

// Region and accounts are documentation values of AWS.
const (
	region  = "us-east-1"
	account = "123456789012"
	// Profile is whom policies name: the ARN of the lab's signing profile.
	Profile = "arn:aws:signer:" + region + ":" + account + ":/signing-profiles/nops_lab"
	// OtherProfile is somebody else's, of the same name: any customer of AWS Signer can have one, and its chain is the same.
	OtherProfile = "arn:aws:signer:" + region + ":444455556666:/signing-profiles/nops_lab"
	version      = "/Zq3xvTn1Lw"
)

// Keys are what the lab signs with.
type Keys struct {
	AWS    *signing.Authority
	Cosign signing.CosignKey
}

const awsDir, cosignDir = "aws-signer", "cosign"

// Open opens the keys of a directory, or makes them. Several processes may do so at once: they agree on one set.
func Open(dir string) (*Keys, error) {
	k, err := load(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's signing keys: %w", err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), ".signing-*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("make the lab's signing keys: %w", err)
	}
	defer os.RemoveAll(made)
	if k, err = New(); err != nil {
		return nil, err
	}
	if err := errors.Join(k.AWS.Save(filepath.Join(made, awsDir)), k.Cosign.Save(filepath.Join(made, cosignDir))); err != nil {
		return nil, fmt.Errorf("make the lab's signing keys: %w", err)
	}
	// A directory that holds something is not replaced: another lab was first, and its keys are everybody's.
	if err := os.Rename(made, dir); err == nil {
		return k, nil
	}
	return load(dir)
}

// New makes keys that nobody has seen before.
func New() (*Keys, error) {
	authority, err := signing.NewAuthority(signing.AuthorityOptions{Region: region})
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it makes
	}
	key, err := signing.NewCosignKey()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it makes
	}
	return &Keys{AWS: authority, Cosign: key}, nil
}

func load(dir string) (*Keys, error) {
	authority, err := signing.LoadAuthority(filepath.Join(dir, awsDir), signing.AuthorityOptions{Region: region})
	if err != nil {
		return nil, &damagedError{dir, err}
	}
	key, err := signing.LoadCosignKey(filepath.Join(dir, cosignDir))
	if err != nil {
		return nil, &damagedError{dir, err}
	}
	return &Keys{AWS: authority, Cosign: key}, nil
}

// damagedError is a directory that does not hold all keys.
type damagedError struct {
	dir string
	err error
}

func (e *damagedError) Error() string { return "open the lab's signing keys: " + e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *damagedError) Hint() string {
	return "delete " + e.dir + "; the next lab makes new keys and signs anew"
}

// How says how something is signed.
type How struct {
	Method  policy.Method // MethodAWSSigner or MethodCosignKey
	Profile string        // ARN; empty means Profile
	At      time.Time     // authentic time of an AWS Signer signature; zero means now
}

// Sign signs what a digest names, and returns the reference of the manifest that carries the signature, within the repository.
func (k *Keys) Sign(ctx context.Context, r images.Registry, repository, digest string, how How) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("sign %s@%s: %w", repository, digest, err) }
	repo, err := remote.NewRepository(r.Host + "/" + repository)
	if err != nil {
		return fail(err)
	}
	repo.PlainHTTP = r.Insecure
	subject, err := repo.Resolve(ctx, digest)
	if err != nil {
		return fail(err)
	}
	switch how.Method {
	case policy.MethodAWSSigner:
		profile := how.Profile
		if profile == "" {
			profile = Profile
		}
		envelope, err := k.AWS.Sign(ctx, subject, signing.NotaryOptions{SignedAt: how.At, Profile: profile + version, Job: strings.Split(profile, ":/")[0] + ":/signing-jobs/" + uuid()})
		if err != nil {
			return fail(err)
		}
		carrier, err := envelope.Push(ctx, repo, subject)
		if err != nil {
			return fail(err)
		}
		return carrier.Digest.String(), nil
	case policy.MethodCosignKey:
		// In the first form, under the .sig tag: what the AWS signatures beside it do not show.
		if _, err := k.Cosign.SignCosign(ctx, repo, "public.ecr.aws/"+repository, subject); err != nil {
			return fail(err)
		}
		return signing.CosignTag(subject.Digest, "sig"), nil
	}
	return fail(fmt.Errorf("method %q: nothing here signs so", how.Method))
}

// Ensure makes sure that a digest is signed with these keys. A note in the memo directory names the signature; one that the
// registry still holds is not made again. signed says whether one was made now.
func (k *Keys) Ensure(ctx context.Context, r images.Registry, repository, digest string, method policy.Method, memo string) (signed bool, err error) {
	key := k.Cosign.Identity()
	if method == policy.MethodAWSSigner {
		key = k.AWS.RootFingerprint() + " " + Profile + version
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(method), key, repository, digest}, "\n")))
	note := filepath.Join(memo, "signed-"+hex.EncodeToString(sum[:16]))
	known, err := os.ReadFile(note)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("sign %s: %w", repository, err)
	default:
		there, err := r.Has(ctx, repository, strings.TrimSpace(string(known)))
		if err != nil || there {
			return false, err //nolint:wrapcheck // names the repository
		}
	}
	reference, err := k.Sign(ctx, r, repository, digest, How{Method: method})
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(memo, 0o755); err != nil {
		return false, fmt.Errorf("sign %s: %w", repository, err)
	}
	if err := os.WriteFile(note, []byte(reference+"\n"), 0o600); err != nil {
		return false, fmt.Errorf("sign %s: %w", repository, err)
	}
	return true, nil
}

// ErrNoJob says that nothing that hangs on an image was made by a signing job.
var ErrNoJob = errors.New("no signature of AWS Signer hangs on it; what a cosign key signed cannot be revoked, only its key be trusted no more")

// Jobs are the ARNs of the signing jobs that made the signatures of a digest.
func Jobs(ctx context.Context, r images.Registry, repository, digest string) ([]string, error) {
	fail := func(err error) ([]string, error) {
		return nil, fmt.Errorf("signatures of %s@%s: %w", repository, digest, err)
	}
	hanging, err := r.Attached(ctx, repository, digest)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the image
	}
	repo, err := remote.NewRepository(r.Host + "/" + repository)
	if err != nil {
		return fail(err)
	}
	repo.PlainHTTP = r.Insecure
	var jobs []string
	for _, reference := range hanging {
		if _, tagged := reference.(name.Tag); tagged {
			continue
		}
		d, err := repo.Resolve(ctx, reference.Identifier())
		if err != nil {
			return fail(err)
		}
		body, err := content.FetchAll(ctx, repo, d)
		if err != nil {
			return fail(err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(body, &m); err != nil || len(m.Layers) != 1 {
			continue
		}
		blob, err := content.FetchAll(ctx, repo, m.Layers[0])
		if err != nil {
			return fail(err)
		}
		if job := jobOf(blob); job != "" {
			jobs = append(jobs, job)
		}
	}
	if len(jobs) == 0 {
		return fail(ErrNoJob)
	}
	return jobs, nil
}

// jobOf reads the signing job out of a JWS envelope; empty when it is none, or names none.
func jobOf(envelope []byte) string {
	var jws struct {
		Protected string `json:"protected"`
	}
	if json.Unmarshal(envelope, &jws) != nil {
		return ""
	}
	header, err := base64.RawURLEncoding.DecodeString(jws.Protected)
	if err != nil {
		return ""
	}
	var attributes map[string]any
	if json.Unmarshal(header, &attributes) != nil {
		return ""
	}
	job, _ := attributes[signing.AttributeJob].(string)
	return job
}

func uuid() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	text := hex.EncodeToString(raw)
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}
