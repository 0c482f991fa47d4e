package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// RuleFor is the rule for an image by its canonical name: the first that matches. There is none for what no rule is about,
// and that is no success.
func (p *Policy) RuleFor(name string) (Rule, bool) {
	for _, r := range p.Rules {
		if matchAny(r.Match, name) {
			return r, true
		}
	}
	return Rule{}, false
}

// ExceptionFor is the exception for an image. ok says that one applies now; expired, that none does, and the one returned did
// once. An exception for a digest is about those bytes alone.
func (p *Policy) ExceptionFor(name, digest string, now time.Time) (e Exception, expired, ok bool) {
	for _, one := range p.Exceptions {
		if one.Digest != "" && one.Digest != digest || !matchAny(one.Match, name) {
			continue
		}
		if now.Before(one.Expires) {
			return one, false, true
		}
		if !expired {
			e, expired = one, true
		}
	}
	return e, expired, false
}

// Leaves are all ways to sign that a requirement speaks of.
func (r Requirement) Leaves() []Leaf {
	var all []Leaf
	if r.Leaf != nil {
		all = append(all, *r.Leaf)
	}
	for _, list := range [][]Requirement{r.AnyOf, r.AllOf} {
		for _, one := range list {
			all = append(all, one.Leaves()...)
		}
	}
	return all
}

// Anchored is a pattern of a policy as one that matches as a whole: what fits only somewhere inside an identity is another
// identity (https://evil.example/https://github.com/nops-io).
func Anchored(pattern string) string { return "^(?:" + pattern + ")$" }

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if Match(p, name) {
			return true
		}
	}
	return false
}

// Match says whether a pattern fits a canonical name, REGISTRY/REPOSITORY. * stands for anything within one part between
// slashes, ** for one or more whole parts; all else is itself, case included.
func Match(pattern, name string) bool {
	return fits(strings.Split(pattern, "/"), strings.Split(name, "/"), glob)
}

// covers says whether all that q fits is sure to fit p, too.
func covers(p, q string) bool {
	return fits(strings.Split(p, "/"), strings.Split(q, "/"), func(p, q string) bool {
		switch {
		case q == "**": // fitted by ** alone, which fits does
			return false
		case strings.Contains(q, "*"):
			return p == q || p == "*"
		}
		return glob(p, q)
	})
}

// fits holds parts against parts. It is a table rather than a recursion: patterns come from files, and a**b**c must not take
// for ever.
func fits(pattern, parts []string, one func(pattern, part string) bool) bool {
	now := make([]bool, len(parts)+1) // now[j]: what was read of the pattern fits parts[:j]
	now[0] = true
	for _, p := range pattern {
		next := make([]bool, len(parts)+1)
		for j := 1; j <= len(parts); j++ {
			if p == "**" {
				next[j] = now[j-1] || next[j-1]
			} else {
				next[j] = now[j-1] && one(p, parts[j-1])
			}
		}
		now = next
	}
	return now[len(parts)]
}

// glob holds one part against a pattern in which * stands for any characters, none included.
func glob(pattern, part string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == part
	}
	part, ok := strings.CutPrefix(part, first)
	if !ok {
		return false
	}
	for {
		next, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(part, rest)
		}
		at := strings.Index(part, next)
		if at < 0 {
			return false
		}
		part, rest = part[at+len(next):], after
	}
}

const maxPattern = 400

// checkPattern says what is wrong with a pattern, and what to write.
func checkPattern(p string) (what, fix string) {
	const example = "for example public.ecr.aws/nops/**"
	switch {
	case p == "":
		return "the pattern is empty", example
	case len(p) > maxPattern:
		return fmt.Sprintf("the pattern has %d characters, of at most %d", len(p), maxPattern), example
	case strings.Contains(p, "://"):
		return "a pattern has no scheme", "leave out what stands before //, and it"
	case strings.Contains(p, "@"):
		return "a pattern is about names, not digests", "leave out what stands behind @"
	case p == "**":
		return "", ""
	}
	parts := strings.Split(p, "/")
	if len(parts) == 1 && strings.ContainsAny(p, ".:*") {
		return "the pattern is a registry without a repository", "for all that is there: " + p + "/**"
	}
	last := parts[len(parts)-1]
	if at := strings.LastIndex(last, ":"); at >= 0 && len(parts) > 1 {
		return "a pattern is about names, not tags", "leave out " + last[at:]
	}
	for _, part := range parts {
		if strings.Contains(part, "**") && part != "**" {
			return "** stands for whole parts between slashes, and is one by itself", "write * within a part, or /**"
		}
	}
	// With letters for the stars a pattern must be a name that images can have.
	plain := strings.ReplaceAll(strings.ReplaceAll(p, "**", "x/x"), "*", "x")
	if first := parts[0]; strings.Contains(first, "*") {
		_, rest, _ := strings.Cut(plain, "/")
		plain = "x.example/" + rest
		if first != "**" && first != "*" && !strings.ContainsAny(strings.Trim(first, "*"), ".:") {
			return "a pattern begins with a registry's host", example
		}
	}
	r, err := ref.Parse(plain)
	if err != nil {
		return "no image can have such a name: " + strings.ReplaceAll(err.Error(), plain, p), example
	}
	if r.Name() != plain {
		full := "docker.io/" + p
		if len(parts) == 1 {
			full = "docker.io/library/" + p
		} else if parts[0] == "docker.io" || parts[0] == "index.docker.io" {
			full = "docker.io/" + strings.TrimPrefix(p, parts[0]+"/")
			if len(parts) == 2 {
				full = "docker.io/library/" + parts[1]
			}
		}
		return "images are known by their full names, and none is called that", "did you mean " + full + "?"
	}
	return "", ""
}
