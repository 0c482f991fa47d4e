package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nopsctl/nopsctl/pkg/install"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// publicRegistry is where the stack's images are published.
const publicRegistry = "public.ecr.aws"

// mirror says that what is under From is also under To.
type mirror struct{ From, To string }

// parseMirrors reads A=B.
func parseMirrors(given []string) ([]mirror, error) {
	var all []mirror
	for _, g := range given {
		from, to, ok := strings.Cut(g, "=")
		from, to = strings.TrimSuffix(from, "/"), strings.TrimSuffix(strings.TrimSpace(to), "/")
		if !ok || from == "" || to == "" || strings.Contains(from, "://") || strings.Contains(to, "://") {
			return nil, usageHint("for example --registry-mirror public.ecr.aws=registry.example.com/public-ecr", "--registry-mirror %q: expected REGISTRY=MIRROR, without a scheme", g)
		}
		all = append(all, mirror{from, to})
	}
	return all, nil
}

// rewrite is where a reference is to be looked for.
func rewrite(mirrors []mirror, reference string) string {
	for _, m := range mirrors {
		if rest, ok := strings.CutPrefix(reference, m.From+"/"); ok {
			return m.To + "/" + rest
		}
	}
	return reference
}

// registryOptions say how registries are asked.
type registryOptions struct {
	Mirrors   []mirror
	CABundle  []byte
	UserAgent string
}

// newResolver asks registries, anonymously, through the proxy of the environment. The engine bounds each look-up in time.
func newResolver(o registryOptions) install.ImageResolver {
	return install.ImageResolverFunc(func(ctx context.Context, reference string) (install.ImageInfo, error) {
		via, err := nopsclient.Transport(o.CABundle)
		if err != nil {
			return install.ImageInfo{}, err
		}
		if t, ok := via.(*http.Transport); ok {
			defer t.CloseIdleConnections()
		}
		return resolve(ctx, rewrite(o.Mirrors, reference), &auth.Client{
			Client: &http.Client{Transport: via}, Header: http.Header{"User-Agent": {o.UserAgent}}, Cache: auth.NewCache(),
		})
	})
}

// maxManifest bounds manifests and configurations; both are a few KiB.
const maxManifest = 4 << 20

func resolve(ctx context.Context, reference string, client remote.Client) (install.ImageInfo, error) {
	repository, err := remote.NewRepository(reference)
	if err != nil {
		return install.ImageInfo{}, fmt.Errorf("not an image reference: %w", err)
	}
	host := repository.Reference.Registry
	name, _, _ := strings.Cut(host, ":")
	repository.Client, repository.MaxMetadataBytes = client, maxManifest
	repository.PlainHTTP = name == "localhost" || name == "127.0.0.1" // as every other tool
	found, manifest, err := fetch(ctx, repository, repository.Reference.ReferenceOrDefault())
	if err != nil {
		return install.ImageInfo{}, registryError(host, err)
	}
	info := install.ImageInfo{Digest: found.Digest.String()}
	if len(manifest.Manifests) > 0 {
		// All platforms of an image are one build; any of them tells whose.
		if _, manifest, err = fetch(ctx, repository, manifest.Manifests[0].Digest.String()); err != nil {
			return info, registryError(host, err)
		}
	}
	if manifest.Config.Size > maxManifest {
		return info, fmt.Errorf("registry %s: the image's configuration has %d bytes", host, manifest.Config.Size)
	}
	data, err := content.FetchAll(ctx, repository.Blobs(), manifest.Config)
	if err != nil {
		return info, registryError(host, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return info, fmt.Errorf("registry %s: the image's configuration is no JSON: %w", host, err)
	}
	info.Labels = config.Config.Labels
	return info, nil
}

// document is a manifest or an index of manifests.
type document struct {
	Config    ocispec.Descriptor   `json:"config"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

func fetch(ctx context.Context, repository *remote.Repository, reference string) (ocispec.Descriptor, document, error) {
	var d document
	found, body, err := repository.Manifests().FetchReference(ctx, reference)
	if err != nil {
		return found, d, err
	}
	defer body.Close()
	data, err := content.ReadAll(io.LimitReader(body, maxManifest), found) // verifies the digest
	if err != nil {
		return found, d, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return found, d, fmt.Errorf("manifest of %s: %w", reference, err)
	}
	return found, d, nil
}

// registryError says in few words what the registry said.
func registryError(host string, err error) error {
	var refused *errcode.ErrorResponse
	var at *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("registry %s does not answer in time: %w", host, context.DeadlineExceeded)
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("registry %s has no such image", host)
	case errors.As(err, &refused):
		switch refused.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("registry %s has no such image", host)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("registry %s does not give it to anonymous readers (HTTP %d)", host, refused.StatusCode)
		}
		return fmt.Errorf("registry %s answers HTTP %d", host, refused.StatusCode)
	case errors.As(err, &at):
		return fmt.Errorf("registry %s cannot be reached: %w", host, at.Err)
	}
	return fmt.Errorf("registry %s: %w", host, err)
}
