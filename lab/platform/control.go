package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	nops "github.com/nopsctl/nopsctl/internal/platform"
	"github.com/nopsctl/nopsctl/internal/signing"
	"github.com/nopsctl/nopsctl/lab/platform/gate"
	"github.com/nopsctl/nopsctl/pkg/nopsapi"
)

const shortestHeartbeat = nopsapi.MinHeartbeatInterval

// Info is what the platform says of itself. It holds the customers' API keys: keep it to the lab's own commands.
type Info struct {
	APIKey        string `json:"api_key"` // of the first customer, scopes install and read
	AdminKey      string `json:"admin_key"`
	Workspace     string `json:"workspace"`
	OtherAPIKey   string `json:"other_api_key"` // of the second customer
	OtherAdminKey string `json:"other_admin_key"`

	OtherWorkspace string `json:"other_workspace"`

	AWSAccessKeyID     string   `json:"aws_access_key_id"` // of whoever installs; AWS Signer's revocation API asks for it
	AWSSecretAccessKey string   `json:"aws_secret_access_key"`
	Revoked            []string `json:"revoked"` // ARNs of signing jobs and profile versions

	Region    string                   `json:"region"`
	Hosts     []string                 `json:"hosts"`     // served by name on Addresses.TLS and through the proxy
	Addresses Listen                   `json:"addresses"` // where it listens
	Faults    map[string]string        `json:"faults"`    // part → "up", "down" or an HTTP status
	Gate      map[string]gate.Count    `json:"gate"`      // by workspace; under "" what belongs to none
	Signer    signing.RevocationCounts `json:"signer"`    // what AWS Signer was asked
}

// Field returns one of the credentials or names by its JSON name, for scripts.
func (i Info) Field(name string) (string, error) {
	text, err := json.Marshal(i)
	if err != nil {
		return "", fmt.Errorf("platform info: %w", err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return "", fmt.Errorf("platform info: %w", err)
	}
	value, ok := all[name].(string)
	if !ok {
		return "", fmt.Errorf("platform info: no field %q that is a text", name)
	}
	return value, nil
}

func (s *server) info() Info {
	i := Info{
		Region: s.options.Region, Hosts: Hosts(s.options.Region), Gate: s.gate.Counts(), Signer: s.signer.Counts(),
		Addresses: Listen{
			TLS: s.front.ln.Addr().String(), API: s.ports["api"].at(), Metrics: s.ports["metrics"].at(), Registry: s.ports["registry"].at(),
			RegistryNodes: s.ports[FaultRegistryNodes].at(), Proxy: s.ports["proxy"].at(),
		},
	}
	first := s.seed.Customers[0]
	i.APIKey, i.AdminKey, i.Workspace = first.APIKey, first.AdminKey, first.WorkspaceID
	if len(s.seed.Customers) > 1 {
		other := s.seed.Customers[1]
		i.OtherAPIKey, i.OtherAdminKey, i.OtherWorkspace = other.APIKey, other.AdminKey, other.WorkspaceID
	}
	i.AWSAccessKeyID, i.AWSSecretAccessKey, i.Revoked = s.seed.User.AccessKeyID, s.seed.User.SecretAccessKey, s.signer.Revoked()
	s.mu.Lock()
	defer s.mu.Unlock()
	i.Faults = maps.Clone(s.faults)
	return i
}

// control serves the socket. It is the last to come up, so that who reaches it finds everything ready.
func (s *server) control(ctx context.Context) error {
	path := filepath.Join(s.options.StateDir, controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of the process before: %w", err)
	}
	ln, err := listenUnix(ctx, path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.info())
	})
	mux.HandleFunc("POST /faults/{what}/{state}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.setFault(r.PathValue("what"), r.PathValue("state")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /revocations/{way}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.signer.setRevoked(r.URL.Query().Get("arn"), r.PathValue("way") != "back"); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/scenario", s.scenario)
	mux.HandleFunc("/rightsizing/analyses", func(w http.ResponseWriter, r *http.Request) { s.hand(w, r, nops.AnalysesPath) })
	mux.HandleFunc("/rightsizing/fault", func(w http.ResponseWriter, r *http.Request) { s.hand(w, r, nops.RightsizingFaultPath) })
	mux.HandleFunc(nopsapi.Base+"/", func(w http.ResponseWriter, r *http.Request) { s.hand(w, r, r.URL.EscapedPath()) })
	web := newServer(mux, s.log)
	go func() {
		if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("ended", "listener", "control", "error", err)
		}
	}()
	go func() {
		<-ctx.Done()
		_ = web.Close()
	}()
	return nil
}

// setFault takes a part down or up, and returns once it is so. Setting what is set already changes nothing.
func (s *server) setFault(what, state string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults[what] == "" {
		return fmt.Errorf("fault %q: expected one of %s", what, strings.Join(Faults(), ", "))
	}
	status, err := strconv.Atoi(state)
	injected := (what == FaultMetrics || what == FaultSigner) && err == nil && status >= 400 && status <= 599
	slow := what == FaultSigner && state == "slow"
	if state != "up" && state != "down" && !injected && !slow {
		expected := map[string]string{FaultMetrics: "up, down or an HTTP status from 400 to 599", FaultSigner: "up, down, slow or an HTTP status from 400 to 599"}[what]
		if expected == "" {
			expected = "up or down"
		}
		return fmt.Errorf("fault %s %q: expected %s", what, state, expected)
	}
	err = nil
	switch what {
	case FaultPlatform:
		err = s.faultPlatform(state == "up")
	case FaultMetrics:
		s.gate.Inject(gate.Fault{})
		if injected {
			s.gate.Inject(gate.Fault{Status: status})
		}
		err = s.faultMetrics(state != "down")
	case FaultRegistry:
		s.front.sites[registryHost].set(state == "up")
	case FaultSigner:
		s.signer.fault(status, slow)
		s.front.sites[signerHost(s.options.Region)].set(state != "down")
	default:
		err = s.turn(s.ports[FaultRegistryNodes], state == "up")
	}
	if err != nil {
		return fmt.Errorf("fault %s %s: %w", what, state, err)
	}
	if s.faults[what] != state {
		s.log.Info("fault", "part", what, "state", state)
	}
	s.faults[what] = state
	return nil
}

func (s *server) turn(p *port, up bool) error {
	if up {
		return p.up(s.life)
	}
	p.down()
	return nil
}

func (s *server) faultPlatform(up bool) error {
	site := s.front.sites[apiHost]
	if !up {
		s.api.end()
		site.set(false)
		return s.turn(s.ports["api"], false)
	}
	s.api.start(s.life)
	if err := s.apiReady(s.life); err != nil {
		return err
	}
	site.set(true)
	return s.turn(s.ports["api"], true)
}

func (s *server) faultMetrics(up bool) error {
	site := s.front.sites[metricsHost(s.options.Region)]
	if !up {
		site.set(false)
		for _, c := range s.stores {
			c.end()
		}
		return nil
	}
	for _, c := range s.stores {
		c.start(s.life)
	}
	if err := s.storesReady(s.life); err != nil {
		return err
	}
	site.set(true)
	return nil
}

const controlSocket = "control.sock"

// Control speaks to the platform of a state directory, from any network namespace of the machine.
type Control struct {
	StateDir string
}

// WaitReady waits until the platform is ready, or the context ends.
func (c Control) WaitReady(ctx context.Context) (Info, error) {
	for {
		info, err := c.Info(ctx)
		if err == nil {
			return info, nil
		}
		select {
		case <-ctx.Done():
			return Info{}, fmt.Errorf("wait for the platform: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Info asks what runs where.
func (c Control) Info(ctx context.Context) (Info, error) {
	var info Info
	text, err := c.ask(ctx, http.MethodGet, "/info", nil)
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return info, fmt.Errorf("platform: %w", err)
	}
	return info, nil
}

// Fault takes a part of the platform down or up, and returns once it is so; see Faults.
func (c Control) Fault(ctx context.Context, what, state string) error {
	if strings.ContainsAny(what+state, "/?#%") {
		return fmt.Errorf("fault %s %s: no such fault", what, state)
	}
	_, err := c.ask(ctx, http.MethodPost, "/faults/"+what+"/"+state, nil)
	return err
}

// Revoke revokes a signing job or a profile version, or takes it back.
func (c Control) Revoke(ctx context.Context, arn string, revoked bool) error {
	way := "on"
	if !revoked {
		way = "back"
	}
	_, err := c.ask(ctx, http.MethodPost, "/revocations/"+way+"?"+url.Values{"arn": {arn}}.Encode(), nil)
	return err
}

func (c Control) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://platform"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	transport := unixTransport(filepath.Join(c.StateDir, controlSocket))
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, mostHanded))
	switch {
	case err != nil:
		return nil, fmt.Errorf("platform: %w", err)
	case res.StatusCode != http.StatusOK:
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return text, nil
}
