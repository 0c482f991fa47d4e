// Command lab runs a real Kubernetes and a local nOps platform on this machine. `lab --help` lists what it can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nopsctl/nopsctl/lab/cluster"
	"github.com/nopsctl/nopsctl/lab/platform"
)

func main() {
	// A program run inside handles the terminal's signals itself: see cluster.Exec.
	if len(os.Args) > 1 && os.Args[1] == "exec" {
		os.Exit(finish(newRoot(streams{os.Stdout, os.Stderr}).ExecuteContext(context.Background())))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "__init":
		err = cluster.RunInit(ctx, os.Args[2])
	case len(os.Args) > 1 && os.Args[1] == platform.Subcommand:
		err = platform.Main(ctx, os.Args[2:], os.Stderr)
	default:
		err = newRoot(streams{os.Stdout, os.Stderr}).ExecuteContext(ctx)
	}
	stop()
	os.Exit(finish(err))
}

// exitStatus is the end of a program that ran inside.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func finish(err error) int {
	var inner exitStatus
	var hinted interface{ Hint() string }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &inner):
		return int(inner)
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		fmt.Fprintln(os.Stderr, "     "+hinted.Hint())
	}
	return 1
}
