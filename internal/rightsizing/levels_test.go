package rightsizing

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

// TestLevelsRise: a level is never below the one before it, in anything, and bounds enclose the target.
func TestLevelsRise(t *testing.T) {
	var last Estimation
	levels := Levels()
	if len(levels) != 4 {
		t.Fatalf("%d levels, want 4", len(levels))
	}
	for _, l := range levels {
		e, is := l.Estimation()
		if !is {
			t.Fatalf("%s has no estimation", l)
		}
		for name, p := range map[string][2]Percentiles{"cpu": {last.CPU, e.CPU}, "memory": {last.Memory, e.Memory}} {
			before, now := p[0], p[1]
			if now.Lower < before.Lower || now.Target < before.Target || now.Upper < before.Upper {
				t.Errorf("%s: %s is below the level before: %+v, %+v", l, name, now, before)
			}
			if now.Lower > now.Target || now.Target > now.Upper || now.Lower <= 0 || now.Upper > 1 {
				t.Errorf("%s: %s %+v encloses nothing", l, name, now)
			}
		}
		if e.Margin <= last.Margin {
			t.Errorf("%s: margin %g, before %g", l, e.Margin, last.Margin)
		}
		if e.Memory.Target < e.CPU.Target {
			t.Errorf("%s: memory, which kills, goes by a lower percentile than CPU, which slows", l)
		}
		last = e
	}
	if e, is := Level("Fast").Estimation(); is || e != Upstream() {
		t.Errorf("a word that is no level has an estimation of its own: %+v", e)
	}
}

func TestEffectiveOf(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		annotations  map[string]string
		level        Level
		cpu, memory  string
		err          string
	}{
		{"none", "an autoscaler that a person made goes by upstream's defaults", map[string]string{"a": "b"}, "", "", "", ""},
		{"plain", "the floors have defaults", map[string]string{AnnotationSettings: `{"policy":"p","level":"BalancedSavings"}`}, BalancedSavings, "10m", "32Mi", ""},
		{"floors", "one that is set replaces the default of that resource alone", map[string]string{AnnotationSettings: `{"policy":"p","level":"MaximumSavings","floors":{"memory":"64Mi"}}`}, MaximumSavings, "10m", "64Mi", ""},
		{"no JSON", "nobody guesses", map[string]string{AnnotationSettings: `level: x`}, "", "", "", "reading annotation vpa.nops.io/settings"},
		{"another level", "", map[string]string{AnnotationSettings: `{"policy":"p","level":"Fast"}`}, "", "", "", `level "Fast" is none of`},
		{"a quantity that is none", "", map[string]string{AnnotationSettings: `{"policy":"p","level":"MaximumSavings","floors":{"cpu":"fast"}}`}, "", "", "", "reading annotation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := EffectiveOf(c.annotations)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || e != nil {
					t.Fatalf("%+v, %v; %s", e, err, c.reason)
				}
				return
			}
			if err != nil || (e == nil) != (c.level == "") {
				t.Fatalf("%+v, %v; %s", e, err, c.reason)
			}
			if e == nil {
				return
			}
			for name, want := range map[string]string{"cpu": c.cpu, "memory": c.memory} {
				if got := e.Floor(name); e.Level != c.level || got.Cmp(resource.MustParse(want)) != 0 {
					t.Errorf("level %s, floor of %s %s, want %s; %s", e.Level, name, got.String(), want, c.reason)
				}
			}
		})
	}
}

// TestYieldsOf: what cannot be read says nothing, and is in nobody's way.
func TestYieldsOf(t *testing.T) {
	for text, want := range map[string]string{"": "", "because": "", `["cpu"]`: "", `{"cpu":"helm writes it"}`: "helm writes it"} {
		if why := YieldsOf(map[string]string{AnnotationYields: text})["cpu"]; why != want {
			t.Errorf("%s: %q, want %q", text, why, want)
		}
	}
}
