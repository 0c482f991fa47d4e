package platform

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// front listens on the TLS address of the lab and sends each connection to the site it names. Every site has its own
// certificate and can be taken down by itself: its connections are then reset as soon as they have said whom they want.
type front struct {
	sites map[string]*site // by host name
	log   *slog.Logger
	ln    net.Listener
}

// site is one host name.
type site struct {
	name   string
	config *tls.Config
	server *http.Server
	queue  *queue
	conns  conns

	mu   sync.Mutex
	dead bool
}

func newSite(name string, certificate tls.Certificate, handler http.Handler, log *slog.Logger) *site {
	s := &site{name: name, queue: &queue{conns: make(chan net.Conn), closed: make(chan struct{})}}
	s.config = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	s.server = newServer(s.only(handler), log)
	s.server.ConnState = s.conns.state
	return s
}

// only refuses requests for another host, since HTTP/2 clients may try a connection they have for a name they want, and
// cuts those that came in just before the site was taken down.
func (s *site) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.isDown() {
			panic(http.ErrAbortHandler) // the documented way to cut a connection
		}
		got := r.Host
		if name, _, err := net.SplitHostPort(got); err == nil {
			got = name
		}
		if got != s.name {
			http.Error(w, "this is "+s.name, http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// set takes the site down or up.
func (s *site) set(up bool) {
	s.mu.Lock()
	s.dead = !up
	s.mu.Unlock()
	if !up {
		s.conns.reset()
	}
}

func (s *site) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// listen opens the address and serves until close.
func (f *front) listen(ctx context.Context, address string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the lab's host names: %w", err)
	}
	f.ln = ln
	for _, s := range f.sites {
		go func() {
			if err := s.server.Serve(s.queue); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				f.log.Error("ended", "site", s.name, "error", err)
			}
		}()
	}
	go f.accept()
	return nil
}

func (f *front) accept() {
	for {
		conn, err := f.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			f.log.Warn("accept", "error", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors: a moment later there may be some
			continue
		}
		go f.route(conn)
	}
}

// route learns whom a connection wants and hands it over.
func (f *front) route(conn net.Conn) {
	const patience = 10 * time.Second
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	name, said := serverName(conn)
	_ = conn.SetReadDeadline(time.Time{})
	s := f.sites[name]
	if s == nil || s.isDown() {
		abort(conn)
		return
	}
	secure := tls.Server(&replayConn{Conn: conn, before: bytes.NewReader(said)}, s.config)
	select {
	case s.queue.conns <- secure:
	case <-s.queue.closed:
		abort(conn)
	}
}

func (f *front) close() {
	if f.ln != nil {
		_ = f.ln.Close()
	}
	for _, s := range f.sites {
		_ = s.queue.Close()
		_ = s.server.Close()
	}
}

var errEnough = errors.New("the name is known")

// serverName reads the ClientHello of a connection and returns the name in it, with the bytes read so far.
func serverName(conn net.Conn) (string, []byte) {
	var said bytes.Buffer
	name := ""
	listener := tls.Server(&deafConn{Conn: conn, from: io.TeeReader(conn, &said)}, &tls.Config{
		MinVersion: tls.VersionTLS12, // whatever it asks for: no handshake ends here
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errEnough
		},
	})
	_ = listener.Handshake() // ends with errEnough, or with what is no TLS: then the name is empty
	return name, said.Bytes()
}

// deafConn reads but says nothing: an alert would be an answer.
type deafConn struct {
	net.Conn
	from io.Reader
}

func (c *deafConn) Read(p []byte) (int, error) { return c.from.Read(p) } //nolint:wrapcheck // io.Reader
func (*deafConn) Write([]byte) (int, error)    { return 0, io.ErrClosedPipe }
func (*deafConn) Close() error                 { return nil }

// replayConn reads again what was read before.
type replayConn struct {
	net.Conn
	before *bytes.Reader
}

func (c *replayConn) Read(p []byte) (int, error) {
	if c.before.Len() > 0 {
		return c.before.Read(p) //nolint:wrapcheck // io.Reader
	}
	return c.Conn.Read(p) //nolint:wrapcheck // io.Reader
}

// queue is a net.Listener of connections that came another way.
type queue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*queue)(nil)

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr implements net.Listener.
func (*queue) Addr() net.Addr { return &net.TCPAddr{} }
