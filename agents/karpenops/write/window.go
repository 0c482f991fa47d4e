package write

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// A Window begins by a schedule and lasts a while, in UTC: the grammar of disruption budgets.
type Window struct {
	Text     string
	schedule cron.Schedule
	duration time.Duration
}

// durations are what the NodePool's schema admits, so that one grammar serves both.
var durations = regexp.MustCompile(`^((([0-9]+(h|m))|([0-9]+h[0-9]+m))(0s)?)$`)

// ParseWindows reads "CRON DURATION; CRON DURATION", such as "0 8 * * mon-fri 10h; @daily 30m".
func ParseWindows(text string) ([]Window, error) {
	var windows []Window
	for part := range strings.SplitSeq(text, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		cut := strings.LastIndexAny(part, " \t")
		if cut < 0 {
			return nil, fmt.Errorf("window %q: it is not a schedule and a duration, as in \"0 8 * * mon-fri 10h\"", part)
		}
		w, err := window(strings.TrimSpace(part[:cut]), part[cut+1:])
		if err != nil {
			return nil, fmt.Errorf("window %q: %w", part, err)
		}
		windows = append(windows, w)
	}
	if len(windows) == 0 && strings.TrimSpace(text) != "" {
		return nil, fmt.Errorf("windows %q: there is none in it", text)
	}
	return windows, nil
}

func window(schedule, duration string) (Window, error) {
	if !durations.MatchString(duration) {
		return Window{}, fmt.Errorf("duration %q: hours and minutes, as in 10h, 90m or 1h30m", duration)
	}
	d, err := time.ParseDuration(duration)
	if err != nil {
		return Window{}, fmt.Errorf("duration %q: %w", duration, err)
	}
	s, err := cron.ParseStandard("TZ=UTC " + schedule) // as Karpenter reads it, so that both understand the same
	if err != nil {
		return Window{}, fmt.Errorf("schedule %q: %w", schedule, err)
	}
	return Window{Text: schedule + " " + duration, schedule: s, duration: d}, nil
}

// Active says whether the window is open, and until when at least.
func (w Window) Active(now time.Time) (until time.Time, active bool) {
	now = now.UTC()
	hit := w.schedule.Next(now.Add(-w.duration))
	if hit.After(now) {
		return time.Time{}, false
	}
	if hit.IsZero() { // never, as of 30 February; Karpenter takes it for always
		return now.Add(w.duration), true
	}
	// Overlapping hits make one long window; its end is that of the last hit that is in the past.
	for range 1000 {
		next := w.schedule.Next(hit)
		if next.IsZero() || next.After(now) {
			break
		}
		hit = next
	}
	return hit.Add(w.duration), true
}

// frozen says why nothing may be written at a moment or within the time after it, "" if it may. What cannot be read freezes: whoever
// wrote it wanted a freeze.
func frozen(text string, now time.Time, ahead time.Duration) string {
	if strings.TrimSpace(text) == "" {
		return ""
	}
	windows, err := ParseWindows(text)
	if err != nil {
		return fmt.Sprintf("frozen for good, since the freeze windows cannot be read: %v", err)
	}
	for _, w := range windows {
		if until, active := w.Active(now); active {
			return fmt.Sprintf("frozen by the window %q until %s", w.Text, until.UTC().Format(time.RFC3339))
		}
	}
	for _, w := range windows {
		if begins := w.schedule.Next(now.UTC()); ahead > 0 && !begins.IsZero() && begins.Before(now.Add(ahead)) {
			return fmt.Sprintf("the freeze window %q begins at %s, before a write could prove itself", w.Text, begins.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// Unlimited is the budget of a NodePool that limits nothing.
const Unlimited = -1

// DriftBudget is how many nodes of a NodePool Karpenter may disrupt for drift at a moment, in total: those that are being disrupted
// already count against it. Unlimited where no budget is about drift. It decides as Karpenter does: the strictest of those that are active, percentages
// rounded up, and nothing at all as soon as one of them, whatever it is about, cannot be read.
func DriftBudget(pool map[string]any, now time.Time) int {
	nodes, _ := integer(pool, "status", "nodes")
	v, _ := at(pool, "spec", "disruption", "budgets")
	budgets, _ := v.([]any)
	allowed := math.MaxInt
	for _, b := range budgets {
		m, _ := b.(map[string]any)
		n, err := budget(m, int(nodes), now)
		if err != nil {
			return 0
		}
		if reasons, is := m["reasons"].([]any); is && !contains(reasons, "Drifted") {
			continue
		}
		allowed = min(allowed, n)
	}
	if allowed == math.MaxInt {
		return Unlimited
	}
	return allowed
}

func contains(all []any, one string) bool {
	for _, a := range all {
		if a == one {
			return true
		}
	}
	return false
}

// Schedules says what a NodePool's disruption budgets and freeze windows have that cannot be or never comes, in sentences. The API server takes whatever looks like a
// cron expression, and so does Karpenter, which then lets no node go and says so in its log alone.
func Schedules(pool map[string]any) []string {
	var wrong []string
	v, _ := at(pool, "spec", "disruption", "budgets")
	budgets, _ := v.([]any)
	for i, b := range budgets {
		m, _ := b.(map[string]any)
		schedule, scheduled := m["schedule"].(string)
		duration, lasts := m["duration"].(string)
		if !scheduled && !lasts {
			continue
		}
		switch w, err := window(schedule, duration); {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("its disruption budget %d cannot be read (%v): Karpenter disrupts no node of it, whatever the other budgets say", i, err))
		case w.never():
			wrong = append(wrong, fmt.Sprintf("the schedule of its disruption budget %d (%q) never comes, which Karpenter takes for always", i, schedule))
		}
	}
	windows, err := ParseWindows(annotation(pool, karpenstate.AnnotationFreeze))
	if err != nil {
		wrong = append(wrong, fmt.Sprintf("its annotation %s cannot be read (%v): nothing is written to it until it can", karpenstate.AnnotationFreeze, err))
	}
	for _, w := range windows {
		if w.never() {
			wrong = append(wrong, fmt.Sprintf("the freeze window %q never comes, which is taken for always: nothing is written to it", w.Text))
		}
	}
	return wrong
}

// never says that a schedule names a day that no year has.
func (w Window) never() bool { return w.schedule.Next(time.Unix(0, 0).UTC()).IsZero() }

// budget is what one budget allows of a number of nodes.
func budget(b map[string]any, nodes int, now time.Time) (int, error) {
	schedule, scheduled := b["schedule"].(string)
	duration, lasts := b["duration"].(string)
	if scheduled || lasts {
		w, err := window(schedule, duration)
		if err != nil {
			return 0, err
		}
		if _, active := w.Active(now); !active {
			return math.MaxInt, nil
		}
	}
	s := text(b, "nodes")
	if n, err := strconv.Atoi(s); err == nil {
		return n, nil
	}
	percent, is := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(percent)
	if !is || err != nil {
		return 0, fmt.Errorf("nodes %q: neither a number nor a percentage", s)
	}
	return (n*nodes + 99) / 100, nil
}
