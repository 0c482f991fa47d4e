package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Variant pushes, under another tag of its repository, an image that does the same as the one of a tag and yet is another: it
// has one label more. It returns the digest. No signature comes along.
func (r Registry) Variant(ctx context.Context, repository, from, tag, label string) (string, error) {
	ref, how, err := r.tag(repository, from)
	if err != nil {
		return "", err
	}
	image, err := remote.Image(ref, append(how, remote.WithContext(ctx))...)
	if err != nil {
		return "", fmt.Errorf("read %s:%s: %w", repository, from, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("read %s:%s: %w", repository, from, err)
	}
	config = config.DeepCopy()
	if config.Config.Labels == nil {
		config.Config.Labels = map[string]string{}
	}
	config.Config.Labels["io.nopsctl.lab.variant"] = label
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return "", fmt.Errorf("change %s:%s: %w", repository, from, err)
	}
	return r.Push(ctx, repository, tag, image)
}

// Copy puts the image of a tag under the same tag of another repository, and nothing that hangs on it.
func (r Registry) Copy(ctx context.Context, repository, tag, to string) (string, error) {
	ref, how, err := r.tag(repository, tag)
	if err != nil {
		return "", err
	}
	image, err := remote.Image(ref, append(how, remote.WithContext(ctx))...)
	if err != nil {
		return "", fmt.Errorf("read %s:%s: %w", repository, tag, err)
	}
	return r.Push(ctx, to, tag, image)
}

// MoveSignatures attaches to an image what hangs on another of the same repository, as somebody would who has both: the
// signatures stay what they are, and say what they say. It returns how many.
func (r Registry) MoveSignatures(ctx context.Context, repository, from, to string) (int, error) {
	repo, how, err := r.repository(repository)
	if err != nil {
		return 0, err
	}
	how = append(how, remote.WithContext(ctx))
	target, err := remote.Head(repo.Digest(to), how...)
	if err != nil {
		return 0, fmt.Errorf("read %s@%s: %w", repository, to, err)
	}
	moved := 0
	hanging, err := r.Attached(ctx, repository, from)
	if err != nil {
		return 0, err
	}
	for _, reference := range hanging {
		image, err := remote.Image(reference, how...)
		if err != nil {
			return moved, fmt.Errorf("read %s: %w", reference, err)
		}
		var as name.Reference = repo.Tag(cosignTag(to))
		if _, tagged := reference.(name.Tag); !tagged {
			image, _ = mutate.Subject(image, v1.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}).(v1.Image) // an image in, an image out
			digest, err := image.Digest()
			if err != nil {
				return moved, fmt.Errorf("change %s: %w", reference, err)
			}
			as = repo.Digest(digest.String())
		}
		if err := remote.Write(as, image, how...); err != nil {
			return moved, fmt.Errorf("push %s: %w", as, err)
		}
		moved++
	}
	return moved, nil
}

// Attached is what hangs on a digest: manifests that have it as their subject, by digest, and cosign's tag.
func (r Registry) Attached(ctx context.Context, repository, digest string) ([]name.Reference, error) {
	repo, how, err := r.repository(repository)
	if err != nil {
		return nil, err
	}
	how = append(how, remote.WithContext(ctx))
	index, err := remote.Referrers(repo.Digest(digest), how...)
	if err != nil {
		return nil, fmt.Errorf("what hangs on %s@%s: %w", repository, digest, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("what hangs on %s@%s: %w", repository, digest, err)
	}
	var all []name.Reference
	for _, d := range manifest.Manifests {
		all = append(all, repo.Digest(d.Digest.String()))
	}
	tag := repo.Tag(cosignTag(digest))
	switch _, err := remote.Head(tag, how...); {
	case missing(err):
	case err != nil:
		return nil, fmt.Errorf("what hangs on %s@%s: %w", repository, digest, err)
	default:
		all = append(all, tag)
	}
	return all, nil
}

// Remove deletes a tag and, when no other tag leads to the same image, what hangs on that.
func (r Registry) Remove(ctx context.Context, repository, tag string) error {
	digest, err := r.Digest(ctx, repository, tag)
	if err != nil || digest == "" {
		return err
	}
	repo, how, err := r.repository(repository)
	if err != nil {
		return err
	}
	how = append(how, remote.WithContext(ctx))
	gone := []name.Reference{repo.Tag(tag)}
	tags, err := remote.List(repo, how...)
	if err != nil {
		return fmt.Errorf("tags of %s: %w", repository, err)
	}
	shared := false
	for _, other := range tags {
		if other == tag {
			continue
		}
		same, err := r.Digest(ctx, repository, other)
		if err != nil {
			return err
		}
		shared = shared || same == digest
	}
	if !shared {
		hanging, err := r.Attached(ctx, repository, digest)
		if err != nil {
			return err
		}
		gone = slices.Concat(gone, hanging, []name.Reference{repo.Digest(digest)})
	}
	for _, reference := range gone {
		if err := remote.Delete(reference, how...); err != nil && !missing(err) {
			return fmt.Errorf("delete %s: %w", reference, err)
		}
	}
	return nil
}

func cosignTag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// missing says whether a registry has no such thing.
func missing(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound
}
