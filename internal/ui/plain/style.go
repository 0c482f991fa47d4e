package plain

import "github.com/nopsctl/nopsctl/pkg/event"

// Style says which signs and colours a writer may be sent. The zero value is ASCII without colour.
type Style struct{ Color, Unicode bool }

func (s Style) paint(code, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold is for names and headings.
func (s Style) Bold(text string) string { return s.paint("1", text) }

// Dim is for what may be skipped when reading.
func (s Style) Dim(text string) string { return s.paint("2", text) }

// Accent is for advice.
func (s Style) Accent(text string) string { return s.paint("36", text) }

// Good is for what is well.
func (s Style) Good(text string) string { return s.paint("32", text) }

// Warning is for what deserves a look.
func (s Style) Warning(text string) string { return s.paint("33", text) }

// Bad is for what failed.
func (s Style) Bad(text string) string { return s.paint("31", text) }

// Glyph is the sign of an outcome. Signs never stand alone for something bad: a word follows.
func (s Style) Glyph(o event.Outcome) string {
	sign := map[event.Outcome][2]string{
		event.OK: {"✓", "+"}, event.Unchanged: {"✓", "+"}, event.Skipped: {"·", "-"}, event.Warned: {"!", "!"},
		event.Failed: {"✗", "x"}, event.TimedOut: {"✗", "x"}, event.Cancelled: {"✗", "x"}, event.Unknown: {"?", "?"},
	}[o]
	if s.Unicode {
		return sign[0]
	}
	return sign[1]
}

// Sign is the glyph in its colour.
func (s Style) Sign(o event.Outcome) string { return s.tint(o, s.Glyph(o)) }

// Word is the outcome in its colour.
func (s Style) Word(o event.Outcome) string { return s.tint(o, string(o)) }

func (s Style) tint(o event.Outcome, text string) string {
	switch o {
	case event.OK, event.Unchanged:
		return s.Good(text)
	case event.Warned, event.Unknown:
		return s.Warning(text)
	case event.Failed, event.TimedOut, event.Cancelled:
		return s.Bad(text)
	case event.Skipped:
	}
	return s.Dim(text)
}

func (s Style) either(unicode, ascii string) string {
	if s.Unicode {
		return unicode
	}
	return ascii
}

func (s Style) arrow() string    { return s.either("→", "->") }
func (s Style) bullet() string   { return s.either("·", "-") }
func (s Style) dash() string     { return s.either("–", "-") }
func (s Style) ellipsis() string { return s.either("…", "...") }
