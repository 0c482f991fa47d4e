package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is where images go. Its zero value but for the host is one that speaks TLS and lets anybody push.
type Registry struct {
	Host      string            // "127.0.0.1:5000", "123456789012.dkr.ecr.us-east-1.amazonaws.com"
	Insecure  bool              // plain HTTP
	Keychain  authn.Keychain    // nil means anonymous
	Transport http.RoundTripper // nil means http.DefaultTransport
}

// repository is a repository of this registry, and how to speak to it.
func (r Registry) repository(repository string) (name.Repository, []remote.Option, error) {
	repo, err := name.NewRepository(r.Host+"/"+repository, r.strictness()...)
	if err != nil {
		return repo, nil, fmt.Errorf("repository %s: %w", repository, err)
	}
	var how []remote.Option
	if r.Keychain != nil {
		how = append(how, remote.WithAuthFromKeychain(r.Keychain))
	}
	if r.Transport != nil {
		how = append(how, remote.WithTransport(r.Transport))
	}
	return repo, how, nil
}

func (r Registry) tag(repository, tag string) (name.Tag, []remote.Option, error) {
	repo, how, err := r.repository(repository)
	if err != nil {
		return name.Tag{}, nil, err
	}
	ref, err := name.NewTag(repo.String()+":"+tag, r.strictness()...)
	if err != nil {
		return ref, nil, fmt.Errorf("tag %s:%s: %w", repository, tag, err)
	}
	return ref, how, nil
}

func (r Registry) strictness() []name.Option {
	if r.Insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

// Digest is that of a tag, or empty when the registry has no such tag.
func (r Registry) Digest(ctx context.Context, repository, tag string) (string, error) {
	ref, how, err := r.tag(repository, tag)
	if err != nil {
		return "", err
	}
	head, err := remote.Head(ref, append(how, remote.WithContext(ctx))...)
	switch {
	case missing(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for %s in the registry: %w", repository, err)
	}
	return head.Digest.String(), nil
}

// Has says whether a repository has a tag or, by its digest, a manifest.
func (r Registry) Has(ctx context.Context, repository, reference string) (bool, error) {
	repo, how, err := r.repository(repository)
	if err != nil {
		return false, err
	}
	var ref name.Reference = repo.Tag(reference)
	if strings.HasPrefix(reference, "sha256:") {
		ref = repo.Digest(reference)
	}
	switch _, err := remote.Head(ref, append(how, remote.WithContext(ctx))...); {
	case missing(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for %s in the registry: %w", ref, err)
	}
	return true, nil
}

// Push writes an image under a tag, unless the tag has this digest already, and returns the digest.
func (r Registry) Push(ctx context.Context, repository, tag string, image v1.Image) (string, error) {
	digest, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	have, err := r.Digest(ctx, repository, tag)
	if err != nil {
		return "", err
	}
	if have == digest.String() {
		return have, nil
	}
	ref, how, err := r.tag(repository, tag)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, image, append(how, remote.WithContext(ctx))...); err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	return digest.String(), nil
}

// PushIndex writes images of several architectures as one, under a tag, unless the tag has this digest already.
func (r Registry) PushIndex(ctx context.Context, repository, tag string, images []v1.Image) (string, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return "", fmt.Errorf("push %s: %w", repository, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}}})
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	have, err := r.Digest(ctx, repository, tag)
	if err != nil || have == digest.String() {
		return have, err
	}
	ref, how, err := r.tag(repository, tag)
	if err != nil {
		return "", err
	}
	if err := remote.WriteIndex(ref, index, append(how, remote.WithContext(ctx))...); err != nil {
		return "", fmt.Errorf("push %s: %w", repository, err)
	}
	return digest.String(), nil
}

// Push writes the image under REGISTRY/REPOSITORY:TAG, unless that tag has this digest already, and returns the digest.
// The registry is reached through http.
func Push(ctx context.Context, registry string, s Spec, image v1.Image) (string, error) {
	return Registry{Host: registry, Insecure: true}.Push(ctx, s.Repository, s.Tag, image)
}

// Ensure makes sure that the registry has the image of a specification, and returns its digest. A note in the memo
// directory says which digest follows from which content, so that what is there already is neither packed nor sent again:
// the difference between seconds and a tenth of one. An empty directory means no notes.
func (r Registry) Ensure(ctx context.Context, s Spec, memo string) (digest string, pushed bool, err error) {
	note := ""
	if memo != "" {
		key, err := s.key()
		if err != nil {
			return "", false, err
		}
		note = filepath.Join(memo, key)
	}
	have, err := r.Digest(ctx, s.Repository, s.Tag)
	if err != nil {
		return "", false, err
	}
	if note != "" && have != "" {
		known, err := os.ReadFile(note)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", false, fmt.Errorf("image %s: %w", s.Repository, err)
		}
		if strings.TrimSpace(string(known)) == have {
			return have, false, nil
		}
	}
	image, err := Build(s)
	if err != nil {
		return "", false, err
	}
	if digest, err = r.Push(ctx, s.Repository, s.Tag, image); err != nil {
		return "", false, err
	}
	if note != "" {
		if err := os.MkdirAll(memo, 0o755); err != nil {
			return "", false, fmt.Errorf("image %s: %w", s.Repository, err)
		}
		if err := os.WriteFile(note, []byte(digest+"\n"), 0o600); err != nil {
			return "", false, fmt.Errorf("image %s: %w", s.Repository, err)
		}
	}
	return digest, have != digest, nil
}

// layout is raised whenever Build makes another image of the same content.
const layout = 1

// key is a digest of everything the image follows from.
func (s Spec) key() (string, error) {
	program, err := os.ReadFile(s.Program)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", s.Repository, err)
	}
	content := sha256.Sum256(program)
	same := s
	same.Program = hex.EncodeToString(content[:]) // where it lies does not matter
	same.Arch = s.arch()
	text, err := json.Marshal(struct {
		Layout int
		Spec   Spec
	}{layout, same})
	if err != nil {
		return "", fmt.Errorf("image %s: %w", s.Repository, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}
