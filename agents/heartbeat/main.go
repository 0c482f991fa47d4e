package heartbeat

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// The memory limit the collector aims at; the budget is 12 MiB of anonymous memory at rest.
const memoryLimit = 24 << 20

// Program is the agent's program.
func Program() agent.Program {
	return agent.Program{
		Name: "k8s-heartbeat-agent", About: "reports to nOps how the agent stack of this cluster does.",
		Commands: []agent.Command{
			{Name: "run", About: "report until stopped", Run: run},
			{Name: "probe", About: "look at the connections from inside the cluster once, print a report as JSON", Run: runProbe},
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
	// One attempt: when to try again is the queue's business.
	platform, err := o.Client(c.UserAgent("nops-heartbeat"), bundle, 1)
	if err != nil {
		return err
	}
	listener, err := o.Listen(ctx)
	if err != nil {
		return err
	}
	a, err := New(o, Deps{
		Kube: config, Platform: platform, Version: c.Version, Log: log, Listener: listener, Rand: rand.Float64,
		BootID: fmt.Sprintf("%016x", rand.Uint64()), //nolint:gosec // an id, not a secret
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	err = a.Run(ctx)
	if err != nil {
		log.LogAttrs(context.WithoutCancel(ctx), slog.LevelError, "heartbeat failed", slog.Any("error", err))
	}
	return err
}

func runProbe(ctx context.Context, c *agent.Call) error {
	var o ProbeOptions
	if err := c.Parse(&o); err != nil {
		return err
	}
	bundle, err := o.CABundle()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	report := Probe(ctx, o, ProbeDeps{Version: c.Version, Proxy: http.ProxyFromEnvironment, CABundle: bundle})
	if err := json.NewEncoder(c.Out()).Encode(report); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}
