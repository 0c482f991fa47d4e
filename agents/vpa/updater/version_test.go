package updater

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/version"
)

// Which API servers resize pods and lower no memory limits: by what they say they are, and by their answer.
func TestKeepsLimits(t *testing.T) {
	for minor, want := range map[string]bool{"27": false, "32": false, "32+": false, "33": true, "33+": true, "34": false, "34+": false, "36": false, "": false, "x": false} {
		if got := keepsLimits(&version.Info{Major: "1", Minor: minor}); got != want {
			t.Errorf("1.%s: %t, want %t", minor, got, want)
		}
	}
	if keepsLimits(&version.Info{Major: "2", Minor: "0"}) {
		t.Error("2.0 keeps them")
	}
	answer := errors.New(`Pod "web" is invalid: spec.containers[0].resources.limits: Forbidden: memory limits cannot be decreased unless resizePolicy is RestartContainer`)
	if !refusesLowering(answer) || refusesLowering(errors.New(`Pod "web" is invalid: spec: Forbidden: Pod QOS Class may not change as a result of resizing`)) {
		t.Error("its answer is not understood")
	}
}
