package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

// apiConfig is what the process of the API needs. It holds credentials, so it crosses the exec as a file that only its
// owner may read.
type apiConfig struct {
	Socket           string            `json:"socket"`
	Database         string            `json:"database"`
	Region           string            `json:"region"`
	ChartVersion     string            `json:"chart_version,omitempty"`
	HeartbeatSeconds int               `json:"heartbeat_seconds"`
	Customers        []Customer        `json:"customers"`
	Stores           map[string]string `json:"stores"` // workspace → URL of its store
}

// serveAPI is the process of the API: internal/platform with a database, on a Unix socket.
func serveAPI(ctx context.Context, c apiConfig, log *slog.Logger) error {
	store, err := nops.OpenSQLite(ctx, c.Database)
	if err != nil {
		return err //nolint:wrapcheck // says what it opens
	}
	defer store.Close()
	metrics := &stores{urls: c.Stores}
	server := &nops.Server{Store: store, Metrics: metrics, Usage: metrics, Log: log, FaultControl: true}
	if err := seed(ctx, server, c); err != nil {
		return err
	}
	if err := os.Remove(c.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of the process before: %w", err)
	}
	ln, err := listenUnix(ctx, c.Socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- server.Run(ctx, time.Second) }()
	web := newServer(server, log)
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	err = web.Serve(ln)
	cancel()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-watched)
}

// seed makes the customers. Their keys are added once: added again, a key that was revoked or rotated would live again.
func seed(ctx context.Context, server *nops.Server, c apiConfig) error {
	for _, customer := range c.Customers {
		err := server.AddCustomer(ctx, nops.Customer{
			ID: customer.ID, ChartVersion: c.ChartVersion, HeartbeatInterval: c.HeartbeatSeconds,
			AMP: nopsapi.AMPConfig{WorkspaceID: customer.WorkspaceID, Region: c.Region, AccessKeyID: customer.AccessKeyID, SecretAccessKey: customer.SecretAccessKey},
		})
		if err != nil {
			return fmt.Errorf("seed customer %s: %w", customer.ID, err)
		}
	}
	mark := c.Database + ".seeded"
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	for _, customer := range c.Customers {
		for _, key := range []struct {
			name, secret string
			scopes       []nopsapi.Scope
		}{
			{"lab install key", customer.APIKey, []nopsapi.Scope{nopsapi.ScopeInstall, nopsapi.ScopeRead}},
			{"lab admin key", customer.AdminKey, []nopsapi.Scope{nopsapi.ScopeAdmin, nopsapi.ScopeInstall, nopsapi.ScopeRead}},
		} {
			if err := server.AddKey(ctx, customer.ID, key.name, key.secret, key.scopes...); err != nil {
				return fmt.Errorf("seed the %s of customer %s: %w", key.name, customer.ID, err)
			}
		}
	}
	return writeFile(mark, nil)
}

// listenUnix listens on a socket that only its owner may use.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	const longest = 107 // bytes of sockaddr_un.sun_path on Linux, without the final zero
	if len(path) > longest {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, a socket's may have %d: choose a shorter state directory", path, len(path), longest)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ln, nil
}

// unixTransport reaches an HTTP server on a socket, whatever the URL's host.
func unixTransport(path string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path) //nolint:wrapcheck // the transport says what it did
		},
		MaxIdleConnsPerHost: 32,
	}
}

// apiProxy hands requests to the process of the API. When that is gone, the connection is cut: a dead server gives no 502.
func apiProxy(socket string, log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Transport: unixTransport(socket),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "platform"
			r.Out.Host = r.In.Host
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // the documented way to cut a connection
		},
	}
}
