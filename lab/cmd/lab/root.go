package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nopsctl/nopsctl/lab/build"
	"github.com/nopsctl/nopsctl/lab/cluster"
)

// streams are where answers and progress go.
type streams struct{ out, err io.Writer }

// global is what every command needs.
type global struct {
	streams
	name string
}

func newRoot(s streams) *cobra.Command {
	g := &global{streams: s}
	root := &cobra.Command{
		Use: "lab", Short: "A real Kubernetes and a local nOps platform on this machine",
		Long: `A real Kubernetes and a local nOps platform on this machine, in namespaces of their own, with no way out to any network.

  lab up                                start it (the first time compiles for some minutes)
  eval "$(lab env)"                     use it from this shell
  lab exec -- nopsctl status            or run something inside
  lab fault platform down               break it
  lab down                              remove it; only the cache stays`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.PersistentFlags().StringVar(&g.name, "name", "demo", "name of the lab; several can run side by side")
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, c := range []func(*global) *cobra.Command{newUp, newDown, newStatus, newInfo, newExec, newEnv, newFault, newKarpenterScenario, newRightsizing, newSign, newImage, newLogs, newForgetImages, newKarpenter, newVPA, newPublish, newDeps, newBuild, newAssets} {
		root.AddCommand(c(g))
	}
	return root
}

// layout is where this lab keeps its files: the state goes with the lab, the cache stays.
func (g *global) layout() (cluster.Layout, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return cluster.Layout{}, fmt.Errorf("find the state directory: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return cluster.NewLayout(filepath.Join(dir, "nopsctl", "lab"), g.name) //nolint:wrapcheck // says which name is wrong
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	dir = filepath.Join(dir, "nopsctl", "lab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	return dir, nil
}

// repository is the checkout that this binary was built in: bin/lab is two levels below it.
func repository() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	for dir := filepath.Dir(exe); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "lab", "third_party")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("this binary is not in a checkout of nopsctl: build it there with make build")
}

// builder builds into the cache and says what it does.
func (g *global) builder() (build.Builder, error) {
	repo, err := repository()
	if err != nil {
		return build.Builder{}, err
	}
	cache, err := cacheDir()
	if err != nil {
		return build.Builder{}, err
	}
	return build.Builder{Repo: repo, Cache: cache, Progress: func(program string, last, took time.Duration, done bool) {
		switch {
		case done && took >= time.Second:
			fmt.Fprintf(g.err, "✓ built %s in %s\n", program, took.Round(time.Second))
		case !done && last > 0:
			fmt.Fprintf(g.err, "· building %s (took %s last time) …\n", program, last.Round(time.Second))
		case !done:
			fmt.Fprintf(g.err, "· building %s …\n", program)
		}
	}, Waiting: func(program string) {
		fmt.Fprintf(g.err, "· another command is building %s; waiting until it has ended …\n", program)
	}}, nil
}

// running is the lab of this name.
func (g *global) running() (*cluster.Cluster, error) {
	l, err := g.layout()
	if err != nil {
		return nil, err
	}
	c, err := cluster.Find(l)
	if err != nil {
		return nil, &hinted{err, "start it with: lab up --name " + g.name}
	}
	return c, nil
}

type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func (h *hinted) Hint() string { return h.hint }
