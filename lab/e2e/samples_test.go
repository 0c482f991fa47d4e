package e2e

import (
	"strings"
	"testing"
)

// TestSamplesAgainstPods: the comparison that stories rely on notices both a missing container and one too many.
func TestSamplesAgainstPods(t *testing.T) {
	of := func(pairs ...string) []series {
		var all []series
		for _, p := range pairs {
			uid, container, _ := strings.Cut(p, "/")
			all = append(all, series{Metric: map[string]string{"uid": uid, "container": container}})
		}
		return all
	}
	live := map[string]string{"1/a": "nops/x", "1/b": "nops/x", "2/a": "nops/y"}
	for _, tt := range []struct {
		name, reason string
		result       []series
		live         map[string]string
		says         string
	}{
		{"equal", "nothing to say", of("1/a", "1/b", "2/a"), live, ""},
		{"missing container", "a pod has several", of("1/a", "2/a"), live, "no sample for container 1/b"},
		{"missing pod", "its samples do not arrive", of("1/a", "1/b"), live, "no sample for container 2/a of pod nops/y"},
		{"a pod of before", "samples of what is gone would be counted and paid", of("1/a", "1/b", "2/a", "3/a"), live, "pod 3, which does not run"},
		{"a container of before", "the pod lives, the container does not", of("1/a", "1/b", "2/a", "2/old"), live, "container old of pod 2"},
		{"without UID", "a pod cannot be told from its successor", of("1/a", "1/b", "2/a", "/a"), live, "without uid"},
		{"nothing", "nothing compared is nothing shown", nil, nil, "nothing is compared"},
		{"no samples", "all are missing", nil, live, "no sample"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := samplesAgainstPods("m", "uid", tt.result, tt.live)
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("%v: %s", err, tt.reason)
			case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("%v, want %q: %s", err, tt.says, tt.reason)
			}
		})
	}
}
