package extract

import (
	"regexp"
	"strings"

	"github.com/nopsctl/nopsctl/pkg/verify/ref"
)

// span is a part of a text.
type span struct{ from, to int }

var (
	token     = regexp.MustCompile(`[A-Za-z0-9][A-Za-z0-9._/:@-]*`)
	lastWord  = regexp.MustCompile(`([A-Za-z0-9_./-]+)\\*["']?\s*[=:]\s*\\*["']?$`) // backslashes: JSON in JSON
	schemes   = regexp.MustCompile(`^(?:docker|oci|docker-pullable)://`)
	tagWords  = regexp.MustCompile(`^(?:latest|stable|edge|main|master|nightly|release|alpine|slim|debian|distroless)$`)
	lettered  = regexp.MustCompile(`[A-Za-z]`)
	numbered  = regexp.MustCompile(`[0-9]`)
	pictures  = regexp.MustCompile(`(?i)\.(?:png|jpe?g|svg|gif|ico|webp|bmp|tiff?)$`)
	mediaType = regexp.MustCompile(`^image/[a-z.+-]+$`)
)

// lookBehind is how much of a text before a word is looked at for what the word is the value of.
const lookBehind = 100

// scan finds what looks like images in a text that is the value of name. Where nothing says that an image is meant, only what
// has a registry and a version is one; behind a name such as --image, RELATED_IMAGE_X or sidecarImage, less will do.
func scan(text, name string) []span {
	var found []span
	for _, at := range token.FindAllStringIndex(text, -1) {
		from, to := at[0], at[1]
		if from > 0 && strings.IndexByte("/.$})%@:\\~", text[from-1]) >= 0 || to < len(text) && strings.IndexByte("${%*(", text[to]) >= 0 {
			continue // a part of a path, or of a template
		}
		word := strings.TrimRight(text[from:to], "./:@-")
		if scheme := schemes.FindString(word); scheme != "" {
			word, from = word[len(scheme):], from+len(scheme)
		}
		if !strings.ContainsAny(word, "/:@") {
			continue // a word like any other
		}
		r, err := ref.Parse(word)
		if err != nil {
			continue
		}
		if certain(word, r) || meant(text[:from], name) && !mediaType.MatchString(word) && !pictures.MatchString(word) {
			found = append(found, span{from, from + len(word)})
		}
	}
	return found
}

// certain says whether a word looks like an image wherever it stands: a registry's host, a repository, and a digest or a tag
// that looks like a version. Keys of labels, addresses with paths and names of recording rules do not.
func certain(word string, r ref.Reference) bool {
	first, _, ok := strings.Cut(word, "/")
	host, port, _ := strings.Cut(first, ":")
	switch {
	case !ok || !strings.ContainsAny(first, ".:") && first != "localhost":
		return false
	case !lettered.MatchString(host) && port == "": // 1.2/3:4
		return false
	case host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io"): // kubernetes.io/arch:amd64
		return false
	}
	return r.Digest != "" || numbered.MatchString(r.Tag) || tagWords.MatchString(r.Tag)
}

// meant says whether what stands before a word says that the word is an image.
func meant(before, name string) bool {
	if len(before) > lookBehind {
		before = before[len(before)-lookBehind:]
	}
	if m := lastWord.FindStringSubmatch(before); m != nil {
		return namesImage(m[1])
	}
	return namesImage(name)
}

// namesImage says whether the value of such an option, variable or field is an image.
func namesImage(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, "image") || strings.HasSuffix(name, "images") || strings.HasSuffix(name, "-reloader") || strings.HasPrefix(name, "related_image_")
}
