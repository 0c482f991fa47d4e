// Command vpa measures the nOps VPA beside the VPA of Kubernetes, unmodified: what a loop of the recommender takes, what it writes, how soon it
// is there again after a restart, how its memory fares when pods come and go, and how long an admission takes.
//
// A real API server holds the same objects for both, in the group of each. The recommenders run alone, one after the other: ours, upstream's,
// upstream's, ours. The admission controllers run at the same time, and are asked by turns. What was measured is kept; a run that was cut short
// goes on where it stopped.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nopsctl/nopsctl/lab/bench/here"
	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/vpa"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == launched {
		fmt.Fprintln(os.Stderr, "vpa:", launch(os.Args[2:])) //nolint:forbidigo // the process starts here
		os.Exit(1)                                           //nolint:forbidigo // likewise
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // likewise
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)                                     //nolint:forbidigo // likewise
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vpa:", err) //nolint:forbidigo // likewise
		os.Exit(1)                           //nolint:forbidigo // likewise
	}
}

const pageFile = "docs/vpa-speed.md"

// A profile is a cluster, and how long it is looked at.
type profile struct {
	Name string
	// Autoscalers each have a Deployment with so many pods; every second pod of them all has a second container.
	Autoscalers, Pods, Namespaces int
	// Interval of the recommenders.
	Interval time.Duration
	// Steady is how long loops are counted; a loop that began is waited for.
	Steady time.Duration
	// Churn is in how many loops pods come and go.
	Churn int
}

// trial is the profile for trying the benchmark itself. The page is about all others.
const trial = "small"

// missing are the profiles that a page should be about and is not.
func missing(has func(profile) bool) (names []string) {
	for _, p := range profiles() {
		if p.Name != trial && !has(p) {
			names = append(names, p.Name)
		}
	}
	return names
}

// profiles are the clusters there are.
func profiles() []profile {
	return []profile{
		{Name: trial, Autoscalers: 100, Pods: 5, Namespaces: 5, Interval: 5 * time.Second, Steady: 20 * time.Second, Churn: 4},
		{Name: "1k", Autoscalers: 1000, Pods: 5, Namespaces: 50, Interval: 10 * time.Second, Steady: time.Minute, Churn: 6},
		{Name: "5k", Autoscalers: 5000, Pods: 5, Namespaces: 50, Interval: 20 * time.Second, Steady: 2 * time.Minute, Churn: 4},
	}
}

func (p profile) pods() int { return p.Autoscalers * p.Pods }

// rounds is the order in which programs run, A-B-B-A: what warms up or slows down meets both alike.
func rounds() []string { return []string{ours, upstream, upstream, ours} }

// A bench is one run.
type bench struct {
	assets, program, repo string
	dir                   string // of this run
	kept                  string // where cells are kept
	fingerprint           string
	progress              io.Writer
	pinned                []int // the processors of a program that is measured; none: all of them
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	fs := flag.NewFlagSet("vpa", flag.ContinueOnError)
	write := fs.Bool("write", false, "rewrite "+pageFile)
	names := fs.String("profile", "1k,5k", "which clusters: small (100 autoscalers), 1k, 5k; separated by commas")
	only := fs.String("only", "", "measure only ours, or only upstream")
	kept := fs.String("dir", "", "where what was measured is kept, so that a second run goes on (default: in the user's cache directory)")
	again := fs.Bool("again", false, "measure again what was measured")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if *only != "" && *only != ours && *only != upstream {
		return fmt.Errorf("-only: %q is neither %s nor %s", *only, ours, upstream)
	}
	wanted, err := choose(*names)
	if err != nil {
		return err
	}
	without := missing(func(p profile) bool {
		return slices.ContainsFunc(wanted, func(w profile) bool { return w.Name == p.Name })
	})
	if *write && len(without) > 0 {
		return fmt.Errorf("-write: %s is about all clusters, and -profile leaves out %s", pageFile, strings.Join(without, " and "))
	}
	b := &bench{progress: progress, kept: *kept}
	if b.repo, err = here.Checkout(); err != nil {
		return err
	}
	if b.kept == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the cache directory: %w", err)
		}
		b.kept = filepath.Join(cache, "nopsctl", "bench", "vpa")
	}
	if b.dir, err = os.MkdirTemp("", "vpa-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var all []cells
	for _, p := range wanted {
		got, err := b.measure(ctx, p, *only, *again)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		all = append(all, got)
	}
	r := report{profiles: all}
	if *only != "" {
		return r.list(out)
	}
	page := r.markdown()
	fmt.Fprint(out, page)
	if *write {
		if err := os.WriteFile(filepath.Join(b.repo, pageFile), []byte(page), 0o644); err != nil {
			return fmt.Errorf("write the page: %w", err)
		}
	}
	return r.check()
}

func choose(names string) ([]profile, error) {
	var wanted []profile
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(profiles(), func(p profile) bool { return p.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("-profile: there is no %q; there are small, 1k and 5k", name)
		}
		wanted = append(wanted, profiles()[i])
	}
	return wanted, nil
}

// prepare builds what runs.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.assets, err = here.Programs(ctx, b.repo, b.say, "kubernetes", vpa.Recommender, vpa.Updater, vpa.Admission); err != nil {
		return err
	}
	b.say("building the nOps VPA")
	b.program = filepath.Join(b.dir, "nops-vpa")
	all := build.Agents()
	i := slices.IndexFunc(all, func(p build.Program) bool { return p.Name == "vpa" })
	if err := (build.Builder{Repo: b.repo, Cache: b.dir}).Build(ctx, all[i], b.program); err != nil {
		return fmt.Errorf("build the nOps VPA: %w", err)
	}
	b.pinned = pins()
	b.fingerprint, err = fingerprint(b.program, filepath.Join(b.assets, vpa.Recommender), filepath.Join(b.assets, vpa.Updater), filepath.Join(b.assets, vpa.Admission))
	return err
}

// method is part of a cell's fingerprint: raise it when what is measured changes.
const method = "5"

// fingerprint tells cells of other programs, or of another benchmark, from those of this run.
func fingerprint(programs ...string) (string, error) {
	sum := sha256.New()
	sum.Write([]byte(method + here.Machine()))
	for _, path := range programs {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read a program: %w", err)
		}
		_, err = io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("read a program: %w", err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// A cell is what one program did in one round: its recommender in one of the rounds, its admission controller in the one after them.
type cell struct {
	Fingerprint string
	Profile     string
	Program     string
	Round       int
	When        time.Time
	Machine     string
	Pinned      []int
	Load        string // before
	Took        time.Duration

	Recommender recommending
	Updater     updating
	Admission   admitting
}

// cells are those of a profile.
type cells struct {
	profile profile
	all     []*cell // of recommenders, one of each round; nil: not measured
	duel    []*cell // of the admission controllers, ours and upstream's, who were asked by turns; none: not measured
}

// duelled is the admission controller's.
func (c cells) duelled(program string) *cell {
	for _, one := range c.duel {
		if one.Program == program {
			return one
		}
	}
	return nil
}

func (c cells) of(program string) []*cell {
	var some []*cell
	for _, one := range c.all {
		if one != nil && one.Program == program {
			some = append(some, one)
		}
	}
	return some
}

func cellFile(dir, profile, program string, round int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d-%s.json", profile, round, program))
}

// recall reads a cell that was measured; nil is that there is none, or of something else.
func recall(dir, fingerprint, profile, program string, round int) (*cell, error) {
	text, err := os.ReadFile(cellFile(dir, profile, program, round))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was measured: %w", err)
	}
	var c cell
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(&c) != nil || c.Fingerprint != fingerprint || c.Profile != profile || c.Program != program || c.Round != round {
		return nil, nil
	}
	return &c, nil
}

// keep writes a cell, all of it or nothing.
func keep(dir string, c *cell) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep what was measured: %w", err)
	}
	text, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return fmt.Errorf("keep what was measured: %w", err)
	}
	file := cellFile(dir, c.Profile, c.Program, c.Round)
	if err := os.WriteFile(file+".partial", text, 0o644); err != nil {
		return fmt.Errorf("keep what was measured: %w", err)
	}
	if err := os.Rename(file+".partial", file); err != nil {
		return fmt.Errorf("keep what was measured: %w", err)
	}
	return nil
}

// measure goes through the rounds of a profile, and lets the admission controllers meet at the end.
func (b *bench) measure(ctx context.Context, p profile, only string, again bool) (cells, error) {
	got := cells{profile: p, all: make([]*cell, len(rounds()))}
	var w *world
	defer func() {
		if w != nil {
			w.close()
		}
	}()
	needWorld := func() (err error) {
		if w == nil {
			b.say("%s: making %d autoscalers' Deployments with %d pods in %d namespaces", p.Name, p.Autoscalers, p.pods(), p.Namespaces)
			w, err = b.newWorld(ctx, p)
		}
		return err
	}
	found := func(program string, round int) (c *cell, err error) {
		if again {
			return nil, nil
		}
		if c, err = recall(b.kept, b.fingerprint, p.Name, program, round); c != nil {
			b.say("%s, round %d, %s: measured at %s, in %s", p.Name, round+1, program, c.When.Format(time.DateTime), b.kept)
		}
		return c, err
	}
	for i, program := range rounds() {
		if only != "" && program != only {
			continue
		}
		var err error
		if got.all[i], err = found(program, i); err != nil || got.all[i] != nil {
			if err != nil {
				return got, err
			}
			continue
		}
		if err := needWorld(); err != nil {
			return got, err
		}
		c := b.newCell(p, program, i)
		b.say("%s, round %d: %s", p.Name, i+1, program)
		if err := w.measure(ctx, c); err != nil {
			return got, fmt.Errorf("round %d, %s: %w", i+1, program, err)
		}
		if err := b.ended(c); err != nil {
			return got, err
		}
		got.all[i] = c
	}
	if only != "" {
		return got, nil // one alone has nobody to meet
	}
	var both []*cell
	for _, program := range []string{ours, upstream} {
		c, err := found(program, len(rounds()))
		if err != nil {
			return got, err
		}
		if c != nil {
			both = append(both, c)
		}
	}
	if len(both) < 2 {
		if err := needWorld(); err != nil {
			return got, err
		}
		both = []*cell{b.newCell(p, ours, len(rounds())), b.newCell(p, upstream, len(rounds()))}
		b.say("%s: both admission controllers", p.Name)
		admitted, err := w.duel(ctx)
		if err != nil {
			return got, fmt.Errorf("admission: %w", err)
		}
		for _, c := range both {
			c.Admission = admitted[c.Program]
			if err := b.ended(c); err != nil {
				return got, err
			}
		}
	}
	got.duel = both
	return got, nil
}

func (b *bench) newCell(p profile, program string, round int) *cell {
	return &cell{Fingerprint: b.fingerprint, Profile: p.Name, Program: program, Round: round, When: time.Now().UTC(), Machine: here.Machine(), Pinned: b.pinned, Load: here.Load()}
}

// ended keeps what was measured.
func (b *bench) ended(c *cell) error {
	c.Took = time.Since(c.When).Round(time.Second)
	return keep(b.kept, c)
}

// measure measures one recommender, with nothing in the cluster of what another did.
func (w *world) measure(ctx context.Context, c *cell) (err error) {
	s := w.stack(c.Program)
	w.say("autoscalers and eight days of history")
	if err := w.autoscalers(ctx, s); err != nil {
		return err
	}
	if c.Recommender, err = w.recommender(ctx, s); err != nil {
		return err
	}
	if c.Updater, err = w.updater(ctx, s); err != nil {
		return fmt.Errorf("updater: %w", err)
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "· "+format+" …\n", args...)
}
