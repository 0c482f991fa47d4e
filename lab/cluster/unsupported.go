//go:build !linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Supported says why this machine cannot run a lab.
func Supported() error {
	return errors.New("the lab needs Linux: it is made of namespaces, mounts and cgroups; this is " + runtime.GOOS)
}

// Prepare cannot on this operating system.
func Prepare(context.Context, Layout) error { return Supported() }

// Start cannot on this operating system.
func Start(context.Context, Options) (*Cluster, error) { return nil, Supported() }

// RunInit cannot on this operating system.
func RunInit(context.Context, string) error { return Supported() }

// Find finds none on this operating system.
func Find(l Layout) (*Cluster, error) { return nil, fmt.Errorf("lab %s: %w", l.Name, ErrNotRunning) }

// Remove has nothing to remove on this operating system.
func Remove(context.Context, Layout) error { return nil }

// Lock has nothing to guard on this operating system.
func (l Layout) Lock(context.Context, func()) (release func(), err error) { return func() {}, nil }

// Exec cannot on this operating system.
func (c *Cluster) Exec(string, []string, []string) (*os.ProcessState, error) { return nil, Supported() }
