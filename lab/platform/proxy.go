package platform

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// connectProxy is an HTTP proxy for CONNECT to the lab's own names. It refuses all others, so that a client behind it
// reaches nothing outside the lab.
type connectProxy struct {
	// dial opens a connection for a name, or says that the site is down.
	dial  func(ctx context.Context, host string) (net.Conn, error)
	known func(host string) bool
}

// ServeHTTP implements http.Handler.
func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this proxy only does CONNECT to the lab's host names", http.StatusForbidden)
		return
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil || port != "443" || !p.known(host) {
		http.Error(w, "this lab has no "+r.Host+", and no way out", http.StatusForbidden)
		return
	}
	far, err := p.dial(r.Context(), host)
	if err != nil {
		http.Error(w, "no connection to "+host, http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be a tunnel", http.StatusInternalServerError)
		return
	}
	defer near.Close()
	_ = near.SetDeadline(time.Time{})
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	// What the client sent together with its request is in the buffer.
	tunnel(near, far, io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), near))
}

// tunnel copies both ways. A side that ends lets the other finish; a side that is reset resets the other.
func tunnel(near, far net.Conn, fromNear io.Reader) {
	var wg sync.WaitGroup
	for _, way := range []struct {
		to   net.Conn
		from io.Reader
	}{{far, fromNear}, {near, far}} {
		wg.Go(func() {
			if _, err := io.Copy(way.to, way.from); err != nil {
				abort(near)
				abort(far)
				return
			}
			if half, ok := way.to.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		})
	}
	wg.Wait()
}
