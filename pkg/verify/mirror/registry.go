package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nopsctl/nopsctl/pkg/verify/oci"
	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Registry is a To: whatever registry an item's reference names.
type Registry struct{ r *oci.Registry }

var _ To = (*Registry)(nil)

// ToRegistry copies to registries.
func ToRegistry(r *oci.Registry) *Registry { return &Registry{r} }

// Read implements To.
func (r *Registry) Read(context.Context) (oci.Shelf, func(), error) { return r.r, func() {}, nil }

func (r *Registry) remote(at ref.Reference) (*remote.Repository, error) {
	repository, err := r.r.Remote(at, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return nil, err
	}
	// Manifests are stored and nothing else: whether they are found is looked at afterwards, and not believed from a header.
	return repository, repository.SetReferrersCapability(true)
}

// Has implements To.
func (r *Registry) Has(ctx context.Context, at ref.Reference, d ocispec.Descriptor) (bool, error) {
	repository, err := r.remote(at)
	if err != nil {
		return false, err
	}
	if oci.IsManifest(d.MediaType) {
		return repository.Manifests().Exists(ctx, d)
	}
	return repository.Blobs().Exists(ctx, d)
}

// PutBlob implements To.
func (r *Registry) PutBlob(ctx context.Context, at ref.Reference, d ocispec.Descriptor, content io.Reader) error {
	repository, err := r.remote(at)
	if err != nil {
		return err
	}
	return repository.Blobs().Push(ctx, d, content)
}

// PutManifest implements To.
func (r *Registry) PutManifest(ctx context.Context, at ref.Reference, d ocispec.Descriptor, manifest []byte, tag string) (bool, error) {
	repository, err := r.remote(at)
	if err != nil {
		return false, err
	}
	reference := tag
	if reference == "" {
		reference = d.Digest.String()
	}
	there, err := repository.Manifests().Resolve(ctx, reference)
	switch {
	case err == nil && there.Digest == d.Digest:
		return false, nil
	case err != nil && !errors.Is(err, errdef.ErrNotFound):
		return false, err
	}
	return true, repository.Manifests().PushReference(ctx, d, bytes.NewReader(manifest), reference)
}

// refusal is why a place did not take something, as a sentence.
func refusal(at ref.Reference, err error) error {
	var done *oci.Error
	if errors.As(err, &done) {
		return done
	}
	var refused *errcode.ErrorResponse
	if errors.As(err, &refused) {
		finding := func(reason verdict.Reason, format string, args ...any) error {
			return &oci.Error{Finding: verdict.Fail(reason, format, args...), Err: err}
		}
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return finding(verdict.RegistryDenied, "registry %s does not take %s from this writer (HTTP %d)", at.Registry, at.Name(), refused.StatusCode)
		case http.StatusNotFound:
			return finding(verdict.NotFound, "registry %s has no repository %s: it must be made before something is copied there", at.Registry, at.Repository)
		}
		return finding(verdict.RegistryOdd, "registry %s does not take %s (HTTP %d)", at.Registry, at.Name(), refused.StatusCode)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return &oci.Error{Finding: verdict.Fail(verdict.RegistryDenied, "registry %s takes nothing from writers that it does not know", at.Registry), Err: err}
	}
	if _, local := errors.AsType[*layoutError](err); local {
		return fmt.Errorf("copy to %s: %w", at, err)
	}
	return oci.Explain(at, err)
}

// isRefusedForm says whether a registry refuses manifests of OCI 1.1, as some of ECR do: 405, or 400 with some excuse.
func isRefusedForm(err error) bool {
	var refused *errcode.ErrorResponse
	return errors.As(err, &refused) && (refused.StatusCode == http.StatusMethodNotAllowed || refused.StatusCode == http.StatusBadRequest || refused.StatusCode == http.StatusUnsupportedMediaType)
}

// passing says whether it may help to try again.
func passing(err error) bool {
	var known *oci.Error
	if !errors.As(err, &known) {
		return false
	}
	switch known.Finding.Reason {
	case verdict.RegistryUnreachable, verdict.TimedOut:
		return true
	case verdict.RegistryOdd:
		var refused *errcode.ErrorResponse
		return !errors.As(err, &refused) || refused.StatusCode >= http.StatusInternalServerError || refused.StatusCode == http.StatusTooManyRequests
	}
	return false
}
