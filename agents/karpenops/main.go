package karpenops

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// The memory limit that the collector aims at. It counts none of the program's own pages: at two thousand nodes 34 MiB are budgeted with them, and half of that is in use.
const memoryLimit = 48 << 20

// attempts of one call of the platform: when to try again is the loops' business.
const attempts = 1

// Program is the agent's program.
func Program() agent.Program {
	return agent.Program{
		Name: "karpenops", About: "tunes Karpenter to spot markets and commitments, in NodePools that opted in.",
		Commands: []agent.Command{
			{Name: "run", About: "decide and act until stopped", Run: run},
			{Name: "status", About: "print what the agent recorded", Run: runStatus},
			{Name: "explain", About: "NODEPOOL: print what was decided about it, step by step", Run: runExplain},
			{Name: "plan", About: "decide once, print it, and write nothing", Run: runPlan},
			{Name: "pause", About: "[NODEPOOL] --by WHO --why REASON: nothing is written from now on", Run: runPause},
			{Name: "resume", About: "[NODEPOOL]: end a pause", Run: runResume},
			{Name: "revert", About: "NODEPOOL… or --all, --by WHO: take back what was done; works without the platform", Run: runRevert},
			{Name: "approve", About: "ID --by WHO: carry out what waits for a person", Run: runApprove},
		},
	}
}

func run(ctx context.Context, c *agent.Call) error {
	var o Options
	if err := c.Parse(&o); err != nil {
		return err
	}
	agent.Memory(c.Getenv, memoryLimit)
	log, err := c.Logger(o.ProcessOptions)
	if err != nil {
		return err
	}
	config, err := c.Kubernetes()
	if err != nil {
		return err
	}
	bundle, err := o.CABundle()
	if err != nil {
		return err
	}
	platform, err := o.Client(c.UserAgent("nops-karpenops"), bundle, attempts)
	if err != nil {
		return err
	}
	listener, err := o.Listen(ctx)
	if err != nil {
		return err
	}
	a, err := New(o, Deps{
		Kube: config, Platform: platform, Version: c.Version, Log: log, Listener: listener, Rand: rand.Float64,
		Candidate: fmt.Sprintf("%s-%08x", agent.Or(c.Getenv("HOSTNAME"), component), rand.Uint32()), //nolint:gosec // an id, not a secret
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	if err = a.Run(ctx); err != nil {
		log.LogAttrs(context.WithoutCancel(ctx), slog.LevelError, "karpenops failed", slog.Any("error", err))
	}
	return err
}
