package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// port serves HTTP on an address and can be taken down: then connections are refused, those that exist are reset, and the
// address stays reserved for its return.
type port struct {
	name    string
	handler http.Handler
	log     *slog.Logger

	mu      sync.Mutex
	address string
	server  *http.Server
	conns   conns
}

// up listens; when it listens already, nothing.
func (p *port) up(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", p.address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", p.name, err)
	}
	p.address = ln.Addr().String()
	p.server = newServer(p.handler, p.log)
	p.server.ConnState = p.conns.state
	server := p.server
	go func() {
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("ended", "listener", p.name, "error", err)
		}
	}()
	return nil
}

// down stops listening and resets what is connected.
func (p *port) down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return
	}
	p.conns.reset()
	_ = p.server.Close() // closes the listener; the connections are gone
	p.server = nil
}

// at is the address it listens on.
func (p *port) at() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// conns are open connections.
type conns struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// state keeps track as http.Server.ConnState.
func (c *conns) state(conn net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.add(conn)
	case http.StateClosed, http.StateHijacked:
		c.remove(conn)
	}
}

func (c *conns) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[net.Conn]struct{}{}
	}
	c.open[conn] = struct{}{}
}

func (c *conns) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// reset closes all, with a reset instead of an end, as a machine that is switched off and on again would answer.
func (c *conns) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		abort(conn)
	}
	c.open = nil
}

// abort resets one connection.
func abort(conn net.Conn) {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		abort(wrapped.NetConn())
		return
	}
	if replayed, ok := conn.(*replayConn); ok {
		abort(replayed.Conn)
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
