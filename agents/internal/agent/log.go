package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// minSecret is the length from which a value is taken for a credential: replacing shorter ones would garble every line.
const minSecret = 6

// ParseLevel reads a log level.
func ParseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return l, fmt.Errorf("--log-level (%s): %q is none of debug, info, warn, error", EnvLogLevel, s)
	}
	return l, nil
}

// NewLogger writes JSON lines in which none of the secrets appears, wherever it came from – message, value, key or the
// text of an error – nor the value of an attribute whose name says that it is one.
func NewLogger(w io.Writer, level slog.Level, secrets ...string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(NewRedactor(w, secrets...), &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if secretName(a.Key) {
				return slog.String(a.Key, Redacted)
			}
			return a
		},
	}))
}

// Redacted stands where a credential would.
const Redacted = "REDACTED"

func secretName(key string) bool {
	key = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
	for _, part := range []string{"apikey", "accesskey", "secretkey", "password", "authorization", "token", "credential"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	return false
}

// Redactor is a writer that replaces secrets in what passes. It sees one write at a time, which for a line-wise handler is
// one line.
type Redactor struct {
	w        io.Writer
	replacer *strings.Replacer
}

var _ io.Writer = (*Redactor)(nil)

// NewRedactor writes to w. Secrets are replaced in their plain form and as JSON would escape them.
func NewRedactor(w io.Writer, secrets ...string) *Redactor {
	var pairs []string
	for _, s := range secrets {
		if len(s) < minSecret {
			continue
		}
		pairs = append(pairs, s, Redacted)
		// Encoders differ in whether they escape what means something in HTML.
		for _, html := range []bool{false, true} {
			var quoted strings.Builder
			enc := json.NewEncoder(&quoted)
			enc.SetEscapeHTML(html)
			if err := enc.Encode(s); err != nil { // strings always encode
				continue
			}
			if line := strings.TrimSuffix(quoted.String(), "\n"); line[1:len(line)-1] != s {
				pairs = append(pairs, line[1:len(line)-1], Redacted)
			}
		}
	}
	return &Redactor{w: w, replacer: strings.NewReplacer(pairs...)}
}

// Write implements io.Writer.
func (r *Redactor) Write(p []byte) (int, error) {
	if _, err := r.replacer.WriteString(r.w, string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// String replaces the secrets in s.
func (r *Redactor) String(s string) string { return r.replacer.Replace(s) }
