package gcpace_test

import (
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"

	_ "github.com/nopsctl/nopsctl/internal/gcpace"
)

func TestPace(t *testing.T) {
	if os.Getenv("GCPACE_TEST") != "" {
		t.Logf("percent %d limit %d", debug.SetGCPercent(100), debug.SetMemoryLimit(-1))
		return
	}
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"nothing asked for", []string{"GOGC=", "GOMEMLIMIT="}, "percent 300 limit 268435456"},
		{"the user's own", []string{"GOGC=50", "GOMEMLIMIT=64MiB"}, "percent 50 limit 67108864"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPace$", "-test.v")
			cmd.Env = append(os.Environ(), append(tt.env, "GCPACE_TEST=1")...)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v\n%s\nwant %s", err, out, tt.want)
			}
		})
	}
}
