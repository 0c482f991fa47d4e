package rules

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // images have no time zones of their own; a window without its zone would never open

	"github.com/robfig/cron/v3"

	"github.com/nopsctl/nopsctl/internal/rightsizing"
)

// OpenWindow is a window that was understood.
type OpenWindow struct {
	schedule cron.Schedule
	duration time.Duration
}

// ParseWindow understands a window: five fields of cron in a time zone, and how long it is open from each of its times on.
func ParseWindow(w rightsizing.Window) (OpenWindow, error) {
	if len(strings.Fields(w.Schedule)) != 5 {
		return OpenWindow{}, fmt.Errorf("windows: schedule %q has not five fields, as in \"0 22 * * mon-fri\"", w.Schedule)
	}
	if w.Duration.Duration < time.Minute {
		return OpenWindow{}, fmt.Errorf("windows: duration %s of schedule %q is shorter than a minute", w.Duration.Duration, w.Schedule)
	}
	zone := w.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" { // Local is that of whichever machine it runs on
		return OpenWindow{}, fmt.Errorf("windows: time zone %q of schedule %q is no IANA name, as in Europe/Berlin", w.TimeZone, w.Schedule)
	}
	schedule, err := cron.ParseStandard("CRON_TZ=" + zone + " " + w.Schedule)
	if err != nil {
		return OpenWindow{}, fmt.Errorf("windows: schedule %q: %w", w.Schedule, err)
	}
	if schedule.Next(time.Unix(0, 0)).IsZero() {
		return OpenWindow{}, fmt.Errorf("windows: schedule %q names a time that never comes", w.Schedule)
	}
	return OpenWindow{schedule: schedule, duration: w.Duration.Duration}, nil
}

// open says whether the window is open.
func (w OpenWindow) open(now time.Time) bool {
	hit := w.schedule.Next(now.Add(-w.duration))
	return !hit.IsZero() && !hit.After(now)
}

// Closed says whether all windows are closed, and when the next one opens. No windows are always open.
func Closed(windows []OpenWindow, now time.Time) (opens time.Time, closed bool) {
	for _, w := range windows {
		if w.open(now) {
			return time.Time{}, false
		}
		if next := w.schedule.Next(now); !next.IsZero() && (opens.IsZero() || next.Before(opens)) {
			opens = next
		}
	}
	return opens, len(windows) > 0
}
