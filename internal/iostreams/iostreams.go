// Package iostreams is what a command may touch of the terminal: in, out, err, and the facts about them.
//
// Answers go to Out, everything else to ErrOut. Both let no credential through (Redactor). Whether to prompt, to colour or
// to wrap is asked here, so that every command decides alike and every test can choose.
package iostreams

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/term"
)

// Streams are the three streams of one command.
type Streams struct {
	In     io.Reader
	Out    io.Writer
	ErrOut io.Writer

	redactor *Redactor
	out, err *Writer
	env      func(string) string
	in       *bufio.Reader
	inFile   *os.File // nil in tests
	width    int      // 0: ask the terminal
	errFile  *os.File

	inTTY, outTTY, errTTY bool
}

// System returns the streams of this process.
func System(env func(string) string) *Streams {
	s := New(os.Stdin, os.Stdout, os.Stderr, env)
	s.inFile, s.errFile = os.Stdin, os.Stderr
	s.inTTY, s.outTTY, s.errTTY = isTerminal(os.Stdin), isTerminal(os.Stdout), isTerminal(os.Stderr)
	return s
}

// New returns streams that are no terminals.
func New(in io.Reader, out, errOut io.Writer, env func(string) string) *Streams {
	r := &Redactor{}
	s := &Streams{In: in, redactor: r, out: NewWriter(out, r), err: NewWriter(errOut, r), env: env, in: bufio.NewReader(in)}
	if s.env == nil {
		s.env = func(string) string { return "" }
	}
	s.Out, s.ErrOut = s.out, s.err
	return s
}

// Buffer is a stream of Test. It is safe to read while a command writes.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Test returns streams for a test: no terminal, no environment, in holding what was given.
func Test(in string) (s *Streams, out, errOut *Buffer) {
	out, errOut = &Buffer{}, &Buffer{}
	s = New(strings.NewReader(in), out, errOut, nil)
	s.width = 100
	return s, out, errOut
}

// SetTTY makes tests' streams pass for terminals; a secret is then read as a plain line.
func (s *Streams) SetTTY(in, out, errOut bool) { s.inTTY, s.outTTY, s.errTTY = in, out, errOut }

// SetWidth makes tests' streams as wide as a terminal.
func (s *Streams) SetWidth(columns int) { s.width = columns }

// Redactor blanks credentials in both outputs.
func (s *Streams) Redactor() *Redactor { return s.redactor }

// Flush writes what the outputs hold back.
func (s *Streams) Flush() {
	s.out.Flush()
	s.err.Flush()
}

// IsTerminal says which of the streams are terminals.
func (s *Streams) IsTerminal() (in, out, errOut bool) { return s.inTTY, s.outTTY, s.errTTY }

// CanPrompt says whether somebody is there to answer: questions go to ErrOut, answers come from In.
func (s *Streams) CanPrompt() bool { return s.inTTY && s.errTTY }

// ColorOut says whether Out may be coloured.
func (s *Streams) ColorOut() bool { return s.color(s.outTTY) }

// ColorErr says whether ErrOut may be coloured.
func (s *Streams) ColorErr() bool { return s.color(s.errTTY) }

// color follows no-color.org and bixense.com/clicolors.
func (s *Streams) color(tty bool) bool {
	switch {
	case s.env("NO_COLOR") != "":
		return false
	case s.env("CLICOLOR_FORCE") != "" && s.env("CLICOLOR_FORCE") != "0":
		return true
	case s.env("TERM") == "dumb" || s.env("CLICOLOR") == "0":
		return false
	}
	return tty
}

// Unicode says whether signs beyond ASCII are shown. Only a terminal or locale that says otherwise is refused them.
func (s *Streams) Unicode() bool {
	if s.env("TERM") == "dumb" || s.env("NOPSCTL_ASCII") != "" {
		return false
	}
	locale := s.env("LC_ALL")
	if locale == "" {
		locale = s.env("LC_CTYPE")
	}
	if locale == "" {
		locale = s.env("LANG")
	}
	_, charset, named := strings.Cut(locale, ".")
	charset, _, _ = strings.Cut(strings.ToLower(charset), "@")
	return !named || charset == "utf-8" || charset == "utf8"
}

// Width is the number of columns to fill.
func (s *Streams) Width() int {
	if s.width > 0 {
		return s.width
	}
	if n, err := strconv.Atoi(s.env("COLUMNS")); err == nil && n > 20 {
		return n
	}
	if s.errFile != nil && s.errTTY {
		if w, _, err := term.GetSize(int(s.errFile.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 100
}

// ErrNoTerminal says that a question could not be asked.
var ErrNoTerminal = errors.New("no terminal to ask on")

// Ask asks for a line.
func (s *Streams) Ask(ctx context.Context, question string) (string, error) {
	if !s.CanPrompt() {
		return "", ErrNoTerminal
	}
	fmt.Fprint(s.ErrOut, question)
	s.Flush()
	answer, err := await(ctx, s.line)
	if err != nil && ctx.Err() != nil {
		fmt.Fprintln(s.ErrOut)
	}
	return answer, err
}

// AskSecret asks for a line that is not shown while it is typed. The answer is known to the Redactor.
func (s *Streams) AskSecret(ctx context.Context, question string) (string, error) {
	if !s.CanPrompt() {
		return "", ErrNoTerminal
	}
	fmt.Fprint(s.ErrOut, question)
	s.Flush()
	read := s.line
	restore := func() {}
	if s.inFile != nil {
		fd := int(s.inFile.Fd())
		if state, err := term.GetState(fd); err == nil {
			// When the wait is cancelled the reader is still at it: the terminal must show what is typed afterwards.
			restore = func() { _ = term.Restore(fd, state) }
		}
		read = func() (string, error) {
			b, err := term.ReadPassword(fd)
			return string(b), err
		}
	}
	answer, err := await(ctx, read)
	restore()
	fmt.Fprintln(s.ErrOut)
	answer = strings.TrimSpace(answer)
	s.redactor.Add(answer)
	return answer, err
}

// ReadAll reads In to its end, up to a bound.
func (s *Streams) ReadAll(ctx context.Context, bound int64) ([]byte, error) {
	return await(ctx, func() ([]byte, error) {
		data, err := io.ReadAll(io.LimitReader(s.in, bound+1))
		if err == nil && int64(len(data)) > bound {
			return nil, fmt.Errorf("more than %d bytes", bound)
		}
		return data, err
	})
}

func (s *Streams) line() (string, error) {
	text, err := s.in.ReadString('\n')
	if errors.Is(err, io.EOF) && text != "" {
		err = nil
	}
	return strings.TrimRight(text, "\r\n"), err
}

// await lets a blocking read be cancelled. The read itself cannot be: it ends with the process.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err() //nolint:wrapcheck // the caller looks for exactly this
	case r := <-done:
		return r.value, r.err
	}
}

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd()))
}
