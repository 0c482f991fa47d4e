package karpenstate_test

import (
	"strings"
	"testing"

	"github.com/nopsctl/nopsctl/internal/karpenstate"
)

func TestPausedBy(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		annotations  map[string]string
		want         string // "": not paused; else what it says
	}{
		{"none", "nobody said anything", map[string]string{"a": "b"}, ""},
		{"nil", "no annotations at all", nil, ""},
		{"false", "somebody's word", map[string]string{karpenstate.AnnotationPaused: "false", karpenstate.AnnotationPausedBy: "ann"}, ""},
		{"true", "by nobody who says so", map[string]string{karpenstate.AnnotationPaused: "true"}, "somebody who left no name"},
		{"true, by", "the pause command's", map[string]string{karpenstate.AnnotationPaused: "true", karpenstate.AnnotationPausedBy: "ann: load test"}, "ann: load test"},
		{"yes", "kubectl annotate by hand", map[string]string{karpenstate.AnnotationPaused: "yes", karpenstate.AnnotationPausedBy: "ann"}, `ann (annotation karpenops.nops.io/paused is "yes", which is neither true nor false and pauses)`},
		{"True", "YAML of another language", map[string]string{karpenstate.AnnotationPaused: "True"}, `is "True"`},
		{"1", "", map[string]string{karpenstate.AnnotationPaused: "1"}, `is "1"`},
		{"misspelt", "", map[string]string{karpenstate.AnnotationPaused: "ture"}, `is "ture"`},
		{"a reason", "people write why", map[string]string{karpenstate.AnnotationPaused: "load test until Friday"}, `is "load test until Friday"`},
		{"no", "not what ends a pause: said, rather than guessed", map[string]string{karpenstate.AnnotationPaused: "no"}, `is "no"`},
		{"False", "likewise", map[string]string{karpenstate.AnnotationPaused: "False"}, `is "False"`},
		{"a space", "likewise", map[string]string{karpenstate.AnnotationPaused: " false"}, `is " false"`},
		{"empty", "the annotation is there", map[string]string{karpenstate.AnnotationPaused: ""}, `is ""`},
		{"long", "cut", map[string]string{karpenstate.AnnotationPaused: strings.Repeat("x", 200)}, strings.Repeat("x", 40) + "…"},
	} {
		got := karpenstate.PausedBy(tt.annotations)
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s (%s): %q, want %q", tt.name, tt.reason, got, tt.want)
		}
	}
}
