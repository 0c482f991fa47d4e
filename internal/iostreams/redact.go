package iostreams

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"sync"
)

// Redacted is what stands where a credential was.
const Redacted = "[REDACTED]"

// shortest is the least length of a registered secret: blanking shorter ones would make the output unreadable, and they
// protect nothing.
const shortest = 6

// keyForm is the form of an nOps API key. Keys nobody registered, such as one in an error of somebody else's server, match it.
var keyForm = regexp.MustCompile(`\d{1,8}\.[0-9a-zA-Z]{32}`)

// keyStart matches the end of a text that may be the beginning of a key.
var keyStart = regexp.MustCompile(`(\d{1,8}|\d{1,8}\.[0-9a-zA-Z]{0,31})$`)

// A Redactor knows the credentials of one command. The zero value knows the form of API keys.
type Redactor struct {
	mu      sync.RWMutex
	secrets []string // longest first, so that one that contains another is blanked whole
}

// Add makes a credential known, and the forms in which it may turn up: base64, and escaped in a URL.
func (r *Redactor) Add(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range secrets {
		s = strings.TrimSpace(s)
		if len(s) < shortest {
			continue
		}
		for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)), url.QueryEscape(s), url.PathEscape(s)} {
			if !contains(r.secrets, form) {
				r.secrets = append(r.secrets, form)
			}
		}
	}
	sort.SliceStable(r.secrets, func(i, j int) bool { return len(r.secrets[i]) > len(r.secrets[j]) })
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// Redact blanks every credential in a text.
func (r *Redactor) Redact(text string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.secrets {
		text = strings.ReplaceAll(text, s, Redacted)
	}
	return keyForm.ReplaceAllString(text, Redacted)
}

// pending is where in a text something begins that may become a credential with what is written next.
func (r *Redactor) pending(text string) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	at := len(text)
	if loc := keyStart.FindStringIndex(text); loc != nil {
		at = loc[0]
	}
	for _, s := range r.secrets {
		for n := min(len(s)-1, len(text)); n > len(text)-at; n-- {
			if strings.HasSuffix(text, s[:n]) {
				at = len(text) - n
				break
			}
		}
	}
	return at
}

// Writer is a writer that lets no credential through, not even one that comes in pieces: what may be the beginning of one
// is held back until the next write or Flush shows what it is.
type Writer struct {
	mu       sync.Mutex
	to       io.Writer
	redactor *Redactor
	held     []byte
}

// NewWriter returns a Writer before w.
func NewWriter(w io.Writer, r *Redactor) *Writer { return &Writer{to: w, redactor: r} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(append(w.held, p...))
	// Credentials hold no line breaks, so a complete line is safe to judge.
	cut := len(text)
	if !bytes.HasSuffix(p, []byte("\n")) {
		cut = w.redactor.pending(text)
	}
	w.held = []byte(text[cut:])
	if cut == 0 {
		return len(p), nil
	}
	if _, err := io.WriteString(w.to, w.redactor.Redact(text[:cut])); err != nil {
		return 0, err //nolint:wrapcheck // a writer hands on the error of its writer
	}
	return len(p), nil
}

// Flush writes what is held back.
func (w *Writer) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) > 0 {
		_, _ = io.WriteString(w.to, w.redactor.Redact(string(w.held)))
		w.held = nil
	}
}
