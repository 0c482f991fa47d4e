// Package ref names artifacts in registries: references, mirrors, and references that verification has admitted.
//
// It is a leaf, so that the installer can demand an admitted reference without importing what admits it.
package ref

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Reference names an image or a chart in a registry. Registry and Repository are always there; Tag or Digest may be empty.
type Reference struct {
	Registry   string // host, with a port where there is one: "public.ecr.aws", "127.0.0.1:5000"
	Repository string // "nops/k8s-heartbeat-agent"
	Tag        string
	Digest     string // "sha256:" and 64 lower-case hexadecimal digits
}

// The grammar of the distribution specification; lengths are its too, or those of DNS.
var (
	registryPattern   = regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	digestPattern     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

const (
	maxReference  = 1024
	maxRepository = 255 // as for every container runtime
	dockerHub     = "docker.io"
)

// IsDigest says whether s is a digest that this project takes: SHA-256 alone, as everything here is pinned by it.
func IsDigest(s string) bool { return digestPattern.MatchString(s) }

// IsRegistry says whether s is a registry's host, with or without a port.
func IsRegistry(s string) bool { return registryPattern.MatchString(s) }

// Parse reads REGISTRY/REPOSITORY[:TAG][@DIGEST]. A first part that is no host means Docker Hub, as for every container
// runtime. Neither tag nor digest is made up: without both, what is meant is the tag "latest" (see OrLatest).
func Parse(s string) (Reference, error) {
	var r Reference
	fail := func(why string) (Reference, error) { return Reference{}, &ParseError{Input: s, Why: why} }
	switch {
	case s == "":
		return fail("it is empty")
	case len(s) > maxReference:
		return fail(fmt.Sprintf("it has %d characters, of at most %d", len(s), maxReference))
	case strings.Contains(s, "://"):
		return fail("a reference has no scheme: leave out what stands before //, and it")
	}
	name, digest, pinned := strings.Cut(s, "@")
	if pinned {
		if !IsDigest(digest) {
			return fail("the digest after @ is not sha256: with 64 lower-case hexadecimal digits")
		}
		r.Digest = digest
	}
	if at := strings.LastIndex(name, ":"); at > strings.LastIndex(name, "/") {
		name, r.Tag = name[:at], name[at+1:]
		if !tagPattern.MatchString(r.Tag) {
			return fail("the tag is not made of letters, digits, dots, dashes and underscores, or is too long")
		}
	}
	first, rest, several := strings.Cut(name, "/")
	if several && (strings.ContainsAny(first, ".:[") || first == "localhost" || strings.ToLower(first) != first) {
		r.Registry, r.Repository = first, rest
	} else {
		r.Registry, r.Repository = dockerHub, name
	}
	r = r.official()
	switch {
	case !registryPattern.MatchString(r.Registry):
		return fail(fmt.Sprintf("%.100q is no registry's host", r.Registry))
	case !repositoryPattern.MatchString(r.Repository):
		return fail(fmt.Sprintf("%.100q is no repository: lower-case letters, digits and . _ - between slashes", r.Repository))
	case len(r.Repository) > maxRepository:
		return fail(fmt.Sprintf("its repository has %d characters, of at most %d", len(r.Repository), maxRepository))
	}
	return r, nil
}

// official gives what is on Docker Hub its one name: docker.io/nginx and index.docker.io/nginx are docker.io/library/nginx to
// every container runtime, and a policy must not see three images.
func (r Reference) official() Reference {
	if r.Registry == "index.docker.io" {
		r.Registry = dockerHub
	}
	if r.Registry == dockerHub && r.Repository != "" && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	return r
}

// ParseError says why a text is no reference.
type ParseError struct{ Input, Why string }

// Error implements error.
func (e *ParseError) Error() string {
	input := e.Input
	if len(input) > 200 {
		input = input[:200] + "…"
	}
	return fmt.Sprintf("%q is no image reference: %s", input, e.Why)
}

// Hint says what one looks like.
func (e *ParseError) Hint() string {
	return "for example public.ecr.aws/nops/k8s-heartbeat-agent:0.1.0, or the same with @sha256:…"
}

// Name is what policies speak of: registry and repository.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// String is the reference in full, as Parse reads it.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// OrLatest is r with the tag that container runtimes add where there is neither tag nor digest.
func (r Reference) OrLatest() Reference {
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r
}

// At is r pinned to a digest; the tag stays for people to read.
func (r Reference) At(digest string) Reference {
	r.Digest = digest
	return r
}

// Mirror says that what is under From is also under To. Both are a registry, or a registry and the beginning of a
// repository, without a scheme and without a slash at the end.
type Mirror struct{ From, To string }

// Mirrors are looked through in order; the first that fits counts.
type Mirrors []Mirror

// ParseMirrors reads REGISTRY=MIRROR pairs.
func ParseMirrors(given []string) (Mirrors, error) {
	var all Mirrors
	for _, g := range given {
		from, to, ok := strings.Cut(g, "=")
		from, to = strings.TrimSuffix(strings.TrimSpace(from), "/"), strings.TrimSuffix(strings.TrimSpace(to), "/")
		if !ok || !isPrefix(from) || !isPrefix(to) {
			return nil, fmt.Errorf("%q: %w", g, ErrMirror)
		}
		for _, other := range all {
			if other.To == to && other.From != from {
				return nil, fmt.Errorf("%q: %w, and what is there could not be told apart from what comes from %s", g, ErrShared, other.From)
			}
		}
		all = append(all, Mirror{from, to})
	}
	return all, nil
}

// What ParseMirrors says of what it cannot use.
var (
	ErrMirror = errors.New("expected REGISTRY=MIRROR, without a scheme")
	// ErrShared is about two registries behind one mirror: a policy would judge an image of one by the rules of the other.
	ErrShared = errors.New("another registry is mirrored there already")
)

func isPrefix(s string) bool {
	registry, repository, deeper := strings.Cut(s, "/")
	return registryPattern.MatchString(registry) && (!deeper || repositoryPattern.MatchString(repository))
}

// Locate is where a reference is to be asked for.
func (m Mirrors) Locate(r Reference) Reference {
	for _, one := range m {
		if at, ok := move(r, one.From, one.To); ok {
			return at
		}
	}
	return r
}

// Canonical is the name under which policies know a reference that may name a mirror.
func (m Mirrors) Canonical(r Reference) Reference {
	for _, one := range m {
		if at, ok := move(r, one.To, one.From); ok {
			return at
		}
	}
	return r
}

func move(r Reference, from, to string) (Reference, bool) {
	rest, ok := strings.CutPrefix(r.Name()+"/", from+"/")
	if !ok {
		return r, false
	}
	rest = strings.TrimSuffix(rest, "/")
	registry, repository, _ := strings.Cut(strings.TrimSuffix(to+"/"+rest, "/"), "/")
	if repository == "" {
		return r, false
	}
	r.Registry, r.Repository = registry, repository
	return r.official(), true
}
