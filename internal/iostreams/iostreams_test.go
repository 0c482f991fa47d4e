package iostreams

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

const canary = "4242.0123456789abcdef0123456789abcdef"

func TestRedactor(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		secrets      []string
		text, want   string
	}{
		{name: "key by its form", reason: "a key nobody registered is still a key", text: "key " + canary + ".", want: "key [REDACTED]."},
		{name: "registered", reason: "an AWS secret has no form of its own", secrets: []string{"wJalrXUtnFEMI/K7MDENG+key"}, text: "secret=wJalrXUtnFEMI/K7MDENG+key;", want: "secret=[REDACTED];"},
		{name: "base64", reason: "that is how Kubernetes shows Secrets", secrets: []string{"wJalrXUtnFEMI/K7MDENG+key"}, text: "d0phbHJYVXRuRkVNSS9LN01ERU5HK2tleQ==", want: "[REDACTED]"},
		{name: "in a URL", reason: "errors of net/http quote URLs", secrets: []string{"wJalrXUtnFEMI/K7MDENG+key"}, text: "?k=wJalrXUtnFEMI%2FK7MDENG%2Bkey", want: "?k=[REDACTED]"},
		{name: "one inside another", reason: "the longer one must go whole", secrets: []string{"abcdef", "abcdefgh"}, text: "abcdefgh abcdef", want: "[REDACTED] [REDACTED]"},
		{name: "too short", reason: "a secret of one letter would blank every word", secrets: []string{"a"}, text: "a cat", want: "a cat"},
		{name: "digest", reason: "digests and versions are no keys", text: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef v1.130.0", want: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef v1.130.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &Redactor{}
			r.Add(tt.secrets...)
			if got := r.Redact(tt.text); got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, tt.reason)
			}
		})
	}
}

// TestWriterPieces cuts a text with secrets at every place, into two and into single bytes: nothing comes through.
func TestWriterPieces(t *testing.T) {
	const secret = "s3cr3t/Value+"
	text := "a " + canary + " b " + secret + " 12 c\n4242.012 d " + secret + secret
	want := "a [REDACTED] b [REDACTED] 12 c\n4242.012 d [REDACTED][REDACTED]"
	check := func(t *testing.T, pieces ...string) {
		t.Helper()
		var buf bytes.Buffer
		r := &Redactor{}
		r.Add(secret)
		w := NewWriter(&buf, r)
		for _, p := range pieces {
			if n, err := io.WriteString(w, p); err != nil || n != len(p) {
				t.Fatalf("wrote %d of %d: %v", n, len(p), err)
			}
		}
		w.Flush()
		if buf.String() != want {
			t.Errorf("pieces %q: got %q", pieces, buf.String())
		}
	}
	for i := range text {
		check(t, text[:i], text[i:])
	}
	check(t, strings.Split(text, "")...)
}

func TestPromptIsNotHeldBack(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf, &Redactor{})
	_, _ = io.WriteString(w, "Proceed? [y/N] ")
	if buf.String() != "Proceed? [y/N] " {
		t.Errorf("a question must be seen before it is answered, got %q", buf.String())
	}
}

func TestColour(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		env          map[string]string
		tty, want    bool
	}{
		{name: "terminal", reason: "colour where it is seen", tty: true, want: true},
		{name: "pipe", reason: "no codes in files", want: false},
		{name: "NO_COLOR", reason: "no-color.org", tty: true, env: map[string]string{"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, want: false},
		{name: "forced", reason: "CI that shows colour", env: map[string]string{"CLICOLOR_FORCE": "1"}, want: true},
		{name: "dumb", reason: "the terminal says it cannot", tty: true, env: map[string]string{"TERM": "dumb"}, want: false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(strings.NewReader(""), io.Discard, io.Discard, func(k string) string { return tt.env[k] })
			s.SetTTY(tt.tty, tt.tty, tt.tty)
			if got := s.ColorOut(); got != tt.want {
				t.Errorf("got %v: %s", got, tt.reason)
			}
		})
	}
}

func TestUnicode(t *testing.T) {
	for locale, want := range map[string]bool{"": true, "en_US.UTF-8": true, "C": true, "de_DE.ISO-8859-1": false, "de_DE.utf8@euro": true} {
		s := New(strings.NewReader(""), io.Discard, io.Discard, func(k string) string { return map[string]string{"LANG": locale}[k] })
		if s.Unicode() != want {
			t.Errorf("LANG=%q: got %v", locale, !want)
		}
	}
}

func TestAsk(t *testing.T) {
	s, _, errOut := Test("yes\n" + canary + "\n")
	if _, err := s.Ask(t.Context(), "Proceed? "); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("asked without a terminal: %v", err)
	}
	s.SetTTY(true, true, true)
	if got, err := s.Ask(t.Context(), "Proceed? "); err != nil || got != "yes" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := s.AskSecret(t.Context(), "Key: "); err != nil || got != canary {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Ask(t.Context(), "More? "); !errors.Is(err, io.EOF) {
		t.Errorf("end of input: %v", err)
	}
	if strings.Contains(errOut.String(), canary) {
		t.Errorf("the key was shown: %s", errOut)
	}
}

func TestAskIsCancelled(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	s := New(r, io.Discard, io.Discard, nil)
	s.SetTTY(true, true, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ask(ctx, "Proceed? "); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestReadAllIsBounded(t *testing.T) {
	s, _, _ := Test("12345")
	if _, err := s.ReadAll(t.Context(), 4); err == nil {
		t.Error("read more than the bound")
	}
}
