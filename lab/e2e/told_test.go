package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// told is a test of a story whose end is told again when all are over, if it failed: they go on for many minutes, and whoever looks at a log
// looks at its end.
type told struct{ *testing.T }

// again is what is told again. Stories run one after another.
var again []string

func (t told) Log(args ...any) {
	t.Helper()
	t.T.Log(args...)
	t.Cleanup(func() {
		if t.Failed() {
			again = append(again, t.Name()+" failed:\n"+end(fmt.Sprint(args...)))
		}
	})
}

func (t told) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(told{t}) })
}

func (told) Verbose() bool { return testing.Verbose() }

// end is the last lines of a text.
func end(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, t := range again {
		fmt.Printf("\n%s\n", t)
	}
	os.Exit(code)
}
