package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	if c.Mode == "" {
		c.Mode = karpenstate.ModeSiblings
	}
	for _, n := range []struct {
		of      *int
		unset   int
		instead int
	}{
		{&c.Lo, 0, 3},
		{&c.Hi, 0, 6},
		{&c.Exclude, 0, 3},
		{&c.Readmit, 0, 6},
		{&c.FlipsPerDay, 0, 4},
		{&c.MinTypes, 0, 10},
		{&c.MinFamilies, 0, 5},
		{&c.MinZones, 0, 3},
		{&c.MinFits, 0, 3},
		{&c.RampUp, 0, 16},
		{&c.RampDown, 0, 8},
		{&c.WritesPerHour, 0, 10},
		{&c.SiblingsPerRun, 0, 1},
	} {
		if *n.of == n.unset {
			*n.of = n.instead
		}
	}
	for _, d := range []struct {
		of      *time.Duration
		instead time.Duration
	}{{&c.Dwell, 6 * time.Hour}, {&c.SampleTTL, 2 * time.Hour}, {&c.ExpiryTaper, 72 * time.Hour}} {
		if *d.of == 0 {
			*d.of = d.instead
		}
	}
	for _, f := range []struct {
		of      *float64
		instead float64
	}{{&c.RestartCost, 0.01}, {&c.MinSaving, 0.02}, {&c.Headroom, 0.9}, {&c.DeadBand, 0.1}} {
		if *f.of == 0 {
			*f.of = f.instead
		}
	}
	return c
}

// Validate says what of a configuration cannot be, all of it at once. Defaults are filled in first.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var wrong []error
	must := func(ok bool, say string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(say, args...))
		}
	}
	must(slices.Contains(karpenstate.Modes(), c.Mode), "mode %q is none of %v", c.Mode, karpenstate.Modes())
	must(c.Lo >= 1 && c.Hi <= 10 && c.Lo < c.Hi, "lo %d and hi %d: placement scores go from 1 to 10, and lo must lie below hi", c.Lo, c.Hi)
	for name, n := range map[string]int{
		"exclude": c.Exclude, "readmit": c.Readmit, "flipsPerDay": c.FlipsPerDay, "minTypes": c.MinTypes, "minFamilies": c.MinFamilies, "minZones": c.MinZones,
		"minFits": c.MinFits, "rampUp": c.RampUp, "rampDown": c.RampDown, "writesPerHour": c.WritesPerHour, "siblingsPerRun": c.SiblingsPerRun,
	} {
		must(n >= 1 && n <= 1_000_000, "%s is %d: it must be at least 1", name, n)
	}
	must(c.WritesPerHour != 1, "writesPerHour is 1: a handover from one sibling to another is two")
	must(c.DriftCap >= 0, "driftCap is %d: it must not be negative", c.DriftCap)
	for name, d := range map[string]time.Duration{"dwell": c.Dwell, "sampleTTL": c.SampleTTL, "expiryTaper": c.ExpiryTaper} {
		must(d > 0, "%s is %s: it must be positive", name, d)
	}
	for name, f := range map[string]float64{"minSaving": c.MinSaving, "headroom": c.Headroom, "deadBand": c.DeadBand} {
		must(f >= 0 && f <= 1, "%s is %v: it is a share, from 0 to 1", name, f)
	}
	must(c.RestartCost >= 0 && !math.IsInf(c.RestartCost, 0), "restartCost is %v: it must not be negative", c.RestartCost)
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}
