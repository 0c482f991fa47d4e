package platform

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nopsctl/nopsctl/lab/platform/gate"
)

// Main is what the caller's binary does under Subcommand:
//
//	serve FILE   the platform with the options of a file, until a signal ends the context
//	api FILE     the process of the API; serve starts it
//
// Lines about what happens go to log.
func Main(ctx context.Context, args []string, log io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: expected serve FILE or api FILE", Subcommand)
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	switch args[0] {
	case "serve":
		o, err := readOptions(args[1])
		if err != nil {
			return err
		}
		return Run(ctx, o, logger)
	case "api":
		var c apiConfig
		if err := readJSON(args[1], &c); err != nil {
			return err
		}
		return serveAPI(ctx, c, logger)
	}
	return fmt.Errorf("%s %s: expected serve or api", Subcommand, args[0])
}

// Faults are the parts that can be taken down by themselves.
//
//	platform        the API's process is killed, app.nops.io resets connections, the plain port refuses them
//	metrics         the stores are stopped and aps-workspaces.… resets connections; also an HTTP status, with which the
//	                gate then answers writes that are otherwise in order: 429, 503, …
//	registry        public.ecr.aws resets connections; the nodes and the push port stay
//	registry-nodes  the nodes' registry refuses connections; public.ecr.aws and the push port stay
//	signer          AWS Signer's revocation API resets connections; also an HTTP status, with which it then answers, and
//	                slow: it then answers nothing for longer than anybody waits
const (
	FaultPlatform      = "platform"
	FaultMetrics       = "metrics"
	FaultRegistry      = "registry"
	FaultRegistryNodes = "registry-nodes"
	FaultSigner        = "signer"
)

// Faults are the names of all.
func Faults() []string {
	return []string{FaultPlatform, FaultMetrics, FaultRegistry, FaultRegistryNodes, FaultSigner}
}

// server is a running platform.
type server struct {
	options Options
	seed    Seed
	log     *slog.Logger
	gate    *gate.Gate
	stores  []*child
	urls    map[string]string // workspace → URL of its store
	api     *child
	front   *front
	ports   map[string]*port
	signer  *signer

	mu     sync.Mutex
	faults map[string]string
	// life is the context of Run: what a request of the control socket starts outlives the request.
	life context.Context
}

// Run runs the platform until the context ends, and leaves no process behind. Logs of its programs are in StateDir/logs.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{options: o, log: log, life: ctx, urls: map[string]string{}, ports: map[string]*port{}, faults: map[string]string{}}
	for _, name := range Faults() {
		s.faults[name] = "up"
	}
	defer s.close()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"seed", s.loadSeed},
		{"metrics stores", s.startStores},
		{"API", s.startAPI},
		{"listeners", s.listen},
		{"readiness", s.ready},
		{"control socket", s.control},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("platform: %s: %w", step.what, err)
		}
	}
	log.Info("ready", "tls", s.front.ln.Addr().String())
	if o.OnReady != nil {
		o.OnReady(s.info())
	}
	<-ctx.Done()
	return nil
}

func (s *server) close() {
	for _, p := range s.ports {
		p.down()
	}
	if s.front != nil {
		s.front.close()
	}
	var wg sync.WaitGroup
	for _, c := range append(slices.Clone(s.stores), s.api) {
		if c != nil {
			wg.Go(c.end)
		}
	}
	wg.Wait()
}

func (s *server) loadSeed(context.Context) error {
	if err := os.MkdirAll(s.options.path("logs"), 0o700); err != nil {
		return fmt.Errorf("make the directory of logs: %w", err)
	}
	var err error
	s.seed, err = LoadSeed(s.options.StateDir)
	return err
}

// startStores starts a metrics store for each customer and puts the gate before them.
func (s *server) startStores(ctx context.Context) error {
	s.gate = &gate.Gate{
		Region: s.options.Region, Account: account, Log: s.log, Limits: gate.Limits{Age: s.options.SampleAge, Rate: s.options.SampleRate},
		Transport: &http.Transport{MaxIdleConnsPerHost: 32},
	}
	for _, c := range s.seed.Customers {
		address, err := freePort(ctx)
		if err != nil {
			return err
		}
		s.urls[c.WorkspaceID] = "http://" + address
		data := s.options.path(filepath.Join("metrics", c.WorkspaceID))
		if err := os.MkdirAll(data, 0o700); err != nil {
			return fmt.Errorf("make the directory of a store: %w", err)
		}
		store := &child{
			name: "victoria-metrics of " + c.ID, path: filepath.Join(s.options.Bin, "victoria-metrics"), log: s.log, logFile: s.options.path("logs/metrics-" + c.ID + ".log"),
			args: []string{
				"-httpListenAddr=" + address, "-storageDataPath=" + data, "-retentionPeriod=31d",
				// The newest samples are visible at once: stories ask for what was written a second ago.
				"-search.latencyOffset=0s",
				// No cached answer hides samples that a queue delivers late.
				"-search.disableCache",
				"-memory.allowedBytes=256MiB", "-loggerTimezone=UTC",
			},
		}
		s.stores = append(s.stores, store)
		store.start(ctx)
		s.gate.Workspaces = append(s.gate.Workspaces, gate.Workspace{
			ID: c.WorkspaceID, Store: &url.URL{Scheme: "http", Host: address}, Key: gate.Key{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey},
		})
	}
	return nil
}

// freePort is a loopback address that nobody listens on now.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

func (s *server) socket() string { return s.options.path("api.sock") }

func (s *server) startAPI(ctx context.Context) error {
	interval := s.options.HeartbeatSeconds
	if interval == 0 {
		interval = shortestHeartbeat
	}
	file := s.options.path("api.json")
	err := writeJSON(file, apiConfig{
		Socket: s.socket(), Database: s.options.path("platform.db"), Region: s.options.Region, ChartVersion: s.options.ChartVersion,
		HeartbeatSeconds: interval, Customers: s.seed.Customers, Stores: s.urls,
	})
	if err != nil {
		return err
	}
	s.api = &child{name: "platform API", path: s.options.Executable, args: []string{Subcommand, "api", file}, logFile: s.options.path("logs/api.log"), log: s.log, kill: true}
	s.api.start(ctx)
	return nil
}

func (s *server) listen(ctx context.Context) error {
	o := s.options
	authority, err := Authority(o, time.Now())
	if err != nil {
		return err
	}
	images, err := openRegistry(filepath.Join(o.CacheDir, "registry"), time.Now(), s.log)
	if err != nil {
		return err
	}
	api := apiProxy(s.socket(), s.log)
	if s.signer, err = newSigner(o, s.seed.User); err != nil {
		return err
	}
	s.front = &front{sites: map[string]*site{}, log: s.log}
	for name, handler := range map[string]http.Handler{
		apiHost:               api,
		metricsHost(o.Region): s.gate,
		signerHost(o.Region):  s.signer,
		registryHost:          anonymous(registryHost, hex.EncodeToString(random(16)), pullOnly(images)),
	} {
		certificate, err := authority.Certificate(time.Now(), name)
		if err != nil {
			return err //nolint:wrapcheck // says for whom
		}
		s.front.sites[name] = newSite(name, certificate, handler, s.log)
	}
	if err := s.front.listen(ctx, o.Listen.TLS); err != nil {
		return err
	}
	for _, p := range []*port{
		{name: "api", address: o.Listen.API, handler: api},
		{name: "metrics", address: o.Listen.Metrics, handler: s.gate.Open(s.seed.Customers[0].WorkspaceID)},
		{name: "registry", address: o.Listen.Registry, handler: images},
		{name: FaultRegistryNodes, address: o.Listen.RegistryNodes, handler: pullOnly(images)},
		{name: "proxy", address: o.Listen.Proxy, handler: &connectProxy{known: s.known, dial: s.dialSite}},
	} {
		p.log = s.log
		s.ports[p.name] = p
		if err := p.up(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) known(host string) bool { return s.front.sites[host] != nil }

var errSiteDown = errors.New("connection refused")

func (s *server) dialSite(ctx context.Context, host string) (net.Conn, error) {
	if s.front.sites[host].isDown() {
		return nil, errSiteDown
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.front.ln.Addr().String()) //nolint:wrapcheck // the proxy says it its way
}

// ready waits until every program answers.
func (s *server) ready(ctx context.Context) error {
	if err := s.storesReady(ctx); err != nil {
		return err
	}
	return s.apiReady(ctx)
}

func (s *server) storesReady(ctx context.Context) error {
	for _, c := range s.seed.Customers {
		if err := answers(ctx, http.DefaultTransport, s.urls[c.WorkspaceID]+"/health", http.StatusOK); err != nil {
			return fmt.Errorf("metrics store of %s (see %s): %w", c.ID, s.options.path("logs"), err)
		}
	}
	return nil
}

func (s *server) apiReady(ctx context.Context) error {
	// Without a key the API answers 401: it is there, and knows its trade.
	transport := unixTransport(s.socket())
	defer transport.CloseIdleConnections()
	if err := answers(ctx, transport, "http://platform/svc/k8s_agent/v1/clusters", http.StatusUnauthorized); err != nil {
		return fmt.Errorf("API (see %s): %w", s.options.path("logs/api.log"), err)
	}
	return nil
}

// answers asks until the wanted status comes.
func answers(ctx context.Context, transport http.RoundTripper, address string, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return fmt.Errorf("ask %s: %w", address, err)
		}
		res, err := transport.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == want {
				return nil
			}
			err = fmt.Errorf("GET %s: %s", address, res.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer after 30 s: %w", err)
		case <-time.After(25 * time.Millisecond):
		}
	}
}
