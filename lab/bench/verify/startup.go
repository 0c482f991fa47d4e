package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
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
	peaks, own    []int64 // bytes of memory
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
	for i, s := range all {
		if s.path, err = copied(s.path, filepath.Join(b.dir, fmt.Sprintf("program%d", i))); err != nil {
			return nil, err
		}
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
			m, err := remembered(b.environment(), s.path, s.args...)
			if err != nil {
				return nil, err
			}
			s.peaks, s.own = append(s.peaks, m.peak), append(s.own, m.own)
		}
	}
	return all, nil
}

// copied is a program as a new file, written in small pieces as whoever unpacks a release does. How much of a program's file counts
// as resident depends on how it came into the page cache, by twenty megabytes: a single write makes large folios, a linker others.
func copied(from, to string) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy a program: %w", err)
		}
	}()
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 32<<10)) // not as files: the kernel would do it in one
	return to, errors.Join(err, out.Close())
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

// memory is what a program had in its memory: at most, and at its end in pages of its own. The rest are pages of its file, which it
// shares with whoever runs the same and which the kernel takes back when it wants them.
type memory struct{ peak, own int64 }

// remembered runs a program and reads its memory at the moment when it ends. What the kernel says of a child that is gone would not do:
// a process starts out with the peak of the one that executed it, which is ours.
func remembered(env []string, path string, args ...string) (m memory, err error) {
	runtime.LockOSThread() // a process is traced by a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(path, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return m, fmt.Errorf("start %s: %w", path, err)
	}
	pid := cmd.Process.Pid
	defer cmd.Process.Release() //nolint:errcheck // it was waited for
	traced := false
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); errors.Is(err, syscall.EINTR) {
			continue
		} else if err != nil {
			return m, fmt.Errorf("wait for %s: %w", path, err)
		}
		signal := 0
		switch {
		case status.Exited() && status.ExitStatus() == 0 && m.peak > 0:
			return m, nil
		case status.Exited() || status.Signaled():
			return m, fmt.Errorf("%s %s: it ended with %d, and %d bytes of memory", path, strings.Join(args, " "), status.ExitStatus(), m.peak)
		case !traced:
			traced = true
			err = syscall.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL)
		case status.TrapCause() == unix.PTRACE_EVENT_EXIT:
			m, err = readMemory(pid)
		default:
			signal = int(status.StopSignal())
		}
		if err := errors.Join(err, syscall.PtraceCont(pid, signal)); err != nil {
			return m, fmt.Errorf("trace %s: %w", path, err)
		}
	}
}

var memoryField = regexp.MustCompile(`(?m)^(VmHWM|RssAnon):\s*(\d+) kB$`)

func readMemory(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, fmt.Errorf("its memory: %w", err)
	}
	for _, field := range memoryField.FindAllStringSubmatch(string(text), -1) {
		kilobytes, err := strconv.ParseInt(field[2], 10, 64)
		if err != nil {
			return m, fmt.Errorf("its memory: %w", err)
		}
		if field[1] == "VmHWM" {
			m.peak = kilobytes << 10
		} else {
			m.own = kilobytes << 10
		}
	}
	return m, nil
}
