// Package cli is the command line: the tree of commands, one file each, and the one place where errors become exit codes
// and advice becomes text. It composes the engines; nothing below it prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/internal/iostreams"
	"github.com/nopsctl/nopsctl/internal/ui/plain"
	"github.com/nopsctl/nopsctl/pkg/event"
	"github.com/nopsctl/nopsctl/pkg/install"
)

// patience is how long further signals are ignored after the first: a terminal and whoever wraps us may both send one.
// After it a second Ctrl-C ends the process at once.
const patience = 2 * time.Second

// Main runs nopsctl with what the process owns and returns its exit code.
func Main() int {
	// The one context of the program.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the context starts here
	defer stop()
	streams := iostreams.System(os.Getenv)
	told := context.AfterFunc(ctx, func() {
		fmt.Fprintln(streams.ErrOut, "Cancelling: leaving things in a state that the next run goes on from. Ctrl-C again gives up at once.")
		time.AfterFunc(patience, stop)
	})
	defer told() // runs before stop, which would set it off
	return Exit(streams, Run(ctx, streams, os.Getenv, os.Args[1:]))
}

// Run runs one command line.
func Run(ctx context.Context, streams *iostreams.Streams, env func(string) string, args []string) error {
	return runWith(ctx, NewFactory(streams, env), args)
}

func runWith(ctx context.Context, f *Factory, args []string) error {
	// Whatever fails later, even the parsing of flags, must not repeat it.
	f.IO.Redactor().Add(f.Env(EnvAPIKey), f.Env(EnvAMPSecretKey))
	root := newRootCommand(f)
	root.SetArgs(append([]string{}, args...)) // nil would mean the process's own
	root.SetIn(f.IO.In)
	root.SetOut(f.IO.Out)
	root.SetErr(f.IO.ErrOut)
	return root.ExecuteContext(ctx) //nolint:wrapcheck // Exit reads it as it is
}

// Exit shows the error, once, with its advice, and returns the exit code.
func Exit(streams *iostreams.Streams, err error) int {
	code := CodeOf(err)
	if err != nil {
		style := plain.Style{Color: streams.ColorErr(), Unicode: streams.Unicode()}
		fmt.Fprintf(streams.ErrOut, "%s %s\n", style.Bad("Error:"), message(err))
		if hint := hintOf(err); hint != "" {
			arrow := "->"
			if style.Unicode {
				arrow = "→"
			}
			fmt.Fprintf(streams.ErrOut, "  %s %s\n", style.Accent(arrow), hint)
		}
	}
	streams.Flush()
	return int(code)
}

// message is the error in one line. Checks that failed, and why a workload is not ready, have been shown already.
func message(err error) string {
	var preflight *install.PreflightError
	var timeout *install.TimeoutError
	switch {
	case errors.As(err, &preflight):
		ids := make([]string, 0, len(preflight.Failed))
		for _, c := range preflight.Failed {
			ids = append(ids, c.ID)
		}
		return fmt.Sprintf("preflight failed (%s): nothing was changed", strings.Join(ids, ", "))
	case errors.As(err, &timeout) && len(timeout.Waiting) > 0:
		waiting := make([]string, 0, len(timeout.Waiting))
		for _, w := range timeout.Waiting {
			waiting = append(waiting, strings.TrimSuffix(fmt.Sprintf("%s: %s", w.Object(), w.Reason), ": "))
		}
		return fmt.Sprintf("timed out after %s waiting for %s", timeout.After, strings.Join(waiting, ", "))
	case err.Error() == context.Canceled.Error():
		return string(event.Cancelled)
	}
	return plain.Shorten(strings.Join(strings.Fields(err.Error()), " "), 500)
}
