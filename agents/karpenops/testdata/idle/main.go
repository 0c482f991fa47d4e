// Command idle is the karpenops agent as it ships, but for how it finds the API server: by environment instead of the files
// that only a pod has. The memory test runs it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/rest"

	"github.com/nopsctl/nopsctl/agents/internal/agent"
	"github.com/nopsctl/nopsctl/agents/karpenops"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := karpenops.Program().Main(ctx, agent.Process{Args: os.Args[1:], Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Version: "test", KubeConfig: func() (*rest.Config, error) {
		return &rest.Config{Host: os.Getenv("TEST_KUBE_HOST"), TLSClientConfig: rest.TLSClientConfig{
			CAFile: os.Getenv("TEST_KUBE_CA"), CertFile: os.Getenv("TEST_KUBE_CERT"), KeyFile: os.Getenv("TEST_KUBE_KEY"),
		}}, nil
	}})
	stop()
	os.Exit(code)
}
