package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// baseline is the last commit before nopsctl could verify anything.
const baseline = "c7bbb50d71"

// startRounds is how often each program is started, twice a round.
const startRounds = 30

// A start is what is known of starting a program.
type start struct {
	name, command string
	path          string
	args          []string
	bytes         int64
	times         []time.Duration
	peaks         []int64 // bytes
}

// startups measures how long it takes to say a version, and what memory that takes.
func (b *bench) startups(ctx context.Context) ([]*start, error) {
	before, err := b.built(ctx)
	if err != nil {
		return nil, err
	}
	all := []*start{
		{name: "nopsctl before (" + baseline[:7] + ")", command: "nopsctl version", path: before, args: []string{"version"}},
		{name: "nopsctl", command: "nopsctl version", path: b.nopsctl, args: []string{"version"}},
		{name: "helm", command: "helm version", path: filepath.Join(b.assets, "helm"), args: []string{"version"}},
	}
	b.say("starting %d programs %d times each", len(all), 2*startRounds)
	for round := range startRounds + 1 {
		for i := range 2 * len(all) {
			s := all[min(i, 2*len(all)-1-i)] // A B C C B A: what warms up or slows down meets all alike
			cmd := exec.CommandContext(ctx, s.path, s.args...)
			cmd.Env = b.environment()
			began := time.Now()
			text, err := cmd.CombinedOutput()
			took := time.Since(began)
			if err != nil || len(text) == 0 {
				return nil, fmt.Errorf("%s: %w\n%s", s.command, err, text)
			}
			if round > 0 { // the first fills the page cache
				s.times = append(s.times, took)
			}
		}
	}
	for _, s := range all {
		info, err := os.Stat(s.path)
		if err != nil {
			return nil, fmt.Errorf("size of %s: %w", s.name, err)
		}
		s.bytes = info.Size()
		for range 11 {
			peak, err := peak(ctx, b.environment(), s.path, s.args...)
			if err != nil {
				return nil, err
			}
			s.peaks = append(s.peaks, peak)
		}
	}
	return all, nil
}

// built is nopsctl of the baseline, compiled as today's is, from a worktree that is gone afterwards.
func (b *bench) built(ctx context.Context) (path string, err error) {
	path = filepath.Join(b.dir, "before", "nopsctl")
	b.say("building nopsctl of %s", baseline)
	tree := filepath.Join(b.dir, "tree")
	git := func(args ...string) error {
		// The worktree has to go even when the run was interrupted.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), "git", append([]string{"-C", b.repo}, args...)...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, text)
		}
		return nil
	}
	if err := git("worktree", "add", "--detach", tree, baseline); err != nil {
		return "", fmt.Errorf("check out what was before verification (a shallow clone lacks it: git fetch --unshallow): %w", err)
	}
	defer func() { err = errors.Join(err, git("worktree", "remove", "--force", tree)) }()
	return path, compile(ctx, tree, path)
}

// compile builds nopsctl the way releases are, but for the version it says.
func compile(ctx context.Context, tree, path string) error {
	const version = "github.com/nopsctl/nopsctl/internal/version."
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X "+version+"version=v0.0.0-bench -X "+version+"commit=unknown", "-o", path, "./cmd/nopsctl")
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build nopsctl in %s: %w\n%s", tree, err, text)
	}
	return nil
}

// peak runs a program and returns how much memory it had at most. A process starts out with the peak of the one that
// executed it, which for a child of ours would be ours; so a shell, which is small, starts it and leaves it to us.
func peak(ctx context.Context, env []string, path string, args ...string) (int64, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("adopt what the shell leaves: %w", err)
	}
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", `"$@" >/dev/null 2>&1 & echo $!`, "sh", path}, args...)...)
	cmd.Env = env
	text, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		_, err = syscall.Wait4(pid, &status, 0, &usage)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("wait for %s: %w", path, err)
	}
	if status.ExitStatus() != 0 {
		return 0, fmt.Errorf("%s %s: exit %d", path, strings.Join(args, " "), status.ExitStatus())
	}
	return usage.Maxrss << 10, nil
}
