package karpenfeeder

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	corev1 "k8s.io/api/core/v1"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
)

// Program is the feeder's program.
func Program() agent.Program {
	return agent.Program{
		Name: "karpenops-feeder", About: "works out market and commitments for karpenops from AWS's public APIs.",
		Commands: []agent.Command{{Name: "run", About: "ask AWS and write the documents, once or every so often", Run: run}},
		Secrets:  []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
	}
}

func run(ctx context.Context, c *agent.Call) error {
	var o Options
	if err := c.Parse(&o); err != nil {
		return err
	}
	log, err := c.Logger(agent.ProcessOptions{LogLevel: o.LogLevel})
	if err != nil {
		return err
	}
	var sink Sink
	if path, is := strings.CutPrefix(o.To, toDir); is {
		sink = Dir(path)
	} else {
		kube, err := c.Kubernetes()
		if err != nil {
			return err
		}
		clients, err := agent.NewClients(kube, c.UserAgent("nops-karpenops-feeder"), agent.Group{Version: corev1.SchemeGroupVersion, Kinds: agentKinds()})
		if err != nil {
			return err //nolint:wrapcheck // says what it made
		}
		who := agent.Identity{Component: "karpenops-feeder", Namespace: o.Namespace, Version: c.Version}
		sink = &configMap{core: clients[corev1.SchemeGroupVersion], namespace: o.Namespace, name: strings.TrimPrefix(o.To, toConfigMap), labels: who.Labels()}
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(o.Region))
	if err != nil {
		return fmt.Errorf("AWS credentials and settings: %w", err)
	}
	return (&Feeder{Options: o, AWS: NewAWS(cfg), Sink: sink, Now: time.Now, Log: log}).Run(ctx)
}
