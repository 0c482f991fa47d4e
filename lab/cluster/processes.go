package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// ask is what is wanted of a running lab's init: one of these.
type ask struct {
	Start *Process `json:"start,omitempty"`
	Stop  string   `json:"stop,omitempty"`
}

// told is its answer: the caller's processes that are kept running.
type told struct {
	Running []string `json:"running"`
	Error   string   `json:"error,omitempty"`
}

// StartProcess has a ready lab run one more program, as it runs Kubernetes: inside, with a log of its own, started again when
// it ends. It is an error when it keeps one of that name running already.
func (c *Cluster) StartProcess(ctx context.Context, p Process) error {
	_, err := c.ask(ctx, ask{Start: &p})
	return err
}

// StopProcess ends a program that StartProcess started, and returns once it is gone. One that is not there is no error.
func (c *Cluster) StopProcess(ctx context.Context, name string) error {
	_, err := c.ask(ctx, ask{Stop: name})
	return err
}

// Processes are the names of the programs that StartProcess started, in the order in which it did.
func (c *Cluster) Processes(ctx context.Context) ([]string, error) { return c.ask(ctx, ask{}) }

func (c *Cluster) ask(ctx context.Context, a ask) ([]string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Layout.socket())
	if err != nil {
		return nil, fmt.Errorf("ask the init of lab %s: %w", c.Layout.Name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var answer told
	if err := json.NewEncoder(conn).Encode(a); err != nil {
		return nil, fmt.Errorf("ask the init of lab %s: %w", c.Layout.Name, errors.Join(ctx.Err(), err))
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return nil, fmt.Errorf("ask the init of lab %s: %w", c.Layout.Name, errors.Join(ctx.Err(), err))
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("lab %s: %s", c.Layout.Name, answer.Error)
	}
	return answer.Running, nil
}
