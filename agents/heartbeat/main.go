package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/pkg/nopsapi/nopsclient"
)

// Process is what the process owns.
type Process struct {
	Args           []string // without the program's name
	Getenv         agent.Getenv
	Stdout, Stderr io.Writer
	Version        string
	// KubeConfig says how to reach the API server; nil means from inside a pod.
	KubeConfig func() (*rest.Config, error)
}

const usage = `k8s-heartbeat-agent reports to nOps how the agent stack of this cluster does.

  run      report until stopped
  probe    look at the connections from inside the cluster once, print a report as JSON
  version  print the version

Each command lists its flags with --help.
`

// The memory limit the collector aims at; the budget is 12 MiB of anonymous memory at rest.
const memoryLimit = 24 << 20

// Main runs the agent's program and returns its exit code: 0, 1 for a failure, 2 for a mistake in the call.
func Main(ctx context.Context, p Process) int {
	command := ""
	if len(p.Args) > 0 {
		command = p.Args[0]
	}
	var err error
	switch command {
	case "run":
		err = p.run(ctx, p.Args[1:])
	case "probe":
		err = p.probe(ctx, p.Args[1:])
	case "version":
		fmt.Fprintln(p.Stdout, p.Version)
		return 0
	case "help", "--help", "-h":
		fmt.Fprint(p.Stdout, usage)
		return 0
	default:
		err = misuse{fmt.Errorf("%q is no command; there are run, probe and version", command)}
	}
	var wrong misuse
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		p.complain(err)
		return 2
	}
	p.complain(err)
	return 1
}

// complain writes the error, without the key whatever it says.
func (p Process) complain(err error) {
	fmt.Fprintf(agent.NewRedactor(p.Stderr, p.Getenv(agent.EnvAPIKey)), "k8s-heartbeat-agent: %v\n", err)
}

// misuse is a mistake in the call.
type misuse struct{ error }

func (p Process) flags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet("k8s-heartbeat-agent "+name, pflag.ContinueOnError)
	fs.SetOutput(agent.NewRedactor(p.Stderr, p.Getenv(agent.EnvAPIKey)))
	return fs
}

func parse(fs *pflag.FlagSet, args []string, validate func() error) error {
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err == nil {
		err = validate()
	}
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		return misuse{err}
	}
	return err
}

func (p Process) run(ctx context.Context, args []string) error {
	var o Options
	fs := p.flags("run")
	o.BindFlags(fs, p.Getenv)
	if err := parse(fs, args, o.Validate); err != nil {
		return err
	}
	agent.Memory(p.Getenv, memoryLimit)
	level, err := agent.ParseLevel(o.LogLevel)
	if err != nil {
		return misuse{err}
	}
	log := agent.NewLogger(p.Stderr, level, o.APIKey)
	// client-go speaks through klog, whose own lines would be no JSON and pass no redaction.
	klog.SetSlogLogger(log)

	kubeConfig := p.KubeConfig
	if kubeConfig == nil {
		kubeConfig = rest.InClusterConfig
	}
	config, err := kubeConfig()
	if err != nil {
		return fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	bundle, err := o.CABundle()
	if err != nil {
		return err
	}
	transport, err := nopsclient.Transport(bundle)
	if err != nil {
		return err
	}
	if t, is := transport.(*http.Transport); is {
		// One small request a minute gains nothing from HTTP/2, which costs memory and keeps a connection that a firewall
		// has forgotten in use for minutes.
		t.ForceAttemptHTTP2, t.Protocols = false, new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	// One attempt: when to try again is the queue's business.
	platform, err := nopsclient.New(nopsclient.Options{Host: o.Host, Key: o.APIKey, UserAgent: "nops-heartbeat/" + p.Version, Attempts: 1, Transport: transport})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.ListenAddress)
	if err != nil {
		return fmt.Errorf("listening for health checks on %s: %w", o.ListenAddress, err)
	}
	a, err := New(o, Deps{
		Kube: config, Platform: platform, Version: p.Version, Log: log, Listener: listener, Rand: rand.Float64,
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

func (p Process) probe(ctx context.Context, args []string) error {
	var o ProbeOptions
	fs := p.flags("probe")
	o.BindFlags(fs, p.Getenv)
	if err := parse(fs, args, o.Validate); err != nil {
		return err
	}
	bundle, err := o.CABundle()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	report := Probe(ctx, o, ProbeDeps{Version: p.Version, Proxy: http.ProxyFromEnvironment, CABundle: bundle})
	enc := json.NewEncoder(agent.NewRedactor(p.Stdout, o.APIKey))
	if err := enc.Encode(report); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}
