package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
	"github.com/nopsctl/nopsctl/pkg/verify/verdict"
)

// Options say how registries are asked.
type Options struct {
	// Transport carries the requests: trust, proxies. Nil means http.DefaultTransport.
	Transport http.RoundTripper
	UserAgent string // empty: "nopsctl"
	// Credential gives what a registry's host (with its port) is to be shown, such as credentials.Credential(store) of oras-go
	// on the docker configuration. It is asked only where anonymous readers are refused. Nil: there is nothing to show.
	Credential auth.CredentialFunc
	// Prefer are SHA-256 fingerprints (hexadecimal) of certificates that policies trust. Notary signatures that claim a chain
	// with one of them are read first. A hint: it decides about order, never about trust.
	Prefer []string
	Limits Limits
	// Lookup resolves hosts, for the check of redirects. Nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Registry reads from registries, whichever a reference names.
type Registry struct {
	o            Options
	mu           sync.Mutex
	repositories map[string]*repository // by "host/repository action,…"
}

var _ Shelf = (*Registry)(nil)

// New makes one. It remembers tokens by repository for as long as it lives: make one per run.
func New(o Options) *Registry {
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.UserAgent == "" {
		o.UserAgent = "nopsctl"
	}
	if o.Lookup == nil {
		o.Lookup = lookup
	}
	o.Limits = o.Limits.orDefault()
	return &Registry{o: o, repositories: map[string]*repository{}}
}

// Bound gives the context a budget. What is done under it shares the budget, so that resolving an artifact, its signatures and
// its labels together cost no more than the limits allow. Without it, each call has a budget of its own.
func (r *Registry) Bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return r.o.Limits.bound(ctx)
}

// Resolve implements Source.
func (r *Registry) Resolve(ctx context.Context, canonical, location ref.Reference) (Artifact, error) {
	ctx, cancel := r.Bound(ctx)
	defer cancel()
	return resolve(ctx, r, canonical, location)
}

// Signatures implements Source. Its error is that of nothing that a registry does: what cannot be read is in Failed and Broken.
func (r *Registry) Signatures(ctx context.Context, a Artifact) (Signatures, error) {
	ctx, cancel := r.Bound(ctx)
	defer cancel()
	return signatures(ctx, r, a, r.o.Limits, r.o.Prefer)
}

// Attachments implements Shelf.
func (r *Registry) Attachments(ctx context.Context, a Artifact) ([]Attachment, Signatures, error) {
	ctx, cancel := r.Bound(ctx)
	defer cancel()
	d := discover(ctx, r, a, r.o.Limits, r.o.Prefer)
	return d.attachments(), d.found, nil
}

// Fetch implements Shelf.
func (r *Registry) Fetch(ctx context.Context, at ref.Reference, d ocispec.Descriptor, limit int64) ([]byte, error) {
	ctx, cancel := r.Bound(ctx)
	defer cancel()
	data, err := fetch(ctx, r, at, d, limit)
	if err != nil {
		return nil, named(r.who(at), err)
	}
	return data, nil
}

// Labels implements Shelf.
func (r *Registry) Labels(ctx context.Context, a Artifact) (map[string]string, error) {
	ctx, cancel := r.Bound(ctx)
	defer cancel()
	return labels(ctx, r, a, r.o.Limits)
}

// Open implements Shelf.
func (r *Registry) Open(ctx context.Context, at ref.Reference, d ocispec.Descriptor) (io.ReadCloser, error) {
	res, err := r.get(ctx, at, "/blobs/"+d.Digest.String())
	if err != nil {
		return nil, named(r.who(at), err)
	}
	return res.Body, nil
}

// Remote is the repository of a reference for oras-go, with this Registry's rules on credentials and redirects; to write, name
// the actions "pull" and "push".
func (r *Registry) Remote(at ref.Reference, actions ...string) (*remote.Repository, error) {
	to := registry.Reference{Registry: at.Registry, Repository: at.Repository}
	if err := to.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	repository := r.repository(at, actions...)
	return &remote.Repository{Client: repository.known, Reference: to, PlainHTTP: repository.scheme == "http", MaxMetadataBytes: r.o.Limits.Manifest}, nil
}

func (r *Registry) who(at ref.Reference) string { return "registry " + at.Registry }

// repository is one repository of one registry. Tokens are kept by repository: none is shown to another registry, nor for
// another repository.
type repository struct {
	reference registry.Reference
	scheme    string
	host      string // to connect to
	actions   []string
	anonymous *auth.Client
	known     *auth.Client // shows credentials
	asKnown   atomic.Bool  // anonymous readers are refused
	settled   atomic.Bool  // it has given something: what it has not after that is not there
}

func (r *Registry) repository(at ref.Reference, actions ...string) *repository {
	if len(actions) == 0 {
		actions = []string{auth.ActionPull}
	}
	key := at.Name() + " " + strings.Join(actions, ",")
	r.mu.Lock()
	defer r.mu.Unlock()
	if found := r.repositories[key]; found != nil {
		return found
	}
	n := &repository{reference: registry.Reference{Registry: at.Registry, Repository: at.Repository}, scheme: "https", actions: actions}
	n.host = n.reference.Host()
	if isLoopbackName((&url.URL{Host: n.host}).Hostname()) {
		n.scheme = "http" // as every other tool
	}
	client := func(credential auth.CredentialFunc) *auth.Client {
		return &auth.Client{
			Client: &http.Client{
				Transport: &retry.Transport{Base: bounded{r.o.Transport}, Policy: retries},
				CheckRedirect: func(req *http.Request, via []*http.Request) error {
					return r.checkRedirect(req, via, n.host)
				},
			},
			Header: http.Header{"User-Agent": {r.o.UserAgent}}, Cache: auth.NewSingleContextCache(), Credential: credential,
		}
	}
	n.anonymous = client(nil)
	n.known = n.anonymous
	if r.o.Credential != nil {
		n.known = client(func(ctx context.Context, host string) (auth.Credential, error) {
			if host != n.host {
				return auth.EmptyCredential, nil
			}
			return r.o.Credential(ctx, host)
		})
	}
	r.repositories[key] = n
	return n
}

// retries are few and short: the budget pays for them.
func retries() retry.Policy {
	return &retry.GenericPolicy{MaxRetry: 2, MinWait: 100 * time.Millisecond, MaxWait: 3 * time.Second, Backoff: retry.DefaultBackoff,
		Retryable: func(res *http.Response, err error) (bool, error) {
			if err != nil {
				return errors.Is(err, io.ErrUnexpectedEOF) || isReset(err), err
			}
			switch res.StatusCode {
			case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
				return true, nil
			}
			return false, nil
		}}
}

var manifestTypes = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList}

// get asks for something below a repository. Readers are anonymous until they are refused: a login that has expired does not
// stand in the way of what is public.
func (r *Registry) get(ctx context.Context, at ref.Reference, path string, accept ...string) (*http.Response, error) {
	n := r.repository(at)
	if !n.asKnown.Load() {
		res, err := r.once(ctx, n, n.anonymous, path, accept)
		if err == nil {
			n.settled.Store(true)
		}
		if n.known == n.anonymous || !n.refusesAnonymous(err) {
			return res, err
		}
		credential, lookupErr := n.known.Credential(ctx, n.host)
		if lookupErr != nil && reasonAt(err) == verdict.RegistryDenied {
			return nil, failf(verdict.RegistryDenied, lookupErr, "does not give it to anonymous readers, and the credentials for it cannot be read: %s", printable(lookupErr.Error()))
		}
		if lookupErr != nil || credential == auth.EmptyCredential {
			return nil, err
		}
		res, again := r.once(ctx, n, n.known, path, accept)
		if again == nil {
			n.asKnown.Store(true)
			n.settled.Store(true)
		}
		return res, again
	}
	return r.once(ctx, n, n.known, path, accept)
}

func (r *Registry) once(ctx context.Context, n *repository, client *auth.Client, path string, accept []string) (*http.Response, error) {
	ctx = auth.AppendRepositoryScope(ctx, n.reference, n.actions...)
	target := path
	if strings.HasPrefix(path, "/manifests/") || strings.HasPrefix(path, "/blobs/") || strings.HasPrefix(path, "/referrers/") {
		target = n.scheme + "://" + n.host + "/v2/" + n.reference.Repository + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ", "))
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, statusOf(res)
	}
	return res, nil
}

// refusesAnonymous says whether it may help to log in. "Not found" is what some registries say of what is private.
func (n *repository) refusesAnonymous(err error) bool {
	if err == nil {
		return false
	}
	reason := reasonAt(err)
	return reason == verdict.RegistryDenied || reason == verdict.NotFound && !n.settled.Load()
}

// manifest implements shelf.
func (r *Registry) manifest(ctx context.Context, at ref.Reference, reference string) (served, error) {
	res, err := r.get(ctx, at, "/manifests/"+reference, manifestTypes...)
	if err != nil {
		return served{}, err
	}
	defer res.Body.Close()
	data, err := readUpTo(res.Body, r.o.Limits.Manifest, "a manifest")
	if err != nil {
		return served{}, err
	}
	s := served{data: data, digest: digest.FromBytes(data)}
	if s.mediaType, _, err = mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil {
		s.mediaType = ""
	}
	if said := digest.Digest(res.Header.Get("Docker-Content-Digest")); said != "" {
		if said.Validate() != nil {
			return served{}, failf(verdict.RegistryOdd, nil, "calls %q a digest", printable(said.String()))
		}
		if said.Algorithm().FromBytes(data) != said {
			return served{}, failf(verdict.RegistryLied, nil, "says %s, and serves bytes with %s", said, s.digest)
		}
	}
	if ref.IsDigest(reference) && s.digest.String() != reference {
		return served{}, failf(verdict.RegistryLied, nil, "was asked for %s, and serves bytes with %s", reference, s.digest)
	}
	return s, nil
}

// blob implements shelf.
func (r *Registry) blob(ctx context.Context, at ref.Reference, sum digest.Digest, limit int64) ([]byte, error) {
	res, err := r.get(ctx, at, "/blobs/"+sum.String())
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readUpTo(res.Body, limit, "a blob")
}

// referrers implements shelf. What was listed before an error is returned with it.
func (r *Registry) referrers(ctx context.Context, at ref.Reference, subject string, most int) ([]ocispec.Descriptor, bool, error) {
	var all []ocispec.Descriptor
	seen := map[string]bool{}
	path := "/referrers/" + subject
	for page := 0; path != ""; page++ {
		if page == r.o.Limits.Pages {
			return all, true, failf(verdict.LimitReached, nil, "lists referrers on more than %d pages", r.o.Limits.Pages)
		}
		seen[path] = true
		listed, next, err := r.page(ctx, at, path)
		if page == 0 && errors.Is(err, errNoReferrers) {
			return nil, false, nil
		}
		if err != nil {
			return all, true, err
		}
		all = append(all, listed...)
		if len(all) > most {
			return all[:most], true, failf(verdict.LimitReached, nil, "lists more than %d referrers", most)
		}
		if next != "" && seen[next] {
			return all, true, failf(verdict.RegistryOdd, nil, "lists referrers in a circle")
		}
		path = next
	}
	return all, true, nil
}

// errNoReferrers is that of a registry without the referrers API.
var errNoReferrers = errors.New("no referrers API")

func (r *Registry) page(ctx context.Context, at ref.Reference, path string) ([]ocispec.Descriptor, string, error) {
	res, err := r.get(ctx, at, path, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, "", orNoReferrers(err)
	}
	defer res.Body.Close()
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != ocispec.MediaTypeImageIndex {
		// A page for people, as some registries show at every address that they do not know.
		return nil, "", fmt.Errorf("%w: it answers with %q", errNoReferrers, kind)
	}
	data, err := readUpTo(res.Body, r.o.Limits.Manifest, "a page of referrers")
	if err != nil {
		return nil, "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, "", failf(verdict.RegistryOdd, err, "lists referrers in what is no JSON")
	}
	next, err := nextPage(res)
	return index.Manifests, next, err
}

// orNoReferrers recognizes registries without the referrers API. The specification says 404; others say that there is no such
// method, or nothing but "bad request".
func orNoReferrers(err error) error {
	switch statusIn(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest:
		return fmt.Errorf("%w: %w", errNoReferrers, err)
	}
	return err
}

// nextPage is where the list goes on: <URL>; rel="next". A registry that sends its readers elsewhere for that is not followed.
func nextPage(res *http.Response) (string, error) {
	for _, link := range res.Header.Values("Link") {
		rest, ok := strings.CutPrefix(strings.TrimSpace(link), "<")
		to, parameters, closed := strings.Cut(rest, ">")
		if !ok || !closed {
			return "", failf(verdict.RegistryOdd, nil, "links to the next page of referrers in a way that cannot be read")
		}
		if p := strings.ReplaceAll(strings.ToLower(parameters), `"`, ""); parameters != "" && !strings.Contains(p, "rel=next") {
			continue
		}
		next, err := res.Request.URL.Parse(to)
		if err != nil || next.Scheme != res.Request.URL.Scheme || next.Host != res.Request.URL.Host || !strings.HasPrefix(next.Path, "/v2/") || next.User != nil {
			return "", failf(verdict.RegistryOdd, err, "links to the next page of referrers outside itself")
		}
		return next.String(), nil
	}
	return "", nil
}
