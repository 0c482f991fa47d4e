// Command vpa is the nOps VPA: it sizes containers by what they use.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/vpa"
	"github.com/nopsctl/nopsctl/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := vpa.Program().Main(ctx, agent.Process{Args: os.Args[1:], Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Version: version.Get().Version})
	stop()
	os.Exit(code)
}
