// Command verify measures how long it takes to verify the images of a release across a network, beside `cosign verify` run
// once for each of them; and what the libraries of verification cost whoever only asks nopsctl for its version.
//
// Registry, signatures, revocation endpoint and the 50 ms that every request takes are made here; nothing leaves the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/here"
)

const (
	roundTrip = 50 * time.Millisecond
	// rounds is how often all ways are gone through, there and back.
	rounds = 7
	// within is how much longer than its critical path one pass of ours may take.
	within = 1.2
	// withinAWS is beyond which AWS Signer's signatures, which miss that, have become slower than they need be: each carries seven
	// computations on P-384 that only the library's own look at it needs (docs/verification-speed.md). Leaving that look out would save
	// most of it, and let our reading of an envelope decide alone.
	withinAWS = 1.4
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // the process starts here
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)                                     //nolint:forbidigo // likewise
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err) //nolint:forbidigo // likewise
		os.Exit(1)                              //nolint:forbidigo // likewise
	}
}

// A bench is one run.
type bench struct {
	repo, assets, dir string
	nopsctl           string
	progress          io.Writer
	world             *world
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	write := fs.Bool("write", false, "rewrite docs/verification-speed.md")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	b := &bench{progress: progress}
	if b.repo, err = here.Checkout(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "verify-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.assets, err = here.Programs(ctx, b.repo, b.say, "cosign", "helm"); err != nil {
		return err
	}
	b.say("building nopsctl")
	b.nopsctl = filepath.Join(b.dir, "nopsctl")
	if err := compile(ctx, b.repo, b.nopsctl); err != nil {
		return err
	}
	b.say("signing %d images", imageCount)
	if b.world, err = newWorld(ctx, b.dir); err != nil {
		return err
	}
	defer b.world.close()
	if err := b.refusals(ctx); err != nil {
		return err
	}
	figures := report{when: time.Now().UTC(), machine: here.Machine(), load: here.Load()}
	if figures.cosign, err = b.cosignVersion(ctx); err != nil {
		return err
	}
	if figures.ways, err = b.passes(ctx); err != nil {
		return err
	}
	b.say("computing %d signatures", computations)
	if figures.computing, err = computing(); err != nil {
		return err
	}
	if figures.starts, err = b.startups(ctx); err != nil {
		return err
	}
	page := figures.markdown()
	fmt.Fprint(out, page)
	if *write {
		if err := os.WriteFile(filepath.Join(b.repo, "docs", "verification-speed.md"), []byte(page), 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
	}
	return figures.check()
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "· "+format+" …\n", args...)
}
