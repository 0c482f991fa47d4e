// Package plain is the face for people: one line for what happened, when it happened, in words that make sense alone.
//
// It moves no cursor and repaints nothing, so that logs, screen readers and a terminal get the same. Progress and answers
// go to different writers; only checks of a connectivity test are an answer.
package plain

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/internal/ui"
	"github.com/nopsctl/nopsctl/pkg/event"
)

// Options of a Face.
type Options struct {
	Progress io.Writer // steps, components, warnings, evidence
	Answers  io.Writer // checks outside of preflight; nil means Progress
	Style    Style     // of Progress
	// AnswerStyle is the style of Answers.
	AnswerStyle Style
	// Quiet leaves out what went well.
	Quiet bool
	// Verbose shows every check of preflight, not only those that did not pass.
	Verbose bool
	// Slow is how long a step may be silent before its beginning is told; zero means two seconds.
	Slow time.Duration
	// After calls f after d, unless the function it returns is called before; nil means a timer.
	After func(d time.Duration, f func()) (stop func() bool)
}

// Face writes events as plain lines.
type Face struct {
	o  Options
	mu sync.Mutex

	steps      []*step // open ones, innermost last
	components map[string]event.Component
	leg        string
	skipped    []event.Check   // consecutive ones with one reason
	told       map[string]bool // ends of messages that were shown: evidence does not repeat them
	closed     bool
}

type step struct {
	event.StepStarted
	told bool
	stop func() bool
}

var _ ui.Face = (*Face)(nil)

// New returns a Face.
func New(o Options) *Face {
	if o.Answers == nil {
		o.Answers, o.AnswerStyle = o.Progress, o.Style
	}
	if o.Slow <= 0 {
		o.Slow = 2 * time.Second
	}
	if o.After == nil {
		o.After = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	return &Face{o: o, components: map[string]event.Component{}, told: map[string]bool{}}
}

// Close implements ui.Face.
func (f *Face) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushSkipped()
	for _, s := range f.steps {
		s.stop()
	}
	f.closed = true
}

// Observe implements ui.Face.
func (f *Face) Observe(e event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	if c, ok := e.(event.Check); !ok || c.Outcome != event.Skipped {
		f.flushSkipped()
	}
	switch e := e.(type) {
	case event.OperationStarted: // the command has said what it is about to do
	case event.OperationFinished:
		f.finished(e)
	case event.StepStarted:
		f.started(e)
	case event.StepFinished:
		f.ended(e)
	case event.Component:
		f.component(e)
	case event.Warning:
		f.say(f.o.Style.Warning(f.o.Style.Glyph(event.Warned)+" warning:")+" %s", label(e.ID, e.Message))
		f.hint(f.o.Progress, f.o.Style, e.Hint)
	case event.Check:
		f.check(e)
	case event.Evidence:
		f.evidence(e)
	}
}

func (f *Face) say(format string, args ...any) {
	fmt.Fprintf(f.o.Progress, format+"\n", args...)
}

func label(id, text string) string {
	if id == "" {
		return text
	}
	return id + " " + text
}

// hint shows what to do, under the line it belongs to.
func (f *Face) hint(w io.Writer, s Style, text string) {
	if text != "" {
		fmt.Fprintf(w, "      %s %s\n", s.Accent(s.arrow()), text)
	}
}

func (f *Face) finished(e event.OperationFinished) {
	switch e.Outcome { //nolint:exhaustive // what did not go well is the command's error, which says it once, with its hint
	case event.OK, event.Unchanged:
	default:
		return
	}
	// Of a connectivity test and of a dry run the command shows the summary, as its answer.
	if f.o.Quiet || e.Message == "" || e.Operation == "test-connectivity" || e.DryRun {
		return
	}
	f.say("%s %s %s", f.o.Style.Sign(e.Outcome), e.Message, f.o.Style.Dim("("+Elapsed(e.Duration)+")"))
}

func (f *Face) started(e event.StepStarted) {
	s := &step{StepStarted: e}
	// Quick steps get one line, when they are done; whoever waits longer sees for what.
	s.stop = f.o.After(f.o.Slow, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.closed {
			f.tell(s)
		}
	})
	f.steps = append(f.steps, s)
}

// tell shows the beginning of a step, once, while it is open.
func (f *Face) tell(s *step) {
	for _, open := range f.steps {
		if open == s && !s.told && !f.o.Quiet {
			s.told = true
			f.say("%s %s%s", f.o.Style.Dim(f.o.Style.bullet()), s.Title, f.o.Style.ellipsis())
		}
	}
}

func (f *Face) tellAll() {
	for _, s := range f.steps {
		f.tell(s)
	}
}

func (f *Face) ended(e event.StepFinished) {
	for i := len(f.steps) - 1; i >= 0; i-- {
		if f.steps[i].Step == e.Step {
			f.steps[i].stop()
			f.steps = append(f.steps[:i], f.steps[i+1:]...)
			break
		}
	}
	well := e.Outcome == event.OK || e.Outcome == event.Unchanged || e.Outcome == event.Skipped
	if f.o.Quiet && well {
		return
	}
	line := f.o.Style.Sign(e.Outcome) + " " + e.Title
	if e.Message != "" && (well || e.Outcome == event.TimedOut || e.Outcome == event.Warned) {
		line += ": " + e.Message
	}
	if !well {
		line += " " + f.o.Style.Word(e.Outcome)
	}
	f.say("%s %s", line, f.o.Style.Dim("("+Elapsed(e.Duration)+")"))
}

// component tells a change of state, with its reason under it. What did not change is not repeated.
func (f *Face) component(e event.Component) {
	key := e.Component + "\x00" + e.Object
	if f.components[key] == e {
		return
	}
	f.components[key] = e
	outcome := event.Warned
	switch e.State {
	case "ready", "idle":
		outcome = event.OK
	case "failed":
		outcome = event.Failed
	case "progressing":
		outcome = event.Skipped
	}
	if f.o.Quiet && outcome != event.Failed && outcome != event.Warned {
		return
	}
	f.tellAll()
	f.say("  %s %-20s %d/%d %s", f.o.Style.Sign(outcome), e.Component, e.Ready, e.Desired, e.State)
	if outcome != event.OK {
		if why := join(": ", e.Reason, e.Message); why != "" {
			f.say("      %s: %s", e.Object, Shorten(why, longest))
			f.told[e.Reason], f.told[end(e.Message)] = true, true
		}
	}
}

func join(sep string, parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, sep)
}

func (f *Face) preflight() bool {
	for _, s := range f.steps {
		if s.Step == "preflight" {
			return true
		}
	}
	return false
}

func (f *Face) check(e event.Check) {
	well := e.Outcome == event.OK || e.Outcome == event.Unchanged || e.Outcome == event.Skipped
	if f.preflight() {
		if !well || f.o.Verbose {
			f.line(f.o.Progress, f.o.Style, e)
		}
		return
	}
	if e.Leg != f.leg {
		f.flushSkipped()
		f.leg = e.Leg
		if !f.o.Quiet {
			fmt.Fprintf(f.o.Answers, "%s\n", f.o.AnswerStyle.Bold(Heading(e.Leg)))
		}
	}
	switch {
	case e.Outcome == event.Skipped:
		if len(f.skipped) > 0 && (f.skipped[0].Message != e.Message || f.skipped[0].Destination != e.Destination) {
			f.flushSkipped()
		}
		f.skipped = append(f.skipped, e)
	case f.o.Quiet && well:
	default:
		f.line(f.o.Answers, f.o.AnswerStyle, e)
	}
}

// Heading names a leg.
func Heading(leg string) string {
	switch leg {
	case "here":
		return "From here"
	case "cluster":
		return "From inside the cluster"
	case "platform":
		return "As the platform sees it"
	}
	return "Checks"
}

// flushSkipped shows skipped checks; several with one reason are one line.
func (f *Face) flushSkipped() {
	skipped := f.skipped
	f.skipped = nil
	if len(skipped) == 0 || f.o.Quiet {
		return
	}
	s := f.o.AnswerStyle
	if len(skipped) == 1 {
		f.line(f.o.Answers, s, skipped[0])
		return
	}
	first, last := skipped[0].ID, skipped[len(skipped)-1].ID
	fmt.Fprintf(f.o.Answers, "  %s %s to %s: %d checks %s: %s\n", s.Sign(event.Skipped), first, last[strings.LastIndex(last, "-")+1:], len(skipped), s.Word(event.Skipped), join(": ", skipped[0].Destination, skipped[0].Message))
}

// line is one check: what holds, or does not; why; what to do.
func (f *Face) line(w io.Writer, s Style, e event.Check) {
	line := fmt.Sprintf("  %s %s ", s.Sign(e.Outcome), s.Dim(e.ID))
	if e.Stage != "" {
		line += fmt.Sprintf("%-9s ", e.Stage)
	}
	line += e.Title
	detail := join(": ", e.Destination, e.Message)
	if e.Message == e.Destination {
		detail = e.Message
	}
	if e.Outcome == event.OK {
		if detail != "" {
			line += s.Dim(" " + s.dash() + " " + detail)
		}
		if e.Duration >= time.Millisecond {
			line += s.Dim(" (" + Elapsed(e.Duration) + ")")
		}
		fmt.Fprintln(w, line)
		return
	}
	fmt.Fprintf(w, "%s: %s\n", line, s.Word(e.Outcome))
	if detail != "" {
		fmt.Fprintf(w, "      %s\n", detail)
	}
	f.hint(w, s, e.Hint)
}

const maxEvidence = 20 // lines of one piece; the JSON face has all

// longest is how much of a message is shown. The JSON faces have all of it.
const longest = 240

// Shorten cuts the middle out of a message that is longer than limit, at its colons: a container runtime's message begins
// with what was done and ends with why it failed; between them it repeats itself.
func Shorten(text string, limit int) string {
	if len([]rune(text)) <= limit {
		return text
	}
	parts := strings.Split(text, ": ")
	if len(parts) < 3 {
		return string([]rune(text)[:limit-1]) + "…"
	}
	head, tail := parts[0], parts[len(parts)-1]
	used := map[int]bool{0: true, len(parts) - 1: true}
	for i, j := 1, len(parts)-2; i <= j; i, j = i+1, j-1 {
		if n := len([]rune(head)) + len([]rune(tail)) + len([]rune(parts[j])) + 5; !used[j] && n <= limit {
			tail = parts[j] + ": " + tail
			used[j] = true
		}
		if n := len([]rune(head)) + len([]rune(tail)) + len([]rune(parts[i])) + 5; !used[i] && n <= limit {
			head += ": " + parts[i]
			used[i] = true
			continue
		}
		break
	}
	if len(used) == len(parts) {
		return text
	}
	return head + ": … " + tail
}

// end is the part of a message that tells it from others.
func end(message string) string {
	message = strings.TrimSpace(message)
	if i := strings.LastIndex(message, ": "); i >= 0 {
		return message[i+2:]
	}
	return message
}

// repeats says whether a piece of evidence is what a component's line has told already, or an earlier piece.
func (f *Face) repeats(e event.Evidence) bool {
	if f.o.Verbose || e.Source == "log" {
		return false
	}
	key := end(e.Text)
	if key != "" && f.told[key] {
		return true
	}
	f.told[key] = true
	return false
}

func (f *Face) evidence(e event.Evidence) {
	if f.repeats(e) {
		return
	}
	f.say("  %s %s", f.o.Style.Bold(e.Object), f.o.Style.Dim(e.Source))
	lines := strings.Split(strings.TrimRight(e.Text, "\n"), "\n")
	if n := len(lines); n > maxEvidence {
		f.say("      %s%d earlier lines", f.o.Style.ellipsis(), n-maxEvidence)
		lines = lines[n-maxEvidence:]
	}
	for _, l := range lines {
		f.say("      %s", Shorten(l, longest))
	}
}

// Elapsed is a duration as people say it: 0.3s, 12s, 1m05s, 3h20m, 4 days.
func Elapsed(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "0ms"
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Round(time.Second).Seconds()))
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}
